package worker

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/store"
)

// Whatever bytes come over a pipe, they are messages or an error, at a cost that
// is bounded by what was announced at most; and a message that was read is written
// and read again as the same.
func FuzzReceive(f *testing.F) {
	for _, m := range []message{
		{Job: &job{Do: unwrap, Protection: store.Protection{Kind: store.Passphrase}, Plugins: []string{"yubikey"}}},
		{Prompt: &store.Prompt{Message: "a\x1b[2J"}}, {Answer: &answer{Text: "x", Yes: true, Refused: true}}, {Outcome: &outcome{Error: "no", Kind: absent}}, {},
	} {
		var b bytes.Buffer
		if err := send(&b, m, []byte("secret")); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()-3])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := bytes.NewReader(b)
		m, secret, err := receive(r)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > maxSecret+16*maxHeader+uint64(64*len(b)) {
			t.Fatalf("%d bytes allocated for %d", n, len(b))
		}
		if err != nil {
			if secret != nil || !cmp.Equal(m, message{}) || err != errNonsense && err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		if m.Outcome != nil && (m.Outcome.err() == nil) != (m.Outcome.Error == "") {
			t.Fatalf("%+v", m.Outcome)
		}
		var again bytes.Buffer
		if err := send(&again, m, secret); err != nil {
			return // escapes make it longer than it may be
		}
		m2, secret2, err := receive(&again)
		if diff := cmp.Diff(m, m2); err != nil || diff != "" || !bytes.Equal(secret, secret2) {
			t.Fatalf("%v %s", err, diff)
		}
	})
}
