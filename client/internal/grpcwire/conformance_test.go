package grpcwire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"tokend/client/internal/grpcwire"
)

// These tests hold the package against grpc-go's server.

func TestUnarySizes(t *testing.T) {
	path := serve(t, newServer(func(_ context.Context, request []byte) ([]byte, error) {
		size, _, _ := strings.Cut(string(request), " ")
		n, err := strconv.Atoi(size)
		return bytes.Repeat([]byte("a"), n), err
	}, nil))
	for _, want := range []int{0, 1, 900, 16379, 16380, 16384, 32768, 65530, grpcwire.MaxMessage} {
		got, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, []byte(strconv.Itoa(want)+" "))
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("a"), want)) {
			t.Errorf("an answer of %d bytes: got %d, %v", want, len(got), err)
		}
	}
	for _, size := range []int{0, 1, 16379, 16380, 32763, 65530} {
		request := append([]byte("7 "), make([]byte, size)...)[:max(size, 2)]
		got, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, request)
		if err != nil || string(got) != "aaaaaaa" {
			t.Errorf("a request of %d bytes: got %q, %v", len(request), got, err)
		}
	}
}

func TestUnaryEcho(t *testing.T) {
	path := serve(t, newServer(echo, nil))
	for _, want := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("0123456789"), 6553)} {
		got, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, want)
		if err != nil || got == nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", len(want), len(got), err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	path := serve(t, newServer(func(context.Context, []byte) ([]byte, error) {
		return make([]byte, grpcwire.MaxMessage+1), nil
	}, func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(make([]byte, grpcwire.MaxMessage+1))
	}))
	_, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, nil)
	wantStatus(t, err, codes.ResourceExhausted, "a message of 65537 bytes, the limit is 65536")
	_, err = grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, make([]byte, 65531))
	wantStatus(t, err, codes.ResourceExhausted, "a message of 65531 bytes, the limit is 65530")

	s := open(t, t.Context(), dial(t, path))
	_, err = s.Recv()
	wantStatus(t, err, codes.ResourceExhausted, "a message of 65537 bytes, the limit is 65536")
	_, err = s.Recv()
	wantStatus(t, err, codes.ResourceExhausted, "a message of 65537 bytes, the limit is 65536")

	wantStatus(t, s.Send(nil), codes.ResourceExhausted, "a message of 65537 bytes, the limit is 65536")

	s = open(t, t.Context(), dial(t, path))
	err = s.Send(make([]byte, grpcwire.MaxMessage+1))
	wantStatus(t, err, codes.ResourceExhausted, "a message of 65537 bytes, the limit is 65536")
}

func TestRequestHeaders(t *testing.T) {
	var got metadata.MD
	var deadline time.Time
	path := serve(t, newServer(func(ctx context.Context, _ []byte) ([]byte, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		deadline, _ = ctx.Deadline()
		return nil, nil
	}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	md := []grpcwire.Header{{"x-purpose", "a ~ b"}, {"x-purpose", "second"}, {"x-blob-bin", "AAEC"}, {"x-long", strings.Repeat("~", 9000)}}
	if _, err := grpcwire.Unary(ctx, dial(t, path), unaryMethod, md, nil); err != nil {
		t.Fatal(err)
	}
	want := metadata.MD{
		":authority":   {"localhost"},
		"content-type": {"application/grpc"},
		"user-agent":   {"tokenctl"},
		"x-purpose":    {"a ~ b", "second"},
		"x-blob-bin":   {"\x00\x01\x02"},
		"x-long":       {strings.Repeat("~", 9000)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if mine, _ := ctx.Deadline(); deadline.Before(mine) || deadline.After(mine.Add(time.Minute)) {
		t.Errorf("deadline %v at the server, %v here", deadline, mine)
	}
}

func TestRefusedRequests(t *testing.T) {
	for _, tt := range []struct {
		method string
		md     []grpcwire.Header
		want   string
	}{
		{"test.Test/Unary", nil, `calling "test.Test/Unary": not a method's path`},
		{"", nil, `calling "": not a method's path`},
		{"/a b", nil, `calling "/a b": not a method's path`},
		{"/a\n", nil, `calling "/a\n": not a method's path`},
		{"/a", []grpcwire.Header{{"", "v"}}, `calling "/a": "" cannot be the name of metadata`},
		{"/a", []grpcwire.Header{{"X-A", "v"}}, `calling "/a": "X-A" cannot be the name of metadata`},
		{"/a", []grpcwire.Header{{":path", "v"}}, `calling "/a": ":path" cannot be the name of metadata`},
		{"/a", []grpcwire.Header{{"grpc-timeout", "1S"}}, `calling "/a": "grpc-timeout" cannot be the name of metadata`},
		{"/a", []grpcwire.Header{{"a", "secret\n"}}, `calling "/a": the metadata "a" is not printable ASCII`},
		{"/a", []grpcwire.Header{{"a", "sécret"}}, `calling "/a": the metadata "a" is not printable ASCII`},
		{"/a", []grpcwire.Header{{"a", strings.Repeat("~", 20000)}}, `calling "/a": the metadata is too large`},
	} {
		for name, call := range callers {
			mine, theirs := net.Pipe()
			err := call(t.Context(), mine, tt.method, tt.md)
			if err == nil || err.Error() != tt.want {
				t.Errorf("%s: got %v, want %s", name, err, tt.want)
			}
			if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s of %q: not closed, or something was sent: %v", name, tt.method, err)
			}
		}
	}
}

// callers are the two ways to make a call, for tests of what they have in common.
var callers = map[string]func(ctx context.Context, c net.Conn, method string, md []grpcwire.Header) error{
	"Unary": func(ctx context.Context, c net.Conn, method string, md []grpcwire.Header) error {
		_, err := grpcwire.Unary(ctx, c, method, md, []byte("request"))
		return err
	},
	"Stream": func(ctx context.Context, c net.Conn, method string, md []grpcwire.Header) error {
		s, err := grpcwire.Open(ctx, c, method, md)
		if err != nil {
			return err
		}
		defer s.Close()
		for err == nil {
			_, err = s.Recv()
		}
		return err
	},
}

func TestStatusFromServer(t *testing.T) {
	info := &errdetails.ErrorInfo{Reason: "LOGIN_REQUIRED", Domain: "tokend", Metadata: map[string]string{"profile": "dev/nétwork"}}
	st, err := status.New(codes.FailedPrecondition, "profil «dev/nétwork»: 100 % пусто\n\t☃%41").WithDetails(info)
	if err != nil {
		t.Fatal(err)
	}
	path := serve(t, newServer(
		func(context.Context, []byte) ([]byte, error) { return nil, st.Err() },
		func(any, grpc.ServerStream) error { return st.Err() }))
	for name, call := range callers {
		method := map[string]string{"Unary": unaryMethod, "Stream": streamMethod}[name]
		err := call(t.Context(), dial(t, path), method, nil)
		wantStatus(t, err, codes.FailedPrecondition, "profil «dev/nétwork»: 100 % пусто\n\t☃%41")
		var got spb.Status
		if err := proto.Unmarshal(err.(*grpcwire.Status).Details, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(st.Proto(), &got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		err = call(t.Context(), dial(t, path), "/test.Test/Nothing", nil)
		wantStatus(t, err, codes.Unimplemented, "unknown method Nothing for service test.Test")
	}
}

func TestEveryCode(t *testing.T) {
	path := serve(t, newServer(func(_ context.Context, request []byte) ([]byte, error) {
		return nil, status.Error(codes.Code(request[0]), "message")
	}, nil))
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		_, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, []byte{byte(code)})
		wantStatus(t, err, code, "message")
	}
	_, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, []byte{77})
	wantStatus(t, err, codes.Unknown, "message")
}

func TestDeadline(t *testing.T) {
	for name, call := range callers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leave := make(chan bool)
				defer close(leave)
				dial := serveInBubble(t,
					func(context.Context, []byte) ([]byte, error) { <-leave; return nil, nil },
					func(any, grpc.ServerStream) error { <-leave; return nil })
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				method := map[string]string{"Unary": unaryMethod, "Stream": streamMethod}[name]
				err := call(ctx, dial(), method, nil)
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
					t.Errorf("got %v after %v", err, time.Since(start))
				}
				if err := call(ctx, dial(), method, nil); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a call after the deadline: got %v", err)
				}
			})
		})
	}
}

// The server's own deadline is an answer like any other.
func TestDeadlineOfServer(t *testing.T) {
	path := serve(t, newServer(func(context.Context, []byte) ([]byte, error) {
		return nil, status.FromContextError(context.DeadlineExceeded).Err()
	}, nil))
	_, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, nil)
	wantStatus(t, err, codes.DeadlineExceeded, "context deadline exceeded")
}

func TestCancel(t *testing.T) {
	entered, left := make(chan bool), make(chan bool)
	wait := func(ctx context.Context) { entered <- true; <-ctx.Done(); left <- true }
	path := serve(t, newServer(
		func(ctx context.Context, _ []byte) ([]byte, error) { wait(ctx); return nil, nil },
		func(_ any, s grpc.ServerStream) error { wait(s.Context()); return nil }))
	for name, call := range callers {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-entered; cancel() }()
		err := call(ctx, dial(t, path), map[string]string{"Unary": unaryMethod, "Stream": streamMethod}[name], nil)
		if !errors.Is(err, context.Canceled) || errors.Is(err, grpcwire.ErrNoAnswer) {
			t.Errorf("%s: got %v", name, err)
		}
		<-left // the server has seen it
		if err := call(ctx, dial(t, path), unaryMethod, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s once cancelled: got %v", name, err)
		}
	}
}

func TestServerDies(t *testing.T) {
	for name, call := range callers {
		entered := make(chan bool)
		srv := newServer(
			func(ctx context.Context, _ []byte) ([]byte, error) { entered <- true; <-ctx.Done(); return nil, nil },
			func(_ any, s grpc.ServerStream) error { entered <- true; <-s.Context().Done(); return nil })
		c := dial(t, serve(t, srv))
		go func() { <-entered; srv.Stop() }()
		err := call(t.Context(), c, map[string]string{"Unary": unaryMethod, "Stream": streamMethod}[name], nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) || errors.Is(err, grpcwire.ErrNoAnswer) || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestServerStream(t *testing.T) {
	const messages = 2000
	path := serve(t, newServer(nil, func(_ any, s grpc.ServerStream) error {
		var request []byte
		if err := s.RecvMsg(&request); err != nil {
			return err
		}
		for i := range messages {
			if err := s.SendMsg(bytes.Repeat([]byte{byte(i)}, i)); err != nil {
				return err
			}
		}
		for range 20 {
			if err := s.SendMsg(make([]byte, grpcwire.MaxMessage)); err != nil {
				return err
			}
		}
		return status.Error(codes.Aborted, "enough")
	}))
	s := open(t, t.Context(), dial(t, path))
	if err := s.Send([]byte("go")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if got, err := s.Recv(); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, i)) {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	for i := range 20 {
		if got, err := s.Recv(); err != nil || len(got) != grpcwire.MaxMessage {
			t.Fatalf("large message %d: %d bytes, %v", i, len(got), err)
		}
	}
	for range 2 {
		_, err := s.Recv()
		wantStatus(t, err, codes.Aborted, "enough")
		wantStatus(t, s.Send(nil), codes.Aborted, "enough")
		wantStatus(t, s.CloseSend(), codes.Aborted, "enough")
	}
}

func TestPingPong(t *testing.T) {
	path := serve(t, newServer(nil, echoStream))
	s := open(t, t.Context(), dial(t, path))
	for i := range 500 {
		want := bytes.Repeat([]byte{byte(i)}, i*131)[:min(i*131, grpcwire.MaxMessage)]
		if err := s.Send(want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Recv(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	// The server may have ended the call by then.
	if err := s.CloseSend(); err != io.EOF && (err == nil || err.Error() != "the sending side of the stream is closed") {
		t.Errorf("CloseSend again: %v", err)
	}
	if err := s.Send(nil); err == nil {
		t.Error("Send after CloseSend: no error")
	}
	if got, err := s.Recv(); err != io.EOF {
		t.Errorf("at the end: %q, %v", got, err)
	}
	if err := s.Send(nil); err != io.EOF {
		t.Errorf("Send after the end: %v", err)
	}
}

func echoStream(_ any, s grpc.ServerStream) error {
	for {
		var m []byte
		if err := s.RecvMsg(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

// Both sides send as fast as they can, for longer than any window.
func TestBothWaysAtOnce(t *testing.T) {
	path := serve(t, newServer(nil, echoStream, grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(64<<10)))
	s := open(t, t.Context(), dial(t, path))
	const messages = 300
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := s.Send(bytes.Repeat([]byte{byte(i)}, 10_000)); err != nil {
				sent <- err
				return
			}
		}
		sent <- s.CloseSend()
	}()
	for i := range messages {
		if got, err := s.Recv(); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 10_000)) {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// The client sends more than the server's window while the server does not read, with and without anybody in Recv.
func TestSendWaitsForWindow(t *testing.T) {
	for _, receiving := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			read := make(chan bool)
			dial := serveInBubble(t, nil, func(_ any, s grpc.ServerStream) error {
				<-read
				total := 0
				for {
					var m []byte
					if err := s.RecvMsg(&m); err == io.EOF {
						return s.SendMsg([]byte(strconv.Itoa(total)))
					} else if err != nil {
						return err
					}
					total += len(m)
				}
			}, grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(64<<10))
			s := open(t, t.Context(), dial())
			defer s.Close()

			answer := make(chan string, 1)
			recv := func() {
				m, err := s.Recv()
				if err != nil {
					t.Error(err)
				}
				answer <- string(m)
			}
			if receiving {
				go recv()
			}
			sent := 0
			go func() {
				for range 20 {
					if err := s.Send(make([]byte, 60_000)); err != nil {
						t.Error(err)
					}
					sent++
				}
				if err := s.CloseSend(); err != nil {
					t.Error(err)
				}
				if !receiving {
					recv()
				}
			}()
			synctest.Wait()
			if sent != 1 { // 64 KiB hold one message and a piece of the next
				t.Errorf("%d messages sent while the server reads none", sent)
			}
			close(read)
			if got := <-answer; got != "1200000" {
				t.Errorf("the server received %s bytes", got)
			}
		})
	}
}

// A call that waits for the window ends with its context, and with Close.
func TestWaitingSendEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan bool) // only then, so that the server does not answer at the very moment of the deadline
		defer close(leave)
		dial := serveInBubble(t, nil, func(any, grpc.ServerStream) error { <-leave; return nil })
		fill := func(s *grpcwire.Stream) (err error) {
			for err == nil {
				err = s.Send(make([]byte, 60_000))
			}
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := open(t, ctx, dial())
		if err := fill(s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the deadline: %v", err)
		}
		s.Close()

		s = open(t, t.Context(), dial())
		time.AfterFunc(time.Second, func() { s.Close() })
		if err := fill(s); err == nil || err.Error() != "the stream is closed" {
			t.Errorf("after Close: %v", err)
		}
		if _, err := s.Recv(); err == nil || err.Error() != "the stream is closed" {
			t.Errorf("Recv after Close: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
	})
}

func TestGracefulStop(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	srv := newServer(func(context.Context, []byte) ([]byte, error) {
		entered <- true
		<-leave
		return []byte("late"), nil
	}, func(_ any, s grpc.ServerStream) error {
		entered <- true
		<-leave
		return s.SendMsg([]byte("late"))
	})
	path := serve(t, srv)
	s := open(t, t.Context(), dial(t, path))
	<-entered
	unary := make(chan error, 1)
	go func() {
		got, err := grpcwire.Unary(t.Context(), dial(t, path), unaryMethod, nil, nil)
		if err == nil && string(got) != "late" {
			err = errors.New("got " + string(got))
		}
		unary <- err
	}()
	<-entered
	stopped := make(chan bool)
	go func() { srv.GracefulStop(); close(stopped) }()
	waitForNoListener(t, path)
	close(leave)
	if err := <-unary; err != nil {
		t.Error(err)
	}
	if got, err := s.Recv(); err != nil || string(got) != "late" {
		t.Errorf("stream: %q, %v", got, err)
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Errorf("stream: %v", err)
	}
	<-stopped
}

// A server that pings sees that we live, also when nobody is in Recv.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serveInBubble(t, nil, func(_ any, s grpc.ServerStream) error {
			select {
			case <-time.After(10 * time.Minute):
				return s.SendMsg([]byte("still there"))
			case <-s.Context().Done():
				return nil
			}
		}, grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: time.Second}))
		s := open(t, t.Context(), dial())
		defer s.Close()
		time.Sleep(5 * time.Minute)
		if got, err := s.Recv(); err != nil || string(got) != "still there" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := s.Recv(); err != io.EOF {
			t.Error(err)
		}
	})
}

// A stream may have nothing to say for days, while its server pings: the limit of frames without data is one of frames
// in a time.
func TestQuietForDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serveInBubble(t, nil, func(_ any, s grpc.ServerStream) error {
			select {
			case <-time.After(72 * time.Hour):
				return s.SendMsg([]byte("still there"))
			case <-s.Context().Done():
				return nil
			}
		}, grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: time.Second}))
		s := open(t, t.Context(), dial())
		defer s.Close()
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Recv(); err != nil || string(got) != "still there" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestMaxConnectionAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serveInBubble(t, nil, func(_ any, s grpc.ServerStream) error {
			var m []byte
			if err := s.RecvMsg(&m); err != nil {
				return err
			}
			d, err := time.ParseDuration(string(m))
			if err != nil {
				return err
			}
			select {
			case <-time.After(d):
				return s.SendMsg([]byte("done"))
			case <-s.Context().Done():
				return nil
			}
		}, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: time.Minute, MaxConnectionAgeGrace: time.Minute}))

		s := open(t, t.Context(), dial()) // ends in the grace time
		if err := s.Send([]byte("90s")); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Recv(); err != nil || string(got) != "done" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := s.Recv(); err != io.EOF {
			t.Error(err)
		}
		s.Close()

		s = open(t, t.Context(), dial())
		if err := s.Send([]byte("1h")); err != nil {
			t.Fatal(err)
		}
		_, err := s.Recv()
		if want := "reading the answer: unexpected EOF (the server went away: NO_ERROR)"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		s.Close()
	})
}

// waitForNoListener returns when the socket at path takes no more connections.
func waitForNoListener(t *testing.T, path string) {
	t.Helper()
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		c.Close()
	}
}

func open(t *testing.T, ctx context.Context, c net.Conn) *grpcwire.Stream {
	t.Helper()
	s, err := grpcwire.Open(ctx, c, streamMethod, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// serveInBubble runs a server on connections in memory, whose time is that of the synctest bubble, and returns what
// dials it.
func serveInBubble(t *testing.T, unary unaryHandler, stream grpc.StreamHandler, opts ...grpc.ServerOption) func() net.Conn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := newServer(unary, stream, opts...)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return func() net.Conn {
		c, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func wantStatus(t *testing.T, err error, code codes.Code, message string) {
	t.Helper()
	s, ok := err.(*grpcwire.Status)
	if !ok || s.Code != uint32(code) || s.Message != message {
		t.Errorf("got %v, want %v: %s", err, code, message)
	}
}
