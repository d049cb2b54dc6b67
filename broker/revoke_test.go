package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/profile"
	"tokend/store"
	"tokend/test/authserver"
)

// told gives the tokens that the server was told of, in their order, each with
// its hint.
func (h *house) told() (tokens, hints []string) {
	for _, r := range h.server.Requests() {
		if r.Path == "/revoke" {
			tokens = append(tokens, r.Form.Get("token"))
			hints = append(hints, r.Form.Get("token_type_hint"))
		}
	}
	return tokens, hints
}

func (h *house) revoke(t *testing.T, want broker.Revoked) {
	t.Helper()
	got, err := h.Revoke(t.Context(), "dev/network")
	if err != nil {
		t.Fatal(err)
	}
	want.Profile = "dev/network"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	first := h.login(t, "dev/network")
	narrow := h.get(t, broker.Request{Profile: "dev/network", Scopes: []string{"read"}})
	rotated := h.record(t, "dev/network")["refresh_token"]
	h.revoke(t, broker.Revoked{Revoked: 3})
	tokens, hints := h.told()
	if diff := cmp.Diff([]string{"refresh_token", "access_token", "access_token"}, hints); diff != "" {
		t.Fatal(diff)
	}
	if tokens[0] != rotated {
		t.Errorf("told of %q first, want the refresh token %q", tokens[0], rotated)
	}
	for _, access := range []string{first.AccessToken.Reveal(), narrow.Access.Reveal()} {
		if !slices.Contains(tokens[1:], access) {
			t.Errorf("not told of the access token %q", access)
		}
	}
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("there is still %v", r)
	}
	n := h.requests()
	h.wantLogin(t, plain, "nobody is logged in", "")
	h.wantRequests(t, n)
	if h.Cached() != 0 || h.QueuedRevocations() != 0 {
		t.Error("something is left")
	}
	// A second time there is nothing to do.
	h.revoke(t, broker.Revoked{})
	if h.server.Count("/revoke") != 3 {
		t.Error("the server was told of more")
	}
}

// The session is gone, durably, before anybody is told.
func TestRevokeIsDurableFirst(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	login := h.login(t, "dev/network")
	token := login.RefreshToken.Reveal()
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Hang: true})
	ended := make(chan broker.Revoked)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r, err := h.Revoke(ctx, "dev/network")
		if err != nil {
			t.Error(err)
		}
		ended <- r
	}()
	h.await(t, "/revoke", 1)
	// While the server hangs, nobody waits for it but who asked.
	h.wantLogin(t, plain, "nobody is logged in", "")
	r := h.record(t, "dev/network")
	if r["refresh_token"] != nil || len(r["revocations"].([]any)) != 1 {
		t.Errorf("the record is %v", r)
	}
	if revocations := fmt.Sprint(r["revocations"]); !strings.Contains(revocations, token) {
		t.Error("the refresh token is not among what is to be told")
	}
	if strings.Contains(fmt.Sprint(r), login.AccessToken.Reveal()) {
		t.Error("the access token is at rest")
	}
	// Whoever asked goes away.
	cancel()
	if got := <-ended; got.Revoked != 0 || got.Queued != 2 {
		t.Errorf("got %+v", got)
	}
	h.Close()
}

func TestRevokeCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	first := h.login(t, "dev/network")
	h.disk.full(true)
	if _, err := h.Revoke(t.Context(), "dev/network"); !errors.Is(err, errDisk) {
		t.Errorf("error is %v", err)
	}
	if n := h.server.Count("/revoke"); n != 0 {
		t.Errorf("the server was told %d times", n)
	}
	h.disk.full(false)
	if got := h.get(t, plain); got.Access != first.AccessToken {
		t.Errorf("got %v", got)
	}
	h.revoke(t, broker.Revoked{Revoked: 2})
}

// inBubble begins a broker for the goroutines of a synctest bubble, on what is
// stored.
func (h *house) inBubble() {
	h.Close()
	start, before := time.Now(), h.now.Load()
	c := h.config()
	c.Now = func() time.Duration { return time.Duration(before) + time.Since(start) }
	h.Broker = broker.New(c)
}

// Nobody answers: it is told later, less and less often.
func TestRevokeOffline(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Status: 503})
		h.disk.taken()
		h.revoke(t, broker.Revoked{Queued: 1})
		if n := h.QueuedRevocations(); n != 1 {
			t.Errorf("%d are queued", n)
		}
		h.wantLogin(t, plain, "nobody is logged in", "")
		time.Sleep(time.Minute)
		if n := h.server.Count("/revoke"); n != 1+5 {
			t.Errorf("told %d times in the first minute", n)
		}
		if changes := h.disk.taken(); len(changes) != 1 {
			t.Errorf("written: %q", changes)
		}
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke"})
		time.Sleep(time.Minute)
		if n := h.server.Count("/revoke"); n != 1+6 {
			t.Errorf("told %d times", n)
		}
		if n := h.QueuedRevocations(); n != 0 {
			t.Errorf("%d are queued", n)
		}
		if r := h.record(t, "dev/network"); r != nil {
			t.Errorf("there is still %v", r)
		}
	})
	if l := h.server.Ledger("client"); l.Valid != 0 {
		t.Errorf("%+v", l)
	}
}

// And after a restart.
func TestResume(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.put(t, "other", h.interactive())
	h.login(t, "dev/network")
	h.login(t, "other")
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Fault: authserver.ResetBefore})
	h.revoke(t, broker.Revoked{Queued: 2})
	h.Close()
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke"})
	h.server.Forget()
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		if n := h.QueuedRevocations(); n != 0 {
			t.Errorf("%d are queued before anything is read", n)
		}
		h.Resume()
		time.Sleep(2 * time.Second)
		// Of the refresh token, which takes the access token along: that is never
		// written to disk.
		if n := h.server.Count("/revoke"); n != 1 {
			t.Errorf("told %d times", n)
		}
		if n := h.QueuedRevocations(); n != 0 {
			t.Errorf("%d are queued", n)
		}
	})
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("there is still %v", r)
	}
	if l := h.server.Ledger("client"); l.Valid != 1 {
		t.Errorf("%+v", l)
	}
}

// With nothing to tell nothing runs.
func TestResumeWithNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.restart()
	h.Resume()
	h.Close()
	if n := h.server.Count("/revoke"); n != 0 {
		t.Errorf("told %d times", n)
	}
}

// A server that says no will not say yes later.
func TestRevokeRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.server.AnyClient().Then(
		authserver.Answer{Endpoint: "revoke"},
		authserver.Answer{Endpoint: "revoke", Error: "unsupported_token_type"})
	host := strings.TrimPrefix(h.server.URL, "http://")
	h.revoke(t, broker.Revoked{Revoked: 1,
		Problem: "asking " + host + " to revoke a token: unsupported_token_type: as scripted (HTTP 400)"})
	if h.QueuedRevocations() != 0 || h.record(t, "dev/network") != nil {
		t.Error("it is to be told again")
	}
}

func TestRevokeCounts(t *testing.T) {
	t.Parallel()
	refused := authserver.Answer{Endpoint: "revoke", Error: "unsupported_token_type"}
	busy := authserver.Answer{Endpoint: "revoke", Status: 503}
	done := authserver.Answer{Endpoint: "revoke"}
	for _, test := range []struct {
		name            string
		earlier, now    []authserver.Answer
		revoked, queued int
		problem         bool
		left            int
	}{
		{"all refused", nil, []authserver.Answer{refused, refused}, 0, 0, true, 0},
		{"refused and busy", nil, []authserver.Answer{refused, busy}, 0, 1, true, 1},
		{"done, with earlier ones waiting", []authserver.Answer{busy, busy}, []authserver.Answer{done, done}, 2, 0, false, 1},
		{"refused, with earlier ones waiting", []authserver.Answer{busy, busy}, []authserver.Answer{done, refused}, 1, 0, true, 1},
		{"busy, with earlier ones waiting", []authserver.Answer{busy, busy}, []authserver.Answer{busy, done}, 1, 1, false, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, client(nil))
			h.put(t, "dev/network", h.interactive())
			if test.earlier != nil {
				h.login(t, "dev/network")
				h.server.AnyClient().Then(test.earlier...)
				h.revoke(t, broker.Revoked{Queued: 2})
				h.restart() // and so the keeper rests
			}
			h.login(t, "dev/network")
			h.server.AnyClient().Then(test.now...)
			got, err := h.Revoke(t.Context(), "dev/network")
			if err != nil || got.Revoked != test.revoked || got.Queued != test.queued || (got.Problem != "") != test.problem {
				t.Errorf("got %+v, %v", got, err)
			}
			if n := h.QueuedRevocations(); n != test.left {
				t.Errorf("%d are queued, want %d", n, test.left)
			}
		})
	}
}

// What is queued is told though the record could not be written just then.
func TestRevocationsAreToldThoughTheRecordCouldNotBeWritten(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		h.get(t, plain)
		h.disk.failing(failSecond())
		h.server.AnyClient().Then(authserver.Answer{Endpoint: "revoke"}, authserver.Answer{Endpoint: "revoke", Status: 503})
		h.revoke(t, broker.Revoked{Revoked: 1, Queued: 1})
		time.Sleep(10 * time.Second)
		if n := h.QueuedRevocations(); n != 0 {
			t.Errorf("%d are queued", n)
		}
		h.disk.full(false)
		time.Sleep(2 * time.Minute)
		if names := h.Unsaved(); len(names) != 0 {
			t.Errorf("unsaved: %q", names)
		}
	})
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("there is still %v", r)
	}
	if tokens, _ := h.told(); len(slices.Compact(slices.Sorted(slices.Values(tokens)))) != 2 {
		t.Errorf("told of %q", tokens)
	}
}

// A client that needs its secret has it again once the metadata can be read.
func TestRevokeWhileTheMetadataCannotBeRead(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "metadata", Status: 503})
		h.revoke(t, broker.Revoked{Queued: 1})
		if n := h.server.Count("/revoke"); n != 0 {
			t.Errorf("told %d times", n)
		}
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "metadata"})
		time.Sleep(time.Minute)
	})
	if l := h.server.Ledger("client"); l.Valid != 0 || h.server.Count("/revoke") != 1 {
		t.Errorf("%+v", l)
	}
}

// A secret that a command gives may be out of reach for a while, as when a
// password manager is locked.
func TestRevokeWhileACommandFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	good := func() (map[string]string, error) { return map[string]string{"CLIENT_SECRET": secret}, nil }
	resolve := func(f func() (map[string]string, error)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.values = f
	}
	resolve(good)
	h.put(t, "dev/network", strings.ReplaceAll(h.interactive(), "CLIENT_SECRET="+secret, "CLIENT_SECRET_COMMAND=/bin/manager"))
	h.login(t, "dev/network")
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		resolve(func() (map[string]string, error) {
			return nil, &profile.Mistakes{List: []profile.Mistake{{Line: 3, Variable: "CLIENT_SECRET_COMMAND", Message: "it failed"}}}
		})
		h.revoke(t, broker.Revoked{Queued: 1})
		time.Sleep(10 * time.Second)
		if n := h.server.Count("/revoke"); n != 0 {
			t.Errorf("told %d times", n)
		}
		resolve(good)
		time.Sleep(time.Minute)
	})
	if l := h.server.Ledger("client"); l.Valid != 0 || h.server.Count("/revoke") != 1 {
		t.Errorf("%+v", l)
	}
}

// hungKeyring is a store of texts that gives none for now.
type hungKeyring struct{ store.Store }

func (hungKeyring) Get(context.Context, string) ([]byte, store.Version, error) {
	return nil, "", &store.KeyringError{Cause: store.KeyringFailed, Err: errors.New("no answer")}
}

// Without the text it is not known which refresh token of it is to be used no more.
// Who has named the profile can ask again; where all is to end, all is ended that can
// be.
func TestRevokeWithoutTheText(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.Close()
	c := h.config()
	c.Profiles = hungKeyring{c.Profiles}
	h.Broker = broker.New(c)
	if _, err := h.Revoke(t.Context(), "dev/network"); !errors.As(err, new(*store.KeyringError)) {
		t.Errorf("error is %v", err)
	}
	if h.record(t, "dev/network")["refresh_token"] == nil {
		t.Error("the session has ended")
	}
	all, err := h.RevokeAll(t.Context())
	if err != nil || len(all) != 1 || !strings.Contains(all[0].Problem, "a refresh token that its text may have") || all[0].Queued != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if h.record(t, "dev/network")["refresh_token"] != nil {
		t.Error("the session has not ended")
	}
}

// A keyring that hangs is waited for once, not once for each text, and what the servers
// are then still to be told they are once it is back.
func TestRevokeAllWhileTheKeyringHangs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	const many = 40
	for i := range many {
		name := fmt.Sprintf("p%02d", i)
		h.put(t, name, h.interactive())
		h.login(t, name)
	}
	h.server.Forget()
	h.Close()
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		c := h.config()
		hangs := &hangingKeyring{Store: c.Profiles}
		c.Profiles = hangs
		start, before := time.Now(), h.now.Load()
		c.Now = func() time.Duration { return time.Duration(before) + time.Since(start) }
		h.Broker = broker.New(c)
		defer func() { h.Close(); h.Broker = outside }()
		all, err := h.RevokeAll(t.Context())
		if took := time.Since(start); err != nil || len(all) != many || took != hangTime {
			t.Errorf("%d profiles after %v, %v", len(all), took, err)
		}
		for i, r := range all {
			want := "a refresh token that its text may have lives on: "
			if r.Queued != 1 || r.Revoked != 0 || !strings.HasPrefix(r.Problem, want) || !strings.HasSuffix(r.Problem, "no answer") {
				t.Errorf("%+v", r)
			}
			name := fmt.Sprintf("p%02d", i)
			if strings.Contains(r.Problem, "reading") || r.Profile != name {
				t.Errorf("of %s: %+v", name, r)
			}
			if s := h.record(t, name); s["refresh_token"] != nil || s["revocations"] == nil {
				t.Errorf("the session of %s: %v", name, s)
			}
		}
		if n := h.server.Count("/revoke"); n != 0 {
			t.Errorf("told %d times", n)
		}
		hangs.back.Store(true)
		time.Sleep(time.Minute)
		if n := h.QueuedRevocations(); n != 0 {
			t.Errorf("%d are still to be told", n)
		}
	})
	if n := h.server.Count("/revoke"); n != many {
		t.Errorf("told %d times, want %d", n, many)
	}
}

// hangingKeyring is a store of texts that takes its time to give none, until it is back.
type hangingKeyring struct {
	store.Store
	back atomic.Bool
}

const hangTime = 2 * time.Second

func (k *hangingKeyring) Get(ctx context.Context, name string) ([]byte, store.Version, error) {
	if k.back.Load() {
		return k.Store.Get(ctx, name)
	}
	time.Sleep(hangTime)
	return nil, "", &store.KeyringError{Cause: store.KeyringFailed, Err: errors.New("no answer")}
}

// The endpoint need not have been known when the session began.
func TestRevokeFindsTheEndpoint(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Auth = authserver.AuthPost }))
	text := func(token string) string {
		return h.given(token, "OAUTH2_TOKEN_URL="+h.server.TokenURL, "OAUTH2_CLIENT_AUTH=client_secret_post")
	}
	h.put(t, "login", h.interactive("OAUTH2_CLIENT_AUTH=client_secret_post"))
	h.put(t, "dev/network", text(h.login(t, "login").RefreshToken.Reveal()))
	h.get(t, plain)
	h.revoke(t, broker.Revoked{Revoked: 2})
}

func TestRevokeWithoutEndpoint(t *testing.T) {
	t.Parallel()
	c := client(nil)
	c.Metadata = map[string]any{"revocation_endpoint": nil}
	h := newHouse(t, c)
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.revoke(t, broker.Revoked{Problem: "the server has no revocation endpoint"})
	h.wantLogin(t, plain, "nobody is logged in", "")
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("there is still %v", r)
	}
}

func TestRevokeNobody(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	if _, err := h.Revoke(t.Context(), "nobody"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	h.put(t, "dev/network", h.interactive())
	h.revoke(t, broker.Revoked{})
	if changes := h.disk.taken(); changes != nil {
		t.Errorf("written: %q", changes)
	}
}

// A profile that vanished: of its session enough is known for a public client.
func TestRevokeOfAVanishedProfile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{Clients: []authserver.Client{
		{ID: "client", Secret: secret, Opaque: true, RefreshAlways: true},
		{ID: "public", Auth: authserver.AuthNone},
	}})
	for _, name := range []string{"a", "b"} {
		version := h.put(t, name, h.interactive())
		h.login(t, name)
		if err := h.store.Delete(t.Context(), name, version); err != nil {
			t.Fatal(err)
		}
	}
	h.restart()
	got, err := h.Revoke(t.Context(), "a")
	host := strings.TrimPrefix(h.server.URL, "http://")
	want := broker.Revoked{Profile: "a", Problem: "asking " + host + " to revoke a token: invalid_client: no client authentication (HTTP 401)"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	requests := h.server.Requests()
	last := requests[len(requests)-1]
	if last.Path != "/revoke" || last.Form.Get("client_id") != "client" || last.Header.Get("Authorization") != "" {
		t.Errorf("the last request is %+v", last)
	}
	if r := h.record(t, "a"); r != nil {
		t.Errorf("there is still %v", r)
	}
	if _, err := h.Revoke(t.Context(), "a"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	names, err := h.Orphans(t.Context())
	if err != nil || !slices.Equal(names, []string{"b"}) {
		t.Errorf("orphans: %q, %v", names, err)
	}
}

// Trust is not needed to end what began with it.
func TestRevokeOfAnUntrustedText(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	resolved := false
	h.mu.Lock()
	h.refused[h.interactive()] = true
	h.values = func() (map[string]string, error) { resolved = true; return nil, nil }
	h.mu.Unlock()
	got, err := h.Revoke(t.Context(), "dev/network")
	if err != nil || got.Revoked != 0 || got.Problem == "" || resolved {
		t.Errorf("got %+v, %v, files and commands looked at: %t", got, err, resolved)
	}
	for _, r := range h.server.Requests() {
		if r.Path == "/revoke" && (r.Header.Get("Authorization") != "" || r.Form.Has("client_secret")) {
			t.Error("the secret of an untrusted text was sent")
		}
	}
}

func TestRevokeWithoutSession(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", "OAUTH2_ISSUER="+h.server.Issuer+"\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
	first := h.get(t, plain)
	h.revoke(t, broker.Revoked{Revoked: 2})
	tokens, hints := h.told()
	if !slices.Equal(hints, []string{"refresh_token", "access_token"}) || tokens[1] != first.Access.Reveal() {
		t.Errorf("told of %q, %q", tokens, hints)
	}
	if next := h.get(t, plain); next.Access == first.Access {
		t.Error("the revoked token is handed out")
	}
}

// THREATS: a logout during a fetch resurrects no token.
func TestRevokeDuringAFetch(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", "OAUTH2_ISSUER="+h.server.Issuer+"\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
	h.server.AnyClient().Then(hanging)
	fetched := make(chan broker.Token)
	go func() {
		token, err := h.Token(t.Context(), plain)
		if err != nil {
			t.Error(err)
		}
		fetched <- token
	}()
	h.await(t, "/token", 1)
	h.revoke(t, broker.Revoked{})
	h.server.Release()
	old := <-fetched
	if h.Cached() != 0 {
		t.Error("the token is kept")
	}
	if next := h.get(t, plain); next.Access == old.Access {
		t.Error("a token that was asked for before the logout is handed out after it")
	}
}

func TestRevokeDuringARenewal(t *testing.T) {
	t.Parallel()
	for round := range 6 {
		h := newHouse(t, client(nil))
		h.put(t, "dev/network", h.interactive())
		h.login(t, "dev/network")
		h.fresh()
		h.server.AnyClient().Then(hanging)
		var all sync.WaitGroup
		all.Go(func() { _, _ = h.Token(t.Context(), plain) })
		h.await(t, "/token", 2)
		all.Go(func() {
			if _, err := h.Revoke(t.Context(), "dev/network"); err != nil {
				t.Error(err)
			}
		})
		h.server.Release()
		all.Wait()
		h.wantLogin(t, plain, "nobody is logged in", "")
		if l := h.server.Ledger("client"); l.Valid != 0 {
			t.Errorf("round %d: %+v", round, l)
		}
	}
}

// What the text began with is not taken again once it is revoked.
func TestRevokedTokenOfTheTextStaysAway(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{authserver.RefreshRotate, authserver.RefreshSilent} {
		h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = policy }))
		a := h.issue(t).RefreshToken.Reveal()
		h.put(t, "dev/network", h.given(a))
		h.get(t, plain)
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Status: 503})
		h.revoke(t, broker.Revoked{Queued: 2})
		n := h.requests()
		h.wantLogin(t, plain, "nobody is logged in", "OAUTH2_REFRESH_TOKEN")
		h.put(t, "dev/network", h.given(a, "# a comment"))
		h.wantLogin(t, plain, "nobody is logged in", "OAUTH2_REFRESH_TOKEN")
		h.restart()
		h.wantLogin(t, plain, "nobody is logged in", "OAUTH2_REFRESH_TOKEN")
		h.wantRequests(t, n)
	}
}

func TestRevokeOfWhatIsInMemoryOnly(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	version := h.put(t, "dev/network", h.interactive())
	p, err := h.Prepare(t.Context(), "dev/network")
	if err != nil {
		t.Fatal(err)
	}
	token := h.issue(t)
	h.disk.full(true)
	if warning, err := h.Adopt(t.Context(), p, nil, token); err != nil || warning == "" {
		t.Fatal(warning, err)
	}
	if err := h.store.Delete(t.Context(), "dev/network", version); err != nil {
		t.Fatal(err)
	}
	h.Forget("dev/network")
	h.disk.full(false)
	all, err := h.RevokeAll(t.Context())
	if err != nil || len(all) != 1 || all[0].Profile != "dev/network" || all[0].Problem == "" {
		t.Errorf("got %+v, %v", all, err)
	}
	if names := h.Unsaved(); len(names) != 0 {
		t.Errorf("unsaved: %q", names)
	}
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("there is still %v", r)
	}
}

func TestRevokeAll(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	var want []broker.Revoked
	for i := range 12 {
		name := fmt.Sprintf("p%02d", i)
		h.put(t, name, h.interactive())
		h.login(t, name)
		want = append(want, broker.Revoked{Profile: name, Revoked: 2})
	}
	h.put(t, "z", "OAUTH2_ISSUER="+h.server.Issuer+"\nCLIENT_ID=client\nCLIENT_SECRET="+secret+"\n")
	h.get(t, broker.Request{Profile: "z"})
	want = append(want, broker.Revoked{Profile: "z", Revoked: 2})
	h.put(t, "unused", h.interactive())
	// Several at a time.
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Hang: true})
	type result struct {
		all []broker.Revoked
		err error
	}
	ended := make(chan result)
	go func() {
		all, err := h.RevokeAll(t.Context())
		ended <- result{all, err}
	}()
	h.await(t, "/revoke", 8)
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke"})
	h.server.Release()
	got := <-ended
	if diff := cmp.Diff(want, got.all); diff != "" || got.err != nil {
		t.Error(diff, got.err)
	}
	if l := h.server.Ledger("client"); l.Valid != 0 {
		t.Errorf("%+v", l)
	}
	all, err := h.RevokeAll(t.Context())
	if err != nil || len(all) != 0 {
		t.Errorf("the second time: %+v, %v", all, err)
	}
}

// One record that cannot be read is said, and keeps nobody from the rest.
func TestRevokeAllButOne(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "b", h.interactive())
	h.login(t, "b")
	h.put(t, "a", h.interactive())
	h.login(t, "a")
	h.disk.failing(func(change string) error {
		if strings.HasSuffix(change, " a") {
			return errDisk
		}
		return nil
	})
	got, err := h.RevokeAll(t.Context())
	want := []broker.Revoked{{Profile: "a", Problem: "it is still here: writing the session: no space left on device"}, {Profile: "b", Revoked: 2}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// A login after a logout that the server has not heard of yet.
func TestLoginWhileRevocationsWait(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	old := h.login(t, "dev/network")
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Status: http.StatusServiceUnavailable})
		h.revoke(t, broker.Revoked{Queued: 1})
		token := h.login(t, "dev/network")
		h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke"})
		time.Sleep(2 * time.Minute)
		tokens, _ := h.told()
		if last := tokens[len(tokens)-1]; last != old.RefreshToken.Reveal() || slices.Contains(tokens, token.RefreshToken.Reveal()) {
			t.Errorf("told of %q", tokens)
		}
		h.get(t, plain)
		time.Sleep(time.Hour)
		h.get(t, plain)
	})
}

// Nobody tells a server for ever.
func TestOldRevocations(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "revoke", Status: 503})
	synctest.Test(t, func(t *testing.T) {
		outside := h.Broker
		h.inBubble()
		defer func() { h.Close(); h.Broker = outside }()
		h.revoke(t, broker.Revoked{Queued: 1})
		h.Close()
		time.Sleep(31 * 24 * time.Hour)
		h.inBubble()
		h.Resume()
		time.Sleep(time.Minute)
		if n := h.server.Count("/revoke"); n != 1 {
			t.Errorf("told %d times", n)
		}
		if n := h.QueuedRevocations(); n != 0 {
			t.Errorf("%d are queued", n)
		}
	})
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("there is still %v", r)
	}
}
