package authserver

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "s3cret"

var dev = Client{ID: "dev", Secret: secret}

// A reply is a response that has been read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(r.body), &m); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return m
}

func do(t *testing.T, req *http.Request) reply {
	t.Helper()
	r, err := try(req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func try(req *http.Request) (reply, error) {
	c := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(body)}, err
}

// basic is what the header is made of, already encoded for its form.
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

func post(t *testing.T, to, authorization, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", to, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return req
}

func get(t *testing.T, from, authorization string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return req
}

// tokenRequest is one of dev's that is as it should be.
func tokenRequest(t *testing.T, s *Server) *http.Request {
	t.Helper()
	return post(t, s.TokenURL, basic("dev", secret), "grant_type=client_credentials")
}

// issueAt issues a token to dev at another time.
func issueAt(s *Server, scope string, now time.Time) issued {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issueLocked(grantRequest{client: dev, now: now}, &grant{client: "dev", subject: "dev"}, scope, nil)
}

func accessToken(t *testing.T, req *http.Request) string {
	t.Helper()
	r := do(t, req)
	token, _ := r.json(t)["access_token"].(string)
	if r.status != http.StatusOK || token == "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	return token
}

func TestToken(t *testing.T) {
	s := Start(t, Config{Clients: []Client{{ID: "dev", Secret: secret, Scope: "read write"}}})
	for body, want := range map[string]map[string]any{
		"grant_type=client_credentials":            {"token_type": "Bearer", "expires_in": 3600.0, "scope": "read write"},
		"grant_type=client_credentials&scope=read": {"token_type": "Bearer", "expires_in": 3600.0, "scope": "read"},
	} {
		r := do(t, post(t, s.TokenURL, basic("dev", secret), body))
		got := r.json(t)
		delete(got, "access_token")
		if diff := cmp.Diff(want, got); r.status != 200 || diff != "" {
			t.Errorf("%s: %d %s", body, r.status, diff)
		}
		if got := r.header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", body, got)
		}
	}
}

func TestTokenRefusals(t *testing.T) {
	s := Start(t, Config{Clients: []Client{{ID: "dev", Secret: secret, Scope: "read"}}})
	for body, want := range map[string]string{
		"":            "invalid_request",
		"grant_type=": "invalid_request",
		"grant_type=client_credentials&grant_type=client_credentials": "invalid_request",
		"grant_type=client_credentials&scope=%zz":                     "invalid_request",
		"grant_type=password":                                         "unsupported_grant_type",
		"grant_type=client_credentials&scope=read+write":              "invalid_scope",
		"grant_type=client_credentials&scope=read++read":              "invalid_scope",
		"grant_type=client_credentials&resource=api":                  "invalid_target",
		"grant_type=client_credentials&resource=https://api/%23part":  "invalid_target",
	} {
		r := do(t, post(t, s.TokenURL, basic("dev", secret), body))
		if got := r.json(t)["error"]; r.status != 400 || got != want {
			t.Errorf("%s: %d %v, want %s", body, r.status, got, want)
		}
	}
	if r := do(t, get(t, s.TokenURL, basic("dev", secret))); r.status != 405 {
		t.Errorf("GET: %d", r.status)
	}
	inURL := post(t, s.TokenURL+"?client_id=dev&client_secret="+secret, "", "grant_type=client_credentials")
	if r := do(t, inURL); r.status != 401 {
		t.Errorf("credentials in the URL: %d", r.status)
	}
}

func TestConfigRefusals(t *testing.T) {
	for _, cfg := range []Config{
		{Path: "tenant"},
		{Path: "/tenant/"},
		{Alg: "none"},
		{Lifetime: 1500e6},
		{Lifetime: -1e9},
		{Clients: []Client{{ID: "dev"}}},
		{Clients: []Client{{Secret: secret}}},
		{Clients: []Client{dev, dev}},
		{Clients: []Client{{ID: "dev", Secret: secret, Auth: "none"}}},
		{Addr: "256.0.0.1:0"},
		{MTLS: true},
		{DeviceInterval: 1500e6},
		{DeviceLifetime: -1e9},
		{Issuers: []AssertionIssuer{{}}},
		{Issuers: []AssertionIssuer{{Issuer: "https://idp.example"}}},
		{Metadata: map[string]any{"x": func() {}}},
		{Clients: []Client{{ID: "dev", Secret: secret, Auth: "magic"}}},
		{Clients: []Client{{ID: "dev", Secret: secret, Auth: AuthSecretJWT}}},
		{Clients: []Client{{ID: "dev", Auth: AuthPrivateKeyJWT}}},
		{Clients: []Client{{ID: "dev", Auth: AuthPrivateKeyJWT, JWKS: publicKeys(jose.JSONWebKey{Key: []byte(secret)})}}},
		{Clients: []Client{{ID: "dev", Auth: AuthTLS, SubjectDN: "CN=dev"}}},
		{TLS: true, MTLS: true, Clients: []Client{{ID: "dev", Auth: AuthTLS}}},
		{TLS: true, MTLS: true, Clients: []Client{{ID: "dev", Auth: AuthSelfSignedTLS, Certificate: "x"}}},
		{Clients: []Client{{ID: "dev", Secret: secret, Refresh: "sometimes"}}},
		{Clients: []Client{{ID: "dev", Secret: secret, Refresh: RefreshSame, GraceUses: 1}}},
		{Clients: []Client{{ID: "dev", Secret: secret, GraceSeconds: -1}}},
		{Clients: []Client{{ID: "dev", Secret: secret, RedirectURIs: []string{"http://app.example/"}}}},
	} {
		if s, err := Listen(cfg); err == nil {
			s.Close()
			t.Errorf("%+v: no error", cfg)
		}
	}
}

func TestMetadata(t *testing.T) {
	for path, where := range map[string][]string{
		"": {"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"},
		"/a/b": {
			"/a/b/.well-known/openid-configuration", "/.well-known/openid-configuration/a/b",
			"/a/b/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/a/b",
		},
	} {
		s := Start(t, Config{Path: path, Clients: []Client{dev}})
		if s.Issuer != s.URL+path || s.TokenURL != s.Issuer+"/token" || s.ResourceURL != s.Issuer+"/resource" {
			t.Errorf("issuer %s, token %s, resource %s", s.Issuer, s.TokenURL, s.ResourceURL)
		}
		methods := []any{"client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"}
		withNone := append(methods[:4:4], "none")
		algorithms := []any{"RS256", "PS256", "ES256", "EdDSA"}
		withHMAC := append(algorithms[:4:4], "HS256")
		want := map[string]any{
			"issuer":                                                   s.Issuer,
			"authorization_endpoint":                                   s.Issuer + "/authorize",
			"pushed_authorization_request_endpoint":                    s.Issuer + "/par",
			"device_authorization_endpoint":                            s.Issuer + "/device_authorization",
			"token_endpoint":                                           s.TokenURL,
			"token_endpoint_auth_methods_supported":                    withNone,
			"token_endpoint_auth_signing_alg_values_supported":         withHMAC,
			"introspection_endpoint":                                   s.Issuer + "/introspect",
			"introspection_endpoint_auth_methods_supported":            methods,
			"introspection_endpoint_auth_signing_alg_values_supported": withHMAC,
			"revocation_endpoint":                                      s.Issuer + "/revoke",
			"revocation_endpoint_auth_methods_supported":               withNone,
			"revocation_endpoint_auth_signing_alg_values_supported":    withHMAC,
			"jwks_uri":                                       s.Issuer + "/jwks",
			"grant_types_supported":                          []any{"client_credentials", "authorization_code", "refresh_token", grantDevice, grantExchange},
			"response_types_supported":                       []any{"code"},
			"response_modes_supported":                       []any{"query"},
			"scopes_supported":                               []any{"openid"},
			"code_challenge_methods_supported":               []any{"S256"},
			"authorization_response_iss_parameter_supported": true,
			"require_pushed_authorization_requests":          false,
			"client_id_metadata_document_supported":          false,
			"dpop_signing_alg_values_supported":              algorithms,
			"protected_resources":                            []any{s.ResourceURL},
			"subject_types_supported":                        []any{"public"},
			"id_token_signing_alg_values_supported":          []any{"EdDSA"},
		}
		for _, p := range where {
			if diff := cmp.Diff(want, do(t, get(t, s.URL+p, "")).json(t)); diff != "" {
				t.Errorf("%s: %s", p, diff)
			}
		}
		token := accessToken(t, tokenRequest(t, s))
		if r := do(t, get(t, s.ResourceURL, "Bearer "+token)); r.status != 200 {
			t.Errorf("%q: resource: %d", path, r.status)
		}
		if r := do(t, get(t, s.Issuer+"/nothing", "")); r.status != 404 {
			t.Errorf("%q: unknown path: %d", path, r.status)
		}
	}
	s := Start(t, Config{Path: "/a", Clients: []Client{dev}})
	if r := do(t, post(t, s.URL+"/token", basic("dev", secret), "grant_type=client_credentials")); r.status != 404 {
		t.Errorf("token endpoint outside of the issuer's path: %d", r.status)
	}
}

func TestIntrospection(t *testing.T) {
	opaque := Client{ID: "opaque", Secret: secret, Opaque: true, Scope: "read"}
	s := Start(t, Config{Clients: []Client{dev, opaque}})
	introspect := func(authorization, token string) reply {
		return do(t, post(t, s.Issuer+"/introspect", authorization, url.Values{"token": {token}}.Encode()))
	}
	for _, c := range []Client{dev, opaque} {
		token := accessToken(t, post(t, s.TokenURL, basic(c.ID, secret), "grant_type=client_credentials"))
		if jwt := strings.Count(token, ".") == 2; jwt == c.Opaque {
			t.Errorf("%s: token %s", c.ID, token)
		}
		got := introspect(basic("dev", secret), token).json(t)
		if got["exp"].(float64)-got["iat"].(float64) < 3600 || got["jti"] == "" {
			t.Errorf("%v", got)
		}
		for _, name := range []string{"exp", "iat", "jti"} {
			delete(got, name)
		}
		want := map[string]any{
			"active": true, "token_type": "Bearer", "iss": s.Issuer, "sub": c.ID, "client_id": c.ID,
			"aud": []any{s.ResourceURL},
		}
		if c.Scope != "" {
			want["scope"] = c.Scope
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.ID, diff)
		}
	}
	if got := introspect(basic("dev", secret), "never-issued").body; got != `{"active":false}` {
		t.Errorf("unknown token: %s", got)
	}
	if r := introspect(basic("dev", "wrong"), "x"); r.status != 401 {
		t.Errorf("wrong secret: %d", r.status)
	}
	if r := introspect(basic("dev", secret), ""); r.status != 400 {
		t.Errorf("no token: %d", r.status)
	}
	if r := do(t, get(t, s.Issuer+"/introspect", basic("dev", secret))); r.status != 405 {
		t.Errorf("GET: %d", r.status)
	}
}
