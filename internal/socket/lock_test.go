package socket_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokend/internal/socket"
)

func acquire(t *testing.T, path string) *socket.Lock {
	t.Helper()
	lock, holder, err := socket.Acquire(t.Context(), path)
	if err != nil || lock == nil {
		t.Fatalf("lock is %v, holder %q, error %v", lock, holder, err)
	}
	return lock
}

func TestLock(t *testing.T) {
	dir := newFolder(t)
	path, s := filepath.Join(dir, "lock"), filepath.Join(dir, "s")
	if socket.Held(path) || socket.Holder(path) != "" {
		t.Error("held without a file")
	}
	lock := acquire(t, path)
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the file: %v, %v", fi, err)
	}
	if !socket.Held(path) || socket.Holder(path) != "" {
		t.Error("not held, or a name before it listens")
	}
	listen(t, s)
	if err := lock.Publish(s); err != nil {
		t.Fatal(err)
	}
	if got := socket.Holder(path); got != s {
		t.Errorf("holder is %q", got)
	}
	other, holder, err := socket.Acquire(t.Context(), path)
	if other != nil || holder != s || err != nil {
		t.Errorf("a second one got %v, %q, %v", other, holder, err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if socket.Held(path) || socket.Holder(path) != "" {
		t.Error("held after its end")
	}
	if err := acquire(t, path).Release(); err != nil {
		t.Fatal(err)
	}
}

func TestAcquireWaitsUntilItListens(t *testing.T) {
	dir := newFolder(t)
	path, s := filepath.Join(dir, "lock"), filepath.Join(dir, "s")
	lock := acquire(t, path)
	defer lock.Release()
	got := make(chan string)
	go func() {
		_, holder, err := socket.Acquire(t.Context(), path)
		if err != nil {
			t.Error(err)
		}
		got <- holder
	}()
	listen(t, s)
	select {
	case holder := <-got:
		t.Fatalf("it got %q before anything was named", holder)
	default:
	}
	if err := lock.Publish(s); err != nil {
		t.Fatal(err)
	}
	if holder := <-got; holder != s {
		t.Errorf("holder is %q", holder)
	}
}

// A daemon that is about to end has closed its socket and still has the lock:
// who comes now is to take over, not to be sent there.
func TestAcquireTakesOver(t *testing.T) {
	dir := newFolder(t)
	path, s := filepath.Join(dir, "lock"), filepath.Join(dir, "s")
	lock := acquire(t, path)
	l := listen(t, s)
	if err := lock.Publish(s); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, holder, err := socket.Acquire(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it ends: %q, %v", holder, err)
	}
	next := make(chan *socket.Lock)
	go func() {
		lock, holder, err := socket.Acquire(t.Context(), path)
		if lock == nil {
			t.Errorf("after its end: %q, %v", holder, err)
		}
		next <- lock
	}()
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if lock := <-next; lock != nil {
		lock.Release()
	}
}

// What a killed daemon has left in the file is nobody's name.
func TestAcquireAfterKill(t *testing.T) {
	path := filepath.Join(newFolder(t), "lock")
	if err := os.WriteFile(path, []byte("/run/old/s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock := acquire(t, path)
	defer lock.Release()
	if got := socket.Holder(path); got != "" {
		t.Errorf("holder is %q", got)
	}
}

func TestAcquireRace(t *testing.T) {
	dir := newFolder(t)
	for range 20 {
		path, s := filepath.Join(dir, "lock"), filepath.Join(dir, "s")
		var all sync.WaitGroup
		var mu sync.Mutex
		winners := 0
		done := make(chan struct{})
		var lost sync.WaitGroup
		lost.Add(7)
		for range 8 {
			all.Go(func() {
				lock, holder, err := socket.Acquire(t.Context(), path)
				if err != nil {
					t.Error(err)
					lost.Done()
					return
				}
				if lock == nil {
					if holder != s {
						t.Errorf("holder is %q", holder)
					}
					lost.Done()
					return
				}
				mu.Lock()
				winners++
				mu.Unlock()
				l, err := socket.Listen(s)
				if err != nil {
					t.Error(err)
					return
				}
				if err := lock.Publish(s); err != nil {
					t.Error(err)
				}
				<-done
				l.Close()
				lock.Release()
			})
		}
		lost.Wait()
		close(done)
		all.Wait()
		if winners != 1 {
			t.Fatalf("%d have the lock", winners)
		}
	}
}

func TestAcquireRefuses(t *testing.T) {
	dir := newFolder(t)
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "lock")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if lock, _, err := socket.Acquire(t.Context(), link); err == nil {
		lock.Release()
		t.Error("a link was followed")
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "keep" {
		t.Errorf("what it leads to: %q, %v", b, err)
	}
	if _, _, err := socket.Acquire(t.Context(), filepath.Join(dir, "no", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

func TestHolderOfHalfAName(t *testing.T) {
	path := filepath.Join(newFolder(t), "lock")
	for content, want := range map[string]string{"/run/x": "", "/run/x\n": "/run/x", "\n": "", "/run/x\n/old\n": "/run/x"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := socket.Holder(path); got != want {
			t.Errorf("%q names %q, want %q", content, got, want)
		}
	}
}

// A FIFO in the place of the lock hangs nobody.
func TestLockIsNoPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if socket.Held(path) || socket.Holder(path) != "" {
			t.Error("a FIFO is held")
		}
		if l, _, err := socket.Acquire(t.Context(), path); err == nil {
			t.Errorf("it is a lock: %v", l)
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it hangs")
	}
}
