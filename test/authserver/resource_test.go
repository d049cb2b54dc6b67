package authserver

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResource(t *testing.T) {
	for _, cfg := range []Config{
		{Alg: "EdDSA", Clients: []Client{{ID: "dev", Secret: secret, Scope: "read"}}},
		{Alg: "RS256", Clients: []Client{{ID: "dev", Secret: secret, Scope: "read"}}},
		{Clients: []Client{{ID: "dev", Secret: secret, Scope: "read", Opaque: true}}},
	} {
		s := Start(t, cfg)
		token := accessToken(t, tokenRequest(t, s))
		r := do(t, get(t, s.ResourceURL+"?scope=read", "bearer "+token))
		got := r.json(t)
		for _, name := range []string{"exp", "iat", "jti"} {
			delete(got, name)
		}
		want := map[string]any{"iss": s.Issuer, "sub": "dev", "client_id": "dev", "scope": "read", "aud": []any{s.ResourceURL}}
		if diff := cmp.Diff(want, got); r.status != 200 || diff != "" {
			t.Errorf("%d %s", r.status, diff)
		}

		r = do(t, get(t, s.ResourceURL+"?scope=write", "Bearer "+token))
		metadata := `resource_metadata="` + s.URL + `/.well-known/oauth-protected-resource/resource"`
		challenge := `Bearer error="insufficient_scope", error_description="the token lacks a scope", scope="write", ` + metadata
		if got := r.header.Get("WWW-Authenticate"); r.status != 403 || got != challenge {
			t.Errorf("%d %s", r.status, got)
		}
		// A part of a scope's name is not that scope.
		if r := do(t, get(t, s.ResourceURL+"?scope=rea", "Bearer "+token)); r.status != 403 {
			t.Errorf("scope=rea: %d", r.status)
		}

		other := accessToken(t, post(t, s.TokenURL, basic("dev", secret),
			"grant_type=client_credentials&resource="+url.QueryEscape("https://other.example/")))
		both := accessToken(t, post(t, s.TokenURL, basic("dev", secret),
			"grant_type=client_credentials&audience=other&resource="+url.QueryEscape(s.ResourceURL)))
		if r := do(t, get(t, s.ResourceURL, "Bearer "+both)); r.status != 200 {
			t.Errorf("two audiences: %d", r.status)
		}
		for token, description := range map[string]string{
			other: "for another audience",
			"x":   "not a token of this server",
			"":    "not a token of this server",
		} {
			r := do(t, get(t, s.ResourceURL, "Bearer "+token))
			want := `Bearer error="invalid_token", error_description="` + description + `", ` + metadata
			if got := r.header.Get("WWW-Authenticate"); r.status != 401 || got != want {
				t.Errorf("%q: %d %s", token, r.status, got)
			}
		}
		if r := do(t, get(t, s.ResourceURL, "")); r.status != 401 || r.header.Get("WWW-Authenticate") != "Bearer "+metadata {
			t.Errorf("no token: %d %q", r.status, r.header.Get("WWW-Authenticate"))
		}
		if r := do(t, get(t, s.ResourceURL, basic("dev", secret))); r.status != 400 {
			t.Errorf("Basic: %d", r.status)
		}
	}
}

func TestResourceRefusesForgeries(t *testing.T) {
	for _, alg := range []string{"EdDSA", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			s := Start(t, Config{Alg: alg, Clients: []Client{dev}})
			foreign, err := newSigningKey(alg)
			if err != nil {
				t.Fatal(err)
			}
			foreign.id = s.key.id
			now := time.Now()
			good := issueAt(s, "read", now).claims
			change := func(f func(*claims)) claims {
				c := good
				f(&c)
				return c
			}
			part := func(v any) string {
				data, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				return b64.EncodeToString(data)
			}
			signed := strings.Split(s.key.sign(accessTokenHeader, good), ".")
			tampered := part(change(func(c *claims) { c.Scope = "admin" }))

			if r := do(t, get(t, s.ResourceURL, "Bearer "+strings.Join(signed, "."))); r.status != 200 {
				t.Fatalf("the genuine token: %d %s", r.status, r.body)
			}
			for name, tt := range map[string]struct{ token, why string }{
				"expired":          {s.key.sign(accessTokenHeader, change(func(c *claims) { c.Expires = now.Unix() })), "expired"},
				"another issuer":   {s.key.sign(accessTokenHeader, change(func(c *claims) { c.Issuer = "https://else" })), `issued by "https://else"`},
				"another audience": {s.key.sign(accessTokenHeader, change(func(c *claims) { c.Audience = []string{s.Issuer} })), "for another audience"},
				"foreign key":      {foreign.sign(accessTokenHeader, good), "wrong signature"},
				"tampered":         {signed[0] + "." + tampered + "." + signed[2], "wrong signature"},
				"no signature":     {signed[0] + "." + signed[1] + ".", "wrong signature"},
				"two parts":        {signed[0] + "." + signed[1], "not a token of this server"},
				"alg none":         {part(jwtHeader{"none", "at+jwt", s.key.id}) + "." + signed[1] + ".", "not signed as this server signs"},
				"alg HS256":        {part(jwtHeader{"HS256", "at+jwt", s.key.id}) + "." + signed[1] + "." + signed[2], "not signed as this server signs"},
				"an ID token":      {part(jwtHeader{alg, "JWT", s.key.id}) + "." + signed[1] + "." + signed[2], "not signed as this server signs"},
			} {
				r := do(t, get(t, s.ResourceURL, "Bearer "+tt.token))
				want := fmt.Sprintf(`Bearer error="invalid_token", error_description=%q, resource_metadata=%q`, tt.why,
					s.URL+"/.well-known/oauth-protected-resource/resource")
				if got := r.header.Get("WWW-Authenticate"); r.status != 401 || got != want {
					t.Errorf("%s: %d %s, want %s", name, r.status, got, want)
				}
			}
		})
	}
}

// The signatures are checked by an implementation that did not make them.
func TestSignaturesWithNode(t *testing.T) {
	for _, alg := range []string{"EdDSA", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			s := Start(t, Config{Alg: alg, Clients: []Client{dev}})
			jwks := do(t, get(t, s.Issuer+"/jwks", "")).body
			verify := func(token string) (string, error) {
				cmd := exec.CommandContext(t.Context(), "node", "testdata/verify.mjs")
				cmd.Stdin = strings.NewReader(`{"jwks":` + jwks + `,"token":"` + token + `"}`)
				out, err := cmd.Output()
				return string(out), err
			}
			token := accessToken(t, tokenRequest(t, s))
			out, err := verify(token)
			if err != nil {
				t.Fatal(err)
			}
			want := do(t, get(t, s.ResourceURL, "Bearer "+token)).json(t)
			if diff := cmp.Diff(want, reply{body: out}.json(t)); diff != "" {
				t.Error(diff)
			}
			part := strings.Split(token, ".")
			part[1] = b64.EncodeToString([]byte(strings.Replace(out, `"sub":"dev"`, `"sub":"eve"`, 1)))
			out, err = verify(strings.Join(part, "."))
			if exit, ok := err.(*exec.ExitError); !ok || !strings.Contains(string(exit.Stderr), "wrong signature") {
				t.Errorf("tampered token: %s %v", out, err)
			}
		})
	}
}
