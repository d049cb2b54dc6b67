package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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
	if errors.Is(err, store.ErrNotExist) {
		return nil, noSuchProfile(ctx, h.profiles, r.Profile)
	}
	if err != nil {
		return nil, profileError(r.Profile, err)
	}
	access := t.Access.Reveal()
	sum := sha256.Sum256([]byte(access))
	return &tokendv1.GetTokenResponse{
		AccessToken:    access,
		TokenType:      t.Type,
		ExpiresAt:      timestamppb.New(time.Now().Add(t.Remaining)),
		ExpiresIn:      durationpb.New(t.Remaining),
		Lifetime:       durationpb.New(t.Lifetime),
		Scopes:         t.Scopes,
		ApiOrigins:     t.APIOrigins,
		Fingerprint:    hex.EncodeToString(sum[:16]),
		ExpiryAssumed:  t.ExpiryAssumed,
		Degraded:       t.Degraded,
		Warning:        t.Warning,
		ProfileVersion: string(t.Version),
	}, nil
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
	if len(r.Scopes) > maxScopes {
		return r, invalid("scopes", "too many")
	}
	for _, scope := range r.Scopes {
		if err := oauth.CheckScope(scope); err != nil {
			return r, invalid("scopes", err.Error())
		}
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

// noSuchProfile names the nearest profile that there is.
func noSuchProfile(ctx context.Context, s store.Store, name string) error {
	var names []string
	if entries, err := s.List(ctx); err == nil {
		for _, e := range entries {
			names = append(names, e.Name)
		}
	}
	return failure(tokendv1.Reason_REASON_PROFILE_NOT_FOUND, "no such profile",
		"profile", name, "suggestion", profile.Nearest(name, names))
}
