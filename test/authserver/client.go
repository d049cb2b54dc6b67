package authserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// How a client authenticates; it may do so in no other way.
const (
	AuthBasic         = "basic"                       // RFC 6749 2.3.1: id and secret form-encoded, then Basic
	AuthRaw           = "raw"                         // Basic without form-encoding, as some servers want it
	AuthPost          = "post"                        // in the request body
	AuthNone          = "none"                        // a public client: client_id only
	AuthSecretJWT     = "client_secret_jwt"           // RFC 7523 2.2, HS256
	AuthPrivateKeyJWT = "private_key_jwt"             // RFC 7523 2.2, RS256, PS256, ES256 or EdDSA
	AuthTLS           = "tls_client_auth"             // RFC 8705 2.1
	AuthSelfSignedTLS = "self_signed_tls_client_auth" // RFC 8705 2.2
)

// What becomes of refresh tokens when they are used.
const (
	// RefreshRotate gives a new one. Who uses the old one again ends all
	// tokens of the grant, unless the client's grace allows it.
	RefreshRotate = "rotate"
	RefreshSame   = "same"   // the answer has the one that was used
	RefreshSilent = "silent" // the answer has none, and the one that was used stays good
	RefreshNone   = "none"   // there are no refresh tokens
)

// A Client is registered with a server.
type Client struct {
	ID string `json:"id"`
	// Secret is for basic, raw, post and client_secret_jwt, which needs 32
	// bytes of it.
	Secret string `json:"secret,omitempty"`
	// Auth is AuthBasic if empty.
	Auth string `json:"auth,omitempty"`
	// JWKS are the public keys for private_key_jwt.
	JWKS jose.JSONWebKeySet `json:"jwks,omitzero"`
	// TokenAudience makes the token endpoint's URL the audience of the
	// client's assertions; else it is the issuer, and either way nothing else.
	TokenAudience bool `json:"token_audience,omitempty"`
	// SubjectDN is the subject for tls_client_auth of a certificate that
	// Server.ClientCertificate made, as "CN=dev".
	SubjectDN string `json:"subject_dn,omitempty"`
	// Certificate is the one for self_signed_tls_client_auth, in PEM.
	Certificate string `json:"certificate,omitempty"`

	// Opaque makes the client's access tokens mean nothing but to this
	// server; else they are JWTs.
	Opaque bool `json:"opaque,omitempty"`
	// Scope is what the client may ask for, and what it gets if it does not
	// ask. A client without one may ask for anything.
	Scope string `json:"scope,omitempty"`
	// Grants are the grant types that the client may use, any if there are
	// none. Nobody without authentication may use client_credentials.
	Grants []string `json:"grants,omitempty"`

	// RedirectURIs are matched exactly, but that http URIs of the loopback
	// interface have any port (RFC 8252 7.3).
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	// RequirePAR is as in Config, for this client.
	RequirePAR bool `json:"require_par,omitempty"`
	// RequireDPoP refuses tokens to requests without DPoP proof.
	RequireDPoP bool `json:"require_dpop,omitempty"`

	// Refresh is RefreshRotate if empty.
	Refresh string `json:"refresh,omitempty"`
	// GraceUses is how often a refresh token that was rotated may be used
	// again, GraceSeconds for how long from its first use; either is enough.
	GraceUses    int `json:"grace_uses,omitempty"`
	GraceSeconds int `json:"grace_seconds,omitempty"`
	// RefreshAlways issues refresh tokens with client_credentials too.
	RefreshAlways bool `json:"refresh_always,omitempty"`
}

func (c *Client) check() error {
	if c.ID == "" {
		return errors.New("a client without id")
	}
	if c.Auth == "" {
		c.Auth = AuthBasic
	}
	if err := c.checkAuth(); err != nil {
		return fmt.Errorf("client %q: %w", c.ID, err)
	}
	switch c.Refresh {
	case "":
		c.Refresh = RefreshRotate
	case RefreshRotate, RefreshSame, RefreshSilent, RefreshNone:
	default:
		return fmt.Errorf("client %q: refresh %q: want rotate, same, silent or none", c.ID, c.Refresh)
	}
	if (c.GraceUses != 0 || c.GraceSeconds != 0) && c.Refresh != RefreshRotate || c.GraceUses < 0 || c.GraceSeconds < 0 {
		return fmt.Errorf("client %q: grace is for refresh tokens that rotate", c.ID)
	}
	for _, uri := range c.RedirectURIs {
		if err := checkRedirectURI(uri); err != nil {
			return fmt.Errorf("client %q: redirect URI %q: %w", c.ID, uri, err)
		}
	}
	return nil
}

func (c *Client) checkAuth() error {
	var wantSecret bool
	switch c.Auth {
	case AuthBasic, AuthRaw, AuthPost:
		wantSecret = true
	case AuthSecretJWT:
		wantSecret = true
		if len(c.Secret) < 32 {
			return errors.New("client_secret_jwt needs a secret of 32 bytes") // RFC 7518 3.2
		}
	case AuthPrivateKeyJWT:
		if err := checkKeys(c.JWKS); err != nil {
			return err
		}
	case AuthTLS:
		if c.SubjectDN == "" {
			return errors.New("no subject_dn")
		}
	case AuthSelfSignedTLS:
		if _, err := parseCertificate(c.Certificate); err != nil {
			return err
		}
	case AuthNone:
	default:
		return fmt.Errorf("authentication %q is not known", c.Auth)
	}
	if wantSecret != (c.Secret != "") {
		return fmt.Errorf("authentication %q: want a secret: %v", c.Auth, wantSecret)
	}
	return nil
}

func parseCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("want a certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// may reports whether the client may use a grant type.
func (c Client) may(grantType string) bool {
	if c.Auth == AuthNone && grantType == "client_credentials" {
		return false // RFC 6749 4.4
	}
	return len(c.Grants) == 0 || slices.Contains(c.Grants, grantType)
}

// lookup returns a registered client, or what a client ID that is a URL
// describes. Nobody of that name is the zero Client.
func (s *Server) lookup(ctx context.Context, id string) (Client, error) {
	s.mu.Lock()
	c, ok := s.clients[id]
	s.mu.Unlock()
	if ok || !s.cfg.ClientIDMetadata || !strings.Contains(id, "://") {
		return c, nil
	}
	return fetchClient(ctx, id)
}

// credentials are what a request brings; nothing about them is checked yet.
type credentials struct {
	id, secret string
	assertion  string
	// auth is AuthBasic, AuthRaw, AuthPost or, for any assertion,
	// AuthPrivateKeyJWT; empty if there are none.
	auth string
}

const jwtBearerAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// credentials reads the client's credentials from the request. It names the
// client as well as it can when it returns a failure.
func (s *Server) credentials(r *http.Request) (credentials, *failure) {
	post := credentials{id: r.PostForm.Get("client_id"), secret: r.PostForm.Get("client_secret")}
	// RFC 6749 2.3: not more than one method in a request.
	several := &failure{code: "invalid_request", description: "more than one client authentication"}
	if post.secret != "" {
		post.auth = AuthPost
	}
	if assertion := r.PostForm.Get("client_assertion"); assertion != "" || r.PostForm.Has("client_assertion_type") {
		if post.id == "" {
			post.id = unverifiedSubject(assertion)
		}
		if post.auth != "" {
			return post, several
		}
		if r.PostForm.Get("client_assertion_type") != jwtBearerAssertion {
			return post, &failure{code: "invalid_client", description: "client_assertion_type is not " + jwtBearerAssertion}
		}
		post.auth, post.assertion = AuthPrivateKeyJWT, assertion
	}
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return post, nil
	}
	if len(header) > 1 || post.auth != "" {
		return post, several
	}
	unusable := &failure{code: "invalid_client", description: "unusable Authorization header", challenge: true}
	scheme, encoded, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return post, unusable
	}
	pair, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return post, unusable
	}
	id, secret, ok := strings.Cut(string(pair), ":")
	if !ok {
		return post, unusable
	}
	basic := credentials{id: id, secret: secret, auth: AuthRaw}
	s.mu.Lock()
	raw := s.clients[id].Auth == AuthRaw
	s.mu.Unlock()
	if !raw {
		basic.auth = AuthBasic
		if basic.id, err = url.QueryUnescape(id); err != nil {
			return credentials{id: id}, unusable
		}
		if basic.secret, err = url.QueryUnescape(secret); err != nil {
			return credentials{id: basic.id}, unusable
		}
	}
	if post.id != "" && post.id != basic.id {
		return basic, &failure{code: "invalid_request", description: "client_id is not that of the Authorization header"}
	}
	return basic, nil
}

// authenticate returns the client that the request proves to come from, or
// that a public client claims to be.
func (s *Server) authenticate(r *http.Request) (Client, *failure) {
	got, f := s.credentials(r)
	if f != nil {
		return Client{}, f
	}
	c, err := s.lookup(r.Context(), got.id)
	if err != nil {
		return Client{}, &failure{code: "invalid_client", description: err.Error()}
	}
	// RFC 6749 5.2: a challenge is due to those who tried the header.
	refused := &failure{
		code:        "invalid_client",
		description: "client authentication failed",
		challenge:   got.auth == AuthBasic || got.auth == AuthRaw,
	}
	switch got.auth {
	case "":
		switch c.Auth {
		case AuthNone:
			return c, nil
		case AuthTLS, AuthSelfSignedTLS:
			if err := s.checkClientCertificate(c, r.TLS); err != nil {
				refused.description = err.Error()
				return Client{}, refused
			}
			return c, nil
		}
		return Client{}, &failure{code: "invalid_client", description: "no client authentication", challenge: true}
	case AuthPrivateKeyJWT:
		if err := s.checkClientAssertion(c, got); err != nil {
			refused.description = err.Error()
			return Client{}, refused
		}
		return c, nil
	}
	want, have := sha256.Sum256([]byte(c.Secret)), sha256.Sum256([]byte(got.secret))
	if subtle.ConstantTimeCompare(want[:], have[:]) == 0 || c.Auth != got.auth {
		return Client{}, refused
	}
	return c, nil
}

// grantScope answers the scope for a request, by RFC 6749 3.3.
func (c Client) grantScope(asked string) (string, *failure) {
	if asked == "" {
		return c.Scope, nil
	}
	return narrow(c.Scope, asked)
}

// narrow returns the scopes that were asked for if all of them are among
// those that may be had; of the empty string that is any.
func narrow(scopes, asked string) (string, *failure) {
	for _, scope := range strings.Split(asked, " ") {
		if scope == "" || scopes != "" && !hasScope(scopes, scope) {
			return "", &failure{code: "invalid_scope", description: fmt.Sprintf("scope %q is not to be had", scope)}
		}
	}
	return asked, nil
}

func hasScope(scopes, scope string) bool {
	return slices.Contains(strings.Split(scopes, " "), scope)
}

// audienceOf returns what the form asks the token to be for, by RFC 8707 2 and
// RFC 8693 2.1; nil if it does not say.
func audienceOf(form url.Values) ([]string, *failure) {
	var audience []string
	for _, v := range append(slices.Clone(form["resource"]), form["audience"]...) {
		if v != "" {
			audience = append(audience, v)
		}
	}
	for _, v := range form["resource"] {
		if u, err := url.Parse(v); v != "" && (err != nil || !u.IsAbs() || u.Fragment != "") {
			return nil, &failure{code: "invalid_target", description: "resource is not an absolute URI without fragment"}
		}
	}
	return audience, nil
}
