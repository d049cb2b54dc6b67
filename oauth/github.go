package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GitHubInstallation finds the installation of a GitHub App for owner, a user,
// an organisation or owner/repository, at api ("https://api.github.com"). app is
// the App's JWT. Every error is an [*Error].
func GitHubInstallation(ctx context.Context, api string, app Secret, owner string, t Transport) (id int64, err error) {
	const doing = "asking %s for the installation"
	name, repository, repo := strings.Cut(owner, "/")
	if !isGitHubName(name) || repo && !isGitHubName(repository) {
		return 0, &Error{Op: "looking for the installation", Kind: Invalid, Err: errors.New("the owner is neither a user, an organisation nor owner/repository")}
	}
	paths := []string{"/users/" + name + "/installation", "/orgs/" + name + "/installation"}
	if repo {
		paths = []string{"/repos/" + name + "/" + repository + "/installation"}
	}
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	for _, path := range paths {
		p, members, e := askGitHub(ctx, api, path, doing, "", app, t)
		if e != nil && e.Status == http.StatusNotFound {
			e.Err, e.Description = errors.New("the app is not installed for "+owner), ""
			err = e
			continue
		}
		if e != nil {
			return 0, e
		}
		n, _ := members["id"].(json.Number)
		if id, err = strconv.ParseInt(string(n), 10, 64); err != nil || id <= 0 {
			return 0, p.errorf(p.op, Malformed, "there is no id in the answer")
		}
		return id, nil
	}
	return 0, err
}

// GitHubToken makes a token of an installation of a GitHub App. Its Lifetime is
// expires_at less the time of the answer, and its Scopes are the permissions, as
// in "contents:read". Every error is an [*Error].
func GitHubToken(ctx context.Context, api string, app Secret, installation int64, t Transport) (*Token, error) {
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	path := "/app/installations/" + strconv.FormatInt(installation, 10) + "/access_tokens"
	p, members, e := askGitHub(ctx, api, path, "asking %s for an installation's token", "{}", app, t)
	if e != nil {
		return nil, e
	}
	token, _ := members["token"].(string)
	access := NewSecret(token)
	if checkBearer(access) != nil {
		return nil, p.errorf(p.op, Malformed, "there is no usable token in the answer")
	}
	k := &Token{AccessToken: access, Type: "Bearer", Date: answerDate(p.header)}
	if v := members["expires_at"]; v != nil {
		text, _ := v.(string)
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, p.errorf(p.op, Malformed, "expires_at is not a time")
		}
		from := k.Date
		if from.IsZero() {
			from = time.Now()
		}
		k.LifetimeGiven = true
		if k.Lifetime = min(expires.Sub(from), maxLifetime).Truncate(time.Second); k.Lifetime < 0 {
			return nil, p.errorf(p.op, Malformed, "expires_at is in the past")
		}
	}
	permissions, ok := members["permissions"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(permissions)) {
		access, _ := permissions[name].(string)
		if !isName(name) || !isName(access) {
			ok = false
			break
		}
		k.Scopes = append(k.Scopes, name+":"+access)
	}
	if k.ScopesGiven = ok; !ok {
		k.Scopes = nil
		k.Warnings = append(k.Warnings, "permissions are not understood, and taken as missing")
	}
	return k, nil
}

// askGitHub sends a GET, or a POST of body where there is one, and gives the
// members of the answer. doing is as in [outgoing].
func askGitHub(ctx context.Context, api, path, doing, body string, app Secret, t Transport) (reply, map[string]any, *Error) {
	p := reply{sent: newEcho(app.Reveal())}
	base, err := CheckURL(api)
	if err == nil && base.RawQuery != "" {
		err = errors.New("has a query (?)")
	}
	if err != nil {
		return p, nil, &Error{Op: "checking the API's URL", Kind: Invalid, Err: err}
	}
	p.op = fmt.Sprintf(doing, base.Host)
	u, err := url.Parse(strings.TrimSuffix(api, "/") + path)
	if err == nil {
		err = checkBearer(app)
	}
	if err != nil {
		return p, nil, &Error{Op: p.op, Kind: Invalid, Err: err}
	}
	r, err := t.open(u)
	if err != nil {
		return p, nil, &Error{Op: p.op, Kind: Invalid, Err: err}
	}
	header := http.Header{"Authorization": {"Bearer " + app.Reveal()}, "X-Github-Api-Version": {"2022-11-28"}}
	if body != "" {
		header.Set("Content-Type", "application/json")
	}
	var failed *Error
	p.answer, failed = exchange(ctx, r, p.op, u, header, body, p.sent)
	if failed != nil {
		return p, nil, failed
	}
	members, failed := p.object()
	if failed != nil && failed.Code == "" && failed.Description == "" && p.status/100 != 2 {
		members, _ = decodeObject(p.body)
		message, _ := members["message"].(string)
		failed.Description = p.sent.clean(message)
		if p.status == http.StatusForbidden && failed.RetryAfter > 0 {
			failed.Kind = Temporary // a rate limit
		}
	}
	return p, members, failed
}

func isGitHubName(s string) bool {
	return s != "" && len(s) <= 100 && s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	})
}
