package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
	"tokend/test/authserver"
)

// A sight is what a watcher was sent.
type sight struct {
	at    time.Duration
	token broker.Token
	err   error
}

// A watcher watches until it is stopped.
type watcher struct {
	stop  context.CancelFunc
	ended chan error

	mu   sync.Mutex
	seen []sight
}

func (b *bubble) watch(t *testing.T, r broker.Request, each func()) *watcher {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &watcher{stop: stop, ended: make(chan error, 1)}
	go func() {
		w.ended <- b.Watch(ctx, r, func(token broker.Token, err error) error {
			w.mu.Lock()
			w.seen = append(w.seen, sight{b.clock(), token, err})
			w.mu.Unlock()
			if each != nil {
				each()
			}
			return nil
		})
	}()
	return w
}

// end stops it and checks that it ends so.
func (w *watcher) end(t *testing.T) {
	t.Helper()
	w.stop()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

// sights gives what came since it was last called.
func (w *watcher) sights() []sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// next waits a second and gives the one sight that must have come in it.
func (w *watcher) next(t *testing.T) sight {
	t.Helper()
	time.Sleep(time.Second)
	seen := w.sights()
	if len(seen) != 1 {
		t.Fatalf("sent %d times, want once: %v", len(seen), seen)
	}
	return seen[0]
}

// quiet checks that nothing comes for d.
func (w *watcher) quiet(t *testing.T, d time.Duration) {
	t.Helper()
	time.Sleep(d)
	if seen := w.sights(); len(seen) != 0 {
		t.Errorf("sent %v", seen)
	}
}

// A watcher always has a token that lives, and gets each once.
func TestWatch(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{600 * time.Second, 60 * time.Second, 3 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.text())
				b.front.always(grants(life))
				w := b.watch(t, plain, nil)
				time.Sleep(20 * life)
				w.end(t)
				seen := w.sights()
				for i, s := range seen {
					if s.err != nil || s.token.Degraded || i > 0 && s.token.Access == seen[i-1].token.Access {
						t.Errorf("%d: sent %v, %v", i, s.token, s.err)
					}
					if i > 0 && s.at > seen[i-1].at+seen[i-1].token.Remaining {
						t.Errorf("%d: sent %v after the end of the one before", i, s.at-seen[i-1].at-seen[i-1].token.Remaining)
					}
				}
				if n := len(seen); n < 20 || n > 28 {
					t.Errorf("%d tokens in twenty lives", n)
				}
				if n := len(b.front.times()); n != len(seen) && n != len(seen)+1 {
					t.Errorf("%d requests for %d tokens", n, len(seen))
				}
				// Nobody watches any more.
				time.Sleep(life)
				b.front.times()
				time.Sleep(20 * life)
				b.wantSent(t, 0)
			})
		})
	}
}

// States come within a second where the daemon has a hand in it, and each once.
func TestWatchStates(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		w := b.watch(t, plain, nil)
		if s := w.next(t); !errors.Is(s.err, store.ErrNotExist) {
			t.Errorf("sent %v", s.err)
		}
		w.quiet(t, time.Minute)

		// A profile that appears: within five seconds, or at once where that is said.
		b.put(t, "dev/network", b.interactive())
		b.Forget("dev/network") // as the daemon does after a write
		var login *broker.LoginError
		if s := w.next(t); !errors.As(s.err, &login) || login.Why != "nobody is logged in" {
			t.Errorf("sent %v", s.err)
		}
		w.quiet(t, time.Hour)
		b.wantSent(t, 0)

		first := b.login(t, "dev/network")
		if s := w.next(t); s.err != nil || s.token.Access != first.AccessToken {
			t.Errorf("sent %v, %v", s.token, s.err)
		}
		w.quiet(t, 7*time.Minute)

		// The renewal fails: the living token with the reason, then the reason alone.
		b.front.always(refuses("invalid_grant"))
		time.Sleep(125 * time.Second)
		seen := w.sights()
		if len(seen) != 1 || !errors.As(seen[0].err, &login) || seen[0].token.Access != first.AccessToken || !seen[0].token.Degraded {
			t.Errorf("sent %v", seen)
		}
		time.Sleep(70 * time.Second)
		seen = w.sights()
		if len(seen) != 1 && len(seen) != 0 || len(seen) == 1 && (!errors.As(seen[0].err, &login) || !seen[0].token.Access.IsZero()) {
			t.Errorf("sent %v", seen)
		}
		b.front.always(nil)
		second := b.login(t, "dev/network")
		if s := w.next(t); s.err != nil || s.token.Access != second.AccessToken {
			t.Errorf("sent %v, %v", s.token, s.err)
		}

		// Refused by the API.
		b.reports401(t, b.get(t, plain))
		if s := w.next(t); s.err != nil || s.token.Access == second.AccessToken {
			t.Errorf("sent %v, %v", s.token, s.err)
		}

		// Locked, and unlocked again.
		b.store.Lock()
		b.sessions.Lock()
		b.Drop()
		if s := w.next(t); !errors.Is(s.err, store.ErrLocked) {
			t.Errorf("sent %v", s.err)
		}
		w.quiet(t, time.Hour)
		for _, unlock := range b.unlock {
			unlock()
		}
		b.Drop()
		if s := w.next(t); s.err != nil {
			t.Errorf("sent %v", s.err)
		}

		// Logged out.
		if _, err := b.Revoke(t.Context(), "dev/network"); err != nil {
			t.Fatal(err)
		}
		if s := w.next(t); !errors.As(s.err, &login) || login.Why != "nobody is logged in" {
			t.Errorf("sent %v", s.err)
		}

		// A change behind its back.
		b.put(t, "dev/network", b.text("# client credentials now"))
		time.Sleep(5 * time.Second)
		if seen := w.sights(); len(seen) != 1 || seen[0].err != nil {
			t.Errorf("sent %v", seen)
		}
		w.end(t)
	})
}

// A server that is down, throttles, refuses, and comes back: one line for each.
func TestWatchTrouble(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(says(500, nil))
		w := b.watch(t, plain, nil)
		status := func(want int) {
			t.Helper()
			s := w.next(t)
			var answer *oauth.Error
			if !errors.As(s.err, &answer) || answer.Status != want || !s.token.Access.IsZero() {
				t.Errorf("sent %v, want status %d", s.err, want)
			}
		}
		status(500)
		w.quiet(t, time.Minute)
		b.front.always(says(429, nil, "Retry-After", "600"))
		time.Sleep(5*time.Minute - time.Second)
		w.mu.Lock()
		n := len(w.seen)
		w.mu.Unlock()
		if n != 1 {
			t.Fatalf("sent %d times", n)
		}
		status(429)
		w.quiet(t, 3*time.Minute)
		b.front.always(refuses("invalid_client"))
		time.Sleep(8 * time.Minute)
		status(401)
		b.front.times()
		w.quiet(t, 5*time.Minute)
		b.wantSent(t, 0)
		b.front.always(grants(time.Hour))
		if _, err := b.Reset(t.Context(), "dev/network"); err != nil {
			t.Fatal(err)
		}
		if s := w.next(t); s.err != nil {
			t.Errorf("sent %v", s.err)
		}
		w.end(t)
	})
}

// lessAndLess is after how many seconds a watcher looks, in five minutes, where
// looking costs something.
var lessAndLess = []int{0, 5, 15, 35, 75, 135, 195, 255}

// What fails differently each time is not run all the time.
func TestWatchOfACommandThatFails(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		begin := b.clock()
		var at []int
		b.values = func() (map[string]string, error) {
			at = append(at, int((b.clock() - begin).Seconds()))
			return nil, &profile.Mistakes{List: []profile.Mistake{{Variable: "CLIENT_SECRET_COMMAND", Message: fmt.Sprint("failed with status ", len(at))}}}
		}
		w := b.watch(t, plain, nil)
		time.Sleep(5 * time.Minute)
		w.end(t)
		// The first failure is news, so it may be looked at twice.
		if diff := cmp.Diff(lessAndLess, slices.Compact(slices.Clone(at))); diff != "" || len(at) > len(lessAndLess)+1 {
			t.Error(at, diff)
		}
	})
}

// Who does not read gets the last state when it does, and nobody waits for it.
func TestSlowWatcher(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Minute))
		read := make(chan struct{})
		slow := b.watch(t, plain, func() { <-read })
		quick := b.watch(t, plain, nil)
		for range 600 {
			time.Sleep(time.Second)
			b.atOnce(t, plain)
		}
		if seen := slow.sights(); len(seen) != 1 {
			t.Errorf("sent %d times", len(seen))
		}
		seen := quick.sights()
		if len(seen) < 10 {
			t.Errorf("the other got %d tokens", len(seen))
		}
		read <- struct{}{}
		if got := slow.next(t); got.token.Access != seen[len(seen)-1].token.Access || got.token.Remaining <= 0 {
			t.Errorf("then got %v", got.token)
		}
		close(read)
		slow.end(t)
		quick.end(t)
	})
}

// Watch ends with what send says.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Minute))
		gone := errors.New("gone")
		sent := 0
		err := b.Watch(t.Context(), plain, func(broker.Token, error) error {
			if sent++; sent == 3 {
				return gone
			}
			return nil
		})
		if err != gone || sent != 3 {
			t.Errorf("after %d tokens: %v", sent, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Watch(ctx, plain, func(broker.Token, error) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		// The Broker's end is everybody's.
		w := b.watch(t, plain, nil)
		time.Sleep(time.Second)
		b.Close()
		time.Sleep(time.Minute)
		w.end(t)
	})
}

// Many watch, and all get every token, for one request each.
func TestManyWatchers(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		const profiles, each = 4, 6
		b.front.always(grants(time.Minute))
		var sent atomic.Int64
		var all []*watcher
		for i := range profiles {
			b.put(t, fmt.Sprint("p", i), b.text())
			for range each {
				all = append(all, b.watch(t, broker.Request{Profile: fmt.Sprint("p", i)}, func() { sent.Add(1) }))
			}
		}
		time.Sleep(10 * time.Minute)
		for _, w := range all {
			w.end(t)
		}
		tokens := len(b.front.times())
		if tokens < 10*profiles || tokens > 13*profiles {
			t.Errorf("%d requests", tokens)
		}
		if n := int(sent.Load()); n != tokens*each {
			t.Errorf("%d tokens were sent %d times, want %d", tokens, n, tokens*each)
		}
	})
}

// A token of no life is for who is there when it comes; the next watchers ask for
// costs a request again.
func TestWatchOfTokensThatDoNotLive(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(0))
		begin := b.clock()
		w := b.watch(t, plain, nil)
		time.Sleep(5 * time.Minute)
		w.end(t)
		b.wantTimes(t, begin, lessAndLess...)
		if n := len(w.sights()); n != len(lessAndLess) {
			t.Errorf("sent %d times", n)
		}
	})
}

// However long the server is left alone: another text is another try, and so is
// another value of what it names.
func TestWatchOfWhatIsMended(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		value  bool
		within time.Duration
	}{
		{"refused", refuses("invalid_client"), false, 5 * time.Second},
		{"throttled", says(http.StatusTooManyRequests, nil, "Retry-After", "7200"), false, 5 * time.Second},
		{"value", refuses("invalid_client"), true, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				resolved, value := 0, secret
				b.values = func() (map[string]string, error) {
					resolved++
					return map[string]string{"CLIENT_SECRET": value}, nil
				}
				text := strings.Replace(b.text(), "CLIENT_SECRET="+secret, "CLIENT_SECRET_COMMAND='show secret'", 1)
				b.put(t, "dev/network", text)
				b.front.always(test.answer)
				b.other.always(grants(time.Hour))
				w := b.watch(t, plain, nil)
				if s := w.next(t); s.err == nil {
					t.Fatalf("sent %v", s.token)
				}
				w.quiet(t, 10*time.Minute)
				b.wantSent(t, 1)
				b.front.always(grants(time.Hour))
				b.mu.Lock()
				if resolved > 14 {
					t.Errorf("the command was run %d times in ten minutes", resolved)
				}
				if test.value {
					value = "another"
				}
				b.mu.Unlock()
				if !test.value {
					b.put(t, "dev/network", strings.Replace(text, b.front.url, b.other.url, 1))
				}
				time.Sleep(test.within)
				if seen := w.sights(); len(seen) != 1 || seen[0].err != nil {
					t.Errorf("sent %v", seen)
				}
				w.end(t)
			})
		})
	}
}
