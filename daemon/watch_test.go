package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

func watching(names ...string) *tokendv1.WatchTokenRequest {
	req := &tokendv1.WatchTokenRequest{}
	for _, name := range names {
		req.Tokens = append(req.Tokens, &tokendv1.WatchedToken{Profile: name})
	}
	return req
}

func (w *world) watch(t *testing.T, ctx context.Context, names ...string) tokendv1grpc.TokenService_WatchTokenClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	stream, err := w.tokens.WatchToken(ctx, watching(names...))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func next(t *testing.T, stream tokendv1grpc.TokenService_WatchTokenClient) *tokendv1.WatchTokenResponse {
	t.Helper()
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// reach reads until the token of that index is in a state that is wanted.
func reach(t *testing.T, stream tokendv1grpc.TokenService_WatchTokenClient, index int32, wanted func(*tokendv1.WatchTokenResponse) bool) *tokendv1.WatchTokenResponse {
	t.Helper()
	for {
		resp := next(t, stream)
		if resp.GetIndex() == index && wanted(resp) {
			return resp
		}
	}
}

func hasReason(r tokendv1.Reason) func(*tokendv1.WatchTokenResponse) bool {
	return func(resp *tokendv1.WatchTokenResponse) bool { return resp.GetProblem().GetReason() == r }
}

func isToken(resp *tokendv1.WatchTokenResponse) bool { return resp.GetToken() != nil }

func TestWatchInvalid(t *testing.T) {
	w := newInitialized(t)
	many := make([]string, 257)
	for i := range many {
		many[i] = "a"
	}
	odd := watching("a", "b")
	odd.Tokens[1].Scopes = []string{"a b"}
	for name, test := range map[string]struct {
		req     *tokendv1.WatchTokenRequest
		message string
	}{
		"none":        {watching(), "tokens: must be 1 to 256"},
		"257":         {watching(many...), "tokens: must be 1 to 256"},
		"a bad name":  {watching("a", "../b", "c"), `tokens[1]: profile: "../b"`},
		"bad scopes":  {odd, "tokens[1]: scopes: "},
		"nobody's":    {watching("a", ""), "tokens[1]: profile: "},
		"a bad place": {&tokendv1.WatchTokenRequest{Tokens: []*tokendv1.WatchedToken{{Profile: "a", Resource: "x"}}}, "tokens[0]: resource: "},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := w.tokens.WatchToken(t.Context(), test.req)
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", test.message)
		})
	}
}

// A watch says why there is no token, and goes on when that changes.
func TestWatchGoesOn(t *testing.T) {
	w := newWorld(t)
	stream := w.watch(t, t.Context(), "a", "b")
	problems := func(want *tokendv1.Problem) {
		t.Helper()
		got := make(map[int32]*tokendv1.WatchTokenResponse)
		for range 2 {
			resp := next(t, stream)
			got[resp.GetIndex()] = resp
		}
		for i, name := range []string{"a", "b"} {
			w := &tokendv1.WatchTokenResponse{Index: int32(i), Profile: name, Event: &tokendv1.WatchTokenResponse_Problem{Problem: want}}
			if diff := cmp.Diff(w, got[int32(i)], protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		}
	}
	none := &tokendv1.Problem{Reason: tokendv1.Reason_REASON_NOT_INITIALIZED, Message: "no identity yet"}
	problems(none)
	file := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "")
	problems(&tokendv1.Problem{Reason: tokendv1.Reason_REASON_STORE_UNAVAILABLE, Message: reasonOf(t, err).Message})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	w.reload(t) // says nothing new
	problems(none)

	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	problems(&tokendv1.Problem{Reason: tokendv1.Reason_REASON_PROFILE_NOT_FOUND, Message: "no such profile"})
	w.put(t, "b", w.text())
	got := reach(t, stream, 1, isToken)
	if want := w.mustGet(t, "b"); got.GetToken().GetAccessToken() != want.GetAccessToken() || got.GetProfile() != "b" {
		t.Errorf("%v, want %v", got, want)
	}

	// Without the identity there is none, and with it the next.
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	if p := reach(t, stream, 1, hasReason(tokendv1.Reason_REASON_NOT_INITIALIZED)).GetProblem(); p.GetTokenLives() {
		t.Errorf("%v", p)
	}
	if err := os.Rename(file+".old", file); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	reach(t, stream, 1, isToken)
}

func TestStopEndsTokenWatch(t *testing.T) {
	w := newInitialized(t)
	tokens := w.watch(t, t.Context(), "a")
	next(t, tokens)
	events, err := w.daemon.WatchEvents(t.Context(), &tokendv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.stop(t)
	for err == nil {
		_, err = tokens.Recv()
	}
	wantReason(t, err, codes.Unavailable, "", "tokend is stopping")
	for err = nil; err == nil; {
		_, err = events.Recv()
	}
	wantReason(t, err, codes.Unavailable, "", "tokend is stopping")
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("that took %v", waited)
	}
}

// All watches together have a limit, and one that has ended makes room.
func TestWatchLimit(t *testing.T) {
	w := newWorld(t)
	names := make([]string, 256)
	for i := range names {
		names[i] = "a"
	}
	var last context.CancelFunc
	for range 16 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		last = cancel
		stream := w.watch(t, ctx, names...)
		for range names {
			next(t, stream)
		}
	}
	_, err := w.watch(t, t.Context(), "a").Recv()
	wantReason(t, err, codes.Unavailable, "THROTTLED", "no more than 4096 tokens can be watched at a time")
	last()
	for err != nil { // it ends a little later
		_, err = w.watch(t, t.Context(), names...).Recv()
		if err != nil {
			wantReason(t, err, codes.Unavailable, "THROTTLED", "")
		}
	}
	if _, err := w.watch(t, t.Context(), "a").Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("one more: %v", err)
	}
}

// Who does not read for a while holds up nobody, misses what is no longer so, and
// then has the last state of each.
func TestWatchSlowReader(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")
	// The client's window of 64 KiB stays as it is.
	conn, err := grpc.NewClient("unix:"+w.settings.Get(settings.Socket), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	names := make([]string, 256)
	for i := range names {
		names[i] = fmt.Sprintf("%s/%s/%d", strings.Repeat("x", 60), strings.Repeat("y", 60), i)
	}
	slow, err := tokendv1grpc.NewTokenServiceClient(conn).WatchToken(t.Context(), watching(names...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Recv(); err != nil {
		t.Fatal(err)
	}

	quick := w.watch(t, t.Context(), "a")
	reach(t, quick, 0, hasReason(tokendv1.Reason_REASON_NOT_INITIALIZED))
	const changes = 100
	for range changes / 2 {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
		reach(t, quick, 0, hasReason(tokendv1.Reason_REASON_STORE_UNAVAILABLE))
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		w.reload(t)
		reach(t, quick, 0, hasReason(tokendv1.Reason_REASON_NOT_INITIALIZED))
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	last := reasonOf(t, err).Message
	reach(t, quick, 0, hasReason(tokendv1.Reason_REASON_STORE_UNAVAILABLE))

	reached := make(map[int32]bool)
	read := 0
	for ; len(reached) < len(names); read++ {
		resp := next(t, slow)
		if names[resp.GetIndex()] != resp.GetProfile() {
			t.Fatalf("%v", resp)
		}
		if reached[resp.GetIndex()] {
			t.Fatalf("after its last state: %v", resp)
		}
		if resp.GetProblem().GetMessage() == last {
			reached[resp.GetIndex()] = true
		}
	}
	// What fits into the buffers of a connection, and one state each.
	if most := 6 * len(names); read > most {
		t.Errorf("%d messages were kept of %d changes, want at most %d", read, changes*len(names), most)
	}
}

// Who has not read for a while is told that the daemon stops before what has
// piled up.
func TestStopEndsSlowWatch(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")
	names := make([]string, 256)
	for i := range names {
		names[i] = fmt.Sprintf("%s/%s/%s/%s/%d", strings.Repeat("x", 60), strings.Repeat("y", 60), strings.Repeat("z", 60), strings.Repeat("z", 60), i)
	}
	slow := w.watch(t, t.Context(), names...)
	if _, err := slow.Header(); err != nil {
		t.Fatal(err)
	}
	quick := w.watch(t, t.Context(), "a")
	for range 20 {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
		reach(t, quick, 0, hasReason(tokendv1.Reason_REASON_STORE_UNAVAILABLE))
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		w.reload(t)
		reach(t, quick, 0, hasReason(tokendv1.Reason_REASON_NOT_INITIALIZED))
	}
	if _, err := w.daemon.Stop(t.Context(), &tokendv1.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := quick.Recv()
		if err != nil {
			wantReason(t, err, codes.Unavailable, "", "tokend is stopping")
			break
		}
	}
	var err error
	for err == nil {
		_, err = slow.Recv()
	}
	wantReason(t, err, codes.Unavailable, "", "tokend is stopping")
	if err := <-w.served; err != nil {
		t.Error(err)
	}
}

// What is changed through the daemon reaches its watchers without their having to
// look.
func TestWatchLearnsAtOnce(t *testing.T) {
	home := newHome(t)
	t.Setenv(settings.Trust, "all")
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	server := people(t, authserver.Config{})
	ctx := t.Context()
	put := func(name, text string) error {
		_, err := w.profiles.PutProfile(ctx, putText(name, text, w.version(t, name)))
		return err
	}
	stream := w.watch(t, ctx, "a", "b", "person")
	for range 3 {
		next(t, stream)
	}
	last := ""
	another := func(resp *tokendv1.WatchTokenResponse) bool {
		access := resp.GetToken().GetAccessToken()
		if access == "" || access == last {
			return false
		}
		last = access
		return true
	}
	gone, noLogin := hasReason(tokendv1.Reason_REASON_PROFILE_NOT_FOUND), hasReason(tokendv1.Reason_REASON_LOGIN_REQUIRED)
	for _, step := range []struct {
		name   string
		change func() error
		index  int32
		wanted func(*tokendv1.WatchTokenResponse) bool
	}{
		{"put", func() error { return put("a", w.text()) }, 0, another},
		{"edited", func() error { return put("a", w.text("# other")) }, 0, another},
		{"revoked", func() error {
			_, err := w.tokens.RevokeTokens(ctx, &tokendv1.RevokeTokensRequest{Profile: "a"})
			return err
		}, 0, another},
		{"reported", func() error {
			_, err := w.tokens.ReportToken(ctx, &tokendv1.ReportTokenRequest{Profile: "a", AccessToken: last})
			return err
		}, 0, another},
		{"moved", func() error {
			_, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "a", NewName: "b"})
			return err
		}, 1, another},
		{"deleted", func() error {
			_, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "b"})
			return err
		}, 1, gone},
		{"put for a person", func() error { return put("person", loginText(server)) }, 2, noLogin},
		{"logged in", func() error { w.mustLogin(t, "person", server); return nil }, 2, another},
		{"logged out", func() error {
			_, err := w.profiles.Logout(ctx, &tokendv1.LogoutRequest{Profile: "person"})
			return err
		}, 2, noLogin},
	} {
		began := time.Now()
		if err := step.change(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		reach(t, stream, step.index, step.wanted)
		if waited := time.Since(began); waited > 4*time.Second {
			t.Errorf("%s: known after %v", step.name, waited)
		}
	}
}
