package store

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// IsSealed says whether data begins as an age file does, binary or armored.
func IsSealed(data []byte) bool {
	return bytes.HasPrefix(data, []byte("age-encryption.org/v1\n")) || isArmored(data)
}

func isArmored(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte(armor.Header))
}

// Seal encrypts data to the identity's own recipient.
func (id *Identity) Seal(data []byte) ([]byte, error) {
	return seal(data, []age.Recipient{id.recipient})
}

// Sealed returns what lies under name as it lies there, an age file, and its
// version. It decrypts nothing, so it says nothing of who can open it. Errors
// are those of Get, but for *SealedError and ErrLocked.
func (a *Age) Sealed(ctx context.Context, name string) ([]byte, Version, error) {
	elements, err := splitName(name)
	if err != nil {
		return nil, "", err
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	_, sealed, err := a.load(elements)
	if err != nil {
		return nil, "", fmt.Errorf("reading %q: %w", name, err)
	}
	return sealed, versionOf(sealed), nil
}

// Readers returns whom Put would encrypt to under name now, as a recipients file
// would have them, without comments. Errors are those of Put.
func (a *Age) Readers(ctx context.Context, name string) ([]string, error) {
	elements, err := splitName(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	own := a.recipient
	a.mu.Unlock()
	if own == nil {
		return nil, ErrLocked
	}
	a.files.RLock()
	defer a.files.RUnlock()
	readers, err := a.readers(elements, own)
	if err != nil {
		return nil, fmt.Errorf("looking up who reads %q: %w", name, err)
	}
	return readers, nil
}

func (a *Age) readers(elements []string, own ageRecipient) ([]string, error) {
	w, err := a.walk(elements)
	if err != nil {
		return nil, err
	}
	defer w.close()
	_, lines, err := a.recipientsFor(w, own)
	if err != nil {
		return nil, err
	}
	if lines == nil {
		return []string{own.String()}, nil
	}
	return recipientLines(lines), nil
}

// recipientLines are the recipients of a file that parseRecipients has taken.
func recipientLines(text []byte) []string {
	var readers []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		readers = append(readers, strings.Join(f[:min(len(f), 2)], " ")) // what follows an SSH key is its comment
	}
	return readers
}
