// Package grpcwire makes gRPC calls over HTTP/2, one call on one connection, with frames written by hand.
//
// It is a client for tokend's own socket, not a general one. It does not dial, compress, pool, retry or follow
// anything, it holds no connection open after a call, and it refuses what it does not know. What it keeps in
// memory is bounded whatever the server sends: one frame, one header block, and the bytes in one window.
//
// It implements the client's side of RFC 9113 (HTTP/2), RFC 7541 (HPACK, by golang.org/x/net/http2/hpack) and of
// "gRPC over HTTP2" (doc/PROTOCOL-HTTP2.md in github.com/grpc/grpc).
package grpcwire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// MaxMessage is the largest message in either direction, in bytes. A larger one is a Status RESOURCE_EXHAUSTED,
// which is made here: it is neither sent nor received.
const MaxMessage = 64 << 10

// maxRequest is the largest request of Unary, in bytes: with its prefix it fills the window that a server has
// before its SETTINGS are known (RFC 9113, 6.9.2), so it can be written at once.
const maxRequest = defaultWindow - prefixLen

// ErrNoAnswer is wrapped by the error of a call that the server did not take up: the connection broke before any
// byte came from it, or it was going away and said that it left this call alone. Such a call may be made again
// on a new connection.
var ErrNoAnswer = errors.New("no answer from the server")

// Header is one field of a call's request metadata. Name is lower-case ASCII and not one of gRPC's own, Value is
// printable ASCII. Nothing is encoded: the value of a name that ends in -bin is base64 already.
type Header struct{ Name, Value string }

// Unary calls method ("/package.Service/Method") with one request and returns the one response. It owns c, and
// closes it before it returns.
//
// The deadline of ctx is sent to the server as well. Errors: ctx's error, wrapped; ErrNoAnswer, wrapped; a *Status
// when the call did not end with OK, or the request or the response is not what a unary call has; any other error
// is a connection that broke, or a server that breaks the protocol, and the request may have had its effect.
func Unary(ctx context.Context, c net.Conn, method string, md []Header, request []byte) (response []byte, err error) {
	defer c.Close()
	if len(request) > maxRequest {
		return nil, tooLarge(len(request), maxRequest)
	}
	s := newStream(c)
	out, err := s.start(ctx, method, md)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	// An error of Write is not looked at: a server that closes early may have said why, and if it has not, reading
	// fails as well.
	_, _ = c.Write(appendData(out, appendMessage(nil, request), true))
	for err == nil {
		if err = s.readFrame(); err == nil {
			_, _, err = cutMessage(s.received)
		}
	}
	if err != io.EOF {
		return nil, cause(ctx, err)
	}
	response, rest, _ := cutMessage(s.received) // as it was after the last DATA, so without error
	switch {
	case response == nil:
		return nil, &Status{Code: internal, Message: "the answer has no complete message"}
	case len(rest) > 0:
		return nil, &Status{Code: internal, Message: "the answer has more than one message"}
	}
	return response, nil
}

// cause puts ctx's error in the place of what it led to: a closed connection, an expired deadline, a call that the
// server cancelled because its time was up. What a server had said before that stands.
func cause(ctx context.Context, err error) error {
	s, ok := err.(*Status)
	outOfTime := ok && (s.Code == cancelled || s.Code == deadlineExceeded && s.Details == nil)
	if err == io.EOF || ok && !outOfTime {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("waiting for the server: %w", ctx.Err())
	}
	// The connection's timer, and the server's, can be a little earlier than the context's.
	if errors.Is(err, os.ErrDeadlineExceeded) || deadlinePassed(ctx) {
		return fmt.Errorf("waiting for the server: %w", context.DeadlineExceeded)
	}
	return err
}
