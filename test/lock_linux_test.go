package test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tokend/client"
	"tokend/client/api"
	"tokend/test/authserver"
)

// A lock waits for no server, and what a server is just giving is still saved.
func TestLockWhileARefreshTokenIsSpent(t *testing.T) {
	t.Parallel()
	r := newRotating(t, strict)
	r.cold(t)
	r.server.Forget()
	before := r.record(t, strict.ID)
	// The server has spent the token, and takes its time to answer.
	r.server.Client(strict.ID).Then(authserver.Answer{Hang: true, Late: true})
	waiting := make(chan result, 1)
	cmd := r.command(filepath.Join(r.bin, "tokenctl"), "get", strict.ID)
	go func() { waiting <- finish(t, cmd) }()
	if err := r.server.Await(t.Context(), "/token", 1); err != nil {
		t.Fatal(err)
	}
	r.must(t, "", "lock")
	select {
	case got := <-waiting:
		if got.code != 5 || got.out != "" {
			t.Errorf("who waited: %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("who waits for a token waits on, though it is locked")
	}
	start := time.Now()
	r.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", strict.ID)
	t.Logf("a get while the server hangs took %v", time.Since(start))
	if r.server.Accepts(before.RefreshToken) || r.record(t, strict.ID).RefreshToken != before.RefreshToken {
		t.Fatal("the refresh token is not being exchanged: this test shows nothing")
	}
	r.server.Release()
	waitFor(t, "the new refresh token in the record", func() bool {
		now := r.record(t, strict.ID).RefreshToken
		return now != before.RefreshToken && r.server.Accepts(now)
	})
	r.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", strict.ID)
	if n := r.server.Count("/token"); n != 1 {
		t.Errorf("%d requests while locked", n)
	}
	r.must(t, "", "unlock")
	first := r.get(t, strict.ID)
	if second := r.get(t, "--force", strict.ID); first == "" || second == "" {
		t.Error("an empty token")
	}
	for _, token := range r.server.Ledger(strict.ID).Tokens {
		if token.Again > 0 {
			t.Errorf("a spent refresh token was sent %d times more", token.Again)
		}
	}
	if got := r.record(t, strict.ID); got.Ended != "" {
		t.Errorf("the session has ended: %s", got.Ended)
	}
}

// Ten people who try passphrases slow nobody else, and one key is derived at a
// time.
func TestWrongPassphrasesSlowNobody(t *testing.T) {
	h := newHome(t)
	right, wrong := filepath.Join(h.dir, "right"), filepath.Join(h.dir, "wrong")
	for file, text := range map[string]string{right: "open sesame", wrong: "open rye"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.must(t, "", "init", "--passphrase-file", right)
	h.must(t, "", "lock")
	s := h.status(t)
	c := client.Client{Socket: s.Socket, Dir: filepath.Dir(s.ProfilesDir)}
	get := func() time.Duration {
		start := time.Now()
		_, err := c.Token(t.Context(), client.TokenRequest{Profile: "p"})
		took := time.Since(start)
		var call *client.Error
		if !errors.As(err, &call) || call.Reason != api.ReasonLocked {
			t.Errorf("get: %v", err)
		}
		return took
	}
	var without, with []time.Duration
	for range 300 {
		without = append(without, get())
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	codes := make(chan int, 10)
	for range cap(codes) {
		cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "tokenctl"), "unlock", "--passphrase-file", wrong)
		cmd.Env = h.env
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = cmd.Wait()
			codes <- cmd.ProcessState.ExitCode()
		}()
	}
	refused, most := 0, 0
	ended := 0
	for refused < 2 && ended < cap(codes) { // until two keys have been derived
		with = append(with, get())
		if len(with)%20 == 0 {
			most = max(most, deriving(t, s.PID))
		}
		select {
		case code := <-codes:
			ended++
			switch code {
			case 7:
				refused++
			case 75: // too many at a time
			default:
				t.Errorf("an unlock ended with %d", code)
			}
		default:
		}
	}
	cancel()
	for ; ended < cap(codes); ended++ {
		<-codes
	}
	if refused < 2 {
		t.Errorf("%d wrong passphrases were refused", refused)
	}
	if most != 1 {
		t.Errorf("%d keys were derived at a time, want 1", most)
	}
	slices.Sort(without)
	slices.Sort(with)
	p99 := func(all []time.Duration) time.Duration { return all[len(all)*99/100].Round(10 * time.Microsecond) }
	t.Logf("p99 of get: %v alone (%d calls), %v while ten unlock with a wrong passphrase (%d calls)", p99(without), len(without), p99(with), len(with))
	if got := p99(with); got > 250*time.Millisecond {
		t.Errorf("p99 of get is %v while others unlock, %v without", got, p99(without))
	}
	if got := h.locked(t); got.State != "locked" {
		t.Errorf("%+v", got)
	}
	h.must(t, "", "unlock", "--passphrase-file", right)
}

// deriving counts the daemon's children that hold what deriving a key takes.
func deriving(t *testing.T, pid int) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		kib, _ := strconv.Atoi(strings.TrimSuffix(fields["VmRSS"], " kB"))
		if fields["PPid"] == strconv.Itoa(pid) && kib > 100<<10 {
			n++
		}
	}
	return n
}
