package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tokend/client"
)

// A watcher is a client that watches all profiles all the time.
type watcher struct {
	cancel context.CancelFunc
	done   chan struct{}
	got    []watched
	err    error // besides the context's
}

// A watched is what came by the watch. Without a fingerprint it is a problem.
type watched struct {
	at                   time.Time
	profile, fingerprint string
	expires              time.Time
	reason               string
}

// startWatch returns once there is a first token of each profile.
func startWatch(ctx context.Context, c *client.Client, profiles []string) (*watcher, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel, done: make(chan struct{})}
	var requests []client.TokenRequest
	for _, p := range profiles {
		requests = append(requests, client.TokenRequest{Profile: p})
	}
	begun := make(chan struct{})
	go func() {
		defer close(w.done)
		first := begun
		missing := make(map[string]bool)
		for _, p := range profiles {
			missing[p] = true
		}
		for change, err := range c.Watch(ctx, requests...) {
			if err != nil {
				if ctx.Err() == nil {
					w.err = err
				}
				return
			}
			one := watched{at: time.Now(), profile: change.Profile}
			var refused *client.Error
			switch {
			case change.Token != nil:
				one.fingerprint, one.expires = change.Token.Fingerprint, change.Token.ExpiresAt
				if delete(missing, change.Profile); first != nil && len(missing) == 0 {
					close(first)
					first = nil
				}
			case errors.As(change.Err, &refused):
				one.reason = refused.Reason.String()
			default:
				one.reason = change.Err.Error()
			}
			w.got = append(w.got, one)
		}
	}()
	select {
	case <-begun:
		return w, nil
	case <-w.done:
		return nil, fmt.Errorf("watching: %w", w.err)
	case <-time.After(30 * time.Second):
		cancel()
		<-w.done
		return nil, errors.New("watching: not all tokens came within 30 s")
	}
}

// ended returns what came, once the watch has been ended.
func (w *watcher) ended() ([]watched, error) {
	w.cancel()
	<-w.done
	return w.got, w.err
}
