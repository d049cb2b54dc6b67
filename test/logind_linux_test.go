package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokend/internal/logind/fakelogind"
)

// locked is what tests want to know of a lock.
type locked struct {
	State      string `json:"state"`
	LockReason string `json:"lock_reason"`
}

func (h *home) locked(t *testing.T) locked {
	t.Helper()
	var l locked
	if err := json.Unmarshal([]byte(h.must(t, "", "status", "-o", "json")), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// bySSH is a home whose identity an SSH key protects, which takes no time to open.
func bySSH(t *testing.T) *home {
	t.Helper()
	h := newHome(t)
	key := filepath.Join(h.dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.env = append(h.env, "TOKEND_SSH_KEY="+key)
	h.must(t, "", "init", "--ssh", key)
	return h
}

// When the machine sleeps all is forgotten before, and so it is when the screen is
// locked.
func TestLogindLocks(t *testing.T) {
	t.Parallel()
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	mine, other := l.AddSession("1", os.Geteuid(), false), l.AddSession("2", os.Geteuid()+1, false)
	h := bySSH(t)
	h.stop(t)
	d := h.tokend(t, "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	if !strings.HasPrefix(d.ready, "ready ") {
		t.Fatal(d.ready, d.stderr)
	}
	l.AwaitInhibitors(1)
	const byScreen, bySuspend = "the screen was locked", "the machine was about to sleep"
	for _, test := range []struct {
		name, reason string
		lock         func()
	}{
		{"loginctl lock-session", byScreen, mine.Lock},
		{"a desktop's own lock", byScreen, func() { mine.SetLockedHint(true) }},
		{"suspend", bySuspend, func() {
			other.Lock() // which locks nothing, or the reason would be another
			l.PrepareForSleep(true)
			// As soon as the machine may sleep.
			l.AwaitInhibitors(0)
			if got := h.locked(t); got.State != "locked" {
				t.Errorf("asleep and %s", got.State)
			}
			l.PrepareForSleep(false)
			l.AwaitInhibitors(1)
		}},
	} {
		h.must(t, "", "unlock")
		if got := h.locked(t); got.State != "unlocked" {
			t.Fatalf("%s: %+v", test.name, got)
		}
		test.lock()
		waitFor(t, "the lock by "+test.name, func() bool { return h.locked(t).State == "locked" })
		if got := h.locked(t); got.LockReason != test.reason {
			t.Errorf("%s: locked because %q", test.name, got.LockReason)
		}
		h.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", "p")
	}
	h.must(t, "", "unlock")
	h.must(t, "", "daemon", "stop")
	if code := d.wait(t); code != 0 {
		t.Errorf("it ended with %d: %s", code, d.stderr)
	}
	l.AwaitInhibitors(0)
}

// What is to lock is a setting, which counts for a bare identity, too.
func TestLockOn(t *testing.T) {
	t.Parallel()
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	mine := l.AddSession("1", os.Geteuid(), false)
	h := newHome(t)
	h.must(t, "", "init")
	h.stop(t)
	h.tokend(t, "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address, "TOKEND_LOCK_ON=suspend")
	l.AwaitInhibitors(1)
	mine.Lock() // which comes first
	l.PrepareForSleep(true)
	l.AwaitInhibitors(0)
	if got, want := h.locked(t), (locked{"locked", "the machine was about to sleep"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	l.PrepareForSleep(false)
	h.must(t, "", "unlock")
	h.stop(t)
	h.tokend(t, "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address, "TOKEND_LOCK_ON=screen")
	l.AwaitInhibitors(1)
	l.PrepareForSleep(true)
	l.AwaitInhibitors(0)
	if got := h.locked(t); got.State != "unlocked" {
		t.Errorf("%+v", got)
	}
	mine.Lock()
	waitFor(t, "the lock", func() bool { return h.locked(t) == locked{"locked", "the screen was locked"} })
}

// Without a system bus the daemon says so once, and works.
func TestNoLogind(t *testing.T) {
	t.Parallel()
	h := bySSH(t)
	h.stop(t)
	d := h.tokend(t, "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+h.dir+"/none")
	h.must(t, "", "unlock")
	waitFor(t, "a word of it", func() bool { return strings.Contains(d.stderr.String(), "no logind tells of suspend or screen locks") })
	h.must(t, "", "lock")
	h.must(t, "", "unlock")
	h.must(t, "", "daemon", "stop")
	d.wait(t)
	if n := strings.Count(d.stderr.String(), "logind"); n != 1 {
		t.Errorf("it spoke of logind %d times:\n%s", n, d.stderr)
	}
}
