package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// recipientsName is passage's convention: whom the secrets in a folder and
// below are encrypted to, one recipient a line.
const recipientsName = ".age-recipients"

// RecipientsFile is the .age-recipients file of a folder as it is on disk.
type RecipientsFile struct {
	Folder string // "" is the root
	Lines  []byte
}

// UntrustedError says that Put would have encrypted to an .age-recipients file
// that is not trusted.
type UntrustedError struct {
	Folder string // that holds the file; "" is the root
}

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("the recipients in %q are not trusted", path.Join(e.Folder, recipientsName))
}

// Recipients returns the .age-recipients file in exactly that folder, "" for
// the root, or ErrNotExist.
func (a *Age) Recipients(ctx context.Context, folder string) (RecipientsFile, error) {
	var elements []string
	if folder != "" {
		var err error
		if elements, err = splitName(folder); err != nil {
			return RecipientsFile{}, err
		}
		if len(elements) == maxElements {
			return RecipientsFile{}, &NameError{folder, "leaves no element for a name in that folder"}
		}
	}
	if err := ctx.Err(); err != nil {
		return RecipientsFile{}, err
	}
	if a.trusted == nil {
		return RecipientsFile{}, ErrNotExist
	}
	a.files.RLock()
	defer a.files.RUnlock()
	w, err := a.walk(append(elements, recipientsName))
	if err != nil {
		return RecipientsFile{}, fmt.Errorf("reading recipients of %q: %w", folder, err)
	}
	defer w.close()
	if !w.complete() {
		return RecipientsFile{}, fmt.Errorf("reading recipients of %q: %w", folder, ErrNotExist)
	}
	lines, _, err := w.last().read(recipientsName, othersWrite)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotExist
	}
	if err != nil {
		return RecipientsFile{}, fmt.Errorf("reading recipients of %q: %w", folder, err)
	}
	return RecipientsFile{folder, lines}, nil
}

// recipientsFor returns whom to encrypt a name to: own, unless there is a file
// that says otherwise. a.files is held.
func (a *Age) recipientsFor(w *walk, own ageRecipient) ([]age.Recipient, error) {
	if a.trusted == nil {
		return []age.Recipient{own}, nil
	}
	for i := w.n - 1; i >= 0; i-- {
		lines, _, err := w.folders[i].read(recipientsName, othersWrite)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		folder := path.Join(w.elements[:i]...)
		if !a.trusted(folder, lines) {
			return nil, &UntrustedError{folder}
		}
		recipients, err := parseRecipients(lines, own)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", w.folders[i].join(recipientsName), err)
		}
		return recipients, nil
	}
	return []age.Recipient{own}, nil
}

// parseRecipients refuses lines that own is not among.
func parseRecipients(text []byte, own ageRecipient) ([]age.Recipient, error) {
	var recipients []age.Recipient
	readable := false
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		r, err := parseRecipient(line)
		if err != nil {
			return nil, fmt.Errorf("line %d is not a recipient of a kind that can be used: age1…, age1pq1…, ssh-ed25519 or ssh-rsa", n)
		}
		recipients = append(recipients, r)
		if native, ok := r.(ageRecipient); ok && native.String() == own.String() {
			readable = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if !readable {
		return nil, fmt.Errorf("this store's own recipient is not among its lines, so it could not read the secret back; add the line %s", own)
	}
	return recipients, nil
}

func parseRecipient(line string) (age.Recipient, error) {
	if strings.HasPrefix(line, "ssh-") {
		return agessh.ParseRecipient(line)
	}
	if strings.HasPrefix(line, "age1pq1") {
		return age.ParseHybridRecipient(line)
	}
	return age.ParseX25519Recipient(line)
}
