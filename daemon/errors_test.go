package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/broker"
	"tokend/client"
	"tokend/client/api"
	"tokend/internal/socket"
	"tokend/login"
	"tokend/oauth"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// failing is a TokenService whose error is named by the request's profile.
type failing struct {
	tokendv1grpc.UnimplementedTokenServiceServer
	errors map[string]error
}

func (f *failing) GetToken(_ context.Context, r *tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
	return nil, f.errors[r.GetProfile()]
}

// What one side writes, the other must read: this table and the client's are
// two that nothing but this test keeps equal.
func TestErrorsReachTheClient(t *testing.T) {
	home, err := os.MkdirTemp("", "tokend")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	t.Setenv("HOME", home)
	path := filepath.Join(home, "run", "s")
	l, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	f := &failing{errors: make(map[string]error)}
	tokendv1grpc.RegisterTokenServiceServer(s, f)
	served := make(chan error)
	want := make(map[string]*client.Error)
	long := strings.Repeat("é", 5000)
	for value, name := range tokendv1.Reason_name {
		reason := tokendv1.Reason(value)
		switch reason {
		case tokendv1.Reason_REASON_UNSPECIFIED:
			continue
		}
		code, ok := grpcCodes[reason]
		if !ok {
			t.Errorf("%s has no gRPC code", name)
		}
		f.errors[name] = failureAfter(reason, "cause: “"+name+"” 100%", 90*time.Second+5, "profile", "dev/network", "empty", "", "suggestion", "a b\n")
		want[name] = &client.Error{
			Reason: api.Reason(reason), Code: uint32(code), Message: "cause: “" + name + "” 100%", RetryAfter: 90*time.Second + 5,
			Metadata: map[string]string{"profile": "dev/network", "suggestion": "a b\n"},
		}
		f.errors[name+" long"] = failure(reason, long, "profile", long)
		want[name+" long"] = &client.Error{
			Reason: api.Reason(reason), Code: uint32(code), Message: long[:2048] + " …", Metadata: map[string]string{"profile": long[:1024] + " …"},
		}
		f.errors[name+" bare"] = failure(reason, "")
		want[name+" bare"] = &client.Error{Reason: api.Reason(reason), Code: uint32(code), Metadata: map[string]string{}}
	}
	go func() { served <- s.Serve(l) }()
	defer func() {
		s.Stop()
		<-served
	}()

	c := &client.Client{Socket: path}
	for name := range maps.Keys(f.errors) {
		_, err := c.Token(t.Context(), client.TokenRequest{Profile: name})
		var got *client.Error
		if !errors.As(err, &got) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want[name], got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What to do next is decided by metadata, whatever the message says.
func TestCauses(t *testing.T) {
	locked := fmt.Errorf("reading: %w", &store.KeyringError{Cause: store.KeyringLocked, Err: errors.New("no")})
	for _, test := range []struct {
		err  error
		want map[string]string
	}{
		{storeError(locked), map[string]string{"cause": "keyring_locked"}},
		{identityError(locked), map[string]string{"cause": "keyring_locked"}},
		{profileError("a", locked), map[string]string{"cause": "keyring_locked", "profile": "a"}},
		{storeError(&store.KeyringError{Cause: store.NoBus, Err: errors.New("no")}), map[string]string{"cause": "no_session_bus"}},
		{storeError(&store.KeyringError{Cause: store.KeyringFailed, Err: errors.New("no")}), map[string]string{"cause": "keyring"}},
		{storeError(errors.New("there is no session bus")), nil},
		{identityError(&store.PluginError{Name: "tpm", Allowed: true}), map[string]string{"cause": "no_plugin"}},
		{identityError(&store.PluginError{Name: "tpm"}), nil},
	} {
		info, _ := status.Convert(test.err).Details()[0].(*errdetails.ErrorInfo)
		if diff := cmp.Diff(test.want, info.GetMetadata()); diff != "" {
			t.Errorf("%v: %s", test.err, diff)
		}
	}
}

// Errors that a call cannot easily be brought to give.
func TestProfileErrorCodes(t *testing.T) {
	for _, test := range []struct {
		err    error
		reason string
	}{
		{fmt.Errorf("reading: %w", store.ErrLocked), "LOCKED"},
		{&store.NameError{Name: "x", Problem: "is odd"}, "REQUEST_INVALID"},
		{context.DeadlineExceeded, "PROVIDER_DOWN"},
		{&broker.RefusedError{Err: &oauth.Error{Kind: oauth.Invalid, Op: "checking"}}, "PROFILE_INVALID"},
		{&broker.RefusedError{Err: &oauth.Error{Kind: oauth.Temporary, Err: context.DeadlineExceeded}}, "PROVIDER_DOWN"},
		{errors.New("disk on fire"), "STORE_UNAVAILABLE"},
		{&broker.ThrottledError{Err: errors.New("too many wait"), RetryAfter: time.Second}, "THROTTLED"},
		{context.Canceled, ""},
	} {
		got := ""
		if s, ok := statusReason(profileError("a", test.err)); ok {
			got = s
		}
		if got != test.reason {
			t.Errorf("%v: reason %q, want %q", test.err, got, test.reason)
		}
	}
}

// What watchers and status are told of an error is what its call says.
func TestProblem(t *testing.T) {
	refused := &oauth.Error{Kind: oauth.Refused, Op: "asking", Status: 400, Code: "invalid_scope", Description: "no"}
	busy := &oauth.Error{Kind: oauth.Temporary, Op: "asking", Status: 429}
	for _, test := range []struct {
		err  error
		want *tokendv1.Problem
	}{
		{&broker.RefusedError{Err: refused, RetryAfter: time.Minute, Variable: "OAUTH2_SCOPE"}, &tokendv1.Problem{
			Reason: tokendv1.Reason_REASON_REQUEST_REFUSED, Message: "asking: invalid_scope: no (HTTP 400)",
			Variable: "OAUTH2_SCOPE", OauthError: "invalid_scope", RetryAfter: durationpb.New(time.Minute)}},
		{&broker.RefusedError{Err: &broker.ThrottledError{Err: busy, RetryAfter: time.Hour}, RetryAfter: time.Second}, &tokendv1.Problem{
			Reason: tokendv1.Reason_REASON_THROTTLED, Message: busy.Error(), RetryAfter: durationpb.New(time.Hour)}},
		{&broker.LoginError{Why: "it has ended", Code: "invalid_grant", Variable: "OAUTH2_REFRESH_TOKEN"}, &tokendv1.Problem{
			Reason: tokendv1.Reason_REASON_LOGIN_REQUIRED, Message: "login required (it has ended)",
			Variable: "OAUTH2_REFRESH_TOKEN", OauthError: "invalid_grant"}},
		{&broker.SubjectError{Profile: "b", Err: broker.ErrUntrusted}, &tokendv1.Problem{
			Reason: tokendv1.Reason_REASON_UNTRUSTED, Message: "b: its text has not been trusted on this machine"}},
		{store.ErrLocked, &tokendv1.Problem{Reason: tokendv1.Reason_REASON_LOCKED, Message: "locked"}},
		{context.Canceled, &tokendv1.Problem{Message: "context canceled"}},
	} {
		if diff := cmp.Diff(test.want, problem("a", profileError("a", test.err)), protocmp.Transform()); diff != "" {
			t.Errorf("%v: %s", test.err, diff)
		}
	}
}

// A login's errors are the server's or the person's, and not our stores'.
func TestLoginErrorReasons(t *testing.T) {
	s := &profiles{d: &Daemon{stopping: context.Background()}}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	slow := &oauth.Error{Kind: oauth.Temporary, Op: "asking", Err: context.DeadlineExceeded}
	for _, test := range []struct {
		ctx    context.Context
		err    error
		reason string
	}{
		{t.Context(), flowError{slow}, "PROVIDER_DOWN"},
		{t.Context(), &broker.DiscoveryError{Err: slow}, "PROVIDER_DOWN"},
		{t.Context(), flowError{login.ErrExpired}, "LOGIN_REQUIRED"},
		{late, flowError{context.DeadlineExceeded}, "LOGIN_REQUIRED"},
		{late, flowError{slow}, "LOGIN_REQUIRED"},
		{t.Context(), flowError{errors.New("the server is odd")}, "REQUEST_REFUSED"},
		{t.Context(), fmt.Errorf("reading: %w", store.ErrLocked), "LOCKED"},
		{t.Context(), errors.New("disk on fire"), "STORE_UNAVAILABLE"},
	} {
		if got, _ := statusReason(s.loginError(test.ctx, "a", test.err)); got != test.reason {
			t.Errorf("%v: reason %q, want %q", test.err, got, test.reason)
		}
	}
}

func statusReason(err error) (string, bool) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), true
		}
	}
	return "", false
}
