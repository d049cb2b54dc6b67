package world

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	jwtBearer       = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	tokenExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessTokenType = "urn:ietf:params:oauth:token-type:access_token"
	idJAG           = "urn:ietf:params:oauth:token-type:id-jag"
)

// refusal is what an answer says besides a token.
type refusal struct {
	Status int
	Error  string
}

func refused(resp *http.Response, got map[string]any) refusal {
	said, _ := got["error"].(string)
	return refusal{resp.StatusCode, said}
}

func TestServiceAccount(t *testing.T) {
	p := provider
	data, err := os.ReadFile(p.ServiceAccountFile)
	if err != nil {
		t.Fatal(err)
	}
	var account map[string]string
	if err := json.Unmarshal(data, &account); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"type": "service_account", "project_id": "test-world", "client_id": "104857600000000000001",
		"client_email": "robot@test-world.iam.gserviceaccount.com", "token_uri": p.Issuer + "/google/token",
		"auth_uri":                    "https://accounts.google.com/o/oauth2/auth",
		"auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
		"client_x509_cert_url":        "https://www.googleapis.com/robot/v1/metadata/x509/robot%40test-world.iam.gserviceaccount.com",
		"universe_domain":             "googleapis.com",
		"private_key":                 account["private_key"], "private_key_id": account["private_key_id"],
	}
	if diff := cmp.Diff(want, account); diff != "" {
		t.Fatal(diff)
	}
	key := parse(t, []byte(account["private_key"]))
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const scope = "https://www.googleapis.com/auth/cloud-platform"
	header := claims{"alg": "RS256", "typ": "JWT", "kid": account["private_key_id"]}
	body := claims{"iss": account["client_email"], "scope": scope, "aud": account["token_uri"], "iat": in(0), "exp": in(time.Hour)}
	ask := func(t *testing.T, form url.Values) (*http.Response, map[string]any) {
		t.Helper()
		return send(t, "POST", account["token_uri"], "", form.Encode(), nil)
	}
	bearer := func(jwt string) url.Values { return url.Values{"grant_type": {jwtBearer}, "assertion": {jwt}} }

	for sub, change := range map[string]claims{account["client_email"]: {}, "alice@example.com": {"sub": "alice@example.com", "jti": "once"}} {
		t.Run("for "+sub, func(t *testing.T) {
			jwt := sign(t, key, header, with(body, change))
			resp, got := ask(t, bearer(jwt))
			if resp.StatusCode != 200 {
				t.Fatalf("%d %v", resp.StatusCode, got)
			}
			said, err := p.Introspect(t.Context(), got["access_token"].(string))
			if err != nil || said["active"] != true || said["sub"] != sub || said["scope"] != scope || said["iss"] != p.Issuer {
				t.Errorf("%v %v", said, err)
			}
			delete(got, "access_token")
			if diff := cmp.Diff(claims{"token_type": "Bearer", "expires_in": 600.0, "scope": scope}, got); diff != "" {
				t.Error(diff)
			}
			want := refusal{Status: 200}
			if change["jti"] != nil {
				want = refusal{400, "invalid_grant"}
			}
			if got := refused(ask(t, bearer(jwt))); got != want {
				t.Errorf("again: %v", got)
			}
		})
	}

	hmacKey := []byte(account["private_key"])
	for _, tt := range []struct {
		name string
		form url.Values
		want refusal
	}{
		{"wrong key", bearer(sign(t, stranger, header, body)), refusal{400, "invalid_grant"}},
		{"no signature", bearer(sign(t, nil, with(header, claims{"alg": "none"}), body)), refusal{400, "invalid_grant"}},
		{"HMAC", bearer(sign(t, hmacKey, with(header, claims{"alg": "HS256"}), body)), refusal{400, "invalid_grant"}},
		{"PS256", bearer(sign(t, key, with(header, claims{"alg": "PS256"}), body)), refusal{400, "invalid_grant"}},
		{"unknown kid", bearer(sign(t, key, with(header, claims{"kid": "another"}), body)), refusal{400, "invalid_grant"}},
		{"no kid", bearer(sign(t, key, with(header, claims{"kid": nil}), body)), refusal{400, "invalid_grant"}},
		{"wrong iss", bearer(sign(t, key, header, with(body, claims{"iss": "other@test-world.iam.gserviceaccount.com"}))), refusal{400, "invalid_grant"}},
		{"aud is the issuer", bearer(sign(t, key, header, with(body, claims{"aud": p.Issuer}))), refusal{400, "invalid_grant"}},
		{"aud is a list", bearer(sign(t, key, header, with(body, claims{"aud": []string{account["token_uri"]}}))), refusal{400, "invalid_grant"}},
		{"no aud", bearer(sign(t, key, header, with(body, claims{"aud": nil}))), refusal{400, "invalid_grant"}},
		{"expired", bearer(sign(t, key, header, with(body, claims{"iat": in(-time.Hour), "exp": in(-time.Second)}))), refusal{400, "invalid_grant"}},
		{"for over an hour", bearer(sign(t, key, header, with(body, claims{"exp": in(time.Hour + 10*time.Second)}))), refusal{400, "invalid_grant"}},
		{"from the future", bearer(sign(t, key, header, with(body, claims{"iat": in(2 * time.Minute)}))), refusal{400, "invalid_grant"}},
		{"no iat", bearer(sign(t, key, header, with(body, claims{"iat": nil}))), refusal{400, "invalid_grant"}},
		{"no exp", bearer(sign(t, key, header, with(body, claims{"exp": nil}))), refusal{400, "invalid_grant"}},
		{"no scope", bearer(sign(t, key, header, with(body, claims{"scope": nil}))), refusal{400, "invalid_scope"}},
		{"scope in the form only", url.Values{"grant_type": {jwtBearer}, "scope": {scope}, "assertion": {sign(t, key, header, with(body, claims{"scope": nil}))}}, refusal{400, "invalid_scope"}},
		{"unknown scope", bearer(sign(t, key, header, with(body, claims{"scope": scope + " nope"}))), refusal{400, "invalid_scope"}},
		{"for a stranger", bearer(sign(t, key, header, with(body, claims{"sub": "bob@example.com"}))), refusal{400, "unauthorized_client"}},
		{"not a JWT", bearer("a.b"), refusal{400, "invalid_grant"}},
		{"no assertion", url.Values{"grant_type": {jwtBearer}}, refusal{400, "invalid_request"}},
		{"another grant", url.Values{"grant_type": {"client_credentials"}}, refusal{400, "unsupported_grant_type"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := refused(ask(t, tt.form)); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
	t.Run("not a form", func(t *testing.T) {
		form := bearer(sign(t, key, header, body)).Encode()
		got := refused(exchange(t, "POST", account["token_uri"], http.Header{"Content-Type": {"text/plain"}}, form, nil))
		if got != (refusal{400, "invalid_request"}) {
			t.Error(got)
		}
	})
}

func TestJWTBearer(t *testing.T) {
	p := provider
	ask := func(t *testing.T, jwt, scope string) (*http.Response, map[string]any) {
		t.Helper()
		return post(t, p, p.Issuer, "/token", "bearer", url.Values{"grant_type": {jwtBearer}, "assertion": {jwt}, "scope": {scope}})
	}
	body := func(change claims) claims {
		return with(claims{"iss": "bearer", "sub": "carol", "aud": p.Issuer, "jti": rand.Text(), "iat": in(0), "exp": in(time.Minute)}, change)
	}
	for alg, key := range p.Keys {
		for _, aud := range []string{p.Issuer, p.Issuer + "/token"} {
			t.Run(alg+" "+aud, func(t *testing.T) {
				jwt := sign(t, load(t, key.PKCS8), claims{"alg": alg, "kid": key.ID}, body(claims{"aud": aud}))
				resp, got := ask(t, jwt, "read")
				if resp.StatusCode != 200 {
					t.Fatalf("%d %v", resp.StatusCode, got)
				}
				said, err := p.Introspect(t.Context(), got["access_token"].(string))
				if err != nil || said["sub"] != "carol" || said["client_id"] != "bearer" || said["scope"] != "read" {
					t.Errorf("%v %v", said, err)
				}
				if got := refused(ask(t, jwt, "read")); got != (refusal{400, "invalid_grant"}) {
					t.Errorf("again: %v", got)
				}
			})
		}
	}
	es256, rs256 := load(t, p.Keys["ES256"].PKCS8), load(t, p.Keys["RS256"].PKCS8)
	header := claims{"alg": "ES256", "kid": "es256"}
	for _, tt := range []struct {
		name, jwt, scope string
		want             refusal
	}{
		{"another key's kid", sign(t, rs256, claims{"alg": "RS256", "kid": "ps256"}, body(nil)), "read", refusal{400, "invalid_grant"}},
		{"unknown kid", sign(t, es256, with(header, claims{"kid": "another"}), body(nil)), "read", refusal{400, "invalid_grant"}},
		{"wrong iss", sign(t, es256, header, body(claims{"iss": "native"})), "read", refusal{400, "invalid_grant"}},
		{"wrong aud", sign(t, es256, header, body(claims{"aud": "https://other.example"})), "read", refusal{400, "invalid_grant"}},
		{"expired", sign(t, es256, header, body(claims{"iat": in(-time.Hour), "exp": in(-time.Second)})), "read", refusal{400, "invalid_grant"}},
		{"no sub", sign(t, es256, header, body(claims{"sub": nil})), "read", refusal{400, "invalid_grant"}},
		{"no assertion", "", "read", refusal{400, "invalid_request"}},
		{"scope it may not have", sign(t, es256, header, body(nil)), "read admin", refusal{400, "invalid_scope"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := refused(ask(t, tt.jwt, tt.scope)); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestTokenExchange(t *testing.T) {
	p := provider
	const redirectURI = "http://127.0.0.1:51234/callback"
	users := func(t *testing.T, resource string) string {
		t.Helper()
		form := request("native", redirectURI)
		if resource != "" {
			form.Set("resource", resource)
		}
		_, answer := login(t, p, p.Issuer+"/auth?"+form.Encode(), "alice")
		_, got := post(t, p, p.Issuer, "/token", "native", redeem(answer.Get("code"), redirectURI))
		return got["access_token"].(string)
	}
	clients := func(t *testing.T, issuer, rest string) string {
		t.Helper()
		_, got := send(t, "POST", issuer+"/token", basic("cc-basic", p.Secrets["cc-basic"]), grant+"&scope=read"+rest, authority(t, p))
		return got["access_token"].(string)
	}
	ask := func(t *testing.T, subject string, change url.Values) (*http.Response, map[string]any) {
		t.Helper()
		form := url.Values{"grant_type": {tokenExchange}, "subject_token": {subject}, "subject_token_type": {accessTokenType}}
		for name, values := range change {
			form[name] = values
		}
		return post(t, p, p.Issuer, "/token", "exchange", form)
	}
	user := users(t, "")
	client := clients(t, p.Issuer, "")

	for _, tt := range []struct {
		name, subject string
		form          url.Values
		want          claims // of the introspected token
	}{
		{"a user's", user, url.Values{"scope": {"read"}}, claims{"sub": "alice", "scope": "read"}},
		{"a user's JWT", users(t, "https://api.example/jwt"), nil, claims{"sub": "alice", "scope": "read"}},
		{"a client's", client, nil, claims{"sub": "cc-basic", "scope": "read"}},
		{"for an audience", client, url.Values{"audience": {"billing"}, "requested_token_type": {accessTokenType}}, claims{"sub": "cc-basic", "scope": "read", "aud": "billing"}},
		{"for a resource", client, url.Values{"resource": {"https://api.example/opaque"}}, claims{"sub": "cc-basic", "scope": "read", "aud": "https://api.example/opaque"}},
		{"with an actor", user, url.Values{"scope": {"read"}, "actor_token": {client}, "actor_token_type": {accessTokenType}},
			claims{"sub": "alice", "scope": "read", "act": claims{"sub": "cc-basic"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, got := ask(t, tt.subject, tt.form)
			if resp.StatusCode != 200 || got["issued_token_type"] != accessTokenType || got["token_type"] != "Bearer" || got["scope"] != tt.want["scope"] {
				t.Fatalf("%d %v", resp.StatusCode, got)
			}
			said, err := p.Introspect(t.Context(), got["access_token"].(string))
			if err != nil {
				t.Fatal(err)
			}
			want := with(tt.want, claims{"active": true, "client_id": "exchange", "iss": p.Issuer, "token_type": "Bearer", "iat": said["iat"], "exp": said["exp"]})
			if diff := cmp.Diff(want, said); diff != "" {
				t.Error(diff)
			}
		})
	}

	t.Run("ID-JAG", func(t *testing.T) {
		resp, got := ask(t, user, url.Values{"requested_token_type": {idJAG}, "audience": {"https://other.example"}, "scope": {"read"}})
		if resp.StatusCode != 200 || got["issued_token_type"] != idJAG || got["token_type"] != "N_A" || got["expires_in"] != 300.0 {
			t.Fatalf("%d %v", resp.StatusCode, got)
		}
		c := verify(t, p.Issuer, got["access_token"].(string), "oauth-id-jag+jwt")
		if c["exp"].(float64)-c["iat"].(float64) != 300 || c["jti"] == "" {
			t.Errorf("%v", c)
		}
		want := claims{"iss": p.Issuer, "sub": "alice", "aud": "https://other.example", "client_id": "exchange", "scope": "read"}
		if diff := cmp.Diff(want, with(c, claims{"exp": nil, "iat": nil, "jti": nil})); diff != "" {
			t.Error(diff)
		}
	})

	revoked := clients(t, p.Issuer, "")
	if resp, _ := post(t, p, p.Issuer, "/token/revocation", "cc-basic", url.Values{"token": {revoked}}); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	jwt := users(t, "https://api.example/jwt")
	_, answer := login(t, p, p.Issuer+"/auth?"+request("native", redirectURI).Encode(), "alice")
	_, withID := post(t, p, p.Issuer, "/token", "native", redeem(answer.Get("code"), redirectURI))
	dpopKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bound := func(t *testing.T, rest string) string {
		t.Helper()
		header := http.Header{
			"Content-Type":  {"application/x-www-form-urlencoded"},
			"Authorization": {basic("cc-dpop", p.Secrets["cc-dpop"])},
			"Dpop":          {proof(t, dpopKey, p.Issuer+"/token", "")},
		}
		_, got := exchange(t, "POST", p.Issuer+"/token", header, grant+"&scope=read"+rest, nil)
		return got["access_token"].(string)
	}
	for _, tt := range []struct {
		name, subject string
		form          url.Values
		want          refusal
	}{
		{"no subject", "", nil, refusal{400, "invalid_request"}},
		{"never issued", "never-issued", nil, refusal{400, "invalid_request"}},
		{"revoked", revoked, nil, refusal{400, "invalid_request"}},
		{"of the other issuer", clients(t, p.TLSIssuer, ""), nil, refusal{400, "invalid_request"}},
		{"a JWT of the other issuer", clients(t, p.TLSIssuer, "&resource=https://api.example/jwt"), nil, refusal{400, "invalid_request"}},
		{"a JWT that was changed", jwt[:len(jwt)-8] + "AAAAAAAA", nil, refusal{400, "invalid_request"}},
		{"an ID token", withID["id_token"].(string), nil, refusal{400, "invalid_request"}},
		{"bound to a key", bound(t, ""), nil, refusal{400, "invalid_request"}},
		{"a JWT bound to a key", bound(t, "&resource=https://api.example/jwt"), nil, refusal{400, "invalid_request"}},
		{"no type", client, url.Values{"subject_token_type": nil}, refusal{400, "invalid_request"}},
		{"another type", client, url.Values{"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"}}, refusal{400, "invalid_request"}},
		{"asking for another type", client, url.Values{"requested_token_type": {"urn:ietf:params:oauth:token-type:saml2"}}, refusal{400, "invalid_request"}},
		{"unknown audience", client, url.Values{"audience": {"nobody"}}, refusal{400, "invalid_target"}},
		{"unknown resource", client, url.Values{"resource": {"https://unknown.example"}}, refusal{400, "invalid_target"}},
		{"two audiences", client, url.Values{"audience": {"billing", "https://other.example"}}, refusal{400, "invalid_target"}},
		{"more scope", client, url.Values{"scope": {"read write"}}, refusal{400, "invalid_scope"}},
		{"actor without type", client, url.Values{"actor_token": {client}}, refusal{400, "invalid_request"}},
		{"type without actor", client, url.Values{"actor_token_type": {accessTokenType}}, refusal{400, "invalid_request"}},
		{"actor never issued", client, url.Values{"actor_token": {"never-issued"}, "actor_token_type": {accessTokenType}}, refusal{400, "invalid_request"}},
		{"ID-JAG for nobody", client, url.Values{"requested_token_type": {idJAG}}, refusal{400, "invalid_request"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := refused(ask(t, tt.subject, tt.form)); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
	t.Run("by a client that may not", func(t *testing.T) {
		form := url.Values{"grant_type": {tokenExchange}, "subject_token": {client}, "subject_token_type": {accessTokenType}}
		if got := refused(post(t, p, p.Issuer, "/token", "cc-basic", form)); got != (refusal{400, "invalid_request"}) {
			t.Error(got)
		}
	})
}
