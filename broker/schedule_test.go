package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokend/broker"
	"tokend/profile"
	"tokend/store"
	"tokend/test/authserver"
)

// Each token is renewed once, between 80 and 90 % of its life, at a time of its
// own, and before anybody would have to wait.
func TestRenewalTimes(t *testing.T) {
	t.Parallel()
	const tokens = 30
	for _, test := range []struct{ life, first, last time.Duration }{
		{24 * time.Hour, 24 * time.Hour * 8 / 10, 24 * time.Hour * 9 / 10},
		{600 * time.Second, 480 * time.Second, 540 * time.Second},
		{300 * time.Second, 240 * time.Second, 255 * time.Second},
		{60 * time.Second, 48 * time.Second, 51 * time.Second},
		{10 * time.Second, 8 * time.Second, 8500 * time.Millisecond},
	} {
		t.Run(test.life.String(), func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.changes = func(c *broker.Config) { c.RateLimit = 1e6 }
				b.restart()
				b.put(t, "dev/network", b.text())
				b.front.always(grants(test.life))
				begin := b.clock()
				first := make(map[string]broker.Token)
				for i := range tokens {
					first[fmt.Sprint(i)] = b.get(t, scoped(fmt.Sprint(i)))
				}
				if n := len(b.front.times()); n != tokens {
					t.Fatalf("%d requests", n)
				}
				time.Sleep(test.last + time.Millisecond)
				at := b.front.times()
				early, late := 0, 0
				third := (test.last - test.first) / 3
				for _, at := range at {
					age := at - begin
					if age < test.first || age > test.last {
						t.Errorf("renewed after %v of %v", age, test.life)
					}
					if age < test.first+third {
						early++
					}
					if age > test.last-third {
						late++
					}
				}
				if len(at) != tokens || distinct(at) < tokens*9/10 || early == 0 || late == 0 {
					t.Errorf("%d renewals at %d times, %d of them early, %d late", len(at), distinct(at), early, late)
				}
				for scope, token := range first {
					if b.atOnce(t, scoped(scope)).Access == token.Access {
						t.Errorf("%s has the old token", scope)
					}
				}
			})
		})
	}
}

// The profile says when.
func TestRenewAt(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text("OAUTH2_RENEW_AT=0.5"))
		b.front.always(grants(1000 * time.Second))
		begin := b.clock()
		b.get(t, plain)
		b.front.times()
		time.Sleep(550*time.Second + time.Millisecond)
		if at := b.front.times(); len(at) != 1 || at[0]-begin < 450*time.Second {
			t.Errorf("renewed at %v", at)
		}
	})
}

// A token that nobody has asked for since it was made is left alone; who then asks
// gets it while it lives, at once, and has it renewed.
func TestIdleTokenIsNotRenewed(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(600 * time.Second))
		first := b.get(t, plain)
		b.front.times()
		time.Sleep(540*time.Second + time.Millisecond)
		at := b.front.times()
		if len(at) != 1 {
			t.Fatalf("renewed %d times, want once", len(at))
		}
		time.Sleep(at[0] + 560*time.Second - b.clock())
		b.wantTimes(t, 0)
		for range 3 { // also if more than one asks
			if old := b.atOnce(t, plain); old.Access == first.Access || old.Remaining != 40*time.Second || old.Degraded {
				t.Errorf("got %v", old)
			}
		}
		asked := b.clock()
		time.Sleep(time.Second)
		b.wantTimes(t, asked, 0)
		if next := b.atOnce(t, plain); next.Remaining != 599*time.Second {
			t.Errorf("got %v", next)
		}
		b.restart()
		b.get(t, plain)
		b.Close()
		b.front.times()
		time.Sleep(time.Hour)
		b.wantTimes(t, 0)
		b.Broker = broker.New(b.config())
		b.get(t, plain)
		b.front.times()
		time.Sleep(545 * time.Second)
		b.front.times()
		time.Sleep(10 * time.Hour)
		b.wantTimes(t, 0)
	})
}

// slowly makes every fetch take that long, as a command does that hangs, or until
// it is given up. n counts them.
func (b *bubble) slowly(d time.Duration, n *atomic.Int64) {
	b.changes = func(c *broker.Config) {
		c.Resolve = func(ctx context.Context, _ []profile.External) (map[string]string, error) {
			n.Add(1)
			select {
			case <-time.After(d):
				return map[string]string{}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	b.restart()
}

// Renewals take five seconds: nobody notices.
func TestSteadyCallersNeverWait(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{600 * time.Second, 60 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.text())
				b.front.always(grants(life))
				var fetches atomic.Int64
				b.slowly(2*time.Second, &fetches)
				b.get(t, plain)
				for end := b.clock() + 10*life; b.clock() < end; time.Sleep(time.Second) {
					if token := b.atOnce(t, plain); token.Remaining <= 0 || token.Degraded {
						t.Fatalf("got %v", token)
					}
				}
				if n := fetches.Load(); n < 11 || n > 14 {
					t.Errorf("%d fetches for ten lives", n)
				}
			})
		})
	}
}

// Nothing comes of renewals any more: who asks does not wait as long as the token
// has enough left, and then for a second for each attempt, once.
func TestProviderHangs(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(600 * time.Second))
		// The broker knows only that values do not come.
		var fetches atomic.Int64
		hang := make(chan struct{})
		b.changes = func(c *broker.Config) {
			old := c.Resolve
			c.Resolve = func(ctx context.Context, e []profile.External) (map[string]string, error) {
				if fetches.Add(1) == 1 {
					return old(ctx, e)
				}
				select {
				case <-hang:
				case <-ctx.Done():
				}
				return nil, ctx.Err()
			}
		}
		b.restart()
		begin := b.clock()
		first := b.get(t, plain)
		var waits int
		attempts := fetches.Load()
		for b.clock() < begin+600*time.Second {
			before := time.Now()
			token, err := b.Token(t.Context(), plain)
			took := time.Since(before)
			left := begin + 600*time.Second - b.clock()
			if left <= 0 {
				break
			}
			if err != nil || token.Access != first.Access || token.Remaining != left {
				t.Fatalf("with %v left got %v, %v", left, token, err)
			}
			switch {
			case left+took >= 30*time.Second && took != 0:
				t.Errorf("with %v left it took %v", left, took)
			case took > time.Second:
				t.Errorf("with %v left it took %v", left, took)
			case took > 0:
				waits++
			}
			if left < 30*time.Second && (!token.Degraded || token.Err == nil) {
				t.Errorf("with %v left got %v", left, token)
			}
			time.Sleep(250 * time.Millisecond)
		}
		if n := int(fetches.Load() - attempts); waits > n || waits > 3 || n > 5 {
			t.Errorf("waited %d times for %d attempts", waits, n)
		}
	})
}

// The same with a server, and real time: who has a living token waits for a second.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	first := w.get(t, plain)
	w.server.AnyClient().Then(hanging)
	w.sleep(580 * time.Second)
	for i, want := range []time.Duration{time.Second, 0} {
		before := time.Now()
		got := w.get(t, plain)
		took := time.Since(before)
		if took < want || took > want+5*time.Second {
			t.Errorf("%d: it took %v", i, took)
		}
		if got.Access != first.Access || !got.Degraded || got.Err == nil || got.Err.Error() != "the provider has not answered yet (context deadline exceeded)" {
			t.Errorf("%d: got %v", i, got)
		}
	}
	// Whoever insists waits as long as it takes.
	newer := make(chan broker.Token)
	go func() {
		token, err := w.Token(t.Context(), broker.Request{Profile: "dev/network", MinValid: time.Minute})
		if err != nil {
			t.Error(err)
		}
		newer <- token
	}()
	w.server.Release()
	if next := <-newer; next.Access == first.Access || next.Degraded {
		t.Errorf("got %v", next)
	}
	if next := w.get(t, plain); next.Access == first.Access || next.Degraded {
		t.Errorf("got %v", next)
	}
	w.wantRequests(t, 2)
}

// A provider that gives the same token until it ends.
func TestSameTokenAgain(t *testing.T) {
	t.Parallel()
	const life = 600 * time.Second
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		begin := b.clock()
		b.front.always(func(w http.ResponseWriter, r *http.Request) {
			age := time.Duration(b.front.clock.Load()) - begin
			generation := age / life
			says(http.StatusOK, map[string]any{
				"access_token": fmt.Sprint("generation-", int(generation)), "token_type": "Bearer",
				"expires_in": json.Number(fmt.Sprintf("%.3f", ((generation+1)*life - age).Seconds())),
			})(w, r)
		})
		b.get(t, plain)
		for b.clock() < begin+3*life {
			before := b.clock()
			token, err := b.Token(t.Context(), plain)
			if err != nil {
				t.Fatalf("after %v: %v", before-begin, err)
			}
			age := before - begin
			left := (age/life+1)*life - age
			if token.Access.Reveal() != fmt.Sprint("generation-", int(age/life)) && left > time.Second {
				t.Fatalf("after %v got %s", age, token.Access.Reveal())
			}
			if left > 31*time.Second && (token.Degraded || token.Warning != "" || token.Err != nil) {
				t.Fatalf("with %v left got %v", left, token)
			}
			if took := b.clock() - before; took > time.Second || took > 0 && left > 31*time.Second {
				t.Errorf("with %v left it took %v", left, took)
			}
			time.Sleep(250 * time.Millisecond)
		}
		if n := len(b.front.times()); n < 6 || n > 3*16 {
			t.Errorf("%d requests in three lives", n)
		}
	})
}

// Somebody asks all the time, and there is nothing to hand out.
func TestBackOff(t *testing.T) {
	t.Parallel()
	until := func(t *testing.T, b *bubble, end, longest time.Duration) {
		t.Helper()
		begin := b.clock()
		var jitters []time.Duration
		for wait := time.Second; b.clock() < begin+end; wait = min(2*wait, longest) {
			_, err := b.Token(t.Context(), plain)
			left := retryAfter(t, err)
			if left < wait || left > wait+wait/2 {
				t.Fatalf("after %v: asked again after %v, want %v: %v", b.clock()-begin, left, wait, err)
			}
			jitters = append(jitters, left*1000/wait)
			// Nothing is sent before.
			n := len(b.front.times())
			time.Sleep(left - 1)
			if _, err := b.Token(t.Context(), plain); retryAfter(t, err) != 1 {
				t.Errorf("error is %v", err)
			}
			if now := len(b.front.times()); n > 1 || now != 0 {
				t.Errorf("%d requests, then %d", n, now)
			}
			time.Sleep(time.Nanosecond)
		}
		if distinct(jitters) < len(jitters)/2 {
			t.Errorf("all wait the same: %v", jitters)
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"500":        says(http.StatusInternalServerError, nil),
		"no answer":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"not OAuth":  says(http.StatusOK, nil, "Content-Type", "text/html"),
		"temporary":  says(http.StatusBadRequest, map[string]any{"error": "temporarily_unavailable"}),
		"503":        says(http.StatusServiceUnavailable, nil),
		"odd answer": says(http.StatusOK, map[string]any{"access_token": "a", "token_type": "mac"}),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.text())
				b.front.always(answer)
				until(t, b, 30*time.Minute, 5*time.Minute)
			})
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
			b.put(t, "dev/network", "OAUTH2_TOKEN_URL=http://127.0.0.1:1/token\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
			until(t, b, 10*time.Minute, 30*time.Second)
		})
	})
}

// SPEC: 500 for ten minutes is at most ten requests, with a living token or not,
// and the token is handed out to its end.
func TestServerErrorForTenMinutes(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(600 * time.Second))
		first := b.get(t, plain)
		b.front.always(says(http.StatusInternalServerError, nil))
		b.front.times()
		failed := 0
		for range 600 {
			if token := b.atOnce(t, plain); token.Access != first.Access {
				t.Fatalf("got %v", token)
			} else if token.Degraded {
				failed++
			}
			time.Sleep(time.Second - 1)
		}
		// The renewal came at 540 s at the latest.
		if failed < 55 {
			t.Errorf("%d callers were told", failed)
		}
		n := len(b.front.times())
		begin := b.clock()
		time.Sleep(time.Second)
		for b.clock() < begin+600*time.Second {
			if _, err := b.Token(t.Context(), plain); retryAfter(t, err) <= 0 {
				t.Errorf("error is %v", err)
			}
			time.Sleep(time.Second)
		}
		if after := len(b.front.times()); n == 0 || n+after > 12 || after > 10 {
			t.Errorf("%d requests while the token lived, %d in the ten minutes after", n, after)
		}
		// And then all is well at once.
		b.front.always(grants(600 * time.Second))
		time.Sleep(8 * time.Minute)
		if token := b.get(t, plain); token.Degraded || token.Err != nil || token.Warning != "" {
			t.Errorf("got %v", token)
		}
	})
}

// every is a store in which each name has the one text, which is not decrypted
// each time.
type every struct {
	store.Store
	text    []byte
	version store.Version
}

func (e *every) Stat(context.Context, string) (store.Version, error) { return e.version, nil }

func (e *every) Get(context.Context, string) ([]byte, store.Version, error) {
	return e.text, e.version, nil
}

// everywhere makes text every profile's, for a new broker.
func (b *bubble) everywhere(text string) {
	e := &every{b.store, []byte(text), "the one"}
	b.changes = func(c *broker.Config) { c.Profiles = e }
	b.restart()
}

// A thousand profiles with one lifetime, of one server: their renewals come at most
// at half the rate that the server gets, and leave the other half to who waits.
func TestThousandProfiles(t *testing.T) {
	t.Parallel()
	const profiles = 1000
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.everywhere(b.text())
		b.front.always(grants(1200 * time.Second))
		begin := b.clock()
		var all sync.WaitGroup
		for half := range 2 {
			for i := range profiles / 2 {
				all.Go(func() {
					if _, err := b.Token(t.Context(), broker.Request{Profile: fmt.Sprint("p", half*profiles/2+i)}); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		made := b.front.times()
		wantRate(t, made, 20, 10)
		if len(made) != profiles {
			t.Fatalf("%d requests", len(made))
		}
		// While they are renewed, somebody asks for something new.
		time.Sleep(begin + 1040*time.Second - b.clock())
		before := time.Now()
		b.get(t, broker.Request{Profile: "p1", Scopes: []string{"new"}})
		if took := time.Since(before); took > 200*time.Millisecond {
			t.Errorf("who asked in the middle of it waited for %v", took)
		}
		time.Sleep(begin + 1145*time.Second - b.clock())
		at := b.front.times()
		if len(at) != profiles+1 {
			t.Errorf("%d renewals", len(at))
		}
		wantRate(t, at, 10, 2) // one of the two is not in the background
	})
}

// However much is due, nobody's renewals get more than half the rate.
func TestBackgroundLimit(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.changes = func(c *broker.Config) { c.RateLimit = 4 }
		b.restart()
		b.put(t, "dev/network", b.text())
		b.front.always(grants(100 * time.Second))
		for i := range 16 {
			b.get(t, scoped(fmt.Sprint(i)))
		}
		b.front.times()
		time.Sleep(82 * time.Second)
		begin := b.clock()
		b.get(t, scoped("new"))
		if took := b.clock() - begin; took > 300*time.Millisecond {
			t.Errorf("who asked in the middle of it waited for %v", took)
		}
		time.Sleep(15 * time.Second)
		at := b.front.times()
		if len(at) != 17 {
			t.Errorf("%d requests", len(at))
		}
		wantRate(t, at, 2, 1) // the new one
	})
}

// wantRate checks that no window has more than so many a second, and burst more.
func wantRate(t *testing.T, at []time.Duration, perSecond, burst int) {
	t.Helper()
	for i := range at {
		for j := i + 1; j < len(at); j++ {
			if most := int((at[j]-at[i]).Seconds()*float64(perSecond)+0.001) + burst + 1; j-i+1 > most {
				t.Fatalf("%d requests within %v, want at most %d", j-i+1, at[j]-at[i], most)
			}
		}
	}
}

// Renewals end with the Broker, whatever they are at.
func TestCloseDuringRenewals(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret, Opaque: true}}})
	h.put(t, "dev/network", h.text())
	h.server.AnyClient().Always(lifetime(1))
	for i := range 20 {
		h.get(t, scoped(fmt.Sprint(i)))
	}
	h.server.AnyClient().Always(hanging)
	n := h.requests()
	h.sleep(900 * time.Millisecond)
	h.await(t, "/token", n+1)
	h.Close()
	if h.Cached() > 20 {
		t.Error("tokens came after the end")
	}
	h.server.Release()
}

// What is forgotten while it is renewed is not there again afterwards.
func TestForgottenDuringARenewal(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(*testing.T, *house){
		"forget": func(_ *testing.T, h *house) { h.Forget("dev/network") },
		"drop":   func(_ *testing.T, h *house) { h.Drop() },
		"logout": func(t *testing.T, h *house) {
			if _, err := h.Revoke(t.Context(), "dev/network"); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, authserver.Config{Lifetime: time.Second, Clients: []authserver.Client{{ID: "client", Secret: secret, Opaque: true}}})
			f := newFront(t, h.server, &h.now)
			h.put(t, "dev/network", "OAUTH2_TOKEN_URL="+f.url+"/token\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
			h.get(t, plain)
			arrived, release := f.held(t, grants(time.Hour))
			h.sleep(900 * time.Millisecond)
			<-arrived // without anybody waiting for it
			forget(t, h)
			release()
			h.Close() // waits for it
			if n := h.Cached(); n != 0 {
				t.Errorf("%d tokens cached", n)
			}
		})
	}
}

// All at once, for the race detector; and whoever gets a token gets one that lives.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret, Opaque: true, RefreshAlways: true}}})
	f := newFront(t, h.server, &h.now)
	began := time.Now()
	h.Close()
	c := h.config()
	// A minute goes by in a tenth of a second.
	now := func() time.Duration { return time.Hour + 600*time.Since(began) }
	c.Now = now
	h.Broker = broker.New(c)
	text := func(more ...string) string {
		return h.interactive(append(more, "OAUTH2_TOKEN_URL="+f.url+"/token")...)
	}
	names := []string{"a", "b", "c"}
	for _, name := range names {
		h.put(t, name, text())
		h.login(t, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i, name := range names {
		for range 2 {
			all.Go(func() {
				_ = h.Watch(ctx, broker.Request{Profile: name}, func(token broker.Token, err error) error {
					if err == nil && token.Remaining < 0 {
						t.Errorf("sent %v", token)
					}
					return nil
				})
			})
		}
		for j := range 4 {
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					r := broker.Request{Profile: name, Force: n%7 == 0, BestEffort: n%3 == 0}
					if n%2 == 0 {
						r.Scopes = []string{fmt.Sprint(n % 3)}
					}
					token, err := h.Token(ctx, r)
					if err == nil && (token.Access.IsZero() || token.Remaining < 0) {
						t.Errorf("got %v", token)
					}
					switch {
					case n%11 == j:
						_, _ = h.Report(ctx, name, broker.Report{Fingerprint: fingerprint(token), Status: 401})
					case n%13 == j:
						h.Forget(name)
					case n%17 == j:
						_, _ = h.Reset(ctx, name)
					case n%19 == j:
						h.Standings()
						h.Cached()
						h.Unsaved()
					case n%53 == 7+i:
						h.Drop()
					}
				}
			})
		}
	}
	all.Go(func() {
		answers := []http.HandlerFunc{nil, says(500, nil), nil, refuses("invalid_scope"), nil, says(429, nil, "Retry-After", "1"), nil, refuses("invalid_client"), nil,
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}
		for n := 0; ctx.Err() == nil; n++ {
			f.always(answers[n%len(answers)])
			select {
			case <-time.After(30 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	<-time.After(900 * time.Millisecond)
	cancel()
	all.Wait()
	f.always(nil)
	for _, name := range names {
		if _, err := h.Reset(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		h.login(t, name)
		if token := h.get(t, broker.Request{Profile: name}); token.Remaining <= 0 {
			t.Errorf("got %v", token)
		}
	}
	h.Close()
	if l := h.server.Ledger("client"); l.SpentTwice > 0 && l.Spent < 3 {
		t.Errorf("%+v", l)
	}
}

// looking is a store with a test's hand in the next reading.
type looking struct {
	store.Store
	mu   sync.Mutex
	look func() // nil: none
}

func (l *looking) next(look func()) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.look
	l.look = look
	return before
}

func (l *looking) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	if look := l.next(nil); look != nil {
		look()
	}
	return l.Store.Get(ctx, name)
}

// A renewal that cannot even begin is not the last.
func TestRenewalThatCannotBegin(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(*bubble, *looking) // before it is due, and after
		end   func(*bubble)
	}{
		"locked": {func(b *bubble, _ *looking) { b.store.Lock() }, func(b *bubble) { b.unlock[0]() }},
		"asleep": {func(b *bubble, l *looking) { l.next(func() { b.suspend(40 * time.Second) }) }, func(*bubble) {}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				l := &looking{Store: b.disk}
				b.changes = func(c *broker.Config) { c.Sessions = l }
				b.restart()
				b.put(t, "dev/network", b.text())
				b.front.always(grants(time.Hour)) // renewed after 48 to 54 minutes
				first := b.get(t, plain)
				time.Sleep(47 * time.Minute)
				b.front.times()
				test.begin(b, l)
				time.Sleep(8 * time.Minute)
				test.end(b)
				time.Sleep(10 * time.Second)
				b.wantSent(t, 1)
				if got := b.atOnce(t, plain); got.Access == first.Access || got.Degraded {
					t.Errorf("got %v", got)
				}
			})
		})
	}
}
