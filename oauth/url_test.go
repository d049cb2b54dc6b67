package oauth

import (
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	const good = ""
	for raw, want := range map[string]string{
		"https://as.example/token":           good,
		"https://as.example:8443/t?tenant=1": good,
		"HTTPS://as.example/token":           good,
		"https://[2001:db8::1]/token":        good,
		"http://127.0.0.1/token":             good,
		"http://127.1.2.3:8080/token":        good,
		"http://[::1]:80/token":              good,
		"http://LOCALHOST/token":             good,
		"http://as.example/token":            `is plain http to "as.example"; only loopback may be plain, all else must be https`,
		"http://10.0.0.1/token":              `is plain http to "10.0.0.1"; only loopback may be plain, all else must be https`,
		"http://localhost.evil.example/":     `is plain http to "localhost.evil.example"; only loopback may be plain, all else must be https`,
		"http://127.1/":                      `is plain http to "127.1"; only loopback may be plain, all else must be https`,
		"http://0.0.0.0/":                    `is plain http to "0.0.0.0"; only loopback may be plain, all else must be https`,
		"":                                   "not an absolute https URL",
		"as.example/token":                   "not an absolute https URL",
		"//as.example/token":                 "not an absolute https URL",
		"/token":                             "not an absolute https URL",
		"ftp://as.example/":                  "not an absolute https URL",
		"file:///etc/passwd":                 "not an absolute https URL",
		"https:as.example":                   "has no host",
		"https:///token":                     "has no host",
		"https://:443/token":                 "has no host",
		"https://app:hunter2@as.example/":    "has a user name or password before the host; credentials do not belong in a URL",
		"https://hunter2@as.example/":        "has a user name or password before the host; credentials do not belong in a URL",
		"http://127.0.0.1@evil.example/":     "has a user name or password before the host; credentials do not belong in a URL",
		"https://as.example/#f":              "has a fragment (#)",
		"https://as.example/#":               "has a fragment (#)",
		"https://as.example/a b":             "has a space or another character that no URL has",
		" https://as.example/":               "has a space or another character that no URL has",
		"https://as.example/\x1b[2J":         "has a space or another character that no URL has",
		"https://as.exämple/":                "has a space or another character that no URL has",
		"https://as%20x.example/":            "not a URL",
		"https://app:hunter2@as.example:x/":  "not a URL",
		"https://app:hun/ter2@as.example/":   "not a URL",
		"https://as.example:0/":              "has a port that is not between 1 and 65535",
		"https://as.example:65536/":          "has a port that is not between 1 and 65535",
		"https://as,example/":                "has a host that is no host name (an international name is written in its xn-- form)",
		"https://as%2Aexample/":              "not a URL",
		"https://[fe80::1%25eth0]/":          "has a host that is no host name (an international name is written in its xn-- form)",
	} {
		u, err := CheckURL(raw)
		switch {
		case want == good:
			if err != nil || u == nil || !strings.EqualFold(u.String(), raw) {
				t.Errorf("%q: got %v, %v", raw, u, err)
			}
		case err == nil || err.Error() != want || u != nil:
			t.Errorf("%q: got %v, want %s", raw, err, want)
		}
	}
}
