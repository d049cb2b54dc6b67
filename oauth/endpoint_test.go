package oauth

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wireOf is a whole request: what a server sees and nothing besides. header is
// in the order of the wire.
func wireOf(method, target, addr, body string, header ...string) string {
	lines := []string{method + " " + target + " HTTP/1.1", "Host: " + addr, "User-Agent: tokend"}
	if method == "POST" {
		lines = append(lines, "Content-Length: "+strconv.Itoa(len(body)))
	}
	lines = append(append(lines, header...), "Connection: close", "", body)
	return strings.Join(lines, "\r\n")
}

const (
	testForm = "Content-Type: application/x-www-form-urlencoded"
	testJSON = "Content-Type: application/json"
	testBoth = "Accept: application/json\r\nAccept-Encoding: identity"
	testUser = "Authorization: Basic YXBwOmh1bnRlcjItY29ycmVjdC1ob3JzZQ==" // app:hunter2-correct-horse
)

// endpoints is every call that sends something in confidence to an endpoint
// other than the token endpoint, with an op of %.
var endpoints = map[string]struct {
	call     func(ctx context.Context, at string, t Transport) error
	op       string
	checking string
	secrets  []string
}{
	"PushAuthorization": {func(ctx context.Context, at string, t Transport) error {
		uri, life, err := testClient(t).PushAuthorization(ctx, at, Authorization{
			ClientID: "app", State: "state-of-26-characters-aaaa", Extra: map[string][]string{"login": {"hint-in-confidence"}},
		})
		return nothing(err, uri != "" || life != 0)
	}, "leaving the authorization request with %", "the endpoint's URL", []string{"hunter2-correct-horse", "state-of-26-characters-aaaa", "hint-in-confidence"}},
	"AuthorizeDevice": {func(ctx context.Context, at string, t Transport) error {
		d, err := testClient(t).AuthorizeDevice(ctx, at, Request{Extra: map[string][]string{"login": {"hint-in-confidence"}}})
		return nothing(err, d != nil)
	}, "asking % for a device code", "the endpoint's URL", []string{"hunter2-correct-horse", "hint-in-confidence"}},
	"Introspect": {func(ctx context.Context, at string, t Transport) error {
		i, err := testClient(t).Introspect(ctx, at, NewSecret("AT-battery-staple"), "")
		return nothing(err, i != nil)
	}, "asking % about a token", "the endpoint's URL", []string{"hunter2-correct-horse", "AT-battery-staple"}},
	"Revoke": {func(ctx context.Context, at string, t Transport) error {
		return testClient(t).Revoke(ctx, at, NewSecret("RT-battery-staple"), "")
	}, "asking % to revoke a token", "the endpoint's URL", []string{"hunter2-correct-horse", "RT-battery-staple"}},
	"Register": {func(ctx context.Context, at string, t Transport) error {
		r, err := Register(ctx, at, ClientMetadata{}, NewSecret("initial-battery-staple"), t)
		return nothing(err, r != nil)
	}, "registering at %", "the endpoint's URL", []string{"initial-battery-staple"}},
	"RegisterUser": {func(ctx context.Context, at string, t Transport) error {
		c, err := RegisterUser(ctx, at, "me", NewSecret(`my "own" pass word`), t)
		return nothing(err, c != nil)
	}, "registering at %", "the endpoint's URL", []string{`my "own" pass word`, `my \"own\" pass word`}},
	"GitHubInstallation": {func(ctx context.Context, at string, t Transport) error {
		id, err := GitHubInstallation(ctx, at, NewSecret("app-jwt-battery-staple"), "me/it", t)
		return nothing(err, id != 0)
	}, "asking % for the installation", "the API's URL", []string{"app-jwt-battery-staple"}},
	"GitHubToken": {func(ctx context.Context, at string, t Transport) error {
		k, err := GitHubToken(ctx, at, NewSecret("app-jwt-battery-staple"), 1, t)
		return nothing(err, k != nil)
	}, "asking % for an installation's token", "the API's URL", []string{"app-jwt-battery-staple"}},
}

func testClient(t Transport) *Client {
	return &Client{ID: "app", Secret: NewSecret("hunter2-correct-horse"), Transport: t}
}

var errBeside = errors.New("there is a result beside the error")

func nothing(err error, something bool) error {
	if err != nil && something {
		return errBeside
	}
	return err
}

func TestEndpointFailures(t *testing.T) {
	for name, row := range map[string]struct {
		answer  string
		kind    Kind
		want    string
		revoked bool // for a revocation, this is success
	}{
		"redirect":            {answer: "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://evil.example/x?q=1\r\n\r\n", kind: Malformed, want: "the endpoint redirects to host evil.example, which is not followed (HTTP 307)"},
		"web page":            {answer: "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html>", kind: Temporary, want: "the answer is a web page; is there a captive portal between? (HTTP 200)"},
		"2 MiB":               {answer: ok(`{"x":"` + strings.Repeat("x", 2<<20) + `"}`), kind: Malformed, want: "the answer is larger than 1 MiB (HTTP 200)", revoked: true},
		"compressed":          {answer: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b", kind: Malformed, want: "the answer is compressed, which was not asked for (HTTP 200)", revoked: true},
		"empty":               {answer: ok(""), kind: Malformed, want: "the answer is empty (HTTP 200)", revoked: true},
		"list":                {answer: ok("[]"), kind: Malformed, want: "the answer is not a JSON object (HTTP 200)", revoked: true},
		"text":                {answer: ok("hello"), kind: Malformed, want: "the answer is not JSON (HTTP 200)", revoked: true},
		"no UTF-8":            {answer: ok("{\"x\":\"\xff\"}"), kind: Malformed, want: "the answer is not UTF-8 (HTTP 200)", revoked: true},
		"more after it":       {answer: ok("{}{}"), kind: Malformed, want: "the answer is not JSON (HTTP 200)", revoked: true},
		"a name twice":        {answer: ok(`{"x":1,"x":1}`), kind: Malformed, want: "the answer has a name twice (HTTP 200)", revoked: true},
		"too deep":            {answer: ok(`{"x":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`), kind: Malformed, want: "the answer is nested too deeply (HTTP 200)", revoked: true},
		"error with success":  {answer: ok(`{"error":"access_denied"}`), kind: Refused, want: "access_denied (HTTP 200)"},
		"400":                 {answer: status("400 Bad Request", `{"error":"invalid_request","error_description":"no \u001b[2J"}`), kind: Refused, want: `invalid_request: no \x1b[2J (HTTP 400)`},
		"401, its own code":   {answer: status("401 Unauthorized", `{"error":"E-17","error_description":"x"}`), kind: Refused, want: "E-17: x (HTTP 401)"},
		"403 without error":   {answer: status("403 Forbidden", ""), kind: Refused, want: "no OAuth error in the answer (HTTP 403)"},
		"429":                 {answer: "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n\r\n", kind: Temporary, want: "no OAuth error in the answer (HTTP 429)"},
		"503":                 {answer: "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n", kind: Temporary, want: "no OAuth error in the answer (HTTP 503)"},
		"temporary by word":   {answer: status("400 Bad Request", `{"error":"temporarily_unavailable"}`), kind: Temporary, want: "temporarily_unavailable (HTTP 400)"},
		"no answer":           {answer: "", kind: Temporary, want: "connection closed before the answer was complete"},
		"header without end":  {answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 64<<10), kind: Malformed, want: "the answer is not HTTP/1.1, or its header is larger than 32 KiB"},
		"half of the content": {answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", kind: Temporary, want: "connection closed before the answer was complete"},
	} {
		for function, endpoint := range endpoints {
			t.Run(function+"/"+name, func(t *testing.T) {
				s := newServer(t, nil, func(string) string { return row.answer })
				err := endpoint.call(t.Context(), "http://"+s.addr, Transport{})
				if n := len(s.seen()); n != 1 {
					t.Errorf("%d requests", n)
				}
				if function == "Revoke" && row.revoked {
					if err != nil {
						t.Errorf("got %v", err)
					}
					return
				}
				want := strings.ReplaceAll(endpoint.op, "%", s.addr) + ": " + row.want
				var e *Error
				if !errors.As(err, &e) || err.Error() != want || e.Kind != row.kind || !e.Sent {
					t.Fatalf("got %v, want %s", err, want)
				}
				if retry := strings.Contains(row.answer, "Retry-After"); retry != (e.RetryAfter == 7*time.Second) {
					t.Errorf("Retry-After %v", e.RetryAfter)
				}
			})
		}
	}
}

func TestEndpointWithholdsWhatWasSent(t *testing.T) {
	for function, endpoint := range endpoints {
		for _, secret := range endpoint.secrets {
			s := newServer(t, nil, func(string) string {
				return status("400 Bad Request", `{"error":"invalid_request","error_description":`+strconv.Quote("what is "+secret+"?")+`}`)
			})
			err := endpoint.call(t.Context(), "http://"+s.addr, Transport{})
			want := strings.ReplaceAll(endpoint.op, "%", s.addr) + ": invalid_request: " + withheld + " (HTTP 400)"
			if err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", function, err, want)
			}
		}
	}
}

func TestEndpointThatCannotBeAsked(t *testing.T) {
	for function, endpoint := range endpoints {
		for at, row := range map[string]struct {
			transport Transport
			want      string
		}{
			"http://as.example":            {want: "checking " + endpoint.checking + `: is plain http to "as.example"; only loopback may be plain, all else must be https`},
			"https://u:hunter2@as.example": {want: "checking " + endpoint.checking + ": has a user name or password before the host; credentials do not belong in a URL"},
			"":                             {want: "checking " + endpoint.checking + ": not an absolute https URL"},
			"https://as.example":           {Transport{CA: "x"}, strings.ReplaceAll(endpoint.op, "%", "as.example") + ": reading the CA: no PEM certificate in it"},
		} {
			err := endpoint.call(t.Context(), at, row.transport)
			var e *Error
			if !errors.As(err, &e) || err.Error() != row.want || e.Kind != Invalid || e.Sent {
				t.Errorf("%s: got %v, want %s", function, err, row.want)
			}
		}
	}
}

func TestEndpointObeysContext(t *testing.T) {
	calls := map[string]func(ctx context.Context, at string, t Transport) error{
		"Discover":   func(ctx context.Context, at string, t Transport) error { _, err := Discover(ctx, at, t); return err },
		"DiscoverAt": func(ctx context.Context, at string, t Transport) error { _, err := DiscoverAt(ctx, at, t); return err },
		"ProbeResource": func(ctx context.Context, at string, t Transport) error {
			_, _, err := ProbeResource(ctx, at, t)
			return err
		},
		"FetchResourceMetadata": func(ctx context.Context, at string, t Transport) error {
			_, err := FetchResourceMetadata(ctx, at, "", t)
			return err
		},
	}
	for name, endpoint := range endpoints {
		calls[name] = endpoint.call
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			gone := make(chan struct{})
			s := newServer(t, nil, func(string) string {
				cancel()
				<-gone
				return ""
			})
			err := call(ctx, "http://"+s.addr, Transport{})
			close(gone)
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, context.Canceled) || e.Kind != Temporary || !e.Sent {
				t.Errorf("got %v", err)
			}
		})
	}
}
