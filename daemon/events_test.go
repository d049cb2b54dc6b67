package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	"tokend/internal/settings"
	"tokend/internal/socket"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

// eventful is a daemon whose broker's events a test makes, and a connection to it
// whose windows stay small.
func eventful(t *testing.T) (*Daemon, tokendv1grpc.DaemonServiceClient) {
	t.Helper()
	home, err := os.MkdirTemp("", "tokend")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	t.Setenv("HOME", home)
	path := filepath.Join(home, "run", "s")
	s, err := settings.Load(map[string]string{settings.Socket: path, settings.Dir: filepath.Join(home, "tokend")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	d := New(s, "v-test", nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return d, tokendv1grpc.NewDaemonServiceClient(conn)
}

// join returns once the watch has begun.
func join(t *testing.T, c tokendv1grpc.DaemonServiceClient, req *tokendv1.WatchEventsRequest) tokendv1grpc.DaemonService_WatchEventsClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := c.WatchEvents(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	return stream
}

func event(t *testing.T, stream tokendv1grpc.DaemonService_WatchEventsClient) *tokendv1.WatchEventsResponse {
	t.Helper()
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// numbered makes events with the numbers from first to before end, each of a
// profile of three.
func numbered(d *Daemon, first, end int) {
	for i := first; i < end; i++ {
		d.events.add(broker.Event{Kind: broker.TokenMade, Time: time.Unix(int64(i), 0), Profile: profileOf(i), Message: fmt.Sprintf("%0200d", i)})
	}
}

func profileOf(i int) string { return string(rune('a' + i%3)) }

func TestEventsSayWhatHasHappened(t *testing.T) {
	d, c := eventful(t)
	stream := join(t, c, &tokendv1.WatchEventsRequest{})
	at, ends := time.Unix(1700000000, 5), time.Unix(1700000600, 0)
	for _, test := range []struct {
		event broker.Event
		want  *tokendv1.WatchEventsResponse
	}{
		{broker.Event{Kind: broker.TokenMade, Profile: "a", Fingerprint: "f", Ends: ends},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_TOKEN_MADE, Profile: "a", Fingerprint: "f", ExpiresAt: timestamppb.New(ends)}},
		{broker.Event{Kind: broker.TokenRenewed, Profile: "a", Fingerprint: "f", Ends: ends},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_TOKEN_RENEWED, Profile: "a", Fingerprint: "f", ExpiresAt: timestamppb.New(ends)}},
		{broker.Event{Kind: broker.TokenFailed, Profile: "a", Err: broker.ErrUntrusted},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_TOKEN_FAILED, Profile: "a", Reason: tokendv1.Reason_REASON_UNTRUSTED, Message: broker.ErrUntrusted.Error()}},
		{broker.Event{Kind: broker.TokenReported, Profile: "a", Message: "it stays", Fingerprint: "f"},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_TOKEN_REPORTED, Profile: "a", Message: "it stays", Fingerprint: "f"}},
		{broker.Event{Kind: broker.SessionBegun, Profile: "a"},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_SESSION_BEGUN, Profile: "a"}},
		{broker.Event{Kind: broker.SessionEnded, Profile: "a", Message: "after a refusal", Err: &broker.LoginError{Why: "so"}},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_SESSION_ENDED, Profile: "a", Reason: tokendv1.Reason_REASON_LOGIN_REQUIRED, Message: "after a refusal"}},
		{broker.Event{Kind: broker.SessionUnsaved, Profile: "a", Err: errors.New("disk full")},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_SESSION_UNSAVED, Profile: "a", Reason: tokendv1.Reason_REASON_STORE_UNAVAILABLE, Message: "disk full"}},
		{broker.Event{Kind: broker.SessionSaved, Profile: "a"},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_SESSION_SAVED, Profile: "a"}},
		{broker.Event{Kind: broker.ProfileReset, Profile: "a"},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_PROFILE_RESET, Profile: "a"}},
		{broker.Event{Kind: broker.Woken, Message: strings.Repeat("x", 3000)},
			&tokendv1.WatchEventsResponse{Kind: tokendv1.WatchEventsResponse_KIND_WOKEN, Message: strings.Repeat("x", 2048) + " …"}},
	} {
		test.event.Time = at
		test.want.Time = timestamppb.New(at)
		d.events.add(test.event)
		if diff := cmp.Diff(test.want, event(t, stream), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
}

// wantNumbers reads numbered events and wants exactly these.
func wantNumbers(t *testing.T, stream tokendv1grpc.DaemonService_WatchEventsClient, first, end int) {
	t.Helper()
	for i := first; i < end; i++ {
		if got := event(t, stream); got.GetTime().GetSeconds() != int64(i) {
			t.Fatalf("%v, want %d", got, i)
		}
	}
}

func TestRecentEvents(t *testing.T) {
	d, c := eventful(t)
	numbered(d, 0, 600)
	last := join(t, c, &tokendv1.WatchEventsRequest{})
	recent := join(t, c, &tokendv1.WatchEventsRequest{Recent: true})
	wantNumbers(t, recent, 600-keptEvents, 600)
	numbered(d, 600, 700)
	wantNumbers(t, recent, 600, 700)
	wantNumbers(t, last, 600, 700)
}

// What happens while somebody joins is either among the recent ones or follows
// them.
func TestEventsWhileJoining(t *testing.T) {
	d, c := eventful(t)
	numbered(d, 0, 100)
	added := make(chan struct{})
	go func() {
		defer close(added)
		numbered(d, 100, 100+keptEvents/2)
	}()
	for range 8 {
		wantNumbers(t, join(t, c, &tokendv1.WatchEventsRequest{Recent: true}), 0, 100+keptEvents/2)
	}
	<-added
}

func TestEventsOfOneProfile(t *testing.T) {
	d, c := eventful(t)
	numbered(d, 0, 9)
	d.events.add(broker.Event{Kind: broker.Woken, Time: time.Unix(9, 0)})
	var got []int64
	stream := join(t, c, &tokendv1.WatchEventsRequest{Profile: "b", Recent: true})
	numbered(d, 10, 15)
	for range 5 {
		got = append(got, event(t, stream).GetTime().GetSeconds())
	}
	if !slices.Equal(got, []int64{1, 4, 7, 10, 13}) {
		t.Errorf("%v", got)
	}
	if _, err := join(t, c, &tokendv1.WatchEventsRequest{Profile: "b//"}).Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad name: %v", err)
	}
}

// Who reads too slowly is told exactly how many they have missed, and nobody
// waits for them.
func TestMissedEvents(t *testing.T) {
	d, c := eventful(t)
	all := join(t, c, &tokendv1.WatchEventsRequest{})
	some := join(t, c, &tokendv1.WatchEventsRequest{Profile: "c"})
	const end = 9000
	numbered(d, 0, end)
	for stream, step := range map[tokendv1grpc.DaemonService_WatchEventsClient]int{all: 1, some: 3} {
		next, missed := step-1, 0
		for next < end {
			got := event(t, stream)
			if got.GetKind() == tokendv1.WatchEventsResponse_KIND_MISSED {
				if got.GetMissed() < 1 {
					t.Fatalf("%v", got)
				}
				missed += int(got.GetMissed())
				next += step * int(got.GetMissed())
				continue
			}
			if at := int(got.GetTime().GetSeconds()); at != next {
				t.Fatalf("%d, want %d after %d missed ones", at, next, missed)
			}
			next += step
		}
		if missed == 0 {
			t.Error("none was missed")
		}
	}
}

func TestEventWatchersLimit(t *testing.T) {
	d, c := eventful(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range maxEventWatchers {
		stream, err := c.WatchEvents(ctx, &tokendv1.WatchEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := join(t, c, &tokendv1.WatchEventsRequest{}).Recv()
	if r, _ := statusReason(err); r != "THROTTLED" || status.Code(err) != codes.Unavailable {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for { // they end a little later
		stream := join(t, c, &tokendv1.WatchEventsRequest{Recent: true})
		d.events.add(broker.Event{Kind: broker.Woken})
		if _, err = stream.Recv(); err == nil {
			return
		}
		if r, _ := statusReason(err); r != "THROTTLED" {
			t.Fatal(err)
		}
	}
}
