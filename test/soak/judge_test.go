package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

// at is a time of a run, in seconds.
func at(seconds float64) time.Time {
	return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

// good is a run of 30 s with tokens of 10 s in which everything is as promised,
// though the provider "p" is in trouble from 12 to 25 s, and there is no token from
// 18 to 22 s.
func good() *seen {
	s := &seen{life: 10 * time.Second, begin: at(0), end: at(30), providers: map[string]*provided{
		"p":    {troubles: []span{{at(12), at(15)}, {at(14), at(25)}}, passed: []span{{at(-1), at(-0.9)}, {at(8), at(8.5)}, {at(22), at(22.1)}}},
		"calm": {calm: true, passed: []span{{at(5), at(5.1)}}},
	}}
	token := func(begin, took float64, fingerprint string, expires float64) {
		s.calls = append(s.calls, called{Profile: "p/0", Begin: at(begin), End: at(begin + took), Fingerprint: fingerprint,
			Expires: at(expires), Left: at(expires).Sub(at(begin)), Lifetime: 10 * time.Second, Status: 200, Presented: at(begin + took + 0.01)})
	}
	none := func(begin, took float64) {
		s.calls = append(s.calls, called{Profile: "p/0", Begin: at(begin), End: at(begin + took), Reason: "PROVIDER_DOWN", Message: "down"})
	}
	token(1, 0.01, "a", 11)
	token(7, 0.01, "a", 11)
	token(8.4, 0.2, "b", 18)
	token(16, 0.01, "b", 18)
	none(18.2, 0.5)
	none(20, 0.5)
	token(21, 1.1, "c", 32)
	token(29, 0.01, "c", 32)
	s.watched = []watched{
		{at: at(-1), profile: "p/0", fingerprint: "a", expires: at(11)},
		{at: at(-1), profile: "calm/0", fingerprint: "x", expires: at(7)},
		{at: at(5.2), profile: "calm/0", fingerprint: "y", expires: at(31)},
		{at: at(8.5), profile: "p/0", fingerprint: "b", expires: at(18)},
		{at: at(16.5), profile: "p/0", reason: "PROVIDER_DOWN"},
		{at: at(22.2), profile: "p/0", fingerprint: "c", expires: at(32)},
	}
	s.before = size{descriptors: 20, goroutines: 40, resident: 12000}
	s.after = s.before
	return s
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*seen)
		breaks string
	}{
		{"nothing is wrong", func(*seen) {}, ""},
		{"a dead token", func(s *seen) { s.calls[0].Expires = at(1) }, "p/0: a token that had ended 10ms ago"},
		{"a token with no life left", func(s *seen) { s.calls[0].Left = 0 }, "p/0: a token that had ended"},
		{"a token that ends on its way to a slow caller", func(s *seen) { s.calls[0].Expires = at(1.009) }, ""},
		{"a refused token", func(s *seen) { s.calls[0].Status = 401 }, "p/0: a token that is to live for 9.98s was refused"},
		{"a token that ends on its way", func(s *seen) { s.calls[3].Status, s.calls[3].Presented = 401, at(18.001) }, ""},
		{"a resource that fails", func(s *seen) { s.calls[0].Status = 500 }, "p/0: the resource answers 500"},
		{"no token although one lives", func(s *seen) { s.calls[3].Fingerprint, s.calls[3].Reason = "", "THROTTLED" }, "p/0: no token although one lived for 1.99s"},
		{"no token of a good provider", func(s *seen) { s.providers["p"].troubles = []span{{at(12), at(19.9)}, {at(21), at(25)}} },
			"p/0: no token although the provider has been well for long: down\np/0: the watch had no living token for 4.2s"},
		{"a login is wanted", func(s *seen) { s.calls[4].Reason = "LOGIN_REQUIRED" }, "p/0: LOGIN_REQUIRED: down"},
		{"a stalled caller", func(s *seen) { s.calls[1].Begin, s.calls[1].End = at(8), at(8.3) }, "p/0: a call with a living token took 300ms"},
		{"a slow caller, no renewal", func(s *seen) { s.calls[1].End = at(7.3) }, ""},
		{"a slow machine", func(s *seen) { s.calls[1].Begin, s.calls[1].End, s.slow = at(8), at(8.3), []span{{at(8.1), at(8.2)}} }, ""},
		{"a caller who waits for a first token", func(s *seen) { s.calls[0].Begin = at(-1) }, ""},
		{"a gap of the watch", func(s *seen) { s.watched[0].expires = at(8.4) }, "p/0: the watch had no living token for 100ms"},
		{"a gap at the end", func(s *seen) { s.watched[5].expires = at(29.5) }, "p/0: the watch had no living token for 500ms"},
		{"a watch that gets a dead token", func(s *seen) { s.watched[2].expires = at(5.2) },
			"calm/0: the watch got a token that had ended\ncalm/0: the watch had no living token for 24.8s"},
		{"a watch that is told late", func(s *seen) { s.watched[5].at = at(23.2) }, "p/0: the watch was not told within 1s of a token that others got"},
		{"a watch that wants a login", func(s *seen) { s.watched[4].reason = "LOGIN_REQUIRED" }, "p/0: the watch says LOGIN_REQUIRED"},
		{"too many requests", func(s *seen) {
			s.providers["calm"].passed = append(s.providers["calm"].passed, span{at(6), at(7)}, span{at(8), at(9)})
		},
			"3 requests brought 1 tokens of the provider that never fails"},
		{"leaked descriptors", func(s *seen) { s.after.descriptors += someDescriptors + 1 }, "the daemon has grown"},
		{"leaked goroutines", func(s *seen) { s.after.goroutines += someGoroutines + 1 }, "the daemon has grown"},
		{"leaked memory", func(s *seen) { s.after.resident += someResident + 1 }, "the daemon has grown"},
		{"a little more than before", func(s *seen) { s.after.descriptors, s.after.goroutines = 24, 48 }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := good()
			test.change(s)
			v := judge(s)
			var want []string
			if test.breaks != "" {
				want = strings.Split(test.breaks, "\n")
			}
			if len(v.broken) != len(want) {
				t.Fatalf("broken are %q, want %q", v.broken, want)
			}
			for i := range want {
				if _, what, _ := strings.Cut(v.broken[i], " s  "); !strings.HasPrefix(what, want[i]) {
					t.Errorf("broken is %q, want %q", v.broken[i], want[i])
				}
			}
		})
	}
}

func TestJudgeCounts(t *testing.T) {
	v := judge(good())
	if v.tokens != 6 || v.unavailable != 2 || v.late != 0 || v.requests["p"] != 2 || v.made["p"] != 2 || v.requests["calm"] != 1 || v.made["calm"] != 1 {
		t.Errorf("%+v", v)
	}
	// The call at 8.4 has met a renewal; the first and those without a living
	// token are no callers who could have been stalled.
	if len(v.cold) != 4 || len(v.renewing) != 1 || len(v.quiet) != 3 {
		t.Errorf("calls without a token %v, during renewals %v, others %v", v.cold, v.renewing, v.quiet)
	}
}

func TestSlope(t *testing.T) {
	var samples []size
	for i := range 100 {
		s := size{at: at(float64(36 * i)), descriptors: 20 + i, resident: 5000}
		if i < 20 {
			s.resident = 10 // while it starts
		}
		samples = append(samples, s)
	}
	if got := slope(samples, func(s size) int { return s.descriptors }); got < 99.9 || got > 100.1 {
		t.Errorf("a descriptor each 36 s is %v an hour", got)
	}
	if got := slope(samples, func(s size) int { return s.resident }); math.Abs(got) > 1e-6 {
		t.Errorf("what stays is %v an hour", got)
	}
	if got := slope(samples[:1], func(s size) int { return s.descriptors }); got != 0 {
		t.Errorf("one sample is %v an hour", got)
	}
}
