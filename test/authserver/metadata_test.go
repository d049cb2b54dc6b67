package authserver

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResourceMetadata(t *testing.T) {
	s := Start(t, Config{
		Path: "/tenant", ResourceScope: "api:read api:write",
		Clients: []Client{{ID: "dev", Secret: secret, Scope: "api:read api:write api:admin"}},
	})
	r := do(t, get(t, s.ResourceURL, ""))
	where := s.URL + "/.well-known/oauth-protected-resource/tenant/resource"
	if got, want := r.header.Get("WWW-Authenticate"), `Bearer scope="api:read api:write", resource_metadata="`+where+`"`; r.status != 401 || got != want {
		t.Errorf("%d %s, want %s", r.status, got, want)
	}
	want := map[string]any{
		"resource": s.ResourceURL, "authorization_servers": []any{s.Issuer}, "bearer_methods_supported": []any{"header"},
		"dpop_signing_alg_values_supported": []any{"RS256", "PS256", "ES256", "EdDSA"},
		"scopes_supported":                  []any{"api:read", "api:write"},
	}
	for _, u := range []string{where, s.URL + "/.well-known/oauth-protected-resource"} {
		if diff := cmp.Diff(want, do(t, get(t, u, "")).json(t)); diff != "" {
			t.Errorf("%s: %s", u, diff)
		}
	}
	if r := do(t, post(t, where, "", "")); r.status != 405 {
		t.Errorf("POST: %d", r.status)
	}
	if r := do(t, post(t, s.Issuer+"/.well-known/openid-configuration", "", "")); r.status != 405 {
		t.Errorf("POST: %d", r.status)
	}
	got := askMetadata(t, s)["scopes_supported"]
	if diff := cmp.Diff([]any{"api:admin", "api:read", "api:write", "openid"}, got); diff != "" {
		t.Error(diff)
	}

	some := accessToken(t, post(t, s.TokenURL, basic("dev", secret), "grant_type=client_credentials&scope=api:read"))
	r = do(t, get(t, s.ResourceURL, "Bearer "+some))
	challenge := `Bearer error="insufficient_scope", error_description="the token lacks a scope", scope="api:read api:write", resource_metadata="` + where + `"`
	if got := r.header.Get("WWW-Authenticate"); r.status != 403 || got != challenge {
		t.Errorf("%d %s, want %s", r.status, got, challenge)
	}
	all := accessToken(t, tokenRequest(t, s))
	if r := do(t, get(t, s.ResourceURL+"?scope=api:admin", "Bearer "+all)); r.status != 200 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestMetadataLies(t *testing.T) {
	s := Start(t, Config{
		Metadata:         map[string]any{"issuer": "https://evil.example", "code_challenge_methods_supported": []string{"plain"}, "jwks_uri": nil},
		ResourceMetadata: map[string]any{"resource": "https://evil.example/r", "authorization_servers": []string{"https://evil.example"}},
	})
	m := askMetadata(t, s)
	if _, ok := m["jwks_uri"]; ok || m["issuer"] != "https://evil.example" || !cmp.Equal(m["code_challenge_methods_supported"], []any{"plain"}) ||
		m["token_endpoint"] != s.TokenURL {
		t.Errorf("%v", m)
	}
	m = do(t, get(t, s.URL+"/.well-known/oauth-protected-resource/resource", "")).json(t)
	if m["resource"] != "https://evil.example/r" || !cmp.Equal(m["authorization_servers"], []any{"https://evil.example"}) {
		t.Errorf("%v", m)
	}
}

func TestConfigJSON(t *testing.T) {
	got := Config{Alg: "RS256"}
	err := json.Unmarshal([]byte(`{
		"path": "/tenant", "tls": true, "mtls": true, "lifetime": "90s", "response_iss": "none", "require_par": true,
		"device_interval": "1s", "device_lifetime": "2m", "dpop_nonce": true, "registration": true,
		"registration_token": "initial", "users": {"me": "pass"}, "client_id_metadata": true,
		"resource_scope": "read", "metadata": {"jwks_uri": null}, "resource_metadata": {"resource": "x"},
		"clients": [{"id": "app", "auth": "none", "redirect_uris": ["http://127.0.0.1/cb"], "refresh": "rotate",
			"grace_uses": 1, "grace_seconds": 2, "grants": ["refresh_token"], "require_par": true, "require_dpop": true,
			"refresh_always": true, "token_audience": true, "subject_dn": "CN=x", "certificate": "c"}]
	}`), &got)
	want := Config{
		Alg: "RS256", Path: "/tenant", TLS: true, MTLS: true, Lifetime: 90 * time.Second, ResponseIss: NoIss, RequirePAR: true,
		DeviceInterval: time.Second, DeviceLifetime: 2 * time.Minute, DPoPNonce: true, Registration: true,
		RegistrationToken: "initial", Users: map[string]string{"me": "pass"}, ClientIDMetadata: true,
		ResourceScope: "read", Metadata: map[string]any{"jwks_uri": nil}, ResourceMetadata: map[string]any{"resource": "x"},
		Clients: []Client{{
			ID: "app", Auth: AuthNone, RedirectURIs: []string{"http://127.0.0.1/cb"}, Refresh: RefreshRotate,
			GraceUses: 1, GraceSeconds: 2, Grants: []string{"refresh_token"}, RequirePAR: true, RequireDPoP: true,
			RefreshAlways: true, TokenAudience: true, SubjectDN: "CN=x", Certificate: "c",
		}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{`[]`, `{"lifetime": 90}`, `{"device_interval": "soon"}`, `{"colour": "red"}`, `{"clients":[{"name":"x"}]}`} {
		if err := json.Unmarshal([]byte(bad), new(Config)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
