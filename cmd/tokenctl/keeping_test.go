package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tokendv1 "tokend/proto/tokend/v1"
)

func TestReport(t *testing.T) {
	var asked *tokendv1.ReportTokenRequest
	var answer *tokendv1.ReportTokenResponse
	s := serve(t, &script{report: func(r *tokendv1.ReportTokenRequest) (*tokendv1.ReportTokenResponse, error) {
		asked = r
		return answer, nil
	}})
	answer = &tokendv1.ReportTokenResponse{
		Outcome: tokendv1.ReportTokenResponse_OUTCOME_EVICTED, Message: "another one is made (invalid_token)", Error: "invalid_token",
	}
	want(t, s.run(t, " abc\nnot read", "report", "p", "--status", "403", "--www-authenticate", "Bearer error=x, a", "--www-authenticate", " ", "--www-authenticate", "Basic\xff"),
		outcome{"p: another one is made (invalid_token)\n", "", 0})
	if diff := gocmp.Diff(&tokendv1.ReportTokenRequest{
		Profile: "p", AccessToken: "abc", HttpStatus: 403, WwwAuthenticate: []string{"Bearer error=x, a", "Basic?"},
	}, asked, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	want(t, s.run(t, "abc", "report", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "outcome": "evicted",
  "message": "another one is made (invalid_token)",
  "error": "invalid_token",
  "scopes": []
}
`, "", 0})
	if asked.HttpStatus != 0 || len(asked.WwwAuthenticate) != 0 {
		t.Error("said more than was known:", asked)
	}

	answer = &tokendv1.ReportTokenResponse{
		Outcome: tokendv1.ReportTokenResponse_OUTCOME_KEPT, Message: "the API wants more scopes", Error: "insufficient_scope",
		Scopes: []string{"a", "$(reboot)'\x1b"},
	}
	want(t, s.run(t, "abc", "report", "p"), outcome{
		`p: the API wants more scopes; run: tokenctl login p --scope 'a $(reboot)'\''\x1b'` + "\n", "", 0})
	answer.Scopes = []string{"a"}
	want(t, s.run(t, "abc", "report", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "outcome": "kept",
  "message": "the API wants more scopes",
  "error": "insufficient_scope",
  "scopes": [
    "a"
  ],
  "fix": "run: tokenctl login p --scope 'a'"
}
`, "", 0})
	answer.Scopes = nil
	want(t, s.run(t, "abc", "report", "p"), outcome{"p: the API wants more scopes; run: tokenctl login p --scope SCOPE\n", "", 0})
	answer = &tokendv1.ReportTokenResponse{Outcome: tokendv1.ReportTokenResponse_OUTCOME_SUPERSEDED, Message: "there is another\x1b one"}
	want(t, s.run(t, "abc", "report", "p"), outcome{"p: there is another\\x1b one\n", "", 0})

	answer = &tokendv1.ReportTokenResponse{
		Outcome: tokendv1.ReportTokenResponse_OUTCOME_TOO_SOON, Message: "the API refuses new tokens too", Error: "invalid_token",
		RetryAfter: durationpb.New(4100 * time.Millisecond),
	}
	want(t, s.run(t, "abc", "report", "p"), outcome{"", "tokenctl: p: the API refuses new tokens too; next try in 5s\n", 75})
	want(t, s.run(t, "abc", "report", "p", "-o", "json"), outcome{"",
		`{"exit":75,"profile":"p","message":"the API refuses new tokens too","oauth_error":"invalid_token","transient":true,"retry_after":5,"fix":"next try in 5s"}` + "\n", 75})

	asked = nil
	for _, stdin := range []string{"", "\n", " \nabc\n"} {
		want(t, s.run(t, stdin, "report", "p"), outcome{"", "tokenctl: standard input holds no token; see: tokenctl report --help\n", 2})
	}
	want(t, s.run(t, strings.Repeat("x", maxLine+1), "report", "p"), outcome{"", "tokenctl: a line of standard input is too long\n", 1})
	want(t, s.run(t, "abc", "report"), outcome{"", "tokenctl: PROFILE missing; see: tokenctl report --help\n", 2})
	want(t, s.run(t, "abc", "report", "p", "abc"), outcome{"", "tokenctl: unexpected argument \"abc\"; see: tokenctl report --help\n", 2})
	if asked != nil {
		t.Error("reported all the same:", asked)
	}
}

func TestReset(t *testing.T) {
	s := serve(t, &script{reset: func(r *tokendv1.ResetProfileRequest) (*tokendv1.ResetProfileResponse, error) {
		switch r.Profile {
		case "p", "q":
			return &tokendv1.ResetProfileResponse{Reopened: r.Profile == "p"}, nil
		}
		return nil, refusal("PROFILE_NOT_FOUND", "no such profile", "profile", r.Profile, "suggestion", "p")
	}})
	want(t, s.run(t, "", "reset", "p"), outcome{"p: forgotten\n", "", 0})
	want(t, s.run(t, "", "reset", "q"), outcome{"q: there was nothing to forget\n", "", 0})
	want(t, s.run(t, "", "reset", "p", "-o", "json"), outcome{"{\n  \"profile\": \"p\",\n  \"reopened\": true\n}\n", "", 0})
	want(t, s.run(t, "", "reset", "x"), outcome{"", "tokenctl: x: no such profile; did you mean p?\n", 6})
	want(t, s.run(t, "", "reset"), outcome{"", "tokenctl: PROFILE missing; see: tokenctl reset --help\n", 2})
}

func TestEvents(t *testing.T) {
	var asked *tokendv1.WatchEventsRequest
	var end error
	happened := []*tokendv1.WatchEventsResponse{
		{Kind: tokendv1.WatchEventsResponse_KIND_TOKEN_MADE, Time: later(), Profile: "p", Fingerprint: "f00", ExpiresAt: &timestamppb.Timestamp{Seconds: 2000003600}},
		{Kind: tokendv1.WatchEventsResponse_KIND_TOKEN_FAILED, Time: &timestamppb.Timestamp{Seconds: 2000000001, Nanos: 5e6}, Profile: "dev/network/internal",
			Message: "no route\x1b", Reason: tokendv1.Reason_REASON_PROVIDER_DOWN},
		{Kind: tokendv1.WatchEventsResponse_KIND_SESSION_UNSAVED, Time: later(), Profile: "p"},
		{Kind: tokendv1.WatchEventsResponse_KIND_WOKEN, Time: later(), Message: "after 2h"},
		{Kind: tokendv1.WatchEventsResponse_KIND_MISSED, Time: later(), Missed: 3},
		{Kind: 77, Time: later(), Profile: "p", Message: "news"},
	}
	s := serve(t, &script{events: func(r *tokendv1.WatchEventsRequest, stream eventStream) error {
		asked = r
		for _, e := range happened {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		if end == nil {
			<-stream.Context().Done()
		}
		return end
	}})
	want(t, s.run(t, "", "events", "--count", "6"), outcome{`2033-05-18 03:33:20  p             token made       good until 2033-05-18 04:33:20
2033-05-18 03:33:21  dev/network/internal  token failed     no route\x1b
2033-05-18 03:33:20  p                     session unsaved
2033-05-18 03:33:20                        woken            after 2h
2033-05-18 03:33:20                        missed           3 events came too fast for this reader
2033-05-18 03:33:20  p                     77               news
`, "", 0})
	if asked.Profile != "" || asked.Recent {
		t.Error("asked for", asked)
	}
	want(t, s.run(t, "", "events", "-n", "2", "-o", "json", "--recent", "p"), outcome{
		`{"kind":"token_made","time":"2033-05-18T03:33:20.000Z","time_unix":2000000000,"profile":"p","fingerprint":"f00","expires_at":"2033-05-18T04:33:20Z","expires_at_unix":2000003600}
{"kind":"token_failed","time":"2033-05-18T03:33:21.005Z","time_unix":2000000001,"profile":"dev/network/internal","message":"no route\u001b","reason":"PROVIDER_DOWN"}
`, "", 0})
	if asked.Profile != "p" || !asked.Recent {
		t.Error("asked for", asked)
	}

	// A stream has no good end but the reader's.
	happened = happened[:1]
	first := "2033-05-18 03:33:20  p             token made       good until 2033-05-18 04:33:20\n"
	for _, test := range []struct {
		end  error
		exit int
		says string
	}{
		{status.Error(codes.Unavailable, "the daemon is stopping"), 3, "the daemon is stopping; run: tokenctl daemon start"},
		{refusal("THROTTLED", "too many watch already"), 75, "too many watch already"},
		{refusal("REQUEST_INVALID", "profile: no name"), 2, "profile: no name"},
	} {
		end = test.end
		want(t, s.run(t, "", "events"), outcome{first, "tokenctl: " + test.says + "\n", test.exit})
	}
	s.events = func(*tokendv1.WatchEventsRequest, eventStream) error { return nil }
	want(t, s.run(t, "", "events"), outcome{"", "tokenctl: tokend has ended; run: tokenctl daemon start\n", 3})

	want(t, s.run(t, "", "events", "--count", "0"), outcome{"", "tokenctl: --count must be at least 1; see: tokenctl events --help\n", 2})
	want(t, s.run(t, "", "events", "p", "q"), outcome{"", "tokenctl: unexpected argument \"q\"; see: tokenctl events --help\n", 2})
}

// A daemon that dies says nothing.
func TestEventsOfADaemonThatDies(t *testing.T) {
	begun, stopped := make(chan bool), make(chan bool)
	s := serve(t, &script{})
	s.events = func(_ *tokendv1.WatchEventsRequest, stream eventStream) error {
		begun <- true
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	go func() {
		<-begun
		s.stop()
		close(stopped)
	}()
	got := s.run(t, "", "events")
	<-stopped
	if !strings.HasPrefix(got.Stderr, "tokenctl: tokend has ended (") || !strings.HasSuffix(got.Stderr, "); run: tokenctl daemon start\n") {
		t.Errorf("it said %q", got.Stderr)
	}
	got.Stderr = ""
	want(t, got, outcome{"", "", 3})
}

// What is seen is seen at once, and an interrupt ends it as it ends any program.
func TestEventsAreInterrupted(t *testing.T) {
	s := serve(t, &script{events: func(_ *tokendv1.WatchEventsRequest, stream eventStream) error {
		if err := stream.Send(&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_WOKEN, Time: later()}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}})
	s.call()()
	cmd := s.command(t, nil, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "2033-05-18 03:33:20                woken\n" {
		t.Errorf("%q, %v", line[:n], err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: interrupt" {
		t.Error("it ended with", err)
	}
}

func TestExplain(t *testing.T) {
	var asked *tokendv1.ExplainTokenRequest
	var answer *tokendv1.ExplainTokenResponse
	var fails error
	s := serve(t, &script{explain: func(r *tokendv1.ExplainTokenRequest) (*tokendv1.ExplainTokenResponse, error) {
		asked = r
		return answer, fails
	}})
	answer = &tokendv1.ExplainTokenResponse{
		Findings: []*tokendv1.Finding{
			{Level: tokendv1.Finding_LEVEL_INFO, Topic: "profile", Text: "client_credentials at https://auth.example.com/token"},
			{Level: tokendv1.Finding_LEVEL_OK, Topic: "trust", Text: "the text is trusted"},
			{Level: tokendv1.Finding_LEVEL_WARNING, Topic: "clock", Text: "the server's is 2m behind\x1b"},
			{Level: tokendv1.Finding_LEVEL_PROBLEM, Topic: "server", Text: "it refused the client"},
			{Level: 9, Topic: "x", Text: "news"},
		},
		ExpiresAt: later(), RenewsAt: &timestamppb.Timestamp{Seconds: 1999999000}, Fingerprint: "f00",
		Curl: "curl -d grant_type=client_credentials \\\n  https://auth.example.com/token\n",
	}
	const findings = `         profile  client_credentials at https://auth.example.com/token
ok       trust    the text is trusted
warning  clock    the server's is 2m behind\x1b
PROBLEM  server   it refused the client
         x        news

`
	const curl = `
The token request, its secrets left out:
curl -d grant_type=client_credentials \
  https://auth.example.com/token
`
	want(t, s.run(t, "", "explain", "p", "--scope", "a b", "--audience", "c", "--resource", "https://d", "--live"), outcome{
		findings + "p: token good until 2033-05-18 03:33:20, renewed at 2033-05-18 03:16:40\n" + curl, "", 0})
	if diff := gocmp.Diff(&tokendv1.ExplainTokenRequest{
		Profile: "p", Scopes: []string{"a", "b"}, Audience: "c", Resource: "https://d", Live: true,
	}, asked, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	answer.Findings = answer.Findings[:1]
	want(t, s.run(t, "", "explain", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "findings": [
    {
      "level": "info",
      "topic": "profile",
      "text": "client_credentials at https://auth.example.com/token"
    }
  ],
  "fingerprint": "f00",
  "expires_at": "2033-05-18T03:33:20Z",
  "expires_at_unix": 2000000000,
  "renews_at": "2033-05-18T03:16:40Z",
  "renews_at_unix": 1999999000,
  "curl": "curl -d grant_type=client_credentials \\\n  https://auth.example.com/token\n"
}
`, "", 0})
	answer = &tokendv1.ExplainTokenResponse{ExpiresAt: later()}
	want(t, s.run(t, "", "explain", "p"), outcome{"\np: token good until 2033-05-18 03:33:20, not renewed unless it is asked for\n", "", 0})
	answer = &tokendv1.ExplainTokenResponse{}
	want(t, s.run(t, "", "explain", "p"), outcome{"\np: no token is held; \"get\" asks the authorization server for one\n", "", 0})

	answer.Problem = &tokendv1.Problem{Reason: tokendv1.Reason_REASON_LOGIN_REQUIRED, Message: "login required (invalid_grant)", OauthError: "invalid_grant"}
	want(t, s.run(t, "", "explain", "p"), outcome{"\np: login required (invalid_grant); run: tokenctl login p\n", "", 4})
	answer.Problem = &tokendv1.Problem{
		Reason: tokendv1.Reason_REASON_THROTTLED, Message: "too many requests (429)", RetryAfter: durationpb.New(37 * time.Second),
	}
	want(t, s.run(t, "", "explain", "p"), outcome{"\np: too many requests (429); next try in 37s\n", "", 75})
	want(t, s.run(t, "", "explain", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "findings": [],
  "problem": {
    "reason": "THROTTLED",
    "exit": 75,
    "profile": "p",
    "message": "too many requests (429)",
    "transient": true,
    "retry_after": 37,
    "fix": "next try in 37s"
  }
}
`, "", 75})
	answer.Problem = &tokendv1.Problem{
		Reason: tokendv1.Reason_REASON_CLIENT_REFUSED, Message: "invalid_client", Variable: "CLIENT_SECRET", RetryAfter: durationpb.New(15 * time.Minute),
	}
	before := time.Now()
	got := s.run(t, "", "explain", "p")
	got.Stdout = withoutTime(got.Stdout, before.Add(15*time.Minute), time.Now().Add(15*time.Minute))
	want(t, got, outcome{"\np: invalid_client; not asked again before TIME; check CLIENT_SECRET, then: tokenctl reset p\n", "", 8})

	fails = refusal("LOCKED", "the identity is locked", "profile", "p")
	want(t, s.run(t, "", "explain", "p"), outcome{"", "tokenctl: p: the identity is locked; run: tokenctl unlock\n", 5})
	want(t, s.run(t, "", "explain"), outcome{"", "tokenctl: PROFILE missing; see: tokenctl explain --help\n", 2})
}

func TestStatusShowsTokens(t *testing.T) {
	s := serve(t, &script{
		status: &tokendv1.GetStatusResponse{
			State: tokendv1.GetStatusResponse_STATE_UNLOCKED, Version: "v1", ProfilesDir: "/d/profiles", Goroutines: 17,
			ProfileStatuses: []*tokendv1.ProfileStatus{
				{Profile: "down", ExpiresAt: later(), Reason: tokendv1.Reason_REASON_PROVIDER_DOWN, Message: "no route\x1b", NextTry: &timestamppb.Timestamp{Seconds: 1999999900}},
				{Profile: "gone", Reason: tokendv1.Reason_REASON_LOGIN_REQUIRED, Message: "login required"},
				{Profile: "dev/network", ExpiresAt: later(), RenewsAt: &timestamppb.Timestamp{Seconds: 1999999000}},
				{Profile: "idle", ExpiresAt: later()},
				{Profile: "over"},
			},
			ProfileStatusesOmitted: 2,
		},
		list: []*tokendv1.ListProfilesResponse_ProfileEntry{{Name: "new", Version: "1"}},
	})
	const table = `
down         good until 2033-05-18 03:33:20  no route\x1b; next try at 2033-05-18 03:31:40
gone         no token                        login required
dev/network  good until 2033-05-18 03:33:20  renewed at 2033-05-18 03:16:40
idle         good until 2033-05-18 03:33:20  not renewed unless it is asked for
over         no token                        one is made when it is asked for
and 2 profiles more
`
	if got := s.run(t, "", "status"); !strings.HasSuffix(got.Stdout, "\n"+table) || got.Exit != 0 {
		t.Errorf("exit status %d,\n%s\nwant at its end\n%s", got.Exit, got.Stdout, table)
	}
	want(t, s.run(t, "", "status", "idle", "new"), outcome{"idle  good until 2033-05-18 03:33:20  not renewed unless it is asked for\n" +
		"new   not told                        there are too many profiles to tell of all; see: tokenctl explain new\n", "", 0})
	s.status.ProfileStatusesOmitted = 0
	want(t, s.run(t, "", "status", "idle", "new", "down"), outcome{`down  good until 2033-05-18 03:33:20  no route\x1b; next try at 2033-05-18 03:31:40
idle  good until 2033-05-18 03:33:20  not renewed unless it is asked for
new   no token                        one is made when it is asked for
`, "", 0})
	want(t, s.run(t, "", "status", "idle", "nwe"), outcome{"", "tokenctl: nwe: no such profile; run: tokenctl add nwe\n", 6})

	var all struct {
		Goroutines int              `json:"goroutines"`
		Statuses   []map[string]any `json:"profile_statuses"`
		Omitted    int              `json:"profile_statuses_omitted"`
	}
	read := func(args ...string) {
		t.Helper()
		got := s.run(t, "", append([]string{"status", "-o", "json"}, args...)...)
		all.Statuses = nil
		if err := json.Unmarshal([]byte(got.Stdout), &all); err != nil || got.Exit != 0 {
			t.Errorf("exit status %d, %v", got.Exit, err)
		}
	}
	s.status.ProfileStatusesOmitted = 2
	read()
	if all.Goroutines != 17 || all.Omitted != 2 || len(all.Statuses) != 5 {
		t.Errorf("%+v", all)
	}
	if diff := gocmp.Diff([]map[string]any{
		{
			"profile": "down", "reason": "PROVIDER_DOWN", "message": "no route\x1b",
			"expires_at": "2033-05-18T03:33:20Z", "expires_at_unix": 2e9, "next_try": "2033-05-18T03:31:40Z", "next_try_unix": 1999999900.,
		},
		{"profile": "gone", "reason": "LOGIN_REQUIRED", "message": "login required"},
		{
			"profile": "dev/network", "expires_at": "2033-05-18T03:33:20Z", "expires_at_unix": 2e9,
			"renews_at": "2033-05-18T03:16:40Z", "renews_at_unix": 1999999000.,
		},
	}, all.Statuses[:3]); diff != "" {
		t.Error(diff)
	}
	read("gone")
	if len(all.Statuses) != 1 || all.Statuses[0]["profile"] != "gone" {
		t.Errorf("%+v", all.Statuses)
	}
	s.status.ProfileStatuses, s.status.ProfileStatusesOmitted = nil, 0
	read()
	if all.Statuses == nil || len(all.Statuses) != 0 {
		t.Errorf("no empty list: %+v", all.Statuses)
	}
}

// --wait asks again when the daemon says that it is worth while, and not at all
// where it never is.
func TestGetWaits(t *testing.T) {
	var answers []error
	var at []time.Time
	s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
		at = append(at, time.Now())
		if len(answers) == 0 {
			return &tokendv1.GetTokenResponse{AccessToken: "late", TokenType: "Bearer"}, nil
		}
		err := answers[0]
		answers = answers[1:]
		return nil, err
	}})
	answers = []error{refusalFor(1500*time.Millisecond, "THROTTLED", "too many", "profile", "p"), refusal("PROVIDER_DOWN", "no route", "profile", "p")}
	want(t, s.run(t, "", "get", "p", "--wait", "30s"), outcome{"late\n", "", 0})
	if len(at) != 3 || at[1].Sub(at[0]) < 1500*time.Millisecond || at[2].Sub(at[1]) < time.Second {
		t.Errorf("asked at %v", at)
	}
	for _, test := range []struct {
		answer error
		exit   int
	}{
		{refusal("LOGIN_REQUIRED", "login required", "profile", "p"), 4},
		{refusalFor(time.Second, "CLIENT_REFUSED", "invalid_client", "profile", "p"), 8},
		{refusalFor(time.Second, "REQUEST_REFUSED", "invalid_scope", "profile", "p"), 8},
		{refusal("STORE_UNAVAILABLE", "no space", "profile", "p"), 75},
		{refusalFor(31*time.Second, "THROTTLED", "too many", "profile", "p"), 75},
	} {
		answers, at = []error{test.answer}, nil
		if got := s.run(t, "", "get", "p", "--wait", "30s"); got.Stdout != "" || got.Exit != test.exit || len(at) != 1 {
			t.Errorf("%v: %+v, asked %d times", test.answer, got, len(at))
		}
	}
}

func TestDegradedTokensWarn(t *testing.T) {
	s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
		return &tokendv1.GetTokenResponse{
			AccessToken: "abc", TokenType: "Bearer", ExpiresAt: later(), Degraded: true, Warning: "cannot renew it: no route; good until 12:04:00",
		}, nil
	}})
	want(t, s.run(t, "", "get", "p"), outcome{"abc\n", "tokenctl: p: warning: cannot renew it: no route; good until 12:04:00\n", 0})
	got := s.run(t, "", "get", "p", "-o", "json")
	var token struct {
		Degraded bool   `json:"degraded"`
		Warning  string `json:"warning"`
	}
	if err := json.Unmarshal([]byte(got.Stdout), &token); err != nil || !token.Degraded || token.Warning != "cannot renew it: no route; good until 12:04:00" {
		t.Errorf("%v in %s", err, got.Stdout)
	}
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is midnight
		zone := time.Local
		time.Local = time.FixedZone("", -3600)
		defer func() { time.Local = zone }()
		if got := clock(time.Now().Add(time.Hour - time.Second)); got != "23:59:59" {
			t.Errorf("it is %s", got)
		}
		if got := clock(time.Now().Add(time.Hour)); got != "2000-01-01 00:00:00" {
			t.Errorf("tomorrow is %s", got)
		}
	})
}
