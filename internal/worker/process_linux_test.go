package worker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"tokend/store"
	session "tokend/test/keyring"
)

// misbehaviour is the variable that makes this program, started as a worker,
// another one. A worker is given the variables of XDG.
const misbehaviour = "XDG_TOKEND_TEST"

// workers are what this binary is in place of a worker.
var workers = map[string]func(){
	"hang":       forever,
	"die":        func() { os.Exit(3) },
	"kill":       func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) },
	"silent":     func() { os.Stdout.Close(); forever() },
	"nonsense":   func() { fmt.Println("level=info msg=hello"); forever() },
	"not JSON":   func() { _, _ = os.Stdout.Write([]byte("\x00\x00\x00\x01\x00\x00\x00\x00{")); forever() },
	"not asked":  func() { _ = send(os.Stdout, message{Answer: &answer{}}, nil); forever() },
	"huge":       func() { _, _ = os.Stdout.Write([]byte("\x7f\xff\xff\xff\x7f\xff\xff\xff")); forever() },
	"half":       func() { _, _ = os.Stdout.Write([]byte("\x00\x00\x00\x02\x00\x00\x00\x00{")) },
	"flood":      func() { _, _ = io.Copy(os.Stdout, endless{}) },
	"family":     func() { family(false) },
	"old family": func() { family(true) },
}

// parents are what it is in place of the daemon, by the variable WORKER_TEST.
var parents = map[string]func(){"hanging": hangingParent, "peeping": peeping}

func TestMain(m *testing.M) {
	if parent, ok := parents[os.Getenv("WORKER_TEST")]; ok {
		parent()
		return
	}
	if worker, ok := workers[os.Getenv(misbehaviour)]; ok && len(os.Args) == 2 && os.Args[1] == argument {
		worker()
		return
	}
	Main()
	goleak.VerifyTestMain(m)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// family is a worker with a child, which outlives it if the worker is done.
func family(done bool) {
	cmd := exec.Command("sleep", os.Getenv("XDG_TOKEND_SLEEP"))
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	if done {
		_ = send(os.Stdout, message{Outcome: &outcome{}}, []byte("done"))
	}
	forever()
}

func forever() { time.Sleep(time.Hour) }

// nap is how long nobody else sleeps.
func nap() string { return "600." + strconv.Itoa(os.Getpid()) }

// processes returns the processes whose command line holds all of words.
func processes(t testing.TB, words ...string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		argv := strings.Split(string(line), "\x00")
		if !slices.ContainsFunc(words, func(word string) bool { return !slices.Contains(argv, word) }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// children returns the processes that pid started and that are not waited for.
func children(t testing.TB, pid int) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		list, _ := os.ReadFile(task) // the thread may be gone
		for field := range strings.FieldsSeq(string(list)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

func wantNoChildren(t testing.TB) {
	t.Helper()
	for _, pid := range children(t, os.Getpid()) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.HasSuffix(line, []byte("\x00"+argument+"\x00")) {
			t.Errorf("process %d is left", pid)
		}
	}
}

// waitFor polls what other processes bring about.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A worker that does not do what it should is an error that says what it was
// doing, and is gone.
func TestWorkerMisbehaves(t *testing.T) {
	for program, want := range map[string]string{
		"die":       "decrypting the identity: the worker failed: exit status 3",
		"kill":      "decrypting the identity: the worker failed: signal: killed",
		"silent":    "decrypting the identity: the worker failed: signal: killed",
		"nonsense":  "decrypting the identity: the worker failed: it said nonsense",
		"not JSON":  "decrypting the identity: the worker failed: it said nonsense",
		"not asked": "decrypting the identity: the worker failed: it said nonsense",
		"huge":      "decrypting the identity: the worker failed: it said nonsense",
		"half":      "decrypting the identity: the worker failed: unexpected EOF",
	} {
		t.Run(program, func(t *testing.T) {
			t.Setenv(misbehaviour, program)
			_, err := Process{}.Unwrap(t.Context(), nil, store.Protection{}, nil)
			if err == nil || err.Error() != want {
				t.Errorf("error = %v, want %s", err, want)
			}
			wantNoChildren(t)
		})
	}
	t.Run("flood", func(t *testing.T) {
		t.Setenv(misbehaviour, "flood")
		if _, err := (Process{}).Unwrap(t.Context(), nil, store.Protection{}, nil); err == nil || !strings.HasSuffix(err.Error(), "it said nonsense") {
			t.Errorf("error = %v", err)
		}
		wantNoChildren(t)
	})
}

// The end of a context is the end of the worker and of what it has started.
func TestContextEnds(t *testing.T) {
	t.Setenv("XDG_TOKEND_SLEEP", nap())
	for _, program := range []string{"hang", "family"} {
		t.Run(program, func(t *testing.T) {
			t.Setenv(misbehaviour, program)
			ctx, cancel := context.WithCancelCause(t.Context())
			errs := make(chan error)
			go func() {
				// More than a pipe holds, and nobody reads it.
				_, err := Process{}.Unwrap(ctx, make([]byte, 1<<20), store.Protection{}, nil)
				errs <- err
			}()
			waitFor(t, "the worker", func() bool {
				if program == "family" {
					return len(processes(t, "sleep", nap())) == 1
				}
				return len(children(t, os.Getpid())) == 1
			})
			because := errors.New("the person went away")
			cancel(because)
			if err := <-errs; !errors.Is(err, because) {
				t.Errorf("error = %v, want %v", err, because)
			}
			wantNoChildren(t)
			waitFor(t, "the end of what the worker started", func() bool { return len(processes(t, "sleep", nap())) == 0 })
		})
	}
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := (Process{}).Get(ctx, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled", err)
		}
	})
}

// What a worker has started does not outlive it.
func TestNothingIsLeft(t *testing.T) {
	t.Setenv(misbehaviour, "old family")
	t.Setenv("XDG_TOKEND_SLEEP", nap())
	data, err := Process{}.Unwrap(t.Context(), nil, store.Protection{}, nil)
	if string(data) != "done" || err != nil {
		t.Errorf("Unwrap = %q, %v", data, err)
	}
	wantNoChildren(t)
	waitFor(t, "the end of what the worker started", func() bool { return len(processes(t, "sleep", nap())) == 0 })
}

// sshKey is a key in both halves.
func sshKey(t testing.TB) (public string, private []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))), pem.EncodeToMemory(block)
}

// Prompts go out, answers come in, and errors keep what callers decide by.
func TestWrap(t *testing.T) {
	ctx := t.Context()
	public, private := sshKey(t)
	_, other := sshKey(t)
	how := store.Protection{Kind: store.SSH, PublicKey: public}
	sealed, err := Process{}.Wrap(ctx, []byte("the text"), how, func(context.Context, store.Prompt) (store.Answer, error) {
		t.Error("wrapping asks something")
		return store.Answer{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(sealed, []byte("age-encryption.org/v1\n-> ssh-ed25519 ")) {
		t.Fatalf("wrapped: %q", sealed)
	}

	var asked []store.Prompt
	text, err := Process{}.Unwrap(ctx, sealed, how, func(_ context.Context, p store.Prompt) (store.Answer, error) {
		asked = append(asked, p)
		if len(asked) == 1 {
			return store.Answer{Secret: bytes.Clone(other)}, nil
		}
		return store.Answer{Secret: bytes.Clone(private)}, nil
	})
	if string(text) != "the text" || err != nil {
		t.Errorf("Unwrap = %q, %v", text, err)
	}
	if len(asked) != 2 || asked[0].Kind != store.AskSSHKey || asked[0].PublicKey != public || asked[0].Again || !asked[1].Again {
		t.Errorf("asked: %+v", asked)
	}

	var given [][]byte
	_, err = Process{}.Unwrap(ctx, sealed, how, func(context.Context, store.Prompt) (store.Answer, error) {
		given = append(given, bytes.Clone(other))
		return store.Answer{Secret: given[len(given)-1]}, nil
	})
	if !errors.Is(err, store.ErrRefused) || len(given) != 3 {
		t.Errorf("after %d wrong keys: %v, want ErrRefused after 3", len(given), err)
	}
	for _, secret := range given {
		if !bytes.Equal(secret, make([]byte, len(secret))) {
			t.Errorf("an answer was left in memory")
		}
	}

	nobody := errors.New("nobody is there")
	if _, err := (Process{}).Unwrap(ctx, sealed, how, func(context.Context, store.Prompt) (store.Answer, error) {
		return store.Answer{}, nobody
	}); !errors.Is(err, nobody) {
		t.Errorf("error = %v, want that of the one who asks", err)
	}

	var plugin *store.PluginError
	if _, err := (Process{}).Wrap(ctx, []byte("x"), store.Protection{Kind: store.Plugin, Plugin: "none"}, nil); !errors.As(err, &plugin) || *plugin != (store.PluginError{Name: "none"}) {
		t.Errorf("error = %v, want that the plugin is not allowed", err)
	}
	if _, err := (Process{Plugins: []string{"none"}}).Wrap(ctx, []byte("x"), store.Protection{Kind: store.Plugin, Plugin: "none"}, nil); !errors.As(err, &plugin) || *plugin != (store.PluginError{Name: "none", Allowed: true}) {
		t.Errorf("error = %v, want that the plugin is not there", err)
	}
	wantNoChildren(t)
}

// Many at once do not get in each other's way.
func TestWrapConcurrently(t *testing.T) {
	public, private := sshKey(t)
	how := store.Protection{Kind: store.SSH, PublicKey: public}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			text := strconv.Itoa(i)
			sealed, err := Process{}.Wrap(t.Context(), []byte(text), how, nil)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := Process{}.Unwrap(t.Context(), sealed, how, func(context.Context, store.Prompt) (store.Answer, error) {
				return store.Answer{Secret: bytes.Clone(private)}, nil
			})
			if string(got) != text || err != nil {
				t.Errorf("Unwrap = %q, %v, want %q", got, err, text)
			}
		})
	}
	all.Wait()
	wantNoChildren(t)
}

// use makes s the session of this process.
func use(t *testing.T, s *session.Session) {
	t.Helper()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", s.Address)
	t.Setenv("XDG_RUNTIME_DIR", s.Runtime)
}

func TestItems(t *testing.T) {
	ctx := t.Context()
	s := session.Start(t)
	use(t, s)
	p := Process{}
	if _, err := p.Get(ctx, "a"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Get of nothing: %v, want ErrNotExist", err)
	}
	if err := p.Delete(ctx, "a"); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	binary := []byte("\x00\xff\n'\"")
	if err := p.Set(ctx, "a", binary); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Get(ctx, "a"); !bytes.Equal(got, binary) || err != nil {
		t.Errorf("Get = %q, %v", got, err)
	}
	if items := s.Items(t); len(items) != 1 || items[0].Account != "a" || !bytes.Equal(items[0].Secret, binary) {
		t.Errorf("items: %v", items)
	}

	s.Lock(t)
	_, err := p.Get(ctx, "a")
	const locked = "reading from the keyring: the keyring is locked, and its prompt was dismissed or could not be shown"
	if err == nil || err.Error() != locked {
		t.Errorf("error = %v, want %s", err, locked)
	}
	wantNoChildren(t)
}

// A keyring that does not answer is an error in time, to everybody who asks it,
// and one process at a time finds out. Once it answers, so do we.
func TestFrozenKeyring(t *testing.T) {
	s := session.Start(t)
	use(t, s)
	p := Process{}
	if err := p.Set(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	before := len(children(t, os.Getpid()))
	s.Freeze(t)
	began := time.Now()
	errs := make(chan error)
	const callers = 6
	for range callers {
		go func() {
			_, err := p.Get(t.Context(), "a")
			errs <- err
		}()
	}
	// One who does not wait that long is not made to.
	brief, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	go func() {
		_, err := p.Get(brief, "a")
		errs <- err
	}()
	waitFor(t, "a worker", func() bool { return len(children(t, os.Getpid())) > before })
	cancel(gone)
	if err := <-errs; !errors.Is(err, gone) {
		t.Errorf("error = %v, want %v", err, gone)
	}
	most := 0
	said := make(map[string]int)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for left := callers; left > 0; {
		select {
		case err := <-errs:
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error = %v, want one about the keyring", err)
			}
			said[err.Error()]++
			left--
		case <-tick.C:
			most = max(most, len(children(t, os.Getpid()))-before)
		}
	}
	// 3 s is what a user is promised; this runs beside much else, with the race detector.
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	for text := range said {
		if text != "reading from the keyring: no answer within 2s; it may be waiting for somebody to unlock it, or hang" &&
			text != "reading from the keyring: it has been busy with another call for 2s" {
			t.Errorf("error = %s", text)
		}
	}
	if most != 1 {
		t.Errorf("up to %d workers at a time, want 1", most)
	}
	wantNoChildren(t)
	s.Thaw(t)
	if got, err := p.Get(t.Context(), "a"); string(got) != "x" || err != nil {
		t.Errorf("then, Get = %q, %v", got, err)
	}
}

// A person gets more time to answer the keyring's own prompt.
func TestPatience(t *testing.T) {
	s := session.Start(t)
	use(t, s)
	if err := (Process{}).Set(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.Lock(t)
	shown := s.Prompt(t, session.Ignore)
	began := time.Now()
	_, err := Process{Patience: 2700 * time.Millisecond}.Get(t.Context(), "a")
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "no answer within 2.7s") || took < 2700*time.Millisecond {
		t.Errorf("after %v: %v", took, err)
	}
	if len(shown) != 1 {
		t.Errorf("%d prompts, want 1", len(shown))
	}
	wantNoChildren(t)
}

// A store of profiles in a real keyring, each call in a process of its own.
func TestKeyringStore(t *testing.T) {
	ctx := t.Context()
	s := session.Start(t)
	use(t, s)
	dir := t.TempDir()
	id, _, err := store.MakeIdentity(ctx, t.TempDir(), false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	open := func() *store.Keyring {
		k, err := store.OpenKeyring(dir, Process{})
		if err != nil {
			t.Fatal(err)
		}
		k.Unlock(id)
		return k
	}
	k := open()
	one, err := k.Put(ctx, "dev/network", []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := k.Put(ctx, "dev/network", []byte("two"), one)
	if err != nil {
		t.Fatal(err)
	}
	k = open()
	data, v, err := k.Get(ctx, "dev/network")
	if string(data) != "two" || v != two || err != nil {
		t.Errorf("Get = %q, %q, %v", data, v, err)
	}

	// While the keyring hangs, what does not need it works; what does fails
	// and changes nothing.
	s.Freeze(t)
	putErrs := make(chan error)
	go func() {
		_, err := k.Put(ctx, "dev/network", []byte("lost"), two)
		putErrs <- err
	}()
	_, _, getErr := k.Get(ctx, "dev/network")
	for _, err := range []error{<-putErrs, getErr} {
		if err == nil || !strings.Contains(err.Error(), "within 2s") && !strings.Contains(err.Error(), "busy with another call") {
			t.Errorf("with a keyring that hangs: %v", err)
		}
	}
	if list, err := k.List(ctx); err != nil || len(list) != 1 || list[0].Version != two {
		t.Errorf("List = %v, %v", list, err)
	}
	s.Thaw(t)
	if data, _, err := k.Get(ctx, "dev/network"); string(data) != "two" || err != nil {
		t.Errorf("then, Get = %q, %v", data, err)
	}

	// What the failed Put may have left is cleared up.
	if err := k.Delete(ctx, "dev/network", two); err != nil {
		t.Fatal(err)
	}
	if items := s.Items(t); len(items) != 1 || !strings.HasPrefix(items[0].Account, "index/") {
		t.Errorf("items left: %v", items)
	}
	wantNoChildren(t)
}

// hangingPlugin puts a plugin into PATH that says what it was given and hangs.
func hangingPlugin(t *testing.T) (said string) {
	t.Helper()
	dir := t.TempDir()
	said = filepath.Join(dir, "said")
	script := fmt.Sprintf("#!/bin/sh\nenv >%[1]s.tmp\nls /proc/self/fd >%[1]s.fd\nmv %[1]s.tmp %[1]s\nexec sleep %[2]s\n", said, nap())
	if err := os.WriteFile(filepath.Join(dir, "age-plugin-hang"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return said
}

var hanging = store.Protection{Kind: store.Plugin, Plugin: "hang"}

// What a worker and its plugins are started with: no variable that may be a
// secret or makes a library log, no descriptor of ours, and nothing of its job.
func TestWhatAWorkerIsGiven(t *testing.T) {
	said := hangingPlugin(t)
	secrets := map[string]string{
		"CLIENT_SECRET": "canary-1", "OAUTH2_REFRESH_TOKEN": "canary-2", "GODEBUG": "x=canary-3", "AGEDEBUG": "plugin",
		"SSLKEYLOGFILE": "/canary-4", "LD_PRELOAD": "", "SSH_AUTH_SOCK": "/canary-5", "TOKEND_DIR": "/canary-6", "HTTPS_PROXY": "http://canary-7",
	}
	for name, value := range secrets {
		t.Setenv(name, value)
	}
	t.Setenv("LC_CTYPE", "C.UTF-8")
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // which any child inherits
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	leaked, err := exec.Command("ls", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(leaked)), strconv.Itoa(fd)) {
		t.Fatalf("a child that was not careful has the descriptors %q, without %d", leaked, fd)
	}

	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, err := Process{Plugins: []string{"hang"}}.Wrap(ctx, []byte("canary-8"), hanging, nil)
		errs <- err
	}()
	waitFor(t, "the plugin", func() bool {
		_, err := os.Stat(said)
		return err == nil
	})
	pids := children(t, os.Getpid())
	if len(pids) != 1 {
		t.Fatalf("%d workers", len(pids))
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0])); err != nil || string(line) != filepath.Base(os.Args[0])+"\x00"+argument+"\x00" {
		t.Errorf("command line %q, %v", line, err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pids[0]))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("limits:\n%s%v", limits, err)
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
	waitFor(t, "the plugin's end", func() bool { return len(processes(t, "sleep", nap())) == 0 })

	env, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(env)) {
		name, _, _ := strings.Cut(line, "=")
		if _, ok := secrets[name]; ok || strings.Contains(line, "canary") {
			t.Errorf("the plugin has %s", line)
		}
	}
	for _, want := range []string{"PATH=", "HOME=", "LC_CTYPE=C.UTF-8\n"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("the plugin has no %s", want)
		}
	}
	fds, err := os.ReadFile(said + ".fd")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(fds)); !slices.Equal(got, []string{"0", "1", "2", "3"}) { // 3 is the folder that ls reads
		t.Errorf("the plugin has the descriptors %q", got)
	}
}

// hangingParent starts a worker with a plugin that hangs.
func hangingParent() {
	_, err := Process{Plugins: []string{"hang"}}.Wrap(context.Background(), []byte("x"), hanging, nil)
	fmt.Println(err)
}

// A worker and its plugin do not outlive the process that they work for, even if
// that is killed.
func TestParentIsKilled(t *testing.T) {
	said := hangingPlugin(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "WORKER_TEST=hanging")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the plugin", func() bool {
		_, err := os.Stat(said)
		return err == nil && len(processes(t, "sleep", nap())) == 1
	})
	pids := children(t, cmd.Process.Pid)
	if len(pids) != 1 {
		t.Fatalf("%d workers", len(pids))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitFor(t, "the plugin's end", func() bool { return len(processes(t, "sleep", nap())) == 0 })
	waitFor(t, "the worker's end", func() bool { return errors.Is(syscall.Kill(pids[0], 0), syscall.ESRCH) || zombie(pids[0]) })
}

// zombie says whether a process is dead, and waits for whoever inherited it.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// peeping is a process that looks into what it has started.
func peeping() {
	public := os.Getenv("PUBLIC_KEY")
	sealed, err := Process{}.Wrap(context.Background(), []byte("x"), store.Protection{Kind: store.SSH, PublicKey: public}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = Process{}.Unwrap(context.Background(), sealed, store.Protection{Kind: store.SSH, PublicKey: public}, func(context.Context, store.Prompt) (store.Answer, error) {
		list, _ := filepath.Glob("/proc/self/task/*/children")
		for _, file := range list {
			pids, _ := os.ReadFile(file)
			for pid := range strings.FieldsSeq(string(pids)) {
				peep("worker", pid)
			}
		}
		return store.Answer{}, errors.New("enough")
	})
	if err == nil || !strings.HasSuffix(err.Error(), "enough") {
		fmt.Println(err)
	}
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		fmt.Println(err)
		return
	}
	peep("sleep", strconv.Itoa(sleep.Process.Pid))
	_ = sleep.Process.Kill()
	_ = sleep.Wait()
}

func peep(what, pid string) {
	for _, file := range []string{"environ", "mem"} {
		f, err := os.Open(filepath.Join("/proc", pid, file))
		fmt.Println(what, file, err == nil)
		if err == nil {
			f.Close()
		}
	}
}

// A process of the same user, even the one that started it, cannot look into a
// worker. It can look into others.
func TestWorkerIsNotDumpable(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Root can look into everything.
	dir, err := os.MkdirTemp("", "worker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if out, err := exec.Command("install", "-m", "755", exe, program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, _ := sshKey(t)
	argv := []string{"setpriv", "--reuid=12347", "--regid=12347", "--clear-groups", "env", "-i",
		"WORKER_TEST=peeping", "PUBLIC_KEY=" + public, "PATH=" + os.Getenv("PATH"), program}
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	out, err := cmd.Output()
	const want = "worker environ false\nworker mem false\nsleep environ true\nsleep mem true\n"
	if string(out) != want || err != nil {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

// Nobody starts a worker but a Process: it wants pipes and a group of its own.
func TestWorkerForStrangers(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var order bytes.Buffer
	if err := send(&order, message{Job: &job{Do: getItem, Account: "a"}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		group bool   // is it the leader of a group?
		input string // "": what is no pipe
		want  int
	}{
		{"a group of others", false, order.String(), 2},
		{"no pipe", true, "", 2},
		{"something else", true, "GET / HTTP/1.1\r\n\r\n", 2},
		{"as a Process does", true, order.String(), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := exec.Command(exe, argument)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			cmd.Stdout = &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: test.group}
			if test.input != "" {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				defer w.Close() // open until the worker has ended
				if _, err := w.WriteString(test.input); err != nil {
					t.Fatal(err)
				}
				cmd.Stdin = r
			}
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != test.want || (out.Len() > 0) != (test.want == 0) {
				t.Errorf("exit status %d, output %q, want %d", code, &out, test.want)
			}
		})
	}
}
