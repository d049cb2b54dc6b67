package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tokend/broker"
	"tokend/profile"
	"tokend/test/authserver"
)

// After a night: nothing that has ended is handed out, whoever asks first has it
// fetched, once, and what nobody waits for is spread over half a minute.
func TestSuspend(t *testing.T) {
	t.Parallel()
	const tokens = 40
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Hour))
		old := make(map[string]broker.Token)
		for i := range tokens {
			scope := fmt.Sprint(i)
			old[scope] = b.get(t, scoped(scope))
		}
		b.front.times()
		time.Sleep(10 * time.Minute)
		b.happened()
		// All of them are to be renewed by now, and live.
		b.suspend(46 * time.Minute)
		woken := b.clock()
		for scope, token := range old {
			if got := b.atOnce(t, scoped(scope)); got.Access != token.Access || got.Degraded || got.Remaining > 4*time.Minute {
				t.Errorf("%s: got %v", scope, got)
			}
		}
		time.Sleep(30 * time.Second) // timers stood still: it is noticed by then
		time.Sleep(31 * time.Second)
		at := b.front.times()
		if len(at) != tokens || at[len(at)-1]-woken > 61*time.Second {
			t.Errorf("%d renewals, the last after %v", len(at), at[len(at)-1]-woken)
		}
		events := b.happened()
		i := slices.IndexFunc(events, func(e broker.Event) bool { return e.Kind == broker.Woken })
		if i < 0 || events[i].Profile != "" || events[i].Message != "the machine was suspended for 46m0s" {
			t.Errorf("events are %v", events)
		}
		wantRate(t, at, 5, 4)

		// And once they have ended.
		for scope := range old {
			old[scope] = b.get(t, scoped(scope))
		}
		b.suspend(2 * time.Hour)
		for scope, token := range old {
			if got := b.get(t, scoped(scope)); got.Access == token.Access || got.Remaining < 59*time.Minute {
				t.Errorf("%s: got %v", scope, got)
			}
		}
		time.Sleep(2 * time.Minute)
		b.wantSent(t, tokens)
	})
}

// A machine that does not sleep is not woken, however its time of day is set.
func TestNoSuspend(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Hour))
		b.get(t, plain)
		b.happened()
		for range 20 {
			time.Sleep(time.Minute)
			b.suspend(4 * time.Second) // clocks differ a little
		}
		if events := b.happened(); len(events) != 0 {
			t.Errorf("events are %v", events)
		}
	})
}

// The network of before the suspend is not that of after it. What a server has said
// is.
func TestSuspendForgetsBackOffs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fails bool
		code  string
	}{
		{"server error", false, ""},
		{"invalid_client", true, "invalid_client"},
		{"429", true, "429"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.text())
				b.put(t, "living", b.textOf(b.other))
				b.other.always(grants(time.Hour))
				b.get(t, broker.Request{Profile: "living"})
				switch test.code {
				case "":
					b.front.always(says(500, nil))
				case "429":
					b.front.always(says(429, nil, "Retry-After", "3600"))
				default:
					b.front.always(refuses(test.code))
				}
				var left time.Duration
				for range 9 {
					_, err := b.Token(t.Context(), plain)
					if left = retryAfter(t, err); test.code != "" {
						break
					}
					time.Sleep(left)
				}
				_, err := b.Token(t.Context(), plain)
				if left = retryAfter(t, err); left < 4*time.Minute {
					t.Fatalf("asked again after %v", left)
				}
				b.front.always(grants(time.Hour))
				b.suspend(10 * time.Second)
				time.Sleep(31 * time.Second)
				token, err := b.Token(t.Context(), plain)
				if (err != nil) != test.fails {
					t.Errorf("got %v, %v", token, err)
				}
			})
		})
	}
}

// The machine sleeps while a request waits for its turn: all that it was made of is
// looked at again before it is sent.
func TestSuspendBeforeTheRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.interactive())
		b.login(t, "dev/network")
		resolved := 0
		b.changes = func(c *broker.Config) {
			c.RateLimit = 1
			c.Resolve = func(context.Context, []profile.External) (map[string]string, error) {
				resolved++
				return map[string]string{}, nil
			}
		}
		b.restart()
		b.get(t, plain)
		b.front.times()
		resolved = 0
		asked := b.asking(t, scoped("read"))
		time.Sleep(time.Second / 2)
		b.suspend(time.Hour)
		if err := <-asked; err != nil {
			t.Error(err)
		}
		b.wantSent(t, 1)
		if resolved != 2 {
			t.Errorf("values were resolved %d times", resolved)
		}
		if got := b.atOnce(t, scoped("read")); got.Remaining < 590*time.Second {
			t.Errorf("got %v", got)
		}
		if l := b.server.Ledger("client"); l.Spent != 2 || l.SpentTwice != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// It sleeps between request and answer: what has ended meanwhile is not given out,
// and what has not counts from when it was asked for.
func TestSuspendBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		asleep   time.Duration
		requests int
		left     time.Duration
	}{
		{5 * time.Minute, 1, 5 * time.Minute},
		{time.Hour, 2, 10 * time.Minute},
	} {
		t.Run(test.asleep.String(), func(t *testing.T) {
			w := newWorld(t)
			w.put(t, "dev/network", w.text())
			w.server.AnyClient().Then(hanging)
			type result struct {
				token broker.Token
				err   error
			}
			got := make(chan result, 1)
			go func() {
				token, err := w.Token(t.Context(), plain)
				got <- result{token, err}
			}()
			if err := w.server.Await(t.Context(), "/token", 1); err != nil {
				t.Fatal(err)
			}
			w.sleep(test.asleep)
			w.server.Release()
			if r := <-got; r.err != nil || r.token.Remaining != test.left {
				t.Errorf("got %v, %v", r.token, r.err)
			}
			w.wantRequests(t, test.requests)
		})
	}
}

// Watchers get the new token, and not the one that died in its sleep.
func TestSuspendOfAWatch(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(10 * time.Minute))
		w := b.watch(t, plain, nil)
		first := w.next(t)
		b.suspend(time.Hour)
		time.Sleep(31 * time.Second)
		seen := w.sights()
		if len(seen) != 1 || seen[0].err != nil || seen[0].token.Access == first.token.Access || seen[0].token.Remaining != 10*time.Minute {
			t.Errorf("sent %v", seen)
		}
		w.end(t)
		b.wantSent(t, 2)
	})
}

// What is said of a token that lives is said in the time of day of the person who
// reads it.
func TestGoodUntil(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(10 * time.Minute))
		b.get(t, plain)
		b.front.always(says(500, nil))
		b.suspend(5 * time.Minute)
		time.Sleep(4*time.Minute + 55*time.Second)
		want := "; good until " + time.Now().Add(5*time.Second).Format("15:04:05")
		if got := b.get(t, plain); !strings.HasSuffix(got.Warning, want) {
			t.Errorf("the warning is %q, want %q at its end", got.Warning, want)
		}
	})
}
