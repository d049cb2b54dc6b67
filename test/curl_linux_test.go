package test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tokend/test/authserver"
)

// withAPI is a home with a profile whose token may go to these servers.
func withAPI(t *testing.T, servers ...*httptest.Server) *home {
	t.Helper()
	c := authserver.Client{ID: "dev", Secret: "correct-horse"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	h.must(t, "", "init")
	text := profileOf(s, c) + "API_URL='"
	for _, api := range servers {
		text += api.URL + " "
	}
	h.must(t, text+"'\n", "add", "dev/network")
	return h
}

// While curl waits for its answer, its token stands on no command line and in
// no environment; with plain curl it does, and the same search finds it.
func TestCurlCommandLine(t *testing.T) {
	var mu sync.Mutex
	var where []string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		var found []string
		if len(token) > 20 {
			for _, name := range []string{"cmdline", "environ"} {
				files, _ := filepath.Glob("/proc/[0-9]*/" + name)
				for _, f := range files {
					if b, _ := os.ReadFile(f); bytes.Contains(b, []byte(token)) {
						found = append(found, name)
					}
				}
			}
			_, _ = fmt.Fprint(w, "searched")
		}
		mu.Lock()
		defer mu.Unlock()
		where = found
	}))
	defer api.Close()
	h := withAPI(t, api)
	tokenctl := filepath.Join(h.bin, "tokenctl")
	run := func(argv ...string) []string {
		t.Helper()
		if r := finish(t, h.command(argv...)); r.code != 0 || r.out != "searched" || r.err != "" {
			t.Fatalf("%q: %v", argv, r)
		}
		mu.Lock()
		defer mu.Unlock()
		return where
	}
	if found := run(tokenctl, "curl", "dev/network", "--", "-sS", api.URL); found != nil {
		t.Errorf("the token stands in %q", found)
	}
	if found := run(tokenctl, "exec", "-e", "T:dev/network", "--fd", "--", "sh", "-c", `(printf 'header = "Authorization: Bearer '; cat "$T"; echo '"') | curl -sS -K - `+api.URL); found != nil {
		t.Errorf("with exec --fd the token stands in %q", found)
	}
	if found := run("curl", "-sS", "-H", "Authorization: Bearer "+h.get(t, "dev/network"), api.URL); len(found) != 1 || found[0] != "cmdline" {
		t.Errorf("plain curl's token was found in %q", found)
	}
	if found := run(tokenctl, "exec", "-e", "T:dev/network", "--", "sh", "-c", `(printf 'header = "Authorization: Bearer '; printf %s "$T"; echo '"') | curl -sS -K - `+api.URL); len(found) == 0 || found[0] != "environ" {
		t.Errorf("exec's token was found in %q", found)
	}
}

// -L takes no token to another host or port, whatever the code of the redirect;
// on the same one it stays.
func TestCurlRedirects(t *testing.T) {
	var mu sync.Mutex
	var seen []string // raw requests at the other server
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := httputil.DumpRequest(r, true)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, string(raw))
	}))
	defer other.Close()
	_, otherPort, _ := strings.Cut(strings.TrimPrefix(other.URL, "http://"), ":")
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/here" {
			scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			_, _ = fmt.Fprint(w, scheme)
			return
		}
		var code int
		var host string
		_, _ = fmt.Sscanf(r.URL.Path, "/%d/%s", &code, &host)
		location := "http://" + host + ":" + otherPort + "/"
		if host == "here" {
			location = "/here"
		}
		w.Header().Set("Location", location)
		w.WriteHeader(code)
	}))
	defer api.Close()
	// Also where the profile allows both.
	h := withAPI(t, api, other)
	tokenctl := filepath.Join(h.bin, "tokenctl")
	token := h.get(t, "dev/network")
	leaks := func() (requests, leaks int) {
		mu.Lock()
		defer mu.Unlock()
		for _, raw := range seen {
			if strings.Contains(raw, token) || strings.Contains(strings.ToLower(raw), "authorization:") {
				leaks++
			}
		}
		requests, seen = len(seen), nil
		return requests, leaks
	}
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, host := range []string{"localhost", "127.0.0.1"} {
			for _, body := range [][]string{nil, {"-d", "x=y"}} {
				url := fmt.Sprintf("%s/%d/%s", api.URL, code, host)
				if r := finish(t, h.command(append([]string{tokenctl, "curl", "dev/network", "--", "-sSL", url}, body...)...)); r.code != 0 {
					t.Errorf("%s: %v", url, r)
				}
				if requests, leaks := leaks(); requests != 1 || leaks != 0 {
					t.Errorf("%s: %d requests there, %d with the token", url, requests, leaks)
				}
			}
		}
		if r := finish(t, h.command(tokenctl, "curl", "dev/network", "--", "-sSL", fmt.Sprintf("%s/%d/here", api.URL, code))); r.out != "Bearer" {
			t.Errorf("%d on the same host: %v", code, r)
		}
		// What we refuse would have taken it there.
		finish(t, h.command("curl", "-sS", "--location-trusted", "-H", "Authorization: Bearer "+token, fmt.Sprintf("%s/%d/localhost", api.URL, code)))
		if requests, leaks := leaks(); requests != 1 || leaks != 1 {
			t.Errorf("%d with --location-trusted: %d requests there, %d with the token", code, requests, leaks)
		}
	}
}
