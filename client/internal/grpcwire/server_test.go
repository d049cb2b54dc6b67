package grpcwire_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rawCodec lets handlers speak in []byte, so that no generated code is needed.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

const (
	unaryMethod  = "/test.Test/Unary"
	streamMethod = "/test.Test/Stream"
)

type unaryHandler func(ctx context.Context, request []byte) ([]byte, error)

// newServer is grpc-go's server with one unary method and one that streams both ways.
func newServer(unary unaryHandler, stream grpc.StreamHandler, opts ...grpc.ServerOption) *grpc.Server {
	srv := grpc.NewServer(append(opts, grpc.ForceServerCodecV2(rawCodec{}))...)
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Test",
		Methods: []grpc.MethodDesc{{
			MethodName: "Unary",
			Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var request []byte
				if err := dec(&request); err != nil {
					return nil, err
				}
				return unary(ctx, request)
			},
		}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", Handler: stream, ServerStreams: true, ClientStreams: true}},
	}, nil)
	return srv
}

// serve runs srv on a Unix socket until the test ends, and returns the socket's path.
func serve(t testing.TB, srv *grpc.Server) string {
	t.Helper()
	l := listen(t)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return l.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t testing.TB, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func echo(_ context.Context, request []byte) ([]byte, error) { return request, nil }
