package main

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"tokend/client"
)

// workerArg makes this program a worker.
const workerArg = "-worker"

// callTime bounds every call.
const callTime = time.Minute

// way is how a worker calls.
type way string

const (
	newConn  way = "new connection a call"        // package client
	keptConn way = "kept connection"              // grpc-go, one connection a process
	agent    way = "oidc-agent"                   // as its own library does, encrypted
	agentRaw way = "oidc-agent, plain JSON"       // which nothing of its own speaks
	hold     way = "connections that are left be" // grpc-go, a call each, until the next order
)

// order is what a worker is told to do.
type order struct {
	Way         way
	Socket, Dir string
	// Profile is called for, once Warm, if it is named, was.
	Profile, Warm string
	// Callers each call Calls times, or, if that is 0, for For.
	Callers, Calls int
	For            time.Duration
}

// ready is a worker's answer to an order; it then waits for the time to begin.
type ready struct{ Err string }

type begin struct{ At time.Time }

// result is what a worker then did.
type result struct {
	Took []time.Duration // of each call
	Last time.Time       // when the last call ended
	Err  string
}

// work is a worker process. It ends with its stdin.
func work(stdin io.Reader, stdout io.Writer) error {
	in, out := gob.NewDecoder(stdin), gob.NewEncoder(stdout)
	w := &caller{kept: make(map[string]*grpc.ClientConn)}
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		call, err := w.prepare(o)
		if err := out.Encode(ready{text(err)}); err != nil {
			return err
		}
		var b begin
		if err := in.Decode(&b); err != nil {
			return err
		}
		var r result
		if err == nil {
			time.Sleep(time.Until(b.At))
			r = o.run(call)
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// caller is what a worker keeps from one order to the next.
type caller struct {
	kept map[string]*grpc.ClientConn
	held []*grpc.ClientConn
}

// prepare returns the call that an order is about, ready to be made.
func (w *caller) prepare(o order) (func(context.Context) error, error) {
	for _, c := range w.held {
		c.Close()
	}
	w.held = nil
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	get := func(context.Context, string) error { return nil }
	switch o.Way {
	case newConn:
		c := &client.Client{Socket: o.Socket, Dir: o.Dir}
		get = func(ctx context.Context, profile string) error {
			_, err := c.Token(ctx, client.TokenRequest{Profile: profile})
			return err
		}
	case keptConn:
		c := w.kept[o.Socket]
		if c == nil {
			var err error
			if c, err = dialGRPC(o.Socket); err != nil {
				return nil, err
			}
			w.kept[o.Socket] = c
		}
		get = func(ctx context.Context, profile string) error {
			_, err := getToken(ctx, c, profile)
			return err
		}
	case agent, agentRaw:
		ask := askAgent
		if o.Way == agentRaw {
			ask = askAgentRaw
		}
		get = func(ctx context.Context, account string) error { return ask(ctx, o.Socket, account) }
	case hold:
		for range o.Callers {
			c, err := dialGRPC(o.Socket)
			if err != nil {
				return nil, err
			}
			w.held = append(w.held, c)
			if _, err := getToken(ctx, c, o.Profile); err != nil {
				return nil, err
			}
		}
	}
	if o.Warm != "" {
		if err := get(ctx, o.Warm); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error { return get(ctx, o.Profile) }, nil
}

// run makes the calls of all callers.
func (o order) run(call func(context.Context) error) result {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	took := make([][]time.Duration, o.Callers)
	errs := make([]error, o.Callers)
	start := time.Now()
	var callers sync.WaitGroup
	for i := range o.Callers {
		callers.Go(func() {
			for before := start; o.Calls == 0 && before.Sub(start) < o.For || len(took[i]) < o.Calls; {
				if errs[i] = call(ctx); errs[i] != nil {
					return
				}
				now := time.Now()
				took[i] = append(took[i], now.Sub(before))
				before = now
			}
		})
	}
	callers.Wait()
	return result{Took: slices.Concat(took...), Last: time.Now(), Err: text(errors.Join(errs...))}
}

// worker is a worker process, seen from the bench.
type worker struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *gob.Encoder
	in    *gob.Decoder
}

// workers start n worker processes; stop ends them.
func (b *bench) workers(n int) (all []*worker, stop func(), err error) {
	stop = func() {
		for _, w := range all {
			w.stdin.Close()
			w.cmd.Wait()
		}
	}
	for range n {
		cmd := exec.CommandContext(b.ctx, b.self, workerArg)
		cmd.Env = b.environment()
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			stop()
			return nil, nil, err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			stop()
			return nil, nil, err
		}
		if err := cmd.Start(); err != nil {
			stop()
			return nil, nil, err
		}
		all = append(all, &worker{cmd, stdin, gob.NewEncoder(stdin), gob.NewDecoder(stdout)})
	}
	return all, stop, nil
}

// sample is what came of some orders that were carried out at the same time.
type sample struct {
	took  []time.Duration // sorted
	spent time.Duration   // from the beginning to the end of the last call
}

// rate is in calls per second.
func (s sample) rate() float64 { return float64(len(s.took)) / s.spent.Seconds() }

// quantile is in milliseconds.
func (s sample) quantile(q float64) float64 {
	return milliseconds(s.took[min(int(q*float64(len(s.took))), len(s.took)-1)])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// give gives each worker its order, and lets all begin at the same time when
// the last is ready.
func give(workers []*worker, orders []order) (sample, error) {
	for i, o := range orders {
		if err := workers[i].out.Encode(o); err != nil {
			return sample{}, err
		}
	}
	var failed []error
	for i := range orders {
		var r ready
		if err := workers[i].in.Decode(&r); err != nil {
			return sample{}, fmt.Errorf("waiting for a worker: %w", err)
		}
		if r.Err != "" {
			failed = append(failed, errors.New(r.Err))
		}
	}
	// Long enough for the word to reach them all.
	at := time.Now().Add(20 * time.Millisecond)
	for i := range orders {
		if err := workers[i].out.Encode(begin{at}); err != nil {
			return sample{}, err
		}
	}
	s := sample{}
	for i := range orders {
		var r result
		if err := workers[i].in.Decode(&r); err != nil {
			return sample{}, fmt.Errorf("waiting for a worker: %w", err)
		}
		if r.Err != "" {
			failed = append(failed, errors.New(r.Err))
		}
		s.took = append(s.took, r.Took...)
		s.spent = max(s.spent, r.Last.Sub(at))
	}
	if len(failed) > 0 {
		return sample{}, failed[0]
	}
	slices.Sort(s.took)
	return s, nil
}

// spread divides the callers of an order among as few workers as may be: a
// process has one kept connection, and package client makes 8 calls at a time.
func (o order) spread() []order {
	if o.Way != newConn {
		return []order{o}
	}
	var orders []order
	for left := o.Callers; left > 0; left -= 8 {
		part := o
		part.Callers = min(left, 8)
		orders = append(orders, part)
	}
	return orders
}
