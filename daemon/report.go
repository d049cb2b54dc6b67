package daemon

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/broker"
	"tokend/oauth"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// maxChallenges is the size of all WWW-Authenticate values of an answer.
const maxChallenges = 8 << 10

var outcomes = map[broker.Outcome]tokendv1.ReportTokenResponse_Outcome{
	broker.Evicted:    tokendv1.ReportTokenResponse_OUTCOME_EVICTED,
	broker.Superseded: tokendv1.ReportTokenResponse_OUTCOME_SUPERSEDED,
	broker.Kept:       tokendv1.ReportTokenResponse_OUTCOME_KEPT,
	broker.TooSoon:    tokendv1.ReportTokenResponse_OUTCOME_TOO_SOON,
}

func (s *tokens) ReportToken(ctx context.Context, req *tokendv1.ReportTokenRequest) (*tokendv1.ReportTokenResponse, error) {
	name := req.GetProfile()
	if err := store.CheckName(name); err != nil {
		return nil, invalidName("profile", err)
	}
	r, err := brokerReport(req)
	if err != nil {
		return nil, err
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	came, err := h.broker.Report(ctx, name, r)
	if err != nil {
		return nil, tokenError(ctx, h, name, err)
	}
	resp := &tokendv1.ReportTokenResponse{
		Outcome: outcomes[came.Outcome],
		Message: cut(came.Message, maxLine),
		Error:   cut(came.Code, maxMeta),
		Scopes:  came.Scopes,
	}
	if came.RetryAfter > 0 {
		resp.RetryAfter = durationpb.New(came.RetryAfter)
	}
	s.d.log.Info("report answered", "profile", name, "outcome", resp.GetOutcome(), "by", caller(ctx))
	return resp, nil
}

// brokerReport checks a report before anything is done for it.
func brokerReport(req *tokendv1.ReportTokenRequest) (broker.Report, error) {
	r := broker.Report{Fingerprint: req.GetFingerprint(), Status: int(req.GetHttpStatus())}
	switch access := req.GetAccessToken(); {
	case (access == "") == (r.Fingerprint == ""):
		return r, invalid("access_token", "either it or its fingerprint is required")
	case access != "":
		r.Fingerprint = broker.Fingerprint(access)
	case !isFingerprint(r.Fingerprint):
		return r, invalid("fingerprint", "must be 32 digits of lower-case hex")
	}
	if r.Status != 0 && (r.Status < 100 || r.Status > 599) {
		return r, invalid("http_status", "must be between 100 and 599, or 0")
	}
	size := 0
	for _, v := range req.GetWwwAuthenticate() {
		size += len(v)
	}
	if size > maxChallenges {
		return r, invalid("www_authenticate", fmt.Sprintf("longer than %d bytes", maxChallenges))
	}
	r.Challenges = oauth.ParseChallenges(req.GetWwwAuthenticate())
	return r, nil
}

// isFingerprint says whether s can be what broker.Fingerprint gives.
func isFingerprint(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 32
}

func (s *tokens) ResetProfile(ctx context.Context, req *tokendv1.ResetProfileRequest) (*tokendv1.ResetProfileResponse, error) {
	name := req.GetProfile()
	if err := store.CheckName(name); err != nil {
		return nil, invalidName("profile", err)
	}
	h, err := s.d.opened()
	if err != nil {
		return nil, err
	}
	reopened, err := h.broker.Reset(ctx, name)
	if err != nil {
		return nil, tokenError(ctx, h, name, err)
	}
	s.d.log.Info("profile reset", "profile", name, "reopened", reopened, "by", caller(ctx))
	return &tokendv1.ResetProfileResponse{Reopened: reopened}, nil
}
