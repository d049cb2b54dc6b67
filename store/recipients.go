package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
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

// RecipientsError says what is wrong with an .age-recipients file, so that nothing
// can be encrypted to whom it lists.
type RecipientsError struct {
	Folder string // that holds the file; "" is the root
	Path   string // of the file
	Err    error
}

func (e *RecipientsError) Error() string { return fmt.Sprintf("%q: %v", e.Path, e.Err) }
func (e *RecipientsError) Unwrap() error { return e.Err }

// Recipients returns the .age-recipients file in exactly that folder, "" for
// the root. Errors: ErrNotExist, and, unless the store is locked, *RecipientsError.
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
	a.mu.Lock()
	own := a.recipient
	a.mu.Unlock()
	if own != nil {
		if _, err := parseRecipients(lines, own); err != nil {
			return RecipientsFile{}, &RecipientsError{folder, w.last().join(recipientsName), err}
		}
	}
	return RecipientsFile{folder, lines}, nil
}

// recipientsFor returns whom to encrypt a name to: own, unless there is a file
// that says otherwise, whose lines it returns as well. a.files is held.
func (a *Age) recipientsFor(w *walk, own ageRecipient) (recipients []age.Recipient, lines []byte, err error) {
	if a.trusted == nil {
		return []age.Recipient{own}, nil, nil
	}
	for i, f := range slices.Backward(w.folders[:w.n]) {
		lines, _, err := f.read(recipientsName, othersWrite)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		folder := path.Join(w.elements[:i]...)
		if !a.trusted(folder, lines) {
			return nil, nil, &UntrustedError{folder}
		}
		recipients, err := parseRecipients(lines, own)
		if err != nil {
			return nil, nil, &RecipientsError{folder, f.join(recipientsName), err}
		}
		return recipients, lines, nil
	}
	return []age.Recipient{own}, nil, nil
}

// parseRecipients refuses lines that own is not among, and those that age cannot
// encrypt one file to.
func parseRecipients(text []byte, own ageRecipient) ([]age.Recipient, error) {
	var recipients []age.Recipient
	var classic, hybrid []int // numbers of lines
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
		if isHybrid(r) {
			hybrid = append(hybrid, n)
		} else {
			classic = append(classic, n)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	switch {
	case len(classic) > 0 && len(hybrid) > 0:
		return nil, fmt.Errorf("post-quantum recipients (age1pq1…, %s) and others (%s) are both in it, and age encrypts no file to both; leave one kind, for all who share these secrets",
			lineNumbers(hybrid), lineNumbers(classic))
	case len(classic) > 0 && isHybrid(own):
		return nil, fmt.Errorf("none of its recipients (%s) is post-quantum, and this store's own recipient, %s, is; age encrypts no file to both: give recipients that are age1pq1… alone, or use an identity that is not post-quantum",
			lineNumbers(classic), short(own))
	case len(hybrid) > 0 && !isHybrid(own):
		return nil, fmt.Errorf("its recipients (%s) are post-quantum, and this store's own recipient, %s, is not; age encrypts no file to both: give recipients that are not age1pq1…, or use a post-quantum identity",
			lineNumbers(hybrid), own)
	case !readable && isHybrid(own):
		return nil, errors.New("this store's own recipient is not among its lines, so it could not read the secret back; add what this prints: tokenctl status -o json | jq -r .recipient")
	case !readable:
		return nil, fmt.Errorf("this store's own recipient is not among its lines, so it could not read the secret back; add the line %s", own)
	}
	return recipients, nil
}

// short is a recipient for an error: a post-quantum one has 2 KB.
func short(r ageRecipient) string {
	if isHybrid(r) {
		return r.String()[:16] + "…"
	}
	return r.String()
}

func isHybrid(r age.Recipient) bool {
	_, hybrid := r.(*age.HybridRecipient)
	return hybrid
}

// lineNumbers is "line 1" or "lines 1, 3".
func lineNumbers(numbers []int) string {
	if len(numbers) == 1 {
		return fmt.Sprintf("line %d", numbers[0])
	}
	return "lines " + strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
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
