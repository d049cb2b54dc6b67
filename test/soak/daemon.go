package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"tokend/client"
	"tokend/client/api"
	"tokend/store"
)

// daemon is a tokend with a store of its own.
type daemon struct {
	client *client.Client
	env    []string // of it and of its clients
	cmd    *exec.Cmd
	log    *bytes.Buffer
	stop   func() error
}

// startDaemon returns when the daemon listens, with all profiles of the providers.
func startDaemon(ctx context.Context, program, dir string, providers []*provider) (*daemon, error) {
	d := &daemon{client: &client.Client{Dir: dir, Socket: filepath.Join(dir, "run", "s")}, log: new(bytes.Buffer)}
	d.env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TOKEND_TRUST=all", "TOKEND_DIR=" + dir, "TOKEND_SOCKET=" + d.client.Socket}
	identity, _, err := store.MakeIdentity(ctx, dir, false, store.Protection{}, store.Means{})
	if err != nil {
		return nil, err
	}
	s, err := store.OpenAge(filepath.Join(dir, "profiles"), func(string, []byte) bool { return true })
	if err != nil {
		return nil, err
	}
	s.Unlock(identity)
	for _, p := range providers {
		for _, profile := range p.profiles {
			if _, err := s.Put(ctx, profile, []byte(p.texts[profile]), ""); err != nil {
				return nil, err
			}
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d.cmd = exec.CommandContext(ctx, program, "--ready-fd", "3")
	d.cmd.Env, d.cmd.Stderr = d.env, d.log
	d.cmd.ExtraFiles = []*os.File{w}
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.WaitDelay = 10 * time.Second
	err = d.cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	d.stop = sync.OnceValue(func() error {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("%w\n%s", err, d.log)
		}
		return d.cmd.Wait()
	})
	line, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(line), "ready ") {
		_ = d.stop()
		return nil, fmt.Errorf("starting tokend: %s%s", line, d.log)
	}
	return d, nil
}

// A size is how much the daemon has of what may leak.
type size struct {
	at          time.Time
	descriptors int
	goroutines  int
	resident    int // KiB
}

func (s size) String() string {
	return fmt.Sprintf("%d file descriptors, %d goroutines, %d KiB", s.descriptors, s.goroutines, s.resident)
}

func (d *daemon) size(ctx context.Context) (size, error) {
	s := size{at: time.Now()}
	proc := filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid))
	// As root: the daemon does not let its user look into it.
	open, err := asRoot(ctx, "ls", filepath.Join(proc, "fd")).Output()
	if err != nil {
		return s, fmt.Errorf("counting file descriptors: %w", err)
	}
	s.descriptors = strings.Count(string(open), "\n")
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return s, err
	}
	_, rest, _ := strings.Cut(string(text), "\nVmRSS:")
	if _, err := fmt.Sscan(rest, &s.resident); err != nil {
		return s, fmt.Errorf("reading VmRSS: %w", err)
	}
	var status api.GetStatusResponse
	err = d.client.Call(ctx, api.MethodGetStatus, &api.GetStatusRequest{}, &status)
	s.goroutines = int(status.Goroutines)
	return s, err
}

// sample measures from time to time until ctx ends.
func (d *daemon) sample(ctx context.Context, every time.Duration) ([]size, error) {
	var all []size
	end, ends := ctx.Deadline()
	for {
		s, err := d.size(ctx)
		switch {
		case ctx.Err() != nil, ends && time.Until(end) < 100*time.Millisecond: // a call's deadline is a little earlier
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, s)
		pause(ctx, every)
	}
}

// calmest measures for two seconds, and returns the least of each.
func (d *daemon) calmest(ctx context.Context) (size, error) {
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	all, err := d.sample(limited, 100*time.Millisecond)
	if err != nil {
		return size{}, err
	}
	if len(all) == 0 {
		return size{}, errors.New("the daemon cannot be measured")
	}
	least := all[0]
	for _, s := range all[1:] {
		least.descriptors = min(least.descriptors, s.descriptors)
		least.goroutines = min(least.goroutines, s.goroutines)
		least.resident = min(least.resident, s.resident)
	}
	return least, nil
}

// settled is calmest, once what is still under way has ended: that is bounded by
// 30 s.
func (d *daemon) settled(ctx context.Context, before size) (size, error) {
	for begin := time.Now(); ; {
		s, err := d.calmest(ctx)
		if err != nil || !s.hasGrown(before) || time.Since(begin) > 35*time.Second {
			return s, err
		}
	}
}

// What may be otherwise than before without being a leak.
const (
	someDescriptors = 4
	someGoroutines  = 8
	someResident    = 8 << 10 // KiB
)

func (s size) hasGrown(since size) bool {
	return s.descriptors > since.descriptors+someDescriptors || s.goroutines > since.goroutines+someGoroutines || s.resident > since.resident+someResident
}

// slope is by how much a size has grown in an hour, by least squares over the
// later three quarters of the samples.
func slope(samples []size, of func(size) int) float64 {
	samples = samples[len(samples)/4:]
	if len(samples) < 2 {
		return 0
	}
	var sx, sy, sxx, sxy float64
	for _, s := range samples {
		x, y := s.at.Sub(samples[0].at).Hours(), float64(of(s))
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(samples))
	if d := n*sxx - sx*sx; d > 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

func largest(samples []size, of func(size) int) int {
	most := 0
	for _, s := range samples {
		most = max(most, of(s))
	}
	return most
}
