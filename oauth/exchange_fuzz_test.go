package oauth

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// A recording answers each connection with the same bytes, whatever was asked,
// in which "ORIGIN" stands for where it listens.
type recording struct {
	origin string

	mu      sync.Mutex // guards the fields that follow
	bytes   []byte
	carried bool // a request since then had a credential in it
}

func newRecording(f *testing.F) *recording {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	r := &recording{origin: "http://" + l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				request, err := readRequest(conn)
				if err != nil {
					return
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				r.carried = r.carried || strings.Contains(request, "Authorization:") || strings.Contains(request, sent)
				_, _ = conn.Write(r.bytes)
			})
		}
	})
	f.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return r
}

// answer says what to answer from now on.
func (r *recording) answer(raw []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.carried = false
	r.bytes = bytes.ReplaceAll(raw, []byte("ORIGIN"), []byte(r.origin))
	return r.bytes
}

func (r *recording) hasSecret() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carried
}

// sent is every secret of every request: the client's, the token, the password.
const sent = "hunter2-correct-horse"

// printed fails where an error is more than a printable line, or repeats the secret
// that the request had, as it is or encoded.
func printed(t *testing.T, err error, secret bool) {
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	for _, line := range []string{e.Error(), e.Op, e.Code, e.Description} {
		if strings.Trim(line, printable) != "" {
			t.Fatalf("printed %q", line)
		}
		for _, form := range []string{sent, hex.EncodeToString([]byte(sent)), base64.RawStdEncoding.EncodeToString([]byte(sent))} {
			if secret && strings.Contains(lower(line), lower(form)) {
				t.Fatalf("printed %q", line)
			}
		}
	}
	if e.Kind < Invalid || e.Kind > Malformed || e.RetryAfter < 0 || e.RetryAfter > time.Hour {
		t.Fatalf("%+v", e)
	}
}

// Whatever bytes a server answers with, every call ends, with an error that is fit
// to print or with an answer that can be used as it is; and a refresh token in a
// complete answer is never lost.
func FuzzExchange(f *testing.F) {
	r := newRecording(f)
	key, err := ParseKey(NewSecret(pkcs8(testKeys()["P-256"])), "", "")
	if err != nil {
		f.Fatal(err)
	}
	ctx := context.Background()
	secret := NewSecret(sent)
	client := &Client{ID: "app", Secret: secret, TokenURL: r.origin + "/token"}
	proving := &Client{ID: "app", Secret: secret, TokenURL: r.origin + "/token"}
	request := Request{Grant: GrantRefreshToken, Params: url.Values{"refresh_token": {sent}}, Scopes: []string{"a", "b"}}
	tokenOf := func(t *testing.T, c *Client, raw []byte) error {
		tok, err := c.Token(ctx, request)
		if want := refreshTokenIn(raw); want != "" && c.DPoP == nil && (tok == nil || tok.RefreshToken.Reveal() != want) {
			t.Fatalf("lost %q: %v", want, err)
		}
		if err == nil && (tok.AccessToken.IsZero() || strings.Trim(tok.AccessToken.Reveal(), printable[1:]) != "" || strings.Trim(strings.Join(append(tok.Warnings, tok.Scopes...), ""), printable) != "") {
			t.Fatalf("took %+v", tok)
		}
		if err != nil && tok != nil && tok.RefreshToken.IsZero() {
			t.Fatal("an empty token beside an error")
		}
		return err
	}
	metadata := func(t *testing.T, m *Metadata, err error) error {
		if err == nil {
			usable(t, m.Endpoints, false)
			usable(t, m.MTLS, false)
			_ = m.CheckPKCE()
		}
		return err
	}
	calls := []func(t *testing.T, raw []byte) error{
		func(t *testing.T, raw []byte) error { return tokenOf(t, client, raw) },
		func(t *testing.T, raw []byte) error {
			proving.DPoP = NewDPoP(key)
			return tokenOf(t, proving, raw)
		},
		func(t *testing.T, _ []byte) error {
			answer, err := client.Introspect(ctx, r.origin+"/introspect", secret, "access_token")
			if err == nil {
				if text := fmt.Sprint(answer.Claims); strings.Contains(text, sent) {
					t.Fatalf("repeated %s", text)
				}
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			d, err := client.AuthorizeDevice(ctx, r.origin+"/device", request)
			if err == nil && (d.Code.IsZero() || d.UserCode == "" || strings.Trim(d.UserCode+d.URL+d.CompleteURL, printable) != "" || strings.ContainsAny(d.URL+d.CompleteURL, ` "\`) ||
				d.Life <= 0 || d.Life > maxLifetime || d.Interval <= 0 || d.Interval > time.Hour) {
				t.Fatalf("took %+v", d)
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			c, err := Register(ctx, r.origin+"/register", ClientMetadata{Name: "x", RedirectURIs: []string{"http://127.0.0.1/"}, Auth: AuthNone}, secret, Transport{})
			if err == nil && (c.ID == "" || strings.Trim(c.ID+c.Secret.Reveal()+c.URL+c.AccessToken.Reveal()+strings.Join(c.RedirectURIs, ""), printable) != "" || c.SecretExpires.Year() > 9999) {
				t.Fatalf("took %+v", c)
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			c, err := RegisterUser(ctx, r.origin+"/register", "me", secret, Transport{})
			if err == nil && (c.ID == "" || c.Key == "" || c.Secret.IsZero() || strings.Trim(c.ID+c.Key+c.Secret.Reveal(), printable) != "") {
				t.Fatalf("took %+v", c)
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			return client.Revoke(ctx, r.origin+"/revoke", secret, "refresh_token")
		},
		func(t *testing.T, _ []byte) error {
			uri, life, err := client.PushAuthorization(ctx, r.origin+"/par", Authorization{URL: r.origin, ClientID: "app", State: sent})
			if err == nil && (!strings.HasPrefix(uri, "urn:") && !strings.HasPrefix(lower(uri), "https://") || strings.Trim(uri, printable[1:]) != "" || life <= 0 || life > maxLifetime) {
				t.Fatalf("took %q, %v", uri, life)
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			m, err := Discover(ctx, r.origin, Transport{})
			return metadata(t, m, err)
		},
		func(t *testing.T, _ []byte) error {
			m, err := DiscoverOrigin(ctx, r.origin, Transport{})
			return metadata(t, m, err)
		},
		func(t *testing.T, _ []byte) error {
			m, err := FetchResourceMetadata(ctx, r.origin+"/a/b", "", Transport{})
			if err == nil {
				for _, server := range m.AuthorizationServers {
					if _, err := CheckURL(server); err != nil {
						t.Fatalf("took %q", server)
					}
				}
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			_, _, err := ProbeResource(ctx, r.origin+"/a/b", Transport{})
			return err
		},
		func(t *testing.T, _ []byte) error {
			id, err := GitHubInstallation(ctx, r.origin, secret, "owner", Transport{})
			if err == nil && id <= 0 {
				t.Fatalf("took %d", id)
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			tok, err := GitHubToken(ctx, r.origin, secret, 1, Transport{})
			if err == nil && (tok.AccessToken.IsZero() || strings.Trim(tok.AccessToken.Reveal(), printable[1:]) != "" || tok.Lifetime < 0 || tok.Lifetime > maxLifetime || strings.Trim(strings.Join(tok.Scopes, ""), printable[1:]) != "") {
				t.Fatalf("took %+v", tok)
			}
			return err
		},
		func(t *testing.T, _ []byte) error {
			p := Probe(ctx, r.origin, Transport{})
			if p.RetryAfter < 0 || p.RetryAfter > time.Hour {
				t.Fatalf("%+v", p)
			}
			if p.Err == nil {
				return nil
			}
			return p.Err
		},
	}
	bodies := []string{
		goodAnswer, `{"access_token":"a","token_type":"DPoP","refresh_token":"r","error":"slow_down"}`,
		`{"access_token":"a","token_type":"DPoP","refresh_token":"r"}`, `{"active":true,"sub":"` + sent + `","` + sent + `":[1]}`,
		`{"device_code":"d","user_code":"AB-CD","verification_uri":"https://as.example/d","verification_uri_complete":"https://as.example/d?c#x","expires_in":"60","interval":1}`,
		`{"client_id":"i","client_secret":"s","client_key":"k","client_secret_expires_at":1e12,"redirect_uris":["http://127.0.0.1/"],"registration_access_token":"t","registration_client_uri":"ORIGIN/c","token_endpoint_auth_method":"client_secret_post"}`,
		`{"request_uri":"urn:ietf:x","expires_in":60}`,
		`{"issuer":"ORIGIN","token_endpoint":"ORIGIN/token","authorization_endpoint":"https://as.example/","mtls_endpoint_aliases":{"token_endpoint":"https://m.example"},"code_challenge_methods_supported":["S256"],"require_pushed_authorization_requests":false,"scopes_supported":["a"]}`,
		`{"issuer":"ORIGIN/other","token_endpoint":"ORIGIN/token"}`,
		`{"resource":"ORIGIN/a","authorization_servers":["ORIGIN","https://as.example"],"scopes_supported":["a b"]}`,
		`{"id":7,"token":"ghs_x","expires_at":"2999-01-01T00:00:00Z","permissions":{"contents":"read"}}`,
		`{"error":"invalid_client","error_description":"` + sent + `\u001b[2J"}`, `{"message":"Bad credentials ` + sent + `"}`,
	}
	for call := range calls {
		for i, body := range bodies {
			f.Add(byte(call), []byte([]string{ok(body), status("400 Bad Request", body), status("201 Created", body), status("401 Unauthorized\r\nDPoP-Nonce: n\r\nWWW-Authenticate: Bearer x=\""+sent+"\"", body)}[(call+i)%4]))
		}
		f.Add(byte(call), []byte("HTTP/1.1 302 Found\r\nLocation: https://"+sent+"@x/"+sent+"\r\n\r\n"))
	}
	f.Add(byte(0), []byte("HTTP/1.1 200 "+sent+"\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n5\r\n{\"a\":\r\n"))
	f.Add(byte(0), []byte("HTTP/1.0 429 x\r\nRetry-After: Sat, 21 Nov 2026 12:00:30 GMT\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Encoding: gzip\r\n\r\n{}"))
	f.Add(byte(3), []byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{\"error\":1}"))
	f.Add(byte(8), []byte("SSH-2.0-"+sent+"\r\n"))
	f.Fuzz(func(t *testing.T, call byte, raw []byte) {
		if err := calls[int(call)%len(calls)](t, r.answer(raw)); err != nil {
			printed(t, err, r.hasSecret())
		}
	})
}

// refreshTokenIn gives the usable refresh token of a complete answer that is no
// redirect, as net/http and encoding/json read it, or "".
func refreshTokenIn(raw []byte) string {
	br := bufio.NewReader(bytes.NewReader(raw))
	res, err := http.ReadResponse(br, &http.Request{Method: http.MethodPost})
	if err != nil || res.StatusCode < 200 || res.StatusCode/100 == 3 || len(raw) > maxHeader {
		return ""
	}
	body, err := io.ReadAll(res.Body)
	var members map[string]any
	if err != nil || res.StatusCode == http.StatusNoContent || json.Unmarshal(body, &members) != nil {
		return ""
	}
	token, _ := members["refresh_token"].(string)
	if strings.Trim(token, printable) != "" {
		return ""
	}
	return token
}

// usable fails where an endpoint is no URL that secrets may be sent to.
func usable(t *testing.T, e Endpoints, https bool) {
	for _, raw := range []string{e.Token, e.PushedAuthorization, e.Authorization, e.DeviceAuthorization, e.Introspection, e.Revocation, e.Registration} {
		if raw == "" {
			continue
		}
		u, err := url.Parse(raw)
		if err != nil || u.User != nil || u.Fragment != "" || u.Hostname() == "" || len(raw) > maxNamed || strings.Trim(raw, printable[1:]) != "" ||
			u.Scheme != "https" && (https || u.Scheme != "http" || !isLoopback(u.Hostname())) {
			t.Fatalf("took %q", raw)
		}
	}
}

// What https servers name is https, metadata are of who was asked, and what comes
// out stands in the text.
func FuzzMetadata(f *testing.F) {
	for _, text := range []string{
		`{"issuer":"https://as.example/x","token_endpoint":"https://as.example/t","authorization_endpoint":"http://127.0.0.1/a"}`,
		`{"issuer":"https://as.example/x","token_endpoint":"https://t.example:8443/t?x=y","mtls_endpoint_aliases":{"token_endpoint":"https://m.example/t"},"token_endpoint_auth_methods_supported":["none"],"code_challenge_methods_supported":["plain"],"authorization_response_iss_parameter_supported":true,"grant_types_supported":["a"],"scopes_supported":["a","b c"],"dpop_signing_alg_values_supported":[],"client_id_metadata_document_supported":1}`,
		`{"issuer":"https://other.example"}`, `{"issuer":1}`, `{"mtls_endpoint_aliases":[]}`,
		`{"resource":"https://api.example/v1","authorization_servers":["https://as.example/x","https://u:p@as.example"],"scopes_supported":["s"]}`,
		`{"resource":"https://api.example","authorization_servers":["http://localhost:1/"]}`, `{"resource":"https://api.example/v1/../x"}`,
		`{"resource":"https://API.example:443/v1/things?x=1","authorization_servers":[]}`,
	} {
		f.Add([]byte(text))
	}
	target, err := CheckURL("https://api.example/v1/things?x=1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		members, err := decodeObject(text)
		if err != nil {
			return
		}
		var oracle map[string]any
		if err := json.Unmarshal(text, &oracle); err != nil {
			t.Fatal(err)
		}
		m := &Metadata{Issuer: "https://as.example/x"}
		if err := m.read(members); err != nil {
			if strings.Trim(err.Error(), printable) != "" {
				t.Fatalf("printed %q", err)
			}
		} else {
			if oracle["issuer"] != m.Issuer || m.Endpoints.Token != "" && m.Endpoints.Token != oracle["token_endpoint"] {
				t.Fatalf("%s: took %+v", text, m)
			}
			usable(t, m.Endpoints, true)
			usable(t, m.MTLS, true)
			for _, list := range [][]string{m.TokenAuthMethods, m.CodeChallengeMethods, m.Grants, m.Scopes, m.DPoPAlgs} {
				if strings.Trim(strings.Join(list, ""), printable[1:]) != "" || slices.Contains(list, "") {
					t.Fatalf("took %q", list)
				}
			}
		}
		r := new(ResourceMetadata)
		if err := r.read(members, target); err != nil {
			if strings.Trim(err.Error(), printable) != "" {
				t.Fatalf("printed %q", err)
			}
			return
		}
		u, err := url.Parse(r.Resource)
		if err != nil || !strings.EqualFold(u.Hostname(), "api.example") || u.Scheme != "https" || u.Port() != "" && u.Port() != "443" ||
			!strings.HasPrefix("/v1/things/", strings.TrimSuffix(u.EscapedPath(), "/")+"/") {
			t.Fatalf("took the metadata of %q", r.Resource)
		}
		for _, server := range r.AuthorizationServers {
			usable(t, Endpoints{Token: server}, true)
		}
	})
}

// An object that is taken is what encoding/json reads, without a name twice and
// not too deep, and each of that kind is taken.
func FuzzObject(f *testing.F) {
	for _, text := range []string{
		`{"a":{"b":[1,2.50,"x",null,true]},"A":1e400}`, `{"a":1,"a":2}`, `{"x":[{"a":1,"a":2}]}`, `{"\ud800":1,"\udfff":2}`, "\xef\xbb\xbf{}", `{} {}`, ` `, `{"a":"` + "\xff" + `"}`,
		`{"x":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`, `{"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, `{"a":{"a":{"a":}}}`, `[{}]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		members, err := decodeObject(text)
		if members == nil {
			t.Fatal("no members")
		}
		var want map[string]any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		good := json.Valid(text) && d.Decode(&want) == nil && want != nil && utf8.Valid(text)
		if good {
			names, depth := shape(text)
			tree, _ := json.Marshal(want)
			kept, _ := shape(tree)
			good = names == kept && depth <= maxDepth
		}
		if good != (err == nil) {
			t.Fatalf("%q: %v", text, err)
		}
		if err == nil {
			got, _ := json.Marshal(members)
			if tree, _ := json.Marshal(want); !bytes.Equal(got, tree) {
				t.Fatalf("%q: %s", text, got)
			}
		}
	})
}

// shape counts the names of objects in text, and how deep it is nested.
func shape(text []byte) (names, depth int) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var open []bool // an object each, or a list
	name := false   // the next token is one
	for {
		tok, err := d.Token()
		if err != nil {
			return names, depth
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			open = append(open, tok == json.Delim('{'))
			depth = max(depth, len(open))
			name = tok == json.Delim('{')
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			name = len(open) > 0 && open[len(open)-1]
			continue
		}
		if name {
			names++
			name = false
		} else {
			name = len(open) > 0 && open[len(open)-1]
		}
	}
}

// A URL that is taken leads to one host that is told apart from its loopback, and
// what is said of another repeats neither its password nor its query.
func FuzzCheckURL(f *testing.F) {
	for _, raw := range []string{
		"https://as.example/t?x=1", "http://127.0.0.1:8080/", "http://[::1]:1", "http://localhost.example", "https://u:p@as.example", "https://a#", "https://a\\@b", "https:a", "http://127.1/",
		"http://0x7f.1", "https://[fe80::1%25eth0]/", "HTTPS://A", "https://a:0", "https://a:65536", "http://LOCALHOST:80", "https://é", "//a", "https://a/%zz", "http://[::ffff:127.0.0.1]/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := CheckURL(raw)
		if err != nil {
			if strings.Trim(err.Error(), printable) != "" || strings.Contains(raw, "hunter2") && strings.Contains(err.Error(), "hunter2") && !strings.Contains(lower(raw), "//hunter2") {
				t.Fatalf("%q: %q", raw, err)
			}
			return
		}
		if strings.Trim(raw, printable[1:]) != "" || u.User != nil || strings.Contains(raw, "#") || u.Opaque != "" {
			t.Fatalf("took %q", raw)
		}
		if u.Scheme == "http" {
			ip := net.ParseIP(u.Hostname())
			if !strings.EqualFold(u.Hostname(), "localhost") && (ip == nil || !ip.IsLoopback()) {
				t.Fatalf("took %q", raw)
			}
		} else if u.Scheme != "https" {
			t.Fatalf("took %q", raw)
		}
		// What is written down is read back as the same place.
		again, err := CheckURL(u.String())
		if err != nil || origin(again) != origin(u) || again.EscapedPath() != u.EscapedPath() || again.RawQuery != u.RawQuery {
			t.Fatalf("%q, again %q: %v", raw, u, err)
		}
	})
}

// A certificate is taken with the key to it only, and the error repeats neither.
func FuzzCheckCertificate(f *testing.F) {
	a := newAuthority()
	private := pkcs8(testKeys()["P-256"])
	f.Add(a.pem, private)
	f.Add(a.pem+a.pem, private)
	f.Add("", "")
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", private)
	f.Add(private, a.pem)
	f.Fuzz(func(t *testing.T, cert, key string) {
		if err := CheckCertificate(cert, NewSecret(key)); err != nil && strings.Trim(err.Error(), printable) != "" {
			t.Fatalf("printed %q", err)
		}
		pool, err := parseCA(cert)
		if (pool == nil) == (err == nil) {
			t.Fatalf("%v, %v", pool, err)
		}
	})
}
