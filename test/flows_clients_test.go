package test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"

	"tokend/test/authserver"
)

const (
	ccBasic     = "POST /token Basic grant_type=client_credentials scope=read 200"
	ccAssertion = "POST /token client_assertion=* client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer client_id=%s grant_type=client_credentials scope=read 200"
)

// Each way for a client to authenticate, with each kind of key: the token works,
// and one request got it.
func TestClientAuthentication(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	const weird = "cc weird:id+%"
	direct, issuer := "OAUTH2_TOKEN_URL="+p.Issuer+"/token", "OAUTH2_ISSUER="+p.Issuer
	secret := func(id string) string { return fmt.Sprintf("CLIENT_ID='%s'\nCLIENT_SECRET='%s'", id, p.Secrets[id]) }
	key := func(alg, file string) string {
		return lines(issuer, "CLIENT_ID=cc-pkjwt", "PRIVATE_KEY_FILE="+file, "PRIVATE_KEY_ID="+p.Keys[alg].ID, "PRIVATE_KEY_ALG="+alg)
	}
	jwk := func(alg string) string {
		return lines(issuer, "CLIENT_ID=cc-pkjwt", "PRIVATE_KEY_FILE="+p.Keys[alg].JWK)
	}
	inline, err := os.ReadFile(p.Keys["ES256"].SEC1)
	if err != nil {
		t.Fatal(err)
	}
	tls := func(id, cert, key string) string {
		return lines("OAUTH2_ISSUER="+p.TLSIssuer, "TLS_CA_FILE="+p.CAFile, "CLIENT_ID="+id, "TLS_CLIENT_CERT_FILE="+cert, "TLS_CLIENT_KEY_FILE="+key)
	}
	certificates := p.Certificates
	assertion := func(id string) []string { return []string{fmt.Sprintf(ccAssertion, id)} }
	const selfSigned = "OAUTH2_CLIENT_AUTH=self_signed_tls_client_auth\n"
	for _, test := range []struct {
		name, text string
		client     string
		asked      []string
		cert       string // the file of the certificate that the token is bound to
		dpop       bool   // it is bound to a key
	}{
		{name: "basic", text: lines(direct, secret("cc-basic")), client: "cc-basic", asked: []string{ccBasic}},
		{name: "basic/form", text: lines(direct, secret(weird), "OAUTH2_BASIC_ENCODING=form"), client: weird, asked: []string{ccBasic}},
		{name: "basic/discovered", text: lines(issuer, secret("cc-basic")), client: "cc-basic", asked: []string{ccBasic}},
		{name: "post", text: lines(direct, secret("cc-post"), "OAUTH2_CLIENT_AUTH=client_secret_post"), client: "cc-post",
			asked: []string{"POST /token client_id=cc-post client_secret=* grant_type=client_credentials scope=read 200"}},
		{name: "secret-jwt", text: lines(issuer, secret("cc-secret-jwt"), "OAUTH2_CLIENT_AUTH=client_secret_jwt"), client: "cc-secret-jwt", asked: assertion("cc-secret-jwt")},
		{name: "secret-jwt/endpoint", text: lines(direct, secret("cc-secret-jwt"), "OAUTH2_CLIENT_AUTH=client_secret_jwt"), client: "cc-secret-jwt", asked: assertion("cc-secret-jwt")},
		{name: "key/rs256-pkcs1", text: key("RS256", p.Keys["RS256"].PKCS1), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/rs256-pkcs8", text: key("RS256", p.Keys["RS256"].PKCS8), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/rs256-jwk", text: jwk("RS256"), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/ps256-pkcs1", text: key("PS256", p.Keys["PS256"].PKCS1), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/ps256-pkcs8", text: key("PS256", p.Keys["PS256"].PKCS8), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/ps256-jwk", text: jwk("PS256"), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/es256-sec1", text: key("ES256", p.Keys["ES256"].SEC1), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/es256-pkcs8", text: key("ES256", p.Keys["ES256"].PKCS8), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/es256-jwk", text: jwk("ES256"), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/es256-inline", text: lines(issuer, "CLIENT_ID=cc-pkjwt", "PRIVATE_KEY_ID=es256", `PRIVATE_KEY="`+string(inline)+`"`), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/eddsa-pkcs8", text: key("EdDSA", p.Keys["EdDSA"].PKCS8), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "key/eddsa-jwk", text: jwk("EdDSA"), client: "cc-pkjwt", asked: assertion("cc-pkjwt")},
		{name: "tls/ca", text: tls("cc-mtls-ca", certificates.CA.Cert, certificates.CA.Key), client: "cc-mtls-ca", cert: certificates.CA.Cert,
			asked: []string{"POST /token client_id=cc-mtls-ca grant_type=client_credentials scope=read 200"}},
		{name: "tls/self-signed", text: tls("cc-mtls-self", certificates.SelfSigned.Cert, certificates.SelfSigned.Key) + selfSigned, client: "cc-mtls-self", cert: certificates.SelfSigned.Cert,
			asked: []string{"POST /token client_id=cc-mtls-self grant_type=client_credentials scope=read 200"}},
		{name: "dpop/on", text: lines(issuer, secret("cc-dpop"), "OAUTH2_DPOP=on"), client: "cc-dpop", dpop: true, asked: []string{ccBasic}},
		{name: "dpop/nonce", text: lines(issuer, secret("cc-dpop-nonce"), "OAUTH2_DPOP=on"), client: "cc-dpop-nonce", dpop: true,
			asked: []string{strings.Replace(ccBasic, "200", "400", 1), ccBasic}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text+"OAUTH2_SCOPE=read\n", "add", test.name)
			if err := p.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			token := h.get(t, test.name)
			if again := h.get(t, test.name); again != token {
				t.Error("the second get gives another token")
			}
			wantAsked(t, p, test.asked...)
			header, scheme := h.get(t, test.name, "-o", "header"), "Bearer"
			if test.dpop {
				scheme = "DPoP"
			}
			if header != "Authorization: "+scheme+" "+token {
				t.Errorf("the header is %q", header)
			}
			said := wantActive(t, p, token, map[string]any{"client_id": test.client, "scope": "read", "token_type": scheme})
			bound, _ := said["cnf"].(map[string]any)
			switch {
			case test.dpop:
				if jkt, _ := bound["jkt"].(string); jkt == "" {
					t.Errorf("the token is bound to %v, want a key", bound)
				}
			case test.cert != "":
				if bound["x5t#S256"] != thumbprint(t, test.cert) {
					t.Errorf("the token is bound to %v, want the certificate", bound)
				}
			case bound != nil:
				t.Errorf("the token is bound to %v", bound)
			}
		})
	}

	// The nonce is remembered: the next token takes one request.
	h.get(t, "dpop/nonce", "--resource", "https://api.example/opaque")
	wantAsked(t, p, strings.Replace(ccBasic, "scope", "resource=https://api.example/opaque scope", 1))
}

// thumbprint is that of a certificate (RFC 8705 section 3.1).
func thumbprint(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("no PEM in %s", file)
	}
	sum := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Whoever is not that client is refused, and told what to check.
func TestClientsRefused(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	direct, issuer := "OAUTH2_TOKEN_URL="+p.Issuer+"/token", "OAUTH2_ISSUER="+p.Issuer
	const wrong = "CLIENT_SECRET=wrong-s3cret-of-at-least-32-bytes-for-HS256"
	key := func(alg, file string) string {
		return lines(issuer, "CLIENT_ID=cc-pkjwt", "PRIVATE_KEY_FILE="+file, "PRIVATE_KEY_ID="+p.Keys[alg].ID, "PRIVATE_KEY_ALG="+alg)
	}
	tls := func(id, cert, key string) string {
		return lines("OAUTH2_ISSUER="+p.TLSIssuer, "TLS_CA_FILE="+p.CAFile, "CLIENT_ID="+id, "TLS_CLIENT_CERT_FILE="+cert, "TLS_CLIENT_KEY_FILE="+key)
	}
	certificates, expired := p.Certificates, expiredCertificate(t)
	const (
		selfSigned = "OAUTH2_CLIENT_AUTH=self_signed_tls_client_auth\n"
		edit       = "; run: tokenctl edit "
		refused    = "asking 127.0.0.1:PORT for a token: invalid_client: client authentication failed (HTTP 401)"
	)
	for _, test := range []struct {
		name, text string
		code       int
		says       string // and the profile's name after it
		requests   int    // to the token endpoint
	}{
		{"basic", lines(direct, "CLIENT_ID=cc-basic", wrong), 8, refused + checkClient, 1},
		{"basic/discovered", lines(issuer, "CLIENT_ID=cc-basic", wrong), 8, refused + checkClient, 1},
		{"basic/expired", lines(direct, "CLIENT_ID=cc-expired", "CLIENT_SECRET="+p.Secrets["cc-expired"]), 8, `asking 127.0.0.1:PORT for a token: invalid_client: could not authenticate the client - its client secret is expired (HTTP 400)` + checkClient, 1},
		{"basic/nobody", lines(direct, "CLIENT_ID=nobody", wrong), 8, refused + checkClient, 1},
		{"post", lines(direct, "CLIENT_ID=cc-post", wrong, "OAUTH2_CLIENT_AUTH=client_secret_post"), 8, refused + checkClient, 1},
		{"secret-jwt", lines(issuer, "CLIENT_ID=cc-secret-jwt", wrong, "OAUTH2_CLIENT_AUTH=client_secret_jwt"), 8, refused + checkClient, 1},
		{"key/rs256", key("RS256", p.Keys["PS256"].PKCS8), 8, refused + checkKey, 1},
		{"key/ps256", key("PS256", p.Keys["RS256"].PKCS1), 8, refused + checkKey, 1},
		{"key/es256", lines(issuer, "CLIENT_ID=cc-pkjwt", "PRIVATE_KEY_FILE="+newECKey(t), "PRIVATE_KEY_ID=es256"), 8, refused + checkKey, 1},
		{"key/eddsa", lines(issuer, "CLIENT_ID=cc-pkjwt", "PRIVATE_KEY_FILE="+newEdKey(t), "PRIVATE_KEY_ID=eddsa"), 8, refused + checkKey, 1},
		{"key/audience", key("RS256", p.Keys["RS256"].PKCS8) + "OAUTH2_ASSERTION_AUDIENCE=https://other.example\n", 8, refused + checkKey, 1},
		{"key/encrypted", key("RS256", p.Keys["RS256"].Encrypted), 78, "line 3: PRIVATE_KEY_FILE: the key is encrypted; run: openssl pkey -in KEY -out NEWKEY" + edit, 0},
		{"key/of-another-kind", key("ES256", p.Keys["RS256"].PKCS8), 78, "line 5: PRIVATE_KEY_ALG: ES256 does not go with an RSA key, only RS256, RS384, RS512, PS256, PS384, PS512" + edit, 0},
		{"tls/ca", tls("cc-mtls-ca", certificates.Stranger.Cert, certificates.Stranger.Key), 8, refused + checkCert, 1},
		{"tls/expired", tls("cc-mtls-self", expired.cert, expired.key) + selfSigned, 8, refused + checkCert, 1},
		{"tls/self-signed", tls("cc-mtls-self", certificates.CA.Cert, certificates.CA.Key) + selfSigned, 8, refused + checkCert, 1},
		{"tls/not-its-key", tls("cc-mtls-ca", certificates.CA.Cert, certificates.Stranger.Key), 78, "line 5: TLS_CLIENT_KEY_FILE: the private key is not that of the first certificate" + edit, 0},
		{"tls/encrypted", tls("cc-mtls-ca", certificates.CA.Cert, p.Keys["ES256"].Encrypted), 78, "line 5: TLS_CLIENT_KEY_FILE: the key is encrypted; run: openssl pkey -in KEY -out NEWKEY" + edit, 0},
		{"tls/not-asked", lines("OAUTH2_TOKEN_URL="+p.TLSIssuer+"/token", "TLS_CA_FILE="+p.CAFile, "CLIENT_ID=cc-mtls-ca", "TLS_CLIENT_CERT_FILE="+certificates.CA.Cert, "TLS_CLIENT_KEY_FILE="+certificates.CA.Key), 8, refused + checkCert, 1},
		{"dpop/off", lines(issuer, "CLIENT_ID=cc-dpop", "CLIENT_SECRET="+p.Secrets["cc-dpop"], "OAUTH2_DPOP=off"), 8, "asking 127.0.0.1:PORT for a token: invalid_grant: grant request is invalid (HTTP 400)" + notAsked + "check OAUTH2_GRANT, or set OAUTH2_DPOP=on, then: tokenctl reset ", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := p.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.must(t, test.text, "add", test.name)
			h.wantLine(t, test.code, test.name+": "+test.says+test.name, "get", test.name)
			if got := len(asked(t, p)); got != test.requests {
				t.Errorf("%d token requests, want %d", got, test.requests)
			}
		})
	}
}

// A text that cannot work is not taken.
func TestImpossibleClients(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must(t, "", "init")
	const server = "OAUTH2_TOKEN_URL=https://auth.example.com/token"
	for _, test := range []struct{ text, says string }{
		{lines(server, "CLIENT_ID='cc weird:id+%'", "CLIENT_SECRET=secret", "OAUTH2_BASIC_ENCODING=raw"),
			"line 4: OAUTH2_BASIC_ENCODING: raw cannot carry a CLIENT_ID with a colon in it, which ends the name in a Basic header; use form, or client_secret_post"},
		{lines(server, "CLIENT_ID=id", "CLIENT_SECRET=short", "OAUTH2_CLIENT_AUTH=client_secret_jwt"),
			"line 3: CLIENT_SECRET: client_secret_jwt needs 32 bytes or more (RFC 7518 section 3.2)"},
	} {
		want := result{"", "tokenctl: p: " + test.says + "; nothing was written\n", 78}
		if r := h.tokenctl(t, test.text, "add", "p"); r != want {
			t.Errorf("%v, want %v", r, want)
		}
	}
}

// Some servers do not undo the form-encoding of Basic (RFC 6749 section 2.3.1).
func TestRawBasic(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "raw id+%", Secret: "p@ss w/rd+%25=&", Auth: authserver.AuthRaw}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "form", c)
	h.must(t, profileOf(s, c)+"OAUTH2_BASIC_ENCODING=raw\n", "add", "raw")
	h.wantLine(t, 8, "form: asking 127.0.0.1:PORT for a token: invalid_client: client authentication failed (HTTP 401)"+checkClient+"form", "get", "form")
	if token := h.get(t, "raw"); token == "" {
		t.Error("no token")
	}
	if n := s.Count("/token"); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}
