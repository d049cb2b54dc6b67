package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"filippo.io/age"
)

// ProtectionKind is a way to keep an identity on disk.
type ProtectionKind int

// The kinds of Protection.
const (
	Bare       ProtectionKind = iota // identity.txt: by its mode alone
	Passphrase                       // identity.age: age's scrypt
	SSH                              // identity.age, and identity.ssh with the public key
	Plugin                           // identity.age, and identity.plugin with what the plugin needs
	InKeyring                        // identity.keyring: recipient and item
)

// Protection is what wraps an identity.
type Protection struct {
	Kind           ProtectionKind
	PublicKey      string // of SSH, as in authorized_keys
	Plugin         string // name, such as "yubikey"
	PluginIdentity string // AGE-PLUGIN-…; "" is the plugin's own default
}

// A ProtectionError says why nothing can be wrapped with a Protection: it names an
// SSH key or a plugin's identity that is none, or none that age can use.
type ProtectionError struct{ Err error }

func (e *ProtectionError) Error() string { return e.Err.Error() }
func (e *ProtectionError) Unwrap() error { return e.Err }

// Items is the operating system's keyring, as far as it is of use: it cannot list,
// and may hang, but what hangs ends with the context.
type Items interface {
	// Get returns the item of that account, or ErrNotExist.
	Get(ctx context.Context, account string) ([]byte, error)
	// Set makes or replaces an item; a nil error means that it was read back.
	Set(ctx context.Context, account string, secret []byte) error
	// Delete removes an item; one that is not there is no error.
	Delete(ctx context.Context, account string) error
}

// A KeyringError says that the operating system's keyring did not do what it was
// asked for, and of what that is known: why.
type KeyringError struct {
	Cause KeyringCause
	Err   error
}

func (e *KeyringError) Error() string { return e.Err.Error() }
func (e *KeyringError) Unwrap() error { return e.Err }

// KeyringCause is why a keyring could not be used, as far as that says what to do.
type KeyringCause string

// The causes of a KeyringError.
const (
	KeyringFailed KeyringCause = "keyring"        // anything else
	NoBus         KeyringCause = "no_session_bus" // there is nothing to reach it by
	KeyringLocked KeyringCause = "keyring_locked" // and nobody has opened it
)

// Wrapper encrypts and decrypts with what Protection of the kinds Passphrase, SSH
// and Plugin names. ErrRefused means that the person's answer opens nothing.
type Wrapper interface {
	Wrap(ctx context.Context, text []byte, p Protection, ask Ask) (sealed []byte, err error)
	Unwrap(ctx context.Context, sealed []byte, p Protection, ask Ask) (text []byte, err error)
}

// InProcess is a Wrapper that works in this process. It takes 256 MiB for a
// passphrase, hangs where a plugin hangs, and leaves behind in memory what age
// and x/crypto/ssh do not wipe: have it in a process that ends.
type InProcess struct {
	Plugins []string // names of those that may be run
}

var _ Wrapper = InProcess{}

// workFactor is the logarithm of scrypt's N: 256 MiB and about a second. What
// asks for more is refused before it gets it.
const workFactor = 18

// tries is how often a person may answer wrong.
const tries = 3

// Wrap implements Wrapper. It asks for a new passphrase, and what a plugin asks.
func (w InProcess) Wrap(ctx context.Context, text []byte, p Protection, ask Ask) ([]byte, error) {
	switch p.Kind {
	case Passphrase:
		return wrapPassphrase(ctx, text, ask)
	case SSH:
		_, recipient, err := parseSSHKey(p.PublicKey)
		if err != nil {
			return nil, err
		}
		return seal(text, []age.Recipient{recipient})
	case Plugin:
		return w.wrapPlugin(ctx, text, p, ask)
	}
	return nil, fmt.Errorf("protection of kind %d wraps nothing", p.Kind)
}

// Unwrap implements Wrapper.
func (w InProcess) Unwrap(ctx context.Context, sealed []byte, p Protection, ask Ask) ([]byte, error) {
	switch p.Kind {
	case Passphrase:
		return unwrapPassphrase(ctx, sealed, ask)
	case SSH:
		return unwrapSSH(ctx, sealed, p, ask)
	case Plugin:
		return w.unwrapPlugin(ctx, sealed, p, ask)
	}
	return nil, fmt.Errorf("protection of kind %d wraps nothing", p.Kind)
}

func wrapPassphrase(ctx context.Context, text []byte, ask Ask) ([]byte, error) {
	answer, err := ask(ctx, Prompt{Kind: AskNewSecret, Message: "new passphrase for the identity"})
	if err != nil {
		return nil, err
	}
	defer clear(answer.Secret)
	if len(answer.Secret) == 0 {
		return nil, errors.New("the passphrase is empty, which protects nothing")
	}
	recipient, err := age.NewScryptRecipient(string(answer.Secret))
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(workFactor)
	return seal(text, []age.Recipient{recipient})
}

func unwrapPassphrase(ctx context.Context, sealed []byte, ask Ask) ([]byte, error) {
	// Before anybody is asked for what will not be used.
	stanzas, err := stanzasOf(sealed)
	if err != nil {
		return nil, err
	}
	for _, s := range stanzas {
		if s.Type != "scrypt" || len(s.Args) != 2 {
			continue
		}
		if logN, err := strconv.Atoi(s.Args[1]); err != nil || logN > workFactor {
			return nil, fmt.Errorf("its passphrase is to be stretched by scrypt with N = 2^%.20s, and more than 2^%d is refused: it would take all memory",
				s.Args[1], workFactor)
		}
	}
	for try := range tries {
		answer, err := ask(ctx, Prompt{Kind: AskSecret, Message: "passphrase of the identity", Again: try > 0})
		if err != nil {
			return nil, err
		}
		text, err := openWithPassphrase(sealed, answer.Secret)
		clear(answer.Secret)
		if !errors.Is(err, age.ErrIncorrectIdentity) {
			return text, err
		}
	}
	return nil, ErrRefused
}

func openWithPassphrase(sealed, passphrase []byte) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, age.ErrIncorrectIdentity
	}
	identity, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	identity.SetMaxWorkFactor(workFactor)
	return decrypt(sealed, identity)
}

// stanzasOf returns what an age file's header says about who can open it.
func stanzasOf(sealed []byte) ([]*age.Stanza, error) {
	var r stanzaReader
	_, err := decrypt(sealed, &r)
	if r.stanzas == nil {
		return nil, err
	}
	return r.stanzas, nil
}

// stanzaReader is an age.Identity that opens nothing.
type stanzaReader struct{ stanzas []*age.Stanza }

func (r *stanzaReader) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	r.stanzas = stanzas
	return nil, age.ErrIncorrectIdentity
}

// companion returns which file beside identity.age says what opens it, "" for
// none, and the line it says it by.
func (p Protection) companion() (file, line string, err error) {
	switch p.Kind {
	case SSH:
		key, _, err := parseSSHKey(p.PublicKey)
		if err != nil {
			return "", "", err
		}
		return sshFile, sshLine(key), nil
	case Plugin:
		line, err := p.pluginLine()
		return pluginFile, line, err
	}
	return "", "", nil
}
