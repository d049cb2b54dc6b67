package oauth

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Metadata is what an authorization server says about itself (OpenID Connect
// Discovery 1.0 section 3, RFC 8414 section 2). A list is nil where the server
// has none.
type Metadata struct {
	Issuer               string
	Endpoints            Endpoints
	MTLS                 Endpoints // mtls_endpoint_aliases (RFC 8705 section 5)
	TokenAuthMethods     []string  // token_endpoint_auth_methods_supported
	CodeChallengeMethods []string  // code_challenge_methods_supported
	Grants               []string  // grant_types_supported
	Scopes               []string  // scopes_supported
	DPoPAlgs             []string  // dpop_signing_alg_values_supported
	IssParameter         bool      // authorization_response_iss_parameter_supported (RFC 9207 section 3)
	RequirePAR           bool      // require_pushed_authorization_requests (RFC 9126 section 5)
	ClientIDMetadata     bool      // client_id_metadata_document_supported
}

// CheckPKCE is an error where the server lists methods of PKCE and S256 is none
// of them (RFC 9700 section 2.1.1). Where it lists none, nothing is known.
func (m *Metadata) CheckPKCE() error {
	if m.CodeChallengeMethods == nil || slices.Contains(m.CodeChallengeMethods, "S256") {
		return nil
	}
	return &Error{
		Op: "checking the metadata of " + newEcho().clean(m.Issuer), Kind: Invalid,
		Err: errors.New("the server has no PKCE by S256 (code_challenge_methods_supported), and nothing weaker is used"),
	}
}

// Discover fetches the metadata of issuer, first from where OpenID Connect
// Discovery 1.0 section 4 puts it, then, if that has none, from where RFC 8414
// section 3 does, both within 30 s. The metadata must name exactly this issuer
// (RFC 8414 section 3.3), and every endpoint in it must pass [CheckURL].
// Every error is an [*Error].
func Discover(ctx context.Context, issuer string, t Transport) (*Metadata, error) {
	u, origin, path, e := splitIssuer(issuer)
	if e != nil {
		return nil, e
	}
	return discover(ctx, "reading the metadata of "+u.Host, issuer, []string{
		origin + path + "/.well-known/openid-configuration",
		origin + "/.well-known/oauth-authorization-server" + path,
	}, t)
}

// DiscoverAt is [Discover] in the order of the Model Context Protocol, for an
// authorization server that a protected resource names: where RFC 8414 puts the
// metadata, then OpenID Connect's name in that same place, then its own place.
func DiscoverAt(ctx context.Context, server string, t Transport) (*Metadata, error) {
	u, origin, path, e := splitIssuer(server)
	if e != nil {
		return nil, e
	}
	places := []string{
		origin + "/.well-known/oauth-authorization-server" + path,
		origin + "/.well-known/openid-configuration" + path,
		origin + path + "/.well-known/openid-configuration",
	}
	m, err := discover(ctx, "reading the metadata of "+u.Host, server, slices.Compact(places), t)
	var other *otherIssuer
	if errors.As(err, &other) {
		other.configurable = false // it was the API that named it
	}
	return m, err
}

// DiscoverOrigin is [DiscoverAt] for the origin of an API that names no
// authorization server, as the Model Context Protocol had it in its version of
// 2025-03-26. Nobody has named an issuer there, so the metadata may be those of
// another one, if that and all endpoints are of the same origin: then they say
// nothing that the origin could not say of itself.
func DiscoverOrigin(ctx context.Context, origin string, t Transport) (*Metadata, error) {
	m, err := DiscoverAt(ctx, origin, t)
	var other *otherIssuer
	if !errors.As(err, &other) {
		return m, err
	}
	u, _, _, e := splitIssuer(origin)
	if e != nil {
		return nil, e
	}
	if issuer, bad := CheckURL(other.named); bad != nil || issuer.RawQuery != "" || issuer.Scheme != u.Scheme || issuer.Host != u.Host {
		return nil, err
	}
	m = &Metadata{Issuer: other.named}
	if m.read(other.members) != nil || !m.Endpoints.allAt(u) || !m.MTLS.allAt(u) {
		return nil, err
	}
	return m, nil
}

// allAt says whether every endpoint is of u's origin.
func (e Endpoints) allAt(u *url.URL) bool {
	for _, endpoint := range []string{e.Token, e.PushedAuthorization, e.Authorization, e.DeviceAuthorization, e.Introspection, e.Revocation, e.Registration} {
		if at, err := url.Parse(endpoint); endpoint != "" && (err != nil || at.Scheme != u.Scheme || at.Host != u.Host) {
			return false
		}
	}
	return true
}

// splitIssuer gives the parts of an issuer that the places of its metadata are
// made of; path has no slash at its end.
func splitIssuer(issuer string) (u *url.URL, origin, path string, e *Error) {
	u, err := CheckURL(issuer)
	if err == nil && strings.Contains(issuer, "?") {
		err = errors.New("has a query (?)") // RFC 8414 section 2
	}
	if err != nil {
		return nil, "", "", &Error{Op: "checking the issuer", Kind: Invalid, Err: err}
	}
	return u, u.Scheme + "://" + u.Host, strings.TrimSuffix(u.EscapedPath(), "/"), nil
}

// discover takes the metadata of the first place that has any.
func discover(ctx context.Context, op, issuer string, places []string, t Transport) (*Metadata, error) {
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	var last *Error
	for _, place := range places {
		a, members, none, e := fetchObject(ctx, op, place, t)
		if e == nil {
			m := &Metadata{Issuer: issuer}
			if err := m.read(members); err != nil {
				e := a.errorf(op, Malformed, "")
				e.Err = err
				return nil, e
			}
			return m, nil
		}
		if !none {
			return nil, e
		}
		last = e
	}
	if last.Kind == Refused {
		last.Err = errors.New("neither of the two places for metadata below /.well-known/ has any")
		if len(places) > 2 {
			last.Err = errors.New("none of the places for metadata below /.well-known/ has any")
		}
	}
	return nil, last
}

// fetchObject reads the JSON object at from. none tells what is not there from
// a server that does not answer.
func fetchObject(ctx context.Context, op, from string, t Transport) (a answer, members map[string]any, none bool, e *Error) {
	u, err := url.Parse(from)
	if err != nil {
		return answer{}, nil, false, &Error{Op: op, Kind: Invalid, Err: errors.New("the path is odd")}
	}
	r, err := t.open(u)
	if err != nil {
		return answer{}, nil, false, &Error{Op: op, Kind: Invalid, Err: err}
	}
	a, e = exchange(ctx, r, op, u, make(http.Header), "", newEcho())
	if e != nil {
		return a, nil, false, e
	}
	if a.status/100 != 2 {
		kind := a.failing()
		return a, nil, kind == Refused, a.errorf(op, kind, "")
	}
	members, parsed := decodeObject(a.body)
	if e := a.problem(op, parsed); e != nil {
		return a, nil, true, e
	}
	// RFC 8414 section 3.2, RFC 9728 section 3.2. Text that anybody may leave on a
	// host of good name is not what that host says of itself.
	if media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); media != "application/json" && !strings.HasSuffix(media, "+json") {
		return a, nil, true, a.errorf(op, Malformed, "the answer is not application/json")
	}
	return a, members, false, nil
}

// read fills m. What decides about security must be well formed where it is
// there at all; of the rest what is malformed is taken as missing.
func (m *Metadata) read(members map[string]any) error {
	if named, _ := members["issuer"].(string); named != m.Issuer {
		return &otherIssuer{m.Issuer, named, members, true}
	}
	issuer, err := CheckURL(m.Issuer)
	if err != nil {
		return err
	}
	if err := m.Endpoints.read(members, issuer); err != nil {
		return err
	}
	if v := members["mtls_endpoint_aliases"]; v != nil {
		aliases, ok := v.(map[string]any)
		if !ok {
			return errors.New("mtls_endpoint_aliases is not an object")
		}
		if err := m.MTLS.read(aliases, issuer); err != nil {
			return fmt.Errorf("mtls_endpoint_aliases: %w", err)
		}
	}
	for _, list := range []struct {
		name string
		to   *[]string
	}{
		{"token_endpoint_auth_methods_supported", &m.TokenAuthMethods},
		{"code_challenge_methods_supported", &m.CodeChallengeMethods},
	} {
		v := members[list.name]
		if v == nil {
			continue
		}
		var ok bool
		if *list.to, ok = texts(v, isName); !ok {
			return fmt.Errorf("%s is not a list of names", list.name)
		}
	}
	for _, flag := range []struct {
		name string
		to   *bool
	}{
		{"authorization_response_iss_parameter_supported", &m.IssParameter},
		{"require_pushed_authorization_requests", &m.RequirePAR},
	} {
		v := members[flag.name]
		if v == nil {
			continue
		}
		var ok bool
		if *flag.to, ok = v.(bool); !ok {
			return fmt.Errorf("%s is not true or false", flag.name)
		}
	}
	m.Grants, _ = texts(members["grant_types_supported"], isName)
	m.Scopes, _ = texts(members["scopes_supported"], isScope)
	m.DPoPAlgs, _ = texts(members["dpop_signing_alg_values_supported"], isName)
	m.ClientIDMetadata, _ = members["client_id_metadata_document_supported"].(bool)
	return nil
}

// read takes the endpoints that the metadata of issuer name. An https issuer names
// none in plain http: what listens on loopback is none of its business.
func (e *Endpoints) read(members map[string]any, issuer *url.URL) error {
	for _, endpoint := range []struct {
		name string
		url  *string
	}{
		{"token_endpoint", &e.Token},
		{"authorization_endpoint", &e.Authorization},
		{"pushed_authorization_request_endpoint", &e.PushedAuthorization},
		{"device_authorization_endpoint", &e.DeviceAuthorization},
		{"introspection_endpoint", &e.Introspection},
		{"revocation_endpoint", &e.Revocation},
		{"registration_endpoint", &e.Registration},
	} {
		v := members[endpoint.name]
		if v == nil {
			continue
		}
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s is not a string", endpoint.name)
		}
		if _, err := checkNamed(s, issuer); err != nil {
			return fmt.Errorf("%s: %w", endpoint.name, err)
		}
		*endpoint.url = s
	}
	return nil
}

// texts gives a list of which all are texts that valid admits; list is not nil
// then, even where it is empty.
func texts(v any, valid func(string) bool) (list []string, ok bool) {
	items, ok := v.([]any)
	if !ok {
		return nil, false
	}
	list = make([]string, len(items))
	for i, item := range items {
		list[i], _ = item.(string)
		if !valid(list[i]) {
			return nil, false
		}
	}
	return list, true
}

func isScope(s string) bool { return CheckScope(s) == nil }

// otherIssuer is the error for metadata that are not of the issuer asked for.
type otherIssuer struct {
	configured, named string
	members           map[string]any
	configurable      bool // a person has written it, and may write the other one
}

// ErrOtherIssuer is the cause where metadata are not of the issuer asked for (RFC
// 8414 section 3.3).
var ErrOtherIssuer = errors.New("the metadata are of another issuer")

func (o *otherIssuer) Is(target error) bool { return target == ErrOtherIssuer }

// Error says what to write if the issuer named is the one that was meant.
func (o *otherIssuer) Error() string {
	if o.named == "" {
		return "the metadata name no issuer"
	}
	nothing := newEcho()
	shown := nothing.clean(o.named)
	text := fmt.Sprintf("the metadata are of issuer %s, not of %s", shown, nothing.clean(o.configured))
	if _, err := CheckURL(o.named); o.configurable && err == nil && shown == o.named && !strings.ContainsAny(o.named, "'$`?&;|()<>*!") {
		text += "; if that is the one meant, write OAUTH2_ISSUER=" + o.named
	}
	return text
}
