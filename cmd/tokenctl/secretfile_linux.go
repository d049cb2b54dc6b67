package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// secretFile puts a secret into a file in memory that nobody can change, and
// returns the path by which the program that takes our place can open it, more
// than once.
func secretFile(secret string) (string, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("tokenctl", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("tokenctl", flags)
	}
	if err != nil {
		return "", fmt.Errorf("making a file in memory: %w", err)
	}
	if n, err := unix.Write(fd, []byte(secret)); err != nil {
		return "", fmt.Errorf("writing a file in memory: %w", err)
	} else if n < len(secret) {
		return "", fmt.Errorf("writing a file in memory: %w", io.ErrShortWrite)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return "", fmt.Errorf("sealing a file in memory: %w", err)
	}
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return "", err
	}
	// A copy that is inherited, out of the way of the numbers that scripts use.
	fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 10)
	if err != nil {
		return "", err
	}
	return "/dev/fd/" + strconv.Itoa(fd), nil
}
