package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tokend/client"
	"tokend/internal/envfile"
)

// Exit statuses of exec itself, as of env(1) and its like.
const (
	exitNotRun        = 111 // no token, no profile
	exitNotExecutable = 126
	exitNoCommand     = 127
)

func execCommand(a *app) *cobra.Command {
	var tokens, allow []string
	var fd bool
	c := &cobra.Command{
		Use:   "exec [PROFILE] [-e VAR[:PROFILE]]... -- COMMAND [ARG]...",
		Short: "Run a command with a profile's variables or with access tokens",
		Long: `Run a command with a profile's variables in its environment, with access tokens,
or with both. The command takes the place of tokenctl: signals, the terminal and
the exit status are its own.

-e VAR:PROFILE puts an access token of PROFILE into the variable VAR; without
:PROFILE one of the PROFILE that the command line names, or else TOKEND_PROFILE.
The token is not renewed there: what outlives it asks "tokenctl get" again.
With --fd, VAR is not the token but the path of an open file in memory that holds
it: other processes can read an environment, and programs tend to print theirs.

A variable that changes how programs load, such as PATH or LD_PRELOAD, is refused
unless --allow names it. The command is looked up in the PATH of tokenctl, never
in the current folder.

Exit statuses: those of the command; 111 no token or no profile, and nothing was
run; 126 the command cannot be run; 127 there is no such command; 2 wrong usage.`,
		Example: `  tokenctl exec dev/network -- ./deploy.sh
  tokenctl exec -e ACCESS_TOKEN:dev/network -- ./report.py
  tokenctl exec dev/network -e ACCESS_TOKEN -- env
  tokenctl exec -e BEARER_TOKEN_FILE:dev/network --fd -- ./transfer`,
		ValidArgsFunction: a.completeCommand,
		RunE: func(c *cobra.Command, args []string) error {
			tokensFirst := len(tokens) > 0
			profile, argv, err := profileAndRest(c, args)
			if err != nil || c.Flags().Changed("help") {
				return err
			}
			if tokensFirst && c.ArgsLenAtDash() < 0 && !slices.Contains(args, "--") {
				// The first word could be a PROFILE as well.
				return usageError(c, "with -e, put -- before the command: "+c.CommandPath()+" -e "+shellWord(tokens[0])+" -- COMMAND")
			}
			if len(argv) == 0 {
				return usageError(c, "COMMAND missing")
			}
			if fd && len(tokens) == 0 {
				return usageError(c, "--fd goes with -e")
			}
			path, err := lookUp(argv[0])
			if err != nil {
				return err
			}
			vars, err := a.execVariables(c, profile, tokens, allow, fd)
			if err != nil {
				var p *problem
				if errors.As(err, &p) && p.Exit == exitUsage || errors.Is(err, context.Canceled) {
					return err
				}
				told := diagnose(err)
				told.Exit = exitNotRun
				return &told
			}
			return replaceProcess(path, argv, withVariables(os.Environ(), vars))
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // the command's own flags are not ours
	f.StringArrayVarP(&tokens, "env", "e", nil, "an access token in this variable, as VAR or VAR:PROFILE; may be repeated")
	_ = c.RegisterFlagCompletionFunc("env", a.completeToken)
	f.BoolVar(&fd, "fd", false, "let the variables of -e name files that hold the tokens")
	f.StringArrayVar(&allow, "allow", nil, "set this variable although it changes how programs behave; may be repeated")
	return c
}

// profileAndRest takes apart PROFILE, our flags behind it, and the rest that is
// the command's, with a -- between or without. The profile is empty where the
// -- is first.
func profileAndRest(c *cobra.Command, args []string) (profile string, rest []string, err error) {
	if c.ArgsLenAtDash() == 0 || len(args) == 0 {
		return "", args, nil
	}
	if args[0] == "" {
		return "", nil, emptyError(c, "PROFILE")
	}
	profile, rest = args[0], args[1:]
	if len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		if err := c.Flags().Parse(rest); err != nil {
			return "", nil, usageError(c, fmt.Sprintf("%v; options of the other program stand behind --: %s %s -- %s …", err, c.CommandPath(), shellWord(profile), shellWord(rest[0])))
		}
		if c.Flags().Changed("help") {
			return "", nil, c.Help()
		}
		rest = c.Flags().Args()
	}
	return profile, rest, nil
}

// execVariables are what a command gets: the profile's variables, if one is
// named or no token is, and the tokens.
func (a *app) execVariables(c *cobra.Command, profile string, tokens, allow []string, fd bool) ([]envfile.Var, error) {
	named, err := a.tokenVariables(c, profile, tokens)
	if err != nil {
		return nil, err
	}
	if err := checkNames("", named, allow, ""); err != nil {
		return nil, err
	}
	var vars []envfile.Var
	if profile != "" || len(tokens) == 0 {
		if profile, err = a.profileOr(c, profile); err != nil {
			return nil, err
		}
		if vars, err = a.variables(c.Context(), profile); err != nil {
			return nil, err
		}
		if err := checkNames(profile, vars, allow, ""); err != nil {
			return nil, err
		}
	}
	got := make(map[string]string)
	for _, v := range named {
		from := v.Value
		if got[from] == "" {
			t, err := a.token(c.Context(), client.TokenRequest{Profile: from}, 0)
			if err != nil {
				return nil, err
			}
			if t.Warning != "" {
				note("%s: warning: %s", from, t.Warning)
			}
			got[from] = t.AccessToken
		}
		v.Value = got[from]
		if fd {
			if v.Value, err = secretFile(v.Value); err != nil {
				return nil, err
			}
		}
		vars = append(vars, v)
	}
	return vars, nil
}

// tokenVariables reads -e: variables whose values are the profiles that they
// get tokens of.
func (a *app) tokenVariables(c *cobra.Command, profile string, tokens []string) ([]envfile.Var, error) {
	var vars []envfile.Var
	for _, arg := range tokens {
		name, from, named := strings.Cut(arg, ":")
		if !envfile.ValidName(name) {
			return nil, usageError(c, "-e "+shellWord(arg)+": no name of a variable; write -e VAR or -e VAR:PROFILE")
		}
		if strings.HasPrefix(name, "TOKEND_") {
			return nil, usageError(c, "-e "+name+": names that begin with TOKEND_ are settings")
		}
		if slices.ContainsFunc(vars, func(v envfile.Var) bool { return v.Name == name }) {
			return nil, usageError(c, "-e "+name+" is given twice")
		}
		if named && from == "" {
			return nil, usageError(c, "-e "+shellWord(arg)+": PROFILE is empty")
		}
		if !named {
			var err error
			if from, err = a.profileOr(c, profile); err != nil {
				return nil, err
			}
		}
		vars = append(vars, envfile.Var{Name: name, Value: from})
	}
	return vars, nil
}

// withVariables sets variables in an environment; of two of a name the last
// stands.
func withVariables(environ []string, vars []envfile.Var) []string {
	for _, v := range vars {
		environ = slices.DeleteFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, v.Name+"=") })
		environ = append(environ, v.Name+"="+v.Value)
	}
	return environ
}

// lookUp finds a command as a shell does, but in no folder of PATH that
// depends on where we are, whatever GODEBUG says.
func lookUp(command string) (string, error) {
	path, err := exec.LookPath(command)
	switch {
	case errors.Is(err, exec.ErrDot), err == nil && !filepath.IsAbs(path) && !strings.Contains(command, "/"):
		if !strings.HasPrefix(path, ".") {
			path = "./" + path
		}
		return "", &problem{Exit: exitNoCommand, Message: command + " is in a folder of PATH that depends on the current one, and not run", Fix: "name the file: " + shellWord(path)}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", &problem{Exit: exitNoCommand, Message: command + ": no such command"}
	case err != nil:
		return "", &problem{Exit: exitNotExecutable, Message: err.Error()}
	}
	return path, nil
}

// replaceProcess runs a program in place of this one. It returns only if that
// failed.
func replaceProcess(path string, argv, environ []string) error {
	err := unix.Exec(path, argv, environ)
	p := &problem{Exit: exitNotExecutable, Message: argv[0] + ": " + err.Error()}
	if errors.Is(err, fs.ErrNotExist) {
		// The interpreter that its first line names.
		p.Exit = exitNoCommand
	}
	return p
}

// completeToken completes the profile in VAR:PROFILE.
func (a *app) completeToken(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	variable, _, found := strings.Cut(word, ":")
	if !found {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, directive := a.completeProfiles(c, nil, "")
	for i, name := range names {
		names[i] = variable + ":" + name
	}
	return names, directive
}

// completeCommand completes PROFILE, and leaves what follows to the shell.
func (a *app) completeCommand(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeProfiles(c, args, word)
}
