package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

// revokeTime bounds the calls that tell authorization servers of many tokens.
const revokeTime = 2 * time.Minute

func logoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout NAME",
		Short: "End a profile's session: revoke its tokens and forget them",
		Long: `End a profile's session: its tokens are revoked at the authorization server, where
that can be done, and forgotten here in any case. A server that cannot be reached
is told later.

The profile stays. One that is gone already may have left a session behind, which
"status" shows: it is ended by its name too.`,
		Example:           "  tokenctl logout dev/network",
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeSessions,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), revokeTime)
			defer cancel()
			resp := &api.LogoutResponse{}
			if err := a.client.Call(ctx, api.MethodLogout, &api.LogoutRequest{Profile: args[0]}, resp); err != nil {
				return err
			}
			return sayRevoked([]api.RevokeTokensResponseRevocation{{
				Profile: args[0], Revoked: resp.Revoked, Queued: resp.Queued, Problem: resp.Problem,
			}}, "logged out, ")
		},
	}
}

func revokeCommand(a *app) *cobra.Command {
	var all, yes bool
	c := &cobra.Command{
		Use:   "revoke PROFILE|--all",
		Short: "End a profile's tokens, here and at the authorization server",
		Long: `End a profile's tokens, here and at the authorization server (RFC 7009), the
refresh token too. A profile that needs no person makes a new token at the next
"get"; any other one needs a login then.

It exits with 1 where tokens live on until they expire, because the server cannot
revoke them.`,
		Example: `  tokenctl revoke dev/network
  tokenctl revoke --all --yes                 every profile's, in a script`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usageError(c, "--all and a profile exclude each other")
			case all:
				return nil
			case len(args) == 0:
				return usageError(c, "PROFILE or --all missing")
			}
			return exactly("PROFILE")(c, args)
		},
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			if all && !yes && isTerminal(os.Stdin) {
				ok, err := confirm(c.Context(), "Revoke the tokens of all profiles?")
				if err != nil {
					return err
				}
				if !ok {
					return &problem{Exit: exitFailed, Message: "kept"}
				}
			}
			ctx, cancel := context.WithTimeout(c.Context(), revokeTime)
			defer cancel()
			resp := &api.RevokeTokensResponse{}
			req := &api.RevokeTokensRequest{Profile: strings.Join(args, ""), All: all}
			if err := a.client.Call(ctx, api.MethodRevokeTokens, req, resp); err != nil {
				return err
			}
			return sayRevoked(resp.Revocations, "")
		},
	}
	c.Flags().BoolVar(&all, "all", false, "of all profiles")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// sayRevoked says one line a profile, which begins with what; tokens that live
// on are the failure.
func sayRevoked(all []api.RevokeTokensResponseRevocation, what string) error {
	var failed []api.RevokeTokensResponseRevocation
	for _, r := range all {
		came := "no tokens to revoke"
		if r.Revoked > 0 || r.Queued > 0 || r.Problem != "" {
			came = counted(r.Revoked, "token") + " revoked"
		}
		if err := say("%s\n", oneLine(r.Profile+": "+what+came)); err != nil {
			return err
		}
		if r.Queued > 0 {
			why := ": the server could not be reached"
			if r.Problem != "" {
				why = "" // that says it
			}
			note("%s: warning: %s still to be revoked%s, which is tried again", r.Profile, counted(r.Queued, "token"), why)
		}
		if r.Problem != "" {
			failed = append(failed, r)
		}
	}
	const liveOn = "tokens live on until they expire: "
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return &problem{Exit: exitFailed, Profile: failed[0].Profile, Message: liveOn + failed[0].Problem}
	}
	var names []string
	for _, r := range failed {
		note("%s: warning: %s", r.Profile, r.Problem)
		names = append(names, r.Profile)
	}
	return &problem{Exit: exitFailed, Message: liveOn + strings.Join(names, ", ")}
}

func counted(n int32, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// completeSessions is completeProfiles, and the sessions whose profile is gone.
func (a *app) completeSessions(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, directive := a.completeProfiles(c, args, word)
	if len(args) > 0 {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	if s, err := a.status(ctx); err == nil {
		names = append(names, s.OrphanedSessions...)
	}
	return names, directive
}
