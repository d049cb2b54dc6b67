package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// fill puts n entries into the cache as fetch does, one a second.
func fill(b *Broker, now *time.Duration, n int, e func() *entry) {
	for range n {
		*now += time.Second
		b.sweep()
		b.tokens[key{scopes: fmt.Sprint(*now)}] = e()
	}
}

func TestCacheBounds(t *testing.T) {
	t.Parallel()
	now := time.Hour
	b := New(Config{Now: func() time.Duration { return now }})
	defer b.Close()
	fill(b, &now, maxTokens*5/4, func() *entry {
		return &entry{place: -1, token: &made{sent: now, life: 1000 * time.Hour}, sent: now}
	})
	if n := len(b.tokens); n > maxTokens || n < maxTokens*7/8 {
		t.Errorf("%d tokens are kept, of at most %d", n, maxTokens)
	}
	if b.tokens[key{scopes: fmt.Sprint(now)}] == nil || b.tokens[key{scopes: fmt.Sprint(now - maxTokens/2*time.Second)}] == nil {
		t.Error("new tokens had to go for old ones")
	}
	if b.tokens[key{scopes: fmt.Sprint(time.Hour + time.Second)}] != nil {
		t.Error("the oldest is kept")
	}
}

func TestSweepTakesTheDead(t *testing.T) {
	t.Parallel()
	now := time.Hour
	b := New(Config{Now: func() time.Duration { return now }})
	defer b.Close()
	// These die after 10 s, so the cache never holds many.
	fill(b, &now, 20*firstSweep, func() *entry {
		return &entry{place: -1, token: &made{sent: now, life: 10 * time.Second}, sent: now}
	})
	if n := len(b.tokens); n > firstSweep {
		t.Errorf("%d entries are kept", n)
	}
	// Refusals that are still in force stay, and those that are over go.
	closed := key{scopes: "closed"}
	b.tokens[closed] = &entry{place: -1, sent: now, failed: &failure{err: errors.New("no"), until: now + time.Hour}}
	fill(b, &now, 2*firstSweep, func() *entry {
		return &entry{place: -1, sent: now, failed: &failure{err: errors.New("no"), until: now + time.Second}}
	})
	if b.tokens[closed] == nil {
		t.Error("a refusal in force is forgotten")
	}
	if n := len(b.tokens); n > firstSweep+1 {
		t.Errorf("%d entries are kept", n)
	}
}
