//go:build !goexperiment.runtimesecret

package harden

// Secretly calls f. This program was built without GOEXPERIMENT=runtimesecret,
// with which f's stack and registers were cleared when it returns.
func Secretly(f func()) { f() }

func secretly() bool { return false }
