package test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"tokend/test/world"
)

const userScope = "openid offline_access read"

// logsIn logs a user in without a browser: what the person does is done by
// plain requests.
func logsIn(t *testing.T, h *home, p *world.Provider, user string, args ...string) {
	t.Helper()
	l := h.login(t, append([]string{"--no-browser"}, args...)...)
	redirect, err := p.Approve(t.Context(), l.address(t), user)
	if err != nil {
		t.Fatal(err)
	}
	visit(t, redirect)
	l.succeeds(t)
}

// visit follows the redirect back to the daemon, as a browser does, and returns
// the page at the end.
func visit(t *testing.T, to string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// native is the text of a profile of a public client that logs in.
func native(p *world.Provider, client string, more ...string) string {
	return lines(append([]string{"OAUTH2_ISSUER=" + p.Issuer, "OAUTH2_GRANT=authorization_code", "CLIENT_ID=" + client, "OAUTH2_SCOPE=" + userScope}, more...)...)
}

// The ways to log in, by each kind of client: what the server is asked, whose
// the token is, and that the session goes on without the person, over a restart
// of the daemon too.
func TestLogins(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	secret := func(id string) string { return "CLIENT_SECRET=" + p.Secrets[id] }
	const (
		redeem       = "code=* code_verifier=* grant_type=authorization_code redirect_uri=http://127.0.0.1:PORT/callback 200"
		redeemPublic = "POST /token client_id=ID code=* code_verifier=* grant_type=authorization_code redirect_uri=http://127.0.0.1:PORT/callback 200"
		refresh      = "POST /token client_id=ID grant_type=refresh_token refresh_token=* 200"
		push         = "POST /request Basic client_id=ID code_challenge=* code_challenge_method=S256 nonce=* redirect_uri=http://127.0.0.1:PORT/callback response_type=code scope=" + userScope + " state=* 201"
		deviceCode   = "grant_type=urn:ietf:params:oauth:grant-type:device_code 200"
	)
	for _, test := range []struct {
		name, text, client string
		device             bool
		asked              []string // by the daemon, for the login
		refreshed          string   // and for the renewal
		scheme             string
	}{
		{"public", native(p, "native"), "native", false, []string{redeemPublic}, refresh, "Bearer"},
		{"keeps", native(p, "native-keep"), "native-keep", false, []string{redeemPublic}, refresh, "Bearer"},
		{"secret", native(p, "web", secret("web")), "web", false, []string{"POST /token Basic " + redeem},
			"POST /token Basic grant_type=refresh_token refresh_token=* 200", "Bearer"},
		{"par", native(p, "web-par", secret("web-par"), "OAUTH2_PAR=on"), "web-par", false, []string{push, "POST /token Basic " + redeem},
			"POST /token Basic grant_type=refresh_token refresh_token=* 200", "Bearer"},
		{"dpop", native(p, "native-dpop", "OAUTH2_DPOP=on"), "native-dpop", false, []string{redeemPublic}, refresh, "DPoP"},
		{"tls", strings.Replace(native(p, "native", "TLS_CA_FILE="+p.CAFile), p.Issuer, p.TLSIssuer, 1), "native", false, []string{redeemPublic}, refresh, "Bearer"},
		{"device", native(p, "device"), "device", true,
			[]string{"POST /device/auth client_id=ID scope=" + userScope + " 200", "POST /token client_id=ID device_code=* " + deviceCode}, refresh, "Bearer"},
		{"device-secret", strings.Replace(native(p, "device-secret", secret("device-secret")), "authorization_code", "device_code", 1), "device-secret", true,
			[]string{"POST /device/auth Basic scope=" + userScope + " 200", "POST /token Basic device_code=* " + deviceCode},
			"POST /token Basic grant_type=refresh_token refresh_token=* 200", "Bearer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text, "add", test.name)
			h.wantLine(t, 4, test.name+": login required (nobody is logged in); run: tokenctl login "+test.name, "get", test.name)
			if err := p.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			wanted := func(lines ...string) (all []string) {
				for _, line := range lines {
					all = append(all, strings.ReplaceAll(line, "ID", test.client))
				}
				return all
			}
			if test.device {
				args := []string{test.name}
				if !strings.Contains(test.text, "device_code") {
					args = append(args, "--device")
				}
				l := h.login(t, args...)
				if err := p.ApproveDevice(t.Context(), l.code(t), "alice"); err != nil {
					t.Fatal(err)
				}
				l.succeeds(t)
			} else {
				logsIn(t, h, p, "alice", test.name)
			}
			wantAsked(t, p, wanted(test.asked...)...)

			// The login's token is there at once.
			token := h.get(t, test.name)
			wantAsked(t, p)
			scope := "openid read" // there was no prompt=consent
			if test.device {
				scope = userScope
			}
			who := map[string]any{"client_id": test.client, "sub": "alice", "scope": scope, "token_type": test.scheme}
			wantActive(t, p, token, who)
			for range 2 { // by the second renewal it is known whether they rotate
				h.must(t, "", "daemon", "restart")
				renewed := h.get(t, test.name)
				if renewed == token {
					t.Error("a token outlived the daemon")
				}
				wantAsked(t, p, wanted(test.refreshed)...)
				wantActive(t, p, renewed, who)
				token = renewed
			}

			var said struct {
				Active bool           `json:"active"`
				Source string         `json:"source"`
				Claims map[string]any `json:"claims"`
			}
			if err := json.Unmarshal([]byte(h.must(t, "", "inspect", test.name, "-o", "json")), &said); err != nil {
				t.Fatal(err)
			}
			if !said.Active || said.Source != "introspection" || said.Claims["sub"] != "alice" {
				t.Errorf("inspect says %+v", said)
			}
			if err := p.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}

			if said := h.must(t, "", "logout", test.name); said != test.name+": logged out, 2 tokens revoked\n" {
				t.Errorf("logout says %q", said)
			}
			if got := len(asked(t, p)); got != 2 {
				t.Errorf("%d requests for two revocations", got)
			}
			wantInactive(t, p, token)
			h.wantLine(t, 4, test.name+": login required (nobody is logged in); run: tokenctl login "+test.name, "get", test.name)
			wantAsked(t, p)
		})
	}
}

// A token that is bound to a key goes with a proof, which only the daemon can
// make, and makes for no endpoint of the authorization server.
func TestDPoPAtResource(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native-dpop", "OAUTH2_DPOP=on", "API_URL="+p.Issuer), "add", "dev/me")
	logsIn(t, h, p, "alice", "dev/me")
	const call = `curl -sS -H @<(tokenctl get -o header dev/me) -H @<(tokenctl proof -o header dev/me GET "$0") "$1"`
	userinfo := p.Issuer + "/me"
	for range 2 { // each proof is another
		if r := finish(t, h.command("bash", "-c", call, userinfo, userinfo)); r.out != `{"sub":"alice"}` {
			t.Errorf("the resource answers %v", r)
		}
	}
	if r := finish(t, h.command("bash", "-c", call, p.Issuer+"/other", userinfo)); !strings.Contains(r.out, "invalid_dpop_proof") && !strings.Contains(r.out, "invalid_token") {
		t.Errorf("with another URL's proof: %v", r)
	}
	if r := finish(t, h.command("curl", "-sS", "-H", h.get(t, "dev/me", "-o", "header"), userinfo)); strings.Contains(r.out, "alice") {
		t.Errorf("without a proof: %v", r)
	}
	h.wantLine(t, 7, "dev/me: the URL is an endpoint of the authorization server", "proof", "dev/me", "POST", p.Issuer+"/token")
	h.wantLine(t, 7, "dev/me: the URL is at none of the profile's API_URL origins; check API_URL: tokenctl edit dev/me", "proof", "dev/me", "GET", "https://evil.example/")
}

// refreshTokenOf is a refresh token that was got elsewhere: by the test itself.
func refreshTokenOf(t *testing.T, p *world.Provider, client, user string) string {
	t.Helper()
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" // RFC 7636 appendix B
	const back = "http://127.0.0.1:1/callback"
	redirect, err := p.Approve(t.Context(), p.Issuer+"/auth?"+url.Values{
		"client_id": {client}, "response_type": {"code"}, "redirect_uri": {back}, "scope": {userScope},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}, "prompt": {"consent"},
	}.Encode(), user)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(redirect)
	if err != nil {
		t.Fatal(err)
	}
	answer := redeem(t, p, url.Values{"client_id": {client}, "grant_type": {"authorization_code"}, "code": {u.Query().Get("code")},
		"redirect_uri": {back}, "code_verifier": {verifier}})
	token, _ := answer["refresh_token"].(string)
	if token == "" {
		t.Fatalf("no refresh token: %v", answer)
	}
	return token
}

// redeem asks the token endpoint, and returns the answer, a refusal too.
func redeem(t *testing.T, p *world.Provider, form url.Values) map[string]any {
	t.Helper()
	resp, err := http.PostForm(p.Issuer+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// A refresh token got elsewhere is copied at first use. Once it has been rotated
// away it is no good to anybody, and the session goes on without it.
func TestRefreshTokenInText(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	const refresh = "POST /token client_id=native grant_type=refresh_token refresh_token=* 200"
	text := func(token string) string {
		return strings.Replace(native(p, "native", "OAUTH2_REFRESH_TOKEN="+token), "authorization_code", "refresh_token", 1)
	}
	first := refreshTokenOf(t, p, "native", "carol")
	h.must(t, text(first), "add", "elsewhere")
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := h.get(t, "elsewhere")
	wantAsked(t, p, refresh)
	wantActive(t, p, token, map[string]any{"client_id": "native", "sub": "carol"})
	// Whoever asks, it is spent once.
	h.must(t, "", "daemon", "restart")
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	got := make([]result, 16)
	for i := range got {
		all.Go(func() { got[i] = h.tokenctl(t, "", "get", "elsewhere") })
	}
	all.Wait()
	wantAsked(t, p, refresh)
	for _, r := range got {
		if r != got[0] || r.code != 0 || r.out == token+"\n" {
			t.Errorf("one of many gets %v, the first %v", r, got[0])
		}
	}
	wantActive(t, p, h.get(t, "elsewhere"), map[string]any{"sub": "carol"})
	if shown := h.must(t, "", "show", "--reveal", "elsewhere"); !strings.Contains(shown, first) {
		t.Error("the text was rewritten")
	}

	// Who uses the old one again ends the grant at this server; the daemon says so.
	if answer := redeem(t, p, url.Values{"client_id": {"native"}, "grant_type": {"refresh_token"}, "refresh_token": {first}}); answer["error"] != "invalid_grant" {
		t.Errorf("the old refresh token: %v", answer)
	}
	h.must(t, "", "daemon", "restart")
	h.wantLine(t, 4, "elsewhere: login required (refresh token rejected: invalid_grant); give it a new OAUTH2_REFRESH_TOKEN: tokenctl edit elsewhere", "get", "elsewhere")
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantLine(t, 4, "elsewhere: login required (refresh token rejected: invalid_grant); give it a new OAUTH2_REFRESH_TOKEN: tokenctl edit elsewhere", "get", "elsewhere")
	wantAsked(t, p) // neither is it sent again, nor the text's

	h.must(t, text(refreshTokenOf(t, p, "native", "dave")), "add", "--replace", "elsewhere")
	wantActive(t, p, h.get(t, "elsewhere"), map[string]any{"sub": "dave"})

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(refreshTokenOf(t, p, "native-keep", "erin")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(t, strings.Replace(native(p, "native-keep", "OAUTH2_REFRESH_TOKEN_FILE="+file), "authorization_code", "refresh_token", 1), "add", "file")
	for range 3 {
		wantActive(t, p, h.get(t, "file"), map[string]any{"sub": "erin"})
		h.must(t, "", "daemon", "restart")
	}

	h.must(t, text("never-issued"), "add", "wrong")
	h.wantLine(t, 4, "wrong: login required (refresh token rejected: invalid_grant); give it a new OAUTH2_REFRESH_TOKEN: tokenctl edit wrong", "get", "wrong")
}

// A refresh token is spent once, and no other program can use it afterwards.
func TestRotation(t *testing.T) {
	t.Parallel()
	p := startWorld(t, "ACCESS_TTL=2")
	h := newHome(t)
	h.must(t, "", "init")
	first := refreshTokenOf(t, p, "native", "carol")
	h.must(t, native(p, "native", "OAUTH2_REFRESH_TOKEN="+first), "add", "dev/me")
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	waitFor(t, "three tokens", func() bool {
		seen[h.get(t, "dev/me")] = true
		return len(seen) == 3
	})
	const refresh = "POST /token client_id=native grant_type=refresh_token refresh_token=* 200"
	wantAsked(t, p, refresh, refresh, refresh)
}

// A login that yields no refresh token: its access token is the session, which
// outlives the daemon, and when it ends a person is needed.
func TestLoginWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	p := startWorld(t, "ACCESS_TTL=8", "DEVICE_INTERVAL=1", "DEVICE_TTL=3")
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "device"), "add", "device")
	h.must(t, native(p, "native-once"), "add", "once")
	l := h.login(t, "--no-browser", "once")
	redirect, err := p.Approve(t.Context(), l.address(t), "frank")
	if err != nil {
		t.Fatal(err)
	}
	visit(t, redirect)
	if r := l.ends(t); r.code != 0 || !strings.HasSuffix(r.out, ", then a new login is needed\n") {
		t.Errorf("the login ended with %v", r)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := h.get(t, "once")
	wantActive(t, p, token, map[string]any{"sub": "frank"})
	h.must(t, "", "daemon", "restart")
	if again := h.get(t, "once"); again != token {
		t.Error("another token after the restart")
	}
	late := h.login(t, "--device", "device")
	var r result
	waitFor(t, "the end of the token", func() bool {
		r = h.tokenctl(t, "", "get", "once")
		return r.code != 0
	})
	if want := (result{"", "tokenctl: once: login required (the access token has ended, and the server gave no refresh token); run: tokenctl login once\n", 4}); r != want {
		t.Errorf("at the end: %v, want %v", r, want)
	}
	if got := asked(t, p); slices.ContainsFunc(got, func(line string) bool { return !strings.Contains(line, "client_id=device ") }) {
		t.Errorf("the server was asked %q", got)
	}
	// A code that nobody typed in has ended meanwhile.
	late.fails(t, 4, "device: nobody logged in in time; to try again: tokenctl login device")
}

// What the person refuses, or the server does, is no login.
func TestLoginsRefused(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	h.must(t, native(p, "web", "CLIENT_SECRET=wrong-s3cret"), "add", "secret")
	h.must(t, native(p, "device"), "add", "device")
	h.must(t, native(p, "web-par", "CLIENT_SECRET=wrong-s3cret", "OAUTH2_PAR=on"), "add", "par")
	h.must(t, native(p, "cc-basic"), "add", "other-client")
	h.must(t, lines("OAUTH2_ISSUER="+p.Issuer, "CLIENT_ID=cc-basic", "CLIENT_SECRET="+p.Secrets["cc-basic"]), "add", "machine")

	t.Run("denied", func(t *testing.T) {
		l := h.login(t, "--no-browser", "dev/me")
		redirect, err := p.Deny(t.Context(), l.address(t))
		if err != nil {
			t.Fatal(err)
		}
		visit(t, redirect)
		l.fails(t, 7, "dev/me: the login was denied; to try again: tokenctl login dev/me")
	})
	t.Run("secret", func(t *testing.T) {
		l := h.login(t, "--no-browser", "secret")
		redirect, err := p.Approve(t.Context(), l.address(t), "alice")
		if err != nil {
			t.Fatal(err)
		}
		page := visit(t, redirect)
		for _, text := range []string{"<h1>Login failed</h1>", "Your terminal says why", "<code>tokenctl login secret</code>"} {
			if !strings.Contains(page, text) {
				t.Errorf("the page does not say %q:\n%s", text, page)
			}
		}
		l.fails(t, 8, "secret: asking 127.0.0.1:PORT for a token: invalid_client: client authentication failed (HTTP 401)"+checkIt+"secret")
	})
	t.Run("pushed with a wrong secret", func(t *testing.T) {
		h.login(t, "--no-browser", "par").fails(t, 8, "par: leaving the authorization request with 127.0.0.1:PORT: invalid_client: client authentication failed (HTTP 401)"+checkIt+"par")
	})
	t.Run("scope", func(t *testing.T) {
		l := h.login(t, "--no-browser", "dev/me", "--scope", "admin")
		redirect, err := p.Approve(t.Context(), l.address(t), "alice")
		if err != nil {
			t.Fatal(err)
		}
		visit(t, redirect)
		l.fails(t, 8, "dev/me: asking for authorization: invalid_scope: requested scope is not allowed; check --scope")
	})
	t.Run("device denied", func(t *testing.T) {
		l := h.login(t, "--device", "device")
		if err := p.DenyDevice(t.Context(), l.code(t)); err != nil {
			t.Fatal(err)
		}
		l.fails(t, 7, "device: the login was denied; to try again: tokenctl login device")
	})
	t.Run("device, but not this client", func(t *testing.T) {
		h.login(t, "--device", "other-client").fails(t, 8, "other-client: asking 127.0.0.1:PORT for a device code: invalid_client: client authentication failed (HTTP 401)"+checkIt+"other-client")
	})
	h.wantLine(t, 78, "machine: OAUTH2_GRANT: this profile's tokens need no login; for one, set it to authorization_code or device_code; run: tokenctl edit machine", "login", "machine")
	h.wantLine(t, 4, "dev/me: login required (nobody is logged in); run: tokenctl login dev/me", "get", "dev/me")
	for _, redirect := range []string{"https://127.0.0.1:8080/callback", "http://192.0.2.1/callback", "http://127.0.0.1.example.com/callback"} {
		r := h.tokenctl(t, native(p, "native", "OAUTH2_REDIRECT_URL="+redirect), "add", "redirect")
		if r.code != 78 || r.out != "" || !strings.Contains(r.err, "line 5: OAUTH2_REDIRECT_URL: ") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: %v", redirect, r)
		}
	}
}

// A session goes along with its profile.
func TestSessionMoves(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	logsIn(t, h, p, "alice", "dev/me")
	h.must(t, "", "mv", "dev/me", "team/me")
	h.must(t, "", "daemon", "restart")
	wantActive(t, p, h.get(t, "team/me"), map[string]any{"sub": "alice"})
	h.wantLine(t, 6, "dev/me: no such profile; run: tokenctl add dev/me", "get", "dev/me")

	// A new profile of the old name has none.
	h.must(t, native(p, "native"), "add", "dev/me")
	h.wantLine(t, 4, "dev/me: login required (nobody is logged in); run: tokenctl login dev/me", "get", "dev/me")
	// And what was got for one client goes to no other.
	h.must(t, native(p, "native-keep"), "add", "--replace", "team/me")
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantLine(t, 4, "team/me: login required (the client is another one than at the login); run: tokenctl login team/me", "get", "team/me")
	wantAsked(t, p)
}

// What is revoked is no good to whoever has it, and a person is needed where
// there was one before.
func TestRevocation(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	h.must(t, native(p, "web", "CLIENT_SECRET="+p.Secrets["web"]), "add", "dev/web")
	h.must(t, lines("OAUTH2_ISSUER="+p.Issuer, "CLIENT_ID=cc-basic", "CLIENT_SECRET="+p.Secrets["cc-basic"]), "add", "machine")
	for _, test := range []struct{ name, auth, client string }{{"dev/me", "", "client_id=native "}, {"dev/web", "Basic ", ""}} {
		logsIn(t, h, p, "alice", test.name)
		token := h.get(t, test.name)
		asked(t, p)
		if said := h.must(t, "", "revoke", test.name); said != test.name+": 2 tokens revoked\n" {
			t.Errorf("revoke says %q", said)
		}
		wantAsked(t, p, "POST /token/revocation "+test.auth+test.client+"token=* token_type_hint=refresh_token 200",
			"POST /token/revocation "+test.auth+test.client+"token=* token_type_hint=access_token 200")
		wantInactive(t, p, token)
		h.wantLine(t, 4, test.name+": login required (nobody is logged in); run: tokenctl login "+test.name, "get", test.name)
		logsIn(t, h, p, "bob", test.name)
		wantActive(t, p, h.get(t, test.name), map[string]any{"sub": "bob"})
	}
	token := h.get(t, "machine")
	if said := h.must(t, "", "revoke", "machine"); said != "machine: 1 token revoked\n" {
		t.Errorf("revoke says %q", said)
	}
	wantInactive(t, p, token)
	wantActive(t, p, h.get(t, "machine"), map[string]any{"client_id": "cc-basic"})
	mine, web, machine := h.get(t, "dev/me"), h.get(t, "dev/web"), h.get(t, "machine")
	if said := h.must(t, "", "revoke", "--all", "--yes"); said != "dev/me: 2 tokens revoked\ndev/web: 2 tokens revoked\nmachine: 1 token revoked\n" {
		t.Errorf("revoke says %q", said)
	}
	for _, token := range []string{mine, web, machine} {
		wantInactive(t, p, token)
	}
	logsIn(t, h, p, "alice", "dev/me")
	token = h.get(t, "dev/me")
	h.must(t, "", "rm", "dev/me", "--yes")
	wantInactive(t, p, token)
}
