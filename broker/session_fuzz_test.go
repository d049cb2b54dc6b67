package broker

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/store"
)

// one is a store with one record, whatever its name.
type one struct {
	store.Store // nil: nothing else is called
	data        []byte
}

func (o *one) Get(context.Context, string) ([]byte, store.Version, error) { return o.data, "v", nil }
func (o *one) Stat(context.Context, string) (store.Version, error)        { return "v", nil }
func (o *one) Put(_ context.Context, _ string, data []byte, _ store.Version) (store.Version, error) {
	o.data = data
	return "v", nil
}
func (o *one) Delete(context.Context, string, store.Version) error {
	o.data = nil
	return nil
}

// Whatever is in a session's record, it is this profile's, or an error that quotes
// nothing of it; and what was read is written and read again as the same.
func FuzzSession(f *testing.F) {
	for _, text := range []string{
		`{"record":1,"profile":"a/b","issuer":"https://as.example","token_url":"https://as.example/t","client_id":"c","refresh_token":"CANARY","scopes":["x"],"fixed":true,"spending":"f@1","taken":{"f":{"text":"v","spent":true}},"dpop_key":"{}","refusals":[{}],"revocations":[{}]}`,
		`{"record":1,"profile":"a/b","access":{"token":"CANARY","expires":"2026-11-21T12:00:00Z"},"ended":"no"}`, `{"record":1,"profile":"other","refresh_token":"CANARY"}`, `{"record":2,"profile":"a/b","refresh_token":"CANARY"}`,
		`{"record":1,"profile":"a/b","refresh_token":"CANARY","moving":{"to":"c","replaces":"v"}}`, `{"record":1,"profile":"a/b","moving":{"to":"c"}}`, `{"record":"CANARY"}`, `CANARY`, `{}`, `null`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		records := &one{data: text}
		b := New(Config{Sessions: records, Log: slog.New(slog.DiscardHandler), Event: func(Event) {}, Now: func() time.Duration { return time.Hour }})
		defer b.Close()
		h, err := b.sessionOf(t.Context(), "a/b")
		if err != nil {
			if strings.Contains(err.Error(), "CANARY") || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Fatalf("said %q", err)
			}
			if h != nil && !h.empty() {
				t.Fatalf("%+v of what is damaged", h)
			}
			return
		}
		if h.Profile != "a/b" || h.Moving != nil {
			t.Fatalf("took the session of %q", h.Profile)
		}
		if h.empty() {
			return
		}
		if err := b.save(t.Context(), h); err != nil {
			return // a time that JSON has no words for
		}
		again, err := b.sessionOf(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		if again.RefreshToken != h.RefreshToken || cmp.Diff(again.Access, h.Access) != "" || again.Ended != h.Ended || again.Spending != h.Spending || again.DPoPKey != h.DPoPKey ||
			len(again.Taken) != len(h.Taken) || len(again.Refusals) != len(h.Refusals) || len(again.Revocations) != len(h.Revocations) {
			t.Fatal("it is another one after it was written")
		}
	})
}
