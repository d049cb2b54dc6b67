package profile

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokend/internal/envfile"
	"tokend/oauth"
)

// client reads who the client is and how it gets to the server. others are
// searched for slips of the keyboard.
func (r *reader) client(grant string, others []envfile.Var) oauth.Client {
	c := oauth.Client{
		ID:        r.value("CLIENT_ID"),
		Secret:    oauth.NewSecret(r.value("CLIENT_SECRET")),
		Auth:      oauth.AuthMethod(r.value("OAUTH2_CLIENT_AUTH")),
		Key:       r.key(),
		Transport: r.transport(),
	}
	if !r.has("CLIENT_ID") {
		r.missing(Mistake{Variable: "CLIENT_ID", Message: "missing; it says who the client is"}, "CLIENT_ID", others)
	}
	auth, secret, key := r.given["OAUTH2_CLIENT_AUTH"], r.given["CLIENT_SECRET"], r.given["PRIVATE_KEY"]
	switch {
	case auth.unknown:
	case c.Auth == "":
		public := secret.Name == "" && key.Name == "" && !r.has("TLS_CLIENT_CERT")
		if public && grant == oauth.GrantClientCredentials {
			r.missing(Mistake{
				Variable: "CLIENT_SECRET",
				Message:  "missing; a public client cannot use client_credentials (RFC 6749 section 4.4); " + setting("CLIENT_SECRET"),
			}, "CLIENT_SECRET", others)
		}
		if r.signsGrant(grant) {
			c.Auth = r.authBesideGrant()
		}
	case c.Auth == oauth.ClientSecretBasic || c.Auth == oauth.ClientSecretPost || c.Auth == oauth.ClientSecretJWT:
		if secret.Name == "" {
			r.missing(Mistake{auth.Line, auth.Name, string(c.Auth) + " needs a secret; " + setting("CLIENT_SECRET")}, "CLIENT_SECRET", others)
		}
		if c.Auth == oauth.ClientSecretJWT && r.known("CLIENT_SECRET") && len(c.Secret.Reveal()) < 32 {
			r.wrong("CLIENT_SECRET", "client_secret_jwt needs 32 bytes or more (RFC 7518 section 3.2)")
		}
	case c.Auth == oauth.PrivateKeyJWT:
		if key.Name == "" {
			r.missing(Mistake{auth.Line, auth.Name, "private_key_jwt needs a key; " + setting("PRIVATE_KEY")}, "PRIVATE_KEY", others)
		}
	case c.Auth == oauth.TLSClientAuth || c.Auth == oauth.SelfSignedTLSClientAuth:
		// Where one of the two is there, transport misses the other.
		if !r.has("TLS_CLIENT_CERT") && !r.has("TLS_CLIENT_KEY") {
			r.missing(Mistake{auth.Line, auth.Name, string(c.Auth) + " needs a certificate and its key; set TLS_CLIENT_CERT and TLS_CLIENT_KEY, or their " + fileSuffix + " forms"}, "TLS_CLIENT_CERT", others)
		}
	case c.Auth == oauth.AuthNone:
		if secret.Name != "" {
			r.wrong("OAUTH2_CLIENT_AUTH", fmt.Sprintf("none sends no secret, but %s in line %d gives one; keep one of the two", secret.Name, secret.Line))
		}
		if key.Name != "" && grant != "" && !r.signsGrant(grant) {
			r.wrong("OAUTH2_CLIENT_AUTH", fmt.Sprintf("none signs nothing, but %s in line %d gives a key; keep one of the two", key.Name, key.Line))
		}
	default:
		r.wrong("OAUTH2_CLIENT_AUTH", "not a method; it is client_secret_basic, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none")
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
	return c
}

// signsGrant reports whether PRIVATE_KEY signs the assertion that is the grant
// itself (RFC 7523 section 2.1).
func (r *reader) signsGrant(grant string) bool {
	return grant == oauth.GrantJWTBearer && r.has("PRIVATE_KEY") && !r.hasSubject()
}

// authBesideGrant chooses where the key is the grant's: without being told, it
// is not the client's too.
func (r *reader) authBesideGrant() oauth.AuthMethod {
	switch {
	case r.has("TLS_CLIENT_CERT"):
		return oauth.TLSClientAuth
	case r.has("CLIENT_SECRET"):
		return oauth.ClientSecretBasic
	}
	return oauth.AuthNone
}

// key reads the key that signs assertions; nil if it is not known.
func (r *reader) key() *oauth.Key {
	const name, id, alg = "PRIVATE_KEY", "PRIVATE_KEY_ID", "PRIVATE_KEY_ALG"
	if !r.has(name) {
		for _, n := range []string{id, alg} {
			if r.has(n) {
				r.wrong(n, "there is no key to go with it; "+setting(name))
			}
		}
	}
	if r.known(alg) {
		if err := oauth.CheckAlgorithm(r.value(alg)); err != nil {
			r.wrong(alg, err.Error())
			return nil
		}
	}
	// An alg that stands elsewhere may be the one that the key needs.
	if !r.known(name) || r.has(alg) && !r.known(alg) {
		return nil
	}
	text := oauth.NewSecret(r.value(name))
	key, err := oauth.ParseKey(text, r.value(id), r.value(alg))
	if err == nil {
		return key
	}
	if r.has(alg) {
		if _, withoutAlg := oauth.ParseKey(text, "", ""); withoutAlg == nil {
			r.wrong(alg, err.Error())
			return nil
		}
	}
	r.wrong(name, err.Error()+pathInstead(name, text.Reveal()))
	return nil
}

// pathInstead is what to add where a value should be PEM text and is a path.
func pathInstead(name, value string) string {
	if strings.HasPrefix(value, "/") || strings.HasPrefix(value, "~/") {
		return "; a path is given as " + name + fileSuffix
	}
	return ""
}

// transport reads the way to the servers.
func (r *reader) transport() oauth.Transport {
	t := oauth.Transport{
		CA:             r.value("TLS_CA"),
		Proxy:          r.value("OAUTH2_PROXY"),
		Certificate:    r.value("TLS_CLIENT_CERT"),
		CertificateKey: oauth.NewSecret(r.value("TLS_CLIENT_KEY")),
	}
	for _, name := range []string{"TLS_CA", "TLS_CLIENT_CERT"} {
		if r.known(name) {
			if mistake := checkCertificates(r.value(name)); mistake != "" {
				r.wrong(name, mistake)
			}
		}
	}
	switch cert, key := r.has("TLS_CLIENT_CERT"), r.has("TLS_CLIENT_KEY"); {
	case cert && !key:
		r.wrong("TLS_CLIENT_CERT", "its key is missing; "+setting("TLS_CLIENT_KEY"))
	case key && !cert:
		r.wrong("TLS_CLIENT_KEY", "its certificate is missing; "+setting("TLS_CLIENT_CERT"))
	case r.known("TLS_CLIENT_CERT") && r.known("TLS_CLIENT_KEY"):
		if err := oauth.CheckCertificate(t.Certificate, t.CertificateKey); err != nil {
			if ofKey := errors.Unwrap(err); ofKey != nil {
				err = ofKey
			}
			r.wrong("TLS_CLIENT_KEY", err.Error()+pathInstead("TLS_CLIENT_KEY", t.CertificateKey.Reveal()))
		}
	}
	if r.known("OAUTH2_PROXY") && t.Proxy != "direct" {
		u, err := url.Parse(t.Proxy)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
			r.wrong("OAUTH2_PROXY", "neither an http, https or socks5 URL, such as http://proxy.example:3128, nor direct")
		}
	}
	return t
}

func (r *reader) nextSecret() oauth.Secret {
	const name = "CLIENT_SECRET_NEXT"
	if r.has(name) && !r.has("CLIENT_SECRET") && !r.open {
		r.wrong(name, "there is no secret that it could follow; "+setting("CLIENT_SECRET"))
	}
	return oauth.NewSecret(r.value(name))
}

// secretExpires takes what registrations answer too, client_secret_expires_at
// (RFC 7591 section 3.2.1).
func (r *reader) secretExpires() time.Time {
	const name = "CLIENT_SECRET_EXPIRES_AT"
	if r.has(name) && !r.has("CLIENT_SECRET") && !r.open {
		r.wrong(name, "there is no secret that it could be about; "+setting("CLIENT_SECRET"))
	}
	if !r.known(name) {
		return time.Time{}
	}
	value := r.value(name)
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		switch {
		case seconds == 0:
			return time.Time{}
		case seconds > 0 && seconds < 1e11: // the year 5138; thousandths of now are above
			return time.Unix(seconds, 0).UTC()
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, value); err == nil {
			return at.UTC()
		}
	}
	r.wrong(name, "not a time; write 2027-01-31T12:00:00Z, 2027-01-31, or seconds since 1970")
	return time.Time{}
}

// missing reports m, that the variable name is missing; or, where one of the
// others looks like it, that one.
func (r *reader) missing(m Mistake, name string, others []envfile.Var) {
	if r.open {
		return
	}
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
			case n == 1 && strings.Contains(text, `\n`):
				return `has \n where its lines end; write line breaks there, the whole in quotes`
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
