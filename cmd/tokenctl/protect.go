package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

// protectionFlags are those of init and protect that say what is to protect the
// identity.
type protectionFlags struct {
	passphrase, keyring, none                   bool
	passphraseFile, ssh, plugin, pluginIdentity string
}

func (p *protectionFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&p.passphrase, "passphrase", false, "a passphrase, which is asked for twice")
	f.StringVar(&p.passphraseFile, "passphrase-file", "", `a passphrase that is in this file, "-" for standard input`)
	f.StringVar(&p.ssh, "ssh", "", "an SSH key, ed25519 or RSA: the file of the private or the public one")
	f.StringVar(&p.plugin, "plugin", "", "an age plugin that TOKEND_PLUGINS names, such as yubikey")
	f.StringVar(&p.pluginIdentity, "plugin-identity", "", "with --plugin: the file in which the plugin has put its identity (AGE-PLUGIN-…)")
	f.BoolVar(&p.keyring, "keyring", false, "the keyring of the desktop or the system, which keeps the identity")
	_ = c.MarkFlagFilename("ssh")
	_ = c.MarkFlagFilename("plugin-identity")
	_ = c.MarkFlagFilename("passphrase-file")
}

// protection returns what was chosen, or nil.
func (p *protectionFlags) protection(c *cobra.Command) (*api.IdentityProtection, error) {
	var chosen *api.IdentityProtection
	if p.pluginIdentity != "" && p.plugin == "" {
		return nil, usageError(c, "--plugin-identity needs --plugin")
	}
	n := 0
	choose := func(is bool, kind api.IdentityProtection) {
		if is {
			chosen = &kind
			n++
		}
	}
	choose(p.none, api.IdentityProtection{None: &api.IdentityProtectionNone{}})
	choose(p.passphrase || p.passphraseFile != "", api.IdentityProtection{Passphrase: &api.IdentityProtectionPassphrase{}})
	choose(p.ssh != "", api.IdentityProtection{Ssh: &api.IdentityProtectionSsh{}})
	choose(p.plugin != "", api.IdentityProtection{Plugin: &api.IdentityProtectionPlugin{Name: p.plugin}})
	choose(p.keyring, api.IdentityProtection{Keyring: &api.IdentityProtectionKeyring{}})
	if n > 1 {
		return nil, usageError(c, "one thing only protects the identity")
	}
	var err error
	if p.ssh != "" {
		chosen.Ssh.PublicKey, err = sshPublicKey(p.ssh)
	}
	if p.pluginIdentity != "" {
		chosen.Plugin.Identity, err = pluginIdentityIn(p.pluginIdentity)
	}
	return chosen, err
}

// pluginIdentityIn is the one line of a file that is a plugin's identity.
func pluginIdentityIn(file string) (string, error) {
	b, err := readKey(file)
	if err != nil {
		return "", &problem{Exit: exitUsage, Message: "reading the plugin's identity: " + err.Error()}
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "AGE-PLUGIN-") {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		return "", &problem{Exit: exitUsage, Message: fmt.Sprintf("%s: there must be one line in it that begins with AGE-PLUGIN-, not %d", file, len(found))}
	}
	return found[0], nil
}

// chosen tells p what the flags say.
func (p *person) chosen(flags *protectionFlags, protection *api.IdentityProtection) {
	p.protecting = true
	if protection != nil && protection.Ssh != nil {
		p.sshFile, p.sshPublic = strings.TrimSuffix(flags.ssh, ".pub"), bareKey(protection.Ssh.PublicKey)
	}
}

func protectCommand(a *app) *cobra.Command {
	flags := &protectionFlags{}
	var oldFile string
	c := &cobra.Command{
		Use:   "protect",
		Short: "Wrap the identity anew: by a passphrase, an SSH key, a plugin or the keyring",
		Long: `Wrap the identity anew on disk. It stays the same key: profiles and sessions need
nothing. You are asked for what protects it now, if anything does. That opens it no
more afterwards, but still opens copies of its old file, such as in a backup.

The daemon starts locked from then on, except with --none, and with --keyring where
the keyring answers by itself.`,
		Example: `  tokenctl protect --passphrase
  tokenctl protect --ssh ~/.ssh/id_ed25519
  tokenctl protect --plugin yubikey --plugin-identity ~/yubikey.txt
  tokenctl protect --keyring
  tokenctl protect --none                     by nothing but the mode of its file`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			protection, err := flags.protection(c)
			if err != nil {
				return err
			}
			if protection == nil {
				return usageError(c, "what is to protect it: --passphrase, --ssh KEY, --plugin NAME, --keyring or --none")
			}
			p, err := a.newPerson(c.Context(), oldFile, flags.passphraseFile)
			if err != nil {
				return err
			}
			p.chosen(flags, protection)
			var done *api.ProtectResponseProtected
			err = a.converse(c.Context(), p, api.MethodProtect,
				&api.ProtectRequest{Start: &api.ProtectRequestStart{Protection: *protection}},
				func(s *client.Stream) (*api.Prompt, error) {
					event := &api.ProtectResponse{}
					if err := s.Recv(event); err != nil {
						return nil, err
					}
					done = event.Protected
					return event.Prompt, known(event.Prompt, done != nil)
				},
				func(answer *api.PromptAnswer) any { return &api.ProtectRequest{Answer: answer} })
			if err != nil {
				return identityProblem(err, c.CommandPath())
			}
			if a.output == "json" {
				return sayJSON(struct {
					IdentityFile string `json:"identity_file"`
					Protection   string `json:"identity_protection"`
					Warning      string `json:"warning,omitempty"`
				}{done.IdentityFile, protectionName(protection), done.Warning})
			}
			if done.Warning != "" {
				note("%s", done.Warning)
			}
			p.noteSSHKey(protection)
			return say("%s\n", oneLine(done.IdentityFile+": protected by "+protectedBy(protectionName(protection))))
		},
	}
	flags.add(c)
	c.Flags().StringVar(&oldFile, "old-passphrase-file", "", `the passphrase that protects it now is in this file, "-" for standard input`)
	_ = c.MarkFlagFilename("old-passphrase-file")
	c.Flags().BoolVar(&flags.none, "none", false, "nothing but the mode of its file")
	a.outputFlag(c, "text", "json")
	return c
}

// protectionName is as GetStatus says it.
func protectionName(p *api.IdentityProtection) string {
	switch {
	case p.Passphrase != nil:
		return "passphrase"
	case p.Ssh != nil:
		return "ssh"
	case p.Plugin != nil:
		return "plugin"
	case p.Keyring != nil:
		return "keyring"
	}
	return "none"
}

// protectedBy puts what GetStatus says into words.
func protectedBy(name string) string {
	switch name {
	case "none":
		return "nothing but its mode"
	case "passphrase":
		return "a passphrase"
	case "ssh":
		return "an SSH key"
	case "plugin":
		return "an age plugin"
	case "keyring":
		return "the keyring"
	}
	return name
}

func initCommand(a *app) *cobra.Command {
	var pq bool
	flags := &protectionFlags{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Make this user's identity, the key that profiles are encrypted to",
		Long: `Make this user's identity: an age key, in a file that only you may read, to which
profiles are encrypted. Nothing is asked, unless something is to protect it that
asks, and an identity that is there is never touched.

An identity that is protected has to be opened with "tokenctl unlock" when the daemon
starts. What protects it can be changed later: see "tokenctl protect".`,
		Example: `  tokenctl init
  tokenctl init --passphrase
  tokenctl init --ssh ~/.ssh/id_ed25519
  tokenctl init --pq                          a hybrid post-quantum key`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			start := &api.InitRequestStart{PostQuantum: pq}
			protection, err := flags.protection(c)
			if err != nil {
				return err
			}
			if protection != nil {
				start.Protection = *protection
			}
			p, err := a.newPerson(c.Context(), "", flags.passphraseFile)
			if err != nil {
				return err
			}
			p.chosen(flags, protection)
			var made *api.InitResponseCreated
			err = a.converse(c.Context(), p, api.MethodInit, &api.InitRequest{Start: start},
				func(s *client.Stream) (*api.Prompt, error) {
					event := &api.InitResponse{}
					if err := s.Recv(event); err != nil {
						return nil, err
					}
					made = event.Created
					return event.Prompt, known(event.Prompt, made != nil)
				},
				func(answer *api.PromptAnswer) any { return &api.InitRequest{Answer: answer} })
			if err != nil {
				return identityProblem(err, c.CommandPath())
			}
			if a.output == "json" {
				return sayJSON(struct {
					Recipient    string `json:"recipient"`
					IdentityFile string `json:"identity_file"`
					ProfilesDir  string `json:"profiles_dir"`
				}{made.Recipient, made.IdentityFile, made.ProfilesDir})
			}
			p.noteSSHKey(protection)
			if s, err := a.status(c.Context()); err == nil && s.Profiles > 0 {
				note("%s there already, encrypted to another identity: bring that back, if you have a copy", counted(s.Profiles, "profile"))
			}
			return say("%s\n", printable(fmt.Sprintf(`Identity   %s
Profiles   %s
Public key %s

%s. Next: tokenctl add NAME`,
				made.IdentityFile, made.ProfilesDir, made.Recipient, needed(&start.Protection))))
		},
	}
	flags.add(c)
	c.Flags().BoolVar(&pq, "pq", false, "make the hybrid post-quantum type (ML-KEM-768 with X25519)")
	a.outputFlag(c, "text", "json")
	return c
}

// needed says what reading the profiles takes.
func needed(p *api.IdentityProtection) string {
	with := ""
	switch {
	case p.Passphrase != nil:
		with = "the passphrase"
	case p.Ssh != nil:
		with = "the SSH key"
	case p.Plugin != nil:
		with = "the plugin's key"
	case p.Keyring != nil:
		return `The identity is in the keyring, and without it nobody can read your profiles.
To have a copy: tokenctl protect --passphrase, copy the file, tokenctl protect --keyring`
	default:
		return `Whoever has the identity file can read your profiles, and without it nobody can:
keep a copy somewhere safe`
	}
	return "Without the identity file and " + with + " nobody can read your profiles:\nkeep a copy somewhere safe"
}
