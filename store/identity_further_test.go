package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Other people's files are read with the further identities; nothing is written
// to them.
func TestFurtherIdentities(t *testing.T) {
	a, id := openStore(t)
	classic, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := generateIdentity(true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	native := filepath.Join(dir, "keys.txt")
	mustWrite(t, native, "# both\n\n"+string(classic.text())+string(hybrid.text()))
	ed25519 := sshKeygen(t, "-t", "ed25519", "-N", "")
	rsa := sshKeygen(t, "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "")
	with, err := id.WithFiles([]string{native, ed25519, rsa})
	if err != nil {
		t.Fatal(err)
	}

	files := map[string]string{"classic": sealedFor(t, classic, "classic"), "hybrid": sealedFor(t, hybrid, "hybrid")}
	for name, key := range map[string]string{"ed25519": ed25519, "rsa": rsa} {
		files[name] = string(run(t, []byte(name), "age", "-R", key+".pub"))
	}
	for name, file := range files {
		mustWrite(t, filepath.Join(a.dir, name+".age"), file)
		if _, _, err := a.Get(t.Context(), name); err == nil {
			t.Errorf("%s was read without its key", name)
		}
	}
	a.Unlock(with)
	for name, file := range files {
		wantSecret(t, a, name, name, versionOf([]byte(file)))
	}
	v := mustPut(t, a, "own", "own", "")
	a.Unlock(id)
	wantSecret(t, a, "own", "own", v)
	if with.Recipient() != id.Recipient() || string(with.Derive("x")) != string(id.Derive("x")) {
		t.Error("the identity itself is another")
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if got := fmt.Sprintf(verb, with); got != "Identity(redacted)" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	if none, err := with.WithFiles(nil); err != nil || len(none.further) > 0 {
		t.Errorf("with no files: %d keys, %v", len(none.further), err)
	}
}

// A file that cannot be used takes none of the others along, wherever it stands.
func TestFurtherIdentitiesBesideBadOnes(t *testing.T) {
	a, id := openStore(t)
	dir := t.TempDir()
	empty, missing := filepath.Join(dir, "empty"), filepath.Join(dir, "missing")
	mustWrite(t, empty, "")
	paths := []string{empty}
	for _, name := range []string{"first", "second"} {
		key, err := generateIdentity(false)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		mustWrite(t, path, string(key.text()))
		paths = append(paths, path, missing)
		mustWrite(t, filepath.Join(a.dir, name+".age"), sealedFor(t, key, name))
	}
	with, err := id.WithFiles(paths)
	says := errorText(err)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(says, fmt.Sprintf("%q: no identity in it; ", empty)) ||
		strings.Count(says, strconv.Quote(missing)) != 2 || strings.Contains(says, "\n") {
		t.Errorf("error = %v, want one line of the three", err)
	}
	if with == nil {
		t.Fatal("no identity")
	}
	a.Unlock(with)
	for _, name := range []string{"first", "second"} {
		wantSecret(t, a, name, name, mustStat(t, a, name))
	}
	v := mustPut(t, a, "own", "own", "")
	wantSecret(t, a, "own", "own", v)
}

func TestFurtherIdentitiesRefused(t *testing.T) {
	id, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	secret := id.key.String()[20:40]
	read := func(args ...string) string { return string(mustRead(t, sshKeygen(t, args...))) }
	dir := t.TempDir()
	for name, test := range map[string]struct{ text, want string }{
		"empty":         {"", "no identity in it"},
		"comments":      {"# nothing\n", "no identity in it"},
		"cut":           {string(id.text()) + id.key.String()[:40], "line 3 is not an AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1… key"},
		"plugin":        {"AGE-PLUGIN-TEST-10Q32NLXM\n", "line 1 is a plugin's, and plugins are run for the store's own identity alone"},
		"rubbish":       {"-----BEGIN RUBBISH-----\n", "it is no SSH private key, nor lines of AGE-SECRET-KEY-1…"},
		"passphrase":    {read("-t", "ed25519", "-a", "1", "-N", "secret"), "the SSH key in it has a passphrase, and nobody is asked for that of a further identity"},
		"PEM, the same": {read("-t", "rsa", "-m", "PEM", "-b", "2048", "-N", "secret"), "the SSH key in it has a passphrase, and nobody is asked for that of a further identity"},
		"ecdsa":         {read("-t", "ecdsa", "-N", ""), "the SSH key is neither Ed25519 nor RSA, which is what age can use"},
		"weak":          {read("-t", "rsa", "-b", "1024", "-N", ""), "the SSH key is RSA of 1024 bits, and less than 2048 is too weak"},
	} {
		path := filepath.Join(dir, name)
		mustWrite(t, path, test.text)
		_, err := id.WithFiles([]string{path})
		if want := fmt.Sprintf("identity file %q: %s", path, test.want); errorText(err) != want {
			t.Errorf("%s: error = %v\nwant %s", name, err, want)
		}
		if strings.Contains(errorText(err), secret) {
			t.Errorf("%s: the error shows the key", name)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := id.WithFiles([]string{fifo}); errorText(err) != fmt.Sprintf("%q is not a regular file", fifo) {
		t.Errorf("error = %v", err)
	}
	path := filepath.Join(dir, "loose")
	mustWrite(t, path, string(id.text()))
	mustChmod(t, path, 0o640)
	want := fmt.Sprintf("%q is open to others (mode 0640); run: chmod 600 '%s'", path, path)
	if _, err := id.WithFiles([]string{path}); errorText(err) != want {
		t.Errorf("error = %v, want %s", err, want)
	}
	if _, err := id.WithFiles([]string{filepath.Join(dir, "missing")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want fs.ErrNotExist", err)
	}
}
