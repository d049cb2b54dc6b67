package authserver

import "net/http"

// serveIntrospection implements RFC 7662. Every client of the server may ask
// about every token.
func (s *Server) serveIntrospection(x *exchange, r *http.Request) {
	if r.Method != http.MethodPost {
		response{http.StatusMethodNotAllowed, http.Header{"Allow": {"POST"}}, nil}.write(x)
		return
	}
	if _, f := s.authenticate(r); f != nil {
		f.response().write(x)
		return
	}
	if r.PostForm.Get("token") == "" {
		f := &failure{code: "invalid_request", description: "no token"}
		f.response().write(x)
		return
	}
	c, err := s.live(r.PostForm.Get("token"))
	if err != nil {
		// RFC 7662 2.2: no word about why.
		writeJSON(x, http.StatusOK, map[string]any{"active": false})
		return
	}
	writeJSON(x, http.StatusOK, struct {
		Active bool   `json:"active"`
		Type   string `json:"token_type"`
		claims
	}{true, "Bearer", c})
}
