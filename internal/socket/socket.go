// Package socket is the Unix socket between tokend and its clients: who may
// listen, who may connect, and how the one finds the other. Each side checks
// the other: the daemon that a peer is the same user, the client that the
// socket and the process behind it are.
package socket

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// ErrNotRunning is returned by [Dial] where nothing listens.
var ErrNotRunning = errors.New("nothing listens there")

// Peer is the process at the other end of a connection, as the kernel saw it
// when it connected. It is a [net.Addr].
type Peer struct {
	PID, UID int

	conn *conn // nil at the client's end
}

// Network returns "unix".
func (Peer) Network() string { return "unix" }

func (p Peer) String() string {
	return "pid " + strconv.Itoa(p.PID)
}

// Dial connects to the socket at path, having checked that only this user can
// have put it there, and then that this user's process answers. A full
// backlog is waited for until ctx ends.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(time.Duration(1+rand.IntN(10)) * time.Millisecond):
				continue
			}
		}
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNotRunning
		}
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(c.(*net.UnixConn))
		if err == nil && peer.UID != os.Geteuid() {
			err = errors.New("socket " + path + " is served by user " + strconv.Itoa(peer.UID) + ", not by you")
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
}

func checkSocket(path string) error {
	if err := checkFolder(filepath.Dir(path)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNotRunning
		}
		return err
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotRunning
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return errors.New(path + " is not a socket")
	}
	if owner(fi) != os.Geteuid() {
		return errors.New("socket " + path + " belongs to user " + strconv.Itoa(owner(fi)))
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return errors.New("socket " + path + " is open to others; run: chmod 600 '" + path + "'")
	}
	return nil
}

// checkFolder refuses a socket's folder that anybody else could write to.
func checkFolder(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch {
	case !fi.IsDir():
		return errors.New(dir + " is not a folder")
	case owner(fi) != os.Geteuid():
		return errors.New("folder " + dir + " of the socket belongs to user " + strconv.Itoa(owner(fi)) + "; set TOKEND_SOCKET to a path in a folder of your own")
	case fi.Mode().Perm()&0o077 != 0:
		return errors.New("folder " + dir + " of the socket is open to others; run: chmod 700 '" + dir + "'")
	}
	return nil
}

func owner(fi fs.FileInfo) int {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
