package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

func addCommand(a *app) *cobra.Command {
	var file string
	var fromEnv, replace bool
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Keep a new profile",
		Long: `Keep a new profile: NAME=value lines, as in an env file.

The text comes from standard input where that is not a terminal, from --file,
from the variables of this environment, or from an editor. It is trusted by
being added.`,
		Example: `  tokenctl add dev/network < network.env
  tokenctl add dev/network --file network.env
  OAUTH2_TOKEN_URL=… CLIENT_ID=… CLIENT_SECRET=… tokenctl add dev/network --from-env
  tokenctl add dev/network                    opens $VISUAL or $EDITOR`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			if file != "" && fromEnv {
				return usageError(c, "--file and --from-env exclude each other")
			}
			put := &api.PutProfileRequest{Name: name}
			if replace {
				version, err := a.versionOf(c.Context(), name)
				if err != nil {
					return err
				}
				put.Replaces = version
			}
			if fromEnv {
				vars := environmentVariables(os.Environ())
				if len(vars) == 0 {
					return &problem{Exit: exitUsage, Profile: name, Message: "the environment has none of a profile's variables, such as OAUTH2_ISSUER and CLIENT_ID"}
				}
				put.Variables = &api.Variables{Variables: vars}
				return a.put(c.Context(), put)
			}
			text, given, err := givenText(args[0], file)
			if err != nil {
				return err
			}
			if !given {
				if err := a.unlocked(c.Context(), name); err != nil {
					return err
				}
				return a.editAndPut(c.Context(), put, []byte(template))
			}
			put.Text = text
			return a.put(c.Context(), put)
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "read the text from this file")
	c.Flags().BoolVar(&fromEnv, "from-env", false, "take the variables from the environment")
	c.Flags().BoolVar(&replace, "replace", false, "replace the profile if there is one")
	return c
}

// template is what an editor starts with. Comments are kept.
const template = `# OAuth 2.0 client credentials. Lines are NAME=value, as in an env file.
OAUTH2_ISSUER=
# or, instead of the issuer: OAUTH2_TOKEN_URL=
CLIENT_ID=
CLIENT_SECRET=
# OAUTH2_SCOPE=
#
# A person logs in, with "tokenctl login": OAUTH2_GRANT=authorization_code in a
# browser, OAUTH2_GRANT=device_code with a code to type.
# A refresh token from elsewhere: OAUTH2_GRANT=refresh_token, OAUTH2_REFRESH_TOKEN=
# A key instead of a secret: PRIVATE_KEY_FILE=
# A provider that is known: OAUTH2_PROVIDER=keycloak, entra, google, …
`

func editCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "edit NAME",
		Short: "Change a profile",
		Long: `Change a profile's text in $VISUAL or $EDITOR, or replace it by standard input
where that is not a terminal, or by --file.

The plain text is edited in memory-backed storage where the system has some.
If the editor fails, or the text has mistakes, the profile stays as it is, and
what you typed is kept: the error says where.`,
		Example: `  tokenctl edit dev/network
  tokenctl edit dev/network --file network.env`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			text, given, err := givenText(args[0], file)
			if err != nil {
				return err
			}
			put := &api.PutProfileRequest{Name: args[0]}
			if given {
				if put.Replaces, err = a.existing(c.Context(), args[0]); err != nil {
					return err
				}
				put.Text = text
				return a.put(c.Context(), put)
			}
			old := &api.RevealProfileResponse{}
			if err := a.client.Call(c.Context(), api.MethodRevealProfile, &api.RevealProfileRequest{Name: args[0]}, old); err != nil {
				return err
			}
			put.Replaces = old.Version
			return a.editAndPut(c.Context(), put, old.Text)
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "read the text from this file")
	return c
}

// maxText is the size of the largest text, in bytes.
const maxText = 48 << 10

// givenText returns the text from file, or from standard input where that is
// not a terminal.
func givenText(name, file string) (text []byte, given bool, err error) {
	in := os.Stdin
	switch {
	case file != "" && file != "-":
		if in, err = os.Open(file); err != nil {
			return nil, false, err
		}
		defer in.Close()
	case file == "" && isTerminal(os.Stdin):
		return nil, false, nil
	}
	text, err = io.ReadAll(io.LimitReader(in, maxText+1))
	if err == nil && len(text) > maxText {
		err = &problem{Exit: exitConfig, Profile: name, Message: "the text is longer than 48 KiB", Fix: "nothing was written"}
	}
	if err == nil && len(text) == 0 {
		err = &problem{Exit: exitUsage, Profile: name, Message: in.Name() + " is empty", Fix: "nothing was written"}
	}
	return text, true, err
}

// ours are a profile's variables whose names do not begin with OAUTH2_.
var ours = []string{
	"CLIENT_ID", "CLIENT_SECRET", "CLIENT_SECRET_EXPIRES_AT", "CLIENT_SECRET_NEXT",
	"PRIVATE_KEY", "PRIVATE_KEY_ID", "PRIVATE_KEY_ALG",
	"TLS_CLIENT_CERT", "TLS_CLIENT_KEY", "TLS_CA",
	"GITHUB_APP_ID", "GITHUB_INSTALLATION",
	"API_URL",
}

// environmentVariables picks what a profile can be made of.
func environmentVariables(environ []string) []api.Variable {
	var vars []api.Variable
	slices.Sort(environ)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		base := strings.TrimSuffix(strings.TrimSuffix(name, "_FILE"), "_COMMAND")
		if strings.HasPrefix(name, "OAUTH2_") || slices.Contains(ours, base) {
			vars = append(vars, api.Variable{Name: name, Value: value})
		}
	}
	return vars
}

// variablesOnly is said of a text whose other variables may be misspelt, too.
const variablesOnly = "none of its variables is about OAuth 2.0: there is no token to get; env and exec hand them to programs"

// put writes a profile and trusts what was written: it is this user's own.
func (a *app) put(ctx context.Context, req *api.PutProfileRequest) error {
	resp := &api.PutProfileResponse{}
	err := a.client.Call(ctx, api.MethodPutProfile, req, resp)
	if err == nil && resp.VariablesOnly {
		note("%s: %s", req.Name, variablesOnly)
	}
	if err == nil {
		return addTrust(resp.Trust)
	}
	var call *client.Error
	if !errors.As(err, &call) {
		return err
	}
	p := diagnose(err)
	switch {
	case call.Reason == api.ReasonAlreadyExists && call.Metadata["suggestion"] == "":
		p.Fix = "run: tokenctl edit " + req.Name + ", or add --replace"
	case call.Reason == api.ReasonProfileInvalid:
		p.Fix = "nothing was written"
	default:
		return err
	}
	return &p
}

// versionOf returns a profile's version without decrypting it; "" if there is
// no such profile.
func (a *app) versionOf(ctx context.Context, name string) (string, error) {
	all, err := a.list(ctx, name)
	for _, p := range all {
		if p.Name == name {
			return p.Version, nil
		}
	}
	return "", err
}

// unlocked says, before a person has any trouble with it, that name's text cannot be
// had or written because it is locked.
func (a *app) unlocked(ctx context.Context, name string) error {
	err := a.client.Call(ctx, api.MethodGetProfile, &api.GetProfileRequest{Name: name}, &api.GetProfileResponse{})
	if call := (*client.Error)(nil); errors.As(err, &call) && call.Reason == api.ReasonLocked {
		return err
	}
	return nil
}

// existing is versionOf for a profile that must be there.
func (a *app) existing(ctx context.Context, name string) (string, error) {
	version, err := a.versionOf(ctx, name)
	if err == nil && version == "" {
		err = a.notThere(ctx, name)
	}
	return version, err
}

// notThere is the error for a name that is not in the list, with the daemon's
// suggestion.
func (a *app) notThere(ctx context.Context, name string) error {
	err := a.client.Call(ctx, api.MethodGetProfile, &api.GetProfileRequest{Name: name}, &api.GetProfileResponse{})
	if err == nil {
		err = &problem{Exit: exitFailed, Profile: name, Message: "it came into being meanwhile", Fix: "look at it and repeat"}
	}
	return err
}

func (a *app) list(ctx context.Context, prefix string) ([]api.ListProfilesResponseProfileEntry, error) {
	var all []api.ListProfilesResponseProfileEntry
	req := &api.ListProfilesRequest{Prefix: prefix, PageSize: 500}
	for {
		resp := &api.ListProfilesResponse{}
		if err := a.client.Call(ctx, api.MethodListProfiles, req, resp); err != nil {
			return nil, err
		}
		all = append(all, resp.Profiles...)
		if req.PageToken = resp.NextPageToken; req.PageToken == "" {
			return all, nil
		}
	}
}

// completeProfiles completes a profile's name, and starts no daemon for that.
func (a *app) completeProfiles(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	a.client.Autostart = false
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	all, err := a.list(ctx, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeMore is completeProfiles for commands that take several names.
func (a *app) completeMore(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, directive := a.completeProfiles(c, nil, word)
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), directive
}

func listCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the profiles",
		Example: `  tokenctl list
  tokenctl list dev
  tokenctl list -o json`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			all, err := a.list(c.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if a.output == "json" {
				type entry struct {
					Name    string `json:"name"`
					Version string `json:"version"`
				}
				entries := make([]entry, len(all))
				for i, p := range all {
					entries[i] = entry{p.Name, p.Version}
				}
				return sayJSON(entries)
			}
			for _, p := range all {
				if err := say("%s\n", oneLine(p.Name)); err != nil {
					return err
				}
			}
			if len(all) == 0 && len(args) == 0 && isTerminal(os.Stderr) {
				note("no profiles yet; run: tokenctl add NAME")
			}
			return nil
		},
	}
	a.outputFlag(c, "text", "json")
	return c
}

func showCommand(a *app) *cobra.Command {
	var reveal bool
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a profile, its secrets masked",
		Long: `Show a profile, its secrets masked. Comments are left out: they may hold
anything. Values of variables that are not tokend's are masked too.`,
		Example: `  tokenctl show dev/network
  tokenctl show dev/network --reveal          the text as it is, secrets and all`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			if reveal {
				resp := &api.RevealProfileResponse{}
				if err := a.client.Call(c.Context(), api.MethodRevealProfile, &api.RevealProfileRequest{Name: args[0]}, resp); err != nil {
					return err
				}
				if isTerminal(os.Stdout) {
					return say("%s", printable(string(resp.Text)))
				}
				_, err := os.Stdout.Write(resp.Text)
				return err
			}
			p := &api.GetProfileResponse{}
			if err := a.client.Call(c.Context(), api.MethodGetProfile, &api.GetProfileRequest{Name: args[0]}, p); err != nil {
				return err
			}
			if a.output == "json" {
				return sayJSON(showJSON(p))
			}
			return say("%s", asText(p))
		},
	}
	c.Flags().BoolVar(&reveal, "reveal", false, "print the text itself, with its secrets")
	a.outputFlag(c, "text", "json")
	return c
}

// asText is a profile for people: an env file whose comments say the rest.
func asText(p *api.GetProfileResponse) string {
	var b strings.Builder
	trusted := "trusted"
	if !p.Trust.Trusted {
		trusted = "untrusted"
	}
	fmt.Fprintf(&b, "# %s, %s\n", p.Name, trusted)
	if p.VariablesOnly {
		fmt.Fprintf(&b, "# %s\n", variablesOnly)
	}
	for _, m := range p.Mistakes {
		fmt.Fprintf(&b, "# mistake: %s\n", oneLine(mistakeLine(m)))
	}
	b.WriteString(printable(p.MaskedText))
	return b.String()
}

func mistakeLine(m api.Mistake) string {
	s := m.Message
	if m.Variable != "" {
		s = m.Variable + ": " + s
	}
	if m.Line > 0 {
		s = fmt.Sprintf("line %d: %s", m.Line, s)
	}
	return s
}

func showJSON(p *api.GetProfileResponse) any {
	type mistake struct {
		Line     int32  `json:"line,omitempty"`
		Variable string `json:"variable,omitempty"`
		Message  string `json:"message"`
	}
	mistakes := []mistake{}
	for _, m := range p.Mistakes {
		mistakes = append(mistakes, mistake{m.Line, m.Variable, m.Message})
	}
	return struct {
		Name       string    `json:"name"`
		Version    string    `json:"version"`
		Trusted    bool      `json:"trusted"`
		MaskedText string    `json:"masked_text"`
		Mistakes   []mistake `json:"mistakes"`
		// VariablesOnly: there is no token to get.
		VariablesOnly bool `json:"variables_only,omitempty"`
	}{p.Name, p.Version, p.Trust.Trusted, p.MaskedText, mistakes, p.VariablesOnly}
}

func rmCommand(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Delete profiles",
		Long: `Delete profiles and what the daemon has learnt for them; their sessions end as
"logout" ends them. On a terminal it asks first.`,
		Example: `  tokenctl rm dev/network
  tokenctl rm --yes dev/old dev/older`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(c, "NAME missing")
			}
			return nil
		},
		ValidArgsFunction: a.completeMore,
		RunE: func(c *cobra.Command, args []string) error {
			// None goes before it is known that all are there.
			for _, name := range args {
				if _, err := a.existing(c.Context(), name); err != nil {
					return err
				}
			}
			for _, name := range args {
				if !yes && isTerminal(os.Stdin) {
					if err := a.unlocked(c.Context(), name); err != nil {
						return err
					}
					ok, err := confirm(c.Context(), "Delete "+name+"?")
					if err != nil {
						return err
					}
					if !ok {
						return &problem{Exit: exitFailed, Profile: name, Message: "kept"}
					}
				}
				if err := a.client.Call(c.Context(), api.MethodDeleteProfile, &api.DeleteProfileRequest{Name: name}, &api.DeleteProfileResponse{}); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func mvCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "mv NAME NEW_NAME",
		Short:             "Rename a profile",
		Example:           "  tokenctl mv dev/network staging/network",
		Args:              exactly("NAME", "NEW_NAME"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			resp := &api.MoveProfileResponse{}
			req := &api.MoveProfileRequest{Name: args[0], NewName: args[1]}
			if err := a.client.Call(c.Context(), api.MethodMoveProfile, req, resp); err != nil {
				return err
			}
			if !resp.WasTrusted {
				return nil
			}
			return addTrust(resp.Trust)
		},
	}
}
