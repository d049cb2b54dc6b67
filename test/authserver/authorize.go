package authserver

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Subject is the one user of the server, who consents at once to everything.
const Subject = "alice"

// codeLifetime is that of authorization codes.
const codeLifetime = time.Minute

// An authorization is what an authorization request asks for.
type authorization struct {
	redirectURI string
	challenge   string // PKCE, S256
	scope       string
	audience    []string
	nonce       string // of OpenID Connect
	jkt         string // dpop_jkt (RFC 9449 10); empty if any key will do
}

// A code is an authorization code.
type code struct {
	authorization
	grant   *grant
	expires time.Time
	used    bool
}

// authorize is the authorization endpoint, by RFC 6749 3.1.
func (s *Server) authorize(x *exchange, r *http.Request, a Answer) response {
	var form url.Values
	switch r.Method {
	case http.MethodGet:
		form = r.URL.Query()
	case http.MethodPost:
		form = r.PostForm
	default:
		return notAllowed("GET, POST")
	}
	if x.formErr != nil {
		return htmlResponse(http.StatusBadRequest, "The request cannot be read.")
	}
	if len(form["client_id"]) != 1 {
		return htmlResponse(http.StatusBadRequest, "The request names no client.")
	}
	c, err := s.lookup(r.Context(), form.Get("client_id"))
	if err != nil || c.ID == "" {
		return htmlResponse(http.StatusBadRequest, "The client is not known.")
	}
	wasPushed := form.Has("request_uri")
	if wasPushed {
		var ok bool
		if form, ok = s.takePushed(c, form["request_uri"]); !ok {
			return htmlResponse(http.StatusBadRequest, "The request_uri is not good, or not good any more.")
		}
	}
	if f := c.checkRedirect(form); f != nil {
		// RFC 6749 4.1.2.1: not to where it might not belong.
		return htmlResponse(http.StatusBadRequest, "The redirect_uri is not one of the client's.")
	}
	reply := make(url.Values)
	f := &failure{code: a.Error, description: "as scripted"}
	if a.Error == "" || a.Late {
		got, refused := s.checkAuthorization(c, form)
		if refused == nil && !wasPushed && (s.cfg.RequirePAR || c.RequirePAR) {
			refused = &failure{code: "invalid_request", description: "the request has to be pushed"}
		}
		if refused == nil {
			reply.Set("code", s.issueCode(c, got))
		}
		if a.Error == "" {
			f = refused
		}
	}
	if f != nil {
		reply = url.Values{"error": {f.code}, "error_description": {f.description}}
	}
	if form.Has("state") {
		reply.Set("state", form.Get("state"))
	}
	switch s.cfg.ResponseIss {
	case "":
		reply.Set("iss", s.Issuer)
	case NoIss:
	default:
		reply.Set("iss", s.cfg.ResponseIss)
	}
	return redirectTo(form.Get("redirect_uri"), reply)
}

// redirectTo adds to the query that the URI has.
func redirectTo(uri string, more url.Values) response {
	separator := "?"
	if strings.Contains(uri, "?") {
		separator = "&"
	}
	return response{http.StatusFound, http.Header{
		"Location":      {uri + separator + more.Encode()},
		"Cache-Control": {"no-store"},
	}, nil}
}

// checkRedirect refuses a request whose answer may not go where it says.
func (c Client) checkRedirect(form url.Values) *failure {
	asked := form["redirect_uri"]
	if len(asked) == 1 && slices.ContainsFunc(c.RedirectURIs, func(uri string) bool { return sameRedirect(uri, asked[0]) }) {
		return nil
	}
	return &failure{code: "invalid_request", description: "redirect_uri is not one of the client's"}
}

// sameRedirect compares by RFC 9700 4.1.3: exactly, but for the port of a
// loopback URI.
func sameRedirect(registered, asked string) bool {
	if registered == asked {
		return true
	}
	r, errR := url.Parse(registered)
	a, errA := url.Parse(asked)
	if errR != nil || errA != nil || r.Scheme != "http" || !isLoopback(r.Hostname()) || r.Hostname() != a.Hostname() {
		return false
	}
	r.Host, a.Host = "", ""
	return r.String() == a.String()
}

// isLoopback takes localhost for it too, as many servers do in spite of
// RFC 8252 8.3.
func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// checkRedirectURI refuses what no client may register.
func checkRedirectURI(uri string) error {
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		return err
	case !u.IsAbs() || strings.Contains(uri, "#"):
		return errors.New("want an absolute URI without fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("want https, or a loopback address")
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host == "":
		return errors.New("no host")
	case u.Scheme != "http" && u.Scheme != "https" && !strings.Contains(u.Scheme, "."):
		return errors.New("want a scheme of one's own with a dot in it") // RFC 8252 7.1
	}
	return nil
}

// pkceValue is a verifier by RFC 7636 4.1.
var pkceValue = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// checkAuthorization looks at all parameters but those that say where the
// answer goes.
func (s *Server) checkAuthorization(c Client, form url.Values) (authorization, *failure) {
	refuse := func(code, why string) (authorization, *failure) {
		return authorization{}, &failure{code: code, description: why}
	}
	if hasDuplicate(form) {
		return refuse("invalid_request", "a parameter is there twice")
	}
	if form.Has("request") {
		return refuse("request_not_supported", "no request objects")
	}
	switch form.Get("response_type") {
	case "code":
	case "":
		return refuse("invalid_request", "no response_type")
	default:
		return refuse("unsupported_response_type", "want code")
	}
	if !c.may("authorization_code") {
		return refuse("unauthorized_client", "the client may not use authorization codes")
	}
	got := authorization{
		redirectURI: form.Get("redirect_uri"),
		challenge:   form.Get("code_challenge"),
		nonce:       form.Get("nonce"),
		jkt:         form.Get("dpop_jkt"),
	}
	// RFC 7636 4.3: without a method it is plain.
	if form.Get("code_challenge_method") != "S256" {
		return refuse("invalid_request", "want PKCE with S256")
	}
	if sum, err := b64.Strict().DecodeString(got.challenge); err != nil || len(sum) != sha256.Size {
		return refuse("invalid_request", "code_challenge is no SHA-256")
	}
	var f *failure
	if got.scope, f = c.grantScope(form.Get("scope")); f != nil {
		return authorization{}, f
	}
	if got.audience, f = audienceOf(form); f != nil {
		return authorization{}, f
	}
	return got, nil
}

func (s *Server) issueCode(c Client, got authorization) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := rand.Text()
	s.codes[text] = &code{
		authorization: got,
		grant: &grant{
			client: c.ID, subject: Subject, scope: got.scope, audience: got.audience, nonce: got.nonce,
		},
		expires: time.Now().Add(codeLifetime),
	}
	return text
}

// redeemCodeLocked implements RFC 6749 4.1.3 and RFC 7636 4.6.
func (s *Server) redeemCodeLocked(q grantRequest) (issued, *failure) {
	refuse := func(why string) (issued, *failure) {
		return issued{}, &failure{code: "invalid_grant", description: why}
	}
	given := s.codes[q.form.Get("code")]
	verifier := q.form.Get("code_verifier")
	sum := sha256.Sum256([]byte(verifier))
	switch {
	case given == nil || given.grant.client != q.client.ID:
		return refuse("not a code of this client")
	case given.used:
		given.grant.revoked = true // RFC 6749 4.1.2
		return refuse("the code was used before")
	case !q.now.Before(given.expires):
		return refuse("the code has expired")
	case q.form.Get("redirect_uri") != given.redirectURI:
		return refuse("redirect_uri is not that of the authorization request")
	case !pkceValue.MatchString(verifier) || b64.EncodeToString(sum[:]) != given.challenge:
		return refuse("code_verifier does not fit the code_challenge")
	case given.jkt != "" && given.jkt != q.jkt:
		return refuse("the code is bound to another key")
	}
	audience, f := given.grant.narrowAudience(q)
	if f != nil {
		return issued{}, f
	}
	given.used = true
	t := s.issueLocked(q, given.grant, given.scope, audience)
	t.refresh = s.issueRefreshLocked(q, given.grant)
	t.id = s.idToken(given.grant, given.scope, q.now)
	return t, nil
}
