package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/envfile"
	"tokend/internal/settings"
)

// shells are those that env writes for; "sh" is any other of POSIX.
var shells = []string{"bash", "zsh", "fish", "dash", "sh"}

func envCommand(a *app) *cobra.Command {
	var unset bool
	var allow []string
	shell := filepath.Base(os.Getenv("SHELL"))
	if !slices.Contains(shells, shell) {
		shell = "sh"
	}
	c := &cobra.Command{
		Use:   "env PROFILE",
		Short: "Print a profile's variables for a shell to take over",
		Long: `Print the assignments of a profile's variables, all of them, for a shell to
evaluate: its secrets are then in that shell and in all that it starts. With
--unset print what takes them back; that shows no secret.

A text that is not trusted is refused, and so is one that sets a variable which
changes how programs load or how a shell behaves, such as PATH, LD_PRELOAD or
BASH_ENV, unless --allow names it. Then nothing is printed at all. Values are
never expanded: what looks like $HOME or $(command) is those characters.

The shell is the one in $SHELL, else any of POSIX; --shell names another. Where a
program needs the variables and the shell does not, "tokenctl exec" is better. An
access token comes from "tokenctl get".`,
		Example: `  eval "$(tokenctl env dev/network)"
  eval "$(tokenctl env dev/network --unset)"
  v=$(tokenctl env dev/network) && eval "$v"         where a failure is to be seen
  tokenctl env dev/network --shell fish | source
  tokenctl env dev/network -o json | jq -r .variables.CLIENT_ID`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			profile, err := a.profileIn(c, args)
			if err != nil {
				return err
			}
			read := a.variables
			if unset {
				read = a.maskedVariables
			}
			vars, err := read(c.Context(), profile)
			if err != nil {
				return err
			}
			into := shell
			if a.output == "json" {
				into = ""
			}
			if err := checkNames(profile, vars, allow, into); err != nil {
				return err
			}
			if a.output == "json" {
				return sayVariables(profile, vars, unset)
			}
			var b strings.Builder
			for _, v := range vars {
				if unset {
					b.WriteString(unassignment(shell, v.Name))
				} else {
					b.WriteString(assignment(shell, v.Name, v.Value))
				}
			}
			return say("%s", b.String())
		},
	}
	f := c.Flags()
	f.BoolVar(&unset, "unset", false, "print what unsets the variables")
	f.Var(&choice{&shell, shells}, "shell", "the shell: "+strings.Join(shells, ", "))
	_ = c.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp))
	f.StringArrayVar(&allow, "allow", nil, "set this variable although it changes how programs behave; may be repeated")
	a.outputFlag(c, "shell", "json")
	return c
}

// profileIn is the profile that the one argument names, or without it TOKEND_PROFILE.
func (a *app) profileIn(c *cobra.Command, args []string) (string, error) {
	if len(args) > 0 && args[0] == "" {
		return "", emptyError(c, "PROFILE")
	}
	return a.profileOr(c, strings.Join(args, ""))
}

// profileOr is the profile named, or where none is, the one that TOKEND_PROFILE names.
func (a *app) profileOr(c *cobra.Command, named string) (string, error) {
	if named != "" {
		return named, nil
	}
	s, err := a.client.Settings()
	if err != nil {
		return "", err
	}
	if named = s.Get(settings.Profile); named == "" {
		return "", usageError(c, "PROFILE missing, and TOKEND_PROFILE is not set")
	}
	return named, nil
}

// variables reads a profile's variables, if its text is trusted. It asks for
// the text, because an answer with variables holds UTF-8 only.
func (a *app) variables(ctx context.Context, profile string) ([]envfile.Var, error) {
	resp := &api.RevealProfileResponse{}
	req := &api.RevealProfileRequest{Name: profile, Form: api.FormText, TrustedOnly: true}
	if err := a.client.Call(ctx, api.MethodRevealProfile, req, resp); err != nil {
		return nil, err
	}
	return parseVariables(profile, resp.Text)
}

// maskedVariables is variables without the secrets.
func (a *app) maskedVariables(ctx context.Context, profile string) ([]envfile.Var, error) {
	resp := &api.GetProfileResponse{}
	if err := a.client.Call(ctx, api.MethodGetProfile, &api.GetProfileRequest{Name: profile}, resp); err != nil {
		return nil, err
	}
	if !resp.Trust.Trusted {
		return nil, &client.Error{Reason: api.ReasonUntrusted, Message: "its text has not been trusted on this machine", Metadata: map[string]string{"profile": profile}}
	}
	if resp.MaskedText == "" && len(resp.Mistakes) > 0 {
		m := resp.Mistakes[0]
		return nil, mistaken(profile, &envfile.Error{Line: int(m.Line), Variable: m.Variable, Message: m.Message})
	}
	return parseVariables(profile, []byte(resp.MaskedText))
}

// mistaken is the failure for a text that is no env file.
func mistaken(profile string, e *envfile.Error) error {
	return &problem{
		Reason: reasonName(api.ReasonProfileInvalid), Exit: exitConfig, Profile: profile, Message: e.Error(),
		Line: strconv.Itoa(e.Line), Variable: e.Variable, Fix: "run: tokenctl edit " + profile,
	}
}

// parseVariables lists a text's variables; of a name assigned twice the last
// stands, as in a shell.
func parseVariables(profile string, text []byte) ([]envfile.Var, error) {
	all, err := envfile.Parse(text)
	var mistake *envfile.Error
	if errors.As(err, &mistake) {
		return nil, mistaken(profile, mistake)
	}
	var vars []envfile.Var
	for _, v := range all {
		if i := slices.IndexFunc(vars, func(u envfile.Var) bool { return u.Name == v.Name }); i >= 0 {
			vars[i] = v
		} else {
			vars = append(vars, v)
		}
	}
	return vars, nil
}

// sayVariables is -o json.
func sayVariables(profile string, vars []envfile.Var, unset bool) error {
	names, values := []string{}, map[string]string{}
	for _, v := range vars {
		if !utf8.ValidString(v.Value) {
			return &problem{Exit: exitFailed, Profile: profile, Variable: v.Name, Message: v.Name + " is not UTF-8, and JSON holds nothing else"}
		}
		names = append(names, v.Name)
		values[v.Name] = v.Value
	}
	if unset {
		return sayJSON(map[string]any{"profile": profile, "unset": names})
	}
	return sayJSON(map[string]any{"profile": profile, "variables": values})
}
