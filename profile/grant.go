package profile

import (
	"fmt"
	"slices"
	"strings"

	"tokend/oauth"
)

// grant gives the grant_type; "" if it is not known.
func (r *reader) grant() string {
	const name = "OAUTH2_GRANT"
	if !r.has(name) && !r.open {
		return oauth.GrantClientCredentials
	}
	switch r.value(name) {
	case "":
	case "client_credentials":
		return oauth.GrantClientCredentials
	case "authorization_code":
		return oauth.GrantAuthorizationCode
	case "device_code":
		return oauth.GrantDeviceCode
	case "refresh_token":
		return oauth.GrantRefreshToken
	case "jwt_bearer":
		return oauth.GrantJWTBearer
	case "token_exchange":
		return oauth.GrantTokenExchange
	case "password":
		r.wrong(name, "refused: this grant shows a person's password to the client and must not be used (RFC 9700 section 2.4); use authorization_code or device_code, or client_credentials where no person is in it")
	case "implicit":
		r.wrong(name, "refused: this grant leaks access tokens through URLs (RFC 9700 section 2.1.2); use authorization_code")
	default:
		r.wrong(name, "not a grant; it is client_credentials, authorization_code, device_code, refresh_token, jwt_bearer or token_exchange")
	}
	return ""
}

func (r *reader) endpoints(grant string) oauth.Endpoints {
	switch {
	case r.has("OAUTH2_ISSUER") || r.open:
	case !r.has("OAUTH2_TOKEN_URL"):
		r.add(0, "", "no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL")
	case grant == oauth.GrantAuthorizationCode && !r.has("OAUTH2_AUTH_URL"):
		r.wrong("OAUTH2_GRANT", "authorization_code needs the authorization endpoint; set OAUTH2_AUTH_URL, or OAUTH2_ISSUER")
	case grant == oauth.GrantDeviceCode && !r.has("OAUTH2_DEVICE_URL"):
		r.wrong("OAUTH2_GRANT", "device_code needs the device authorization endpoint; set OAUTH2_DEVICE_URL, or OAUTH2_ISSUER")
	}
	return oauth.Endpoints{
		Token:               r.url("OAUTH2_TOKEN_URL"),
		Authorization:       r.url("OAUTH2_AUTH_URL"),
		DeviceAuthorization: r.url("OAUTH2_DEVICE_URL"),
		Introspection:       r.url("OAUTH2_INTROSPECTION_URL"),
		Revocation:          r.url("OAUTH2_REVOCATION_URL"),
		Registration:        r.url("OAUTH2_REGISTRATION_URL"),
	}
}

func (r *reader) hasSubject() bool {
	return r.has("OAUTH2_SUBJECT_TOKEN") || r.has("OAUTH2_SUBJECT_TOKEN_PROFILE")
}

// subject reads the token that is handed in, nil if there is none.
func (r *reader) subject(grant string) *Subject {
	const (
		itself    = "OAUTH2_SUBJECT_TOKEN"
		profile   = "OAUTH2_SUBJECT_TOKEN_PROFILE"
		kind      = "OAUTH2_SUBJECT_TOKEN_TYPE"
		requested = "OAUTH2_REQUESTED_TOKEN_TYPE"
	)
	const either = "set " + profile + ", or " + itself
	switch grant {
	case oauth.GrantTokenExchange:
		if !r.hasSubject() {
			r.wrong("OAUTH2_GRANT", "token_exchange needs a token to exchange; "+either)
		}
	case oauth.GrantJWTBearer:
		if !r.hasSubject() && !r.has("PRIVATE_KEY") {
			r.wrong("OAUTH2_GRANT", "jwt_bearer needs an assertion; set PRIVATE_KEY, which signs one, or "+profile+" or "+itself+", which is one")
		}
		if r.written(requested) {
			r.wrong(requested, "only token_exchange can ask for a type")
		}
	case "":
	default:
		for _, name := range []string{itself, profile, kind, requested} {
			if r.has(name) {
				r.wrong(name, "only token_exchange and jwt_bearer use it; set OAUTH2_GRANT=token_exchange")
			}
		}
		return nil
	}
	if t := r.given[itself]; t.Name != "" && r.has(profile) {
		r.wrong(profile, fmt.Sprintf("stands beside %s in line %d; keep one of the two", t.Name, t.Line))
	}
	s := &Subject{
		Profile:   r.value(profile),
		Token:     oauth.NewSecret(r.value(itself)),
		Type:      r.tokenType(kind, "access_token"),
		Requested: r.tokenType(requested, ""),
	}
	if r.hasSubject() {
		return s
	}
	if grant == oauth.GrantJWTBearer && r.has(kind) {
		r.wrong(kind, "there is no token that it could be about; "+either)
	}
	return nil
}

// tokenType writes a token type as the URI that it is (RFC 8693 section 3).
func (r *reader) tokenType(name, otherwise string) string {
	value := r.value(name)
	if value == "" {
		if value = otherwise; value == "" {
			return ""
		}
	}
	short := []string{"access_token", "refresh_token", "id_token", "jwt", "saml1", "saml2", "id-jag"}
	if slices.Contains(short, value) {
		return "urn:ietf:params:oauth:token-type:" + value
	}
	if oauth.CheckResource(value) != nil { // an absolute URI, as there
		r.wrong(name, "not a token type; it is "+strings.Join(short, ", ")+" or a URI")
	}
	return value
}

// assertion reads what assertions say beside who the client is.
func (r *reader) assertion(grant string) (audience, subject string) {
	const aud, sub = "OAUTH2_ASSERTION_AUDIENCE", "OAUTH2_ASSERTION_SUBJECT"
	audience, subject = r.value(aud), r.value(sub)
	switch auth := r.given["OAUTH2_CLIENT_AUTH"]; {
	case r.written(aud) && !r.has("PRIVATE_KEY") && !auth.unknown && auth.Value != string(oauth.ClientSecretJWT):
		r.wrong(aud, "there is no assertion that it could be about; set PRIVATE_KEY, or OAUTH2_CLIENT_AUTH=client_secret_jwt")
	case audience == "issuer" && !r.has("OAUTH2_ISSUER") && !r.open:
		r.wrong(aud, "the issuer is not known; set OAUTH2_ISSUER, or write token_endpoint")
	}
	if r.written(sub) && grant != "" && !r.signsGrant(grant) {
		r.wrong(sub, "only the assertion that jwt_bearer signs has a subject of its own; set OAUTH2_GRANT=jwt_bearer and PRIVATE_KEY")
	}
	return audience, subject
}

func (r *reader) refreshToken(grant string) oauth.Secret {
	const name = "OAUTH2_REFRESH_TOKEN"
	switch grant {
	case oauth.GrantRefreshToken:
		if !r.has(name) {
			r.wrong("OAUTH2_GRANT", "refresh_token needs one to begin with; "+setting(name))
		}
	case "", oauth.GrantAuthorizationCode, oauth.GrantDeviceCode:
	default:
		if r.has(name) {
			r.wrong(name, "this grant needs none; set OAUTH2_GRANT=refresh_token")
		}
	}
	return oauth.NewSecret(r.value(name))
}

// redirectURL is on loopback and has its port, since we listen there (RFC 8252
// section 7.3).
func (r *reader) redirectURL() string {
	const name = "OAUTH2_REDIRECT_URL"
	const such = "such as http://127.0.0.1:8400/callback"
	if !r.known(name) {
		return ""
	}
	u, err := oauth.CheckURL(r.value(name))
	switch {
	case err != nil:
		r.wrong(name, err.Error())
	case u.Scheme != "http" || !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, strings.ToLower(u.Hostname())):
		r.wrong(name, "not an http URL of this machine, "+such)
	case u.Port() == "":
		r.wrong(name, "has no port to listen on; write the one that is registered, "+such)
	case u.RawQuery != "" || u.ForceQuery:
		r.wrong(name, "has a query; write it without, "+such)
	}
	return r.value(name)
}

func (r *reader) par(grant string) Switch {
	const name = "OAUTH2_PAR"
	s := r.onOff(name)
	switch {
	case s != On || grant == "":
	case grant != oauth.GrantAuthorizationCode:
		r.wrong(name, "only authorization_code has a request that could be pushed; remove it, or set OAUTH2_GRANT=authorization_code")
	case !r.has("OAUTH2_ISSUER") && !r.open:
		r.wrong(name, "only metadata name the endpoint (RFC 9126 section 5); set OAUTH2_ISSUER")
	}
	return s
}
