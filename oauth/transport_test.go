package oauth

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func tomorrow() time.Time { return time.Now().Add(24 * time.Hour) }

// An https server with the given certificate, and the client to ask it with.
func secure(t *testing.T, config *tls.Config, ca string) (*server, *Client) {
	s := newServer(t, config, func(string) string { return ok(goodAnswer) })
	return s, &Client{ID: "app", Secret: NewSecret("hunter2-correct-horse"), TokenURL: "https://" + s.addr + "/token", Transport: Transport{CA: ca, Proxy: "direct"}}
}

func TestHTTPSWithItsOwnCA(t *testing.T) {
	ca := newAuthority()
	config := ca.server(t, "127.0.0.1", tomorrow())
	var protocol string
	var version uint16
	config.VerifyConnection = func(s tls.ConnectionState) error {
		protocol, version = s.NegotiatedProtocol, s.Version
		return nil
	}
	s, c := secure(t, config, "a comment\n"+newAuthority().pem+ca.pem)
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if protocol != "http/1.1" || version != tls.VersionTLS13 {
		t.Errorf("negotiated %q over %x", protocol, version)
	}
	if got, want := s.seen()[0], wire(s.addr, "app:hunter2-correct-horse", "grant_type=client_credentials"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := c.Token(t.Context(), request); err != nil || version != tls.VersionTLS12 {
		t.Errorf("TLS 1.2: %v, %x", err, version)
	}
}

func TestTLSFailures(t *testing.T) {
	ca := newAuthority()
	old := ca.server(t, "127.0.0.1", tomorrow())
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	mutual := ca.server(t, "127.0.0.1", tomorrow())
	mutual.ClientAuth, mutual.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
	for name, row := range map[string]struct {
		config *tls.Config
		ca     string
		want   string
	}{
		"wrong CA":         {ca.server(t, "127.0.0.1", tomorrow()), newAuthority().pem, "the certificate is signed by an authority that is not trusted"},
		"system roots":     {ca.server(t, "127.0.0.1", tomorrow()), "", "the certificate is signed by an authority that is not trusted"},
		"system replaced":  {systemCA.server(t, "127.0.0.1", tomorrow()), ca.pem, "the certificate is signed by an authority that is not trusted"},
		"expired":          {ca.server(t, "127.0.0.1", time.Now().Add(-time.Hour)), ca.pem, "the certificate has expired or is not valid yet"},
		"wrong IP":         {ca.server(t, "127.0.0.2", tomorrow()), ca.pem, "the certificate is for another host"},
		"wrong name":       {ca.server(t, "as.example", tomorrow()), ca.pem, "the certificate is for another host"},
		"TLS 1.1":          {old, ca.pem, "TLS handshake refused: protocol version not supported"},
		"wants our own":    {mutual, ca.pem, "TLS handshake refused: handshake failure"},
		"no certificate":   {&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}, ca.pem, "TLS handshake refused: internal error"},
		"not for a server": {ca.certified(t, "127.0.0.1", tomorrow(), x509.ExtKeyUsageClientAuth), ca.pem, "the certificate is not valid for a server"},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := secure(t, row.config, row.ca)
			_, err := c.Token(t.Context(), request)
			want := "asking " + s.addr + " for a token: " + row.want
			var e *Error
			if !errors.As(err, &e) || err.Error() != want || e.Kind != Temporary || e.Sent || e.Proxy || e.Status != 0 {
				t.Errorf("got %#v %v, want %s", e, err, want)
			}
			if n := len(s.seen()); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

// A server that answers a TLS hello with these bytes.
func afterHello(t *testing.T, answer string) (*server, *Client) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, func(conn net.Conn) {
		conn.Read(make([]byte, 4096))
		io.WriteString(conn, answer)
		io.Copy(io.Discard, conn)
	})
	return &server{addr: l.Addr().String()}, &Client{ID: "app", TokenURL: "https://" + l.Addr().String() + "/token"}
}

// serverHello is one (RFC 5246 section 7.4.1.3) without extensions.
func serverHello(version, cipher string) string {
	hello := version + strings.Repeat("r", 32) + "\x00" + cipher + "\x00"
	return "\x16" + version + "\x00\x2a" + "\x02\x00\x00\x26" + hello
}

func TestAnswersToAHelloThatAreNone(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n\r\n":  "TLS handshake failed: what listens there does not speak TLS",
		serverHello("\x03\x02", "\xc0\x13"): "TLS handshake failed: the server has no TLS 1.2 or later",
		serverHello("\x03\x03", "\x00\x00"): "TLS handshake failed",
		"\x15\x03\x03\x00\x02\x02\x28":      "TLS handshake refused: handshake failure",
		"\x15\x03\x03\x00\x02\x02\xfe":      "TLS handshake refused: alert(254)",
	} {
		s, c := afterHello(t, answer)
		_, err := c.Token(t.Context(), request)
		var e *Error
		if !errors.As(err, &e) || err.Error() != "asking "+s.addr+" for a token: "+want || e.Kind != Temporary || e.Sent {
			t.Errorf("%q: got %v, want %s", answer, err, want)
		}
	}
}

// refusing returns an address that is bound, and not listened to: nobody else gets
// it during the test.
func refusing(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", bound.(*syscall.SockaddrInet4).Port)
}

func TestNetworkFailures(t *testing.T) {
	closed := refusing(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hangsUp := l.Addr().String()
	serve(t, l, func(conn net.Conn) { conn.Read(make([]byte, 1)); conn.(*net.TCPConn).SetLinger(0) })
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closes := l.Addr().String()
	serve(t, l, func(conn net.Conn) {
		io.CopyN(io.Discard, conn, 5)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	})
	for target, want := range map[string]string{
		"http://" + closed:        "connection refused",
		"https://" + closed:       "connection refused",
		"https://" + hangsUp:      "during the TLS handshake: connection reset by peer",
		"https://" + closes:       "connection closed during the TLS handshake",
		"https://nowhere.invalid": "no such host",
	} {
		c := &Client{ID: "app", TokenURL: target + "/token?hunter2", Transport: Transport{Proxy: "direct"}}
		_, err := c.Token(t.Context(), request)
		u, _ := url.Parse(target)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Temporary || e.Sent || e.Proxy || err.Error() != "asking "+u.Host+" for a token: "+want {
			t.Errorf("%s: got %#v %v, want %s", target, e, err, want)
		}
	}
}

// CheckURL knows localhost by name only; where the name leads is seen when dialling.
func TestPlainHTTPIsDialledToLoopbackOnly(t *testing.T) {
	u, err := CheckURL("http://localhost/token")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Transport{Proxy: "http://127.0.0.1:1"}.open(u)
	if err != nil {
		t.Fatal(err)
	}
	if r.proxy != nil {
		t.Error("plain http goes through a proxy")
	}
	dial := r.http.DialContext
	for _, address := range []string{"192.0.2.1:80", "[2001:db8::1]:80", "0.0.0.0:80", "[::]:80", "[::ffff:192.0.2.1]:80"} {
		r.http.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) { return dial(ctx, network, address) }
		_, e := exchange(t.Context(), r, "op", u, make(http.Header), "a=b", newEcho())
		if e == nil || e.Err != errNotLoopback || e.Kind != Invalid || e.Sent {
			t.Errorf("%s: got %#v", address, e)
		}
	}
}

// A proxy speaks CONNECT for real, and keeps what it was sent and where to.
type proxy struct {
	addr    string
	answer  string // in place of a tunnel
	mu      sync.Mutex
	seen    []string
	targets map[string]string // name asked for: address dialled
}

func (p *proxy) handle(conn net.Conn) {
	br := bufio.NewReader(conn)
	var head strings.Builder
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(br, &head)))
	if err != nil {
		return
	}
	p.mu.Lock()
	p.seen = append(p.seen, head.String())
	p.mu.Unlock()
	if p.answer != "" {
		io.WriteString(conn, p.answer)
		return
	}
	target := req.Host
	if to, ok := p.targets[target]; ok {
		target = to
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	tunnel(conn, server)
}

func tunnel(a, b net.Conn) {
	defer b.Close()
	done := make(chan struct{})
	go func() {
		io.Copy(b, a)
		b.Close()
		close(done)
	}()
	io.Copy(a, b)
	a.Close()
	<-done
}

func newProxy(t *testing.T, l net.Listener, answer string) *proxy {
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	p := &proxy{addr: l.Addr().String(), answer: answer, targets: make(map[string]string)}
	serve(t, l, p.handle)
	return p
}

func (p *proxy) heads() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func connect(target string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nUser-Agent: tokend\r\n" +
		"Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:proxypassword")) + "\r\n\r\n"
}

func TestThroughAProxy(t *testing.T) {
	ca := newAuthority()
	s, c := secure(t, ca.server(t, "127.0.0.1", tomorrow()), ca.pem)
	p := newProxy(t, nil, "")
	c.Transport.Proxy = "http://user:proxypassword@" + p.addr
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(p.heads(), ""), connect(s.addr); got != want {
		t.Errorf("the proxy saw %q, want %q", got, want)
	}
	if got, want := s.seen()[0], wire(s.addr, "app:hunter2-correct-horse", "grant_type=client_credentials"); got != want {
		t.Errorf("the server saw %q, want %q", got, want)
	}
	// TLS trouble behind the tunnel is the server's.
	c.Transport.CA = newAuthority().pem
	_, err := c.Token(t.Context(), request)
	var e *Error
	if !errors.As(err, &e) || e.Proxy || e.Err.Error() != "the certificate is signed by an authority that is not trusted" {
		t.Errorf("got %v", err)
	}
}

func TestThroughAnHTTPSProxy(t *testing.T) {
	ca := newAuthority()
	s, c := secure(t, ca.server(t, "127.0.0.1", tomorrow()), ca.pem)
	l, err := tls.Listen("tcp", "127.0.0.1:0", ca.server(t, "127.0.0.1", tomorrow()))
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, l, "")
	c.Transport.Proxy = "https://" + p.addr
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if len(p.heads()) != 1 || len(s.seen()) != 1 {
		t.Errorf("the proxy saw %q, the server %q", p.heads(), s.seen())
	}
	c.Transport.CA = newAuthority().pem
	_, err = c.Token(t.Context(), request)
	var e *Error
	if !errors.As(err, &e) || !e.Proxy || e.Err.Error() != "the proxy "+p.addr+": the certificate is signed by an authority that is not trusted" {
		t.Errorf("got %v", err)
	}
}

func TestProxyOfTheEnvironment(t *testing.T) {
	// A second listener on the same socket, for the test to close.
	file, err := environmentProxy.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, l, "")
	s := newServer(t, systemCA.server(t, "as.example", tomorrow()), func(string) string { return ok(goodAnswer) })
	p.targets["as.example:443"] = s.addr
	c := &Client{ID: "app", TokenURL: "https://as.example/token", Transport: Transport{CA: systemCA.pem}}
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(p.heads(), ""), connect("as.example:443"); got != want {
		t.Errorf("the proxy saw %q, want %q", got, want)
	}
	if got, want := s.seen()[0], wire("as.example", "", "grant_type=client_credentials&client_id=app"); got != want {
		t.Errorf("the server saw %q, want %q", got, want)
	}
}

// SOCKS5 (RFC 1928), as much of it as one connection without authentication takes.
func TestThroughASOCKSProxy(t *testing.T) {
	ca := newAuthority()
	s, c := secure(t, ca.server(t, "127.0.0.1", tomorrow()), ca.pem)
	for _, reply := range []byte{0, 5} { // succeeded, connection refused
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, func(conn net.Conn) {
			io.ReadFull(conn, make([]byte, 3))
			conn.Write([]byte{5, 0})
			io.ReadFull(conn, make([]byte, 10))
			conn.Write([]byte{5, reply, 0, 1, 127, 0, 0, 1, 0, 1})
			server, err := net.Dial("tcp", s.addr)
			if err != nil || reply != 0 {
				return
			}
			tunnel(conn, server)
		})
		c.Transport.Proxy = "socks5://" + l.Addr().String()
		_, err = c.Token(t.Context(), request)
		if reply == 0 {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !e.Proxy || e.Sent || e.Err.Error() != "the proxy "+l.Addr().String()+": connection failed" {
			t.Errorf("got %v", err)
		}
	}
	if len(s.seen()) != 1 {
		t.Errorf("the server saw %q", s.seen())
	}
}

func TestProxyFailures(t *testing.T) {
	s, c := secure(t, newAuthority().server(t, "127.0.0.1", tomorrow()), "")
	closed := refusing(t)
	answering := func(answer string) string { return newProxy(t, nil, answer).addr }
	for addr, want := range map[string]string{
		answering("HTTP/1.1 407 \x1b[2J proxypassword\r\nProxy-Authenticate: Basic\r\n\r\n"): "it wants a user name and password (HTTP 407)",
		answering("HTTP/1.1 502 proxypassword\r\n\r\n"):                                      "it answered CONNECT with HTTP 502",
		answering("HTTP/1.1 302 Found\r\nLocation: http://" + s.addr + "\r\n\r\n"):           "it answered CONNECT with HTTP 302",
		answering("proxypassword\r\n\r\n"):                                                   "connection failed",
		answering("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n"):       "connection closed before the answer was complete",
		closed:               "connection refused",
		"proxy.invalid:3128": "no such host",
	} {
		c.Transport.Proxy = "http://user:proxypassword@" + addr
		_, err := c.Token(t.Context(), request)
		want = "asking " + s.addr + " for a token: the proxy " + addr + ": " + want
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || !e.Proxy || e.Kind != Temporary || e.Sent || e.Status != 0 {
			t.Errorf("got %#v %v, want %s", e, err, want)
		}
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			if text := fmt.Sprintf("%v %+v %#v", cause, cause, cause); strings.Contains(text, "proxypassword") {
				t.Errorf("printed %s", text)
			}
		}
	}
	if s.connections() != 0 {
		t.Error("the server was reached")
	}
}

func TestProxyThatIsNoURL(t *testing.T) {
	for raw, want := range map[string]string{
		"p:3128":                      "the proxy is neither an http, https or socks5 URL nor \"direct\"",
		"none":                        "the proxy is neither an http, https or socks5 URL nor \"direct\"",
		"ftp://p":                     "the proxy is neither an http, https or socks5 URL nor \"direct\"",
		"http://":                     "the proxy has no host",
		"http://u:hunter2@p:99999":    "the proxy has a port that is not between 1 and 65535",
		"http://u:hunter2@p:x":        "the proxy is not a URL",
		"u:hunter2@p:3128":            "the proxy is neither an http, https or socks5 URL nor \"direct\"",
		"http://u:hun ter2@p\x1b:312": "the proxy is not a URL",
	} {
		c := &Client{ID: "app", TokenURL: "https://as.example/token", Transport: Transport{Proxy: raw}}
		_, err := c.Token(t.Context(), request)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Invalid || e.Err.Error() != want {
			t.Errorf("%q: got %v, want %s", raw, err, want)
		}
	}
}

// identity makes a client's certificate and key, signed by a or, where a is
// nil, by itself.
func identity(t *testing.T, a *authority) (cert string, key Secret) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: tomorrow(),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, private
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return pemText("CERTIFICATE", der), NewSecret(pkcs8(private))
}

// demanding lets a server want a certificate of the client, and tells whose it got.
func demanding(config *tls.Config, policy tls.ClientAuthType, issuer *authority) (shown *[]string) {
	config.ClientAuth, config.ClientCAs = policy, x509.NewCertPool()
	config.ClientCAs.AddCert(issuer.cert)
	shown = new([]string)
	config.VerifyConnection = func(s tls.ConnectionState) error {
		for _, c := range s.PeerCertificates {
			*shown = append(*shown, pemText("CERTIFICATE", c.Raw))
		}
		return nil
	}
	return shown
}

func TestClientCertificateIsShown(t *testing.T) {
	ca, clients := newAuthority(), newAuthority()
	signed, signedKey := identity(t, clients)
	own, ownKey := identity(t, nil)
	for name, row := range map[string]struct {
		auth   AuthMethod
		cert   string
		key    Secret
		policy tls.ClientAuthType
		shown  []string
	}{
		"signed":      {TLSClientAuth, signed, signedKey, tls.RequireAndVerifyClientCert, []string{signed}},
		"chosen":      {"", signed, signedKey, tls.RequireAndVerifyClientCert, []string{signed}},
		"with chain":  {TLSClientAuth, signed + clients.pem, signedKey, tls.RequireAndVerifyClientCert, []string{signed, clients.pem}},
		"self-signed": {SelfSignedTLSClientAuth, own, ownKey, tls.RequireAnyClientCert, []string{own}},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			config := ca.server(t, "127.0.0.1", tomorrow())
			config.MaxVersion = version
			shown := demanding(config, row.policy, clients)
			s, c := secure(t, config, ca.pem)
			c.Secret, c.Auth = Secret{}, row.auth
			c.Transport.Certificate, c.Transport.CertificateKey = row.cert, row.key
			if _, err := c.Token(t.Context(), request); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if diff := cmp.Diff(row.shown, *shown); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			if got, want := s.seen()[0], wire(s.addr, "", "grant_type=client_credentials&client_id=app"); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
	}
}

func TestClientCertificateThatIsRefused(t *testing.T) {
	ca := newAuthority()
	cert, key := identity(t, newAuthority())
	for _, row := range []struct {
		cert string
		key  Secret
		want string
	}{
		{"", Secret{}, "TLS handshake refused: certificate required"},
		{cert, key, "TLS handshake refused: unknown certificate authority"},
	} {
		config := ca.server(t, "127.0.0.1", tomorrow())
		demanding(config, tls.RequireAndVerifyClientCert, newAuthority())
		s, c := secure(t, config, ca.pem)
		c.Transport.Certificate, c.Transport.CertificateKey = row.cert, row.key
		_, err := c.Token(t.Context(), request)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Temporary || e.Status != 0 || e.Err.Error() != row.want {
			t.Errorf("got %v, want %s", err, row.want)
		}
		if len(s.seen()) != 0 {
			t.Errorf("the server saw %q", s.seen())
		}
	}
}

// A proxy that asks for a certificate is told no name: it is for the server.
func TestClientCertificateIsNotShownToAProxy(t *testing.T) {
	ca, clients := newAuthority(), newAuthority()
	cert, key := identity(t, clients)
	config := ca.server(t, "127.0.0.1", tomorrow())
	shown := demanding(config, tls.RequireAndVerifyClientCert, clients)
	_, c := secure(t, config, ca.pem)
	ofProxy := ca.server(t, "127.0.0.1", tomorrow())
	shownToProxy := demanding(ofProxy, tls.RequestClientCert, clients)
	l, err := tls.Listen("tcp", "127.0.0.1:0", ofProxy)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, l, "")
	c.Transport.Proxy = "https://" + p.addr
	c.Transport.Certificate, c.Transport.CertificateKey = cert, key
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if len(p.heads()) != 1 || len(*shownToProxy) != 0 || cmp.Diff([]string{cert}, *shown) != "" {
		t.Errorf("%d requests to the proxy, %q shown to it, %q to the server", len(p.heads()), *shownToProxy, *shown)
	}
}

func TestCheckCertificate(t *testing.T) {
	cert, key := identity(t, nil)
	_, otherKey := identity(t, nil)
	for _, row := range []struct {
		cert string
		key  Secret
		want string
	}{
		{cert, key, "<nil>"},
		{"Subject: CN=app\n" + cert + systemCA.pem, key, "<nil>"},
		{"", key, "no PEM certificate in it"},
		{key.Reveal(), key, "PEM other than a certificate in it"},
		{cert + pemText("CERTIFICATE", []byte("hunter2")), key, "certificate 2 cannot be read"},
		{cert, otherKey, "the private key is not that of the first certificate"},
		{systemCA.pem + cert, key, "the private key is not that of the first certificate"},
		{cert, NewSecret(pkcs1(testKeys()["RSA"])), "the private key is not that of the first certificate"},
		{cert, Secret{}, "its key: there is no PEM text"},
		{cert, NewSecret("hunter2"), "its key: there is no PEM text"},
		{cert, NewSecret(cert), "its key: this is a certificate; give the private key that belongs to it"},
		{cert, NewSecret(pemText("ENCRYPTED PRIVATE KEY", []byte("sealed"))), "its key: the key is encrypted; " + openssl},
	} {
		if err := CheckCertificate(row.cert, row.key); fmt.Sprint(err) != row.want {
			t.Errorf("got %v, want %s", err, row.want)
		}
	}
}
