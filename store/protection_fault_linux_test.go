package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keptIdentity is a folder with an identity in it, or none, and beside it what
// keptAs wants.
func keptIdentity(t *testing.T, keys, as string) (f *faultStore, key string) {
	t.Helper()
	above, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f = &faultStore{dir: filepath.Join(above, "dir")}
	mustMkdir(t, f.dir, 0o700)
	mustMkdir(t, filepath.Join(above, "items"), 0o700)
	if err := os.Symlink(keys, filepath.Join(above, "keys")); err != nil {
		t.Fatal(err)
	}
	if as == "" {
		return f, ""
	}
	p, m, err := keptAs(f.dir, as)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := mustMake(t, f.dir, p, m)
	return f, id.key.String()
}

// changes to how an identity is kept: "" is that there is none.
var keepings = [][2]string{
	{"", "bare"}, {"", "one"}, {"", "keyring"},
	{"bare", "passphrase"}, {"bare", "keyring"}, {"passphrase", "bare"},
	{"one", "two"}, {"one", "keyring"}, {"keyring", "one"}, {"keyring", "bare"},
}

// everyFault has a change made again and again, with a fault at the first call
// of each kind that changes or syncs something, then at the second, and so on,
// until there is no further. then sees what is there after each.
func everyFault(t *testing.T, inject string, then func(t *testing.T, from, to string, f *faultStore, key, printed string)) {
	keys := t.TempDir()
	keyIn(t, keys, "one")
	keyIn(t, keys, "two")
	for _, change := range keepings {
		for _, call := range []string{"write", "fsync", renames, "linkat", "unlinkat"} {
			t.Run(fmt.Sprintf("%s to %s/%s", change[0], change[1], call), func(t *testing.T) {
				t.Parallel()
				n := 0
				if call == "unlinkat" {
					n = 8 // FindIdentity's, which find nothing
				}
				for hit := true; hit; {
					n++
					f, key := keptIdentity(t, keys, change[0])
					args := []string{"-P", f.dir}
					for _, file := range []string{bareFile, wrappedFile, keyringFile, sshFile, pluginFile} {
						args = append(args, "-P", f.in(file), "-P", f.in(hidden(file, tempSuffix)))
					}
					args = append(args, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, inject, n))
					printed, trace := f.change(t, "protect "+change[1], args...)
					hit = printed == "" || strings.Contains(trace, "(INJECTED)")
					then(t, change[0], change[1], f, key, printed)
				}
				if call == "fsync" && n < 3 {
					t.Errorf("there were %d faults", n-1)
				}
			})
		}
	}
}

// opens checks that there is one identity in f.dir that opens, and returns how it
// is kept, "" where there is none; and that nothing else is left of the other.
func opens(t *testing.T, f *faultStore, key string) string {
	t.Helper()
	_, m, err := keptAs(f.dir, "bare")
	if err != nil {
		t.Fatal(err)
	}
	found, err := FindIdentity(f.dir)
	if errors.Is(err, fs.ErrNotExist) && key == "" {
		for name := range tree(t, f.dir) {
			// An item that a crash left is deleted when there is an identity.
			if name != ".identity.keyring.tmp" && name != "identity.ssh" {
				t.Errorf("%s is left over", name)
			}
		}
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	id, err := found.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.ForgetItems(t.Context(), m.Items); err != nil {
		t.Fatal(err)
	}
	if key != "" && id.key.String() != key {
		t.Error("it is another identity")
	}
	items, err := os.ReadDir(filepath.Join(filepath.Dir(f.dir), "items"))
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	if found.Protection.Kind == InKeyring {
		want = 1
	}
	if len(items) != want {
		t.Errorf("%d items are in the keyring, want %d", len(items), want)
	}
	for name := range tree(t, f.dir) {
		if name != filepath.Base(found.Path) && name != "identity.ssh" {
			t.Errorf("%s is left over", name)
		}
	}
	for _, name := range []string{"bare", "passphrase", "keyring", "one", "two"} {
		p, _, err := keptAs(f.dir, name)
		if err != nil {
			t.Fatal(err)
		}
		if p.PublicKey = strings.TrimSpace(p.PublicKey); p == found.Protection {
			return name
		}
	}
	t.Fatalf("it is kept as %+v", found.Protection)
	return ""
}

// Killed at any of its steps, Protect leaves one identity that opens, the old way
// or the new, and the next start leaves nothing beside it.
func TestProtectKilled(t *testing.T) {
	everyFault(t, "signal=KILL", func(t *testing.T, from, to string, f *faultStore, key, printed string) {
		if kept := opens(t, f, key); kept != from && kept != to {
			t.Errorf("it is kept as %q", kept)
		}
		if printed != "" && printed != "done\n" {
			t.Errorf("printed %q", printed)
		}
		// Whatever was left is in nobody's way.
		if err := protectAnew(f.dir, to); err != nil {
			t.Fatal(err)
		}
		if kept := opens(t, f, key); kept != to {
			t.Errorf("made again, it is kept as %q", kept)
		}
	})
}

// What fails leaves the old way, but for what is to be cleared up at the end.
func TestProtectFaults(t *testing.T) {
	everyFault(t, "error=EIO", func(t *testing.T, from, to string, f *faultStore, key, printed string) {
		want := to
		if strings.HasPrefix(printed, "failed: ") && !strings.Contains(printed, "is not gone") {
			want = from
			if !strings.Contains(printed, "input/output error") || strings.Contains(printed, "undoing") {
				t.Errorf("printed %q", printed)
			}
		}
		if kept := opens(t, f, key); kept != want {
			t.Errorf("it is kept as %q after: %s", kept, printed)
		}
	})
}
