package broker_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokend/broker"
	"tokend/store"
)

// slowStore is a store whose first reading takes until it is let go on.
type slowStore struct {
	store.Store
	begun       atomic.Bool
	reading, on chan struct{}
}

func (s *slowStore) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	if !s.begun.Swap(true) {
		close(s.reading)
		<-s.on
	}
	return s.Store.Get(ctx, name)
}

// Who comes after a drop has nothing to do with what that has ended.
func TestReadingAfterADrop(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "p", h.interactive())
	h.login(t, "p")
	h.Drop() // so that the text is read before a fetch begins
	slow := &slowStore{Store: h.Profiles, reading: make(chan struct{}), on: make(chan struct{})}
	h.Profiles = slow
	var before sync.WaitGroup
	before.Go(func() { _, _ = h.Token(t.Context(), broker.Request{Profile: "p"}) })
	<-slow.reading
	h.Drop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := h.Token(ctx, broker.Request{Profile: "p"}); err != nil {
		t.Error(err)
	}
	close(slow.on)
	before.Wait()
}
