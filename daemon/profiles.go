package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tokend/broker"
	"tokend/internal/envfile"
	"tokend/profile"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

const (
	defaultPage = 200
	maxPage     = 500
	// pageBytes keeps a page of long names below maxMessage.
	pageBytes = maxMessage - 4<<10
)

type profiles struct {
	tokendv1grpc.UnimplementedProfileServiceServer
	d      *Daemon
	logins logins
}

func (s *profiles) ListProfiles(ctx context.Context, req *tokendv1.ListProfilesRequest) (*tokendv1.ListProfilesResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	if size < 0 || size > maxPage {
		return nil, invalid("page_size", fmt.Sprintf("must be between 0 and %d", maxPage))
	}
	h, err := s.d.opened()
	if err != nil {
		if h, err = s.d.listable(err); err != nil {
			return nil, err
		}
	}
	entries, err := h.profiles.List(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	prefix := strings.TrimSuffix(req.GetPrefix(), "/")
	resp := &tokendv1.ListProfilesResponse{}
	bytes := 0
	for _, e := range entries {
		if e.Name <= req.GetPageToken() || !under(e.Name, prefix) {
			continue
		}
		entry := &tokendv1.ListProfilesResponse_ProfileEntry{Name: e.Name, Version: string(e.Version)}
		bytes += proto.Size(entry) + 4 // with its tag and length
		if n := len(resp.Profiles); n == size || bytes > pageBytes {
			resp.NextPageToken = resp.Profiles[n-1].Name
			break
		}
		resp.Profiles = append(resp.Profiles, entry)
	}
	return resp, nil
}

func under(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (prefix == "" || rest == "" || rest[0] == '/')
}

func (s *profiles) GetProfile(ctx context.Context, req *tokendv1.GetProfileRequest) (*tokendv1.GetProfileResponse, error) {
	_, data, version, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	t, err := s.d.trust.answer(req.GetName(), data)
	if err != nil {
		return nil, storeError(err)
	}
	resp := &tokendv1.GetProfileResponse{Name: req.GetName(), Version: string(version), Trust: t}
	text, err := profile.Parse(data)
	if err == nil {
		resp.MaskedText = string(text.Masked())
		_, err = text.Profile(nil)
	}
	var mistakes *profile.Mistakes
	if variablesOnly(err) {
		resp.VariablesOnly = true
	} else if errors.As(err, &mistakes) {
		for _, m := range mistakes.List {
			resp.Mistakes = append(resp.Mistakes, &tokendv1.Mistake{Line: int32(m.Line), Variable: m.Variable, Message: m.Message})
		}
	} else if err != nil {
		return nil, profileError(req.GetName(), err)
	}
	return resp, nil
}

func (s *profiles) PutProfile(ctx context.Context, req *tokendv1.PutProfileRequest) (*tokendv1.PutProfileResponse, error) {
	name := req.GetName()
	var data []byte
	switch c := req.GetContent().(type) {
	case *tokendv1.PutProfileRequest_Text:
		data = c.Text
	case *tokendv1.PutProfileRequest_Variables:
		var vars []envfile.Var
		for _, v := range c.Variables.GetVariables() {
			vars = append(vars, envfile.Var{Name: v.GetName(), Value: v.GetValue()})
		}
		data = profile.Format(vars)
	default:
		return nil, invalid("content", "text or variables are required")
	}
	if err := store.CheckName(name); err != nil {
		return nil, invalidName("name", err)
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	only, err := checkText(name, data)
	if err != nil {
		return nil, err
	}
	// What trust there is must be known before anything is written.
	t, err := s.d.trust.answer(name, data)
	if err != nil {
		return nil, storeError(err)
	}
	version, err := h.profiles.Put(ctx, name, data, store.Version(req.GetReplaces()))
	if err != nil {
		return nil, putError(name, req.GetReplaces(), err)
	}
	h.broker.Forget(name)
	s.d.log.Info("profile written", "profile", name, "by", caller(ctx))
	return &tokendv1.PutProfileResponse{Version: string(version), Trust: t, VariablesOnly: only}, nil
}

// checkText says what is wrong with a text that is to be stored, and whether it
// is no more than variables for other programs.
func checkText(name string, data []byte) (only bool, err error) {
	text, err := profile.Parse(data)
	if err == nil {
		_, err = text.Profile(nil)
	}
	if variablesOnly(err) {
		return true, nil
	}
	if err != nil {
		return false, profileError(name, err)
	}
	return false, nil
}

func variablesOnly(err error) bool {
	var mistakes *profile.Mistakes
	return errors.As(err, &mistakes) && mistakes.VariablesOnly
}

// putError turns what the store says to a new text into the call's error.
func putError(name, replaces string, err error) error {
	if errors.Is(err, store.ErrConflict) && replaces == "" {
		return failure(tokendv1.Reason_REASON_ALREADY_EXISTS, "it exists already", "profile", name)
	}
	return profileError(name, err)
}

func (s *profiles) DeleteProfile(ctx context.Context, req *tokendv1.DeleteProfileRequest) (*tokendv1.DeleteProfileResponse, error) {
	name := req.GetName()
	h, version, err := s.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	if want := store.Version(req.GetVersion()); want != "" && want != version {
		return nil, profileError(name, store.ErrConflict)
	}
	// The session first: without the text it may not be known how to end it.
	if _, err := revoke(ctx, h, name); err != nil {
		return nil, err
	}
	if err := h.profiles.Delete(ctx, name, version); err != nil {
		return nil, profileError(name, err)
	}
	h.broker.Forget(name)
	s.d.log.Info("profile deleted", "profile", name, "by", caller(ctx))
	return &tokendv1.DeleteProfileResponse{}, nil
}

// MoveProfile writes the text under its new name before it deletes the old
// one: whatever happens in between, it is there at least once.
func (s *profiles) MoveProfile(ctx context.Context, req *tokendv1.MoveProfileRequest) (*tokendv1.MoveProfileResponse, error) {
	from, to := req.GetName(), req.GetNewName()
	if err := store.CheckName(to); err != nil {
		return nil, invalidName("new_name", err)
	}
	h, data, version, err := s.get(ctx, from)
	if err != nil {
		return nil, err
	}
	trusted, err := s.d.trust.text(from, data)
	if err != nil {
		return nil, storeError(err)
	}
	t, err := s.d.trust.answer(to, data)
	if err != nil {
		return nil, storeError(err)
	}
	var moved store.Version
	put := func(ctx context.Context) error {
		moved, err = h.profiles.Put(ctx, to, data, "")
		if errors.Is(err, store.ErrConflict) {
			return failure(tokendv1.Reason_REASON_ALREADY_EXISTS, "it exists already", "profile", to)
		}
		if err != nil {
			return profileError(to, err)
		}
		return nil
	}
	undo := func(ctx context.Context) error { return h.profiles.Delete(ctx, to, moved) }
	remove := func(ctx context.Context) error {
		err := h.profiles.Delete(ctx, from, version)
		if errors.Is(err, store.ErrConflict) {
			// A newer text stands under the old name: that one stays, not this copy.
			if undone := h.profiles.Delete(context.WithoutCancel(ctx), to, moved); undone == nil {
				return err
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			return errors.New("it now stands under both names; deleting the old one: " + err.Error()) // whatever else it says
		}
		return nil
	}
	if err := h.broker.Move(ctx, from, to, put, undo, remove); err != nil {
		if _, said := status.FromError(err); said {
			return nil, err
		}
		if errors.Is(err, broker.ErrSessionThere) {
			return nil, failure(tokendv1.Reason_REASON_ALREADY_EXISTS, err.Error(), "profile", to)
		}
		return nil, profileError(from, err)
	}
	s.d.log.Info("profile moved", "profile", from, "to", to, "by", caller(ctx))
	return &tokendv1.MoveProfileResponse{Version: string(moved), Trust: t, WasTrusted: trusted}, nil
}

func (s *profiles) RevealProfile(ctx context.Context, req *tokendv1.RevealProfileRequest) (*tokendv1.RevealProfileResponse, error) {
	_, data, version, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if req.GetTrustedOnly() {
		trusted, err := s.d.trust.text(req.GetName(), data)
		if err != nil {
			return nil, storeError(err)
		}
		if !trusted {
			return nil, profileError(req.GetName(), broker.ErrUntrusted)
		}
	}
	s.d.log.Info("profile revealed", "profile", req.GetName(), "to", caller(ctx))
	resp := &tokendv1.RevealProfileResponse{Version: string(version)}
	switch req.GetForm() {
	case tokendv1.RevealProfileRequest_FORM_UNSPECIFIED, tokendv1.RevealProfileRequest_FORM_TEXT:
		resp.Content = &tokendv1.RevealProfileResponse_Text{Text: data}
	case tokendv1.RevealProfileRequest_FORM_VARIABLES:
		text, err := profile.Parse(data)
		if err != nil {
			return nil, profileError(req.GetName(), err)
		}
		for _, v := range text.Vars {
			if !utf8.ValidString(v.Value) { // which protobuf does not take
				return nil, profileError(req.GetName(), &profile.Mistakes{List: []profile.Mistake{{Line: v.Line, Variable: v.Name,
					Message: "its value is not UTF-8, so that it can be had as part of the text only (FORM_TEXT)"}}})
			}
		}
		resp.Content = &tokendv1.RevealProfileResponse_Variables{Variables: variables(text)}
	default:
		return nil, invalid("form", "unknown form")
	}
	return resp, nil
}

// variables lists a text's assignments; of a name assigned twice the last
// stands, as in a shell.
func variables(text *profile.Text) *tokendv1.Variables {
	vars := &tokendv1.Variables{}
	at := make(map[string]*tokendv1.Variable)
	for _, v := range text.Vars {
		if at[v.Name] == nil {
			at[v.Name] = &tokendv1.Variable{Name: v.Name}
			vars.Variables = append(vars.Variables, at[v.Name])
		}
		at[v.Name].Value = v.Value
	}
	return vars
}

func (s *profiles) GetRecipients(ctx context.Context, req *tokendv1.GetRecipientsRequest) (*tokendv1.GetRecipientsResponse, error) {
	folder := req.GetFolder()
	if folder != "" {
		if err := store.CheckName(folder); err != nil {
			return nil, invalidName("folder", err)
		}
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	age, ok := h.profiles.(*store.Age)
	if !ok {
		return nil, failure(tokendv1.Reason_REASON_PROFILE_NOT_FOUND, "a keyring has no .age-recipients files", "folder", folder+"/")
	}
	r, err := age.Recipients(ctx, folder)
	if errors.Is(err, store.ErrNotExist) {
		return nil, failure(tokendv1.Reason_REASON_PROFILE_NOT_FOUND, "no .age-recipients file in folder "+folder+"/", "folder", folder+"/")
	}
	var wrong *store.RecipientsError
	if errors.As(err, &wrong) {
		return nil, recipientsError(wrong)
	}
	if err != nil {
		return nil, storeError(err)
	}
	t, err := s.d.trust.answer(folder+"/", r.Lines)
	if err != nil {
		return nil, storeError(err)
	}
	return &tokendv1.GetRecipientsResponse{Text: r.Lines, Trust: t}, nil
}

func (s *profiles) Logout(ctx context.Context, req *tokendv1.LogoutRequest) (*tokendv1.LogoutResponse, error) {
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	r, err := revoke(ctx, h, req.GetProfile())
	if err != nil {
		return nil, err
	}
	s.d.log.Info("logged out", "profile", r.Profile, "revoked", r.Revoked, "queued", r.Queued, "by", caller(ctx))
	return &tokendv1.LogoutResponse{Revoked: int32(r.Revoked), Queued: int32(r.Queued), Problem: cut(r.Problem, maxLine)}, nil
}

// get reads one profile's plain text.
func (s *profiles) get(ctx context.Context, name string) (house, []byte, store.Version, error) {
	if err := store.CheckName(name); err != nil {
		return house{}, nil, "", invalidName("name", err)
	}
	h, err := s.d.opened()
	if err != nil {
		return house{}, nil, "", err
	}
	data, version, err := h.profiles.Get(ctx, name)
	if errors.Is(err, store.ErrNotExist) {
		return house{}, nil, "", h.noSuchProfile(ctx, name)
	}
	if err != nil {
		return house{}, nil, "", profileError(name, err)
	}
	return h, data, version, nil
}

// stat is get for calls that need no plain text, and so no identity that fits.
func (s *profiles) stat(ctx context.Context, name string) (house, store.Version, error) {
	if err := store.CheckName(name); err != nil {
		return house{}, "", invalidName("name", err)
	}
	h, err := s.d.opened()
	if err != nil {
		return house{}, "", err
	}
	version, err := h.profiles.Stat(ctx, name)
	if err != nil {
		return house{}, "", profileError(name, err)
	}
	if version == "" {
		return house{}, "", h.noSuchProfile(ctx, name)
	}
	return h, version, nil
}

// caller is the process behind a call, as the kernel saw it connect.
func caller(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}
