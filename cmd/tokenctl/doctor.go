package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/harden"
	"tokend/internal/settings"
)

// A check is one line of doctor's answer.
type check struct {
	ID     string `json:"id"` // what TOKEND_FLOOR calls it
	Result string `json:"result"`
	Floor  bool   `json:"floor"` // TOKEND_FLOOR wants it to be good
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// Results of a check.
const (
	good    = "ok"
	bad     = "bad"
	unknown = "unknown" // nobody can tell, from here
)

// IDs of the checks that are not the daemon's protections.
const (
	checkIdentity = "identity"
	checkFolders  = "folders"
	checkTrust    = "trust"
	checkVersion  = "version"
	checkSwap     = "swap"
	checkDisk     = "disk"
	checkPtrace   = "ptrace"
	checkClock    = "clock"
	checkLockOn   = "lock-on"
	checkPlugins  = "plugins"
	checkSSHKey   = "ssh-key"
)

var ownChecks = []string{checkFolders, checkIdentity, checkSSHKey, checkPlugins, checkTrust, checkVersion, checkLockOn, checkSwap, checkDisk, checkPtrace, checkClock}

func doctorCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say which protections are in force on this machine, and what to do about the others",
		Long: `Say which protections are in force on this machine, now, and what to do about those
that are not. What the daemon does to its own process is read back from the system,
or tried out.

It exits with 1 if something is not good that TOKEND_FLOOR names: "none", "all", or
names from the first column. The default is what holds on every machine of this
system with the binaries as they are built: ` + strings.Join(defaultFloor, ", ") + `.

It starts no daemon: without one it exits with 3.`,
		Example: `  tokenctl doctor
  tokenctl doctor -o json | jq '.checks[] | select(.result != "ok")'
  TOKEND_FLOOR=all tokenctl doctor`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			a.client.Autostart = false
			mine, err := a.client.Settings()
			if err != nil {
				return err
			}
			floor, err := readFloor(mine)
			if err != nil {
				return err
			}
			s, err := a.status(c.Context())
			if err != nil {
				return err
			}
			checks := examine(s, mine)
			var below []string
			for i, c := range checks {
				if checks[i].Floor = slices.Contains(floor, c.ID); checks[i].Floor && c.Result != good {
					below = append(below, c.ID)
				}
			}
			if a.output == "json" {
				err = sayJSON(struct {
					Good   bool    `json:"good"`
					Checks []check `json:"checks"`
				}{below == nil, checks})
			} else {
				err = say("%s", checksText(checks))
			}
			if err == nil && below != nil {
				err = &problem{Exit: exitFailed, Message: "not as TOKEND_FLOOR wants it: " + strings.Join(below, ", ")}
			}
			return err
		},
	}
	a.outputFlag(c, "text", "json")
	return c
}

// readFloor gives the IDs that have to be good.
func readFloor(s *settings.Settings) ([]string, error) {
	known := slices.Concat(harden.IDs, ownChecks)
	words := strings.FieldsFunc(s.Get(settings.Floor), func(r rune) bool { return r == ',' || r == ' ' })
	switch {
	case len(words) == 0:
		return defaultFloor, nil
	case len(words) == 1 && words[0] == "none":
		return nil, nil
	case len(words) == 1 && words[0] == "all":
		return known, nil
	}
	for _, word := range words {
		if !slices.Contains(known, word) {
			return nil, &problem{
				Reason: reasonName(api.ReasonSettingsInvalid), Exit: exitConfig, Variable: settings.Floor,
				Message: fmt.Sprintf("%s: %q is no check (%s); there are none, all, or some of: %s",
					settings.Floor, word, s.Source(settings.Floor), strings.Join(known, " ")),
			}
		}
	}
	return words, nil
}

func checksText(checks []check) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range checks {
		result, detail := c.Result, c.Detail
		if c.Floor && c.Result != good {
			result = strings.ToUpper(result)
		}
		if c.Fix != "" {
			detail += "; " + c.Fix
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", oneLine(c.ID), result, oneLine(detail))
	}
	w.Flush()
	return b.String()
}

// examine makes all the checks: the daemon's word about itself first.
func examine(s *api.GetStatusResponse, mine *settings.Settings) []check {
	var all []check
	for _, id := range harden.IDs {
		i := slices.IndexFunc(s.Protections, func(p api.Protection) bool { return p.Id == id })
		switch {
		case i < 0:
			all = append(all, check{ID: id, Result: unknown, Detail: "this tokend does not say", Fix: "run: tokenctl daemon restart"})
		case s.Protections[i].Active:
			all = append(all, check{ID: id, Result: good, Detail: s.Protections[i].Detail})
		default:
			all = append(all, check{ID: id, Result: bad, Detail: s.Protections[i].Detail, Fix: protectionFix[id]})
		}
	}
	set := make(map[string]string) // what the daemon goes by
	for _, v := range s.Settings {
		set[v.Name] = v.Value
	}
	all = append(all, foldersCheck(s, mine), identityCheck(s))
	if s.IdentityProtection == "ssh" {
		all = append(all, sshKeyCheck(mine))
	}
	if names := strings.Fields(set[settings.Plugins]); len(names) > 0 {
		all = append(all, pluginsCheck(names))
	}
	all = append(all, trustCheck(set[settings.Trust]), versionCheck(s))
	return append(all, machineChecks(s, set[settings.LockOn])...)
}

// protectionFix is what a person can do where a protection is not in force.
var protectionFix = map[string]string{
	harden.PrivateFiles: "run: tokenctl daemon restart",
	harden.NoCores:      "run: tokenctl daemon restart",
	harden.NoDebugger:   "run: tokenctl daemon restart",
	harden.NoTracer:     "end that process, or have a new daemon: tokenctl daemon restart",
	harden.Environ:      "run: tokenctl daemon restart",
	harden.WipeHeap:     "build it with: make",
	harden.WipeStacks:   "build it with: make, for Linux on amd64 or arm64",
}

// foldersCheck looks at what the daemon refuses to work with, too, but does not
// look at all the time.
func foldersCheck(s *api.GetStatusResponse, mine *settings.Settings) check {
	c := check{ID: checkFolders, Result: good, Detail: "socket, store and state can be entered by you only"}
	for _, dir := range []string{filepath.Dir(s.Socket), filepath.Dir(s.ProfilesDir), filepath.Dir(s.SessionsDir), mine.StateDir} {
		fi, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return check{ID: checkFolders, Result: unknown, Detail: err.Error()}
		case !fi.IsDir():
			return check{ID: checkFolders, Result: bad, Detail: dir + " is no folder"}
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return check{ID: checkFolders, Result: bad, Detail: fmt.Sprintf("%s belongs to user %d", dir, st.Uid)}
		}
		if fi.Mode().Perm()&0o077 != 0 {
			return check{ID: checkFolders, Result: bad, Detail: fmt.Sprintf("%s has mode %#o", dir, fi.Mode().Perm()), Fix: "run: chmod 700 " + shellQuote(dir)}
		}
	}
	if s.State == api.StateStoreUnavailable {
		c.Result, c.Detail, c.Fix = bad, s.Problem, "then run: tokenctl reload"
	}
	return c
}

func identityCheck(s *api.GetStatusResponse) check {
	c := check{ID: checkIdentity, Result: good, Detail: "protected by " + inWords(s.IdentityProtection)}
	switch s.IdentityProtection {
	case "":
		if s.State == api.StateStoreUnavailable {
			return check{ID: checkIdentity, Result: unknown, Detail: "the store cannot be opened, as \"" + checkFolders + "\" says"}
		}
		c.Result, c.Detail, c.Fix = bad, "there is none", "run: tokenctl init"
	case "none":
		c.Result, c.Fix = bad, "run: tokenctl protect --passphrase"
		c.Detail = "not protected: a copy of " + s.IdentityFile + " opens the store"
	case "keyring":
		c.Detail += ", which every program of this desktop session can read while it is unlocked"
	}
	return c
}

// sshKeyCheck looks for the key as unlock does.
func sshKeyCheck(mine *settings.Settings) check {
	files := []string{mine.Get(settings.SSHKey)}
	if files[0] == "" {
		dir := filepath.Join(os.Getenv("HOME"), ".ssh")
		files = []string{filepath.Join(dir, "id_ed25519"), filepath.Join(dir, "id_rsa")}
	}
	for _, file := range files {
		fi, err := os.Stat(file)
		switch {
		case err != nil:
		case fi.Mode().Perm()&0o077 != 0:
			return check{ID: checkSSHKey, Result: bad, Detail: fmt.Sprintf("%s has mode %#o", file, fi.Mode().Perm()), Fix: "run: chmod 600 " + shellQuote(file)}
		default:
			return check{ID: checkSSHKey, Result: good, Detail: file}
		}
	}
	return check{ID: checkSSHKey, Result: bad, Detail: "the identity opens with an SSH key, and there is none in " + strings.Join(files, " or "), Fix: "set " + settings.SSHKey}
}

// pluginsCheck looks where a daemon looks that was started by tokenctl.
func pluginsCheck(names []string) check {
	var missing []string
	for _, name := range names {
		found := false
		for _, dir := range filepath.SplitList(client.DaemonPath) {
			fi, err := os.Stat(filepath.Join(dir, "age-plugin-"+name))
			found = found || err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
		}
		if !found {
			missing = append(missing, "age-plugin-"+name)
		}
	}
	if missing != nil {
		return check{ID: checkPlugins, Result: bad, Detail: "not found where a daemon looks that tokenctl started: " + strings.Join(missing, ", "), Fix: "put it into one of " + client.DaemonPath}
	}
	return check{ID: checkPlugins, Result: good, Detail: strings.Join(names, ", ")}
}

func trustCheck(value string) check {
	if value == "all" {
		return check{ID: checkTrust, Result: bad, Detail: "TOKEND_TRUST=all: whoever can write a profile, or reach the socket, can have files read, programs run and secrets sent",
			Fix: "take it out of the configuration"}
	}
	return check{ID: checkTrust, Result: good, Detail: "a text is used once you have trusted it"}
}

func versionCheck(s *api.GetStatusResponse) check {
	if s.Version != version {
		return check{ID: checkVersion, Result: bad, Detail: "tokend is " + s.Version + ", tokenctl is " + version, Fix: "run: tokenctl daemon restart"}
	}
	return check{ID: checkVersion, Result: good, Detail: "tokend and tokenctl are both " + version + ", tokend's pid is " + strconv.FormatInt(s.Pid, 10)}
}
