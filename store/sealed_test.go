package store

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
)

// What Seal makes the age command opens, and what that makes Open opens.
func TestSealAndOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "identity.txt")
	id := writeIdentity(t, file, false)
	sealed, err := id.Seal([]byte("secret"))
	if err != nil || !IsSealed(sealed) {
		t.Fatal(err)
	}
	cmd := exec.Command("age", "-d", "-i", file)
	cmd.Stdin = bytes.NewReader(sealed)
	if out, err := cmd.Output(); err != nil || string(out) != "secret" {
		t.Errorf("%q, %v", out, err)
	}
	for _, args := range [][]string{{"-r", id.Recipient()}, {"-a", "-r", id.Recipient()}} {
		cmd := exec.Command("age", args...)
		cmd.Stdin = strings.NewReader("theirs")
		sealed, err := cmd.Output()
		if err != nil || !IsSealed(sealed) {
			t.Fatal(err)
		}
		if data, err := id.Open(sealed); err != nil || string(data) != "theirs" {
			t.Errorf("%q, %v", data, err)
		}
		if _, err := id.Open(sealed[:len(sealed)-20]); err == nil {
			t.Error("half of it opens")
		}
	}
	other, err := generateIdentity(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sealed); err == nil || !strings.HasPrefix(err.Error(), "it is encrypted to somebody else, not to age1pq1") {
		t.Errorf("%v", err)
	}
}

func TestIsSealed(t *testing.T) {
	for _, text := range []string{"age-encryption.org/v1\n", armor.Header + "\n", "\r\n " + armor.Header} {
		if !IsSealed([]byte(text)) {
			t.Errorf("%q is none", text)
		}
	}
	for _, text := range []string{"", "A=1\n", "age-encryption.org/v1", " age-encryption.org/v1\n", "# " + armor.Header} {
		if IsSealed([]byte(text)) {
			t.Errorf("%q is one", text)
		}
	}
}

func TestSealedIsTheFile(t *testing.T) {
	a, err := OpenAge(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)
	version, err := a.Put(t.Context(), "dev/x", []byte("secret"), "")
	if err != nil {
		t.Fatal(err)
	}
	a.Lock()
	sealed, at, err := a.Sealed(t.Context(), "dev/x")
	if err != nil || at != version {
		t.Fatalf("%q, %v", at, err)
	}
	file, err := os.ReadFile(filepath.Join(a.dir, "dev", "x.env.age"))
	if err != nil || !bytes.Equal(sealed, file) {
		t.Errorf("it is not the file: %v", err)
	}
	if _, _, err := a.Sealed(t.Context(), "dev/y"); !errors.Is(err, ErrNotExist) {
		t.Errorf("%v", err)
	}
	var wrong *NameError
	if _, _, err := a.Sealed(t.Context(), "../x"); !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
}

func TestReaders(t *testing.T) {
	trusted := true
	a, err := OpenAge(t.TempDir(), func(string, []byte) bool { return trusted })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Readers(t.Context(), "x"); !errors.Is(err, ErrLocked) {
		t.Errorf("%v", err)
	}
	id, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	other, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(id)
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN"
	if err := os.Mkdir(filepath.Join(a.dir, "team"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "# us\n\n" + id.Recipient() + "\n " + other.Recipient() + "\n" + key + " me@there\n"
	if err := os.WriteFile(filepath.Join(a.dir, "team", recipientsName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"x":             {id.Recipient()},
		"team/x":        {id.Recipient(), other.Recipient(), key},
		"team/deep/er/": nil,
		"team/deep/er":  {id.Recipient(), other.Recipient(), key},
	} {
		got, err := a.Readers(t.Context(), name)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%s: %v, %s", name, err, diff)
		}
	}
	trusted = false
	var untrusted *UntrustedError
	if _, err := a.Readers(t.Context(), "team/x"); !errors.As(err, &untrusted) || untrusted.Folder != "team" {
		t.Errorf("%v", err)
	}
}
