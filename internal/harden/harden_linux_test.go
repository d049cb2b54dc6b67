package harden_test

import (
	"bufio"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

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
