package daemon_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tokend/daemon"
	"tokend/internal/harden"
	"tokend/internal/settings"
	"tokend/internal/socket"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

// A target is a daemon that takes whatever it is sent. It has one profile, which
// nobody has trusted and whose secret is in secret.
type target struct {
	socket string
	log    *logBuffer
	conn   *grpc.ClientConn
	put    *tokendv1.PutProfileRequest
}

func newTarget(f *testing.F) *target {
	home, err := os.MkdirTemp("", "tokend")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(home) })
	f.Setenv("HOME", home)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
		settings.Dir, settings.Socket, settings.Store, settings.Trust, settings.RateLimit, settings.Profile} {
		f.Setenv(name, "")
	}
	s, err := settings.Load(map[string]string{settings.Socket: filepath.Join(home, "run", "s")})
	if err != nil {
		f.Fatal(err)
	}
	for _, dir := range []string{s.Get(settings.Dir), s.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			f.Fatal(err)
		}
	}
	l, err := socket.Listen(s.Get(settings.Socket))
	if err != nil {
		f.Fatal(err)
	}
	g := &target{socket: s.Get(settings.Socket), log: &logBuffer{}}
	d := daemon.New(s, "v-test", func() []harden.Protection { return nil }, slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, l) }()
	if g.conn, err = grpc.NewClient("unix:"+g.socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		g.conn.Close()
		cancel()
		if err := <-served; err != nil {
			f.Error(err)
		}
	})
	stream, err := tokendv1grpc.NewDaemonServiceClient(g.conn).Init(ctx)
	if err != nil {
		f.Fatal(err)
	}
	if err := stream.Send(&tokendv1.InitRequest{Message: &tokendv1.InitRequest_Start_{Start: &tokendv1.InitRequest_Start{}}}); err != nil {
		f.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if err != io.EOF {
		f.Fatal(err)
	}
	g.put = putText("dev/x", "OAUTH2_TOKEN_URL=http://127.0.0.1:1/token\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n", "")
	g.restore(f)
	return g
}

// restore puts the profile where it is not.
func (g *target) restore(t testing.TB) {
	_, err := tokendv1grpc.NewProfileServiceClient(g.conn).PutProfile(context.Background(), g.put)
	if code := status.Code(err); code != codes.OK && code != codes.Aborted && code != codes.AlreadyExists {
		t.Fatal(err)
	}
}

// raw sends and receives messages as the bytes that they are.
type raw struct{}

func (raw) Name() string                    { return "proto" }
func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }
func (raw) String() string                  { return "raw" }
func full(service, method string) string    { return "/" + service + "/" + method }
func lastOf(method string) (name string)    { return method[strings.LastIndexByte(method, '/')+1:] }
func seed(f *testing.F, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// Whatever bytes are sent to a method of the API, its answer is a message or a
// status of the contract, and says no secret that was not asked for; nor does the
// log.
func FuzzCalls(f *testing.F) {
	g := newTarget(f)
	type method struct {
		name            string
		stream, several bool // answers; several: and requests
	}
	var methods []method
	for _, s := range []*grpc.ServiceDesc{&tokendv1grpc.TokenService_ServiceDesc, &tokendv1grpc.ProfileService_ServiceDesc, &tokendv1grpc.DaemonService_ServiceDesc} {
		for _, m := range s.Methods {
			methods = append(methods, method{full(s.ServiceName, m.MethodName), false, false})
		}
		for _, m := range s.Streams {
			methods = append(methods, method{full(s.ServiceName, m.StreamName), true, m.ClientStreams})
		}
	}
	names := [][]byte{
		seed(f, &tokendv1.GetTokenRequest{Profile: "dev/x", Scopes: []string{"a b", "\x1b"}, Audience: "a", Resource: "urn:x"}),
		seed(f, g.put), seed(f, &tokendv1.GetTokenRequest{Profile: "../x"}), {}, {0xff},
		seed(f, &tokendv1.MoveProfileRequest{Name: "dev/x", NewName: "dev/y"}),
		seed(f, &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_Start_{Start: &tokendv1.LoginRequest_Start{Target: &tokendv1.LoginRequest_Start_Profile{Profile: "dev/x"}}}}),
		seed(f, &tokendv1.PutProfileRequest{Name: "dev/z", Content: &tokendv1.PutProfileRequest_Text{Text: []byte("A='\n")}}),
	}
	for i := range methods {
		for _, b := range names {
			f.Add(byte(i), b, []byte{})
		}
	}
	quiet := map[string]bool{"RevealProfile": true, "ExportProfile": true}
	f.Fuzz(func(t *testing.T, which byte, first, second []byte) {
		m := methods[int(which)%len(methods)]
		name := lastOf(m.name)
		if name == "Stop" || len(first)+len(second) > 16<<10 || bytes.Contains(append(first, second...), []byte("_COMMAND")) {
			return // it ends all others; or, were it trusted, it ran something
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var answers [][]byte
		var err error
		if !m.stream {
			var answer []byte
			if err = g.conn.Invoke(ctx, m.name, &first, &answer, grpc.ForceCodec(raw{})); err == nil {
				answers = append(answers, answer)
			}
		} else {
			var s grpc.ClientStream
			if s, err = g.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, m.name, grpc.ForceCodec(raw{})); err == nil {
				_ = s.SendMsg(&first)
				if m.several {
					_ = s.SendMsg(&second)
				}
				_ = s.CloseSend()
				for err == nil && len(answers) < 64 {
					var answer []byte
					if err = s.RecvMsg(&answer); err == nil {
						answers = append(answers, answer)
					}
				}
			}
			if err == io.EOF {
				err = nil
			}
		}
		if err != nil {
			s := status.Convert(err)
			switch c := s.Code(); {
			case c == codes.Unknown, c == codes.Internal && !strings.HasPrefix(s.Message(), "grpc:"), c == codes.DataLoss:
				t.Fatalf("%s: %v", name, err)
			}
			if text := s.Proto().String(); strings.Contains(text, "CANARY") && !bytes.Contains(append(first, second...), []byte("CANARY")) {
				t.Fatalf("%s: %s", name, text)
			}
			for _, detail := range s.Details() {
				if info, ok := detail.(*errdetails.ErrorInfo); ok && (info.GetDomain() != "tokend" || tokendv1.Reason_value["REASON_"+info.GetReason()] == 0) {
					t.Fatalf("%s: %v", name, info)
				}
			}
		}
		for _, answer := range answers {
			if bytes.Contains(answer, []byte(secret)) && !quiet[name] && !bytes.Contains(append(first, second...), []byte(secret)) {
				t.Fatalf("%s answers %q", name, answer)
			}
		}
		switch name {
		case "PutProfile", "DeleteProfile", "MoveProfile", "ImportProfile", "RekeyProfiles", "Migrate", "Lock", "Protect", "Reload":
			g.unlock(t)
			g.restore(t)
		}
		if log := g.log.String(); strings.Contains(log, secret) {
			t.Fatalf("%s: the log has it: %s", name, log)
		} else if len(log) > 1<<20 {
			g.log.reset()
		}
	})
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// unlock opens the stores again, for which a bare identity asks nothing.
func (g *target) unlock(t *testing.T) {
	s, err := tokendv1grpc.NewDaemonServiceClient(g.conn).Unlock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&tokendv1.UnlockRequest{Message: &tokendv1.UnlockRequest_Start_{Start: &tokendv1.UnlockRequest_Start{}}}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = s.Recv()
	}
	if err != io.EOF && status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
}

// Whatever bytes come over the socket after the preface, others are served.
func FuzzSocket(f *testing.F) {
	g := newTarget(f)
	frames := func(write func(fr *http2.Framer, block []byte)) []byte {
		var b, block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/tokend.v1.TokenService/GetToken"}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}, {"tokend-dir", "/"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		_ = fr.WriteSettings()
		write(fr, block.Bytes())
		return b.Bytes()
	}
	call := append([]byte{0, 0, 0, 0, 7, 10, 5}, "dev/x"...)
	f.Add(frames(func(fr *http2.Framer, block []byte) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
		_ = fr.WriteData(1, true, call)
	}))
	f.Add(frames(func(fr *http2.Framer, block []byte) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:4]})
		_ = fr.WriteContinuation(1, true, block[4:])
		_ = fr.WriteDataPadded(1, false, call[:6], make([]byte, 7))
		_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true, EndStream: true})
		_ = fr.WritePing(false, [8]byte{1})
		_ = fr.WriteWindowUpdate(0, 1<<31-1)
		_ = fr.WriteWindowUpdate(0, 1<<31-1)
	}))
	f.Add(frames(func(fr *http2.Framer, block []byte) {
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 24}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 31})
		_ = fr.WriteGoAway(1, http2.ErrCodeNo, []byte("x"))
		_ = fr.WriteRawFrame(0xfa, 0xff, 9, make([]byte, 300))
		_ = fr.WritePriority(3, http2.PriorityParam{})
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: block, EndHeaders: true})
		_ = fr.WriteData(1, true, []byte{1, 255, 255, 255, 255})
	}))
	f.Add([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1})
	status := tokendv1grpc.NewDaemonServiceClient(g.conn)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("unix", g.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		// Written meanwhile: it may end reading at any byte.
		go func() {
			_, _ = c.Write(append([]byte(http2.ClientPreface), b...))
			_ = c.(*net.UnixConn).CloseWrite()
		}()
		answer, err := io.ReadAll(c)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatalf("the connection stays open: %x", answer)
		}
		if bytes.Contains(answer, []byte(secret)) {
			t.Fatalf("answered %q", answer)
		}
		if _, err := status.GetStatus(t.Context(), &tokendv1.GetStatusRequest{}); err != nil {
			t.Fatal(err)
		}
	})
}
