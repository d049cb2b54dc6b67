package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokend/test/authserver"
)

const providersPage = "../docs/providers.md"

// providerParts returns what there is to type in each part of the page, by the
// part's heading.
func providerParts(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(providersPage)
	if err != nil {
		t.Fatal(err)
	}
	parts := make(map[string]string)
	for part := range strings.SplitSeq(string(b), "\n## ") {
		heading, text, _ := strings.Cut(part, "\n")
		var commands strings.Builder
		for line := range strings.Lines(text) {
			if line, ok := strings.CutPrefix(line, "    "); ok {
				commands.WriteString(line)
			} else if line == "\n" {
				commands.WriteString(line)
			}
		}
		parts[heading] = commands.String()
	}
	return parts
}

// types is a new user who types a part of the page on a terminal, with names of
// their own for those of the page, and answers questions with these lines.
func types(t *testing.T, h *home, heading, answers string, names ...string) string {
	t.Helper()
	text := providerParts(t)[heading]
	for i := 0; i < len(names); i += 2 {
		if !strings.Contains(text, names[i]) {
			t.Fatalf("%q has no %s:\n%s", heading, names[i], text)
		}
		text = strings.ReplaceAll(text, names[i], names[i+1])
	}
	file := filepath.Join(h.dir, "typed")
	if err := os.WriteFile(file, []byte("set -e -o pipefail\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := h.command("script", "-qec", "bash typed", "/dev/null")
	cmd.Dir = h.dir
	cmd.Stdin = strings.NewReader(answers)
	r := finish(t, cmd)
	if r.code != 0 {
		t.Fatalf("%q ends with %d:\n%s%s", heading, r.code, r.out, r.err)
	}
	return r.out
}

// Every profile of the page is one that is taken.
func TestProfilesOfProviders(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must(t, "", "init")
	n := 0
	for heading, text := range providerParts(t) {
		for block := range strings.SplitSeq(text, "tokenctl add ") {
			name, text, ok := strings.Cut(block, " <<'EOF'\n")
			if !ok || strings.Contains(name, "\n") {
				continue
			}
			text, _, _ = strings.Cut(text, "EOF\n")
			if r := h.tokenctl(t, text, "add", name); r != (result{}) {
				t.Errorf("%s: %v\n%s", heading, r, text)
			}
			n++
		}
	}
	if n < 17 {
		t.Errorf("%d profiles are found on the page", n)
	}
}

// The parts of the page whose servers run here, typed as a new user does.
func TestProvidersPage(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	h.setenv("TERM", "dumb")
	save := func(name, from string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(h.dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(name string) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(h.dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	// A browser of somebody who says yes to everything.
	curl := filepath.Join(h.dir, "curl-browser")
	if err := os.WriteFile(curl, []byte("#!/bin/sh\nexec curl -sSL -o /dev/null \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}

	t.Run("OpenID Connect", func(t *testing.T) {
		left := h.browser(t, "--user", "alice")
		said := types(t, h, "Any OpenID Connect provider", "", "https://login.example.com", p.Issuer,
			"netapi-automation", "cc-basic", "your-client-secret", p.Secrets["cc-basic"], "my-native-app", "native")
		wantPage(t, left(), "You are logged in", doneText("dev/me"))
		wantActive(t, p, h.get(t, "dev/network"), map[string]any{"client_id": "cc-basic", "scope": "read"})
		wantActive(t, p, h.get(t, "dev/me"), map[string]any{"client_id": "native", "sub": "alice"})
		for _, want := range []string{h.get(t, "dev/network"), h.get(t, "dev/me"), "dev/me: logged in; ", "renewed without you", "alice"} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not show %q:\n%s", want, said)
			}
		}
	})
	t.Run("Keycloak", func(t *testing.T) {
		s := authserver.Start(t, authserver.Config{Path: "/realms/main", Clients: []authserver.Client{
			{ID: "netapi-automation", Secret: "your-client-secret"},
			{ID: "my-native-app", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}},
		}})
		h.setenv("BROWSER", curl)
		types(t, h, "Keycloak", "", "https://id.example.com/realms/main", s.Issuer)
		wantResource(t, h, s, "dev/keycloak", "netapi-automation")
		wantResource(t, h, s, "dev/keycloak-me", authserver.Subject)
	})
	t.Run("Google", func(t *testing.T) {
		save("key.json", p.ServiceAccountFile)
		client, err := json.Marshal(map[string]any{"installed": map[string]string{"client_id": "1234.apps.googleusercontent.com", "client_secret": "s3cret", "project_id": "test"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.dir, "client_secret.json"), client, 0o600); err != nil {
			t.Fatal(err)
		}
		// Nobody logs in to the real Google here.
		said := types(t, h, "Google", "", "tokenctl login dev/google\n", "tokenctl show dev/google\n")
		gone("key.json")
		gone("client_secret.json")
		wantActive(t, p, h.get(t, "robot"), map[string]any{"scope": "https://www.googleapis.com/auth/cloud-platform", "sub": "robot@test-world.iam.gserviceaccount.com"})
		for _, want := range []string{h.get(t, "robot"), "OAUTH2_GRANT=authorization_code", "CLIENT_ID=1234.apps.googleusercontent.com", "CLIENT_SECRET=********"} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not show %q:\n%s", want, said)
			}
		}
	})
	t.Run("GitHub", func(t *testing.T) {
		save("keys/my-app.private-key.pem", p.GitHub.KeyFile)
		types(t, h, "GitHub", "", "GITHUB_APP_ID=1234567", fmt.Sprintf("GITHUB_APP_ID=%d\nOAUTH2_DOMAIN=%s", p.GitHub.AppID, p.GitHub.URL),
			"tokenctl login dev/github-me\n", "tokenctl show dev/github-me\n")
		if got := repositories(t, p, h.get(t, "dev/github")); len(got) != 2 || got[0] != "octo-org/widgets" {
			t.Errorf("the token reaches %q", got)
		}
	})
	t.Run("MCP", func(t *testing.T) {
		s := authserver.Start(t, authserver.Config{Registration: true, Clients: []authserver.Client{{ID: "any", Secret: "secret"}}})
		h.setenv("BROWSER", curl)
		said := types(t, h, "MCP servers, and every API that says where its tokens come from", "y\n", "https://mcp.example.com/mcp", s.ResourceURL)
		for _, want := range []string{"login server  " + s.Issuer, "a new one is registered there", "Trust " + strings.TrimPrefix(s.URL, "http://") + "? [y/N]", "mcp: logged in; ", `"sub":"` + authserver.Subject + `"`} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not show %q:\n%s", want, said)
			}
		}
	})
	t.Run("registration", func(t *testing.T) {
		s := authserver.Start(t, authserver.Config{Users: map[string]string{"me@example.com": "my-passw0rd"}})
		const command = "tokenctl register https://api.example.com/v1/register --as dev/example"
		said := types(t, h, "A client for a user name and a password", "y\nme@example.com\nmy-passw0rd\n",
			command, strings.ReplaceAll(command, "https://api.example.com", s.URL)+" --token-url "+s.TokenURL)
		if !strings.Contains(said, "Password:") || strings.Count(said, "my-passw0rd") > 1 { // once by the terminal, before it was asked for
			t.Errorf("it shows\n%s", said)
		}
		for _, want := range []string{"dev/example: registered as client ", h.get(t, "dev/example")} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not show %q:\n%s", want, said)
			}
		}
		if n := s.Count("/token"); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
	t.Run("dsec, and Python", func(t *testing.T) {
		c := authserver.Client{ID: "netapi-automation", Secret: "your-client-secret", Auth: authserver.AuthPost}
		s := authserver.Start(t, authserver.Config{Path: "/realms/main", Clients: []authserver.Client{c}})
		types(t, h, "Secrets in the form, multipart, rate limits", "", "https://auth.example.com/realms/main/protocol/openid-connect/token", s.TokenURL)
		wantResource(t, h, s, "dev/resources", "netapi-automation")
		if form := s.Requests()[0].Form; form.Get("client_secret") == "" {
			t.Errorf("the secret is not in the form: %v", form)
		}

		if err := os.Symlink(pythonWithRequests(t), filepath.Join(h.bin, "python3")); err != nil {
			t.Fatal(err)
		}
		if said := types(t, h, "From Python", "", "https://api.example.com/v1/resources", s.ResourceURL); !strings.Contains(said, "'client_id': 'netapi-automation'") {
			t.Errorf("Python shows\n%s", said)
		}

		text := filepath.Join(h.dir, "network.env")
		if err := os.WriteFile(text, []byte(profileOf(s, c)+"OAUTH2_CLIENT_AUTH=client_secret_post\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		identity := filepath.Join(h.dir, "keys", "identity.txt")
		if r := finish(t, exec.Command("age-keygen", "-o", identity)); r.code != 0 {
			t.Fatal(r)
		}
		recipient := strings.TrimSpace(finish(t, exec.Command("age-keygen", "-y", identity)).out)
		if r := finish(t, exec.Command("age", "-r", recipient, "-o", text+".age", text)); r.code != 0 {
			t.Fatal(r)
		}
		types(t, h, "Files of dsec and other tools", "", `eval "$(tokenctl get d000/dev/network -o env)"`, `eval "$(tokenctl get d000/dev/network -o env)"; curl -sSf -H "Authorization: Bearer $ACCESS_TOKEN" `+s.ResourceURL)
		wantResource(t, h, s, "d000/dev/old", "netapi-automation")
	})
}

// What the page says that tokenctl says, it does say.
func TestMistakesOnProvidersPage(t *testing.T) {
	p := sharedWorld(t)
	page, err := os.ReadFile(providersPage)
	if err != nil {
		t.Fatal(err)
	}
	h := newHome(t)
	h.must(t, "", "init")
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api" {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(silent.Close)
	closed := authserver.Start(t, authserver.Config{})
	guarded := authserver.Start(t, authserver.Config{Registration: true, RegistrationToken: "initial"})
	web := filepath.Join(t.TempDir(), "client_secret.json")
	if err := os.WriteFile(web, []byte(`{"web":{"client_id":"1234.apps.googleusercontent.com","client_secret":"s"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const client = "CLIENT_ID=id\nCLIENT_SECRET=secret\n"
	for _, profile := range []struct{ name, text string }{
		{"ca", "OAUTH2_ISSUER=" + p.TLSIssuer + "\n" + client},
		{"issuer", "OAUTH2_ISSUER=" + p.Issuer + "/\n" + client},
		{"secret", "OAUTH2_ISSUER=" + p.Issuer + "\n" + client},
		{"app", "OAUTH2_PROVIDER=github-app\nOAUTH2_DOMAIN=" + p.GitHub.URL + "\nGITHUB_APP_ID=1\nGITHUB_INSTALLATION=octo-org\nPRIVATE_KEY_FILE=" + p.GitHub.KeyFile + "\n"},
		{"owner", fmt.Sprintf("OAUTH2_PROVIDER=github-app\nOAUTH2_DOMAIN=%s\nGITHUB_APP_ID=%d\nGITHUB_INSTALLATION=nobody\nPRIVATE_KEY_FILE=%s\n", p.GitHub.URL, p.GitHub.AppID, p.GitHub.KeyFile)},
	} {
		h.must(t, profile.text, "add", profile.name)
	}
	for _, test := range []struct {
		says, stdin string
		args        []string
	}{
		{"invalid_client", "", []string{"get", "secret"}},
		{"signed by an authority that is not trusted", "", []string{"get", "ca"}},
		{"the metadata are of issuer", "", []string{"get", "issuer"}},
		{"is more than the realm's URL", "OAUTH2_PROVIDER=keycloak\nOAUTH2_REALM_URL=https://id.example.com/realms/main/protocol/openid-connect/token\n" + client, []string{"add", "keycloak"}},
		{"client_credentials needs one tenant", "OAUTH2_PROVIDER=entra\nOAUTH2_TENANT=common\n" + client, []string{"add", "entra"}},
		{"it is the client of a web application", "", []string{"import", "google", web}},
		{"A JSON web token could not be decoded", "", []string{"get", "app"}},
		{"the app is not installed for ", "", []string{"get", "owner"}},
		{"registers no client by itself", "", []string{"login", "--yes", closed.ResourceURL}},
		{"registers nobody without an initial access token", "", []string{"login", "--yes", guarded.ResourceURL}},
		{"names no authorization server, and asks for no token", "", []string{"login", "--yes", silent.URL + "/api"}},
	} {
		if !strings.Contains(string(page), "`"+test.says) {
			t.Errorf("the page has no `%s", test.says)
		}
		if r := h.tokenctl(t, test.stdin, test.args...); r.code == 0 || r.out != "" || !strings.Contains(r.err, test.says) {
			t.Errorf("%q: %v, want it to say %q", test.args, r, test.says)
		}
	}
}

// pythonWithRequests is one that has the package of the page's example.
func pythonWithRequests(t *testing.T) string {
	t.Helper()
	for _, name := range []string{python, "python3"} {
		if out, err := exec.Command(name, "-c", "import requests, sys; print(sys.executable)").Output(); err == nil {
			return strings.TrimSpace(string(out))
		}
	}
	t.Fatal("no Python has the package requests: run make deps")
	return ""
}

// wantResource spends a profile's token.
func wantResource(t *testing.T, h *home, s *authserver.Server, profile, subject string) {
	t.Helper()
	r := finish(t, h.command("curl", "-sSf", "-H", h.get(t, profile, "-o", "header"), s.ResourceURL))
	var claims struct {
		Subject string `json:"sub"`
	}
	if err := json.Unmarshal([]byte(r.out), &claims); err != nil || claims.Subject != subject {
		t.Errorf("the resource answers %v, want it to say that the token is of %s", r, subject)
	}
}
