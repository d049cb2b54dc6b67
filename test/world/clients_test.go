package world

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func TestAssertions(t *testing.T) {
	p := provider
	ask := func(t *testing.T, assertion string) (int, string) {
		t.Helper()
		form := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {assertionType}, "client_assertion": {assertion}}
		resp, got := send(t, "POST", p.Issuer+"/token", "", form.Encode(), nil)
		said, _ := got["error"].(string)
		return resp.StatusCode, said
	}
	body := func(client string) claims {
		return claims{"iss": client, "sub": client, "aud": p.Issuer, "jti": rand.Text(), "iat": in(0), "exp": in(time.Minute)}
	}

	for alg, key := range p.Keys {
		for format, file := range map[string]string{"PKCS#1": key.PKCS1, "SEC1": key.SEC1, "PKCS#8": key.PKCS8} {
			if file == "" {
				continue
			}
			t.Run(alg+" "+format, func(t *testing.T) {
				jwt := sign(t, load(t, file), claims{"alg": alg, "kid": key.ID}, body("cc-pkjwt"))
				if status, said := ask(t, jwt); status != 200 {
					t.Errorf("%d %s", status, said)
				}
				if status, said := ask(t, jwt); status != 401 || said != "invalid_client" {
					t.Errorf("replayed: %d %s", status, said)
				}
			})
		}
		t.Run(alg+" encrypted", func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "openssl", "pkcs8", "-in", key.Encrypted, "-passin", "pass:"+p.Passphrase)
			got, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(key.PKCS8)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("another key")
			}
		})
		t.Run(alg+" JWK", func(t *testing.T) {
			data, err := os.ReadFile(key.JWK)
			if err != nil {
				t.Fatal(err)
			}
			var jwk map[string]string
			if err := json.Unmarshal(data, &jwk); err != nil {
				t.Fatal(err)
			}
			if jwk["kid"] != key.ID || jwk["alg"] != alg || jwk["d"] == "" {
				t.Errorf("kid %q, alg %q", jwk["kid"], jwk["alg"])
			}
		})
	}
	if len(p.Keys) != 4 {
		t.Errorf("%d keys", len(p.Keys))
	}

	es256 := load(t, p.Keys["ES256"].PKCS8)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	named := claims{"alg": "ES256", "kid": "es256"}
	for _, tt := range []struct {
		name string
		jwt  string
	}{
		{"wrong key", sign(t, stranger, named, body("cc-pkjwt"))},
		{"wrong audience", sign(t, es256, named, with(body("cc-pkjwt"), claims{"aud": "https://other.example"}))},
		{"expired", sign(t, es256, named, with(body("cc-pkjwt"), claims{"iat": in(-2 * time.Minute), "exp": in(-time.Minute)}))},
		{"no signature", sign(t, nil, claims{"alg": "none"}, body("cc-pkjwt"))},
		{"wrong secret", sign(t, []byte("wrong-secret-of-32-bytes-or-more-0123456789"), claims{"alg": "HS256"}, body("cc-secret-jwt"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, said := ask(t, tt.jwt); status != 401 || said != "invalid_client" {
				t.Errorf("%d %s", status, said)
			}
		})
	}
	t.Run("client_secret_jwt", func(t *testing.T) {
		jwt := sign(t, []byte(p.Secrets["cc-secret-jwt"]), claims{"alg": "HS256"}, body("cc-secret-jwt"))
		if status, said := ask(t, jwt); status != 200 {
			t.Errorf("%d %s", status, said)
		}
	})
}

// proof makes a DPoP proof (RFC 9449 4.2).
func proof(t *testing.T, key *ecdsa.PrivateKey, to, nonce string) string {
	t.Helper()
	x, y := point(key)
	jwk := claims{"kty": "EC", "crv": "P-256", "x": x, "y": y}
	body := claims{"jti": rand.Text(), "htm": "POST", "htu": to, "iat": in(0)}
	if nonce != "" {
		body["nonce"] = nonce
	}
	return sign(t, key, claims{"alg": "ES256", "typ": "dpop+jwt", "jwk": jwk}, body)
}

func point(key *ecdsa.PrivateKey) (x, y string) {
	data, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	return enc(data[1:33]), enc(data[33:])
}

// thumbprint is that of RFC 7638.
func thumbprint(key *ecdsa.PrivateKey) string {
	x, y := point(key)
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestDPoP(t *testing.T) {
	p := provider
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := p.Issuer + "/token"
	ask := func(t *testing.T, client, proof string) (*http.Response, map[string]any) {
		t.Helper()
		header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {basic(client, p.Secrets[client])}}
		if proof != "" {
			header.Set("DPoP", proof)
		}
		return exchange(t, "POST", endpoint, header, grant, nil)
	}
	bound := func(t *testing.T, got map[string]any) {
		t.Helper()
		if got["token_type"] != "DPoP" {
			t.Fatalf("%v", got)
		}
		said, err := p.Introspect(t.Context(), got["access_token"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(claims{"jkt": thumbprint(key)}, said["cnf"]); diff != "" {
			t.Error(diff)
		}
	}

	if resp, got := ask(t, "cc-dpop", ""); resp.StatusCode != 400 || got["error"] != "invalid_grant" {
		t.Errorf("no proof: %d %v", resp.StatusCode, got)
	}
	once := proof(t, key, endpoint, "")
	_, got := ask(t, "cc-dpop", once)
	bound(t, got)
	if resp, got := ask(t, "cc-dpop", once); resp.StatusCode != 400 {
		t.Errorf("a proof used twice: %d %v", resp.StatusCode, got)
	}
	if resp, got := ask(t, "cc-dpop", proof(t, key, p.Issuer+"/other", "")); resp.StatusCode != 400 || got["error"] != "invalid_dpop_proof" {
		t.Errorf("for another endpoint: %d %v", resp.StatusCode, got)
	}

	resp, got := ask(t, "cc-dpop-nonce", proof(t, key, endpoint, ""))
	nonce := resp.Header.Get("DPoP-Nonce")
	if resp.StatusCode != 400 || got["error"] != "use_dpop_nonce" || nonce == "" {
		t.Fatalf("no nonce: %d %v", resp.StatusCode, got)
	}
	_, got = ask(t, "cc-dpop-nonce", proof(t, key, endpoint, nonce))
	bound(t, got)
}

func TestMutualTLS(t *testing.T) {
	p := provider
	roots := authority(t, p)
	_, metadata := send(t, "GET", p.TLSIssuer+"/.well-known/openid-configuration", "", "", roots)
	alias, _ := metadata["mtls_endpoint_aliases"].(map[string]any)
	endpoint, _ := alias["token_endpoint"].(string)
	if endpoint == "" || endpoint == metadata["token_endpoint"] || metadata["tls_client_certificate_bound_access_tokens"] != true {
		t.Fatalf("%v", metadata)
	}
	for _, tt := range []struct {
		name, client string
		certificate  Certificate
		status       int
	}{
		{"by the CA", "cc-mtls-ca", p.Certificates.CA, 200},
		{"self-signed", "cc-mtls-self", p.Certificates.SelfSigned, 200},
		{"a stranger", "cc-mtls-ca", p.Certificates.Stranger, 401},
		{"another's", "cc-mtls-self", p.Certificates.CA, 401},
		{"not by the CA", "cc-mtls-ca", p.Certificates.SelfSigned, 401},
		{"none", "cc-mtls-ca", Certificate{}, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := &tls.Config{RootCAs: roots}
			var sum [sha256.Size]byte
			if tt.certificate.Cert != "" {
				pair, err := tls.LoadX509KeyPair(tt.certificate.Cert, tt.certificate.Key)
				if err != nil {
					t.Fatal(err)
				}
				// Shown though the server names other authorities.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
				sum = sha256.Sum256(pair.Certificate[0])
			}
			header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
			resp, got := exchange(t, "POST", endpoint, header, grant+"&client_id="+tt.client, config)
			if resp.StatusCode != tt.status {
				t.Fatalf("%d %v", resp.StatusCode, got)
			}
			if tt.status != 200 {
				if got["error"] != "invalid_client" {
					t.Errorf("%v", got)
				}
				return
			}
			said, err := p.Introspect(t.Context(), got["access_token"].(string))
			if err != nil {
				t.Fatal(err)
			}
			want := claims{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}
			if diff := cmp.Diff(want, said["cnf"]); diff != "" || said["iss"] != p.TLSIssuer {
				t.Errorf("%v %s", said, diff)
			}
		})
	}
	t.Run("the main port asks for none", func(t *testing.T) {
		config := &tls.Config{RootCAs: roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			t.Error("asked")
			return &tls.Certificate{}, nil
		}}
		exchange(t, "GET", p.TLSIssuer+"/jwks", http.Header{}, "", config)
	})
}

func TestRegistration(t *testing.T) {
	p := provider
	const metadata = `{"redirect_uris":[],"response_types":[],"grant_types":["client_credentials"],"scope":"read"}`
	register := func(t *testing.T, issuer, token string) (*http.Response, map[string]any) {
		t.Helper()
		header := http.Header{"Content-Type": {"application/json"}}
		if token != "" {
			header.Set("Authorization", "Bearer "+token)
		}
		return exchange(t, "POST", issuer+"/reg", header, metadata, &tls.Config{RootCAs: authority(t, p)})
	}
	for _, token := range []string{"", "wrong"} {
		if resp, got := register(t, p.Issuer, token); resp.StatusCode != 401 {
			t.Errorf("with token %q: %d %v", token, resp.StatusCode, got)
		}
	}
	for issuer, token := range map[string]string{p.Issuer: p.InitialAccessToken, p.TLSIssuer: ""} {
		resp, got := register(t, issuer, token)
		id, _ := got["client_id"].(string)
		secret, _ := got["client_secret"].(string)
		if resp.StatusCode != 201 || id == "" || secret == "" || got["registration_access_token"] == nil {
			t.Fatalf("%d %v", resp.StatusCode, got)
		}
		resp, got = send(t, "POST", issuer+"/token", basic(url.QueryEscape(id), url.QueryEscape(secret)), grant, authority(t, p))
		if resp.StatusCode != 200 {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
	}
}
