package login_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/login"
	"tokend/oauth"
	"tokend/test/authserver"
)

// lastRequest is the last request to a path of the server.
func lastRequest(t *testing.T, s *authserver.Server, path string) authserver.Request {
	t.Helper()
	all := s.Requests()
	for i := range all {
		if r := all[len(all)-1-i]; r.Path == path {
			return r
		}
	}
	t.Fatalf("no request to %s", path)
	panic("not reached")
}

func TestBrowser(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	p := prepare(t, s, "OAUTH2_RESOURCE="+s.ResourceURL, "OAUTH2_AUDIENCE=one two", "OAUTH2_EXTRA_prompt=consent", "OAUTH2_SCOPE=not these")
	p.Profile.AuthorizationExtra = url.Values{"access_type": {"offline"}}
	l := begin(t, login.Browser, p, "read", "write")
	open := next[login.OpenURL](l)
	if left := time.Until(open.Expires); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("expires in %v", left)
	}
	page := visit(t, open.URL)
	token, err := l.end()
	if err != nil {
		t.Fatal(err)
	}
	if token.AccessToken.IsZero() || token.RefreshToken.IsZero() {
		t.Error("a token is missing")
	}
	if page.status != http.StatusOK || page.url.String() != open.RedirectURL+"/done" {
		t.Errorf("the browser ends with %d at %s", page.status, page.url)
	}
	for _, text := range []string{"You are logged in", "dev/network", "tokenctl get dev/network"} {
		if !strings.Contains(page.body, text) {
			t.Errorf("%q is not on the page", text)
		}
	}

	asked := lastRequest(t, s, "/authorize").Query
	given := lastRequest(t, s, "/token").Form
	sum := sha256.Sum256([]byte(given.Get("code_verifier")))
	if asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Error("challenge and verifier differ")
	}
	if len(asked.Get("state")) < 22 {
		t.Error("the state is short")
	}
	for _, name := range []string{"code_challenge", "state"} {
		asked.Del(name)
	}
	if diff := cmp.Diff(url.Values{
		"response_type": {"code"}, "client_id": {"app"}, "code_challenge_method": {"S256"},
		"redirect_uri": {open.RedirectURL}, "scope": {"read write"}, "prompt": {"consent"},
		"resource": {s.ResourceURL}, "audience": {"one", "two"}, "access_type": {"offline"},
	}, asked); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"code", "code_verifier"} {
		if given.Get(name) == "" {
			t.Errorf("no %s in the token request", name)
		}
		given.Del(name)
	}
	if diff := cmp.Diff(url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"app"}, "redirect_uri": {open.RedirectURL},
		"prompt": {"consent"}, "resource": {s.ResourceURL}, "audience": {"one", "two"},
	}, given); diff != "" {
		t.Error(diff)
	}

	if c, err := net.Dial("tcp", page.url.Host); err == nil {
		c.Close()
		t.Error("something listens still")
	}
}

func TestBrowserOptions(t *testing.T) {
	confidential := app
	confidential.ID, confidential.Auth, confidential.Secret = "app", authserver.AuthBasic, secret
	par := app
	par.RequirePAR = true
	for name, tt := range map[string]struct {
		cfg   authserver.Config
		lines []string
		check func(*testing.T, *authserver.Server, login.OpenURL)
	}{
		"client secret": {
			cfg:   authserver.Config{Clients: []authserver.Client{confidential}},
			lines: []string{"CLIENT_SECRET=" + secret},
			check: func(t *testing.T, s *authserver.Server, _ login.OpenURL) {
				if got := lastRequest(t, s, "/token").Header.Get("Authorization"); !strings.HasPrefix(got, "Basic ") {
					t.Errorf("Authorization is %q", got)
				}
			},
		},
		"PAR because the server wants it": {
			cfg:   authserver.Config{Clients: []authserver.Client{app}, RequirePAR: true},
			check: pushed,
		},
		"PAR because the profile wants it": {
			cfg:   authserver.Config{Clients: []authserver.Client{par}},
			lines: []string{"OAUTH2_PAR=on"},
			check: pushed,
		},
		"localhost": {
			cfg:   authserver.Config{Clients: []authserver.Client{app}},
			lines: []string{"OAUTH2_REDIRECT_URL=http://localhost:" + freePort(t) + "/back"},
			check: func(t *testing.T, _ *authserver.Server, open login.OpenURL) {
				if !strings.HasPrefix(open.RedirectURL, "http://localhost:") || !strings.HasSuffix(open.RedirectURL, "/back") {
					t.Errorf("the redirect URL is %s", open.RedirectURL)
				}
			},
		},
		"no iss, no metadata of it": {
			cfg: authserver.Config{Clients: []authserver.Client{app}, ResponseIss: authserver.NoIss},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := authserver.Start(t, tt.cfg)
			l := begin(t, login.Browser, prepare(t, s, tt.lines...))
			open := next[login.OpenURL](l)
			page := visit(t, open.URL)
			if token, err := l.end(); err != nil || token.AccessToken.IsZero() {
				t.Fatal(err)
			}
			if page.url.String() != open.RedirectURL+"/done" || page.status != http.StatusOK {
				t.Errorf("the browser ends with %d at %s", page.status, page.url)
			}
			if tt.check != nil {
				tt.check(t, s, open)
			}
		})
	}
}

// pushed checks that nothing but the reference went through the browser.
func pushed(t *testing.T, s *authserver.Server, open login.OpenURL) {
	t.Helper()
	u, err := url.Parse(open.URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if len(q) != 2 || q.Get("client_id") != "app" || !strings.HasPrefix(q.Get("request_uri"), "urn:") {
		t.Errorf("the browser was sent to %s", u)
	}
	if left := time.Until(open.Expires); left > time.Minute {
		t.Errorf("the address is good for %v, what was pushed for a minute", left)
	}
	if s.Count("/par") != 1 {
		t.Errorf("%d requests were pushed", s.Count("/par"))
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestBrowserDPoP(t *testing.T) {
	bound := app
	bound.RequireDPoP = true
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{bound}})
	p := prepare(t, s)
	key, err := oauth.NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	p.Client.DPoP = oauth.NewDPoP(key)
	l := begin(t, login.Browser, p)
	visit(t, next[login.OpenURL](l).URL)
	token, err := l.end()
	if err != nil || token.Type != "DPoP" {
		t.Fatal(token, err)
	}
	if got := lastRequest(t, s, "/authorize").Query.Get("dpop_jkt"); got != key.Thumbprint() {
		t.Errorf("dpop_jkt is %q", got)
	}
}

// What anybody can send to the listener is answered with a page of no use, and
// the login goes on.
func TestForgedCallbacks(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	right := callback(t, open)
	u, err := url.Parse(right)
	if err != nil {
		t.Fatal(err)
	}
	change := func(name, value string) string {
		q := u.Query()
		q.Set(name, value)
		return open.RedirectURL + "?" + q.Encode()
	}
	without := func(name string) string {
		q := u.Query()
		q.Del(name)
		return open.RedirectURL + "?" + q.Encode()
	}
	const marker = "reflected0marker"
	tried := 0
	for name, forged := range map[string]string{
		"no query":             open.RedirectURL,
		"no state":             without("state"),
		"wrong state":          change("state", marker),
		"error of a stranger":  open.RedirectURL + "?error=access_denied&error_description=" + marker + "&state=" + marker,
		"two codes":            right + "&code=" + marker,
		"two states":           right + "&state=" + marker,
		"something else twice": right + "&" + marker + "=1&" + marker + "=2",
		"another issuer":       change("iss", "https://"+marker+".example"),
		"no issuer":            without("iss"),
	} {
		page := visit(t, forged)
		if page.status != http.StatusBadRequest || page.url.String() != forged {
			t.Errorf("%s: %d at %s", name, page.status, page.url)
		}
		if strings.Contains(page.body, marker) || strings.Contains(page.body, "dev/network") {
			t.Errorf("%s: the page tells a stranger something", name)
		}
		checkHeader(t, page)
		if tried++; tried > 8 {
			continue // the person is told of no more than eight
		}
		if n := next[login.Notice](l); !strings.Contains(n.Message, "still waiting") || strings.Contains(n.Message, marker) && name != "another issuer" {
			t.Errorf("%s: the person is told %q", name, n.Message)
		}
	}
	if page := visit(t, right); page.status != http.StatusOK {
		t.Errorf("the right one: %d", page.status)
	}
	if _, err := l.end(); err != nil {
		t.Error(err)
	}
	if s.Count("/token") != 1 {
		t.Errorf("%d token requests", s.Count("/token"))
	}
}

func checkHeader(t *testing.T, page answer) {
	t.Helper()
	for name, want := range map[string]string{
		"Cache-Control":          "no-store",
		"Referrer-Policy":        "no-referrer",
		"X-Content-Type-Options": "nosniff",
		"Content-Type":           "text/html; charset=utf-8",
	} {
		if got := page.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	_, style, _ := strings.Cut(page.body, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if got := page.header.Get("Content-Security-Policy"); got != want {
		t.Errorf("Content-Security-Policy: %q", got)
	}
	for _, outside := range []string{"<script", "http:", "https:", "src="} {
		if strings.Contains(page.body, outside) {
			t.Errorf("there is %q in the page", outside)
		}
	}
}

func TestFlood(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	for range 30 {
		visit(t, open.RedirectURL+"?code=x&state=y")
	}
	visit(t, open.URL)
	if _, err := l.end(); err != nil {
		t.Fatal(err)
	}
	if n := len(l.events); n > 8 {
		t.Errorf("the person is told %d times", n)
	}
}

func TestOtherRequests(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	right := callback(t, open)
	for name, tt := range map[string]struct {
		method, address, host, body string
		padding                     int
		want                        int
	}{
		"POST":              {method: "POST", address: right, want: 405},
		"HEAD":              {method: "HEAD", address: right, want: 405},
		"OPTIONS":           {method: "OPTIONS", address: right, want: 405},
		"a body":            {method: "GET", address: right, body: "x", want: 400},
		"another host":      {method: "GET", address: right, host: "rebound.example", want: 421},
		"localhost":         {method: "GET", address: right, host: "localhost:" + port(t, open), want: 421},
		"no port":           {method: "GET", address: right, host: "127.0.0.1", want: 421},
		"another path":      {method: "GET", address: strings.Replace(right, "/callback?", "/callback/?", 1), want: 404},
		"an encoded path":   {method: "GET", address: strings.Replace(right, "/callback?", "/%63allback?", 1), want: 404},
		"root":              {method: "GET", address: strings.Replace(right, "/callback?", "/?", 1), want: 404},
		"the end, too soon": {method: "GET", address: open.RedirectURL + "/done", want: 404},
		"a large header":    {method: "GET", address: right, padding: 16 << 10, want: 431},
		"a large query":     {method: "GET", address: right + "&x=" + strings.Repeat("x", 16<<10), want: 431},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.address, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		if tt.padding > 0 {
			req.Header.Set("X-Padding", strings.Repeat("x", tt.padding))
		}
		a, err := send(req)
		if tt.want == http.StatusRequestHeaderFieldsTooLarge && err != nil {
			continue // closed while it was still being sent
		}
		if err != nil || a.status != tt.want {
			t.Errorf("%s: %d, want %d (%v)", name, a.status, tt.want, err)
		}
		if strings.Contains(a.body, "dev/network") {
			t.Errorf("%s: the profile is named", name)
		}
	}
	if len(l.events) > 0 {
		t.Error("the person is bothered with it")
	}
	visit(t, right)
	if _, err := l.end(); err != nil {
		t.Error(err)
	}
}

func port(t *testing.T, open login.OpenURL) string {
	t.Helper()
	u, err := url.Parse(open.RedirectURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestBrowserRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		answer authserver.Answer // of the authorization endpoint
		title  string
		check  func(error) bool
	}{
		"denied": {
			authserver.Answer{Endpoint: "authorize", Error: "access_denied"}, "Access was not granted",
			func(err error) bool { return errors.Is(err, login.ErrDenied) },
		},
		"another error": {
			authserver.Answer{Endpoint: "authorize", Error: "invalid_scope", Set: map[string]any{"error_description": "\x1b[31mno \u2028such"}}, "Login failed",
			func(err error) bool {
				var e *oauth.Error
				return errors.As(err, &e) && e.Code == "invalid_scope" && e.Description == `\x1b[31mno \xe2\x80\xa8such`
			},
		},
		"the code is refused": {
			authserver.Answer{Error: "invalid_grant"}, "Login failed",
			func(err error) bool {
				var e *oauth.Error
				return errors.As(err, &e) && e.Code == "invalid_grant"
			},
		},
		"a foreign ID token": {
			authserver.Answer{Set: map[string]any{"id_token": "e30.e30.e30"}}, "Login failed",
			func(err error) bool {
				return err != nil && err.Error() == "the ID token is not of this login: its nonce is not the one sent"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
			s.AnyClient().Then(tt.answer)
			l := begin(t, login.Browser, prepare(t, s), "openid")
			open := next[login.OpenURL](l)
			page := visit(t, open.URL)
			token, err := l.end()
			if !tt.check(err) || token != nil {
				t.Errorf("%v, %v", token, err)
			}
			if page.url.String() != open.RedirectURL+"/done" || !strings.Contains(page.body, tt.title) || strings.Contains(page.body, "such") {
				t.Errorf("the page at %s: %s", page.url, page.body)
			}
			if n := s.Count("/revoke"); (n == 1) != (name == "a foreign ID token") {
				t.Errorf("%d tokens were revoked", n)
			}
			if !strings.Contains(page.body, "tokenctl login dev/network") {
				t.Error("the page does not say what to do")
			}
			checkHeader(t, page)
		})
	}
}

// What the server has been sent does not come back through the browser.
func TestBrowserShowsNoSecret(t *testing.T) {
	confidential := app
	confidential.Auth, confidential.Secret = authserver.AuthBasic, secret
	lines := []string{"CLIENT_SECRET=" + secret, "OAUTH2_PAR=on", "OAUTH2_EXTRA_API_KEY=a-key-of-the-api"}
	for _, sent := range []string{secret, "the-next-of-them", "a-key-of-the-api"} {
		s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{confidential}})
		s.AnyClient().Then(authserver.Answer{Endpoint: "authorize", Error: "invalid_client", Set: map[string]any{"error_description": "not with " + sent}})
		p := prepare(t, s, lines...)
		p.Profile.NextSecret = oauth.NewSecret("the-next-of-them")
		l := begin(t, login.Browser, p)
		visit(t, next[login.OpenURL](l).URL)
		_, err := l.end()
		var e *oauth.Error
		if !errors.As(err, &e) || e.Code != "invalid_client" || e.Description == "" || strings.Contains(err.Error(), sent) {
			t.Errorf("%v", err)
		}
	}

	cb := oauth.Callback{Issuer: "https://" + secret + ".example"}
	if err := cb.Check("https://as.example", true, oauth.NewSecret(secret)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("another issuer: %v", err)
	}
}

func TestNonce(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	p := prepare(t, s)
	l := begin(t, login.Browser, p, "openid")
	visit(t, next[login.OpenURL](l).URL)
	token, err := l.end()
	if err != nil || token.IDToken.IsZero() || len(token.Warnings) > 0 {
		t.Fatal(token, err)
	}
	if nonce := lastRequest(t, s, "/authorize").Query.Get("nonce"); len(nonce) < 22 {
		t.Errorf("the nonce is %q", nonce)
	}

	s.AnyClient().Then(authserver.Answer{Drop: []string{"id_token"}})
	l = begin(t, login.Browser, p, "openid")
	visit(t, next[login.OpenURL](l).URL)
	token, err = l.end()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"openid was asked for, and there is no id_token in the answer"}, token.Warnings); diff != "" {
		t.Error(diff)
	}

	l = begin(t, login.Browser, p, "read")
	visit(t, next[login.OpenURL](l).URL)
	if _, err := l.end(); err != nil {
		t.Fatal(err)
	}
	if lastRequest(t, s, "/authorize").Query.Has("nonce") {
		t.Error("a nonce, and openid was not asked for")
	}
}

func TestPaste(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	right := callback(t, open)
	for _, wrong := range []string{
		"", "yes", open.URL, "\x00", "https" + strings.TrimPrefix(right, "http"), open.RedirectURL,
		strings.Replace(right, "127.0.0.1", "localhost", 1), strings.Replace(right, "/callback?", "/other?", 1),
		open.RedirectURL + "?code=x&state=y", right + "&code=again", open.RedirectURL + "?error=access_denied",
		right + "&x=" + strings.Repeat("x", 16<<10),
	} {
		l.pasted <- wrong
		if n := next[login.Notice](l); !strings.HasPrefix(n.Message, "that address is not taken: ") || !strings.HasSuffix(n.Message, "; still waiting") {
			t.Errorf("%.80q: the person is told %q", wrong, n.Message)
		}
	}
	l.pasted <- "  " + right + "\n"
	if token, err := l.end(); err != nil || token.AccessToken.IsZero() {
		t.Error(err)
	}

	// The end of pasting is not the end of the login.
	l = begin(t, login.Browser, prepare(t, s))
	close(l.pasted)
	visit(t, next[login.OpenURL](l).URL)
	if _, err := l.end(); err != nil {
		t.Error(err)
	}
}

func TestTabClosed(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	s.AnyClient().Then(authserver.Answer{Hang: true})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, open.URL, nil)
		_, _ = send(req)
	}()
	if err := s.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-gone
	s.Release()
	if token, err := l.end(); err != nil || token.AccessToken.IsZero() {
		t.Error(err)
	}
}

func TestTwoLogins(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	one, two := begin(t, login.Browser, prepare(t, s)), begin(t, login.Browser, prepare(t, s))
	openOne, openTwo := next[login.OpenURL](one), next[login.OpenURL](two)
	rightOne := callback(t, openOne)
	crossed := strings.Replace(rightOne, openOne.RedirectURL, openTwo.RedirectURL, 1)
	if page := visit(t, crossed); page.status != http.StatusBadRequest {
		t.Errorf("the other's callback: %d", page.status)
	}
	for _, address := range []string{openTwo.URL, rightOne} {
		if page := visit(t, address); page.status != http.StatusOK {
			t.Errorf("%d", page.status)
		}
	}
	a, errA := one.end()
	b, errB := two.end()
	if errA != nil || errB != nil || a.AccessToken == b.AccessToken {
		t.Error(errA, errB)
	}
}

func TestSlowLoris(t *testing.T) {
	t.Parallel()
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	// As many connections as are taken, and none of them ever finishes its header.
	closed := make(chan time.Duration)
	began := time.Now()
	for range 256 {
		c, err := net.Dial("tcp", "127.0.0.1:"+port(t, open))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET /callback HTTP/1.1\r\nHost: ")); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = c.Read(make([]byte, 1))
			closed <- time.Since(began)
		}()
	}
	if page := visit(t, open.URL); page.status != http.StatusOK {
		t.Errorf("the person gets %d", page.status)
	}
	if _, err := l.end(); err != nil {
		t.Error(err)
	}
	for range 256 {
		if after := <-closed; after > 15*time.Second {
			t.Errorf("a connection was kept for %v", after)
		}
	}
}

// Who announces a body and does not send it keeps no connection either, whatever
// else is wrong with the request.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	for _, request := range []string{
		"POST /callback HTTP/1.1\r\nHost: 127.0.0.1:" + port(t, open) + "\r\nContent-Length: 1000\r\n\r\n",
		"GET /callback HTTP/1.1\r\nHost: 127.0.0.1:" + port(t, open) + "\r\nContent-Length: 1000\r\n\r\n",
		"GET /callback HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		c, err := net.Dial("tcp", "127.0.0.1:"+port(t, open))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q keeps its connection", request)
		}
	}
	visit(t, open.URL)
	if _, err := l.end(); err != nil {
		t.Error(err)
	}
}

func TestCannotBegin(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, tt := range map[string]struct {
		cfg   authserver.Config
		lines []string
		want  string
	}{
		"no S256": {
			cfg:  authserver.Config{Metadata: map[string]any{"code_challenge_methods_supported": []string{"plain"}}},
			want: "the server has no PKCE by S256",
		},
		"no authorization endpoint": {
			cfg:  authserver.Config{Metadata: map[string]any{"authorization_endpoint": nil}},
			want: "OAUTH2_AUTH_URL: the server names no authorization endpoint (RFC 6749 section 3.1)",
		},
		"no PAR endpoint": {
			cfg:   authserver.Config{Metadata: map[string]any{"pushed_authorization_request_endpoint": nil}},
			lines: []string{"OAUTH2_PAR=on"},
			want:  "OAUTH2_PAR: the server names no endpoint for pushed authorization requests (RFC 9126)",
		},
		"a port that is taken": {
			lines: []string{"OAUTH2_REDIRECT_URL=http://" + taken.Addr().String() + "/callback"},
			want:  "OAUTH2_REDIRECT_URL: end the program that listens there, or choose another port: listen tcp " + taken.Addr().String() + ": bind: address already in use",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.cfg.Clients = []authserver.Client{app}
			s := authserver.Start(t, tt.cfg)
			l := begin(t, login.Browser, prepare(t, s, tt.lines...))
			token, err := l.end()
			if token != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v", token, err)
			}
			if len(l.events) > 0 {
				t.Error("the person was bothered")
			}
		})
	}
}

func TestGivenUp(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}})
	l := begin(t, login.Browser, prepare(t, s))
	open := next[login.OpenURL](l)
	l.cancel()
	if _, err := l.end(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:"+port(t, open)); err == nil {
		c.Close()
		t.Error("something listens still")
	}

	broken := errors.New("nobody there")
	_, err := login.Browser(t.Context(), prepare(t, s), nil, login.Person{Tell: func(login.Event) error { return broken }})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}
