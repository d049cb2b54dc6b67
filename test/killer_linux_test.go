package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { programs["killer"] = killer }

// killer attaches to all threads of KILLER_PID and kills the process with
// SIGKILL where any of them begins the system call KILLER_CALL, such as
// "fsync sessions", for the KILLER_AT-th time, before it is made. strace kills,
// too, but counts the calls of each thread apart, and Go moves one chain of
// calls from thread to thread.
//
// It looks at the calls that change something outside the process, or bring
// something in over a socket; with KILLER_ALL at every one. On standard output:
// "attached" once it is, a line for each call, and "killed". It ends when its
// standard input does.
func killer() error {
	pid, err := strconv.Atoi(os.Getenv("KILLER_PID"))
	if err != nil {
		return err
	}
	at, err := strconv.Atoi(os.Getenv("KILLER_AT"))
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // which detaches
	}()
	runtime.LockOSThread() // only the thread that attached may trace
	k := tracing{pid: pid, threads: make(map[int]bool), provider: make(map[uint64]bool), all: os.Getenv("KILLER_ALL") != "", fatal: os.Getenv("KILLER_CALL"), at: at}
	if err := k.attach(); err != nil {
		return err
	}
	return k.run()
}

// tracing is a process that is traced.
type tracing struct {
	pid     int
	threads map[int]bool // true once the thread runs on, and its calls are seen
	all     bool
	fatal   string // the call to kill at
	at      int    // for which time
	said    bool   // that it is attached

	provider map[uint64]bool // descriptors that were connected by the process itself
}

func ptrace(request, tid int, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// attach makes tracees of all threads. One that begins meanwhile is one by
// itself if the thread that began it is.
func (k *tracing) attach() error {
	for again := true; again; {
		again = false
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", k.pid))
		if err != nil {
			return err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				return err
			}
			if _, known := k.threads[tid]; known {
				continue
			}
			again = true
			k.threads[tid] = false
			const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
			err = ptrace(unix.PTRACE_SEIZE, tid, options)
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ESRCH) {
				k.threads[tid] = true // it has become one meanwhile, or has ended
				continue
			}
			if err != nil {
				return fmt.Errorf("attaching to thread %d: %w", tid, err)
			}
			if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stopping thread %d: %w", tid, err)
			}
		}
	}
	return nil
}

func (k *tracing) run() error {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil {
			return err
		}
		if !status.Stopped() {
			delete(k.threads, tid)
			continue
		}
		signal := uintptr(0)
		switch stop := status.StopSignal(); {
		case stop == unix.SIGTRAP|0x80 && k.said:
			if err := k.call(tid); err != nil {
				return err
			}
		case stop != unix.SIGTRAP|0x80 && int(status)>>16 == 0: // none of ptrace's own events
			signal = uintptr(stop)
		}
		k.threads[tid] = true
		if !k.said && !k.waiting() {
			k.said = true
			fmt.Println("attached")
		}
		if err := ptrace(unix.PTRACE_SYSCALL, tid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("continuing thread %d: %w", tid, err)
		}
	}
}

func (k *tracing) waiting() bool {
	for _, runs := range k.threads {
		if !runs {
			return true
		}
	}
	return false
}

// syscallInfo is the beginning of ptrace_syscall_info.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	_    uint32 // arch
	_    uint64 // instruction pointer
	_    uint64 // stack pointer
	nr   uint64
	args [6]uint64
}

const (
	ptraceGetSyscallInfo = 0x420e
	syscallEntry         = 1
)

// callNames are the calls to look at; those with socketOnly only on sockets.
var callNames = map[uint64]struct {
	name       string
	socketOnly bool
}{
	unix.SYS_ACCEPT4:   {"accept4", false},
	unix.SYS_SOCKET:    {"socket", false},
	unix.SYS_CONNECT:   {"connect", false},
	unix.SYS_READ:      {"read", true},
	unix.SYS_CLOSE:     {"close", true},
	unix.SYS_WRITE:     {"write", false},
	unix.SYS_WRITEV:    {"writev", false},
	unix.SYS_PWRITE64:  {"pwrite64", false},
	unix.SYS_SENDTO:    {"sendto", false},
	unix.SYS_SENDMSG:   {"sendmsg", false},
	unix.SYS_FSYNC:     {"fsync", false},
	unix.SYS_FDATASYNC: {"fdatasync", false},
	unix.SYS_FTRUNCATE: {"ftruncate", false},
	unix.SYS_OPENAT:    {"openat", false},
	unix.SYS_MKDIRAT:   {"mkdirat", false},
	unix.SYS_LINKAT:    {"linkat", false},
	unix.SYS_UNLINKAT:  {"unlinkat", false},
	unix.SYS_RENAMEAT:  {"renameat", false},
	unix.SYS_RENAMEAT2: {"renameat2", false},
	unix.SYS_FCHMODAT:  {"fchmodat", false},
}

// call looks at the call that a thread begins, and kills the process if it is
// the one.
func (k *tracing) call(tid int) error {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	switch {
	case errno == unix.ESRCH:
		return nil // killed
	case errno != 0:
		return fmt.Errorf("reading the call of thread %d: %w", tid, errno)
	case info.op != syscallEntry:
		return nil
	}
	c, known := callNames[info.nr]
	name, on := c.name, ""
	switch info.nr {
	case unix.SYS_SOCKET, unix.SYS_ACCEPT4:
	case unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT:
		on = filepath.Base(k.text(tid, uintptr(info.args[1])))
	default:
		if known {
			on = k.file(info.args[0])
		}
	}
	if on == "socket" {
		if info.nr == unix.SYS_CONNECT {
			k.provider[info.args[0]] = true
		}
		if on = "of a caller"; k.provider[info.args[0]] {
			on = "of the provider"
		}
		if info.nr == unix.SYS_CLOSE {
			delete(k.provider, info.args[0])
		}
	}
	inside := !known || c.socketOnly && !strings.HasPrefix(on, "of ") || on == "anon_inode:[eventfd]" || info.nr == unix.SYS_OPENAT && info.args[2]&unix.O_CREAT == 0
	if inside && !k.all {
		return nil
	}
	if !known {
		name = "call " + strconv.FormatUint(info.nr, 10)
	}
	call := strings.TrimSpace(name + " " + on)
	fmt.Println(call)
	if call != k.fatal {
		return nil
	}
	if k.at--; k.at == 0 {
		fmt.Println("killed") // sooner than anybody can find it out
		return unix.Kill(k.pid, unix.SIGKILL)
	}
	return nil
}

// file says what a descriptor is of: "socket" or the file's name.
func (k *tracing) file(fd uint64) string {
	to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", k.pid, fd))
	if err != nil {
		return ""
	}
	if strings.HasPrefix(to, "socket:") {
		return "socket"
	}
	return filepath.Base(to)
}

// text reads a string of the tracee's.
func (k *tracing) text(tid int, addr uintptr) string {
	var b [256]byte
	n, _ := unix.PtracePeekData(tid, addr, b[:]) // it may end before these do
	text, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(text)
}

// attached is a killer at work.
type attached struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Scanner
}

// killAt has the home's daemon killed where it begins a call for the at-th time
// from now on.
func (h *home) killAt(t *testing.T, pid int, call string, at int, all bool) *attached {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"env", "TOKEND_TEST_AS=killer", "KILLER_PID=" + strconv.Itoa(pid), "KILLER_CALL=" + call, "KILLER_AT=" + strconv.Itoa(at)}
	if all {
		argv = append(argv, "KILLER_ALL=1")
	}
	k := &attached{cmd: asRoot(append(argv, exe)...)}
	k.cmd.Stderr = os.Stderr
	if k.stdin, err = k.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	k.stdout = bufio.NewScanner(stdout)
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for k.stdout.Scan() {
		if k.stdout.Text() == "attached" {
			return k
		}
	}
	t.Fatalf("attaching to %d: %v", pid, k.cmd.Wait())
	return nil
}

// ends returns the calls that were made, and whether the last of them was the
// end of the daemon.
func (k *attached) ends(t *testing.T) (calls []string, killed bool) {
	t.Helper()
	k.stdin.Close()
	for k.stdout.Scan() {
		line := k.stdout.Text()
		if line == "killed" {
			killed = true
			continue
		}
		calls = append(calls, line)
	}
	if err := k.cmd.Wait(); err != nil {
		t.Errorf("the killer: %v", err)
	}
	return calls, killed
}
