package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tokend/client"
	"tokend/client/api"
	"tokend/test/authserver"
)

func init() { programs["callers"] = callers }

// callers is one process of many callers: CALLERS goroutines that each ask once
// for CALLERS_PROFILE, with CALLERS_SCOPES each for a scope of its own. It prints
// how many got what: a reason, or the fingerprint of a token.
func callers() error {
	n, err := strconv.Atoi(os.Getenv("CALLERS"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var (
		c   client.Client
		mu  sync.Mutex
		all sync.WaitGroup
		got = make(map[string]int)
	)
	for i := range n {
		all.Go(func() {
			r := client.TokenRequest{Profile: os.Getenv("CALLERS_PROFILE")}
			if scopes := os.Getenv("CALLERS_SCOPES"); scopes != "" {
				r.Scopes = []string{scopes + strconv.Itoa(i)}
			}
			token, err := c.Token(ctx, r)
			var refused *client.Error
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.As(err, &refused):
				got[refused.Reason.String()]++
			case err != nil:
				got[err.Error()]++
			default:
				got[token.Fingerprint]++
			}
		})
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(got)
}

// crowdOf is a thousand callers in four processes, and what they got. With scopes
// each asks for one of its own.
func (h *home) crowdOf(t *testing.T, profile string, scopes bool) map[string]int {
	t.Helper()
	const processes, callers = 4, 1000
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	commands := make([]*exec.Cmd, processes)
	for i := range commands {
		cmd := h.command(self)
		cmd.Env = append(slices.Clone(h.env), "TOKEND_TEST_AS=callers", "CALLERS_PROFILE="+profile, "CALLERS="+strconv.Itoa(callers/processes))
		if scopes {
			cmd.Env = append(cmd.Env, fmt.Sprintf("CALLERS_SCOPES=s%d.", i))
		}
		cmd.Stdout, cmd.Stderr = new(bytes.Buffer), t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		commands[i] = cmd
	}
	total := make(map[string]int)
	for _, cmd := range commands {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		var got map[string]int
		if err := json.Unmarshal(cmd.Stdout.(*bytes.Buffer).Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		for what, n := range got {
			total[what] += n
		}
	}
	return total
}

// A server that has refused the client is asked once, whoever comes, for
// whatever scope, over a restart of the daemon; and once more where there is
// reason to.
func TestRefusedClientIsAskedForOnce(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "c", Secret: "s3cret-that-is-right"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	for _, test := range []struct {
		name   string
		scopes bool // the first crowd asks for a thousand
	}{{"one token", false}, {"a thousand tokens", true}} {
		t.Run(test.name, func(t *testing.T) {
			s.Forget()
			wrong := c
			wrong.Secret = "s3cret-that-is-wrong"
			h := withProfile(t, s, "dev/refused", wrong)
			refused := map[string]int{api.ReasonClientRefused.String(): 1000}
			want := func(what string, requests int, scopes bool) {
				t.Helper()
				if got := h.crowdOf(t, "dev/refused", scopes); !maps.Equal(got, refused) {
					t.Errorf("%s: the crowd got %v, want %v", what, got, refused)
				}
				if n := s.Count("/token"); n != requests {
					t.Errorf("%s: %d requests so far, want %d", what, n, requests)
				}
			}
			want("at first", 1, test.scopes)
			h.must(t, "", "daemon", "restart")
			want("after a restart", 1, !test.scopes)
			h.wantFailure(t, 8, "invalid_client", "get", "dev/refused")
			h.must(t, "", "reset", "dev/refused")
			want("after a reset", 2, test.scopes)
			h.must(t, profileOf(s, wrong)+"OAUTH2_SCOPE=read\n", "add", "dev/refused", "--replace")
			want("of another text", 3, !test.scopes)
			// What is right at last is not held against what was wrong.
			h.must(t, profileOf(s, c), "add", "dev/refused", "--replace")
			if h.get(t, "dev/refused") == "" {
				t.Error("an empty token")
			}
			if n := s.Count("/token"); n != 4 {
				t.Errorf("%d requests with the right secret, want 4", n)
			}
		})
	}
}

// Who says for how long to be left alone is, by all profiles.
func TestRetryAfterClosesTheOrigin(t *testing.T) {
	t.Parallel()
	const wait = 4 * time.Second
	a := authserver.Client{ID: "a", Secret: "s3cret-a"}
	b := authserver.Client{ID: "b", Secret: "s3cret-b"}
	for _, test := range []struct {
		name   string
		status int
		header func() string
		slack  time.Duration // for what the header cannot say
	}{
		{"429 and seconds", 429, func() string { return "4" }, 0},
		{"429 and a date", 429, func() string { return time.Now().Add(wait).UTC().Format(http.TimeFormat) }, time.Second},
		{"503 and seconds", 503, func() string { return "4" }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{a, b}})
			other := authserver.Start(t, authserver.Config{Clients: []authserver.Client{a}})
			h := withProfile(t, s, "p/a", a)
			h.must(t, profileOf(s, b), "add", "p/b")
			h.must(t, profileOf(other, a), "add", "p/other")
			s.AnyClient().Then(authserver.Answer{Status: test.status, Header: http.Header{"Retry-After": {test.header()}}})
			h.wantFailure(t, 75, "next try in", "get", "p/a")
			h.wantFailure(t, 75, "next try in", "get", "p/b")
			if h.get(t, "p/other") == "" {
				t.Error("an empty token of another origin")
			}
			// That is the server's to say, and no matter of the profile's.
			h.must(t, "", "reset", "p/a")
			c := h.client(t)
			var all errgroup.Group
			for _, profile := range []string{"p/a", "p/b"} {
				for range 3 {
					all.Go(func() error {
						for {
							_, err := c.Token(t.Context(), client.TokenRequest{Profile: profile})
							var refused *client.Error
							switch {
							case err == nil:
								return nil
							case !errors.As(err, &refused) || refused.Reason != api.ReasonThrottled || refused.RetryAfter <= 0 || refused.RetryAfter > wait+time.Second:
								return fmt.Errorf("%s: %w, next try in %v", profile, err, refused.RetryAfter)
							}
							time.Sleep(10 * time.Millisecond)
						}
					})
				}
			}
			if err := all.Wait(); err != nil {
				t.Error(err)
			}
			at := when(s)
			if len(at) != 3 || at[1] < wait-test.slack-100*time.Millisecond || at[2] > wait+time.Second {
				t.Errorf("requests at %v, want one, and after %v one for each profile", at, wait)
			}
		})
	}
}

// A thousand profiles whose tokens live equally long, and that are asked for all
// at once, never make a burst; and those that nobody asks for any more are
// renewed no second time.
func TestThousandProfilesRenewInNoBurst(t *testing.T) {
	t.Parallel()
	const (
		profiles = 1000
		rate     = 200 // requests a second: the default takes a minute for these
		life     = 30 * time.Second
	)
	c := authserver.Client{ID: "c", Secret: "s3cret", Opaque: true}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}, Lifetime: life})
	h := newHome(t)
	h.env = append(h.env, "TOKEND_TRUST=all", "TOKEND_RATE_LIMIT="+strconv.Itoa(rate))
	h.must(t, "", "init")
	ours := h.client(t)
	name := func(i int) string { return fmt.Sprintf("f%02d/p%02d", i/50, i%50) }
	var puts errgroup.Group
	puts.SetLimit(4) // this process has few calls at a time, and other tests
	for i := range profiles {
		puts.Go(func() error {
			text := profileOf(s, c) + "OAUTH2_RENEW_AT=0.5\nOAUTH2_SCOPE=" + strconv.Itoa(i) + "\n"
			return ours.Call(t.Context(), api.MethodPutProfile, &api.PutProfileRequest{Name: name(i), Text: []byte(text)}, &api.PutProfileResponse{})
		})
	}
	if err := puts.Wait(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var gets errgroup.Group
	gets.SetLimit(4)
	for i := range profiles {
		gets.Go(func() error {
			_, err := ours.Token(ctx, client.TokenRequest{Profile: name(i)})
			return err
		})
	}
	if err := gets.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(ctx, "/token", 2*profiles); err != nil {
		t.Fatalf("%d requests after all had to be renewed: %v", s.Count("/token"), err)
	}
	// The second tokens would be renewed about now, and soon be dead.
	all := s.Requests()
	sleepUntil(t, all[profiles].Time.Add(life*6/10))
	all = s.Requests()
	made := make(map[string]time.Time)
	fetches := 0
	var renewals []time.Time
	for _, r := range all {
		scope := r.Form.Get("scope")
		before, ok := made[scope]
		made[scope] = r.Time
		if !ok {
			fetches++
			continue
		}
		renewals = append(renewals, r.Time)
		if after := r.Time.Sub(before); after < life*4/10 || after > life*9/10 {
			t.Errorf("the token of %s was renewed after %v", scope, after)
		}
	}
	if fetches != profiles || len(renewals) != profiles {
		t.Fatalf("%d tokens were fetched and %d renewed, want %d and %d", fetches, len(renewals), profiles, profiles)
	}
	// In a second there are to be no more than half of the rate. It is counted from the
	// first: who is held up for a moment has something to make good, and does so later
	// than the time that it was given, never earlier. The first may itself have been held
	// up, which is what the two seconds are for. Without a limit all come within five.
	for i, at := range renewals {
		no := time.Duration(i)*time.Second/(rate/2) - 2*time.Second
		if after := at.Sub(renewals[0]); after < no {
			t.Fatalf("renewal %d came %v after the first, want %v at the least", i+1, after, no)
		}
	}
	t.Logf("renewed within %v", renewals[profiles-1].Sub(renewals[0]))
}
