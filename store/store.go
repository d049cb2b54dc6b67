// Package store keeps named secrets at rest. Bytes go in and bytes come out:
// it does not know what they mean.
package store

import (
	"context"
	"errors"
	"fmt"
)

// Version is the state of a secret as it is stored, to compare and nothing
// else. The empty Version means that nothing is stored under that name.
type Version string

// Entry is a stored secret's name. Its Version is empty where the store
// refuses to read what lies under the name; Stat says why.
type Entry struct {
	Name    string
	Version Version
}

// Store holds secrets under names that CheckName accepts; any other name is a
// *NameError. All methods may be called concurrently, and what Put and Delete
// compare and change is one step to every caller of the same Store. A context
// that ends before a change has taken place leaves things as they were.
//
// An error other than the documented ones means that it is not known whether
// the secret exists: it is never to be taken as ErrNotExist.
type Store interface {
	// Stat returns the version under name, or "" where nothing is. It is
	// cheap and decrypts nothing, so it works on a locked store as well.
	Stat(ctx context.Context, name string) (Version, error)

	// Get returns the secret and its version. Errors: ErrNotExist, ErrLocked,
	// *CollisionError, and beside a version *SealedError.
	Get(ctx context.Context, name string) ([]byte, Version, error)

	// Put stores data in place of the version replaces, "" for a name that
	// must not exist yet, and returns the new version. A nil error means that
	// it is durable; after any error the old bytes are still there. Errors:
	// ErrConflict, ErrLocked, *CollisionError, *UntrustedError, *RecipientsError.
	Put(ctx context.Context, name string, data []byte, replaces Version) (Version, error)

	// Delete removes the given version. A nil error means that it is gone for
	// good. Errors: ErrNotExist, ErrConflict, *CollisionError.
	Delete(ctx context.Context, name string, version Version) error

	// List returns what is stored, sorted by name.
	List(ctx context.Context) ([]Entry, error)
}

var (
	// ErrNotExist means that nothing is stored under the name.
	ErrNotExist = errors.New("does not exist")

	// ErrConflict means that what is stored is not the version that was to be
	// replaced or deleted.
	ErrConflict = errors.New("was changed in the meantime")

	// ErrLocked means that the store has no key for what was asked.
	ErrLocked = errors.New("store is locked")
)

// A SealedError means that the bytes are there and cannot be opened: they are
// somebody else's, or damaged.
type SealedError struct {
	File string
	Err  error
}

func (e *SealedError) Error() string { return fmt.Sprintf("decrypting %q: %v", e.File, e.Err) }
func (e *SealedError) Unwrap() error { return e.Err }
