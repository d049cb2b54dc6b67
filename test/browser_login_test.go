package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokend/test/world"
)

// browser makes BROWSER a real Chromium with a person at it, for the logins that
// begin from now on. The function that it returns waits for where that person
// is left.
func (h *home) browser(t *testing.T, flags ...string) func() world.Page {
	t.Helper()
	dir, err := os.MkdirTemp(h.root, "browser-")
	if err != nil {
		t.Fatal(err)
	}
	person, err := filepath.Abs(filepath.Join("world", "browser.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	script, seen := filepath.Join(dir, "browser"), filepath.Join(dir, "page.json")
	text := fmt.Sprintf("#!/bin/sh\nnode '%s' \"$1\" %s > %s.part\nmv %[3]s.part %[3]s\n", person, strings.Join(flags, " "), seen)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	h.setenv("BROWSER", script)
	return func() (page world.Page) {
		t.Helper()
		waitFor(t, "the browser", func() bool {
			_, err := os.Stat(seen)
			return err == nil
		})
		data, err := os.ReadFile(seen)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &page); err != nil {
			t.Fatalf("what the browser saw: %v: %q", err, data)
		}
		return page
	}
}

// wantPage compares the page that a login ends on: its address has no code any
// more, and the browser has found nothing wrong with it.
func wantPage(t *testing.T, page world.Page, title, text string) {
	t.Helper()
	u, err := url.Parse(page.URL)
	if err != nil || u.Hostname() != "127.0.0.1" || u.Path != "/callback/done" || u.RawQuery != "" || u.Fragment != "" {
		t.Errorf("the browser ends at %s", page.URL)
	}
	if page.Title != title+" · tokend" || page.Text != text || len(page.Errors) != 0 {
		t.Errorf("the browser shows %+v, want %q and\n%s", page, title, text)
	}
}

func doneText(profile string) string {
	return "You are logged in\n\n" + profile + "\n\nYou can close this tab. In your terminal:\n\ntokenctl get " + profile + "\ntokend on this machine"
}

// Logins in a real browser.
func TestBrowser(t *testing.T) {
	t.Parallel()
	p := startWorld(t, "DEVICE_INTERVAL=1")
	h := newHome(t)
	h.must(t, "", "init")
	for name, client := range map[string]string{"dev/me": "native", "dev/other": "native-keep", "dev/device": "device"} {
		h.must(t, native(p, client), "add", name)
	}

	t.Run("two at once", func(t *testing.T) {
		carols := h.browser(t, "--user", "carol", "--dark")
		first := h.login(t, "dev/me")
		if said := first.reads(t, "\n"); said != "tokenctl: dev/me: a browser is being opened to log in, at this address:" {
			t.Errorf("it says %q", said)
		}
		daves := h.browser(t, "--user", "dave", "--no-scripts")
		second := h.login(t, "dev/other")
		first.succeeds(t)
		second.succeeds(t)
		wantPage(t, carols(), "You are logged in", doneText("dev/me"))
		wantPage(t, daves(), "You are logged in", doneText("dev/other"))
		wantActive(t, p, h.get(t, "dev/me"), map[string]any{"sub": "carol", "client_id": "native"})
		wantActive(t, p, h.get(t, "dev/other"), map[string]any{"sub": "dave", "client_id": "native-keep"})
	})
	t.Run("denied", func(t *testing.T) {
		left := h.browser(t, "--deny")
		l := h.login(t, "dev/me")
		l.fails(t, 7, "dev/me: the login was denied; to try again: tokenctl login dev/me")
		wantPage(t, left(), "Access was not granted", "Access was not granted\n\ndev/me\n\n"+
			"The answer was no, so nothing has changed, and you can close this tab. To try again, run:\n\ntokenctl login dev/me\ntokend on this machine")
		wantActive(t, p, h.get(t, "dev/me"), map[string]any{"sub": "carol"}) // nothing has changed
	})
	// A tab that is closed ends nothing: the address works again.
	t.Run("closed", func(t *testing.T) {
		left := h.browser(t, "--close-at", "login")
		l := h.login(t, "dev/me")
		address := l.address(t)
		if at := left().URL; !strings.HasPrefix(at, p.Issuer) {
			t.Errorf("the tab was closed at %s", at)
		}
		for _, flags := range [][]string{{"--close-at", "consent"}, {"--back", "--user", "bob"}} {
			page, err := world.Browse(t.Context(), address, flags...)
			if err != nil {
				t.Fatal(err)
			}
			// Back is where the person came from: the code is not in the history.
			if !strings.HasPrefix(page.URL, p.Issuer) || strings.Contains(page.URL, "code=") {
				t.Errorf("%q leave the browser at %s", flags, page.URL)
			}
		}
		l.succeeds(t)
		wantActive(t, p, h.get(t, "dev/me"), map[string]any{"sub": "bob"})
	})
	t.Run("device", func(t *testing.T) {
		l := h.login(t, "--device", "dev/device")
		page, err := world.Browse(t.Context(), l.code(t), "--user", "erin")
		if err != nil {
			t.Fatal(err)
		}
		if page.Title != "Sign-in Success" {
			t.Errorf("the browser shows %+v", page)
		}
		l.succeeds(t)
		wantActive(t, p, h.get(t, "dev/device"), map[string]any{"sub": "erin"})
	})
}

// Who starts a second login of a profile has lost sight of the first.
func TestTwoLoginsOfOneProfile(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	first := h.login(t, "--no-browser", "dev/me")
	old := first.address(t)
	second := h.login(t, "--no-browser", "dev/me")
	address := second.address(t)
	first.fails(t, 1, "dev/me: another login of this profile has begun; look at it and repeat")

	// The person finishes the old one all the same: nobody listens there any more.
	redirect, err := p.Approve(t.Context(), old, "mallory")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get(redirect); err == nil {
		t.Error("somebody listens for the old login")
	}
	if redirect, err = p.Approve(t.Context(), address, "alice"); err != nil {
		t.Fatal(err)
	}
	visit(t, redirect)
	second.succeeds(t)
	wantActive(t, p, h.get(t, "dev/me"), map[string]any{"sub": "alice"})
}

// Whoever goes away, by ^C or for good, takes the listener along.
func TestLoginGivenUp(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	for _, signal := range []os.Signal{os.Interrupt, os.Kill} {
		l := h.login(t, "--no-browser", "dev/me")
		redirect, err := p.Approve(t.Context(), l.address(t), "alice")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if signal == os.Interrupt {
			l.fails(t, 130, "interrupted")
		} else if r := l.ends(t); r.code != -1 {
			t.Errorf("killed: %v", r)
		}
		u, err := url.Parse(redirect)
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the end of the listener", func() bool {
			c, err := net.Dial("tcp", u.Host)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
	h.wantLine(t, 4, "dev/me: login required (nobody is logged in); run: tokenctl login dev/me", "get", "dev/me")
}

// What the final page is sent with keeps it out of caches, frames and
// referrers, and the code out of the history.
func TestFinalPageHeaders(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	l := h.login(t, "--no-browser", "dev/me")
	redirect, err := p.Approve(t.Context(), l.address(t), "alice")
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	want := map[string]string{
		"Cache-Control":                "no-store",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Referrer-Policy":              "no-referrer",
		"X-Content-Type-Options":       "nosniff",
	}
	check := func(at string, status int) *http.Response {
		resp, err := client.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != status || strings.Contains(string(body), "<script") {
			t.Errorf("%s: %s\n%s", at, resp.Status, body)
		}
		for name, value := range want {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", at, name, got, value)
			}
		}
		csp := strings.Split(resp.Header.Get("Content-Security-Policy"), "; ")
		for _, rule := range []string{"default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
			if !slices.Contains(csp, rule) {
				t.Errorf("%s: the policy %q has no %q", at, csp, rule)
			}
		}
		return resp
	}
	u, err := url.Parse(redirect)
	if err != nil {
		t.Fatal(err)
	}
	final := "http://" + u.Host + "/callback/done"
	if to := check(redirect, http.StatusSeeOther).Header.Get("Location"); to != final {
		t.Errorf("the redirect leads to %s", to)
	}
	check(final, http.StatusOK)
	l.succeeds(t)
	if c, err := net.Dial("tcp", u.Host); err == nil {
		c.Close()
		t.Error("something listens still")
	}
}

// Anybody on the machine, and any page in the browser, can send requests to a
// login that waits: it goes on waiting.
func TestForgedCallbacks(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	l := h.login(t, "--no-browser", "dev/me")
	address := l.address(t)
	redirect, err := p.Approve(t.Context(), address, "alice")
	if err != nil {
		t.Fatal(err)
	}
	real, err := url.Parse(redirect)
	if err != nil {
		t.Fatal(err)
	}
	target := func(change func(url.Values)) string {
		query := real.Query()
		change(query)
		return "/callback?" + query.Encode()
	}
	good := real.RequestURI()
	const (
		here    = "tokenctl: dev/me: a request to http://127.0.0.1:PORT/callback is not taken: "
		reading = "reading the answer that came through the browser: "
	)
	for _, test := range []struct {
		name, method, target, host, more string
		status                           int
		says                             string // after which it is still waiting
	}{
		{"wrong state", "GET", target(func(q url.Values) { q.Set("state", "forged-state-forged-state") }), "", "", 400, "its state is not that of this login"},
		{"no state", "GET", target(func(q url.Values) { q.Del("state") }), "", "", 400, "its state is not that of this login"},
		{"two codes", "GET", target(func(q url.Values) { q.Add("code", "another") }), "", "", 400, reading + "a parameter is there twice (RFC 6749 section 3.1)"},
		{"two states", "GET", target(func(q url.Values) { q.Add("state", "another") }), "", "", 400, reading + "a parameter is there twice (RFC 6749 section 3.1)"},
		{"no code", "GET", target(func(q url.Values) { q.Del("code") }), "", "", 400, reading + "there is neither a code nor an error"},
		{"another issuer", "GET", target(func(q url.Values) { q.Set("iss", "https://other.example") }), "", "", 400, reading + "it is of issuer https://other.example, not of http://127.0.0.1:PORT (RFC 9207)"},
		{"no issuer", "GET", target(func(q url.Values) { q.Del("iss") }), "", "", 400, reading + "iss is missing, which this server promises (RFC 9207)"},
		{"an error with a wrong state", "GET", "/callback?error=access_denied&state=forged", "", "", 400, "its state is not that of this login"},
		{"another host", "GET", good, "evil.example", "", 421, ""},
		{"localhost", "GET", good, "localhost:" + real.Port(), "", 421, ""},
		{"POST", "POST", good, "", "Content-Length: 0\r\n", 405, ""},
		{"HEAD", "HEAD", good, "", "", 405, ""},
		{"a body", "GET", good, "", "Content-Length: 5\r\n", 400, ""},
		{"another path", "GET", strings.Replace(good, "/callback", "/other", 1), "", "", 404, ""},
		{"the end, too soon", "GET", "/callback/done", "", "", 404, ""},
		{"too long", "GET", good + "&x=" + strings.Repeat("x", 16<<10), "", "", 431, ""},
		{"too long a header", "GET", good, "", "X: " + strings.Repeat("x", 16<<10) + "\r\n", 431, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := test.host
			if host == "" {
				host = real.Host
			}
			c, err := net.Dial("tcp", real.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", test.method, test.target, host, test.more)
			resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: test.method})
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil && test.status != 431 { // where more is sent than is read
				t.Fatal(err)
			}
			if resp.StatusCode != test.status || strings.Contains(string(body), "forged") || strings.Contains(string(body), "evil") {
				t.Errorf("%s, want %d; the page is\n%s", resp.Status, test.status, body)
			}
			if test.says == "" {
				return
			}
			if said := portRE.ReplaceAllString(l.reads(t, "not taken"), "127.0.0.1:PORT"); said != here+test.says+"; still waiting" {
				t.Errorf("it says\n%s", said)
			}
		})
	}
	visit(t, redirect)
	l.succeeds(t)
	if strings.Contains(l.said.String(), "evil") || strings.Contains(l.said.String(), "forged") {
		t.Errorf("a stranger's words are shown: %s", &l.said)
	}
	wantActive(t, p, h.get(t, "dev/me"), map[string]any{"sub": "alice"})
}

// On another machine than the browser's, the address that the browser ends at is
// pasted. What is pasted wrongly ends nothing.
func TestPastedRedirect(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, native(p, "native"), "add", "dev/me")
	l := h.login(t, "--no-browser", "dev/me")
	redirect, err := p.Approve(t.Context(), l.address(t), "alice")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(redirect)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("state", "forged-state-forged-state")
	begin := "it does not begin with http://" + u.Host + "/callback"
	for pasted, says := range map[string]string{
		"hello":               begin,
		u.Query().Get("code"): begin,
		"https" + strings.TrimPrefix(redirect, "http"):     begin,
		strings.Replace(redirect, u.Host, "127.0.0.1", 1):  begin,
		"http://" + u.Host + "/callback?" + query.Encode(): "its state is not that of this login",
	} {
		fmt.Fprintln(l.stdin, pasted)
		if said := l.reads(t, "that address"); said != "tokenctl: dev/me: that address is not taken: "+says+"; still waiting" {
			t.Errorf("after %q it says %q", pasted, said)
		}
	}
	fmt.Fprintf(l.stdin, "\r\n  %s \r\n", redirect)
	l.succeeds(t)
	wantActive(t, p, h.get(t, "dev/me"), map[string]any{"sub": "alice"})
}

// A redirect URL that the provider wants to be fixed.
func TestFixedRedirect(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		h.must(t, native(p, "native", "OAUTH2_REDIRECT_URL=http://"+host+":"+port+"/callback"), "add", host)
	}
	h.wantLine(t, 78, "localhost: OAUTH2_REDIRECT_URL: end the program that listens there, or choose another port: listen tcp 127.0.0.1:PORT: bind: address already in use; run: tokenctl edit localhost", "login", "--no-browser", "localhost")
	taken.Close()
	for _, host := range []string{"localhost", "127.0.0.1"} {
		l := h.login(t, "--no-browser", host)
		redirect, err := p.Approve(t.Context(), l.address(t), "alice")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(redirect, "http://"+host+":"+port+"/callback?") {
			t.Errorf("the server sends the browser to %s", redirect)
		}
		visit(t, redirect)
		l.succeeds(t)
	}
}
