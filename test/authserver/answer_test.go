package authserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestScriptOrder(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	s.Client("dev").Then(Answer{Status: 501}, Answer{Status: 502})
	s.AnyClient().Then(Answer{Status: 503})
	s.Client("dev").Always(Answer{Status: 504})
	s.AnyClient().Always(Answer{Status: 505})
	status := func(id string) int {
		return do(t, post(t, s.TokenURL, basic(id, secret), "grant_type=client_credentials")).status
	}
	var got []int
	for range 5 {
		got = append(got, status("dev"))
	}
	got = append(got, status("nobody"))
	s.Client("dev").Always(Answer{})
	s.AnyClient().Always(Answer{})
	got = append(got, status("dev"), status("nobody"))
	if diff := cmp.Diff([]int{501, 502, 503, 504, 504, 505, 200, 401}, got); diff != "" {
		t.Error(diff)
	}
	// An answer is for the token endpoint, or for the one that it names.
	s.AnyClient().Then(Answer{Status: 503}, Answer{Endpoint: "jwks", Status: 504})
	s.AnyClient().Always(Answer{Endpoint: "jwks", Drop: []string{"keys"}})
	if r := do(t, get(t, s.Issuer+"/jwks", "")); r.status != 504 {
		t.Errorf("jwks: %d", r.status)
	}
	if r := do(t, get(t, s.Issuer+"/jwks", "")); r.status != 200 || r.body != "{}" {
		t.Errorf("jwks: %d %s", r.status, r.body)
	}
	if got := status("dev"); got != 503 {
		t.Errorf("token: %d", got)
	}
	for _, endpoint := range []string{"metadata", "resource_metadata", "introspect", "device", "resource"} {
		s.AnyClient().Then(Answer{Endpoint: endpoint, Status: 510})
	}
	for _, path := range []string{
		"/.well-known/openid-configuration", "/.well-known/oauth-protected-resource", "/introspect", "/device", "/resource",
	} {
		if r := do(t, get(t, s.Issuer+path, "")); r.status != 510 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

func TestLiteral(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	for _, tt := range []struct {
		answer      Answer
		contentType string
	}{
		{Answer{Status: 429, Header: http.Header{"retry-after": {"120"}}}, ""},
		{Answer{Status: 503, Header: http.Header{"Retry-After": {"Fri, 31 Dec 1999 23:59:59 GMT"}}, Body: "down"}, "text/plain; charset=utf-8"},
		{Answer{Status: 500, Body: "<html>oops</html>"}, "text/html; charset=utf-8"},
		{Answer{Status: 200, Body: "<html>log in here</html>"}, "text/html; charset=utf-8"},
		{Answer{Status: 200, Body: `{"access_token":"a","access_token":"b"}`}, "application/json"},
		{Answer{Status: 200, Body: `null`}, "application/json"},
		{Answer{Status: 200, Body: `{}`, Header: http.Header{"Content-Type": {"text/plain"}}}, "text/plain"},
		{Answer{Status: 301, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, ""},
		{Answer{Status: 302, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, ""},
		{Answer{Status: 303, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, ""},
		{Answer{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, ""},
		{Answer{Status: 308, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}, ""},
	} {
		s.Client("dev").Then(tt.answer)
		r := do(t, tokenRequest(t, s))
		if r.status != tt.answer.Status || r.body != tt.answer.Body || r.header.Get("Content-Type") != tt.contentType {
			t.Errorf("%+v: %d %q %q", tt.answer, r.status, r.body, r.header.Get("Content-Type"))
		}
		for name, values := range tt.answer.Header {
			if got := r.header.Get(name); got != values[0] {
				t.Errorf("%+v: %s: %q", tt.answer, name, got)
			}
		}
	}
}

func TestMembers(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	truth := map[string]string{"token_type": `"Bearer"`, "expires_in": `3600`}
	for _, tt := range []struct {
		answer Answer
		want   map[string]string // what differs from truth; empty if dropped
	}{
		{Answer{}, nil},
		{Answer{Set: map[string]any{"expires_in": "3600"}}, map[string]string{"expires_in": `"3600"`}},
		{Answer{Set: map[string]any{"expires_in": json.Number("1e400")}}, map[string]string{"expires_in": `1e400`}},
		{Answer{Set: map[string]any{"expires_in": -1}}, map[string]string{"expires_in": `-1`}},
		{Answer{Set: map[string]any{"expires_in": 59.5}}, map[string]string{"expires_in": `59.5`}},
		{Answer{Set: map[string]any{"expires_in": nil}}, map[string]string{"expires_in": `null`}},
		{Answer{Set: map[string]any{"token_type": "bearer"}}, map[string]string{"token_type": `"bearer"`}},
		{Answer{Set: map[string]any{"token_type": "DPoP"}}, map[string]string{"token_type": `"DPoP"`}},
		{Answer{Set: map[string]any{"refresh_token": "r"}}, map[string]string{"refresh_token": `"r"`}},
		{Answer{Drop: []string{"expires_in"}}, map[string]string{"expires_in": ""}},
		{Answer{Drop: []string{"token_type"}, Set: map[string]any{"x": []int{1}}}, map[string]string{"token_type": "", "x": "[1]"}},
	} {
		s.Client("dev").Then(tt.answer)
		r := do(t, tokenRequest(t, s))
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(r.body), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"token_type": truth["token_type"], "expires_in": truth["expires_in"]}
		for name, v := range tt.want {
			if want[name] = v; v == "" {
				delete(want, name)
			}
		}
		all := make(map[string]string)
		for name, v := range got {
			if name != "access_token" {
				all[name] = string(v)
			}
		}
		if diff := cmp.Diff(want, all); diff != "" || r.status != 200 || got["access_token"] == nil {
			t.Errorf("%+v: %d %s", tt.answer, r.status, diff)
		}
	}

	s.Client("dev").Then(Answer{Drop: []string{"access_token"}})
	if got := do(t, tokenRequest(t, s)).json(t); got["access_token"] != nil || got["token_type"] != "Bearer" {
		t.Errorf("dropped access_token: %v", got)
	}
	// Nothing is changed for who does not get a token.
	s.Client("dev").Then(Answer{Set: map[string]any{"access_token": "x"}})
	r := do(t, post(t, s.TokenURL, basic("dev", "wrong"), "grant_type=client_credentials"))
	if r.status != 401 || r.json(t)["access_token"] != nil {
		t.Errorf("wrong secret: %d %s", r.status, r.body)
	}
	// Less scope than asked for is less scope in truth.
	s.Client("dev").Then(Answer{Set: map[string]any{"scope": "read"}})
	token := accessToken(t, post(t, s.TokenURL, basic("dev", secret), "grant_type=client_credentials&scope=read+write"))
	if r := do(t, get(t, s.ResourceURL+"?scope=write", "Bearer "+token)); r.status != 403 {
		t.Errorf("scope that was not granted: %d", r.status)
	}
}

func TestSameToken(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	s.Client("dev").Then(Answer{SameToken: true}) // there is none yet
	first := accessToken(t, tokenRequest(t, s))
	s.Client("dev").Then(Answer{SameToken: true})
	if again := accessToken(t, tokenRequest(t, s)); again != first {
		t.Error("got another token")
	}
	if fresh := accessToken(t, tokenRequest(t, s)); fresh == first {
		t.Error("got the same token unasked")
	}
	old := issueAt(s, "", time.Now().Add(-30*time.Minute))
	s.Client("dev").Then(Answer{SameToken: true})
	got := do(t, tokenRequest(t, s)).json(t)
	if in := got["expires_in"].(float64); got["access_token"] != old.token || in < 1790 || in > 1801 {
		t.Errorf("half of its life later: %v", got)
	}
	dead := issueAt(s, "", time.Now().Add(-2*time.Hour))
	s.Client("dev").Then(Answer{SameToken: true})
	if fresh := accessToken(t, tokenRequest(t, s)); fresh == dead.token {
		t.Error("got an expired token")
	}
}

func TestEchoSecret(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev, {ID: "post", Secret: secret, Auth: AuthPost}}})
	s.AnyClient().Always(Answer{EchoSecret: true})
	r := do(t, tokenRequest(t, s))
	want := map[string]any{
		"error":             "invalid_client",
		"error_description": "secret " + secret + " is wrong, Authorization was " + basic("dev", secret),
	}
	if diff := cmp.Diff(want, r.json(t)); r.status != 401 || diff != "" {
		t.Errorf("%d %s", r.status, diff)
	}
	r = do(t, post(t, s.TokenURL, "", "grant_type=client_credentials&client_id=post&client_secret="+secret))
	if r.status != 400 || !strings.Contains(r.body, secret) {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestDelay(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	s.Client("dev").Then(Answer{Delay: 50 * time.Millisecond})
	start := time.Now()
	if r := do(t, tokenRequest(t, s)); r.status != 200 || time.Since(start) < 50*time.Millisecond {
		t.Errorf("%d after %v", r.status, time.Since(start))
	}
}

func TestHang(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	s.Client("dev").Always(Answer{Hang: true})
	replies := make(chan reply)
	for range 3 {
		req := tokenRequest(t, s)
		go func() {
			r, _ := try(req)
			replies <- r
		}()
	}
	if err := s.Await(t.Context(), "/token", 3); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Requests() {
		if r.Status != 0 {
			t.Errorf("answered before it was released: %d", r.Status)
		}
	}
	s.Release()
	for range 3 {
		if r := <-replies; r.status != 200 {
			t.Errorf("released: %d", r.status)
		}
	}
	for _, r := range s.Requests() {
		if r.Status != 200 {
			t.Errorf("log: %d", r.Status)
		}
	}

	// Later requests hang again; a client may give up, and so may the server.
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	for _, ctx := range []context.Context{ctx, t.Context()} {
		req := tokenRequest(t, s).WithContext(ctx)
		go func() {
			_, err := try(req)
			errs <- err
		}()
	}
	if err := s.Await(t.Context(), "/token", 5); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	s.Close()
	if err := <-errs; err == nil {
		t.Error("closed server: no error")
	}
}

func TestAwaitGivesUp(t *testing.T) {
	s := Start(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Await(ctx, "/token", 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		s := Start(t, Config{TLS: useTLS, Clients: []Client{dev}})
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.CA)
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots},
		}}
		for _, tt := range []struct {
			fault  string
			status int
			body   string
			err    error
		}{
			{ResetBefore, 0, "", syscall.ECONNRESET},
			{ResetInBody, 200, "half", syscall.ECONNRESET},
			{CloseAfterHeaders, 200, "", io.ErrUnexpectedEOF},
		} {
			s.Client("dev").Then(Answer{Fault: tt.fault, Status: 200, Body: "halfhalf"})
			resp, err := client.Do(tokenRequest(t, s))
			status, body := 0, []byte(nil)
			if err == nil {
				status = resp.StatusCode
				body, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if status != tt.status || string(body) != tt.body || !errors.Is(err, tt.err) {
				t.Errorf("TLS %v, %s: %d %q %v", useTLS, tt.fault, status, body, err)
			}
			all := s.Requests()
			if got := all[len(all)-1].Status; got != tt.status {
				t.Errorf("TLS %v, %s: log: %d", useTLS, tt.fault, got)
			}
		}
		// Between faults all is well.
		resp, err := client.Do(tokenRequest(t, s))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Error(resp.StatusCode)
		}
	}
}

func TestTLSIsTrustedThroughItsCAOnly(t *testing.T) {
	s := Start(t, Config{TLS: true, Clients: []Client{dev}})
	var unknown x509.UnknownAuthorityError
	if _, err := try(tokenRequest(t, s)); !errors.As(err, &unknown) {
		t.Error(err)
	}
	if n := s.Count("/token"); n != 0 {
		t.Errorf("%d requests over a connection that was not trusted", n)
	}
}

func TestPad(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	for _, n := range []int64{1, 32 << 10, 5<<20 + 1} {
		s.Client("dev").Then(Answer{Pad: n})
		r := do(t, tokenRequest(t, s))
		trimmed := strings.TrimLeft(r.body, " ")
		if got := int64(len(r.body) - len(trimmed)); got != n {
			t.Errorf("%d spaces, want %d", got, n)
		}
		if r.json(t)["access_token"] == nil {
			t.Errorf("no token behind %d spaces", n)
		}
	}
}

func TestTrickle(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	s.Client("dev").Then(Answer{Trickle: 5 * time.Millisecond, Status: 200, Body: "0123456789"})
	start := time.Now()
	if r := do(t, tokenRequest(t, s)); r.body != "0123456789" || time.Since(start) < 50*time.Millisecond {
		t.Errorf("%q after %v", r.body, time.Since(start))
	}
	// The headers come at once, and a server that closes has not sent it all.
	s.Client("dev").Then(Answer{Trickle: time.Hour})
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(tokenRequest(t, s))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	s.Close()
	if body, err := io.ReadAll(resp.Body); len(body) != 0 || err == nil {
		t.Errorf("%q, %v", body, err)
	}
}

func TestAnswerRefusals(t *testing.T) {
	s := Start(t, Config{})
	for _, a := range []Answer{
		{Fault: "earthquake"},
		{Status: 99},
		{Status: 600},
		{Body: "without status"},
		{Header: http.Header{"A": {"b"}}},
		{Status: 200, EchoSecret: true},
		{Status: 200, Set: map[string]any{"scope": "x"}},
		{EchoSecret: true, SameToken: true},
		{Fault: ResetInBody, Pad: 1},
		{Delay: -1},
		{Set: map[string]any{"expires_in": json.Number("many")}},
		{Endpoint: "nowhere"},
		{Status: 400, Error: "invalid_grant"},
		{Error: "invalid_grant", Set: map[string]any{"scope": "x"}},
		{Twice: []string{"code"}},
		{Endpoint: "authorize", Set: map[string]any{"code": 1}},
		{Endpoint: "authorize", Set: map[string]any{"code": []any{"a", 1}}},
	} {
		for name, add := range map[string]func(*Script){
			"Then":   func(c *Script) { c.Then(a) },
			"Always": func(c *Script) { c.Always(a) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s(%+v): no panic", name, a)
					}
				}()
				add(s.Client("dev"))
			}()
		}
	}
}
