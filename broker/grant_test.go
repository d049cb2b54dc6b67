package broker_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/internal/envfile"
	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
	"tokend/test/authserver"
)

// signingKey makes a key: a private JWK for a text, and its public half for a
// server.
func signingKey(t *testing.T) (private string, public jose.JSONWebKeySet) {
	t.Helper()
	key, err := oauth.NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON([]byte(key.JWK().Reveal())); err != nil {
		t.Fatal(err)
	}
	return key.JWK().Reveal(), jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk.Public()}}
}

// lines writes a text of names and values.
func lines(pairs ...string) string {
	var vars []envfile.Var
	for pair := range slices.Chunk(pairs, 2) {
		vars = append(vars, envfile.Var{Name: pair[0], Value: pair[1]})
	}
	return string(profile.Format(vars))
}

// claimsOf reads the claims of a JWT; times are checked and left out.
func claimsOf(t *testing.T, jwt string, life time.Duration) map[string]any {
	t.Helper()
	claims, ok := oauth.JWTClaims(jwt)
	if !ok {
		t.Fatalf("%q is no JWT", jwt)
	}
	number := func(name string) int64 {
		n, ok := claims[name].(json.Number)
		if !ok {
			t.Fatalf("%s is %v", name, claims[name])
		}
		i, err := n.Int64()
		if err != nil {
			t.Fatal(err)
		}
		delete(claims, name)
		return i
	}
	iat, exp := number("iat"), number("exp")
	if time.Duration(exp-iat)*time.Second != life {
		t.Errorf("it is good for %d s", exp-iat)
	}
	if age := time.Now().Unix() - iat; age < 0 || age > 100 {
		t.Errorf("it is %d s old", age)
	}
	return claims
}

// A refresh token that comes with client credentials (RFC 6749 section 4.4.3
// says that none should) saves a use of the secret, and nothing else.
func TestClientCredentialsWithRefreshToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.text("OAUTH2_SCOPE=read"))
	grants := func() []string {
		var list []string
		for _, r := range h.server.Requests() {
			list = append(list, r.Form.Get("grant_type"))
		}
		return list
	}
	h.get(t, plain)
	for range 2 {
		h.fresh()
		h.get(t, plain)
	}
	h.fresh()
	h.server.AnyClient().Then(authserver.Answer{Error: "invalid_grant"})
	h.get(t, plain)
	h.fresh()
	h.server.AnyClient().Then(failing)
	h.wantRefused(t, plain, 500, time.Second)
	h.fresh()
	h.get(t, plain)
	h.restart()
	h.get(t, plain)
	want := []string{
		"client_credentials", "refresh_token", "refresh_token", // rotated each time
		"refresh_token", "client_credentials", // dropped
		"refresh_token", "refresh_token", // kept when the server only fails
		"client_credentials", // not on disk
	}
	if diff := cmp.Diff(want, grants()); diff != "" {
		t.Error(diff)
	}
	if l := h.server.Ledger("client"); l.SpentTwice != 0 {
		t.Errorf("%+v", l)
	}
	if at := h.atRest(t); len(at) != 0 {
		t.Errorf("%q is on disk", at)
	}
	if changes := h.disk.taken(); changes != nil {
		t.Errorf("written: %q", changes)
	}
}

func TestClientCredentialsKeepTheRefreshToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshSilent }))
	h.put(t, "dev/network", h.text())
	for range 3 {
		h.get(t, plain)
		h.fresh()
	}
	if spent := h.spent(); len(spent) != 2 || spent[0] != spent[1] {
		t.Errorf("spent %q", spent)
	}
}

// Scopes that the answer does not mention are those that were asked for (RFC
// 6749 section 5.1).
func TestScopesNotMentioned(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.text("OAUTH2_SCOPE='write read'"))
	h.server.AnyClient().Then(authserver.Answer{Drop: []string{"scope"}})
	if got := h.get(t, plain); !slices.Equal(got.Scopes, []string{"read", "write"}) {
		t.Errorf("got %q", got.Scopes)
	}
}

func TestJWTBearer(t *testing.T) {
	t.Parallel()
	private, public := signingKey(t)
	h := newHouse(t, authserver.Config{
		Clients: []authserver.Client{{ID: "service", Auth: authserver.AuthNone}},
		Issuers: []authserver.AssertionIssuer{{Issuer: "service", JWKS: public}},
	})
	bearer := func(more ...string) string {
		return lines(append([]string{"OAUTH2_GRANT", "jwt_bearer", "OAUTH2_TOKEN_URL", h.server.TokenURL,
			"CLIENT_ID", "service", "PRIVATE_KEY", private, "OAUTH2_SCOPE", "write read"}, more...)...)
	}
	const google = "OAUTH2_PROVIDER"
	for _, test := range []struct {
		name, text string
		want       map[string]any // of the assertion, beside times and jti
		scope      string         // of the form
	}{
		{"plain", bearer(), map[string]any{"iss": "service", "sub": "service", "aud": h.server.TokenURL}, "read write"},
		{"issuer known", bearer("OAUTH2_ISSUER", h.server.Issuer), map[string]any{"iss": "service", "sub": "service", "aud": h.server.Issuer}, "read write"},
		{"issuer known, endpoint wanted", bearer("OAUTH2_ISSUER", h.server.Issuer, "OAUTH2_ASSERTION_AUDIENCE", "token_endpoint"),
			map[string]any{"iss": "service", "sub": "service", "aud": h.server.TokenURL}, "read write"},
		{"literal audience", bearer("OAUTH2_ASSERTION_AUDIENCE", "https://aud.example"),
			map[string]any{"iss": "service", "sub": "service", "aud": "https://aud.example"}, "read write"},
		{"subject", bearer("OAUTH2_ASSERTION_SUBJECT", "alice"), map[string]any{"iss": "service", "sub": "alice", "aud": h.server.TokenURL}, "read write"},
		{"google", bearer(google, "google"), map[string]any{"iss": "service", "aud": h.server.TokenURL, "scope": "read write"}, ""},
		{"google for somebody", bearer(google, "google", "OAUTH2_ASSERTION_SUBJECT", "alice"),
			map[string]any{"iss": "service", "sub": "alice", "aud": h.server.TokenURL, "scope": "read write"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.put(t, "dev/network", test.text)
			_, err := h.Token(t.Context(), plain)
			r := h.last(t)
			// The server wants a subject, and knows its own names only.
			good := test.want["sub"] != nil && strings.HasPrefix(test.want["aud"].(string), h.server.URL)
			if (err == nil) != good {
				t.Errorf("error is %v", err)
			}
			claims := claimsOf(t, r.Form.Get("assertion"), 5*time.Minute)
			if id, _ := claims["jti"].(string); len(id) < 22 {
				t.Errorf("jti is %q", id)
			}
			delete(claims, "jti")
			if diff := cmp.Diff(test.want, claims); diff != "" {
				t.Error(diff)
			}
			if r.Form.Get("grant_type") != oauth.GrantJWTBearer || r.Form.Get("scope") != test.scope || r.Form.Has("client_assertion") {
				t.Errorf("sent %v", r.Form)
			}
		})
	}
}

// Each fetch has an assertion of its own.
func TestJWTBearerAgain(t *testing.T) {
	t.Parallel()
	private, public := signingKey(t)
	h := newHouse(t, authserver.Config{
		Clients: []authserver.Client{{ID: "service", Auth: authserver.AuthNone}},
		Issuers: []authserver.AssertionIssuer{{Issuer: "service", JWKS: public}},
	})
	h.put(t, "dev/network", lines("OAUTH2_GRANT", "jwt_bearer", "OAUTH2_TOKEN_URL", h.server.TokenURL, "CLIENT_ID", "service", "PRIVATE_KEY", private))
	for range 3 {
		h.get(t, plain)
		h.fresh()
	}
	if changes := h.disk.taken(); changes != nil {
		t.Errorf("written: %q", changes)
	}
}

// The aud of client assertions.
func TestClientAssertionAudience(t *testing.T) {
	t.Parallel()
	private, public := signingKey(t)
	for _, test := range []struct {
		more     []string
		endpoint bool // the server wants its token endpoint there
		ok       bool
	}{
		{[]string{"OAUTH2_ISSUER"}, false, true},
		{[]string{"OAUTH2_ISSUER"}, true, false},
		{[]string{"OAUTH2_TOKEN_URL"}, true, true},
		{[]string{"OAUTH2_TOKEN_URL"}, false, false},
		{[]string{"OAUTH2_ISSUER", "OAUTH2_TOKEN_URL"}, false, true},
		{[]string{"OAUTH2_ISSUER", "OAUTH2_ASSERTION_AUDIENCE=token_endpoint"}, true, true},
		{[]string{"OAUTH2_TOKEN_URL", "OAUTH2_ASSERTION_AUDIENCE=ISSUER"}, false, true},
	} {
		t.Run(fmt.Sprint(test.more, test.endpoint), func(t *testing.T) {
			h := newHouse(t, authserver.Config{Clients: []authserver.Client{
				{ID: "client", Auth: authserver.AuthPrivateKeyJWT, JWKS: public, TokenAudience: test.endpoint, RefreshAlways: true},
			}})
			text := []string{"CLIENT_ID", "client", "PRIVATE_KEY", private}
			for _, name := range test.more {
				name, value, _ := strings.Cut(name, "=")
				switch {
				case name == "OAUTH2_ISSUER", value == "ISSUER":
					value = h.server.Issuer
				case name == "OAUTH2_TOKEN_URL":
					value = h.server.TokenURL
				}
				text = append(text, name, value)
			}
			h.put(t, "dev/network", lines(text...))
			if _, err := h.Token(t.Context(), plain); (err == nil) != test.ok {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func exchangeText(h *house, more ...string) string {
	return lines(append([]string{"OAUTH2_GRANT", "token_exchange", "OAUTH2_TOKEN_URL", h.server.TokenURL,
		"CLIENT_ID", "client", "CLIENT_SECRET", secret}, more...)...)
}

func TestTokenExchange(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "subject", h.text())
	h.put(t, "dev/network", exchangeText(h, "OAUTH2_SUBJECT_TOKEN_PROFILE", "subject", "OAUTH2_REQUESTED_TOKEN_TYPE", "access_token", "OAUTH2_SCOPE", "read"))
	h.get(t, plain)
	subject := h.get(t, broker.Request{Profile: "subject"})
	want := map[string][]string{
		"grant_type": {oauth.GrantTokenExchange}, "scope": {"read"},
		"subject_token": {subject.Access.Reveal()}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	}
	if diff := cmp.Diff(want, map[string][]string(h.last(t).Form)); diff != "" {
		t.Error(diff)
	}
	h.wantRequests(t, 2)

	// Or a token that the text has.
	h.put(t, "dev/network", exchangeText(h, "OAUTH2_SUBJECT_TOKEN", subject.Access.Reveal()))
	h.get(t, plain)
	want["scope"], want["requested_token_type"] = nil, nil
	delete(want, "scope")
	delete(want, "requested_token_type")
	if diff := cmp.Diff(want, map[string][]string(h.last(t).Form)); diff != "" {
		t.Error(diff)
	}
}

// A token of another profile as the assertion of a JWT bearer grant (cross-app
// access, workload identity).
func TestJWTBearerOfAnotherProfile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "subject", h.text())
	h.put(t, "dev/network", lines("OAUTH2_GRANT", "jwt_bearer", "OAUTH2_TOKEN_URL", h.server.TokenURL,
		"CLIENT_ID", "client", "CLIENT_SECRET", secret, "OAUTH2_SUBJECT_TOKEN_PROFILE", "subject"))
	_, err := h.Token(t.Context(), plain)
	var refused *broker.RefusedError
	if !errors.As(err, &refused) { // it is none of an issuer that the server knows
		t.Errorf("error is %v", err)
	}
	r := h.last(t)
	if r.Form.Get("assertion") != h.get(t, broker.Request{Profile: "subject"}).Access.Reveal() || r.Header.Get("Authorization") == "" {
		t.Errorf("sent %v", r.Form)
	}
}

func TestChainOfProfiles(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	exchanged := func(name string) string { return exchangeText(h, "OAUTH2_SUBJECT_TOKEN_PROFILE", name) }
	h.put(t, "a", exchanged("b"))
	h.put(t, "b", exchanged("a"))
	h.put(t, "c", exchanged("a"))
	h.put(t, "self", exchanged("self"))
	for name, chain := range map[string]string{"a": "a -> b -> a", "b": "b -> a -> b", "self": "self -> self", "c": "c -> a -> b -> a"} {
		_, err := h.Token(t.Context(), broker.Request{Profile: name})
		var mistakes *profile.Mistakes
		if !errors.As(err, &mistakes) {
			t.Fatalf("%s: error is %v", name, err)
		}
		want := []profile.Mistake{{Variable: "OAUTH2_SUBJECT_TOKEN_PROFILE", Message: "the chain of profiles comes back to itself: " + chain}}
		if diff := cmp.Diff(want, mistakes.List); diff != "" {
			t.Error(diff)
		}
	}
	h.wantRequests(t, 0)
	// A chain that ends is none of these.
	h.put(t, "b", h.text())
	h.get(t, broker.Request{Profile: "c"})
	h.wantRequests(t, 3)
}

// Also where the name comes from a file.
func TestChainOfProfilesThroughAFile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.values = func() (map[string]string, error) {
		return map[string]string{"OAUTH2_SUBJECT_TOKEN_PROFILE": "self"}, nil
	}
	h.put(t, "self", exchangeText(h, "OAUTH2_SUBJECT_TOKEN_PROFILE_FILE", "/somewhere"))
	for range 2 {
		_, err := h.Token(t.Context(), broker.Request{Profile: "self"})
		var mistakes *profile.Mistakes
		if !errors.As(err, &mistakes) {
			t.Fatalf("error is %v", err)
		}
	}
	h.wantRequests(t, 0)
	// The file is read again, and so can be mended.
	h.mu.Lock()
	h.values = func() (map[string]string, error) {
		return map[string]string{"OAUTH2_SUBJECT_TOKEN_PROFILE": "subject"}, nil
	}
	h.mu.Unlock()
	h.put(t, "subject", h.text())
	h.get(t, broker.Request{Profile: "self"})
}

// Two flights of one profile, and a file that changes between them.
func TestSubjectFromAFileThatChanges(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	name := func(subject string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.values = func() (map[string]string, error) {
			return map[string]string{"OAUTH2_SUBJECT_TOKEN_PROFILE": subject}, nil
		}
	}
	h.put(t, "dev/network", exchangeText(h, "OAUTH2_SUBJECT_TOKEN_PROFILE_FILE", "/somewhere"))
	h.put(t, "first", h.text())
	h.put(t, "second", h.text())
	name("first")
	h.server.AnyClient().Then(hanging)
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			if _, err := h.Token(t.Context(), broker.Request{Profile: "dev/network", Scopes: []string{[]string{"read", "write", "admin"}[i]}}); err != nil {
				t.Error(err)
			}
		})
	}
	h.await(t, "/token", 1)
	h.server.Release()
	all.Wait()
	version, err := h.store.Stat(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store.Delete(t.Context(), "first", version); err != nil {
		t.Fatal(err)
	}
	name("second")
	h.fresh()
	h.get(t, plain)
}

// Why there is no subject token is said, and is not remembered as this
// profile's failure.
func TestSubjectFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", exchangeText(h, "OAUTH2_SUBJECT_TOKEN_PROFILE", "subject"))
	subject := func(want error) {
		t.Helper()
		_, err := h.Token(t.Context(), plain)
		var failed *broker.SubjectError
		if !errors.As(err, &failed) || failed.Profile != "subject" || !errors.Is(err, want) {
			t.Errorf("error is %v", err)
		}
		if want := "no subject token of subject: "; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error is %v", err)
		}
	}
	subject(store.ErrNotExist)
	h.put(t, "subject", h.text())
	h.mu.Lock()
	h.refused[h.text()] = true
	h.mu.Unlock()
	subject(broker.ErrUntrusted)
	h.mu.Lock()
	clear(h.refused)
	h.mu.Unlock()
	h.put(t, "subject", h.interactive())
	_, err := h.Token(t.Context(), plain)
	var login *broker.LoginError
	if !errors.As(err, &login) || err.Error() != "no subject token of subject: login required (nobody is logged in)" {
		t.Errorf("error is %v", err)
	}
	h.wantRequests(t, 0)
	h.login(t, "subject")
	h.get(t, plain)

	// The server's refusal is the subject's, and closes the subject only.
	h.fresh()
	h.server.AnyClient().Then(failing)
	_, err = h.Token(t.Context(), plain)
	var failed *broker.SubjectError
	if !errors.As(err, &failed) {
		t.Errorf("error is %v", err)
	}
	h.sleep(h.wantRefused(t, broker.Request{Profile: "subject"}, 500, time.Second))
	h.get(t, plain)
}

// gitHub answers as GitHub's API does, and writes down what it was asked.
func gitHub(t *testing.T) (server *httptest.Server, asked *[]string, jwts *[]string) {
	t.Helper()
	asked, jwts = new([]string), new([]string)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method+" "+r.URL.Path)
		*jwts = append(*jwts, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		w.Header().Set("Content-Type", "application/json")
		switch r.Method + " " + r.URL.Path {
		case "GET /api/v3/orgs/octo-org/installation", "GET /api/v3/repos/octo-org/repo/installation":
			fmt.Fprint(w, `{"id":42}`)
		case "POST /api/v3/app/installations/42/access_tokens":
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"token":"ghs_1","expires_at":%q,"permissions":{"contents":"read"}}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"Not Found"}`)
		}
	}))
	t.Cleanup(server.Close)
	return server, asked, jwts
}

func TestGitHub(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	const token = "POST /api/v3/app/installations/42/access_tokens"
	for installation, want := range map[string][]string{
		"42":            {token},
		"octo-org":      {"GET /api/v3/users/octo-org/installation", "GET /api/v3/orgs/octo-org/installation", token},
		"octo-org/repo": {"GET /api/v3/repos/octo-org/repo/installation", token},
	} {
		t.Run(installation, func(t *testing.T) {
			h := newHouse(t, client(nil))
			server, asked, jwts := gitHub(t)
			h.put(t, "dev/network", lines("OAUTH2_PROVIDER", "github-app", "OAUTH2_DOMAIN", server.URL, "GITHUB_APP_ID", "7",
				"GITHUB_INSTALLATION", installation, "PRIVATE_KEY", key))
			got := h.get(t, plain)
			if got.Access.Reveal() != "ghs_1" || got.Type != "Bearer" || !slices.Equal(got.Scopes, []string{"contents:read"}) ||
				got.Lifetime > time.Hour || got.Lifetime < time.Hour-time.Minute {
				t.Errorf("got %v", got)
			}
			if diff := cmp.Diff(want, *asked); diff != "" {
				t.Error(diff)
			}
			for _, jwt := range *jwts {
				claims, ok := oauth.JWTClaims(jwt)
				iat, _ := claims["iat"].(json.Number).Int64()
				exp, _ := claims["exp"].(json.Number).Int64()
				if !ok || len(claims) != 3 || claims["iss"] != "7" || iat > time.Now().Unix()-60 || exp-iat > 600 {
					t.Errorf("the App's JWT has %v", claims)
				}
			}
			h.get(t, plain)
			if len(*asked) != len(want) {
				t.Errorf("asked again: %q", *asked)
			}
		})
	}
	h := newHouse(t, client(nil))
	server, _, _ := gitHub(t)
	h.put(t, "dev/network", lines("OAUTH2_PROVIDER", "github-app", "OAUTH2_DOMAIN", server.URL, "GITHUB_APP_ID", "7",
		"GITHUB_INSTALLATION", "nobody", "PRIVATE_KEY", key))
	_, err = h.Token(t.Context(), plain)
	var refused *broker.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "the app is not installed for nobody") {
		t.Errorf("error is %v", err)
	}
}

// Where the client shows a certificate, the endpoints are those that want one.
func TestMTLSAliases(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{TLS: true, MTLS: true, Clients: []authserver.Client{
		{ID: "client", Auth: authserver.AuthTLS, SubjectDN: "CN=dev", RefreshAlways: true},
	}})
	cert, key, err := h.server.ClientCertificate("dev")
	if err != nil {
		t.Fatal(err)
	}
	text := func(more ...string) string {
		return lines(append([]string{"OAUTH2_ISSUER", h.server.Issuer, "TLS_CA", string(h.server.CA),
			"CLIENT_ID", "client", "TLS_CLIENT_CERT", string(cert), "TLS_CLIENT_KEY", string(key)}, more...)...)
	}
	h.put(t, "dev/network", text())
	h.get(t, plain)
	p, err := h.Prepare(t.Context(), "dev/network")
	if err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return h.server.MTLSURL + path }
	want := oauth.Endpoints{
		Token: at("/token"), PushedAuthorization: at("/par"), DeviceAuthorization: at("/device_authorization"),
		Introspection: at("/introspect"), Revocation: at("/revoke"), Authorization: h.server.Issuer + "/authorize",
	}
	if diff := cmp.Diff(want, p.Endpoints); diff != "" || p.Client.TokenURL != want.Token {
		t.Error(diff, p.Client.TokenURL)
	}
	// What the text says is over that.
	h.put(t, "dev/network", text("OAUTH2_REVOCATION_URL", h.server.Issuer+"/revoke"))
	if p, err = h.Prepare(t.Context(), "dev/network"); err != nil || p.Endpoints.Revocation != h.server.Issuer+"/revoke" {
		t.Errorf("the endpoints are %+v, %v", p.Endpoints, err)
	}
	// A session by certificate.
	h.put(t, "dev/network", text("OAUTH2_GRANT", "authorization_code"))
	h.login(t, "dev/network")
	h.fresh()
	h.get(t, plain)
	h.revoke(t, broker.Revoked{Revoked: 2})
}

// A token endpoint can be known by discovery only, and the client by none.
func TestPrepareErrors(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	if _, err := h.Prepare(t.Context(), "nobody"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	h.put(t, "dev/network", h.interactive("OAUTH2_SCOPPE=x"))
	var mistakes *profile.Mistakes
	if _, err := h.Prepare(t.Context(), "dev/network"); !errors.As(err, &mistakes) {
		t.Errorf("error is %v", err)
	}
	h.mu.Lock()
	h.refused[h.interactive()] = true
	h.mu.Unlock()
	h.put(t, "dev/network", h.interactive())
	if _, err := h.Prepare(t.Context(), "dev/network"); !errors.Is(err, broker.ErrUntrusted) {
		t.Errorf("error is %v", err)
	}
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "metadata", Status: 503})
	var discovery *broker.DiscoveryError
	if _, err := h.PrepareText(t.Context(), "dev/network", []byte(h.interactive())); !errors.As(err, &discovery) {
		t.Errorf("error is %v", err)
	}
}

// No grant leaves anything of its tokens on disk but a session's.
func TestNothingAtRest(t *testing.T) {
	t.Parallel()
	private, public := signingKey(t)
	c := client(nil)
	c.Clients = append(c.Clients, authserver.Client{ID: "service", Auth: authserver.AuthNone})
	c.Issuers = []authserver.AssertionIssuer{{Issuer: "service", JWKS: public}}
	h := newHouse(t, c)
	h.put(t, "cc", h.text())
	h.put(t, "exchange", exchangeText(h, "OAUTH2_SUBJECT_TOKEN_PROFILE", "cc"))
	h.put(t, "bearer", lines("OAUTH2_GRANT", "jwt_bearer", "OAUTH2_TOKEN_URL", h.server.TokenURL, "CLIENT_ID", "service", "PRIVATE_KEY", private))
	h.put(t, "session", h.interactive())
	h.login(t, "session")
	h.fresh()
	var access []string
	for _, name := range []string{"cc", "exchange", "bearer", "session"} {
		access = append(access, h.get(t, broker.Request{Profile: name}).Access.Reveal())
	}
	all := h.atRest(t)
	for _, s := range append(access, secret, private) {
		if bytes.Contains(all, []byte(s)) {
			t.Errorf("%q is on disk", s)
		}
	}
	if !bytes.Contains(all, []byte(`"refresh_token"`)) {
		t.Error("the scan sees nothing")
	}
}
