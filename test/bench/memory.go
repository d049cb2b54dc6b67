package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tokend/store"
)

const (
	manyConnections = 2_000
	// memoryProcesses keeps below the daemon's 64 connections a process.
	memoryProcesses = 32
)

// memory measures the daemon's resident memory: when it does nothing, for each
// profile whose token it has, and for each connection that is left be. It is
// what the system sees, with what the runtime keeps for later.
func (b *bench) memory() error {
	manyProfiles := b.rounds(10_000, 2_500)
	idle, profiles, err := b.profileMemory(manyProfiles)
	if err != nil {
		return err
	}
	alone, connections, err := b.connectionMemory()
	if err != nil {
		return err
	}
	const mb, kb = 1e6, 1e3
	b.report.Tables = append(b.report.Tables, table{Title: "Resident memory of tokend", Columns: []string{"MB", "before MB"}, Rows: []row{
		{"after one get", []float64{alone / mb, 0}},
		{fmt.Sprintf("%d profiles, a token each", manyProfiles), []float64{profiles / mb, idle / mb}},
		{fmt.Sprintf("%d idle connections", manyConnections), []float64{connections / mb, alone / mb}},
	}})
	b.report.Goals = append(b.report.Goals,
		goal{Figure: "resident, idle", Measured: alone / mb, Unit: "MB", Bound: "<=", AtLeast: 12, Aim: 9},
		goal{Figure: "resident, a cached profile", Measured: (profiles - idle) / float64(manyProfiles) / kb, Unit: "KB", Bound: "<=", AtLeast: 3, Aim: 2.3},
		goal{Figure: "resident, an idle connection", Measured: (connections - alone) / manyConnections / kb, Unit: "KB", Bound: "<=", AtLeast: 32, Aim: 22})
	return nil
}

// profileMemory returns the resident memory before and with n tokens.
func (b *bench) profileMemory(n int) (before, with float64, err error) {
	h, err := b.newHome("profiles")
	if err != nil {
		return 0, 0, err
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("p%02d/p%02d", i/100, i%100))
	}
	if err := h.putMany(large, names); err != nil {
		return 0, 0, err
	}
	if before, err = h.startSettled(); err != nil {
		return 0, 0, err
	}
	defer h.stopDaemon()
	c, err := dialGRPC(h.socket)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	g, ctx := errgroup.WithContext(b.ctx)
	g.SetLimit(16)
	for _, name := range names {
		g.Go(func() error {
			_, err := getToken(ctx, c, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	with, err = h.settled()
	return before, with, err
}

// connectionMemory returns the resident memory before and with many
// connections.
func (b *bench) connectionMemory() (before, with float64, err error) {
	h, err := b.newHome("connections")
	if err != nil {
		return 0, 0, err
	}
	if before, err = h.startSettled(); err != nil {
		return 0, 0, err
	}
	defer h.stopDaemon()
	workers, stop, err := b.workers(memoryProcesses)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	orders := make([]order, memoryProcesses)
	for i := range orders {
		orders[i] = order{Way: hold, Socket: h.socket, Profile: warmProfile, Callers: manyConnections / memoryProcesses, Calls: 1}
		if i < manyConnections%memoryProcesses {
			orders[i].Callers++
		}
	}
	if _, err := give(workers, orders); err != nil {
		return 0, 0, err
	}
	with, err = h.settled()
	return before, with, err
}

// putMany writes the profiles many at a time, with stores that share no folder
// below the root: each write waits for the disk.
func (h *home) putMany(id string, names []string) error {
	parts := slices.Collect(slices.Chunk(names, 500))
	stores := make([]*store.Age, len(parts))
	for i := range parts {
		var err error
		// All before the first write: opening a store sweeps.
		if stores[i], err = h.openStore(); err != nil {
			return err
		}
	}
	var puts errgroup.Group
	for i, part := range parts {
		puts.Go(func() error { return h.put(stores[i], id, part...) })
	}
	return puts.Wait()
}

// startSettled starts the daemon and returns its resident memory in bytes when
// it has nothing to do any more, after one call.
func (h *home) startSettled() (float64, error) {
	if err := h.startDaemon(); err != nil {
		return 0, err
	}
	if _, err := h.warm(); err != nil {
		h.stopDaemon()
		return 0, err
	}
	v, err := h.settled()
	if err != nil {
		h.stopDaemon()
	}
	return v, err
}

// settled returns the daemon's resident memory in bytes once it has not
// changed for a while: the runtime gives memory back bit by bit.
func (h *home) settled() (float64, error) {
	const look, patience = 250 * time.Millisecond, 30 * time.Second
	still := 10 * time.Second
	if h.bench.quick {
		still = 3 * time.Second
	}
	begin := time.Now()
	last, since := 0.0, begin
	for {
		now, err := h.resident()
		if err != nil {
			return 0, err
		}
		if now < 0.99*last || now > 1.01*last {
			last, since = now, time.Now()
		}
		if time.Since(since) > still || time.Since(begin) > patience {
			return now, nil
		}
		if err := sleep(h.bench.ctx, look); err != nil {
			return 0, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
