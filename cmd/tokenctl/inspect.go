package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

func inspectCommand(a *app) *cobra.Command {
	req := &api.IntrospectTokenRequest{}
	c := &cobra.Command{
		Use:   "inspect PROFILE",
		Short: "Say what a profile's token is good for",
		Long: `Say what a profile's token is good for: what the authorization server says of it
(RFC 7662), or else what stands in it if it is a JWT. The latter is not verified:
do not decide anything by it.`,
		Example: `  tokenctl inspect dev/network
  tokenctl inspect dev/network -o json | jq .claims.aud`,
		Args:              exactly("PROFILE"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			req.Profile = args[0]
			req.Scopes = strings.Fields(strings.Join(req.Scopes, " "))
			resp := &api.IntrospectTokenResponse{}
			if err := a.client.Call(c.Context(), api.MethodIntrospectToken, req, resp); err != nil {
				return err
			}
			if resp.Claims == "" {
				resp.Claims = "{}"
			}
			claims := make(map[string]json.RawMessage)
			if err := json.Unmarshal([]byte(resp.Claims), &claims); err != nil {
				return fmt.Errorf("the claims are no JSON object: %w", err)
			}
			if a.output == "json" {
				return sayJSON(inspectionJSON(args[0], resp))
			}
			return say("%s", inspectionText(resp, claims))
		},
	}
	f := c.Flags()
	f.StringArrayVar(&req.Scopes, "scope", nil, "the token for this scope instead of the profile's; may be repeated")
	f.StringVar(&req.Audience, "audience", "", "the token for this audience instead of the profile's")
	f.StringVar(&req.Resource, "resource", "", "the token for this resource (RFC 8707) instead of the profile's")
	a.outputFlag(c, "text", "json")
	return c
}

func inspectionJSON(name string, r *api.IntrospectTokenResponse) any {
	out := struct {
		Profile       string          `json:"profile"`
		Active        *bool           `json:"active"` // null: nobody says
		Source        string          `json:"source"`
		Claims        json.RawMessage `json:"claims"`
		TokenType     string          `json:"token_type"`
		ExpiresAt     string          `json:"expires_at,omitempty"`
		ExpiresAtUnix int64           `json:"expires_at_unix,omitempty"`
		Fingerprint   string          `json:"fingerprint"`
	}{
		Profile: name, Active: &r.Active, Source: strings.ToLower(r.Source.String()), Claims: json.RawMessage(r.Claims),
		TokenType: r.TokenType, Fingerprint: r.Fingerprint,
	}
	if r.Source == api.SourceNone {
		out.Active = nil
	}
	if !r.ExpiresAt.IsZero() {
		out.ExpiresAt, out.ExpiresAtUnix = r.ExpiresAt.UTC().Format(time.RFC3339), r.ExpiresAt.Unix()
	}
	return out
}

func inspectionText(r *api.IntrospectTokenResponse, claims map[string]json.RawMessage) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", oneLine(name), oneLine(value)) }
	active := "no"
	if r.Active {
		active = "yes"
	}
	switch r.Source {
	case api.SourceIntrospection:
		row("active", active+", says the authorization server")
	case api.SourceJwt:
		row("active", active+", by what stands in the token: NOT VERIFIED")
	default:
		row("active", "unknown: the authorization server is not to be asked, and the token is opaque")
	}
	row("type", r.TokenType)
	row("fingerprint", r.Fingerprint)
	if !r.ExpiresAt.IsZero() {
		row("expires", moment(r.ExpiresAt))
	}
	w.Flush()
	if len(claims) > 0 {
		b.WriteByte('\n')
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		row(name, claimText(name, claims[name]))
	}
	w.Flush()
	return b.String()
}

// claimText is a claim for a person: a string as it is, a time (RFC 7519 4.1,
// RFC 7662 2.2) as one, all else as JSON.
func claimText(name string, raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var seconds float64
	if slices.Contains([]string{"exp", "iat", "nbf", "auth_time"}, name) &&
		json.Unmarshal(raw, &seconds) == nil && seconds > 0 && seconds < 1<<38 {
		return string(raw) + " (" + moment(time.Unix(int64(seconds), 0)) + ")"
	}
	return string(raw)
}
