package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"tokend/oauth"
	"tokend/store"
)

const (
	// clientProbe is how long after a refusal of the client itself the server is
	// asked again, and requestProbe after one of what was asked; each doubles with
	// the next refusal, up to longestProbe.
	clientProbe  = 15 * time.Minute
	requestProbe = time.Minute
	longestProbe = 24 * time.Hour
	// resolveAgain is how long a refusal is answered without looking whether
	// values from files and commands have changed.
	resolveAgain = 5 * time.Second
	// maxRefusals bounds what is remembered of one profile: callers choose scopes,
	// audience and resource.
	maxRefusals = 16
)

// A refusal is an authorization server's no, which is remembered because asking
// again brings the same answer, and locks out who asks too often.
type refusal struct {
	// Cause is the fingerprint of what the server was shown: the text, and what
	// its files and commands gave. Another one deserves another try.
	Cause string `json:"cause"`
	// Subject is the fingerprint of the token that was to be exchanged, or "".
	Subject string `json:"subject,omitempty"`
	// Whole: the client itself was refused, whatever it asks for; else only these.
	Whole    bool   `json:"whole,omitempty"`
	Scopes   string `json:"scopes,omitempty"`
	Audience string `json:"audience,omitempty"`
	Resource string `json:"resource,omitempty"`

	At   moment        `json:"at"`
	Wait time.Duration `json:"wait"` // from At to the next try

	// What was said.
	Op          string `json:"op"`
	Status      int    `json:"status,omitempty"`
	Code        string `json:"code,omitempty"`
	Description string `json:"description,omitempty"`
	Variable    string `json:"variable,omitempty"`
}

// error is what was said, as an error for which nothing was sent now.
func (r *refusal) error() error {
	return &oauth.Error{Op: r.Op, Kind: oauth.Refused, Reached: true, Status: r.Status, Code: r.Code, Description: r.Description}
}

// concerns says whether r is about what k names. subject is as in refusal.
func (r *refusal) concerns(k key, subject string) bool {
	return (r.Subject == "" || r.Subject == subject) && (r.Whole || r.Scopes == k.scopes && r.Audience == k.audience && r.Resource == k.resource)
}

// left is for how long r still stands.
func (b *Broker) left(r *refusal) time.Duration { return min(r.Wait, r.Wait-b.since(r.At)) }

// causeOf is the fingerprint of a text and the values that it names.
func causeOf(version store.Version, values map[string]string) string {
	sum := sha256.New()
	add := func(s string) {
		one := sha256.Sum256([]byte(s)) // so that no two lists look the same
		sum.Write(one[:])
	}
	add(string(version))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		add(name)
		add(values[name])
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// sumOf is the beginning of what causeOf gives, never 0, for where two that agree by
// chance do no harm.
func sumOf(hex string) uint64 {
	n, _ := strconv.ParseUint(hex[:min(16, len(hex))], 16, 64)
	return n | 1
}

// refused returns the error with which k's token was refused and still is, or nil.
func (b *Broker) refused(ctx context.Context, f *facts, k key, cause, subject string) error {
	b.mu.Lock()
	known := f.known
	b.mu.Unlock()
	if !known {
		s, err := b.peek(ctx, k.profile)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		b.mu.Lock()
		if !f.known {
			f.known = true
			if s != nil && len(s.Refusals) > 0 {
				f.said().refusals = slices.Clone(s.Refusals)
			}
			for i := range f.refusals() {
				if at := &f.refusals()[i].At; (b.BootID == "" || at.BootID != b.BootID) && time.Until(at.Wall) > 0 {
					*at = b.moment() // the clock has been set back since
				}
			}
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	list := f.refusals()
	for i := range list {
		r := &list[i]
		if left := b.left(r); r.Cause == cause && r.concerns(k, subject) && left > 0 {
			return &RefusedError{r.error(), left, r.Variable}
		}
	}
	return nil
}

// refuse remembers that what k names was refused, and returns for how long it is
// answered without asking. It is written down, so that a restart does not ask
// again.
func (b *Broker) refuse(ctx context.Context, f *facts, k key, p *Prepared, variable string, e *oauth.Error) time.Duration {
	cause, subject := p.cause, ""
	if e.Code == "invalid_grant" {
		subject = p.subject // another one may be taken
	}
	r := refusal{Cause: cause, Subject: subject, At: b.moment(), Wait: requestProbe,
		Op: e.Op, Status: e.Status, Code: e.Code, Description: e.Description, Variable: variable}
	switch e.Code {
	case "", "invalid_client", "unauthorized_client":
		r.Whole, r.Wait = true, clientProbe
	case "invalid_grant":
		r.Whole = true
	default:
		r.Scopes, r.Audience, r.Resource = k.scopes, k.audience, k.resource
	}
	if e.Description == "" && e.Err != nil {
		r.Description = e.Err.Error()
	}
	b.mu.Lock()
	if b.facts[k.profile] != f {
		b.mu.Unlock()
		return r.Wait // what was asked for is nobody's any more
	}
	list := slices.Clone(f.refusals())
	for i := len(list) - 1; i >= 0; i-- {
		old := &list[i]
		switch {
		case old.Subject != subject && old.Cause == cause: // that stands beside this one
		case old.Cause != cause:
			list = slices.Delete(list, i, i+1)
		case old.Whole == r.Whole && old.concerns(k, subject) && b.left(old) > 0:
			// Of another request, under way at the same time.
			r.Wait, r.At = max(r.Wait, old.Wait), old.At
			list = slices.Delete(list, i, i+1)
		case old.Whole == r.Whole && old.concerns(k, subject):
			r.Wait = max(r.Wait, min(2*old.Wait, longestProbe))
			list = slices.Delete(list, i, i+1)
		}
	}
	list = append(list, r)
	if over := len(list) - maxRefusals; over > 0 {
		list = slices.Delete(list, 0, over)
	}
	f.said().refusals = list
	if r.Whole {
		f.proven = 0
	}
	b.mu.Unlock()
	b.writeRefusals(ctx, f)
	return b.left(&r)
}

// granted forgets what was refused before k's token was granted.
func (b *Broker) granted(ctx context.Context, f *facts, k key, cause string) {
	b.mu.Lock()
	list := slices.DeleteFunc(slices.Clone(f.refusals()), func(r refusal) bool {
		return r.Whole || r.Cause != cause || r.Scopes == k.scopes && r.Audience == k.audience && r.Resource == k.resource
	})
	changed := len(list) != len(f.refusals())
	f.proven = sumOf(cause)
	if changed {
		f.said().refusals = list
	}
	b.mu.Unlock()
	if changed {
		b.writeRefusals(ctx, f)
	}
}

// writeRefusals writes what is refused now of f's profile into its session.
func (b *Broker) writeRefusals(ctx context.Context, f *facts) {
	release, err := b.turns.take(ctx, f.profile)
	if err == nil {
		defer release()
		b.mu.Lock()
		list, forgotten := f.refusals(), b.facts[f.profile] != f
		b.mu.Unlock()
		if forgotten {
			return
		}
		var h *held
		if h, err = b.sessionOf(ctx, f.profile); err == nil {
			h.Refusals = list
			err = b.save(ctx, h)
		}
	}
	if err != nil {
		b.Log.Warn("refusals are not remembered over a restart", "profile", f.profile, "err", err)
	}
}

// Reset forgets what a profile's authorization server has refused, so that it is
// asked again, with a refresh token that it has called invalid, too: at most once
// every forceGap. It reports whether there was something to forget. Errors are
// [*ThrottledError] and those of the store; store.ErrNotExist: there is no such
// profile.
func (b *Broker) Reset(ctx context.Context, name string) (bool, error) {
	if _, err := b.textNow(ctx, name); err != nil {
		return false, err
	}
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return false, err
	}
	defer release()
	h, err := b.sessionOf(ctx, name)
	if err != nil {
		return false, err
	}
	isClosed := func(k key, e *entry) bool { return k.profile == name && e.failed != nil && !e.failed.same }
	b.mu.Lock()
	f := b.facts[name]
	shut := len(h.Refusals) > 0 || h.Ended != "" || f != nil && f.told != nil && (len(f.told.refusals) > 0 || f.told.evicted > 0)
	for k, e := range b.tokens {
		shut = shut || isClosed(k, e)
	}
	var tooSoon time.Duration
	if f != nil && f.told != nil && f.told.reset > 0 {
		tooSoon = f.told.reset + forceGap - b.Now()
	}
	b.mu.Unlock()
	switch {
	case !shut:
		return false, nil
	case tooSoon > 0:
		return false, &ThrottledError{errors.New("its refusals were forgotten moments ago"), tooSoon}
	case len(h.Refusals) > 0 || h.Ended != "":
		h.Refusals, h.Ended = nil, ""
		if err := b.save(ctx, h); err != nil {
			return false, err
		}
	}
	b.Log.Info("refusals forgotten", "profile", name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.facts[name]; f != nil {
		f.told = &told{reset: b.Now()}
	}
	for k, e := range b.tokens {
		if isClosed(k, e) {
			e.failed = nil
		}
	}
	b.event(Event{Kind: ProfileReset, Profile: name})
	b.notify(name)
	return true, nil
}
