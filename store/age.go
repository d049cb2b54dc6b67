package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/sys/unix"
)

// Age is a Store of age files: dev/network is dev/network.env.age below the
// store's folder, or dev/network.age, but not both. Every tool that speaks age
// reads what it writes. It reads binary and armored files and writes binary
// ones.
//
// A file is read only where nobody else can have changed it: regular, owned,
// not writable by others, one link, at most 1 MiB, and below the store's folder
// no symbolic link on the way and no folder that others can change. Anything
// else is an error that says what to do; the store changes no permissions
// itself. Others may be able to read it, as with what age and git write
// under the usual umask: it is encrypted. Where recipients files are ignored
// nobody but this program writes, and files must be 0600, as it writes them.
//
// age files are not authenticated: who can write to the folder and knows the
// recipient can put in a secret of his own, swap two, or bring back an old
// one, and Get cannot tell. Whoever needs to know compares what Get returns
// with something that he keeps elsewhere.
//
// Other programs may change the files at any time, except that nobody else may
// call OpenAge on the same folder.
type Age struct {
	dir       string
	trusted   func(folder string, recipients []byte) bool
	forbidden uint32 // mode bits that a secret's file must not have

	// files keeps readers from seeing our own changes half done. It is held
	// across file I/O, and taken before mu.
	files sync.RWMutex

	mu        sync.Mutex   // guards the fields that follow; never held across I/O
	identity  *Identity    // nil: locked
	recipient ageRecipient // the identity's; stays when that is forgotten
	cache     map[string]cached
}

var _ Store = (*Age)(nil)

// OpenAge opens the store in dir, which it makes with mode 0700 where it is
// missing, and repairs what a crash left behind. The store starts locked and
// cannot be written to before the first Unlock.
//
// trusted says whether secrets below folder ("" is the root) may be encrypted
// to the given .age-recipients file; it is called in the middle of a Put and
// must not use the store. Where trusted is nil, such files are ignored and every
// secret is encrypted to the identity alone.
func OpenAge(dir string, trusted func(folder string, recipients []byte) bool) (*Age, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeFolders(dir); err != nil {
		return nil, fmt.Errorf("creating store: %w", err)
	}
	root, err := openFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	defer root.close()
	root.sweep(1)
	a := &Age{dir: dir, trusted: trusted, forbidden: othersWrite, cache: make(map[string]cached)}
	if trusted == nil {
		a.forbidden = ownerOnly
	}
	return a, nil
}

// Unlock lets Get open what id can open, and Put encrypt to it.
func (a *Age) Unlock(id *Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity, a.recipient = id, id.recipient
}

// Lock forgets the identity, but not its recipient: Put goes on working. It
// waits for nothing; a Get that has begun may still return the secret.
func (a *Age) Lock() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity = nil
}

// Stat implements Store. It does not look for names equal but for case, as Get
// does.
func (a *Age) Stat(ctx context.Context, name string) (Version, error) {
	elements, err := splitName(name)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	a.files.RLock()
	defer a.files.RUnlock()
	if version, ok := a.unchanged(elements, name); ok {
		return version, nil
	}
	w, err := a.walk(elements)
	if err != nil {
		return "", fmt.Errorf("looking up %q: %w", name, err)
	}
	defer w.close()
	if !w.complete() {
		a.forget(name)
		return "", nil
	}
	version, err := a.version(w.last(), w.file(), name)
	if err != nil {
		return "", fmt.Errorf("looking up %q: %w", name, err)
	}
	return version, nil
}

// Get implements Store. That the secret was meant for this name, or is the
// newest, is not known: see Age.
func (a *Age) Get(ctx context.Context, name string) ([]byte, Version, error) {
	elements, err := splitName(name)
	if err != nil {
		return nil, "", err
	}
	data, version, err := a.get(ctx, elements)
	if err != nil {
		return nil, version, fmt.Errorf("reading %q: %w", name, err)
	}
	return data, version, nil
}

func (a *Age) get(ctx context.Context, elements []string) ([]byte, Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	a.mu.Lock()
	id := a.identity
	a.mu.Unlock()
	if id == nil {
		return nil, "", ErrLocked
	}
	file, sealed, err := a.load(elements)
	if err != nil {
		return nil, "", err
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	data, err := id.Open(sealed)
	if err != nil {
		return nil, versionOf(sealed), &SealedError{file, err}
	}
	record, marked := bytes.CutPrefix(data, []byte(recordMark))
	switch {
	case a.trusted == nil:
		data = record
	case marked:
		clear(data)
		return nil, versionOf(sealed), &SealedError{file, errRecord}
	}
	return data, versionOf(sealed), nil
}

// load returns the path and the bytes of a secret's file.
func (a *Age) load(elements []string) (path string, sealed []byte, err error) {
	a.files.RLock()
	defer a.files.RUnlock()
	w, err := a.walk(elements)
	if err != nil {
		return "", nil, err
	}
	defer w.close()
	if !w.complete() {
		return "", nil, ErrNotExist
	}
	file, _, err := w.last().find(w.file())
	if err != nil {
		return "", nil, err
	}
	if file == "" {
		return "", nil, ErrNotExist
	}
	if err := w.checkCase(); err != nil {
		return "", nil, err
	}
	sealed, _, err = w.last().read(file, a.forbidden)
	return w.last().join(file), sealed, err
}

// Open decrypts an age file, binary or armored. Its error is for people.
func (id *Identity) Open(sealed []byte) ([]byte, error) {
	data, err := decrypt(sealed, append([]age.Identity{id.key}, id.further...)...)
	var mismatch *age.NoIdentityMatchError
	if errors.As(err, &mismatch) {
		if slices.Contains(mismatch.StanzaTypes, "scrypt") {
			return nil, errors.New("it is encrypted with a passphrase, not to a recipient")
		}
		return nil, fmt.Errorf("it is encrypted to somebody else, not to %s; ask for a rekey, or list a key that opens it in TOKEND_IDENTITIES", short(id.recipient))
	}
	return data, err
}

// decrypt opens an age file, binary or armored. It leaves no copy of what is in
// it.
func decrypt(sealed []byte, identities ...age.Identity) ([]byte, error) {
	var src io.Reader = bytes.NewReader(sealed)
	if isArmored(sealed) {
		src = armor.NewReader(src)
	}
	plain, err := age.Decrypt(src, identities...)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, len(sealed)) // always enough
	for {
		n, err := plain.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			clear(data)
			return nil, err // what was read is genuine, but not all
		}
	}
}

// Put implements Store. The secret is encrypted to the nearest .age-recipients
// file in its folder or above, up to the store's own folder; where there is
// none, to the identity's recipient, also while the store is locked. Put
// refuses to write what the identity could not read back.
func (a *Age) Put(ctx context.Context, name string, data []byte, replaces Version) (Version, error) {
	elements, err := splitName(name)
	if err != nil {
		return "", err
	}
	a.files.Lock()
	defer a.files.Unlock()
	version, err := a.put(ctx, elements, data, replaces)
	if err != nil {
		return "", fmt.Errorf("writing %q: %w", name, err)
	}
	return version, nil
}

// CheckPut says whether Put could write under name, as far as that can be known
// before there is anything to write. Errors are those of Put.
func (a *Age) CheckPut(ctx context.Context, name string, replaces Version) error {
	elements, err := splitName(name)
	if err != nil {
		return err
	}
	a.files.RLock()
	defer a.files.RUnlock()
	w, _, _, err := a.place(ctx, elements, replaces)
	if err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	w.close()
	return nil
}

// place finds where a secret would be written, and to whom. The walk is to be
// closed.
func (a *Age) place(ctx context.Context, elements []string, replaces Version) (_ *walk, file string, recipients []age.Recipient, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", nil, err
	}
	a.mu.Lock()
	own := a.recipient
	a.mu.Unlock()
	if own == nil {
		return nil, "", nil, ErrLocked
	}
	w, err := a.walk(elements)
	if err != nil {
		return nil, "", nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if err = w.checkCase(); err != nil {
		return nil, "", nil, err
	}
	if file, err = w.expect(replaces); err != nil {
		return nil, "", nil, err
	}
	recipients, _, err = a.recipientsFor(w, own)
	return w, file, recipients, err
}

func (a *Age) put(ctx context.Context, elements []string, data []byte, replaces Version) (_ Version, err error) {
	w, file, recipients, err := a.place(ctx, elements, replaces)
	if err != nil {
		return "", err
	}
	defer w.close()
	if a.trusted == nil {
		data = append([]byte(recordMark), data...)
		defer clear(data)
	}
	sealed, err := seal(data, recipients)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}

	present := w.n
	defer func() {
		if err != nil {
			w.removeFolders(present)
		}
	}()
	if err := w.makeFolders(); err != nil {
		return "", err
	}
	target := file
	if file == "" {
		target = w.file() + suffixes[0]
	}
	err = w.last().replace(target, sealed, file != "", func() error {
		if now, err := w.expect(replaces); err != nil {
			return err
		} else if now != file {
			return ErrConflict
		}
		return ctx.Err()
	})
	if err != nil {
		return "", err
	}
	return versionOf(sealed), nil
}

// recordMark begins what is written where recipients files are ignored: this
// program's own records, such as refresh tokens. Who can write to a folder of other
// secrets, which are given out, could otherwise have a record given out by copying
// its file there. age authenticates it with the rest.
const recordMark = "\x00tokend record\n"

var errRecord = errors.New("it is a record of tokend's own")

func seal(data []byte, recipients []age.Recipient) ([]byte, error) {
	var sealed bytes.Buffer
	plain, err := age.Encrypt(&sealed, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	if _, err := plain.Write(data); err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	if err := plain.Close(); err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	if sealed.Len() > maxFileSize {
		return nil, fmt.Errorf("encrypted, it is larger than %d bytes", maxFileSize)
	}
	return sealed.Bytes(), nil
}

// Delete implements Store. Folders that become empty go as well. It works on a
// locked store.
func (a *Age) Delete(ctx context.Context, name string, version Version) error {
	elements, err := splitName(name)
	if err != nil {
		return err
	}
	a.files.Lock()
	defer a.files.Unlock()
	if err := a.delete(ctx, elements, version); err != nil {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	a.forget(name)
	return nil
}

func (a *Age) delete(ctx context.Context, elements []string, version Version) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w, err := a.walk(elements)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.checkCase(); err != nil {
		return err
	}
	if _, err := w.expect(""); err == nil {
		return ErrNotExist
	}
	file, err := w.expect(version)
	if err != nil {
		return err
	}
	if err := w.last().remove(file); err != nil {
		return err
	}
	w.removeFolders(1)
	return nil
}

// List implements Store. Files that are not a secret's, such as hidden ones
// and those with another suffix, and symbolic links to folders are left out.
func (a *Age) List(ctx context.Context) ([]Entry, error) {
	a.files.RLock()
	defer a.files.RUnlock()
	root, err := openFolder(a.dir)
	if err != nil {
		return nil, fmt.Errorf("listing store: %w", err)
	}
	defer root.close()
	list, err := a.list(ctx, root, nil, true)
	if err != nil {
		return nil, fmt.Errorf("listing store: %w", err)
	}
	slices.SortFunc(list, func(x, y Entry) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
}

func (a *Age) list(ctx context.Context, f folder, above []string, readable bool) ([]Entry, error) {
	entries, err := f.entries()
	if err != nil {
		return nil, err
	}
	var list []Entry
	seen := make(map[string]bool)
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if element, ok := secretFile(entry.Name()); ok && !seen[element] {
			seen[element] = true
			name := path.Join(path.Join(above...), element)
			var version Version
			if readable {
				version, err = a.version(f, element, name)
				if err == nil && version == "" {
					continue // deleted while we looked
				}
			}
			list = append(list, Entry{name, version})
		}
		if entry.IsDir() && elementProblem(entry.Name()) == "" && len(above)+2 <= maxElements {
			sub, err := f.open(entry.Name())
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return nil, err
			}
			below, err := a.list(ctx, sub, append(slices.Clip(above), entry.Name()), readable && sub.check() == nil)
			sub.close()
			if err != nil {
				return nil, err
			}
			list = append(list, below...)
		}
	}
	return list, nil
}

// suffixes are what a secret's file can end in; new files get the first.
var suffixes = [...]string{".env.age", ".age"}

// secretFile returns the last element of the name of the secret that is stored
// in a file of this name.
func secretFile(file string) (element string, ok bool) {
	element, ok = strings.CutSuffix(file, ".age")
	if !ok {
		return "", false
	}
	element = strings.TrimSuffix(element, ".env")
	return element, elementProblem(element) == ""
}

// find returns the name of the file that holds a secret, "" where there is
// none.
func (f folder) find(element string) (file string, st unix.Stat_t, err error) {
	for _, suffix := range suffixes {
		found, err := f.stat(element + suffix)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return "", st, err
		}
		if file != "" {
			return "", st, fmt.Errorf("%q and %q are both there; remove one of them",
				f.join(file), f.join(element+suffix))
		}
		file, st = element+suffix, found
	}
	return file, st, nil
}

// cached is the version of a file as of a state.
type cached struct {
	state   fileState
	version Version
	settled bool
}

// fileState changes when a file does, unless that happens within the
// resolution of the file system's clock.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stateOf(st *unix.Stat_t) fileState {
	return fileState{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// settling is more than the resolution of any file system's clock that Linux
// and macOS keep secrets on. A file that was hashed sooner after its last
// change can have changed again with the same timestamps.
const settling = 100 * time.Millisecond

// version returns the version of a secret in f, from the cache where the file
// is as it was. a.files is held.
func (a *Age) version(f folder, element, name string) (Version, error) {
	file, st, err := f.find(element)
	if err != nil {
		return "", err
	}
	if file == "" {
		a.forget(name)
		return "", nil
	}
	a.mu.Lock()
	c := a.cache[name]
	a.mu.Unlock()
	if c.settled && c.state == stateOf(&st) {
		return c.version, nil
	}
	now := time.Now()
	sealed, st, err := f.read(file, a.forbidden)
	if errors.Is(err, os.ErrNotExist) {
		a.forget(name)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	c = cached{stateOf(&st), versionOf(sealed), now.Sub(time.Unix(st.Ctim.Unix())) > settling}
	a.mu.Lock()
	a.cache[name] = c
	a.mu.Unlock()
	return c.version, nil
}

// unchanged is what walk and version come to, without opening anything, where
// nothing has changed: each get asks. What it does not vouch for they look at.
// a.files is held.
func (a *Age) unchanged(elements []string, name string) (Version, bool) {
	a.mu.Lock()
	c := a.cache[name]
	a.mu.Unlock()
	if !c.settled {
		return "", false
	}
	var st unix.Stat_t
	path := a.dir
	if unix.Stat(path, &st) != nil || checkFolder(path, &st) != nil {
		return "", false
	}
	folders, element := elements[:len(elements)-1], elements[len(elements)-1]
	for _, folder := range folders {
		path += "/" + folder
		if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || checkFolder(path, &st) != nil {
			return "", false
		}
	}
	there := 0
	for _, suffix := range suffixes {
		switch err := unix.Lstat(path+"/"+element+suffix, &st); {
		case err == unix.ENOENT:
		case err != nil || stateOf(&st) != c.state:
			return "", false
		default:
			there++
		}
	}
	return c.version, there == 1
}

func (a *Age) forget(name string) {
	a.mu.Lock()
	delete(a.cache, name)
	a.mu.Unlock()
}

// versionOf is the first half of the SHA-256 of a file, in hex.
func versionOf(file []byte) Version {
	sum := sha256.Sum256(file)
	return Version(hex.EncodeToString(sum[:16]))
}
