package daemon_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/test/authserver"
)

// reveal is a profile's text.
func (w *world) reveal(t *testing.T, name string) string {
	t.Helper()
	got, err := w.profiles.RevealProfile(t.Context(), &tokendv1.RevealProfileRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return string(got.GetText())
}

func hostOf(s *authserver.Server) string {
	return strings.ReplaceAll(strings.TrimPrefix(s.URL, "http://"), ":", "-")
}

func TestLoginURL(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true, RegistrationToken: "CANARY-initial", ResourceScope: "read"})
	host := hostOf(server)
	p := &person{server: server, token: "CANARY-initial"}
	done, err := w.login(t, urlStart(server.ResourceURL), p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"server_found", "initial_access_token_needed", "open_url", "done"}, p.events); diff != "" {
		t.Error(diff)
	}
	found := &tokendv1.LoginResponse_ServerFound{Resource: server.ResourceURL, Issuer: server.Issuer, AuthorizationEndpoint: server.Issuer + "/authorize",
		Registers: true, Profile: host, Scopes: p.found.GetScopes(), TokenEndpoint: server.TokenURL, RegistrationEndpoint: server.Issuer + "/register"}
	if diff := cmp.Diff(found, p.found, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	trust := done.GetTrust()
	if done.GetProfile() != host || trust.GetTrusted() || !strings.HasPrefix(trust.GetLine(), host+" ") || trust.GetFile() != w.settings.TrustFile() {
		t.Errorf("done: %v", done)
	}
	if text := w.reveal(t, host); strings.Contains(text, "CANARY-initial") {
		t.Error("the initial access token is in the profile")
	}
	// Not before a person has seen what is trusted.
	_, err = w.get(t.Context(), host)
	wantReason(t, err, codes.FailedPrecondition, "UNTRUSTED", "", "profile", host)
	w.trust(t, trust.GetLine())
	asked := len(server.Requests())
	token := w.mustGet(t, host)
	if len(server.Requests()) != asked {
		t.Error("the login's token is not the one that is given")
	}
	if diff := cmp.Diff([]string{server.URL}, token.GetApiOrigins()); diff != "" {
		t.Error(diff)
	}
	w.wantLogged(t, "logged in", "profile="+host)
	w.wantSessions(t, 1)

	// A later login goes by the profile.
	if _, err := w.login(t, profileStart(host), &person{server: server}); err != nil {
		t.Error(err)
	}
	if n := server.Count("/register"); n != 2 {
		t.Errorf("%d requests to register, want one without and one with the token", n)
	}
}

func TestLoginURLExists(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true})
	put := w.put(t, "api", w.text())
	start := urlStart(server.ResourceURL)
	start.Name = "api"
	_, err := w.login(t, start, &person{server: server})
	wantReason(t, err, codes.AlreadyExists, "ALREADY_EXISTS", "it exists already", "profile", "api")
	if n := len(server.Requests()); n != 0 || w.version(t, "api") != put.GetVersion() {
		t.Errorf("the server was asked %d times", n)
	}
	start.Replace = true
	done, err := w.login(t, start, &person{server: server})
	if err != nil {
		t.Fatal(err)
	}
	w.trust(t, done.GetTrust().GetLine())
	if got := w.mustGet(t, "api"); got.GetProfileVersion() == put.GetVersion() || got.GetProfileVersion() != w.version(t, "api") {
		t.Errorf("the token is of version %q", got.GetProfileVersion())
	}
}

// A text that changes while a person logs in is not replaced.
func TestLoginURLRace(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true})
	w.put(t, "api", w.text())
	start := urlStart(server.ResourceURL)
	start.Name, start.Replace = "api", true
	p := &person{server: server, confirm: func(*tokendv1.LoginResponse_ServerFound) bool {
		w.put(t, "api", w.text("A=1"))
		return true
	}}
	_, err := w.login(t, start, p)
	wantReason(t, err, codes.Aborted, "VERSION_CHANGED", "nothing was written", "profile", "api")
	if !strings.Contains(w.reveal(t, "api"), "A=1") {
		t.Error("the newer text is lost")
	}
	w.wantSessions(t, 0)
	if l := server.Ledger(""); l.Issued != 1 || l.Valid != 0 {
		t.Errorf("%d refresh tokens are good that nobody has", l.Valid)
	}
}

func TestLoginURLByDevice(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true})
	start := urlStart(server.ResourceURL)
	start.Name, start.Method = "api", tokendv1.LoginRequest_METHOD_DEVICE
	p := &person{server: server}
	done, err := w.login(t, start, p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"server_found", "show_code", "done"}, p.events); diff != "" || p.found.GetAuthorizationEndpoint() != server.Issuer+"/device_authorization" {
		t.Error(diff, p.found)
	}
	w.trust(t, done.GetTrust().GetLine())
	w.mustGet(t, "api")
}

func TestLoginURLWithClient(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true})
	start := urlStart(server.ResourceURL)
	start.Name, start.ClientId, start.ClientSecret, start.Scopes = "api", "web", secret, []string{"write"}
	start.WwwAuthenticate = `Bearer resource_metadata="` + server.URL + `/.well-known/oauth-protected-resource/resource", scope="read"`
	p := &person{server: server}
	done, err := w.login(t, start, p)
	if err != nil {
		t.Fatal(err)
	}
	if p.found.GetRegisters() || server.Count("/register") != 0 {
		t.Errorf("%d clients were registered, %v", server.Count("/register"), p.found)
	}
	if server.Count("/resource") != 0 {
		t.Error("the API was asked though there is its answer")
	}
	if diff := cmp.Diff([]string{"write"}, done.GetScopes()); diff != "" {
		t.Error(diff)
	}
	w.trust(t, done.GetTrust().GetLine())
	w.mustGet(t, "api")
	if text := w.reveal(t, "api"); !strings.Contains(text, "CLIENT_ID=web\n") || !strings.Contains(text, "CLIENT_SECRET="+secret+"\n") {
		t.Errorf("the text is %s", text)
	}
}

// What fails leaves no profile and no session.
func TestLoginURLRefusals(t *testing.T) {
	const denied, down = codes.PermissionDenied, codes.Unavailable
	for name, test := range map[string]struct {
		config  authserver.Config
		answer  authserver.Answer
		person  person
		code    codes.Code
		reason  string
		message string
		meta    []string
		clients int // requests to register
	}{
		"not confirmed": {
			config: authserver.Config{Registration: true}, person: person{confirm: func(*tokendv1.LoginResponse_ServerFound) bool { return false }},
			code: denied, reason: "DENIED", message: "not confirmed",
		},
		"no initial access token": {
			config: authserver.Config{Registration: true, RegistrationToken: "x"}, code: denied, reason: "CLIENT_REFUSED",
			meta: []string{"http_status", "401", "oauth_error", "invalid_token"}, clients: 1,
		},
		"a wrong one": {
			config: authserver.Config{Registration: true, RegistrationToken: "x"}, person: person{token: "CANARY-initial"}, code: denied, reason: "CLIENT_REFUSED",
			meta: []string{"http_status", "401", "oauth_error", "invalid_token"}, clients: 2,
		},
		"no registration": {code: denied, reason: "REQUEST_REFUSED", message: "registers no client by itself"},
		"another resource": {
			config: authserver.Config{Registration: true, ResourceMetadata: map[string]any{"resource": "https://evil.example/resource"}},
			code:   denied, reason: "REQUEST_REFUSED", message: "https://evil.example/resource",
		},
		"registration refused": {
			config: authserver.Config{Registration: true}, answer: authserver.Answer{Endpoint: "register", Error: "invalid_client_metadata"},
			code: denied, reason: "REQUEST_REFUSED", meta: []string{"oauth_error", "invalid_client_metadata", "http_status", "400"}, clients: 1,
		},
		"registration down": {
			config: authserver.Config{Registration: true}, answer: authserver.Answer{Endpoint: "register", Status: 503},
			code: down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "503"}, clients: 1,
		},
		"metadata down": {
			config: authserver.Config{Registration: true}, answer: authserver.Answer{Endpoint: "resource_metadata", Status: 503},
			code: down, reason: "PROVIDER_DOWN", meta: []string{"http_status", "503"},
		},
		"the login fails": {
			config: authserver.Config{Registration: true}, answer: authserver.Answer{Endpoint: "authorize", Error: "access_denied"},
			code: denied, reason: "DENIED", message: "denied", clients: 1,
		},
		"the code fails": {
			config: authserver.Config{Registration: true}, answer: authserver.Answer{Error: "invalid_grant"},
			code: denied, reason: "REQUEST_REFUSED", meta: []string{"oauth_error", "invalid_grant", "http_status", "400"}, clients: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newInitialized(t)
			server := people(t, test.config)
			if test.answer.Endpoint != "" || test.answer.Error != "" {
				server.AnyClient().Then(test.answer)
			}
			test.person.server = server
			start := urlStart(server.ResourceURL)
			start.Name = "api"
			_, err := w.login(t, start, &test.person)
			wantReason(t, err, test.code, test.reason, test.message, append(test.meta, "profile", "api")...)
			if strings.Contains(err.Error(), "CANARY") || strings.Contains(w.log.String(), "CANARY") {
				t.Errorf("a secret is in %v, or the log", err)
			}
			if w.version(t, "api") != "" {
				t.Error("a profile was written")
			}
			if n := server.Count("/register"); n != test.clients {
				t.Errorf("%d requests to register, want %d", n, test.clients)
			}
			w.wantSessions(t, 0)
		})
	}
}

// Where a profile cannot be written nothing is, and a name that is taken is known
// before a client is registered.
func TestLoginURLThatCannotBeWritten(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{Registration: true})
	w.put(t, "Api", w.text())
	w.untrustedFolder(t, "team")
	login := func(name string) error {
		start := urlStart(server.ResourceURL)
		start.Name = name
		_, err := w.login(t, start, &person{server: server})
		return err
	}
	asked := len(server.Requests())
	wantReason(t, login("team/a"), codes.FailedPrecondition, "UNTRUSTED", "folder team/", "profile", "team/a", "folder", "team/")
	wantReason(t, login("api"), codes.AlreadyExists, "ALREADY_EXISTS", "", "profile", "api", "suggestion", "Api")
	if len(server.Requests()) != asked {
		t.Error("the server was asked for nothing")
	}
	if err := os.Chmod(w.settings.TrustFile(), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := login("b"); reasonOf(t, err).Reason != "STORE_UNAVAILABLE" {
		t.Errorf("error is %v", err)
	}
	if w.version(t, "b") != "" {
		t.Error("a profile was written")
	}
	w.wantSessions(t, 0)
}

// Where no name is given, the host is one.
func TestNamesOfHosts(t *testing.T) {
	w := newInitialized(t)
	for target, want := range map[string]string{
		"http://[::1]:8080/register":          "1-8080",
		"https://API.Example.COM/v1/register": "api.example.com",
		"https://api.example:8443/register":   "api.example-8443",
		"https://[2001:db8::1]/register":      "2001-db8--1",
		"https://api.example./register":       "api.example",
	} {
		stream, err := w.profiles.Register(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(registerStart(&tokendv1.RegisterRequest_Start{Url: target})); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if got := resp.GetUserNeeded().GetProfile(); got != want {
			t.Errorf("%s is named %q, %v; want %q", target, got, err, want)
		}
		_ = stream.CloseSend()
		for err == nil {
			_, err = stream.Recv()
		}
	}
}
