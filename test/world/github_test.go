package world

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGitHub(t *testing.T) {
	p := provider
	hub := p.GitHub
	key := load(t, hub.KeyFile)
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	header := claims{"alg": "RS256", "typ": "JWT"}
	body := claims{"iss": strconv.FormatInt(hub.AppID, 10), "iat": in(-time.Minute), "exp": in(9 * time.Minute)}
	app := "Bearer " + sign(t, key, header, body)
	ask := func(t *testing.T, method, path, authorization, body string) (int, map[string]any) {
		t.Helper()
		header := http.Header{"Accept": {"application/vnd.github+json"}}
		if authorization != "" {
			header.Set("Authorization", authorization)
		}
		resp, got := exchange(t, method, hub.URL+path, header, body, &tls.Config{})
		return resp.StatusCode, got
	}
	tokens := func(owner string) string {
		return fmt.Sprintf("/app/installations/%d/access_tokens", hub.Installations[owner])
	}

	for name, iss := range map[string]any{"number": hub.AppID, "number as text": strconv.FormatInt(hub.AppID, 10), "client ID": hub.ClientID} {
		t.Run("iss is the "+name, func(t *testing.T) {
			status, got := ask(t, "GET", "/app", "Bearer "+sign(t, key, header, with(body, claims{"iss": iss})), "")
			if status != 200 || got["id"] != float64(hub.AppID) || got["client_id"] != hub.ClientID {
				t.Errorf("%d %v", status, got)
			}
		})
	}

	for path, owner := range map[string]string{
		"/orgs/octo-org/installation": "octo-org", "/orgs/Octo-Org/installation": "octo-org",
		"/users/octocat/installation": "octocat", "/users/octo-org/installation": "octo-org",
		"/repos/octo-org/widgets/installation": "octo-org", "/repos/octocat/hello-world/installation": "octocat",
		"/orgs/asleep/installation": "asleep",
		"/orgs/nobody/installation": "", "/orgs/octocat/installation": "", "/users/nobody/installation": "",
		"/repos/octo-org/hello-world/installation": "", "/repos/nobody/widgets/installation": "",
	} {
		t.Run(path, func(t *testing.T) {
			status, got := ask(t, "GET", path, app, "")
			if owner == "" {
				if status != 404 || got["message"] != "Not Found" {
					t.Errorf("%d %v", status, got)
				}
				return
			}
			id := hub.Installations[owner]
			if status != 200 || got["id"] != float64(id) || got["access_tokens_url"] != hub.URL+tokens(owner) || got["app_id"] != float64(hub.AppID) {
				t.Errorf("%d %v", status, got)
			}
		})
	}

	t.Run("token", func(t *testing.T) {
		before := time.Now().Truncate(time.Second)
		status, got := ask(t, "POST", tokens("octo-org"), app, "")
		token, _ := got["token"].(string)
		if status != 201 || !strings.HasPrefix(token, "ghs_") || len(token) != 40 {
			t.Fatalf("%d %v", status, got)
		}
		at, err := time.Parse("2006-01-02T15:04:05Z", got["expires_at"].(string))
		if life := at.Sub(before); err != nil || life < 1800*time.Second || life > 1815*time.Second {
			t.Errorf("expires_at %v: %v", got["expires_at"], err)
		}
		want := claims{"permissions": claims{"contents": "read", "issues": "write", "metadata": "read"}, "repository_selection": "all"}
		if diff := cmp.Diff(want, with(got, claims{"token": nil, "expires_at": nil})); diff != "" {
			t.Error(diff)
		}
		for _, scheme := range []string{"Bearer ", "token "} {
			status, got := ask(t, "GET", "/installation/repositories", scheme+token, "")
			if status != 200 || got["total_count"] != 2.0 {
				t.Errorf("%d %v", status, got)
			}
		}
		if status, _ := ask(t, "DELETE", "/installation/token", "Bearer "+token, ""); status != 204 {
			t.Error(status)
		}
		if status, got := ask(t, "GET", "/installation/repositories", "Bearer "+token, ""); status != 401 || got["message"] != "Bad credentials" {
			t.Errorf("revoked: %d %v", status, got)
		}
	})
	t.Run("token for less", func(t *testing.T) {
		status, got := ask(t, "POST", tokens("octo-org"), app, `{"repositories":["widgets"],"permissions":{"issues":"read"}}`)
		if status != 201 || got["repository_selection"] != "selected" || len(got["repositories"].([]any)) != 1 {
			t.Fatalf("%d %v", status, got)
		}
		if diff := cmp.Diff(claims{"issues": "read", "metadata": "read"}, got["permissions"]); diff != "" {
			t.Error(diff)
		}
		_, got = ask(t, "GET", "/installation/repositories", "Bearer "+got["token"].(string), "")
		if got["total_count"] != 1.0 {
			t.Errorf("%v", got)
		}
	})

	const undecoded = "A JSON web token could not be decoded"
	const badExp = "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"
	const badIat = "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
	jwt := func(change claims) string { return "Bearer " + sign(t, key, header, with(body, change)) }
	for _, tt := range []struct {
		name, method, path, authorization, body string
		status                                  int
		message                                 string
	}{
		{"no JWT", "GET", "/app", "", "", 401, "Requires authentication"},
		{"not a JWT", "GET", "/app", "Bearer abc", "", 401, undecoded},
		{"another scheme", "GET", "/app", "token " + strings.TrimPrefix(app, "Bearer "), "", 401, "Requires authentication"},
		{"wrong key", "GET", "/app", "Bearer " + sign(t, stranger, header, body), "", 401, undecoded},
		{"no signature", "GET", "/app", "Bearer " + sign(t, nil, claims{"alg": "none"}, body), "", 401, undecoded},
		{"PS256", "GET", "/app", "Bearer " + sign(t, key, claims{"alg": "PS256"}, body), "", 401, undecoded},
		{"wrong iss", "GET", "/app", jwt(claims{"iss": "7"}), "", 401, undecoded},
		{"no iss", "GET", "/app", jwt(claims{"iss": nil}), "", 401, undecoded},
		{"iat a little ahead", "GET", "/app", jwt(claims{"iat": in(30 * time.Second)}), "", 200, ""},
		{"iat in the future", "GET", "/app", jwt(claims{"iat": in(90 * time.Second)}), "", 401, badIat},
		{"no iat", "GET", "/app", jwt(claims{"iat": nil}), "", 401, badIat},
		{"expired", "GET", "/app", jwt(claims{"exp": in(-time.Second)}), "", 401, badExp},
		{"no exp", "GET", "/app", jwt(claims{"exp": nil}), "", 401, badExp},
		{"exp over ten minutes ahead", "GET", "/app", jwt(claims{"exp": in(630 * time.Second)}), "", 401, "'Expiration time' claim ('exp') is too far in the future"},
		{"unknown installation", "POST", "/app/installations/7/access_tokens", app, "", 404, "Not Found"},
		{"token by a stranger", "POST", tokens("octo-org"), "Bearer " + sign(t, stranger, header, body), "", 401, undecoded},
		{"suspended", "POST", tokens("asleep"), app, "", 403, "This installation has been suspended"},
		{"permission not granted", "POST", tokens("octo-org"), app, `{"permissions":{"contents":"write"}}`, 422, "The permissions requested are not granted to this installation."},
		{"unknown repository", "POST", tokens("octo-org"), app, `{"repositories":["hello-world"]}`, 422,
			"There is at least one repository that does not exist or is not accessible to the parent installation."},
		{"not JSON", "POST", tokens("octo-org"), app, "{", 400, "Problems parsing JSON"},
		{"repositories by JWT", "GET", "/installation/repositories", app, "", 401, "Bad credentials"},
		{"repositories by nothing", "GET", "/installation/repositories", "", "", 401, "Bad credentials"},
		{"another path", "GET", "/user", app, "", 404, "Not Found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, got := ask(t, tt.method, tt.path, tt.authorization, tt.body)
			if message, _ := got["message"].(string); status != tt.status || message != tt.message {
				t.Errorf("%d %v", status, got)
			}
		})
	}
	t.Run("nobody's browser", func(t *testing.T) {
		resp, got := exchange(t, "GET", hub.URL+"/app", http.Header{"Authorization": {app}, "User-Agent": {""}}, "", &tls.Config{})
		if resp.StatusCode != 403 {
			t.Errorf("%d %v", resp.StatusCode, got)
		}
	})
	t.Run("all installations", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", hub.URL+"/app/installations", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", app)
		got := map[string]int64{}
		for _, installation := range list(t, req) {
			got[installation.Account.Login] = installation.ID
		}
		if diff := cmp.Diff(hub.Installations, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestGitHubExpiredToken(t *testing.T) {
	p := open(t, "GITHUB_TTL=0")
	jwt := sign(t, load(t, p.GitHub.KeyFile), claims{"alg": "RS256"}, claims{"iss": p.GitHub.ClientID, "iat": in(0), "exp": in(time.Minute)})
	tokens := fmt.Sprintf("%s/app/installations/%d/access_tokens", p.GitHub.URL, p.GitHub.Installations["octocat"])
	_, got := send(t, "POST", tokens, "Bearer "+jwt, "", nil)
	resp, got := send(t, "GET", p.GitHub.URL+"/installation/repositories", "Bearer "+got["token"].(string), "", nil)
	if resp.StatusCode != 401 || got["message"] != "Bad credentials" {
		t.Errorf("%d %v", resp.StatusCode, got)
	}
}

type installation struct {
	ID      int64 `json:"id"`
	Account struct {
		Login string `json:"login"`
	} `json:"account"`
}

func list(t *testing.T, req *http.Request) []installation {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []installation
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}
