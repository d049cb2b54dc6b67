package broker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokend/broker"
	"tokend/profile"
	"tokend/test/authserver"
)

// Callers choose what is asked for, and it is asked for without them: of one profile
// so much at a time. What lives is handed out all the same, and is renewed once
// there is room. (Not parallel: it counts goroutines.)
func TestCrowdedFlights(t *testing.T) {
	const callers, most = 5000, 1024
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		var slow atomic.Bool
		var under atomic.Int64
		e := &every{b.store, []byte(b.text()), "the one"}
		b.changes = func(c *broker.Config) {
			c.Profiles = e
			c.Resolve = func(ctx context.Context, _ []profile.External) (map[string]string, error) {
				if slow.Load() {
					under.Add(1)
					defer under.Add(-1)
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return map[string]string{}, nil
			}
		}
		b.restart()
		b.front.always(grants(200 * time.Second)) // renewed after 160 to 170
		first := b.get(t, plain)
		time.Sleep(155 * time.Second)
		slow.Store(true)
		before := runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var told atomic.Int64
		for i := range callers {
			all.Go(func() {
				_, err := b.Token(ctx, scoped(fmt.Sprint(i)))
				var crowded *broker.ThrottledError
				if errors.As(err, &crowded) && crowded.RetryAfter == time.Second {
					told.Add(1)
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		all.Wait()
		if n := told.Load(); n != callers-most {
			t.Errorf("%d were told that too much is under way, want %d", n, callers-most)
		}
		if n, of := under.Load(), runtime.NumGoroutine()-before; n != most || of > most+10 {
			t.Errorf("%d fetches are under way, in %d goroutines", n, of)
		}
		slow.Store(false)
		b.get(t, broker.Request{Profile: "dev/other"}) // is not concerned

		time.Sleep(27 * time.Second)
		for _, r := range []broker.Request{plain, {Profile: "dev/network", MinValid: time.Minute, BestEffort: true}} {
			if got := b.atOnce(t, r); got.Access != first.Access || !got.Degraded || got.Remaining != 18*time.Second {
				t.Errorf("%+v: got %v", r, got)
			}
		}
		// They are given up after 30 seconds.
		b.front.times()
		time.Sleep(14 * time.Second)
		b.wantSent(t, 1)
		if got := b.atOnce(t, plain); got.Access == first.Access || got.Degraded {
			t.Errorf("got %v", got)
		}
	})
}
