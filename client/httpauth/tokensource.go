// Package httpauth gives tokend's tokens to what needs net/http, which package
// client does not link.
package httpauth

import (
	"context"

	"golang.org/x/oauth2"

	"tokend/client"
)

// TokenSource returns a source of the tokens that r asks for. Each call of
// Token asks the daemon, under ctx, which answers from its cache in less than a
// millisecond; nothing is kept here. Errors are those of [client.Client.Token].
//
// Do not wrap it in [oauth2.ReuseTokenSource], nor give it to
// [oauth2.NewClient], which does that: such a source keeps a token until it
// expires, although the server has refused it or the profile has been edited
// since. Give it to an [oauth2.Transport].
//
// That Transport sends the token with every request it is given, wherever that
// goes: use it for requests to the profile's API only, and let the
// [net/http.Client] follow no redirects.
func TokenSource(ctx context.Context, c *client.Client, r client.TokenRequest) oauth2.TokenSource {
	return &source{ctx, c, r}
}

type source struct {
	ctx     context.Context // of every call: the interface's Token has none
	client  *client.Client
	request client.TokenRequest
}

func (s *source) Token() (*oauth2.Token, error) {
	t, err := s.client.Token(s.ctx, s.request)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: t.AccessToken, TokenType: t.Type, Expiry: t.ExpiresAt}, nil
}
