package broker

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"tokend/oauth"
)

const (
	// evictGap is the least time between two evictions of a profile's tokens. It
	// doubles, up to evictLongest, as long as tokens younger than evictYoung are
	// refused: then it is not their age.
	evictGap     = 5 * time.Second
	evictLongest = 5 * time.Minute
	evictYoung   = time.Minute

	refusedSaved = "the API has refused the access token, and the server gave no refresh token"
)

// An Outcome is what came of a report.
type Outcome int

const (
	Evicted    Outcome = iota + 1 // another token is made, or will be
	Superseded                    // another one is there already
	Kept                          // it is not the token's fault
	TooSoon                       // it replaces one that was reported moments ago
)

// A Report is an API's refusal of a token.
type Report struct {
	Fingerprint string // of the token
	Status      int    // of the API's answer; 0: not known
	Challenges  []oauth.Challenge
}

// Reported says what came of a Report.
type Reported struct {
	Outcome    Outcome
	Message    string   // one line
	Code       string   // the challenge's error (RFC 6750 section 3.1), printable, or ""
	Scopes     []string // that the API asks for
	RetryAfter time.Duration
}

// Report takes note that an API has refused one of a profile's tokens. What the API
// calls invalid is handed out no more; other complaints are told apart, and change
// nothing. Errors are those of the store; store.ErrNotExist: there is no such profile.
func (b *Broker) Report(ctx context.Context, name string, r Report) (Reported, error) {
	if _, err := b.textNow(ctx, name); err != nil {
		return Reported{}, err
	}
	result := r.judge(b.withholds(name, r.Fingerprint))
	if result.Outcome == Evicted {
		if saved := b.evict(name, r.Fingerprint, &result); !saved.IsZero() {
			// Whether the caller waits for it or not.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
			defer cancel()
			if err := b.endSaved(ctx, name, saved); err != nil {
				return Reported{}, err
			}
		}
	}
	if result.Outcome == Superseded || result.Outcome == Kept && !b.holds(name, r.Fingerprint) {
		return result, nil // of what the caller says it is of
	}
	b.event(Event{Kind: TokenReported, Profile: name, Fingerprint: r.Fingerprint, Message: result.Message})
	return result, nil
}

// holds says whether one of a profile's tokens has that fingerprint.
func (b *Broker) holds(name, fp string) bool {
	return slices.ContainsFunc(b.cachedOf(name), func(m *made) bool { return m.fingerprint() == fp })
}

// withholds says what of an API's words is not passed on: they may repeat the token
// that it was sent, which is not known where it is not held any more.
func (b *Broker) withholds(name, fp string) func(string) bool {
	if !b.holds(name, fp) {
		return func(string) bool { return true }
	}
	// Most say nothing that is looked at, and some a thousand scopes.
	repeats := sync.OnceValue(func() func(string) bool {
		var secrets []oauth.Secret
		for _, m := range b.cachedOf(name) {
			secrets = append(secrets, m.access)
		}
		return oauth.Repeats(secrets)
	})
	return func(said string) bool { return repeats()(said) }
}

// errorCodes are those that an API can give by RFC 6750 section 3.1, RFC 9449
// sections 7.1 and 9, and RFC 9470 section 3.
var errorCodes = []string{"invalid_request", "invalid_token", "insufficient_scope", "invalid_dpop_proof", "use_dpop_nonce", "insufficient_user_authentication"}

// judge says what a refusal has to do with the token.
func (r Report) judge(withheld func(string) bool) Reported {
	var code string
	var scopes []string
	ours, others := false, ""
	for _, c := range r.Challenges {
		if c.Scheme != "bearer" && c.Scheme != "dpop" {
			others = c.Scheme
			continue
		}
		ours = true
		if e := c.Params["error"]; code == "" && e != "" {
			code, scopes = e, strings.Fields(c.Params["scope"])
		}
	}
	scopes = slices.DeleteFunc(scopes, func(s string) bool { return oauth.CheckScope(s) != nil || withheld(s) })
	unreadable := strings.ContainsFunc(code, func(c rune) bool { return c <= ' ' || c > '~' }) || len(code) > 64
	if unreadable || code != "" && !slices.Contains(errorCodes, code) && withheld(code) {
		code = "unreadable"
	}
	kept := func(format string, args ...any) Reported {
		return Reported{Outcome: Kept, Code: code, Scopes: scopes, Message: "the token stays: " + fmt.Sprintf(format, args...)}
	}
	switch {
	case code == "insufficient_scope" && len(scopes) > 0:
		return kept("the API wants the scopes %s (insufficient_scope)", strings.Join(scopes, " "))
	case code == "insufficient_scope":
		return kept("the API wants more scopes (insufficient_scope)")
	case code == "invalid_request":
		return kept("the API finds fault with the request, not with the token (invalid_request)")
	case code == "invalid_dpop_proof", code == "use_dpop_nonce":
		return kept("the API wants another proof of possession (%s)", code)
	case code == "insufficient_user_authentication":
		return kept("the API wants the user to log in again, or more strongly (%s, RFC 9470)", code)
	case code != "invalid_token" && r.Status != 0 && r.Status != http.StatusUnauthorized:
		return kept("HTTP %d says nothing against it", r.Status)
	case !ours && others != "" && withheld(others):
		return kept("the API asks for another authentication, not for a token")
	case !ours && others != "":
		return kept("the API asks for %s authentication, not for a token", printableScheme(others))
	case code == "":
		return Reported{Outcome: Evicted, Message: "the API gave no reason; a new token is made"}
	}
	return Reported{Outcome: Evicted, Code: code, Message: "the API calls it invalid (" + code + "); a new token is made"}
}

// printableScheme is a scheme as it may be shown: its characters are those of a
// token (RFC 9110 section 5.6.2), its length is the API's.
func printableScheme(s string) string { return s[:min(len(s), 32)] }

// evict takes the token with that fingerprint out of use, unless that was done
// moments ago; result then says what came of it instead. It gives the token of a
// login that no other can follow, else none.
func (b *Broker) evict(name, fp string, result *Reported) oauth.Secret {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.Now()
	var with []*entry // that token: a server may give it for more than one request
	for k, e := range b.tokens {
		if k.profile == name && e.token.alive(now) && e.token.fingerprint() == fp {
			with = append(with, e)
		}
	}
	if len(with) == 0 {
		result.Outcome, result.Message = Superseded, "it is not the token that is handed out now"
		return oauth.Secret{}
	}
	m := with[0].token
	if m.reported == 0 {
		m.reported = now
	}
	// Without facts there was no eviction either.
	if f := b.facts[name]; f != nil {
		f := f.said()
		gap := min(evictGap<<f.strikes, evictLongest)
		if left := f.evicted + gap - now; f.evicted > 0 && left > 0 {
			result.Outcome, result.RetryAfter = TooSoon, left
			result.Message = "the API refuses a token that was made moments ago, too: check the API's address, and what the token is for"
			return oauth.Secret{}
		}
		if f.evicted > 0 && m.sent >= f.evicted && m.reported-m.sent < evictYoung {
			f.strikes = min(f.strikes+1, 8)
		} else {
			f.strikes = 0
		}
		f.evicted = now
		if m.saved {
			f.dead = fp
		}
	}
	for _, e := range with {
		e.token.refused, e.failed = true, nil
		b.unplan(e)
	}
	b.notify(name)
	if m.saved {
		result.Message = "the API calls the login's token invalid, and there is no refresh token to get another with"
		return m.access
	}
	return oauth.Secret{}
}

// endSaved ends a session whose only token an API has refused.
func (b *Broker) endSaved(ctx context.Context, name string, token oauth.Secret) error {
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	h, err := b.sessionOf(ctx, name)
	if err != nil {
		return err
	}
	if h.Access == nil || h.Access.Token != token.Reveal() || h.Ended != "" {
		return nil
	}
	h.Ended = refusedSaved
	_ = b.keep(ctx, h)
	b.event(Event{Kind: SessionEnded, Profile: name, Err: &LoginError{Why: h.Ended}})
	return nil
}
