package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const assertionLife = time.Minute

// ChooseAuth gives c.Auth where it is set. Where it is not, a client with a key
// signs, one with a certificate shows it, one without any credential is public,
// and one with a secret uses Basic, which servers must support (RFC 6749
// section 2.3.1), unless listed, what discovery says
// ([Metadata.TokenAuthMethods]), has the form body and not Basic.
func (c *Client) ChooseAuth(listed []string) AuthMethod {
	switch {
	case c.Auth != "":
		return c.Auth
	case c.Key != nil:
		return PrivateKeyJWT
	case c.Transport.Certificate != "":
		return TLSClientAuth
	case c.Secret.IsZero():
		return AuthNone
	case slices.Contains(listed, string(ClientSecretPost)) && !slices.Contains(listed, string(ClientSecretBasic)):
		return ClientSecretPost
	default:
		return ClientSecretBasic
	}
}

// A form is a body under construction. The order is that of adding, so that
// equal requests are equal bytes.
type form []string

func (f *form) set(name, value string) {
	*f = append(*f, url.QueryEscape(name)+"="+url.QueryEscape(value))
}

func (f form) String() string { return strings.Join(f, "&") }

var errNoClientID = errors.New("no client id")

// authenticate adds the client's authentication to a request: to the form, or
// as the Authorization header that it gives, or neither where TLS does it.
// secrets are what must not come back in a text of the server.
func (c *Client) authenticate(f *form) (authorization string, secrets []string, err error) {
	method := c.ChooseAuth(nil)
	switch {
	case c.ID == "" && method != AuthNone:
		return "", nil, errNoClientID
	case c.Secret.IsZero() && slices.Contains([]AuthMethod{ClientSecretBasic, ClientSecretPost, ClientSecretJWT}, method):
		return "", nil, fmt.Errorf("%s without a client secret", method)
	case c.Key == nil && method == PrivateKeyJWT:
		return "", nil, fmt.Errorf("%s without a private key", method)
	case c.Transport.Certificate == "" && (method == TLSClientAuth || method == SelfSignedTLSClientAuth):
		return "", nil, fmt.Errorf("%s without a client certificate", method)
	}
	switch method {
	case ClientSecretBasic:
		id, secret := url.QueryEscape(c.ID), url.QueryEscape(c.Secret.Reveal())
		if c.RawBasic {
			id, secret = c.ID, c.Secret.Reveal()
			if strings.Contains(id, ":") {
				return "", nil, errors.New("a client id with a colon cannot stand raw in a Basic header (RFC 7617)")
			}
		}
		credential := base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))
		return "Basic " + credential, []string{c.Secret.Reveal(), credential}, nil
	case ClientSecretPost:
		f.set("client_id", c.ID)
		f.set("client_secret", c.Secret.Reveal())
		return "", []string{c.Secret.Reveal()}, nil
	case AuthNone, TLSClientAuth, SelfSignedTLSClientAuth:
		if c.ID != "" {
			f.set("client_id", c.ID)
		}
		return "", nil, nil
	case ClientSecretJWT, PrivateKeyJWT:
		assertion, err := c.assertion(method)
		if err != nil {
			return "", nil, err
		}
		f.set("client_id", c.ID)
		f.set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		f.set("client_assertion", assertion)
		return "", []string{c.Secret.Reveal(), assertion}, nil
	}
	return "", nil, fmt.Errorf("client authentication %q is not supported", method)
}

// assertion makes the JWT that authenticates the client (RFC 7523 section 3).
// It is good for a minute and, by its jti, for one request.
func (c *Client) assertion(method AuthMethod) (string, error) {
	audience := c.AssertionAudience
	if audience == "" {
		audience = c.TokenURL
	}
	now := time.Now()
	claims := map[string]any{
		"iss": c.ID,
		"sub": c.ID,
		"aud": audience,
		"jti": rand.Text(),
		"iat": now.Unix(),
		"exp": now.Add(assertionLife).Unix(),
	}
	if method == PrivateKeyJWT {
		return c.Key.Sign("", claims)
	}
	secret := []byte(c.Secret.Reveal())
	if len(secret) < sha256.Size {
		return "", fmt.Errorf("%s wants a client secret of %d bytes or more (RFC 7518 section 3.2)", method, sha256.Size)
	}
	return signJWT(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, "", claims, nil)
}

// An outgoing request is to be sent to an endpoint of the server.
type outgoing struct {
	endpoint string
	doing    string // for the Op of errors, with %s for the host: "asking %s for a token"
	form     form
	secrets  []string // of the form, beside the client's credentials
	proof    bool     // send a DPoP proof, where the client has a key for it
}

// A reply is what came of a request. Its echo knows all that was sent in
// confidence.
type reply struct {
	answer
	at     *url.URL // the endpoint
	op     string
	sent   *echo
	proved bool // a DPoP proof was sent
}

// post sends r as this client. Where the server wants a nonce in the proof, it
// sends r once more with that nonce (RFC 9449 section 8). The error is why the
// answer is not complete.
func (c *Client) post(ctx context.Context, r outgoing) (reply, *Error) {
	p := reply{sent: newEcho(r.secrets...)}
	u, err := CheckURL(r.endpoint)
	if err != nil {
		return p, &Error{Op: "checking the endpoint's URL", Kind: Invalid, Err: err}
	}
	p.at, p.op = u, fmt.Sprintf(r.doing, u.Host)
	p.proved = r.proof && c.DPoP != nil
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	failed := c.send(ctx, &p, u, r)
	if failed == nil && p.wantsNonce() {
		failed = c.send(ctx, &p, u, r)
	}
	return p, failed
}

// send is one exchange of post, with an assertion and a proof of its own.
func (c *Client) send(ctx context.Context, p *reply, u *url.URL, r outgoing) *Error {
	invalid := func(err error) *Error { return &Error{Op: p.op, Kind: Invalid, Err: err} }
	p.answer = answer{}
	f := slices.Clone(r.form)
	authorization, own, err := c.authenticate(&f)
	if err != nil {
		return invalid(err)
	}
	p.sent.know(own...)
	header := make(http.Header)
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	if p.proved {
		proof, err := c.DPoP.Proof(http.MethodPost, r.endpoint, Secret{}, c.DPoP.nonce(u))
		if err != nil {
			return invalid(err)
		}
		p.sent.know(proof)
		header.Set("DPoP", proof)
	}
	route, err := c.Transport.open(u)
	if err != nil {
		return invalid(err)
	}
	var failed *Error
	p.answer, failed = exchange(ctx, route, p.op, u, header, f.String(), p.sent)
	if p.proved {
		c.DPoP.remember(u, p.header)
	}
	return failed
}

// wantsNonce says whether p refuses a proof for its nonce, and gives one.
func (p reply) wantsNonce() bool {
	if !p.proved || p.status != http.StatusBadRequest && p.status != http.StatusUnauthorized || givenNonce(p.header) == "" {
		return false
	}
	members, _ := decodeObject(p.body)
	return members["error"] == "use_dpop_nonce"
}
