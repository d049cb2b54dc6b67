package oauth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	oidcPath = "/.well-known/openid-configuration"
	rfcPath  = "/.well-known/oauth-authorization-server"
)

// A discovery server answers by path; ISSUER in an answer is its own URL, HOST its address.
func discovery(t *testing.T, answers map[string]string) *server {
	var s *server
	s = newServer(t, nil, func(request string) string {
		path := strings.Fields(request)[1]
		answer, found := answers[path]
		if !found {
			return "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>"
		}
		return strings.NewReplacer("ISSUER", "http://"+s.addr, "HOST", s.addr).Replace(answer)
	})
	return s
}

// metadata leaves the length out, as ISSUER is not yet what it will be.
func metadata(body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body
}

func (s *server) paths() []string {
	var paths []string
	for _, r := range s.seen() {
		paths = append(paths, strings.Fields(r)[1])
	}
	return paths
}

func TestDiscover(t *testing.T) {
	const small = `{"issuer":"ISSUER%","token_endpoint":"ISSUER/t"}`
	at := func(path string) string { return metadata(strings.ReplaceAll(small, "%", path)) }
	for name, row := range map[string]struct {
		answers map[string]string
		path    string // of the issuer
		asked   []string
	}{
		"at the root":               {map[string]string{oidcPath: at("")}, "", []string{oidcPath}},
		"at the root, with slash":   {map[string]string{oidcPath: at("/")}, "/", []string{oidcPath}},
		"below a path":              {map[string]string{"/realms/a%20b" + oidcPath: at("/realms/a%20b")}, "/realms/a%20b", []string{"/realms/a%20b" + oidcPath}},
		"below a path, with slash":  {map[string]string{"/r" + oidcPath: at("/r/")}, "/r/", []string{"/r" + oidcPath}},
		"RFC 8414":                  {map[string]string{rfcPath: at("")}, "", []string{oidcPath, rfcPath}},
		"RFC 8414 with a path":      {map[string]string{rfcPath + "/r/x": at("/r/x/")}, "/r/x/", []string{"/r/x" + oidcPath, rfcPath + "/r/x"}},
		"RFC 8414 after a web page": {map[string]string{oidcPath: "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", rfcPath: at("")}, "", []string{oidcPath, rfcPath}},
		"RFC 8414 after no JSON":    {map[string]string{oidcPath: metadata("hello"), rfcPath: at("")}, "", []string{oidcPath, rfcPath}},
		"RFC 8414 after a text":     {map[string]string{oidcPath: strings.Replace(at(""), "application/json", "text/plain", 1), rfcPath: strings.Replace(at(""), "application/json", "Application/x+JSON; charset=utf-8", 1)}, "", []string{oidcPath, rfcPath}},
		"RFC 8414 after 401":        {map[string]string{oidcPath: status("401 Unauthorized", "{}"), rfcPath: at("")}, "", []string{oidcPath, rfcPath}},
	} {
		t.Run(name, func(t *testing.T) {
			// small's % stands for the issuer's path, which may itself have one.
			s := discovery(t, row.answers)
			issuer := "http://" + s.addr + row.path
			got, err := Discover(t.Context(), issuer, Transport{})
			if err != nil {
				t.Fatal(err)
			}
			want := &Metadata{Issuer: issuer, Endpoints: Endpoints{Token: "http://" + s.addr + "/t"}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(row.asked, s.paths()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDiscoverReadsEveryEndpoint(t *testing.T) {
	s := discovery(t, map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","token_endpoint":"https://as.example/t",
		"authorization_endpoint":"https://as.example/a","device_authorization_endpoint":"https://as.example/d",
		"introspection_endpoint":"https://as.example/i","revocation_endpoint":"https://as.example/v",
		"pushed_authorization_request_endpoint":"https://as.example/p",
		"registration_endpoint":null,"token_endpoint_auth_methods_supported":["client_secret_post","private_key_jwt"],
		"mtls_endpoint_aliases":{"token_endpoint":"https://mtls.as.example/t","pushed_authorization_request_endpoint":"https://mtls.as.example/p","x":1},
		"code_challenge_methods_supported":["plain","S256"],"grant_types_supported":["authorization_code","urn:ietf:params:oauth:grant-type:device_code"],
		"scopes_supported":["openid","https://r.example/x.y"],"dpop_signing_alg_values_supported":["ES256"],
		"authorization_response_iss_parameter_supported":true,"require_pushed_authorization_requests":true,
		"client_id_metadata_document_supported":true,"TOKEN_ENDPOINT":"https://evil.example/"}`)})
	got, err := Discover(t.Context(), "http://"+s.addr, Transport{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Metadata{
		Issuer: "http://" + s.addr,
		Endpoints: Endpoints{
			Token: "https://as.example/t", Authorization: "https://as.example/a", DeviceAuthorization: "https://as.example/d",
			Introspection: "https://as.example/i", Revocation: "https://as.example/v", PushedAuthorization: "https://as.example/p",
		},
		MTLS:                 Endpoints{Token: "https://mtls.as.example/t", PushedAuthorization: "https://mtls.as.example/p"},
		TokenAuthMethods:     []string{"client_secret_post", "private_key_jwt"},
		CodeChallengeMethods: []string{"plain", "S256"},
		Grants:               []string{"authorization_code", GrantDeviceCode},
		Scopes:               []string{"openid", "https://r.example/x.y"},
		DPoPAlgs:             []string{"ES256"},
		IssParameter:         true, RequirePAR: true, ClientIDMetadata: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	wantRequest := "GET " + oidcPath + " HTTP/1.1\r\nHost: " + s.addr + "\r\nUser-Agent: tokend\r\n" +
		"Accept: application/json\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
	if got := s.seen()[0]; got != wantRequest {
		t.Errorf("got %q, want %q", got, wantRequest)
	}
}

func TestDiscoverFailures(t *testing.T) {
	const neither = "neither of the two places for metadata below /.well-known/ has any"
	for name, row := range map[string]struct {
		answers map[string]string
		kind    Kind
		want    string // with HOST for the server's address
		asked   int
	}{
		"none":               {nil, Refused, neither + " (HTTP 404)", 2},
		"web pages only":     {map[string]string{oidcPath: "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", rfcPath: "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"}, Temporary, "the answer is a web page; is there a captive portal between? (HTTP 200)", 2},
		"503":                {map[string]string{oidcPath: status("503 Service Unavailable", ""), rfcPath: metadata(`{"issuer":"ISSUER"}`)}, Temporary, "no OAuth error in the answer (HTTP 503)", 1},
		"429":                {map[string]string{oidcPath: status("429 Too Many Requests", "")}, Temporary, "no OAuth error in the answer (HTTP 429)", 1},
		"redirect":           {map[string]string{oidcPath: "HTTP/1.1 302 Found\r\nLocation: https://evil.example/x\r\n\r\n"}, Malformed, "the endpoint redirects to host evil.example, which is not followed (HTTP 302)", 1},
		"too large":          {map[string]string{oidcPath: metadata(`{"issuer":"` + strings.Repeat("x", 1<<20) + `"}`), rfcPath: metadata("")}, Malformed, "the answer is empty (HTTP 200)", 2},
		"no issuer":          {map[string]string{oidcPath: metadata(`{"token_endpoint":"https://as.example/t"}`)}, Malformed, "the metadata name no issuer (HTTP 200)", 1},
		"with a slash":       {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER/"}`)}, Malformed, "the metadata are of issuer http://HOST/, not of http://HOST; if that is the one meant, write OAUTH2_ISSUER=http://HOST/ (HTTP 200)", 1},
		"in other case":      {map[string]string{oidcPath: metadata(`{"issuer":"HTTP://HOST"}`)}, Malformed, "the metadata are of issuer HTTP://HOST, not of http://HOST; if that is the one meant, write OAUTH2_ISSUER=HTTP://HOST (HTTP 200)", 1},
		"another host":       {map[string]string{oidcPath: metadata(`{"issuer":"https://as.example"}`)}, Malformed, "the metadata are of issuer https://as.example, not of http://HOST; if that is the one meant, write OAUTH2_ISSUER=https://as.example (HTTP 200)", 1},
		"odd issuer":         {map[string]string{oidcPath: metadata(`{"issuer":"https://as.example/$(id)\u001b"}`)}, Malformed, `the metadata are of issuer https://as.example/$(id)\x1b, not of http://HOST (HTTP 200)`, 1},
		"shell in issuer":    {map[string]string{oidcPath: metadata(`{"issuer":"https://as.example/$(id)"}`)}, Malformed, `the metadata are of issuer https://as.example/$(id), not of http://HOST (HTTP 200)`, 1},
		"plain endpoint":     {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","token_endpoint":"http://as.example/t"}`)}, Malformed, `token_endpoint: is plain http to "as.example"; only loopback may be plain, all else must be https (HTTP 200)`, 1},
		"userinfo":           {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","revocation_endpoint":"https://u:hunter2@as.example/t"}`)}, Malformed, "revocation_endpoint: has a user name or password before the host; credentials do not belong in a URL (HTTP 200)", 1},
		"endpoint a number":  {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","token_endpoint":1}`)}, Malformed, "token_endpoint is not a string (HTTP 200)", 1},
		"methods not a list": {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","token_endpoint_auth_methods_supported":"none"}`)}, Malformed, "token_endpoint_auth_methods_supported is not a list of names (HTTP 200)", 1},
		"aliases a list":     {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","mtls_endpoint_aliases":[]}`)}, Malformed, "mtls_endpoint_aliases is not an object (HTTP 200)", 1},
		"plain alias":        {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","mtls_endpoint_aliases":{"token_endpoint":"http://as.example/t"}}`)}, Malformed, `mtls_endpoint_aliases: token_endpoint: is plain http to "as.example"; only loopback may be plain, all else must be https (HTTP 200)`, 1},
		"PKCE not a list":    {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","code_challenge_methods_supported":"S256"}`)}, Malformed, "code_challenge_methods_supported is not a list of names (HTTP 200)", 1},
		"iss a string":       {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","authorization_response_iss_parameter_supported":"true"}`)}, Malformed, "authorization_response_iss_parameter_supported is not true or false (HTTP 200)", 1},
		"PAR a number":       {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","require_pushed_authorization_requests":1}`)}, Malformed, "require_pushed_authorization_requests is not true or false (HTTP 200)", 1},
		"endpoint too long":  {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","token_endpoint":"https://as.example/` + strings.Repeat("x", 2048) + `"}`)}, Malformed, "token_endpoint: is longer than 2048 characters (HTTP 200)", 1},
		"a text":             {map[string]string{oidcPath: strings.Replace(metadata(`{"issuer":"ISSUER"}`), "application/json", "text/plain", 1), rfcPath: strings.Replace(metadata(`{"issuer":"ISSUER"}`), "application/json", "application/octet-stream", 1)}, Malformed, "the answer is not application/json (HTTP 200)", 2},
		"of no type":         {map[string]string{oidcPath: "HTTP/1.1 200 OK\r\n\r\n" + `{"issuer":"ISSUER"}`}, Refused, neither + " (HTTP 404)", 2},
		"name twice":         {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","issuer":"ISSUER"}`), rfcPath: metadata("[]")}, Malformed, "the answer is not a JSON object (HTTP 200)", 2},
		"methods odd":        {map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","token_endpoint_auth_methods_supported":["none","\u001b"]}`)}, Malformed, "token_endpoint_auth_methods_supported is not a list of names (HTTP 200)", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := discovery(t, row.answers)
			m, err := Discover(t.Context(), "http://"+s.addr, Transport{})
			want := "reading the metadata of " + s.addr + ": " + strings.ReplaceAll(row.want, "HOST", s.addr)
			var e *Error
			if !errors.As(err, &e) || m != nil || err.Error() != want || e.Kind != row.kind {
				t.Errorf("got %v, %v, want %s", m, err, want)
			}
			if n := len(s.seen()); n != row.asked {
				t.Errorf("%d requests, want %d", n, row.asked)
			}
		})
	}
	for issuer, want := range map[string]string{
		"http://as.example":              `checking the issuer: is plain http to "as.example"; only loopback may be plain, all else must be https`,
		"https://u:hunter2@as.example":   "checking the issuer: has a user name or password before the host; credentials do not belong in a URL",
		"https://as.example/?tenant=x":   "checking the issuer: has a query (?)",
		"https://as.example/#x":          "checking the issuer: has a fragment (#)",
		"https://as.example/\x1b[2J":     "checking the issuer: has a space or another character that no URL has",
		"https://as.example/.well%known": "checking the issuer: not a URL",
	} {
		_, err := Discover(t.Context(), issuer, Transport{})
		var e *Error
		if !errors.As(err, &e) || e.Kind != Invalid || err.Error() != want {
			t.Errorf("%q: got %v, want %s", issuer, err, want)
		}
	}
	_, err := Discover(t.Context(), "https://as.example", Transport{CA: "x"})
	if err == nil || err.Error() != "reading the metadata of as.example: reading the CA: no PEM certificate in it" {
		t.Errorf("got %v", err)
	}
}

// What nothing depends on is taken as missing where it is malformed.
func TestDiscoverIgnoresWhatItDoesNotNeed(t *testing.T) {
	s := discovery(t, map[string]string{oidcPath: metadata(`{"issuer":"ISSUER","grant_types_supported":"x","scopes_supported":["a","b c"],
		"dpop_signing_alg_values_supported":[256],"client_id_metadata_document_supported":"true","jwks_uri":7,"userinfo_endpoint":"http://as.example"}`)})
	issuer := "http://" + s.addr
	got, err := Discover(t.Context(), issuer, Transport{})
	if diff := cmp.Diff(&Metadata{Issuer: issuer}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestDiscoverAt(t *testing.T) {
	small := func(path string) string {
		return metadata(`{"issuer":"ISSUER` + path + `","token_endpoint":"ISSUER/t"}`)
	}
	for name, row := range map[string]struct {
		answers map[string]string
		path    string
		asked   []string
	}{
		"RFC 8414 at the root":      {map[string]string{rfcPath: small("")}, "", []string{rfcPath}},
		"OIDC at the root":          {map[string]string{oidcPath: small("/")}, "/", []string{rfcPath, oidcPath}},
		"RFC 8414 with a path":      {map[string]string{rfcPath + "/a%20b": small("/a%20b")}, "/a%20b", []string{rfcPath + "/a%20b"}},
		"OIDC with a path inserted": {map[string]string{oidcPath + "/t/u": small("/t/u/")}, "/t/u/", []string{rfcPath + "/t/u", oidcPath + "/t/u"}},
		"OIDC with a path before":   {map[string]string{"/t" + oidcPath: small("/t")}, "/t", []string{rfcPath + "/t", oidcPath + "/t", "/t" + oidcPath}},
	} {
		t.Run(name, func(t *testing.T) {
			s := discovery(t, row.answers)
			issuer := "http://" + s.addr + row.path
			got, err := DiscoverAt(t.Context(), issuer, Transport{})
			want := &Metadata{Issuer: issuer, Endpoints: Endpoints{Token: "http://" + s.addr + "/t"}}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Error(diff, err)
			}
			if diff := cmp.Diff(row.asked, s.paths()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDiscoverAtFailures(t *testing.T) {
	for name, row := range map[string]struct {
		answers map[string]string
		path    string
		want    string
		asked   int
	}{
		"none":           {nil, "", "neither of the two places for metadata below /.well-known/ has any (HTTP 404)", 2},
		"none of three":  {nil, "/t", "none of the places for metadata below /.well-known/ has any (HTTP 404)", 3},
		"another issuer": {map[string]string{rfcPath + "/t": metadata(`{"issuer":"https://as.example/t"}`)}, "/t", "the metadata are of issuer https://as.example/t, not of http://HOST/t (HTTP 200)", 1},
		"redirect":       {map[string]string{rfcPath: "HTTP/1.1 301 Moved Permanently\r\nLocation: /x\r\n\r\n"}, "", "the endpoint redirects, which is not followed (HTTP 301)", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := discovery(t, row.answers)
			m, err := DiscoverAt(t.Context(), "http://"+s.addr+row.path, Transport{})
			want := "reading the metadata of " + s.addr + ": " + strings.ReplaceAll(row.want, "HOST", s.addr)
			if err == nil || err.Error() != want || m != nil {
				t.Errorf("got %v, %v, want %s", m, err, want)
			}
			if n := len(s.seen()); n != row.asked {
				t.Errorf("%d requests, want %d", n, row.asked)
			}
		})
	}
	_, err := DiscoverAt(t.Context(), "https://as.example/?x", Transport{})
	if err == nil || err.Error() != "checking the issuer: has a query (?)" {
		t.Errorf("got %v", err)
	}
}

// What listens on this machine is no business of a server elsewhere.
func TestMetadataOfHTTPSNameNoPlainEndpoint(t *testing.T) {
	for member, what := range map[string]string{
		`"registration_endpoint":"http://127.0.0.1:1/admin"`:                    "registration_endpoint",
		`"mtls_endpoint_aliases":{"token_endpoint":"http://localhost:1/admin"}`: "mtls_endpoint_aliases: token_endpoint",
	} {
		var s *server
		s = newServer(t, systemCA.server(t, "127.0.0.1", time.Now().Add(time.Hour)), func(string) string {
			return metadata(`{"issuer":"https://` + s.addr + `",` + member + `}`)
		})
		_, err := Discover(t.Context(), "https://"+s.addr, Transport{Proxy: "direct"})
		want := "reading the metadata of " + s.addr + ": " + what + ": is plain http, and who names it is https (HTTP 200)"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestCheckPKCE(t *testing.T) {
	for _, methods := range [][]string{nil, {"S256"}, {"plain", "S256"}} {
		m := &Metadata{Issuer: "https://as.example", CodeChallengeMethods: methods}
		if err := m.CheckPKCE(); err != nil {
			t.Errorf("%q: %v", methods, err)
		}
	}
	for _, methods := range [][]string{{}, {"plain"}, {"s256"}} {
		m := &Metadata{Issuer: "https://as.example/x", CodeChallengeMethods: methods}
		err := m.CheckPKCE()
		var e *Error
		if want := "checking the metadata of https://as.example/x: the server has no PKCE by S256 (code_challenge_methods_supported), and nothing weaker is used"; !errors.As(err, &e) || err.Error() != want || e.Kind != Invalid {
			t.Errorf("%q: got %v", methods, err)
		}
	}
}
