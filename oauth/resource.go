package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// ResourceMetadata is what a protected resource says about itself (RFC 9728
// section 2).
type ResourceMetadata struct {
	Resource             string   // covers the URL that was asked about
	AuthorizationServers []string // issuers, each a URL that passes [CheckURL]; nil: none named
	Scopes               []string // scopes_supported; nil: none named
	URL                  string   // where it was read
}

// ErrNoResourceMetadata is the cause of an [*Error] where a server answers and
// none of the places has metadata of the resource.
var ErrNoResourceMetadata = errors.New("there is no protected resource metadata (RFC 9728)")

// ProbeResource sends target a GET without any credential, and where that is
// 404 or 405 and no challenge a POST without content, as there are APIs that
// know nothing but POST. It gives the last answer's status, which may be a
// redirect (it is not followed), and its challenges. Nothing of a body is read.
// Every error is an [*Error].
func ProbeResource(ctx context.Context, target string, t Transport) (status int, challenges []Challenge, err error) {
	u, err := CheckURL(target)
	if err != nil {
		return 0, nil, &Error{Op: "checking the API's URL", Kind: Invalid, Err: err}
	}
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		var e *Error
		if status, challenges, e = probe(ctx, method, u, t); e != nil {
			return 0, nil, e
		}
		if len(challenges) > 0 || status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			break
		}
	}
	return status, challenges, nil
}

func probe(ctx context.Context, method string, u *url.URL, t Transport) (status int, challenges []Challenge, e *Error) {
	op := "asking " + u.Host + " what it wants"
	r, err := t.open(u)
	if err != nil {
		return 0, nil, &Error{Op: op, Kind: Invalid, Err: err}
	}
	req := &http.Request{Method: method, URL: u, Body: http.NoBody, Header: http.Header{
		"Accept":          {"application/json, text/event-stream"},
		"Accept-Encoding": {"identity"},
		"User-Agent":      {userAgent},
	}}
	res, err := r.http.RoundTrip(req.WithContext(r.trace(ctx)))
	if err != nil {
		return 0, nil, r.failure(ctx, op, err)
	}
	_ = res.Body.Close() // it may be an endless stream of events
	return res.StatusCode, ParseChallenges(res.Header.Values("WWW-Authenticate")), nil
}

// ErrOtherResource is the cause where an API's metadata are not its own: a token
// for them would be good elsewhere (RFC 9728 section 7.3).
var ErrOtherResource = errors.New("the metadata are of resource")

// FetchResourceMetadata reads the metadata of target: from hinted alone, the
// resource_metadata of a challenge, where there is one; else from where RFC 9728
// section 3.1 puts them, and then from where it puts those of the whole host,
// all within 30 s. The metadata must be of target or of a prefix of its path at
// the same origin. What an https target names is not plain http, not even to
// loopback. Every error is an [*Error]; its cause is [ErrNoResourceMetadata]
// where nothing was found.
func FetchResourceMetadata(ctx context.Context, target string, hinted string, t Transport) (*ResourceMetadata, error) {
	u, err := CheckURL(target)
	if err != nil {
		return nil, &Error{Op: "checking the API's URL", Kind: Invalid, Err: err}
	}
	op := "reading the resource metadata of " + u.Host
	var places []string
	if hinted != "" {
		if _, err := checkNamed(hinted, u); err != nil {
			return nil, &Error{Op: op, Kind: Malformed, Err: fmt.Errorf("the URL in the challenge: %w", err)}
		}
		places = []string{hinted}
	} else {
		whole := u.Scheme + "://" + u.Host + "/.well-known/oauth-protected-resource"
		suffix := u.EscapedPath()
		if suffix == "/" {
			suffix = ""
		}
		if u.RawQuery != "" {
			suffix += "?" + u.RawQuery
		}
		places = slices.Compact([]string{whole + suffix, whole})
	}
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	var last answer
	for _, place := range places {
		a, members, none, e := fetchObject(ctx, op, place, t)
		if e == nil {
			m := &ResourceMetadata{URL: place}
			if err := m.read(members, u); err != nil {
				e := a.errorf(op, Malformed, "")
				e.Err = err
				return nil, e
			}
			return m, nil
		}
		if !none {
			return nil, e
		}
		last = a
	}
	e := last.errorf(op, Refused, "")
	e.Err = ErrNoResourceMetadata
	return nil, e
}

func (m *ResourceMetadata) read(members map[string]any, target *url.URL) error {
	nothing := newEcho()
	m.Resource, _ = members["resource"].(string)
	if m.Resource == "" {
		return errors.New("the metadata name no resource")
	}
	if resource, err := CheckURL(m.Resource); err != nil || !covers(resource, target) {
		return fmt.Errorf("%w %s, which is not the API's URL nor a prefix of its path", ErrOtherResource, nothing.clean(m.Resource))
	}
	if v := members["authorization_servers"]; v != nil {
		var ok bool
		if m.AuthorizationServers, ok = texts(v, func(s string) bool { return s != "" }); !ok {
			return errors.New("authorization_servers is not a list of URLs")
		}
		for _, server := range m.AuthorizationServers {
			if _, err := checkNamed(server, target); err != nil {
				return fmt.Errorf("authorization server %s: %w", nothing.clean(server), err)
			}
		}
	}
	m.Scopes, _ = texts(members["scopes_supported"], isScope)
	return nil
}

// maxNamed bounds a URL that a server names, in bytes: a person may have to read it.
const maxNamed = 2048

// checkNamed parses a URL that target names. Were an https server free to name a
// plain one on loopback, it could have requests sent to what listens there.
func checkNamed(raw string, target *url.URL) (*url.URL, error) {
	u, err := CheckURL(raw)
	switch {
	case err != nil:
		return nil, err
	case len(raw) > maxNamed:
		return nil, errors.New("is longer than 2048 characters")
	case u.Scheme == "http" && target.Scheme == "https":
		return nil, errors.New("is plain http, and who names it is https")
	}
	return u, nil
}

// covers says whether target is resource or lies below its path at the same
// origin.
func covers(resource, target *url.URL) bool {
	if origin(resource) != origin(target) {
		return false
	}
	at, path := resource.EscapedPath(), target.EscapedPath()
	if strings.TrimSuffix(at, "/") == strings.TrimSuffix(path, "/") && resource.RawQuery == target.RawQuery {
		return true
	}
	// Dot segments lead elsewhere than the path begins.
	if resource.RawQuery != "" || slices.ContainsFunc(strings.Split(target.Path, "/"), func(s string) bool { return s == "." || s == ".." }) {
		return false
	}
	return strings.HasPrefix(path+"/", strings.TrimSuffix(at, "/")+"/")
}
