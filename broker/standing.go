package broker

import (
	"cmp"
	"slices"
	"time"
)

// A Standing is what is known of a profile's token without asking anybody.
type Standing struct {
	Profile string
	Token   *Token        // nil: none that is good is held
	Renews  time.Duration // from now; 0: it is left to end
	Err     error         // why there is none, or no new one; nil if nothing is wrong
	Retry   time.Duration // from now, after which the server is asked again; 0: at the next call
}

// Standings returns how the tokens stand of all profiles of which something is
// known, in the order of their names: of each the one of its own scopes, else the
// one that was asked for last.
func (b *Broker) Standings() []Standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	best := make(map[string]*entry)
	for k, e := range b.tokens {
		name := k.profile
		old := best[name]
		f := b.facts[name]
		own := f != nil && k == f.key()
		if old == nil || own || e.sent > old.sent && !(f != nil && old.key() == f.key()) {
			best[name] = e
		}
	}
	now := b.Now()
	var list []Standing
	for _, e := range best {
		if s := b.standingOf(e, now); s.Token != nil || s.Err != nil {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Standing) int { return cmp.Compare(a.Profile, b.Profile) })
	return list
}

// standing is how the token stands that k names.
func (b *Broker) standing(k key) Standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.tokens[k]
	if e == nil {
		return Standing{Profile: k.profile}
	}
	return b.standingOf(e, b.Now())
}

// standingOf is standing; the caller holds mu.
func (b *Broker) standingOf(e *entry, now time.Duration) Standing {
	s := Standing{Profile: e.of.profile, Err: e.refusal(now)}
	if s.Err != nil {
		s.Retry = max(0, e.failed.retry-now)
	}
	if e.token.alive(now) {
		t := e.hand(now)
		b.tellUnsaved(s.Profile, &t)
		s.Token = &t
		if e.place >= 0 {
			s.Renews = max(0, e.due-now)
		}
	}
	return s
}
