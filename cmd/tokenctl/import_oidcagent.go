package main

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

func importOIDCAgentCommand(a *app) *cobra.Command {
	var as string
	c := &cobra.Command{
		Use:   "oidc-agent FILE|-",
		Short: "Make a profile from an account of oidc-agent",
		Long: `Make a profile from an account of oidc-agent, as "oidc-gen -p" prints it: what lies
in oidc-agent's folder is encrypted, and only oidc-gen opens it.

The refresh token goes along, so nobody has to log in again. Delete the account
there afterwards: where each renewal brings a new refresh token, only one of the
two programs can have the one that is good.`,
		Example: `  oidc-gen -p myaccount | tokenctl import oidc-agent - --as dev/myaccount`,
		Args:    exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := importText(args[0])
			if err != nil {
				return err
			}
			put, notes, err := fromOIDCAgent(args[0], as, text)
			if err != nil {
				return err
			}
			if err := a.putImported(c.Context(), put); err != nil {
				return err
			}
			for _, n := range notes {
				note("%s: %s", put.Name, n)
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "as", "", "name of the profile")
	return c
}

// importText reads a file, or for "-" standard input.
func importText(file string) ([]byte, error) {
	f := os.Stdin
	if file != "-" {
		var err error
		if f, err = os.Open(file); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(text) > maxText {
		err = &problem{Exit: exitConfig, Message: file + " is longer than 48 KiB", Fix: "nothing was written"}
	}
	return text, err
}

// members are those of a JSON object. What is taken is deleted from it, so that
// what is left can be named.
type members map[string]any

func (m members) take(name string) string {
	s, _ := m[name].(string)
	if s != "" || m[name] == nil {
		delete(m, name)
	}
	return strings.TrimSpace(s)
}

// left names the members that say something and that nobody has taken.
func (m members) left() []string {
	for name, v := range m {
		if list, ok := v.([]any); ok && len(list) == 0 || v == nil || v == "" || v == 0.0 || v == false {
			delete(m, name)
		}
	}
	return slices.Sorted(maps.Keys(m))
}

// systemCertificates are where systems keep what is trusted anyway.
var systemCertificates = []string{"/etc/ssl/", "/etc/pki/", "/var/lib/ca-certificates/", "/usr/local/etc/openssl", "/opt/homebrew/etc/openssl"}

// fromOIDCAgent makes a profile of an account as oidc-gen prints it, and notes of
// what else there is to know.
func fromOIDCAgent(file, name string, text []byte) (*api.PutProfileRequest, []string, error) {
	wrong := func(message, fix string) (*api.PutProfileRequest, []string, error) {
		return nil, nil, &problem{Exit: exitConfig, Message: file + ": " + message, Fix: fix}
	}
	m, err := readMembers(text)
	if err != nil { // it could quote a secret
		if strings.Contains(string(text), "Generated using version:") {
			return wrong("it is encrypted", "run: oidc-gen -p SHORTNAME | tokenctl import oidc-agent -")
		}
		return wrong("it is not an account as oidc-gen prints it", "run: oidc-gen -p SHORTNAME | tokenctl import oidc-agent -")
	}
	var vars []api.Variable
	var notes []string
	set := func(name, value string) {
		if value != "" {
			vars = append(vars, api.Variable{Name: name, Value: value})
		}
	}
	shortname := m.take("name")
	if name == "" {
		name = nameFrom(shortname)
	}
	issuer := m.take("issuer_url")
	if other := m.take("issuer"); issuer == "" {
		issuer = other
	}
	if issuer == "" {
		return wrong("issuer_url is missing in it", "nothing was written")
	}
	if name == "" {
		return wrong("nothing in it makes a name for the profile", "add --as NAME")
	}
	id := m.take("client_id")
	if id == "" {
		return wrong("client_id is missing in it", "nothing was written")
	}
	// oidc-agent ends every issuer in a slash, which most do not.
	set("OAUTH2_ISSUER", strings.TrimSuffix(issuer, "/"))
	set("OAUTH2_GRANT", "authorization_code")
	set("CLIENT_ID", id)
	set("CLIENT_SECRET", m.take("client_secret"))
	set("OAUTH2_REFRESH_TOKEN", m.take("refresh_token"))
	scope := m.take("scope")
	if scope == "max" {
		notes = append(notes, `its scope "max", all that the server has, is left out; to name some: tokenctl edit `+name)
		scope = ""
	}
	set("OAUTH2_SCOPE", scope)
	set("OAUTH2_AUDIENCE", m.take("audience"))
	// What the server's metadata say anyway is in the file, too.
	if device := m.take("device_authorization_endpoint"); m["daeSetByUser"] == 1.0 {
		set("OAUTH2_DEVICE_URL", device)
	}
	delete(m, "daeSetByUser")
	delete(m, "client_name")
	if cert := m.take("cert_path"); cert != "" && !slices.ContainsFunc(systemCertificates, func(dir string) bool { return strings.HasPrefix(cert, dir) }) {
		set("TLS_CA_FILE", cert)
	}
	redirects, _ := m["redirect_uris"].([]any)
	if len(redirects) > 0 {
		var others []string
		taken := false
		for _, r := range redirects {
			if s, ok := r.(string); ok && !taken && isLoopback(s) {
				taken = true
				set("OAUTH2_REDIRECT_URL", s)
			} else if ok {
				others = append(others, s)
			}
		}
		if len(others) > 0 {
			notes = append(notes, "left out, one redirect URL is enough: "+strings.Join(others, " "))
		}
	}
	delete(m, "redirect_uris")
	user, password := m.take("username"), m.take("password")
	if user != "" || password != "" {
		notes = append(notes, "left out: username and password; a password is not taken for a token any more, log in with: tokenctl login "+name)
	}
	if left := m.left(); len(left) > 0 {
		notes = append(notes, "left out, nothing is known of it here: "+strings.Join(left, ", "))
	}
	if shortname != "" {
		notes = append(notes, "once it works here, delete the account there: oidc-gen -d "+shortname)
	}
	return &api.PutProfileRequest{Name: name, Variables: &api.Variables{Variables: vars}}, notes, nil
}

func readMembers(text []byte) (members, error) {
	var m members
	err := json.Unmarshal(text, &m)
	if err == nil && m == nil {
		err = errors.New("null")
	}
	return m, err
}

// isLoopback is what a profile's OAUTH2_REDIRECT_URL can be.
func isLoopback(redirect string) bool {
	u, err := url.Parse(redirect)
	return err == nil && u.Scheme == "http" && u.Port() != "" && u.RawQuery == "" &&
		slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())
}
