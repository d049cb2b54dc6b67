package store

import "golang.org/x/sys/unix"

// syncFd asks the drive itself: fsync on macOS returns once the data are in
// the drive's cache. File systems that cannot (SMB) get an fsync.
func syncFd(fd int) error {
	err := uninterrupted(func() error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_FULLFSYNC, 0)
		return err
	})
	if err == unix.ENOTSUP {
		err = uninterrupted(func() error { return unix.Fsync(fd) })
	}
	return err
}
