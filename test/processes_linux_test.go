package test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// daemons returns the processes that run the home's tokend.
func (h *home) daemons(t *testing.T) []int {
	t.Helper()
	return processes(t, func(argv []string) bool { return argv[0] == filepath.Join(h.bin, "tokend") })
}

// processes returns those whose command line, which anybody may read, matches.
func processes(t *testing.T, match func(argv []string) bool) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || len(b) == 0 {
			continue // it has ended
		}
		if match(strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// wantNoDaemon ends what is left, so that a failing test leaves nothing.
func (h *home) wantNoDaemon(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		left := h.daemons(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("still running: %v", left)
			for _, pid := range left {
				asRoot("kill", "-9", strconv.Itoa(pid)).Run()
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill sends a signal to the home's daemon and waits for its end.
func (h *home) kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if out, err := asRoot("kill", "-"+strconv.Itoa(int(sig)), strconv.Itoa(pid)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	waitFor(t, "the end of the daemon", func() bool { return len(h.daemons(t)) == 0 })
}

// proc returns a file of /proc/PID, as root sees it.
func proc(t *testing.T, pid int, name string) string {
	t.Helper()
	out, err := asRoot("cat", filepath.Join("/proc", strconv.Itoa(pid), name)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
