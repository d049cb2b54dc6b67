package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tokend/client"
	"tokend/client/api"
)

func exportCommand(a *app) *cobra.Command {
	var to string
	var plain, replace, yes bool
	c := &cobra.Command{
		Use:   "export [PREFIX] --to FOLDER",
		Short: "Write profiles to files, encrypted",
		Long: `Write each profile to FOLDER/NAME.env.age: an age file that those can open who
could open it before, as with "age -d -i identity.txt". "tokenctl import FOLDER"
is the way back. With --plain it is FOLDER/NAME.env, its secrets in the clear.

A file that is there already and differs stays, unless --replace is given.`,
		Example: `  tokenctl export --to ~/backup/tokend --replace
  tokenctl export dev --to /mnt/usb/dev
  tokenctl export dev --to plain --plain      asks first`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			if to == "" {
				return usageError(c, "--to FOLDER missing")
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			prefix := strings.Join(args, "")
			all, err := a.list(ctx, prefix)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return nothingUnder(prefix)
			}
			if plain && !yes {
				if !isTerminal(os.Stdin) {
					return &problem{Exit: exitUsage, Message: "standard input is not a terminal to ask on", Fix: "add --yes to write secrets in the clear"}
				}
				ok, err := confirm(ctx, fmt.Sprintf("Write %s to %s, secrets in the clear?", counted(int32(len(all)), "profile"), to))
				if err != nil {
					return err
				}
				if !ok {
					return &problem{Exit: exitFailed, Message: "nothing was written"}
				}
			}
			return a.exportAll(ctx, all, to, plain, replace)
		},
	}
	c.Flags().StringVar(&to, "to", "", "folder to write to; it is made where it is missing")
	c.Flags().BoolVar(&plain, "plain", false, "write the texts as they are, secrets in the clear")
	c.Flags().BoolVar(&replace, "replace", false, "replace files that differ")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func nothingUnder(prefix string) error {
	if prefix == "" {
		return &problem{Exit: exitNotFound, Message: "there are no profiles"}
	}
	return &problem{Exit: exitNotFound, Profile: prefix, Message: "no profile is under this prefix"}
}

func (a *app) exportAll(ctx context.Context, all []api.ListProfilesResponseProfileEntry, to string, plain, replace bool) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(to) // which no link in it leads out of
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := checkExportFolder(root, "."); err != nil {
		return err
	}
	folder, err := root.Open(".")
	if err != nil {
		return err
	}
	defer folder.Close()
	// Where a file system has no locks, two exports at a time only do each other's work.
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return &problem{Exit: exitNotNow, Message: "another export is writing to " + to, Transient: true, Fix: "try again later"}
	}
	ending := ".env.age"
	if plain {
		ending = ".env"
	}
	p := progress{total: len(all)}
	defer p.clear()
	written, same, failed := 0, 0, 0
	var stop error
	for _, e := range all {
		if stop = ctx.Err(); stop != nil {
			break
		}
		p.step()
		content, err := a.exported(ctx, e.Name, plain)
		if err == nil {
			var changed bool
			if changed, err = writeExport(root, e.Name+ending, content, replace); changed {
				written++
			} else if err == nil {
				same++
			}
		}
		clear(content)
		if err != nil && (ctx.Err() != nil || aboutAll(err)) {
			stop = err
			break
		}
		if err != nil {
			p.clear()
			d := diagnose(err)
			d.Profile = e.Name
			note("%s", d.line())
			failed++
		}
	}
	p.clear()
	if stop != nil && written+same == 0 {
		return stop
	}
	said := fmt.Sprintf("%d of %s written to %s", written, counted(int32(len(all)), "profile"), to)
	if same > 0 {
		said += fmt.Sprintf(", %d unchanged", same)
	}
	if plain {
		said += "; their secrets lie there in the clear"
	}
	note("%s", said)
	if stop != nil {
		return stop
	}
	if failed > 0 {
		return &problem{Exit: exitFailed, Message: counted(int32(failed), "profile") + " cannot be exported, as said above"}
	}
	return nil
}

// aboutAll says whether err is not of one profile alone: with a keyring that hangs, the
// next one would take seconds to fail as well.
func aboutAll(err error) bool {
	var call *client.Error
	if !errors.As(err, &call) {
		return errors.Is(err, client.ErrNotRunning)
	}
	switch call.Reason {
	case api.ReasonLocked, api.ReasonNotInitialized, api.ReasonSettingsInvalid:
		return true
	case api.ReasonStoreUnavailable:
		return call.Metadata["cause"] != "" // it is the keyring's
	}
	return call.Code == unimplemented
}

func (a *app) exported(ctx context.Context, name string, plain bool) ([]byte, error) {
	if plain {
		resp := &api.RevealProfileResponse{}
		err := a.client.Call(ctx, api.MethodRevealProfile, &api.RevealProfileRequest{Name: name}, resp)
		return resp.Text, err
	}
	resp := &api.ExportProfileResponse{}
	err := a.client.Call(ctx, api.MethodExportProfile, &api.ExportProfileRequest{Name: name}, resp)
	return resp.Sealed, err
}

// writeExport makes content the file of that name, durably: there is the old one,
// or the new one. It reports whether it had to.
func writeExport(root *os.Root, name string, content []byte, replace bool) (changed bool, err error) {
	old, err := readBelow(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case bytes.Equal(old, content):
		return false, nil
	case !replace:
		return false, &problem{Exit: exitFailed, Message: path.Join(root.Name(), name) + " is there already and differs", Fix: "to replace it, add --replace"}
	}
	dir := path.Dir(name)
	if err := root.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	for d := dir; d != "."; d = path.Dir(d) {
		if err := checkExportFolder(root, d); err != nil {
			return false, err
		}
	}
	temp := path.Join(dir, "."+path.Base(name)+".tmp")
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash
		return false, err
	}
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(temp)
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		return false, err
	}
	d, err := root.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	return true, d.Sync()
}

// checkExportFolder refuses a folder in which somebody else could put a file of theirs
// in the place of an export, which "tokenctl import" would then trust.
func checkExportFolder(root *os.Root, name string) error {
	full := path.Join(root.Name(), name)
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	switch {
	case !info.IsDir():
		return &problem{Exit: exitFailed, Message: full + " is there already, and no folder"}
	case owner != 0 && owner != os.Geteuid():
		return &problem{Exit: exitConfig, Message: fmt.Sprintf("%s belongs to user %d, who can change what is in it", full, owner)}
	case info.Mode().Perm()&0o022 != 0:
		return &problem{Exit: exitConfig, Message: full + " can be changed by others", Fix: "run: chmod go-w " + shellWord(full)}
	}
	return nil
}

// readBelow reads a file that is to be replaced, at most as much of it as tells it
// from an export.
func readBelow(root *os.Root, name string) ([]byte, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &problem{Exit: exitFailed, Message: path.Join(root.Name(), name) + " is there already, and no file"}
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}
