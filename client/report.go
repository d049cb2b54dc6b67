package client

import (
	"context"
	"strings"
	"time"

	"tokend/client/api"
)

// maxChallenges is how many bytes of challenges the daemon takes. Each value
// counts as two more, so that there is an end to empty ones.
const maxChallenges = 8 << 10

// Refusal is an API's answer to a request that a token came with.
type Refusal struct {
	Profile string // that the token is of
	// Fingerprint is the token's, see [Token]. The token itself is not sent.
	Fingerprint string
	// Status is the answer's HTTP status; 0: not known, taken for 401.
	Status int
	// Challenges are the values of its WWW-Authenticate fields (RFC 9110 section
	// 11.6.1, RFC 6750 section 3). What goes beyond 8 KiB is cut off.
	Challenges []string
}

// Reported is what came of a [Refusal].
type Reported struct {
	// Outcome is what to decide by. After [api.OutcomeEvicted] and
	// [api.OutcomeSuperseded] it is worth while to ask for another token and to
	// repeat the request, once.
	Outcome api.Outcome
	Message string // one line for a person
	Code    string // the challenge's error (RFC 6750 section 3.1), or ""
	// Scopes are those that the API asks for, where it names them
	// (insufficient_scope): a login with them is what helps.
	Scopes     []string
	RetryAfter time.Duration // with api.OutcomeTooSoon: until then no other token is made
}

// Report tells the daemon that an API has refused a token. What the API calls
// invalid is handed out no more, to nobody, and one other token is made for all
// callers; for what is not the token's fault nothing changes. Errors are as
// [Client.Token]'s.
func (c *Client) Report(ctx context.Context, r Refusal) (*Reported, error) {
	req := &api.ReportTokenRequest{
		Profile:         r.Profile,
		Fingerprint:     r.Fingerprint,
		HttpStatus:      int32(r.Status),
		WwwAuthenticate: challenges(r.Challenges),
	}
	resp := &api.ReportTokenResponse{}
	if err := c.Call(ctx, api.MethodReportToken, req, resp); err != nil {
		return nil, err
	}
	return &Reported{
		Outcome:    resp.Outcome,
		Message:    resp.Message,
		Code:       resp.Error,
		Scopes:     resp.Scopes,
		RetryAfter: resp.RetryAfter,
	}, nil
}

// challenges returns what of values can be sent: an API may send anything.
func challenges(values []string) []string {
	var fit []string
	room := maxChallenges
	for _, v := range values {
		v = strings.ToValidUTF8(v, "?") // no string of protobuf's otherwise
		if room -= 2; len(v) > room {
			v = strings.ToValidUTF8(v[:max(room, 0)], "")
		}
		if room <= 0 {
			break
		}
		fit = append(fit, v)
		room -= len(v)
	}
	return fit
}
