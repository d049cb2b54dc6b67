package oauth

import (
	"context"
	"net/url"
	"strings"
	"time"
)

// A Device is a device authorization (RFC 8628 section 3.2): what the person is
// to be shown, and what [GrantDeviceCode] asks for the token with. All of it but
// Code is fit to print.
type Device struct {
	Code        Secret        // device_code
	UserCode    string        // at most 64 printable ASCII characters
	URL         string        // where the person enters UserCode: https, or http on loopback
	CompleteURL string        // URL with the code in it, of the same form; empty: none that is usable
	Life        time.Duration // of both codes, from when the request was sent
	Interval    time.Duration // between two requests for the token, at least
}

const deviceInterval = 5 * time.Second // RFC 8628 section 3.2, where none is given

// AuthorizeDevice asks for a device code (RFC 8628 section 3.1). r's Grant and
// Params are not sent. Every error is an [*Error].
func (c *Client) AuthorizeDevice(ctx context.Context, endpoint string, r Request) (*Device, error) {
	f, secrets, err := Request{
		Grant: GrantDeviceCode, Scopes: r.Scopes, Audience: r.Audience, Resource: r.Resource, Extra: r.Extra,
	}.form()
	if err != nil {
		return nil, &Error{Op: "asking for a device code", Kind: Invalid, Err: err}
	}
	f = f[1:] // grant_type is the token request's
	p, e := c.post(ctx, outgoing{endpoint: endpoint, doing: "asking %s for a device code", form: f, secrets: secrets})
	if e != nil {
		return nil, e
	}
	members, e := p.object()
	if e != nil {
		return nil, e
	}
	d := new(Device)
	if odd := d.read(members, p.at, p.sent.in); odd != "" {
		return nil, p.errorf(p.op, Malformed, odd)
	}
	return d, nil
}

// read fills d from what endpoint answered, and says what makes the answer
// unusable, or "".
func (d *Device) read(members map[string]any, endpoint *url.URL, repeats func(string) bool) string {
	code, _ := members["device_code"].(string)
	if !isVSCHAR(code) {
		return "there is no usable device_code in the answer"
	}
	d.Code = NewSecret(code)
	d.UserCode, _ = members["user_code"].(string)
	if !isVSCHAR(d.UserCode) || len(d.UserCode) > 64 || repeats(d.UserCode) {
		return "there is no usable user_code in the answer"
	}
	d.URL, _ = members["verification_uri"].(string)
	if d.URL == "" {
		d.URL, _ = members["verification_url"].(string) // Google's name
	}
	page := pageOf(d.URL, endpoint)
	if page == nil || repeats(d.URL) {
		return "verification_uri is not an https URL"
	}
	// One is read and the other one opened: they must not be two servers'.
	text, _ := members["verification_uri_complete"].(string)
	if complete := pageOf(text, endpoint); complete != nil && origin(complete) == origin(page) && !repeats(text) {
		d.CompleteURL = text
	}
	if d.Life = lifetime(members["expires_in"]); d.Life <= 0 {
		return "expires_in is missing or no time"
	}
	if d.Interval = min(lifetime(members["interval"]), time.Hour); d.Interval <= 0 {
		d.Interval = deviceInterval
	}
	return ""
}

// pageOf parses raw, less its fragment, if it is fit to be shown and opened, and
// else gives nil: such a URL as the server of endpoint may name, but that it may
// have a fragment, as the pages of some servers have.
func pageOf(raw string, endpoint *url.URL) *url.URL {
	page, fragment, _ := strings.Cut(raw, "#")
	u, err := checkNamed(page, endpoint)
	if err != nil || len(raw) > maxNamed || fragment != "" && (!isVSCHAR(fragment) || strings.ContainsAny(fragment, ` "\`)) {
		return nil
	}
	return u
}

// lifetime reads a number of seconds as [Token]'s expires_in is read; zero where
// there is none.
func lifetime(v any) time.Duration {
	seconds, understood := number(v)
	if !understood || seconds <= 0 {
		return 0
	}
	return boundedLifetime(seconds)
}

// object gives the members of an answer of success, or the error that the answer is.
func (p reply) object() (map[string]any, *Error) {
	members, parsed := decodeObject(p.body)
	if e := p.refusal(p.op, members, parsed, p.sent); e != nil {
		return nil, e
	}
	return members, nil
}
