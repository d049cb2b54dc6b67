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
	loginError := func(why string) error {
		e := &LoginError{Why: why}
		if h.Ended != "" && h.RefreshToken != "" {
			e.Code = "invalid_grant"
		}
		if p.Profile.Request.Grant == oauth.GrantRefreshToken {
			e.Variable = "OAUTH2_REFRESH_TOKEN"
		}
		return e
	}
	switch {
	case h.Ended != "":
		return got{}, loginError(h.Ended)
	case h.RefreshToken == "" && h.Access == nil:
		return got{}, loginError(nobody)
	}
	if why := h.bound(p); why != "" {
		return got{}, loginError(why)
	}
	own := factsOf(textKey{p.Name, p.Version}, p.Profile).key()
	// All that was granted is meant where the text's own scopes are, and those are
	// still what they were at the login.
	isDefault := (k.scopes == "" || k.scopes == own.scopes) && own.scopes == h.TextScopes
	if h.RefreshToken == "" {
		k.scopes = own.scopes
		return b.savedToken(h, isDefault && k == own, loginError)
	}
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
	mark := fingerprint(spent)
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
	origin, fromText := h.Taken[fingerprint(value)]
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
		b.event(Event{Kind: SessionEnded, Profile: p.Name, Err: loginError(h.Ended)})
	}
	if fromText {
		h.taken(value, origin)
	}
	if h.changed(&was) {
		_ = b.keep(ctx, h) // callers are told as long as it is not written
	}
	if h.Ended != "" {
		return got{}, loginError(h.Ended)
	}
	return g, err
}

// copyFromText copies OAUTH2_REFRESH_TOKEN into the session, unless that value was
// taken before: one that was rotated away must never be sent again.
func (h *held) copyFromText(p *Prepared) {
	value := p.Profile.RefreshToken.Reveal()
	before, known := h.Taken[fingerprint(value)]
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

// savedToken hands out the token of a login that yielded no refresh token.
func (b *Broker) savedToken(h *held, isDefault bool, loginError func(string) error) (got, error) {
	a, now := h.Access, b.Now()
	if !isDefault {
		return got{}, loginError(onlyOne)
	}
	t := &oauth.Token{AccessToken: oauth.NewSecret(a.Token), Type: a.Type, Scopes: a.Scopes, ScopesGiven: true}
	g := got{Token: t, sent: now, saved: true}
	if a.Ends != nil {
		left := time.Until(*a.Ends)
		if a.At != nil && a.At.BootID != "" && a.At.BootID == b.BootID {
			left = a.Life - b.since(*a.At)
		}
		if left <= 0 {
			return got{}, loginError("the access token has ended, and the server gave no refresh token")
		}
		t.Lifetime, t.LifetimeGiven = left, true
	}
	return g, nil
}
