package main

import (
	"strings"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

func importOAuth2cCommand(a *app) *cobra.Command {
	var as, grant string
	var scopes []string
	c := &cobra.Command{
		Use:   "oauth2c FILE|-",
		Short: "Make a profile from a client's JSON file as oauth2c takes it",
		Long: `Make a profile from a client's JSON file as oauth2c takes it in place of an issuer:
client_id, client_secret and openid_discovery_endpoint. All else is flags there,
and here --grant, --scope, and what "tokenctl edit" can add.`,
		Example: `  tokenctl import oauth2c client.json --as dev/network --scope "a b"
  tokenctl import oauth2c client.json --as me --grant authorization_code`,
		Args: exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := importText(args[0])
			if err != nil {
				return err
			}
			put, left, err := fromOAuth2c(args[0], as, grant, strings.Join(strings.Fields(strings.Join(scopes, " ")), " "), text)
			if err != nil {
				return err
			}
			if err := a.putImported(c.Context(), put); err != nil {
				return err
			}
			if len(left) > 0 {
				note("%s: left out, oauth2c does not read it either: %s", put.Name, strings.Join(left, ", "))
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "as", "", "name of the profile")
	c.Flags().StringVar(&grant, "grant", "", "its OAUTH2_GRANT; default: client_credentials, and authorization_code for a client without a secret")
	c.Flags().StringArrayVar(&scopes, "scope", nil, "the profile's scope; may be repeated")
	return c
}

// fromOAuth2c makes a profile of oauth2c's file. Members that it does not have are
// left.
func fromOAuth2c(file, name, grant, scope string, text []byte) (put *api.PutProfileRequest, left []string, err error) {
	wrong := func(message, fix string) error {
		return &problem{Exit: exitConfig, Message: file + ": " + message, Fix: fix}
	}
	m, err := readMembers(text)
	if err != nil { // it could quote the secret
		return nil, nil, wrong("it is not a JSON object as oauth2c takes it", "nothing was written")
	}
	id, secret, discovery := m.take("client_id"), m.take("client_secret"), m.take("openid_discovery_endpoint")
	if id == "" || discovery == "" {
		return nil, nil, wrong("client_id or openid_discovery_endpoint is missing in it", "nothing was written")
	}
	issuer := strings.TrimSuffix(discovery, "/.well-known/openid-configuration")
	if name == "" {
		if name = nameFrom(hostOf(issuer)); name == "" {
			return nil, nil, wrong("nothing in it makes a name for the profile", "add --as NAME")
		}
	}
	if grant == "" && secret == "" {
		grant = "authorization_code"
	}
	var vars []api.Variable
	for _, v := range []api.Variable{
		{Name: "OAUTH2_ISSUER", Value: issuer},
		{Name: "OAUTH2_GRANT", Value: grant},
		{Name: "CLIENT_ID", Value: id},
		{Name: "CLIENT_SECRET", Value: secret},
		{Name: "OAUTH2_SCOPE", Value: scope},
	} {
		if v.Value != "" {
			vars = append(vars, v)
		}
	}
	return &api.PutProfileRequest{Name: name, Variables: &api.Variables{Variables: vars}}, m.left(), nil
}
