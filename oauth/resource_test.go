package oauth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const resourcePath = "/.well-known/oauth-protected-resource"

func TestProbeResource(t *testing.T) {
	const (
		missing   = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
		challenge = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nwww-authenticate: Bearer scope=\"a b\", resource_metadata=\"https://r.example/m\"\r\n\r\n"
	)
	challenged := []Challenge{
		{"basic", map[string]string{"realm": "x"}},
		{"bearer", map[string]string{"scope": "a b", "resource_metadata": "https://r.example/m"}},
	}
	for name, row := range map[string]struct {
		get, post string
		status    int
		want      []Challenge
		asked     int
	}{
		"challenge":             {challenge, "", 401, challenged, 1},
		"challenge to POST":     {missing, challenge, 401, challenged, 2},
		"POST only":             {"HTTP/1.1 405 Method Not Allowed\r\n\r\n", challenge, 401, challenged, 2},
		"challenge with 404":    {strings.Replace(challenge, "401 Unauthorized", "404 Not Found", 1), "", 404, challenged, 1},
		"neither":               {missing, missing, 404, nil, 2},
		"open":                  {ok("{}"), "", 200, nil, 1},
		"401 without challenge": {"HTTP/1.1 401 Unauthorized\r\n\r\n", "", 401, nil, 1},
		"redirect":              {"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "", 302, nil, 1},
		"web page":              {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "", 200, nil, 1},
		"2 MiB":                 {ok(strings.Repeat("x", 2<<20)), "", 200, nil, 1},
		"503":                   {"HTTP/1.1 503 Service Unavailable\r\n\r\n", "", 503, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil, func(request string) string {
				if strings.HasPrefix(request, "GET ") {
					return row.get
				}
				return row.post
			})
			status, got, err := ProbeResource(t.Context(), "http://"+s.addr+"/mcp?x=1", Transport{})
			if diff := cmp.Diff(row.want, got); diff != "" || status != row.status || err != nil {
				t.Errorf("%d, %v, %s", status, err, diff)
			}
			header := "Accept: application/json, text/event-stream\r\nAccept-Encoding: identity"
			asked := []string{wireOf("GET", "/mcp?x=1", s.addr, "", header), wireOf("POST", "/mcp?x=1", s.addr, "", header)}[:row.asked]
			if diff := cmp.Diff(asked, s.seen()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A stream of events that never ends holds nobody up.
func TestProbeResourceLeavesTheBody(t *testing.T) {
	s := newServer(t, nil, func(string) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\nevent: x\r\n"
	})
	status, got, err := ProbeResource(t.Context(), "http://"+s.addr, Transport{})
	if status != 200 || got != nil || err != nil {
		t.Errorf("%d, %v, %v", status, got, err)
	}
}

func TestProbeResourceFailures(t *testing.T) {
	s, _ := answering(t, "")
	for target, row := range map[string]struct {
		transport Transport
		kind      Kind
		want      string
	}{
		"http://" + s.addr:           {Transport{}, Temporary, "asking " + s.addr + " what it wants: connection closed before the answer was complete"},
		"https://r.example":          {Transport{CA: "x"}, Invalid, "asking r.example what it wants: reading the CA: no PEM certificate in it"},
		"http://r.example/x":         {Transport{}, Invalid, `checking the API's URL: is plain http to "r.example"; only loopback may be plain, all else must be https`},
		"https://me:pass@r.example/": {Transport{}, Invalid, "checking the API's URL: has a user name or password before the host; credentials do not belong in a URL"},
	} {
		status, challenges, err := ProbeResource(t.Context(), target, row.transport)
		var e *Error
		if !errors.As(err, &e) || err.Error() != row.want || e.Kind != row.kind || status != 0 || challenges != nil {
			t.Errorf("%s: got %d, %v, %v", target, status, challenges, err)
		}
	}
}

func TestFetchResourceMetadata(t *testing.T) {
	const full = `{"resource":"ISSUER/mcp","authorization_servers":["https://as.example/t1","http://localhost:1"],"scopes_supported":["a","b:c"],"jwks_uri":7}`
	for name, row := range map[string]struct {
		answers      map[string]string
		path, hinted string
		want         ResourceMetadata // with ISSUER for the API's origin
		asked        []string
	}{
		"by path": {map[string]string{resourcePath + "/mcp": metadata(full)}, "/mcp", "",
			ResourceMetadata{"ISSUER/mcp", []string{"https://as.example/t1", "http://localhost:1"}, []string{"a", "b:c"}, "ISSUER" + resourcePath + "/mcp"},
			[]string{resourcePath + "/mcp"}},
		"by path and query": {map[string]string{resourcePath + "/a%2Fb/?t=1": metadata(`{"resource":"ISSUER/a%2Fb/?t=1"}`)}, "/a%2Fb/?t=1", "",
			ResourceMetadata{Resource: "ISSUER/a%2Fb/?t=1", URL: "ISSUER" + resourcePath + "/a%2Fb/?t=1"}, []string{resourcePath + "/a%2Fb/?t=1"}},
		"of the host": {map[string]string{resourcePath: metadata(`{"resource":"ISSUER"}`)}, "/mcp/x", "",
			ResourceMetadata{Resource: "ISSUER", URL: "ISSUER" + resourcePath}, []string{resourcePath + "/mcp/x", resourcePath}},
		"of the host, with a query": {map[string]string{resourcePath: metadata(`{"resource":"ISSUER/"}`)}, "/?t=1", "",
			ResourceMetadata{Resource: "ISSUER/", URL: "ISSUER" + resourcePath}, []string{resourcePath + "?t=1", resourcePath}},
		"without a path": {map[string]string{resourcePath: metadata(`{"resource":"ISSUER/"}`)}, "", "",
			ResourceMetadata{Resource: "ISSUER/", URL: "ISSUER" + resourcePath}, []string{resourcePath}},
		"of a prefix": {map[string]string{resourcePath + "/a/b": metadata(`{"resource":"ISSUER/a","authorization_servers":[],"scopes_supported":["\u001b"]}`)}, "/a/b", "",
			ResourceMetadata{Resource: "ISSUER/a", AuthorizationServers: []string{}, URL: "ISSUER" + resourcePath + "/a/b"}, []string{resourcePath + "/a/b"}},
		"by a hint": {map[string]string{"/custom?x=1": metadata(full)}, "/mcp", "ISSUER/custom?x=1",
			ResourceMetadata{"ISSUER/mcp", []string{"https://as.example/t1", "http://localhost:1"}, []string{"a", "b:c"}, "ISSUER/custom?x=1"},
			[]string{"/custom?x=1"}},
		"after a web page": {map[string]string{resourcePath + "/mcp": "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", resourcePath: metadata(`{"resource":"ISSUER"}`)}, "/mcp", "",
			ResourceMetadata{Resource: "ISSUER", URL: "ISSUER" + resourcePath}, []string{resourcePath + "/mcp", resourcePath}},
	} {
		t.Run(name, func(t *testing.T) {
			s := discovery(t, row.answers)
			origin := "http://" + s.addr
			got, err := FetchResourceMetadata(t.Context(), origin+row.path, strings.Replace(row.hinted, "ISSUER", origin, 1), Transport{})
			if err != nil {
				t.Fatal(err)
			}
			row.want.Resource = strings.Replace(row.want.Resource, "ISSUER", origin, 1)
			row.want.URL = strings.Replace(row.want.URL, "ISSUER", origin, 1)
			if diff := cmp.Diff(&row.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(row.asked, s.paths()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFetchResourceMetadataFailures(t *testing.T) {
	at := func(body string) map[string]string { return map[string]string{resourcePath + "/mcp": metadata(body)} }
	const other = ", which is not the API's URL nor a prefix of its path (HTTP 200)"
	for name, row := range map[string]struct {
		answers map[string]string
		hinted  string
		kind    Kind
		want    string // with ISSUER for the API's origin
		asked   int
	}{
		"none":                {nil, "", Refused, ErrNoResourceMetadata.Error() + " (HTTP 404)", 2},
		"none at the hint":    {nil, "ISSUER/hint", Refused, ErrNoResourceMetadata.Error() + " (HTTP 404)", 1},
		"web pages only":      {map[string]string{resourcePath + "/mcp": "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<", resourcePath: "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<"}, "", Refused, ErrNoResourceMetadata.Error() + " (HTTP 200)", 2},
		"503":                 {map[string]string{resourcePath + "/mcp": status("503 Service Unavailable", "")}, "", Temporary, "no OAuth error in the answer (HTTP 503)", 1},
		"redirect":            {map[string]string{resourcePath + "/mcp": "HTTP/1.1 302 Found\r\nLocation: https://evil.example/x?y\r\n\r\n"}, "", Malformed, "the endpoint redirects to host evil.example, which is not followed (HTTP 302)", 1},
		"2 MiB":               {map[string]string{resourcePath + "/mcp": metadata(`{"resource":"` + strings.Repeat("x", 2<<20) + `"}`)}, "", Refused, ErrNoResourceMetadata.Error() + " (HTTP 404)", 2},
		"name twice":          {at(`{"resource":"ISSUER/mcp","resource":"ISSUER/mcp"}`), "", Refused, ErrNoResourceMetadata.Error() + " (HTTP 404)", 2},
		"no resource":         {at(`{"authorization_servers":["https://as.example"]}`), "", Malformed, "the metadata name no resource (HTTP 200)", 1},
		"resource a list":     {at(`{"resource":["ISSUER/mcp"]}`), "", Malformed, "the metadata name no resource (HTTP 200)", 1},
		"another host":        {at(`{"resource":"https://evil.example/mcp"}`), "", Malformed, "the metadata are of resource https://evil.example/mcp" + other, 1},
		"longer than the URL": {at(`{"resource":"ISSUER/mcp/x"}`), "", Malformed, "the metadata are of resource ISSUER/mcp/x" + other, 1},
		"half a segment":      {at(`{"resource":"ISSUER/mc"}`), "", Malformed, "the metadata are of resource ISSUER/mc" + other, 1},
		"another query":       {at(`{"resource":"ISSUER/mcp?a=1"}`), "", Malformed, "the metadata are of resource ISSUER/mcp?a=1" + other, 1},
		"another scheme":      {at(`{"resource":"https://HOST/mcp"}`), "", Malformed, "the metadata are of resource https://HOST/mcp" + other, 1},
		"odd resource":        {at(`{"resource":"\u001b[2J"}`), "", Malformed, `the metadata are of resource \x1b[2J` + other, 1},
		"servers a string":    {at(`{"resource":"ISSUER/mcp","authorization_servers":"https://as.example"}`), "", Malformed, "authorization_servers is not a list of URLs (HTTP 200)", 1},
		"server a number":     {at(`{"resource":"ISSUER/mcp","authorization_servers":[1]}`), "", Malformed, "authorization_servers is not a list of URLs (HTTP 200)", 1},
		"plain server":        {at(`{"resource":"ISSUER/mcp","authorization_servers":["https://as.example","http://as.example"]}`), "", Malformed, `authorization server http://as.example: is plain http to "as.example"; only loopback may be plain, all else must be https (HTTP 200)`, 1},
		"hint to plain http":  {nil, "http://evil.example/", Malformed, `the URL in the challenge: is plain http to "evil.example"; only loopback may be plain, all else must be https`, 0},
		"hint with userinfo":  {nil, "https://a:b@evil.example/", Malformed, "the URL in the challenge: has a user name or password before the host; credentials do not belong in a URL", 0},
		"hint is no URL":      {nil, "/relative", Malformed, "the URL in the challenge: not an absolute https URL", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := discovery(t, row.answers)
			fill := strings.NewReplacer("ISSUER", "http://"+s.addr, "HOST", s.addr).Replace
			got, err := FetchResourceMetadata(t.Context(), "http://"+s.addr+"/mcp", fill(row.hinted), Transport{})
			want := "reading the resource metadata of " + s.addr + ": " + fill(row.want)
			var e *Error
			if !errors.As(err, &e) || err.Error() != want || e.Kind != row.kind || got != nil {
				t.Errorf("got %v, %v, want %s", got, err, want)
			}
			if is := errors.Is(err, ErrNoResourceMetadata); is != strings.HasPrefix(row.want, ErrNoResourceMetadata.Error()) {
				t.Errorf("errors.Is: %v", is)
			}
			if n := len(s.seen()); n != row.asked {
				t.Errorf("%d requests, want %d", n, row.asked)
			}
		})
	}
	for _, row := range []struct {
		target, hinted string
		transport      Transport
		want           string
	}{
		{"http://r.example", "", Transport{}, `checking the API's URL: is plain http to "r.example"; only loopback may be plain, all else must be https`},
		{"https://r.example", "", Transport{CA: "x"}, "reading the resource metadata of r.example: reading the CA: no PEM certificate in it"},
		// What an API on another machine hints at is not to reach into this one.
		{"https://r.example", "http://127.0.0.1:8080/admin", Transport{}, "reading the resource metadata of r.example: the URL in the challenge: is plain http, and who names it is https"},
	} {
		_, err := FetchResourceMetadata(t.Context(), row.target, row.hinted, row.transport)
		if err == nil || err.Error() != row.want {
			t.Errorf("%s: got %v, want %s", row.target, err, row.want)
		}
	}
}

func TestResourceMetadataOfHTTPSNamesNoPlainServer(t *testing.T) {
	var s *server
	s = newServer(t, systemCA.server(t, "127.0.0.1", time.Now().Add(time.Hour)), func(string) string {
		return metadata(`{"resource":"https://` + s.addr + `","authorization_servers":["http://127.0.0.1:1"]}`)
	})
	_, err := FetchResourceMetadata(t.Context(), "https://"+s.addr+"/mcp", "", Transport{Proxy: "direct"})
	want := "reading the resource metadata of " + s.addr + ": authorization server http://127.0.0.1:1: is plain http, and who names it is https (HTTP 200)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestCovers(t *testing.T) {
	for _, row := range []struct {
		resource, target string
		want             bool
	}{
		{"https://r.example", "https://r.example", true},
		{"https://r.example/", "https://r.example", true},
		{"https://r.example", "https://r.example/a/b?c=1", true},
		{"https://R.example:443/a", "https://r.EXAMPLE/a/b", true},
		{"http://localhost:80/a", "http://localhost/a", true},
		{"https://r.example/a/", "https://r.example/a", true},
		{"https://r.example/a?b=1", "https://r.example/a?b=1", true},
		{"https://r.example/a", "https://r.example/a?b=1", true},
		{"https://r.example/a?b=1", "https://r.example/a", false},
		{"https://r.example/a?b=1", "https://r.example/a/c?b=1", false},
		{"https://r.example/a", "https://r.example/ab", false},
		{"https://r.example/A", "https://r.example/a", false},
		{"https://r.example/a/b", "https://r.example/a", false},
		{"https://r.example/a", "https://r.example/a/../b", false},
		{"https://r.example/a", "https://r.example/a/%2e%2E/b", false},
		{"https://r.example/a", "https://r.example/a/./b", false},
		{"https://r.example/a", "https://r.example/a%2Fb", false},
		{"https://r.example:8443/a", "https://r.example/a", false},
		{"http://localhost/a", "https://localhost/a", false},
		{"https://r.example", "https://r.example.evil.example/", false},
		{"https://example", "https://r.example/", false},
	} {
		resource, err := CheckURL(row.resource)
		if err != nil {
			t.Fatal(err)
		}
		target, err := CheckURL(row.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := covers(resource, target); got != row.want {
			t.Errorf("%s covers %s: %v", row.resource, row.target, got)
		}
	}
}
