package oauth

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAuthorizationURL(t *testing.T) {
	everything := Authorization{
		URL: "https://as.example/auth?tenant=a%20b", ClientID: "app", RedirectURL: "http://127.0.0.1:4711/callback",
		Scopes: []string{"openid", "read"}, Audience: []string{"a1", "a2"}, Resource: []string{"https://r.example/1", "https://r.example/2"},
		State: "S", Nonce: "N", Challenge: "C", DPoPThumbprint: "T",
		Extra: url.Values{
			"prompt": {"consent"}, "state": {"another"}, "response_type": {"token"}, "code_challenge_method": {"plain"},
			"client_secret": {"hunter2"}, "client_assertion": {"x.y.z"}, "client_assertion_type": {"t"}, "request_uri": {"https://evil.example"},
		},
	}
	pushed := everything
	pushed.RequestURI = "urn:ietf:params:oauth:request_uri:a&b"
	for _, row := range []struct {
		a    Authorization
		want string
	}{
		{Authorization{URL: "https://as.example/auth", ClientID: "app", RedirectURL: "http://[::1]/c", State: "S", Challenge: "C"},
			"https://as.example/auth?client_id=app&code_challenge=C&code_challenge_method=S256&redirect_uri=http%3A%2F%2F%5B%3A%3A1%5D%2Fc&response_type=code&state=S"},
		{everything, "https://as.example/auth?tenant=a%20b&audience=a1&audience=a2&client_id=app&code_challenge=C&code_challenge_method=S256" +
			"&dpop_jkt=T&nonce=N&prompt=consent&redirect_uri=http%3A%2F%2F127.0.0.1%3A4711%2Fcallback" +
			"&resource=https%3A%2F%2Fr.example%2F1&resource=https%3A%2F%2Fr.example%2F2&response_type=code&scope=openid+read&state=S"},
		{pushed, "https://as.example/auth?tenant=a%20b&client_id=app&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Aa%26b"},
	} {
		if got := row.a.String(); got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
	}
}

func TestNewVerifier(t *testing.T) {
	v, challenge := NewVerifier()
	sum := sha256.Sum256([]byte(v.Reveal()))
	if len(v.Reveal()) != 43 || strings.Trim(v.Reveal(), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Errorf("%q", v.Reveal())
	}
	if challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Errorf("%q is not of %q", challenge, v.Reveal())
	}
	if other, _ := NewVerifier(); other == v {
		t.Error("twice the same")
	}
}

func TestNewState(t *testing.T) {
	a, b := NewState(), NewState()
	if a == b || len(a) < 26 || strings.Trim(a, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		t.Errorf("%q, %q", a, b)
	}
}

func TestPushAuthorization(t *testing.T) {
	a := Authorization{ClientID: "app", RedirectURL: "http://127.0.0.1/c", State: "S", Challenge: "C", Extra: url.Values{"prompt": {"login"}}}
	const (
		before = "code_challenge=C&code_challenge_method=S256&prompt=login&redirect_uri=http%3A%2F%2F127.0.0.1%2Fc&response_type=code&state=S"
		within = "client_id=app&" + before
	)
	for method, row := range map[AuthMethod]struct{ authorization, body string }{
		ClientSecretBasic: {testUser, within},
		ClientSecretPost:  {"", before + "&client_id=app&client_secret=hunter2-correct-horse"},
		AuthNone:          {"", before + "&client_id=app"},
	} {
		s, c := answering(t, status("201 Created", `{"request_uri":"urn:example:1","expires_in":60}`))
		c.Auth = method
		uri, life, err := c.PushAuthorization(t.Context(), "http://"+s.addr+"/par", a)
		if err != nil || uri != "urn:example:1" || life != time.Minute {
			t.Errorf("%s: %q, %v, %v", method, uri, life, err)
		}
		header := []string{testBoth, testForm}
		if row.authorization != "" {
			header = []string{testBoth, row.authorization, testForm}
		}
		if diff := cmp.Diff([]string{wireOf("POST", "/par", s.addr, row.body, header...)}, s.seen()); diff != "" {
			t.Error(diff)
		}
	}
}

// The proof is what binds the code to the key, and the server may want a nonce
// in it (RFC 9449 section 10.1).
func TestPushAuthorizationProvesPossession(t *testing.T) {
	key, err := NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nil, func(request string) string {
		if !strings.Contains(request, "\r\nDpop: ") {
			return status("400 Bad Request", `{"error":"invalid_dpop_proof"}`)
		}
		return "HTTP/1.1 400 Bad Request\r\nDPoP-Nonce: n1\r\n\r\n" + `{"error":"use_dpop_nonce"}`
	})
	c := Client{ID: "app", DPoP: NewDPoP(key)}
	_, _, err = c.PushAuthorization(t.Context(), "http://"+s.addr, Authorization{ClientID: "app"})
	if want := "leaving the authorization request with " + s.addr + ": use_dpop_nonce (HTTP 400)"; err == nil || err.Error() != want || len(s.seen()) != 2 {
		t.Errorf("got %v after %d requests, want %s", err, len(s.seen()), want)
	}
}

func TestPushAuthorizationAnswers(t *testing.T) {
	created := func(body string) string { return status("201 Created", body) }
	const (
		good = ""
		form = "request_uri is neither a urn nor an https URL (HTTP 201)"
		time = "expires_in is missing or no time (HTTP 201)"
	)
	for answer, want := range map[string]string{
		created(`{"request_uri":"urn:x:1","expires_in":60}`):                               good,
		created(`{"request_uri":"https://as.example/r/1","expires_in":"60"}`):              good,
		ok(`{"request_uri":"urn:x:1","expires_in":60}`):                                    "the answer is not 201 Created (RFC 9126 section 2.2) (HTTP 200)",
		created(`{"expires_in":60}`):                                                       form,
		created(`{"request_uri":["urn:x:1"],"expires_in":60}`):                             form,
		created(`{"request_uri":"http://127.0.0.1/1","expires_in":60}`):                    form,
		created(`{"request_uri":"javascript:alert(1)","expires_in":60}`):                   form,
		created(`{"request_uri":"https://u:p@as.example/","expires_in":60}`):               form,
		created(`{"request_uri":"urn:","expires_in":60}`):                                  form,
		created(`{"request_uri":"urn:x 1","expires_in":60}`):                               form,
		created(`{"request_uri":"urn:x\u001b","expires_in":60}`):                           form,
		created(`{"request_uri":"urn:` + strings.Repeat("x", 2049) + `","expires_in":60}`): form,
		created(`{"request_uri":"urn:x:1"}`):                                               time,
		created(`{"request_uri":"urn:x:1","expires_in":0}`):                                time,
		created(`{"request_uri":"urn:x:1","expires_in":-60}`):                              time,
		created(`{"request_uri":"urn:x:1","expires_in":{}}`):                               time,
	} {
		s, c := answering(t, answer)
		_, _, err := c.PushAuthorization(t.Context(), "http://"+s.addr, Authorization{ClientID: "app"})
		if want == good {
			if err != nil {
				t.Errorf("%s: %v", answer, err)
			}
			continue
		}
		want = "leaving the authorization request with " + s.addr + ": " + want
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || e.Kind != Malformed {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, _, err := testClient(Transport{}).PushAuthorization(t.Context(), "https://as.example", Authorization{ClientID: "other"})
	if err == nil || err.Error() != "leaving the authorization request: it is another client's" {
		t.Errorf("got %v", err)
	}
}

func TestParseCallback(t *testing.T) {
	for query, want := range map[string]Callback{
		"code=c%2F1&state=S&iss=https%3A%2F%2Fas.example&session_state=x": {Code: NewSecret("c/1"), State: "S", Issuer: "https://as.example"},
		"code=c&state=&error=":                  {Code: NewSecret("c")}, // empty is as missing (RFC 6749 section 3.1)
		"error=access_denied&state=S&code=":     {State: "S", Err: &Error{Op: "asking for authorization", Kind: Refused, Code: "access_denied"}},
		"error=server_error&state=S&iss=i":      {State: "S", Issuer: "i", Err: &Error{Op: "asking for authorization", Kind: Temporary, Code: "server_error"}},
		"error=temporarily_unavailable&state=S": {State: "S", Err: &Error{Op: "asking for authorization", Kind: Temporary, Code: "temporarily_unavailable"}},
		"error=E-1&error_description=a%1Bb%22":  {Err: &Error{Op: "asking for authorization", Kind: Refused, Description: `E-1: a\x1bb\x22`}},
		"error=%1B%5B2J&error_description=x":    {Err: &Error{Op: "asking for authorization", Kind: Refused, Description: "x"}},
		"error=access_denied&state=state-of-26-characters-aaaa&error_description=state-of-26-characters-aaaa": {State: "state-of-26-characters-aaaa",
			Err: &Error{Op: "asking for authorization", Kind: Refused, Code: "access_denied", Description: withheld}},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseCallback(values)
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
}

func TestParseCallbackRefuses(t *testing.T) {
	const twice = "a parameter is there twice (RFC 6749 section 3.1)"
	for query, want := range map[string]string{
		"code=hunter2-a&code=hunter2-b&state=S": twice,
		"code=hunter2-a&code=hunter2-a&state=S": twice,
		"code=hunter2-a&code=&state=S":          twice,
		"code=hunter2-a&state=S&state=S":        twice,
		"code=hunter2-a&state=S&iss=a&iss=b":    twice,
		"code=hunter2-a&state=S&x=hunter2&x=1":  twice,
		"state=S":                               "there is neither a code nor an error",
		"":                                      "there is neither a code nor an error",
		"code=hunter2-a&state=S&error=x":        "there are both a code and an error",
		"code=hunter2-a%0D%0AX:%20y&state=S":    "the code has characters that no code has (RFC 6749 appendix A.11)",
		"code=hunter2-a%C3%A9&state=S":          "the code has characters that no code has (RFC 6749 appendix A.11)",
		"code=hunter2-a&state=hunter2%00":       "the state has characters that no state has (RFC 6749 appendix A.5)",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseCallback(values)
		var e *Error
		if !errors.As(err, &e) || err.Error() != opCallback+": "+want || e.Kind != Malformed || got != (Callback{}) {
			t.Errorf("%s: got %+v, %v, want %s", query, got, err, want)
		}
	}
}

func TestCallbackCheck(t *testing.T) {
	const as = "https://as.example"
	for _, row := range []struct {
		iss, issuer string
		supported   bool
		want        string
	}{
		{as, as, true, ""},
		{as, as, false, ""},
		{"", as, false, ""},
		{as, "", false, ""},
		{"", as, true, "iss is missing, which this server promises (RFC 9207)"},
		{as + "/", as, true, "it is of issuer https://as.example/, not of https://as.example (RFC 9207)"},
		{"https://AS.example", as, false, "it is of issuer https://AS.example, not of https://as.example (RFC 9207)"},
		{"https://evil.example/\x1b", as, false, `it is of issuer https://evil.example/\x1b, not of https://as.example (RFC 9207)`},
		{"https://evil.example/the-code-itself-1234", as, false, "it is of issuer " + withheld + ", not of https://as.example (RFC 9207)"},
	} {
		for _, cb := range []Callback{
			{Code: NewSecret("the-code-itself-1234"), Issuer: row.iss},
			{Code: NewSecret("the-code-itself-1234"), Issuer: row.iss, Err: &Error{}},
		} {
			err := cb.Check(row.issuer, row.supported)
			var e *Error
			switch {
			case row.want == "":
				if err != nil {
					t.Errorf("%+v: got %v", row, err)
				}
			case !errors.As(err, &e) || e.Kind != Malformed || err.Error() != opCallback+": "+row.want:
				t.Errorf("%+v: got %v", row, err)
			}
		}
	}
}

// Whatever a browser brings, what is taken for a code is one, no parameter was
// there twice, and nothing unprintable or secret is said about it.
func FuzzParseCallback(f *testing.F) {
	for _, query := range []string{
		"code=c&state=S&iss=https%3A%2F%2Fas.example", "code=a&code=b", "error=access_denied&error_description=no%1B",
		"code=%00&state=%ff", "error=x&state=aaaaaaaaaaaaaaaaaaaaaaaaaa&error_description=aaaaaaaaaaaaaaaaaaaaaaaaaa", "state", "&&=&",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		cb, err := ParseCallback(values)
		if err != nil {
			if cb != (Callback{}) || strings.Trim(err.Error(), printable) != "" {
				t.Fatalf("%q: %+v, %q", query, cb, err)
			}
			return
		}
		for name, v := range values {
			if len(v) != 1 {
				t.Fatalf("took %q twice in %q", name, query)
			}
		}
		code := cb.Code.Reveal()
		if (code != "") == (cb.Err != nil) || strings.Trim(code+cb.State, printable) != "" {
			t.Fatalf("%q: took %+v", query, cb)
		}
		if cb.Err != nil {
			line := cb.Err.Error()
			if strings.Trim(line, printable) != "" || len(cb.State) >= echoRun && strings.Contains(line, cb.State) {
				t.Fatalf("%q: said %q", query, line)
			}
		}
		if err := cb.Check("https://as.example", true); (err == nil) != (cb.Issuer == "https://as.example") || err != nil && strings.Trim(err.Error(), printable) != "" {
			t.Fatalf("%q: checked %q", query, err)
		}
	})
}
