//go:build goexperiment.runtimesecret

package harden

import "runtime/secret"

// Secretly calls f, and clears the stack and the registers that it used when it
// returns. It does not reach goroutines that f starts, and is nothing but a call
// on other systems than Linux on amd64 and arm64, and where this program was
// built without GOEXPERIMENT=runtimesecret.
func Secretly(f func()) { secret.Do(f) }

func secretly() bool { return secret.Enabled() }
