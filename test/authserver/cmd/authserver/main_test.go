package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/test/authserver"
)

// The test binary is the program too, when a test starts it as that.
func TestMain(m *testing.M) {
	if os.Getenv("AUTHSERVER_RUN_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

type ready struct {
	Ready    bool   `json:"ready"`
	URL      string `json:"url"`
	MTLSURL  string `json:"mtls_url"`
	Issuer   string `json:"issuer"`
	TokenURL string `json:"token_url"`
	Resource string `json:"resource"`
	CAFile   string `json:"ca_file"`
	PID      int    `json:"pid"`
}

func start(t *testing.T, args ...string) (*exec.Cmd, io.Closer, ready) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "AUTHSERVER_RUN_MAIN=1")
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var r ready
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return cmd, stdin, r
}

func TestProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clients.json")
	if err := os.WriteFile(file, []byte(`[{"id":"filed","secret":"s","auth":"post","scope":"read"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, _, r := start(t, "-tls", "-path", "/tenant", "-alg", "RS256", "-lifetime", "90s",
		"-client", "dev:with:colon:basic", "-client-file", file)
	if !r.Ready || r.PID != cmd.Process.Pid || !strings.HasPrefix(r.Issuer, "https://127.0.0.1:") ||
		!strings.HasSuffix(r.Issuer, "/tenant") || r.TokenURL != r.Issuer+"/token" || r.Resource != r.Issuer+"/resource" {
		t.Errorf("%+v", r)
	}
	ca, err := os.ReadFile(r.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for id, secret := range map[string]string{"dev": "with:colon", "filed": "s"} {
		form := "grant_type=client_credentials"
		if id == "filed" {
			form += "&client_id=filed&client_secret=s"
		}
		req, err := http.NewRequest("POST", r.TokenURL, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if id == "dev" {
			req.SetBasicAuth("dev", "with%3Acolon")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var token struct {
			ExpiresIn int `json:"expires_in"`
		}
		err = json.NewDecoder(resp.Body).Decode(&token)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || token.ExpiresIn != 90 {
			t.Errorf("%s:%s: %d %+v %v", id, secret, resp.StatusCode, token, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(r.CAFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the CA's folder: %v", err)
	}
}

func TestProgramEndsWithStdin(t *testing.T) {
	cmd, stdin, r := start(t, "-stdin")
	if r.CAFile != "" || !strings.HasPrefix(r.Issuer, "http://127.0.0.1:") {
		t.Errorf("%+v", r)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestProgramRefusals(t *testing.T) {
	for _, args := range [][]string{
		{"-client", "nosecret"},
		{"-client", ":x"},
		{"-client-file", "missing.json"},
		{"-config", "missing.json"},
		{"-mtls"},
		{"-alg", "none"},
		{"stray"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // should it start, it ends at once
		var out strings.Builder
		if err := run(ctx, args, strings.NewReader(""), &out); err == nil || out.String() != "" {
			t.Errorf("%q: %v %q", args, err, out.String())
		}
	}
}

func TestParseClient(t *testing.T) {
	for in, want := range map[string]authserver.Client{
		"a:b":          {ID: "a", Secret: "b"},
		"a:b:basic":    {ID: "a", Secret: "b", Auth: "basic"},
		"a:b:post":     {ID: "a", Secret: "b", Auth: "post"},
		"a:b:raw":      {ID: "a", Secret: "b", Auth: "raw"},
		"a:b:opaque":   {ID: "a", Secret: "b", Opaque: true},
		"a:b:c":        {ID: "a", Secret: "b:c"},
		"a:b:c:opaque": {ID: "a", Secret: "b:c", Opaque: true},
	} {
		got, err := parseClient(in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", in, err, diff)
		}
	}
}

// Everything that the package can do is to be had by a file.
func TestProgramConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	config := `{"path": "/a", "alg": "RS256", "tls": true, "mtls": true, "users": {"me": "pass"},
		"clients": [{"id": "app", "auth": "none", "redirect_uris": ["http://127.0.0.1/cb"]}]}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stdin, r := start(t, "-config", file, "-path", "/b", "-stdin")
	defer stdin.Close()
	if !strings.HasSuffix(r.Issuer, "/b") || !strings.HasPrefix(r.MTLSURL, "https://127.0.0.1:") || r.Issuer != r.URL+"/b" {
		t.Errorf("%+v", r)
	}
	ca, err := os.ReadFile(r.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := client.Post(r.Issuer+"/v1/register", "application/json", strings.NewReader(`{"username":"me","password":"pass"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Error(resp.StatusCode)
	}
	resp, err = client.Get(r.URL + "/_ledger?count=issued")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "0\n" {
		t.Errorf("%q %v", body, err)
	}
}
