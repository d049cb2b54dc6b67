package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tokend/test/authserver"
	"tokend/test/keyring"
)

// opens decrypts a file with the age command.
func opens(t *testing.T, identity, file string) (string, bool) {
	t.Helper()
	out, err := exec.Command("age", "-d", "-i", identity, file).Output()
	return string(out), err == nil
}

// newKey makes an age identity and returns its file and its recipient.
func newKey(t *testing.T) (file, recipient string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key.txt")
	if out, err := exec.Command("age-keygen", "-o", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("age-keygen", "-y", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(out))
}

// A rekey is killed at each call by which it changes something, and goes on from
// there: each file is always the old one or the new one, and opens.
func TestRekeyKilled(t *testing.T) {
	h := newHome(t)
	h.must(t, "", "init")
	texts := map[string]string{
		"team/a": "OAUTH2_ISSUER=https://example.com\nCLIENT_ID=a\nCLIENT_SECRET=1\n",
		"team/b": "OAUTH2_ISSUER=https://example.com\nCLIENT_ID=b\nCLIENT_SECRET=2\n",
	}
	for name, text := range texts {
		h.must(t, text, "add", name)
	}
	s := h.status(t)
	file := func(name string) string { return filepath.Join(s.ProfilesDir, name+".env.age") }
	member, recipient := newKey(t)
	write(t, filepath.Join(s.ProfilesDir, "team", ".age-recipients"), s.Recipient+"\n"+recipient+"\n")
	h.must(t, "", "trust", "--yes", "team/")

	// rekey runs one, and returns which calls the daemon began and whether it was
	// killed at the one that was asked for.
	rekey := func(call string, at int) (calls []string, killed bool) {
		k := h.killAt(t, h.status(t).PID, call, at, false)
		r := h.tokenctl(t, "", "rekey", "team")
		calls, killed = k.ends(t)
		if killed != (r.code == exitGone) || !killed && r.code != 0 {
			t.Fatalf("killed at %s: %v, %v", call, killed, r)
		}
		return calls, killed
	}
	all, _ := rekey("nothing", 1)
	all = slices.DeleteFunc(all, func(call string) bool {
		return !strings.Contains(call, ".env.age") && !strings.HasSuffix(call, " team")
	})
	if len(all) < 10 {
		t.Fatalf("there is little to kill it at: %q", all)
	}
	seen := make(map[string]int)
	for _, call := range all {
		seen[call]++
		if _, killed := rekey(call, seen[call]); !killed {
			t.Errorf("not killed at %s for the %d. time", call, seen[call])
		}
		for name, text := range texts {
			if got, ok := opens(t, s.IdentityFile, file(name)); !ok || got != text {
				t.Errorf("killed at %s, %s: %q", call, name, got)
			}
		}
		h.must(t, "", "rekey", "team")
		for name, text := range texts {
			if got, ok := opens(t, member, file(name)); !ok || got != text {
				t.Errorf("after %s, to the new member %s is %q", call, name, got)
			}
			if got := h.must(t, "", "show", name); !strings.Contains(got, ", trusted\n") {
				t.Errorf("after %s: %s", call, got)
			}
		}
		if left, err := filepath.Glob(filepath.Join(s.ProfilesDir, "team", ".*.tmp")); err != nil || len(left) > 0 {
			t.Errorf("after %s there is %q, %v", call, left, err)
		}
	}
	t.Logf("killed at %d calls", len(all))
}

// exitGone is the exit status where there is no daemon any more.
const exitGone = 3

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withKeyring is a home in whose session is a gnome-keyring.
func withKeyring(t *testing.T, s *authserver.Server, c authserver.Client, names ...string) (*home, *keyring.Session) {
	t.Helper()
	session := keyring.Start(t)
	h := newHome(t)
	for _, v := range session.Env {
		if strings.HasPrefix(v, "DBUS_SESSION_BUS_ADDRESS=") {
			h.env = append(h.env, v)
		}
	}
	h.must(t, "", "init")
	for _, name := range names {
		h.must(t, profileOf(s, c), "add", name)
	}
	return h, session
}

// config makes line all of the home's configuration, and starts its daemon anew.
func (h *home) config(t *testing.T, line string) {
	t.Helper()
	write(t, filepath.Join(h.dir, ".config", "tokend", "config"), line+"\n")
	h.must(t, "", "daemon", "restart")
}

// profileFiles are the files below the folder of profiles.
func (h *home) profileFiles(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("find", filepath.Join(filepath.Dir(h.status(t).IdentityFile), "profiles"), "-type", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestMigrateToTheKeyringAndBack(t *testing.T) {
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "c", Secret: "s"}}})
	c := authserver.Client{ID: "c", Secret: "s"}
	names := []string{"dev/deep/a", "dev/b", "c"}
	h, session := withKeyring(t, server, c, names...)
	listed := "c\ndev/b\ndev/deep/a\n"

	r := h.tokenctl(t, "", "migrate", "keyring")
	if r.code != 0 || r.out != "TOKEND_STORE=keyring\n" || !strings.Contains(r.err, "3 profiles moved") || !strings.Contains(r.err, ".config/tokend/config") || !strings.Contains(r.err, "tokenctl daemon restart") {
		t.Fatal(r)
	}
	if left := h.profileFiles(t); len(left) > 0 {
		t.Errorf("there is still %q", left)
	}
	// Nothing works before the setting is changed, and it says why.
	for _, args := range [][]string{{"get", "c"}, {"list"}, {"show", "c"}, {"export", "--to", "x"}, {"rekey"}} {
		h.wantFailure(t, 78, "the profiles were moved to the other store; set TOKEND_STORE=keyring", args...)
	}
	r = h.tokenctl(t, profileOf(server, c), "add", "new")
	if r.code != 78 {
		t.Error(r)
	}
	// Asked again, it says the same again.
	if out := h.must(t, "", "migrate", "keyring"); out != "TOKEND_STORE=keyring\n" {
		t.Error(out)
	}

	// Nor after a restart that nobody has changed the setting for.
	h.must(t, "", "daemon", "stop")
	h.wantFailure(t, 78, "there are no profiles in the age store, but some in the keyring store; set TOKEND_STORE=keyring", "get", "c")

	h.config(t, "TOKEND_STORE=keyring")
	if got := h.must(t, "", "list"); got != listed {
		t.Errorf("listed %q", got)
	}
	h.get(t, "dev/deep/a")
	if got := len(session.Items(t)); got < len(names) {
		t.Errorf("%d items in the keyring", got)
	}
	h.wantFailure(t, 2, "the profiles are in that store already", "migrate", "keyring")
	h.wantFailure(t, 78, "there is nothing to rekey", "rekey")
	// A backup of it opens, too.
	s := h.status(t)
	backup := filepath.Join(h.root, "backup")
	h.must(t, "", "export", "--to", backup)
	if got, ok := opens(t, s.IdentityFile, filepath.Join(backup, "dev", "b.env.age")); !ok || got != profileOf(server, c) {
		t.Errorf("%q", got)
	}
	if r := h.tokenctl(t, "", "import", backup); r.code != 0 || r.out != "" || !strings.Contains(r.err, "0 profiles imported, 3 unchanged") {
		t.Error(r)
	}

	if out := h.must(t, "", "migrate", "age"); out != "TOKEND_STORE=age\n" {
		t.Error(out)
	}
	if got := len(h.profileFiles(t)); got != len(names) {
		t.Errorf("%d files", got)
	}
	h.config(t, "TOKEND_STORE=age")
	if got := h.must(t, "", "list"); got != listed {
		t.Errorf("listed %q", got)
	}
	h.get(t, "dev/b")
	for _, name := range names {
		if got := h.must(t, "", "show", "--reveal", name); got != profileOf(server, c) {
			t.Errorf("%s is %q", name, got)
		}
	}
	if items := session.Items(t); len(items) > 1 { // the one that knows of the index
		t.Errorf("left in the keyring: %d items", len(items))
	}
}

// Logins outlive a move of their profiles, there and back: the refresh token is the
// same, and works.
func TestLoginsOutliveMigrate(t *testing.T) {
	t.Parallel()
	session := keyring.Start(t)
	r := newRotating(t, strict)
	r.setenv("DBUS_SESSION_BUS_ADDRESS", session.Address)
	r.must(t, "", "daemon", "restart")
	for _, to := range []string{"keyring", "age"} {
		before := r.record(t, strict.ID).RefreshToken
		r.must(t, "", "migrate", to)
		r.config(t, "TOKEND_STORE="+to)
		if now := r.record(t, strict.ID).RefreshToken; now != before || !r.server.Accepts(now) {
			t.Errorf("migrate %s has changed the session", to)
		}
		r.server.Forget()
		r.get(t, strict.ID)
		if now := r.record(t, strict.ID).RefreshToken; r.server.Accepts(before) || !r.server.Accepts(now) {
			t.Errorf("after migrate %s the refresh token was not exchanged", to)
		}
		if n := r.server.Count("/token"); n != 1 {
			t.Errorf("after migrate %s: %d requests for a token", to, n)
		}
	}
}

// A daemon that is killed while it moves profiles loses none, and goes on.
func TestMigrateKilled(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s"}
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	names := []string{"a", "b"}
	for _, at := range []struct {
		call string
		at   int
	}{
		{"renameat .index.env.age.tmp", 1},
		{"renameat .index.env.age.tmp", 3},
		{"renameat a.env.age", 1},
		{"fsync profiles", 1},
		{"renameat b.env.age", 1},
	} {
		h, _ := withKeyring(t, server, c, names...)
		k := h.killAt(t, h.status(t).PID, at.call, at.at, false)
		r := h.tokenctl(t, "", "migrate", "keyring")
		if calls, killed := k.ends(t); !killed || r.code != exitGone {
			t.Errorf("not killed at %v: %v, %q", at, r, calls)
		}
		if out := h.must(t, "", "migrate", "keyring"); out != "TOKEND_STORE=keyring\n" {
			t.Errorf("killed at %v: %q", at, out)
		}
		h.config(t, "TOKEND_STORE=keyring")
		for _, name := range names {
			if got := h.must(t, "", "show", "--reveal", name); got != profileOf(server, c) {
				t.Errorf("killed at %v: %s is %q", at, name, got)
			}
		}
	}
}

// Where there is no keyring, all stays where it is.
func TestMigrateWithoutAKeyring(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s"}
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, server, "p", c)
	r := h.tokenctl(t, "", "migrate", "keyring")
	if r.code != 75 || r.out != "" {
		t.Error(r)
	}
	h.get(t, "p")
	if got := len(h.profileFiles(t)); got != 1 {
		t.Errorf("%d files", got)
	}
}

// An account that oidc-agent itself has made and printed works here.
func TestImportFromOIDCAgent(t *testing.T) {
	op := httptest.NewUnstartedServer(nil)
	issuer := "http://" + op.Listener.Addr().String()
	answer := func(members map[string]any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(members)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", answer(map[string]any{
		"issuer": issuer, "authorization_endpoint": issuer + "/authorize", "token_endpoint": issuer + "/token",
		"grant_types_supported": []string{"refresh_token", "authorization_code"}, "response_types_supported": []string{"code"},
		"scopes_supported": []string{"openid", "offline_access"},
	}))
	sent := make(chan string, 10)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		sent <- r.PostFormValue("refresh_token")
		answer(map[string]any{"access_token": "from-oidc-agent", "token_type": "Bearer", "expires_in": 600, "refresh_token": "second"})(w, r)
	})
	op.Config.Handler = mux
	op.Start()
	defer op.Close()

	dir, err := os.MkdirTemp("", "oidc-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "agent")
	env := append(os.Environ(), "HOME="+dir, "OIDC_SOCK="+socket, "OIDC_CONFIG_DIR="+dir, "OIDC_ENCRYPTION_PW=test")
	agent := exec.Command("oidc-agent", "--console", "--quiet", "--socket-path="+socket)
	agent.Env = env
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	waitFor(t, "oidc-agent", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	gen := func(args ...string) []byte {
		cmd := exec.Command("oidc-gen", append([]string{"--pw-env", "--prompt=none", "--confirm-default"}, args...)...)
		var stderr bytes.Buffer
		cmd.Env, cmd.Stderr = env, &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("oidc-gen: %v: %s%s", err, out, stderr.Bytes())
		}
		return out
	}
	gen("--issuer="+issuer, "--client-id=client", "--client-secret=s", "--rt=first", "--scope=openid offline_access",
		"--redirect-uri=http://localhost:4242", "account")
	<-sent

	h := newHome(t)
	h.must(t, "", "init")
	// What it keeps is encrypted: the line says what to type.
	h.wantFailure(t, 78, "it is encrypted; run: oidc-gen -p SHORTNAME | tokenctl import oidc-agent -", "import", "oidc-agent", filepath.Join(dir, "account"))
	if out := h.must(t, string(gen("-p", "account")), "import", "oidc-agent", "-"); out != "account\n" {
		t.Error(out)
	}
	if got := h.get(t, "account"); got != "from-oidc-agent" {
		t.Errorf("the token is %q", got)
	}
	if got := <-sent; got != "second" {
		t.Errorf("sent refresh token %q, want the one that oidc-agent has last got", got)
	}
}

// Hundreds of profiles, there and back.
func TestBigTree(t *testing.T) {
	h := newHome(t)
	h.must(t, "", "init")
	tree, back := filepath.Join(h.root, "tree"), filepath.Join(h.root, "back")
	const n = 200
	for i := range n {
		write(t, filepath.Join(tree, strconv.Itoa(i%7), "p"+strconv.Itoa(i)+".env"), fmt.Sprintf("OAUTH2_ISSUER=https://example.com\nCLIENT_ID=%d\nCLIENT_SECRET=x\n", i))
	}
	if r := h.tokenctl(t, "", "import", tree); r.code != 0 || strings.Count(r.out, "\n") != n {
		t.Fatal(r)
	}
	h.must(t, "", "export", "--to", back, "--plain", "--yes")
	if out, err := exec.Command("diff", "-r", tree, back).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
