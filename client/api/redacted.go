package api

import (
	"fmt"
	"io"
)

// These hold secrets and print without them, whatever the verb.

func redacted(f fmt.State, name string) { _, _ = io.WriteString(f, name+"[redacted]") }

// Format implements [fmt.Formatter].
func (GetTokenResponse) Format(f fmt.State, _ rune) { redacted(f, "GetTokenResponse") }

// Format implements [fmt.Formatter].
func (PutProfileRequest) Format(f fmt.State, _ rune) { redacted(f, "PutProfileRequest") }

// Format implements [fmt.Formatter].
func (RevealProfileResponse) Format(f fmt.State, _ rune) { redacted(f, "RevealProfileResponse") }

// Format implements [fmt.Formatter].
func (Variable) Format(f fmt.State, _ rune) { redacted(f, "Variable") }
