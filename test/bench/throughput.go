package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// load is one way to call one server, and what came of it.
type load struct {
	name  string
	order order
	rates []float64
	p50   []float64
	p99   []float64
}

func (l *load) add(s sample) {
	l.rates = append(l.rates, s.rate())
	l.p50 = append(l.p50, s.quantile(0.5))
	l.p99 = append(l.p99, s.quantile(0.99))
}

// throughput measures the daemon under load, against a bare grpc-go server
// that answers from a map, and against oidc-agent.
func (b *bench) throughput() error {
	h, err := b.newHome("throughput")
	if err != nil {
		return err
	}
	if err := h.startDaemon(); err != nil {
		return err
	}
	defer h.stopDaemon()
	answer, err := h.warm()
	if err != nil {
		return err
	}
	bare, stop, err := b.startBare(answer)
	if err != nil {
		return err
	}
	defer stop()

	span := 700 * time.Millisecond
	if b.quick {
		span = 250 * time.Millisecond
	}
	var loads []*load
	find := make(map[string]*load)
	add := func(server string, o order) {
		o.Dir, o.Warm, o.For = h.dir, o.Profile, span
		l := &load{name: fmt.Sprintf("%s, %s, %d callers", server, o.Way, o.Callers), order: o}
		if o.Way == agent || o.Way == agentRaw {
			l.name = fmt.Sprintf("%s, %d callers", o.Way, o.Callers)
		}
		loads = append(loads, l)
		find[fmt.Sprint(server, o.Way, o.Callers)] = l
	}
	for _, callers := range []int{1, 8, 64, 256} {
		for _, w := range []way{keptConn, newConn} {
			add("tokend", order{Way: w, Socket: h.socket, Profile: warmProfile, Callers: callers})
			add("bare grpc-go", order{Way: w, Socket: bare, Profile: warmProfile, Callers: callers})
		}
	}
	stopAgent, noAgent := b.startAgent(b.agentSocket())
	if noAgent == nil {
		defer stopAgent()
		for _, callers := range []int{1, 8} {
			for _, w := range []way{agent, agentRaw} {
				add("", order{Way: w, Socket: b.agentSocket(), Profile: agentAccount, Callers: callers})
			}
		}
	}

	workers, stop, err := b.workers(256 / 8)
	if err != nil {
		return err
	}
	defer stop()
	for range b.rounds(7, 3) {
		for _, i := range rand.Perm(len(loads)) {
			s, err := give(workers, loads[i].order.spread())
			if err != nil {
				return fmt.Errorf("%s: %w", loads[i].name, err)
			}
			loads[i].add(s)
		}
	}

	t := table{Title: "Calls under load (medians over rounds)", Columns: []string{"calls/s", "p50 ms", "p99 ms"}}
	for _, l := range loads {
		t.Rows = append(t.Rows, row{l.name, []float64{median(l.rates), median(l.p50), median(l.p99)}})
	}
	b.report.Tables = append(b.report.Tables, t)

	rate := func(server string, w way, callers int) float64 {
		return median(find[fmt.Sprint(server, w, callers)].rates)
	}
	toAgent := goal{Figure: "calls/s, new connection a call, 8 callers, to oidc-agent", Bound: ">=", AtLeast: 2.5, Aim: 3.2}
	if noAgent != nil {
		toAgent.Missing = noAgent.Error()
	} else {
		ours, theirs := rate("tokend", newConn, 8), rate("", agent, 8)
		toAgent.Measured = ours / theirs
		toAgent.Absolute = fmt.Sprintf("%.0f/s, %.0f/s", ours, theirs)
	}
	ours, theirs := rate("tokend", keptConn, 256), rate("bare grpc-go", keptConn, 256)
	b.report.Goals = append(b.report.Goals, toAgent, goal{
		Figure:   "calls/s, kept connection, 256 callers, to bare grpc-go",
		Measured: ours / theirs,
		Bound:    ">=", AtLeast: 0.8, Aim: 0.95,
		Absolute: fmt.Sprintf("%.0f/s, %.0f/s", ours, theirs),
	})
	return nil
}
