package store

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// writeIdentity makes an identity in a file of any name.
func writeIdentity(t testing.TB, path string, postQuantum bool) *Identity {
	t.Helper()
	id, err := generateIdentity(postQuantum)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, id.newText(), 0o600); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestMakeBareIdentity(t *testing.T) {
	for _, postQuantum := range []bool{false, true} {
		t.Run(fmt.Sprintf("postQuantum=%v", postQuantum), func(t *testing.T) {
			dir := t.TempDir()
			id, f, err := MakeIdentity(t.Context(), dir, postQuantum, Protection{}, Means{})
			if err != nil {
				t.Fatal(err)
			}
			prefix, recipient := "AGE-SECRET-KEY-1", "age1"
			if postQuantum {
				prefix, recipient = "AGE-SECRET-KEY-PQ-1", "age1pq1"
			}
			text := mustRead(t, f.Path)
			want := `\A# created: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)\n# public key: ` +
				regexp.QuoteMeta(id.Recipient()) + `\n` + prefix + `[0-9A-Z]+\n\z`
			if !regexp.MustCompile(want).Match(text) {
				t.Errorf("the file does not match %s", want)
			}
			if !strings.HasPrefix(id.Recipient(), recipient) {
				t.Errorf("Recipient() = %q, want %s…", id.Recipient(), recipient)
			}
			loaded, err := LoadIdentity(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			if loaded.Recipient() != id.Recipient() {
				t.Errorf("loaded %q, want %q", loaded.Recipient(), id.Recipient())
			}
		})
	}
}

func TestMakeIdentityMakesNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	if _, _, err := MakeIdentity(t.Context(), dir, false, Protection{}, Means{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want fs.ErrNotExist", err)
	}
}

func TestMakeIdentityFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("elsewhere", filepath.Join(dir, "identity.txt")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := MakeIdentity(t.Context(), dir, false, Protection{}, Means{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error = %v, want fs.ErrExist", err)
	}
	wantFiles(t, dir, "identity.txt")
}

func TestLoadIdentityRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	writeIdentity(t, good, false)
	key := string(mustRead(t, good))
	hybrid := filepath.Join(dir, "hybrid")
	writeIdentity(t, hybrid, true)
	secret := regexp.MustCompile(`AGE-SECRET-KEY-\S+`).FindString(key)

	for _, test := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"loose", func(path string) error { return os.WriteFile(path, []byte(key), 0o640) },
			`is open to others (mode 0640); run: chmod 600 'PATH'`},
		{"writable", func(path string) error {
			if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
				return err
			}
			return os.Chmod(path, 0o602)
		}, `is open to others (mode 0602); run: chmod 600 'PATH'`},
		{"symlink", func(path string) error { return os.Symlink(good, path) }, `is a symbolic link, which is not followed`},
		{"folder", func(path string) error { return os.Mkdir(path, 0o700) }, `is not a regular file`},
		{"fifo", func(path string) error { return syscall.Mkfifo(path, 0o600) }, `is not a regular file`},
		{"hardlink", func(path string) error {
			if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
				return err
			}
			return os.Link(path, path+"2")
		}, `has 2 hard links, one is allowed`},
		{"large", func(path string) error { return os.WriteFile(path, make([]byte, 1<<20+1), 0o600) }, `is larger than 1048576 bytes`},
		{"empty", func(path string) error { return os.WriteFile(path, []byte("# nothing\n\n"), 0o600) }, `no identity in it`},
		{"two", func(path string) error { return os.WriteFile(path, append([]byte(key), mustRead(t, hybrid)...), 0o600) },
			`line 6 is a second identity, one is allowed`},
		{"cut", func(path string) error { return os.WriteFile(path, []byte(secret[:40]), 0o600) },
			`line 1 is not an AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1… key`},
		{"plugin", func(path string) error {
			return os.WriteFile(path, []byte("AGE-PLUGIN-YUBIKEY-1XYZ\n"), 0o600)
		}, `line 1 is not an AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1… key`},
		{"long line", func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat(secret, 2000)), 0o600)
		}, `token too long`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(dir, test.name)
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			id, err := LoadIdentity(path)
			if err == nil {
				t.Fatalf("loaded %v", id)
			}
			want := strings.ReplaceAll(test.want, "PATH", path)
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error = %s, want %q about %s", err, want, path)
			}
			if strings.Contains(err.Error(), secret[20:40]) {
				t.Errorf("the error shows the key: %s", err)
			}
		})
	}

	if _, err := LoadIdentity(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v, want fs.ErrNotExist", err)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("folder %q can be changed by others (mode 0770); run: chmod go-w '%s'", dir, dir)
	if _, err := LoadIdentity(good); err == nil || err.Error() != want {
		t.Errorf("loose folder: %v, want %s", err, want)
	}
}

func TestLoadIdentityOfAnotherUser(t *testing.T) {
	path, owner := "/etc/passwd", 0
	if os.Geteuid() == 0 {
		path, owner = filepath.Join(t.TempDir(), "key"), 12345
		writeIdentity(t, path, false)
		if err := os.Chown(path, owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("%q belongs to user %d", path, owner)
	if _, err := LoadIdentity(path); err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestLoadIdentityOfAgeKeygen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.txt")
	run(t, nil, "age-keygen", "-o", path)
	want := strings.TrimSpace(string(run(t, nil, "age-keygen", "-y", path)))
	id, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if id.Recipient() != want {
		t.Errorf("Recipient() = %q, want %q", id.Recipient(), want)
	}
}

func TestAgeKeygenReadsIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.txt")
	id := writeIdentity(t, path, false)
	if got := strings.TrimSpace(string(run(t, nil, "age-keygen", "-y", path))); got != id.Recipient() {
		t.Errorf("age-keygen -y = %q, want %q", got, id.Recipient())
	}
}

func TestDerive(t *testing.T) {
	id, err := parseIdentity([]byte("AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n"))
	if err != nil {
		t.Fatal(err)
	}
	// Computed with Python: HKDF-SHA256, no salt, the key's text as input.
	for info, want := range map[string]string{
		"trust": "7bd9c559f3aea97035432136a1dadf6241c30e1066a801ebfd964d2d0d543b1c",
		"":      "cc3b0043343295374a27196dd85a71eb95c758d3a9c4d5357640e0a4867c490d",
	} {
		if got := hex.EncodeToString(id.Derive(info)); got != want {
			t.Errorf("Derive(%q) = %s, want %s", info, got, want)
		}
	}
}

func TestIdentityIsRedacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	id := writeIdentity(t, path, false)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		for _, arg := range []any{id, *id} {
			if got := fmt.Sprintf(verb, arg); got != "Identity(redacted)" {
				t.Errorf("%s prints %s", verb, got)
			}
		}
	}
	secret := string(regexp.MustCompile(`AGE-SECRET-KEY-1(\S+)`).FindSubmatch(mustRead(t, path))[1])
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "id", id)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", id)
	fmt.Fprintf(&log, "%+v %#v", struct{ id Identity }{*id}, struct{ id *Identity }{id})
	text, _ := json.Marshal(map[string]any{"id": id})
	if out := log.String() + string(text); strings.Contains(strings.ToUpper(out), secret) {
		t.Errorf("the key is in %s", out)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func run(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(string(stdin))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return out
}
