package store

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// Identity is a native age identity, X25519 or hybrid: the key that opens what
// an Age store holds. It prints as redacted, whatever the verb.
type Identity struct {
	key       ageIdentity
	recipient ageRecipient
	further   []age.Identity // that open what key does not
}

// ageIdentity is implemented by *age.X25519Identity and *age.HybridIdentity.
type ageIdentity interface {
	age.Identity
	String() string // the secret key
}

// ageRecipient is implemented by *age.X25519Recipient and *age.HybridRecipient.
type ageRecipient interface {
	age.Recipient
	String() string
}

func generateIdentity(postQuantum bool) (*Identity, error) {
	if postQuantum {
		key, err := age.GenerateHybridIdentity()
		if err != nil {
			return nil, err
		}
		return newIdentity(key, key.Recipient()), nil
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	return newIdentity(key, key.Recipient()), nil
}

func newIdentity(key ageIdentity, recipient ageRecipient) *Identity {
	return &Identity{key: key, recipient: recipient}
}

// LoadIdentity reads the one identity in a file that MakeIdentity or
// age-keygen wrote. A missing file is an fs.ErrNotExist. A file that others
// can read, a link, or anything but a regular file of the caller's own is
// refused, as is a folder that others can change.
func LoadIdentity(path string) (*Identity, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	text, err := readOwn(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	id, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("identity file %q: %w", path, err)
	}
	return id, nil
}

// readOwn reads a file that only its owner, the caller, may read, in a folder that
// nobody else can change.
func readOwn(path string) ([]byte, error) {
	f, err := openFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer f.close()
	text, _, err := f.read(filepath.Base(path), ownerOnly)
	return text, err
}

// parseIdentity leaves age's own messages out of its errors: they can quote
// the line, and the line is the key.
func parseIdentity(text []byte) (*Identity, error) {
	var id *Identity
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if id != nil {
			return nil, fmt.Errorf("line %d is a second identity, one is allowed", n)
		}
		var err error
		if id, err = parseNative(line); err != nil {
			return nil, fmt.Errorf("line %d is %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if id == nil {
		return nil, errNoIdentity
	}
	return id, nil
}

var errNoIdentity = errors.New("no identity in it")

func parseNative(line string) (*Identity, error) {
	if key, err := age.ParseX25519Identity(line); err == nil {
		return newIdentity(key, key.Recipient()), nil
	}
	if key, err := age.ParseHybridIdentity(line); err == nil {
		return newIdentity(key, key.Recipient()), nil
	}
	return nil, errors.New("not an AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1… key")
}

// Recipient returns the public half, age1… or age1pq1….
func (id *Identity) Recipient() string { return id.recipient.String() }

// Derive returns 32 bytes that only holders of the identity can compute:
// HKDF-SHA256 (RFC 5869) of the text of the secret key, without salt. Every
// use has an info of its own.
func (id *Identity) Derive(info string) []byte {
	derived, err := hkdf.Key(sha256.New, []byte(id.key.String()), nil, info, 32)
	if err != nil {
		panic(err) // only for more than 255 hashes of output
	}
	return derived
}

// Format implements fmt.Formatter, so that no verb shows the key.
func (id Identity) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, "Identity(redacted)") }
