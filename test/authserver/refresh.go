package authserver

import (
	"crypto/rand"
	"slices"
	"time"
)

// A refreshToken is one that was issued, spent or not.
type refreshToken struct {
	token  string
	grant  *grant
	issued time.Time
	spent  time.Time // when it was rotated; zero if it was not
	used   int       // how many requests it was good for
	again  int       // how often it came after it was rotated, for good or ill
}

// issueRefreshLocked returns a refresh token of the grant, or the empty string
// if the client gets none.
func (s *Server) issueRefreshLocked(q grantRequest, g *grant) string {
	if q.client.Refresh == RefreshNone || !q.client.may("refresh_token") {
		return ""
	}
	// RFC 9449 5: a public client's refresh token is bound to its key.
	if q.client.Auth == AuthNone {
		g.jkt = q.jkt
	}
	t := &refreshToken{token: rand.Text(), grant: g, issued: q.now}
	s.refreshTokens = append(s.refreshTokens, t)
	return t.token
}

func (s *Server) refreshTokenLocked(token string) *refreshToken {
	i := slices.IndexFunc(s.refreshTokens, func(t *refreshToken) bool { return t.token == token })
	if i < 0 {
		return nil
	}
	return s.refreshTokens[i]
}

// refreshLocked implements RFC 6749 6, with rotation by RFC 9700 4.14.2.
func (s *Server) refreshLocked(q grantRequest) (issued, *failure) {
	refuse := func(why string) (issued, *failure) {
		return issued{}, &failure{code: "invalid_grant", description: why}
	}
	t := s.refreshTokenLocked(q.form.Get("refresh_token"))
	if t == nil || t.grant.client != q.client.ID {
		return refuse("not a refresh token of this client")
	}
	g := t.grant
	if g.jkt != "" && g.jkt != q.jkt {
		return refuse("the refresh token is bound to another key")
	}
	if !t.spent.IsZero() {
		t.again++
	}
	if g.revoked {
		return refuse("the refresh token was revoked")
	}
	if !t.spent.IsZero() && !q.client.inGrace(t, q.now) {
		g.revoked = true
		return refuse("the refresh token was used before")
	}
	// What is wrong with the request must not cost the client its token.
	scope := g.scope
	if asked := q.form.Get("scope"); asked != "" {
		var f *failure
		if scope, f = narrow(g.scope, asked); f != nil {
			return issued{}, f
		}
	}
	audience, f := g.narrowAudience(q)
	if f != nil {
		return issued{}, f
	}
	t.used++
	access := s.issueLocked(q, g, scope, audience)
	switch q.client.Refresh {
	case RefreshRotate:
		if t.spent.IsZero() {
			t.spent = q.now
		}
		access.refresh = s.issueRefreshLocked(q, g)
	case RefreshSame:
		access.refresh = t.token
	}
	return access, nil
}

// inGrace reports whether a token that was rotated, and has come again, may be
// used once more.
func (c Client) inGrace(t *refreshToken, now time.Time) bool {
	return t.again <= c.GraceUses || now.Before(t.spent.Add(time.Duration(c.GraceSeconds)*time.Second))
}

// narrowAudience returns the audience that the request asks for if it is one
// of the grant's, by RFC 8707 2.2.
func (g *grant) narrowAudience(q grantRequest) ([]string, *failure) {
	audience, f := audienceOf(q.form)
	if f != nil || audience == nil {
		return g.audience, f
	}
	for _, v := range audience {
		if !slices.Contains(g.audience, v) {
			return nil, &failure{code: "invalid_target", description: "the grant is not for that resource"}
		}
	}
	return audience, nil
}
