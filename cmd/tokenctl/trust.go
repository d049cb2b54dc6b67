package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tokend/client/api"
)

func trustCommand(a *app) *cobra.Command {
	var recursive, yes bool
	c := &cobra.Command{
		Use:   "trust NAME|FOLDER/",
		Short: "Let a text that came from elsewhere make tokens",
		Long: `Let a text that came from elsewhere make tokens: one that a git pull brought, or
another program wrote. It is shown first, its secrets masked: look at where it
sends them, and at the files and commands it names.

FOLDER/ is for a team's recipients file, "/" for the one at the store's root:
whoever it lists can read what you write there.`,
		Example: `  tokenctl trust dev/network
  tokenctl trust -r team
  tokenctl trust team/
  tokenctl trust --yes dev/network            in a script that has looked elsewhere`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			if !yes && !isTerminal(os.Stdin) {
				return &problem{Exit: exitUsage, Profile: name, Message: "standard input is not a terminal to ask on", Fix: "add --yes to trust it unseen"}
			}
			if recursive {
				return a.trustAll(c.Context(), strings.TrimSuffix(name, "/"), yes)
			}
			if folder, ok := strings.CutSuffix(name, "/"); ok {
				resp := &api.GetRecipientsResponse{}
				if err := a.client.Call(c.Context(), api.MethodGetRecipients, &api.GetRecipientsRequest{Folder: folder}, resp); err != nil {
					return err
				}
				s, err := a.status(c.Context())
				if err != nil {
					return err
				}
				return notTrusted(name, trustShown(c.Context(), name, printable(string(resp.Text)), ownLine(string(resp.Text), s.Recipient), resp.Trust, yes))
			}
			return notTrusted(name, a.trustOne(c.Context(), name, yes))
		},
	}
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "every untrusted profile under this prefix, one by one")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// ownLine says which line of a recipients file is this machine's own. It goes into the
// question: whoever wrote the file may have written anything above that.
func ownLine(text, own string) string {
	n := 0
	for line := range strings.Lines(text) {
		if n++; strings.TrimSpace(line) == own {
			return fmt.Sprintf(", line %d of which is this machine's", n)
		}
	}
	return ""
}

var errDeclined = errors.New("not trusted")

// notTrusted gives a no its exit status.
func notTrusted(name string, err error) error {
	if errors.Is(err, errDeclined) {
		return &problem{Exit: exitDenied, Profile: name, Message: err.Error()}
	}
	return err
}

func (a *app) trustAll(ctx context.Context, prefix string, yes bool) error {
	all, err := a.list(ctx, prefix)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &problem{Exit: exitNotFound, Profile: prefix, Message: "no profile is under this prefix"}
	}
	var declined []string
	for _, p := range all {
		err := a.trustOne(ctx, p.Name, yes)
		switch {
		case errors.Is(err, errDeclined):
			declined = append(declined, p.Name)
		case err != nil:
			return err
		}
	}
	if len(declined) > 0 {
		return &problem{Exit: exitDenied, Message: "not trusted: " + strings.Join(declined, ", ")}
	}
	return nil
}

func (a *app) trustOne(ctx context.Context, name string, yes bool) error {
	p := &api.GetProfileResponse{}
	if err := a.client.Call(ctx, api.MethodGetProfile, &api.GetProfileRequest{Name: name}, p); err != nil {
		return err
	}
	return trustShown(ctx, name, asText(p), "", p.Trust, yes)
}

// trustShown writes the line for exactly the text that was shown. known is what the
// question adds to the name.
func trustShown(ctx context.Context, name, text, known string, t api.Trust, yes bool) error {
	if t.Trusted {
		note("%s: trusted already", name)
		return nil
	}
	if !yes {
		fmt.Fprint(os.Stderr, text)
		if !strings.HasSuffix(text, "\n") {
			fmt.Fprintln(os.Stderr)
		}
		ok, err := confirm(ctx, "Trust "+name+known+"?")
		if err != nil {
			return err
		}
		if !ok {
			return errDeclined
		}
	}
	return addTrust(t)
}

// addTrust puts a line into the trust file, in place of any other for its
// name. The file is replaced, never changed, so that the daemon sees that it
// is another; a lock keeps two of us from losing each other's line.
func addTrust(t api.Trust) error {
	if t.Trusted {
		return nil
	}
	if err := writeTrust(t); err != nil {
		return fmt.Errorf("writing the trust file: %w", err)
	}
	return nil
}

func writeTrust(t api.Trust) error {
	name, _, ok := strings.Cut(t.Line, " ")
	if !ok || strings.ContainsAny(t.Line, "\n\r") || !filepath.IsAbs(t.File) {
		return errors.New("the daemon's answer makes no sense")
	}
	lock, err := os.OpenFile(t.File+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	var old []byte
	f, err := openRegular(t.File)
	if err == nil {
		old, err = io.ReadAll(f)
		f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(old)) {
		line = strings.TrimRight(line, "\n")
		if line != "" && !strings.HasPrefix(line, name+" ") {
			b.WriteString(line + "\n")
		}
	}
	b.WriteString(t.Line + "\n")
	return replaceFile(t.File, b.String())
}

// replaceFile makes content the file at path, durably.
func replaceFile(path, content string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".trusted-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = io.WriteString(f, content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
