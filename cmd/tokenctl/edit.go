package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tokend/client/api"
	"tokend/internal/socket"
)

// editAndPut lets the user edit text and writes the result as req. A text that
// cannot be written, or that a failing editor has left, is kept and named in the
// error.
func (a *app) editAndPut(ctx context.Context, req *api.PutProfileRequest, text []byte) error {
	dir, err := plainTextDir(os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm")
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	keep := false
	defer func() {
		if !keep {
			removeAll(dir)
		}
	}()
	// The name's last element, so that an editor's title says what it is.
	name := filepath.Base(req.Name) + ".env"
	file := filepath.Join(dir.Name(), name)
	if err := dir.WriteFile(name, text, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	for {
		failed := runEditor(ctx, file)
		edited, err := readEdited(dir, name)
		if failed != nil {
			p := problem{Exit: exitFailed, Profile: req.Name, Message: failed.Error() + ": nothing was written"}
			if keep = err == nil && !bytes.Equal(edited, text); keep {
				p.Fix = whereKept(req, file)
			}
			return &p
		}
		if err != nil {
			return &problem{Exit: exitFailed, Profile: req.Name, Message: fmt.Sprintf("reading %s: %v: nothing was written", file, err), Fix: "edit it again"}
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

// plainTextDir makes a folder for a plain text, in the first of the places that is
// in memory, and says so where none is. Those are skipped in which it is not this
// user's, as in the runtime folder that su and sudo leave in the environment.
func plainTextDir(places ...string) (*os.Root, error) {
	for _, place := range places {
		if filepath.IsAbs(place) && inMemory(place) {
			if dir, err := makeBelow(place); err == nil {
				return dir, nil
			}
		}
	}
	dir, err := makeBelow(os.TempDir())
	if err != nil {
		return nil, &problem{Exit: exitFailed, Message: err.Error(), Fix: "TMPDIR can name a folder of your own"}
	}
	note("the plain text is on disk while you edit it, in %s", dir.Name())
	return dir, nil
}

// makeBelow makes a folder in a place where nobody else can put another instead.
func makeBelow(place string) (*os.Root, error) {
	place, err := filepath.EvalSymlinks(place) // a link could lead elsewhere by and by
	if err == nil {
		err = socket.CheckAbove("plain text", place)
	}
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(place, "tokenctl-")
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		_ = os.Remove(dir)
	}
	return root, err
}

// readEdited reads what the editor has left, unless that may be somebody else's: in
// another folder than the one that was made, or no file of this user's.
func readEdited(dir *os.Root, name string) ([]byte, error) {
	made, err := dir.Stat(".")
	if err != nil {
		return nil, err
	}
	if there, err := os.Lstat(dir.Name()); err != nil || !os.SameFile(made, there) {
		return nil, errors.New("its folder is not the one that was made for it")
	}
	entry, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// A link is another file than what it leads to.
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || !os.SameFile(entry, fi) {
		return nil, errors.New("it is not a regular file of yours")
	}
	return io.ReadAll(f)
}

// removeAll removes the folder and what is in it, wherever that is by now.
func removeAll(dir *os.Root) {
	entries, _ := fs.ReadDir(dir.FS(), ".")
	for _, e := range entries {
		_ = dir.RemoveAll(e.Name())
	}
	_ = unix.Rmdir(dir.Name())
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
