package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/socket"
)

// start measures a command that has to start the daemon first, against the
// same command when it runs.
func (b *bench) start() error {
	h, err := b.newHome("start")
	if err != nil {
		return err
	}
	commands := []command{
		{"tokenctl list", []string{b.tokenctl, "list"}},
		{"tokenctl get", []string{b.tokenctl, "get", warmProfile}},
	}
	l, err := b.newLauncher(h.environment(), commands...)
	if err != nil {
		return err
	}
	defer h.stopStarted()
	defer l.close()

	cold, warm := make([][]cost, len(commands)), make([][]cost, len(commands))
	for range b.rounds(60, 12) {
		for _, n := range rand.Perm(len(commands)) {
			if err := h.stopStarted(); err != nil {
				return err
			}
			c, err := l.run(n)
			if err != nil {
				return err
			}
			cold[n] = append(cold[n], c)
			if _, err := l.run(n); err != nil {
				return err
			}
			if c, err = l.run(n); err != nil {
				return err
			}
			warm[n] = append(warm[n], c)
		}
	}

	t := table{Title: "First answer, with a daemon to start (medians)", Columns: []string{"ms", "warm ms", "to warm"}}
	for n, c := range commands {
		cold, warm := medianCost(cold[n]).ms, medianCost(warm[n]).ms
		name := c.name
		if n == 1 {
			name += ", with a request to the provider"
		}
		t.Rows = append(t.Rows, row{name, []float64{cold, warm, cold / warm}})
	}
	b.report.Tables = append(b.report.Tables, t)
	f := t.Rows[0].Figures
	b.report.Goals = append(b.report.Goals, goal{
		Figure:   "autostart to first answer (tokenctl list), to warm",
		Measured: f[2],
		Bound:    "<=", AtLeast: 3, Aim: 2.2,
		Absolute: fmt.Sprintf("%.2f ms, %.2f ms", f[0], f[1]),
	})
	return nil
}

// stopStarted ends the daemon that a command has started, if there is one, and
// returns when another can start. It works when the bench has been interrupted.
func (h *home) stopStarted() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := client.Client{Socket: h.socket, Dir: h.dir}
	err := c.Call(ctx, api.MethodStop, &api.StopRequest{}, &api.StopResponse{})
	if errors.Is(err, client.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stopping the daemon: %w", err)
	}
	for socket.Held(filepath.Join(h.dir, "lock")) {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the daemon to end: %w", err)
		}
	}
	return nil
}
