package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes what happened, and each promise that was broken.
func (v *verdict) print(out io.Writer, o options, s *seen) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	suffered, refreshes, requests := make(map[string]int), 0, 0
	for name, p := range s.providers {
		for fault, n := range p.suffered {
			suffered[fault] += n
		}
		if !p.calm {
			refreshes, requests = refreshes+v.made[name], requests+v.requests[name]
		}
	}
	faults := 0
	var each []string
	for _, name := range slices.Sorted(maps.Keys(suffered)) {
		faults += suffered[name]
		each = append(each, fmt.Sprintf("%s %d", name, suffered[name]))
	}
	fmt.Fprintf(out, "%v, %d profiles of %d providers, tokens of %v, %d calls a second\n%d faults: %s\n\n",
		s.end.Sub(s.begin).Round(time.Second), perProvider*(len(s.providers)-1), len(s.providers)-1, o.life, o.rate, faults, strings.Join(each, ", "))
	line("calls\t%d\t%d got a token, %d none where none could be had", len(s.calls), v.tokens, v.unavailable)
	line("expired tokens served\t%d\tand %d ended on the way to the resource", v.expired, v.late)
	line("callers stalled by a renewal\t%d\tand %d where the machine was slow", v.stalled, v.slow)
	line("gaps of the watch\t%d\tin %d tokens", v.gaps, len(s.watched))
	line("with a living token, no renewal\t%s", durations(v.quiet))
	line("with a living token, during renewals\t%s", durations(v.renewing))
	line("without a living token\t%s", durations(v.cold))
	line("requests per refresh\t%s\twhere providers fail: %d for %d tokens", ratio(requests, refreshes), requests, refreshes)
	for name, p := range s.providers {
		if p.calm {
			line("\t%s\twhere one never does: %d for %d tokens", ratio(v.requests[name], v.made[name]), v.requests[name], v.made[name])
		}
	}
	for _, what := range []struct {
		name, unit string
		of         func(size) int
	}{
		{"file descriptors", "", func(s size) int { return s.descriptors }},
		{"goroutines", "", func(s size) int { return s.goroutines }},
		{"resident memory", " KiB", func(s size) int { return s.resident }},
	} {
		line("%s\t%d%s\tafter %d before, at most %d; slope %+.1f%s an hour", what.name, what.of(s.after), what.unit, what.of(s.before),
			largest(s.samples, what.of), slope(s.samples, what.of), what.unit)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(v.broken) > 0 {
		fmt.Fprintf(out, "\nbroken promises: %d\n", len(v.broken))
	}
	for i, b := range v.broken {
		if i == 20 {
			fmt.Fprintln(out, "…")
			break
		}
		fmt.Fprintln(out, b)
	}
	return nil
}

func ratio(a, b int) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

// durations sorts d.
func durations(d []time.Duration) string {
	if len(d) == 0 {
		return "0\tcalls"
	}
	slices.Sort(d)
	at := func(share float64) time.Duration { return d[int(share*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("%d\tcalls: p50 %v, p99 %v, max %v", len(d), at(0.5), at(0.99), at(1))
}
