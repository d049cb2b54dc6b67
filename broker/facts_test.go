package broker

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"tokend/store"
)

// withText is a broker with a text that is trusted.
func withText(t *testing.T) (*Broker, textKey) {
	t.Helper()
	dir := t.TempDir()
	id, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	profiles, err := store.OpenAge(filepath.Join(dir, "profiles"), nil)
	if err != nil {
		t.Fatal(err)
	}
	profiles.Unlock(id)
	version, err := profiles.Put(t.Context(), "a", []byte("OAUTH2_TOKEN_URL=https://as.example/token\nCLIENT_ID=c\nCLIENT_SECRET=s\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	b := New(Config{
		Profiles: profiles,
		Sessions: profiles,
		Log:      slog.New(slog.DiscardHandler),
		Trusted:  func(string, []byte) (bool, error) { return true, nil },
		Now:      func() time.Duration { return time.Hour },
	})
	t.Cleanup(b.Close)
	return b, textKey{"a", version}
}

// Who finds nothing known of a text may come to load it when somebody else just
// has. All must have the same facts, or each would fetch a token of its own.
func TestFactsAreThereOnce(t *testing.T) {
	t.Parallel()
	b, text := withText(t)
	first, err := b.load(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := b.load(t.Context(), text); err != nil || second != first {
		t.Errorf("loaded twice: %v", err)
	}
}

// What a caller found may be forgotten before the fetch begins that it asked for.
func TestFetchOfWhatWasForgotten(t *testing.T) {
	t.Parallel()
	b, text := withText(t)
	f, err := b.load(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	b.Forget(text.profile)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // before anything is sent
	if _, err := b.fetch(ctx, f, f.key(), time.Minute, false); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
