package broker_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tokend/broker"
	"tokend/oauth"
	"tokend/store"
	"tokend/test/authserver"
)

func fingerprint(token broker.Token) string {
	sum := sha256.Sum256([]byte(token.Access.Reveal()))
	return hex.EncodeToString(sum[:16])
}

// reports401 reports dev/network's token as an API's 401 does.
func (w *world) reports401(t *testing.T, token broker.Token) broker.Reported {
	t.Helper()
	return w.report(t, broker.Report{Fingerprint: fingerprint(token), Status: 401,
		Challenges: oauth.ParseChallenges([]string{`Bearer error="invalid_token"`})})
}

func (w *world) report(t *testing.T, r broker.Report) broker.Reported {
	t.Helper()
	got, err := w.Report(t.Context(), "dev/network", r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// An API that repeats the token that it was sent puts it into nobody's hands.
func TestReportShowsNoToken(t *testing.T) {
	t.Parallel()
	for _, field := range []string{
		`Bearer error="insufficient_scope", scope="read %s"`, `Bearer error="%s"`, `%s realm="x"`,
	} {
		w := newWorld(t)
		w.put(t, "dev/network", w.text())
		token := w.get(t, plain)
		secret := token.Access.Reveal()
		if len(secret) > 32 {
			secret = secret[:32]
		}
		r := broker.Report{Fingerprint: fingerprint(token), Challenges: oauth.ParseChallenges([]string{fmt.Sprintf(field, secret)})}
		for _, fp := range []string{r.Fingerprint, "00000000000000000000000000000000"} {
			r.Fingerprint = fp
			if got := w.report(t, r); strings.Contains(strings.ToLower(fmt.Sprintf("%+v", got)), strings.ToLower(secret[:8])) {
				t.Errorf("%s: %+v", field, got)
			}
		}
	}
}

// What an API says, and what comes of it.
func TestReport(t *testing.T) {
	t.Parallel()
	const invalid = "the API calls it invalid (invalid_token); a new token is made"
	const noReason = "the API gave no reason; a new token is made"
	for _, test := range []struct {
		name   string
		status int
		field  string // WWW-Authenticate; "": none
		want   broker.Reported
	}{
		{"invalid_token", 401, `Bearer realm="x", error="invalid_token", error_description="it expired"`, broker.Reported{Outcome: broker.Evicted, Code: "invalid_token", Message: invalid}},
		{"of DPoP", 401, `DPoP error="invalid_token"`, broker.Reported{Outcome: broker.Evicted, Code: "invalid_token", Message: invalid}},
		{"of one of two", 401, `Basic realm="x", Bearer error="invalid_token"`, broker.Reported{Outcome: broker.Evicted, Code: "invalid_token", Message: invalid}},
		{"invalid_token, status not known", 0, `Bearer error="invalid_token"`, broker.Reported{Outcome: broker.Evicted, Code: "invalid_token", Message: invalid}},
		{"no reason", 401, `Bearer`, broker.Reported{Outcome: broker.Evicted, Message: noReason}},
		{"no reason, with a realm", 401, `Bearer realm="x"`, broker.Reported{Outcome: broker.Evicted, Message: noReason}},
		{"no challenge", 401, ``, broker.Reported{Outcome: broker.Evicted, Message: noReason}},
		{"no scope named", 403, `Bearer error="insufficient_scope"`, broker.Reported{Outcome: broker.Kept, Code: "insufficient_scope", Message: "the token stays: the API wants more scopes (insufficient_scope)"}},
		{"insufficient_scope", 403, `Bearer error="insufficient_scope", scope="write admin"`,
			broker.Reported{Outcome: broker.Kept, Code: "insufficient_scope", Scopes: []string{"write", "admin"}, Message: "the token stays: the API wants the scopes write admin (insufficient_scope)"}},
		{"insufficient_scope with 401", 401, `Bearer error="insufficient_scope", scope="write"`,
			broker.Reported{Outcome: broker.Kept, Code: "insufficient_scope", Scopes: []string{"write"}, Message: "the token stays: the API wants the scopes write (insufficient_scope)"}},
		{"scopes that are none", 403, "Bearer error=\"insufficient_scope\", scope=\"wr\\\"ite \u00e9 read\"",
			broker.Reported{Outcome: broker.Kept, Code: "insufficient_scope", Scopes: []string{"read"}, Message: "the token stays: the API wants the scopes read (insufficient_scope)"}},
		{"invalid_request", 400, `Bearer error="invalid_request"`, broker.Reported{Outcome: broker.Kept, Code: "invalid_request", Message: "the token stays: the API finds fault with the request, not with the token (invalid_request)"}},
		{"invalid_request with 401", 401, `Bearer error="invalid_request"`, broker.Reported{Outcome: broker.Kept, Code: "invalid_request", Message: "the token stays: the API finds fault with the request, not with the token (invalid_request)"}},
		{"nonce", 401, `DPoP error="use_dpop_nonce"`, broker.Reported{Outcome: broker.Kept, Code: "use_dpop_nonce", Message: "the token stays: the API wants another proof of possession (use_dpop_nonce)"}},
		{"proof", 401, `DPoP error="invalid_dpop_proof"`, broker.Reported{Outcome: broker.Kept, Code: "invalid_dpop_proof", Message: "the token stays: the API wants another proof of possession (invalid_dpop_proof)"}},
		{"step-up", 401, `Bearer error="insufficient_user_authentication"`, broker.Reported{Outcome: broker.Kept, Code: "insufficient_user_authentication", Message: "the token stays: the API wants the user to log in again, or more strongly (insufficient_user_authentication, RFC 9470)"}},
		{"Basic", 401, `Basic realm="x"`, broker.Reported{Outcome: broker.Kept, Message: "the token stays: the API asks for basic authentication, not for a token"}},
		{"Negotiate", 401, `Negotiate`, broker.Reported{Outcome: broker.Kept, Message: "the token stays: the API asks for negotiate authentication, not for a token"}},
		{"403", 403, ``, broker.Reported{Outcome: broker.Kept, Message: "the token stays: HTTP 403 says nothing against it"}},
		{"500", 500, ``, broker.Reported{Outcome: broker.Kept, Message: "the token stays: HTTP 500 says nothing against it"}},
		{"200", 200, ``, broker.Reported{Outcome: broker.Kept, Message: "the token stays: HTTP 200 says nothing against it"}},
		{"what cannot be shown", 403, `Bearer error="not one word"`, broker.Reported{Outcome: broker.Kept, Code: "unreadable", Message: "the token stays: HTTP 403 says nothing against it"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.put(t, "dev/network", w.text())
			first := w.get(t, plain)
			w.sleep(2 * time.Second)
			report := broker.Report{Fingerprint: fingerprint(first), Status: test.status}
			if test.field != "" {
				report.Challenges = oauth.ParseChallenges([]string{test.field})
			}
			if diff := cmp.Diff(test.want, w.report(t, report), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			next := w.get(t, plain)
			if kept := next.Access == first.Access; kept != (test.want.Outcome == broker.Kept) || next.Degraded {
				t.Errorf("after it got %v", next)
			}
		})
	}
}

// Only the token that is handed out now can be taken out of use.
func TestReportOfAnotherToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.put(t, "dev/other", w.text())
	superseded := broker.Reported{Outcome: broker.Superseded, Code: "invalid_token", Message: "it is not the token that is handed out now"}
	check := func(token broker.Token) {
		t.Helper()
		if diff := cmp.Diff(superseded, w.reports401(t, token)); diff != "" {
			t.Error(diff)
		}
	}
	other := w.get(t, broker.Request{Profile: "dev/other"})
	check(other) // there is none yet
	first := w.get(t, plain)
	check(other)
	if got := w.reports401(t, first); got.Outcome != broker.Evicted {
		t.Errorf("got %+v", got)
	}
	check(first)
	w.sleep(time.Minute)
	second := w.get(t, plain)
	check(first)
	if got := w.get(t, plain); got.Access != second.Access {
		t.Error("a report of an old token has taken the new one out of use")
	}
	w.sleep(600 * time.Second)
	check(second) // it has ended
	// Of several, the one that is meant.
	a, b := w.get(t, plain), w.get(t, scoped("b"))
	if got := w.reports401(t, b); got.Outcome != broker.Evicted {
		t.Errorf("got %+v", got)
	}
	if w.get(t, plain).Access != a.Access || w.get(t, scoped("b")).Access == b.Access || w.get(t, broker.Request{Profile: "dev/other"}).Access == other.Access {
		t.Error("another token was taken out of use")
	}
	if _, err := w.Report(t.Context(), "nobody", broker.Report{}); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

// An API that refuses whatever is made: less and less often, up to every five
// minutes, and every five seconds again once it has been good for a while.
func TestReportTooSoon(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Hour))
		evict := func() {
			t.Helper()
			if got := b.reports401(t, b.get(t, plain)); got.Outcome != broker.Evicted || got.RetryAfter != 0 {
				t.Fatalf("got %+v", got)
			}
		}
		var gaps []int
		evict()
		for range 10 {
			evicted := b.clock()
			next := b.get(t, plain) // made at once, or a second after the last
			want := broker.Reported{Outcome: broker.TooSoon, Code: "invalid_token",
				Message: "the API refuses a token that was made moments ago, too: check the API's address, and what the token is for"}
			got := b.reports401(t, next)
			want.RetryAfter = got.RetryAfter
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if again := b.atOnce(t, plain); again.Access != next.Access {
				t.Error("it was taken out of use all the same")
			}
			gaps = append(gaps, int((b.clock() + got.RetryAfter - evicted).Seconds()))
			time.Sleep(got.RetryAfter - 1)
			if got := b.reports401(t, next); got.Outcome != broker.TooSoon || got.RetryAfter != 1 {
				t.Errorf("got %+v", got)
			}
			time.Sleep(time.Nanosecond)
			if b.clock()-evicted > time.Minute {
				// Only what is made now is young.
				next = b.get(t, broker.Request{Profile: "dev/network", Force: true})
			}
			if got := b.reports401(t, next); got.Outcome != broker.Evicted {
				t.Errorf("got %+v", got)
			}
		}
		if diff := cmp.Diff([]int{5, 10, 20, 40, 80, 160, 300, 300, 300, 300}, gaps); diff != "" {
			t.Error(diff)
		}
		// Somebody knows better.
		if reopened, err := b.Reset(t.Context(), "dev/network"); err != nil || !reopened {
			t.Fatal(reopened, err)
		}
		evict()
		// A token that was good for more than a minute.
		next := b.get(t, plain)
		time.Sleep(5 * time.Minute)
		if got := b.reports401(t, next); got.Outcome != broker.Evicted {
			t.Errorf("got %+v", got)
		}
		next = b.get(t, plain)
		if got := b.reports401(t, next); got.Outcome != broker.TooSoon || got.RetryAfter > 5*time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

// A thousand find their token refused, report it, and ask for another one.
func TestReportOfACrowd(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Hour))
		first := b.get(t, plain)
		time.Sleep(time.Minute)
		b.front.times()
		var all sync.WaitGroup
		var mu sync.Mutex
		outcomes := make(map[broker.Outcome]int)
		tokens := make(map[string]int)
		for range 1000 {
			all.Go(func() {
				got, err := b.Report(t.Context(), "dev/network", broker.Report{Fingerprint: fingerprint(first), Status: 401})
				if err != nil {
					t.Error(err)
				}
				token, err := b.Token(t.Context(), plain)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				outcomes[got.Outcome]++
				tokens[token.Access.Reveal()]++
			})
		}
		all.Wait()
		if diff := cmp.Diff(map[broker.Outcome]int{broker.Evicted: 1, broker.Superseded: 999}, outcomes); diff != "" {
			t.Error(diff)
		}
		if len(tokens) != 1 || tokens[first.Access.Reveal()] != 0 {
			t.Errorf("got %v", tokens)
		}
		b.wantSent(t, 1)
	})
}

// What was taken out of use is not handed out, whatever the server has to say.
func TestReportedTokenIsNotALastResort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	first := w.get(t, plain)
	w.sleep(time.Minute)
	w.server.AnyClient().Then(failing)
	w.reports401(t, first)
	w.wantRefused(t, plain, 500, time.Second)
	for _, r := range []broker.Request{plain, {Profile: "dev/network", BestEffort: true}, {Profile: "dev/network", MinValid: time.Second, BestEffort: true}} {
		if token, err := w.Token(t.Context(), r); err == nil {
			t.Errorf("%+v: got %v", r, token)
		}
	}
	if n := w.Cached(); n != 0 {
		t.Errorf("%d tokens cached", n)
	}
	w.sleep(2 * time.Second)
	if got := w.get(t, plain); got.Access == first.Access || got.Degraded {
		t.Errorf("got %v", got)
	}
}

// A server that gives the refused token again has the last word; nobody asks it all
// the time.
func TestReportedTokenThatComesAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(says(200, map[string]any{"access_token": "the-one", "token_type": "Bearer", "expires_in": 3600}))
		for range 600 {
			token, err := b.Token(t.Context(), plain)
			if err != nil {
				t.Fatal(err)
			}
			b.reports401(t, token)
			time.Sleep(time.Second)
		}
		if n := len(b.front.times()); n < 3 || n > 12 {
			t.Errorf("%d requests in ten minutes", n)
		}
	})
}

// After the same token was given again it can be reported like any other.
func TestReportAfterTheSameTokenAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		begin := b.clock()
		same := func(left time.Duration) {
			b.front.always(says(200, map[string]any{"access_token": "the-one", "token_type": "Bearer", "expires_in": int((left - (b.clock() - begin)).Seconds())}))
		}
		same(600 * time.Second)
		first := b.get(t, plain)
		time.Sleep(300 * time.Second)
		same(600 * time.Second)
		if got := b.get(t, broker.Request{Profile: "dev/network", Force: true}); got.Access != first.Access {
			t.Fatalf("got %v", got)
		}
		b.front.always(grants(time.Hour))
		if got := b.reports401(t, first); got.Outcome != broker.Evicted {
			t.Fatalf("got %+v", got)
		}
		if got := b.get(t, plain); got.Access == first.Access || got.Degraded {
			t.Errorf("got %v", got)
		}
	})
}

// A login that brought an access token alone is over once that is refused, also
// after a restart; only a login helps, or somebody who knows better.
func TestReportEndsALoginWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone; c.RefreshAlways = false }))
	h.put(t, "dev/network", h.interactive())
	token := h.login(t, "dev/network")
	h.restart()
	got := h.get(t, plain)
	if got.Access != token.AccessToken {
		t.Fatalf("got %v", got)
	}
	want := broker.Reported{Outcome: broker.Evicted, Code: "invalid_token", Message: "the API calls the login's token invalid, and there is no refresh token to get another with"}
	if diff := cmp.Diff(want, h.reports401(t, got)); diff != "" {
		t.Error(diff)
	}
	const why = "the API has refused the access token, and the server gave no refresh token"
	for range 2 {
		h.wantLogin(t, plain, why, "")
		h.restart()
	}
	// It was the API that was wrong.
	if reopened, err := h.Reset(t.Context(), "dev/network"); err != nil || !reopened {
		t.Errorf("reset: %t, %v", reopened, err)
	}
	if got := h.get(t, plain); got.Access != token.AccessToken {
		t.Errorf("got %v", got)
	}
	h.sleep(10 * time.Second)
	h.reports401(t, got)
	h.wantLogin(t, plain, why, "")
	next := h.login(t, "dev/network")
	if got := h.get(t, plain); got.Access != next.AccessToken {
		t.Errorf("got %v", got)
	}
	h.wantRequests(t, 2)
}

// It does not matter that it cannot be written: it is remembered until it can.
func TestReportOfALoginOnAFullDisk(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone; c.RefreshAlways = false }))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.disk.full(true)
	h.reports401(t, h.get(t, plain))
	const why = "the API has refused the access token, and the server gave no refresh token"
	h.wantLogin(t, plain, why, "")
	if names := fmt.Sprint(h.Unsaved()); names != "[dev/network]" {
		t.Errorf("unsaved: %s", names)
	}
	h.disk.full(false)
	h.restart() // Close writes it
	h.wantLogin(t, plain, why, "")
}

// A server may give one token for many requests: it is refused for all of them.
func TestReportOfATokenOfMany(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(says(200, map[string]any{"access_token": "the-one", "token_type": "Bearer", "expires_in": 3600}))
		all := []broker.Request{plain, scoped("a"), scoped("b")}
		for _, r := range all {
			if got := b.get(t, r); got.Access.Reveal() != "the-one" {
				t.Fatalf("got %v", got)
			}
		}
		b.front.always(grants(time.Hour))
		if got := b.reports401(t, b.get(t, plain)); got.Outcome != broker.Evicted {
			t.Errorf("got %+v", got)
		}
		if n := b.Cached(); n != 0 {
			t.Errorf("%d tokens are still there", n)
		}
		for _, r := range all {
			if got := b.get(t, r); got.Access.Reveal() == "the-one" {
				t.Errorf("%+v: got it again", r)
			}
		}
	})
}

// What somebody says of a token that is not there is nothing that happened.
func TestReportOfNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.text())
		b.front.always(grants(time.Hour))
		token := b.get(t, plain)
		b.happened()
		scope := oauth.ParseChallenges([]string{`Bearer error="insufficient_scope"`})
		for _, fp := range []string{"", "00000000000000000000000000000000", "not hexadecimal"} {
			if got := b.report(t, broker.Report{Fingerprint: fp, Status: 401}); got.Outcome != broker.Superseded {
				t.Errorf("%q: %+v", fp, got)
			}
			if got := b.report(t, broker.Report{Fingerprint: fp, Status: 403, Challenges: scope}); got.Outcome != broker.Kept {
				t.Errorf("%q: %+v", fp, got)
			}
		}
		if events := b.happened(); len(events) != 0 {
			t.Errorf("events are %v", events)
		}
		b.report(t, broker.Report{Fingerprint: fingerprint(token), Status: 403, Challenges: scope})
		if events := b.happened(); len(events) != 1 || events[0].Kind != broker.TokenReported || events[0].Fingerprint != fingerprint(token) {
			t.Errorf("events are %v", events)
		}
	})
}

// stating is a store that tells after each look at a version.
type stating struct {
	store.Store
	after func()
}

func (s *stating) Stat(ctx context.Context, name string) (store.Version, error) {
	v, err := s.Store.Stat(ctx, name)
	s.after()
	return v, err
}

// Who reports does not wait until all is done, and need not: a login's only token
// is not handed out again, whoever was just about to.
func TestReportOfALoginCutShort(t *testing.T) {
	t.Parallel()
	const why = "the API has refused the access token, and the server gave no refresh token"
	alone := client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone; c.RefreshAlways = false })
	t.Run("caller goes away", func(t *testing.T) {
		h := newHouse(t, alone)
		c := h.config()
		s := &stating{c.Profiles, func() {}}
		c.Profiles = s
		h.Close()
		h.Broker = broker.New(c)
		h.put(t, "dev/network", h.interactive())
		h.login(t, "dev/network")
		token := h.get(t, plain)
		ctx, cancel := context.WithCancel(t.Context())
		s.after = cancel
		got, err := h.Report(ctx, "dev/network", broker.Report{Fingerprint: fingerprint(token), Status: 401})
		if err != nil || got.Outcome != broker.Evicted {
			t.Errorf("got %+v, %v", got, err)
		}
		h.wantLogin(t, plain, why, "")
		h.restart()
		h.wantLogin(t, plain, why, "")
	})
	t.Run("fetch in between", func(t *testing.T) {
		h := newHouse(t, alone)
		c := h.config()
		fetched, reported := make(chan struct{}), make(chan struct{})
		c.Log = slog.New(told{func(message string) {
			if message == "new token" {
				fetched <- struct{}{}
				<-reported
			}
		}})
		h.Close()
		h.Broker = broker.New(c)
		h.put(t, "dev/network", h.interactive())
		h.login(t, "dev/network")
		token := h.get(t, plain)
		h.sleep(10 * time.Second)
		done := make(chan error)
		go func() {
			_, err := h.Token(t.Context(), broker.Request{Profile: "dev/network", Force: true})
			done <- err
		}()
		<-fetched // and not yet put into the cache
		h.reports401(t, token)
		close(reported)
		if err := <-done; !errors.As(err, new(*broker.LoginError)) {
			t.Errorf("who forced one got %v", err)
		}
		h.wantLogin(t, plain, why, "")
	})
}
