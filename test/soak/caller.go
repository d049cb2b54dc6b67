package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"

	"tokend/client"
)

// callerArg makes this program a process of callers.
const callerArg = "callers"

// order is what a process of callers is to do, until its standard input ends.
type order struct {
	Socket, Dir string
	Profiles    []string
	Interval    time.Duration // between two calls for a profile
	Resource    string
	Yardstick   string // a profile whose provider never fails
}

// A line is what a process of callers writes: one of these.
type line struct {
	Called *called `json:",omitempty"`
	Slow   *span   `json:",omitempty"`
}

// A called is one call for a token, and what the resource said of that token.
type called struct {
	Profile     string
	Begin, End  time.Time
	Fingerprint string        // empty: there was none, and Reason says why
	Expires     time.Time     // of the token
	Left        time.Duration // of the token's life when it was handed out
	Lifetime    time.Duration // of the token
	Reason      string
	Message     string
	Status      int       // the resource's answer
	Presented   time.Time // when that answer had come
	Challenge   string
}

// call reads an order and writes a line for each call.
func call(in io.Reader, out io.Writer) error {
	var o order
	d := json.NewDecoder(in)
	if err := d.Decode(&o); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		stop()
	}()
	c := client.Client{Socket: o.Socket, Dir: o.Dir}
	resource := http.Client{Timeout: 10 * time.Second}
	var mu sync.Mutex // guards lines
	lines := json.NewEncoder(out)
	write := func(l line) {
		mu.Lock()
		defer mu.Unlock()
		if lines.Encode(l) != nil {
			stop()
		}
	}
	var all sync.WaitGroup
	all.Go(func() { yardstick(ctx, &c, o.Yardstick, func(s span) { write(line{Slow: &s}) }) })
	for _, profile := range o.Profiles {
		all.Go(func() {
			pause(ctx, rand.N(o.Interval))
			tick := time.NewTicker(o.Interval)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				one := callOnce(&c, &resource, profile, o.Resource)
				write(line{Called: &one})
			}
		})
	}
	all.Wait()
	return nil
}

// yardstick asks all the time for a token whose provider never fails, and tells
// when that takes long: then it is the machine.
func yardstick(ctx context.Context, c *client.Client, profile string, tell func(span)) {
	for ctx.Err() == nil {
		begin := time.Now()
		if _, err := c.Token(ctx, client.TokenRequest{Profile: profile}); err == nil && time.Since(begin) > stall/3 {
			tell(span{begin, time.Now()})
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func callOnce(c *client.Client, resource *http.Client, profile, address string) called {
	one := called{Profile: profile, Begin: time.Now()}
	t, err := c.Token(context.Background(), client.TokenRequest{Profile: profile})
	one.End = time.Now()
	if err != nil {
		one.Reason, one.Message = "no reason", err.Error()
		var refused *client.Error
		if errors.As(err, &refused) {
			one.Reason = refused.Reason.String()
		}
		return one
	}
	one.Fingerprint, one.Expires, one.Left, one.Lifetime = t.Fingerprint, t.ExpiresAt, t.ExpiresIn, t.Lifetime
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		one.Message = err.Error()
		return one
	}
	req.Header.Set("Authorization", t.Header())
	resp, err := resource.Do(req)
	one.Presented = time.Now()
	if err != nil {
		one.Message = err.Error()
		return one
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	one.Status, one.Challenge = resp.StatusCode, resp.Header.Get("WWW-Authenticate")
	return one
}

// callersOf runs a process of callers of a provider's profiles until ctx ends,
// and returns their calls, and when the machine was slow.
func (d *daemon) callersOf(ctx context.Context, p *provider, rate int, yardstick string) (calls []called, slow []span, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	o, err := json.Marshal(order{d.client.Socket, d.client.Dir, p.profiles, time.Second * time.Duration(len(p.profiles)) / time.Duration(max(1, rate)), p.server.ResourceURL, yardstick})
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self, callerArg)
	cmd.Env = d.env
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	_, err = in.Write(append(o, '\n'))
	stop := context.AfterFunc(ctx, func() { in.Close() })
	defer stop()
	for lines := json.NewDecoder(out); err == nil; {
		var l line
		err = lines.Decode(&l)
		if l.Called != nil {
			calls = append(calls, *l.Called)
		}
		if l.Slow != nil {
			slow = append(slow, *l.Slow)
		}
	}
	in.Close()
	if wait := cmd.Wait(); err == io.EOF {
		err = wait
	}
	if err == nil && ctx.Err() == nil {
		err = errors.New("they ended by themselves")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the callers of %s: %w", p.name, err)
	}
	return calls, slow, nil
}
