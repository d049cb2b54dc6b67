package broker

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"tokend/oauth"
)

// curl is the token request as a command.
func (x *explaining) curl() string {
	words := []string{"curl", "-sS", "-g"}
	add := func(w ...string) { words = append(words, w...) }
	t := x.profile.Client.Transport
	switch target := x.server(); {
	case strings.HasPrefix(target, "http:") || t.Proxy == "direct":
		add("--noproxy", "'*'")
	case t.Proxy != "":
		add("--proxy", `"$OAUTH2_PROXY"`)
	}
	if t.CA != "" {
		add("--cacert", `"$TLS_CA_FILE"`)
	}
	if t.Certificate != "" {
		add("--cert", `"$TLS_CLIENT_CERT_FILE"`, "--key", `"$TLS_CLIENT_KEY_FILE"`)
	}
	add("-H", "'Accept: application/json'")
	if app := x.profile.GitHub; app != nil {
		add("-H", "'X-GitHub-Api-Version: 2022-11-28'", "-H", "'Content-Type: application/json'", "-H", `"Authorization: Bearer $ASSERTION"`)
		id := `"$INSTALLATION_ID"`
		if _, err := strconv.ParseInt(app.Installation, 10, 64); err == nil && !x.elsewhere("GITHUB_INSTALLATION") {
			id = app.Installation
		}
		add("-d", "'{}'", quote(app.API+"/app/installations/")+id+"/access_tokens")
		return strings.Join(words, " ")
	}
	if x.proves() {
		add("-H", `"DPoP: $DPOP_PROOF"`)
	}
	field := func(name, value string) { add("--data-urlencode", quote(name+"="+value)) }
	hidden := func(name, variable string) { add("--data-urlencode", `"`+name+"=$"+variable+`"`) }
	// given is a value of the text, which may stand elsewhere.
	given := func(name, variable, value string) {
		if x.elsewhere(variable) || printable(value) != value {
			hidden(name, variable)
		} else {
			field(name, value)
		}
	}
	grant := x.request.Grant
	if x.profile.Kept() {
		grant = oauth.GrantRefreshToken
	}
	field("grant_type", grant)
	switch grant {
	case oauth.GrantRefreshToken:
		hidden("refresh_token", "REFRESH_TOKEN")
	case oauth.GrantJWTBearer:
		hidden("assertion", "ASSERTION")
	case oauth.GrantTokenExchange:
		hidden("subject_token", "SUBJECT_TOKEN")
		given("subject_token_type", "OAUTH2_SUBJECT_TOKEN_TYPE", x.profile.Subject.Type)
		if requested := x.profile.Subject.Requested; requested != "" {
			given("requested_token_type", "OAUTH2_REQUESTED_TOKEN_TYPE", requested)
		}
	}
	many := func(name, variable string, byCaller bool, values []string) {
		for _, v := range values {
			if byCaller && printable(v) == v {
				field(name, v)
			} else {
				given(name, variable, v)
			}
		}
	}
	if s := x.request.Scopes; len(s) > 0 && !x.profile.ScopeInAssertion {
		many("scope", "OAUTH2_SCOPE", len(x.asked.Scopes) > 0, []string{strings.Join(s, " ")})
	}
	many("audience", "OAUTH2_AUDIENCE", x.asked.Audience != "", x.request.Audience)
	many("resource", "OAUTH2_RESOURCE", x.asked.Resource != "", x.request.Resource)
	for _, name := range slices.Sorted(maps.Keys(x.request.Extra)) {
		hidden(name, "OAUTH2_EXTRA_"+name)
	}
	x.curlAuth(add, given, hidden)
	if endpoint := x.ready.Client.TokenURL; endpoint != "" {
		add(quote(endpoint))
	} else {
		add(`"$TOKEN_URL"`)
	}
	return strings.Join(words, " ")
}

// curlAuth adds the client's authentication.
func (x *explaining) curlAuth(add func(...string), given func(name, variable, value string), hidden func(name, variable string)) {
	c := &x.ready.Client
	secret := "CLIENT_SECRET"
	if x.session.hasNextSecret(x.profile) {
		secret = "CLIENT_SECRET_NEXT"
	}
	clientID := func() { given("client_id", "CLIENT_ID", c.ID) }
	switch c.ChooseAuth(nil) {
	case oauth.ClientSecretBasic:
		encode := func(variable, value string) string {
			// Whether there is anything to encode is all that is said of it.
			if c.RawBasic || url.QueryEscape(value) == value {
				return `"$` + variable + `"`
			}
			// Every byte as %XX, by what every POSIX system has.
			return `"$(printf %s "$` + variable + `" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')"`
		}
		id := encode("CLIENT_ID", c.ID)
		if !x.elsewhere("CLIENT_ID") && printable(c.ID) == c.ID {
			if id = quote(c.ID); !c.RawBasic {
				id = quote(url.QueryEscape(c.ID))
			}
		}
		add("-u", id+":"+encode(secret, c.Secret.Reveal()))
	case oauth.ClientSecretPost:
		clientID()
		hidden("client_secret", secret)
	case oauth.ClientSecretJWT, oauth.PrivateKeyJWT:
		clientID()
		add("--data-urlencode", "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		hidden("client_assertion", "CLIENT_ASSERTION")
	default:
		if !x.profile.ScopeInAssertion { // Google's form has nothing but the assertion
			clientID()
		}
	}
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string {
	const bare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=@%+,-"
	if s != "" && strings.Trim(s, bare) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
