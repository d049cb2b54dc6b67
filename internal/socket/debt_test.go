package socket

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A process gets on as fast as what it owes allows, and one whose calls are served as
// fast as it likes.
func TestDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d debt
		for range maxCredit/wastedCost + 1 {
			if wait := d.tryOwe(wastedCost); wait != 0 {
				t.Fatalf("it waits %v, with credit", wait)
			}
		}
		if wait := d.tryOwe(readCost); wait != wastedCost {
			t.Errorf("it waits %v, not %v", wait, wastedCost)
		}
		time.Sleep(wastedCost)
		if wait := d.tryOwe(readCost); wait != 0 {
			t.Errorf("it waits another %v", wait)
		}
		d.owe(time.Hour)
		if wait, most := d.tryOwe(0), maxDebt-maxCredit; wait != most {
			t.Errorf("it waits %v, not %v at most", wait, most)
		}
		if left := d.left(); left != maxDebt {
			t.Errorf("%v are left, not %v", left, maxDebt)
		}
		for d.left() > maxCredit {
			d.owe(-servedWorth)
		}
		if wait := d.tryOwe(0); wait != 0 {
			t.Errorf("it waits %v, though it is served", wait)
		}

		// What is served now is no licence for later.
		d.owe(-time.Hour)
		time.Sleep(time.Minute)
		if d.owe(maxDebt); d.tryOwe(0) != maxDebt-maxCredit {
			t.Errorf("it owes %v, not %v", d.left(), maxDebt)
		}
	})
}

// A call on a connection of its own costs less than it is worth.
func TestServedPaysForItsConnection(t *testing.T) {
	const reads = 4 // the preface, its settings, the call, what acknowledges the daemon's settings
	if cost := connectionCost + reads*readCost; cost >= servedWorth {
		t.Errorf("it costs %v and is worth %v", cost, servedWorth)
	}
	if cost := maxPerProcess * (connectionCost + reads*readCost); cost > maxCredit {
		t.Errorf("all connections of a process at once cost %v", cost)
	}
}

// pair is a connection of this process, from both ends.
func pair(t *testing.T, l *Listener) (*conn, *net.UnixConn) {
	t.Helper()
	near, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: l.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return far.(*conn), near
}

// What a process has sent is not read while it owes too much, nor is it let in again.
func TestWhoOwesWaits(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "run", "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	waits, near := pair(t, l)
	ended, _ := pair(t, l)
	left, nearLeft := pair(t, l)
	half, nearHalf := pair(t, l)
	for _, c := range []*conn{ended, left, half, waits} {
		c.process.debt.owe(-maxDebt)
	}
	read := func(c *conn, b *[8]byte) <-chan error {
		got := make(chan error, 1)
		go func() {
			_, err := c.Read(b[:])
			got <- err
		}()
		return got
	}
	var b, bEnded, bLeft, bHalf [8]byte
	waits.process.debt.owe(maxCredit + 300*time.Millisecond)
	begin := time.Now()

	if _, err := near.Write([]byte("waits")); err != nil {
		t.Fatal(err)
	}
	gotWaits := read(waits, &b)
	if _, err := nearHalf.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := nearHalf.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	gotHalf := read(half, &bHalf)
	if _, err := nearLeft.Write([]byte("left")); err != nil {
		t.Fatal(err)
	}
	nearLeft.Close()
	gotLeft := read(left, &bLeft)
	gotEnded := read(ended, &bEnded)
	if err := ended.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-gotEnded; !errors.Is(err, net.ErrClosed) {
		t.Errorf("where the daemon has closed it: %v", err)
	}

	refused, err := net.Dial("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if _, err := io.Copy(io.Discard, refused); err != nil {
		t.Errorf("a connection of who owes too much: %v", err)
	}
	if err := <-gotLeft; err != io.EOF {
		t.Errorf("where the process is gone: %v", err)
	}
	for _, got := range []<-chan error{gotWaits, gotHalf} {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("it was read after %v", took)
	}
	if string(b[:5]) != "waits" || string(bHalf[:4]) != "half" {
		t.Errorf("read %q and %q", b, bHalf)
	}
	waits.peer.Served() // which pays for what was read
	again, err := net.Dial("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if c := <-accepted; c == nil {
		t.Error("who owes less again is not let in")
	} else {
		c.Close()
	}
}

// grpc mostly reads 4 KiB at a time, which are not to cost more than they are.
func TestCostOf(t *testing.T) {
	for n, times := range map[int]time.Duration{1: 1, 4<<10 - 1: 1, 4 << 10: 1, 4<<10 + 1: 2, 32 << 10: 8} {
		if got := costOf(n); got != times*readCost {
			t.Errorf("%d bytes: %v, want %v", n, got, times*readCost)
		}
	}
}
