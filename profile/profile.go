// Package profile turns a profile's text, an env file, into what the rest of
// the program works with. It does no I/O and reads no clock: the values of
// NAME_FILE and NAME_COMMAND variables come in as arguments.
package profile

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"tokend/internal/envfile"
	"tokend/oauth"
)

const (
	defaultLifetime = 5 * time.Minute
	maxLifetime     = 24 * time.Hour
	defaultRenewAt  = 0.85
)

// A Profile is what a text says: who the client is, what to ask the
// authorization server for, and where the token may go.
type Profile struct {
	Provider  string // the preset, an alias by its own name; "" if none
	Issuer    string // "" if the text names endpoints only
	Endpoints oauth.Endpoints

	// Client is the client, with the key that signs its assertions. TokenURL is
	// "" where discovery must name it; Auth is "" where
	// [oauth.Client.ChooseAuth] is to choose; AssertionAudience is always "".
	Client oauth.Client

	// Request is what tokens are asked for. Grant is the grant that the text
	// names, also where a person begins it, and "" with GitHub, whose
	// installation tokens are no grant.
	Request oauth.Request

	// AuthorizationExtra are further parameters of the authorization request,
	// beside Request.Extra; nil if there are none.
	AuthorizationExtra url.Values

	// AssertionAudience is the aud of every assertion: "issuer",
	// "token_endpoint" or a literal; "" is the issuer where it is known, else
	// the token endpoint.
	AssertionAudience string

	// AssertionSubject is the sub of the assertion of the JWT bearer grant; ""
	// is the client.
	AssertionSubject string

	// ScopeInAssertion makes the scopes a claim of that assertion instead of a
	// form parameter, as Google wants them.
	ScopeInAssertion bool

	Subject      *Subject   // nil unless a token of another is sent
	GitHub       *GitHubApp // nil unless tokens are those of a GitHub App
	RefreshToken oauth.Secret
	RedirectURL  string // "": /callback on 127.0.0.1 and a port that the OS chooses

	DPoP Switch // RFC 9449
	PAR  Switch // RFC 9126

	// NextSecret is the client secret to try once Client.Secret is refused.
	NextSecret oauth.Secret

	// SecretExpires is when Client.Secret ends; zero: not known, or never.
	SecretExpires time.Time

	// RenewAt is the share of a token's lifetime after which it is renewed.
	RenewAt float64

	// DefaultLifetime is a token's lifetime where the server says none.
	DefaultLifetime time.Duration

	// APIOrigins are where a token may be sent: scheme, host in lower case,
	// and port unless it is the scheme's own.
	APIOrigins []string

	// Others are the variables in force that are not ours, for env and exec.
	Others []envfile.Var
}

// Kept reports whether tokens come of a session that is kept: a person's login,
// or a refresh token.
func (p *Profile) Kept() bool { return p.Interactive() || p.Request.Grant == oauth.GrantRefreshToken }

// Interactive reports whether a person must take part in the grant.
func (p *Profile) Interactive() bool {
	return p.Request.Grant == oauth.GrantAuthorizationCode || p.Request.Grant == oauth.GrantDeviceCode
}

// A Subject is the token that token exchange hands in (RFC 8693 section 2.1),
// or that is the assertion of the JWT bearer grant (RFC 7523 section 2.1).
// Either Profile or Token is set.
type Subject struct {
	Profile   string // whose token it is; its name is not checked here
	Token     oauth.Secret
	Type      string // subject_token_type, a URI (RFC 8693 section 3)
	Requested string // requested_token_type, a URI; "": the server's choice
}

// A GitHubApp is an installation of a GitHub App. The App's key is the Client's.
type GitHubApp struct {
	AppID        string // number or client ID
	Installation string // number, owner, or owner/repo
	API          string // base URL of the REST API, without a slash at its end
}

// A Switch is on, off, or left to what the server requires.
type Switch int8

// The zero Switch is Auto.
const (
	Auto Switch = iota
	On
	Off
)

// Profile reads the variables of t. values are what the variables of
// External came to, by their names. With nil values t is only checked: what
// stands elsewhere counts as given and right, and is missing from the Profile.
// The error is a *Mistakes with everything that is wrong.
func (t *Text) Profile(values map[string]string) (*Profile, error) {
	r := reader{values: values, given: map[string]given{}}
	p := &Profile{RenewAt: defaultRenewAt, DefaultLifetime: defaultLifetime}
	vars := t.inForce()
	for _, v := range vars {
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
	if len(p.Others) > 0 && len(p.Others) == len(vars) {
		return nil, &Mistakes{VariablesOnly: true, List: []Mistake{{
			Message: "none of its variables is about OAuth 2.0, so there is no token; tokenctl env and exec hand them to programs"}}}
	}
	r.resolve()
	r.preset(p)

	if p.Provider == "github-app" {
		p.GitHub, p.Client.Key = r.gitHubApp()
		p.Client.Transport = r.transport()
	} else {
		p.Request.Grant = r.grant()
		p.Issuer = r.issuer()
		p.Endpoints = r.endpoints(p.Request.Grant)
		p.Request.Scopes = r.scopes()
		p.Request.Audience = r.list("OAUTH2_AUDIENCE")
		p.Request.Resource = r.resources()
		p.Subject = r.subject(p.Request.Grant)
		p.Client = r.client(p.Request.Grant, p.Others)
		if k := p.Client.Key; p.Provider == "entra" && k != nil && k.ID() != "" {
			// Entra finds a key by its certificate alone, and shows the thumbprint.
			p.Client.Key = k.ForCertificate(k.ID())
		}
		p.Client.TokenURL = p.Endpoints.Token
		p.AssertionAudience, p.AssertionSubject = r.assertion(p.Request.Grant)
		p.NextSecret = r.nextSecret()
		p.SecretExpires = r.secretExpires()
		p.RefreshToken = r.refreshToken(p.Request.Grant)
		p.RedirectURL = r.redirectURL()
		p.DPoP = r.onOff("OAUTH2_DPOP")
		p.PAR = r.par(p.Request.Grant)
	}
	if r.known("OAUTH2_RENEW_AT") {
		p.RenewAt = r.renewAt()
	}
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
		return nil, &Mistakes{List: r.mistakes}
	}
	return p, nil
}
