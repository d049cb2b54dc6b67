package daemon_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	tokendv1 "tokend/proto/tokend/v1"
)

func TestReportInvalid(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	const fingerprint = "0123456789abcdef0123456789abcdef"
	for name, test := range map[string]struct {
		req     *tokendv1.ReportTokenRequest
		message string
	}{
		"no profile":             {&tokendv1.ReportTokenRequest{Fingerprint: fingerprint}, "profile: "},
		"a path":                 {&tokendv1.ReportTokenRequest{Profile: "../a", Fingerprint: fingerprint}, `profile: "../a"`},
		"no token":               {&tokendv1.ReportTokenRequest{Profile: "a"}, "access_token: either it or its fingerprint is required"},
		"token and fingerprint":  {&tokendv1.ReportTokenRequest{Profile: "a", AccessToken: "t", Fingerprint: fingerprint}, "access_token: either"},
		"short fingerprint":      {&tokendv1.ReportTokenRequest{Profile: "a", Fingerprint: fingerprint[1:]}, "fingerprint: must be 32 digits"},
		"long fingerprint":       {&tokendv1.ReportTokenRequest{Profile: "a", Fingerprint: fingerprint + "0"}, "fingerprint: must be 32 digits"},
		"upper-case fingerprint": {&tokendv1.ReportTokenRequest{Profile: "a", Fingerprint: strings.ToUpper(fingerprint)}, "fingerprint: must be 32 digits"},
		"no hex":                 {&tokendv1.ReportTokenRequest{Profile: "a", Fingerprint: fingerprint[:31] + "g"}, "fingerprint: must be 32 digits"},
		"negative status":        {&tokendv1.ReportTokenRequest{Profile: "a", AccessToken: "t", HttpStatus: -1}, "http_status: must be between"},
		"small status":           {&tokendv1.ReportTokenRequest{Profile: "a", AccessToken: "t", HttpStatus: 99}, "http_status: must be between"},
		"large status":           {&tokendv1.ReportTokenRequest{Profile: "a", AccessToken: "t", HttpStatus: 600}, "http_status: must be between"},
		"long challenges": {&tokendv1.ReportTokenRequest{Profile: "a", AccessToken: "t", WwwAuthenticate: []string{strings.Repeat("x", 8<<10), "x"}},
			"www_authenticate: longer than 8192 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.tokens.ReportToken(t.Context(), test.req)
			wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", test.message)
		})
	}
	_, err := w.tokens.ResetProfile(t.Context(), &tokendv1.ResetProfileRequest{})
	wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "profile: ")
	_, err = w.tokens.ExplainToken(t.Context(), &tokendv1.ExplainTokenRequest{Profile: "a", Scopes: []string{"a b"}})
	wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "scopes: ")
	if strings.Contains(w.log.String(), "report answered") {
		t.Error("it was taken note of")
	}
}

func TestKeepingOfNoProfile(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "dev/network", w.text())
	for name, call := range map[string]func(string) error{
		"ReportToken": func(name string) error {
			_, err := w.tokens.ReportToken(t.Context(), &tokendv1.ReportTokenRequest{Profile: name, AccessToken: "t"})
			return err
		},
		"ResetProfile": func(name string) error {
			_, err := w.tokens.ResetProfile(t.Context(), &tokendv1.ResetProfileRequest{Profile: name})
			return err
		},
		"ExplainToken": func(name string) error {
			_, err := w.tokens.ExplainToken(t.Context(), &tokendv1.ExplainTokenRequest{Profile: name})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, call("dev/netwrok"), codes.NotFound, "PROFILE_NOT_FOUND", "no such profile", "profile", "dev/netwrok", "suggestion", "dev/network")
		})
	}
}

func (w *world) report(t *testing.T, req *tokendv1.ReportTokenRequest) *tokendv1.ReportTokenResponse {
	t.Helper()
	resp, err := w.tokens.ReportToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// What an API says of a token decides what becomes of it.
func TestReport(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	first := w.mustGet(t, "a")

	// It is not the token's fault.
	got := w.report(t, &tokendv1.ReportTokenRequest{Profile: "a", AccessToken: first.GetAccessToken(), HttpStatus: http.StatusForbidden,
		WwwAuthenticate: []string{`Basic realm="x", Bearer error="insufficient_scope", scope="read write"`}})
	want := &tokendv1.ReportTokenResponse{Outcome: tokendv1.ReportTokenResponse_OUTCOME_KEPT,
		Error: "insufficient_scope", Scopes: []string{"read", "write"}, Message: got.GetMessage()}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || got.GetMessage() == "" {
		t.Error(diff)
	}
	if again := w.mustGet(t, "a"); again.GetAccessToken() != first.GetAccessToken() {
		t.Error("it is handed out no more")
	}

	// It is, and nobody said how the API answered.
	got = w.report(t, &tokendv1.ReportTokenRequest{Profile: "a", Fingerprint: first.GetFingerprint()})
	if got.GetOutcome() != tokendv1.ReportTokenResponse_OUTCOME_EVICTED || got.GetRetryAfter() != nil {
		t.Errorf("%v", got)
	}
	second := w.mustGet(t, "a")
	if second.GetAccessToken() == first.GetAccessToken() {
		t.Error("it is still handed out")
	}
	got = w.report(t, &tokendv1.ReportTokenRequest{Profile: "a", AccessToken: first.GetAccessToken()})
	if got.GetOutcome() != tokendv1.ReportTokenResponse_OUTCOME_SUPERSEDED {
		t.Errorf("%v", got)
	}

	// The next one, too, at once.
	got = w.report(t, &tokendv1.ReportTokenRequest{Profile: "a", AccessToken: second.GetAccessToken(), WwwAuthenticate: []string{`Bearer error="invalid_token"`}})
	if got.GetOutcome() != tokendv1.ReportTokenResponse_OUTCOME_TOO_SOON || got.GetRetryAfter().AsDuration() <= 0 || got.GetError() != "invalid_token" {
		t.Errorf("%v", got)
	}
	if n := w.server.Count("/token"); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
	w.wantLogged(t, "report answered", "profile=a", "outcome=OUTCOME_EVICTED")
}
