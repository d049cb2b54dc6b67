package httpauth

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// close keeps requests from an origin for as long as its answer asks for, and says
// whether it does (RFC 6585 section 4, RFC 9110 section 10.2.3).
func (t *Transport) close(origin string, resp *http.Response) bool {
	d, ok := retryAfter(resp.Header, time.Now())
	if !ok {
		return false
	}
	until := time.Now().Add(min(max(d, minClosed), maxClosed))
	t.mu.Lock()
	defer t.mu.Unlock()
	if until.After(t.closed[origin]) {
		t.closed = put(t.closed, origin, until)
	}
	return true
}

// wait returns once requests may be sent to an origin, or at once with an error
// where that takes too long.
func (t *Transport) wait(ctx context.Context, origin string) error {
	giveUp := time.Now().Add(maxWait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(giveUp) {
		giveUp = deadline
	}
	for {
		t.mu.Lock()
		until := t.closed[origin]
		t.mu.Unlock()
		left := time.Until(until)
		switch {
		case left <= 0:
			return nil
		case until.After(giveUp):
			return &ThrottledError{origin, until}
		}
		// Not all at once, when it opens.
		timer := time.NewTimer(left + time.Duration(rand.Float64()*float64(min(left/10, time.Second))))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// retryAfter returns how long an answer asks to be left alone for; a date counts
// from the answer's own.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v != "" && strings.Trim(v, "0123456789") == "" {
		n, err := strconv.Atoi(v)
		if err != nil || n > int(maxClosed/time.Second) { // any number of digits
			return maxClosed, true
		}
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return at.Sub(now), true
}

// isIdempotent is of RFC 9110 section 9.2.2; "" is GET.
func isIdempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
