// Package harden is what the daemon does to its own process before it holds a
// secret, and what of it is really in force.
//
// What it leaves out, and why: no_new_privs would break what commands of
// profiles and age plugins are started through (sudo, snap), and keeps from a
// program of the same user nothing that it cannot do by itself. Locking memory
// against swap fails at the limits that users have (RLIMIT_MEMLOCK), for a whole
// Go process by far; where there is swap that is not encrypted, doctor says so.
package harden

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Protection is one measure as it is now, read back from the operating system
// or tried out where that is possible.
type Protection struct {
	ID     string // one of [IDs]; what TOKEND_FLOOR calls it
	Name   string
	Active bool
	Detail string // what is in force, or why it is not: one line
}

// The IDs of protections.
const (
	PrivateFiles = "private-files"
	NoCores      = "no-cores"
	NoDebugger   = "no-debugger"
	NoTracer     = "no-tracer"
	Environ      = "environment"
	WipeHeap     = "wipe-heap"
	WipeStacks   = "wipe-stacks"
)

// IDs are those of all protections, in the order of [Active].
var IDs = []string{PrivateFiles, NoCores, NoDebugger, NoTracer, Environ, WipeHeap, WipeStacks}

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

// Process applies everything that is not built in, or returns why this process
// must not go on: it is being traced. A measure that the system refuses is no
// error; [Active] tells.
func Process() error {
	unix.Umask(0o077)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	denyDebugger()
	// After the last measure that keeps further tracers away.
	pid, err := tracer()
	if err != nil {
		return fmt.Errorf("looking for a tracer: %w", err)
	}
	if pid != 0 {
		return fmt.Errorf("refusing to run: traced by process %d", pid)
	}
	return nil
}

// Active says of each protection whether it is in force now.
func Active() []Protection {
	return []Protection{privateFiles(), noCores(), noDebugger(), noTracer(), environment(), wipeHeap(), wipeStacks()}
}

func privateFiles() Protection {
	// There is no other way to ask on every system, and none wants another one.
	was := unix.Umask(0o077)
	return Protection{PrivateFiles, "private files", was == 0o077, fmt.Sprintf("umask %03o", was)}
}

func noCores() Protection {
	p := Protection{ID: NoCores, Name: "core dumps"}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &now); err != nil {
		p.Detail = err.Error()
		return p
	}
	p.Active = now.Cur == 0 && now.Max == 0
	if p.Detail = "none: RLIMIT_CORE 0"; !p.Active {
		p.Detail = fmt.Sprintf("RLIMIT_CORE %d, at most %d", now.Cur, now.Max)
	}
	return p
}

func noTracer() Protection {
	p := Protection{ID: NoTracer, Name: "tracer"}
	switch pid, err := tracer(); {
	case err != nil:
		p.Detail = err.Error()
	case pid != 0:
		p.Detail = fmt.Sprintf("process %d reads this one's memory", pid)
	default:
		p.Active, p.Detail = true, "none now, and none at the start"
	}
	return p
}

func environment() Protection {
	p := Protection{ID: Environ, Name: "environment", Active: true, Detail: strings.Join(dropped, ", ") + " dropped"}
	if i := slices.IndexFunc(dropped, func(name string) bool { _, ok := os.LookupEnv(name); return ok }); i >= 0 {
		p.Active, p.Detail = false, dropped[i]+" is set"
	}
	return p
}
