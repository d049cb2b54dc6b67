// Package fakelogind is an org.freedesktop.login1 that does what a test says, on a
// bus of the test's own.
package fakelogind

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	service    = "org.freedesktop.login1"
	manager    = "org.freedesktop.login1.Manager"
	session    = "org.freedesktop.login1.Session"
	properties = "org.freedesktop.DBus.Properties"
	root       = dbus.ObjectPath("/org/freedesktop/login1")
)

// config is a bus on which everybody may do everything, as dbus-daemon(1) says.
const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>ADDRESS</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
`

// Bus is a dbus-daemon.
type Bus struct {
	Address string

	config string
	stop   func()
}

// StartBus starts one for the length of the test.
func StartBus(t testing.TB) *Bus {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // t.TempDir's are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &Bus{Address: "unix:path=" + filepath.Join(dir, "bus"), config: filepath.Join(dir, "bus.conf")}
	if err := os.WriteFile(b.config, []byte(strings.Replace(config, "ADDRESS", b.Address, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Stop() })
	b.Start(t)
	return b
}

// Start starts it again, at the same address.
func (b *Bus) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command("dbus-daemon", "--config-file="+b.config, "--nofork", "--nopidfile", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.Remove(strings.TrimPrefix(b.Address, "unix:path="))
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("waiting for dbus-daemon: %v", err)
	}
}

// Stop ends it, and with it every connection.
func (b *Bus) Stop() { b.stop() }

// Connect is one more connection, for the length of the test.
func (b *Bus) Connect(t testing.TB) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(b.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Session is a login session.
type Session struct {
	ID   string
	UID  int
	Path dbus.ObjectPath

	logind *Logind
	locked bool // guarded by logind.mu
}

// Logind owns the name.
type Logind struct {
	t    testing.TB
	conn *dbus.Conn

	mu       sync.Mutex
	changed  *sync.Cond
	sessions []*Session
	held     int // inhibitors
	given    []*os.File
}

// StartLogind puts one on the bus.
func (b *Bus) StartLogind(t testing.TB) *Logind {
	t.Helper()
	l := &Logind{t: t, conn: b.Connect(t)}
	l.changed = sync.NewCond(&l.mu)
	if err := l.conn.Export(managed{l}, root, manager); err != nil {
		t.Fatal(err)
	}
	if got, err := l.conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || got != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%s is not to be had: %v %v", service, got, err)
	}
	return l
}

// Stop takes it off the bus. Inhibitors that are held then are held no more.
func (l *Logind) Stop() { _ = l.conn.Close() }

// AddSession begins a session of a user.
func (l *Logind) AddSession(id string, uid int, locked bool) *Session {
	l.t.Helper()
	s := &Session{ID: id, UID: uid, Path: root + dbus.ObjectPath("/session/_3"+id), logind: l, locked: locked}
	if err := l.conn.Export(s, s.Path, properties); err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions = append(l.sessions, s)
	return s
}

// AwaitInhibitors waits until that many are held.
func (l *Logind) AwaitInhibitors(n int) {
	l.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	defer time.AfterFunc(time.Until(deadline), l.changed.Broadcast).Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.held != n {
		if !time.Now().Before(deadline) {
			l.t.Fatalf("%d inhibitors are held, want %d", l.held, n)
		}
		l.changed.Wait()
	}
}

// Inhibitors is how many are held at this very moment.
func (l *Logind) Inhibitors() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.given {
		raw, err := r.SyscallConn()
		if err != nil {
			continue // it is closed
		}
		_ = raw.Control(func(fd uintptr) {
			ends := []unix.PollFd{{Fd: int32(fd)}}
			if _, err := unix.Poll(ends, 0); err == nil && ends[0].Revents&unix.POLLHUP == 0 {
				n++
			}
		})
	}
	return n
}

// Emit sends a signal to everybody.
func (l *Logind) Emit(path dbus.ObjectPath, name string, values ...any) {
	l.t.Helper()
	if err := l.conn.Emit(path, name, values...); err != nil {
		l.t.Fatal(err)
	}
}

// PrepareForSleep says that the machine is about to sleep, or that it woke.
func (l *Logind) PrepareForSleep(begins bool) {
	l.t.Helper()
	l.Emit(root, manager+".PrepareForSleep", begins)
}

// Lock is loginctl lock-session.
func (s *Session) Lock() {
	s.logind.t.Helper()
	s.logind.Emit(s.Path, session+".Lock")
}

// SetLockedHint is what a desktop does when its screen is locked or unlocked.
func (s *Session) SetLockedHint(locked bool) {
	s.logind.t.Helper()
	s.logind.mu.Lock()
	s.locked = locked
	s.logind.mu.Unlock()
	s.logind.Emit(s.Path, properties+".PropertiesChanged", session, map[string]dbus.Variant{"LockedHint": dbus.MakeVariant(locked)}, []string{})
}

// Get is a call that comes over the bus.
func (s *Session) Get(_, name string) (dbus.Variant, *dbus.Error) {
	s.logind.mu.Lock()
	defer s.logind.mu.Unlock()
	switch name {
	case "LockedHint":
		return dbus.MakeVariant(s.locked), nil
	case "User":
		return dbus.MakeVariant(struct {
			UID  uint32
			Path dbus.ObjectPath
		}{uint32(s.UID), root + "/user/_1"}), nil
	}
	return dbus.Variant{}, dbus.MakeFailedError(os.ErrNotExist)
}

// managed is what can be called of the manager.
type managed struct{ logind *Logind }

type listed struct {
	ID         string
	UID        uint32
	User, Seat string
	Path       dbus.ObjectPath
}

func (m managed) ListSessions() ([]listed, *dbus.Error) {
	m.logind.mu.Lock()
	defer m.logind.mu.Unlock()
	all := []listed{}
	for _, s := range m.logind.sessions {
		all = append(all, listed{s.ID, uint32(s.UID), "someone", "seat0", s.Path})
	}
	return all, nil
}

// Inhibit answers by itself, so that it can close the descriptor that it has sent:
// what godbus sends after it is an answer that nobody waits for.
func (m managed) Inhibit(msg dbus.Message, what, _, _, mode string) *dbus.Error {
	if what != "sleep" || mode != "delay" {
		return dbus.MakeFailedError(os.ErrInvalid)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	m.logind.mu.Lock()
	m.logind.given = append(m.logind.given, r)
	m.logind.mu.Unlock()
	m.add(1)
	sent := m.logind.conn.Send(&dbus.Message{
		Type: dbus.TypeMethodReply,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: msg.Headers[dbus.FieldSender],
			dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial()),
			dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(dbus.UnixFD(0))),
		},
		Body: []any{dbus.UnixFD(w.Fd())},
	}, nil)
	_ = w.Close()
	go func() {
		_, _ = io.Copy(io.Discard, r) // until nobody holds the other end
		_ = r.Close()
		m.add(-1)
	}()
	if sent.Err != nil {
		return dbus.MakeFailedError(sent.Err)
	}
	return nil
}

func (m managed) add(n int) {
	m.logind.mu.Lock()
	defer m.logind.mu.Unlock()
	m.logind.held += n
	m.logind.changed.Broadcast()
}
