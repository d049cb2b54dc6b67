package grpcwire

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Frame types (RFC 9113, 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9
)

const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113, 6.5.2).
const (
	settingHeaderTableSize   = 0x1
	settingEnablePush        = 0x2
	settingInitialWindowSize = 0x4
	settingMaxFrameSize      = 0x5
	settingMaxHeaderListSize = 0x6
)

const (
	streamID       = 1 // of the one call
	frameHeaderLen = 9
	maxFrame       = 16384 // payload bytes, both ways: the size that every peer takes, and the largest we allow
	defaultWindow  = 65535
	maxWindow      = 1<<31 - 1
	maxHeaderList  = 16 << 10 // bytes of a header block, and of its fields as RFC 9113, 6.5.2 counts them

	// receiveWindow is what a server may send before we give credit back, in bytes, on the stream and on the
	// connection. Half of it is more than a message.
	receiveWindow = 256 << 10

	// maxQuiet is how many frames may come within quietTime with no data between them, ours or the server's, before
	// the server is taken for broken. A call may be quiet for weeks: keepalive pings are a second apart at the least.
	maxQuiet  = 10_000
	quietTime = time.Hour
)

// preface is what a connection begins with: the client's preface, our SETTINGS, and the connection's window.
var preface = func() []byte {
	p := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	p = appendFrameHeader(p, 4*6, frameSettings, 0, 0)
	p = appendSetting(p, settingHeaderTableSize, 0) // no dynamic table, so a header block stands for itself
	p = appendSetting(p, settingEnablePush, 0)
	p = appendSetting(p, settingInitialWindowSize, receiveWindow)
	p = appendSetting(p, settingMaxHeaderListSize, maxHeaderList)
	return appendWindowUpdate(p, 0, receiveWindow-defaultWindow)
}()

func appendFrameHeader(dst []byte, length int, kind, flags byte, id uint32) []byte {
	dst = append(dst, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(dst, id)
}

func appendSetting(dst []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, id), value)
}

func appendWindowUpdate(dst []byte, id uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(dst, 4, frameWindowUpdate, 0, id), uint32(n))
}

// appendData appends p as DATA frames: one empty frame if p is empty. The last one ends the stream if end is set.
func appendData(dst, p []byte, end bool) []byte {
	for {
		n := min(len(p), maxFrame)
		var flags byte
		if end && n == len(p) {
			flags = flagEndStream
		}
		dst = append(appendFrameHeader(dst, n, frameData, flags, streamID), p[:n]...)
		if p = p[n:]; len(p) == 0 {
			return dst
		}
	}
}

// readFrame reads one frame and obeys it. Its error is how the call ended: io.EOF for OK, a *Status, or else a
// connection that is of no more use.
func (s *Stream) readFrame() error {
	if len(s.replies) > 0 && (s.r.Buffered() < frameHeaderLen || len(s.replies) > maxFrame) {
		_ = s.write(s.replies) // if this fails, reading does
		s.replies = s.replies[:0]
	}
	h, err := s.r.Peek(frameHeaderLen)
	if err != nil {
		if len(h) == 0 && !s.began {
			return fmt.Errorf("%w: %w", ErrNoAnswer, unexpected(err))
		}
		return s.broken(err)
	}
	length := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	kind, flags, id := h[3], h[4], binary.BigEndian.Uint32(h[5:])&maxWindow // without the reserved bit
	if length > maxFrame {
		return malformed("a frame of " + strconv.Itoa(length) + " bytes")
	}
	frame, err := s.r.Peek(frameHeaderLen + length)
	if err != nil {
		return s.broken(err)
	}
	if err := s.obey(kind, flags, id, frame[frameHeaderLen:]); err != nil {
		return err
	}
	_, err = s.r.Discard(len(frame))
	return err
}

func (s *Stream) obey(kind, flags byte, id uint32, p []byte) error {
	switch {
	case !s.began && (kind != frameSettings || flags&flagAck != 0): // RFC 9113, 3.4
		return malformed("the first frame is not SETTINGS")
	case s.inBlock && kind != frameContinuation: // RFC 9113, 4.3
		return malformed("a header block is interrupted")
	}
	if !s.began && s.spoke != nil {
		close(s.spoke)
	}
	s.began = true

	s.mu.Lock()
	if s.quiet == 0 || s.quiet == maxQuiet && time.Since(s.quietSince) >= quietTime {
		s.quiet, s.quietSince = 0, time.Now()
	}
	s.quiet++
	quiet := s.quiet
	s.mu.Unlock()
	if quiet > maxQuiet {
		return malformed("too many frames without data")
	}

	var ok bool
	switch kind {
	case frameData, frameHeaders, frameContinuation, frameRSTStream:
		ok = id == streamID
	case frameSettings, framePing, frameGoAway:
		ok = id == 0
	case frameWindowUpdate:
		ok = id <= streamID
	case framePriority: // of any stream, even an idle one
		ok = id != 0
	case framePushPromise:
		return malformed("PUSH_PROMISE, which was disabled")
	default: // RFC 9113, 5.5
		return nil
	}
	if !ok {
		return malformed("a frame of type " + strconv.Itoa(int(kind)) + " on stream " + strconv.FormatUint(uint64(id), 10))
	}
	if n := sizeOf[kind]; n != 0 && len(p) != n {
		return malformed("a frame of type " + strconv.Itoa(int(kind)) + " of " + strconv.Itoa(len(p)) + " bytes")
	}

	switch kind {
	case frameData:
		return s.data(flags, p)
	case frameHeaders:
		return s.headers(flags, p)
	case frameContinuation:
		if !s.inBlock {
			return malformed("CONTINUATION without HEADERS")
		}
		return s.headerBlock(p, flags&flagEndHeaders != 0)
	case frameRSTStream:
		return resetStatus(binary.BigEndian.Uint32(p))
	case frameSettings:
		return s.settings(flags, p)
	case framePing:
		if flags&flagAck == 0 {
			s.replies = append(appendFrameHeader(s.replies, len(p), framePing, flagAck, 0), p...)
		}
	case frameGoAway:
		return s.goingAway(p)
	case frameWindowUpdate:
		return s.widen(id, binary.BigEndian.Uint32(p)&maxWindow)
	}
	return nil
}

// sizeOf is the length that frames of a type have, where there is only one.
var sizeOf = [...]int{framePriority: 5, frameRSTStream: 4, framePing: 8, frameWindowUpdate: 4, frameContinuation: 0}

func (s *Stream) data(flags byte, p []byte) error {
	body, ok := unpad(flags, p)
	switch {
	case !ok:
		return malformed("more padding than frame")
	case !s.answered:
		return malformed("DATA before HEADERS")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.credit -= len(p); s.credit < 0 { // padding counts (RFC 9113, 6.9.1)
		return malformed("DATA beyond the window")
	}
	s.replies = append(s.replies, s.giveBack(len(p)-len(body))...)
	if len(body) > 0 {
		s.quiet = 0
		s.received = append(s.received, body...)
		s.changed.Broadcast()
	}
	if flags&flagEndStream != 0 {
		return (&fields{status: "200"}).outcome() // no trailers, so no grpc-status
	}
	return nil
}

func (s *Stream) headers(flags byte, p []byte) error {
	p, ok := unpad(flags, p)
	if !ok {
		return malformed("more padding than frame")
	}
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return malformed("HEADERS too short for its priority")
		}
		p = p[5:]
	}
	s.inBlock = true
	s.block = s.block[:0]
	s.lastOne = flags&flagEndStream != 0
	return s.headerBlock(p, flags&flagEndHeaders != 0)
}

// headerBlock takes a piece of a header block, and acts on the whole of it once it has ended.
func (s *Stream) headerBlock(p []byte, end bool) error {
	if len(s.block)+len(p) > maxHeaderList {
		return malformed("a header block of more than " + strconv.Itoa(maxHeaderList) + " bytes")
	}
	s.block = append(s.block, p...)
	if !end {
		return nil
	}
	s.inBlock = false
	s.fields = fields{}
	if _, err := s.dec.Write(s.block); err != nil {
		return fmt.Errorf("decoding a header block: %w", err)
	}
	if err := s.dec.Close(); err != nil {
		return fmt.Errorf("decoding a header block: %w", err)
	}
	f := &s.fields
	if f.malformed != "" {
		return malformed(f.malformed)
	}
	if s.answered {
		switch {
		case f.status != "":
			return malformed("a second response")
		case !s.lastOne:
			return malformed("trailers that do not end the stream")
		}
		f.status = "200"
		return f.outcome()
	}
	switch {
	case len(f.status) != 3:
		return malformed("a response without status")
	case f.status[0] == '1' && s.lastOne: // RFC 9113, 8.1
		return malformed("an interim response that ends the stream")
	case f.status[0] == '1':
		return nil
	case s.lastOne:
		return f.outcome()
	case f.status != "200":
		return f.httpStatus()
	case !f.isGRPC():
		return &Status{Code: unknown, Message: "no gRPC from the server, but " + strconv.Quote(f.contentType)}
	}
	s.answered = true
	return nil
}

func (s *Stream) settings(flags byte, p []byte) error {
	if flags&flagAck != 0 {
		if len(p) != 0 {
			return malformed("an acknowledgement of SETTINGS with content")
		}
		return nil
	}
	if len(p)%6 != 0 {
		return malformed("SETTINGS of " + strconv.Itoa(len(p)) + " bytes")
	}
	for ; len(p) > 0; p = p[6:] {
		value := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingEnablePush:
			if value != 0 {
				return malformed("a server that enables push")
			}
		case settingInitialWindowSize:
			if value > maxWindow {
				return malformed("an initial window beyond 2^31-1")
			}
			s.mu.Lock()
			s.window += int64(value) - s.initial
			s.initial = int64(value)
			overflow := s.window > maxWindow
			s.changed.Broadcast()
			s.mu.Unlock()
			if overflow {
				return malformed("a window beyond 2^31-1")
			}
		case settingMaxFrameSize:
			// A larger one changes nothing: we stay at the size that every peer takes.
			if value < maxFrame || value > 1<<24-1 {
				return malformed("a maximum frame size of " + strconv.FormatUint(uint64(value), 10))
			}
		}
	}
	s.replies = appendFrameHeader(s.replies, 0, frameSettings, flagAck, 0)
	return nil
}

// goingAway lets a call that the server has taken up go on.
func (s *Stream) goingAway(p []byte) error {
	if len(p) < 8 {
		return malformed("GOAWAY of " + strconv.Itoa(len(p)) + " bytes")
	}
	last, code := binary.BigEndian.Uint32(p)&maxWindow, binary.BigEndian.Uint32(p[4:])
	s.goAway = errorName(code)
	switch {
	case last >= streamID:
		return nil
	case code == codeNoError:
		return fmt.Errorf("%w: it is going away", ErrNoAnswer)
	}
	return s.broken(io.EOF)
}

func (s *Stream) widen(id, n uint32) error {
	if n == 0 {
		return malformed("WINDOW_UPDATE by nothing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	window := &s.connWindow
	if id == streamID {
		window = &s.window
	}
	if *window += int64(n); *window > maxWindow {
		return malformed("a window beyond 2^31-1")
	}
	s.changed.Broadcast()
	return nil
}

// unpad takes the padding off a DATA or HEADERS payload (RFC 9113, 6.1 and 6.2).
func unpad(flags byte, p []byte) ([]byte, bool) {
	if flags&flagPadded == 0 {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

func malformed(what string) error {
	return fmt.Errorf("the server breaks HTTP/2: %s", what)
}

// broken is the error of a connection that ended before the call did.
func (s *Stream) broken(err error) error {
	if s.goAway != "" {
		return fmt.Errorf("reading the answer: %w (the server went away: %s)", unexpected(err), s.goAway)
	}
	return fmt.Errorf("reading the answer: %w", unexpected(err))
}

// unexpected keeps the end of a connection from being taken for the end of a call.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
