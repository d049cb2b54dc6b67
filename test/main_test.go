// Package test has the end-to-end tests: the binaries as they are shipped,
// against real servers.
package test

import (
	"fmt"
	"os"
	"os/exec"
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
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace,nethttpomithttp2",
		"-ldflags", "-s -w -X main.version=v0-test", "-o", binDir,
		"tokend/cmd/tokend", "tokend/cmd/tokenctl", "tokend/test/authserver/cmd/authserver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
