// Package test has the end-to-end tests: the binaries as they are shipped,
// against real servers.
package test

import (
	"fmt"
	"os"
	"testing"
)

// binDir has tokend, tokenctl and authserver, built as they are shipped.
var binDir string

// programs are what tests run this binary as, by the variable TOKEND_TEST_AS.
var programs = map[string]func() error{"crowd": crowd}

func TestMain(m *testing.M) {
	if program, ok := programs[os.Getenv("TOKEND_TEST_AS")]; ok {
		if err := program(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if binDir, err = os.MkdirTemp("", "tokend-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binDir)
	if err := build(binDir, "tokend/cmd/tokend", "tokend/cmd/tokenctl", "tokend/test/authserver/cmd/authserver"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
