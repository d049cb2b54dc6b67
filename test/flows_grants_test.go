package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokend/test/world"
)

const (
	askBearer   = "POST /token assertion=* client_id=bearer grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer scope=read 200"
	askGoogle   = "POST /google/token assertion=* grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer 200"
	askExchange = "POST /token Basic %sgrant_type=urn:ietf:params:oauth:grant-type:token-exchange %ssubject_token=* subject_token_type=urn:ietf:params:oauth:token-type:access_token 200"
)

// bearerProfile asserts as the client "bearer", by one of its keys.
func bearerProfile(p *world.Provider, alg, file string) string {
	return lines("OAUTH2_ISSUER="+p.Issuer, "OAUTH2_GRANT=jwt_bearer", "CLIENT_ID=bearer", "OAUTH2_SCOPE=read",
		"PRIVATE_KEY_FILE="+file, "PRIVATE_KEY_ID="+p.Keys[alg].ID, "PRIVATE_KEY_ALG="+alg)
}

func TestJWTBearer(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	for alg := range p.Keys {
		t.Run(alg, func(t *testing.T) {
			h.must(t, bearerProfile(p, alg, p.Keys[alg].PKCS8)+"OAUTH2_ASSERTION_SUBJECT=alice\n", "add", alg)
			token := h.get(t, alg)
			wantAsked(t, p, askBearer)
			wantActive(t, p, token, map[string]any{"client_id": "bearer", "sub": "alice", "scope": "read"})
		})
	}
	h.must(t, bearerProfile(p, "RS256", p.Keys["RS256"].PKCS1), "add", "itself")
	wantActive(t, p, h.get(t, "itself"), map[string]any{"sub": "bearer"})
	h.must(t, bearerProfile(p, "RS256", p.Keys["RS256"].PKCS1)+"OAUTH2_ASSERTION_AUDIENCE=token_endpoint\n", "add", "endpoint")
	wantActive(t, p, h.get(t, "endpoint"), nil)

	for _, test := range []struct {
		name, text string
		code       int
		says       string
	}{
		{"wrong/key", bearerProfile(p, "RS256", p.Keys["PS256"].PKCS8), 8,
			"asking 127.0.0.1:PORT for a token: invalid_grant: grant request is invalid (HTTP 400)" + checkKey},
		{"wrong/audience", bearerProfile(p, "RS256", p.Keys["RS256"].PKCS8) + "OAUTH2_ASSERTION_AUDIENCE=https://other.example\n", 8,
			"asking 127.0.0.1:PORT for a token: invalid_grant: grant request is invalid (HTTP 400)" + checkKey},
		{"wrong/scope", strings.Replace(bearerProfile(p, "RS256", p.Keys["RS256"].PKCS8), "=read\n", "=admin\n", 1), 8,
			"asking 127.0.0.1:PORT for a token: invalid_scope: requested scope is not allowed (HTTP 400)" + notAsked + "check OAUTH2_SCOPE, then: tokenctl reset "},
		{"encrypted", bearerProfile(p, "ES256", p.Keys["ES256"].Encrypted), 78,
			"line 5: PRIVATE_KEY_FILE: the key is encrypted; run: openssl pkey -in KEY -out NEWKEY; run: tokenctl edit "},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text, "add", test.name)
			h.wantLine(t, test.code, test.name+": "+test.says+test.name, "get", test.name)
		})
	}
}

// A service account, from the file as Google gives it.
func TestGoogleServiceAccount(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	const platform, drive = "https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/drive.readonly"
	if said := h.must(t, "", "import", "google", p.ServiceAccountFile, "--scope", platform); said != "robot\n" {
		t.Errorf("import says %q", said)
	}
	token := h.get(t, "robot")
	wantAsked(t, p, askGoogle)
	const email = "robot@test-world.iam.gserviceaccount.com"
	wantActive(t, p, token, map[string]any{"scope": platform, "sub": email})
	if again := h.get(t, "robot"); again != token {
		t.Error("the second get gives another token")
	}
	wantActive(t, p, h.get(t, "robot", "--scope", drive), map[string]any{"scope": drive})

	// Domain-wide delegation.
	h.must(t, "", "import", "google", p.ServiceAccountFile, "--as", "dev/alice", "--scope", platform, "--scope", drive)
	text := h.must(t, "", "show", "--reveal", "dev/alice")
	h.must(t, text+"OAUTH2_ASSERTION_SUBJECT=alice@example.com\n", "add", "--replace", "dev/alice")
	wantActive(t, p, h.get(t, "dev/alice"), map[string]any{"scope": platform + " " + drive, "sub": "alice@example.com"})

	h.must(t, text+"OAUTH2_ASSERTION_SUBJECT=bob@example.com\n", "add", "dev/bob")
	if r := h.tokenctl(t, "", "get", "dev/bob"); r.code != 8 || r.out != "" || !strings.Contains(r.err, ": unauthorized_client: ") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("for somebody else: %v", r)
	}
	h.must(t, "", "import", "google", p.ServiceAccountFile, "--as", "none")
	h.wantLine(t, 8, "none: asking 127.0.0.1:PORT for a token: invalid_scope: Empty or missing scope not allowed. (HTTP 400)"+notAsked+"check OAUTH2_SCOPE, then: tokenctl reset none", "get", "none")
	h.wantLine(t, 8, "robot: asking 127.0.0.1:PORT for a token: invalid_scope: Some requested scopes were invalid. (HTTP 400)"+notAsked+"check OAUTH2_SCOPE, then: tokenctl reset robot", "get", "robot", "--scope", "https://mail.google.com/")

	data, err := os.ReadFile(p.ServiceAccountFile)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := os.ReadFile(p.Keys["RS256"].PKCS8)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"wrong/key":     {"private_key", string(wrong)},
		"wrong/deleted": {"private_key_id", "0123"},
	} {
		var account map[string]any
		if err := json.Unmarshal(data, &account); err != nil {
			t.Fatal(err)
		}
		account[change[0]] = change[1]
		file := filepath.Join(t.TempDir(), "key.json")
		text, err := json.Marshal(account)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		h.must(t, "", "import", "google", file, "--as", name, "--scope", platform)
		h.wantLine(t, 8, name+": asking 127.0.0.1:PORT for a token: invalid_grant: grant request is invalid (HTTP 400)"+checkKey+name, "get", name)
	}
}

func TestTokenExchange(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	profile := func(more ...string) string {
		return lines(append([]string{"OAUTH2_ISSUER=" + p.Issuer, "OAUTH2_GRANT=token_exchange", "CLIENT_ID=exchange", "CLIENT_SECRET=" + p.Secrets["exchange"]}, more...)...)
	}
	h.must(t, lines("OAUTH2_ISSUER="+p.Issuer, "CLIENT_ID=cc-basic", "CLIENT_SECRET="+p.Secrets["cc-basic"], "OAUTH2_SCOPE=read write"), "add", "login")
	const from = "OAUTH2_SUBJECT_TOKEN_PROFILE=login"

	h.must(t, profile(from, "OAUTH2_AUDIENCE=billing", "OAUTH2_SCOPE=read"), "add", "billing")
	token := h.get(t, "billing")
	wantAsked(t, p, strings.Replace(ccBasic, "scope=read", "scope=read write", 1), fmt.Sprintf(askExchange, "audience=billing ", "scope=read "))
	wantActive(t, p, token, map[string]any{"client_id": "exchange", "sub": "cc-basic", "aud": "billing", "scope": "read"})

	// One login serves a second API.
	const resource = "https://api.example/opaque"
	h.must(t, profile(from, "OAUTH2_RESOURCE="+resource), "add", "other")
	token = h.get(t, "other")
	wantAsked(t, p, fmt.Sprintf(askExchange, "", "resource="+resource+" "))
	wantActive(t, p, token, map[string]any{"client_id": "exchange", "sub": "cc-basic", "aud": resource})

	h.must(t, native(p, "native"), "add", "dev/me")
	h.must(t, profile("OAUTH2_SUBJECT_TOKEN_PROFILE=dev/me", "OAUTH2_AUDIENCE=billing"), "add", "mine")
	h.wantLine(t, 4, "dev/me: login required (nobody is logged in); run: tokenctl login dev/me", "get", "mine")
	logsIn(t, h, p, "alice", "dev/me")
	asked(t, p)
	token = h.get(t, "mine")
	wantAsked(t, p, fmt.Sprintf(askExchange, "audience=billing ", ""))
	wantActive(t, p, token, map[string]any{"client_id": "exchange", "sub": "alice", "aud": "billing"})

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(h.get(t, "login")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(t, profile("OAUTH2_SUBJECT_TOKEN_FILE="+file, "OAUTH2_AUDIENCE=billing"), "add", "file")
	token = h.get(t, "file")
	wantAsked(t, p, fmt.Sprintf(askExchange, "audience=billing ", ""))
	wantActive(t, p, token, map[string]any{"sub": "cc-basic", "aud": "billing"})

	for _, test := range []struct {
		name, text string
		code       int
		says       string
	}{
		{"secret", strings.Replace(profile(from), p.Secrets["exchange"], "wrong-s3cret", 1), 8,
			"invalid_client: client authentication failed (HTTP 401)" + checkClient},
		{"audience", profile(from, "OAUTH2_AUDIENCE=nobody"), 8,
			"invalid_target: resource indicator is missing, or unknown (HTTP 400)" + notAsked + "check OAUTH2_RESOURCE and OAUTH2_AUDIENCE, then: tokenctl reset "},
		{"scope", profile(from, "OAUTH2_SCOPE=admin"), 8,
			"invalid_scope: subject_token has less scope (HTTP 400)" + notAsked + "check OAUTH2_SCOPE, then: tokenctl reset "},
		{"dead", profile("OAUTH2_SUBJECT_TOKEN=never-issued"), 8,
			"invalid_request: subject_token is invalid (HTTP 400)" + notAsked + "check OAUTH2_SUBJECT_TOKEN and OAUTH2_SUBJECT_TOKEN_TYPE, then: tokenctl reset "},
		{"type", profile(from, "OAUTH2_SUBJECT_TOKEN_TYPE=id_token"), 8,
			"invalid_request: subject_token_type is not urn:ietf:params:oauth:token-type:access_token (HTTP 400)" + notAsked + "check OAUTH2_SUBJECT_TOKEN_PROFILE, then: tokenctl reset "},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text, "add", test.name)
			h.wantLine(t, test.code, test.name+": asking 127.0.0.1:PORT for a token: "+test.says+test.name, "get", test.name)
		})
	}
	// What is wrong with the other profile's token is that profile's affair.
	h.must(t, lines("OAUTH2_ISSUER="+p.Issuer, "CLIENT_ID=cc-basic", "CLIENT_SECRET=wrong-s3cret"), "add", "broken")
	h.must(t, profile("OAUTH2_SUBJECT_TOKEN_PROFILE=broken"), "add", "on-broken")
	h.wantLine(t, 8, "broken: asking 127.0.0.1:PORT for a token: invalid_client: client authentication failed (HTTP 401)"+checkClient+"broken", "get", "on-broken")
	h.must(t, profile("OAUTH2_SUBJECT_TOKEN_PROFILE=nowhere"), "add", "on-nobody")
	h.wantLine(t, 78, "on-nobody: OAUTH2_SUBJECT_TOKEN_PROFILE: there is no profile nowhere; run: tokenctl edit on-nobody", "get", "on-nobody")
	h.must(t, profile("OAUTH2_SUBJECT_TOKEN_PROFILE=round/b"), "add", "round/a")
	h.must(t, profile("OAUTH2_SUBJECT_TOKEN_PROFILE=round/a"), "add", "round/b")
	h.wantLine(t, 78, "round/a: OAUTH2_SUBJECT_TOKEN_PROFILE: the chain of profiles comes back to itself: round/a -> round/b -> round/a; run: tokenctl edit round/a", "get", "round/a")

	// An assertion for another authorization server is no token for an API.
	h.must(t, profile(from, "OAUTH2_AUDIENCE=https://other.example", "OAUTH2_REQUESTED_TOKEN_TYPE=id-jag"), "add", "id-jag")
	if claims := verify(t, p, h.get(t, "id-jag")); claims["aud"] != "https://other.example" || claims["client_id"] != "exchange" || claims["sub"] != "cc-basic" {
		t.Errorf("claims: %v", claims)
	}
	if r := h.tokenctl(t, "", "get", "id-jag", "-o", "header"); r.code == 0 || r.out != "" || !strings.Contains(r.err, "N_A") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("a header of what is no access token: %v", r)
	}
}

// An App's installation, by each of its names.
func TestGitHubApp(t *testing.T) {
	p := sharedWorld(t)
	h := newHome(t)
	h.must(t, "", "init")
	g := p.GitHub
	profile := func(installation string, more ...string) string {
		return lines(append([]string{"OAUTH2_PROVIDER=github-app", "OAUTH2_DOMAIN=" + g.URL, fmt.Sprintf("GITHUB_APP_ID=%d", g.AppID),
			"GITHUB_INSTALLATION=" + installation, "PRIVATE_KEY_FILE=" + g.KeyFile}, more...)...)
	}
	const issue = "POST /api/v3/app/installations/51000001/access_tokens Bearer 201"
	for _, test := range []struct {
		name, text   string
		asked        []string
		repositories []string
	}{
		{"number", profile("51000001"), []string{issue}, []string{"octo-org/widgets", "octo-org/gadgets"}},
		{"owner", profile("octo-org"), []string{"GET /api/v3/users/octo-org/installation Bearer 200", issue}, []string{"octo-org/widgets", "octo-org/gadgets"}},
		{"user", profile("octocat"), []string{"GET /api/v3/users/octocat/installation Bearer 200", strings.Replace(issue, "51000001", "51000002", 1)}, []string{"octocat/hello-world"}},
		{"repository", profile("octo-org/widgets"), []string{"GET /api/v3/repos/octo-org/widgets/installation Bearer 200", issue}, []string{"octo-org/widgets", "octo-org/gadgets"}},
		{"client-id", strings.Replace(profile("51000001"), fmt.Sprint(g.AppID), g.ClientID, 1), []string{issue}, []string{"octo-org/widgets", "octo-org/gadgets"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text, "add", test.name)
			token := h.get(t, test.name)
			if again := h.get(t, test.name); again != token {
				t.Error("the second get gives another token")
			}
			wantAsked(t, p, test.asked...)
			if got := repositories(t, p, token); !slices.Equal(got, test.repositories) {
				t.Errorf("the token reaches %q, want %q", got, test.repositories)
			}
			wantAsked(t, p, "GET /api/v3/installation/repositories Bearer 200")
		})
	}
	stranger := strings.Replace(profile("51000001"), g.KeyFile, p.Keys["RS256"].PKCS1, 1)
	for _, test := range []struct {
		name, text string
		code       int
		says       string
	}{
		{"stranger", stranger, 8, "asking 127.0.0.1:PORT for an installation's token: A JSON web token could not be decoded (HTTP 401)" + checkApp},
		{"other-app", strings.Replace(profile("51000001"), fmt.Sprint(g.AppID), "7654321", 1), 8, "asking 127.0.0.1:PORT for an installation's token: A JSON web token could not be decoded (HTTP 401)" + checkApp},
		{"asleep", profile("asleep"), 8, "asking 127.0.0.1:PORT for an installation's token: This installation has been suspended (HTTP 403)" + checkGitHub},
		{"nobody", profile("nobody"), 8, "asking 127.0.0.1:PORT for the installation: the app is not installed for nobody (HTTP 404)" + checkGitHub},
		{"no-number", profile("99"), 8, "asking 127.0.0.1:PORT for an installation's token: Not Found (HTTP 404)" + checkGitHub},
		{"no-repository", profile("octo-org/secrets"), 8, "asking 127.0.0.1:PORT for the installation: the app is not installed for octo-org/secrets (HTTP 404)" + checkGitHub},
		{"encrypted", strings.Replace(profile("51000001"), g.KeyFile, p.Keys["RS256"].Encrypted, 1), 78, "line 5: PRIVATE_KEY_FILE: the key is encrypted; run: openssl pkey -in KEY -out NEWKEY; run: tokenctl edit "},
		{"ec", strings.Replace(profile("51000001"), g.KeyFile, p.Keys["ES256"].SEC1, 1), 78, "line 5: PRIVATE_KEY_FILE: GitHub takes the RSA key that it made for the App, and RS256 only; run: tokenctl edit "},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.must(t, test.text, "add", test.name)
			h.wantLine(t, test.code, test.name+": "+test.says+test.name, "get", test.name)
		})
	}
}

// repositories asks GitHub what an installation's token reaches.
func repositories(t *testing.T, p *world.Provider, token string) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.GitHub.URL+"/api/v3/installation/repositories", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	var names []string
	for _, r := range ask(t, p, req)["repositories"].([]any) {
		names = append(names, r.(map[string]any)["full_name"].(string))
	}
	return names
}
