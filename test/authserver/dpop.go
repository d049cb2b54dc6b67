package authserver

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxProofAge is how old a DPoP proof may be.
const maxProofAge = time.Minute

var errNonce = errors.New("the proof has not the server's nonce")

// checkProof checks the DPoP proof of a request (RFC 9449 4.3), if there is
// one, for the access token that it comes with, if there is one. It returns
// the thumbprint of the proof's key, or the empty string without a proof.
func (s *Server) checkProof(r *http.Request, token string) (string, *failure) {
	proofs := r.Header.Values("DPoP")
	if len(proofs) == 0 {
		return "", nil
	}
	if len(proofs) > 1 {
		return "", &failure{code: "invalid_dpop_proof", description: "more than one proof"}
	}
	nonce := s.nonceOf("token")
	if token != "" {
		nonce = s.nonceOf("resource")
	}
	jkt, err := s.verifyProof(r, proofs[0], token, nonce, time.Now())
	switch {
	case errors.Is(err, errNonce):
		return "", &failure{code: "use_dpop_nonce", description: err.Error()}
	case err != nil:
		return "", &failure{code: "invalid_dpop_proof", description: err.Error()}
	}
	return jkt, nil
}

func (s *Server) verifyProof(r *http.Request, proof, token, nonce string, now time.Time) (string, error) {
	sig, err := jose.ParseSignedCompact(proof, signatureAlgorithms)
	if err != nil {
		return "", err
	}
	header := sig.Signatures[0].Protected
	if typ := header.ExtraHeaders[jose.HeaderType]; typ != "dpop+jwt" {
		return "", fmt.Errorf("typ is %v", typ)
	}
	key := header.JSONWebKey
	if key == nil || !key.Valid() || !key.IsPublic() {
		return "", errors.New("jwk is not a public key")
	}
	payload, err := sig.Verify(key.Key)
	if err != nil {
		return "", errors.New("wrong signature")
	}
	var c struct {
		ID       string   `json:"jti"`
		Method   string   `json:"htm"`
		URL      string   `json:"htu"`
		IssuedAt *float64 `json:"iat"`
		Token    string   `json:"ath"`
		Nonce    string   `json:"nonce"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return "", err
	}
	if c.Method != r.Method {
		return "", fmt.Errorf("htm is %q", c.Method)
	}
	if !sameURL(c.URL, s.baseOf(r)+r.URL.Path) {
		return "", fmt.Errorf("htu is %q", c.URL)
	}
	if c.IssuedAt == nil {
		return "", errors.New("no iat")
	}
	issued := time.UnixMilli(int64(*c.IssuedAt * 1000))
	if issued.Before(now.Add(-maxProofAge)) || issued.After(now.Add(maxSkew)) {
		return "", errors.New("iat is not now")
	}
	if sum := sha256.Sum256([]byte(token)); token != "" && c.Token != b64.EncodeToString(sum[:]) {
		return "", errors.New("ath is not the token's")
	}
	if nonce != "" && c.Nonce != nonce {
		return "", errNonce
	}
	if c.ID == "" {
		return "", errors.New("no jti")
	}
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	jkt := b64.EncodeToString(thumbprint)
	if !s.once("DPoP", jkt, c.ID) {
		return "", errors.New("jti was used before")
	}
	return jkt, nil
}

// sameURL compares a proof's htu, which has neither query nor fragment.
func sameURL(htu, want string) bool {
	h, errH := url.Parse(htu)
	w, errW := url.Parse(want)
	return errH == nil && errW == nil && h.String() == w.String()
}

// baseOf returns the scheme, host and port at which the request came.
func (s *Server) baseOf(r *http.Request) string {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil && s.MTLSURL == "https://"+local.String() {
		return s.MTLSURL
	}
	return s.URL
}

// nonceOf returns the nonce that proofs for an endpoint have to have now;
// empty if they need none.
func (s *Server) nonceOf(endpoint string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.cfg.DPoPNonce:
		return ""
	case endpoint == "token" || endpoint == "par":
		return s.nonce
	case endpoint == "resource":
		return s.resourceNonce
	}
	return ""
}

// RotateNonce makes new nonces for DPoP proofs, and no other is good.
func (s *Server) RotateNonce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonce, s.resourceNonce = rand.Text(), rand.Text()
}
