package authserver

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// metadataPaths are where clients look: OpenID Connect Discovery 4 appends to
// the issuer, RFC 8414 3.1 inserts before its path, and some append there too.
func (s *Server) metadataPaths() []string {
	const openid, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	path := s.cfg.Path
	return []string{path + openid, path + oauth, openid + path, oauth + path}
}

// resourceMetadataPaths are where RFC 9728 3.1 has the resource's, and the
// root, where clients look that know only the host.
func (s *Server) resourceMetadataPaths() []string {
	const well = "/.well-known/oauth-protected-resource"
	return []string{well + s.cfg.Path + "/resource", well}
}

// metadata is that of RFC 8414.
func (s *Server) metadata(_ *exchange, r *http.Request, _ Answer) response {
	if r.Method != http.MethodGet {
		return notAllowed("GET")
	}
	methods := []string{
		"client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt",
	}
	if s.cfg.MTLS {
		methods = append(methods, AuthTLS, AuthSelfSignedTLS)
	}
	grants := []string{"client_credentials", "authorization_code", "refresh_token", grantDevice, grantExchange}
	if len(s.cfg.Issuers) > 0 {
		grants = append(grants, grantJWT)
	}
	algorithms := append(algorithmNames(), "HS256")
	m := map[string]any{
		"issuer":                           s.Issuer,
		"jwks_uri":                         s.Issuer + "/jwks",
		"grant_types_supported":            grants,
		"response_types_supported":         []string{"code"},
		"response_modes_supported":         []string{"query"},
		"code_challenge_methods_supported": []string{"S256"},
		"authorization_response_iss_parameter_supported": s.cfg.ResponseIss != NoIss,
		"require_pushed_authorization_requests":          s.cfg.RequirePAR,
		"client_id_metadata_document_supported":          s.cfg.ClientIDMetadata,
		"dpop_signing_alg_values_supported":              algorithmNames(),
		"protected_resources":                            []string{s.ResourceURL},
		"authorization_endpoint":                         s.Issuer + "/authorize",
		"scopes_supported":                               s.scopes(),
		// OpenID Connect Discovery 3 requires these.
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{s.key.alg},
	}
	if s.cfg.Registration {
		m["registration_endpoint"] = s.Issuer + "/register"
	}
	posted := map[string]string{
		"token_endpoint":                        "/token",
		"introspection_endpoint":                "/introspect",
		"revocation_endpoint":                   "/revoke",
		"pushed_authorization_request_endpoint": "/par",
		"device_authorization_endpoint":         "/device_authorization",
	}
	aliases := make(map[string]string)
	for name, path := range posted {
		m[name] = s.Issuer + path
		aliases[name] = s.MTLSURL + s.cfg.Path + path
	}
	if s.cfg.MTLS {
		m["mtls_endpoint_aliases"] = aliases
	}
	for _, name := range []string{"token", "introspection", "revocation"} {
		m[name+"_endpoint_auth_methods_supported"] = methods
		m[name+"_endpoint_auth_signing_alg_values_supported"] = algorithms
	}
	for _, name := range []string{"token", "revocation"} {
		m[name+"_endpoint_auth_methods_supported"] = append(methods[:len(methods):len(methods)], AuthNone)
	}
	return jsonResponse(http.StatusOK, override(m, s.cfg.Metadata))
}

// override changes members, and removes those that are nil.
func override(members, with map[string]any) map[string]any {
	maps.Copy(members, with)
	maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
	return members
}

// scopes are openid, and those that any client or the resource names.
func (s *Server) scopes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]bool{"openid": true}
	for _, scope := range strings.Fields(s.cfg.ResourceScope) {
		names[scope] = true
	}
	for _, c := range s.clients {
		for _, scope := range strings.Fields(c.Scope) {
			names[scope] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func algorithmNames() []string {
	var names []string
	for _, alg := range signatureAlgorithms {
		names = append(names, string(alg))
	}
	return names
}

// resourceMetadata is that of RFC 9728.
func (s *Server) resourceMetadata(_ *exchange, r *http.Request, _ Answer) response {
	if r.Method != http.MethodGet {
		return notAllowed("GET")
	}
	m := map[string]any{
		"resource":                          s.ResourceURL,
		"authorization_servers":             []string{s.Issuer},
		"bearer_methods_supported":          []string{"header"},
		"dpop_signing_alg_values_supported": algorithmNames(),
	}
	if s.cfg.ResourceScope != "" {
		m["scopes_supported"] = strings.Fields(s.cfg.ResourceScope)
	}
	return jsonResponse(http.StatusOK, override(m, s.cfg.ResourceMetadata))
}

// jwks are the keys that access tokens are signed with.
func (s *Server) jwks(*exchange, *http.Request, Answer) response {
	return jsonResponse(http.StatusOK, map[string]any{"keys": []any{s.key.jwk()}})
}
