package harden_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tokend/internal/harden"
)

// The measures are for good, so they are taken in a process of their own: this
// test program, started anew with TOKEND_TEST.
func TestMain(m *testing.M) {
	switch os.Getenv("TOKEND_TEST") {
	case "environment":
		if err := harden.Environment(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(os.Getpid(), os.Args[1:], os.Environ())
	case "process":
		all, err := harden.Process()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for _, p := range all {
			fmt.Printf("%s: %t\n", p.Name, p.Active)
		}
		var core unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
			panic(err)
		}
		fmt.Println("core", core.Cur, core.Max)
		fmt.Printf("umask %o\n", unix.Umask(0))
	case "inherited":
		if err := harden.CloseInherited(4); err != nil {
			panic(err)
		}
		for fd := range 8 {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				fmt.Print(fd, " ")
			}
		}
	default:
		os.Exit(m.Run())
	}
}

func self(t *testing.T, what string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "an argument", "--another")
	cmd.Env = append(env, "TOKEND_TEST="+what, "HOME=/home/me")
	return cmd
}

func TestEnvironment(t *testing.T) {
	for _, env := range [][]string{
		nil,
		{"GODEBUG=http2debug=2"},
		{"GODEBUG="},
		{"SSLKEYLOGFILE=/tmp/keys", "GOTRACEBACK=crash", "GODEBUG=x=1"},
	} {
		cmd := self(t, "environment", env...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s, %v", env, out, err)
		}
		// In place: the process is the same, and so is all else about it.
		want := fmt.Sprintln(cmd.Process.Pid, "[an argument --another]", "[TOKEND_TEST=environment HOME=/home/me]")
		if string(out) != want {
			t.Errorf("%v: %q, want %q", env, out, want)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := self(t, "process")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	for line := range strings.Lines(string(out)) {
		if name, active, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && active != "true" {
			t.Errorf("%s is not active", name)
		}
	}
	for _, want := range []string{"core dumps: true\n", "environment: true\n", "tracer: true\n", "core 0 0\n", "umask 77\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
}

func TestCloseInherited(t *testing.T) {
	cmd := self(t, "inherited")
	for i := range 4 {
		f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f) // 3 to 6
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []string{"3", "5", "6"} {
		if strings.Contains(" "+string(out), " "+fd+" ") {
			t.Errorf("descriptor %s is still open: %s", fd, out)
		}
	}
	if !strings.Contains(" "+string(out), " 4 ") {
		t.Errorf("descriptor 4 was to be kept: %s", out)
	}
}
