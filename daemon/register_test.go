package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/test/authserver"
)

const password = "CANARY-password \"é"

func registerStart(start *tokendv1.RegisterRequest_Start) *tokendv1.RegisterRequest {
	return &tokendv1.RegisterRequest{Message: &tokendv1.RegisterRequest_Start_{Start: start}}
}

func registerUser(name, password string) *tokendv1.RegisterRequest {
	return &tokendv1.RegisterRequest{Message: &tokendv1.RegisterRequest_User_{User: &tokendv1.RegisterRequest_User{Name: name, Password: password}}}
}

// register registers alice, with a password.
func (w *world) register(t *testing.T, start *tokendv1.RegisterRequest_Start, password string) (needed *tokendv1.RegisterResponse_UserNeeded, done *tokendv1.RegisterResponse_Done, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := w.profiles.Register(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(registerStart(start)); err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return needed, done, nil
		}
		if err != nil {
			return needed, done, err
		}
		switch {
		case resp.GetUserNeeded() != nil:
			needed = resp.GetUserNeeded()
			if err := stream.Send(registerUser("alice", password)); err != nil {
				t.Fatal(err)
			}
		case resp.GetDone() != nil:
			done = resp.GetDone()
		}
	}
}

// signUp is a server that registers alice.
func signUp(t *testing.T) *authserver.Server {
	t.Helper()
	return authserver.Start(t, authserver.Config{Path: "/v1/oauth", Users: map[string]string{"alice": password}})
}

func TestRegister(t *testing.T) {
	w := newInitialized(t)
	server := authserver.Start(t, authserver.Config{Users: map[string]string{"alice": password}})
	at := server.URL + "/v1/register"
	host := strings.ReplaceAll(strings.TrimPrefix(server.URL, "http://"), ":", "-")

	needed, done, err := w.register(t, &tokendv1.RegisterRequest_Start{Url: at, TokenUrl: server.TokenURL}, password)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&tokendv1.RegisterResponse_UserNeeded{Url: at, Profile: host, TokenUrl: server.TokenURL}, needed, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	trust := done.GetTrust()
	if done.GetProfile() != host || done.GetClientId() == "" || done.GetVersion() != w.version(t, host) || trust.GetTrusted() || trust.GetFile() != w.settings.TrustFile() {
		t.Errorf("done: %v", done)
	}
	// It is as good as a text that a person has put, and no better.
	_, err = w.get(t.Context(), host)
	wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "", "profile", host)
	w.trust(t, trust.GetLine())
	if got := w.mustGet(t, host); got.GetTokenType() != "Bearer" {
		t.Errorf("token: %v", got)
	}
	got, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: host})
	if err != nil {
		t.Fatal(err)
	}
	text := string(got.GetText())
	if strings.Contains(text, "CANARY") || strings.Contains(text, "alice") {
		t.Error("user or password is in the profile")
	}
	if !strings.HasPrefix(text, "# Registered as client_id "+done.GetClientId()+"\n") || !strings.Contains(text, "OAUTH2_REGISTRATION_URL="+at+"\n") {
		t.Errorf("the text is %s", text)
	}
	w.wantLogged(t, "client registered", "profile="+host)
	if strings.Contains(w.log.String(), "CANARY") {
		t.Error("the password is in the log")
	}

	// Again: only where it is said so, and then with another client.
	n := server.Count("/v1/register")
	_, _, err = w.register(t, &tokendv1.RegisterRequest_Start{Url: at, TokenUrl: server.TokenURL}, password)
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "it exists already", "profile", host)
	if server.Count("/v1/register") != n {
		t.Error("a client was registered for nothing")
	}
	_, again, err := w.register(t, &tokendv1.RegisterRequest_Start{Url: at, TokenUrl: server.TokenURL, Replace: true}, password)
	if err != nil || again.GetVersion() == done.GetVersion() || again.GetClientId() == done.GetClientId() {
		t.Fatalf("%v, %v", again, err)
	}
	w.trust(t, again.GetTrust().GetLine())
	w.mustGet(t, host)
}

// Where nothing is said, the token endpoint is beside the registration's.
func TestRegisterTokenURL(t *testing.T) {
	w := newInitialized(t)
	for at, want := range map[string]string{
		"https://api.example/v1/register":       "https://api.example/v1/oauth/token",
		"https://api.example/v1/register?a=b":   "https://api.example/v1/oauth/token",
		"https://api.example/a%2Fb/v1/register": "https://api.example/a%2Fb/v1/oauth/token",
		"https://api.example":                   "https://api.example/oauth/token",
		"https://api.example/register":          "https://api.example/oauth/token",
	} {
		stream, err := w.profiles.Register(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(registerStart(&tokendv1.RegisterRequest_Start{Url: at, Name: "a"})); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil || resp.GetUserNeeded().GetTokenUrl() != want || resp.GetUserNeeded().GetProfile() != "a" {
			t.Errorf("%s: %v, %v; want %s", at, resp, err, want)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "user: ")
	}

	server := signUp(t)
	at := server.URL + "/v1/oauth/v1/register"
	_, done, err := w.register(t, &tokendv1.RegisterRequest_Start{Url: at, Name: "b"}, password)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: "b"})
	if err != nil || !strings.Contains(string(got.GetText()), "OAUTH2_TOKEN_URL="+server.URL+"/v1/oauth/v1/oauth/token\n") {
		t.Errorf("done %v, text %s, %v", done, got.GetText(), err)
	}
}

func TestRegisterRefusals(t *testing.T) {
	w := newInitialized(t)
	server := signUp(t)
	at := server.Issuer + "/v1/register"
	const denied, down = codes.PermissionDenied, codes.Unavailable
	for name, test := range map[string]struct {
		password string
		answer   authserver.Answer
		code     codes.Code
		reason   string
		meta     []string
	}{
		"wrong password": {password: "CANARY-wrong", code: denied, reason: "CLIENT_REFUSED", meta: []string{"http_status", "401"}},
		"wrong password, without an error": {
			answer: authserver.Answer{Status: 401, Body: "no " + password}, code: denied, reason: "CLIENT_REFUSED", meta: []string{"http_status", "401"},
		},
		"it comes back": {
			answer: authserver.Answer{Status: 400, Body: fmt.Sprintf(`{"error":"invalid_request","error_description":%q}`, "no user alice with "+password)},
			code:   denied, reason: "REQUEST_REFUSED", meta: []string{"oauth_error", "invalid_request", "http_status", "400"},
		},
		"429":       {answer: authserver.Answer{Status: 429}, code: down, reason: "THROTTLED", meta: []string{"http_status", "429"}},
		"500":       {answer: authserver.Answer{Status: 500}, code: down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "500"}},
		"no secret": {answer: authserver.Answer{Drop: []string{"client_secret"}, Endpoint: "v1/register"}, code: down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "201"}},
		"a key of two lines": {
			answer: authserver.Answer{Set: map[string]any{"client_key": "a\nCLIENT_SECRET=b"}, Endpoint: "v1/register"},
			code:   down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "201"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.password == "" {
				test.password = password
				test.answer.Endpoint = "v1/register"
				server.AnyClient().Then(test.answer)
			}
			_, done, err := w.register(t, &tokendv1.RegisterRequest_Start{Url: at, Name: "a"}, test.password)
			if done != nil {
				t.Errorf("done: %v", done)
			}
			wantReason(t, err, test.code, test.reason, "", append(test.meta, "profile", "a")...)
			if strings.Contains(fmt.Sprint(err), "CANARY") || strings.Contains(w.log.String(), "CANARY") {
				t.Errorf("the password is in %v, or in the log %s", err, w.log)
			}
			if v := w.version(t, "a"); v != "" {
				t.Error("a profile was written")
			}
		})
	}
	t.Run("nothing listens", func(t *testing.T) {
		server.Close()
		_, _, err := w.register(t, &tokendv1.RegisterRequest_Start{Url: at, Name: "a"}, password)
		wantReason(t, err, down, "PROVIDER_DOWN", "", "profile", "a")
	})
}

func TestRegisterRequestInvalid(t *testing.T) {
	w := newInitialized(t)
	const at = "https://api.example/v1/register"
	for name, test := range map[string]struct {
		start   *tokendv1.RegisterRequest_Start
		message string
	}{
		"no url":          {&tokendv1.RegisterRequest_Start{Name: "a"}, "url: "},
		"plain http":      {&tokendv1.RegisterRequest_Start{Url: "http://api.example/v1/register"}, "url: "},
		"bad name":        {&tokendv1.RegisterRequest_Start{Url: at, Name: "../x"}, "name: "},
		"plain token url": {&tokendv1.RegisterRequest_Start{Url: at, TokenUrl: "http://api.example/token"}, "token_url: "},
		"no password":     {&tokendv1.RegisterRequest_Start{Url: at}, "user: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := w.register(t, test.start, "")
			wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", test.message)
		})
	}
	for _, first := range []*tokendv1.RegisterRequest{nil, {}, registerUser("alice", password)} {
		stream, err := w.profiles.Register(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if first != nil {
			err = stream.Send(first)
		}
		if err := errors.Join(err, stream.CloseSend()); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "start is required")
	}
}

// Where a profile cannot be written nothing is, and what can be known before is,
// so that no client is made whose secret nobody has.
func TestRegisterThatCannotBeWritten(t *testing.T) {
	w := newInitialized(t)
	server := signUp(t)
	w.put(t, "Dev", w.text())
	w.untrustedFolder(t, "team")
	start := func(name string) *tokendv1.RegisterRequest_Start {
		return &tokendv1.RegisterRequest_Start{Url: server.Issuer + "/v1/register", Name: name}
	}
	asked := len(server.Requests())
	_, _, err := w.register(t, start("team/a"), password)
	wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "folder team/", "profile", "team/a", "folder", "team/")
	_, _, err = w.register(t, start("dev"), password)
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "", "profile", "dev", "suggestion", "Dev")
	if err := os.Chmod(w.settings.TrustFile(), 0o640); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.register(t, start("b"), password)
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "trust")
	if len(server.Requests()) != asked || w.version(t, "b") != "" {
		t.Errorf("%d requests for nothing", len(server.Requests())-asked)
	}
}

// untrustedFolder puts a recipients file there that nobody has trusted.
func (w *world) untrustedFolder(t *testing.T, folder string) {
	t.Helper()
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.settings.ProfilesDir(), folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".age-recipients"), []byte(st.GetRecipient()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
