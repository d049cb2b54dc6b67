package broker

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"tokend/store"
)

const (
	// lookEvery is how often the schedule is looked at whatever is due: timers
	// stand still while the machine is suspended.
	lookEvery = 30 * time.Second
	// retryEvery is how soon a renewal is tried again that could not even begin.
	retryEvery = 10 * time.Second
	// wakeGap is how far the clock that counts suspend must run ahead of the one
	// that does not for the machine to have slept.
	wakeGap = 5 * time.Second
	// jitter is the share of a token's life by which its renewal may come earlier
	// or later, so that tokens made together are not renewed together.
	jitter = 0.05
	// wakeSpread is the time over which renewals are spread after a suspend.
	wakeSpread = 30 * time.Second
)

// schedule is the entries that are to be renewed, the next one first. It is a
// heap, for container/heap.
type schedule []*entry

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due < s[j].due }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i, j
}

func (s *schedule) Push(x any) {
	e := x.(*entry)
	e.place = len(*s)
	*s = append(*s, e)
}

func (s *schedule) Pop() any {
	last := len(*s) - 1
	e := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	e.place = -1
	return e
}

// renewalTime is when m is to be renewed: at that share of its life, a little
// earlier or later, and before callers would have to wait for it.
func (m *made) renewalTime(share float64) time.Duration {
	latest := (m.life - m.least() - m.life/20).Seconds() / m.life.Seconds()
	last := min(share+jitter, latest)
	first := min(share, last) - jitter
	return m.sent + time.Duration((first+rand.Float64()*(last-first))*float64(m.life))
}

// plan puts e's renewal into the schedule, or moves it there. The caller holds mu.
func (b *Broker) plan(e *entry, due time.Duration) {
	e.due = due
	if e.place < 0 {
		heap.Push(&b.schedule, e)
	} else {
		heap.Fix(&b.schedule, e.place)
	}
	if e.place == 0 {
		b.look()
	}
}

// unplan takes e out of the schedule. The caller holds mu.
func (b *Broker) unplan(e *entry) {
	if e.place >= 0 {
		heap.Remove(&b.schedule, e.place)
	}
}

// look has the schedule looked at now. The caller holds mu.
func (b *Broker) look() {
	if !b.renewing && b.ctx.Err() == nil {
		b.renewing = true
		b.keepers.Go(b.renewAll)
	}
	select {
	case b.changed <- struct{}{}:
	default: // it will be looked at anyway
	}
}

// handedOut notes that e's token was asked for, so that it is worth renewing. The
// caller holds mu.
func (b *Broker) handedOut(e *entry) {
	if e.asked || e.token == nil {
		return
	}
	e.asked = true
	if e.token.renewable() {
		b.plan(e, e.due)
	}
}

// renewable says whether another token can follow m while it lives.
func (m *made) renewable() bool { return !m.saved && m.life > 0 }

// renewAll renews what is due, until the Broker is closed.
func (b *Broker) renewAll() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	clock, awake := b.Now(), time.Now()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-timer.C:
		case <-b.changed:
		}
		b.mu.Lock()
		now := b.Now()
		slept := now - clock - time.Since(awake)
		if slept > wakeGap {
			b.woken(now, slept)
		}
		clock, awake = now, time.Now()
		wait := lookEvery
		for len(b.schedule) > 0 {
			e := b.schedule[0]
			if wait = min(wait, e.due-now); wait > 0 {
				break
			}
			b.renewNow(e, now)
			wait = lookEvery
		}
		b.mu.Unlock()
		if slept > wakeGap {
			b.Log.Info("the machine was suspended", "for", slept.Round(time.Second))
		}
		timer.Reset(wait)
	}
}

// renewNow starts the renewal of an entry that is due, or puts it off. The caller
// holds mu.
func (b *Broker) renewNow(e *entry, now time.Duration) {
	b.unplan(e)
	if !e.token.alive(now) {
		return // whoever asks next has it fetched
	}
	if e.failed != nil && now < e.failed.until && !e.failed.same {
		b.plan(e, e.failed.until)
		return
	}
	if later, kept := b.originOf(e.token.party.tokenURL.Value()).pace(now, e.paced); later > 0 {
		e.paced = kept
		b.plan(e, now+later)
		return
	}
	e.paced = false
	k, asked := e.key(), e.sent
	b.keepers.Go(func() {
		// The text may be another one by now, or nobody's.
		f, err := b.factsFor(b.ctx, k.profile)
		if errors.Is(err, store.ErrNotExist) || errors.Is(err, ErrUntrusted) || err == nil && f.textKey != k.textKey {
			return // nobody gets that token any more
		}
		if err == nil {
			_, err = b.fetches.do(b.ctx, b.current(), flightKey{k, f}, func(ctx context.Context) (*made, error) {
				return b.fetch(ctx, f, k, asked, true)
			})
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil && b.tokens[k] == e && e.asked && e.token.alive(b.Now()) && e.place < 0 && b.ctx.Err() == nil {
			b.plan(e, b.Now()+retryEvery)
		}
	})
}

// woken is for after a suspend: nothing of what the network was is known any
// more, and not everything that has become due is to be asked for at once. The
// caller holds mu.
func (b *Broker) woken(now, slept time.Duration) {
	b.event(Event{Kind: Woken, Message: "the machine was suspended for " + slept.Round(time.Second).String()})
	for _, e := range b.tokens {
		if e.failed != nil && isTemporary(e.failed.err) {
			e.failed.until, e.failed.tries = min(e.failed.until, now), 0
		}
	}
	for _, e := range b.schedule {
		if e.due < now+wakeSpread {
			e.due = now + time.Duration(rand.Float64()*float64(wakeSpread))
		}
	}
	heap.Init(&b.schedule)
	b.notifyAll()
}
