package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
	"tokend/store"
	"tokend/test/authserver"
)

var errDisk = errors.New("no space left on device")

// sessions is a store that writes down what is changed in it, and that fails
// where a test wants it to.
type sessions struct {
	store.Store
	mu      sync.Mutex
	changes []string // "put NAME", "delete NAME"
	fail    func(change string) error
	after   func(change string)
}

// failing makes changes fail until it is called with nil.
func (s *sessions) failing(fail func(change string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *sessions) full(full bool) {
	s.failing(nil)
	if full {
		s.failing(func(string) error { return errDisk })
	}
}

func (s *sessions) begin(change string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(change); err != nil {
			return err
		}
	}
	s.changes = append(s.changes, change)
	return nil
}

func (s *sessions) end(change string) {
	s.mu.Lock()
	after := s.after
	s.mu.Unlock()
	if after != nil {
		after(change)
	}
}

func (s *sessions) Put(ctx context.Context, name string, data []byte, replaces store.Version) (store.Version, error) {
	change := "put " + name
	if err := s.begin(change); err != nil {
		return "", err
	}
	v, err := s.Store.Put(ctx, name, data, replaces)
	s.end(change)
	return v, err
}

func (s *sessions) Delete(ctx context.Context, name string, version store.Version) error {
	change := "delete " + name
	if err := s.begin(change); err != nil {
		return err
	}
	err := s.Store.Delete(ctx, name, version)
	s.end(change)
	return err
}

// taken gives the changes since it was last called.
func (s *sessions) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := s.changes
	s.changes = nil
	return changes
}

// house is a world whose profiles have sessions.
type house struct {
	*world
	disk *sessions
}

func newHouse(t *testing.T, c authserver.Config) *house {
	t.Helper()
	w := &world{refused: make(map[string]bool)}
	if c.Lifetime == 0 {
		c.Lifetime = 600 * time.Second
	}
	w.server = authserver.Start(t, c)
	w.store, w.sessions = newStore(t, w), newStore(t, w)
	w.now.Store(int64(time.Hour))
	h := &house{world: w, disk: &sessions{Store: w.sessions}}
	w.Broker = broker.New(h.config())
	t.Cleanup(func() { w.Close() })
	return h
}

// client is one that the house's server gives refresh tokens to, whatever it
// asks with.
func client(change func(*authserver.Client)) authserver.Config {
	c := authserver.Client{ID: "client", Secret: secret, Opaque: true, RefreshAlways: true, Scope: "read write admin"}
	if change != nil {
		change(&c)
	}
	return authserver.Config{Clients: []authserver.Client{c}}
}

func (h *house) config() broker.Config {
	c := h.world.config()
	c.Sessions = h.disk
	return c
}

// restart ends the broker as a kill does, and begins a new one on what is
// stored.
func (h *house) restart() {
	h.Close()
	h.Broker = broker.New(h.config())
}

// interactive is a profile that somebody has to log in for.
func (h *house) interactive(lines ...string) string {
	return "OAUTH2_ISSUER=" + h.server.Issuer + "\nOAUTH2_GRANT=authorization_code\nCLIENT_ID=client\nCLIENT_SECRET=" + secret + "\n" +
		strings.Join(lines, "\n") + "\n"
}

// issue gets a token with a refresh token that the broker knows nothing of.
func (h *house) issue(t *testing.T) *oauth.Token {
	t.Helper()
	c := oauth.Client{ID: "client", Secret: oauth.NewSecret(secret), TokenURL: h.server.TokenURL}
	token, err := c.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// login does what package login does at the end of its flows.
func (h *house) login(t *testing.T, name string, asked ...string) *oauth.Token {
	t.Helper()
	p, err := h.Prepare(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials, Scopes: asked})
	if err != nil {
		t.Fatal(err)
	}
	warning, err := h.Adopt(t.Context(), p, asked, token)
	if err != nil || warning != "" {
		t.Fatalf("adopting: %q, %v", warning, err)
	}
	return token
}

// record reads a session as it is at rest; nil if there is none.
func (h *house) record(t *testing.T, name string) map[string]any {
	t.Helper()
	data, _, err := h.sessions.Get(context.Background(), name)
	if errors.Is(err, store.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

// atRest is all that is stored of sessions, decrypted.
func (h *house) atRest(t *testing.T) []byte {
	t.Helper()
	entries, err := h.sessions.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, e := range entries {
		data, _, err := h.sessions.Get(t.Context(), e.Name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

// last is the latest request to the token endpoint.
func (h *house) last(t *testing.T) authserver.Request {
	t.Helper()
	all := h.server.Requests()
	for _, r := range slices.Backward(all) {
		if r.Path == "/token" {
			return r
		}
	}
	t.Fatal("no request for a token")
	return authserver.Request{}
}

// spent gives the refresh tokens in the order in which they were sent.
func (h *house) spent() []string {
	var list []string
	for _, r := range h.server.Requests() {
		if r.Path == "/token" && r.Form.Get("grant_type") == "refresh_token" {
			list = append(list, r.Form.Get("refresh_token"))
		}
	}
	return list
}

func (h *house) wantLogin(t *testing.T, r broker.Request, why, variable string) {
	t.Helper()
	_, err := h.Token(t.Context(), r)
	var login *broker.LoginError
	if !errors.As(err, &login) {
		t.Fatalf("error is %v, want a LoginError", err)
	}
	want := &broker.LoginError{Why: why, Variable: variable}
	if strings.HasPrefix(why, "refresh token rejected") {
		want.Code = "invalid_grant"
	}
	if diff := cmp.Diff(want, login); diff != "" {
		t.Error(diff)
	}
	if want := "login required (" + why + ")"; err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

// await waits until the server got n requests to path.
func (h *house) await(t *testing.T, path string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.server.Await(ctx, path, n); err != nil {
		t.Fatalf("%d requests to %s, want %d: %v", h.server.Count(path), path, n, err)
	}
}

// fresh lets every token end and every refusal be over.
func (h *house) fresh() { h.sleep(time.Hour) }

func TestNobodyHasLoggedIn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.wantLogin(t, plain, "nobody is logged in", "")
	h.wantRequests(t, 0)
	if changes := h.disk.taken(); changes != nil {
		t.Errorf("written: %q", changes)
	}
}

func TestAdoptThenToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	version := h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE='read write'", "API_URL=https://api.example"))
	got := h.login(t, "dev/network", "read", "write", "admin")
	h.wantRequests(t, 1)
	want := broker.Token{
		Access: got.AccessToken, Fingerprint: broker.Fingerprint(got.AccessToken.Reveal()), Type: "Bearer", Version: version,
		Remaining: got.Lifetime, Lifetime: got.Lifetime,
		Scopes: []string{"read", "write", "admin"}, APIOrigins: []string{"https://api.example"},
	}
	if diff := cmp.Diff(want, h.get(t, plain), cmp.Comparer(func(a, b oauth.Secret) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	h.wantRequests(t, 1)
	r := h.record(t, "dev/network")
	want2 := map[string]any{
		"profile": "dev/network", "issuer": h.server.Issuer, "token_url": h.server.TokenURL, "client_id": "client",
		"revocation_url": h.server.Issuer + "/revoke", "introspection_url": h.server.Issuer + "/introspect",
		"refresh_token": got.RefreshToken.Reveal(), "scopes": []any{"read", "write", "admin"}, "text_scopes": "read write",
		"record": 1.0,
	}
	if diff := cmp.Diff(want2, r); diff != "" {
		t.Error(diff)
	}
	if bytes.Contains(h.atRest(t), []byte(got.AccessToken.Reveal())) {
		t.Error("an access token with a refresh token beside it is on disk")
	}
}

// A login counts the token's life from its request, also where the person's
// login is adopted later.
func TestAdoptCountsFromTheRequest(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "dev/network", h.interactive())
	p, err := h.Prepare(t.Context(), "dev/network")
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials})
	if err != nil {
		t.Fatal(err)
	}
	h.sleep(100 * time.Second)
	if _, err := h.Adopt(t.Context(), p, nil, token); err != nil {
		t.Fatal(err)
	}
	if got := h.get(t, plain); got.Remaining != token.Lifetime-100*time.Second {
		t.Errorf("%v remain", got.Remaining)
	}
	h.restart()
	if got := h.get(t, plain); got.Remaining > token.Lifetime-100*time.Second || got.Remaining < token.Lifetime-130*time.Second {
		t.Errorf("%v remain after a restart", got.Remaining)
	}
}

func TestAdoptWithoutAPlaceToKeepIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	p, err := h.Prepare(t.Context(), "dev/network")
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials})
	if err != nil {
		t.Fatal(err)
	}
	h.disk.full(true)
	warning, err := h.Adopt(t.Context(), p, nil, token)
	if want := "the login is in memory only: writing the session: no space left on device"; err != nil || warning != want {
		t.Fatalf("adopting: %q, %v", warning, err)
	}
	got := h.get(t, plain)
	if got.Access != token.AccessToken || !got.Degraded || got.Warning != "its session could not be written and is in memory only" {
		t.Errorf("got %v", got)
	}
	if names := h.Unsaved(); !slices.Equal(names, []string{"dev/network"}) {
		t.Errorf("unsaved: %q", names)
	}
}

// A caller who goes away does not stop what must be written.
func TestWritingSurvivesTheCaller(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	p, err := h.Prepare(t.Context(), "dev/network")
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.disk.failing(func(string) error { cancel(); return nil })
	if warning, err := h.Adopt(ctx, p, nil, token); err != nil || warning != "" {
		t.Errorf("adopting: %q, %v", warning, err)
	}
	if r := h.record(t, "dev/network"); r["refresh_token"] != token.RefreshToken.Reveal() {
		t.Errorf("the record is %v", r)
	}
}

// Where a login brings no refresh token the access token is the credential.
func TestLoginWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read"))
	first := h.login(t, "dev/network", "read")
	h.restart()
	got := h.get(t, plain)
	if got.Access != first.AccessToken || got.Type != "Bearer" || !slices.Equal(got.Scopes, []string{"read"}) || got.ExpiryAssumed ||
		got.Remaining <= 590*time.Second || got.Remaining > 600*time.Second {
		t.Errorf("after a restart got %v", got)
	}
	other := plain
	other.Scopes = []string{"write"}
	h.wantLogin(t, other, "the login brought one token, and no refresh token to get another with", "")

	h.put(t, "dev/network", h.interactive("OAUTH2_SCOPE=read", "# a comment"))
	if got := h.get(t, plain); got.Access != first.AccessToken {
		t.Error("a comment in the text cost the login")
	}
	h.wantRequests(t, 1)
}

func TestLoginWithoutRefreshTokenEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "dev/network", h.interactive())
	h.server.AnyClient().Then(lifetime(1))
	first := h.login(t, "dev/network")
	if got := h.get(t, plain); got.Access != first.AccessToken {
		t.Error("another token than the login's")
	}
	// The end is kept by the wall clock.
	r := h.record(t, "dev/network")
	ends, err := time.Parse(time.RFC3339Nano, r["access"].(map[string]any)["ends"].(string))
	if err != nil || time.Until(ends) > time.Second {
		t.Fatalf("ends %v, %v", ends, err)
	}
	h.restart()
	timer := time.NewTimer(time.Until(ends))
	<-timer.C
	h.sleep(time.Second + time.Millisecond) // the two clocks are not read at once
	h.wantLogin(t, plain, "the access token has ended, and the server gave no refresh token", "")
	h.wantRequests(t, 1)
}

// No expires_in: it is good until it is refused.
func TestLoginWithoutRefreshTokenOrExpiry(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone }))
	h.put(t, "dev/network", h.interactive("OAUTH2_DEFAULT_LIFETIME=10m"))
	h.server.AnyClient().Then(noExpiry)
	first := h.login(t, "dev/network")
	for range 3 {
		got := h.get(t, plain)
		if got.Access != first.AccessToken || !got.ExpiryAssumed || got.Lifetime != 10*time.Minute {
			t.Errorf("got %v", got)
		}
		h.sleep(24 * time.Hour)
	}
	h.restart()
	if got := h.get(t, plain); got.Access != first.AccessToken {
		t.Error("lost over a restart")
	}
	h.wantRequests(t, 1)
}

func TestRecordOfAnotherProfile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "a", h.interactive())
	h.put(t, "b", h.interactive())
	h.login(t, "a")
	data, _, err := h.sessions.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.sessions.Put(t.Context(), "b", data, ""); err != nil {
		t.Fatal(err)
	}
	h.restart()
	_, err = h.Token(t.Context(), broker.Request{Profile: "b"})
	if err == nil || err.Error() != "reading the session: the record is damaged; to end it, run: tokenctl logout b" {
		t.Errorf("error is %v", err)
	}
	h.wantRequests(t, 1)
}

func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	damaged := []byte(`{"profile":"dev/network","refresh_token":"CANARY-rt`)
	if _, err := h.sessions.Put(t.Context(), "dev/network", damaged, ""); err != nil {
		t.Fatal(err)
	}
	_, err := h.Token(t.Context(), plain)
	var login *broker.LoginError
	if err == nil || err.Error() != "reading the session: the record is damaged; to end it, run: tokenctl logout dev/network" || errors.As(err, &login) || errors.Is(err, store.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	data, _, err := h.sessions.Get(t.Context(), "dev/network")
	if err != nil || !bytes.Equal(data, damaged) {
		t.Errorf("the record is %q now, %v", data, err)
	}
	h.wantRequests(t, 0)
}

// A logout and a login are the ways out.
func TestDamagedRecordIsReplaced(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=off"))
	damage := func() {
		t.Helper()
		version, err := h.sessions.Stat(t.Context(), "dev/network")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.sessions.Put(t.Context(), "dev/network", []byte("{"), version); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	token := h.login(t, "dev/network")
	if r := h.record(t, "dev/network"); r["refresh_token"] != token.RefreshToken.Reveal() {
		t.Errorf("the record is %v", r)
	}
	damage()
	h.restart()
	if _, err := h.Revoke(t.Context(), "dev/network"); err != nil {
		t.Error(err)
	}
	if r := h.record(t, "dev/network"); r != nil {
		t.Errorf("the record is %v", r)
	}
	h.wantLogin(t, plain, "nobody is logged in", "")
}

// A login with the default settings, too.
func TestLoginOverADamagedRecord(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	if _, err := h.sessions.Put(t.Context(), "dev/network", []byte("{"), ""); err != nil {
		t.Fatal(err)
	}
	h.login(t, "dev/network")
	h.restart()
	h.get(t, plain)
}

func TestLockedSessions(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.restart()
	h.sessions.Lock()
	if _, err := h.Token(t.Context(), plain); !errors.Is(err, store.ErrLocked) {
		t.Errorf("error is %v", err)
	}
	h.wantRequests(t, 1)
}

// What was got from one server, as one client, goes nowhere else.
func TestSessionIsBound(t *testing.T) {
	t.Parallel()
	other := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret}, {ID: "second", Secret: secret}}})
	for _, test := range []struct {
		name, why string
		text      func(h *house) string
	}{
		{"client", "the client is another one than at the login", func(h *house) string {
			return strings.ReplaceAll(h.interactive(), "CLIENT_ID=client", "CLIENT_ID=second")
		}},
		{"issuer", "the issuer is another one than at the login", func(h *house) string {
			return strings.ReplaceAll(h.interactive("OAUTH2_TOKEN_URL="+h.server.TokenURL), h.server.Issuer+"\n", other.Issuer+"\n")
		}},
		{"issuer and endpoint", "the issuer is another one than at the login", func(h *house) string {
			return strings.ReplaceAll(h.interactive(), h.server.Issuer, other.Issuer)
		}},
		{"token endpoint", "the token endpoint is another one than at the login", func(h *house) string {
			return h.interactive("OAUTH2_TOKEN_URL=" + other.TokenURL)
		}},
		{"revocation endpoint", "the revocation endpoint is another one than at the login", func(h *house) string {
			return h.interactive("OAUTH2_REVOCATION_URL=" + other.Issuer + "/revoke")
		}},
		{"introspection endpoint", "the introspection endpoint is another one than at the login", func(h *house) string {
			return h.interactive("OAUTH2_INTROSPECTION_URL=" + other.Issuer + "/introspect")
		}},
		{"token endpoint's query", "the token endpoint is another one than at the login", func(h *house) string {
			return h.interactive("OAUTH2_TOKEN_URL=" + h.server.TokenURL + "?a=b")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, client(nil))
			h.put(t, "dev/network", h.interactive())
			first := h.login(t, "dev/network")
			h.put(t, "dev/network", test.text(h))
			h.wantLogin(t, plain, test.why, "")
			h.restart()
			h.wantLogin(t, plain, test.why, "")
			h.wantRequests(t, 1)
			for _, r := range other.Requests() {
				if len(r.Form) > 0 {
					t.Errorf("the other server was sent %v", r.Form)
				}
			}
			// Put right again it works: the refresh token is still there.
			h.put(t, "dev/network", h.interactive())
			h.get(t, plain)
			if diff := cmp.Diff([]string{first.RefreshToken.Reveal()}, h.spent()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A login while a renewal of the session before it is on its way: what that
// brings is neither kept nor handed to anybody who comes later.
func TestAdoptDuringARenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	h.login(t, "dev/network")
	h.fresh()
	h.server.AnyClient().Then(hanging)
	fetched := make(chan broker.Token)
	go func() {
		token, err := h.Token(t.Context(), plain)
		if err != nil {
			t.Error(err)
		}
		fetched <- token
	}()
	h.await(t, "/token", 2)
	adopted := make(chan error)
	p, err := h.PrepareText(t.Context(), "dev/network", []byte(h.interactive("OAUTH2_DPOP=off")))
	if err != nil {
		t.Fatal(err)
	}
	if p.Version, err = h.store.Stat(t.Context(), "dev/network"); err != nil {
		t.Fatal(err)
	}
	token, err := p.Token(t.Context(), oauth.Request{Grant: oauth.GrantClientCredentials})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := h.Adopt(t.Context(), p, nil, token)
		adopted <- err
	}()
	h.server.Release()
	old := <-fetched
	if err := <-adopted; err != nil {
		t.Fatal(err)
	}
	got := h.get(t, plain)
	if got.Access != token.AccessToken || got.Access == old.Access {
		t.Errorf("got %v", got)
	}
	h.fresh()
	h.get(t, plain)
	if spent := h.spent(); spent[len(spent)-1] != token.RefreshToken.Reveal() {
		t.Errorf("spent %q", spent)
	}
}

// cut is where a test ends a Move: the n-th change, before or after it is made.
type cut struct {
	n      int
	before bool
}

// At every point where a Move can end, text and session are there under one
// name, and nothing is there twice once both names were looked at.
func TestMoveCut(t *testing.T) {
	t.Parallel()
	for _, other := range []bool{false, true} {
		for _, c := range []cut{{0, true}, {0, false}, {1, true}, {1, false}, {2, true}, {2, false}, {3, true}, {3, false}, {4, true}, {4, false}} {
			t.Run(fmt.Sprintf("over another record: %t, %+v", other, c), func(t *testing.T) {
				h := newHouse(t, client(nil))
				h.put(t, "old", h.interactive())
				token := h.login(t, "old")
				if other {
					// What is left of a profile that was once called so.
					h.put(t, "new", h.interactive())
					h.login(t, "new")
					h.server.AnyClient().Then(authserver.Answer{Endpoint: "revoke", Status: 503})
					h.server.AnyClient().Then(authserver.Answer{Endpoint: "revoke", Status: 503})
					if _, err := h.Revoke(t.Context(), "new"); err != nil {
						t.Fatal(err)
					}
					version, err := h.store.Stat(t.Context(), "new")
					if err != nil {
						t.Fatal(err)
					}
					if err := h.store.Delete(t.Context(), "new", version); err != nil {
						t.Fatal(err)
					}
					h.restart()
				}
				h.server.Forget()
				// From the cut on nothing can be written, as if the process were gone.
				changes := 0
				var dead bool
				step := func(change func() error) error {
					here := changes
					changes++
					if dead || c.before && here == c.n {
						dead = true
						return errDisk
					}
					err := change()
					dead = here == c.n
					if dead && err == nil {
						err = errDisk
					}
					return err
				}
				text, version, err := h.store.Get(t.Context(), "old")
				if err != nil {
					t.Fatal(err)
				}
				put := func(ctx context.Context) error {
					return step(func() error { _, err := h.store.Put(ctx, "new", text, ""); return err })
				}
				undo := func(ctx context.Context) error {
					return step(func() error {
						written, err := h.store.Stat(ctx, "new")
						if err != nil {
							return err
						}
						return h.store.Delete(ctx, "new", written)
					})
				}
				remove := func(ctx context.Context) error {
					return step(func() error { return h.store.Delete(ctx, "old", version) })
				}
				config := h.config()
				config.Sessions = &stepping{h.sessions, step}
				h.Close()
				dying := broker.New(config)
				err = dying.Move(t.Context(), "old", "new", put, undo, remove)
				dying.Close()
				if err == nil || changes < c.n+1 {
					t.Fatalf("the move ended with %v after %d changes", err, changes)
				}
				h.Broker = broker.New(h.config())

				var there []string
				for _, name := range []string{"old", "new"} {
					_, err := h.Token(t.Context(), broker.Request{Profile: name})
					var login *broker.LoginError
					switch {
					case err == nil:
						there = append(there, name)
					case errors.Is(err, store.ErrNotExist), errors.As(err, &login):
					default:
						t.Errorf("%s: %v", name, err)
					}
				}
				if len(there) != 1 {
					t.Errorf("session and text are there under %q", there)
				}
				if diff := cmp.Diff([]string{token.RefreshToken.Reveal()}, h.spent()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// stepping is a store whose changes are steps of a test.
type stepping struct {
	store.Store
	step func(func() error) error
}

func (s *stepping) Put(ctx context.Context, name string, data []byte, replaces store.Version) (v store.Version, err error) {
	err = s.step(func() (err error) { v, err = s.Store.Put(ctx, name, data, replaces); return err })
	return v, err
}

func (s *stepping) Delete(ctx context.Context, name string, version store.Version) error {
	return s.step(func() error { return s.Store.Delete(ctx, name, version) })
}

func (h *house) move(t *testing.T, from, to string) {
	t.Helper()
	text, version, err := h.store.Get(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	err = h.Move(t.Context(), from, to,
		func(ctx context.Context) error { _, err := h.store.Put(ctx, to, text, ""); return err },
		nothing,
		func(ctx context.Context) error { return h.store.Delete(ctx, from, version) })
	if err != nil {
		t.Fatal(err)
	}
}

func nothing(context.Context) error { return nil }

func TestMove(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "old", h.interactive())
	token := h.login(t, "old")
	h.move(t, "old", "new")
	if _, err := h.Token(t.Context(), broker.Request{Profile: "old"}); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("the old name: %v", err)
	}
	h.get(t, broker.Request{Profile: "new"})
	if diff := cmp.Diff([]string{token.RefreshToken.Reveal()}, h.spent()); diff != "" {
		t.Error(diff)
	}
	if r := h.record(t, "old"); r != nil {
		t.Errorf("of the old name there is still %v", r)
	}
	if r := h.record(t, "new"); r["profile"] != "new" || r["moving"] != nil {
		t.Errorf("the record is %v", r)
	}
}

// A session that is in memory only must not be lost by a move.
func TestMoveOfWhatCouldNotBeWritten(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "old", h.interactive())
	h.login(t, "old")
	h.fresh()
	h.disk.failing(func() func(string) error {
		puts := 0
		return func(string) error {
			if puts++; puts > 1 {
				return errDisk
			}
			return nil
		}
	}())
	if got := h.get(t, broker.Request{Profile: "old"}); !got.Degraded {
		t.Fatalf("got %v", got)
	}
	h.disk.full(false)
	h.move(t, "old", "new")
	if names := h.Unsaved(); len(names) != 0 {
		t.Errorf("unsaved: %q", names)
	}
	h.restart()
	h.get(t, broker.Request{Profile: "new"})
	if l := h.server.Ledger("client"); l.SpentTwice != 0 {
		t.Errorf("%+v", l)
	}
}

// Where the text stays, the session goes back.
func TestMoveBack(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "old", h.interactive())
	token := h.login(t, "old").RefreshToken.Reveal()
	stays := errors.New("a newer text stands there")
	if err := h.Move(t.Context(), "old", "new", nothing, nothing, func(context.Context) error { return stays }); err != stays {
		t.Errorf("error is %v", err)
	}
	if r := h.record(t, "new"); r != nil {
		t.Errorf("the new name has %v", r)
	}
	if r := h.record(t, "old"); r["refresh_token"] != token || r["moving"] != nil {
		t.Errorf("the old name has %v", r)
	}
	h.get(t, broker.Request{Profile: "old"})
}

// A full disk lets files be deleted, and none be written.
func TestMoveBackOnAFullDisk(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "old", h.interactive())
	token := h.login(t, "old").RefreshToken.Reveal()
	err := h.Move(t.Context(), "old", "new", nothing, nothing, func(context.Context) error {
		h.disk.failing(func(change string) error {
			if strings.HasPrefix(change, "put ") {
				return errDisk
			}
			return nil
		})
		return errDisk
	})
	if !errors.Is(err, errDisk) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error is %v, want one line", err)
	}
	if !bytes.Contains(h.atRest(t), []byte(token)) {
		t.Error("the refresh token is lost")
	}
}

// At every cut on the way back there is one session that can be used.
func TestMoveBackCut(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		h := newHouse(t, client(nil))
		h.put(t, "old", h.interactive())
		h.put(t, "new", h.interactive())
		h.login(t, "old")
		h.server.Forget()
		h.disk.taken()
		err := h.Move(t.Context(), "old", "new", nothing, nothing, func(context.Context) error {
			changes := 0
			h.disk.failing(func(string) error {
				if changes++; changes > n {
					return errDisk
				}
				return nil
			})
			return errDisk
		})
		if err == nil {
			t.Error("no error")
		}
		h.Close()
		h.disk.full(false)
		h.Broker = broker.New(h.config())
		var there []string
		for _, name := range []string{"old", "new"} {
			if _, err := h.Token(t.Context(), broker.Request{Profile: name}); err == nil {
				there = append(there, name)
			}
		}
		if l := h.server.Ledger("client"); len(there) != 1 || l.SpentTwice != 0 {
			t.Errorf("cut after %d: there under %q, %+v", n, there, l)
		}
	}
}

// What a vanished profile left under the new name is neither taken over nor
// lost.
func TestMoveOntoAnOrphan(t *testing.T) {
	t.Parallel()
	for _, logged := range []bool{true, false} {
		t.Run(fmt.Sprintf("the moved profile has a session: %t", logged), func(t *testing.T) {
			h := newHouse(t, client(nil))
			h.put(t, "old", h.interactive())
			var own string
			if logged {
				own = h.login(t, "old").RefreshToken.Reveal()
			}
			version := h.put(t, "new", h.interactive())
			orphan := h.login(t, "new").RefreshToken.Reveal()
			if err := h.store.Delete(t.Context(), "new", version); err != nil {
				t.Fatal(err)
			}
			never := func(context.Context) error { t.Error("the text was moved"); return nil }
			if err := h.Move(t.Context(), "old", "new", never, never, never); !errors.Is(err, broker.ErrSessionThere) {
				t.Fatalf("error is %v", err)
			}
			if r := h.record(t, "new"); r["refresh_token"] != orphan {
				t.Errorf("the orphan's record is %v", r)
			}
			if logged {
				if r := h.record(t, "old"); r["refresh_token"] != own || r["moving"] != nil {
					t.Errorf("the own record is %v", r)
				}
			}
			// Logged out of, the name is free.
			if _, err := h.Revoke(t.Context(), "new"); err != nil {
				t.Fatal(err)
			}
			h.move(t, "old", "new")
			if !logged {
				h.wantLogin(t, broker.Request{Profile: "new"}, "nobody is logged in", "")
				return
			}
			h.get(t, broker.Request{Profile: "new"})
			if spent := h.spent(); !slices.Equal(spent, []string{own}) {
				t.Errorf("spent: %q, want %q", spent, own)
			}
		})
	}
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	versions := make(map[string]store.Version)
	for _, name := range []string{"a", "b", "c"} {
		versions[name] = h.put(t, name, h.interactive())
	}
	h.login(t, "a")
	h.login(t, "b")
	for _, name := range []string{"b", "c"} {
		if err := h.store.Delete(t.Context(), name, versions[name]); err != nil {
			t.Fatal(err)
		}
	}
	names, err := h.Orphans(t.Context())
	if err != nil || !slices.Equal(names, []string{"b"}) {
		t.Errorf("orphans: %q, %v", names, err)
	}
}

// A login's only token lives as long as it was given for. Within one boot it does
// not matter what somebody does to the clock.
func TestSavedTokenAndTheClock(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		name  string
		shift time.Duration
		boot  string
		lives bool // after five minutes of ten
	}{
		{"as it was", 0, "this boot", true},
		{"a year ahead", year, "this boot", true},
		{"a year back", -year, "this boot", true},
		{"another boot", 0, "another boot", true},
		{"another boot, a year ahead", year, "another boot", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, client(func(c *authserver.Client) { c.Refresh = authserver.RefreshNone; c.RefreshAlways = false }), func(t *testing.T, b *bubble) {
				b.put(t, "dev/network", b.interactive())
				token := b.login(t, "dev/network")
				b.Close()
				time.Sleep(5 * time.Minute)
				b.shiftWall(t, "dev/network", test.shift)
				b.bootID = test.boot
				if test.boot != "this boot" {
					b.suspend(-b.clock() + time.Minute) // it counts from the start
				}
				b.Broker = broker.New(b.config())
				if test.lives {
					if got := b.get(t, plain); got.Access != token.AccessToken || got.Remaining != 5*time.Minute || got.Degraded {
						t.Errorf("got %v", got)
					}
					time.Sleep(5 * time.Minute)
				}
				b.wantLogin(t, plain, "the access token has ended, and the server gave no refresh token", "")
			})
		})
	}
}
