package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
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
