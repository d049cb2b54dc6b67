package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"tokend/test/authserver"
)

// hangers wait for a token that the provider does not give.
const hangers = 64

// hang measures callers with a living token while the provider hangs for
// another profile, against the same callers when it does not.
func (b *bench) hang() error {
	rounds := b.rounds(15, 5)
	var hanging []string
	for i := range rounds {
		hanging = append(hanging, fmt.Sprintf("hanging/%d", i))
	}
	h, err := b.newHome("hang", hanging...)
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
	workers, stop, err := b.workers(1)
	if err != nil {
		return err
	}
	defer stop()
	b.provider.Client(small).Always(authserver.Answer{Hang: true})
	defer func() {
		b.provider.Client(small).Always(tokenFor(small))
		b.provider.Release()
	}()

	call := order{Way: newConn, Socket: h.socket, Dir: h.dir, Profile: warmProfile, Warm: warmProfile, Callers: 8, For: time.Second}
	if b.quick {
		call.For = 500 * time.Millisecond
	}
	var normal, hung load
	for i := range rounds {
		for _, n := range rand.Perm(2) {
			if n == 0 {
				s, err := give(workers, []order{call})
				if err != nil {
					return err
				}
				normal.add(s)
				continue
			}
			release, err := h.waitFor(hanging[i])
			if err != nil {
				return err
			}
			s, err := give(workers, []order{call})
			release()
			if err != nil {
				return err
			}
			hung.add(s)
		}
	}

	t := table{Title: fmt.Sprintf("8 callers with a living token, new connection a call (medians); hanging: %d others wait for the provider", hangers), Columns: []string{"calls/s", "p50 ms", "p99 ms"}}
	for _, l := range []struct {
		name string
		load *load
	}{{"normal", &normal}, {"hanging", &hung}} {
		t.Rows = append(t.Rows, row{l.name, []float64{median(l.load.rates), median(l.load.p50), median(l.load.p99)}})
	}
	b.report.Tables = append(b.report.Tables, t)
	b.report.Goals = append(b.report.Goals, goal{
		Figure:   "p99 with a living token while the provider hangs, to normal",
		Measured: median(hung.p99) / median(normal.p99),
		Bound:    "<=", AtLeast: 1.2, Aim: 1,
		Absolute: fmt.Sprintf("%.2f ms, %.2f ms", median(hung.p99), median(normal.p99)),
	})
	return nil
}

// waitFor makes callers wait for a profile's token until release, and returns
// when the provider has been asked for it.
func (h *home) waitFor(profile string) (release func(), err error) {
	c, err := dialGRPC(h.socket)
	if err != nil {
		return nil, err
	}
	provider := h.bench.provider
	asked := provider.Count("/token")
	ctx, cancel := context.WithTimeout(h.bench.ctx, callTime)
	var waiting sync.WaitGroup
	for range hangers {
		waiting.Go(func() { getToken(ctx, c, profile) })
	}
	release = func() {
		provider.Release()
		waiting.Wait()
		cancel()
		c.Close()
	}
	if err := provider.Await(ctx, "/token", asked+1); err != nil {
		release()
		return nil, fmt.Errorf("waiting for the provider to be asked: %w", err)
	}
	return release, nil
}
