package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"tokend/oauth"
)

const (
	// firstBackOff doubles with each failure in a row, up to longestBackOff, or to
	// unseenBackOff where the server cannot have noticed anything.
	firstBackOff   = time.Second
	longestBackOff = 5 * time.Minute
	unseenBackOff  = 30 * time.Second
	// blockedTime is how long after a refusal a connection that fails may be the
	// server's doing.
	blockedTime = 15 * time.Minute
	maxOrigins  = 1024
	// longestTurn is how far ahead a turn is kept for a renewal.
	longestTurn = 30 * time.Second
	// maxQueue is for how many seconds' worth of requests one profile may stand in
	// line at an origin.
	maxQueue = 6
)

// origin is a server that is to be treated well, whichever profiles have to do
// with it. Its fields but the limiters are guarded by the Broker's mu.
type origin struct {
	limit      *rate.Limiter              // of all requests
	background *rate.Limiter              // of those that nobody waits for
	closed     time.Duration              // until when it wants to be left alone
	why        *oauth.Error               // what it said then
	tries      int                        // how often in a row
	refused    time.Duration              // when it last refused anything; 0: it did not
	waiting    map[string][]chan struct{} // requests that stand in line, by profile; closed: it is its turn
	line       []string                   // those profiles, the one whose turn it is first
}

// A ThrottledError says that an authorization server has asked to be left alone
// for a while, or would be asked too often.
type ThrottledError struct {
	Err        error
	RetryAfter time.Duration
}

func (e *ThrottledError) Error() string { return e.Err.Error() }
func (e *ThrottledError) Unwrap() error { return e.Err }

// originOf returns the origin of a URL. The caller holds mu.
func (b *Broker) originOf(endpoint string) *origin {
	name := endpoint
	if u, err := url.Parse(endpoint); err == nil {
		name = originName(u)
	}
	o := b.origins[name]
	if o == nil {
		if len(b.origins) >= maxOrigins {
			now := b.Now()
			maps.DeleteFunc(b.origins, func(_ string, o *origin) bool { return o.closed < now && len(o.waiting) == 0 })
		}
		perSecond := b.RateLimit
		o = &origin{
			limit:      rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/2)),
			waiting:    make(map[string][]chan struct{}),
			background: rate.NewLimiter(rate.Limit(perSecond)/2, 1),
		}
		b.origins[name] = o
	}
	return o
}

// pace says for how long a request that nobody waits for is to be put off, 0 if
// it may be sent, and whether its turn is kept for it until then. The caller holds
// mu.
func (o *origin) pace(now time.Duration, hasTurn bool) (wait time.Duration, kept bool) {
	if left := o.closed - now; left > 0 {
		return left + time.Duration(rand.Float64()*float64(time.Second)), false
	}
	if hasTurn {
		return 0, false
	}
	turn := o.background.Reserve()
	if wait = turn.Delay(); wait > longestTurn {
		turn.Cancel()
		return longestTurn, false
	}
	return wait, true
}

// closed says for how long endpoint's server wants to be left alone, and what it
// said; 0 if it does not.
func (b *Broker) closed(endpoint string) (left time.Duration, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.originOf(endpoint)
	if left = o.closed - b.Now(); left <= 0 {
		return 0, nil
	}
	return left, o.why
}

// admit waits until a request of a profile may be sent to endpoint's server. The
// error is a [*ThrottledError] or the context's.
func (b *Broker) admit(ctx context.Context, profile, endpoint string) error {
	if left, why := b.closed(endpoint); left > 0 {
		return &ThrottledError{why, left}
	}
	crowded := &ThrottledError{errors.New("too many requests to this server are waiting already"), time.Second}
	b.mu.Lock()
	o := b.originOf(endpoint)
	deadline, bounded := ctx.Deadline()
	if len(o.waiting[profile]) >= maxQueue*b.RateLimit || bounded && time.Until(deadline) < o.ahead(profile) {
		b.mu.Unlock()
		return crowded
	}
	turn := o.join(profile)
	b.mu.Unlock()
	var err error
	select {
	case <-turn:
		err = o.limit.Wait(ctx)
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	o.leave(profile, turn)
	b.mu.Unlock()
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return crowded
	}
	return nil
}

// ahead is for how long one more request of a profile would stand in line, if
// nobody came after it. The caller holds the Broker's mu, as for join and leave.
func (o *origin) ahead(profile string) time.Duration {
	mine, n := len(o.waiting[profile]), 0
	for _, queue := range o.waiting {
		n += min(len(queue), max(1, mine))
	}
	return time.Duration((float64(n) - o.limit.Tokens()) / float64(o.limit.Limit()) * float64(time.Second))
}

// join puts a request of a profile in line. Profiles take turns, with one request
// each, so that none that is asked for much keeps others waiting for long.
func (o *origin) join(profile string) (turn chan struct{}) {
	turn = make(chan struct{})
	if len(o.waiting[profile]) == 0 {
		o.line = append(o.line, profile)
	}
	o.waiting[profile] = append(o.waiting[profile], turn)
	if len(o.line) == 1 && len(o.waiting[profile]) == 1 {
		close(turn)
	}
	return turn
}

// leave takes a request out of the line, and if it was its turn, makes it the next
// one's.
func (o *origin) leave(profile string, turn chan struct{}) {
	had := o.waiting[o.line[0]][0] == turn
	queue := slices.DeleteFunc(o.waiting[profile], func(other chan struct{}) bool { return other == turn })
	o.waiting[profile] = queue
	if had || len(queue) == 0 {
		o.line = slices.DeleteFunc(o.line, func(other string) bool { return other == profile })
		if len(queue) > 0 {
			o.line = append(o.line, profile)
		} else {
			delete(o.waiting, profile)
		}
	}
	if had && len(o.line) > 0 {
		close(o.waiting[o.line[0]][0])
	}
}

// heard notes what an exchange with endpoint's server says of the server, and
// gives its error, with more in it where the server may be shutting us out.
func (b *Broker) heard(endpoint string, err error) error {
	var answer *oauth.Error
	if err != nil && !errors.As(err, &answer) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, now := b.originOf(endpoint), b.Now()
	switch {
	case err == nil:
		o.tries, o.refused = 0, 0
	case answer.Status == http.StatusTooManyRequests, answer.Status == http.StatusServiceUnavailable && answer.RetryAfter > 0:
		until := now + answer.RetryAfter
		if o.closed <= now { // else it is of a request that was under way already
			until = max(until, now+backOff(o.tries, longestBackOff))
			o.tries++
		}
		if until > o.closed {
			o.closed, o.why = until, answer
		}
		o.refused = now
	case answer.Kind == oauth.Refused:
		o.refused = now
	case o.refused > 0 && now-o.refused < blockedTime && answer.Status == 0 && answer.Reached && !answer.Proxy:
		again := *answer
		again.Err = fmt.Errorf("%w; it refused requests %v ago, and may be blocking this machine's address", answer.Err, (now - o.refused).Round(time.Second))
		return &again
	}
	return err
}

// backOff is how long to wait after so many failures before.
func backOff(tries int, longest time.Duration) time.Duration {
	wait := longest
	if tries < 16 {
		wait = min(firstBackOff<<tries, longest)
	}
	return wait + time.Duration(rand.Float64()*float64(wait)/2)
}

// unseen says whether a server cannot have noticed a request that failed.
func unseen(e *oauth.Error) bool {
	return !e.Sent && (!e.Reached || errors.Is(e, syscall.ECONNREFUSED))
}

// isTemporary says whether err is of the kind that passes by itself.
func isTemporary(err error) bool {
	var answer *oauth.Error
	return errors.As(err, &answer) && answer.Kind == oauth.Temporary
}
