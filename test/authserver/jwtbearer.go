package authserver

import (
	"errors"
	"slices"

	"github.com/go-jose/go-jose/v4/jwt"
)

// redeemAssertionLocked implements RFC 7523 2.1.
func (s *Server) redeemAssertionLocked(q grantRequest) (issued, *failure) {
	refuse := func(why string) (issued, *failure) {
		return issued{}, &failure{code: "invalid_grant", description: why}
	}
	assertion := q.form.Get("assertion")
	if assertion == "" {
		return issued{}, &failure{code: "invalid_request", description: "no assertion"}
	}
	claims, err := s.verifyGrantAssertion(assertion)
	switch {
	case err != nil:
		return refuse(err.Error())
	case claims.Subject == "":
		return refuse("assertion without sub")
	case !slices.Equal(claims.Audience, jwt.Audience{s.TokenURL}) && !slices.Equal(claims.Audience, jwt.Audience{s.Issuer}):
		return refuse("the assertion's aud is neither the token endpoint nor the issuer")
	}
	if err := checkAssertionTimes(claims, maxGrantAssertion, q.now); err != nil {
		return refuse(err.Error())
	}
	scope, f := q.client.grantScope(q.form.Get("scope"))
	if f != nil {
		return issued{}, f
	}
	audience, f := audienceOf(q.form)
	if f != nil {
		return issued{}, f
	}
	// RFC 7523 3: a jti may be there.
	if claims.ID != "" && !s.onceLocked("grant assertion", claims.Issuer, claims.ID) {
		return refuse("the assertion's jti was used before")
	}
	client := q.client.ID
	if client == "" {
		client = claims.Issuer
	}
	g := &grant{client: client, subject: claims.Subject, scope: scope, audience: audience}
	return s.issueLocked(q, g, scope, audience), nil
}

// verifyGrantAssertion returns the claims of an assertion that its issuer
// signed.
func (s *Server) verifyGrantAssertion(assertion string) (jwt.Claims, error) {
	for _, i := range s.cfg.Issuers {
		claims, err := verifyAssertion(assertion, i.JWKS.Keys, signatureAlgorithms)
		if err == nil && claims.Issuer == i.Issuer {
			return claims, nil
		}
	}
	return jwt.Claims{}, errors.New("the assertion is not signed by an issuer that is known")
}
