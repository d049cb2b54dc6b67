package main

import (
	"strings"
	"testing"

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
