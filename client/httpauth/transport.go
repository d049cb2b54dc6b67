package httpauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"tokend/client"
	"tokend/client/api"
)

const (
	// maxWait is the longest wait that an API may ask for and get.
	maxWait = 30 * time.Second
	// An API that asks to be left alone for longer is asked again after maxClosed.
	minClosed, maxClosed = time.Second, time.Hour
	// maxOrigins is of how many origins something is remembered: with AnyHost there
	// may be any number.
	maxOrigins = 256
	maxNonce   = 1 << 10
	maxDrain   = 4 << 10
)

// Transport is an [http.RoundTripper] that puts a profile's token into each
// request: for one API, as its profile's API_URL names it. It may be used by
// several goroutines; its fields must not change then.
//
// Where the token may not go, nothing is sent, and the error is an [*OriginError]:
// API_URL names other origins or none, or it is plain http to another machine.
// What follows a redirect to such a place goes there without the token, and without
// an Authorization field that it may have had, as does all that follows it.
//
// What the API answers is seen to as far as it is about the token, and each of
// these repeats a request once at most, and only where its body can be had again
// ([http.Request.GetBody]); the caller gets any other answer as it is:
//
//   - A 401 is reported to the daemon. Where that has another token, the request is
//     repeated with it. A 403 with insufficient_scope is reported too, for the user
//     to see.
//   - A 401 that asks for a nonce in the DPoP proof gets it (RFC 9449 section 9).
//   - A 429, or a 503, with Retry-After closes the API's origin for that long, an
//     hour at most. Where it is 30 s at most and the context's deadline is later,
//     requests wait, and the one that was refused is repeated, after a 503 if its
//     method is idempotent. Otherwise they fail with a [*ThrottledError] and nothing
//     is sent.
//
// Where no token can be had, the error is [client.Client.Token]'s, wrapped, and
// nothing is sent.
type Transport struct {
	// Client is nil for one that goes by the environment and starts no daemon.
	Client *client.Client
	// Request is what to ask for; its Profile is required.
	Request client.TokenRequest
	// Base makes the requests; nil: [http.DefaultTransport].
	Base http.RoundTripper
	// AnyHost sends the token to every origin that a request is made for, whatever
	// API_URL says, but after a redirect to the first one's only.
	AnyHost bool

	standard client.Client // where Client is nil

	mu     sync.Mutex           // guards the fields that follow
	nonces map[string]string    // the last DPoP-Nonce, by origin
	closed map[string]time.Time // when it may be asked again, by origin
}

// OriginError says that a request was not sent, because the profile's token may
// not be sent to where it goes.
type OriginError struct {
	Profile string
	Origin  string   // of the request: scheme, host and port; "" if it has none
	Allowed []string // the profile's API_URL
}

func (e *OriginError) Error() string {
	to := fmt.Sprintf("%s: its token may not be sent to %q", e.Profile, e.Origin)
	switch {
	case e.Origin == "":
		return e.Profile + ": its token may be sent to http and https URLs with one host only"
	case strings.HasPrefix(e.Origin, "http:") && !isLoopback(e.Origin):
		return to + ", which is plain http"
	case len(e.Allowed) == 0:
		return to + ": the profile has no API_URL"
	}
	return to + ", which is not in its API_URL"
}

// ThrottledError says that a request was not sent, because the API has asked to be
// left alone.
type ThrottledError struct {
	Origin string
	Until  time.Time
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("%q has asked for no requests until %s", e.Origin, e.Until.Format(time.TimeOnly))
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.token(req.Context())
	if err != nil {
		return nil, refuse(req, err)
	}
	origin := originOf(req)
	if !t.allowed(req, token) {
		if req.Response == nil {
			return nil, refuse(req, &OriginError{t.Request.Profile, origin, token.APIOrigins})
		}
		return t.without(req)
	}
	if err := t.wait(req.Context(), origin); err != nil {
		return nil, refuse(req, err)
	}
	var renewed, nonced, waited bool
	for body := req.Body; ; {
		resp, err := t.send(req, body, token, origin)
		if err != nil {
			return nil, err
		}
		next := token
		switch {
		case resp.StatusCode == http.StatusUnauthorized && wantsNonce(token, resp) && !nonced:
			nonced = true
		case resp.StatusCode == http.StatusUnauthorized:
			if next = t.refused(req, token, resp, !renewed); next == nil {
				return resp, nil
			}
			renewed = true
		case resp.StatusCode == http.StatusForbidden && challenged(resp, "insufficient_scope"):
			_, _ = t.report(req.Context(), token, resp) // it changes nothing for this request
			return resp, nil
		case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
			known := t.close(origin, resp)
			if !known || waited || resp.StatusCode == http.StatusServiceUnavailable && !isIdempotent(req.Method) ||
				!canRepeat(req) || t.wait(req.Context(), origin) != nil {
				return resp, nil
			}
			waited = true
		default:
			return resp, nil
		}
		if body, err = bodyAgain(req); err != nil {
			return resp, nil
		}
		discard(resp)
		token = next
	}
}

func (t *Transport) client() *client.Client {
	if t.Client != nil {
		return t.Client
	}
	return &t.standard
}

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

func (t *Transport) token(ctx context.Context) (*client.Token, error) {
	token, err := t.client().Token(ctx, t.Request)
	if err != nil {
		return nil, fmt.Errorf("getting a token of %s: %w", t.Request.Profile, err)
	}
	return token, nil
}

// refuse closes the body of a request that is not sent, as a RoundTripper must.
func refuse(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return err
}

// without sends what follows a redirect to where the token may not go. The caller
// of the first request may have put credentials there, which net/http copies.
func (t *Transport) without(req *http.Request) (*http.Response, error) {
	r := req.WithContext(req.Context())
	r.Header = req.Header.Clone()
	r.Header.Del("Authorization")
	r.Header.Del("Dpop")
	return t.base().RoundTrip(r)
}

// send makes one request with a token. It closes body.
func (t *Transport) send(req *http.Request, body io.ReadCloser, token *client.Token, origin string) (*http.Response, error) {
	r := req.WithContext(req.Context()) // shallow: a trailer is filled in while the body is read
	r.Body = body
	r.Header = req.Header.Clone()
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	r.Header.Set("Authorization", token.Header())
	isBound := strings.EqualFold(token.Type, "DPoP")
	if isBound {
		proof, err := t.proof(req, token, origin)
		if err != nil {
			return nil, refuse(r, err)
		}
		r.Header.Set("Dpop", proof)
	}
	resp, err := t.base().RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if isBound {
		t.remember(origin, resp.Header.Get("Dpop-Nonce"))
	}
	resp.Request = req // not the one with the token in it
	return resp, nil
}

// proof has the daemon prove for this one request that the token is ours (RFC 9449
// section 7).
func (t *Transport) proof(req *http.Request, token *client.Token, origin string) (string, error) {
	t.mu.Lock()
	nonce := t.nonces[origin]
	t.mu.Unlock()
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	// The query is not in a proof, and may be none of the daemon's business.
	target := url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Path: req.URL.Path, RawPath: req.URL.RawPath}
	resp := &api.CreateDPoPProofResponse{}
	err := t.client().Call(req.Context(), api.MethodCreateDPoPProof, &api.CreateDPoPProofRequest{
		Profile:     t.Request.Profile,
		AccessToken: token.AccessToken,
		Method:      method,
		Url:         target.String(),
		Nonce:       nonce,
	}, resp)
	if err != nil {
		return "", fmt.Errorf("proving that the token of %s is ours: %w", t.Request.Profile, err)
	}
	return resp.Proof, nil
}

// remember keeps the nonce of an answer for the next proof (RFC 9449 section 8.2).
func (t *Transport) remember(origin, nonce string) {
	if nonce == "" || len(nonce) > maxNonce || strings.ContainsFunc(nonce, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nonces = put(t.nonces, origin, nonce)
}

// wantsNonce says whether a proof was refused for want of the nonce that has come
// with the answer.
func wantsNonce(token *client.Token, resp *http.Response) bool {
	return strings.EqualFold(token.Type, "DPoP") && resp.Header.Get("Dpop-Nonce") != "" && challenged(resp, "use_dpop_nonce")
}

// challenged says whether a challenge has an error code. What else says the same
// word costs a report, or a request, and nothing more.
func challenged(resp *http.Response, code string) bool {
	for _, v := range resp.Header.Values("Www-Authenticate") {
		if strings.Contains(v, code) {
			return true
		}
	}
	return false
}

// refused reports a token, and returns the one to repeat the request with; nil if
// there is none, or if it is not to be repeated.
func (t *Transport) refused(req *http.Request, token *client.Token, resp *http.Response, again bool) *client.Token {
	reported, err := t.report(req.Context(), token, resp)
	if err != nil || reported.Outcome != api.OutcomeEvicted && reported.Outcome != api.OutcomeSuperseded || !again || !canRepeat(req) {
		return nil
	}
	next, err := t.token(req.Context())
	if err != nil || next.Fingerprint == token.Fingerprint || !t.allowed(req, next) {
		return nil
	}
	return next
}

func (t *Transport) report(ctx context.Context, token *client.Token, resp *http.Response) (*client.Reported, error) {
	return t.client().Report(ctx, client.Refusal{
		Profile:     t.Request.Profile,
		Fingerprint: token.Fingerprint,
		Status:      resp.StatusCode,
		Challenges:  resp.Header.Values("Www-Authenticate"),
	})
}

// put is m[key] = value in a map that does not grow without end.
func put[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = make(map[string]V)
	}
	if _, ok := m[key]; !ok && len(m) >= maxOrigins {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[key] = value
	return m
}

func canRepeat(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// bodyAgain returns the request's body from its beginning.
func bodyAgain(req *http.Request) (io.ReadCloser, error) {
	switch {
	case !canRepeat(req):
		return nil, errors.New("the body can be read once only")
	case req.GetBody == nil:
		return req.Body, nil
	}
	return req.GetBody()
}

// discard is done with an answer. Reading what is left spares the connection, and
// is not worth waiting for where it is not said to be little.
func discard(resp *http.Response) {
	if n := resp.ContentLength; n > 0 && n <= maxDrain {
		_, _ = io.CopyN(io.Discard, resp.Body, n)
	}
	_ = resp.Body.Close()
}
