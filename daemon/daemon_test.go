package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/daemon"
	"tokend/internal/harden"
	"tokend/internal/settings"
	"tokend/internal/socket"
	"tokend/internal/worker"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
	"tokend/test/authserver"
)

const secret = "CANARY-client-secret"

func TestMain(m *testing.M) {
	worker.Main() // this program is also what the daemon starts as its worker
	if socket := os.Getenv("DAEMON_TEST_CALL"); socket != "" {
		if err := callOnce(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if socket := os.Getenv("DAEMON_TEST_LOGIN"); socket != "" {
		if err := loginUntilEOF(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A world is a daemon in a home of its own, a connection to it, and an
// authorization server.
type world struct {
	home     string
	settings *settings.Settings
	server   *authserver.Server
	log      *logBuffer
	served   chan error // what Serve returned
	conn     *grpc.ClientConn
	tokens   tokendv1grpc.TokenServiceClient
	profiles tokendv1grpc.ProfileServiceClient
	daemon   tokendv1grpc.DaemonServiceClient
	health   healthpb.HealthClient
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newHome returns a folder whose name is short enough for a socket's path, and
// makes it everything that the environment names.
func newHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "tokend")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	t.Setenv("HOME", home)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
		settings.Dir, settings.Socket, settings.Store, settings.Trust, settings.RateLimit, settings.AutoLock, settings.LockOn, settings.Profile} {
		t.Setenv(name, "")
	}
	return home
}

// newWorld has no identity yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	return startWorld(t, newHome(t))
}

func startServer(t *testing.T) *authserver.Server {
	t.Helper()
	return authserver.Start(t, authserver.Config{
		Lifetime: 600 * time.Second,
		Clients:  []authserver.Client{{ID: "client", Secret: secret, Opaque: true}},
	})
}

func startWorld(t *testing.T, home string) *world {
	t.Helper()
	w := &world{home: home, log: &logBuffer{}, served: make(chan error, 1)}
	w.server = startServer(t)
	var err error
	w.settings, err = settings.Load(map[string]string{settings.Socket: filepath.Join(home, "run", "s")})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{w.settings.Get(settings.Dir), w.settings.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := socket.Listen(w.settings.Get(settings.Socket))
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.New(w.settings, "v-test", func() []harden.Protection {
		return []harden.Protection{{ID: "tests", Name: "tests", Active: true, Detail: "run"}}
	},
		slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		w.served <- d.Serve(ctx, l)
		close(w.served)
	}()
	w.conn, err = grpc.NewClient("unix:"+w.settings.Get(settings.Socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.conn.Close()
		cancel()
		for err := range w.served {
			if err != nil {
				t.Error(err)
			}
		}
	})
	w.tokens = tokendv1grpc.NewTokenServiceClient(w.conn)
	w.profiles = tokendv1grpc.NewProfileServiceClient(w.conn)
	w.daemon = tokendv1grpc.NewDaemonServiceClient(w.conn)
	w.health = healthpb.NewHealthClient(w.conn)
	return w
}

// newInitialized has an identity.
func newInitialized(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) init(t *testing.T, start *tokendv1.InitRequest_Start) (*tokendv1.InitResponse, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.daemon.Init(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tokendv1.InitRequest{Message: &tokendv1.InitRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("after the last event: %v", err)
	}
	return resp, nil
}

func (w *world) text(lines ...string) string {
	return "OAUTH2_TOKEN_URL=" + w.server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=" + secret + "\n" + strings.Join(lines, "\n")
}

// put writes a text and trusts it, as tokenctl would.
func (w *world) put(t *testing.T, name, text string) *tokendv1.PutProfileResponse {
	t.Helper()
	resp, err := w.profiles.PutProfile(t.Context(), putText(name, text, w.version(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	w.trust(t, resp.GetTrust().GetLine())
	return resp
}

func putText(name, text, replaces string) *tokendv1.PutProfileRequest {
	return &tokendv1.PutProfileRequest{Name: name, Content: &tokendv1.PutProfileRequest_Text{Text: []byte(text)}, Replaces: replaces}
}

func (w *world) version(t *testing.T, name string) string {
	t.Helper()
	list, err := w.profiles.ListProfiles(t.Context(), &tokendv1.ListProfilesRequest{Prefix: name})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.GetProfiles() {
		if p.GetName() == name {
			return p.GetVersion()
		}
	}
	return ""
}

// trust replaces the trust file with one that has a further line.
func (w *world) trust(t *testing.T, line string) {
	t.Helper()
	old, err := os.ReadFile(w.settings.TrustFile())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	w.writeTrust(t, string(old)+line+"\n")
}

func (w *world) writeTrust(t *testing.T, lines string) {
	t.Helper()
	file := w.settings.TrustFile()
	if err := os.WriteFile(file+".new", []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(ctx context.Context, name string) (*tokendv1.GetTokenResponse, error) {
	return w.tokens.GetToken(ctx, &tokendv1.GetTokenRequest{Profile: name})
}

func (w *world) mustGet(t *testing.T, name string) *tokendv1.GetTokenResponse {
	t.Helper()
	resp, err := w.get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A reason is all of an error that a program can see.
type reason struct {
	Code    codes.Code
	Reason  string
	Meta    map[string]string
	Message string
	Retry   time.Duration
}

func reasonOf(t *testing.T, err error) reason {
	t.Helper()
	s, ok := status.FromError(err)
	if err == nil || !ok {
		t.Fatalf("error is %v, want a status", err)
	}
	r := reason{Code: s.Code(), Message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != "tokend" {
				t.Errorf("domain is %q", d.GetDomain())
			}
			r.Reason, r.Meta = d.GetReason(), d.GetMetadata()
		case *errdetails.RetryInfo:
			r.Retry = d.GetRetryDelay().AsDuration()
		}
	}
	return r
}

// wantReason checks an error, the message only by a part of it.
func wantReason(t *testing.T, err error, code codes.Code, name, message string, meta ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", name)
		return
	}
	got := reasonOf(t, err)
	want := reason{Code: code, Reason: name, Message: got.Message, Retry: got.Retry}
	for i := 0; i < len(meta); i += 2 {
		if want.Meta == nil {
			want.Meta = make(map[string]string)
		}
		want.Meta[meta[i]] = meta[i+1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(got.Message, message) {
		t.Errorf("message is %q, want something with %q", got.Message, message)
	}
}

func TestBeforeInit(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	calls := map[string]func() error{
		"GetToken":     func() error { _, err := w.get(ctx, "a"); return err },
		"ListProfiles": func() error { _, err := w.profiles.ListProfiles(ctx, &tokendv1.ListProfilesRequest{}); return err },
		"GetProfile":   func() error { _, err := w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "a"}); return err },
		"PutProfile":   func() error { _, err := w.profiles.PutProfile(ctx, putText("a", w.text(), "")); return err },
		"DeleteProfile": func() error {
			_, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "a"})
			return err
		},
		"MoveProfile": func() error {
			_, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "a", NewName: "b"})
			return err
		},
		"RevealProfile": func() error {
			_, err := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: "a"})
			return err
		},
		"GetRecipients": func() error { _, err := w.profiles.GetRecipients(ctx, &tokendv1.GetRecipientsRequest{}); return err },
		"Logout":        func() error { _, err := w.profiles.Logout(ctx, &tokendv1.LogoutRequest{Profile: "a"}); return err },
		"Login":         func() error { _, err := w.login(t, profileStart("a"), &person{}); return err },
		"Login URL":     func() error { _, err := w.login(t, urlStart(w.server.ResourceURL), &person{}); return err },
		"Register": func() error {
			_, _, err := w.register(t, &tokendv1.RegisterRequest_Start{Url: w.server.URL + "/v1/register"}, "")
			return err
		},
		"IntrospectToken": func() error {
			_, err := w.tokens.IntrospectToken(ctx, &tokendv1.IntrospectTokenRequest{Profile: "a"})
			return err
		},
		"RevokeTokens": func() error {
			_, err := w.tokens.RevokeTokens(ctx, &tokendv1.RevokeTokensRequest{Profile: "a"})
			return err
		},
		"CreateDPoPProof": func() error {
			_, err := w.tokens.CreateDPoPProof(ctx, &tokendv1.CreateDPoPProofRequest{Profile: "a", AccessToken: "t", Method: "GET", Url: "https://api.example/"})
			return err
		},
		"ReportToken": func() error {
			_, err := w.tokens.ReportToken(ctx, &tokendv1.ReportTokenRequest{Profile: "a", AccessToken: "t"})
			return err
		},
		"ResetProfile": func() error {
			_, err := w.tokens.ResetProfile(ctx, &tokendv1.ResetProfileRequest{Profile: "a"})
			return err
		},
		"ExplainToken": func() error {
			_, err := w.tokens.ExplainToken(ctx, &tokendv1.ExplainTokenRequest{Profile: "a"})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			wantReason(t, call(), codes.FailedPrecondition, "NOT_INITIALIZED", "no identity yet")
		})
	}
	st, err := w.daemon.GetStatus(ctx, &tokendv1.GetStatusRequest{})
	if err != nil || st.GetState() != tokendv1.GetStatusResponse_STATE_NOT_INITIALIZED || st.GetRecipient() != "" {
		t.Errorf("status: %v, %v", st, err)
	}
	if _, err := w.daemon.Reload(ctx, &tokendv1.ReloadRequest{}); err != nil {
		t.Errorf("reload: %v", err)
	}
	w.wantHealth(t, healthpb.HealthCheckResponse_NOT_SERVING)
}

func (w *world) wantHealth(t *testing.T, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	resp, err := w.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "tokend.v1.TokenService"})
	if err != nil || resp.GetStatus() != want {
		t.Errorf("health of tokens is %v, %v, want %v", resp.GetStatus(), err, want)
	}
	resp, err = w.health.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health of the daemon is %v, %v", resp.GetStatus(), err)
	}
}

func TestInit(t *testing.T) {
	for name, test := range map[string]struct {
		start  *tokendv1.InitRequest_Start
		prefix string
	}{
		"x25519":       {&tokendv1.InitRequest_Start{}, "age1"},
		"post-quantum": {&tokendv1.InitRequest_Start{PostQuantum: true}, "age1pq1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			resp, err := w.init(t, test.start)
			if err != nil {
				t.Fatal(err)
			}
			created := resp.GetCreated()
			file := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")
			want := &tokendv1.InitResponse_Created{Recipient: created.GetRecipient(), IdentityFile: file, ProfilesDir: w.settings.ProfilesDir()}
			if diff := cmp.Diff(want, created, protocmp.Transform()); diff != "" || !strings.HasPrefix(created.GetRecipient(), test.prefix) {
				t.Errorf("created %v %s", created, diff)
			}
			if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o600 {
				t.Errorf("identity file: %v, %v", fi, err)
			}
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains([]byte(prototext.Format(resp)), []byte("AGE-SECRET")) {
				t.Error("the identity is in the answer")
			}
			w.wantHealth(t, healthpb.HealthCheckResponse_SERVING)
			st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
			if err != nil || st.GetState() != tokendv1.GetStatusResponse_STATE_UNLOCKED || st.GetRecipient() != created.GetRecipient() {
				t.Errorf("status: %v, %v", st, err)
			}

			_, err = w.init(t, test.start)
			wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "stays as it is: "+file)
			if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
				t.Errorf("a second init changed the identity: %v", err)
			}
			w.put(t, "a", w.text())
			w.mustGet(t, "a")
		})
	}
}

func TestInitWithoutStart(t *testing.T) {
	w := newWorld(t)
	for _, empty := range []bool{true, false} {
		stream, err := w.daemon.Init(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if empty {
			if err := stream.Send(&tokendv1.InitRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "start is required")
	}
	if _, err := os.Lstat(filepath.Join(w.settings.Get(settings.Dir), "identity.txt")); !os.IsNotExist(err) {
		t.Errorf("an identity was made: %v", err)
	}
}

// Two who call at the same time get one identity.
func TestInitRace(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	made, refused := 0, 0
	for range 10 {
		all.Go(func() {
			_, err := w.init(t, &tokendv1.InitRequest_Start{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if reasonOf(t, err).Reason == "ALREADY_EXISTS" {
				refused++
			}
		})
	}
	all.Wait()
	if made != 1 || refused != 9 {
		t.Errorf("%d made, %d refused", made, refused)
	}
}

func TestGetToken(t *testing.T) {
	w := newInitialized(t)
	put := w.put(t, "dev/network", w.text("OAUTH2_SCOPE='b a'", "API_URL=https://api.example"))
	before := time.Now()
	got := w.mustGet(t, "dev/network")
	ends := got.GetExpiresAt().AsTime()
	if left := got.GetExpiresIn().AsDuration(); left > 600*time.Second || left < 570*time.Second ||
		ends.Before(before.Add(left)) || ends.After(time.Now().Add(left)) {
		t.Errorf("expires in %v, at %v", left, ends)
	}
	if len(got.GetAccessToken()) < 20 || len(got.GetFingerprint()) != 32 {
		t.Errorf("token of %d bytes, fingerprint %q", len(got.GetAccessToken()), got.GetFingerprint())
	}
	want := &tokendv1.GetTokenResponse{
		AccessToken: got.GetAccessToken(), Fingerprint: got.GetFingerprint(), ExpiresAt: got.GetExpiresAt(), ExpiresIn: got.GetExpiresIn(),
		TokenType:      "Bearer",
		Lifetime:       durationpb.New(600 * time.Second),
		Scopes:         []string{"a", "b"},
		ApiOrigins:     []string{"https://api.example"},
		ProfileVersion: put.GetVersion(),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if again := w.mustGet(t, "dev/network"); again.GetAccessToken() != got.GetAccessToken() {
		t.Error("the second call got another token")
	}
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetCachedTokens() != 1 || st.GetProfiles() != 1 {
		t.Errorf("status: %v, %v", st, err)
	}
}

func TestTokenReasons(t *testing.T) {
	w := newInitialized(t)
	closed := authserver.Start(t, authserver.Config{})
	closed.Close()
	const down, denied = codes.Unavailable, codes.PermissionDenied
	all := t
	for name, test := range map[string]struct {
		answer authserver.Answer
		text   func() string
		code   codes.Code
		reason string
		retry  time.Duration
		meta   []string
	}{
		"invalid_client": {
			answer: authserver.Answer{EchoSecret: true}, code: denied, reason: "CLIENT_REFUSED",
			retry: 15 * time.Minute, meta: []string{"oauth_error", "invalid_client", "http_status", "401"},
		},
		"unauthorized_client": {
			answer: authserver.Answer{Status: 400, Body: `{"error":"unauthorized_client"}`}, code: denied, reason: "CLIENT_REFUSED",
			retry: 15 * time.Minute, meta: []string{"oauth_error", "unauthorized_client", "http_status", "400"},
		},
		"4xx without an OAuth error": {
			answer: authserver.Answer{Status: 403, Body: `blocked`}, code: denied, reason: "CLIENT_REFUSED",
			retry: 15 * time.Minute, meta: []string{"http_status", "403"},
		},
		"invalid_scope": {
			answer: authserver.Answer{Status: 400, Body: `{"error":"invalid_scope"}`}, code: denied, reason: "REQUEST_REFUSED",
			retry: time.Minute, meta: []string{"oauth_error", "invalid_scope", "http_status", "400"},
		},
		"200 with an error": {
			answer: authserver.Answer{Status: 200, Body: `{"error":"invalid_target"}`}, code: denied, reason: "REQUEST_REFUSED",
			retry: time.Minute, meta: []string{"oauth_error", "invalid_target", "http_status", "200"},
		},
		"429": {
			answer: authserver.Answer{Status: 429, Header: http.Header{"Retry-After": {"120"}}}, code: down, reason: "THROTTLED",
			retry: 2 * time.Minute, meta: []string{"http_status", "429"},
		},
		"429 without Retry-After": {
			answer: authserver.Answer{Status: 429}, code: down, reason: "THROTTLED", retry: time.Second, meta: []string{"http_status", "429"},
		},
		"503 with Retry-After": {
			answer: authserver.Answer{Status: 503, Header: http.Header{"Retry-After": {"60"}}}, code: down, reason: "THROTTLED",
			retry: time.Minute, meta: []string{"http_status", "503"},
		},
		"503": {
			answer: authserver.Answer{Status: 503}, code: down, reason: "PROVIDER_DOWN", retry: time.Second, meta: []string{"http_status", "503"},
		},
		"not OAuth": {
			answer: authserver.Answer{Status: 200, Body: `{"hello":"world"}`}, code: down, reason: "PROVIDER_DOWN",
			retry: time.Second, meta: []string{"http_status", "200"},
		},
		"captive portal": {
			answer: authserver.Answer{Status: 200, Body: `<html>`, Header: http.Header{"Content-Type": {"text/html"}}}, code: down, reason: "PROVIDER_DOWN",
			retry: time.Second, meta: []string{"http_status", "200"},
		},
		"reset": {
			answer: authserver.Answer{Fault: authserver.ResetBefore}, code: down, reason: "PROVIDER_DOWN", retry: time.Second,
		},
		"nothing listens": {
			text: func() string { return strings.ReplaceAll(w.text(), w.server.URL, closed.URL) }, code: down, reason: "PROVIDER_DOWN", retry: time.Second,
		},
		"no issuer there": {
			text: func() string {
				return strings.ReplaceAll(w.text(), "OAUTH2_TOKEN_URL="+w.server.TokenURL, "OAUTH2_ISSUER="+closed.Issuer)
			}, code: down, reason: "PROVIDER_DOWN",
			retry: time.Second, meta: []string{"variable", "OAUTH2_ISSUER"},
		},
		"another issuer": {
			text: func() string {
				return strings.ReplaceAll(w.text(), "OAUTH2_TOKEN_URL="+w.server.TokenURL, "OAUTH2_ISSUER="+w.server.Issuer+"/")
			}, code: codes.FailedPrecondition, reason: "PROFILE_INVALID",
			meta: []string{"variable", "OAUTH2_ISSUER", "http_status", "200"},
		},
		"a mistake in a value": {
			text: func() string {
				return "CLIENT_SECRET_FILE=/nowhere/secret\n" + strings.Replace(w.text(), "CLIENT_SECRET=", "X=", 1)
			},
			code: codes.FailedPrecondition, reason: "PROFILE_INVALID", meta: []string{"line", "1", "variable", "CLIENT_SECRET_FILE"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.server = startServer(all) // what one row's server is left alone for, no other is to feel
			if test.text == nil {
				w.server.AnyClient().Then(test.answer)
				w.put(t, "dev/network", w.text())
			} else {
				w.put(t, "dev/network", test.text())
			}
			_, err := w.get(t.Context(), "dev/network")
			wantReason(t, err, test.code, test.reason, "", append(test.meta, "profile", "dev/network")...)
			// A back-off has up to half of it as jitter.
			got := reasonOf(t, err)
			if got.Retry > test.retry*3/2 || got.Retry <= test.retry-30*time.Second && test.retry > time.Second || test.retry > 0 && got.Retry == 0 {
				t.Errorf("to be tried again after %v, want %v", got.Retry, test.retry)
			}
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
}

func TestMinValidUnmet(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "dev/network", w.text())
	r := &tokendv1.GetTokenRequest{Profile: "dev/network", MinValid: durationpb.New(time.Hour)}
	for range 2 {
		_, err := w.tokens.GetToken(t.Context(), r)
		wantReason(t, err, codes.OutOfRange, "MIN_VALID_UNMET", "provider grants 10m0s", "profile", "dev/network", "lifetime", "600")
	}
	r.BestEffort = true
	if got, err := w.tokens.GetToken(t.Context(), r); err != nil || !got.GetDegraded() || got.GetWarning() == "" {
		t.Errorf("best effort: %v, %v", got, err)
	}
	if n := w.server.Count("/token"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestTokenRequestInvalid(t *testing.T) {
	w := newInitialized(t)
	for name, test := range map[string]struct {
		request *tokendv1.GetTokenRequest
		message string
	}{
		"no profile":        {&tokendv1.GetTokenRequest{}, "profile: "},
		"traversal":         {&tokendv1.GetTokenRequest{Profile: "../x"}, "profile: "},
		"empty scope":       {&tokendv1.GetTokenRequest{Profile: "a", Scopes: []string{""}}, "scopes: "},
		"two in one":        {&tokendv1.GetTokenRequest{Profile: "a", Scopes: []string{"a b"}}, "scopes: "},
		"too many scopes":   {&tokendv1.GetTokenRequest{Profile: "a", Scopes: slices.Repeat([]string{"s"}, 129)}, "scopes: too many"},
		"too long":          {&tokendv1.GetTokenRequest{Profile: "a", Audience: strings.Repeat("a", 4097)}, "scopes: with audience"},
		"audience":          {&tokendv1.GetTokenRequest{Profile: "a", Audience: "a\nb"}, "audience: "},
		"resource":          {&tokendv1.GetTokenRequest{Profile: "a", Resource: "https://a.example/#f"}, "resource: "},
		"negative":          {&tokendv1.GetTokenRequest{Profile: "a", MinValid: durationpb.New(-1)}, "min_valid: "},
		"more than a year":  {&tokendv1.GetTokenRequest{Profile: "a", MinValid: durationpb.New(367 * 24 * time.Hour)}, "min_valid: "},
		"no such duration":  {&tokendv1.GetTokenRequest{Profile: "a", MinValid: &durationpb.Duration{Seconds: 1, Nanos: -1}}, "min_valid: "},
		"far out of bounds": {&tokendv1.GetTokenRequest{Profile: "a", MinValid: &durationpb.Duration{Seconds: 1 << 62}}, "min_valid: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.tokens.GetToken(t.Context(), test.request)
			wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", test.message)
		})
	}
}

func TestProfileRequestInvalid(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	w.put(t, "a", w.text())
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "/a"})
			return err
		},
		"put":         func() error { _, err := w.profiles.PutProfile(ctx, putText("a.env", w.text(), "")); return err },
		"put nothing": func() error { _, err := w.profiles.PutProfile(ctx, &tokendv1.PutProfileRequest{Name: "b"}); return err },
		"delete": func() error {
			_, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: ""})
			return err
		},
		"move": func() error {
			_, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "a", NewName: "b/"})
			return err
		},
		"move from": func() error {
			_, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "", NewName: "b"})
			return err
		},
		"reveal": func() error {
			_, err := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: "."})
			return err
		},
		"reveal form": func() error {
			_, err := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: "a", Form: 9})
			return err
		},
		"recipients": func() error {
			_, err := w.profiles.GetRecipients(ctx, &tokendv1.GetRecipientsRequest{Folder: "../.."})
			return err
		},
		"page size": func() error {
			_, err := w.profiles.ListProfiles(ctx, &tokendv1.ListProfilesRequest{PageSize: 501})
			return err
		},
		"negative page": func() error {
			_, err := w.profiles.ListProfiles(ctx, &tokendv1.ListProfilesRequest{PageSize: -1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, call(), codes.InvalidArgument, "REQUEST_INVALID", "")
		})
	}
}

func TestProfileNotFound(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	w.put(t, "dev/network", w.text())
	for name, call := range map[string]func(string) error{
		"token": func(p string) error { _, err := w.get(ctx, p); return err },
		"get": func(p string) error {
			_, err := w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: p})
			return err
		},
		"delete": func(p string) error {
			_, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: p})
			return err
		},
		"move": func(p string) error {
			_, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: p, NewName: "b"})
			return err
		},
		"reveal": func(p string) error {
			_, err := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: p})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, call("dev/netwrok"), codes.NotFound, "PROFILE_NOT_FOUND", "no such profile", "profile", "dev/netwrok", "suggestion", "dev/network")
			wantReason(t, call("quite/another"), codes.NotFound, "PROFILE_NOT_FOUND", "no such profile", "profile", "quite/another")
		})
	}
	_, err := w.profiles.GetRecipients(ctx, &tokendv1.GetRecipientsRequest{Folder: "dev"})
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "no .age-recipients", "folder", "dev/")
}

func TestPutInvalid(t *testing.T) {
	w := newInitialized(t)
	_, err := w.profiles.PutProfile(t.Context(), putText("a", w.text("OAUTH2_SCOPPE=x"), ""))
	wantReason(t, err, codes.FailedPrecondition, "PROFILE_INVALID", "OAUTH2_SCOPE", "profile", "a", "line", "4", "variable", "OAUTH2_SCOPPE")
	if v := w.version(t, "a"); v != "" {
		t.Error("it was written all the same")
	}
	// A text with thousands of mistakes has an error that still fits a header.
	var lines strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&lines, "OAUTH2_NO_%d=1\n", i)
	}
	_, err = w.profiles.PutProfile(t.Context(), putText("a", lines.String(), ""))
	wantReason(t, err, codes.FailedPrecondition, "PROFILE_INVALID", "line 1: ", "profile", "a", "line", "1", "variable", "OAUTH2_NO_0")
	if n := len(reasonOf(t, err).Message); n > 2100 {
		t.Errorf("message of %d bytes", n)
	}
}

func TestPutVariables(t *testing.T) {
	w := newInitialized(t)
	vars := &tokendv1.Variables{Variables: []*tokendv1.Variable{
		{Name: "OAUTH2_TOKEN_URL", Value: w.server.TokenURL},
		{Name: "CLIENT_ID", Value: "client"},
		{Name: "CLIENT_SECRET", Value: "it's $(not) a `shell`"},
		{Name: "OTHER", Value: "two\nlines"},
	}}
	_, err := w.profiles.PutProfile(t.Context(), &tokendv1.PutProfileRequest{Name: "a", Content: &tokendv1.PutProfileRequest_Variables{Variables: vars}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a", Form: tokendv1.RevealProfileRequest_FORM_VARIABLES})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(vars, got.GetVariables(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestReveal(t *testing.T) {
	w := newInitialized(t)
	text := "# a comment\n\n" + w.text("A=1", "export B='two words'", "A=3")
	put := w.put(t, "a", text)
	got, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a"})
	want := &tokendv1.RevealProfileResponse{Version: put.GetVersion(), Content: &tokendv1.RevealProfileResponse_Text{Text: []byte(text)}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
		t.Error(diff, err)
	}
	got, err = w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a", Form: tokendv1.RevealProfileRequest_FORM_VARIABLES})
	vars := []*tokendv1.Variable{
		{Name: "OAUTH2_TOKEN_URL", Value: w.server.TokenURL}, {Name: "CLIENT_ID", Value: "client"}, {Name: "CLIENT_SECRET", Value: secret},
		{Name: "A", Value: "3"}, {Name: "B", Value: "two words"},
	}
	want = &tokendv1.RevealProfileResponse{Version: put.GetVersion(), Content: &tokendv1.RevealProfileResponse_Variables{Variables: &tokendv1.Variables{Variables: vars}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if !strings.Contains(w.log.String(), "profile revealed") {
		t.Error("that is not logged")
	}
}

func TestGetProfileIsMasked(t *testing.T) {
	w := newInitialized(t)
	text := w.text("# CANARY-comment", "OTHER=CANARY-other", "OAUTH2_EXTRA_hint=CANARY-extra", "OAUTH2_SCOPE=read")
	put := w.put(t, "a", text)
	got, err := w.profiles.GetProfile(t.Context(), &tokendv1.GetProfileRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := &tokendv1.GetProfileResponse{
		Name: "a", Version: put.GetVersion(),
		MaskedText: "OAUTH2_TOKEN_URL=" + w.server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=********\nOTHER=********\nOAUTH2_EXTRA_hint=********\nOAUTH2_SCOPE=read\n",
		Trust:      &tokendv1.Trust{Trusted: true, Line: put.GetTrust().GetLine(), File: w.settings.TrustFile()},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// Other programs can put a file there that is no good; showing it says why.
func TestGetProfileWithMistakes(t *testing.T) {
	w := newInitialized(t)
	id, err := store.LoadIdentity(filepath.Join(w.settings.Get(settings.Dir), "identity.txt"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := store.OpenAge(filepath.Join(w.home, "elsewhere"), func(string, []byte) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Unlock(id)
	for name, test := range map[string]struct {
		text     string
		masked   string
		mistakes []*tokendv1.Mistake
	}{
		"meaning": {
			"CLIENT_ID=client\nCLIENT_SECRET=" + secret + "\n", "CLIENT_ID=client\nCLIENT_SECRET=********\n",
			[]*tokendv1.Mistake{{Message: "no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL"}},
		},
		"grammar": {
			"CLIENT_SECRET='" + secret, "",
			[]*tokendv1.Mistake{{Line: 1, Variable: "CLIENT_SECRET"}},
		},
	} {
		if _, err := elsewhere.Put(t.Context(), name, []byte(test.text), ""); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(w.home, "elsewhere", name+".env.age"), filepath.Join(w.settings.ProfilesDir(), name+".env.age")); err != nil {
			t.Fatal(err)
		}
		got, err := w.profiles.GetProfile(t.Context(), &tokendv1.GetProfileRequest{Name: name})
		if err != nil || got.GetMaskedText() != test.masked {
			t.Errorf("%s: masked text %q, %v", name, got.GetMaskedText(), err)
		}
		if diff := cmp.Diff(test.mistakes, got.GetMistakes(), protocmp.Transform(), cmp.FilterPath(func(p cmp.Path) bool {
			return name == "grammar" && p.Last().String() == `["message"]`
		}, cmp.Ignore())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		w.trust(t, got.GetTrust().GetLine())
		_, err = w.get(t.Context(), name)
		if r := reasonOf(t, err); r.Reason != "PROFILE_INVALID" {
			t.Errorf("%s: token: %v", name, r)
		}
	}
}

// An answer must not be larger than clients take, and never be cut where a
// person would trust what he has not seen.
func TestTooLargeToShow(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text(strings.Repeat("A=x\n", 11000)))
	_, err := w.profiles.GetProfile(t.Context(), &tokendv1.GetProfileRequest{Name: "a"})
	wantReason(t, err, codes.FailedPrecondition, "PROFILE_INVALID", "larger than an answer may be")
	if _, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "a"}); err != nil {
		t.Error(err)
	}
}

func TestListPages(t *testing.T) {
	w := newInitialized(t)
	versions := make(map[string]string)
	for _, name := range []string{"b", "dev", "dev-ops", "dev/a", "dev/b/c", "devops", "z"} {
		versions[name] = w.put(t, name, w.text()).GetVersion()
	}
	list := func(r *tokendv1.ListProfilesRequest) (names []string, next string) {
		t.Helper()
		resp, err := w.profiles.ListProfiles(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.GetProfiles() {
			if p.GetVersion() != versions[p.GetName()] {
				t.Errorf("%s has version %q, want %q", p.GetName(), p.GetVersion(), versions[p.GetName()])
			}
			names = append(names, p.GetName())
		}
		return names, resp.GetNextPageToken()
	}
	for _, test := range []struct {
		request *tokendv1.ListProfilesRequest
		names   []string
		next    string
	}{
		{&tokendv1.ListProfilesRequest{}, []string{"b", "dev", "dev-ops", "dev/a", "dev/b/c", "devops", "z"}, ""},
		{&tokendv1.ListProfilesRequest{PageSize: 3}, []string{"b", "dev", "dev-ops"}, "dev-ops"},
		{&tokendv1.ListProfilesRequest{PageSize: 3, PageToken: "dev-ops"}, []string{"dev/a", "dev/b/c", "devops"}, "devops"},
		{&tokendv1.ListProfilesRequest{PageSize: 3, PageToken: "devops"}, []string{"z"}, ""},
		{&tokendv1.ListProfilesRequest{PageSize: 7}, []string{"b", "dev", "dev-ops", "dev/a", "dev/b/c", "devops", "z"}, ""},
		{&tokendv1.ListProfilesRequest{PageSize: 500, PageToken: "nobody"}, []string{"z"}, ""},
		{&tokendv1.ListProfilesRequest{PageToken: "zz"}, nil, ""},
		{&tokendv1.ListProfilesRequest{Prefix: "dev"}, []string{"dev", "dev/a", "dev/b/c"}, ""},
		{&tokendv1.ListProfilesRequest{Prefix: "dev/"}, []string{"dev", "dev/a", "dev/b/c"}, ""},
		{&tokendv1.ListProfilesRequest{Prefix: "dev/b"}, []string{"dev/b/c"}, ""},
		{&tokendv1.ListProfilesRequest{Prefix: "de"}, nil, ""},
		{&tokendv1.ListProfilesRequest{Prefix: "dev", PageSize: 1, PageToken: "dev"}, []string{"dev/a"}, "dev/a"},
	} {
		names, next := list(test.request)
		if !slices.Equal(names, test.names) || next != test.next {
			t.Errorf("%v: %v, next %q", test.request, names, next)
		}
	}
}

// The longest names would make a page that no client takes.
func TestListPagesAreBounded(t *testing.T) {
	w := newInitialized(t)
	folder := strings.Repeat(strings.Repeat("n", 64)+"/", 7)
	const n = 130
	for i := range n {
		if _, err := w.profiles.PutProfile(t.Context(), putText(folder+fmt.Sprintf("%064d", i), w.text(), "")); err != nil {
			t.Fatal(err)
		}
	}
	seen, pages, token := 0, 0, ""
	for {
		resp, err := w.profiles.ListProfiles(t.Context(), &tokendv1.ListProfilesRequest{PageSize: 500, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		seen += len(resp.GetProfiles())
		pages++
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if seen != n || pages != 2 {
		t.Errorf("%d names on %d pages", seen, pages)
	}
}

func TestCompareAndSwap(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	first := w.put(t, "a", w.text())

	_, err := w.profiles.PutProfile(ctx, putText("a", w.text("A=1"), ""))
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "it exists already", "profile", "a")
	_, err = w.profiles.PutProfile(ctx, putText("A", w.text(), ""))
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "in nothing but case", "profile", "A", "suggestion", "a")
	_, err = w.profiles.PutProfile(ctx, putText("b", w.text(), first.GetVersion()))
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "nothing was written", "profile", "b")

	second := w.put(t, "a", w.text("A=2"))
	_, err = w.profiles.PutProfile(ctx, putText("a", w.text("A=3"), first.GetVersion()))
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "nothing was written", "profile", "a")
	_, err = w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "a", Version: first.GetVersion()})
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "", "profile", "a")
	if v := w.version(t, "a"); v != second.GetVersion() {
		t.Errorf("version is %q, want %q", v, second.GetVersion())
	}
	if _, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "a", Version: second.GetVersion()}); err != nil {
		t.Fatal(err)
	}
	w.put(t, "a", w.text())
	if _, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if v := w.version(t, "a"); v != "" {
		t.Error("it is still there")
	}
}

// Of many who replace one version, one wins and nothing is lost.
func TestCompareAndSwapRace(t *testing.T) {
	w := newInitialized(t)
	base := w.put(t, "a", w.text()).GetVersion()
	var all sync.WaitGroup
	won := make(chan string, 10)
	for i := range 10 {
		all.Go(func() {
			resp, err := w.profiles.PutProfile(t.Context(), putText("a", w.text(fmt.Sprintf("A=%d", i)), base))
			if err == nil {
				won <- resp.GetVersion()
			} else if r := reasonOf(t, err); r.Reason != "VERSION_CHANGED" {
				t.Errorf("a loser got %v", r)
			}
		})
	}
	all.Wait()
	close(won)
	if v := w.version(t, "a"); len(won) != 1 || v != <-won {
		t.Errorf("%d winners, version %q", len(won), v)
	}
}

func TestEditAndDeleteEndTokens(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text("OAUTH2_SCOPE=read"))
	first := w.mustGet(t, "a")
	second := w.put(t, "a", w.text("OAUTH2_SCOPE=write"))
	got := w.mustGet(t, "a")
	if got.GetAccessToken() == first.GetAccessToken() || got.GetProfileVersion() != second.GetVersion() || !slices.Equal(got.GetScopes(), []string{"write"}) {
		t.Error("the old text's token")
	}
	if _, err := w.profiles.DeleteProfile(t.Context(), &tokendv1.DeleteProfileRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	_, err := w.get(t.Context(), "a")
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "", "profile", "a")
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetCachedTokens() != 0 {
		t.Errorf("%d tokens kept, %v", st.GetCachedTokens(), err)
	}
}

func TestMove(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	move := func(from, to string) (*tokendv1.MoveProfileResponse, error) {
		return w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: from, NewName: to})
	}
	text := w.text("# kept")
	w.put(t, "a", text)
	w.put(t, "other", w.text())
	first := w.mustGet(t, "a")

	_, err := move("a", "other")
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "", "profile", "other")
	_, err = move("a", "a")
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "", "profile", "a")
	_, err = move("a", "OTHER")
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "in nothing but case", "profile", "OTHER", "suggestion", "other")

	moved, err := move("a", "dev/b")
	if err != nil {
		t.Fatal(err)
	}
	if !moved.GetWasTrusted() || moved.GetTrust().GetTrusted() || moved.GetVersion() != w.version(t, "dev/b") {
		t.Errorf("moved: %v", moved)
	}
	got, err := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: "dev/b"})
	if err != nil || string(got.GetText()) != text {
		t.Errorf("the text is now %q, %v", got.GetText(), err)
	}
	_, err = w.get(ctx, "a")
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "", "profile", "a")
	// A line of trust is good for one name only.
	_, err = w.get(ctx, "dev/b")
	wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "has not been trusted", "profile", "dev/b")
	w.trust(t, moved.GetTrust().GetLine())
	if got := w.mustGet(t, "dev/b"); got.GetAccessToken() == first.GetAccessToken() {
		t.Error("the old name's token")
	}
	untrusted, err := w.profiles.PutProfile(ctx, putText("c", w.text(), ""))
	if err != nil || untrusted.GetTrust().GetTrusted() {
		t.Fatalf("put: %v, %v", untrusted, err)
	}
	if moved, err := move("c", "d"); err != nil || moved.GetWasTrusted() {
		t.Errorf("moved: %v, %v", moved, err)
	}
}

// A text that changes while it is moved is there once, and is the newer one.
func TestMoveRace(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	for round := range 60 {
		from, to := fmt.Sprintf("from%d", round), fmt.Sprintf("to%d", round)
		version := w.put(t, from, w.text("A=old")).GetVersion()
		var both sync.WaitGroup
		var moved, edited error
		both.Go(func() { _, edited = w.profiles.PutProfile(ctx, putText(from, w.text("A=new"), version)) })
		both.Go(func() {
			_, moved = w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: from, NewName: to})
		})
		both.Wait()
		old, now := w.version(t, from), w.version(t, to)
		switch {
		case moved == nil && old == "" && now != "":
		case moved != nil && reasonOf(t, moved).Reason == "VERSION_CHANGED" && edited == nil && old != "" && now == "":
		default:
			t.Fatalf("move: %v, edit: %v, old name: %q, new name: %q", moved, edited, old, now)
		}
	}
}

func TestTrust(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	resp, err := w.profiles.PutProfile(ctx, putText("a", w.text(), ""))
	if err != nil {
		t.Fatal(err)
	}
	line := resp.GetTrust().GetLine()
	if name, hash, ok := strings.Cut(line, " "); !ok || name != "a" || len(hash) != 64 || resp.GetTrust().GetFile() != w.settings.TrustFile() {
		t.Fatalf("trust: %v", resp.GetTrust())
	}
	_, hash, _ := strings.Cut(line, " ")
	other, err := w.profiles.PutProfile(ctx, putText("b", w.text(), ""))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(other.GetTrust().GetLine(), hash) {
		t.Error("two names have the same hash")
	}

	untrusted := func(why string) {
		t.Helper()
		t.Log(why)
		_, err := w.get(ctx, "a")
		wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "", "profile", "a")
		if got, err := w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "a"}); err != nil || got.GetTrust().GetTrusted() || got.GetMaskedText() == "" {
			t.Errorf("it cannot be shown: %v, %v", got, err)
		}
	}
	untrusted("no file")
	w.writeTrust(t, "")
	untrusted("empty file")
	w.writeTrust(t, "a\na \nb "+hash+"\naa "+hash+"\na/ "+hash+"\n"+strings.TrimPrefix(other.GetTrust().GetLine(), "b")+"\n")
	untrusted("other names' lines")
	w.writeTrust(t, "a "+strings.Repeat("0", 64)+"\n")
	untrusted("another hash")
	w.writeTrust(t, line+"\na "+strings.Repeat("0", 64)+"\n")
	untrusted("a later line")
	w.writeTrust(t, "a "+strings.ToUpper(hash)+"\n")
	untrusted("another form of the hash")
	if n := w.server.Count("/token"); n != 0 {
		t.Errorf("%d requests for an untrusted text", n)
	}
	w.writeTrust(t, "a "+strings.Repeat("0", 64)+"\n"+line) // without a newline at the end
	w.mustGet(t, "a")

	if _, err := w.profiles.PutProfile(ctx, putText("a", w.text("# changed"), resp.GetVersion())); err != nil {
		t.Fatal(err)
	}
	untrusted("a changed text")
	back, err := w.profiles.PutProfile(ctx, putText("a", w.text(), w.version(t, "a")))
	if err != nil || !back.GetTrust().GetTrusted() || back.GetTrust().GetLine() != line {
		t.Errorf("the trusted text put again: %v, %v", back, err)
	}
}

func TestTrustFileOfOthers(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	put := w.put(t, "a", w.text())
	file := w.settings.TrustFile()
	unavailable := func() {
		t.Helper()
		_, err := w.get(ctx, "a")
		wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "trust", "profile", "a")
		_, err = w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "a"})
		wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "trust")
		// What cannot be answered for is not done either.
		_, err = w.profiles.PutProfile(ctx, putText("a", w.text("A=1"), put.GetVersion()))
		wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "trust")
		_, err = w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "a", NewName: "b"})
		wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "trust")
		if w.version(t, "a") != put.GetVersion() || w.version(t, "b") != "" {
			t.Error("something was written")
		}
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o640, 0o604} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		unavailable()
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}

	real := file + ".real"
	if err := os.Rename(file, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, file); err != nil {
		t.Fatal(err)
	}
	unavailable()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	unavailable()
	if err := os.Rename(real, file); err != nil {
		t.Fatal(err)
	}
	w.mustGet(t, "a")
}

func (w *world) reload(t *testing.T) *tokendv1.ReloadResponse {
	t.Helper()
	resp, err := w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestTrustAll(t *testing.T) {
	home := newHome(t)
	t.Setenv(settings.Trust, "all")
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	resp, err := w.profiles.PutProfile(t.Context(), putText("a", w.text(), ""))
	if err != nil || !resp.GetTrust().GetTrusted() {
		t.Errorf("put: %v, %v", resp, err)
	}
	w.mustGet(t, "a")
	if _, err := os.Lstat(w.settings.TrustFile()); !os.IsNotExist(err) {
		t.Errorf("the daemon made a trust file: %v", err)
	}
}

func TestRecipientsMustBeTrusted(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	st, err := w.daemon.GetStatus(ctx, &tokendv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ folder, profile string }{{"team", "team/a"}, {"", "b"}} {
		dir := filepath.Join(w.settings.ProfilesDir(), test.folder)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		lines := "# us\n" + st.GetRecipient() + "\n"
		if err := os.WriteFile(filepath.Join(dir, ".age-recipients"), []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = w.profiles.PutProfile(ctx, putText(test.profile, w.text(), ""))
		wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "folder "+test.folder+"/", "profile", test.profile, "folder", test.folder+"/")
		got, err := w.profiles.GetRecipients(ctx, &tokendv1.GetRecipientsRequest{Folder: test.folder})
		if err != nil || string(got.GetText()) != lines || got.GetTrust().GetTrusted() || !strings.HasPrefix(got.GetTrust().GetLine(), test.folder+"/ ") {
			t.Fatalf("recipients: %v, %v", got, err)
		}
		w.trust(t, got.GetTrust().GetLine())
		w.put(t, test.profile, w.text())
		w.mustGet(t, test.profile)
	}
}

func TestDirHeader(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	dir := w.settings.Get(settings.Dir)
	link := filepath.Join(w.home, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	with := func(dir string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "tokend-dir", dir)
	}
	for _, same := range []string{dir, link, dir + "/."} {
		if _, err := w.get(with(same), "a"); err != nil {
			t.Errorf("%s: %v", same, err)
		}
	}
	for _, other := range []string{w.home, "/nowhere", ""} {
		_, err := w.get(with(other), "a")
		wantReason(t, err, codes.FailedPrecondition, "SETTINGS_INVALID", "serves TOKEND_DIR "+dir)
		_, err = w.health.Check(with(other), &healthpb.HealthCheckRequest{})
		wantReason(t, err, codes.FailedPrecondition, "SETTINGS_INVALID", "")
		stream, err := w.daemon.Init(with(other))
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, codes.FailedPrecondition, "SETTINGS_INVALID", "")
		tokens, err := w.tokens.WatchToken(with(other), watching("a"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = tokens.Recv()
		wantReason(t, err, codes.FailedPrecondition, "SETTINGS_INVALID", "serves TOKEND_DIR "+dir)
		events, err := w.daemon.WatchEvents(with(other), &tokendv1.WatchEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = events.Recv()
		wantReason(t, err, codes.FailedPrecondition, "SETTINGS_INVALID", "serves TOKEND_DIR "+dir)
		if st, err := w.daemon.GetStatus(with(other), &tokendv1.GetStatusRequest{}); err != nil || st.GetPid() != int64(os.Getpid()) {
			t.Errorf("status: %v, %v", st, err)
		}
	}
	if _, err := w.daemon.Stop(with("/nowhere"), &tokendv1.StopRequest{}); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestReloadIdentity(t *testing.T) {
	w := newInitialized(t)
	ctx := t.Context()
	w.put(t, "a", w.text())
	first := w.mustGet(t, "a")
	file := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")

	// Put aside: nothing works, and nothing is kept.
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	_, err := w.get(ctx, "a")
	wantReason(t, err, codes.FailedPrecondition, "NOT_INITIALIZED", "")
	w.wantHealth(t, healthpb.HealthCheckResponse_NOT_SERVING)
	st, err := w.daemon.GetStatus(ctx, &tokendv1.GetStatusRequest{})
	if err != nil || st.GetState() != tokendv1.GetStatusResponse_STATE_NOT_INITIALIZED || st.GetCachedTokens() != 0 {
		t.Errorf("status: %v, %v", st, err)
	}

	// Another one: it opens none of the texts, so there is no token for them.
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	w.wantHealth(t, healthpb.HealthCheckResponse_SERVING)
	_, err = w.get(ctx, "a")
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "encrypted to somebody else", "profile", "a")
	w.put(t, "b", w.text())
	w.mustGet(t, "b")

	// Back again, without a time in between in which there was none.
	if err := os.Rename(file+".old", file); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	_, err = w.get(ctx, "b")
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "encrypted to somebody else", "profile", "b")
	if got := w.mustGet(t, "a"); got.GetAccessToken() == first.GetAccessToken() {
		t.Error("the token outlived its identity")
	}

	// The same one again: nothing is lost.
	n := w.server.Count("/token")
	w.reload(t)
	w.mustGet(t, "a")
	if w.server.Count("/token") != n {
		t.Error("a reload that changes nothing lost the tokens")
	}

	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = w.daemon.Reload(ctx, &tokendv1.ReloadRequest{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "")
	_, err = w.get(ctx, "a")
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "")
	w.wantHealth(t, healthpb.HealthCheckResponse_NOT_SERVING)
	st, err = w.daemon.GetStatus(ctx, &tokendv1.GetStatusRequest{})
	if err != nil || st.GetState() != tokendv1.GetStatusResponse_STATE_STORE_UNAVAILABLE || st.GetProblem() == "" {
		t.Errorf("status: %v, %v", st, err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	w.mustGet(t, "a")
}

func TestReloadSettings(t *testing.T) {
	w := newInitialized(t)
	if got := w.reload(t); len(got.GetNeedsRestart()) != 0 {
		t.Errorf("nothing has changed: %v", got)
	}
	config := filepath.Join(w.home, ".config", "tokend", "config")
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	// The socket was given by flag, and stays.
	if err := os.WriteFile(config, []byte("TOKEND_TRUST=all\nTOKEND_SOCKET=/elsewhere/s\nTOKEND_DIR=~/other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := w.reload(t).GetNeedsRestart(), []string{settings.Dir, settings.Trust}; !slices.Equal(got, want) {
		t.Errorf("%v need a restart, want %v", got, want)
	}
	if err := os.WriteFile(config, []byte("TOKEND_TRUST=some\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	wantReason(t, err, codes.FailedPrecondition, "SETTINGS_INVALID", "TOKEND_TRUST")
}

// A store that cannot be opened is each call's error, and not the end.
func TestStoreUnavailable(t *testing.T) {
	home := newHome(t)
	profiles := filepath.Join(home, ".local", "share", "tokend", "profiles")
	if err := os.MkdirAll(filepath.Dir(profiles), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(profiles, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := startWorld(t, home)
	_, err := w.get(t.Context(), "a")
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "")
	_, err = w.init(t, &tokendv1.InitRequest_Start{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "")
	w.wantHealth(t, healthpb.HealthCheckResponse_NOT_SERVING)
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetState() != tokendv1.GetStatusResponse_STATE_STORE_UNAVAILABLE || st.GetProblem() == "" {
		t.Errorf("status: %v, %v", st, err)
	}
	if err := os.Remove(profiles); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
}

func TestStatus(t *testing.T) {
	w := newInitialized(t)
	got, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &tokendv1.GetStatusResponse{
		State: tokendv1.GetStatusResponse_STATE_UNLOCKED, Pid: int64(os.Getpid()), Version: "v-test", StartedAt: got.GetStartedAt(),
		Socket: filepath.Join(w.home, "run", "s"), Store: "age",
		ProfilesDir: filepath.Join(w.home, ".local/share/tokend/profiles"), SessionsDir: filepath.Join(w.home, ".local/state/tokend/sessions"),
		TrustFile: filepath.Join(w.home, ".local/state/tokend/trusted"), IdentityFile: filepath.Join(w.home, ".local/share/tokend/identity.txt"),
		Recipient: got.GetRecipient(), Connections: 1, Goroutines: got.GetGoroutines(),
		Settings: []*tokendv1.Setting{
			{Name: "TOKEND_DIR", Value: filepath.Join(w.home, ".local/share/tokend"), Source: "default"},
			{Name: "TOKEND_SOCKET", Value: filepath.Join(w.home, "run", "s"), Source: "flag"},
			{Name: "TOKEND_STORE", Value: "age", Source: "default"},
			{Name: "TOKEND_TRUST", Value: "file", Source: "default"},
			{Name: "TOKEND_RATE_LIMIT", Value: "20", Source: "default"},
			{Name: "TOKEND_AUTO_LOCK", Value: "off", Source: "default"},
			{Name: "TOKEND_LOCK_ON", Value: "auto", Source: "default"},
		},
		IdentityProtection: "none", ConfigFile: w.settings.ConfigFile,
		Protections: []*tokendv1.Protection{{Id: "tests", Name: "tests", Active: true, Detail: "run"}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if n := int(got.GetGoroutines()); n < 5 || n > runtime.NumGoroutine()+50 {
		t.Errorf("%d goroutines", n)
	}
	if age := time.Since(got.GetStartedAt().AsTime()); age < 0 || age > time.Minute {
		t.Errorf("started %v ago", age)
	}
}

func TestMessageTooLarge(t *testing.T) {
	w := newInitialized(t)
	_, err := w.profiles.PutProfile(t.Context(), putText("a", strings.Repeat("#", 64<<10), ""))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of more than 64 KiB: %v", err)
	}
	_, err = w.profiles.PutProfile(t.Context(), putText("a", w.text(strings.Repeat("#", 48<<10)), ""))
	wantReason(t, err, codes.FailedPrecondition, "PROFILE_INVALID", "at most 49152 are allowed", "profile", "a")
	if v := w.version(t, "a"); v != "" {
		t.Error("it was written")
	}
}

func TestDeadline(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	w.server.AnyClient().Then(authserver.Answer{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := w.get(ctx, "a"); status.Code(err) != codes.DeadlineExceeded && reasonOf(t, err).Reason != "PROVIDER_DOWN" {
		t.Errorf("error is %v", err)
	}
	w.server.Release()
	w.mustGet(t, "a")
	if n := w.server.Count("/token"); n != 1 {
		t.Errorf("%d requests, want the one that was begun", n)
	}
}

func TestStop(t *testing.T) {
	w := newInitialized(t)
	resp, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{})
	if err != nil || resp.GetPid() != int64(os.Getpid()) {
		t.Fatalf("stop: %v, %v", resp, err)
	}
	if err := <-w.served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := os.Lstat(w.settings.Get(settings.Socket)); !os.IsNotExist(err) {
		t.Errorf("the socket: %v", err)
	}
}

// A call that is under way is answered before the daemon ends.
func TestStopWaitsForCalls(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	w.server.AnyClient().Then(authserver.Answer{Hang: true})
	got := make(chan error)
	go func() {
		_, err := w.get(context.Background(), "a")
		got <- err
	}()
	if err := w.server.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	w.server.Release()
	if err := <-got; err != nil {
		t.Errorf("the call got %v", err)
	}
	if err := <-w.served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// Connections that send no preface are closed, so that nobody's 64 slots can be
// held for nothing.
func TestSilentConnectionIsClosed(t *testing.T) {
	w := newWorld(t)
	c, err := net.Dial("unix", w.settings.Get(settings.Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it is still open")
	}
}

func TestStopEndsWatchers(t *testing.T) {
	w := startWorld(t, t.TempDir())
	watch, err := w.health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("the watcher's stream ended after %v", waited)
	}
}
