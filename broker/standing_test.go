package broker_test

import (
	"errors"
	"testing"
	"time"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
)

// How things stand is told without asking anybody.
func TestStandings(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		if list := b.Standings(); len(list) != 0 {
			t.Errorf("got %v", list)
		}
		for _, name := range []string{"c", "b", "a"} {
			b.put(t, name, b.text())
		}
		b.put(t, "idle", b.text())
		of := func(name string) broker.Standing {
			t.Helper()
			list := b.Standings()
			for i, s := range list {
				if i > 0 && list[i-1].Profile >= s.Profile {
					t.Errorf("%q comes after %q", s.Profile, list[i-1].Profile)
				}
			}
			for _, s := range list {
				if s.Profile == name {
					return s
				}
			}
			return broker.Standing{}
		}
		b.front.always(grants(600 * time.Second))
		token := b.get(t, broker.Request{Profile: "a"})
		b.get(t, broker.Request{Profile: "a", Scopes: []string{"later"}})
		other := b.get(t, broker.Request{Profile: "b", Scopes: []string{"only"}})
		time.Sleep(60 * time.Second)
		a := of("a")
		if a.Token == nil || a.Token.Access != token.Access || a.Token.Remaining != 540*time.Second || a.Err != nil || a.Retry != 0 || a.Renews < 420*time.Second || a.Renews > 480*time.Second {
			t.Errorf("got %+v", a)
		}
		if s := of("b"); s.Token == nil || s.Token.Access != other.Access {
			t.Errorf("got %+v", s)
		}
		b.front.always(refuses("invalid_client"))
		_, _ = b.Token(t.Context(), broker.Request{Profile: "c"})
		time.Sleep(time.Minute)
		var answer *oauth.Error
		if s := of("c"); s.Token != nil || !errors.As(s.Err, &answer) || s.Retry != 14*time.Minute || s.Renews != 0 {
			t.Errorf("got %+v", s)
		}
		// A renewal that fails: there is a token, and something is wrong.
		time.Sleep(425 * time.Second)
		if s := of("a"); s.Token == nil || s.Token.Access != token.Access || !s.Token.Degraded || s.Err == nil || s.Retry <= 0 {
			t.Errorf("got %+v", s)
		}
		b.front.times()
		time.Sleep(100 * time.Second)
		if s := of("a"); s.Token != nil || s.Err == nil {
			t.Errorf("got %+v", s)
		}
		if s := of("idle"); s.Profile != "" {
			t.Errorf("got %+v", s)
		}
		b.wantSent(t, 0)
		b.Drop()
		if list := b.Standings(); len(list) != 0 {
			t.Errorf("got %v", list)
		}
	})
}
