package authserver

import "net/http"

// metadataPaths are where clients look: OpenID Connect Discovery 4 appends to
// the issuer, RFC 8414 3.1 inserts before its path, and some append there too.
func (s *Server) metadataPaths() []string {
	const openid, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	return []string{s.path + openid, s.path + oauth, openid + s.path, oauth + s.path}
}

// serveMetadata answers RFC 8414 metadata.
func (s *Server) serveMetadata(w http.ResponseWriter) {
	methods := []string{"client_secret_basic", "client_secret_post"}
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                s.Issuer,
		"token_endpoint":                        s.TokenURL,
		"token_endpoint_auth_methods_supported": methods,
		"introspection_endpoint":                s.Issuer + "/introspect",
		"introspection_endpoint_auth_methods_supported": methods,
		"jwks_uri":                 s.Issuer + "/jwks",
		"grant_types_supported":    []string{"client_credentials"},
		"response_types_supported": []string{},
	})
}
