package authserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signatureAlgorithms are those that this server takes from others.
var signatureAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA}

// maxClientAssertion and maxGrantAssertion are how far ahead an assertion may
// expire, maxSkew how much another's clock may be ahead.
const (
	maxClientAssertion = 5 * time.Minute
	maxGrantAssertion  = time.Hour
	maxSkew            = 5 * time.Second
)

// unverifiedSubject returns who an assertion says it is about; empty if that
// cannot be read.
func unverifiedSubject(assertion string) string {
	part := strings.Split(assertion, ".")
	if len(part) != 3 {
		return ""
	}
	var c struct {
		Subject string `json:"sub"`
	}
	if decodePart(part[1], &c) != nil {
		return ""
	}
	return c.Subject
}

// verifyAssertion returns the claims of a JWT that one of the keys signed. It
// has looked at no claim.
func verifyAssertion(assertion string, keys []jose.JSONWebKey, algorithms []jose.SignatureAlgorithm) (jwt.Claims, error) {
	sig, err := jose.ParseSignedCompact(assertion, algorithms)
	if err != nil {
		return jwt.Claims{}, err
	}
	header := sig.Signatures[0].Protected
	for _, k := range keys {
		if header.KeyID != "" && k.KeyID != "" && header.KeyID != k.KeyID || k.Algorithm != "" && k.Algorithm != header.Algorithm {
			continue
		}
		payload, err := sig.Verify(k.Key)
		if err != nil {
			continue
		}
		var c jwt.Claims
		return c, json.Unmarshal(payload, &c)
	}
	return jwt.Claims{}, errors.New("assertion: wrong signature, or an unknown key")
}

// checkAssertionTimes refuses an assertion that is not to be used now, or for
// longer than it should be.
func checkAssertionTimes(c jwt.Claims, longest time.Duration, now time.Time) error {
	switch {
	case c.Expiry == nil || c.IssuedAt == nil:
		return errors.New("assertion without exp or iat")
	case !c.Expiry.Time().After(now):
		return errors.New("assertion has expired")
	case c.Expiry.Time().After(now.Add(longest)):
		return fmt.Errorf("assertion expires in more than %v", longest)
	case c.IssuedAt.Time().After(now.Add(maxSkew)):
		return errors.New("assertion was issued in the future")
	case c.NotBefore != nil && c.NotBefore.Time().After(now.Add(maxSkew)):
		return errors.New("assertion is not valid yet")
	}
	return nil
}

// checkClientAssertion implements RFC 7523 3 for client authentication.
func (s *Server) checkClientAssertion(c Client, got credentials) error {
	var keys []jose.JSONWebKey
	var algorithms []jose.SignatureAlgorithm
	switch c.Auth {
	case AuthPrivateKeyJWT:
		keys, algorithms = c.JWKS.Keys, signatureAlgorithms
	case AuthSecretJWT:
		keys, algorithms = []jose.JSONWebKey{{Key: []byte(c.Secret)}}, []jose.SignatureAlgorithm{jose.HS256}
	default:
		return errors.New("client authentication failed")
	}
	claims, err := verifyAssertion(got.assertion, keys, algorithms)
	if err != nil {
		return err
	}
	audience := s.Issuer
	if c.TokenAudience {
		audience = s.TokenURL
	}
	if claims.Issuer != c.ID || claims.Subject != c.ID {
		return errors.New("assertion: iss and sub are not both the client_id")
	}
	if !slices.Equal(claims.Audience, jwt.Audience{audience}) {
		return fmt.Errorf("assertion: aud is not exactly %q", audience)
	}
	if err := checkAssertionTimes(claims, maxClientAssertion, time.Now()); err != nil {
		return err
	}
	if claims.ID == "" {
		return errors.New("assertion without jti")
	}
	if !s.once("client assertion", c.ID, claims.ID) {
		return errors.New("assertion: jti was used before")
	}
	return nil
}

// once reports whether it is the first time that it is called with these.
func (s *Server) once(parts ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.onceLocked(parts...)
}

func (s *Server) onceLocked(parts ...string) bool {
	key := strings.Join(parts, "\x00")
	if s.seen[key] {
		return false
	}
	s.seen[key] = true
	return true
}
