package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"tokend/client/api"
	"tokend/client/internal/grpcwire"
	"tokend/client/internal/pbwire"
)

// Back-off between two connections of a watch. One that has lasted for as long
// as the greatest begins anew at the least.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Change is how it stands from now on with one of the tokens that are watched.
type Change struct {
	Index   int    // which of the requests, from 0
	Profile string // its profile
	// Token is the one to use from now on; nil: Err says why there is none, or
	// none to follow the one that came last.
	Token *Token
	// Err is nil with a Token, and else as [Client.Token]'s: an [*Error], whose
	// Code is 0 where it is about this one token, or an [*UnreachableError] or
	// [ErrNotRunning] once the daemon is gone.
	Err error
	// TokenLives says, with Err, that the token that came last is still good.
	TokenLives bool
}

// Watch gives the tokens that are asked for, 1 to 256 of them, each new one
// before the one before it ends, and what keeps them from being had: what
// [Client.Token] would fail with. How it stands with each comes first, as soon as
// it is known; the next change of each once there is one, and the last one only
// where the loop's body took its time over several. MinValid, Force and BestEffort
// are not for watching and have no effect.
//
// A daemon that is locked, or a profile that does not exist yet, is a Change and
// no end. So is a daemon that goes away or that is not there: Watch says so once,
// for each token, and looks for it again, with back-off; it starts one with
// Autostart only. Each token, or what keeps it from being had, comes again then.
//
// An error is the last of the sequence: the context's, or an [*Error] that no
// waiting helps against, of [api.ReasonRequestInvalid] or
// [api.ReasonSettingsInvalid].
func (c *Client) Watch(ctx context.Context, tokens ...TokenRequest) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w := &watch{client: c, tokens: tokens, alive: make([]lifetime, len(tokens))}
		if err := w.run(ctx, yield); err != nil {
			yield(Change{}, err)
		}
	}
}

type watch struct {
	client *Client
	tokens []TokenRequest
	alive  []lifetime // by index
	gone   string     // which loss of the daemon was told of last; "": it is there
}

// lifetime is that of the token that was sent last. It has ended if either clock
// says so: the one stands still in suspend, the other can be set.
type lifetime struct {
	expires time.Time     // on the wall clock
	since   time.Time     // monotonic
	left    time.Duration // then
}

func (l lifetime) alive() bool {
	return time.Now().Before(l.expires) && time.Since(l.since) < l.left
}

// run returns how the sequence ends; nil: the loop's body wants no more.
func (w *watch) run(ctx context.Context, yield func(Change, error) bool) error {
	req := &api.WatchTokenRequest{}
	for _, t := range w.tokens {
		req.Tokens = append(req.Tokens, api.WatchedToken{
			Profile: t.Profile, Scopes: t.Scopes, Audience: t.Audience, Resource: t.Resource})
	}
	b, err := pbwire.Marshal(req)
	if err != nil {
		return err
	}
	if len(b) > grpcwire.MaxMessage {
		return &Error{Reason: api.ReasonRequestInvalid, Code: 3, Message: fmt.Sprintf("tokens: with scopes, audiences and resources longer than %d bytes", grpcwire.MaxMessage)}
	}
	for failures := 0; ; failures++ {
		began := time.Now()
		err := w.connection(ctx, b, yield)
		switch {
		case err == nil:
			return nil
		case ended(ctx) != nil:
			return ended(ctx)
		}
		var (
			failed      *Error
			unreachable *UnreachableError
			retry       time.Duration
		)
		switch isOurs := errors.As(err, &failed); {
		case isOurs && (failed.Reason == api.ReasonRequestInvalid || failed.Reason == api.ReasonSettingsInvalid):
			return err
		case isOurs && !stopping(failed):
			retry = failed.RetryAfter
		case !errors.As(err, &unreachable) && !errors.Is(err, ErrNotRunning):
			err = fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		if !w.lost(err, yield) {
			return nil
		}
		if time.Since(began) > maxBackoff {
			failures = 0
		}
		backoff := min(minBackoff<<min(failures, 16), maxBackoff)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(retry, backoff) + rand.N(backoff/2)):
		}
	}
}

// ended is ctx's error, also where a connection's timer was a little earlier.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// stopping says whether a call ended because its daemon does: with UNAVAILABLE, or
// as the ends of connections that are not whole any more.
func stopping(e *Error) bool {
	return e.Reason == api.ReasonUnspecified && (e.Code == 14 || e.Code == 1 || e.Code == 4)
}

// connection watches until the connection ends, whose error it returns; nil: the
// loop's body wants no more.
func (w *watch) connection(ctx context.Context, request []byte, yield func(Change, error) bool) error {
	// Starting a daemon may hang; the stream may not end for weeks.
	dialing, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	conn, header, err := w.client.connect(dialing)
	if err != nil {
		return err
	}
	wire, err := grpcwire.Open(ctx, conn, api.MethodWatchToken, header)
	if err != nil {
		return fromWire(err)
	}
	s := &Stream{wire}
	defer func() { _ = s.Close() }()
	// Where these fail, Recv says why.
	_ = wire.Send(request)
	_ = wire.CloseSend()
	for {
		resp := &api.WatchTokenResponse{}
		if err := s.Recv(resp); err != nil {
			return err
		}
		if resp.Index < 0 || int(resp.Index) >= len(w.tokens) {
			return fmt.Errorf("it sent a token that was not asked for, number %d", resp.Index)
		}
		w.gone = ""
		change := Change{Index: int(resp.Index), Profile: resp.Profile}
		switch {
		case resp.Token != nil:
			change.Token = newToken(resp.Token)
			w.alive[resp.Index] = lifetime{change.Token.ExpiresAt, time.Now(), change.Token.ExpiresIn}
		case resp.Problem != nil:
			change.Err = fromProblem(resp.Profile, resp.Problem)
			change.TokenLives = resp.Problem.TokenLives
		default: // of a daemon that knows more than this client
			continue
		}
		if !yield(change, nil) {
			return nil
		}
	}
}

// lost tells of a daemon that is gone, once. It is false once the loop's body
// wants no more.
func (w *watch) lost(err error, yield func(Change, error) bool) bool {
	what := err.Error()
	if errors.Is(err, ErrNotRunning) {
		what = ErrNotRunning.Error() // however that shows
	}
	if what == w.gone {
		return true
	}
	w.gone = what
	for i, t := range w.tokens {
		if !yield(Change{Index: i, Profile: t.Profile, Err: err, TokenLives: w.alive[i].alive()}, nil) {
			return false
		}
	}
	return true
}

// fromProblem returns the error that [Client.Token] would fail with.
func fromProblem(profile string, p *api.Problem) *Error {
	e := &Error{
		Reason:     p.Reason,
		Message:    p.Message,
		Metadata:   map[string]string{"profile": profile},
		RetryAfter: p.RetryAfter,
	}
	if p.Variable != "" {
		e.Metadata["variable"] = p.Variable
	}
	if p.OauthError != "" {
		e.Metadata["oauth_error"] = p.OauthError
	}
	return e
}
