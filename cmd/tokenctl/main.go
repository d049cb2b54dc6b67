// Command tokenctl is what a person or a script types to use tokend.
package main

import (
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client"
)

// version is set by the linker.
var version = "devel"

// app is one run of tokenctl.
type app struct {
	client client.Client
	output string // value of -o
}

type command struct {
	name  string
	build func(*app) *cobra.Command
}

// commands are built only as far as they are needed: building all of them
// costs a `get` more than the call to the daemon does.
var commands = []command{
	{"get", getCommand},
	{"env", envCommand},
	{"exec", execCommand},
	{"curl", curlCommand},
	{"report", reportCommand},
	{"proof", proofCommand},
	{"inspect", inspectCommand},
	{"login", loginCommand},
	{"logout", logoutCommand},
	{"revoke", revokeCommand},
	{"reset", resetCommand},
	{"register", registerCommand},
	{"init", initCommand},
	{"lock", lockCommand},
	{"unlock", unlockCommand},
	{"protect", protectCommand},
	{"add", addCommand},
	{"edit", editCommand},
	{"list", listCommand},
	{"show", showCommand},
	{"rm", rmCommand},
	{"mv", mvCommand},
	{"trust", trustCommand},
	{"import", importCommand},
	{"export", exportCommand},
	{"rekey", rekeyCommand},
	{"migrate", migrateCommand},
	{"status", statusCommand},
	{"doctor", doctorCommand},
	{"explain", explainCommand},
	{"events", eventsCommand},
	{"reload", reloadCommand},
	{"daemon", daemonCommand},
	{"completion", completionCommand},
	{"version", versionCommand},
}

func main() {
	a := &app{client: client.Client{Autostart: true}}
	root := rootCommand(a, os.Args[1:])
	root.SetArgs(os.Args[1:])
	os.Exit(a.exit(root.Execute()))
}

func rootCommand(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "tokenctl",
		Short: "Get OAuth 2.0 access tokens from tokend, which keeps the secrets",
		Long: `Get OAuth 2.0 access tokens from tokend, which keeps the secrets.

The daemon, tokend, is started by the first command that needs it.`,
		Example: `  tokenctl init                                   make this machine's key, once
  tokenctl add dev/network < network.env          keep a client's credentials
  tokenctl login https://mcp.example.com          log in to an API with a browser
  t=$(tokenctl get dev/network) &&
    curl -H "Authorization: Bearer $t" https://api.example.com/v1/resources`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&a.client.Dir, "dir", "", "folder of the store (TOKEND_DIR)")
	root.PersistentFlags().StringVar(&a.client.Socket, "socket", "", "socket of the daemon (TOKEND_SOCKET)")
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err.Error()) })

	one := len(args) > 0 && slices.ContainsFunc(commands, func(c command) bool { return c.name == args[0] })
	for _, c := range commands {
		if !one || c.name == args[0] {
			root.AddCommand(c.build(a))
		}
	}
	root.CompletionOptions.DisableDefaultCmd = true // it exits with 0 for a shell that it does not know
	if one {
		root.SetHelpCommand(&cobra.Command{Hidden: true})
	} else {
		root.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			message := "unknown command \"" + args[0] + "\""
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				message += "; did you mean " + strings.Join(s, " or ") + "?"
			}
			return usageError(c, message)
		}
		root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	return root
}

// exactly is cobra.ExactArgs with names, so that the error says which is
// missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError(c, strings.Join(names[len(args):], " and ")+" missing")
		}
		for i, name := range names {
			if args[i] == "" {
				return emptyError(c, name)
			}
		}
		return atMost(len(names))(c, args)
	}
}

// emptyError refuses what comes of a variable that is not set, as in "$UNSET", before
// it is taken for something that was left out.
func emptyError(c *cobra.Command, name string) error { return usageError(c, name+" is empty") }

// atMost is cobra.MaximumNArgs with the exit status for wrong usage.
func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError(c, "unexpected argument \""+args[n]+"\"")
		}
		return nil
	}
}
