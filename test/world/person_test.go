package world

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	verifier   = "a-verifier-of-at-least-43-characters-0123456789"
	userScope  = "openid offline_access read"
	deviceCode = "urn:ietf:params:oauth:grant-type:device_code"
)

// request is what a client sends to the authorization endpoint.
func request(client, redirectURI string) url.Values {
	sum := sha256.Sum256([]byte(verifier))
	return url.Values{
		"client_id": {client}, "response_type": {"code"}, "redirect_uri": {redirectURI}, "scope": {userScope}, "state": {"s1"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
}

// post sends a form, as client if that has a secret.
func post(t *testing.T, p *Provider, issuer, path, client string, form url.Values) (*http.Response, map[string]any) {
	t.Helper()
	authorization := ""
	if secret := p.Secrets[client]; secret != "" {
		authorization = basic(url.QueryEscape(client), url.QueryEscape(secret))
	} else {
		form.Set("client_id", client)
	}
	return send(t, "POST", issuer+path, authorization, form.Encode(), authority(t, p))
}

// login returns what the redirect has, for user or, with none, one who says no.
func login(t *testing.T, p *Provider, authorizationURL, user string) (at string, answer url.Values) {
	t.Helper()
	redirect, err := p.Approve(t.Context(), authorizationURL, user)
	if user == "" {
		redirect, err = p.Deny(t.Context(), authorizationURL)
	}
	if err != nil {
		t.Fatal(err)
	}
	at, query, _ := strings.Cut(redirect, "?")
	answer, err = url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	return at, answer
}

func redeem(code, redirectURI string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI}, "code_verifier": {verifier}}
}

func refresh(t *testing.T, p *Provider, client string, token any) (*http.Response, map[string]any) {
	t.Helper()
	return post(t, p, p.Issuer, "/token", client, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.(string)}})
}

func TestAuthorizationCode(t *testing.T) {
	p := provider
	for _, tt := range []struct{ client, redirectURI string }{
		{"native", "http://127.0.0.1:51234/callback"},
		{"native", "http://[::1]:51234/callback"},
		{"native", "http://localhost:51234/callback"},
		{"native-once", "http://127.0.0.1:51234/callback"},
		{"web", "http://127.0.0.1:51234/callback"},
	} {
		for _, issuer := range []string{p.Issuer, p.TLSIssuer} {
			t.Run(tt.client+" "+tt.redirectURI+" "+issuer, func(t *testing.T) {
				at, answer := login(t, p, issuer+"/auth?"+request(tt.client, tt.redirectURI).Encode(), "alice")
				code := answer.Get("code")
				want := url.Values{"code": {code}, "state": {"s1"}, "iss": {issuer}}
				if diff := cmp.Diff(want, answer); diff != "" || code == "" || at != tt.redirectURI {
					t.Fatalf("%s %s", at, diff)
				}
				resp, got := post(t, p, issuer, "/token", tt.client, redeem(code, tt.redirectURI))
				if resp.StatusCode != 200 || got["expires_in"] != 77.0 || got["scope"] == nil || got["id_token"] == nil {
					t.Fatalf("%d %v", resp.StatusCode, got)
				}
				if (got["refresh_token"] != nil) != (tt.client != "native-once") {
					t.Errorf("refresh token %v", got["refresh_token"])
				}
				said, err := p.Introspect(t.Context(), got["access_token"].(string))
				if err != nil || said["active"] != true || said["sub"] != "alice" || said["iss"] != issuer || said["client_id"] != tt.client {
					t.Errorf("%v %v", said, err)
				}
				// RFC 6749 4.1.2: a second use ends what came of the first.
				if resp, got := post(t, p, issuer, "/token", tt.client, redeem(code, tt.redirectURI)); resp.StatusCode != 400 || got["error"] != "invalid_grant" {
					t.Errorf("code used twice: %d %v", resp.StatusCode, got)
				}
				if said, err := p.Introspect(t.Context(), got["access_token"].(string)); err != nil || said["active"] != false {
					t.Errorf("%v %v", said, err)
				}
			})
		}
	}

	const redirectURI = "http://127.0.0.1:51234/callback"
	t.Run("wrong verifier", func(t *testing.T) {
		_, answer := login(t, p, p.Issuer+"/auth?"+request("native", redirectURI).Encode(), "alice")
		form := redeem(answer.Get("code"), redirectURI)
		form.Set("code_verifier", "another-"+verifier)
		if resp, got := post(t, p, p.Issuer, "/token", "native", form); resp.StatusCode != 400 || got["error"] != "invalid_grant" {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
	})
	t.Run("denied", func(t *testing.T) {
		at, answer := login(t, p, p.Issuer+"/auth?"+request("native", redirectURI).Encode(), "")
		want := url.Values{"error": {"access_denied"}, "error_description": {"End-User aborted interaction"}, "state": {"s1"}, "iss": {p.Issuer}}
		if diff := cmp.Diff(want, answer); diff != "" || at != redirectURI {
			t.Errorf("%s %s", at, diff)
		}
	})
	t.Run("nowhere to go", func(t *testing.T) {
		_, err := p.Approve(t.Context(), p.Issuer+"/auth?"+request("native", "http://127.0.0.1:51234/other").Encode(), "alice")
		want := `the server says ["invalid_redirect_uri" "redirect_uri did not match any of the client's registered redirect_uris"]`
		if err == nil || err.Error() != want {
			t.Error(err)
		}
	})
	t.Run("for a resource", func(t *testing.T) {
		form := request("native", redirectURI)
		form.Set("resource", "https://api.example/jwt")
		_, answer := login(t, p, p.Issuer+"/auth?"+form.Encode(), "alice")
		_, got := post(t, p, p.Issuer, "/token", "native", redeem(answer.Get("code"), redirectURI))
		token, _ := got["access_token"].(string)
		if c := verify(t, p.Issuer, token, "at+jwt"); c["aud"] != "https://api.example/jwt" || c["sub"] != "alice" || c["scope"] != "read" {
			t.Errorf("%v", c)
		}
	})
	t.Run("PAR", func(t *testing.T) {
		form := request("web-par", redirectURI)
		_, answer := login(t, p, p.Issuer+"/auth?"+form.Encode(), "alice")
		if answer.Get("error") != "invalid_request" {
			t.Errorf("not pushed: %v", answer)
		}
		resp, pushed := post(t, p, p.Issuer, "/request", "web-par", form)
		if resp.StatusCode != 201 {
			t.Fatalf("%d %v", resp.StatusCode, pushed)
		}
		short := url.Values{"client_id": {"web-par"}, "request_uri": {pushed["request_uri"].(string)}}
		_, answer = login(t, p, p.Issuer+"/auth?"+short.Encode(), "alice")
		resp, got := post(t, p, p.Issuer, "/token", "web-par", redeem(answer.Get("code"), redirectURI))
		if resp.StatusCode != 200 {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
	})
	t.Run("DPoP", func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, answer := login(t, p, p.Issuer+"/auth?"+request("native-dpop", redirectURI).Encode(), "alice")
		form := redeem(answer.Get("code"), redirectURI)
		form.Set("client_id", "native-dpop")
		header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Dpop": {proof(t, key, p.Issuer+"/token", "")}}
		_, got := exchange(t, "POST", p.Issuer+"/token", header, form.Encode(), nil)
		if got["token_type"] != "DPoP" || got["refresh_token"] == nil {
			t.Errorf("%v", got)
		}
	})
}

func TestRefresh(t *testing.T) {
	p := provider
	const redirectURI = "http://127.0.0.1:51234/callback"
	tokens := func(t *testing.T, client string) map[string]any {
		t.Helper()
		_, answer := login(t, p, p.Issuer+"/auth?"+request(client, redirectURI).Encode(), "bob")
		resp, got := post(t, p, p.Issuer, "/token", client, redeem(answer.Get("code"), redirectURI))
		if resp.StatusCode != 200 {
			t.Fatalf("%d %v", resp.StatusCode, got)
		}
		return got
	}
	active := func(t *testing.T, token any) bool {
		t.Helper()
		said, err := p.Introspect(t.Context(), token.(string))
		if err != nil {
			t.Fatal(err)
		}
		return said["active"] == true
	}
	for _, client := range []string{"native", "web"} {
		t.Run(client+" rotates", func(t *testing.T) {
			first := tokens(t, client)
			_, second := refresh(t, p, client, first["refresh_token"])
			if second["refresh_token"] == nil || second["refresh_token"] == first["refresh_token"] || !active(t, second["access_token"]) {
				t.Fatalf("%v", second)
			}
			// RFC 9700 4.14.2: reuse ends the whole family.
			for _, old := range []any{first["refresh_token"], second["refresh_token"]} {
				if resp, got := refresh(t, p, client, old); resp.StatusCode != 400 || got["error"] != "invalid_grant" {
					t.Errorf("%d %v", resp.StatusCode, got)
				}
			}
			if active(t, second["access_token"]) {
				t.Error("the access token lives on")
			}
		})
	}
	t.Run("native-keep keeps", func(t *testing.T) {
		first := tokens(t, "native-keep")
		for range 2 {
			_, got := refresh(t, p, "native-keep", first["refresh_token"])
			if got["refresh_token"] != first["refresh_token"] || got["access_token"] == first["access_token"] {
				t.Errorf("%v", got)
			}
		}
	})
	t.Run("revoked", func(t *testing.T) {
		got := tokens(t, "native")
		resp, _ := post(t, p, p.Issuer, "/token/revocation", "native", url.Values{"token": {got["refresh_token"].(string)}})
		if resp.StatusCode != 200 || active(t, got["access_token"]) {
			t.Errorf("%d, access token active %v", resp.StatusCode, active(t, got["access_token"]))
		}
		if resp, got := refresh(t, p, "native", got["refresh_token"]); resp.StatusCode != 400 || got["error"] != "invalid_grant" {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
	})
}

func TestDevice(t *testing.T) {
	p := provider
	start := func(t *testing.T, client string) map[string]any {
		t.Helper()
		resp, got := post(t, p, p.Issuer, "/device/auth", client, url.Values{"scope": {userScope}})
		if resp.StatusCode != 200 || got["interval"] != 1.0 || got["expires_in"] != 88.0 {
			t.Fatalf("%d %v", resp.StatusCode, got)
		}
		return got
	}
	poll := func(t *testing.T, client string, device map[string]any) map[string]any {
		t.Helper()
		_, got := post(t, p, p.Issuer, "/token", client, url.Values{"grant_type": {deviceCode}, "device_code": {device["device_code"].(string)}})
		return got
	}
	for _, client := range []string{"device", "device-secret", "native"} {
		t.Run(client, func(t *testing.T) {
			device := start(t, client)
			if got := poll(t, client, device); got["error"] != "authorization_pending" {
				t.Errorf("%v", got)
			}
			if err := p.ApproveDevice(t.Context(), device["verification_uri_complete"].(string), "dave"); err != nil {
				t.Fatal(err)
			}
			got := poll(t, client, device)
			if got["refresh_token"] == nil {
				t.Fatalf("%v", got)
			}
			if said, err := p.Introspect(t.Context(), got["access_token"].(string)); err != nil || said["sub"] != "dave" {
				t.Errorf("%v %v", said, err)
			}
			if got := poll(t, client, device); got["error"] != "invalid_grant" {
				t.Errorf("code used twice: %v", got)
			}
		})
	}
	t.Run("denied", func(t *testing.T) {
		device := start(t, "device")
		if err := p.DenyDevice(t.Context(), device["verification_uri_complete"].(string)); err != nil {
			t.Fatal(err)
		}
		if got := poll(t, "device", device); got["error"] != "access_denied" {
			t.Errorf("%v", got)
		}
		err := p.ApproveDevice(t.Context(), device["verification_uri_complete"].(string), "dave")
		if want := `the server says ["The code you entered is incorrect. Try again"]`; err == nil || err.Error() != want {
			t.Errorf("again: %v", err)
		}
	})
}
