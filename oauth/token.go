package oauth

import (
	"context"
	"encoding/json"
	"math"
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
	// Type is token_type, normalised: "Bearer", "DPoP" (RFC 9449 section 5), or
	// "N_A" where a token exchange gave something that is no access token
	// (RFC 8693 section 2.2.1).
	Type string
	// Lifetime is expires_in as the server said it, in whole seconds, at most
	// ten years. Where it said nothing LifetimeGiven is false; zero and null are
	// a given lifetime of zero.
	Lifetime      time.Duration
	LifetimeGiven bool
	// Scopes are what was granted, where the server says so; where it does not
	// they are what was asked for.
	Scopes       []string
	ScopesGiven  bool
	RefreshToken Secret // zero: none came
	// IssuedTokenType is issued_token_type, what a token exchange gave (RFC 8693
	// section 2.2.1).
	IssuedTokenType string
	IDToken         Secret    // OpenID Connect Core section 3.1.3.3; nothing in it is verified
	Date            time.Time // the server's Date header; zero if it sent none
	Warnings        []string  // what was odd about the answer, safe to print
}

// Token asks the token endpoint for a token, with one POST that takes 30 s at
// most. It is never repeated, but where the server wants a nonce in the DPoP
// proof: then once, within the same 30 s. Every error is an [*Error].
//
// Beside an error it may give a Token with nothing but RefreshToken and Date: a
// refresh token that came in an answer that is otherwise no good. It may be
// the only one that still works, and is to be saved.
func (c *Client) Token(ctx context.Context, r Request) (*Token, error) {
	u, err := CheckURL(c.TokenURL)
	if err != nil {
		return nil, &Error{Op: "checking the token endpoint's URL", Kind: Invalid, Err: err}
	}
	f, secrets, err := r.form()
	if c.ID == "" && r.Grant != GrantJWTBearer { // whose assertion says who asks (RFC 7521 section 4.1)
		err = errNoClientID
	}
	if err != nil {
		return nil, &Error{Op: "asking " + u.Host + " for a token", Kind: Invalid, Err: err}
	}
	p, failed := c.post(ctx, outgoing{endpoint: c.TokenURL, doing: "asking %s for a token", form: f, secrets: secrets, proof: true})
	t, err := p.token(failed, r.Grant)
	if err == nil && !t.ScopesGiven {
		t.Scopes = r.Scopes
	}
	return t, err
}

// token reads the answer of a token endpoint; failed is why it is not complete.
func (p reply) token(failed *Error, grant string) (*Token, error) {
	members, parsed := decodeObject(p.body)
	t := &Token{Date: answerDate(p.header)}
	refresh, usable := refreshToken(members)
	t.RefreshToken = NewSecret(refresh)
	e := failed
	if e == nil {
		e = p.refusal(p.op, members, parsed, p.sent)
	}
	if e == nil && !usable {
		e = p.errorf(p.op, Malformed, "refresh_token is no string of printable ASCII")
	}
	if e == nil {
		if odd := t.read(members, p, grant); odd != "" {
			e = p.errorf(p.op, Malformed, odd)
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
func (t *Token) read(members map[string]any, p reply, grant string) string {
	access, _ := members["access_token"].(string)
	if access == "" {
		return "there is no access_token in the answer"
	}
	// VSCHAR (RFC 6749 appendix A.12), and no space: a Bearer token stands in a
	// header, where one would end it (RFC 6750 section 2.1).
	if !isVisible(access) {
		return "access_token has characters that no Bearer token has"
	}
	t.AccessToken = NewSecret(access)

	if v := members["issued_token_type"]; v != nil {
		s, _ := v.(string)
		if s != "" && p.sent.clean(s) == s {
			t.IssuedTokenType = s
		} else {
			t.Warnings = append(t.Warnings, "issued_token_type is not understood, and taken as missing")
		}
	}
	if grant == GrantTokenExchange && t.IssuedTokenType == "" {
		return "there is no issued_token_type in the answer (RFC 8693 section 2.2.1)"
	}
	kind, _ := members["token_type"].(string)
	switch {
	case kind == "":
		return "there is no token_type in the answer"
	case strings.EqualFold(kind, "Bearer"):
		t.Type = "Bearer"
		if p.proved {
			t.Warnings = append(t.Warnings, "the token is a bearer token, although possession of a key was proved (RFC 9449)")
		}
	case strings.EqualFold(kind, "DPoP"):
		if !p.proved {
			return "token_type is DPoP, although possession of no key was proved (RFC 9449)"
		}
		t.Type = "DPoP"
	case strings.EqualFold(kind, "N_A") && t.IssuedTokenType != "":
		t.Type = "N_A"
	default:
		return `token_type "` + p.sent.clean(kind) + `" is not Bearer`
	}

	if v, ok := members["expires_in"]; ok {
		seconds, understood := number(v)
		switch {
		case !understood:
			t.Warnings = append(t.Warnings, "expires_in is not understood, and taken as missing")
		case seconds < 0:
			return "expires_in is negative"
		default:
			t.LifetimeGiven = true
			t.Lifetime = boundedLifetime(seconds)
		}
	}
	if v := members["id_token"]; v != nil {
		s, ok := v.(string)
		if ok && isVisible(s) {
			t.IDToken = NewSecret(s)
		} else {
			t.Warnings = append(t.Warnings, "id_token is not understood, and taken as missing")
		}
	}

	if v := members["scope"]; v != nil {
		if t.Scopes, t.ScopesGiven = scopes(v, p.sent); !t.ScopesGiven {
			t.Warnings = append(t.Warnings, "scope is not understood, and taken as missing")
		}
	}
	return ""
}

// isVisible says whether s is visible ASCII characters throughout.
func isVisible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= 0x20 || r > 0x7e })
}

// boundedLifetime gives whole seconds, at most maxLifetime.
func boundedLifetime(seconds float64) time.Duration {
	if seconds >= maxLifetime.Seconds() {
		return maxLifetime
	}
	return time.Duration(seconds) * time.Second
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
