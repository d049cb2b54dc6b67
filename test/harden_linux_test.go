package test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokend/test/authserver"
)

// tokend is a daemon that a test started by itself.
type tokend struct {
	cmd    *exec.Cmd
	stderr *output
	ready  string // the first line on its --ready-fd
}

// output may be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// tokend starts the home's tokend in the foreground, and waits until it is
// ready or has failed.
func (h *home) tokend(t *testing.T, env ...string) *tokend {
	t.Helper()
	cmd := exec.Command(filepath.Join(h.bin, "tokend"), "--ready-fd", "3")
	cmd.Env = append(append([]string(nil), h.env...), env...)
	return startTokend(t, cmd)
}

// startTokend starts a command that becomes a tokend with --ready-fd 3, and waits
// until it is ready or has failed.
func startTokend(t *testing.T, cmd *exec.Cmd) *tokend {
	t.Helper()
	d := &tokend{cmd: cmd, stderr: new(output)}
	cmd.Stdout, cmd.Stderr = d.stderr, d.stderr
	cmd.WaitDelay = 10 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	d.ready, _ = bufio.NewReader(r).ReadString('\n')
	return d
}

// wait waits for its end and returns its exit status.
func (d *tokend) wait(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(30*time.Second, func() { d.cmd.Process.Kill() })
	defer timer.Stop()
	err := d.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return d.cmd.ProcessState.ExitCode()
}

// What the daemon says of its protections is so.
func TestProtections(t *testing.T) {
	h := makeHome(t, stranger)
	// A daemon started by a tokenctl that may dump core.
	if r := finish(t, h.command("sh", "-c", "ulimit -S -c $(ulimit -H -c); exec tokenctl init")); r.code != 0 {
		t.Fatal(r)
	}
	s := h.status(t)
	active := make(map[string]bool)
	for _, p := range s.Protections {
		active[p.Name] = p.Active
	}
	for _, name := range []string{"core dumps", "not dumpable", "environment", "tracer"} {
		if !active[name] {
			t.Errorf("%q is not among the active protections: %+v", name, s.Protections)
		}
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).MatchString(proc(t, s.PID, "limits")) {
		t.Errorf("limits:\n%s", proc(t, s.PID, "limits"))
	}
	if got := tracer(t, s.PID); got != "0" {
		t.Errorf("traced by %s", got)
	}

	// A process that does nothing to protect itself can be looked into by its
	// user, so these refusals are the daemon's doing. Nobody else sleeps that long.
	long := "600." + strconv.Itoa(os.Getpid())
	open := h.command("sleep", long)
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		open.Process.Kill()
		open.Wait()
	}()
	var sleep []int
	waitFor(t, "sleep to run", func() bool {
		sleep = processes(t, func(argv []string) bool { return argv[0] == "sleep" && len(argv) == 2 && argv[1] == long })
		return len(sleep) == 1
	})
	for _, look := range []struct {
		uid  int
		argv []string
	}{
		{stranger, []string{"cat", "/proc/PID/environ"}},
		{stranger, []string{"cat", "/proc/PID/maps"}},
		{stranger, []string{"head", "-c", "0", "/proc/PID/mem"}},
		{stranger, []string{"ls", "/proc/PID/fd/"}},
		{stranger, []string{"readlink", "/proc/PID/exe"}},
		{stranger, []string{"timeout", "5", "strace", "-o", "/dev/null", "-p", "PID"}},
		{stranger + 1, []string{"cat", "/proc/PID/environ"}},
	} {
		at := func(pid int) []string {
			argv := make([]string, len(look.argv))
			for i, arg := range look.argv {
				argv[i] = strings.ReplaceAll(arg, "PID", strconv.Itoa(pid))
			}
			return argv
		}
		path := []string{"PATH=" + os.Getenv("PATH")}
		if r := finish(t, as(look.uid, path, at(s.PID)...)); r.code == 0 || r.code == 124 || r.out != "" {
			t.Errorf("user %d: %q: %v", look.uid, look.argv, r)
		}
		if look.uid != stranger {
			continue
		}
		if r := finish(t, as(look.uid, path, at(sleep[0])...)); r.code != 0 && r.code != 124 {
			t.Errorf("user %d: %q of an unprotected process: %v", look.uid, look.argv, r)
		}
	}
}

// Whatever the umask, nobody else can enter or read what is made.
func TestModes(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	for _, umask := range []string{"000", "027"} {
		h := newHome(t)
		script := `umask ` + umask + ` && tokenctl init && tokenctl add dev/network --file "$0" && tokenctl edit dev/network --file "$1" &&
			tokenctl add top --file "$0" && tokenctl mv top team/deep/er && tokenctl get dev/network`
		texts := []string{filepath.Join(h.root, "one.env"), filepath.Join(h.root, "two.env")}
		for i, file := range texts {
			if err := os.WriteFile(file, fmt.Appendf(nil, "%s# %d\n", profileOf(s, c), i), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if r := finish(t, h.command("sh", "-c", script, texts[0], texts[1])); r.code != 0 {
			t.Fatalf("umask %s: %v", umask, r)
		}
		seen := 0
		for _, dir := range []string{h.dir, filepath.Join(h.root, "run")} {
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := e.Info()
				if err != nil {
					return err
				}
				want := fs.FileMode(0o600)
				if e.IsDir() {
					want = 0o700
				} else {
					seen++
				}
				if got := info.Mode().Perm(); got != want {
					t.Errorf("umask %s: %s has mode %#o, want %#o", umask, path, got, want)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		// Two profiles, identity, store's lock, trust file, its lock, log, socket.
		if seen < 8 {
			t.Errorf("umask %s: only %d files", umask, seen)
		}
	}
}

func TestTracerIsRefused(t *testing.T) {
	for _, env := range [][]string{nil, {"GODEBUG=http2debug=2"}} {
		h := newHome(t)
		cmd := h.command("strace", "-f", "-o", filepath.Join(h.root, "trace"), filepath.Join(h.bin, "tokend"))
		cmd.Env = append(cmd.Env, env...)
		if r := finish(t, cmd); r.code != 1 || r.out != "" || !strings.Contains(r.err, "traced by process") {
			t.Errorf("%q: tokend under strace: %v", env, r)
		}
		if _, err := os.Stat(filepath.Join(h.dir, ".local")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it made something first: %v", err)
		}
	}
}

// Variables that make libraries print what they handle do nothing.
func TestLoquaciousEnvironment(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "CANARY-secret-4c1ab2d0e97f", Opaque: true}
	s := authserver.Start(t, authserver.Config{TLS: true, Clients: []authserver.Client{c}})
	h := newHome(t)
	keys := filepath.Join(h.root, "sslkeys")
	d := h.tokend(t, "GODEBUG=http2debug=2,gctrace=1", "SSLKEYLOGFILE="+keys, "GOTRACEBACK=crash")
	if !strings.HasPrefix(d.ready, "ready ") {
		t.Fatalf("%q: %s", d.ready, d.stderr)
	}
	ca := filepath.Join(h.root, "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(t, "", "init")
	h.must(t, profileOf(s, c)+"TLS_CA_FILE="+ca+"\n", "add", "dev/network")
	token := h.get(t, "dev/network")
	h.must(t, "", "show", "dev/network")
	identity, err := os.ReadFile(h.status(t).IdentityFile)
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`AGE-SECRET-KEY-1\w+`).FindString(string(identity))
	s.AnyClient().Always(authserver.Answer{EchoSecret: true})
	r := h.tokenctl(t, "", "get", "dev/network", "--scope", "another")
	if r.code != 8 {
		t.Errorf("a server that refuses: %v", r)
	}
	env := proc(t, d.cmd.Process.Pid, "environ")
	for _, name := range []string{"GODEBUG", "SSLKEYLOGFILE", "GOTRACEBACK"} {
		if strings.Contains(env, name) {
			t.Errorf("%s is still in its environment", name)
		}
	}
	h.must(t, "", "daemon", "stop")
	if code := d.wait(t); code != 0 {
		t.Errorf("exit status %d: %s", code, d.stderr)
	}
	if _, err := os.Stat(keys); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote the keys of its TLS connections: %v", err)
	}
	log := d.stderr.String()
	if !strings.Contains(log, "listening") || strings.Contains(log, "http2") || strings.Contains(log, "gc 1 @") {
		t.Errorf("its log is not one, or more than one:\n%s", log)
	}
	haystacks := map[string]string{"the log": log, "what tokenctl said": r.err}
	err = filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || filepath.Base(path) == "identity.txt" {
			return err
		}
		b, err := os.ReadFile(path)
		haystacks[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{c.Secret, token, key} {
		if secret == "" {
			t.Fatal("there is nothing to look for")
		}
		for _, form := range []string{
			secret, secret[:16],
			base64.StdEncoding.EncodeToString([]byte(c.ID + ":" + secret))[:20],
			base64.StdEncoding.EncodeToString([]byte(secret))[:20],
			base64.RawURLEncoding.EncodeToString([]byte(secret)),
			hex.EncodeToString([]byte(secret)),
			url.QueryEscape(secret),
		} {
			for where, text := range haystacks {
				if strings.Contains(text, form) {
					t.Errorf("%q is in %s", form, where)
				}
			}
		}
	}
}

func TestTermination(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		h := newHome(t)
		d := h.tokend(t)
		path := h.status(t).Socket
		if err := d.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := d.wait(t); code != 0 {
			t.Errorf("%v: exit status %d: %s", sig, code, d.stderr)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: the socket is left: %v", sig, err)
		}
	}
}

// A call that is under way when the daemon is told to end is answered.
func TestGracefulTermination(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	d := h.tokend(t)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	s.AnyClient().Then(authserver.Answer{Hang: true})
	get := h.command(filepath.Join(h.bin, "tokenctl"), "get", "p")
	var out bytes.Buffer
	get.Stdout = &out
	if err := get.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the daemon to begin to stop", func() bool { return strings.Contains(d.stderr.String(), "msg=stopping") })
	s.Release()
	if err := get.Wait(); err != nil || out.Len() < 2 {
		t.Errorf("the caller got %q, %v", &out, err)
	}
	if code := d.wait(t); code != 0 {
		t.Errorf("exit status %d: %s", code, d.stderr)
	}
}

// A daemon whose socket is gone cannot be found: it ends, and the next call
// starts another.
func TestLostSocket(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	d := h.tokend(t)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	if err := os.Remove(h.status(t).Socket); err != nil {
		t.Fatal(err)
	}
	if h.get(t, "p") == "" {
		t.Error("an empty token")
	}
	if code := d.wait(t); code != 1 || !strings.Contains(d.stderr.String(), "was removed or replaced") {
		t.Errorf("exit status %d: %s", code, d.stderr)
	}
	if got := h.daemons(t); len(got) != 1 || got[0] == d.cmd.Process.Pid {
		t.Errorf("daemons: %v; the first was %d", got, d.cmd.Process.Pid)
	}
}

func TestSecondDaemonLeavesTheFirstAlone(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "p", c)
	token := h.get(t, "p")
	first := h.status(t)
	socket, err := os.Lstat(first.Socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--socket", filepath.Join(h.root, "run", "other.sock")}} {
		r := finish(t, h.command(append([]string{filepath.Join(h.bin, "tokend")}, args...)...))
		if r.code != 1 || r.out != "" || !strings.Contains(r.err, "another tokend serves") || !strings.Contains(r.err, first.Socket) {
			t.Errorf("a second daemon %q: %v", args, r)
		}
	}
	// Another store's daemon may not have the socket either.
	r := finish(t, h.command(filepath.Join(h.bin, "tokend"), "--dir", filepath.Join(h.root, "other")))
	if r.code == 0 || !strings.Contains(r.err, "another daemon listens on "+first.Socket) {
		t.Errorf("another store's daemon on the same socket: %v", r)
	}
	now, err := os.Lstat(first.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.get(t, "p"); got != token || h.status(t).PID != first.PID || !os.SameFile(socket, now) {
		t.Errorf("the first daemon is not what it was: %+v, then %+v", first, h.status(t))
	}
}

func TestKilledDaemonIsReplaced(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "p", c)
	first := h.status(t)
	h.kill(t, first.PID, syscall.SIGKILL)
	if _, err := os.Lstat(first.Socket); err != nil {
		t.Fatalf("the socket that is to be stale: %v", err)
	}
	if h.get(t, "p") == "" || h.status(t).PID == first.PID {
		t.Error("no daemon took over")
	}
}

// debug lets the home's own user try everything on its daemon: what one process
// can do to another, and the programs that people do it with. It returns what
// succeeded, and how much was tried.
func (h *home) debug(t *testing.T, pid int) attempts {
	t.Helper()
	a := h.prowl(t, h.uid, pid)
	core := filepath.Join(h.dir, "taken")
	p := strconv.Itoa(pid)
	for _, argv := range [][]string{
		{"gdb", "-q", "-nx", "-batch", "-ex", "attach " + p, "-ex", "print $pc"},
		{"gcore", "-o", core, p},
		{"timeout", "2", "strace", "-o", "/dev/null", "-p", p},
		{"dd", "if=/proc/" + p + "/mem", "of=/dev/null", "bs=1", "count=1", "skip=4194304"},
	} {
		r := finish(t, h.command(argv...))
		done := r.code == 0 || r.code == 124 && argv[0] == "timeout"
		if argv[0] == "gdb" { // whose exit status tells nothing
			done = strings.Contains(r.out, "$1 = ")
		}
		if argv[0] == "gcore" {
			_, err := os.Stat(core + "." + p)
			done = err == nil
		}
		a.Tried++
		if done {
			a.Succeeded = append(a.Succeeded, strings.Join(argv[:1], " "))
		}
	}
	return a
}

// coreCanary is the secret of a debuggee.
const coreCanary = "CANARY-core-7d1f0b9ce2"

// debuggee is a home of a real user, not root, whom nothing would stop, with a
// daemon that has secrets.
func debuggee(t *testing.T, bin string) (h *home, pid int) {
	t.Helper()
	c := authserver.Client{ID: "c", Secret: coreCanary}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h = makeHome(t, stranger)
	h.relink(t, bin)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	h.get(t, "p")
	return h, h.status(t).PID
}

func TestSameUserCannotDebug(t *testing.T) {
	t.Parallel()
	h, pid := debuggee(t, binDir)
	a := h.debug(t, pid)
	for _, what := range a.Succeeded {
		t.Errorf("a program of the same user could %s", what)
	}
	t.Logf("same user: %d attempts, %d successes", a.Tried, len(a.Succeeded))
	if h.status(t).PID != pid {
		t.Error("it is another daemon")
	}
}

// undefended are a daemon without what TestSameUserCannotDebug and
// TestNoCoreIsLeft are about.
var undefended = []edit{
	{"internal/harden/harden_linux.go", "_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)", ""},
	{"internal/harden/harden.go", "_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})", ""},
	{"internal/harden/harden.go", `"GODEBUG", "GOTRACEBACK", `, `"GODEBUG", `},
}

func TestSameUserCanDebugWithoutTheDefence(t *testing.T) {
	t.Parallel()
	h, pid := debuggee(t, mutant(t, "dumping", undefended...))
	a := h.debug(t, pid)
	t.Logf("same user, a daemon that is dumpable: %d attempts, %d successes", a.Tried, len(a.Succeeded))
	want := []string{fmt.Sprintf("read /proc/%d/environ", pid), fmt.Sprintf("read /proc/%d/maps", pid),
		fmt.Sprintf("list /proc/%d/fd", pid), fmt.Sprintf("readlink /proc/%d/exe", pid)}
	// The kernel itself may keep a process from attaching to one that is not its
	// child.
	if b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err != nil || strings.TrimSpace(string(b)) == "0" {
		want = append(want, "ptrace", "process_vm_readv", "pidfd_getfd", "gdb", "gcore", "timeout")
	}
	for _, what := range want {
		if !slices.Contains(a.Succeeded, what) {
			t.Errorf("even where nothing is in the way, this fails: %s (%q)", what, a.Succeeded)
		}
	}
}

// cores kills a daemon that its user has allowed every core, in a folder that it
// may write to, and returns the cores that it leaves, and what it printed.
func (h *home) cores(t *testing.T, sig string) (cores []string, printed string) {
	t.Helper()
	cmd := h.command("sh", "-c", `cd "$0" && ulimit -c unlimited && exec "$1"`, h.dir, filepath.Join(h.bin, "tokend"))
	for i, arg := range cmd.Args { // the last of env's, before the program's
		if arg == "sh" {
			cmd.Args = slices.Insert(cmd.Args, i, "GOTRACEBACK=crash", "LD_PRELOAD=/nonexistent.so")
			break
		}
	}
	out := new(output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	waitFor(t, "the daemon", func() bool {
		pids = h.daemons(t)
		return len(pids) == 1 && strings.Contains(out.String(), "listening")
	})
	h.get(t, "p")
	h.must(t, "", "show", "--reveal", "p")
	if out, err := asRoot("kill", "-"+sig, strconv.Itoa(pids[0])).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd.Wait()
	found, err := asRoot("find", h.root, "-name", "core*").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(found)), out.String()
}

func TestNoCoreIsLeft(t *testing.T) {
	t.Parallel()
	h, _ := debuggee(t, binDir)
	for _, sig := range []string{"ABRT", "QUIT", "SEGV"} {
		h.stop(t)
		cores, printed := h.cores(t, sig)
		if len(cores) > 0 || strings.Contains(printed, coreCanary) {
			t.Errorf("%s: cores %q, its secret among what it printed: %v", sig, cores, strings.Contains(printed, coreCanary))
		}
	}
}

func TestACoreIsLeftWithoutTheDefence(t *testing.T) {
	t.Parallel()
	h, _ := debuggee(t, mutant(t, "dumping", undefended...))
	h.stop(t)
	cores, _ := h.cores(t, "ABRT")
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	if pattern[0] == '|' || pattern[0] == '/' {
		t.Logf("cores of this machine go to %s, not where the test could look", pattern)
		return
	}
	if len(cores) != 1 {
		t.Fatalf("even where nothing is in the way, there are cores %q", cores)
	}
	if out, err := asRoot("grep", "-c", "-a", coreCanary, cores[0]).CombinedOutput(); err != nil {
		t.Errorf("the secret is not in the core: %v: %s", err, out)
	}
}

// A program of the same user can put its own socket in the place of the
// daemon's. The daemon notices, and ends.
func TestReplacedSocket(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	d := h.tokend(t)
	path := h.status(t).Socket
	l, err := net.Listen("unix", path+".mine")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	if err := os.Rename(path+".mine", path); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(t); code != 1 || !strings.Contains(d.stderr.String(), "was removed or replaced") {
		t.Errorf("exit status %d: %s", code, d.stderr)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it noticed after %v", took)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("it removed what is not its own: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
