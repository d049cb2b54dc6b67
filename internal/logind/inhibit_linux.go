package logind

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// maxDescriptors is how many the kernel passes at once (SCM_MAX_FD).
const maxDescriptors = 253

// takeInhibitor asks logind, whose unique name is owner, to wait before the machine
// sleeps until what it returns is closed. It speaks to the bus without godbus,
// which leaves open the descriptors of messages that nobody waits for: anybody on
// the bus may send such to this connection.
func takeInhibitor(ctx context.Context, address, owner string) (*os.File, error) {
	stream, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	_ = stream.SetDeadline(time.Now().Add(callTime))
	if err := agree(stream); err != nil {
		return nil, fmt.Errorf("logging in to the bus: %w", err)
	}
	if err := ask(stream, helloSerial, bus, "/org/freedesktop/DBus", bus, "Hello"); err != nil {
		return nil, fmt.Errorf("logging in to the bus: %w", err)
	}
	err = ask(stream, inhibitSerial, owner, root, manager, "Inhibit", "sleep", "tokend", "Secrets are forgotten before", "delay")
	if err != nil {
		return nil, fmt.Errorf("asking to be waited for: %w", err)
	}
	in := &descriptors{conn: stream}
	defer in.close()
	for {
		m, err := in.next(owner)
		if err != nil {
			return nil, fmt.Errorf("asking to be waited for: %w", err)
		}
		serial, _ := m.Headers[dbus.FieldReplySerial].Value().(uint32)
		switch {
		case m.Type == dbus.TypeError && (serial == helloSerial || serial == inhibitSerial):
			name, _ := m.Headers[dbus.FieldErrorName].Value().(string)
			return nil, fmt.Errorf("asking to be waited for: %w", dbus.Error{Name: name, Body: m.Body})
		case m.Type == dbus.TypeMethodReply && serial == inhibitSerial:
			if len(in.open) != 1 {
				return nil, fmt.Errorf("logind answered with %d descriptors", len(in.open))
			}
			fd := in.open[0]
			in.open = nil
			return os.NewFile(uintptr(fd), "inhibitor"), nil
		}
		in.close()
	}
}

// The numbers of the calls, by which answers name them.
const (
	helloSerial   = 1
	inhibitSerial = 2
)

// agree logs in as whom the kernel says this is, and agrees that descriptors are
// sent (D-Bus specification, "Authentication Protocol").
func agree(stream net.Conn) error {
	in := bufio.NewReader(stream) // the bus says nothing that it was not asked for
	for _, said := range []struct{ line, answer string }{
		{"\x00AUTH EXTERNAL " + hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid()))), "OK"},
		{"NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD"},
	} {
		if _, err := io.WriteString(stream, said.line+"\r\n"); err != nil {
			return err
		}
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if answer, _, _ := strings.Cut(strings.TrimSpace(string(line)), " "); answer != said.answer {
			return fmt.Errorf("the bus answered %q, not %s", answer, said.answer)
		}
	}
	_, err := io.WriteString(stream, "BEGIN\r\n")
	return err
}

// ask sends a call that starts no service.
func ask(to io.Writer, serial uint32, destination string, path dbus.ObjectPath, of, method string, args ...any) error {
	m := &dbus.Message{Type: dbus.TypeMethodCall, Flags: dbus.FlagNoAutoStart, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(destination),
		dbus.FieldPath:        dbus.MakeVariant(path),
		dbus.FieldInterface:   dbus.MakeVariant(of),
		dbus.FieldMember:      dbus.MakeVariant(method),
	}, Body: args}
	if len(args) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b.Bytes()[8:], serial) // godbus has no way to set it
	_, err := to.Write(b.Bytes())
	return err
}

// descriptors is a connection to a bus over which descriptors come.
type descriptors struct {
	conn *net.UnixConn
	open []int // those that have come with the message that was read last
}

// Read takes the descriptors that come with what it reads. The kernel gives them
// to whoever reads the first byte of their message, so nothing is read ahead.
func (d *descriptors) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, oobn, _, _, err := d.conn.ReadMsgUnix(p, oob)
	control, bad := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range control {
		if fds, err := unix.ParseUnixRights(&control[i]); err == nil {
			d.open = append(d.open, fds...)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return n, io.EOF // as an io.Reader says it
	case err != nil:
		return n, err
	}
	return n, bad
}

func (d *descriptors) close() {
	for _, fd := range d.open {
		_ = unix.Close(fd)
	}
	d.open = nil
}

// next is the next message from the bus or logind. The descriptors of all others
// are closed.
func (d *descriptors) next(logind string) (*dbus.Message, error) {
	for {
		message := make([]byte, 16)
		if _, err := io.ReadFull(d, message); err != nil {
			return nil, err
		}
		order, fields, size, err := measure(message)
		if err != nil {
			return nil, err
		}
		if size > maxFrame {
			_, err = io.CopyN(io.Discard, d, size-16)
		} else {
			message = append(message, make([]byte, size-16)...)
			_, err = io.ReadFull(d, message[16:])
		}
		if err != nil {
			return nil, err
		}
		if size <= maxFrame {
			from, err := sender(message[:fields], order)
			if err != nil {
				return nil, err
			}
			if from == bus || from == logind {
				return dbus.DecodeMessage(bytes.NewReader(message))
			}
		}
		d.close()
	}
}
