package profile

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"tokend/oauth"
)

// TestPresets has what each provider documents, and the same below a loopback
// address or with the user's own URLs over it.
func TestPresets(t *testing.T) {
	rsa := rsaKey(t)
	key := quote("PRIVATE_KEY", rsa)
	const id = "1b730954-1685-4b74-9bfd-dac224a7b894"
	const secret = "CLIENT_SECRET=s\n"
	basic := oauth.Client{ID: "me", Secret: oauth.NewSecret("s")}
	post := oauth.Client{ID: "me", Secret: oauth.NewSecret("s"), Auth: oauth.ClientSecretPost}
	withKey := oauth.Client{ID: "me", Key: parseKey(t, rsa, "", "RS256")}
	public := oauth.Client{ID: "me"}
	clientCredentials := oauth.Request{Grant: oauth.GrantClientCredentials}
	code := oauth.Request{Grant: oauth.GrantAuthorizationCode}
	device := oauth.Request{Grant: oauth.GrantDeviceCode}
	offline := url.Values{"access_type": {"offline"}, "prompt": {"consent"}}

	entra := func(base string) oauth.Endpoints {
		return oauth.Endpoints{
			Token:               base + "/oauth2/v2.0/token",
			Authorization:       base + "/oauth2/v2.0/authorize",
			DeviceAuthorization: base + "/oauth2/v2.0/devicecode",
		}
	}
	gitHub := func(base string) oauth.Endpoints {
		return oauth.Endpoints{
			Token:               base + "/login/oauth/access_token",
			Authorization:       base + "/login/oauth/authorize",
			DeviceAuthorization: base + "/login/device/code",
		}
	}
	gitLab := func(base string) oauth.Endpoints {
		return oauth.Endpoints{
			Token:               base + "/oauth/token",
			Authorization:       base + "/oauth/authorize",
			DeviceAuthorization: base + "/oauth/authorize_device",
			Introspection:       base + "/oauth/introspect",
			Revocation:          base + "/oauth/revoke",
		}
	}
	gitea := func(base string) oauth.Endpoints {
		return oauth.Endpoints{
			Token:         base + "/login/oauth/access_token",
			Authorization: base + "/login/oauth/authorize",
			Introspection: base + "/login/oauth/introspect",
		}
	}
	bitbucket := oauth.Endpoints{
		Token:         "https://bitbucket.org/site/oauth2/access_token",
		Authorization: "https://bitbucket.org/site/oauth2/authorize",
	}

	for _, tt := range []struct {
		text string // behind OAUTH2_PROVIDER=
		want Profile
	}{
		{"keycloak\n" + secret + "OAUTH2_REALM_URL=https://id.example.com/realms/main",
			Profile{Provider: "keycloak", Issuer: "https://id.example.com/realms/main", Client: basic, Request: clientCredentials}},
		{"keycloak\n" + secret + "OAUTH2_REALM_URL=http://127.0.0.1:8080/auth/realms/main/",
			Profile{Provider: "keycloak", Issuer: "http://127.0.0.1:8080/auth/realms/main", Client: basic, Request: clientCredentials}},
		{"keycloak\n" + secret + "OAUTH2_DOMAIN=ID.example.com:8443\nOAUTH2_REALM='my realm'",
			Profile{Provider: "keycloak", Issuer: "https://id.example.com:8443/realms/my%20realm", Client: basic, Request: clientCredentials}},
		{"keycloak\nOAUTH2_DOMAIN=http://127.0.0.1:8080/\nOAUTH2_REALM=main\nOAUTH2_GRANT=device_code\nOAUTH2_TOKEN_URL=http://127.0.0.1:1/t",
			Profile{Provider: "keycloak", Issuer: "http://127.0.0.1:8080/realms/main", Endpoints: oauth.Endpoints{Token: "http://127.0.0.1:1/t"}, Client: public, Request: device}},
		{"keycloak\n" + secret + "OAUTH2_ISSUER=https://as.example",
			Profile{Provider: "keycloak", Issuer: "https://as.example", Client: basic, Request: clientCredentials}},

		{"entra\n" + secret + "OAUTH2_TENANT=" + strings.ToUpper(id) + "\nOAUTH2_RESOURCE=https://graph.microsoft.com",
			Profile{
				Provider:  "entra",
				Issuer:    "https://login.microsoftonline.com/" + id + "/v2.0",
				Endpoints: entra("https://login.microsoftonline.com/" + strings.ToUpper(id)),
				Client:    post, AssertionAudience: "token_endpoint",
				Request: oauth.Request{Grant: oauth.GrantClientCredentials, Scopes: []string{"https://graph.microsoft.com/.default"}},
			}},
		{"azure\n" + key + "OAUTH2_TENANT=contoso.onmicrosoft.com\nOAUTH2_SCOPE=api://x/.default\nOAUTH2_ASSERTION_AUDIENCE=https://as.example",
			Profile{
				Provider:  "entra",
				Endpoints: entra("https://login.microsoftonline.com/contoso.onmicrosoft.com"),
				Client:    oauth.Client{ID: "me", Key: parseKey(t, rsa, "", "PS256")}, AssertionAudience: "https://as.example",
				Request: oauth.Request{Grant: oauth.GrantClientCredentials, Scopes: []string{"api://x/.default"}},
			}},
		{"entra\n" + key + "PRIVATE_KEY_ID=thumb\nOAUTH2_TENANT=a\nOAUTH2_SCOPE=b",
			Profile{
				Provider:  "entra",
				Endpoints: entra("https://login.microsoftonline.com/a"),
				Client:    oauth.Client{ID: "me", Key: parseKey(t, rsa, "thumb", "PS256").ForCertificate("thumb")}, AssertionAudience: "token_endpoint",
				Request: oauth.Request{Grant: oauth.GrantClientCredentials, Scopes: []string{"b"}},
			}},
		{"entra\nOAUTH2_TENANT=organizations\nOAUTH2_DOMAIN=login.microsoftonline.us\nOAUTH2_GRANT=device_code\nOAUTH2_RESOURCE=https://management.usgovcloudapi.net/",
			Profile{
				Provider:  "entra",
				Endpoints: entra("https://login.microsoftonline.us/organizations"),
				Client:    public, AssertionAudience: "token_endpoint",
				Request: oauth.Request{Grant: oauth.GrantDeviceCode, Scopes: []string{"https://management.usgovcloudapi.net//.default", "offline_access"}},
			}},
		{"entra\n" + secret + "OAUTH2_TENANT=" + id + "\nOAUTH2_DOMAIN=http://127.0.0.1:8080\nOAUTH2_SCOPE=a\nOAUTH2_RESOURCE=urn:b\nOAUTH2_CLIENT_AUTH=client_secret_basic",
			Profile{
				Provider:  "entra",
				Issuer:    "http://127.0.0.1:8080/" + id + "/v2.0",
				Endpoints: entra("http://127.0.0.1:8080/" + id),
				Client:    oauth.Client{ID: "me", Secret: oauth.NewSecret("s"), Auth: oauth.ClientSecretBasic}, AssertionAudience: "token_endpoint",
				Request: oauth.Request{Grant: oauth.GrantClientCredentials, Scopes: []string{"a"}, Resource: []string{"urn:b"}},
			}},
		{"entra\n" + secret + "OAUTH2_TENANT=a\nOAUTH2_RESOURCE=' '",
			Profile{Provider: "entra", Endpoints: entra("https://login.microsoftonline.com/a"), Client: post, Request: clientCredentials, AssertionAudience: "token_endpoint"}},
		{"entra\nOAUTH2_ISSUER=http://127.0.0.1:8080/x\nOAUTH2_GRANT=authorization_code",
			Profile{Provider: "entra", Issuer: "http://127.0.0.1:8080/x", Client: public, Request: code, AssertionAudience: "token_endpoint"}},

		{"auth0\n" + secret + "OAUTH2_DOMAIN=example.eu.auth0.com\nOAUTH2_AUDIENCE=https://api.example.com",
			Profile{
				Provider: "auth0", Issuer: "https://example.eu.auth0.com/", Client: post,
				Request: oauth.Request{Grant: oauth.GrantClientCredentials, Audience: []string{"https://api.example.com"}},
			}},
		{"auth0\n" + key + "OAUTH2_DOMAIN=http://localhost:8080",
			Profile{Provider: "auth0", Issuer: "http://localhost:8080/", Client: withKey, Request: clientCredentials}},
		{"auth0\n" + secret + "OAUTH2_TOKEN_URL=http://127.0.0.1:1/t",
			Profile{Provider: "auth0", Endpoints: oauth.Endpoints{Token: "http://127.0.0.1:1/t"}, Client: post, Request: clientCredentials}},

		{"google\n" + key + "OAUTH2_SCOPE=https://www.googleapis.com/auth/cloud-platform\nOAUTH2_ASSERTION_SUBJECT=you@example.com",
			Profile{
				Provider:  "google",
				Endpoints: oauth.Endpoints{Token: "https://oauth2.googleapis.com/token"},
				Client:    oauth.Client{ID: "me", Auth: oauth.AuthNone, Key: withKey.Key},
				Request:   oauth.Request{Grant: oauth.GrantJWTBearer, Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}},

				AssertionAudience: "token_endpoint", AssertionSubject: "you@example.com", ScopeInAssertion: true,
			}},
		{"google\n" + secret + "OAUTH2_SCOPE=https://mail.google.com/",
			Profile{
				Provider: "google", Issuer: "https://accounts.google.com", Client: post, AuthorizationExtra: offline,
				Request: oauth.Request{Grant: oauth.GrantAuthorizationCode, Scopes: []string{"https://mail.google.com/"}},
			}},
		{"google\n" + secret + "OAUTH2_GRANT=device_code\nOAUTH2_ISSUER=http://127.0.0.1:8080\nOAUTH2_EXTRA_prompt=none",
			Profile{
				Provider: "google", Issuer: "http://127.0.0.1:8080", Client: post, AuthorizationExtra: url.Values{"access_type": {"offline"}},
				Request: oauth.Request{Grant: oauth.GrantDeviceCode, Extra: url.Values{"prompt": {"none"}}},
			}},

		{"okta\n" + key + "OAUTH2_DOMAIN=example.okta.com",
			Profile{Provider: "okta", Issuer: "https://example.okta.com/oauth2/default", Client: withKey, Request: clientCredentials, AssertionAudience: "token_endpoint"}},
		{"okta\n" + key + "OAUTH2_DOMAIN=example.okta.com\nOAUTH2_AUTHORIZATION_SERVER=org\nOAUTH2_ASSERTION_AUDIENCE=issuer",
			Profile{Provider: "okta", Issuer: "https://example.okta.com", Client: withKey, Request: clientCredentials, AssertionAudience: "issuer"}},
		{"okta\n" + secret + "OAUTH2_DOMAIN=http://[::1]:8080\nOAUTH2_AUTHORIZATION_SERVER=aus1",
			Profile{Provider: "okta", Issuer: "http://[::1]:8080/oauth2/aus1", Client: basic, Request: clientCredentials, AssertionAudience: "token_endpoint"}},

		{"gitlab\n", Profile{Provider: "gitlab", Issuer: "https://gitlab.com", Endpoints: gitLab("https://gitlab.com"), Client: public, Request: code}},
		{"gitlab\n" + secret + "OAUTH2_GRANT=device_code\nOAUTH2_DOMAIN=http://127.0.0.1:8080",
			Profile{Provider: "gitlab", Issuer: "http://127.0.0.1:8080", Endpoints: gitLab("http://127.0.0.1:8080"), Client: basic, Request: device}},

		{"github\n", Profile{Provider: "github", Endpoints: gitHub("https://github.com"), Client: public, Request: device}},
		{"github\n" + secret + "OAUTH2_GRANT=authorization_code\nOAUTH2_DOMAIN=http://127.0.0.1:8080",
			Profile{Provider: "github", Endpoints: gitHub("http://127.0.0.1:8080"), Client: post, Request: code}},

		// An issuer has its own endpoints.
		{"github\nOAUTH2_ISSUER=https://as.example", Profile{Provider: "github", Issuer: "https://as.example", Client: public, Request: device}},

		{"gitea\nOAUTH2_DOMAIN=gitea.com", Profile{Provider: "gitea", Endpoints: gitea("https://gitea.com"), Client: public, Request: code}},
		{"forgejo\n" + secret + "OAUTH2_DOMAIN=http://127.0.0.1:3000", Profile{Provider: "gitea", Endpoints: gitea("http://127.0.0.1:3000"), Client: basic, Request: code}},

		{"bitbucket\n" + secret, Profile{Provider: "bitbucket", Endpoints: bitbucket, Client: basic, Request: clientCredentials}},
		{"bitbucket\n" + secret + "OAUTH2_TOKEN_URL=http://127.0.0.1:1/t\nOAUTH2_AUTH_URL=http://127.0.0.1:1/a",
			Profile{Provider: "bitbucket", Endpoints: oauth.Endpoints{Token: "http://127.0.0.1:1/t", Authorization: "http://127.0.0.1:1/a"}, Client: basic, Request: clientCredentials}},
	} {
		text := "CLIENT_ID=me\nOAUTH2_PROVIDER=" + tt.text
		tt.want.Client.TokenURL = tt.want.Endpoints.Token
		tt.want.RenewAt = 0.85
		tt.want.DefaultLifetime = 5 * time.Minute
		got, err := read(text, nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if d := diff(&tt.want, got); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func TestGitHubApp(t *testing.T) {
	rsa := rsaKey(t)
	cert, certKey := certificate(t)
	app := "OAUTH2_PROVIDER=github-app\n" + quote("PRIVATE_KEY", rsa)
	for text, want := range map[string]GitHubApp{
		"GITHUB_APP_ID=12345\nGITHUB_INSTALLATION=678":                                            {"12345", "678", "https://api.github.com"},
		"GITHUB_APP_ID=Iv23liABC\nGITHUB_INSTALLATION=my-org\nOAUTH2_DOMAIN=github.com":           {"Iv23liABC", "my-org", "https://api.github.com"},
		"GITHUB_APP_ID=1\nGITHUB_INSTALLATION=my_user/.a.repo\nOAUTH2_DOMAIN=git.example.com":     {"1", "my_user/.a.repo", "https://git.example.com/api/v3"},
		"GITHUB_APP_ID=1\nGITHUB_INSTALLATION=2\nOAUTH2_DOMAIN=octo.ghe.com":                      {"1", "2", "https://api.octo.ghe.com"},
		"GITHUB_APP_ID=1\nGITHUB_INSTALLATION=2\nOAUTH2_DOMAIN=http://127.0.0.1:8080\nOTHER_ID=3": {"1", "2", "http://127.0.0.1:8080/api/v3"},
	} {
		got, err := read(app+text, nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		got.Others = nil
		if d := diff(&Profile{
			Provider:        "github-app",
			GitHub:          &want,
			Client:          oauth.Client{Key: parseKey(t, rsa, "", "RS256")},
			RenewAt:         0.85,
			DefaultLifetime: 5 * time.Minute,
		}, got); d != "" {
			t.Errorf("%q: %s", text, d)
		}
		if got.Interactive() {
			t.Errorf("%q is interactive", text)
		}
	}

	got, err := read(app+"GITHUB_APP_ID=1\nGITHUB_INSTALLATION=2\nOAUTH2_RENEW_AT=0.7\nOAUTH2_DEFAULT_LIFETIME=1h\nAPI_URL=https://api.github.com\nOAUTH2_PROXY=direct\n"+
		quote("TLS_CA", cert)+quote("TLS_CLIENT_CERT", cert)+quote("TLS_CLIENT_KEY", certKey), nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(&Profile{
		Provider: "github-app",
		GitHub:   &GitHubApp{"1", "2", "https://api.github.com"},
		Client: oauth.Client{
			Key:       parseKey(t, rsa, "", "RS256"),
			Transport: oauth.Transport{CA: cert, Proxy: "direct", Certificate: cert, CertificateKey: oauth.NewSecret(certKey)},
		},
		RenewAt:         0.7,
		DefaultLifetime: time.Hour,
		APIOrigins:      []string{"https://api.github.com"},
	}, got); d != "" {
		t.Error(d)
	}

	const unused = "not used by github-app; remove it"
	const begin = "OAUTH2_PROVIDER=github-app\nPRIVATE_KEY_FILE=/k\n"
	for _, tt := range []struct{ text, want string }{
		{"OAUTH2_PROVIDER=github-app", "line 1: OAUTH2_PROVIDER: this preset needs GITHUB_APP_ID, the App's ID or client ID; " +
			"line 1: OAUTH2_PROVIDER: this preset needs GITHUB_INSTALLATION, the installation's number, its owner, or OWNER/REPO; " +
			"line 1: OAUTH2_PROVIDER: this preset needs the App's key; set PRIVATE_KEY, PRIVATE_KEY_FILE or PRIVATE_KEY_COMMAND"},
		{begin + "GITHUB_APP_ID=a/b\nGITHUB_INSTALLATION=a/b/c", "line 3: GITHUB_APP_ID: has a character that it cannot have; it is the App's ID or client ID; line 4: GITHUB_INSTALLATION: neither a number, an owner nor OWNER/REPO"},
		{begin + "GITHUB_APP_ID=1\nGITHUB_INSTALLATION=a/..", "line 4: GITHUB_INSTALLATION: neither a number, an owner nor OWNER/REPO"},
		{begin + "GITHUB_APP_ID=1\nGITHUB_INSTALLATION=2\nOAUTH2_DOMAIN=https://git.example.com/api/v3", "line 5: OAUTH2_DOMAIN: is more than a host; write git.example.com"},
		{begin + "GITHUB_APP_ID=1\nGITHUB_INSTALLATION=2\nCLIENT_ID=3\nCLIENT_SECRET_FILE=/canary\nOAUTH2_SCOPE=a\nOAUTH2_GRANT=password\nPRIVATE_KEY_ALG=x\nOAUTH2_TENANT=a\nOAUTH2_EXTRA_x=canary",
			"line 5: CLIENT_ID: not used by github-app; the App's ID is GITHUB_APP_ID; line 6: CLIENT_SECRET_FILE: " + unused + "; line 7: OAUTH2_SCOPE: " + unused +
				"; line 8: OAUTH2_GRANT: " + unused + "; line 9: PRIVATE_KEY_ALG: " + unused + "; line 10: OAUTH2_TENANT: " + unused + "; line 11: OAUTH2_EXTRA_x: " + unused},
		{"OAUTH2_PROVIDER=github-app\nGITHUB_APP_ID=1\nGITHUB_INSTALLATION=2\n" + quote("PRIVATE_KEY", ecKey(t)), "line 4: PRIVATE_KEY: GitHub takes the RSA key that it made for the App, and RS256 only"},
	} {
		refuses(t, tt.text, nil, tt.want)
	}
}

func TestRefusesPresets(t *testing.T) {
	const id = "CLIENT_ID=me\nCLIENT_SECRET=s\nOAUTH2_PROVIDER="
	const tenant = "the tenant's ID, or a domain of it such as contoso.onmicrosoft.com"
	for _, tt := range []struct{ text, want string }{
		{id + "keycloack", "line 3: OAUTH2_PROVIDER: no such preset; did you mean keycloak?"},
		{id + "azur", "line 3: OAUTH2_PROVIDER: no such preset; did you mean azure?"},
		{id + "slack", "line 3: OAUTH2_PROVIDER: no such preset; it is auth0, bitbucket, entra, gitea, github, github-app, gitlab, google, keycloak, okta"},
		// A preset that is not known may be all that is missing.
		{"OAUTH2_PROVIDER=nowhere\nOAUTH2_TENANT=a\nOAUTH2_GRANT=authorization_code\nOAUTH2_PAR=on", "line 1: OAUTH2_PROVIDER: no such preset; it is auth0, bitbucket, entra, gitea, github, github-app, gitlab, google, keycloak, okta"},

		{good + "OAUTH2_REALM=a\nOAUTH2_TENANT=b\nGITHUB_APP_ID=1", "line 4: OAUTH2_REALM: without effect; set OAUTH2_PROVIDER=keycloak; line 5: OAUTH2_TENANT: without effect; set OAUTH2_PROVIDER=entra; line 6: GITHUB_APP_ID: without effect; set OAUTH2_PROVIDER=github-app"},
		{good + "OAUTH2_DOMAIN=a", "line 4: OAUTH2_DOMAIN: without effect; set OAUTH2_PROVIDER=auth0 or entra or gitea or github or github-app or gitlab or keycloak or okta"},
		{id + "google\nOAUTH2_DOMAIN=a\nOAUTH2_REALM_URL=b", "line 4: OAUTH2_DOMAIN: not used by google; remove it; line 5: OAUTH2_REALM_URL: not used by google; remove it"},
		{id + "azure\nOAUTH2_TENANT=a\nOAUTH2_AUTHORIZATION_SERVER=b", "line 5: OAUTH2_AUTHORIZATION_SERVER: not used by entra; remove it"},
		{good + "OAUTH2_TENANT_ID=a", "line 4: OAUTH2_TENANT_ID: no such variable; did you mean OAUTH2_TENANT?"},

		{id + "keycloak", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_REALM_URL, such as https://id.example.com/realms/main, or OAUTH2_DOMAIN and OAUTH2_REALM"},
		{id + "keycloak\nOAUTH2_DOMAIN=id.example.com", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_REALM_URL, such as https://id.example.com/realms/main, or OAUTH2_DOMAIN and OAUTH2_REALM"},
		{id + "keycloak\nOAUTH2_REALM=main", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_DOMAIN, such as id.example.com"},
		{id + "keycloak\nOAUTH2_REALM_URL=https://id.example.com/realms/main\nOAUTH2_REALM=main", "line 5: OAUTH2_REALM: stands beside OAUTH2_REALM_URL in line 4, which says it all; keep one of the two"},
		{id + "keycloak\nOAUTH2_REALM_URL=https://id.example.com/", "line 4: OAUTH2_REALM_URL: not a realm's URL, which ends in /realms/NAME"},
		{id + "keycloak\nOAUTH2_REALM_URL=https://id.example.com/realms/main/protocol/openid-connect/token", "line 4: OAUTH2_REALM_URL: is more than the realm's URL, which ends in /realms/NAME"},
		{id + "keycloak\nOAUTH2_REALM_URL=http://id.example.com/realms/main", `line 4: OAUTH2_REALM_URL: is plain http to "id.example.com"; only loopback may be plain, all else must be https`},
		{id + "keycloak\nOAUTH2_DOMAIN=id.example.com/auth\nOAUTH2_REALM=a", "line 4: OAUTH2_DOMAIN: is more than a host; write id.example.com"},
		{id + "keycloak\nOAUTH2_DOMAIN=https://me:canary@id.example.com\nOAUTH2_REALM=a", "line 4: OAUTH2_DOMAIN: has a user name or password before the host; credentials do not belong in a URL"},

		{id + "entra", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_TENANT, " + tenant},
		{id + "entra\nOAUTH2_TENANT=a/b", "line 4: OAUTH2_TENANT: has a character that it cannot have; it is " + tenant},
		{id + "entra\nOAUTH2_TENANT=common", "line 4: OAUTH2_TENANT: client_credentials needs one tenant; write " + tenant},
		{id + "entra\nOAUTH2_TENANT=organizations\nOAUTH2_GRANT=client_credentials", "line 4: OAUTH2_TENANT: client_credentials needs one tenant; write " + tenant},
		{id + "entra\nOAUTH2_TENANT=a\nOAUTH2_RESOURCE='urn:a urn:b'", "line 5: OAUTH2_RESOURCE: entra gives a token for one resource at a time; keep one"},
		{id + "entra\nOAUTH2_TENANT=a\nOAUTH2_RESOURCE=a", "line 5: OAUTH2_RESOURCE: is not an absolute URI without fragment (RFC 8707 section 2)"},

		{id + "auth0", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_DOMAIN, such as example.eu.auth0.com"},
		{id + "okta", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_DOMAIN, such as example.okta.com"},
		{id + "okta\nOAUTH2_DOMAIN=a\nOAUTH2_AUTHORIZATION_SERVER=b/c", "line 5: OAUTH2_AUTHORIZATION_SERVER: has a character that it cannot have; it is the server's ID, default or org"},
		{id + "forgejo", "line 3: OAUTH2_PROVIDER: this preset needs OAUTH2_DOMAIN, such as codeberg.org"},
		{id + "gitea\nOAUTH2_DOMAIN=a\nOAUTH2_GRANT=device_code", "line 5: OAUTH2_GRANT: device_code needs the device authorization endpoint; set OAUTH2_DEVICE_URL, or OAUTH2_ISSUER"},
	} {
		refuses(t, tt.text, nil, tt.want)
	}
}

// What a preset works with may stand elsewhere.
func TestPresetsFromFiles(t *testing.T) {
	const text = "CLIENT_ID=me\nCLIENT_SECRET_FILE=/s\nOAUTH2_PROVIDER_FILE=/p\nOAUTH2_TENANT_FILE=/t\nOAUTH2_RESOURCE_COMMAND=r\nOAUTH2_DOMAIN_FILE=/d\n"
	for _, checked := range []string{
		text,
		strings.Replace(text, "OAUTH2_PROVIDER_FILE=/p", "OAUTH2_PROVIDER=entra", 1),
		"CLIENT_ID=me\nOAUTH2_PROVIDER=keycloak\nOAUTH2_REALM_URL_FILE=/r\nCLIENT_SECRET=s",
		"CLIENT_ID=me\nOAUTH2_PROVIDER=okta\nOAUTH2_DOMAIN=a\nOAUTH2_AUTHORIZATION_SERVER_FILE=/r\nCLIENT_SECRET=s",
		"OAUTH2_PROVIDER=github-app\nGITHUB_APP_ID_FILE=/a\nGITHUB_INSTALLATION_FILE=/i\nPRIVATE_KEY_FILE=/k\nOAUTH2_DOMAIN_FILE=/d",
		"CLIENT_ID=me\nOAUTH2_PROVIDER=google\nPRIVATE_KEY_FILE=/k",
	} {
		if _, err := read(checked, nil); err != nil {
			t.Errorf("%q, checked only: %v", checked, err)
		}
	}
	values := map[string]string{
		"CLIENT_SECRET":   "s",
		"OAUTH2_PROVIDER": "azure",
		"OAUTH2_TENANT":   "contoso.example",
		"OAUTH2_RESOURCE": "api://x",
		"OAUTH2_DOMAIN":   "login.example",
	}
	accepts(t, text, values, func(p *Profile) {
		p.Provider = "entra"
		p.Endpoints = oauth.Endpoints{
			Token:               "https://login.example/contoso.example/oauth2/v2.0/token",
			Authorization:       "https://login.example/contoso.example/oauth2/v2.0/authorize",
			DeviceAuthorization: "https://login.example/contoso.example/oauth2/v2.0/devicecode",
		}
		p.Client = oauth.Client{ID: "me", Secret: oauth.NewSecret("s"), Auth: oauth.ClientSecretPost, TokenURL: p.Endpoints.Token}
		p.Request.Scopes = []string{"api://x/.default"}
		p.AssertionAudience = "token_endpoint"
	})
	values["OAUTH2_TENANT"] = "a b"
	refuses(t, text, values, "line 4: OAUTH2_TENANT_FILE: has a character that it cannot have; it is the tenant's ID, or a domain of it such as contoso.onmicrosoft.com")
}

// A Google service account's key file, as it is imported.
func TestGoogleServiceAccount(t *testing.T) {
	rsa := rsaKey(t)
	text := `OAUTH2_PROVIDER=google
CLIENT_ID=robot@project-1.iam.gserviceaccount.com
PRIVATE_KEY="` + rsa + `"
PRIVATE_KEY_ID=f00
OAUTH2_SCOPE='https://www.googleapis.com/auth/devstorage.read_only https://www.googleapis.com/auth/cloud-platform'
`
	for tokenURL, want := range map[string]string{
		"": "https://oauth2.googleapis.com/token",
		"OAUTH2_TOKEN_URL=https://oauth2.private.example/token\n": "https://oauth2.private.example/token",
	} {
		accepts(t, text+tokenURL, nil, func(p *Profile) {
			p.Provider = "google"
			p.Endpoints = oauth.Endpoints{Token: want}
			p.Client = oauth.Client{
				ID:       "robot@project-1.iam.gserviceaccount.com",
				Auth:     oauth.AuthNone,
				Key:      parseKey(t, rsa, "f00", "RS256"),
				TokenURL: want,
			}
			p.Request = oauth.Request{
				Grant:  oauth.GrantJWTBearer,
				Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/cloud-platform"},
			}
			p.AssertionAudience = "token_endpoint"
			p.ScopeInAssertion = true
		})
	}
}
