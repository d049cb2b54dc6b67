package daemon

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/status"

	"tokend/store"
)

// memory is a keyring that cannot fail.
type memory struct {
	mu    sync.Mutex
	items map[string][]byte
}

func (m *memory) Get(_ context.Context, account string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	secret, ok := m.items[account]
	if !ok {
		return nil, store.ErrNotExist
	}
	return append([]byte(nil), secret...), nil
}

func (m *memory) Set(_ context.Context, account string, secret []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items[account] = append([]byte(nil), secret...)
	return nil
}

func (m *memory) Delete(_ context.Context, account string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.items, account)
	return nil
}

// meddled is a store in which somebody does something each time just before a
// text is deleted.
type meddled struct {
	profileStore
	before func(name string)
}

func (s *meddled) Delete(ctx context.Context, name string, version store.Version) error {
	s.before(name)
	return s.profileStore.Delete(ctx, name, version)
}

// stores are the two kinds, open, with texts in the first.
type stores struct {
	from, to profileStore
	m        migration
}

func newStores(t *testing.T, toKeyring bool, texts map[string]string) *stores {
	t.Helper()
	dir := t.TempDir()
	id, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	files, err := store.OpenAge(filepath.Join(dir, "profiles"), func(string, []byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := store.OpenKeyring(filepath.Join(dir, "keyring"), &memory{items: make(map[string][]byte)})
	if err != nil {
		t.Fatal(err)
	}
	s := &stores{from: keyring, to: files}
	if toKeyring {
		s.from, s.to = files, keyring
	}
	s.from.Unlock(id)
	s.to.Unlock(id)
	for name, text := range texts {
		put(t, s.from, name, text)
	}
	s.m = migration{from: s.from, to: s.to, copies: make(map[string]migrated)}
	return s
}

// put makes text what is under name, whatever was.
func put(t *testing.T, s profileStore, name, text string) {
	t.Helper()
	version, err := s.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), name, []byte(text), version); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s profileStore, name string) {
	t.Helper()
	version, err := s.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), name, version); err != nil {
		t.Fatal(err)
	}
}

// holds says what is in a store.
func holds(t *testing.T, s profileStore) map[string]string {
	t.Helper()
	entries, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, e := range entries {
		data, _, err := s.Get(t.Context(), e.Name)
		if err != nil {
			t.Fatal(err)
		}
		texts[e.Name] = string(data)
	}
	return texts
}

func (s *stores) want(t *testing.T, from, to map[string]string) {
	t.Helper()
	if diff := cmp.Diff(from, holds(t, s.from)); diff != "" {
		t.Errorf("the old store: %s", diff)
	}
	if diff := cmp.Diff(to, holds(t, s.to)); diff != "" {
		t.Errorf("the new store: %s", diff)
	}
}

var nothing = map[string]string{}

func quietly(string, int, int) error { return nil }

func TestMigration(t *testing.T) {
	for _, toKeyring := range []bool{true, false} {
		texts := map[string]string{"a": "A=1\n", "dev/b": "B=2", "dev/deep/c": "C='x\ny'\n"}
		s := newStores(t, toKeyring, texts)
		var order []string
		if err := s.m.copyAll(t.Context(), func(name string, done, total int) error {
			if order = append(order, name); done != len(order) || total != 3 {
				t.Errorf("%d of %d, want %d of 3", done, total, len(order))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a", "dev/b", "dev/deep/c"}, order); diff != "" {
			t.Error(diff)
		}
		s.want(t, texts, texts)
		if err := s.m.deleteAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.want(t, nothing, texts)
	}
}

func TestMigrationOfWhatChanges(t *testing.T) {
	texts := map[string]string{"a": "A=1", "b": "B=1", "c": "C=1", "d": "D=1"}
	s := newStores(t, true, texts)
	if err := s.m.copyAll(t.Context(), quietly); err != nil {
		t.Fatal(err)
	}
	put(t, s.from, "a", "A=2")  // after it was copied
	put(t, s.from, "e", "E=1")  // new
	remove(t, s.from, "d")      // gone
	changed := map[string]int{} // at the very last moment
	s.m.from = &meddled{s.from, func(name string) {
		switch changed[name]++; {
		case name == "b" && changed[name] < 3:
			put(t, s.from, "b", "B="+string(rune('1'+changed[name])))
		case name == "c" && changed[name] == 1:
			remove(t, s.from, "c")
			put(t, s.from, "late", "L=1")
		}
	}}
	if err := s.m.deleteAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.want(t, nothing, map[string]string{"a": "A=2", "b": "B=3", "e": "E=1", "late": "L=1"})
}

// Somebody who writes for ever is not waited for, and nothing is lost.
func TestMigrationOfWhatNeverRests(t *testing.T) {
	s := newStores(t, true, map[string]string{"a": "A="})
	if err := s.m.copyAll(t.Context(), quietly); err != nil {
		t.Fatal(err)
	}
	text := "A="
	s.m.from = &meddled{s.from, func(name string) {
		text += "1"
		put(t, s.from, name, text)
	}}
	err := s.m.deleteAll(t.Context())
	if p := problem("", err); p.GetReason().String() != "REASON_VERSION_CHANGED" {
		t.Fatalf("%v", err)
	}
	s.want(t, map[string]string{"a": text}, map[string]string{"a": text})
}

// Ended anywhere, it goes on where it was.
func TestMigrationInterrupted(t *testing.T) {
	texts := map[string]string{"a": "A=1", "b": "B=1", "c": "C=1"}
	for stop := range 7 {
		s := newStores(t, true, texts)
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		step := func() {
			if steps++; steps > stop {
				cancel()
			}
		}
		err := s.m.copyAll(ctx, func(string, int, int) error { step(); return nil })
		if err == nil {
			s.m.from = &meddled{s.from, func(string) { step() }}
			err = s.m.deleteAll(ctx)
		}
		cancel()
		if (err == nil) != (stop == 6) {
			t.Fatalf("stopped after %d steps: %v", stop, err)
		}
		all := holds(t, s.to)
		maps.Copy(all, holds(t, s.from))
		if diff := cmp.Diff(texts, all); diff != "" {
			t.Errorf("stopped after %d steps: %s", stop, diff)
		}
		m := migration{from: s.from, to: s.to, copies: make(map[string]migrated)}
		if err := errors.Join(m.copyAll(t.Context(), quietly), m.deleteAll(t.Context())); err != nil {
			t.Fatal(err)
		}
		s.want(t, nothing, texts)
	}
}

// What stands in the other store already is somebody's.
func TestMigrationOntoAnother(t *testing.T) {
	texts := map[string]string{"a": "A=1", "b": "B=1"}
	s := newStores(t, false, texts)
	put(t, s.to, "b", "B=other")
	err := s.m.copyAll(t.Context(), quietly)
	if p := problem("", err); p.GetReason().String() != "REASON_ALREADY_EXISTS" || status.Convert(err).Message() != "another text stands under that name in the other store; delete one of the two" {
		t.Errorf("%v", err)
	}
	s.want(t, texts, map[string]string{"a": "A=1", "b": "B=other"})
	// The same text is nobody's loss.
	put(t, s.to, "b", "B=1")
	if err := errors.Join(s.m.copyAll(t.Context(), quietly), s.m.deleteAll(t.Context())); err != nil {
		t.Fatal(err)
	}
	s.want(t, nothing, texts)
}

// lying is a store that does not keep what it is given.
type lying struct{ profileStore }

func (s lying) Put(ctx context.Context, name string, data []byte, replaces store.Version) (store.Version, error) {
	return s.profileStore.Put(ctx, name, data[:len(data)-1], replaces)
}

func TestMigrationIsReadBack(t *testing.T) {
	texts := map[string]string{"a": "A=1"}
	s := newStores(t, true, texts)
	s.m.to = lying{s.to}
	err := s.m.copyAll(t.Context(), quietly)
	if status.Convert(err).Message() != "reading it back from the other store: it is not what was written" {
		t.Errorf("%v", err)
	}
	s.want(t, texts, map[string]string{"a": "A="})
}
