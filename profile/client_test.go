package profile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"tokend/oauth"
)

// public is good without its secret.
const public = "OAUTH2_TOKEN_URL=https://as.example/token\nCLIENT_ID=me\n"

func ecKey(t testing.TB) string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pemKey(t, private)
}

// long is as long as client_secret_jwt wants a secret to be.
const long = "canary-secret-of-32-bytes-for-it"

func quote(name, value string) string { return name + "='" + value + "'\n" }

func TestClientAuthentication(t *testing.T) {
	rsa, ec := rsaKey(t), ecKey(t)
	cert, certKey := certificate(t)
	tls := quote("TLS_CLIENT_CERT", cert+cert) + quote("TLS_CLIENT_KEY", certKey)
	noSecret := func(p *Profile) { p.Client.Secret = oauth.Secret{} }
	withTLS := func(p *Profile) {
		noSecret(p)
		p.Client.Transport.Certificate = cert + cert
		p.Client.Transport.CertificateKey = oauth.NewSecret(certKey)
	}
	jwk := parseKey(t, ec, "kid-of-the-jwk", "").JWK().Reveal()

	for _, tt := range []struct {
		text string
		want func(*Profile)
	}{
		{public + quote("PRIVATE_KEY", rsa), func(p *Profile) {
			noSecret(p)
			p.Client.Key = parseKey(t, rsa, "", "RS256")
		}},
		{good + quote("PRIVATE_KEY", rsa) + "PRIVATE_KEY_ID=k\nPRIVATE_KEY_ALG=PS384", func(p *Profile) {
			p.Client.Key = parseKey(t, rsa, "k", "PS384")
		}},
		{public + quote("PRIVATE_KEY", ec) + "OAUTH2_CLIENT_AUTH=private_key_jwt\nOAUTH2_ASSERTION_AUDIENCE=https://as.example/x", func(p *Profile) {
			noSecret(p)
			p.Client.Auth = oauth.PrivateKeyJWT
			p.Client.Key = parseKey(t, ec, "", "ES256")
			p.AssertionAudience = "https://as.example/x"
		}},
		{public + quote("PRIVATE_KEY", jwk), func(p *Profile) {
			noSecret(p)
			p.Client.Key = parseKey(t, ec, "kid-of-the-jwk", "ES256")
		}},
		{good + quote("PRIVATE_KEY", ec) + "OAUTH2_CLIENT_AUTH=client_secret_basic", func(p *Profile) {
			p.Client.Auth = oauth.ClientSecretBasic
			p.Client.Key = parseKey(t, ec, "", "ES256")
		}},
		{public + "CLIENT_SECRET=" + long + "\nOAUTH2_CLIENT_AUTH=client_secret_jwt\nOAUTH2_ASSERTION_AUDIENCE=token_endpoint", func(p *Profile) {
			p.Client.Secret, p.Client.Auth = oauth.NewSecret(long), oauth.ClientSecretJWT
			p.AssertionAudience = "token_endpoint"
		}},
		{public + tls, withTLS},
		{public + tls + "OAUTH2_CLIENT_AUTH=tls_client_auth", func(p *Profile) { withTLS(p); p.Client.Auth = oauth.TLSClientAuth }},
		{public + tls + "OAUTH2_CLIENT_AUTH=self_signed_tls_client_auth", func(p *Profile) { withTLS(p); p.Client.Auth = oauth.SelfSignedTLSClientAuth }},
		// Tokens of a public client may be bound to a certificate (RFC 8705 section 4).
		{public + tls + "OAUTH2_CLIENT_AUTH=none", func(p *Profile) { withTLS(p); p.Client.Auth = oauth.AuthNone }},
		{good + "CLIENT_SECRET_NEXT=n\nCLIENT_SECRET_EXPIRES_AT=2027-01-31", func(p *Profile) {
			p.NextSecret = oauth.NewSecret("n")
			p.SecretExpires = time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
		}},
		{good + "CLIENT_SECRET_EXPIRES_AT=1800000000", func(p *Profile) { p.SecretExpires = time.Unix(1800000000, 0) }},
		{good + "CLIENT_SECRET_EXPIRES_AT=0", func(*Profile) {}},
		{good + "OAUTH2_DPOP=auto\nOAUTH2_PAR=auto\nOAUTH2_RENEW_AT=.99", func(p *Profile) { p.RenewAt = 0.99 }},
	} {
		accepts(t, tt.text, nil, tt.want)
	}
}

func TestRefusesClientAuthentication(t *testing.T) {
	const method = "not a method; it is client_secret_basic, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none"
	const share = "not a share between 0.5 and 0.99; write 0.85"
	const when = "not a time; write 2027-01-31T12:00:00Z, 2027-01-31, or seconds since 1970"
	rsa, ec := rsaKey(t), ecKey(t)
	cert, certKey := certificate(t)
	_, otherKey := certificate(t)
	bad := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("canary")}))
	oneLine := strings.ReplaceAll(ec, "\n", `\n`)
	for _, tt := range []struct{ text, want string }{
		{good + "OAUTH2_CLIENT_AUTH=basic", "line 4: OAUTH2_CLIENT_AUTH: " + method},
		{public + "OAUTH2_CLIENT_AUTH=client_secret_jwt", "line 3: OAUTH2_CLIENT_AUTH: client_secret_jwt needs a secret; set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND"},
		{public + "OAUTH2_CLIENT_AUTH=private_key_jwt\nPRIVAT_KEY=canary", "line 4: PRIVAT_KEY: not a variable of ours, and PRIVATE_KEY is missing; did you mean PRIVATE_KEY?"},
		{public + "OAUTH2_CLIENT_AUTH=tls_client_auth", "line 3: OAUTH2_CLIENT_AUTH: tls_client_auth needs a certificate and its key; set TLS_CLIENT_CERT and TLS_CLIENT_KEY, or their _FILE forms"},
		{public + "OAUTH2_CLIENT_AUTH=self_signed_tls_client_auth", "line 3: OAUTH2_CLIENT_AUTH: self_signed_tls_client_auth needs a certificate and its key; set TLS_CLIENT_CERT and TLS_CLIENT_KEY, or their _FILE forms"},
		{public + "OAUTH2_CLIENT_AUTH=none\n" + quote("PRIVATE_KEY", ec), "line 3: OAUTH2_CLIENT_AUTH: none signs nothing, but PRIVATE_KEY in line 4 gives a key; keep one of the two"},

		{good + "PRIVATE_KEY_ID=a\nPRIVATE_KEY_ALG=RS256", "line 4: PRIVATE_KEY_ID: there is no key to go with it; set PRIVATE_KEY, PRIVATE_KEY_FILE or PRIVATE_KEY_COMMAND; line 5: PRIVATE_KEY_ALG: there is no key to go with it; set PRIVATE_KEY, PRIVATE_KEY_FILE or PRIVATE_KEY_COMMAND"},
		{good + "PRIVATE_KEY_ALG=ES256\n" + quote("PRIVATE_KEY", rsa), "line 4: PRIVATE_KEY_ALG: ES256 does not go with an RSA key, only RS256, RS384, RS512, PS256, PS384, PS512"},
		{good + "PRIVATE_KEY_ALG=HS256\n" + quote("PRIVATE_KEY", ec), "line 4: PRIVATE_KEY_ALG: the algorithm is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"},
		{good + quote("PRIVATE_KEY", bad) + "PRIVATE_KEY_ALG=HS256", "line 8: PRIVATE_KEY_ALG: the algorithm is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"},
		{good + quote("PRIVATE_KEY", cert), "line 4: PRIVATE_KEY: this is a certificate; give the private key that belongs to it"},
		{good + quote("PRIVATE_KEY", oneLine), `line 4: PRIVATE_KEY: the PEM text has \n where its lines end; write line breaks there`},
		{good + "PRIVATE_KEY=canary", "line 4: PRIVATE_KEY: the key is neither PEM nor a JWK"},
		{good + "PRIVATE_KEY=/canary.pem", "line 4: PRIVATE_KEY: the key is neither PEM nor a JWK; a path is given as PRIVATE_KEY_FILE"},
		{good + "PRIVATE_KEY='~/canary.pem'", "line 4: PRIVATE_KEY: the key is neither PEM nor a JWK; a path is given as PRIVATE_KEY_FILE"},
		{good + quote("PRIVATE_KEY", strings.Replace(ec, "\n", "\r\t\n", 1)), "line 4: PRIVATE_KEY: has a carriage return in it; remove it"},
		{good + "OAUTH2_PRIVATE_KEY=canary", "line 4: OAUTH2_PRIVATE_KEY: no such variable; did you mean PRIVATE_KEY?"},

		{good + quote("TLS_CLIENT_CERT", cert), "line 4: TLS_CLIENT_CERT: its key is missing; set TLS_CLIENT_KEY, TLS_CLIENT_KEY_FILE or TLS_CLIENT_KEY_COMMAND"},
		{good + quote("TLS_CLIENT_KEY", certKey), "line 4: TLS_CLIENT_KEY: its certificate is missing; set TLS_CLIENT_CERT, TLS_CLIENT_CERT_FILE or TLS_CLIENT_CERT_COMMAND"},
		{public + "TLS_CLIENT_KEY_FILE=/k\nOAUTH2_CLIENT_AUTH=tls_client_auth", "line 3: TLS_CLIENT_KEY_FILE: its certificate is missing; set TLS_CLIENT_CERT, TLS_CLIENT_CERT_FILE or TLS_CLIENT_CERT_COMMAND"},
		{good + "TLS_CLIENT_KEY_FILE=/k\n" + quote("TLS_CLIENT_CERT", cert+certKey), "line 5: TLS_CLIENT_CERT: PEM block 2 is not a certificate; only certificates belong here"},
		{good + "TLS_CLIENT_KEY_FILE=/k\n" + quote("TLS_CLIENT_CERT", strings.ReplaceAll(cert, "\n", `\n`)), `line 5: TLS_CLIENT_CERT: has \n where its lines end; write line breaks there, the whole in quotes`},
		{good + quote("TLS_CLIENT_KEY", otherKey) + quote("TLS_CLIENT_CERT", cert), "line 4: TLS_CLIENT_KEY: the private key is not that of the first certificate"},
		{good + quote("TLS_CLIENT_KEY", bad) + quote("TLS_CLIENT_CERT", cert), "line 4: TLS_CLIENT_KEY: the key in the PEM text is damaged, or none of RSA, EC (P-256, P-384, P-521) and Ed25519"},
		{good + "TLS_CLIENT_KEY=/canary\n" + quote("TLS_CLIENT_CERT", cert), "line 4: TLS_CLIENT_KEY: there is no PEM text; a path is given as TLS_CLIENT_KEY_FILE"},

		{public + "CLIENT_SECRET_NEXT=canary\nCLIENT_SECRET_EXPIRES_AT=2027-01-31\nOAUTH2_CLIENT_AUTH=none", "line 3: CLIENT_SECRET_NEXT: there is no secret that it could follow; set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND; line 4: CLIENT_SECRET_EXPIRES_AT: there is no secret that it could be about; set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND"},
		{good + "CLIENT_SECRET_EXPIRES_AT=31.1.2027", "line 4: CLIENT_SECRET_EXPIRES_AT: " + when},
		{good + "CLIENT_SECRET_EXPIRES_AT=-1", "line 4: CLIENT_SECRET_EXPIRES_AT: " + when},
		{good + "CLIENT_SECRET_EXPIRES_AT=1800000000000", "line 4: CLIENT_SECRET_EXPIRES_AT: " + when},

		{good + "OAUTH2_ASSERTION_AUDIENCE=issuer", "line 4: OAUTH2_ASSERTION_AUDIENCE: there is no assertion that it could be about; set PRIVATE_KEY, or OAUTH2_CLIENT_AUTH=client_secret_jwt"},
		{good + "OAUTH2_CLIENT_AUTH=client_secret_jwt", "line 3: CLIENT_SECRET: client_secret_jwt needs 32 bytes or more (RFC 7518 section 3.2)"},
		{public + "CLIENT_SECRET=" + long + "\nOAUTH2_CLIENT_AUTH=client_secret_jwt\nOAUTH2_ASSERTION_AUDIENCE=issuer", "line 5: OAUTH2_ASSERTION_AUDIENCE: the issuer is not known; set OAUTH2_ISSUER, or write token_endpoint"},
		{good + "OAUTH2_ASSERTION_SUBJECT=a\n" + quote("PRIVATE_KEY", ec), "line 4: OAUTH2_ASSERTION_SUBJECT: only the assertion that jwt_bearer signs has a subject of its own; set OAUTH2_GRANT=jwt_bearer and PRIVATE_KEY"},

		{good + "OAUTH2_DPOP=yes", "line 4: OAUTH2_DPOP: neither on, off nor auto"},
		{good + "OAUTH2_PAR=1", "line 4: OAUTH2_PAR: neither on, off nor auto"},
		{good + "OAUTH2_PAR=on", "line 4: OAUTH2_PAR: only authorization_code has a request that could be pushed; remove it, or set OAUTH2_GRANT=authorization_code"},
		{good + "OAUTH2_RENEW_AT=0.49", "line 4: OAUTH2_RENEW_AT: " + share},
		{good + "OAUTH2_RENEW_AT=1", "line 4: OAUTH2_RENEW_AT: " + share},
		{good + "OAUTH2_RENEW_AT=85%", "line 4: OAUTH2_RENEW_AT: " + share},
		{good + "OAUTH2_RENEW_AT=NaN", "line 4: OAUTH2_RENEW_AT: " + share},
	} {
		refuses(t, tt.text, nil, tt.want)
	}
}

// What a _FILE or _COMMAND came to is checked as if it stood in the text.
func TestResolvedCredentials(t *testing.T) {
	ec := ecKey(t)
	cert, certKey := certificate(t)
	_, otherKey := certificate(t)
	const text = `OAUTH2_ISSUER=https://as.example
CLIENT_ID=me
PRIVATE_KEY_FILE=~/key.pem
PRIVATE_KEY_ALG_COMMAND='cat alg'
TLS_CLIENT_CERT_FILE=/cert
TLS_CLIENT_KEY_FILE=/key
OAUTH2_GRANT=refresh_token
OAUTH2_REFRESH_TOKEN_COMMAND=pass
`
	if _, err := read(text, nil); err != nil {
		t.Errorf("checked only: %v", err)
	}
	values := func(name, value string) map[string]string {
		m := map[string]string{
			"PRIVATE_KEY": ec, "PRIVATE_KEY_ALG": "ES256", "TLS_CLIENT_CERT": strings.TrimSpace(cert), "TLS_CLIENT_KEY": certKey,
			"OAUTH2_REFRESH_TOKEN": "canary",
		}
		m[name] = value
		return m
	}
	accepts(t, text, values("PRIVATE_KEY_ALG", "ES256"), func(p *Profile) {
		p.Issuer = "https://as.example"
		p.Endpoints = oauth.Endpoints{}
		p.Client = oauth.Client{
			ID:        "me",
			Key:       parseKey(t, ec, "", "ES256"),
			Transport: oauth.Transport{Certificate: strings.TrimSpace(cert), CertificateKey: oauth.NewSecret(certKey)},
		}
		p.Request.Grant = "refresh_token"
		p.RefreshToken = oauth.NewSecret("canary")
	})
	for _, tt := range []struct{ name, value, want string }{
		{"PRIVATE_KEY", "canary", "line 3: PRIVATE_KEY_FILE: the key is neither PEM nor a JWK"},
		{"PRIVATE_KEY", ec + "\x00canary", "line 3: PRIVATE_KEY_FILE: its value has a control character in it; remove it"},
		{"PRIVATE_KEY_ALG", "RS256", "line 4: PRIVATE_KEY_ALG_COMMAND: RS256 does not go with an EC key on P-256, only ES256"},
		{"PRIVATE_KEY_ALG", "RS256\nx", "line 4: PRIVATE_KEY_ALG_COMMAND: its value has a newline in it; remove it"},
		{"TLS_CLIENT_CERT", "canary", "line 5: TLS_CLIENT_CERT_FILE: no certificate in it; it is PEM text that begins with -----BEGIN CERTIFICATE-----"},
		{"TLS_CLIENT_KEY", otherKey, "line 6: TLS_CLIENT_KEY_FILE: the private key is not that of the first certificate"},
		{"OAUTH2_REFRESH_TOKEN", "canary\n", "line 8: OAUTH2_REFRESH_TOKEN_COMMAND: its value ends in a newline; remove it"},
		{"OAUTH2_REFRESH_TOKEN", "", "line 8: OAUTH2_REFRESH_TOKEN_COMMAND: its value is empty"},
	} {
		refuses(t, text, values(tt.name, tt.value), tt.want)
	}
}
