package socket_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"tokend/internal/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newFolder is private, and its name short enough for a socket's path.
func newFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tokend")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func listen(t *testing.T, path string) *socket.Listener {
	t.Helper()
	l, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// stale leaves a socket that nothing listens on.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, want one with %q", err, part)
	}
}

func TestListenMakesItPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(newFolder(t), "a", "b", "s")
	l := listen(t, path)
	for p, mode := range map[string]os.FileMode{
		path:                             0o600 | os.ModeSocket,
		filepath.Dir(path):               0o700 | os.ModeDir,
		filepath.Dir(filepath.Dir(path)): 0o700 | os.ModeDir,
	} {
		if fi, err := os.Lstat(p); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", p, fi.Mode(), err, mode)
		}
	}
	if now := syscall.Umask(0); now != 0 {
		t.Errorf("umask was left at %o", now)
	}
	if l.Addr().String() != path {
		t.Errorf("address is %v", l.Addr())
	}
}

func TestListenRefuses(t *testing.T) {
	dir := newFolder(t)
	mkdir := func(name string, mode os.FileMode) string {
		t.Helper()
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, mode := range []os.FileMode{0o710, 0o701, 0o770, 0o777} {
		d := mkdir(mode.String(), mode)
		_, err := socket.Listen(filepath.Join(d, "s"))
		wantError(t, err, "is open to others; run: chmod 700 '"+d+"'")
		if fi, _ := os.Lstat(d); fi.Mode().Perm() != mode {
			t.Error("it was repaired")
		}
	}

	open := mkdir("open", 0o777)
	if err := os.Mkdir(filepath.Join(open, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := socket.Listen(filepath.Join(open, "run", "s"))
	wantError(t, err, "folder "+open+", above the socket, can be written to by others")

	private := mkdir("private", 0o700)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(private, link); err != nil {
		t.Fatal(err)
	}
	_, err = socket.Listen(filepath.Join(link, "s"))
	wantError(t, err, link+" is not a folder")

	file := filepath.Join(private, "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = socket.Listen(file)
	wantError(t, err, file+" is not a socket; it stays as it is")
	if b, err := os.ReadFile(file); err != nil || string(b) != "keep" {
		t.Errorf("the file: %q, %v", b, err)
	}
	stale(t, filepath.Join(private, "real"))
	sym := filepath.Join(private, "sym")
	if err := os.Symlink(filepath.Join(private, "real"), sym); err != nil {
		t.Fatal(err)
	}
	_, err = socket.Listen(sym)
	wantError(t, err, sym+" is not a socket")
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(newFolder(t), "s")
	stale(t, path)
	listen(t, path)
	c, err := socket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestLiveSocketIsNot(t *testing.T) {
	path := filepath.Join(newFolder(t), "s")
	l := listen(t, path)
	_, err := socket.Listen(path)
	wantError(t, err, "another daemon listens on "+path)
	if l.Lost() {
		t.Error("the first one's socket is gone")
	}
	c, err := socket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestAccept(t *testing.T) {
	path := filepath.Join(newFolder(t), "s")
	l := listen(t, path)
	c, err := socket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := s.RemoteAddr().(socket.Peer); !ok || got.PID != os.Getpid() || got.UID != os.Geteuid() || got.Network() != "unix" {
		t.Errorf("the peer is %v", s.RemoteAddr())
	}
	if n := l.Open(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	s.Close()
	s.Close() // twice counts once
	if n := l.Open(); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

func TestConnectionsOfOneProcess(t *testing.T) {
	const most = 64
	path := filepath.Join(newFolder(t), "s")
	l := listen(t, path)
	accepted := make(chan net.Conn)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := socket.Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var inside []net.Conn
	for range most {
		dial()
		inside = append(inside, <-accepted)
	}
	// One more is closed before a byte.
	if n, err := dial().Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("one too many: %d bytes, %v", n, err)
	}
	if n := l.Open(); n != most {
		t.Errorf("%d connections, want %d", n, most)
	}
	inside[0].Close()
	dial()
	inside[0] = <-accepted
	for _, c := range inside {
		c.Close()
	}
	if n := l.Open(); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
	l.Close()
	<-ended
}

func TestLost(t *testing.T) {
	path := filepath.Join(newFolder(t), "s")
	l := listen(t, path)
	if l.Lost() {
		t.Error("lost at once")
	}
	// Moved aside, so that the other one cannot get its inode.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if !l.Lost() {
		t.Error("not lost although it is gone")
	}
	other := listen(t, path)
	if !l.Lost() || other.Lost() {
		t.Error("it is the other one's now")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if other.Lost() {
		t.Error("closing removed another's socket")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("closing left its socket: %v", err)
	}
}

func TestDialWhereNothingListens(t *testing.T) {
	dir := newFolder(t)
	stale(t, filepath.Join(dir, "stale"))
	for _, path := range []string{filepath.Join(dir, "stale"), filepath.Join(dir, "missing"), filepath.Join(dir, "no", "folder")} {
		if _, err := socket.Dial(t.Context(), path); !errors.Is(err, socket.ErrNotRunning) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestDialRefuses(t *testing.T) {
	dir := newFolder(t)
	path := filepath.Join(dir, "run", "s")
	listen(t, path)
	refused := func(path, part string) {
		t.Helper()
		_, err := socket.Dial(t.Context(), path)
		wantError(t, err, part)
		if errors.Is(err, socket.ErrNotRunning) {
			t.Errorf("%v would start another daemon", err)
		}
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o660, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		refused(path, "socket "+path+" is open to others")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	refused(path, "of the socket is open to others")
	if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	refused(link, link+" is not a socket")
	folder := filepath.Join(dir, "folder")
	if err := os.Symlink(filepath.Dir(path), folder); err != nil {
		t.Fatal(err)
	}
	refused(filepath.Join(folder, "s"), folder+" is not a folder")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(file, file+" is not a socket")
}
