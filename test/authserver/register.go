package authserver

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// metadataDocument is client metadata by RFC 7591 2, as far as this server
// looks at it.
type metadataDocument struct {
	ClientID      string             `json:"client_id"`
	RedirectURIs  []string           `json:"redirect_uris"`
	AuthMethod    string             `json:"token_endpoint_auth_method"`
	Grants        []string           `json:"grant_types"`
	ResponseTypes []string           `json:"response_types"`
	Scope         string             `json:"scope"`
	JWKS          jose.JSONWebKeySet `json:"jwks"`
	RequireDPoP   bool               `json:"dpop_bound_access_tokens"`
	RequirePAR    bool               `json:"require_pushed_authorization_requests"`
	SubjectDN     string             `json:"tls_client_auth_subject_dn"`
}

// A registration is what a client was told when it registered.
type registration struct {
	members map[string]any
	token   string // registration_access_token
}

// client returns the client that the document describes, without secret.
func (d metadataDocument) client(id string) Client {
	c := Client{
		ID: id, Auth: d.AuthMethod, JWKS: d.JWKS, SubjectDN: d.SubjectDN, Scope: d.Scope, Grants: d.Grants,
		RedirectURIs: d.RedirectURIs, RequirePAR: d.RequirePAR, RequireDPoP: d.RequireDPoP,
	}
	switch d.AuthMethod {
	case "client_secret_basic":
		c.Auth = AuthBasic
	case "client_secret_post":
		c.Auth = AuthPost
	}
	return c
}

// register is the endpoint of RFC 7591 3.
func (s *Server) register(_ *exchange, r *http.Request, _ Answer) response {
	if r.Method != http.MethodPost {
		return notAllowed("POST")
	}
	if want := s.cfg.RegistrationToken; want != "" && r.Header.Get("Authorization") != "Bearer "+want {
		resp := jsonResponse(http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		resp.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		return resp
	}
	refuse := func(code string, err error) response {
		f := &failure{code: code, description: err.Error()}
		return f.response()
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return refuse("invalid_client_metadata", err)
	}
	// RFC 7591 2: what is left out.
	d := metadataDocument{
		AuthMethod: "client_secret_basic", Grants: []string{"authorization_code"}, ResponseTypes: []string{"code"},
	}
	members := make(map[string]any)
	if err := errors.Join(json.Unmarshal(body, &d), json.Unmarshal(body, &members)); err != nil {
		return refuse("invalid_client_metadata", err)
	}
	for _, uri := range d.RedirectURIs {
		if err := checkRedirectURI(uri); err != nil {
			return refuse("invalid_redirect_uri", err)
		}
	}
	usesCodes := slices.Contains(d.Grants, "authorization_code")
	if usesCodes && len(d.RedirectURIs) == 0 {
		return refuse("invalid_redirect_uri", errors.New("no redirect_uris"))
	}
	if usesCodes != slices.Equal(d.ResponseTypes, []string{"code"}) && len(d.ResponseTypes) > 0 {
		return refuse("invalid_client_metadata", errors.New("grant_types and response_types do not agree"))
	}
	c := d.client(rand.Text())
	switch d.AuthMethod {
	case "client_secret_basic", "client_secret_post", AuthSecretJWT:
		c.Secret = rand.Text() + rand.Text()
	case AuthTLS:
		if !s.cfg.MTLS {
			return refuse("invalid_client_metadata", errors.New("this server asks for no certificates"))
		}
	case AuthPrivateKeyJWT, AuthNone:
	default:
		return refuse("invalid_client_metadata", fmt.Errorf("token_endpoint_auth_method %q", d.AuthMethod))
	}
	if err := c.check(); err != nil {
		return refuse("invalid_client_metadata", err)
	}
	token := rand.Text()
	members["client_id"] = c.ID
	members["client_id_issued_at"] = time.Now().Unix()
	members["token_endpoint_auth_method"] = d.AuthMethod
	members["grant_types"] = d.Grants
	members["response_types"] = d.ResponseTypes
	members["registration_access_token"] = token
	members["registration_client_uri"] = s.Issuer + "/register/" + c.ID
	delete(members, "client_secret")
	if c.Secret != "" {
		members["client_secret"] = c.Secret
		members["client_secret_expires_at"] = 0 // never
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.ID] = c
	s.registrations[c.ID] = registration{members, token}
	return jsonResponse(http.StatusCreated, members)
}

// registration tells a client again what it was told, by RFC 7592 2.1.
func (s *Server) registration(_ *exchange, r *http.Request, _ Answer) response {
	if r.Method != http.MethodGet {
		return notAllowed("GET")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.registrations[path.Base(r.URL.Path)]
	if !ok || r.Header.Get("Authorization") != "Bearer "+known.token {
		resp := jsonResponse(http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		resp.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		return resp
	}
	return jsonResponse(http.StatusOK, known.members)
}
