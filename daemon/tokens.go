package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	"tokend/oauth"
	"tokend/profile"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

const (
	maxScopes   = 128
	maxMinValid = 366 * 24 * time.Hour
	// maxAsked is the size of scopes, audience and resource together: they are
	// kept with the token.
	maxAsked = 4 << 10
)

type tokens struct {
	tokendv1grpc.UnimplementedTokenServiceServer
	d *Daemon
}

func (s *tokens) GetToken(ctx context.Context, req *tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
	r, err := brokerRequest(req)
	if err != nil {
		return nil, err
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	t, err := h.broker.Token(ctx, r)
	if err != nil {
		return nil, tokenError(ctx, h, r.Profile, err)
	}
	return tokenResponse(t), nil
}

// tokenResponse is a token that was handed out just now.
func tokenResponse(t broker.Token) *tokendv1.GetTokenResponse {
	return &tokendv1.GetTokenResponse{
		AccessToken:    t.Access.Reveal(),
		TokenType:      t.Type,
		ExpiresAt:      timestamppb.New(time.Now().Add(t.Remaining)),
		ExpiresIn:      durationpb.New(t.Remaining),
		Lifetime:       durationpb.New(t.Lifetime),
		Scopes:         t.Scopes,
		ApiOrigins:     t.APIOrigins,
		Fingerprint:    t.Fingerprint,
		ExpiryAssumed:  t.ExpiryAssumed,
		Degraded:       t.Degraded,
		Warning:        t.Warning,
		ProfileVersion: string(t.Version),
	}
}

var sources = map[broker.Source]tokendv1.IntrospectTokenResponse_Source{
	broker.SourceNone:          tokendv1.IntrospectTokenResponse_SOURCE_NONE,
	broker.SourceIntrospection: tokendv1.IntrospectTokenResponse_SOURCE_INTROSPECTION,
	broker.SourceJWT:           tokendv1.IntrospectTokenResponse_SOURCE_JWT,
}

func (s *tokens) IntrospectToken(ctx context.Context, req *tokendv1.IntrospectTokenRequest) (*tokendv1.IntrospectTokenResponse, error) {
	r, err := brokerRequest(&tokendv1.GetTokenRequest{
		Profile: req.GetProfile(), Scopes: req.GetScopes(), Audience: req.GetAudience(), Resource: req.GetResource()})
	if err != nil {
		return nil, err
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	in, err := h.broker.Introspect(ctx, r)
	if err != nil {
		return nil, tokenError(ctx, h, r.Profile, err)
	}
	if in.Claims == nil {
		in.Claims = map[string]any{}
	}
	claims, err := json.Marshal(in.Claims)
	if err != nil {
		return nil, err
	}
	t := in.Token
	return &tokendv1.IntrospectTokenResponse{
		Source:      sources[in.Source],
		Active:      in.Active,
		Claims:      string(claims),
		TokenType:   t.Type,
		ExpiresAt:   timestamppb.New(time.Now().Add(t.Remaining)),
		Fingerprint: t.Fingerprint,
	}, nil
}

func (s *tokens) RevokeTokens(ctx context.Context, req *tokendv1.RevokeTokensRequest) (*tokendv1.RevokeTokensResponse, error) {
	if req.GetAll() == (req.GetProfile() != "") {
		return nil, invalid("profile", "either a profile or all is required")
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	var results []broker.Revoked
	if req.GetAll() {
		if results, err = h.broker.RevokeAll(ctx); err != nil {
			return nil, storeError(err)
		}
	} else {
		r, err := revoke(ctx, h, req.GetProfile())
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	resp := &tokendv1.RevokeTokensResponse{}
	size := 0
	for _, r := range results {
		s.d.log.Info("tokens revoked", "profile", r.Profile, "revoked", r.Revoked, "queued", r.Queued, "by", caller(ctx))
		told := &tokendv1.RevokeTokensResponse_Revocation{
			Profile: r.Profile, Revoked: int32(r.Revoked), Queued: int32(r.Queued), Problem: cut(r.Problem, maxLine)}
		if size += proto.Size(told) + 4; size > pageBytes {
			resp.Omitted++
			continue
		}
		resp.Revocations = append(resp.Revocations, told)
	}
	return resp, nil
}

// revoke ends the tokens of one profile, which may have vanished.
func revoke(ctx context.Context, h house, name string) (broker.Revoked, error) {
	if err := store.CheckName(name); err != nil {
		return broker.Revoked{}, invalidName("profile", err)
	}
	r, err := h.broker.Revoke(ctx, name)
	if errors.Is(err, store.ErrNotExist) {
		return r, h.noSuchProfile(ctx, name)
	}
	if err != nil {
		return r, profileError(name, err)
	}
	return r, nil
}

func (s *tokens) CreateDPoPProof(ctx context.Context, req *tokendv1.CreateDPoPProofRequest) (*tokendv1.CreateDPoPProofResponse, error) {
	if err := store.CheckName(req.GetProfile()); err != nil {
		return nil, invalidName("profile", err)
	}
	if !isHTTPToken(req.GetMethod()) {
		return nil, invalid("method", "must be an HTTP method, such as GET")
	}
	if len(req.GetNonce()) > maxAsked || strings.ContainsFunc(req.GetNonce(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, invalid("nonce", "must be printable ASCII without spaces")
	}
	if _, err := oauth.CheckURL(req.GetUrl()); err != nil {
		return nil, invalid("url", err.Error())
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	proof, err := h.broker.Proof(ctx, req.GetProfile(), oauth.NewSecret(req.GetAccessToken()), req.GetMethod(), req.GetUrl(), req.GetNonce())
	var place *broker.PlaceError
	switch {
	case errors.Is(err, store.ErrNotExist):
		return nil, h.noSuchProfile(ctx, req.GetProfile())
	case errors.Is(err, broker.ErrNotOurs):
		return nil, invalid("access_token", err.Error())
	case errors.As(err, &place):
		return nil, failure(tokendv1.Reason_REASON_DENIED, place.Why, "profile", req.GetProfile(), "variable", place.Variable)
	case err != nil:
		return nil, profileError(req.GetProfile(), err)
	}
	return &tokendv1.CreateDPoPProofResponse{Proof: proof}, nil
}

// isHTTPToken says whether s can be a method (RFC 9110 section 9.1).
func isHTTPToken(s string) bool {
	return s != "" && len(s) <= 32 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == '-' || r == '_')
	})
}

// brokerRequest checks a request before anything is done for it.
func brokerRequest(req *tokendv1.GetTokenRequest) (broker.Request, error) {
	r := broker.Request{
		Profile:    req.GetProfile(),
		Scopes:     req.GetScopes(),
		Audience:   req.GetAudience(),
		Resource:   req.GetResource(),
		Force:      req.GetForce(),
		BestEffort: req.GetBestEffort(),
	}
	if err := store.CheckName(r.Profile); err != nil {
		return r, invalidName("profile", err)
	}
	if err := checkScopes(r.Scopes); err != nil {
		return r, err
	}
	if slices.ContainsFunc([]byte(r.Audience), func(c byte) bool { return c <= ' ' || c > '~' }) {
		return r, invalid("audience", "must be printable ASCII without spaces")
	}
	if r.Resource != "" {
		if err := oauth.CheckResource(r.Resource); err != nil {
			return r, invalid("resource", err.Error())
		}
	}
	if len(strings.Join(r.Scopes, " "))+len(r.Audience)+len(r.Resource) > maxAsked {
		return r, invalid("scopes", fmt.Sprintf("with audience and resource longer than %d bytes", maxAsked))
	}
	if d := req.GetMinValid(); d != nil {
		r.MinValid = d.AsDuration()
		if d.CheckValid() != nil || r.MinValid < 0 || r.MinValid > maxMinValid {
			return r, invalid("min_valid", "must be between 0 and a year")
		}
	}
	return r, nil
}

func checkScopes(scopes []string) error {
	if len(scopes) > maxScopes || len(strings.Join(scopes, " ")) > maxAsked {
		return invalid("scopes", "too many")
	}
	for _, scope := range scopes {
		if err := oauth.CheckScope(scope); err != nil {
			return invalid("scopes", err.Error())
		}
	}
	return nil
}

// tokenError is profileError with a suggestion where the profile is not there.
func tokenError(ctx context.Context, h house, name string, err error) error {
	if errors.Is(err, store.ErrNotExist) && !errors.As(err, new(*broker.SubjectError)) {
		return h.noSuchProfile(ctx, name)
	}
	return profileError(name, err)
}

// noSuchProfile names the nearest profile that there is.
func (h house) noSuchProfile(ctx context.Context, name string) error {
	var names []string
	if entries, err := h.profiles.List(ctx); err == nil {
		for _, e := range entries {
			names = append(names, e.Name)
		}
		if len(names) == 0 {
			if elsewhere := h.d.elsewhere(ctx); elsewhere != "" {
				return failure(tokendv1.Reason_REASON_SETTINGS_INVALID, elsewhere, "profile", name)
			}
		}
	}
	return failure(tokendv1.Reason_REASON_PROFILE_NOT_FOUND, "no such profile",
		"profile", name, "suggestion", profile.Nearest(name, names))
}
