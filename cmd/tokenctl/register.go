package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

func registerCommand(a *app) *cobra.Command {
	start := &api.RegisterRequestStart{}
	var user string
	var yes bool
	c := &cobra.Command{
		Use:   "register URL",
		Short: "Get a client of your own from a server, for a user name and password",
		Long: `Get a client of your own from a server that gives one for a user name and a
password, and keep it as a profile. The password is sent to URL alone, and kept
nowhere.

They are asked for on a terminal; otherwise they are two lines of standard input,
or, with --user, the password is one.

Servers that register clients by RFC 7591 need no password: tokenctl login URL.`,
		Example: `  tokenctl register https://api.example.com/v1/clients --as example
  pass show example | tokenctl register https://api.example.com/v1/clients --user me@example.com`,
		Args: exactly("URL"),
		RunE: func(c *cobra.Command, args []string) error {
			start.Url = args[0]
			done, err := a.register(c.Context(), start, user, yes)
			if err != nil {
				return registerProblem(err)
			}
			if err := addTrust(done.Trust); err != nil {
				return err
			}
			return say("%s\n", oneLine(done.Profile+": registered as client "+done.ClientId))
		},
	}
	f := c.Flags()
	f.StringVar(&start.Name, "as", "", "name of the profile to be written; default: the URL's host")
	f.StringVar(&start.TokenUrl, "token-url", "", "the token endpoint; default: oauth/token in the place of URL's last path element")
	f.BoolVar(&start.Replace, "replace", false, "replace the profile if there is one")
	f.StringVar(&user, "user", "", "user name")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask whether to send the password")
	return c
}

func (a *app) register(ctx context.Context, start *api.RegisterRequestStart, user string, yes bool) (done *api.RegisterResponseDone, err error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
	}()
	s, err := a.client.Open(ctx, api.MethodRegister)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	if err := s.Send(&api.RegisterRequest{Start: start}); err != nil {
		return nil, err
	}
	for {
		event := &api.RegisterResponse{}
		err := s.Recv(event)
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("tokend ended the registration without saying what came of it")
		case err != nil:
			return nil, err
		case event.Done != nil:
			return event.Done, nil
		case event.UserNeeded != nil:
			answer, err := askUser(ctx, event.UserNeeded, user, yes)
			if err != nil {
				return nil, err
			}
			_ = s.Send(&api.RegisterRequest{User: answer}) // if this fails, Recv says why
		}
	}
}

// askUser asks for name and password on a terminal, and takes them from
// standard input elsewhere.
func askUser(ctx context.Context, e *api.RegisterResponseUserNeeded, user string, yes bool) (*api.RegisterRequestUser, error) {
	answer := &api.RegisterRequestUser{Name: user}
	var err error
	if isTerminal(os.Stdin) {
		fmt.Fprintf(os.Stderr, "profile    %s is written\ntoken URL  %s\n", oneLine(e.Profile), oneLine(e.TokenUrl))
		if !yes {
			ok, err := confirm(ctx, "Send user name and password to "+e.Url+"?")
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, &problem{Exit: exitDenied, Profile: e.Profile, Message: "not sent: nothing was written"}
			}
		}
		if user == "" {
			answer.Name, err = ask(ctx, "User name:")
		}
		if err == nil {
			answer.Password, err = askSecret(ctx, "Password:")
		}
	} else {
		if user == "" {
			answer.Name, err = waitLine(ctx)
		}
		if err == nil {
			answer.Password, err = waitLine(ctx)
		}
	}
	if errors.Is(err, io.EOF) || err == nil && (strings.TrimSpace(answer.Name) == "" || answer.Password == "") {
		return nil, &problem{Exit: exitUsage, Profile: e.Profile, Message: "user name or password missing: nothing was sent"}
	}
	return answer, err
}

func registerProblem(err error) error {
	var call *client.Error
	if !errors.As(err, &call) {
		return err
	}
	p := diagnoseCall(call)
	switch call.Reason {
	case api.ReasonAlreadyExists:
		p.Fix = "add --replace, or choose another name: --as NAME"
		if call.Metadata["suggestion"] != "" {
			p.Fix = "choose another name: --as NAME"
		}
	case api.ReasonClientRefused:
		p.Fix = "check user name and password"
	case api.ReasonRequestRefused:
		p.Fix = ""
	case api.ReasonThrottled, api.ReasonProviderDown:
		if p.RetryAfter <= 1 {
			p.Fix = "try again later"
		}
	}
	return &p
}
