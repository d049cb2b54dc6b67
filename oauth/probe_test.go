package oauth

import (
	"context"
	"crypto/tls"
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

func dated(line string, at time.Time) string {
	return "HTTP/1.1 " + line + "\r\nDate: " + at.UTC().Format(http.TimeFormat) + "\r\nContent-Length: 0\r\n\r\n"
}

// settled checks how long the steps took, and takes that out of p.
func settled(t *testing.T, p *Probed, steps ...*time.Duration) *Probed {
	t.Helper()
	for i, took := range steps {
		if *took <= 0 || *took > probeTime {
			t.Errorf("step %d took %v", i, *took)
		}
		*took = 0
	}
	if p.Resolve+p.Connect+p.Handshake+p.Answer != 0 {
		t.Errorf("steps that were not taken took %v %v %v %v", p.Resolve, p.Connect, p.Handshake, p.Answer)
	}
	return p
}

func TestProbe(t *testing.T) {
	ca := newAuthority()
	config := ca.server(t, "127.0.0.1", tomorrow())
	leaf, err := parseCertificates(pemText("CERTIFICATE", config.Certificates[0].Certificate[0]))
	if err != nil {
		t.Fatal(err)
	}
	date := time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Second)
	s := newServer(t, config, func(string) string { return dated("405 \x1b[2J", date) })
	p := Probe(t.Context(), "https://"+s.addr+"/a%2Fb/token?key=hunter2", Transport{CA: ca.pem, Proxy: "direct"})
	if p.Skew < 2*time.Hour || p.Skew > 2*time.Hour+10*time.Second {
		t.Errorf("the clock is off by %v", p.Skew)
	}
	p.Skew = 0
	want := &Probed{
		Host: s.addr, Secure: true, Connected: s.addr, TLS: "TLS 1.3",
		Names: []string{"127.0.0.1"}, Issuer: "CN=test CA", NotAfter: leaf[0].NotAfter,
		Status: 405, Date: date,
	}
	if diff := cmp.Diff(want, settled(t, p, &p.Connect, &p.Handshake, &p.Answer)); diff != "" {
		t.Error(diff)
	}
	if got, want := s.seen(), []string{wireOf("GET", "/a%2Fb/token", s.addr, "", testBoth)}; cmp.Diff(want, got) != "" {
		t.Error(cmp.Diff(want, got))
	}
}

func TestProbeByName(t *testing.T) {
	s := newServer(t, nil, func(string) string { return "HTTP/1.1 400 Bad Request\r\n\r\n" })
	_, port, _ := net.SplitHostPort(s.addr)
	p := Probe(t.Context(), "http://localhost:"+port, Transport{})
	settled(t, p, &p.Resolve, &p.Connect, &p.Answer)
	if !strings.Contains(strings.Join(p.Addresses, " "), "127.0.0.1") {
		t.Errorf("localhost is %q", p.Addresses)
	}
	p.Addresses = nil
	if diff := cmp.Diff(&Probed{Host: "localhost:" + port, Connected: s.addr, Status: 400}, p); diff != "" {
		t.Error(diff)
	}
}

func TestProbeFollowsNoRedirect(t *testing.T) {
	other := newServer(t, nil, func(string) string { return ok("{}") })
	s := newServer(t, nil, func(string) string {
		return "HTTP/1.1 302 Found\r\nLocation: http://" + other.addr + "/\r\n\r\n"
	})
	if p := Probe(t.Context(), "http://"+s.addr, Transport{}); p.Status != 302 || p.Err != nil {
		t.Errorf("%+v", p)
	}
	if other.connections() != 0 {
		t.Error("the redirect was followed")
	}
}

func TestProbeShowsNoCertificate(t *testing.T) {
	ca, clients := newAuthority(), newAuthority()
	cert, key := identity(t, clients)
	for policy, want := range map[tls.ClientAuthType]string{
		tls.VerifyClientCertIfGiven:    "",
		tls.RequireAndVerifyClientCert: "TLS handshake refused: certificate required",
	} {
		config := ca.server(t, "127.0.0.1", tomorrow())
		shown := demanding(config, policy, clients)
		s := newServer(t, config, func(string) string { return ok("{}") })
		p := Probe(t.Context(), "https://"+s.addr, Transport{CA: ca.pem, Proxy: "direct", Certificate: cert, CertificateKey: key})
		if p.TLS != "TLS 1.3" || cmp.Diff([]string{"127.0.0.1"}, p.Names) != "" {
			t.Errorf("%+v", p)
		}
		if !p.Withheld || len(*shown) != 0 {
			t.Errorf("withheld: %v, shown: %q", p.Withheld, *shown)
		}
		if got := causeOf(p); got != want {
			t.Errorf("%v: got %q, want %q", policy, got, want)
		}
	}
}

func causeOf(p *Probed) string {
	if p.Err == nil {
		return ""
	}
	return p.Err.Err.Error()
}

func TestProbeThroughAProxy(t *testing.T) {
	ca := newAuthority()
	s, c := secure(t, ca.server(t, "127.0.0.1", tomorrow()), ca.pem)
	through := newProxy(t, nil, "")
	c.Transport.Proxy = "http://user:proxypassword@" + through.addr
	p := Probe(t.Context(), c.TokenURL, c.Transport)
	if p.Err != nil || p.Status != 200 || p.Proxy != "http://"+through.addr || p.Connected != through.addr || p.TLS != "TLS 1.3" {
		t.Errorf("%+v", p)
	}
	if text := fmt.Sprintf("%+v", *p); strings.Contains(text, "proxypassword") {
		t.Error(text)
	}
	// The names of a certificate that is not trusted help to see why.
	c.Transport.CA = newAuthority().pem
	p = Probe(t.Context(), c.TokenURL, c.Transport)
	if p.Err == nil || p.Err.Proxy || cmp.Diff([]string{"127.0.0.1"}, p.Names) != "" {
		t.Errorf("%+v", p)
	}
	refusing := newProxy(t, nil, "HTTP/1.1 407 No\r\n\r\n")
	c.Transport.Proxy = "http://user:proxypassword@" + refusing.addr
	p = Probe(t.Context(), c.TokenURL, c.Transport)
	want := "looking at " + s.addr + ": the proxy " + refusing.addr + ": it wants a user name and password (HTTP 407)"
	if p.Err == nil || !p.Err.Proxy || p.Err.Error() != want {
		t.Errorf("got %v, want %s", p.Err, want)
	}
}

// A proxy's own certificate is not taken for the server's.
func TestProbeThroughAnHTTPSProxy(t *testing.T) {
	ca := newAuthority()
	noTLS := newServer(t, nil, func(string) string { return ok("{}") })
	for name, row := range map[string]struct {
		ca, answer string
		ofProxy    bool
	}{
		"not trusted": {newAuthority().pem, "", true},
		"refuses":     {ca.pem, "HTTP/1.1 502 No\r\n\r\n", true},
		"no TLS":      {ca.pem, "", false},
	} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", ca.server(t, "127.0.0.1", tomorrow()))
		if err != nil {
			t.Fatal(err)
		}
		through := newProxy(t, l, row.answer)
		p := Probe(t.Context(), "https://"+noTLS.addr, Transport{CA: row.ca, Proxy: "https://" + through.addr})
		if p.Err == nil || p.Err.Proxy != row.ofProxy || p.TLS != "" || p.Names != nil || p.Issuer != "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestProbeFailures(t *testing.T) {
	ca := newAuthority()
	closed := refusing(t)
	otherHost := newServer(t, ca.server(t, "as.example", tomorrow()), func(string) string { return ok("{}") })
	expired := newServer(t, ca.server(t, "127.0.0.1", time.Now().Add(-time.Hour)), func(string) string { return ok("{}") })
	odd := newServer(t, ca.server(t, "*.\x1b[2J.example", tomorrow()), func(string) string { return ok("{}") })
	large := newServer(t, nil, func(string) string {
		return "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n"
	})
	for target, want := range map[string]struct {
		cause string
		names []string
		kind  Kind
	}{
		"https://" + closed:            {"connection refused", nil, Temporary},
		"https://nowhere.invalid":      {"no such host", nil, Temporary},
		"https://" + otherHost.addr:    {"the certificate is for another host", []string{"as.example"}, Temporary},
		"https://" + expired.addr:      {"the certificate has expired or is not valid yet", []string{"127.0.0.1"}, Temporary},
		"https://" + odd.addr:          {"the certificate is for another host", []string{`*.\x1b[2J.example`}, Temporary},
		"http://" + large.addr:         {"the answer is not HTTP/1.1, or its header is larger than 32 KiB", nil, Malformed},
		"http://192.0.2.1":             {`is plain http to "192.0.2.1"; only loopback may be plain, all else must be https`, nil, Invalid},
		"https://u:hunter2@as.example": {"has a user name or password before the host; credentials do not belong in a URL", nil, Invalid},
	} {
		p := Probe(t.Context(), target, Transport{CA: ca.pem, Proxy: "direct"})
		if p.Err == nil || p.Err.Kind != want.kind || causeOf(p) != want.cause || cmp.Diff(want.names, p.Names) != "" || p.Status != 0 {
			t.Errorf("%s: %+v, want %+v", target, p, want)
		}
	}
	for _, bad := range []Transport{{CA: "x"}, {Proxy: "http://u:hunter2@p:x"}} {
		if p := Probe(t.Context(), "https://as.example", bad); p.Err == nil || p.Err.Kind != Invalid || strings.Contains(p.Err.Error(), "hunter2") {
			t.Errorf("%+v", p)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p := Probe(ctx, "http://"+closed, Transport{}); p.Err == nil || !errors.Is(p.Err, context.Canceled) {
		t.Errorf("%+v", p)
	}
}

func TestProbeEndsAfter10Seconds(t *testing.T) {
	for proxy, want := range map[string]string{
		"direct":            "no answer within 10 s",
		"http://p.example":  "the proxy p.example: no answer within 10 s",
		"https://p.example": "the proxy p.example: no answer within 10 s",
	} {
		synctest.Test(t, func(t *testing.T) {
			u, _ := url.Parse("https://as.example/token")
			r, err := Transport{Proxy: proxy}.open(u)
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := net.Pipe()
			r.http.DialContext = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
			var server sync.WaitGroup
			server.Go(func() { io.Copy(io.Discard, theirs) })
			defer server.Wait()
			defer theirs.Close()
			start := time.Now()
			p := new(probing).look(t.Context(), r, u)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("took %v", took)
			}
			if p.Err == nil || p.Err.Kind != Temporary || p.Err.Proxy != (proxy != "direct") || causeOf(p) != want {
				t.Errorf("got %#v", p.Err)
			}
		})
	}
}
