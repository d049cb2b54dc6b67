// Package broker is the life of tokens: it keeps them in memory, fetches each
// once for all who ask, and knows when one is too old to be handed out. It
// speaks to authorization servers through package oauth and reads profiles
// from a store; it has no sockets and no files of its own.
package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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
	// secretNotice is how long before its end a client secret is warned of.
	secretNotice = 14 * 24 * time.Hour
	// closeTime is how long Close waits for refresh tokens that are being spent.
	closeTime = 5 * time.Second
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
	// Variable is the one of the profile to look at first, or "".
	Variable string
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
	// Sessions keeps what must survive of dealings with authorization servers.
	Sessions store.Store
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
	id     string          // of this process, to know its own marks by
	ctx    context.Context // of every flight; ended by Close
	cancel context.CancelFunc

	loads     group[textKey, *facts]
	fetches   group[flightKey, *made]
	discovery group[discoveryKey, *oauth.Metadata]
	turns     turns
	keepers   sync.WaitGroup
	saver     *keeper        // of unsaved
	teller    *keeper        // of queued
	spends    sync.WaitGroup // renewals between sending a refresh token and keeping the next

	// mu guards the fields that follow. It is never held across I/O.
	mu       sync.Mutex
	facts    map[string]*facts // by profile name, as are unsaved, queued and provers
	tokens   map[key]*entry
	sweepAt  int // len(tokens) at which the next sweep is due
	metadata map[discoveryKey]*discovered
	unsaved  map[string]*held        // sessions that could not be written
	queued   map[string]int          // how many revocations are still to be told
	telling  map[string][]revocation // those of access tokens, which are never written to disk
	waits    map[edge]int            // how many fetches of one profile wait for another's token
	resumed  bool                    // Resume has been called
	provers  map[string]*oauth.DPoP  // keys that prove possession
}

// New returns a Broker with an empty cache.
func New(c Config) *Broker {
	ctx, cancel := context.WithCancel(context.Background())
	return &Broker{
		Config:   c,
		ctx:      ctx,
		cancel:   cancel,
		id:       rand.Text(),
		saver:    newSaver(),
		teller:   newTeller(),
		facts:    make(map[string]*facts),
		tokens:   make(map[key]*entry),
		sweepAt:  firstSweep,
		metadata: make(map[discoveryKey]*discovered),
		unsaved:  make(map[string]*held),
		queued:   make(map[string]int),
		telling:  make(map[string][]revocation),
		waits:    make(map[edge]int),
		provers:  make(map[string]*oauth.DPoP),
	}
}

// Close ends all fetches and waits for them.
func (b *Broker) Close() {
	// What has been sent to be spent is lost if its answer is not kept.
	spent := make(chan struct{})
	go func() { b.spends.Wait(); close(spent) }()
	patience := time.NewTimer(closeTime)
	defer patience.Stop()
	select {
	case <-spent:
	case <-patience.C:
	}
	b.mu.Lock()
	b.cancel() // with mu: no keeper starts any more
	b.mu.Unlock()
	b.loads.wait()
	b.fetches.wait()
	b.discovery.wait()
	b.keepers.Wait()
	for _, name := range b.Unsaved() {
		b.try(context.WithoutCancel(b.ctx), name, b.saveAgain) // for the last time
	}
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
	subject                    string // the profile whose token this one's is exchanged for, or ""
	apiOrigins                 []string
	// made is when the last token of this text was asked for; guarded by the
	// Broker's mu.
	made time.Duration
}

// flightKey names one fetch. What was forgotten meanwhile, as when somebody has
// logged out, has other facts: nobody who comes after that joins it, and what it
// brings is not kept.
type flightKey struct {
	key
	facts *facts
}

// key names one token: requests with equal keys share it, others never do.
type key struct {
	textKey
	scopes, audience, resource string
}

func (f *facts) key() key { return key{f.textKey, f.scopes, f.audience, f.resource} }

// Token answers r from the cache or, once for all who ask at the same time,
// from the authorization server. Errors: [ErrUntrusted], [*LifetimeError],
// [*LoginError], [*RefusedError], [*SubjectError], [*profile.Mistakes], those of
// the store, and the context's.
func (b *Broker) Token(ctx context.Context, r Request) (Token, error) {
	// A text may change between the look at its version and its reading; the
	// next round then sees the new one. Somebody who rewrites it all the time
	// gets an error.
	for range 8 {
		text, err := b.textNow(ctx, r.Profile)
		if err != nil {
			return Token{}, err
		}
		t, err := b.tokenOf(ctx, text, r)
		if !errors.Is(err, errChanged) {
			return t, err
		}
	}
	return Token{}, fmt.Errorf("reading %q: it is being written to all the time", r.Profile)
}

var errChanged = errors.New("the text changed while it was read")

func (b *Broker) tokenOf(ctx context.Context, text textKey, r Request) (Token, error) {
	f, err := b.factsOfText(ctx, text)
	if err != nil {
		return Token{}, err
	}
	t, err := b.cachedOrFetched(ctx, f, f.asked(r), r)
	t.APIOrigins = f.apiOrigins
	return t, err
}

// asked is the key of the token that r means.
func (f *facts) asked(r Request) key {
	k := f.key()
	if len(r.Scopes) > 0 {
		k.scopes = normalise(r.Scopes)
	}
	if r.Audience != "" {
		k.audience = r.Audience
	}
	if r.Resource != "" {
		k.resource = r.Resource
	}
	return k
}

// textNow names a profile's text as it is now.
func (b *Broker) textNow(ctx context.Context, name string) (textKey, error) {
	version, err := b.Profiles.Stat(ctx, name)
	if err == nil && version == "" {
		err = store.ErrNotExist
	}
	return textKey{name, version}, err
}

// factsFor gives the facts of a profile's text as it is now.
func (b *Broker) factsFor(ctx context.Context, name string) (*facts, error) {
	text, err := b.textNow(ctx, name)
	if err != nil {
		return nil, err
	}
	return b.factsOfText(ctx, text)
}

func (b *Broker) factsOfText(ctx context.Context, text textKey) (*facts, error) {
	b.mu.Lock()
	f := b.facts[text.profile]
	b.mu.Unlock()
	if f != nil && f.textKey == text {
		return f, nil
	}
	return b.loads.do(ctx, b.ctx, text, func(ctx context.Context) (*facts, error) {
		return b.load(ctx, text)
	})
}

func (b *Broker) cachedOrFetched(ctx context.Context, f *facts, k key, r Request) (Token, error) {
	b.mu.Lock()
	e := b.tokens[k]
	now := b.Now()
	if now-f.made < forceGap {
		r.Force = false
	}
	t, err, ok := e.answer(now, r)
	b.tellUnsaved(k.profile, &t)
	asked := e.lastAsked()
	b.mu.Unlock()
	if ok {
		return t, err
	}
	if err := b.checkChain(ctx, f.profile, f.subject); err != nil {
		return Token{}, err
	}
	m, err := b.fetches.do(ctx, b.ctx, flightKey{k, f}, func(ctx context.Context) (*made, error) {
		return b.fetch(ctx, f, k, asked)
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil && m.saved && r.Force:
		err = &LoginError{Why: onlyOne}
	case err == nil:
		t, err = m.fresh(b.Now(), r)
	case !isOurs(err):
		if last, ok := b.tokens[k].lastResort(b.Now(), r, err); ok {
			t, err = last, nil
		}
	}
	b.tellUnsaved(k.profile, &t)
	return t, err
}

// isOurs tells what is to be mended here from what keeps a token from being
// renewed that still lives.
func isOurs(err error) bool {
	return errors.As(err, new(*profile.Mistakes)) || errors.Is(err, ErrUntrusted) || errors.Is(err, store.ErrNotExist) ||
		errors.Is(err, store.ErrLocked) || errors.Is(err, errChanged) || errors.Is(err, context.Canceled)
}

// tellUnsaved marks a token whose session is in memory only. The caller holds
// mu.
func (b *Broker) tellUnsaved(name string, t *Token) {
	if !t.Access.IsZero() && b.unsaved[name] != nil {
		t.Degraded, t.Warning = true, "its session could not be written and is in memory only"
	}
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
	f := factsOf(text, p)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch old := b.facts[text.profile]; {
	case old != nil && old.textKey == text:
		return old, nil // somebody else's, loaded meanwhile
	case old != nil:
		b.forget(text.profile)
	}
	b.facts[text.profile] = f
	return f, nil
}

func factsOf(text textKey, p *profile.Profile) *facts {
	f := &facts{
		textKey:    text,
		scopes:     normalise(p.Request.Scopes),
		audience:   strings.Join(p.Request.Audience, " "),
		resource:   strings.Join(p.Request.Resource, " "),
		apiOrigins: p.APIOrigins,
		made:       -forceGap,
	}
	if p.Subject != nil {
		f.subject = p.Subject.Profile
	}
	return f
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
func (b *Broker) fetch(ctx context.Context, f *facts, k key, asked time.Duration) (*made, error) {
	b.mu.Lock()
	e := b.tokens[k]
	if e != nil && e.lastAsked() != asked && (e.token != nil || e.failed != nil) {
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
	g, p, err := b.obtain(ctx, k, text, e.renewal())

	var answered *oauth.Error
	if err != nil && (!errors.As(err, &answered) || errors.As(err, new(*SubjectError))) {
		return nil, err // not for the server to say, and so not remembered
	}
	var m *made
	if err == nil {
		m = makeToken(p, g)
		b.Log.Info("new token", "profile", k.profile, "lifetime", m.life, "took", b.Now()-g.sent)
	} else {
		b.Log.Warn("no token", "profile", k.profile, "err", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil && err != nil {
		return nil, b.ctx.Err()
	}
	if b.facts[k.profile] != f {
		if err != nil {
			return nil, &RefusedError{err, 0, suspect(p, err)}
		}
		return m, nil // for the callers of this flight only
	}
	e = b.tokens[k]
	if e == nil {
		b.sweep()
		e = &entry{}
		b.tokens[k] = e
	}
	e.sent = g.sent
	if err != nil {
		e.failed = &failure{err, suspect(p, err), max(fetchGap, answered.RetryAfter)}
		return nil, e.refusal(b.Now())
	}
	f.made = g.sent
	e.failed, e.token = nil, m
	if m.life == 0 {
		e.token = nil // for the callers of this flight only
	}
	return m, nil
}

// obtain prepares a text and gets the token that k names.
func (b *Broker) obtain(ctx context.Context, k key, text *profile.Text, renewal oauth.Secret) (g got, p *Prepared, err error) {
	g.sent = b.Now()
	p, err = b.prepare(ctx, k.textKey, text, false)
	if err != nil {
		return g, nil, err
	}
	g, err = b.grant(ctx, p, k, renewal)
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
		kind:    g.Type,
		version: p.Version,
		sent:    g.sent,
		life:    g.Lifetime,
		scopes:  g.Scopes,
		party:   partyOf(p.Profile.Client.ID, p.Client.TokenURL),
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
	clear(b.provers)
	b.resumed = false
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
