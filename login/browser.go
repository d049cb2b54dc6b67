package login

import (
	"context"
	"crypto/subtle"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"tokend/broker"
	"tokend/oauth"
	"tokend/profile"
)

// Browser logs in with a code that comes through the person's browser (RFC 6749
// section 4.1) to a listener on loopback (RFC 8252 section 7.3), with PKCE
// (RFC 7636), and asks for exactly these scopes. When it returns, nothing
// listens any more. Errors: [ErrDenied], [ErrExpired], an *oauth.Error, the
// context's, that of Tell, and others that are one line. p is for this login
// alone.
func Browser(ctx context.Context, p *broker.Prepared, scopes []string, who Person) (*oauth.Token, error) {
	if p.Endpoints.Authorization == "" {
		return nil, missing("OAUTH2_AUTH_URL", "the server names no authorization endpoint (RFC 6749 section 3.1)")
	}
	if p.Metadata != nil {
		if err := p.Metadata.CheckPKCE(); err != nil {
			return nil, err
		}
	}
	l, err := listen(p.Profile.RedirectURL)
	if err != nil {
		return nil, err
	}
	defer l.close(ctx)

	verifier, challenge := oauth.NewVerifier()
	l.state = oauth.NewState()
	l.issuer = p.Issuer
	l.issParameter = p.Metadata != nil && p.Metadata.IssParameter
	request := p.Profile.Request
	a := oauth.Authorization{
		URL:         p.Endpoints.Authorization,
		ClientID:    p.Client.ID,
		RedirectURL: l.redirectURL,
		Scopes:      scopes,
		Audience:    request.Audience,
		Resource:    request.Resource,
		State:       l.state,
		Challenge:   challenge,
		Extra:       make(url.Values),
	}
	maps.Copy(a.Extra, request.Extra)
	maps.Copy(a.Extra, p.Profile.AuthorizationExtra)
	if slices.Contains(scopes, "openid") {
		a.Nonce = oauth.NewState()
	}
	if p.Client.DPoP != nil {
		a.DPoPThumbprint = p.Client.DPoP.Key().Thumbprint()
	}
	l.sent = append(a.Secrets(), p.Client.Secret, p.Profile.Client.Secret, p.Profile.NextSecret)
	l.serve()

	t, err := func() (*oauth.Token, error) {
		code, err := authorize(ctx, p, a, l, who)
		if err != nil {
			return nil, err
		}
		t, err := p.Token(ctx, oauth.Request{
			Grant: oauth.GrantAuthorizationCode,
			Params: url.Values{
				"code":          {code.Reveal()},
				"code_verifier": {verifier.Reveal()},
				"redirect_uri":  {l.redirectURL},
			},
			Audience: request.Audience,
			Resource: request.Resource,
			Extra:    request.Extra,
		})
		if err != nil {
			return nil, err
		}
		if err := checkNonce(t, a.Nonce); err != nil {
			p.Discard(context.WithoutCancel(ctx), t)
			return nil, err
		}
		return t, nil
	}()
	l.finish(finalPage(p, err))
	return t, err
}

// authorize sends the person to the server and waits for the code.
func authorize(ctx context.Context, p *broker.Prepared, a oauth.Authorization, l *listener, who Person) (oauth.Secret, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loginTime, ErrExpired)
	defer cancel()
	expires, _ := ctx.Deadline()
	required := p.Metadata != nil && p.Metadata.RequirePAR
	if p.Profile.PAR == profile.On || p.Profile.PAR == profile.Auto && required {
		if p.Endpoints.PushedAuthorization == "" {
			return oauth.Secret{}, missing("OAUTH2_PAR", "the server names no endpoint for pushed authorization requests (RFC 9126)")
		}
		before := time.Now()
		uri, life, err := p.Client.PushAuthorization(ctx, p.Endpoints.PushedAuthorization, a)
		if err != nil {
			return oauth.Secret{}, err
		}
		a.RequestURI = uri
		if end := before.Add(life); end.Before(expires) {
			expires = end
		}
	}
	if err := who.Tell(OpenURL{URL: a.String(), RedirectURL: a.RedirectURL, Expires: expires}); err != nil {
		return oauth.Secret{}, err
	}
	pasted := who.Redirects
	for {
		var notice string
		select {
		case <-ctx.Done():
			return oauth.Secret{}, context.Cause(ctx)
		case <-l.accepted:
			cb := l.callback
			switch {
			case cb.Err == nil:
				return cb.Code, nil
			case cb.Err.Code == "access_denied":
				return oauth.Secret{}, ErrDenied
			}
			return oauth.Secret{}, cb.Err
		case text, more := <-pasted:
			if !more {
				pasted = nil
				continue
			}
			err := l.paste(text)
			if err == nil {
				continue
			}
			notice = "that address is not taken: " + err.Error() + "; still waiting"
		case err := <-l.refused:
			notice = "a request to " + a.RedirectURL + " is not taken: " + err.Error() + "; still waiting"
		}
		if err := who.Tell(Notice{notice}); err != nil {
			return oauth.Secret{}, err
		}
	}
}

// checkNonce compares the nonce of the ID token with the one sent (OpenID
// Connect Core section 3.1.3.7); "" is none sent.
func checkNonce(t *oauth.Token, nonce string) error {
	if nonce == "" {
		return nil
	}
	if t.IDToken.IsZero() {
		t.Warnings = append(t.Warnings, "openid was asked for, and there is no id_token in the answer")
		return nil
	}
	claims, _ := oauth.JWTClaims(t.IDToken.Reveal())
	got, _ := claims["nonce"].(string)
	if subtle.ConstantTimeCompare([]byte(got), []byte(nonce)) == 0 {
		return errors.New("the ID token is not of this login: its nonce is not the one sent")
	}
	return nil
}
