package httpauth

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"tokend/client"
)

// allowed says whether a token may go where a request goes. After a redirect it
// may if it could all the way: who has led elsewhere does not get it by leading
// back, or on.
func (t *Transport) allowed(req *http.Request, token *client.Token) bool {
	var origins []string
	for r := req; ; r = r.Response.Request {
		if r == nil { // somebody between here and net/http has hidden where it began
			return false
		}
		origins = append(origins, originOf(r))
		if r.Response == nil {
			break
		}
	}
	may := token.APIOrigins
	if t.AnyHost {
		may = origins[len(origins)-1:]
	}
	for _, o := range origins {
		if !isSafe(o) || !contains(may, o) {
			return false
		}
	}
	return true
}

func contains(allowed []string, origin string) bool {
	for _, a := range allowed {
		if u, err := url.Parse(a); err == nil && originOfURL(u) == origin {
			return true
		}
	}
	return false
}

// originOf returns where a request goes: scheme, host in lower case, and port
// unless it is the scheme's own; "" where that is not one place. A Host field that
// says another is another place to what stands in front of several.
func originOf(req *http.Request) string {
	o := originOfURL(req.URL)
	if req.Host != "" && o != "" && originOfURL(&url.URL{Scheme: req.URL.Scheme, Host: req.Host}) != o {
		return ""
	}
	if isLoopback(o) && req.URL.Hostname() != lower(req.URL.Hostname()) {
		return "" // net/http sends LOCALHOST through a proxy
	}
	return o
}

func originOfURL(u *url.URL) string {
	if u == nil || u.Opaque != "" || u.Hostname() == "" {
		return ""
	}
	scheme, host, port := lower(u.Scheme), lower(u.Hostname()), u.Port()
	own := map[string]string{"http": "80", "https": "443"}[scheme]
	if own == "" {
		return ""
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && port != own {
		host += ":" + port
	}
	return scheme + "://" + host
}

// lower leaves alone what is not ASCII, where letters become others.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// isSafe says whether what goes to an origin cannot be read on its way there.
func isSafe(origin string) bool {
	return strings.HasPrefix(origin, "https://") || isLoopback(origin)
}

func isLoopback(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
