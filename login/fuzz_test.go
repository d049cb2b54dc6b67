package login

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"tokend/oauth"
)

// Whatever requests come to the listener, it takes a callback with this login's
// state alone, and no answer has anything of a request in it.
func FuzzListener(f *testing.F) {
	const state = "STATE-0123456789abcdef"
	for _, request := range []string{
		"GET /callback?code=c&state=" + state + "&iss=https%3A%2F%2Fas.example HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
		"GET /callback?code=c&state=" + state + " HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
		"GET /callback?error=access_denied&error_description=%1b%5b2J&state=" + state + "&iss=https%3A%2F%2Fas.example HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
		"GET /callback/done HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", "GET /%63allback?code=<script>&state=x HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
		"POST /callback?code=c&state=" + state + " HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 1\r\n\r\nx", "GET http://evil.example/callback HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
		"GET /callback?code=a&code=b&state=" + state + " HTTP/1.0\r\nHost: evil.example\r\n\r\n", "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", "GET * HTTP/1.1\r\nHost: 127.0.0.1:1:80\r\n\r\n",
	} {
		f.Add([]byte(request), "http://127.0.0.1:1/callback?code=c&state="+state+"&iss=https%3A%2F%2Fas.example")
	}
	f.Add([]byte(""), " HTTP://127.0.0.1:1/callback?code=c ")
	end := page{Title: "The end", Text: "of it."}
	f.Fuzz(func(t *testing.T, raw []byte, pasted string) {
		fresh := func() *listener {
			l := &listener{
				redirectURL: "http://127.0.0.1:1/callback", host: "127.0.0.1:1", path: "/callback", final: "/callback/done", state: state, issuer: "https://as.example", issParameter: true,
				refused: make(chan error, maxRefused), accepted: make(chan struct{}), finished: make(chan struct{}), shown: make(chan struct{}), end: end,
			}
			close(l.finished) // nobody waits
			return l
		}
		check := func(l *listener, rawQuery string) {
			query, _ := url.ParseQuery(rawQuery)
			cb := l.callback
			if l.isAccepted && (query.Get("state") != state || query.Get("iss") != "https://as.example" || (query.Get("code") == "") == (query.Get("error") == "") || cb.Code.Reveal() != query.Get("code")) {
				t.Fatalf("took %q: %+v", rawQuery, cb)
			}
			if !l.isAccepted && cb != (oauth.Callback{}) {
				t.Fatalf("%+v of what was not taken", cb)
			}
			select {
			case err := <-l.refused:
				if line := err.Error(); strings.ContainsFunc(line, func(r rune) bool { return r < 0x20 || r > 0x7e }) || strings.Contains(line, state) {
					t.Fatalf("%q: said %q", rawQuery, line)
				}
			default:
			}
		}
		if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw))); err == nil {
			l, w := fresh(), httptest.NewRecorder()
			l.ServeHTTP(w, req)
			switch body := w.Body.String(); {
			case w.Code == http.StatusSeeOther:
				if !l.isAccepted || body != "" || w.Header().Get("Location") != "http://127.0.0.1:1/callback/done" {
					t.Fatalf("%q: %v", raw, w.Header())
				}
			case body != nothingHere.html() && body != notThisLogin.html() && body != end.html():
				t.Fatalf("%q is answered with %q", raw, body)
			case w.Header().Get("Content-Security-Policy") != pagePolicy || w.Header().Get("Cache-Control") != "no-store":
				t.Fatalf("%q: %v", raw, w.Header())
			}
			if l.isAccepted && (req.Method != http.MethodGet || !strings.EqualFold(strings.TrimSuffix(req.Host, ":80"), l.host)) {
				t.Fatalf("took %q", raw)
			}
			check(l, req.URL.RawQuery)
		}
		l := fresh()
		err := l.paste(pasted)
		if (err == nil) != l.isAccepted {
			t.Fatalf("%q: %v", pasted, err)
		}
		if err != nil {
			l.refuse(err)
		}
		_, query, _ := strings.Cut(strings.TrimSpace(pasted), "?")
		query, _, _ = strings.Cut(query, "#")
		check(l, query)
	})
}
