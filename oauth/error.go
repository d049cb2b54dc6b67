package oauth

import (
	"fmt"
	"strings"
	"time"
)

// A Kind tells apart what a caller does about an [Error].
type Kind int

const (
	// Invalid: the client or the request cannot be sent as it is (a URL, CA,
	// proxy or parameter is wrong). Nothing was sent.
	Invalid Kind = iota + 1
	// Refused: the server answered and said no, with an OAuth error code or a
	// 4xx status without one.
	Refused
	// Temporary: network, name resolution, TLS, a proxy, a captive portal, the
	// caller's own context, 408, 429, 5xx, temporarily_unavailable.
	Temporary
	// Malformed: an answer that is not OAuth: a redirect, not JSON, no token in
	// it or one that cannot be used.
	Malformed
)

// An Error is why an exchange with a server gave nothing; every error of
// [Client.Token] and [Discover] is one. Error() is one printable line without
// any secret that was sent and without raw text of the server, and so is all
// else in it.
type Error struct {
	Op   string // what was done, as in "asking auth.example.com for a token"
	Kind Kind
	// Sent says that the server may have seen the request. With Status 0 what it
	// did is not known: a refresh token in the request may have been spent.
	Sent bool
	// Reached says that an address of the server, or of the proxy, was known and
	// tried: what failed is not only the way there.
	Reached bool
	Proxy   bool // the proxy said it, or could not be reached: no fault of the server
	// Status is the HTTP status of a complete answer, 0 where none came.
	Status int
	// Code is the error code (RFC 6749 section 5.2), if it is one of IANA's
	// registry, else empty: a server's own code decides nothing, and stands in
	// front of the description.
	Code        string
	Description string        // error_description, at most 256 printable ASCII characters
	RetryAfter  time.Duration // Retry-After, 1 s to 1 h; 0 where the server gave none
	Err         error         // the cause; nil where Code or Status say all
}

// Error gives the line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	for _, part := range []string{e.Code, e.Description} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Status != 0 {
		if e.Code == "" && e.Description == "" && e.Err == nil {
			b.WriteString(": no OAuth error in the answer")
		}
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	return b.String()
}

// Unwrap gives the cause, which is context.Canceled or
// context.DeadlineExceeded where the caller's context ended it.
func (e *Error) Unwrap() error { return e.Err }

// registered are the error codes of IANA's OAuth Extensions Error registry, of
// RFC 6749 itself and of OpenID Connect.
var registered = map[string]bool{
	// RFC 6749 sections 4.1.2.1 and 5.2.
	"access_denied": true, "invalid_client": true, "invalid_grant": true, "invalid_request": true,
	"invalid_scope": true, "server_error": true, "temporarily_unavailable": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "unsupported_response_type": true,
	// RFC 6750, RFC 7009, RFC 8628, RFC 8707.
	"insufficient_scope": true, "invalid_token": true, "unsupported_token_type": true,
	"authorization_pending": true, "expired_token": true, "slow_down": true, "invalid_target": true,
	// RFC 7591.
	"invalid_client_metadata": true, "invalid_redirect_uri": true, "invalid_software_statement": true,
	"unapproved_software_statement": true,
	// RFC 9101, RFC 9396, RFC 9449, RFC 9470.
	"invalid_request_object": true, "invalid_request_uri": true, "invalid_authorization_details": true,
	"invalid_dpop_proof": true, "use_dpop_nonce": true, "insufficient_user_authentication": true,
	// OpenID Connect Core and its extensions.
	"account_selection_required": true, "consent_required": true, "interaction_required": true,
	"login_required": true, "registration_not_supported": true, "request_not_supported": true,
	"request_uri_not_supported": true, "unmet_authentication_requirements": true,
	"unknown_user_id": true, "missing_user_code": true, "invalid_user_code": true,
	"invalid_binding_message": true, "transaction_failed": true,
}

// said reads the error and error_description of an answer, if it has an error.
func said(members map[string]any, e *echo) (code, description string, ok bool) {
	switch v := members["error"].(type) {
	case nil:
		return "", "", false
	case string:
		if v == "" {
			return "", "", false
		}
		code = v
	}
	description, _ = members["error_description"].(string)
	if registered[code] {
		return code, e.clean(description), true
	}
	if isName(code) {
		if description != "" {
			code += ": "
		}
		description = code + description
	}
	return "", e.clean(description), true
}

// isName says whether s looks like a name of the registries, whatever it names.
func isName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.:-", r))
	})
}
