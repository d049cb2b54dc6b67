package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Whatever is in the trust file, a text is trusted only where the file has its
// hash under its name.
func FuzzTrust(f *testing.F) {
	for _, lines := range []string{
		"dev/x MINE\n", " dev/x MINE \r\n", "dev/y MINE\n", "dev/x OTHER\n", "dev/x MINE\ndev/x OTHER\n", "dev/x  MINE", "dev/x\n", "dev/x \n", "dev/x/ MINE\n", "\x00\xff MINE", "dev/x MINEMINE", "dev/x mine\n",
	} {
		f.Add([]byte(lines))
	}
	tr := newTrust(filepath.Join(f.TempDir(), "trusted"), false)
	tr.setKey([]byte("a key of 32 bytes, for this test"))
	text := []byte("CLIENT_ID=a\n")
	mine, other := tr.hash("dev/x", text), tr.hash("dev/y", text)
	f.Fuzz(func(t *testing.T, lines []byte) {
		lines = bytes.ReplaceAll(bytes.ReplaceAll(lines, []byte("OTHER"), other), []byte("MINE"), mine)
		if err := os.WriteFile(tr.file, lines, 0o600); err != nil {
			t.Fatal(err)
		}
		tr.read = nil // it may have the size and, to the clock, the time of the last one
		trusted, err := tr.text("dev/x", text)
		if err != nil {
			t.Fatal(err)
		}
		want := false // the last line of a name counts
		for line := range bytes.SplitSeq(lines, []byte("\n")) {
			if rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("dev/x ")); ok {
				want = bytes.Equal(rest, mine)
			}
		}
		if trusted != want {
			t.Fatalf("%q: trusted: %v", lines, trusted)
		}
		for _, name := range []string{"dev", "dev/x/", "dev/z", ""} {
			if ok, err := tr.text(name, text); ok || err != nil {
				t.Fatalf("%q: %q is trusted: %v", lines, name, err)
			}
		}
	})
}
