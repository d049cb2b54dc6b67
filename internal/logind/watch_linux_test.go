package logind

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"tokend/internal/logind/fakelogind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a Watch and what it has told.
type watched struct {
	events chan Event
	done   chan struct{} // each event ends when something is taken from it, or it is closed
	log    *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Split(strings.TrimSuffix(s.b.String(), "\n"), "\n")
}

func logger(to *safeBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// watch runs Watch for the length of the test. Its events wait for each other, and
// with slow, each for its end.
func watch(t *testing.T, address string, slow bool) *watched {
	t.Helper()
	w := &watched{events: make(chan Event), done: make(chan struct{}), log: new(safeBuffer)}
	if !slow {
		close(w.done)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Watch(ctx, address, logger(w.log), func(e Event) {
			select {
			case w.events <- e:
			case <-ctx.Done():
				return
			}
			select {
			case <-w.done:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return w
}

func (w *watched) next(t *testing.T, want Event) {
	t.Helper()
	select {
	case got := <-w.events:
		if got != want {
			t.Fatalf("event %v, want %v", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("event %v does not come", want)
	}
}

// others is not this user.
var others = os.Geteuid() + 1

func TestTheMachineSleepsWhenItHasBeenHandled(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	w := watch(t, bus.Address, true)
	for range 2 {
		l.AwaitInhibitors(1)
		l.PrepareForSleep(true)
		w.next(t, Suspend)
		if n := l.Inhibitors(); n != 1 {
			t.Fatalf("%d inhibitors while the suspend is being handled", n)
		}
		w.done <- struct{}{}
		l.AwaitInhibitors(0)
		l.PrepareForSleep(false)
		w.next(t, Woken)
		w.done <- struct{}{}
	}
	l.AwaitInhibitors(1)
}

func TestScreenLocks(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	mine, other := l.AddSession("1", os.Geteuid(), false), l.AddSession("2", others, false)
	w := watch(t, bus.Address, false)
	l.AwaitInhibitors(1)

	mine.Lock()
	w.next(t, ScreenLocked)
	mine.SetLockedHint(true)
	w.next(t, ScreenLocked)

	// Those that began later, too; what is told of others' is not.
	later, foreign := l.AddSession("3", os.Geteuid(), false), l.AddSession("4", others, false)
	other.Lock()
	other.SetLockedHint(true)
	foreign.Lock()
	foreign.SetLockedHint(true)
	mine.SetLockedHint(false)
	later.SetLockedHint(false)
	l.PrepareForSleep(false)
	w.next(t, Woken)
	later.SetLockedHint(true)
	w.next(t, ScreenLocked)
	later.Lock()
	w.next(t, ScreenLocked)
}

// Anybody on the bus can send a signal to this connection alone, and no rule for
// what it wants to hear keeps that away.
func TestOnlyLogindIsBelieved(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	mine := l.AddSession("1", os.Geteuid(), false)
	before := names(t, bus)
	w := watch(t, bus.Address, false)
	l.AwaitInhibitors(1)

	impostor := bus.Connect(t)
	var to string
	for name := range names(t, bus) {
		if !before[name] && name != impostor.Names()[0] {
			to = name
		}
	}
	locks := func(from *dbus.Conn) {
		t.Helper()
		send(t, from, to, "/org/freedesktop/login1", manager+".PrepareForSleep", true)
		send(t, from, to, mine.Path, session+".Lock")
		send(t, from, to, mine.Path, properties+".PropertiesChanged", session, map[string]dbus.Variant{"LockedHint": dbus.MakeVariant(true)}, []string{})
	}
	locks(impostor)
	send(t, impostor, to, "/org/freedesktop/DBus", "org.freedesktop.DBus.NameOwnerChanged", service, "", impostor.Names()[0])
	locks(impostor)
	send(t, impostor, to, "/", "a.b.C", strings.Repeat("x", 2*maxFrame))
	l.PrepareForSleep(false)
	w.next(t, Woken)
	if got := w.log.lines(); len(got) != 1 {
		t.Errorf("the connection was lost: it logged %q", got)
	}

	// The same signals are obeyed where they come from logind.
	if _, err := impostor.RequestName(service, 0); err != nil {
		t.Fatal(err)
	}
	l.Stop()
	for owner := ""; owner != impostor.Names()[0]; {
		if err := impostor.BusObject().Call("org.freedesktop.DBus.GetNameOwner", 0, service).Store(&owner); err != nil {
			t.Fatal(err)
		}
	}
	locks(impostor)
	w.next(t, Suspend)
	// It answers no question, so nobody knows whose the session is.
	send(t, impostor, to, "/org/freedesktop/login1", manager+".PrepareForSleep", false)
	w.next(t, Woken)
}

// Nor can anybody fill the process with file descriptors.
func TestDescriptorsAreNotTaken(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	before := names(t, bus)
	w := watch(t, bus.Address, false)
	l.AwaitInhibitors(1)
	after := names(t, bus)
	takes := bus.Connect(t)
	impostor := bus.Connect(t)
	given := make(chan *dbus.Signal, 1)
	takes.Signal(given)

	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer p.Close()
	pipe, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", p.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	for name := range after {
		if !before[name] {
			send(t, impostor, name, "/", "a.b.C", dbus.UnixFD(p.Fd()))
		}
	}
	l.PrepareForSleep(false)
	w.next(t, Woken)
	if n := open(t, pipe); n != 2 {
		t.Errorf("both ends of the pipe are open %d times", n)
	}
	send(t, impostor, takes.Names()[0], "/", "a.b.C", dbus.UnixFD(p.Fd()))
	got := <-given
	for got.Name != "a.b.C" { // the bus greets it
		got = <-given
	}
	fd := got.Body[0].(dbus.UnixFD)
	if n := open(t, pipe); n != 3 {
		t.Errorf("the pipe of a connection that takes descriptors is open %d times: this test shows nothing", n)
	}
	_ = os.NewFile(uintptr(fd), "pipe").Close()
}

// A new logind may have things to say while those of the last one are still being
// handled.
func TestANewLogindIsHeardAtOnce(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	w := watch(t, bus.Address, true)
	l.AwaitInhibitors(1)
	l.PrepareForSleep(false)
	w.next(t, Woken)
	l.Stop()
	conn := bus.Connect(t)
	for owned := true; owned; {
		if err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, service).Store(&owned); err != nil {
			t.Fatal(err)
		}
	}
	next := bus.StartLogind(t)
	next.PrepareForSleep(true)
	w.done <- struct{}{}
	w.next(t, Suspend)
	if n := next.Inhibitors(); n != 1 {
		t.Fatalf("%d inhibitors while the suspend is being handled", n)
	}
	w.done <- struct{}{}
	next.AwaitInhibitors(0)
}

// Anybody on the bus can send to this connection alone, as much as the bus carries,
// and what takes long to decode.
func TestASuspendIsSeenInAFlood(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	before := names(t, bus)
	w := watch(t, bus.Address, true)
	l.AwaitInhibitors(1)
	var to string
	for name := range names(t, bus) {
		if !before[name] {
			to = name
		}
	}
	// Another connection decodes everything that it is sent.
	plain := bus.Connect(t)
	if err := plain.AddMatchSignal(dbus.WithMatchMember("PrepareForSleep")); err != nil {
		t.Fatal(err)
	}
	decoded := make(chan *dbus.Signal, 1)
	seen := make(chan struct{})
	plain.Signal(decoded)
	go func() {
		for s := range decoded {
			if s.Name == manager+".PrepareForSleep" {
				close(seen)
				return
			}
		}
	}()

	body := make([]byte, maxFrame-512) // godbus takes each by itself, and the bus none
	var costly [2][]byte               // to this connection and to the other
	for i, name := range []string{to, plain.Names()[0]} {
		costly[i] = encoded(t, &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(name),
			dbus.FieldPath:        dbus.MakeVariant(dbus.ObjectPath("/a")),
			dbus.FieldInterface:   dbus.MakeVariant("a.b"),
			dbus.FieldMember:      dbus.MakeVariant("C"),
			dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(body)),
		}, Body: []any{body}})
	}
	if n := len(costly[0]); n > maxFrame-200 { // the bus adds the sender
		t.Fatalf("%d bytes are passed over for their number", n)
	}
	stream := raw(t, bus)
	flood := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		// 32 MiB for each, and then for this connection until the test ends.
		for i := 0; ; i++ {
			to := costly[0]
			if i < 2*512 {
				to = costly[i%2]
			} else if i == 2*512 {
				close(begun)
			}
			if _, err := stream.Write(to); err != nil {
				flood <- err
				return
			}
		}
	}()
	select {
	case <-begun:
	case err := <-flood:
		t.Fatal(err)
	}
	asked := time.Now()
	l.PrepareForSleep(true)
	w.next(t, Suspend)
	if took := time.Since(asked); took > 2*time.Second {
		t.Errorf("it is told after %v", took)
	}
	select {
	case <-seen:
		t.Error("the other connection has seen it, too: this test shows nothing")
	case err := <-flood:
		t.Errorf("the flood has ended: %v", err)
	default:
	}
	if n := l.Inhibitors(); n != 1 {
		t.Errorf("%d inhibitors while the suspend is being handled", n)
	}
	w.done <- struct{}{}
	l.AwaitInhibitors(0)
	if took := time.Since(asked); took > 2*time.Second {
		t.Errorf("the machine may sleep after %v", took)
	}
	_ = stream.Close()
	<-flood
	_ = plain.Close()
}

// encoded is a message as it is written, with a number.
func encoded(t *testing.T, m *dbus.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	b.Bytes()[8] = 99
	return b.Bytes()
}

// raw is a connection that has logged in to the bus, on which anything can be
// written. What comes from the bus is read and forgotten.
func raw(t *testing.T, bus *fakelogind.Bus) net.Conn {
	t.Helper()
	stream, err := dial(t.Context(), bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dbus.NewConn(newFrames(stream))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := greet(conn, stream); err != nil {
		t.Fatal(err)
	}
	return stream
}

// open counts this process's descriptors of a file.
func open(t *testing.T, file string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && to == file {
			n++
		}
	}
	return n
}

// send sends a signal to one connection, and returns when the bus has it.
func send(t *testing.T, from *dbus.Conn, to string, path dbus.ObjectPath, name string, values ...any) {
	t.Helper()
	i := strings.LastIndex(name, ".")
	msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(to),
		dbus.FieldPath:        dbus.MakeVariant(path),
		dbus.FieldInterface:   dbus.MakeVariant(name[:i]),
		dbus.FieldMember:      dbus.MakeVariant(name[i+1:]),
	}, Body: values}
	if len(values) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(values...))
	}
	if sent := from.Send(msg, nil); sent.Err != nil {
		t.Fatal(sent.Err)
	}
	var id string
	if err := from.BusObject().Call("org.freedesktop.DBus.GetId", 0).Store(&id); err != nil {
		t.Fatal(err)
	}
}

// names are the connections to the bus.
func names(t *testing.T, bus *fakelogind.Bus) map[string]bool {
	t.Helper()
	conn := bus.Connect(t)
	defer conn.Close()
	var all []string
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&all); err != nil {
		t.Fatal(err)
	}
	set := map[string]bool{}
	for _, name := range all {
		if strings.HasPrefix(name, ":") && name != conn.Names()[0] {
			set[name] = true
		}
	}
	return set
}

func TestLogindStartsAgain(t *testing.T) {
	bus := fakelogind.StartBus(t)
	w := watch(t, bus.Address, false)
	for i := range 2 {
		l := bus.StartLogind(t)
		l.AddSession("1", os.Geteuid(), i > 0)
		l.AddSession("2", others, i > 0)
		l.AwaitInhibitors(1)
		if i > 0 {
			w.next(t, ScreenLocked) // while no logind told of it
		}
		l.PrepareForSleep(true)
		w.next(t, Suspend)
		l.AwaitInhibitors(0)
		l.PrepareForSleep(false)
		w.next(t, Woken)
		l.AwaitInhibitors(1)
		l.Stop()
		l.AwaitInhibitors(0)
	}
}

func TestTheBusStartsAgain(t *testing.T) {
	bus := fakelogind.StartBus(t)
	w := watch(t, bus.Address, false)
	for range 2 {
		l := bus.StartLogind(t)
		mine := l.AddSession("1", os.Geteuid(), false)
		l.AwaitInhibitors(1)
		mine.Lock()
		w.next(t, ScreenLocked)
		bus.Stop()
		l.AwaitInhibitors(0)
		bus.Start(t)
	}
	const here, gone = `level=INFO msg="logind tells of suspend and screen locks"`, `level=INFO msg="no logind tells of suspend or screen locks"`
	var said []string
	for _, line := range w.log.lines() {
		line, _, _ = strings.Cut(line, " error=")
		said = append(said, line)
	}
	if got := strings.Join(said, "\n"); !strings.HasSuffix(got, strings.Join([]string{here, gone, here, gone}, "\n")) || strings.Count(got, "\n") > 4 {
		t.Errorf("it logged\n%s", got)
	}
}

// A bus that ends in the middle of a message, wherever that is, takes nothing
// along.
func TestABusThatEndsWithinAMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var hello bytes.Buffer
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)),
		dbus.FieldSender:      dbus.MakeVariant("org.freedesktop.DBus"),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf("")),
	}, Body: []any{":1.1"}}
	// The order of its fields is left to chance; there must be padding after them.
	for hello.Len() == 0 || hello.Bytes()[12]%8 == 0 {
		hello.Reset()
		if err := reply.EncodeTo(&hello, binary.LittleEndian); err != nil {
			t.Fatal(err)
		}
	}
	fields := 16 + int(hello.Bytes()[12])
	for _, cut := range []int{1, 15, 16, fields - 1, fields, hello.Len() - 1} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			Watch(ctx, "unix:path="+path, logger(new(safeBuffer)), func(Event) {})
		}()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		for _, said := range []struct{ line, answer string }{
			{"\x00AUTH\r\n", "REJECTED EXTERNAL\r\n"},
			{"AUTH EXTERNAL\r\n", "OK 0123456789abcdef0123456789abcdef\r\n"},
			{"BEGIN\r\n", string(hello.Bytes()[:cut])},
		} {
			if line, err := in.ReadString('\n'); line != said.line {
				t.Errorf("it said %q, want %q: %v", line, said.line, err)
			}
			_, _ = conn.Write([]byte(said.answer))
		}
		_ = conn.Close()
		// It has seen the end once it comes again.
		if conn, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		cancel()
		<-ended
	}
}

// Where there is no bus it says so once, and looks for one once a minute.
func TestNoBus(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, "unix:path="+dir+"/bus", false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.log.lines(); len(got) != 1 || !strings.Contains(got[0], "no logind tells of suspend or screen locks") {
			t.Errorf("it logged %q", got)
		}
	})
}

// Of the transports that an address may name, some start programs.
func TestAddresses(t *testing.T) {
	bus := fakelogind.StartBus(t)
	l := bus.StartLogind(t)
	program := filepath.Join(t.TempDir(), "program")
	made := program + ".ran"
	if err := os.WriteFile(program, []byte("#!/bin/sh\n: > "+made+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(program))
	if err := os.Symlink(program, filepath.Join(filepath.Dir(program), "dbus-launch")); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{
		"unixexec:path=" + program,
		"autolaunch:",
		"launchd:env=PATH",
		"systemd:",
		"tcp:host=127.0.0.1,port=1",
		"nonce-tcp:host=127.0.0.1,port=1,noncefile=/etc/passwd",
		"unix:tmpdir=/tmp",
		"unix:path=bus",
		"unix:runtime=yes",
		"unix:",
		"",
	} {
		if conn, err := dial(t.Context(), other); err == nil {
			conn.Close()
			t.Errorf("%q: it was connected to", other)
		}
		w := watch(t, other+";"+bus.Address, false)
		l.AwaitInhibitors(1)
		l.PrepareForSleep(true)
		w.next(t, Suspend)
		l.AwaitInhibitors(0)
	}
	if _, err := os.Stat(made); err == nil {
		t.Error("a program was run")
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	if got := Address(); got != "unix:path=/run/dbus/system_bus_socket" {
		t.Errorf("the system bus is at %q", got)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	if got := Address(); got != bus.Address {
		t.Errorf("the system bus is at %q", got)
	}
}
