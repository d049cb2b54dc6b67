package grpcwire_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tokend/client/internal/grpcwire"
)

// The benchmarks dial a Unix socket for each call, and carry the bytes of a call of GetToken: few there, a token back.
var (
	benchRequest  = []byte("\x0a\x0bdev/network")
	benchResponse = bytes.Repeat([]byte("t"), 900)
)

func benchAnswer(context.Context, []byte) ([]byte, error) { return benchResponse, nil }

func BenchmarkUnary(b *testing.B) {
	path := serve(b, newServer(benchAnswer, nil))
	for b.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		got, err := grpcwire.Unary(ctx, dial(b, path), unaryMethod, nil, benchRequest)
		cancel()
		if err != nil || len(got) != len(benchResponse) {
			b.Fatal(len(got), err)
		}
	}
}

// BenchmarkRaw is the limit: a server that reads and writes as many bytes, and knows nothing.
func BenchmarkRaw(b *testing.B) {
	l := listen(b)
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, len(benchRequest))
				if _, err := io.ReadFull(c, buf); err == nil {
					c.Write(benchResponse)
				}
			}()
		}
	}()
	buf := make([]byte, len(benchResponse))
	for b.Loop() {
		c := dial(b, l.Addr().String())
		c.Write(benchRequest)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkGRPCGo is what this package is there for: grpc-go's own client, with a connection for each call.
func BenchmarkGRPCGo(b *testing.B) {
	path := serve(b, newServer(benchAnswer, nil))
	for b.Loop() {
		c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		var got []byte
		if err := c.Invoke(context.Background(), unaryMethod, benchRequest, &got, grpc.ForceCodecV2(rawCodec{})); err != nil || len(got) != len(benchResponse) {
			b.Fatal(len(got), err)
		}
		c.Close()
	}
}
