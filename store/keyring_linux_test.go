package store

import (
	"bufio"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zalando/go-keyring"

	session "tokend/test/keyring"
)

// use makes s the session of this process.
func use(t *testing.T, s *session.Session) {
	t.Helper()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", s.Address)
	t.Setenv("XDG_RUNTIME_DIR", s.Runtime)
}

func TestKeyringOfGnome(t *testing.T) {
	s := session.Start(t)
	use(t, s)
	k := openKeyring(t, t.TempDir(), SecretService{}, freshIdentity(t))
	k.changeTime = time.Minute // nobody waits here, and the disk may have much else to do
	testStore(t, k)
	if items := s.Items(t); len(items) != 1 || !strings.HasPrefix(items[0].Account, "index/") {
		t.Errorf("items left: %v", items)
	}
}

// A change by another program of the session is found.
func TestKeyringOfGnomeAndOthers(t *testing.T) {
	s := session.Start(t)
	use(t, s)
	k := openKeyring(t, t.TempDir(), SecretService{}, freshIdentity(t))
	mustPut(t, k, "dev/network", "y", "")
	for _, item := range s.Items(t) {
		if strings.Contains(item.Account, "/dev/network/") {
			s.Change(t, item, "z")
		}
	}
	if _, _, err := k.Get(t.Context(), "dev/network"); err == nil || !strings.Contains(err.Error(), "changed its item") {
		t.Errorf("Get of a changed item: %v", err)
	}
	for _, item := range s.Items(t) {
		if strings.Contains(item.Account, "/dev/network/") {
			s.Remove(t, item)
		}
	}
	if _, _, err := k.Get(t.Context(), "dev/network"); err == nil || !strings.Contains(err.Error(), "deleted its item") {
		t.Errorf("Get of a deleted item: %v", err)
	}
}

// wantAll makes every call, each of which is to fail with what says.
func wantAll(t *testing.T, says string) {
	t.Helper()
	ctx := t.Context()
	_, getErr := SecretService{}.Get(ctx, "a")
	for i, err := range []error{getErr, SecretService{}.Set(ctx, "a", []byte("new")), SecretService{}.Delete(ctx, "a")} {
		if err == nil || errors.Is(err, ErrNotExist) || !strings.Contains(err.Error(), says) {
			t.Errorf("call %d: error = %v, want one that says %q", i, err, says)
		}
	}
}

// Another user has taken the name of a bus that has ended. He is told nothing.
func TestBusOfAnotherUser(t *testing.T) {
	// He goes when standard input ends: who is not root could not kill him.
	const bus = `socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, pack("S a*", AF_UNIX, "\0$ARGV[0]")) or die; listen(S, 9);
		$| = 1; print "listening\n";
		for (;;) {
			$r = ""; vec($r, fileno(S), 1) = vec($r, fileno(STDIN), 1) = 1; select($r, undef, undef, undef);
			if (vec($r, fileno(S), 1)) { accept(C, S); print $b if sysread(C, $b, 4096); close(C) } else { last }
		}`
	name := "tokend-test-" + rand.Text()
	argv := []string{"setpriv", "--reuid=12349", "--regid=12349", "--clear-groups", "perl", "-MSocket", "-e", bus, name}
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	his := exec.Command(argv[0], argv[1:]...)
	his.Dir = "/"
	in, err := his.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := his.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := his.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = his.Wait() }()
	defer in.Close()
	heard := bufio.NewReader(out)
	if line, err := heard.ReadString('\n'); line != "listening\n" {
		t.Fatal(line, err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent;unix:abstract="+name)
	wantAll(t, "is of user 12349, not yours")
	_ = in.Close()
	if told, _ := io.ReadAll(heard); len(told) > 0 {
		t.Errorf("he was told %q", told)
	}
}

// go-keyring is left no address at which somebody could listen that did not when it
// was looked at.
func TestBusIsTheOneThatAnswers(t *testing.T) {
	l, err := net.Listen("unix", "@tokend-test-"+rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mine := "unix:abstract=" + l.Addr().String()[1:]
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent;"+mine+";unix:path=/nowhere")
	if err := checkKeyring(); err != nil {
		t.Error(err)
	}
	if got := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); got != mine {
		t.Errorf("it goes to %q, want %q", got, mine)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
	wantAll(t, "reaching the keyring: dial unix /nonexistent: connect: no such file or directory")
}

func TestSecretService(t *testing.T) {
	ctx := t.Context()
	s := session.Start(t)
	use(t, s)
	items := SecretService{}
	if _, err := items.Get(ctx, "a"); !errors.Is(err, ErrNotExist) {
		t.Errorf("Get of nothing: %v, want ErrNotExist", err)
	}
	if err := items.Delete(ctx, "a"); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	if err := items.Set(ctx, "a", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if got, err := items.Get(ctx, "a"); string(got) != "secret" || err != nil {
		t.Errorf("Get = %q, %v", got, err)
	}

	s.Lock(t)
	wantAll(t, "the keyring is locked, and its prompt was dismissed or could not be shown")
	shown := s.Prompt(t, session.Dismiss)
	wantAll(t, "the keyring is locked, and its prompt was dismissed or could not be shown")
	if len(shown) != 3 {
		t.Errorf("%d prompts were dismissed, want 3", len(shown))
	}

	s.StopKeyring(t)
	wantAll(t, "there is no keyring on the session bus")
	s.StartKeyring(t)
	if got, err := items.Get(ctx, "a"); string(got) != "secret" || err != nil {
		t.Errorf("Get = %q, %v: the keyring did not keep it", got, err)
	}
	if err := items.Delete(ctx, "a"); err != nil {
		t.Error(err)
	}
	if left := s.Items(t); left != nil {
		t.Errorf("items left: %v", left)
	}
}

// A keyring that nobody has ever logged in to.
func TestSecretServiceWithoutCollection(t *testing.T) {
	s := session.StartBus(t)
	use(t, s)
	s.StartEmptyKeyring(t)
	wantAll(t, "the keyring has no login collection, and its default one is missing or locked")
}

// Without a bus, or with an address that is none, nothing is run: not even
// dbus-launch, which is the first thing that go-keyring tries.
func TestSecretServiceRunsNothing(t *testing.T) {
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	planted := filepath.Join(dir, "dbus-launch")
	if err := os.WriteFile(planted, []byte("#!/bin/sh\ntouch '"+ran+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	listener, err := net.Listen("unix", filepath.Join(dir, "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	runtime := filepath.Join(dir, "run")
	if err := os.Mkdir(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bus"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ address, runtime, says string }{
		{"", "", "DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set"},
		{"", "relative", "are not set"},
		{"", runtime, "no such file"},
		{"", dir, "is not a socket of yours"},
		{"autolaunch:", "", "are taken"},
		{"autolaunch:scope=*user", dir, "are taken"},
		{"unixexec:path=" + planted, "", "are taken"},
		{"unix:path=" + filepath.Join(dir, "none") + ";unixexec:path=" + planted, "", "are taken"},
		{"tcp:host=127.0.0.1,port=1", "", "are taken"},
		{"nonce-tcp:host=127.0.0.1,port=1,noncefile=" + planted, "", "are taken"},
		{"launchd:env=X", "", "are taken"},
		{"unix:tmpdir=/tmp", "", "are taken"},
		{"unix:path=", "", "are taken"},
		{"unix:path=relative", "", "are taken"},
		{";", "", "are taken"},
		{"unix:path=" + filepath.Join(dir, "none"), "", "no such file"},
	} {
		t.Setenv("DBUS_SESSION_BUS_ADDRESS", test.address)
		t.Setenv("XDG_RUNTIME_DIR", test.runtime)
		wantAll(t, test.says)
		if _, err := os.Stat(ran); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("with the address %q, dbus-launch was run", test.address)
		}
	}

	// It would be: without the check, go-keyring runs it.
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "autolaunch:")
	if _, err := keyring.Get(keyringService, "a"); err == nil {
		t.Error("there is a keyring without a bus")
	}
	if _, err := os.Stat(ran); err != nil {
		t.Errorf("go-keyring did not run the dbus-launch that was planted: %v", err)
	}
}

// A bus that no variable names is where the system says that it is.
func TestSecretServiceFindsBus(t *testing.T) {
	s := session.Start(t)
	use(t, s)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	if err := (SecretService{}).Set(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if items := s.Items(t); len(items) != 1 || string(items[0].Secret) != "x" {
		t.Errorf("items: %v", items)
	}
}
