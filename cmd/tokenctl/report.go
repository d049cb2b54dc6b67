package main

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

func reportCommand(a *app) *cobra.Command {
	req := &api.ReportTokenRequest{}
	var challenges []string
	c := &cobra.Command{
		Use:   "report PROFILE",
		Short: "Say that an API has refused a token, so that the next one is another",
		Long: `Say that an API has refused a profile's token, which is one line of standard
input. One that the API calls invalid is handed out no more, and the next "get"
gives another one, to everybody; for what is not the token's fault nothing
changes. Give it what the API answered: by that the two are told apart (RFC 6750
section 3).

What came of it is one line. With -o json, "outcome" is one of these:
  evicted     the token is handed out no more; repeat the request once, with the
              one that "get" gives now
  superseded  it is not the one that "get" gives now; likewise
  kept        another token would be refused as well; "message" says why

Exit statuses: 0 one of these; 75 too soon, because the refused token replaces one
that was reported moments ago: the line says when another one can be had; the rest
as with "get".`,
		Example: `  t=$(tokenctl get dev/network) &&
    a=$(printf 'Authorization: Bearer %s' "$t" |
      curl -s -o body -w '%{http_code} %header{www-authenticate}' -H @- "$url") &&
    case $a in
    401*) printf %s "$t" | tokenctl report dev/network --www-authenticate "${a#* }" ;;
    esac`,
		Args:              exactly("PROFILE"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			req.Profile = args[0]
			for _, v := range challenges {
				if v = strings.TrimSpace(strings.ToValidUTF8(v, "?")); v != "" {
					req.WwwAuthenticate = append(req.WwwAuthenticate, v)
				}
			}
			var err error
			if req.AccessToken, err = tokenOnStdin(c, "Refused token:"); err != nil {
				return err
			}
			resp := &api.ReportTokenResponse{}
			if err := a.client.Call(c.Context(), api.MethodReportToken, req, resp); err != nil {
				return err
			}
			return a.sayReported(req.Profile, resp)
		},
	}
	f := c.Flags()
	f.Int32Var(&req.HttpStatus, "status", 0, "HTTP status of the API's answer; default: 401")
	f.StringArrayVar(&challenges, "www-authenticate", nil, "the answer's field of that name; may be repeated")
	a.outputFlag(c, "text", "json")
	return c
}

// tokenOnStdin takes a token from standard input, and asks for it on a terminal.
func tokenOnStdin(c *cobra.Command, question string) (token string, err error) {
	if isTerminal(os.Stdin) {
		ctx, stop := interruptible(c.Context())
		defer stop()
		token, err = askSecret(ctx, question)
	} else {
		token, err = waitLine(c.Context())
	}
	if token = strings.TrimSpace(token); errors.Is(err, io.EOF) || err == nil && token == "" {
		err = usageError(c, "standard input holds no token")
	}
	return token, err
}

func (a *app) sayReported(profile string, r *api.ReportTokenResponse) error {
	if r.Outcome == api.OutcomeTooSoon {
		return &problem{
			Exit: exitNotNow, Profile: profile, Message: r.Message, OAuthError: r.Error, Transient: true,
			RetryAfter: seconds(r.RetryAfter), Fix: nextTry(r.RetryAfter),
		}
	}
	fix := ""
	if r.Error == "insufficient_scope" {
		scopes := "SCOPE"
		if len(r.Scopes) > 0 {
			scopes = shellQuote(strings.Join(r.Scopes, " ")) // the API chose it
		}
		fix = "run: tokenctl login " + profile + " --scope " + scopes
	}
	if a.output == "json" {
		return sayJSON(struct {
			Profile string   `json:"profile"`
			Outcome string   `json:"outcome"`
			Message string   `json:"message"`
			Error   string   `json:"error,omitempty"`
			Scopes  []string `json:"scopes"`
			Fix     string   `json:"fix,omitempty"`
		}{profile, strings.ToLower(r.Outcome.String()), r.Message, r.Error, listed(r.Scopes), fix})
	}
	line := profile + ": " + r.Message
	if fix != "" {
		line += "; " + fix
	}
	return say("%s\n", oneLine(line))
}
