// Package oauth is OAuth 2.0 as a client speaks it: plain data in, one HTTP
// exchange, plain data out. It keeps no state but a [DPoP]'s nonces, tries nothing
// twice but what a server wants a nonce for, and decides nothing about how long a
// token is used; that is the broker's.
package oauth

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// An AuthMethod is how a client authenticates to the token endpoint, by its
// name in IANA's registry (OAuth Token Endpoint Authentication Methods).
// The empty method leaves the choice to [Client.ChooseAuth].
type AuthMethod string

const (
	ClientSecretBasic       AuthMethod = "client_secret_basic"         // RFC 6749 section 2.3.1
	ClientSecretPost        AuthMethod = "client_secret_post"          // RFC 6749 section 2.3.1
	ClientSecretJWT         AuthMethod = "client_secret_jwt"           // RFC 7523 section 2.2, signed with the secret (HS256)
	PrivateKeyJWT           AuthMethod = "private_key_jwt"             // RFC 7523 section 2.2, signed with Client.Key
	TLSClientAuth           AuthMethod = "tls_client_auth"             // RFC 8705 section 2.1
	SelfSignedTLSClientAuth AuthMethod = "self_signed_tls_client_auth" // RFC 8705 section 2.2
	AuthNone                AuthMethod = "none"                        // RFC 7591 section 2: a public client
)

// The grant types, as grant_type has them.
const (
	GrantClientCredentials = "client_credentials"                              // RFC 6749 section 4.4
	GrantRefreshToken      = "refresh_token"                                   // RFC 6749 section 6
	GrantAuthorizationCode = "authorization_code"                              // RFC 6749 section 4.1
	GrantDeviceCode        = "urn:ietf:params:oauth:grant-type:device_code"    // RFC 8628 section 3.4
	GrantJWTBearer         = "urn:ietf:params:oauth:grant-type:jwt-bearer"     // RFC 7523 section 2.1
	GrantTokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693 section 2.1
)

// A Client is one registered client, the token endpoint it speaks to and the
// way there. It is comparable.
type Client struct {
	ID     string
	Secret Secret
	Auth   AuthMethod
	// RawBasic leaves id and secret as they are in a Basic header, for servers
	// that do not undo the form encoding of RFC 6749 section 2.3.1.
	RawBasic bool
	// Key signs the assertions of PrivateKeyJWT.
	Key *Key
	// AssertionAudience is the aud of client assertions; empty: TokenURL.
	AssertionAudience string
	TokenURL          string
	Transport         Transport
	// DPoP proves possession with each request for tokens (RFC 9449); nil: the
	// tokens are bearer tokens.
	DPoP *DPoP
}

// A Request is what a token is asked for.
type Request struct {
	Grant string // grant_type
	// Params are the grant's own parameters: code and code_verifier,
	// refresh_token, device_code, assertion, subject_token, … Their values are
	// taken for credentials, but for those that are URIs by definition.
	Params   url.Values
	Scopes   []string // sent as one scope parameter, joined by spaces (RFC 6749 section 3.3)
	Audience []string // one audience parameter each
	Resource []string // one resource parameter each (RFC 8707 section 2)
	// Extra are further parameters; one that this package sends itself is an
	// error. As some are credentials (an assertion, a code), values of eight
	// characters or more are not repeated from a server's answer.
	Extra url.Values
}

// form gives the body that asks for r, without the client's authentication,
// and the secrets in it.
func (r Request) form() (f form, secrets []string, err error) {
	if r.Grant == "" {
		return nil, nil, errors.New("no grant type")
	}
	f.set("grant_type", r.Grant)
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		for _, v := range r.Params[name] {
			f.set(name, v)
			if !slices.Contains([]string{"redirect_uri", "subject_token_type", "actor_token_type", "requested_token_type"}, name) {
				secrets = append(secrets, v)
			}
		}
	}
	if len(r.Scopes) > 0 {
		f.set("scope", strings.Join(r.Scopes, " "))
	}
	for _, a := range r.Audience {
		f.set("audience", a)
	}
	for _, u := range r.Resource {
		f.set("resource", u)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Extra)) {
		switch _, own := r.Params[name]; {
		case own, slices.Contains([]string{"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "audience", "resource"}, name):
			return nil, nil, fmt.Errorf("%q cannot be an extra parameter", name)
		}
		for _, v := range r.Extra[name] {
			f.set(name, v)
			if len(v) >= minExtra {
				secrets = append(secrets, v)
			}
		}
	}
	return f, secrets, nil
}

// Endpoints are an authorization server's URLs; an empty one is not known.
type Endpoints struct {
	Token               string // RFC 6749 section 3.2
	PushedAuthorization string // RFC 9126 section 2
	Authorization       string // RFC 6749 section 3.1
	DeviceAuthorization string // RFC 8628 section 3.1
	Introspection       string // RFC 7662 section 2
	Revocation          string // RFC 7009 section 2
	Registration        string // RFC 7591 section 3
}
