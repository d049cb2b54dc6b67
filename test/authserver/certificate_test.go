package authserver

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// askTLS posts a form over https, with a client certificate if there is one.
func askTLS(t *testing.T, s *Server, to, dpop string, cert *tls.Certificate, form url.Values) reply {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	config := &tls.Config{RootCAs: roots}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	req := post(t, to, "", form.Encode())
	if dpop != "" {
		req.Header.Set("DPoP", dpop)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

func TestClientCertificates(t *testing.T) {
	// Certificates that another server made are self-signed ones to this one.
	other := Start(t, Config{TLS: true, MTLS: true})
	pair := func(s *Server, name string) (string, *tls.Certificate) {
		t.Helper()
		certPEM, keyPEM, err := s.ClientCertificate(name)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return string(certPEM), &cert
	}
	own, self := pair(other, "self")
	_, foreign := pair(other, "ca")
	s := Start(t, Config{TLS: true, MTLS: true, Path: "/tenant", Clients: []Client{
		{ID: "ca", Auth: AuthTLS, SubjectDN: "CN=ca"},
		{ID: "self", Auth: AuthSelfSignedTLS, Certificate: own},
		{ID: "dev", Secret: secret, Auth: AuthPost},
	}})
	_, good := pair(s, "ca")
	_, wrongName := pair(s, "eve")
	m := askMetadata(t, s)
	aliases, _ := m["mtls_endpoint_aliases"].(map[string]any)
	alias, _ := aliases["token_endpoint"].(string)
	if alias != s.MTLSURL+"/tenant/token" || s.MTLSURL == s.URL || len(aliases) != 5 {
		t.Fatalf("%v", aliases)
	}
	form := func(id string) url.Values {
		return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}}
	}
	wantTokens(t, askTLS(t, s, alias, "", good, form("ca")))
	wantTokens(t, askTLS(t, s, alias, "", self, form("self")))
	wantTokens(t, askTLS(t, s, alias, "", good, with(form("dev"), map[string]string{"client_secret": secret})))
	wantError(t, "no certificate", askTLS(t, s, alias, "", nil, form("ca")), 400, "invalid_client")
	wantError(t, "another subject", askTLS(t, s, alias, "", wrongName, form("ca")), 400, "invalid_client")
	wantError(t, "another CA", askTLS(t, s, alias, "", foreign, form("ca")), 400, "invalid_client")
	wantError(t, "another certificate", askTLS(t, s, alias, "", good, form("self")), 400, "invalid_client")
	wantError(t, "a secret beside it", askTLS(t, s, alias, "", good, with(form("ca"), map[string]string{"client_secret": "x"})), 400, "invalid_client")
	wantError(t, "not where it is asked for", askTLS(t, s, s.TokenURL, "", good, form("ca")), 400, "invalid_client")
	wantError(t, "for a client with a secret", askTLS(t, s, alias, "", good, form("dev")), 401, "invalid_client")

	// A proof names the endpoint that it is sent to.
	key := keyFor(t, jose.ES256)
	wantTokens(t, askTLS(t, s, alias, proofFor(t, jose.ES256, key, "POST", alias, nil), good, form("ca")))
	wantError(t, "proof for the other port", askTLS(t, s, alias, proofFor(t, jose.ES256, key, "POST", s.TokenURL, nil), good, form("ca")), 400, "invalid_dpop_proof")

	r := askTLS(t, s, s.URL+"/_certificate?cn=x", "", nil, nil)
	got := r.json(t)
	if _, err := tls.X509KeyPair([]byte(got["certificate"].(string)), []byte(got["key"].(string))); err != nil {
		t.Error(err)
	}
	if r := do(t, post(t, Start(t, Config{}).URL+"/_certificate?cn=x", "", "")); r.status != 400 {
		t.Errorf("without mtls: %d", r.status)
	}
}

func askMetadata(t *testing.T, s *Server) map[string]any {
	t.Helper()
	return send(s, get(t, s.Issuer+"/.well-known/oauth-authorization-server", "")).json(t)
}

func TestMTLSMetadata(t *testing.T) {
	for _, mtls := range []bool{true, false} {
		m := askMetadata(t, Start(t, Config{TLS: true, MTLS: mtls}))
		var names []string
		for _, v := range m["token_endpoint_auth_methods_supported"].([]any) {
			names = append(names, v.(string))
		}
		if got := strings.Contains(strings.Join(names, " "), AuthTLS); got != mtls || (m["mtls_endpoint_aliases"] != nil) != mtls {
			t.Errorf("mtls %v: %v %v", mtls, names, m["mtls_endpoint_aliases"])
		}
	}
}
