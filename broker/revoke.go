package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tokend/internal/harden"
	"tokend/oauth"
	"tokend/store"
)

// tellers is how many profiles' servers are told of revocations at a time.
const tellers = 8

// Revoked says what came of revoking a profile's tokens.
type Revoked struct {
	Profile string
	Revoked int    // tokens that the server has ended
	Queued  int    // tokens that it is still to be told of
	Problem string // why others live on until they expire, or ""
}

// Revoke ends a profile's tokens, the refresh token first: here in any case, and
// at the server (RFC 7009) where that can be. Neither the profile's text nor
// its trust is needed, but confidential clients cannot tell the server without.
// store.ErrNotExist: there is neither a profile nor a session.
func (b *Broker) Revoke(ctx context.Context, name string) (Revoked, error) {
	given, err := b.refreshTokenOf(ctx, name)
	if err != nil { // who has named the profile can ask again once the keyring gives the text
		return Revoked{Profile: name}, err
	}
	e, err := b.end(ctx, name, given, true)
	if err != nil {
		return Revoked{Profile: name}, err
	}
	return b.finish(ctx, name, e), nil
}

// An ending is what has been ended here.
type ending struct {
	tell    []revocation // to servers; they are kept until that is done
	damaged bool         // the record could not be read
	unread  error        // why the text could not be
}

// finish tells servers what has been ended here.
func (b *Broker) finish(ctx context.Context, name string, e ending) Revoked {
	result := Revoked{Profile: name}
	switch {
	case e.damaged:
		result.Problem = "the session's record could not be read: what was in it lives on"
	case e.unread != nil:
		result.Problem = "a refresh token that its text may have lives on: " + e.unread.Error()
	}
	switch {
	case len(e.tell) == 0:
		return result
	case e.unread != nil:
		// To tell a server takes the text, which is not waited for once more.
		result.Queued = len(e.tell)
		b.keepLater(b.teller)
		return result
	}
	t := b.tell(ctx, name, e.tell)
	result.Revoked, result.Queued, result.Problem = t.revoked, t.left, cmp.Or(t.problem, result.Problem)
	if t.unreached != nil {
		b.keepLater(b.teller)
	}
	return result
}

// refreshTokenOf is the OAUTH2_REFRESH_TOKEN that stands in a profile's text. What
// a command would say is not waited for. A text that cannot be read at all has none;
// one that a keyring does not give now may have.
func (b *Broker) refreshTokenOf(ctx context.Context, name string) (string, error) {
	k, err := b.textNow(ctx, name)
	if err != nil {
		return "", nil
	}
	text, err := b.read(ctx, k)
	if err != nil {
		if errors.As(err, new(*store.KeyringError)) {
			return "", err
		}
		return "", nil
	}
	p, err := text.Profile(nil)
	if err != nil {
		return "", nil
	}
	return p.RefreshToken.Reveal(), nil
}

// end ends a profile's tokens here, durably, and waits for no server. given is the
// refresh token of its text, if any. Only who has named the profile ends a record that
// cannot be read.
func (b *Broker) end(ctx context.Context, name, given string, named bool) (e ending, err error) {
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return e, err
	}
	defer release()
	h, err := b.sessionOf(ctx, name)
	e.damaged = errors.Is(err, errDamaged)
	if err != nil && !(e.damaged && named) {
		return e, err
	}
	if h.version == "" && h.empty() {
		if _, err := b.textNow(ctx, name); err != nil {
			return e, err
		}
	}
	var kept, inMemory []revocation
	own := partyOf(h.ClientID, h.TokenURL)
	seen := make(map[oauth.Secret]bool)
	add := func(of party, token oauth.Secret, hint string) {
		if token.IsZero() || seen[token] {
			return
		}
		seen[token] = true
		r := revocation{TokenURL: of.tokenURL.Value(), ClientID: of.clientID, Token: token.Reveal(), Hint: hint, Since: time.Now().UTC().Truncate(time.Second)}
		if of == own {
			r.URL = h.RevocationURL
		}
		if hint == "access_token" && (h.Access == nil || h.Access.Token != r.Token) {
			inMemory = append(inMemory, r)
		} else {
			kept = append(kept, r)
		}
	}
	add(own, oauth.NewSecret(h.RefreshToken), "refresh_token")
	if h.Access != nil {
		add(own, oauth.NewSecret(h.Access.Token), "access_token")
	}
	for _, m := range b.cachedOf(name) {
		add(m.party, m.renewal, "refresh_token")
		add(m.party, m.access, "access_token")
	}
	for _, value := range []string{h.RefreshToken, given} {
		if t, ok := h.Taken[Fingerprint(value)]; ok || value != "" && value == given {
			t.Spent = true
			h.taken(value, t)
		}
	}
	e.tell = slices.Concat(kept, inMemory)
	lived := h.RefreshToken != "" || h.Access != nil
	h.RefreshToken, h.Access, h.Scopes, h.Fixed, h.Spending, h.Ended, h.DPoPKey, h.Refusals = "", nil, nil, false, "", "", "", nil
	h.Revocations = slices.Concat(h.Revocations, kept)
	if err := b.save(ctx, h); err != nil {
		return e, err
	}
	b.Forget(name)
	if lived {
		b.event(Event{Kind: SessionEnded, Profile: name})
	}
	b.mu.Lock()
	delete(b.provers, name)
	if len(inMemory) > 0 {
		b.telling[name] = slices.Concat(b.telling[name], inMemory)
	}
	b.mu.Unlock()
	b.setQueued(name, len(h.Revocations))
	return e, nil
}

// cachedOf returns the tokens that are held of a profile and still good.
func (b *Broker) cachedOf(name string) []*made {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*made
	now := b.Now()
	for k, e := range b.tokens {
		if k.profile == name && e.token != nil && e.token.remaining(now) > 0 {
			list = append(list, e.token)
		}
	}
	return list
}

// RevokeAll is Revoke for every profile that has a session or a token, several
// at a time. It returns what came of each, in the order of their names.
func (b *Broker) RevokeAll(ctx context.Context) ([]Revoked, error) {
	sessions, err := b.Sessions.List(ctx)
	if err != nil {
		return nil, err
	}
	names := b.Unsaved()
	for _, e := range sessions {
		names = append(names, e.Name)
	}
	b.mu.Lock()
	for k, e := range b.tokens {
		if e.token != nil {
			names = append(names, k.profile)
		}
	}
	b.mu.Unlock()
	slices.Sort(names)
	names = slices.Compact(names)
	results := make([]Revoked, len(names))
	endings := make([]ending, len(names))
	// Why the keyring gave the first text that it did not: it is asked for no other, as
	// each would take as long.
	var mute atomic.Pointer[store.KeyringError]
	each(names, func(i int, name string) {
		var given string
		var unread error
		if why := mute.Load(); why != nil {
			unread = why
		} else if given, unread = b.refreshTokenOf(ctx, name); errors.As(unread, &why) {
			mute.Store(why)
		}
		e, err := b.end(ctx, name, given, false)
		e.unread = unread
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			results[i].Problem = "it is still here: " + err.Error()
		}
		endings[i] = e
	})
	each(names, func(i int, name string) {
		if problem := results[i].Problem; problem != "" {
			results[i] = Revoked{Profile: name, Problem: problem}
		} else {
			results[i] = b.finish(ctx, name, endings[i])
		}
	})
	return results, nil
}

// each does something for every name, several at a time.
func each(names []string, do func(int, string)) {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, tellers)
	for i, name := range names {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			harden.Secretly(func() { do(i, name) })
		})
	}
}
