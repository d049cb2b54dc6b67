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
	Tokens     []RefreshToken `json:"tokens"`      // oldest first
}

// A RefreshToken is a line of the ledger. Its JSON has a digest in place of
// the token, as Request has.
type RefreshToken struct {
	Token   string    `json:"token"`
	Client  string    `json:"client"`
	Subject string    `json:"subject"`
	Scope   string    `json:"scope"`
	Issued  time.Time `json:"issued"`
	Used    int       `json:"used"`  // how many requests it was good for
	Again   int       `json:"again"` // how many it came in after it was rotated
	Spent   bool      `json:"spent"`
	Revoked bool      `json:"revoked"`
	Valid   bool      `json:"valid"`
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
	for _, t := range s.refreshTokens {
		if client != "" && t.grant.client != client {
			continue
		}
		line := RefreshToken{
			Token: t.token, Client: t.grant.client, Subject: t.grant.subject, Scope: t.grant.scope,
			Issued: t.issued, Used: t.used, Again: t.again, Spent: !t.spent.IsZero(), Revoked: t.grant.revoked,
		}
		line.Valid = !line.Spent && !line.Revoked
		l.Issued++
		if line.Spent {
			l.Spent++
		}
		if line.Again > 0 {
			l.SpentTwice++
		}
		if line.Valid {
			l.Valid++
		}
		l.Tokens = append(l.Tokens, line)
	}
	return l
}
