package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

// getTime bounds a get that was not told to wait.
const getTime = 10 * time.Second

func getCommand(a *app) *cobra.Command {
	var r client.TokenRequest
	var wait time.Duration
	c := &cobra.Command{
		Use:   "get PROFILE",
		Short: "Print an access token",
		Long: `Print an access token and a newline, or nothing at all and an error.

The token comes from the daemon's cache, or from the authorization server if
there is none that is good for at least 30 s (or a tenth of its life, if that
is less). get never opens a browser and never asks anything. While the server is
down, a token that is still good is printed all the same, with a warning.

With --wait it tries again while the server is down or wants to be left alone, at
the times that the errors name; a refusal is not waited for.

PROFILE may be left out where TOKEND_PROFILE names one.

Exit statuses: 0 there is a token; 2 wrong usage; 3 no daemon; 4 a login is
needed; 5 locked; 6 no such profile; 7 untrusted or denied; 8 the provider
refuses for good; 75 not now, try again; 78 the profile or a setting is wrong;
130 interrupted; 1 anything else.`,
		Example: `  t=$(tokenctl get dev/network) && curl -H "Authorization: Bearer $t" URL
  curl -H @<(tokenctl get -o header dev/network) URL     the token in no command line; for
                                                         one of DPoP see: tokenctl proof
  tokenctl get dev/network --scope "api.read" --min-valid 10m
  tokenctl get dev/network -o json | jq .expires_at
  eval "$(tokenctl get dev/network -o env)"              sets ACCESS_TOKEN`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if r.Profile, err = a.profileIn(c, args); err != nil {
				return err
			}
			if wait < 0 {
				return usageError(c, "--wait must not be negative")
			}
			r.Scopes = strings.Fields(strings.Join(r.Scopes, " "))
			t, err := a.token(c.Context(), r, wait)
			if err != nil {
				return err
			}
			if t.Warning != "" {
				note("%s: warning: %s", r.Profile, t.Warning)
			}
			return a.printToken(r.Profile, t)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&r.Scopes, "scope", nil, "ask for this scope instead of the profile's; may be repeated")
	f.StringVar(&r.Audience, "audience", "", "ask for this audience instead of the profile's")
	f.StringVar(&r.Resource, "resource", "", "ask for this resource (RFC 8707) instead of the profile's")
	f.DurationVar(&r.MinValid, "min-valid", 0, "how much longer the token must be good for, such as 10m")
	f.BoolVar(&r.Force, "force", false, "get a new token, at most one every 2 s a profile")
	f.BoolVar(&r.BestEffort, "best-effort", false, "take a token that falls short of --min-valid over none")
	f.DurationVar(&wait, "wait", 0, "keep trying that long while the provider is down or throttles")
	a.outputFlag(c, "token", "header", "json", "env", "header-json")
	return c
}

// token gets a token; while the provider is down, it tries again for as long
// as wait says, at the times that the daemon names.
func (a *app) token(ctx context.Context, r client.TokenRequest, wait time.Duration) (*client.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, max(getTime, wait))
	defer cancel()
	giveUp := time.Now().Add(wait)
	for {
		t, err := a.client.Token(ctx, r)
		var e *client.Error
		if !errors.As(err, &e) || e.Reason != api.ReasonProviderDown && e.Reason != api.ReasonThrottled {
			return t, err
		}
		again := max(time.Second, e.RetryAfter)
		if time.Now().Add(again).After(giveUp) {
			return nil, err
		}
		switch waited := pause(ctx, again); {
		case errors.Is(waited, context.Canceled):
			return nil, waited
		case waited != nil:
			return nil, err
		}
	}
}

// pause waits, and says so on a terminal, on one line that it clears again.
func pause(ctx context.Context, d time.Duration) error {
	over := time.After(d)
	if !isTerminal(os.Stderr) {
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	// Padded, so that each overwrites the one before it.
	const form, width = "\rwaiting for the provider; %-25s", len("waiting for the provider; ") + 25
	defer func() { fmt.Fprintf(os.Stderr, "\r%*s\r", width+len("^C"), "") }()
	for until := time.Now().Add(d); ; {
		fmt.Fprintf(os.Stderr, form, nextTry(max(0, time.Until(until))))
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// tokenJSON is what -o json prints. Times are RFC 3339 in UTC and seconds
// since the epoch.
type tokenJSON struct {
	Profile       string   `json:"profile"`
	AccessToken   string   `json:"access_token"`
	TokenType     string   `json:"token_type"`
	ExpiresAt     string   `json:"expires_at"`
	ExpiresAtUnix int64    `json:"expires_at_unix"`
	ExpiresIn     int64    `json:"expires_in"`
	Lifetime      int64    `json:"lifetime"`
	Scopes        []string `json:"scopes"`
	APIOrigins    []string `json:"api_origins"`
	Fingerprint   string   `json:"fingerprint"`
	ExpiryAssumed bool     `json:"expiry_assumed"`
	Degraded      bool     `json:"degraded"`
	Warning       string   `json:"warning,omitempty"`
}

func (a *app) printToken(name string, t *client.Token) error {
	if t.Type == "N_A" && (a.output == "header" || a.output == "header-json") {
		return &problem{Exit: exitFailed, Profile: name, Message: "this is no access token (token_type N_A, RFC 8693 section 2.2.1) and goes into no header"}
	}
	switch a.output {
	case "header":
		return say("Authorization: %s\n", t.Header())
	case "header-json":
		return sayJSON(map[string]string{"Authorization": t.Header()})
	case "env":
		return say("export ACCESS_TOKEN=%s\nexport ACCESS_TOKEN_TYPE=%s\nexport ACCESS_TOKEN_EXPIRES_AT=%d\n",
			shellQuote(t.AccessToken), shellQuote(t.Type), t.ExpiresAt.Unix())
	case "json":
		return sayJSON(tokenJSON{
			Profile:       name,
			AccessToken:   t.AccessToken,
			TokenType:     t.Type,
			ExpiresAt:     t.ExpiresAt.UTC().Format(time.RFC3339),
			ExpiresAtUnix: t.ExpiresAt.Unix(),
			ExpiresIn:     int64(t.ExpiresIn / time.Second),
			Lifetime:      int64(t.Lifetime / time.Second),
			Scopes:        listed(t.Scopes),
			APIOrigins:    listed(t.APIOrigins),
			Fingerprint:   t.Fingerprint,
			ExpiryAssumed: t.ExpiryAssumed,
			Degraded:      t.Degraded,
			Warning:       t.Warning,
		})
	}
	_, err := os.Stdout.WriteString(t.AccessToken + "\n")
	return err
}

// listed makes an empty list of none, for readers of JSON.
func listed(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// shellQuote quotes for every POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
