// Package oauth is OAuth 2.0 as a client speaks it: plain data in, one HTTP
// exchange, plain data out. It keeps no state, tries nothing twice, and decides
// nothing about how long a token is used; that is the broker's.
package oauth

import (
	"encoding/base64"
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
	ClientSecretBasic AuthMethod = "client_secret_basic" // RFC 6749 section 2.3.1
	ClientSecretPost  AuthMethod = "client_secret_post"  // RFC 6749 section 2.3.1
	AuthNone          AuthMethod = "none"                // RFC 7591 section 2: a public client
)

// GrantClientCredentials is the grant type of RFC 6749 section 4.4.
const GrantClientCredentials = "client_credentials"

// A Client is one registered client, the token endpoint it speaks to and the
// way there. It is comparable.
type Client struct {
	ID     string
	Secret Secret
	Auth   AuthMethod
	// RawBasic leaves id and secret as they are in a Basic header, for servers
	// that do not undo the form encoding of RFC 6749 section 2.3.1.
	RawBasic  bool
	TokenURL  string
	Transport Transport
}

// ChooseAuth gives c.Auth where it is set. Where it is not, a client without
// secret is public, and one with a secret uses Basic, which servers must
// support (RFC 6749 section 2.3.1), unless listed, what discovery says
// ([Metadata.TokenAuthMethods]), has the form body and not Basic.
func (c *Client) ChooseAuth(listed []string) AuthMethod {
	switch {
	case c.Auth != "":
		return c.Auth
	case c.Secret.IsZero():
		return AuthNone
	case slices.Contains(listed, string(ClientSecretPost)) && !slices.Contains(listed, string(ClientSecretBasic)):
		return ClientSecretPost
	default:
		return ClientSecretBasic
	}
}

// parameters gives the form body for r, and the value of an Authorization
// header or "". The order is fixed, so that equal requests are equal bytes.
func (c *Client) parameters(r Request) (body, authorization string, err error) {
	var form []string
	set := func(name, value string) {
		form = append(form, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	if r.Grant == "" {
		return "", "", errors.New("no grant type")
	}
	if c.ID == "" {
		return "", "", errors.New("no client id")
	}
	method := c.ChooseAuth(nil)
	if c.Secret.IsZero() && (method == ClientSecretBasic || method == ClientSecretPost) {
		return "", "", fmt.Errorf("%s without a client secret", method)
	}
	set("grant_type", r.Grant)
	switch method {
	case ClientSecretBasic:
		id, secret := url.QueryEscape(c.ID), url.QueryEscape(c.Secret.Reveal())
		if c.RawBasic {
			id, secret = c.ID, c.Secret.Reveal()
			if strings.Contains(id, ":") {
				return "", "", errors.New("a client id with a colon cannot stand raw in a Basic header (RFC 7617)")
			}
		}
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	case ClientSecretPost:
		set("client_id", c.ID)
		set("client_secret", c.Secret.Reveal())
	case AuthNone:
		set("client_id", c.ID)
	default:
		return "", "", fmt.Errorf("client authentication %q is not supported", method)
	}
	if len(r.Scopes) > 0 {
		set("scope", strings.Join(r.Scopes, " "))
	}
	for _, a := range r.Audience {
		set("audience", a)
	}
	for _, u := range r.Resource {
		set("resource", u)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Extra)) {
		switch name {
		case "grant_type", "client_id", "client_secret", "scope", "audience", "resource":
			return "", "", fmt.Errorf("%q cannot be an extra parameter", name)
		}
		for _, v := range r.Extra[name] {
			set(name, v)
		}
	}
	return strings.Join(form, "&"), authorization, nil
}

// A Request is what a token is asked for.
type Request struct {
	Grant    string   // grant_type
	Scopes   []string // sent as one scope parameter, joined by spaces (RFC 6749 section 3.3)
	Audience []string // one audience parameter each
	Resource []string // one resource parameter each (RFC 8707 section 2)
	// Extra are further parameters; one that this package sends itself is an
	// error. As some are credentials (an assertion, a code), values of eight
	// characters or more are not repeated from a server's answer.
	Extra url.Values
}

// Endpoints are an authorization server's URLs; an empty one is not known.
type Endpoints struct {
	Token               string // RFC 6749 section 3.2
	Authorization       string // RFC 6749 section 3.1
	DeviceAuthorization string // RFC 8628 section 3.1
	Introspection       string // RFC 7662 section 2
	Revocation          string // RFC 7009 section 2
	Registration        string // RFC 7591 section 3
}
