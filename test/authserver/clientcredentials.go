package authserver

import (
	"net/url"
	"time"
)

// clientCredentials implements RFC 6749 4.4, with resource indicators by
// RFC 8707.
func (s *Server) clientCredentials(c Client, form url.Values, a Answer, now time.Time) (issued, *failure) {
	scope, f := c.grantScope(form.Get("scope"))
	if f != nil {
		return issued{}, f
	}
	// Whoever scripts less scope than was asked for wants it to be so.
	if granted, ok := a.Set["scope"].(string); ok {
		scope = granted
	}
	var audience []string
	for _, v := range append(form["resource"], form["audience"]...) {
		if v != "" {
			audience = append(audience, v)
		}
	}
	for _, v := range form["resource"] {
		if u, err := url.Parse(v); v != "" && (err != nil || !u.IsAbs() || u.Fragment != "") {
			return issued{}, &failure{code: "invalid_target", description: "resource is not an absolute URI without fragment"}
		}
	}
	if audience == nil {
		audience = []string{s.ResourceURL}
	}
	if a.SameToken {
		if t, ok := s.lastToken(c.ID); ok && t.claims.Expires > now.Unix() {
			return t, nil
		}
	}
	// RFC 9068 2.2: without a resource owner, the client is the subject.
	return s.issue(c, c.ID, scope, audience, now), nil
}
