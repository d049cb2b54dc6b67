package oauth

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// No answer makes reading panic, a token that comes out is one, and a refresh
// token that encoding/json finds is never lost unless no header could carry it.
func FuzzTokenAnswer(f *testing.F) {
	for _, body := range []string{
		goodAnswer,
		`{"access_token":"a","token_type":"bearer","expires_in":"3599.5","scope":["a","b"],"refresh_token":"r"}`,
		`{"refresh_token":"r","refresh_token":"s","x":[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]}`,
		`{"x":{"refresh_token":"inner"},"refresh_token":"r","error":"invalid_scope"}`,
		`{"access_token":"a","token_type":"N_A","issued_token_type":"urn:x","id_token":"a.b.c","refresh_expires_in":1}`,
		"\xef\xbb\xbf{}", "{\"refresh_token\":\"r\",\"x\":\"\xff\"}", `{"refresh_token":"r"`, `[]`, `{"expires_in":-1e999}`,
	} {
		f.Add(200, "application/json", []byte(body))
	}
	f.Add(400, "text/html", []byte(`{"error":"invalid_client","error_description":"hunter2-correct-horse"}`))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		a := answer{status: status, header: http.Header{"Content-Type": {contentType}}, body: body}
		tok, err := reply{answer: a, op: "op", sent: newEcho("hunter2-correct-horse")}.token(nil, GrantClientCredentials)
		var oracle map[string]any
		if json.Unmarshal(body, &oracle) == nil {
			want, _ := oracle["refresh_token"].(string)
			usable := want != "" && strings.Trim(want, printable) == ""
			if usable && (tok == nil || tok.RefreshToken.Reveal() != want) {
				t.Fatalf("lost %q: %v", want, err)
			}
		}
		if err != nil {
			if line := err.Error(); strings.Trim(line, printable) != "" || strings.Contains(line, "hunter2-correct-horse") {
				t.Fatalf("printed %q", line)
			}
			if tok != nil && tok.RefreshToken.IsZero() {
				t.Fatal("an empty token beside an error")
			}
			return
		}
		access := tok.AccessToken.Reveal()
		if access == "" || strings.Trim(access, printable[1:]) != "" || tok.Type != "Bearer" && (tok.Type != "N_A" || tok.IssuedTokenType == "") ||
			strings.Trim(tok.IDToken.Reveal(), printable[1:]) != "" || strings.Trim(tok.IssuedTokenType, printable) != "" ||
			tok.Lifetime < 0 || tok.Lifetime > maxLifetime || tok.Lifetime%time.Second != 0 || tok.Lifetime != 0 && !tok.LifetimeGiven {
			t.Fatalf("took %+v (%q)", tok, access)
		}
	})
}

// printable is a space and the visible characters of ASCII.
var printable = func() string {
	var b strings.Builder
	for c := byte(0x20); c < 0x7f; c++ {
		b.WriteByte(c)
	}
	return b.String()
}()

func FuzzDescription(f *testing.F) {
	f.Add("hunter2-correct-horse", "wrong secret hunter2-correct-horse", "x", 0)
	f.Add("hunter2-correct-horse", "\x1b[2J\r\n\"\\é\xff", "", 1)
	f.Add("a+b/c=d?e&f", "", "é\xff", 5)
	f.Add(`\x1b`, "\x1b", "", 0)
	f.Add("====", "\t\b", "h", 1)
	f.Add("abc1", strings.Repeat("y", 300), "", 2)
	f.Fuzz(func(t *testing.T, secret, before, after string, encoding int) {
		forms := []string{
			secret, strings.ToUpper(secret), url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret)),
			base64.RawStdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(before + secret + after)),
		}
		echoed := forms[uint(encoding)%uint(len(forms))]
		e := newEcho(secret)
		for _, text := range []string{before + echoed + after, before} {
			got := e.clean(text)
			if strings.Trim(got, printable) != "" || len(got) > maxText || strings.ContainsAny(got, `"`) {
				t.Fatalf("%q became %q", text, got)
			}
			if got == withheld || len(secret) < echoMin {
				continue
			}
			for _, form := range forms[:7] {
				if isASCII(secret) && strings.Contains(strings.ToLower(got), strings.ToLower(form)) {
					t.Fatalf("%q became %q, which has %q", text, got, form)
				}
			}
		}
		if isASCII(secret) && len(secret) >= echoMin && e.clean(before+echoed+after) != withheld {
			t.Fatalf("%q was let through for %q", before+echoed+after, secret)
		}
	})
}

func isASCII(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > 0x7e }) < 0 }

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"", "0", "120", "-1", "99999999999999999999", "Sat, 21 Nov 2026 12:00:30 GMT", "Sat, 21 Nov 0000 12:00:30 GMT"} {
		f.Add(v, "Sat, 21 Nov 2026 12:00:00 GMT")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		got := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}})
		if got != 0 && (got < time.Second || got > time.Hour) {
			t.Fatalf("%q with %q: %v", value, date, got)
		}
	})
}
