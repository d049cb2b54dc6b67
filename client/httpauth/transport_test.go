package httpauth_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/client"
	"tokend/client/api"
	"tokend/client/httpauth"
	"tokend/test/authserver"
)

// reports is the daemon's log of what was reported to it.
var reports reportLog

type reportLog struct {
	mu        sync.Mutex
	byProfile map[string][]string // outcomes
}

func (l *reportLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *reportLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *reportLog) WithGroup(string) slog.Handler            { return l }

func (l *reportLog) Handle(_ context.Context, r slog.Record) error {
	said := make(map[string]string)
	r.Attrs(func(a slog.Attr) bool {
		said[a.Key] = a.Value.String()
		return true
	})
	if said["outcome"] == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byProfile == nil {
		l.byProfile = make(map[string][]string)
	}
	l.byProfile[said["profile"]] = append(l.byProfile[said["profile"]], strings.TrimPrefix(said["outcome"], "OUTCOME_"))
	return nil
}

func (l *reportLog) of(t *testing.T) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.byProfile[profileOf(t)])
}

func profileOf(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()))
	return "t/" + name[:min(len(name), 60)]
}

// newProfile puts a profile for this test alone into the store, of a client of s,
// in place of the one that may be there.
func newProfile(t *testing.T, s *authserver.Server, lines ...string) {
	t.Helper()
	text := "OAUTH2_TOKEN_URL=" + s.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=secret\n" + strings.Join(lines, "\n") + "\n"
	var c client.Client
	if err := c.Call(t.Context(), api.MethodDeleteProfile, &api.DeleteProfileRequest{Name: profileOf(t)}, &api.DeleteProfileResponse{}); err != nil && !strings.Contains(err.Error(), "no such profile") {
		t.Fatal(err)
	}
	req := &api.PutProfileRequest{Name: profileOf(t), Text: []byte(text)}
	if err := c.Call(t.Context(), api.MethodPutProfile, req, &api.PutProfileResponse{}); err != nil {
		t.Fatal(err)
	}
}

// start is an authorization server whose resource is the API of a profile for this
// test alone, and a client of that API.
func start(t *testing.T, cfg authserver.Config, lines ...string) (*authserver.Server, *httpauth.Transport, *http.Client) {
	t.Helper()
	cfg.Clients = []authserver.Client{{ID: "client", Secret: "secret"}}
	s := authserver.Start(t, cfg)
	newProfile(t, s, append(lines, "API_URL="+s.URL)...)
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	tr := &httpauth.Transport{Request: client.TokenRequest{Profile: profileOf(t)}, Base: base}
	return s, tr, &http.Client{Transport: tr}
}

func tokenOf(t *testing.T) *client.Token {
	t.Helper()
	var c client.Client
	token, err := c.Token(t.Context(), client.TokenRequest{Profile: profileOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// wantAnswer checks an answer's status and that its body can be read to the end.
func wantAnswer(t *testing.T, resp *http.Response, err error, status int) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Fatalf("got %s, %v, want %d", resp.Status, err, status)
	}
	return string(body)
}

func wantCount(t *testing.T, s *authserver.Server, path string, want int) {
	t.Helper()
	if got := s.Count(path); got != want {
		t.Errorf("%d requests to %s, want %d", got, path, want)
	}
}

func wantReports(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, reports.of(t)); diff != "" {
		t.Errorf("reports: %s", diff)
	}
}

// revoke makes the authorization server, and so its resource, refuse a token.
func revoke(t *testing.T, s *authserver.Server, token *client.Token) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.Issuer+"/revoke", strings.NewReader(url.Values{"token": {token.AccessToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("client", "secret")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	wantAnswer(t, resp, err, 200)
}

// body counts how often it was closed, and how much of it was read.
type body struct {
	io.Reader
	closed atomic.Int32
}

func newBody(s string) *body { return &body{Reader: strings.NewReader(s)} }

func (b *body) Close() error { b.closed.Add(1); return nil }

// apiFunc is an API without a network.
type apiFunc func(*http.Request) (*http.Response, error)

func (f apiFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
		if b, err := io.ReadAll(r.Body); err != nil || r.ContentLength > int64(len(b)) {
			return nil, fmt.Errorf("the body is not whole: %w", err)
		}
	}
	return f(r)
}

func answer(r *http.Request, status int, header ...string) *http.Response {
	h := make(http.Header)
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Request: r, Body: io.NopCloser(strings.NewReader("answer"))}
}

func newRequest(t *testing.T, method, url string, b io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTransport(t *testing.T) {
	s, tr, _ := start(t, authserver.Config{})
	token := tokenOf(t)
	req := newRequest(t, "GET", s.ResourceURL, nil)
	req.Header.Set("Authorization", "Basic Y2FsbGVy")
	req.Header.Set("X-Mine", "1")
	before := req.Header.Clone()
	resp, err := tr.RoundTrip(req)
	wantAnswer(t, resp, err, 200)
	if diff := cmp.Diff(before, req.Header); diff != "" {
		t.Errorf("the request was changed: %s", diff)
	}
	if resp.Request != req {
		t.Error("the answer's request is another, with the token in it")
	}
	wantCount(t, s, "/resource", 1)
	got := s.Requests()[1].Header
	if diff := cmp.Diff([]string{token.Header()}, got["Authorization"]); diff != "" || got.Get("X-Mine") != "1" {
		t.Errorf("sent %s", diff)
	}
	wantReports(t)
	// A request need not have a map of header fields.
	resp, err = tr.RoundTrip(&http.Request{URL: req.URL})
	wantAnswer(t, resp, err, 200)
}

// The zero value, but for the profile.
func TestTransportZero(t *testing.T) {
	s, _, _ := start(t, authserver.Config{})
	c := http.Client{Transport: &httpauth.Transport{Request: client.TokenRequest{Profile: profileOf(t)}}}
	resp, err := c.Get(s.ResourceURL)
	wantAnswer(t, resp, err, 200)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestOrigins(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
	newProfile(t, s, "API_URL='https://api.example https://b.example:8443 http://127.0.0.1:8080 http://[::1] http://localhost:9090'")
	allowed := []string{"https://api.example", "https://b.example:8443", "http://127.0.0.1:8080", "http://[::1]", "http://localhost:9090"}
	for name, c := range map[string]struct {
		url, host string
		origin    string // of the refusal
		message   string // "": it is sent
	}{
		"same":                 {"https://api.example", "", "", ""},
		"path and query":       {"https://api.example/v1?x=https://evil.example", "", "", ""},
		"default port":         {"https://api.example:443/", "", "", ""},
		"letters' case":        {"HTTPS://API.Example/", "", "", ""},
		"port":                 {"https://b.example:8443/", "", "", ""},
		"user":                 {"https://user:pass@api.example/", "", "", ""},
		"loopback":             {"http://127.0.0.1:8080/", "", "", ""},
		"loopback, IPv6":       {"http://[::1]:80/", "", "", ""},
		"same host field":      {"https://api.example/", "api.example:443", "", ""},
		"other host field":     {"https://api.example/", "evil.example", "", "may be sent to http and https URLs with one host only"},
		"other host":           {"https://evil.example/", "", "https://evil.example", "which is not in its API_URL"},
		"host below":           {"https://x.api.example/", "", "https://x.api.example", "which is not in its API_URL"},
		"host above":           {"https://example/", "", "https://example", "which is not in its API_URL"},
		"prefix":               {"https://api.example.evil/", "", "https://api.example.evil", "which is not in its API_URL"},
		"trailing dot":         {"https://api.example./", "", "https://api.example.", "which is not in its API_URL"},
		"user that is a host":  {"https://api.example@evil.example/", "", "https://evil.example", "which is not in its API_URL"},
		"other letter":         {"https://ap\u0131.example/", "", "https://ap\u0131.example", "which is not in its API_URL"},
		"letter like k":        {"https://\u212a.example/", "", "https://\u212a.example", "which is not in its API_URL"},
		"other port":           {"https://api.example:8443/", "", "https://api.example:8443", "which is not in its API_URL"},
		"no port":              {"https://b.example/", "", "https://b.example", "which is not in its API_URL"},
		"other port, local":    {"http://127.0.0.1/", "", "http://127.0.0.1", "which is not in its API_URL"},
		"other name, local":    {"http://localhost:8080/", "", "http://localhost:8080", "which is not in its API_URL"},
		"loopback by name":     {"http://localhost:9090/", "", "", ""},
		"loopback, other case": {"http://LOCALHOST:9090/", "", "", "may be sent to http and https URLs with one host only"},
		"plain http":           {"http://api.example/", "", "http://api.example", "which is plain http"},
		"plain http to 443":    {"http://api.example:443/", "", "http://api.example:443", "which is plain http"},
		"other scheme":         {"ftp://api.example/", "", "", "may be sent to http and https URLs with one host only"},
		"opaque":               {"https:api.example/", "", "", "may be sent to http and https URLs with one host only"},
		"opaque beside a host": {"https://api.example/", "", "", "may be sent to http and https URLs with one host only"},
		"no host":              {"https:///x", "", "", "may be sent to http and https URLs with one host only"},
	} {
		sent := 0
		tr := &httpauth.Transport{
			Request: client.TokenRequest{Profile: profileOf(t)},
			Base:    apiFunc(func(r *http.Request) (*http.Response, error) { sent++; return answer(r, 200), nil }),
		}
		b := newBody("body")
		req := newRequest(t, "POST", c.url, b)
		if c.host != "" {
			req.Host = c.host
		}
		if name == "opaque beside a host" { // the request line would say it
			req.URL.Opaque = "//evil.example/"
		}
		resp, err := tr.RoundTrip(req)
		if n := b.closed.Load(); n != 1 {
			t.Errorf("%s: the body was closed %d times", name, n)
		}
		if c.message == "" {
			if err != nil || sent != 1 {
				t.Errorf("%s: %v, sent %d times", name, err, sent)
				continue
			}
			resp.Body.Close()
			continue
		}
		var refused *httpauth.OriginError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.message) || sent != 0 {
			t.Errorf("%s: error is %v, sent %d times", name, err, sent)
			continue
		}
		if diff := cmp.Diff(&httpauth.OriginError{Profile: profileOf(t), Origin: c.origin, Allowed: allowed}, refused); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestNoAPIURL(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
	newProfile(t, s)
	sent := 0
	tr := &httpauth.Transport{
		Request: client.TokenRequest{Profile: profileOf(t)},
		Base:    apiFunc(func(r *http.Request) (*http.Response, error) { sent++; return answer(r, 200), nil }),
	}
	_, err := tr.RoundTrip(newRequest(t, "GET", "https://api.example/", nil))
	if want := profileOf(t) + `: its token may not be sent to "https://api.example": the profile has no API_URL`; err == nil || err.Error() != want || sent != 0 {
		t.Errorf("error is %v, sent %d times", err, sent)
	}
	tr.AnyHost = true
	resp, err := tr.RoundTrip(newRequest(t, "GET", "https://api.example/", nil))
	wantAnswer(t, resp, err, 200)
	// But not in plain.
	var refused *httpauth.OriginError
	if _, err := tr.RoundTrip(newRequest(t, "GET", "http://api.example/", nil)); !errors.As(err, &refused) || sent != 1 {
		t.Errorf("error is %v, sent %d times", err, sent)
	}
}

// Who redirects does not get the token, wherever to, nor does who is led to.
func TestRedirects(t *testing.T) {
	var mu sync.Mutex
	var dumps []string
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		dumps = append(dumps, fmt.Sprintf("%s %s %v %s", r.Method, r.RequestURI, r.Header, body))
		mu.Unlock()
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}
	}))
	defer evil.Close()
	s, tr, c := start(t, authserver.Config{})
	base := tr.Base
	for _, anyHost := range []bool{false, true} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			for name, u := range map[string]struct {
				to     string
				status int // of the last answer
				evil   int // requests
				tokens int // requests to the API that had one
			}{
				"elsewhere":                  {evil.URL + "/x", 200, 1, 1},
				"elsewhere with credentials": {strings.Replace(evil.URL, "//", "//user:pass@", 1), 200, 1, 1},
				"elsewhere, and on there":    {evil.URL + "/x?to=/y", 200, 2, 1},
				"elsewhere and back":         {evil.URL + "/x?to=" + url.QueryEscape(s.ResourceURL), 401, 1, 1},
				"same place":                 {s.ResourceURL, 200, 0, 2},
				"other path":                 {"/resource", 200, 0, 2},
			} {
				s.Forget()
				dumps = nil
				s.AnyClient().Then(authserver.Answer{Endpoint: "resource", Status: status, Header: http.Header{"Location": {u.to}}})
				tr := &httpauth.Transport{Request: tr.Request, Base: base, AnyHost: anyHost}
				c.Transport = tr
				req := newRequest(t, "POST", s.ResourceURL, strings.NewReader("what=this"))
				// What the caller had is not copied either.
				req.Header.Set("Authorization", "Bearer CANARY")
				req.Header.Set("DPoP", "CANARY")
				resp, err := c.Do(req)
				wantAnswer(t, resp, err, u.status)
				token := tokenOf(t).AccessToken
				if all := strings.Join(dumps, "\n"); len(dumps) != u.evil || strings.Contains(all, token) || strings.Contains(all, "CANARY") || strings.Contains(all, "Authorization") {
					t.Errorf("%d, %s: %d requests: %s", status, name, len(dumps), all)
				}
				with := 0
				for _, r := range s.Requests() {
					if r.Path == "/resource" && r.Header.Get("Authorization") == "Bearer "+token {
						with++
					}
				}
				if with != u.tokens {
					t.Errorf("%d, %s: %d requests with the token, want %d", status, name, with, u.tokens)
				}
			}
		}
	}
	wantReports(t)
}

// A redirect from https to http is one to elsewhere.
func TestDowngrade(t *testing.T) {
	var got []string
	tr := &httpauth.Transport{
		Request: client.TokenRequest{Profile: profileOf(t)},
		AnyHost: true,
		Base: apiFunc(func(r *http.Request) (*http.Response, error) {
			got = append(got, r.URL.String()+" "+r.Header.Get("Authorization"))
			if r.URL.Scheme == "https" && r.URL.Path == "/" {
				return answer(r, 307, "Location", "http://api.example/plain"), nil
			}
			return answer(r, 200), nil
		}),
	}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
	newProfile(t, s, "API_URL=https://api.example")
	for _, tr.AnyHost = range []bool{false, true} {
		got = nil
		resp, err := (&http.Client{Transport: tr}).Get("https://api.example/")
		wantAnswer(t, resp, err, 200)
		if diff := cmp.Diff([]string{"https://api.example/ " + tokenOf(t).Header(), "http://api.example/plain "}, got); diff != "" {
			t.Error(diff)
		}
	}
	// Where it cannot be known what began there is no token.
	got = nil
	req := newRequest(t, "GET", "https://api.example/x", nil)
	req.Response = &http.Response{}
	resp, err := tr.RoundTrip(req)
	wantAnswer(t, resp, err, 200)
	if diff := cmp.Diff([]string{"https://api.example/x "}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedTokenIsReplaced(t *testing.T) {
	for name, b := range map[string]func() io.Reader{
		"no body":          func() io.Reader { return nil },
		"a body":           func() io.Reader { return strings.NewReader("what=this") },
		"an empty body":    func() io.Reader { return http.NoBody },
		"a body read once": func() io.Reader { return newBody("what=this") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // making another token takes a second
			s, _, c := start(t, authserver.Config{})
			old := tokenOf(t)
			revoke(t, s, old)
			sent := b()
			req := newRequest(t, "POST", s.ResourceURL, sent)
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := c.Do(req)
			if _, once := sent.(*body); once {
				if text := wantAnswer(t, resp, err, 401); !strings.Contains(text, "invalid_token") {
					t.Errorf("the answer is %q", text)
				}
				wantCount(t, s, "/resource", 1)
				wantCount(t, s, "/token", 1)     // nothing was waited for
				resp, err = c.Get(s.ResourceURL) // the next request is better off
			}
			wantAnswer(t, resp, err, 200)
			wantCount(t, s, "/resource", 2)
			wantCount(t, s, "/token", 2)
			wantReports(t, "EVICTED")
			last := s.Requests()[len(s.Requests())-1]
			if got := last.Header.Get("Authorization"); got != tokenOf(t).Header() || got == old.Header() {
				t.Error("the last request had not the new token")
			}
			if name == "a body" && last.Form.Get("what") != "this" {
				t.Error("the request was repeated without its body")
			}
		})
	}
}

// However many requests are refused, one new token is made.
func TestManyRefused(t *testing.T) {
	s, _, c := start(t, authserver.Config{})
	revoke(t, s, tokenOf(t))
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			resp, err := c.Get(s.ResourceURL)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Error(resp.Status)
			}
		})
	}
	all.Wait()
	wantCount(t, s, "/token", 2)
	if n := s.Count("/resource"); n > 60 {
		t.Errorf("%d requests", n)
	}
}

// What another token would not help against is the caller's to see, and is asked
// once; for what one might, one more request is made, and no third.
func TestRefusedForEver(t *testing.T) {
	for name, c := range map[string]struct {
		answer  authserver.Answer
		count   int
		reports []string
	}{
		"invalid_token":           {authserver.Answer{Endpoint: "resource", Error: "invalid_token"}, 2, []string{"EVICTED", "TOO_SOON"}},
		"no challenge":            {authserver.Answer{Endpoint: "resource", Status: 401, Body: "no"}, 2, []string{"EVICTED", "TOO_SOON"}},
		"for Basic":               {authserver.Answer{Endpoint: "resource", Status: 401, Header: http.Header{"Www-Authenticate": {"Basic realm=x"}}}, 1, []string{"KEPT"}},
		"insufficient_scope":      {authserver.Answer{Endpoint: "resource", Error: "insufficient_scope"}, 1, []string{"KEPT"}},
		"forbidden":               {authserver.Answer{Endpoint: "resource", Status: 403}, 1, nil},
		"forbidden without error": {authserver.Answer{Endpoint: "resource", Status: 403, Header: http.Header{"Www-Authenticate": {`Bearer realm="insufficient_scope"`}}}, 1, []string{"KEPT"}},
		"invalid_request":         {authserver.Answer{Endpoint: "resource", Error: "invalid_request"}, 1, nil}, // 400
		"nonce for Bearer":        {authserver.Answer{Endpoint: "resource", Status: 401, Header: http.Header{"Www-Authenticate": {`DPoP error="use_dpop_nonce"`}, "Dpop-Nonce": {"n"}}}, 1, []string{"KEPT"}},
		"challenges without end": {authserver.Answer{Endpoint: "resource", Status: 401, Header: http.Header{"Www-Authenticate": slices.Concat(
			[]string{`Bearer error="invalid_token"`}, slices.Repeat([]string{""}, 10_000), []string{strings.Repeat("\xff", 100_000)})}}, 2, []string{"EVICTED", "TOO_SOON"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // making another token takes a second
			s, _, client := start(t, authserver.Config{})
			s.AnyClient().Always(c.answer)
			resp, err := client.Get(s.ResourceURL)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || c.answer.Status != 0 && (resp.StatusCode != c.answer.Status || string(text) != c.answer.Body) || c.answer.Error != "" && !strings.Contains(string(text), c.answer.Error) {
				t.Errorf("got %s with %q, %v", resp.Status, text, err)
			}
			wantCount(t, s, "/resource", c.count)
			wantReports(t, c.reports...)
		})
	}
}

// A profile that is edited with every request has another token each time, which
// is worth one more request, and that only where it may go.
func TestRefusedAndEdited(t *testing.T) {
	for name, c := range map[string]struct {
		origin    string // of the new text
		challenge string
		count     int
	}{
		"same API":         {"https://api.example", "Bearer", 2},
		"another":          {"https://b.example", "Bearer", 1},
		"not for its sake": {"https://api.example", "Basic", 1},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
			newProfile(t, s, "API_URL=https://api.example")
			n := 0
			tr := &httpauth.Transport{
				Request: client.TokenRequest{Profile: profileOf(t)},
				Base: apiFunc(func(r *http.Request) (*http.Response, error) {
					if n++; n > 3 {
						return answer(r, 200), nil
					}
					newProfile(t, s, "API_URL="+c.origin, fmt.Sprintf("EDIT=%d", n))
					return answer(r, 401, "WWW-Authenticate", c.challenge), nil
				}),
			}
			resp, err := tr.RoundTrip(newRequest(t, "GET", "https://api.example/", nil))
			wantAnswer(t, resp, err, 401)
			if n != c.count {
				t.Errorf("%d requests, want %d", n, c.count)
			}
		})
	}
}

// A provider that gives the refused token again: it is not tried again.
func TestRefusedAndTheSameAgain(t *testing.T) {
	s, _, c := start(t, authserver.Config{})
	revoke(t, s, tokenOf(t))
	s.AnyClient().Always(authserver.Answer{SameToken: true})
	resp, err := c.Get(s.ResourceURL)
	wantAnswer(t, resp, err, 401)
	wantCount(t, s, "/resource", 1)
	wantReports(t, "EVICTED")
}

func dpop(t *testing.T) (*authserver.Server, *httpauth.Transport, *http.Client) {
	return start(t, authserver.Config{DPoPNonce: true}, "OAUTH2_DPOP=on")
}

func TestDPoP(t *testing.T) {
	s, _, c := dpop(t)
	do := func(method string, b io.Reader, status, count int) {
		t.Helper()
		s.Forget()
		req := newRequest(t, method, strings.Replace(s.ResourceURL, "//", "//user:pass@", 1)+"?scope=&x=%2F#here", b)
		req.Method = method
		resp, err := c.Do(req)
		wantAnswer(t, resp, err, status)
		wantCount(t, s, "/resource", count)
	}
	do("GET", nil, 200, 2) // the first one cannot know the nonce
	do("GET", nil, 200, 1)
	do("", nil, 200, 1)
	do("POST", strings.NewReader("what=this"), 200, 1)
	s.RotateNonce()
	do("POST", strings.NewReader("what=this"), 200, 2)
	s.RotateNonce()
	do("POST", newBody("what=this"), 401, 1)
	do("POST", newBody("what=this"), 200, 1)
	wantReports(t)
	if got, token := s.Requests()[0].Header, tokenOf(t); got.Get("Authorization") != "DPoP "+token.AccessToken || len(got["Dpop"]) != 1 {
		t.Errorf("sent %v", got)
	}

	revoke(t, s, tokenOf(t))
	do("GET", nil, 200, 2)
	wantReports(t, "EVICTED")
}

func TestDPoPNonceForEver(t *testing.T) {
	for name, nonce := range map[string]string{"good": "nonce", "bad": "no nonce", "long": strings.Repeat("n", 2000), "none": ""} {
		t.Run(name, func(t *testing.T) {
			want := 2
			if nonce == "" {
				want = 1
			}
			s, tr, _ := dpop(t)
			var n int
			tr.Base = apiFunc(func(r *http.Request) (*http.Response, error) {
				n++
				return answer(r, 401, "WWW-Authenticate", `DPoP error="use_dpop_nonce"`, "DPoP-Nonce", nonce), nil
			})
			resp, err := tr.RoundTrip(newRequest(t, "GET", s.ResourceURL, nil))
			wantAnswer(t, resp, err, 401)
			if n != want {
				t.Errorf("%d requests, want %d", n, want)
			}
			wantReports(t, "KEPT")
			// Whatever it was, the next request can be made.
			tr.Base = apiFunc(func(r *http.Request) (*http.Response, error) { return answer(r, 200), nil })
			resp, err = tr.RoundTrip(newRequest(t, "GET", s.ResourceURL, nil))
			wantAnswer(t, resp, err, 200)
		})
	}
}

// A proof is for the API only: the daemon refuses others, and then nothing is sent.
func TestDPoPProofRefused(t *testing.T) {
	s, tr, _ := dpop(t)
	tr.AnyHost = true
	sent := 0
	tr.Base = apiFunc(func(r *http.Request) (*http.Response, error) { sent++; return answer(r, 200), nil })
	b := newBody("body")
	var failed *client.Error
	if _, err := tr.RoundTrip(newRequest(t, "POST", s.TokenURL, b)); !errors.As(err, &failed) || failed.Reason != api.ReasonDenied || sent != 0 || b.closed.Load() != 1 {
		t.Errorf("error is %v, sent %d times, closed %d times", err, sent, b.closed.Load())
	}
}

// Without a token nothing is sent, and the error says why.
func TestNoToken(t *testing.T) {
	sent := 0
	base := apiFunc(func(r *http.Request) (*http.Response, error) { sent++; return answer(r, 200), nil })
	b := newBody("body")
	none := filepath.Join(os.Getenv("HOME"), "none", "s")
	tr := &httpauth.Transport{Client: &client.Client{Socket: none}, Request: client.TokenRequest{Profile: "dev/network"}, Base: base, AnyHost: true}
	if _, err := tr.RoundTrip(newRequest(t, "POST", apiURL, b)); !errors.Is(err, client.ErrNotRunning) || b.closed.Load() != 1 {
		t.Errorf("error is %v, closed %d times", err, b.closed.Load())
	}
	tr = &httpauth.Transport{Request: client.TokenRequest{Profile: "missing"}, Base: base, AnyHost: true}
	var failed *client.Error
	if _, err := tr.RoundTrip(newRequest(t, "POST", apiURL, b)); !errors.As(err, &failed) || failed.Reason != api.ReasonProfileNotFound || b.closed.Load() != 2 {
		t.Errorf("error is %v, closed %d times", err, b.closed.Load())
	}
	if sent != 0 {
		t.Errorf("sent %d times", sent)
	}
}

// Every body of an answer that the caller does not get is closed.
func TestBodiesAreClosed(t *testing.T) {
	for name, size := range map[string]int64{"small": 6, "of unknown size": -1, "large": 1 << 40} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel() // making another token takes a second
			s, tr, _ := start(t, authserver.Config{})
			refused := newBody("answer")
			n := 0
			tr.Base = apiFunc(func(r *http.Request) (*http.Response, error) {
				if n++; n > 1 {
					return nil, errors.New("no second answer")
				}
				resp := answer(r, 401)
				resp.Body, resp.ContentLength = refused, size
				return resp, nil
			})
			if _, err := tr.RoundTrip(newRequest(t, "GET", s.ResourceURL, nil)); err == nil || err.Error() != "no second answer" {
				t.Errorf("error is %v", err)
			}
			left, _ := io.ReadAll(refused)
			if wantLeft := size != 6; refused.closed.Load() != 1 || (len(left) > 0) != wantLeft {
				t.Errorf("closed %d times, %d bytes left", refused.closed.Load(), len(left))
			}
		})
	}
}

// A body that cannot be had again after all: the caller gets the answer.
func TestBodyThatFails(t *testing.T) {
	s, _, c := start(t, authserver.Config{})
	revoke(t, s, tokenOf(t))
	req := newRequest(t, "POST", s.ResourceURL, strings.NewReader("x"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	resp, err := c.Do(req)
	if text := wantAnswer(t, resp, err, 401); !strings.Contains(text, "invalid_token") {
		t.Errorf("the answer is %q", text)
	}
	wantCount(t, s, "/resource", 1)
}

// An API that sends fields of its header for ever.
func TestEndlessHeader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var served sync.WaitGroup
	defer served.Wait()
	defer l.Close()
	var n atomic.Int32
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			served.Go(func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					t.Error(err)
				}
				c.Write([]byte("HTTP/1.1 401 No\r\n"))
				field := bytes.Repeat([]byte("WWW-Authenticate: Bearer error=\"invalid_token\"\r\n"), 1000)
				for {
					if _, err := c.Write(field); err != nil {
						return
					}
				}
			})
		}
	})
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
	newProfile(t, s, "API_URL=http://"+l.Addr().String())
	base := &http.Transport{DisableKeepAlives: true}
	tr := &httpauth.Transport{Request: client.TokenRequest{Profile: profileOf(t)}, Base: base}
	if _, err := tr.RoundTrip(newRequest(t, "GET", "http://"+l.Addr().String(), nil)); err == nil || !strings.Contains(err.Error(), "headers exceeded") {
		t.Errorf("error is %v", err)
	}
	if n.Load() != 1 {
		t.Errorf("%d connections", n.Load())
	}
	wantReports(t)
}
