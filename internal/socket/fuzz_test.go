package socket

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A lock's file names a socket by a whole line; whatever that is, nobody is dialled
// who has not made it a socket of this user's in a folder of his alone.
func FuzzHolder(f *testing.F) {
	for _, text := range []string{"", "/run/user/1/tokend/tokend.sock\n", "/half", "\n", "@abstract\n", "\x00abstract\n", "a\nb\n", "relative\n", ".\n", "/\n", "/proc/self/fd/0\n"} {
		f.Add([]byte(text))
	}
	file := filepath.Join(f.TempDir(), "lock")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		name := Holder(file)
		line, rest, _ := bytes.Cut(append(text, '\n'), []byte("\n"))
		if name != "" && (name != string(line) || len(rest) == 0) || name == "" && len(rest) > 0 && len(line) > 0 {
			t.Fatalf("%q names %q", text, name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := Dial(ctx, name); err == nil {
			c.Close()
			t.Fatalf("dialled %q", name)
		}
	})
}
