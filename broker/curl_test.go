package broker_test

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
)

// argv runs a command with a curl that prints its arguments.
func argv(t *testing.T, command string, environment ...string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte("#!/bin/sh\nprintf '%s\\0' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
	cmd.Env = append(environment, "PATH="+dir+":/usr/bin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

const reserved = "a'b\"c$HOME`id`\\ !*?[x]{y,z}~#;&|<>()%@/+=:é"

func TestCurl(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	const (
		tokenURL = "https://as.example/to'ken;$(id)?a=b&c=[1-3]"
		jwtType  = "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	)
	key, _ := signingKey(t)
	begin := []string{"-sS", "-g", "-H", "Accept: application/json"}
	form := func(fields ...string) []string {
		list := slices.Clone(begin)
		for _, f := range fields {
			list = append(list, "--data-urlencode", f)
		}
		return list
	}
	for name, test := range map[string]struct {
		text []string
		r    broker.Request
		env  []string
		want []string
	}{
		"basic": {
			text: []string{"CLIENT_SECRET", "s3cret"},
			env:  []string{"CLIENT_SECRET=s3cret"},
			want: append(form("grant_type=client_credentials"), "-u", url.QueryEscape(reserved)+":s3cret"),
		},
		"basic, reserved characters": {
			text: []string{"CLIENT_SECRET", "a'b %é"},
			env:  []string{"CLIENT_SECRET=a'b %é"},
			want: append(form("grant_type=client_credentials"), "-u", url.QueryEscape(reserved)+":%61%27%62%20%25%c3%a9"),
		},
		"raw": {
			text: []string{"CLIENT_ID", "a'b $c", "CLIENT_SECRET", "a'b %é", "OAUTH2_BASIC_ENCODING", "raw"},
			env:  []string{"CLIENT_SECRET=a'b %é"},
			want: append(form("grant_type=client_credentials"), "-u", "a'b $c:a'b %é"),
		},
		"post": {
			text: []string{"CLIENT_SECRET", "s", "OAUTH2_CLIENT_AUTH", "client_secret_post", "OAUTH2_SCOPE", "r'ead $w",
				"OAUTH2_AUDIENCE", "one t'wo", "OAUTH2_RESOURCE", "https://api.example/$x", "OAUTH2_EXTRA_key", "CANARY"},
			env: []string{"CLIENT_SECRET=" + reserved, "OAUTH2_EXTRA_key=@/etc/passwd"},
			want: form("grant_type=client_credentials", "scope=$w r'ead", "audience=one", "audience=t'wo", "resource=https://api.example/$x",
				"key=@/etc/passwd", "client_id="+reserved, "client_secret="+reserved),
		},
		"the caller's": {
			text: []string{"CLIENT_SECRET", "s", "OAUTH2_CLIENT_AUTH", "client_secret_post", "OAUTH2_SCOPE", "read"},
			r:    broker.Request{Scopes: []string{"$a", "b'"}, Audience: "x"},
			want: form("grant_type=client_credentials", "scope=$a b'", "audience=x", "client_id="+reserved, "client_secret="),
		},
		"none": {
			text: []string{"OAUTH2_GRANT", "refresh_token", "OAUTH2_REFRESH_TOKEN", "CANARY"},
			env:  []string{"REFRESH_TOKEN=r t"},
			want: form("grant_type=refresh_token", "refresh_token=r t", "client_id="+reserved),
		},
		"private_key_jwt": {
			text: []string{"PRIVATE_KEY", key, "OAUTH2_DPOP", "on"},
			env:  []string{"CLIENT_ASSERTION=j.w.t", "DPOP_PROOF=p.r.f"},
			want: append(slices.Concat(begin, []string{"-H", "DPoP: p.r.f"}), form("grant_type=client_credentials", "client_id="+reserved, jwtType, "client_assertion=j.w.t")[4:]...),
		},
		"client_secret_jwt": {
			text: []string{"CLIENT_SECRET", strings.Repeat("s", 32), "OAUTH2_CLIENT_AUTH", "client_secret_jwt"},
			env:  []string{"CLIENT_ASSERTION=j.w.t"},
			want: form("grant_type=client_credentials", "client_id="+reserved, jwtType, "client_assertion=j.w.t"),
		},
		"jwt_bearer": {
			text: []string{"OAUTH2_GRANT", "jwt_bearer", "PRIVATE_KEY", key, "OAUTH2_SCOPE", "read"},
			env:  []string{"ASSERTION=j.w.t"},
			want: form("grant_type="+oauth.GrantJWTBearer, "assertion=j.w.t", "scope=read", "client_id="+reserved),
		},
		"google": {
			text: []string{"OAUTH2_PROVIDER", "google", "PRIVATE_KEY", key, "OAUTH2_SCOPE", "read"},
			env:  []string{"ASSERTION=j.w.t"},
			want: form("grant_type="+oauth.GrantJWTBearer, "assertion=j.w.t"),
		},
		"token_exchange": {
			text: []string{"OAUTH2_GRANT", "token_exchange", "OAUTH2_SUBJECT_TOKEN_PROFILE", "other", "OAUTH2_REQUESTED_TOKEN_TYPE", "jwt"},
			env:  []string{"SUBJECT_TOKEN=s t"},
			want: form("grant_type="+oauth.GrantTokenExchange, "subject_token=s t", "subject_token_type=urn:ietf:params:oauth:token-type:access_token",
				"requested_token_type=urn:ietf:params:oauth:token-type:jwt", "client_id="+reserved),
		},
		"what no terminal shows": {
			text: []string{"CLIENT_ID", "a\u202eb", "OAUTH2_CLIENT_AUTH", "none", "OAUTH2_GRANT", "refresh_token", "OAUTH2_REFRESH_TOKEN", "CANARY"},
			env:  []string{"CLIENT_ID=id", "REFRESH_TOKEN=rt"},
			want: form("grant_type=refresh_token", "refresh_token=rt", "client_id=id"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := append([]string{"OAUTH2_TOKEN_URL", tokenURL}, test.text...)
			if !slices.Contains(test.text, "CLIENT_ID") {
				text = append(text, "CLIENT_ID", reserved)
			}
			h.put(t, "dev/network", lines(text...))
			test.r.Profile = "dev/network"
			x := h.explain(t, test.r, false)
			if strings.Contains(x.Curl, "CANARY") || strings.ContainsAny(x.Curl, "\n\x1b") {
				t.Error(x.Curl)
			}
			if diff := cmp.Diff(append(test.want, tokenURL), argv(t, x.Curl, test.env...)); diff != "" {
				t.Error(x.Curl, diff, h.findings(x))
			}
		})
	}
	h.put(t, "dev/network", lines("OAUTH2_PROVIDER", "github-app", "GITHUB_APP_ID", "7", "GITHUB_INSTALLATION", "octo-org/repo", "PRIVATE_KEY", rsaText(t)))
	want := []string{"-sS", "-g", "-H", "Accept: application/json", "-H", "X-GitHub-Api-Version: 2022-11-28", "-H", "Content-Type: application/json",
		"-H", "Authorization: Bearer j.w.t", "-d", "{}", "https://api.github.com/app/installations/42/access_tokens"}
	if diff := cmp.Diff(want, argv(t, h.explain(t, plain, false).Curl, "ASSERTION=j.w.t", "INSTALLATION_ID=42")); diff != "" {
		t.Error(diff)
	}
	h.put(t, "dev/network", h.interactive())
	if got := argv(t, h.explain(t, plain, false).Curl, "TOKEN_URL=https://as.example/token"); got[len(got)-1] != "https://as.example/token" {
		t.Errorf("got %q", got)
	}
}

// A person who pastes the command gets a token.
func TestCurlGetsAToken(t *testing.T) {
	t.Parallel()
	const odd = `CANARY @&=+%'"$HOME\ é`
	for auth, test := range map[string]struct{ id, secret, text string }{
		authserver.AuthBasic: {odd, odd, ""},
		"plain":              {"client", "CANARY-s3cret", ""},
		authserver.AuthRaw:   {"cli ent", odd, "raw"},
		authserver.AuthPost:  {odd, "@" + odd, "client_secret_post"},
	} {
		t.Run(auth, func(t *testing.T) {
			registered := authserver.Client{ID: test.id, Secret: test.secret, Auth: auth, Opaque: true, Scope: "read write"}
			if auth == "plain" {
				registered.Auth = authserver.AuthBasic
			}
			h := newHouse(t, authserver.Config{Clients: []authserver.Client{registered}})
			text := []string{"OAUTH2_TOKEN_URL", h.server.TokenURL, "CLIENT_ID", test.id, "CLIENT_SECRET", test.secret, "OAUTH2_SCOPE", "read write"}
			switch test.text {
			case "raw":
				text = append(text, "OAUTH2_BASIC_ENCODING", "raw")
			case "client_secret_post":
				text = append(text, "OAUTH2_CLIENT_AUTH", test.text)
			}
			h.put(t, "dev/network", lines(text...))
			h.get(t, plain) // as we do it
			command := h.explain(t, plain, false).Curl
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
			cmd.Env = []string{"PATH=/usr/bin:/bin", "CLIENT_SECRET=" + test.secret, "http_proxy=http://127.0.0.1:1"}
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			var answer struct {
				AccessToken string `json:"access_token"`
				Scope       string
			}
			if err := json.Unmarshal(out, &answer); err != nil || answer.AccessToken == "" || answer.Scope != "read write" {
				t.Errorf("%s: %v, %s", command, err, out)
			}
		})
	}
}
