package login_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/login"
	"tokend/oauth"
	"tokend/test/authserver"
)

func TestDevice(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}, DeviceInterval: time.Second})
	p := prepare(t, s, "OAUTH2_GRANT=device_code", "OAUTH2_RESOURCE="+s.ResourceURL, "OAUTH2_EXTRA_tenant=x")
	l := begin(t, login.Device, p, "read", "write")
	code := next[login.ShowCode](l)
	if code.URL != s.Issuer+"/device" || code.CompleteURL != code.URL+"?user_code="+code.UserCode {
		t.Errorf("%+v", code)
	}
	if left := time.Until(code.Expires); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("expires in %v", left)
	}
	// Approved once the client has been told to wait.
	s.AnyClient().Then(authserver.Answer{Status: 503})
	if err := s.Await(t.Context(), "/token", 2); err != nil {
		t.Fatal(err)
	}
	if err := s.ApproveDevice(code.UserCode); err != nil {
		t.Fatal(err)
	}
	token, err := l.end()
	if err != nil || token.AccessToken.IsZero() || token.RefreshToken.IsZero() {
		t.Fatal(token, err)
	}
	if diff := cmp.Diff(url.Values{
		"client_id": {"app"}, "scope": {"read write"}, "resource": {s.ResourceURL}, "tenant": {"x"},
	}, lastRequest(t, s, "/device_authorization").Form); diff != "" {
		t.Error(diff)
	}
	form := lastRequest(t, s, "/token").Form
	if form.Get("device_code") == "" {
		t.Error("no device_code in the token request")
	}
	form.Del("device_code")
	if diff := cmp.Diff(url.Values{
		"grant_type": {oauth.GrantDeviceCode}, "client_id": {"app"}, "resource": {s.ResourceURL}, "tenant": {"x"},
	}, form); diff != "" {
		t.Error(diff)
	}
}

func TestDeviceRefused(t *testing.T) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{app}, DeviceInterval: time.Second, DeviceLifetime: 2 * time.Second})
	p := prepare(t, s, "OAUTH2_GRANT=device_code")
	denied, expired := begin(t, login.Device, p), begin(t, login.Device, prepare(t, s, "OAUTH2_GRANT=device_code"))
	if err := s.DenyDevice(next[login.ShowCode](denied).UserCode); err != nil {
		t.Fatal(err)
	}
	if token, err := denied.end(); !errors.Is(err, login.ErrDenied) || token != nil {
		t.Error(token, err)
	}
	next[login.ShowCode](expired)
	if token, err := expired.end(); !errors.Is(err, login.ErrExpired) || token != nil {
		t.Error(token, err)
	}

	var failed *oauth.Error
	s.AnyClient().Then(authserver.Answer{Endpoint: "device_authorization", Error: "unauthorized_client"})
	if _, err := begin(t, login.Device, p).end(); !errors.As(err, &failed) || failed.Code != "unauthorized_client" {
		t.Error(err)
	}

	broken := errors.New("nobody there")
	if _, err := login.Device(t.Context(), p, nil, login.Person{Tell: func(login.Event) error { return broken }}); !errors.Is(err, broken) {
		t.Error(err)
	}

	p.Endpoints.DeviceAuthorization = ""
	if _, err := begin(t, login.Device, p).end(); err == nil || err.Error() != "OAUTH2_DEVICE_URL: the server names no device authorization endpoint (RFC 8628 section 3.1)" {
		t.Error(err)
	}
}
