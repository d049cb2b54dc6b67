package harden

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// notDumpable keeps processes of the same user from attaching or from reading
// /proc/PID/mem, and the kernel from writing a core through a core_pattern pipe.
func notDumpable() Protection {
	p := Protection{Name: "not dumpable"}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		p.Detail = err.Error()
		return p
	}
	v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	p.Active = err == nil && v == 0
	p.Detail = "PR_SET_DUMPABLE 0"
	return p
}

// tracer returns the process that traces this one, 0 if none. One that was
// attached before notDumpable stays attached, so it has to be looked for.
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
