package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/socket"
	"tokend/profile"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

const asTokenctl = "TOKENCTL_TEST_MAIN"

// TestMain makes the test binary tokenctl where it is run as such.
func TestMain(m *testing.M) {
	if os.Getenv(asTokenctl) != "" {
		if d, err := time.ParseDuration(os.Getenv("TOKENCTL_TEST_PERSON_TIME")); err == nil {
			personTime = d
		}
		main()
	}
	os.Exit(m.Run())
}

type (
	loginStream    = grpc.BidiStreamingServer[tokendv1.LoginRequest, tokendv1.LoginResponse]
	registerStream = grpc.BidiStreamingServer[tokendv1.RegisterRequest, tokendv1.RegisterResponse]
	initStream     = grpc.BidiStreamingServer[tokendv1.InitRequest, tokendv1.InitResponse]
	protectStream  = grpc.BidiStreamingServer[tokendv1.ProtectRequest, tokendv1.ProtectResponse]
	unlockStream   = grpc.BidiStreamingServer[tokendv1.UnlockRequest, tokendv1.UnlockResponse]
	rekeyStream    = grpc.ServerStreamingServer[tokendv1.RekeyProfilesResponse]
	eventStream    = grpc.ServerStreamingServer[tokendv1.WatchEventsResponse]
)

// script is a daemon that does what a test says.
type script struct {
	tokendv1grpc.UnimplementedProfileServiceServer
	tokendv1grpc.UnimplementedTokenServiceServer
	tokendv1grpc.UnimplementedDaemonServiceServer

	login    func(loginStream) error
	register func(registerStream) error
	logout   func(*tokendv1.LogoutRequest) (*tokendv1.LogoutResponse, error)
	show     func() (*tokendv1.GetProfileResponse, error)
	put      func(*tokendv1.PutProfileRequest) (*tokendv1.PutProfileResponse, error)
	imports  func(*tokendv1.ImportProfileRequest) (*tokendv1.ImportProfileResponse, error)
	export   func(*tokendv1.ExportProfileRequest) error
	get      func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error)
	inspect  func(*tokendv1.IntrospectTokenRequest) (*tokendv1.IntrospectTokenResponse, error)
	revoke   func(*tokendv1.RevokeTokensRequest) (*tokendv1.RevokeTokensResponse, error)
	prove    func(*tokendv1.CreateDPoPProofRequest) (*tokendv1.CreateDPoPProofResponse, error)
	report   func(*tokendv1.ReportTokenRequest) (*tokendv1.ReportTokenResponse, error)
	reset    func(*tokendv1.ResetProfileRequest) (*tokendv1.ResetProfileResponse, error)
	explain  func(*tokendv1.ExplainTokenRequest) (*tokendv1.ExplainTokenResponse, error)
	events   func(*tokendv1.WatchEventsRequest, eventStream) error
	init     func(initStream) error
	protect  func(protectStream) error
	unlock   func(unlockStream) error
	lock     func() (*tokendv1.LockResponse, error)
	rekey    func(rekeyStream) error
	list     []*tokendv1.ListProfilesResponse_ProfileEntry
	status   *tokendv1.GetStatusResponse

	dir  string // of the socket, and of whatever else a test needs
	stop func() // ends it at once

	// calls is held for the length of a call, and once before and after each run
	// of tokenctl: what a test sets before a run, the calls see, and the other way
	// round.
	calls sync.Mutex
}

// call is begun with each call, and what it returns ends it.
func (s *script) call() (end func()) {
	s.calls.Lock()
	return s.calls.Unlock
}

func (s *script) Login(stream loginStream) error {
	defer s.call()()
	return s.login(stream)
}
func (s *script) Register(stream registerStream) error {
	defer s.call()()
	return s.register(stream)
}
func (s *script) Logout(_ context.Context, r *tokendv1.LogoutRequest) (*tokendv1.LogoutResponse, error) {
	defer s.call()()
	return s.logout(r)
}
func (s *script) PutProfile(_ context.Context, r *tokendv1.PutProfileRequest) (*tokendv1.PutProfileResponse, error) {
	defer s.call()()
	return s.put(r)
}
func (s *script) GetToken(_ context.Context, r *tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
	defer s.call()()
	return s.get(r)
}
func (s *script) IntrospectToken(_ context.Context, r *tokendv1.IntrospectTokenRequest) (*tokendv1.IntrospectTokenResponse, error) {
	defer s.call()()
	return s.inspect(r)
}
func (s *script) RevokeTokens(_ context.Context, r *tokendv1.RevokeTokensRequest) (*tokendv1.RevokeTokensResponse, error) {
	defer s.call()()
	return s.revoke(r)
}
func (s *script) CreateDPoPProof(_ context.Context, r *tokendv1.CreateDPoPProofRequest) (*tokendv1.CreateDPoPProofResponse, error) {
	defer s.call()()
	return s.prove(r)
}
func (s *script) ReportToken(_ context.Context, r *tokendv1.ReportTokenRequest) (*tokendv1.ReportTokenResponse, error) {
	defer s.call()()
	return s.report(r)
}
func (s *script) ResetProfile(_ context.Context, r *tokendv1.ResetProfileRequest) (*tokendv1.ResetProfileResponse, error) {
	defer s.call()()
	return s.reset(r)
}
func (s *script) ExplainToken(_ context.Context, r *tokendv1.ExplainTokenRequest) (*tokendv1.ExplainTokenResponse, error) {
	defer s.call()()
	return s.explain(r)
}
func (s *script) WatchEvents(r *tokendv1.WatchEventsRequest, stream eventStream) error {
	defer s.call()()
	return s.events(r, stream)
}
func (s *script) Init(stream initStream) error {
	defer s.call()()
	return s.init(stream)
}
func (s *script) Protect(stream protectStream) error {
	defer s.call()()
	return s.protect(stream)
}
func (s *script) Unlock(stream unlockStream) error {
	defer s.call()()
	return s.unlock(stream)
}
func (s *script) Lock(context.Context, *tokendv1.LockRequest) (*tokendv1.LockResponse, error) {
	defer s.call()()
	return s.lock()
}
func (s *script) RekeyProfiles(_ *tokendv1.RekeyProfilesRequest, stream rekeyStream) error {
	defer s.call()()
	return s.rekey(stream)
}
func (s *script) ExportProfile(_ context.Context, r *tokendv1.ExportProfileRequest) (*tokendv1.ExportProfileResponse, error) {
	defer s.call()()
	if s.export != nil {
		if err := s.export(r); err != nil {
			return nil, err
		}
	}
	return &tokendv1.ExportProfileResponse{Sealed: []byte("sealed " + r.Name)}, nil
}
func (s *script) ImportProfile(_ context.Context, r *tokendv1.ImportProfileRequest) (*tokendv1.ImportProfileResponse, error) {
	defer s.call()()
	return s.imports(r)
}
func (s *script) ListProfiles(context.Context, *tokendv1.ListProfilesRequest) (*tokendv1.ListProfilesResponse, error) {
	defer s.call()()
	return &tokendv1.ListProfilesResponse{Profiles: s.list}, nil
}
func (s *script) GetProfile(_ context.Context, r *tokendv1.GetProfileRequest) (*tokendv1.GetProfileResponse, error) {
	if s.show != nil {
		return s.show()
	}
	return nil, refusal("PROFILE_NOT_FOUND", "no such profile", "profile", r.Name)
}
func (s *script) GetStatus(context.Context, *tokendv1.GetStatusRequest) (*tokendv1.GetStatusResponse, error) {
	defer s.call()()
	return s.status, nil
}

func (s *script) socket() string { return filepath.Join(s.dir, "run", "s") }

// serve runs s for the test.
func serve(t *testing.T, s *script) *script {
	t.Helper()
	var err error
	if s.dir, err = os.MkdirTemp("", "tokenctl"); err != nil { // t.TempDir's are too long for a socket
		t.Fatal(err)
	}
	l, err := socket.Listen(s.socket())
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	s.stop = g.Stop
	tokendv1grpc.RegisterProfileServiceServer(g, s)
	tokendv1grpc.RegisterTokenServiceServer(g, s)
	tokendv1grpc.RegisterDaemonServiceServer(g, s)
	served := make(chan error)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
		os.RemoveAll(s.dir)
	})
	return s
}

// command is tokenctl with exactly this environment besides what it needs here.
func (s *script) command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Args[0] = "tokenctl"
	cmd.Env = append([]string{asTokenctl + "=1", "HOME=" + s.dir, "TOKEND_SOCKET=" + s.socket(), "PATH=/usr/bin:/bin", "TZ=UTC", "GORACE=atexit_sleep_ms=0"}, env...)
	return cmd
}

type outcome struct {
	Stdout, Stderr string
	Exit           int
}

// run runs tokenctl without a terminal.
func (s *script) run(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	return s.runWith(t, nil, stdin, args...)
}

func (s *script) runWith(t *testing.T, env []string, stdin string, args ...string) outcome {
	t.Helper()
	cmd := s.command(t, env, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	s.call()()
	defer func() { s.call()() }()
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// want compares all that came of a run.
func want(t *testing.T, got, want outcome) {
	t.Helper()
	if got != want {
		t.Errorf("exit status %d, stdout\n%s\nstderr\n%s\nwant %d,\n%s\n%s", got.Exit, got.Stdout, got.Stderr, want.Exit, want.Stdout, want.Stderr)
	}
}

// refusal is an error as the daemon gives it: pairs are metadata.
func refusal(reason, message string, pairs ...string) error {
	return refusalFor(0, reason, message, pairs...)
}

// refusalFor is a refusal that is the answer for that long.
func refusalFor(d time.Duration, reason, message string, pairs ...string) error {
	metadata := make(map[string]string)
	for pair := range slices.Chunk(pairs, 2) {
		metadata[pair[0]] = pair[1]
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: "tokend", Reason: reason, Metadata: metadata}}
	if d > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	s, err := status.New(codes.Unknown, message).WithDetails(details...)
	if err != nil {
		return err
	}
	return s.Err()
}

// trust is the answer's part for a text under name.
func (s *script) trust(name string) *tokendv1.Trust {
	return &tokendv1.Trust{Line: name + " hash", File: filepath.Join(s.dir, "trusted")}
}

func (s *script) trusted(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "trusted"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func (s *script) write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// later is 2033-05-18 03:33:20 UTC.
func later() *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: 2000000000} }

func TestEnvironmentVariablesAreAllOfAProfile(t *testing.T) {
	var environ, names []string
	for _, v := range profile.Variables {
		if strings.Contains(v.Name, "<") {
			continue
		}
		environ = append(environ, v.Name+"=1", v.Name+"_FILE=1", v.Name+"_COMMAND=1")
	}
	for _, kv := range environ {
		names = append(names, strings.TrimSuffix(kv, "=1"))
	}
	slices.Sort(names)
	var got []string
	for _, v := range environmentVariables(append(environ, "PATH=/bin", "TOKEND_DIR=/", "CLIENT=1", "MY_CLIENT_ID=1")) {
		got = append(got, v.Name)
	}
	if !slices.Equal(got, names) {
		t.Errorf("%v, want %v", got, names)
	}
}

// An exit status is 0 where all went well, and nowhere else.
func TestUnknownReasonsFail(t *testing.T) {
	const newer = 99
	s := serve(t, &script{
		rekey: func(stream rekeyStream) error {
			for i, reason := range []tokendv1.Reason{tokendv1.Reason_REASON_UNSPECIFIED, newer} {
				if err := stream.Send(&tokendv1.RekeyProfilesResponse{Profile: "p", Reason: reason, Problem: "broken", Done: int32(i + 1), Total: 2}); err != nil {
					return err
				}
			}
			return nil
		},
		explain: func(*tokendv1.ExplainTokenRequest) (*tokendv1.ExplainTokenResponse, error) {
			return &tokendv1.ExplainTokenResponse{Problem: &tokendv1.Problem{Reason: newer, Message: "broken"}}, nil
		},
	})
	want(t, s.run(t, "", "rekey"), outcome{Stderr: "tokenctl: p: broken\ntokenctl: p: broken\ntokenctl: 2 profiles stayed as before, as said above\n", Exit: 1})
	want(t, s.run(t, "", "explain", "p"), outcome{Stdout: "\np: broken\n", Exit: 1})
}

func TestListedNamesArePrintable(t *testing.T) {
	s := serve(t, &script{list: []*tokendv1.ListProfilesResponse_ProfileEntry{{Name: "a\x1b[2J"}, {Name: "b"}}})
	want(t, s.run(t, "", "list"), outcome{Stdout: "a\\x1b[2J\nb\n"})
}

// until is a context that ends once there is a file.
type until struct {
	context.Context
	file string
}

func (u until) Err() error {
	if _, err := os.Stat(u.file); err == nil {
		return context.Canceled
	}
	return nil
}

// One that was interrupted between two profiles has not gone well.
func TestExportIsInterrupted(t *testing.T) {
	s := serve(t, &script{})
	t.Setenv("HOME", s.dir)
	a := &app{client: client.Client{Socket: s.socket()}}
	all := []api.ListProfilesResponseProfileEntry{{Name: "a"}, {Name: "b"}}
	to := filepath.Join(s.dir, "to")
	err := a.exportAll(until{t.Context(), filepath.Join(to, "a.env.age")}, all, to, false, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was interrupted", err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "a.env.age")); err != nil || string(got) != "sealed a" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(to, "b.env.age")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it went on: %v", err)
	}
}

// What is wrong with the keyring ends it at once, and what is with one profile does not.
func TestExportEndsWithTheKeyring(t *testing.T) {
	const says = "reading from the keyring: no answer within 2s"
	var asked []string
	cause := ""
	s := &script{list: []*tokendv1.ListProfilesResponse_ProfileEntry{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}}
	s.export = func(r *tokendv1.ExportProfileRequest) error {
		asked = append(asked, r.GetName())
		switch {
		case r.GetName() == "b":
			return refusal("STORE_UNAVAILABLE", "it is damaged", "profile", "b")
		case r.GetName() == "c" && cause != "":
			return refusal("STORE_UNAVAILABLE", says, "profile", "c", "cause", cause)
		}
		return nil
	}
	serve(t, s)
	to := filepath.Join(s.dir, "to")
	for _, test := range []struct{ cause, written, last, asked string }{
		{"keyring", "1 of 4 profiles written to " + to, "c: " + says, "a b c"},
		{"keyring_locked", "0 of 4 profiles written to " + to + ", 1 unchanged", "c: " + says + "; open it in the desktop's own program", "a b c"},
		{"", "2 of 4 profiles written to " + to + ", 1 unchanged", "1 profile cannot be exported, as said above", "a b c d"},
	} {
		asked, cause = nil, test.cause
		exit := 75
		if cause == "" {
			exit = 1
		}
		want(t, s.run(t, "", "export", "--to", to), outcome{"", "tokenctl: b: it is damaged\ntokenctl: " + test.written + "\ntokenctl: " + test.last + "\n", exit})
		if got := strings.Join(asked, " "); got != test.asked {
			t.Errorf("%s: asked for %s, want %s", cause, got, test.asked)
		}
	}
	s.list, cause = s.list[2:], "no_session_bus"
	want(t, s.run(t, "", "export", "--to", to), outcome{"", "tokenctl: c: " + says + "\n", 75})
}

// The first file that the keyring does not answer for is the last.
func TestImportEndsWithTheKeyring(t *testing.T) {
	const says = "reading from the keyring: no answer within 2s"
	var asked []string
	s := &script{list: []*tokendv1.ListProfilesResponse_ProfileEntry{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
	s.imports = func(r *tokendv1.ImportProfileRequest) (*tokendv1.ImportProfileResponse, error) {
		asked = append(asked, r.GetName())
		if r.GetName() == "b" {
			return nil, refusal("STORE_UNAVAILABLE", says, "profile", "b", "cause", "keyring")
		}
		return &tokendv1.ImportProfileResponse{Unchanged: true, Trust: s.trust(r.GetName())}, nil
	}
	serve(t, s)
	var files []string
	for _, name := range []string{"a", "b", "c"} {
		files = append(files, s.write(t, name+".env", "X=y\n"))
	}
	for _, flag := range []string{"--replace", "--dry-run", "--as="} {
		asked = nil
		got := s.run(t, "", append([]string{"import", flag}, files...)...)
		if got.Stderr != "tokenctl: b: "+says+"\n" || got.Exit != 75 || strings.Join(asked, " ") != "a b" {
			t.Errorf("%s: %v, asked for %s", flag, got, asked)
		}
	}
}

func TestStatusShowsSessions(t *testing.T) {
	s := serve(t, &script{status: &tokendv1.GetStatusResponse{
		State: tokendv1.GetStatusResponse_STATE_UNLOCKED, Version: "v1", ProfilesDir: "/d/profiles", Sessions: 3,
		OrphanedSessions: []string{"old/one"}, UnsavedSessions: []string{"dev/network"}, QueuedRevocations: 2,
	}})
	got := s.run(t, "", "status")
	for _, part := range []string{
		"\n             old/one has no profile any more; to end it: tokenctl logout old/one\n",
		"\n             dev/network could not be written and is in memory only, which is tried again\n",
		"\nrevocations  2 tokens, which the server could not be told of yet\n",
	} {
		if !strings.Contains(got.Stdout, part) {
			t.Errorf("no %q in\n%s", part, got.Stdout)
		}
	}
	got = s.run(t, "", "status", "-o", "json")
	for _, part := range []string{
		"\"orphaned_sessions\": [\n    \"old/one\"\n  ]", "\"unsaved_sessions\": [\n    \"dev/network\"\n  ]", `"queued_revocations": 2`,
	} {
		if !strings.Contains(got.Stdout, part) {
			t.Errorf("no %q in\n%s", part, got.Stdout)
		}
	}
}

func TestHints(t *testing.T) {
	for _, test := range []struct {
		err  error
		exit int
		says string
	}{
		{refusal("LOGIN_REQUIRED", "login required", "profile", "p"), 4, "p: login required; run: tokenctl login p"},
		{refusal("LOGIN_REQUIRED", "login required", "profile", "p", "variable", "OAUTH2_REFRESH_TOKEN"), 4, "p: login required; give it a new OAUTH2_REFRESH_TOKEN: tokenctl edit p"},
		{refusal("CLIENT_REFUSED", "invalid_client", "profile", "p"), 8, "p: invalid_client; check CLIENT_ID, CLIENT_SECRET and OAUTH2_CLIENT_AUTH: tokenctl edit p"},
		{refusal("REQUEST_REFUSED", "invalid_scope", "profile", "p", "oauth_error", "invalid_scope"), 8, "p: invalid_scope; check OAUTH2_SCOPE: tokenctl edit p"},
		{refusal("DENIED", "no", "profile", "p"), 7, "p: no"},
		{refusal("DENIED", "no", "profile", "p", "variable", "API_URL"), 7, "p: no; check API_URL: tokenctl edit p"},
		{refusal("PROVIDER_DOWN", "no route", "profile", "p"), 75, "p: no route; to keep trying: tokenctl get --wait 1m p"},
		{refusalFor(time.Second, "PROVIDER_DOWN", "no route", "profile", "p"), 75, "p: no route; to keep trying: tokenctl get --wait 1m p"},
		{refusalFor(90*time.Second-time.Millisecond, "THROTTLED", "too many", "profile", "p"), 75, "p: too many; next try in 1m30s"},
		{refusal("THROTTLED", "too many"), 75, "too many"},
		{status.Error(codes.Unavailable, "the daemon is stopping"), 3, "the daemon is stopping; run: tokenctl daemon start"},
	} {
		s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) { return nil, test.err }})
		want(t, s.run(t, "", "get", "p"), outcome{"", "tokenctl: " + test.says + "\n", test.exit})
	}
}

// withoutTime replaces a time of day between two times by TIME.
func withoutTime(s string, from, to time.Time) string {
	for at := from; !at.After(to.Add(time.Second)); at = at.Add(time.Second) {
		for _, layout := range []string{time.DateTime, time.TimeOnly} {
			s = strings.ReplaceAll(s, at.UTC().Format(layout), "TIME")
		}
	}
	return s
}

// What the server has refused is not asked for again before a time, which the line
// says, and JSON as seconds.
func TestRefusalsSayWhenTheyAreTriedAgain(t *testing.T) {
	var err error
	s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) { return nil, err }})
	for _, test := range []struct {
		err  error
		says string
	}{
		{refusalFor(15*time.Minute, "CLIENT_REFUSED", "the client was refused (invalid_client)", "profile", "p", "variable", "CLIENT_SECRET", "oauth_error", "invalid_client"),
			"p: the client was refused (invalid_client); not asked again before TIME; check CLIENT_SECRET, then: tokenctl reset p"},
		{refusalFor(15*time.Minute, "REQUEST_REFUSED", "invalid_target", "profile", "p", "oauth_error", "invalid_target"),
			"p: invalid_target; not asked again before TIME; check OAUTH2_RESOURCE and OAUTH2_AUDIENCE, then: tokenctl reset p"},
	} {
		err = test.err
		before := time.Now()
		got := s.run(t, "", "get", "p")
		got.Stderr = withoutTime(got.Stderr, before.Add(15*time.Minute), time.Now().Add(15*time.Minute))
		want(t, got, outcome{"", "tokenctl: " + test.says + "\n", 8})
		got = s.run(t, "", "get", "p", "-o", "json")
		if !strings.Contains(got.Stderr, `"transient":false,"retry_after":900,`) {
			t.Errorf("no time in %s", got.Stderr)
		}
	}
}

func TestHeaderNamesTheTokensType(t *testing.T) {
	s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
		return &tokendv1.GetTokenResponse{AccessToken: "abc", TokenType: "DPoP"}, nil
	}})
	want(t, s.run(t, "", "get", "p", "-o", "header"), outcome{"Authorization: DPoP abc\n", "", 0})
	want(t, s.run(t, "", "get", "p"), outcome{"abc\n", "", 0})
}

func TestProof(t *testing.T) {
	var asked *tokendv1.CreateDPoPProofRequest
	s := serve(t, &script{
		get: func(r *tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
			return &tokendv1.GetTokenResponse{AccessToken: "current-of-" + r.Profile, TokenType: "DPoP"}, nil
		},
		prove: func(r *tokendv1.CreateDPoPProofRequest) (*tokendv1.CreateDPoPProofResponse, error) {
			asked = r
			return &tokendv1.CreateDPoPProofResponse{Proof: "a.b.c"}, nil
		},
	})
	const url = "https://api.example.com/x"
	for _, test := range []struct {
		stdin string
		args  []string
		token string
		out   string
	}{
		{"", nil, "current-of-p", "a.b.c\n"},
		{"", []string{"-o", "header"}, "current-of-p", "DPoP: a.b.c\n"},
		{"given\n", []string{"--token-file", "-"}, "given", "a.b.c\n"},
		{"", []string{"--token-file", s.write(t, "token", "filed\n")}, "filed", "a.b.c\n"},
	} {
		want(t, s.run(t, test.stdin, append([]string{"proof", "p", "GET", url, "--nonce", "n"}, test.args...)...), outcome{test.out, "", 0})
		if got := fmt.Sprint(asked.Profile, asked.Method, asked.Url, asked.Nonce, asked.AccessToken); got != fmt.Sprint("p", "GET", url, "n", test.token) {
			t.Errorf("asked for %s", got)
		}
	}
	for _, stdin := range []string{"", "\n"} {
		want(t, s.run(t, stdin, "proof", "p", "GET", url, "--token-file", "-"),
			outcome{"", "tokenctl: standard input holds no token; see: tokenctl proof --help\n", 2})
	}
	s.prove = func(*tokendv1.CreateDPoPProofRequest) (*tokendv1.CreateDPoPProofResponse, error) {
		return nil, refusal("DENIED", "it may not go to https://api.example.com", "profile", "p", "variable", "API_URL")
	}
	want(t, s.run(t, "", "proof", "p", "GET", url),
		outcome{"", "tokenctl: p: it may not go to https://api.example.com; check API_URL: tokenctl edit p\n", 7})
}

func TestInspect(t *testing.T) {
	var answer *tokendv1.IntrospectTokenResponse
	var asked *tokendv1.IntrospectTokenRequest
	s := serve(t, &script{inspect: func(r *tokendv1.IntrospectTokenRequest) (*tokendv1.IntrospectTokenResponse, error) {
		asked = r
		return answer, nil
	}})
	answer = &tokendv1.IntrospectTokenResponse{
		Source: tokendv1.IntrospectTokenResponse_SOURCE_JWT, Active: true, TokenType: "Bearer", Fingerprint: "f00",
		ExpiresAt: later(),
		Claims:    `{"sub":"a\u001b[2Jb\nc","exp":2000000000,"aud":["x", "y"],"big":12345678901234567890,"\u001b":1}`,
	}
	want(t, s.run(t, "", "inspect", "p", "--scope", "a b", "--audience", "c", "--resource", "https://d"), outcome{`active       yes, by what stands in the token: NOT VERIFIED
type         Bearer
fingerprint  f00
expires      2033-05-18 03:33 UTC

\x1b  1
aud   ["x", "y"]
big   12345678901234567890
exp   2000000000 (2033-05-18 03:33 UTC)
sub   a\x1b[2Jb c
`, "", 0})
	if got := fmt.Sprintf("%q %s %s", asked.Scopes, asked.Audience, asked.Resource); got != `["a" "b"] c https://d` {
		t.Error("asked for", got)
	}
	// What a terminal obeys and JSON may have as it is: C1, DEL, bidi, and beyond 16 bits.
	hostile := answer.Claims
	answer.Claims = "{\"sub\":\"a\u009b2J\u009d0;x\x7f\u202eé\U000e0001\"}"
	if got := s.run(t, "", "inspect", "p", "-o", "json"); !strings.Contains(got.Stdout, `"sub": "a\u009b2J\u009d0;x\u007f\u202eé\udb40\udc01"`) {
		t.Errorf("%q", got.Stdout)
	}
	answer.Claims = hostile
	want(t, s.run(t, "", "inspect", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "active": true,
  "source": "jwt",
  "claims": {
    "sub": "a\u001b[2Jb\nc",
    "exp": 2000000000,
    "aud": [
      "x",
      "y"
    ],
    "big": 12345678901234567890,
    "\u001b": 1
  },
  "token_type": "Bearer",
  "expires_at": "2033-05-18T03:33:20Z",
  "expires_at_unix": 2000000000,
  "fingerprint": "f00"
}
`, "", 0})
	answer = &tokendv1.IntrospectTokenResponse{Source: tokendv1.IntrospectTokenResponse_SOURCE_INTROSPECTION, TokenType: "Bearer", Fingerprint: "f00", Claims: `{"active":false}`}
	want(t, s.run(t, "", "inspect", "p"), outcome{"active       no, says the authorization server\ntype         Bearer\nfingerprint  f00\n\nactive  false\n", "", 0})
	answer = &tokendv1.IntrospectTokenResponse{Source: tokendv1.IntrospectTokenResponse_SOURCE_NONE, TokenType: "Bearer", Fingerprint: "f00"}
	want(t, s.run(t, "", "inspect", "p"), outcome{"active       unknown: the authorization server is not to be asked, and the token is opaque\ntype         Bearer\nfingerprint  f00\n", "", 0})
	want(t, s.run(t, "", "inspect", "p", "-o", "json"), outcome{`{
  "profile": "p",
  "active": null,
  "source": "none",
  "claims": {},
  "token_type": "Bearer",
  "fingerprint": "f00"
}
`, "", 0})
	answer.Claims = "[]"
	if got := s.run(t, "", "inspect", "p"); got.Exit != 1 || got.Stdout != "" {
		t.Errorf("claims that are no object: %+v", got)
	}
}

func TestRevoke(t *testing.T) {
	var asked *tokendv1.RevokeTokensRequest
	var answer []*tokendv1.RevokeTokensResponse_Revocation
	s := serve(t, &script{revoke: func(r *tokendv1.RevokeTokensRequest) (*tokendv1.RevokeTokensResponse, error) {
		asked = r
		return &tokendv1.RevokeTokensResponse{Revocations: answer}, nil
	}})
	answer = []*tokendv1.RevokeTokensResponse_Revocation{{Profile: "p", Revoked: 2}}
	want(t, s.run(t, "", "revoke", "p"), outcome{"p: 2 tokens revoked\n", "", 0})
	if asked.Profile != "p" || asked.All {
		t.Error("asked for", asked)
	}
	answer[0].Problem = "the server has no revocation endpoint"
	want(t, s.run(t, "", "revoke", "p"), outcome{"p: 2 tokens revoked\n",
		"tokenctl: p: tokens live on until they expire: the server has no revocation endpoint\n", 1})
	answer = []*tokendv1.RevokeTokensResponse_Revocation{{Profile: "a"}, {Profile: "b", Queued: 1}}
	want(t, s.run(t, "", "revoke", "--all"), outcome{"a: no tokens to revoke\nb: 0 tokens revoked\n",
		"tokenctl: b: warning: 1 token still to be revoked: the server could not be reached, which is tried again\n", 0})
	if asked.Profile != "" || !asked.All {
		t.Error("asked for", asked)
	}
	answer = []*tokendv1.RevokeTokensResponse_Revocation{{Profile: "a", Revoked: 1, Problem: "x"}, {Profile: "b", Problem: "y\x1b"}}
	want(t, s.run(t, "", "revoke", "--all"), outcome{"a: 1 token revoked\nb: 0 tokens revoked\n",
		"tokenctl: a: warning: x\ntokenctl: b: warning: y\\x1b\ntokenctl: tokens live on until they expire: a, b\n", 1})
	want(t, s.run(t, "", "revoke"), outcome{"", "tokenctl: PROFILE or --all missing; see: tokenctl revoke --help\n", 2})
	want(t, s.run(t, "", "revoke", "p", "--all"), outcome{"", "tokenctl: --all and a profile exclude each other; see: tokenctl revoke --help\n", 2})
}

func TestLogout(t *testing.T) {
	s := serve(t, &script{logout: func(r *tokendv1.LogoutRequest) (*tokendv1.LogoutResponse, error) {
		switch r.Profile {
		case "p":
			return &tokendv1.LogoutResponse{Revoked: 1, Queued: 1}, nil
		case "q":
			return &tokendv1.LogoutResponse{Problem: "there is no revocation endpoint"}, nil
		}
		return nil, refusal("PROFILE_NOT_FOUND", "no such profile", "profile", r.Profile, "suggestion", "p")
	}})
	want(t, s.run(t, "", "logout", "p"), outcome{"p: logged out, 1 token revoked\n",
		"tokenctl: p: warning: 1 token still to be revoked: the server could not be reached, which is tried again\n", 0})
	want(t, s.run(t, "", "logout", "q"), outcome{"q: logged out, 0 tokens revoked\n",
		"tokenctl: q: tokens live on until they expire: there is no revocation endpoint\n", 1})
	want(t, s.run(t, "", "logout", "x"), outcome{"", "tokenctl: x: no such profile; did you mean p?\n", 6})
}

func TestRegister(t *testing.T) {
	var start *tokendv1.RegisterRequest_Start
	var user *tokendv1.RegisterRequest_User
	var fails error
	s := &script{}
	s.register = func(stream registerStream) error {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		start = r.GetStart()
		if fails != nil {
			return fails
		}
		if err := stream.Send(&tokendv1.RegisterResponse{Event: &tokendv1.RegisterResponse_UserNeeded_{UserNeeded: &tokendv1.RegisterResponse_UserNeeded{
			Url: "https://api.example.com/v1/clients", Profile: "p", TokenUrl: "https://api.example.com/v1/oauth/token",
		}}}); err != nil {
			return err
		}
		if r, err = stream.Recv(); err != nil {
			return err
		}
		user = r.GetUser()
		return stream.Send(&tokendv1.RegisterResponse{Event: &tokendv1.RegisterResponse_Done_{Done: &tokendv1.RegisterResponse_Done{
			Profile: "p", ClientId: "ID", Trust: s.trust("p"),
		}}})
	}
	serve(t, s)
	want(t, s.run(t, "me@example.com\n pass word \n", "register", "https://api.example.com/v1/clients", "--as", "p", "--replace", "--token-url", "https://t"),
		outcome{"p: registered as client ID\n", "", 0})
	if start.Url != "https://api.example.com/v1/clients" || start.Name != "p" || !start.Replace || start.TokenUrl != "https://t" {
		t.Error("started with", start)
	}
	if user.Name != "me@example.com" || user.Password != " pass word " {
		t.Error("user and password are others")
	}
	if got := s.trusted(t); got != "p hash\n" {
		t.Errorf("trusted %q", got)
	}
	want(t, s.run(t, "secret", "register", "https://x", "--user", "you"), outcome{"p: registered as client ID\n", "", 0})
	if user.Name != "you" || user.Password != "secret" {
		t.Error("user and password are others")
	}
	user = nil
	for _, stdin := range []string{"", "me\n", "me\n\n", "\nsecret\n"} {
		want(t, s.run(t, stdin, "register", "https://x"), outcome{"", "tokenctl: p: user name or password missing: nothing was sent\n", 2})
	}
	if user != nil {
		t.Error("sent all the same")
	}
	fails = refusal("CLIENT_REFUSED", "refused", "profile", "p")
	want(t, s.run(t, "", "register", "https://x"), outcome{"", "tokenctl: p: refused; check user name and password\n", 8})
	fails = refusal("ALREADY_EXISTS", "a profile has that name", "profile", "p")
	want(t, s.run(t, "", "register", "https://x"), outcome{"", "tokenctl: p: a profile has that name; add --replace, or choose another name: --as NAME\n", 1})
}

func TestImportGoogle(t *testing.T) {
	puts := make(map[string]string)
	s := &script{}
	s.put = func(r *tokendv1.PutProfileRequest) (*tokendv1.PutProfileResponse, error) {
		if _, ok := puts[r.Name]; ok {
			return nil, refusal("ALREADY_EXISTS", "a profile has that name", "profile", r.Name)
		}
		var b strings.Builder
		for _, v := range r.GetVariables().Variables {
			fmt.Fprintf(&b, "%s=%q\n", v.Name, v.Value)
		}
		puts[r.Name] = b.String()
		return &tokendv1.PutProfileResponse{Trust: s.trust(r.Name)}, nil
	}
	serve(t, s)
	key := s.write(t, "key.json", `{"type": "service_account", "project_id": "pr", "private_key_id": "kid",
		"private_key": "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n", "client_email": "build.bot@pr.iam.gserviceaccount.com",
		"client_id": "123", "token_uri": "https://oauth2.googleapis.com/token"}`)
	desktop := s.write(t, "desktop.json", `{"installed": {"client_id": "1.apps.googleusercontent.com", "project_id": "my:project", "client_secret": "s",
		"token_uri": "https://oauth2.googleapis.com/token", "redirect_uris": ["http://localhost"]}}`)
	elsewhere := s.write(t, "elsewhere.json", `{"type": "service_account", "private_key": "k", "client_email": "e@x", "token_uri": "https://token.example.com/"}`)

	want(t, s.run(t, "", "import", "google", key, desktop, "--scope", "a", "--scope", "b c"), outcome{"build.bot\nmy-project\n", "", 0})
	want(t, s.run(t, "", "import", "google", elsewhere, "--as", "dev/google"), outcome{"dev/google\n",
		"tokenctl: " + elsewhere + ": its tokens come from token.example.com, which is not Google's\n", 0})
	for name, text := range map[string]string{
		"build.bot": "OAUTH2_PROVIDER=\"google\"\nCLIENT_ID=\"build.bot@pr.iam.gserviceaccount.com\"\nPRIVATE_KEY_ID=\"kid\"\n" +
			`PRIVATE_KEY="-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"` + "\nOAUTH2_SCOPE=\"a b c\"\n",
		"my-project": "OAUTH2_PROVIDER=\"google\"\nOAUTH2_GRANT=\"authorization_code\"\nCLIENT_ID=\"1.apps.googleusercontent.com\"\nCLIENT_SECRET=\"s\"\nOAUTH2_SCOPE=\"a b c\"\n",
		"dev/google": "OAUTH2_PROVIDER=\"google\"\nCLIENT_ID=\"e@x\"\nPRIVATE_KEY=\"k\"\nOAUTH2_TOKEN_URL=\"https://token.example.com/\"\n",
	} {
		if puts[name] != text {
			t.Errorf("%s is\n%s, want\n%s", name, puts[name], text)
		}
	}
	if got := s.trusted(t); got != "build.bot hash\nmy-project hash\ndev/google hash\n" {
		t.Errorf("trusted %q", got)
	}
	for as, host := range map[string]string{"old": "accounts.google.com", "regional": "eu.googleapis.com"} {
		file := s.write(t, as+".json", `{"type": "service_account", "private_key": "k", "client_email": "e@x", "token_uri": "https://`+host+`/o/oauth2/token"}`)
		want(t, s.run(t, "", "import", "google", file, "--as", as), outcome{as + "\n", "", 0})
	}
	want(t, s.run(t, "", "import", "google", key), outcome{"", "tokenctl: build.bot: a profile has that name; choose another name: --as NAME\n", 1})

	for content, says := range map[string]string{
		"CLIENT_ID=x": "it is not JSON as Google's console gives it; nothing was written",
		`{"type": "service_account", "private_key": 5}`: "it is not JSON as Google's console gives it; nothing was written",
		"{}":                                "it is neither a service account's key nor a desktop application's client; nothing was written",
		`{"type": "authorized_user"}`:       "it is a login of gcloud's, which stays gcloud's; use a desktop application's client and: tokenctl login NAME",
		`{"type": "external_account"}`:      "it has no key, but refers to other credentials (external_account); make a profile with OAUTH2_GRANT=token_exchange: tokenctl add NAME",
		`{"type": "service_account"}`:       "client_email or private_key is missing in it; nothing was written",
		`{"web": {"client_id": "x"}}`:       "it is the client of a web application, which cannot log in from here; make one for a desktop application",
		`{"installed": {}}`:                 "client_id is missing in it; nothing was written",
		`{"installed": {"client_id": "x"}}`: "nothing in it makes a name for the profile; add --as NAME",
		`{"type": "service_account", "x": "` + strings.Repeat("x", maxText) + `"}`: "it is not JSON as Google's console gives it; nothing was written",
	} {
		before := len(puts)
		file := s.write(t, "wrong.json", content)
		// The good one comes first, and is not written either.
		fresh := s.write(t, "fresh.json", `{"type": "service_account", "private_key": "k", "client_email": "fresh@x"}`)
		want(t, s.run(t, "", "import", "google", fresh, file), outcome{"", "tokenctl: " + file + ": " + says + "\n", 78})
		if len(puts) != before {
			t.Error("something was written")
		}
	}
	want(t, s.run(t, "", "import", "google", key, desktop, "--as", "x"), outcome{"", "tokenctl: --as is for one file; see: tokenctl import google --help\n", 2})
	want(t, s.run(t, "", "import", "aws"), outcome{"", "tokenctl: stat aws: no such file or directory\n", 1})
}

// A line says what to do next where that helps, and each thing once.
func TestNextSteps(t *testing.T) {
	const noBus = "listing store: reading from the keyring: there is no session bus, which the keyring is reached by: DBUS_SESSION_BUS_ADDRESS is not set in the daemon's environment"
	var says error
	s := serve(t, &script{lock: func() (*tokendv1.LockResponse, error) { return nil, says }})
	for _, test := range []struct {
		bus  string
		says error
		line string
		exit int
	}{
		{"", refusal("STORE_UNAVAILABLE", noBus, "cause", "no_session_bus"), noBus, 75},
		{"unix:path=/bus", refusal("STORE_UNAVAILABLE", noBus, "cause", "no_session_bus"), noBus + "; run: tokenctl daemon restart", 75},
		{"", refusal("STORE_UNAVAILABLE", "reading from the keyring: the keyring is locked", "cause", "keyring_locked"), "reading from the keyring: the keyring is locked; open it in the desktop's own program", 75},
		{"", refusal("STORE_UNAVAILABLE", "reading from the keyring: it hangs", "cause", "keyring"), "reading from the keyring: it hangs", 75},
		// What a message says decides nothing.
		{"unix:path=/bus", refusal("STORE_UNAVAILABLE", "there is no session bus, and the keyring is locked"), "there is no session bus, and the keyring is locked; then run: tokenctl reload", 75},
		{"", refusal("STORE_UNAVAILABLE", "a folder is gone"), "a folder is gone; then run: tokenctl reload", 75},
		{"", refusal("STORE_UNAVAILABLE", `reading "a/b": it is damaged`, "profile", "a/b"), "a/b: it is damaged", 75},
		{"", refusal("STORE_UNAVAILABLE", `it is damaged; reading "a/b": no`, "profile", "a/b"), `a/b: it is damaged; reading "a/b": no`, 75},
		{"", refusal("SETTINGS_INVALID", "there is nothing to rekey"), "there is nothing to rekey", 78},
		{"", refusal("PROFILE_INVALID", "line 1 is no recipient", "folder", "a/"), "line 1 is no recipient; mend that file, then run: tokenctl trust a/", 78},
		{"", status.Error(codes.Unimplemented, "unknown method"), "the tokend that runs is of another version, which cannot do that; run: tokenctl daemon restart", 1},
	} {
		says = test.says
		want(t, s.runWith(t, []string{"DBUS_SESSION_BUS_ADDRESS=" + test.bus}, "", "lock"), outcome{Stderr: "tokenctl: " + test.line + "\n", Exit: test.exit})
	}
}

func TestNamesMadeOfOthers(t *testing.T) {
	for from, want := range map[string]string{
		"build-bot": "build-bot", "a:b c": "a-b-c", "--x": "x", "x.env": "x", "x.env.age": "x", "": "", "ä": "", "..": "",
		strings.Repeat("a", 70): strings.Repeat("a", 64), strings.Repeat("a", 60) + ".env5": strings.Repeat("a", 60),
	} {
		if got := nameFrom(from); got != want {
			t.Errorf("%q makes %q, want %q", from, got, want)
		}
	}
}
