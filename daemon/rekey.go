package daemon

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/status"

	"tokend/broker"
	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// RekeyProfiles puts each text in place of itself. What is there meanwhile is
// served, and a text that is changed meanwhile stays: Put compares. So does one
// that is not trusted: who writes to a team's tree could have copied there, in
// a file that only this identity opens, what the team is not to read.
func (s *profiles) RekeyProfiles(req *tokendv1.RekeyProfilesRequest, stream tokendv1grpc.ProfileService_RekeyProfilesServer) error {
	ctx := stream.Context()
	h, err := s.d.opened()
	if err != nil {
		return err
	}
	files, ok := h.profiles.(*store.Age)
	if !ok {
		return failure(tokendv1.Reason_REASON_SETTINGS_INVALID, settings.Store+" is keyring, whose items are encrypted to nobody: there is nothing to rekey")
	}
	entries, err := files.List(ctx)
	if err != nil {
		return storeError(err)
	}
	prefix := strings.TrimSuffix(req.GetPrefix(), "/")
	var names []string
	for _, e := range entries {
		if under(e.Name, prefix) {
			names = append(names, e.Name)
		}
	}
	if !req.GetDryRun() {
		s.d.log.Info("rekeying", "prefix", prefix, "profiles", len(names), "by", caller(ctx))
	}
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		resp := &tokendv1.RekeyProfilesResponse{Profile: name, Done: int32(i + 1), Total: int32(len(names))}
		readers, err := files.Readers(ctx, name)
		if err == nil {
			resp.Recipients = fitting(readers)
			var data []byte
			var version store.Version
			data, version, err = files.Get(ctx, name)
			if err == nil {
				err = s.d.mustTrust(name, data)
			}
			if err == nil && !req.GetDryRun() {
				_, err = files.Put(ctx, name, data, version)
			}
			clear(data)
		}
		switch {
		case errors.Is(err, store.ErrNotExist):
			err = nil // deleted meanwhile
			resp.Recipients = nil
		case errors.Is(err, store.ErrLocked), ctx.Err() != nil && err != nil:
			return profileError(name, err)
		}
		if err != nil {
			why := problem(name, profileError(name, err))
			resp.Reason, resp.Problem = why.GetReason(), why.GetMessage()
			var untrusted *store.UntrustedError
			switch {
			case errors.As(err, &untrusted):
				resp.Problem += "; run: tokenctl trust " + untrusted.Folder + "/"
			case errors.Is(err, broker.ErrUntrusted):
				resp.Problem += "; run: tokenctl trust " + name
			}
		} else if !req.GetDryRun() {
			h.broker.Forget(name) // its tokens are those of another version
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	return nil
}

// mustTrust is broker.ErrUntrusted where a text is not trusted under that name.
func (d *Daemon) mustTrust(name string, text []byte) error {
	trusted, err := d.trust.text(name, text)
	if err == nil && !trusted {
		err = broker.ErrUntrusted
	}
	return err
}

// fitting is as many of the readers as an answer has room for.
func fitting(readers []string) []string {
	room := maxMessage / 2
	for i, r := range readers {
		if room -= len(r); room < 0 {
			return append(readers[:i:i], fmt.Sprintf("… and %d more", len(readers)-i))
		}
	}
	return readers
}
