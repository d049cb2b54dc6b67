package authserver

import "net/http"

// revoke implements RFC 7009. A refresh token takes with it all tokens of its
// grant, an access token none.
func (s *Server) revoke(x *exchange, r *http.Request, _ Answer) response {
	if resp := refuseForm(x, r); resp != nil {
		return *resp
	}
	c, f := s.authenticate(r)
	if f == nil && r.PostForm.Get("token") == "" {
		f = &failure{code: "invalid_request", description: "no token"}
	}
	if f != nil {
		return f.response()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done := response{http.StatusOK, http.Header{"Cache-Control": {"no-store"}}, nil}
	// RFC 7009 2.1: the client is told that it is not its own.
	foreign := &failure{code: "invalid_grant", description: "another client's token"}
	if t := s.refreshTokenLocked(r.PostForm.Get("token")); t != nil {
		if t.grant.client != c.ID {
			return foreign.response()
		}
		t.grant.revoked = true
		return done
	}
	token, err := s.liveLocked(r.PostForm.Get("token"))
	if err != nil {
		return done // RFC 7009 2.2: that is what was wanted
	}
	if token.ClientID != c.ID {
		return foreign.response()
	}
	s.revoked[token.ID] = true
	return done
}
