package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// An Authorization is a request to the authorization endpoint for a code
// (RFC 6749 section 4.1.1), with PKCE by S256 (RFC 7636 section 4.3).
type Authorization struct {
	URL         string // the authorization endpoint
	ClientID    string
	RedirectURL string
	Scopes      []string // sent as one scope parameter, joined by spaces
	Audience    []string // one audience parameter each
	Resource    []string // one resource parameter each (RFC 8707 section 2)
	State       string
	Nonce       string // OpenID Connect Core section 3.1.2.1; empty: none
	Challenge   string // code_challenge, as [NewVerifier] gives it
	// Extra are further parameters. What a field of this struct says stands over
	// them, and credentials of the client are left out: a browser's history is no
	// place for those.
	Extra          url.Values
	RequestURI     string // what [Client.PushAuthorization] gave; empty: nothing was pushed
	DPoPThumbprint string // dpop_jkt (RFC 9449 section 10); empty: none
}

// Parameters are those of the request, for a URL or to be pushed.
func (a Authorization) Parameters() url.Values {
	p := make(url.Values)
	for name, values := range a.Extra {
		switch name {
		case "client_secret", "client_assertion", "client_assertion_type", "request_uri":
		default:
			p[name] = slices.Clone(values)
		}
	}
	p.Set("response_type", "code")
	p.Set("code_challenge_method", "S256")
	for name, value := range map[string]string{
		"client_id":      a.ClientID,
		"redirect_uri":   a.RedirectURL,
		"scope":          strings.Join(a.Scopes, " "),
		"state":          a.State,
		"nonce":          a.Nonce,
		"code_challenge": a.Challenge,
		"dpop_jkt":       a.DPoPThumbprint,
	} {
		if value != "" {
			p.Set(name, value)
		}
	}
	if len(a.Audience) > 0 {
		p["audience"] = slices.Clone(a.Audience)
	}
	if len(a.Resource) > 0 {
		p["resource"] = slices.Clone(a.Resource)
	}
	return p
}

// String is the URL to open. The endpoint's own query stays in front (RFC 6749
// section 3.1). Of a request that was pushed there is nothing in it but
// client_id and request_uri (RFC 9126 section 4).
func (a Authorization) String() string {
	p := url.Values{"client_id": {a.ClientID}, "request_uri": {a.RequestURI}}
	if a.RequestURI == "" {
		p = a.Parameters()
	}
	separator := "?"
	if strings.Contains(a.URL, "?") {
		separator = "&"
	}
	return a.URL + separator + p.Encode()
}

// Secrets are what of the request must not come back in a text of the server.
func (a Authorization) Secrets() []Secret {
	secrets := []Secret{NewSecret(a.State)}
	for _, values := range a.Extra {
		for _, v := range values {
			if len(v) >= minExtra {
				secrets = append(secrets, NewSecret(v))
			}
		}
	}
	return secrets
}

// NewVerifier makes a code_verifier of 256 random bits, which are 43 characters
// (RFC 7636 section 4.1), and its S256 challenge.
func NewVerifier() (verifier Secret, challenge string) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	text := base64.RawURLEncoding.EncodeToString(random)
	sum := sha256.Sum256([]byte(text))
	return NewSecret(text), base64.RawURLEncoding.EncodeToString(sum[:])
}

// NewState makes a state or a nonce of at least 128 random bits (RFC 6749
// section 10.10).
func NewState() string { return rand.Text() }

// PushAuthorization leaves a with the server (RFC 9126 section 2) and gives the
// request_uri that stands for it for as long as life, from when it was sent.
// Every error is an [*Error].
func (c *Client) PushAuthorization(ctx context.Context, endpoint string, a Authorization) (requestURI string, life time.Duration, err error) {
	if a.ClientID != c.ID {
		return "", 0, &Error{Op: "leaving the authorization request", Kind: Invalid, Err: errors.New("it is another client's")}
	}
	params := a.Parameters()
	if c.ChooseAuth(nil) != ClientSecretBasic {
		delete(params, "client_id") // comes with the authentication
	}
	var f form
	for _, name := range slices.Sorted(maps.Keys(params)) {
		for _, v := range params[name] {
			f.set(name, v)
		}
	}
	var secrets []string
	for _, s := range a.Secrets() {
		secrets = append(secrets, s.Reveal())
	}
	p, e := c.post(ctx, outgoing{endpoint: endpoint, doing: "leaving the authorization request with %s", form: f, secrets: secrets, proof: true})
	if e != nil {
		return "", 0, e
	}
	members, e := p.object()
	if e != nil {
		return "", 0, e
	}
	if p.status != http.StatusCreated {
		return "", 0, p.errorf(p.op, Malformed, "the answer is not 201 Created (RFC 9126 section 2.2)")
	}
	requestURI, _ = members["request_uri"].(string)
	if !isRequestURI(requestURI) {
		return "", 0, p.errorf(p.op, Malformed, "request_uri is neither a urn nor an https URL")
	}
	if life = lifetime(members["expires_in"]); life <= 0 {
		return "", 0, p.errorf(p.op, Malformed, "expires_in is missing or no time")
	}
	return requestURI, life, nil
}

func isRequestURI(s string) bool {
	if rest, ok := strings.CutPrefix(s, "urn:"); ok {
		return isVSCHAR(rest) && len(rest) <= 2048 && !strings.ContainsAny(rest, " #")
	}
	u, err := CheckURL(s)
	return err == nil && u.Scheme == "https" && len(s) <= 2048
}

// A Callback is what an authorization server says through the browser
// (RFC 6749 sections 4.1.2 and 4.1.2.1).
type Callback struct {
	Code   Secret // zero where Err says why
	State  string
	Issuer string // iss (RFC 9207); empty: none came
	Err    *Error // error and error_description, cleaned; nil where there is a code
}

const opCallback = "reading the answer that came through the browser"

// ParseCallback reads the query of a redirect. A parameter that is there twice,
// whichever it is, is an error (RFC 6749 section 3.1), and so is a callback with
// both code and error or neither. Anybody on the machine can make a browser send
// one, so an error here says nothing about the server. Every error is an
// [*Error], and repeats nothing of the query. What the server says is withheld where
// it repeats what it was sent.
func ParseCallback(query url.Values, sent ...Secret) (Callback, error) {
	refuse := func(text string) (Callback, error) {
		return Callback{}, &Error{Op: opCallback, Kind: Malformed, Err: errors.New(text)}
	}
	for _, values := range query {
		if len(values) > 1 {
			return refuse("a parameter is there twice (RFC 6749 section 3.1)")
		}
	}
	code, failure := query.Get("code"), query.Get("error")
	cb := Callback{Code: NewSecret(code), State: query.Get("state"), Issuer: query.Get("iss")}
	switch {
	case code != "" && failure != "":
		return refuse("there are both a code and an error")
	case code == "" && failure == "":
		return refuse("there is neither a code nor an error")
	case code != "" && !isVSCHAR(code):
		return refuse("the code has characters that no code has (RFC 6749 appendix A.11)")
	case cb.State != "" && !isVSCHAR(cb.State):
		return refuse("the state has characters that no state has (RFC 6749 appendix A.5)")
	}
	if failure != "" {
		members := map[string]any{"error": failure, "error_description": query.Get("error_description")}
		cb.Err = &Error{Op: "asking for authorization", Kind: Refused}
		cb.Err.Code, cb.Err.Description, _ = said(members, echoOf(slices.Concat(sent, []Secret{NewSecret(cb.State)})))
		if cb.Err.Code == "temporarily_unavailable" || cb.Err.Code == "server_error" {
			cb.Err.Kind = Temporary
		}
	}
	return cb, nil
}

// Check compares iss with the issuer that was asked, byte by byte (RFC 9207
// section 2.4), also where the callback is an error. supported says that the
// server promises iss ([Metadata.IssParameter]): then it must be there. An empty
// issuer is not known, and there is nothing to compare. sent is as for [ParseCallback].
func (cb Callback) Check(issuer string, supported bool, sent ...Secret) error {
	switch {
	case cb.Issuer == "" && supported:
		return &Error{Op: opCallback, Kind: Malformed, Err: errors.New("iss is missing, which this server promises (RFC 9207)")}
	case cb.Issuer != "" && issuer != "" && cb.Issuer != issuer:
		e := echoOf(slices.Concat(sent, []Secret{cb.Code, NewSecret(cb.State)}))
		return &Error{Op: opCallback, Kind: Malformed, Err: fmt.Errorf("it is of issuer %s, not of %s (RFC 9207)", e.clean(cb.Issuer), e.clean(issuer))}
	}
	return nil
}
