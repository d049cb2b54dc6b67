package broker

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"tokend/internal/envfile"
	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
)

const (
	// discoverTime is how long an explanation waits for a server's metadata, and
	// turnTime for a session that is in use.
	discoverTime = 10 * time.Second
	turnTime     = time.Second
	// clockNotice is how far clocks may differ: assertions are good for a minute.
	clockNotice = time.Minute
	maxFinding  = 1 << 10
	maxMistakes = 20
)

// A Level is how a finding bears on a token.
type Level int

const (
	Info Level = iota + 1
	OK
	Warning
	Problem
)

// A Finding is one thing that explains a token.
type Finding struct {
	Level Level
	Topic string // one word in lower case
	Text  string // one line, printable
}

// An Explanation is why there is a token, or none.
type Explanation struct {
	Findings []Finding // in the order in which a token comes to be
	Standing Standing
	// Curl is the token request as one line for a POSIX shell, with variables of
	// the shell where secrets stand; "" if the text cannot be used. What the
	// variables are set to is seen by whoever may list processes.
	Curl string
}

// Explain says why there is a token for r, or none. It asks nobody but, if live,
// the network, which gets no credential. Files are read and commands are run as
// for a token. Errors are those of the store.
func (b *Broker) Explain(ctx context.Context, r Request, live bool) (*Explanation, error) {
	// One of a profile at a time: each may run its commands.
	release, err := b.explains.take(ctx, r.Profile)
	if err != nil {
		return nil, err
	}
	defer release()
	x := &explaining{Explanation: &Explanation{Standing: Standing{Profile: r.Profile}}, b: b, asked: r}
	if err := x.explain(ctx, live); err != nil {
		return nil, err
	}
	return x.Explanation, nil
}

// explaining is an Explanation under way, and what it has come to know.
type explaining struct {
	*Explanation
	b     *Broker
	asked Request

	k     key
	text  *profile.Text
	given map[string]envfile.Var // what the text gives, by the names of profile.Variables
	// ofSession: there are no tokens without a session.
	ofSession bool

	// What follows is known only of a text that can be used.
	profile   *profile.Profile
	cause     string          // as in refusal
	ready     *Prepared       // as for a token, as far as is known without asking
	request   oauth.Request   // with what the caller asks for
	cached    *oauth.Metadata // nil: none in memory
	cachedFor time.Duration
	now       *oauth.Metadata // nil: not asked for, or nowErr says why not
	nowErr    error

	session session
	unread  bool // nothing is known of the session

	err error // why no token could be made, as far as is known without asking; nil if nothing is
}

func (x *explaining) add(level Level, topic, format string, args ...any) {
	x.Findings = append(x.Findings, Finding{level, topic, printable(fmt.Sprintf(format, args...))})
}

// fail adds a problem for which no token can be made. The first one is what a
// caller would be told.
func (x *explaining) fail(topic string, err error) {
	x.add(Problem, topic, "%v", err)
	if x.err == nil {
		x.err = err
	}
}

// printable makes one line of s that a terminal shows as it is.
func printable(s string) string {
	var line strings.Builder
	for _, r := range s {
		shown := string(r)
		if !unicode.IsPrint(r) {
			shown = strings.Trim(strconv.QuoteRune(r), "'")
		}
		if line.Len()+len(shown) > maxFinding {
			return line.String() + " …"
		}
		line.WriteString(shown)
	}
	return line.String()
}

func (x *explaining) explain(ctx context.Context, live bool) error {
	usable, err := x.readText(ctx)
	if err != nil {
		return err
	}
	if !usable {
		x.Standing.Err = x.err
		return nil
	}
	values, err := x.readValues(ctx)
	if err != nil {
		return err
	}
	if err := x.readSession(ctx); err != nil {
		return err
	}
	if values != nil && x.read(values) {
		x.cause = causeOf(x.k.version, values)
		x.prepare(ctx, live)
		x.explainProvider()
		x.explainClient()
		x.explainEndpoints()
		x.explainRequest()
		x.explainWay()
		x.explainSession()
		if err := x.explainSubject(ctx); err != nil {
			return err
		}
		x.Curl = x.curl()
	}
	x.explainToken()
	if x.profile != nil {
		x.explainServer()
	}
	if live && x.profile != nil {
		x.explainMetadata()
		x.explainNetwork(ctx)
	}
	return ctx.Err()
}

// storeFailed gives errors that end an explanation, and makes findings of others.
func (x *explaining) storeFailed(ctx context.Context, topic string, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, store.ErrNotExist), errors.Is(err, store.ErrLocked):
		return err
	}
	x.fail(topic, err)
	return nil
}

func (x *explaining) mistakes(err error) {
	var list *profile.Mistakes
	if !errors.As(err, &list) {
		x.fail("text", err)
		return
	}
	if x.err == nil {
		x.err = err
	}
	for i, m := range list.List {
		if i == maxMistakes {
			x.add(Problem, "text", "and %d more", len(list.List)-i)
			break
		}
		x.add(Problem, "text", "%v", &profile.Mistakes{List: []profile.Mistake{m}})
	}
}

// readText says whether the text may be used, and what is wrong with it.
func (x *explaining) readText(ctx context.Context) (usable bool, err error) {
	text, err := x.b.textNow(ctx, x.asked.Profile)
	var data []byte
	if err == nil {
		data, text.version, err = x.b.Profiles.Get(ctx, text.profile)
	}
	if err != nil {
		return false, x.storeFailed(ctx, "text", err)
	}
	version := string(text.version)
	x.add(Info, "text", "version %s, %d bytes", version[:min(12, len(version))], len(data))
	trusted, err := x.b.Trusted(text.profile, data)
	switch {
	case err != nil:
		x.fail("trust", fmt.Errorf("whether it is trusted cannot be found out: %w", err))
	case !trusted:
		x.fail("trust", ErrUntrusted)
	default:
		x.add(OK, "trust", "its text is trusted on this machine")
	}
	var p *profile.Profile
	if x.text, err = profile.Parse(data); err == nil {
		p, err = x.text.Profile(nil)
	}
	if err != nil {
		x.mistakes(err)
		return false, nil
	}
	x.given = givenBy(x.text)
	x.k = factsOf(text, p).asked(x.asked)
	x.ofSession = p.Kept()
	return trusted, nil
}

// givenBy gives the assignments in force of our variables, by their first names.
func givenBy(text *profile.Text) map[string]envfile.Var {
	last := make(map[string]envfile.Var)
	for _, v := range text.Vars {
		last[v.Name] = v
	}
	given := make(map[string]envfile.Var)
	for _, row := range profile.Variables {
		for _, name := range append([]string{row.Name}, row.Aliases...) {
			for _, suffix := range []string{"", "_FILE", "_COMMAND"} {
				if v := last[name+suffix]; v.Value != "" {
					given[row.Name] = v
				}
			}
		}
	}
	return given
}

// source says where the text gives a variable, or "".
func (x *explaining) source(name string) string {
	v, ok := x.given[name]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s in line %d", v.Name, v.Line)
}

// elsewhere says whether a variable's value stands in a file, or is printed by a
// command: the text keeps it out of sight, and so does an explanation.
func (x *explaining) elsewhere(name string) bool {
	v := x.given[name].Name
	return strings.HasSuffix(v, "_FILE") || strings.HasSuffix(v, "_COMMAND")
}

// shown is the value of a variable that is no secret.
func (x *explaining) shown(name, value string) string {
	if x.elsewhere(name) {
		return "(from " + x.source(name) + ")"
	}
	return value
}

// readValues gives the values that stand elsewhere; nil if one cannot be read.
func (x *explaining) readValues(ctx context.Context) (map[string]string, error) {
	values := make(map[string]string)
	whole := true
	for _, e := range x.text.External() {
		// One at a time: each that fails is worth knowing.
		read, err := x.b.Resolve(ctx, []profile.External{e})
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			whole = false
			x.fail("values", &valuesError{err})
		case e.File != "":
			x.add(OK, "values", "%s is read from a file, as line %d says", e.Variable, e.Line)
		default:
			x.add(OK, "values", "%s is what a command prints, as line %d says", e.Variable, e.Line)
		}
		maps.Copy(values, read)
	}
	if !whole {
		return nil, nil
	}
	return values, nil
}

// read says whether the text is right with the values that stand elsewhere.
func (x *explaining) read(values map[string]string) bool {
	p, err := x.text.Profile(values)
	if err != nil {
		x.mistakes(err)
		return false
	}
	x.profile = p
	return true
}

// readSession does not wait for a renewal that hangs: that may be what is to be
// explained.
func (x *explaining) readSession(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, turnTime)
	defer cancel()
	s, err := x.b.peek(short, x.asked.Profile)
	switch {
	case err == nil:
		x.session = *s
	case short.Err() != nil && ctx.Err() == nil:
		x.unread = true
		x.add(Info, "session", "it is in use: a renewal or a logout is under way")
	case errors.Is(err, errDamaged) && !x.ofSession:
		x.add(Warning, "session", "%v", err)
	default:
		x.unread = true
		return x.storeFailed(ctx, "session", err)
	}
	return nil
}

// prepare is what [Broker.prepare] does, with the metadata that are there.
func (x *explaining) prepare(ctx context.Context, live bool) {
	b, p := x.b, x.profile
	x.ready = &Prepared{Name: x.k.profile, Version: x.k.version, Profile: p, Client: p.Client, Endpoints: p.Endpoints, Issuer: p.Issuer, broker: b}
	if p.Issuer != "" && p.GitHub == nil {
		x.cached, x.cachedFor = b.known(discoveryKey{p.Issuer, p.Client.Transport})
		if left, _ := b.closed(p.Issuer); live && left <= 0 {
			limited, cancel := context.WithTimeout(ctx, discoverTime)
			defer cancel()
			way := p.Client.Transport
			way.Certificate, way.CertificateKey = "", oauth.Secret{}
			if x.nowErr = b.admit(limited, x.k.profile, p.Issuer); x.nowErr == nil {
				x.now, x.nowErr = oauth.Discover(limited, p.Issuer, way)
				x.nowErr = b.heard(p.Issuer, x.nowErr)
			}
		}
		m := x.cached
		if m == nil {
			m = x.now
		}
		if m != nil && needsDiscovery(p) {
			x.ready.settle(m)
		}
	}
	client := &x.ready.Client
	client.TokenURL = x.ready.Endpoints.Token
	client.AssertionAudience = x.ready.audience()
	if x.session.hasNextSecret(p) {
		client.Secret = p.NextSecret
	}
	x.request = p.Request
	x.k.into(&x.request)
	if p.Kept() && x.session.meansAll(x.k, x.ready.ownKey()) {
		x.request.Scopes = nil
	}
}

// proves says whether possession of a key is proved (RFC 9449).
func (x *explaining) proves() bool {
	x.b.mu.Lock()
	defer x.b.mu.Unlock()
	switch x.profile.DPoP {
	case profile.On:
		return true
	case profile.Auto:
		return x.session.DPoPKey != "" || x.b.provers[x.k.profile] != nil
	default:
		return false
	}
}

func (x *explaining) explainProvider() {
	p := x.profile
	if p.Provider != "" {
		x.add(Info, "provider", "the preset %s fills in what the text leaves out", p.Provider)
	}
	how, ok := map[string]string{
		oauth.GrantClientCredentials: "client_credentials: the client asks for itself",
		oauth.GrantRefreshToken:      "refresh_token: it begins with OAUTH2_REFRESH_TOKEN",
		oauth.GrantAuthorizationCode: "authorization_code: somebody logs in with a browser, then a refresh token is used",
		oauth.GrantDeviceCode:        "device_code: somebody logs in on any device, then a refresh token is used",
		oauth.GrantJWTBearer:         "jwt_bearer: an assertion is sent",
		oauth.GrantTokenExchange:     "token_exchange: another token is handed in",
	}[p.Request.Grant]
	if !ok {
		how = "none: GitHub makes a token for an installation of an App"
	}
	if from := x.source("OAUTH2_GRANT"); from != "" {
		how += " (" + from + ")"
	}
	x.add(Info, "grant", "%s", how)
}

func (x *explaining) explainClient() {
	p, c := x.profile, &x.ready.Client
	if app := p.GitHub; app != nil {
		x.add(Info, "client", "App %s, installation %s; its key signs with %s",
			x.shown("GITHUB_APP_ID", app.AppID), x.shown("GITHUB_INSTALLATION", app.Installation), c.Key.Algorithm())
		return
	}
	auth := c.ChooseAuth(nil)
	x.add(Info, "client", "ID %s; authenticates by %s, %s", x.shown("CLIENT_ID", c.ID), auth, x.whyAuth(auth))
	if auth == oauth.ClientSecretBasic && c.RawBasic {
		x.add(Info, "client", "ID and secret are sent as they are, without form encoding (%s)", x.source("OAUTH2_BASIC_ENCODING"))
	}
	if c.Key != nil || auth == oauth.ClientSecretJWT {
		alg := "HS256"
		if c.Key != nil {
			alg = c.Key.Algorithm()
		}
		aud := c.AssertionAudience
		if x.elsewhere("OAUTH2_ASSERTION_AUDIENCE") {
			aud = x.shown("OAUTH2_ASSERTION_AUDIENCE", "")
		} else if aud == "" {
			aud = "the token endpoint"
		}
		x.add(Info, "client", "assertions are signed with %s, for %s", alg, aud)
	}
	switch {
	case x.session.hasNextSecret(p):
		x.add(Info, "secret", "CLIENT_SECRET_NEXT is in force: the server has refused CLIENT_SECRET")
	case !p.NextSecret.IsZero():
		x.add(Info, "secret", "CLIENT_SECRET is in force; CLIENT_SECRET_NEXT follows once it is refused")
	}
	ends := p.SecretExpires
	if ends.IsZero() || x.session.hasNextSecret(p) {
		return
	}
	switch left := time.Until(ends); {
	case left <= 0:
		x.add(Warning, "secret", "CLIENT_SECRET_EXPIRES_AT has passed: %s", clock(ends))
	case left < secretNotice:
		x.add(Warning, "secret", "CLIENT_SECRET expires %s", clock(ends))
	default:
		x.add(OK, "secret", "CLIENT_SECRET is good until %s", clock(ends))
	}
}

// clock shows a time to a person.
func clock(t time.Time) string {
	if away := time.Until(t); away.Abs() < 12*time.Hour {
		return t.Local().Format(time.TimeOnly)
	}
	return t.Local().Format(time.DateTime)
}

// whyAuth says why the client authenticates as it does.
func (x *explaining) whyAuth(auth oauth.AuthMethod) string {
	p := x.profile
	switch from := x.source("OAUTH2_CLIENT_AUTH"); {
	case from != "":
		return "as " + from + " says"
	case p.Client.Auth != "" && p.Client.Key != nil:
		return "since the key signs the grant's assertion and not the client's"
	case p.Client.Auth != "":
		return "as the preset " + p.Provider + " has it"
	case auth == oauth.PrivateKeyJWT:
		return "since there is a PRIVATE_KEY"
	case auth == oauth.TLSClientAuth:
		return "since there is a TLS_CLIENT_CERT"
	case auth == oauth.AuthNone:
		return "since there is no secret, key or certificate"
	case auth == oauth.ClientSecretPost:
		return "since the server's metadata list it, and not client_secret_basic"
	case x.ready.Metadata == nil && p.Issuer != "":
		return "unless the server's metadata list only client_secret_post"
	default:
		return "which every server takes that takes a secret (RFC 6749 section 2.3.1)"
	}
}

func (x *explaining) explainEndpoints() {
	p := x.profile
	if p.GitHub != nil {
		x.add(Info, "endpoint", "API %s", p.GitHub.API)
		return
	}
	if p.Issuer != "" {
		from := x.source("OAUTH2_ISSUER")
		if from == "" {
			from = "the preset " + p.Provider
		}
		read := ""
		if x.cached != nil {
			read = "; its metadata were read " + ago(x.cachedFor)
		}
		x.add(Info, "issuer", "%s (%s)%s", p.Issuer, from, read)
	}
	x.endpoint("token", "OAUTH2_TOKEN_URL", p.Endpoints.Token, x.ready.Endpoints.Token, true)
	switch p.Request.Grant {
	case oauth.GrantAuthorizationCode:
		x.endpoint("authorization", "OAUTH2_AUTH_URL", p.Endpoints.Authorization, x.ready.Endpoints.Authorization, false)
	case oauth.GrantDeviceCode:
		x.endpoint("device authorization", "OAUTH2_DEVICE_URL", p.Endpoints.DeviceAuthorization, x.ready.Endpoints.DeviceAuthorization, false)
	}
}

func ago(d time.Duration) string {
	if d < time.Second {
		return "just now"
	}
	return d.Round(time.Second).String() + " ago"
}

// endpoint says where an endpoint comes from: text is what the profile has, known
// what is in force.
func (x *explaining) endpoint(what, variable, text, known string, needed bool) {
	switch {
	case text != "" && x.source(variable) != "":
		x.add(Info, "endpoint", "%s %s (%s)", what, text, x.source(variable))
	case text != "":
		x.add(Info, "endpoint", "%s %s (the preset %s)", what, text, x.profile.Provider)
	case known != "" && x.cached != nil:
		x.add(Info, "endpoint", "%s %s (the issuer's metadata)", what, known)
	case known != "":
		x.add(Info, "endpoint", "%s %s (the issuer's metadata, read just now)", what, known)
	case x.ready.Metadata != nil && needed:
		x.add(Problem, "endpoint", "%s: the issuer's metadata name none, nor does the text", what)
	case x.ready.Metadata != nil:
		x.add(Warning, "endpoint", "%s: the issuer's metadata name none, nor does the text", what)
	case needed:
		x.add(Info, "endpoint", "%s: the issuer's metadata are to name it, and are read when a token is asked for", what)
	default:
		x.add(Info, "endpoint", "%s: the issuer's metadata are to name it, and are read at a login", what)
	}
}

func (x *explaining) explainRequest() {
	for _, part := range []struct {
		what, variable string
		byCaller       bool
		value          []string
	}{
		{"scope", "OAUTH2_SCOPE", len(x.asked.Scopes) > 0, x.request.Scopes},
		{"audience", "OAUTH2_AUDIENCE", x.asked.Audience != "", x.request.Audience},
		{"resource", "OAUTH2_RESOURCE", x.asked.Resource != "", x.request.Resource},
	} {
		value := strings.Join(part.value, " ")
		switch {
		case value == "" && part.what == "scope" && x.profile.Kept() && x.session.TextScopes != "":
			x.add(Info, "request", "scope: all that was granted at the login")
		case value == "":
		case part.byCaller:
			x.add(Info, "request", "%s %s, as the caller wants", part.what, value)
		case x.elsewhere(part.variable):
			x.add(Info, "request", "%s %s", part.what, x.shown(part.variable, ""))
		default:
			x.add(Info, "request", "%s %s", part.what, value)
		}
	}
	if names := slices.Sorted(maps.Keys(x.request.Extra)); len(names) > 0 {
		x.add(Info, "request", "further parameters: %s", strings.Join(names, ", "))
	}
}

// explainWay is about proofs, certificates and proxies.
func (x *explaining) explainWay() {
	p := x.profile
	if p.GitHub == nil {
		switch {
		case p.DPoP == profile.Off:
			x.add(Info, "dpop", "off (%s)", x.source("OAUTH2_DPOP"))
		case x.proves():
			x.add(Info, "dpop", "tokens are bound to a key, which stays here")
		default:
			x.add(Info, "dpop", "not used, unless the server asks for it")
		}
	}
	if p.Request.Grant == oauth.GrantAuthorizationCode {
		how := map[profile.Switch]string{
			profile.On:   "authorization requests are pushed",
			profile.Off:  "authorization requests are not pushed",
			profile.Auto: "authorization requests are pushed if the server requires it",
		}[p.PAR]
		x.add(Info, "par", "%s", how)
	}
	t := p.Client.Transport
	if cert := firstCertificate(t.Certificate); cert != nil {
		switch left := time.Until(cert.NotAfter); {
		case left <= 0:
			x.add(Problem, "mtls", "the client certificate %s ended %s", cert.Subject, clock(cert.NotAfter))
		case left < cert.NotAfter.Sub(cert.NotBefore)/10:
			x.add(Warning, "mtls", "the client certificate %s ends %s", cert.Subject, clock(cert.NotAfter))
		default:
			x.add(OK, "mtls", "the client certificate %s is good until %s", cert.Subject, clock(cert.NotAfter))
		}
	}
	if t.CA != "" {
		x.add(Info, "ca", "servers are trusted by TLS_CA alone, not by the system's roots")
	}
	switch proxy := x.proxy(); {
	case proxy != "":
		x.add(Info, "proxy", "%s", proxy)
	case t.Proxy == "direct":
		x.add(Info, "proxy", "none (%s)", x.source("OAUTH2_PROXY"))
	}
}

func firstCertificate(text string) *x509.Certificate {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}

// server is the URL of what is asked for a token; "" if it is not known.
func (x *explaining) server() string {
	return cmp.Or(x.ready.endpoint(), x.profile.Issuer)
}

// proxy is the one in use, without user name and password, and where it comes
// from; "" if there is none.
func (x *explaining) proxy() string {
	target, err := url.Parse(x.server())
	if err != nil || target.Scheme == "http" {
		return ""
	}
	from := x.source("OAUTH2_PROXY")
	var u *url.URL
	switch raw := x.profile.Client.Transport.Proxy; raw {
	case "direct":
		return ""
	case "":
		from = "the daemon's environment"
		u, err = http.ProxyFromEnvironment(&http.Request{URL: target})
	default:
		u, err = url.Parse(raw)
	}
	switch {
	case err != nil:
		return "no URL (" + from + ")"
	case u == nil:
		return ""
	}
	return u.Scheme + "://" + u.Host + " (" + from + ")"
}

func (x *explaining) explainSession() {
	if n := len(x.session.Revocations); n > 0 {
		x.add(Info, "session", "%d revocations are still to be told to a server", n)
	}
	if !x.profile.Kept() || x.unread {
		return
	}
	h := &held{session: x.session}
	h.copyFromText(x.ready)
	now := *x.ready
	if now.Client.TokenURL == "" {
		now.Client.TokenURL = h.TokenURL // the metadata have yet to name it
	}
	if why := x.b.needsLogin(h, &now, x.k); why != "" {
		x.fail("session", h.loginError(&now, why))
	}
	over := false
	if h.Access != nil {
		left, ends := x.b.savedLeft(h.Access)
		over = ends && left <= 0
	}
	switch {
	case h.Ended != "" || h.RefreshToken == "" && (h.Access == nil || over):
		return
	case h.RefreshToken == "" && h.Access.Ends == nil:
		x.add(Info, "session", "the login brought an access token that is good until it is refused, and no refresh token")
	case h.RefreshToken == "":
		x.add(Warning, "session", "the login brought an access token that is good until %s, and no refresh token: then somebody has to log in again", clock(*h.Access.Ends))
	case h.RefreshToken != x.session.RefreshToken:
		x.add(Info, "session", "OAUTH2_REFRESH_TOKEN has not been used yet, and will be")
	case h.Fixed:
		x.add(Info, "session", "there is a refresh token, which the server leaves as it is")
	default:
		x.add(Info, "session", "there is a refresh token, which is replaced when it is used")
	}
	if h.Spending != "" {
		x.add(Warning, "session", "the refresh token was sent and no answer was kept: whether it is still good is not known")
	}
	if own := normalise(x.profile.Request.Scopes); own != h.TextScopes {
		x.add(Info, "session", "the text asks for other scopes than at the login")
	}
	if slices.Contains(x.b.Unsaved(), x.k.profile) {
		x.add(Warning, "session", "it could not be written and is in memory only")
	}
}

// explainSubject goes along the profiles whose tokens this one's is made of.
func (x *explaining) explainSubject(ctx context.Context) error {
	s := x.profile.Subject
	if s == nil {
		return nil
	}
	if s.Profile == "" {
		x.add(Info, "subject", "the token that %s gives", x.source("OAUTH2_SUBJECT_TOKEN"))
		return nil
	}
	if x.elsewhere("OAUTH2_SUBJECT_TOKEN_PROFILE") {
		x.add(Info, "subject", "the token of the profile that %s names", x.source("OAUTH2_SUBJECT_TOKEN_PROFILE"))
	}
	chain := []string{x.k.profile}
	for subject := s.Profile; subject != ""; {
		round := slices.Contains(chain, subject)
		if chain = append(chain, subject); round {
			x.add(Problem, "subject", "the chain of profiles comes back to itself: %s", strings.Join(chain, " -> "))
			break
		}
		f, err := x.b.factsFor(ctx, subject)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			x.add(Problem, "subject", "the token of %s: %v", subject, err)
			return nil
		}
		switch now := x.b.standing(f.key()); {
		case now.Token != nil:
			x.add(OK, "subject", "the token of %s, which is good until %s", subject, clock(time.Now().Add(now.Token.Remaining)))
		case now.Err != nil:
			x.add(Problem, "subject", "the token of %s: %v", subject, now.Err)
		default:
			x.add(Info, "subject", "the token of %s, which is asked for when it is needed", subject)
		}
		subject = x.b.waitsFor(f)
	}
	return nil
}

// explainToken is about what is held and how the last tries went.
func (x *explaining) explainToken() {
	now := x.b.standing(x.k)
	if now.Err == nil {
		now.Retry, now.Err = x.refused()
	}
	x.Standing = now
	if now.Token == nil && now.Err == nil {
		x.Standing.Err = x.err // which has been said
	}
	if t := now.Token; t != nil {
		ends := clock(time.Now().Add(t.Remaining))
		x.add(OK, "token", "there is one, good until %s (%v of %v)", ends, t.Remaining.Round(time.Second), t.Lifetime)
		if t.ExpiryAssumed {
			x.add(Info, "token", "the server does not say how long it lives; %v is assumed", t.Lifetime)
		}
		if now.Renews > 0 {
			x.add(Info, "token", "it is renewed %s", clock(time.Now().Add(now.Renews)))
		} else {
			x.add(Info, "token", "no renewal is planned until somebody asks for it")
		}
		if x.profile != nil {
			x.explainScopes(t.Scopes)
		}
		if t.Warning != "" {
			x.add(Warning, "token", "%s", t.Warning)
		}
	} else if x.Standing.Err == nil {
		x.add(Info, "token", "there is none; who asks for one has it fetched")
	}
	if now.Err == nil {
		return
	}
	level, again := Problem, ""
	if now.Token != nil {
		level = Warning
	}
	if now.Retry > 0 {
		again = "; the server is asked again " + clock(time.Now().Add(now.Retry))
	}
	x.add(level, "failure", "%v%s", now.Err, again)
}

// refused looks at what was refused before tokend was started, which a token
// would be answered with.
func (x *explaining) refused() (again time.Duration, err error) {
	b, list := x.b, x.session.Refusals
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.facts[x.k.profile]; f != nil && f.textKey == x.k.textKey && f.known {
		list = f.refusals()
	}
	for _, r := range list {
		// Which token would be exchanged now is not known.
		if left := b.left(&r); left > 0 && r.Cause == x.cause && r.concerns(x.k, r.Subject) {
			return left, &RefusedError{r.error(), left, r.Variable}
		}
	}
	return 0, nil
}

func (x *explaining) explainServer() {
	if left, why := x.b.closed(x.server()); left > 0 {
		x.add(Warning, "server", "it wants to be left alone until %s: %v", clock(time.Now().Add(left)), why)
	}
}

// explainScopes holds what was granted against what was asked for.
func (x *explaining) explainScopes(granted []string) {
	asked := x.request.Scopes
	if asked == nil {
		asked = x.profile.Request.Scopes
	}
	if x.profile.GitHub != nil || len(asked) == 0 {
		if len(granted) > 0 {
			x.add(Info, "token", "granted: %s", strings.Join(granted, " "))
		}
		return
	}
	missing := slices.DeleteFunc(slices.Clone(asked), func(s string) bool { return slices.Contains(granted, s) })
	switch {
	case len(missing) == 0:
		x.add(OK, "token", "all scopes were granted that were asked for")
	case x.elsewhere("OAUTH2_SCOPE") && len(x.asked.Scopes) == 0:
		x.add(Warning, "token", "not granted: %d of %d scopes", len(missing), len(asked))
	default:
		x.add(Warning, "token", "not granted: %s", strings.Join(missing, " "))
	}
}

// explainMetadata holds what the server says of itself now against the text.
func (x *explaining) explainMetadata() {
	p, m := x.profile, x.now
	switch {
	case p.Issuer == "" || p.GitHub != nil:
		return
	case m == nil && x.nowErr == nil:
		return // the server wants to be left alone
	case m == nil && needsDiscovery(p):
		x.add(Problem, "discovery", "%v", x.nowErr)
		return
	case m == nil:
		x.add(Warning, "discovery", "%v; a token needs none of the metadata", x.nowErr)
		return
	}
	x.add(OK, "discovery", "the metadata of %s can be read, and are of this issuer", p.Issuer)
	byCertificate := p.Client.Transport.Certificate != ""
	from := m.Endpoints
	if byCertificate {
		from = over(m.MTLS, from)
	}
	for _, e := range []struct{ what, text, now string }{
		{"token", p.Endpoints.Token, from.Token},
		{"authorization", p.Endpoints.Authorization, from.Authorization},
		{"device authorization", p.Endpoints.DeviceAuthorization, from.DeviceAuthorization},
		{"introspection", p.Endpoints.Introspection, from.Introspection},
		{"revocation", p.Endpoints.Revocation, from.Revocation},
	} {
		if differ(e.text, e.now) {
			x.add(Warning, "discovery", "the %s endpoint is %s in the profile, and %s in the metadata", e.what, e.text, e.now)
		}
	}
	if x.cached != nil && (x.cached.Endpoints != m.Endpoints || x.cached.MTLS != m.MTLS) {
		x.add(Warning, "discovery", "the endpoints are others than %s; they are taken over within %v", ago(x.cachedFor), (metadataLife - x.cachedFor).Round(time.Second))
	}
	if grant := p.Request.Grant; m.Grants != nil && !slices.Contains(m.Grants, grant) {
		x.add(Warning, "discovery", "the server does not list the grant %s (grant_types_supported)", grant)
	}
	auth := x.ready.Client.ChooseAuth(m.TokenAuthMethods)
	switch listed := m.TokenAuthMethods; {
	case listed == nil:
	case slices.Contains(listed, string(auth)):
		x.add(OK, "discovery", "the server lists %s", auth)
	default:
		x.add(Warning, "discovery", "the server does not list %s (token_endpoint_auth_methods_supported)", auth)
	}
	if p.Request.Grant == oauth.GrantAuthorizationCode {
		switch err := m.CheckPKCE(); {
		case err != nil:
			x.add(Problem, "discovery", "%v", err)
		case m.CodeChallengeMethods == nil:
			x.add(Info, "discovery", "the server lists no methods of PKCE; S256 is used")
		default:
			x.add(OK, "discovery", "the server lists PKCE by S256")
		}
		if m.RequirePAR && p.PAR == profile.Off {
			x.add(Problem, "discovery", "the server requires pushed authorization requests, which are off (%s)", x.source("OAUTH2_PAR"))
		}
	}
	usable := slices.Contains(m.DPoPAlgs, "ES256") || slices.Contains(m.DPoPAlgs, "EdDSA")
	switch {
	case m.DPoPAlgs == nil && x.proves():
		x.add(Warning, "discovery", "tokens are to be bound to a key, and the server does not list DPoP (dpop_signing_alg_values_supported)")
	case m.DPoPAlgs != nil && x.proves() && !usable:
		x.add(Warning, "discovery", "the server lists neither ES256 nor EdDSA for DPoP")
	case m.DPoPAlgs != nil && p.DPoP == profile.Off:
		x.add(Info, "discovery", "the server lists DPoP, which is off")
	}
}

// explainNetwork looks at the way to the server, and to its issuer where that is
// another host.
func (x *explaining) explainNetwork(ctx context.Context) {
	targets := []string{x.server()}
	if issuer := x.profile.Issuer; issuer != "" && hostOf(issuer) != hostOf(targets[0]) {
		targets = append(targets, issuer)
	}
	targets = slices.DeleteFunc(targets, func(target string) bool {
		left, _ := x.b.closed(target)
		if left > 0 {
			x.add(Info, "network", "%s is not looked at while it wants to be left alone", hostOf(target))
		}
		return left > 0
	})
	found := make([]*oauth.Probed, len(targets))
	var looks sync.WaitGroup
	for i, target := range targets {
		looks.Go(func() {
			if x.b.admit(ctx, x.k.profile, target) == nil {
				found[i] = oauth.Probe(ctx, target, x.profile.Client.Transport)
				if status := found[i].Status; status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
					_ = x.b.heard(target, &oauth.Error{Op: "looking at " + hostOf(target), Kind: oauth.Temporary, Sent: true, Reached: true,
						Status: status, RetryAfter: found[i].RetryAfter})
				}
			}
		})
	}
	looks.Wait()
	for i, p := range found {
		if p == nil {
			x.add(Info, "network", "%s is not looked at: too many requests to it are waiting", hostOf(targets[i]))
			continue
		}
		x.explainProbe(p)
	}
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

func (x *explaining) explainProbe(p *oauth.Probed) {
	took := func(d time.Duration) string {
		if d < time.Millisecond {
			return "<1ms"
		}
		return d.Round(time.Millisecond).String()
	}
	host := p.Host
	if p.Proxy != "" {
		x.add(Info, "proxy", "%s is reached through %s", p.Host, p.Proxy)
		host = "the proxy"
	}
	if len(p.Addresses) > 0 {
		x.add(OK, "dns", "%s is %s (%s)", host, few(p.Addresses), took(p.Resolve))
	}
	if p.Connected != "" {
		x.add(OK, "tcp", "%s answers at %s (%s)", host, p.Connected, took(p.Connect))
	}
	if p.TLS != "" {
		x.add(OK, "tls", "%s: %s, a certificate for %s by %s, until %s (%s)", p.Host, p.TLS, few(p.Names), p.Issuer, clock(p.NotAfter), took(p.Handshake))
	}
	if p.Status != 0 {
		x.add(OK, "http", "%s answers a GET with status %d (%s)", p.Host, p.Status, took(p.Answer))
	}
	if !p.Date.IsZero() {
		x.explainClock(p)
	}
	if p.Withheld {
		x.add(Info, "mtls", "%s was not shown the client certificate", p.Host)
	}
	if p.Err == nil {
		return
	}
	topic, level := "http", Problem
	switch {
	case p.Err.Proxy:
		topic = "proxy"
	case p.Connected == "" && p.Addresses == nil && !isAddress(p.Host):
		topic = "dns"
	case p.Connected == "":
		topic = "tcp"
	case p.Secure && p.TLS == "":
		topic = "tls"
	}
	if p.Withheld && p.Connected != "" && (p.Names == nil || p.TLS != "") {
		level = Info // a server may well insist on the certificate
	}
	text := p.Err.Error()
	if p.TLS == "" && p.Names != nil {
		text += "; it is for " + few(p.Names) + ", by " + p.Issuer + ", until " + clock(p.NotAfter)
	}
	x.add(level, topic, "%s", text)
}

// isAddress says whether no name has to be resolved for the host of a URL.
func isAddress(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	return net.ParseIP(name) != nil
}

// few shows the beginning of a list.
func few(list []string) string {
	const most = 4
	if more := len(list) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), more)
	}
	return strings.Join(list, ", ")
}

// explainClock is about this machine's clock, by which lifetimes are not counted,
// but assertions and proofs are dated.
func (x *explaining) explainClock(p *oauth.Probed) {
	off := p.Skew.Abs()
	if off <= clockNotice {
		x.add(OK, "clock", "this machine's and that of %s agree, to a minute", p.Host)
		return
	}
	direction := "ahead of"
	if p.Skew < 0 {
		direction = "behind"
	}
	level, why := Warning, ""
	auth := x.ready.Client.ChooseAuth(nil)
	if x.ready.Client.Key != nil || auth == oauth.ClientSecretJWT || x.proves() {
		level, why = Problem, "; what is signed here is dated by it"
	}
	x.add(level, "clock", "this machine's is %v %s that of %s%s", off, direction, p.Host, why)
}
