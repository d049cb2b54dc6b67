package oauth

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wire is a whole request: what a server sees and nothing besides.
func wire(addr, authorization, body string) string {
	lines := []string{
		"POST /token HTTP/1.1",
		"Host: " + addr,
		"User-Agent: tokend",
		"Content-Length: " + strconv.Itoa(len(body)),
		"Accept: application/json",
		"Accept-Encoding: identity",
	}
	if authorization != "" {
		lines = append(lines, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(authorization)))
	}
	lines = append(lines, "Content-Type: application/x-www-form-urlencoded", "Connection: close", "", body)
	return strings.Join(lines, "\r\n")
}

func TestRequestBytes(t *testing.T) {
	cc := Request{Grant: GrantClientCredentials}
	for _, row := range []struct {
		name          string
		client        Client
		request       Request
		authorization string
		body          string
	}{
		{"basic, form-encoded", Client{ID: "a:p p", Secret: NewSecret("s+c/r=t%&é"), Auth: ClientSecretBasic}, cc,
			"a%3Ap+p:s%2Bc%2Fr%3Dt%25%26%C3%A9", "grant_type=client_credentials"},
		{"basic, raw", Client{ID: "a p", Secret: NewSecret("s+c:/r=t%&é"), Auth: ClientSecretBasic, RawBasic: true}, cc,
			"a p:s+c:/r=t%&é", "grant_type=client_credentials"},
		{"post", Client{ID: "a:p p", Secret: NewSecret("s+c/r=t%&é"), Auth: ClientSecretPost}, cc,
			"", "grant_type=client_credentials&client_id=a%3Ap+p&client_secret=s%2Bc%2Fr%3Dt%25%26%C3%A9"},
		{"none", Client{ID: "app", Auth: AuthNone}, cc,
			"", "grant_type=client_credentials&client_id=app"},
		{"none, although there is a secret", Client{ID: "app", Secret: NewSecret("hunter2"), Auth: AuthNone}, cc,
			"", "grant_type=client_credentials&client_id=app"},
		{"chosen for a secret", Client{ID: "app", Secret: NewSecret("hunter2")}, cc,
			"app:hunter2", "grant_type=client_credentials"},
		{"chosen for no secret", Client{ID: "app"}, cc,
			"", "grant_type=client_credentials&client_id=app"},
		{"a grant with parameters", Client{ID: "app"}, Request{
			Grant:  GrantAuthorizationCode,
			Params: url.Values{"redirect_uri": {"http://127.0.0.1:1/callback"}, "code": {"c&1"}, "code_verifier": {"v"}},
			Extra:  url.Values{"a": {"b"}},
		}, "", "grant_type=authorization_code&code=c%261&code_verifier=v&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback&a=b&client_id=app"},
		{"everything", Client{ID: "app", Secret: NewSecret("hunter2")}, Request{
			Grant:    "urn:ietf:params:oauth:grant-type:jwt-bearer",
			Scopes:   []string{"read", "write:all"},
			Audience: []string{"https://api.example/", "b"},
			Resource: []string{"https://r.example/1", "https://r.example/2"},
			Extra:    url.Values{"zone": {"z2", "z1"}, "assertion": {"x.y.z"}, "b&c": {"d=e"}},
		}, "app:hunter2", "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&scope=read+write%3Aall" +
			"&audience=https%3A%2F%2Fapi.example%2F&audience=b" +
			"&resource=https%3A%2F%2Fr.example%2F1&resource=https%3A%2F%2Fr.example%2F2" +
			"&assertion=x.y.z&b%26c=d%3De&zone=z2&zone=z1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, base := answering(t, ok(goodAnswer))
			row.client.TokenURL = base.TokenURL
			if _, err := row.client.Token(t.Context(), row.request); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{wire(s.addr, row.authorization, row.body)}, s.seen()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTokenURLKeepsItsQuery(t *testing.T) {
	s, c := answering(t, ok(goodAnswer))
	c.TokenURL += "?tenant=a%20b"
	if _, err := c.Token(t.Context(), Request{Grant: GrantClientCredentials}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := strings.Cut(s.seen()[0], "\r\n"); got != "POST /token?tenant=a%20b HTTP/1.1" {
		t.Error(got)
	}
}

func TestRequestThatCannotBeSent(t *testing.T) {
	s, good := answering(t, ok(goodAnswer))
	cc := Request{Grant: GrantClientCredentials}
	asking := "asking " + s.addr + " for a token: "
	for _, row := range []struct {
		change  func(*Client)
		request Request
		want    string
	}{
		{func(c *Client) { c.TokenURL = "https://u:hunter2@as.example/" }, cc, "checking the token endpoint's URL: has a user name or password before the host; credentials do not belong in a URL"},
		{func(c *Client) {}, Request{}, asking + "no grant type"},
		{func(c *Client) { c.ID = "" }, cc, asking + "no client id"},
		{func(c *Client) { c.Secret, c.Auth = Secret{}, ClientSecretBasic }, cc, asking + "client_secret_basic without a client secret"},
		{func(c *Client) { c.Secret, c.Auth = Secret{}, ClientSecretPost }, cc, asking + "client_secret_post without a client secret"},
		{func(c *Client) { c.Secret, c.Auth = Secret{}, ClientSecretJWT }, cc, asking + "client_secret_jwt without a client secret"},
		{func(c *Client) { c.Auth = ClientSecretJWT }, cc, asking + "client_secret_jwt wants a client secret of 32 bytes or more (RFC 7518 section 3.2)"},
		{func(c *Client) { c.Auth = PrivateKeyJWT }, cc, asking + "private_key_jwt without a private key"},
		{func(c *Client) { c.Auth = TLSClientAuth }, cc, asking + "tls_client_auth without a client certificate"},
		{func(c *Client) { c.Auth = SelfSignedTLSClientAuth }, cc, asking + "self_signed_tls_client_auth without a client certificate"},
		{func(c *Client) { c.Auth = "spiffe_jwt" }, cc, asking + `client authentication "spiffe_jwt" is not supported`},
		{func(c *Client) {
			c.Transport.Certificate, c.Transport.CertificateKey = systemCA.pem, NewSecret("hunter2")
		}, cc, asking + "reading the client certificate: its key: there is no PEM text"},
		{func(c *Client) { c.ID, c.RawBasic = "a:b", true }, cc, asking + "a client id with a colon cannot stand raw in a Basic header (RFC 7617)"},
		{func(c *Client) {}, Request{Grant: "x", Extra: url.Values{"client_secret": {"other"}}}, asking + `"client_secret" cannot be an extra parameter`},
		{func(c *Client) {}, Request{Grant: "x", Extra: url.Values{"scope": {"other"}}}, asking + `"scope" cannot be an extra parameter`},
		{func(c *Client) {}, Request{Grant: "x", Extra: url.Values{"client_assertion": {"other"}}}, asking + `"client_assertion" cannot be an extra parameter`},
		{func(c *Client) {}, Request{Grant: "x", Params: url.Values{"code": {"a"}}, Extra: url.Values{"code": {"other"}}}, asking + `"code" cannot be an extra parameter`},
		{func(c *Client) { c.Transport.CA = "no PEM" }, cc, asking + "reading the CA: no PEM certificate in it"},
		{func(c *Client) {
			c.Transport.CA = "-----BEGIN PRIVATE KEY-----\naGk=\n-----END PRIVATE KEY-----\n"
		}, cc, asking + "reading the CA: PEM other than a certificate in it"},
		{func(c *Client) {
			c.Transport.CA = systemCA.pem + "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n"
		}, cc, asking + "reading the CA: certificate 2 cannot be read"},
	} {
		c := *good
		row.change(&c)
		tok, err := c.Token(t.Context(), row.request)
		var e *Error
		if !errors.As(err, &e) || tok != nil || err.Error() != row.want || e.Kind != Invalid || e.Sent {
			t.Errorf("got %v, %#v, want %s", tok, err, row.want)
		}
	}
	if s.connections() != 0 {
		t.Error("something was sent")
	}
}

func TestChooseAuth(t *testing.T) {
	public, secret := Client{}, Client{Secret: NewSecret("s")}
	explicit := Client{Secret: NewSecret("s"), Auth: ClientSecretPost}
	key := Client{Secret: NewSecret("s"), Key: new(Key)}
	certificate := Client{Secret: NewSecret("s"), Transport: Transport{Certificate: "PEM"}}
	for _, row := range []struct {
		client Client
		listed []string
		want   AuthMethod
	}{
		{public, nil, AuthNone},
		{public, []string{"client_secret_basic"}, AuthNone},
		{secret, nil, ClientSecretBasic},
		{secret, []string{}, ClientSecretBasic},
		{secret, []string{"private_key_jwt"}, ClientSecretBasic},
		{secret, []string{"client_secret_post"}, ClientSecretPost},
		{secret, []string{"private_key_jwt", "client_secret_post"}, ClientSecretPost},
		{secret, []string{"client_secret_post", "client_secret_basic"}, ClientSecretBasic},
		{explicit, []string{"client_secret_basic"}, ClientSecretPost},
		{key, nil, PrivateKeyJWT},
		{key, []string{"client_secret_basic"}, PrivateKeyJWT},
		{certificate, nil, TLSClientAuth},
		{certificate, []string{"client_secret_post"}, TLSClientAuth},
	} {
		if got := row.client.ChooseAuth(row.listed); got != row.want {
			t.Errorf("%v with %q: %s, want %s", row.client, row.listed, got, row.want)
		}
	}
}
