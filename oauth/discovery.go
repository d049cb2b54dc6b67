package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Metadata is what an authorization server says about itself (OpenID Connect
// Discovery 1.0 section 3, RFC 8414 section 2).
type Metadata struct {
	Issuer    string
	Endpoints Endpoints
	// TokenAuthMethods is token_endpoint_auth_methods_supported; nil: not listed.
	TokenAuthMethods []string
}

// Discover fetches the metadata of issuer, first from where OpenID Connect
// Discovery 1.0 section 4 puts it, then, if that has none, from where RFC 8414
// section 3 does, both within 30 s. The metadata must name exactly this issuer
// (RFC 8414 section 3.3), and every endpoint in it must pass [CheckURL].
// Every error is an [*Error].
func Discover(ctx context.Context, issuer string, t Transport) (*Metadata, error) {
	u, err := CheckURL(issuer)
	if err == nil && strings.Contains(issuer, "?") {
		err = errors.New("has a query (?)") // RFC 8414 section 2
	}
	if err != nil {
		return nil, &Error{Op: "checking the issuer", Kind: Invalid, Err: err}
	}
	op := "reading the metadata of " + u.Host
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	origin := u.Scheme + "://" + u.Host
	m, none, first := fetchMetadata(ctx, op, issuer, origin+path+"/.well-known/openid-configuration", t)
	if first == nil {
		return m, nil
	}
	if !none {
		return nil, first
	}
	m, none, second := fetchMetadata(ctx, op, issuer, origin+"/.well-known/oauth-authorization-server"+path, t)
	if second == nil {
		return m, nil
	}
	if none && second.Kind == Refused {
		second.Err = errors.New("neither of the two places for metadata below /.well-known/ has any")
	}
	return nil, second
}

// fetchMetadata reads the metadata at from. none tells metadata that are not
// there from metadata that are wrong, and from a server that does not answer.
func fetchMetadata(ctx context.Context, op, issuer, from string, t Transport) (m *Metadata, none bool, e *Error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, false, &Error{Op: op, Kind: Invalid, Err: errors.New("the issuer's path is odd")}
	}
	route, err := t.open(u)
	if err != nil {
		return nil, false, &Error{Op: op, Kind: Invalid, Err: err}
	}
	nothing := newEcho()
	a, e := exchange(ctx, route, op, u, make(http.Header), "", nothing)
	if e != nil {
		return nil, false, e
	}
	if a.status/100 != 2 {
		kind := a.failing()
		return nil, kind == Refused, a.errorf(op, kind, "")
	}
	members, parsed := decodeObject(a.body)
	if e := a.problem(op, parsed); e != nil {
		return nil, true, e
	}
	m = &Metadata{Issuer: issuer}
	if err := m.read(members, nothing); err != nil {
		return nil, false, a.errorf(op, Malformed, err.Error())
	}
	return m, false, nil
}

func (m *Metadata) read(members map[string]any, e *echo) error {
	if named, _ := members["issuer"].(string); named != m.Issuer {
		return otherIssuer(m.Issuer, named, e)
	}
	for _, endpoint := range []struct {
		name string
		url  *string
	}{
		{"token_endpoint", &m.Endpoints.Token},
		{"authorization_endpoint", &m.Endpoints.Authorization},
		{"device_authorization_endpoint", &m.Endpoints.DeviceAuthorization},
		{"introspection_endpoint", &m.Endpoints.Introspection},
		{"revocation_endpoint", &m.Endpoints.Revocation},
		{"registration_endpoint", &m.Endpoints.Registration},
	} {
		v := members[endpoint.name]
		if v == nil {
			continue
		}
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s is not a string", endpoint.name)
		}
		if _, err := CheckURL(s); err != nil {
			return fmt.Errorf("%s: %w", endpoint.name, err)
		}
		*endpoint.url = s
	}
	if v := members["token_endpoint_auth_methods_supported"]; v != nil {
		list, ok := v.([]any)
		m.TokenAuthMethods = make([]string, len(list))
		for i, item := range list {
			s, _ := item.(string)
			ok = ok && isName(s)
			m.TokenAuthMethods[i] = s
		}
		if !ok {
			return errors.New("token_endpoint_auth_methods_supported is not a list of names")
		}
	}
	return nil
}

// otherIssuer says what to write if the issuer named is the one that was meant.
func otherIssuer(configured, named string, e *echo) error {
	if named == "" {
		return errors.New("the metadata name no issuer")
	}
	shown := e.clean(named)
	text := fmt.Sprintf("the metadata are of issuer %s, not of %s", shown, e.clean(configured))
	if _, err := CheckURL(named); err == nil && shown == named && !strings.ContainsAny(named, "'$`?&;|()<>*!") {
		text += "; if that is the one meant, write OAUTH2_ISSUER=" + named
	}
	return errors.New(text)
}
