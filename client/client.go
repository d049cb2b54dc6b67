// Package client gets access tokens from tokend.
//
// It links neither grpc-go nor net/http nor the protobuf runtime, keeps no
// connection, and starts no daemon unless asked to. What needs net/http is in
// package httpauth below it.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"tokend/client/api"
	"tokend/client/internal/grpcwire"
	"tokend/client/internal/pbwire"
	"tokend/internal/settings"
)

// ErrNotRunning says that no daemon listens, and that none was to be started
// or could be; or that it ended in the middle of a call, which may have had its
// effect.
var ErrNotRunning = errors.New("tokend is not running")

// UnreachableError says why the daemon's socket is not to be used: somebody else
// could have put it there, or did.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// defaultTimeout bounds calls whose context has no deadline.
const defaultTimeout = 10 * time.Second

// slots bounds the unary calls of this process that are under way: the daemon
// caps connections a process.
var slots = make(chan struct{}, 8)

// Client makes calls to the daemon. The zero Client is ready: it finds the
// daemon by the settings of the environment and the configuration file. Its
// methods may be called at the same time; its fields must not change then.
type Client struct {
	// Socket and Dir stand in for the settings TOKEND_SOCKET and TOKEND_DIR.
	Socket, Dir string
	// Autostart starts a daemon where none listens.
	Autostart bool

	once     sync.Once
	settings *settings.Settings
	err      error
}

// TokenRequest is what [Client.Token] asks for.
type TokenRequest struct {
	Profile string // such as "dev/network"
	// Scopes, Audience and Resource (RFC 8707) stand in for the profile's own;
	// empty ones leave them as they are.
	Scopes             []string
	Audience, Resource string
	// MinValid is how much longer the token must live; 0 leaves it to the
	// daemon: at least the smaller of 30 s and a tenth of its life.
	MinValid time.Duration
	// Force asks for a new token, at most one every 2 s a profile.
	Force bool
	// BestEffort takes a token that falls short of MinValid over none.
	BestEffort bool
}

// Token is an access token. It prints as redacted.
type Token struct {
	AccessToken string // opaque: do not parse it
	Type        string // "Bearer" or "DPoP"
	ExpiresAt   time.Time
	ExpiresIn   time.Duration // when it was handed out
	Lifetime    time.Duration
	Scopes      []string // granted
	// APIOrigins are where it may be sent to; empty: the profile does not say.
	APIOrigins []string
	// Fingerprint names the token without being it: the first 128 bits of its
	// SHA-256 in hex.
	Fingerprint   string
	ExpiryAssumed bool   // the provider named no lifetime
	Degraded      bool   // it falls short of what was asked for
	Warning       string // one line for a person, or empty
}

// Format writes the token without its secret, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) {
	text, _ := t.MarshalText()
	_, _ = f.Write(text)
}

// MarshalText does as Format does, for JSON and slog.
func (t Token) MarshalText() ([]byte, error) {
	return []byte(t.Type + " token [redacted], fingerprint " + t.Fingerprint), nil
}

// Header returns the value of the Authorization header (RFC 6750 section 2.1, RFC
// 9449 section 7.1).
func (t *Token) Header() string { return t.Type + " " + t.AccessToken }

// Token returns a living access token. Errors are [*Error], [ErrNotRunning],
// [*UnreachableError], or the context's.
func (c *Client) Token(ctx context.Context, r TokenRequest) (*Token, error) {
	req := &api.GetTokenRequest{
		Profile:    r.Profile,
		Scopes:     r.Scopes,
		Audience:   r.Audience,
		Resource:   r.Resource,
		MinValid:   r.MinValid,
		Force:      r.Force,
		BestEffort: r.BestEffort,
	}
	resp := &api.GetTokenResponse{}
	if err := c.Call(ctx, api.MethodGetToken, req, resp); err != nil {
		return nil, err
	}
	return newToken(resp), nil
}

func newToken(resp *api.GetTokenResponse) *Token {
	return &Token{
		AccessToken:   resp.AccessToken,
		Type:          resp.TokenType,
		ExpiresAt:     resp.ExpiresAt,
		ExpiresIn:     resp.ExpiresIn,
		Lifetime:      resp.Lifetime,
		Scopes:        resp.Scopes,
		APIOrigins:    resp.ApiOrigins,
		Fingerprint:   resp.Fingerprint,
		ExpiryAssumed: resp.ExpiryAssumed,
		Degraded:      resp.Degraded,
		Warning:       resp.Warning,
	}
}

// Call makes a unary call of the API: method is its full name, such as
// [api.MethodGetStatus], req and resp are pointers to its structs in package
// api; it panics for others. A connection that is closed before any byte of an
// answer is tried again until the context's deadline.
func (c *Client) Call(ctx context.Context, method string, req, resp any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	b, err := pbwire.Marshal(req)
	if err != nil {
		return err
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for attempt := 0; ; attempt++ {
		conn, header, err := c.connect(ctx)
		if err != nil {
			return err
		}
		answer, err := grpcwire.Unary(ctx, conn, method, header, b)
		if err == nil {
			return pbwire.Unmarshal(answer, resp)
		}
		if !errors.Is(err, grpcwire.ErrNoAnswer) {
			return fromWire(err)
		}
		if err := again(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// Stream is a call with several messages either way, which are pointers to
// structs in package api, as for [Client.Call].
type Stream struct{ s *grpcwire.Stream }

// Open starts a streaming call, such as [api.MethodInit], on a connection of
// its own. It has no deadline but the context's.
func (c *Client) Open(ctx context.Context, method string) (*Stream, error) {
	for attempt := 0; ; attempt++ {
		conn, header, err := c.connect(ctx)
		if err != nil {
			return nil, err
		}
		s, err := grpcwire.Open(ctx, conn, method, header)
		if err == nil {
			return &Stream{s}, nil
		}
		if !errors.Is(err, grpcwire.ErrNoAnswer) {
			return nil, fromWire(err)
		}
		if err := again(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// again waits before a call is tried again that no daemon has taken up, for the
// reason why: the one that did has just ended.
func again(ctx context.Context, attempt int, why error) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ctx.Err(), why)
	case <-time.After(time.Duration(1+rand.IntN(5<<min(attempt, 5))) * time.Millisecond):
		return nil
	}
}

// Send sends one message.
func (s *Stream) Send(m any) error {
	b, err := pbwire.Marshal(m)
	if err != nil {
		return err
	}
	return fromWire(s.s.Send(b))
}

// Recv waits for a message. It returns io.EOF once the call has ended well.
func (s *Stream) Recv(m any) error {
	b, err := s.s.Recv()
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	if err != nil {
		return fromWire(err)
	}
	return pbwire.Unmarshal(b, m)
}

// CloseSend says that no more messages follow. A call that takes one message
// only, such as [api.MethodWatchEvents], begins with it.
func (s *Stream) CloseSend() error { return fromWire(s.s.CloseSend()) }

// Close ends the call and its connection.
func (s *Stream) Close() error { return s.s.Close() }

// Settings returns what the client goes by. Errors are [*Error].
func (c *Client) Settings() (*settings.Settings, error) {
	c.once.Do(func() {
		c.settings, c.err = settings.Load(map[string]string{settings.Socket: c.Socket, settings.Dir: c.Dir})
	})
	if c.err != nil {
		return nil, &Error{Reason: api.ReasonSettingsInvalid, Message: c.err.Error()}
	}
	return c.settings, nil
}
