package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokend/client"
	"tokend/client/api"
	"tokend/test/authserver"
)

// A providerFault is how a provider fails, and what comes of it.
type providerFault struct {
	name   string
	answer authserver.Answer
	then   *authserver.Answer // after the first, where it is another
	gone   bool               // nobody listens any more
	slow   bool               // it takes as long as it may

	// Who has no token gets a reason and a cause. retry is how long the first such
	// answer stands, at least and at most, in seconds.
	reason api.Reason
	cause  string
	retry  [2]int64
	// requests is how many reach the server in faultTime, with callers all the
	// time who have no token; renewals in renewTime, where they have one.
	requests, renewals int
}

const (
	faultLife = 20 * time.Second // of the tokens that live while it fails
	faultTime = 29 * time.Second
	renewTime = 6500 * time.Millisecond // from the first renewal
	// faultDelay is before an answer to a renewal, so that whoever is stalled by
	// one can be told from who is not.
	faultDelay = 700 * time.Millisecond
	notStalled = faultDelay * 4 / 5
)

// backOff is how long it is left alone at first: 1 s and up to half of it more.
var backOff = [2]int64{1, 2}

// The requests of those that back off come after 0, 1 to 1.5, 3 to 4.5, 7 to
// 10.5 and 15 to 22.5 s.
var providerFaults = []providerFault{
	{name: "connection refused", gone: true,
		reason: api.ReasonProviderDown, cause: "connection refused", retry: backOff},
	{name: "accepts, never answers", answer: authserver.Answer{Hang: true}, slow: true,
		reason: api.ReasonProviderDown, cause: "no answer in time", requests: 1, renewals: 1},
	{name: "a byte a second", answer: authserver.Answer{Trickle: time.Second}, slow: true,
		reason: api.ReasonProviderDown, cause: "no answer in time", requests: 1, renewals: 1},
	{name: "reset amid the body", answer: authserver.Answer{Fault: authserver.ResetInBody},
		reason: api.ReasonProviderDown, cause: "connection reset by peer", retry: backOff, requests: 5, renewals: 3},
	{name: "a portal's page, with 200", answer: scripted(200, "text/html; charset=utf-8", "<!doctype html><title>Welcome</title><p>Log in to our network"),
		reason: api.ReasonProviderDown, cause: "the answer is a web page; is there a captive portal between? (HTTP 200)", retry: backOff, requests: 5, renewals: 3},
	{name: "200 with an error", answer: scripted(200, "application/json", `{"error":"invalid_scope"}`),
		reason: api.ReasonRequestRefused, cause: "invalid_scope (HTTP 200)", retry: [2]int64{58, 62}, requests: 1, renewals: 1},
	{name: "200 with temporarily_unavailable", answer: scripted(200, "application/json", `{"error":"temporarily_unavailable"}`),
		reason: api.ReasonProviderDown, cause: "temporarily_unavailable (HTTP 200)", retry: backOff, requests: 5, renewals: 3},
	{name: "500", answer: scripted(500, "text/plain", "oops"),
		reason: api.ReasonProviderDown, cause: "no OAuth error in the answer (HTTP 500)", retry: backOff, requests: 5, renewals: 3},
	{name: "503, Retry-After: 20", answer: scripted(503, "text/plain", "", "Retry-After", "20"),
		reason: api.ReasonThrottled, cause: "no OAuth error in the answer (HTTP 503)", retry: [2]int64{19, 20}, requests: 2, renewals: 1},
	{name: "429, Retry-After: 20", answer: scripted(429, "text/plain", "", "Retry-After", "20"),
		reason: api.ReasonThrottled, cause: "no OAuth error in the answer (HTTP 429)", retry: [2]int64{19, 20}, requests: 2, renewals: 1},
	{name: "429, Retry-After: a date in 20 s", answer: scripted(429, "text/plain", "", "Retry-After", inTwenty), then: &always429,
		reason: api.ReasonThrottled, cause: "no OAuth error in the answer (HTTP 429)", retry: [2]int64{17, 21}, requests: 2, renewals: 1},
	{name: "429", answer: scripted(429, "text/plain", ""),
		reason: api.ReasonThrottled, cause: "no OAuth error in the answer (HTTP 429)", retry: backOff, requests: 5, renewals: 3},
	{name: "slow_down", answer: authserver.Answer{Error: "slow_down"},
		reason: api.ReasonThrottled, cause: "slow_down: as scripted (HTTP 400)", retry: backOff, requests: 5, renewals: 3},
	{name: "truncated JSON", answer: scripted(200, "application/json", `{"access_token":"CANARY-half-a-tok`),
		reason: api.ReasonProviderDown, cause: "the answer is not JSON (HTTP 200)", retry: backOff, requests: 5, renewals: 3},
	{name: "a body of 1 GiB", answer: authserver.Answer{Pad: 1 << 30},
		reason: api.ReasonProviderDown, cause: "the answer is larger than 1 MiB (HTTP 200)", retry: backOff, requests: 5, renewals: 3},
}

// inTwenty stands for the date in 20 s.
const inTwenty = "in twenty seconds"

var always429 = scripted(429, "text/plain", "", "Retry-After", "60")

func scripted(status int, media, body string, header ...string) authserver.Answer {
	a := authserver.Answer{Status: status, Body: body, Header: http.Header{"Content-Type": {media}}}
	for i := 0; i < len(header); i += 2 {
		a.Header.Set(header[i], header[i+1])
	}
	return a
}

// begin makes a server fail from now on.
func (f *providerFault) begin(s *authserver.Server, delay time.Duration) {
	s.Forget()
	if f.gone {
		s.Close()
		return
	}
	a := f.answer
	a.Delay = delay
	if a.Header.Get("Retry-After") == inTwenty {
		a.Header = http.Header{"Retry-After": {time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat)}}
	}
	if f.then != nil {
		s.AnyClient().Then(a)
		a = *f.then
	}
	s.AnyClient().Always(a)
}

// faulty is a row of the table while it is measured: one provider with a caller
// who has a token, and one with a caller who has none.
type faulty struct {
	*providerFault
	living, without *authserver.Server
	token           *client.Token

	// What the callers saw. Each is one caller's until that has ended.
	slowest  time.Duration // of those with a token, while it is being renewed
	last     client.Token  // that they got
	refused  client.Error  // what a caller without a token got last
	surprise []string
}

func (f *faulty) surprised(format string, args ...any) {
	f.surprise = append(f.surprise, fmt.Sprintf(format, args...))
}

// callLiving asks for a token that lives, all the time until there have been
// renewals for renewTime.
func (f *faulty) callLiving(ctx context.Context, c *client.Client, profile string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var since time.Time
	for since.IsZero() || time.Since(since) < renewTime {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.surprised("no renewal was tried")
			return
		}
		begin := time.Now()
		t, err := c.Token(ctx, client.TokenRequest{Profile: profile})
		if !since.IsZero() {
			f.slowest = max(f.slowest, time.Since(begin))
		}
		if err != nil {
			f.surprised("with a token that lives: %v", err)
			return
		}
		if t.Fingerprint != f.token.Fingerprint {
			f.surprised("another token")
			return
		}
		f.last = *t
		if all := f.living.Requests(); since.IsZero() && len(all) > 0 {
			since = all[0].Time
		}
		if since.IsZero() && f.gone && t.Degraded {
			since = begin
		}
	}
}

// slowestOf asks for a token that nothing is the matter with, all the time, and
// returns how long that took at most: as long as the machine made it take.
func slowestOf(ctx context.Context, c *client.Client, profile string) (time.Duration, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var slowest time.Duration
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return slowest, nil
		}
		begin := time.Now()
		_, err := c.Token(ctx, client.TokenRequest{Profile: profile})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return 0, fmt.Errorf("of a provider that works: %w", err)
		}
		slowest = max(slowest, time.Since(begin))
	}
}

// callWithout asks for a token that cannot be had, all the time.
func (f *faulty) callWithout(ctx context.Context, c *client.Client, profile string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// Those of a provider that hangs must leave room for the others.
		call, cancel := context.WithTimeout(ctx, time.Second)
		_, err := c.Token(call, client.TokenRequest{Profile: profile})
		cancel()
		var refused *client.Error
		switch {
		case errors.As(err, &refused):
			f.refused = *refused
		case err == nil:
			f.surprised("a token from a provider that fails")
		case !errors.Is(err, context.DeadlineExceeded):
			f.surprised("%v", err)
		}
	}
}

// client calls the home's daemon from this process.
func (h *home) client(t *testing.T) *client.Client {
	t.Helper()
	s := h.status(t)
	return &client.Client{Socket: s.Socket, Dir: filepath.Dir(s.ProfilesDir)}
}

// Every fault at once, each at providers of its own, with one daemon.
func TestProviderFaults(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	h := newHome(t)
	h.must(t, "", "init")
	rows := make([]*faulty, len(providerFaults))
	living := func(i int) string { return fmt.Sprintf("living/%d", i) }
	without := func(i int) string { return fmt.Sprintf("without/%d", i) }
	for i := range rows {
		rows[i] = &faulty{
			providerFault: &providerFaults[i],
			living:        authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}, Lifetime: faultLife}),
			without:       authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}, Lifetime: faultLife}),
		}
		h.must(t, profileOf(rows[i].living, c)+"OAUTH2_RENEW_AT=0.5\n", "add", living(i))
		h.must(t, profileOf(rows[i].without, c), "add", without(i))
	}
	works := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h.must(t, profileOf(works, c), "add", "works")
	ours := h.client(t)
	for i, f := range rows {
		var err error
		if f.token, err = ours.Token(t.Context(), client.TokenRequest{Profile: living(i)}); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	ctx, cancel := context.WithDeadline(t.Context(), begin.Add(faultTime))
	defer cancel()
	first := make([]*running, len(rows))
	var callers sync.WaitGroup
	var machine time.Duration
	var machineErr error
	callers.Go(func() { machine, machineErr = slowestOf(ctx, ours, "works") })
	for i, f := range rows {
		f.begin(f.living, faultDelay)
		f.begin(f.without, 0)
		first[i] = h.begin(t, "get", without(i))
		callers.Go(func() { f.callLiving(ctx, ours, living(i)) })
		callers.Go(func() { f.callWithout(ctx, ours, without(i)) })
	}
	for i, f := range rows {
		f.wantRefusal(t, without(i), begin, first[i].end(t))
	}
	// All renewals have been tried by now, and all tokens have some life left.
	sleepUntil(t, begin.Add(faultLife*7/10))
	for i, f := range rows {
		f.wantServed(t, living(i), h.tokenctl(t, "", "get", living(i)))
	}
	sleepUntil(t, begin.Add(faultTime))
	counts := make([]int, len(rows))
	for i, f := range rows {
		counts[i] = f.without.Count("/token")
	}
	callers.Wait()
	if machineErr != nil {
		t.Error(machineErr)
	}
	for i, f := range rows {
		if len(f.surprise) > 0 {
			t.Errorf("%s: %s", f.name, strings.Join(slices.Compact(f.surprise), "; "))
		}
		if counts[i] != f.requests {
			t.Errorf("%s: %d requests in %v, want %d: %v", f.name, counts[i], faultTime, f.requests, when(f.without))
		}
		if !f.slow && (f.refused.Reason != f.reason || !strings.HasSuffix(f.refused.Message, f.cause) || f.refused.RetryAfter <= 0) {
			t.Errorf("%s: at the end, without a token: %v %q, next try in %v", f.name, f.refused.Reason, f.refused.Message, f.refused.RetryAfter)
		}
		renewals := 0
		for _, at := range when(f.living) {
			if at < renewTime {
				renewals++
			}
		}
		if renewals != f.renewals {
			t.Errorf("%s: %d renewals in %v, want %d: %v", f.name, renewals, renewTime, f.renewals, when(f.living))
		}
		if f.last.Degraded == f.slow {
			t.Errorf("%s: at the end, with a token: degraded: %v, %q", f.name, f.last.Degraded, f.last.Warning)
		}
		if f.slowest > machine+notStalled {
			t.Errorf("%s: a caller with a token waited %v, one whose provider works %v", f.name, f.slowest, machine)
		}
	}
	if !t.Failed() {
		wantDocumented(t, "provider faults", faultTable())
	}
}

// A running command of a home.
type running struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
}

// begin starts tokenctl.
func (h *home) begin(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{cmd: h.command(append([]string{filepath.Join(h.bin, "tokenctl")}, args...)...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.err
	r.cmd.WaitDelay = 10 * time.Second
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *running) end(t *testing.T) result {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { r.cmd.Process.Kill() })
	defer timer.Stop()
	if err := r.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return result{r.out.String(), r.err.String(), r.cmd.ProcessState.ExitCode()}
}

// exits are the statuses of the reasons that a failing provider is for.
var exits = map[api.Reason]int{api.ReasonProviderDown: 75, api.ReasonThrottled: 75, api.ReasonRequestRefused: 8}

var (
	nextTry   = regexp.MustCompile(`; next try in (\S+)$`)
	notBefore = regexp.MustCompile(`; not asked again before (\d\d:\d\d:\d\d)`)
)

// wantRefusal looks at what somebody without a token was told at about a time.
func (f *faulty) wantRefusal(t *testing.T, profile string, about time.Time, r result) {
	t.Helper()
	line, ended := strings.CutSuffix(r.err, "\n")
	if r.code != exits[f.reason] || r.out != "" || !ended || strings.Contains(line, "\n") {
		t.Errorf("%s: without a token: %v", f.name, r)
		return
	}
	retry := int64(1) // is not told
	if m := nextTry.FindStringSubmatch(line); m != nil {
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Error(err)
		}
		retry = int64(d / time.Second)
		line = strings.TrimSuffix(line, m[0])
	}
	line = strings.TrimSuffix(line, "; to keep trying: tokenctl get --wait 1m "+profile)
	want := "tokenctl: " + profile + ": " + f.line(f.without)
	if m := notBefore.FindStringSubmatch(line); m != nil {
		at, err := time.ParseInLocation(time.DateTime, about.Format(time.DateOnly)+" "+m[1], time.Local)
		if err != nil {
			t.Error(err)
		}
		if at.Before(about) {
			at = at.AddDate(0, 0, 1)
		}
		retry = int64(at.Sub(about).Round(time.Second) / time.Second)
		line = strings.Replace(line, m[0], "", 1)
	}
	if f.reason == api.ReasonRequestRefused {
		want += "; check OAUTH2_SCOPE, then: tokenctl reset " + profile
	}
	if f.slow {
		want = "tokenctl: " + profile + ": " + f.cause
		retry = f.retry[0]
	}
	if line != want || retry < f.retry[0] || retry > f.retry[1] {
		t.Errorf("%s: without a token: %q, next try in %d s; want %q, %d to %d s", f.name, line, retry, want, f.retry[0], f.retry[1])
	}
}

func (f *faulty) line(s *authserver.Server) string {
	return "asking " + strings.TrimPrefix(s.URL, "http://") + " for a token: " + f.cause
}

// wantServed looks at what somebody with a token was given, once it could not be
// renewed.
func (f *faulty) wantServed(t *testing.T, profile string, r result) {
	t.Helper()
	warning := regexp.QuoteMeta("tokenctl: "+profile+": warning: cannot renew it: "+f.line(f.living)) + `; good until \d\d:\d\d:\d\d\n`
	if f.slow {
		warning = "" // it is still being tried
	}
	if r.code != 0 || r.out != f.token.AccessToken+"\n" || !regexp.MustCompile("^"+warning+"$").MatchString(r.err) {
		t.Errorf("%s: with a token: exit status %d, the same token: %v, stderr %q, want one like %q", f.name, r.code, r.out == f.token.AccessToken+"\n", r.err, warning)
	}
}

// when returns when a server's token requests came, counted from the first.
func when(s *authserver.Server) []time.Duration {
	var at []time.Duration
	var first time.Time
	for _, r := range s.Requests() {
		if r.Path != "/token" {
			continue
		}
		if first.IsZero() {
			first = r.Time
		}
		at = append(at, r.Time.Sub(first).Round(time.Millisecond))
	}
	return at
}

func sleepUntil(t *testing.T, at time.Time) {
	t.Helper()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// faultTable is what providerFaults says, as docs/reliability.md has it.
func faultTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| the provider | who has a token gets it at once, with exit status 0, and | who has none: exit status, reason and cause | next try | requests in %v s | renewals in %v s |\n|---|---|---|---|---|---|\n", faultTime.Seconds(), renewTime.Seconds())
	for _, f := range providerFaults {
		warning := "a warning: `cannot renew it: …; good until …`"
		retry := fmt.Sprintf("in %d to %d s", f.retry[0], f.retry[1])
		if f.slow {
			warning, retry = "no warning for 30 s: it is still being tried", "under way"
		}
		fmt.Fprintf(&b, "| %s | %s | %d `%s`: %s | %s | %d | %d |\n", f.name, warning, exits[f.reason], f.reason, f.cause, retry, f.requests, f.renewals)
	}
	return b.String()
}
