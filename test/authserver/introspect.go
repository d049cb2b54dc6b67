package authserver

import (
	"net/http"
)

// introspect implements RFC 7662. Every client of the server that has
// credentials may ask about every token.
func (s *Server) introspect(x *exchange, r *http.Request, _ Answer) response {
	if resp := refuseForm(x, r); resp != nil {
		return *resp
	}
	c, f := s.authenticate(r)
	if f == nil && c.Auth == AuthNone {
		f = &failure{code: "invalid_client", description: "not for public clients", challenge: true}
	}
	if f == nil && r.PostForm.Get("token") == "" {
		f = &failure{code: "invalid_request", description: "no token"}
	}
	if f != nil {
		return f.response()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.refreshTokenLocked(r.PostForm.Get("token")); t != nil && t.spent.IsZero() && !t.grant.revoked {
		return jsonResponse(http.StatusOK, map[string]any{
			"active": true, "iss": s.Issuer, "sub": t.grant.subject, "client_id": t.grant.client,
			"scope": t.grant.scope, "iat": t.issued.Unix(),
		})
	}
	token, err := s.liveLocked(r.PostForm.Get("token"))
	if err != nil {
		// RFC 7662 2.2: no word about why.
		return jsonResponse(http.StatusOK, map[string]any{"active": false})
	}
	return jsonResponse(http.StatusOK, struct {
		Active bool   `json:"active"`
		Type   string `json:"token_type"`
		claims
	}{true, token.tokenType(), token})
}
