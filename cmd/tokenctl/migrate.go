package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/settings"
)

func migrateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate age|keyring",
		Short: "Move all profiles to the other kind of store",
		Long: `Move all profiles to the other kind of store: age files, or the operating system's
keyring. All are copied and compared before the first is deleted. Then change the
setting that is printed, and restart the daemon: until then it serves no profile.

Trust and sessions stay as they are. Interrupted, it can be run again.`,
		Example: `  tokenctl migrate keyring`,
		Args:    exactly("KIND"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"age", "keyring"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] != "age" && args[0] != "keyring" {
				return usageError(c, "there is no store \""+args[0]+"\", but age and keyring")
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			return a.migrate(ctx, args[0])
		},
	}
}

func (a *app) migrate(ctx context.Context, kind string) error {
	stream, err := a.openWith(ctx, api.MethodMigrate, &api.MigrateRequest{To: kind})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	var p progress
	defer p.clear()
	for {
		resp := &api.MigrateResponse{}
		err := stream.Recv(resp)
		if ctx.Err() != nil {
			return &problem{Exit: exitStopped, Message: "interrupted", Fix: "to go on, run it again"}
		}
		if errors.Is(err, io.EOF) {
			return &problem{Exit: exitNoOne, Message: "tokend has ended before all was moved", Fix: "to go on, run it again"}
		}
		if err != nil {
			return ended(err)
		}
		if resp.Copied != nil {
			p.total = int(resp.Copied.Total)
			p.step()
		}
		if m := resp.Migrated; m != nil {
			p.clear()
			if err := say("%s\n", oneLine(m.Setting)); err != nil {
				return err
			}
			note("%s moved, and none is served until the line above is in force: %s; then run: tokenctl daemon restart",
				counted(m.Profiles, "profile"), a.whereToSet(ctx, m))
			return nil
		}
	}
}

// whereToSet says where the setting has to be changed: what is given elsewhere
// wins over the configuration file.
func (a *app) whereToSet(ctx context.Context, m *api.MigrateResponseMigrated) string {
	if status, err := a.status(ctx); err == nil {
		for _, s := range status.Settings {
			if s.Name == settings.Store && (s.Source == "environment" || s.Source == "flag") {
				return "it was given by the " + s.Source + " of tokend, which wins over " + m.ConfigFile
			}
		}
	}
	return "put it into " + m.ConfigFile
}

// openWith starts a call that takes one message and answers with several.
func (a *app) openWith(ctx context.Context, method string, req any) (*client.Stream, error) {
	stream, err := a.client.Open(ctx, method)
	if err != nil {
		return nil, err
	}
	if err = stream.Send(req); err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		err = whyEnded(stream, err)
		_ = stream.Close()
		return nil, ended(err)
	}
	return stream, nil
}

// whyEnded is what the daemon said when it ended a call to which nothing more could
// be sent, or else err.
func whyEnded(s *client.Stream, err error) error {
	if !errors.As(err, new(*client.Error)) {
		if said := s.Recv(&api.ReloadRequest{}); errors.As(said, new(*client.Error)) {
			return said
		}
	}
	return err
}
