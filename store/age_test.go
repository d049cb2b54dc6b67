package store

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	agetest "c2sp.org/CCTV/age"
	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func TestAge(t *testing.T) {
	trustAll := func(string, []byte) bool { return true }
	for _, test := range []struct {
		name        string
		trusted     func(string, []byte) bool
		postQuantum bool
	}{
		{"profiles", trustAll, false},
		{"sessions", nil, false},
		{"hybrid", trustAll, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, _ := openUnlocked(t, filepath.Join(t.TempDir(), "store"), test.trusted, test.postQuantum)
			testStore(t, a)
			wantFiles(t, a.dir)
		})
	}
}

func openUnlocked(t testing.TB, dir string, trusted func(string, []byte) bool, postQuantum bool) (*Age, *Identity) {
	t.Helper()
	id, err := generateIdentity(postQuantum)
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenAge(dir, trusted)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)
	return a, id
}

func openStore(t testing.TB) (*Age, *Identity) {
	t.Helper()
	return openUnlocked(t, filepath.Join(t.TempDir(), "store"), nil, false)
}

func TestOpenAgeMakesFolders(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "share", "tokend", "profiles")
	if _, err := OpenAge(dir, nil); err != nil {
		t.Fatal(err)
	}
	for ; dir != above; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s has mode %v, want drwx------", dir, info.Mode())
		}
	}
}

func TestOpenAgeRefuses(t *testing.T) {
	dir := t.TempDir()
	file, loose := filepath.Join(dir, "file"), filepath.Join(dir, "loose")
	mustWrite(t, file, "")
	mustMkdir(t, loose, 0o770)
	for path, want := range map[string]string{
		file:                           fmt.Sprintf("opening store: opening folder %q: not a directory", file),
		filepath.Join(file, "profile"): "not a directory",
		loose:                          fmt.Sprintf("opening store: folder %q can be changed by others (mode 0770); run: chmod go-w '%s'", loose, loose),
	} {
		if _, err := OpenAge(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenAge(%q) error = %v, want %s", path, err, want)
		}
	}
}

func TestStoreFolderMayBeALink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a, _ := openUnlocked(t, filepath.Join(dir, "link"), nil, false)
	v := mustPut(t, a, "dev/network", "x", "")
	wantSecret(t, a, "dev/network", "x", v)
}

func TestStoreFolderGone(t *testing.T) {
	a, _ := openStore(t)
	v := mustPut(t, a, "x", "x", "")
	if err := os.Rename(a.dir, a.dir+".away"); err != nil {
		t.Fatal(err)
	}
	_, statErr := a.Stat(t.Context(), "x")
	_, _, getErr := a.Get(t.Context(), "x")
	_, putErr := a.Put(t.Context(), "new", nil, "")
	deleteErr := a.Delete(t.Context(), "x", v)
	_, listErr := a.List(t.Context())
	for i, err := range []error{statErr, getErr, putErr, deleteErr, listErr} {
		if err == nil || errors.Is(err, ErrNotExist) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("call %d: error = %v, want one about the folder", i, err)
		}
	}
}

func TestFileLayout(t *testing.T) {
	a, _ := openStore(t)
	v := mustPut(t, a, "dev/network", "secret", "")
	path := filepath.Join(a.dir, "dev", "network.env.age")
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("file mode = %v, want -rw-------", info.Mode())
	}
	if info, err = os.Lstat(filepath.Dir(path)); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("folder mode = %v, %v, want drwx------", info.Mode(), err)
	}
	text := mustRead(t, path)
	if !bytes.HasPrefix(text, []byte("age-encryption.org/v1\n-> X25519 ")) {
		t.Errorf("the file starts with %q", text[:min(len(text), 40)])
	}
	if bytes.Contains(text, []byte("secret")) {
		t.Error("the secret is legible")
	}
	sum := sha256.Sum256(text)
	if want := Version(hex.EncodeToString(sum[:])[:32]); v != want {
		t.Errorf("version = %q, want %q", v, want)
	}
	wantFiles(t, a.dir, "dev/", "dev/network.env.age")
}

func TestReplacingKeepsTheFileName(t *testing.T) {
	a, id := openStore(t)
	mustMkdir(t, filepath.Join(a.dir, "dev"), 0o755)
	mustWrite(t, filepath.Join(a.dir, "dev", "network.age"), sealedFor(t, id, "theirs"))
	v := mustStat(t, a, "dev/network")
	wantSecret(t, a, "dev/network", "theirs", v)
	wantNames(t, a, "dev/network")
	v = mustPut(t, a, "dev/network", "ours", v)
	wantSecret(t, a, "dev/network", "ours", v)
	wantFiles(t, a.dir, "dev/", "dev/network.age")
	mustDelete(t, a, "dev/network")
	wantFiles(t, a.dir)
}

func TestBothFilesPresent(t *testing.T) {
	a, id := openStore(t)
	v := mustPut(t, a, "dev/network", "x", "")
	env, plain := filepath.Join(a.dir, "dev", "network.env.age"), filepath.Join(a.dir, "dev", "network.age")
	mustWrite(t, plain, sealedFor(t, id, "y"))
	want := fmt.Sprintf(`"dev/network": %q and %q are both there; remove one of them`, env, plain)
	for verb, err := range everyCall(t, a, "dev/network", v) {
		if err == nil || err.Error() != verb+" "+want {
			t.Errorf("%s: error = %v\nwant %s", verb, err, want)
		}
	}
	list, err := a.List(t.Context())
	if diff := cmp.Diff([]Entry{{"dev/network", ""}}, list); err != nil || diff != "" {
		t.Errorf("List: %v, (-want +got):\n%s", err, diff)
	}
	if err := os.Remove(plain); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, a, "dev/network", "x", v)
}

// everyCall returns the error of each call on one name, by how it starts.
func everyCall(t *testing.T, a *Age, name string, v Version) map[string]error {
	t.Helper()
	before := tree(t, a.dir)
	_, statErr := a.Stat(t.Context(), name)
	_, _, getErr := a.Get(t.Context(), name)
	_, putErr := a.Put(t.Context(), name, []byte("new"), v)
	deleteErr := a.Delete(t.Context(), name, v)
	if diff := cmp.Diff(before, tree(t, a.dir)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
	return map[string]error{"looking up": statErr, "reading": getErr, "writing": putErr, "deleting": deleteErr}
}

func TestListIgnores(t *testing.T) {
	a, id := openStore(t)
	text := sealedFor(t, id, "x")
	mustPut(t, a, "dev/network", "x", "")
	for _, folder := range []string{".git", ".git/dev", "my folder", "a.env", "empty", "1", "1/2", "1/2/3", "1/2/3/4", "1/2/3/4/5", "1/2/3/4/5/6", "1/2/3/4/5/6/7", "1/2/3/4/5/6/7/8"} {
		mustMkdir(t, filepath.Join(a.dir, folder), 0o700)
	}
	for _, file := range []string{
		".hidden.env.age", ".git/x.age", ".git/dev/x.age", "my folder/x.age", "a.env/x.age",
		".age-recipients", "README.md", "x.gpg", "x.AGE", "x.age.bak", "my file.age", "x.env.env.age", ".age", ".env.age",
		"1/2/3/4/5/6/7/8/nine.age", "dev/.network.env.age.tmp",
	} {
		mustWrite(t, filepath.Join(a.dir, file), text)
	}
	if err := os.Symlink("dev", filepath.Join(a.dir, "linked")); err != nil {
		t.Fatal(err)
	}
	wantNames(t, a, "dev/network")
	mustWrite(t, filepath.Join(a.dir, "1/2/3/4/5/6/7/eight.age"), text)
	wantNames(t, a, "1/2/3/4/5/6/7/eight", "dev/network")
}

func TestListShowsWhatIsRefused(t *testing.T) {
	a, id := openStore(t)
	v := mustPut(t, a, "ok", "x", "")
	mustPut(t, a, "shared/inside/x", "x", "")
	mustChmod(t, filepath.Join(a.dir, "shared"), 0o770)
	mustWrite(t, filepath.Join(a.dir, "loose.age"), sealedFor(t, id, "x"))
	mustChmod(t, filepath.Join(a.dir, "loose.age"), 0o644)
	mustMkdir(t, filepath.Join(a.dir, "folder.age"), 0o700)
	if err := os.Symlink("ok.env.age", filepath.Join(a.dir, "link.env.age")); err != nil {
		t.Fatal(err)
	}
	got, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{{"folder", ""}, {"link", ""}, {"loose", ""}, {"ok", v}, {"shared/inside/x", ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for _, e := range want {
		if v, err := a.Stat(t.Context(), e.Name); (err == nil) != (e.Version != "") || v != e.Version {
			t.Errorf("Stat(%q) = %q, %v", e.Name, v, err)
		}
	}
}

func TestLock(t *testing.T) {
	a, id := openStore(t)
	v := mustPut(t, a, "dev/network", "x", "")

	locked, err := OpenAge(a.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := locked.Put(t.Context(), "new", nil, ""); !errors.Is(err, ErrLocked) {
		t.Errorf("Put before the first Unlock: %v, want ErrLocked", err)
	}
	locked.Unlock(id)
	locked.Lock()

	for _, name := range []string{"dev/network", "none"} {
		if data, _, err := locked.Get(t.Context(), name); !errors.Is(err, ErrLocked) || data != nil {
			t.Errorf("Get(%q) while locked = %q, %v, want ErrLocked", name, data, err)
		}
	}
	if got := mustStat(t, locked, "dev/network"); got != v {
		t.Errorf("Stat while locked = %q, want %q", got, v)
	}
	wantNames(t, locked, "dev/network")
	v = mustPut(t, locked, "dev/network", "flight", v)
	other := mustPut(t, locked, "other", "y", "")
	if err := locked.Delete(t.Context(), "other", other); err != nil {
		t.Errorf("Delete while locked: %v", err)
	}
	locked.Unlock(id)
	wantSecret(t, locked, "dev/network", "flight", v)
}

func TestLockWaitsForNothing(t *testing.T) {
	var a *Age
	a, id := openUnlocked(t, t.TempDir(), func(string, []byte) bool {
		a.Lock() // while a Put is under way
		return true
	}, false)
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), id.Recipient())
	v := mustPut(t, a, "x", "x", "")
	if _, _, err := a.Get(t.Context(), "x"); !errors.Is(err, ErrLocked) {
		t.Errorf("Get = %v, want ErrLocked", err)
	}
	a.Unlock(id)
	wantSecret(t, a, "x", "x", v)
}

func TestFileOfSomebodyElse(t *testing.T) {
	a, id := openStore(t)
	other, err := generateIdentity(true)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(a.dir, "x.age"), sealedFor(t, other, "x"))
	want := fmt.Sprintf(`reading "x": decrypting %q: it is encrypted to somebody else, not to %s; ask for a rekey, or list a key that opens it in TOKEND_IDENTITIES`, filepath.Join(a.dir, "x.age"), id.Recipient())
	if _, _, err := a.Get(t.Context(), "x"); err == nil || err.Error() != want {
		t.Errorf("Get error = %v\nwant %s", err, want)
	}

	passphrase, err := age.NewScryptRecipient("pass")
	if err != nil {
		t.Fatal(err)
	}
	passphrase.SetWorkFactor(1)
	sealed, err := seal([]byte("x"), []age.Recipient{passphrase})
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(a.dir, "y.age"), string(sealed))
	want = fmt.Sprintf(`reading "y": decrypting %q: it is encrypted with a passphrase, not to a recipient`, filepath.Join(a.dir, "y.age"))
	if _, _, err := a.Get(t.Context(), "y"); err == nil || err.Error() != want {
		t.Errorf("Get error = %v\nwant %s", err, want)
	}
}

func TestSizeLimit(t *testing.T) {
	a, _ := openStore(t)
	v := mustPut(t, a, "large", "x", "")
	for size, ok := range map[int]bool{1<<20 - 1000: true, 1 << 20: false, 1<<20 + 1: false} {
		data := strings.Repeat("x", size)
		got, err := a.Put(t.Context(), "large", []byte(data), v)
		if ok != (err == nil) {
			t.Errorf("Put of %d bytes: %v", size, err)
		}
		if ok {
			wantSecret(t, a, "large", data, got)
			v = mustPut(t, a, "large", "x", got)
		} else if want := `writing "large": encrypted, it is larger than 1048576 bytes`; err.Error() != want {
			t.Errorf("error = %v, want %s", err, want)
		}
		wantSecret(t, a, "large", "x", v)
	}
	wantFiles(t, a.dir, "large.env.age")
}

func TestDamagedFile(t *testing.T) {
	a, _ := openStore(t)
	mustPut(t, a, "x", "secret", "")
	path := filepath.Join(a.dir, "x.env.age")
	whole := mustRead(t, path)
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		for _, text := range [][]byte{flipped, whole[:i]} {
			mustWrite(t, path, string(text))
			if data, _, err := a.Get(t.Context(), "x"); err == nil || errors.Is(err, ErrNotExist) || data != nil {
				t.Fatalf("Get of a file damaged at byte %d = %q, %v", i, data, err)
			}
		}
	}
}

func TestStatNoticesEveryChange(t *testing.T) {
	a, id := openStore(t)
	path := filepath.Join(a.dir, "x.age")
	texts := []string{sealedFor(t, id, "1"), sealedFor(t, id, "2"), sealedFor(t, id, "3")}
	// Same size, same inode, in quick succession: what tells them apart is
	// nothing but the bytes.
	for i := range 300 {
		text := texts[i%len(texts)]
		mustWrite(t, path, text)
		if got, want := mustStat(t, a, "x"), versionOf([]byte(text)); got != want {
			t.Fatalf("write %d: Stat = %q, want %q", i, got, want)
		}
	}

	settle(t, a, "x")
	stamp := time.Unix(1e9, 0)
	for i := range 6 { // also where somebody sets the clock of the file back
		text := texts[i%len(texts)]
		mustWrite(t, path, text)
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		if got, want := mustStat(t, a, "x"), versionOf([]byte(text)); got != want {
			t.Fatalf("write %d: Stat = %q, want %q", i, got, want)
		}
	}

	settle(t, a, "x")
	mustChmod(t, path, 0o644)
	if v, err := a.Stat(t.Context(), "x"); err == nil {
		t.Errorf("Stat of a file that has become loose = %q", v)
	}
	mustChmod(t, path, 0o600)
	settle(t, a, "x")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, a, "x")
}

// That a file is as it was is not enough.
func TestStatNoticesItsFolders(t *testing.T) {
	a, id := openStore(t)
	mustPut(t, a, "dir/x", "x", "")
	file := filepath.Join(a.dir, "dir", "x.env.age")
	for _, of := range []struct {
		what, says string
		change     func() error
		back       func() error
	}{
		{"a store that others can write to", "can be changed by others",
			func() error { return os.Chmod(a.dir, 0o722) }, func() error { return os.Chmod(a.dir, 0o700) }},
		{"a folder that others can write to", "can be changed by others",
			func() error { return os.Chmod(filepath.Dir(file), 0o722) }, func() error { return os.Chmod(filepath.Dir(file), 0o700) }},
		{"a link to the folder", "symbolic links are not followed",
			func() error {
				return errors.Join(os.Rename(filepath.Dir(file), filepath.Join(a.dir, "moved")), os.Symlink("moved", filepath.Dir(file)))
			},
			func() error {
				return errors.Join(os.Remove(filepath.Dir(file)), os.Rename(filepath.Join(a.dir, "moved"), filepath.Dir(file)))
			}},
		{"a twin", "are both there",
			func() error {
				return os.WriteFile(filepath.Join(a.dir, "dir", "x.age"), []byte(sealedFor(t, id, "y")), 0o600)
			},
			func() error { return os.Remove(filepath.Join(a.dir, "dir", "x.age")) }},
		{"a link as a twin", "are both there",
			func() error { return os.Link(file, filepath.Join(a.dir, "dir", "x.age")) },
			func() error { return os.Remove(filepath.Join(a.dir, "dir", "x.age")) }},
	} {
		settle(t, a, "dir/x")
		if err := of.change(); err != nil {
			t.Fatal(err)
		}
		if v, err := a.Stat(t.Context(), "dir/x"); err == nil || !strings.Contains(err.Error(), of.says) {
			t.Errorf("%s: Stat = %q, %v", of.what, v, err)
		}
		if err := of.back(); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, a, "dir/x")
	if err := os.Rename(filepath.Dir(file), filepath.Join(a.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, a, "dir/x")
}

// settle waits until Stat answers from its cache.
func settle(t testing.TB, a *Age, names ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, name := range names {
		for {
			if time.Now().After(deadline) {
				t.Fatalf("Stat of %q never comes from the cache", name)
			}
			if _, err := a.Stat(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			a.mu.Lock()
			settled := a.cache[name].settled
			a.mu.Unlock()
			if settled {
				break
			}
		}
	}
}

// A file system's clock can be too coarse to tell two changes apart. This
// machine's may not be, so the test looks at what Stat would rely on.
func TestStatReadsYoungFilesAgain(t *testing.T) {
	a, _ := openStore(t)
	var v Version
	for {
		start := time.Now()
		v = mustPut(t, a, "x", "x", v)
		mustStat(t, a, "x")
		if time.Since(start) < 100*time.Millisecond {
			break // else the file may be old enough by now
		}
	}
	a.mu.Lock()
	c := a.cache["x"]
	a.cache["x"] = cached{c.state, "stale", c.settled}
	a.mu.Unlock()
	if got := mustStat(t, a, "x"); got != v {
		t.Errorf("Stat of a file just written = %q, want %q", got, v)
	}
}

func TestStatReadsNothingWhenSettled(t *testing.T) {
	a, _ := openStore(t)
	v := mustPut(t, a, "x", "x", "")
	settle(t, a, "x")
	a.mu.Lock()
	c := a.cache["x"]
	c.version = "from the cache"
	a.cache["x"] = c
	a.mu.Unlock()
	if got := mustStat(t, a, "x"); got != "from the cache" {
		t.Errorf("Stat = %q, want the cached version", got)
	}
	// Put and Get look at the file.
	if _, got, err := a.Get(t.Context(), "x"); err != nil || got != v {
		t.Errorf("Get = %q, %v, want %q", got, err, v)
	}
	v = mustPut(t, a, "x", "y", v)
	wantSecret(t, a, "x", "y", v)
	mustDelete(t, a, "x")
	if len(a.cache) != 0 {
		t.Errorf("the cache keeps %d deleted names", len(a.cache))
	}
}

// A refused file keeps its bytes and is refused by every call.
func TestUnsafeFilesAreRefused(t *testing.T) {
	loose := func(mode fs.FileMode) func(*testing.T, string, string) {
		return func(t *testing.T, path, text string) {
			mustWrite(t, path, text)
			mustChmod(t, path, mode)
		}
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, path, text string)
		want string
	}{
		{"group", loose(0o640), `"PATH" is open to others (mode 0640); run: chmod 600 'PATH'`},
		{"world", loose(0o604), `"PATH" is open to others (mode 0604); run: chmod 600 'PATH'`},
		{"executable", loose(0o601), `"PATH" is open to others (mode 0601); run: chmod 600 'PATH'`},
		{"symlink", func(t *testing.T, path, text string) {
			mustWrite(t, path+".target", text)
			if err := os.Symlink(path+".target", path); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is a symbolic link, which is not followed`},
		{"dangling", func(t *testing.T, path, text string) {
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is a symbolic link, which is not followed`},
		{"hardlink", func(t *testing.T, path, text string) {
			mustWrite(t, path, text)
			if err := os.Link(path, path+".second"); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" has 2 hard links, one is allowed`},
		{"fifo", func(t *testing.T, path, text string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is not a regular file`},
		{"socket", func(t *testing.T, path, text string) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			t.Chdir(filepath.Dir(path)) // a socket's path must be short
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Base(path)}); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is not a regular file`},
		{"folder", func(t *testing.T, path, text string) { mustMkdir(t, path, 0o700) }, `"PATH" is not a regular file`},
		{"large", func(t *testing.T, path, text string) {
			mustWrite(t, path, text+strings.Repeat("x", 1<<20))
		}, `"PATH" is larger than 1048576 bytes`},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, id := openStore(t)
			mustMkdir(t, filepath.Join(a.dir, "dev"), 0o700)
			path, text := filepath.Join(a.dir, "dev", "x.env.age"), sealedFor(t, id, "x")
			test.make(t, path, text)
			want := strings.ReplaceAll(test.want, "PATH", path)
			for _, v := range []Version{"", versionOf([]byte(text))} {
				for verb, err := range everyCall(t, a, "dev/x", v) {
					if err == nil || err.Error() != verb+` "dev/x": `+want {
						t.Errorf("%s: error = %v\nwant %s", verb, err, want)
					}
				}
			}
		})
	}
}

func TestUnsafeFoldersAreRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"group", func(t *testing.T, path string) { mustChmod(t, path, 0o770) },
			`folder "PATH" can be changed by others (mode 0770); run: chmod go-w 'PATH'`},
		{"world", func(t *testing.T, path string) { mustChmod(t, path, 0o777|fs.ModeSticky) },
			`folder "PATH" can be changed by others (mode 1777); run: chmod go-w 'PATH'`},
		{"symlink", func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+"2"), os.Symlink(filepath.Base(path)+"2", path)); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is not a folder; symbolic links are not followed`},
		{"outside", func(t *testing.T, path string) {
			away := filepath.Join(t.TempDir(), "away")
			if err := errors.Join(os.Rename(path, away), os.Symlink(away, path)); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is not a folder; symbolic links are not followed`},
		{"file", func(t *testing.T, path string) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, path, "")
		}, `"PATH" is not a folder; symbolic links are not followed`},
		{"fifo", func(t *testing.T, path string) {
			if err := errors.Join(os.RemoveAll(path), syscall.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, `"PATH" is not a folder; symbolic links are not followed`},
	} {
		for _, folder := range []string{"dev", "dev/sub"} {
			t.Run(test.name+"/"+folder, func(t *testing.T) {
				a, _ := openStore(t)
				v := mustPut(t, a, "dev/sub/x", "x", "")
				path := filepath.Join(a.dir, folder)
				test.make(t, path)
				want := strings.ReplaceAll(test.want, "PATH", path)
				for verb, err := range everyCall(t, a, "dev/sub/x", v) {
					if err == nil || err.Error() != verb+` "dev/sub/x": `+want {
						t.Errorf("%s: error = %v\nwant %s", verb, err, want)
					}
				}
				if _, err := a.Put(t.Context(), "dev/sub/new", nil, ""); err == nil {
					t.Error("Put of a new name beside it was not refused")
				}
			})
		}
	}
	t.Run("store", func(t *testing.T) {
		a, _ := openStore(t)
		v := mustPut(t, a, "x", "x", "")
		mustChmod(t, a.dir, 0o770)
		want := fmt.Sprintf(`folder %q can be changed by others (mode 0770); run: chmod go-w '%s'`, a.dir, a.dir)
		for verb, err := range everyCall(t, a, "x", v) {
			if err == nil || err.Error() != verb+` "x": `+want {
				t.Errorf("%s: error = %v\nwant %s", verb, err, want)
			}
		}
		if _, err := a.List(t.Context()); err == nil || err.Error() != "listing store: "+want {
			t.Errorf("List: %v\nwant %s", err, want)
		}
	})
}

// Only root can make another user's files, so the rule is asked directly.
func TestOwners(t *testing.T) {
	me := uint32(os.Geteuid())
	for _, test := range []struct {
		uid          uint32
		file, folder string
	}{
		{me, "", ""},
		{me + 1, fmt.Sprintf(`"/x" belongs to user %d`, me+1), fmt.Sprintf(`folder "/x" belongs to user %d`, me+1)},
	} {
		file := unix.Stat_t{Uid: test.uid, Mode: unix.S_IFREG | 0o600, Nlink: 1}
		if err := checkFile("/x", &file, ownerOnly); errorText(err) != test.file {
			t.Errorf("file of user %d: %v, want %s", test.uid, err, test.file)
		}
		folder := unix.Stat_t{Uid: test.uid, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
		if err := checkFolder("/x", &folder); errorText(err) != test.folder {
			t.Errorf("folder of user %d: %v, want %s", test.uid, err, test.folder)
		}
	}
	if err := checkFolder("/x", &unix.Stat_t{Uid: 0, Mode: unix.S_IFDIR | 0o755}); err != nil {
		t.Errorf("folder of root: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestChmodInErrorWorks(t *testing.T) {
	a, _ := openUnlocked(t, filepath.Join(t.TempDir(), "it's my $HOME"), nil, false)
	v := mustPut(t, a, "dev/x", "x", "")
	mustChmod(t, filepath.Join(a.dir, "dev", "x.env.age"), 0o644)
	mustChmod(t, filepath.Join(a.dir, "dev"), 0o777)
	for range 2 {
		_, err := a.Stat(t.Context(), "dev/x")
		if err == nil {
			t.Fatal("not refused")
		}
		_, command, _ := strings.Cut(err.Error(), "; run: ")
		run(t, nil, "sh", "-c", command)
	}
	wantSecret(t, a, "dev/x", "x", v)
}

func TestCollisionOnDisk(t *testing.T) {
	for _, test := range []struct{ existing, name, want string }{
		{"dev/Network.env.age", "dev/network", "dev/Network"},
		{"dev/NETWORK.age", "dev/network", "dev/NETWORK"},
		{"dev/network.ENV.age", "dev/network", "dev/network.ENV.age"},
		{"dev/network.AGE", "dev/network", "dev/network.AGE"},
		{"Dev/other.age", "dev/network", "Dev"},
		{"dev/SUB/other.age", "dev/sub/network", "dev/SUB"},
	} {
		a, id := openStore(t)
		v := mustPut(t, a, test.name, "x", "")
		wantSecret(t, a, test.name, "x", v)
		path := filepath.Join(a.dir, test.existing)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, path, sealedFor(t, id, "y"))
		for verb, err := range everyCall(t, a, test.name, v) {
			if verb == "looking up" {
				continue
			}
			var collision *CollisionError
			if !errors.As(err, &collision) {
				t.Errorf("%s: %s beside %s: error = %v, want a CollisionError", verb, test.existing, test.name, err)
			} else if want := (CollisionError{test.name, test.want}); *collision != want {
				t.Errorf("%s: error = %+v, want %+v", verb, *collision, want)
			}
		}
	}

	// A file that is no secret's, and a name that is only the start of one, are none.
	a, _ := openStore(t)
	mustWrite(t, filepath.Join(a.dir, "LICENSE"), "text")
	mustPut(t, a, "license/x", "x", "")
	mustPut(t, a, "License", "x", "")
	wantNames(t, a, "License", "license/x")
}

func TestDebianAge(t *testing.T) {
	keys := t.TempDir()
	keyFile := filepath.Join(keys, "key.txt")
	run(t, nil, "age-keygen", "-o", keyFile)
	id, err := LoadIdentity(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenAge(t.TempDir(), func(string, []byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)

	const text = "CLIENT_ID=x\nCLIENT_SECRET='ü'\n"
	for name, args := range map[string][]string{"binary": nil, "armored": {"--armor"}} {
		path := filepath.Join(a.dir, name+".age")
		run(t, []byte(text), "age", append(args, "-r", id.Recipient(), "-o", path)...)
		mustChmod(t, path, 0o600)
		v := mustStat(t, a, name)
		wantSecret(t, a, name, text, v)
		mustPut(t, a, name, text+"more", v)
		if got := string(run(t, nil, "age", "-d", "-i", keyFile, path)); got != text+"more" {
			t.Errorf("age -d of %s = %q, want %q", name, got, text+"more")
		}
		if !bytes.HasPrefix(mustRead(t, path), []byte("age-encryption.org/v1\n")) {
			t.Errorf("%s was not written as a binary file", name)
		}
	}

	// An identity of ours opens what Debian's age wrote to it, too.
	own := filepath.Join(keys, "own.txt")
	id = writeIdentity(t, own, false)
	a.Unlock(id)
	path := filepath.Join(a.dir, "own.env.age")
	run(t, []byte(text), "age", "-r", id.Recipient(), "-o", path)
	mustChmod(t, path, 0o600)
	wantSecret(t, a, "own", text, mustStat(t, a, "own"))
	if got := string(run(t, nil, "age", "-d", "-i", own, path)); got != text {
		t.Errorf("age -d = %q, want %q", got, text)
	}
}

// trustList is a trust function that a test changes and asks what it was asked.
type trustList struct {
	trusted map[string]string // folder -> file
	asked   []string
}

func (l *trustList) ask(folder string, recipients []byte) bool {
	l.asked = append(l.asked, folder)
	text, ok := l.trusted[folder]
	return ok && text == string(recipients)
}

func TestTeamRecipients(t *testing.T) {
	trust := &trustList{trusted: map[string]string{}}
	a, id := openUnlocked(t, filepath.Join(t.TempDir(), "store"), trust.ask, false)
	colleague, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	sshLine := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPublic))) + " colleague@host"
	sshKey, err := agessh.NewEd25519Identity(private)
	if err != nil {
		t.Fatal(err)
	}
	opens := func(name string, key age.Identity) bool {
		t.Helper()
		_, err := age.Decrypt(bytes.NewReader(mustRead(t, filepath.Join(a.dir, name+".env.age"))), key)
		var mismatch *age.NoIdentityMatchError
		if err != nil && !errors.As(err, &mismatch) {
			t.Fatal(err)
		}
		return err == nil
	}

	mustPut(t, a, "own", "x", "") // before there are any recipients
	root := "# the team\n\n" + id.Recipient() + "\r\n  " + colleague.Recipient() + "  \n"
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), root)
	mustChmod(t, filepath.Join(a.dir, ".age-recipients"), 0o644) // as git leaves it
	mustMkdir(t, filepath.Join(a.dir, "dev"), 0o755)
	mustMkdir(t, filepath.Join(a.dir, "dev", "sub"), 0o755)
	sub := sshLine + "\n" + id.Recipient() + "\n"
	mustWrite(t, filepath.Join(a.dir, "dev", "sub", ".age-recipients"), sub)

	wantUntrusted := func(name, folder string) {
		t.Helper()
		before := tree(t, a.dir)
		_, err := a.Put(t.Context(), name, []byte("x"), mustStat(t, a, name))
		var untrusted *UntrustedError
		if !errors.As(err, &untrusted) || untrusted.Folder != folder {
			t.Errorf("Put(%q) error = %v, want an UntrustedError for %q", name, err, folder)
		}
		if diff := cmp.Diff(before, tree(t, a.dir)); diff != "" {
			t.Errorf("files changed (-before +after):\n%s", diff)
		}
	}
	wantUntrusted("own", "")
	wantUntrusted("dev/x", "")
	wantUntrusted("dev/new/x", "")
	wantUntrusted("dev/sub/x", "dev/sub")
	wantUntrusted("dev/sub/deeper/x", "dev/sub")
	trust.trusted[""] = root
	wantUntrusted("dev/sub/x", "dev/sub")
	trust.trusted["dev/sub"] = sub

	trust.asked = nil
	for _, test := range []struct {
		name                string
		colleague, sshOpens bool
		asked               string
	}{
		{"team", true, false, ""},
		{"dev/x", true, false, ""},
		{"dev/new/x", true, false, ""},
		{"dev/sub/x", false, true, "dev/sub"},
		{"dev/sub/deeper/x", false, true, "dev/sub"},
	} {
		v := mustPut(t, a, test.name, "x", "")
		wantSecret(t, a, test.name, "x", v)
		if got := opens(test.name, colleague.key); got != test.colleague {
			t.Errorf("the colleague opens %q: %v, want %v", test.name, got, test.colleague)
		}
		if got := opens(test.name, sshKey); got != test.sshOpens {
			t.Errorf("the SSH key opens %q: %v, want %v", test.name, got, test.sshOpens)
		}
		if diff := cmp.Diff([]string{test.asked}, trust.asked); diff != "" {
			t.Errorf("trust was asked about (-want +got):\n%s", diff)
		}
		trust.asked = nil
	}
	if opens("own", colleague.key) {
		t.Error("the colleague opens what was written before")
	}

	// While locked, the same holds.
	a.Lock()
	v := mustPut(t, a, "locked", "x", "")
	if !opens("locked", colleague.key) {
		t.Error("the colleague cannot open what was written while locked")
	}
	a.Unlock(id)
	wantSecret(t, a, "locked", "x", v)

	for folder, want := range map[string]string{"": root, "dev/sub": sub} {
		got, err := a.Recipients(t.Context(), folder)
		if diff := cmp.Diff(RecipientsFile{folder, []byte(want)}, got); err != nil || diff != "" {
			t.Errorf("Recipients(%q): %v (-want +got):\n%s", folder, err, diff)
		}
	}
	for _, folder := range []string{"dev", "none", "dev/sub/none"} {
		if _, err := a.Recipients(t.Context(), folder); !errors.Is(err, ErrNotExist) {
			t.Errorf("Recipients(%q): %v, want ErrNotExist", folder, err)
		}
	}
	for _, folder := range []string{"/", "..", "dev/../dev", "dev/", "1/2/3/4/5/6/7/8"} {
		var bad *NameError
		if _, err := a.Recipients(t.Context(), folder); !errors.As(err, &bad) {
			t.Errorf("Recipients(%q): %v, want a NameError", folder, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Recipients(ended, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Recipients: %v, want context.Canceled", err)
	}

	// A git pull changed the lines.
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), root+"# more\n")
	wantUntrusted("dev/x", "")
	wantSecret(t, a, "dev/x", "x", mustStat(t, a, "dev/x"))
	mustPut(t, a, "dev/sub/y", "x", "")
}

func TestSSHKeyOpensWithDebianAge(t *testing.T) {
	a, id := openUnlocked(t, t.TempDir(), func(string, []byte) bool { return true }, false)
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "id_ed25519")
	mustWrite(t, key, string(pem.EncodeToMemory(block)))
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), id.Recipient()+"\n"+string(ssh.MarshalAuthorizedKey(public)))
	mustPut(t, a, "dev/x", "text", "")
	if got := string(run(t, nil, "age", "-d", "-i", key, filepath.Join(a.dir, "dev/x.env.age"))); got != "text" {
		t.Errorf("age -d = %q", got)
	}
}

func TestSessionsIgnoreRecipients(t *testing.T) {
	a, id := openStore(t)
	colleague, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), colleague.Recipient()+"\n")
	mustPut(t, a, "x", "x", "")
	text := mustRead(t, filepath.Join(a.dir, "x.env.age"))
	if n := bytes.Count(text, []byte("\n-> ")); n != 1 {
		t.Errorf("encrypted to %d recipients, want 1", n)
	}
	if _, err := age.Decrypt(bytes.NewReader(text), id.key); err != nil {
		t.Error(err)
	}
	if _, err := a.Recipients(t.Context(), ""); !errors.Is(err, ErrNotExist) {
		t.Errorf("Recipients: %v, want ErrNotExist", err)
	}
}

func TestRecipientsRefused(t *testing.T) {
	trustAll := func(string, []byte) bool { return true }
	a, id := openUnlocked(t, t.TempDir(), trustAll, false)
	other, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := generateIdentity(true)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(a.dir, ".age-recipients")
	missing := fmt.Sprintf(`%q: this store's own recipient is not among its lines, so it could not read the secret back; add the line %s`, path, id.Recipient())
	line := func(n int) string {
		return fmt.Sprintf(`%q: line %d is not a recipient of a kind that can be used: age1…, age1pq1…, ssh-ed25519 or ssh-rsa`, path, n)
	}
	mixed := func(hybrid, classic string) string {
		return fmt.Sprintf("%q: post-quantum recipients (age1pq1…, %s) and others (%s) are both in it, and age encrypts no file to both; "+
			"leave one kind, for all who share these secrets", path, hybrid, classic)
	}
	for _, test := range []struct{ text, want string }{
		{"", missing},
		{"# " + id.Recipient() + "\n", missing},
		{other.Recipient() + "\n", missing},
		{hybrid.Recipient() + "\n", fmt.Sprintf("%q: its recipients (line 1) are post-quantum, and this store's own recipient, %s, is not; "+
			"age encrypts no file to both: give recipients that are not age1pq1…, or use a post-quantum identity", path, id.Recipient())},
		{id.Recipient() + "\nage1yubikey1qwerty\n", line(2)},
		{id.Recipient() + "\n\nssh-ed25519 AAAA\n", line(3)},
		{id.Recipient() + "\ngithub:somebody\n", line(2)},
		{id.key.String() + "\n", line(1)},
		{id.Recipient() + "\n" + hybrid.Recipient() + "\n", mixed("line 2", "line 1")},
		{"# both\n" + hybrid.Recipient() + "\n" + id.Recipient() + "\n\n" + other.Recipient() + "\n", mixed("line 2", "lines 3, 5")},
	} {
		mustWrite(t, path, test.text)
		_, err := a.Put(t.Context(), "dev/x", []byte("x"), "")
		if want := `writing "dev/x": ` + test.want; err == nil || err.Error() != want {
			t.Errorf("recipients %q: error = %v\nwant %s", test.text, err, want)
		}
	}
	mustWrite(t, path, id.Recipient()+"\n")
	mustChmod(t, path, 0o664)
	want := fmt.Sprintf("%q can be changed by others (mode 0664); run: chmod go-w '%s'", path, path)
	if _, err := a.Put(t.Context(), "dev/x", nil, ""); err == nil || err.Error() != `writing "dev/x": `+want {
		t.Errorf("loose recipients: error = %v\nwant %s", err, want)
	}
	if _, err := a.Recipients(t.Context(), ""); err == nil || err.Error() != `reading recipients of "": `+want {
		t.Errorf("loose recipients: error = %v\nwant %s", err, want)
	}
	if err := errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)); err != nil {
		t.Fatal(err)
	}
	mustChmod(t, path+"2", 0o600)
	if _, err := a.Put(t.Context(), "dev/x", nil, ""); err == nil || !strings.Contains(err.Error(), "is a symbolic link") {
		t.Errorf("linked recipients: error = %v", err)
	}
	wantFiles(t, a.dir, ".age-recipients", ".age-recipients2")

	// Above the store's own folder nothing counts.
	mustWrite(t, filepath.Join(filepath.Dir(a.dir), ".age-recipients"), "rubbish")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	v := mustPut(t, a, "dev/x", "x", "")
	wantSecret(t, a, "dev/x", "x", v)
}

func TestHybridTeam(t *testing.T) {
	a, id := openUnlocked(t, t.TempDir(), func(string, []byte) bool { return true }, true)
	colleague, err := generateIdentity(true)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), colleague.Recipient()+"\n"+id.Recipient()+"\n")
	v := mustPut(t, a, "x", "x", "")
	wantSecret(t, a, "x", "x", v)
	a.Unlock(colleague)
	wantSecret(t, a, "x", "x", v)

	a.Unlock(id)
	classic, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	ssh := strings.TrimSpace(string(mustRead(t, sshKeygen(t, "-t", "ed25519", "-N", "")+".pub")))
	path := filepath.Join(a.dir, ".age-recipients")
	for _, test := range []struct{ text, want string }{
		{classic.Recipient() + "\n" + ssh + "\n", fmt.Sprintf("%q: none of its recipients (lines 1, 2) is post-quantum, and this store's own recipient, %s…, is; "+
			"age encrypts no file to both: give recipients that are age1pq1… alone, or use an identity that is not post-quantum", path, id.Recipient()[:16])},
		{id.Recipient() + "\n" + ssh + "\n", fmt.Sprintf("%q: post-quantum recipients (age1pq1…, line 1) and others (line 2) are both in it, and age encrypts no file to both; "+
			"leave one kind, for all who share these secrets", path)},
	} {
		mustWrite(t, path, test.text)
		if _, err := a.Put(t.Context(), "x", []byte("y"), v); errorText(err) != `writing "x": `+test.want {
			t.Errorf("error = %v\nwant %s", err, test.want)
		}
	}
	wantSecret(t, a, "x", "x", v)
}

// sshKeygen makes a key pair and returns the private one's path.
func sshKeygen(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	run(t, nil, "ssh-keygen", append([]string{"-q", "-f", path, "-C", "me@here"}, args...)...)
	return path
}

// The test vectors of c2sp.org/CCTV/age, each as a file in a store; those of a
// passphrase, which opens nothing there, also as an identity file.
func TestVectors(t *testing.T) {
	vectors, err := fs.ReadDir(agetest.Vectors, ".")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, file := range vectors {
		t.Run(file.Name(), func(t *testing.T) {
			v := readVector(t, file.Name())
			a, id := openStore(t)
			if len(v.keys) > 0 {
				path := filepath.Join(t.TempDir(), "keys.txt")
				mustWrite(t, path, strings.Join(v.keys, "\n")+"\n")
				if id, err = id.WithFiles([]string{path}); err != nil {
					t.Fatal(err)
				}
				a.Unlock(id)
			}
			expect := v.expect
			switch {
			case len(v.file) > maxFileSize:
				expect = "too large"
			case v.armored && !bytes.HasPrefix(bytes.TrimSpace(v.file), []byte(armor.Header)):
				expect = "header failure" // it passes for a binary one
			case file.Name() == "scrypt_uppercase":
				expect = "no match" // it is of an unknown type
			case v.passphrase != "" && file.Name() != "scrypt_not_canonical_body":
				expect = "passphrase"
			}
			counts[expect]++
			mustWrite(t, filepath.Join(a.dir, "vector.age"), string(v.file))
			data, version, err := a.Get(t.Context(), "vector")
			v.check(t, expect, data, err)
			if sealed := new(SealedError); expect != "success" && expect != "too large" && (!errors.As(err, &sealed) || version != versionOf(v.file)) {
				t.Errorf("error = %v beside version %q, want a *SealedError", err, version)
			}

			if v.passphrase != "" {
				counts["by passphrase: "+v.expect]++
				who := person(t, secrets(v.passphrase, v.passphrase, v.passphrase)...)
				data, err := InProcess{}.Unwrap(t.Context(), v.file, Protection{Kind: Passphrase}, who.ask)
				v.check(t, v.expect, data, err)
			}
		})
	}
	want := map[string]int{
		"success": 21, "no match": 10, "HMAC failure": 1, "header failure": 47, "armor failure": 22,
		"payload failure": 19, "passphrase": 24, "too large": 3,
		"by passphrase: success": 2, "by passphrase: no match": 4, "by passphrase: header failure": 20,
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("vectors (-want +got):\n%s", diff)
	}
}

type vector struct {
	expect, payload, passphrase string
	keys                        []string
	armored                     bool
	file                        []byte
}

func readVector(t testing.TB, name string) *vector {
	t.Helper()
	text, err := fs.ReadFile(agetest.Vectors, name)
	if err != nil {
		t.Fatal(err)
	}
	header, file, ok := bytes.Cut(text, []byte("\n\n"))
	if !ok {
		t.Fatal("no header")
	}
	v := &vector{file: file}
	for line := range strings.Lines(string(header)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "expect":
			v.expect = value
		case "payload":
			v.payload = value
		case "identity":
			v.keys = append(v.keys, value)
		case "passphrase":
			v.passphrase = value
		case "armored":
			v.armored = true
		case "compressed":
			r, err := zlib.NewReader(bytes.NewReader(v.file))
			if err != nil {
				t.Fatal(err)
			}
			if v.file, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		case "file key", "comment":
		default:
			t.Fatalf("unknown line: %s", line)
		}
	}
	return v
}

// check says whether data and err are what a vector expects.
func (v *vector) check(t *testing.T, expect string, data []byte, err error) {
	t.Helper()
	if expect == "success" {
		if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != v.payload {
			t.Errorf("%d bytes, %v, want those with the hash %s", len(data), err, v.payload)
		}
		return
	}
	if err == nil || data != nil {
		t.Errorf("%d bytes, %v, want %s", len(data), err, expect)
		return
	}
	var got string
	switch damage := new(armor.Error); {
	case errors.As(err, &damage):
		got = "armor failure"
	case strings.Contains(err.Error(), "bad header MAC"):
		got = "HMAC failure"
	case errors.Is(err, ErrRefused), strings.Contains(err.Error(), "encrypted to somebody else"):
		got = "no match"
	case strings.Contains(err.Error(), "encrypted with a passphrase, not to a recipient"):
		got = "passphrase"
	case strings.Contains(err.Error(), "is larger than"):
		got = "too large"
	case strings.Contains(err.Error(), "failed to read "): // the header, or the nonce after it
		got = "header failure"
	case errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "payload chunk"),
		strings.Contains(err.Error(), "trailing data"), strings.Contains(err.Error(), "last chunk is empty"):
		got = "payload failure"
	default:
		got = "header failure"
	}
	if got != expect {
		t.Errorf("%s (%v), want %s", got, err, expect)
	}
}

func FuzzGet(f *testing.F) {
	key := "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n"
	id, err := parseIdentity([]byte(key))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"x25519", "armor_x25519", "hybrid", "scrypt", "x25519_grease"} {
		text, err := fs.ReadFile(agetest.Vectors, name)
		if err != nil {
			f.Fatal(err)
		}
		_, file, _ := bytes.Cut(text, []byte("\n\n"))
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if data, err := id.Open(file); err != nil && data != nil {
			t.Errorf("open = %q, %v", data, err)
		}
	})
}

func TestSweep(t *testing.T) {
	a, id := openStore(t)
	v := mustPut(t, a, "dev/x", "current", "")
	old, restored := sealedFor(t, id, "old"), sealedFor(t, id, "restored")
	in := func(file string) string { return filepath.Join(a.dir, file) }
	mustMkdir(t, in(".git"), 0o700)
	mustMkdir(t, in("other"), 0o700)
	mustMkdir(t, in("other/.y.age.tmp"), 0o700)
	for _, file := range []string{
		"dev/.x.env.age.tmp", "dev/.new.env.age.tmp", "dev/.x.env.age.old", ".z.age.tmp",
		"dev/.notes.tmp", "dev/.x.swp", "dev/x.tmp", "dev/.a b.age.tmp", ".git/.x.age.tmp", ".age-recipients.tmp",
	} {
		mustWrite(t, in(file), old)
	}
	mustWrite(t, in("dev/.gone.age.old"), restored)
	// A crash between link and rename: two links to one file.
	mustPut(t, a, "linked", "linked", "")
	if err := os.Link(in("linked.env.age"), in(".linked.env.age.old")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Stat(t.Context(), "linked"); err == nil {
		t.Error("a file with two links was not refused")
	}

	a, err := OpenAge(a.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)
	wantFiles(t, a.dir, ".age-recipients.tmp", ".git/", ".git/.x.age.tmp",
		"dev/", "dev/.a b.age.tmp", "dev/.notes.tmp", "dev/.x.swp", "dev/gone.age", "dev/x.env.age", "dev/x.tmp",
		"linked.env.age", "other/", "other/.y.age.tmp/")
	wantSecret(t, a, "dev/x", "current", v)
	wantSecret(t, a, "dev/gone", "restored", versionOf([]byte(restored)))
	wantSecret(t, a, "linked", "linked", mustStat(t, a, "linked"))

	mustMkdir(t, in("other/.w.env.age.tmp"), 0o700)
	want := fmt.Sprintf("removing %q: ", in("other/.w.env.age.tmp"))
	if _, err = a.Put(t.Context(), "other/w", nil, ""); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Put with a folder in its way: %v, want %s", err, want)
	}
}

// Leftovers that appear while the store is open are in nobody's way.
func TestStaleLeftoversAreReplaced(t *testing.T) {
	a, id := openStore(t)
	v := mustPut(t, a, "dev/x", "1", "")
	stale := sealedFor(t, id, "stale")
	for _, file := range []string{"dev/.x.env.age.tmp", "dev/.x.env.age.old", "dev/.y.env.age.tmp", "dev/.y.env.age.old"} {
		mustWrite(t, filepath.Join(a.dir, file), stale)
	}
	v = mustPut(t, a, "dev/x", "2", v)
	wantSecret(t, a, "dev/x", "2", v)
	y := mustPut(t, a, "dev/y", "1", "")
	wantFiles(t, a.dir, "dev/", "dev/x.env.age", "dev/y.env.age")

	for _, file := range []string{"dev/.x.env.age.tmp", "dev/.x.env.age.old"} {
		mustWrite(t, filepath.Join(a.dir, file), stale)
	}
	mustDelete(t, a, "dev/x")
	wantFiles(t, a.dir, "dev/", "dev/y.env.age")
	a, err := OpenAge(a.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)
	wantNothing(t, a, "dev/x")
	wantSecret(t, a, "dev/y", "1", y)
}

func TestDeleteRemovesEmptyFolders(t *testing.T) {
	a, _ := openStore(t)
	mustPut(t, a, "a/b/c/x", "x", "")
	mustPut(t, a, "a/y", "y", "")
	mustDelete(t, a, "a/b/c/x")
	wantFiles(t, a.dir, "a/", "a/y.env.age")
	mustWrite(t, filepath.Join(a.dir, "a", ".age-recipients"), "")
	mustDelete(t, a, "a/y")
	wantFiles(t, a.dir, "a/", "a/.age-recipients")
}

// endAfter is a context that ends after its Err has been asked n times.
type endAfter struct {
	context.Context
	n int
}

func (c *endAfter) Err() error {
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

func TestContextEndsInTheMiddle(t *testing.T) {
	a, _ := openStore(t)
	v := mustPut(t, a, "x", "old", "")
	asked := 0
	for ; ; asked++ {
		before := tree(t, a.dir)
		got, err := a.Put(&endAfter{t.Context(), asked}, "x", []byte("new"), v)
		if err == nil {
			wantSecret(t, a, "x", "new", got)
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		wantSecret(t, a, "x", "old", v)
		if _, err := a.Put(&endAfter{t.Context(), asked}, "new/x", nil, ""); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, tree(t, a.dir)); diff != "" {
			t.Fatalf("files changed (-before +after):\n%s", diff)
		}
	}
	if asked != 3 {
		t.Errorf("Put asked its context %d times, want 3: at the start, before the first write, before the rename", asked)
	}
}

// Another program that writes between Put's two looks must win.
func TestPutLooksTwice(t *testing.T) {
	var a *Age
	var meanwhile func()
	a, id := openUnlocked(t, t.TempDir(), func(string, []byte) bool { meanwhile(); return true }, false)
	mustWrite(t, filepath.Join(a.dir, ".age-recipients"), id.Recipient())
	path := filepath.Join(a.dir, "x.env.age")
	text := sealedFor(t, id, "theirs")

	for _, test := range []struct {
		name      string
		exists    bool
		meanwhile func()
		want      string
		files     []string
	}{
		{"created", false, func() { mustWrite(t, path, text) }, text, []string{".age-recipients", "x.env.age"}},
		{"changed", true, func() { mustWrite(t, path, text) }, text, []string{".age-recipients", "x.env.age"}},
		{"removed", true, func() { os.Remove(path) }, "", []string{".age-recipients"}},
		{"renamed", true, func() { os.Rename(path, filepath.Join(a.dir, "x.age")) }, "", []string{".age-recipients", "x.age"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			meanwhile = func() {}
			var v Version
			if test.exists {
				v = mustPut(t, a, "x", "ours", "")
			}
			meanwhile = test.meanwhile
			if _, err := a.Put(t.Context(), "x", []byte("lost"), v); !errors.Is(err, ErrConflict) {
				t.Errorf("Put: %v, want ErrConflict", err)
			}
			if test.want != "" && string(mustRead(t, path)) != test.want {
				t.Error("the other program's bytes are gone")
			}
			wantFiles(t, a.dir, test.files...)
			if mustStat(t, a, "x") != "" {
				mustDelete(t, a, "x")
			}
		})
	}
}

func BenchmarkStat(b *testing.B) {
	a, _ := openStore(b)
	if _, err := a.Put(b.Context(), "dev/network", []byte("x"), ""); err != nil {
		b.Fatal(err)
	}
	settle(b, a, "dev/network")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Stat(b.Context(), "dev/network"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	a, _ := openStore(b)
	if _, err := a.Put(b.Context(), "dev/network", []byte("x"), ""); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := a.Get(b.Context(), "dev/network"); err != nil {
			b.Fatal(err)
		}
	}
}

func sealedFor(t *testing.T, id *Identity, text string) string {
	t.Helper()
	sealed, err := seal([]byte(text), []age.Recipient{id.recipient})
	if err != nil {
		t.Fatal(err)
	}
	return string(sealed)
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustMkdir(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	mustChmod(t, path, mode)
}

func mustChmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// tree returns what is in a folder: the names, folders with a slash, and what
// each is or holds.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			found[name+"/"] = ""
		case d.Type().IsRegular():
			found[name] = string(mustRead(t, path))
		default:
			found[name] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	got := []string{}
	for name := range tree(t, dir) {
		got = append(got, name)
	}
	slices.Sort(got)
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		t.Errorf("files in %s (-want +got):\n%s", dir, diff)
	}
}

func TestModesOfSharedTree(t *testing.T) {
	a, err := OpenAge(t.TempDir(), func(string, []byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	id, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)
	if _, err := a.Put(t.Context(), "x", []byte("secret"), ""); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(a.dir, "x.env.age")
	mustChmod(t, path, 0o644) // as age and git write it
	if data, _, err := a.Get(t.Context(), "x"); err != nil || string(data) != "secret" {
		t.Errorf("Get of a file that others can read = %q, %v", data, err)
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
		mustChmod(t, path, mode)
		_, _, err := a.Get(t.Context(), "x")
		if want := fmt.Sprintf("run: chmod go-w '%s'", path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Get of a file with mode %04o: %v, want %q", mode, err, want)
		}
	}
}

// What is this program's own is given out by no store of other things, wherever its
// file was copied to; what was written before there was a mark is still read.
func TestRecords(t *testing.T) {
	records, id := openStore(t)
	mustPut(t, records, "a", "the record", "")
	wantSecret(t, records, "a", "the record", mustStat(t, records, "a"))

	texts, err := OpenAge(t.TempDir(), func(string, []byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	texts.Unlock(id)
	copied := func(from, to *Age, name string) {
		t.Helper()
		path := filepath.Join(to.dir, name+".env.age")
		mustWrite(t, path, string(mustRead(t, filepath.Join(from.dir, name+".env.age"))))
		mustChmod(t, path, 0o600)
	}
	copied(records, texts, "a")
	var sealed *SealedError
	if data, _, err := texts.Get(t.Context(), "a"); !errors.As(err, &sealed) || sealed.Err != errRecord || data != nil {
		t.Errorf("Get = %q, %v", data, err)
	}
	mustPut(t, texts, "old", "a record without a mark", "")
	copied(texts, records, "old")
	wantSecret(t, records, "old", "a record without a mark", mustStat(t, records, "old"))
}
