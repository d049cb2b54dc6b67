package main

import (
	"bufio"
	"cmp"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	tokendv1 "tokend/proto/tokend/v1"
)

// Events of a login.

func serverFound() *tokendv1.LoginResponse {
	return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_ServerFound_{ServerFound: &tokendv1.LoginResponse_ServerFound{
		Resource: "https://mcp.example.com/v1", Issuer: "https://auth.example.com", AuthorizationEndpoint: "https://auth.example.com/authorize",
		TokenEndpoint: "https://auth.example.com/token", RegistrationEndpoint: "https://auth.example.com/register",
		Registers: true, Profile: "mcp.example.com", Scopes: []string{"read", "write"},
	}}}
}

const serverShown = `API           https://mcp.example.com/v1
login server  https://auth.example.com
login page    https://auth.example.com/authorize
client        a new one is registered there
scopes        read write
profile       mcp.example.com is written
`

func tokenNeeded() *tokendv1.LoginResponse {
	return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_InitialAccessTokenNeeded_{InitialAccessTokenNeeded: &tokendv1.LoginResponse_InitialAccessTokenNeeded{
		RegistrationEndpoint: "https://auth.example.com/register",
	}}}
}

func openURL(url string) *tokendv1.LoginResponse {
	return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_OpenUrl{OpenUrl: &tokendv1.LoginResponse_OpenURL{
		Url: url, RedirectUrl: "http://127.0.0.1:1234/callback", ExpiresAt: later(),
	}}}
}

const authorizeURL = "https://auth.example.com/authorize?client_id=x&state=y"

func showCode() *tokendv1.LoginResponse {
	return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_ShowCode_{ShowCode: &tokendv1.LoginResponse_ShowCode{
		UserCode: "WDJB-MJHT", VerificationUrl: "https://auth.example.com/device",
		VerificationUrlComplete: "https://auth.example.com/device?user_code=WDJB-MJHT", ExpiresAt: later(),
	}}}
}

const codeShown = `tokenctl: p: open this address in any browser, here or elsewhere:

https://auth.example.com/device

tokenctl: p: and type this code there:

    WDJB-MJHT

`

func notice(message string) *tokendv1.LoginResponse {
	return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_Notice_{Notice: &tokendv1.LoginResponse_Notice{Message: message}}}
}

func done(d *tokendv1.LoginResponse_Done) *tokendv1.LoginResponse {
	return &tokendv1.LoginResponse{Event: &tokendv1.LoginResponse_Done_{Done: d}}
}

func loggedIn() *tokendv1.LoginResponse {
	return done(&tokendv1.LoginResponse_Done{Profile: "p", Scopes: []string{"read"}, ExpiresAt: later(), Renewable: true})
}

const loggedInSaid = "p: logged in; token good until 2033-05-18 03:33 UTC, renewed without you\n"

// plays is a login that begins as any does, sends events, and keeps what the
// person sends after an event that waits for it in *said.
func plays(said *[]*tokendv1.LoginRequest, events ...*tokendv1.LoginResponse) func(loginStream) error {
	return func(stream loginStream) error {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		*said = []*tokendv1.LoginRequest{r}
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
			if e.GetServerFound() != nil || e.GetInitialAccessTokenNeeded() != nil {
				if r, err = stream.Recv(); err != nil {
					return err
				}
				*said = append(*said, r)
			}
		}
		return nil
	}
}

// failing ends a login with err once events have been sent.
func failing(err error, events ...*tokendv1.LoginResponse) func(loginStream) error {
	play := plays(new([]*tokendv1.LoginRequest), events...)
	return func(stream loginStream) error {
		return cmp.Or(play(stream), err)
	}
}

func wantSaid(t *testing.T, got []*tokendv1.LoginRequest, want ...*tokendv1.LoginRequest) {
	t.Helper()
	if diff := gocmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func started(s *tokendv1.LoginRequest_Start) *tokendv1.LoginRequest {
	return &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_Start_{Start: s}}
}

func confirmed(accepted bool) *tokendv1.LoginRequest {
	return &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_Confirmation_{Confirmation: &tokendv1.LoginRequest_Confirmation{Accepted: accepted}}}
}

func startedProfile(method tokendv1.LoginRequest_Method, scopes ...string) *tokendv1.LoginRequest {
	return started(&tokendv1.LoginRequest_Start{
		Target: &tokendv1.LoginRequest_Start_Profile{Profile: "p"}, Method: method, Scopes: scopes,
	})
}

func startedURL(s *tokendv1.LoginRequest_Start) *tokendv1.LoginRequest {
	s.Target = &tokendv1.LoginRequest_Start_Url{Url: "https://mcp.example.com/v1"}
	return started(s)
}

func TestLoginWithACode(t *testing.T) {
	var said []*tokendv1.LoginRequest
	s := serve(t, &script{login: plays(&said, showCode(), notice("still\x1b waiting"), loggedIn())})
	want(t, s.run(t, "not read\n", "login", "p", "--device", "--scope", "a b", "--scope", "c"),
		outcome{loggedInSaid, codeShown + "tokenctl: p: still\\x1b waiting\n", 0})
	wantSaid(t, said, startedProfile(tokendv1.LoginRequest_METHOD_DEVICE, "a", "b", "c"))
	if got := s.trusted(t); got != "" {
		t.Errorf("a profile that was there is trusted: %q", got)
	}

	want(t, s.run(t, "", "login", "p", "--device", "-o", "json"), outcome{`{
  "profile": "p",
  "scopes": [
    "read"
  ],
  "missing_scopes": [],
  "expires_at": "2033-05-18T03:33:20Z",
  "expires_at_unix": 2000000000,
  "renewable": true
}
`, codeShown + "tokenctl: p: still\\x1b waiting\n", 0})
}

func TestLoginsEnd(t *testing.T) {
	var said []*tokendv1.LoginRequest
	s := serve(t, &script{})
	for _, test := range []struct {
		done   *tokendv1.LoginResponse_Done
		stdout string
		stderr string
	}{
		{&tokendv1.LoginResponse_Done{Profile: "p"}, "p: logged in; token good until the server refuses it, then a new login is needed\n", ""},
		{&tokendv1.LoginResponse_Done{Profile: "p", ExpiresAt: later()}, "p: logged in; token good until 2033-05-18 03:33 UTC, then a new login is needed\n", ""},
		{&tokendv1.LoginResponse_Done{Profile: "p", Renewable: true, MissingScopes: []string{"b", "c\x1b"}, Warning: "look\nhere"},
			"p: logged in; token good until the server refuses it, renewed without you\n",
			"tokenctl: p: warning: not granted: b c\\x1b\ntokenctl: p: warning: look here\n"},
	} {
		s.login = plays(&said, done(test.done))
		want(t, s.run(t, "", "login", "p"), outcome{test.stdout, test.stderr, 0})
	}
	want(t, s.run(t, "", "login", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "scopes": [],
  "missing_scopes": [
    "b",
    "c\u001b"
  ],
  "renewable": true,
  "warning": "look\nhere"
}
`, "tokenctl: p: warning: not granted: b c\\x1b\ntokenctl: p: warning: look here\n", 0})
	s.login = plays(&said)
	want(t, s.run(t, "", "login", "p"), outcome{"", "tokenctl: tokend ended the login without saying what came of it\n", 1})
}

// A login to an API, without a terminal.
func TestLoginToAURL(t *testing.T) {
	var said []*tokendv1.LoginRequest
	s := &script{}
	written := done(&tokendv1.LoginResponse_Done{Profile: "mcp.example.com", Renewable: true, Trust: &tokendv1.Trust{}})
	s.login = plays(&said, serverFound(), tokenNeeded(), showCode(), written)
	serve(t, s)
	written.GetDone().Trust = s.trust("mcp.example.com")
	const url = "https://mcp.example.com/v1"
	code := strings.ReplaceAll(codeShown, " p: ", " mcp.example.com: ")
	token, secret := s.write(t, "token", "initial\n"), s.write(t, "secret", "hidden\n")

	want(t, s.run(t, "y\n", "login", url),
		outcome{"", serverShown + "tokenctl: mcp.example.com: standard input is not a terminal to ask on; add --yes to trust https://auth.example.com\n", 2})
	if got := s.trusted(t); got != "" {
		t.Errorf("trusted %q", got)
	}
	want(t, s.run(t, "", "login", url, "--yes"), outcome{"", serverShown +
		"tokenctl: mcp.example.com: the server registers nobody without an initial access token; add --token-file FILE\n", 2})
	want(t, s.run(t, "", "login", url, "--yes", "--token-file", token), outcome{
		"mcp.example.com: logged in; token good until the server refuses it, renewed without you\n", serverShown + code, 0})
	initial := &tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_InitialAccessToken_{InitialAccessToken: &tokendv1.LoginRequest_InitialAccessToken{Token: "initial"}}}
	wantSaid(t, said, startedURL(&tokendv1.LoginRequest_Start{}), confirmed(true), initial)
	if got := s.trusted(t); got != "mcp.example.com hash\n" {
		t.Errorf("trusted %q", got)
	}

	got := s.run(t, "", "login", url, "--yes", "--token-file", token, "--as", "mcp", "--replace", "--scope", "x", "--device",
		"--client-id", "id", "--client-secret-file", secret, "--www-authenticate", "Bearer x=y")
	if got.Exit != 0 || !strings.Contains(got.Stderr, "\nprofile       mcp.example.com is written, in place of the one that may be there\n") {
		t.Error(got)
	}
	wantSaid(t, said, startedURL(&tokendv1.LoginRequest_Start{
		Name: "mcp", Replace: true, Scopes: []string{"x"}, Method: tokendv1.LoginRequest_METHOD_DEVICE,
		ClientId: "id", ClientSecret: "hidden", WwwAuthenticate: "Bearer x=y",
	}), confirmed(true), initial)
}

// Where code, secret and initial access token go is shown where it is not the
// host of the login page.
func TestLoginServerInParts(t *testing.T) {
	var said []*tokendv1.LoginRequest
	e := serverFound()
	found := e.GetServerFound()
	s := serve(t, &script{login: plays(&said, e)})
	for _, test := range []struct{ token, registration, rows string }{
		{"https://tokens.example.com/token", "https://auth.example.com/register",
			"tokens from   https://tokens.example.com/token\nclient        a new one is registered there\n"},
		{"https://auth.example.com:8443/token", "https://clients.example.com/register",
			"tokens from   https://auth.example.com:8443/token\nclient        a new one is registered at https://clients.example.com/register\n"},
		{"https://tokens.example.com/token", "", "tokens from   https://tokens.example.com/token\n"},
	} {
		found.TokenEndpoint, found.RegistrationEndpoint, found.Registers = test.token, test.registration, test.registration != ""
		shown := strings.Replace(serverShown, "client        a new one is registered there\n", test.rows, 1)
		want(t, s.run(t, "", "login", "https://mcp.example.com/v1", "--yes"), outcome{"", shown + "tokenctl: tokend ended the login without saying what came of it\n", 1})
	}
}

func TestLoginUsage(t *testing.T) {
	s := serve(t, &script{})
	empty, long := s.write(t, "empty", " \n"), s.write(t, "long", strings.Repeat("x", maxSecret+1))
	const url, see = "https://mcp.example.com", "; see: tokenctl login --help\n"
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "PROFILE or URL missing" + see},
		{[]string{"p", "--as", "q"}, "--as is for the URL of an API, and p is a profile" + see},
		{[]string{"p", "--replace"}, "--replace is for the URL of an API, and p is a profile" + see},
		{[]string{"p", "--client-id", "x"}, "--client-id is for the URL of an API, and p is a profile" + see},
		{[]string{"p", "--client-secret-file", "x"}, "--client-secret-file is for the URL of an API, and p is a profile" + see},
		{[]string{"p", "--token-file", "x"}, "--token-file is for the URL of an API, and p is a profile" + see},
		{[]string{"p", "--www-authenticate", "x"}, "--www-authenticate is for the URL of an API, and p is a profile" + see},
		{[]string{"p", "--device", "--no-browser"}, "--device and --no-browser exclude each other: a code needs no browser here" + see},
		{[]string{url, "--client-secret-file", "x"}, "--client-secret-file needs --client-id" + see},
		{[]string{url, "--client-id", "x", "--client-secret-file", empty}, empty + " is empty\n"},
		{[]string{url, "--client-id", "x", "--client-secret-file", long}, long + " is longer than 16 KiB\n"},
	} {
		want(t, s.run(t, "", append([]string{"login"}, test.args...)...), outcome{"", "tokenctl: " + test.says, 2})
	}
}

func TestLoginFails(t *testing.T) {
	const url = "https://mcp.example.com/v1"
	s := serve(t, &script{})
	for _, test := range []struct {
		err  error
		args []string
		exit int
		says string
	}{
		{refusal("DENIED", "access denied", "profile", "p"), []string{"p"}, 7, "p: access denied; to try again: tokenctl login p"},
		{refusal("DENIED", "access denied", "profile", "p"), []string{url}, 7, "p: access denied; try again"},
		{refusal("LOGIN_REQUIRED", "nobody logged in in time", "profile", "p"), []string{"p"}, 4, "p: nobody logged in in time; to try again: tokenctl login p"},
		{refusal("LOGIN_REQUIRED", "nobody logged in in time", "profile", "p"), []string{url}, 4, "p: nobody logged in in time; try again"},
		{refusal("PROFILE_INVALID", "no", "profile", "p"), []string{url}, 78, "p: no"},
		{refusal("REQUEST_REFUSED", "another issuer", "profile", "p"), []string{"p"}, 8, "p: another issuer"},
		{refusal("UNTRUSTED", "not trusted", "profile", "p"), []string{"p"}, 7, "p: not trusted; run: tokenctl trust p"},
		{refusal("PROFILE_INVALID", "client_credentials needs no login", "profile", "p"), []string{"p"}, 78, "p: client_credentials needs no login; run: tokenctl edit p"},
		{refusal("ALREADY_EXISTS", "a profile has that name", "profile", "p"), []string{url}, 1, "p: a profile has that name; run: tokenctl login p, or add --replace or --as NAME"},
		{refusal("ALREADY_EXISTS", "P has that name", "profile", "p", "suggestion", "P"), []string{url}, 1, "p: P has that name; choose another name: --as NAME"},
		{refusal("CLIENT_REFUSED", "refused", "profile", "p"), []string{"p"}, 8, "p: refused; check CLIENT_ID, CLIENT_SECRET and OAUTH2_CLIENT_AUTH: tokenctl edit p"},
		{refusal("CLIENT_REFUSED", "refused", "profile", "p"), []string{url}, 8, "p: refused"},
		{refusal("CLIENT_REFUSED", "refused", "profile", "p"), []string{url, "--client-id", "x"}, 8, "p: refused; check --client-id and --client-secret-file"},
		{refusal("REQUEST_REFUSED", "no", "profile", "p", "oauth_error", "invalid_scope"), []string{"p"}, 8, "p: no; check OAUTH2_SCOPE: tokenctl edit p"},
		{refusal("REQUEST_REFUSED", "no", "profile", "p", "oauth_error", "invalid_scope"), []string{"p", "--scope", "x"}, 8, "p: no; check --scope"},
		{refusal("REQUEST_REFUSED", "no", "profile", "p"), []string{url}, 8, "p: no"},
		{refusal("PROVIDER_DOWN", "down", "profile", "p"), []string{"p"}, 75, "p: down; try again later"},
		{refusal("VERSION_CHANGED", "another login has begun", "profile", "p"), []string{"p"}, 1, "p: another login has begun; look at it and repeat"},
	} {
		s.login = failing(test.err)
		want(t, s.run(t, "", append([]string{"login"}, test.args...)...), outcome{"", "tokenctl: " + test.says + "\n", test.exit})
	}
	s.login = failing(refusal("DENIED", "\u009b2Jno\u202e", "profile", "p"))
	want(t, s.run(t, "", "login", "p", "-o", "json"), outcome{"",
		`{"reason":"DENIED","exit":7,"profile":"p","message":"\u009b2Jno\u202e","transient":false,"fix":"to try again: tokenctl login p"}` + "\n", 7})
	// After events, and as JSON.
	s.login = failing(refusal("DENIED", "access denied", "profile", "p"), showCode())
	want(t, s.run(t, "", "login", "p", "-o", "json"), outcome{"",
		codeShown + `{"reason":"DENIED","exit":7,"profile":"p","message":"access denied","transient":false,"fix":"to try again: tokenctl login p"}` + "\n", 7})
}

const addressShown = "tokenctl: p: to log in, open this address in a browser:\n\n" + authorizeURL + "\n\n"

// A redirect URL on standard input ends a login that no browser can reach, and
// what is pasted wrongly does not.
func TestPastedRedirection(t *testing.T) {
	var got []string
	s := serve(t, &script{login: func(stream loginStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(openURL(authorizeURL)); err != nil {
			return err
		}
		for range 2 {
			r, err := stream.Recv()
			if err != nil {
				return err
			}
			got = append(got, r.GetRedirection().GetUrl())
			if err := stream.Send(notice("that is not it")); err != nil {
				return err
			}
		}
		return stream.Send(loggedIn())
	}})
	out := s.run(t, "wrong\r\n\n  http://127.0.0.1:1234/callback?code=c&state=y \nrest", "login", "--no-browser", "p")
	want(t, out, outcome{loggedInSaid, addressShown + strings.Repeat("tokenctl: p: that is not it\n", 2), 0})
	if want := []string{"wrong", "http://127.0.0.1:1234/callback?code=c&state=y"}; !slices.Equal(got, want) {
		t.Errorf("pasted %q, want %q", got, want)
	}
}

// The end of standard input ends no login: the listener still runs.
func TestStandardInputEnds(t *testing.T) {
	var said []*tokendv1.LoginRequest
	s := serve(t, &script{login: plays(&said, openURL(authorizeURL), loggedIn())})
	want(t, s.run(t, "", "login", "--no-browser", "p"), outcome{loggedInSaid, addressShown, 0})
}

// What a script has on standard input is the script's, unless --no-browser says
// otherwise.
func TestStandardInputIsLeftAlone(t *testing.T) {
	s := &script{}
	fifo := ""
	s.login = func(stream loginStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(openURL(authorizeURL)); err != nil {
			return err
		}
		if _, err := os.ReadFile(fifo); err != nil { // until the browser is open
			return err
		}
		return stream.Send(loggedIn())
	}
	serve(t, s)
	fifo = s.fifo(t, "fifo")
	in, err := os.Open(s.write(t, "in", "the next command's\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := s.command(t, []string{"BROWSER=" + s.write(t, "browser", "#!/bin/sh\n: > "+fifo+"\n")}, "login", "p")
	cmd.Stdin = in
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if at, err := in.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		t.Errorf("%d bytes were read, %v", at, err)
	}
}

// Ctrl-C while a daemon is being started is no failure to start one.
func TestInterruptedWhileStarting(t *testing.T) {
	s := serve(t, &script{})
	up, down := s.fifo(t, "up"), s.fifo(t, "down")
	s.write(t, "tokend", "#!/bin/sh\n: > "+up+"\nread line < "+down+"\n")
	cmd := s.command(t, []string{"TOKEND_SOCKET=" + filepath.Join(s.dir, "run", "none"), "PATH=" + s.dir + ":/usr/bin:/bin"}, "login", "p")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(up); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	want(t, outcome{"", stderr.String(), cmd.ProcessState.ExitCode()}, outcome{"", "tokenctl: interrupted\n", exitStopped})
	if err := os.WriteFile(down, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
}

// fifo makes a pipe that a browser writes into.
func (s *script) fifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The browser gets the address as one argument and nothing of ours: it neither
// reads our standard input nor writes to our output. The first that works is
// the only one.
func TestBrowserIsOpened(t *testing.T) {
	s := &script{}
	var fifo, seen string
	s.login = func(stream loginStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(openURL(authorizeURL)); err != nil {
			return err
		}
		b, err := os.ReadFile(fifo) // until the browser has written
		if err != nil {
			return err
		}
		seen = string(b)
		return stream.Send(loggedIn())
	}
	serve(t, s)
	fifo = s.fifo(t, "fifo")
	works := s.write(t, "works", "#!/bin/sh\necho noise\necho noise >&2\n{ printf '%s\\n' \"$@\"; cat; } > "+fifo+"\n")
	fails := s.write(t, "fails", "#!/bin/sh\nexit 1\n")
	const opened = "tokenctl: p: a browser is being opened to log in, at this address:\n\n" + authorizeURL + "\n\n"
	for _, test := range []struct{ browser, args string }{
		{works, authorizeURL},
		{works + " --new  --tab", "--new\n--tab\n" + authorizeURL},
		{works + " -u=%s $HOME;ls", "-u=" + authorizeURL + "\n$HOME;ls"}, // there is no shell
		{"/nowhere::" + fails + ":" + works + ":" + fails, authorizeURL},
	} {
		want(t, s.runWith(t, []string{"BROWSER=" + test.browser}, "not for the browser\n", "login", "p"), outcome{loggedInSaid, opened, 0})
		if seen != test.args+"\n" {
			t.Errorf("%s got\n%s, want\n%s", test.browser, seen, test.args)
		}
	}
}

// Without a browser that works the login goes on, and says so.
func TestNoBrowserOpens(t *testing.T) {
	s := &script{}
	proceed := make(chan bool)
	s.login = func(stream loginStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(openURL(authorizeURL)); err != nil {
			return err
		}
		<-proceed
		return stream.Send(loggedIn())
	}
	serve(t, s)
	cmd := s.command(t, []string{"BROWSER=/nowhere"}, "login", "p")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	last := ""
	for lines.Scan() {
		if last = lines.Text(); strings.Contains(last, "no browser was opened") {
			proceed <- true
		}
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(last, "tokenctl: p: no browser was opened (/nowhere: ") {
		t.Error(err, last)
	}
}

func TestOpenable(t *testing.T) {
	for address, want := range map[string]bool{
		"https://auth.example.com/a?b=c":     true,
		"http://127.0.0.1:8080/a":            true,
		"http://[::1]:8080/a":                true,
		"http://localhost/a":                 true,
		"http://auth.example.com/a":          false,
		"http://127.0.0.1.example.com/":      false,
		"http://192.0.2.1/a":                 false,
		"http://localhost@auth.example.com/": false,
		"https://user@auth.example.com/":     false,
		"https:///a":                         false,
		"https:auth.example.com":             false,
		"file:///etc/passwd":                 false,
		"javascript:alert(1)":                false,
		"-h":                                 false,
		"--help=https://auth.example.com":    false,
		"":                                   false,
		"https://auth.example.com/a b":       false,
		"https://auth.example.com/\x1b":      false,
		"https://auth.exämple.com/":          false,
		"https://auth.example.com/$(id)":     false,
		"https://auth.example.com/`id`":      false,
		"https://auth.example.com/'":         false,
		"https://auth.example.com/\"":        false,
		"https://auth.example.com/|<>^\\{}":  false,
	} {
		if got := openable(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

// An address that no program may have is shown, made printable, and not opened.
func TestHostileAddress(t *testing.T) {
	var said []*tokendv1.LoginRequest
	s := serve(t, &script{login: plays(&said, openURL("http://auth.example.com/\x1b[2J"), loggedIn())})
	opened := s.write(t, "opened", "#!/bin/sh\ntouch "+s.dir+"/was-opened\n")
	want(t, s.runWith(t, []string{"BROWSER=" + opened}, "", "login", "p"), outcome{loggedInSaid,
		"tokenctl: p: to log in, open this address in a browser:\n\nhttp://auth.example.com/\\x1b[2J\n\n" +
			"tokenctl: p: it is not opened for you, being neither https nor on this machine: look at it first\n", 0})
	if _, err := os.Stat(filepath.Join(s.dir, "was-opened")); err == nil {
		t.Error("it was opened")
	}
}

func TestBrowsers(t *testing.T) {
	t.Setenv("BROWSER", "")
	t.Setenv("DISPLAY", "")
	t.Setenv("WAYLAND_DISPLAY", "")
	const url = "https://x"
	t.Setenv("BROWSER", "a -b::c %s d")
	if diff := gocmp.Diff([][]string{{"a", "-b", url}, {"c", url, "d"}}, browsers(url)); diff != "" {
		t.Error(diff)
	}
}

func TestTyped(t *testing.T) {
	for in, want := range map[string]string{
		"abc": "abc", " a b ": "a b", "abx\x7fc": "abc", "x\b\b\by": "y", "xy\x15z": "z", "a\x04\x1bb": "ab", "": "",
	} {
		if got := typed(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
