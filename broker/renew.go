package broker

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"strings"
	"time"

	"tokend/oauth"
	"tokend/profile"
)

// Why a person is needed.
const (
	nobody  = "nobody is logged in"
	onlyOne = "the login brought one token, and no refresh token to get another with"
	ended   = "the access token has ended, and the server gave no refresh token"
)

// renew gets a token by the session's refresh token (RFC 6749 section 6). One
// at a time for a profile, whatever is asked for: most servers rotate, and take
// the second use of a refresh token for a theft.
func (b *Broker) renew(ctx context.Context, p *Prepared, k key, r oauth.Request) (got, error) {
	release, err := b.turns.take(ctx, p.Name)
	if err != nil {
		return got{}, err
	}
	defer release()
	h, err := b.sessionOf(ctx, p.Name)
	if err != nil {
		return got{}, err
	}
	h.copyFromText(p)
	if why := b.needsLogin(h, p, k); why != "" {
		return got{}, h.loginError(p, why)
	}
	if h.RefreshToken == "" {
		return b.savedToken(h.Access), nil
	}
	isDefault := h.meansAll(k, p.ownKey())
	if h.DPoPKey != "" && p.Profile.DPoP != profile.Off && (p.Client.DPoP == nil || p.Client.DPoP.Key().JWK().Reveal() != h.DPoPKey) {
		// Another one than when p was prepared.
		if p.Client.DPoP, err = b.prover(p, h.DPoPKey); err != nil {
			return got{}, err
		}
	}

	if p.isOld() {
		return got{sent: b.Now()}, errAsleep
	}
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return got{sent: b.Now()}, context.Canceled
	}
	b.spends.Add(1)
	b.mu.Unlock()
	defer b.spends.Done()
	spent := h.RefreshToken
	mark := Fingerprint(spent)
	// What came of it before is not known: no answer came, or the process was
	// killed before one could.
	before, process, _ := strings.Cut(h.Spending, "@")
	uncertain := before == mark
	interrupted := uncertain && process != b.id
	if !h.Fixed {
		// What cannot be written now could not be written after the exchange
		// either, and that would lose the new refresh token.
		if !interrupted {
			h.Spending = mark + "@" + b.id
		}
		if err := b.save(ctx, h); err != nil {
			return got{}, err
		}
	}

	ctx, cancel := b.ownTime(ctx)
	defer cancel()
	r.Grant = oauth.GrantRefreshToken
	r.Params = url.Values{"refresh_token": {spent}}
	if isDefault {
		r.Scopes = nil // which may be more than the text asks for
	}
	g, err := b.ask(ctx, p, r)
	var answer *oauth.Error
	if errors.As(err, &answer) && answer.Sent && answer.Status == 0 && g.Token == nil && !uncertain && ctx.Err() == nil {
		// Whether it was spent is not known; servers that rotate forgive a second
		// use shortly after the first, if at all.
		b.Log.Warn("no answer to a refresh token; it is sent once more", "profile", p.Name, "err", err)
		g, err = b.ask(ctx, p, r)
	}
	if err != nil && !errors.As(err, &answer) {
		return g, err
	}

	was := h.session
	if err == nil || answer.Status != 0 || !answer.Sent && !uncertain {
		h.Spending = ""
	}
	value := p.Profile.RefreshToken.Reveal()
	origin, fromText := h.Taken[Fingerprint(value)]
	fromText = fromText && value == spent
	if g.Token != nil && !g.RefreshToken.IsZero() && g.RefreshToken.Reveal() != spent {
		h.RefreshToken, h.Fixed, h.Spending = g.RefreshToken.Reveal(), false, ""
		origin.Spent = true
	} else if err == nil {
		h.Fixed = true
	}
	switch {
	case err == nil:
		origin.Yielded = true
		if g.ScopesGiven && isDefault {
			h.Scopes = g.Scopes
		} else if !g.ScopesGiven && isDefault {
			g.Token.Scopes = h.Scopes
		}
		h.settle(p)
	case answer.Code == "invalid_grant":
		h.Ended = "refresh token rejected: invalid_grant"
		if interrupted {
			h.Ended += "; tokend was killed in the middle of an earlier renewal"
		}
		origin.Spent = origin.Spent || origin.Yielded
		b.Log.Warn("the session has ended", "profile", p.Name, "err", err)
		b.event(Event{Kind: SessionEnded, Profile: p.Name, Err: h.loginError(p, h.Ended)})
	}
	if fromText {
		h.taken(value, origin)
	}
	if h.changed(&was) {
		_ = b.keep(ctx, h) // callers are told as long as it is not written
	}
	if h.Ended != "" {
		return got{}, h.loginError(p, h.Ended)
	}
	return g, err
}

// copyFromText copies OAUTH2_REFRESH_TOKEN into the session, unless that value was
// taken before: one that was rotated away must never be sent again.
func (h *held) copyFromText(p *Prepared) {
	value := p.Profile.RefreshToken.Reveal()
	before, known := h.Taken[Fingerprint(value)]
	switch {
	case value == "", before.Spent, known && before.Text == p.Version,
		value == h.RefreshToken && h.Ended == "":
		return
	}
	before.Text = p.Version
	h.taken(value, before)
	h.bind(p)
	h.RefreshToken, h.Access, h.Scopes, h.Fixed, h.Spending, h.Ended = value, nil, nil, false, "", ""
	h.TextScopes = normalise(p.Profile.Request.Scopes)
}

// changed says whether s must be written again.
func (h *held) changed(before *session) bool {
	return h.RefreshToken != before.RefreshToken || h.Fixed != before.Fixed || h.Spending != before.Spending ||
		h.Ended != before.Ended || h.DPoPKey != before.DPoPKey || h.ClientSecret != before.ClientSecret ||
		normalise(h.Scopes) != normalise(before.Scopes) || !maps.Equal(h.Taken, before.Taken)
}

// ownKey is that of the text's own scopes, audience and resource.
func (r *Prepared) ownKey() key { return factsOf(textKey{r.Name, r.Version}, r.Profile).key() }

// meansAll says whether k means all that was granted at the login: the scopes of
// the text, own's, which are still what they were then.
func (s *session) meansAll(k, own key) bool {
	return (k.scopes == "" || k.scopes == own.scopes) && own.scopes == s.TextScopes
}

// needsLogin says why a person is needed for the token that k names, or "".
func (b *Broker) needsLogin(h *held, p *Prepared, k key) string {
	own, elsewhere := p.ownKey(), h.bound(p)
	switch {
	case h.Ended != "":
		return h.Ended
	case h.RefreshToken == "" && h.Access == nil:
		return nobody
	case elsewhere != "":
		return elsewhere
	case h.RefreshToken != "":
		return ""
	case !h.meansAll(k, own) || k.audience != own.audience || k.resource != own.resource:
		return onlyOne
	}
	if left, ends := b.savedLeft(h.Access); ends && left <= 0 {
		return ended
	}
	return ""
}

// loginError is the error for what needsLogin says.
func (s *session) loginError(p *Prepared, why string) error {
	e := &LoginError{Why: why}
	if s.Ended != "" && s.RefreshToken != "" {
		e.Code = "invalid_grant"
	}
	if p.Profile.Request.Grant == oauth.GrantRefreshToken {
		e.Variable = "OAUTH2_REFRESH_TOKEN"
	}
	return e
}

// savedLeft is what is left of a login's access token; false: it is good until it
// is refused.
func (b *Broker) savedLeft(a *savedAccess) (left time.Duration, ends bool) {
	switch {
	case a.Ends == nil:
		return 0, false
	case a.At != nil && a.At.BootID != "" && a.At.BootID == b.BootID:
		return a.Life - b.since(*a.At), true
	}
	return time.Until(*a.Ends), true
}

// savedToken hands out the token of a login that yielded no refresh token.
func (b *Broker) savedToken(a *savedAccess) got {
	t := &oauth.Token{AccessToken: oauth.NewSecret(a.Token), Type: a.Type, Scopes: a.Scopes, ScopesGiven: true}
	if left, ends := b.savedLeft(a); ends {
		// It may have ended a moment ago, which is for those to find out who use it.
		t.Lifetime, t.LifetimeGiven = max(left, 1), true
	}
	return got{Token: t, sent: b.Now(), saved: true}
}
