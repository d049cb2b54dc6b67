package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"google.golang.org/grpc/codes"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
)

// sealFor encrypts text as the age command would, with -a if armored.
func sealFor(t *testing.T, recipient, text string, armored bool) []byte {
	t.Helper()
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	to := io.WriteCloser(nopCloser{&b})
	if armored {
		to = armor.NewWriter(&b)
	}
	w, err := age.Encrypt(to, r)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, text)
	if err := errors.Join(err, w.Close(), to.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (w *world) recipient(t *testing.T) string {
	t.Helper()
	s, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s.GetRecipient()
}

func TestImportProfile(t *testing.T) {
	w := newInitialized(t)
	own := w.recipient(t)
	text := w.text("# with a comment")
	for name, content := range map[string][]byte{
		"plain":   []byte(text),
		"binary":  sealFor(t, own, text, false),
		"armored": append([]byte("\r\n"), sealFor(t, own, text, true)...),
	} {
		req := &tokendv1.ImportProfileRequest{Name: name, Content: content}
		resp, err := w.profiles.ImportProfile(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetDecrypted() != (name != "plain") || resp.GetUnchanged() || resp.GetTrust().GetTrusted() || resp.GetVersion() != w.version(t, name) {
			t.Errorf("%s: %v", name, resp)
		}
		if got := w.reveal(t, name); got != text {
			t.Errorf("%s is %q", name, got)
		}
		// Nothing is trusted by the call, and all by what it answers.
		_, err = w.get(t.Context(), name)
		wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "", "profile", name)
		w.trust(t, resp.GetTrust().GetLine())
		w.mustGet(t, name)
		again, err := w.profiles.ImportProfile(t.Context(), req)
		if err != nil || !again.GetUnchanged() || again.GetVersion() != resp.GetVersion() || !again.GetTrust().GetTrusted() {
			t.Errorf("%s again: %v, %v", name, again, err)
		}
	}
	replaced, err := w.profiles.ImportProfile(t.Context(), &tokendv1.ImportProfileRequest{Name: "plain", Content: sealFor(t, own, text+"\n", false), Replaces: w.version(t, "plain")})
	if err != nil || replaced.GetUnchanged() || w.reveal(t, "plain") != text+"\n" {
		t.Errorf("%v, %v", replaced, err)
	}
	if strings.Contains(w.log.String(), secret) {
		t.Error("the log has the secret")
	}
}

func TestImportProfileRefused(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "there", w.text())
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	theirs := sealFor(t, other.Recipient().String(), w.text(), false)
	own := w.recipient(t)
	for _, c := range []struct {
		name, replaces  string
		content         []byte
		code            codes.Code
		reason, message string
		meta            []string
	}{
		{"../x", "", []byte("A=1"), codes.InvalidArgument, "REQUEST_INVALID", `name: "../x" has`, nil},
		{"x", "", nil, codes.InvalidArgument, "REQUEST_INVALID", "content: is required", nil},
		{"x", "", theirs, codes.FailedPrecondition, "PROFILE_INVALID", "opening the age file: it is encrypted to somebody else, not to " + own, []string{"profile", "x"}},
		{"x", "", theirs[:100], codes.FailedPrecondition, "PROFILE_INVALID", "opening the age file: ", []string{"profile", "x"}},
		{"x", "", sealFor(t, own, secret, false), codes.FailedPrecondition, "PROFILE_INVALID", "line 1: not an assignment", []string{"profile", "x", "line", "1"}},
		{"x", "", sealFor(t, own, strings.Repeat("#", 50<<10), false), codes.FailedPrecondition, "PROFILE_INVALID", "48 KiB", []string{"profile", "x"}},
		{"there", "", []byte(w.text("# other")), codes.AlreadyExists, "ALREADY_EXISTS", "it exists already", []string{"profile", "there"}},
		{"There", "", []byte(w.text()), codes.AlreadyExists, "ALREADY_EXISTS", "nothing but case", []string{"profile", "There", "suggestion", "there"}},
		{"there", "0123", []byte(w.text("# other")), codes.Aborted, "VERSION_CHANGED", "", []string{"profile", "there"}},
	} {
		_, err := w.profiles.ImportProfile(t.Context(), &tokendv1.ImportProfileRequest{Name: c.name, Content: c.content, Replaces: c.replaces})
		wantReason(t, err, c.code, c.reason, c.message, c.meta...)
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error has what was in the file", c.name)
		}
	}
	if w.reveal(t, "there") != w.text() || w.version(t, "x") != "" {
		t.Error("something was written")
	}
}

func TestExportProfile(t *testing.T) {
	w := newInitialized(t)
	put := w.put(t, "dev/a", w.text())
	resp, err := w.profiles.ExportProfile(t.Context(), &tokendv1.ExportProfileRequest{Name: "dev/a"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(w.settings.ProfilesDir(), "dev", "a.env.age"))
	if err != nil || !bytes.Equal(file, resp.GetSealed()) || resp.GetVersion() != put.GetVersion() {
		t.Errorf("it is not the file: %v", err)
	}
	if back, err := w.profiles.ImportProfile(t.Context(), &tokendv1.ImportProfileRequest{Name: "dev/a", Content: resp.GetSealed()}); err != nil || !back.GetUnchanged() {
		t.Errorf("%v, %v", back, err)
	}
	_, err = w.profiles.ExportProfile(t.Context(), &tokendv1.ExportProfileRequest{Name: "dev/b"})
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "no such profile", "profile", "dev/b", "suggestion", "dev/a")
	_, err = w.profiles.ExportProfile(t.Context(), &tokendv1.ExportProfileRequest{Name: "../x"})
	wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "name: ")
}

// rekey returns the answers, by profile.
func (w *world) rekey(t *testing.T, prefix string) (map[string]*tokendv1.RekeyProfilesResponse, error) {
	t.Helper()
	stream, err := w.profiles.RekeyProfiles(t.Context(), &tokendv1.RekeyProfilesRequest{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*tokendv1.RekeyProfilesResponse)
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all[resp.GetProfile()] = resp
		if int(resp.GetDone()) != len(all) || resp.GetTotal() < resp.GetDone() {
			t.Errorf("%v is number %d", resp, len(all))
		}
	}
}

// What is written while a rekey is under way is never put back to what was.
func TestRekeyWhileTextsChange(t *testing.T) {
	home := newHome(t)
	t.Setenv(settings.Trust, "all") // of texts that change all the time
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	const n = 8
	for i := range n {
		w.put(t, fmt.Sprintf("p%02d", i), w.text("# 0"))
	}
	written := make(chan map[string]string)
	go func() {
		last := make(map[string]string)
		for round := range 3 {
			for i := range n {
				name := fmt.Sprintf("p%02d", i)
				text := w.text(fmt.Sprintf("# %d", round+1))
				there, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: name})
				if err != nil {
					t.Error(err)
					continue
				}
				if _, err := w.profiles.PutProfile(t.Context(), putText(name, text, there.GetVersion())); err == nil {
					last[name] = text
				}
			}
		}
		written <- last
	}()
	var last map[string]string
	for rounds := 0; last == nil; rounds++ {
		all, err := w.rekey(t, "")
		if err != nil || len(all) != n {
			t.Fatalf("%d answers, %v", len(all), err)
		}
		for name, resp := range all {
			if resp.GetProblem() != "" && resp.GetReason() != tokendv1.Reason_REASON_VERSION_CHANGED {
				t.Errorf("%s: %v", name, resp)
			}
		}
		select {
		case last = <-written:
		default:
		}
	}
	for name, text := range last {
		if got := w.reveal(t, name); got != text {
			t.Errorf("%s ends in %q, want %q", name, got[len(got)-3:], text[len(text)-3:])
		}
	}
}

func TestRekeyOfATree(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	w.put(t, "team/b", w.text())
	w.mustGet(t, "team/b")
	before := w.version(t, "team/b")
	all, err := w.rekey(t, "team/")
	if err != nil || len(all) != 1 || len(all["team/b"].GetRecipients()) != 1 || all["team/b"].GetRecipients()[0] != w.recipient(t) {
		t.Fatalf("%v, %v", all, err)
	}
	if w.version(t, "team/b") == before {
		t.Error("nothing was written")
	}
	w.mustGet(t, "team/b") // still trusted
	// A large team's lines do not break the stream.
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	lines := w.recipient(t) + "\n" + strings.Repeat(other.Recipient().String()+"\n", 700)
	if err := os.WriteFile(filepath.Join(w.settings.ProfilesDir(), "team", ".age-recipients"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err = w.rekey(t, "team")
	if err != nil || all["team/b"].GetReason() != tokendv1.Reason_REASON_UNTRUSTED || !strings.HasSuffix(all["team/b"].GetProblem(), "; run: tokenctl trust team/") {
		t.Errorf("%v, %v", all, err)
	}
	r, err := w.profiles.GetRecipients(t.Context(), &tokendv1.GetRecipientsRequest{Folder: "team"})
	if err != nil {
		t.Fatal(err)
	}
	w.trust(t, r.GetTrust().GetLine())
	all, err = w.rekey(t, "team")
	if err != nil {
		t.Fatal(err)
	}
	readers := all["team/b"].GetRecipients()
	if all["team/b"].GetProblem() != "" || len(readers) < 100 || readers[len(readers)-1] != fmt.Sprintf("… and %d more", 702-len(readers)) {
		t.Errorf("%d recipients, the last one %q, %s", len(readers), readers[len(readers)-1], all["team/b"].GetProblem())
	}
	if all, err := w.rekey(t, "nothing"); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// Who writes to a team's tree copies there a file that only its owner can open.
func TestRekeyOfAFileThatWasCopied(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "mine/bank", w.text("# private"))
	w.put(t, "team/a", w.text("# the team's"))
	member, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := w.settings.ProfilesDir()
	lines := w.recipient(t) + "\n" + member.Recipient().String() + "\n"
	if err := os.WriteFile(filepath.Join(dir, "team", ".age-recipients"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := w.profiles.GetRecipients(t.Context(), &tokendv1.GetRecipientsRequest{Folder: "team"})
	if err != nil {
		t.Fatal(err)
	}
	w.trust(t, r.GetTrust().GetLine())
	private, err := os.ReadFile(filepath.Join(dir, "mine", "bank.env.age"))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "team", "b.env.age")
	if err := os.WriteFile(copied, private, 0o600); err != nil {
		t.Fatal(err)
	}
	// reads says whether the member can read a file.
	reads := func(file string) bool {
		sealed, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, err = age.Decrypt(bytes.NewReader(sealed), member)
		return err == nil
	}

	all, err := w.rekey(t, "team")
	if err != nil {
		t.Fatal(err)
	}
	if b := all["team/b"]; b.GetReason() != tokendv1.Reason_REASON_UNTRUSTED || !strings.HasSuffix(b.GetProblem(), "; run: tokenctl trust team/b") {
		t.Errorf("the copy: %v", b)
	}
	if now, err := os.ReadFile(copied); err != nil || !bytes.Equal(now, private) || reads(copied) {
		t.Errorf("the copy was encrypted anew, %v", err)
	}
	if !reads(filepath.Join(dir, "team", "a.env.age")) {
		t.Errorf("the team's own was not: %v", all["team/a"])
	}

	p, err := w.profiles.GetProfile(t.Context(), &tokendv1.GetProfileRequest{Name: "team/b"})
	if err != nil {
		t.Fatal(err)
	}
	w.trust(t, p.GetTrust().GetLine())
	if all, err = w.rekey(t, "team/b"); err != nil || all["team/b"].GetProblem() != "" || !reads(copied) {
		t.Errorf("once it is trusted: %v, %v", all, err)
	}
}

func TestTreesLocked(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	w.lock(t)
	_, err := w.profiles.ImportProfile(t.Context(), &tokendv1.ImportProfileRequest{Name: "b", Content: []byte(w.text())})
	wantReason(t, err, codes.FailedPrecondition, "LOCKED", "")
	_, err = w.profiles.ExportProfile(t.Context(), &tokendv1.ExportProfileRequest{Name: "a"})
	wantReason(t, err, codes.FailedPrecondition, "LOCKED", "")
	_, err = w.rekey(t, "")
	wantReason(t, err, codes.FailedPrecondition, "LOCKED", "")
	stream, err := w.daemon.Migrate(t.Context(), &tokendv1.MigrateRequest{To: "keyring"})
	if err == nil {
		_, err = stream.Recv()
	}
	wantReason(t, err, codes.FailedPrecondition, "LOCKED", "")
	for kind, says := range map[string]string{"": "to: must be", "file": "to: must be", "age": "the profiles are in that store already (TOKEND_STORE=age)"} {
		stream, err := w.daemon.Migrate(t.Context(), &tokendv1.MigrateRequest{To: kind})
		if err == nil {
			_, err = stream.Recv()
		}
		wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", says)
	}
}
