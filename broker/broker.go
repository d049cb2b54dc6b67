// Package broker is the life of tokens: it keeps them in memory, fetches each
// once for all who ask, and knows when one is too old to be handed out. It
// speaks to authorization servers through package oauth and reads profiles
// from a store; it has no sockets and no files of its own.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
)

const (
	// flightTime bounds everything that one fetch does: values from commands,
	// discovery, the token endpoint.
	flightTime = 30 * time.Second
	// fetchGap is the least time between two fetches of one token, whatever
	// the server says of its lifetime and however often it fails.
	fetchGap = time.Second
	// forceGap is the same for callers who want a new token.
	forceGap = 2 * time.Second
	// longestLife caps lifetimes of grants that need no person: such a token
	// is cheap to replace, and a server that means years is more often wrong.
	longestLife = 24 * time.Hour
	// maxToken is the size of the largest token, with the scopes granted: what
	// is larger fits into no header, nor into the cache ten thousand times.
	maxToken = 48 << 10
)

// ErrUntrusted says that the profile's text has not been trusted by the user.
var ErrUntrusted = errors.New("its text has not been trusted on this machine")

// LifetimeError says that the provider's tokens live shorter than a caller
// needs.
type LifetimeError struct {
	Lifetime, MinValid time.Duration
}

func (e *LifetimeError) Error() string {
	return fmt.Sprintf("provider grants %v, a minimum of %v cannot be met", e.Lifetime, e.MinValid)
}

// RefusedError is a fetch that failed, with how long the same answer will be
// given without asking the server again.
type RefusedError struct {
	Err        error
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// DiscoveryError is a fetch that failed because the issuer's metadata could not
// be had, or cannot be used.
type DiscoveryError struct{ Err error }

func (e *DiscoveryError) Error() string { return e.Err.Error() }
func (e *DiscoveryError) Unwrap() error { return e.Err }

// Request is what a caller asks for.
type Request struct {
	Profile string
	// Scopes, Audience and Resource stand in for the profile's own; empty ones
	// leave them as they are.
	Scopes             []string
	Audience, Resource string
	// MinValid is how much longer the token must live; 0 means the smaller of
	// 30 s and a tenth of its life.
	MinValid time.Duration
	// Force asks for a new token, BestEffort for one that still lives where
	// MinValid cannot be met.
	Force, BestEffort bool
}

// Token is an access token as it is handed out.
type Token struct {
	Access  oauth.Secret
	Type    string
	Version store.Version // of the text it was made from
	// Remaining is what was left of Lifetime when it was handed out.
	Remaining, Lifetime time.Duration
	Scopes              []string
	APIOrigins          []string
	ExpiryAssumed       bool
	// Degraded: it falls short of what was asked for, and Warning says why.
	Degraded bool
	Warning  string
}

// Config is what a Broker works with. All fields are required.
type Config struct {
	Profiles store.Store
	// Trusted says whether the user has trusted this text under this name.
	Trusted func(name string, text []byte) (bool, error)
	// Resolve reads the files and runs the commands that a trusted text names.
	// Errors are *profile.Mistakes, or the context's.
	Resolve func(context.Context, []profile.External) (map[string]string, error)
	// Now is a clock that nobody sets and that counts suspend.
	Now func() time.Duration
	// Log gets a line for each fetch.
	Log *slog.Logger
}

// Broker hands out tokens. Its methods may be called at the same time.
type Broker struct {
	Config
	ctx    context.Context // of every flight; ended by Close
	cancel context.CancelFunc

	loads     group[textKey, *facts]
	fetches   group[key, *made]
	discovery group[discoveryKey, *oauth.Metadata]

	// mu guards the fields that follow. It is never held across I/O.
	mu       sync.Mutex
	facts    map[string]*facts // by profile name
	tokens   map[key]*entry
	sweepAt  int // len(tokens) at which the next sweep is due
	metadata map[discoveryKey]*discovered
}

// New returns a Broker with an empty cache.
func New(c Config) *Broker {
	ctx, cancel := context.WithCancel(context.Background())
	return &Broker{
		Config:   c,
		ctx:      ctx,
		cancel:   cancel,
		facts:    make(map[string]*facts),
		tokens:   make(map[key]*entry),
		sweepAt:  firstSweep,
		metadata: make(map[discoveryKey]*discovered),
	}
}

// Close ends all fetches and waits for them.
func (b *Broker) Close() {
	b.cancel()
	b.loads.wait()
	b.fetches.wait()
	b.discovery.wait()
}

// textKey names one text.
type textKey struct {
	profile string
	version store.Version
}

// facts are what has to be known of a text to tell which token a request
// means. Nothing in them is secret.
type facts struct {
	textKey
	scopes, audience, resource string // the profile's own, normalised
	apiOrigins                 []string
	// made is when the last token of this text was asked for; guarded by the
	// Broker's mu.
	made time.Duration
}

// key names one token: requests with equal keys share it, others never do.
type key struct {
	textKey
	scopes, audience, resource string
}

// Token answers r from the cache or, once for all who ask at the same time,
// from the authorization server. Errors: [ErrUntrusted], [*LifetimeError],
// [*RefusedError], [*profile.Mistakes], those of the store, and the context's.
func (b *Broker) Token(ctx context.Context, r Request) (Token, error) {
	// A text may change between the look at its version and its reading; the
	// next round then sees the new one. Somebody who rewrites it all the time
	// gets an error.
	for range 8 {
		version, err := b.Profiles.Stat(ctx, r.Profile)
		if err != nil {
			return Token{}, err
		}
		if version == "" {
			return Token{}, store.ErrNotExist
		}
		t, err := b.tokenOf(ctx, textKey{r.Profile, version}, r)
		if !errors.Is(err, errChanged) {
			return t, err
		}
	}
	return Token{}, fmt.Errorf("reading %q: it is being written to all the time", r.Profile)
}

var errChanged = errors.New("the text changed while it was read")

func (b *Broker) tokenOf(ctx context.Context, text textKey, r Request) (Token, error) {
	b.mu.Lock()
	f := b.facts[text.profile]
	b.mu.Unlock()
	if f == nil || f.textKey != text {
		var err error
		f, err = b.loads.do(ctx, b.ctx, text, func(ctx context.Context) (*facts, error) {
			return b.load(ctx, text)
		})
		if err != nil {
			return Token{}, err
		}
	}
	k := key{text, f.scopes, f.audience, f.resource}
	if len(r.Scopes) > 0 {
		k.scopes = normalise(r.Scopes)
	}
	if r.Audience != "" {
		k.audience = r.Audience
	}
	if r.Resource != "" {
		k.resource = r.Resource
	}

	t, err := b.cachedOrFetched(ctx, f, k, r)
	t.APIOrigins = f.apiOrigins
	return t, err
}

func (b *Broker) cachedOrFetched(ctx context.Context, f *facts, k key, r Request) (Token, error) {
	b.mu.Lock()
	e := b.tokens[k]
	now := b.Now()
	if now-f.made < forceGap {
		r.Force = false
	}
	t, err, ok := e.answer(now, r)
	asked := e.lastAsked()
	b.mu.Unlock()
	if ok {
		return t, err
	}
	m, err := b.fetches.do(ctx, b.ctx, k, func(ctx context.Context) (*made, error) {
		return b.fetch(ctx, k, asked)
	})
	if err == nil {
		return m.fresh(b.Now(), r)
	}
	var refused *RefusedError
	if errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if t, ok := b.tokens[k].lastResort(b.Now(), r); ok {
			return t, nil
		}
	}
	return Token{}, err
}

// load reads a text as far as is needed to tell which token a request means.
func (b *Broker) load(ctx context.Context, text textKey) (*facts, error) {
	parsed, err := b.read(ctx, text)
	if err != nil {
		return nil, err
	}
	p, err := parsed.Profile(nil)
	if err != nil {
		return nil, err
	}
	f := &facts{
		textKey:    text,
		scopes:     normalise(p.Request.Scopes),
		audience:   strings.Join(p.Request.Audience, " "),
		resource:   strings.Join(p.Request.Resource, " "),
		apiOrigins: p.APIOrigins,
		made:       -forceGap,
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.facts[text.profile]; old != nil && old.textKey != text {
		b.forget(text.profile)
	}
	b.facts[text.profile] = f
	return f, nil
}

// read returns a text that the user has trusted, of exactly that version.
func (b *Broker) read(ctx context.Context, text textKey) (*profile.Text, error) {
	data, version, err := b.Profiles.Get(ctx, text.profile)
	if err != nil {
		return nil, err
	}
	if version != text.version {
		return nil, errChanged
	}
	switch trusted, err := b.Trusted(text.profile, data); {
	case err != nil:
		return nil, err
	case !trusted:
		return nil, ErrUntrusted
	}
	return profile.Parse(data)
}

// fetch asks the authorization server for the token that k names, unless
// somebody else's fetch ended since the caller looked, at which time the
// server had last been asked at asked.
func (b *Broker) fetch(ctx context.Context, k key, asked time.Duration) (*made, error) {
	b.mu.Lock()
	e := b.tokens[k]
	if e.lastAsked() != asked && (e.token != nil || e.err != nil) {
		defer b.mu.Unlock()
		return e.token, e.refusal(b.Now())
	}
	b.mu.Unlock()
	if err := b.waitGap(ctx, k); err != nil {
		return nil, err
	}
	text, err := b.read(ctx, k.textKey)
	if err != nil {
		return nil, err
	}
	values, err := b.Resolve(ctx, text.External())
	if err != nil {
		return nil, err
	}
	p, err := text.Profile(values)
	if err != nil {
		return nil, err
	}
	p.Request.Scopes = strings.Fields(k.scopes)
	p.Request.Audience = strings.Fields(k.audience)
	p.Request.Resource = strings.Fields(k.resource)

	token, sent, err := b.exchange(ctx, p)

	b.mu.Lock()
	defer b.mu.Unlock()
	e = b.tokens[k]
	if e == nil {
		b.sweep()
		e = &entry{}
		b.tokens[k] = e
	}
	e.sent = sent
	if err != nil {
		if b.ctx.Err() != nil {
			return nil, b.ctx.Err()
		}
		b.Log.Warn("no token", "profile", k.profile, "err", err)
		e.err, e.closed = err, fetchGap
		var answered *oauth.Error
		if errors.As(err, &answered) && answered.RetryAfter > e.closed {
			e.closed = answered.RetryAfter
		}
		return nil, e.refusal(b.Now())
	}
	if f := b.facts[k.profile]; f != nil && f.textKey == k.textKey {
		f.made = sent
	}
	e.err = nil
	m := &made{
		access:  token.AccessToken,
		kind:    token.Type,
		version: k.version,
		sent:    sent,
		life:    min(token.Lifetime, longestLife),
		scopes:  token.Scopes,
		warning: strings.Join(token.Warnings, "; "),
	}
	if !token.LifetimeGiven {
		m.life, m.assumed = p.DefaultLifetime, true
	}
	b.Log.Info("new token", "profile", k.profile, "lifetime", m.life, "took", b.Now()-sent)
	e.token = m
	if m.life == 0 {
		e.token = nil // for the callers of this flight only
	}
	return m, nil
}

// exchange sends the request, having learnt first where to send it if the
// profile leaves that to discovery. sent is when the last request left.
func (b *Broker) exchange(ctx context.Context, p *profile.Profile) (t *oauth.Token, sent time.Duration, err error) {
	client := p.Client
	sent = b.Now()
	if p.Issuer != "" && (client.TokenURL == "" || client.Auth == "") {
		m, err := b.discover(ctx, discoveryKey{p.Issuer, client.Transport})
		if err != nil {
			return nil, sent, &DiscoveryError{err}
		}
		client.Auth = client.ChooseAuth(m.TokenAuthMethods)
		if client.TokenURL == "" {
			client.TokenURL = m.Endpoints.Token
		}
		if client.TokenURL == "" {
			return nil, sent, &DiscoveryError{&oauth.Error{Op: "reading the metadata of " + p.Issuer, Kind: oauth.Malformed,
				Err: errors.New("they name no token endpoint; set OAUTH2_TOKEN_URL")}}
		}
	}
	sent = b.Now()
	t, err = client.Token(ctx, p.Request)
	if err == nil && len(t.AccessToken.Reveal())+len(strings.Join(t.Scopes, " ")) > maxToken {
		return nil, sent, &oauth.Error{Op: "asking for a token", Kind: oauth.Malformed, Sent: true,
			Err: fmt.Errorf("token and scopes are larger than %d bytes", maxToken)}
	}
	return t, sent, err
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

// Forget drops everything known of a profile.
func (b *Broker) Forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(name)
}

// Drop drops everything known of any profile: what could be read and was
// trusted may not be any more.
func (b *Broker) Drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.facts)
	clear(b.tokens)
}

// Cached returns how many living tokens are held.
func (b *Broker) Cached() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, now := 0, b.Now()
	for _, e := range b.tokens {
		if e.token != nil && e.token.remaining(now) > 0 {
			n++
		}
	}
	return n
}

// normalise makes one string of a set of scopes (RFC 6749 section 3.3: order
// does not matter, and none of them holds a space).
func normalise(scopes []string) string {
	s := slices.Clone(scopes)
	slices.Sort(s)
	return strings.Join(slices.Compact(s), " ")
}
