package authserver

import (
	"testing"
	"testing/synctest"
	"time"
)

// What Accepts says of a token is what becomes of a request with it.
func TestAccepts(t *testing.T) {
	spend := func(t *testing.T, s *Server, token string) string {
		t.Helper()
		said := s.Accepts(token)
		r := sendForm(t, s, "/token", "", refreshing("app", token))
		if said != (r.status == 200) {
			t.Errorf("Accepts: %v, but the answer is %d %s", said, r.status, r.body)
		}
		if r.status != 200 {
			return ""
		}
		return wantTokens(t, r).Refresh
	}
	wantCounts := func(t *testing.T, s *Server, accepted, families, revoked int) {
		t.Helper()
		if l := s.Ledger("app"); l.Accepted != accepted || l.Families != families || l.Revoked != revoked {
			t.Errorf("%d accepted, %d families, %d revoked; want %d, %d, %d", l.Accepted, l.Families, l.Revoked, accepted, families, revoked)
		}
	}
	t.Run("without grace", func(t *testing.T) {
		s := Start(t, Config{Clients: []Client{app}})
		first := login(t, s, "app").Refresh
		second := spend(t, s, first)
		wantCounts(t, s, 1, 1, 0)
		if s.Accepts("never issued") {
			t.Error("what was never issued is accepted")
		}
		third := spend(t, s, second)
		spend(t, s, second) // ends the family
		spend(t, s, third)
		wantCounts(t, s, 0, 1, 1)
		login(t, s, "app")
		wantCounts(t, s, 1, 2, 1)
	})
	t.Run("uses", func(t *testing.T) {
		s := Start(t, Config{Clients: []Client{appWith(func(c *Client) { c.GraceUses = 1 })}})
		first := login(t, s, "app").Refresh
		spend(t, s, first)
		wantCounts(t, s, 2, 1, 0)
		spend(t, s, first)
		wantCounts(t, s, 2, 1, 0)
		spend(t, s, first)
		wantCounts(t, s, 0, 1, 1)
	})
	t.Run("seconds", func(t *testing.T) {
		s := Start(t, Config{Clients: []Client{appWith(func(c *Client) { c.GraceSeconds = 10 })}})
		synctest.Test(t, func(t *testing.T) {
			first := login(t, s, "app").Refresh
			spend(t, s, first)
			time.Sleep(9 * time.Second)
			spend(t, s, first)
			time.Sleep(time.Second)
			spend(t, s, first)
			wantCounts(t, s, 0, 1, 1)
		})
	})
}
