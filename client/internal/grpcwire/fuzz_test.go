package grpcwire_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"tokend/client/internal/grpcwire"
)

// tape is a connection to a server whose every byte is known beforehand, and that takes whatever is sent.
type tape struct {
	net.Conn // nil: nothing else is called
	r        io.Reader
}

func (t tape) Read(p []byte) (int, error)  { return t.r.Read(p) }
func (tape) Write(p []byte) (int, error)   { return len(p), nil }
func (tape) Close() error                  { return nil }
func (tape) SetDeadline(t time.Time) error { return nil }

// FuzzAnswer reads arbitrary bytes after the server's SETTINGS, as a unary call and as a stream: both end, agree, and
// allocate in proportion to what was read and not to what was announced.
func FuzzAnswer(f *testing.F) {
	for _, script := range []func(p peer){
		func(p peer) { p.answer("token") },
		func(p peer) { p.answer("a", "b", "") },
		func(p peer) { p.headers(true, ":status", "200", "grpc-status", "5", "grpc-message", "not %41%zz") },
		func(p peer) { p.headers(false, ":status", "100"); p.details("//79/A==") },
		func(p peer) { p.headers(false, ":status", "404", "content-type", "text/html") },
		func(p peer) {
			b := block(okHeaders...)
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], PadLength: 3, Priority: http2.PriorityParam{Weight: 1}})
			p.WriteContinuation(1, true, b[3:])
			p.WriteDataPadded(1, false, message("token"), make([]byte, 9))
			p.WritePing(false, [8]byte{})
			p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
			p.WriteWindowUpdate(0, 1<<20)
			p.WriteWindowUpdate(1, 1<<20)
			p.WritePriority(3, http2.PriorityParam{})
			p.WriteGoAway(1, http2.ErrCodeNo, nil)
			p.headers(true, okTrailers...)
		},
		func(p peer) { p.headers(false, okHeaders...); p.WriteData(1, false, []byte{0, 255, 255, 255, 255}) },
		func(p peer) { p.WriteRSTStream(1, http2.ErrCodeRefusedStream) },
		func(p peer) { p.WriteGoAway(0, http2.ErrCodeNo, nil) },
		func(p peer) { p.WriteRawFrame(0xfa, 0xff, 9, make([]byte, 300)) },
	} {
		var b bytes.Buffer
		script(peer{Framer: http2.NewFramer(&b, nil)})
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		answer = append([]byte{0, 0, 0, byte(http2.FrameSettings), 0, 0, 0, 0, 0}, answer...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		response, unaryErr := grpcwire.Unary(context.Background(), tape{r: bytes.NewReader(answer)}, unaryMethod, nil, []byte("request"))
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(4<<20+64*len(answer)) {
			t.Errorf("%d bytes allocated for %d", n, len(answer))
		}
		if len(response) > grpcwire.MaxMessage || (response == nil) != (unaryErr != nil) || unaryErr == io.EOF {
			t.Errorf("response of %d bytes, %v", len(response), unaryErr)
		}

		s, err := grpcwire.Open(context.Background(), tape{r: bytes.NewReader(answer)}, streamMethod, nil)
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan bool)
		go func() {
			defer close(sent)
			// More than any window without an update; of one there may be room for 2 GiB.
			for range 1000 {
				if s.Send(make([]byte, 10_000)) != nil {
					return
				}
			}
		}()
		var messages [][]byte
		for err == nil {
			var m []byte
			if m, err = s.Recv(); err == nil {
				messages = append(messages, m)
			}
		}
		<-sent
		s.Close()
		one := err == io.EOF && len(messages) == 1
		if one != (unaryErr == nil) || one && !bytes.Equal(messages[0], response) {
			t.Errorf("the stream had %d messages, %v; the unary call %d bytes, %v", len(messages), err, len(response), unaryErr)
		}
	})
}
