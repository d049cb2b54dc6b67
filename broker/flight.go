package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"tokend/internal/harden"
)

// group runs one call a key and owner at a time and gives its result to all who asked
// meanwhile. The call belongs to nobody in particular: it has a context of its
// own, so that a caller who goes away does not take the others' answer along.
// The zero group is ready.
type group[K comparable, V any] struct {
	running sync.WaitGroup
	// of says whose call one is, of whom there may be maxOfOne; nil: there is no limit.
	of func(K) string

	// mu guards the fields that follow.
	mu    sync.Mutex
	calls map[K]*call[V]
	count map[string]int // by of
	ended bool           // no call is started any more
}

// Callers choose what is asked for, and a call outlives its callers.
const (
	maxOfOne = 1024
	maxCalls = 4096
)

var errCrowded = &ThrottledError{errors.New("too many tokens are being fetched at once"), time.Second}

type call[V any] struct {
	owner context.Context
	began time.Time
	done  chan struct{} // closed once value and err are set
	value V
	err   error
}

// do joins the call for k or starts it as run, under owner and flightTime, and
// waits for its result or for ctx. A call whose owner has ended is joined by nobody:
// what it brings is not for who comes after that.
func (g *group[K, V]) do(ctx, owner context.Context, k K, run func(context.Context) (V, error)) (V, error) {
	c, err := g.join(owner, k, run)
	if err != nil {
		var none V
		return none, err
	}
	return c.wait(ctx)
}

// join is do without waiting. The error is errCrowded, or context.Canceled once
// the group has ended.
func (g *group[K, V]) join(owner context.Context, k K, run func(context.Context) (V, error)) (*call[V], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.calls[k]
	if c == nil || c.owner.Err() != nil {
		if g.ended {
			return nil, context.Canceled
		}
		if g.of != nil && (g.count[g.of(k)] >= maxOfOne || len(g.calls) >= maxCalls) {
			return nil, errCrowded
		}
		c = &call[V]{owner: owner, began: time.Now(), done: make(chan struct{})}
		if g.calls == nil {
			g.calls, g.count = make(map[K]*call[V]), make(map[string]int)
		}
		g.calls[k] = c
		if g.of != nil {
			g.count[g.of(k)]++
		}
		g.running.Go(func() {
			ctx, cancel := context.WithTimeout(owner, flightTime)
			defer cancel()
			harden.Secretly(func() { c.value, c.err = run(ctx) })
			g.mu.Lock()
			if g.calls[k] == c {
				delete(g.calls, k)
			}
			if g.of != nil {
				if g.count[g.of(k)]--; g.count[g.of(k)] == 0 {
					delete(g.count, g.of(k))
				}
			}
			g.mu.Unlock()
			close(c.done)
		})
	}
	return c, nil
}

// wait returns the call's result, or ctx's error.
func (c *call[V]) wait(ctx context.Context) (V, error) {
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// end starts no call any more, and returns when none runs.
func (g *group[K, V]) end() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.running.Wait()
}
