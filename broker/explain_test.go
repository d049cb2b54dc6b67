package broker_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/profile"
	"tokend/store"
	"tokend/test/authserver"
)

var levels = map[broker.Level]string{broker.Info: "info", broker.OK: "ok", broker.Warning: "warning", broker.Problem: "problem"}

var (
	someTime    = regexp.MustCompile(`(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d`)
	someVersion = regexp.MustCompile(`version [0-9a-f]{12}, \d+ bytes`)
	someTook    = regexp.MustCompile(`\((<1ms|[0-9.]+m?s)\)`)
)

// findings are an explanation's, a line each; times, and where the server
// listens, are taken out.
func (h *house) findings(x *broker.Explanation) []string {
	var list []string
	for _, f := range x.Findings {
		text := strings.NewReplacer(h.server.Issuer, "ISSUER", strings.TrimPrefix(h.server.Issuer, "http://"), "AS").Replace(f.Text)
		text = someTime.ReplaceAllString(text, "TIME")
		text = someVersion.ReplaceAllString(text, "VERSION")
		text = someTook.ReplaceAllString(text, "(TOOK)")
		list = append(list, levels[f.Level]+" "+f.Topic+": "+text)
	}
	return list
}

func (h *house) explain(t *testing.T, r broker.Request, live bool) *broker.Explanation {
	t.Helper()
	x, err := h.Explain(t.Context(), r, live)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	for _, f := range x.Findings {
		if levels[f.Level] == "" || f.Topic == "" || f.Topic != strings.ToLower(f.Topic) || f.Text == "" ||
			strings.ContainsFunc(f.Text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("finding %+v", f)
		}
	}
	return x
}

// wantFindings checks all findings, or those on some topics.
func (h *house) wantFindings(t *testing.T, x *broker.Explanation, want []string, topics ...string) {
	t.Helper()
	got := h.findings(x)
	if len(topics) > 0 {
		got = slices.DeleteFunc(got, func(line string) bool {
			_, line, _ = strings.Cut(line, " ")
			topic, _, _ := strings.Cut(line, ":")
			return !slices.Contains(topics, topic)
		})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "dev/network", h.text("OAUTH2_SCOPE=\"read write\"", "FOO=bar"))
	text := []string{
		"info text: VERSION",
		"ok trust: its text is trusted on this machine",
		"info grant: client_credentials: the client asks for itself",
		"info client: ID client; authenticates by client_secret_basic, which every server takes that takes a secret (RFC 6749 section 2.3.1)",
		"info endpoint: token ISSUER/token (OAUTH2_TOKEN_URL in line 1)",
	}
	own := append(slices.Clone(text), "info request: scope read write", "info dpop: not used, unless the server asks for it")
	x := h.explain(t, plain, false)
	h.wantFindings(t, x, append(slices.Clone(own), "info token: there is none; who asks for one has it fetched"))
	if diff := cmp.Diff(broker.Standing{Profile: "dev/network"}, x.Standing); diff != "" {
		t.Error(diff)
	}
	h.wantRequests(t, 0)

	h.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"scope": "read"}})
	token := h.get(t, plain)
	h.sleep(time.Minute)
	x = h.explain(t, plain, true)
	h.wantFindings(t, x, append(own,
		"ok token: there is one, good until TIME (9m0s of 10m0s)",
		"info token: it is renewed TIME",
		"warning token: not granted: write",
		"ok tcp: AS answers at AS (TOOK)",
		"ok http: AS answers a GET with status 405 (TOOK)",
		"ok clock: this machine's and that of AS agree, to a minute",
	))
	if s := x.Standing; s.Token == nil || s.Token.Access != token.Access || s.Renews <= 0 || s.Err != nil {
		t.Errorf("%+v", s)
	}

	// Another token of the same profile.
	h.wantFindings(t, h.explain(t, broker.Request{Profile: "dev/network", Scopes: []string{"admin"}, Audience: "api"}, false), append(text,
		"info request: scope admin, as the caller wants",
		"info request: audience api, as the caller wants",
		"info dpop: not used, unless the server asks for it",
		"info token: there is none; who asks for one has it fetched",
	))
	if n := len(h.server.Requests()); n != 2 {
		t.Errorf("the server got %d requests", n)
	}
	for _, r := range h.server.Requests()[1:] {
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "" || len(r.Form) > 0 {
			t.Errorf("the look had %+v", r)
		}
	}
}

func TestExplainTextThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	if _, err := h.Explain(t.Context(), plain, true); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("not there: %v", err)
	}
	text := h.text("OAUTH2_SCOPPE=read", "OAUTH2_TOKEN_URL=x\x1b[2J")
	h.put(t, "dev/network", text)
	mistakes := []string{
		"problem text: line 4: OAUTH2_SCOPPE: no such variable; did you mean OAUTH2_SCOPE?",
		"problem text: line 5: OAUTH2_TOKEN_URL: has a control character in it; remove it",
	}
	x := h.explain(t, plain, true)
	h.wantFindings(t, x, append([]string{"info text: VERSION", "ok trust: its text is trusted on this machine"}, mistakes...))
	if !errors.As(x.Standing.Err, new(*profile.Mistakes)) || x.Curl != "" {
		t.Errorf("%+v", x)
	}
	h.refused[text] = true
	x = h.explain(t, plain, true)
	h.wantFindings(t, x, append([]string{"info text: VERSION", "problem trust: its text has not been trusted on this machine"}, mistakes...))
	if !errors.Is(x.Standing.Err, broker.ErrUntrusted) {
		t.Error(x.Standing.Err)
	}

	text = h.text("CLIENT_SECRET_FILE=/somewhere")
	h.refused[text] = true
	h.put(t, "dev/network", text)
	h.values = func() (map[string]string, error) { t.Error("a value was read"); return nil, nil }
	x = h.explain(t, plain, true)
	h.wantFindings(t, x, []string{"info text: VERSION", "problem trust: its text has not been trusted on this machine",
		"problem text: line 4: CLIENT_SECRET_FILE: stands beside CLIENT_SECRET in line 3; keep one of the two"})

	text = "OAUTH2_TOKEN_URL=" + h.server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET_FILE=/somewhere\n"
	h.refused[text] = true
	h.put(t, "dev/network", text)
	x = h.explain(t, plain, true)
	h.wantFindings(t, x, []string{"info text: VERSION", "problem trust: its text has not been trusted on this machine"})
	if !errors.Is(x.Standing.Err, broker.ErrUntrusted) || x.Curl != "" {
		t.Errorf("%+v", x)
	}

	h.put(t, "dev/network", "CLIENT_SECRET='CANARY")
	h.wantFindings(t, h.explain(t, plain, true), []string{"info text: VERSION", "ok trust: its text is trusted on this machine",
		"problem text: line 1: CLIENT_SECRET: the single quote that opens here is never closed"})

	h.put(t, "dev/network", strings.Repeat("OAUTH2_NO_SUCH_VARIABLE=\x07\n", 1000))
	if n := len(h.explain(t, plain, true).Findings); n > 30 {
		t.Errorf("%d findings", n)
	}
	if n := len(h.server.Requests()); n != 0 {
		t.Errorf("the server got %d requests", n)
	}
	h.store.Lock()
	if _, err := h.Explain(t.Context(), plain, true); !errors.Is(err, store.ErrLocked) {
		t.Errorf("locked: %v", err)
	}
}

// Trouble of a store that is neither of its errors is something to explain.
func TestExplainTroubleOfTheStores(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	c := h.config()
	c.Profiles = broken{h.store}
	c.Trusted = func(string, []byte) (bool, error) { return false, errors.New("the trust file is a folder") }
	other := broker.New(c)
	t.Cleanup(other.Close)
	h.put(t, "dev/network", h.text())
	h.put(t, "broken", h.text())
	for name, want := range map[string][]string{
		"broken":      {"problem text: input/output error"},
		"dev/network": {"info text: VERSION", "problem trust: whether it is trusted cannot be found out: the trust file is a folder"},
	} {
		x, err := other.Explain(t.Context(), broker.Request{Profile: name}, false)
		if err != nil {
			t.Fatal(err)
		}
		h.wantFindings(t, x, want)
		if x.Standing.Err == nil {
			t.Errorf("%s: nothing is wrong", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Explain(ctx, plain, false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := h.sessions.Put(t.Context(), "dev/network", []byte("{"), ""); err != nil {
		t.Fatal(err)
	}
	const damaged = " session: reading the session: the record is damaged; to end it, run: tokenctl logout dev/network"
	x := h.explain(t, plain, false)
	h.wantFindings(t, x, []string{"warning" + damaged}, "session")
	if x.Standing.Err != nil {
		t.Error(x.Standing.Err)
	}
	h.put(t, "dev/network", h.interactive())
	x = h.explain(t, plain, false)
	h.wantFindings(t, x, []string{"problem" + damaged}, "session")
	if err := x.Standing.Err; err == nil || !strings.HasPrefix(err.Error(), "reading the session") {
		t.Error(err)
	}
	h.sessions.Lock()
	if _, err := h.Explain(t.Context(), plain, false); !errors.Is(err, store.ErrLocked) {
		t.Errorf("locked: %v", err)
	}
}

type broken struct{ store.Store }

func (b broken) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	if name == "broken" {
		return nil, "", errors.New("input/output error")
	}
	return b.Store.Get(ctx, name)
}

func TestExplainValues(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	c := h.config()
	works := true
	c.Resolve = func(_ context.Context, list []profile.External) (map[string]string, error) {
		values := make(map[string]string)
		for _, e := range list {
			if e.File == "" && !works {
				return nil, &profile.Mistakes{List: []profile.Mistake{{Line: e.Line, Variable: e.Variable + "_COMMAND", Message: "pass: exit status 1"}}}
			}
			values[e.Variable] = map[string]string{"CLIENT_ID": "client", "CLIENT_SECRET": secret, "OAUTH2_SCOPE": "read"}[e.Variable]
		}
		return values, nil
	}
	h.Close()
	h.Broker = broker.New(c)
	h.put(t, "dev/network", "OAUTH2_TOKEN_URL="+h.server.TokenURL+"\nCLIENT_ID_FILE=/id\nCLIENT_SECRET_COMMAND='pass show x'\nOAUTH2_SCOPE_FILE=/scope\n")
	read := []string{
		"ok values: CLIENT_ID is read from a file, as line 2 says",
		"ok values: CLIENT_SECRET is what a command prints, as line 3 says",
		"ok values: OAUTH2_SCOPE is read from a file, as line 4 says",
	}
	token := h.get(t, plain)
	x := h.explain(t, plain, false)
	h.wantFindings(t, x, append(slices.Clone(read),
		"info client: ID (from CLIENT_ID_FILE in line 2); authenticates by client_secret_basic, which every server takes that takes a secret (RFC 6749 section 2.3.1)",
		"info request: scope (from OAUTH2_SCOPE_FILE in line 4)",
	), "values", "client", "request")
	if want := `--data-urlencode "scope=$OAUTH2_SCOPE" -u "$CLIENT_ID":"$CLIENT_SECRET" `; !strings.Contains(x.Curl, want) {
		t.Errorf("got %s, want %s", x.Curl, want)
	}
	// What is known of the token does not depend on it.
	works = false
	read[1] = "problem values: line 3: CLIENT_SECRET_COMMAND: pass: exit status 1"
	x = h.explain(t, plain, true)
	h.wantFindings(t, x, append(append([]string{"info text: VERSION", "ok trust: its text is trusted on this machine"}, read...),
		"ok token: there is one, good until TIME (10m0s of 10m0s)", "info token: it is renewed TIME"))
	if x.Standing.Token == nil || x.Standing.Token.Access != token.Access || x.Curl != "" {
		t.Errorf("%+v", x)
	}
	h.fresh()
	if x = h.explain(t, plain, true); !errors.As(x.Standing.Err, new(*profile.Mistakes)) {
		t.Errorf("%+v", x.Standing)
	}
	if got, want := h.findings(x)[5:], []string(nil); len(got) != len(want) {
		t.Errorf("got %q", got)
	}
}

func TestExplainSession(t *testing.T) {
	t.Parallel()
	const request = "info request: scope: all that was granted at the login"
	for name, test := range map[string]struct {
		server func(*authserver.Client)
		do     func(t *testing.T, h *house)
		want   []string
		err    error
	}{
		"nobody": {
			do:   func(t *testing.T, h *house) { h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read")) },
			want: []string{"info request: scope read", "problem session: login required (nobody is logged in)"},
			err:  &broker.LoginError{Why: "nobody is logged in"},
		},
		"logged in": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read"))
				h.login(t, "dev/network", "read")
			},
			want: []string{request, "info session: there is a refresh token, which is replaced when it is used"},
		},
		"after a restart": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read"))
				h.login(t, "dev/network", "read")
				h.restart()
			},
			want: []string{request, "info session: there is a refresh token, which is replaced when it is used"},
		},
		"fixed": {
			server: func(c *authserver.Client) { c.Refresh = authserver.RefreshSilent },
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read"))
				h.login(t, "dev/network", "read")
				h.fresh()
				h.get(t, plain)
			},
			want: []string{request, "info session: there is a refresh token, which the server leaves as it is"},
		},
		"other scopes": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read"))
				h.login(t, "dev/network", "read")
				h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=write"))
			},
			want: []string{"info request: scope write", "info session: there is a refresh token, which is replaced when it is used",
				"info session: the text asks for other scopes than at the login"},
		},
		"another client": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive())
				h.login(t, "dev/network")
				h.put(t, "dev/network", strings.ReplaceAll(h.interactive(), "CLIENT_ID=client", "CLIENT_ID=second"))
				h.restart() // without metadata
			},
			want: []string{"problem session: login required (the client is another one than at the login)",
				"info session: there is a refresh token, which is replaced when it is used"},
			err: &broker.LoginError{Why: "the client is another one than at the login"},
		},
		"ended": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive())
				h.login(t, "dev/network")
				h.fresh()
				h.server.AnyClient().Then(authserver.Answer{Error: "invalid_grant"})
				h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "")
				h.restart()
			},
			want: []string{"problem session: login required (refresh token rejected: invalid_grant)"},
			err:  &broker.LoginError{Why: "refresh token rejected: invalid_grant", Code: "invalid_grant"},
		},
		"no refresh token": {
			server: func(c *authserver.Client) { c.Refresh = authserver.RefreshNone },
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive())
				h.login(t, "dev/network")
			},
			want: []string{"warning session: the login brought an access token that is good until TIME, and no refresh token: then somebody has to log in again"},
		},
		"no refresh token, no end": {
			server: func(c *authserver.Client) { c.Refresh = authserver.RefreshNone },
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive())
				h.server.AnyClient().Then(noExpiry)
				h.login(t, "dev/network")
			},
			want: []string{"info session: the login brought an access token that is good until it is refused, and no refresh token"},
		},
		"a refresh token of the text": {
			do:   func(t *testing.T, h *house) { h.put(t, "dev/network", h.given("CANARY-rt")) },
			want: []string{"info session: OAUTH2_REFRESH_TOKEN has not been used yet, and will be"},
		},
		"one that was refused": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.given("CANARY-rt"))
				h.wantLogin(t, plain, "refresh token rejected: invalid_grant", "OAUTH2_REFRESH_TOKEN")
				h.restart()
			},
			want: []string{"problem session: login required (refresh token rejected: invalid_grant)"},
			err:  &broker.LoginError{Why: "refresh token rejected: invalid_grant", Variable: "OAUTH2_REFRESH_TOKEN", Code: "invalid_grant"},
		},
		"in memory only": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive())
				h.login(t, "dev/network")
				h.fresh()
				h.disk.failing(failSecond())
				h.get(t, plain)
			},
			want: []string{"info session: there is a refresh token, which is replaced when it is used",
				"warning session: it could not be written and is in memory only"},
		},
		"no answer": {
			do: func(t *testing.T, h *house) {
				h.put(t, "dev/network", h.interactive())
				h.login(t, "dev/network")
				h.fresh()
				reset := authserver.Answer{Fault: authserver.ResetBefore}
				h.server.AnyClient().Then(reset, reset)
				if _, err := h.Token(t.Context(), plain); err == nil {
					t.Error("got a token")
				}
				h.restart()
			},
			want: []string{"info session: there is a refresh token, which is replaced when it is used",
				"warning session: the refresh token was sent and no answer was kept: whether it is still good is not known"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, client(test.server))
			test.do(t, h)
			before := len(h.server.Requests())
			x := h.explain(t, plain, false)
			h.wantFindings(t, x, test.want, "session", "request")
			if diff := cmp.Diff(test.err, x.Standing.Err); diff != "" {
				t.Error(diff)
			}
			if len(h.server.Requests()) != before {
				t.Error("the server was asked")
			}
		})
	}
}

// The renewal that hangs may be what is to be explained.
func TestExplainDuringARenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.server.AnyClient().Then(hanging)
	done := make(chan error)
	go func() { _, err := h.Token(t.Context(), plain); done <- err }()
	h.await(t, "/token", 2)
	h.wantFindings(t, h.explain(t, plain, false), []string{
		"info session: it is in use: a renewal or a logout is under way",
		"info token: there is none; who asks for one has it fetched",
	}, "session", "token")
	h.server.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestExplainSubject(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	exchange := func(of string) string {
		return h.text("OAUTH2_GRANT=token_exchange", "OAUTH2_SUBJECT_TOKEN_PROFILE="+of)
	}
	h.put(t, "a", exchange("b"))
	h.put(t, "b", exchange("c"))
	h.put(t, "c", h.text())
	want := func(lines ...string) {
		t.Helper()
		h.wantFindings(t, h.explain(t, broker.Request{Profile: "a"}, false), lines, "subject")
	}
	want("info subject: the token of b, which is asked for when it is needed",
		"info subject: the token of c, which is asked for when it is needed")
	h.get(t, broker.Request{Profile: "c"})
	want("info subject: the token of b, which is asked for when it is needed",
		"ok subject: the token of c, which is good until TIME")
	h.put(t, "b", exchange("nobody"))
	want("info subject: the token of b, which is asked for when it is needed",
		"problem subject: the token of nobody: does not exist")
	h.put(t, "c", exchange("a"))
	h.put(t, "b", exchange("c"))
	want("info subject: the token of b, which is asked for when it is needed",
		"info subject: the token of c, which is asked for when it is needed",
		"problem subject: the chain of profiles comes back to itself: a -> b -> c -> a")
	h.put(t, "a", h.text("OAUTH2_GRANT=token_exchange", "OAUTH2_SUBJECT_TOKEN=CANARY-subject"))
	want("info subject: the token that OAUTH2_SUBJECT_TOKEN in line 5 gives")
}

func TestExplainRefusal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.text())
	h.server.AnyClient().Then(authserver.Answer{Error: "invalid_client"})
	if _, err := h.Token(t.Context(), plain); err == nil {
		t.Fatal("got a token")
	}
	want := []string{"problem failure: asking AS for a token: invalid_client: as scripted (HTTP 400); the server is asked again TIME"}
	for range 2 {
		x := h.explain(t, plain, false)
		h.wantFindings(t, x, want, "token", "failure")
		if s := x.Standing; s.Retry < 14*time.Minute || s.Retry > 25*time.Minute || !errors.As(s.Err, new(*broker.RefusedError)) {
			t.Errorf("%+v", s)
		}
		h.restart() // which forgets nothing
	}
	// What another text would bring is not known.
	h.put(t, "dev/network", h.text("OAUTH2_SCOPE=read"))
	h.wantFindings(t, h.explain(t, plain, false), []string{"info token: there is none; who asks for one has it fetched"}, "token", "failure")
}

// Who wants to be left alone is, also by somebody who looks what is wrong, and also
// if it was another profile that was told so.
func TestExplainThrottled(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "other", h.text())
	h.put(t, "dev/network", h.interactive())
	h.server.AnyClient().Then(authserver.Answer{Status: 429, Header: http.Header{"Retry-After": {"600"}}})
	if _, err := h.Token(t.Context(), broker.Request{Profile: "other"}); err == nil {
		t.Fatal("got a token")
	}
	h.wantFindings(t, h.explain(t, plain, true), []string{
		"warning server: it wants to be left alone until TIME: asking AS for a token: no OAuth error in the answer (HTTP 429)",
		"info network: AS is not looked at while it wants to be left alone",
	}, "server", "network", "discovery", "tcp", "http", "clock")
	if n := len(h.server.Requests()); n != 1 {
		t.Errorf("the server got %d requests", n)
	}
}

func TestExplainFailingRenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "dev/network", h.text())
	h.get(t, plain)
	h.sleep(time.Minute)
	h.server.AnyClient().Then(failing)
	if _, err := h.Token(t.Context(), broker.Request{Profile: "dev/network", Force: true}); err == nil {
		t.Fatal("got a token")
	}
	x := h.explain(t, plain, false)
	got := h.findings(x)
	if want := "warning failure: asking AS for a token: no OAuth error in the answer (HTTP 500); the server is asked again TIME"; !slices.Contains(got, want) {
		t.Errorf("got %q, want %s", got, want)
	}
	if x.Standing.Token == nil || x.Standing.Err == nil {
		t.Errorf("%+v", x.Standing)
	}
}

func TestExplainMetadata(t *testing.T) {
	t.Parallel()
	c := client(nil)
	c.Metadata = map[string]any{
		"grant_types_supported":                 []string{"authorization_code"},
		"token_endpoint_auth_methods_supported": []string{"private_key_jwt"},
		"code_challenge_methods_supported":      []string{"plain"},
		"dpop_signing_alg_values_supported":     []string{"RS256"},
		"require_pushed_authorization_requests": true,
	}
	h := newHouse(t, c)
	topics := []string{"issuer", "endpoint", "discovery"}
	h.put(t, "dev/network", h.interactive())
	h.wantFindings(t, h.explain(t, plain, false), []string{
		"info issuer: ISSUER (OAUTH2_ISSUER in line 1)",
		"info endpoint: token: the issuer's metadata are to name it, and are read when a token is asked for",
		"info endpoint: authorization: the issuer's metadata are to name it, and are read at a login",
	}, topics...)
	if n := len(h.server.Requests()); n != 0 {
		t.Errorf("the server got %d requests", n)
	}
	h.wantFindings(t, h.explain(t, plain, true), []string{
		"info issuer: ISSUER (OAUTH2_ISSUER in line 1)",
		"info endpoint: token ISSUER/token (the issuer's metadata, read just now)",
		"info endpoint: authorization ISSUER/authorize (the issuer's metadata, read just now)",
		"ok discovery: the metadata of ISSUER can be read, and are of this issuer",
		"warning discovery: the server does not list client_secret_basic (token_endpoint_auth_methods_supported)",
		"problem discovery: checking the metadata of ISSUER: the server has no PKCE by S256 (code_challenge_methods_supported), and nothing weaker is used",
	}, topics...)
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=on", "OAUTH2_PAR=off", "OAUTH2_REVOCATION_URL=https://as.example/revoke"))
	if _, err := h.Prepare(t.Context(), "dev/network"); err != nil {
		t.Fatal(err)
	}
	h.sleep(20 * time.Minute)
	now, err := json.Marshal(map[string]any{
		"issuer": h.server.Issuer, "token_endpoint": h.server.Issuer + "/other", "revocation_endpoint": h.server.Issuer + "/revoke",
		"code_challenge_methods_supported": []string{"S256"}, "token_endpoint_auth_methods_supported": []string{"client_secret_basic"},
		"dpop_signing_alg_values_supported": []string{"RS256"}, "require_pushed_authorization_requests": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.server.AnyClient().Then(authserver.Answer{Endpoint: "metadata", Status: 200, Body: string(now)})
	h.wantFindings(t, h.explain(t, plain, true), []string{
		"info issuer: ISSUER (OAUTH2_ISSUER in line 1); its metadata were read 20m0s ago",
		"info endpoint: token ISSUER/token (the issuer's metadata)",
		"info endpoint: authorization ISSUER/authorize (the issuer's metadata)",
		"ok discovery: the metadata of ISSUER can be read, and are of this issuer",
		"warning discovery: the revocation endpoint is https://as.example/revoke in the profile, and ISSUER/revoke in the metadata",
		"warning discovery: the endpoints are others than 20m0s ago; they are taken over within 40m0s",
		"ok discovery: the server lists client_secret_basic",
		"ok discovery: the server lists PKCE by S256",
		"problem discovery: the server requires pushed authorization requests, which are off (OAUTH2_PAR in line 6)",
		"warning discovery: the server lists neither ES256 nor EdDSA for DPoP",
	}, topics...)
	// Where nothing of the metadata is needed for a token.
	h.server.AnyClient().Then(authserver.Answer{Endpoint: "metadata", Status: 200, Body: string(now)})
	h.put(t, "dev/network", h.text("OAUTH2_ISSUER="+h.server.Issuer, "OAUTH2_CLIENT_AUTH=client_secret_post", "OAUTH2_DPOP=off"))
	h.wantFindings(t, h.explain(t, plain, true), []string{
		"ok discovery: the metadata of ISSUER can be read, and are of this issuer",
		"warning discovery: the token endpoint is ISSUER/token in the profile, and ISSUER/other in the metadata",
		"warning discovery: the endpoints are others than 20m0s ago; they are taken over within 40m0s",
		"warning discovery: the server does not list client_secret_post (token_endpoint_auth_methods_supported)",
		"info discovery: the server lists DPoP, which is off",
	}, "discovery")
	other := strings.Replace(string(now), h.server.Issuer, "https://other.example", 1)
	for text, level := range map[string]string{
		h.text("OAUTH2_ISSUER="+h.server.Issuer, "OAUTH2_CLIENT_AUTH=client_secret_post"): "warning",
		h.interactive(): "problem",
	} {
		h.server.AnyClient().Then(authserver.Answer{Endpoint: "metadata", Status: 200, Body: other})
		h.put(t, "dev/network", text)
		got := h.findings(h.explain(t, plain, true))
		if !slices.ContainsFunc(got, func(f string) bool {
			return strings.HasPrefix(f, level+" discovery: reading the metadata of AS: the metadata are of issuer https://other.example, not of ISSUER")
		}) {
			t.Errorf("got %q", got)
		}
	}
}

// What the profile's own server and its way there say.
func TestExplainNetwork(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{TLS: true, MTLS: true, Clients: []authserver.Client{{ID: "client", Auth: authserver.AuthTLS, SubjectDN: "CN=dev"}}})
	cert, key, err := h.server.ClientCertificate("dev")
	if err != nil {
		t.Fatal(err)
	}
	h.put(t, "dev/network", lines("OAUTH2_ISSUER", h.server.Issuer, "CLIENT_ID", "client", "OAUTH2_PROXY", "direct",
		"TLS_CLIENT_CERT", string(cert), "TLS_CLIENT_KEY", string(key), "TLS_CA", string(h.server.CA)))
	x := h.explain(t, plain, true)
	at := strings.TrimPrefix(h.server.MTLSURL, "https://")
	var got []string
	for _, f := range h.findings(x) {
		f = strings.ReplaceAll(strings.ReplaceAll(f, at, "MTLS"), strings.TrimPrefix(h.server.Issuer, "https://"), "AS")
		if topic, _, _ := strings.Cut(f, ":"); slices.Contains([]string{"mtls", "ca", "proxy", "client", "tcp", "tls", "http", "clock"}, strings.Fields(topic)[1]) {
			got = append(got, f)
		}
	}
	for i, f := range got {
		if strings.Contains(f, "TLS 1.3") {
			got[i], _, _ = strings.Cut(f, ", a certificate")
		}
	}
	want := []string{
		"info client: ID client; authenticates by tls_client_auth, since there is a TLS_CLIENT_CERT",
		"ok mtls: the client certificate CN=dev is good until TIME",
		"info ca: servers are trusted by TLS_CA alone, not by the system's roots",
		"info proxy: none (OAUTH2_PROXY in line 3)",
		"ok tcp: MTLS answers at MTLS (TOOK)",
		"ok tls: MTLS: TLS 1.3",
		"ok http: MTLS answers a GET with status 405 (TOOK)",
		"ok clock: this machine's and that of MTLS agree, to a minute",
		"info mtls: MTLS was not shown the client certificate",
		"ok tcp: AS answers at AS (TOOK)",
		"ok tls: AS: TLS 1.3",
		"ok http: AS answers a GET with status 404 (TOOK)",
		"ok clock: this machine's and that of AS agree, to a minute",
		"info mtls: AS was not shown the client certificate",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want := `curl -sS -g --noproxy '*' --cacert "$TLS_CA_FILE" --cert "$TLS_CLIENT_CERT_FILE" --key "$TLS_CLIENT_KEY_FILE" -H`; !strings.HasPrefix(x.Curl, want) {
		t.Errorf("got %s", x.Curl)
	}
}

// Neither the endpoint nor the metadata are asked for with a client's certificate.
func TestExplainShowsNoCertificate(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{TLS: true, MTLS: true})
	cert, key, err := h.server.ClientCertificate("dev")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var paths []string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		paths = append(paths, fmt.Sprint(r.URL, " ", len(r.TLS.PeerCertificates)))
		http.NotFound(w, r)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	h.put(t, "dev/network", lines("OAUTH2_ISSUER", s.URL, "OAUTH2_TOKEN_URL", s.URL+"/token", "CLIENT_ID", "client", "OAUTH2_PROXY", "direct",
		"TLS_CLIENT_CERT", string(cert), "TLS_CLIENT_KEY", string(key), "TLS_CA", string(ca)))
	h.explain(t, plain, true)
	mu.Lock()
	defer mu.Unlock()
	want := []string{"/.well-known/openid-configuration 0", "/.well-known/oauth-authorization-server 0", "/token 0"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Error(diff)
	}
}

func TestExplainNetworkFailures(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	// Bound, and not listened to: nobody else gets that port meanwhile.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprint("127.0.0.1:", bound.(*syscall.SockaddrInet4).Port)
	host := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for url, want := range map[string]string{
		"http://" + closed:              "problem tcp: looking at " + closed + ": connection refused",
		"https://nowhere.invalid/token": "problem dns: looking at nowhere.invalid: no such host",
		secure.URL:                      "problem tls: looking at " + host(secure) + ": the certificate is signed by an authority that is not trusted; it is for example.com, *.example.com, 127.0.0.1, ::1, by O=Acme Co, until TIME",
	} {
		h.put(t, "dev/network", lines("OAUTH2_TOKEN_URL", url, "CLIENT_ID", "client", "CLIENT_SECRET", secret, "OAUTH2_PROXY", "direct"))
		if got := h.findings(h.explain(t, plain, true)); got[len(got)-1] != want {
			t.Errorf("%s: got %q", url, got)
		}
	}
	h.put(t, "dev/network", lines("OAUTH2_TOKEN_URL", "https://as.example/token", "CLIENT_ID", "client", "CLIENT_SECRET", secret,
		"OAUTH2_PROXY", "http://user:CANARY-proxy@"+closed))
	x := h.explain(t, plain, true)
	h.wantFindings(t, x, []string{
		"info proxy: http://" + closed + " (OAUTH2_PROXY in line 4)",
		"info proxy: as.example is reached through http://" + closed,
		"problem proxy: looking at as.example: the proxy " + closed + ": connection refused",
	}, "proxy")
	if !strings.Contains(x.Curl, ` --proxy "$OAUTH2_PROXY" `) {
		t.Error(x.Curl)
	}
}

func TestExplainClock(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	var off time.Duration
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
	}))
	defer s.Close()
	key, _ := signingKey(t)
	at := strings.TrimPrefix(s.URL, "http://")
	for _, test := range []struct {
		off  time.Duration
		by   []string
		want string
	}{
		{0, []string{"CLIENT_SECRET", secret}, "ok clock: this machine's and that of " + at + " agree, to a minute"},
		{-2 * time.Hour, []string{"CLIENT_SECRET", secret}, "warning clock: this machine's is 2h0m0s ahead of that of " + at},
		{2 * time.Hour, []string{"CLIENT_SECRET", secret}, "warning clock: this machine's is 1h59m59s behind that of " + at},
		{-2 * time.Hour, []string{"PRIVATE_KEY", key}, "problem clock: this machine's is 2h0m0s ahead of that of " + at + "; what is signed here is dated by it"},
		{-2 * time.Hour, []string{"CLIENT_SECRET", secret, "OAUTH2_DPOP", "on"}, "problem clock: this machine's is 2h0m0s ahead of that of " + at + "; what is signed here is dated by it"},
	} {
		off = test.off
		h.put(t, "dev/network", lines(append([]string{"OAUTH2_TOKEN_URL", s.URL, "CLIENT_ID", "client"}, test.by...)...))
		got := h.findings(h.explain(t, plain, true))
		// Date has whole seconds, which may have passed meanwhile.
		last := strings.NewReplacer("2h0m1s", "2h0m0s", "2h0m2s", "2h0m0s", "1h59m58s", "1h59m59s", "is 2h0m0s behind", "is 1h59m59s behind").Replace(got[len(got)-1])
		if last != test.want {
			t.Errorf("got %s, want %s", last, test.want)
		}
	}
}

func TestExplainClientSecret(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	day := 24 * time.Hour
	h.put(t, "dev/network", h.text("CLIENT_SECRET_EXPIRES_AT="+time.Now().Add(100*day).Format(time.DateOnly)))
	h.wantFindings(t, h.explain(t, plain, false), []string{"ok secret: CLIENT_SECRET is good until TIME"}, "secret")
	h.put(t, "dev/network", h.text("CLIENT_SECRET_EXPIRES_AT="+time.Now().Add(5*day).Format(time.DateOnly)))
	h.wantFindings(t, h.explain(t, plain, false), []string{"warning secret: CLIENT_SECRET expires TIME"}, "secret")
	text := strings.Replace(h.text("CLIENT_SECRET_EXPIRES_AT="+time.Now().Add(-5*day).Format(time.DateOnly), "CLIENT_SECRET_NEXT="+secret), "CLIENT_SECRET="+secret, "CLIENT_SECRET=CANARY-old", 1)
	h.put(t, "dev/network", text)
	h.wantFindings(t, h.explain(t, plain, false), []string{
		"info secret: CLIENT_SECRET is in force; CLIENT_SECRET_NEXT follows once it is refused",
		"warning secret: CLIENT_SECRET_EXPIRES_AT has passed: TIME",
	}, "secret")
	h.get(t, plain)
	x := h.explain(t, plain, false)
	h.wantFindings(t, x, []string{"info secret: CLIENT_SECRET_NEXT is in force: the server has refused CLIENT_SECRET"}, "secret")
	if !strings.Contains(x.Curl, ` -u client:"$CLIENT_SECRET_NEXT" `) {
		t.Error(x.Curl)
	}
}

// rsaText is a key as GitHub makes it.
func rsaText(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// No secret of a text, nor of a session, is in what explains them, nor do the words
// of a server come out of it that a terminal would obey.
func TestExplainShowsNoSecret(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	jwk, _ := signingKey(t)
	appKey := rsaText(t)
	secureServer := authserver.Start(t, authserver.Config{TLS: true, MTLS: true})
	cert, key, err := secureServer.ClientCertificate("dev")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{ // of every variable that is secret
		"CLIENT_SECRET": "CANARY-secret, $(of) 'forty' or \"so\" bytes", "CLIENT_SECRET_NEXT": "CANARY-next", "PRIVATE_KEY": jwk,
		"OAUTH2_SUBJECT_TOKEN": "CANARY-subject", "TLS_CLIENT_KEY": string(key), "OAUTH2_REFRESH_TOKEN": "CANARY-refresh",
		"OAUTH2_EXTRA_<NAME>": "CANARY-extra",
	}
	canaries := []string{"CANARY", appKey[100:140], string(key)[60:100]}
	var members map[string]any
	if err := json.Unmarshal([]byte(jwk), &members); err != nil {
		t.Fatal(err)
	}
	canaries = append(canaries, members["d"].(string))
	for _, v := range profile.Variables {
		if v.Secret && values[v.Name] == "" {
			t.Errorf("%s is not tested", v.Name)
		}
	}
	base := []string{"OAUTH2_ISSUER", h.server.Issuer, "CLIENT_ID", "client", "OTHER_PASSWORD", "CANARY-other",
		"OAUTH2_PROXY", "http://CANARY-user:CANARY-proxy@127.0.0.1:1"}
	with := func(names ...string) []string {
		list := slices.Clone(base)
		for _, name := range names {
			list = append(list, name, values[name])
		}
		return list
	}
	for _, text := range [][]string{
		with("CLIENT_SECRET", "CLIENT_SECRET_NEXT"),
		append(with("CLIENT_SECRET"), "OAUTH2_CLIENT_AUTH", "client_secret_post", "OAUTH2_EXTRA_key", "CANARY-extra"),
		append(with("CLIENT_SECRET"), "OAUTH2_CLIENT_AUTH", "client_secret_jwt"),
		append(with("CLIENT_SECRET"), "OAUTH2_BASIC_ENCODING", "raw"),
		with("PRIVATE_KEY"),
		append(with(), "PRIVATE_KEY", appKey),
		append(with("PRIVATE_KEY"), "OAUTH2_GRANT", "jwt_bearer"),
		append(with("OAUTH2_SUBJECT_TOKEN", "CLIENT_SECRET"), "OAUTH2_GRANT", "token_exchange"),
		append(with("OAUTH2_REFRESH_TOKEN"), "OAUTH2_GRANT", "refresh_token"),
		append(with("TLS_CLIENT_KEY"), "TLS_CLIENT_CERT", string(cert)),
		append(with("CLIENT_SECRET"), "OAUTH2_GRANT", "authorization_code", "OAUTH2_DPOP", "on"),
		{"OAUTH2_PROVIDER", "github-app", "GITHUB_APP_ID", "7", "GITHUB_INSTALLATION", "42", "PRIVATE_KEY", appKey, "OAUTH2_PROXY", "http://CANARY-user:CANARY-proxy@127.0.0.1:1"},
	} {
		h.put(t, "dev/network", lines(text...))
		for _, live := range []bool{false, true} {
			x := h.explain(t, plain, live)
			if x.Curl == "" {
				t.Errorf("%q cannot be used: %q", text[len(base):], h.findings(x))
			}
			shown := fmt.Sprintf("%+v\n%#v", x, x)
			for _, canary := range canaries {
				if strings.Contains(shown, canary) {
					t.Errorf("%s\nis in %s", canary, shown)
				}
			}
		}
	}
	// Of a session.
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=on"))
	token := h.login(t, "dev/network")
	h.server.AnyClient().Then(authserver.Answer{EchoSecret: true})
	if _, err := h.Token(t.Context(), broker.Request{Profile: "dev/network", Force: true}); err == nil {
		t.Error("got a token")
	}
	shown := fmt.Sprintf("%+v", h.explain(t, plain, true))
	for _, s := range []string{token.AccessToken.Reveal(), token.RefreshToken.Reveal(), secret, h.record(t, "dev/network")["dpop_key"].(string)} {
		if s == "" || strings.Contains(shown, s) {
			t.Errorf("%s\nis in %s", s, shown)
		}
	}
}

// Each runs the profile's commands: one after the other.
func TestExplainOneAtATime(t *testing.T) {
	t.Parallel()
	inBubble(t, authserver.Config{}, func(t *testing.T, b *bubble) {
		var now, most atomic.Int64
		b.changes = func(c *broker.Config) {
			c.Resolve = func(context.Context, []profile.External) (map[string]string, error) {
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(time.Second)
				now.Add(-1)
				return map[string]string{"CLIENT_SECRET": secret}, nil
			}
		}
		b.restart()
		b.put(t, "dev/network", strings.Replace(b.text(), "CLIENT_SECRET="+secret, "CLIENT_SECRET_COMMAND='show secret'", 1))
		begin := b.clock()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { b.explain(t, plain, false) })
		}
		all.Wait()
		if took := b.clock() - begin; most.Load() != 1 || took != 20*time.Second {
			t.Errorf("%d at a time, in %v", most.Load(), took)
		}
	})
}
