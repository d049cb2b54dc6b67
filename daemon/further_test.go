package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// Of TOKEND_IDENTITIES, what cannot be used stands in the status, and the rest opens
// what it is for.
func TestFurtherIdentitiesBesideBadOnes(t *testing.T) {
	home := newHome(t)
	theirs := filepath.Join(home, "theirs")
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	other, file, err := store.MakeIdentity(t.Context(), theirs, false, store.Protection{}, store.Means{})
	if err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(theirs, "missing")
	t.Setenv(settings.Identities, missing+":"+file.Path)
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	sealed, err := other.Seal([]byte(w.text()))
	if err != nil {
		t.Fatal(err)
	}
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetState() != tokendv1.GetStatusResponse_STATE_UNLOCKED || !strings.HasPrefix(st.GetProblem(), settings.Identities+": ") || !strings.Contains(st.GetProblem(), missing) {
		t.Errorf("status %v, %v, want a problem with %s", st, err, missing)
	}
	w.put(t, "own", w.text())
	w.mustGet(t, "own")
	if err := os.WriteFile(filepath.Join(st.GetProfilesDir(), "a.env.age"), sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.reveal(t, "a"); got != w.text() {
		t.Errorf("revealed %q", got)
	}
}
