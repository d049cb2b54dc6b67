package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is held for the life of the one daemon of a store. Its file names the
// socket, so that clients with another XDG_RUNTIME_DIR find the same daemon.
type Lock struct {
	f *os.File
}

// Acquire takes the lock at path, making the file if need be. Where another
// daemon has it, it waits until that one listens on the socket it has named,
// and returns the socket and no lock; or until it has ended.
func Acquire(ctx context.Context, path string) (lock *Lock, holder string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, "", err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			if err = f.Truncate(0); err == nil {
				return &Lock{f}, "", nil
			}
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, "", fmt.Errorf("locking %s: %w", path, err)
		}
		if s := Holder(path); s != "" && listens(s) {
			f.Close()
			return nil, s, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, "", fmt.Errorf("waiting for the daemon that holds %s to listen: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// listens reports whether anybody listens on a socket. The one that a lock's
// file names may be that of a daemon that was killed, or that is about to end.
func listens(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT)
}

// Held reports whether a daemon has the lock at path.
func Held(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hang
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Publish names the socket that the holder now listens on.
func (l *Lock) Publish(socket string) error {
	_, err := l.f.WriteAt([]byte(socket+"\n"), 0)
	return err
}

// Release ends the lock. It must be the last thing that touches the store.
func (l *Lock) Release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

// Holder returns the socket that the lock's file names, or "" where it names
// none. The daemon that wrote it may be gone.
func Holder(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	// Without its newline the name may be half-written.
	line, _, whole := bytes.Cut(b, []byte("\n"))
	if !whole {
		return ""
	}
	return string(line)
}
