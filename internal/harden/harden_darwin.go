package harden

import (
	"os"

	"golang.org/x/sys/unix"
)

// notDumpable asks the kernel to refuse debuggers. Without a signature and the
// hardened runtime that is a speed bump only.
func notDumpable() Protection {
	p := Protection{Name: "no debugger"}
	if err := unix.PtraceDenyAttach(); err != nil {
		p.Detail = err.Error()
		return p
	}
	p.Active = true
	p.Detail = "PT_DENY_ATTACH; sign with the hardened runtime for more"
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
