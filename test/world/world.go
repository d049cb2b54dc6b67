// Package world runs an authorization server that others wrote, npm's
// oidc-provider, so that tests do not only ask servers of ours. See README.md.
package world

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A Provider is a running server. It has two issuers, with the same clients;
// they share the log but not their tokens.
type Provider struct {
	Issuer    string            `json:"issuer"`
	TLSIssuer string            `json:"tls_issuer"`
	CAFile    string            `json:"ca_file"` // PEM; who signed TLSIssuer's certificate
	Secrets   map[string]string `json:"secrets"` // by client ID, as in clients.mjs

	cmd   *exec.Cmd
	stdin io.Closer
}

// Start starts the server on free ports, and returns when it answers, or an
// error if it does not within 30 s. The server ends with ctx or by Close. The environment is that of this process and env, as
// "CC_TTL=2" for one.
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

// Log returns what the server was asked since Reset, oldest first.
func (p *Provider) Log(ctx context.Context) ([]Request, error) {
	var log []Request
	err := p.ask(ctx, http.MethodGet, &log)
	return log, err
}

// Reset empties the log.
func (p *Provider) Reset(ctx context.Context) error {
	return p.ask(ctx, http.MethodDelete, new([]Request))
}

func (p *Provider) ask(ctx context.Context, method string, log *[]Request) error {
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
