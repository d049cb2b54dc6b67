package daemon_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/test/authserver"
)

func (w *world) revoke(t *testing.T, name string) *tokendv1.RevokeTokensResponse {
	t.Helper()
	resp, err := w.tokens.RevokeTokens(t.Context(), &tokendv1.RevokeTokensRequest{Profile: name, All: name == ""})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestLogout(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	resp, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&tokendv1.LogoutResponse{Revoked: 2}, resp, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	var hints []string
	for _, r := range server.Requests() {
		if r.Path == "/revoke" {
			hints = append(hints, r.Form.Get("token_type_hint"))
		}
	}
	if !slices.Equal(hints, []string{"refresh_token", "access_token"}) {
		t.Errorf("the server was told of %v", hints)
	}
	if l := server.Ledger(""); l.Valid != 0 {
		t.Errorf("%d refresh tokens are still valid", l.Valid)
	}
	w.wantLogged(t, "logged out", "profile=a", "revoked=2")
	w.wantSessions(t, 0)
	w.wantLoggedOut(t, "a")

	// There is a profile, and nothing to end.
	if resp, err = w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"}); err != nil || !cmp.Equal(&tokendv1.LogoutResponse{}, resp, protocmp.Transform()) {
		t.Errorf("%v, %v", resp, err)
	}
	_, err = w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "b"})
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "no such profile", "profile", "b", "suggestion", "a")
	_, err = w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{})
	wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "profile: ")
	w.mustLogin(t, "a", server)
}

// vanish takes a profile's file away, as a git checkout does.
func (w *world) vanish(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(w.settings.ProfilesDir(), name+".env.age")); err != nil {
		t.Fatal(err)
	}
}

func (w *world) orphans(t *testing.T) []string {
	t.Helper()
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return st.GetOrphanedSessions()
}

// The session of a profile that has vanished is kept, shown, and ended.
func TestLogoutOfOrphan(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", deviceText(server))
	w.mustLogin(t, "a", server)
	w.vanish(t, "a")
	if got := w.orphans(t); !slices.Equal(got, []string{"a"}) {
		t.Errorf("orphans %v", got)
	}
	_, err := w.get(t.Context(), "a")
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "", "profile", "a")

	// Nobody gets it by moving another profile there, or by a text of that name.
	w.put(t, "b", w.text())
	_, err = w.profiles.MoveProfile(t.Context(), &tokendv1.MoveProfileRequest{Name: "b", NewName: "a"})
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "logged out of first", "profile", "a")
	if w.version(t, "a") != "" || w.version(t, "b") == "" {
		t.Error("it was moved")
	}

	resp, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"})
	if err != nil || resp.GetRevoked() < 1 || resp.GetQueued() != 0 || resp.GetProblem() != "" {
		t.Errorf("%v, %v", resp, err)
	}
	if l := server.Ledger(""); l.Valid != 0 {
		t.Errorf("%d refresh tokens are still valid", l.Valid)
	}
	w.wantSessions(t, 0)
	_, err = w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"})
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "", "profile", "a", "suggestion", "b")
}

// A server that cannot be reached is told later; here the session is gone at once.
func TestLogoutOffline(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	server.AnyClient().Then(authserver.Answer{Endpoint: "revoke", Status: 503}, authserver.Answer{Endpoint: "revoke", Fault: authserver.ResetBefore})
	resp, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&tokendv1.LogoutResponse{Queued: 2}, resp, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	w.wantLoggedOut(t, "a")
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetQueuedRevocations() != 2 || len(st.GetOrphanedSessions()) != 0 {
		t.Errorf("%d queued, orphans %v, %v", st.GetQueuedRevocations(), st.GetOrphanedSessions(), err)
	}
	if err := server.Await(t.Context(), "/revoke", 4); err != nil {
		t.Fatal(err)
	}
	// The next login waits its turn until the session has been written.
	w.mustLogin(t, "a", server)
	if l := server.Ledger(""); l.Issued != 2 || l.Valid != 1 {
		t.Errorf("%d issued, %d valid", l.Issued, l.Valid)
	}
}

func TestRevokeTokens(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "machine", w.text())
	w.put(t, "nothing", w.text())
	w.put(t, "person", loginText(server))
	for _, r := range []*tokendv1.RevokeTokensRequest{{}, {Profile: "machine", All: true}, {Profile: "../x"}} {
		_, err := w.tokens.RevokeTokens(t.Context(), r)
		wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "profile: ")
	}
	_, err := w.tokens.RevokeTokens(t.Context(), &tokendv1.RevokeTokensRequest{Profile: "machin"})
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "", "profile", "machin", "suggestion", "machine")
	if got := w.revoke(t, ""); len(got.GetRevocations()) != 0 {
		t.Errorf("there was nothing to revoke: %v", got)
	}

	// The server of this text is known by its token endpoint alone.
	const problem = "the server has no revocation endpoint"
	machine := &tokendv1.RevokeTokensResponse_Revocation{Profile: "machine", Problem: problem}
	person := &tokendv1.RevokeTokensResponse_Revocation{Profile: "person", Revoked: 2}
	check := func(got *tokendv1.RevokeTokensResponse, want ...*tokendv1.RevokeTokensResponse_Revocation) {
		t.Helper()
		if diff := cmp.Diff(&tokendv1.RevokeTokensResponse{Revocations: want}, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
	first := w.mustGet(t, "machine")
	check(w.revoke(t, "machine"), machine)
	if got := w.mustGet(t, "machine"); got.GetAccessToken() == first.GetAccessToken() {
		t.Error("it is still handed out")
	}
	w.mustLogin(t, "person", server)
	check(w.revoke(t, "person"), person)
	w.wantLoggedOut(t, "person")
	w.mustLogin(t, "person", server)
	check(w.revoke(t, ""), machine, person)
	w.wantLoggedOut(t, "person")
	w.wantLogged(t, "tokens revoked", "profile=person", "revoked=2")
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || st.GetCachedTokens() != 0 || st.GetSessions() != 0 || st.GetQueuedRevocations() != 0 {
		t.Errorf("status %v, %v", st, err)
	}

	// What the server says is told.
	w.mustLogin(t, "person", server)
	server.AnyClient().Then(authserver.Answer{Endpoint: "revoke", Error: "unsupported_token_type"})
	got := w.revoke(t, "person")
	if r := got.GetRevocations(); len(r) != 1 || r[0].GetRevoked() != 1 || r[0].GetQueued() != 0 || !strings.Contains(r[0].GetProblem(), "unsupported_token_type") {
		t.Errorf("%v", got)
	}
	w.wantLoggedOut(t, "person")
}

// Neither is the text needed: it may not be trusted any more.
func TestLogoutUntrusted(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", deviceText(server))
	w.mustLogin(t, "a", server)
	w.writeTrust(t, "")
	resp, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"})
	if err != nil || resp.GetRevoked() != 2 {
		t.Errorf("%v, %v", resp, err)
	}
	w.wantSessions(t, 0)
}

func TestDeleteEndsSession(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	if _, err := w.profiles.DeleteProfile(t.Context(), &tokendv1.DeleteProfileRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if l := server.Ledger(""); l.Valid != 0 {
		t.Errorf("%d refresh tokens are still valid", l.Valid)
	}
	w.wantSessions(t, 0)
	w.put(t, "a", loginText(server))
	w.wantLoggedOut(t, "a")
}

// Where another version is there than was meant, nothing is lost.
func TestDeleteOfAnotherVersion(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	old := w.put(t, "a", loginText(server)).GetVersion()
	w.put(t, "a", loginText(server, "# changed"))
	w.mustLogin(t, "a", server)
	first := w.mustGet(t, "a")
	_, err := w.profiles.DeleteProfile(t.Context(), &tokendv1.DeleteProfileRequest{Name: "a", Version: old})
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "", "profile", "a")
	w.wantSessions(t, 1)
	if n := server.Count("/revoke"); n != 0 {
		t.Errorf("%d tokens were revoked", n)
	}
	if got := w.mustGet(t, "a"); got.GetAccessToken() != first.GetAccessToken() {
		t.Error("the token is another one")
	}
}

func TestMoveTakesSession(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	moved, err := w.profiles.MoveProfile(t.Context(), &tokendv1.MoveProfileRequest{Name: "a", NewName: "dev/b"})
	if err != nil {
		t.Fatal(err)
	}
	w.trust(t, moved.GetTrust().GetLine())
	w.mustGet(t, "dev/b")
	w.wantSessions(t, 1)
	if l := server.Ledger(""); l.Spent != 1 || l.Valid != 1 {
		t.Errorf("%d refresh tokens spent, %d valid", l.Spent, l.Valid)
	}
	w.put(t, "a", loginText(server))
	w.wantLoggedOut(t, "a")
}

// Whoever wins, the session is where the text is.
func TestMoveRaceKeepsSession(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	ctx := t.Context()
	for round := range 12 {
		from, to := "from", "to"
		version := w.put(t, from, loginText(server, "A=old")).GetVersion()
		w.mustLogin(t, from, server)
		var both sync.WaitGroup
		both.Go(func() { _, _ = w.profiles.PutProfile(ctx, putText(from, loginText(server, "A=new"), version)) })
		both.Go(func() {
			_, _ = w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: from, NewName: to})
		})
		both.Wait()
		w.wantSessions(t, 1)
		name := from
		if w.version(t, from) == "" {
			name = to
		}
		if _, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
		w.wantSessions(t, 0)
		if t.Failed() {
			t.Fatalf("round %d, the text is now %s", round, name)
		}
	}
}

// Sessions that cannot be written are in memory, and told of.
func TestUnsavedSession(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	// Names that differ in case only are one on some machines.
	if err := os.WriteFile(filepath.Join(w.settings.SessionsDir(), "A.env.age"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := w.login(t, profileStart("a"), &person{server: server})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(done.GetWarning(), "in memory only") {
		t.Errorf("done: %v", done)
	}
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil || !slices.Equal(st.GetUnsavedSessions(), []string{"a"}) {
		t.Errorf("unsaved %v, %v", st.GetUnsavedSessions(), err)
	}
	if got := w.mustGet(t, "a"); !got.GetDegraded() || !strings.Contains(got.GetWarning(), "in memory only") {
		t.Errorf("degraded %v, %q", got.GetDegraded(), got.GetWarning())
	}

	// Who ends the daemon is told once what would be lost.
	_, err = w.daemon.Stop(t.Context(), &tokendv1.StopRequest{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", "in memory only, and would be lost: a;")
	w.mustGet(t, "a")
	w.stop(t)
}

// After the identity was lost, what it kept is in nobody's way.
func TestSessionOfAnotherIdentity(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	for _, name := range []string{"login", "logout", "delete"} {
		w.put(t, name, loginText(server))
		w.mustLogin(t, name, server)
	}
	if err := os.Remove(filepath.Join(w.settings.Get(settings.Dir), "identity.txt")); err != nil {
		t.Fatal(err)
	}
	w.reload(t)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	w.put(t, "login", loginText(server))
	if _, err := w.login(t, profileStart("login"), &person{server: server}); err != nil {
		t.Errorf("login: %v", err)
	}
	if _, err := w.get(t.Context(), "login"); err != nil {
		t.Errorf("get: %v", err)
	}
	if _, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "logout"}); err != nil {
		t.Errorf("logout: %v", err)
	}
	if _, err := w.profiles.DeleteProfile(t.Context(), &tokendv1.DeleteProfileRequest{Name: "delete"}); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func introspect(w *world, t *testing.T, name string) (*tokendv1.IntrospectTokenResponse, map[string]any) {
	t.Helper()
	resp, err := w.tokens.IntrospectToken(t.Context(), &tokendv1.IntrospectTokenRequest{Profile: name})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal([]byte(resp.GetClaims()), &claims); err != nil {
		t.Fatal(err)
	}
	return resp, claims
}

func TestIntrospectToken(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Clients: []authserver.Client{{ID: "jwt", Secret: secret}}})
	// By the server.
	w.put(t, "server", loginText(server))
	w.mustLogin(t, "server", server)
	token := w.mustGet(t, "server")
	got, claims := introspect(w, t, "server")
	want := &tokendv1.IntrospectTokenResponse{Source: tokendv1.IntrospectTokenResponse_SOURCE_INTROSPECTION, Active: true, TokenType: "Bearer",
		Claims: got.GetClaims(), ExpiresAt: got.GetExpiresAt(), Fingerprint: token.GetFingerprint()}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || claims["sub"] != authserver.Subject || claims["active"] != true {
		t.Error(diff, claims)
	}
	wantEnds(t, got.GetExpiresAt(), 600*time.Second)
	server.AnyClient().Then(authserver.Answer{Endpoint: "introspect", Status: 200, Body: `{"active":false}`})
	if got, claims := introspect(w, t, "server"); got.GetActive() || claims["active"] != false {
		t.Errorf("%v, %v", got, claims)
	}
	server.AnyClient().Then(authserver.Answer{Endpoint: "introspect", Status: 503})
	_, err := w.tokens.IntrospectToken(t.Context(), &tokendv1.IntrospectTokenRequest{Profile: "server"})
	wantReason(t, err, codes.Unavailable, "PROVIDER_DOWN", "", "profile", "server", "http_status", "503")
	server.AnyClient().Then(authserver.Answer{Endpoint: "introspect", EchoSecret: true})
	_, err = w.tokens.IntrospectToken(t.Context(), &tokendv1.IntrospectTokenRequest{Profile: "server"})
	wantReason(t, err, codes.PermissionDenied, "CLIENT_REFUSED", "", "profile", "server", "http_status", "401", "oauth_error", "invalid_client")

	// By the token.
	w.put(t, "jwt", "OAUTH2_TOKEN_URL="+server.TokenURL+"\nCLIENT_ID=jwt\nCLIENT_SECRET="+secret+"\n")
	n := len(server.Requests())
	got, claims = introspect(w, t, "jwt")
	if got.GetSource() != tokendv1.IntrospectTokenResponse_SOURCE_JWT || !got.GetActive() || claims["client_id"] != "jwt" || len(server.Requests()) != n+1 {
		t.Errorf("%v, %v", got, claims)
	}
	// By nobody.
	w.put(t, "opaque", w.text())
	if got, claims = introspect(w, t, "opaque"); got.GetSource() != tokendv1.IntrospectTokenResponse_SOURCE_NONE || got.GetActive() || len(claims) != 0 {
		t.Errorf("%v, %v", got, claims)
	}

	_, err = w.tokens.IntrospectToken(t.Context(), &tokendv1.IntrospectTokenRequest{Profile: "opaq"})
	wantReason(t, err, codes.NotFound, "PROFILE_NOT_FOUND", "", "profile", "opaq", "suggestion", "opaque")
	_, err = w.tokens.IntrospectToken(t.Context(), &tokendv1.IntrospectTokenRequest{Profile: "opaque", Scopes: []string{"a b"}})
	wantReason(t, err, codes.InvalidArgument, "REQUEST_INVALID", "scopes: ")
	w.writeTrust(t, "")
	_, err = w.tokens.IntrospectToken(t.Context(), &tokendv1.IntrospectTokenRequest{Profile: "opaque"})
	wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "", "profile", "opaque")
}

func TestCreateDPoPProof(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{DPoPNonce: true})
	text := loginText(server, "OAUTH2_DPOP=on", "OAUTH2_RESOURCE="+server.ResourceURL)
	w.put(t, "a", text+"\nAPI_URL="+server.URL)
	w.mustLogin(t, "a", server)
	w.put(t, "bearer", w.text())
	access := w.mustGet(t, "a").GetAccessToken()
	bearer := w.mustGet(t, "bearer").GetAccessToken()
	proof := func(name, access, method, url, nonce string) (string, error) {
		t.Helper()
		resp, err := w.tokens.CreateDPoPProof(t.Context(), &tokendv1.CreateDPoPProofRequest{Profile: name, AccessToken: access, Method: method, Url: url, Nonce: nonce})
		return resp.GetProof(), err
	}
	call := func(proof string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.ResourceURL+"?a=b", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "DPoP "+access)
		req.Header.Set("DPoP", proof)
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	first, err := proof("a", access, "GET", server.ResourceURL+"?a=b", "")
	if err != nil {
		t.Fatal(err)
	}
	refused := call(first)
	nonce := refused.Header.Get("DPoP-Nonce")
	if refused.StatusCode != http.StatusUnauthorized || nonce == "" {
		t.Errorf("status %s", refused.Status)
	}
	second, err := proof("a", access, "GET", server.ResourceURL+"?a=b", nonce)
	if err != nil {
		t.Fatal(err)
	}
	if resp := call(second); resp.StatusCode != http.StatusOK {
		t.Errorf("status %s, %s", resp.Status, resp.Header.Get("WWW-Authenticate"))
	}
	if resp := call(second); resp.StatusCode != http.StatusUnauthorized {
		t.Error("a proof was good twice")
	}

	const invalid, denied = codes.InvalidArgument, codes.PermissionDenied
	for name, test := range map[string]struct {
		profile, access, method, url, nonce string
		code                                codes.Code
		reason                              string
		meta                                []string
	}{
		"no profile":         {"", access, "GET", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"missing profile":    {"other", access, "GET", server.ResourceURL, "", codes.NotFound, "PROFILE_NOT_FOUND", []string{"profile", "other"}},
		"no token":           {"a", "", "GET", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"another's token":    {"a", bearer, "GET", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"token of another":   {"bearer", access, "GET", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"a bearer token":     {"bearer", bearer, "GET", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"no method":          {"a", access, "", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"bad method":         {"a", access, "GET x", server.ResourceURL, "", invalid, "REQUEST_INVALID", nil},
		"bad nonce":          {"a", access, "GET", server.ResourceURL, "a b", invalid, "REQUEST_INVALID", nil},
		"long nonce":         {"a", access, "GET", server.ResourceURL, strings.Repeat("n", 4097), invalid, "REQUEST_INVALID", nil},
		"no URL":             {"a", access, "GET", "", "", invalid, "REQUEST_INVALID", nil},
		"not a URL":          {"a", access, "GET", "resource", "", invalid, "REQUEST_INVALID", nil},
		"plain http":         {"a", access, "GET", "http://api.example/", "", invalid, "REQUEST_INVALID", nil},
		"another origin":     {"a", access, "GET", "https://evil.example/", "", denied, "DENIED", []string{"profile", "a", "variable", "API_URL"}},
		"the token endpoint": {"a", access, "POST", server.TokenURL, "", denied, "DENIED", []string{"profile", "a"}},
		"in other letters":   {"a", access, "POST", server.URL + "/x/../TOKEN;a=b?c=d", "", denied, "DENIED", []string{"profile", "a"}},
		"the PAR endpoint":   {"a", access, "POST", server.URL + "/par", "", denied, "DENIED", []string{"profile", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := proof(test.profile, test.access, test.method, test.url, test.nonce)
			wantReason(t, err, test.code, test.reason, "", test.meta...)
			if got != "" || strings.Contains(err.Error(), access) {
				t.Errorf("proof %q, %v", got, err)
			}
		})
	}

	if _, err := w.profiles.Logout(t.Context(), &tokendv1.LogoutRequest{Profile: "a"}); err != nil {
		t.Fatal(err)
	}
	_, err = proof("a", access, "GET", server.ResourceURL, "")
	wantReason(t, err, invalid, "REQUEST_INVALID", "access_token: ")
}
