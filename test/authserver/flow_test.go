package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	callback = "http://127.0.0.1:1234/callback"
	verifier = "the-verifier-has-43-characters-at-the-least"
)

// app is a public client that may do everything.
var app = Client{ID: "app", Auth: AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}}

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return b64.EncodeToString(sum[:])
}

// with returns a copy of the form with some parameters changed; those that are
// empty removed.
func with(form url.Values, change map[string]string) url.Values {
	out := maps.Clone(form)
	for name, v := range change {
		out.Set(name, v)
		if v == "" {
			out.Del(name)
		}
	}
	return out
}

// authorizationOf is a request of a client that is as it should be.
func authorizationOf(client string) url.Values {
	return url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {callback}, "state": {"xyz"},
		"code_challenge": {challengeOf(verifier)}, "code_challenge_method": {"S256"},
	}
}

// send serves a request without a connection, so that it can be done in a
// bubble of testing/synctest. That has to be the last thing that a test does
// with the server, which then has channels that are the bubble's.
func send(s *Server, req *http.Request) reply {
	w := httptest.NewRecorder()
	req.RemoteAddr = "127.0.0.1:1"
	s.serve(w, req)
	return reply{w.Code, w.Header(), w.Body.String()}
}

// sendForm posts a form, with client_id in it or an authorization.
func sendForm(t *testing.T, s *Server, path, authorization string, form url.Values) reply {
	t.Helper()
	return send(s, post(t, s.Issuer+path, authorization, form.Encode()))
}

// consent returns the query of the redirect by which an authorization request
// is answered.
func consent(t *testing.T, s *Server, form url.Values) url.Values {
	t.Helper()
	r := send(s, get(t, s.Issuer+"/authorize?"+form.Encode(), ""))
	location, err := url.Parse(r.header.Get("Location"))
	if r.status != http.StatusFound || err != nil {
		t.Fatalf("%d %s %v", r.status, r.body, err)
	}
	to := *location
	to.RawQuery = ""
	if want := form.Get("redirect_uri"); want != "" && to.String() != want {
		t.Fatalf("redirected to %s", location)
	}
	return location.Query()
}

// redemption is the token request for a code.
func redemption(client, code string) url.Values {
	return url.Values{
		"grant_type": {"authorization_code"}, "client_id": {client}, "code": {code},
		"redirect_uri": {callback}, "code_verifier": {verifier},
	}
}

// tokens is what a token response has for a client.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Type    string `json:"token_type"`
	Scope   string `json:"scope"`
	ID      string `json:"id_token"`
	Kind    string `json:"issued_token_type"`
}

func wantTokens(t *testing.T, r reply) tokens {
	t.Helper()
	var got tokens
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != 200 || got.Access == "" {
		t.Fatalf("%d %s %v", r.status, r.body, err)
	}
	return got
}

// wantError compares an error response by RFC 6749 5.2.
func wantError(t *testing.T, what string, r reply, status int, code string) {
	t.Helper()
	if got := r.json(t)["error"]; r.status != status || got != code {
		t.Errorf("%s: %d %s, want %d %s", what, r.status, r.body, status, code)
	}
}

// login gets tokens by a code.
func login(t *testing.T, s *Server, client string) tokens {
	t.Helper()
	code := consent(t, s, authorizationOf(client)).Get("code")
	return wantTokens(t, sendForm(t, s, "/token", "", redemption(client, code)))
}

func refreshing(client, token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {token}}
}

// isLive asks the resource.
func isLive(t *testing.T, s *Server, token string) bool {
	t.Helper()
	return send(s, get(t, s.ResourceURL, "Bearer "+token)).status == 200
}

// keyFor makes a key for a signature algorithm.
func keyFor(t *testing.T, alg jose.SignatureAlgorithm) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signJWT signs claims, with more in the header.
func signJWT(t *testing.T, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// changed returns a copy of the claims; nil removes one.
func changed(claims, change map[string]any) map[string]any {
	return override(maps.Clone(claims), change)
}

// from is a time after another, in seconds since 1970.
func from(now time.Time, d time.Duration) int64 { return now.Add(d).Unix() }

// claimsOf decodes the claims of a JWT.
func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	part := strings.Split(token, ".")
	if len(part) != 3 {
		t.Fatalf("no JWT: %s", token)
	}
	var m map[string]any
	if err := decodePart(part[1], &m); err != nil {
		t.Fatal(err)
	}
	return m
}
