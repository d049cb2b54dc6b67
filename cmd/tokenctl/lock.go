package main

import (
	"cmp"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

func lockCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "lock",
		Short: "Let the daemon forget the identity, all texts and all tokens, until unlock",
		Long: `Let the daemon forget the identity, all texts and all tokens, at once. Until
"tokenctl unlock", commands that need them fail with exit status 5. A refresh token
that is just being exchanged is still saved.

An identity that nothing protects lies readable on disk, locked or not: see
"tokenctl protect".`,
		Example: `  tokenctl lock
  tokenctl lock && systemctl suspend`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			a.client.Autostart = false
			resp := &api.LockResponse{}
			err := a.client.Call(c.Context(), api.MethodLock, &api.LockRequest{}, resp)
			running := !errors.Is(err, client.ErrNotRunning)
			if err != nil && running {
				return err
			}
			if a.output == "json" {
				return sayJSON(struct {
					Running     bool     `json:"running"`
					WasLocked   bool     `json:"was_locked"`
					Unprotected bool     `json:"unprotected"`
					Unsaved     []string `json:"unsaved_sessions"`
				}{running, resp.WasLocked, resp.Unprotected, listed(resp.UnsavedSessions)})
			}
			if !running {
				note("tokend is not running, so it holds nothing")
				return nil
			}
			if resp.Unprotected {
				note("nothing protects the identity on disk: whoever can read its file needs no unlock; run: tokenctl protect --passphrase")
			}
			for _, name := range resp.UnsavedSessions {
				note("%s: its session could not be written yet, and stays in memory until it is", name)
			}
			if resp.WasLocked {
				return say("locked already\n")
			}
			return say("locked\n")
		},
	}
	a.outputFlag(c, "text", "json")
	return c
}

func unlockCommand(a *app) *cobra.Command {
	var lockAfter time.Duration
	var passphraseFile string
	c := &cobra.Command{
		Use:   "unlock",
		Short: "Let the daemon open the identity, asking you for what that takes",
		Long: `Let the daemon open the identity, asking you for what that takes: a passphrase, a
PIN, a touch of a key. An identity that nothing protects is opened without a word.

You are asked on the terminal, without echo. Where standard input or error is none,
the program asks that TOKEND_ASKPASS names, or on a desktop SSH_ASKPASS.

While it is open, --for only brings nearer when it locks: for longer, lock first.

For an identity that an SSH key protects, the private key is read from the file that
TOKEND_SSH_KEY names, else from ~/.ssh/id_ed25519 or ~/.ssh/id_rsa, and no other key
than the right one is given to the daemon.`,
		Example: `  tokenctl unlock
  tokenctl unlock --for 8h                    lock again after a working day
  TOKEND_ASKPASS=/usr/lib/ssh/ssh-askpass tokenctl unlock < /dev/null
  tokenctl unlock --passphrase-file "$CREDENTIALS_DIRECTORY/tokend"`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("for") && lockAfter <= 0 {
				return usageError(c, "--for needs a time, such as 8h")
			}
			p, err := a.newPerson(c.Context(), passphraseFile, "")
			if err != nil {
				return err
			}
			var done *api.UnlockResponseUnlocked
			err = a.converse(c.Context(), p, api.MethodUnlock,
				&api.UnlockRequest{Start: &api.UnlockRequestStart{LockAfter: lockAfter}},
				func(s *client.Stream) (*api.Prompt, error) {
					event := &api.UnlockResponse{}
					if err := s.Recv(event); err != nil {
						return nil, err
					}
					done = event.Unlocked
					return event.Prompt, known(event.Prompt, done != nil)
				},
				func(answer *api.PromptAnswer) any { return &api.UnlockRequest{Answer: answer} })
			if err != nil {
				return identityProblem(err, "tokenctl unlock")
			}
			if a.output == "json" {
				out := struct {
					WasUnlocked bool   `json:"was_unlocked"`
					Asked       bool   `json:"asked"`
					LocksAt     string `json:"locks_at,omitempty"`
					LocksAtUnix int64  `json:"locks_at_unix,omitempty"`
				}{WasUnlocked: done.WasUnlocked, Asked: p.asked}
				out.LocksAt, out.LocksAtUnix = timeJSON(done.LocksAt)
				return sayJSON(out)
			}
			if !p.asked && !done.WasUnlocked {
				if s, err := a.status(c.Context()); err == nil && s.IdentityProtection == "none" {
					note("nothing was asked, because nothing protects the identity on disk; run: tokenctl protect --passphrase")
				}
			}
			state := "unlocked"
			if done.WasUnlocked {
				state += " already"
			}
			if !done.LocksAt.IsZero() {
				state += "; it locks at " + clock(done.LocksAt)
				if done.WasUnlocked && time.Until(done.LocksAt) < lockAfter-time.Minute {
					state += ": while it is open, --for only brings that nearer"
				}
			}
			return say("%s\n", state)
		},
	}
	c.Flags().DurationVar(&lockAfter, "for", 0, "lock again after this time")
	_ = c.RegisterFlagCompletionFunc("for", cobra.NoFileCompletions)
	c.Flags().StringVar(&passphraseFile, "passphrase-file", "", `take the passphrase from this file, "-" for standard input`)
	a.outputFlag(c, "text", "json")
	return c
}

// known is an error where an event is none that this program knows.
func known(prompt *api.Prompt, done bool) error {
	if prompt == nil && !done {
		return errors.New("tokend says something that this tokenctl does not know; update tokenctl")
	}
	return nil
}

// identityProblem says what to do next where the identity was not opened or not
// wrapped.
func identityProblem(err error, again string) error {
	var call *client.Error
	if !errors.As(err, &call) {
		return err
	}
	p := diagnoseCall(call)
	switch call.Reason {
	case api.ReasonDenied:
		p.Fix = "to try again: " + again
	case api.ReasonThrottled:
		p.Fix = cmp.Or(p.Fix, "try again later")
	case api.ReasonStoreUnavailable:
		switch {
		case needsBus(call):
		case call.Metadata["cause"] == "keyring_locked":
			p.Fix += ", then run: " + again
		case again != "tokenctl unlock":
			p.Fix = "nothing was changed"
		}
	case api.ReasonSettingsInvalid:
		p.Fix = "then run: tokenctl daemon restart"
		if call.Metadata["cause"] == "no_plugin" {
			p.Fix = "put it, or a link to it, into one of " + client.DaemonPath
		}
	}
	return &p
}
