package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

// liveTime bounds an explanation that asks the network.
const liveTime = time.Minute

func explainCommand(a *app) *cobra.Command {
	req := &api.ExplainTokenRequest{}
	c := &cobra.Command{
		Use:   "explain PROFILE",
		Short: "Say why there is a token, or none",
		Long: `Say why there is a token, or none: what is known of the profile, its session, its
token and the authorization server, in the order in which a token comes to be; then
what "get" would say now, and the token request as a command, its secrets left out.

Nobody is asked for that. With --live the network is: names, TLS, the server's clock
and its metadata. No credential is sent in any case, and no token asked for.

All of it is standard output; the exit status is that which "get" would have, 0
where there is a token or one could be asked for.`,
		Example: `  tokenctl explain dev/network
  tokenctl explain dev/network --live
  tokenctl explain dev/network -o json | jq '.findings[] | select(.level == "problem")'`,
		Args:              exactly("PROFILE"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			req.Profile = args[0]
			req.Scopes = strings.Fields(strings.Join(req.Scopes, " "))
			ctx := c.Context()
			if req.Live {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, liveTime)
				defer cancel()
			}
			resp := &api.ExplainTokenResponse{}
			if err := a.client.Call(ctx, api.MethodExplainToken, req, resp); err != nil {
				return err
			}
			var p *problem
			if resp.Problem.Reason != api.ReasonUnspecified {
				p = problemOf(req.Profile, &resp.Problem)
			}
			var err error
			if a.output == "json" {
				err = sayJSON(explanationJSON(req.Profile, resp, p))
			} else {
				err = say("%s", explanationText(req.Profile, resp, p, isTerminal(os.Stdout) && colours()))
			}
			if err == nil && p != nil {
				err = &answered{p.Exit}
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&req.Live, "live", false, "ask the network as well")
	f.StringArrayVar(&req.Scopes, "scope", nil, "the token for this scope instead of the profile's; may be repeated")
	f.StringVar(&req.Audience, "audience", "", "the token for this audience instead of the profile's")
	f.StringVar(&req.Resource, "resource", "", "the token for this resource (RFC 8707) instead of the profile's")
	a.outputFlag(c, "text", "json")
	return c
}

// problemOf is what a call that fails with p would be diagnosed as.
func problemOf(profile string, p *api.Problem) *problem {
	d := diagnoseCall(&client.Error{
		Reason:     p.Reason,
		Message:    p.Message,
		Metadata:   map[string]string{"profile": profile, "variable": p.Variable, "oauth_error": p.OauthError},
		RetryAfter: p.RetryAfter,
	})
	return &d
}

type findingJSON struct {
	Level string `json:"level"`
	Topic string `json:"topic"`
	Text  string `json:"text"`
}

func explanationJSON(profile string, r *api.ExplainTokenResponse, p *problem) any {
	out := struct {
		Profile       string        `json:"profile"`
		Findings      []findingJSON `json:"findings"`
		Problem       *problem      `json:"problem,omitempty"`
		Fingerprint   string        `json:"fingerprint,omitempty"`
		ExpiresAt     string        `json:"expires_at,omitempty"`
		ExpiresAtUnix int64         `json:"expires_at_unix,omitempty"`
		RenewsAt      string        `json:"renews_at,omitempty"`
		RenewsAtUnix  int64         `json:"renews_at_unix,omitempty"`
		Curl          string        `json:"curl,omitempty"`
	}{Profile: profile, Findings: []findingJSON{}, Problem: p, Fingerprint: r.Fingerprint, Curl: r.Curl}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, findingJSON{strings.ToLower(f.Level.String()), f.Topic, f.Text})
	}
	out.ExpiresAt, out.ExpiresAtUnix = timeJSON(r.ExpiresAt)
	out.RenewsAt, out.RenewsAtUnix = timeJSON(r.RenewsAt)
	return out
}

// marks say a finding's level without colour, and with it.
var marks = map[api.Level]struct{ word, colour string }{
	api.LevelOk:      {"ok", "\x1b[32m"},
	api.LevelWarning: {"warning", "\x1b[33m"},
	api.LevelProblem: {"PROBLEM", "\x1b[31m"},
}

func explanationText(profile string, r *api.ExplainTokenResponse, p *problem, colour bool) string {
	var b strings.Builder
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(oneLine(f.Topic)))
	}
	for _, f := range r.Findings {
		m := marks[f.Level]
		mark := fmt.Sprintf("%-7s", m.word)
		if colour && m.colour != "" {
			mark = m.colour + mark + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s  %-*s  %s\n", mark, width, oneLine(f.Topic), oneLine(f.Text))
	}
	fmt.Fprintf(&b, "\n%s\n", oneLine(verdict(profile, r, p)))
	if r.Curl != "" {
		fmt.Fprintf(&b, "\nThe token request, its secrets left out:\n%s\n", strings.TrimRight(printable(r.Curl), "\n"))
	}
	return b.String()
}

func verdict(profile string, r *api.ExplainTokenResponse, p *problem) string {
	switch {
	case p != nil:
		return p.line()
	case r.ExpiresAt.IsZero():
		return profile + `: no token is held; "get" asks the authorization server for one`
	}
	return profile + ": token good until " + clock(r.ExpiresAt) + ", " + renewal(r.RenewsAt)
}
