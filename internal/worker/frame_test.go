package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/store"
)

func TestFrame(t *testing.T) {
	for _, want := range []message{
		{Job: &job{Do: unwrap, Protection: store.Protection{Kind: store.SSH, PublicKey: "ssh-ed25519 AAAA"}, Plugins: []string{"yubikey"}}},
		{Prompt: &store.Prompt{Kind: store.AskConfirm, Message: "really?\n", Yes: "yes", No: "no", Again: true}},
		{Answer: &answer{Text: "text", Yes: true}},
		{Outcome: &outcome{}},
	} {
		for _, secret := range []string{"", "the \x00 secret"} {
			var b bytes.Buffer
			if err := send(&b, want, []byte(secret)); err != nil {
				t.Fatal(err)
			}
			got, data, err := receive(&b)
			if diff := cmp.Diff(want, got); diff != "" || string(data) != secret || err != nil {
				t.Errorf("%q, %v, -want +got:\n%s", data, err, diff)
			}
		}
	}
	if err := send(io.Discard, message{}, make([]byte, maxSecret+1)); err == nil {
		t.Error("what no receiver takes was sent")
	}
}

// An error is the same on the other side of the pipe, as far as callers decide
// by it.
func TestOutcome(t *testing.T) {
	if err := outcomeOf(nil).err(); err != nil {
		t.Error(err)
	}
	plain := errors.New("plain")
	for _, want := range []error{plain, store.ErrRefused, store.ErrNotExist} {
		wrapped := fmt.Errorf("doing it: %w", want)
		got := outcomeOf(wrapped).err()
		if got.Error() != wrapped.Error() || want != plain && !errors.Is(got, want) {
			t.Errorf("%v became %v", wrapped, got)
		}
	}
	var plugin *store.PluginError
	want := &store.PluginError{Name: "yubikey", Allowed: true}
	if got := outcomeOf(fmt.Errorf("doing it: %w", want)).err(); !errors.As(got, &plugin) || *plugin != *want {
		t.Errorf("%v became %v", want, got)
	}
	var keyring *store.KeyringError
	locked := fmt.Errorf("reading: %w", &store.KeyringError{Cause: store.KeyringLocked, Err: plain})
	if got := outcomeOf(locked).err(); !errors.As(got, &keyring) || keyring.Cause != store.KeyringLocked || got.Error() != "reading: plain" {
		t.Errorf("%v became %v", locked, got)
	}
}
