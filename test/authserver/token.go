package authserver

import (
	"net/http"
	"net/url"
	"time"
)

// The grant types with long names.
const (
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantJWT      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// A grantRequest is a token request that has passed what all have to pass.
type grantRequest struct {
	client Client
	form   url.Values
	jkt    string // thumbprint of the key of the DPoP proof; empty without one
	answer Answer
	now    time.Time
}

// token is the token endpoint, by RFC 6749 3.2.
func (s *Server) token(x *exchange, r *http.Request, a Answer) response {
	if resp := refuseForm(x, r); resp != nil {
		return *resp
	}
	q := grantRequest{form: r.PostForm, answer: a, now: time.Now()}
	grantType := q.form.Get("grant_type")
	var f *failure
	if q.client, f = s.tokenClient(r, grantType); f != nil {
		return f.response()
	}
	if q.jkt, f = s.checkProof(r, ""); f != nil {
		return f.response()
	}
	if q.jkt == "" && q.client.RequireDPoP {
		f = &failure{code: "invalid_dpop_proof", description: "the client has to send one"}
		return f.response()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, f := s.grantLocked(q, grantType)
	if f != nil {
		return f.response()
	}
	members := map[string]any{
		"access_token": t.token,
		"token_type":   t.claims.tokenType(),
		"expires_in":   int64(time.Unix(t.claims.Expires, 0).Sub(q.now) / time.Second),
	}
	for name, v := range map[string]string{
		"scope": t.claims.Scope, "refresh_token": t.refresh, "id_token": t.id, "issued_token_type": t.kind,
	} {
		if v != "" {
			members[name] = v
		}
	}
	return jsonResponse(http.StatusOK, members)
}

// tokenClient returns who asks for a token. An assertion may come from who is
// no client (RFC 7523 3.1), and then its issuer is the client.
func (s *Server) tokenClient(r *http.Request, grantType string) (Client, *failure) {
	if grantType == grantJWT && len(r.Header.Values("Authorization")) == 0 {
		if got, f := s.credentials(r); f == nil && got.id == "" && got.auth == "" {
			return Client{Auth: AuthNone}, nil
		}
	}
	return s.authenticate(r)
}

func (s *Server) grantLocked(q grantRequest, grantType string) (issued, *failure) {
	var grant func(grantRequest) (issued, *failure)
	switch grantType {
	case "client_credentials":
		grant = s.clientCredentialsLocked
	case "authorization_code":
		grant = s.redeemCodeLocked
	case "refresh_token":
		grant = s.refreshLocked
	case grantDevice:
		grant = s.pollLocked
	case grantExchange:
		grant = s.exchangeLocked
	case grantJWT:
		grant = s.redeemAssertionLocked
	case "":
		return issued{}, &failure{code: "invalid_request", description: "no grant_type"}
	default:
		return issued{}, &failure{code: "unsupported_grant_type", description: "this server does not know the grant_type"}
	}
	if !q.client.may(grantType) {
		return issued{}, &failure{code: "unauthorized_client", description: "the client may not use this grant_type"}
	}
	return grant(q)
}
