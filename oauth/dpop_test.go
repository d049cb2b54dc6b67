package oauth

import (
	"bufio"
	"crypto/ecdsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newDPoP(t *testing.T, alg string) *DPoP {
	k, err := NewKey(alg)
	if err != nil {
		t.Fatal(err)
	}
	return NewDPoP(k)
}

// proven verifies a proof and gives its claims without jti and iat, which it
// checks; the header must be exact.
func proven(t *testing.T, d *DPoP, proof string) (claims map[string]any, jti string) {
	t.Helper()
	public := d.Key().private.Public()
	header, claims := verified(t, proof, public)
	jwk := d.Key().Public()
	for _, name := range []string{"kid", "alg", "use"} {
		delete(jwk, name)
	}
	if diff := cmp.Diff(map[string]any{"typ": "dpop+jwt", "alg": d.Key().Algorithm(), "jwk": jwk}, header); diff != "" {
		t.Error(diff)
	}
	iat, _ := claims["iat"].(float64)
	if age := time.Now().Unix() - int64(iat); iat != float64(int64(iat)) || age < 0 || age > 60 {
		t.Errorf("iat is %v", claims["iat"])
	}
	jti, _ = claims["jti"].(string)
	if len(jti) < 22 {
		t.Errorf("jti is %q", jti)
	}
	delete(claims, "iat")
	delete(claims, "jti")
	return claims, jti
}

func TestProof(t *testing.T) {
	seen := make(map[string]bool)
	for _, alg := range []string{"ES256", "EdDSA"} {
		d := newDPoP(t, alg)
		for _, row := range []struct {
			method, target string
			access         Secret
			nonce          string
			want           map[string]any
		}{
			{"POST", "https://as.example/token", Secret{}, "", map[string]any{"htm": "POST", "htu": "https://as.example/token"}},
			// RFC 9449 section 7.1 has this token and its hash.
			{"GET", "https://r.example/protected", NewSecret("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"), "eyJ7S_zG.eyJH0-Z.HX4w-7v", map[string]any{"htm": "GET",
				"htu": "https://r.example/protected", "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo", "nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v"}},
			{"GET", "HTTPS://R.Example:443?a=b/c#d?e", Secret{}, "", map[string]any{"htm": "GET", "htu": "https://r.example/"}},
			{"PROPFIND", "https://r.example:8443/a%2fb/%C3%A9/../c;d?x#", Secret{}, "", map[string]any{"htm": "PROPFIND", "htu": "https://r.example:8443/a%2fb/%C3%A9/../c;d"}},
			{"get", "http://127.0.0.1:80/", Secret{}, "", map[string]any{"htm": "get", "htu": "http://127.0.0.1/"}},
			{"GET", "http://[::1]:443/", Secret{}, "", map[string]any{"htm": "GET", "htu": "http://[::1]:443/"}},
			{"GET", "https://[2001:DB8::1]:443/x", Secret{}, "", map[string]any{"htm": "GET", "htu": "https://[2001:db8::1]/x"}},
			{"GET", "https://r.example:/x", Secret{}, "", map[string]any{"htm": "GET", "htu": "https://r.example/x"}},
		} {
			proof, err := d.Proof(row.method, row.target, row.access, row.nonce)
			if err != nil {
				t.Errorf("%s: %v", row.target, err)
				continue
			}
			claims, jti := proven(t, d, proof)
			if diff := cmp.Diff(row.want, claims); diff != "" {
				t.Errorf("%s: %s", row.target, diff)
			}
			if seen[jti] {
				t.Errorf("jti %q is used twice", jti)
			}
			seen[jti] = true
		}
	}
}

func TestProofOfAKeyWithAnID(t *testing.T) {
	k, err := ParseKey(NewSecret(rfc8037), "id-1", "")
	if err != nil {
		t.Fatal(err)
	}
	d := NewDPoP(k)
	proof, err := d.Proof("GET", "https://r.example/", Secret{}, "")
	if err != nil {
		t.Fatal(err)
	}
	proven(t, d, proof)
}

func TestProofsThatAreNotMade(t *testing.T) {
	d := newDPoP(t, "EdDSA")
	const badNonce = "the nonce has characters that no nonce has, or too many (RFC 9449 section 8.1)"
	for _, row := range []struct{ method, target, nonce, want string }{
		{"", "https://r.example/", "", "the method is none of HTTP"},
		{"GET x", "https://r.example/", "", "the method is none of HTTP"},
		{"GÉT", "https://r.example/", "", "the method is none of HTTP"},
		{"GET", "https://u:hunter2@r.example/", "", "has a user name or password before the host; credentials do not belong in a URL"},
		{"GET", "/path", "", "not an absolute https URL"},
		{"GET", "http://r.example/", "", `is plain http to "r.example"; only loopback may be plain, all else must be https`},
		{"GET", "https://r.example/", "a b", badNonce},
		{"GET", "https://r.example/", `a"`, badNonce},
		{"GET", "https://r.example/", `a\`, badNonce},
		{"GET", "https://r.example/", "é", badNonce},
		{"GET", "https://r.example/", "a\r\n", badNonce},
		{"GET", "https://r.example/", strings.Repeat("n", 1025), badNonce},
	} {
		if proof, err := d.Proof(row.method, row.target, Secret{}, row.nonce); proof != "" || err == nil || err.Error() != row.want {
			t.Errorf("%+v: got %q, %v", row, proof, err)
		}
	}
}

// proofIn gives the one DPoP header of a request, "" if there is none.
func proofIn(t *testing.T, request string) string {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil {
		t.Fatal(err)
	}
	values := r.Header.Values("DPoP")
	if len(values) > 1 {
		t.Errorf("%d proofs", len(values))
	}
	return strings.Join(values, "")
}

// nonced is an answer with a DPoP-Nonce.
func nonced(answer, nonce string) string {
	return strings.Replace(answer, "\r\n", "\r\nDPoP-Nonce: "+nonce+"\r\n", 1)
}

var wantsNonce = status("400 Bad Request", `{"error":"use_dpop_nonce","error_description":"AS requires a nonce"}`)

const dpopAnswer = `{"access_token":"AT-1","token_type":"dpop"}`

// noncesSent checks every request's proof and gives the nonces in them.
func noncesSent(t *testing.T, s *server, c *Client) []any {
	t.Helper()
	var nonces []any
	seen := make(map[string]bool)
	for _, request := range s.seen() {
		claims, jti := proven(t, c.DPoP, proofIn(t, request))
		nonces = append(nonces, claims["nonce"])
		delete(claims, "nonce")
		if diff := cmp.Diff(map[string]any{"htm": "POST", "htu": c.TokenURL}, claims); diff != "" {
			t.Error(diff)
		}
		if seen[jti] {
			t.Error("a proof is sent twice")
		}
		seen[jti] = true
	}
	return nonces
}

func TestNonceOfTheServerIsUsed(t *testing.T) {
	for _, line := range []string{"400 Bad Request", "401 Unauthorized"} {
		n := 0
		s := newServer(t, nil, func(string) string {
			switch n++; n {
			case 1:
				return nonced(status(line, `{"error":"use_dpop_nonce"}`), "n1")
			case 2:
				return nonced(ok(dpopAnswer), "n2")
			case 3:
				return ok(dpopAnswer)
			default:
				return nonced(status("503 Service Unavailable", ""), "n3")
			}
		})
		key, err := NewKey("ES256")
		if err != nil {
			t.Fatal(err)
		}
		c := &Client{ID: "app", Key: key, TokenURL: "http://" + s.addr + "/token", DPoP: newDPoP(t, "ES256")}
		for range 3 {
			tok, err := c.Token(t.Context(), request)
			if len(s.seen()) < 4 && (err != nil || tok.Type != "DPoP" || tok.AccessToken.Reveal() != "AT-1" || tok.Warnings != nil) {
				t.Fatalf("%+v, %v", tok, err)
			}
		}
		c.Token(t.Context(), request)
		if diff := cmp.Diff([]any{nil, "n1", "n2", "n2", "n3"}, noncesSent(t, s, c)); diff != "" {
			t.Error(diff)
		}
		assertions := make(map[string]bool)
		for _, r := range s.seen() {
			_, body, _ := strings.Cut(r, "\r\n\r\n")
			form, err := url.ParseQuery(body)
			if err != nil {
				t.Fatal(err)
			}
			assertions[form.Get("client_assertion")] = true
		}
		if len(assertions) != 5 {
			t.Errorf("%d assertions in 5 requests", len(assertions))
		}
	}
}

func TestSecondRequestForANonceIsAnError(t *testing.T) {
	n := 0
	s := newServer(t, nil, func(string) string {
		n++
		return nonced(wantsNonce, fmt.Sprint("n", n))
	})
	c := &Client{ID: "app", TokenURL: "http://" + s.addr + "/token", DPoP: newDPoP(t, "ES256")}
	for calls := 1; calls <= 2; calls++ {
		tok, err := c.Token(t.Context(), request)
		var e *Error
		if !errors.As(err, &e) || tok != nil || e.Kind != Refused || e.Code != "use_dpop_nonce" || e.Description != "AS requires a nonce" || !e.Sent {
			t.Errorf("got %v, %#v", tok, e)
		}
		if got := len(s.seen()); got != 2*calls {
			t.Errorf("%d requests in %d calls", got, calls)
		}
	}
	if diff := cmp.Diff([]any{nil, "n1", "n2", "n3"}, noncesSent(t, s, c)); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersThatAskForNoSecondProof(t *testing.T) {
	for name, row := range map[string]struct {
		answer string
		want   any // the nonce of the next call
	}{
		"no nonce":           {wantsNonce, nil},
		"nonce with a space": {nonced(wantsNonce, "a b"), nil},
		"nonce too long":     {nonced(wantsNonce, strings.Repeat("n", 1025)), nil},
		"two nonces":         {nonced(nonced(wantsNonce, "a"), "b"), nil},
		"empty nonce":        {nonced(wantsNonce, ""), nil},
		"another error":      {nonced(status("400 Bad Request", `{"error":"invalid_dpop_proof"}`), "n1"), "n1"},
		"another status":     {nonced(status("403 Forbidden", `{"error":"use_dpop_nonce"}`), "n1"), "n1"},
		"success":            {nonced(ok(`{"error":"use_dpop_nonce"}`), "n1"), "n1"},
		"server error":       {nonced(status("500 Internal Server Error", `{"error":"use_dpop_nonce"}`), "n1"), "n1"},
		"redirect":           {nonced("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "n1"), "n1"},
		"cut off":            {nonced("HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n"+`{"error":"use_dpop_nonce"}`, "n1"), "n1"},
	} {
		s, c := answering(t, row.answer)
		c.DPoP = newDPoP(t, "EdDSA")
		if _, err := c.Token(t.Context(), request); err == nil || len(s.seen()) != 1 {
			t.Errorf("%s: %d requests, %v", name, len(s.seen()), err)
		}
		u, _ := url.Parse(c.TokenURL)
		if got := c.DPoP.nonce(u); got != strings.TrimPrefix(fmt.Sprint(row.want), "<nil>") {
			t.Errorf("%s: remembers %q", name, got)
		}
	}
	s, c := answering(t, nonced(wantsNonce, "n1"))
	if _, err := c.Token(t.Context(), request); err == nil || len(s.seen()) != 1 || proofIn(t, s.seen()[0]) != "" {
		t.Errorf("without a key: %q, %v", s.seen(), err)
	}
}

func TestTokenTypes(t *testing.T) {
	const bearerToAProof = "the token is a bearer token, although possession of a key was proved (RFC 9449)"
	const typed = `,"issued_token_type":"urn:ietf:params:oauth:token-type:jwt"`
	for _, row := range []struct {
		members  string
		proof    bool
		want     string
		warnings []string
		err      string
	}{
		{`"token_type":"DPoP"`, true, "DPoP", nil, ""},
		{`"token_type":"dpop"`, true, "DPoP", nil, ""},
		{`"token_type":"bearer"`, true, "Bearer", []string{bearerToAProof}, ""},
		{`"token_type":"bearer"`, false, "Bearer", nil, ""},
		{`"token_type":"DPoP"`, false, "", nil, "token_type is DPoP, although possession of no key was proved (RFC 9449)"},
		{`"token_type":"n_a"` + typed, false, "N_A", nil, ""},
		{`"token_type":"N_A"` + typed, true, "N_A", nil, ""},
		{`"token_type":"N_A"`, false, "", nil, `token_type "N_A" is not Bearer`},
		{`"token_type":"N_A","issued_token_type":7`, false, "", nil, `token_type "N_A" is not Bearer`},
		{`"token_type":"mac"`, true, "", nil, `token_type "mac" is not Bearer`},
	} {
		_, c := answering(t, ok(`{"access_token":"AT-1",`+row.members+`}`))
		if row.proof {
			c.DPoP = newDPoP(t, "EdDSA")
		}
		tok, err := c.Token(t.Context(), request)
		var e *Error
		switch {
		case errors.As(err, &e) && row.err != "":
			if e.Kind != Malformed || e.Err.Error() != row.err {
				t.Errorf("%+v: got %v", row, err)
			}
		case err != nil || row.err != "" || tok.Type != row.want || cmp.Diff(row.warnings, tok.Warnings) != "":
			t.Errorf("%+v: got %+v, %v", row, tok, err)
		}
	}
}

func TestNoncesAreKeptByOriginAndAreFew(t *testing.T) {
	d := newDPoP(t, "EdDSA")
	at := func(raw string) *url.URL {
		u, err := CheckURL(raw)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	d.remember(at("https://A.example/token"), http.Header{"Dpop-Nonce": {"a"}})
	d.remember(at("https://a.example/x"), http.Header{})
	if got := d.nonce(at("https://a.example:443/par")); got != "a" {
		t.Errorf("got %q", got)
	}
	if got := d.nonce(at("https://a.example:444/par")); got != "" {
		t.Errorf("another origin has nonce %q", got)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			u := at(fmt.Sprintf("https://as%d.example/", i))
			d.remember(u, http.Header{"Dpop-Nonce": {"n"}})
			if got := d.nonce(u); got != "n" && got != "" {
				t.Errorf("got %q", got)
			}
			if _, err := d.Proof("GET", u.String(), Secret{}, "n"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(d.nonces) > maxOrigins || len(d.nonces) == 0 {
		t.Errorf("%d nonces are kept", len(d.nonces))
	}
}

// No private member of the key is in what is sent, but in the signature.
func TestPrivateKeyIsNotSent(t *testing.T) {
	s, c := answering(t, ok(dpopAnswer))
	c.DPoP = newDPoP(t, "ES256")
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	d, err := c.DPoP.Key().private.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(proofIn(t, s.seen()[0]), ".")
	decoded, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(decoded), base64.RawURLEncoding.EncodeToString(d)) || strings.Contains(string(decoded), `"d"`) {
		t.Error("the private key is in the proof")
	}
}

// What a proof is made of is not repeated either.
func TestEchoedProofIsWithheld(t *testing.T) {
	s := newServer(t, nil, func(request string) string {
		return status("400 Bad Request", `{"error":"invalid_dpop_proof","error_description":"`+proofIn(t, request)+`"}`)
	})
	c := &Client{ID: "app", TokenURL: "http://" + s.addr + "/token", DPoP: newDPoP(t, "ES256")}
	_, err := c.Token(t.Context(), request)
	var e *Error
	if !errors.As(err, &e) || e.Description != withheld {
		t.Errorf("got %v", err)
	}
}
