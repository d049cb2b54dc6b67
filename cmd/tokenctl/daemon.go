package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/settings"
	"tokend/internal/socket"
)

func (a *app) status(ctx context.Context) (*api.GetStatusResponse, error) {
	s := &api.GetStatusResponse{}
	err := a.client.Call(ctx, api.MethodGetStatus, &api.GetStatusRequest{}, s)
	return s, err
}

func statusCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "status [PROFILE]...",
		Short: "Say how the daemon and the profiles' tokens stand, and which settings are in force",
		Long: `Say what the daemon is and does, which settings are in force and where they came
from, and how the tokens stand of all profiles of which something is known: until
when they are good, when they are renewed, or what is wrong and when it is tried
again, what is wrong first. With a PROFILE, only how its token stands.

It starts no daemon: without one it exits with 3.`,
		Example: `  tokenctl status
  tokenctl status dev/network
  tokenctl status -o json | jq .pid
  tokenctl status -o json | jq '.profile_statuses[] | select(.reason)'`,
		ValidArgsFunction: a.completeMore,
		RunE: func(c *cobra.Command, args []string) error {
			a.client.Autostart = false
			mine, err := a.client.Settings()
			if err != nil {
				return err
			}
			s, err := a.status(c.Context())
			if errors.Is(err, client.ErrNotRunning) {
				return a.statusWithout(mine, err)
			}
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if s.ProfileStatuses, err = a.statusesOf(c.Context(), s, args); err != nil {
					return err
				}
			}
			switch {
			case a.output == "json":
				return sayJSON(statusJSON(s, mine))
			case len(args) > 0:
				return say("%s", profilesText(s.ProfileStatuses))
			}
			return say("%s", printable(statusText(s, mine)))
		},
	}
	a.outputFlag(c, "text", "json")
	return c
}

// statusesOf picks those of some profiles, and makes one for each other, of which
// nothing is known or was told. All of them must be there.
func (a *app) statusesOf(ctx context.Context, s *api.GetStatusResponse, names []string) ([]api.ProfileStatus, error) {
	var picked []api.ProfileStatus
	for _, p := range s.ProfileStatuses {
		if slices.Contains(names, p.Profile) {
			picked = append(picked, p)
		}
	}
	for _, name := range names {
		if slices.ContainsFunc(picked, func(p api.ProfileStatus) bool { return p.Profile == name }) {
			continue
		}
		if _, err := a.existing(ctx, name); err != nil {
			return nil, err
		}
		p := api.ProfileStatus{Profile: name}
		if s.ProfileStatusesOmitted > 0 {
			p.Message = "there are too many profiles to tell of all; see: tokenctl explain " + name
		}
		picked = append(picked, p)
	}
	return picked, nil
}

type settingJSON struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// statusWithout shows the settings that a daemon would get.
func (a *app) statusWithout(mine *settings.Settings, cause error) error {
	if a.output == "json" {
		var all []settingJSON
		for _, v := range mine.All() {
			all = append(all, settingJSON{v.Name, v.Value, v.Source})
		}
		if err := sayJSON(struct {
			Running  bool          `json:"running"`
			Settings []settingJSON `json:"settings"`
		}{false, all}); err != nil {
			return err
		}
		return cause
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "daemon\tnot running\n")
	for _, v := range mine.All() {
		fmt.Fprintf(w, "%s\t%s\t(%s)\n", v.Name, v.Value, v.Source)
	}
	w.Flush()
	if err := say("%s", printable(b.String())); err != nil {
		return err
	}
	return cause
}

func statusJSON(s *api.GetStatusResponse, mine *settings.Settings) any {
	type protection struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Active bool   `json:"active"`
		Detail string `json:"detail"`
	}
	type standing struct {
		Profile       string `json:"profile"`
		ExpiresAt     string `json:"expires_at,omitempty"`
		ExpiresAtUnix int64  `json:"expires_at_unix,omitempty"`
		RenewsAt      string `json:"renews_at,omitempty"`
		RenewsAtUnix  int64  `json:"renews_at_unix,omitempty"`
		Reason        string `json:"reason,omitempty"`
		Message       string `json:"message,omitempty"`
		NextTry       string `json:"next_try,omitempty"`
		NextTryUnix   int64  `json:"next_try_unix,omitempty"`
	}
	out := struct {
		Running       bool          `json:"running"`
		State         string        `json:"state"`
		Problem       string        `json:"problem,omitempty"`
		PID           int64         `json:"pid"`
		Version       string        `json:"version"`
		ClientVersion string        `json:"client_version"`
		StartedAt     string        `json:"started_at"`
		StartedAtUnix int64         `json:"started_at_unix"`
		Socket        string        `json:"socket"`
		Store         string        `json:"store"`
		Dir           string        `json:"dir"`
		ProfilesDir   string        `json:"profiles_dir"`
		SessionsDir   string        `json:"sessions_dir"`
		IdentityFile  string        `json:"identity_file"`
		Recipient     string        `json:"recipient,omitempty"`
		TrustFile     string        `json:"trust_file"`
		LogFile       string        `json:"log_file"`
		Profiles      int32         `json:"profiles"`
		Sessions      int32         `json:"sessions"`
		CachedTokens  int32         `json:"cached_tokens"`
		Connections   int32         `json:"connections"`
		Orphaned      []string      `json:"orphaned_sessions"`
		Unsaved       []string      `json:"unsaved_sessions"`
		Queued        int32         `json:"queued_revocations"`
		Goroutines    int32         `json:"goroutines"`
		Settings      []settingJSON `json:"settings"`
		Protections   []protection  `json:"protections"`
		Statuses      []standing    `json:"profile_statuses"`
		Omitted       int32         `json:"profile_statuses_omitted"`

		Protection      string `json:"identity_protection,omitempty"`
		LockedSince     string `json:"locked_since,omitempty"`
		LockedSinceUnix int64  `json:"locked_since_unix,omitempty"`
		LockReason      string `json:"lock_reason,omitempty"`
		LocksAt         string `json:"locks_at,omitempty"`
		LocksAtUnix     int64  `json:"locks_at_unix,omitempty"`
		ConfigFile      string `json:"config_file"`
	}{
		true, strings.ToLower(s.State.String()), s.Problem, s.Pid, s.Version, version,
		s.StartedAt.Format(time.RFC3339), s.StartedAt.Unix(), s.Socket, s.Store,
		filepath.Dir(s.ProfilesDir), s.ProfilesDir, s.SessionsDir, s.IdentityFile, s.Recipient,
		s.TrustFile, mine.LogFile(), s.Profiles, s.Sessions, s.CachedTokens, s.Connections,
		listed(s.OrphanedSessions), listed(s.UnsavedSessions), s.QueuedRevocations, s.Goroutines,
		nil, nil, []standing{}, s.ProfileStatusesOmitted,
		s.IdentityProtection, "", 0, s.LockReason, "", 0, s.ConfigFile,
	}
	out.LockedSince, out.LockedSinceUnix = timeJSON(s.LockedSince)
	out.LocksAt, out.LocksAtUnix = timeJSON(s.LocksAt)
	for _, v := range s.Settings {
		out.Settings = append(out.Settings, settingJSON{v.Name, v.Value, v.Source})
	}
	for _, p := range s.Protections {
		out.Protections = append(out.Protections, protection{p.Id, p.Name, p.Active, p.Detail})
	}
	for _, p := range s.ProfileStatuses {
		one := standing{Profile: p.Profile, Reason: reasonName(p.Reason), Message: p.Message}
		one.ExpiresAt, one.ExpiresAtUnix = timeJSON(p.ExpiresAt)
		one.RenewsAt, one.RenewsAtUnix = timeJSON(p.RenewsAt)
		one.NextTry, one.NextTryUnix = timeJSON(p.NextTry)
		out.Statuses = append(out.Statuses, one)
	}
	return out
}

func statusText(s *api.GetStatusResponse, mine *settings.Settings) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	up := time.Since(s.StartedAt).Round(time.Second)
	row("daemon", "running, pid %d, version %s, up %v", s.Pid, s.Version, up)
	if s.Version != version {
		row("", "this tokenctl is version %s; to use the newer daemon: tokenctl daemon restart", version)
	}
	switch s.State {
	case api.StateNotInitialized:
		row("state", "not initialized; run: tokenctl init")
	case api.StateLocked:
		row("state", "%s", lockedText(s))
	default:
		row("state", "%s", inWords(s.State.String()))
	}
	if !s.LocksAt.IsZero() {
		row("", "it locks at %s", clock(s.LocksAt))
	}
	if s.Problem != "" {
		row("problem", "%s", s.Problem)
	}
	row("store", "%s, %s in %s", s.Store, counted(s.Profiles, "profile"), s.ProfilesDir)
	identity := s.IdentityFile
	if s.IdentityProtection != "" {
		identity += ", protected by " + protectedBy(s.IdentityProtection)
	}
	if s.State != api.StateNotInitialized {
		row("identity", "%s", identity)
	}
	if s.Recipient != "" {
		row("public key", "%s", s.Recipient)
	}
	row("sessions", "%d in %s", s.Sessions, s.SessionsDir)
	for _, name := range s.OrphanedSessions {
		row("", "%s has no profile any more; to end it: tokenctl logout %s", name, name)
	}
	for _, name := range s.UnsavedSessions {
		row("", "%s could not be written and is in memory only, which is tried again", name)
	}
	if s.QueuedRevocations > 0 {
		row("revocations", "%s, which the server could not be told of yet", counted(s.QueuedRevocations, "token"))
	}
	row("trust file", "%s", s.TrustFile)
	row("tokens", "%d cached", s.CachedTokens)
	row("connections", "%d", s.Connections)
	row("log", "%s", mine.LogFile())
	if s.ConfigFile != "" {
		row("configuration", "%s", s.ConfigFile)
	}
	for _, v := range s.Settings {
		row(v.Name, "%s (%s)", v.Value, v.Source)
	}
	for _, p := range s.Protections {
		state := "active"
		if !p.Active {
			state = "NOT ACTIVE"
		}
		row(p.Name, "%s: %s", state, p.Detail)
	}
	w.Flush()
	if len(s.ProfileStatuses) > 0 {
		b.WriteString("\n" + profilesText(s.ProfileStatuses))
	}
	if s.ProfileStatusesOmitted > 0 {
		fmt.Fprintf(&b, "and %s more\n", counted(s.ProfileStatusesOmitted, "profile"))
	}
	return b.String()
}

// lockedText says since when, why, and what to do.
func lockedText(s *api.GetStatusResponse) string {
	text := "locked"
	if !s.LockedSince.IsZero() {
		text += " since " + clock(s.LockedSince)
	}
	if s.LockReason != "" {
		text += " (" + s.LockReason + ")"
	}
	return text + "; run: tokenctl unlock"
}

// profilesText is a line for each profile: its token, and what is to come of it.
func profilesText(all []api.ProfileStatus) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range all {
		token, then := "no token", "one is made when it is asked for"
		if !p.ExpiresAt.IsZero() {
			token, then = "good until "+clock(p.ExpiresAt), renewal(p.RenewsAt)
		}
		switch {
		case p.Reason != api.ReasonUnspecified:
			if then = p.Message; !p.NextTry.IsZero() {
				then += "; next try at " + clock(p.NextTry)
			}
		case p.Message != "":
			token, then = "not told", p.Message
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", oneLine(p.Profile), token, oneLine(then))
	}
	w.Flush()
	return b.String()
}

// renewal says when a token is renewed that is good.
func renewal(at time.Time) string {
	if at.IsZero() {
		return "not renewed unless it is asked for"
	}
	return "renewed at " + clock(at)
}

func reloadCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Let the daemon read the configuration and the identity again",
		Long: `Let the daemon read the configuration and the identity again. Profiles and the
trust file need no reload.`,
		Example: "  tokenctl reload",
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			a.client.Autostart = false
			resp := &api.ReloadResponse{}
			if err := a.client.Call(c.Context(), api.MethodReload, &api.ReloadRequest{}, resp); err != nil {
				return err
			}
			if changed := resp.NeedsRestart; len(changed) > 0 {
				note("changed, but in force only after a new start: %s; run: tokenctl daemon restart", strings.Join(changed, ", "))
			}
			return nil
		},
	}
}

func daemonCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "daemon",
		Short: "Run, start, stop or restart the daemon",
		Example: `  tokenctl daemon run                         in the foreground, log to stderr
  tokenctl daemon restart                     after an update`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	start := func(c *cobra.Command, _ []string) error {
		s, err := a.status(c.Context())
		if err != nil {
			return err
		}
		note("tokend runs, pid %d, at %s", s.Pid, s.Socket)
		return nil
	}
	stop := func(c *cobra.Command, _ []string) error {
		a.client.Autostart = false
		err := a.stop(c.Context())
		if errors.Is(err, client.ErrNotRunning) {
			note("tokend is not running")
			return nil
		}
		return err
	}
	c.AddCommand(
		&cobra.Command{
			Use:     "run",
			Short:   "Become the daemon, in the foreground",
			Example: "  tokenctl daemon run",
			Args:    atMost(0),
			RunE:    func(*cobra.Command, []string) error { return a.run() },
		},
		&cobra.Command{
			Use:     "start",
			Short:   "Start the daemon, if none runs",
			Example: "  tokenctl daemon start",
			Args:    atMost(0),
			RunE:    start,
		},
		&cobra.Command{
			Use:     "stop",
			Short:   "End the daemon; it is no error if none runs",
			Example: "  tokenctl daemon stop",
			Args:    atMost(0),
			RunE:    stop,
		},
		&cobra.Command{
			Use:     "restart",
			Short:   "End the daemon and start it again",
			Example: "  tokenctl daemon restart                     after an update",
			Args:    atMost(0),
			RunE: func(c *cobra.Command, args []string) error {
				if err := stop(c, args); err != nil {
					return err
				}
				a.client.Autostart = true
				return start(c, args)
			},
		},
	)
	return c
}

// stop asks the daemon to end and waits until it has, which is when it gives
// its store's lock back: its process may stay for a while as a zombie. One that
// is just being started is waited for first.
func (a *app) stop(ctx context.Context) error {
	mine, err := a.client.Settings()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	lock := mine.LockFile()
	for asked := false; !asked || socket.Held(lock); {
		if !asked {
			s, err := a.status(ctx)
			if err == nil {
				lock = filepath.Join(filepath.Dir(s.ProfilesDir), filepath.Base(lock))
				err = a.client.Call(ctx, api.MethodStop, &api.StopRequest{}, &api.StopResponse{})
			}
			asked = err == nil
			if starting := errors.Is(err, client.ErrNotRunning) && socket.Held(lock); !asked && !starting {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return &problem{Exit: exitFailed, Message: "tokend has not ended yet", Fix: "see its log: " + mine.LogFile()}
		case <-tick.C:
		}
	}
	return nil
}

// run replaces this process by tokend.
func (a *app) run() error {
	exe, err := client.FindTokend()
	if err != nil {
		return err
	}
	args := []string{exe}
	if a.client.Dir != "" {
		args = append(args, "--dir", a.client.Dir)
	}
	if a.client.Socket != "" {
		args = append(args, "--socket", a.client.Socket)
	}
	return fmt.Errorf("starting %s: %w", exe, syscall.Exec(exe, args, os.Environ()))
}

func versionCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of tokenctl and of the running daemon",
		Example: "  tokenctl version -o json",
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			a.client.Autostart = false
			ctx, cancel := context.WithTimeout(c.Context(), time.Second)
			defer cancel()
			daemon := ""
			if s, err := a.status(ctx); err == nil {
				daemon = s.Version
			}
			if a.output == "json" {
				return sayJSON(struct {
					Client string `json:"tokenctl"`
					Daemon string `json:"tokend,omitempty"`
				}{version, daemon})
			}
			if daemon == "" {
				daemon = "not running"
			}
			return say("tokenctl %s\ntokend   %s\n", version, printable(daemon))
		},
	}
	a.outputFlag(c, "text", "json")
	return c
}
