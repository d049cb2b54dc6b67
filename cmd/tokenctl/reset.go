package main

import (
	"github.com/spf13/cobra"

	"tokend/client/api"
)

func resetCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "reset PROFILE",
		Short: "Forget what the authorization server has refused, so that it is asked again",
		Long: `Forget what a profile's authorization server has refused, so that the next "get"
asks it again: for when something was put right there. A changed profile needs no
reset. A server that has asked to be left alone for a while is left alone all the
same.`,
		Example:           "  tokenctl reset dev/network && tokenctl get dev/network",
		Args:              exactly("PROFILE"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			resp := &api.ResetProfileResponse{}
			if err := a.client.Call(c.Context(), api.MethodResetProfile, &api.ResetProfileRequest{Profile: args[0]}, resp); err != nil {
				return err
			}
			if a.output == "json" {
				return sayJSON(struct {
					Profile  string `json:"profile"`
					Reopened bool   `json:"reopened"`
				}{args[0], resp.Reopened})
			}
			what := "there was nothing to forget"
			if resp.Reopened {
				what = "forgotten"
			}
			return say("%s\n", oneLine(args[0]+": "+what))
		},
	}
	a.outputFlag(c, "text", "json")
	return c
}
