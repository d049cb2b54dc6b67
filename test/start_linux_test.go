package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokend/test/authserver"
)

// Whoever finds no daemon starts one: 200 at once, with next to nothing in
// their environment, twenty times over; half of the times on what a killed
// daemon left behind, half with two different XDG_RUNTIME_DIR.
func TestStart(t *testing.T) {
	const rounds, callers = 20, 200
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	h.env = []string{"HOME=" + h.dir}
	marker := filepath.Join(h.root, "marker")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var runtimes [2]string
	for i := range runtimes {
		runtimes[i] = filepath.Join(h.root, "run"+strconv.Itoa(i))
		if err := os.Mkdir(runtimes[i], 0o700); err != nil {
			t.Fatal(err)
		}
	}
	setUp := false
	for round := range rounds {
		killed, divided := round%2 == 1, round%4 >= 2
		shield(t, h, !divided)
		if !setUp {
			h.must(t, "", "init")
			h.must(t, profileOf(s, c), "add", "dev/network")
			h.must(t, "", "daemon", "stop")
			setUp = true
		}
		s.Forget()

		// They all read from one pipe, which ends for all at once.
		begin, hold, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var cmds []*exec.Cmd
		for i := range callers {
			env := []string{"HOME=" + h.dir}
			if divided {
				env = append(env, "XDG_RUNTIME_DIR="+runtimes[i%2])
			}
			argv := []string{"-c", `read _; exec 9<"$0"; exec env -i "$@"`, marker}
			argv = append(append(argv, env...), filepath.Join(h.bin, "tokenctl"), "get", "dev/network")
			cmd := exec.Command("/bin/sh", argv...)
			cmd.Stdin = begin
			cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
			cmd.WaitDelay = 20 * time.Second
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			cmds = append(cmds, cmd)
		}
		began := time.Now()
		begin.Close()
		hold.Close()

		tokens := make(map[string]int)
		failures := make(map[string]int)
		for _, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				failures[fmt.Sprintf("%v: %v", err, cmd.Stderr)]++
				continue
			}
			tokens[fmt.Sprint(cmd.Stdout)]++
		}
		t.Logf("round %d (killed before: %v, two XDG_RUNTIME_DIR: %v): %v", round, killed && round > 0, divided, time.Since(began).Round(time.Millisecond))
		if len(failures) > 0 || len(tokens) != 1 || s.Count("/token") != 1 {
			t.Fatalf("round %d: %d tokens with %d requests; failures: %v", round, len(tokens), s.Count("/token"), failures)
		}
		// Those who came too late to be the daemon may be about to leave.
		waitFor(t, "exactly one daemon", func() bool { return len(h.daemons(t)) == 1 })
		pid := h.daemons(t)[0]
		if got := h.status(t).PID; got != pid {
			t.Fatalf("round %d: process %d answers, %d runs", round, got, pid)
		}
		wantDetached(t, pid, marker, h.dir)

		if next := round + 1; next%2 == 1 {
			h.kill(t, pid, syscall.SIGKILL)
		} else {
			h.must(t, "", "daemon", "stop")
		}
	}
}

// shield keeps callers without XDG_RUNTIME_DIR away from a real /run/user/UID.
func shield(t *testing.T, h *home, on bool) {
	t.Helper()
	config := filepath.Join(h.dir, ".config", "tokend", "config")
	if !on {
		if err := os.Remove(config); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return
	}
	if _, err := os.Stat("/run/user/" + strconv.Itoa(os.Geteuid())); err != nil {
		return
	}
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	line := "TOKEND_SOCKET=" + filepath.Join(h.dir, ".local/state/tokend/run/tokend.sock") + "\n"
	if err := os.WriteFile(config, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantDetached checks that a daemon has nothing of who started it.
func wantDetached(t *testing.T, pid int, marker, dir string) {
	t.Helper()
	at := filepath.Join("/proc", strconv.Itoa(pid))
	out, err := asRoot("sh", "-c", "for f in "+at+"/fd/* "+at+"/cwd; do echo ${f##*/} $(readlink $f); done").Output()
	if err != nil {
		t.Fatal(err)
	}
	links := string(out)
	for line := range strings.Lines(links) {
		fd, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case fd == "cwd" && target != "/",
			fd == "0" && target != "/dev/null",
			target == marker,
			strings.HasPrefix(target, "pipe:"),
			strings.HasPrefix(target, "/dev/pts/"):
			t.Errorf("the daemon has %s as %s", target, fd)
		}
	}
	if !strings.Contains(links, "socket:") || !strings.Contains(links, "/tokend/lock") {
		t.Errorf("these are not a daemon's descriptors:\n%s", links)
	}
	for kv := range strings.SplitSeq(strings.TrimSuffix(proc(t, pid, "environ"), "\x00"), "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"HOME", "PATH", "XDG_RUNTIME_DIR"}, name) || name == "HOME" && value != dir {
			t.Errorf("the daemon has %s in its environment", kv)
		}
	}
	// Field 6 of stat(5), the session, comes fourth after the name.
	stat := proc(t, pid, "stat")
	if f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]); f[3] != strconv.Itoa(pid) {
		t.Errorf("the daemon is in session %s, not in one of its own", f[3])
	}
}

// The daemon that a script starts must not keep the script's lock.
func TestStartUnderLock(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "dev/network", c)
	h.must(t, "", "daemon", "stop")
	lock := filepath.Join(h.root, "lock")

	if r := finish(t, h.command("sh", "-c", `exec 9>"$0"; flock -n 9 || exit 100; exec tokenctl get dev/network`, lock)); r.code != 0 {
		t.Fatal(r)
	}
	if len(h.daemons(t)) != 1 {
		t.Fatal("no daemon was started")
	}
	if r := finish(t, h.command("flock", "-n", lock, "true")); r.code != 0 {
		t.Errorf("the daemon keeps the lock: %v", r)
	}
}
