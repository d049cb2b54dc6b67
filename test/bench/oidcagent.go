package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/nacl/box"
)

// agentAccount is the account that oidc-agent serves.
const agentAccount = "bench"

// startAgent starts Debian's oidc-agent with one account, whose token it has
// got. Stop ends it and its issuer. An error is why there is none.
func (b *bench) startAgent(socket string) (stop func(), err error) {
	for _, name := range []string{"oidc-agent", "oidc-gen", "oidc-token"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("%s is not installed", name)
		}
	}
	issuer := newIssuer()
	cmd := exec.CommandContext(b.ctx, "oidc-agent", "--console", "--quiet", "--socket-path="+socket)
	cmd.Dir = b.dir
	cmd.Env = b.environment("TMPDIR=" + b.dir)
	endGently(cmd)
	if err := cmd.Start(); err != nil {
		issuer.Close()
		return nil, err
	}
	stop = func() {
		endGently(cmd)
		cmd.Cancel()
		cmd.Wait()
		issuer.Close()
	}
	if err := b.loadAgent(socket, issuer.URL); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

func (b *bench) loadAgent(socket, issuer string) error {
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for oidc-agent: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	gen := exec.CommandContext(ctx, "oidc-gen", "--no-save", "--pw-env", "--prompt=none", "--confirm-default",
		"--issuer="+issuer, "--client-id=bench", "--client-secret="+clientSecret, "--rt=refresh", "--scope=openid offline_access",
		"--redirect-uri=http://localhost:4242", agentAccount)
	gen.Dir = b.dir
	gen.Env = b.environment("OIDC_SOCK="+socket, "OIDC_ENCRYPTION_PW=bench")
	if out, err := gen.CombinedOutput(); err != nil {
		return fmt.Errorf("oidc-gen: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return askAgent(ctx, socket, agentAccount)
}

// newIssuer is an OpenID provider for a client with a refresh token, and no
// more of one than oidc-agent needs.
func newIssuer() *httptest.Server {
	s := httptest.NewUnstartedServer(nil)
	answer := func(members map[string]any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(members)
		}
	}
	url := "http://" + s.Listener.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", answer(map[string]any{
		"issuer":                   url,
		"authorization_endpoint":   url + "/authorize",
		"token_endpoint":           url + "/token",
		"grant_types_supported":    []string{"refresh_token"},
		"response_types_supported": []string{"code"},
		"scopes_supported":         []string{"openid", "offline_access"},
	}))
	mux.HandleFunc("/token", answer(map[string]any{
		"access_token":  strings.Repeat("t", tokenSize[small]),
		"token_type":    "Bearer",
		"expires_in":    int(lifetime.Seconds()),
		"refresh_token": "refresh",
	}))
	s.Config.Handler = mux
	s.Start()
	return s
}

func agentRequest(account string) []byte {
	return []byte(`{"request":"access_token","account":"` + account + `","min_valid_period":60,"application_hint":"bench"}`)
}

// askAgent asks as liboidc-agent does: public keys are exchanged in base64, and
// the request and the answer are NaCl boxes, written LENGTH:NONCE:BOX.
func askAgent(ctx context.Context, socket, account string) error {
	c, err := dialAgent(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close()
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte(base64.StdEncoding.EncodeToString(public[:]))); err != nil {
		return err
	}
	theirs := make([]byte, base64.StdEncoding.EncodedLen(len(public)))
	if _, err := io.ReadFull(c, theirs); err != nil {
		return err
	}
	var peer, key [32]byte
	if _, err := base64.StdEncoding.AppendDecode(peer[:0], theirs); err != nil {
		return err
	}
	box.Precompute(&key, &peer, private)
	var nonce [24]byte
	rand.Read(nonce[:])
	request := agentRequest(account)
	sealed := box.SealAfterPrecomputation(nil, request, &nonce, &key)
	if _, err := fmt.Fprintf(c, "%d:%s:%s", len(request), base64.StdEncoding.EncodeToString(nonce[:]), base64.StdEncoding.EncodeToString(sealed)); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	part := strings.Split(string(answer), ":")
	if len(part) != 3 {
		return fmt.Errorf("oidc-agent answered %q", answer)
	}
	if _, err := base64.StdEncoding.AppendDecode(nonce[:0], []byte(part[1])); err != nil {
		return err
	}
	if sealed, err = base64.StdEncoding.DecodeString(part[2]); err != nil {
		return err
	}
	plain, ok := box.OpenAfterPrecomputation(nil, sealed, &nonce, &key)
	if !ok {
		return errors.New("oidc-agent's answer cannot be decrypted")
	}
	return checkAgent(plain)
}

// askAgentRaw asks without encryption, which oidc-agent answers likewise.
func askAgentRaw(ctx context.Context, socket, account string) error {
	c, err := dialAgent(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(agentRequest(account)); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	return checkAgent(answer)
}

func dialAgent(ctx context.Context, socket string) (net.Conn, error) {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			deadline, _ := ctx.Deadline()
			return c, c.SetDeadline(deadline)
		}
		// Its backlog is short.
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		if err := sleep(ctx, 100*time.Microsecond); err != nil {
			return nil, err
		}
	}
}

func checkAgent(answer []byte) error {
	var members struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(answer, &members); err != nil {
		return err
	}
	if len(members.AccessToken) != tokenSize[small] {
		return fmt.Errorf("oidc-agent answered %q", answer)
	}
	return nil
}

// agentSocket is short, and in a folder of its own, as oidc-agent wants it.
func (b *bench) agentSocket() string { return filepath.Join(b.dir, "agent.sock") }
