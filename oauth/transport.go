package oauth

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
)

const maxHeader = 32 << 10

var errNotLoopback = errors.New("plain http is for loopback only, and the name leads to another machine")

// A Transport is the way to a server. It is comparable; the zero Transport
// trusts the system's roots and takes the proxy from the environment.
type Transport struct {
	// CA is PEM text with the only certificates trusted to sign a server's (and
	// an https proxy's), instead of the system's roots. Empty: the system's.
	CA string
	// Proxy is a proxy's URL (http, https, socks5), or "direct" for none.
	// Empty: HTTPS_PROXY and NO_PROXY of the process's environment.
	// Plain http to loopback never goes through a proxy.
	Proxy string
	// Certificate is PEM text with the client's certificate, its chain after it,
	// shown to servers that ask for one (RFC 8705); empty: none.
	Certificate string
	// CertificateKey is the PEM text of the certificate's private key.
	CertificateKey Secret
}

// MarshalText leaves out the password that a proxy's URL may hold.
func (t Transport) MarshalText() ([]byte, error) {
	proxy := t.Proxy
	if proxy != "" && proxy != "direct" {
		proxy = redacted
		if u, err := parseProxy(t.Proxy); err == nil {
			proxy = u.Scheme + "://" + u.Host
		}
	}
	return fmt.Appendf(nil, "{CA:%d bytes Proxy:%q}", len(t.CA), proxy), nil
}

// Format prints as MarshalText does, for every verb.
func (t Transport) Format(f fmt.State, _ rune) {
	text, _ := t.MarshalText()
	_, _ = f.Write(text)
}

// A route is one connection's way to one server, and how far it has come.
type route struct {
	http  *http.Transport
	host  string
	proxy *url.URL // nil: none

	throughProxy atomic.Bool // the proxy has let us through
	handshaking  atomic.Bool // TLS has begun with server or proxy
	connected    atomic.Bool // the request is being written
	tried        atomic.Bool // an address was connected to
}

// open prepares a route to target, which [CheckURL] has passed.
func (t Transport) open(target *url.URL) (*route, error) {
	r := &route{host: target.Host}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if t.CA != "" {
		var err error
		if config.RootCAs, err = parseCA(t.CA); err != nil {
			return nil, fmt.Errorf("reading the CA: %w", err)
		}
	}
	if t.Certificate != "" {
		pair, err := parseCertificate(t.Certificate, t.CertificateKey)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate: %w", err)
		}
		// Certificates would be shown only to servers that list its issuer, which
		// nobody has to for one that is self-signed (RFC 8705 section 2.2).
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if r.proxy != nil && !r.throughProxy.Load() {
				return &tls.Certificate{}, nil // an https proxy asks
			}
			return pair, nil
		}
	}
	var dialer net.Dialer
	if target.Scheme == "https" {
		var err error
		if r.proxy, err = t.proxyFor(target); err != nil {
			return nil, err
		}
	} else {
		// Names are checked where they have become an address: "localhost" is
		// what /etc/hosts or a name server says it is.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
				return errNotLoopback
			}
			return nil
		}
	}
	r.http = &http.Transport{
		DialContext:     dialer.DialContext,
		TLSClientConfig: config,
		// Empty, not nil: HTTP/2 would print requests under GODEBUG=http2debug=2.
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		Proxy:                  http.ProxyURL(r.proxy),
		ProxyConnectHeader:     http.Header{"User-Agent": {userAgent}},
		OnProxyConnectResponse: r.onConnect,
	}
	return r, nil
}

// trace lets the route see how far a request comes.
func (r *route) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeStart: func() {
			r.handshaking.Store(true)
			if r.proxy != nil && strings.HasPrefix(r.proxy.Scheme, "socks5") {
				r.throughProxy.Store(true)
			}
		},
		ConnectStart: func(string, string) { r.tried.Store(true) },
		GotConn:      func(httptrace.GotConnInfo) { r.connected.Store(true) },
	})
}

// errConnect is a proxy's refusal of CONNECT. Its status line is not repeated.
type errConnect int

func (e errConnect) Error() string {
	if e == http.StatusProxyAuthRequired {
		return "it wants a user name and password (HTTP 407)"
	}
	return fmt.Sprintf("it answered CONNECT with HTTP %d", int(e))
}

func (r *route) onConnect(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return errConnect(res.StatusCode)
	}
	r.handshaking.Store(false) // the one before was with an https proxy
	r.throughProxy.Store(true)
	return nil
}

func parseCA(text string) (*x509.CertPool, error) {
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

// parseCertificates reads one certificate or more.
func parseCertificates(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(certs) == 0 {
				return nil, errors.New("no PEM certificate in it")
			}
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("PEM other than a certificate in it")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read", len(certs)+1)
		}
		certs = append(certs, cert)
	}
}

// CheckCertificate says what is wrong with a client's certificate, PEM text with
// its chain after it, and the private key to it ([Transport.Certificate]). Which
// times and names it is for is the server's to judge. The error repeats nothing
// of either text.
func CheckCertificate(cert string, key Secret) error {
	_, err := parseCertificate(cert, key)
	return err
}

func parseCertificate(cert string, key Secret) (*tls.Certificate, error) {
	chain, err := parseCertificates(cert)
	if err != nil {
		return nil, err
	}
	private, err := parsePEM(key.Reveal())
	if err != nil {
		return nil, fmt.Errorf("its key: %w", err)
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(private.Public()) {
		return nil, errors.New("the private key is not that of the first certificate")
	}
	pair := &tls.Certificate{PrivateKey: private, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair, nil
}

func (t Transport) proxyFor(target *url.URL) (*url.URL, error) {
	raw := t.Proxy
	switch raw {
	case "direct":
		return nil, nil
	case "":
		u, err := http.ProxyFromEnvironment(&http.Request{URL: target})
		if err != nil {
			return nil, errors.New("the proxy in the environment is not a URL")
		}
		if u == nil {
			return nil, nil
		}
		raw = u.String()
	}
	return parseProxy(raw)
}

func parseProxy(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the proxy is not a URL")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return nil, errors.New(`the proxy is neither an http, https or socks5 URL nor "direct"`)
	}
	if err := checkHost(u); err != nil {
		return nil, fmt.Errorf("the proxy %w", err)
	}
	return u, nil
}

// failure puts an error of net/http into plain words. Such errors quote what
// the other side sent and the URL, so none of their text is kept.
func (r *route) failure(ctx context.Context, op string, err error) *Error {
	e := &Error{Op: op, Kind: Temporary, Sent: r.connected.Load(), Reached: r.tried.Load(), Err: r.cause(ctx, err)}
	if errors.Is(e.Err, syscall.ENETUNREACH) || errors.Is(e.Err, syscall.EHOSTUNREACH) || errors.Is(e.Err, syscall.ENETDOWN) {
		e.Reached = false
	}
	switch {
	case errors.Is(err, errNotLoopback):
		e.Kind = Invalid
	case e.Err == errNotHTTP && e.Sent:
		e.Kind = Malformed
	case r.proxy != nil && !e.Sent && !r.throughProxy.Load() && (ctx.Err() == nil || e.Err == errTooSlow):
		e.Proxy = true
		e.Err = fmt.Errorf("the proxy %s: %w", r.proxy.Host, e.Err)
	}
	return e
}

var errNotHTTP = errors.New("the answer is not HTTP/1.1, or its header is larger than 32 KiB")

func (r *route) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); cause == errTooSlow {
			return cause
		}
		return ctx.Err()
	}
	var (
		dns       *net.DNSError
		operation *net.OpError
		errno     syscall.Errno
		connect   errConnect
		unknown   x509.UnknownAuthorityError
		roots     x509.SystemRootsError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &connect):
		return connect
	case errors.Is(err, errNotLoopback):
		return errNotLoopback
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return errors.New("no such host")
		}
		return errors.New("the host's name could not be resolved")
	case errors.As(err, &unknown):
		return errors.New("the certificate is signed by an authority that is not trusted")
	case errors.As(err, &roots):
		return errors.New("the system's root certificates cannot be read")
	case errors.As(err, &host):
		return errors.New("the certificate is for another host")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return errors.New("the certificate has expired or is not valid yet")
	case errors.As(err, &verify):
		return errors.New("the certificate is not valid for a server")
	case errors.As(err, &record):
		return errors.New("TLS handshake failed: what listens there does not speak TLS")
	case errors.As(err, &operation) && operation.Op == "remote error":
		// The text is of crypto/tls' table of alerts.
		return errors.New("TLS handshake refused: " + strings.TrimPrefix(operation.Err.Error(), "tls: "))
	case errors.As(err, &errno):
		if r.handshaking.Load() && !r.connected.Load() {
			return fmt.Errorf("during the TLS handshake: %w", errno)
		}
		return errno
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if r.handshaking.Load() && !r.connected.Load() {
			return errors.New("connection closed during the TLS handshake")
		}
		return errors.New("connection closed before the answer was complete")
	case r.handshaking.Load() && !r.connected.Load():
		if strings.HasPrefix(err.Error(), "tls: server selected unsupported protocol version") {
			return errors.New("TLS handshake failed: the server has no TLS 1.2 or later")
		}
		return errors.New("TLS handshake failed")
	case operation != nil || !r.connected.Load():
		return errors.New("connection failed")
	default:
		return errNotHTTP
	}
}
