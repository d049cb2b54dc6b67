package profile

import (
	"testing"

	"tokend/oauth"
)

func TestGrants(t *testing.T) {
	ec := ecKey(t)
	key := parseKey(t, ec, "", "")
	const exchange = "OAUTH2_GRANT=token_exchange\n"
	const tokenType = "urn:ietf:params:oauth:token-type:"
	noSecret := func(p *Profile) { p.Client.Secret = oauth.Secret{} }
	for _, tt := range []struct {
		text        string
		interactive bool
		want        func(*Profile)
	}{
		{good, false, func(*Profile) {}},
		{public + "OAUTH2_GRANT=authorization_code\nOAUTH2_AUTH_URL=https://as.example/auth", true, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = "authorization_code"
			p.Endpoints.Authorization = "https://as.example/auth"
		}},
		{public + "OAUTH2_GRANT=authorization_code\nOAUTH2_ISSUER=https://as.example\nOAUTH2_PAR=on\nOAUTH2_REFRESH_TOKEN=r\nOAUTH2_REDIRECT_URL=http://[::1]:1", true, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = "authorization_code"
			p.Issuer = "https://as.example"
			p.PAR = On
			p.RefreshToken = oauth.NewSecret("r")
			p.RedirectURL = "http://[::1]:1"
		}},
		{good + "OAUTH2_GRANT=device_code\nOAUTH2_DEVICE_URL=https://as.example/device", true, func(p *Profile) {
			p.Request.Grant = "urn:ietf:params:oauth:grant-type:device_code"
			p.Endpoints.DeviceAuthorization = "https://as.example/device"
		}},
		{public + "OAUTH2_GRANT=refresh_token\nOAUTH2_REFRESH_TOKEN=r", false, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = "refresh_token"
			p.RefreshToken = oauth.NewSecret("r")
		}},

		{good + exchange + "OAUTH2_SUBJECT_TOKEN=s", false, func(p *Profile) {
			p.Request.Grant = "urn:ietf:params:oauth:grant-type:token-exchange"
			p.Subject = &Subject{Token: oauth.NewSecret("s"), Type: tokenType + "access_token"}
		}},
		{public + exchange + "OAUTH2_SUBJECT_TOKEN_PROFILE=dev/login\nOAUTH2_SUBJECT_TOKEN_TYPE=id_token\nOAUTH2_REQUESTED_TOKEN_TYPE=id-jag", false, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = oauth.GrantTokenExchange
			p.Subject = &Subject{Profile: "dev/login", Type: tokenType + "id_token", Requested: tokenType + "id-jag"}
		}},
		{good + exchange + "OAUTH2_SUBJECT_TOKEN=s\nOAUTH2_SUBJECT_TOKEN_TYPE=" + tokenType + "saml2\nOAUTH2_REQUESTED_TOKEN_TYPE=https://as.example/types/a", false, func(p *Profile) {
			p.Request.Grant = oauth.GrantTokenExchange
			p.Subject = &Subject{Token: oauth.NewSecret("s"), Type: tokenType + "saml2", Requested: "https://as.example/types/a"}
		}},

		// The key is the grant's, and not the client's unless that is said.
		{public + "OAUTH2_GRANT=jwt_bearer\n" + quote("PRIVATE_KEY", ec) + "OAUTH2_ASSERTION_SUBJECT=me@example.com", false, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
			p.Client.Key = key
			p.Client.Auth = oauth.AuthNone
			p.AssertionSubject = "me@example.com"
		}},
		{public + "OAUTH2_GRANT=jwt_bearer\nOAUTH2_CLIENT_AUTH=none\n" + quote("PRIVATE_KEY", ec), false, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = oauth.GrantJWTBearer
			p.Client.Key = key
			p.Client.Auth = oauth.AuthNone
		}},
		{good + "OAUTH2_GRANT=jwt_bearer\n" + quote("PRIVATE_KEY", ec), false, func(p *Profile) {
			p.Request.Grant = oauth.GrantJWTBearer
			p.Client.Key = key
			p.Client.Auth = oauth.ClientSecretBasic
		}},
		{public + "OAUTH2_GRANT=jwt_bearer\nOAUTH2_CLIENT_AUTH=private_key_jwt\n" + quote("PRIVATE_KEY", ec), false, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = oauth.GrantJWTBearer
			p.Client.Key = key
			p.Client.Auth = oauth.PrivateKeyJWT
		}},
		// The subject is the assertion, and the key the client's as ever.
		{public + "OAUTH2_GRANT=jwt_bearer\nOAUTH2_SUBJECT_TOKEN_PROFILE=dev/jag\n" + quote("PRIVATE_KEY", ec), false, func(p *Profile) {
			noSecret(p)
			p.Request.Grant = oauth.GrantJWTBearer
			p.Client.Key = key
			p.Subject = &Subject{Profile: "dev/jag", Type: tokenType + "access_token"}
		}},
		{good + "OAUTH2_GRANT=jwt_bearer\nOAUTH2_SUBJECT_TOKEN=s\nOAUTH2_SUBJECT_TOKEN_TYPE=jwt", false, func(p *Profile) {
			p.Request.Grant = oauth.GrantJWTBearer
			p.Subject = &Subject{Token: oauth.NewSecret("s"), Type: tokenType + "jwt"}
		}},
	} {
		accepts(t, tt.text, nil, tt.want)
		if p, err := read(tt.text, nil); err == nil && p.Interactive() != tt.interactive {
			t.Errorf("%q: interactive: %v", tt.text, p.Interactive())
		}
	}
	cert, certKey := certificate(t)
	accepts(t, public+"OAUTH2_GRANT=jwt_bearer\n"+quote("PRIVATE_KEY", ec)+quote("TLS_CLIENT_CERT", cert)+quote("TLS_CLIENT_KEY", certKey), nil, func(p *Profile) {
		noSecret(p)
		p.Request.Grant = oauth.GrantJWTBearer
		p.Client.Key = key
		p.Client.Auth = oauth.TLSClientAuth
		p.Client.Transport = oauth.Transport{Certificate: cert, CertificateKey: oauth.NewSecret(certKey)}
	})
}

func TestRefusesGrants(t *testing.T) {
	const either = "set OAUTH2_SUBJECT_TOKEN_PROFILE, or OAUTH2_SUBJECT_TOKEN"
	const exchangeOnly = "only token_exchange and jwt_bearer use it; set OAUTH2_GRANT=token_exchange"
	const kinds = "not a token type; it is access_token, refresh_token, id_token, jwt, saml1, saml2, id-jag or a URI"
	const notHere = "not an http URL of this machine, such as http://127.0.0.1:8400/callback"
	const login = "this parameter is sent anyway; each login makes its own"
	for _, tt := range []struct{ text, want string }{
		{public + "OAUTH2_GRANT=authorization_code", "line 3: OAUTH2_GRANT: authorization_code needs the authorization endpoint; set OAUTH2_AUTH_URL, or OAUTH2_ISSUER"},
		{public + "OAUTH2_GRANT=device_code\nOAUTH2_AUTH_URL=https://as.example/auth", "line 3: OAUTH2_GRANT: device_code needs the device authorization endpoint; set OAUTH2_DEVICE_URL, or OAUTH2_ISSUER"},
		{"CLIENT_ID=a\nOAUTH2_GRANT=device_code", "no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL"},
		{public + "OAUTH2_GRANT=refresh_token", "line 3: OAUTH2_GRANT: refresh_token needs one to begin with; set OAUTH2_REFRESH_TOKEN, OAUTH2_REFRESH_TOKEN_FILE or OAUTH2_REFRESH_TOKEN_COMMAND"},
		{good + "OAUTH2_REFRESH_TOKEN=canary", "line 4: OAUTH2_REFRESH_TOKEN: this grant needs none; set OAUTH2_GRANT=refresh_token"},
		{good + "OAUTH2_GRANT=token_exchange\nOAUTH2_SUBJECT_TOKEN=canary\nOAUTH2_REFRESH_TOKEN=canary", "line 6: OAUTH2_REFRESH_TOKEN: this grant needs none; set OAUTH2_GRANT=refresh_token"},
		{good + "OAUTH2_GRANT=token_exchange", "line 4: OAUTH2_GRANT: token_exchange needs a token to exchange; " + either},
		{good + "OAUTH2_GRANT=token_exchange\nOAUTH2_SUBJECT_TOKEN_TYPE=jwt", "line 4: OAUTH2_GRANT: token_exchange needs a token to exchange; " + either},
		{good + "OAUTH2_GRANT=token_exchange\nOAUTH2_SUBJECT_TOKEN=canary\nOAUTH2_SUBJECT_TOKEN_PROFILE=a", "line 6: OAUTH2_SUBJECT_TOKEN_PROFILE: stands beside OAUTH2_SUBJECT_TOKEN in line 5; keep one of the two"},
		{good + "OAUTH2_GRANT=token_exchange\nOAUTH2_SUBJECT_TOKEN=canary\nOAUTH2_SUBJECT_TOKEN_TYPE=opaque\nOAUTH2_REQUESTED_TOKEN_TYPE=/x", "line 6: OAUTH2_SUBJECT_TOKEN_TYPE: " + kinds + "; line 7: OAUTH2_REQUESTED_TOKEN_TYPE: " + kinds},
		{good + "OAUTH2_GRANT=jwt_bearer", "line 4: OAUTH2_GRANT: jwt_bearer needs an assertion; set PRIVATE_KEY, which signs one, or OAUTH2_SUBJECT_TOKEN_PROFILE or OAUTH2_SUBJECT_TOKEN, which is one"},
		{good + "OAUTH2_GRANT=jwt_bearer\nOAUTH2_SUBJECT_TOKEN=canary\nOAUTH2_REQUESTED_TOKEN_TYPE=jwt\nOAUTH2_ASSERTION_SUBJECT=a", "line 6: OAUTH2_REQUESTED_TOKEN_TYPE: only token_exchange can ask for a type; line 7: OAUTH2_ASSERTION_SUBJECT: only the assertion that jwt_bearer signs has a subject of its own; set OAUTH2_GRANT=jwt_bearer and PRIVATE_KEY"},
		{good + "OAUTH2_GRANT=jwt_bearer\nPRIVATE_KEY_FILE=/k\nOAUTH2_SUBJECT_TOKEN_TYPE=jwt", "line 6: OAUTH2_SUBJECT_TOKEN_TYPE: there is no token that it could be about; " + either},
		{good + "OAUTH2_SUBJECT_TOKEN=canary\nOAUTH2_SUBJECT_TOKEN_PROFILE=a\nOAUTH2_SUBJECT_TOKEN_TYPE=b\nOAUTH2_REQUESTED_TOKEN_TYPE=c",
			"line 4: OAUTH2_SUBJECT_TOKEN: " + exchangeOnly + "; line 5: OAUTH2_SUBJECT_TOKEN_PROFILE: " + exchangeOnly + "; line 6: OAUTH2_SUBJECT_TOKEN_TYPE: " + exchangeOnly + "; line 7: OAUTH2_REQUESTED_TOKEN_TYPE: " + exchangeOnly},
		{public + "OAUTH2_GRANT=authorization_code\nOAUTH2_AUTH_URL=https://as.example/\nOAUTH2_PAR=on", "line 5: OAUTH2_PAR: only metadata name the endpoint (RFC 9126 section 5); set OAUTH2_ISSUER"},

		{good + "OAUTH2_REDIRECT_URL=https://localhost:1/cb", "line 4: OAUTH2_REDIRECT_URL: " + notHere},
		{good + "OAUTH2_REDIRECT_URL=https://app.example/cb", "line 4: OAUTH2_REDIRECT_URL: " + notHere},
		{good + "OAUTH2_REDIRECT_URL=http://127.0.0.2:1/cb", "line 4: OAUTH2_REDIRECT_URL: " + notHere},
		{good + "OAUTH2_REDIRECT_URL=http://app.example/cb", `line 4: OAUTH2_REDIRECT_URL: is plain http to "app.example"; only loopback may be plain, all else must be https`},
		{good + "OAUTH2_REDIRECT_URL=http://127.0.0.1:0/cb", "line 4: OAUTH2_REDIRECT_URL: has a port that is not between 1 and 65535"},
		{good + "OAUTH2_REDIRECT_URL=http://localhost/cb", "line 4: OAUTH2_REDIRECT_URL: has no port to listen on; write the one that is registered, such as http://127.0.0.1:8400/callback"},
		{good + "OAUTH2_REDIRECT_URL=http://localhost:1/cb?a=b", "line 4: OAUTH2_REDIRECT_URL: has a query; write it without, such as http://127.0.0.1:8400/callback"},
		{good + "OAUTH2_REDIRECT_URI=a", "line 4: OAUTH2_REDIRECT_URI: no such variable; did you mean OAUTH2_REDIRECT_URL?"},
		{good + "OAUTH2_GRANT_TYPE=a", "line 4: OAUTH2_GRANT_TYPE: no such variable; did you mean OAUTH2_GRANT?"},

		{good + "OAUTH2_EXTRA_assertion=canary", "line 4: OAUTH2_EXTRA_assertion: this parameter is sent anyway; use OAUTH2_SUBJECT_TOKEN with OAUTH2_GRANT=jwt_bearer"},
		{good + "OAUTH2_EXTRA_client_assertion=canary", "line 4: OAUTH2_EXTRA_client_assertion: this parameter is sent anyway; use PRIVATE_KEY"},
		{good + "OAUTH2_EXTRA_redirect_uri=canary", "line 4: OAUTH2_EXTRA_redirect_uri: this parameter is sent anyway; use OAUTH2_REDIRECT_URL"},
		{good + "OAUTH2_EXTRA_state=canary", "line 4: OAUTH2_EXTRA_state: " + login},
		{good + "OAUTH2_EXTRA_code_verifier=canary", "line 4: OAUTH2_EXTRA_code_verifier: " + login},
	} {
		refuses(t, tt.text, nil, tt.want)
	}
	// What a grant needs is not missed where the grant stands elsewhere.
	for _, text := range []string{
		public + "OAUTH2_GRANT_FILE=/g",
		good + "OAUTH2_GRANT_FILE=/g\nOAUTH2_SUBJECT_TOKEN=s\nOAUTH2_REFRESH_TOKEN=r\nOAUTH2_PAR=on\nPRIVATE_KEY_FILE=/k\nOAUTH2_ASSERTION_SUBJECT=a",
	} {
		if _, err := read(text, nil); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	refuses(t, good+"OAUTH2_GRANT_FILE=/g", map[string]string{"OAUTH2_GRANT": "token_exchange"},
		"line 4: OAUTH2_GRANT_FILE: token_exchange needs a token to exchange; "+either)
}
