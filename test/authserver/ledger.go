package authserver

import (
	"encoding/json"
	"time"
)

// A Ledger is what became of the refresh tokens that a server issued.
type Ledger struct {
	Issued     int            `json:"issued"`
	Spent      int            `json:"spent"`       // rotated
	SpentTwice int            `json:"spent_twice"` // came again after that, in a time of grace too
	Valid      int            `json:"valid"`       // neither spent nor revoked
	Accepted   int            `json:"accepted"`    // would be taken now: valid, or in a time of grace
	Families   int            `json:"families"`    // grants that refresh tokens were issued for
	Revoked    int            `json:"revoked"`     // of those, the ones that have ended
	Tokens     []RefreshToken `json:"tokens"`      // oldest first
}

// A RefreshToken is a line of the ledger. Its JSON has a digest in place of
// the token, as Request has.
type RefreshToken struct {
	Token    string    `json:"token"`
	Client   string    `json:"client"`
	Subject  string    `json:"subject"`
	Scope    string    `json:"scope"`
	Issued   time.Time `json:"issued"`
	Used     int       `json:"used"`  // how many requests it was good for
	Again    int       `json:"again"` // how many it came in after it was rotated
	Spent    bool      `json:"spent"`
	Revoked  bool      `json:"revoked"`
	Valid    bool      `json:"valid"`
	Accepted bool      `json:"accepted"`
}

// MarshalJSON hides the token.
func (t RefreshToken) MarshalJSON() ([]byte, error) {
	type fields RefreshToken
	out := fields(t)
	out.Token = digest(t.Token)
	return json.Marshal(out)
}

// Ledger returns the ledger of a client's refresh tokens, or of all if client
// is empty.
func (s *Server) Ledger(client string) Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Ledger{Tokens: []RefreshToken{}}
	now, families := time.Now(), make(map[*grant]bool)
	for _, t := range s.refreshTokens {
		if client != "" && t.grant.client != client {
			continue
		}
		line := RefreshToken{
			Token: t.token, Client: t.grant.client, Subject: t.grant.subject, Scope: t.grant.scope,
			Issued: t.issued, Used: t.used, Again: t.again, Spent: !t.spent.IsZero(), Revoked: t.grant.revoked,
		}
		line.Valid = !line.Spent && !line.Revoked
		line.Accepted = s.acceptsLocked(t, now)
		l.Issued++
		if !families[t.grant] {
			families[t.grant] = true
			l.Families++
			if line.Revoked {
				l.Revoked++
			}
		}
		if line.Spent {
			l.Spent++
		}
		if line.Again > 0 {
			l.SpentTwice++
		}
		if line.Valid {
			l.Valid++
		}
		if line.Accepted {
			l.Accepted++
		}
		l.Tokens = append(l.Tokens, line)
	}
	return l
}

// Accepts says whether a refresh token would be taken if it came now. It is
// the question that decides about a client after a fault: a client that holds
// a token of which this is false has lost its session.
func (s *Server) Accepts(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.refreshTokenLocked(token)
	return t != nil && s.acceptsLocked(t, time.Now())
}

func (s *Server) acceptsLocked(t *refreshToken, now time.Time) bool {
	if t.grant.revoked || t.spent.IsZero() {
		return !t.grant.revoked
	}
	next := *t
	next.again++ // as refreshLocked counts it
	return s.clients[t.grant.client].inGrace(&next, now)
}
