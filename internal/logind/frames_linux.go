package logind

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"github.com/godbus/dbus/v5"
)

const (
	// maxFrame is more than logind has to say at once: about a hundred bytes for
	// each of the machine's sessions, and those of hundreds.
	maxFrame = 64 << 10

	// maxMessage is the size that no message exceeds (D-Bus specification,
	// "Message Format").
	maxMessage = 1 << 27
)

// errMalformed is a message that no bus passes on: it has checked all that it does.
var errMalformed = errors.New("malformed message from the bus")

// frames is a connection to a bus of which whole messages are read, and only those
// that the bus or logind has sent. Anybody on the bus may send to this connection,
// as much as the bus can carry. To decode that takes so long that a suspend would
// be seen too late, and godbus panics where a message is cut short.
type frames struct {
	net.Conn
	in    *bufio.Reader
	began bool   // the first message has come
	rest  []byte // of the message that is being read

	// logind is its unique name as the bus has told it last, "" while there is
	// none, nil before it has told any.
	logind atomic.Pointer[string]
}

func newFrames(conn net.Conn) *frames {
	return &frames{Conn: conn, in: bufio.NewReaderSize(conn, maxFrame)}
}

func (f *frames) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		first, err := f.in.Peek(1)
		if err != nil {
			return 0, err
		}
		// What comes before the messages are lines of capital letters; a message
		// begins with its byte order.
		if !f.began && first[0] != 'l' && first[0] != 'B' {
			return f.in.Read(p)
		}
		f.began = true
		if f.rest, err = f.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// next reads one message (D-Bus specification, "Message Format"), or none where it
// is from somebody else or too large.
func (f *frames) next() ([]byte, error) {
	head, err := f.in.Peek(16)
	if err != nil {
		return nil, err
	}
	order, fields, size, err := measure(head)
	if err != nil {
		return nil, err
	}
	if size > maxFrame {
		_, err := io.CopyN(io.Discard, f.in, size)
		return nil, err
	}
	message, err := f.in.Peek(int(size))
	if err != nil {
		return nil, err
	}
	from, err := sender(message[:fields], order)
	if err != nil {
		return nil, err
	}
	if f.believes(from) {
		message = bytes.Clone(message)
	} else {
		message = nil
	}
	_, err = f.in.Discard(int(size))
	return message, err
}

// measure is how a message is encoded, where its header's fields end and how long
// it is, by its first 16 bytes.
func measure(head []byte) (order binary.ByteOrder, fields, size int64, err error) {
	switch head[0] {
	case 'l':
		order = binary.LittleEndian
	case 'B':
		order = binary.BigEndian
	default:
		return nil, 0, 0, errMalformed
	}
	const version = 1
	fields = int64(len(head)) + int64(order.Uint32(head[12:]))
	size = (fields+7)&^7 + int64(order.Uint32(head[4:]))
	if head[3] != version || size > maxMessage {
		return nil, 0, 0, errMalformed
	}
	return order, fields, size, nil
}

func (f *frames) believes(sender string) bool {
	logind := f.logind.Load()
	return sender != "" && (sender == bus || logind != nil && sender == *logind)
}

// seen takes notice of a new logind. It is called with each message before the next
// one is read, so that nothing is missed of what the new one says at once.
func (f *frames) seen(m *dbus.Message) {
	from, _ := m.Headers[dbus.FieldSender].Value().(string)
	of, _ := m.Headers[dbus.FieldInterface].Value().(string)
	member, _ := m.Headers[dbus.FieldMember].Value().(string)
	if owner, ok := newOwner(from, of+"."+member, m.Body); ok {
		f.logind.Store(&owner)
	}
}

// fieldTypes are the types of the header's fields by their codes, which begin with
// 1 (D-Bus specification, "Header Fields").
const fieldTypes = "\x00osssussgu"

// sender is who sent a message, which the bus has written into its header. It is ""
// where nobody has, or where there are fields that this code does not know: neither
// the bus nor logind writes such.
func sender(header []byte, order binary.ByteOrder) (string, error) {
	c := &cursor{header: header, at: 16, order: order} // behind the length of an a(yv)
	var from string
	var had uint16 // bits, by the fields' codes
	for c.at < len(header) {
		field := c.take(8, 4) // its code, and the signature of its value: length, type, 0
		if field == nil || field[0] == 0 {
			return "", errMalformed
		}
		code := int(field[0])
		if code >= len(fieldTypes) {
			return "", nil
		}
		kind := fieldTypes[code]
		if had&(1<<code) != 0 || field[1] != 1 || field[2] != kind || field[3] != 0 {
			return "", errMalformed
		}
		had |= 1 << code
		value := c.value(kind)
		if value == nil {
			return "", errMalformed
		}
		if dbus.HeaderField(code) == dbus.FieldSender {
			from = string(value)
		}
	}
	return from, nil
}

// cursor is a place in a header.
type cursor struct {
	header []byte
	at     int
	order  binary.ByteOrder
}

// take is the next n bytes at a multiple of align, with nothing but zeros before
// them; nil where there are none.
func (c *cursor) take(align int, n int64) []byte {
	begin := (c.at + align - 1) &^ (align - 1)
	if n > int64(len(c.header)-begin) {
		return nil
	}
	for _, padding := range c.header[c.at:begin] {
		if padding != 0 {
			return nil
		}
	}
	c.at = begin + int(n)
	return c.header[begin:c.at]
}

// value is that of a string (s), an object path (o), a signature (g) or a number
// (u), nil where there is none.
func (c *cursor) value(kind byte) []byte {
	var n int64
	switch kind {
	case 'u':
		return c.take(4, 4)
	case 'g':
		length := c.take(1, 1)
		if length == nil {
			return nil
		}
		n = int64(length[0])
	default:
		length := c.take(4, 4)
		if length == nil {
			return nil
		}
		n = int64(c.order.Uint32(length))
	}
	text := c.take(1, n+1)
	if text == nil || text[n] != 0 {
		return nil
	}
	return text[:n]
}
