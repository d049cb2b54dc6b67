package oauth

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRegister(t *testing.T) {
	s, _ := answering(t, status("201 Created", `{"client_id":"c 1","client_secret":"s/1","client_secret_expires_at":1893456000,
		"token_endpoint_auth_method":"client_secret_post","registration_access_token":"RAT","registration_client_uri":"https://as.example/r/1",
		"redirect_uris":["http://127.0.0.1/other"]}`))
	got, err := Register(t.Context(), "http://"+s.addr+"/register", ClientMetadata{
		Name: "tokend <x>", RedirectURIs: []string{"http://127.0.0.1/callback"}, Grants: []string{GrantAuthorizationCode, GrantRefreshToken},
		Responses: []string{"code"}, Auth: AuthNone, Scopes: []string{"a", "b"}, ApplicationType: "native",
	}, NewSecret("initial"), Transport{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Registration{
		ID: "c 1", Secret: NewSecret("s/1"), Auth: ClientSecretPost, SecretExpires: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
		AccessToken: NewSecret("RAT"), URL: "https://as.example/r/1", RedirectURIs: []string{"http://127.0.0.1/other"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
		t.Error(diff)
	}
	body := `{"client_name":"tokend \u003cx\u003e","redirect_uris":["http://127.0.0.1/callback"],"grant_types":["authorization_code","refresh_token"],` +
		`"response_types":["code"],"token_endpoint_auth_method":"none","scope":"a b","application_type":"native"}`
	wire := wireOf("POST", "/register", s.addr, body, testBoth, "Authorization: Bearer initial", testJSON)
	if diff := cmp.Diff([]string{wire}, s.seen()); diff != "" {
		t.Error(diff)
	}
}

func TestRegisterAnswers(t *testing.T) {
	asked := ClientMetadata{RedirectURIs: []string{"http://127.0.0.1/c"}, Auth: AuthNone}
	registration := func(change func(*Registration)) *Registration {
		r := &Registration{ID: "c", Auth: AuthNone, RedirectURIs: []string{"http://127.0.0.1/c"}}
		change(r)
		return r
	}
	for _, row := range []struct {
		answer string
		want   *Registration
		odd    string
	}{
		{`{"client_id":"c"}`, registration(func(*Registration) {}), ""},
		{`{"client_id":"c","client_secret":"","client_secret_expires_at":0}`, registration(func(*Registration) {}), ""},
		{`{"client_id":"c","client_secret":null,"redirect_uris":null}`, registration(func(*Registration) {}), ""},
		// A secret that was not asked for changes nothing about the method.
		{`{"client_id":"c","client_secret":"s","client_secret_expires_at":"soon"}`, registration(func(r *Registration) { r.Secret = NewSecret("s") }), ""},
		{`{"client_id":"c","client_secret":"s","client_secret_expires_at":1e99}`, registration(func(r *Registration) {
			r.Secret, r.SecretExpires = NewSecret("s"), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		}), ""},
		{`{"client_id":"c","redirect_uris":[]}`, registration(func(r *Registration) { r.RedirectURIs = []string{} }), ""},
		{`{"client_id":"c","registration_access_token":"a\r\nb","registration_client_uri":"http://as.example/"}`, registration(func(*Registration) {}), ""},
		{`{"client_id":"c","token_endpoint_auth_method":"private_key_jwt"}`, registration(func(r *Registration) { r.Auth = PrivateKeyJWT }), ""},
		{`{}`, nil, "there is no usable client_id in the answer"},
		{`{"client_id":""}`, nil, "there is no usable client_id in the answer"},
		{`{"client_id":17}`, nil, "there is no usable client_id in the answer"},
		{`{"client_id":"\u001b"}`, nil, "there is no usable client_id in the answer"},
		{`{"client_id":"c","client_secret":17}`, nil, "client_secret is no string of printable ASCII"},
		{`{"client_id":"c","client_secret":"a\nb"}`, nil, "client_secret is no string of printable ASCII"},
		{`{"client_id":"c","token_endpoint_auth_method":"\u001b"}`, nil, "token_endpoint_auth_method is not a name"},
		{`{"client_id":"c","token_endpoint_auth_method":["none"]}`, nil, "token_endpoint_auth_method is not a name"},
		{`{"client_id":"c","token_endpoint_auth_method":"client_secret_basic"}`, nil, "the client is registered for client_secret_basic, and there is no client_secret in the answer"},
		{`{"client_id":"c","redirect_uris":"http://127.0.0.1/c"}`, nil, "redirect_uris is not a list of URLs"},
		{`{"client_id":"c","redirect_uris":["http://127.0.0.1/c",1]}`, nil, "redirect_uris is not a list of URLs"},
		{`{"client_id":"c","redirect_uris":["\u001b"]}`, nil, "redirect_uris is not a list of URLs"},
	} {
		s, _ := answering(t, status("201 Created", row.answer))
		got, err := Register(t.Context(), "http://"+s.addr, asked, Secret{}, Transport{})
		if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(Secret{})); diff != "" {
			t.Errorf("%s: %s", row.answer, diff)
		}
		if row.odd == "" {
			if err != nil {
				t.Errorf("%s: %v", row.answer, err)
			}
			continue
		}
		want := "registering at " + s.addr + ": " + row.odd + " (HTTP 201)"
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || e.Kind != Malformed {
			t.Errorf("%s: got %v, want %s", row.answer, err, want)
		}
	}
}

func TestRegisterUser(t *testing.T) {
	for answer, want := range map[string]*Credentials{
		`{"client_id":"ID","client_key":"KEY","client_secret":"SECRET"}`: {ID: "ID", Key: "KEY", Secret: NewSecret("SECRET")},
		`{"client_id":"ID","client_secret":"SECRET"}`:                    {ID: "ID", Key: "ID", Secret: NewSecret("SECRET")},
	} {
		s, _ := answering(t, status("201 Created", answer))
		got, err := RegisterUser(t.Context(), "http://"+s.addr+"/v1/register", "me@domain.com", NewSecret(`p"w`), Transport{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
			t.Error(diff)
		}
		wire := wireOf("POST", "/v1/register", s.addr, `{"username":"me@domain.com","password":"p\"w"}`, testBoth, testJSON)
		if diff := cmp.Diff([]string{wire}, s.seen()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRegisterUserFailures(t *testing.T) {
	for answer, odd := range map[string]string{
		`{"client_key":"KEY","client_secret":"SECRET"}`:              "there is no usable client_id in the answer",
		`{"client_id":"ID","client_key":"KEY"}`:                      "there is no client_secret in the answer",
		`{"client_id":"ID","client_key":1,"client_secret":"SECRET"}`: "client_key is no string of printable ASCII",
		`{"client_id":"ID","client_key":"KEY","client_secret":1}`:    "client_secret is no string of printable ASCII",
	} {
		s, _ := answering(t, status("201 Created", answer))
		got, err := RegisterUser(t.Context(), "http://"+s.addr, "me", NewSecret("pw"), Transport{})
		if want := "registering at " + s.addr + ": " + odd + " (HTTP 201)"; err == nil || err.Error() != want || got != nil {
			t.Errorf("%s: got %v, %v, want %s", answer, got, err, want)
		}
	}
	for _, who := range [][2]string{{"", "pw"}, {"me", ""}} {
		_, err := RegisterUser(t.Context(), "https://as.example", who[0], NewSecret(who[1]), Transport{})
		if err == nil || err.Error() != "registering: no user name or no password" {
			t.Errorf("%q: got %v", who, err)
		}
	}
}

func TestBearerThatNoHeaderHas(t *testing.T) {
	s, _ := answering(t, ok("{}"))
	for _, token := range []string{"a\r\nX: y", "a b", "é"} {
		_, err := Register(t.Context(), "http://"+s.addr, ClientMetadata{}, NewSecret(token), Transport{})
		if want := "registering at " + s.addr + ": the token to send has characters that no Bearer token has"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		_, err = GitHubToken(t.Context(), "http://"+s.addr, NewSecret(token), 1, Transport{})
		if want := "asking " + s.addr + " for an installation's token: the token to send has characters that no Bearer token has"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if s.connections() != 0 {
		t.Error("something was sent")
	}
}
