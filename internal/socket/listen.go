package socket

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits on connections. A process that runs into its own finds its connection
// closed before any byte. Where all places are taken, the process with the most
// loses its oldest connection to a newcomer with fewer; among equals, the one
// whose is the oldest of all. One fewer is not enough but for a first connection, or
// they would take from each other for ever. So another process is let in, however
// many hold connections.
const (
	maxPerProcess = 64
	maxInAll      = 2560
)

// Limits on what a process has the daemon hold for it, on all its connections
// together.
const (
	maxCalls  = 512
	maxUnread = 1 << 20
)

// Listener accepts connections of this user only.
type Listener struct {
	l    *net.UnixListener
	path string
	file fs.FileInfo // the socket as it was bound

	most int // connections in all

	// mu guards the fields that follow.
	mu    sync.Mutex
	byPID map[int]*process
	all   list.List // of *conn, the oldest first
}

// process is what one has. It is there as long as it has a connection, or owes
// anything.
type process struct {
	pid, n int // connections

	calls, unread atomic.Int64
	debt          debt
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
	if err := CheckAbove("socket", filepath.Dir(dir)); err != nil {
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
	return &Listener{l: l.(*net.UnixListener), path: path, file: fi, most: room(), byPID: make(map[int]*process)}, nil
}

// room is how many connections leave enough descriptors for everything else.
func room() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return maxPerProcess
	}
	return int(min(maxInAll, uint64(files.Cur)/2))
}

// CheckAbove refuses a folder if somebody else could swap what is ours in it for
// another, by renaming that or a folder above it. The errors call it what.
func CheckAbove(what, dir string) error {
	d, err := filepath.EvalSymlinks(dir)
	if err == nil {
		d, err = filepath.Abs(d)
	}
	if err != nil {
		return err
	}
	for ; ; d = filepath.Dir(d) {
		fi, err := os.Lstat(d)
		if err != nil {
			return err
		}
		if o := owner(fi); o != 0 && o != os.Geteuid() {
			return fmt.Errorf("folder %s, above the %s, belongs to user %d", d, what, o)
		}
		if fi.Mode().Perm()&0o022 != 0 && fi.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("folder %s, above the %s, can be written to by others; run: chmod go-w '%s'", d, what, d)
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
		if err == nil && allowed(peer) {
			if admitted := l.admit(c, peer); admitted != nil {
				return admitted, nil
			}
		}
		_ = c.Close()
	}
}

// allowed is the gate: this user, and nobody else, not even root.
func allowed(p Peer) bool {
	return p.UID == os.Geteuid()
}

// admit returns the connection, or nil if there is no room for it.
func (l *Listener) admit(c *net.UnixConn, peer Peer) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.byPID[peer.PID]
	if p == nil {
		p = &process{pid: peer.PID}
	}
	if p.n >= maxPerProcess || p.debt.left() > maxCredit || l.all.Len() >= l.most && !l.makeRoom(p) {
		return nil
	}
	p.n++
	p.debt.owe(connectionCost)
	l.byPID[p.pid] = p
	admitted := &conn{UnixConn: c, l: l, process: p, ended: make(chan struct{})}
	admitted.peer = Peer{peer.PID, peer.UID, admitted}
	admitted.place = l.all.PushBack(admitted)
	return admitted
}

// makeRoom ends a connection in favour of a process's next one, and reports
// whether there was one to end. The caller holds mu.
func (l *Listener) makeRoom(p *process) bool {
	most := 0
	for _, other := range l.byPID {
		most = max(most, other.n)
	}
	if p.n > 0 && most < p.n+2 { // with one more than p has, the two would only change places
		return false
	}
	for e := l.all.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); c.process.n == most {
			l.drop(c)
			_ = c.end()
			return true
		}
	}
	return false
}

// drop gives a connection's place away, once. The caller holds mu.
func (l *Listener) drop(c *conn) {
	if c.place == nil {
		return
	}
	l.all.Remove(c.place)
	c.place = nil
	if c.process.n--; c.process.n == 0 {
		l.forget(c.process)
	}
}

// forget forgets a process without connections once it owes nothing. The caller
// holds mu.
func (l *Listener) forget(p *process) {
	left := p.debt.left()
	if left == 0 {
		delete(l.byPID, p.pid)
		return
	}
	time.AfterFunc(left, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.byPID[p.pid] == p && p.n == 0 {
			l.forget(p)
		}
	})
}

// Open returns the number of open connections.
func (l *Listener) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Len()
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
	l       *Listener
	process *process
	place   *list.Element // nil: given away; l.mu guards it

	endOnce sync.Once
	ended   chan struct{}

	// mu guards the fields that follow.
	mu     sync.Mutex
	unread int64 // of the process's
	closed bool
}

func (c *conn) RemoteAddr() net.Addr { return c.peer }

// Read waits with what it has read while the peer's process owes too much. Of who
// owes anything it reads little at a time: it is not known yet how much of it comes to
// nothing.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) > readOwing && c.process.debt.left() > 0 {
		b = b[:readOwing]
	}
	n, err := c.UnixConn.Read(b)
	if err != nil {
		return n, err
	}
	for {
		wait := c.process.debt.tryOwe(costOf(n))
		if wait == 0 {
			return n, nil
		}
		select {
		case <-time.After(max(wait, 100*time.Millisecond)): // not whenever one of many may go on
		case <-c.ended:
			return 0, net.ErrClosed
		}
		if c.gone() {
			return 0, io.EOF // the answers would be nobody's
		}
	}
}

// gone reports whether the other end is closed, however much it has left to read.
func (c *conn) gone() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	var hup bool
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, _ = unix.Poll(fds, 0)
		hup = fds[0].Revents&unix.POLLHUP != 0
	})
	return hup || err != nil
}

func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.drop(c)
	c.l.mu.Unlock()
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.process.unread.Add(-c.unread)
	}
	c.mu.Unlock()
	return c.end()
}

// end closes the connection. Who reads from it closes the rest.
func (c *conn) end() error {
	c.endOnce.Do(func() { close(c.ended) })
	return c.UnixConn.Close()
}

// BeginCall counts a call that the peer's process makes, unless it makes too
// many already. EndCall ends it.
func (p Peer) BeginCall() bool {
	if p.conn == nil || p.conn.process.calls.Add(1) <= maxCalls {
		return true
	}
	p.conn.process.calls.Add(-1)
	return false
}

// EndCall ends a call that was begun.
func (p Peer) EndCall() {
	if p.conn != nil {
		p.conn.process.calls.Add(-1)
	}
}

// Served notes that a call of the peer's has come to where it is answered.
func (p Peer) Served() {
	if p.conn != nil {
		p.conn.process.debt.owe(-servedWorth)
	}
}

// Wasted notes that a call has come to nothing: it was reset before it was all
// there, or refused.
func (p Peer) Wasted() {
	if p.conn != nil {
		p.conn.process.debt.owe(wastedCost)
	}
}

// Reads reports whether the peer's process reads what it is sent: how much it
// has been sent and has not taken yet is within the limit.
func (p Peer) Reads() bool {
	return p.conn == nil || p.conn.process.unread.Load() < maxUnread
}

// Sent counts n bytes as sent to the peer; negative ones have been taken.
func (p Peer) Sent(n int) {
	if p.conn == nil {
		return
	}
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if !p.conn.closed {
		p.conn.unread += int64(n)
		p.conn.process.unread.Add(int64(n))
	}
}
