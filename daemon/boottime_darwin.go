package daemon

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is a clock that nobody sets and that counts sleep, which on macOS
// CLOCK_MONOTONIC does.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("reading CLOCK_MONOTONIC: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// bootID names this start of the machine; "" if it has no name.
func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}
