package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	crowdSize      = 10_000
	crowdProcesses = 32
	// crowdDelay is the provider's, so that a crowd has time to gather.
	crowdDelay = 100 * time.Millisecond
)

// crowd measures many callers who all want a token that nobody has fetched
// yet, against the same callers when it is there.
func (b *bench) crowd() error {
	ways := []way{newConn, keptConn}
	rounds := b.rounds(5, 1)
	var cold []string
	for i := range rounds * len(ways) {
		cold = append(cold, fmt.Sprintf("cold/%d", i))
	}
	h, err := b.newHome("crowd", cold...)
	if err != nil {
		return err
	}
	if err := h.startDaemon(); err != nil {
		return err
	}
	defer h.stopDaemon()
	if _, err := h.warm(); err != nil {
		return err
	}
	slow := tokenFor(small)
	slow.Delay = crowdDelay
	b.provider.Client(small).Always(slow)
	defer b.provider.Client(small).Always(tokenFor(small))
	workers, stop, err := b.workers(crowdProcesses)
	if err != nil {
		return err
	}
	defer stop()

	var most float64 // token requests for one crowd
	took := make(map[string][]float64)
	one := func(w way, profile, kind string) error {
		orders := make([]order, crowdProcesses)
		for i := range orders {
			callers := crowdSize / crowdProcesses
			if i < crowdSize%crowdProcesses {
				callers++
			}
			orders[i] = order{Way: w, Socket: h.socket, Dir: h.dir, Profile: profile, Warm: warmProfile, Callers: callers, Calls: 1}
		}
		before := b.provider.Count("/token")
		s, err := give(workers, orders)
		if err != nil {
			return fmt.Errorf("%s crowd: %w", kind, err)
		}
		if len(s.took) != crowdSize {
			return fmt.Errorf("%s crowd: %d answers", kind, len(s.took))
		}
		if kind == "cold" {
			s.spent -= crowdDelay
			most = max(most, float64(b.provider.Count("/token")-before))
		}
		took[string(w)+kind] = append(took[string(w)+kind], milliseconds(s.spent))
		return nil
	}
	for range rounds {
		for _, i := range rand.Perm(2 * len(ways)) {
			w, profile, kind := ways[i/2], warmProfile, "warm"
			if i%2 == 0 {
				profile, kind = cold[0], "cold"
				cold = cold[1:]
			}
			if err := one(w, profile, kind); err != nil {
				return err
			}
		}
	}

	b.report.Goals = append(b.report.Goals, goal{
		Figure: "10,000 callers of a cold profile: token requests", Measured: most, Bound: "<=", AtLeast: 1, Aim: 1,
	})
	t := table{Title: fmt.Sprintf("%d callers at once, from %d processes (medians)", crowdSize, crowdProcesses), Columns: []string{"cold ms", "warm ms"}}
	for _, w := range ways {
		cold, warm := median(took[string(w)+"cold"]), median(took[string(w)+"warm"])
		t.Rows = append(t.Rows, row{string(w), []float64{cold, warm}})
		b.report.Goals = append(b.report.Goals, goal{
			Figure:   "… " + string(w) + ": time, provider aside, to warm",
			Measured: cold / warm,
			Bound:    "<=", AtLeast: 1.3, Aim: 1,
			Absolute: fmt.Sprintf("%.0f ms, %.0f ms", cold, warm),
		})
	}
	b.report.Tables = append(b.report.Tables, t)
	return nil
}
