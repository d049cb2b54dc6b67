package daemon

import (
	"bytes"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"

	"tokend/internal/socket"
	tokendv1 "tokend/proto/tokend/v1"
)

// An answer counts against its reader until it is written, and then is wiped.
func TestAnswerIsWipedOnceWritten(t *testing.T) {
	l, err := socket.Listen(filepath.Join(t.TempDir(), "run", "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := socket.Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	to := served.RemoteAddr().(socket.Peer)

	codec := wire{encoding.GetCodecV2("proto")}
	m := &tokendv1.RevealProfileResponse{Content: &tokendv1.RevealProfileResponse_Text{Text: bytes.Repeat([]byte("canary"), 10000)}}
	want, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	const most = 1 << 20 // of which 17 answers are the first to be more
	for range 2 {        // what was counted is forgotten again
		var written []func()
		for range most/len(want) + 1 {
			if !to.Reads() {
				t.Fatalf("after %d answers it is said not to read", len(written))
			}
			slices, err := codec.Marshal(answer{m, to})
			if err != nil || len(slices) != 1 || !bytes.Equal(slices[0].ReadOnlyData(), want) {
				t.Fatalf("%d buffers, %v", len(slices), err)
			}
			text := slices[0].ReadOnlyData()
			slices.Ref() // as one of several that write it
			written = append(written, func() {
				slices.Free()
				if !bytes.Equal(text, want) {
					t.Error("it is wiped before it is written")
				}
				slices.Free()
				if !bytes.Equal(text, make([]byte, len(want))) {
					t.Error("an answer that is written is left in memory")
				}
			})
		}
		if to.Reads() {
			t.Error("answers that are not written do not count")
		}
		for _, free := range written {
			free()
		}
	}
	if !to.Reads() {
		t.Error("answers that are written count")
	}

	// What is no answer to a peer is as it would be.
	for _, v := range []any{m, answer{&tokendv1.LockResponse{WasLocked: true}, to}} {
		slices, err := codec.Marshal(v)
		plain := v
		if a, ok := v.(answer); ok {
			plain = a.Message
		}
		want, wantErr := proto.Marshal(plain.(proto.Message))
		if err != nil || wantErr != nil || !bytes.Equal(slices.Materialize(), want) {
			t.Errorf("%T: %v, %v", v, err, wantErr)
		}
		slices.Free()
	}
}
