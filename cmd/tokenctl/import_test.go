package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

func TestProfileNameOfAFile(t *testing.T) {
	for file, want := range map[string]string{
		"network.env":     "network",
		"network.env.age": "network",
		"network.age":     "network",
		".env":            "",
		".env.age":        "",
		"a.b.env":         "a.b",
	} {
		if got, ok := profileName(file); !ok || got != want {
			t.Errorf("%q makes %q, %v; want %q", file, got, ok, want)
		}
	}
	for _, file := range []string{".age", "network", "env", "network.env.gpg", ".env.local", "network.ENV"} {
		if got, ok := profileName(file); ok {
			t.Errorf("%q makes %q, want nothing", file, got)
		}
	}
}

// wrongName says of names what the daemon would.
func TestWrongNames(t *testing.T) {
	for _, name := range []string{
		"a", "dev/network", "d000/dev/network", "A.b_c-d/0", "1/2/3/4/5/6/7/8", strings.Repeat("x", 64), "a.envy", "age",
		"", "/", "a/", "/a", "a//b", "1/2/3/4/5/6/7/8/9", strings.Repeat("x", 65), ".a", "-a", "_a", "a/.b", "a b", "a@b", "ä", "a\n", "..", "../a",
		"a.env", "a.age", "a.ENV/b", "b/a.Age",
	} {
		if want, got := store.CheckName(name), wrongName(name); (got != "") != (want != nil) {
			t.Errorf("%q: %q, want %v", name, got, want)
		}
	}
}

// folders says of names what the store would once those before are in it.
func TestFoldersButForCase(t *testing.T) {
	dir := t.TempDir()
	id, _, err := store.MakeIdentity(t.Context(), dir, false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	profiles, err := store.OpenAge(filepath.Join(dir, "profiles"), nil)
	if err != nil {
		t.Fatal(err)
	}
	profiles.Unlock(id)
	before := make(folders)
	for _, name := range []string{"DEV2/b", "dev2/c", "DEV2/x/a", "DEV2/X/b", "dev2/X/b", "dev2", "DEV2/x/y/z", "DEV2/x/Y/z/a", "y/x/a", "X/y", "x/y/z", "DEV2x/a", "y/DEV2/x", "Y/x/b"} {
		_, err := profiles.Put(t.Context(), name, []byte("x"), "")
		var collision *store.CollisionError
		if err != nil && !errors.As(err, &collision) {
			t.Fatal(err)
		}
		want := ""
		if collision != nil {
			want = collision.Existing
		}
		if got := before.other(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if err == nil {
			before.add(name)
		}
	}
}

// A dry run refuses what an import would, and no more: of two folders the later one.
func TestDryRunRefusesTheSameFolders(t *testing.T) {
	s := &script{}
	s.imports = func(r *tokendv1.ImportProfileRequest) (*tokendv1.ImportProfileResponse, error) {
		if r.GetName() == "A/wrong" { // so that nothing is in this folder
			return nil, refusal("PROFILE_INVALID", "wrong", "profile", r.GetName())
		}
		return &tokendv1.ImportProfileResponse{}, nil
	}
	serve(t, s)
	tree := filepath.Join(s.dir, "tree")
	for _, name := range []string{"DEV2/b", "dev2/c", "A/wrong", "a/right"} {
		file := filepath.Join(tree, name+".env")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("X=y\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want(t, s.run(t, "", "import", "--dry-run", tree), outcome{
		"DEV2/b  new  " + tree + "/DEV2/b.env\n" + "a/right  new  " + tree + "/a/right.env\n",
		"tokenctl: " + tree + "/A/wrong.env: A/wrong: wrong\n" +
			"tokenctl: " + tree + "/dev2/c.env: dev2/c: name \"dev2/c\" differs from \"DEV2\", which another file makes, in nothing but case\n" +
			"tokenctl: 2 files cannot be imported, as said above\n", 1})
}

func FuzzWrongName(f *testing.F) {
	for _, name := range []string{"dev/network", "a.env", "a//b", "ä/ö"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if want, got := store.CheckName(name), wrongName(name); (got != "") != (want != nil) {
			t.Errorf("%q: %q, want %v", name, got, want)
		}
	})
}
