// Package world runs an authorization server that others wrote, npm's
// oidc-provider, so that tests do not only ask servers of ours. See README.md.
package world

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A Provider is a running server. It has two issuers, with the same clients;
// they share the log but not their tokens. The files it names go when it ends.
type Provider struct {
	Issuer    string            `json:"issuer"`
	TLSIssuer string            `json:"tls_issuer"` // its metadata has mtls_endpoint_aliases (RFC 8705 5)
	CAFile    string            `json:"ca_file"`    // PEM; who signed TLSIssuer's certificate
	Secrets   map[string]string `json:"secrets"`    // by client ID, as in clients.mjs

	// InitialAccessToken is what registering a client at Issuer takes (RFC 7591
	// 1.2). At TLSIssuer anyone may.
	InitialAccessToken string `json:"initial_access_token"`

	// Keys are the private keys of the clients "cc-pkjwt" and "bearer", by
	// algorithm: RS256, PS256, ES256, EdDSA.
	Keys map[string]Key `json:"keys"`
	// Passphrase opens Key.Encrypted.
	Passphrase string `json:"passphrase"`

	Certificates Certificates `json:"certificates"`

	// ServiceAccountFile is the JSON that Google's console would give.
	ServiceAccountFile string `json:"service_account_file"`

	GitHub GitHub `json:"github"`

	cmd   *exec.Cmd
	stdin io.Closer
}

// A Key is one private key, in files of each format it can have.
type Key struct {
	ID        string `json:"kid"`
	PKCS1     string `json:"pkcs1"`     // PEM, "RSA PRIVATE KEY" (RFC 8017); RSA only
	SEC1      string `json:"sec1"`      // PEM, "EC PRIVATE KEY" (RFC 5915); EC only
	PKCS8     string `json:"pkcs8"`     // PEM, "PRIVATE KEY" (RFC 5208)
	Encrypted string `json:"encrypted"` // PEM, "ENCRYPTED PRIVATE KEY" (PBES2, AES-256-CBC)
	JWK       string `json:"jwk"`       // JSON with kid and alg (RFC 7517)
}

// Certificates are those a client can show to the endpoints that
// mtls_endpoint_aliases names.
type Certificates struct {
	CA         Certificate `json:"ca"`          // client "cc-mtls-ca" (tls_client_auth)
	SelfSigned Certificate `json:"self_signed"` // client "cc-mtls-self" (self_signed_tls_client_auth)
	Stranger   Certificate `json:"stranger"`    // has the names of CA, by an issuer of the same name
}

// A Certificate is two files in PEM.
type Certificate struct {
	Cert string `json:"cert"`
	Key  string `json:"key"` // PKCS#8
}

// GitHub is a server of its own, with the API that a GitHub App signs in by.
type GitHub struct {
	URL           string           `json:"url"` // in place of https://api.github.com
	AppID         int64            `json:"app_id"`
	ClientID      string           `json:"client_id"`
	KeyFile       string           `json:"key_file"`      // PEM, PKCS#1, as GitHub gives it
	Installations map[string]int64 `json:"installations"` // by owner: octo-org, octocat, and asleep, which is suspended
}

// Start starts the server on free ports, and returns when it answers, or an
// error if it does not within 30 s. The server ends with ctx or by Close. The
// environment is that of this process and env, as "CC_TTL=2" for one.
func Start(ctx context.Context, env ...string) (*Provider, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	return start(ctx, dir, env)
}

// folder finds this folder, from any package of the module that is tested.
func folder() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "test", "world"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above %q", wd)
		}
	}
}

func start(ctx context.Context, dir string, env []string) (*Provider, error) {
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider")); errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("oidc-provider is not installed: run `make deps`, or `cd test/world && npm ci`")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "node", "server.mjs", "--stdin")
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PORT=0", "TLS_PORT=0"), env...)
	cmd.Stderr = &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Provider{cmd: cmd, stdin: stdin}
	late := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	late.Stop()
	if err == nil {
		err = json.Unmarshal(line, p)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("reading the ready line of oidc-provider: %w\n%s", err, &stderr)
	}
	return p, nil
}

// Close ends the server and waits for its end. The error says that it had to
// be killed, or ended by itself before.
func (p *Provider) Close() error {
	p.stdin.Close()
	late := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	return p.cmd.Wait()
}

// A Request is one that the server got.
type Request struct {
	Time   time.Time `json:"time"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Auth is the scheme of the Authorization header.
	Auth string `json:"auth"`
	// Form has "sha256:" and 8 hex digits for what is or may be secret.
	Form url.Values `json:"form"`
	// Status is that of the answer, 0 if there is none yet.
	Status int `json:"status"`
}

// Requests returns what the server was asked since Reset, oldest first.
func (p *Provider) Requests(ctx context.Context) ([]Request, error) {
	var log []Request
	err := p.log(ctx, http.MethodGet, &log)
	return log, err
}

// Reset empties the log.
func (p *Provider) Reset(ctx context.Context) error {
	return p.log(ctx, http.MethodDelete, new([]Request))
}

func (p *Provider) log(ctx context.Context, method string, log *[]Request) error {
	req, err := http.NewRequestWithContext(ctx, method, p.Issuer+"/_world/log", nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(log)
}

// Introspect returns what the server says of an opaque token (RFC 7662) to the
// resource server "rs": the answer of the issuer that calls it active, or of
// TLSIssuer if none does.
func (p *Provider) Introspect(ctx context.Context, token string) (map[string]any, error) {
	answer, err := p.introspect(ctx, p.Issuer, token)
	if err != nil || answer["active"] == true {
		return answer, err
	}
	return p.introspect(ctx, p.TLSIssuer, token)
}

func (p *Provider) introspect(ctx context.Context, issuer, token string) (map[string]any, error) {
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	form := url.Values{"token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, issuer+"/token/introspection", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("rs", p.Secrets["rs"])
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("introspecting: %s: %w", resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("introspecting: %s: %v", resp.Status, answer["error_description"])
	}
	return answer, nil
}

// client returns one that trusts the server's CA, keeps cookies and no
// connections, and follows no redirects.
func (p *Provider) client() (*http.Client, error) {
	ca, err := os.ReadFile(p.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}},
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
