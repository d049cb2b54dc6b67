package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

const callback = "http://127.0.0.1/callback"

// people is a server that people log in at, with the clients web and device.
func people(t *testing.T, c authserver.Config) *authserver.Server {
	t.Helper()
	c.Lifetime = 600 * time.Second
	c.DeviceInterval = time.Second
	c.Clients = append(c.Clients,
		authserver.Client{ID: "web", Secret: secret, Opaque: true, RedirectURIs: []string{callback}, Scope: "openid read write offline_access"},
		authserver.Client{ID: "device", Auth: authserver.AuthNone, Opaque: true},
	)
	return authserver.Start(t, c)
}

// loginText is a profile that a person logs in to.
func loginText(s *authserver.Server, lines ...string) string {
	return "OAUTH2_ISSUER=" + s.Issuer + "\nOAUTH2_GRANT=authorization_code\nCLIENT_ID=web\nCLIENT_SECRET=" + secret + "\n" + strings.Join(lines, "\n")
}

func deviceText(s *authserver.Server, lines ...string) string {
	return "OAUTH2_ISSUER=" + s.Issuer + "\nOAUTH2_GRANT=device_code\nCLIENT_ID=device\n" + strings.Join(lines, "\n")
}

// A person has a browser, and answers what a login asks.
type person struct {
	server *authserver.Server
	page   string // where the browser ended

	open    func(*tokendv1.LoginResponse_OpenURL) *tokendv1.LoginRequest // nil: opens it
	code    func(*tokendv1.LoginResponse_ShowCode)                       // nil: approves it
	confirm func(*tokendv1.LoginResponse_ServerFound) bool               // nil: confirms
	notice  func()
	token   string // the initial access token

	events []string // names of what was told
	found  *tokendv1.LoginResponse_ServerFound
	opened *tokendv1.LoginResponse_OpenURL
	shown  *tokendv1.LoginResponse_ShowCode
}

// browse opens a page as a browser does, and returns the text of the last one.
func browse(t *testing.T, ctx context.Context, page string) string {
	t.Helper()
	resp := send(t, ctx, page, func(*http.Request, []*http.Request) error { return nil })
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// redirect is where a page sends the browser.
func redirect(t *testing.T, page string) string {
	t.Helper()
	resp := send(t, t.Context(), page, func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse })
	defer resp.Body.Close()
	return resp.Header.Get("Location")
}

func send(t *testing.T, ctx context.Context, page string, follow func(*http.Request, []*http.Request) error) *http.Response {
	t.Helper()
	browser := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: follow}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := browser.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func profileStart(name string) *tokendv1.LoginRequest_Start {
	return &tokendv1.LoginRequest_Start{Target: &tokendv1.LoginRequest_Start_Profile{Profile: name}}
}

func urlStart(target string) *tokendv1.LoginRequest_Start {
	return &tokendv1.LoginRequest_Start{Target: &tokendv1.LoginRequest_Start_Url{Url: target}}
}

func startMessage(start *tokendv1.LoginRequest_Start) *tokendv1.LoginRequest {
	return &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_Start_{Start: start}}
}

// begin starts a login and leaves its events unread.
func (w *world) begin(t *testing.T, ctx context.Context, start *tokendv1.LoginRequest_Start) tokendv1grpc.ProfileService_LoginClient {
	t.Helper()
	stream, err := w.profiles.Login(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(startMessage(start)); err != nil {
		t.Fatal(err)
	}
	return stream
}

// login logs in as p does, to the end.
func (w *world) login(t *testing.T, start *tokendv1.LoginRequest_Start, p *person) (*tokendv1.LoginResponse_Done, error) {
	t.Helper()
	// Not a deadline, which the daemon would go by.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(30*time.Second, cancel).Stop()
	stream := w.begin(t, ctx, start)
	var done *tokendv1.LoginResponse_Done
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err != nil {
			return done, err
		}
		if answer := p.hear(t, ctx, resp); answer != nil {
			if err := stream.Send(answer); err != nil && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		if resp.GetDone() != nil {
			done = resp.GetDone()
		}
	}
}

// hear does what an event asks for, and returns what is to be answered.
func (p *person) hear(t *testing.T, ctx context.Context, resp *tokendv1.LoginResponse) *tokendv1.LoginRequest {
	t.Helper()
	name := resp.ProtoReflect().WhichOneof(resp.ProtoReflect().Descriptor().Oneofs().Get(0)).Name()
	p.events = append(p.events, string(name))
	switch e := resp.GetEvent().(type) {
	case *tokendv1.LoginResponse_ServerFound_:
		p.found = e.ServerFound
		return confirmation(p.confirm == nil || p.confirm(e.ServerFound))
	case *tokendv1.LoginResponse_InitialAccessTokenNeeded_:
		return &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_InitialAccessToken_{
			InitialAccessToken: &tokendv1.LoginRequest_InitialAccessToken{Token: p.token}}}
	case *tokendv1.LoginResponse_OpenUrl:
		p.opened = e.OpenUrl
		if p.open != nil {
			return p.open(e.OpenUrl)
		}
		p.page = browse(t, ctx, e.OpenUrl.GetUrl())
	case *tokendv1.LoginResponse_Notice_:
		if p.notice != nil {
			p.notice()
		}
	case *tokendv1.LoginResponse_ShowCode_:
		p.shown = e.ShowCode
		if p.code != nil {
			p.code(e.ShowCode)
		} else if err := p.server.ApproveDevice(e.ShowCode.GetUserCode()); err != nil {
			t.Error(err)
		}
	}
	return nil
}

func confirmation(accepted bool) *tokendv1.LoginRequest {
	return &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_Confirmation_{Confirmation: &tokendv1.LoginRequest_Confirmation{Accepted: accepted}}}
}

func redirection(to string) *tokendv1.LoginRequest {
	return &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_Redirection_{Redirection: &tokendv1.LoginRequest_Redirection{Url: to}}}
}

func (w *world) mustLogin(t *testing.T, name string, s *authserver.Server) *tokendv1.LoginResponse_Done {
	t.Helper()
	done, err := w.login(t, profileStart(name), &person{server: s})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// wantSessions checks how many sessions there are, and that none is an orphan.
func (w *world) wantSessions(t *testing.T, n int32) {
	t.Helper()
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetSessions() != n || len(st.GetOrphanedSessions()) > 0 || len(st.GetUnsavedSessions()) > 0 {
		t.Errorf("%d sessions, orphaned %v, unsaved %v, %v; want %d", st.GetSessions(), st.GetOrphanedSessions(), st.GetUnsavedSessions(), err, n)
	}
}

// wantLoggedOut checks that there is no token without a login.
func (w *world) wantLoggedOut(t *testing.T, name string) {
	t.Helper()
	_, err := w.get(t.Context(), name)
	wantReason(t, err, codes.Unauthenticated, "LOGIN_REQUIRED", "login required", "profile", name)
}

// wantClosed checks that nothing listens at a redirect URL.
func wantClosed(t *testing.T, redirectURL string) {
	t.Helper()
	u, err := url.Parse(redirectURL)
	if err != nil || u.Host == "" {
		t.Fatalf("redirect URL %q: %v", redirectURL, err)
	}
	if c, err := net.Dial("tcp", u.Host); err == nil {
		c.Close()
		t.Errorf("something listens at %s", u.Host)
	}
}

// wantEnds checks a time that is told.
func wantEnds(t *testing.T, at *timestamppb.Timestamp, after time.Duration) {
	t.Helper()
	if left := time.Until(at.AsTime()); at == nil || left > after || left < after-time.Minute {
		t.Errorf("it ends in %v, want %v", left, after)
	}
}

func TestLogin(t *testing.T) {
	for name, test := range map[string]struct {
		config    authserver.Config
		device    bool
		method    tokendv1.LoginRequest_Method
		lines     []string
		scopes    []string
		tokenType string
	}{
		"browser":                     {lines: []string{"OAUTH2_SCOPE='read write'"}, scopes: []string{"read", "write"}},
		"browser, of a device's":      {device: true, method: tokendv1.LoginRequest_METHOD_BROWSER, lines: []string{"CLIENT_ID=web", "CLIENT_SECRET=" + secret}},
		"pushed":                      {config: authserver.Config{RequirePAR: true}},
		"key":                         {lines: []string{"OAUTH2_DPOP=on"}, tokenType: "DPoP"},
		"device":                      {device: true, lines: []string{"OAUTH2_SCOPE=read"}, scopes: []string{"read"}},
		"device, of a browser's":      {method: tokendv1.LoginRequest_METHOD_DEVICE},
		"no iss parameter (RFC 9207)": {config: authserver.Config{ResponseIss: authserver.NoIss}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newInitialized(t)
			server := people(t, test.config)
			text := loginText(server, test.lines...)
			if test.device {
				text = deviceText(server, test.lines...)
			}
			if len(test.scopes) == 0 {
				test.scopes = []string{"read"}
				text += "\nOAUTH2_SCOPE=read"
			}
			if test.tokenType == "" {
				test.tokenType = "Bearer"
			}
			w.put(t, "dev/me", text)
			w.wantLoggedOut(t, "dev/me")

			p := &person{server: server}
			start := profileStart("dev/me")
			start.Method = test.method
			done, err := w.login(t, start, p)
			if err != nil {
				t.Fatal(err)
			}
			want := &tokendv1.LoginResponse_Done{Profile: "dev/me", Scopes: test.scopes, ExpiresAt: done.GetExpiresAt(), Renewable: true}
			if diff := cmp.Diff(want, done, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			wantEnds(t, done.GetExpiresAt(), 600*time.Second)
			if p.shown != nil {
				if !slices.Equal(p.events, []string{"show_code", "done"}) {
					t.Errorf("events %v", p.events)
				}
				want := &tokendv1.LoginResponse_ShowCode{UserCode: p.shown.GetUserCode(), VerificationUrl: server.Issuer + "/device",
					VerificationUrlComplete: server.Issuer + "/device?user_code=" + p.shown.GetUserCode(), ExpiresAt: p.shown.GetExpiresAt()}
				if diff := cmp.Diff(want, p.shown, protocmp.Transform()); diff != "" {
					t.Error(diff)
				}
				wantEnds(t, p.shown.GetExpiresAt(), 10*time.Minute)
			} else {
				if !slices.Equal(p.events, []string{"open_url", "done"}) {
					t.Errorf("events %v", p.events)
				}
				if !strings.Contains(p.page, "You are logged in") || !strings.Contains(p.page, "dev/me") {
					t.Errorf("the browser ended at %s", p.page)
				}
				wantClosed(t, p.opened.GetRedirectUrl())
				life := 10 * time.Minute
				if test.config.RequirePAR {
					life = time.Minute
				}
				wantEnds(t, p.opened.GetExpiresAt(), life)
			}
			if byDevice := p.shown != nil; byDevice != (test.device && test.method == 0 || test.method == tokendv1.LoginRequest_METHOD_DEVICE) {
				t.Errorf("by device: %v", byDevice)
			}
			if test.config.RequirePAR && server.Count("/par") != 1 {
				t.Error("it was not pushed")
			}

			asked := len(server.Requests())
			token := w.mustGet(t, "dev/me")
			if len(server.Requests()) != asked {
				t.Error("the login's token is not the one that is given")
			}
			if token.GetTokenType() != test.tokenType || !slices.Equal(token.GetScopes(), test.scopes) || token.GetLifetime().AsDuration() != 600*time.Second {
				t.Errorf("type %s, scopes %v, lifetime %v", token.GetTokenType(), token.GetScopes(), token.GetLifetime().AsDuration())
			}
			w.wantSessions(t, 1)
			if l := server.Ledger(""); l.Issued != 1 || l.Valid != 1 {
				t.Errorf("%d refresh tokens issued, %d valid", l.Issued, l.Valid)
			}
			w.wantLogged(t, "logged in", "profile=dev/me", "renewable=true")

			// The session is what later tokens come from.
			if _, err := w.tokens.GetToken(t.Context(), &tokendv1.GetTokenRequest{Profile: "dev/me", Scopes: test.scopes[:1], Audience: "x"}); err == nil {
				t.Error("a grant without that audience gave it")
			}
		})
	}
}

// wantLogged checks that there is a line with all of that, and with who called.
func (w *world) wantLogged(t *testing.T, parts ...string) {
	t.Helper()
	parts = append(parts, fmt.Sprintf("pid %d", os.Getpid()))
	for line := range strings.Lines(w.log.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return
		}
	}
	t.Errorf("no line of the log has %q:\n%s", parts, w.log)
}

// What goes wrong leaves no session, and no listener.
func TestLoginRefusals(t *testing.T) {
	const denied, down = codes.PermissionDenied, codes.Unavailable
	deny := func(s *authserver.Server) func(*tokendv1.LoginResponse_ShowCode) {
		return func(c *tokendv1.LoginResponse_ShowCode) { _ = s.DenyDevice(c.GetUserCode()) }
	}
	for name, test := range map[string]struct {
		config  authserver.Config
		device  bool
		answer  authserver.Answer
		code    func(*authserver.Server) func(*tokendv1.LoginResponse_ShowCode)
		lines   []string
		grpc    codes.Code
		reason  string
		message string
		meta    []string
	}{
		"the browser says no": {answer: authserver.Answer{Endpoint: "authorize", Error: "access_denied"}, grpc: denied, reason: "DENIED", message: "the login was denied"},
		"the device says no":  {device: true, code: deny, grpc: denied, reason: "DENIED", message: "the login was denied"},
		"the code expires": {
			device: true, config: authserver.Config{DeviceLifetime: time.Second}, code: func(*authserver.Server) func(*tokendv1.LoginResponse_ShowCode) {
				return func(*tokendv1.LoginResponse_ShowCode) {}
			},
			grpc: codes.Unauthenticated, reason: "LOGIN_REQUIRED", message: "nobody logged in in time",
		},
		"the browser brings an error": {
			answer: authserver.Answer{Endpoint: "authorize", Error: "invalid_scope"}, grpc: denied, reason: "REQUEST_REFUSED", meta: []string{"oauth_error", "invalid_scope"},
		},
		"client refused": {
			answer: authserver.Answer{EchoSecret: true}, grpc: denied, reason: "CLIENT_REFUSED", meta: []string{"oauth_error", "invalid_client", "http_status", "401"},
		},
		"client refused by the device endpoint": {
			device: true, answer: authserver.Answer{Endpoint: "device_authorization", Error: "unauthorized_client"},
			grpc: denied, reason: "CLIENT_REFUSED", meta: []string{"oauth_error", "unauthorized_client", "http_status", "400"},
		},
		"scope refused": {
			device: true, answer: authserver.Answer{Endpoint: "device_authorization", Error: "invalid_scope"},
			grpc: denied, reason: "REQUEST_REFUSED", meta: []string{"oauth_error", "invalid_scope", "http_status", "400"},
		},
		"push refused": {
			config: authserver.Config{RequirePAR: true}, answer: authserver.Answer{Endpoint: "par", Error: "invalid_request"},
			grpc: denied, reason: "REQUEST_REFUSED", meta: []string{"oauth_error", "invalid_request", "http_status", "400"},
		},
		"503":       {answer: authserver.Answer{Status: 503}, grpc: down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "503"}},
		"429":       {answer: authserver.Answer{Status: 429, Header: http.Header{"Retry-After": {"9"}}}, grpc: down, reason: "THROTTLED", meta: []string{"http_status", "429"}},
		"reset":     {answer: authserver.Answer{Fault: authserver.ResetBefore}, grpc: down, reason: "PROVIDER_DOWN"},
		"malformed": {answer: authserver.Answer{Status: 200, Body: `{"hello":"world"}`}, grpc: down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "200"}},
		"no metadata": {
			answer: authserver.Answer{Endpoint: "metadata", Status: 503}, grpc: down, reason: "PROVIDER_DOWN",
			meta: []string{"http_status", "503", "variable", "OAUTH2_ISSUER"},
		},
		"no PKCE": {config: authserver.Config{Metadata: map[string]any{"code_challenge_methods_supported": []string{"plain"}}}, grpc: denied, reason: "REQUEST_REFUSED", message: "PKCE"},
		"no authorization endpoint": {
			config: authserver.Config{Metadata: map[string]any{"authorization_endpoint": nil}}, grpc: codes.FailedPrecondition, reason: "PROFILE_INVALID",
			meta: []string{"variable", "OAUTH2_AUTH_URL"},
		},
		"no device endpoint": {
			device: true, config: authserver.Config{Metadata: map[string]any{"device_authorization_endpoint": nil}}, grpc: codes.FailedPrecondition, reason: "PROFILE_INVALID",
			meta: []string{"variable", "OAUTH2_DEVICE_URL"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newInitialized(t)
			server := people(t, test.config)
			text := loginText(server, test.lines...)
			if test.device {
				text = deviceText(server, test.lines...)
			}
			w.put(t, "a", text)
			if test.answer.Endpoint == "metadata" {
				server.AnyClient().Always(test.answer)
			} else if test.answer.Endpoint != "" || test.answer.Status != 0 || test.answer.EchoSecret || test.answer.Fault != "" {
				server.AnyClient().Then(test.answer)
			}
			p := &person{server: server}
			if test.code != nil {
				p.code = test.code(server)
			}
			done, err := w.login(t, profileStart("a"), p)
			if done != nil {
				t.Errorf("done: %v", done)
			}
			wantReason(t, err, test.grpc, test.reason, test.message, append(test.meta, "profile", "a")...)
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("the secret is in %v", err)
			}
			if p.opened != nil {
				wantClosed(t, p.opened.GetRedirectUrl())
			}
			w.wantSessions(t, 0)
			if test.answer.Endpoint != "metadata" {
				w.wantLoggedOut(t, "a")
			}
		})
	}
}

// A login that fails leaves the session that there is.
func TestFailedLoginKeepsSession(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	first := w.mustGet(t, "a")
	server.AnyClient().Then(authserver.Answer{Endpoint: "authorize", Error: "access_denied"})
	_, err := w.login(t, profileStart("a"), &person{server: server})
	wantReason(t, err, codes.PermissionDenied, "DENIED", "", "profile", "a")
	if got := w.mustGet(t, "a"); got.GetAccessToken() != first.GetAccessToken() {
		t.Error("the token is another one")
	}
	w.wantSessions(t, 1)
	w.mustLogin(t, "a", server)
	if got := w.mustGet(t, "a"); got.GetAccessToken() == first.GetAccessToken() {
		t.Error("a new login gave the old token")
	}
}

func TestLoginBeforeItBegins(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "dev/me", loginText(server))
	w.put(t, "machine", w.text())
	if _, err := w.profiles.PutProfile(t.Context(), putText("untrusted", loginText(server), "")); err != nil {
		t.Fatal(err)
	}
	withName := urlStart(server.ResourceURL)
	withName.Name = "../x"
	withNameAndBadURL := urlStart("http://api.example/")
	withNameAndBadURL.Name = "a"
	withScope := profileStart("dev/me")
	withScope.Scopes = []string{"read write"}
	for name, test := range map[string]struct {
		start   *tokendv1.LoginRequest_Start
		code    codes.Code
		reason  string
		message string
		meta    []string
	}{
		"needs no person":  {profileStart("machine"), codes.FailedPrecondition, "PROFILE_INVALID", "need no login", []string{"profile", "machine", "variable", "OAUTH2_GRANT"}},
		"untrusted":        {profileStart("untrusted"), codes.FailedPrecondition, "UNTRUSTED", "", []string{"profile", "untrusted"}},
		"missing":          {profileStart("dev/em"), codes.NotFound, "PROFILE_NOT_FOUND", "no such profile", []string{"profile", "dev/em", "suggestion", "dev/me"}},
		"no target":        {&tokendv1.LoginRequest_Start{}, codes.InvalidArgument, "REQUEST_INVALID", "profile: ", nil},
		"no name":          {profileStart("../x"), codes.InvalidArgument, "REQUEST_INVALID", "profile: ", nil},
		"bad scope":        {withScope, codes.InvalidArgument, "REQUEST_INVALID", "scopes: ", nil},
		"url, no name":     {withName, codes.InvalidArgument, "REQUEST_INVALID", "name: ", nil},
		"plain http":       {urlStart("http://api.example/"), codes.InvalidArgument, "REQUEST_INVALID", "url: ", nil},
		"plain http, name": {withNameAndBadURL, codes.InvalidArgument, "REQUEST_INVALID", "url: ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.login(t, test.start, &person{server: server})
			wantReason(t, err, test.code, test.reason, test.message, test.meta...)
		})
	}
	for _, first := range []*tokendv1.LoginRequest{nil, {}, confirmation(true)} {
		stream, err := w.profiles.Login(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if first != nil {
			err = stream.Send(first)
		}
		if err := errors.Join(err, stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "start is required")
	}
	if n := len(server.Requests()); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestLoginAgain(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	// The second one listens where the first one did.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w.put(t, "a", loginText(server, "OAUTH2_REDIRECT_URL=http://"+l.Addr().String()+"/callback"))
	w.put(t, "b", loginText(server))
	first := w.begin(t, t.Context(), profileStart("a"))
	opened, err := first.Recv()
	if err != nil {
		t.Fatal(err)
	}
	// One of another profile leaves it alone.
	w.mustLogin(t, "b", server)
	w.mustLogin(t, "a", server)
	_, err = first.Recv()
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "another login", "profile", "a")
	wantClosed(t, opened.GetOpenUrl().GetRedirectUrl())
	w.wantSessions(t, 2)
}

// loginUntilEOF is what another process does: it begins a login on the socket that the
// variable DAEMON_TEST_LOGIN names, says so, and lets it go on until its input ends.
func loginUntilEOF(socket string) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := tokendv1grpc.NewProfileServiceClient(conn).Login(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(startMessage(profileStart("theirs"))); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	fmt.Println("begun")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if _, err = stream.Recv(); status.Code(err) != codes.Canceled {
		return err
	}
	return nil
}

// Who begins logins and never answers keeps nobody from logging in, and ends no other
// process's login.
func TestLoginOthersMeanwhile(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "theirs", loginText(server))
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "DAEMON_TEST_LOGIN="+w.settings.Get(settings.Socket))
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("begun\n"))
	if _, err := io.ReadFull(output, line); err != nil {
		t.Error(err)
	}
	var streams []tokendv1grpc.ProfileService_LoginClient
	for i := range 63 {
		name := fmt.Sprint("ours", i)
		w.put(t, name, loginText(server))
		stream := w.begin(t, t.Context(), profileStart(name))
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	// One instead of another takes nobody's place.
	again := w.begin(t, t.Context(), profileStart("ours62"))
	if _, err := again.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = streams[62].Recv()
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "another login", "profile", "ours62")
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	_, err = streams[0].Recv()
	wantReason(t, err, codes.Unavailable, "THROTTLED", "this one has waited longest", "profile", "ours0")
	input.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the other process's login has ended: %v", err)
	}
}

// Nothing is left of a login whose caller goes away.
func TestLoginCallerGoesAway(t *testing.T) {
	for name, text := range map[string]func(*authserver.Server, ...string) string{"browser": loginText, "device": deviceText} {
		t.Run(name, func(t *testing.T) {
			w := newInitialized(t)
			server := people(t, authserver.Config{})
			w.put(t, "a", text(server))
			if _, err := w.get(t.Context(), "a"); err == nil {
				t.Fatal("there is a token")
			}
			before := goleak.IgnoreCurrent()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream := w.begin(t, ctx, profileStart("a"))
			event, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
				t.Errorf("error is %v", err)
			}
			goleak.VerifyNone(t, before,
				goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
				goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
			if at := event.GetOpenUrl().GetRedirectUrl(); at != "" {
				wantClosed(t, at)
			}
			w.wantSessions(t, 0)
			w.wantLoggedOut(t, "a")
			// And another one can begin.
			w.mustLogin(t, "a", server)
		})
	}
}

// Nor does the browser wait for what will not come.
func TestLoginCallerGoesAwayLate(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	event, err := w.begin(t, ctx, profileStart("a")).Recv()
	if err != nil {
		t.Fatal(err)
	}
	server.AnyClient().Then(authserver.Answer{Hang: true})
	page := make(chan string)
	go func() { page <- browse(t, t.Context(), event.GetOpenUrl().GetUrl()) }()
	if err := server.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got := <-page; !strings.Contains(got, "Login failed") {
		t.Errorf("the browser ended at %s", got)
	}
	w.mustLogin(t, "a", server)
	wantClosed(t, event.GetOpenUrl().GetRedirectUrl())
	w.wantSessions(t, 1)
}

// A caller that has no more to say still hears.
func TestLoginHalfClosed(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	stream := w.begin(t, t.Context(), profileStart("a"))
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	p := &person{server: server}
	for {
		event, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		p.hear(t, t.Context(), event)
		if event.GetDone() != nil {
			break
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last event: %v", err)
	}
	w.mustGet(t, "a")
}

// Nobody can confirm any more.
func TestLoginHalfClosedUnconfirmed(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream := w.begin(t, ctx, urlStart(server.ResourceURL))
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if event, err := stream.Recv(); err != nil || event.GetServerFound() == nil {
		t.Fatalf("%v, %v", event, err)
	}
	_, err := stream.Recv()
	wantReason(t, err, codes.PermissionDenied, "DENIED", "", "profile", strings.ReplaceAll(strings.TrimPrefix(server.URL, "http://"), ":", "-"))
	if n := server.Count("/register"); n != 0 {
		t.Errorf("%d clients were registered", n)
	}
}

func TestStopEndsLogin(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	stream := w.begin(t, t.Context(), profileStart("a"))
	event, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the login ended with %v", err)
	}
	if err := <-w.served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("that took %v", waited)
	}
	wantClosed(t, event.GetOpenUrl().GetRedirectUrl())
	if files, _ := filepath.Glob(filepath.Join(w.settings.SessionsDir(), "*")); len(files) != 0 {
		t.Errorf("sessions: %v", files)
	}
}

// A terminal that waits for a person does not hold the daemon up.
func TestStopEndsRegister(t *testing.T) {
	w := newInitialized(t)
	stream, err := w.profiles.Register(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(registerStart(&tokendv1.RegisterRequest_Start{Url: "https://api.example/v1/register"})); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("it ended with %v", err)
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("that took %v", waited)
	}
}

// stop ends a world's daemon.
func (w *world) stop(t *testing.T) {
	t.Helper()
	if _, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := <-w.served; err != nil {
		t.Fatal(err)
	}
}

// What a person has done is not to be done again after a restart, and what a
// server is still to be told, it is.
func TestSessionsSurviveRestart(t *testing.T) {
	home := newHome(t)
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server, "OAUTH2_DPOP=on"))
	w.put(t, "b", loginText(server))
	w.put(t, "kept", loginText(server))
	first := w.mustLogin(t, "a", server)
	w.mustLogin(t, "b", server)
	server.AnyClient().Then(authserver.Answer{Drop: []string{"refresh_token"}})
	w.mustLogin(t, "kept", server)
	credential := w.mustGet(t, "kept").GetAccessToken()
	server.AnyClient().Then(authserver.Answer{Endpoint: "revoke", Status: 503}, authserver.Answer{Endpoint: "revoke", Status: 503})
	if resp, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "b"}); err != nil || resp.GetQueued() != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	w.stop(t)

	w = startWorld(t, home)
	asked := server.Count("/token")
	if got := w.mustGet(t, "kept"); got.GetAccessToken() != credential || server.Count("/token") != asked {
		t.Error("the token that is the credential is another one")
	}
	if got := w.mustGet(t, "a"); got.GetTokenType() != "DPoP" || !slices.Equal(got.GetScopes(), first.GetScopes()) {
		t.Errorf("type %s, scopes %v, want %v", got.GetTokenType(), got.GetScopes(), first.GetScopes())
	}
	if server.Count("/token") != asked+1 || server.Count("/authorize") != 3 {
		t.Error("it was not renewed")
	}
	if err := server.Await(t.Context(), "/revoke", 3); err != nil {
		t.Fatal(err)
	}
	w.wantLoggedOut(t, "b")
}

// Who has consented is not asked again, even if the terminal is closed before
// the browser has seen the end.
func TestLoginKeptAfterConsent(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	event, err := w.begin(t, ctx, profileStart("a")).Recv()
	if err != nil {
		t.Fatal(err)
	}
	resp := send(t, t.Context(), redirect(t, event.GetOpenUrl().GetUrl()), func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse })
	resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("status %s", resp.Status)
	}
	cancel()
	// Another login begins once that one has ended.
	if _, err := w.begin(t, t.Context(), profileStart("a")).Recv(); err != nil {
		t.Fatal(err)
	}
	w.mustGet(t, "a")
	if n := server.Count("/token"); n != 1 {
		t.Errorf("%d requests", n)
	}
	w.wantSessions(t, 1)
}

// Of many who log in to one profile, each ends the one before.
func TestLoginRace(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w.put(t, "a", loginText(server, "OAUTH2_REDIRECT_URL=http://"+l.Addr().String()+"/callback"))
	var all sync.WaitGroup
	var finished atomic.Int32
	for range 20 {
		all.Go(func() {
			_, err := w.login(t, profileStart("a"), &person{server: server, open: func(e *tokendv1.LoginResponse_OpenURL) *tokendv1.LoginRequest {
				return redirection(redirect(t, e.GetUrl()))
			}})
			if err == nil {
				finished.Add(1)
			} else if r := reasonOf(t, err); r.Reason != "VERSION_CHANGED" {
				t.Errorf("a login ended with %v", err)
			}
		})
	}
	all.Wait()
	if finished.Load() == 0 {
		t.Error("none came to its end")
	}
	w.mustGet(t, "a")
	w.wantSessions(t, 1)
}

// A session of a profile that is no more would be nobody's.
func TestLoginOfChangedProfile(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	for name, change := range map[string]func() error{
		"deleted": func() error {
			_, err := w.profiles.DeleteProfile(t.Context(), &tokendv1.DeleteProfileRequest{Name: "deleted"})
			return err
		},
		"moved": func() error {
			_, err := w.profiles.MoveProfile(t.Context(), &tokendv1.MoveProfileRequest{Name: "moved", NewName: "elsewhere"})
			return err
		},
		"edited": func() error {
			_, err := w.profiles.PutProfile(t.Context(), putText("edited", deviceText(server), w.version(t, "edited")))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.put(t, name, loginText(server))
			p := &person{server: server, open: func(e *tokendv1.LoginResponse_OpenURL) *tokendv1.LoginRequest {
				if err := change(); err != nil {
					t.Error(err)
				}
				return redirection(redirect(t, e.GetUrl()))
			}}
			done, err := w.login(t, profileStart(name), p)
			wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "", "profile", name)
			if done != nil {
				t.Errorf("done: %v", done)
			}
			w.wantSessions(t, 0)
			if l := server.Ledger(""); l.Valid != 0 {
				t.Errorf("%d refresh tokens are good that nobody has", l.Valid)
			}
		})
	}
}

// An answer to what was not asked is in nobody's way.
func TestLoginStrayAnswer(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream := w.begin(t, ctx, profileStart("a"))
	event, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []*tokendv1.LoginRequest{confirmation(true), startMessage(profileStart("b")), {}, redirection(redirect(t, event.GetOpenUrl().GetUrl()))} {
		if err := stream.Send(answer); err != nil {
			t.Fatal(err)
		}
	}
	if done, err := stream.Recv(); done.GetDone() == nil {
		t.Errorf("%v, %v", done, err)
	}
}

// A message that is too large is not waited after.
func TestLoginMessageTooLarge(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	stream := w.begin(t, t.Context(), profileStart("a"))
	event, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(redirection(strings.Repeat("x", 64<<10))); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("error is %v", err)
	}
	wantClosed(t, event.GetOpenUrl().GetRedirectUrl())
}

func TestLoginPasted(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	stream := w.begin(t, t.Context(), profileStart("a"))
	event, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	to := redirect(t, event.GetOpenUrl().GetUrl())
	forged, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := forged.Query()
	q.Set("state", "another")
	forged.RawQuery = q.Encode()
	for _, wrong := range []string{"https://evil.example/callback?code=x", forged.String()} {
		if err := stream.Send(redirection(wrong)); err != nil {
			t.Fatal(err)
		}
		notice, err := stream.Recv()
		if err != nil || !strings.Contains(notice.GetNotice().GetMessage(), "not taken") {
			t.Errorf("%v, %v", notice, err)
		}
		if code := q.Get("code"); strings.Contains(notice.GetNotice().GetMessage(), code) {
			t.Error("the code is in the notice")
		}
	}
	if err := stream.Send(redirection(to)); err != nil {
		t.Fatal(err)
	}
	done, err := stream.Recv()
	if err != nil || !done.GetDone().GetRenewable() {
		t.Fatalf("%v, %v", done, err)
	}
	w.mustGet(t, "a")
}

func TestLoginScopes(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server, "OAUTH2_SCOPE='read offline_access'"))
	start := profileStart("a")
	start.Scopes = []string{"write", "read"}
	p := &person{server: server}
	done, err := w.login(t, start, p)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(p.opened.GetUrl())
	if err != nil || u.Query().Get("scope") != "read offline_access write" {
		t.Errorf("asked for %q, %v", u.Query().Get("scope"), err)
	}
	if got, want := done.GetScopes(), []string{"read", "offline_access", "write"}; !slices.Equal(got, want) || len(done.GetMissingScopes()) > 0 {
		t.Errorf("granted %v, missing %v", got, done.GetMissingScopes())
	}
	if got, want := w.mustGet(t, "a").GetScopes(), done.GetScopes(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the token has %v, want %v", got, want)
	}

	// What it was made more by lasts.
	renewed, err := w.tokens.GetToken(t.Context(), &tokendv1.GetTokenRequest{Profile: "a", MinValid: durationpb.New(599 * time.Second), BestEffort: true, Force: true})
	if err != nil || renewed.GetDegraded() || !slices.Contains(renewed.GetScopes(), "write") {
		t.Errorf("renewed: scopes %v, %q, %v", renewed.GetScopes(), renewed.GetWarning(), err)
	}

	// offline_access stands for the refresh token, which is there.
	server.AnyClient().Then(authserver.Answer{Set: map[string]any{"scope": "read"}})
	if done, err = w.login(t, start, &person{server: server}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(done.GetScopes(), []string{"read"}) || !slices.Equal(done.GetMissingScopes(), []string{"write"}) {
		t.Errorf("granted %v, missing %v", done.GetScopes(), done.GetMissingScopes())
	}
	server.AnyClient().Then(authserver.Answer{Set: map[string]any{"scope": "read"}, Drop: []string{"refresh_token", "expires_in"}})
	if done, err = w.login(t, start, &person{server: server}); err != nil {
		t.Fatal(err)
	}
	if done.GetRenewable() || done.GetExpiresAt() != nil || !slices.Equal(done.GetMissingScopes(), []string{"offline_access", "write"}) {
		t.Errorf("done: %v", done)
	}
	w.mustGet(t, "a")
}
