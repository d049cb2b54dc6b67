package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"tokend/client/api"
)

const (
	// stall is how long nobody with a living token may wait.
	stall = 250 * time.Millisecond
	// tellTime is how soon a watch has a token that others have.
	tellTime = time.Second
)

// seen is what happened in a run.
type seen struct {
	life          time.Duration
	begin, end    time.Time
	calls         []called // of each profile in their order
	watched       []watched
	providers     map[string]*provided
	slow          []span // when the machine was
	samples       []size
	before, after size
}

// provided is what a provider did.
type provided struct {
	calm     bool
	troubles []span // in which somebody may have no token
	suffered map[string]int
	passed   []span // its requests
}

// A verdict says which promises were broken, and counts what happened.
type verdict struct {
	begin  time.Time
	broken []string

	tokens      int // that calls got
	unavailable int // calls that got none where none could be had
	late        int // tokens that ended between daemon and resource
	expired     int
	stalled     int
	slow        int // calls that took long when the machine was slow
	gaps        int // of the watch

	quiet, renewing, cold []time.Duration // how long calls took
	requests, made        map[string]int  // by provider
}

// breaks notes a promise that was broken at some time of the run.
func (v *verdict) breaks(at time.Time, format string, args ...any) {
	v.broken = append(v.broken, fmt.Sprintf("%7.3f s  ", at.Sub(v.begin).Seconds())+fmt.Sprintf(format, args...))
}

func providerOf(profile string) string {
	name, _, _ := strings.Cut(profile, "/")
	return name
}

// judge holds what happened against what is promised.
func judge(s *seen) *verdict {
	v := &verdict{begin: s.begin, requests: make(map[string]int), made: make(map[string]int)}
	troubles, passed := make(map[string][]span), make(map[string][]span)
	for name, p := range s.providers {
		troubles[name], passed[name] = merge(p.troubles), merge(p.passed)
	}
	slow := merge(s.slow)
	last := make(map[string]called) // by profile: the last that brought a token
	first := make(map[string]called)
	for _, c := range s.calls {
		provider := providerOf(c.Profile)
		before, ok := last[c.Profile]
		living := ok && before.Expires.Add(-min(30*time.Second, before.Lifetime/10)).After(c.End)
		during := span{c.Begin, c.End}
		v.judgeToken(c)
		switch {
		case c.Fingerprint != "":
			last[c.Profile] = c
			if _, ok := first[c.Fingerprint]; !ok {
				first[c.Fingerprint] = c
			}
		case c.Reason != api.ReasonProviderDown.String() && c.Reason != api.ReasonThrottled.String():
			v.breaks(c.End, "%s: %s: %s", c.Profile, c.Reason, c.Message)
		case living:
			v.breaks(c.End, "%s: no token although one lived for %v: %s", c.Profile, before.Expires.Sub(c.End), c.Message)
		case !meets(troubles[provider], during):
			v.breaks(c.End, "%s: no token although the provider has been well for long: %s", c.Profile, c.Message)
		default:
			v.unavailable++
		}

		took := c.End.Sub(c.Begin)
		switch {
		case !living:
			v.cold = append(v.cold, took)
		case meets(passed[provider], during):
			v.renewing = append(v.renewing, took)
		default:
			v.quiet = append(v.quiet, took)
		}
		if living && took > stall {
			// What took long while the provider was not being asked had nothing to do
			// with a renewal.
			if meets(slow, during) || !meets(passed[provider], during) {
				v.slow++
			} else {
				v.stalled++
				v.breaks(c.End, "%s: a call with a living token took %v", c.Profile, took)
			}
		}
	}
	v.judgeWatch(s, troubles, slow, first)
	v.judgeRequests(s, first)
	if s.after.hasGrown(s.before) {
		v.breaks(s.end, "the daemon has grown: %v; it had %v", s.after, s.before)
	}
	return v
}

// judgeToken looks at what the resource said of the token that a call got.
func (v *verdict) judgeToken(c called) {
	switch {
	case c.Fingerprint == "":
		return
	case c.Left <= 0 || !c.Begin.Before(c.Expires):
		v.expired++
		v.breaks(c.End, "%s: a token that had ended %v ago", c.Profile, c.End.Sub(c.Expires))
	case c.Status == 401 && !c.Presented.Before(c.Expires):
		v.late++
	case c.Status == 401:
		v.expired++
		v.breaks(c.End, "%s: a token that is to live for %v was refused: %s", c.Profile, c.Expires.Sub(c.Presented), c.Challenge)
	case c.Status != 200:
		v.breaks(c.End, "%s: the resource answers %d %s", c.Profile, c.Status, c.Message)
	}
	v.tokens++
}

// judgeWatch looks for times in which the watch had no living token although one
// could be had. first are the calls that first got each token.
func (v *verdict) judgeWatch(s *seen, troubles map[string][]span, slow []span, first map[string]called) {
	came := make(map[string][]watched)
	for _, w := range s.watched {
		switch w.reason {
		case "", api.ReasonProviderDown.String(), api.ReasonThrottled.String():
		default:
			v.breaks(w.at, "%s: the watch says %s", w.profile, w.reason)
		}
		if w.fingerprint == "" {
			continue
		}
		if !w.at.Before(w.expires) {
			v.breaks(w.at, "%s: the watch got a token that had ended", w.profile)
		}
		came[w.profile] = append(came[w.profile], w)
	}
	for profile, tokens := range came {
		excused := merge(slices.Concat(troubles[providerOf(profile)], slow))
		for i, w := range tokens {
			until := s.end
			if i+1 < len(tokens) {
				until = tokens[i+1].at
			}
			if dead := (span{w.expires, until}); dead.From.Before(dead.Until) && !covers(excused, dead) {
				v.gaps++
				v.breaks(w.expires, "%s: the watch had no living token for %v", profile, until.Sub(w.expires))
			}
		}
	}
	for fingerprint, c := range first {
		told := span{s.begin.Add(-time.Hour), c.End.Add(tellTime)}
		if !slices.ContainsFunc(came[c.Profile], func(w watched) bool {
			return w.at.Before(told.Until) && (w.fingerprint == fingerprint || w.at.After(c.End))
		}) && !meets(slow, span{c.Begin, told.Until}) {
			v.breaks(c.End, "%s: the watch was not told within %v of a token that others got", c.Profile, tellTime)
		}
	}
}

// judgeRequests counts what the providers were asked for each token.
func (v *verdict) judgeRequests(s *seen, first map[string]called) {
	made := make(map[string]string) // provider by fingerprint
	for _, w := range s.watched {
		if w.fingerprint != "" && w.at.After(s.begin) {
			made[w.fingerprint] = providerOf(w.profile)
		}
	}
	for fingerprint, c := range first {
		made[fingerprint] = providerOf(c.Profile)
	}
	for _, w := range s.watched {
		if w.at.Before(s.begin) {
			delete(made, w.fingerprint)
		}
	}
	for _, provider := range made {
		v.made[provider]++
	}
	for name, p := range s.providers {
		for _, r := range p.passed {
			if r.From.After(s.begin) {
				v.requests[name]++
			}
		}
		if n := v.requests[name] - v.made[name]; p.calm && (n < 0 || n > 1) { // one may be under way
			v.breaks(s.end, "%d requests brought %d tokens of the provider that never fails", v.requests[name], v.made[name])
		}
	}
}

// merge returns the same moments as stretches that lie apart, in their order.
func merge(spans []span) []span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return a.From.Compare(b.From) })
	var apart []span
	for _, s := range spans {
		if n := len(apart); n > 0 && !s.From.After(apart[n-1].Until) {
			if s.Until.After(apart[n-1].Until) {
				apart[n-1].Until = s.Until
			}
			continue
		}
		apart = append(apart, s)
	}
	return apart
}

// meets reports whether a stretch has a moment in common with merged ones.
func meets(apart []span, s span) bool {
	i := sort.Search(len(apart), func(i int) bool { return apart[i].Until.After(s.From) })
	return i < len(apart) && apart[i].overlaps(s)
}

// covers reports whether all of a stretch lies in one of the merged ones.
func covers(apart []span, s span) bool {
	i := sort.Search(len(apart), func(i int) bool { return !apart[i].Until.Before(s.Until) })
	return i < len(apart) && !apart[i].From.After(s.From)
}
