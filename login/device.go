package login

import (
	"context"
	"errors"
	"net/url"
	"time"

	"tokend/broker"
	"tokend/oauth"
)

const (
	slowDown   = 5 * time.Second // RFC 8628 section 3.5
	maxBackOff = time.Minute     // so that an approval is not noticed long after it was given
)

// Device logs in with a code that the person types in on any device (RFC 8628)
// and asks for exactly these scopes. Errors: [ErrDenied], [ErrExpired], an
// *oauth.Error, the context's, that of Tell, and others that are one line. p is
// for this login alone.
func Device(ctx context.Context, p *broker.Prepared, scopes []string, who Person) (*oauth.Token, error) {
	endpoint := p.Endpoints.DeviceAuthorization
	if endpoint == "" {
		return nil, missing("OAUTH2_DEVICE_URL", "the server names no device authorization endpoint (RFC 8628 section 3.1)")
	}
	request := p.Profile.Request
	d, err := p.Client.AuthorizeDevice(ctx, endpoint, oauth.Request{
		Scopes:   scopes,
		Audience: request.Audience,
		Resource: request.Resource,
		Extra:    request.Extra,
	})
	if err != nil {
		return nil, err
	}
	d.Life = min(d.Life, loginTime)
	err = who.Tell(ShowCode{
		UserCode:    d.UserCode,
		URL:         d.URL,
		CompleteURL: d.CompleteURL,
		Expires:     time.Now().Add(d.Life),
	})
	if err != nil {
		return nil, err
	}
	return poll(ctx, d, func() (*oauth.Token, error) {
		return p.Token(ctx, oauth.Request{
			Grant:    oauth.GrantDeviceCode,
			Params:   url.Values{"device_code": {d.Code.Reveal()}},
			Audience: request.Audience,
			Resource: request.Resource,
			Extra:    request.Extra,
		})
	})
}

// poll asks until there is an answer (RFC 8628 section 3.5).
func poll(ctx context.Context, d *oauth.Device, ask func() (*oauth.Token, error)) (*oauth.Token, error) {
	// A question once asked is not cut short by the code's end: the answer may
	// be the token.
	alive, cancel := context.WithTimeoutCause(ctx, d.Life, ErrExpired)
	defer cancel()
	interval, wait := d.Interval, d.Interval
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-alive.Done():
			timer.Stop()
			return nil, context.Cause(alive)
		}
		t, err := ask()
		var failed *oauth.Error
		switch {
		case err == nil:
			return t, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.As(err, &failed):
			return nil, err
		}
		switch failed.Code {
		case "authorization_pending":
			wait = interval
			continue
		case "slow_down":
			interval += slowDown // for this and all later requests
			wait = interval
			continue
		case "access_denied":
			return nil, ErrDenied
		case "expired_token":
			return nil, ErrExpired
		}
		if failed.Kind != oauth.Temporary {
			return nil, err
		}
		wait = max(min(2*wait, maxBackOff), interval, failed.RetryAfter)
	}
}
