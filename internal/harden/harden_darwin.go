package harden

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// denied is what the kernel said to PT_DENY_ATTACH, which cannot be read back.
var denied = errors.New("not asked for")

// denyDebugger asks the kernel to refuse debuggers. Without a signature and the
// hardened runtime that is a speed bump only.
func denyDebugger() { denied = unix.PtraceDenyAttach() }

func noDebugger() Protection {
	p := Protection{ID: NoDebugger, Name: "no debugger"}
	if denied != nil {
		p.Detail = "PT_DENY_ATTACH: " + denied.Error()
		return p
	}
	p.Active, p.Detail = true, "PT_DENY_ATTACH; sign with the hardened runtime for more"
	return p
}

const pTraced = 0x800 // P_TRACED in <sys/proc.h>

func tracer() (int, error) {
	kp, err := unix.SysctlKinfoProc("kern.proc.pid", os.Getpid())
	if err != nil {
		return 0, err
	}
	if kp.Proc.P_flag&pTraced == 0 {
		return 0, nil
	}
	return int(kp.Eproc.Ppid), nil
}

// overwriteSignalStacks is for Linux: there is no way to signal one thread without
// cgo.
func overwriteSignalStacks() {}
