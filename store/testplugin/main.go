// Age-plugin-test is an age plugin for tests. What it does with a person is in
// the data of its identity: words, each a step before the file key is given.
// Its key is known to everybody.
package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

func main() {
	p, err := plugin.New("test")
	if err != nil {
		panic(err)
	}
	token := func(data []byte) *token { return &token{p, string(data)} }
	p.HandleIdentity(func(data []byte) (age.Identity, error) { return token(data), nil })
	p.HandleIdentityAsRecipient(func(data []byte) (age.Recipient, error) { return token(data), nil })
	os.Exit(p.Main())
}

// token is the hardware that there is none of.
type token struct {
	p     *plugin.Plugin
	words string
}

func (t *token) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	for word := range strings.FieldsSeq(t.words) {
		if rest, ok := strings.CutPrefix(word, "wrap-"); ok {
			if err := t.step(rest); err != nil {
				return nil, err
			}
		}
	}
	body := t.sealer().Seal(nil, nil, fileKey, nil) //nolint:gosec // it puts in a random nonce
	return []*age.Stanza{{Type: "test", Body: body}}, nil
}

func (t *token) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type != "test" {
			continue
		}
		fileKey, err := t.sealer().Open(nil, nil, s.Body, nil)
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(t.words) {
			if !strings.HasPrefix(word, "wrap-") {
				if err := t.step(word); err != nil {
					return nil, err
				}
			}
		}
		return fileKey, nil
	}
	return nil, age.ErrIncorrectIdentity
}

func (t *token) step(word string) error {
	switch word {
	case "message":
		return t.p.DisplayMessage("touch the \x1b[31mtoken")
	case "pin":
		pin, err := t.p.RequestValue("PIN of the token", true)
		if err == nil && pin != "1234" {
			err = errors.New("wrong PIN")
		}
		return err
	case "serial":
		serial, err := t.p.RequestValue("serial number of the token", false)
		if err == nil && serial != "42" {
			err = errors.New("no such token")
		}
		return err
	case "confirm":
		yes, err := t.p.Confirm("give the key?", "give", "keep")
		if err == nil && !yes {
			err = errors.New("the person said no")
		}
		return err
	case "escape":
		return errors.New("\x1b]0;title\x07no\nsecond line")
	case "die":
		os.Exit(3)
	case "hang":
		signal.Ignore(os.Interrupt)
		fmt.Fprintln(os.Stderr, "hanging")
		time.Sleep(time.Hour)
	}
	return nil
}

func (t *token) sealer() cipher.AEAD {
	key := sha256.Sum256([]byte(t.words))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	sealer, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return sealer
}
