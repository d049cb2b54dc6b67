package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tokend/client"
	"tokend/client/api"
)

// loginTime is more than a login takes: the daemon gives it up after 10 min.
const loginTime = 11 * time.Minute

// login is one run of `tokenctl login`.
type login struct {
	*app
	start     api.LoginRequestStart
	name      string // of the profile, as far as it is known
	isURL     bool
	yes       bool
	noBrowser bool
	token     string // initial access token, if it was given

	stream    *client.Stream
	pasted    <-chan line // the next line of standard input, where a redirect URL may come from
	canonical func()      // brings the terminal's line editing back
	browser   <-chan error
	expires   time.Time // of the code that is shown, while there is a countdown
	left      string    // the countdown as it stands on the terminal
}

func loginCommand(a *app) *cobra.Command {
	l := &login{app: a}
	var device bool
	var secretFile, tokenFile, caFile string
	c := &cobra.Command{
		Use:   "login PROFILE|URL",
		Short: "Log in with a browser, and let the daemon keep what comes of it",
		Long: `Log in as a person, in a browser, and let the daemon keep what comes of it: from
then on "get" gives tokens without you for as long as the server allows.

For a PROFILE the browser is one on this machine, or with --device, or where the
profile's OAUTH2_GRANT is device_code, any one anywhere and a code to type there.

URL is the address of an API, such as an MCP server: its authorization server is
found and shown to you, tokend registers there where that is needed, and a
profile is written that is named by the URL's host, or by --as.

The address to open always stands on a line of its own on standard error. On
another machine than the browser's, paste the address that the browser ends at:
it is taken from a terminal, or with --no-browser from standard input.`,
		Example: `  tokenctl login dev/network
  tokenctl login --device dev/network         a code to type on a phone
  tokenctl login dev/network --scope repo     ask for more than the profile does
  tokenctl login https://mcp.example.com/v1 --as mcp
  ssh -t host tokenctl login --no-browser dev/network`,
		Args:              exactly("PROFILE or URL"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			l.isURL = strings.Contains(args[0], "://")
			if l.isURL {
				l.start.Url, l.name = &args[0], cmp.Or(l.start.Name, args[0])
			} else {
				for _, flag := range []string{"as", "client-id", "client-secret-file", "token-file", "redirect-url", "ca-file", "replace", "www-authenticate"} {
					if c.Flags().Changed(flag) {
						return usageError(c, "--"+flag+" is for the URL of an API, and "+args[0]+" is a profile")
					}
				}
				l.start.Profile, l.name = &args[0], args[0]
			}
			l.start.Scopes = strings.Fields(strings.Join(l.start.Scopes, " "))
			if device {
				l.start.Method = api.MethodDevice
				if l.noBrowser {
					return usageError(c, "--device and --no-browser exclude each other: a code needs no browser here")
				}
			}
			if secretFile != "" {
				if l.start.ClientId == "" {
					return usageError(c, "--client-secret-file needs --client-id")
				}
				var err error
				if l.start.ClientSecret, err = secretIn(secretFile); err != nil {
					return err
				}
			}
			if caFile != "" {
				pem, err := os.ReadFile(caFile)
				if err != nil {
					return err
				}
				l.start.TlsCa = string(pem)
			}
			if tokenFile != "" {
				var err error
				if l.token, err = secretIn(tokenFile); err != nil {
					return err
				}
			}
			done, err := l.run(c.Context())
			if err != nil {
				return l.diagnose(err)
			}
			return l.finish(done)
		},
	}
	f := c.Flags()
	f.StringVar(&l.start.Name, "as", "", "with a URL: name of the profile to be written")
	f.BoolVar(&l.start.Replace, "replace", false, "with a URL: replace the profile if there is one")
	f.StringArrayVar(&l.start.Scopes, "scope", nil, "ask for this scope, besides the profile's, or with a URL instead of the API's; may be repeated")
	f.BoolVar(&device, "device", false, "log in with any browser anywhere and a code to type there")
	f.BoolVar(&l.noBrowser, "no-browser", false, "open no browser, and take a redirect URL from standard input")
	f.StringVar(&l.start.ClientId, "client-id", "", "with a URL: a client that is registered already, or its metadata document's URL")
	f.StringVar(&secretFile, "client-secret-file", "", "with --client-id: file that holds its secret")
	f.StringVar(&tokenFile, "token-file", "", "with a URL: file that holds the initial access token for registration")
	f.StringVar(&l.start.RedirectUrl, "redirect-url", "", "with a URL: the loopback redirect that --client-id is registered with, as http://localhost:8400/callback")
	f.StringVar(&caFile, "ca-file", "", "with a URL: PEM certificates trusted for its servers instead of the system's")
	f.StringVar(&l.start.WwwAuthenticate, "www-authenticate", "", "with a URL: the field of that name with which the API refused a request")
	f.BoolVarP(&l.yes, "yes", "y", false, "with a URL: trust the server that is found, do not ask")
	a.outputFlag(c, "text", "json")
	return c
}

// run leads a person through the login.
func (l *login) run(ctx context.Context) (done *api.LoginResponseDone, err error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // whatever failed because of it
		}
	}()
	if l.stream, err = l.client.Open(ctx, api.MethodLogin); err != nil {
		return nil, err
	}
	defer func() { _ = l.stream.Close() }()
	defer l.restore()
	if err := l.stream.Send(&api.LoginRequest{Start: &l.start}); err != nil {
		return nil, err
	}

	type received struct {
		event api.LoginResponse
		err   error
	}
	events := make(chan received)
	go func() {
		for {
			var r received
			r.err = l.stream.Recv(&r.event)
			select {
			case events <- r:
			case <-ctx.Done():
				return
			}
			if r.err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case r := <-events:
			if errors.Is(r.err, io.EOF) {
				r.err = errors.New("tokend ended the login without saying what came of it")
			}
			if r.err != nil {
				return nil, r.err
			}
			if r.event.Done != nil {
				return r.event.Done, nil
			}
			if err := l.handle(ctx, &r.event); err != nil {
				return nil, err
			}
		case pasted := <-l.pasted:
			if pasted.err != nil {
				l.pasted = nil // the listener still runs
				continue
			}
			l.pasted = nextLine()
			if address := typed(pasted.text); address != "" {
				_ = l.stream.Send(&api.LoginRequest{Redirection: &api.LoginRequestRedirection{Url: address}}) // if this fails, Recv says why
			}
		case err := <-l.browser:
			l.browser = nil
			if err != nil {
				note("%s: no browser was opened (%v): open the address yourself", l.name, err)
			}
		case <-tick.C:
			l.countdown()
		}
	}
}

func (l *login) handle(ctx context.Context, e *api.LoginResponse) error {
	switch {
	case e.ServerFound != nil:
		return l.confirmServer(ctx, e.ServerFound)
	case e.InitialAccessTokenNeeded != nil:
		token, err := l.initialAccessToken(ctx, e.InitialAccessTokenNeeded)
		if err != nil {
			return err
		}
		_ = l.stream.Send(&api.LoginRequest{InitialAccessToken: &api.LoginRequestInitialAccessToken{Token: token}})
	case e.OpenUrl != nil:
		return l.openURL(e.OpenUrl.Url)
	case e.ShowCode != nil:
		l.showCode(e.ShowCode)
	case e.Notice != nil:
		l.clearCountdown()
		note("%s: %s", l.name, e.Notice.Message)
		l.countdown()
	}
	return nil
}

// confirmServer shows the server that is going to be trusted, and asks.
func (l *login) confirmServer(ctx context.Context, s *api.LoginResponseServerFound) error {
	l.name = s.Profile
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, oneLine(value)) }
	row("API", s.Resource)
	row("login server", s.Issuer)
	if s.AuthorizationEndpoint != "" {
		row("login page", s.AuthorizationEndpoint)
	}
	elsewhere := func(endpoint string) bool {
		return endpoint != "" && hostOf(endpoint) != hostOf(s.AuthorizationEndpoint)
	}
	if elsewhere(s.TokenEndpoint) {
		row("tokens from", s.TokenEndpoint)
	}
	switch {
	case elsewhere(s.RegistrationEndpoint):
		row("client", "a new one is registered at "+s.RegistrationEndpoint)
	case s.Registers:
		row("client", "a new one is registered there")
	}
	if len(s.Scopes) > 0 {
		row("scopes", strings.Join(s.Scopes, " "))
	}
	written := " is written"
	if l.start.Replace {
		written += ", in place of the one that may be there"
	}
	row("profile", s.Profile+written)
	w.Flush()
	fmt.Fprint(os.Stderr, b.String())
	accepted := l.yes
	if !accepted {
		if !isTerminal(os.Stdin) {
			return &problem{Exit: exitUsage, Profile: l.name, Message: "standard input is not a terminal to ask on", Fix: "add --yes to trust " + s.Issuer}
		}
		var err error
		// Whatever a server has filled the screen with, this is what counts.
		question := "Trust " + hostOf(s.Issuer)
		if page := hostOf(s.AuthorizationEndpoint); page != hostOf(s.Issuer) {
			question += ", with the login page of " + page
		}
		if accepted, err = confirm(ctx, question+"?"); err != nil {
			return err
		}
	}
	_ = l.stream.Send(&api.LoginRequest{Confirmation: &api.LoginRequestConfirmation{Accepted: accepted}})
	if !accepted {
		return &problem{Exit: exitDenied, Profile: l.name, Message: "the server is not trusted: nothing was written"}
	}
	return nil
}

func (l *login) initialAccessToken(ctx context.Context, e *api.LoginResponseInitialAccessTokenNeeded) (string, error) {
	if l.token != "" {
		return l.token, nil
	}
	const needs = "the server registers nobody without an initial access token"
	if !isTerminal(os.Stdin) {
		return "", &problem{Exit: exitUsage, Profile: l.name, Message: needs, Fix: "add --token-file FILE"}
	}
	note("%s: %s; it is sent to %s", l.name, needs, e.RegistrationEndpoint)
	token, err := askSecret(ctx, "Initial access token:")
	if token = strings.TrimSpace(token); token == "" && (err == nil || errors.Is(err, io.EOF)) {
		err = &problem{Exit: exitUsage, Profile: l.name, Message: needs}
	}
	return token, err
}

func (l *login) openURL(address string) error {
	var commands [][]string
	if !l.noBrowser && openable(address) {
		commands = browsers(address)
	}
	if len(commands) > 0 {
		note("%s: a browser is being opened to log in, at this address:", l.name)
	} else {
		note("%s: to log in, open this address in a browser:", l.name)
	}
	fmt.Fprintf(os.Stderr, "\n%s\n\n", oneLine(address))
	if !l.noBrowser && !openable(address) {
		note("%s: it is not opened for you, being neither https nor on this machine: look at it first", l.name)
	}
	if len(commands) > 0 {
		done := make(chan error, 1)
		l.browser = done
		go func() { done <- browse(commands) }()
	}
	terminal := isTerminal(os.Stdin)
	if l.pasted != nil || !terminal && !l.noBrowser {
		return nil
	}
	if terminal {
		// Line by line a terminal takes no more than 1024 bytes on macOS, which
		// an address with a code in it may well exceed.
		var err error
		if l.canonical, err = withoutMode(os.Stdin, unix.ICANON); err != nil {
			return err
		}
		note("%s: waiting. If the browser ends at a page that cannot be reached, paste its address here and press Enter.", l.name)
	}
	l.pasted = nextLine()
	return nil
}

// typed does what a terminal's line editing would have done: erase, and kill.
func typed(s string) string {
	var b []rune
	for _, r := range s {
		switch {
		case r == '\b' || r == '\x7f':
			b = b[:max(0, len(b)-1)]
		case r == 'U'-'@':
			b = nil
		case r >= ' ':
			b = append(b, r)
		}
	}
	return strings.TrimSpace(string(b))
}

func (l *login) showCode(e *api.LoginResponseShowCode) {
	l.clearCountdown()
	note("%s: open this address in any browser, here or elsewhere:", l.name)
	fmt.Fprintf(os.Stderr, "\n%s\n\n", oneLine(e.VerificationUrl))
	if isTerminal(os.Stderr) {
		text := e.VerificationUrlComplete
		if text == "" {
			text = e.VerificationUrl
		}
		if openable(text) {
			if code := qrCode(os.Stderr, text); code != "" {
				fmt.Fprintln(os.Stderr, code)
			}
		}
	}
	note("%s: and type this code there:", l.name)
	fmt.Fprintf(os.Stderr, "\n    %s\n\n", oneLine(e.UserCode))
	l.expires = e.ExpiresAt
	l.countdown()
}

// countdown says on a terminal how long the code is good for, on one line that
// always has the same length, so that it overwrites itself on any terminal.
func (l *login) countdown() {
	if l.expires.IsZero() || !isTerminal(os.Stderr) {
		return
	}
	left := max(0, min(time.Until(l.expires).Round(time.Second), 99*time.Minute+59*time.Second))
	s := fmt.Sprintf("waiting: %02d:%02d left ", int(left/time.Minute), int(left%time.Minute/time.Second))
	if s != l.left {
		l.left = s
		fmt.Fprint(os.Stderr, "\r"+s)
	}
}

func (l *login) clearCountdown() {
	if l.left != "" {
		fmt.Fprint(os.Stderr, "\r"+strings.Repeat(" ", len(l.left)+len("^C"))+"\r")
		l.left = ""
	}
}

// restore leaves the terminal as it was.
func (l *login) restore() {
	l.clearCountdown()
	if l.canonical != nil {
		l.canonical()
	}
}

// diagnose says what to do next where that is another thing for a login than
// for other commands.
func (l *login) diagnose(err error) error {
	var call *client.Error
	if !errors.As(err, &call) {
		return err
	}
	p := diagnoseCall(call)
	switch call.Reason {
	case api.ReasonAlreadyExists:
		p.Fix = "choose another name: --as NAME"
		if l.isURL && call.Metadata["suggestion"] == "" && p.Profile != "" {
			p.Fix = "run: tokenctl login " + p.Profile + ", or add --replace or --as NAME"
		}
	case api.ReasonThrottled, api.ReasonProviderDown:
		if p.RetryAfter <= 1 {
			p.Fix = "try again later"
		}
	case api.ReasonClientRefused:
		if l.isURL {
			p.Fix = ""
			switch {
			case l.start.ClientId != "":
				p.Fix = "check --client-id and --client-secret-file"
			case l.token != "":
				p.Fix = "check --token-file"
			}
		}
	case api.ReasonRequestRefused:
		if l.isURL || len(l.start.Scopes) > 0 || p.OAuthError == "" {
			p.Fix = ""
			if p.OAuthError == "invalid_scope" {
				p.Fix = "check --scope"
			}
		}
	case api.ReasonDenied, api.ReasonLoginRequired:
		p.Fix = "try again"
		if !l.isURL {
			p.Fix = "to try again: tokenctl login " + l.name
		}
	case api.ReasonProfileInvalid:
		if l.isURL {
			p.Fix = "" // it was not written
		}
	}
	return &p
}

type loginJSON struct {
	Profile       string   `json:"profile"`
	Scopes        []string `json:"scopes"`
	MissingScopes []string `json:"missing_scopes"`
	ExpiresAt     string   `json:"expires_at,omitempty"`
	ExpiresAtUnix int64    `json:"expires_at_unix,omitempty"`
	Renewable     bool     `json:"renewable"`
	Warning       string   `json:"warning,omitempty"`
}

// finish trusts the profile that was written, and says what came of the login.
func (l *login) finish(d *api.LoginResponseDone) error {
	if l.isURL {
		if err := addTrust(d.Trust); err != nil {
			return err
		}
	}
	if len(d.MissingScopes) > 0 {
		note("%s: warning: not granted: %s", d.Profile, strings.Join(d.MissingScopes, " "))
	}
	if d.Warning != "" {
		note("%s: warning: %s", d.Profile, d.Warning)
	}
	if l.output == "json" {
		out := loginJSON{
			Profile: d.Profile, Scopes: listed(d.Scopes), MissingScopes: listed(d.MissingScopes),
			Renewable: d.Renewable, Warning: d.Warning,
		}
		if !d.ExpiresAt.IsZero() {
			out.ExpiresAt, out.ExpiresAtUnix = d.ExpiresAt.UTC().Format(time.RFC3339), d.ExpiresAt.Unix()
		}
		return sayJSON(out)
	}
	until := "until the server refuses it"
	if !d.ExpiresAt.IsZero() {
		until = "until " + moment(d.ExpiresAt)
	}
	then := "renewed without you"
	if !d.Renewable {
		then = "then a new login is needed"
	}
	return say("%s\n", oneLine(fmt.Sprintf("%s: logged in; token good %s, %s", d.Profile, until, then)))
}

// moment is a time for a person, in this machine's zone.
func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

// maxSecret is the size of the largest secret taken from a file, in bytes.
const maxSecret = 16 << 10

// secretIn returns what is in a file, without the white space around it.
func secretIn(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", &problem{Exit: exitUsage, Message: file + " is longer than 16 KiB"}
	}
	secret := strings.TrimSpace(string(b))
	if secret == "" {
		return "", &problem{Exit: exitUsage, Message: file + " is empty"}
	}
	return secret, nil
}
