package client_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/client"
	"tokend/client/api"
	"tokend/daemon"
	"tokend/internal/settings"
	"tokend/internal/socket"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

type reportRequest = tokendv1.ReportTokenRequest

// standIn stands in for the daemon, to say what that says at bad times only.
type standIn struct {
	tokendv1grpc.UnimplementedTokenServiceServer
	report func(*reportRequest)
	// watch answers the nth call, from 1.
	watch func(n int64, s tokendv1grpc.TokenService_WatchTokenServer) error
	calls atomic.Int64
}

// start returns a client of it.
func (s *standIn) start(t *testing.T) *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp(home, "standin")
	if err != nil {
		t.Fatal(err)
	}
	l, err := socket.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	tokendv1grpc.RegisterTokenServiceServer(g, s)
	served := make(chan error)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		<-served
	})
	return &client.Client{Socket: filepath.Join(dir, "s")}
}

func (s *standIn) ReportToken(_ context.Context, r *reportRequest) (*tokendv1.ReportTokenResponse, error) {
	s.report(r)
	return &tokendv1.ReportTokenResponse{}, nil
}

func (s *standIn) WatchToken(_ *tokendv1.WatchTokenRequest, stream tokendv1grpc.TokenService_WatchTokenServer) error {
	return s.watch(s.calls.Add(1), stream)
}

// pull is a watch whose changes are had one by one.
type pull struct {
	t    *testing.T
	next func() (client.Change, error, bool)
}

func watch(t *testing.T, ctx context.Context, c *client.Client, tokens ...client.TokenRequest) pull {
	next, stop := iter.Pull2(c.Watch(ctx, tokens...))
	t.Cleanup(stop)
	return pull{t, next}
}

func (p pull) change() client.Change {
	p.t.Helper()
	c, err, ok := p.next()
	if err != nil || !ok {
		p.t.Fatalf("no change: %v, %t", err, ok)
	}
	return c
}

func (p pull) token(index int, profile string) *client.Token {
	p.t.Helper()
	c := p.change()
	if c.Token == nil || c.Index != index || c.Profile != profile || c.Err != nil || c.TokenLives {
		p.t.Fatalf("got %+v", c)
	}
	return c.Token
}

func (p pull) problem(index int, profile string, reason api.Reason) {
	p.t.Helper()
	c := p.change()
	var e *client.Error
	if !errors.As(c.Err, &e) || e.Reason != reason || c.Index != index || c.Profile != profile || c.Token != nil {
		p.t.Fatalf("got %+v", c)
	}
}

// end is the last of a sequence.
func (p pull) end() error {
	p.t.Helper()
	c, err, ok := p.next()
	if !ok || err == nil {
		p.t.Fatalf("got %+v, %v, %t, want an error", c, err, ok)
	}
	if c != (client.Change{}) {
		p.t.Errorf("a change with the error: %+v", c)
	}
	if _, _, ok := p.next(); ok {
		p.t.Error("the error was not the last")
	}
	return err
}

func TestWatch(t *testing.T) {
	var c client.Client
	put(t, &c, "watch/one", "OAUTH2_SCOPE='read write'")
	one := client.TokenRequest{Profile: "watch/one", Scopes: []string{"read"}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := watch(t, ctx, &c, one, client.TokenRequest{Profile: "watch/two"})
	var first *client.Token
	for range 2 { // in any order
		switch change := w.change(); change.Index {
		case 0:
			first = change.Token
		case 1:
			var e *client.Error
			if !errors.As(change.Err, &e) || e.Reason != api.ReasonProfileNotFound || change.TokenLives {
				t.Errorf("got %+v", change)
			}
		}
	}
	got, err := c.Token(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	got.ExpiresAt, got.ExpiresIn = first.ExpiresAt, first.ExpiresIn
	if diff := cmp.Diff(got, first); diff != "" || got.AccessToken != first.AccessToken || time.Until(first.ExpiresAt) < 50*time.Minute {
		t.Errorf("other than Token's: %s", diff)
	}

	put(t, &c, "watch/two")
	w.token(1, "watch/two")
	one.Force = true
	forced, err := c.Token(t.Context(), one)
	for err == nil && forced.Fingerprint == first.Fingerprint { // it was made moments ago
		forced, err = c.Token(t.Context(), one)
	}
	if err != nil {
		t.Fatal(err)
	}
	if next := w.token(0, "watch/one"); next.Fingerprint != forced.Fingerprint {
		t.Error("the token that was sent is not the new one")
	}
	cancel()
	if err := w.end(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// A loop that is left ends the call.
func TestWatchBreak(t *testing.T) {
	ended := make(chan struct{})
	s := &standIn{watch: func(_ int64, s tokendv1grpc.TokenService_WatchTokenServer) error {
		if err := s.Send(&tokendv1.WatchTokenResponse{Event: &tokendv1.WatchTokenResponse_Token{}}); err != nil {
			return err
		}
		<-s.Context().Done()
		ended <- struct{}{}
		return nil
	}}
	standing := s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 2 {
		for _, err := range standing.Watch(ctx, dev) {
			if err != nil {
				t.Error(err)
			}
			if i == 1 {
				cancel() // a loop that was left is not told
			}
			break
		}
		<-ended
	}
	c := client.Client{Socket: filepath.Join(home, "none", "s")}
	for range c.Watch(t.Context(), dev) {
		break
	}
}

// What will not pass ends a watch at once.
func TestWatchRefused(t *testing.T) {
	long := make([]client.TokenRequest, 256)
	for i := range long {
		long[i] = client.TokenRequest{Profile: "p", Audience: strings.Repeat("x", 300)}
	}
	var def client.Client
	for name, c := range map[string]struct {
		client  *client.Client
		tokens  []client.TokenRequest
		reason  api.Reason
		message string
	}{
		"none":         {&def, nil, api.ReasonRequestInvalid, "tokens: must be 1 to 256"},
		"257":          {&def, make([]client.TokenRequest, 257), api.ReasonRequestInvalid, "tokens: must be 1 to 256"},
		"long":         {&def, long, api.ReasonRequestInvalid, "tokens: with scopes, audiences and resources longer than 65536 bytes"},
		"another dir":  {&client.Client{Dir: filepath.Join(home, "other")}, []client.TokenRequest{dev}, api.ReasonSettingsInvalid, "TOKEND_DIR"},
		"bad settings": {&client.Client{Socket: "not/absolute"}, []client.TokenRequest{dev}, api.ReasonSettingsInvalid, "TOKEND_SOCKET"},
	} {
		err := watch(t, t.Context(), c.client, c.tokens...).end()
		var e *client.Error
		if !errors.As(err, &e) || e.Reason != c.reason || !strings.Contains(e.Message, c.message) {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
}

func TestWatchProblem(t *testing.T) {
	expires := time.Now().Add(time.Hour)
	s := &standIn{watch: func(_ int64, s tokendv1grpc.TokenService_WatchTokenServer) error {
		for _, r := range []*tokendv1.WatchTokenResponse{
			{Index: 1, Profile: "b", Event: &tokendv1.WatchTokenResponse_Token{Token: &tokendv1.GetTokenResponse{
				AccessToken: "T", TokenType: "DPoP", ExpiresAt: timestamppb.New(expires), ExpiresIn: durationpb.New(time.Hour),
				Lifetime: durationpb.New(2 * time.Hour), Scopes: []string{"s"}, ApiOrigins: []string{"https://api.example"},
				Fingerprint: "00", ExpiryAssumed: true, Degraded: true, Warning: "w", ProfileVersion: "v"}}},
			{Index: 0, Profile: "a"}, // of a daemon that knows more
			{Index: 1, Profile: "b", Event: &tokendv1.WatchTokenResponse_Problem{Problem: &tokendv1.Problem{
				Reason: tokendv1.Reason_REASON_CLIENT_REFUSED, Message: "m", Variable: "CLIENT_SECRET", OauthError: "invalid_client",
				RetryAfter: durationpb.New(time.Minute), TokenLives: true}}},
			{Index: 0, Profile: "a", Event: &tokendv1.WatchTokenResponse_Problem{Problem: &tokendv1.Problem{
				Reason: tokendv1.Reason_REASON_LOCKED, Message: "locked"}}},
		} {
			if err := s.Send(r); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return nil
	}}
	w := watch(t, t.Context(), s.start(t), client.TokenRequest{Profile: "a"}, client.TokenRequest{Profile: "b"})
	got := []client.Change{w.change(), w.change(), w.change()}
	want := []client.Change{
		{Index: 1, Profile: "b", Token: &client.Token{
			AccessToken: "T", Type: "DPoP", ExpiresAt: expires, ExpiresIn: time.Hour, Lifetime: 2 * time.Hour, Scopes: []string{"s"},
			APIOrigins: []string{"https://api.example"}, Fingerprint: "00", ExpiryAssumed: true, Degraded: true, Warning: "w"}},
		{Index: 1, Profile: "b", TokenLives: true, Err: &client.Error{
			Reason: api.ReasonClientRefused, Message: "m", RetryAfter: time.Minute,
			Metadata: map[string]string{"profile": "b", "variable": "CLIENT_SECRET", "oauth_error": "invalid_client"}}},
		{Index: 0, Profile: "a", Err: &client.Error{Reason: api.ReasonLocked, Message: "locked", Metadata: map[string]string{"profile": "a"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// serveDaemon runs a daemon with a store of its own until stop is called.
func serveDaemon(t *testing.T, dir string) (c *client.Client, stop func()) {
	t.Helper()
	c = &client.Client{Socket: filepath.Join(dir, "run", "s"), Dir: filepath.Join(dir, "data")}
	s, err := settings.Load(map[string]string{settings.Socket: c.Socket, settings.Dir: c.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := socket.Listen(c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- daemon.New(s, "v-test", nil, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	return c, func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// A daemon that is restarted is found again, and what it says comes again.
func TestWatchRestart(t *testing.T) {
	dir, err := os.MkdirTemp(home, "restart")
	if err != nil {
		t.Fatal(err)
	}
	c, stop := serveDaemon(t, dir)
	w := watch(t, t.Context(), c, dev)
	w.problem(0, dev.Profile, api.ReasonNotInitialized)
	stream, err := c.Open(t.Context(), api.MethodInit)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := stream.Send(&api.InitRequest{Start: &api.InitRequestStart{}}); err != nil {
		t.Fatal(err)
	}
	if err := stream.Recv(&api.InitResponse{}); err != nil {
		t.Fatal(err)
	}
	w.problem(0, dev.Profile, api.ReasonProfileNotFound)
	put(t, c, dev.Profile)
	first := w.token(0, dev.Profile)

	stop()
	lost := w.change()
	if !errors.Is(lost.Err, client.ErrNotRunning) || !lost.TokenLives || lost.Index != 0 || lost.Profile != dev.Profile || lost.Token != nil {
		t.Errorf("got %+v", lost)
	}
	_, stop = serveDaemon(t, dir)
	defer stop()
	if next := w.token(0, dev.Profile); next.AccessToken == first.AccessToken {
		t.Error("the same token from another daemon")
	}
}

// A token that has ended is not said to live, by whatever clock.
func TestWatchLostWithoutToken(t *testing.T) {
	for name, c := range map[string]struct {
		at    time.Time
		in    time.Duration
		lives bool
	}{
		"living":                    {time.Now().Add(time.Hour), time.Hour, true},
		"ended on the wall clock":   {time.Now().Add(-time.Second), time.Hour, false},
		"ended on the other clock":  {time.Now().Add(time.Hour), 0, false},
		"not told of when it ended": {time.Time{}, 0, false},
	} {
		s := &standIn{watch: func(n int64, s tokendv1grpc.TokenService_WatchTokenServer) error {
			return s.Send(&tokendv1.WatchTokenResponse{Profile: "p", Event: &tokendv1.WatchTokenResponse_Token{
				Token: &tokendv1.GetTokenResponse{ExpiresAt: timestamppb.New(c.at), ExpiresIn: durationpb.New(c.in)}}})
		}}
		w := watch(t, t.Context(), s.start(t), client.TokenRequest{Profile: "p"}, client.TokenRequest{Profile: "q"})
		for range 2 { // connections
			w.token(0, "p")
			for i, want := range []client.Change{{Index: 0, Profile: "p", TokenLives: c.lives}, {Index: 1, Profile: "q"}} {
				got := w.change()
				if !errors.Is(got.Err, client.ErrNotRunning) {
					t.Errorf("%s: got %+v", name, got)
				}
				got.Err = nil
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %d: %s", name, i, diff)
				}
			}
		}
	}
}

// A daemon that cannot be had is told of once, and asked less and less often.
func TestWatchBackoff(t *testing.T) {
	retry, err := status.New(codes.Unavailable, "too many are watched").WithDetails(
		&errdetails.ErrorInfo{Reason: "THROTTLED", Domain: "tokend"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(5 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	said := func(n int64, s tokendv1grpc.TokenService_WatchTokenServer) error {
		return s.Send(&tokendv1.WatchTokenResponse{Index: 7})
	}
	for name, c := range map[string]struct {
		watch    func(n int64, s tokendv1grpc.TokenService_WatchTokenServer) error
		most     int64 // connections in 10 min
		least    int64
		message  string
		isOurs   bool
		isNotRun bool
	}{
		"stopping": {func(int64, tokendv1grpc.TokenService_WatchTokenServer) error {
			return status.Error(codes.Unavailable, "stopping")
		}, 32, 20, "tokend is not running: stopping", true, true},
		"ending":    {func(int64, tokendv1grpc.TokenService_WatchTokenServer) error { return nil }, 32, 20, "tokend is not running: EOF", false, true},
		"throttled": {func(int64, tokendv1grpc.TokenService_WatchTokenServer) error { return retry.Err() }, 3, 2, "too many are watched", true, false},
		"too old": {func(int64, tokendv1grpc.TokenService_WatchTokenServer) error {
			return status.Error(codes.Unimplemented, "no such call")
		}, 32, 20, "no such call", true, false},
		"talking rubbish": {said, 32, 20, "tokend is not running: it sent a token that was not asked for, number 7", false, true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			s := &standIn{watch: c.watch}
			cl := s.start(t)
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				var got []client.Change
				var last error
				for change, err := range cl.Watch(ctx, dev) {
					if err != nil {
						last = err
						break
					}
					got = append(got, change)
				}
				if !errors.Is(last, context.DeadlineExceeded) || len(got) != 1 || got[0].Err == nil {
					t.Fatalf("got %+v, %v", got, last)
				}
				var ours *client.Error
				if err := got[0].Err; err.Error() != c.message || errors.As(err, &ours) != c.isOurs || errors.Is(err, client.ErrNotRunning) != c.isNotRun {
					t.Errorf("error is %v", err)
				}
			})
			if n := s.calls.Load(); n < c.least || n > c.most {
				t.Errorf("%d connections in 10 min, want %d to %d", n, c.least, c.most)
			}
		})
	}
}

// A connection that lasted is worth another one at once.
func TestWatchBackoffBeginsAnew(t *testing.T) {
	s := &standIn{watch: func(n int64, s tokendv1grpc.TokenService_WatchTokenServer) error {
		if n%10 != 0 {
			return nil
		}
		return s.Send(&tokendv1.WatchTokenResponse{Profile: dev.Profile, Event: &tokendv1.WatchTokenResponse_Token{Token: &tokendv1.GetTokenResponse{}}})
	}}
	cl := s.start(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var ended time.Time
		tokens := 0
		for change, err := range cl.Watch(ctx, dev) {
			switch {
			case err != nil:
				t.Fatal(err)
			case change.Token == nil:
				continue
			}
			if tokens++; tokens == 2 {
				// Ten connections, nine of which failed, after the long one.
				if d := time.Since(ended); d < 81*time.Second || d > 123*time.Second {
					t.Errorf("10 connections took %v", d)
				}
				return
			}
			time.Sleep(31 * time.Second)
			ended = time.Now()
		}
	})
}

// No daemon is started without Autostart.
func TestWatchAutostart(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	program(t, `echo >>'`+out+`'; echo "ready `+path+`" >&3`)
	c := client.Client{Socket: filepath.Join(home, "none", "s")}
	w := watch(t, t.Context(), &c, dev)
	if lost := w.change(); !errors.Is(lost.Err, client.ErrNotRunning) || lost.TokenLives || lost.Profile != dev.Profile {
		t.Errorf("got %+v", lost)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a daemon was started: %v", err)
	}
	c = client.Client{Socket: c.Socket, Autostart: true}
	watch(t, t.Context(), &c, dev).token(0, dev.Profile)
	if _, err := os.Stat(out); err != nil {
		t.Error(err)
	}
}
