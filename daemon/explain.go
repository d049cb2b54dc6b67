package daemon

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	tokendv1 "tokend/proto/tokend/v1"
)

var levels = map[broker.Level]tokendv1.Finding_Level{
	broker.Info:    tokendv1.Finding_LEVEL_INFO,
	broker.OK:      tokendv1.Finding_LEVEL_OK,
	broker.Warning: tokendv1.Finding_LEVEL_WARNING,
	broker.Problem: tokendv1.Finding_LEVEL_PROBLEM,
}

func (s *tokens) ExplainToken(ctx context.Context, req *tokendv1.ExplainTokenRequest) (*tokendv1.ExplainTokenResponse, error) {
	r, err := brokerRequest(&tokendv1.GetTokenRequest{
		Profile: req.GetProfile(), Scopes: req.GetScopes(), Audience: req.GetAudience(), Resource: req.GetResource()})
	if err != nil {
		return nil, err
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	e, err := h.broker.Explain(ctx, r, req.GetLive())
	if err != nil {
		return nil, tokenError(ctx, h, r.Profile, err)
	}
	resp := &tokendv1.ExplainTokenResponse{Curl: e.Curl}
	for _, f := range e.Findings {
		resp.Findings = append(resp.Findings, &tokendv1.Finding{Level: levels[f.Level], Topic: f.Topic, Text: cut(f.Text, maxLine)})
	}
	now, st := time.Now(), e.Standing
	switch {
	case st.Token != nil:
		resp.Fingerprint = st.Token.Fingerprint
		resp.ExpiresAt = timestamppb.New(now.Add(st.Token.Remaining))
	case st.Err != nil:
		resp.Problem = problem(r.Profile, tokenError(ctx, h, r.Profile, st.Err))
	}
	if st.Renews > 0 {
		resp.RenewsAt = timestamppb.New(now.Add(st.Renews))
	}
	return resp, nil
}
