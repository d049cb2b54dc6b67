package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"time"
)

// probeTime bounds a [Probe].
const probeTime = 10 * time.Second

var errNoProbe = errors.New("no answer within 10 s")

// Probed is what a look at the way to a server has found, as far as it came.
// Nothing in it is secret, and all text in it is printable.
type Probed struct {
	Host   string // of the URL, with its port if that has one
	Secure bool   // the URL is https
	Proxy  string // scheme and host; "" if none is on the way

	// Addresses are those of the server's name, or of the proxy's where there is
	// one; nil where that is an address itself.
	Addresses []string
	Connected string // the address that was reached; "" if none was

	TLS      string    // version, such as "TLS 1.3"; "" without TLS
	Names    []string  // of the server's certificate, also of one that is not trusted
	Issuer   string    // of the certificate
	NotAfter time.Time // when the certificate ends; zero: none was seen

	// Withheld: the Transport has a client certificate, which was not shown. A
	// server that insists on one (RFC 8705) ends the handshake then.
	Withheld bool

	Status int // of the answer to a GET; 0: none came
	// RetryAfter is for how long the server wants to be left alone; 0: it does not say.
	RetryAfter time.Duration
	Date       time.Time     // the server's Date; zero: it sent none
	Skew       time.Duration // of this machine's clock, positive if it is ahead of Date; in whole seconds

	// How long each step took; 0: it was not taken. Answer counts from the sending.
	Resolve, Connect, Handshake, Answer time.Duration

	Err *Error // why it came no further; nil if an answer came
}

// Probe looks at the way to the server of rawURL: names, connection, TLS, and the
// answer to a GET of the URL without its query. It sends no credential, not even
// t's client certificate, but for what the proxy's URL has, to the proxy. It
// follows no redirect and takes 10 s at most.
func Probe(ctx context.Context, rawURL string, t Transport) *Probed {
	u, err := CheckURL(rawURL)
	if err != nil {
		return &Probed{Err: &Error{Op: "checking the URL", Kind: Invalid, Err: err}}
	}
	bare := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	p := &probing{found: Probed{Host: u.Host, Secure: u.Scheme == "https", Withheld: t.Certificate != ""}}
	t.Certificate, t.CertificateKey = "", Secret{}
	r, err := t.open(bare)
	if err != nil {
		p.found.Err = &Error{Op: looking(u), Kind: Invalid, Err: err}
		return &p.found
	}
	if r.proxy != nil {
		p.found.Proxy = r.proxy.Scheme + "://" + r.proxy.Host
	}
	return p.look(ctx, r, bare)
}

func looking(at *url.URL) string { return "looking at " + at.Host }

// look asks for u by r.
func (p *probing) look(ctx context.Context, r *route, u *url.URL) *Probed {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, errNoProbe)
	defer cancel()
	req := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"identity"}, "User-Agent": {userAgent},
	}}
	res, err := r.http.RoundTrip(req.WithContext(r.trace(p.trace(ctx))))
	found, shook := p.end()
	atProxy := r.proxy != nil && !r.throughProxy.Load()
	if shook.Version != 0 && !atProxy {
		found.TLS = tls.VersionName(shook.Version)
		found.see(shook.PeerCertificates[0])
	}
	if err != nil {
		found.Err = r.failure(ctx, looking(u), err)
		if context.Cause(ctx) == errNoProbe {
			if found.Err.Err = errNoProbe; atProxy {
				found.Err.Proxy, found.Err.Err = true, fmt.Errorf("the proxy %s: %w", r.proxy.Host, errNoProbe)
			}
		}
		var verify *tls.CertificateVerificationError
		if errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0 && !atProxy {
			found.see(verify.UnverifiedCertificates[0])
		}
		return found
	}
	defer res.Body.Close()
	found.Status, found.Date, found.RetryAfter = res.StatusCode, answerDate(res.Header), retryAfter(res.Header)
	if !found.Date.IsZero() {
		// Date has whole seconds, and is as old as the answer's way was long.
		found.Skew = time.Now().Round(0).Sub(found.Date).Truncate(time.Second)
	}
	return found
}

// see notes what a certificate says. All of it is somebody else's text.
func (p *Probed) see(cert *x509.Certificate) {
	nothing := newEcho()
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = []string{cert.Subject.CommonName}
	}
	for _, name := range names {
		p.Names = append(p.Names, nothing.clean(name))
	}
	p.Issuer, p.NotAfter = nothing.clean(cert.Issuer.String()), cert.NotAfter
}

// A probing watches one request.
type probing struct {
	// mu guards the fields that follow: dialling goes on after a request that was
	// given up.
	mu    sync.Mutex
	found Probed
	shook tls.ConnectionState // the last handshake; zero: it failed

	resolving, connecting, handshaking, sent time.Time
}

// end gives what was found.
func (p *probing) end() (*Probed, tls.ConnectionState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.found
	return &found, p.shook
}

func (p *probing) trace(ctx context.Context) context.Context {
	locked := func(see func()) {
		p.mu.Lock()
		defer p.mu.Unlock()
		see()
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { locked(func() { p.resolving = time.Now() }) },
		DNSDone: func(info httptrace.DNSDoneInfo) {
			locked(func() {
				p.found.Resolve = time.Since(p.resolving)
				for _, a := range info.Addrs {
					p.found.Addresses = append(p.found.Addresses, a.String())
				}
			})
		},
		ConnectStart: func(_, _ string) {
			locked(func() {
				if p.connecting.IsZero() {
					p.connecting = time.Now()
				}
			})
		},
		ConnectDone: func(_, address string, err error) {
			locked(func() {
				if err == nil && p.found.Connected == "" {
					p.found.Connected, p.found.Connect = address, time.Since(p.connecting)
				}
			})
		},
		// With an https proxy there are two handshakes; the second is the server's.
		TLSHandshakeStart: func() {
			locked(func() { p.handshaking, p.shook = time.Now(), tls.ConnectionState{} })
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			locked(func() {
				if err == nil {
					p.found.Handshake, p.shook = time.Since(p.handshaking), state
				}
			})
		},
		WroteRequest:         func(httptrace.WroteRequestInfo) { locked(func() { p.sent = time.Now() }) },
		GotFirstResponseByte: func() { locked(func() { p.found.Answer = time.Since(p.sent) }) },
	})
}
