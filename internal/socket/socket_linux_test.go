package socket_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tokend/internal/socket"
)

// A full backlog is a daemon that is busy, not one that is not there.
func TestDialWaitsForABusyDaemon(t *testing.T) {
	path := filepath.Join(newFolder(t), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	first, err := socket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := socket.Dial(ctx, path); err == nil {
		c.Close()
		t.Fatal("the backlog is not full")
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want the context's", err)
	}
	second := make(chan error)
	go func() {
		c, err := socket.Dial(t.Context(), path)
		if err == nil {
			c.Close()
		}
		second <- err
	}()
	nfd, _, err := syscall.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(nfd)
	if err := <-second; err != nil {
		t.Error(err)
	}
}
