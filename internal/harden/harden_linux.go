package harden

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// opened says that this program could be looked into like any other before
// denyDebugger. A /proc/PID/mem that was opened then reads its memory for as long as
// it runs, and nothing tells that there is one. Of a program whose file the user may
// run but not read, the kernel opens none.
var opened = dumpable() == 1

func dumpable() int {
	v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return 1
	}
	return v
}

// denyDebugger keeps processes of the same user from attaching or from reading
// /proc/PID/mem, and the kernel from writing a core through a core_pattern pipe,
// for which RLIMIT_CORE does not count.
func denyDebugger() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

func noDebugger() Protection {
	p := Protection{ID: NoDebugger, Name: "not dumpable"}
	switch v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); {
	case err != nil:
		p.Detail = err.Error()
	case v == 0:
		p.Active, p.Detail = true, "PR_SET_DUMPABLE 0: no debugger, no /proc/PID/mem"
	default:
		p.Detail = "PR_SET_DUMPABLE " + strconv.Itoa(v)
	}
	if p.Active && opened && os.Geteuid() != 0 { // root may read every file
		p.Detail += ", but for who opened that while this program started"
		if exe, err := os.Executable(); err == nil {
			p.Detail += "; to keep it from the next: chmod 111 '" + exe + "'"
		}
	}
	return p
}

// tracer returns the process that traces this one, 0 if none. One that was
// attached before denyDebugger stays attached, and root's may come at any time,
// so it has to be looked for.
func tracer() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte("TracerPid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	return 0, errors.New("/proc/self/status has no TracerPid")
}
