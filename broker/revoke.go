package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

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
	result := Revoked{Profile: name}
	mine, unknown, err := b.end(ctx, name)
	if err != nil {
		return result, err
	}
	if unknown > 0 {
		result.Problem = "the server has no revocation endpoint"
	}
	if len(mine) == 0 {
		return result, nil
	}
	t := b.tell(ctx, name, mine)
	result.Revoked, result.Queued = t.revoked, t.left
	if t.problem != "" {
		result.Problem = t.problem
	}
	if t.unreached != nil {
		b.keepLater() //nolint:contextcheck // it goes on when its callers have gone
	}
	return result, nil
}

// end ends a profile's tokens here, durably, and returns what servers are to be
// told of, which the session keeps until that is done. unknown is how many no
// server can be told of.
func (b *Broker) end(ctx context.Context, name string) (mine []revocation, unknown int, err error) {
	p, unprepared := b.Prepare(ctx, name)
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	defer release()
	h, err := overDamage(b.sessionOf(ctx, name))
	if err != nil {
		return nil, 0, err
	}
	if h.version == "" && h.empty() && errors.Is(unprepared, store.ErrNotExist) {
		return nil, 0, store.ErrNotExist
	}
	url, clientID := h.RevocationURL, h.ClientID
	if p != nil && (clientID == "" || url == "" && h.bound(p) == "") {
		url, clientID = p.Endpoints.Revocation, p.Client.ID
	}
	add := func(token oauth.Secret, hint string) {
		switch {
		case token.IsZero():
		case url == "":
			unknown++
		default:
			mine = append(mine, revocation{url, token.Reveal(), hint, clientID, time.Now().UTC().Truncate(time.Second)})
		}
	}
	add(oauth.NewSecret(h.RefreshToken), "refresh_token")
	if t, ok := h.Taken[fingerprint(h.RefreshToken)]; ok {
		t.Spent = true
		h.taken(h.RefreshToken, t)
	}
	access := make(map[oauth.Secret]bool)
	if h.Access != nil {
		access[oauth.NewSecret(h.Access.Token)] = true
	}
	for _, m := range b.cachedOf(name) {
		add(m.renewal, "refresh_token")
		access[m.access] = true
	}
	for token := range access {
		add(token, "access_token")
	}
	h.RefreshToken, h.Access, h.Scopes, h.Fixed, h.Spending, h.Ended, h.DPoPKey = "", nil, nil, false, "", "", ""
	h.Revocations = slices.Concat(h.Revocations, mine)
	if err := b.save(ctx, h); err != nil {
		return nil, 0, err
	}
	b.setQueued(name, len(h.Revocations))
	b.Forget(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.provers, name)
	return mine, unknown, nil
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
	each(names, func(i int, name string) {
		r, err := b.Revoke(ctx, name)
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			r.Problem = err.Error()
		}
		results[i] = r
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
			do(i, name)
		})
	}
}
