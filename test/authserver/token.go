package authserver

import (
	"net/http"
	"time"
)

// serveToken is the token endpoint: what the script says, else the truth.
func (s *Server) serveToken(x *exchange, r *http.Request) {
	a := s.nextAnswer(x.client)
	s.wait(x, r, a)
	if a.Fault == ResetBefore {
		reset(x.hijack())
		return
	}
	var resp response
	switch {
	case a.EchoSecret:
		got, _ := s.credentials(r)
		f := &failure{
			code:        "invalid_client",
			description: "secret " + got.secret + " is wrong, Authorization was " + r.Header.Get("Authorization"),
			challenge:   got.auth != AuthPost,
		}
		resp = f.response()
	case a.Status != 0:
		resp = a.literal()
	default:
		resp = s.token(x, r, a)
	}
	s.send(x, r, a, resp)
}

// token answers a token request by RFC 6749, but for what the answer changes
// in a successful response.
func (s *Server) token(x *exchange, r *http.Request, a Answer) response {
	if r.Method != http.MethodPost {
		return response{http.StatusMethodNotAllowed, http.Header{"Allow": {"POST"}}, nil}
	}
	if x.formErr != nil {
		f := &failure{code: "invalid_request", description: x.formErr.Error()}
		return f.response()
	}
	for name, values := range r.PostForm {
		// RFC 6749 3.2; RFC 8707 2 and RFC 8693 2.1 except these two.
		if len(values) > 1 && name != "resource" && name != "audience" {
			f := &failure{code: "invalid_request", description: "a parameter is there twice"}
			return f.response()
		}
	}
	c, f := s.authenticate(r)
	if f != nil {
		return f.response()
	}
	now := time.Now()
	var t issued
	switch r.PostForm.Get("grant_type") {
	case "client_credentials":
		t, f = s.clientCredentials(c, r.PostForm, a, now)
	case "":
		f = &failure{code: "invalid_request", description: "no grant_type"}
	default:
		f = &failure{code: "unsupported_grant_type", description: "this server does not know the grant_type"}
	}
	if f != nil {
		return f.response()
	}
	members := map[string]any{
		"access_token": t.token,
		"token_type":   "Bearer",
		"expires_in":   int64(time.Unix(t.claims.Expires, 0).Sub(now) / time.Second),
	}
	if t.claims.Scope != "" {
		members["scope"] = t.claims.Scope
	}
	for name, v := range a.Set {
		members[name] = v
	}
	for _, name := range a.Drop {
		delete(members, name)
	}
	return jsonResponse(http.StatusOK, members)
}
