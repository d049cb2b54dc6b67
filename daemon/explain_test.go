package daemon_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/test/authserver"
)

func (w *world) explain(t *testing.T, req *tokendv1.ExplainTokenRequest) *tokendv1.ExplainTokenResponse {
	t.Helper()
	resp, err := w.tokens.ExplainToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range resp.GetFindings() {
		if f.GetLevel() == 0 || f.GetTopic() == "" || f.GetText() == "" || strings.Contains(f.GetText(), "\n") {
			t.Errorf("%v", f)
		}
	}
	return resp
}

func wantAbout(t *testing.T, at *timestamppb.Timestamp, from, to time.Duration) {
	t.Helper()
	if left := time.Until(at.AsTime()); at == nil || left < from || left > to {
		t.Errorf("in %v, want between %v and %v", left, from, to)
	}
}

func TestExplain(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())

	// Nothing is known, and nobody is asked.
	got := w.explain(t, &tokendv1.ExplainTokenRequest{Profile: "a"})
	if got.GetProblem() != nil || got.GetFingerprint() != "" || got.ExpiresAt != nil || got.RenewsAt != nil || len(got.GetFindings()) == 0 {
		t.Errorf("%v", got)
	}
	if !strings.Contains(got.GetCurl(), w.server.TokenURL) || strings.Contains(got.GetCurl(), secret) {
		t.Errorf("%s", got.GetCurl())
	}
	if n := len(w.server.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}

	token := w.mustGet(t, "a")
	got = w.explain(t, &tokendv1.ExplainTokenRequest{Profile: "a"})
	if got.GetProblem() != nil || got.GetFingerprint() != token.GetFingerprint() {
		t.Errorf("%v", got)
	}
	wantAbout(t, got.GetExpiresAt(), 9*time.Minute, 10*time.Minute)
	wantAbout(t, got.GetRenewsAt(), 7*time.Minute, 9*time.Minute+10*time.Second)

	// What was refused is told, and is forgotten by a reset.
	w.server.AnyClient().Then(authserver.Answer{Status: 401, Body: `{"error":"invalid_client"}`})
	w.put(t, "b", w.text())
	_, err := w.get(t.Context(), "b")
	got = w.explain(t, &tokendv1.ExplainTokenRequest{Profile: "b"})
	if p := got.GetProblem(); p.GetReason() != tokendv1.Reason_REASON_CLIENT_REFUSED || p.GetOauthError() != "invalid_client" ||
		p.GetMessage() != reasonOf(t, err).Message || p.GetRetryAfter().AsDuration() < 14*time.Minute {
		t.Errorf("%v", p)
	}
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || len(st.GetProfileStatuses()) != 2 {
		t.Fatalf("%v, %v", st.GetProfileStatuses(), err)
	}
	if s := st.GetProfileStatuses()[0]; s.GetProfile() != "b" || s.GetReason() != tokendv1.Reason_REASON_CLIENT_REFUSED || s.GetMessage() == "" || s.ExpiresAt != nil {
		t.Errorf("%v", s)
	}
	wantAbout(t, st.GetProfileStatuses()[0].GetNextTry(), 14*time.Minute, 15*time.Minute)
	if s := st.GetProfileStatuses()[1]; s.GetProfile() != "a" || s.GetReason() != 0 || s.NextTry != nil {
		t.Errorf("%v", s)
	}
	wantAbout(t, st.GetProfileStatuses()[1].GetExpiresAt(), 9*time.Minute, 10*time.Minute)
	for _, reopened := range []bool{true, false} {
		r, err := w.tokens.ResetProfile(t.Context(), &tokendv1.ResetProfileRequest{Profile: "b"})
		if err != nil || r.GetReopened() != reopened {
			t.Errorf("%v, %v", r, err)
		}
	}
	w.wantLogged(t, "profile reset", "profile=b", "reopened=true")
	if got := w.explain(t, &tokendv1.ExplainTokenRequest{Profile: "b"}); got.GetProblem() != nil {
		t.Errorf("%v", got.GetProblem())
	}
	w.mustGet(t, "b")
}

// Nothing is said of a text that nobody has trusted but that, and no address of
// it is asked.
func TestExplainUntrusted(t *testing.T) {
	w := newInitialized(t)
	if _, err := w.profiles.PutProfile(t.Context(), putText("a", w.text(), "")); err != nil {
		t.Fatal(err)
	}
	got := w.explain(t, &tokendv1.ExplainTokenRequest{Profile: "a", Live: true})
	if got.GetProblem().GetReason() != tokendv1.Reason_REASON_UNTRUSTED || got.GetCurl() != "" {
		t.Errorf("%v", got)
	}
	if n := len(w.server.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}
