package broker

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"tokend/oauth"
	"tokend/store"
)

const (
	firstSweep = 256
	// maxTokens bounds the cache: callers choose scopes, audience and resource,
	// so the number of profiles does not.
	maxTokens = 32768
)

// entry is what is known of one key: the last token, and how the last fetch
// went.
type entry struct {
	of    *facts
	other *key          // nil: it is the one of the text's own scopes, audience and resource
	token *made         // nil: none
	sent  time.Duration // when the last fetch was sent
	// failed is how the last fetch failed; nil: it did not.
	failed *failure
	// due is when it is to be renewed, 0 if it is not; place is where it stands in
	// the schedule, -1 if it does not.
	due   time.Duration
	place int
	asked bool // the token was handed out since it was made, so it is worth renewing
	paced bool // due is when its server has time for it
}

// failure is why there is no token, or no newer one.
type failure struct {
	err     error
	suspect string // the variable to look at first, or ""
	// until is when it is looked at again; before that the error is answered at
	// once. The server is not asked before retry, which is the same, or later where
	// what would be sent may change by itself.
	until, retry time.Duration
	again        time.Duration // when it is tried again in the background
	tries        int           // how often in a row
	// same: the server gave the same token again, which is no failure as long as
	// enough of its life is left.
	same bool
}

// party is who a token was asked for, and of whom.
type party struct {
	clientID string
	tokenURL unique.Handle[string] // many profiles have the same
}

func partyOf(clientID, tokenURL string) party {
	// Cloned, or it would keep the whole text in memory.
	return party{strings.Clone(clientID), unique.Make(tokenURL)}
}

// made is a token as it was made.
type made struct {
	access  oauth.Secret
	kind    unique.Handle[string] // most have the same
	version store.Version
	sent    time.Duration // when its request was sent: its life counts from there
	life    time.Duration
	scopes  []string
	party   party
	warning string
	// renewal is a refresh token that came with it where no session is kept
	// (client credentials).
	renewal oauth.Secret
	bound   *binding // nil: a bearer token
	// sum is its fingerprint: hashing leaves a copy of what is hashed on the stack,
	// which is cleared where a token is made, but not where it is handed out.
	sum [16]byte
	// The Broker's mu guards reported, when an API's refusal was first reported, or
	// 0, and refused: it is handed out no more.
	reported time.Duration
	refused  bool
	assumed  bool // its life is
	saved    bool // it is the one of a login, which cannot be had again
	again    bool // the server gave it more than once
}

// fingerprint is what Fingerprint gives for m.
func (m *made) fingerprint() string { return hex.EncodeToString(m.sum[:]) }

// binding is the key that a token is bound to (RFC 9449).
type binding struct {
	prover *oauth.DPoP
	// endpoints are the authorization server's, for which nothing is proved.
	endpoints []string
}

func (m *made) warn(of string) {
	if m.warning != "" {
		m.warning += "; "
	}
	m.warning += of
}

func (m *made) remaining(now time.Duration) time.Duration { return m.sent + m.life - now }

// alive says whether m, which may be nil, can be handed out. The caller holds mu.
func (m *made) alive(now time.Duration) bool { return m != nil && !m.refused && m.remaining(now) > 0 }

// least is what a token must have left where the caller sets no minimum.
func (m *made) least() time.Duration { return min(30*time.Second, m.life/10) }

func (m *made) hand(now time.Duration) Token {
	return Token{
		Access:        m.access,
		Fingerprint:   m.fingerprint(),
		Type:          m.kind.Value(),
		Version:       m.version,
		Remaining:     max(0, m.remaining(now)),
		Lifetime:      m.life,
		Scopes:        m.scopes,
		ExpiryAssumed: m.assumed,
		Warning:       m.warning,
	}
}

// hand gives the token, and why it could not be renewed if that has failed.
func (e *entry) hand(now time.Duration) Token {
	t := e.token.hand(now)
	if e.failed != nil && !e.failed.same {
		t.degrade(e.refusal(now))
	}
	return t
}

// degrade says why a token that still lives is not a newer one.
func (t *Token) degrade(why error) {
	t.Degraded, t.Err = true, why
	if t.Warning != "" {
		t.Warning += "; "
	}
	t.Warning += fmt.Sprintf("cannot renew it: %v; good until %s", why, time.Now().Add(t.Remaining).Format("15:04:05"))
}

// answer says what to tell a caller without asking the server; ok is false if
// the server has to be asked.
func (e *entry) answer(now time.Duration, r Request) (t Token, err error, ok bool) {
	if e == nil {
		return Token{}, nil, false
	}
	alive := e.token.alive(now) && !r.Force
	good := alive && e.token.remaining(now) >= e.token.least()
	switch {
	case good && e.token.remaining(now) >= r.MinValid:
		return e.hand(now), nil, true
	case good && r.MinValid > e.token.life:
		t, err := e.token.fresh(now, r)
		return t, err, true
	case e.failed != nil && now < e.failed.until && (alive || !e.failed.same):
		if t, ok := e.lastResort(now, r, e.failed.err); ok {
			return t, nil, true
		}
		if e.failed.same {
			return Token{}, &LifetimeError{e.token.remaining(now), r.MinValid}, true
		}
		return Token{}, e.refusal(now), true
	}
	return Token{}, nil, false
}

// lastResort hands out what still lives when a better token cannot be had, for
// the reason why, unless the caller insists.
func (e *entry) lastResort(now time.Duration, r Request, why error) (Token, bool) {
	if e == nil || !e.token.alive(now) {
		return Token{}, false
	}
	if !r.BestEffort && (r.Force || r.MinValid > e.token.remaining(now)) {
		return Token{}, false
	}
	t := e.token.hand(now)
	t.degrade(why)
	return t, true
}

// lastAsked is when the last fetch was sent; -1 if there was none.
func (e *entry) lastAsked() time.Duration {
	if e == nil {
		return -1
	}
	return e.sent
}

// renewal is what the next token may be asked for with, or none.
func (e *entry) renewal() oauth.Secret {
	if e == nil || e.token == nil {
		return oauth.Secret{}
	}
	return e.token.renewal
}

// refusal is the error of the last fetch; nil if it did not fail.
func (e *entry) refusal(now time.Duration) error {
	if e.failed == nil || e.failed.same {
		return nil
	}
	return &RefusedError{e.failed.err, max(0, e.failed.retry-now), e.failed.suspect}
}

// fresh hands out a token that was just made, or says that no token of this
// provider lives as long as the caller needs.
func (m *made) fresh(now time.Duration, r Request) (Token, error) {
	t := m.hand(now)
	longest := m.life
	if m.again {
		longest = m.remaining(now)
	}
	if r.MinValid > longest {
		short := &LifetimeError{longest, r.MinValid}
		if !r.BestEffort {
			return Token{}, short
		}
		t.Degraded, t.Warning = true, short.Error()
	}
	return t, nil
}

// key is what e is of.
func (e *entry) key() key {
	if e.other != nil {
		return *e.other
	}
	return e.of.key()
}

// entryOf returns the entry of k, which is one of f's keys, a new one if there is
// none. The caller holds mu.
func (b *Broker) entryOf(f *facts, k key) *entry {
	e := b.tokens[k]
	if e == nil {
		b.sweep()
		e = &entry{of: f, place: -1}
		if k != f.key() {
			e.other = &k
		}
		b.tokens[k] = e
		b.look()
	}
	return e
}

// removeTokens drops the entries for which gone says so. The caller holds mu.
func (b *Broker) removeTokens(gone func(key, *entry) bool) {
	maps.DeleteFunc(b.tokens, func(k key, e *entry) bool {
		if !gone(k, e) {
			return false
		}
		b.unplan(e)
		return true
	})
}

// forget drops a profile's tokens. The caller holds mu.
func (b *Broker) forget(name string) {
	delete(b.facts, name)
	b.removeTokens(func(k key, _ *entry) bool { return k.profile == name })
	b.notify(name)
}

// sweep makes room before a token is added: the dead go first, then those
// fetched longest ago. The caller holds mu.
func (b *Broker) sweep() {
	if len(b.tokens) < b.sweepAt {
		return
	}
	now := b.Now()
	b.removeTokens(func(_ key, e *entry) bool {
		return !e.token.alive(now) && now > e.sent+forceGap && (e.failed == nil || now > e.failed.until)
	})
	// Down to less than the limit, or the next one would have to sweep again.
	if over := len(b.tokens) - maxTokens*7/8; over > 0 {
		sent := make([]time.Duration, 0, len(b.tokens))
		for _, e := range b.tokens {
			sent = append(sent, e.sent)
		}
		slices.Sort(sent)
		b.removeTokens(func(_ key, e *entry) bool { return e.sent <= sent[over-1] })
	}
	b.sweepAt = min(maxTokens, max(firstSweep, 2*len(b.tokens)))
}
