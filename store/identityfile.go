package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Files in which an identity is kept. While one takes the place of another, the
// old one has its hidden name (.X.old), which is of value only where none of
// the three is there; so never two of them are.
const (
	bareFile    = "identity.txt"
	wrappedFile = "identity.age"
	keyringFile = "identity.keyring"
)

// Files beside identity.age that say what is needed to open it.
const (
	sshFile    = "identity.ssh"
	pluginFile = "identity.plugin"
)

var (
	identityFiles  = []string{bareFile, wrappedFile, keyringFile}
	companionFiles = []string{sshFile, pluginFile}
)

// IdentityFile is where an identity lies.
type IdentityFile struct {
	Path       string
	Protection Protection
	Recipient  string // where the file says it without being opened, else ""
}

// Means is what it takes to open an identity and to write it.
type Means struct {
	Wrapper Wrapper
	Items   Items
	Ask     Ask
}

// FindIdentity looks for the one identity in dir, and clears up what a crash in
// MakeIdentity or Protect left; neither may be at work on dir. None at all is an
// fs.ErrNotExist; several are an error.
func FindIdentity(dir string) (*IdentityFile, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	d, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if err := d.sweepIdentity(); err != nil {
		return nil, err
	}
	found, err := d.present(identityFiles, "")
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("identity in %q: %w", dir, fs.ErrNotExist)
	case 1:
		return d.identityFile(found[0])
	}
	return nil, fmt.Errorf("folder %q holds several identities: %s; keep the one that opens your secrets and move the others away",
		dir, strings.Join(found, ", "))
}

// present returns which of the files are there under their own or, with a
// suffix, their hidden names.
func (f folder) present(files []string, suffix string) ([]string, error) {
	var present []string
	for _, file := range files {
		name := file
		if suffix != "" {
			name = hidden(file, suffix)
		}
		_, err := f.stat(name)
		if err == nil {
			present = append(present, file)
		} else if err != unix.ENOENT {
			return nil, err
		}
	}
	return present, nil
}

// sweepIdentity brings back the identity where a crash has left it under its
// hidden name alone, and else clears hidden names away; but for those that tell
// of an item in the keyring, which ForgetItems does.
func (f folder) sweepIdentity() error {
	there, err := f.present(identityFiles, "")
	if err != nil {
		return err
	}
	aside, err := f.present(identityFiles, oldSuffix)
	if err != nil {
		return err
	}
	if len(aside) > 1 {
		// This one was not the last: ForgetItems did not get to its item.
		aside = slices.DeleteFunc(aside, func(file string) bool { return file == keyringFile })
	}
	if len(there) == 0 && len(aside) > 0 {
		if len(aside) > 1 {
			return fmt.Errorf("folder %q holds several old identities: .%s.old; rename the one that opens your secrets",
				f.path, strings.Join(aside, ".old, ."))
		}
		if err := f.rename(hidden(aside[0], oldSuffix), aside[0]); err != nil {
			return err
		}
		if err := f.sync(); err != nil {
			return err
		}
	}
	for _, file := range []string{bareFile, wrappedFile} {
		if err := f.unlinkAll(hidden(file, tempSuffix), hidden(file, oldSuffix)); err != nil {
			return err
		}
	}
	for _, file := range companionFiles {
		if _, err := f.stat(file); err == unix.ENOENT {
			if _, err := f.stat(hidden(file, oldSuffix)); err == nil {
				if err := f.rename(hidden(file, oldSuffix), file); err != nil {
					return err
				}
			}
		}
		if err := f.unlinkAll(hidden(file, tempSuffix), hidden(file, oldSuffix)); err != nil {
			return err
		}
	}
	return nil
}

func (f folder) identityFile(name string) (*IdentityFile, error) {
	found := &IdentityFile{Path: f.join(name)}
	var err error
	switch name {
	case keyringFile:
		found.Protection.Kind = InKeyring
		found.Recipient, _, err = f.readKeyringFile(name)
	case wrappedFile:
		found.Protection, err = f.protection()
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// protection finds out what identity.age is wrapped with.
func (f folder) protection() (Protection, error) {
	sealed, _, err := f.read(wrappedFile, ownerOnly)
	if err != nil {
		return Protection{}, err
	}
	stanzas, err := stanzasOf(sealed)
	if err != nil {
		return Protection{}, fmt.Errorf("identity file %q: %w", f.join(wrappedFile), err)
	}
	ssh := false
	for _, s := range stanzas {
		if s.Type == "scrypt" {
			return Protection{Kind: Passphrase}, nil
		}
		ssh = ssh || s.Type == "ssh-ed25519" || s.Type == "ssh-rsa"
	}
	sshLine, sshSure, err := f.companion(sshFile, sealed)
	if err != nil {
		return Protection{}, err
	}
	pluginLine, pluginSure, err := f.companion(pluginFile, sealed)
	if err != nil {
		return Protection{}, err
	}
	var p Protection
	file := pluginFile
	switch {
	case sshSure, ssh && !pluginSure:
		file = sshFile
		if sshLine == "" {
			return p, fmt.Errorf("%q is wrapped to an SSH key, and %q, which is to hold its public key, does not say which",
				f.join(wrappedFile), f.join(sshFile))
		}
		p, err = sshProtection(sshLine)
	case pluginLine != "":
		p, err = pluginProtection(pluginLine)
	default:
		return p, fmt.Errorf("%q is wrapped neither with a passphrase nor to an SSH key, and %q does not say to what plugin's identity",
			f.join(wrappedFile), f.join(pluginFile))
	}
	if err != nil {
		return p, fmt.Errorf("%q: %w", f.join(file), err)
	}
	return p, nil
}

// A companion file holds a line for identity.age, below a comment that says for
// which: while another is put in its place, there is a line for each. A file
// that a person made may do without, where it has one line.
const companionMark = "# opens identity.age with SHA-256 "

type companionLine struct{ of, text string }

func parseCompanion(text []byte) []companionLine {
	var lines []companionLine
	of := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if sum, ok := strings.CutPrefix(line, companionMark); ok {
			of = sum
		} else if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, companionLine{of, line})
			of = ""
		}
	}
	return lines
}

// companion returns the line of a companion file that is meant for this
// identity.age, "" where there is none; sure says that the file tells.
func (f folder) companion(file string, sealed []byte) (line string, sure bool, err error) {
	text, _, err := f.read(file, ownerOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	lines := parseCompanion(text)
	for _, line := range lines {
		if line.of == hashOf(sealed) {
			return line.text, true, nil
		}
	}
	if len(lines) == 1 {
		return lines[0].text, false, nil
	}
	return "", false, nil
}

func hashOf(sealed []byte) string {
	sum := sha256.Sum256(sealed)
	return hex.EncodeToString(sum[:])
}

// addCompanion has a companion file say, beside what it says, what opens sealed.
func (f folder) addCompanion(file, line string, sealed []byte) error {
	text, _, err := f.read(file, ownerOnly)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	text = append(text, companionText(line, sealed)...)
	return f.replace(file, text, exists, func() error { return nil })
}

func companionText(line string, sealed []byte) []byte {
	return fmt.Appendf(nil, "%s%s\n%s\n", companionMark, hashOf(sealed), line)
}

// readKeyringFile reads an identity.keyring file, which name may be the hidden
// name of.
func (f folder) readKeyringFile(name string) (recipient, account string, err error) {
	text, _, err := f.read(name, ownerOnly)
	if err != nil {
		return "", "", err
	}
	recipient, account, err = parseKeyringFile(text)
	if err != nil {
		return "", "", fmt.Errorf("%q: %w", f.join(name), err)
	}
	return recipient, account, nil
}

func parseKeyringFile(text []byte) (recipient, account string, err error) {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		switch {
		case key == "recipient" && recipient == "" && isNativeRecipient(value):
			recipient = value
		case key == "account" && account == "" && isIdentityAccount(value):
			account = value
		default:
			return "", "", fmt.Errorf("line %d is not what tokend writes: recipient age1…, account %s…", n, accountPrefix)
		}
	}
	if recipient == "" || account == "" {
		return "", "", errors.New("it lacks the line of the recipient or of the account")
	}
	return recipient, account, nil
}

func isNativeRecipient(s string) bool {
	r, err := parseRecipient(s)
	native, ok := r.(ageRecipient)
	return err == nil && ok && native.String() == s
}

// accountPrefix begins the account of an item that holds an identity; 26 random
// letters and digits follow, so that an item left over is nobody else's.
const accountPrefix = "identity/"

func isIdentityAccount(s string) bool {
	random, ok := strings.CutPrefix(s, accountPrefix)
	return ok && len(random) == 26 && strings.Trim(random, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// MakeIdentity makes a new identity in dir. It replaces nothing: where there is one
// the error is an fs.ErrExist. Further errors: those of Protect.
func MakeIdentity(ctx context.Context, dir string, postQuantum bool, p Protection, m Means) (*Identity, *IdentityFile, error) {
	found, err := FindIdentity(dir)
	if err == nil {
		return nil, nil, fmt.Errorf("identity file %q: %w", found.Path, fs.ErrExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	id, err := generateIdentity(postQuantum)
	if err != nil {
		return nil, nil, fmt.Errorf("generating an identity: %w", err)
	}
	d, err := openFolder(dir)
	if err != nil {
		return nil, nil, err
	}
	defer d.close()
	text := id.newText()
	defer clear(text)
	made, err := d.protect(ctx, text, id, p, m, "")
	if err != nil {
		return nil, nil, err
	}
	return id, made, nil
}

// text is what the file of an identity holds, as age-keygen writes it.
func (id *Identity) text() []byte {
	return fmt.Appendf(nil, "# public key: %s\n%s\n", id.recipient, id.key)
}

func (id *Identity) newText() []byte {
	text := id.text()
	defer clear(text)
	return fmt.Appendf(nil, "# created: %s\n%s", time.Now().Format(time.RFC3339), text)
}

// Open opens the identity. Errors: ErrRefused, *PluginError, and for one in the
// keyring ErrNotExist.
func (f *IdentityFile) Open(ctx context.Context, m Means) (*Identity, error) {
	d, err := openFolder(filepath.Dir(f.Path))
	if err != nil {
		return nil, err
	}
	defer d.close()
	text, err := f.text(ctx, d, m)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	id, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("identity file %q: %w", f.Path, err)
	}
	if f.Recipient != "" && f.Recipient != id.Recipient() {
		return nil, fmt.Errorf("the keyring holds another identity than %q says", f.Path)
	}
	return id, nil
}

// Sum is the hash of the file as it is now, which says whether it is another one.
func (f *IdentityFile) Sum() (sum [sha256.Size]byte, err error) {
	text, err := readOwn(f.Path)
	if err != nil {
		return sum, err
	}
	defer clear(text)
	return sha256.Sum256(text), nil
}

// ForgetItems deletes from the keyring what a crash in MakeIdentity or Protect has
// left there; neither may be at work on the folder. It asks the keyring nothing
// where nothing was left.
func (f *IdentityFile) ForgetItems(ctx context.Context, items Items) error {
	d, err := openFolder(filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	defer d.close()
	return d.forgetItems(ctx, items)
}

func (f *IdentityFile) text(ctx context.Context, d folder, m Means) ([]byte, error) {
	switch f.Protection.Kind {
	case Bare:
		text, _, err := d.read(filepath.Base(f.Path), ownerOnly)
		return text, err
	case InKeyring:
		_, account, err := d.readKeyringFile(filepath.Base(f.Path))
		if err != nil {
			return nil, err
		}
		text, err := m.Items.Get(ctx, account)
		if errors.Is(err, ErrNotExist) {
			return nil, fmt.Errorf("the identity is gone from the keyring; bring back a copy of it (%w)", err)
		}
		if err != nil {
			return nil, fmt.Errorf("the identity's item: %w", err)
		}
		return text, nil
	}
	sealed, _, err := d.read(filepath.Base(f.Path), ownerOnly)
	if err != nil {
		return nil, err
	}
	text, err := m.Wrapper.Unwrap(ctx, sealed, f.Protection, m.Ask)
	if err != nil {
		return nil, fmt.Errorf("opening identity file %q: %w", f.Path, err)
	}
	return text, nil
}

// Protect wraps id, which is f's, anew: the new file is durable, and was opened,
// before the old one is deleted. A crash leaves one of the two, or both of them,
// which FindIdentity then clears up. Where f lies bare or in the keyring already
// and is to stay so, nothing changes.
//
// Errors: *ProtectionError, *PluginError, ErrRefused where what was wrapped does not
// open again. An error beside a file means that the identity is protected as asked,
// but that the way it was kept before could not be deleted.
//
// Deleting is all that happens to the old file: a disk may keep its blocks, and
// backups and snapshots theirs. What must never have lain bare is made protected.
func (f *IdentityFile) Protect(ctx context.Context, id *Identity, p Protection, m Means) (*IdentityFile, error) {
	if p.Kind == f.Protection.Kind && (p.Kind == Bare || p.Kind == InKeyring) {
		return f, nil
	}
	d, err := openFolder(filepath.Dir(f.Path))
	if err != nil {
		return nil, err
	}
	defer d.close()
	text := id.text()
	defer clear(text)
	return d.protect(ctx, text, id, p, m, filepath.Base(f.Path))
}

// protect writes an identity's text in place of the file old, "" for none.
func (f folder) protect(ctx context.Context, text []byte, id *Identity, p Protection, m Means, old string) (*IdentityFile, error) {
	var err error
	made := &IdentityFile{Protection: p}
	switch p.Kind {
	case Bare:
		err = f.place(bareFile, text, old, func([]byte) error { return nil })
		made.Path = f.join(bareFile)
	case Passphrase, SSH, Plugin:
		err = f.protectWrapped(ctx, text, p, m, old)
		made.Path = f.join(wrappedFile)
	case InKeyring:
		// Its own temporary files would take the place of those that tell of
		// an item left over.
		if err := f.forgetItems(ctx, m.Items); err != nil {
			return nil, err
		}
		err = f.protectInKeyring(ctx, text, id.Recipient(), m.Items, old)
		made.Path, made.Recipient = f.join(keyringFile), id.Recipient()
	default:
		err = &ProtectionError{fmt.Errorf("unknown kind of protection %d", p.Kind)}
	}
	if err != nil {
		return nil, err
	}
	err = f.forget(ctx, made, old, m.Items)
	if err != nil && old != "" {
		return made, fmt.Errorf("the identity is in %q now, but what it was kept in before is not gone: %w", made.Path, err)
	}
	return made, nil
}

func (f folder) protectWrapped(ctx context.Context, text []byte, p Protection, m Means, old string) error {
	companion, line, err := p.companion()
	if err != nil {
		return &ProtectionError{err}
	}
	ask := &newSecret{ask: m.Ask}
	defer ask.forget()
	sealed, err := m.Wrapper.Wrap(ctx, text, p, ask.Ask)
	if err != nil {
		return fmt.Errorf("wrapping the identity: %w", err)
	}
	return f.place(wrappedFile, sealed, old, func(written []byte) error {
		again, err := m.Wrapper.Unwrap(ctx, written, p, ask.Ask)
		if err != nil {
			return fmt.Errorf("opening the wrapped identity for a test: %w", err)
		}
		defer clear(again)
		if !bytes.Equal(again, text) {
			return errors.New("opening the wrapped identity for a test: it is another")
		}
		if companion == "" {
			return nil
		}
		return f.addCompanion(companion, line, sealed)
	})
}

// newSecret answers with the new secret that a person has just typed twice when
// it is asked for to open what it wraps.
type newSecret struct {
	ask    Ask
	secret []byte
}

func (n *newSecret) Ask(ctx context.Context, p Prompt) (Answer, error) {
	if p.Kind == AskSecret && !p.Again && n.secret != nil {
		return Answer{Secret: bytes.Clone(n.secret)}, nil
	}
	answer, err := n.ask(ctx, p)
	if err == nil && p.Kind == AskNewSecret {
		n.secret = bytes.Clone(answer.Secret)
	}
	return answer, err
}

func (n *newSecret) forget() { clear(n.secret) }

func (f folder) protectInKeyring(ctx context.Context, text []byte, recipient string, items Items, old string) error {
	account := accountPrefix + rand.Text()
	// A keyring that is locked or not there is better found out about now, when
	// nothing can be left in it.
	if _, err := items.Get(ctx, account); !errors.Is(err, ErrNotExist) {
		if err == nil {
			err = errors.New("the keyring has an item that nobody has stored")
		}
		return err
	}
	file := fmt.Appendf(nil, "# the identity is in the keyring, as an item of tokend\nrecipient %s\naccount %s\n", recipient, account)
	set := false
	err := f.place(keyringFile, file, old, func([]byte) error {
		set = true
		if err := items.Set(ctx, account, text); err != nil {
			return fmt.Errorf("the identity's item: %w", err)
		}
		again, err := items.Get(ctx, account)
		if err != nil {
			return fmt.Errorf("reading the identity back from the keyring: %w", err)
		}
		defer clear(again)
		if !bytes.Equal(again, text) {
			return errors.New("reading the identity back from the keyring: it is another")
		}
		return nil
	})
	if err != nil && set {
		// Also where ctx has ended, which is why it may be there.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if deleteErr := items.Delete(ctx, account); deleteErr != nil {
			return fmt.Errorf("%w; the item %q may be left in the keyring: %w", err, account, deleteErr)
		}
	}
	return err
}

// place puts data under name, durably, in place of the file old, which keeps
// its hidden name; "" means that there is none. check gets what was read back
// from the disk, before anything changes. After an error all is as it was.
func (f folder) place(name string, data []byte, old string, check func(written []byte) error) error {
	aside := false
	err := f.replace(name, data, old == name, func() error {
		if err := f.readBack(name, data, old, check); err != nil {
			return err
		}
		if old == "" || old == name {
			return nil
		}
		if err := f.rename(old, hidden(old, oldSuffix)); err != nil {
			return err
		}
		aside = true
		return f.sync()
	})
	if err != nil && aside {
		undoErr := f.rename(hidden(old, oldSuffix), old)
		if undoErr == nil {
			undoErr = f.sync()
		}
		if undoErr != nil {
			return fmt.Errorf("%w; undoing the change failed, too: %w", err, undoErr)
		}
	}
	return err
}

func (f folder) readBack(name string, data []byte, old string, check func([]byte) error) error {
	there, err := f.present(identityFiles, "")
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(there, func(file string) bool { return file != old }); i >= 0 {
		return fmt.Errorf("identity file %q: %w", f.join(there[i]), fs.ErrExist)
	}
	written, _, err := f.read(hidden(name, tempSuffix), ownerOnly)
	if err != nil {
		return err
	}
	defer clear(written)
	if !bytes.Equal(written, data) {
		return fmt.Errorf("%q does not hold what was written to it", f.join(hidden(name, tempSuffix)))
	}
	return check(written)
}

// forget deletes what is of no use now that the identity is kept as made says.
func (f folder) forget(ctx context.Context, made *IdentityFile, old string, items Items) error {
	var errs []error
	if old == bareFile || old == wrappedFile {
		errs = append(errs, f.unlink(hidden(old, oldSuffix)))
	}
	used, line, err := made.Protection.companion()
	errs = append(errs, err)
	for _, file := range companionFiles {
		if file != used {
			errs = append(errs, f.unlink(file))
		}
	}
	errs = append(errs, f.sync())
	if used != "" {
		sealed, _, err := f.read(wrappedFile, ownerOnly)
		if err == nil {
			err = f.replace(used, companionText(line, sealed), true, func() error { return nil })
		}
		errs = append(errs, err)
	}
	if old == keyringFile {
		errs = append(errs, f.forgetItems(ctx, items))
	}
	return errors.Join(errs...)
}

// forgetItems deletes from the keyring what identities no longer kept there, or
// never quite, have left, and then the hidden files that told of them.
func (f folder) forgetItems(ctx context.Context, items Items) error {
	for _, suffix := range []string{tempSuffix, oldSuffix} {
		name := hidden(keyringFile, suffix)
		_, account, err := f.readKeyringFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = items.Delete(ctx, account)
		} else if suffix == tempSuffix {
			err = nil // half written, so nothing was stored yet
		}
		if err != nil {
			return fmt.Errorf("deleting the identity that was in the keyring: %w", err)
		}
		if err := f.unlink(name); err != nil {
			return err
		}
		if err := f.sync(); err != nil {
			return err
		}
	}
	return nil
}
