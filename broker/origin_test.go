package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
)

// retryAfter is how long an error says to wait.
func retryAfter(t *testing.T, err error) time.Duration {
	t.Helper()
	var refused *broker.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("error is %v, want a RefusedError", err)
	}
	return refused.RetryAfter
}

// A server that says for how long it wants to be left alone is, by all profiles;
// others are not concerned.
func TestRetryAfterClosesTheOrigin(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		for _, form := range []string{"seconds", "date"} {
			t.Run(fmt.Sprint(status, " ", form), func(t *testing.T) {
				inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
					b.put(t, "living", b.text())
					b.put(t, "dev/network", b.text())
					b.put(t, "third", b.text("OAUTH2_SCOPE=third"))
					b.put(t, "elsewhere", b.textOf(b.other))
					b.other.always(grants(600 * time.Second))
					b.front.always(grants(130 * time.Second))
					living := b.get(t, broker.Request{Profile: "living"})
					value := "120"
					if form == "date" {
						value = time.Now().Add(120 * time.Second).UTC().Format(http.TimeFormat)
					}
					b.front.always(says(status, nil, "Retry-After", value))
					b.front.times()
					begin := b.clock()
					for _, name := range []string{"dev/network", "dev/network", "third"} {
						_, err := b.Token(t.Context(), broker.Request{Profile: name, Force: true})
						var answer *oauth.Error
						if left := retryAfter(t, err); left != 120*time.Second || !errors.As(err, &answer) || answer.Status != status {
							t.Errorf("%s: refused for %v with %v", name, left, err)
						}
					}
					b.wantTimes(t, begin, 0)
					b.front.always(grants(600 * time.Second))
					b.get(t, broker.Request{Profile: "elsewhere"})
					// A renewal that comes due meanwhile waits too, and its token is handed out.
					time.Sleep(119 * time.Second)
					if got := b.atOnce(t, broker.Request{Profile: "living"}); got.Access != living.Access || got.Remaining != 11*time.Second {
						t.Errorf("got %v", got)
					}
					if _, err := b.Token(t.Context(), broker.Request{Profile: "third"}); retryAfter(t, err) != time.Second {
						t.Errorf("error is %v", err)
					}
					b.wantTimes(t, begin)
					time.Sleep(time.Second)
					b.get(t, broker.Request{Profile: "third"})
					b.get(t, broker.Request{Profile: "dev/network"})
					time.Sleep(3 * time.Second)
					if got := b.atOnce(t, broker.Request{Profile: "living"}); got.Access == living.Access || got.Degraded {
						t.Errorf("got %v", got)
					}
				})
			})
		}
	}
}

// Without a time the origin is left alone for longer and longer.
func TestTooManyRequestsWithoutATime(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "a", b.text())
		b.put(t, "b", b.text())
		b.front.always(says(http.StatusTooManyRequests, nil))
		for i, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
			wait *= time.Second
			// Whoever comes first asks for all.
			names := []string{"a", "b"}
			_, err := b.Token(t.Context(), broker.Request{Profile: names[i%2], Scopes: []string{fmt.Sprint(i)}})
			retryAfter(t, err)
			_, err = b.Token(t.Context(), broker.Request{Profile: names[1-i%2], Scopes: []string{fmt.Sprint(i)}})
			left := retryAfter(t, err)
			if left < wait || left > wait+wait/2 {
				t.Errorf("%d: the other is left alone for %v, want %v", i, left, wait)
			}
			if n := len(b.front.times()); n != 1 {
				t.Errorf("%d: %d requests", i, n)
			}
			time.Sleep(left)
		}
		b.front.always(grants(time.Hour))
		time.Sleep(8 * time.Minute)
		b.get(t, broker.Request{Profile: "a"})
		// A success begins it anew.
		b.front.always(says(http.StatusTooManyRequests, nil))
		_, err := b.Token(t.Context(), broker.Request{Profile: "a", Scopes: []string{"more"}})
		if left := retryAfter(t, err); left > 1500*time.Millisecond {
			t.Errorf("left alone for %v", left)
		}
	})
}

// A crowd that wants different tokens gets them at the rate, all of them.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.put(t, "elsewhere", b.textOf(b.other))
		b.other.always(grants(600 * time.Second))
		b.front.always(grants(600 * time.Second))
		b.get(t, plain) // all is well with the client
		b.front.times()
		var all sync.WaitGroup
		for i := range 120 {
			all.Go(func() {
				if _, err := b.Token(t.Context(), scoped(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		b.atOnce(t, broker.Request{Profile: "elsewhere"}) // another server's limit is another's
		all.Wait()
		at := b.front.times()
		wantRate(t, at, 20, 10)
		if n := len(at); n != 120 {
			t.Errorf("%d requests", n)
		}
	})
}

// One profile stands in line for six seconds' worth of requests: the rest are told
// at once, and who asks for another profile comes in between.
func TestTooManyForTheRate(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.put(t, "dev/other", b.text())
		b.changes = func(c *broker.Config) { c.RateLimit = 2 }
		b.restart()
		b.front.always(grants(600 * time.Second))
		b.get(t, plain)
		time.Sleep(250 * time.Millisecond) // no turn comes just as they give up
		var all sync.WaitGroup
		var mu sync.Mutex
		throttled := 0
		for i := range 100 {
			all.Go(func() {
				before := time.Now()
				_, err := b.Token(t.Context(), scoped(fmt.Sprint(i)))
				var limit *broker.ThrottledError
				if errors.As(err, &limit) {
					mu.Lock()
					defer mu.Unlock()
					throttled++
					if time.Since(before) != 0 || retryAfter(t, err) != time.Second {
						t.Errorf("after %v: %v", time.Since(before), err)
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		before := time.Now()
		_, err := b.Token(t.Context(), broker.Request{Profile: "dev/other"})
		if took := time.Since(before); err != nil || took > time.Second {
			t.Errorf("another profile waited for %v: %v", took, err)
		}
		all.Wait()
		if throttled != 100-12 {
			t.Errorf("%d callers were told that too many wait", throttled)
		}
	})
}

// Profiles take turns at an origin, each with what it has asked for first.
func TestProfilesTakeTurns(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.changes = func(c *broker.Config) { c.RateLimit = 2 }
		b.restart()
		var mu sync.Mutex
		var order []string
		b.front.always(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			order = append(order, r.PostFormValue("scope"))
			mu.Unlock()
			grants(600*time.Second)(w, r)
		})
		for _, name := range []string{"a", "b", "c"} {
			b.put(t, name, b.text())
			b.get(t, broker.Request{Profile: name})
		}
		mu.Lock()
		order = nil
		mu.Unlock()
		var all sync.WaitGroup
		for _, scope := range []string{"a0", "a1", "a2", "a3", "b0", "b1", "c0"} {
			all.Go(func() {
				if _, err := b.Token(t.Context(), broker.Request{Profile: scope[:1], Scopes: []string{scope}}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		mu.Lock()
		defer mu.Unlock()
		if got, want := strings.Join(order, " "), "a0 b0 c0 a1 b1 a2 a3"; got != want {
			t.Errorf("the server was asked for %s, want %s", got, want)
		}
	})
}

// Who asks for very much and does not wait for it keeps nobody waiting for longer
// than a round.
func TestFloodOfProfiles(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.front.always(grants(600 * time.Second))
		names := []string{"dev/a", "dev/a1", "dev/a2", "dev/a3"}
		for _, name := range names {
			b.put(t, name, b.text())
			b.get(t, broker.Request{Profile: name})
		}
		b.front.times()
		var flood sync.WaitGroup
		for i := range 120 {
			flood.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				_, err := b.Token(ctx, broker.Request{Profile: names[1+i%3], Scopes: []string{fmt.Sprint(i)}})
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		flood.Wait() // what it asked for has not been fetched yet
		for i := range 10 {
			before := time.Now()
			b.get(t, broker.Request{Profile: "dev/a", Scopes: []string{fmt.Sprint(i)}})
			if took := time.Since(before); took > 200*time.Millisecond {
				t.Errorf("%d: another profile waited for %v", i, took)
			}
		}
		time.Sleep(10 * time.Second)
		at := b.front.times()
		wantRate(t, at, 20, 10)
		if n := len(at); n != 130 {
			t.Errorf("%d requests", n)
		}
	})
}

// Who waits for their turn, or has it, can go away: the turn is the next one's. Who
// cannot have it in time is told at once.
func TestTurnsOfThoseWhoGoAway(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.changes = func(c *broker.Config) { c.RateLimit = 2 }
		b.restart()
		b.put(t, "dev/network", b.text())
		b.put(t, "p", b.text("OAUTH2_INTROSPECTION_URL="+b.front.url+"/introspect"))
		b.front.always(grants(600 * time.Second))
		b.get(t, plain)
		b.get(t, broker.Request{Profile: "p"})
		ask := func(n int) (all *sync.WaitGroup) {
			all = new(sync.WaitGroup)
			for range n {
				all.Go(func() {
					if _, err := b.Token(t.Context(), scoped(fmt.Sprint(granted.Add(1)))); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			return all
		}
		introspect := func() (cancel func(), done chan error) {
			ctx, cancel := context.WithCancel(t.Context())
			done = make(chan error, 1)
			go func() {
				_, err := b.Introspect(ctx, broker.Request{Profile: "p"})
				done <- err
			}()
			synctest.Wait()
			return cancel, done
		}
		time.Sleep(100 * time.Millisecond)
		b.front.times()
		begin := b.clock()

		cancel, done := introspect() // has its turn, in 0.4 s
		cancelNext, doneNext := introspect()
		cancelNext()
		if err := <-doneNext; !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		asked := ask(3)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		cancel, done = introspect() // stands in line
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond) // its turn is in 0.9 s
		defer cancel()
		_, err := b.Introspect(ctx, broker.Request{Profile: "p"})
		if !errors.As(err, new(*broker.ThrottledError)) {
			t.Errorf("error is %v", err)
		}
		if took := b.clock() - begin; took != 0 {
			t.Errorf("told after %v", took)
		}
		asked.Wait()
		b.wantTimes(t, begin, 0, 0, 1)
	})
}

// Right after a refusal it may be the server that shuts us out.
func TestAddressMayBeBlocked(t *testing.T) {
	t.Parallel()
	const hint = "may be blocking this machine's address"
	reset := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, test := range map[string]struct {
		first http.HandlerFunc
		after time.Duration
		want  bool
	}{
		"after a refusal":           {refuses("invalid_client"), 14 * time.Minute, true},
		"after 429":                 {says(http.StatusTooManyRequests, nil), 14 * time.Minute, true},
		"long after a refusal":      {refuses("invalid_client"), 16 * time.Minute, false},
		"after an error of its own": {says(http.StatusInternalServerError, nil), time.Minute, false},
		"after a token":             {grants(time.Minute), 5 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "a", b.text())
				b.put(t, "b", b.text())
				b.front.always(test.first)
				_, _ = b.Token(t.Context(), broker.Request{Profile: "a"})
				b.front.always(reset)
				time.Sleep(test.after)
				_, err := b.Token(t.Context(), broker.Request{Profile: "b"})
				if err == nil || strings.Contains(err.Error(), hint) != test.want {
					t.Errorf("error is %v", err)
				}
				// What the server does say is not doubted.
				b.front.always(says(http.StatusInternalServerError, nil))
				time.Sleep(10 * time.Second)
				if _, err := b.Token(t.Context(), broker.Request{Profile: "b"}); err == nil || strings.Contains(err.Error(), hint) {
					t.Errorf("error is %v", err)
				}
			})
		})
	}
}

// What was under way when the server said so does not make the wait shorter.
func TestLongestRetryAfterCounts(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"3600", "1"}, {"1", "3600"}} {
		t.Run(strings.Join(order, " then "), func(t *testing.T) {
			h := newHouse(t, authserver.Config{})
			f := newFront(t, h.server, &h.now)
			h.put(t, "dev/network", "OAUTH2_TOKEN_URL="+f.url+"/token\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
			f.always(grants(time.Hour))
			h.get(t, plain)
			var release []func()
			var done []<-chan error
			for _, seconds := range order {
				arrived, answer := f.held(t, says(http.StatusTooManyRequests, nil, "Retry-After", seconds))
				release, done = append(release, answer), append(done, h.asking(t, scoped(seconds)))
				<-arrived
			}
			for i := range order {
				release[i]()
				<-done[i]
			}
			if _, err := h.Token(t.Context(), scoped("more")); retryAfter(t, err) != time.Hour {
				t.Errorf("left alone for %v", retryAfter(t, err))
			}
			if n := len(f.times()); n != 3 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// Requests that are under way together are told so together: that is once.
func TestTooManyRequestsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret}}})
	h.put(t, "dev/network", h.text())
	h.get(t, plain)
	h.server.AnyClient().Always(authserver.Answer{Status: http.StatusTooManyRequests, Hang: true})
	var done []<-chan error
	for i := range 12 {
		done = append(done, h.asking(t, scoped(fmt.Sprint(i))))
	}
	h.await(t, "/token", 13)
	h.server.Release()
	for _, done := range done {
		<-done
	}
	_, err := h.Token(t.Context(), scoped("more"))
	if left := retryAfter(t, err); left < time.Second || left > 1500*time.Millisecond {
		t.Errorf("left alone for %v", left)
	}
	h.wantRequests(t, 13)
}
