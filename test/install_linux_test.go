package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"tokend/test/authserver"
)

// What `make install` installs can be run and not read, by which its memory is closed
// from its first instruction on, and all works: a daemon that starts by itself and
// anew, a worker, doctor's checks.
func TestInstalled(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := makeHome(t, stranger)
	detail := func() string {
		t.Helper()
		for _, p := range h.status(t).Protections {
			if p.Name == "not dumpable" {
				return p.Detail
			}
		}
		t.Fatal("the protection is not there")
		return ""
	}
	// Control: of what can be read, the daemon says how it was open.
	h.must(t, "", "init")
	if got, want := detail(), "; to keep it from the next: chmod 111 '"+filepath.Join(h.bin, "tokend")+"'"; !strings.HasSuffix(got, want) {
		t.Errorf("the daemon says %q, not %q", got, want)
	}
	h.stop(t)

	install := asRoot("make", "-C", "..", "-s", "install", "--assume-old=build", "BIN="+binDir, "PREFIX="+h.root)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"tokend", "tokenctl"} {
		if r := finish(t, h.command("stat", "-c", "%a", filepath.Join(h.bin, name))); r.out != "111\n" {
			t.Errorf("%s: %v", name, r)
		}
		if r := finish(t, h.command("cat", filepath.Join(h.bin, name))); r.code == 0 {
			t.Errorf("%s can be read", name)
		}
	}
	h.must(t, profileOf(s, c), "add", "p")
	h.must(t, "correct horse", "protect", "--passphrase-file", "-")
	h.must(t, "", "daemon", "restart")
	h.must(t, "correct horse", "unlock", "--passphrase-file", "-")
	token := h.get(t, "p")
	if got := h.must(t, "", "exec", "-e", "TOKEN:p", "--fd", "--", "sh", "-c", `cat "$TOKEN"`); got != token || token == "" {
		t.Errorf("a program reads %q, not %q", got, token)
	}
	if got, want := detail(), "PR_SET_DUMPABLE 0: no debugger, no /proc/PID/mem"; got != want {
		t.Errorf("the daemon says %q, want %q", got, want)
	}
	if r := h.tokenctl(t, "", "doctor"); r.code != 0 || strings.Contains(r.out, "chmod 111") {
		t.Errorf("doctor: %v", r)
	}
	if r := finish(t, h.command(filepath.Join(h.bin, "tokend"), "--version")); r.code != 0 || !strings.Contains(r.out, "v0-test") {
		t.Errorf("tokend --version: %v", r)
	}
}

// An export is not written to where another user could put a file in its place.
func TestExportBesideAnotherUser(t *testing.T) {
	h := makeHome(t, stranger)
	h.must(t, "", "init")
	h.must(t, "CLIENT_ID=c\nCLIENT_SECRET=s\nOAUTH2_TOKEN_URL=https://example.com/token\n", "add", "dev/p")
	to := filepath.Join(h.dir, "to")
	his := func(folder string) {
		t.Helper()
		if out, err := asRoot("install", "-d", "-m", "755", "-o", fmt.Sprint(stranger+1), folder).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	says := fmt.Sprintf("%%s belongs to user %d, who can change what is in it\n", stranger+1)
	his(to)
	if r := h.tokenctl(t, "", "export", "--to", to); r.code != 78 || r.err != "tokenctl: "+fmt.Sprintf(says, to) {
		t.Errorf("%v", r)
	}
	if out, err := asRoot("chown", fmt.Sprint(stranger), to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	his(filepath.Join(to, "dev"))
	if r := h.tokenctl(t, "", "export", "--to", to); r.code != 1 || !strings.HasPrefix(r.err, "tokenctl: dev/p: "+fmt.Sprintf(says, filepath.Join(to, "dev"))) {
		t.Errorf("%v", r)
	}
	if r := finish(t, asRoot("find", to, "-type", "f")); r.out != "" {
		t.Errorf("written: %v", r)
	}
}
