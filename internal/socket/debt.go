package socket

import (
	"sync"
	"time"
)

// What a process has the daemon do is set down to it as a time that it owes, and
// pays as time passes. A call that is served takes off more than it costs, so that
// only those owe much whose connections, bytes and calls come to nothing. Who owes
// more than maxCredit has to wait: nothing more is read from it, and it gets no new
// connection. What it does costs the others no more than that.
const (
	connectionCost = 10 * time.Millisecond
	readCost       = 2 * time.Millisecond // for each 4 KiB, or less
	wastedCost     = 10 * time.Millisecond
	servedWorth    = 25 * time.Millisecond

	maxCredit = 2 * time.Second
	maxDebt   = 4 * time.Second

	readOwing = 1 << 10 // bytes
)

// costOf is what n bytes cost that have been read at once.
func costOf(n int) time.Duration { return readCost * time.Duration(1+(n-1)>>12) }

// debt is what a process owes.
type debt struct {
	mu   sync.Mutex
	paid time.Time // when nothing is owed any more
}

// owe adds to the debt, or with a negative cost takes from it.
func (d *debt) owe(cost time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(time.Now(), cost)
}

// tryOwe is owe for who has credit. Otherwise it returns how long it is until then.
func (d *debt) tryOwe(cost time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if wait := d.paid.Sub(now.Add(maxCredit)); wait > 0 {
		return wait
	}
	d.add(now, cost)
	return 0
}

// add is owe. The caller holds mu.
func (d *debt) add(now time.Time, cost time.Duration) {
	if d.paid.Before(now) {
		d.paid = now
	}
	d.paid = d.paid.Add(cost)
	if most := now.Add(maxDebt); d.paid.After(most) {
		d.paid = most
	}
}

// left returns how long it is until nothing is owed.
func (d *debt) left() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(0, time.Until(d.paid))
}
