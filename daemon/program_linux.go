package daemon

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unmapProgram lets go of the pages of this program's own file: starting touches
// nearly all of them, serving a fifth. What is wanted again comes back from the
// page cache. Until then they count as this process's, for the kernel when it
// looks for one to kill, too.
func unmapProgram() {
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var begin, end uint64
	for line := range strings.Lines(string(maps)) {
		switch f := strings.Fields(line); {
		case len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && begin != 0:
			// None of its pages was ever written to (a dynamic linker does): all come back.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
		case len(f) >= 6 && !strings.HasSuffix(f[0], ":"):
			// The range, how it may be used, and where in which file of which device.
			begin, end = 0, 0
			if from, to, ok := strings.Cut(f[0], "-"); ok && f[4] != "0" && !strings.Contains(f[1], "w") {
				begin, _ = strconv.ParseUint(from, 16, 64)
				end, _ = strconv.ParseUint(to, 16, 64)
			}
		case len(f) == 5 && strings.Contains(f[0], "-"): // it is no file's
			begin = 0
		}
	}
}
