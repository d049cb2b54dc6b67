package oauth

import (
	"errors"
	"net/url"
	"strings"
)

// CheckScope says what is wrong with one scope-token (RFC 6749 section 3.3).
func CheckScope(scope string) error {
	if scope == "" {
		return errors.New("is empty")
	}
	for _, c := range []byte(scope) {
		if c < '!' || c > '~' || c == '"' || c == '\\' {
			return errors.New(`has a character that no scope has: only ASCII is allowed, and neither '"' nor '\' (RFC 6749 section 3.3)`)
		}
	}
	return nil
}

// CheckResource says what is wrong with a resource indicator (RFC 8707
// section 2).
func CheckResource(resource string) error {
	if u, err := url.Parse(resource); err != nil || !u.IsAbs() || strings.ContainsAny(resource, "# ") {
		return errors.New("is not an absolute URI without fragment (RFC 8707 section 2)")
	}
	return nil
}

// isVSCHAR says whether s is 1*VSCHAR, as codes, client identifiers and secrets
// are (RFC 6749 appendix A).
func isVSCHAR(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}
