package login_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/internal/envfile"
	"tokend/login"
	"tokend/oauth"
	"tokend/test/authserver"
)

// A finder is a person who confirms and keeps what was said.
type finder struct {
	found   []login.ServerFound
	notices []string
	asked   []string // endpoints that an initial access token was asked for
	token   string   // initial access token
	refuses bool
}

func (f *finder) person() login.Person {
	return login.Person{
		Tell: func(e login.Event) error {
			f.notices = append(f.notices, e.(login.Notice).Message)
			return nil
		},
		Confirm: func(_ context.Context, s login.ServerFound) (bool, error) {
			f.found = append(f.found, s)
			return !f.refuses, nil
		},
		InitialAccessToken: func(_ context.Context, endpoint string) (oauth.Secret, error) {
			f.asked = append(f.asked, endpoint)
			return oauth.NewSecret(f.token), nil
		},
	}
}

// texts are the variables by their names, those that change with each run taken out.
func texts(t *testing.T, vars []envfile.Var, changing ...string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, v := range vars {
		m[v.Name] = v.Value
	}
	if len(m) != len(vars) {
		t.Error("a variable is there twice")
	}
	for _, name := range changing {
		if m[name] == "" {
			t.Errorf("no %s", name)
		}
		delete(m, name)
	}
	return m
}

// From a URL to an answer of the API.
func TestFind(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Registration: true, ResourceScope: "read write"})
	var f finder
	vars, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL, Name: "dev/network"}, f.person())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]login.ServerFound{{
		Resource: s.ResourceURL, Issuer: s.Issuer, AuthorizationEndpoint: s.Issuer + "/authorize",
		TokenEndpoint: s.Issuer + "/token", RegistrationEndpoint: s.Issuer + "/register", Registers: true,
		Profile: "dev/network", Scopes: []string{"read", "write"},
	}}, f.found); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{
		"OAUTH2_ISSUER": s.Issuer, "OAUTH2_GRANT": "authorization_code", "OAUTH2_CLIENT_AUTH": "none",
		"OAUTH2_SCOPE": "read write", "OAUTH2_RESOURCE": s.ResourceURL, "API_URL": s.URL,
		"OAUTH2_TOKEN_URL": s.Issuer + "/token", "OAUTH2_AUTH_URL": s.Issuer + "/authorize", "OAUTH2_DEVICE_URL": s.Issuer + "/device_authorization",
		"OAUTH2_INTROSPECTION_URL": s.Issuer + "/introspect", "OAUTH2_REVOCATION_URL": s.Issuer + "/revoke", "OAUTH2_REGISTRATION_URL": s.Issuer + "/register",
	}, texts(t, vars, "CLIENT_ID", "OAUTH2_REDIRECT_URL")); diff != "" {
		t.Error(diff)
	}
	if len(f.notices)+len(f.asked) > 0 {
		t.Error(f.notices, f.asked)
	}

	p := prepareVars(t, append(vars, envfile.Var{Name: "OAUTH2_DPOP", Value: "off"}))
	l := begin(t, login.Browser, p, p.Profile.Request.Scopes...)
	open := next[login.OpenURL](l)
	if registered := texts(t, vars)["OAUTH2_REDIRECT_URL"]; open.RedirectURL != registered {
		t.Errorf("registered with %s, used %s", registered, open.RedirectURL)
	}
	visit(t, open.URL)
	token, err := l.end()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.ResourceURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.AccessToken.Reveal())
	if a, err := send(req); err != nil || a.status != http.StatusOK {
		t.Errorf("the API: %d %s %v", a.status, a.body, err)
	}
}

func TestFindNotConfirmed(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Registration: true})
	f := finder{refuses: true}
	who := f.person()
	if vars, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL}, who); !errors.Is(err, login.ErrNotConfirmed) || vars != nil {
		t.Error(vars, err)
	}
	who.Confirm = nil
	if _, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL}, who); !errors.Is(err, login.ErrNotConfirmed) {
		t.Error(err)
	}
	broken := errors.New("nobody there")
	who.Confirm = func(context.Context, login.ServerFound) (bool, error) { return true, broken }
	if _, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL}, who); !errors.Is(err, broken) {
		t.Error(err)
	}
	if s.Count("/register") > 0 {
		t.Error("a client was registered")
	}
}

func TestFindInitialAccessToken(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Registration: true, RegistrationToken: "let-me-in"})
	f := finder{token: "let-me-in"}
	if _, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL}, f.person()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{s.Issuer + "/register"}, f.asked); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range []string{"", "something-else"} {
		f = finder{token: wrong}
		var refused *oauth.Error
		_, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL}, f.person())
		if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized || len(f.asked) != 1 {
			t.Errorf("%v; asked %d times", err, len(f.asked))
		}
		if wrong != "" && strings.Contains(err.Error(), wrong) {
			t.Error("the token is in the error")
		}
	}
	who := f.person()
	who.InitialAccessToken = nil
	if _, err := login.Find(t.Context(), login.Target{URL: s.ResourceURL}, who); err == nil {
		t.Error("registered without the token")
	}
}

// An api and its authorization server, on two ports, which say what a test
// wants them to say.
type api struct {
	t          *testing.T
	url        string // of the API
	issuer     string
	challenge  string // on POST; with %s for url's origin
	places     map[string]string
	registered []map[string]any
	answer     map[string]any // to a registration, beside what was asked
	requests   []string
}

// metadata of the authorization server, with changes.
func (a *api) metadata(changes map[string]any) string {
	m := map[string]any{
		"issuer":                                a.issuer,
		"authorization_endpoint":                a.issuer + "/authorize",
		"token_endpoint":                        a.issuer + "/token",
		"registration_endpoint":                 a.issuer + "/register",
		"response_types_supported":              []string{"code"},
		"code_challenge_methods_supported":      []string{"S256"},
		"token_endpoint_auth_methods_supported": []string{"none"},
	}
	for name, v := range changes {
		m[name] = v
		if v == nil {
			delete(m, name)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

func startAPI(t *testing.T) *api {
	a := &api{t: t, places: make(map[string]string)}
	serve := func(w http.ResponseWriter, r *http.Request, which string) {
		a.requests = append(a.requests, which+" "+r.Method+" "+r.URL.Path)
		switch body, ok := a.places[which+" "+r.URL.Path]; {
		case ok:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		case which == "api" && r.URL.Path == "/mcp" && r.Method == http.MethodPost:
			w.Header().Set("WWW-Authenticate", a.challenge)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "/register") && r.Method == http.MethodPost:
			m := make(map[string]any)
			if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
				t.Error(err)
			}
			a.registered = append(a.registered, m)
			reply := map[string]any{"client_id": "the client"}
			for name, v := range a.answer {
				reply[name] = v
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(reply)
		default:
			http.NotFound(w, r)
		}
	}
	for which, to := range map[string]*string{"api": &a.url, "as": &a.issuer} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, which) }))
		t.Cleanup(s.Close)
		*to = s.URL
	}
	a.url += "/mcp"
	a.challenge = `Bearer error="invalid_token"`
	return a
}

func (a *api) origin() string { return strings.TrimSuffix(a.url, "/mcp") }

func (a *api) resource(server string) string {
	return fmt.Sprintf(`{"resource":%q,"authorization_servers":[%q]}`, a.url, server)
}

const (
	resourceAt = "api /.well-known/oauth-protected-resource"
	serverAt   = "/.well-known/oauth-authorization-server"
	openidAt   = "/.well-known/openid-configuration"
)

// Where the documents may be, and what must not be looked at.
func TestFindPlaces(t *testing.T) {
	for name, tt := range map[string]struct {
		set    func(*api)
		want   map[string]string // beside the client
		never  string
		notice bool
	}{
		"metadata below the path": {
			set: func(a *api) {
				a.challenge += fmt.Sprintf(`, resource_metadata="%s/.well-known/oauth-protected-resource/mcp"`, a.origin())
				a.places[resourceAt+"/mcp"] = a.resource(a.issuer)
				a.places["as "+serverAt] = a.metadata(nil)
			},
			want:  map[string]string{"OAUTH2_ISSUER": "AS", "OAUTH2_RESOURCE": "API/mcp"},
			never: resourceAt,
		},
		"metadata of the host, a server with a path": {
			set: func(a *api) {
				a.issuer += "/tenant1"
				a.places[resourceAt] = fmt.Sprintf(`{"resource":%q,"authorization_servers":[%q]}`, a.origin(), a.issuer)
				a.places["as "+serverAt+"/tenant1"] = a.metadata(nil)
			},
			want:  map[string]string{"OAUTH2_ISSUER": "AS/tenant1", "OAUTH2_RESOURCE": "API"},
			never: "as " + serverAt,
		},
		"metadata anywhere, OpenID Connect": {
			set: func(a *api) {
				a.issuer += "/tenant1"
				a.challenge += fmt.Sprintf(`, resource_metadata="%s/custom/location.json"`, a.origin())
				a.places["api /custom/location.json"] = a.resource(a.issuer)
				a.places["as /tenant1"+openidAt] = a.metadata(nil)
			},
			want:  map[string]string{"OAUTH2_ISSUER": "AS/tenant1", "OAUTH2_RESOURCE": "API/mcp"},
			never: "as " + serverAt,
		},
		// A profile would not find these by the issuer.
		"OpenID Connect before the path": {
			set: func(a *api) {
				a.issuer += "/tenant1"
				a.places[resourceAt+"/mcp"] = a.resource(a.issuer)
				a.places["as "+openidAt+"/tenant1"] = a.metadata(nil)
			},
			want: map[string]string{"OAUTH2_RESOURCE": "API/mcp"},
		},
		"the API's own origin, with metadata": {
			set: func(a *api) {
				a.issuer = a.origin()
				a.places["api "+serverAt] = a.metadata(nil)
			},
			notice: true,
		},
		"the API's own origin, under another name": {
			set: func(a *api) {
				a.issuer = a.origin() + "/oauth"
				a.places["api "+serverAt] = a.metadata(nil)
			},
			notice: true,
		},
		"the API's own origin, without metadata": {
			set: func(*api) {},
			want: map[string]string{
				"OAUTH2_TOKEN_URL": "API/token", "OAUTH2_AUTH_URL": "API/authorize", "OAUTH2_REGISTRATION_URL": "API/register",
				"OAUTH2_CLIENT_AUTH": "client_secret_basic", "CLIENT_SECRET": "the secret",
			},
			notice: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := startAPI(t)
			as := a.issuer
			tt.set(a)
			a.answer = map[string]any{"client_secret": "the secret"}
			var f finder
			vars, err := login.Find(t.Context(), login.Target{URL: a.url, Name: "mcp"}, f.person())
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"OAUTH2_GRANT": "authorization_code", "CLIENT_ID": "the client", "OAUTH2_CLIENT_AUTH": "none", "API_URL": a.origin(),
				"OAUTH2_TOKEN_URL": a.issuer + "/token", "OAUTH2_AUTH_URL": a.issuer + "/authorize", "OAUTH2_REGISTRATION_URL": a.issuer + "/register",
			}
			for name, v := range tt.want {
				want[name] = strings.NewReplacer("AS", as, "API", a.origin()).Replace(v)
			}
			if diff := cmp.Diff(want, texts(t, vars, "OAUTH2_REDIRECT_URL")); diff != "" {
				t.Error(diff)
			}
			if tt.never != "" && slices.Contains(a.requests, strings.Replace(tt.never, " ", " GET ", 1)) {
				t.Errorf("asked for %s", tt.never)
			}
			if tt.notice != (len(f.notices) == 1) || tt.notice && !strings.Contains(f.notices[0], "names no authorization server") {
				t.Errorf("the person is told %q", f.notices)
			}
			if len(f.found) != 1 || f.found[0].Issuer != a.issuer && !tt.notice || tt.notice && !strings.HasPrefix(f.found[0].Issuer, a.origin()) {
				t.Errorf("confirmed: %+v", f.found)
			}
		})
	}
}

func TestFindScopes(t *testing.T) {
	offline := map[string]any{"scopes_supported": []string{"offline_access", "x"}}
	for name, tt := range map[string]struct {
		challenge, supported string
		metadata             map[string]any
		target               []string
		want                 string
	}{
		"none":                    {},
		"none, offline possible":  {metadata: offline},
		"of the challenge":        {challenge: "a b", supported: `"c"`, want: "a b"},
		"of the metadata":         {supported: `"c","d"`, want: "c d"},
		"of the person":           {challenge: "a", metadata: offline, target: []string{"e"}, want: "e"},
		"and offline":             {challenge: "a", metadata: offline, want: "a offline_access"},
		"offline, and has it":     {challenge: "offline_access a", metadata: offline, want: "offline_access a"},
		"offline, but no refresh": {challenge: "a", metadata: map[string]any{"scopes_supported": []string{"offline_access"}, "grant_types_supported": []string{"authorization_code"}}, want: "a"},
		"too many to read":        {challenge: strings.Repeat("scope ", 342), supported: `"c"`, want: "c"},
		"not of OAuth":            {challenge: `a \\b`, supported: `"c"`, want: "c"},
	} {
		t.Run(name, func(t *testing.T) {
			a := startAPI(t)
			if tt.challenge != "" {
				a.challenge += fmt.Sprintf(`, scope="%s"`, tt.challenge)
			}
			a.places[resourceAt] = fmt.Sprintf(`{"resource":%q,"authorization_servers":[%q],"scopes_supported":[%s]}`, a.url, a.issuer, tt.supported)
			a.places["as "+serverAt] = a.metadata(tt.metadata)
			var f finder
			vars, err := login.Find(t.Context(), login.Target{URL: a.url, Scopes: tt.target}, f.person())
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(t, vars)["OAUTH2_SCOPE"]; got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if scope, is := a.registered[0]["scope"]; is {
				t.Errorf("the client is registered for %q, and can never ask for more", scope)
			}
			if got := strings.Join(f.found[0].Scopes, " "); got != tt.want {
				t.Errorf("confirmed %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFindGivenChallenge(t *testing.T) {
	a := startAPI(t)
	a.places["api /elsewhere"] = a.resource(a.issuer)
	a.places["as "+serverAt] = a.metadata(nil)
	var f finder
	vars, err := login.Find(t.Context(), login.Target{
		URL: a.url, Challenge: fmt.Sprintf(`Bearer scope="x y", resource_metadata="%s/elsewhere"`, a.origin()),
	}, f.person())
	if err != nil || texts(t, vars)["OAUTH2_SCOPE"] != "x y" {
		t.Fatal(vars, err)
	}
	if slices.ContainsFunc(a.requests, func(r string) bool { return strings.HasSuffix(r, "/mcp") }) {
		t.Errorf("the API was asked again: %q", a.requests)
	}
}

func TestFindClient(t *testing.T) {
	for name, tt := range map[string]struct {
		metadata map[string]any
		target   login.Target
		answer   map[string]any
		want     map[string]string
	}{
		"registered, basic only": {
			metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}},
			answer:   map[string]any{"client_secret": "s", "client_secret_expires_at": 1900000000, "token_endpoint_auth_method": "client_secret_basic"},
			want: map[string]string{
				"CLIENT_ID": "the client", "CLIENT_SECRET": "s", "CLIENT_SECRET_EXPIRES_AT": "2030-03-17T17:46:40Z", "OAUTH2_CLIENT_AUTH": "client_secret_basic",
			},
		},
		"registered, post only": {
			metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post"}},
			answer:   map[string]any{"client_secret": "s"},
			want:     map[string]string{"CLIENT_ID": "the client", "CLIENT_SECRET": "s", "OAUTH2_CLIENT_AUTH": "client_secret_post"},
		},
		"the server knows better": {
			answer: map[string]any{"client_secret": "s", "token_endpoint_auth_method": "client_secret_post"},
			want:   map[string]string{"CLIENT_ID": "the client", "CLIENT_SECRET": "s", "OAUTH2_CLIENT_AUTH": "client_secret_post"},
		},
		"public, by ID": {
			target: login.Target{ClientID: "mine"},
			want:   map[string]string{"CLIENT_ID": "mine", "OAUTH2_CLIENT_AUTH": "none"},
		},
		"confidential, by ID": {
			metadata: map[string]any{"registration_endpoint": nil, "token_endpoint_auth_methods_supported": []string{"client_secret_basic"}},
			target:   login.Target{ClientID: "mine", ClientSecret: oauth.NewSecret("s"), RedirectURL: "http://localhost:8123/x"},
			want: map[string]string{
				"CLIENT_ID": "mine", "CLIENT_SECRET": "s", "OAUTH2_CLIENT_AUTH": "client_secret_basic", "OAUTH2_REDIRECT_URL": "http://localhost:8123/x",
			},
		},
		"by the URL of its metadata": {
			metadata: map[string]any{"client_id_metadata_document_supported": true},
			target:   login.Target{ClientID: "https://client.invalid/metadata.json"},
			want:     map[string]string{"CLIENT_ID": "https://client.invalid/metadata.json", "OAUTH2_CLIENT_AUTH": "none"},
		},
		"registered, with a redirect URL": {
			target: login.Target{RedirectURL: "http://localhost:8123/x"},
			want:   map[string]string{"CLIENT_ID": "the client", "OAUTH2_CLIENT_AUTH": "none", "OAUTH2_REDIRECT_URL": "http://localhost:8123/x"},
		},
		"registered, for devices": {
			metadata: map[string]any{"device_authorization_endpoint": "https://as.invalid/device"},
			target:   login.Target{Device: true},
			want:     map[string]string{"CLIENT_ID": "the client", "OAUTH2_CLIENT_AUTH": "none", "OAUTH2_GRANT": "device_code", "OAUTH2_DEVICE_URL": "https://as.invalid/device"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := startAPI(t)
			a.places[resourceAt] = a.resource(a.issuer)
			a.places["as "+serverAt] = a.metadata(tt.metadata)
			a.answer = tt.answer
			tt.target.URL = a.url
			var f finder
			vars, err := login.Find(t.Context(), tt.target, f.person())
			if err != nil {
				t.Fatal(err)
			}
			got := texts(t, vars)
			registers := tt.target.ClientID == ""
			if registers && tt.target.RedirectURL == "" && !tt.target.Device {
				if !strings.HasPrefix(got["OAUTH2_REDIRECT_URL"], "http://127.0.0.1:") {
					t.Errorf("registered with %q", got["OAUTH2_REDIRECT_URL"])
				}
				delete(got, "OAUTH2_REDIRECT_URL")
			}
			want := map[string]string{
				"OAUTH2_ISSUER": a.issuer, "OAUTH2_GRANT": "authorization_code", "OAUTH2_RESOURCE": a.url, "API_URL": a.origin(),
				"OAUTH2_TOKEN_URL": a.issuer + "/token", "OAUTH2_AUTH_URL": a.issuer + "/authorize",
			}
			if changed, is := tt.metadata["registration_endpoint"]; !is || changed != nil {
				want["OAUTH2_REGISTRATION_URL"] = a.issuer + "/register"
			}
			for name, v := range tt.want {
				want[name] = v
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if f.found[0].Registers != registers || (f.found[0].RegistrationEndpoint != "") != registers || (len(a.registered) == 1) != registers {
				t.Errorf("registered: %v, as confirmed: %v", a.registered, f.found[0].Registers)
			}
			if !registers {
				return
			}
			grants := []any{"authorization_code", "refresh_token"}
			if tt.target.Device {
				grants[0] = oauth.GrantDeviceCode
			}
			if diff := cmp.Diff(grants, a.registered[0]["grant_types"]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What was confirmed is what is used, also where the login would read other
// metadata of the same issuer.
func TestFindPinsWhatWasConfirmed(t *testing.T) {
	a := startAPI(t)
	a.places[resourceAt] = a.resource(a.issuer)
	a.places["as "+serverAt] = a.metadata(map[string]any{"token_endpoint": "https://tokens.invalid/token", "device_authorization_endpoint": "https://as.invalid/device"})
	a.places["as "+openidAt] = a.metadata(map[string]any{
		"authorization_endpoint": "https://evil.invalid/authorize", "token_endpoint": "https://evil.invalid/token", "device_authorization_endpoint": "https://evil.invalid/device",
	})
	var f finder
	vars, err := login.Find(t.Context(), login.Target{URL: a.url, ClientID: "mine"}, f.person())
	if err != nil {
		t.Fatal(err)
	}
	p := prepareVars(t, append(vars, envfile.Var{Name: "OAUTH2_DPOP", Value: "off"}))
	want := oauth.Endpoints{
		Authorization: f.found[0].AuthorizationEndpoint, Token: f.found[0].TokenEndpoint,
		DeviceAuthorization: "https://as.invalid/device", Registration: a.issuer + "/register",
	}
	if diff := cmp.Diff(want, p.Endpoints); diff != "" || p.Metadata == nil {
		t.Error(diff)
	}
	if p.Endpoints.Token != "https://tokens.invalid/token" || p.Client.TokenURL != p.Endpoints.Token || p.Issuer != a.issuer {
		t.Errorf("tokens come from %s, %s; issuer %s", p.Endpoints.Token, p.Client.TokenURL, p.Issuer)
	}
}

// The person knows which host the daemon is sent to before anything is confirmed.
func TestFindMetadataElsewhere(t *testing.T) {
	a := startAPI(t)
	a.challenge += fmt.Sprintf(`, resource_metadata="%s/elsewhere"`, a.issuer)
	a.places["as /elsewhere"] = a.resource(a.issuer)
	a.places["as "+serverAt] = a.metadata(nil)
	f := finder{refuses: true}
	if _, err := login.Find(t.Context(), login.Target{URL: a.url}, f.person()); !errors.Is(err, login.ErrNotConfirmed) {
		t.Fatal(err)
	}
	host := func(origin string) string { return strings.TrimPrefix(origin, "http://") }
	want := []string{host(a.origin()) + " has its metadata elsewhere: they are read from " + host(a.issuer)}
	if diff := cmp.Diff(want, f.notices); diff != "" {
		t.Error(diff)
	}
}

func TestFindRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		set      func(*api)
		metadata map[string]any
		target   login.Target
		want     string
	}{
		"plain http": {
			target: login.Target{URL: "http://api.example/"},
			want:   `the API's URL is plain http to "api.example"; only loopback may be plain, all else must be https`,
		},
		"no URL": {target: login.Target{URL: "api"}, want: "the API's URL not an absolute https URL"},
		"another resource": {
			set: func(a *api) {
				a.places[resourceAt] = strings.Replace(a.resource(a.issuer), a.url, "https://evil.example/mcp", 1)
			},
			want: "the metadata are of resource https://evil.example/mcp, which is not the API's URL nor a prefix of its path",
		},
		"no authorization server": {
			set:  func(a *api) { a.places[resourceAt] = fmt.Sprintf(`{"resource":%q}`, a.url) },
			want: "names no authorization server in its metadata",
		},
		"no API at all": {
			set:    func(a *api) { delete(a.places, resourceAt) },
			target: login.Target{URL: "/nothing"},
			want:   "names no authorization server, and asks for no token",
		},
		"metadata that are not where they should be": {
			set: func(a *api) {
				a.challenge += fmt.Sprintf(`, resource_metadata="%s/gone"`, a.origin())
			},
			want: "there is no protected resource metadata (RFC 9728)",
		},
		"the API's own metadata are another's": {
			set: func(a *api) {
				delete(a.places, resourceAt)
				a.places["api "+serverAt] = a.metadata(nil)
			},
			want: "the metadata are of issuer http://127.0.0.1:",
		},
		"plain http to the server": {
			set:  func(a *api) { a.places[resourceAt] = a.resource("http://auth.example") },
			want: `plain http to "auth.example"`,
		},
		"another issuer":   {metadata: map[string]any{"issuer": "https://other.example"}, want: "the metadata are of issuer https://other.example"},
		"no S256":          {metadata: map[string]any{"code_challenge_methods_supported": []string{"plain"}}, want: "the server has no PKCE by S256"},
		"no registration":  {metadata: map[string]any{"registration_endpoint": nil}, want: "registers no client by itself; register one there, and give its ID with --client-id"},
		"no way to log in": {metadata: map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt"}}, want: "(private_key_jwt); register one there, and give its ID with --client-id"},
		"no token endpoint": {
			metadata: map[string]any{"token_endpoint": nil}, want: "names no token endpoint",
		},
		"no authorization endpoint": {metadata: map[string]any{"authorization_endpoint": nil}, want: "has no authorization endpoint"},
		"devices only": {
			metadata: map[string]any{"authorization_endpoint": nil, "device_authorization_endpoint": "https://as.invalid/device"},
			want:     "has no authorization endpoint; log in with --device",
		},
		"no devices":               {target: login.Target{Device: true}, want: "has no device authorization endpoint; log in without --device"},
		"a URL for a client ID":    {target: login.Target{ClientID: "https://client.invalid/x"}, want: "takes no URL for a client ID (client_id_metadata_document_supported)"},
		"a bad URL for one":        {metadata: map[string]any{"client_id_metadata_document_supported": true}, target: login.Target{ClientID: "https://me@client.invalid/x"}, want: "the client ID has a user name"},
		"a URL without a document": {metadata: map[string]any{"client_id_metadata_document_supported": true}, target: login.Target{ClientID: "https://client.invalid/"}, want: "a URL without a path"},
	} {
		t.Run(name, func(t *testing.T) {
			a := startAPI(t)
			a.places[resourceAt] = a.resource(a.issuer)
			a.places["as "+serverAt] = a.metadata(tt.metadata)
			if tt.set != nil {
				tt.set(a)
			}
			switch tt.target.URL {
			case "":
				tt.target.URL = a.url
			case "/nothing":
				tt.target.URL = a.origin() + tt.target.URL
			}
			var f finder
			vars, err := login.Find(t.Context(), tt.target, f.person())
			if err == nil || vars != nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, %v", vars, err)
			}
			if len(f.found)+len(a.registered) > 0 {
				t.Error("the person was asked, or a client registered")
			}
		})
	}

	for name, answer := range map[string]map[string]any{
		"registered a client without the redirect URL":                                       {"redirect_uris": []string{"https://other.example"}},
		"registered a client that authenticates by private_key_jwt, which was not asked for": {"token_endpoint_auth_method": "private_key_jwt"},
	} {
		a := startAPI(t)
		a.places[resourceAt] = a.resource(a.issuer)
		a.places["as "+serverAt] = a.metadata(nil)
		a.answer = answer
		var f finder
		if vars, err := login.Find(t.Context(), login.Target{URL: a.url}, f.person()); err == nil || vars != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, %v", vars, err)
		}
	}
}
