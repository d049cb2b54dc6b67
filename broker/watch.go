package broker

import (
	"context"
	"errors"
	"time"

	"tokend/profile"
	"tokend/store"
)

const (
	// watchEvery is how often a watcher looks for what nobody tells the Broker of:
	// files that others have changed.
	watchEvery = 5 * time.Second
	// watchLongest is how long a watcher waits at most where looking costs more
	// than that, and nobody has said when to look again.
	watchLongest = time.Minute
	// watchTrust is how soon a watcher looks again at a text that has become
	// untrusted, which it is for a moment whenever somebody writes it.
	watchTrust = 200 * time.Millisecond
)

// watched is who waits for changes of a profile.
type watched struct {
	changed chan struct{} // closed at the next change
	users   int
}

// notify wakes who watches a profile. The caller holds mu.
func (b *Broker) notify(name string) {
	if w := b.watched[name]; w != nil {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// notifyAll is notify for every profile. The caller holds mu.
func (b *Broker) notifyAll() {
	for name := range b.watched {
		b.notify(name)
	}
}

// Watch calls send with the token that r asks for, and again with each that
// follows it, before the one before it ends. Where there is none, or none to follow
// it, send gets the error that Token gives, with the token where that still lives.
// What has been superseded while send ran is left out. Watch ends with send's error
// or the context's.
func (b *Broker) Watch(ctx context.Context, r Request, send func(Token, error) error) error {
	b.mu.Lock()
	w := b.watched[r.Profile]
	if w == nil {
		w = &watched{changed: make(chan struct{})}
		b.watched[r.Profile] = w
	}
	w.users++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if w.users--; w.users == 0 {
			delete(b.watched, r.Profile)
		}
	}()

	timer := time.NewTimer(0)
	defer timer.Stop()
	var sent Token
	said := ""
	first := true
	distrust := watchTrust
	for patience := watchEvery; ; {
		b.mu.Lock()
		changed := w.changed
		b.mu.Unlock()
		before, _ := b.textNow(ctx, r.Profile)
		t, err := b.Token(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait, hold := watchEvery, false
		switch {
		case err == nil && t.Lifetime == 0:
			// Not to be had again without asking the server each time.
			wait, patience = patience, min(2*patience, watchLongest)
		case err == nil:
			err = t.Err
			wait = min(wait, max(t.Remaining, time.Millisecond))
		case errors.Is(err, ErrUntrusted):
			hold = distrust == watchTrust
			wait, distrust = distrust, min(2*distrust, watchEvery)
		default:
			wait, patience = watchAgain(err, patience)
		}
		if !errors.Is(err, ErrUntrusted) {
			distrust = watchTrust
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		if !hold && (first || t.Access != sent.Access || now != said) {
			if err := send(t, err); err != nil {
				return err
			}
			sent, said, first = t, now, false
		}
		for until := time.Now().Add(wait); ; {
			timer.Reset(min(watchEvery, time.Until(until)))
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
				patience = watchEvery
			case <-timer.C:
				if time.Until(until) > 0 {
					if now, _ := b.textNow(ctx, r.Profile); now == before {
						continue
					}
				}
			}
			break
		}
	}
}

// watchAgain says when to look again where there is no token, and after how long
// the time after that.
func watchAgain(err error, patience time.Duration) (wait, next time.Duration) {
	var refused *RefusedError
	var throttled *ThrottledError
	switch {
	case errors.As(err, &refused) && refused.RetryAfter > 0:
		// Sooner than that a value of a file or a command may have changed.
		return min(refused.RetryAfter, patience), min(2*patience, watchLongest)
	case errors.As(err, &throttled):
		return throttled.RetryAfter, watchEvery
	case errors.Is(err, store.ErrNotExist), errors.Is(err, store.ErrLocked):
		return watchEvery, watchEvery
	case errors.As(err, new(*profile.Mistakes)) && !errors.As(err, new(*valuesError)):
		return watchEvery, watchEvery
	}
	// To find out may run a profile's commands.
	return patience, min(2*patience, watchLongest)
}
