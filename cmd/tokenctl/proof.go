package main

import (
	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

func proofCommand(a *app) *cobra.Command {
	req := &api.CreateDPoPProofRequest{}
	var tokenFile string
	c := &cobra.Command{
		Use:   "proof PROFILE METHOD URL",
		Short: "Print the DPoP proof that goes with one request to an API",
		Long: `Print the DPoP proof (RFC 9449) that goes with one request to an API: the daemon
has the key that the profile's token is bound to, and gives it to nobody. A proof
is good for one request.

It is made for the token that "get" prints at that moment, or for the one in
--token-file; "-" takes it from standard input, so that no other one is meant.`,
		Example: `  t=$(tokenctl get dev/network) &&
    p=$(printf %s "$t" | tokenctl proof dev/network GET "$url" --token-file -) &&
    printf 'Authorization: DPoP %s\nDPoP: %s\n' "$t" "$p" | curl -H @- "$url"
  tokenctl proof dev/network POST "$url" --nonce "$nonce"`,
		Args:              exactly("PROFILE", "METHOD", "URL"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			req.Profile, req.Method, req.Url = args[0], args[1], args[2]
			var err error
			if req.AccessToken, err = a.tokenToProve(c, req.Profile, tokenFile); err != nil {
				return err
			}
			resp := &api.CreateDPoPProofResponse{}
			if err := a.client.Call(c.Context(), api.MethodCreateDPoPProof, req, resp); err != nil {
				return err
			}
			if a.output == "header" {
				return say("DPoP: %s\n", resp.Proof)
			}
			return say("%s\n", resp.Proof)
		},
	}
	c.Flags().StringVar(&req.Nonce, "nonce", "", "the DPoP-Nonce of the API's last answer")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token, - for standard input; default: the one that get prints")
	a.outputFlag(c, "proof", "header")
	return c
}

func (a *app) tokenToProve(c *cobra.Command, profile, file string) (string, error) {
	switch file {
	case "":
		t, err := a.token(c.Context(), client.TokenRequest{Profile: profile}, 0)
		if err != nil {
			return "", err
		}
		return t.AccessToken, nil
	case "-":
		return tokenOnStdin(c, "Token:")
	}
	return secretIn(file)
}
