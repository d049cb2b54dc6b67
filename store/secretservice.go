package store

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"

	"github.com/zalando/go-keyring"
)

// keyringService is what the operating system's keyring knows our items by.
const keyringService = "tokend"

// SecretService is the operating system's keyring: the Secret Service of the
// session bus, or the macOS Keychain. Its calls cannot be ended and may hang, so
// it is only for a process that can be killed: see internal/worker.
type SecretService struct{}

var _ Items = SecretService{}

// Get implements Items.
func (SecretService) Get(ctx context.Context, account string) ([]byte, error) {
	if err := checkKeyring(); err != nil {
		return nil, err
	}
	secret, err := keyring.Get(keyringService, account)
	if err != nil {
		return nil, keyringError(err)
	}
	return []byte(secret), nil
}

// Set implements Items.
func (s SecretService) Set(ctx context.Context, account string, secret []byte) error {
	if runtime.GOOS == "darwin" {
		if err := checkKeychainSize(account, len(secret)); err != nil {
			return err
		}
	}
	if err := checkKeyring(); err != nil {
		return err
	}
	if err := keyring.Set(keyringService, account, string(secret)); err != nil {
		return keyringError(err)
	}
	// go-keyring takes a dismissed prompt for consent.
	back, err := s.Get(ctx, account)
	if errors.Is(err, ErrNotExist) || err == nil && !bytes.Equal(back, secret) {
		return errors.New("the keyring did not keep the item")
	}
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	return nil
}

// Delete implements Items.
func (s SecretService) Delete(ctx context.Context, account string) error {
	if err := checkKeyring(); err != nil {
		return err
	}
	err := keyring.Delete(keyringService, account)
	if errors.Is(err, keyring.ErrNotFound) {
		return nil
	}
	if err != nil {
		return keyringError(err)
	}
	if _, err := s.Get(ctx, account); !errors.Is(err, ErrNotExist) {
		if err == nil {
			err = errors.New("the keyring did not delete the item")
		}
		return err
	}
	return nil
}

// maxKeychainCommand is what /usr/bin/security takes as one command.
const maxKeychainCommand = 4096

// checkKeychainSize says whether go-keyring can give the macOS Keychain a secret
// of so many bytes: it writes a command in which the secret stands in base64.
// It is asked before go-keyring is, which then leaves a process behind.
func checkKeychainSize(account string, size int) error {
	command := len("add-generic-password -U -s ") + len(keyringService) + len(" -a ") + len(account) +
		len(" -w go-keyring-base64:") + base64.StdEncoding.EncodedLen(size) + len("\n")
	if command > maxKeychainCommand {
		return fmt.Errorf("a secret of %d bytes is too large for the macOS Keychain, as it is reached from here; keep it in an age store (TOKEND_STORE=age)", size)
	}
	return nil
}
