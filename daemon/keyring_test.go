package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// keeping is a keyring that deletes nothing.
type keeping struct{ *memory }

func (keeping) Delete(context.Context, string) error { return errKeeps }

var errKeeps = &store.KeyringError{Cause: store.KeyringFailed, Err: errors.New("the keyring hangs")}

// newMover is a daemon with a profile a that has a session, in the store that in makes.
func newMover(t *testing.T, in func(*Daemon) profileStore) *Daemon {
	t.Helper()
	d := newQuiet(t, func(dir string) {
		if _, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{}, store.Means{}); err != nil {
			t.Fatal(err)
		}
	})
	d.profiles = in(d)
	put(t, d.profiles, "a", "A=b\n")
	if _, err := d.sessions.Put(t.Context(), "a", []byte(`{"record":1,"profile":"a","ended":"x"}`), ""); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *Daemon) wantSession(t *testing.T, name string) {
	t.Helper()
	list, err := d.sessions.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != name {
		t.Errorf("sessions: %v, %v; want that of %s", list, err, name)
	}
}

var aToB = &tokendv1.MoveProfileRequest{Name: "a", NewName: "b"}

// Once the old name is gone, its item is all that may be left of it: the session is
// under the new one.
func TestMoveWhereTheKeyringKeepsTheItem(t *testing.T) {
	d := newMover(t, func(d *Daemon) profileStore {
		k, err := store.OpenKeyring(filepath.Join(t.TempDir(), "keyring"), keeping{&memory{items: make(map[string][]byte)}})
		if err != nil {
			t.Fatal(err)
		}
		k.Unlock(d.identity)
		return k
	})
	if _, err := (&profiles{d: d}).MoveProfile(t.Context(), aToB); err != nil {
		t.Error(err)
	}
	if got := holds(t, d.profiles); len(got) != 1 || got["b"] != "A=b\n" {
		t.Errorf("profiles: %q", got)
	}
	d.wantSession(t, "b")
}

// undeletable is a store that deletes nothing, or one name alone, and says err.
type undeletable struct {
	profileStore
	but string
	err error
}

func (s undeletable) Delete(ctx context.Context, name string, version store.Version) error {
	if name == s.but {
		return s.profileStore.Delete(ctx, name, version)
	}
	return s.err
}

// Where the old name stays, what is said is one plain line, and the session goes back.
func TestMoveWhereTheOldNameStays(t *testing.T) {
	for _, test := range []struct {
		but  string
		err  error
		code codes.Code
		want string
	}{
		{"", errKeeps, codes.Unavailable, "it now stands under both names; deleting the old one: the keyring hangs"},
		{"", store.ErrConflict, codes.Unavailable, "it now stands under both names; deleting the old one: was changed in the meantime"},
		{"b", store.ErrConflict, codes.Aborted, "it was changed by somebody else meanwhile; nothing was written"},
	} {
		d := newMover(t, func(d *Daemon) profileStore { return undeletable{d.profiles, test.but, test.err} })
		_, err := (&profiles{d: d}).MoveProfile(t.Context(), aToB)
		if s := status.Convert(err); s.Code() != test.code || s.Message() != test.want {
			t.Errorf("error is %v, want %q", err, test.want)
		}
		got := holds(t, d.profiles)
		if stays := len(got) == 2; got["a"] != "A=b\n" || stays != strings.Contains(test.want, "both") {
			t.Errorf("profiles: %q", got)
		}
		d.wantSession(t, "a")
	}
}
