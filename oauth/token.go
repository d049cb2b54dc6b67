package oauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxLifetime = 10 * 365 * 24 * time.Hour
	minExtra    = 8 // values of further parameters shorter than this are no secrets
)

// A Token is a token endpoint's answer (RFC 6749 section 5.1).
type Token struct {
	AccessToken Secret
	Type        string // normalised: "Bearer"
	// Lifetime is expires_in as the server said it, in whole seconds, at most
	// ten years. Where it said nothing LifetimeGiven is false; zero and null are
	// a given lifetime of zero.
	Lifetime      time.Duration
	LifetimeGiven bool
	// Scopes are what was granted, where the server says so; where it does not
	// they are what was asked for.
	Scopes       []string
	ScopesGiven  bool
	RefreshToken Secret    // zero: none came
	Date         time.Time // the server's Date header; zero if it sent none
	Warnings     []string  // what was odd about the answer, safe to print
}

// Token asks the token endpoint for a token, with one POST that takes 30 s at
// most and is never repeated. Every error is an [*Error].
//
// Beside an error it may give a Token with nothing but RefreshToken and Date: a
// refresh token that came in an answer that is otherwise no good. It may be
// the only one that still works, and is to be saved.
func (c *Client) Token(ctx context.Context, r Request) (*Token, error) {
	u, err := CheckURL(c.TokenURL)
	if err != nil {
		return nil, &Error{Op: "checking the token endpoint's URL", Kind: Invalid, Err: err}
	}
	op := "asking " + u.Host + " for a token"
	body, authorization, err := c.parameters(r)
	if err != nil {
		return nil, &Error{Op: op, Kind: Invalid, Err: err}
	}
	ctx, cancel := withExchangeTime(ctx)
	defer cancel()
	route, err := c.Transport.open(u)
	if err != nil {
		return nil, &Error{Op: op, Kind: Invalid, Err: err}
	}
	header := make(http.Header)
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	sent := c.confided(r, authorization)
	a, failed := exchange(ctx, route, op, u, header, body, sent)
	return a.token(op, failed, sent)
}

// confided collects what must not come back in a text.
func (c *Client) confided(r Request, authorization string) *echo {
	var secrets []string
	if !c.Secret.IsZero() {
		secrets = append(secrets, c.Secret.Reveal())
	}
	if _, credential, ok := strings.Cut(authorization, " "); ok {
		secrets = append(secrets, credential)
		if plain, err := base64.StdEncoding.DecodeString(credential); err == nil {
			secrets = append(secrets, string(plain))
		}
	}
	for _, values := range r.Extra {
		for _, v := range values {
			if len(v) >= minExtra {
				secrets = append(secrets, v)
			}
		}
	}
	return newEcho(secrets...)
}

// token reads the answer of a token endpoint; failed is why it is not complete.
func (a answer) token(op string, failed *Error, sent *echo) (*Token, error) {
	members, parsed := decodeObject(a.body)
	t := &Token{Date: answerDate(a.header)}
	refresh, usable := refreshToken(members)
	t.RefreshToken = NewSecret(refresh)
	e := failed
	if e == nil {
		e = a.refusal(op, members, parsed, sent)
	}
	if e == nil && !usable {
		e = a.errorf(op, Malformed, "refresh_token is no string of printable ASCII")
	}
	if e == nil {
		if odd := t.read(members, sent); odd != "" {
			e = a.errorf(op, Malformed, odd)
		}
	}
	switch {
	case e == nil:
		return t, nil
	case !t.RefreshToken.IsZero():
		return &Token{RefreshToken: t.RefreshToken, Date: t.Date}, e
	default:
		return nil, e
	}
}

// refusal gives the error that a complete answer is, or nil if there should be
// a token in it. An error member counts whatever the status (RFC 6749 section 5.2
// wants 400 or 401, and not every server obeys).
func (a answer) refusal(op string, members map[string]any, parsed error, sent *echo) *Error {
	success := a.status/100 == 2
	problem := a.problem(op, parsed)
	if success && problem != nil && problem.Kind == Temporary {
		return problem
	}
	if code, description, ok := said(members, sent); ok {
		e := a.errorf(op, a.failing(), "")
		e.Code, e.Description = code, description
		if code == "temporarily_unavailable" || code == "server_error" {
			e.Kind = Temporary
		}
		return e
	}
	if success {
		return problem
	}
	return a.errorf(op, a.failing(), "")
}

// refreshToken gives the refresh token in members, "" if there is none, and not
// usable if it is not VSCHAR throughout (RFC 6749 appendix A.17).
func refreshToken(members map[string]any) (token string, usable bool) {
	v := members["refresh_token"]
	if v == nil {
		return "", true
	}
	s, ok := v.(string)
	if !ok || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return "", false
	}
	return s, true
}

// read fills t from an answer without error, and says what makes it unusable, or "".
func (t *Token) read(members map[string]any, sent *echo) string {
	access, _ := members["access_token"].(string)
	if access == "" {
		return "there is no access_token in the answer"
	}
	// VSCHAR (RFC 6749 appendix A.12), and no space: a Bearer token stands in a
	// header, where one would end it (RFC 6750 section 2.1).
	if strings.ContainsFunc(access, func(r rune) bool { return r <= 0x20 || r > 0x7e }) {
		return "access_token has characters that no Bearer token has"
	}
	t.AccessToken = NewSecret(access)

	kind, _ := members["token_type"].(string)
	switch {
	case kind == "":
		return "there is no token_type in the answer"
	case !strings.EqualFold(kind, "Bearer"):
		return `token_type "` + sent.clean(kind) + `" is not Bearer`
	}
	t.Type = "Bearer"

	if v, ok := members["expires_in"]; ok {
		seconds, understood := number(v)
		switch {
		case !understood:
			t.Warnings = append(t.Warnings, "expires_in is not understood, and taken as missing")
		case seconds < 0:
			return "expires_in is negative"
		default:
			t.LifetimeGiven = true
			t.Lifetime = maxLifetime
			if seconds < maxLifetime.Seconds() {
				t.Lifetime = time.Duration(seconds) * time.Second
			}
		}
	}

	if v := members["scope"]; v != nil {
		if t.Scopes, t.ScopesGiven = scopes(v, sent); !t.ScopesGiven {
			t.Warnings = append(t.Warnings, "scope is not understood, and taken as missing")
		}
	}
	return ""
}

// number reads expires_in: a number, or one in a string; null is zero.
func number(v any) (float64, bool) {
	var text string
	switch v := v.(type) {
	case nil:
		return 0, true
	case json.Number:
		text = string(v)
	case string:
		text = strings.TrimSpace(v)
		// ParseFloat also takes 0x1p4, inf and 1_000.
		if strings.Trim(text, "0123456789.eE+-") != "" {
			return 0, false
		}
	default:
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(n, 0) {
		return 0, false
	}
	return n, true
}

// scopes reads scope: a string of tokens with spaces between (RFC 6749 section
// 3.3), or a list of them. Scopes are shown to people, so one with other
// characters, or with a secret in it, makes the whole not understood.
func scopes(v any, sent *echo) (list []string, ok bool) {
	switch v := v.(type) {
	case string:
		list = strings.Fields(v)
	case []any:
		for _, item := range v {
			s, _ := item.(string)
			list = append(list, s)
		}
	default:
		return nil, false
	}
	if slices.ContainsFunc(list, func(s string) bool {
		return CheckScope(s) != nil || sent.in(s)
	}) {
		return nil, false
	}
	return list, true
}
