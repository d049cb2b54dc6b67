package broker

import (
	"context"
	"sync"
)

// group runs one call a key at a time and gives its result to all who asked
// meanwhile. The call belongs to nobody in particular: it has a context of its
// own, so that a caller who goes away does not take the others' answer along.
// The zero group is ready.
type group[K comparable, V any] struct {
	running sync.WaitGroup

	// mu guards calls.
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	done  chan struct{} // closed once value and err are set
	value V
	err   error
}

// do joins the call for k or starts it as run, under owner and flightTime, and
// waits for its result or for ctx.
func (g *group[K, V]) do(ctx, owner context.Context, k K, run func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	c := g.calls[k]
	if c == nil {
		c = &call[V]{done: make(chan struct{})}
		if g.calls == nil {
			g.calls = make(map[K]*call[V])
		}
		g.calls[k] = c
		g.running.Go(func() {
			ctx, cancel := context.WithTimeout(owner, flightTime)
			defer cancel()
			c.value, c.err = run(ctx)
			g.mu.Lock()
			delete(g.calls, k)
			g.mu.Unlock()
			close(c.done)
		})
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// wait returns when no call runs. No new one may be started meanwhile.
func (g *group[K, V]) wait() { g.running.Wait() }
