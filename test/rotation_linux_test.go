package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"tokend/test/authserver"
)

// Clients whose refresh tokens rotate: at a server that forgives one use more
// of a spent one, and at one that forgives none.
var (
	forgiven = authserver.Client{ID: "forgiven", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}, GraceUses: 1}
	strict   = authserver.Client{ID: "strict", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}}
)

// rotating is a home whose profiles are logged in at a server that rotates
// refresh tokens.
type rotating struct {
	*home
	server      *authserver.Server
	identity    []age.Identity
	profilesDir string
	sessionsDir string
	edits       int // of a text, each of which makes it another
}

// newRotating logs each client in, with a profile of the client's name.
func newRotating(t *testing.T, clients ...authserver.Client) *rotating {
	t.Helper()
	s := authserver.Start(t, authserver.Config{Clients: clients})
	r := &rotating{home: newHome(t), server: s}
	r.must(t, "", "init")
	said := r.status(t)
	r.profilesDir, r.sessionsDir = said.ProfilesDir, filepath.Join(r.dir, ".local/state/tokend/sessions")
	key, err := os.Open(said.IdentityFile)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if r.identity, err = age.ParseIdentities(key); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		r.must(t, r.text(c.ID), "add", c.ID)
		r.logIn(t, c.ID)
	}
	return r
}

func (r *rotating) text(client string) string {
	return lines("OAUTH2_GRANT=authorization_code", "OAUTH2_TOKEN_URL="+r.server.TokenURL, "OAUTH2_AUTH_URL="+r.server.Issuer+"/authorize", "CLIENT_ID="+client)
}

func (r *rotating) logIn(t *testing.T, profile string) {
	t.Helper()
	l := r.login(t, "--no-browser", profile)
	visit(t, l.address(t))
	l.succeeds(t)
}

// cold has a daemon run that holds no token yet, and returns its process.
func (r *rotating) cold(t *testing.T) int {
	t.Helper()
	r.killAll(t)
	r.must(t, "", "daemon", "start")
	return r.daemons(t)[0]
}

// killAll kills the home's daemon, and those that are about to find out that it
// is not theirs to be one, and returns how many that were.
func (r *rotating) killAll(t *testing.T) int {
	t.Helper()
	killed := make(map[int]bool)
	waitFor(t, "the end of the daemon", func() bool {
		pids := r.daemons(t)
		for _, pid := range pids {
			killed[pid] = true
			_ = asRoot("kill", "-9", strconv.Itoa(pid)).Run() // it may have ended by itself
		}
		return len(pids) == 0
	})
	return len(killed)
}

// settle waits until the server has dealt with all that a daemon that was killed
// had sent: the kernel delivers that later, too.
func (r *rotating) settle(t *testing.T) {
	t.Helper()
	u, err := url.Parse(r.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	local := fmt.Sprintf(":%04X", port)
	waitFor(t, "the server", func() bool {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if strings.HasSuffix(f[1], local) && (f[3] == "01" || f[3] == "08") { // ESTABLISHED, CLOSE_WAIT
				return false
			}
		}
		return true
	})
}

// record is a profile's session as it is on disk, for who has the identity.
type record struct {
	sealed       string
	RefreshToken string `json:"refresh_token"`
	Spending     string `json:"spending"`
	Ended        string `json:"ended"`
}

func (r *rotating) record(t *testing.T, profile string) record {
	t.Helper()
	sealed, err := os.ReadFile(filepath.Join(r.sessionsDir, profile+".env.age"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(bytes.NewReader(sealed), r.identity...)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	data = data[max(0, bytes.IndexByte(data, '{')):] // what the store writes before it says whose it is
	rec := record{sealed: string(sealed)}
	if err := json.Unmarshal(data, &rec); err != nil {
		t.Fatalf("the session of %s is no JSON: %v", profile, err)
	}
	return rec
}

// withoutTokend runs f while no new daemon can be started.
func (r *rotating) withoutTokend(t *testing.T, f func()) {
	t.Helper()
	tokend := filepath.Join(r.bin, "tokend")
	if err := os.Rename(tokend, tokend+".away"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Rename(tokend+".away", tokend); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

const loginLine = "tokenctl: %s: login required (refresh token rejected: invalid_grant; tokend was killed in the middle of an earlier renewal); run: tokenctl login %[1]s\n"

// verdict asks for a token after a kill, and says what has become of the
// session: "kept", or "login" where the user was told to log in and nothing else
// was possible. What is neither fails the test.
func (r *rotating) verdict(t *testing.T, profile, when string) string {
	t.Helper()
	held := r.record(t, profile)
	accepted := r.server.Accepts(held.RefreshToken)
	got := r.tokenctl(t, "", "get", profile)
	switch {
	case got.code == 0 && accepted:
		if !r.server.Accepts(r.record(t, profile).RefreshToken) {
			t.Errorf("%s: there is a token, but the session on disk holds none that the server would take", when)
		}
		return "kept"
	case !accepted && got == result{"", fmt.Sprintf(loginLine, profile), 4}:
		return "login"
	}
	t.Errorf("%s: the server would take what the session holds: %v; get: %v", when, accepted, got)
	return "lost"
}

// stage says how far a renewal had got when the daemon was killed, by the
// records before and after and by what the server had got.
func stage(before, after record, asked int) string {
	switch {
	case after.RefreshToken != before.RefreshToken:
		return stages[3]
	case asked > 0:
		return stages[2]
	case after.Spending != before.Spending:
		return stages[1]
	}
	return stages[0]
}

var stages = []string{
	"before the mark is in the record",
	"marked, the refresh token not yet sent",
	"sent, the new one not yet in the record",
	"the new one in the record",
}

// The daemon is killed at each call of a rotation that changes something, or
// with TOKEND_EVERY_CALL=1 at each call at all, and nothing is lost that could
// be kept.
func TestKillAtEachCall(t *testing.T) {
	t.Parallel()
	all := os.Getenv("TOKEND_EVERY_CALL") != ""
	type outcome struct{ kept, login int }
	outcomes := make(map[string]map[string]*outcome) // by client, by stage
	var mu sync.Mutex
	t.Run("clients", func(t *testing.T) {
		for _, c := range []authserver.Client{forgiven, strict} {
			outcomes[c.ID] = make(map[string]*outcome)
			for _, s := range stages {
				outcomes[c.ID][s] = &outcome{}
			}
			t.Run(c.ID, func(t *testing.T) {
				t.Parallel()
				r := newRotating(t, c)
				calls, _, _ := r.killedAt(t, c.ID, "", 0, all)
				file := c.ID + ".env.age"
				written := []string{"write ." + file + ".tmp", "fsync ." + file + ".tmp", "renameat ." + file + ".tmp", "fsync sessions"}
				wantInOrder(t, calls, slices.Concat(written, []string{"connect of the provider", "write of the provider", "read of the provider"}, written, []string{"write of a caller"}))
				seen := make(map[string]int)
				kills := 0
				for _, call := range calls {
					seen[call]++
					before := r.record(t, c.ID)
					_, got, killed := r.killedAt(t, c.ID, call, seen[call], all)
					if !killed {
						// How a caller's messages are cut into pieces differs from time to
						// time, and so does what the runtime does for itself.
						if !all && !strings.HasSuffix(call, " of a caller") && !strings.HasPrefix(call, "read ") {
							t.Errorf("%s was not made %d times again", call, seen[call])
						}
						continue
					}
					kills++
					when := fmt.Sprintf("%s, killed at %s (%d)", c.ID, call, seen[call])
					s := stage(before, r.record(t, c.ID), r.server.Count("/token"))
					if got.code == 0 && s != stages[3] {
						t.Errorf("%s: %s, but the caller has the new token already", when, s)
					}
					verdict := r.verdict(t, c.ID, when)
					t.Logf("%s: %s: %s", when, s, verdict)
					for _, token := range r.server.Ledger(c.ID).Tokens {
						if token.Again > 1 {
							t.Errorf("%s: a spent refresh token was sent %d times more", when, token.Again)
						}
					}
					mu.Lock()
					if verdict == "kept" {
						outcomes[c.ID][s].kept++
					} else {
						outcomes[c.ID][s].login++
					}
					mu.Unlock()
					if verdict != "kept" {
						r.logIn(t, c.ID)
					}
				}
				t.Logf("%s: killed at %d of %d calls", c.ID, kills, len(calls))
			})
		}
	})
	if t.Failed() {
		return
	}
	var kept, login int
	table := "| killed | the server forgives | it does not |\n|---|---|---|\n"
	say := func(o *outcome) string {
		kept, login = kept+o.kept, login+o.login
		switch {
		case o.kept > 0 && o.login == 0:
			return "kept"
		case o.login > 0 && o.kept == 0:
			return "login required"
		}
		return fmt.Sprintf("kept %d times, login required %d times", o.kept, o.login)
	}
	for _, s := range stages {
		table += fmt.Sprintf("| %s | %s | %s |\n", s, say(outcomes[forgiven.ID][s]), say(outcomes[strict.ID][s]))
	}
	t.Logf("%d kills: %d sessions kept, %d logins required where nothing else was possible, 0 lost", kept+login, kept, login)
	wantDocumented(t, "kills", table)
}

// killedAt asks a daemon that has no token for one, and has it killed where it
// begins a call for the at-th time. It returns the calls up to there, and what
// became of the get.
func (r *rotating) killedAt(t *testing.T, profile, call string, at int, all bool) (calls []string, got result, killed bool) {
	t.Helper()
	pid := r.cold(t)
	r.server.Forget()
	r.withoutTokend(t, func() {
		k := r.killAt(t, pid, call, at, all)
		got = r.tokenctl(t, "", "get", profile)
		calls, killed = k.ends(t)
		if !killed && got.code != 0 || killed && got.code != 0 && !cutOff(got) {
			t.Errorf("%s (%d): killed: %v; get: %v", call, at, killed, got)
		}
	})
	if killed {
		waitFor(t, "the end of the daemon", func() bool { return len(r.daemons(t)) == 0 })
		r.settle(t)
	}
	return calls, got, killed
}

// wantInOrder checks that these calls were made one after the other, whatever
// was in between.
func wantInOrder(t *testing.T, calls, want []string) {
	t.Helper()
	left := want
	for _, call := range calls {
		if len(left) > 0 && call == left[0] {
			left = left[1:]
		}
	}
	if len(left) > 0 {
		t.Errorf("%q does not come where it should in %q", left[0], calls)
	}
}

// cutOff is what a caller sees whose daemon is killed: an error, no token.
func cutOff(r result) bool {
	return (r.code == 1 || r.code == 3) && r.out == "" && strings.Count(r.err, "\n") == 1
}

// The daemon is killed at random times while all profiles renew, SOAK_KILLS
// times, or 50.
func TestKillSoak(t *testing.T) {
	t.Parallel()
	kills := 50
	if n := os.Getenv("SOAK_KILLS"); n != "" {
		var err error
		if kills, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	const each = 3
	var clients []authserver.Client
	for i := range 2 * each {
		c := strict
		c.ID = fmt.Sprintf("strict%d", i)
		if i < each {
			// Longer than any kill after the other takes.
			c.ID, c.GraceSeconds = fmt.Sprintf("forgiven%d", i), 3600
		}
		clients = append(clients, c)
	}
	r := newRotating(t, clients...)
	told := make(map[string]int) // by kind of client
	var killed, lost, answered, requests int
	span := 100 * time.Millisecond
	for killed < kills && !t.Failed() {
		r.killAll(t)
		accepted := make(map[string]bool) // before this round
		for _, c := range clients {
			accepted[c.ID] = r.server.Accepts(r.record(t, c.ID).RefreshToken)
		}
		r.server.Forget()
		got, daemons := r.round(t, clients, &span)
		if daemons > 0 {
			killed++
		}
		sent := make(map[string]int)
		for _, q := range r.server.Requests() {
			if token := q.Form.Get("refresh_token"); token != "" {
				requests++
				if sent[token]++; sent[token] > daemons {
					t.Errorf("kill %d: one daemon has sent a refresh token of %s twice", killed, q.Client)
				}
			}
		}
		var again []string
		for i, c := range clients {
			kind := strings.TrimRight(c.ID, "0123456789")
			switch g := got[i]; {
			case g.code == 0 && accepted[c.ID]:
				answered++
			case cutOff(g): // judged in the next round
			case g == result{"", fmt.Sprintf(loginLine, c.ID), 4} && !accepted[c.ID] && kind == "strict":
				told[kind]++
				again = append(again, c.ID)
			default:
				lost++
				t.Errorf("kill %d: %s: the server would take what the session held: %v; get: %v", killed, c.ID, accepted[c.ID], g)
				again = append(again, c.ID)
			}
		}
		if len(again) > 0 {
			// A login does not look again for a daemon where the socket that it finds
			// is of one that has just been killed, as other calls do.
			r.must(t, "", "daemon", "start")
		}
		for _, profile := range again {
			r.logIn(t, profile)
		}
	}
	l := r.server.Ledger("")
	logins := len(clients) + told["strict"] + told["forgiven"]
	t.Logf("%d kills, %d tokens given: %d lost; logins required: %d where the server forgives, %d where it does not",
		killed, answered, lost, told["forgiven"], told["strict"])
	t.Logf("%d requests for %d refresh tokens: %.3f each; %d tokens came twice, %d of %d sessions ended by the server",
		requests, l.Issued-logins, float64(requests)/float64(l.Issued-logins), l.SpentTwice, l.Revoked, l.Families)
}

// round asks for a token of each client's, and kills the daemon meanwhile, at
// any time of what that takes. It returns how many processes that were, none if
// it was too soon.
func (r *rotating) round(t *testing.T, clients []authserver.Client, span *time.Duration) (got []result, daemons int) {
	t.Helper()
	got = make([]result, len(clients))
	began := time.Now()
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() { got[i] = r.tokenctl(t, "", "get", c.ID) })
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	late := time.NewTimer(rand.N(*span))
	defer late.Stop()
	select {
	case <-late.C:
		*span += *span / 20
	case <-done:
		*span = time.Since(began)
	}
	r.withoutTokend(t, func() {
		daemons = r.killAll(t)
		<-done
		daemons += r.killAll(t) // what was just being started
	})
	r.settle(t)
	return got, daemons
}
