package profile

import (
	"slices"
	"strings"
)

// A Variable is a row of the table of what a profile may say.
type Variable struct {
	Name    string
	Aliases []string // further names, which mean the same
	Secret  bool     // its value is never shown
	Lines   bool     // its value may have several lines, as PEM text does
	Meaning string
}

const (
	ourPrefix   = "OAUTH2_"
	extraPrefix = "OAUTH2_EXTRA_"
)

// Variables is every variable that is ours, in the order of the manual. Each
// but the last may be given as NAME_FILE or NAME_COMMAND too.
var Variables = []Variable{
	{Name: "OAUTH2_PROVIDER", Meaning: "preset that fills in what is known of a provider: " + strings.Join(providers(), ", ")},
	{Name: "OAUTH2_REALM_URL", Meaning: "keycloak: the realm's URL, https://HOST/realms/NAME"},
	{Name: "OAUTH2_REALM", Meaning: "keycloak: the realm's name, with OAUTH2_DOMAIN instead of OAUTH2_REALM_URL"},
	{Name: "OAUTH2_TENANT", Meaning: "entra: the tenant's ID or domain, or organizations, consumers or common"},
	{Name: "OAUTH2_DOMAIN", Meaning: "the provider's host, HOST or HOST:PORT, or its URL without path"},
	{Name: "OAUTH2_AUTHORIZATION_SERVER", Meaning: "okta: the authorization server's ID, or org for the organization's own; default: default"},
	{Name: "OAUTH2_ISSUER", Meaning: "authorization server whose metadata names the endpoints (OpenID Connect Discovery, RFC 8414)"},
	{Name: "OAUTH2_TOKEN_URL", Meaning: "token endpoint, over the metadata's (RFC 6749 section 3.2)"},
	{Name: "OAUTH2_AUTH_URL", Meaning: "authorization endpoint, over the metadata's (RFC 6749 section 3.1)"},
	{Name: "OAUTH2_DEVICE_URL", Meaning: "device authorization endpoint, over the metadata's (RFC 8628 section 3.1)"},
	{Name: "OAUTH2_INTROSPECTION_URL", Meaning: "introspection endpoint, over the metadata's (RFC 7662 section 2)"},
	{Name: "OAUTH2_REVOCATION_URL", Meaning: "revocation endpoint, over the metadata's (RFC 7009 section 2)"},
	{Name: "OAUTH2_REGISTRATION_URL", Meaning: "client registration endpoint, over the metadata's (RFC 7591 section 3)"},
	{Name: "OAUTH2_GRANT", Meaning: "how tokens are got: client_credentials, the default, authorization_code, device_code, refresh_token, jwt_bearer or token_exchange"},
	{Name: "CLIENT_ID", Aliases: []string{"OAUTH2_CLIENT_ID"}, Meaning: "client identifier (RFC 6749 section 2.2)"},
	{Name: "CLIENT_SECRET", Aliases: []string{"OAUTH2_CLIENT_SECRET"}, Secret: true, Meaning: "client secret (RFC 6749 section 2.3.1)"},
	{Name: "CLIENT_SECRET_EXPIRES_AT", Meaning: "when the client secret ends: RFC 3339, a date, or seconds since 1970; 0: never"},
	{Name: "CLIENT_SECRET_NEXT", Secret: true, Meaning: "client secret to go over to once CLIENT_SECRET is refused"},
	{Name: "OAUTH2_CLIENT_AUTH", Meaning: "client authentication: client_secret_basic, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none; default: by what is given, key, certificate, secret (basic, unless discovery lists only post), else none"},
	{Name: "OAUTH2_BASIC_ENCODING", Meaning: "how client_secret_basic encodes id and secret: form, the default (RFC 6749 section 2.3.1), or raw"},
	{Name: "OAUTH2_SCOPE", Meaning: "scopes, separated by spaces (RFC 6749 section 3.3)"},
	{Name: "OAUTH2_AUDIENCE", Meaning: "the provider's audience parameter; several are separated by spaces"},
	{Name: "OAUTH2_RESOURCE", Meaning: "resource indicators, separated by spaces (RFC 8707)"},
	{Name: "PRIVATE_KEY", Secret: true, Lines: true, Meaning: "key that signs assertions: PEM (PKCS#1, PKCS#8, SEC1) or JWK, not encrypted (RFC 7523)"},
	{Name: "PRIVATE_KEY_ID", Meaning: "the key's kid; default: the JWK's"},
	{Name: "PRIVATE_KEY_ALG", Meaning: "the key's algorithm: RS256, PS256, ES256, … or EdDSA; default: by the key"},
	{Name: "OAUTH2_ASSERTION_AUDIENCE", Meaning: "aud of assertions: issuer, token_endpoint or a literal; default: issuer where it is known, else token_endpoint"},
	{Name: "OAUTH2_ASSERTION_SUBJECT", Meaning: "sub of the assertion of jwt_bearer; default: the client"},
	{Name: "GITHUB_APP_ID", Meaning: "github-app: the App's ID or client ID"},
	{Name: "GITHUB_INSTALLATION", Meaning: "github-app: the installation, by its number, its owner, or OWNER/REPO"},
	{Name: "OAUTH2_SUBJECT_TOKEN_PROFILE", Meaning: "profile whose token token_exchange hands in, or jwt_bearer sends as its assertion (RFC 8693, RFC 7523)"},
	{Name: "OAUTH2_SUBJECT_TOKEN", Secret: true, Meaning: "that token itself, instead of a profile"},
	{Name: "OAUTH2_SUBJECT_TOKEN_TYPE", Meaning: "its type: access_token, the default, refresh_token, id_token, jwt, saml1, saml2, id-jag or a URI (RFC 8693 section 3)"},
	{Name: "OAUTH2_REQUESTED_TOKEN_TYPE", Meaning: "type of the token that token_exchange asks for, as above; default: the server's choice"},
	{Name: "TLS_CLIENT_CERT", Lines: true, Meaning: "PEM certificate that the client shows, its chain after it (RFC 8705)"},
	{Name: "TLS_CLIENT_KEY", Secret: true, Lines: true, Meaning: "PEM private key of TLS_CLIENT_CERT, not encrypted"},
	{Name: "TLS_CA", Lines: true, Meaning: "PEM certificates trusted for this profile's servers instead of the system's"},
	{Name: "OAUTH2_DPOP", Meaning: "on or off: tokens bound to a key (RFC 9449); default: auto, where the server requires it"},
	{Name: "OAUTH2_PAR", Meaning: "on or off: pushed authorization requests (RFC 9126); default: auto, where the server requires it"},
	{Name: "OAUTH2_PROXY", Meaning: "proxy for this profile's requests: http, https or socks5 URL, or direct; default: the daemon's"},
	{Name: "OAUTH2_REFRESH_TOKEN", Secret: true, Meaning: "refresh token got elsewhere, to begin with (RFC 6749 section 6)"},
	{Name: "OAUTH2_REDIRECT_URL", Meaning: "loopback redirect URL, where the provider wants a fixed one; default: http://127.0.0.1:PORT/callback"},
	{Name: "OAUTH2_RENEW_AT", Meaning: "share of a token's lifetime after which it is renewed, 0.5 to 0.99; default: 0.85"},
	{Name: "OAUTH2_DEFAULT_LIFETIME", Meaning: "lifetime of a token where the server says none, at most 24h; default: 5m"},
	{Name: "API_URL", Meaning: "origins that this profile's token may be sent to, separated by spaces"},
	{Name: extraPrefix + "<NAME>", Secret: true, Meaning: "further parameter NAME of the token request, and of the authorization request, which everybody on this machine may see"},
}

// lookup finds the row of a name, and that of every OAUTH2_EXTRA_ name.
func lookup(name string) *Variable {
	if strings.HasPrefix(name, extraPrefix) {
		return &Variables[len(Variables)-1]
	}
	for i := range Variables {
		if v := &Variables[i]; v.Name == name || slices.Contains(v.Aliases, name) {
			return v
		}
	}
	return nil
}

const (
	fileSuffix    = "_FILE"
	commandSuffix = "_COMMAND"
)

// lookupExternal finds the row that NAME_FILE or NAME_COMMAND stands for.
func lookupExternal(name string) (v *Variable, suffix string) {
	base, suffix := cutSuffix(name)
	if suffix == "" || strings.HasPrefix(name, extraPrefix) {
		return nil, ""
	}
	return lookup(base), suffix
}

func cutSuffix(name string) (base, suffix string) {
	for _, suffix := range []string{fileSuffix, commandSuffix} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base, suffix
		}
	}
	return name, ""
}

// otherWords are what OAuth's metadata and other tools say for ours.
var otherWords = strings.NewReplacer(
	"DEVICE_AUTHORIZATION", "DEVICE",
	"AUTHORIZATION", "AUTH",
	"AUTHORIZE", "AUTH",
	"_ENDPOINT", "_URL",
	"_URI", "_URL",
	"GRANT_TYPE", "GRANT",
	"TENANT_ID", "TENANT",
)

// suggest returns the name of ours that is nearest to name, which begins with
// OAUTH2_; "" if none is near.
func suggest(name string) string {
	base, suffix := cutSuffix(strings.ToUpper(name))
	tries := []string{base, otherWords.Replace(base), strings.TrimPrefix(base, ourPrefix)} // OAUTH2_TLS_CA is TLS_CA
	nearest, best := "", farthest+1
	for _, v := range Variables {
		for _, candidate := range append([]string{v.Name}, v.Aliases...) {
			for _, try := range tries {
				if d := distance(try, candidate); d < best {
					nearest, best = candidate+suffix, d
				}
			}
		}
	}
	return nearest
}

// farthest is how many slips of the keyboard are still the same name.
const farthest = 2

// distance is the Damerau-Levenshtein distance in its restricted form: a
// letter left out, put in, replaced, or changed with its neighbour counts one.
// Beyond farthest it is only that.
func distance(a, b string) int {
	if max(len(a)-len(b), len(b)-len(a)) > farthest {
		return farthest + 1
	}
	var before, last []int
	for j := range len(b) + 1 {
		last = append(last, j)
	}
	for i := range len(a) {
		row := []int{i + 1}
		for j := range len(b) {
			d := min(last[j+1], row[j]) + 1
			if a[i] == b[j] {
				d = min(d, last[j])
			} else {
				d = min(d, last[j]+1)
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row = append(row, d)
		}
		before, last = last, row
	}
	return last[len(b)]
}
