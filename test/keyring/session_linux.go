// Package keyring gives a test a D-Bus session of its own with a real
// gnome-keyring in it. Nothing of it outlives the test, and nothing of it is the
// user's.
package keyring

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// Session is a private session bus.
type Session struct {
	Address string // DBUS_SESSION_BUS_ADDRESS
	Runtime string // XDG_RUNTIME_DIR: where the bus is where no variable says

	// Env is both, as a program of this session has them.
	Env []string

	dir     string
	conn    *dbus.Conn
	keyring *exec.Cmd
}

// The bus starts nothing: what is not there is not there.
const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

const password = "test"

// Start makes a session with an unlocked gnome-keyring.
func Start(t testing.TB) *Session {
	t.Helper()
	s := StartBus(t)
	s.StartKeyring(t)
	return s
}

// StartBus makes a session with nothing in it but the bus.
func StartBus(t testing.TB) *Session {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyring-") // sockets have short paths only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"home", "run", "data"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	bus := filepath.Join(dir, "run", "bus")
	file := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, bus), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Session{dir: dir, Address: "unix:path=" + bus, Runtime: filepath.Join(dir, "run")}
	s.Env = []string{"XDG_RUNTIME_DIR=" + s.Runtime, "DBUS_SESSION_BUS_ADDRESS=" + s.Address}
	s.run(t, "", "dbus-daemon", "--nofork", "--nopidfile", "--nosyslog", "--config-file="+file)
	s.poll(t, "the bus", func() bool {
		s.conn, err = dbus.Connect(s.Address)
		return err == nil
	})
	t.Cleanup(func() { s.conn.Close() })
	return s
}

// StartKeyring starts gnome-keyring, unlocked, with what items an earlier one
// of this session has left.
func (s *Session) StartKeyring(t testing.TB) {
	t.Helper()
	s.start(t, "gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
}

// StartEmptyKeyring starts a gnome-keyring that nobody has logged in to.
func (s *Session) StartEmptyKeyring(t testing.TB) {
	t.Helper()
	s.start(t, "gnome-keyring-daemon", "--foreground", "--components=secrets")
}

func (s *Session) start(t testing.TB, argv ...string) {
	t.Helper()
	s.keyring = s.run(t, password, argv...)
	s.poll(t, "the keyring", s.owned)
}

// owned says whether there is a keyring on the bus.
func (s *Session) owned() bool {
	var owned bool
	err := s.conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, "org.freedesktop.secrets").Store(&owned)
	return err == nil && owned
}

// run starts a program of the session, which is killed when the test ends.
func (s *Session) run(t testing.TB, stdin string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append([]string{
		"HOME=" + filepath.Join(s.dir, "home"), "XDG_DATA_HOME=" + filepath.Join(s.dir, "data"), "PATH=" + os.Getenv("PATH"),
	}, s.Env...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// Freeze stops gnome-keyring in the middle of whatever it does.
func (s *Session) Freeze(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

// Thaw lets it go on.
func (s *Session) Thaw(t testing.TB) { s.signal(t, syscall.SIGCONT) }

// StopKeyring ends gnome-keyring.
func (s *Session) StopKeyring(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	_ = s.keyring.Wait()
	s.poll(t, "the keyring's end", func() bool { return !s.owned() })
}

func (s *Session) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := s.keyring.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

const login = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")

// Lock locks the collection that items are in.
func (s *Session) Lock(t testing.TB) {
	t.Helper()
	var locked []dbus.ObjectPath
	var prompt dbus.ObjectPath
	err := s.service().Call("org.freedesktop.Secret.Service.Lock", 0, []dbus.ObjectPath{login}).Store(&locked, &prompt)
	if err != nil || len(locked) != 1 {
		t.Fatalf("locking: %v, %v", locked, err)
	}
}

func (s *Session) service() dbus.BusObject {
	return s.conn.Object("org.freedesktop.secrets", "/org/freedesktop/secrets")
}

// Item is one of the keyring's.
type Item struct {
	Account string
	Secret  []byte

	path dbus.ObjectPath
}

// Items returns the items of go-keyring's service "tokend".
func (s *Session) Items(t testing.TB) []Item {
	t.Helper()
	var none dbus.Variant
	var session dbus.ObjectPath
	if err := s.service().Call("org.freedesktop.Secret.Service.OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&none, &session); err != nil {
		t.Fatal(err)
	}
	var found []dbus.ObjectPath
	if err := s.conn.Object("org.freedesktop.secrets", login).Call("org.freedesktop.Secret.Collection.SearchItems", 0,
		map[string]string{"service": "tokend"}).Store(&found); err != nil {
		t.Fatal(err)
	}
	var items []Item
	for _, path := range found {
		object := s.conn.Object("org.freedesktop.secrets", path)
		attributes, err := object.GetProperty("org.freedesktop.Secret.Item.Attributes")
		if err != nil {
			t.Fatal(err)
		}
		var secret struct {
			Session           dbus.ObjectPath
			Parameters, Value []byte
			ContentType       string
		}
		if err := object.Call("org.freedesktop.Secret.Item.GetSecret", 0, session).Store(&secret); err != nil {
			t.Fatal(err)
		}
		items = append(items, Item{attributes.Value().(map[string]string)["username"], secret.Value, path})
	}
	return items
}

// Remove deletes an item, as another program would.
func (s *Session) Remove(t testing.TB, item Item) {
	t.Helper()
	if err := s.conn.Object("org.freedesktop.secrets", item.path).Call("org.freedesktop.Secret.Item.Delete", 0).Err; err != nil {
		t.Fatal(err)
	}
}

// Change gives an item another secret, as another program would.
func (s *Session) Change(t testing.TB, item Item, secret string) {
	t.Helper()
	var none dbus.Variant
	var session dbus.ObjectPath
	if err := s.service().Call("org.freedesktop.Secret.Service.OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&none, &session); err != nil {
		t.Fatal(err)
	}
	value := struct {
		Session           dbus.ObjectPath
		Parameters, Value []byte
		ContentType       string
	}{session, []byte{}, []byte(secret), "text/plain"}
	if err := s.conn.Object("org.freedesktop.secrets", item.path).Call("org.freedesktop.Secret.Item.SetSecret", 0, value).Err; err != nil {
		t.Fatal(err)
	}
}

// Prompter is who answers gnome-keyring's prompts.
type Prompter int

// The ways to answer a prompt.
const (
	Dismiss Prompter = iota // close the window
	Ignore                  // leave it open
)

// exchange begins the agreement on a key to encrypt passwords with. None is ever
// sent, so any public value will do.
var exchange = "[sx-aes-1]\npublic=" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x55}, 192)) + "\n"

// Prompt puts somebody at the screen of the session, who does that with every
// prompt. What the returned channel delivers is a prompt that was shown.
func (s *Session) Prompt(t testing.TB, p Prompter) (shown <-chan struct{}) {
	t.Helper()
	seen := make(chan struct{}, 100)
	conn, err := dbus.Connect(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var answering sync.WaitGroup
	t.Cleanup(answering.Wait)
	// A window that is closed is a "no" to the first thing that is asked in it.
	reply := func(sender dbus.Sender, callback dbus.ObjectPath, reply string) {
		if p == Ignore {
			return
		}
		answering.Go(func() {
			// gnome-keyring's main loop has to have heard that its own call has
			// returned, or it hears nothing.
			for range 10 {
				_, _ = conn.Object("org.freedesktop.secrets", "/org/freedesktop/secrets").GetProperty("org.freedesktop.Secret.Service.Collections")
			}
			_ = conn.Object(string(sender), callback).Call("org.gnome.keyring.internal.Prompter.Callback.PromptReady",
				0, reply, map[string]dbus.Variant{}, exchange).Err
		})
	}
	begin := func(sender dbus.Sender, callback dbus.ObjectPath) *dbus.Error {
		seen <- struct{}{}
		reply(sender, callback, "")
		return nil
	}
	perform := func(sender dbus.Sender, callback dbus.ObjectPath, _ string, _ map[string]dbus.Variant, _ string) *dbus.Error {
		reply(sender, callback, "no")
		return nil
	}
	stop := func(dbus.ObjectPath) *dbus.Error { return nil }
	if err := conn.ExportMethodTable(map[string]any{"BeginPrompting": begin, "PerformPrompt": perform, "StopPrompting": stop},
		"/org/gnome/keyring/Prompter", "org.gnome.keyring.internal.Prompter"); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName("org.gnome.keyring.SystemPrompter", 0); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("taking the prompter's name: %v, %v", reply, err)
	}
	return seen
}

// poll waits for what another process brings about.
func (s *Session) poll(t testing.TB, what string, done func() bool) {
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
