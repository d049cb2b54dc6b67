package test

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
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"tokend/test/world"
)

// Against a server that others wrote: what tokenctl prints is a token that
// this server calls active.
func TestRealProvider(t *testing.T) {
	p, err := world.Start(context.Background()) // until Close
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	h := newHome(t)
	h.must(t, "", "init")
	const weird = "cc weird:id+%"
	credentials := func(id string) string {
		return fmt.Sprintf("CLIENT_ID='%s'\nCLIENT_SECRET='%s'\n", id, p.Secrets[id])
	}
	direct := "OAUTH2_TOKEN_URL=" + p.Issuer + "/token\n"
	discovered := "OAUTH2_ISSUER=" + p.Issuer + "\n"
	const opaque, jwt = "https://api.example/opaque", "https://api.example/jwt"
	for _, test := range []struct {
		name, text string
		client     string
		scope      string
		audience   string // of a JWT; other tokens are opaque
		lifetime   int64
	}{
		{"basic", direct + credentials("cc-basic") + "OAUTH2_SCOPE='read write'\n", "cc-basic", "read write", "", 600},
		{"post", direct + credentials("cc-post") + "OAUTH2_CLIENT_AUTH=client_secret_post\n", "cc-post", "", "", 600},
		{"weird", direct + credentials(weird) + "OAUTH2_SCOPE=read\n", weird, "read", "", 600},
		{"discovered", discovered + credentials("cc-basic"), "cc-basic", "", "", 600},
		{"opaque", discovered + credentials("cc-basic") + "OAUTH2_SCOPE=read\nOAUTH2_RESOURCE=" + opaque + "\n", "cc-basic", "read", "", 300},
		{"jwt", discovered + credentials("cc-basic") + "OAUTH2_SCOPE=read\nOAUTH2_RESOURCE=" + jwt + "\n", "cc-basic", "read", jwt, 120},
		{"tls", "OAUTH2_TOKEN_URL=" + p.TLSIssuer + "/token\nTLS_CA_FILE=" + p.CAFile + "\n" + credentials("cc-basic"), "cc-basic", "", "", 600},
		{"tls/discovered", "OAUTH2_ISSUER=" + p.TLSIssuer + "\nTLS_CA_FILE=" + p.CAFile + "\n" + credentials("cc-post") + "OAUTH2_CLIENT_AUTH=client_secret_post\n", "cc-post", "", "", 600},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text, "add", test.name)
			token := h.get(t, test.name)
			var got struct {
				AccessToken string `json:"access_token"`
				TokenType   string `json:"token_type"`
				Lifetime    int64  `json:"lifetime"`
			}
			if err := json.Unmarshal([]byte(h.must(t, "", "get", test.name, "-o", "json")), &got); err != nil {
				t.Fatal(err)
			}
			if got.AccessToken != token || got.TokenType != "Bearer" || got.Lifetime != test.lifetime {
				t.Errorf("got %s for %d s, want Bearer for %d s, and the same token again", got.TokenType, got.Lifetime, test.lifetime)
			}
			if test.audience != "" {
				// This server introspects no JWTs: they speak for themselves.
				claims := verify(t, p, token)
				if claims["iss"] != p.Issuer || claims["aud"] != test.audience || claims["client_id"] != test.client || claims["scope"] != test.scope {
					t.Errorf("claims: %v", claims)
				}
				return
			}
			if strings.Contains(token, ".") {
				t.Error("a JWT, want an opaque token")
			}
			issuer := p.Issuer
			if strings.HasPrefix(test.name, "tls") {
				issuer = p.TLSIssuer
			}
			said := introspect(t, p, issuer, token)
			scope, _ := said["scope"].(string)
			if said["active"] != true || said["client_id"] != test.client || scope != test.scope {
				t.Errorf("the server says of the token: %v", said)
			}
		})
	}

	if got := introspect(t, p, p.Issuer, "no-such-token"); got["active"] != false {
		t.Errorf("the server says of no token: %v", got)
	}

	for _, r := range []struct{ name, text, says string }{
		{"wrong/secret", direct + "CLIENT_ID=cc-basic\nCLIENT_SECRET=wrong-s3cret\n", "invalid_client"},
		{"wrong/post", direct + "CLIENT_ID=cc-post\nCLIENT_SECRET=wrong-s3cret\nOAUTH2_CLIENT_AUTH=client_secret_post\n", "invalid_client"},
		{"wrong/expired", direct + credentials("cc-expired"), "invalid_client"},
		{"wrong/resource", direct + credentials("cc-basic") + "OAUTH2_RESOURCE=https://api.example/none\n", "invalid_target"},
	} {
		h.must(t, r.text, "add", r.name)
		h.wantFailure(t, 8, r.says, "get", r.name)
	}
	// Without its CA there is no telling who this is.
	h.must(t, "OAUTH2_TOKEN_URL="+p.TLSIssuer+"/token\n"+credentials("cc-basic"), "add", "no/ca")
	h.wantFailure(t, 75, "certificate", "get", "no/ca")
}

// introspect asks one of the server's issuers about a token (RFC 7662), as a
// resource server.
func introspect(t *testing.T, p *world.Provider, issuer, token string) map[string]any {
	t.Helper()
	form := url.Values{"token": {token}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, issuer+"/token/introspection", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("rs", p.Secrets["rs"])
	return ask(t, p, req)
}

func ask(t *testing.T, p *world.Provider, req *http.Request) map[string]any {
	t.Helper()
	ca, err := os.ReadFile(p.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	return answer
}

// verify checks a JWT by the server's published key and returns its claims.
func verify(t *testing.T, p *world.Provider, token string) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Issuer+"/jwks", nil)
	if err != nil {
		t.Fatal(err)
	}
	key := ask(t, p, req)["keys"].([]any)[0].(map[string]any)
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT of %d parts", len(parts))
	}
	public := rsa.PublicKey{N: new(big.Int).SetBytes(decode(key["n"].(string))), E: int(new(big.Int).SetBytes(decode(key["e"].(string))).Int64())}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&public, crypto.SHA256, sum[:], decode(parts[2])); err != nil {
		t.Error(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(decode(parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}
