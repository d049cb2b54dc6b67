package logind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// taped is a connection from which known bytes come.
type taped struct {
	net.Conn // nil: nothing else is called
	r        io.Reader
}

func (t taped) Read(p []byte) (int, error) { return t.r.Read(p) }

// logindName is logind's unique name on a taped bus.
const logindName = ":1.7"

// pass is what of bytes that come from a bus is passed on.
func pass(b []byte) ([]byte, error) {
	f := newFrames(taped{r: bytes.NewReader(b)})
	owner := logindName
	f.logind.Store(&owner)
	return io.ReadAll(f)
}

// sleepSignal is a PrepareForSleep as godbus writes it.
func sleepSignal(t testing.TB, from string, order binary.ByteOrder) []byte {
	t.Helper()
	signal := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/login1")),
		dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.login1.Manager"),
		dbus.FieldMember:    dbus.MakeVariant("PrepareForSleep"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(true)),
		dbus.FieldUnixFDs:   dbus.MakeVariant(uint32(0)),
	}, Body: []any{true}}
	if from != "" {
		signal.Headers[dbus.FieldSender] = dbus.MakeVariant(from)
	}
	var b bytes.Buffer
	if err := signal.EncodeTo(&b, order); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var orders = []binary.ByteOrder{binary.LittleEndian, binary.BigEndian}

// Whatever is on the bus, a message is passed on whole or not at all. The sender by
// which that is decided is the one that godbus sees, and godbus does not panic.
func FuzzFrames(f *testing.F) {
	for _, order := range orders {
		for _, from := range []string{"", bus, logindName, ":1.8"} {
			b := sleepSignal(f, from, order)
			f.Add(b)
			f.Add(append([]byte("OK 0123\r\nAGREE_UNIX_FD\r\n"), b...))
			f.Add(b[:len(b)-1])
			f.Add(append(b, b...))
		}
	}
	f.Add([]byte("l\x01\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("B\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// What godbus writes is understood, whoever sends it.
		if from := strings.ReplaceAll(strings.ToValidUTF8(string(b), "?"), "\x00", "?"); len(from) < maxFrame/2 {
			for _, order := range orders {
				m := sleepSignal(t, from, order)
				if got, err := sender(m[:16+order.Uint32(m[12:])], order); got != from || err != nil {
					t.Fatalf("%x: the sender is %q, %v", m, got, err)
				}
			}
		}

		whole, err := pass(b)
		if len(whole) > len(b) || err != nil && err != io.EOF && !errors.Is(err, errMalformed) {
			t.Fatalf("%d bytes of %d, %v", len(whole), len(b), err)
		}
		if len(b) < 16 || b[0] != 'l' && b[0] != 'B' {
			return
		}
		order := orders[0]
		if b[0] == 'B' {
			order = orders[1]
		}
		fields := uint64(order.Uint32(b[12:]))
		n := 16 + (fields+7)&^7 + uint64(order.Uint32(b[4:]))
		if n > uint64(len(b)) {
			if len(whole) > 0 {
				t.Fatalf("%x: %d bytes of a message of %d", b, len(whole), n)
			}
			return
		}
		from, bad := sender(b[:16+fields], order)
		switch {
		case b[3] != 1 || n <= maxFrame && bad != nil:
			if len(whole) > 0 || !errors.Is(err, errMalformed) {
				t.Fatalf("%x: %d bytes of a malformed message, %v", b, len(whole), err)
			}
			return
		case n > maxFrame || from != bus && from != logindName:
			if n == uint64(len(b)) && len(whole) > 0 {
				t.Fatalf("%x: a message from %q is passed on", b, from)
			}
		case !bytes.HasPrefix(whole, b[:n]):
			t.Fatalf("%x: %d bytes of a message of %d", b, len(whole), n)
		}
		if n > maxFrame {
			return
		}
		rest := bytes.NewReader(b[:n])
		m, err := dbus.DecodeMessage(rest)
		if err != nil {
			return
		}
		if seen, _ := m.Headers[dbus.FieldSender].Value().(string); seen != from || rest.Len() > 0 {
			t.Fatalf("%x: from %q, to godbus from %q, which leaves %d bytes", b[:n], from, seen, rest.Len())
		}
	})
}

// Where there is no logind, nobody is taken for it.
func TestMessagesFromNobody(t *testing.T) {
	none := ""
	for _, owner := range []*string{nil, &none} {
		known := sleepSignal(t, bus, binary.LittleEndian)
		b := append(sleepSignal(t, "", binary.LittleEndian), sleepSignal(t, logindName, binary.LittleEndian)...)
		f := newFrames(taped{r: bytes.NewReader(append(b, known...))})
		f.logind.Store(owner)
		if got, err := io.ReadAll(f); !bytes.Equal(got, known) || err != nil {
			t.Errorf("passed on is %q, %v", got, err)
		}
	}
}

// A header that no bus passes on ends the connection: nothing that comes after it
// is to be trusted.
func TestMalformedMessages(t *testing.T) {
	for _, order := range orders {
		good := sleepSignal(t, logindName, order)
		field := func(code byte, kind string, value ...byte) []byte {
			return append([]byte{code, byte(len(kind))}, append(append([]byte(kind), 0), value...)...)
		}
		length := func(n uint32) []byte {
			b := make([]byte, 4)
			order.PutUint32(b, n)
			return b
		}
		text := func(s string) []byte { return append(length(uint32(len(s))), s+"\x00"...) }
		from := field(7, "s", text(logindName)...) // 13 bytes
		next := append(bytes.Clone(from), 0, 0, 0) // where the next one begins
		message := func(fields []byte) []byte {
			b := append(bytes.Clone(good[:12]), length(uint32(len(fields)))...)
			copy(b[4:], length(0))
			b = append(b, fields...)
			return append(b, make([]byte, -len(b)&7)...)
		}
		changed := func(at int, to byte) []byte {
			b := message(from)
			b[at] = to
			return b
		}
		for name, row := range map[string]struct {
			message []byte
			err     error
			passed  bool
		}{
			"it is good":               {message(from), nil, true},
			"it is from somebody else": {message(field(7, "s", text(":1.8")...)), nil, false},
			"it is from nobody":        {message(nil), nil, false},
			"a field of the future":    {message(append(bytes.Clone(next), field(10, "a{sv}", 0)...)), nil, false},
			"it is too large":          {append(message(from)[:4], append(length(maxFrame), append(message(from)[8:], make([]byte, maxFrame)...)...)...), nil, false},

			"another version":              {changed(3, 2), errMalformed, false},
			"larger than any":              {append(message(from)[:4], append(length(maxMessage), message(from)[8:]...)...), errMalformed, false},
			"no byte order":                {changed(0, 'x'), errMalformed, false},
			"no such field":                {changed(16, 0), errMalformed, false},
			"a sender of two types":        {changed(17, 2), errMalformed, false},
			"a sender that is no string":   {changed(18, 'o'), errMalformed, false},
			"a type that does not end":     {changed(19, 'o'), errMalformed, false},
			"a string that does not end":   {changed(28, 'x'), errMalformed, false},
			"two senders":                  {message(append(bytes.Clone(next), from...)), errMalformed, false},
			"padding that is none":         {message(append(append(bytes.Clone(from), 0, 0, 1), field(5, "u", length(1)...)...)), errMalformed, false},
			"a string that is too long":    {message(field(7, "s", append(length(5), logindName+"\x00"...)...)), errMalformed, false},
			"a string of 2 GiB":            {message(field(7, "s", append(length(1<<31-1), logindName+"\x00"...)...)), errMalformed, false},
			"a string of 4 GiB":            {message(field(7, "s", append(length(1<<32-1), logindName+"\x00"...)...)), errMalformed, false},
			"a string without a length":    {message(append(bytes.Clone(next), field(6, "s", 0, 0)...)), errMalformed, false},
			"a signature that is too long": {message(append(bytes.Clone(next), field(8, "g", 2, 'b', 0)...)), errMalformed, false},
			"a signature without a length": {message(append(bytes.Clone(next), field(8, "g")...)), errMalformed, false},
			"a number that is cut short":   {message(append(bytes.Clone(next), field(5, "u", 0, 0, 0)...)), errMalformed, false},
			"a field that is cut short":    {message(append(bytes.Clone(next), 5, 1, 'u')), errMalformed, false},
			"fields that end in padding":   {message(append(bytes.Clone(from), 0)), errMalformed, false},
		} {
			want := []byte(nil)
			if row.passed {
				want = row.message
			}
			if row.err == nil {
				want = append(bytes.Clone(want), good...)
			}
			// It is the second message, as lines may come before the first.
			want = append(bytes.Clone(good), want...)
			got, err := pass(append(append(bytes.Clone(good), row.message...), good...))
			if !bytes.Equal(got, want) || !errors.Is(err, row.err) {
				t.Errorf("%v: %s:\n%q, %v\nwant\n%q, %v", order, name, got, err, want, row.err)
			}
		}
	}
}
