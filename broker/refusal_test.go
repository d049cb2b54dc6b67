package broker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
)

// crowd has n callers ask at once, each for scopes of its own, and checks that all
// are told the same, and how soon they may ask again.
func (b *bubble) crowd(t *testing.T, n int, code string, left time.Duration) {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	wrong := make(map[string]int)
	for i := range n {
		all.Go(func() {
			_, err := b.Token(t.Context(), scoped(fmt.Sprint("s", i)))
			var refused *broker.RefusedError
			var answer *oauth.Error
			if errors.As(err, &refused) && errors.As(err, &answer) && answer.Code == code && refused.RetryAfter == left {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			what := fmt.Sprint(err)
			if refused != nil {
				what += fmt.Sprint(", for ", refused.RetryAfter)
			}
			wrong[what]++
		})
	}
	all.Wait()
	for what, n := range wrong {
		t.Errorf("%d callers got %s, want %q for %v", n, what, code, left)
	}
}

// wantSent checks how many requests came since the last look.
func (b *bubble) wantSent(t *testing.T, n int) {
	t.Helper()
	if got := len(b.front.times()); got != n {
		t.Errorf("%d requests, want %d", got, n)
	}
}

// However many ask, for whatever, and over restarts: of a client that is refused
// the server hears once in 15 minutes, then after 30, and so on to once a day.
func TestInvalidClientUnderACrowd(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"invalid_client", "unauthorized_client", ""} {
		t.Run(code, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.everywhere(b.text())
				b.front.always(refuses(code))
				n, longest := 10, time.Hour
				if code == "invalid_client" {
					n, longest = 1000, 48*time.Hour
				}
				begin := b.clock()
				b.crowd(t, n, code, 15*time.Minute)
				b.wantTimes(t, begin, 0)
				for wait := 15 * time.Minute; wait < longest; wait *= 2 {
					wait := min(wait, 24*time.Hour)
					time.Sleep(wait/3 - time.Second)
					b.crowd(t, 5, code, wait-wait/3+time.Second)
					b.restart()
					time.Sleep(time.Second)
					b.crowd(t, min(n, 200), code, wait-wait/3)
					b.restart()
					time.Sleep(wait - wait/3 - time.Second)
					b.crowd(t, 5, code, time.Second)
					b.wantSent(t, 0)
					time.Sleep(time.Second)
					n = 10
					b.crowd(t, n, code, min(2*wait, 24*time.Hour))
					b.wantSent(t, 1)
				}
			})
		})
	}
}

// What is refused of one request stands for that one, and is asked again after a
// minute, two, and so on to a day.
func TestRefusedRequest(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"invalid_scope", "invalid_target", "invalid_request", "unsupported_grant_type"} {
		t.Run(code, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.text())
				b.front.always(refuses(code))
				end, next := 5*time.Minute, time.Minute
				if code == "invalid_scope" {
					end = 48 * time.Hour
				}
				for ; next < end; next *= 2 {
					wait := min(next, 24*time.Hour)
					b.crowd(t, 1, code, wait)
					b.wantSent(t, 1)
					b.restart()
					time.Sleep(wait - time.Second)
					b.crowd(t, 1, code, time.Second)
					b.wantSent(t, 0)
					time.Sleep(time.Second)
				}
				// Others have their own.
				b.crowd(t, 1, code, min(next, 24*time.Hour))
				b.front.times()
				for _, r := range []broker.Request{plain, scoped("t"), {Profile: "dev/network", Scopes: []string{"s0"}, Audience: "a"}, {Profile: "dev/network", Scopes: []string{"s0"}, Resource: "https://r.example"}} {
					b.wantRefused(t, r, http.StatusBadRequest, time.Minute)
					b.wantLeft(t, r, time.Minute)
					b.wantSent(t, 1)
				}
				b.front.always(grants(time.Hour))
				b.get(t, scoped("u"))
				b.restart()
				b.wantLeft(t, scoped("t"), time.Minute)
				b.wantSent(t, 1)
			})
		})
	}
}

// Nobody remembers without end what callers choose.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(refuses("invalid_scope"))
		for i := range 20 {
			b.wantRefused(t, scoped(fmt.Sprint(i)), http.StatusBadRequest, time.Minute)
		}
		if list := b.record(t, "dev/network")["refusals"].([]any); len(list) > 16 {
			t.Errorf("%d are written", len(list))
		}
	})
}

// What is refused of an assertion, or of a token that is to be exchanged.
func TestInvalidGrantOfAnAssertion(t *testing.T) {
	t.Parallel()
	private, _ := signingKey(t)
	for name, text := range map[string][]string{
		"assertion": {"OAUTH2_GRANT", "jwt_bearer", "CLIENT_ID", "service", "PRIVATE_KEY", private},
		"exchange":  {"OAUTH2_GRANT", "token_exchange", "CLIENT_ID", "client", "CLIENT_SECRET", secret, "OAUTH2_SUBJECT_TOKEN", "subject"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", lines(append(text, "OAUTH2_TOKEN_URL", b.front.url+"/token")...))
				b.front.always(refuses("invalid_grant"))
				for wait := time.Minute; wait < 48*time.Hour; wait *= 2 {
					wait := min(wait, 24*time.Hour)
					b.crowd(t, 5, "invalid_grant", wait)
					b.wantSent(t, 1)
					b.restart()
					time.Sleep(wait - time.Second)
					b.crowd(t, 2, "invalid_grant", time.Second)
					b.wantSent(t, 0)
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// Another token may be taken in exchange where one was refused.
func TestNewSubjectTokenReopens(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "subject", b.textOf(b.other))
		b.other.always(grants(30 * time.Second))
		text := lines("OAUTH2_GRANT", "token_exchange", "CLIENT_ID", "client", "CLIENT_SECRET", secret,
			"OAUTH2_SUBJECT_TOKEN_PROFILE", "subject", "OAUTH2_TOKEN_URL", b.front.url+"/token")
		b.put(t, "dev/network", text)
		b.front.always(refuses("invalid_grant"))
		b.wantRefused(t, plain, http.StatusBadRequest, time.Minute)
		b.restart() // the subject has another token now
		b.wantRefused(t, plain, http.StatusBadRequest, time.Minute)
		b.wantSent(t, 2)
		b.wantLeft(t, plain, time.Minute)
		// But a client that is refused is refused with any.
		b.restart()
		b.front.always(refuses("invalid_client"))
		b.wantRefused(t, plain, http.StatusUnauthorized, 15*time.Minute)
		b.restart()
		b.wantLeft(t, plain, 15*time.Minute)
		b.wantSent(t, 1)
		// Nor does a crowd that asks for different things find that out one by one.
		b.put(t, "dev/network", text+"# another\n")
		b.crowd(t, 50, "invalid_client", 15*time.Minute)
		b.wantSent(t, 1)
	})
}

// What was refused may be granted once something has changed.
func TestRefusalIsReopened(t *testing.T) {
	t.Parallel()
	value := "first"
	text := func(b *bubble, more string) string {
		return lines("OAUTH2_TOKEN_URL", b.front.url+"/token", "CLIENT_ID", "client", "CLIENT_SECRET_FILE", "/somewhere") + more
	}
	for _, test := range []struct {
		name string
		do   func(*testing.T, *bubble)
		open bool
	}{
		{"nothing", func(*testing.T, *bubble) {}, false},
		{"text", func(t *testing.T, b *bubble) { b.put(t, "dev/network", text(b, "# changed\n")) }, true},
		{"value", func(_ *testing.T, b *bubble) { value = "second" }, true},
		{"reset", func(t *testing.T, b *bubble) {
			if reopened, err := b.Reset(t.Context(), "dev/network"); err != nil || !reopened {
				t.Errorf("reset: %t, %v", reopened, err)
			}
			if reopened, err := b.Reset(t.Context(), "dev/network"); err != nil || reopened {
				t.Errorf("reset again: %t, %v", reopened, err)
			}
		}, true},
		{"forget", func(_ *testing.T, b *bubble) { b.Forget("dev/network") }, false},
		{"drop", func(_ *testing.T, b *bubble) { b.Drop() }, false},
		{"another profile's reset", func(t *testing.T, b *bubble) {
			b.put(t, "other", b.text())
			if reopened, err := b.Reset(t.Context(), "other"); err != nil || reopened {
				t.Errorf("reset: %t, %v", reopened, err)
			}
		}, false},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted: %t", test.name, restarted), func(t *testing.T) {
				inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
					value = "first"
					b.values = func() (map[string]string, error) { return map[string]string{"CLIENT_SECRET": value}, nil }
					b.put(t, "dev/network", text(b, ""))
					b.front.always(refuses("invalid_client"))
					b.crowd(t, 3, "invalid_client", 15*time.Minute)
					b.wantSent(t, 1)
					test.do(t, b)
					if restarted {
						b.restart()
					}
					// A file is looked at every five seconds.
					time.Sleep(5 * time.Second)
					b.front.always(grants(time.Hour))
					if !test.open {
						b.crowd(t, 3, "invalid_client", 15*time.Minute-5*time.Second)
						b.wantSent(t, 0)
						return
					}
					b.get(t, plain)
					b.wantSent(t, 1)
					if r := b.record(t, "dev/network"); r != nil {
						t.Errorf("the record is %v", r)
					}
				})
			})
		}
	}
}

// Once it is granted nothing is left of a refusal, in memory or at rest, and the
// next one is a first one.
func TestSuccessForgetsRefusals(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(refuses("invalid_client"))
		b.crowd(t, 1, "invalid_client", 15*time.Minute)
		time.Sleep(15 * time.Minute)
		b.crowd(t, 1, "invalid_client", 30*time.Minute)
		time.Sleep(30 * time.Minute)
		b.front.always(grants(time.Hour))
		b.get(t, scoped("other"))
		if r := b.record(t, "dev/network"); r != nil {
			t.Errorf("the record is %v", r)
		}
		b.get(t, scoped("another"))
		b.front.always(refuses("invalid_client"))
		time.Sleep(time.Minute)
		// At once: each may have been sent before the other was answered.
		b.crowd(t, 2, "invalid_client", 15*time.Minute)
	})
}

// What cannot be written is remembered all the same, as long as the daemon runs.
func TestRefusalOnAFullDisk(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.disk.full(true)
		b.front.always(refuses("invalid_client"))
		b.crowd(t, 20, "invalid_client", 15*time.Minute)
		time.Sleep(14 * time.Minute)
		b.crowd(t, 20, "invalid_client", time.Minute)
		b.wantSent(t, 1)
		// It is no alarm: nothing is lost.
		if names := b.Unsaved(); len(names) != 0 {
			t.Errorf("unsaved: %q", names)
		}
		b.disk.full(false)
		b.front.always(grants(time.Minute))
		time.Sleep(time.Minute)
		b.get(t, plain)
	})
}

// shiftWall changes what a record says of the time of day when its refusals came
// and its access token was given, as if the clock had been set by d since.
func (b *bubble) shiftWall(t *testing.T, name string, d time.Duration) {
	t.Helper()
	data, version, err := b.sessions.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	shift := func(in map[string]any, name string) {
		wall, err := time.Parse(time.RFC3339Nano, in[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		in[name] = wall.Add(-d).Format(time.RFC3339Nano)
	}
	refusals, _ := record["refusals"].([]any)
	for _, r := range refusals {
		shift(r.(map[string]any)["at"].(map[string]any), "wall")
	}
	if access, ok := record["access"].(map[string]any); ok {
		shift(access["at"].(map[string]any), "wall")
		shift(access, "ends")
	}
	if data, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	if _, err := b.sessions.Put(t.Context(), name, data, version); err != nil {
		t.Fatal(err)
	}
}

// Within one boot it does not matter what somebody does to the clock; after
// another start of the machine that clock is all there is, and it can make the wait
// shorter, but no longer.
func TestRefusalAndTheClock(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		name  string
		shift time.Duration
		boot  string
		left  time.Duration // after five minutes
	}{
		{"as it was", 0, "this boot", 10 * time.Minute},
		{"a year ahead", year, "this boot", 10 * time.Minute},
		{"a year back", -year, "this boot", 10 * time.Minute},
		{"another boot", 0, "another boot", 10 * time.Minute},
		{"another boot, a year ahead", year, "another boot", 0},
		{"another boot, a year back", -year, "another boot", 15 * time.Minute},
		{"a minute back", -time.Minute, "another boot", 11 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.text())
				b.front.always(refuses("invalid_client"))
				b.crowd(t, 1, "invalid_client", 15*time.Minute)
				b.wantSent(t, 1)
				b.Close()
				time.Sleep(5 * time.Minute)
				b.shiftWall(t, "dev/network", test.shift)
				b.bootID = test.boot
				if test.boot != "this boot" {
					b.suspend(-b.clock() + time.Minute) // it counts from the start
				}
				b.Broker = broker.New(b.config())
				if test.left > 0 {
					b.crowd(t, 3, "invalid_client", test.left)
					time.Sleep(test.left - time.Second)
					b.crowd(t, 3, "invalid_client", time.Second)
					b.wantSent(t, 0)
					time.Sleep(time.Second)
				}
				b.crowd(t, 1, "invalid_client", 30*time.Minute)
				b.wantSent(t, 1)
			})
		})
	}
}

// A login is another try: what the server refused before says nothing of it.
func TestLoginForgetsRefusals(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.interactive())
		b.login(t, "dev/network")
		b.restart()
		b.front.always(refuses("invalid_client"))
		b.crowd(t, 3, "invalid_client", 15*time.Minute)
		b.front.always(nil)
		if b.record(t, "dev/network")["refusals"] == nil {
			t.Error("nothing is remembered")
		}
		token := b.login(t, "dev/network")
		if got := b.get(t, plain); got.Access != token.AccessToken {
			t.Errorf("got %v", got)
		}
		if r := b.record(t, "dev/network"); r["refusals"] != nil {
			t.Errorf("the record is %v", r)
		}
		b.restart()
		b.get(t, plain)
	})
}

// held makes the front keep its next request until release is called, and then give
// answer. Later ones get what was set before. arrived is closed once it is there.
func (f *front) held(t *testing.T, answer http.HandlerFunc) (arrived chan struct{}, release func()) {
	t.Helper()
	arrived = make(chan struct{})
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.answer
	f.answer = func(w http.ResponseWriter, r *http.Request) {
		f.always(before)
		close(arrived)
		<-gate
		answer(w, r)
	}
	return arrived, release
}

// asking asks in another goroutine.
func (w *world) asking(t *testing.T, r broker.Request) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.Token(t.Context(), r)
		done <- err
	}()
	return done
}

// Somebody logs in while an old request is under way that is then refused: that is
// of before.
func TestRefusalOfBeforeTheLogin(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"invalid_scope", "invalid_client", "invalid_grant"} {
		t.Run(code, func(t *testing.T) {
			h := newHouse(t, client(nil))
			f := newFront(t, h.server, &h.now)
			h.put(t, "dev/network", h.interactive("OAUTH2_TOKEN_URL="+f.url+"/token"))
			h.login(t, "dev/network")
			h.fresh()
			f.always(nil)
			ready, err := h.Prepare(t.Context(), "dev/network")
			if err != nil {
				t.Fatal(err)
			}
			token, err := ready.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials})
			if err != nil {
				t.Fatal(err)
			}
			arrived, release := f.held(t, refuses(code))
			old := h.asking(t, plain)
			<-arrived
			adopted := make(chan error, 1)
			go func() {
				_, err := h.Adopt(t.Context(), ready, nil, token)
				adopted <- err
			}()
			release()
			if err := <-adopted; err != nil {
				t.Fatal(err)
			}
			// Who asked then may have been given the new token, too.
			<-old
			if got := h.get(t, plain); got.Access != token.AccessToken {
				t.Errorf("got %v", got)
			}
			h.sleep(10 * time.Minute)
			if got := h.get(t, plain); got.Access == token.AccessToken || got.Degraded {
				t.Errorf("got %v", got)
			}
			if r := h.record(t, "dev/network"); r["refusals"] != nil || r["ended"] != nil {
				t.Errorf("the record is %v", r)
			}
		})
	}
}

// Somebody mends the text while an old request is under way that is then refused.
func TestRefusalOfAnOldText(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{})
	f := newFront(t, h.server, &h.now)
	text := func(more string) string {
		return "OAUTH2_TOKEN_URL=" + f.url + "/token\nCLIENT_ID=client\nCLIENT_SECRET=" + secret + "\n" + more
	}
	h.put(t, "dev/network", text(""))
	f.always(grants(time.Hour))
	arrived, release := f.held(t, refuses("invalid_client"))
	old := h.asking(t, plain)
	<-arrived
	h.put(t, "dev/network", text("# mended\n"))
	first := h.get(t, plain)
	release()
	if err := <-old; retryAfter(t, err) != 15*time.Minute {
		t.Errorf("error is %v", err)
	}
	if got := h.get(t, plain); got.Access != first.Access || got.Degraded {
		t.Errorf("got %v", got)
	}
	h.get(t, scoped("more"))
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("the record is %v", r)
	}
}

// A refusal keeps a living token in service, and says why there is no newer one.
func TestLivingTokenAfterARefusal(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Hour))
		first := b.get(t, plain)
		b.front.always(refuses("invalid_client"))
		time.Sleep(55 * time.Minute)
		host := strings.TrimPrefix(b.front.url, "http://")
		why := "asking " + host + " for a token: invalid_client (HTTP 401)"
		got := b.atOnce(t, plain)
		if got.Access != first.Access || !got.Degraded || got.Warning != "cannot renew it: "+why+"; good until 01:00:00" {
			t.Errorf("got %v", got)
		}
		var refused *broker.RefusedError
		if !errors.As(got.Err, &refused) || got.Err.Error() != why || refused.RetryAfter <= 0 || refused.RetryAfter >= 15*time.Minute {
			t.Errorf("the reason is %v: %+v", got.Err, refused)
		}
		b.front.times()
		time.Sleep(5*time.Minute - 1)
		if got := b.atOnce(t, plain); got.Remaining != 1 {
			t.Errorf("got %v", got)
		}
		time.Sleep(time.Nanosecond)
		if _, err := b.Token(t.Context(), plain); retryAfter(t, err) <= 0 {
			t.Errorf("error is %v", err)
		}
		b.wantSent(t, 0)
	})
}

// invalid_grant of a refresh token is for a person, who may also say that it is to
// be tried again.
func TestResetOfAnEndedSession(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.server.AnyClient().Then(authserver.Answer{Error: "invalid_grant"})
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
	h.restart()
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
	if reopened, err := h.Reset(t.Context(), "dev/network"); err != nil || !reopened {
		t.Errorf("reset: %t, %v", reopened, err)
	}
	h.get(t, plain)
	if _, err := h.Reset(t.Context(), "nobody"); err == nil {
		t.Error("reset of a profile that does not exist")
	}
}

// Who resets what is refused each time does not have the server asked all the time.
func TestResetTooSoon(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(refuses("invalid_client"))
		reset := func(want bool, left time.Duration) {
			t.Helper()
			reopened, err := b.Reset(t.Context(), "dev/network")
			var soon *broker.ThrottledError
			if reopened != want || errors.As(err, &soon) != (left > 0) || soon == nil && err != nil || soon != nil && soon.RetryAfter != left {
				t.Fatalf("reset: %t, %v: %+v; want %t, and %v left", reopened, err, soon, want, left)
			}
		}
		reset(false, 0) // there is nothing
		for round := range 5 {
			begin := b.clock()
			b.wantRefused(t, scoped(fmt.Sprint(round)), http.StatusUnauthorized, 15*time.Minute)
			b.wantTimes(t, begin, 0)
			if round > 0 {
				reset(false, 2*time.Second)
				time.Sleep(1500 * time.Millisecond)
				reset(false, 500*time.Millisecond)
				time.Sleep(500*time.Millisecond - 1)
				reset(false, 1)
				time.Sleep(time.Nanosecond)
			}
			reset(true, 0)
		}
	})
}
