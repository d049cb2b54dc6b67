package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"tokend/client"
	"tokend/client/api"
)

// How tokenctl talks to people:
//
//   - Stdout is the answer, for people and scripts alike. All else is stderr.
//   - A failure is one line on stderr, "tokenctl: [PROFILE:] cause; what to do
//     next", and nothing on stdout. With -o json it is one JSON object.
//   - The exit status says the reason; see exitCodes.
//   - What came from a server, a file or a profile is made printable first.
//   - Questions are asked on a terminal only; each has a flag that answers it.

const (
	exitFailed   = 1
	exitUsage    = 2
	exitNoOne    = 3 // no daemon
	exitNotFound = 6
	exitDenied   = 7
	exitNotNow   = 75
	exitConfig   = 78
	exitStopped  = 130
)

// exitCodes is SPEC 6's table.
var exitCodes = map[api.Reason]int{
	api.ReasonLoginRequired:    4,
	api.ReasonLocked:           5,
	api.ReasonNotInitialized:   78,
	api.ReasonProfileNotFound:  6,
	api.ReasonUntrusted:        7,
	api.ReasonDenied:           7,
	api.ReasonClientRefused:    8,
	api.ReasonRequestRefused:   8,
	api.ReasonMinValidUnmet:    8,
	api.ReasonThrottled:        75,
	api.ReasonProviderDown:     75,
	api.ReasonStoreUnavailable: 75,
	api.ReasonProfileInvalid:   78,
	api.ReasonSettingsInvalid:  78,
	api.ReasonVersionChanged:   1,
	api.ReasonRequestInvalid:   2,
	api.ReasonAlreadyExists:    1,
}

// exitCode is never 0: a reason that is not in the table is a newer daemon's.
func exitCode(r api.Reason) int { return cmp.Or(exitCodes[r], exitFailed) }

func usageError(c *cobra.Command, message string) error {
	return &problem{Exit: exitUsage, Message: message, Fix: "see: " + c.CommandPath() + " --help"}
}

// problem is a failure as it is shown. It is the error of what tokenctl itself
// has to say, too.
type problem struct {
	Reason     string `json:"reason,omitempty"`
	Exit       int    `json:"exit"`
	Profile    string `json:"profile,omitempty"`
	Message    string `json:"message"`
	Line       string `json:"line,omitempty"`
	Variable   string `json:"variable,omitempty"`
	OAuthError string `json:"oauth_error,omitempty"`
	HTTPStatus string `json:"http_status,omitempty"`
	Transient  bool   `json:"transient"`
	RetryAfter int64  `json:"retry_after,omitempty"` // seconds
	Fix        string `json:"fix,omitempty"`
}

func (p *problem) Error() string { return p.Message }

// line is the failure for a person: whose it is, the cause, what to do next.
func (p *problem) line() string {
	line := p.Message
	if p.Profile != "" {
		line = p.Profile + ": " + withoutName(line, p.Profile)
	}
	if p.Fix != "" {
		line += "; " + p.Fix
	}
	return line
}

// withoutName takes from a store's message what it was doing to which profile, for
// a line that begins with that name.
func withoutName(message, profile string) string {
	doing, why, found := strings.Cut(message, " "+strconv.Quote(profile)+": ")
	if found && !strings.ContainsAny(doing, ":;") {
		return why
	}
	return message
}

// needsBus says whether a daemon that is started from here would find the session
// bus that this one has missed.
func needsBus(e *client.Error) bool {
	return e.Metadata["cause"] == "no_session_bus" && os.Getenv("DBUS_SESSION_BUS_ADDRESS") != ""
}

// answered is the error of a command whose answer says already what is wrong: all
// that is left is the exit status.
type answered struct{ exit int }

func (*answered) Error() string { return "the answer says what is wrong" }

// exit shows err, if any, and returns the exit status.
func (a *app) exit(err error) int {
	if err == nil {
		return 0
	}
	var said *answered
	if errors.As(err, &said) {
		return said.exit
	}
	p := diagnose(err)
	if a.output == "json" {
		b, _ := json.Marshal(p)
		fmt.Fprintf(os.Stderr, "%s\n", printableJSON(string(b)))
		return p.Exit
	}
	fmt.Fprintln(os.Stderr, oneLine("tokenctl: "+p.line()))
	return p.Exit
}

func diagnose(err error) problem {
	var call *client.Error
	var own *problem
	switch {
	case errors.As(err, &call):
		return diagnoseCall(call)
	case errors.As(err, &own):
		return *own
	case errors.As(err, new(*client.UnreachableError)):
		return problem{Exit: exitNoOne, Message: err.Error()}
	case errors.Is(err, client.ErrNotRunning):
		return problem{Exit: exitNoOne, Message: err.Error(), Transient: true, Fix: startDaemon}
	case errors.Is(err, context.Canceled):
		return problem{Exit: exitStopped, Message: "interrupted"}
	case errors.Is(err, context.DeadlineExceeded):
		return problem{Exit: exitNoOne, Message: "tokend did not answer in time", Transient: true, Fix: "see: tokenctl status"}
	}
	return problem{Exit: exitFailed, Message: err.Error()}
}

const startDaemon = "run: tokenctl daemon start"

// gRPC codes of a daemon that is stopping, and of one that does not know the call.
const (
	unavailable   = 14
	unimplemented = 12
)

// alike are the variables that are as likely to be wrong as the one named.
var alike = map[string]string{
	"PRIVATE_KEY":          "CLIENT_ID, PRIVATE_KEY, PRIVATE_KEY_ID and OAUTH2_ASSERTION_AUDIENCE",
	"TLS_CLIENT_CERT":      "CLIENT_ID and TLS_CLIENT_CERT",
	"GITHUB_APP_ID":        "GITHUB_APP_ID and PRIVATE_KEY",
	"OAUTH2_SUBJECT_TOKEN": "OAUTH2_SUBJECT_TOKEN and OAUTH2_SUBJECT_TOKEN_TYPE",
	"OAUTH2_DPOP":          "OAUTH2_GRANT, or set OAUTH2_DPOP=on",
}

// toCheck is what to look at: the variable that the daemon names, and its like,
// or what else it may be.
func toCheck(p problem, otherwise string) string {
	return cmp.Or(alike[p.Variable], p.Variable, otherwise)
}

// afterRefusal says when the server is asked again, unless something changes, and
// what to look at meanwhile.
func afterRefusal(p problem, otherwise string) string {
	check := "check " + toCheck(p, otherwise)
	if p.RetryAfter == 0 {
		return check + ": tokenctl edit " + p.Profile
	}
	again := time.Now().Add(time.Duration(p.RetryAfter) * time.Second)
	return "not asked again before " + clock(again) + "; " + check + ", then: tokenctl reset " + p.Profile
}

func nextTry(d time.Duration) string {
	return "next try in " + (time.Duration(seconds(d)) * time.Second).String()
}

// seconds rounds up, so that nobody comes back too early.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// reasonName is empty where there is no reason.
func reasonName(r api.Reason) string {
	if r == api.ReasonUnspecified {
		return ""
	}
	return r.String()
}

// inWords is the name of an enum's value for people.
func inWords(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", " ")) }

// clock is a time for a person, in this machine's zone, with the date where that is
// not today's.
func clock(t time.Time) string {
	t = t.Local()
	if t.Format(time.DateOnly) == time.Now().Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// timeJSON is a time as it stands in JSON, both ways, and nothing for none.
func timeJSON(t time.Time) (rfc3339 string, unix int64) {
	if t.IsZero() {
		return "", 0
	}
	return t.UTC().Format(time.RFC3339), t.Unix()
}

func diagnoseCall(e *client.Error) problem {
	p := problem{
		Exit:       exitFailed,
		Profile:    e.Metadata["profile"],
		Message:    e.Message,
		Line:       e.Metadata["line"],
		Variable:   e.Metadata["variable"],
		OAuthError: e.Metadata["oauth_error"],
		HTTPStatus: e.Metadata["http_status"],
		RetryAfter: seconds(e.RetryAfter),
	}
	if p.Reason = reasonName(e.Reason); p.Reason != "" {
		p.Exit = exitCode(e.Reason)
	}
	switch e.Reason {
	case api.ReasonUnspecified:
		switch e.Code {
		case unavailable:
			p.Exit, p.Transient, p.Fix = exitNoOne, true, startDaemon
		case unimplemented:
			p.Message, p.Fix = "the tokend that runs is of another version, which cannot do that", "run: tokenctl daemon restart"
		}
	case api.ReasonLoginRequired:
		p.Fix = "run: tokenctl login " + p.Profile
		if p.Variable == "OAUTH2_REFRESH_TOKEN" {
			p.Fix = "give it a new OAUTH2_REFRESH_TOKEN: tokenctl edit " + p.Profile
		}
	case api.ReasonLocked:
		p.Fix = "run: tokenctl unlock"
	case api.ReasonNotInitialized:
		p.Fix = "run: tokenctl init"
	case api.ReasonProfileNotFound:
		if s := e.Metadata["suggestion"]; s != "" {
			p.Fix = "did you mean " + s + "?"
		} else if p.Profile != "" {
			p.Fix = "run: tokenctl add " + p.Profile
		}
	case api.ReasonUntrusted:
		p.Fix = "run: tokenctl trust " + p.Profile
		if folder := e.Metadata["folder"]; folder != "" {
			p.Fix = "run: tokenctl trust " + folder
		}
	case api.ReasonDenied:
		if p.Variable != "" {
			p.Fix = "check " + p.Variable + ": tokenctl edit " + p.Profile
		}
	case api.ReasonClientRefused:
		p.Fix = afterRefusal(p, "CLIENT_ID, CLIENT_SECRET and OAUTH2_CLIENT_AUTH")
	case api.ReasonRequestRefused:
		check := "OAUTH2_SCOPE, OAUTH2_AUDIENCE and OAUTH2_RESOURCE"
		switch p.OAuthError {
		case "invalid_scope":
			check = "OAUTH2_SCOPE"
		case "invalid_target":
			check = "OAUTH2_RESOURCE and OAUTH2_AUDIENCE"
		case "unsupported_grant_type":
			check = "OAUTH2_GRANT"
		}
		p.Fix = afterRefusal(p, check)
	case api.ReasonMinValidUnmet:
		p.Fix = "ask for less, or add --best-effort"
	case api.ReasonThrottled, api.ReasonProviderDown:
		p.Transient = true
		if p.RetryAfter > 1 {
			p.Fix = nextTry(e.RetryAfter)
		} else if p.Profile != "" {
			p.Fix = "to keep trying: tokenctl get --wait 1m " + p.Profile
		}
	case api.ReasonStoreUnavailable:
		p.Transient = true
		switch cause := e.Metadata["cause"]; {
		case needsBus(e):
			p.Fix = "run: tokenctl daemon restart"
		case cause == "keyring_locked":
			p.Fix = "open it in the desktop's own program"
		case p.Profile == "" && e.Code != 0 && cause == "": // a keyring is looked at by itself the next time
			p.Fix = "then run: tokenctl reload"
		}
	case api.ReasonProfileInvalid:
		p.Fix = "run: tokenctl edit " + p.Profile
		if folder := e.Metadata["folder"]; folder != "" {
			p.Fix = "mend that file, then run: tokenctl trust " + folder
		}
	case api.ReasonAlreadyExists:
		if p.Profile != "" {
			p.Fix = "choose another name"
		}
	case api.ReasonVersionChanged:
		p.Fix = "look at it and repeat"
	}
	return p
}

// oneLine makes text safe for a terminal, on one line.
func oneLine(s string) string {
	return printable(strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", " "))
}

// printable replaces what could drive a terminal, and keeps newlines.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\x%02x", r)
		}
	}
	return b.String()
}

func note(format string, args ...any) {
	fmt.Fprintln(os.Stderr, oneLine("tokenctl: "+fmt.Sprintf(format, args...)))
}

// say writes part of the answer, and makes a failing stdout the command's
// failure.
func say(format string, args ...any) error {
	_, err := fmt.Fprintf(os.Stdout, format, args...)
	return err
}

func sayJSON(v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return say("%s", printableJSON(b.String()))
}

// printableJSON escapes what JSON allows in a string and a terminal obeys.
func printableJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, u := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, u)
		}
	}
	return b.String()
}

// maxLine is the length of the longest line taken from standard input, in bytes.
const maxLine = 32 << 10

var stdin = sync.OnceValue(func() *bufio.Reader { return bufio.NewReaderSize(os.Stdin, maxLine) })

// line is one of standard input, or why there is none.
type line struct {
	text string
	err  error
}

// nextLine reads one line in the background, so that what waits for it can
// wait for something else as well. Only one may be on its way.
func nextLine() <-chan line {
	c := make(chan line, 1)
	go func() {
		b, err := stdin().ReadSlice('\n')
		if len(b) > 0 && errors.Is(err, io.EOF) {
			err = nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = errors.New("a line of standard input is too long")
		}
		c <- line{strings.TrimRight(string(b), "\r\n"), err}
	}()
	return c
}

// ask puts a question on stderr and returns the line that answers it, or
// io.EOF.
func ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(os.Stderr, oneLine(question)+" ")
	answer, err := waitLine(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr)
	}
	return answer, err
}

// waitLine returns the next line of standard input, or io.EOF.
func waitLine(ctx context.Context) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case l := <-nextLine():
		return l.text, l.err
	}
}

// confirm asks a yes-or-no question on the terminal; no is the default.
func confirm(ctx context.Context, question string) (bool, error) {
	answer, err := ask(ctx, question+" [y/N]")
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", err
}

// askSecret is ask, on a terminal, without the answer being seen.
func askSecret(ctx context.Context, question string) (string, error) {
	restore, err := withoutMode(os.Stdin, unix.ECHO)
	if err != nil {
		return "", err
	}
	answer, err := askUnseen(ctx, question)
	if now, failed := unix.IoctlGetTermios(int(os.Stdin.Fd()), getTermios); err != nil && failed == nil {
		// Half a secret is nothing for the shell that reads next.
		_ = unix.IoctlSetTermios(int(os.Stdin.Fd()), setFlushed, now)
	}
	restore()
	if err == nil {
		fmt.Fprintln(os.Stderr) // for the newline that was not echoed
	}
	return answer, err
}

// askUnseen is ask on a terminal whose echo is off. A shell has it on while we are
// stopped, and for what follows.
func askUnseen(ctx context.Context, question string) (string, error) {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, unix.SIGCONT)
	defer signal.Stop(continued)
	answer := nextLine()
	for {
		fmt.Fprint(os.Stderr, oneLine(question)+" ")
		select {
		case <-ctx.Done():
			fmt.Fprintln(os.Stderr)
			return "", ctx.Err()
		case l := <-answer:
			if l.err != nil {
				fmt.Fprintln(os.Stderr)
			}
			return l.text, l.err
		case <-continued:
			if _, err := withoutMode(os.Stdin, unix.ECHO); err != nil {
				return "", err
			}
		}
	}
}

// withoutMode takes local modes (termios(3)) from a terminal until restore is
// called.
func withoutMode(f *os.File, modes uint32) (restore func(), err error) {
	before, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	if err != nil {
		return nil, fmt.Errorf("reading the terminal's modes: %w", err)
	}
	now := *before
	takeModes(&now, modes)
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0 // without ICANON: reading waits for a byte
	if err := unix.IoctlSetTermios(int(f.Fd()), setTermios, &now); err != nil {
		return nil, fmt.Errorf("setting the terminal's modes: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(int(f.Fd()), setTermios, before) }, nil
}

// interruptible is for commands that have something to end well when they are
// interrupted: a call, or a terminal's modes.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, unix.SIGTERM, unix.SIGQUIT}
	if !signal.Ignored(unix.SIGHUP) { // nohup(1)
		signals = append(signals, unix.SIGHUP)
	}
	return signal.NotifyContext(ctx, signals...)
}

// colours reports whether a terminal, if there is one, shows them and may.
func colours() bool {
	t := os.Getenv("TERM")
	return os.Getenv("NO_COLOR") == "" && t != "" && t != "dumb"
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// outputFlag adds -o with the forms that the command knows, the first of them
// the default.
func (a *app) outputFlag(c *cobra.Command, forms ...string) {
	a.output = forms[0]
	c.Flags().VarP(&choice{&a.output, forms}, "output", "o", "output: "+strings.Join(forms, ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
}

// choice is a flag with a fixed set of values.
type choice struct {
	value *string
	from  []string
}

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "form" }
func (c *choice) Set(s string) error {
	for _, v := range c.from {
		if v == s {
			*c.value = s
			return nil
		}
	}
	return fmt.Errorf("must be one of %s", strings.Join(c.from, ", "))
}
