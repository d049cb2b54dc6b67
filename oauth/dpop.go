package oauth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxNonce   = 1 << 10 // bytes
	maxOrigins = 16
)

// DPoP proves possession of one key (RFC 9449), and knows the nonces that
// servers gave for the next proof. It may be used by many at once, and prints as
// "[redacted]".
type DPoP struct {
	key *Key

	mu     sync.Mutex // guards the field that follows
	nonces map[string]string
}

// NewDPoP makes one that knows no nonces yet.
func NewDPoP(k *Key) *DPoP { return &DPoP{key: k, nonces: make(map[string]string)} }

// Format ignores verb and flags: %s would print the key otherwise.
func (*DPoP) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// Key is the key whose possession is proved.
func (d *DPoP) Key() *Key { return d.key }

// Proof makes the value of a DPoP header for one request (RFC 9449 section
// 4.2). access is the access token that the request carries, nonce what the
// server gave; both may be zero. What the target has after its path is left out.
func (d *DPoP) Proof(method, target string, access Secret, nonce string) (string, error) {
	if method == "" || strings.ContainsFunc(method, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	}) {
		return "", errors.New("the method is none of HTTP")
	}
	if nonce != "" && !isNonce(nonce) {
		return "", errors.New("the nonce has characters that no nonce has, or too many (RFC 9449 section 8.1)")
	}
	target, _, _ = strings.Cut(target, "#")
	u, err := CheckURL(target)
	if err != nil {
		return "", err
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	claims := map[string]any{
		"jti": rand.Text(),
		"htm": method,
		"htu": origin(u) + path,
		"iat": time.Now().Unix(),
	}
	if !access.IsZero() {
		sum := sha256.Sum256([]byte(access.Reveal()))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	return signJWT(jose.SigningKey{Algorithm: d.key.alg, Key: d.key.private}, "dpop+jwt", claims,
		map[jose.HeaderKey]any{"jwk": &jose.JSONWebKey{Key: d.key.private.Public()}})
}

// origin gives scheme, host and port of u as equal origins have them equal
// (RFC 3986 sections 6.2.2 and 6.2.3).
func origin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Port() == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host = strings.TrimSuffix(host, ":"+u.Port())
	}
	return u.Scheme + "://" + strings.TrimSuffix(host, ":")
}

// nonce gives the last nonce of the server at u, "" if it gave none.
func (d *DPoP) nonce(u *url.URL) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nonces[origin(u)]
}

// remember keeps the nonce in the header of an answer from u, if there is one
// (RFC 9449 section 8.2).
func (d *DPoP) remember(u *url.URL, header http.Header) {
	given := givenNonce(header)
	if given == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	from := origin(u)
	if _, known := d.nonces[from]; !known && len(d.nonces) >= maxOrigins {
		clear(d.nonces)
	}
	d.nonces[from] = given
}

// givenNonce reads the DPoP-Nonce header; "" if there is none that may be used.
func givenNonce(header http.Header) string {
	values := header.Values("DPoP-Nonce")
	if len(values) != 1 || !isNonce(values[0]) {
		return ""
	}
	return values[0]
}

// isNonce says whether s is NQCHAR throughout (RFC 9449 section 8.1).
func isNonce(s string) bool {
	return s != "" && len(s) <= maxNonce && isVisible(s) && !strings.ContainsAny(s, `"\`)
}
