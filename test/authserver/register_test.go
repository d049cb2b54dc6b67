package authserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

func postJSON(t *testing.T, s *Server, path, authorization, body string) reply {
	t.Helper()
	req := post(t, s.Issuer+path, authorization, body)
	req.Header.Set("Content-Type", "application/json")
	return send(s, req)
}

func TestRegistration(t *testing.T) {
	s := Start(t, Config{Registration: true})
	r := postJSON(t, s, "/register", "", `{"client_name":"tokend","redirect_uris":["http://127.0.0.1/callback"],"scope":"read",
		"grant_types":["authorization_code","refresh_token"],"token_endpoint_auth_method":"none","software_id":"x"}`)
	got := r.json(t)
	id, _ := got["client_id"].(string)
	token, _ := got["registration_access_token"].(string)
	want := map[string]any{
		"client_id": id, "client_name": "tokend", "software_id": "x", "scope": "read",
		"redirect_uris": []any{"http://127.0.0.1/callback"}, "token_endpoint_auth_method": "none",
		"grant_types": []any{"authorization_code", "refresh_token"}, "response_types": []any{"code"},
		"registration_access_token": token, "registration_client_uri": s.Issuer + "/register/" + id,
		"client_id_issued_at": got["client_id_issued_at"],
	}
	if diff := cmp.Diff(want, got); diff != "" || r.status != 201 || id == "" || token == "" || got["client_id_issued_at"] == nil {
		t.Fatalf("%d %s", r.status, diff)
	}
	login(t, s, id)
	form := with(authorizationOf(id), map[string]string{"scope": "write"})
	if got := consent(t, s, form); got.Get("error") != "invalid_scope" {
		t.Error(got)
	}
	if again := send(s, get(t, s.Issuer+"/register/"+id, "Bearer "+token)); again.status != 200 || again.body != r.body {
		t.Errorf("%d %s", again.status, again.body)
	}
	for path, authorization := range map[string]string{"/register/" + id: "Bearer x", "/register/x": "Bearer " + token} {
		if r := send(s, get(t, s.Issuer+path, authorization)); r.status != 401 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	if m := askMetadata(t, s); m["registration_endpoint"] != s.Issuer+"/register" {
		t.Errorf("metadata: %v", m["registration_endpoint"])
	}
	closed := Start(t, Config{})
	if r := postJSON(t, closed, "/register", "", `{}`); r.status != 404 || askMetadata(t, closed)["registration_endpoint"] != nil {
		t.Errorf("a server without: %d", r.status)
	}
}

func TestRegistrationOfSecrets(t *testing.T) {
	s := Start(t, Config{Registration: true})
	for _, method := range []string{"", "client_secret_basic", "client_secret_post", "client_secret_jwt"} {
		body := map[string]any{"grant_types": []string{"client_credentials"}, "response_types": []string{}}
		if method != "" {
			body["token_endpoint_auth_method"] = method
		}
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		got := postJSON(t, s, "/register", "", string(text)).json(t)
		id, key := fmt.Sprint(got["client_id"]), fmt.Sprint(got["client_secret"])
		if got["client_secret_expires_at"] != 0.0 {
			t.Errorf("%s: %v", method, got)
		}
		form := url.Values{"grant_type": {"client_credentials"}}
		switch method {
		case "", "client_secret_basic":
			wantTokens(t, sendForm(t, s, "/token", basic(id, key), form))
			wantError(t, "another grant", sendForm(t, s, "/device_authorization", basic(id, key), url.Values{}), 400, "unauthorized_client")
		case "client_secret_post":
			wantTokens(t, sendForm(t, s, "/token", "", with(form, map[string]string{"client_id": id, "client_secret": key})))
		default:
			wantError(t, method, sendForm(t, s, "/token", basic(id, key), form), 401, "invalid_client")
		}
	}
}

func TestRegistrationRefusals(t *testing.T) {
	s := Start(t, Config{Registration: true})
	for body, code := range map[string]string{
		``:   "invalid_client_metadata",
		`[]`: "invalid_client_metadata",
		`{}`: "invalid_redirect_uri",
		`{"redirect_uris":["http://app.example/"]}`:                                                 "invalid_redirect_uri",
		`{"redirect_uris":["https://app.example/#x"]}`:                                              "invalid_redirect_uri",
		`{"redirect_uris":["https://app.example/"],"token_endpoint_auth_method":"x"}`:               "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/"],"token_endpoint_auth_method":"basic"}`:           "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/"],"token_endpoint_auth_method":"private_key_jwt"}`: "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/"],"token_endpoint_auth_method":"tls_client_auth"}`: "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/"],"response_types":["token"]}`:                     "invalid_client_metadata",
		`{"grant_types":["client_credentials"],"response_types":["code"]}`:                          "invalid_client_metadata",
	} {
		wantError(t, body, postJSON(t, s, "/register", "", body), 400, code)
	}
	if r := send(s, get(t, s.Issuer+"/register", "")); r.status != 405 {
		t.Errorf("GET: %d", r.status)
	}

	closed := Start(t, Config{Registration: true, RegistrationToken: "initial"})
	const body = `{"redirect_uris":["https://app.example/"]}`
	for authorization, status := range map[string]int{"": 401, "Bearer x": 401, "initial": 401, "Bearer initial": 201} {
		if r := postJSON(t, closed, "/register", authorization, body); r.status != status {
			t.Errorf("%q: %d %s", authorization, r.status, r.body)
		}
	}
	s.AnyClient().Then(Answer{Endpoint: "register", Set: map[string]any{"client_secret_expires_at": 1}, Drop: []string{"registration_access_token"}})
	got := postJSON(t, s, "/register", "", body).json(t)
	if got["client_secret_expires_at"] != 1.0 || got["registration_access_token"] != nil || got["client_id"] == nil {
		t.Errorf("scripted: %v", got)
	}
}

func TestSignUp(t *testing.T) {
	s := Start(t, Config{Users: map[string]string{"me@example.com": "pass"}})
	r := postJSON(t, s, "/v1/register", "", `{"username":"me@example.com","password":"pass"}`)
	var got map[string]string
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != 201 || len(got) != 3 || got["client_id"] == "" {
		t.Fatalf("%d %s %v", r.status, r.body, err)
	}
	authorization := basic(got["client_key"], got["client_secret"])
	first := wantTokens(t, sendForm(t, s, "/token", authorization, url.Values{"grant_type": {"client_credentials"}}))
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Refresh}}
	second := wantTokens(t, sendForm(t, s, "/token", authorization, form))
	if second.Refresh == "" || second.Refresh == first.Refresh {
		t.Errorf("%+v", second)
	}
	wantError(t, "client_id in place of the key", sendForm(t, s, "/token", basic(got["client_id"], got["client_secret"]), form), 401, "invalid_client")
	for body, status := range map[string]int{
		`{"username":"me@example.com","password":"wrong"}`:          401,
		`{"username":"nobody","password":"pass"}`:                   401,
		`{"username":"nobody","password":""}`:                       400,
		`{"username":"me@example.com"}`:                             400,
		`{"username":"me@example.com","password":"pass","extra":1}`: 400,
		`username=me`: 400,
	} {
		if r := postJSON(t, s, "/v1/register", "", body); r.status != status {
			t.Errorf("%s: %d", body, r.status)
		}
	}
	if r := send(s, post(t, s.Issuer+"/v1/register", "", `{"username":"me@example.com","password":"pass"}`)); r.status != 400 {
		t.Errorf("as a form: %d", r.status)
	}
	if r := postJSON(t, Start(t, Config{}), "/v1/register", "", `{}`); r.status != 404 {
		t.Errorf("a server without users: %d", r.status)
	}
	for _, line := range s.Requests() {
		if text, err := json.Marshal(line); err != nil || strings.Contains(string(text), "pass\"") {
			t.Errorf("%s %v", text, err)
		}
	}
}

func TestClientIDMetadata(t *testing.T) {
	var body string
	status := http.StatusOK
	documents := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	t.Cleanup(documents.Close)
	id := documents.URL + "/client.json"
	s := Start(t, Config{ClientIDMetadata: true})
	key := keyFor(t, jose.ES256)
	jwk, err := json.Marshal(jose.JSONWebKey{Key: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	good := `{"client_id":"` + id + `","redirect_uris":["http://127.0.0.1/callback"]}`
	body = good
	first := login(t, s, id)
	wantTokens(t, sendForm(t, s, "/token", "", refreshing(id, first.Refresh)))
	evil := with(authorizationOf(id), map[string]string{"redirect_uri": "http://127.0.0.1/evil"})
	if r := send(s, get(t, s.Issuer+"/authorize?"+evil.Encode(), "")); r.status != 400 {
		t.Errorf("another redirect_uri: %d", r.status)
	}
	body = `{"client_id":"` + id + `","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[` + string(jwk) + `]}}`
	code := consent(t, s, authorizationOf(id)).Get("code")
	wantError(t, "without its key", sendForm(t, s, "/token", "", redemption(id, code)), 401, "invalid_client")

	ask := func(id string) int {
		return send(s, get(t, s.Issuer+"/authorize?"+authorizationOf(id).Encode(), "")).status
	}
	for _, bad := range []string{
		``, `[]`, `{}`,
		`{"client_id":"` + id + `x","redirect_uris":["http://127.0.0.1/callback"]}`,
		`{"client_id":"` + id + `"}`,
		`{"client_id":"` + id + `","redirect_uris":["http://127.0.0.1/callback"],"client_secret":"x"}`,
		`{"client_id":"` + id + `","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"client_secret_basic"}`,
		`{"client_id":"` + id + `","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"private_key_jwt"}`,
		good + strings.Repeat(" ", maxDocument),
	} {
		if body = bad; ask(id) != 400 {
			t.Errorf("%.100s: accepted", bad)
		}
		wantError(t, "at the token endpoint", sendForm(t, s, "/token", "", refreshing(id, first.Refresh)), 400, "invalid_client")
	}
	body = good
	status = http.StatusNotFound
	if ask(id) != 400 {
		t.Error("accepted a document that is not there")
	}
	status = http.StatusOK
	for _, bad := range []string{
		documents.URL, documents.URL + "/a/../client.json", id + "#x", strings.Replace(id, "//", "//me@", 1),
		"ftp://127.0.0.1/x", "http://192.0.2.1/client.json", "http://[::1",
	} {
		body = strings.Replace(good, id, bad, 1)
		if ask(bad) != 400 {
			t.Errorf("%s: accepted", bad)
		}
	}
	// Without an attempt to fetch it.
	for _, bad := range []string{"ftp://127.0.0.1/x", "http://192.0.2.1/client.json"} {
		if _, err := fetchClient(t.Context(), bad); err == nil || err.Error() != "client_id: want https, or a loopback address" {
			t.Errorf("%s: %v", bad, err)
		}
	}
	body = good
	closed := Start(t, Config{})
	if r := send(closed, get(t, closed.Issuer+"/authorize?"+authorizationOf(id).Encode(), "")); r.status != 400 {
		t.Errorf("a server that does not fetch: %d", r.status)
	}
	if askMetadata(t, s)["client_id_metadata_document_supported"] != true {
		t.Error("metadata does not say so")
	}
}
