package authserver

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCode(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	got := consent(t, s, authorizationOf("app"))
	want := url.Values{"code": got["code"], "state": {"xyz"}, "iss": {s.Issuer}}
	if diff := cmp.Diff(want, got); diff != "" || len(got["code"]) != 1 {
		t.Fatal(diff)
	}
	first := wantTokens(t, sendForm(t, s, "/token", "", redemption("app", got.Get("code"))))
	if first.Type != "Bearer" || first.Refresh == "" || first.ID != "" || claimsOf(t, first.Access)["sub"] != Subject {
		t.Errorf("%+v", first)
	}
	if !isLive(t, s, first.Access) {
		t.Error("the token is not good for the resource")
	}
	// RFC 6749 4.1.2: the second use ends what the first gave.
	wantError(t, "second use", sendForm(t, s, "/token", "", redemption("app", got.Get("code"))), 400, "invalid_grant")
	if isLive(t, s, first.Access) {
		t.Error("the first tokens live on")
	}
	wantError(t, "refresh after the second use", sendForm(t, s, "/token", "", refreshing("app", first.Refresh)), 400, "invalid_grant")
}

func TestCodeByPostAndOverARealConnection(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	r := do(t, post(t, s.Issuer+"/authorize", "", authorizationOf("app").Encode()))
	u, err := url.Parse(r.header.Get("Location"))
	if r.status != 302 || err != nil || u.Query().Get("code") == "" {
		t.Fatalf("%d %s", r.status, r.header)
	}
	req := get(t, s.Issuer+"/authorize", "")
	req.Method = "PUT"
	if r := do(t, req); r.status != 405 {
		t.Errorf("PUT: %d", r.status)
	}
}

func TestIDToken(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	form := with(authorizationOf("app"), map[string]string{"scope": "openid read", "nonce": "n1"})
	got := wantTokens(t, sendForm(t, s, "/token", "", redemption("app", consent(t, s, form).Get("code"))))
	claims := claimsOf(t, got.ID)
	delete(claims, "iat")
	delete(claims, "exp")
	want := map[string]any{"iss": s.Issuer, "sub": Subject, "aud": "app", "nonce": "n1"}
	if diff := cmp.Diff(want, claims); diff != "" || got.Scope != "openid read" {
		t.Error(got.Scope, diff)
	}
	if isLive(t, s, got.ID) {
		t.Error("an ID token is good for the resource")
	}
}

func TestAuthorizationRefusals(t *testing.T) {
	s := Start(t, Config{Clients: []Client{
		{ID: "app", Auth: AuthNone, Scope: "read", RedirectURIs: []string{"http://127.0.0.1/callback"}},
		{ID: "machine", Secret: secret, Grants: []string{"client_credentials"}, RedirectURIs: app.RedirectURIs},
		{ID: "pushing", Auth: AuthNone, RedirectURIs: app.RedirectURIs, RequirePAR: true},
	}})
	good := authorizationOf("app")
	for _, tt := range []struct {
		change map[string]string
		code   string
	}{
		{map[string]string{"response_type": ""}, "invalid_request"},
		{map[string]string{"response_type": "token"}, "unsupported_response_type"},
		{map[string]string{"code_challenge": ""}, "invalid_request"},
		{map[string]string{"code_challenge": "short"}, "invalid_request"},
		{map[string]string{"code_challenge_method": ""}, "invalid_request"},
		{map[string]string{"code_challenge_method": "plain"}, "invalid_request"},
		{map[string]string{"scope": "write"}, "invalid_scope"},
		{map[string]string{"resource": "api"}, "invalid_target"},
		{map[string]string{"request": "e30.e30."}, "request_not_supported"},
		{map[string]string{"client_id": "machine"}, "unauthorized_client"},
		{map[string]string{"client_id": "pushing"}, "invalid_request"},
	} {
		got := consent(t, s, with(good, tt.change))
		if got.Get("error") != tt.code || got.Has("code") || got.Get("state") != "xyz" || got.Get("iss") != s.Issuer {
			t.Errorf("%v: %v", tt.change, got)
		}
	}
	twice := with(good, nil)
	twice.Add("state", "abc")
	if got := consent(t, s, twice); got.Get("error") != "invalid_request" {
		t.Errorf("state twice: %v", got)
	}

	// Nothing is redirected that may not be.
	for name, form := range map[string]url.Values{
		"no client":          with(good, map[string]string{"client_id": ""}),
		"unknown client":     with(good, map[string]string{"client_id": "nobody"}),
		"no redirect_uri":    with(good, map[string]string{"redirect_uri": ""}),
		"another path":       with(good, map[string]string{"redirect_uri": "http://127.0.0.1:1234/callback/x"}),
		"another host":       with(good, map[string]string{"redirect_uri": "http://127.0.0.2:1234/callback"}),
		"another scheme":     with(good, map[string]string{"redirect_uri": "https://127.0.0.1:1234/callback"}),
		"with a query":       with(good, map[string]string{"redirect_uri": callback + "?x=1"}),
		"with user":          with(good, map[string]string{"redirect_uri": "http://me@127.0.0.1:1234/callback"}),
		"unknown request":    with(good, map[string]string{"request_uri": "urn:ietf:params:oauth:request_uri:x"}),
		"redirect_uri twice": {"client_id": {"app"}, "redirect_uri": {callback, callback}},
		"client_id twice":    {"client_id": {"app", "app"}, "redirect_uri": {callback}},
	} {
		r := send(s, get(t, s.Issuer+"/authorize?"+form.Encode(), ""))
		if r.status != 400 || r.header.Get("Location") != "" || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %v", name, r.status, r.header)
		}
	}
}

func TestRedirectURIs(t *testing.T) {
	for _, tt := range []struct {
		registered, asked string
		same              bool
	}{
		{"http://127.0.0.1/cb", "http://127.0.0.1:5000/cb", true},
		{"http://127.0.0.1:1/cb", "http://127.0.0.1:5000/cb", true},
		{"http://[::1]/cb", "http://[::1]:5000/cb", true},
		{"http://localhost/cb", "http://localhost:5000/cb", true},
		{"http://localhost/cb", "http://127.0.0.1:5000/cb", false},
		{"https://127.0.0.1/cb", "https://127.0.0.1:5000/cb", false},
		{"https://app.example/cb", "https://app.example/cb", true},
		{"https://app.example/cb", "https://app.example:444/cb", false},
		{"https://app.example/cb", "https://app.example/CB", false},
		{"com.example.app:/cb", "com.example.app:/cb", true},
	} {
		if got := sameRedirect(tt.registered, tt.asked); got != tt.same {
			t.Errorf("%s for %s: %v", tt.asked, tt.registered, got)
		}
	}
	for uri, good := range map[string]bool{
		"https://app.example/cb": true, "http://127.0.0.1/cb": true, "com.example.app:/cb": true,
		"http://app.example/cb": false, "https://app.example/#x": false, "/cb": false, "javascript:alert(1)": false, "https:///cb": false,
	} {
		if err := checkRedirectURI(uri); (err == nil) != good {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestCodeRefusals(t *testing.T) {
	s := Start(t, Config{Clients: []Client{
		app,
		{ID: "other", Auth: AuthNone, RedirectURIs: app.RedirectURIs},
		{ID: "dev", Secret: secret, RedirectURIs: app.RedirectURIs},
	}})
	code := consent(t, s, with(authorizationOf("app"), map[string]string{"resource": "https://api.example/"})).Get("code")
	good := redemption("app", code)
	for _, tt := range []struct {
		change map[string]string
		code   string
	}{
		{map[string]string{"code": ""}, "invalid_grant"},
		{map[string]string{"code": "guess"}, "invalid_grant"},
		{map[string]string{"client_id": "other"}, "invalid_grant"},
		{map[string]string{"redirect_uri": ""}, "invalid_grant"},
		{map[string]string{"redirect_uri": "http://127.0.0.1:4321/callback"}, "invalid_grant"},
		{map[string]string{"code_verifier": ""}, "invalid_grant"},
		{map[string]string{"code_verifier": verifier + "x"}, "invalid_grant"},
		{map[string]string{"code_verifier": challengeOf(verifier)}, "invalid_grant"},
		{map[string]string{"resource": "https://else.example/"}, "invalid_target"},
	} {
		wantError(t, tt.change["code"], sendForm(t, s, "/token", "", with(good, tt.change)), 400, tt.code)
	}
	got := wantTokens(t, sendForm(t, s, "/token", "", good))
	if aud := claimsOf(t, got.Access)["aud"]; !cmp.Equal(aud, []any{"https://api.example/"}) {
		t.Errorf("aud %v", aud)
	}
	// A verifier that is too short fits no challenge.
	form := with(authorizationOf("app"), map[string]string{"code_challenge": challengeOf("short")})
	short := with(redemption("app", consent(t, s, form).Get("code")), map[string]string{"code_verifier": "short"})
	wantError(t, "short verifier", sendForm(t, s, "/token", "", short), 400, "invalid_grant")
	// A client that has a secret has to prove it.
	code = consent(t, s, authorizationOf("dev")).Get("code")
	wantError(t, "no authentication", sendForm(t, s, "/token", "", redemption("dev", code)), 401, "invalid_client")
	wantTokens(t, sendForm(t, s, "/token", basic("dev", secret), redemption("dev", code)))
}

func TestCodeExpires(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	synctest.Test(t, func(t *testing.T) {
		code := consent(t, s, authorizationOf("app")).Get("code")
		time.Sleep(codeLifetime)
		wantError(t, "late", sendForm(t, s, "/token", "", redemption("app", code)), 400, "invalid_grant")
		code = consent(t, s, authorizationOf("app")).Get("code")
		time.Sleep(codeLifetime - time.Second)
		wantTokens(t, sendForm(t, s, "/token", "", redemption("app", code)))
	})
}

func TestScriptedAuthorization(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	code := "code"
	for _, tt := range []struct {
		answer Answer
		want   url.Values // {"*"} for a code that the server made, twice for twice
	}{
		{Answer{Error: "access_denied"}, url.Values{"error": {"access_denied"}, "error_description": {"as scripted"}, "state": {"xyz"}, "iss": {s.Issuer}}},
		{Answer{Error: "access_denied", Drop: []string{"state", "error_description"}}, url.Values{"error": {"access_denied"}, "iss": {s.Issuer}}},
		{Answer{Drop: []string{"state"}}, url.Values{"code": {code}, "iss": {s.Issuer}}},
		{Answer{Set: map[string]any{"state": "wrong"}}, url.Values{"code": {code}, "state": {"wrong"}, "iss": {s.Issuer}}},
		{Answer{Set: map[string]any{"iss": "https://evil.example"}}, url.Values{"code": {code}, "state": {"xyz"}, "iss": {"https://evil.example"}}},
		{Answer{Drop: []string{"iss"}}, url.Values{"code": {code}, "state": {"xyz"}}},
		{Answer{Set: map[string]any{"code": []any{"a", "b"}}}, url.Values{"code": {"a", "b"}, "state": {"xyz"}, "iss": {s.Issuer}}},
		{Answer{Twice: []string{"code"}}, url.Values{"code": {code, code}, "state": {"xyz"}, "iss": {s.Issuer}}},
	} {
		tt.answer.Endpoint = "authorize"
		s.Client("app").Then(tt.answer)
		got := consent(t, s, authorizationOf("app"))
		if len(got["code"]) == 2 && tt.answer.Twice != nil && got["code"][0] != got["code"][1] {
			t.Errorf("two codes: %v", got)
		}
		for i, v := range got["code"] {
			if len(v) > 1 {
				got["code"][i] = code
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v: %s", tt.answer, diff)
		}
	}
	s.Client("app").Then(Answer{Endpoint: "authorize", Status: 500, Body: "<html>oops</html>"})
	r := send(s, get(t, s.Issuer+"/authorize?"+authorizationOf("app").Encode(), ""))
	if r.status != 500 || r.header.Get("Content-Type") != "" && !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
		t.Errorf("%d %v", r.status, r.header)
	}
	// A scripted error goes nowhere that an error may not go.
	s.Client("app").Then(Answer{Endpoint: "authorize", Error: "access_denied"})
	form := with(authorizationOf("app"), map[string]string{"redirect_uri": "https://evil.example/"})
	if r := send(s, get(t, s.Issuer+"/authorize?"+form.Encode(), "")); r.status != 400 {
		t.Errorf("%d %v", r.status, r.header)
	}
}

func TestResponseIss(t *testing.T) {
	for iss, want := range map[string][]string{NoIss: nil, "https://evil.example": {"https://evil.example"}} {
		s := Start(t, Config{Clients: []Client{app}, ResponseIss: iss})
		if got := consent(t, s, authorizationOf("app"))["iss"]; !cmp.Equal(got, want) {
			t.Errorf("%s: %v", iss, got)
		}
		m := send(s, get(t, s.Issuer+"/.well-known/oauth-authorization-server", "")).json(t)
		if got := m["authorization_response_iss_parameter_supported"]; got != (iss != NoIss) {
			t.Errorf("%s: metadata says %v", iss, got)
		}
	}
}

func TestPAR(t *testing.T) {
	s := Start(t, Config{RequirePAR: true, Clients: []Client{
		app,
		{ID: "other", Auth: AuthNone, RedirectURIs: app.RedirectURIs},
		{ID: "dev", Secret: secret, RedirectURIs: app.RedirectURIs},
	}})
	push := func(form url.Values) string {
		t.Helper()
		r := sendForm(t, s, "/par", "", form)
		m := r.json(t)
		uri, _ := m["request_uri"].(string)
		if r.status != http.StatusCreated || uri == "" || m["expires_in"] != 60.0 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return uri
	}
	page := func(what string, form url.Values) {
		t.Helper()
		if r := send(s, get(t, s.Issuer+"/authorize?"+form.Encode(), "")); r.status != 400 {
			t.Errorf("%s: %d %v", what, r.status, r.header)
		}
	}
	pushed := url.Values{"client_id": {"app"}, "request_uri": {push(authorizationOf("app"))}}
	page("another client's", with(pushed, map[string]string{"client_id": "other"}))
	// What is beside it in the URL does not count.
	got := consent(t, s, with(pushed, map[string]string{"state": "injected"}))
	if got.Get("state") != "xyz" || got.Get("code") == "" {
		t.Error(got)
	}
	wantTokens(t, sendForm(t, s, "/token", "", redemption("app", got.Get("code"))))
	page("second use", pushed)
	if got := consent(t, s, authorizationOf("app")); got.Get("error") != "invalid_request" {
		t.Errorf("not pushed: %v", got)
	}

	for _, tt := range []struct {
		change map[string]string
		status int
		code   string
	}{
		{map[string]string{"client_id": "dev"}, 401, "invalid_client"},
		{map[string]string{"client_id": "nobody"}, 401, "invalid_client"},
		{map[string]string{"redirect_uri": "https://evil.example/"}, 400, "invalid_request"},
		{map[string]string{"code_challenge_method": "plain"}, 400, "invalid_request"},
		{map[string]string{"response_type": "token"}, 400, "unsupported_response_type"},
		{map[string]string{"request_uri": "urn:x"}, 400, "invalid_request"},
	} {
		wantError(t, tt.code, sendForm(t, s, "/par", "", with(authorizationOf("app"), tt.change)), tt.status, tt.code)
	}
	m := send(s, get(t, s.Issuer+"/.well-known/oauth-authorization-server", "")).json(t)
	if m["require_pushed_authorization_requests"] != true {
		t.Error("metadata does not say that requests have to be pushed")
	}
	synctest.Test(t, func(t *testing.T) {
		pushed := url.Values{"client_id": {"app"}, "request_uri": {push(authorizationOf("app"))}}
		time.Sleep(pushedLifetime)
		page("late", pushed)
	})
}
