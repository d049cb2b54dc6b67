package authserver

import (
	"fmt"
	"net/http"
	"strings"
)

// resource is a protected resource (RFC 6750). It answers the claims of the
// token that it was given, if this server issued it for this resource and it
// lives. A token that is bound to a key has to come with a DPoP proof
// (RFC 9449 7.1). It wants the scope of Config.ResourceScope, and that of a
// query of scope=S too.
func (s *Server) resource(_ *exchange, r *http.Request, _ Answer) response {
	wanted := strings.Fields(s.cfg.ResourceScope + " " + r.URL.Query().Get("scope"))
	scope := strings.Join(wanted, " ")
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		// RFC 6750 3.1: no error code for who brought no token.
		return s.challenge("Bearer", http.StatusUnauthorized, "", "no token", scope)
	}
	given, token, _ := strings.Cut(header[0], " ")
	scheme := "Bearer"
	if strings.EqualFold(given, "DPoP") {
		scheme = "DPoP"
	} else if !strings.EqualFold(given, "Bearer") {
		scheme = ""
	}
	if len(header) > 1 || scheme == "" {
		return s.challenge("Bearer", http.StatusBadRequest, "invalid_request", "want one Bearer or DPoP token", "")
	}
	invalid := func(why string) response {
		return s.challenge(scheme, http.StatusUnauthorized, "invalid_token", why, "")
	}
	c, err := s.live(token)
	if err != nil {
		return invalid(err.Error())
	}
	if !c.isFor(s.ResourceURL) {
		return invalid("for another audience")
	}
	if c.tokenType() != scheme {
		scheme = c.tokenType()
		return invalid("the token is for the scheme " + scheme)
	}
	if c.Bound != nil {
		jkt, f := s.checkProof(r, token)
		if f != nil {
			return s.challenge("DPoP", http.StatusUnauthorized, f.code, f.description, "")
		}
		if jkt != c.Bound.Thumbprint {
			return invalid("no proof with the token's key")
		}
	}
	for _, want := range wanted {
		if !hasScope(c.Scope, want) {
			return s.challenge(scheme, http.StatusForbidden, "insufficient_scope", "the token lacks a scope", scope)
		}
	}
	return jsonResponse(http.StatusOK, c)
}

// challenge is a response by RFC 6750 3, with the members of RFC 9728 5.1 and
// RFC 9449 7.1.
func (s *Server) challenge(scheme string, status int, code, description, scope string) response {
	var params []string
	add := func(name, value string) {
		if value != "" {
			params = append(params, fmt.Sprintf("%s=%q", name, value))
		}
	}
	members := map[string]string{"error": description}
	add("error", code)
	if code != "" {
		add("error_description", description)
		members = map[string]string{"error": code, "error_description": description}
	}
	add("scope", scope)
	add("resource_metadata", s.URL+s.resourceMetadataPaths()[0])
	if scheme == "DPoP" {
		add("algs", strings.Join(algorithmNames(), " "))
	}
	resp := jsonResponse(status, members)
	resp.header.Set("WWW-Authenticate", scheme+" "+strings.Join(params, ", "))
	return resp
}

// challengeStatus is the status that RFC 6750 3.1 gives an error code.
func challengeStatus(code string) int {
	switch code {
	case "invalid_request":
		return http.StatusBadRequest
	case "insufficient_scope":
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}
