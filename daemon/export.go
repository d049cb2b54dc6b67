package daemon

import (
	"context"
	"errors"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// ExportProfile answers with the file itself where the store is one of age files:
// asked again, the answer is the same for as long as the profile is. The keyring's
// texts are encrypted to the identity.
func (s *profiles) ExportProfile(ctx context.Context, req *tokendv1.ExportProfileRequest) (*tokendv1.ExportProfileResponse, error) {
	name := req.GetName()
	// Who is given a backup wants one that opens.
	h, data, version, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	resp := &tokendv1.ExportProfileResponse{}
	if files, ok := h.profiles.(*store.Age); ok {
		sealed, now, err := files.Sealed(ctx, name)
		if err == nil && now != version {
			err = store.ErrConflict
		}
		if errors.Is(err, store.ErrConflict) {
			return nil, failure(tokendv1.Reason_REASON_VERSION_CHANGED, "it was changed meanwhile", "profile", name)
		}
		if err != nil {
			return nil, profileError(name, err)
		}
		resp.Sealed = sealed
	} else {
		id, err := s.d.key()
		if err == nil {
			resp.Sealed, err = id.Seal(data)
		}
		if err != nil {
			return nil, profileError(name, err)
		}
	}
	resp.Version = string(version)
	s.d.log.Info("profile exported", "profile", name, "to", caller(ctx))
	return resp, nil
}
