package api

import (
	"fmt"
	"io"
)

// These hold secrets and print without them, whatever the verb.

func redacted(f fmt.State, name string) { _, _ = io.WriteString(f, name+"[redacted]") }

// Format implements [fmt.Formatter].
func (CreateDPoPProofRequest) Format(f fmt.State, _ rune) { redacted(f, "CreateDPoPProofRequest") }

// Format implements [fmt.Formatter].
func (CreateDPoPProofResponse) Format(f fmt.State, _ rune) { redacted(f, "CreateDPoPProofResponse") }

// Format implements [fmt.Formatter].
func (GetTokenResponse) Format(f fmt.State, _ rune) { redacted(f, "GetTokenResponse") }

// Format implements [fmt.Formatter].
func (LoginRequestInitialAccessToken) Format(f fmt.State, _ rune) {
	redacted(f, "LoginRequestInitialAccessToken")
}

// Format implements [fmt.Formatter].
func (LoginRequestRedirection) Format(f fmt.State, _ rune) { redacted(f, "LoginRequestRedirection") }

// Format implements [fmt.Formatter].
func (LoginRequestStart) Format(f fmt.State, _ rune) { redacted(f, "LoginRequestStart") }

// Format implements [fmt.Formatter].
func (LoginResponseOpenURL) Format(f fmt.State, _ rune) { redacted(f, "LoginResponseOpenURL") }

// Format implements [fmt.Formatter].
func (LoginResponseShowCode) Format(f fmt.State, _ rune) { redacted(f, "LoginResponseShowCode") }

// Format implements [fmt.Formatter].
func (ImportProfileRequest) Format(f fmt.State, _ rune) { redacted(f, "ImportProfileRequest") }

// Format implements [fmt.Formatter].
func (PromptAnswer) Format(f fmt.State, _ rune) { redacted(f, "PromptAnswer") }

// Format implements [fmt.Formatter].
func (PutProfileRequest) Format(f fmt.State, _ rune) { redacted(f, "PutProfileRequest") }

// Format implements [fmt.Formatter].
func (RegisterRequestUser) Format(f fmt.State, _ rune) { redacted(f, "RegisterRequestUser") }

// Format implements [fmt.Formatter].
func (ReportTokenRequest) Format(f fmt.State, _ rune) { redacted(f, "ReportTokenRequest") }

// Format implements [fmt.Formatter].
func (RevealProfileResponse) Format(f fmt.State, _ rune) { redacted(f, "RevealProfileResponse") }

// Format implements [fmt.Formatter].
func (Variable) Format(f fmt.State, _ rune) { redacted(f, "Variable") }
