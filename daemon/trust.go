package daemon

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// trust answers whether the user has trusted a text. It reads the trust file
// and never writes it, so that nobody who only reaches the socket can make a
// text trusted.
//
// A line is a name, a space, and the HMAC-SHA256 of name and plain text under
// a key derived from the identity: the file tells nothing about a text, and a
// line is good for one name only. The line of a recipients file has its
// folder's name with a slash at the end, which no profile's name has.
type trust struct {
	file string
	all  bool

	// mu guards the fields that follow.
	mu    sync.Mutex
	key   []byte
	read  fs.FileInfo       // the file as it was when lines was made; nil: never
	lines map[string][]byte // name to hash, in hex
}

func newTrust(file string, all bool) *trust {
	return &trust{file: file, all: all}
}

// setKey gives trust the key that it works with; nil takes it away.
func (t *trust) setKey(key []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.key)
	t.key = key
}

// text reports whether this text is trusted under this name.
func (t *trust) text(name string, text []byte) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.key == nil {
		return false, store.ErrLocked
	}
	return t.trusts(name, t.hash(name, text))
}

// trusts reports whether a text of this hash is trusted under this name. The
// caller holds mu.
func (t *trust) trusts(name string, hash []byte) (bool, error) {
	if t.all {
		return true, nil
	}
	if err := t.load(); err != nil {
		return false, err
	}
	return hmac.Equal(t.lines[name], hash), nil
}

// recipients reports whether the recipients file of a folder is trusted. One
// that cannot be looked up is not.
func (t *trust) recipients(folder string, lines []byte) bool {
	ok, err := t.text(folder+"/", lines)
	return ok && err == nil
}

// answer is what a caller is told about a text.
func (t *trust) answer(name string, text []byte) (*tokendv1.Trust, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.key == nil {
		return nil, store.ErrLocked
	}
	hash := t.hash(name, text)
	trusted, err := t.trusts(name, hash)
	if err != nil {
		return nil, err
	}
	return &tokendv1.Trust{
		Trusted: trusted,
		Line:    name + " " + string(hash),
		File:    t.file,
	}, nil
}

// hash returns the keyed hash in hex. The caller holds mu.
func (t *trust) hash(name string, text []byte) []byte {
	m := hmac.New(sha256.New, t.key)
	m.Write([]byte(name))
	m.Write([]byte{0})
	m.Write(text)
	return []byte(hex.EncodeToString(m.Sum(nil)))
}

// load reads the trust file if it is not the one that was read last. The
// caller holds mu.
func (t *trust) load() error {
	f, err := os.OpenFile(t.file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		t.read, t.lines = nil, nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the trust file: %w", err)
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the trust file: %w", err)
	}
	if st, ok := now.Sys().(*syscall.Stat_t); !ok || !now.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || now.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("trust file %s is not a file of yours alone; run: chmod 600 '%s'", t.file, t.file)
	}
	// tokenctl replaces the file, so a new one is another file.
	if t.read != nil && os.SameFile(t.read, now) && t.read.Size() == now.Size() && t.read.ModTime().Equal(now.ModTime()) {
		return nil
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("reading the trust file: %w", err)
	}
	t.lines = make(map[string][]byte)
	for line := range bytes.Lines(b) {
		if name, hash, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); ok {
			t.lines[string(name)] = hash
		}
	}
	t.read = now
	return nil
}
