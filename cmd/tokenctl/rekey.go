package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client/api"
)

func rekeyCommand(a *app) *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "rekey [PREFIX]",
		Short: "Encrypt profiles anew, to whom their folder names now",
		Long: `Encrypt profiles anew, each to the recipients of its folder: the lines of the
nearest .age-recipients file, once "tokenctl trust FOLDER/" has shown them, or this
machine's identity. It is what lets a new member read what was there before.

A profile that is not trusted stays as it is: somebody could have copied one of your
own files into a folder that others read. So does one that cannot be opened.

Who could read a file before may have kept it: to take a secret from somebody,
change the secret.

It can be interrupted at any time, and run again.`,
		Example: `  tokenctl trust team/ && tokenctl rekey team
  tokenctl rekey --dry-run                    only show to whom`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return a.rekey(ctx, strings.Join(args, ""), dryRun)
		},
	}
	c.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "only show to whom each would be encrypted")
	return c
}

func (a *app) rekey(ctx context.Context, prefix string, dryRun bool) error {
	stream, err := a.openWith(ctx, api.MethodRekeyProfiles, &api.RekeyProfilesRequest{Prefix: prefix, DryRun: dryRun})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	var p progress
	defer p.clear()
	exit := 0
	failed := int32(0)
	for {
		resp := &api.RekeyProfilesResponse{}
		err := stream.Recv(resp)
		if errors.Is(err, io.EOF) {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return ended(err)
		}
		p.total = int(resp.Total)
		p.step()
		if resp.Problem != "" {
			p.clear()
			note("%s: %s", resp.Profile, withoutName(resp.Problem, resp.Profile))
			if failed++; failed == 1 {
				exit = exitCode(resp.Reason)
			} else if exit != exitCode(resp.Reason) {
				exit = exitFailed
			}
			continue
		}
		if len(resp.Recipients) > 0 {
			p.clear()
			if err := say("%s  %s\n", oneLine(resp.Profile), oneLine(strings.Join(resp.Recipients, ", "))); err != nil {
				return err
			}
		}
	}
	p.clear()
	switch {
	case p.total == 0:
		return nothingUnder(prefix)
	case failed > 0:
		return &problem{Exit: exit, Message: counted(failed, "profile") + " stayed as before, as said above"}
	}
	return nil
}
