// Package authserver is a scripted OAuth 2.0 authorization server, and a
// resource that it protects, for tests. Left alone it is a correct server: it
// checks client authentication, signs the tokens it issues, and the resource
// verifies them. Scripted with [Answer], it misbehaves in every way that a
// client has to survive.
//
// It listens on loopback, keeps everything in memory, and is no model for a
// server that protects anything.
package authserver

import (
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
	"time"
)

// Config says what a server is like. The zero value is a server without
// clients, on a free port.
type Config struct {
	// Addr is the address to listen on, "127.0.0.1:0" if empty.
	Addr string
	// Path is appended to the issuer, as "/tenant" for example.
	Path string
	// TLS makes the server speak https, with a certificate signed by a CA
	// made for it (Server.CA).
	TLS bool
	// Alg is what JWT access tokens are signed with: "EdDSA", also if empty,
	// or "RS256".
	Alg string
	// Lifetime is that of access tokens, in whole seconds; an hour if zero.
	Lifetime time.Duration
	Clients  []Client
}

// A Server is listening from when it is made until Close.
type Server struct {
	URL         string // scheme, host and port
	Issuer      string // URL and Config.Path
	TokenURL    string
	ResourceURL string // also the audience of tokens that were asked for without one
	CA          []byte // PEM; nil without TLS

	path     string
	lifetime time.Duration
	clients  map[string]Client
	key      signingKey

	http      *http.Server
	closeOnce sync.Once
	closing   chan struct{}
	running   sync.WaitGroup // Serve and, since that returns first, its connections

	// mu guards the fields that follow.
	mu      sync.Mutex
	log     []*Request
	arrived chan struct{}      // closed and replaced whenever log grows
	release chan struct{}      // closed and replaced by Release
	scripts map[string]*Script // by client
	any     Script
	opaque  map[string]claims // by token
	last    map[string]issued // by client
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
	if cfg.Path != "" && (!strings.HasPrefix(cfg.Path, "/") || strings.HasSuffix(cfg.Path, "/")) {
		return nil, fmt.Errorf("issuer path %q: want a leading slash and none at the end", cfg.Path)
	}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = time.Hour
	}
	if cfg.Lifetime < time.Second || cfg.Lifetime%time.Second != 0 {
		return nil, fmt.Errorf("lifetime %v: want whole seconds", cfg.Lifetime)
	}
	s := &Server{
		path:     cfg.Path,
		lifetime: cfg.Lifetime,
		clients:  make(map[string]Client),
		closing:  make(chan struct{}),
		arrived:  make(chan struct{}),
		release:  make(chan struct{}),
		scripts:  make(map[string]*Script),
		opaque:   make(map[string]claims),
		last:     make(map[string]issued),
	}
	s.any.server = s
	for _, c := range cfg.Clients {
		if err := c.check(); err != nil {
			return nil, err
		}
		if _, ok := s.clients[c.ID]; ok {
			return nil, fmt.Errorf("client %q is there twice", c.ID)
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
	s.URL = "http://" + l.Addr().String()
	if cfg.TLS {
		ca, cert, err := newCertificate()
		if err != nil {
			l.Close()
			return nil, err
		}
		s.CA = ca
		s.URL = "https://" + l.Addr().String()
		// HTTP/1.1 only: an HTTP/2 connection cannot be reset in the middle
		// of one answer.
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
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
	s.running.Go(func() { s.http.Serve(l) })
	return s, nil
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
	switch r.URL.Path {
	case "/_control", "/_log", "/_count":
		s.serveControl(w, r)
		return
	}
	x := s.record(w, r)
	defer func() {
		if x.hijacked {
			s.running.Done() // net/http does not report the end of these
		}
	}()
	switch path, below := strings.CutPrefix(r.URL.Path, s.path); {
	case slices.Contains(s.metadataPaths(), r.URL.Path):
		s.serveMetadata(x)
	case !below:
		http.NotFound(x, r)
	case path == "/token":
		s.serveToken(x, r)
	case path == "/jwks":
		writeJSON(x, http.StatusOK, map[string]any{"keys": []any{s.key.jwk()}})
	case path == "/introspect":
		s.serveIntrospection(x, r)
	case path == "/resource":
		s.serveResource(x, r)
	default:
		http.NotFound(x, r)
	}
}
