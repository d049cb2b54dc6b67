package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"rsc.io/qr"

	tokendv1 "tokend/proto/tokend/v1"
)

// terminal is a pseudo-terminal and what has been written to it.
type terminal struct {
	ours, theirs *os.File
	out          strings.Builder
}

func newTerminal(t *testing.T, columns, rows uint16) *terminal {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	if err := unix.IoctlSetWinsize(int(ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return &terminal{ours: ours, theirs: theirs}
}

// modes are the terminal's local modes.
func (p *terminal) modes(t *testing.T) uint32 {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(p.theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return m.Lflag
}

// start starts tokenctl on the terminal, which is its controlling one.
func (p *terminal) start(t *testing.T, s *script, env []string, args ...string) *exec.Cmd {
	t.Helper()
	s.call()()
	cmd := s.command(t, append([]string{"TERM=xterm-256color", "LANG=C.UTF-8"}, env...), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.theirs, p.theirs, p.theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// until reads what is written to the terminal until part is there.
func (p *terminal) until(t *testing.T, part string) {
	t.Helper()
	for !strings.Contains(p.out.String(), part) {
		p.more(t)
	}
}

func (p *terminal) more(t *testing.T) {
	t.Helper()
	b := make([]byte, 1024)
	n, err := p.ours.Read(b)
	p.out.Write(b[:n])
	if err != nil {
		t.Fatalf("%v after\n%s", err, p.out.String())
	}
}

func (p *terminal) types(t *testing.T, text string) {
	t.Helper()
	if _, err := p.ours.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// ends waits for tokenctl and returns all that stands on the terminal.
func (p *terminal) ends(t *testing.T, s *script, cmd *exec.Cmd, exit int) string {
	t.Helper()
	said := p.rest()
	_ = cmd.Wait()
	s.call()()
	if got := cmd.ProcessState.ExitCode(); got != exit {
		t.Errorf("exit status %d, want %d; it said\n%s", got, exit, said)
	}
	return said
}

// rest reads until nobody has the terminal open. Linux says so (EIO) also where
// somebody has just written and closed it while it looked: only the next read tells.
func (p *terminal) rest() string {
	p.theirs.Close()
	b := make([]byte, 1024)
	for ends := 0; ends < 2; {
		n, err := p.ours.Read(b)
		p.out.Write(b[:n])
		if err != nil {
			ends++
		} else {
			ends = 0
		}
	}
	return strings.ReplaceAll(p.out.String(), "\r\n", "\n")
}

func TestTrustIsAskedFor(t *testing.T) {
	for _, test := range []struct {
		answer   string
		accepted bool
		exit     int
		says     string
	}{
		{"y\n", true, 0, "Trust auth.example.com? [y/N] y\n" + loggedInSaid},
		{"n\n", false, 7, "Trust auth.example.com? [y/N] n\ntokenctl: mcp.example.com: the server is not trusted: nothing was written\n"},
		{"\n", false, 7, "Trust auth.example.com? [y/N] \ntokenctl: mcp.example.com: the server is not trusted: nothing was written\n"},
		{"\x04", false, 7, "Trust auth.example.com? [y/N] \ntokenctl: mcp.example.com: the server is not trusted: nothing was written\n"},
	} {
		s := &script{}
		var said []*tokendv1.LoginRequest
		end := loggedIn()
		s.login = plays(&said, serverFound(), end)
		serve(t, s)
		end.GetDone().Trust = s.trust("p")
		p := newTerminal(t, 80, 24)
		cmd := p.start(t, s, nil, "login", "https://mcp.example.com/v1")
		p.until(t, "[y/N] ")
		p.types(t, test.answer)
		if got := p.ends(t, s, cmd, test.exit); got != serverShown+test.says {
			t.Errorf("%q: it said\n%s, want\n%s", test.answer, got, serverShown+test.says)
		}
		wantSaid(t, said, startedURL(&tokendv1.LoginRequest_Start{}), confirmed(test.accepted))
		if got := s.trusted(t); (got == "p hash\n") != test.accepted {
			t.Errorf("%q: trusted %q", test.answer, got)
		}
	}
}

// The question names both hosts where there are two: what is above it a server may
// have filled the screen with.
func TestTrustIsAskedForByHost(t *testing.T) {
	var said []*tokendv1.LoginRequest
	e := serverFound()
	e.GetServerFound().AuthorizationEndpoint = "https://honest.example.com/authorize"
	s := serve(t, &script{login: plays(&said, e)})
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "login", "https://mcp.example.com/v1")
	p.until(t, "[y/N] ")
	p.types(t, "n\n")
	if got := p.ends(t, s, cmd, 7); !strings.Contains(got, "\nTrust auth.example.com, with the login page of honest.example.com? [y/N] n\n") {
		t.Errorf("it said\n%s", got)
	}
}

// Secrets are typed unseen.
func TestSecretsDoNotEcho(t *testing.T) {
	var said []*tokendv1.LoginRequest
	s := serve(t, &script{login: plays(&said, tokenNeeded(), loggedIn())})
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "login", "p")
	p.until(t, "token: ")
	p.types(t, "hidden\n")
	if got, want := p.ends(t, s, cmd, 0), "tokenctl: p: the server registers nobody without an initial access token; it is sent to https://auth.example.com/register\n"+
		"Initial access token: \n"+loggedInSaid; got != want {
		t.Errorf("it said\n%s, want\n%s", got, want)
	}
	wantSaid(t, said, startedProfile(0),
		&tokendv1.LoginRequest{Message: &tokendv1.LoginRequest_InitialAccessToken_{InitialAccessToken: &tokendv1.LoginRequest_InitialAccessToken{Token: "hidden"}}})

	var user *tokendv1.RegisterRequest_User
	s.register = func(stream registerStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&tokendv1.RegisterResponse{Event: &tokendv1.RegisterResponse_UserNeeded_{UserNeeded: &tokendv1.RegisterResponse_UserNeeded{
			Url: "https://api.example.com/v1/clients", Profile: "p", TokenUrl: "https://api.example.com/v1/oauth/token",
		}}}); err != nil {
			return err
		}
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		user = r.GetUser()
		return stream.Send(&tokendv1.RegisterResponse{Event: &tokendv1.RegisterResponse_Done_{Done: &tokendv1.RegisterResponse_Done{Profile: "p", ClientId: "ID", Trust: s.trust("p")}}})
	}
	p = newTerminal(t, 80, 24)
	cmd = p.start(t, s, nil, "register", "https://api.example.com/v1/clients")
	p.until(t, "[y/N] ")
	p.types(t, "y\n")
	p.until(t, "name: ")
	p.types(t, "me\n")
	p.until(t, "Password: ")
	p.types(t, "hidden\n")
	if got, want := p.ends(t, s, cmd, 0), `profile    p is written
token URL  https://api.example.com/v1/oauth/token
Send user name and password to https://api.example.com/v1/clients? [y/N] y
User name: me
Password: 
p: registered as client ID
`; got != want {
		t.Errorf("it said\n%s, want\n%s", got, want)
	}
	if user.GetName() != "me" || user.GetPassword() != "hidden" {
		t.Error("user and password are others")
	}
}

// waits is a login that sends events and then waits until its caller goes,
// which gone says.
func waits(gone chan<- bool, events ...*tokendv1.LoginResponse) func(loginStream) error {
	play := plays(new([]*tokendv1.LoginRequest), events...)
	return func(stream loginStream) error {
		err := play(stream)
		<-stream.Context().Done()
		gone <- true
		return err
	}
}

// Ctrl-C ends the login at the daemon too, leaves the terminal as it was, and
// is not the browser's.
func TestCtrlC(t *testing.T) {
	gone := make(chan bool, 1)
	s := serve(t, &script{})
	up, down, answer := s.fifo(t, "up"), s.fifo(t, "down"), s.fifo(t, "answer")
	browser := s.write(t, "browser", "#!/bin/sh\necho up > "+up+"\nread line < "+down+"\necho \"$line\" > "+answer+"\n")
	for _, test := range []struct {
		events []*tokendv1.LoginResponse
		last   string
		says   string
	}{
		{[]*tokendv1.LoginResponse{serverFound()}, "[y/N] ", serverShown + "Trust auth.example.com? [y/N] ^C\ntokenctl: interrupted\n"},
		{[]*tokendv1.LoginResponse{tokenNeeded()}, "token: ",
			"tokenctl: p: the server registers nobody without an initial access token; it is sent to https://auth.example.com/register\nInitial access token: \ntokenctl: interrupted\n"},
		{[]*tokendv1.LoginResponse{openURL(authorizeURL)}, "press Enter.\r\n",
			"tokenctl: p: a browser is being opened to log in, at this address:\n\n" + authorizeURL + "\n\n" +
				"tokenctl: p: waiting. If the browser ends at a page that cannot be reached, paste its address here and press Enter.\n^Ctokenctl: interrupted\n"},
		{[]*tokendv1.LoginResponse{showCode()}, "left ",
			codeShown + "\rwaiting: 99:59 left ^C\r                      \rtokenctl: interrupted\n"},
	} {
		s.login = waits(gone, test.events...)
		p := newTerminal(t, 10, 5) // too small for a QR code
		before := p.modes(t)
		cmd := p.start(t, s, []string{"BROWSER=" + browser}, "login", "p")
		p.until(t, test.last)
		opened := strings.Contains(test.last, "Enter")
		if opened {
			if _, err := os.ReadFile(up); err != nil { // the browser runs
				t.Fatal(err)
			}
		}
		p.types(t, "\x03")
		<-gone
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != exitStopped {
			t.Errorf("exit status %d", got)
		}
		if after := p.modes(t); after != before {
			t.Errorf("the terminal's modes are %o, were %o", after, before)
		}
		if got := p.rest(); got != test.says {
			t.Errorf("it said\n%q, want\n%q", got, test.says)
		}
		if opened {
			if err := os.WriteFile(down, []byte("alive\n"), 0); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(answer); err != nil || string(got) != "alive\n" {
				t.Error("the browser", err, string(got))
			}
		}
	}
}

// A redirect URL with a long code in it can be pasted into a terminal, which
// would cut it off, line by line, at 4095 bytes.
func TestLongRedirectionIsPasted(t *testing.T) {
	address := "http://127.0.0.1:1234/callback?state=y&code=" + strings.Repeat("x", 5000)
	pasted := ""
	s := serve(t, &script{login: func(stream loginStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(openURL(authorizeURL)); err != nil {
			return err
		}
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		pasted = r.GetRedirection().GetUrl()
		return stream.Send(loggedIn())
	}})
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "login", "--no-browser", "p")
	p.until(t, "press Enter.\r\n")
	p.types(t, "slip\x15"+address+"y\x7f\n")
	p.ends(t, s, cmd, 0)
	if pasted != address {
		t.Errorf("pasted %d bytes, want %d", len(pasted), len(address))
	}
}

var escape = regexp.MustCompile("\x1b\\[[0-9;]*m")

// The QR code on the terminal is that of the address with the code in it, black
// on white, with its border.
func TestQRCode(t *testing.T) {
	code, err := qr.Encode("https://auth.example.com/device?user_code=WDJB-MJHT", qr.L)
	if err != nil {
		t.Fatal(err)
	}
	side := uint16(code.Size + 2*quiet)
	rows := (side+1)/2 + besides
	var said []*tokendv1.LoginRequest
	s := serve(t, &script{login: plays(&said, showCode(), loggedIn())})
	shown := func(columns, rows uint16, env ...string) string {
		p := newTerminal(t, columns, rows)
		return p.ends(t, s, p.start(t, s, env, "login", "p", "--device"), 0)
	}

	out := shown(side, rows)
	_, out, ok := strings.Cut(out, "https://auth.example.com/device\n\n")
	drawn, after, ok2 := strings.Cut(out, "\n\n")
	if !ok || !ok2 {
		t.Fatalf("no QR code in\n%s", out)
	}
	if want := "tokenctl: p: and type this code there:\n\n    WDJB-MJHT\n\n"; !strings.HasPrefix(after, want) {
		t.Errorf("after the QR code\n%s", after)
	}
	lines := strings.Split(drawn, "\n")
	black := func(x, y int) bool {
		line := []rune(escape.ReplaceAllString(lines[(y+quiet)/2], ""))
		return strings.ContainsRune([]string{"█▀", "█▄"}[(y+quiet)%2], line[x+quiet])
	}
	for y := -quiet; y < code.Size+quiet; y++ {
		for x := -quiet; x < code.Size+quiet; x++ {
			if black(x, y) != code.Black(x, y) {
				t.Fatalf("the module at %d,%d is not as it should be in\n%s", x, y, drawn)
			}
		}
	}
	for _, line := range lines {
		if width := len([]rune(escape.ReplaceAllString(line, ""))); !strings.HasPrefix(line, "\x1b[38;5;16;48;5;231m") || !strings.HasSuffix(line, "\x1b[0m") || width != int(side) {
			t.Errorf("the line %q", line)
		}
	}

	plain := codeShown + "\rwaiting: 99:59 left \r                      \r" + loggedInSaid
	for what, got := range map[string]string{
		"too narrow": shown(side-1, rows),
		"too low":    shown(side, rows-1),
		"NO_COLOR":   shown(side, rows, "NO_COLOR=1"),
		"no UTF-8":   shown(side, rows, "LANG=en_US.ISO-8859-1"),
		"LC_ALL=C":   shown(side, rows, "LC_ALL=C"),
		"a dumb one": shown(side, rows, "TERM=dumb"),
	} {
		if got != plain {
			t.Errorf("%s: it said\n%q, want\n%q", what, got, plain)
		}
	}
}

func TestCountdown(t *testing.T) {
	gone := make(chan bool, 1)
	code := showCode()
	code.GetShowCode().ExpiresAt = timestamppb.New(time.Now().Add(5 * time.Minute))
	s := serve(t, &script{login: waits(gone, code, notice("still there"))})
	p := newTerminal(t, 10, 5)
	cmd := p.start(t, s, nil, "login", "p", "--device")
	form := regexp.MustCompile(`\rwaiting: 0[45]:[0-5][0-9] left `)
	p.until(t, "still there")
	for len(form.FindAllString(p.out.String(), -1)) < 3 { // before the notice, after it, and a second later
		p.more(t)
	}
	p.types(t, "\x03")
	<-gone
	said := p.ends(t, s, cmd, exitStopped)
	all := form.FindAllString(said, -1)
	if all[1] == all[2] {
		t.Errorf("%q twice", all[1])
	}
	blank := "\r" + strings.Repeat(" ", len(all[0])-1+len("^C")) + "\r"
	if want := codeShown + "C" + blank + "tokenctl: p: still there\n" + strings.Repeat("C", len(all)-1) + "^C" + blank + "tokenctl: interrupted\n"; form.ReplaceAllString(said, "C") != want {
		t.Errorf("it said\n%q, want\n%q", said, want)
	}
}

func TestRevokeAllIsAskedFor(t *testing.T) {
	asked := 0
	s := serve(t, &script{revoke: func(*tokendv1.RevokeTokensRequest) (*tokendv1.RevokeTokensResponse, error) {
		asked++
		return &tokendv1.RevokeTokensResponse{}, nil
	}})
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "revoke", "--all")
	p.until(t, "[y/N] ")
	p.types(t, "n\n")
	if got := p.ends(t, s, cmd, 1); got != "Revoke the tokens of all profiles? [y/N] n\ntokenctl: kept\n" || asked != 0 {
		t.Errorf("it said\n%s", got)
	}
	p = newTerminal(t, 80, 24)
	if got := p.ends(t, s, p.start(t, s, nil, "revoke", "--all", "--yes"), 0); got != "" || asked != 1 {
		t.Errorf("it said\n%s", got)
	}
}

func TestDisplayChoosesBrowser(t *testing.T) {
	for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	if got := browsers("https://x"); got != nil {
		t.Errorf("without a display %q", got)
	}
	for _, name := range []string{"DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, ":0")
		if got := fmt.Sprint(browsers("https://x")); got != "[[xdg-open https://x]]" {
			t.Errorf("with %s %s", name, got)
		}
		t.Setenv(name, "")
	}
}

// A refused token is a secret, too.
func TestReportAsksForTheToken(t *testing.T) {
	reported := ""
	s := serve(t, &script{report: func(r *tokendv1.ReportTokenRequest) (*tokendv1.ReportTokenResponse, error) {
		reported = r.AccessToken
		return &tokendv1.ReportTokenResponse{Outcome: tokendv1.ReportTokenResponse_OUTCOME_EVICTED, Message: "another one is made"}, nil
	}})
	for _, test := range []struct {
		types, says string
		exit        int
		reported    string
	}{
		{"hidden\n", "Refused token: \np: another one is made\n", 0, "hidden"},
		{"\n", "Refused token: \ntokenctl: standard input holds no token; see: tokenctl report --help\n", 2, ""},
		{"\x04", "Refused token: \ntokenctl: standard input holds no token; see: tokenctl report --help\n", 2, ""},
		{"\x03", "Refused token: \ntokenctl: interrupted\n", exitStopped, ""},
	} {
		reported = ""
		p := newTerminal(t, 80, 24)
		before := p.modes(t)
		cmd := p.start(t, s, nil, "report", "p")
		p.until(t, "token: ")
		p.types(t, test.types)
		_ = cmd.Wait()
		if after := p.modes(t); after != before {
			t.Errorf("%q: the terminal's modes are %o, were %o", test.types, after, before)
		}
		if got := p.ends(t, s, cmd, test.exit); got != test.says || reported != test.reported {
			t.Errorf("%q: it reported %q and said\n%q, want\n%q", test.types, reported, got, test.says)
		}
	}
}

// The token that a proof is for is typed unseen.
func TestProofAsksForTheToken(t *testing.T) {
	proved := ""
	s := serve(t, &script{prove: func(r *tokendv1.CreateDPoPProofRequest) (*tokendv1.CreateDPoPProofResponse, error) {
		proved = r.AccessToken
		return &tokendv1.CreateDPoPProofResponse{Proof: "a.b.c"}, nil
	}})
	got := onTerminal(t, s, nil, 0, []typing{{"Token: ", "hidden\n"}}, "proof", "p", "GET", "https://api.example.com/", "--token-file", "-")
	if want := "Token: \na.b.c\n"; got != want || proved != "hidden" {
		t.Errorf("of %q it said\n%q, want\n%q", proved, got, want)
	}
}

// Who waits sees for what, on a line that is gone in the end.
func TestWaitingIsShown(t *testing.T) {
	tries := 0
	s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
		if tries++; tries == 1 {
			return nil, refusalFor(2500*time.Millisecond, "PROVIDER_DOWN", "no route", "profile", "p")
		}
		return &tokendv1.GetTokenResponse{AccessToken: "late", TokenType: "Bearer"}, nil
	}})
	const first = "\rwaiting for the provider; next try in 3s           "
	const later = "(\rwaiting for the provider; next try in [0-2]s           )+"
	blank := "\r" + strings.Repeat(" ", len(first)-1+len("^C")) + "\r"
	p := newTerminal(t, 80, 24)
	if got, want := p.ends(t, s, p.start(t, s, nil, "get", "p", "--wait", "20s"), 0),
		"^"+first+later+blank+"late\n$"; !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}

	tries = 0
	p = newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "get", "p", "--wait", "20s")
	p.until(t, first)
	p.types(t, "\x03")
	if got, want := p.ends(t, s, cmd, exitStopped), first+"^C"+blank+"tokenctl: interrupted\n"; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}

	// It may be waited for in vain.
	s.get = func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
		return nil, refusal("PROVIDER_DOWN", "no route", "profile", "p")
	}
	p = newTerminal(t, 80, 24)
	if got, want := p.ends(t, s, p.start(t, s, nil, "get", "p", "--wait", "4s"), 75),
		"^("+later+blank+")+tokenctl: p: no route; to keep trying: tokenctl get --wait 1m p\n$"; !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
}

func TestFindingsAreColoured(t *testing.T) {
	s := serve(t, &script{explain: func(*tokendv1.ExplainTokenRequest) (*tokendv1.ExplainTokenResponse, error) {
		return &tokendv1.ExplainTokenResponse{Findings: []*tokendv1.Finding{
			{Level: tokendv1.Finding_LEVEL_INFO, Topic: "a", Text: "b"},
			{Level: tokendv1.Finding_LEVEL_OK, Topic: "a", Text: "b"},
			{Level: tokendv1.Finding_LEVEL_WARNING, Topic: "a", Text: "b"},
			{Level: tokendv1.Finding_LEVEL_PROBLEM, Topic: "a", Text: "b"},
		}}, nil
	}})
	const plain = "         a  b\nok       a  b\nwarning  a  b\nPROBLEM  a  b\n\np: no token is held; \"get\" asks the authorization server for one\n"
	coloured := strings.NewReplacer("ok     ", "\x1b[32mok     \x1b[0m", "warning", "\x1b[33mwarning\x1b[0m", "PROBLEM", "\x1b[31mPROBLEM\x1b[0m").Replace(plain)
	for _, test := range []struct {
		env  []string
		says string
	}{
		{nil, coloured},
		{[]string{"NO_COLOR="}, coloured},
		{[]string{"NO_COLOR=1"}, plain},
		{[]string{"TERM=dumb"}, plain},
		{[]string{"TERM="}, plain},
	} {
		p := newTerminal(t, 80, 24)
		if got := p.ends(t, s, p.start(t, s, test.env, "explain", "p"), 0); got != test.says {
			t.Errorf("%q: it said\n%q, want\n%q", test.env, got, test.says)
		}
	}
	want(t, s.runWith(t, []string{"TERM=xterm"}, "", "explain", "p"), outcome{plain, "", 0})
}

// That it is locked is said before a text is written, and before a question.
func TestLockedBeforeAnyTrouble(t *testing.T) {
	s := serve(t, &script{
		show: func() (*tokendv1.GetProfileResponse, error) { return nil, refusal("LOCKED", "locked", "profile", "p") },
		list: []*tokendv1.ListProfilesResponse_ProfileEntry{{Name: "p", Version: "1"}},
	})
	opened := filepath.Join(s.dir, "opened")
	editor := s.write(t, "editor", "#!/bin/sh\ntouch "+opened+"\n")
	for _, args := range [][]string{{"add", "p"}, {"rm", "p"}} {
		if got, want := onTerminal(t, s, []string{"EDITOR=" + editor}, 5, nil, args...), "tokenctl: p: locked; run: tokenctl unlock\n"; got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	if _, err := os.Stat(opened); !os.IsNotExist(err) {
		t.Error("the editor was opened")
	}
}

// Who is interrupted while a text is edited is told where it is, and a text that is
// of no use any more does not stay.
func TestEditIsInterrupted(t *testing.T) {
	s := serve(t, &script{put: func(*tokendv1.PutProfileRequest) (*tokendv1.PutProfileResponse, error) {
		return nil, refusal("PROFILE_INVALID", "line 1: broken", "profile", "p")
	}})
	up := s.fifo(t, "up")
	types := s.write(t, "types", "#!/bin/sh\nprintf typed > \"$1\"\n")
	stays := s.write(t, "stays", "#!/bin/sh\nprintf typed > \"$1\"\necho \"$1\" > "+up+"\nexec sleep 60\n")
	looks := s.write(t, "looks", "#!/bin/sh\necho \"$1\" > "+up+"\nexec sleep 60\n")
	kept := func(said, why string) {
		t.Helper()
		parts := regexp.MustCompile(why + `: tokenctl add p --file (\S+), then delete it\n$`).FindStringSubmatch(said)
		if parts == nil {
			t.Fatalf("it said\n%s", said)
		}
		if text, err := os.ReadFile(parts[1]); err != nil || string(text) != "typed" {
			t.Errorf("%q, %v", text, err)
		}
		if err := os.RemoveAll(filepath.Dir(parts[1])); err != nil {
			t.Error(err)
		}
	}

	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, []string{"EDITOR=" + types}, "add", "p")
	p.until(t, "Edit again? [y/N] ")
	p.types(t, "\x03")
	kept(p.ends(t, s, cmd, exitStopped), "tokenctl: p: interrupted; your text is kept")

	// Ends, while the editor is open, are the end of the editor as well.
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGHUP} {
		ended := func(editor string) (file, said string) {
			p := newTerminal(t, 80, 24)
			cmd := p.start(t, s, []string{"EDITOR=" + editor}, "add", "p")
			line, err := os.ReadFile(up)
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(line)), p.ends(t, s, cmd, exitFailed)
		}
		_, said := ended(stays)
		kept(said, "tokenctl: p: editor "+stays+": signal: terminated: nothing was written; your text is kept")
		file, said := ended(looks)
		if want := "tokenctl: p: editor " + looks + ": signal: terminated: nothing was written\n"; said != want {
			t.Errorf("it said\n%s", said)
		}
		if _, err := os.Stat(filepath.Dir(file)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", file, err)
		}
	}
}

// What lies in the place of the folder that a text is edited in is not stored, and
// the text does not stay behind in the one that is away.
func TestEditedFolderIsSwapped(t *testing.T) {
	s := serve(t, &script{put: func(r *tokendv1.PutProfileRequest) (*tokendv1.PutProfileResponse, error) {
		t.Errorf("%q is stored", r.GetText())
		return nil, refusal("PROFILE_INVALID", "no", "profile", "p")
	}})
	editor := s.write(t, "swaps", "#!/bin/sh\nd=${1%/*}; mv \"$d\" \"$d.away\" && mkdir \"$d\" && echo theirs >\"$1\"\n")
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, []string{"EDITOR=" + editor}, "add", "p")
	said := p.ends(t, s, cmd, exitFailed)
	parts := regexp.MustCompile(`(?m)^tokenctl: p: reading (\S+)/p\.env: its folder is not the one that was made for it: nothing was written; edit it again\n$`).FindStringSubmatch(said)
	if parts == nil {
		t.Fatalf("it said\n%s", said)
	}
	away := parts[1] + ".away"
	defer os.RemoveAll(parts[1])
	defer os.RemoveAll(away)
	if left, err := os.ReadDir(away); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
