package main

import (
	"os"

	"github.com/spf13/cobra"
)

func completionCommand(*app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that lets a shell complete commands and profile names",
		Example: `  source <(tokenctl completion bash)
  tokenctl completion zsh > "${fpath[1]}/_tokenctl"
  tokenctl completion fish > ~/.config/fish/completions/tokenctl.fish`,
		Args:      exactly("SHELL"),
		ValidArgs: shells,
		RunE: func(c *cobra.Command, args []string) error {
			// The script is the root's, whose commands it asks for by name.
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(os.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(os.Stdout)
			case "fish":
				return root.GenFishCompletion(os.Stdout, true)
			}
			return usageError(c, "no completion for \""+args[0]+"\"; there is one for bash, zsh and fish")
		},
	}
}
