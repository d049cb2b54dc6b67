package authserver

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func publicKeys(keys ...jose.JSONWebKey) jose.JSONWebKeySet { return jose.JSONWebKeySet{Keys: keys} }

func TestPrivateKeyJWT(t *testing.T) {
	for _, alg := range signatureAlgorithms {
		t.Run(string(alg), func(t *testing.T) {
			key, foreign := keyFor(t, alg), keyFor(t, alg)
			s := Start(t, Config{Clients: []Client{
				{ID: "issuer", Auth: AuthPrivateKeyJWT, JWKS: publicKeys(jose.JSONWebKey{Key: foreign.Public()}, jose.JSONWebKey{Key: key.Public()})},
				{ID: "token", Auth: AuthPrivateKeyJWT, JWKS: publicKeys(jose.JSONWebKey{Key: key.Public(), KeyID: "k"}), TokenAudience: true},
			}})
			for id, audience := range map[string]string{"issuer": s.Issuer, "token": s.TokenURL} {
				now := time.Now()
				claims := map[string]any{
					"iss": id, "sub": id, "aud": audience, "jti": id, "iat": now.Unix(), "exp": from(now, time.Minute),
				}
				form := url.Values{
					"grant_type": {"client_credentials"}, "client_assertion_type": {jwtBearerAssertion},
					"client_assertion": {signJWT(t, alg, key, nil, claims)},
				}
				wantTokens(t, sendForm(t, s, "/token", "", form))
				wantError(t, "replay", sendForm(t, s, "/token", "", form), 400, "invalid_client")
				if got := s.Requests(); got[len(got)-1].Client != id {
					t.Errorf("the log has it from %q", got[len(got)-1].Client)
				}
			}
		})
	}
}

func TestClientAssertionRefusals(t *testing.T) {
	key, foreign := keyFor(t, jose.ES256), keyFor(t, jose.ES256)
	long := secret + secret + secret + secret + secret + secret
	s := Start(t, Config{Clients: []Client{
		{ID: "key", Auth: AuthPrivateKeyJWT, JWKS: publicKeys(jose.JSONWebKey{Key: key.Public(), KeyID: "k"})},
		{ID: "hmac", Secret: long, Auth: AuthSecretJWT},
		dev,
	}})
	now := time.Now()
	n := 0
	claimsFor := func(id string) map[string]any {
		n++
		return map[string]any{
			"iss": id, "sub": id, "aud": s.Issuer, "jti": fmt.Sprint(n), "iat": now.Unix(), "exp": from(now, time.Minute),
		}
	}
	request := func(assertion string) url.Values {
		return url.Values{
			"grant_type": {"client_credentials"}, "client_assertion_type": {jwtBearerAssertion}, "client_assertion": {assertion},
		}
	}
	wantTokens(t, sendForm(t, s, "/token", "", request(signJWT(t, jose.ES256, key, nil, claimsFor("key")))))
	wantTokens(t, sendForm(t, s, "/token", "", request(signJWT(t, jose.HS256, []byte(long), nil, claimsFor("hmac")))))
	for _, change := range []map[string]any{
		{"iss": "dev"},
		{"iss": nil},
		{"sub": "dev"},
		{"aud": nil},
		{"aud": s.TokenURL},
		{"aud": s.Issuer + "/"},
		{"aud": []string{s.Issuer, s.TokenURL}},
		{"jti": nil},
		{"iat": nil},
		{"iat": from(now, time.Minute)},
		{"nbf": from(now, time.Minute)},
		{"exp": nil},
		{"exp": now.Unix() - 1},
		{"exp": from(now, 6*time.Minute)},
	} {
		assertion := signJWT(t, jose.ES256, key, nil, changed(claimsFor("key"), change))
		form := request(assertion)
		form.Set("client_id", "key")
		wantError(t, fmt.Sprint(change), sendForm(t, s, "/token", "", form), 400, "invalid_client")
	}
	for name, assertion := range map[string]string{
		"foreign key":                     signJWT(t, jose.ES256, foreign, nil, claimsFor("key")),
		"another kid":                     signJWT(t, jose.ES256, key, map[jose.HeaderKey]any{"kid": "other"}, claimsFor("key")),
		"HMAC with the wrong secret":      signJWT(t, jose.HS256, []byte(long+"x"), nil, claimsFor("hmac")),
		"HMAC for a client with keys":     signJWT(t, jose.HS256, []byte(long), nil, claimsFor("key")),
		"a key for a client with secret":  signJWT(t, jose.ES256, key, nil, claimsFor("hmac")),
		"a secret that is sent otherwise": signJWT(t, jose.ES256, key, nil, claimsFor("dev")),
		"an unknown client":               signJWT(t, jose.ES256, key, nil, claimsFor("nobody")),
		"no JWT":                          "x",
		"nothing":                         "",
		"alg none":                        "eyJhbGciOiJub25lIn0." + "e30" + ".",
	} {
		form := request(assertion)
		form.Set("client_assertion", assertion)
		wantError(t, name, sendForm(t, s, "/token", "", form), 400, "invalid_client")
	}

	good := signJWT(t, jose.ES256, key, nil, claimsFor("key"))
	wantError(t, "another type", sendForm(t, s, "/token", "", with(request(good), map[string]string{"client_assertion_type": "x"})), 400, "invalid_client")
	wantError(t, "and a secret", sendForm(t, s, "/token", "", with(request(good), map[string]string{"client_secret": secret})), 400, "invalid_request")
	wantError(t, "and Basic", sendForm(t, s, "/token", basic("dev", secret), request(good)), 400, "invalid_request")
	wantError(t, "for another client_id", sendForm(t, s, "/token", "", with(request(good), map[string]string{"client_id": "hmac"})), 400, "invalid_client")
	// None of these has spent it.
	wantTokens(t, sendForm(t, s, "/token", "", request(good)))
}

func TestPublicClients(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}}
	wantError(t, "client_credentials", sendForm(t, s, "/token", "", form), 400, "unauthorized_client")
	wantError(t, "with a secret", sendForm(t, s, "/token", "", with(form, map[string]string{"client_secret": secret})), 400, "invalid_client")
	wantError(t, "by Basic", sendForm(t, s, "/token", basic("app", ""), form), 401, "invalid_client")
	wantError(t, "introspection", sendForm(t, s, "/introspect", "", url.Values{"client_id": {"app"}, "token": {"x"}}), 401, "invalid_client")
}

func TestJWTBearer(t *testing.T) {
	key, foreign := keyFor(t, jose.ES256), keyFor(t, jose.ES256)
	issuer := func(name string, key any) AssertionIssuer {
		return AssertionIssuer{Issuer: name, JWKS: publicKeys(jose.JSONWebKey{Key: key})}
	}
	s := Start(t, Config{
		Clients: []Client{{ID: "dev", Secret: secret, Scope: "read"}},
		Issuers: []AssertionIssuer{issuer("https://else.example", foreign.Public()), issuer("https://idp.example", key.Public())},
	})
	now := time.Now()
	n := 0
	request := func(key any, change map[string]any) url.Values {
		n++
		claims := changed(map[string]any{
			"iss": "https://idp.example", "sub": "bob", "aud": s.TokenURL, "jti": fmt.Sprint(n),
			"iat": now.Unix(), "exp": from(now, time.Hour-time.Minute),
		}, change)
		return url.Values{"grant_type": {grantJWT}, "assertion": {signJWT(t, jose.ES256, key, nil, claims)}}
	}
	for _, tt := range []struct {
		authorization, client, scope string
		change                       map[string]any
	}{
		{"", "https://idp.example", "", nil}, // RFC 7523 3.1: without client
		{"", "https://idp.example", "", map[string]any{"aud": s.Issuer, "jti": nil}},
		{basic("dev", secret), "dev", "read", nil},
	} {
		got := wantTokens(t, sendForm(t, s, "/token", tt.authorization, request(key, tt.change)))
		c := claimsOf(t, got.Access)
		if c["sub"] != "bob" || c["client_id"] != tt.client || got.Scope != tt.scope || got.Refresh != "" {
			t.Errorf("%+v %v", got, c)
		}
	}
	for _, change := range []map[string]any{
		{"iss": "https://else.example"}, {"iss": "https://nobody.example"}, {"iss": nil}, {"sub": nil},
		{"aud": "https://else.example"}, {"aud": nil}, {"exp": nil}, {"exp": now.Unix() - 1}, {"exp": from(now, 2*time.Hour)},
		{"iat": from(now, time.Minute)}, {"nbf": from(now, time.Minute)},
	} {
		wantError(t, fmt.Sprint(change), sendForm(t, s, "/token", "", request(key, change)), 400, "invalid_grant")
	}
	once := request(key, nil)
	wantTokens(t, sendForm(t, s, "/token", "", once))
	wantError(t, "replay", sendForm(t, s, "/token", "", once), 400, "invalid_grant")
	wantError(t, "foreign key", sendForm(t, s, "/token", "", request(foreign, nil)), 400, "invalid_grant")
	wantError(t, "no assertion", sendForm(t, s, "/token", "", url.Values{"grant_type": {grantJWT}}), 400, "invalid_request")
	wantError(t, "wrong secret", sendForm(t, s, "/token", basic("dev", "x"), request(key, nil)), 401, "invalid_client")
	wantError(t, "too much", sendForm(t, s, "/token", basic("dev", secret), with(request(key, nil), map[string]string{"scope": "write"})), 400, "invalid_scope")
	m := send(s, get(t, s.Issuer+"/.well-known/oauth-authorization-server", "")).json(t)
	if grants := m["grant_types_supported"].([]any); grants[len(grants)-1] != grantJWT {
		t.Error(grants)
	}
}

func TestTokenExchange(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev, app}})
	wide := with(authorizationOf("app"), map[string]string{"scope": "read write"})
	subject := wantTokens(t, sendForm(t, s, "/token", "", redemption("app", consent(t, s, wide).Get("code"))))
	acting := accessToken(t, tokenRequest(t, s))
	request := url.Values{
		"grant_type": {grantExchange}, "subject_token": {subject.Access}, "subject_token_type": {accessTokenType},
	}
	full := with(request, map[string]string{
		"requested_token_type": accessTokenType, "actor_token": acting, "actor_token_type": accessTokenType,
		"scope": "read", "audience": "api",
	})
	got := wantTokens(t, sendForm(t, s, "/token", basic("dev", secret), full))
	c := claimsOf(t, got.Access)
	if got.Kind != accessTokenType || got.Scope != "read" || got.Refresh != "" || c["sub"] != Subject || c["client_id"] != "dev" ||
		fmt.Sprint(c["act"]) != "map[sub:dev]" || fmt.Sprint(c["aud"]) != "[api]" {
		t.Errorf("%+v %v", got, c)
	}
	if got := wantTokens(t, sendForm(t, s, "/token", basic("dev", secret), request)); got.Scope != "read write" || !isLive(t, s, got.Access) {
		t.Errorf("%+v", got)
	}
	for _, tt := range []struct {
		change map[string]string
		code   string
	}{
		{map[string]string{"subject_token": ""}, "invalid_request"},
		{map[string]string{"subject_token": "guess"}, "invalid_request"},
		{map[string]string{"subject_token": subject.Refresh}, "invalid_request"},
		{map[string]string{"subject_token_type": ""}, "invalid_request"},
		{map[string]string{"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"},
		{map[string]string{"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
		{map[string]string{"actor_token": ""}, "invalid_request"},
		{map[string]string{"actor_token": "guess"}, "invalid_request"},
		{map[string]string{"actor_token_type": "x"}, "invalid_request"},
		{map[string]string{"scope": "admin"}, "invalid_scope"},
		{map[string]string{"resource": "api"}, "invalid_target"},
	} {
		wantError(t, fmt.Sprint(tt.change), sendForm(t, s, "/token", basic("dev", secret), with(full, tt.change)), 400, tt.code)
	}
	// A subject token that was revoked is no living one.
	sendForm(t, s, "/revoke", "", url.Values{"client_id": {"app"}, "token": {subject.Refresh}})
	wantError(t, "revoked", sendForm(t, s, "/token", basic("dev", secret), request), 400, "invalid_request")
}
