package profile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/internal/envfile"
	"tokend/oauth"
)

// good is a complete profile; tests put lines behind it.
const good = "OAUTH2_TOKEN_URL=https://as.example/token\nCLIENT_ID=me\nCLIENT_SECRET=canary-secret\n"

// diff compares profiles with their secrets.
func diff(want, got *Profile) string {
	return cmp.Diff(want, got,
		cmp.Comparer(func(a, b oauth.Secret) bool { return a.Reveal() == b.Reveal() }),
		cmp.Comparer(func(a, b *oauth.Key) bool { return a == b || a != nil && b != nil && a.JWK() == b.JWK() }))
}

func read(text string, values map[string]string) (*Profile, error) {
	t, err := Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	return t.Profile(values)
}

// certificate makes a certificate and its key.
func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), pemKey(t, private)
}

func pemKey(t testing.TB, private any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// makeRSA is slow; one key serves all tests.
var makeRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func rsaKey(t testing.TB) string {
	t.Helper()
	private, err := makeRSA()
	if err != nil {
		t.Fatal(err)
	}
	return pemKey(t, private)
}

// parseKey is what a Profile should have of text.
func parseKey(t testing.TB, text, id, alg string) *oauth.Key {
	t.Helper()
	key, err := oauth.ParseKey(oauth.NewSecret(text), id, alg)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestDsecProfile(t *testing.T) {
	text, err := os.ReadFile("testdata/dsec.env")
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(string(text), map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Profile{
		Endpoints: oauth.Endpoints{Token: "https://auth.example.com/oauth2/token"},
		Client: oauth.Client{
			ID:       "netapi-automation",
			Secret:   oauth.NewSecret("your-client-secret"),
			TokenURL: "https://auth.example.com/oauth2/token",
		},
		Request:         oauth.Request{Grant: "client_credentials", Scopes: []string{"api.read", "api.write"}},
		RenewAt:         0.85,
		DefaultLifetime: 5 * time.Minute,
	}
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEveryVariable(t *testing.T) {
	ca, _ := certificate(t)
	cert, certKey := certificate(t)
	key := rsaKey(t)
	text := `# all of them
export OAUTH2_ISSUER=https://as.example/realms/a
OAUTH2_TOKEN_URL=https://as.example/token?x=1
OAUTH2_AUTH_URL=https://as.example/auth
OAUTH2_DEVICE_URL=https://as.example/device
OAUTH2_INTROSPECTION_URL=https://as.example/introspect
OAUTH2_REVOCATION_URL=https://as.example/revoke
OAUTH2_REGISTRATION_URL=http://127.0.0.1:8080/register
OAUTH2_GRANT=client_credentials
OAUTH2_CLIENT_ID=me; CLIENT_ID=me
OAUTH2_CLIENT_SECRET='s e $ "cret'
CLIENT_SECRET_NEXT=next
CLIENT_SECRET_EXPIRES_AT=2027-01-31T12:00:00+02:00
OAUTH2_CLIENT_AUTH=private_key_jwt
OAUTH2_BASIC_ENCODING=raw
OAUTH2_SCOPE='a  b:c/d '
OAUTH2_AUDIENCE="one two"
OAUTH2_RESOURCE='https://api.example/v1?x urn:example:b'
PRIVATE_KEY='` + key + `'
PRIVATE_KEY_ID=k1
PRIVATE_KEY_ALG=PS256
OAUTH2_ASSERTION_AUDIENCE=issuer
TLS_CLIENT_CERT='` + cert + `'
TLS_CLIENT_KEY='` + certKey + `'
TLS_CA='` + ca + `'
OAUTH2_DPOP=on
OAUTH2_PAR=off
OAUTH2_REDIRECT_URL=http://localhost:8400/cb
OAUTH2_RENEW_AT=0.5
OAUTH2_PROXY=socks5://user:pw@proxy.example:1080
OAUTH2_DEFAULT_LIFETIME=1h30m
API_URL='HTTPS://API.Example:443/ https://api.example:8443 http://[::1]:80 http://localhost:08080 https://api.example'
OAUTH2_EXTRA_tenant=t1
OAUTH2_EXTRA_Mixed_Case='a b'
OTHER=x
PRIVATE=
OTHER=$HOME
`
	got, err := read(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Profile{
		Issuer: "https://as.example/realms/a",
		Endpoints: oauth.Endpoints{
			Token:               "https://as.example/token?x=1",
			Authorization:       "https://as.example/auth",
			DeviceAuthorization: "https://as.example/device",
			Introspection:       "https://as.example/introspect",
			Revocation:          "https://as.example/revoke",
			Registration:        "http://127.0.0.1:8080/register",
		},
		Client: oauth.Client{
			ID:        "me",
			Secret:    oauth.NewSecret(`s e $ "cret`),
			Auth:      oauth.PrivateKeyJWT,
			RawBasic:  true,
			Key:       parseKey(t, key, "k1", "PS256"),
			TokenURL:  "https://as.example/token?x=1",
			Transport: oauth.Transport{CA: ca, Proxy: "socks5://user:pw@proxy.example:1080", Certificate: cert, CertificateKey: oauth.NewSecret(certKey)},
		},
		Request: oauth.Request{
			Grant:    "client_credentials",
			Scopes:   []string{"a", "b:c/d"},
			Audience: []string{"one", "two"},
			Resource: []string{"https://api.example/v1?x", "urn:example:b"},
			Extra:    url.Values{"tenant": {"t1"}, "Mixed_Case": {"a b"}},
		},
		AssertionAudience: "issuer",
		RedirectURL:       "http://localhost:8400/cb",
		DPoP:              On,
		PAR:               Off,
		NextSecret:        oauth.NewSecret("next"),
		SecretExpires:     time.Date(2027, 1, 31, 10, 0, 0, 0, time.UTC),
		RenewAt:           0.5,
		DefaultLifetime:   90 * time.Minute,
		APIOrigins:        []string{"https://api.example", "https://api.example:8443", "http://[::1]", "http://localhost:8080"},
	}
	others := got.Others
	got.Others = nil
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
	var names []string
	for _, o := range others {
		names = append(names, o.Name+"="+o.Value)
	}
	if d := cmp.Diff([]string{"PRIVATE=", "OTHER=$HOME"}, names); d != "" {
		t.Error(d)
	}
}

func TestAccepts(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want func(*Profile) bool
	}{
		"issuer alone":             {"OAUTH2_ISSUER=https://as.example\nCLIENT_ID=a\nCLIENT_SECRET=b", func(p *Profile) bool { return p.Client.TokenURL == "" }},
		"the last one wins":        {good + "CLIENT_ID=bad$x\nCLIENT_ID=you", func(p *Profile) bool { return p.Client.ID == "you" }},
		"empty is absent":          {good + "OAUTH2_SCOPE=\nOAUTH2_CLIENT_AUTH=\nCLIENT_SECRET_FILE=\nAPI_URL=\nOAUTH2_EXTRA_x=\nTLS_CA=''\nOAUTH2_CLIENT_ID=", func(p *Profile) bool { return p.Request.Scopes == nil && p.Request.Extra == nil && p.APIOrigins == nil }},
		"explicit none":            {"OAUTH2_TOKEN_URL=https://a/\nCLIENT_ID=a\nOAUTH2_CLIENT_AUTH=none", func(p *Profile) bool { return p.Client.Auth == oauth.AuthNone && p.Client.Secret.IsZero() }},
		"post":                     {good + "OAUTH2_CLIENT_AUTH=client_secret_post", func(p *Profile) bool { return p.Client.Auth == oauth.ClientSecretPost }},
		"direct":                   {good + "OAUTH2_PROXY=direct", func(p *Profile) bool { return p.Client.Transport.Proxy == "direct" }},
		"form":                     {good + "OAUTH2_BASIC_ENCODING=form", func(p *Profile) bool { return !p.Client.RawBasic }},
		"24h":                      {good + "OAUTH2_DEFAULT_LIFETIME=24h", func(p *Profile) bool { return p.DefaultLifetime == 24*time.Hour }},
		"loopback":                 {"OAUTH2_TOKEN_URL=http://localhost:1/t\nCLIENT_ID=a\nCLIENT_SECRET=b", func(p *Profile) bool { return true }},
		"expansions of others":     {good + "OTHER=$(date) X=~/y", func(p *Profile) bool { return p.Others[0].Value == "$(date)" && p.Others[1].Expansion == "~/" }},
		"near names beside theirs": {good + "CLIENT_SECRT=x\nCLIENT_IDS=y", func(p *Profile) bool { return len(p.Others) == 2 }},
	} {
		p, err := read(tt.text, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !tt.want(p) {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}

func TestRefuses(t *testing.T) {
	const asTheyStand = ", or single quotes where the characters are meant as they stand"
	const noSecret = "missing; a public client cannot use client_credentials (RFC 6749 section 4.4); set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND"
	ca, _ := certificate(t)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("canary")}))
	for _, tt := range []struct{ text, want string }{
		// What is missing, and what contradicts.
		{"", "no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL; CLIENT_ID: missing; it says who the client is; CLIENT_SECRET: " + noSecret},
		{"CLIENT_ID=a CLIENT_SECRET=b", "no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL"},
		{"OAUTH2_ISSUER=https://a\nCLIENT_SECRET=b", "CLIENT_ID: missing; it says who the client is"},
		{"OAUTH2_ISSUER=https://a\nCLIENT_ID=b", "CLIENT_SECRET: " + noSecret},
		{good + "CLIENT_SECRET=", "CLIENT_SECRET: " + noSecret},
		{"OAUTH2_ISSUER=https://a\nCLIENT_ID=b\nOAUTH2_CLIENT_AUTH=client_secret_basic", "line 3: OAUTH2_CLIENT_AUTH: client_secret_basic needs a secret; set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND"},
		{"OAUTH2_ISSUER=https://a\nCLIENT_ID=b\nOAUTH2_CLIENT_AUTH=client_secret_post", "line 3: OAUTH2_CLIENT_AUTH: client_secret_post needs a secret; set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND"},
		{good + "OAUTH2_CLIENT_AUTH=none", "line 4: OAUTH2_CLIENT_AUTH: none sends no secret, but CLIENT_SECRET in line 3 gives one; keep one of the two"},
		{good + "OAUTH2_CLIENT_AUTH=private_key_jwt", "line 4: OAUTH2_CLIENT_AUTH: private_key_jwt needs a key; set PRIVATE_KEY, PRIVATE_KEY_FILE or PRIVATE_KEY_COMMAND"},
		{good + "OAUTH2_CLIENT_ID=you", "line 4: OAUTH2_CLIENT_ID: differs from CLIENT_ID in line 2; keep one of the two"},
		{good + "OAUTH2_CLIENT_SECRET=canary", "line 4: OAUTH2_CLIENT_SECRET: differs from CLIENT_SECRET in line 3; keep one of the two"},
		{good + "CLIENT_SECRET_FILE=/a", "line 4: CLIENT_SECRET_FILE: stands beside CLIENT_SECRET in line 3; keep one of the two"},
		{good + "OAUTH2_CLIENT_SECRET_COMMAND=pass", "line 4: OAUTH2_CLIENT_SECRET_COMMAND: stands beside CLIENT_SECRET in line 3; keep one of the two"},
		{good + "TLS_CA_FILE=/a\nTLS_CA_COMMAND=b", "line 5: TLS_CA_COMMAND: stands beside TLS_CA_FILE in line 4; keep one of the two"},
		{good + "TLS_CA_FILE=/a\nTLS_CA_COMMAND=b\nOAUTH2_CLIENT_ID=x", "line 5: TLS_CA_COMMAND: stands beside TLS_CA_FILE in line 4; keep one of the two; line 6: OAUTH2_CLIENT_ID: differs from CLIENT_ID in line 2; keep one of the two"},

		// Names.
		{good + "TOKEND_STORE=age", "line 4: TOKEND_STORE: settings are the machine's; they belong into its configuration file, not into a profile"},
		{good + "OAUTH2_SCOPES=a", "line 4: OAUTH2_SCOPES: no such variable; did you mean OAUTH2_SCOPE?"},
		{good + "OAUTH2_SOCPE=", "line 4: OAUTH2_SOCPE: no such variable; did you mean OAUTH2_SCOPE?"},
		{good + "OAUTH2_TOKEN_ENDPOINT=a", "line 4: OAUTH2_TOKEN_ENDPOINT: no such variable; did you mean OAUTH2_TOKEN_URL?"},
		{good + "OAUTH2_TOKEN_URI=a", "line 4: OAUTH2_TOKEN_URI: no such variable; did you mean OAUTH2_TOKEN_URL?"},
		{good + "OAUTH2_AUTHORIZATION_ENDPOINT=a", "line 4: OAUTH2_AUTHORIZATION_ENDPOINT: no such variable; did you mean OAUTH2_AUTH_URL?"},
		{good + "OAUTH2_DEVICE_AUTHORIZATION_ENDPOINT=a", "line 4: OAUTH2_DEVICE_AUTHORIZATION_ENDPOINT: no such variable; did you mean OAUTH2_DEVICE_URL?"},
		{good + "OAUTH2_TLS_CA_FILE=/a", "line 4: OAUTH2_TLS_CA_FILE: no such variable; did you mean TLS_CA_FILE?"},
		{good + "OAUTH2_API_URL=a", "line 4: OAUTH2_API_URL: no such variable; did you mean API_URL?"},
		{good + "OAUTH2_scope=a", "line 4: OAUTH2_scope: no such variable; did you mean OAUTH2_SCOPE?"},
		{good + "OAUTH2_CLIENT_SECRT_COMMAND=a", "line 4: OAUTH2_CLIENT_SECRT_COMMAND: no such variable; did you mean CLIENT_SECRET_COMMAND?"},
		{good + "OAUTH2_FAVOURITE_COLOUR=a", "line 4: OAUTH2_FAVOURITE_COLOUR: no such variable"},
		{good + "OAUTH2_=a", "line 4: OAUTH2_: no such variable"},
		{"OAUTH2_ISSUER=https://a\nCLIENT_ID=b\nCLIENT_SECRT=canary", "line 3: CLIENT_SECRT: not a variable of ours, and CLIENT_SECRET is missing; did you mean CLIENT_SECRET?"},
		{"OAUTH2_ISSUER=https://a\nCLIENT_ID=b\nCLIENT_SECERT_FILE=/c\nOAUTH2_CLIENT_AUTH=client_secret_post", "line 3: CLIENT_SECERT_FILE: not a variable of ours, and CLIENT_SECRET is missing; did you mean CLIENT_SECRET_FILE?"},
		{"OAUTH2_ISSUER=https://a\nCLIENTID=b\nCLIENT_SECRET=c", "line 2: CLIENTID: not a variable of ours, and CLIENT_ID is missing; did you mean CLIENT_ID?"},

		// What stands elsewhere.
		{good + "TLS_CA_FILE=ca.pem", "line 4: TLS_CA_FILE: not an absolute path; write /… or ~/…"},
		{good + "TLS_CA_FILE=~bob/ca.pem", "line 4: TLS_CA_FILE: `~…` is not expanded here: write what it stands for" + asTheyStand},
		{good + "TLS_CA_FILE=$HOME/ca.pem", "line 4: TLS_CA_FILE: `$…` is not expanded here: write what it stands for" + asTheyStand},
		{good + "TLS_CA_FILE='/a\n'", "line 4: TLS_CA_FILE: ends in a newline; remove it"},
		{good + "TLS_CA_COMMAND='a | b'", "line 4: TLS_CA_COMMAND: unquoted '|'; no shell runs this: quote it, or run sh -c '…'"},
		{good + "TLS_CA_COMMAND=' '", "line 4: TLS_CA_COMMAND: no program to run"},
		{good + `TLS_CA_COMMAND="a 'b"`, "line 4: TLS_CA_COMMAND: the single quote that opens here is never closed"},
		{good + "TLS_CA_COMMAND=$(which a)", "line 4: TLS_CA_COMMAND: `$(…)` is not run here: name one program that prints the value" + asTheyStand},
		{good + "OAUTH2_EXTRA_x_FILE=/a", "line 4: OAUTH2_EXTRA_x_FILE: a form parameter is given by its value only: all that stands behind OAUTH2_EXTRA_ is its name, _FILE too"},
		{good + "OAUTH2_EXTRA_x_COMMAND=a", "line 4: OAUTH2_EXTRA_x_COMMAND: a form parameter is given by its value only: all that stands behind OAUTH2_EXTRA_ is its name, _COMMAND too"},
		{good + "OAUTH2_FILE=/a", "line 4: OAUTH2_FILE: no such variable"},
		{good + "OAUTH2_NONSENSE_FILE=/a", "line 4: OAUTH2_NONSENSE_FILE: no such variable"},

		// Values of all variables.
		{good + "OAUTH2_SCOPE=$(a)", "line 4: OAUTH2_SCOPE: `$(…)` is not run here: use OAUTH2_SCOPE_COMMAND=…" + asTheyStand},
		{good + "CLIENT_SECRET=`canary`", "line 4: CLIENT_SECRET: a command in backquotes is not run here: use CLIENT_SECRET_COMMAND=…" + asTheyStand},
		{good + "CLIENT_SECRET=a$canary", "line 4: CLIENT_SECRET: `$…` is not expanded here: write what it stands for" + asTheyStand},
		{good + "CLIENT_SECRET=${canary}", "line 4: CLIENT_SECRET: `${…}` is not expanded here: write what it stands for" + asTheyStand},
		{good + "CLIENT_SECRET=$[canary]", "line 4: CLIENT_SECRET: `$[…]` is not expanded here: write what it stands for" + asTheyStand},
		{good + "export CLIENT_SECRET={canary,b}", "line 4: CLIENT_SECRET: `{…}` is not expanded here: write what it stands for" + asTheyStand},
		{good + "CLIENT_SECRET=~canary", "line 4: CLIENT_SECRET: `~…` is not expanded here: write what it stands for" + asTheyStand},
		{good + "OAUTH2_EXTRA_x=$(canary)", "line 4: OAUTH2_EXTRA_x: `$(…)` is not run here: write what it prints" + asTheyStand},
		{good + "OAUTH2_EXTRA_x=$canary", "line 4: OAUTH2_EXTRA_x: `$…` is not expanded here: write what it stands for" + asTheyStand},
		{good + "CLIENT_SECRET='canary\n'", "line 4: CLIENT_SECRET: ends in a newline; remove it"},
		{good + "CLIENT_SECRET='canary\r'\nX=y", "line 4: CLIENT_SECRET: ends in a carriage return; remove it"},
		{good + "CLIENT_SECRET='a\ncanary'", "line 4: CLIENT_SECRET: has a newline in it; remove it"},
		{good + "OAUTH2_SCOPE='a\tb'", "line 4: OAUTH2_SCOPE: has a tab in it; remove it"},
		{good + "CLIENT_ID='\x1b[2J'", "line 4: CLIENT_ID: has a control character in it; remove it"},
		{good + "CLIENT_ID=a\x7f", "line 4: CLIENT_ID: ends in a control character; remove it"},
		{good + "OAUTH2_EXTRA_x='a\nb'", "line 4: OAUTH2_EXTRA_x: has a newline in it; remove it"},

		// Values of one.
		{good + "OAUTH2_GRANT=password", "line 4: OAUTH2_GRANT: refused: this grant shows a person's password to the client and must not be used (RFC 9700 section 2.4); use authorization_code or device_code, or client_credentials where no person is in it"},
		{good + "OAUTH2_GRANT=implicit", "line 4: OAUTH2_GRANT: refused: this grant leaks access tokens through URLs (RFC 9700 section 2.1.2); use authorization_code"},
		{good + "OAUTH2_GRANT=client_credential", "line 4: OAUTH2_GRANT: not a grant; it is client_credentials, authorization_code, device_code, refresh_token, jwt_bearer or token_exchange"},
		{good + "OAUTH2_TOKEN_URL=http://as.example/token", "line 4: OAUTH2_TOKEN_URL: is plain http to \"as.example\"; only loopback may be plain, all else must be https"},
		{good + "OAUTH2_AUTH_URL=as.example/auth", "line 4: OAUTH2_AUTH_URL: not an absolute https URL"},
		{good + "OAUTH2_DEVICE_URL=https://me:canary@as.example", "line 4: OAUTH2_DEVICE_URL: has a user name or password before the host; credentials do not belong in a URL"},
		{good + "OAUTH2_REVOCATION_URL=https://as.example/#x", "line 4: OAUTH2_REVOCATION_URL: has a fragment (#)"},
		{good + "OAUTH2_INTROSPECTION_URL=https://", "line 4: OAUTH2_INTROSPECTION_URL: has no host"},
		{good + "OAUTH2_REGISTRATION_URL=:", "line 4: OAUTH2_REGISTRATION_URL: not a URL"},
		{good + "OAUTH2_ISSUER=https://as.example?x", "line 4: OAUTH2_ISSUER: has a query; an issuer is a URL without (RFC 8414 section 2)"},
		{good + "OAUTH2_BASIC_ENCODING=RAW", "line 4: OAUTH2_BASIC_ENCODING: neither form nor raw"},
		{"OAUTH2_TOKEN_URL=https://a.example/t\nCLIENT_ID=a:b\nCLIENT_SECRET=s\nOAUTH2_BASIC_ENCODING=raw", "line 4: OAUTH2_BASIC_ENCODING: raw cannot carry a CLIENT_ID with a colon in it, which ends the name in a Basic header; use form, or client_secret_post"},
		{good + `OAUTH2_SCOPE='a"b'`, `line 4: OAUTH2_SCOPE: has a character that no scope has: only ASCII is allowed, and neither '"' nor '\' (RFC 6749 section 3.3)`},
		{good + `OAUTH2_SCOPE='a b\c'`, `line 4: OAUTH2_SCOPE: entry 2: has a character that no scope has: only ASCII is allowed, and neither '"' nor '\' (RFC 6749 section 3.3)`},
		{good + "OAUTH2_SCOPE=ä", `line 4: OAUTH2_SCOPE: has a character that no scope has: only ASCII is allowed, and neither '"' nor '\' (RFC 6749 section 3.3)`},
		{good + "OAUTH2_SCOPE=a\u00a0b", `line 4: OAUTH2_SCOPE: has a character that no scope has: only ASCII is allowed, and neither '"' nor '\' (RFC 6749 section 3.3)`},
		{good + "OAUTH2_RESOURCE=/v1", "line 4: OAUTH2_RESOURCE: is not an absolute URI without fragment (RFC 8707 section 2)"},
		{good + "OAUTH2_RESOURCE='https://a https://b/#'", "line 4: OAUTH2_RESOURCE: entry 2: is not an absolute URI without fragment (RFC 8707 section 2)"},
		{good + "TLS_CA=/etc/ca.pem", "line 4: TLS_CA: no certificate in it; it is PEM text that begins with -----BEGIN CERTIFICATE-----"},
		{good + "TLS_CA='" + key + "'", "line 4: TLS_CA: PEM block 1 is not a certificate; only certificates belong here"},
		{good + "TLS_CA='" + ca + key + "'", "line 4: TLS_CA: PEM block 2 is not a certificate; only certificates belong here"},
		{good + "TLS_CA='" + ca + ca[:len(ca)/2] + "'", "line 4: TLS_CA: PEM block 2 is damaged"},
		{good + "TLS_CA='" + strings.Replace(ca, "\nM", "\nA", 1) + "'", "line 4: TLS_CA: PEM block 1 is not a certificate that can be read"},
		{good + "TLS_CA='" + strings.Replace(ca, "\n", "\r\t\n", 1) + "'", "line 4: TLS_CA: has a carriage return in it; remove it"},
		{good + "OAUTH2_PROXY=proxy.example:3128", "line 4: OAUTH2_PROXY: neither an http, https or socks5 URL, such as http://proxy.example:3128, nor direct"},
		{good + "OAUTH2_PROXY=ftp://me:canary@proxy.example", "line 4: OAUTH2_PROXY: neither an http, https or socks5 URL, such as http://proxy.example:3128, nor direct"},
		{good + "OAUTH2_PROXY=http://me:canary/@proxy.example", "line 4: OAUTH2_PROXY: neither an http, https or socks5 URL, such as http://proxy.example:3128, nor direct"},
		{good + "OAUTH2_PROXY=http://", "line 4: OAUTH2_PROXY: neither an http, https or socks5 URL, such as http://proxy.example:3128, nor direct"},
		{good + "OAUTH2_DEFAULT_LIFETIME=300", "line 4: OAUTH2_DEFAULT_LIFETIME: not a duration above 0 and up to 24h; write 90s, 5m or 1h30m"},
		{good + "OAUTH2_DEFAULT_LIFETIME=0s", "line 4: OAUTH2_DEFAULT_LIFETIME: not a duration above 0 and up to 24h; write 90s, 5m or 1h30m"},
		{good + "OAUTH2_DEFAULT_LIFETIME=-5m", "line 4: OAUTH2_DEFAULT_LIFETIME: not a duration above 0 and up to 24h; write 90s, 5m or 1h30m"},
		{good + "OAUTH2_DEFAULT_LIFETIME=24h1ns", "line 4: OAUTH2_DEFAULT_LIFETIME: not a duration above 0 and up to 24h; write 90s, 5m or 1h30m"},
		{good + "API_URL=https://API.example:443/v1", "line 4: API_URL: is more than an origin; write https://api.example"},
		{good + "API_URL='https://a.example https://b.example:8443?x=1'", "line 4: API_URL: entry 2: is more than an origin; write https://b.example:8443"},
		{good + "API_URL=http://api.example", "line 4: API_URL: is plain http to \"api.example\"; only loopback may be plain, all else must be https"},
		{good + "API_URL=https://me:canary@api.example", "line 4: API_URL: has a user name or password before the host; credentials do not belong in a URL"},
		{good + "API_URL='https://*.example x'", "line 4: API_URL: entry 1: has a host that is no host name (an international name is written in its xn-- form); line 4: API_URL: entry 2: not an absolute https URL"},
		{good + "OAUTH2_EXTRA_Client_Secret=canary", "line 4: OAUTH2_EXTRA_Client_Secret: this parameter is sent anyway; use CLIENT_SECRET"},
		{good + "OAUTH2_EXTRA_grant_type=a", "line 4: OAUTH2_EXTRA_grant_type: this parameter is sent anyway; use OAUTH2_GRANT"},
		{good + "OAUTH2_EXTRA_=a", "line 4: OAUTH2_EXTRA_: names no parameter; write OAUTH2_EXTRA_NAME=value"},

		// The grammar, and all mistakes in the order of lines.
		{good + "CLIENT_SECRET=a;canary", "line 4: CLIENT_SECRET: unquoted ';'; put the value in single quotes"},
		{"TOKEND_A=1\nOAUTH2_EXTRA_scope=a\nAPI_URL=x\nOAUTH2_GRANT=password\nCLIENT_SECRET='a\n'\nX=y",
			"line 1: TOKEND_A: settings are the machine's; they belong into its configuration file, not into a profile; " +
				"line 2: OAUTH2_EXTRA_scope: this parameter is sent anyway; use OAUTH2_SCOPE; " +
				"line 3: API_URL: not an absolute https URL; " +
				"line 4: OAUTH2_GRANT: refused: this grant shows a person's password to the client and must not be used (RFC 9700 section 2.4); use authorization_code or device_code, or client_credentials where no person is in it; " +
				"line 5: CLIENT_SECRET: ends in a newline; remove it; " +
				"no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL; " +
				"CLIENT_ID: missing; it says who the client is"},
	} {
		refuses(t, tt.text, nil, tt.want)
	}
}

// refuses wants the mistakes of text, which repeat nothing with "canary" in it.
func refuses(t *testing.T, text string, values map[string]string, want string) {
	t.Helper()
	p, err := read(text, values)
	var m *Mistakes
	if !errors.As(err, &m) {
		t.Errorf("%q: got %+v, %v, want *Mistakes", text, p, err)
		return
	}
	if err.Error() != want {
		t.Errorf("%q:\ngot  %s\nwant %s", text, err, want)
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("%q: the mistake repeats a secret: %s", text, err)
	}
}

// accepts wants the Profile of text to be the one of good, changed by want.
func accepts(t *testing.T, text string, values map[string]string, want func(*Profile)) {
	t.Helper()
	p, err := read(good, nil)
	if err != nil {
		t.Fatal(err)
	}
	want(p)
	got, err := read(text, values)
	if err != nil {
		t.Errorf("%q: %v", text, err)
	} else if d := diff(p, got); d != "" {
		t.Errorf("%q: %s", text, d)
	}
}

func TestTextSize(t *testing.T) {
	text := good + "#" + strings.Repeat("x", MaxText-len(good)-1)
	if _, err := read(text, nil); err != nil {
		t.Errorf("%d bytes: %v", len(text), err)
	}
	const want = "the text has 49153 bytes; at most 49152 are allowed (48 KiB)"
	if _, err := read(text+"x", nil); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestExternalValues(t *testing.T) {
	ca, _ := certificate(t)
	text, err := Parse([]byte(`OAUTH2_TOKEN_URL_FILE=/never
OAUTH2_TOKEN_URL_FILE=/run/url
CLIENT_ID_COMMAND=id -un
OAUTH2_CLIENT_SECRET_COMMAND="pass show 'my secret'"
TLS_CA_FILE=~/ca.pem
OAUTH2_GRANT_FILE=/grant
OAUTH2_CLIENT_AUTH_FILE=/auth
OAUTH2_DEFAULT_LIFETIME_FILE=/life
API_URL_FILE=/api
OTHER_FILE=/other
OAUTH2_SCOPE_FILE=
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []External{
		{Variable: "OAUTH2_TOKEN_URL", Line: 2, File: "/run/url"},
		{Variable: "CLIENT_ID", Line: 3, Command: []string{"id", "-un"}},
		{Variable: "CLIENT_SECRET", Line: 4, Command: []string{"pass", "show", "my secret"}},
		{Variable: "TLS_CA", Line: 5, File: "~/ca.pem"},
		{Variable: "OAUTH2_GRANT", Line: 6, File: "/grant"},
		{Variable: "OAUTH2_CLIENT_AUTH", Line: 7, File: "/auth"},
		{Variable: "OAUTH2_DEFAULT_LIFETIME", Line: 8, File: "/life"},
		{Variable: "API_URL", Line: 9, File: "/api"},
	}
	if d := cmp.Diff(want, text.External()); d != "" {
		t.Error(d)
	}

	if _, err := text.Profile(nil); err != nil {
		t.Errorf("checked only: %v", err)
	}
	values := map[string]string{
		"OAUTH2_TOKEN_URL":        "https://as.example/token",
		"CLIENT_ID":               "me",
		"CLIENT_SECRET":           "canary $(x) ~/",
		"TLS_CA":                  ca,
		"OAUTH2_GRANT":            "client_credentials",
		"OAUTH2_CLIENT_AUTH":      "client_secret_post",
		"OAUTH2_DEFAULT_LIFETIME": "10m",
		"API_URL":                 "https://api.example",
	}
	got, err := text.Profile(values)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(&Profile{
		Endpoints: oauth.Endpoints{Token: "https://as.example/token"},
		Client: oauth.Client{
			ID:        "me",
			Secret:    oauth.NewSecret("canary $(x) ~/"),
			Auth:      oauth.ClientSecretPost,
			TokenURL:  "https://as.example/token",
			Transport: oauth.Transport{CA: ca},
		},
		Request:         oauth.Request{Grant: "client_credentials"},
		RenewAt:         0.85,
		DefaultLifetime: 10 * time.Minute,
		APIOrigins:      []string{"https://api.example"},
		Others:          []envfile.Var{{Name: "OTHER_FILE", Value: "/other", Line: 10}},
	}, got); d != "" {
		t.Error(d)
	}

	for _, tt := range []struct{ name, value, want string }{
		{"CLIENT_SECRET", "canary\n", "line 4: OAUTH2_CLIENT_SECRET_COMMAND: its value ends in a newline; remove it"},
		{"CLIENT_SECRET", "canary\r\n", "line 4: OAUTH2_CLIENT_SECRET_COMMAND: its value ends in a carriage return; remove it"},
		{"CLIENT_SECRET", "a\x00canary", "line 4: OAUTH2_CLIENT_SECRET_COMMAND: its value has a control character in it; remove it"},
		{"CLIENT_SECRET", "", "line 4: OAUTH2_CLIENT_SECRET_COMMAND: its value is empty"},
		{"OAUTH2_TOKEN_URL", "canary", "line 2: OAUTH2_TOKEN_URL_FILE: not an absolute https URL"},
		{"OAUTH2_GRANT", "password", "line 6: OAUTH2_GRANT_FILE: refused: this grant shows a person's password to the client and must not be used (RFC 9700 section 2.4); use authorization_code or device_code, or client_credentials where no person is in it"},
		{"OAUTH2_CLIENT_AUTH", "none", "line 7: OAUTH2_CLIENT_AUTH_FILE: none sends no secret, but OAUTH2_CLIENT_SECRET_COMMAND in line 4 gives one; keep one of the two"},
	} {
		values := maps.Clone(values)
		values[tt.name] = tt.value
		if _, err := text.Profile(values); err == nil || err.Error() != tt.want {
			t.Errorf("%s=%q:\ngot  %v\nwant %s", tt.name, tt.value, err, tt.want)
		}
	}
}

func TestExternalLeavesOutMistakes(t *testing.T) {
	text, err := Parse([]byte("CLIENT_ID_FILE=a\nCLIENT_SECRET_COMMAND='a|b'\nTLS_CA_COMMAND='a\nb'\nAPI_URL_FILE=$HOME/x\nOAUTH2_EXTRA_X_FILE=/x\nOAUTH2_X_FILE=/x\nTOKEND_X_FILE=/x"))
	if err != nil {
		t.Fatal(err)
	}
	if got := text.External(); got != nil {
		t.Errorf("got %+v", got)
	}
}

func TestMasked(t *testing.T) {
	ca, _ := certificate(t)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("canary")}))
	cert, certKey := certificate(t)
	text := `# canary
export OAUTH2_TOKEN_URL=https://as.example/token # canary
CLIENT_ID=me
CLIENT_SECRET=canary
OAUTH2_CLIENT_SECRET='canary
canary'
CLIENT_SECRET=
OAUTH2_SCOPE=api.read api.write
OAUTH2_EXTRA_x=canary
OAUTH2_EXTRA_X_FILE=/canary
OAUTH2_CLIENT_SECRT=canary
OAUTH2_NONSENSE_COMMAND=canary
CLIENT_SECRT=canary
DB_PASSWORD=canary
DB_PASSWORD_FILE=/canary
TOKEND_X=canary
CLIENT_SECRET_FILE=/run/secret
CLIENT_SECRET_FILE=/run/` + "\u202e" + `x
CLIENT_SECRET_FILE=canary
CLIENT_SECRET_COMMAND="pass show 'a b'"
CLIENT_SECRET_COMMAND='canary|'
CLIENT_SECRET_COMMAND="a\nb
OAUTH2_TOKEN_URL=https://good.example"
OAUTH2_PROXY=http://me:canary@proxy.example:3128/@x
OAUTH2_PROXY='http://me:canary/%@proxy.example'
OAUTH2_AUDIENCE='https://canary@x user@y https://evil.example/@good.example'
CLIENT_ID='` + "\x1b[2Kx\u202ey\xff\nCLIENT_ID=z" + `'
TLS_CA='X=1
` + key + "Y=canary\n" + ca + key + `'
TLS_CA='` + key + `'
PRIVATE_KEY='` + key + `canary'
TLS_CLIENT_KEY='` + certKey + `'
TLS_CLIENT_CERT='` + cert + certKey + `'
OAUTH2_REFRESH_TOKEN=canary
OAUTH2_SUBJECT_TOKEN=canary
CLIENT_SECRET_NEXT=canary
OAUTH2_SUBJECT_TOKEN_PROFILE=dev/login
PRIVATE_KEY_FILE=~/key.pem
`
	const want = `OAUTH2_TOKEN_URL=https://as.example/token
CLIENT_ID=me
CLIENT_SECRET=********
OAUTH2_CLIENT_SECRET=********
CLIENT_SECRET=
OAUTH2_SCOPE='api.read api.write'
OAUTH2_EXTRA_x=********
OAUTH2_EXTRA_X_FILE=********
OAUTH2_CLIENT_SECRT=********
OAUTH2_NONSENSE_COMMAND=********
CLIENT_SECRT=********
DB_PASSWORD=********
DB_PASSWORD_FILE=********
TOKEND_X=********
CLIENT_SECRET_FILE=/run/secret
CLIENT_SECRET_FILE='/run/\u202ex'
CLIENT_SECRET_FILE=********
CLIENT_SECRET_COMMAND='pass show '\''a b'\'''
CLIENT_SECRET_COMMAND=********
CLIENT_SECRET_COMMAND=********
OAUTH2_PROXY='http://********@proxy.example:3128/@x'
OAUTH2_PROXY=********
OAUTH2_AUDIENCE='https://********@x user@y https://evil.example/@good.example'
CLIENT_ID='\x1b[2Kx\u202ey\xff\nCLIENT_ID=z'
TLS_CA='`
	parsed, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got := string(parsed.Masked())
	if d := cmp.Diff(want+ca+`'
TLS_CA=********
PRIVATE_KEY=********
TLS_CLIENT_KEY=********
TLS_CLIENT_CERT='`+cert+`'
OAUTH2_REFRESH_TOKEN=********
OAUTH2_SUBJECT_TOKEN=********
CLIENT_SECRET_NEXT=********
OAUTH2_SUBJECT_TOKEN_PROFILE=dev/login
PRIVATE_KEY_FILE='~/key.pem'
`, got); d != "" {
		t.Error(d)
	}
	if strings.Contains(got, "canary") {
		t.Error("a secret is shown")
	}
}

// The table is what docs and masking go by, so every row must be read.
func TestVariablesAreRead(t *testing.T) {
	ca, _ := certificate(t)
	cert, certKey := certificate(t)
	signing := map[string]string{"PRIVATE_KEY": rsaKey(t)}
	bearer := map[string]string{"PRIVATE_KEY": rsaKey(t), "OAUTH2_GRANT": "jwt_bearer"}
	exchange := map[string]string{"OAUTH2_GRANT": "token_exchange", "OAUTH2_SUBJECT_TOKEN": "subject"}
	realm := map[string]string{"OAUTH2_PROVIDER": "keycloak", "OAUTH2_DOMAIN": "id.example", "OAUTH2_REALM": "a"}
	app := map[string]string{
		"OAUTH2_PROVIDER": "github-app", "GITHUB_APP_ID": "1", "GITHUB_INSTALLATION": "2", "PRIVATE_KEY": rsaKey(t),
		"OAUTH2_TOKEN_URL": "", "CLIENT_ID": "", "CLIENT_SECRET": "",
	}
	for _, row := range Variables[:len(Variables)-1] {
		value := "https://other.example"
		var beside map[string]string // what it needs
		switch row.Name {
		case "OAUTH2_PROVIDER":
			value, beside = "azure", map[string]string{"OAUTH2_ISSUER": "https://as.example"}
		case "OAUTH2_REALM_URL":
			value, beside = "https://id.example/realms/b", map[string]string{"OAUTH2_PROVIDER": "keycloak", "OAUTH2_ISSUER": ""}
		case "OAUTH2_REALM", "OAUTH2_DOMAIN":
			value, beside = "b", realm
		case "OAUTH2_TENANT":
			value, beside = "contoso.example", map[string]string{"OAUTH2_PROVIDER": "entra"}
		case "OAUTH2_AUTHORIZATION_SERVER":
			value, beside = "aus1", map[string]string{"OAUTH2_PROVIDER": "okta", "OAUTH2_DOMAIN": "example.okta.com"}
		case "OAUTH2_GRANT":
			value, beside = "device_code", map[string]string{"OAUTH2_DEVICE_URL": "https://as.example/device"}
		case "CLIENT_SECRET_EXPIRES_AT":
			value = "2027-01-31"
		case "OAUTH2_CLIENT_AUTH":
			value = "client_secret_post"
		case "OAUTH2_BASIC_ENCODING":
			value = "raw"
		case "PRIVATE_KEY":
			value = rsaKey(t)
		case "PRIVATE_KEY_ID", "OAUTH2_ASSERTION_AUDIENCE":
			beside = signing
		case "PRIVATE_KEY_ALG":
			value, beside = "PS512", signing
		case "OAUTH2_ASSERTION_SUBJECT":
			beside = bearer
		case "GITHUB_APP_ID", "GITHUB_INSTALLATION":
			value, beside = "3", app
		case "OAUTH2_SUBJECT_TOKEN":
			beside = exchange
		case "OAUTH2_SUBJECT_TOKEN_PROFILE":
			beside = map[string]string{"OAUTH2_GRANT": "token_exchange", "OAUTH2_SUBJECT_TOKEN": ""}
		case "OAUTH2_SUBJECT_TOKEN_TYPE", "OAUTH2_REQUESTED_TOKEN_TYPE":
			value, beside = "jwt", exchange
		case "TLS_CLIENT_CERT":
			value, beside = cert, map[string]string{"TLS_CLIENT_KEY": certKey}
		case "TLS_CLIENT_KEY":
			value, beside = certKey, map[string]string{"TLS_CLIENT_CERT": cert}
		case "TLS_CA":
			value = ca
		case "OAUTH2_DPOP", "OAUTH2_PAR":
			value = "off"
		case "OAUTH2_PROXY":
			value = "direct"
		case "OAUTH2_REFRESH_TOKEN":
			beside = map[string]string{"OAUTH2_GRANT": "refresh_token"}
		case "OAUTH2_REDIRECT_URL":
			value = "http://[::1]:8400/"
		case "OAUTH2_RENEW_AT":
			value = "0.9"
		case "OAUTH2_DEFAULT_LIFETIME":
			value = "1h"
		}
		vars := map[string]string{"OAUTH2_TOKEN_URL": "https://as.example/token", "CLIENT_ID": "me", "CLIENT_SECRET": "canary-secret"}
		maps.Copy(vars, beside)
		plain, err := read(string(format(vars)), nil)
		if err != nil {
			plain = &Profile{} // it is required
		}
		delete(vars, row.Name)
		for _, name := range append([]string{row.Name}, row.Aliases...) {
			vars[name] = value
			p, err := read(string(format(vars)), nil)
			delete(vars, name)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if diff(plain, p) == "" {
				t.Errorf("%s changes nothing", name)
			} else if len(p.Others) > 0 {
				t.Errorf("%s is taken for a stranger's", name)
			}
		}
	}
}

func format(vars map[string]string) []byte {
	var list []envfile.Var
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		list = append(list, envfile.Var{Name: name, Value: vars[name]})
	}
	return Format(list)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(good + "OAUTH2_SCOPE=a b\nAPI_URL='https://A:443 http://[::1]:80'\nOAUTH2_EXTRA_x=$y\nOAUTH2_PROXY=http://a:b@c\nX=$z\nTLS_CA_FILE=~/x\n"))
	f.Add([]byte(good + "OAUTH2_SCOPES=a\nTOKEND_X=1\nCLIENT_SECRET_COMMAND='a \"b'\nOAUTH2_RESOURCE='urn:x a'\nOAUTH2_DEFAULT_LIFETIME=1h\n"))
	ca, key := certificate(f)
	f.Add([]byte(good + "TLS_CA='" + ca + "'\n"))
	f.Add([]byte(good + "TLS_CLIENT_CERT='" + ca + "'\nTLS_CLIENT_KEY='" + key + "'\nPRIVATE_KEY='" + key + "'\nOAUTH2_DPOP=on\n"))
	f.Add([]byte("OAUTH2_PROVIDER=entra\nOAUTH2_TENANT=organizations\nOAUTH2_RESOURCE=api://x\nOAUTH2_GRANT=device_code\nCLIENT_ID=a\n"))
	f.Add([]byte("OAUTH2_PROVIDER=keycloak\nOAUTH2_REALM_URL=http://[::1]:1/realms/x/\nOAUTH2_GRANT=token_exchange\nOAUTH2_SUBJECT_TOKEN_PROFILE=a/b\nCLIENT_ID=a\nOAUTH2_RENEW_AT=NaN\n"))
	f.Add([]byte("OAUTH2_PROVIDER=github-app\nGITHUB_APP_ID=1\nGITHUB_INSTALLATION=a/b\nPRIVATE_KEY_FILE=/k\nOAUTH2_REDIRECT_URL=http://localhost:1\nCLIENT_SECRET_EXPIRES_AT=1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := Parse(text)
		if err != nil {
			if m, ok := err.(*Mistakes); !ok || len(m.List) != 1 {
				t.Fatalf("%#v", err)
			}
			return
		}
		if _, err := Parse(parsed.Masked()); err != nil && len(text) < MaxText/8 {
			t.Fatalf("masked: %v", err)
		}
		parsed.External()
		p, err := parsed.Profile(nil)
		if err != nil {
			m, ok := err.(*Mistakes)
			if !ok || len(m.List) == 0 || p != nil {
				t.Fatalf("%#v, %+v", err, p)
			}
			return
		}
		formatted := Format(parsed.Vars)
		if len(formatted) > MaxText {
			return
		}
		again, err := Parse(formatted)
		if err != nil {
			t.Fatalf("%q: %v", formatted, err)
		}
		p2, err := again.Profile(nil)
		if err != nil {
			t.Fatalf("%q: %v", formatted, err)
		}
		// Lines are new, and what Format quotes is no expansion any more.
		for _, vars := range [][]envfile.Var{p.Others, p2.Others} {
			for i := range vars {
				vars[i].Line, vars[i].Expansion = 0, ""
			}
		}
		if !reflect.DeepEqual(p, p2) {
			t.Fatalf("%q:\n%+v\n%+v", formatted, p, p2)
		}
		if !bytes.Equal(parsed.Masked(), again.Masked()) {
			t.Fatalf("%q is shown as\n%s\nand %s", text, parsed.Masked(), again.Masked())
		}
	})
}

func TestNearest(t *testing.T) {
	names := []string{"dev/network", "dev/storage", "prod/network"}
	for name, want := range map[string]string{
		"dev/netwrok":  "dev/network",
		"DEV/network":  "dev/network",
		"prod/netwok":  "prod/network",
		"test/network": "",
		"x":            "",
	} {
		if got := Nearest(name, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

// The manual has every variable.
func TestManual(t *testing.T) {
	manual, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range Variables {
		for _, name := range append([]string{row.Name}, row.Aliases...) {
			if !bytes.Contains(manual, []byte("`"+name+"`")) {
				t.Errorf("docs/profiles.md has no %s", name)
			}
		}
	}
	for _, name := range append(providers(), slices.Collect(maps.Keys(presetAliases))...) {
		if !bytes.Contains(manual, []byte("`"+name+"`")) {
			t.Errorf("docs/profiles.md has no preset %s", name)
		}
	}
}
