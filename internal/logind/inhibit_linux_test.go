package logind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"tokend/internal/logind/fakelogind"
)

// pipe is a pipe's end for writing, and how it is called.
func pipe(t *testing.T) (end *os.File, name string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Close()
		_ = w.Close()
	})
	if name, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", w.Fd())); err != nil {
		t.Fatal(err)
	}
	return w, name
}

// late is a logind that does something before it answers.
type late struct {
	meanwhile func(caller string)
	answer    dbus.UnixFD
}

func (l late) Inhibit(from dbus.Sender, _, _, _, _ string) (dbus.UnixFD, *dbus.Error) {
	l.meanwhile(string(from))
	return l.answer, nil
}

// Whatever descriptors somebody else sends to the connection that is given one,
// none of them stays open.
func TestOthersDescriptorsAreClosed(t *testing.T) {
	b := fakelogind.StartBus(t)
	theirs, foreign := pipe(t)
	ours, given := pipe(t)
	impostor, l := b.Connect(t), b.Connect(t)
	fd := dbus.UnixFD(theirs.Fd())
	err := l.Export(late{answer: dbus.UnixFD(ours.Fd()), meanwhile: func(caller string) {
		send(t, impostor, caller, "/a", "a.b.C", fd)
		send(t, impostor, caller, "/a", "a.b.C", []dbus.UnixFD{fd, fd, fd})
		send(t, impostor, caller, "/a", "a.b.C", fd, make([]byte, maxFrame))
		send(t, impostor, caller, root, manager+".PrepareForSleep", fd)
	}}, root, manager)
	if err != nil {
		t.Fatal(err)
	}
	inhibitor, err := takeInhibitor(t.Context(), b.Address, l.Names()[0])
	if err != nil {
		t.Fatal(err)
	}
	if n, of := open(t, given), open(t, foreign); n != 3 || of != 2 {
		t.Errorf("logind's pipe is open %d times, somebody else's %d", n, of)
	}
	if err := inhibitor.Close(); err != nil || open(t, given) != 2 {
		t.Errorf("closed, logind's pipe is open %d times: %v", open(t, given), err)
	}
}

// said is a message that a scripted bus sends, with copies of one descriptor.
type said struct {
	kind   dbus.Type
	from   string
	answer uint32 // which call it answers
	fds    int
	size   int
	cut    bool
}

func (s said) send(t *testing.T, conn *net.UnixConn, fd int) {
	t.Helper()
	m := &dbus.Message{Type: s.kind, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldSender:      dbus.MakeVariant(s.from),
		dbus.FieldReplySerial: dbus.MakeVariant(s.answer),
		dbus.FieldUnixFDs:     dbus.MakeVariant(uint32(s.fds)),
	}}
	if s.kind == dbus.TypeError {
		m.Headers[dbus.FieldErrorName] = dbus.MakeVariant("a.b.Error")
	}
	if s.size > 0 {
		m.Body = []any{make([]byte, s.size)}
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
	}
	whole := encoded(t, m)
	if s.cut {
		whole = whole[:len(whole)-1]
	}
	var fds []int
	for range s.fds {
		fds = append(fds, fd)
	}
	n, _, err := conn.WriteMsgUnix(whole, unix.UnixRights(fds...), nil)
	if err == nil {
		_, err = conn.Write(whole[n:])
	}
	// Whoever has its answer goes away.
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
}

// logsIn reads what a client that is logging in says.
func logsIn(in *bufio.Reader, conn io.Writer, answers []string) error {
	auth := fmt.Sprintf("\x00AUTH EXTERNAL %x\r\n", fmt.Sprint(os.Geteuid()))
	for i, want := range []string{auth, "NEGOTIATE_UNIX_FD\r\n", "BEGIN\r\n"} {
		if line, err := in.ReadString('\n'); err != nil || line != want {
			return fmt.Errorf("it said %q, want %q: %w", line, want, err)
		}
		if i < len(answers) {
			if _, err := io.WriteString(conn, answers[i]+"\r\n"); err != nil {
				return err
			}
		}
	}
	return nil
}

// What comes from logind is the answer, and nobody else's is taken for it.
func TestWhoAnswersForLogind(t *testing.T) {
	agrees := []string{"OK 0123456789abcdef0123456789abcdef", "AGREE_UNIX_FD"}
	const reply, failure = dbus.TypeMethodReply, dbus.TypeError
	greeting := said{kind: reply, from: bus, answer: helloSerial}
	good := said{kind: reply, from: logindName, answer: inhibitSerial, fds: 1}
	dir, err := os.MkdirTemp("", "bus") // t.TempDir's are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, row := range map[string]struct {
		answers []string
		says    []said
		err     string
	}{
		"it answers":                    {agrees, []said{greeting, good}, ""},
		"somebody else answers first":   {agrees, []said{greeting, {kind: reply, from: ":1.8", answer: inhibitSerial, fds: 2}, good}, ""},
		"somebody else refuses first":   {agrees, []said{greeting, {kind: failure, from: ":1.8", answer: inhibitSerial, fds: 1}, good}, ""},
		"another answer of its own":     {agrees, []said{greeting, {kind: reply, from: logindName, answer: 3, fds: 2}, good}, ""},
		"too large, whoever it is from": {agrees, []said{greeting, {kind: reply, from: logindName, answer: inhibitSerial, fds: 200, size: maxFrame}, good}, ""},
		"no descriptor":                 {agrees, []said{greeting, {kind: reply, from: logindName, answer: inhibitSerial}}, "logind answered with 0 descriptors"},
		"two descriptors":               {agrees, []said{greeting, {kind: reply, from: logindName, answer: inhibitSerial, fds: 2}}, "logind answered with 2 descriptors"},
		"it refuses":                    {agrees, []said{greeting, {kind: failure, from: logindName, answer: inhibitSerial, fds: 1}}, "asking to be waited for: a.b.Error"},
		"it is gone":                    {agrees, []said{greeting, {kind: failure, from: bus, answer: inhibitSerial}}, "asking to be waited for: a.b.Error"},
		"the bus refuses the greeting":  {agrees, []said{{kind: failure, from: bus, answer: helloSerial}}, "asking to be waited for: a.b.Error"},
		"the bus goes away":             {agrees, []said{greeting}, "asking to be waited for: EOF"},
		"it goes away within":           {agrees, []said{{kind: reply, from: logindName, answer: inhibitSerial, fds: 1, size: 1, cut: true}}, "asking to be waited for: unexpected EOF"},
		"the bus does not know us":      {[]string{"REJECTED EXTERNAL"}, nil, `logging in to the bus: the bus answered "REJECTED", not OK`},
		"the bus gives no descriptors":  {[]string{agrees[0], "ERROR"}, nil, `logging in to the bus: the bus answered "ERROR", not AGREE_UNIX_FD`},
	} {
		t.Run(name, func(t *testing.T) {
			end, pipe := pipe(t)
			path := filepath.Join(dir, "bus")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				conn, err := l.AcceptUnix()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				in := bufio.NewReader(conn)
				if err := logsIn(in, conn, row.answers); err != nil {
					if len(row.says) > 0 {
						t.Error(err)
					}
					return
				}
				for _, want := range []struct{ to, member string }{{bus, "Hello"}, {logindName, "Inhibit"}} {
					m, err := dbus.DecodeMessage(in)
					if err != nil || m.Headers[dbus.FieldDestination].Value() != want.to || m.Headers[dbus.FieldMember].Value() != want.member {
						t.Errorf("it called %v, want %v: %v", m, want, err)
						return
					}
				}
				for _, s := range row.says {
					s.send(t, conn, int(end.Fd()))
				}
			}()
			inhibitor, err := takeInhibitor(t.Context(), "unix:path="+path, logindName)
			_ = l.Close()
			<-ended
			want := 2
			if row.err == "" {
				want++
			}
			if n := open(t, pipe); n != want {
				t.Errorf("the pipe is open %d times, want %d", n, want)
			}
			if row.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				_ = inhibitor.Close()
			} else if err == nil || err.Error() != row.err {
				t.Errorf("%v, want %q", err, row.err)
			}
		})
	}
}

// A bus that says nothing holds nobody up who ends.
func TestTakingAnInhibitorEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := takeInhibitor(ctx, "unix:path="+path, logindName)
		ended <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want %v", err, net.ErrClosed)
	}
}
