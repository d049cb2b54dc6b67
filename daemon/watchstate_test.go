package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"tokend/broker"
	"tokend/internal/settings"
	"tokend/oauth"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }

func TestOnlyWatchesHaveNoTimeLimit(t *testing.T) {
	d := &Daemon{settings: &settings.Settings{}}
	d.era, d.endEra = context.WithCancel(t.Context())
	d.stopping, d.beginStop = context.WithCancel(t.Context())
	for method, endless := range map[string]bool{
		healthpb.Health_Watch_FullMethodName:                     true,
		tokendv1grpc.TokenService_WatchToken_FullMethodName:      true,
		tokendv1grpc.DaemonService_WatchEvents_FullMethodName:    true,
		tokendv1grpc.DaemonService_Init_FullMethodName:           false,
		tokendv1grpc.ProfileService_Login_FullMethodName:         false,
		tokendv1grpc.ProfileService_Register_FullMethodName:      false,
		"/grpc.reflection.v1.ServerReflection/ServerReflectInfo": false,
	} {
		err := d.stream(nil, contextStream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, s grpc.ServerStream) error {
			until, limited := s.Context().Deadline()
			if limited == endless || limited && time.Until(until) > streamTime {
				t.Errorf("%s: until %v", method, until)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	d.beginStop()
}

// What is sent of the states of one token, of which some come between two
// sendings: "A1" is the token A with one hour left, "!" a problem, "A1!" one with
// A still living.
func TestWatchStates(t *testing.T) {
	state := func(w *watch, text string) {
		var token broker.Token
		var err error
		if name := strings.TrimSuffix(text, "!"); name != "" {
			token = broker.Token{Access: oauth.NewSecret(name), Fingerprint: broker.Fingerprint(name), Remaining: time.Hour}
		}
		if strings.HasSuffix(text, "!") {
			err = profileError("a", errors.New("why"))
		}
		w.set(0, token, err)
	}
	for _, test := range []struct{ states, want string }{
		{"A .", "A"},
		{"A . B .", "A B"},
		{"A B .", "B"},
		{"! .", "!"},
		{"A . A! .", "A lives!"},
		{"A! .", "A lives!"},
		{"A A! .", "A lives!"},
		{"A . B! .", "A B lives!"},
		{"A . A! . B .", "A lives! B"},
		{"A . A! B .", "A B"},
		{"A . A! . A .", "A lives! A"},
		{"A . A! . ! .", "A lives! !"},
		{"A . A! ! .", "A !"},
		{"A! , B .", "A B"},
		{"A! , ! .", "A !"},
		{"A! , A .", "A A"},
		{"! A ! A! .", "A lives!"},
	} {
		w := &watch{items: []watched{{request: broker.Request{Profile: "a"}}}, wake: make(chan struct{}, 1)}
		var got []string
		send := func() bool {
			resp := w.next()
			if resp == nil {
				return false
			}
			if p := resp.GetProblem(); p != nil {
				if p.GetReason() != tokendv1.Reason_REASON_STORE_UNAVAILABLE || p.GetMessage() != "why" {
					t.Errorf("%q: %v", test.states, p)
				}
				if p.GetTokenLives() {
					got = append(got, "lives!")
				} else {
					got = append(got, "!")
				}
				return true
			}
			got = append(got, resp.GetToken().GetAccessToken())
			return true
		}
		for _, s := range strings.Fields(test.states) {
			switch s {
			case ".": // sends all there is
				for send() {
				}
			case ",": // sends one
				send()
			default:
				state(w, s)
				select {
				case <-w.wake:
				default:
				}
			}
			if len(w.due) > 1 {
				t.Errorf("%q: due %v", test.states, w.due)
			}
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%q: %q, want %q", test.states, text, test.want)
		}
	}
}

// What has waited for its client is sent as it is by then.
func TestWatchStateAges(t *testing.T) {
	w := &watch{items: make([]watched, 2), wake: make(chan struct{}, 1)}
	w.set(0, broker.Token{Access: oauth.NewSecret("t"), Fingerprint: broker.Fingerprint("t"), Remaining: time.Hour, Lifetime: 2 * time.Hour}, failureAfter(tokendv1.Reason_REASON_PROVIDER_DOWN, "down", time.Minute))
	w.set(1, broker.Token{Access: oauth.NewSecret("t"), Fingerprint: broker.Fingerprint("t"), Remaining: 5 * time.Minute}, failure(tokendv1.Reason_REASON_LOGIN_REQUIRED, "login"))
	for i := range w.items {
		w.items[i].at -= 10 * time.Minute
	}
	near := func(got, want time.Duration) bool { return got <= want && got > want-time.Minute }
	if got := w.next().GetToken(); !near(got.GetExpiresIn().AsDuration(), 50*time.Minute) || !near(time.Until(got.GetExpiresAt().AsTime()), 50*time.Minute) ||
		got.GetLifetime().AsDuration() != 2*time.Hour {
		t.Errorf("%v", got)
	}
	if got := w.next().GetProblem(); got.GetRetryAfter() == nil || got.GetRetryAfter().AsDuration() != 0 || !got.GetTokenLives() {
		t.Errorf("%v", got)
	}
	if got := w.next().GetToken(); got.GetExpiresIn().AsDuration() != 0 {
		t.Errorf("%v", got)
	}
	if got := w.next().GetProblem(); got.GetRetryAfter() != nil || got.GetTokenLives() {
		t.Errorf("a token that has died meanwhile: %v", got)
	}
	if got := w.next(); got != nil {
		t.Errorf("and %v", got)
	}
}

// A token that no message has room for ends no stream.
func TestWatchTooLarge(t *testing.T) {
	w := &watch{items: []watched{{request: broker.Request{Profile: "a"}}}, wake: make(chan struct{}, 1)}
	token := strings.Repeat("t", 48<<10)
	w.set(0, broker.Token{Access: oauth.NewSecret(token), Fingerprint: broker.Fingerprint(token), APIOrigins: []string{"https://" + strings.Repeat("a", 17<<10)}}, nil)
	if got := w.next().GetProblem(); got.GetReason() != tokendv1.Reason_REASON_PROFILE_INVALID || !strings.Contains(got.GetMessage(), "larger than an answer") {
		t.Errorf("%v", got)
	}
}
