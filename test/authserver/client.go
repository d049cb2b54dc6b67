package authserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// How a client authenticates at the token endpoint; it may do so in no other
// way.
const (
	AuthBasic = "basic" // RFC 6749 2.3.1: id and secret form-encoded, then Basic
	AuthRaw   = "raw"   // Basic without form-encoding, as some servers want it
	AuthPost  = "post"  // in the request body
)

// A Client is registered with a server.
type Client struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
	// Auth is AuthBasic if empty.
	Auth string `json:"auth,omitempty"`
	// Opaque makes the client's access tokens mean nothing but to this
	// server; else they are JWTs.
	Opaque bool `json:"opaque,omitempty"`
	// Scope is what the client may ask for, and what it gets if it does not
	// ask. A client without one may ask for anything.
	Scope string `json:"scope,omitempty"`
}

func (c *Client) check() error {
	if c.ID == "" || c.Secret == "" {
		return fmt.Errorf("client %q: id and secret must not be empty", c.ID)
	}
	switch c.Auth {
	case "":
		c.Auth = AuthBasic
	case AuthBasic, AuthRaw, AuthPost:
	default:
		return fmt.Errorf("client %q: authentication %q: want basic, raw or post", c.ID, c.Auth)
	}
	return nil
}

// credentials are what a request brings; nothing about them is checked yet.
type credentials struct {
	id, secret string
	auth       string // AuthBasic, AuthRaw or AuthPost; empty if there are none
}

// credentials reads the client's credentials from the request. It names the
// client as well as it can when it returns a failure.
func (s *Server) credentials(r *http.Request) (credentials, *failure) {
	post := credentials{id: r.PostForm.Get("client_id"), secret: r.PostForm.Get("client_secret")}
	if post.secret != "" {
		post.auth = AuthPost
	}
	header := r.Header.Values("Authorization")
	if len(header) == 0 {
		return post, nil
	}
	// RFC 6749 2.3: not more than one method in a request.
	if len(header) > 1 || post.auth != "" {
		return post, &failure{code: "invalid_request", description: "more than one client authentication"}
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
	if s.clients[id].Auth != AuthRaw {
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

// authenticate returns the client that the request proves to come from.
func (s *Server) authenticate(r *http.Request) (Client, *failure) {
	got, f := s.credentials(r)
	if f != nil {
		return Client{}, f
	}
	if got.auth == "" {
		return Client{}, &failure{code: "invalid_client", description: "no client authentication", challenge: true}
	}
	// RFC 6749 5.2: a challenge is due to those who tried the header.
	refused := &failure{code: "invalid_client", description: "client authentication failed", challenge: got.auth != AuthPost}
	c := s.clients[got.id] // the zero Client, whose Auth is nobody's, if there is none
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
	for _, scope := range strings.Split(asked, " ") {
		if scope == "" || c.Scope != "" && !hasScope(c.Scope, scope) {
			return "", &failure{code: "invalid_scope", description: fmt.Sprintf("scope %q is not to be had", scope)}
		}
	}
	return asked, nil
}

func hasScope(scopes, scope string) bool {
	return slices.Contains(strings.Split(scopes, " "), scope)
}
