package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tokend/profile"
)

const (
	maxValue    = profile.MaxText
	commandTime = 10 * time.Second
)

// resolve reads the files and runs the commands that a trusted text names.
// Errors are *profile.Mistakes, which name line and variable and hold nothing
// that was read or printed, or the context's.
func resolve(ctx context.Context, external []profile.External) (map[string]string, error) {
	values := make(map[string]string, len(external))
	for _, e := range external {
		var value []byte
		var err error
		variable := e.Variable + "_FILE"
		if e.File != "" {
			value, err = readValue(e.File)
		} else {
			variable = e.Variable + "_COMMAND"
			value, err = commandValue(ctx, e.Command)
		}
		if err == nil && len(value) > maxValue {
			err = fmt.Errorf("the value is longer than %d bytes", maxValue)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, &profile.Mistakes{List: []profile.Mistake{{Line: e.Line, Variable: variable, Message: err.Error()}}}
		}
		// Editors and most commands end their last line; the value does not.
		value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
		values[e.Variable] = string(value)
	}
	return values, nil
}

func readValue(path string) ([]byte, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(home, rest)
	}
	// Not to hang on a FIFO that nobody writes to.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxValue+1))
}

// commandValue runs argv without a shell, in a process group of its own, which
// is killed if it takes too long or leaves its output open. What it prints to stderr is not shown: it may be secret.
func commandValue(ctx context.Context, argv []string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTime, fmt.Errorf("%s took longer than %v", argv[0], commandTime))
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Dir = "/"
	var out limitedBuffer
	cmd.Stdout = &out
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s: %w", argv[0], exit)
	case errors.Is(err, exec.ErrWaitDelay):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return nil, fmt.Errorf("%s has ended, but something that it started has not closed its output", argv[0])
	case err != nil:
		return nil, err
	}
	return out.b, nil
}

// limitedBuffer keeps one byte more than a value may have and drops the rest.
type limitedBuffer struct{ b []byte }

func (l *limitedBuffer) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxValue+1-len(l.b))]...)
	return len(p), nil
}
