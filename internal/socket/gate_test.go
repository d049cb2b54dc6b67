package socket

import (
	"os"
	"testing"
)

func TestOnlyThisUserIsAllowed(t *testing.T) {
	me := os.Geteuid()
	for uid, want := range map[int]bool{me: true, me + 1: false, 65534: me == 65534, 0: me == 0, -1: false} {
		if got := allowed(Peer{PID: 1, UID: uid}); got != want {
			t.Errorf("user %d allowed: %t, want %t", uid, got, want)
		}
	}
}

func TestCaps(t *testing.T) {
	l := &Listener{byPID: make(map[int]int)}
	for pid := range maxInAll / maxPerProcess {
		for range maxPerProcess {
			if !l.admit(pid) {
				t.Fatal("refused below the limits")
			}
		}
		if pid < maxInAll/maxPerProcess-1 && l.admit(pid) {
			t.Fatalf("process %d has more than %d", pid, maxPerProcess)
		}
	}
	if l.admit(100000) {
		t.Errorf("more than %d in all", maxInAll)
	}
	l.release(0)
	if !l.admit(100000) {
		t.Error("a place that is free is refused")
	}
	for pid := range maxInAll / maxPerProcess {
		for range l.byPID[pid] {
			l.release(pid)
		}
	}
	l.release(100000)
	if l.total != 0 || len(l.byPID) != 0 {
		t.Errorf("%d connections of %d processes are still counted", l.total, len(l.byPID))
	}
}
