package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// unread is a keyring that fails to read, by err, and counts what it was asked for.
type unread struct {
	*memory
	err   error
	asked int
}

func (u *unread) Get(ctx context.Context, account string) ([]byte, error) {
	u.asked++
	if u.err != nil {
		return nil, u.err
	}
	return u.memory.Get(ctx, account)
}

func (u *unread) Set(ctx context.Context, account string, secret []byte) error {
	u.asked++
	return u.memory.Set(ctx, account, secret)
}

// What cannot be looked at is neither written nor said to be replaced, and who imports
// waits for the keyring once. What another program has spoilt is still replaced.
func TestImportOfWhatTheKeyringDoesNotShow(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	id, file, err := store.MakeIdentity(ctx, dir, false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	items := &unread{memory: &memory{items: make(map[string][]byte)}}
	keyring, err := store.OpenKeyring(filepath.Join(dir, "keyring"), items)
	if err != nil {
		t.Fatal(err)
	}
	keyring.Unlock(id)
	put(t, keyring, "a", "X=old\n")
	version, err := keyring.Stat(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{settings: &settings.Settings{}, trust: newTrust(filepath.Join(dir, "trusted"), false), profiles: keyring, openState: openState{file: file, identity: id}}
	d.trust.setKey(id.Derive("x"))
	s := &profiles{d: d}

	items.err = &store.KeyringError{Cause: store.KeyringFailed, Err: errors.New("no answer within 2s")}
	for _, replaces := range []store.Version{"", version} {
		for _, dryRun := range []bool{true, false} {
			items.asked = 0
			_, err := s.ImportProfile(ctx, &tokendv1.ImportProfileRequest{Name: "a", Content: []byte("X=new\n"), Replaces: string(replaces), DryRun: dryRun})
			if p := problem("a", err); p.GetReason() != tokendv1.Reason_REASON_STORE_UNAVAILABLE || items.asked != 1 {
				t.Errorf("replaces %q, dry run %v: %v, and the keyring was asked %d times", replaces, dryRun, p, items.asked)
			}
		}
	}
	if now, err := keyring.Stat(ctx, "a"); err != nil || now != version {
		t.Errorf("it was replaced: %v", err)
	}

	items.err = store.ErrNotExist // deleted by another program
	resp, err := s.ImportProfile(ctx, &tokendv1.ImportProfileRequest{Name: "a", Content: []byte("X=new\n"), Replaces: string(version), DryRun: true})
	if err != nil || resp.GetUnchanged() {
		t.Errorf("%v, %v, want that it can be replaced", resp, err)
	}
}
