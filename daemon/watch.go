package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/broker"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

const (
	// maxWatch is how many tokens one call may watch.
	maxWatch = 256
	// maxWatched is how many all calls may together: each has its goroutine.
	maxWatched = 4096
)

func (s *tokens) WatchToken(req *tokendv1.WatchTokenRequest, stream tokendv1grpc.TokenService_WatchTokenServer) error {
	n := len(req.GetTokens())
	if n < 1 || n > maxWatch {
		return invalid("tokens", fmt.Sprintf("must be 1 to %d", maxWatch))
	}
	w := &watch{items: make([]watched, n), wake: make(chan struct{}, 1)}
	for i, t := range req.GetTokens() {
		r, err := brokerRequest(&tokendv1.GetTokenRequest{
			Profile: t.GetProfile(), Scopes: t.GetScopes(), Audience: t.GetAudience(), Resource: t.GetResource()})
		if err != nil {
			return invalid(fmt.Sprintf("tokens[%d]", i), status.Convert(err).Message())
		}
		w.items[i].request = r
	}
	if !s.d.watched.TryAcquire(int64(n)) {
		return failure(tokendv1.Reason_REASON_THROTTLED, fmt.Sprintf("no more than %d tokens can be watched at a time", maxWatched))
	}
	defer s.d.watched.Release(int64(n))
	ctx, cancel := context.WithCancel(stream.Context())
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()
	for i := range w.items {
		followers.Go(func() { w.follow(ctx, s.d, i) })
	}
	for ctx.Err() == nil {
		if resp := w.next(); resp != nil {
			if err := stream.Send(resp); err != nil {
				return err
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	}
	return s.d.ended(ctx)
}

// watch is what one call watches. However slowly its client reads, it holds no
// more of each token than its last state.
type watch struct {
	wake chan struct{} // has one when due may not be empty

	// mu guards the fields that follow.
	mu    sync.Mutex
	items []watched
	due   []int // those whose state has yet to be sent, each once, the oldest first
}

// watched is one token and its last state.
type watched struct {
	request broker.Request
	token   broker.Token // none where its Access is zero
	err     error        // the call's; nil: all is well
	at      time.Duration
	// What of this has yet to be sent: the token before what keeps it from being
	// renewed.
	tokenDue, errDue bool
	sent             string // the fingerprint of the token that was sent last
}

// follow keeps the state of one token for as long as ctx lasts.
func (w *watch) follow(ctx context.Context, d *Daemon, i int) {
	r := w.items[i].request
	for ctx.Err() == nil {
		h, era, err := d.openedNow()
		inEra, end := within(ctx, era)
		if err != nil {
			w.set(i, broker.Token{}, err)
		} else {
			_ = h.broker.Watch(inEra, r, func(t broker.Token, err error) error {
				if err != nil {
					err = profileError(r.Profile, err)
				}
				w.set(i, t, err)
				return nil
			}) // ends with inEra
		}
		<-inEra.Done()
		end()
	}
}

// set is a new state of one token, which is living, or why there is none, or
// both. It never waits.
func (w *watch) set(i int, t broker.Token, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	it := &w.items[i]
	queued := it.tokenDue || it.errDue
	it.token, it.err, it.at = t, err, BootTime()
	it.errDue = err != nil
	it.tokenDue = !t.Access.IsZero() && (err == nil || t.Fingerprint != it.sent)
	if !queued {
		w.due = append(w.due, i)
		offer(w.wake, struct{}{})
	}
}

// next is what is to be sent, or nil.
func (w *watch) next() *tokendv1.WatchTokenResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) == 0 {
		return nil
	}
	i := w.due[0]
	it := &w.items[i]
	resp := &tokendv1.WatchTokenResponse{Index: int32(i), Profile: it.request.Profile}
	old := BootTime() - it.at
	if it.tokenDue {
		it.tokenDue, it.sent = false, it.token.Fingerprint
		t := it.token
		t.Remaining = max(0, t.Remaining-old)
		resp.Event = &tokendv1.WatchTokenResponse_Token{Token: tokenResponse(t)}
		if proto.Size(resp) > maxMessage {
			resp.Event = &tokendv1.WatchTokenResponse_Problem{Problem: problem(resp.Profile, tooLarge())}
		}
	} else {
		it.errDue = false
		p := problem(resp.Profile, it.err)
		if p.RetryAfter != nil {
			p.RetryAfter = durationpb.New(max(0, p.RetryAfter.AsDuration()-old))
		}
		p.TokenLives = !it.token.Access.IsZero() && it.token.Remaining > old
		resp.Event = &tokendv1.WatchTokenResponse_Problem{Problem: p}
	}
	if !it.tokenDue && !it.errDue {
		w.due = w.due[1:]
	}
	return resp
}
