package daemon

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is a clock that nobody sets and that counts suspend.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("reading CLOCK_BOOTTIME: " + err.Error()) // kernels have had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// bootID names this start of the machine; "" if it has no name.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
