package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// pipeRoom is what a pipe surely takes before anyone reads it, in bytes.
const pipeRoom = 16 << 10

// secretFile puts a secret into a pipe, and returns the path by which the
// program that takes our place can read it, once.
func secretFile(secret string) (string, error) {
	if len(secret) > pipeRoom {
		return "", errors.New("the token is longer than 16 KiB, which no pipe surely takes")
	}
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return "", fmt.Errorf("making a pipe: %w", err)
	}
	if n, err := unix.Write(p[1], []byte(secret)); err != nil {
		return "", fmt.Errorf("writing to a pipe: %w", err)
	} else if n < len(secret) {
		return "", fmt.Errorf("writing to a pipe: %w", io.ErrShortWrite)
	}
	if err := unix.Close(p[1]); err != nil {
		return "", err
	}
	unix.CloseOnExec(p[0])
	// A copy that is inherited, out of the way of the numbers that scripts use.
	fd, err := unix.FcntlInt(uintptr(p[0]), unix.F_DUPFD, 10)
	if err != nil {
		return "", err
	}
	return "/dev/fd/" + strconv.Itoa(fd), nil
}
