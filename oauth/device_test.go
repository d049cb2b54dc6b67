package oauth

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAuthorizeDevice(t *testing.T) {
	request := Request{
		Grant: GrantDeviceCode, Params: url.Values{"device_code": {"an old one"}}, Scopes: []string{"openid", "read"},
		Audience: []string{"api"}, Resource: []string{"https://r.example/1"}, Extra: url.Values{"acr_values": {"2"}},
	}
	const body = "scope=openid+read&audience=api&resource=https%3A%2F%2Fr.example%2F1&acr_values=2"
	for method, row := range map[AuthMethod]struct{ authorization, body string }{
		ClientSecretBasic: {testUser, body},
		ClientSecretPost:  {"", body + "&client_id=app&client_secret=hunter2-correct-horse"},
		AuthNone:          {"", body + "&client_id=app"},
	} {
		s, c := answering(t, ok(`{"device_code":"D/1","user_code":"WDJB-MJHT","verification_uri":"https://as.example/device",
			"verification_uri_complete":"https://as.example/device?user_code=WDJB-MJHT","expires_in":1800,"interval":7}`))
		c.Auth = method
		got, err := c.AuthorizeDevice(t.Context(), "http://"+s.addr+"/device", request)
		if err != nil {
			t.Fatal(err)
		}
		want := &Device{
			Code: NewSecret("D/1"), UserCode: "WDJB-MJHT", URL: "https://as.example/device",
			CompleteURL: "https://as.example/device?user_code=WDJB-MJHT", Life: 30 * time.Minute, Interval: 7 * time.Second,
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Secret{})); diff != "" {
			t.Error(diff)
		}
		header := []string{testBoth, testForm}
		if row.authorization != "" {
			header = []string{testBoth, row.authorization, testForm}
		}
		if diff := cmp.Diff([]string{wireOf("POST", "/device", s.addr, row.body, header...)}, s.seen()); diff != "" {
			t.Error(diff)
		}
	}
}

// A client that has nothing to say but who it is.
func TestAuthorizeDeviceWithoutParameters(t *testing.T) {
	s, _ := answering(t, ok(`{"device_code":"d","user_code":"U","verification_uri":"http://localhost:1/","expires_in":1}`))
	c := Client{ID: "app"}
	if _, err := c.AuthorizeDevice(t.Context(), "http://"+s.addr+"/", Request{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{wireOf("POST", "/", s.addr, "client_id=app", testBoth, testForm)}, s.seen()); diff != "" {
		t.Error(diff)
	}
}

func TestAuthorizeDeviceAnswers(t *testing.T) {
	answer := func(changed ...string) string {
		members := map[string]string{"device_code": `"d"`, "user_code": `"U"`, "verification_uri": `"https://as.example/d"`, "expires_in": "60"}
		for i := 0; i < len(changed); i += 2 {
			members[changed[i]] = changed[i+1]
		}
		var list []string
		for name, v := range members {
			if v != "" {
				list = append(list, `"`+name+`":`+v)
			}
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	device := func(change func(*Device)) *Device {
		d := &Device{Code: NewSecret("d"), UserCode: "U", URL: "https://as.example/d", Life: time.Minute, Interval: 5 * time.Second}
		change(d)
		return d
	}
	const (
		noCode = "there is no usable device_code in the answer"
		noUser = "there is no usable user_code in the answer"
		noPage = "verification_uri is not an https URL"
		noTime = "expires_in is missing or no time"
	)
	for _, row := range []struct {
		answer string
		want   *Device
		odd    string
	}{
		{answer(), device(func(*Device) {}), ""},
		{answer("interval", "0"), device(func(*Device) {}), ""},
		{answer("interval", "-1"), device(func(*Device) {}), ""},
		{answer("interval", `"x"`), device(func(*Device) {}), ""},
		{answer("interval", `"10"`), device(func(d *Device) { d.Interval = 10 * time.Second }), ""},
		{answer("interval", "1e9"), device(func(d *Device) { d.Interval = time.Hour }), ""},
		{answer("expires_in", "1e30"), device(func(d *Device) { d.Life = maxLifetime }), ""},
		{answer("verification_uri", "", "verification_url", `"https://www.google.com/device"`), device(func(d *Device) { d.URL = "https://www.google.com/device" }), ""},
		{answer("verification_uri", `"https://as.example/#/device"`), device(func(d *Device) { d.URL = "https://as.example/#/device" }), ""},
		{answer("verification_uri", `"http://127.0.0.1:8080/d"`), device(func(d *Device) { d.URL = "http://127.0.0.1:8080/d" }), ""},
		{answer("verification_uri_complete", `"https://as.example/d?c=U"`), device(func(d *Device) { d.CompleteURL = "https://as.example/d?c=U" }), ""},
		{answer("verification_uri_complete", `"http://as.example/d?c=U"`), device(func(*Device) {}), ""},
		{answer("verification_uri_complete", `"https://AS.example:443/d?c=U"`), device(func(d *Device) { d.CompleteURL = "https://AS.example:443/d?c=U" }), ""},
		{answer("verification_uri_complete", `"https://evil.example/d?c=U"`), device(func(*Device) {}), ""},
		{answer("verification_uri_complete", `"https://as.example:8443/d?c=U"`), device(func(*Device) {}), ""},
		{answer("verification_uri_complete", `7`), device(func(*Device) {}), ""},
		{answer("verification_uri_complete", `"https://as.example/?hunter2-correct-horse"`), device(func(*Device) {}), ""},
		{answer("device_code", ""), nil, noCode},
		{answer("device_code", "1"), nil, noCode},
		{answer("device_code", `"a\r\nb"`), nil, noCode},
		{answer("user_code", ""), nil, noUser},
		{answer("user_code", `["U"]`), nil, noUser},
		{answer("user_code", `"\u001b[2J"`), nil, noUser},
		{answer("user_code", `"é"`), nil, noUser},
		{answer("user_code", `"`+strings.Repeat("U", 65)+`"`), nil, noUser},
		{answer("user_code", `"hunter2-correct-horse"`), nil, noUser},
		{answer("verification_uri", ""), nil, noPage},
		{answer("verification_uri", `"http://as.example/d"`), nil, noPage},
		{answer("verification_uri", `"javascript:alert(1)"`), nil, noPage},
		{answer("verification_uri", `"https://u@as.example/d"`), nil, noPage},
		{answer("verification_uri", `"https://as.example/d\u0007"`), nil, noPage},
		{answer("verification_uri", `"https://as.example/#a\u0007"`), nil, noPage},
		{answer("verification_uri", `"https://as.example/#a b"`), nil, noPage},
		{answer("verification_uri", `"https://as.example/?hunter2-correct-horse"`), nil, noPage},
		{answer("verification_uri", `"https://as.example/`+strings.Repeat("x", 2048)+`"`), nil, noPage},
		{answer("expires_in", ""), nil, noTime},
		{answer("expires_in", "0"), nil, noTime},
		{answer("expires_in", "-5"), nil, noTime},
		{answer("expires_in", "[]"), nil, noTime},
	} {
		s, c := answering(t, ok(row.answer))
		got, err := c.AuthorizeDevice(t.Context(), "http://"+s.addr, Request{})
		if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(Secret{})); diff != "" {
			t.Errorf("%s: %s", row.answer, diff)
		}
		if row.odd == "" {
			if err != nil {
				t.Errorf("%s: %v", row.answer, err)
			}
			continue
		}
		want := "asking " + s.addr + " for a device code: " + row.odd + " (HTTP 200)"
		var e *Error
		if !errors.As(err, &e) || err.Error() != want || e.Kind != Malformed {
			t.Errorf("%s: got %v, want %s", row.answer, err, want)
		}
	}
}

// A server elsewhere sends nobody to what listens on this machine.
func TestAuthorizeDeviceOfHTTPSNamesNoPlainPage(t *testing.T) {
	s := newServer(t, systemCA.server(t, "127.0.0.1", time.Now().Add(time.Hour)), func(string) string {
		return ok(`{"device_code":"d","user_code":"U","verification_uri":"http://127.0.0.1:1/","expires_in":60}`)
	})
	_, err := testClient(Transport{Proxy: "direct"}).AuthorizeDevice(t.Context(), "https://"+s.addr, Request{})
	if want := "asking " + s.addr + " for a device code: verification_uri is not an https URL (HTTP 200)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// What is sent is not shown, whatever the client's id is.
func TestAuthorizeDeviceByAClientNamedInASecret(t *testing.T) {
	s := newServer(t, nil, func(string) string {
		return ok(`{"device_code":"d","user_code":"s3cr3t-e-s3cr3t-e-s3cr3t","verification_uri":"https://as.example/","expires_in":60}`)
	})
	for _, id := range []string{"another", "e", "s3cr3t"} {
		c := Client{ID: id}
		d, err := c.AuthorizeDevice(t.Context(), "http://"+s.addr, Request{Extra: url.Values{"api_key": {"s3cr3t-e-s3cr3t-e-s3cr3t"}}})
		if want := "asking " + s.addr + " for a device code: there is no usable user_code in the answer (HTTP 200)"; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, %v, want %s", id, d, err, want)
		}
	}
}

func TestAuthorizeDeviceRefusesExtra(t *testing.T) {
	_, err := testClient(Transport{}).AuthorizeDevice(t.Context(), "https://as.example", Request{Extra: url.Values{"scope": {"x"}}})
	if err == nil || err.Error() != `asking for a device code: "scope" cannot be an extra parameter` {
		t.Errorf("got %v", err)
	}
}
