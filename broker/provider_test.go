package broker_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
	others "tokend/test/world"
)

// person logs in at a server of others, as package login has it done.
func (h *house) person(t *testing.T, p *others.Provider, name string) *oauth.Token {
	t.Helper()
	ready, err := h.Prepare(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	const verifier, redirect = "a-verifier-of-at-least-43-characters-0123456789", "http://127.0.0.1:51234/callback"
	sum := sha256.Sum256([]byte(verifier))
	query := url.Values{
		"client_id": {ready.Client.ID}, "response_type": {"code"}, "redirect_uri": {redirect}, "scope": {"openid offline_access read write"}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	back, err := p.Approve(t.Context(), ready.Endpoints.Authorization+"?"+query.Encode(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(back)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ready.Token(t.Context(), oauth.Request{Grant: oauth.GrantAuthorizationCode,
		Params: url.Values{"code": {u.Query().Get("code")}, "redirect_uri": {redirect}, "code_verifier": {verifier}}})
	if err != nil {
		t.Fatal(err)
	}
	if warning, err := h.Adopt(t.Context(), ready, []string{"openid", "offline_access", "read", "write"}, token); err != nil || warning != "" {
		t.Fatal(warning, err)
	}
	return token
}

// The same as with the server of ours, with one that others wrote.
func TestWithAProviderOfOthers(t *testing.T) {
	t.Parallel()
	p, err := others.Start(context.Background()) // until Close
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, test := range []struct {
		client, dpop string
		rotates      bool
	}{
		{"web", "auto", true},
		{"native", "off", true},
		{"native-keep", "auto", false},
		{"native-dpop", "on", true},
	} {
		t.Run(test.client, func(t *testing.T) {
			h := newHouse(t, authserver.Config{})
			text := []string{"OAUTH2_ISSUER", p.Issuer, "OAUTH2_GRANT", "authorization_code", "CLIENT_ID", test.client, "OAUTH2_DPOP", test.dpop}
			if secret := p.Secrets[test.client]; secret != "" {
				text = append(text, "CLIENT_SECRET", secret)
			}
			h.put(t, "dev/network", lines(text...))
			first := h.person(t, p, "dev/network")
			tokens := []string{first.RefreshToken.Reveal()}
			for range 3 {
				h.restart()
				h.get(t, plain)
				tokens = append(tokens, h.record(t, "dev/network")["refresh_token"].(string))
			}
			if n := len(slices.Compact(slices.Clone(tokens))); test.rotates != (n == 4) || !test.rotates != (n == 1) {
				t.Errorf("%d refresh tokens", n)
			}
			narrow := h.get(t, broker.Request{Profile: "dev/network", Scopes: []string{"openid", "read"}})
			if !slices.Equal(narrow.Scopes, []string{"openid", "read"}) {
				t.Errorf("got %q", narrow.Scopes)
			}
			h.restart()
			if all := h.get(t, plain); !slices.Contains(all.Scopes, "write") {
				t.Errorf("got %q after a narrower one", all.Scopes)
			}
			token := h.record(t, "dev/network")["refresh_token"].(string)
			got, err := h.Revoke(t.Context(), "dev/network")
			if err != nil || got.Revoked != 2 || got.Queued != 0 || got.Problem != "" {
				t.Errorf("got %+v, %v", got, err)
			}
			// The server knows it no more.
			ready, err := h.Prepare(t.Context(), "dev/network")
			if err != nil {
				t.Fatal(err)
			}
			var answer *oauth.Error
			if _, err := ready.Token(t.Context(), oauth.Request{Grant: oauth.GrantRefreshToken, Params: url.Values{"refresh_token": {token}}}); !errors.As(err, &answer) || answer.Code != "invalid_grant" {
				t.Errorf("error is %v", err)
			}
		})
	}
	cert := p.Certificates.CA
	for name, text := range map[string][]string{
		"dpop":            {"CLIENT_ID", "cc-dpop", "CLIENT_SECRET", p.Secrets["cc-dpop"], "OAUTH2_DPOP", "on"},
		"dpop with nonce": {"CLIENT_ID", "cc-dpop-nonce", "CLIENT_SECRET", p.Secrets["cc-dpop-nonce"], "OAUTH2_DPOP", "on"},
		"key":             {"CLIENT_ID", "cc-pkjwt", "PRIVATE_KEY", read(p.Keys["ES256"].JWK)},
		"key, endpoint":   {"CLIENT_ID", "cc-pkjwt", "PRIVATE_KEY", read(p.Keys["RS256"].PKCS1), "PRIVATE_KEY_ID", p.Keys["RS256"].ID, "OAUTH2_ASSERTION_AUDIENCE", "token_endpoint"},
		"certificate":     {"CLIENT_ID", "cc-mtls-ca", "TLS_CA", read(p.CAFile), "TLS_CLIENT_CERT", read(cert.Cert), "TLS_CLIENT_KEY", read(cert.Key)},
		"bearer":          {"CLIENT_ID", "bearer", "OAUTH2_GRANT", "jwt_bearer", "PRIVATE_KEY", read(p.Keys["ES256"].JWK), "OAUTH2_ASSERTION_SUBJECT", "alice"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, authserver.Config{})
			issuer := p.Issuer
			if slices.Contains(text, "TLS_CA") {
				issuer = p.TLSIssuer
			}
			h.put(t, "dev/network", lines(append([]string{"OAUTH2_ISSUER", issuer, "OAUTH2_SCOPE", "read"}, text...)...))
			first := h.get(t, plain)
			if first.Lifetime < time.Second || (first.Type == "DPoP") != slices.Contains(text, "OAUTH2_DPOP") {
				t.Errorf("got %v", first)
			}
			h.sleep(first.Lifetime)
			if again := h.get(t, plain); again.Access == first.Access {
				t.Error("the same token again")
			}
		})
	}
}
