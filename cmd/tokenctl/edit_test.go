package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokend/client/api"
	"tokend/internal/settings"
)

// A plain text is not put where somebody else could put another in its place.
func TestPlainTextIsInAPlaceOfOnesOwn(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	made := func(name string, mode os.FileMode) string {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	own, sticky, open, group := made("own", 0o700), made("sticky", 0o777|os.ModeSticky), made("open", 0o777), made("group", 0o770)
	below := made("open/below", 0o700)
	link := filepath.Join(root, "link")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	type row struct{ place, in, says string }
	rows := []row{
		{own, own, ""},
		{sticky, sticky, ""},
		{link, own, ""},
		{open, "", "folder " + open + ", above the plain text, can be written to by others; run: chmod go-w '" + open + "'"},
		{group, "", "folder " + group + ", above the plain text, can be written to by others; run: chmod go-w '" + group + "'"},
		{below, "", "folder " + open + ", above the plain text, can be written to by others; run: chmod go-w '" + open + "'"},
		{filepath.Join(root, "missing"), "", "lstat " + filepath.Join(root, "missing") + ": no such file or directory"},
	}
	if os.Geteuid() == 0 {
		his := made("his", 0o700)
		if err := os.Chown(his, 12345, -1); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row{his, "", "folder " + his + ", above the plain text, belongs to user 12345"},
			row{made("his/below", 0o700), "", "folder " + his + ", above the plain text, belongs to user 12345"})
	}
	for _, test := range rows {
		t.Setenv("TMPDIR", test.place)
		dir, err := plainTextDir()
		if test.in != "" {
			if err != nil || filepath.Dir(dir.Name()) != test.in {
				t.Errorf("%s: in %v, %v", test.place, dir, err)
				continue
			}
			removeAll(dir)
			if err := dir.Close(); err != nil {
				t.Error(err)
			}
		} else if want := test.says + "; TMPDIR can name a folder of your own"; err == nil || diagnoseLine(err) != want {
			t.Errorf("%s: %v, want %s", test.place, err, want)
		}
		if left, err := filepath.Glob(filepath.Join(test.place, "tokenctl-*")); left != nil || err != nil {
			t.Errorf("%s: %q is left, %v", test.place, left, err)
		}
	}
}

func diagnoseLine(err error) string {
	p := diagnose(err)
	return p.line()
}

// Only what was edited is read: a file of this user's, in the folder that was made.
func TestEditedTextIsNobodyElses(t *testing.T) {
	const swapped = "its folder is not the one that was made for it"
	const irregular = "it is not a regular file of yours"
	type row struct {
		what, says string
		swap       func(dir, file string) error
	}
	rows := []row{
		{"edited", "", func(_, file string) error { return os.WriteFile(file, []byte("theirs"), 0o600) }},
		{"replaced", "", func(_, file string) error {
			if err := os.WriteFile(file+"~", []byte("theirs"), 0o644); err != nil {
				return err
			}
			return os.Rename(file+"~", file)
		}},
		{"another folder", swapped, func(dir, file string) error {
			if err := os.Rename(dir, dir+".away"); err != nil {
				return err
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.WriteFile(file, []byte("theirs"), 0o600)
		}},
		{"a link to a folder", swapped, func(dir, _ string) error {
			if err := os.Rename(dir, dir+".away"); err != nil {
				return err
			}
			return os.Symlink(dir+".away", dir)
		}},
		{"no folder", swapped, func(dir, _ string) error { return os.Rename(dir, dir+".away") }},
		{"a link", irregular, func(dir, file string) error {
			if err := os.WriteFile(filepath.Join(dir, "theirs"), []byte("theirs"), 0o600); err != nil {
				return err
			}
			if err := os.Remove(file); err != nil {
				return err
			}
			return os.Symlink("theirs", file)
		}},
		{"a link that leads out", "path escapes from parent", func(_, file string) error {
			if err := os.Remove(file); err != nil {
				return err
			}
			return os.Symlink("/etc/passwd", file)
		}},
		{"a pipe", irregular, func(_, file string) error {
			if err := os.Remove(file); err != nil {
				return err
			}
			return syscall.Mkfifo(file, 0o600)
		}},
		{"nothing", "no such file", func(_, file string) error { return os.Remove(file) }},
	}
	if os.Geteuid() == 0 {
		rows = append(rows, row{"a file of another user", irregular, func(_, file string) error { return os.Chown(file, 12345, -1) }})
	}
	for _, test := range rows {
		t.Run(test.what, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			dir, err := plainTextDir()
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if err := dir.WriteFile("p.env", []byte("ours"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := test.swap(dir.Name(), filepath.Join(dir.Name(), "p.env")); err != nil {
				t.Fatal(err)
			}
			var text []byte
			within(t, func() { text, err = readEdited(dir, "p.env") })
			if test.says == "" && (err != nil || string(text) != "theirs") || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says) || text != nil) {
				t.Errorf("%q, %v, want %q", text, err, test.says)
			}
			// It does not stay, wherever it is by now.
			removeAll(dir)
			was := dir.Name()
			if test.says == swapped {
				was += ".away"
			}
			if _, err := os.Lstat(filepath.Join(was, "p.env")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}

// within fails what waits for ever.
func within(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits")
	}
}

// A pipe where a file is to be that nobody has named is not waited for.
func TestPipesAreNotWaitedFor(t *testing.T) {
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": home, settings.SSHKey: ""} {
		t.Setenv(name, value)
	}
	pipe := func(name string) string {
		t.Helper()
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe(".ssh/id_ed25519")
	pipe(".ssh/id_rsa")
	s, err := settings.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	within(t, func() {
		if _, err := (&person{settings: s}).sshKey(&api.Prompt{PublicKey: "ssh-ed25519 AAAA"}); err == nil || !strings.Contains(err.Error(), "neither ~/.ssh/id_ed25519 nor ~/.ssh/id_rsa is") {
			t.Errorf("the SSH key: %v", err)
		}
	})
	pipe("key.pub")
	within(t, func() {
		if _, err := publicHalf(filepath.Join(home, "key"), nil); err == nil || !strings.Contains(err.Error(), "key.pub is not a regular file") {
			t.Errorf("its public half: %v", err)
		}
	})
	trusted := pipe("trusted")
	within(t, func() {
		err := addTrust(api.Trust{Line: "p hash", File: trusted})
		if want := "writing the trust file: " + trusted + " is not a regular file; move it away"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	})
	// One that somebody has named is.
	named := pipe("named")
	go func() {
		if err := os.WriteFile(named, []byte("a key"), 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	within(t, func() {
		if b, err := readKey(named); err != nil || string(b) != "a key" {
			t.Errorf("%q, %v", b, err)
		}
	})
}
