package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
)

// A LoginError says that a person is needed: no refresh token is left that the
// authorization server would take.
type LoginError struct {
	Why string // one line, without a secret
	// Variable is OAUTH2_REFRESH_TOKEN where a new value of it is what is needed
	// rather than a login, else empty.
	Variable string
	Code     string // the server's error code (RFC 6749 section 5.2), or ""
}

func (e *LoginError) Error() string { return "login required (" + e.Why + ")" }

// recordVersion is raised when a record means something else than before.
const recordVersion = 1

// session is what must survive of a profile's dealings with its authorization
// server. It is kept in the session store under the profile's name.
type session struct {
	Record  int    `json:"record"`  // recordVersion of who wrote it
	Profile string `json:"profile"` // a record under another name is not this profile's
	// Issuer to ClientID are as they were at the login: the tokens go nowhere
	// else.
	Issuer           string `json:"issuer,omitempty"`
	TokenURL         string `json:"token_url,omitempty"`
	RevocationURL    string `json:"revocation_url,omitempty"`
	IntrospectionURL string `json:"introspection_url,omitempty"`
	ClientID         string `json:"client_id,omitempty"`

	RefreshToken string `json:"refresh_token,omitempty"`
	// Access is the credential itself, where a login gave no refresh token.
	Access *savedAccess `json:"access,omitempty"`
	// Scopes were granted at the login, where the server said so.
	Scopes []string `json:"scopes,omitempty"`
	// TextScopes are those of the profile's text at the login, normalised.
	TextScopes string `json:"text_scopes,omitempty"`
	// Fixed: the last renewal brought no other refresh token, so nothing is lost
	// if an answer is.
	Fixed bool `json:"fixed,omitempty"`
	// Spending is the fingerprint of a refresh token that was about to be sent
	// when the record was written, "@", and which process was to send it.
	Spending string `json:"spending,omitempty"`
	// Ended says why only a login helps; empty while the session lives.
	Ended string `json:"ended,omitempty"`
	// Taken are the values of OAUTH2_REFRESH_TOKEN that were copied, by their
	// fingerprints.
	Taken map[string]taken `json:"taken,omitempty"`
	// DPoPKey is a private JWK (RFC 9449): the tokens are bound to it.
	DPoPKey string `json:"dpop_key,omitempty"`
	// ClientSecret is the fingerprint of the client secret that is in force,
	// once it is not the text's CLIENT_SECRET any more.
	ClientSecret string `json:"client_secret,omitempty"`
	// Refusals are what the server has said no to.
	Refusals []refusal `json:"refusals,omitempty"`
	// Revocations are still to be told to a server.
	Revocations []revocation `json:"revocations,omitempty"`
	// Moving is set while the record moves to the profile's new name.
	Moving *moving `json:"moving,omitempty"`
}

// Format prints nothing of a session but whose it is.
func (s session) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "session of "+s.Profile) }

// taken is what came of a value of OAUTH2_REFRESH_TOKEN.
type taken struct {
	Text    store.Version `json:"text"` // the text's version when it was copied
	Yielded bool          `json:"yielded,omitempty"`
	// Spent: it was rotated away, refused after it had yielded a token, or a
	// login has taken its place. It is never sent again.
	Spent bool `json:"spent,omitempty"`
}

// moving says where a record moves, and what it replaces there.
type moving struct {
	To       string        `json:"to"`
	Replaces store.Version `json:"replaces,omitempty"`
}

// savedAccess is an access token at rest. Its end is by the wall clock: no
// other one goes on over a restart.
type savedAccess struct {
	Token  string     `json:"token"`
	Type   string     `json:"type"`
	Scopes []string   `json:"scopes,omitempty"`
	Ends   *time.Time `json:"ends,omitempty"` // nil: when it is refused
	// At is when its life of Life began; nil in records of an earlier tokend. Within
	// one boot of the machine it is what counts.
	At   *moment       `json:"at,omitempty"`
	Life time.Duration `json:"life,omitempty"`
}

// Fingerprint names a secret without being it: the first 128 bits of its SHA-256
// in hex.
func Fingerprint(secret string) string {
	sum := fingerprintOf(secret)
	return hex.EncodeToString(sum[:])
}

func fingerprintOf(secret string) [16]byte {
	sum := sha256.Sum256([]byte(secret))
	return [16]byte(sum[:16])
}

// bind makes s the session of what p speaks to.
func (s *session) bind(p *Prepared) {
	s.Issuer, s.TokenURL, s.ClientID = p.Issuer, p.Client.TokenURL, p.Client.ID
	s.RevocationURL, s.IntrospectionURL = p.Endpoints.Revocation, p.Endpoints.Introspection
}

// bound says in what p differs from what s was made with, or "".
func (s *session) bound(p *Prepared) string {
	switch {
	case s.ClientID != p.Client.ID:
		return "the client is another one than at the login"
	case differ(s.Issuer, p.Issuer):
		return "the issuer is another one than at the login"
	case s.TokenURL != p.Client.TokenURL:
		return "the token endpoint is another one than at the login"
	case differ(s.RevocationURL, p.Endpoints.Revocation):
		return "the revocation endpoint is another one than at the login"
	case differ(s.IntrospectionURL, p.Endpoints.Introspection):
		return "the introspection endpoint is another one than at the login"
	}
	return ""
}

// differ compares what need not be known on both sides.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

// settle notes what a successful request has found out about the client: the
// key that the tokens are bound to, and which secret is in force.
func (s *session) settle(p *Prepared) {
	if p.Client.DPoP != nil {
		s.DPoPKey = p.Client.DPoP.Key().JWK().Reveal()
	}
	if next := p.Profile.NextSecret; !next.IsZero() && p.Client.Secret == next {
		s.ClientSecret = Fingerprint(next.Reveal())
	}
}

// hasNextSecret says whether CLIENT_SECRET_NEXT is in force, as settle has noted.
func (s *session) hasNextSecret(p *profile.Profile) bool {
	return !p.NextSecret.IsZero() && s.ClientSecret == Fingerprint(p.NextSecret.Reveal())
}

// taken notes what came of a value of OAUTH2_REFRESH_TOKEN.
func (s *session) taken(value string, t taken) {
	s.Taken = maps.Clone(s.Taken) // copies of a session share it
	if s.Taken == nil {
		s.Taken = make(map[string]taken)
	}
	s.Taken[Fingerprint(value)] = t
}

// empty says that nothing in s has to be kept.
func (s *session) empty() bool {
	return s.RefreshToken == "" && s.Access == nil && s.Ended == "" && len(s.Taken) == 0 &&
		s.DPoPKey == "" && s.ClientSecret == "" && len(s.Refusals) == 0 && len(s.Revocations) == 0
}

// held is a session as it was read, or as it should be but cannot be written.
type held struct {
	session
	version store.Version // of the record; "" if there is none
}

// errDamaged says that a record is no session of this profile. It stays where it
// is until a new login, or a logout, takes its place.
var errDamaged = errors.New("the record is damaged")

// overDamage is the session with which to replace a record that is damaged.
func overDamage(h *held, err error) (*held, error) {
	if errors.Is(err, errDamaged) {
		return h, nil
	}
	return h, err
}

// sessionOf reads a profile's session. The caller holds the profile's turn. A
// profile without a record has an empty session.
func (b *Broker) sessionOf(ctx context.Context, name string) (*held, error) {
	b.mu.Lock()
	unsaved := b.unsaved[name]
	b.mu.Unlock()
	if unsaved != nil {
		h := *unsaved
		return &h, nil
	}
	data, version, err := b.Sessions.Get(ctx, name)
	if errors.Is(err, store.ErrNotExist) {
		return &held{session: session{Profile: name}}, nil
	}
	h := &held{version: version}
	var sealed *store.SealedError
	if err != nil && !errors.As(err, &sealed) {
		return nil, fmt.Errorf("reading the session: %w", err)
	}
	why := errDamaged
	if sealed != nil {
		why = fmt.Errorf("%w: %w", errDamaged, sealed.Err)
	}
	switch {
	case sealed != nil, json.Unmarshal(data, &h.session) != nil, h.Profile != name: // json's error would quote it
		return &held{session: session{Profile: name}, version: version}, fmt.Errorf("reading the session: %w; to end it, run: tokenctl logout %s", why, name)
	case h.Record > recordVersion:
		return nil, errors.New("reading the session: a newer tokend has written it")
	case h.Moving == nil:
		return h, nil
	}
	// A move was cut short. Once the new record is there the old one is none.
	there, err := b.Sessions.Stat(ctx, h.Moving.To)
	if err != nil {
		return nil, fmt.Errorf("reading the session: %w", err)
	}
	if there == h.Moving.Replaces {
		h.Moving = nil
		return h, b.save(ctx, h)
	}
	if err := b.Sessions.Delete(ctx, name, version); err != nil {
		return nil, fmt.Errorf("ending the move of the session: %w", err)
	}
	return &held{session: session{Profile: name}}, nil
}

// save writes h durably, or deletes its record if there is nothing in it. The
// caller holds the profile's turn. A caller who goes away does not stop it.
func (b *Broker) save(ctx context.Context, h *held) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	if h.empty() {
		if h.version != "" {
			if err = b.Sessions.Delete(ctx, h.Profile, h.version); err == nil || errors.Is(err, store.ErrNotExist) {
				h.version, err = "", nil
			}
		}
	} else {
		var data []byte
		h.Record = recordVersion
		data, err = json.Marshal(h.session) //nolint:gosec // G117: what is stored is encrypted
		if err == nil {
			var version store.Version
			if version, err = b.Sessions.Put(ctx, h.Profile, data, h.version); err == nil {
				h.version = version
			}
		}
	}
	if err != nil {
		return fmt.Errorf("writing the session: %w", err)
	}
	b.mu.Lock()
	wasUnsaved := b.unsaved[h.Profile] != nil
	if wasUnsaved {
		delete(b.unsaved, h.Profile)
		b.event(Event{Kind: SessionSaved, Profile: h.Profile})
		b.notify(h.Profile)
	}
	b.mu.Unlock()
	if wasUnsaved {
		b.Log.Info("the session is written now", "profile", h.Profile)
	}
	b.setQueued(h.Profile, len(h.Revocations))
	return nil
}

// keep is save for what exists nowhere else any more: if it cannot be written
// it is held in memory, and written later. The error says so.
func (b *Broker) keep(ctx context.Context, h *held) error {
	err := b.save(ctx, h)
	if err == nil {
		return nil
	}
	unsaved := *h
	b.mu.Lock()
	b.unsaved[h.Profile] = &unsaved
	b.mu.Unlock()
	b.setQueued(h.Profile, len(h.Revocations))
	b.keepLater(b.saver)
	b.Log.Error("a session is in memory only", "profile", h.Profile, "err", err)
	b.event(Event{Kind: SessionUnsaved, Profile: h.Profile, Err: err})
	return err
}

// Unsaved returns the names of the profiles whose session is in memory only.
func (b *Broker) Unsaved() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.unsaved {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// turns lets one at a time work on a profile's session.
type turns struct {
	// mu guards queues.
	mu     sync.Mutex
	queues map[string]*turn
}

type turn struct {
	free  chan struct{} // holds one element while nobody has the turn
	users int
}

// take waits for the turn of name, and returns what gives it back.
func (t *turns) take(ctx context.Context, name string) (release func(), err error) {
	t.mu.Lock()
	q := t.queues[name]
	if q == nil {
		q = &turn{free: make(chan struct{}, 1)}
		q.free <- struct{}{}
		if t.queues == nil {
			t.queues = make(map[string]*turn)
		}
		t.queues[name] = q
	}
	q.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(t.queues, name)
		}
	}
	select {
	case <-q.free:
		return func() { q.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// Adopt makes t, which a person's login brought by p.Token, the profile's
// session, and hands the access token out from now on. asked are the scopes that
// were asked for. It returns a warning if the session could not be written and
// is in memory only, and store.ErrConflict if the profile is not what it was when
// p was prepared.
func (b *Broker) Adopt(ctx context.Context, p *Prepared, asked []string, t *oauth.Token) (warning string, err error) {
	release, err := b.turns.take(ctx, p.Name)
	if err != nil {
		return "", err
	}
	defer release()
	// With the turn in hand: nobody moves or deletes the profile meanwhile.
	if now, err := b.Profiles.Stat(ctx, p.Name); err != nil {
		return "", err
	} else if now != p.Version {
		return "", store.ErrConflict
	}
	era := b.current()
	h, err := overDamage(b.sessionOf(ctx, p.Name))
	if errors.Is(err, store.ErrLocked) {
		// Since the person has begun to log in. What they have consented to is kept all
		// the same.
		h = &held{session: p.known}
		h.Profile = p.Name
		h.version, err = b.Sessions.Stat(ctx, p.Name)
	}
	if err != nil {
		return "", err
	}
	h.bind(p)
	if value := p.Profile.RefreshToken.Reveal(); value != "" {
		h.taken(value, taken{Text: p.Version, Spent: true})
	}
	h.RefreshToken, h.Access = t.RefreshToken.Reveal(), nil
	h.Scopes, h.Fixed, h.Spending, h.Ended, h.Refusals = t.Scopes, false, "", "", nil
	if !t.ScopesGiven {
		h.Scopes = asked
	}
	h.TextScopes = normalise(p.Profile.Request.Scopes)
	h.settle(p)
	if h.RefreshToken == "" {
		h.Access = &savedAccess{Token: t.AccessToken.Reveal(), Type: t.Type, Scopes: h.Scopes}
		if t.LifetimeGiven {
			at := b.moment()
			at.Wall, at.Boot = at.Wall.Add(p.sent-at.Boot), p.sent
			ends := at.Wall.Add(t.Lifetime)
			h.Access.Ends, h.Access.At, h.Access.Life = &ends, &at, t.Lifetime
		}
	}
	if err := b.keep(ctx, h); err != nil {
		warning = "the login is in memory only: " + err.Error()
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if era.Err() != nil {
		return warning, nil
	}
	b.forget(p.Name)
	m := makeToken(p, got{t, p.sent, h.RefreshToken == ""})
	m.scopes = h.Scopes
	// Without facts: whoever asks for it first has the text read, and its trust
	// looked at.
	f := factsOf(textKey{p.Name, p.Version}, p.Profile)
	e := b.entryOf(f, f.key())
	e.token, e.sent, e.due = m, p.sent, m.renewalTime(p.Profile.RenewAt)
	b.event(Event{Kind: SessionBegun, Profile: p.Name, Fingerprint: m.fingerprint(), Ends: time.Now().Add(m.remaining(b.Now()))})
	b.notify(p.Name)
	return warning, nil
}

// ErrSessionThere says that a session of a vanished profile stands under a
// name.
var ErrSessionThere = errors.New("there is a session of an earlier profile of that name, which must be logged out of first")

// Move takes a profile's session along while its text moves, by put and then
// remove, or undo where the session cannot come along: no token is fetched for
// either name meanwhile, and whatever happens in between, text and session are
// there under one of the names at least. Errors are [ErrSessionThere], those of
// put, undo and remove, and those of the store.
func (b *Broker) Move(ctx context.Context, from, to string, put, undo, remove func(context.Context) error) error {
	for _, name := range slices.Compact(slices.Sorted(slices.Values([]string{from, to}))) {
		release, err := b.turns.take(ctx, name)
		if err != nil {
			return err
		}
		defer release()
	}
	h, err := b.sessionOf(ctx, from)
	if err != nil {
		return err
	}
	other, err := b.sessionOf(ctx, to)
	if err != nil {
		return err
	}
	if from != to && (other.RefreshToken != "" || other.Access != nil) {
		return ErrSessionThere
	}
	if err := put(ctx); err != nil {
		return err
	}
	carried := !h.empty()
	if carried {
		if err := b.carry(ctx, h, other); err != nil {
			return both(err, undo(context.WithoutCancel(ctx)))
		}
	}
	err = remove(ctx)
	if err != nil && carried {
		// The text is still there under its old name, and so the session goes back.
		err = both(err, b.carry(ctx, other, h))
	}
	b.Forget(from)
	b.Forget(to)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.provers, from) // a new profile of that name has a key of its own
	delete(b.provers, to)
	return err
}

// both is err, and in the same line what then went wrong in making it good, if
// anything did.
func both(err, then error) error {
	if then == nil {
		return err
	}
	return fmt.Errorf("%w; and then: %v", err, then) //nolint:errorlint // what went wrong first is what callers ask for
}

// carry gives what is in one record to another, whose own tokens are none. Cut
// short at any point, it is under one of the two names.
func (b *Broker) carry(ctx context.Context, from, to *held) error {
	content := from.session
	from.Moving = &moving{to.Profile, to.version}
	if err := b.save(ctx, from); err != nil {
		return err
	}
	content.Profile = to.Profile
	content.Revocations = slices.Concat(to.Revocations, content.Revocations)
	to.session = content
	if err := b.save(ctx, to); err != nil {
		return err
	}
	// From here on it is under the new name, whatever happens to the old record.
	from.session = session{Profile: from.Profile}
	_ = b.keep(ctx, from)
	return nil
}
