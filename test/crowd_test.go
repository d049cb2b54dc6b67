package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tokend/client"
	"tokend/test/authserver"
)

// crowdReport is what one process of the crowd saw.
type crowdReport struct {
	Tokens    map[string]int // callers that got it, by fingerprint
	Cancelled int
	Errors    map[string]int
}

// crowd is one process of TestColdCrowd: CROWD_CALLERS goroutines that ask for
// CROWD_PROFILE when the first line comes on stdin. At the second, one in ten
// of them goes away; when all of these have, it prints "cancelled".
func crowd() error {
	callers, err := strconv.Atoi(os.Getenv("CROWD_CALLERS"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	fickle, leave := context.WithCancel(ctx)
	defer leave()
	report := crowdReport{Tokens: make(map[string]int), Errors: make(map[string]int)}
	var mu sync.Mutex
	var all, gone sync.WaitGroup
	var c client.Client
	begin := make(chan struct{})
	for i := range callers {
		ctx, wg := ctx, &all
		if i%10 == 0 {
			ctx, wg = fickle, &gone
		}
		wg.Go(func() {
			<-begin
			token, err := c.Token(ctx, client.TokenRequest{Profile: os.Getenv("CROWD_PROFILE")})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				report.Tokens[token.Fingerprint]++
			case errors.Is(err, context.Canceled):
				report.Cancelled++
			default:
				report.Errors[err.Error()]++
			}
		})
	}
	in := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	close(begin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	leave()
	gone.Wait()
	fmt.Println("cancelled")
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(report)
}

// member is a process of the crowd, seen from the test.
type member struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startMember starts a command that hears from the test on its standard input, and
// tells it lines on its standard output.
func startMember(t *testing.T, cmd *exec.Cmd) *member {
	t.Helper()
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return &member{cmd, in, bufio.NewReader(out)}
}

func (m *member) tell(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(m.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

func (m *member) expect(t *testing.T, line string) {
	t.Helper()
	if got, err := m.out.ReadString('\n'); err != nil || got != line+"\n" {
		t.Fatalf("a process of the crowd said %q, %v, want %q", got, err, line)
	}
}

func TestColdCrowd(t *testing.T) {
	const processes, callers = 8, 10_000
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := authserver.Client{ID: "crowd", Secret: "s3cret-of-the-crowd"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "dev/crowd", c)
	s.AnyClient().Always(authserver.Answer{Hang: true})

	members := make([]*member, processes)
	for i := range members {
		cmd := h.command(self)
		cmd.Env = append(slices.Clone(h.env), "TOKEND_TEST_AS=crowd", "CROWD_PROFILE=dev/crowd",
			"CROWD_CALLERS="+strconv.Itoa(callers/processes))
		members[i] = startMember(t, cmd)
	}
	for _, m := range members {
		m.expect(t, "ready")
	}
	for _, m := range members {
		m.tell(t)
	}
	// Midway is when the server has been asked and has not answered.
	if err := s.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		m.tell(t)
	}
	for _, m := range members {
		m.expect(t, "cancelled")
	}
	s.Release()

	total := crowdReport{Tokens: make(map[string]int), Errors: make(map[string]int)}
	for _, m := range members {
		var r crowdReport
		if err := json.NewDecoder(m.out).Decode(&r); err != nil {
			t.Fatal(err)
		}
		if err := m.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		for token, n := range r.Tokens {
			total.Tokens[token] += n
		}
		for text, n := range r.Errors {
			total.Errors[text] += n
		}
		total.Cancelled += r.Cancelled
	}
	if len(total.Errors) > 0 {
		t.Errorf("errors: %v", total.Errors)
	}
	if got := slices.Collect(maps.Values(total.Tokens)); !slices.Equal(got, []int{callers / 10 * 9}) || total.Cancelled != callers/10 {
		t.Errorf("%d tokens for %v callers, %d cancelled; want one for %d, %d cancelled",
			len(got), got, total.Cancelled, callers/10*9, callers/10)
	}
	if n := s.Count("/token"); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// A fetch outlives the process that made it necessary.
func TestFetchOutlivesCaller(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "p", c)
	s.AnyClient().Then(authserver.Answer{Hang: true})

	cmd := h.command(filepath.Join(h.bin, "tokenctl"), "get", "p")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(t.Context(), "/token", 1); err != nil {
		t.Error(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	s.Release()
	if h.get(t, "p") == "" {
		t.Error("an empty token")
	}
	if n := s.Count("/token"); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestSlowProviderDelaysNobodyElse(t *testing.T) {
	slow := authserver.Client{ID: "slow", Secret: "s3cret-slow"}
	warm := authserver.Client{ID: "warm", Secret: "s3cret-warm"}
	quick := authserver.Client{ID: "quick", Secret: "s3cret-quick"}
	a := authserver.Start(t, authserver.Config{Clients: []authserver.Client{slow, warm, quick}})
	b := authserver.Start(t, authserver.Config{Clients: []authserver.Client{quick}})
	h := withProfile(t, a, "slow", slow)
	h.must(t, profileOf(a, warm), "add", "warm")
	h.must(t, profileOf(a, quick), "add", "same")
	h.must(t, profileOf(b, quick), "add", "other")
	cached := h.get(t, "warm")

	a.Client("slow").Always(authserver.Answer{Hang: true})
	a.Forget()
	const waiting = 20
	type ended struct {
		out []byte
		err error
	}
	ends := make(chan ended, waiting)
	for range waiting {
		cmd := h.command(filepath.Join(h.bin, "tokenctl"), "get", "slow", "--wait", "60s")
		cmd.WaitDelay = time.Second
		go func() {
			out, err := cmd.Output()
			ends <- ended{out, err}
		}()
	}
	if err := a.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	if got := h.get(t, "warm"); got != cached {
		t.Errorf("the cached token became another one")
	}
	for _, profile := range []string{"other", "same"} {
		if h.get(t, profile) == "" {
			t.Errorf("%s: an empty token", profile)
		}
	}
	// All that came to pass while the provider hung.
	if len(ends) != 0 {
		e := <-ends
		t.Errorf("a caller of the slow provider ended: %v, %q", e.err, e.out)
	}
	a.Release()
	tokens := make(map[string]bool)
	for range waiting {
		e := <-ends
		if e.err != nil {
			t.Error(e.err)
		}
		tokens[strings.TrimSpace(string(e.out))] = true
	}
	if n := a.CountOf("/token", "slow"); n != 1 || len(tokens) != 1 {
		t.Errorf("%d requests and %d tokens for the slow profile, want 1 and 1", n, len(tokens))
	}
}
