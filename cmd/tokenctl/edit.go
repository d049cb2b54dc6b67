package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tokend/client/api"
)

// editAndPut lets the user edit text and writes the result as req. A text that
// cannot be written, or that a failing editor has left, is kept and named in the
// error.
func (a *app) editAndPut(ctx context.Context, req *api.PutProfileRequest, text []byte) error {
	dir, err := plainTextDir()
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir)
		}
	}()
	// The name's last element, so that an editor's title says what it is.
	file := filepath.Join(dir, filepath.Base(req.Name)+".env")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	for {
		failed := runEditor(ctx, file)
		edited, err := os.ReadFile(file)
		if failed != nil {
			p := problem{Exit: exitFailed, Profile: req.Name, Message: failed.Error() + ": nothing was written"}
			if keep = err == nil && !bytes.Equal(edited, text); keep {
				p.Fix = whereKept(req, file)
			}
			return &p
		}
		if err != nil {
			return err
		}
		if bytes.Equal(edited, text) {
			note("%s: nothing changed", req.Name)
			return nil
		}
		req.Text = edited
		again, err := a.putEdited(ctx, req)
		if again {
			continue
		}
		if err == nil {
			return nil
		}
		keep = true
		p := diagnose(err)
		return &problem{Exit: p.Exit, Profile: req.Name, Message: p.Message, Fix: whereKept(req, file)}
	}
}

// putEdited writes the text, and where that has mistakes, asks whether to edit it
// again. Whoever interrupts it is told where the text is.
func (a *app) putEdited(ctx context.Context, req *api.PutProfileRequest) (again bool, err error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	err = a.put(ctx, req)
	if err == nil || !isTerminal(os.Stdin) || diagnose(err).Exit != exitConfig {
		return false, err
	}
	a.exit(err)
	again, asked := confirm(ctx, "Edit again?")
	return again && asked == nil, cmp.Or(asked, err)
}

// whereKept says how to go on with a text that could not be written.
func whereKept(req *api.PutProfileRequest, file string) string {
	command := "edit"
	if req.Replaces == "" {
		command = "add"
	}
	return fmt.Sprintf("your text is kept: tokenctl %s %s --file %s, then delete it", command, req.Name, shellWord(file))
}

// runEditor runs the user's editor on file. VISUAL and EDITOR may hold
// arguments, as git's do; they are split at spaces and run without a shell.
func runEditor(ctx context.Context, file string) error {
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	argv := strings.Fields(editor)
	if len(argv) == 0 {
		return fmt.Errorf("EDITOR holds only spaces")
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:], file)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
	if isTerminal(os.Stdout) {
		cmd.Stdout = os.Stdout
	}
	// What ends us ends the editor: whether a text stays behind is for us to say.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Second
	// Ctrl-C is the editor's while it runs.
	signal.Ignore(os.Interrupt)
	defer signal.Reset(os.Interrupt)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("editor %s: %w", argv[0], err)
	}
	return nil
}

// plainTextDir makes a folder for a plain text, in memory where the system has
// such a place, and says so where it has not.
func plainTextDir() (string, error) {
	for _, place := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"} {
		if filepath.IsAbs(place) && inMemory(place) {
			if dir, err := os.MkdirTemp(place, "tokenctl-"); err == nil {
				return dir, nil
			}
		}
	}
	dir, err := os.MkdirTemp("", "tokenctl-")
	if err == nil {
		note("the plain text is on disk while you edit it, in %s", dir)
	}
	return dir, err
}

// shellWord quotes s only where a shell needs it.
func shellWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-", r))
	}) {
		return shellQuote(s)
	}
	return s
}
