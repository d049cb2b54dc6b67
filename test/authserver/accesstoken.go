package authserver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
)

// claims are those of an access token by RFC 9068 2.2; an opaque one has them
// too, but keeps them here. Times are in seconds since 1970.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	ClientID string   `json:"client_id"`
	Scope    string   `json:"scope,omitempty"`
	Expires  int64    `json:"exp"`
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"`
}

// issued is an access token that was given to a client.
type issued struct {
	token  string
	claims claims
}

func (s *Server) issue(c Client, subject, scope string, audience []string, now time.Time) issued {
	t := issued{claims: claims{
		Issuer:   s.Issuer,
		Subject:  subject,
		Audience: audience,
		ClientID: c.ID,
		Scope:    scope,
		// Rounded up: the token lives for expires_in at the least.
		Expires:  now.Add(s.lifetime + time.Second - 1).Unix(),
		IssuedAt: now.Unix(),
		ID:       rand.Text(),
	}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Opaque {
		t.token = rand.Text()
		s.opaque[t.token] = t.claims
	} else {
		t.token = s.key.sign(t.claims)
	}
	s.last[c.ID] = t
	return t
}

func (s *Server) lastToken(clientID string) (issued, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.last[clientID]
	return t, ok
}

// live returns the claims of a token if this server issued it and it has not
// expired.
func (s *Server) live(token string) (claims, error) {
	s.mu.Lock()
	c, ok := s.opaque[token]
	s.mu.Unlock()
	if !ok {
		var err error
		if c, err = s.key.verify(token); err != nil {
			return claims{}, err
		}
	}
	if c.Issuer != s.Issuer {
		return claims{}, fmt.Errorf("issued by %q", c.Issuer)
	}
	if c.Expires <= time.Now().Unix() {
		return claims{}, errors.New("expired")
	}
	return c, nil
}

func (c claims) isFor(audience string) bool {
	return slices.Contains(c.Audience, audience)
}
