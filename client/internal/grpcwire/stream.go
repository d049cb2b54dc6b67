package grpcwire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

// prefixLen is the length of what stands before a message: the compressed flag and the message's length, big endian.
const prefixLen = 5

var (
	errClosed     = errors.New("the stream is closed")
	errSendClosed = errors.New("the sending side of the stream is closed")
)

// Stream is a call that can carry many messages each way. One goroutine may send (Send, CloseSend) while another
// receives (Recv); Close may be called from anywhere.
//
// A Stream made by Open has a goroutine that reads the connection until the call has ended, so that pings are
// answered and windows are opened when nobody is in Recv. It is gone when Close returns.
type Stream struct {
	conn net.Conn
	done chan struct{} // closed when run has returned
	// spoke is closed when the server's first frame has come; nil for Unary, which waits for more.
	spoke chan struct{}

	// Down to replies: only for the goroutine that reads frames, which is run's, or Unary's caller.
	r        *bufio.Reader // holds one whole frame
	dec      *hpack.Decoder
	fields   fields // what dec has found in the current header block
	block    []byte // the header block so far
	inBlock  bool   // only CONTINUATION may follow
	lastOne  bool   // the header block ends the stream
	began    bool   // the server's SETTINGS have come
	answered bool   // the response headers have come, so what follows are trailers
	goAway   string // why the server wants no new streams, "" if it has not said so
	replies  []byte // acknowledgements and credit, to be written before the next read that waits

	// writing is held while writing to conn, so that frames stay whole, and never together with mu. The reading
	// goroutine waits for it too, so a server that does not read is not read either until ctx or Close ends the call.
	writing sync.Mutex

	mu         sync.Mutex // guards the fields that follow; never held across I/O
	changed    sync.Cond  // on mu: received, err or the send windows changed
	received   []byte     // DATA that Recv has not yet taken
	credit     int        // bytes that the server may still send, for the stream and for the connection alike
	taken      int        // bytes that were taken from received and not yet given back as credit
	quiet      int        // frames since quietSince, or since the last that carried data, either way
	quietSince time.Time  // when the first of them came
	connWindow int64      // bytes that may be sent on the connection
	window     int64      // bytes that may be sent on the stream; SETTINGS can make it negative (RFC 9113, 6.9.2)
	initial    int64      // the server's SETTINGS_INITIAL_WINDOW_SIZE
	sendClosed bool
	err        error // how the call ended; io.EOF for OK
}

// Open starts a call of method ("/package.Service/Method"), and waits until the server speaks: else the error is
// ErrNoAnswer, wrapped, or ctx's. The stream owns c and closes it when the call ends, on Close, and when ctx is done. An
// error of the server, even of a method that is not there, comes from Recv.
func Open(ctx context.Context, c net.Conn, method string, md []Header) (*Stream, error) {
	s := newStream(c)
	s.spoke = make(chan struct{})
	out, err := s.start(ctx, method, md)
	if err != nil {
		c.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	_ = s.write(out) // as in Unary: if this fails, reading does
	go func() {
		defer stop()
		s.run(ctx)
	}()
	select {
	case <-s.spoke:
	case <-s.done:
		select {
		case <-s.spoke:
		default:
			return nil, s.err
		}
	}
	return s, nil // if it has ended meanwhile, Recv says so
}

// Send sends one message, and waits while the server's windows are full. A nil error does not say that the server
// has seen it. When the call has ended or breaks, it returns an error, and Recv says why.
func (s *Stream) Send(message []byte) error {
	if len(message) > MaxMessage {
		return tooLarge(len(message), MaxMessage)
	}
	for rest := appendMessage(nil, message); len(rest) > 0; {
		n, err := s.reserve(len(rest))
		if err != nil {
			return err
		}
		if err := s.write(appendData(nil, rest[:n], false)); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// reserve waits until some of want bytes may be sent, and says how many.
func (s *Stream) reserve(want int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch n := min(int64(want), s.connWindow, s.window); {
		case s.err != nil:
			return 0, s.err
		case s.sendClosed:
			return 0, errSendClosed
		case n > 0:
			s.connWindow -= n
			s.window -= n
			s.quiet = 0
			return int(n), nil
		}
		s.changed.Wait()
	}
}

// CloseSend tells the server that no more messages follow. It is an error to call it twice, or once the call has ended.
func (s *Stream) CloseSend() error {
	s.mu.Lock()
	err := s.err
	if err == nil && s.sendClosed {
		err = errSendClosed
	}
	s.sendClosed = true
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.write(appendData(nil, nil, true))
}

// Recv returns the next message. Its error is io.EOF when the server ended the call with OK, a *Status when it ended
// otherwise or a message is not acceptable, and else as Unary's; messages that came before that are returned first.
func (s *Stream) Recv() ([]byte, error) {
	s.mu.Lock()
	for {
		message, rest, err := cutMessage(s.received)
		switch {
		case err != nil:
			s.err = err // and so it stays: what follows in received has no beginning any more
			s.mu.Unlock()
			s.conn.Close()
			return nil, err
		case message != nil:
			updates := s.giveBack(len(s.received) - len(rest))
			s.received = rest
			s.mu.Unlock()
			if len(updates) > 0 {
				_ = s.write(updates) // if this fails, reading does
			}
			return message, nil
		case s.err != nil:
			if s.err == io.EOF && len(rest) > 0 {
				s.err = &Status{Code: internal, Message: "the last message is not complete"}
			}
			err = s.err
			s.mu.Unlock()
			return nil, err
		}
		s.changed.Wait()
	}
}

// Close ends the call, whatever its state, and closes the connection. Messages not yet received are lost, and waiting
// calls of Send and Recv return an error. The error is always nil.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.err == nil {
		s.err = errClosed
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	s.conn.Close()
	<-s.done
	s.mu.Lock()
	s.received = nil
	s.mu.Unlock()
	return nil
}

func newStream(c net.Conn) *Stream {
	s := &Stream{
		conn:       c,
		done:       make(chan struct{}),
		r:          bufio.NewReaderSize(c, frameHeaderLen+maxFrame),
		credit:     receiveWindow,
		connWindow: defaultWindow,
		window:     defaultWindow,
		initial:    defaultWindow,
	}
	s.changed.L = &s.mu
	s.dec = hpack.NewDecoder(0, s.fields.add)
	s.dec.SetMaxStringLength(maxHeaderList)
	return s
}

// start gives the connection ctx's deadline, and returns what is written first: preface, SETTINGS, HEADERS.
func (s *Stream) start(ctx context.Context, method string, md []Header) ([]byte, error) {
	if err := cause(ctx, nil); err != nil {
		return nil, err
	}
	timeout := ""
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
		timeout = formatTimeout(time.Until(deadline))
	}
	block, err := requestBlock(method, md, timeout)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, 512), preface...)
	return append(appendFrameHeader(out, len(block), frameHeaders, flagEndHeaders, streamID), block...), nil
}

// run reads frames until the call has ended.
func (s *Stream) run(ctx context.Context) {
	defer close(s.done)
	var err error
	for err == nil {
		err = s.readFrame()
	}
	s.conn.Close()
	err = cause(ctx, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}

func (s *Stream) write(p []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.conn.Write(p)
	return err
}

// giveBack counts n received bytes as taken, and returns the WINDOW_UPDATE frames that are due. At least a whole
// message fits into what is left of the window before any are, so no message waits for them, and a unary call
// needs none. mu is held.
func (s *Stream) giveBack(n int) []byte {
	s.taken += n
	if s.taken < receiveWindow/2 {
		return nil
	}
	updates := appendWindowUpdate(nil, 0, s.taken)
	updates = appendWindowUpdate(updates, streamID, s.taken)
	s.credit += s.taken
	s.taken = 0
	return updates
}

// appendMessage appends a message with its prefix, not compressed.
func appendMessage(dst, message []byte) []byte {
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(message)))
	return append(dst, message...)
}

// cutMessage cuts the first message off data. The message is nil while it is not complete, and not nil if it is empty.
func cutMessage(data []byte) (message, rest []byte, err error) {
	if len(data) < prefixLen {
		return nil, data, nil
	}
	if data[0] != 0 {
		return nil, nil, &Status{Code: internal, Message: "the message is compressed, which was not offered"}
	}
	length := binary.BigEndian.Uint32(data[1:])
	if length > MaxMessage {
		return nil, nil, tooLarge(int(length), MaxMessage)
	}
	end := prefixLen + int(length)
	if len(data) < end {
		return nil, data, nil
	}
	return data[prefixLen:end:end], data[end:], nil
}

func deadlinePassed(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}
