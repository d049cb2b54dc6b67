// Command tokend is one user's OAuth 2.0 credential daemon. tokenctl starts it
// when it is needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tokend/daemon"
	"tokend/internal/harden"
	"tokend/internal/settings"
	"tokend/internal/socket"
	"tokend/internal/worker"
	"tokend/store"
)

// version is set by the linker.
var version = "devel"

const usage = `tokend keeps this user's OAuth 2.0 credentials and hands out access tokens.

Nobody needs to start it: tokenctl does when the first token is wanted.

Usage: tokend [flags]

Flags:
  --dir PATH       folder of the store (TOKEND_DIR)
  --socket PATH    socket to listen on (TOKEND_SOCKET)
  --log-file PATH  append the log there instead of to stderr
  --ready-fd N     write one line to this descriptor: "ready SOCKET" or "error REASON …"
  --version        print the version

Examples:
  tokend                          run in the foreground, log to stderr
  TOKEND_DIR=~/work-secrets tokend --socket ~/work-secrets/run/tokend.sock

Exit status: 0 stopped; 1 failed; 2 wrong usage; 75 a folder cannot be used;
78 a setting is wrong.
`

const (
	exitUsage  = 2
	exitStore  = 75
	exitConfig = 78
)

var errFolder = errors.New("a folder cannot be used")

func main() {
	os.Exit(run())
}

func run() int {
	if err := harden.Environment(); err != nil {
		fmt.Fprintln(os.Stderr, "tokend:", err)
		return 1
	}
	worker.Main()
	flags := flag.NewFlagSet("tokend", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	dir := flags.String("dir", "", "")
	path := flags.String("socket", "", "")
	logFile := flags.String("log-file", "", "")
	readyFD := flags.Int("ready-fd", -1, "")
	showVersion := flags.Bool("version", false, "")
	switch err := flags.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "tokend: %v; see tokend --help\n", err)
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "tokend: unexpected argument %q; see tokend --help\n", flags.Arg(0))
		return exitUsage
	}
	if *showVersion {
		fmt.Println("tokend", version)
		return 0
	}

	if err := harden.CloseInherited(*readyFD); err != nil {
		fmt.Fprintln(os.Stderr, "tokend: closing inherited descriptors:", err)
		return 1
	}
	ready := readiness{}
	if *readyFD >= 0 {
		ready.f = os.NewFile(uintptr(*readyFD), "ready")
		unix.CloseOnExec(*readyFD)
	}
	err := serve(map[string]string{settings.Dir: *dir, settings.Socket: *path}, *logFile, &ready)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "tokend:", err)
	reason, exit := "-", 1
	var wrong *settings.Error
	var folder *fs.PathError
	switch {
	case errors.As(err, &wrong):
		reason, exit = "SETTINGS_INVALID", exitConfig
	case errors.As(err, &folder), errors.Is(err, errFolder):
		reason, exit = "STORE_UNAVAILABLE", exitStore
	}
	_ = ready.say("error " + reason + " " + err.Error()) // it is on stderr too
	return exit
}

// serve runs the daemon from its first secret to its last. Whoever finds the
// store served already says so and leaves.
func serve(flags map[string]string, logFile string, ready *readiness) error {
	// Garbage is secrets that wait to be overwritten, and many tokens at once leave
	// half as much of it behind. GOGC does not change it.
	debug.SetGCPercent(50)
	if err := harden.Process(); err != nil {
		return err
	}
	s, err := settings.Load(flags)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Get(settings.Dir), 0o700); err != nil {
		return fmt.Errorf("making the store's folder: %w", err)
	}
	if err := os.MkdirAll(s.StateDir, 0o700); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	// Before the lock and the log are written there.
	for _, dir := range []string{s.Get(settings.Dir), s.StateDir} {
		if err := store.CheckFolder(dir); err != nil {
			return fmt.Errorf("%w: %w", errFolder, err)
		}
	}
	waiting, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lock, holder, err := socket.Acquire(waiting, s.LockFile())
	if err != nil {
		return err
	}
	if lock == nil {
		if ready.f == nil {
			return fmt.Errorf("another tokend serves %s already, at %s", s.Get(settings.Dir), holder)
		}
		return ready.say("ready " + holder)
	}
	defer func() { _ = lock.Release() }()
	var out io.Writer = os.Stderr
	if logFile != "" {
		file := &logWriter{logFile, []*os.File{os.Stdout, os.Stderr}}
		if err := file.open(); err != nil {
			return fmt.Errorf("opening the log: %w", err)
		}
		out = file
	}
	log := slog.New(slog.NewTextHandler(out, nil))

	l, err := socket.Listen(s.Get(settings.Socket))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if err := lock.Publish(s.Get(settings.Socket)); err != nil {
		return err
	}
	log.Info("listening", "socket", s.Get(settings.Socket), "dir", s.Get(settings.Dir), "pid", os.Getpid(), "version", version)
	if err := ready.say("ready " + s.Get(settings.Socket)); err != nil {
		return fmt.Errorf("nobody waits for this daemon any more: %w", err)
	}
	// The caller connects while the rest is made ready.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return daemon.New(s, version, harden.Active, log).Serve(ctx, l)
}

// readiness is the pipe to whoever started this process; there may be none.
type readiness struct{ f *os.File }

func (r *readiness) say(line string) error {
	if r.f == nil {
		return nil
	}
	_, err := fmt.Fprintln(r.f, strings.ReplaceAll(line, "\n", " "))
	r.f.Close()
	r.f = nil
	return err
}
