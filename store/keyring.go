package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Keyring is a Store of items in the operating system's keyring. Keyrings
// cannot list, so the names are in an index, an age file in a folder of the
// store's own. It says where the item of each name is, and has a hash of it, so
// that Get returns what Put stored or an error.
//
// Every Put makes a new item, and changes the index once the item is there: a
// crash leaves the old secret or the new one. The index has the accounts of
// items that are to be deleted as well, so that no item is left that nothing
// knows.
//
// Unlike that of Age, a version changes only through this store, and a locked
// Keyring answers ErrLocked to everything. What other programs do to items is
// found by Get alone. Nobody else may call OpenKeyring on the same folder.
type Keyring struct {
	file  *Age
	items Items

	changing   chan struct{} // has one while Put or Delete is at work; taken before mu
	changeTime time.Duration // what a change has, with the wait for others

	mu        sync.RWMutex // guards the fields that follow; never held across I/O
	recipient string       // of the identity; "": locked
	index     *keyringIndex
}

var _ Store = (*Keyring)(nil)

// indexName is what the index is called in the Age store that it is kept in.
const indexName = "index"

// keyringIndex is never changed once others can see it.
type keyringIndex struct {
	ID      string                 `json:"id"` // begins the accounts of all items
	Items   map[string]keyringItem `json:"items"`
	Pending []string               `json:"pending,omitempty"` // accounts of items to be deleted
	Marked  bool                   `json:"marked,omitempty"`  // the keyring knows of this index

	version Version // of the file; "" where there is none yet
	marker  string  // account of the item that says that there is an index
}

type keyringItem struct {
	Version Version `json:"version"` // ends the account
	Hash    []byte  `json:"hash"`    // the first half of the secret's SHA-256
}

// OpenKeyring opens the store whose index is in dir, which it makes with mode
// 0700 where it is missing. The store starts locked.
func OpenKeyring(dir string, items Items) (*Keyring, error) {
	file, err := OpenAge(dir, nil)
	if err != nil {
		return nil, err
	}
	return &Keyring{file: file, items: items, changing: make(chan struct{}, 1), changeTime: changeTime}, nil
}

// changeTime leaves half a second of the 3 s within which a caller is to know that the
// keyring does not answer.
const changeTime = 2500 * time.Millisecond

// sweepTime is how long a Put whose secret is kept may take to clear up: who moves one
// has a Delete to wait for yet.
const sweepTime = 500 * time.Millisecond

// change does one change at a time.
func (k *Keyring) change(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, k.changeTime, &KeyringError{
		Cause: KeyringFailed, Err: fmt.Errorf("the keyring, and what others are writing there, took longer than %v", k.changeTime),
	})
	defer cancel()
	select {
	case k.changing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-k.changing }()
	err := do(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// Unlock lets the index be read and written with id. Whether that can be done is
// found by the calls that need it.
func (k *Keyring) Unlock(id *Identity) {
	k.file.Unlock(id)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.recipient, k.index = id.Recipient(), nil
}

// Lock forgets the identity and the index. It waits for nothing; a Put that has
// begun goes on, and a Get that has begun may still return the secret.
func (k *Keyring) Lock() {
	k.file.Lock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.recipient, k.index = "", nil
}

// Stat implements Store.
func (k *Keyring) Stat(ctx context.Context, name string) (Version, error) {
	index, err := k.current(ctx)
	if err != nil {
		return "", fmt.Errorf("looking up %q: %w", name, err)
	}
	if item, ok := index.Items[name]; ok {
		return item.Version, nil
	}
	return "", CheckName(name)
}

// Get implements Store. That the keyring has lost the item, or has another in
// its place, is an error beside the version.
func (k *Keyring) Get(ctx context.Context, name string) ([]byte, Version, error) {
	if err := CheckName(name); err != nil {
		return nil, "", err
	}
	data, version, err := k.get(ctx, name)
	if err != nil {
		return nil, version, fmt.Errorf("reading %q: %w", name, err)
	}
	return data, version, nil
}

func (k *Keyring) get(ctx context.Context, name string) ([]byte, Version, error) {
	index, err := k.current(ctx)
	if err != nil {
		return nil, "", err
	}
	for {
		item, ok := index.Items[name]
		if !ok {
			return nil, "", ErrNotExist
		}
		account := index.account(name, item.Version)
		data, err := k.items.Get(ctx, account)
		if errors.Is(err, ErrNotExist) {
			again, err := k.current(ctx)
			if err != nil {
				return nil, "", err
			}
			if again.Items[name].Version != item.Version {
				index = again // it was replaced while we looked
				continue
			}
			return nil, item.Version, fmt.Errorf("another program has deleted its item from the keyring, %q of %q", account, keyringService)
		}
		if err != nil {
			return nil, item.Version, err
		}
		if !bytes.Equal(item.Hash, itemHash(data)) {
			clear(data)
			return nil, item.Version, fmt.Errorf("another program has changed its item in the keyring, %q of %q", account, keyringService)
		}
		return data, item.Version, nil
	}
}

// Put implements Store.
func (k *Keyring) Put(ctx context.Context, name string, data []byte, replaces Version) (Version, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	var version Version
	err := k.change(ctx, func(ctx context.Context) (err error) {
		version, err = k.put(ctx, name, data, replaces)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("writing %q: %w", name, err)
	}
	return version, nil
}

// CheckPut says whether Put could write under name, as far as that can be known
// before there is anything to write: the index is in memory, so the keyring itself is
// asked for something, too. Errors are those of Put.
func (k *Keyring) CheckPut(ctx context.Context, name string, replaces Version) error {
	if err := CheckName(name); err != nil {
		return err
	}
	index, err := k.current(ctx)
	if err == nil {
		err = index.check(name, replaces)
	}
	if err == nil {
		err = k.answers(ctx, index.marker)
	}
	if err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	return nil
}

// answers says whether the keyring says something of an account, be it that there is
// none.
func (k *Keyring) answers(ctx context.Context, account string) error {
	data, err := k.items.Get(ctx, account)
	clear(data)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

func (k *Keyring) put(ctx context.Context, name string, data []byte, replaces Version) (Version, error) {
	index, err := k.current(ctx)
	if err != nil {
		return "", err
	}
	if err := index.check(name, replaces); err != nil {
		return "", err
	}
	next := index.clone()
	item := keyringItem{Version(randomID()), itemHash(data)}
	account := next.account(name, item.Version)
	// Before there is an item, so that none is there that nothing knows.
	next.Pending = append(next.Pending, account)
	if next, err = k.save(ctx, next); err != nil {
		return "", err
	}
	if !next.Marked {
		if err := k.items.Set(ctx, next.marker, []byte(next.ID)); err != nil {
			return "", err
		}
	}
	if err := k.items.Set(ctx, account, data); err != nil {
		return "", err
	}
	next = next.clone()
	next.Marked = true
	next.Items[name] = item
	next.Pending = slices.DeleteFunc(next.Pending, func(a string) bool { return a == account })
	if replaces != "" {
		next.Pending = append(next.Pending, next.account(name, replaces))
	}
	if next, err = k.save(ctx, next); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	_ = k.sweep(ctx, next) // tried again by what changes the store next
	return item.Version, nil
}

// Delete implements Store. After an error the name is as it was. Once it is gone
// there is none: an item that the keyring does not delete now goes with the next
// change of the store.
func (k *Keyring) Delete(ctx context.Context, name string, version Version) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := k.change(ctx, func(ctx context.Context) error { return k.delete(ctx, name, version) })
	if err != nil {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	return nil
}

func (k *Keyring) delete(ctx context.Context, name string, version Version) error {
	index, err := k.current(ctx)
	if err != nil {
		return err
	}
	switch err := index.check(name, version); {
	case errors.Is(err, ErrConflict) && index.Items[name].Version == "", err == nil && version == "":
		return ErrNotExist
	case err != nil:
		return err
	}
	account := index.account(name, version)
	// A keyring that is locked or hangs is better found out about now.
	if err := k.answers(ctx, account); err != nil {
		return err
	}
	next := index.clone()
	delete(next.Items, name)
	next.Pending = append(next.Pending, account)
	if next, err = k.save(ctx, next); err != nil {
		return err
	}
	_ = k.sweep(ctx, next) // as in put
	return nil
}

// sweep deletes the items that are to be deleted. Those that it deletes stay in
// the index's file until that is written for another reason.
func (k *Keyring) sweep(ctx context.Context, index *keyringIndex) error {
	next := index.clone()
	var err error
	for len(next.Pending) > 0 && err == nil {
		last := len(next.Pending) - 1
		if err = k.items.Delete(ctx, next.Pending[last]); err == nil {
			next.Pending = next.Pending[:last]
		}
	}
	k.keep(next)
	return err
}

// List implements Store.
func (k *Keyring) List(ctx context.Context) ([]Entry, error) {
	index, err := k.current(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing store: %w", err)
	}
	list := make([]Entry, 0, len(index.Items))
	for name, item := range index.Items {
		list = append(list, Entry{name, item.Version})
	}
	slices.SortFunc(list, func(x, y Entry) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
}

// current returns the index, from memory where it has been read.
func (k *Keyring) current(ctx context.Context) (*keyringIndex, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.RLock()
	index, recipient := k.index, k.recipient
	k.mu.RUnlock()
	if recipient == "" {
		return nil, ErrLocked
	}
	if index != nil {
		return index, nil
	}
	index, err := k.read(ctx, markerOf(recipient))
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.recipient == "" {
		return nil, ErrLocked
	}
	if k.index == nil { // else there is a newer one, that was written meanwhile
		k.index = index
	}
	return k.index, nil
}

func (k *Keyring) read(ctx context.Context, marker string) (*keyringIndex, error) {
	data, version, err := k.file.Get(ctx, indexName)
	if errors.Is(err, ErrNotExist) {
		return k.first(ctx, marker)
	}
	var index keyringIndex
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err == nil && (index.ID == "" || index.Items == nil) {
		err = errors.New("it is not one")
	}
	if err != nil {
		return nil, fmt.Errorf("index of the keyring's items: %w", err)
	}
	index.version, index.marker = version, marker
	return &index, nil
}

// first is the index where there is none: an empty one, unless the keyring
// knows that there was one.
func (k *Keyring) first(ctx context.Context, marker string) (*keyringIndex, error) {
	switch _, err := k.items.Get(ctx, marker); {
	case err == nil:
		return nil, fmt.Errorf("the index of the keyring's items, in %q, is gone; bring it back from a copy, or delete the item %q of %q from the keyring to begin with an empty store",
			k.file.dir, marker, keyringService)
	case !errors.Is(err, ErrNotExist):
		return nil, err
	}
	return &keyringIndex{ID: randomID(), Items: make(map[string]keyringItem), marker: marker}, nil
}

// markerOf is the account of the item that says that there is an index. It belongs
// to the identity, which is all that a store without an index has.
func markerOf(recipient string) string {
	return "index/" + hex.EncodeToString(itemHash([]byte(recipient)))
}

// save writes an index, and returns it as the current one. An error means that
// the one before is.
func (k *Keyring) save(ctx context.Context, index *keyringIndex) (*keyringIndex, error) {
	data, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	version, err := k.file.Put(ctx, indexName, data, index.version)
	if errors.Is(err, ErrConflict) {
		k.keep(nil) // another program has put one there
	}
	if err != nil {
		return nil, fmt.Errorf("index of the keyring's items: %w", err)
	}
	index.version = version
	k.keep(index)
	return index, nil
}

func (k *Keyring) keep(index *keyringIndex) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.recipient != "" {
		k.index = index
	}
}

func (x *keyringIndex) clone() *keyringIndex {
	c := *x
	c.Items, c.Pending = maps.Clone(x.Items), slices.Clone(x.Pending)
	return &c
}

func (x *keyringIndex) account(name string, version Version) string {
	return x.ID + "/" + name + "/" + string(version)
}

// check says whether a version may be replaced: ErrConflict, *CollisionError.
func (x *keyringIndex) check(name string, replaces Version) error {
	elements := strings.Split(name, "/")
	for existing := range x.Items {
		if n := sameButCase(elements, strings.Split(existing, "/")); n > 0 {
			return &CollisionError{name, path.Join(strings.Split(existing, "/")[:n]...)}
		}
	}
	if x.Items[name].Version != replaces {
		return ErrConflict
	}
	return nil
}

// sameButCase returns how much of existing would be the same file or folder as the
// start of name where case does not count, although it is spelt otherwise: 0 for
// nothing. A file and a folder are two things whatever they are called.
func sameButCase(name, existing []string) int {
	for i := range min(len(name), len(existing)) {
		if (i == len(name)-1) != (i == len(existing)-1) || !strings.EqualFold(name[i], existing[i]) {
			return 0
		}
		if name[i] != existing[i] {
			return i + 1
		}
	}
	return 0
}

func itemHash(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:16]
}

func randomID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}
