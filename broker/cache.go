package broker

import (
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
	token  *made         // nil: none that may be handed out again
	sent   time.Duration // when the last fetch was sent
	failed *failure      // how the last fetch failed; nil: it did not
}

type failure struct {
	err     error
	suspect string // the variable to look at first, or ""
	// closed is how long after the fetch the error is answered without asking.
	closed time.Duration
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
	kind    string
	version store.Version
	sent    time.Duration // when its request was sent: its life counts from there
	life    time.Duration
	scopes  []string
	party   party
	assumed bool
	warning string
	saved   bool // it is the one of a login, which cannot be had again
	// renewal is a refresh token that came with it where no session is kept
	// (client credentials).
	renewal oauth.Secret
	bound   *binding // nil: a bearer token
}

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

// least is what a token must have left where the caller sets no minimum.
func (m *made) least() time.Duration { return min(30*time.Second, m.life/10) }

func (m *made) hand(now time.Duration) Token {
	return Token{
		Access:        m.access,
		Type:          m.kind,
		Version:       m.version,
		Remaining:     max(0, m.remaining(now)),
		Lifetime:      m.life,
		Scopes:        m.scopes,
		ExpiryAssumed: m.assumed,
		Warning:       m.warning,
	}
}

// answer says what to tell a caller without asking the server; ok is false if
// the server has to be asked.
func (e *entry) answer(now time.Duration, r Request) (t Token, err error, ok bool) {
	if e == nil {
		return Token{}, nil, false
	}
	alive := e.token != nil && e.token.remaining(now) > 0 && !r.Force
	good := alive && e.token.remaining(now) >= e.token.least()
	switch {
	case alive && e.token.remaining(now) >= max(r.MinValid, e.token.least()):
		return e.token.hand(now), nil, true
	case good && r.MinValid > e.token.life:
		t, err := e.token.fresh(now, r)
		return t, err, true
	case e.failed != nil && now < e.sent+e.failed.closed:
		if t, ok := e.lastResort(now, r, e.failed.err); ok {
			return t, nil, true
		}
		return Token{}, e.refusal(now), true
	}
	return Token{}, nil, false
}

// lastResort hands out what still lives when a better token cannot be had, for
// the reason why, unless the caller insists.
func (e *entry) lastResort(now time.Duration, r Request, why error) (Token, bool) {
	if e == nil || e.token == nil || e.token.remaining(now) <= 0 {
		return Token{}, false
	}
	if !r.BestEffort && (r.Force || r.MinValid > e.token.remaining(now)) {
		return Token{}, false
	}
	t := e.token.hand(now)
	t.Degraded, t.Warning = true, "it could not be renewed: "+why.Error()
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
	if e.failed == nil {
		return nil
	}
	return &RefusedError{e.failed.err, max(0, e.sent+e.failed.closed-now), e.failed.suspect}
}

// fresh hands out a token that was just made, or says that no token of this
// provider lives as long as the caller needs.
func (m *made) fresh(now time.Duration, r Request) (Token, error) {
	t := m.hand(now)
	if r.MinValid > m.life {
		short := &LifetimeError{m.life, r.MinValid}
		if !r.BestEffort {
			return Token{}, short
		}
		t.Degraded, t.Warning = true, short.Error()
	}
	return t, nil
}

// forget drops a profile's tokens. The caller holds mu.
func (b *Broker) forget(name string) {
	delete(b.facts, name)
	maps.DeleteFunc(b.tokens, func(k key, _ *entry) bool { return k.profile == name })
}

// sweep makes room before a token is added: the dead go first, then those
// fetched longest ago. The caller holds mu.
func (b *Broker) sweep() {
	if len(b.tokens) < b.sweepAt {
		return
	}
	now := b.Now()
	maps.DeleteFunc(b.tokens, func(_ key, e *entry) bool {
		return (e.token == nil || e.token.remaining(now) <= 0) && now > e.sent+forceGap && (e.failed == nil || now > e.sent+e.failed.closed)
	})
	// Down to less than the limit, or the next one would have to sweep again.
	if over := len(b.tokens) - maxTokens*7/8; over > 0 {
		sent := make([]time.Duration, 0, len(b.tokens))
		for _, e := range b.tokens {
			sent = append(sent, e.sent)
		}
		slices.Sort(sent)
		maps.DeleteFunc(b.tokens, func(_ key, e *entry) bool { return e.sent <= sent[over-1] })
	}
	b.sweepAt = min(maxTokens, max(firstSweep, 2*len(b.tokens)))
}
