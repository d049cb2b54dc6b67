package authserver

import (
	"net/url"
	"regexp"
	"testing"
	"testing/synctest"
	"time"
)

func startDevice(t *testing.T, s *Server) (form url.Values, userCode string) {
	t.Helper()
	r := sendForm(t, s, "/device_authorization", "", url.Values{"client_id": {"app"}, "scope": {"openid"}})
	m := r.json(t)
	code, _ := m["device_code"].(string)
	userCode, _ = m["user_code"].(string)
	if r.status != 200 || code == "" || !regexp.MustCompile(`^[B-Z]{4}-[B-Z]{4}$`).MatchString(userCode) ||
		m["verification_uri"] != s.Issuer+"/device" || m["verification_uri_complete"] != s.Issuer+"/device?user_code="+userCode ||
		m["expires_in"] != s.cfg.DeviceLifetime.Seconds() || m["interval"] != s.cfg.DeviceInterval.Seconds() {
		t.Fatalf("%d %s", r.status, r.body)
	}
	return url.Values{"grant_type": {grantDevice}, "client_id": {"app"}, "device_code": {code}}, userCode
}

func TestDevice(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app, {ID: "other", Auth: AuthNone}}, DeviceInterval: time.Second, DeviceLifetime: time.Minute})
	synctest.Test(t, func(t *testing.T) {
		form, userCode := startDevice(t, s)
		poll := func() reply { return sendForm(t, s, "/token", "", form) }
		wantError(t, "first poll", poll(), 400, "authorization_pending")
		time.Sleep(time.Second)
		wantError(t, "in time", poll(), 400, "authorization_pending")
		time.Sleep(time.Second - 1)
		wantError(t, "too fast", poll(), 400, "slow_down")
		time.Sleep(6*time.Second - 1)
		wantError(t, "5 s more", poll(), 400, "slow_down")
		time.Sleep(11 * time.Second)
		wantError(t, "another client", sendForm(t, s, "/token", "", with(form, map[string]string{"client_id": "other"})), 400, "invalid_grant")
		wantError(t, "another code", sendForm(t, s, "/token", "", with(form, map[string]string{"device_code": "guess"})), 400, "invalid_grant")
		wantError(t, "slow enough", poll(), 400, "authorization_pending")
		if err := s.ApproveDevice("BBBB-BBBB"); err == nil {
			t.Error("approved what is not there")
		}
		if err := s.ApproveDevice(userCode); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		got := wantTokens(t, poll())
		if got.Refresh == "" || got.ID == "" || !isLive(t, s, got.Access) {
			t.Errorf("%+v", got)
		}
		time.Sleep(11 * time.Second)
		wantError(t, "second use", poll(), 400, "invalid_grant")

		form, userCode = startDevice(t, s)
		if err := s.DenyDevice(userCode); err != nil {
			t.Fatal(err)
		}
		wantError(t, "denied", poll(), 400, "access_denied")
		if err := s.ApproveDevice(userCode); err == nil {
			t.Error("approved what was denied")
		}

		form, userCode = startDevice(t, s)
		time.Sleep(time.Minute)
		if err := s.ApproveDevice(userCode); err == nil {
			t.Error("approved what has expired")
		}
		wantError(t, "expired", poll(), 400, "expired_token")
	})
}

func TestDeviceRefusals(t *testing.T) {
	s := Start(t, Config{Clients: []Client{
		appWith(func(c *Client) { c.Scope = "read" }),
		{ID: "machine", Auth: AuthNone, Grants: []string{"authorization_code"}},
		dev,
	}})
	for _, tt := range []struct {
		form   url.Values
		status int
		code   string
	}{
		{url.Values{}, 401, "invalid_client"},
		{url.Values{"client_id": {"dev"}}, 401, "invalid_client"},
		{url.Values{"client_id": {"machine"}}, 400, "unauthorized_client"},
		{url.Values{"client_id": {"app"}, "scope": {"write"}}, 400, "invalid_scope"},
		{url.Values{"client_id": {"app"}, "resource": {"api"}}, 400, "invalid_target"},
		{url.Values{"client_id": {"app", "app"}}, 400, "invalid_request"},
	} {
		wantError(t, tt.form.Encode(), sendForm(t, s, "/device_authorization", "", tt.form), tt.status, tt.code)
	}
	for _, path := range []string{"/device_authorization", "/par", "/revoke"} {
		if r := do(t, get(t, s.Issuer+path, "")); r.status != 405 {
			t.Errorf("GET %s: %d", path, r.status)
		}
	}
	if r := do(t, get(t, s.Issuer+"/device", "")); r.status != 200 {
		t.Errorf("page: %d", r.status)
	}
	s.AnyClient().Then(Answer{Endpoint: "device_authorization", Drop: []string{"interval", "verification_uri_complete"}})
	r := sendForm(t, s, "/device_authorization", "", url.Values{"client_id": {"app"}})
	if m := r.json(t); r.status != 200 || m["interval"] != nil || m["verification_uri_complete"] != nil || m["device_code"] == nil {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestDeviceByControl(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	control := func(body string) int { return do(t, post(t, s.URL+"/_control", "", body)).status }
	for verdict, want := range map[string]string{"approve": "", "deny": "access_denied"} {
		for _, all := range []bool{true, false} {
			form, userCode := startDevice(t, s)
			if all {
				userCode = "*"
			}
			if status := control(`{"` + verdict + `":"` + userCode + `"}`); status != 204 {
				t.Fatalf("%s: %d", verdict, status)
			}
			r := sendForm(t, s, "/token", "", form)
			if want != "" {
				wantError(t, verdict, r, 400, want)
			} else {
				wantTokens(t, r)
			}
		}
		if status := control(`{"` + verdict + `":"*"}`); status != 400 {
			t.Errorf("%s nothing: %d", verdict, status)
		}
	}
}
