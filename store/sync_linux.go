package store

import "golang.org/x/sys/unix"

func syncFd(fd int) error {
	return uninterrupted(func() error { return unix.Fsync(fd) })
}
