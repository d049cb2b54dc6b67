package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Ask puts a Prompt to a person and returns the answer. An error means that there
// is nobody who answers; it is returned as it is by what asked.
type Ask func(context.Context, Prompt) (Answer, error)

// PromptKind says how a person is asked.
type PromptKind int

// The kinds of Prompt.
const (
	AskSecret    PromptKind = iota + 1 // a secret that exists: Answer.Secret
	AskNewSecret                       // a new one, to be typed twice: Answer.Secret
	AskText                            // a line that may be seen: Answer.Text
	AskConfirm                         // a choice: Answer.Yes
	AskMessage                         // nothing: it is to be shown
	AskSSHKey                          // the private key of Prompt.PublicKey: Answer.Secret
)

// Prompt is what a person is asked.
type Prompt struct {
	Kind      PromptKind
	Message   string // one line; may come from a plugin, so it is not printable as it is
	Yes, No   string // labels of AskConfirm; an empty No leaves one choice
	PublicKey string // of AskSSHKey, as in authorized_keys
	Again     bool   // the answer before was wrong
}

// Answer is what a person said. It prints as redacted. Whoever asked wipes the
// secret after use.
type Answer struct {
	Secret []byte
	Text   string
	Yes    bool
}

// Format implements fmt.Formatter, so that no verb shows the secret.
func (Answer) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, "Answer(redacted)") }

// ErrRefused means that what a person answered opens nothing: a wrong
// passphrase, another SSH key, or a plugin that said no.
var ErrRefused = errors.New("it does not open the identity")
