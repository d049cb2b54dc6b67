package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

// stranger is a user who is neither root nor whoever runs the tests.
const stranger = 12345

func init() { programs["intruder"], programs["prowl"] = intruder, prowl }

// intrusion is what an intruder got out of a daemon.
type intrusion struct {
	UID   int
	Bytes int    // that came over a bare connection
	Ended bool   // the daemon closed that
	Token string // by GetToken, with grpc-go, which checks nothing
	Error string
}

// intruder talks to INTRUDER_SOCKET without any of the checks that our own
// client makes.
func intruder() error {
	path := os.Getenv("INTRUDER_SOCKET")
	got := intrusion{UID: os.Geteuid()}
	c, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("the test did not open the socket up: %w", err)
	}
	defer c.Close()
	// An HTTP/2 server would answer to these; one that reads nothing makes
	// writing them fail.
	_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	got.Bytes = len(b)
	got.Ended = !errors.Is(err, os.ErrDeadlineExceeded)

	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := tokendv1grpc.NewTokenServiceClient(conn).GetToken(ctx, &tokendv1.GetTokenRequest{Profile: "p"})
	if err != nil {
		got.Error = err.Error()
	}
	got.Token = resp.GetAccessToken()
	return json.NewEncoder(os.Stdout).Encode(got)
}

// intrude lets user uid try to get at a daemon. There is no skipping this: who
// cannot become another user cannot run these tests.
func intrude(t *testing.T, uid int, socket string) intrusion {
	t.Helper()
	r := finish(t, as(uid, []string{"TOKEND_TEST_AS=intruder", "INTRUDER_SOCKET=" + socket}, publicSelf(t)))
	var got intrusion
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || got.UID != uid {
		t.Fatalf("the intruder is to be user %d: %v (as root, or with sudo that asks nothing?)", uid, r)
	}
	return got
}

// openUp makes the socket, and all folders above it that are the test's, as
// loose as can be.
func (h *home) openUp(t *testing.T, socket string) {
	t.Helper()
	argv := []string{"chmod", "0777"}
	for dir := filepath.Dir(socket); strings.HasPrefix(dir, h.root); dir = filepath.Dir(dir) {
		argv = append(argv, dir)
	}
	for _, argv := range [][]string{argv, {"chmod", "0666", socket}} {
		if out, err := asRoot(argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// close undoes openUp as far as the home's own client asks for.
func (h *home) close(t *testing.T, socket string) {
	t.Helper()
	for _, argv := range [][]string{{"chmod", "0700", filepath.Dir(socket)}, {"chmod", "0600", socket}} {
		if out, err := asRoot(argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func wantRefused(t *testing.T, got intrusion) {
	t.Helper()
	if got.Bytes != 0 || !got.Ended || got.Token != "" || got.Error == "" {
		t.Errorf("user %d got in: %d bytes, connection ended: %v, a token: %v", got.UID, got.Bytes, got.Ended, got.Token != "")
	}
}

// A second user is kept out by the daemon alone, even where the socket and all
// folders above it let him in.
func TestSecondUserIsRefused(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "p", c)
	token := h.get(t, "p")
	socket := h.status(t).Socket
	h.openUp(t, socket)
	wantRefused(t, intrude(t, stranger, socket))

	// Neither does his tokenctl get anything.
	for _, dir := range []string{h.bin, h.root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	his := as(stranger, []string{"HOME=/nonexistent", "TOKEND_SOCKET=" + socket, "TOKEND_DIR=" + filepath.Join(h.dir, ".local/share/tokend")},
		filepath.Join(h.bin, "tokenctl"), "get", "p")
	his.Dir = "/"
	if r := finish(t, his); r.code == 0 || r.out != "" || strings.Contains(r.err, token) {
		t.Errorf("tokenctl of another user: %v", r)
	}

	h.close(t, socket)
	if got := h.get(t, "p"); got != token {
		t.Error("the daemon's own user gets another token afterwards")
	}
}

// Root is a second user, too.
func TestRootIsRefused(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := makeHome(t, stranger)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	if h.get(t, "p") == "" {
		t.Error("an empty token")
	}
	socket := h.status(t).Socket
	wantRefused(t, intrude(t, 0, socket))
	h.openUp(t, socket)
	wantRefused(t, intrude(t, 0, socket))
	h.close(t, socket)
}

// The attack of TestSecondUserIsRefused works on a daemon without the one line
// that it is about: that test can fail.
func TestSecondUserGetsInWithoutTheCheck(t *testing.T) {
	t.Parallel()
	dir := mutant(t, "no-peer-check", edit{"internal/socket/listen.go", "return p.UID == os.Geteuid()", "return true"})
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	h.relink(t, dir)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	token := h.get(t, "p")
	socket := h.status(t).Socket
	h.openUp(t, socket)
	if got := intrude(t, stranger, socket); got.Bytes == 0 || got.Token != token {
		t.Errorf("the attack does not work where nothing is in its way: %+v", got)
	}
	h.close(t, socket)
}

// attempts are what an intruder tried, and what of it he got done.
type attempts struct {
	Tried     int
	Succeeded []string
}

func (a *attempts) try(what string, err error) {
	a.Tried++
	if err == nil {
		a.Succeeded = append(a.Succeeded, what)
	}
}

// reads tries to get at least a byte.
func (a *attempts) reads(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		if _, err = f.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = nil // an empty file is read
		}
		f.Close()
	}
	a.try("read "+path, err)
}

// process tries everything that one process can do to another.
func (a *attempts) process(pid int) {
	at := fmt.Sprintf("/proc/%d/", pid)
	for _, name := range []string{"environ", "maps", "smaps", "auxv", "io", "syscall", "stack", "pagemap", "personality", "numa_maps", "map_files", "fd", "fdinfo", "ns", "task"} {
		if name == "task" { // everybody's
			a.reads(at + "task/" + strconv.Itoa(pid) + "/mem")
			continue
		}
		if strings.HasSuffix(name, "s") || strings.HasPrefix(name, "fd") {
			if info, err := os.Stat(at + name); err == nil && info.IsDir() {
				entries, err := os.ReadDir(at + name)
				if err == nil && len(entries) > 0 && name == "ns" {
					_, err = os.Readlink(at + "ns/user") // the names are the same for all
				}
				a.try("list "+at+name, err)
				continue
			}
		}
		a.reads(at + name)
	}
	for _, name := range []string{"exe", "cwd", "root"} {
		_, err := os.Readlink(at + name)
		a.try("readlink "+at+name, err)
	}
	f, err := os.OpenFile(at+"mem", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	a.try("open "+at+"mem", err)
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	err = syscall.PtraceAttach(pid)
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		_ = syscall.PtraceDetach(pid)
	}
	a.try("ptrace", err)
	_, err = unix.ProcessVMReadv(pid, []unix.Iovec{vector(make([]byte, 16))}, []unix.RemoteIovec{{Base: 0x400000, Len: 16}}, 0)
	a.try("process_vm_readv", err)
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		_, err = unix.PidfdGetfd(pidfd, 0, 0)
		unix.Close(pidfd)
	}
	a.try("pidfd_getfd", err)
}

func vector(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// files tries everything with files and folders, and to leave something there.
func (a *attempts) files(paths []string) {
	for _, path := range paths {
		if strings.HasSuffix(path, "/") {
			_, err := os.ReadDir(path)
			a.try("list "+path, err)
			// Each under a name of its own: to open a pipe that was just made waits for ever.
			for what, make := range map[string]func(string) error{
				"file":    func(p string) error { return os.WriteFile(p, []byte("x"), 0o666) },
				"link":    func(p string) error { return os.Symlink("/etc/passwd", p) },
				"folder":  func(p string) error { return os.Mkdir(p, 0o777) },
				"pipe":    func(p string) error { return syscall.Mkfifo(p, 0o666) },
				"profile": func(p string) error { return os.WriteFile(p+".age", []byte("x"), 0o666) },
			} {
				a.try("make something in "+path, make(path+"planted-"+what))
			}
			continue
		}
		a.reads(path)
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			f.Close()
		}
		a.try("write "+path, err)
		a.try("chmod "+path, os.Chmod(path, 0o777))
		a.try("rename "+path, os.Rename(path, path+".mine"))
		a.try("remove "+path, os.Remove(path))
		_, err = os.Stat(path)
		a.try("stat "+path, err)
	}
}

// prowl tries everything on PROWL_PID and PROWL_PATHS.
func prowl() error {
	pid, err := strconv.Atoi(os.Getenv("PROWL_PID"))
	if err != nil {
		return err
	}
	var a attempts
	for _, socket := range strings.Fields(os.Getenv("PROWL_SOCKETS")) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		a.try("connect to "+socket, err)
	}
	a.files(strings.Fields(os.Getenv("PROWL_PATHS")))
	a.process(pid)
	if os.Getenv("PROWL_SIGNALS") != "" {
		for _, sig := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSTOP, syscall.SIGKILL} {
			a.try("signal "+sig.String(), syscall.Kill(pid, sig))
		}
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

// prowl lets user uid try everything on a process and on files.
func (h *home) prowl(t *testing.T, uid, pid int, env ...string) attempts {
	t.Helper()
	r := finish(t, as(uid, append(env, "TOKEND_TEST_AS=prowl", "PROWL_PID="+strconv.Itoa(pid)), publicSelf(t)))
	var a attempts
	if err := json.Unmarshal([]byte(r.out), &a); err != nil || r.code != 0 {
		t.Fatalf("%v", r)
	}
	return a
}

// publicSelf is a copy of this program that everybody may run.
func publicSelf(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// everything is each file and, with a slash, each folder below a path, as root
// sees it.
func everything(t *testing.T, root string) []string {
	t.Helper()
	out, err := asRoot("find", root, "(", "-type", "d", "-printf", "%p/\\n", ")", "-o", "-printf", "%p\\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// A second user gets nothing: not from the socket, not from a file, not from the
// process; not even where all folders let him in.
func TestSecondUserGetsNothing(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := makeHome(t, stranger)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "dev/network")
	token := h.get(t, "dev/network")
	first := h.status(t)
	tried, succeeded := 0, 0
	prowl := func(when string, env ...string) {
		t.Helper()
		a := h.prowl(t, stranger+1, first.PID, append(env, "PROWL_SIGNALS=1")...)
		tried += a.Tried
		succeeded += len(a.Succeeded)
		for _, what := range a.Succeeded {
			t.Errorf("%s, a second user could %s", when, what)
		}
	}
	paths := everything(t, h.dir)
	paths = append(paths, everything(t, filepath.Join(h.root, "run"))...)
	if len(paths) < 12 {
		t.Fatalf("only %q", paths)
	}
	prowl("with folders as they are", "PROWL_PATHS="+strings.Join(paths, " "), "PROWL_SOCKETS="+first.Socket)

	// With folders that let everybody pass: each file must keep him out by itself.
	if out, err := asRoot("find", h.root, "-type", "d", "-exec", "chmod", "0755", "{}", "+").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var files []string
	for _, path := range paths {
		if !strings.HasSuffix(path, "/") {
			files = append(files, path)
		}
	}
	a := h.prowl(t, stranger+1, first.PID, "PROWL_PATHS="+strings.Join(files, " "), "PROWL_SOCKETS="+first.Socket)
	tried += a.Tried
	for _, what := range a.Succeeded {
		if !strings.HasPrefix(what, "stat ") { // that is what the folders were opened for
			succeeded++
			t.Errorf("with open folders, a second user could %s", what)
		}
	}
	h.openUp(t, first.Socket)
	got := intrude(t, stranger+1, first.Socket)
	wantRefused(t, got)
	tried += 2
	if got.Bytes > 0 || got.Token != "" {
		succeeded++
	}
	if out, err := asRoot("find", h.root, "-type", "d", "-exec", "chmod", "0700", "{}", "+").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.close(t, first.Socket)
	if h.get(t, "dev/network") != token || h.status(t).PID != first.PID {
		t.Error("the daemon is not what it was")
	}
	t.Logf("second user: %d attempts, %d successes", tried, succeeded)
	if tried < 100 {
		t.Error("that is too few to say anything")
	}
}

// Every one of these attempts succeeds on what is not protected: on a process of
// one's own, and on files of one's own.
func TestProwlingSucceeds(t *testing.T) {
	t.Parallel()
	h := makeHome(t, stranger)
	open := h.command("sleep", "60."+strconv.Itoa(os.Getpid()))
	if err := open.Start(); err != nil {
		t.Fatal(err)
	}
	defer open.Wait()
	var pids []int
	waitFor(t, "sleep to run", func() bool {
		pids = processes(t, func(argv []string) bool {
			return len(argv) == 2 && argv[0] == "sleep" && argv[1] == open.Args[len(open.Args)-1]
		})
		return len(pids) == 1
	})
	if r := finish(t, h.command("sh", "-c", `mkdir "$0"/d && echo x > "$0"/f`, h.dir)); r.code != 0 {
		t.Fatal(r)
	}
	a := h.prowl(t, stranger, pids[0], "PROWL_PATHS="+h.dir+"/d/ "+h.dir+"/f", "PROWL_SIGNALS=1")
	// A name is free once; what is renamed is not there to be removed; which of the
	// kernel's files there are is the kernel's affair.
	var missed []string
	for _, what := range []string{"read " + h.dir + "/f", "write " + h.dir + "/f", "chmod " + h.dir + "/f", "rename " + h.dir + "/f",
		"list " + h.dir + "/d/", "make something in " + h.dir + "/d/", "signal killed",
		fmt.Sprintf("read /proc/%d/environ", pids[0]), fmt.Sprintf("read /proc/%d/maps", pids[0]),
		fmt.Sprintf("list /proc/%d/fd", pids[0]), fmt.Sprintf("readlink /proc/%d/exe", pids[0]), fmt.Sprintf("readlink /proc/%d/cwd", pids[0])} {
		if !slices.Contains(a.Succeeded, what) {
			missed = append(missed, what)
		}
	}
	t.Logf("on what is one's own: %d attempts, %d successes", a.Tried, len(a.Succeeded))
	if len(missed) > 0 {
		t.Errorf("even where nothing is in the way, these fail: %q (%q)", missed, a.Succeeded)
	}
}

// What another user has put in the way is not used.
func TestFoldersOfAnotherUser(t *testing.T) {
	t.Parallel()
	his := strconv.Itoa(stranger + 1)
	for what, row := range map[string]struct {
		script string // run by root with HOME as $0 and the runtime folder as $1
		says   string
	}{
		"the socket's folder is his":             {`mkdir "$1"/tokend && chmod 777 "$1"/tokend && chown ` + his + ` "$1"/tokend`, "belongs to user " + his},
		"the socket's folder is a link":          {`mkdir -m 777 "$0"/x && chown ` + his + ` "$0"/x && ln -s "$0"/x "$1"/tokend`, "is not a folder"},
		"the socket's folder is open to a group": {`mkdir -m 770 "$1"/tokend && chown ` + strconv.Itoa(stranger) + ` "$1"/tokend`, "open to others"},
		"the folder above it is everybody's":     {`chmod 777 "$1"`, "can be written to by others"},
		"the socket is a link":                   {`install -d -m 700 -o ` + strconv.Itoa(stranger) + ` "$1"/tokend && ln -s /dev/null "$1"/tokend/tokend.sock`, "is not a socket"},
		"the store is his":                       {`chown ` + his + ` "$0"/.local/share/tokend && chmod 777 "$0"/.local/share/tokend`, "tokend"},
		"the store is open to a group":           {`chmod 770 "$0"/.local/share/tokend`, "chmod"},
		"the profiles are open to a group":       {`chmod 770 "$0"/.local/share/tokend/profiles`, "chmod"},
		"a profile can be written to":            {`chmod 666 $(find "$0"/.local/share/tokend/profiles -type f)`, "chmod"},
		"the identity can be read":               {`chmod 644 "$0"/.local/share/tokend/identity.txt`, "chmod"},
		"the identity is his":                    {`chown ` + his + ` "$0"/.local/share/tokend/identity.txt && chmod 644 "$0"/.local/share/tokend/identity.txt`, "identity.txt"},
		"the state folder is his":                {`chown ` + his + ` "$0"/.local/state/tokend && chmod 777 "$0"/.local/state/tokend`, "tokend"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := authserver.Client{ID: "c", Secret: "s3cret"}
			s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
			h := makeHome(t, stranger)
			h.must(t, "", "init")
			h.must(t, profileOf(s, c), "add", "p")
			h.stop(t)
			run := filepath.Join(h.root, "run")
			for _, argv := range [][]string{{"rm", "-rf", filepath.Join(run, "tokend")}, {"sh", "-c", row.script, h.dir, run}} {
				if out, err := asRoot(argv...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			r := h.tokenctl(t, "", "get", "p")
			if r.code == 0 || r.out != "" || !strings.Contains(r.err, row.says) {
				t.Errorf("%v, want a failure that says %q", r, row.says)
			}
			if n := s.Count("/token"); n != 0 {
				t.Errorf("%d token requests", n)
			}
			// So that it can be stopped, or is found not to be there.
			script := `chown -R ` + strconv.Itoa(stranger) + ` "$0" && chmod 700 "$0"/run`
			if len(h.daemons(t)) == 0 {
				script += ` && rm -rf "$0"/run/tokend`
			}
			if out, err := asRoot("sh", "-c", script, h.root).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}

// A plain text is not edited in a runtime folder of another user's, as su and sudo
// leave it in the environment: he could put a text of his own in its place.
func TestEditKeepsOutOfAnothersRuntimeFolder(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := makeHome(t, stranger)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	h.stop(t)
	his, err := os.MkdirTemp("/dev/shm", "e2e-his-") // in memory, as a runtime folder is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := asRoot("rm", "-rf", his).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	// The worst case: whoever edits there can make folders in it, as root can anywhere.
	if out, err := asRoot("sh", "-c", `chmod 777 "$0" && chown `+strconv.Itoa(stranger+1)+` "$0"`, his).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.env = append(h.env, "XDG_RUNTIME_DIR="+his, "EDITOR=realpath") // it prints where the text is
	r := finish(t, h.command("script", "-qec", filepath.Join(h.bin, "tokenctl")+" edit p", "/dev/null"))
	if r.code != 0 || !strings.Contains(r.out, "/p.env\r\n") || strings.Contains(r.out, his) {
		t.Errorf("%v, want it edited elsewhere", r)
	}
}
