package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tokend/internal/settings"
	"tokend/store"
)

// silentBus is a session bus that takes connections and says nothing. It returns a
// channel that has one once somebody has connected.
func silentBus(t *testing.T) <-chan struct{} {
	t.Helper()
	dir, err := os.MkdirTemp("", "tokend") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+filepath.Join(dir, "bus"))
	came := make(chan struct{}, 1)
	var taking sync.WaitGroup
	taking.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			offer(came, struct{}{})
		}
	})
	t.Cleanup(func() { l.Close(); taking.Wait() })
	return came
}

// leave leaves, in a daemon's folder, what tells of an item in the keyring that is to be
// forgotten, and what make makes.
func leave(t *testing.T, d *Daemon, make func(dir string)) {
	t.Helper()
	other, dir := t.TempDir(), d.settings.Get(settings.Dir)
	items := store.Means{Items: &memory{items: map[string][]byte{}}}
	_, file, err := store.MakeIdentity(t.Context(), other, false, store.Protection{Kind: store.InKeyring}, items)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file.Path)
	if err != nil {
		t.Fatal(err)
	}
	make(dir)
	if err := os.WriteFile(filepath.Join(dir, ".identity.keyring.old"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Nobody waits for a keyring that hangs where an item of it is only to be forgotten:
// neither who reloads, nor who changes the identity meanwhile, nor who stops.
func TestForgettingHoldsNobodyUp(t *testing.T) {
	came := silentBus(t)
	d := newQuiet(t, func(string) {})
	d.worker.Patience = time.Hour
	leave(t, d, func(dir string) {
		if _, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{}, store.Means{}); err != nil {
			t.Fatal(err)
		}
	})
	defer func() { d.beginStop(); d.heeding.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 2 {
		if err := d.open(ctx); err != nil {
			t.Fatal(err)
		}
		if d.wrapping.TryAcquire(1) {
			t.Fatal("it is not being forgotten any more, or the identity may change meanwhile")
		}
		select {
		case <-came:
		case <-ctx.Done():
			t.Fatal("the keyring was not asked")
		}
	}
	release, err := d.wrap(ctx)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if err := d.open(ctx); err != nil { // for who stops
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.settings.Get(settings.Dir), ".identity.keyring.old")); err != nil {
		t.Error(err)
	}
}

// A keyring that has just not given the identity is not asked to forget another.
func TestForgettingAfterAFailure(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "autolaunch:") // which is not taken
	d := newQuiet(t, func(string) {})
	leave(t, d, func(dir string) {
		items := store.Means{Items: &memory{items: map[string][]byte{}}}
		if _, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{Kind: store.InKeyring}, items); err != nil {
			t.Fatal(err)
		}
	})
	defer func() { d.beginStop(); d.heeding.Wait() }()
	if err := d.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.endForgetting != nil || !strings.Contains(d.lock.reason, "the keyring did not give the identity") {
		t.Errorf("asked again: %t; locked, as %q", d.endForgetting != nil, d.lock.reason)
	}
}
