package login_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tokend/broker"
	"tokend/internal/envfile"
	"tokend/login"
	"tokend/oauth"
	"tokend/profile"
	"tokend/test/authserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "correct horse battery staple"

// app is registered with every test server.
var app = authserver.Client{ID: "app", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback", "http://localhost/back"}}

// prepare makes a profile ready; the lines stand behind those that name server
// and client, and above them where they say the same.
func prepare(t *testing.T, s *authserver.Server, lines ...string) *broker.Prepared {
	t.Helper()
	vars := []envfile.Var{
		{Name: "OAUTH2_ISSUER", Value: s.Issuer},
		{Name: "OAUTH2_GRANT", Value: "authorization_code"},
		{Name: "CLIENT_ID", Value: "app"},
		{Name: "OAUTH2_DPOP", Value: "off"},
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		vars = append(vars, envfile.Var{Name: name, Value: value})
	}
	p := prepareVars(t, vars)
	p.Version = "1"
	return p
}

func prepareVars(t *testing.T, vars []envfile.Var) *broker.Prepared {
	t.Helper()
	b := broker.New(broker.Config{
		Resolve:   func(context.Context, []profile.External) (map[string]string, error) { return nil, nil },
		Now:       func() time.Duration { return 0 },
		RateLimit: 20,
		Log:       slog.New(slog.DiscardHandler),
	})
	t.Cleanup(b.Close)
	p, err := b.PrepareText(t.Context(), "dev/network", envfile.Format(vars))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A session is a login that goes on.
type session struct {
	t      *testing.T
	ended  chan struct{} // token and err are set
	token  *oauth.Token
	err    error
	events chan login.Event
	pasted chan string
	cancel context.CancelFunc
}

// begin starts a login of either kind.
func begin(t *testing.T, by func(context.Context, *broker.Prepared, []string, login.Person) (*oauth.Token, error), p *broker.Prepared, scopes ...string) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &session{t: t, ended: make(chan struct{}), events: make(chan login.Event, 64), pasted: make(chan string), cancel: cancel}
	who := login.Person{
		Tell:      func(e login.Event) error { s.events <- e; return nil },
		Redirects: s.pasted,
	}
	go func() {
		defer close(s.ended)
		s.token, s.err = by(ctx, p, scopes, who)
	}()
	t.Cleanup(func() {
		cancel()
		<-s.ended
	})
	return s
}

// next is the next thing that the person is told.
func next[E login.Event](s *session) E {
	s.t.Helper()
	select {
	case e := <-s.events:
		if e, ok := e.(E); ok {
			return e
		}
		s.t.Fatalf("told %#v", e)
	case <-s.ended:
		s.t.Fatalf("the login ended: %v", s.err)
	}
	panic("not reached")
}

// end waits for the login's end.
func (s *session) end() (*oauth.Token, error) {
	<-s.ended
	return s.token, s.err
}

// An answer is what a browser got, after all redirects.
type answer struct {
	status int
	url    *url.URL
	header http.Header
	body   string
}

func send(req *http.Request) (answer, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Request.URL, res.Header, string(body)}, err
}

// visit opens a URL as a browser does.
func visit(t *testing.T, address string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := send(req)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// callback is the redirect that the server answers the login's URL with.
func callback(t *testing.T, open login.OpenURL) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, open.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	to := res.Header.Get("Location")
	if !strings.HasPrefix(to, open.RedirectURL+"?") {
		t.Fatalf("the server answers %d, Location %q", res.StatusCode, to)
	}
	return to
}
