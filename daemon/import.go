package daemon

import (
	"bytes"
	"context"
	"errors"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// ImportProfile is PutProfile for a file that may be an age file.
func (s *profiles) ImportProfile(ctx context.Context, req *tokendv1.ImportProfileRequest) (*tokendv1.ImportProfileResponse, error) {
	name, data := req.GetName(), req.GetContent()
	if err := store.CheckName(name); err != nil {
		return nil, invalidName("name", err)
	}
	if len(data) == 0 {
		return nil, invalid("content", "is required")
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	resp := &tokendv1.ImportProfileResponse{Decrypted: store.IsSealed(data)}
	if resp.Decrypted {
		data, err = s.d.unseal(data)
		if errors.Is(err, store.ErrLocked) {
			return nil, locked()
		}
		if err != nil {
			return nil, failure(tokendv1.Reason_REASON_PROFILE_INVALID, "opening the age file: "+err.Error(), "profile", name)
		}
	}
	there, version, err := h.profiles.Get(ctx, name)
	defer clear(there)
	if errors.As(err, new(*store.KeyringError)) {
		return nil, profileError(name, err) // what follows would only wait for it once more
	}
	if err == nil && bytes.Equal(there, data) {
		resp.Version, resp.Unchanged = string(version), true
		resp.VariablesOnly, _ = checkText(name, data) // it stays, right or wrong
		if resp.Trust, err = s.d.trust.answer(name, data); err != nil {
			return nil, storeError(err)
		}
		return resp, nil
	}
	if req.GetDryRun() {
		if resp.VariablesOnly, err = checkText(name, data); err != nil {
			return nil, err
		}
		if err := h.profiles.CheckPut(ctx, name, store.Version(req.GetReplaces())); err != nil {
			return nil, putError(name, req.GetReplaces(), err)
		}
		resp.Trust, err = s.d.trust.answer(name, data)
		if err != nil {
			return nil, storeError(err)
		}
		return resp, nil
	}
	put, err := s.PutProfile(ctx, &tokendv1.PutProfileRequest{
		Name:     name,
		Content:  &tokendv1.PutProfileRequest_Text{Text: data},
		Replaces: req.GetReplaces(),
	})
	if err != nil {
		return nil, err
	}
	resp.Version, resp.Trust, resp.VariablesOnly = put.GetVersion(), put.GetTrust(), put.GetVariablesOnly()
	return resp, nil
}

// unseal opens an age file with the identities at hand, other people's files too.
func (d *Daemon) unseal(sealed []byte) ([]byte, error) {
	id, err := d.key()
	if err != nil {
		return nil, err
	}
	return id.Open(sealed)
}
