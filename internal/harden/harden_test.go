package harden_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		before := harden.Active()
		if err := harden.Process(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		after := harden.Active()
		for i, p := range after {
			fmt.Printf("%s: %t, then %t\n", p.ID, before[i].Active, p.Active)
		}
		var core unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
			panic(err)
		}
		fmt.Println("core", core.Cur, core.Max)
		fmt.Printf("umask %o\n", unix.Umask(0))
	case "start", "peep":
		onLinux[os.Getenv("TOKEND_TEST")]()
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

// onLinux is what else this program does there.
var onLinux = make(map[string]func())

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
	cmd := exec.Command("sh", "-c", `umask 022; ulimit -S -c $(ulimit -H -c); exec "$0"`, self(t, "").Path)
	cmd.Env = []string{"TOKEND_TEST=process", "GOTRACEBACK=single"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	_, built := os.LookupEnv("TOKEND_TEST_WIPES")
	want := fmt.Sprintf(`private-files: false, then true
no-cores: false, then true
no-debugger: false, then true
no-tracer: true, then true
environment: false, then false
wipe-heap: %[1]t, then %[1]t
wipe-stacks: %[1]t, then %[1]t
core 0 0
umask 77
`, built)
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
}

// A binary that is built to overwrite what it frees says so, and others do not.
func TestWipe(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, "test"), "-ldflags", "-X runtime.godebugDefault=clobberfree=1", ".")
	build.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := exec.Command(filepath.Join(dir, "test"), "-test.run", "^TestProcess$|^TestForgotten$", "-test.v")
	run.Env = append(os.Environ(), "TOKEND_TEST_WIPES=")
	out, err := run.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS: TestProcess") != 1 {
		t.Errorf("%v: %s", err, out)
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
