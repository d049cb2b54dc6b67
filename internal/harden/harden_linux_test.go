package harden_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tokend/internal/harden"
)

func init() {
	onLinux["start"] = started
	onLinux["peep"] = peep
}

// started is a program that has come as far as main. It goes on when it is told to.
func started() {
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	if err := harden.Process(); err != nil {
		fmt.Println(err)
		return
	}
	secret := bytes.Repeat([]byte("told "), 2)
	all := harden.Active()
	i := slices.IndexFunc(all, func(p harden.Protection) bool { return p.ID == harden.NoDebugger })
	fmt.Printf("%p %t %s\n", secret, all[i].Active, all[i].Detail)
	_, _ = in.ReadString('\n')
	runtime.KeepAlive(secret)
}

// peep starts a program, and looks into its memory from before it could see to that.
func peep() {
	cmd := exec.Command(os.Args[1])
	cmd.Env = []string{"TOKEND_TEST=start"}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return
	}
	file := fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid)
	mem, err := os.Open(file)
	fmt.Println("opened at the start:", err == nil)
	fmt.Fprintln(in)
	var at int64
	said, _ := bufio.NewReader(out).ReadString('\n')
	where, said, _ := strings.Cut(said, " ")
	_, _ = fmt.Sscanf(where, "0x%x", &at)
	_, err = os.Open(file)
	fmt.Println("opened later:", err == nil)
	secret := make([]byte, 10)
	_, err = mem.ReadAt(secret, at)
	fmt.Println("read:", err == nil && string(secret) == "told told ")
	fmt.Print("said: ", said)
	fmt.Fprintln(in)
	_ = cmd.Wait()
}

// What was opened while a program started reads its memory ever after, and the
// program knows. Of one whose file cannot be read nothing is opened.
func TestPeepAtTheStart(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Root can look into everything.
	dir, err := os.MkdirTemp("", "harden-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	asUser := func(argv ...string) *exec.Cmd {
		argv = append([]string{"setpriv", "--reuid=12348", "--regid=12348", "--clear-groups"}, argv...)
		if os.Geteuid() != 0 {
			argv = append([]string{"sudo", "-n"}, argv...)
		}
		return exec.Command(argv[0], argv[1:]...)
	}
	for _, of := range []struct{ mode, want string }{
		{"755", `opened at the start: true
opened later: false
read: true
said: true PR_SET_DUMPABLE 0: no debugger, no /proc/PID/mem, but for who opened that while this program started; to keep it from the next: chmod 111 '` + filepath.Join(dir, "755") + `'
`},
		{"111", `opened at the start: false
opened later: false
read: false
said: true PR_SET_DUMPABLE 0: no debugger, no /proc/PID/mem
`},
	} {
		program := filepath.Join(dir, of.mode)
		if out, err := exec.Command("install", "-m", of.mode, exe, program).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cmd := asUser("env", "-i", "TOKEND_TEST=peep", filepath.Join(dir, "755"), program)
		cmd.Dir = "/"
		if out, err := cmd.Output(); err != nil || string(out) != of.want {
			t.Errorf("mode %s: %v, %s", of.mode, err, out)
		}
	}
}

// A process that is traced from its start must not go on.
func TestTracedProcessRefuses(t *testing.T) {
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	cmd := self(t, "process")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		var all strings.Builder
		for s := bufio.NewScanner(out); s.Scan(); {
			all.WriteString(s.Text() + "\n")
		}
		lines <- all.String()
	}()
	pid := cmd.Process.Pid
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
			t.Fatal(err)
		}
		if status.Exited() || status.Signaled() {
			break
		}
		signal := int(status.StopSignal())
		if signal == int(syscall.SIGTRAP) {
			signal = 0
		}
		if err := syscall.PtraceCont(pid, signal); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-lines; !strings.Contains(got, "refusing to run: traced by process ") {
		t.Errorf("it said %q", got)
	}
	if status.ExitStatus() != 1 {
		t.Errorf("exit status %d", status.ExitStatus())
	}
	cmd.Process.Release()
}
