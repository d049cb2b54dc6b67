package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// WithFiles returns an identity that opens also what the keys in those files
// open: native age identities, one a line, and unencrypted OpenSSH private keys
// of Ed25519 or RSA, one a file. All else is as without them: what is written is
// encrypted to id alone. The files must be as LoadIdentity wants them, 0600 and
// of the caller's own. The paths are absolute.
//
// The error is of the files that cannot be used; the identity opens what the others
// open all the same.
func (id *Identity) WithFiles(paths []string) (*Identity, error) {
	with := *id
	with.further = nil
	var problems error
	for _, path := range paths {
		keys, err := loadKeys(path)
		switch {
		case err == nil:
			with.further = append(with.further, keys...)
		case problems == nil:
			problems = err
		default:
			problems = fmt.Errorf("%w; %w", problems, err) // one line, unlike errors.Join
		}
	}
	return &with, problems
}

func loadKeys(path string) ([]age.Identity, error) {
	text, err := readOwn(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	keys, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("identity file %q: %w", path, err)
	}
	return keys, nil
}

func parseKeys(text []byte) ([]age.Identity, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")) {
		key, err := parseOpenKey(text)
		if err != nil {
			return nil, err
		}
		return []age.Identity{key}, nil
	}
	var keys []age.Identity
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "AGE-PLUGIN-"):
			return nil, fmt.Errorf("line %d is a plugin's, and plugins are run for the store's own identity alone", n)
		}
		id, err := parseNative(line)
		if err != nil {
			return nil, fmt.Errorf("line %d is %w", n, err)
		}
		keys = append(keys, id.key)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if keys == nil {
		return nil, errNoIdentity
	}
	return keys, nil
}

// parseOpenKey reads an SSH private key that has no passphrase.
func parseOpenKey(text []byte) (age.Identity, error) {
	key, err := ssh.ParseRawPrivateKey(text)
	if errors.As(err, new(*ssh.PassphraseMissingError)) {
		return nil, errors.New("the SSH key in it has a passphrase, and nobody is asked for that of a further identity")
	}
	if err != nil {
		return nil, errors.New("it is no SSH private key, nor lines of AGE-SECRET-KEY-1…")
	}
	return ageOfSSH(key)
}
