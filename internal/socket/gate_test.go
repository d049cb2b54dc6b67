package socket

import (
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyThisUserIsAllowed(t *testing.T) {
	me := os.Geteuid()
	for uid, want := range map[int]bool{me: true, me + 1: false, 65534: me == 65534, 0: me == 0, -1: false} {
		if got := allowed(Peer{PID: 1, UID: uid}); got != want {
			t.Errorf("user %d allowed: %t, want %t", uid, got, want)
		}
	}
}

func newGate(most int) *Listener {
	return &Listener{most: most, byPID: make(map[int]*process)}
}

func (l *Listener) enter(pid int) *conn { return l.admit(new(net.UnixConn), Peer{PID: pid}) }

func TestCaps(t *testing.T) { synctest.Test(t, caps) }

func caps(t *testing.T) {
	l := newGate(maxInAll)
	var all []*conn
	for pid := range maxInAll / maxPerProcess {
		for range maxPerProcess {
			c := l.enter(pid)
			if c == nil {
				t.Fatal("refused below the limits")
			}
			all = append(all, c)
		}
		if l.enter(pid) != nil {
			t.Fatalf("process %d has more than %d", pid, maxPerProcess)
		}
	}
	if l.Open() != maxInAll {
		t.Fatalf("%d connections, want %d", l.Open(), maxInAll)
	}
	for _, c := range all {
		_ = c.Close()
		_ = c.Close() // twice counts once
	}
	time.Sleep(maxDebt) // what they owe is paid
	synctest.Wait()
	if l.Open() != 0 || len(l.byPID) != 0 {
		t.Errorf("%d connections of %d processes are still counted", l.Open(), len(l.byPID))
	}
}

// Who has the most makes room, with the oldest of it.
func TestRoomForANewcomer(t *testing.T) { synctest.Test(t, roomForANewcomer) }

func roomForANewcomer(t *testing.T) {
	l := newGate(4)
	modest, first, second, third := l.enter(1), l.enter(2), l.enter(2), l.enter(2)
	there := func(want ...*conn) {
		t.Helper()
		var got []*conn
		for e := l.all.Front(); e != nil; e = e.Next() {
			got = append(got, e.Value.(*conn))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d connections are there, not those that are to be", len(got))
		}
	}
	newcomer := l.enter(3)
	there(modest, second, third, newcomer)
	_ = first.Close() // it has lost its place already
	another := l.enter(4)
	there(modest, third, newcomer, another)
	if l.enter(2) != nil || l.enter(3) != nil {
		t.Error("it took from one that has no more than itself")
	}
	last := l.enter(5)
	there(third, newcomer, another, last)
	time.Sleep(maxDebt) // what they owe is paid
	synctest.Wait()
	if l.byPID[2].n != 1 || l.byPID[3].n != 1 || l.byPID[5].n != 1 || l.byPID[1] != nil {
		t.Errorf("miscounted: %v", l.byPID)
	}
}

// Processes that want more than there is come to rest, with the same each.
func TestRoomIsShared(t *testing.T) {
	const places, processes = 50, 4
	l := newGate(places)
	for range places {
		for pid := range processes {
			l.enter(pid)
		}
	}
	for pid := range processes {
		if n := l.byPID[pid].n; n != places/processes && n != places/processes+1 {
			t.Errorf("process %d has %d of %d places", pid, n, places)
		}
		if l.enter(pid) != nil {
			t.Errorf("process %d still takes from others", pid)
		}
	}
}

// What a process owes is not forgotten when it comes back.
func TestDebtOutlastsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newGate(4)
		c := l.enter(1)
		c.peer.BeginCall()
		for range maxDebt / wastedCost {
			c.peer.Wasted()
		}
		_ = c.Close()
		if l.enter(1) != nil {
			t.Error("it is let in again")
		}
		other := l.enter(2)
		if other == nil {
			t.Fatal("another process pays for it")
		}
		time.Sleep(maxDebt - maxCredit)
		c = l.enter(1)
		if c == nil {
			t.Fatal("it is not let in again")
		}
		time.Sleep(maxDebt)
		synctest.Wait()
		if l.byPID[1] != c.process {
			t.Error("a process that has a connection is forgotten")
		}
		_, _ = c.Close(), other.Close()
		time.Sleep(maxDebt)
		synctest.Wait()
		if len(l.byPID) != 0 {
			t.Errorf("%d processes are remembered", len(l.byPID))
		}
	})
}

// Calls and unread answers are counted by process, whatever the connection; what
// a connection has not read is forgotten with it.
func TestWhatAProcessMayHold(t *testing.T) {
	l := newGate(4)
	a, b, other := l.enter(1), l.enter(1), l.enter(2)
	for i := range maxCalls {
		if ![]*conn{a, b}[i%2].peer.BeginCall() {
			t.Fatal("a call was refused below the limit")
		}
	}
	if a.peer.BeginCall() || b.peer.BeginCall() {
		t.Error("too many calls")
	}
	if !other.peer.BeginCall() {
		t.Error("the limit is another process's, too")
	}
	b.peer.EndCall()
	if !a.peer.BeginCall() {
		t.Error("a call that ended still counts")
	}

	a.peer.Sent(maxUnread - 1)
	if !b.peer.Reads() {
		t.Error("refused below the limit")
	}
	b.peer.Sent(1)
	if a.peer.Reads() || b.peer.Reads() || !other.peer.Reads() {
		t.Error("the limit is not the process's")
	}
	_ = a.Close()
	a.peer.Sent(-(maxUnread - 1)) // what is thrown away counts once
	b.peer.Sent(maxUnread - 2)
	if !b.peer.Reads() {
		t.Error("what a closed connection has not read still counts")
	}
	b.peer.Sent(1)
	if b.peer.Reads() {
		t.Error("what a closed connection has not read counts twice")
	}
	if nobody := (Peer{}); !nobody.BeginCall() || !nobody.Reads() {
		t.Error("who came over no socket is refused")
	}
}

func TestRoomLeavesDescriptors(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if n := room(); n < 1 || n > maxInAll || uint64(n) > uint64(files.Cur)/2 {
		t.Errorf("%d connections where %d files may be open", n, files.Cur)
	}
}
