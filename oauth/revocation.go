package oauth

import (
	"bytes"
	"context"
)

// Revoke ends token (RFC 7009 section 2). hint is the token_type_hint, or
// empty. A token that the server does not know is no error (section 2.2); that
// it cannot revoke this kind (unsupported_token_type) is one, and so is a 503,
// with RetryAfter. Every error is an [*Error].
func (c *Client) Revoke(ctx context.Context, endpoint string, token Secret, hint string) error {
	p, e := c.post(ctx, outgoing{
		endpoint: endpoint, doing: "asking %s to revoke a token",
		form: tokenForm(token, hint), secrets: []string{token.Reveal()},
	})
	if e != nil {
		return e
	}
	_, e = p.object()
	// The body of a success decides nothing (section 2.2), and there need be none.
	// But a web page is not the server's, and an error is one.
	if e == nil || p.status/100 == 2 && (e.Kind == Malformed || len(bytes.TrimSpace(p.body)) == 0) {
		return nil
	}
	return e
}
