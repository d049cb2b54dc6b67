package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Limits on connections. A client that runs into one finds its connection
// closed before any byte.
const (
	maxPerProcess = 64
	maxInAll      = 2560
)

// Listener accepts connections of this user only.
type Listener struct {
	l    *net.UnixListener
	path string
	file fs.FileInfo // the socket as it was bound

	// mu guards the fields that follow.
	mu    sync.Mutex
	byPID map[int]int
	total int
}

// Listen makes the socket at path, in a folder that only this user can enter.
// A socket that is there is replaced only when nothing listens on it: the
// caller holds the store's lock, so what does listen is another store's daemon.
func Listen(path string) (*Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the socket's folder: %w", err)
	}
	if err := checkFolder(dir); err != nil {
		return nil, err
	}
	if err := checkParents(dir); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	fi, err := os.Lstat(path)
	if err == nil && (fi.Mode().Type() != fs.ModeSocket || fi.Mode().Perm() != 0o600 || owner(fi) != os.Geteuid()) {
		err = fmt.Errorf("socket %s was made with mode %v", path, fi.Mode())
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return &Listener{l: l.(*net.UnixListener), path: path, file: fi, byPID: make(map[int]int)}, nil
}

// checkParents refuses a folder that somebody else could swap for another by
// renaming one above it.
func checkParents(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for d := filepath.Dir(real); ; d = filepath.Dir(d) {
		fi, err := os.Lstat(d)
		if err != nil {
			return err
		}
		if o := owner(fi); o != 0 && o != os.Geteuid() {
			return fmt.Errorf("folder %s, above the socket, belongs to user %d", d, o)
		}
		if fi.Mode().Perm()&0o022 != 0 && fi.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("folder %s, above the socket, can be written to by others; run: chmod go-w '%s'", d, d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket; it stays as it is", path)
	}
	c, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("another daemon listens on %s; set TOKEND_SOCKET to a path of its own for each TOKEND_DIR", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("socket %s may be in use: %w", path, err)
	}
	return os.Remove(path)
}

// Accept returns the next connection of this user that is within the limits.
// All others are closed before a byte of theirs is read.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(c)
		if err != nil || !allowed(peer) || !l.admit(peer.PID) {
			_ = c.Close()
			continue
		}
		return &conn{UnixConn: c, peer: peer, release: sync.OnceFunc(func() { l.release(peer.PID) })}, nil
	}
}

// allowed is the gate: this user, and nobody else, not even root.
func allowed(p Peer) bool {
	return p.UID == os.Geteuid()
}

func (l *Listener) admit(pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxInAll || l.byPID[pid] >= maxPerProcess {
		return false
	}
	l.total++
	l.byPID[pid]++
	return true
}

func (l *Listener) release(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.byPID[pid]--; l.byPID[pid] == 0 {
		delete(l.byPID, pid)
	}
}

// Open returns the number of open connections.
func (l *Listener) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Lost reports whether the socket is no longer the one that was bound: it was
// removed, or replaced. Nobody can find this daemon then.
func (l *Listener) Lost() bool {
	fi, err := os.Lstat(l.path)
	return err != nil || !os.SameFile(fi, l.file)
}

// Close stops listening and removes the socket, unless it is another's by now.
func (l *Listener) Close() error {
	l.l.SetUnlinkOnClose(!l.Lost())
	return l.l.Close()
}

// Addr returns the socket's address.
func (l *Listener) Addr() net.Addr { return l.l.Addr() }

type conn struct {
	*net.UnixConn
	peer    Peer
	release func()
}

func (c *conn) RemoteAddr() net.Addr { return c.peer }

func (c *conn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}
