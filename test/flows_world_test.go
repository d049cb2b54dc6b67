package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tokend/test/world"
)

// startWorld is a server that others wrote, for one test.
func startWorld(t *testing.T, env ...string) *world.Provider {
	t.Helper()
	p, err := world.Start(context.Background(), env...) // until Close
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// oneWorld is a server for all tests that need none of their own, which are not
// parallel where they look at what it was asked. It ends with this process.
var oneWorld = sync.OnceValues(func() (*world.Provider, error) {
	return world.Start(context.Background(), "DEVICE_INTERVAL=1")
})

func sharedWorld(t *testing.T) *world.Provider {
	t.Helper()
	p, err := oneWorld()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// asked returns what the server was asked since the last time, a line for each
// request: method, path, scheme of the Authorization header, form and status,
// with a * for what may be secret. What a person's browser asks is left out, and
// how often metadata are read is another test's affair.
func asked(t *testing.T, p *world.Provider) []string {
	t.Helper()
	log, err := p.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range log {
		if person.MatchString(r.Path) || strings.HasPrefix(r.Path, "/.well-known/") {
			continue
		}
		words := []string{r.Method, r.Path}
		if r.Auth != "" {
			words = append(words, r.Auth)
		}
		var form []string
		for name, values := range r.Form {
			for _, v := range values {
				if strings.HasPrefix(v, "sha256:") {
					v = "*"
				}
				form = append(form, name+"="+v)
			}
		}
		slices.Sort(form)
		line := strings.Join(append(append(words, form...), strconv.Itoa(r.Status)), " ")
		lines = append(lines, portRE.ReplaceAllString(line, "127.0.0.1:PORT"))
	}
	return lines
}

// person are the paths of pages.
var person = regexp.MustCompile(`^/(auth|interaction|device)(/[^/]{30,}.*)?$`)

// wantAsked compares what the server was asked since the last time.
func wantAsked(t *testing.T, p *world.Provider, want ...string) {
	t.Helper()
	if got := asked(t, p); !slices.Equal(got, want) {
		t.Errorf("the server was asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// wantActive asks the server about a token: it is to be active, and to have
// these members.
func wantActive(t *testing.T, p *world.Provider, token string, members map[string]any) map[string]any {
	t.Helper()
	said, err := p.Introspect(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said["active"] != true {
		t.Errorf("the server says of the token: %v", said)
	}
	for name, want := range members {
		if got := said[name]; got != want {
			t.Errorf("the server says that %s is %v, want %v", name, got, want)
		}
	}
	return said
}

// wantInactive asks the server about a token that is to be none any more.
func wantInactive(t *testing.T, p *world.Provider, token string) {
	t.Helper()
	said, err := p.Introspect(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said["active"] != false {
		t.Errorf("the server says of the token: %v", said)
	}
}

// wantLine runs tokenctl, which has to fail with a status, exactly this line and
// nothing on standard output. PORT and TIME stand for any.
func (h *home) wantLine(t *testing.T, code int, line string, args ...string) {
	t.Helper()
	r := h.tokenctl(t, "", args...)
	r.err = portRE.ReplaceAllString(r.err, "127.0.0.1:PORT")
	r.err = notAskedRE.ReplaceAllString(r.err, notAsked)
	if r != (result{"", "tokenctl: " + line + "\n", code}) {
		t.Errorf("tokenctl %q: %v, want status %d and\n%s", args, r, code, line)
	}
}

// What to do next, before the profile's name.
const (
	checkIt     = "; check CLIENT_ID, CLIENT_SECRET and OAUTH2_CLIENT_AUTH: tokenctl edit " // after a login, which is not remembered
	notAsked    = "; not asked again before TIME; "
	checkClient = notAsked + "check CLIENT_ID, CLIENT_SECRET and OAUTH2_CLIENT_AUTH, then: tokenctl reset "
	checkKey    = notAsked + "check CLIENT_ID, PRIVATE_KEY, PRIVATE_KEY_ID and OAUTH2_ASSERTION_AUDIENCE, then: tokenctl reset "
	checkCert   = notAsked + "check CLIENT_ID and TLS_CLIENT_CERT, then: tokenctl reset "
	checkApp    = notAsked + "check GITHUB_APP_ID and PRIVATE_KEY, then: tokenctl reset "
	checkGitHub = notAsked + "check GITHUB_INSTALLATION, then: tokenctl reset "
)

var notAskedRE = regexp.MustCompile(`; not asked again before (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d; `)

var portRE = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// setenv sets a variable for what the home's user runs from now on.
func (h *home) setenv(name, value string) {
	h.env = append(slices.DeleteFunc(h.env, func(v string) bool { return strings.HasPrefix(v, name+"=") }), name+"="+value)
}

// login is a tokenctl that runs until somebody has logged in.
type login struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout bytes.Buffer
	stderr *bufio.Reader
	said   strings.Builder // what has been read of stderr
	late   *time.Timer
}

// login starts a command that logs somebody in. It has a minute.
func (h *home) login(t *testing.T, args ...string) *login {
	t.Helper()
	l := &login{cmd: h.command(append([]string{filepath.Join(h.bin, "tokenctl"), "login"}, args...)...)}
	var err error
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	// A pipe of our own: a browser that outlives the command has no part in it.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l.cmd.Stdout, l.cmd.Stderr = &l.stdout, w
	l.stderr = bufio.NewReader(r)
	err = l.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	l.late = time.AfterFunc(time.Minute, func() { l.cmd.Process.Kill() })
	t.Cleanup(func() {
		l.late.Stop()
		l.cmd.Process.Kill()
		r.Close()
	})
	return l
}

// reads waits for a line that holds a text, and returns it.
func (l *login) reads(t *testing.T, text string) string {
	t.Helper()
	for {
		line, err := l.stderr.ReadString('\n')
		l.said.WriteString(line)
		if strings.Contains(line, text) && err == nil {
			return strings.TrimSuffix(line, "\n")
		}
		if err != nil {
			t.Fatalf("the login ended without saying %q, but:\n%s", text, &l.said)
		}
	}
}

// address waits for the address to open.
func (l *login) address(t *testing.T) string {
	t.Helper()
	for {
		if line := l.reads(t, "http"); strings.HasPrefix(line, "http") {
			return line
		}
	}
}

// code waits for the page and the code to type there, and returns the address
// of both.
func (l *login) code(t *testing.T) string {
	t.Helper()
	page := l.address(t)
	l.reads(t, "and type this code there:")
	return page + "?user_code=" + strings.TrimSpace(l.reads(t, "    "))
}

// ends waits for the end. The result has all that was said on stderr.
func (l *login) ends(t *testing.T) result {
	t.Helper()
	l.late.Reset(time.Minute)
	rest, err := io.ReadAll(l.stderr)
	l.said.Write(rest)
	l.cmd.Wait()
	l.late.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return result{l.stdout.String(), l.said.String(), l.cmd.ProcessState.ExitCode()}
}

// succeeds waits for the end, which is to be a good one.
func (l *login) succeeds(t *testing.T) {
	t.Helper()
	if r := l.ends(t); r.code != 0 || !strings.Contains(r.out, ": logged in; ") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("the login ended with %v", r)
	}
}

// fails waits for the end, which is to be a bad one, with a status, and this as
// the last line.
func (l *login) fails(t *testing.T, code int, last string) {
	t.Helper()
	r := l.ends(t)
	all := strings.Split(strings.TrimSuffix(portRE.ReplaceAllString(r.err, "127.0.0.1:PORT"), "\n"), "\n")
	if r.code != code || r.out != "" || all[len(all)-1] != "tokenctl: "+last {
		t.Errorf("the login ended with %v, want status %d and\n%s", r, code, last)
	}
}

// lines makes a profile's text.
func lines(l ...string) string { return strings.Join(l, "\n") + "\n" }

// newECKey is the file of a key that nobody knows, on P-256.
func newECKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyFile(t, key)
}

func newEdKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyFile(t, key)
}

func keyFile(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// pair is a certificate and its key, in files.
type pair struct{ cert, key string }

func expiredCertificate(t *testing.T) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "cc-mtls-self"},
		NotBefore:    time.Now().Add(-48 * time.Hour),
		NotAfter:     time.Now().Add(-24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return pair{cert, keyFile(t, key)}
}
