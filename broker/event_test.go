package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
)

// What happens to a session is told in its order.
func TestEvents(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		expect := func(want ...broker.EventKind) []broker.Event {
			t.Helper()
			events := b.happened()
			var kinds []broker.EventKind
			for _, e := range events {
				kinds = append(kinds, e.Kind)
				if !e.Time.Equal(time.Now()) && e.Kind != broker.TokenRenewed && e.Kind != broker.SessionSaved && e.Kind != broker.TokenFailed {
					t.Errorf("%v has the time %v", e.Kind, e.Time)
				}
				if e.Profile != "dev/network" && e.Kind != broker.Woken {
					t.Errorf("%v is of %q", e.Kind, e.Profile)
				}
			}
			if diff := cmp.Diff(want, kinds); diff != "" {
				t.Fatalf("%s\n%+v", diff, events)
			}
			return events
		}
		b.put(t, "dev/network", b.interactive())
		if _, err := b.Token(t.Context(), plain); err == nil {
			t.Fatal("a token without a login")
		}
		if e := expect(broker.TokenFailed)[0]; !errors.As(e.Err, new(*broker.LoginError)) {
			t.Errorf("it is of %v", e.Err)
		}
		first := b.login(t, "dev/network")
		began := expect(broker.SessionBegun)[0]
		token := b.get(t, plain)
		expect()
		if token.Access != first.AccessToken || began.Fingerprint != fingerprint(token) || !began.Ends.Equal(time.Now().Add(600*time.Second)) {
			t.Errorf("got %+v", began)
		}
		time.Sleep(550 * time.Second)
		renewed := expect(broker.TokenRenewed)[0]
		token = b.get(t, plain)
		if renewed.Fingerprint != fingerprint(token) || !renewed.Ends.Equal(time.Now().Add(token.Remaining)) {
			t.Errorf("got %+v", renewed)
		}
		b.get(t, broker.Request{Profile: "dev/network", Scopes: []string{"read"}})
		if made := expect(broker.TokenMade)[0]; made.Fingerprint == fingerprint(token) || made.Err != nil {
			t.Errorf("got %+v", made)
		}
		reported := b.reports401(t, token)
		if e := expect(broker.TokenReported)[0]; e.Fingerprint != fingerprint(token) || e.Message != reported.Message {
			t.Errorf("got %+v", e)
		}
		time.Sleep(time.Second)
		b.front.always(says(500, nil))
		for range 3 {
			_, _ = b.Token(t.Context(), plain)
		}
		var answer *oauth.Error
		if e := expect(broker.TokenFailed)[0]; !errors.As(e.Err, &answer) || answer.Status != 500 {
			t.Errorf("got %+v", e)
		}
		if _, err := b.Reset(t.Context(), "dev/network"); err != nil {
			t.Fatal(err)
		}
		expect(broker.ProfileReset)

		// The disk is full once the answer is there.
		b.front.always(nil)
		b.disk.failing(failSecond())
		time.Sleep(time.Second)
		b.get(t, plain)
		if e := expect(broker.SessionUnsaved, broker.TokenMade)[0]; !errors.Is(e.Err, errDisk) {
			t.Errorf("got %+v", e)
		}
		b.disk.full(false)
		time.Sleep(time.Minute)
		expect(broker.SessionSaved)

		time.Sleep(time.Hour)
		b.happened()
		b.front.always(refuses("invalid_grant"))
		_, _ = b.Token(t.Context(), plain)
		ended := expect(broker.SessionEnded, broker.TokenFailed)
		for _, e := range ended {
			if !errors.As(e.Err, new(*broker.LoginError)) {
				t.Errorf("got %+v", e)
			}
		}
		b.front.always(nil)
		b.login(t, "dev/network")
		b.happened()
		if _, err := b.Revoke(t.Context(), "dev/network"); err != nil {
			t.Fatal(err)
		}
		if e := expect(broker.SessionEnded)[0]; e.Err != nil {
			t.Errorf("got %+v", e)
		}
	})
}

// Nothing secret is in them.
func TestEventsAreNoSecrets(t *testing.T) {
	t.Parallel()
	inBubble(t, client(nil), func(t *testing.T, b *bubble) {
		b.put(t, "dev/network", b.interactive())
		first := b.login(t, "dev/network")
		token := b.get(t, plain)
		b.reports401(t, token)
		b.front.always(refuses("invalid_client"))
		_, _ = b.Token(t.Context(), plain)
		var all strings.Builder
		for _, e := range b.happened() {
			all.WriteString(strings.Join([]string{e.Message, e.Fingerprint, e.Profile}, " "))
			if e.Err != nil {
				all.WriteString(e.Err.Error())
			}
		}
		for _, s := range []string{secret, token.Access.Reveal(), first.RefreshToken.Reveal()} {
			if strings.Contains(all.String()+b.log.String(), s) {
				t.Errorf("%q is in %s", s, all.String())
			}
		}
	})
}

// told is a log that tells of each line.
type told struct{ each func(message string) }

func (l told) Enabled(context.Context, slog.Level) bool { return true }
func (l told) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l told) WithGroup(string) slog.Handler            { return l }

func (l told) Handle(_ context.Context, r slog.Record) error {
	l.each(r.Message)
	return nil
}

// A log that nobody reads any more stops nobody who needs nothing but memory.
func TestLogThatHangs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	var mu sync.Mutex
	lines := make(map[string]bool)
	var once sync.Once
	asleep := make(chan struct{})
	c := h.config()
	c.Log = slog.New(told{func(message string) {
		free := make(chan struct{})
		go func() { h.Cached(); close(free) }()
		select {
		case <-free:
		case <-time.After(5 * time.Second):
			t.Errorf("%q is logged while everybody waits", message)
		}
		mu.Lock()
		defer mu.Unlock()
		lines[message] = true
		if message == "the machine was suspended" {
			once.Do(func() { close(asleep) })
		}
	}})
	h.Close()
	h.Broker = broker.New(c)
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.sleep(9 * time.Minute)
	h.get(t, broker.Request{Profile: "dev/network", Force: true})
	h.sleep(2 * time.Second)
	h.disk.failing(failSecond())
	h.get(t, broker.Request{Profile: "dev/network", Force: true})
	h.disk.full(false)
	h.sleep(2 * time.Second)
	h.get(t, broker.Request{Profile: "dev/network", Force: true})
	h.sleep(time.Hour)
	h.server.AnyClient().Then(authserver.Answer{Error: "invalid_grant"})
	h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
	if reopened, err := h.Reset(t.Context(), "dev/network"); err != nil || !reopened {
		t.Errorf("reset: %t, %v", reopened, err)
	}
	h.get(t, plain)
	<-asleep
	mu.Lock()
	defer mu.Unlock()
	for _, message := range []string{"new token", "a session is in memory only", "the session is written now", "no token", "the session has ended", "refusals forgotten"} {
		if !lines[message] {
			t.Errorf("%q was not logged", message)
		}
	}
}
