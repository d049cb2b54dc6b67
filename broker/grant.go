package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokend/oauth"
	"tokend/profile"
)

// assertionLife is how long the assertion of a JWT bearer grant is good for.
const assertionLife = 5 * time.Minute

// A SubjectError is why there is no token of another profile to exchange.
type SubjectError struct {
	Profile string
	Err     error
}

func (e *SubjectError) Error() string {
	return fmt.Sprintf("no subject token of %s: %v", e.Profile, e.Err)
}
func (e *SubjectError) Unwrap() error { return e.Err }

// got is what a grant brought, and when the request that brought it was sent.
type got struct {
	*oauth.Token
	sent  time.Duration
	saved bool // it was kept from a login
}

// grant gets the token that k names, in the way that the profile says. renewal
// is a refresh token that came with an earlier token of this key, or none.
// Beside an error it says when the server was last asked.
func (b *Broker) grant(ctx context.Context, p *Prepared, k key, renewal oauth.Secret) (got, error) {
	r := p.Profile.Request
	k.into(&r)
	if p.Profile.Kept() {
		return b.renew(ctx, p, k, r)
	}
	g, err := b.grantAlone(ctx, p, r, renewal)
	if err == nil {
		b.note(ctx, p)
	}
	return g, err
}

// into makes r ask for what k names. Where k says nothing the text's own stand, of
// which k knows nothing if they come from a file or a command.
func (k key) into(r *oauth.Request) {
	for _, part := range []struct {
		asked string
		of    *[]string
	}{{k.scopes, &r.Scopes}, {k.audience, &r.Audience}, {k.resource, &r.Resource}} {
		if part.asked != "" {
			*part.of = strings.Fields(part.asked)
		}
	}
}

// grantAlone is grant where nobody has to have logged in.
func (b *Broker) grantAlone(ctx context.Context, p *Prepared, r oauth.Request, renewal oauth.Secret) (got, error) {
	ctx, cancel := b.ownTime(ctx)
	defer cancel()
	switch {
	case p.Profile.GitHub != nil:
		return b.gitHubToken(ctx, p)
	case r.Grant == oauth.GrantClientCredentials:
		if !renewal.IsZero() {
			again := r
			again.Grant = oauth.GrantRefreshToken
			again.Params = url.Values{"refresh_token": {renewal.Reveal()}}
			g, err := b.ask(ctx, p, again)
			if err == nil && g.RefreshToken.IsZero() {
				g.RefreshToken = renewal // RFC 6749 section 6: it stays good
			}
			var answer *oauth.Error
			if err == nil || errors.As(err, &answer) && answer.Code != "invalid_grant" {
				return g, err
			}
		}
		return b.ask(ctx, p, r)
	case r.Grant == oauth.GrantJWTBearer:
		assertion, err := b.assertion(p, &r)
		if err != nil {
			return got{sent: b.Now()}, err
		}
		r.Params = url.Values{"assertion": {assertion.Reveal()}}
		return b.ask(ctx, p, r)
	case r.Grant == oauth.GrantTokenExchange:
		subject := p.Profile.Subject.Token
		r.Params = url.Values{"subject_token": {subject.Reveal()}, "subject_token_type": {p.Profile.Subject.Type}}
		if requested := p.Profile.Subject.Requested; requested != "" {
			r.Params.Set("requested_token_type", requested)
		}
		return b.ask(ctx, p, r)
	}
	return got{}, fmt.Errorf("grant %q is not supported", r.Grant)
}

// ownTime gives an exchange all the time that it may take, however much of ctx's
// was spent waiting for its turn. It ends with the Broker.
func (b *Broker) ownTime(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	stop := context.AfterFunc(b.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// ask sends one token request. It is sent again, at once, where the server's
// answer names a credential of ours that it wants instead: the secret that is
// to follow the one that it does not take any more, or a proof of possession.
func (b *Broker) ask(ctx context.Context, p *Prepared, r oauth.Request) (g got, err error) {
	for {
		g.sent = b.Now()
		g.Token, err = p.Client.Token(ctx, r)
		err = b.heard(p.Client.TokenURL, err)
		var answer *oauth.Error
		switch {
		case err == nil && p.Profile.DPoP == profile.On && g.Type == "Bearer":
			// RFC 9449 section 5: where it matters, such a token is thrown away.
			g.Token = &oauth.Token{RefreshToken: g.RefreshToken, Date: g.Date}
			return g, &oauth.Error{Op: "asking for a token", Kind: oauth.Malformed, Sent: true, Status: http.StatusOK,
				Err: errors.New("the token is not bound to our key, as OAUTH2_DPOP=on wants it")}
		case err == nil && len(g.AccessToken.Reveal())+len(strings.Join(g.Scopes, " ")) > maxToken:
			g.Token = &oauth.Token{RefreshToken: g.RefreshToken, Date: g.Date}
			return g, &oauth.Error{Op: "asking for a token", Kind: oauth.Malformed, Sent: true, Status: http.StatusOK,
				Err: fmt.Errorf("token and scopes are larger than %d bytes", maxToken)}
		case !errors.As(err, &answer):
			return g, err
		}
		next := p.Profile.NextSecret
		switch {
		case answer.Code == "invalid_client" && !next.IsZero() && p.Client.Secret != next:
			b.Log.Info("CLIENT_SECRET is refused; trying CLIENT_SECRET_NEXT", "profile", p.Name)
			p.Client.Secret = next
		case (answer.Code == "invalid_dpop_proof" || answer.Code == "use_dpop_nonce") && p.Client.DPoP == nil && p.Profile.DPoP == profile.Auto:
			prover, failed := b.prover(p, "")
			if failed != nil {
				return g, err
			}
			p.Client.DPoP = prover
		default:
			return g, err
		}
	}
}

// note keeps what a successful request has found out about the client, for a
// profile that has nothing else to keep. It can be found out again.
func (b *Broker) note(ctx context.Context, p *Prepared) {
	now := session{DPoPKey: p.known.DPoPKey, ClientSecret: p.known.ClientSecret}
	now.settle(p)
	if now.DPoPKey == p.known.DPoPKey && now.ClientSecret == p.known.ClientSecret {
		return
	}
	release, err := b.turns.take(ctx, p.Name)
	if err == nil {
		defer release()
		var h *held
		if h, err = b.sessionOf(ctx, p.Name); err == nil {
			h.settle(p)
			err = b.save(ctx, h)
		}
	}
	if err != nil {
		b.Log.Warn("not remembered over a restart", "profile", p.Name, "err", err)
	}
}

// assertion gives what a JWT bearer grant is asked with (RFC 7523 section 2.1):
// a token of somebody else's, or a JWT that the profile's key signs. It takes
// the scopes out of r where they go into the JWT.
func (b *Broker) assertion(p *Prepared, r *oauth.Request) (oauth.Secret, error) {
	if p.Profile.Subject != nil {
		return p.Profile.Subject.Token, nil
	}
	now := time.Now()
	claims := map[string]any{
		"iss": p.Client.ID,
		"aud": p.Client.AssertionAudience,
		"iat": now.Unix(),
		"exp": now.Add(assertionLife).Unix(),
		"jti": oauth.NewState(),
	}
	switch {
	case p.Profile.AssertionSubject != "":
		claims["sub"] = p.Profile.AssertionSubject
	case !p.Profile.ScopeInAssertion: // Google's has one only for whom it stands in for
		claims["sub"] = p.Client.ID
	}
	if p.Profile.ScopeInAssertion {
		if len(r.Scopes) > 0 {
			claims["scope"] = strings.Join(r.Scopes, " ")
		}
		r.Scopes = nil
		p.Client.ID = "" // Google's form has nothing but the assertion
	}
	signed, err := p.Client.Key.Sign("", claims)
	return oauth.NewSecret(signed), err
}

// subject gives the token that is to be exchanged.
func (b *Broker) subject(ctx context.Context, p *Prepared) (oauth.Secret, error) {
	s := p.Profile.Subject
	if s.Profile == "" {
		return s.Token, nil
	}
	// Where the name comes from a file or a command it is known only now.
	wait := edge{p.Name, s.Profile}
	b.mu.Lock()
	b.waits[wait]++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.waits[wait]--; b.waits[wait] == 0 {
			delete(b.waits, wait)
		}
	}()
	if err := b.checkChain(ctx, p.Name, s.Profile); err != nil {
		return oauth.Secret{}, err
	}
	t, err := b.Token(ctx, Request{Profile: s.Profile})
	if err != nil {
		return oauth.Secret{}, &SubjectError{s.Profile, err}
	}
	return t.Access, nil
}

// gitHubToken gets a token for an installation of a GitHub App.
func (b *Broker) gitHubToken(ctx context.Context, p *Prepared) (got, error) {
	app := p.Profile.GitHub
	now := time.Now()
	signed, err := p.Client.Key.Sign("", map[string]any{
		"iss": app.AppID,
		// GitHub's advice against clocks that do not agree.
		"iat": now.Add(-time.Minute).Unix(),
		"exp": now.Add(9 * time.Minute).Unix(),
	})
	if err != nil {
		return got{sent: b.Now()}, err
	}
	jwt := oauth.NewSecret(signed)
	id, err := strconv.ParseInt(app.Installation, 10, 64)
	if err != nil {
		if id, err = oauth.GitHubInstallation(ctx, app.API, jwt, app.Installation, p.Client.Transport); err != nil {
			return got{sent: b.Now()}, b.heard(app.API, err)
		}
	}
	g := got{sent: b.Now()}
	g.Token, err = oauth.GitHubToken(ctx, app.API, jwt, id, p.Client.Transport)
	return g, b.heard(app.API, err)
}

// An edge is a profile and the one whose token it waits for.
type edge struct{ profile, subject string }

// checkChain finds profiles that wait for each other's tokens, before anybody
// waits: name for subject's, and so on.
func (b *Broker) checkChain(ctx context.Context, name, subject string) error {
	chain := []string{name}
	for subject != "" {
		round := slices.Contains(chain, subject)
		chain = append(chain, subject)
		if round {
			return &profile.Mistakes{List: []profile.Mistake{{Variable: "OAUTH2_SUBJECT_TOKEN_PROFILE",
				Message: "the chain of profiles comes back to itself: " + strings.Join(chain, " -> ")}}}
		}
		f, err := b.factsFor(ctx, subject)
		if err != nil {
			return &SubjectError{subject, err}
		}
		subject = b.waitsFor(f)
	}
	return nil
}

// waitsFor is the profile whose token f's waits for, as its text says or as a
// fetch has found out.
func (b *Broker) waitsFor(f *facts) string {
	if f.subject != "" {
		return f.subject
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for wait := range b.waits {
		if wait.profile == f.profile {
			return wait.subject
		}
	}
	return ""
}
