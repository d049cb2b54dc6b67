package oauth

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// What the process's environment says is read once, so it is set before all tests.
var (
	systemCA         *authority
	environmentProxy net.Listener
)

func TestMain(m *testing.M) {
	systemCA = newAuthority()
	dir, err := os.MkdirTemp("", "oauth")
	if err != nil {
		panic(err)
	}
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, []byte(systemCA.pem), 0o600); err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", roots)
	if environmentProxy, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	os.Setenv("HTTPS_PROXY", "http://user:proxypassword@"+environmentProxy.Addr().String())
	os.Setenv("NO_PROXY", "")
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) {
		environmentProxy.Close()
		os.RemoveAll(dir)
	}))
}

// serve runs handle on every connection to l, and ends all of them with the test.
func serve(t *testing.T, l net.Listener, handle func(net.Conn)) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// A server keeps the exact bytes of each request and gives each the same bytes
// for an answer.
type server struct {
	addr     string // host:port
	mu       sync.Mutex
	requests []string
	conns    int
}

func newServer(t *testing.T, config *tls.Config, answer func(request string) string) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String()}
	serve(t, l, func(conn net.Conn) {
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		if config != nil {
			conn = tls.Server(conn, config)
		}
		request, err := readRequest(conn)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.requests = append(s.requests, request)
		s.mu.Unlock()
		io.WriteString(conn, answer(request))
		conn.Close()
	})
	return s
}

// answering makes a plain server on loopback, and the client to ask it with.
func answering(t *testing.T, answer string) (*server, *Client) {
	s := newServer(t, nil, func(string) string { return answer })
	return s, &Client{ID: "app", Secret: NewSecret("hunter2-correct-horse"), TokenURL: "http://" + s.addr + "/token"}
}

func (s *server) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// readRequest reads one request as it stands on the wire.
func readRequest(r io.Reader) (string, error) {
	var raw strings.Builder
	br := bufio.NewReader(io.TeeReader(r, &raw))
	req, err := http.ReadRequest(br)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, req.Body)
	return raw.String(), err
}

func ok(body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

func status(line, body string) string {
	return "HTTP/1.1 " + line + "\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

const goodAnswer = `{"access_token":"AT-1","token_type":"Bearer","expires_in":300}`

// An authority signs certificates of servers.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority() *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// server gives the configuration of a server called name, which may be an IP.
func (a *authority) server(t *testing.T, name string, expires time.Time) *tls.Config {
	return a.certified(t, name, expires, x509.ExtKeyUsageServerAuth)
}

func (a *authority) certified(t *testing.T, name string, expires time.Time, usage x509.ExtKeyUsage) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: expires,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"h2", "http/1.1"},
	}
}
