package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

func eventsCommand(a *app) *cobra.Command {
	req := &api.WatchEventsRequest{}
	var count int
	c := &cobra.Command{
		Use:   "events [PROFILE]",
		Short: "Say what happens to tokens and sessions, as it happens",
		Long: `Say what happens to tokens and sessions, as it happens, one line an event, until
it is interrupted: tokens made, renewed, reported and not to be had, sessions begun
and ended, and what concerns the daemon itself, which a PROFILE leaves out. There is
no secret in it.

When the daemon ends, so does this, with 3.`,
		Example: `  tokenctl events
  tokenctl events dev/network --recent        what has happened already, too
  tokenctl events -o json | jq -r 'select(.kind == "token_failed") | .message'
  tokenctl events --count 1 dev/network       wait for the next one, in a script`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeProfiles,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("count") && count < 1 {
				return usageError(c, "--count must be at least 1")
			}
			if len(args) > 0 && args[0] == "" {
				return emptyError(c, "PROFILE")
			}
			req.Profile = strings.Join(args, "")
			s, err := a.openWith(c.Context(), api.MethodWatchEvents, req)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			lines := eventLines{width: max(12, len(req.Profile))}
			for n := 0; count == 0 || n < count; n++ {
				e := &api.WatchEventsResponse{}
				if err := s.Recv(e); err != nil {
					return ended(err)
				}
				show := lines.say
				if a.output == "json" {
					show = sayEventJSON
				}
				if err := show(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&req.Recent, "recent", false, "begin with what has happened already, as far as it is remembered")
	c.Flags().IntVarP(&count, "count", "n", 0, "end after that many events")
	a.outputFlag(c, "text", "json")
	return c
}

// ended is the error of a stream that has no end of its own: whatever has no
// reason means that the daemon is gone.
func ended(err error) error {
	if errors.As(err, new(*client.Error)) {
		return err
	}
	message := "tokend has ended"
	if !errors.Is(err, io.EOF) {
		message += " (" + err.Error() + ")"
	}
	return &problem{Exit: exitNoOne, Message: message, Transient: true, Fix: startDaemon}
}

// eventLines aligns lines that come one by one.
type eventLines struct{ width int }

func (l *eventLines) say(e *api.WatchEventsResponse) error {
	profile := oneLine(e.Profile)
	l.width = max(l.width, len(profile))
	line := fmt.Sprintf("%s  %-*s  %-15s  %s", e.Time.Local().Format(time.DateTime), l.width, profile, inWords(e.Kind.String()), eventText(e))
	return say("%s\n", strings.TrimRight(oneLine(line), " "))
}

func eventText(e *api.WatchEventsResponse) string {
	if e.Kind == api.KindMissed && e.Message == "" {
		return counted(e.Missed, "event") + " came too fast for this reader"
	}
	if e.ExpiresAt.IsZero() {
		return e.Message
	}
	good := "good until " + clock(e.ExpiresAt)
	if e.Message != "" {
		return e.Message + "; " + good
	}
	return good
}

type eventJSON struct {
	Kind          string `json:"kind"`
	Time          string `json:"time"`
	TimeUnix      int64  `json:"time_unix"`
	Profile       string `json:"profile,omitempty"`
	Message       string `json:"message,omitempty"`
	Reason        string `json:"reason,omitempty"`
	Fingerprint   string `json:"fingerprint,omitempty"`
	ExpiresAt     string `json:"expires_at,omitempty"`
	ExpiresAtUnix int64  `json:"expires_at_unix,omitempty"`
	Missed        int32  `json:"missed,omitempty"`
}

// sayEventJSON prints one JSON object on one line.
func sayEventJSON(e *api.WatchEventsResponse) error {
	out := eventJSON{
		Kind:        strings.ToLower(e.Kind.String()),
		Time:        e.Time.UTC().Format("2006-01-02T15:04:05.000Z"),
		TimeUnix:    e.Time.Unix(),
		Profile:     e.Profile,
		Message:     e.Message,
		Reason:      reasonName(e.Reason),
		Fingerprint: e.Fingerprint,
		Missed:      e.Missed,
	}
	out.ExpiresAt, out.ExpiresAtUnix = timeJSON(e.ExpiresAt)
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return err
	}
	return say("%s", printableJSON(b.String()))
}
