package test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// thief is another host, and what reached it.
type thief struct {
	*httptest.Server

	mu  sync.Mutex
	got strings.Builder
}

func newThief(t *testing.T) *thief {
	th := new(thief)
	th.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		th.mu.Lock()
		defer th.mu.Unlock()
		fmt.Fprintf(&th.got, "%s %s\n", r.Method, r.URL)
		_ = r.Header.Write(&th.got)
		fmt.Fprintf(&th.got, "\n%s\n", body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"stolen","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(th.Close)
	return th
}

func (th *thief) loot() string {
	th.mu.Lock()
	defer th.mu.Unlock()
	return th.got.String()
}

// hostile is an authorization server, an API and GitHub in one, which knows what
// to answer, except that one path answers as it was told.
type hostile struct {
	*httptest.Server
	path   string
	answer http.HandlerFunc
	asked  atomic.Int64 // for that path
}

func newHostile(t *testing.T, path string, answer http.HandlerFunc) *hostile {
	s := &hostile{path: path, answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == s.path {
		s.asked.Add(1)
		s.answer(w, r)
		return
	}
	metadata := map[string]any{
		"issuer": s.URL, "authorization_endpoint": s.URL + "/authorize", "token_endpoint": s.URL + "/token",
		"device_authorization_endpoint": s.URL + "/device", "introspection_endpoint": s.URL + "/introspect",
		"revocation_endpoint": s.URL + "/revoke", "pushed_authorization_request_endpoint": s.URL + "/par",
		"registration_endpoint": s.URL + "/register", "jwks_uri": s.URL + "/jwks",
		"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
		"grant_types_supported": []string{"authorization_code", "refresh_token", "client_credentials"},
	}
	status, answer := http.StatusOK, map[string]any(nil)
	switch path := r.URL.Path; path {
	case "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server":
		// Each is asked only where the other is not there.
		if strings.HasPrefix(s.path, "/.well-known/") && s.path != "/.well-known/oauth-protected-resource/api" {
			status = http.StatusNotFound
		} else {
			answer = metadata
		}
	case "/.well-known/oauth-protected-resource/api":
		answer = map[string]any{"resource": s.URL + "/api", "authorization_servers": []string{s.URL}}
	case "/api":
		w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="`+s.URL+`/.well-known/oauth-protected-resource/api"`)
		status = http.StatusUnauthorized
	case "/token":
		answer = map[string]any{"access_token": "CANARY-access-token-0e9d", "token_type": "Bearer", "expires_in": 3600}
	case "/introspect":
		answer = map[string]any{"active": true}
	case "/device":
		answer = map[string]any{"device_code": "CANARY-device-code-77aa", "user_code": "ABCD-EFGH", "verification_uri": s.URL + "/d", "expires_in": 60, "interval": 1}
	case "/register":
		status, answer = http.StatusCreated, map[string]any{"client_id": "c"}
	case "/api/v3/users/octo/installation":
		answer = map[string]any{"id": 1}
	case "/revoke":
	default:
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if answer != nil {
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// endpoint is one that tokend speaks to, and how to make it.
type endpoint struct {
	name, path string
	text       string // of the profile; SERVER stands for its address, PEM for a key's file
	secret     bool   // something secret is sent there
	do         [][]string
	stdin      string
}

const (
	hostileCC     = "OAUTH2_TOKEN_URL=SERVER/token\nOAUTH2_REVOCATION_URL=SERVER/revoke\nOAUTH2_INTROSPECTION_URL=SERVER/introspect\nCLIENT_ID=c\nCLIENT_SECRET=CANARY-client-secret-51d3\n"
	hostileIssuer = "OAUTH2_ISSUER=SERVER\nCLIENT_ID=c\nCLIENT_SECRET=CANARY-client-secret-51d3\n"
)

var (
	getP      = [][]string{{"get", "p"}}
	loginP    = [][]string{{"login", "p"}}
	loginURL  = [][]string{{"login", "--yes", "SERVER/api"}}
	endpoints = []endpoint{
		{"token, client_secret_basic", "/token", hostileCC, true, getP, ""},
		{"token, client_secret_post", "/token", hostileCC + "OAUTH2_CLIENT_AUTH=client_secret_post\n", true, getP, ""},
		{"token, refresh_token", "/token", hostileIssuer + "OAUTH2_GRANT=refresh_token\nOAUTH2_REFRESH_TOKEN=CANARY-refresh-token-8c21\n", true, getP, ""},
		{"token, private_key_jwt", "/token", "OAUTH2_ISSUER=SERVER\nCLIENT_ID=c\nOAUTH2_CLIENT_AUTH=private_key_jwt\nPRIVATE_KEY_FILE=PEM\n", true, getP, ""},
		{"token, jwt_bearer", "/token", "OAUTH2_ISSUER=SERVER\nCLIENT_ID=c\nOAUTH2_GRANT=jwt_bearer\nPRIVATE_KEY_FILE=PEM\n", true, getP, ""},
		{"token, token_exchange", "/token", hostileIssuer + "OAUTH2_GRANT=token_exchange\nOAUTH2_SUBJECT_TOKEN=CANARY-subject-token-19f0\n", true, getP, ""},
		{"token, device_code", "/token", hostileIssuer + "OAUTH2_GRANT=device_code\n", true, loginP, ""},
		{"device authorization", "/device", hostileIssuer + "OAUTH2_GRANT=device_code\n", true, loginP, ""},
		{"pushed authorization", "/par", hostileIssuer + "OAUTH2_GRANT=authorization_code\nOAUTH2_PAR=on\n", true, loginP, ""},
		{"introspection", "/introspect", hostileCC, true, [][]string{{"get", "p"}, {"inspect", "p"}}, ""},
		{"revocation", "/revoke", hostileCC, true, [][]string{{"get", "p"}, {"revoke", "p"}}, ""},
		{"registration, RFC 7591", "/register", "", false, loginURL, ""},
		{"registration, name and password", "/v1/register", "", true, [][]string{{"register", "SERVER/v1/register", "--as", "r", "--token-url", "SERVER/token"}}, "alice\nCANARY-password-3b3b\n"},
		{"GitHub, the installation", "/api/v3/users/octo/installation", "OAUTH2_PROVIDER=github-app\nOAUTH2_DOMAIN=SERVER\nGITHUB_APP_ID=1\nGITHUB_INSTALLATION=octo\nPRIVATE_KEY_FILE=PEM\n", true, getP, ""},
		{"GitHub, its token", "/api/v3/app/installations/1/access_tokens", "OAUTH2_PROVIDER=github-app\nOAUTH2_DOMAIN=SERVER\nGITHUB_APP_ID=1\nGITHUB_INSTALLATION=1\nPRIVATE_KEY_FILE=PEM\n", true, getP, ""},
		{"metadata, OpenID Connect", "/.well-known/openid-configuration", hostileIssuer, false, getP, ""},
		{"metadata, RFC 8414", "/.well-known/oauth-authorization-server", hostileIssuer, false, getP, ""},
		{"metadata, RFC 9728", "/.well-known/oauth-protected-resource/api", "", false, loginURL, ""},
		{"the API, asked for its metadata", "/api", "", false, loginURL, ""},
	}
)

// canaries are what the profiles and answers above have in them, and what is made
// of the keys.
var canaries = []string{"CANARY-", "Basic ", "client_assertion", "assertion=", "Bearer "}

// attack has a home's daemon speak to an endpoint that answers so.
func (e endpoint) attack(t *testing.T, h *home, profile, key string, answer http.HandlerFunc) (out string, asked int64) {
	t.Helper()
	s := newHostile(t, e.path, answer)
	fill := strings.NewReplacer("SERVER", s.URL, "PEM", key)
	if e.text != "" {
		h.must(t, fill.Replace(e.text), "add", profile)
	}
	for _, args := range e.do {
		argv := []string{filepath.Join(h.bin, "tokenctl")}
		for _, arg := range args {
			if arg == "p" {
				arg = profile
			}
			argv = append(argv, fill.Replace(arg))
		}
		cmd := h.command(argv...)
		cmd.Stdin = strings.NewReader(e.stdin)
		r := finish(t, cmd)
		if args[0] != "get" || len(e.do) == 1 {
			out = r.out + r.err
		}
	}
	return out, s.asked.Load()
}

var redirectCodes = []int{301, 302, 303, 307, 308}

// No endpoint can send a secret, or any request at all, to another host.
func TestRedirects(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must(t, "", "init")
	key := rsaKey(t)
	secret := 0
	for i, e := range endpoints {
		for _, code := range redirectCodes {
			th := newThief(t)
			_, asked := e.attack(t, h, fmt.Sprintf("p%d-%d", i, code), key, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", th.URL+"/stolen")
				w.WriteHeader(code)
			})
			if asked == 0 {
				t.Errorf("%s, %d: the endpoint was never asked", e.name, code)
			}
			if loot := th.loot(); loot != "" {
				secret += len(loot)
				t.Errorf("%s, %d: the other host got\n%s", e.name, code, loot)
			}
		}
	}
	t.Logf("%d endpoints x %d codes: %d secret bytes", len(endpoints), len(redirectCodes), secret)
}

// The same, where redirects are followed.
func TestRedirectsThatAreFollowed(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.relink(t, mutant(t, "redirects",
		edit{"oauth/exchange.go", "res, err := r.http.RoundTrip(", "res, err := (&http.Client{Transport: r.http}).Do("},
		edit{"oauth/exchange.go", "req.Body = io.NopCloser(strings.NewReader(body))",
			"req.Body = io.NopCloser(strings.NewReader(body)); req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }"}))
	h.must(t, "", "init")
	key := rsaKey(t)
	secret, leaky := 0, make(map[string]bool)
	for i, e := range endpoints {
		th := newThief(t)
		e.attack(t, h, "p"+strconv.Itoa(i), key, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", th.URL+"/stolen")
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		loot := th.loot()
		for _, canary := range canaries {
			if strings.Contains(loot, canary) {
				leaky[e.name] = true
			}
		}
		secret += len(loot)
		if e.secret && !leaky[e.name] {
			t.Errorf("%s: even where redirects are followed, the other host gets %q", e.name, loot)
		}
	}
	t.Logf("redirects followed: %d bytes, of them secrets from %d endpoints: %q", secret, len(leaky), slices.Sorted(maps.Keys(leaky)))
}

// What a hostile server says reaches nobody's terminal as it stands, and its
// tokens nobody's header.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must(t, "", "init")
	key := rsaKey(t)
	reply := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	cells := 0
	for i, e := range endpoints {
		for what, answer := range map[string]http.HandlerFunc{
			"escapes": reply(400, `{"error":"invalid_client\u001b]0;x\u0007","error_description":"\u001b[2J\u001b]52;c;cm0=\u0007\r\nfake: line\u009b31m\u202e","message":"\u001b[31m"}`),
			"an echo": func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				b, _ := json.Marshal(map[string]any{"error": "invalid_request", "message": string(body) + r.Header.Get("Authorization"),
					"error_description": "for " + string(body) + " by " + r.Header.Get("Authorization") + " of CANARY-client-secret-51d3"})
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(400)
				_, _ = w.Write(b)
			},
			"giant headers": func(w http.ResponseWriter, _ *http.Request) {
				for i := range 64 {
					w.Header().Set("X-"+strconv.Itoa(i), strings.Repeat("\x41", 16<<10))
				}
				w.WriteHeader(200)
			},
			"control characters in a token": reply(200, `{"access_token":"a\r\nX-Evil: 1","token":"a\r\nX-Evil: 1","expires_at":"2099-01-01T00:00:00Z","token_type":"Bearer","expires_in":3600,"client_id":"c\u001b[2J","client_key":"k\n","client_secret":"s\u0000","device_code":"d\n","user_code":"\u001b[2J","verification_uri":"http://x/\u001b","interval":1,"expires_in":60,"request_uri":"urn:\u001b[2J"}`),
		} {
			cells++
			out, asked := e.attack(t, h, fmt.Sprintf("p%d-%s", i, strings.ReplaceAll(what, " ", "-")), key, answer)
			if asked == 0 {
				t.Errorf("%s, %s: the endpoint was never asked", e.name, what)
			}
			for _, r := range out {
				if r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x202e) {
					t.Errorf("%s, %s: %U is in %q", e.name, what, r, out)
					break
				}
			}
			for _, bad := range []string{"CANARY-client", "CANARY-refresh", "CANARY-device", "CANARY-subject", "CANARY-password", "\nX-Evil", "\nfake"} {
				if strings.Contains(out, bad) {
					t.Errorf("%s, %s: %q is in %q", e.name, what, bad, out)
				}
			}
		}
	}
	t.Logf("%d endpoints, %d answers: nothing shown as it stands", len(endpoints), cells)
}

func rsaKey(t *testing.T) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return keyFile(t, k)
}
