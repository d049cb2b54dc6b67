package authserver

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// A device is a device authorization (RFC 8628).
type device struct {
	userCode string
	grant    *grant
	expires  time.Time
	interval time.Duration
	polled   time.Time // zero before the first poll
	verdict  string    // "", approved, denied or used
}

const (
	deviceApproved = "approved"
	deviceDenied   = "denied"
	deviceUsed     = "used"
)

// authorizeDevice is the endpoint of RFC 8628 3.1.
func (s *Server) authorizeDevice(x *exchange, r *http.Request, _ Answer) response {
	if resp := refuseForm(x, r); resp != nil {
		return *resp
	}
	c, f := s.authenticate(r)
	if f != nil {
		return f.response()
	}
	if !c.may(grantDevice) {
		f = &failure{code: "unauthorized_client", description: "the client may not use device codes"}
		return f.response()
	}
	scope, f := c.grantScope(r.PostForm.Get("scope"))
	if f != nil {
		return f.response()
	}
	audience, f := audienceOf(r.PostForm)
	if f != nil {
		return f.response()
	}
	deviceCode, userCode := rand.Text(), newUserCode()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices[deviceCode] = &device{
		userCode: userCode,
		grant:    &grant{client: c.ID, subject: Subject, scope: scope, audience: audience},
		expires:  time.Now().Add(s.cfg.DeviceLifetime),
		interval: s.cfg.DeviceInterval,
	}
	page := s.Issuer + "/device"
	return jsonResponse(http.StatusOK, map[string]any{
		"device_code":               deviceCode,
		"user_code":                 userCode,
		"verification_uri":          page,
		"verification_uri_complete": page + "?user_code=" + url.QueryEscape(userCode),
		"expires_in":                int64(s.cfg.DeviceLifetime / time.Second),
		"interval":                  int64(s.cfg.DeviceInterval / time.Second),
	})
}

// newUserCode has no vowels in it, by RFC 8628 6.1.
func newUserCode() string {
	const letters = "BCDFGHJKLMNPQRSTVWXZ"
	text := make([]byte, 8)
	rand.Read(text)
	for i, b := range text {
		text[i] = letters[int(b)%len(letters)]
	}
	return string(text[:4]) + "-" + string(text[4:])
}

// devicePage is where the user is sent. It decides nothing: ApproveDevice and
// DenyDevice do.
func (s *Server) devicePage(_ *exchange, r *http.Request, _ Answer) response {
	if r.Method != http.MethodGet {
		return notAllowed("GET")
	}
	return htmlResponse(http.StatusOK, "Enter the code that your device shows.")
}

// ApproveDevice consents to the device authorization that is pending with a
// user code, or with "*" to all that are.
func (s *Server) ApproveDevice(userCode string) error {
	return s.decideDevice(userCode, deviceApproved)
}

// DenyDevice refuses likewise.
func (s *Server) DenyDevice(userCode string) error { return s.decideDevice(userCode, deviceDenied) }

func (s *Server) decideDevice(userCode, verdict string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, d := range s.devices {
		if d.verdict == "" && time.Now().Before(d.expires) && (userCode == "*" || userCode == d.userCode) {
			d.verdict = verdict
			found = true
		}
	}
	if !found {
		return fmt.Errorf("no device authorization is pending with user code %q", userCode)
	}
	return nil
}

// pollLocked implements RFC 8628 3.4 and 3.5.
func (s *Server) pollLocked(q grantRequest) (issued, *failure) {
	refuse := func(code, why string) (issued, *failure) {
		return issued{}, &failure{code: code, description: why}
	}
	d := s.devices[q.form.Get("device_code")]
	if d == nil || d.grant.client != q.client.ID || d.verdict == deviceUsed {
		return refuse("invalid_grant", "not a device code of this client")
	}
	early := !d.polled.IsZero() && q.now.Before(d.polled.Add(d.interval))
	d.polled = q.now
	switch {
	case !q.now.Before(d.expires):
		return refuse("expired_token", "the device code has expired")
	case early:
		d.interval += 5 * time.Second
		return refuse("slow_down", fmt.Sprintf("not before %v have passed", d.interval))
	case d.verdict == deviceDenied:
		return refuse("access_denied", "the user said no")
	case d.verdict == "":
		return refuse("authorization_pending", "the user has not decided")
	}
	audience, f := d.grant.narrowAudience(q)
	if f != nil {
		return issued{}, f
	}
	d.verdict = deviceUsed
	t := s.issueLocked(q, d.grant, d.grant.scope, audience)
	t.refresh = s.issueRefreshLocked(q, d.grant)
	t.id = s.idToken(d.grant, d.grant.scope, q.now)
	return t, nil
}
