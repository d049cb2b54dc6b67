package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// openLog opens a log as stderr does, with another descriptor in its place.
func openLog(t *testing.T, path string) *logWriter {
	t.Helper()
	to, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	l := &logWriter{path, []*os.File{to}}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, w io.Writer, line string) {
	t.Helper()
	if _, err := io.WriteString(w, line); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// However much is logged while the daemon runs, it is two files of a log's size,
// and no line is lost between them.
func TestLogIsPutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := slog.New(slog.NewTextHandler(openLog(t, path), nil))
	const writers, lines = 8, 200
	text := strings.Repeat("x", 8<<10)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for n := range lines {
				log.With("writer", i).Info(text, "n", n)
			}
		})
	}
	wg.Wait()
	var all []byte
	for _, path := range []string{path + ".old", path} {
		fi, err := os.Stat(path)
		if err != nil || fi.Size() > maxLog || fi.Mode() != 0o600 {
			t.Fatalf("%v, %v", fi, err)
		}
		b := read(t, path)
		all = append(all, b...)
	}
	if len(all) < maxLog {
		t.Errorf("%d bytes are left", len(all))
	}
	next := make(map[string]int)
	for line := range bytes.Lines(all) {
		var writer string
		var n int
		_, fields, _ := bytes.Cut(line, []byte("msg="+text+" "))
		if _, err := fmt.Sscanf(string(fields), "writer=%s n=%d\n", &writer, &n); err != nil {
			t.Fatalf("a line is not whole: %.99q, %v", line, err)
		}
		if last, ok := next[writer]; ok && n != last {
			t.Errorf("writer %s: line %d after %d", writer, n, last-1)
		}
		next[writer] = n + 1
	}
}

// What the runs before have left counts.
func TestLogOfTheRunsBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, bytes.Repeat([]byte("before\n"), maxLog/7+1), 0o600); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, path)
	write(t, l, "first\n")
	write(t, l, "second\n")
	if got := read(t, path); got != "first\nsecond\n" {
		t.Errorf("the log is %.99q", got)
	}
	if got := read(t, path+".old"); !strings.HasPrefix(got, "before\n") || len(got) <= maxLog {
		t.Errorf("what was put aside is %.99q", got)
	}
}

// Where the log cannot be put aside, it goes on, and has a bound all the same.
func TestLogThatCannotBePutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := openLog(t, path)
	if err := os.MkdirAll(path+".old/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 64<<10-1) + "\n"
	anew := 0
	for last := int64(0); anew < 2; {
		write(t, l, line)
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > 2*maxLog+int64(len(line)) {
			t.Fatalf("the log has %d bytes", fi.Size())
		}
		if fi.Size() < last {
			anew++
			if got := read(t, path); !strings.HasPrefix(got, "tokend: the log begins anew, for it cannot be put aside: rename "+path) || !strings.HasSuffix(got, "\n"+line) {
				t.Errorf("it begins with %.999q", got)
			}
		}
		last = fi.Size()
	}
	if err := os.RemoveAll(path + ".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxLog); err != nil {
		t.Fatal(err)
	}
	write(t, l, "again\n")
	if got := read(t, path); got != "again\n" {
		t.Errorf("the log is %.99q", got)
	}
}

// Where the next file cannot be made, the log goes on in the one that was put aside,
// until it can.
func TestLogThatCannotBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "log")
	l := openLog(t, path)
	write(t, l, "before\n")
	if err := os.Truncate(path, maxLog); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	write(t, l, "meanwhile\n")
	if got := read(t, filepath.Join(dir+".away", "log")); !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "\x00meanwhile\n") {
		t.Error("a line is lost")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	// As where it is renamed already.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write(t, l, "after\n")
	if got := read(t, path); got != "after\n" {
		t.Errorf("the log is %.99q", got)
	}
	if got := read(t, path+".old"); !strings.HasSuffix(got, "\x00meanwhile\n") {
		t.Error("what was put aside is not the log before")
	}
}

// A pipe would have the daemon wait for who reads from it, with the store's lock held.
func TestLogIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	want := "open " + path + ": it is not a regular file; move it away"
	refused := func(what string) {
		t.Helper()
		opened := make(chan error, 1)
		go func() { opened <- (&logWriter{path, nil}).open() }()
		select {
		case err := <-opened:
			if err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: it waits", what)
		}
	}
	refused("a pipe")
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	refused("a pipe that somebody reads from")
}
