package authserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return authority{cert, key}, err
}

// issue completes the certificate with a new key, with the dates of its own,
// and signs it.
func (a authority) issue(leaf *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf.NotBefore, leaf.NotAfter = a.cert.NotBefore, a.cert.NotAfter
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// newCertificate makes a CA, which is returned as PEM, and a certificate for
// loopback signed by it. The CA's key is forgotten.
func newCertificate() ([]byte, tls.Certificate, error) {
	ca, err := newAuthority("authserver test CA")
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	cert, err := ca.issue(&x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "localhost"},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	})
	return encodeCertificate(ca.cert.Raw), cert, err
}

// ClientCertificate makes a certificate whose subject is the common name, for
// clients with tls_client_auth of a server with Config.MTLS, and its key, in
// PEM.
func (s *Server) ClientCertificate(commonName string) (cert, key []byte, err error) {
	if s.authority.cert == nil {
		return nil, nil, errors.New("a server without mtls has no client certificates")
	}
	made, err := s.authority.issue(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: commonName},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	return encodeCertificate(made.Certificate[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// checkClientCertificate implements RFC 8705 2. That the client has the key,
// the handshake has shown.
func (s *Server) checkClientCertificate(c Client, conn *tls.ConnectionState) error {
	if conn == nil || len(conn.PeerCertificates) == 0 {
		return errors.New("no client certificate")
	}
	cert := conn.PeerCertificates[0]
	if c.Auth == AuthSelfSignedTLS {
		want, err := parseCertificate(c.Certificate)
		if err != nil {
			return err
		}
		if !cert.Equal(want) {
			return errors.New("not the client's certificate")
		}
		return nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.authority.cert)
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	if got := cert.Subject.String(); got != c.SubjectDN {
		return fmt.Errorf("client certificate is that of %q", got)
	}
	return nil
}
