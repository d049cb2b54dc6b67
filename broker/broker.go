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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	// sameSlack is how much later a token may end by another answer and still be
	// no newer: lifetimes are whole seconds.
	sameSlack = 2 * time.Second
	// forceGap is the same for callers who want a new token.
	forceGap = 2 * time.Second
	// renewPatience is how long somebody whose token lives waits for a renewal that
	// is under way.
	renewPatience = time.Second
	// skewNotice is how far the server's clock may be off before it is mentioned.
	skewNotice = time.Minute
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
	Access      oauth.Secret
	Fingerprint string // what [Fingerprint] gives for it
	Type        string
	Version     store.Version // of the text it was made from
	// Remaining is what was left of Lifetime when it was handed out.
	Remaining, Lifetime time.Duration
	Scopes              []string
	APIOrigins          []string
	ExpiryAssumed       bool
	// Degraded: it falls short of what was asked for, or could not be renewed, and
	// Warning says why.
	Degraded bool
	Warning  string
	Err      error // why it could not be renewed, or nil
}

// Config is what a Broker works with. All fields but Event are required.
type Config struct {
	Profiles store.Store
	// Sessions keeps what must survive of dealings with authorization servers.
	Sessions store.Store
	// Trusted says whether the user has trusted this text under this name.
	Trusted func(name string, text []byte) (bool, error)
	// Resolve reads the files and runs the commands that a trusted text names.
	// Errors are *profile.Mistakes, or the context's.
	Resolve func(context.Context, []profile.External) (map[string]string, error)
	// Now is a clock that nobody sets and that counts suspend; it counts from the
	// machine's start, of which BootID names one.
	Now    func() time.Duration
	BootID string
	// RateLimit is how many requests a second one origin gets.
	RateLimit int
	// Event is told what happens. It must not wait, nor call the Broker. Nil: nobody
	// wants to know.
	Event func(Event)
	// Log gets a line for each fetch.
	Log *slog.Logger
}

// Broker hands out tokens. Its methods may be called at the same time.
type Broker struct {
	Config
	id     string          // of this process, to know its own marks by
	ctx    context.Context // ended by Close
	cancel context.CancelFunc

	loads     group[textKey, *facts]
	fetches   group[flightKey, *made]
	changed   chan struct{} // holds an element if the schedule is to be looked at
	discovery group[discoveryKey, *oauth.Metadata]
	turns     turns
	explains  turns
	probes    turns // by causeOf, where it is not known whether the server takes the client
	keepers   sync.WaitGroup
	saver     *keeper // of unsaved
	teller    *keeper // of queued
	fetched   atomic.Int64
	spends    sync.WaitGroup // renewals between sending a refresh token and keeping the next

	// mu guards the fields that follow. It is never held across I/O.
	mu       sync.Mutex
	era      context.Context // of every fetch; ended by Drop, which begins another
	endEra   context.CancelFunc
	facts    map[string]*facts // by profile name, as are unsaved, queued and provers
	tokens   map[key]*entry
	sweepAt  int // len(tokens) at which the next sweep is due
	metadata map[discoveryKey]*discovered
	unsaved  map[string]*held        // sessions that could not be written
	queued   map[string]int          // how many revocations are still to be told
	telling  map[string][]revocation // those of access tokens, which are never written to disk
	waits    map[edge]int            // how many fetches of one profile wait for another's token
	origins  map[string]*origin
	watched  map[string]*watched
	schedule schedule
	renewing bool                   // the schedule has its goroutine
	resumed  bool                   // Resume has been called
	closing  bool                   // nothing is spent any more
	provers  map[string]*oauth.DPoP // keys that prove possession
}

// New returns a Broker with an empty cache.
func New(c Config) *Broker {
	ctx, cancel := context.WithCancel(context.Background())
	era, endEra := context.WithCancel(ctx)
	return &Broker{
		fetches:  group[flightKey, *made]{of: func(k flightKey) string { return k.profile }},
		Config:   c,
		ctx:      ctx,
		cancel:   cancel,
		era:      era,
		endEra:   endEra,
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
		changed:  make(chan struct{}, 1),
		origins:  make(map[string]*origin),
		watched:  make(map[string]*watched),
		provers:  make(map[string]*oauth.DPoP),
	}
}

// Close ends all fetches and waits for them.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
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
	b.keepers.Wait() // first: they start fetches
	b.loads.end()
	b.fetches.end()
	b.discovery.end()
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
	external                   bool // it names files or commands
	known                      bool // told has the session's refusals; guarded by the Broker's mu

	// The Broker's mu guards the fields that follow. made is when the last token of
	// this text was asked for.
	made   time.Duration
	proven uint64 // sumOf the causeOf what was last granted; 0 after a refusal of the client
	told   *told  // nil: nothing that bears on this text was said
}

// told is what servers have said against a text or its tokens. The Broker's mu
// guards it.
type told struct {
	refusals []refusal     // not to be changed, only replaced
	evicted  time.Duration // when one of its tokens was last evicted; 0: never
	strikes  int           // how often in a row that was a new one
	dead     string        // fingerprint of a login's token that an API has refused
	reset    time.Duration // when all this was last forgotten; 0: never
}

// said is what was said of f's text, to be changed. The caller holds mu.
func (f *facts) said() *told {
	if f.told == nil {
		f.told = &told{}
	}
	return f.told
}

// refusals are those of f's text. The caller holds mu.
func (f *facts) refusals() []refusal {
	if f.told == nil {
		return nil
	}
	return f.told.refusals
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
	late := false
	for range 8 {
		text, err := b.textNow(ctx, r.Profile)
		if cannotLook(err) {
			return b.withoutLooking(r, err)
		}
		if err != nil {
			return Token{}, err
		}
		t, err := b.tokenOf(ctx, text, r)
		if (err == errLate || errors.Is(err, errAsleep)) && !late {
			late = true
			continue
		}
		if err == errDropped && ctx.Err() == nil && b.ctx.Err() == nil {
			continue
		}
		if !errors.Is(err, errChanged) {
			return t, err
		}
	}
	return Token{}, fmt.Errorf("reading %q: it is being written to all the time", r.Profile)
}

var (
	errChanged = errors.New("the text changed while it was read")
	// errDropped is for what was waited for when everything was dropped: it is given
	// to nobody.
	errDropped = fmt.Errorf("everything was dropped meanwhile (%w)", context.Canceled)
	// errLate is for a token that had ended when it came: as a rule because the
	// machine was suspended in the middle.
	errLate error = &oauth.Error{Op: "asking for a token", Kind: oauth.Temporary, Err: errors.New("it had ended when it came")}
	// errSlow is why a living token is handed out instead of a newer one that may
	// come soon.
	errSlow       = fmt.Errorf("the provider has not answered yet (%w)", context.DeadlineExceeded)
	errSame error = &oauth.Error{Op: "asking for a token", Kind: oauth.Malformed, Sent: true, Reached: true, Err: errors.New("the provider gives the same one again")}
	// errAsleep is for what was prepared too long ago to send a credential with.
	errAsleep error = &oauth.Error{Op: "asking for a token", Kind: oauth.Temporary, Err: errors.New("the machine was suspended in the middle")}
)

func (b *Broker) tokenOf(ctx context.Context, text textKey, r Request) (Token, error) {
	f, err := b.factsOfText(ctx, text)
	if err != nil {
		return Token{}, err
	}
	t, err := b.cachedOrFetched(ctx, f, f.asked(r), r)
	t.APIOrigins = f.apiOrigins
	return t, err
}

// cannotLook says whether err leaves open what has become of a text, as when there
// are no more file descriptors.
func cannotLook(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// withoutLooking answers r with a token that still lives although its text cannot
// be looked at, for the reason why.
func (b *Broker) withoutLooking(r Request, why error) (Token, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.facts[r.Profile]; f != nil {
		if t, ok := b.tokens[f.asked(r)].lastResort(b.Now(), r, why); ok {
			t.APIOrigins = f.apiOrigins
			return t, nil
		}
	}
	return Token{}, why
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
	era := b.current()
	f, err := b.loads.do(ctx, era, text, func(ctx context.Context) (*facts, error) {
		return b.load(ctx, text)
	})
	if era.Err() != nil {
		return nil, errDropped
	}
	return f, err
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
	if ok && err == nil {
		b.handedOut(e)
	}
	asked := e.lastAsked()
	// Who needs no more than a living token waits a moment only for a better one.
	alive := e != nil && e.token.alive(now) && r.MinValid == 0 && !r.Force
	b.mu.Unlock()
	if ok {
		return t, err
	}
	if err := b.checkChain(ctx, f.profile, f.subject); err != nil {
		return Token{}, err
	}
	var m *made
	era := b.current()
	flight, err := b.fetches.join(era, flightKey{k, f}, func(ctx context.Context) (*made, error) { //nolint:contextcheck // it outlives its callers
		return b.fetch(ctx, f, k, asked, false)
	})
	if err == nil {
		// What spends a refresh token goes on when all is dropped, but nobody waits.
		waiting, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(era, cancel) //nolint:contextcheck // it is the other one that ends this
		m, err = b.await(waiting, flight, k, alive)
		stop()
		cancel()
	}
	if era.Err() != nil {
		return Token{}, errDropped
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now = b.Now()
	switch {
	case err == nil && m.saved && r.Force:
		err = &LoginError{Why: onlyOne}
	case err == nil && m.life > 0 && m.remaining(now) <= 0:
		err = errLate
	case err == nil:
		if e := b.tokens[k]; e != nil && e.token == m {
			b.handedOut(e)
		}
		t, err = m.fresh(now, r)
	case !isOurs(err):
		if last, ok := b.tokens[k].lastResort(now, r, err); ok {
			t, err = last, nil
		}
	}
	b.tellUnsaved(k.profile, &t)
	return t, err
}

// await waits for a flight: no longer than renewPatience for one whose token lives,
// as long as it does.
func (b *Broker) await(ctx context.Context, flight *call[*made], k key, alive bool) (*made, error) {
	if !alive {
		return flight.wait(ctx)
	}
	patience, cancel := context.WithDeadlineCause(ctx, flight.began.Add(renewPatience), errSlow)
	defer cancel()
	m, err := flight.wait(patience)
	if err == nil || ctx.Err() != nil || context.Cause(patience) != errSlow {
		return m, err
	}
	b.mu.Lock()
	e := b.tokens[k]
	alive = e != nil && e.token.alive(b.Now())
	b.mu.Unlock()
	if alive {
		return nil, errSlow
	}
	return flight.wait(ctx) // it has ended meanwhile
}

// isOurs tells what is to be mended here from what keeps a token from being
// renewed that still lives.
func isOurs(err error) bool {
	if errors.As(err, new(*valuesError)) {
		return false
	}
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
	f.external = len(parsed.External()) > 0
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

// Forget drops everything known of a profile.
func (b *Broker) Forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(name)
}

// Drop drops everything known of any profile, what could be read and was trusted
// may not be any more, and ends all fetches. A refresh token that has been sent is
// still waited for, and what it brings is saved, and given to nobody. What servers
// are still to be told of access tokens, which are in memory only, is forgotten.
func (b *Broker) Drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endEra()
	b.era, b.endEra = context.WithCancel(b.ctx)
	clear(b.facts)
	b.removeTokens(func(key, *entry) bool { return true })
	clear(b.provers)
	if len(b.telling) > 0 {
		b.Log.Warn("access tokens are not revoked any more", "profiles", len(b.telling))
	}
	clear(b.telling)
	clear(b.queued)
	b.resumed = false
	b.notifyAll()
}

// current is the context of what ends with the next Drop.
func (b *Broker) current() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.era
}

// Fetches returns how often a token was fetched, for somebody's call or not.
func (b *Broker) Fetches() int64 { return b.fetched.Load() }

// Cached returns how many living tokens are held.
func (b *Broker) Cached() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, now := 0, b.Now()
	for _, e := range b.tokens {
		if e.token.alive(now) {
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
