package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"tokend/broker"
	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
	"tokend/test/authserver"
)

const secret = "CANARY-client-secret"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a broker with a store, an authorization server and a clock that
// stands still until the test moves it.
type world struct {
	*broker.Broker
	server *authserver.Server
	store  *store.Age
	// sessions is a store of its own, as in the daemon.
	sessions *store.Age
	now      atomic.Int64
	unlock   []func() // the stores
	log      logged

	mu      sync.Mutex
	refused map[string]bool // texts that are not trusted
	values  func() (map[string]string, error)
}

// logged is what brokers log, also while a test reads it.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T) *world {
	w := &world{refused: make(map[string]bool)}
	w.server = authserver.Start(t, authserver.Config{
		Lifetime: 600 * time.Second,
		Clients:  []authserver.Client{{ID: "client", Secret: secret, Opaque: true}},
	})
	w.store, w.sessions = newStore(t, w), newStore(t, w)
	w.now.Store(int64(time.Hour))
	w.Broker = broker.New(w.config())
	t.Cleanup(w.Close)
	return w
}

func newStore(t *testing.T, w *world) *store.Age {
	t.Helper()
	dir := t.TempDir()
	id, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenAge(filepath.Join(dir, "profiles"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Unlock(id)
	w.unlock = append(w.unlock, func() { s.Unlock(id) })
	return s
}

func (w *world) config() broker.Config {
	return broker.Config{
		Profiles: w.store,
		Sessions: w.sessions,
		Trusted: func(_ string, text []byte) (bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return !w.refused[string(text)], nil
		},
		Resolve: func(context.Context, []profile.External) (map[string]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.values == nil {
				return map[string]string{}, nil
			}
			return w.values()
		},
		Now:       func() time.Duration { return time.Duration(w.now.Load()) },
		BootID:    "this boot",
		RateLimit: 1000,
		Log:       slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func (w *world) sleep(d time.Duration) { w.now.Add(int64(d)) }

// text is a profile of the server's client, with further lines.
func (w *world) text(lines ...string) string {
	return "OAUTH2_TOKEN_URL=" + w.server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=" + secret + "\n" + strings.Join(lines, "\n") + "\n"
}

func (w *world) put(t *testing.T, name, text string) store.Version {
	t.Helper()
	old, err := w.store.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.store.Put(t.Context(), name, []byte(text), old)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *world) get(t *testing.T, r broker.Request) broker.Token {
	t.Helper()
	token, err := w.Token(t.Context(), r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return token
}

func (w *world) requests() int { return w.server.Count("/token") }

func (w *world) wantRequests(t *testing.T, n int) {
	t.Helper()
	if got := w.requests(); got != n {
		t.Fatalf("the server got %d token requests, want %d", got, n)
	}
}

// wantRefused checks that r fails with the server's answer, and for how long: for
// retry, or up to half as long again, as what it returns.
func (w *world) wantRefused(t *testing.T, r broker.Request, status int, retry time.Duration) time.Duration {
	t.Helper()
	_, err := w.Token(t.Context(), r)
	var refused *broker.RefusedError
	var answer *oauth.Error
	if !errors.As(err, &refused) || !errors.As(err, &answer) {
		t.Fatalf("error is %v, want a refusal", err)
	}
	if answer.Status != status || refused.RetryAfter < retry || refused.RetryAfter > retry+retry/2 {
		t.Fatalf("refused with status %d for %v, want %d for %v", answer.Status, refused.RetryAfter, status, retry)
	}
	return refused.RetryAfter
}

// wantLeft checks that r still fails with what was answered before, for exactly
// left.
func (w *world) wantLeft(t *testing.T, r broker.Request, left time.Duration) {
	t.Helper()
	_, err := w.Token(t.Context(), r)
	var refused *broker.RefusedError
	if !errors.As(err, &refused) || refused.RetryAfter != left {
		t.Fatalf("error is %v, want a refusal for %v: %+v", err, left, refused)
	}
}

var (
	plain    = broker.Request{Profile: "dev/network"}
	failing  = authserver.Answer{Status: http.StatusInternalServerError}
	hanging  = authserver.Answer{Hang: true}
	noExpiry = authserver.Answer{Drop: []string{"expires_in"}}
)

func lifetime(seconds any) authserver.Answer {
	return authserver.Answer{Set: map[string]any{"expires_in": seconds}}
}

func TestToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	version := w.put(t, "dev/network", w.text("OAUTH2_SCOPE='write read'", "API_URL='https://API.example https://b.example:8443'"))
	first := w.get(t, plain)
	want := broker.Token{
		Fingerprint: fingerprint(first),
		Type:        "Bearer",
		Version:     version,
		Remaining:   600 * time.Second,
		Lifetime:    600 * time.Second,
		Scopes:      []string{"read", "write"},
		APIOrigins:  []string{"https://api.example", "https://b.example:8443"},
	}
	if diff := cmp.Diff(want, first, cmpopts.IgnoreFields(broker.Token{}, "Access")); diff != "" {
		t.Error(diff)
	}
	if first.Access.IsZero() {
		t.Error("no token")
	}
	w.sleep(60 * time.Second)
	want.Remaining, want.Access = 540*time.Second, first.Access
	if diff := cmp.Diff(want, w.get(t, plain), cmpopts.EquateComparable(oauth.Secret{})); diff != "" {
		t.Error(diff)
	}
	w.wantRequests(t, 1)
	if n := w.Cached(); n != 1 {
		t.Errorf("%d tokens cached, want 1", n)
	}
	w.sleep(540 * time.Second)
	if n := w.Cached(); n != 0 {
		t.Errorf("%d tokens cached once it has expired, want 0", n)
	}
}

func TestColdCrowd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Always(hanging)
	const callers = 1000
	tokens := make(chan broker.Token, callers)
	var crowd sync.WaitGroup
	for range callers {
		crowd.Go(func() {
			token, err := w.Token(t.Context(), plain)
			if err != nil {
				t.Error(err)
			}
			tokens <- token
		})
	}
	if err := w.server.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	w.server.Release()
	crowd.Wait()
	first := <-tokens
	if first.Access.IsZero() {
		t.Fatal("no token")
	}
	for range callers - 1 {
		if other := <-tokens; other.Access != first.Access {
			t.Fatal("two callers got different tokens")
		}
	}
	w.wantRequests(t, 1)
}

func TestCallerWhoLeavesDoesNotEndTheFetch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Then(hanging)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := w.Token(ctx, plain)
		left <- err
	}()
	if err := w.server.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the caller who left got %v", err)
	}
	w.server.Release()
	w.get(t, plain)
	w.wantRequests(t, 1)
}

// Whoever found the cache empty while a fetch ran, and came to start one when
// that had just ended, must be given its result.
func TestLateCallers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	const rounds, callers = 80, 4
	for round := range rounds {
		r := plain
		r.Scopes = []string{fmt.Sprint("round", round)}
		var all sync.WaitGroup
		var tokens [callers]broker.Token
		for i := range callers {
			all.Go(func() {
				for range i * round % 400 {
					runtime.Gosched()
				}
				var err error
				if tokens[i], err = w.Token(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, token := range tokens {
			if token.Access != tokens[0].Access {
				t.Fatalf("round %d: two tokens for one key", round)
			}
		}
	}
	w.wantRequests(t, rounds)
}

func TestLateCallersOfAFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Always(failing)
	const rounds, callers = 40, 4
	for round := range rounds {
		r := plain
		r.Scopes = []string{fmt.Sprint("round", round)}
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				for range i * round % 400 {
					runtime.Gosched()
				}
				var refused *broker.RefusedError
				if _, err := w.Token(t.Context(), r); !errors.As(err, &refused) {
					t.Errorf("error is %v, want a refusal", err)
				}
			})
		}
		all.Wait()
	}
	w.wantRequests(t, rounds)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lines := []string{"OAUTH2_SCOPE='write read'", "OAUTH2_AUDIENCE=https://aud.example", "OAUTH2_RESOURCE=https://res.example/"}
	w.put(t, "dev/network", w.text(lines...))
	w.put(t, "dev/other", w.text(lines...))
	type params struct{ Scope, Audience, Resource string }
	own := params{"read write", "https://aud.example", "https://res.example/"}
	tests := []struct {
		request broker.Request
		like    int // index of the first request that means the same token
		params  params
	}{
		0:  {broker.Request{Profile: "dev/network"}, 0, own},
		1:  {broker.Request{Profile: "dev/network", Scopes: []string{"read", "write"}}, 0, own},
		2:  {broker.Request{Profile: "dev/network", Scopes: []string{"write", "read", "write"}}, 0, own},
		3:  {broker.Request{Profile: "dev/network", Audience: "https://aud.example"}, 0, own},
		4:  {broker.Request{Profile: "dev/network", Resource: "https://res.example/"}, 0, own},
		5:  {broker.Request{Profile: "dev/network", Scopes: []string{"read"}}, 5, params{"read", own.Audience, own.Resource}},
		6:  {broker.Request{Profile: "dev/network", Scopes: []string{"Read", "write"}}, 6, params{"Read write", own.Audience, own.Resource}},
		7:  {broker.Request{Profile: "dev/network", Audience: "https://aud.example/"}, 7, params{own.Scope, "https://aud.example/", own.Resource}},
		8:  {broker.Request{Profile: "dev/network", Audience: "https://res.example/"}, 8, params{own.Scope, "https://res.example/", own.Resource}},
		9:  {broker.Request{Profile: "dev/network", Resource: "https://aud.example"}, 9, params{own.Scope, own.Audience, "https://aud.example"}},
		10: {broker.Request{Profile: "dev/other"}, 10, own},
		11: {broker.Request{Profile: "dev/network", MinValid: time.Minute, BestEffort: true}, 0, own},
	}
	tokens := make([]oauth.Secret, len(tests))
	sent := 0
	for i, test := range tests {
		tokens[i] = w.get(t, test.request).Access
		if test.like != i {
			if tokens[i] != tokens[test.like] {
				t.Errorf("request %d got another token than %d", i, test.like)
			}
			continue
		}
		sent++
		for j := range i {
			if tokens[i] == tokens[j] {
				t.Errorf("request %d got the token of %d", i, j)
			}
		}
		all := w.server.Requests()
		form := all[len(all)-1].Form
		got := params{form.Get("scope"), form.Get("audience"), form.Get("resource")}
		if diff := cmp.Diff(test.params, got); diff != "" {
			t.Errorf("request %d: %s", i, diff)
		}
	}
	w.wantRequests(t, sent)
}

func TestDefaultMargin(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ life, least time.Duration }{
		{600 * time.Second, 30 * time.Second},
		{300 * time.Second, 30 * time.Second},
		{100 * time.Second, 10 * time.Second},
		{10 * time.Second, time.Second},
	} {
		t.Run(test.life.String(), func(t *testing.T) {
			w := newWorld(t)
			w.put(t, "dev/network", w.text())
			w.server.AnyClient().Always(lifetime(test.life.Seconds()))
			first := w.get(t, plain)
			w.sleep(test.life - test.least)
			if last := w.get(t, plain); last.Access != first.Access || last.Remaining != test.least || last.Degraded {
				t.Errorf("with the margin left, got another token, or one with %v, degraded: %t", last.Remaining, last.Degraded)
			}
			w.wantRequests(t, 1)
			w.sleep(1)
			if next := w.get(t, plain); next.Access == first.Access || next.Remaining != test.life {
				t.Error("with less than the margin left, got the old token")
			}
			w.wantRequests(t, 2)
		})
	}
}

func TestMinValid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Always(lifetime(60))
	ask := func(d time.Duration) broker.Request { return broker.Request{Profile: "dev/network", MinValid: d} }

	unmet := func() {
		t.Helper()
		_, err := w.Token(t.Context(), ask(61*time.Second))
		var short *broker.LifetimeError
		if !errors.As(err, &short) {
			t.Fatalf("error is %v, want a LifetimeError", err)
		}
		if diff := cmp.Diff(&broker.LifetimeError{Lifetime: time.Minute, MinValid: 61 * time.Second}, short); diff != "" {
			t.Error(diff)
		}
		if want := "provider grants 1m0s, a minimum of 1m1s cannot be met"; err.Error() != want {
			t.Errorf("error is %q, want %q", err, want)
		}
	}
	unmet()
	unmet()
	w.sleep(5 * time.Second)
	unmet()
	w.wantRequests(t, 1)

	first := w.get(t, ask(55*time.Second))
	if first.Remaining != 55*time.Second || first.Degraded {
		t.Errorf("got %v", first)
	}
	short := ask(61 * time.Second)
	short.BestEffort = true
	if got := w.get(t, short); got.Access != first.Access || !got.Degraded || got.Warning != "provider grants 1m0s, a minimum of 1m1s cannot be met" {
		t.Errorf("best effort: %v", got)
	}
	w.wantRequests(t, 1)

	second := w.get(t, ask(55*time.Second+1))
	if second.Access == first.Access || second.Remaining != time.Minute {
		t.Errorf("got %v, want a new token", second)
	}
	w.wantRequests(t, 2)
}

func TestForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	force := broker.Request{Profile: "dev/network", Force: true}
	first := w.get(t, force)
	w.sleep(2*time.Second - 1)
	if got := w.get(t, force); got.Access != first.Access {
		t.Error("a second new token within 2 s")
	}
	w.wantRequests(t, 1)
	w.sleep(1)
	second := w.get(t, force)
	if second.Access == first.Access {
		t.Error("the old token after 2 s")
	}
	w.wantRequests(t, 2)
	if got := w.get(t, plain); got.Access != second.Access {
		t.Error("others do not get the new token")
	}
	w.wantRequests(t, 2)
}

// What was refused is not to be given to the one who insists, however shortly
// after: the caller has seen it fail.
func TestForceWhileTheProviderFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	force := broker.Request{Profile: "dev/network", Force: true}
	first := w.get(t, plain)
	w.sleep(time.Minute)
	w.server.AnyClient().Always(failing)
	left := w.wantRefused(t, force, 500, time.Second)
	w.sleep(left / 2)
	w.wantLeft(t, force, left-left/2)
	w.wantRequests(t, 2)
	w.sleep(left - left/2)
	w.wantRefused(t, force, 500, 2*time.Second)
	w.wantRequests(t, 3)

	if got := w.get(t, plain); got.Access != first.Access || !got.Degraded {
		t.Errorf("those who do not insist got %v", got)
	}
	best := force
	best.BestEffort = true
	if got := w.get(t, best); got.Access != first.Access || !got.Degraded {
		t.Errorf("best effort: %v", got)
	}
	w.wantRequests(t, 3)
}

func TestLivingTokenWhileTheProviderFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	first := w.get(t, plain)
	w.server.AnyClient().Always(failing)
	w.sleep(580 * time.Second)

	before := time.Now()
	got := w.get(t, plain)
	host := strings.TrimPrefix(w.server.URL, "http://")
	why := "asking " + host + " for a token: no OAuth error in the answer (HTTP 500)"
	want := broker.Token{
		Access: first.Access, Fingerprint: first.Fingerprint, Type: "Bearer", Version: first.Version,
		Remaining: 20 * time.Second, Lifetime: 600 * time.Second, Degraded: true,
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(oauth.Secret{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(broker.Token{}, "Warning", "Err")); diff != "" {
		t.Error(diff)
	}
	warnings := []string{}
	for at := before; !at.After(time.Now()); at = at.Add(time.Second) {
		warnings = append(warnings, "cannot renew it: "+why+"; good until "+at.Add(20*time.Second).Format("15:04:05"))
	}
	warnings = append(warnings, "cannot renew it: "+why+"; good until "+time.Now().Add(20*time.Second).Format("15:04:05"))
	if !slices.Contains(warnings, got.Warning) {
		t.Errorf("the warning is %q, want one of %q", got.Warning, warnings)
	}
	if got.Err == nil || got.Err.Error() != why {
		t.Errorf("the reason is %v", got.Err)
	}
	w.wantRequests(t, 2)
	// Within the second in which nobody is asked, too.
	if got := w.get(t, plain); !got.Degraded || got.Access != first.Access {
		t.Errorf("got %v", got)
	}
	// It meets what this caller needs, so the margin does not matter.
	if got := w.get(t, broker.Request{Profile: "dev/network", MinValid: 20 * time.Second}); !got.Degraded || got.Access != first.Access {
		t.Errorf("got %v", got)
	}
	left := w.wantRefused(t, broker.Request{Profile: "dev/network", MinValid: 20*time.Second + 1}, 500, time.Second)
	w.wantLeft(t, broker.Request{Profile: "dev/network", Force: true}, left)
	if got := w.get(t, broker.Request{Profile: "dev/network", MinValid: time.Minute, BestEffort: true}); !got.Degraded || got.Access != first.Access {
		t.Errorf("best effort: %v", got)
	}
	w.wantRequests(t, 2)

	w.sleep(20*time.Second - 1)
	if got := w.get(t, plain); !got.Degraded || got.Remaining != 1 {
		t.Errorf("got %v", got)
	}
	w.wantRequests(t, 3)
	w.sleep(1)
	left = w.wantRefused(t, plain, 500, 2*time.Second-1)
	w.wantLeft(t, broker.Request{Profile: "dev/network", BestEffort: true}, left)
	w.wantRequests(t, 3)
}

func TestZeroLifetime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := w.config()
		c.Now = func() time.Duration { return time.Since(start) }
		b := broker.New(c)
		defer b.Close()
		w.server.AnyClient().Always(lifetime(0))
		var tokens [5]broker.Token
		var flight sync.WaitGroup
		for i := range tokens {
			flight.Go(func() {
				var err error
				if tokens[i], err = b.Token(t.Context(), plain); err != nil {
					t.Error(err)
				}
			})
		}
		flight.Wait()
		// Whoever came once the first flight had ended had to wait for the next.
		if n := w.requests(); n != 1 && time.Since(start) < time.Duration(n-1)*time.Second {
			t.Errorf("%d requests within %v", n, time.Since(start))
		}
		n := w.requests()
		for i := range 3 {
			before, old := time.Now(), tokens[0].Access
			token, err := b.Token(t.Context(), plain)
			if err != nil {
				t.Fatal(err)
			}
			if token.Access == old || token.Remaining != 0 || token.Lifetime != 0 || token.ExpiryAssumed {
				t.Errorf("got %v", token)
			}
			if waited := time.Since(before); waited != time.Second {
				t.Errorf("the next fetch came after %v, want 1 s", waited)
			}
			if got := w.requests(); got != n+i+1 {
				t.Errorf("%d requests, want %d", got, n+i+1)
			}
		}
		if b.Cached() != 0 {
			t.Error("it is kept")
		}
	})
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer  authserver.Answer
		line    string
		life    time.Duration
		assumed bool
	}{
		"missing":               {noExpiry, "", 5 * time.Minute, true},
		"missing, profile says": {noExpiry, "OAUTH2_DEFAULT_LIFETIME=90s", 90 * time.Second, true},
		"not understood":        {lifetime("soon"), "", 5 * time.Minute, true},
		"string":                {lifetime("120"), "", 2 * time.Minute, false},
		"profile does not say":  {lifetime(120), "OAUTH2_DEFAULT_LIFETIME=90s", 2 * time.Minute, false},
		"a day":                 {lifetime(86400), "", 24 * time.Hour, false},
		"more than a day":       {lifetime(86401), "", 24 * time.Hour, false},
		"huge":                  {lifetime(json.Number("1e300")), "", 24 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.put(t, "dev/network", w.text(test.line))
			w.server.AnyClient().Then(test.answer)
			got := w.get(t, plain)
			if got.Lifetime != test.life || got.Remaining != test.life || got.ExpiryAssumed != test.assumed {
				t.Errorf("lifetime %v, remaining %v, assumed %t", got.Lifetime, got.Remaining, got.ExpiryAssumed)
			}
			w.sleep(test.life)
			w.get(t, plain)
			w.wantRequests(t, 2)
		})
	}
}

func TestNegativeLifetimeKeepsTheOldToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	first := w.get(t, plain)
	w.sleep(580 * time.Second)
	w.server.AnyClient().Then(lifetime(-1))
	if got := w.get(t, plain); got.Access != first.Access || !got.Degraded {
		t.Errorf("got %v", got)
	}
}

func TestFailureIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Then(failing)
	left := w.wantRefused(t, plain, 500, time.Second)
	w.sleep(400 * time.Millisecond)
	w.wantLeft(t, plain, left-400*time.Millisecond)
	w.sleep(left - 400*time.Millisecond - 1)
	w.wantLeft(t, plain, 1)
	w.wantRequests(t, 1)
	w.sleep(1)
	w.get(t, plain)
	w.wantRequests(t, 2)
}

func TestRetryAfterIsObeyed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Then(authserver.Answer{Status: 429, Header: http.Header{"Retry-After": {"120"}}})
	w.wantRefused(t, plain, 429, 2*time.Minute)
	w.sleep(119 * time.Second)
	w.wantLeft(t, plain, time.Second)
	w.wantLeft(t, broker.Request{Profile: "dev/network", Force: true}, time.Second)
	w.wantRequests(t, 1)
	w.sleep(time.Second)
	w.get(t, plain)
	w.wantRequests(t, 2)
}

// One key's refusal is not another's.
func TestRefusalIsOfOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Then(authserver.Answer{Status: 400, Body: `{"error":"invalid_scope"}`})
	r := plain
	r.Scopes = []string{"admin"}
	w.wantRefused(t, r, 400, time.Minute)
	w.get(t, plain)
	w.wantLeft(t, r, time.Minute)
	w.wantRequests(t, 2)
}

func TestEdit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text("OAUTH2_SCOPE=read"))
	first := w.get(t, plain)
	version := w.put(t, "dev/network", w.text("OAUTH2_SCOPE=write"))
	second := w.get(t, plain)
	if second.Access == first.Access || second.Version != version || !cmp.Equal(second.Scopes, []string{"write"}) {
		t.Errorf("after the edit got %v", second)
	}
	if n := w.Cached(); n != 1 {
		t.Errorf("%d tokens cached, want 1: the old text's are of no use", n)
	}
	w.wantRequests(t, 2)
	if err := w.store.Delete(t.Context(), "dev/network", version); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Token(t.Context(), plain); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
}

// editing is a store in which somebody writes right after each look.
type editing struct {
	*store.Age
	edit func()
}

func (e *editing) Stat(ctx context.Context, name string) (store.Version, error) {
	v, err := e.Age.Stat(ctx, name)
	e.edit()
	return v, err
}

func TestEditBetweenStatAndGet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text("OAUTH2_SCOPE=read"))
	edits := 0
	c := w.config()
	c.Profiles = &editing{w.store, func() {
		if edits++; edits == 1 {
			w.put(t, "dev/network", w.text("OAUTH2_SCOPE=write"))
		}
	}}
	b := broker.New(c)
	defer b.Close()
	got, err := b.Token(t.Context(), plain)
	if err != nil || !cmp.Equal(got.Scopes, []string{"write"}) {
		t.Errorf("got %v, %v", got, err)
	}
	w.wantRequests(t, 1)

	// Between the fetch's look and its reading: what it was started for is gone.
	c.Profiles = &editing{w.store, func() { w.put(t, "dev/network", w.text("OAUTH2_SCOPE=write")) }}
	b = broker.New(c)
	defer b.Close()
	if _, err := b.Token(t.Context(), plain); err == nil || err.Error() != `reading "dev/network": it is being written to all the time` {
		t.Errorf("error is %v", err)
	}
	w.wantRequests(t, 1)
}

func TestEditWhileTheFetchWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text("OAUTH2_SCOPE=read"))
	w.server.AnyClient().Then(hanging)
	type result struct {
		token broker.Token
		err   error
	}
	old := make(chan result)
	go func() {
		token, err := w.Token(t.Context(), plain)
		old <- result{token, err}
	}()
	if err := w.server.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	version := w.put(t, "dev/network", w.text("OAUTH2_SCOPE=write"))
	w.Forget("dev/network")
	second := w.get(t, plain)
	w.server.Release()
	if r := <-old; r.err != nil || r.token.Version == version {
		t.Errorf("who asked before the edit got %v, %v", r.token, r.err)
	}
	// The old fetch ended last; it must not be what is found now.
	if got := w.get(t, plain); got.Access != second.Access || got.Version != version {
		t.Errorf("got %v, want the new text's token", got)
	}
	w.wantRequests(t, 2)
}

func TestUntrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.text()
	w.put(t, "dev/network", text)
	setTrust := func(text string, trusted bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused[text] = !trusted
	}
	resolved := false
	w.values = func() (map[string]string, error) { resolved = true; return nil, nil }
	setTrust(text, false)
	if _, err := w.Token(t.Context(), plain); !errors.Is(err, broker.ErrUntrusted) {
		t.Fatalf("error is %v", err)
	}
	w.wantRequests(t, 0)
	if resolved {
		t.Error("files and commands of an untrusted text were looked at")
	}
	setTrust(text, true)
	w.get(t, plain)

	changed := w.text("OAUTH2_SCOPE=all")
	setTrust(changed, false)
	w.put(t, "dev/network", changed)
	for range 2 {
		if _, err := w.Token(t.Context(), plain); !errors.Is(err, broker.ErrUntrusted) {
			t.Fatalf("after an edit by somebody else: %v", err)
		}
	}
	w.wantRequests(t, 1)
}

// A text can lose its trust between the look at it and the fetch.
func TestTrustIsAskedForEachFetch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.text()
	w.put(t, "dev/network", text)
	w.get(t, plain)
	w.mu.Lock()
	w.refused[text] = true
	w.mu.Unlock()
	w.sleep(600 * time.Second)
	if _, err := w.Token(t.Context(), plain); !errors.Is(err, broker.ErrUntrusted) {
		t.Fatalf("error is %v", err)
	}
	w.wantRequests(t, 1)
}

func TestTrustThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	c := w.config()
	broken := errors.New("trust file is broken")
	c.Trusted = func(string, []byte) (bool, error) { return true, broken }
	b := broker.New(c)
	defer b.Close()
	if _, err := b.Token(t.Context(), plain); !errors.Is(err, broken) {
		t.Fatalf("error is %v", err)
	}
	w.wantRequests(t, 0)
}

func TestResolvedValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", "OAUTH2_TOKEN_URL="+w.server.TokenURL+"\nCLIENT_ID=client\nCLIENT_SECRET_FILE=/somewhere\n")
	mistake := &profile.Mistakes{List: []profile.Mistake{{Line: 3, Variable: "CLIENT_SECRET_FILE", Message: "it is not there"}}}
	w.values = func() (map[string]string, error) { return nil, mistake }
	var got *profile.Mistakes
	if _, err := w.Token(t.Context(), plain); !errors.As(err, &got) || got != mistake {
		t.Fatalf("error is %v", err)
	}
	w.wantRequests(t, 0)
	w.values = func() (map[string]string, error) { return map[string]string{"CLIENT_SECRET": secret}, nil }
	w.get(t, plain)
	w.wantRequests(t, 1)
}

func TestStoreErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.Token(t.Context(), plain); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("no such profile: %v", err)
	}
	w.put(t, "dev/network", w.text())
	w.put(t, "dev/mistaken", w.text("OAUTH2_SCOPPE=read"))
	var mistakes *profile.Mistakes
	if _, err := w.Token(t.Context(), broker.Request{Profile: "dev/mistaken"}); !errors.As(err, &mistakes) {
		t.Errorf("a mistake: %v", err)
	}
	w.store.Lock()
	if _, err := w.Token(t.Context(), plain); !errors.Is(err, store.ErrLocked) {
		t.Errorf("locked: %v", err)
	}
	w.wantRequests(t, 0)
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	const openid = "/.well-known/openid-configuration"
	w := newWorld(t)
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		w.put(t, name, "OAUTH2_ISSUER="+w.server.Issuer+"\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
	}
	all := func() {
		t.Helper()
		var done sync.WaitGroup
		for _, name := range names {
			done.Go(func() {
				if _, err := w.Token(t.Context(), broker.Request{Profile: name}); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
	}
	all()
	if n := w.server.Count(openid); n != 1 {
		t.Errorf("%d requests for metadata, want 1", n)
	}
	w.wantRequests(t, 4)
	w.sleep(time.Hour - 1)
	all()
	if n := w.server.Count(openid); n != 1 {
		t.Errorf("%d requests for metadata within the hour, want 1", n)
	}
	w.wantRequests(t, 8)
	w.sleep(600 * time.Second)
	all()
	if n := w.server.Count(openid); n != 2 {
		t.Errorf("%d requests for metadata after an hour, want 2", n)
	}
}

func TestDiscoveryWithoutTokenEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	s := server.URL
	mux.HandleFunc("/.well-known/openid-configuration", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"issuer":%q}`, s)
	})
	w.put(t, "dev/network", "OAUTH2_ISSUER="+s+"\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
	_, err := w.Token(t.Context(), plain)
	var discovery *broker.DiscoveryError
	want := "reading the metadata of " + s + ": they name no token endpoint; set OAUTH2_TOKEN_URL"
	if !errors.As(err, &discovery) || err.Error() != want {
		t.Errorf("error is %v, want %q", err, want)
	}
}

func TestOneSlowProviderDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	slow := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret}}})
	slow.AnyClient().Always(hanging)
	w.put(t, "slow", strings.ReplaceAll(w.text(), w.server.TokenURL, slow.TokenURL))
	w.put(t, "dev/network", w.text())
	var waiting sync.WaitGroup
	waiting.Go(func() { w.Token(t.Context(), broker.Request{Profile: "slow"}) })
	if err := slow.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	w.get(t, plain)
	slow.Release()
	waiting.Wait()
}

func TestTokenTooLargeToHandOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"access_token": strings.Repeat("a", 48<<10)}})
	if n := len(w.get(t, plain).Access.Reveal()); n != 48<<10 {
		t.Errorf("got %d bytes", n)
	}
	w.sleep(time.Hour)
	w.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"access_token": strings.Repeat("a", 48<<10+1)}})
	var answer *oauth.Error
	if _, err := w.Token(t.Context(), plain); !errors.As(err, &answer) || answer.Kind != oauth.Malformed {
		t.Errorf("error is %v", err)
	}
	w.sleep(time.Hour)
	w.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"scope": strings.Repeat("s ", 24<<10)}})
	if _, err := w.Token(t.Context(), plain); !errors.As(err, &answer) || answer.Kind != oauth.Malformed {
		t.Errorf("error is %v", err)
	}
}

func TestForgetAndDrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "a", w.text())
	w.put(t, "b", w.text())
	a, b := broker.Request{Profile: "a"}, broker.Request{Profile: "b"}
	firstA, firstB := w.get(t, a), w.get(t, b)
	w.Forget("a")
	if w.get(t, a).Access == firstA.Access || w.get(t, b).Access != firstB.Access {
		t.Error("Forget drops another profile's token, or not this one's")
	}
	w.wantRequests(t, 3)
	w.Drop()
	if n := w.Cached(); n != 0 {
		t.Errorf("%d tokens after Drop", n)
	}
	// Nothing is known of the texts either.
	w.store.Lock()
	if _, err := w.Token(t.Context(), a); !errors.Is(err, store.ErrLocked) {
		t.Errorf("after Drop: %v", err)
	}
}

func TestNoSecretIsLoggedOrPrinted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	w.server.AnyClient().Then(authserver.Answer{EchoSecret: true})
	_, err := w.Token(t.Context(), plain)
	if err == nil || !strings.Contains(err.Error(), "invalid_client") {
		t.Fatalf("error is %v", err)
	}
	w.sleep(15 * time.Minute)
	token := w.get(t, plain)
	printed := fmt.Sprintf("%v %+v %#v %s", err, err, err, err) + fmt.Sprintf("%v %+v %#v", token, token, token)
	b, jsonErr := json.Marshal(token)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	printed += string(b) + w.log.String()
	for _, s := range []string{secret, token.Access.Reveal()} {
		if strings.Contains(printed, s) {
			t.Errorf("%q is in %s", s, printed)
		}
	}
	if !strings.Contains(w.log.String(), "new token") || !strings.Contains(w.log.String(), "no token") {
		t.Errorf("the log is %q", w.log.String())
	}
}

func TestClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	w := newWorld(t)
	for i := range 4 {
		w.put(t, fmt.Sprint("p", i), w.text())
	}
	w.server.AnyClient().Always(hanging)
	const callers = 20
	ended := make(chan error, callers)
	for i := range callers {
		go func() {
			_, err := w.Token(context.Background(), broker.Request{Profile: fmt.Sprint("p", i%4)})
			ended <- err
		}()
	}
	if err := w.server.Await(t.Context(), "/token", 4); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for range callers {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller got %v", err)
		}
	}
	if w.Cached() != 0 {
		t.Error("something was kept")
	}
	w.server.Close()
	goleak.VerifyNone(t, before)
}

// The 2 s are the profile's: who asks for other scopes waits as well, unless
// there is no such token yet.
func TestForceIsCountedByProfile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(t, "dev/network", w.text())
	narrow := broker.Request{Profile: "dev/network", Scopes: []string{"narrow"}, Force: true}
	first := w.get(t, narrow)
	w.sleep(2 * time.Second)
	w.get(t, broker.Request{Profile: "dev/network", Force: true})
	w.wantRequests(t, 2)
	if got := w.get(t, narrow); got.Access != first.Access {
		t.Error("two forced requests of one profile within 2 s")
	}
	w.wantRequests(t, 2)
}
