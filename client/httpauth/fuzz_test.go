package httpauth

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Whatever an API asks for, it is left alone for a second at least and an hour at
// most, and a number of seconds is taken as it is.
func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"", "0", " 120 ", "-1", "3601", "99999999999999999999", "Sat, 21 Nov 2026 12:00:30 GMT", "Saturday, 21-Nov-26 12:00:30 GMT", "Sat, 21 Nov 0000 12:00:30 GMT"} {
		f.Add(v, "Sat, 21 Nov 2026 12:00:00 GMT")
	}
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, value, date string) {
		d, ok := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, now)
		digits := strings.TrimSpace(value)
		number := digits != "" && strings.Trim(digits, "0123456789") == ""
		_, err := http.ParseTime(digits)
		if ok != (number || err == nil) {
			t.Fatalf("%q: %v", value, ok)
		}
		if number && (d < 0 || d > maxClosed || d%time.Second != 0) {
			t.Fatalf("%q: %v", value, d)
		}
		tr := &Transport{}
		before := time.Now()
		if tr.close("https://api.example", &http.Response{Header: http.Header{"Retry-After": {value}, "Date": {date}}}) != ok {
			t.Fatalf("%q: not the same again", value)
		}
		if until := tr.closed["https://api.example"]; ok && (until.Before(before.Add(minClosed)) || until.After(time.Now().Add(maxClosed))) {
			t.Fatalf("%q closes it until %v", value, until)
		}
	})
}

// A token goes to where net/http connects for one of the profile's URLs, and
// nowhere else, and in plain to loopback only.
func FuzzAllowed(f *testing.F) {
	for _, pair := range [][2]string{
		{"https://api.example", "https://API.example:443/x?y#z"}, {"https://api.example:8443/v1", "https://api.example:8443"}, {"https://api.example", "https://api.example@evil.example/"},
		{"http://[::1]:80", "http://[::1]/"}, {"http://localhost", "http://LOCALHOST:80/"}, {"http://127.0.0.1:1", "http://127.0.0.1:01/"}, {"https://a", "https:a"}, {"//a", "//a"},
		{"https://a", "HTTPS://\u0041"}, {"https://K", "https://\u212a"}, {"https://a.", "https://a"}, {"https://a:", "https://a"}, {"http://api.example", "http://api.example"}, {"https://[fe80::1%25a]", "https://[fe80::1%25A]"},
	} {
		f.Add(pair[0], pair[1])
	}
	// place is where net/http dials.
	place := func(u *url.URL) string {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
		}
		return strings.ToLower(u.Scheme) + " " + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
	}
	f.Fuzz(func(t *testing.T, api, target string) {
		req, err := http.NewRequest(http.MethodGet, target, nil)
		if err != nil {
			return
		}
		o := originOf(req)
		if o == "" || !contains([]string{api}, o) || !isSafe(o) {
			return
		}
		a, err := url.Parse(api)
		if err != nil || place(a) != place(req.URL) {
			t.Fatalf("%q is sent what is for %q", target, api)
		}
		ip := net.ParseIP(req.URL.Hostname())
		if req.URL.Scheme != "https" && req.URL.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			t.Fatalf("%q is sent it in plain", target)
		}
	})
}
