package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxLog is when the log is put aside, in the place of the one before.
const maxLog = 4 << 20

// logWriter writes the log to a file. slog gives it a line at a time.
type logWriter struct {
	path string
	to   []*os.File // lead there, all of them
}

// open makes the file what is written to stdout and stderr, so that what the
// runtime prints when it crashes is in the log too.
func (l *logWriter) open() error {
	// O_NONBLOCK: a FIFO must not hang, with the store's lock held.
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	irregular := &fs.PathError{Op: "open", Path: l.path, Err: errors.New("it is not a regular file; move it away")}
	if errors.Is(err, unix.ENXIO) { // a FIFO that nobody reads, or a socket
		return irregular
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return err
	} else if !fi.Mode().IsRegular() && fi.Mode()&fs.ModeCharDevice == 0 { // as /dev/null is
		return irregular
	}
	for _, to := range l.to {
		if err := dup(int(f.Fd()), int(to.Fd())); err != nil {
			return err
		}
	}
	return nil
}

// Write puts the log aside where the line would make it too long. Where that
// cannot be done, it goes on in the file that is open, and tries again with each
// line; what is twice too long begins anew.
func (l *logWriter) Write(line []byte) (int, error) {
	out := l.to[0]
	if fi, err := out.Stat(); err == nil && fi.Size() > 0 && fi.Size()+int64(len(line)) > maxLog {
		if err := l.putAside(); err != nil && fi.Size() > 2*maxLog {
			if out.Truncate(0) == nil {
				fmt.Fprintln(out, "tokend: the log begins anew, for it cannot be put aside:", err)
			}
		}
	}
	return out.Write(line)
}

func (l *logWriter) putAside() error {
	err := os.Rename(l.path, l.path+".old")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it was put aside, or removed
		return err
	}
	return l.open()
}
