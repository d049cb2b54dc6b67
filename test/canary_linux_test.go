package test

import (
	"bytes"
	"crypto/ed25519"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"tokend/client"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
	"tokend/test/keyring"
)

func init() { programs["watcher"] = watcher }

// A sight is a process as others see it.
type sight struct{ Argv, Environ string }

// watcher looks at all processes until its standard input ends, and prints each
// command line and environment once. It wants to be root, who sees all.
func watcher() error {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	out, seen, last := json.NewEncoder(os.Stdout), make(map[sight]bool), make(map[string]string)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if name := e.Name(); name[0] < '0' || name[0] > '9' {
				continue
			}
			argv, err := os.ReadFile("/proc/" + e.Name() + "/cmdline") // it may have ended
			if before, ok := last[e.Name()]; err != nil || ok && before == string(argv) {
				continue // both are given by exec
			}
			environ, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
			if now, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && !bytes.Equal(now, argv) {
				continue // the two may be of different programs: it is looked at again
			}
			last[e.Name()] = string(argv)
			if s := (sight{string(argv), string(environ)}); !seen[s] {
				seen[s] = true
				if err := out.Encode(s); err != nil {
					return err
				}
			}
		}
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
	}
}

// watchProcesses begins to look at all processes; the function that it returns
// ends that and gives what was seen.
func watchProcesses(t *testing.T) func() []sight {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := asRoot("env", "TOKEND_TEST_AS=watcher", exe)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	stop, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop.Close() })
	return func() []sight {
		t.Helper()
		stop.Close()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("watching processes: %v: %s", err, &stderr)
		}
		var all []sight
		for d := json.NewDecoder(&out); ; {
			var s sight
			err := d.Decode(&s)
			if errors.Is(err, io.EOF) {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
	}
}

// scene is a run of all commands in which every secret is known.
type scene struct {
	*home
	in      string              // folder of what the test gives to commands, and they to it
	secrets map[string][]string // by kind
	said    []said
	ran     map[string]bool
}

// said is something that a command printed.
type said struct {
	place, text string
	meant       []string // kinds of secrets that it is the command's purpose to print
}

func (s *scene) canary(kind string) string {
	v := crand.Text() + crand.Text()
	s.secrets[kind] = append(s.secrets[kind], v)
	return v
}

// file has a text where the test keeps its own.
func (s *scene) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(s.in, name)
	write(t, path, text)
	return path
}

// run runs tokenctl, which is to end with a status.
func (s *scene) run(t *testing.T, code int, stdin string, meant []string, args ...string) result {
	t.Helper()
	r := s.tokenctl(t, stdin, args...)
	if r.code != code {
		t.Errorf("tokenctl %q: %v, want status %d", args, r, code)
	}
	s.heard(args, r, meant)
	return r
}

func (s *scene) heard(args []string, r result, meant []string) {
	s.ran[args[0]] = true
	s.said = append(s.said, said{"stdout of " + args[0], r.out, meant}, said{"stderr of " + args[0], r.err, nil})
}

var anySecret = []string{"*"}

// Each secret is a canary. After a run through every command none of them, in
// whatever form, is anywhere but where it has to be.
func TestCanaries(t *testing.T) {
	t.Parallel()
	bus := keyring.Start(t)
	s := &scene{home: newHome(t), in: t.TempDir(), secrets: make(map[string][]string), ran: make(map[string]bool)}
	for _, kv := range bus.Env {
		name, value, _ := strings.Cut(kv, "=")
		s.setenv(name, value)
	}
	for _, dir := range []string{"tmp", "cwd"} {
		if err := os.Mkdir(filepath.Join(s.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.setenv("TMPDIR", filepath.Join(s.root, "tmp"))
	for _, kv := range []string{"GODEBUG=http2debug=2,gctrace=1", "GRPC_GO_LOG_SEVERITY_LEVEL=info", "GRPC_GO_LOG_VERBOSITY_LEVEL=99",
		"GOTRACEBACK=crash", "SSLKEYLOGFILE=" + filepath.Join(s.root, "tmp", "keys")} {
		name, value, _ := strings.Cut(kv, "=")
		s.setenv(name, value)
	}
	busLog := monitor(t, bus)
	processes := watchProcesses(t)

	log := s.commands(t)

	matched := s.search(t, log, processes(), busLog())
	for _, place := range slices.Sorted(maps.Keys(matched)) {
		t.Errorf("%d times %s", matched[place], place)
	}
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(s.secrets)) {
		fmt.Fprintf(&b, "\n%-28s %3d", kind, len(s.secrets[kind]))
	}
	t.Logf("matches: %d, of these secrets in %d forms each:%s", len(matched), len(needles("", strings.Repeat("x1y2", 8))), b.String())
}

// commands runs through every command, and returns the daemons' logs.
func (s *scene) commands(t *testing.T) (log string) {
	key, numbers, public := newSigningKey(t)
	s.secrets["private key"] = numbers
	for _, line := range strings.Split(key, "\n") {
		if len(line) == 64 {
			s.secrets["private key"] = append(s.secrets["private key"], line)
		}
	}
	now, next := s.canary("client secret"), s.canary("next client secret")
	machine := authserver.Client{ID: "machine", Secret: now, Opaque: true}
	signer := authserver.Client{ID: "signer", Auth: authserver.AuthPrivateKeyJWT, JWKS: public, Opaque: true}
	person := authserver.Client{ID: "person", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}, Opaque: true}
	password, initial := s.canary("registration password"), s.canary("initial access token")
	server := authserver.Start(t, authserver.Config{
		Clients: []authserver.Client{machine, signer, person}, Users: map[string]string{"alice": password},
		Registration: true, RegistrationToken: initial, DeviceInterval: time.Second,
	})
	token := []string{"access token"}
	note := "NOTE=" + s.canary("text") + "\n"
	text := profileOf(server, machine) + "API_URL=" + server.URL + "\n" + note

	wrong := s.file(t, "passphrase", s.canary("passphrase")+"\n")
	answer := s.file(t, "answer", s.canary("passphrase")+"\n")
	words := s.canary("passphrase of an SSH key")
	s.setenv("TOKEND_ASKPASS", s.file(t, "askpass", "#!/bin/sh\ncase $1 in *SSH*) cat '"+s.file(t, "words", words+"\n")+"' ;; *) cat '"+answer+"' ;; esac\n"))
	s.setenv("EDITOR", s.file(t, "editor", "#!/bin/sh\necho '# edited' >>\"$1\"\n"))
	for _, name := range []string{"askpass", "editor"} {
		if err := os.Chmod(filepath.Join(s.in, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	planted := s.canary("planted in the log")
	d := s.loudTokend(t, planted)
	called := s.listen(t)

	// The identity and its protections. Each key that is derived from a passphrase
	// takes a second.
	s.run(t, 0, "", nil, "init")
	s.secrets["identity"] = identityIn(t, s.status(t).IdentityFile)
	s.run(t, 0, "", nil, "protect", "--passphrase")
	s.run(t, 0, "", nil, "lock")
	s.run(t, 7, "", nil, "unlock", "--passphrase-file", wrong)
	s.run(t, 0, "", nil, "unlock", "--passphrase-file", answer)

	// Profiles.
	s.run(t, 0, text, nil, "add", "machine")
	edit := finish(t, s.command("script", "-qec", filepath.Join(s.bin, "tokenctl")+" edit machine", "/dev/null"))
	if s.heard([]string{"edit"}, edit, nil); edit.code != 0 {
		t.Errorf("edit: %v", edit)
	}
	s.run(t, 0, text+"CLIENT_SECRET_NEXT="+next+"\n", nil, "edit", "machine")
	s.run(t, 78, "OAUTH2_TOKEN_URL="+server.TokenURL+"\nCLIENT_ID=x\nCLIENT_SECRET='"+now+"\n", nil, "add", "wrong")
	s.run(t, 78, "CLIENT_SECRETS="+now+"\nOAUTH2_NONSENSE="+now+"\n", nil, "add", "wrong")
	s.run(t, 0, lines("OAUTH2_TOKEN_URL="+server.TokenURL, "OAUTH2_ASSERTION_AUDIENCE="+server.Issuer, "CLIENT_ID=signer", "PRIVATE_KEY='"+key+"'"), nil, "add", "signer")
	s.run(t, 0, lines("OAUTH2_TOKEN_URL="+server.TokenURL, "CLIENT_ID=machine",
		"CLIENT_SECRET_COMMAND=cat "+s.file(t, "value", now)), nil, "add", "command")
	s.run(t, 0, lines("OAUTH2_TOKEN_URL=https://example.invalid/token", "CLIENT_ID=machine", "CLIENT_SECRET="+now,
		"OAUTH2_PROXY=http://me:"+s.canary("proxy password")+"@127.0.0.1:1"), nil, "add", "proxy")
	s.run(t, 0, "", nil, "list", "-o", "json")
	s.run(t, 0, "", nil, "show", "machine")
	s.run(t, 0, "", nil, "show", "signer")
	s.run(t, 0, "", nil, "show", "proxy")
	s.run(t, 0, "", anySecret, "show", "--reveal", "machine")
	s.run(t, 0, "", nil, "trust", "--yes", "machine")
	s.run(t, 0, "", nil, "mv", "machine", "dev/machine")

	// Tokens.
	got := func(meant []string, args ...string) string {
		t.Helper()
		out := strings.TrimSpace(s.run(t, 0, "", meant, args...).out)
		if args[0] == "get" && len(args) == 2 {
			s.secrets["access token"] = append(s.secrets["access token"], out)
		}
		return out
	}
	live := got(token, "get", "dev/machine")
	got(token, "get", "signer")
	got(token, "get", "command")
	got(token, "get", "-o", "json", "dev/machine")
	s.run(t, 75, "", nil, "get", "proxy")
	server.AnyClient().Then(authserver.Answer{EchoSecret: true})
	s.run(t, 8, "", nil, "get", "--scope", "echo", "dev/machine")
	s.run(t, 0, "", nil, "reset", "dev/machine")
	got(anySecret, "env", "dev/machine")
	got(nil, "env", "--unset", "dev/machine")
	// The child has what it asked for in its environment.
	got(nil, "exec", "dev/machine", "-e", "TOKEN", "--", "sh", "-c", "while [ ${#x} -lt 3000 ]; do x=x$x; done", childOfExec)
	got(token, "curl", "dev/machine", "--", "-s", "-i", server.ResourceURL)
	got(nil, "inspect", "-o", "json", "dev/machine")
	s.run(t, 0, live+"\n", nil, "report", "dev/machine")
	s.watch(t, "dev/machine")
	got(nil, "explain", "dev/machine")
	got(nil, "explain", "--live", "signer")
	got(nil, "status", "-o", "json")
	got(nil, "doctor")
	got(nil, "events", "--recent", "--count", "3")
	got(nil, "version")
	got(nil, "reload")
	got(nil, "completion", "bash")

	// Logins, with DPoP; one by a code to type.
	web := lines("OAUTH2_GRANT=authorization_code", "OAUTH2_TOKEN_URL="+server.TokenURL, "OAUTH2_AUTH_URL="+server.Issuer+"/authorize",
		"OAUTH2_DEVICE_URL="+server.Issuer+"/device_authorization", "OAUTH2_REVOCATION_URL="+server.Issuer+"/revoke", "CLIENT_ID=person", "OAUTH2_DPOP=on", "OAUTH2_SCOPE='openid a b c'")
	s.run(t, 0, web, nil, "add", "me")
	logIn := func(l *login) {
		t.Helper()
		visit(t, l.address(t))
		r := l.ends(t)
		s.heard([]string{"login"}, r, nil)
		if r.code != 0 {
			t.Errorf("login: %v", r)
		}
	}
	logIn(s.login(t, "--no-browser", "me"))
	for _, scope := range []string{"a", "b", "c"} {
		got(token, "get", "me", "--scope", scope)
	}
	got(token, "get", "me")
	got(nil, "proof", "me", "GET", "https://api.example.com/")
	s.dpopKeys(t)
	got(nil, "logout", "me")
	l := s.login(t, "--device", "me")
	code, err := url.Parse(l.code(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ApproveDevice(code.Query().Get("user_code")); err != nil {
		t.Fatal(err)
	}
	s.heard([]string{"login"}, l.ends(t), nil)
	got(token, "get", "me")
	got(nil, "revoke", "me")
	api := s.login(t, "--no-browser", "--yes", "--as", "api", "--token-file", s.file(t, "initial", initial), server.ResourceURL)
	logIn(api)
	got(token, "get", "api")
	s.run(t, 0, "alice\n"+password+"\n", nil, "register", server.Issuer+"/v1/register", "--as", "signup", "--token-url", server.TokenURL)
	got(token, "get", "signup")

	// Trees, SSH keys, the keyring.
	write(t, filepath.Join(s.in, "tree", "imported.env"), text)
	got(nil, "import", filepath.Join(s.in, "tree"))
	got(nil, "export", "--yes", "--plain", "--to", filepath.Join(s.in, "exported"))
	got(nil, "export", "--to", filepath.Join(s.in, "sealed"))
	status := s.status(t)
	write(t, filepath.Join(status.ProfilesDir, ".age-recipients"), status.Recipient+"\n")
	got(nil, "trust", "--yes", "/")
	got(nil, "rekey")
	got(nil, "rm", "--yes", "imported")
	sshKey := filepath.Join(s.in, "ssh")
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(words))
	if err != nil {
		t.Fatal(err)
	}
	write(t, sshKey, string(pem.EncodeToMemory(block)))
	s.secrets["SSH key"] = []string{string(private.Seed())}
	s.setenv("TOKEND_SSH_KEY", sshKey)
	got(nil, "protect", "--ssh", sshKey)
	got(nil, "lock")
	got(nil, "unlock")
	got(nil, "protect", "--keyring")
	got(nil, "migrate", "keyring")
	got(nil, "daemon", "stop")
	d.cmd.Wait()
	s.setenv("TOKEND_STORE", "keyring")
	again := s.loudTokend(t, planted)
	s.run(t, 0, "", token, "get", "dev/machine")
	got(token, "get", "signup")

	// What the server has seen, and given.
	for _, r := range server.Requests() {
		for name, kind := range map[string]string{"code": "code", "code_verifier": "verifier", "client_assertion": "assertion", "device_code": "device code", "client_secret": "client secret"} {
			s.secrets[kind] = append(s.secrets[kind], r.Form[name]...)
		}
		if _, basic, ok := strings.Cut(r.Header.Get("Authorization"), "Basic "); ok {
			if pair, err := base64.StdEncoding.DecodeString(basic); err == nil {
				_, v, _ := strings.Cut(string(pair), ":")
				s.secrets["client secret"] = append(s.secrets["client secret"], v)
			}
		}
	}
	for _, line := range server.Ledger("").Tokens {
		s.secrets["refresh token"] = append(s.secrets["refresh token"], line.Token)
	}
	for kind, values := range s.secrets {
		slices.Sort(values)
		s.secrets[kind] = slices.DeleteFunc(slices.Compact(values), func(v string) bool { return len(v) < shortest })
	}
	for _, kind := range []string{"code", "verifier", "assertion", "device code", "refresh token", "DPoP key", "access token"} {
		if len(s.secrets[kind]) == 0 {
			t.Errorf("there was no %s", kind)
		}
	}

	// Its end, as dirty as it gets.
	if err := again.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	_ = again.cmd.Wait()
	log = d.stderr.String() + again.stderr.String()
	if strings.Count(log, planted) != 2 || !strings.Contains(log, "SIGQUIT") || !strings.Contains(log, "[core]") {
		t.Errorf("the log is not what it should be:\n%s", log)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+) {2,}\S`).FindAllStringSubmatch(s.run(t, 0, "", nil, "--help").out, -1) {
		names = append(names, m[1])
	}
	for _, name := range names {
		if !s.ran[name] && name != "help" {
			t.Errorf("tokenctl %s was not run", name)
		}
	}
	if len(names) < 20 {
		t.Errorf("the commands are %q", names)
	}
	heard := called()
	for _, service := range []grpc.ServiceDesc{tokendv1grpc.TokenService_ServiceDesc, tokendv1grpc.ProfileService_ServiceDesc, tokendv1grpc.DaemonService_ServiceDesc} {
		var methods []string
		for _, m := range service.Methods {
			methods = append(methods, m.MethodName)
		}
		for _, m := range service.Streams {
			methods = append(methods, m.StreamName)
		}
		for _, m := range methods {
			if !bytes.Contains(heard, hpack.AppendHuffmanString(nil, "/"+service.ServiceName+"/"+m)) {
				t.Errorf("%s was not called", m)
			}
		}
	}
	return log
}

// watch waits for a profile's token, as an editor does.
func (s *scene) watch(t *testing.T, profile string) {
	t.Helper()
	status := s.status(t)
	c := client.Client{Socket: status.Socket, Dir: filepath.Dir(status.ProfilesDir)}
	for _, kv := range s.env {
		if socket, ok := strings.CutPrefix(kv, "TOKEND_SOCKET="); ok {
			c.Socket = socket
		}
	}
	for change, err := range c.Watch(t.Context(), client.TokenRequest{Profile: profile}) {
		if err != nil || change.Token == nil || change.Token.AccessToken == "" {
			t.Errorf("watching %s: %v, %v", profile, change.Err, err)
		}
		break
	}
}

// listen has all commands call the daemon through a socket of the test's own. The
// function that it returns gives what they have sent.
func (s *scene) listen(t *testing.T) func() []byte {
	t.Helper()
	to := s.status(t).Socket
	l, err := net.Listen("unix", filepath.Join(filepath.Dir(to), "listening"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.Addr().String(), 0o600); err != nil {
		t.Fatal(err)
	}
	sent := new(output)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { l.Close() })
	serving.Go(func() {
		for {
			caller, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer caller.Close()
				d, err := net.Dial("unix", to)
				if err != nil {
					return
				}
				defer d.Close()
				go func() {
					_, _ = io.Copy(caller, d)
					caller.Close()
				}()
				_, _ = io.Copy(io.MultiWriter(d, sent), caller)
			})
		}
	})
	s.setenv("TOKEND_SOCKET", l.Addr().String())
	return func() []byte { return []byte(sent.String()) }
}

// childOfExec marks the one process that has secrets in its environment because
// it is to have them.
const childOfExec = "the-child-of-exec"

// loudTokend starts a daemon that logs as much as it can, may dump core, and has
// a canary in its log.
func (s *scene) loudTokend(t *testing.T, planted string) *tokend {
	t.Helper()
	cmd := s.command("sh", "-c", `echo "$1" >&2; ulimit -c $(ulimit -H -c); unset TOKEND_SOCKET; exec "$0" --ready-fd 3`, filepath.Join(s.bin, "tokend"), planted)
	cmd.Dir = filepath.Join(s.root, "cwd")
	d := startTokend(t, cmd)
	if !strings.HasPrefix(d.ready, "ready ") {
		t.Fatalf("%q: %s", d.ready, d.stderr)
	}
	return d
}

// dpopKeys reads the keys of the sessions, which no call gives.
func (s *scene) dpopKeys(t *testing.T) {
	t.Helper()
	var identity age.Identity
	for _, v := range s.secrets["identity"] {
		if id, err := age.ParseX25519Identity("AGE-SECRET-KEY-1" + v); err == nil {
			identity = id
		}
	}
	err := filepath.WalkDir(filepath.Join(s.dir, ".local/state/tokend/sessions"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r, err := age.Decrypt(f, identity)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		record, err := io.ReadAll(r)
		for _, m := range regexp.MustCompile(`\\"d\\":\\"([\w-]{40,})\\"`).FindAllStringSubmatch(string(record), -1) {
			raw, _ := base64.RawURLEncoding.DecodeString(m[1])
			s.secrets["DPoP key"] = append(s.secrets["DPoP key"], m[1], string(raw))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// monitor records what goes over a session bus until the function that it returns
// is called.
func monitor(t *testing.T, bus *keyring.Session) func() []byte {
	t.Helper()
	cmd := exec.Command("dbus-monitor", "--session", "--binary")
	cmd.Env = append(os.Environ(), bus.Env...)
	out := new(output)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	waitFor(t, "dbus-monitor", func() bool { return out.String() != "" })
	return func() []byte {
		cmd.Process.Kill()
		cmd.Wait()
		return []byte(out.String())
	}
}

// throughTheKeyring are the secrets that go over the bus in clear, because
// go-keyring knows no other way: the identity, and the texts of profiles.
var throughTheKeyring = []string{"identity", "client secret", "next client secret", "text", "private key", "proxy password"}

// search looks for all secrets everywhere, and for itself first.
func (s *scene) search(t *testing.T, log string, processes []sight, busLog []byte) matches {
	t.Helper()
	var all []needle
	for kind, values := range s.secrets {
		for _, v := range values {
			all = append(all, needles(kind, v)...)
		}
	}
	h := newHaystack(all)
	found := make(matches)

	in := func(place string, data []byte, meant []string) {
		h.find(data, func(i, _ int) {
			kind := all[i].Kind
			if kind != "planted in the log" && !slices.Contains(meant, kind) && !slices.Contains(meant, "*") {
				found[place+": "+kind+", "+all[i].Form]++
			}
		})
	}
	in("log", []byte(log), nil)
	printed := 0
	for _, said := range s.said {
		in(said.place, []byte(said.text), said.meant)
		if said.meant != nil {
			h.find([]byte(said.text), func(int, int) { printed++ })
		}
	}
	if printed < 10 {
		t.Errorf("what is meant to be printed is found %d times", printed)
	}
	seen := 0
	for _, p := range processes {
		in("a command line: "+strings.ReplaceAll(p.Argv, "\x00", " "), []byte(p.Argv), nil)
		meant := []string(nil)
		if strings.Contains(p.Argv, childOfExec) {
			h.find([]byte(p.Environ), func(int, int) { seen++ })
			meant = anySecret
		}
		in("the environment of "+strings.ReplaceAll(p.Argv, "\x00", " "), []byte(p.Environ), meant)
	}
	if seen == 0 {
		t.Error("the child of exec was not seen with what it asked for")
	}
	over := make(map[string]bool)
	h.find(busLog, func(i, _ int) { over[all[i].Kind] = true })
	in("the session bus", busLog, throughTheKeyring)
	if !over["identity"] || !over["text"] {
		t.Errorf("what goes over the bus was not seen there: %v", over)
	}
	if err := found.inTree(h, s.root, func(path string) bool { return path == s.bin || strings.HasPrefix(path, s.bin+"/") }); err != nil {
		t.Error(err)
	}
	return found
}

// The search finds what is there: each form in a file, a command line, an
// environment, and a core.
func TestCanariesAreFound(t *testing.T) {
	t.Parallel()
	secret, dir := crand.Text()+crand.Text(), t.TempDir()
	all := needles("canary", secret)
	h := newHaystack(all)
	for i, n := range all {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), slices.Concat([]byte("before "), n.Bytes, []byte(" after")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := make(matches)
	if err := found.inTree(h, dir, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	for i, n := range all {
		if at := fmt.Sprintf("%s/%d: canary, %s", dir, i, n.Form); found[at] != 1 {
			t.Errorf("%s: found %d times", at, found[at])
		}
	}
	// Within something longer that is encoded as a whole.
	for before := range 4 {
		longer := strings.Repeat("x", before) + secret + "yz"
		for _, encoded := range []string{base64.StdEncoding.EncodeToString([]byte(longer)), base64.URLEncoding.EncodeToString([]byte(longer)), fmt.Sprintf("%x", longer)} {
			n := 0
			h.find([]byte(encoded), func(int, int) { n++ })
			if n == 0 {
				t.Errorf("not found in %s", encoded)
			}
		}
	}

	processes := watchProcesses(t)
	in := exec.Command("sh", "-c", "sleep 0.2; exit 0", secret)
	around := exec.Command("sh", "-c", "sleep 0.2; exit 0")
	around.Env = append(os.Environ(), "CANARY="+secret)
	for _, cmd := range []*exec.Cmd{in, around} {
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
	argv, environ := 0, 0
	for _, p := range processes() {
		h.find([]byte(p.Argv), func(int, int) { argv++ })
		h.find([]byte(p.Environ), func(int, int) { environ++ })
	}
	if argv == 0 || environ == 0 {
		t.Errorf("found in %d command lines and %d environments", argv, environ)
	}

	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	if pattern[0] == '|' || pattern[0] == '/' {
		t.Logf("cores go to %s, where the search does not look", pattern)
		return
	}
	cwd := t.TempDir()
	crash := exec.Command("sh", "-c", "ulimit -c $(ulimit -H -c); kill -ABRT $$", secret)
	crash.Dir = cwd
	_ = crash.Run()
	cores := make(matches)
	if err := cores.inTree(h, cwd, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if len(cores) == 0 {
		t.Error("the core of a process that protects nothing was not searched")
	}
}
