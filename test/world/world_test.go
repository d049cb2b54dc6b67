package world

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// provider is for the tests that need no server of their own.
var provider *Provider

type suite struct{ *testing.M }

func (s suite) Run() int {
	var err error
	provider, err = Start(context.Background(), "ACCESS_TTL=77", "DEVICE_INTERVAL=1", "DEVICE_TTL=88", "GITHUB_TTL=1800")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := s.M.Run()
	if err := provider.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

const (
	grant = "grant_type=client_credentials"
	weird = "cc weird:id+%"
)

func open(t *testing.T, env ...string) *Provider {
	t.Helper()
	p, err := Start(context.Background(), env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func send(t *testing.T, method, to, authorization, body string, roots *x509.CertPool) (*http.Response, map[string]any) {
	t.Helper()
	header := http.Header{}
	if body != "" {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	return exchange(t, method, to, header, body, &tls.Config{RootCAs: roots})
}

func exchange(t *testing.T, method, to string, header http.Header, body string, config *tls.Config) (*http.Response, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) == 0 {
		return resp, nil
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatalf("%s %s: %s: %v", method, to, data, err)
	}
	return resp, m
}

// basic is what the header is made of, already encoded for its form.
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

func TestProvider(t *testing.T) {
	p := provider
	secret := p.Secrets["cc-basic"]
	enc := url.QueryEscape
	token := func(t *testing.T, authorization, body string) (*http.Response, map[string]any) {
		t.Helper()
		return send(t, "POST", p.Issuer+"/token", authorization, body, nil)
	}

	t.Run("discovery", func(t *testing.T) {
		resp, got := send(t, "GET", p.Issuer+"/.well-known/openid-configuration", "", "", nil)
		if resp.StatusCode != 200 || got["issuer"] != p.Issuer || got["token_endpoint"] != p.Issuer+"/token" ||
			got["introspection_endpoint"] != p.Issuer+"/token/introspection" || got["jwks_uri"] != p.Issuer+"/jwks" ||
			got["authorization_response_iss_parameter_supported"] != true || got["mtls_endpoint_aliases"] != nil {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
		methods := []any{"client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt",
			"tls_client_auth", "self_signed_tls_client_auth", "none"}
		if diff := cmp.Diff(methods, got["token_endpoint_auth_methods_supported"]); diff != "" {
			t.Error(diff)
		}
	})

	for _, tt := range []struct {
		name, authorization, body string
		status                    int
		want                      map[string]any // without access_token and error_description
	}{
		{"basic", basic("cc-basic", secret), grant, 200,
			map[string]any{"token_type": "Bearer", "expires_in": 600.0}},
		{"basic, with scope", basic("cc-basic", secret), grant + "&scope=read+write", 200,
			map[string]any{"token_type": "Bearer", "expires_in": 600.0, "scope": "read write"}},
		{"basic, with a scope that is dropped without a word", basic("cc-basic", secret), grant + "&scope=nope+read", 200,
			map[string]any{"token_type": "Bearer", "expires_in": 600.0, "scope": "read"}},
		{"basic, form-encoded", basic(enc(weird), enc(p.Secrets[weird])), grant, 200,
			map[string]any{"token_type": "Bearer", "expires_in": 600.0}},
		{"basic, secret sent raw", basic(enc(weird), p.Secrets[weird]), grant, 401,
			map[string]any{"error": "invalid_client"}},
		{"post", "", grant + "&client_id=cc-post&client_secret=" + enc(p.Secrets["cc-post"]), 200,
			map[string]any{"token_type": "Bearer", "expires_in": 600.0}},
		{"basic, wrong secret", basic("cc-basic", "wrong"), grant, 401,
			map[string]any{"error": "invalid_client"}},
		{"post, wrong secret", "", grant + "&client_id=cc-post&client_secret=wrong", 401,
			map[string]any{"error": "invalid_client"}},
		{"basic, taken though registered for post", basic("cc-post", p.Secrets["cc-post"]), grant, 200,
			map[string]any{"token_type": "Bearer", "expires_in": 600.0}},
		{"unknown client", basic("nobody", secret), grant, 401,
			map[string]any{"error": "invalid_client"}},
		{"expired secret", basic("cc-expired", p.Secrets["cc-expired"]), grant, 400,
			map[string]any{"error": "invalid_client"}},
		{"no authentication", "", grant, 400,
			map[string]any{"error": "invalid_request"}},
		{"a client that gets no tokens", basic("rs", p.Secrets["rs"]), grant, 400,
			map[string]any{"error": "invalid_request"}},
		{"unknown resource", basic("cc-basic", secret), grant + "&resource=https://unknown.example", 400,
			map[string]any{"error": "invalid_target"}},
		{"short-lived", basic("cc-basic", secret), grant + "&resource=urn:example:short", 200,
			map[string]any{"token_type": "Bearer", "expires_in": 2.0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, got := token(t, tt.authorization, tt.body)
			if (got["access_token"] != nil) != (tt.status == 200) {
				t.Errorf("access token %v", got["access_token"])
			}
			delete(got, "access_token")
			delete(got, "error_description")
			if diff := cmp.Diff(tt.want, got); resp.StatusCode != tt.status || diff != "" {
				t.Errorf("%d %s", resp.StatusCode, diff)
			}
			// RFC 6749 5.2
			if challenge := resp.Header.Get("WWW-Authenticate"); tt.status == 401 && tt.authorization != "" && !strings.HasPrefix(challenge, "Basic ") {
				t.Errorf("WWW-Authenticate: %q", challenge)
			}
		})
	}

	t.Run("opaque token, introspected", func(t *testing.T) {
		_, got := token(t, basic("cc-basic", secret), grant+"&scope=read&resource=https://api.example/opaque")
		opaque, _ := got["access_token"].(string)
		if opaque == "" || strings.Contains(opaque, ".") || got["expires_in"] != 300.0 {
			t.Fatalf("%v", got)
		}
		introspect := func(secret, token string) (*http.Response, map[string]any) {
			return send(t, "POST", p.Issuer+"/token/introspection", basic("rs", secret), "token="+enc(token), nil)
		}
		_, got = introspect(p.Secrets["rs"], opaque)
		for _, name := range []string{"iat", "exp"} {
			if _, ok := got[name].(float64); !ok {
				t.Errorf("%s: %v", name, got[name])
			}
			delete(got, name)
		}
		want := map[string]any{
			"active": true, "client_id": "cc-basic", "iss": p.Issuer, "aud": "https://api.example/opaque",
			"scope": "read", "token_type": "Bearer",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if _, got := introspect(p.Secrets["rs"], "never-issued"); !cmp.Equal(got, map[string]any{"active": false}) {
			t.Errorf("unknown token: %v", got)
		}
		if resp, got := introspect("wrong", opaque); resp.StatusCode != 401 || got["error"] != "invalid_client" {
			t.Errorf("wrong secret: %d %v", resp.StatusCode, got)
		}
	})

	t.Run("JWT", func(t *testing.T) {
		_, got := token(t, basic("cc-basic", secret), grant+"&scope=read&resource=https://api.example/jwt")
		if got["expires_in"] != 120.0 {
			t.Errorf("%v", got)
		}
		claims := verify(t, p.Issuer, got["access_token"].(string), "at+jwt")
		if life := claims["exp"].(float64) - claims["iat"].(float64); life != 120 {
			t.Errorf("lives for %v s", life)
		}
		for _, name := range []string{"exp", "iat", "jti"} {
			delete(claims, name)
		}
		want := map[string]any{
			"iss": p.Issuer, "sub": "cc-basic", "client_id": "cc-basic", "aud": "https://api.example/jwt", "scope": "read",
		}
		if diff := cmp.Diff(want, claims); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("TLS", func(t *testing.T) {
		roots := authority(t, p)
		_, got := send(t, "GET", p.TLSIssuer+"/.well-known/openid-configuration", "", "", roots)
		if got["issuer"] != p.TLSIssuer {
			t.Errorf("issuer %v, want %s", got["issuer"], p.TLSIssuer)
		}
		resp, got := send(t, "POST", p.TLSIssuer+"/token", basic("cc-basic", secret), grant, roots)
		if resp.StatusCode != 200 || got["access_token"] == nil {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
	})
}

func authority(t *testing.T, p *Provider) *x509.CertPool {
	t.Helper()
	ca, err := os.ReadFile(p.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return roots
}

// verify checks an RS256 signature with the key that the issuer publishes.
func verify(t *testing.T, issuer, token, typ string) map[string]any {
	t.Helper()
	_, set := send(t, "GET", issuer+"/jwks", "", "", nil)
	key := set["keys"].([]any)[0].(map[string]any)
	part := strings.Split(token, ".")
	if len(part) != 3 {
		t.Fatalf("not a JWT: %s", token)
	}
	decode := func(s string) []byte {
		data, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var header, claims map[string]any
	for i, m := range []*map[string]any{&header, &claims} {
		if err := json.Unmarshal(decode(part[i]), m); err != nil {
			t.Fatal(err)
		}
	}
	if header["alg"] != "RS256" || header["typ"] != typ || header["kid"] != key["kid"] {
		t.Errorf("header %v", header)
	}
	public := &rsa.PublicKey{
		N: new(big.Int).SetBytes(decode(key["n"].(string))),
		E: int(new(big.Int).SetBytes(decode(key["e"].(string))).Int64()),
	}
	sum := sha256.Sum256([]byte(part[0] + "." + part[1]))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], decode(part[2])); err != nil {
		t.Error(err)
	}
	return claims
}

func TestRequests(t *testing.T) {
	p := open(t, "CC_TTL=7")
	before := time.Now().Truncate(time.Millisecond)
	_, got := send(t, "POST", p.Issuer+"/token", basic("cc-basic", p.Secrets["cc-basic"]), grant+"&scope=read", nil)
	if got["expires_in"] != 7.0 {
		t.Errorf("CC_TTL: %v", got)
	}
	send(t, "POST", p.Issuer+"/token?x=y", "", grant+"&client_id=cc-post&client_secret=wrong", nil)
	log, err := p.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range log {
		if at := log[i].Time; at.Before(before) || at.After(time.Now()) {
			t.Error(at)
		}
		log[i].Time = time.Time{}
	}
	want := []Request{
		{Method: "POST", Path: "/token", Auth: "Basic", Status: 200,
			Form: url.Values{"grant_type": {"client_credentials"}, "scope": {"read"}}},
		{Method: "POST", Path: "/token", Status: 401,
			Form: url.Values{"grant_type": {"client_credentials"}, "client_id": {"cc-post"}, "client_secret": {"sha256:8810ad58"}}},
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Error(diff)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log, err := p.Requests(t.Context()); err != nil || len(log) != 0 {
		t.Errorf("after Reset: %v %v", log, err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	p, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(p.CAFile)); !os.IsNotExist(err) {
		t.Errorf("the CA's folder: %v", err)
	}
	if _, err := p.Requests(t.Context()); err == nil {
		t.Error("still answers")
	}
}

func TestNotInstalled(t *testing.T) {
	_, err := start(t.Context(), t.TempDir(), nil)
	want := "oidc-provider is not installed: run `make deps`, or `cd test/world && npm ci`"
	if err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestStartSaysWhyNot(t *testing.T) {
	p, err := Start(t.Context(), "PORT=none")
	if err == nil {
		p.Close()
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), "ERR_SOCKET_BAD_PORT") {
		t.Error(err)
	}
}
