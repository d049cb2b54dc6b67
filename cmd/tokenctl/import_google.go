package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

func importGoogleCommand(a *app) *cobra.Command {
	var as string
	var scopes []string
	c := &cobra.Command{
		Use:   "google FILE...",
		Short: "Make profiles from JSON files as Google's console gives them",
		Long: `Make profiles from JSON files as Google's console gives them: a service account's
key, or the client of a desktop application, which then needs "login".

A profile is named by the service account, or the application's project, or by
--as. The file is not needed any more, and should be deleted: it holds the key.`,
		Example: `  tokenctl import google key.json --scope https://www.googleapis.com/auth/cloud-platform
  tokenctl import google --as dev/google client_secret.json`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usageError(c, "FILE missing")
			case as != "" && len(args) > 1:
				return usageError(c, "--as is for one file")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			scope := strings.Join(strings.Fields(strings.Join(scopes, " ")), " ")
			var all []*api.PutProfileRequest
			for _, file := range args { // none is written before it is known that all are good
				put, err := fromGoogle(file, as, scope)
				if err != nil {
					return err
				}
				all = append(all, put)
			}
			for _, put := range all {
				if err := a.putImported(c.Context(), put); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "as", "", "name of the profile")
	c.Flags().StringArrayVar(&scopes, "scope", nil, "the profile's scope; may be repeated")
	return c
}

// googleEndpoint is the one that the preset has.
const googleEndpoint = "https://oauth2.googleapis.com/token"

// googleFile is what Google's console lets one download.
type googleFile struct {
	Type         string `json:"type"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	ClientEmail  string `json:"client_email"`
	TokenURI     string `json:"token_uri"`

	Installed *googleClient `json:"installed"`
	Web       *googleClient `json:"web"`
}

type googleClient struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	ProjectID    string `json:"project_id"`
}

// fromGoogle makes a profile of a file's content. Empty scope: the profile
// names none.
func fromGoogle(file, name, scope string) (*api.PutProfileRequest, error) {
	wrong := func(message, fix string) error {
		return &problem{Exit: exitConfig, Message: file + ": " + message, Fix: fix}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, err
	}
	var g googleFile
	if len(text) > maxText || json.Unmarshal(text, &g) != nil { // the error could quote the key
		return nil, wrong("it is not JSON as Google's console gives it", "nothing was written")
	}
	var vars []api.Variable
	set := func(name, value string) {
		if value != "" {
			vars = append(vars, api.Variable{Name: name, Value: value})
		}
	}
	set("OAUTH2_PROVIDER", "google")
	var named string
	switch {
	case g.Installed != nil:
		if g.Installed.ClientID == "" {
			return nil, wrong("client_id is missing in it", "nothing was written")
		}
		named = g.Installed.ProjectID
		set("OAUTH2_GRANT", "authorization_code")
		set("CLIENT_ID", g.Installed.ClientID)
		set("CLIENT_SECRET", g.Installed.ClientSecret)
	case g.Web != nil:
		return nil, wrong("it is the client of a web application, which cannot log in from here", "make one for a desktop application")
	case g.Type == "service_account":
		if g.ClientEmail == "" || g.PrivateKey == "" {
			return nil, wrong("client_email or private_key is missing in it", "nothing was written")
		}
		named, _, _ = strings.Cut(g.ClientEmail, "@")
		set("CLIENT_ID", g.ClientEmail)
		set("PRIVATE_KEY_ID", g.PrivateKeyID)
		set("PRIVATE_KEY", g.PrivateKey)
		if g.TokenURI != googleEndpoint {
			set("OAUTH2_TOKEN_URL", g.TokenURI)
			if host := hostOf(g.TokenURI); host != "" && host != "accounts.google.com" && !strings.HasSuffix(host, ".googleapis.com") {
				note("%s: its tokens come from %s, which is not Google's", file, host)
			}
		}
	case g.Type == "authorized_user":
		return nil, wrong("it is a login of gcloud's, which stays gcloud's", "use a desktop application's client and: tokenctl login NAME")
	case g.Type == "external_account", g.Type == "external_account_authorized_user", g.Type == "impersonated_service_account":
		return nil, wrong("it has no key, but refers to other credentials ("+g.Type+")", "make a profile with OAUTH2_GRANT=token_exchange: tokenctl add NAME")
	default:
		return nil, wrong("it is neither a service account's key nor a desktop application's client", "nothing was written")
	}
	set("OAUTH2_SCOPE", scope)
	if name == "" {
		if name = nameFrom(named); name == "" {
			return nil, wrong("nothing in it makes a name for the profile", "add --as NAME")
		}
	}
	return &api.PutProfileRequest{Name: name, Variables: &api.Variables{Variables: vars}}, nil
}
