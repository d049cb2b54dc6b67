package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/profile"
)

const canary = "CANARY-value"

func fromFile(path string) []profile.External {
	return []profile.External{{Variable: "CLIENT_SECRET", Line: 3, File: path}}
}

func fromCommand(argv ...string) []profile.External {
	return []profile.External{{Variable: "CLIENT_SECRET", Line: 3, Command: argv}}
}

// wantMistake checks that err is one mistake with that message.
func wantMistake(t *testing.T, err error, variable, message string) {
	t.Helper()
	var mistakes *profile.Mistakes
	if !errors.As(err, &mistakes) {
		t.Fatalf("error is %v, want a mistake", err)
	}
	want := []profile.Mistake{{Line: 3, Variable: variable, Message: message}}
	if diff := cmp.Diff(want, mistakes.List); diff != "" {
		t.Error(diff)
	}
}

func TestFileValues(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	full := strings.Repeat("x", maxValue)
	for name, test := range map[string]struct{ content, value string }{
		"plain":        {canary, canary},
		"newline":      {canary + "\n", canary},
		"windows":      {canary + "\r\n", canary},
		"two newlines": {canary + "\n\n", canary + "\n"},
		"spaces":       {" " + canary + " ", " " + canary + " "},
		"empty":        {"", ""},
		"largest":      {full, full},
	} {
		t.Run(name, func(t *testing.T) {
			path := write("value", test.content)
			for _, path := range []string{path, "~/value"} {
				got, err := resolve(t.Context(), fromFile(path))
				if diff := cmp.Diff(map[string]string{"CLIENT_SECRET": test.value}, got); diff != "" || err != nil {
					t.Error(diff, err)
				}
			}
		})
	}

	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, message := range map[string]string{
		filepath.Join(dir, "missing"): "open " + dir + "/missing: no such file or directory",
		fifo:                          fifo + " is not a regular file",
		dir:                           dir + " is not a regular file",
		"/dev/zero":                   "/dev/zero is not a regular file",
		write("long", full+"x"):       fmt.Sprintf("the value is longer than %d bytes", maxValue),
		write("longer", full+full):    fmt.Sprintf("the value is longer than %d bytes", maxValue),
	} {
		got, err := resolve(t.Context(), fromFile(path))
		if got != nil {
			t.Errorf("%s: got a value beside the error", path)
		}
		wantMistake(t, err, "CLIENT_SECRET_FILE", message)
	}
}

func TestCommandValues(t *testing.T) {
	t.Setenv("TOKEND_TEST", canary)
	for name, test := range map[string]struct {
		argv  []string
		value string
	}{
		"no shell":          {[]string{"printf", "%s", "$TOKEND_TEST;`id`|*"}, "$TOKEND_TEST;`id`|*"},
		"newline":           {[]string{"echo", canary}, canary},
		"its environment":   {[]string{"sh", "-c", "echo $TOKEND_TEST"}, canary},
		"its folder":        {[]string{"pwd"}, "/"},
		"its input":         {[]string{"cat"}, ""},
		"its errors":        {[]string{"sh", "-c", "echo noise >&2; echo " + canary}, canary},
		"largest":           {[]string{"head", "-c", fmt.Sprint(maxValue), "/dev/zero"}, strings.Repeat("\x00", maxValue)},
		"empty":             {[]string{"true"}, ""},
		"its own group":     {[]string{"sh", "-c", `[ $(ps -o pgid= -p $$) -eq $$ ] && echo yes`}, "yes"},
		"no terminal input": {[]string{"sh", "-c", "[ -t 0 ] || echo none"}, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolve(t.Context(), fromCommand(test.argv...))
			if diff := cmp.Diff(map[string]string{"CLIENT_SECRET": test.value}, got); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
	dir := t.TempDir()
	for name, test := range map[string]struct {
		argv    []string
		message string
	}{
		"fails":         {[]string{"sh", "-c", "echo " + canary + "; echo " + canary + " >&2; exit 3"}, "sh: exit status 3"},
		"is killed":     {[]string{"sh", "-c", "kill -9 $$"}, "sh: signal: killed"},
		"is not there":  {[]string{"no-such-program", canary}, `exec: "no-such-program": executable file not found in $PATH`},
		"is a folder":   {[]string{dir, canary}, "fork/exec " + dir + ": permission denied"},
		"says too much": {[]string{"head", "-c", fmt.Sprint(maxValue + 1), "/dev/zero"}, fmt.Sprintf("the value is longer than %d bytes", maxValue)},
		"says a lot":    {[]string{"head", "-c", "50000000", "/dev/zero"}, fmt.Sprintf("the value is longer than %d bytes", maxValue)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolve(t.Context(), fromCommand(test.argv...))
			if got != nil {
				t.Error("got a value beside the error")
			}
			wantMistake(t, err, "CLIENT_SECRET_COMMAND", test.message)
			if strings.Contains(err.Error(), canary) {
				t.Errorf("what it printed is in the error: %v", err)
			}
		})
	}
}

func TestFirstFailureEndsIt(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "ran")
	list := append(fromFile("/no/such/file"), profile.External{Variable: "CLIENT_ID", Line: 4, Command: []string{"touch", marker}})
	if _, err := resolve(t.Context(), list); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("the command was run all the same")
	}
}

// lifeline returns the path of a FIFO, and a function that waits until every
// process that has opened it for writing is gone.
func lifeline(t *testing.T) (fifo string, gone func()) {
	t.Helper()
	fifo = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		f, err := os.Open(fifo)
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			f.Close()
		}
		done <- err
	}()
	return fifo, func() {
		t.Helper()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a process of the command's lives on, or it never began")
		}
	}
}

func TestCommandThatTakesTooLong(t *testing.T) {
	fifo, gone := lifeline(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := resolve(ctx, fromCommand("sh", "-c", "exec 3>"+fifo+"; sleep 1000 & sleep 1000; echo "+canary))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	gone() // it and its children
}

func TestCommandTimeLimit(t *testing.T) {
	_, err := resolve(t.Context(), fromCommand("sleep", "1000"))
	wantMistake(t, err, "CLIENT_SECRET_COMMAND", "sleep took longer than 10s")
}

func TestCommandThatLeavesItsOutputOpen(t *testing.T) {
	fifo, gone := lifeline(t)
	_, err := resolve(t.Context(), fromCommand("sh", "-c", "exec 3>"+fifo+"; sleep 1000 & echo "+canary))
	wantMistake(t, err, "CLIENT_SECRET_COMMAND", "sh has ended, but something that it started has not closed its output")
	gone()
}

func TestLimitedBuffer(t *testing.T) {
	var l limitedBuffer
	for range 3 {
		if n, err := l.Write(bytes.Repeat([]byte{'x'}, maxValue)); n != maxValue || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(l.b) != maxValue+1 {
		t.Errorf("%d bytes are kept", len(l.b))
	}
}
