package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokend/test/authserver"
)

// A profile that is edited under a running daemon takes effect at the next
// call, and no token of the old text is served any more.
func TestEditTakesEffect(t *testing.T) {
	one := authserver.Client{ID: "one", Secret: "s3cret-one"}
	two := authserver.Client{ID: "two", Secret: "s3cret-two"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{one, two}})
	h := withProfile(t, s, "dev/network", one)
	first := h.get(t, "dev/network")
	pid := h.status(t).PID

	h.must(t, profileOf(s, two), "edit", "dev/network")
	second := h.get(t, "dev/network")
	if second == first || h.get(t, "dev/network") != second {
		t.Error("the old text's token is served")
	}
	if s.CountOf("/token", "one") != 1 || s.CountOf("/token", "two") != 1 {
		t.Errorf("%d requests of the old client, %d of the new one; want 1 and 1", s.CountOf("/token", "one"), s.CountOf("/token", "two"))
	}

	// The text as it was, encrypted anew, is another version.
	h.must(t, profileOf(s, one), "edit", "dev/network")
	if third := h.get(t, "dev/network"); third == first || s.CountOf("/token", "one") != 2 {
		t.Error("the first text's token is served after two edits")
	}

	// Nor is a token served that was being fetched while the text changed.
	s.Client("one").Then(authserver.Answer{Hang: true})
	get := h.command(filepath.Join(h.bin, "tokenctl"), "get", "dev/network", "--scope", "slow")
	if err := get.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(t.Context(), "/token", 4); err != nil {
		t.Fatal(err)
	}
	h.must(t, profileOf(s, two), "edit", "dev/network")
	s.Release()
	if err := get.Wait(); err != nil {
		t.Error(err)
	}
	requests := s.CountOf("/token", "two")
	h.get(t, "dev/network", "--scope", "slow")
	if s.CountOf("/token", "two") != requests+1 {
		t.Error("a token that the old text's client asked for is served")
	}

	h.must(t, "", "rm", "--yes", "dev/network")
	h.wantFailure(t, 6, "no such profile", "get", "dev/network")
	h.must(t, profileOf(s, one), "add", "dev/network")
	if h.get(t, "dev/network") == first {
		t.Error("a token of the deleted profile is served")
	}
	if h.status(t).PID != pid {
		t.Error("this was to be one daemon's life")
	}
}

// Another program may write a profile, too; it makes no token until the user
// has looked at it.
func TestEditFromOutside(t *testing.T) {
	one := authserver.Client{ID: "one", Secret: "s3cret-one"}
	two := authserver.Client{ID: "two", Secret: "s3cret-two"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{one, two}})
	h := withProfile(t, s, "dev/network", one)
	first := h.get(t, "dev/network")
	st := h.status(t)
	file := filepath.Join(st.ProfilesDir, "dev", "network.env.age")
	ours, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	age := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command("age", args...)
		cmd.Stdin = strings.NewReader(stdin)
		r := finish(t, cmd)
		if r.code != 0 {
			t.Fatalf("age %q: %v", args, r)
		}
		return r.out
	}
	if got := age("", "-d", "-i", st.IdentityFile, file); got != profileOf(s, one) {
		t.Errorf("age reads %q in our file, want %q", got, profileOf(s, one))
	}
	age(profileOf(s, two), "-r", st.Recipient, "-o", file+".new")
	if err := os.Chmod(file+".new", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	h.wantFailure(t, 7, "run: tokenctl trust dev/network", "get", "dev/network")
	if n := s.CountOf("/token", "two"); n != 0 {
		t.Errorf("%d requests with a text that nobody trusted", n)
	}
	h.must(t, "", "trust", "--yes", "dev/network")
	second := h.get(t, "dev/network")
	if second == first || s.CountOf("/token", "two") != 1 {
		t.Error("the new text makes no token")
	}

	// The old bytes again: its own line in the trust file is gone.
	if err := os.WriteFile(file+".old", ours, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".old", file); err != nil {
		t.Fatal(err)
	}
	h.wantFailure(t, 7, "run: tokenctl trust dev/network", "get", "dev/network")
	if h.status(t).PID != st.PID {
		t.Error("this was to be one daemon's life")
	}
}
