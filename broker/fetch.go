package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unique"

	"tokend/oauth"
	"tokend/profile"
)

// fetch asks the authorization server for the token that k names, unless
// somebody else's fetch ended since the caller looked, at which time the
// server had last been asked at asked. In the background nobody waits for it.
func (b *Broker) fetch(ctx context.Context, f *facts, k key, asked time.Duration, background bool) (*made, error) {
	defer b.fetched.Add(1)
	b.mu.Lock()
	e := b.tokens[k]
	if now := b.Now(); e != nil && e.lastAsked() != asked && (e.token.alive(now) || e.failed != nil) {
		defer b.mu.Unlock()
		return e.token, e.refusal(now)
	}
	b.mu.Unlock()
	if err := b.waitGap(ctx, k); err != nil {
		return nil, err
	}
	text, err := b.read(ctx, k.textKey)
	if err != nil {
		return nil, err
	}
	g, p, err := b.obtain(ctx, f, k, text, e.renewal())
	switch {
	case err == nil:
		return b.keepToken(f, k, p, g, background)
	case err == errAsleep:
		return nil, err // at once again
	case isOurs(err):
		if errors.Is(err, ErrUntrusted) {
			b.Forget(k.profile)
		}
		return nil, err // and may be mended before the next call
	}
	b.Log.Warn("no token", "profile", k.profile, "err", err, "background", background)
	return nil, b.keepFailure(f, k, p, g, err)
}

// keepToken puts what a grant has brought into the cache, and gives what its
// callers get.
func (b *Broker) keepToken(f *facts, k key, p *Prepared, g got, background bool) (*made, error) {
	m := makeToken(p, g)
	m.noteSkew(g.Date, b.Now()-g.sent)
	b.Log.Info("new token", "profile", k.profile, "lifetime", m.life, "took", b.Now()-g.sent, "background", background)
	fp := m.fingerprint()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.facts[k.profile] != f {
		return m, nil // for the callers of this flight only
	}
	e, now := b.entryOf(f, k), b.Now()
	e.sent = g.sent
	if m.saved && f.told != nil && fp == f.told.dead {
		return nil, &LoginError{Why: refusedSaved}
	}
	kind := TokenMade
	if background {
		kind = TokenRenewed
	}
	b.event(Event{Kind: kind, Profile: k.profile, Fingerprint: fp, Ends: time.Now().Add(m.remaining(now))})
	f.made = g.sent
	if m.life > 0 { // else who watches would ask for one after the other
		b.notify(k.profile)
	}
	b.unplan(e)
	if old := e.token; old != nil && !old.refused && old.access == m.access && m.sent+m.life <= old.sent+old.life+sameSlack {
		return m, b.keepSame(e, m, now)
	}
	e.failed, e.token, e.asked = nil, m, false
	if m.life == 0 {
		e.token = nil // for the callers of this flight only
	}
	if m.renewable() {
		e.due = m.renewalTime(p.Profile.RenewAt)
	}
	return m, nil
}

// keepSame keeps m in place of e's token, which it is: no younger for having been
// sent again. The caller holds mu.
func (b *Broker) keepSame(e *entry, m *made, now time.Duration) error {
	m.life += m.sent - e.token.sent
	m.sent, m.again = e.token.sent, true
	if !m.alive(now) {
		e.token, e.failed = nil, nil
		return errLate // by the server's own word
	}
	e.token, e.due = m, now+min(max(fetchGap, m.remaining(now)/2), m.remaining(now))
	e.failed = &failure{err: errSame, until: e.due, retry: e.due, again: e.due, same: true}
	if e.asked && m.renewable() {
		b.plan(e, e.due)
	}
	return nil
}

// keepFailure remembers why there is no token, and gives the error for its
// callers.
func (b *Broker) keepFailure(f *facts, k key, p *Prepared, g got, err error) error {
	var (
		variable  = suspect(p, err)
		wait      time.Duration // that the server has said, or that was remembered
		sent      = true        // something, to the server
		answered  *oauth.Error
		refused   *RefusedError
		throttled *ThrottledError
	)
	switch {
	case errors.As(err, new(*SubjectError)), !errors.As(err, &answered) && !errors.As(err, &throttled):
		sent = false // and not for this server to say
	case errors.As(err, &refused):
		sent, wait, variable, err = answered.Sent, refused.RetryAfter, refused.Variable, refused.Err
	case errors.As(err, &throttled):
		sent, wait = false, throttled.RetryAfter
	case p != nil:
		left, _ := b.closed(p.endpoint())
		wait = max(answered.RetryAfter, left)
	default:
		wait = answered.RetryAfter
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	if b.facts[k.profile] != f {
		return &RefusedError{err, wait, variable}
	}
	e, now := b.entryOf(f, k), b.Now()
	if sent {
		e.sent = g.sent
	}
	changed := e.failed == nil || e.failed.same || !alike(e.failed.err, err)
	e.fail(now, err, variable, wait)
	if f.external && answered != nil && answered.Kind == oauth.Refused {
		e.failed.until = min(e.failed.until, now+resolveAgain)
	}
	if changed {
		b.notify(k.profile)
	}
	if changed || sent {
		b.event(Event{Kind: TokenFailed, Profile: k.profile, Err: e.refusal(now)})
	}
	if e.token.alive(now) && e.asked && e.token.renewable() && e.token.remaining(now) > e.failed.again-now {
		b.plan(e, e.failed.again)
	}
	return e.refusal(now)
}

// fail notes why there is no new token. The server is asked again after wait, or
// where that is 0 after a time that fits the error.
func (e *entry) fail(now time.Duration, err error, suspect string, wait time.Duration) {
	failed := &failure{err: err, suspect: suspect}
	throttled := errors.As(err, new(*ThrottledError))
	if e.failed != nil && !e.failed.same {
		failed.tries = e.failed.tries
		if !throttled { // or nothing was tried
			failed.tries++
		}
	}
	var answer *oauth.Error
	server := errors.As(err, &answer) && !errors.As(err, new(*SubjectError))
	longest := longestBackOff
	if server && unseen(answer) {
		longest = unseenBackOff
	}
	again := backOff(failed.tries, longest)
	switch {
	case throttled:
		failed.until, again = now+wait, wait
	case wait > 0:
		failed.until = now + max(fetchGap, wait)
		again = max(again, wait)
	case server && answer.Kind == oauth.Invalid:
		failed.until = now + fetchGap // nothing was sent
	case server:
		failed.until = now + again
	}
	// What is not the server's to say may be mended at any time: it is not
	// answered without looking, but not looked at all the time in the background.
	failed.again, failed.retry = now+again, failed.until
	e.failed = failed
}

// alike says whether two errors are of a kind: what they say may differ each time.
func alike(a, b error) bool {
	var x, y *oauth.Error
	if errors.As(a, &x) && errors.As(b, &y) {
		return x.Kind == y.Kind && x.Code == y.Code && x.Status == y.Status
	}
	return x == nil && y == nil && fmt.Sprintf("%T", a) == fmt.Sprintf("%T", b)
}

// noteSkew warns of a server's clock that differs from ours. The answer may have
// taken as long as took.
func (m *made) noteSkew(date time.Time, took time.Duration) {
	if date.IsZero() {
		return
	}
	skew := time.Since(date)
	if skew > skewNotice+took {
		m.warn("this machine's clock is " + skew.Round(time.Second).String() + " ahead of the server's")
	} else if skew < -skewNotice {
		m.warn("this machine's clock is " + (-skew).Round(time.Second).String() + " behind the server's")
	}
}

// obtain prepares a text and gets the token that k names. Beside an error it says
// when the server was last asked.
func (b *Broker) obtain(ctx context.Context, f *facts, k key, text *profile.Text, renewal oauth.Secret) (g got, p *Prepared, err error) {
	g.sent = b.Now()
	values, err := b.Resolve(ctx, text.External())
	if err != nil {
		return g, nil, &valuesError{err}
	}
	cause := causeOf(k.version, values)
	if err := b.refused(ctx, f, k, cause, ""); err != nil {
		return g, nil, err
	}
	p, err = b.prepareWith(ctx, k.textKey, text, values, false)
	if err != nil {
		return g, nil, err
	}
	p.cause = cause
	if p.Profile.Subject != nil {
		secret, err := b.subject(ctx, p)
		if err != nil {
			return g, p, err
		}
		p.Profile.Subject.Token, p.subject = secret, Fingerprint(secret.Reveal())
		if err := b.refused(ctx, f, k, cause, p.subject); err != nil {
			return g, p, err
		}
	}
	b.mu.Lock()
	proven := f.proven == sumOf(cause)
	b.mu.Unlock()
	if !proven {
		// One finds out for all, whatever else they ask for.
		release, err := b.probes.take(ctx, cause)
		if err != nil {
			return g, p, err
		}
		defer release()
		if err := b.refused(ctx, f, k, cause, p.subject); err != nil {
			return g, p, err
		}
	}
	if err := b.admit(ctx, k.profile, p.endpoint()); err != nil {
		return g, p, err
	}
	if err := b.refused(ctx, f, k, cause, p.subject); err != nil {
		return g, p, err // since it was looked at
	}
	if p.isOld() {
		return g, p, errAsleep
	}
	g, err = b.grant(ctx, p, k, renewal)
	var answer *oauth.Error
	switch {
	case err == nil:
		b.granted(ctx, f, k, cause)
	case errors.As(err, &answer) && answer.Kind == oauth.Refused && answer.Code != "slow_down":
		// Before anybody else may ask.
		variable := suspect(p, err)
		err = &RefusedError{err, b.refuse(ctx, f, k, p, variable, answer), variable}
	}
	return g, p, err
}

// suspect names the variable to look at first where the server says no. p is
// nil if the profile could not be prepared.
func suspect(p *Prepared, err error) string {
	var answer *oauth.Error
	if p == nil || !errors.As(err, &answer) || answer.Kind != oauth.Refused {
		if errors.As(err, new(*DiscoveryError)) {
			return "OAUTH2_ISSUER"
		}
		return ""
	}
	client, grant := p.Client, p.Profile.Request.Grant
	switch {
	case answer.Code == "invalid_dpop_proof" || answer.Code == "use_dpop_nonce":
		return "OAUTH2_DPOP"
	case p.Profile.GitHub != nil && answer.Status == http.StatusNotFound:
		return "GITHUB_INSTALLATION"
	case p.Profile.GitHub != nil && answer.Status == http.StatusForbidden:
		return "GITHUB_INSTALLATION" // it is suspended
	case p.Profile.GitHub != nil:
		return "GITHUB_APP_ID"
	case answer.Code == "invalid_grant" && grant == oauth.GrantJWTBearer && p.Profile.Subject == nil:
		return "PRIVATE_KEY"
	case (answer.Code == "invalid_grant" || answer.Code == "invalid_request") && p.Profile.Subject != nil:
		if p.Profile.Subject.Profile != "" {
			return "OAUTH2_SUBJECT_TOKEN_PROFILE"
		}
		return "OAUTH2_SUBJECT_TOKEN"
	case answer.Code == "invalid_grant" && client.DPoP == nil && p.Metadata != nil && p.Metadata.DPoPAlgs != nil:
		return "OAUTH2_DPOP"
	case answer.Code == "invalid_grant":
		return "OAUTH2_GRANT"
	case answer.Code != "" && answer.Code != "invalid_client":
		return ""
	}
	switch client.ChooseAuth(nil) {
	case oauth.PrivateKeyJWT:
		return "PRIVATE_KEY"
	case oauth.TLSClientAuth, oauth.SelfSignedTLSClientAuth:
		return "TLS_CLIENT_CERT"
	}
	return ""
}

// makeToken makes what is cached of what a grant brought.
func makeToken(p *Prepared, g got) *made {
	m := &made{
		access:  g.AccessToken,
		sum:     fingerprintOf(g.AccessToken.Reveal()),
		kind:    unique.Make(g.Type),
		version: p.Version,
		sent:    g.sent,
		life:    g.Lifetime,
		scopes:  g.Scopes,
		party:   partyOf(p.Profile.Client.ID, p.endpoint()),
		warning: strings.Join(g.Warnings, "; "),
	}
	if ends := p.Profile.SecretExpires; !ends.IsZero() && p.Client.Secret == p.Profile.Client.Secret {
		if left := time.Until(ends); left <= 0 {
			m.warn("CLIENT_SECRET_EXPIRES_AT has passed: " + ends.UTC().Format(time.RFC3339))
		} else if left < secretNotice {
			m.warn(fmt.Sprintf("CLIENT_SECRET expires in %d days: %s", int(left/(24*time.Hour)), ends.UTC().Format(time.RFC3339)))
		}
	}
	switch grant := p.Profile.Request.Grant; grant {
	case oauth.GrantClientCredentials:
		m.renewal = g.RefreshToken
		fallthrough
	case oauth.GrantJWTBearer, oauth.GrantTokenExchange:
		m.life = min(m.life, longestLife)
	}
	if !g.LifetimeGiven {
		m.life, m.assumed = p.Profile.DefaultLifetime, true
	}
	m.saved = g.saved
	if g.Type == "DPoP" {
		m.bound = &binding{p.Client.DPoP, p.allEndpoints()}
	}
	return m
}

// waitGap delays a fetch that would come too soon after the last one.
func (b *Broker) waitGap(ctx context.Context, k key) error {
	b.mu.Lock()
	e := b.tokens[k]
	wait := e.lastAsked() + fetchGap - b.Now()
	b.mu.Unlock()
	if e == nil || wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
