package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"tokend/internal/socket"
	tokendv1 "tokend/proto/tokend/v1"
)

// begun is a call from its headers on.
type begun struct {
	served  atomic.Bool // all of its request has come
	refused bool        // its process makes too many
}

type begunKey struct{}

// refuseTime is what a call that is not served has, to be told so.
const refuseTime = 100 * time.Millisecond

// tapped is called with a call's headers, before it costs a goroutine. grpc-go
// limits the streams of a connection only, not those of a process, nor how long a
// request may take to come, nor how many are begun for nothing. It must not wait.
func (d *Daemon) tapped(ctx context.Context, info *tap.Info) (context.Context, error) {
	from := peerOf(ctx)
	_, limited := ctx.Deadline()
	if !from.BeginCall() {
		from.Wasted()
		if !limited {
			return ctx, tooManyCalls()
		}
		// An error from here would leave the timer of the call's own deadline behind,
		// however far that is: grpc-go stops it where a call ends.
		refused, cancel := context.WithTimeout(context.WithValue(ctx, begunKey{}, &begun{refused: true}), refuseTime)
		context.AfterFunc(refused, cancel)
		return refused, nil
	}
	call := new(begun)
	ctx = context.WithValue(ctx, begunKey{}, call)
	cancel := func() {}
	if !limited && !d.streaming[info.FullMethodName] {
		ctx, cancel = context.WithTimeout(ctx, callTime)
	}
	context.AfterFunc(ctx, func() {
		cancel()
		from.EndCall()
		if !call.served.Load() {
			from.Wasted()
		}
	})
	return ctx, nil
}

func tooManyCalls() error {
	return failure(tokendv1.Reason_REASON_THROTTLED, "this process makes too many calls at a time")
}

// begin notes that a call's request has come, or says why it is not served.
func begin(ctx context.Context, from socket.Peer) error {
	call, ok := ctx.Value(begunKey{}).(*begun)
	if !ok {
		return nil // it came over no socket
	}
	if ctx.Err() != nil { // streams that are reset at once cost no more than this
		return status.FromContextError(ctx.Err()).Err()
	}
	if call.refused {
		return tooManyCalls()
	}
	if err := awaitReads(ctx, from); err != nil {
		return err
	}
	call.served.Store(true)
	from.Served()
	return nil
}

// readTime is how long a call waits for its process to read what it has been
// answered before.
const readTime = time.Second

// awaitReads waits until a process has read so much that it may be answered more.
func awaitReads(ctx context.Context, from socket.Peer) error {
	for late := time.Now().Add(readTime); !from.Reads(); {
		if time.Now().After(late) {
			return failure(tokendv1.Reason_REASON_THROTTLED, "this process does not read what it is answered")
		}
		select {
		case <-time.After(20 * time.Millisecond): // rare enough not to be told
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return nil
}

func peerOf(ctx context.Context) socket.Peer {
	if p, ok := peer.FromContext(ctx); ok {
		if from, ok := p.Addr.(socket.Peer); ok {
			return from
		}
	}
	return socket.Peer{}
}

// answer is a message for a peer, which counts against what that may leave
// unread: grpc-go keeps an answer until the peer's window is open, however long
// that takes.
type answer struct {
	proto.Message
	to socket.Peer
}

// wire is the codec of protobuf, except that an answer that is large enough for
// grpc-go to give its buffer back (1 KiB) is wiped, and counts as read, when it has been
// written to the socket. Smaller ones are the collector's.
type wire struct{ encoding.CodecV2 }

func (w wire) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(answer)
	if !ok {
		return w.CodecV2.Marshal(v)
	}
	text, err := proto.Marshal(a.Message)
	if err != nil || mem.IsBelowBufferPoolingThreshold(cap(text)) {
		return mem.BufferSlice{mem.SliceBuffer(text)}, err
	}
	a.to.Sent(len(text))
	return mem.BufferSlice{mem.NewBuffer(&text, taken{a.to})}, nil
}

// taken is where the bytes of an answer go when they have been written, or never
// will be.
type taken struct{ to socket.Peer }

func (taken) Get(n int) *[]byte { b := make([]byte, n); return &b }

func (t taken) Put(b *[]byte) {
	clear(*b)
	t.to.Sent(-len(*b))
}
