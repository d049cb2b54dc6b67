package broker

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"path"
	"strings"
	"time"

	"tokend/oauth"
)

// A Source is who says what a token is good for.
type Source int

const (
	SourceNone          Source = iota // nobody: it is opaque, and the server has no introspection endpoint
	SourceIntrospection               // the authorization server (RFC 7662)
	SourceJWT                         // the token itself; nobody has verified it
)

// Introspection is what is known of a token.
type Introspection struct {
	Token  Token
	Source Source
	Active bool
	Claims map[string]any // as JSON has them, numbers as json.Number
}

// Introspect says what is known of the token that Token gives for r. Errors are
// those of Token.
func (b *Broker) Introspect(ctx context.Context, r Request) (*Introspection, error) {
	t, err := b.Token(ctx, r)
	if err != nil {
		return nil, err
	}
	p, err := b.Prepare(ctx, r.Profile)
	if err != nil {
		return nil, err
	}
	if p.Version != t.Version {
		return nil, errChanged // it may be another server's by now
	}
	in := &Introspection{Token: t}
	claims, isJWT := oauth.JWTClaims(t.Access.Reveal())
	if endpoint := p.Endpoints.Introspection; endpoint != "" {
		if err := b.admit(ctx, r.Profile, endpoint); err != nil {
			return nil, err
		}
		answer, err := p.Client.Introspect(ctx, endpoint, t.Access, "access_token")
		var refused *oauth.Error
		switch {
		case err == nil:
			in.Source, in.Active, in.Claims = SourceIntrospection, answer.Active, answer.Claims
			return in, nil
		case isJWT && p.Profile.Endpoints.Introspection == "" && errors.As(err, &refused) && refused.Kind == oauth.Refused:
			// The endpoint is for resource servers; the profile does not insist.
		default:
			return nil, &RefusedError{err, 0, ""}
		}
	}
	if isJWT {
		in.Source, in.Claims, in.Active = SourceJWT, claims, true
		if exp, ok := claims["exp"].(json.Number); ok {
			if seconds, err := exp.Float64(); err == nil {
				in.Active = float64(time.Now().Unix()) < seconds
			}
		}
	}
	return in, nil
}

// ErrNotOurs says that a token is none of the profile's that is still good, or
// is a bearer token.
var ErrNotOurs = errors.New("the token is none of this profile's that is bound to a key and still good")

// A PlaceError says that a token must not be sent to a URL.
type PlaceError struct {
	Why string
	// Variable is the one that would allow it, or "".
	Variable string
}

func (e *PlaceError) Error() string { return e.Why }

// Proof proves for one request that its token is bound to a key of ours (RFC
// 9449 section 4.2). access must be one of the profile's tokens that are held
// now. Errors: [ErrNotOurs], [*PlaceError], [ErrUntrusted], [*profile.Mistakes],
// and those of the store.
func (b *Broker) Proof(ctx context.Context, name string, access oauth.Secret, method, target, nonce string) (string, error) {
	u, err := oauth.CheckURL(target)
	if err != nil {
		return "", &PlaceError{Why: "the URL " + err.Error()}
	}
	// As for a token that is handed out: the text is trusted, or was when it was
	// read, and is still the same.
	f, err := b.factsFor(ctx, name)
	if err != nil {
		return "", err
	}
	var bound *binding
	for _, m := range b.cachedOf(name) {
		if m.access == access && m.version == f.version {
			bound = m.bound
		}
	}
	if bound == nil {
		return "", ErrNotOurs
	}
	if len(f.apiOrigins) > 0 && !inOrigins(u, f.apiOrigins) {
		return "", &PlaceError{"the URL is at none of the profile's API_URL origins", "API_URL"}
	}
	// Such a proof could be shown beside a stolen refresh token or code.
	for _, endpoint := range bound.endpoints {
		if place, err := url.Parse(endpoint); err == nil && samePlace(u, place) {
			return "", &PlaceError{Why: "the URL is an endpoint of the authorization server"}
		}
	}
	return bound.prover.Proof(method, target, access, nonce)
}

func inOrigins(u *url.URL, origins []string) bool {
	for _, o := range origins {
		if origin, err := url.Parse(o); err == nil && sameOrigin(u, origin) {
			return true
		}
	}
	return false
}

func sameOrigin(a, b *url.URL) bool { return originName(a) == originName(b) }

// originName is scheme, host and port, however they are spelt.
func originName(u *url.URL) string {
	return u.Scheme + "://" + strings.TrimSuffix(strings.ToLower(u.Hostname()), ".") + ":" + port(u)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// samePlace compares as a lenient server would: letters' case, dots, backslashes,
// what servers in C cut off, and what servers in Java cut off each segment.
func samePlace(a, b *url.URL) bool {
	plain := func(u *url.URL) string {
		whole, _, _ := strings.Cut(u.Path, "\x00")
		segments := strings.Split(strings.ReplaceAll(whole, `\`, "/"), "/")
		for i, s := range segments {
			segments[i], _, _ = strings.Cut(s, ";")
		}
		return strings.ToLower(path.Clean("/" + strings.Join(segments, "/")))
	}
	return sameOrigin(a, b) && plain(a) == plain(b)
}
