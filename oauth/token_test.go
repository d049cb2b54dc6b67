package oauth

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var request = Request{Grant: GrantClientCredentials}

func TestTokenAnswers(t *testing.T) {
	const day = 24 * time.Hour
	bearer := func(t Token) *Token {
		t.AccessToken, t.Type = NewSecret("AT-1"), "Bearer"
		return &t
	}
	notUnderstood := []string{"expires_in is not understood, and taken as missing"}
	for body, want := range map[string]*Token{
		// The seed's own answer.
		`{"access_token":"AT-1","expires_in":300,"not-before-policy":0,"refresh_expires_in":0,"scope":"","token_type":"Bearer"}`: bearer(Token{Lifetime: 300 * time.Second, LifetimeGiven: true, ScopesGiven: true}),

		`{"access_token":"AT-1","token_type":"bearer"}`:                            bearer(Token{}),
		`{"access_token":"AT-1","token_type":"BEARER","expires_in":300}`:           bearer(Token{Lifetime: 300 * time.Second, LifetimeGiven: true}),
		" \r\n{\"access_token\":\"AT-1\",\"token_type\":\"Bearer\"}\n":             bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"300"}`:         bearer(Token{Lifetime: 300 * time.Second, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":" 300 "}`:       bearer(Token{Lifetime: 300 * time.Second, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":3599.9}`:        bearer(Token{Lifetime: 3599 * time.Second, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":1e3}`:           bearer(Token{Lifetime: 1000 * time.Second, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"1.5E2"}`:       bearer(Token{Lifetime: 150 * time.Second, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":0}`:             bearer(Token{LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":-0}`:            bearer(Token{LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":0.9}`:           bearer(Token{LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":null}`:          bearer(Token{LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":1e400}`:         bearer(Token{Lifetime: 3650 * day, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"1e400"}`:       bearer(Token{Lifetime: 3650 * day, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":9223372036854}`: bearer(Token{Lifetime: 3650 * day, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":315359999}`:     bearer(Token{Lifetime: 3650*day - time.Second, LifetimeGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"soon"}`:        bearer(Token{Warnings: notUnderstood}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":""}`:            bearer(Token{Warnings: notUnderstood}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"0x10"}`:        bearer(Token{Warnings: notUnderstood}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"NaN"}`:         bearer(Token{Warnings: notUnderstood}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":"1_000"}`:       bearer(Token{Warnings: notUnderstood}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":true}`:          bearer(Token{Warnings: notUnderstood}),
		`{"access_token":"AT-1","token_type":"Bearer","expires_in":[300]}`:         bearer(Token{Warnings: notUnderstood}),

		`{"access_token":"AT-1","token_type":"Bearer","scope":"read  write:all"}`:     bearer(Token{Scopes: []string{"read", "write:all"}, ScopesGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":["read","write"]}`:      bearer(Token{Scopes: []string{"read", "write"}, ScopesGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":[]}`:                    bearer(Token{ScopesGiven: true}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":null}`:                  bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":7}`:                     bearer(Token{Warnings: []string{"scope is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":["read",7]}`:            bearer(Token{Warnings: []string{"scope is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":"a\u001b[2J"}`:          bearer(Token{Warnings: []string{"scope is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","scope":"hunter2-correct-hor"}`: bearer(Token{Warnings: []string{"scope is not understood, and taken as missing"}}),

		`{"access_token":"AT-1","token_type":"Bearer","refresh_token":"RT 1"}`:                          bearer(Token{RefreshToken: NewSecret("RT 1")}),
		`{"access_token":"AT-1","token_type":"Bearer","refresh_token":null}`:                            bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","refresh_token":""}`:                              bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","error":null}`:                                    bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","error":""}`:                                      bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","refresh_expires_in":1800,"refresh_token":"RT"}`:  bearer(Token{RefreshToken: NewSecret("RT")}),
		`{"access_token":"AT-1","token_type":"Bearer","refresh_expires_in":null}`:                       bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","refresh_expires_in":0.5}`:                        bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","id_token":"a.b.c"}`:                              bearer(Token{IDToken: NewSecret("a.b.c")}),
		`{"access_token":"AT-1","token_type":"Bearer","id_token":null}`:                                 bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","id_token":"a b"}`:                                bearer(Token{Warnings: []string{"id_token is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","id_token":{}}`:                                   bearer(Token{Warnings: []string{"id_token is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","issued_token_type":"urn:x"}`:                     bearer(Token{IssuedTokenType: "urn:x"}),
		`{"access_token":"AT-1","token_type":"Bearer","issued_token_type":null}`:                        bearer(Token{}),
		`{"access_token":"AT-1","token_type":"Bearer","issued_token_type":""}`:                          bearer(Token{Warnings: []string{"issued_token_type is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","issued_token_type":"urn:\u001b[2J"}`:             bearer(Token{Warnings: []string{"issued_token_type is not understood, and taken as missing"}}),
		`{"access_token":"AT-1","token_type":"Bearer","issued_token_type":"urn:hunter2-correct-horse"}`: bearer(Token{Warnings: []string{"issued_token_type is not understood, and taken as missing"}}),
		// Sixteen levels.
		`{"access_token":"AT-1","token_type":"Bearer","x":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`: bearer(Token{}),
		// Names are case-sensitive.
		`{"access_token":"AT-1","token_type":"Bearer","ACCESS_TOKEN":"AT-2","Expires_In":-1}`: bearer(Token{}),
	} {
		_, c := answering(t, ok(body))
		got, err := c.Token(t.Context(), request)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if len(got.Scopes) == 0 {
			got.Scopes = nil
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

func TestTokenExchange(t *testing.T) {
	const jwt = "urn:ietf:params:oauth:token-type:jwt"
	exchange := Request{Grant: GrantTokenExchange, Params: url.Values{"subject_token": {"AT-0"}, "subject_token_type": {jwt}, "requested_token_type": {jwt}}}
	_, c := answering(t, ok(`{"access_token":"AT-1","token_type":"N_A","issued_token_type":"`+jwt+`"}`))
	tok, err := c.Token(t.Context(), exchange)
	if err != nil || tok.Type != "N_A" || tok.IssuedTokenType != jwt || tok.Warnings != nil {
		t.Errorf("got %+v, %v", tok, err)
	}
	_, c = answering(t, ok(`{"access_token":"AT-1","token_type":"Bearer","refresh_token":"RT-2"}`))
	tok, err = c.Token(t.Context(), exchange)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Malformed || e.Err.Error() != "there is no issued_token_type in the answer (RFC 8693 section 2.2.1)" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(&Token{RefreshToken: NewSecret("RT-2")}, tok, cmp.AllowUnexported(Secret{})); diff != "" {
		t.Error(diff)
	}
}

func TestContentTypesTaken(t *testing.T) {
	for _, line := range []string{"Content-Type: application/json;charset=UTF-8\r\n", "Content-Type: application/problem+json\r\n", "Content-Type: text/plain\r\n", "Content-Encoding: identity\r\n", ""} {
		_, c := answering(t, "HTTP/1.1 200 OK\r\n"+line+"\r\n"+goodAnswer)
		if tok, err := c.Token(t.Context(), request); err != nil || tok.AccessToken.Reveal() != "AT-1" {
			t.Errorf("%q: %v, %v", line, tok, err)
		}
	}
}

func TestDateOfTheAnswer(t *testing.T) {
	_, c := answering(t, "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n"+goodAnswer)
	tok, err := c.Token(t.Context(), request)
	if err != nil || !tok.Date.Equal(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("%v, %v", tok, err)
	}
}

func TestRefusals(t *testing.T) {
	head := func(line, headers, body string) string {
		return "HTTP/1.1 " + line + "\r\n" + headers + "\r\n" + body
	}
	const html = "<html>\x1b[2J hunter2-correct-horse</html>"
	for name, row := range map[string]struct {
		answer  string
		want    Error // without Op and Sent
		line    string
		refresh string
	}{
		"invalid_client":              {status("401 Unauthorized", `{"error":"invalid_client","error_description":"Bad secret"}`), Error{Kind: Refused, Status: 401, Code: "invalid_client", Description: "Bad secret"}, "invalid_client: Bad secret (HTTP 401)", ""},
		"200 with an error":           {ok(`{"error":"invalid_grant"}`), Error{Kind: Refused, Status: 200, Code: "invalid_grant"}, "invalid_grant (HTTP 200)", ""},
		"200 with error and token":    {ok(`{"error":"invalid_scope","access_token":"AT-1","token_type":"Bearer"}`), Error{Kind: Refused, Status: 200, Code: "invalid_scope"}, "invalid_scope (HTTP 200)", ""},
		"empty 400":                   {head("400 Bad Request", "Content-Length: 0\r\n", ""), Error{Kind: Refused, Status: 400}, "no OAuth error in the answer (HTTP 400)", ""},
		"empty 403":                   {head("403 Forbidden", "", ""), Error{Kind: Refused, Status: 403}, "no OAuth error in the answer (HTTP 403)", ""},
		"404 HTML":                    {head("404 Not Found", "Content-Type: text/html\r\n", html), Error{Kind: Refused, Status: 404}, "no OAuth error in the answer (HTTP 404)", ""},
		"unregistered code":           {status("400 Bad Request", `{"error":"bad_client_secret"}`), Error{Kind: Refused, Status: 400, Description: "bad_client_secret"}, "bad_client_secret (HTTP 400)", ""},
		"unregistered, described":     {status("400 Bad Request", `{"error":"bad_client_secret","error_description":"no"}`), Error{Kind: Refused, Status: 400, Description: "bad_client_secret: no"}, "bad_client_secret: no (HTTP 400)", ""},
		"code with odd characters":    {status("400 Bad Request", `{"error":"\u001b[2J"}`), Error{Kind: Refused, Status: 400}, "no OAuth error in the answer (HTTP 400)", ""},
		"code too long":               {status("400 Bad Request", `{"error":"`+strings.Repeat("x", 65)+`"}`), Error{Kind: Refused, Status: 400}, "no OAuth error in the answer (HTTP 400)", ""},
		"error is an object":          {status("400 Bad Request", `{"error":{"code":1}}`), Error{Kind: Refused, Status: 400}, "no OAuth error in the answer (HTTP 400)", ""},
		"description escaped":         {status("400 Bad Request", `{"error":"invalid_request","error_description":"a\u001b[2J\r\n\"\\é"}`), Error{Kind: Refused, Status: 400, Code: "invalid_request", Description: `a\x1b[2J\x0d\x0a\x22\x5c\xc3\xa9`}, `invalid_request: a\x1b[2J\x0d\x0a\x22\x5c\xc3\xa9 (HTTP 400)`, ""},
		"description cut":             {status("400 Bad Request", `{"error":"invalid_request","error_description":"`+strings.Repeat("y", 300)+`"}`), Error{Kind: Refused, Status: 400, Code: "invalid_request", Description: strings.Repeat("y", 256)}, "invalid_request: " + strings.Repeat("y", 256) + " (HTTP 400)", ""},
		"description not a string":    {status("400 Bad Request", `{"error":"invalid_request","error_description":["x"]}`), Error{Kind: Refused, Status: 400, Code: "invalid_request"}, "invalid_request (HTTP 400)", ""},
		"description in Latin-1":      {status("400 Bad Request", "{\"error\":\"invalid_grant\",\"error_description\":\"ung\xfcltig\"}"), Error{Kind: Refused, Status: 400, Code: "invalid_grant", Description: `ung\xef\xbf\xbdltig`}, `invalid_grant: ung\xef\xbf\xbdltig (HTTP 400)`, ""},
		"server error":                {head("500 Internal Server Error", "", html), Error{Kind: Temporary, Status: 500}, "no OAuth error in the answer (HTTP 500)", ""},
		"server error with a code":    {status("500 Internal Server Error", `{"error":"invalid_client"}`), Error{Kind: Temporary, Status: 500, Code: "invalid_client"}, "invalid_client (HTTP 500)", ""},
		"temporarily_unavailable":     {status("400 Bad Request", `{"error":"temporarily_unavailable"}`), Error{Kind: Temporary, Status: 400, Code: "temporarily_unavailable"}, "temporarily_unavailable (HTTP 400)", ""},
		"429":                         {head("429 Too Many Requests", "Retry-After: 120\r\n", ""), Error{Kind: Temporary, Status: 429, RetryAfter: 2 * time.Minute}, "no OAuth error in the answer (HTTP 429)", ""},
		"503 with a date":             {head("503 Service Unavailable", "Date: Sat, 21 Nov 2020 12:00:00 GMT\r\nRetry-After: Sat, 21 Nov 2020 12:00:30 GMT\r\n", ""), Error{Kind: Temporary, Status: 503, RetryAfter: 30 * time.Second}, "no OAuth error in the answer (HTTP 503)", ""},
		"408":                         {head("408 Request Timeout", "", ""), Error{Kind: Temporary, Status: 408}, "no OAuth error in the answer (HTTP 408)", ""},
		"captive portal":              {head("200 OK", "Content-Type: text/html; charset=utf-8\r\n", html), Error{Kind: Temporary, Status: 200, Err: errors.New("the answer is a web page; is there a captive portal between?")}, "the answer is a web page; is there a captive portal between? (HTTP 200)", ""},
		"portal without content type": {head("200 OK", "", html), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not JSON")}, "the answer is not JSON (HTTP 200)", ""},
		"empty 200":                   {ok(""), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is empty")}, "the answer is empty (HTTP 200)", ""},
		"204":                         {head("204 No Content", "", ""), Error{Kind: Malformed, Status: 204, Err: errors.New("the answer is empty")}, "the answer is empty (HTTP 204)", ""},
		"form":                        {ok("access_token=AT-1&token_type=bearer"), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not JSON")}, "the answer is not JSON (HTTP 200)", ""},
		"array":                       {ok("[" + goodAnswer + "]"), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not a JSON object")}, "the answer is not a JSON object (HTTP 200)", ""},
		"null":                        {ok("null"), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not a JSON object")}, "the answer is not a JSON object (HTTP 200)", ""},
		"two objects":                 {ok(goodAnswer + goodAnswer), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not JSON")}, "the answer is not JSON (HTTP 200)", ""},
		"byte order mark":             {ok("\xef\xbb\xbf" + `{"access_token":"AT-1","token_type":"Bearer","refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer begins with a byte order mark")}, "the answer begins with a byte order mark (HTTP 200)", "RT-2"},
		"not UTF-8":                   {ok("{\"access_token\":\"AT-1\",\"token_type\":\"Bearer\",\"x\":\"\xff\",\"refresh_token\":\"RT-2\"}"), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not UTF-8")}, "the answer is not UTF-8 (HTTP 200)", "RT-2"},
		"a name twice":                {ok(`{"access_token":"AT-1","refresh_token":"RT-2","token_type":"Bearer","access_token":"AT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer has a name twice")}, "the answer has a name twice (HTTP 200)", "RT-2"},
		"a name twice, below":         {ok(`{"access_token":"AT-1","token_type":"Bearer","x":[{"y":1,"\u0079":2}]}`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer has a name twice")}, "the answer has a name twice (HTTP 200)", ""},
		"seventeen levels":            {ok(`{"access_token":"AT-1","token_type":"Bearer","x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `,"refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is nested too deeply")}, "the answer is nested too deeply (HTTP 200)", "RT-2"},
		"5000 levels":                 {ok(`{"x":` + strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000) + `,"refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is nested too deeply")}, "the answer is nested too deeply (HTTP 200)", "RT-2"},
		"cut off JSON":                {ok(`{"refresh_token":"RT-2","access_tok`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is not JSON")}, "the answer is not JSON (HTTP 200)", "RT-2"},
		"larger than 1 MiB":           {ok(`{"refresh_token":"RT-2","x":"` + strings.Repeat("z", 1<<20) + `"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is larger than 1 MiB")}, "the answer is larger than 1 MiB (HTTP 200)", "RT-2"},
		"gzip":                        {head("200 OK", "Content-Encoding: gzip\r\n", "\x1f\x8b\x08"), Error{Kind: Malformed, Status: 200, Err: errors.New("the answer is compressed, which was not asked for")}, "the answer is compressed, which was not asked for (HTTP 200)", ""},
		"portal around a token":       {head("200 OK", "Content-Type: text/html\r\n", `{"refresh_token":"RT-2"}`), Error{Kind: Temporary, Status: 200, Err: errors.New("the answer is a web page; is there a captive portal between?")}, "the answer is a web page; is there a captive portal between? (HTTP 200)", "RT-2"},
		"no access token":             {ok(`{"token_type":"Bearer","refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("there is no access_token in the answer")}, "there is no access_token in the answer (HTTP 200)", "RT-2"},
		"access token a number":       {ok(`{"access_token":1,"token_type":"Bearer"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("there is no access_token in the answer")}, "there is no access_token in the answer (HTTP 200)", ""},
		"no token type":               {ok(`{"access_token":"AT-1","refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("there is no token_type in the answer")}, "there is no token_type in the answer (HTTP 200)", "RT-2"},
		"other token type":            {ok(`{"access_token":"AT-1","token_type":"mac\n","refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New(`token_type "mac\x0a" is not Bearer`)}, `token_type "mac\x0a" is not Bearer (HTTP 200)`, "RT-2"},
		"negative lifetime":           {ok(`{"access_token":"AT-1","token_type":"Bearer","expires_in":-1,"refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("expires_in is negative")}, "expires_in is negative (HTTP 200)", "RT-2"},
		"negative string":             {ok(`{"access_token":"AT-1","token_type":"Bearer","expires_in":"-1e999"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("expires_in is negative")}, "expires_in is negative (HTTP 200)", ""},
		"CR LF in access token":       {ok(`{"access_token":"x\r\nEvil: 1","token_type":"Bearer","refresh_token":"RT-2"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("access_token has characters that no Bearer token has")}, "access_token has characters that no Bearer token has (HTTP 200)", "RT-2"},
		"NUL in access token":         {ok(`{"access_token":"x\u0000","token_type":"Bearer"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("access_token has characters that no Bearer token has")}, "access_token has characters that no Bearer token has (HTTP 200)", ""},
		"space in access token":       {ok(`{"access_token":"x y","token_type":"Bearer"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("access_token has characters that no Bearer token has")}, "access_token has characters that no Bearer token has (HTTP 200)", ""},
		"é in access token":           {ok(`{"access_token":"é","token_type":"Bearer"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("access_token has characters that no Bearer token has")}, "access_token has characters that no Bearer token has (HTTP 200)", ""},
		"ESC in refresh token":        {ok(`{"access_token":"AT-1","token_type":"Bearer","refresh_token":"\u001b[2J"}`), Error{Kind: Malformed, Status: 200, Err: errors.New("refresh_token is no string of printable ASCII")}, "refresh_token is no string of printable ASCII (HTTP 200)", ""},
		"refresh token a number":      {ok(`{"access_token":"AT-1","token_type":"Bearer","refresh_token":5}`), Error{Kind: Malformed, Status: 200, Err: errors.New("refresh_token is no string of printable ASCII")}, "refresh_token is no string of printable ASCII (HTTP 200)", ""},
		"refresh token in an error":   {status("400 Bad Request", `{"error":"invalid_scope","refresh_token":"RT-2"}`), Error{Kind: Refused, Status: 400, Code: "invalid_scope"}, "invalid_scope (HTTP 400)", "RT-2"},
		"switching protocols":         {head("101 Switching Protocols", "Connection: Upgrade\r\nUpgrade: h2c\r\n", ""), Error{Kind: Malformed, Status: 101, Err: errors.New("the answer is no answer to a request of OAuth")}, "the answer is no answer to a request of OAuth (HTTP 101)", ""},
		"header too large":            {head("200 OK", "X: "+strings.Repeat("x", 40<<10)+"\r\n", goodAnswer), Error{Kind: Malformed, Err: errNotHTTP}, "the answer is not HTTP/1.1, or its header is larger than 32 KiB", ""},
		"not HTTP":                    {"SSH-2.0-OpenSSH_9.2\r\nhunter2-correct-horse\r\n", Error{Kind: Malformed, Err: errNotHTTP}, "the answer is not HTTP/1.1, or its header is larger than 32 KiB", ""},
		"no answer":                   {"", Error{Kind: Temporary, Err: errors.New("connection closed before the answer was complete")}, "connection closed before the answer was complete", ""},
		"cut off header":              {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", Error{Kind: Temporary, Err: errors.New("connection closed before the answer was complete")}, "connection closed before the answer was complete", ""},
		"cut off body":                {head("200 OK", "Content-Length: 500\r\n", `{"refresh_token":"RT-2",`), Error{Kind: Temporary, Err: errors.New("connection closed before the answer was complete")}, "connection closed before the answer was complete", "RT-2"},
		"cut off error":               {head("400 Bad Request", "Content-Length: 500\r\n", `{"error":"invalid_grant",`), Error{Kind: Temporary, Err: errors.New("connection closed before the answer was complete")}, "connection closed before the answer was complete", ""},
		"bad chunk":                   {head("200 OK", "Transfer-Encoding: chunked\r\n", "hunter2-correct-horse\r\n"), Error{Kind: Malformed, Err: errNotHTTP}, "the answer is not HTTP/1.1, or its header is larger than 32 KiB", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := answering(t, row.answer)
			tok, err := c.Token(t.Context(), request)
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, %v", tok, err)
			}
			row.want.Op, row.want.Sent, row.want.Reached = "asking "+s.addr+" for a token", true, true
			sameText := cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
			if diff := cmp.Diff(row.want.Err, got.Err, sameText); diff != "" {
				t.Error(diff)
			}
			plain := *got
			plain.Err, row.want.Err = nil, nil
			if plain != row.want {
				t.Errorf("got %#v, want %#v", plain, row.want)
			}
			if want := row.want.Op + ": " + row.line; err.Error() != want {
				t.Errorf("got %s, want %s", err, want)
			}
			switch {
			case row.refresh == "" && tok != nil:
				t.Errorf("got a token beside the error")
			case row.refresh != "" && (tok == nil || tok.RefreshToken.Reveal() != row.refresh || !tok.AccessToken.IsZero()):
				t.Errorf("the refresh token is lost: %v", tok)
			}
			if n := len(s.seen()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, line := range []string{"301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"} {
		thief := newServer(t, nil, func(string) string { return ok(goodAnswer) })
		s, c := answering(t, "HTTP/1.1 "+line+"\r\nSet-Cookie: a=b\r\nLocation: http://u:p@"+thief.addr+"/token?secret=1\r\nContent-Length: 0\r\n\r\n")
		_, err := c.Token(t.Context(), request)
		want := "asking " + s.addr + " for a token: the endpoint redirects to host " + thief.addr + ", which is not followed (HTTP " + line[:3] + ")"
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || e.Kind != Malformed || e.Status == 0 {
			t.Errorf("got %v, want %s", err, want)
		}
		if n := thief.connections(); n != 0 {
			t.Errorf("%s: %d connections to the target", line, n)
		}
		if n := len(s.seen()); n != 1 {
			t.Errorf("%s: %d requests", line, n)
		}
	}
	for location, want := range map[string]string{
		"/login": "the endpoint redirects, which is not followed",
		"":       "the endpoint redirects, which is not followed",
		"https://hunter2-correct-horse.evil.example/": "the endpoint redirects to host " + withheld + ", which is not followed",
		"https://[::1":                           "the endpoint redirects, which is not followed",
		"https://%1b%5b2J.example/":              "the endpoint redirects, which is not followed",
		"https://a.example:443/?hunter2-correct": "the endpoint redirects to host a.example:443, which is not followed",
	} {
		_, c := answering(t, "HTTP/1.1 302 Found\r\nLocation: "+location+"\r\nContent-Length: 0\r\n\r\n")
		_, err := c.Token(t.Context(), request)
		var e *Error
		if !errors.As(err, &e) || e.Err.Error() != want {
			t.Errorf("%q: got %v, want %s", location, err, want)
		}
	}
}

// Secrets come back in every place and encoding, and are in no text of the error.
func TestEchoedSecretsAreWithheld(t *testing.T) {
	const secret, assertion = "Hunter2/correct+horse?battery=staple", "eyJh.Assertion.Signature"
	encodings := map[string]func(string) string{
		"raw":            func(s string) string { return s },
		"upper case":     strings.ToUpper,
		"form":           url.QueryEscape,
		"path":           url.PathEscape,
		"form twice":     func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
		"every byte":     func(s string) string { return "%" + strings.Join(strings.Split(fmt.Sprintf("% x", s), " "), "%") },
		"hex":            func(s string) string { return hex.EncodeToString([]byte(s)) },
		"HEX":            func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"base64":         func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64url":      func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"base64 of more": func(s string) string { return base64.StdEncoding.EncodeToString([]byte("x=" + s + "&y")) },
		"credential": func(s string) string {
			return base64.StdEncoding.EncodeToString([]byte("app:" + url.QueryEscape(s)))
		},
		"a run":      func(s string) string { return s[3:19] },
		"a long run": func(s string) string { return s[1 : len(s)-1] },
	}
	for name, encode := range encodings {
		for _, sent := range []string{secret, assertion} {
			if sent == assertion && name == "credential" {
				continue
			}
			echoed := encode(sent)
			asJSON := strings.NewReplacer(`"`, `\"`, "\\", `\\`).Replace(echoed)
			for where, answer := range map[string]string{
				"description": status("400 Bad Request", `{"error":"invalid_client","error_description":"value `+asJSON+` is wrong"}`),
				"code":        status("400 Bad Request", `{"error":"`+asJSON+`"}`),
				"own code":    status("400 Bad Request", `{"error":"x_`+asJSON[:min(len(asJSON), 60)]+`"}`),
				"type":        ok(`{"access_token":"a","token_type":"` + asJSON + `"}`),
				"location":    "HTTP/1.1 302 Found\r\nLocation: https://" + echoed + "/" + echoed + "\r\n\r\n",
				"body":        status("500 Internal Server Error", echoed),
				"status line": "HTTP/1.1 400 " + echoed + "\r\n\r\n",
				"garbage":     echoed + "\r\n\r\n",
				"header":      "HTTP/1.1 200 OK\r\n" + echoed + "\r\n\r\n",
				"length":      "HTTP/1.1 200 OK\r\nContent-Length: " + echoed + "\r\n\r\n",
				"encoding":    "HTTP/1.1 200 OK\r\nContent-Encoding: " + echoed + "\r\n\r\n",
				"transfer":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + echoed + "\r\n\r\n",
				"chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + echoed + "\r\n",
			} {
				_, c := answering(t, answer)
				c.ID, c.Secret = "app", NewSecret(secret)
				_, err := c.Token(t.Context(), Request{Grant: "g", Extra: url.Values{"assertion": {assertion}}})
				if err == nil {
					t.Fatalf("%s in %s: no error", name, where)
				}
				for cause := err; cause != nil; cause = errors.Unwrap(cause) {
					for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
						text := strings.ToLower(fmt.Sprintf(verb, cause))
						if strings.Contains(text, strings.ToLower(echoed)) || strings.Contains(text, strings.ToLower(sent)[3:19]) {
							t.Errorf("%s in %s: %s printed %s", name, where, verb, text)
						}
					}
				}
			}
		}
	}
}

func TestShortSecretIsWithheld(t *testing.T) {
	_, c := answering(t, status("401 Unauthorized", `{"error":"invalid_client","error_description":"aBC1 is wrong"}`))
	c.Secret = NewSecret("abc1")
	_, err := c.Token(t.Context(), request)
	var e *Error
	if !errors.As(err, &e) || e.Code != "invalid_client" || e.Description != withheld {
		t.Errorf("got %v", err)
	}
}

// A code of the registry is a word of ours, even where it is also the secret.
func TestRegisteredCodeIsNeverWithheld(t *testing.T) {
	_, c := answering(t, status("400 Bad Request", `{"error":"invalid_grant"}`))
	c.Secret = NewSecret("grant")
	_, err := c.Token(t.Context(), request)
	var e *Error
	if !errors.As(err, &e) || e.Code != "invalid_grant" {
		t.Errorf("got %v", err)
	}
}

func TestCallerEndsTheExchange(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	serve(t, l, func(conn net.Conn) {
		readRequest(conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n{")
		cancel()
		io.Copy(io.Discard, conn)
	})
	c := &Client{ID: "app", TokenURL: "http://" + l.Addr().String() + "/token"}
	_, err = c.Token(ctx, request)
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, context.Canceled) || e.Kind != Temporary || !e.Sent || e.Status != 0 {
		t.Errorf("got %#v", err)
	}
}

// The bubble's clock stands still while anything runs, so 30 s are exact. The
// connection is a pipe, as the bubble cannot see real ones wait.
func TestExchangeEndsAfter30Seconds(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"no answer": func(net.Conn) {},
		"a byte a second": func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n{")
			for {
				time.Sleep(time.Second)
				if _, err := io.WriteString(conn, " "); err != nil {
					return
				}
			}
		},
		"a header byte a second": func(conn net.Conn) {
			for {
				time.Sleep(time.Second)
				if _, err := io.WriteString(conn, "H"); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, _ := url.Parse("http://127.0.0.1/token")
				r, err := Transport{}.open(u)
				if err != nil {
					t.Fatal(err)
				}
				ours, theirs := net.Pipe()
				r.http.DialContext = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
				var server sync.WaitGroup
				server.Go(func() {
					readRequest(theirs)
					answer(theirs)
				})
				defer server.Wait()
				defer theirs.Close()
				ctx, cancel := withExchangeTime(t.Context())
				defer cancel()
				start := time.Now()
				_, e := exchange(ctx, r, "op", u, make(http.Header), "grant_type=x", newEcho())
				if took := time.Since(start); took != 30*time.Second {
					t.Errorf("took %v", took)
				}
				if e == nil || e.Err != errTooSlow || e.Kind != Temporary || !e.Sent || e.Status != 0 {
					t.Errorf("got %#v", e)
				}
			})
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := "Sat, 21 Nov 2026 12:00:00 GMT"
	for value, want := range map[string]time.Duration{
		"":                                 0,
		"120":                              2 * time.Minute,
		" 7 ":                              7 * time.Second,
		"0":                                time.Second,
		"000000000000005":                  5 * time.Second,
		"3600":                             time.Hour,
		"3601":                             time.Hour,
		"99999999999999999999":             time.Hour,
		"-1":                               0,
		"1.5":                              0,
		"soon":                             0,
		"Sat, 21 Nov 2026 12:00:30 GMT":    30 * time.Second,
		"Sat, 21 Nov 2026 11:00:00 GMT":    time.Second,
		"Sun, 22 Nov 2026 12:00:00 GMT":    time.Hour,
		"Saturday, 21-Nov-26 12:01:00 GMT": time.Minute,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}, "Date": {now}}); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(45 * time.Second).UTC().Format(http.TimeFormat)
		if got := retryAfter(http.Header{"Retry-After": {at}}); got != 45*time.Second {
			t.Errorf("without Date: %v", got)
		}
	})
}
