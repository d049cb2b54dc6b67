package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/client"
	"tokend/client/api"
)

// put puts a profile of the server's client into the daemon's store for this test.
func put(t *testing.T, c *client.Client, name string, lines ...string) {
	t.Helper()
	text := "OAUTH2_TOKEN_URL=" + server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=secret\n" + strings.Join(lines, "\n") + "\n"
	if err := c.Call(t.Context(), api.MethodPutProfile, &api.PutProfileRequest{Name: name, Text: []byte(text)}, &api.PutProfileResponse{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's daemon may have gone before.
		_ = c.Call(context.Background(), api.MethodDeleteProfile, &api.DeleteProfileRequest{Name: name}, &api.DeleteProfileResponse{})
	})
}

func TestReport(t *testing.T) {
	var c client.Client
	put(t, &c, "report")
	request := client.TokenRequest{Profile: "report"}
	token, err := c.Token(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	report := func(status int, challenges ...string) *client.Reported {
		t.Helper()
		got, err := c.Report(t.Context(), client.Refusal{Profile: "report", Fingerprint: token.Fingerprint, Status: status, Challenges: challenges})
		if err != nil {
			t.Fatal(err)
		}
		if got.Message == "" {
			t.Error("no message")
		}
		got.Message = ""
		return got
	}
	want := func(want client.Reported, got *client.Reported) {
		t.Helper()
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Error(diff)
		}
	}
	want(client.Reported{Outcome: api.OutcomeKept, Code: "insufficient_scope", Scopes: []string{"a", "b"}},
		report(403, "Basic", `Bearer error="insufficient_scope", scope="a b"`))
	if again, err := c.Token(t.Context(), request); err != nil || again.Fingerprint != token.Fingerprint {
		t.Errorf("the token was not kept: %v", err)
	}
	want(client.Reported{Outcome: api.OutcomeEvicted, Code: "invalid_token"}, report(401, `Bearer error="invalid_token"`))
	want(client.Reported{Outcome: api.OutcomeSuperseded, Code: "invalid_token"}, report(0, `Bearer error="invalid_token"`))
	if token, err = c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	soon := report(401)
	if soon.RetryAfter <= 0 || soon.RetryAfter > 10*time.Second {
		t.Errorf("retry after %v", soon.RetryAfter)
	}
	soon.RetryAfter = 0
	want(client.Reported{Outcome: api.OutcomeTooSoon}, soon)

	var failed *client.Error
	if _, err := c.Report(t.Context(), client.Refusal{Profile: "missing", Fingerprint: token.Fingerprint}); !errors.As(err, &failed) || failed.Reason != api.ReasonProfileNotFound {
		t.Errorf("of a profile that is not there: %v", err)
	}
	if _, err := c.Report(t.Context(), client.Refusal{Profile: "report", Fingerprint: token.AccessToken}); !errors.As(err, &failed) || failed.Reason != api.ReasonRequestInvalid {
		t.Errorf("with the token as fingerprint: %v", err)
	}
}

// Whatever an API sends, a report of it can be made.
func TestReportOfAnything(t *testing.T) {
	const invalid = `Bearer error="invalid_token"`
	for name, c := range map[string]struct{ given, want []string }{
		"none":         {nil, nil},
		"several":      {[]string{"Basic", invalid}, []string{"Basic", invalid}},
		"no UTF-8":     {[]string{"Bearer realm=\"\xff\"", "\xc3"}, []string{`Bearer realm="?"`, "?"}},
		"8 KiB":        {[]string{strings.Repeat("x", 8190)}, []string{strings.Repeat("x", 8190)}},
		"more":         {[]string{strings.Repeat("x", 8191), invalid}, []string{strings.Repeat("x", 8190)}},
		"cut in an é":  {[]string{strings.Repeat("x", 8189) + "é"}, []string{strings.Repeat("x", 8189)}},
		"many":         {slices.Repeat([]string{"12345678"}, 1000), slices.Repeat([]string{"12345678"}, 819)},
		"no end":       {slices.Repeat([]string{""}, 1_000_000), slices.Repeat([]string{""}, 4095)},
		"one too many": {[]string{strings.Repeat("x", 8188), invalid}, []string{strings.Repeat("x", 8188)}},
	} {
		seen := &standIn{}
		client := seen.start(t)
		seen.report = func(r *reportRequest) {
			if diff := cmp.Diff(c.want, r.GetWwwAuthenticate()); diff != "" {
				t.Errorf("%s: %s", name, diff[:min(len(diff), 1000)])
			}
			if r.GetAccessToken() != "" || r.GetFingerprint() != "0011" || r.GetHttpStatus() != 401 || r.GetProfile() != "p" {
				t.Errorf("%s: sent %v", name, r)
			}
		}
		if _, err := client.Report(t.Context(), refusal("p", "0011", 401, c.given)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func refusal(profile, fingerprint string, status int, challenges []string) client.Refusal {
	return client.Refusal{Profile: profile, Fingerprint: fingerprint, Status: status, Challenges: challenges}
}
