package authserver

import (
	"net/url"
	"testing"
)

func TestRevocation(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app, {ID: "opaque", Secret: secret, Opaque: true}, dev}})
	revoke := func(client, token string) reply {
		return sendForm(t, s, "/revoke", "", url.Values{"client_id": {client}, "token": {token}, "token_type_hint": {"nonsense"}})
	}
	first := login(t, s, "app")
	second := wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
	if r := revoke("app", first.Access); r.status != 200 || r.body != "" || isLive(t, s, first.Access) || !isLive(t, s, second.Access) {
		t.Errorf("access token: %d %s", r.status, r.body)
	}
	if r := revoke("app", second.Refresh); r.status != 200 || isLive(t, s, second.Access) {
		t.Errorf("refresh token: %d", r.status)
	}
	wantError(t, "refresh", sendForm(t, s, "/token", "", refreshing("app", second.Refresh)), 400, "invalid_grant")
	wantCounts(t, s, "revoked", [4]int{2, 1, 0, 0})

	token := accessToken(t, post(t, s.TokenURL, basic("opaque", secret), "grant_type=client_credentials"))
	third := login(t, s, "app")
	wantError(t, "another's refresh token", sendForm(t, s, "/revoke", basic("dev", secret), url.Values{"token": {third.Refresh}}), 400, "invalid_grant")
	wantError(t, "another's access token", sendForm(t, s, "/revoke", basic("dev", secret), url.Values{"token": {token}}), 400, "invalid_grant")
	if !isLive(t, s, token) || !isLive(t, s, third.Access) {
		t.Error("another's token was revoked")
	}
	if r := sendForm(t, s, "/revoke", basic("opaque", secret), url.Values{"token": {token}}); r.status != 200 || isLive(t, s, token) {
		t.Errorf("opaque: %d", r.status)
	}
	got := sendForm(t, s, "/introspect", basic("dev", secret), url.Values{"token": {token}})
	if got.body != `{"active":false}` {
		t.Errorf("introspection: %s", got.body)
	}
	for _, token := range []string{"never-issued", first.Access} {
		if r := revoke("app", token); r.status != 200 {
			t.Errorf("%s: %d", token, r.status)
		}
	}
	wantError(t, "no token", revoke("app", ""), 400, "invalid_request")
	wantError(t, "no client", revoke("nobody", third.Refresh), 401, "invalid_client")
	s.AnyClient().Then(Answer{Endpoint: "revoke", Error: "unsupported_token_type"}, Answer{Endpoint: "revoke", Status: 503})
	wantError(t, "scripted", revoke("app", third.Refresh), 400, "unsupported_token_type")
	if r := revoke("app", third.Refresh); r.status != 503 || !isLive(t, s, third.Access) {
		t.Errorf("scripted: %d", r.status)
	}
}

func TestIntrospectionOfRefreshTokens(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app, dev}})
	first := login(t, s, "app")
	ask := func() any {
		return sendForm(t, s, "/introspect", basic("dev", secret), url.Values{"token": {first.Refresh}}).json(t)["active"]
	}
	if ask() != true {
		t.Error("not active")
	}
	wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
	if ask() != false {
		t.Error("active though spent")
	}
}
