// Package authserver is a scripted OAuth 2.0 authorization server, and a
// resource that it protects, for tests. Left alone it is a correct server: it
// checks all that a request brings, signs the tokens it issues, and the
// resource verifies them. Scripted with [Answer], it misbehaves in every way
// that a client has to survive.
//
// It listens on loopback, keeps everything in memory, and is no model for a
// server that protects anything. Its one user is [Subject], who consents to
// every authorization request at once, and to a device when a test says so.
//
// Below the issuer it has:
//
//	/token                 client_credentials, authorization_code, refresh_token,
//	                       device_code, token-exchange and jwt-bearer
//	/authorize             RFC 6749 4.1 with PKCE (S256) and RFC 9207
//	/par                   RFC 9126
//	/device_authorization  RFC 8628; /device is its page, which does nothing
//	/introspect            RFC 7662
//	/revoke                RFC 7009
//	/register              RFC 7591, with Config.Registration
//	/v1/register           a client for name and password, with Config.Users
//	/jwks                  the keys of access and ID tokens
//	/resource              RFC 6750 and RFC 9449, with RFC 9728 metadata
//
// and metadata by RFC 8414 and OpenID Connect Discovery, in both well-known
// places. Other processes on the machine do what tests in Go do by methods at
// the server's URL, without the issuer's path:
//
//	POST   /_control                     {"client": ID, "then": [Answer...], "always": Answer,
//	                                     "approve": CODE, "deny": CODE, "rotate_nonce": true,
//	                                     "release": true}, of which each may be left out
//	GET    /_log                         Requests, without secrets
//	DELETE /_log                         Forget
//	GET    /_count                       {path: {client: count}}
//	GET    /_count?path=PATH[&client=ID] a number
//	GET    /_ledger[?client=ID]          Ledger, without tokens
//	GET    /_ledger?count=NAME[&client=ID]
//	                                     issued, spent, spent_twice or valid
//	POST   /_certificate?cn=NAME         {"certificate", "key"} of ClientCertificate
package authserver

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A Server is listening from when it is made until Close.
type Server struct {
	URL         string // scheme, host and port
	Issuer      string // URL and Config.Path
	TokenURL    string
	ResourceURL string // also the audience of tokens that were asked for without one
	MTLSURL     string // as URL, where client certificates are asked for; empty without MTLS
	CA          []byte // PEM; nil without TLS

	cfg       Config
	key       signingKey
	authority authority // of client certificates

	http      *http.Server
	closeOnce sync.Once
	closing   chan struct{}
	running   sync.WaitGroup // Serve and, since that returns first, its connections

	// mu guards the fields that follow.
	mu            sync.Mutex
	log           []*Request
	arrived       chan struct{}      // closed and replaced whenever log grows
	release       chan struct{}      // closed and replaced by Release
	scripts       map[string]*Script // by client
	any           Script
	clients       map[string]Client
	registrations map[string]registration // by client
	opaque        map[string]claims       // by token
	last          map[string]issued       // by client
	grants        map[string]*grant       // by the jti of an access token
	revoked       map[string]bool         // by the jti of an access token
	refreshTokens []*refreshToken         // oldest first
	codes         map[string]*code
	pushed        map[string]pushed // by request_uri
	devices       map[string]*device
	seen          map[string]bool // what may come once: jti values, by their kind
	nonce         string          // of the authorization server
	resourceNonce string
}

// Start returns a running server that is closed when the test ends.
func Start(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Listen returns a running server, for programs; tests use Start.
func Listen(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:           cfg,
		closing:       make(chan struct{}),
		arrived:       make(chan struct{}),
		release:       make(chan struct{}),
		scripts:       make(map[string]*Script),
		clients:       make(map[string]Client),
		registrations: make(map[string]registration),
		opaque:        make(map[string]claims),
		last:          make(map[string]issued),
		grants:        make(map[string]*grant),
		revoked:       make(map[string]bool),
		codes:         make(map[string]*code),
		pushed:        make(map[string]pushed),
		devices:       make(map[string]*device),
		seen:          make(map[string]bool),
		nonce:         rand.Text(),
		resourceNonce: rand.Text(),
	}
	s.any.server = s
	for _, c := range cfg.Clients {
		if err := c.check(); err != nil {
			return nil, err
		}
		if _, ok := s.clients[c.ID]; ok {
			return nil, fmt.Errorf("client %q is there twice", c.ID)
		}
		if (c.Auth == AuthTLS || c.Auth == AuthSelfSignedTLS) && !cfg.MTLS {
			return nil, fmt.Errorf("client %q: %s needs a server with mtls", c.ID, c.Auth)
		}
		s.clients[c.ID] = c
	}
	var err error
	if s.key, err = newSigningKey(cfg.Alg); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, err
	}
	listeners := []net.Listener{l}
	s.URL = "http://" + l.Addr().String()
	if cfg.TLS {
		listeners, err = s.listenTLS(l)
		if err != nil {
			l.Close()
			return nil, err
		}
	}
	s.Issuer = s.URL + cfg.Path
	s.TokenURL = s.Issuer + "/token"
	s.ResourceURL = s.Issuer + "/resource"

	s.http = &http.Server{
		Handler:  http.HandlerFunc(s.serve),
		ErrorLog: log.New(io.Discard, "", 0), // a client that gives up is what tests are about
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.running.Add(1)
			case http.StateClosed:
				s.running.Done()
			}
		},
	}
	for _, l := range listeners {
		s.running.Go(func() { s.http.Serve(l) })
	}
	return s, nil
}

// listenTLS wraps the listener, and adds the one that asks for certificates
// if there is to be one.
func (s *Server) listenTLS(l net.Listener) ([]net.Listener, error) {
	var cert tls.Certificate
	var err error
	if s.CA, cert, err = newCertificate(); err != nil {
		return nil, err
	}
	// HTTP/1.1 only: an HTTP/2 connection cannot be reset in the middle
	// of one answer.
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	s.URL = "https://" + l.Addr().String()
	listeners := []net.Listener{tls.NewListener(l, config)}
	if !s.cfg.MTLS {
		return listeners, nil
	}
	if s.authority, err = newAuthority("authserver test clients"); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	second, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	asking := config.Clone()
	asking.ClientAuth = tls.RequestClientCert // which one is good, the client's registration says
	s.MTLSURL = "https://" + second.Addr().String()
	return append(listeners, tls.NewListener(second, asking)), nil
}

// Close ends every connection, hanging ones too, and returns when nothing of
// the server runs any more. What it has logged can still be read.
func (s *Server) Close() {
	s.closeOnce.Do(func() { close(s.closing) })
	s.http.Close()
	s.running.Wait()
}

// Release lets every request go that has been counted so far and hangs.
// Requests that come later hang again.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release)
	s.release = make(chan struct{})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_") {
		s.serveControl(w, r)
		return
	}
	x := s.record(w, r)
	defer func() {
		if x.hijacked {
			s.running.Done() // net/http does not report the end of these
		}
	}()
	endpoint, truth := s.endpoint(r.URL.Path)
	if truth == nil {
		http.NotFound(x, r)
		return
	}
	s.answer(x, r, endpoint, truth)
}

// A truth is what an endpoint answers by itself. The script's answer is there
// for what it changes in what is issued.
type truth func(x *exchange, r *http.Request, a Answer) response

// endpoint returns what serves a path, with its name for Answer.Endpoint.
func (s *Server) endpoint(path string) (string, truth) {
	if slices.Contains(s.metadataPaths(), path) {
		return "metadata", s.metadata
	}
	if slices.Contains(s.resourceMetadataPaths(), path) {
		return "resource_metadata", s.resourceMetadata
	}
	path, ok := strings.CutPrefix(path, s.cfg.Path)
	if !ok {
		return "", nil
	}
	if strings.HasPrefix(path, "/register/") && s.cfg.Registration {
		return "register", s.registration
	}
	name := strings.TrimPrefix(path, "/")
	switch path {
	case "/token":
		return name, s.token
	case "/authorize":
		return name, s.authorize
	case "/par":
		return name, s.pushAuthorization
	case "/device_authorization":
		return name, s.authorizeDevice
	case "/device":
		return name, s.devicePage
	case "/introspect":
		return name, s.introspect
	case "/revoke":
		return name, s.revoke
	case "/jwks":
		return name, s.jwks
	case "/resource":
		return name, s.resource
	case "/register":
		if s.cfg.Registration {
			return name, s.register
		}
	case "/v1/register":
		if len(s.cfg.Users) > 0 {
			return name, s.signUp
		}
	}
	return "", nil
}
