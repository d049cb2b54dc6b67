package authserver

import (
	"fmt"
	"net/http"
	"strings"
)

// serveResource is a protected resource (RFC 6750). It answers the claims of
// the token that it was given, if this server issued it for this resource and
// it lives. A query of scope=S makes it want that scope too.
func (s *Server) serveResource(x *exchange, r *http.Request) {
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		// RFC 6750 3.1: no error code for who brought no token.
		x.Header().Set("WWW-Authenticate", "Bearer")
		writeJSON(x, http.StatusUnauthorized, map[string]string{"error": "no token"})
		return
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if len(header) > 1 || !strings.EqualFold(scheme, "Bearer") {
		refuse(x, http.StatusBadRequest, "invalid_request", "want one Bearer token")
		return
	}
	c, err := s.live(token)
	if err != nil {
		refuse(x, http.StatusUnauthorized, "invalid_token", err.Error())
		return
	}
	if !c.isFor(s.ResourceURL) {
		refuse(x, http.StatusUnauthorized, "invalid_token", "for another audience")
		return
	}
	if want := r.URL.Query().Get("scope"); want != "" && !hasScope(c.Scope, want) {
		refuse(x, http.StatusForbidden, "insufficient_scope", "the token lacks a scope", fmt.Sprintf("scope=%q", want))
		return
	}
	writeJSON(x, http.StatusOK, c)
}

// refuse answers with a challenge by RFC 6750 3.
func refuse(w http.ResponseWriter, status int, code, description string, more ...string) {
	challenge := append([]string{fmt.Sprintf("error=%q", code), fmt.Sprintf("error_description=%q", description)}, more...)
	w.Header().Set("WWW-Authenticate", "Bearer "+strings.Join(challenge, ", "))
	writeJSON(w, status, map[string]string{"error": code, "error_description": description})
}
