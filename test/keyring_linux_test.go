package test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tokend/test/authserver"
	"tokend/test/keyring"
)

// keyringHome is a home whose profiles are in the keyring of a session of its
// own, with a client's profile as dev/network and a token of it in the cache.
func keyringHome(t *testing.T) (*home, *keyring.Session, *authserver.Server) {
	t.Helper()
	c := authserver.Client{ID: "c", Secret: "canary-of-the-keyring"}
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	session := keyring.Start(t)
	h := newHome(t)
	h.setenv("DBUS_SESSION_BUS_ADDRESS", session.Address)
	h.setenv("TOKEND_STORE", "keyring")
	h.must(t, "", "init")
	h.must(t, profileOf(server, c), "add", "dev/network")
	h.get(t, "dev/network")
	return h, session, server
}

// workers returns the processes that the home's daemon has started to do
// something for it.
func (h *home) workers(t *testing.T) []int {
	t.Helper()
	return slices.DeleteFunc(processes(t, func(argv []string) bool { return slices.Equal(argv, []string{"tokend", "--worker"}) }), func(pid int) bool {
		exe, err := asRoot("readlink", filepath.Join("/proc", strconv.Itoa(pid), "exe")).Output()
		return err != nil || strings.TrimSpace(string(exe)) != filepath.Join(h.bin, "tokend")
	})
}

func (h *home) wantNoWorkers(t *testing.T) {
	t.Helper()
	if left := h.workers(t); len(left) > 0 {
		t.Errorf("workers left: %v", left)
	}
}

// itemsOf returns how many items of the keyring are a profile's.
func itemsOf(t *testing.T, s *keyring.Session, profile string) (n int) {
	t.Helper()
	for _, item := range s.Items(t) {
		if strings.Contains(item.Account, "/"+profile+"/") {
			n++
		}
	}
	return n
}

// All commands on profiles work on a keyring as they do on files, and leave
// nothing behind in it.
func TestKeyringStore(t *testing.T) {
	t.Parallel()
	h, session, server := keyringHome(t)
	if n := itemsOf(t, session, "dev/network"); n != 1 {
		t.Errorf("%d items of dev/network, want 1", n)
	}
	if files, err := filepath.Glob(filepath.Join(filepath.Dir(h.status(t).IdentityFile), "profiles", "*")); err != nil || len(files) > 0 {
		t.Errorf("files of profiles: %q, %v", files, err)
	}
	h.must(t, profileOf(server, authserver.Client{ID: "c", Secret: "canary-of-the-keyring"}), "add", "second")
	if got := h.must(t, "", "list"); got != "dev/network\nsecond\n" {
		t.Errorf("list: %q", got)
	}
	if got := h.must(t, "", "show", "--reveal", "dev/network"); !strings.Contains(got, "canary-of-the-keyring") {
		t.Errorf("show: %q", got)
	}
	h.must(t, "", "mv", "dev/network", "prod/network")
	if n, m := itemsOf(t, session, "dev/network"), itemsOf(t, session, "prod/network"); n != 0 || m != 1 {
		t.Errorf("after mv, %d items of the old name and %d of the new one", n, m)
	}
	h.get(t, "prod/network")
	h.wantFailure(t, 6, "no such profile", "get", "dev/network")

	h.must(t, "", "daemon", "restart")
	h.get(t, "prod/network")
	session.StopKeyring(t)
	session.StartKeyring(t)
	h.get(t, "--force", "second")

	h.must(t, "", "rm", "--yes", "prod/network", "second")
	if got := h.must(t, "", "list"); got != "" {
		t.Errorf("list: %q", got)
	}
	if items := session.Items(t); len(items) != 1 || !strings.HasPrefix(items[0].Account, "index/") {
		t.Errorf("items left: %v", items)
	}
	h.wantNoWorkers(t)
}

// wantKeyringError wants what needs the keyring to fail with says within 3 s, and
// all else to work meanwhile as if nothing were.
func (h *home) wantKeyringError(t *testing.T, says string) {
	t.Helper()
	began := time.Now()
	failed := make(chan result, 1)
	cmd := h.command(filepath.Join(h.bin, "tokenctl"), "show", "dev/network")
	go func() { failed <- finish(t, cmd) }()
	for range 5 {
		start := time.Now()
		h.get(t, "dev/network")
		if took := time.Since(start); took > time.Second {
			t.Errorf("a get of a token that is there took %v", took)
		}
	}
	if got := h.must(t, "", "list"); got != "dev/network\n" {
		t.Errorf("list: %q", got)
	}
	r := <-failed
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to fail", took)
	}
	if r.code != 75 || r.out != "" || !strings.Contains(r.err, says) || strings.Contains(r.err, "canary") {
		t.Errorf("%v, want status 75 and %q", r, says)
	}
	h.wantNoWorkers(t)
}

// wantAllKeyringErrors wants commands that are run at once to fail within 3 s each.
func (h *home) wantAllKeyringErrors(t *testing.T, stdin string, commands ...string) {
	t.Helper()
	began := time.Now()
	var running sync.WaitGroup
	for _, line := range commands {
		cmd := h.command(append([]string{filepath.Join(h.bin, "tokenctl")}, strings.Fields(line)...)...)
		cmd.Stdin = strings.NewReader(stdin)
		running.Go(func() {
			r := finish(t, cmd)
			if took := time.Since(began); r.code != 75 || took > 3*time.Second {
				t.Errorf("%s, after %v: %v, want status 75", line, took, r)
			}
		})
	}
	running.Wait()
	h.wantNoWorkers(t)
}

// A keyring that is locked, whose prompt is dismissed, that hangs, or that is
// not there is an error in time. Nothing else is slowed, and once it is back all
// is well.
func TestKeyringFails(t *testing.T) {
	h, session, server := keyringHome(t)
	const locked = "the keyring is locked, and its prompt was dismissed or could not be shown"
	session.Lock(t)
	h.wantKeyringError(t, locked)
	shown := session.Prompt(t, keyring.Dismiss)
	h.wantKeyringError(t, locked)
	if len(shown) == 0 {
		t.Error("no prompt was shown that could have been dismissed")
	}
	session.StopKeyring(t)
	h.wantKeyringError(t, "there is no keyring on the session bus")
	session.StartKeyring(t)
	h.must(t, "", "show", "dev/network")
	session.Freeze(t)
	h.wantKeyringError(t, "no answer within 2s")
	h.wantAllKeyringErrors(t, profileOf(server, authserver.Client{ID: "c", Secret: "s3cret"}),
		"show dev/network", "rm --yes dev/network", "revoke dev/network", "mv dev/network other", "add other", "add another",
		"export --to "+filepath.Join(h.dir, "exported"))
	session.Thaw(t)
	h.must(t, "", "show", "dev/network")
	h.get(t, "--force", "dev/network")
}

// Without a bus nothing is run to make one. A build without the check runs what
// PATH has as dbus-launch.
func TestKeyringWithoutABus(t *testing.T) {
	t.Parallel()
	h, _, _ := keyringHome(t)
	ran := filepath.Join(h.root, "ran")
	planted := filepath.Join(h.dir, "dbus-launch")
	if err := os.WriteFile(planted, []byte("#!/bin/sh\ntouch '"+ran+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Not a daemon that tokenctl has started, whose PATH has nothing of the user's.
	h.setenv("PATH", h.dir+":"+h.bin+":"+os.Getenv("PATH"))
	without := func(address string) result {
		t.Helper()
		h.must(t, "", "daemon", "stop")
		d := h.tokend(t, "DBUS_SESSION_BUS_ADDRESS="+address)
		if !strings.HasPrefix(d.ready, "ready ") {
			t.Fatalf("tokend: %q, %s", d.ready, d.stderr)
		}
		if got := h.must(t, "", "list"); got != "dev/network\n" {
			t.Errorf("list: %q", got)
		}
		r := h.tokenctl(t, "", "show", "dev/network")
		h.must(t, "", "daemon", "stop")
		d.wait(t)
		return r
	}
	for _, address := range []string{"", "autolaunch:", "unixexec:path=" + planted} {
		if r := without(address); r.code != 75 || r.out != "" || !strings.Contains(r.err, "session bus") {
			t.Errorf("with the address %q: %v, want status 75 and what is wrong with it", address, r)
		}
		if _, err := os.Stat(ran); !os.IsNotExist(err) {
			t.Errorf("with the address %q, dbus-launch was run", address)
		}
	}

	h.relink(t, mutant(t, "any-bus", edit{"store/secretservice.go",
		"	if err := checkKeyring(); err != nil {\n		return nil, err\n	}\n	secret, err := keyring.Get", "	secret, err := keyring.Get"}))
	r := without("autolaunch:")
	if _, err := os.Stat(ran); r.code != 75 || err != nil {
		t.Errorf("without the check, the dbus-launch that was planted was not run: %v; %v", r, err)
	}
}

// The identity itself can be in the keyring. A daemon that starts opens it by
// itself, and where the keyring does not answer it is locked and says why; a
// person who unlocks has more patience. What protects it elsewhere leaves nothing in
// the keyring.
func TestIdentityInTheKeyring(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "canary-of-the-keyring"}
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	session := keyring.Start(t)
	h := newHome(t)
	h.setenv("DBUS_SESSION_BUS_ADDRESS", session.Address)
	wantIdentity := func(items int, file string) {
		t.Helper()
		if got := session.Items(t); len(got) != items {
			t.Errorf("%d items are in the keyring, want %d: %v", len(got), items, got)
		}
		dir := filepath.Dir(h.status(t).ProfilesDir)
		if got, err := filepath.Glob(filepath.Join(dir, "identity*")); err != nil || !slices.Equal(got, []string{filepath.Join(dir, file)}) {
			t.Errorf("files: %q, %v; want %s", got, err, file)
		}
		h.wantNoWorkers(t)
	}
	h.must(t, "", "init", "--keyring")
	wantIdentity(1, "identity.keyring")
	if item := session.Items(t)[0]; !strings.Contains(string(item.Secret), "AGE-SECRET-KEY-1") {
		t.Errorf("the item %s does not hold the identity", item.Account)
	}
	text, err := os.ReadFile(h.status(t).IdentityFile)
	if err != nil || strings.Contains(string(text), "SECRET") {
		t.Errorf("identity.keyring: %q, %v", text, err)
	}
	h.must(t, profileOf(server, c), "add", "dev/network")

	began := time.Now()
	h.must(t, "", "daemon", "restart")
	h.get(t, "dev/network")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("after a restart the first token came after %v", took)
	}

	session.Freeze(t)
	h.must(t, "", "daemon", "restart")
	if got := h.locked(t); got.State != "locked" || !strings.HasPrefix(got.LockReason, "the keyring did not give the identity: ") || !strings.Contains(got.LockReason, "no answer within 3s") {
		t.Errorf("while the keyring hangs: %+v", got)
	}
	began = time.Now()
	h.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", "dev/network")
	if took := time.Since(began); took > time.Second {
		t.Errorf("a get took %v to say so", took)
	}
	h.wantNoWorkers(t)

	unlocked := make(chan result, 1)
	cmd := h.command(filepath.Join(h.bin, "tokenctl"), "unlock")
	go func() { unlocked <- finish(t, cmd) }()
	select {
	case r := <-unlocked:
		t.Fatalf("a person is given no time to unlock the keyring: %v", r)
	case <-time.After(3500 * time.Millisecond): // what a daemon that starts has, and more
	}
	h.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", "dev/network")
	session.Thaw(t)
	if r := <-unlocked; r.code != 0 {
		t.Errorf("unlock: %v", r)
	}
	h.get(t, "dev/network")

	h.must(t, "", "protect", "--none")
	wantIdentity(0, "identity.txt")
	h.must(t, "", "daemon", "restart")
	h.get(t, "dev/network")
	h.must(t, "", "protect", "--keyring")
	wantIdentity(1, "identity.keyring")
	session.Lock(t)
	h.must(t, "", "daemon", "restart")
	if got := h.locked(t); got.State != "locked" || !strings.Contains(got.LockReason, "the keyring is locked") {
		t.Errorf("while the keyring is locked: %+v", got)
	}
}
