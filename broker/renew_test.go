package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/test/authserver"
)

// given is a profile that begins with a refresh token in its text.
func (h *house) given(token string, lines ...string) string {
	return strings.ReplaceAll(h.interactive(lines...), "authorization_code", "refresh_token") + "OAUTH2_REFRESH_TOKEN=" + token + "\n"
}

// What is written, what is asked for and what is handed out, in their order.
func TestRotation(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	first := h.login(t, "dev/network").RefreshToken.Reveal()
	h.fresh()

	var steps []string
	seen := h.server.Count("/token")
	h.disk.mu.Lock()
	h.disk.after = func(change string) {
		if n := h.server.Count("/token"); n > seen {
			steps = append(steps, "request")
			seen = n
		}
		r := h.record(t, "dev/network")
		steps = append(steps, fmt.Sprintf("%s: first %t, spending %t", change, r["refresh_token"] == first, r["spending"] != nil))
	}
	h.disk.mu.Unlock()
	h.get(t, plain)
	want := []string{
		"put dev/network: first true, spending true",
		"request",
		"put dev/network: first false, spending false",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	// Whoever has the access token can end this process: the new one is there.
	for range 4 {
		h.restart()
		h.get(t, plain)
	}
	spent := h.spent()
	if l := h.server.Ledger("client"); l.SpentTwice != 0 || l.Spent != 5 || len(spent) != 5 || len(slices.Compact(slices.Sorted(slices.Values(spent)))) != 5 {
		t.Errorf("%+v, spent %q", l, spent)
	}
}

func TestRefreshTokenThatDoesNotRotate(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{authserver.RefreshSame, authserver.RefreshSilent} {
		t.Run(policy, func(t *testing.T) {
			h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = policy }))
			h.put(t, "dev/network", h.interactive())
			token := h.login(t, "dev/network").RefreshToken.Reveal()
			h.disk.taken()
			h.fresh()
			h.get(t, plain)
			if changes := h.disk.taken(); len(changes) != 2 {
				t.Errorf("the first renewal wrote %q", changes)
			}
			for range 2 {
				h.fresh()
				h.get(t, plain)
			}
			h.restart()
			h.get(t, plain)
			if changes := h.disk.taken(); changes != nil {
				t.Errorf("later renewals wrote %q", changes)
			}
			if spent := h.spent(); !slices.Equal(spent, []string{token, token, token, token}) {
				t.Errorf("spent %q", spent)
			}
		})
	}
}

// A server may begin to rotate.
func TestRefreshTokenThatRotatesLater(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshSilent }))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.get(t, plain)
	h.fresh()
	next := h.issue(t).RefreshToken.Reveal()
	h.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"refresh_token": next}})
	h.get(t, plain)
	h.restart()
	h.get(t, plain)
	if spent := h.spent(); spent[len(spent)-1] != next {
		t.Errorf("spent %q, want %q last", spent, next)
	}
}

func TestScopesAtRenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE='read write'"))
	h.login(t, "dev/network", "read", "write")
	for _, test := range []struct {
		name   string
		asked  []string
		answer authserver.Answer
		sent   string
		want   []string
	}{
		{"all that was granted", nil, authserver.Answer{}, "", []string{"read", "write"}},
		{"not mentioned in the answer", nil, authserver.Answer{Drop: []string{"scope"}}, "", []string{"read", "write"}},
		{"fewer asked for", []string{"read"}, authserver.Answer{}, "read", []string{"read"}},
		{"fewer asked for, not mentioned", []string{"write"}, authserver.Answer{Drop: []string{"scope"}}, "write", []string{"write"}},
		{"fewer granted", nil, authserver.Answer{Set: map[string]any{"scope": "read"}}, "", []string{"read"}},
		{"still fewer, not mentioned", nil, authserver.Answer{Drop: []string{"scope"}}, "", []string{"read"}},
		{"and all again", nil, authserver.Answer{}, "", []string{"read", "write"}},
	} {
		h.fresh()
		h.server.AnyClient().Then(test.answer)
		got := h.get(t, broker.Request{Profile: "dev/network", Scopes: test.asked})
		if sent := h.last(t).Form.Get("scope"); sent != test.sent || !slices.Equal(got.Scopes, test.want) {
			t.Errorf("%s: sent %q, got %q", test.name, sent, got.Scopes)
		}
	}
}

// Scopes beyond the grant are refused, and cost nothing.
func TestScopeBeyondTheGrant(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network", "read")
	r := broker.Request{Profile: "dev/network", Scopes: []string{"admin"}}
	h.wantRefused(t, r, 400, time.Minute)
	h.fresh()
	h.get(t, plain)
}

// Many ask for many different tokens of one refresh token: each is spent by one.
func TestOneSpendAtATime(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) {
		var scopes []string
		for i := range 50 {
			scopes = append(scopes, fmt.Sprint("s", i))
		}
		c.Scope = strings.Join(scopes, " ")
	}))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	var all sync.WaitGroup
	for i := range 50 {
		for range 2 {
			all.Go(func() {
				r := broker.Request{Profile: "dev/network", Scopes: []string{fmt.Sprint("s", i)}}
				if _, err := h.Token(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	l := h.server.Ledger("client")
	if l.Issued != 51 || l.Spent != 50 || l.SpentTwice != 0 || l.Valid != 1 {
		t.Errorf("issued %d, spent %d, twice %d, valid %d", l.Issued, l.Spent, l.SpentTwice, l.Valid)
	}
}

// What cannot be written is not spent.
func TestProbeFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	first := h.login(t, "dev/network")
	h.disk.full(true)
	h.sleep(590 * time.Second)
	if got := h.get(t, plain); got.Access != first.AccessToken || !got.Degraded || !strings.Contains(got.Warning, "no space left on device") {
		t.Errorf("while the token lives got %v", got)
	}
	h.fresh()
	for range 2 {
		_, err := h.Token(t.Context(), plain)
		if !errors.Is(err, errDisk) || err.Error() != "writing the session: no space left on device" {
			t.Errorf("error is %v", err)
		}
	}
	h.wantRequests(t, 1)
	h.disk.full(false)
	h.get(t, plain)
	if l := h.server.Ledger("client"); l.Spent != 1 || l.SpentTwice != 0 {
		t.Errorf("%+v", l)
	}
}

// Also where an earlier attempt has written that the token is being spent: the
// disk may have filled up since.
func TestProbeAgain(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("after a restart: %t", restarted), func(t *testing.T) {
			h := newHouse(t, client(nil))
			h.put(t, "dev/network", h.interactive())
			h.login(t, "dev/network")
			h.fresh()
			h.server.AnyClient().Then(authserver.Answer{Fault: authserver.ResetBefore}, authserver.Answer{Fault: authserver.ResetBefore})
			h.wantRefused(t, plain, 0, time.Second)
			if restarted {
				h.restart()
			}
			h.fresh()
			n := h.requests()
			h.disk.full(true)
			if _, err := h.Token(t.Context(), plain); !errors.Is(err, errDisk) {
				t.Errorf("error is %v", err)
			}
			h.wantRequests(t, n)
		})
	}
}

// failSecond lets the probe through, and not what the exchange brought.
func failSecond() func(string) error {
	puts := 0
	return func(string) error {
		if puts++; puts > 1 {
			return errDisk
		}
		return nil
	}
}

func TestSaveFailsAfterRotation(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.interactive())
		b.login(t, "dev/network")
		b.restart()
		b.disk.failing(failSecond())
		got := b.get(t, plain)
		const warning = "its session could not be written and is in memory only"
		if !got.Degraded || got.Warning != warning {
			t.Errorf("got %v", got)
		}
		if names := b.Unsaved(); !slices.Equal(names, []string{"dev/network"}) {
			t.Errorf("unsaved: %q", names)
		}
		if again := b.get(t, plain); again.Access != got.Access || !again.Degraded || again.Warning != warning {
			t.Errorf("from the cache: %v", again)
		}
		// It is tried after 1, 2, 4, … 60, 60 s.
		tries := make(chan time.Time, 100)
		b.disk.failing(func(string) error { tries <- time.Now(); return errDisk })
		start := time.Now()
		time.Sleep(4*time.Minute + time.Second/2)
		b.disk.full(false)
		close(tries)
		var waits []int
		for at := range tries {
			waits = append(waits, int(at.Sub(start).Seconds()))
		}
		if diff := cmp.Diff([]int{1, 3, 7, 15, 31, 63, 123, 183}, waits); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		if names := b.Unsaved(); len(names) != 0 {
			t.Errorf("unsaved once there is space again: %q", names)
		}
		if again := b.get(t, plain); again.Access != got.Access || again.Degraded || again.Warning != "" {
			t.Errorf("once it is written: %v", again)
		}
		// The new one is what is on disk.
		b.restart()
		b.get(t, plain)
		if l := b.server.Ledger("client"); l.Spent != 2 || l.SpentTwice != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// What could not be written is written over whatever has become of the record.
func TestSaveOverAChange(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.interactive())
		b.login(t, "dev/network")
		b.restart()
		b.get(t, plain)
		time.Sleep(2 * time.Hour)
		b.disk.failing(failSecond())
		b.get(t, plain)
		version, err := b.sessions.Stat(t.Context(), "dev/network")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.sessions.Delete(t.Context(), "dev/network", version); err != nil {
			t.Fatal(err)
		}
		b.disk.full(false)
		time.Sleep(2 * time.Minute)
		if names := b.Unsaved(); len(names) != 0 {
			t.Errorf("unsaved: %q", names)
		}
		b.restart()
		b.get(t, plain)
		if l := b.server.Ledger("client"); l.SpentTwice != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// In memory only, it is used from there: renewals go on.
func TestRenewalOfWhatIsInMemoryOnly(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.disk.failing(failSecond())
	h.get(t, plain)
	h.fresh()
	if _, err := h.Token(t.Context(), plain); !errors.Is(err, errDisk) {
		t.Errorf("spent without a place for the next one: %v", err)
	}
	h.disk.full(false)
	if got := h.get(t, plain); got.Degraded {
		t.Errorf("got %v", got)
	}
	if l := h.server.Ledger("client"); l.Spent != 2 || l.SpentTwice != 0 {
		t.Errorf("%+v", l)
	}
}

// Killed before it could be written: the session is lost, and that is said.
func TestKilledWithTheSessionInMemory(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.disk.failing(failSecond())
	h.get(t, plain)
	h.restart()
	h.disk.full(false)
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant; tokend was killed in the middle of an earlier renewal", "")
	if n := len(h.spent()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// No answer: exactly once more, at once.
func TestAmbiguousAnswer(t *testing.T) {
	t.Parallel()
	reset := authserver.Answer{Fault: authserver.ResetBefore}
	for _, test := range []struct {
		name    string
		grace   int
		answers []authserver.Answer
		sent    int
		ok      bool
	}{
		{"not spent", 0, []authserver.Answer{reset}, 2, true},
		{"spent, and forgiven", 1, []authserver.Answer{{Fault: authserver.ResetBefore, Late: true}}, 2, true},
		{"cut off in the body, and forgiven", 1, []authserver.Answer{{Fault: authserver.ResetInBody}}, 2, true},
		{"twice", 0, []authserver.Answer{reset, reset, reset, reset}, 2, false},
		{"an answer is an answer", 0, []authserver.Answer{failing, reset}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, client(func(c *authserver.Client) { c.GraceUses = test.grace }))
			h.put(t, "dev/network", h.interactive())
			token := h.login(t, "dev/network").RefreshToken.Reveal()
			h.fresh()
			h.server.AnyClient().Then(test.answers...)
			_, err := h.Token(t.Context(), plain)
			if (err == nil) != test.ok {
				t.Errorf("error is %v", err)
			}
			spent := h.spent()
			if len(spent) != test.sent || slices.ContainsFunc(spent, func(s string) bool { return s != token }) {
				t.Errorf("sent %q, want %q %d times", spent, token, test.sent)
			}
		})
	}
}

// A server that rotates and does not forgive: that is a login.
func TestAmbiguousAnswerIsNotForgiven(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.server.AnyClient().Then(authserver.Answer{Fault: authserver.ResetBefore, Late: true})
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
	if n := len(h.spent()); n != 2 {
		t.Errorf("sent %d times", n)
	}
}

// A token of which it is not known whether it was spent has had its second
// chance: later attempts are one request each.
func TestAmbiguousTwice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.server.AnyClient().Always(authserver.Answer{Fault: authserver.ResetBefore})
	for want := 2; want < 5; want++ {
		h.fresh()
		h.wantRefused(t, plain, 0, time.Second<<(want-2))
		if n := len(h.spent()); n != want {
			t.Errorf("sent %d times, want %d", n, want)
		}
	}
}

// spending makes the record as a kill in the middle of a renewal leaves it.
func (h *house) killInRenewal(t *testing.T) {
	t.Helper()
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	// The probe is written, and then nothing any more.
	h.disk.failing(failSecond())
	h.server.AnyClient().Then(authserver.Answer{Status: 503}) // not spent
	h.wantRefused(t, plain, 503, time.Second)
	h.Close()
	h.disk.full(false)
	if r := h.record(t, "dev/network"); r["spending"] == nil {
		t.Fatalf("the record is %v", r)
	}
	h.Broker = broker.New(h.config())
	h.server.Forget()
}

func TestKilledInARenewal(t *testing.T) {
	t.Parallel()
	t.Run("not spent", func(t *testing.T) {
		h := newHouse(t, client(nil))
		h.killInRenewal(t)
		h.get(t, plain)
		if r := h.record(t, "dev/network"); r["spending"] != nil {
			t.Errorf("the record is %v", r)
		}
		h.wantRequests(t, 1)
	})
	t.Run("spent", func(t *testing.T) {
		h := newHouse(t, client(nil))
		h.killInRenewal(t)
		h.server.AnyClient().Then(authserver.Answer{Error: "invalid_grant"})
		const why = "refresh token rejected: invalid_grant; tokend was killed in the middle of an earlier renewal"
		h.wantLogin(t, plain, why, "")
		h.restart()
		h.wantLogin(t, plain, why, "")
		h.wantRequests(t, 1)
	})
	t.Run("no answer", func(t *testing.T) {
		h := newHouse(t, client(nil))
		h.killInRenewal(t)
		h.server.AnyClient().Always(authserver.Answer{Fault: authserver.ResetBefore})
		h.wantRefused(t, plain, 0, time.Second)
		h.wantRequests(t, 1)
	})
}

// The network need not be up when the daemon starts; what is said then holds
// for the next attempt too.
func TestKilledThenOffline(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.killInRenewal(t)
	if _, err := h.Prepare(t.Context(), "dev/network"); err != nil { // the metadata are known
		t.Fatal(err)
	}
	h.server.Close()
	h.wantRefused(t, plain, 0, time.Second)
	// Another server at the same place, which knows nothing of the token.
	c := client(nil)
	c.Addr = strings.TrimPrefix(h.server.URL, "http://")
	h.server = authserver.Start(t, c)
	h.fresh()
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant; tokend was killed in the middle of an earlier renewal", "")
}

func TestKilledThenNoAnswer(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.killInRenewal(t)
	h.server.AnyClient().Then(authserver.Answer{Fault: authserver.ResetBefore})
	_, _ = h.Token(t.Context(), plain)
	h.fresh()
	h.server.AnyClient().Always(authserver.Answer{Error: "invalid_grant"})
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant; tokend was killed in the middle of an earlier renewal", "")
}

// invalid_grant ends the session: the refresh token stays in the record, and is
// not sent again.
func TestInvalidGrant(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	token := h.login(t, "dev/network").RefreshToken.Reveal()
	h.fresh()
	h.server.AnyClient().Then(authserver.Answer{Error: "invalid_grant"})
	const why = "refresh token rejected: invalid_grant"
	for range 2 {
		h.wantLogin(t, plain, why, "")
		h.wantLogin(t, broker.Request{Profile: "dev/network", Scopes: []string{"read"}, Force: true}, why, "")
	}
	h.fresh()
	h.wantLogin(t, plain, why, "")
	h.restart()
	h.wantLogin(t, plain, why, "")
	h.put(t, "dev/network", h.interactive("# a comment"))
	h.wantLogin(t, plain, why, "")
	if spent := h.spent(); !slices.Equal(spent, []string{token}) {
		t.Errorf("spent %q", spent)
	}
	if r := h.record(t, "dev/network"); r["refresh_token"] != token {
		t.Errorf("the record is %v", r)
	}
	// A login helps.
	h.login(t, "dev/network")
	h.fresh()
	h.get(t, plain)
}

// While the last token lives it is handed out, and it is said that it is the last.
func TestLivingTokenAfterInvalidGrant(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	first := h.login(t, "dev/network")
	h.server.AnyClient().Always(authserver.Answer{Error: "invalid_grant"})
	h.sleep(580 * time.Second)
	for range 2 {
		got := h.get(t, plain)
		if got.Access != first.AccessToken || !got.Degraded || !strings.Contains(got.Warning, "login required (refresh token rejected: invalid_grant)") {
			t.Errorf("got %v", got)
		}
	}
	h.wantLogin(t, broker.Request{Profile: "dev/network", Force: true}, "refresh token rejected: invalid_grant", "")
	h.sleep(20 * time.Second)
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
	h.wantRequests(t, 2)
}

// A refresh token may come in an answer that is otherwise no good. It may be
// the only one that still works.
func TestOddAnswerWithRefreshToken(t *testing.T) {
	t.Parallel()
	for _, answer := range []authserver.Answer{
		{Drop: []string{"access_token"}},
		{Set: map[string]any{"expires_in": -1}},
		{Set: map[string]any{"token_type": "mac"}},
		{Set: map[string]any{"error": "server_error"}},
	} {
		h := newHouse(t, client(nil))
		h.put(t, "dev/network", h.interactive())
		h.login(t, "dev/network")
		h.fresh()
		h.server.AnyClient().Then(answer)
		var refused *broker.RefusedError
		if _, err := h.Token(t.Context(), plain); !errors.As(err, &refused) {
			t.Errorf("%+v: error is %v", answer, err)
		}
		h.restart()
		h.get(t, plain)
		if l := h.server.Ledger("client"); l.Spent != 2 || l.SpentTwice != 0 {
			t.Errorf("%+v: %+v", answer, l)
		}
	}
}

func TestTokenTooLargeAtARenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"access_token": strings.Repeat("a", 48<<10+1)}})
	h.wantRefused(t, plain, 200, time.Second)
	h.restart()
	h.get(t, plain)
}

func TestRefreshTokenOfTheText(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	a := h.issue(t).RefreshToken.Reveal()
	h.put(t, "dev/network", h.given(a))
	got := h.get(t, plain)
	if !slices.Equal(h.spent(), []string{a}) {
		t.Fatalf("spent %q", h.spent())
	}
	h.fresh()
	h.get(t, plain)
	// Rotated away, it never goes out again: not after a restart, not after an
	// edit, not after A, B, A.
	h.restart()
	h.get(t, plain)
	h.put(t, "dev/network", h.given(a, "# a comment"))
	h.get(t, plain)
	b := h.issue(t).RefreshToken.Reveal()
	h.put(t, "dev/network", h.given(b))
	h.get(t, plain)
	h.put(t, "dev/network", h.given(a))
	h.get(t, plain)
	h.restart()
	h.get(t, plain)
	spent := h.spent()
	if n := len(slices.DeleteFunc(slices.Clone(spent), func(s string) bool { return s != a })); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
	if l := h.server.Ledger("client"); l.SpentTwice != 0 {
		t.Errorf("%+v", l)
	}
	if bytes.Contains(h.atRest(t), []byte(got.Access.Reveal())) {
		t.Error("an access token is on disk")
	}
}

func TestRefreshTokenOfTheTextIsRejected(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.given("no-such-token"))
	const why = "refresh token rejected: invalid_grant"
	h.wantLogin(t, plain, why, "OAUTH2_REFRESH_TOKEN")
	h.restart()
	h.wantLogin(t, plain, why, "OAUTH2_REFRESH_TOKEN")
	h.wantRequests(t, 1)
	// It never was good for a token: another text may make it so.
	h.put(t, "dev/network", h.given("no-such-token", "# now"))
	h.wantLogin(t, plain, why, "OAUTH2_REFRESH_TOKEN")
	h.wantRequests(t, 2)
	h.put(t, "dev/network", h.given(h.issue(t).RefreshToken.Reveal()))
	h.get(t, plain)
}

// For a grant that a person begins, it is a login that is needed.
func TestRefreshTokenBesideALogin(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive("OAUTH2_REFRESH_TOKEN=no-such-token"))
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
}

func TestALoginIsNotOverwrittenByTheTextsRefreshToken(t *testing.T) {
	t.Parallel()
	for _, tried := range []bool{false, true} {
		t.Run(fmt.Sprintf("tried before: %t", tried), func(t *testing.T) {
			h := newHouse(t, client(nil))
			h.put(t, "dev/network", h.interactive("OAUTH2_REFRESH_TOKEN=no-such-token"))
			if tried {
				h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
			}
			token := h.login(t, "dev/network").RefreshToken.Reveal()
			h.server.Forget()
			h.fresh()
			h.get(t, plain)
			h.put(t, "dev/network", h.interactive("OAUTH2_REFRESH_TOKEN=no-such-token", "# a comment"))
			h.get(t, plain)
			if spent := h.spent(); len(spent) != 2 || spent[0] != token || slices.Contains(spent, "no-such-token") {
				t.Errorf("spent %q", spent)
			}
		})
	}
}

// When the text's own token cannot be copied it is not spent either, and it is
// copied later.
func TestRefreshTokenOfTheTextAndFullDisk(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	a := h.issue(t).RefreshToken.Reveal()
	h.put(t, "dev/network", h.given(a))
	h.server.Forget()
	h.disk.full(true)
	for range 2 {
		if _, err := h.Token(t.Context(), plain); !errors.Is(err, errDisk) {
			t.Errorf("error is %v", err)
		}
	}
	h.wantRequests(t, 0)
	h.disk.full(false)
	h.get(t, plain)
	if spent := h.spent(); !slices.Equal(spent, []string{a}) {
		t.Errorf("spent %q", spent)
	}
	// A second value, while the first one's session is in memory only.
	h.fresh()
	h.disk.failing(failSecond())
	h.get(t, plain)
	b := h.issue(t).RefreshToken.Reveal()
	h.put(t, "dev/network", h.given(b))
	if _, err := h.Token(t.Context(), plain); !errors.Is(err, errDisk) {
		t.Errorf("error is %v", err)
	}
	h.disk.full(false)
	h.server.Forget()
	h.get(t, plain)
	if spent := h.spent(); !slices.Equal(spent, []string{b}) {
		t.Errorf("spent %q, want %q", spent, b)
	}
}

// Nothing of the text but the token itself is needed for a renewal by key.
func TestRefreshTokenAtAnotherEndpoint(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	other := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret}}})
	h.put(t, "dev/network", h.given(h.issue(t).RefreshToken.Reveal()))
	h.get(t, plain)
	h.put(t, "dev/network", strings.ReplaceAll(h.given(h.issue(t).RefreshToken.Reveal()), "OAUTH2_REFRESH_TOKEN", "OAUTH2_TOKEN_URL="+other.TokenURL+"\nOAUTH2_REFRESH_TOKEN"))
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "OAUTH2_REFRESH_TOKEN") // a new value goes where its text says
	if n := other.Count("/token"); n != 1 {
		t.Errorf("the other server got %d requests", n)
	}
}

// The secret that is to follow is tried where the first is refused, and then
// stays, until the text has others.
func TestNextSecret(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	text := func(secret, next string) string {
		return "OAUTH2_TOKEN_URL=" + h.server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=" + secret + "\nCLIENT_SECRET_NEXT=" + next + "\n"
	}
	// wantSecrets checks which secrets were sent since the last look.
	wantSecrets := func(want ...string) {
		t.Helper()
		var got []string
		for _, r := range h.server.Requests() {
			request := http.Request{Header: r.Header}
			_, password, _ := request.BasicAuth()
			got = append(got, password)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		h.server.Forget()
	}
	h.put(t, "dev/network", text("old-secret", secret))
	h.get(t, plain)
	wantSecrets("old-secret", secret)
	h.fresh()
	h.get(t, plain)
	wantSecrets(secret)
	h.restart()
	h.get(t, plain)
	wantSecrets(secret)
	// Only invalid_client is a reason to go over.
	h.put(t, "dev/network", text(secret, "a-third"))
	h.get(t, plain)
	wantSecrets(secret)
	h.fresh()
	h.server.AnyClient().Then(failing, authserver.Answer{Error: "invalid_grant"})
	h.wantRefused(t, plain, 500, time.Second)
	h.fresh()
	h.wantRefused(t, plain, 400, time.Minute)
	wantSecrets(secret, secret)
	// Neither is good.
	h.put(t, "dev/network", text("wrong", "wrong-too"))
	h.wantRefused(t, plain, 401, 15*time.Minute)
	wantSecrets("wrong", "wrong-too")
	if bytes.Contains(h.atRest(t), []byte(secret)) {
		t.Error("a client secret is in a session")
	}
}

func TestNextSecretAtARenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	text := func(secret string) string {
		return strings.ReplaceAll(h.interactive(), "CLIENT_SECRET=CANARY-client-secret", "CLIENT_SECRET="+secret) + "CLIENT_SECRET_NEXT=CANARY-client-secret\n"
	}
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.put(t, "dev/network", text("old-secret"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := h.Token(ctx, plain); err != nil {
		t.Fatal(err)
	}
	h.restart()
	n := h.requests()
	h.get(t, plain)
	h.wantRequests(t, n+1)
	if l := h.server.Ledger("client"); l.Spent != 2 || l.SpentTwice != 0 {
		t.Errorf("%+v", l)
	}
}

// And at the login itself.
func TestNextSecretAtALogin(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", strings.ReplaceAll(h.interactive(), "CLIENT_SECRET=CANARY-client-secret", "CLIENT_SECRET=old-secret")+"CLIENT_SECRET_NEXT=CANARY-client-secret\n")
	h.login(t, "dev/network")
	h.wantRequests(t, 2)
	h.restart()
	h.get(t, plain)
	h.wantRequests(t, 3)
}

// Scopes and the like may stand in a file.
func TestScopeFromAFile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.values = func() (map[string]string, error) { return map[string]string{"OAUTH2_SCOPE": "write read"}, nil }
	h.put(t, "cc", h.text("OAUTH2_SCOPE_FILE=/somewhere"))
	if got := h.get(t, broker.Request{Profile: "cc"}); !slices.Equal(got.Scopes, []string{"read", "write"}) && !slices.Equal(got.Scopes, []string{"write", "read"}) {
		t.Errorf("got %q", got.Scopes)
	}
	if scope := h.last(t).Form.Get("scope"); scope != "read write" && scope != "write read" {
		t.Errorf("sent %q", scope)
	}
	h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE_FILE=/somewhere"))
	token := h.login(t, "dev/network", "read", "write")
	if got := h.get(t, plain); got.Access != token.AccessToken {
		t.Error("not the login's token")
	}
	h.restart()
	if got := h.get(t, plain); got.Access != token.AccessToken {
		t.Error("not the login's token after a restart")
	}
}

// A turn is not kept by whoever waits for it and goes.
func TestWhoeverLeavesTheQueue(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.server.AnyClient().Then(hanging)
	h.fresh()
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := h.Token(t.Context(), plain); err != nil {
			t.Error(err)
		}
	})
	h.await(t, "/token", 2)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := h.Revoke(ctx, "dev/network")
		left <- err
	}()
	cancel()
	<-left
	h.server.Release()
	all.Wait()
	h.fresh()
	_, err := h.Token(t.Context(), plain)
	var login *broker.LoginError
	if err != nil && !errors.As(err, &login) {
		t.Errorf("error is %v", err)
	}
}

// The default roots of a session are those of its own profile only: two
// profiles with one client have two sessions.
func TestSessionsOfTwoProfiles(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "a", h.interactive())
	h.put(t, "b", h.interactive())
	a, b := h.login(t, "a"), h.login(t, "b")
	h.fresh()
	h.get(t, broker.Request{Profile: "a"})
	h.get(t, broker.Request{Profile: "b"})
	if spent := h.spent(); !slices.Equal(spent, []string{a.RefreshToken.Reveal(), b.RefreshToken.Reveal()}) {
		t.Errorf("spent %q", spent)
	}
}

// One profile whose server hangs delays no other.
func TestHangingRenewalDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "a", h.interactive())
	h.put(t, "b", h.interactive())
	h.login(t, "a")
	h.login(t, "b")
	h.fresh()
	h.server.AnyClient().Then(hanging)
	var waiting sync.WaitGroup
	waiting.Go(func() { _, _ = h.Token(t.Context(), broker.Request{Profile: "a"}) })
	h.await(t, "/token", 3)
	h.get(t, broker.Request{Profile: "b"})
	h.server.Release()
	waiting.Wait()
}

// Whatever goes on beside it, a refresh token is sent once.
func TestNoRefreshTokenIsSentTwice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for n := range 15 {
				r := broker.Request{Profile: "dev/network", Force: n%3 == 0}
				if n%2 == 0 {
					r.Scopes = []string{[]string{"read", "write", "admin"}[(i+n)%3]}
				}
				switch {
				case i == 0 && n%5 == 4:
					h.Forget("dev/network")
				case i == 1 && n%5 == 4:
					h.put(t, "dev/network", h.interactive(fmt.Sprint("# ", n)))
				case i == 2 && n%5 == 4:
					h.Drop()
				}
				_, err := h.Token(t.Context(), r)
				// The others' jumps of the clock may come twice in one fetch.
				if err != nil && !slices.ContainsFunc([]string{"all the time", "the machine was suspended", "it had ended when it came"},
					func(s string) bool { return strings.Contains(err.Error(), s) }) {
					t.Error(err)
				}
				h.sleep(time.Minute)
			}
		})
	}
	all.Wait()
	l := h.server.Ledger("client")
	if l.SpentTwice != 0 || l.Valid != 1 || l.Spent < 10 {
		t.Errorf("issued %d, spent %d, twice %d, valid %d", l.Issued, l.Spent, l.SpentTwice, l.Valid)
	}
}

// However long a renewal waited for its turn, what is sent then has the time that
// an answer may take: without it the refresh token would be lost.
func TestRenewalAfterALongWait(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.interactive())
		b.login(t, "dev/network", "read", "write", "admin")
		b.get(t, scoped("read"))
		time.Sleep(2 * time.Second)
		// Before and after each of two requests the record is written.
		writing := []time.Duration{29 * time.Second, 0, 5 * time.Second, 0}
		begin := b.clock()
		b.front.times()
		b.disk.mu.Lock()
		b.disk.after = func(string) {
			took := writing[0]
			writing = writing[1:]
			time.Sleep(took)
		}
		b.disk.mu.Unlock()
		first := b.asking(t, scoped("write"))
		synctest.Wait()
		second := b.asking(t, scoped("admin"))
		for _, done := range []<-chan error{first, second} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		b.wantTimes(t, begin, 29, 34)
		if r := b.record(t, "dev/network"); r["spending"] != nil || r["ended"] != nil {
			t.Errorf("the record is %v", r)
		}
		if l := b.server.Ledger("client"); l.Spent != 3 || l.SpentTwice != 0 || l.Valid != 1 {
			t.Errorf("%+v", l)
		}
	})
}
