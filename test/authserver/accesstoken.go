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
	Issuer   string        `json:"iss"`
	Subject  string        `json:"sub"`
	Actor    *actor        `json:"act,omitempty"`
	Audience []string      `json:"aud"`
	ClientID string        `json:"client_id"`
	Scope    string        `json:"scope,omitempty"`
	Expires  int64         `json:"exp"`
	IssuedAt int64         `json:"iat"`
	ID       string        `json:"jti"`
	Bound    *confirmation `json:"cnf,omitempty"`
}

// An actor is who acts for the subject (RFC 8693 4.1).
type actor struct {
	Subject string `json:"sub"`
}

// A confirmation is the key that a token is bound to (RFC 9449 6).
type confirmation struct {
	Thumbprint string `json:"jkt"`
}

// issued is an access token that was given to a client, with what else the
// response has.
type issued struct {
	token   string
	claims  claims
	refresh string // a refresh token; may be empty
	id      string // an ID token; may be empty
	kind    string // issued_token_type; empty but for token exchange
}

// A grant is what a client got by one authorization. Its tokens end together.
type grant struct {
	client   string
	subject  string
	actor    *actor
	scope    string
	audience []string // nil if the request did not say
	nonce    string   // of the authorization request; may be empty
	jkt      string   // of the only key that may refresh; empty if any may
	revoked  bool
}

// idToken returns what OpenID Connect Core 2 has with the scope openid, and
// nothing without it.
func (s *Server) idToken(g *grant, scope string, now time.Time) string {
	if !hasScope(scope, "openid") {
		return ""
	}
	m := map[string]any{
		"iss": s.Issuer, "sub": g.subject, "aud": g.client,
		"iat": now.Unix(), "exp": now.Add(s.cfg.Lifetime).Unix(),
	}
	if g.nonce != "" {
		m["nonce"] = g.nonce
	}
	return s.key.sign("JWT", m)
}

// issueLocked returns an access token of the grant, or the client's last one
// if the answer says so and that lives.
func (s *Server) issueLocked(q grantRequest, g *grant, scope string, audience []string) issued {
	if last, ok := s.last[q.client.ID]; ok && q.answer.SameToken && last.claims.Expires > q.now.Unix() {
		return last
	}
	// Whoever scripts less scope than was asked for wants it to be so.
	if granted, ok := q.answer.Set["scope"].(string); ok {
		scope = granted
	}
	if audience == nil {
		audience = []string{s.ResourceURL}
	}
	t := issued{claims: claims{
		Issuer:   s.Issuer,
		Subject:  g.subject,
		Actor:    g.actor,
		Audience: audience,
		ClientID: g.client,
		Scope:    scope,
		// Rounded up: the token lives for expires_in at the least.
		Expires:  q.now.Add(s.cfg.Lifetime + time.Second - 1).Unix(),
		IssuedAt: q.now.Unix(),
		ID:       rand.Text(),
	}}
	if q.jkt != "" {
		t.claims.Bound = &confirmation{q.jkt}
	}
	if q.client.Opaque {
		t.token = rand.Text()
		s.opaque[t.token] = t.claims
	} else {
		t.token = s.key.sign(accessTokenHeader, t.claims)
	}
	s.grants[t.claims.ID] = g
	s.last[q.client.ID] = t
	return t
}

// live returns the claims of a token if this server issued it and it has not
// ended.
func (s *Server) live(token string) (claims, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.liveLocked(token)
}

func (s *Server) liveLocked(token string) (claims, error) {
	c, ok := s.opaque[token]
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
	if g := s.grants[c.ID]; s.revoked[c.ID] || g != nil && g.revoked {
		return claims{}, errors.New("revoked")
	}
	return c, nil
}

func (c claims) isFor(audience string) bool {
	return slices.Contains(c.Audience, audience)
}

func (c claims) tokenType() string {
	if c.Bound != nil {
		return "DPoP"
	}
	return "Bearer"
}
