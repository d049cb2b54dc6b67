package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

// memoryItems is a keyring. Its call number fault, counting from 1, fails, once
// it has done what it is to do if late, and so do all after it: to the store
// that is what it looks like when its process dies there.
type memoryItems struct {
	mu    sync.Mutex
	items map[string][]byte
	calls int
	fault int
	late  bool
}

var errFault = errors.New("the keyring fails")

func (m *memoryItems) call(ctx context.Context, f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	m.calls++
	dead := m.fault > 0 && m.calls >= m.fault
	if !dead || m.late && m.calls == m.fault {
		if err := f(); err != nil || !dead {
			return err
		}
	}
	return errFault
}

func (m *memoryItems) Get(ctx context.Context, account string) (secret []byte, err error) {
	err = m.call(ctx, func() error {
		found, ok := m.items[account]
		if !ok {
			return ErrNotExist
		}
		secret = bytes.Clone(found)
		return nil
	})
	return secret, err
}

func (m *memoryItems) Set(ctx context.Context, account string, secret []byte) error {
	return m.call(ctx, func() error {
		m.items[account] = bytes.Clone(secret)
		return nil
	})
}

func (m *memoryItems) Delete(ctx context.Context, account string) error {
	return m.call(ctx, func() error {
		delete(m.items, account)
		return nil
	})
}

// accountOf returns the account of a secret's item.
func (m *memoryItems) accountOf(t *testing.T, name string) string {
	t.Helper()
	for account := range m.items {
		if strings.Contains(account, "/"+name+"/") {
			return account
		}
	}
	t.Fatalf("there is no item for %q", name)
	return ""
}

func newItems() *memoryItems { return &memoryItems{items: make(map[string][]byte)} }

func freshIdentity(t testing.TB) *Identity {
	t.Helper()
	id, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func openKeyring(t testing.TB, dir string, items Items, id *Identity) *Keyring {
	t.Helper()
	k, err := OpenKeyring(dir, items)
	if err != nil {
		t.Fatal(err)
	}
	k.Unlock(id)
	return k
}

func TestKeyring(t *testing.T) {
	items := newItems()
	k := openKeyring(t, t.TempDir(), items, freshIdentity(t))
	k.changeTime = time.Minute // as with the real one
	testStore(t, k)
	if len(items.items) != 1 { // what says that there is an index
		t.Errorf("items left: %q", slices.Collect(maps.Keys(items.items)))
	}
}

func TestKeyringIsThereAfterARestart(t *testing.T) {
	dir, items, id := t.TempDir(), newItems(), freshIdentity(t)
	k := openKeyring(t, dir, items, id)
	v1 := mustPut(t, k, "dev/one", "1", "")
	v2 := mustPut(t, k, "two", "2", "")

	k = openKeyring(t, dir, items, id)
	wantSecret(t, k, "dev/one", "1", v1)
	wantSecret(t, k, "two", "2", v2)
	wantNames(t, k, "dev/one", "two")

	index, err := os.ReadFile(filepath.Join(dir, "index.env.age"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(index, []byte("dev/one")) {
		t.Error("the index shows the names")
	}
}

// A process that dies at any moment of a change leaves the old secret or the new
// one, and no item that the index does not know of.
func TestKeyringCrash(t *testing.T) {
	ctx := t.Context()
	put := func(data string) func(*Keyring) error {
		return func(k *Keyring) error {
			v, err := k.Stat(ctx, "dev/network")
			if err != nil {
				return err
			}
			_, err = k.Put(ctx, "dev/network", []byte(data), v)
			return err
		}
	}
	for _, change := range []struct {
		name     string
		old, new string // "": nothing
		run      func(*Keyring) error
	}{
		{"create", "", "new", put("new")},
		{"replace", "old", "new", put("new")},
		{"delete", "old", "", func(k *Keyring) error {
			v, err := k.Stat(ctx, "dev/network")
			if err != nil {
				return err
			}
			return k.Delete(ctx, "dev/network", v)
		}},
	} {
		for _, empty := range []bool{true, false} {
			for _, late := range []bool{false, true} {
				for fault := 1; ; fault++ {
					what := fmt.Sprintf("%s, in an empty keyring %t, call %d, late %t", change.name, empty, fault, late)
					dir, items, id := t.TempDir(), newItems(), freshIdentity(t)
					k := openKeyring(t, dir, items, id)
					if !empty {
						mustPut(t, k, "other", "other", "")
					}
					if change.old != "" {
						mustPut(t, k, "dev/network", change.old, "")
					}
					items.calls, items.fault, items.late = 0, fault, late
					err := change.run(k)
					reached := items.calls >= fault
					items.fault = 0

					k = openKeyring(t, dir, items, id)
					data, v, getErr := k.Get(ctx, "dev/network")
					if errors.Is(getErr, ErrNotExist) != (v == "") || v != "" && getErr != nil {
						t.Errorf("%s: Get = %q, %q, %v", what, data, v, getErr)
					}
					if got := string(data); got != change.new && (err == nil || got != change.old) {
						t.Errorf("%s: %v, and then the secret is %q", what, err, got)
					}
					known := items.known(t, k)
					for account := range items.items {
						if !slices.Contains(known, account) {
							t.Errorf("%s: nothing knows the item %q", what, account)
						}
					}

					// The next change clears up.
					if v = mustStat(t, k, "dev/network"); v == "" {
						v = mustPut(t, k, "dev/network", "x", "")
					}
					if err := k.Delete(ctx, "dev/network", v); err != nil {
						t.Errorf("%s: then deleting: %v", what, err)
					}
					want := 1
					if !empty {
						want = 2
					}
					if len(items.items) != want {
						t.Errorf("%s: items left: %q", what, slices.Collect(maps.Keys(items.items)))
					}
					if !reached {
						if fault == 1 {
							t.Fatalf("%s: no call to fail", what)
						}
						break
					}
				}
			}
		}
	}
}

// known returns the accounts that the index has.
func (m *memoryItems) known(t *testing.T, k *Keyring) []string {
	t.Helper()
	index, err := k.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := append(slices.Clone(index.Pending), index.marker)
	for name, item := range index.Items {
		known = append(known, index.account(name, item.Version))
	}
	return known
}

func TestKeyringLocked(t *testing.T) {
	ctx := t.Context()
	dir, items, id := t.TempDir(), newItems(), freshIdentity(t)
	k := openKeyring(t, dir, items, id)
	v := mustPut(t, k, "x", "y", "")
	k.Lock()
	wantLocked := func(k *Keyring) {
		t.Helper()
		_, statErr := k.Stat(ctx, "x")
		_, _, getErr := k.Get(ctx, "x")
		_, putErr := k.Put(ctx, "x", nil, v)
		_, listErr := k.List(ctx)
		for i, err := range []error{statErr, getErr, putErr, k.CheckPut(ctx, "x", v), k.Delete(ctx, "x", v), listErr} {
			if !errors.Is(err, ErrLocked) {
				t.Errorf("call %d: error = %v, want ErrLocked", i, err)
			}
		}
	}
	wantLocked(k)
	k.Unlock(id)
	wantSecret(t, k, "x", "y", v)

	k, err := OpenKeyring(dir, items)
	if err != nil {
		t.Fatal(err)
	}
	wantLocked(k)
}

// A Put that has begun is finished by a store that is locked meanwhile.
func TestKeyringLockDuringPut(t *testing.T) {
	id := freshIdentity(t)
	items := &slowItems{Items: newItems(), began: make(chan struct{}), goOn: make(chan struct{})}
	k := openKeyring(t, t.TempDir(), items, id)
	put := make(chan error)
	go func() {
		_, err := k.Put(t.Context(), "x", []byte("y"), "")
		put <- err
	}()
	<-items.began
	// Nobody waits for the keyring who does not need it.
	wantNames(t, k)
	if v, err := k.Stat(t.Context(), "x"); v != "" || err != nil {
		t.Errorf("Stat during a Put = %q, %v", v, err)
	}
	k.Lock()
	close(items.goOn)
	if err := <-put; err != nil {
		t.Fatal(err)
	}
	if _, err := k.List(t.Context()); !errors.Is(err, ErrLocked) {
		t.Errorf("List = %v, want ErrLocked", err)
	}
	k.Unlock(id)
	wantSecret(t, k, "x", "y", mustStat(t, k, "x"))
}

// However many wait for a keyring that hangs, each knows within the 2.5 s that it has,
// its turn included. What hung is cleaned up once the keyring is back.
func TestKeyringChangeTime(t *testing.T) {
	id, dir, items := freshIdentity(t), t.TempDir(), newItems()
	there := mustPut(t, openKeyring(t, dir, items, id), "there", "x", "")
	synctest.Test(t, func(t *testing.T) {
		k := openKeyring(t, dir, hungItems{items}, id)
		var callers sync.WaitGroup
		call := func(what string, change func() error) {
			time.Sleep(100 * time.Millisecond)
			callers.Go(func() {
				began := time.Now()
				err := change()
				if e := (*KeyringError)(nil); !errors.As(err, &e) || e.Cause != KeyringFailed || !strings.Contains(err.Error(), "took longer than 2.5s") {
					t.Errorf("%s: %v", what, err)
				}
				if took := time.Since(began); took > 2500*time.Millisecond {
					t.Errorf("%s took %v", what, took)
				}
			})
		}
		put := func() error { _, err := k.Put(t.Context(), "x", []byte("y"), ""); return err }
		call("put", put)
		call("delete", func() error { return k.Delete(t.Context(), "there", there) })
		call("another put", put)
		callers.Wait()

		// Who gives up earlier is told of that, not of the keyring.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.Put(ctx, "x", []byte("y"), ""); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*KeyringError)) {
			t.Errorf("with a deadline of the caller's: %v", err)
		}
	})
	k := openKeyring(t, dir, items, id)
	mustPut(t, k, "x", "y", "")
	wantSecret(t, k, "there", "x", there)
	if len(items.items) != 3 { // and the store's marker
		t.Errorf("items: %v", slices.Collect(maps.Keys(items.items)))
	}
}

// hungItems is a keyring that does not answer.
type hungItems struct{ Items }

func (hungItems) Get(ctx context.Context, _ string) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hungItems) Set(ctx context.Context, _ string, _ []byte) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// A keyring that hangs once a change is made does not make it fail, nor a move, which
// is a Put and a Delete, take 3 s. The items that it keeps go with a later change,
// after a restart as well.
func TestKeyringClearsUpLater(t *testing.T) {
	id, dir, items := freshIdentity(t), t.TempDir(), newItems()
	old := mustPut(t, openKeyring(t, dir, items, id), "from", "old", "")
	var to Version
	var index []byte
	other := newItems() // as items is, and the index, when the keyring is back
	wantClear := func(k *Keyring, items *memoryItems) {
		t.Helper()
		if len(items.items) != 4 { // the store's marker, two of "from", and "to"
			t.Errorf("items: %q", slices.Collect(maps.Keys(items.items)))
		}
		wantNothing(t, k, "from")
		mustPut(t, k, "other", "x", "")
		if len(items.items) != 3 {
			t.Errorf("items left: %q", slices.Collect(maps.Keys(items.items)))
		}
		wantSecret(t, k, "to", "new", to)
	}
	synctest.Test(t, func(t *testing.T) {
		k := openKeyring(t, dir, keepingItems{items}, id)
		began := time.Now()
		from := mustPut(t, k, "from", "new", old)
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("a Put took %v", took)
		}
		began = time.Now()
		to = mustPut(t, k, "to", "new", "")
		if err := k.Delete(t.Context(), "from", from); err != nil {
			t.Errorf("Delete = %v, although the name is gone", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a move took %v", took)
		}
		var err error
		if index, err = os.ReadFile(filepath.Join(dir, "index.env.age")); err != nil {
			t.Fatal(err)
		}
		other.items = maps.Clone(items.items)
		k.items = items
		wantClear(k, items)
	})
	restarted := t.TempDir()
	if err := os.WriteFile(filepath.Join(restarted, "index.env.age"), index, 0o600); err != nil {
		t.Fatal(err)
	}
	wantClear(openKeyring(t, restarted, other, id), other)
}

// keepingItems is a keyring that hangs where something is to be deleted.
type keepingItems struct{ Items }

func (keepingItems) Delete(ctx context.Context, _ string) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// slowItems is a keyring whose first Set takes its time.
type slowItems struct {
	Items
	once        sync.Once
	began, goOn chan struct{}
}

func (s *slowItems) Set(ctx context.Context, account string, secret []byte) error {
	s.once.Do(func() {
		close(s.began)
		<-s.goOn
	})
	return s.Items.Set(ctx, account, secret)
}

// A Get that comes upon an item that is being replaced returns the new one.
func TestKeyringGetDuringPut(t *testing.T) {
	items := &racedItems{Items: newItems()}
	k := openKeyring(t, t.TempDir(), items, freshIdentity(t))
	v := mustPut(t, k, "x", "old", "")
	items.before = func() {
		items.before = nil
		v = mustPut(t, k, "x", "new", v)
	}
	data, got, err := k.Get(t.Context(), "x")
	if string(data) != "new" || got != v || err != nil {
		t.Errorf("Get = %q, %q, %v, want the new secret and %q", data, got, err, v)
	}
}

// racedItems does something before a Get.
type racedItems struct {
	Items
	before func()
}

func (r *racedItems) Get(ctx context.Context, account string) ([]byte, error) {
	if r.before != nil {
		r.before()
	}
	return r.Items.Get(ctx, account)
}

// What other programs do to an item is an error that says so, and is not taken
// for a secret that does not exist. It can be replaced and deleted.
func TestKeyringItemOfOthers(t *testing.T) {
	ctx := t.Context()
	for _, test := range []struct {
		name   string
		meddle func(items map[string][]byte, account string)
		says   string
	}{
		{"gone", func(items map[string][]byte, account string) { delete(items, account) }, "deleted its item"},
		{"changed", func(items map[string][]byte, account string) { items[account] = []byte("z") }, "changed its item"},
		{"emptied", func(items map[string][]byte, account string) { items[account] = nil }, "changed its item"},
	} {
		t.Run(test.name, func(t *testing.T) {
			items := newItems()
			k := openKeyring(t, t.TempDir(), items, freshIdentity(t))
			for _, repair := range []string{"replace", "delete"} {
				v := mustPut(t, k, "x", "y", "")
				account := items.accountOf(t, "x")
				test.meddle(items.items, account)
				data, got, err := k.Get(ctx, "x")
				if data != nil || got != v || err == nil || errors.Is(err, ErrNotExist) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), account) {
					t.Errorf("Get = %q, %q, %v, want the version and an error that says %q and names %q", data, got, err, test.says, account)
				}
				wantNames(t, k, "x")
				if repair == "replace" {
					v = mustPut(t, k, "x", "new", v)
					wantSecret(t, k, "x", "new", v)
				}
				mustDelete(t, k, "x")
				wantNothing(t, k, "x")
			}
			if len(items.items) != 1 {
				t.Errorf("items left: %q", slices.Collect(maps.Keys(items.items)))
			}
		})
	}
}

// An index that is not to be had is never an empty store.
func TestKeyringIndexOfOthers(t *testing.T) {
	ctx := t.Context()
	replace := func(text string) func(*testing.T, string, *Identity) {
		return func(t *testing.T, file string, id *Identity) {
			sealed, err := seal([]byte(text), []age.Recipient{id.recipient})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, sealed, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		meddle func(t *testing.T, file string, id *Identity)
		says   string
	}{
		{"gone", func(t *testing.T, file string, _ *Identity) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, "is gone"},
		{"damaged", func(t *testing.T, file string, _ *Identity) {
			sealed, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sealed[len(sealed)-1] ^= 1
			if err := os.WriteFile(file, sealed, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "decrypting"},
		{"cut to nothing", func(t *testing.T, file string, _ *Identity) {
			if err := os.Truncate(file, 0); err != nil {
				t.Fatal(err)
			}
		}, "decrypting"},
		{"not JSON", replace("x"), "index"},
		{"of nothing", replace("{}"), "it is not one"},
		{"somebody else's", func(t *testing.T, file string, _ *Identity) {
			replace("{}")(t, file, freshIdentity(t))
		}, "encrypted to somebody else"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, items, id := t.TempDir(), newItems(), freshIdentity(t)
			k := openKeyring(t, dir, items, id)
			v := mustPut(t, k, "x", "y", "")
			before := maps.Clone(items.items)
			file := filepath.Join(dir, "index.env.age")
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			test.meddle(t, file, id)

			k = openKeyring(t, dir, items, id)
			_, statErr := k.Stat(ctx, "x")
			_, _, getErr := k.Get(ctx, "x")
			_, putErr := k.Put(ctx, "x", nil, "")
			_, listErr := k.List(ctx)
			for i, err := range []error{statErr, getErr, putErr, k.CheckPut(ctx, "x", ""), k.Delete(ctx, "x", v), listErr} {
				if err == nil || errors.Is(err, ErrNotExist) || errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("call %d: error = %v, want one that says %q", i, err, test.says)
				}
			}
			if diff := cmp.Diff(before, items.items); diff != "" {
				t.Errorf("items (-before +after):\n%s", diff)
			}

			// Put back, it is taken up at once.
			if err := os.WriteFile(file, good, 0o600); err != nil {
				t.Fatal(err)
			}
			wantSecret(t, k, "x", "y", v)
		})
	}
}

// An index that was replaced under the store is not written over.
func TestKeyringIndexReplaced(t *testing.T) {
	dir, items, id := t.TempDir(), newItems(), freshIdentity(t)
	k := openKeyring(t, dir, items, id)
	v := mustPut(t, k, "x", "y", "")
	other := openKeyring(t, dir, items, id)
	mustPut(t, other, "z", "z", "")
	if _, err := k.Put(t.Context(), "x", []byte("new"), v); !errors.Is(err, ErrConflict) {
		t.Errorf("Put = %v, want ErrConflict", err)
	}
	wantNames(t, k, "x", "z")
	mustPut(t, k, "x", "new", v)
}

// Without an index, a keyring that does not answer is not an empty store.
func TestKeyringFailsWithoutIndex(t *testing.T) {
	items := newItems()
	items.fault = 1
	k := openKeyring(t, t.TempDir(), items, freshIdentity(t))
	if _, err := k.List(t.Context()); !errors.Is(err, errFault) {
		t.Errorf("List = %v, want what the keyring says", err)
	}
	items.fault = 0
	wantNames(t, k)
}

func TestKeyringCheckPut(t *testing.T) {
	ctx := t.Context()
	k := openKeyring(t, t.TempDir(), newItems(), freshIdentity(t))
	v := mustPut(t, k, "dev/x", "y", "")
	if err := k.CheckPut(ctx, "dev/x", v); err != nil {
		t.Error(err)
	}
	if err := k.CheckPut(ctx, "dev", ""); err != nil {
		t.Error(err)
	}
	if err := k.CheckPut(ctx, "dev/x", ""); !errors.Is(err, ErrConflict) {
		t.Errorf("CheckPut of a name that is there: %v, want ErrConflict", err)
	}
	var collision *CollisionError
	if err := k.CheckPut(ctx, "DEV/y", ""); !errors.As(err, &collision) || *collision != (CollisionError{"DEV/y", "dev"}) {
		t.Errorf("CheckPut of DEV/y: %v, want a CollisionError with dev", err)
	}
	var bad *NameError
	if err := k.CheckPut(ctx, "../x", ""); !errors.As(err, &bad) {
		t.Errorf("CheckPut of ../x: %v, want a NameError", err)
	}
	// Another program may have deleted the item that is asked for.
	clear(k.items.(*memoryItems).items)
	if err := k.CheckPut(ctx, "dev/x", v); err != nil {
		t.Error(err)
	}
}

// What could not be kept in a keyring that hangs is not to be made elsewhere, also
// where the index has been read.
func TestKeyringCheckPutHangs(t *testing.T) {
	id, dir, items := freshIdentity(t), t.TempDir(), newItems()
	mustPut(t, openKeyring(t, dir, items, id), "x", "y", "")
	synctest.Test(t, func(t *testing.T) {
		k := openKeyring(t, dir, hungItems{items}, id)
		wantNames(t, k, "x")
		hangs := errors.New("no answer")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, hangs)
		defer cancel()
		if err := k.CheckPut(ctx, "z", ""); !errors.Is(err, hangs) {
			t.Errorf("CheckPut = %v, want what the keyring says", err)
		}
	})
}

// Stat is on the way of every token that is handed out.
func TestKeyringStatAllocatesNothing(t *testing.T) {
	k := openKeyring(t, t.TempDir(), newItems(), freshIdentity(t))
	mustPut(t, k, "dev/network", "y", "")
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = k.Stat(ctx, "dev/network") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What go-keyring gives /usr/bin/security as one command has to fit.
func TestKeychainSize(t *testing.T) {
	const account = "0123456789abcdef0123456789abcdef/dev/network/0123456789abcdef0123456789abcdef"
	command := func(size int) int {
		encoded := (size + 2) / 3 * 4
		return len("add-generic-password -U -s tokend -a "+account+" -w go-keyring-base64:\n") + encoded
	}
	for size := range 5000 {
		err := checkKeychainSize(account, size)
		if fits := command(size) <= 4096; fits != (err == nil) {
			t.Fatalf("%d bytes, a command of %d: %v", size, command(size), err)
		}
		if err != nil && !strings.Contains(err.Error(), "TOKEND_STORE=age") {
			t.Fatalf("it does not say what else to do: %v", err)
		}
	}
}
