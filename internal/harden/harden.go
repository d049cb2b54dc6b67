// Package harden is what the daemon does to its own process before it holds a
// secret, and what of it is really active.
package harden

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Protection is one measure, as read back from the operating system where
// that tells.
type Protection struct {
	Name   string
	Active bool
	Detail string
}

// dropped are variables that would make a library write secrets somewhere.
// Libraries read them while they are initialised, before main.
var dropped = []string{"GODEBUG", "GOTRACEBACK", "SSLKEYLOGFILE"}

// Environment starts this program anew, in place, without the variables that
// make libraries log what they handle, if there are any. It returns only if
// there are none or if that failed.
func Environment() error {
	found := false
	for _, name := range dropped {
		if _, ok := os.LookupEnv(name); ok {
			found = true
			_ = os.Unsetenv(name)
		}
	}
	if !found {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("starting anew without GODEBUG and the like: %w", unix.Exec(exe, os.Args, os.Environ()))
}

// Process applies everything, or returns why this process must not go on: it
// is being traced. A measure that the system refuses is reported as inactive,
// not as an error.
func Process() ([]Protection, error) {
	unix.Umask(0o077)
	all := []Protection{
		noCores(),
		notDumpable(),
		{Name: "environment", Active: true, Detail: "GODEBUG, GOTRACEBACK and SSLKEYLOGFILE dropped"},
	}
	// After the last measure that keeps further tracers away.
	pid, err := tracer()
	if err != nil {
		return nil, fmt.Errorf("looking for a tracer: %w", err)
	}
	if pid != 0 {
		return nil, fmt.Errorf("refusing to run: traced by process %d", pid)
	}
	return append(all, Protection{Name: "tracer", Active: true, Detail: "none found at start"}), nil
}

func noCores() Protection {
	p := Protection{Name: "core dumps"}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		p.Detail = err.Error()
		return p
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &now); err != nil {
		p.Detail = err.Error()
		return p
	}
	p.Active = now.Cur == 0 && now.Max == 0
	p.Detail = "RLIMIT_CORE 0"
	return p
}
