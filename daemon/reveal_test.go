package daemon_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	tokendv1 "tokend/proto/tokend/v1"
)

// What goes into a shell or an environment is a trusted text, in either form;
// an editor may have any.
func TestRevealTrustedOnly(t *testing.T) {
	w := newInitialized(t)
	put, err := w.profiles.PutProfile(t.Context(), putText("a", w.text("A=1"), ""))
	if err != nil {
		t.Fatal(err)
	}
	forms := []tokendv1.RevealProfileRequest_Form{
		tokendv1.RevealProfileRequest_FORM_UNSPECIFIED, tokendv1.RevealProfileRequest_FORM_TEXT, tokendv1.RevealProfileRequest_FORM_VARIABLES,
	}
	reveal := func(form tokendv1.RevealProfileRequest_Form, trustedOnly bool) (*tokendv1.RevealProfileResponse, error) {
		return w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a", Form: form, TrustedOnly: trustedOnly})
	}
	for _, form := range forms {
		_, err := reveal(form, true)
		wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "has not been trusted", "profile", "a")
	}
	if strings.Contains(w.log.String(), "profile revealed") {
		t.Error("the log says that a text was revealed which was not")
	}
	w.writeTrust(t, put.GetTrust().GetLine()+"\n")
	for _, form := range forms {
		if resp, err := reveal(form, true); err != nil || resp.GetContent() == nil {
			t.Errorf("%v of a trusted text: %v, %v", form, resp, err)
		}
	}
	w.writeTrust(t, "")
	for _, form := range forms {
		if resp, err := reveal(form, false); err != nil || resp.GetContent() == nil {
			t.Errorf("%v for an editor: %v, %v", form, resp, err)
		}
	}
}

func TestRevealNotUTF8(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text("PASSWORD=caf\xe9"))
	_, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a", Form: tokendv1.RevealProfileRequest_FORM_VARIABLES})
	wantReason(t, err, codes.FailedPrecondition, "PROFILE_INVALID", "not UTF-8", "profile", "a", "line", "4", "variable", "PASSWORD")
	if strings.Contains(err.Error(), "caf") {
		t.Errorf("the value is in %q", err)
	}
	if resp, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a"}); err != nil || !strings.HasSuffix(string(resp.GetText()), "caf\xe9") {
		t.Errorf("%v, %v", resp, err)
	}
}
