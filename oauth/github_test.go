package oauth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const gitHubHeader = "Authorization: Bearer j.w.t"

func gitHubGet(addr, path string) string {
	return wireOf("GET", path, addr, "", testBoth, gitHubHeader, "X-Github-Api-Version: 2022-11-28")
}

func TestGitHubInstallation(t *testing.T) {
	const found = `{"id":9007199254740993,"account":{}}`
	missing := status("404 Not Found", `{"message":"Not Found"}`)
	for owner, row := range map[string]struct {
		answers map[string]string
		asked   []string
	}{
		"octo-cat": {map[string]string{"/v3/users/octo-cat/installation": ok(found)}, []string{"/v3/users/octo-cat/installation"}},
		"github":   {map[string]string{"/v3/orgs/github/installation": ok(found)}, []string{"/v3/users/github/installation", "/v3/orgs/github/installation"}},
		"a/.dot_s": {map[string]string{"/v3/repos/a/.dot_s/installation": ok(found)}, []string{"/v3/repos/a/.dot_s/installation"}},
	} {
		s := newServer(t, nil, func(request string) string {
			if a, found := row.answers[strings.Fields(request)[1]]; found {
				return a
			}
			return missing
		})
		id, err := GitHubInstallation(t.Context(), "http://"+s.addr+"/v3/", NewSecret("j.w.t"), owner, Transport{})
		if err != nil || id != 9007199254740993 {
			t.Errorf("%s: %d, %v", owner, id, err)
		}
		var want []string
		for _, path := range row.asked {
			want = append(want, gitHubGet(s.addr, path))
		}
		if diff := cmp.Diff(want, s.seen()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestGitHubInstallationFailures(t *testing.T) {
	for _, row := range []struct {
		owner, answer, want string
		kind                Kind
	}{
		{"me", status("404 Not Found", `{"message":"Not Found"}`), "the app is not installed for me (HTTP 404)", Refused},
		{"me/it", status("404 Not Found", `{"message":"Not Found"}`), "the app is not installed for me/it (HTTP 404)", Refused},
		{"me", status("401 Unauthorized", `{"message":"A JSON web token could not be decoded"}`), "A JSON web token could not be decoded (HTTP 401)", Refused},
		{"me", status("401 Unauthorized", `{"message":"what is j.w.t?"}`), withheld + " (HTTP 401)", Refused},
		{"me", "HTTP/1.1 403 Forbidden\r\nRetry-After: 60\r\n\r\n" + `{"message":"secondary rate limit"}`, "secondary rate limit (HTTP 403)", Temporary},
		{"me", ok(`{}`), "there is no id in the answer (HTTP 200)", Malformed},
		{"me", ok(`{"id":"1"}`), "there is no id in the answer (HTTP 200)", Malformed},
		{"me", ok(`{"id":0}`), "there is no id in the answer (HTTP 200)", Malformed},
		{"me", ok(`{"id":1.5}`), "there is no id in the answer (HTTP 200)", Malformed},
	} {
		s, _ := answering(t, row.answer)
		id, err := GitHubInstallation(t.Context(), "http://"+s.addr, NewSecret("j.w.t"), row.owner, Transport{})
		want := "asking " + s.addr + " for the installation: " + row.want
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || e.Kind != row.kind || id != 0 {
			t.Errorf("%s: got %d, %v, want %s", row.answer, id, err, want)
		}
	}
	for _, owner := range []string{"", "/", "a/", "/b", "a/b/c", "..", "a/..", "a/.", "a b", "a?b", "a%2Fb", "é", strings.Repeat("a", 101)} {
		_, err := GitHubInstallation(t.Context(), "https://api.github.com", NewSecret("j.w.t"), owner, Transport{})
		if err == nil || err.Error() != "looking for the installation: the owner is neither a user, an organisation nor owner/repository" {
			t.Errorf("%q: got %v", owner, err)
		}
	}
	_, err := GitHubInstallation(t.Context(), "https://api.github.com?x=1", NewSecret("j.w.t"), "me", Transport{})
	if err == nil || err.Error() != "checking the API's URL: has a query (?)" {
		t.Errorf("got %v", err)
	}
}

func TestGitHubToken(t *testing.T) {
	s, _ := answering(t, "HTTP/1.1 201 Created\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json; charset=utf-8\r\n\r\n"+
		`{"token":"ghs_1","expires_at":"2026-11-21T13:00:00Z","permissions":{"metadata":"read","contents":"write"},"repository_selection":"all"}`)
	got, err := GitHubToken(t.Context(), "http://"+s.addr, NewSecret("j.w.t"), 42, Transport{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Token{
		AccessToken: NewSecret("ghs_1"), Type: "Bearer", Lifetime: time.Hour, LifetimeGiven: true,
		Scopes: []string{"contents:write", "metadata:read"}, ScopesGiven: true, Date: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
		t.Error(diff)
	}
	wire := wireOf("POST", "/app/installations/42/access_tokens", s.addr, "{}", testBoth, gitHubHeader, testJSON, "X-Github-Api-Version: 2022-11-28")
	if diff := cmp.Diff([]string{wire}, s.seen()); diff != "" {
		t.Error(diff)
	}
}

// An answer without Date counts from the machine's own time.
func TestGitHubTokenWithoutDate(t *testing.T) {
	expires := time.Now().Add(time.Hour).UTC()
	s, _ := answering(t, ok(`{"token":"ghs_1","expires_at":"`+expires.Format(time.RFC3339)+`","permissions":{}}`))
	got, err := GitHubToken(t.Context(), "http://"+s.addr, NewSecret("j.w.t"), 42, Transport{})
	if err != nil || !got.LifetimeGiven || got.Lifetime > time.Hour || got.Lifetime < 59*time.Minute || !got.ScopesGiven || got.Scopes != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestGitHubTokenAnswers(t *testing.T) {
	for _, row := range []struct{ answer, odd, warning string }{
		{`{"token":"t"}`, "", "permissions are not understood, and taken as missing"},
		{`{"token":"t","permissions":{"actions":"read","contents":"\u001b"}}`, "", "permissions are not understood, and taken as missing"},
		{`{"token":"t","permissions":{"a b":"read"}}`, "", "permissions are not understood, and taken as missing"},
		{`{"token":"t","permissions":["contents"]}`, "", "permissions are not understood, and taken as missing"},
		{`{}`, "there is no usable token in the answer", ""},
		{`{"token":1}`, "there is no usable token in the answer", ""},
		{`{"token":"a\r\nb"}`, "there is no usable token in the answer", ""},
		{`{"token":"a b"}`, "there is no usable token in the answer", ""},
		{`{"token":"t","expires_at":"tomorrow"}`, "expires_at is not a time", ""},
		{`{"token":"t","expires_at":1893456000}`, "expires_at is not a time", ""},
		{`{"token":"t","expires_at":"2016-07-11T22:14:10Z"}`, "expires_at is in the past", ""},
	} {
		s, _ := answering(t, status("201 Created", row.answer))
		got, err := GitHubToken(t.Context(), "http://"+s.addr, NewSecret("j.w.t"), 1, Transport{})
		if row.odd == "" {
			want := &Token{AccessToken: NewSecret("t"), Type: "Bearer", Warnings: []string{row.warning}}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" || err != nil {
				t.Errorf("%s: %s, %v", row.answer, diff, err)
			}
			continue
		}
		want := "asking " + s.addr + " for an installation's token: " + row.odd + " (HTTP 201)"
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || e.Kind != Malformed || got != nil {
			t.Errorf("%s: got %v, %v, want %s", row.answer, got, err, want)
		}
	}
}
