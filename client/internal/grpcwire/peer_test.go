package grpcwire_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"tokend/client/internal/grpcwire"
)

// peer is a server that plays a script. Its methods write frames, and panic if they cannot: the script is wrong.
type peer struct {
	*http2.Framer
	conn net.Conn
}

// play starts a server that says hello with SETTINGS and then plays script, and returns a connection to it. When
// script returns, the server reads until the client closes the connection.
func play(t *testing.T, script func(p peer)) net.Conn {
	return playRaw(t, func(p peer) {
		p.WriteSettings()
		script(p)
		io.Copy(io.Discard, p.conn)
	})
}

// playRaw is play without the hello, and without the wait at the end.
func playRaw(t *testing.T, script func(p peer)) net.Conn {
	t.Helper()
	l := listen(t)
	done := make(chan bool)
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		f := http2.NewFramer(c, c)
		f.AllowIllegalWrites = true
		f.AllowIllegalReads = true
		script(peer{f, c})
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return dial(t, l.Addr().String())
}

func block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	for i := 0; i < len(fields); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

func message(s string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(s))), s...)
}

var (
	okHeaders  = []string{":status", "200", "content-type", "application/grpc"}
	okTrailers = []string{"grpc-status", "0", "grpc-message", ""}
)

// headers writes the fields, given as names and values in turn, as one HEADERS frame.
func (p peer) headers(end bool, fields ...string) {
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(fields...), EndStream: end, EndHeaders: true})
}

func (p peer) answer(messages ...string) {
	p.headers(false, okHeaders...)
	for _, m := range messages {
		p.WriteData(1, false, message(m))
	}
	p.headers(true, okTrailers...)
}

func (p peer) details(value string) {
	p.headers(true, ":status", "200", "grpc-status", "9", "grpc-status-details-bin", value)
}

// readRequest reads the client's preface and frames, to the end of its stream, and returns the frames as text and the
// DATA.
func (p peer) readRequest() (frames []string, data []byte) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.conn, preface); err != nil || string(preface) != http2.ClientPreface {
		panic(fmt.Sprintf("preface %q, %v", preface, err))
	}
	for {
		f, err := p.ReadFrame()
		if err != nil {
			panic(err)
		}
		h := f.Header()
		frames = append(frames, fmt.Sprintf("%v %d flags=%d len=%d", h.Type, h.StreamID, h.Flags, h.Length))
		if d, ok := f.(*http2.DataFrame); ok {
			data = append(data, d.Data()...)
			if d.StreamEnded() {
				return frames, data
			}
		}
	}
}

func statusError(code uint32, message string) error {
	return &grpcwire.Status{Code: code, Message: message}
}

func http2Error(what string) error { return errors.New("the server breaks HTTP/2: " + what) }

// same says whether two errors are equal for the caller: as a Status, or else as text.
func same(a, b error) bool {
	as, aok := a.(*grpcwire.Status)
	bs, bok := b.(*grpcwire.Status)
	if aok && bok {
		return reflect.DeepEqual(as, bs)
	}
	return aok == bok && fmt.Sprint(a) == fmt.Sprint(b)
}

func TestAnswers(t *testing.T) {
	fifteenMessages := strings.Repeat(string(message("m")), 15)
	bomb := bytes.Repeat([]byte{0x88}, 400) // 400 times ":status: 200"
	for _, tt := range []struct {
		name   string
		script func(p peer)
		want   string
		err    error
	}{
		{"plain", func(p peer) { p.answer("token") }, "token", nil},
		{"message of 0 bytes", func(p peer) { p.answer("") }, "", nil},
		{"content-type with a codec", func(p peer) {
			p.headers(false, ":status", "200", "content-type", "application/grpc+proto")
			p.WriteData(1, false, message("token"))
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"byte by byte", func(p peer) {
			p.headers(false, okHeaders...)
			for _, b := range message("token") {
				p.WriteData(1, false, []byte{b})
			}
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"empty DATA", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, nil)
			p.WriteData(1, false, message("token"))
			p.WriteData(1, false, nil)
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"padded DATA", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteDataPadded(1, false, message("token")[:3], make([]byte, 255))
			p.WriteDataPadded(1, false, message("token")[3:], []byte{})
			p.WriteDataPadded(1, false, nil, make([]byte, 9))
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"padded HEADERS with priority", func(p peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(okHeaders...), EndHeaders: true, PadLength: 77,
				Priority: http2.PriorityParam{StreamDep: 3, Weight: 9}})
			p.WriteData(1, false, message("token"))
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"CONTINUATION", func(p peer) {
			b := block(okHeaders...)
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3]})
			for _, c := range b[3:] {
				p.WriteContinuation(1, false, []byte{c})
			}
			p.WriteContinuation(1, true, nil)
			p.WriteData(1, false, message("token"))
			b = block(okTrailers...)
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil, EndStream: true})
			p.WriteContinuation(1, true, b)
		}, "token", nil},
		{"interim responses", func(p peer) {
			p.headers(false, ":status", "100")
			p.headers(false, ":status", "103", "link", "x")
			p.answer("token")
		}, "token", nil},
		{"frames to skip", func(p peer) {
			p.WritePing(true, [8]byte{1})
			p.WritePriority(7, http2.PriorityParam{})
			p.WriteRawFrame(0xfa, 0xff, 12345, make([]byte, 16384))
			p.headers(false, okHeaders...)
			p.WriteRawFrame(0x10, 0, 0, nil)
			p.WriteWindowUpdate(0, 1)
			p.WriteWindowUpdate(1, 1)
			p.WriteSettings(http2.Setting{ID: 0xfafa, Val: 1}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1<<24 - 1})
			p.WriteSettingsAck()
			p.WriteData(1, false, message("token"))
			p.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"reserved bit of the stream's number", func(p peer) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1<<31|1, block(okHeaders...))
			p.WriteRawFrame(http2.FrameData, 0, 1<<31|1, message("token"))
			p.headers(true, okTrailers...)
		}, "token", nil},
		{"headers that mean nothing here", func(p peer) {
			p.headers(false, append(okHeaders, "date", "today", "grpc-encoding", "identity")...)
			p.WriteData(1, false, message("token"))
			p.headers(true, append(okTrailers, "x", "y")...)
		}, "token", nil},

		{"trailers only", func(p peer) {
			p.headers(true, ":status", "200", "grpc-status", "5", "grpc-message", "not %41%zz%e2%98%83%4")
		},
			"", statusError(5, "not A%zz☃%4")},
		{"trailers only, without content-type or OK", func(p peer) { p.headers(true, ":status", "500", "grpc-status", "16") }, "", statusError(16, "")},
		{"status after a message", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, message("token"))
			p.headers(true, "grpc-status", "15", "grpc-message", "lost")
		}, "", statusError(15, "lost")},
		{"message that is not UTF-8", func(p peer) {
			p.headers(true, ":status", "200", "grpc-status", "2", "grpc-message", "a%ff%feb\xffc%21")
		},
			"", statusError(2, "a\uFFFDb\uFFFDc!")},
		{"unknown status code", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "17") }, "", statusError(2, "")},
		{"status that is no number", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "-0") }, "", statusError(2, "")},
		{"details without padding", func(p peer) { p.details(base64.RawStdEncoding.EncodeToString([]byte("\xff\xfe\xfd\xfc"))) },
			"", &grpcwire.Status{Code: 9, Details: []byte("\xff\xfe\xfd\xfc")}},
		{"details with padding", func(p peer) { p.details(base64.StdEncoding.EncodeToString([]byte("\xff\xfe\xfd\xfc"))) },
			"", &grpcwire.Status{Code: 9, Details: []byte("\xff\xfe\xfd\xfc")}},
		{"details that are not base64", func(p peer) { p.details("a,b") }, "", http2Error("grpc-status-details-bin that is not base64")},

		{"no message", func(p peer) { p.answer() }, "", statusError(13, "the answer has no complete message")},
		{"no message, trailers only", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "0") }, "",
			statusError(13, "the answer has no complete message")},
		{"half a message", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, message("token")[:8])
			p.headers(true, okTrailers...)
		}, "", statusError(13, "the answer has no complete message")},
		{"two messages", func(p peer) { p.answer("a", "b") }, "", statusError(13, "the answer has more than one message")},
		{"many messages in one frame", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, []byte(fifteenMessages))
			p.headers(true, okTrailers...)
		}, "", statusError(13, "the answer has more than one message")},
		{"message and a byte", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, append(message("a"), 0))
			p.headers(true, okTrailers...)
		}, "", statusError(13, "the answer has more than one message")},
		{"compressed", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, []byte{1, 0, 0, 0, 0})
		}, "", statusError(13, "the message is compressed, which was not offered")},
		{"4 GiB announced", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, []byte{0, 255, 255, 255, 255})
		}, "", statusError(8, "a message of 4294967295 bytes, the limit is 65536")},
		{"one byte too many announced", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, []byte{0, 0, 1, 0, 1})
		}, "", statusError(8, "a message of 65537 bytes, the limit is 65536")},

		{"END_STREAM on DATA", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, true, message("token"))
		}, "", statusError(2, "no grpc-status from the server, HTTP status 200")},
		{"trailers without grpc-status", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, message("token"))
			p.headers(true, "x", "y")
		}, "", statusError(2, "no grpc-status from the server, HTTP status 200")},
		{"empty trailers", func(p peer) {
			p.headers(false, okHeaders...)
			p.headers(true)
		}, "", statusError(2, "no grpc-status from the server, HTTP status 200")},
		{"a web page", func(p peer) { p.headers(false, ":status", "200", "content-type", "text/html") }, "",
			statusError(2, "no gRPC from the server, but \"text/html\"")},
		{"nearly gRPC", func(p peer) { p.headers(false, ":status", "200", "content-type", "application/grpc-web") }, "",
			statusError(2, "no gRPC from the server, but \"application/grpc-web\"")},

		{"interim response at the end", func(p peer) { p.headers(true, ":status", "103") }, "", http2Error("an interim response that ends the stream")},
		{"no :status", func(p peer) { p.headers(false, "content-type", "application/grpc") }, "", http2Error("a response without status")},
		{"short :status", func(p peer) { p.headers(false, ":status", "20") }, "", http2Error("a response without status")},
		{"two :status", func(p peer) { p.headers(false, ":status", "200", ":status", "200") }, "", http2Error("more than one :status")},
		{"two grpc-status", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "1", "grpc-status", "0") }, "",
			http2Error("more than one grpc-status")},
		{":status late", func(p peer) { p.headers(false, "a", "b", ":status", "200") }, "", http2Error(":status after other headers")},
		{"pseudo-header of requests", func(p peer) { p.headers(false, ":status", "200", ":path", "/") }, "", http2Error(`the header ":path"`)},
		{"upper case", func(p peer) { p.headers(false, ":status", "200", "Grpc-Status", "0") }, "", http2Error(`the header "Grpc-Status"`)},
		{"nameless", func(p peer) { p.headers(false, ":status", "200", "", "0") }, "", http2Error(`the header ""`)},
		{"second response", func(p peer) {
			p.headers(false, okHeaders...)
			p.headers(true, okHeaders...)
		}, "", http2Error("a second response")},
		{"trailers that do not end", func(p peer) {
			p.headers(false, okHeaders...)
			p.headers(false, okTrailers...)
		}, "", http2Error("trailers that do not end the stream")},
		{"DATA first", func(p peer) { p.WriteData(1, false, message("token")) }, "", http2Error("DATA before HEADERS")},
		{"DATA after an interim response", func(p peer) {
			p.headers(false, ":status", "100")
			p.WriteData(1, false, message("token"))
		}, "", http2Error("DATA before HEADERS")},
		{"headers too large", func(p peer) {
			p.headers(false, ":status", "200", "a", strings.Repeat("~", 16300), "b", strings.Repeat("\x01", 50))
		}, "",
			http2Error("headers of more than 16384 bytes")},
		{"headers that swell", func(p peer) { p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, bomb) }, "",
			http2Error("headers of more than 16384 bytes")},
		{"header block too large", func(p peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 16384)})
			p.WriteContinuation(1, false, []byte{0})
		}, "", http2Error("a header block of more than 16384 bytes")},
		{"header string too long", func(p peer) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0, 0x7f, 0xff, 0x7f})
		}, "",
			errors.New("decoding a header block: hpack: string too long")},
		{"dynamic table", func(p peer) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0x3f, 0xe1, 0x1f}) // its size is 4096
		}, "", errors.New("decoding a header block: decoding error: dynamic table size update too large")},
		{"entry of the dynamic table", func(p peer) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0x40, 1, 'a', 1, 'b', 0xbe})
		}, "", errors.New("decoding a header block: decoding error: invalid indexed representation index 62")},
		{"header block cut off", func(p peer) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0x00, 5, 'a'})
		}, "",
			errors.New("decoding a header block: decoding error: truncated headers")},
		{"interrupted header block", func(p peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(okHeaders...)})
			p.WritePing(false, [8]byte{})
		}, "", http2Error("a header block is interrupted")},
		{"unknown frame in a header block", func(p peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(okHeaders...)})
			p.WriteRawFrame(0xfa, 0, 0, nil)
		}, "", http2Error("a header block is interrupted")},
		{"CONTINUATION of another stream", func(p peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(okHeaders...)})
			p.WriteContinuation(3, true, nil)
		}, "", http2Error("a frame of type 9 on stream 3")},
		{"CONTINUATION alone", func(p peer) { p.WriteContinuation(1, true, nil) }, "", http2Error("CONTINUATION without HEADERS")},

		{"HEADERS on stream 3", func(p peer) { p.WriteRawFrame(http2.FrameHeaders, 4, 3, nil) }, "", http2Error("a frame of type 1 on stream 3")},
		{"HEADERS on stream 0", func(p peer) { p.WriteRawFrame(http2.FrameHeaders, 4, 0, nil) }, "", http2Error("a frame of type 1 on stream 0")},
		{"DATA on stream 2", func(p peer) { p.WriteRawFrame(http2.FrameData, 0, 2, nil) }, "", http2Error("a frame of type 0 on stream 2")},
		{"RST_STREAM on stream 0", func(p peer) { p.WriteRawFrame(http2.FrameRSTStream, 0, 0, make([]byte, 4)) }, "", http2Error("a frame of type 3 on stream 0")},
		{"SETTINGS on stream 1", func(p peer) { p.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }, "", http2Error("a frame of type 4 on stream 1")},
		{"PING on stream 1", func(p peer) { p.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8)) }, "", http2Error("a frame of type 6 on stream 1")},
		{"GOAWAY on stream 1", func(p peer) { p.WriteRawFrame(http2.FrameGoAway, 0, 1, make([]byte, 8)) }, "", http2Error("a frame of type 7 on stream 1")},
		{"WINDOW_UPDATE on stream 3", func(p peer) { p.WriteWindowUpdate(3, 1) }, "", http2Error("a frame of type 8 on stream 3")},
		{"PRIORITY on stream 0", func(p peer) { p.WriteRawFrame(http2.FramePriority, 0, 0, make([]byte, 5)) }, "", http2Error("a frame of type 2 on stream 0")},
		{"PUSH_PROMISE", func(p peer) {
			p.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: block(":method", "GET"), EndHeaders: true})
		}, "", http2Error("PUSH_PROMISE, which was disabled")},

		{"short PRIORITY", func(p peer) { p.WriteRawFrame(http2.FramePriority, 0, 1, make([]byte, 4)) }, "", http2Error("a frame of type 2 of 4 bytes")},
		{"short RST_STREAM", func(p peer) { p.WriteRawFrame(http2.FrameRSTStream, 0, 1, nil) }, "", http2Error("a frame of type 3 of 0 bytes")},
		{"long PING", func(p peer) { p.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 9)) }, "", http2Error("a frame of type 6 of 9 bytes")},
		{"long WINDOW_UPDATE", func(p peer) { p.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, make([]byte, 5)) }, "", http2Error("a frame of type 8 of 5 bytes")},
		{"short GOAWAY", func(p peer) { p.WriteRawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7)) }, "", http2Error("GOAWAY of 7 bytes")},
		{"short SETTINGS", func(p peer) { p.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 7)) }, "", http2Error("SETTINGS of 7 bytes")},
		{"SETTINGS ACK with content", func(p peer) { p.WriteRawFrame(http2.FrameSettings, 1, 0, make([]byte, 6)) }, "",
			http2Error("an acknowledgement of SETTINGS with content")},
		{"frame too large", func(p peer) { p.WriteRawFrame(0xfa, 0, 0, make([]byte, 16385)) }, "", http2Error("a frame of 16385 bytes")},
		{"DATA with too much padding", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{3, 0, 0})
		}, "", http2Error("more padding than frame")},
		{"DATA padded without a length", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, nil)
		}, "", http2Error("more padding than frame")},
		{"HEADERS with too much padding", func(p peer) { p.WriteRawFrame(http2.FrameHeaders, 4|http2.FlagHeadersPadded, 1, []byte{1}) }, "",
			http2Error("more padding than frame")},
		{"HEADERS without its priority", func(p peer) {
			p.WriteRawFrame(http2.FrameHeaders, 4|http2.FlagHeadersPadded|http2.FlagHeadersPriority, 1, []byte{1, 0, 0, 0, 0, 0})
		}, "", http2Error("HEADERS too short for its priority")},

		{"server that enables push", func(p peer) { p.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 1}) }, "",
			http2Error("a server that enables push")},
		{"initial window too large", func(p peer) { p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }, "",
			http2Error("an initial window beyond 2^31-1")},
		{"maximum frame too small", func(p peer) { p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16383}) }, "",
			http2Error("a maximum frame size of 16383")},
		{"maximum frame too large", func(p peer) { p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 24}) }, "",
			http2Error("a maximum frame size of 16777216")},
		{"WINDOW_UPDATE by 0", func(p peer) { p.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, []byte{128, 0, 0, 0}) }, "",
			http2Error("WINDOW_UPDATE by nothing")},
		{"connection's window overflows", func(p peer) { p.WriteWindowUpdate(0, 1<<31-1); p.WriteWindowUpdate(0, 1<<31-1) }, "",
			http2Error("a window beyond 2^31-1")},
		{"stream's window overflows", func(p peer) { p.WriteWindowUpdate(1, 1<<31-1); p.WriteWindowUpdate(1, 1<<31-1) }, "",
			http2Error("a window beyond 2^31-1")},
		{"stream's window overflows by SETTINGS", func(p peer) {
			p.WriteWindowUpdate(1, 1<<31-1-65535)
			p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65536})
		}, "", http2Error("a window beyond 2^31-1")},
		{"flood of PING acknowledgements", func(p peer) {
			for range 10_001 {
				p.WritePing(true, [8]byte{})
			}
		}, "", http2Error("too many frames without data")},
		{"flood of empty CONTINUATION", func(p peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
			for range 10_001 {
				p.WriteContinuation(1, false, nil)
			}
		}, "", http2Error("too many frames without data")},
		{"flood of padding", func(p peer) {
			p.headers(false, okHeaders...)
			for range 10_001 {
				p.WriteDataPadded(1, false, nil, make([]byte, 255))
			}
		}, "", http2Error("too many frames without data")},

		{"GOAWAY before our stream", func(p peer) { p.WriteGoAway(0, http2.ErrCodeNo, nil) }, "",
			errors.New("no answer from the server: it is going away")},
		{"GOAWAY before our stream, in anger", func(p peer) { p.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")) }, "",
			errors.New("reading the answer: unexpected EOF (the server went away: ENHANCE_YOUR_CALM)")},
		{"GOAWAY with a code of its own", func(p peer) { p.WriteGoAway(0, 0xabcd, nil) }, "",
			errors.New("reading the answer: unexpected EOF (the server went away: error 43981)")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := play(t, tt.script)
			got, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, []byte("request"))
			if string(got) != tt.want || !same(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
			if wantRetry := strings.HasPrefix(fmt.Sprint(tt.err), "no answer"); errors.Is(err, grpcwire.ErrNoAnswer) != wantRetry {
				t.Errorf("ErrNoAnswer is %v, want %v", !wantRetry, wantRetry)
			}
		})
	}
}

func TestResetCodes(t *testing.T) {
	for code, want := range []error{
		statusError(13, "the server reset the call: NO_ERROR"),
		statusError(13, "the server reset the call: PROTOCOL_ERROR"),
		statusError(13, "the server reset the call: INTERNAL_ERROR"),
		statusError(13, "the server reset the call: FLOW_CONTROL_ERROR"),
		statusError(13, "the server reset the call: SETTINGS_TIMEOUT"),
		statusError(2, "the server reset the call: STREAM_CLOSED"),
		statusError(13, "the server reset the call: FRAME_SIZE_ERROR"),
		statusError(14, "the server reset the call: REFUSED_STREAM"),
		statusError(1, "the server reset the call: CANCEL"),
		statusError(13, "the server reset the call: COMPRESSION_ERROR"),
		statusError(13, "the server reset the call: CONNECT_ERROR"),
		statusError(8, "the server reset the call: ENHANCE_YOUR_CALM"),
		statusError(7, "the server reset the call: INADEQUATE_SECURITY"),
		statusError(2, "the server reset the call: HTTP_1_1_REQUIRED"),
		statusError(2, "the server reset the call: error 14"),
	} {
		for name, call := range callers {
			c := play(t, func(p peer) { p.WriteRSTStream(1, http2.ErrCode(code)) })
			if err := call(t.Context(), c, unaryMethod, nil); !same(err, want) {
				t.Errorf("%s: got %v, want %v", name, err, want)
			}
		}
	}
}

func TestHTTPStatus(t *testing.T) {
	for http, code := range map[string]uint32{
		"204": 2, "302": 2, "400": 13, "401": 16, "403": 7, "404": 12, "405": 2, "429": 14, "500": 2, "502": 14, "503": 14, "504": 14,
	} {
		for _, end := range []bool{false, true} {
			c := play(t, func(p peer) { p.headers(end, ":status", http, "content-type", "application/grpc") })
			_, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, nil)
			if want := statusError(code, "no grpc-status from the server, HTTP status "+http); !same(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	}
}

func TestStatusText(t *testing.T) {
	for want, s := range map[string]grpcwire.Status{
		"NOT_FOUND: no profile": {Code: 5, Message: "no profile"},
		"UNAUTHENTICATED: ":     {Code: 16},
		"status 17: x":          {Code: 17, Message: "x"},
	} {
		if got := s.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestHello(t *testing.T) {
	for _, tt := range []struct {
		name, hello, want string
	}{
		{"PING", "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", "the server breaks HTTP/2: the first frame is not SETTINGS"},
		{"SETTINGS ACK", "\x00\x00\x00\x04\x01\x00\x00\x00\x00", "the server breaks HTTP/2: the first frame is not SETTINGS"},
		{"unknown frame", "\x00\x00\x00\xfa\x00\x00\x00\x00\x00", "the server breaks HTTP/2: the first frame is not SETTINGS"},
		{"HTTP/1.1", "HTTP/1.1 400 Bad Request\r\n\r\n", "the server breaks HTTP/2: a frame of 4740180 bytes"},
	} {
		c := playRaw(t, func(p peer) {
			io.WriteString(p.conn, tt.hello)
			io.Copy(io.Discard, p.conn)
		})
		if _, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, nil); err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestBrokenConnection(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script func(p peer)
		want   string
		retry  bool
	}{
		{"closed at once", func(p peer) {}, "no answer from the server: unexpected EOF", true},
		{"closed after the request", func(p peer) { p.readRequest() }, "no answer from the server: unexpected EOF", true},
		{"in the first frame", func(p peer) { p.readRequest(); p.conn.Write([]byte{0}) }, "reading the answer: unexpected EOF", false},
		{"after SETTINGS", func(p peer) { p.readRequest(); p.WriteSettings() }, "reading the answer: unexpected EOF", false},
		{"in the second frame", func(p peer) {
			p.readRequest()
			p.WriteSettings()
			p.conn.Write([]byte{0, 0, 8, byte(http2.FramePing), 0, 0, 0, 0, 0, 1, 2})
		}, "reading the answer: unexpected EOF", false},
		{"after the message", func(p peer) {
			p.readRequest()
			p.WriteSettings()
			p.headers(false, okHeaders...)
			p.WriteData(1, false, message("token"))
		}, "reading the answer: unexpected EOF", false},
		{"after GOAWAY", func(p peer) {
			p.readRequest()
			p.WriteSettings()
			p.WriteGoAway(1, http2.ErrCodeInternal, nil)
		}, "reading the answer: unexpected EOF (the server went away: INTERNAL_ERROR)", false},
	} {
		c := playRaw(t, func(p peer) {
			tt.script(p)
			p.conn.(*net.UnixConn).CloseWrite() // Close resets the connection if something is unread
			io.Copy(io.Discard, p.conn)
		})
		_, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, nil)
		if err == nil || err.Error() != tt.want || errors.Is(err, grpcwire.ErrNoAnswer) != tt.retry || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// A connection that nobody ever accepted, and one that was closed because there are too many.
func TestServerTakesNothing(t *testing.T) {
	for name, call := range callers {
		l := listen(t)
		c := dial(t, l.Addr().String())
		l.Close()
		if err := call(t.Context(), c, unaryMethod, nil); !errors.Is(err, grpcwire.ErrNoAnswer) {
			t.Errorf("%s: got %v", name, err)
		}
		c = playRaw(t, func(peer) {})
		if err := call(t.Context(), c, unaryMethod, nil); !errors.Is(err, grpcwire.ErrNoAnswer) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A server that is full may answer before it has read anything.
func TestAnswerBeforeRequest(t *testing.T) {
	closed := make(chan bool)
	c := playRaw(t, func(p peer) {
		p.WriteSettings()
		p.headers(true, ":status", "200", "grpc-status", "8", "grpc-message", "full")
		p.conn.Close()
		close(closed)
	})
	<-closed
	if _, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, nil); !same(err, statusError(8, "full")) {
		t.Error(err)
	}
}

// writeCounter counts the system calls that a connection would make to write.
type writeCounter struct {
	net.Conn
	writes int
}

func (c *writeCounter) Write(p []byte) (int, error) { c.writes++; return c.Conn.Write(p) }

func TestRequestIsOneWrite(t *testing.T) {
	request := bytes.Repeat([]byte("0123456789"), 6553)
	var frames []string
	var data []byte
	c := &writeCounter{Conn: play(t, func(p peer) {
		frames, data = p.readRequest()
		p.answer("")
	})}
	if _, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, request); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"SETTINGS 0 flags=0 len=24",
		"WINDOW_UPDATE 0 flags=0 len=4",
		"HEADERS 1 flags=4 len=59",
		"DATA 1 flags=0 len=16384",
		"DATA 1 flags=0 len=16384",
		"DATA 1 flags=0 len=16384",
		"DATA 1 flags=1 len=16383",
	}
	if !reflect.DeepEqual(frames, want) {
		t.Errorf("got %q, want %q", frames, want)
	}
	if !bytes.Equal(data, message(string(request))) {
		t.Errorf("%d bytes came", len(data))
	}
	if c.writes > 2 { // SETTINGS are acknowledged if there is time
		t.Errorf("%d writes", c.writes)
	}
}

// The client acknowledges SETTINGS and PING, and not their acknowledgements.
func TestAcknowledgements(t *testing.T) {
	var got []string
	c := play(t, func(p peer) {
		p.readRequest()
		p.WriteSettingsAck()
		p.WritePing(true, [8]byte{9})
		p.WritePing(false, [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
		p.WriteSettings()
		for range 3 {
			f, err := p.ReadFrame()
			if err != nil {
				got = append(got, err.Error())
				continue
			}
			got = append(got, fmt.Sprint(f))
		}
		p.answer("token")
	})
	if _, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, nil); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || !strings.HasPrefix(got[0], "[FrameHeader SETTINGS flags=ACK len=0]") ||
		!strings.HasPrefix(got[1], "[FrameHeader PING flags=ACK len=8]") || !strings.HasPrefix(got[2], "[FrameHeader SETTINGS flags=ACK len=0]") {
		t.Errorf("got %q", got)
	}
}

// The stream's window can shrink, even below zero, and then opens again in small steps.
func TestSendObeysWindow(t *testing.T) {
	small := make(chan bool)
	var sizes []uint32
	var got []byte
	finished := make(chan bool)
	c := play(t, func(p peer) {
		io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
		next := func() http2.Frame {
			for {
				f, err := p.ReadFrame()
				if err != nil {
					panic(err)
				}
				if f.Header().Type == http2.FrameData || f.Header().Type == http2.FramePing {
					return f
				}
			}
		}
		data := func() {
			d := next().(*http2.DataFrame)
			sizes = append(sizes, d.Length)
			got = append(got, d.Data()...)
		}
		data() // the first message, 105 bytes, of a window of 65,535
		p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		p.WritePing(false, [8]byte{}) // its answer says that SETTINGS have been read
		next()
		close(small)
		p.WriteWindowUpdate(1, 5) // from -5 to 0: nothing may come
		p.WritePing(false, [8]byte{})
		next()
		for _, n := range []uint32{1, 7, 20_000} {
			p.WriteWindowUpdate(1, n)
			for want := min(n, 40_005-sum(sizes[1:])); want > 0; want -= sizes[len(sizes)-1] {
				data()
			}
		}
		p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100 + 10_000})
		data()
		p.WriteWindowUpdate(1, 1<<20)
		data()
		close(finished)
	})
	s := open(t, t.Context(), c)
	first, second := bytes.Repeat([]byte("a"), 100), bytes.Repeat([]byte("b"), 40_000)
	if err := s.Send(first); err != nil {
		t.Fatal(err)
	}
	<-small
	if err := s.Send(second); err != nil {
		t.Fatal(err)
	}
	<-finished
	if want := []uint32{105, 1, 7, 16384, 3616, 10_000, 9_997}; !reflect.DeepEqual(sizes, want) {
		t.Errorf("frames of %d bytes, want %d", sizes, want)
	}
	if !bytes.Equal(got, append(message(string(first)), message(string(second))...)) {
		t.Error("not what was sent")
	}
}

func sum(sizes []uint32) (n uint32) {
	for _, s := range sizes {
		n += s
	}
	return n
}

// The connection's window holds as well.
func TestSendObeysConnectionWindow(t *testing.T) {
	var before, after uint32
	c := play(t, func(p peer) {
		io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
		p.WriteWindowUpdate(1, 1<<20)
		read := func(until uint32) (n uint32) {
			for n < until {
				f, err := p.ReadFrame()
				if err != nil {
					panic(err)
				}
				if f.Header().Type == http2.FrameData {
					n += f.Header().Length
				}
			}
			return n
		}
		before = read(65535)
		p.WritePing(false, [8]byte{})
		for f, err := p.ReadFrame(); f.Header().Type != http2.FramePing; f, err = p.ReadFrame() {
			if err != nil || f.Header().Type == http2.FrameData {
				panic(fmt.Sprint(f, err))
			}
		}
		p.WriteWindowUpdate(0, 1<<20)
		after = read(4475)
		p.answer("enough")
	})
	s := open(t, t.Context(), c)
	for range 2 {
		if err := s.Send(make([]byte, 35_000)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Recv(); string(got) != "enough" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if before != 65535 || after != 2*35_005-65535 {
		t.Errorf("%d bytes, then %d", before, after)
	}
}

// Credit comes back as messages are taken, for the stream and the connection, and as much as was used.
func TestCredit(t *testing.T) {
	const messages = 40
	large := string(make([]byte, grpcwire.MaxMessage))
	given := map[uint32]uint32{}
	c := play(t, func(p peer) {
		io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
		window := 256 << 10
		p.headers(false, okHeaders...)
		for range messages {
			for m := message(large); len(m) > 0; {
				n := min(len(m), 16383-255)
				for window < n+256 {
					f, err := p.ReadFrame()
					if err != nil {
						panic(err)
					}
					if w, ok := f.(*http2.WindowUpdateFrame); ok {
						given[w.StreamID] += w.Increment
						if w.StreamID == 1 {
							window += int(w.Increment)
						}
					}
				}
				p.WriteDataPadded(1, false, m[:n], make([]byte, 255))
				window -= n + 256
				m = m[n:]
			}
		}
		p.headers(true, okTrailers...)
	})
	s := open(t, t.Context(), c)
	for i := range messages {
		if got, err := s.Recv(); err != nil || string(got) != large {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Error(err)
	}
	s.Close()
	initial := uint32(256<<10 - 65535)
	if given[1] == 0 || given[0] != given[1]+initial {
		t.Errorf("credit %v", given)
	}
}

// Nobody takes the messages, and the server goes on all the same.
func TestServerBeyondWindow(t *testing.T) {
	want := http2Error("DATA beyond the window")
	c := play(t, func(p peer) {
		p.headers(false, okHeaders...)
		for range 16 { // padding counts
			p.WriteDataPadded(1, false, make([]byte, 16384-256), make([]byte, 255))
		}
		p.WriteData(1, false, nil)
		p.WriteData(1, false, []byte{0})
	})
	if _, err := grpcwire.Unary(t.Context(), c, unaryMethod, nil, nil); !same(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestStreamMessages(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script func(p peer)
		want   []string
		err    error
	}{
		{"several in a frame and one over several", func(p peer) {
			all := bytes.Join([][]byte{message("a"), message(""), message("bcd"), message("e")}, nil)
			p.headers(false, okHeaders...)
			p.WriteData(1, false, all[:13])
			p.WriteData(1, false, all[13:15])
			p.WriteData(1, false, all[15:])
			p.headers(true, okTrailers...)
		}, []string{"a", "", "bcd", "e"}, io.EOF},
		{"none", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "0") }, nil, io.EOF},
		{"half a message, then OK", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, append(message("a"), message("token")[:7]...))
			p.headers(true, okTrailers...)
		}, []string{"a"}, statusError(13, "the last message is not complete")},
		{"half a message, then an error", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, append(message("a"), message("token")[:7]...))
			p.headers(true, "grpc-status", "10")
		}, []string{"a"}, statusError(10, "")},
		{"compressed", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, append(message("a"), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0))
			p.WriteData(1, false, message("b"))
		}, []string{"a"}, statusError(13, "the message is compressed, which was not offered")},
		{"4 GiB announced", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, []byte{0, 255, 255, 255, 255})
		}, nil, statusError(8, "a message of 4294967295 bytes, the limit is 65536")},
		{"pings and data in turn, for ever", func(p peer) {
			p.headers(false, okHeaders...)
			for range 3 {
				for range 9_990 {
					p.WritePing(true, [8]byte{})
				}
				p.WriteData(1, false, message("m"))
			}
			p.headers(true, okTrailers...)
		}, []string{"m", "m", "m"}, io.EOF},
		{"pings only", func(p peer) {
			p.headers(false, okHeaders...)
			p.WriteData(1, false, message("m"))
			for range 10_001 {
				p.WritePing(true, [8]byte{})
			}
		}, []string{"m"}, http2Error("too many frames without data")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, t.Context(), play(t, tt.script))
			var got []string
			for {
				m, err := s.Recv()
				if err == nil {
					got = append(got, string(m))
					continue
				}
				if !reflect.DeepEqual(got, tt.want) || !same(err, tt.err) {
					t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
				}
				if _, again := s.Recv(); !same(again, err) {
					t.Errorf("again: got %v, want %v", again, err)
				}
				return
			}
		})
	}
}

// What the client sends counts as data as well.
func TestPingsBetweenSends(t *testing.T) {
	pinged := make(chan bool)
	c := play(t, func(p peer) {
		io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
		until := func(kind http2.FrameType) {
			for {
				if f, err := p.ReadFrame(); err != nil || f.Header().Type == kind {
					return
				}
			}
		}
		for range 3 {
			for range 9_990 {
				p.WritePing(true, [8]byte{})
			}
			p.WritePing(false, [8]byte{})
			until(http2.FramePing)
			pinged <- true
			until(http2.FrameData)
		}
		p.answer("token")
	})
	s := open(t, t.Context(), c)
	for range 3 {
		<-pinged
		if err := s.Send([]byte("m")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Recv(); err != nil || string(got) != "token" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCloseLosesMessages(t *testing.T) {
	came := make(chan bool)
	c := play(t, func(p peer) {
		io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
		p.headers(false, okHeaders...)
		p.WriteData(1, false, message("a"))
		p.WritePing(false, [8]byte{})
		for {
			if f, err := p.ReadFrame(); err != nil || f.Header().Type == http2.FramePing {
				close(came)
				return
			}
		}
	})
	s := open(t, t.Context(), c)
	<-came
	s.Close()
	if got, err := s.Recv(); err == nil || err.Error() != "the stream is closed" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCloseWhileReceiving(t *testing.T) {
	request := make(chan bool)
	c := play(t, func(p peer) {
		io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
		close(request)
	})
	s, err := grpcwire.Open(context.Background(), c, streamMethod, nil)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan error)
	go func() { _, err := s.Recv(); received <- err }()
	<-request
	s.Close()
	if err := <-received; err == nil || err.Error() != "the stream is closed" {
		t.Error(err)
	}
}

// The time that is left goes to the server, never shortened.
func TestTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]string{
		1:                               "1n",
		99_999_999:                      "99999999n",
		100 * time.Millisecond:          "100000u",
		100*time.Millisecond + 1:        "100001u",
		99_999_999 * time.Microsecond:   "99999999u",
		99_999_999*time.Microsecond + 1: "100000m",
		24 * time.Hour:                  "86400000m",
		99_999_999*time.Millisecond + 1: "100000S",
		time.Duration(1<<63 - 1):        "99999999S",
	} {
		synctest.Test(t, func(t *testing.T) {
			mine, theirs := net.Pipe()
			var got string
			go func() {
				defer theirs.Close()
				io.ReadFull(theirs, make([]byte, len(http2.ClientPreface)))
				f := http2.NewFramer(theirs, theirs)
				f.ReadMetaHeaders = hpack.NewDecoder(0, nil)
				for {
					frame, err := f.ReadFrame()
					if err != nil {
						return
					}
					if h, ok := frame.(*http2.MetaHeadersFrame); ok {
						for _, field := range h.RegularFields() {
							if field.Name == "grpc-timeout" {
								got = field.Value
							}
						}
						go io.Copy(io.Discard, theirs)
						p := peer{f, theirs}
						p.WriteSettings()
						p.answer("")
						return
					}
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			if _, err := grpcwire.Unary(ctx, mine, unaryMethod, nil, nil); err != nil || got != want {
				t.Errorf("%v: got %q, %v; want %q", timeout, got, err, want)
			}
		})
	}
}

// readFunc is a reader that does something first.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A server that stops a call because its time is up or it was cancelled does not hide that from the caller. A call
// that it finished nevertheless is finished.
func TestServerEndsCancelledCall(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script func(p peer)
		want   error
	}{
		{"reset", func(p peer) { p.WriteRSTStream(1, http2.ErrCodeCancel) }, errors.New("waiting for the server: context canceled")},
		{"status", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "1") }, errors.New("waiting for the server: context canceled")},
		{"status of its deadline", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "4") }, errors.New("waiting for the server: context canceled")},
		{"deadline of another", func(p peer) {
			p.headers(true, ":status", "200", "grpc-status", "4", "grpc-status-details-bin", "CAQ")
		}, &grpcwire.Status{Code: 4, Details: []byte("\x08\x04")}},
		{"refusal", func(p peer) { p.headers(true, ":status", "200", "grpc-status", "5") }, statusError(5, "")},
		{"answer", func(p peer) { p.answer("token") }, nil},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var answer bytes.Buffer
		p := peer{Framer: http2.NewFramer(&answer, nil)}
		p.WriteSettings()
		tt.script(p)
		c := tape{r: readFunc(func(p []byte) (int, error) { cancel(); return answer.Read(p) })}
		if _, err := grpcwire.Unary(ctx, c, unaryMethod, nil, nil); !same(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}
