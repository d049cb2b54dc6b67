package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"

	"tokend/test/authserver"
)

// TestScripts runs testdata/*.txtar, each with the real binaries in a home of
// its own. Besides testscript's own commands there are those of scriptCommands.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		Setup:              scriptSetup,
		Cmds:               scriptCommands,
		RequireUniqueNames: true,
		ContinueOnError:    true,
	})
}

var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"answer":     scriptAnswer,
	"asked":      scriptAsked,
	"authserver": scriptAuthserver,
	"await":      scriptAwait,
	"device":     scriptDevice,
	"expand":     scriptExpand,
	"fails":      scriptFails,
	"json":       scriptJSON,
	"ledger":     scriptLedger,
	"mode":       scriptMode,
	"prints":     scriptPrints,
	"release":    scriptRelease,
	"request":    scriptRequest,
	"requests":   scriptRequests,
	"says":       scriptSays,
	"seal":       scriptSeal,
	"tokenctl":   scriptTokenctl,
	"unseen":     scriptUnseen,
}

// scriptServer is the key of a script's *authserver.Server.
type scriptServer struct{}

func scriptSetup(env *testscript.Env) error {
	env.Setenv("PATH", binDir+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("TOKENCTL", filepath.Join(binDir, "tokenctl"))
	env.Setenv("GOTRACEBACK", "")
	for name, dir := range map[string]string{
		"HOME":            "home",
		"XDG_CONFIG_HOME": "home/.config",
		"XDG_DATA_HOME":   "home/.local/share",
		"XDG_STATE_HOME":  "home/.local/state",
		"XDG_RUNTIME_DIR": "run",
		"TMPDIR":          "tmp",
	} {
		path := filepath.Join(env.WorkDir, dir)
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		env.Setenv(name, path)
	}
	env.Values[scriptServer{}] = new(*authserver.Server)
	vars := env.Vars
	env.Defer(func() { scriptStopDaemons(env.T(), env.WorkDir, vars) })
	return nil
}

// scriptStopDaemons ends every daemon that has a socket below work: `daemon
// stop` answers whatever the store of the daemon.
func scriptStopDaemons(t testscript.T, work string, environ []string) {
	filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSocket {
			return nil
		}
		stop := exec.Command(filepath.Join(binDir, "tokenctl"), "--socket", path, "daemon", "stop")
		stop.Env = environ
		if out, err := stop.CombinedOutput(); err != nil {
			t.Log("stopping the daemon at", path, err, string(out))
			t.FailNow()
		}
		return nil
	})
}

// scriptTokenctl is "exec tokenctl", which must succeed:
//
//	tokenctl ARG...
func scriptTokenctl(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("use fails, which wants the exit status")
	}
	ts.Check(ts.Exec("tokenctl", args...))
}

// scriptFails runs a program that must exit with a status and print nothing
// on standard output. Where that program is tokenctl, what it says must be one
// line, or with -o json one JSON object, of printable characters.
//
//	fails [-asked] [-shows] [-answers] STATUS PROGRAM ARG...
//
// With -asked it put a yes-or-no question on standard error before, with -shows
// it said other things there before, such as the address of a login, with
// -answers it prints something all the same.
func scriptFails(ts *testscript.TestScript, neg bool, args []string) {
	var asked, shows, answers bool
	for ; len(args) > 0 && args[0][0] == '-'; args = args[1:] {
		asked = asked || args[0] == "-asked"
		shows = shows || args[0] == "-shows"
		answers = answers || args[0] == "-answers"
	}
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails [-asked] [-shows] [-answers] status program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
	if out := ts.ReadFile("stdout"); (out != "") != answers {
		ts.Fatalf("it failed, and printed %q", out)
	}
	if args[1] != "tokenctl" {
		return
	}
	said := ts.ReadFile("stderr")
	if asked {
		i := strings.LastIndex(said, "? [y/N] ")
		if i < 0 {
			ts.Fatalf("it did not ask")
		}
		said = said[i+len("? [y/N] "):]
	}
	if shows {
		i := strings.LastIndex(strings.TrimSuffix(said, "\n"), "\n")
		if i < 0 {
			ts.Fatalf("it showed nothing")
		}
		said = said[i+1:]
	}
	if err := scriptOneLine(said); err != nil {
		ts.Fatalf("%q: %v", said, err)
	}
	if scriptWantsJSON.MatchString(strings.Join(args, " ")) {
		var object map[string]any
		ts.Check(json.Unmarshal([]byte(said), &object))
	} else if !strings.HasPrefix(said, "tokenctl: ") {
		ts.Fatalf("%q does not begin with the program's name", said)
	}
}

var scriptWantsJSON = regexp.MustCompile(`(-o|--output)[ =]?json( |$)`)

func scriptOneLine(s string) error {
	line, ok := strings.CutSuffix(s, "\n")
	if !ok {
		return errors.New("no line")
	}
	if !utf8.ValidString(line) {
		return errors.New("not UTF-8")
	}
	for _, r := range line {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%q in a line for people", r)
		}
	}
	return nil
}

// scriptSays compares the line on standard error.
//
//	says WORD...
func scriptSays(ts *testscript.TestScript, neg bool, args []string) {
	scriptCompareLine(ts, "stderr", args)
}

// scriptPrints compares the line on standard output, of a command that said
// nothing on standard error.
//
//	prints WORD...
func scriptPrints(ts *testscript.TestScript, neg bool, args []string) {
	scriptCompareLine(ts, "stdout", args)
	if said := ts.ReadFile("stderr"); said != "" {
		ts.Fatalf("it said %q", said)
	}
}

func scriptCompareLine(ts *testscript.TestScript, file string, words []string) {
	got, want := ts.ReadFile(file), strings.Join(words, " ")+"\n"
	if got != want {
		ts.Fatalf("%s is\n%s, want\n%s", file, got, want)
	}
}

// scriptSeal lets the age command write a profile into the default store, from
// outside, for the store's identity or for RECIPIENT.
//
//	seal PROFILE FILE [RECIPIENT]
func scriptSeal(ts *testscript.TestScript, neg bool, args []string) {
	store := filepath.Join(ts.Getenv("XDG_DATA_HOME"), "tokend")
	var recipient string
	if len(args) == 3 {
		recipient = args[2]
	} else {
		ts.Check(ts.Exec("age-keygen", "-y", filepath.Join(store, "identity.txt")))
		recipient = strings.TrimSpace(ts.ReadFile("stdout"))
	}
	path := filepath.Join(store, "profiles", args[0]+".env.age")
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
	ts.Check(ts.Exec("age", "-r", recipient, "-o", path, ts.MkAbs(args[1])))
	ts.Check(os.Chmod(path, 0o600))
}

// scriptAuthserver starts the script's authorization server. It sets SERVER,
// ISSUER, TOKEN_URL and RESOURCE, and with TLS CA_FILE and MTLS_URL. FILE has the
// JSON of authserver.Config.
//
//	authserver [-config FILE] [-tls] [-path PATH] [ID:SECRET[:AUTH]...]
func scriptAuthserver(ts *testscript.TestScript, neg bool, args []string) {
	var cfg authserver.Config
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-tls":
			cfg.TLS = true
		case "-config":
			ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &cfg))
			args = args[1:]
		case "-path":
			cfg.Path, args = args[1], args[1:]
		default:
			ts.Fatalf("authserver has no %s", args[0])
		}
		args = args[1:]
	}
	for _, arg := range args {
		part := strings.SplitN(arg, ":", 3)
		if len(part) < 2 {
			ts.Fatalf("usage: authserver [-tls] [-path path] id:secret[:auth]...")
		}
		c := authserver.Client{ID: part[0], Secret: part[1]}
		if len(part) == 3 {
			c.Auth = part[2]
		}
		cfg.Clients = append(cfg.Clients, c)
	}
	s, err := authserver.Listen(cfg)
	ts.Check(err)
	ts.Defer(s.Close)
	ts.Setenv("SERVER", s.URL)
	ts.Setenv("MTLS_URL", s.MTLSURL)
	ts.Setenv("ISSUER", s.Issuer)
	ts.Setenv("TOKEN_URL", s.TokenURL)
	ts.Setenv("RESOURCE", s.ResourceURL)
	if s.CA != nil {
		ca := ts.MkAbs("ca.pem")
		ts.Check(os.WriteFile(ca, s.CA, 0o600))
		ts.Setenv("CA_FILE", ca)
	}
	*ts.Value(scriptServer{}).(**authserver.Server) = s
}

func scriptServerOf(ts *testscript.TestScript) *authserver.Server {
	s := *ts.Value(scriptServer{}).(**authserver.Server)
	if s == nil {
		ts.Fatalf("no authserver is running")
	}
	return s
}

// scriptAnswer says how the coming token requests are answered, one after the
// other, or with -always all that have no answer of their own.
//
//	answer [-always] JSON...
func scriptAnswer(ts *testscript.TestScript, neg bool, args []string) {
	script := scriptServerOf(ts).AnyClient()
	always := len(args) > 0 && args[0] == "-always"
	if always {
		args = args[1:]
	}
	for _, arg := range args {
		var a authserver.Answer
		ts.Check(json.Unmarshal([]byte(arg), &a))
		if always {
			script.Always(a)
		} else {
			script.Then(a)
		}
	}
}

// scriptRequests compares how many requests there were at the token endpoint, or
// to a path.
//
//	requests N [PATH]
func scriptRequests(ts *testscript.TestScript, neg bool, args []string) {
	s, path, want := scriptCountOf(ts, args)
	if got := s.Count(path); got != want {
		ts.Fatalf("%d requests to %s, want %d", got, path, want)
	}
}

func scriptCountOf(ts *testscript.TestScript, args []string) (s *authserver.Server, path string, n int) {
	if len(args) == 0 || len(args) > 2 {
		ts.Fatalf("want n [path]")
	}
	s = scriptServerOf(ts)
	path = scriptTokenPath(ts, s)
	if len(args) == 2 {
		path = args[1]
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	return s, path, n
}

func scriptTokenPath(ts *testscript.TestScript, s *authserver.Server) string {
	token, err := url.Parse(s.TokenURL)
	ts.Check(err)
	return token.Path
}

// scriptAsked compares what the server was asked since the last time, but for
// metadata, a line for each request: method, path, scheme of the Authorization
// field, "DPoP" if there is a proof, query, form and status, with a * for what may
// be secret and CLIENT for the ID of a client that was registered here. It forgets the requests, for the command requests too.
//
//	asked [LINE]...
func scriptAsked(ts *testscript.TestScript, neg bool, args []string) {
	s := scriptServerOf(ts)
	var got []string
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, "/.well-known/") {
			continue
		}
		got = append(got, scriptRequestLine(ts, r))
	}
	s.Forget()
	if !slices.Equal(got, args) {
		ts.Fatalf("the server was asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(args, "\n"))
	}
}

func scriptRequestLine(ts *testscript.TestScript, r authserver.Request) string {
	text, err := json.Marshal(r)
	ts.Check(err)
	var open struct{ Query, Form url.Values } // in JSON they have digests in place of secrets
	ts.Check(json.Unmarshal(text, &open))
	words := []string{r.Method, r.Path}
	if scheme, _, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
		words = append(words, scheme)
	}
	if r.Header.Get("DPoP") != "" {
		words = append(words, "DPoP")
	}
	for _, values := range []url.Values{open.Query, open.Form} {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			for _, v := range values[name] {
				if strings.HasPrefix(v, "sha256:") {
					v = "*"
				}
				switch {
				case name == "redirect_uri":
					v = scriptRedirectPort.ReplaceAllString(v, "${1}PORT/")
				case name == "client_id" && scriptRegistered.MatchString(v):
					v = "CLIENT"
				}
				words = append(words, name+"="+v)
			}
		}
	}
	return strings.Join(append(words, strconv.Itoa(r.Status)), " ")
}

// scriptRegistered is the ID of a client that the server has registered.
var scriptRegistered = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// scriptRedirectPort finds the port of a login's listener.
var scriptRedirectPort = regexp.MustCompile(`^(http://(?:127\.0\.0\.1|localhost|\[::1\]):)[0-9]+/`)

// scriptLedger compares a count of the server's ledger of refresh tokens.
//
//	ledger issued|spent|spent_twice|valid N [CLIENT]
func scriptLedger(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: ledger issued|spent|spent_twice|valid n [client]")
	}
	l := scriptServerOf(ts).Ledger(strings.Join(args[2:], ""))
	got, ok := map[string]int{"issued": l.Issued, "spent": l.Spent, "spent_twice": l.SpentTwice, "valid": l.Valid}[args[0]]
	if !ok {
		ts.Fatalf("the ledger has no %s", args[0])
	}
	if args[1] != strconv.Itoa(got) {
		ts.Fatalf("%d refresh tokens %s, want %s", got, args[0], args[1])
	}
}

// scriptDevice lets the person decide on the device authorization that comes
// next, as soon as its device asks for the token.
//
//	device approve|deny
func scriptDevice(ts *testscript.TestScript, neg bool, args []string) {
	s := scriptServerOf(ts)
	decide, ok := map[string]func(string) error{"approve": s.ApproveDevice, "deny": s.DenyDevice}[strings.Join(args, " ")]
	if !ok {
		ts.Fatalf("usage: device approve|deny")
	}
	path := scriptTokenPath(ts, s)
	polls := s.Count(path)
	ctx, cancel := context.WithCancel(context.Background())
	decided := make(chan error, 1)
	go func() {
		err := s.Await(ctx, path, polls+1)
		if err == nil {
			err = decide("*")
		}
		decided <- err
	}()
	ts.Defer(func() {
		cancel()
		if err := <-decided; err != nil {
			ts.Logf("deciding for the device: %v", err)
		}
	})
}

// scriptAwait waits until there were so many requests at the token endpoint, or to
// a path, answered or not.
//
//	await N [PATH]
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	s, path, n := scriptCountOf(ts, args)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ts.Check(s.Await(ctx, path, n))
}

// scriptRelease lets go what hangs.
//
//	release
func scriptRelease(ts *testscript.TestScript, neg bool, args []string) {
	scriptServerOf(ts).Release()
}

// scriptUnseen fails if a secret that the server gave or was sent stands in what
// the last command said on standard error, in a file of the home or in one of
// those named.
//
//	unseen [FILE]...
func scriptUnseen(ts *testscript.TestScript, neg bool, args []string) {
	texts := map[string]string{"standard error": ts.ReadFile("stderr")}
	for _, name := range args {
		texts[name] = ts.ReadFile(name)
	}
	for _, dir := range []string{"HOME", "XDG_RUNTIME_DIR", "TMPDIR"} {
		ts.Check(filepath.WalkDir(ts.Getenv(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			texts[path] = string(b)
			return err
		}))
	}
	secrets := scriptSecrets(scriptServerOf(ts))
	if len(secrets) == 0 {
		ts.Fatalf("there is no secret to look for")
	}
	for where, text := range texts {
		if scriptJWT.MatchString(text) {
			ts.Fatalf("%s has a JWT", where)
		}
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				ts.Fatalf("%s has the %s", where, what)
			}
		}
	}
}

// scriptJWT finds what the server's access tokens, and assertions and proofs, are.
var scriptJWT = regexp.MustCompile(`\beyJ[\w-]+\.eyJ[\w-]+\.`)

// scriptSecrets returns the secrets that the server knows of, by what they are.
func scriptSecrets(s *authserver.Server) map[string]string {
	secrets := make(map[string]string)
	for i, t := range s.Ledger("").Tokens {
		secrets[fmt.Sprintf("refresh token %d", i)] = t.Token
	}
	for i, r := range s.Requests() {
		for _, name := range []string{
			"assertion", "client_assertion", "client_secret", "code", "code_verifier", "device_code", "refresh_token",
			"subject_token", "token",
		} {
			if v := r.Form.Get(name); v != "" {
				secrets[fmt.Sprintf("%s of request %d", name, i)] = v
			}
		}
		if _, v, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
			secrets[fmt.Sprintf("Authorization of request %d", i)] = v
		}
		basic := http.Request{Header: r.Header}
		if _, password, ok := basic.BasicAuth(); ok {
			secrets[fmt.Sprintf("client secret of request %d", i)] = password
		}
	}
	return secrets
}

// scriptRequest compares the form of the last request.
//
//	request FORM
func scriptRequest(ts *testscript.TestScript, neg bool, args []string) {
	all := scriptServerOf(ts).Requests()
	if len(all) == 0 || len(args) != 1 {
		ts.Fatalf("usage: request form, after one")
	}
	if got := all[len(all)-1].Form.Encode(); got != args[0] {
		ts.Fatalf("form of the last request:\n%s, want\n%s", got, args[0])
	}
}

// scriptExpand replaces the variables in files.
//
//	expand FILE...
func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// scriptJSON reads a file that must be one JSON value, and compares a member
// of it with a value (as JSON, or else as the text of a string), or keeps it
// in a variable.
//
//	[!] json FILE MEMBER[.MEMBER]... [VALUE | -> VARIABLE]
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 4 {
		ts.Fatalf("usage: json file member [value | -> variable]")
	}
	d := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	if _, err := d.Token(); err != io.EOF {
		ts.Fatalf("more than one JSON value in %s", args[0])
	}
	found := true
	for name := range strings.SplitSeq(args[1], ".") {
		switch container := v.(type) {
		case map[string]any:
			v, found = container[name]
		case []any:
			i, err := strconv.Atoi(name)
			if found = err == nil && i < len(container); found {
				v = container[i]
			}
		default:
			found = false
		}
	}
	var text string
	if s, ok := v.(string); ok {
		text = s
	} else {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		ts.Check(e.Encode(v))
		text = strings.TrimSuffix(b.String(), "\n")
	}
	switch {
	case len(args) == 4:
		if neg || args[2] != "->" || !found {
			ts.Fatalf("no %s to keep", args[1])
		}
		ts.Setenv(args[3], text)
	case len(args) == 3 && (found && text == args[2]) == neg:
		ts.Fatalf("%s is %s", args[1], text)
	case len(args) == 2 && found == neg:
		ts.Fatalf("%s: %v", args[1], found)
	}
}

// scriptMode compares the permissions of files and folders.
//
//	mode OCTAL PATH...
func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args[1:] {
		info, err := os.Lstat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%03o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}
