package world

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What else the browser can do, the logins of package test need.
func TestBrowser(t *testing.T) {
	p := provider
	var last atomic.Pointer[url.Values]
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		last.Store(&query)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><link rel=icon href=data:,><title>Back</title><body><style>p{color:light-dark(red,lime)}</style><p>Hello</p>`+
			`<script>document.body.append(matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'); console.error('oh')</script>`)
	}))
	t.Cleanup(client.Close)
	redirectURI := client.URL + "/callback"
	browse := func(t *testing.T, to string, flags ...string) (Page, url.Values) {
		t.Helper()
		last.Store(new(url.Values))
		page, err := Browse(t.Context(), to, flags...)
		if err != nil {
			t.Fatal(err)
		}
		return page, *last.Load()
	}
	start := p.Issuer + "/auth?" + request("native", redirectURI).Encode()

	t.Run("approved", func(t *testing.T) {
		shot := filepath.Join(t.TempDir(), "shot.png")
		page, got := browse(t, start, "--user", "erin", "--shot", shot, "--dark")
		want := Page{URL: redirectURI + "?" + "code=" + got.Get("code") + "&state=s1&iss=" + url.QueryEscape(p.Issuer), Title: "Back", Text: "Hello\n\ndark", Errors: []string{"oh"}}
		if diff := cmp.Diff(want, page); diff != "" || got.Get("code") == "" {
			t.Error(diff)
		}
		if data, err := os.ReadFile(shot); err != nil || !strings.HasPrefix(string(data), "\x89PNG") {
			t.Errorf("no picture: %v", err)
		}
		_, tokens := post(t, p, p.Issuer, "/token", "native", redeem(got.Get("code"), redirectURI))
		if said, err := p.Introspect(t.Context(), tokens["access_token"].(string)); err != nil || said["sub"] != "erin" {
			t.Errorf("%v %v", said, err)
		}
	})
	t.Run("denied, by TLS, without scripts", func(t *testing.T) {
		page, got := browse(t, p.TLSIssuer+"/auth?"+request("native", redirectURI).Encode(), "--deny", "--no-scripts")
		if got.Get("error") != "access_denied" || page.Text != "Hello" || len(page.Errors) != 0 {
			t.Errorf("%v %v", got, page)
		}
	})
	t.Run("device", func(t *testing.T) {
		_, device := post(t, p, p.Issuer, "/device/auth", "device", url.Values{"scope": {userScope}})
		page, _ := browse(t, device["verification_uri_complete"].(string), "--no-scripts", "--deny")
		_, tokens := post(t, p, p.Issuer, "/token", "device", url.Values{"grant_type": {deviceCode}, "device_code": {device["device_code"].(string)}})
		if tokens["error"] != "access_denied" || page.Title == "Sign-in Success" {
			t.Errorf("%v %v", page, tokens)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		if _, err := Browse(t.Context(), start, "--close-at", "lunch"); err == nil || !strings.Contains(err.Error(), "usage: ") {
			t.Error(err)
		}
	})
}
