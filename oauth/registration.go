package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ClientMetadata is what a client says of itself (RFC 7591 section 2). What is
// empty is not sent.
type ClientMetadata struct {
	Name            string
	RedirectURIs    []string
	Grants          []string // grant_types
	Responses       []string // response_types
	Auth            AuthMethod
	Scopes          []string
	ApplicationType string // "native" or "web" (OpenID Connect Registration section 2)
}

// A Registration is a client as the server registered it (RFC 7591 section
// 3.2.1). What the server says stands over what was asked for; a member that it
// leaves out is as asked.
type Registration struct {
	ID            string
	Secret        Secret // zero: a public client, or one with a key
	Auth          AuthMethod
	SecretExpires time.Time // zero: never
	AccessToken   Secret    // registration_access_token (RFC 7592 section 3); zero: none
	URL           string    // registration_client_uri; empty: none that is usable
	RedirectURIs  []string
}

// Register registers a client at endpoint (RFC 7591 section 3.1). initial is the
// initial access token, zero where registration is open. Every error is an
// [*Error].
func Register(ctx context.Context, endpoint string, m ClientMetadata, initial Secret, t Transport) (*Registration, error) {
	p, e := postJSON(ctx, endpoint, "registering at %s", struct {
		Name            string     `json:"client_name,omitempty"`
		RedirectURIs    []string   `json:"redirect_uris,omitempty"`
		Grants          []string   `json:"grant_types,omitempty"`
		Responses       []string   `json:"response_types,omitzero"`
		Auth            AuthMethod `json:"token_endpoint_auth_method,omitempty"`
		Scope           string     `json:"scope,omitempty"`
		ApplicationType string     `json:"application_type,omitempty"`
	}{m.Name, m.RedirectURIs, m.Grants, m.Responses, m.Auth, strings.Join(m.Scopes, " "), m.ApplicationType}, initial, nil, t)
	if e != nil {
		return nil, e
	}
	members, e := p.object()
	if e != nil {
		return nil, e
	}
	r := &Registration{Auth: m.Auth, RedirectURIs: m.RedirectURIs}
	if odd := r.read(members); odd != "" {
		return nil, p.errorf(p.op, Malformed, odd)
	}
	return r, nil
}

// read fills r, and says what makes the answer unusable, or "".
func (r *Registration) read(members map[string]any) string {
	var odd string
	if r.ID, r.Secret, odd = issued(members); odd != "" {
		return odd
	}
	if v := members["token_endpoint_auth_method"]; v != nil {
		method, _ := v.(string)
		if !isName(method) {
			return "token_endpoint_auth_method is not a name"
		}
		r.Auth = AuthMethod(method)
	}
	if r.Secret.IsZero() && slices.Contains([]AuthMethod{ClientSecretBasic, ClientSecretPost, ClientSecretJWT}, r.Auth) {
		return "the client is registered for " + string(r.Auth) + ", and there is no client_secret in the answer"
	}
	if seconds, understood := number(members["client_secret_expires_at"]); understood && seconds > 0 {
		r.SecretExpires = time.Unix(int64(min(seconds, maxTime)), 0).UTC()
	}
	if token, _ := members["registration_access_token"].(string); token != "" && isVisible(token) {
		r.AccessToken = NewSecret(token)
	}
	if at, _ := members["registration_client_uri"].(string); at != "" {
		if _, err := CheckURL(at); err == nil {
			r.URL = at
		}
	}
	if v := members["redirect_uris"]; v != nil {
		list, ok := v.([]any)
		r.RedirectURIs = make([]string, len(list))
		for i, item := range list {
			r.RedirectURIs[i], _ = item.(string)
			ok = ok && isVSCHAR(r.RedirectURIs[i])
		}
		if !ok {
			return "redirect_uris is not a list of URLs"
		}
	}
	return ""
}

const maxTime = 253402300799 // the last second of the year 9999

// issued reads client_id and client_secret, of which the latter may be missing,
// and says what is odd about them, or "".
func issued(members map[string]any) (id string, secret Secret, odd string) {
	if id, _ = members["client_id"].(string); !isVSCHAR(id) {
		return "", Secret{}, "there is no usable client_id in the answer"
	}
	if v := members["client_secret"]; v != nil && v != "" {
		text, _ := v.(string)
		if !isVSCHAR(text) {
			return "", Secret{}, "client_secret is no string of printable ASCII"
		}
		secret = NewSecret(text)
	}
	return id, secret, ""
}

// Credentials are a client that a user's name and password registered. Basic
// authentication is Key:Secret.
type Credentials struct {
	ID     string // client_id
	Key    string // client_key; ID where the server names none
	Secret Secret
}

// RegisterUser registers a client with a user's name and password at a server
// that knows no RFC 7591: both go there as JSON, and client_id, client_key and
// client_secret come back. Every error is an [*Error] and never has the password
// in it.
func RegisterUser(ctx context.Context, endpoint, user string, password Secret, t Transport) (*Credentials, error) {
	if user == "" || password.IsZero() {
		return nil, &Error{Op: "registering", Kind: Invalid, Err: errors.New("no user name or no password")}
	}
	p, e := postJSON(ctx, endpoint, "registering at %s", struct {
		User     string `json:"username"`
		Password string `json:"password"`
	}{user, password.Reveal()}, Secret{}, []string{password.Reveal()}, t)
	if e != nil {
		return nil, e
	}
	members, e := p.object()
	if e != nil {
		return nil, e
	}
	id, secret, odd := issued(members)
	key := id
	if v := members["client_key"]; v != nil {
		key, _ = v.(string)
	}
	switch {
	case odd != "":
	case secret.IsZero():
		odd = "there is no client_secret in the answer"
	case !isVSCHAR(key):
		odd = "client_key is no string of printable ASCII"
	default:
		return &Credentials{ID: id, Key: key, Secret: secret}, nil
	}
	return nil, p.errorf(p.op, Malformed, odd)
}

// postJSON sends message as JSON, as nobody or with a bearer token; doing is as
// in [outgoing]. secrets are those in message.
func postJSON(ctx context.Context, endpoint, doing string, message any, bearer Secret, secrets []string, t Transport) (reply, *Error) {
	p := reply{sent: newEcho(bearer.Reveal())}
	for _, s := range secrets {
		quoted, _ := json.Marshal(s)
		p.sent.know(s, string(quoted[1:len(quoted)-1]))
	}
	u, err := CheckURL(endpoint)
	if err != nil {
		return p, &Error{Op: "checking the endpoint's URL", Kind: Invalid, Err: err}
	}
	p.op = fmt.Sprintf(doing, u.Host)
	header := make(http.Header)
	if !bearer.IsZero() {
		if err := checkBearer(bearer); err != nil {
			return p, &Error{Op: p.op, Kind: Invalid, Err: err}
		}
		header.Set("Authorization", "Bearer "+bearer.Reveal())
	}
	body, err := json.Marshal(message)
	if err != nil {
		return p, &Error{Op: p.op, Kind: Invalid, Err: errors.New("it cannot be written as JSON")}
	}
	r, err := t.open(u)
	if err != nil {
		return p, &Error{Op: p.op, Kind: Invalid, Err: err}
	}
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	var failed *Error
	header.Set("Content-Type", "application/json")
	p.answer, failed = exchange(ctx, r, p.op, u, header, string(body), p.sent)
	return p, failed
}

// checkBearer admits what can stand in a header (RFC 6750 section 2.1).
func checkBearer(token Secret) error {
	if token.IsZero() || !isVisible(token.Reveal()) {
		return errors.New("the token to send has characters that no Bearer token has")
	}
	return nil
}
