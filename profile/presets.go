package profile

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"tokend/oauth"
)

// presets are the providers and the variables that only presets use, by those
// that do.
var presets = map[string][]string{
	"auth0":      {"OAUTH2_DOMAIN"},
	"bitbucket":  nil,
	"entra":      {"OAUTH2_TENANT", "OAUTH2_DOMAIN"},
	"gitea":      {"OAUTH2_DOMAIN"},
	"github":     {"OAUTH2_DOMAIN"},
	"github-app": {"OAUTH2_DOMAIN", "GITHUB_APP_ID", "GITHUB_INSTALLATION"},
	"gitlab":     {"OAUTH2_DOMAIN"},
	"google":     nil,
	"keycloak":   {"OAUTH2_REALM_URL", "OAUTH2_DOMAIN", "OAUTH2_REALM"},
	"okta":       {"OAUTH2_DOMAIN", "OAUTH2_AUTHORIZATION_SERVER"},
}

func providers() []string { return slices.Sorted(maps.Keys(presets)) }

var presetAliases = map[string]string{"azure": "entra", "forgejo": "gitea"}

// The endpoints of providers that are not found by discovery, by their paths.
var (
	bitbucketPaths = oauth.Endpoints{
		Authorization: "/authorize",
		Token:         "/access_token",
	}
	entraPaths = oauth.Endpoints{
		Authorization:       "/oauth2/v2.0/authorize",
		DeviceAuthorization: "/oauth2/v2.0/devicecode",
		Token:               "/oauth2/v2.0/token",
	}
	giteaPaths = oauth.Endpoints{
		Authorization: "/login/oauth/authorize",
		Introspection: "/login/oauth/introspect",
		Token:         "/login/oauth/access_token",
	}
	gitHubPaths = oauth.Endpoints{
		Authorization:       "/login/oauth/authorize",
		DeviceAuthorization: "/login/device/code",
		Token:               "/login/oauth/access_token",
	}
	gitLabPaths = oauth.Endpoints{
		Authorization:       "/oauth/authorize",
		DeviceAuthorization: "/oauth/authorize_device",
		Introspection:       "/oauth/introspect",
		Revocation:          "/oauth/revoke",
		Token:               "/oauth/token",
	}
)

// preset fills in what the text leaves to its provider.
func (r *reader) preset(p *Profile) {
	const name = "OAUTH2_PROVIDER"
	if r.has(name) && !r.known(name) {
		r.open = true
		return
	}
	p.Provider = r.value(name)
	if of, ok := presetAliases[p.Provider]; ok {
		p.Provider = of
	}
	if _, ok := presets[p.Provider]; !ok && p.Provider != "" {
		message := "no such preset; it is " + strings.Join(providers(), ", ")
		if n := Nearest(p.Provider, append(providers(), slices.Sorted(maps.Keys(presetAliases))...)); n != "" {
			message = "no such preset; did you mean " + n + "?"
		}
		r.wrong(name, message)
		r.open = true
		return
	}
	if p.Provider != "github-app" { // which gitHubApp checks
		r.unused(p.Provider)
	}
	switch p.Provider {
	case "auth0":
		r.auth0()
	case "bitbucket":
		r.bitbucket()
	case "entra":
		r.entra()
	case "gitea":
		r.gitea()
	case "github":
		r.gitHub()
	case "gitlab":
		r.gitLab()
	case "google":
		r.google(p)
	case "keycloak":
		r.keycloak()
	case "okta":
		r.okta()
	}
}

// unused refuses the presets' variables that provider makes no use of.
func (r *reader) unused(provider string) {
	users := map[string][]string{}
	for _, p := range providers() {
		for _, name := range presets[p] {
			users[name] = append(users[name], p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		switch {
		case !r.has(name) || slices.Contains(users[name], provider):
		case provider == "":
			r.wrong(name, "without effect; set OAUTH2_PROVIDER="+strings.Join(users[name], " or "))
		default:
			r.wrong(name, "not used by "+provider+"; remove it")
		}
	}
}

// fill gives the variable a value unless the text does. An empty value is one
// that is not known, or made of a mistake. What is wrong with it is the
// provider's.
func (r *reader) fill(name, value string) {
	if r.has(name) {
		return
	}
	v := r.given["OAUTH2_PROVIDER"].Var
	v.Value = value
	r.given[name] = given{Var: v, row: lookup(name), unknown: value == "", filled: true}
}

// fillEndpoints fills in endpoints by their paths below base. An issuer that the
// text gives knows its own.
func (r *reader) fillEndpoints(base string, paths oauth.Endpoints) {
	if r.written("OAUTH2_ISSUER") {
		return
	}
	for _, e := range []struct{ name, path string }{
		{"OAUTH2_TOKEN_URL", paths.Token},
		{"OAUTH2_AUTH_URL", paths.Authorization},
		{"OAUTH2_DEVICE_URL", paths.DeviceAuthorization},
		{"OAUTH2_INTROSPECTION_URL", paths.Introspection},
		{"OAUTH2_REVOCATION_URL", paths.Revocation},
	} {
		if e.path != "" {
			r.fill(e.name, below(base, e.path))
		}
	}
}

// below is path below base; "", not known, if base is not.
func below(base, path string) string {
	if base == "" {
		return ""
	}
	return base + path
}

// server reports whether the text says itself where the server is.
func (r *reader) server() bool {
	return r.written("OAUTH2_ISSUER") || r.written("OAUTH2_TOKEN_URL")
}

// lacks is the mistake that the preset needs something.
func (r *reader) lacks(what string) { r.wrong("OAUTH2_PROVIDER", "this preset needs "+what) }

// domain reads OAUTH2_DOMAIN as a URL without path. Where the text leaves it out
// it is otherwise, and without that the preset lacks it; "" is one not known.
func (r *reader) domain(otherwise, such string) string {
	const name = "OAUTH2_DOMAIN"
	switch {
	case !r.has(name):
		if otherwise == "" {
			r.lacks("OAUTH2_DOMAIN, such as " + such)
		}
		return otherwise
	case !r.known(name):
		return ""
	}
	value := r.value(name)
	if !strings.Contains(value, "://") {
		value = "https://" + value
	}
	u, err := oauth.CheckURL(value)
	switch {
	case err != nil:
		r.wrong(name, err.Error())
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery:
		r.wrong(name, "is more than a host; write "+strings.TrimPrefix(origin(u), "https://"))
	default:
		return origin(u)
	}
	return ""
}

// word reads a variable that becomes part of a URL; "" is one not known.
func (r *reader) word(name, such string) string {
	if r.known(name) && !wordRE().MatchString(r.value(name)) {
		r.wrong(name, "has a character that it cannot have; it is "+such)
	}
	return r.value(name)
}

var wordRE = expression(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// secretInForm is for providers that document the form body; Basic is
// everybody's default.
func (r *reader) secretInForm() {
	if r.has("CLIENT_SECRET") && !r.has("PRIVATE_KEY") && !r.has("TLS_CLIENT_CERT") {
		r.fill("OAUTH2_CLIENT_AUTH", string(oauth.ClientSecretPost))
	}
}

// https://auth0.com/docs/api/authentication
func (r *reader) auth0() {
	if r.has("OAUTH2_DOMAIN") || !r.server() {
		r.fill("OAUTH2_ISSUER", below(r.domain("", "example.eu.auth0.com"), "/"))
	}
	r.secretInForm()
}

// https://developer.atlassian.com/cloud/bitbucket/oauth-2/
func (r *reader) bitbucket() {
	r.fillEndpoints("https://bitbucket.org/site/oauth2", bitbucketPaths)
}

var (
	guid     = expression(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	noTenant = []string{"common", "consumers", "organizations"}
)

// https://learn.microsoft.com/entra/identity-platform/v2-protocols
func (r *reader) entra() {
	const name = "OAUTH2_TENANT"
	const such = "the tenant's ID, or a domain of it such as contoso.onmicrosoft.com"
	switch {
	case r.has(name):
		base, tenant := r.domain("https://login.microsoftonline.com", ""), r.word(name, such)
		clientCredentials := !r.has("OAUTH2_GRANT") || r.value("OAUTH2_GRANT") == "client_credentials"
		if slices.Contains(noTenant, tenant) && clientCredentials {
			r.wrong(name, "client_credentials needs one tenant; write "+such)
		}
		if tenant == "" {
			base = ""
		}
		base = below(base, "/"+tenant)
		r.fillEndpoints(base, entraPaths)
		// The metadata of a tenant that is named in another way than by its ID
		// have another issuer than asked for.
		if guid().MatchString(tenant) {
			r.fill("OAUTH2_ISSUER", below(strings.ToLower(base), "/v2.0"))
		}
	case !r.server():
		r.lacks(name + ", " + such)
		r.fill("OAUTH2_ISSUER", "")
	}
	r.secretInForm()
	r.fill("OAUTH2_ASSERTION_AUDIENCE", "token_endpoint")
	if r.has("PRIVATE_KEY") {
		r.fill("PRIVATE_KEY_ALG", "PS256")
	}
	r.entraScope()
}

// entraScope asks for a resource by scope: version 2 of the endpoints knows no
// resource parameter.
func (r *reader) entraScope() {
	const name = "OAUTH2_RESOURCE"
	if r.has("OAUTH2_SCOPE") || !r.known(name) {
		return
	}
	resources := r.list(name)
	if len(resources) > 1 {
		r.wrong(name, "entra gives a token for one resource at a time; keep one")
	}
	if len(resources) != 1 || oauth.CheckResource(resources[0]) != nil {
		return // which resources says
	}
	scope := resources[0] + "/.default"
	if g := r.value("OAUTH2_GRANT"); g == "authorization_code" || g == "device_code" {
		scope += " offline_access" // for a refresh token
	}
	r.fill("OAUTH2_SCOPE", scope)
	delete(r.given, name)
}

// gitea is Forgejo too: https://forgejo.org/docs/latest/user/oauth2-provider/
func (r *reader) gitea() {
	if r.has("OAUTH2_DOMAIN") || !r.server() {
		r.fillEndpoints(r.domain("", "codeberg.org"), giteaPaths)
	}
	r.fill("OAUTH2_GRANT", "authorization_code")
}

// https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
func (r *reader) gitHub() {
	r.fillEndpoints(r.domain("https://github.com", ""), gitHubPaths)
	r.fill("OAUTH2_GRANT", "device_code")
	r.secretInForm()
}

// https://docs.gitlab.com/api/oauth2/
func (r *reader) gitLab() {
	base := r.domain("https://gitlab.com", "")
	r.fillEndpoints(base, gitLabPaths)
	r.fill("OAUTH2_ISSUER", base)
	r.fill("OAUTH2_GRANT", "authorization_code")
}

// google is a service account where it has a key, else an installed app:
// https://developers.google.com/identity/protocols/oauth2
func (r *reader) google(p *Profile) {
	if r.has("PRIVATE_KEY") {
		r.fill("OAUTH2_GRANT", "jwt_bearer")
	}
	r.fill("OAUTH2_GRANT", "authorization_code")
	if r.value("OAUTH2_GRANT") == "jwt_bearer" && !r.hasSubject() {
		r.fillEndpoints("https://oauth2.googleapis.com", oauth.Endpoints{Token: "/token"})
		r.fill("OAUTH2_ASSERTION_AUDIENCE", "token_endpoint")
		p.ScopeInAssertion = true
		return
	}
	r.fill("OAUTH2_ISSUER", "https://accounts.google.com")
	r.secretInForm()
	// Without these Google gives a refresh token at the first login only.
	p.AuthorizationExtra = url.Values{}
	for name, value := range map[string]string{"access_type": "offline", "prompt": "consent"} {
		if !p.Request.Extra.Has(name) {
			p.AuthorizationExtra.Set(name, value)
		}
	}
}

// https://www.keycloak.org/securing-apps/oidc-layers
func (r *reader) keycloak() {
	const realmURL, realm = "OAUTH2_REALM_URL", "OAUTH2_REALM"
	issuer := ""
	switch {
	case r.has(realmURL):
		for _, name := range []string{realm, "OAUTH2_DOMAIN"} {
			if r.has(name) {
				r.wrong(name, fmt.Sprintf("stands beside %s in line %d, which says it all; keep one of the two", r.given[realmURL].Name, r.given[realmURL].Line))
			}
		}
		if r.known(realmURL) {
			issuer = r.realmURL()
		}
	case r.has(realm):
		base, name := r.domain("", "id.example.com"), r.value(realm)
		if base != "" && name != "" {
			issuer = base + "/realms/" + url.PathEscape(name)
		}
	case r.server() && !r.has("OAUTH2_DOMAIN"):
		return
	default:
		r.lacks("OAUTH2_REALM_URL, such as https://id.example.com/realms/main, or OAUTH2_DOMAIN and OAUTH2_REALM")
	}
	r.fill("OAUTH2_ISSUER", issuer)
}

var ofRealm = expression(`^(.*/realms/[^/?]+)([/?].*)?$`)

// realmURL gives the realm's URL as the issuer has it; "" if it is none.
func (r *reader) realmURL() string {
	const name = "OAUTH2_REALM_URL"
	value := r.value(name)
	if _, err := oauth.CheckURL(value); err != nil {
		r.wrong(name, err.Error())
		return ""
	}
	m := ofRealm().FindStringSubmatch(value)
	switch {
	case m == nil:
		r.wrong(name, "not a realm's URL, which ends in /realms/NAME")
	case m[2] != "" && m[2] != "/":
		r.wrong(name, "is more than the realm's URL, which ends in /realms/NAME")
	default:
		return m[1]
	}
	return ""
}

// https://developer.okta.com/docs/concepts/auth-servers/
func (r *reader) okta() {
	const name = "OAUTH2_AUTHORIZATION_SERVER"
	path := "/oauth2/default"
	if r.has(name) {
		path = "/oauth2/" + r.word(name, "the server's ID, default or org")
	}
	if path == "/oauth2/org" {
		path = ""
	}
	if r.has("OAUTH2_DOMAIN") || !r.server() {
		base := r.domain("", "example.okta.com")
		if path == "/oauth2/" {
			base = ""
		}
		r.fill("OAUTH2_ISSUER", below(base, path))
	}
	r.fill("OAUTH2_ASSERTION_AUDIENCE", "token_endpoint")
}

// gitHubAppUses are the variables that an installation token is made of, and how;
// it is no grant of OAuth.
var gitHubAppUses = []string{
	"OAUTH2_PROVIDER", "OAUTH2_DOMAIN", "GITHUB_APP_ID", "GITHUB_INSTALLATION", "PRIVATE_KEY",
	"TLS_CLIENT_CERT", "TLS_CLIENT_KEY", "TLS_CA", "OAUTH2_PROXY", "OAUTH2_RENEW_AT", "OAUTH2_DEFAULT_LIFETIME", "API_URL",
}

// installation becomes part of a path, so no repository is "..".
var installation = expression(`^[A-Za-z0-9][A-Za-z0-9_-]*(/\.*[A-Za-z0-9_-][A-Za-z0-9._-]*)?$`)

// https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
func (r *reader) gitHubApp() (*GitHubApp, *oauth.Key) {
	for _, row := range Variables {
		if r.has(row.Name) && !slices.Contains(gitHubAppUses, row.Name) {
			message := "not used by github-app; remove it"
			if row.Name == "CLIENT_ID" {
				message = "not used by github-app; the App's ID is GITHUB_APP_ID"
			}
			r.wrong(row.Name, message)
		}
	}
	for _, v := range r.extras {
		r.add(v.Line, v.Name, "not used by github-app; remove it")
	}
	app := &GitHubApp{
		AppID:        r.word("GITHUB_APP_ID", "the App's ID or client ID"),
		Installation: r.value("GITHUB_INSTALLATION"),
		API:          gitHubAPI(r.domain("https://github.com", "")),
	}
	if !r.has("GITHUB_APP_ID") {
		r.lacks("GITHUB_APP_ID, the App's ID or client ID")
	}
	if !r.has("GITHUB_INSTALLATION") {
		r.lacks("GITHUB_INSTALLATION, the installation's number, its owner, or OWNER/REPO")
	} else if r.known("GITHUB_INSTALLATION") && !installation().MatchString(app.Installation) {
		r.wrong("GITHUB_INSTALLATION", "neither a number, an owner nor OWNER/REPO")
	}
	if !r.has("PRIVATE_KEY") {
		r.lacks("the App's key; " + setting("PRIVATE_KEY"))
	}
	key := r.key()
	if key != nil && key.Algorithm() != "RS256" {
		r.wrong("PRIVATE_KEY", "GitHub takes the RSA key that it made for the App, and RS256 only")
	}
	return app, key
}

// gitHubAPI gives the REST API of GitHub itself, of GitHub Enterprise Cloud
// with data residency, and of GitHub Enterprise Server.
func gitHubAPI(base string) string {
	host := strings.TrimPrefix(base, "https://")
	switch {
	case base == "":
		return ""
	case host == "github.com" || strings.HasSuffix(host, ".ghe.com"):
		return "https://api." + host
	}
	return base + "/api/v3"
}
