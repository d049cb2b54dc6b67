// Command soak keeps the tokens of twenty profiles of four providers that fail
// every few seconds, with a daemon as it is shipped, and judges afterwards
// whether anybody has got a dead token, was stalled by a renewal, or got none
// where one could be had, and whether the daemon has grown. It prints what it has
// seen, and ends with exit status 1 if a promise was broken.
//
// It works in a temporary folder and needs bin/tokend: `make soak` builds that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"tokend/client"
)

// options say what a run is like.
type options struct {
	long   time.Duration
	life   time.Duration // of access tokens, in whole seconds
	rate   int           // calls a second, by all callers together
	tokend string
	log    string // a file for the daemon's log, or ""
}

func main() {
	// This program is also the processes that call.
	if len(os.Args) == 2 && os.Args[1] == callerArg {
		exit(call(os.Stdin, os.Stdout))
	}
	var o options
	flag.DurationVar(&o.long, "for", 10*time.Minute, "how long the providers fail")
	flag.DurationVar(&o.life, "life", time.Minute, "life of the tokens, in whole seconds")
	flag.IntVar(&o.rate, "rate", 50, "calls a second")
	flag.StringVar(&o.tokend, "tokend", "bin/tokend", "the daemon's `program`")
	flag.StringVar(&o.log, "log", "", "`file` to keep the daemon's log in")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	broken, err := run(ctx, o, os.Stdout)
	if err == nil && broken > 0 {
		err = fmt.Errorf("%d promises were broken", broken)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run returns how many promises were broken.
func run(ctx context.Context, o options, out io.Writer) (broken int, err error) {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if o.tokend, err = filepath.Abs(o.tokend); err != nil {
		return 0, err
	}
	providers, err := startProviders(o.life)
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, p := range providers {
			p.close()
		}
	}()
	d, err := startDaemon(ctx, o.tokend, dir, providers)
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = d.stop()
		if o.log != "" {
			err = errors.Join(err, os.WriteFile(o.log, d.log.Bytes(), 0o600))
		}
	}()
	seen, err := observe(ctx, o, d, providers)
	if err != nil {
		return 0, err
	}
	if err := d.stop(); err != nil {
		return 0, fmt.Errorf("the daemon: %w", err)
	}
	v := judge(seen)
	return len(v.broken), errors.Join(v.print(out, o, seen))
}

// observe lets callers call while the providers fail, and returns what happened.
func observe(ctx context.Context, o options, d *daemon, providers []*provider) (*seen, error) {
	s := &seen{life: o.life, providers: make(map[string]*provided)}
	var names []string
	for _, p := range providers {
		for _, profile := range p.profiles {
			names = append(names, profile)
			if _, err := d.client.Token(ctx, client.TokenRequest{Profile: profile}); err != nil {
				return nil, fmt.Errorf("%s: %w", profile, err)
			}
		}
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	w, err := startWatch(watching, d.client, names)
	if err != nil {
		return nil, err
	}
	if s.before, err = d.calmest(ctx); err != nil {
		return nil, err
	}

	s.begin = time.Now()
	failing, stopFailing := context.WithTimeout(ctx, o.long)
	defer stopFailing()
	var all errgroup.Group
	var mu sync.Mutex // guards what is appended to s
	yardstick := names[len(names)-1]
	for _, p := range providers {
		if p.calm {
			continue
		}
		all.Go(func() error { p.fail(failing); return nil })
		all.Go(func() error {
			calls, slow, err := d.callersOf(failing, p, o.rate*len(p.profiles)/(len(names)-1), yardstick)
			mu.Lock()
			defer mu.Unlock()
			s.calls, s.slow = append(s.calls, calls...), append(s.slow, slow...)
			return err
		})
	}
	all.Go(func() (err error) {
		s.samples, err = d.sample(failing, max(time.Second, o.long/200))
		return err
	})
	if err := all.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.end = time.Now()
	if s.after, err = d.settled(ctx, s.before); err != nil {
		return nil, err
	}
	stopWatching()
	if s.watched, err = w.ended(); err != nil {
		return nil, err
	}
	for _, p := range providers {
		s.providers[p.name] = p.seen()
	}
	return s, nil
}

// asRoot is a command run by root: what the daemon does not let its user look
// at.
func asRoot(ctx context.Context, argv ...string) *exec.Cmd {
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}
