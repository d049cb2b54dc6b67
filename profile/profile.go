// Package profile turns a profile's text, an env file, into what the rest of
// the program works with. It does no I/O and reads no clock: the values of
// NAME_FILE and NAME_COMMAND variables come in as arguments.
package profile

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokend/internal/envfile"
	"tokend/oauth"
)

const (
	defaultLifetime = 5 * time.Minute
	maxLifetime     = 24 * time.Hour
)

// A Profile is what a text says: who the client is, what to ask the
// authorization server for, and where the token may go.
type Profile struct {
	Issuer    string // "" if the text names endpoints only
	Endpoints oauth.Endpoints
	Client    oauth.Client // TokenURL is "" where discovery must name it
	Request   oauth.Request

	// DefaultLifetime is a token's lifetime where the server says none.
	DefaultLifetime time.Duration

	// APIOrigins are where a token may be sent: scheme, host in lower case,
	// and port unless it is the scheme's own.
	APIOrigins []string

	// Others are the variables in force that are not ours, for env and exec.
	Others []envfile.Var
}

// Profile reads the variables of t. values are what the variables of
// External came to, by their names. With nil values t is only checked: what
// stands elsewhere counts as given and right, and is missing from the Profile.
// The error is a *Mistakes with everything that is wrong.
func (t *Text) Profile(values map[string]string) (*Profile, error) {
	r := reader{values: values, given: map[string]given{}}
	p := &Profile{DefaultLifetime: defaultLifetime}
	for _, v := range t.inForce() {
		row := lookup(v.Name)
		base, suffix := lookupExternal(v.Name)
		switch {
		case strings.HasPrefix(v.Name, extraPrefix):
			r.extra(&p.Request, row, v)
		case row != nil:
			r.give(row, "", v)
		case base != nil:
			r.give(base, suffix, v)
		case strings.HasPrefix(v.Name, "TOKEND_"):
			r.add(v.Line, v.Name, "settings are the machine's; they belong into its configuration file, not into a profile")
		case strings.HasPrefix(v.Name, ourPrefix):
			message := "no such variable"
			if s := suggest(v.Name); s != "" {
				message += "; did you mean " + s + "?"
			}
			r.add(v.Line, v.Name, message)
		default:
			p.Others = append(p.Others, v)
		}
	}
	r.resolve()

	p.Issuer = r.issuer()
	p.Endpoints = oauth.Endpoints{
		Token:               r.url("OAUTH2_TOKEN_URL"),
		Authorization:       r.url("OAUTH2_AUTH_URL"),
		DeviceAuthorization: r.url("OAUTH2_DEVICE_URL"),
		Introspection:       r.url("OAUTH2_INTROSPECTION_URL"),
		Revocation:          r.url("OAUTH2_REVOCATION_URL"),
		Registration:        r.url("OAUTH2_REGISTRATION_URL"),
	}
	if !r.has("OAUTH2_ISSUER") && !r.has("OAUTH2_TOKEN_URL") {
		r.add(0, "", "no authorization server; set OAUTH2_ISSUER, or OAUTH2_TOKEN_URL")
	}
	p.Request.Grant = r.grant()
	p.Request.Scopes = r.scopes()
	p.Request.Audience = r.list("OAUTH2_AUDIENCE")
	p.Request.Resource = r.resources()
	p.Client = r.client(p.Endpoints.Token, p.Others)
	if r.known("OAUTH2_DEFAULT_LIFETIME") {
		d, err := time.ParseDuration(r.value("OAUTH2_DEFAULT_LIFETIME"))
		if err != nil || d <= 0 || d > maxLifetime {
			r.wrong("OAUTH2_DEFAULT_LIFETIME", "not a duration above 0 and up to 24h; write 90s, 5m or 1h30m")
		}
		p.DefaultLifetime = d
	}
	p.APIOrigins = r.origins()

	if len(r.mistakes) > 0 {
		slices.SortStableFunc(r.mistakes, func(a, b Mistake) int {
			return cmp.Compare(uint(a.Line-1), uint(b.Line-1)) // no line, 0, goes last
		})
		return nil, &Mistakes{r.mistakes}
	}
	return p, nil
}

// A given is a variable of ours that the text gives.
type given struct {
	envfile.Var
	row     *Variable
	suffix  string // of Name: "", "_FILE" or "_COMMAND"
	unknown bool   // its value stands elsewhere, or is a mistake already
}

// A reader reads the variables that a text gives, and keeps what is wrong.
type reader struct {
	values   map[string]string
	given    map[string]given // by the name of their row
	mistakes []Mistake
}

func (r *reader) add(line int, variable, message string) {
	r.mistakes = append(r.mistakes, Mistake{line, variable, message})
}

// wrong is a mistake in the value of a variable that is given.
func (r *reader) wrong(name, message string) {
	g := r.given[name]
	r.add(g.Line, g.Name, message)
	g.unknown = true
	r.given[name] = g
}

func (r *reader) has(name string) bool {
	_, ok := r.given[name]
	return ok
}

// known reports whether the variable is given and its value can be looked at.
func (r *reader) known(name string) bool {
	g, ok := r.given[name]
	return ok && !g.unknown
}

// value is "" if the variable is not given or its value is not known.
func (r *reader) value(name string) string {
	if g := r.given[name]; !g.unknown {
		return g.Value
	}
	return ""
}

// give takes v for a variable of ours. An empty one is as good as none.
func (r *reader) give(row *Variable, suffix string, v envfile.Var) {
	if v.Value == "" {
		return
	}
	other, ok := r.given[row.Name]
	switch {
	case !ok:
		r.given[row.Name] = given{Var: v, row: row, suffix: suffix}
	case other.suffix != suffix:
		r.add(v.Line, v.Name, fmt.Sprintf("stands beside %s in line %d; keep one of the two", other.Name, other.Line))
	case other.Value != v.Value:
		r.add(v.Line, v.Name, fmt.Sprintf("differs from %s in line %d; keep one of the two", other.Name, other.Line))
	}
}

// extra takes v for a further form parameter.
func (r *reader) extra(request *oauth.Request, row *Variable, v envfile.Var) {
	if v.Value == "" {
		return
	}
	parameter := v.Name[len(extraPrefix):]
	_, suffix := cutSuffix(parameter)
	own, ours := ownParameters[strings.ToLower(parameter)]
	mistake := control(v.Value, false)
	switch {
	case parameter == "":
		mistake = "names no parameter; write OAUTH2_EXTRA_NAME=value"
	case suffix != "":
		mistake = "a form parameter is given by its value only: all that stands behind OAUTH2_EXTRA_ is its name, " + suffix + " too"
	case ours:
		mistake = "this parameter is sent anyway; use " + own
	case v.Expansion != "":
		mistake = unexpanded(row, "", v.Expansion)
	}
	if mistake != "" {
		r.add(v.Line, v.Name, mistake)
		return
	}
	if request.Extra == nil {
		request.Extra = url.Values{}
	}
	request.Extra.Set(parameter, v.Value)
}

// ownParameters are the form parameters that we send ourselves, and the
// variables that they come from.
var ownParameters = map[string]string{
	"grant_type":    "OAUTH2_GRANT",
	"client_id":     "CLIENT_ID",
	"client_secret": "CLIENT_SECRET",
	"scope":         "OAUTH2_SCOPE",
	"audience":      "OAUTH2_AUDIENCE",
	"resource":      "OAUTH2_RESOURCE",
}

// resolve puts the values that stand elsewhere into their places, and checks
// what all values have in common.
func (r *reader) resolve() {
	for _, row := range Variables {
		g, ok := r.given[row.Name]
		if !ok {
			continue
		}
		var mistake string
		switch {
		case g.suffix == "" && g.Expansion != "":
			mistake = unexpanded(g.row, "", g.Expansion)
		case g.suffix == "":
			mistake = control(g.Value, row.Name == "TLS_CA")
		default:
			if _, mistake = external(g.row, g.suffix, g.Var); mistake != "" {
				break
			}
			if r.values == nil {
				g.unknown = true
				break
			}
			g.Value = r.values[row.Name]
			if mistake = control(g.Value, row.Name == "TLS_CA"); mistake != "" {
				mistake = "its value " + mistake
			} else if g.Value == "" {
				mistake = "its value is empty"
			}
		}
		r.given[row.Name] = g
		if mistake != "" {
			r.wrong(row.Name, mistake)
		}
	}
}

func (r *reader) url(name string) string {
	if !r.known(name) {
		return ""
	}
	if _, err := oauth.CheckURL(r.value(name)); err != nil {
		r.wrong(name, err.Error())
	}
	return r.value(name)
}

// issuer is a URL without query too (RFC 8414 section 2).
func (r *reader) issuer() string {
	issuer := r.url("OAUTH2_ISSUER")
	if strings.Contains(issuer, "?") {
		r.wrong("OAUTH2_ISSUER", "has a query; an issuer is a URL without (RFC 8414 section 2)")
	}
	return issuer
}

func (r *reader) grant() string {
	const instead = "; use client_credentials"
	switch grant := r.value("OAUTH2_GRANT"); grant {
	case "", oauth.GrantClientCredentials:
	case "password":
		r.wrong("OAUTH2_GRANT", "refused: this grant shows a person's password to the client and must not be used (RFC 9700 section 2.4)"+instead)
	case "implicit":
		r.wrong("OAUTH2_GRANT", "refused: this grant leaks access tokens through URLs (RFC 9700 section 2.1.2)"+instead)
	default:
		r.wrong("OAUTH2_GRANT", "not a grant that this version knows"+instead)
	}
	return oauth.GrantClientCredentials
}

// list is the entries of a space-separated value, nil if there are none.
func (r *reader) list(name string) []string {
	var entries []string
	for s := range strings.SplitSeq(r.value(name), " ") {
		if s != "" {
			entries = append(entries, s)
		}
	}
	return entries
}

// wrongEntry is a mistake in entry i of n.
func (r *reader) wrongEntry(name string, i, n int, message string) {
	if n > 1 {
		message = fmt.Sprintf("entry %d: %s", i+1, message)
	}
	r.wrong(name, message)
}

func (r *reader) scopes() []string {
	scopes := r.list("OAUTH2_SCOPE")
	for i, s := range scopes {
		if err := oauth.CheckScope(s); err != nil {
			r.wrongEntry("OAUTH2_SCOPE", i, len(scopes), err.Error())
		}
	}
	return scopes
}

func (r *reader) resources() []string {
	resources := r.list("OAUTH2_RESOURCE")
	for i, s := range resources {
		if err := oauth.CheckResource(s); err != nil {
			r.wrongEntry("OAUTH2_RESOURCE", i, len(resources), err.Error())
		}
	}
	return resources
}

func (r *reader) origins() []string {
	const name = "API_URL"
	var origins []string
	entries := r.list(name)
	for i, s := range entries {
		u, err := oauth.CheckURL(s)
		if err != nil {
			r.wrongEntry(name, i, len(entries), err.Error())
			continue
		}
		o := origin(u)
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery {
			r.wrongEntry(name, i, len(entries), "is more than an origin; write "+o)
			continue
		}
		if !slices.Contains(origins, o) {
			origins = append(origins, o)
		}
	}
	return origins
}

// origin writes the origin of u (RFC 6454 section 6.2).
func origin(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port, _ := strconv.Atoi(u.Port())
	if port == 0 || u.Scheme == "https" && port == 443 || u.Scheme == "http" && port == 80 {
		return u.Scheme + "://" + host
	}
	return u.Scheme + "://" + host + ":" + strconv.Itoa(port)
}

// client reads who the client is and how it gets to the server. others are
// searched for slips of the keyboard.
func (r *reader) client(tokenURL string, others []envfile.Var) oauth.Client {
	c := oauth.Client{
		ID:       r.value("CLIENT_ID"),
		Secret:   oauth.NewSecret(r.value("CLIENT_SECRET")),
		Auth:     oauth.AuthMethod(r.value("OAUTH2_CLIENT_AUTH")),
		TokenURL: tokenURL,
		Transport: oauth.Transport{
			CA:    r.value("TLS_CA"),
			Proxy: r.value("OAUTH2_PROXY"),
		},
	}
	if !r.has("CLIENT_ID") {
		r.missing(Mistake{Variable: "CLIENT_ID", Message: "missing; it says who the client is"}, "CLIENT_ID", others)
	}
	auth, secret := r.given["OAUTH2_CLIENT_AUTH"], r.given["CLIENT_SECRET"]
	const instead = "set CLIENT_SECRET, CLIENT_SECRET_FILE or CLIENT_SECRET_COMMAND"
	switch {
	case auth.unknown:
	case c.Auth == "":
		if secret.Name == "" {
			r.missing(Mistake{
				Variable: "CLIENT_SECRET",
				Message:  "missing; a public client cannot use client_credentials (RFC 6749 section 4.4); " + instead,
			}, "CLIENT_SECRET", others)
		}
	case c.Auth == oauth.ClientSecretBasic || c.Auth == oauth.ClientSecretPost:
		if secret.Name == "" {
			r.missing(Mistake{auth.Line, auth.Name, string(c.Auth) + " needs a secret; " + instead}, "CLIENT_SECRET", others)
		}
	case c.Auth == oauth.AuthNone:
		if secret.Name != "" {
			r.wrong("OAUTH2_CLIENT_AUTH", fmt.Sprintf("none sends no secret, but %s in line %d gives one; keep one of the two", secret.Name, secret.Line))
		}
	default:
		r.wrong("OAUTH2_CLIENT_AUTH", "not a method that this version knows; it is client_secret_basic, client_secret_post or none")
	}
	if r.known("OAUTH2_BASIC_ENCODING") {
		switch r.value("OAUTH2_BASIC_ENCODING") {
		case "form":
		case "raw":
			c.RawBasic = true
			if strings.Contains(c.ID, ":") {
				r.wrong("OAUTH2_BASIC_ENCODING", "raw cannot carry a CLIENT_ID with a colon in it, which ends the name in a Basic header; use form, or client_secret_post")
			}
		default:
			r.wrong("OAUTH2_BASIC_ENCODING", "neither form nor raw")
		}
	}
	if r.known("TLS_CA") {
		if mistake := checkCertificates(c.Transport.CA); mistake != "" {
			r.wrong("TLS_CA", mistake)
		}
	}
	if r.known("OAUTH2_PROXY") && c.Transport.Proxy != "direct" {
		u, err := url.Parse(c.Transport.Proxy)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
			r.wrong("OAUTH2_PROXY", "neither an http, https or socks5 URL, such as http://proxy.example:3128, nor direct")
		}
	}
	return c
}

// missing reports m, that the variable name is missing; or, where one of the
// others looks like it, that one.
func (r *reader) missing(m Mistake, name string, others []envfile.Var) {
	for _, o := range others {
		base, suffix := cutSuffix(o.Name)
		if distance(strings.ToUpper(base), name) <= farthest {
			m = Mistake{o.Line, o.Name, "not a variable of ours, and " + name + " is missing; did you mean " + name + suffix + "?"}
			break
		}
	}
	r.mistakes = append(r.mistakes, m)
}

func checkCertificates(text string) string {
	rest := []byte(text)
	for n := 1; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			switch {
			case strings.Contains(string(rest), "-----BEGIN"):
				return fmt.Sprintf("PEM block %d is damaged", n)
			case n == 1:
				return "no certificate in it; it is PEM text that begins with -----BEGIN CERTIFICATE-----"
			}
			return ""
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Sprintf("PEM block %d is not a certificate; only certificates belong here", n)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Sprintf("PEM block %d is not a certificate that can be read", n)
		}
	}
}
