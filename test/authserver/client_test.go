package authserver

import (
	"net/url"
	"strings"
	"testing"
)

func TestClientAuthentication(t *testing.T) {
	const id, weird = "a:b+%", `p@ss:w/rd +%25=&?#;"\~`
	s := Start(t, Config{Clients: []Client{
		dev,
		{ID: id, Secret: weird},
		{ID: "raw", Secret: weird, Auth: AuthRaw},
		{ID: "post", Secret: weird, Auth: AuthPost},
	}})
	const grant = "grant_type=client_credentials"
	enc := url.QueryEscape
	form := func(id, secret string) string {
		return grant + "&client_id=" + enc(id) + "&client_secret=" + enc(secret)
	}
	const challenge = `Basic realm="authserver"`
	for _, tt := range []struct {
		name, authorization, body string
		status                    int
		code, challenge           string
	}{
		{"basic", basic("dev", secret), grant, 200, "", ""},
		{"basic, scheme in lower case", "basic" + basic("dev", secret)[5:], grant, 200, "", ""},
		{"basic, client_id in the body too", basic("dev", secret), grant + "&client_id=dev", 200, "", ""},
		{"basic, form-encoded", basic(enc(id), enc(weird)), grant, 200, "", ""},
		{"basic, spaces as %20", basic(enc(id), strings.ReplaceAll(enc(weird), "+", "%20")), grant, 200, "", ""},
		{"basic, encoded as a path", basic(enc(id), url.PathEscape(weird)), grant, 401, "invalid_client", challenge},
		{"basic, sent raw", basic(id, weird), grant, 401, "invalid_client", challenge},
		{"basic, wrong secret", basic("dev", "wrong"), grant, 401, "invalid_client", challenge},
		{"basic, beginning of the secret", basic("dev", secret[:3]), grant, 401, "invalid_client", challenge},
		{"basic, no secret", basic("dev", ""), grant, 401, "invalid_client", challenge},
		{"basic, unknown client", basic("nobody", secret), grant, 401, "invalid_client", challenge},
		{"basic, nobody without secret", basic("", ""), grant, 401, "invalid_client", challenge},
		{"basic, bad base64", "Basic ***", grant, 401, "invalid_client", challenge},
		{"basic, no colon", "Basic ZGV2", grant, 401, "invalid_client", challenge},
		{"basic, bad form-encoding", basic("dev", "%zz"), grant, 401, "invalid_client", challenge},
		{"another scheme", "Bearer abc", grant, 401, "invalid_client", challenge},
		{"raw", basic("raw", weird), grant, 200, "", ""},
		{"raw, form-encoded", basic("raw", enc(weird)), grant, 401, "invalid_client", challenge},
		{"post", "", form("post", weird), 200, "", ""},
		{"post, wrong secret", "", form("post", "wrong"), 400, "invalid_client", ""},
		{"post, unknown client", "", form("nobody", weird), 400, "invalid_client", ""},
		{"post, but registered for basic", "", form("dev", secret), 400, "invalid_client", ""},
		{"basic, but registered for post", basic("post", enc(weird)), grant, 401, "invalid_client", challenge},
		{"both", basic("dev", secret), form("dev", secret), 400, "invalid_request", ""},
		{"both, of another client", basic("dev", secret), form("post", weird), 400, "invalid_request", ""},
		{"basic, another client_id in the body", basic("dev", secret), grant + "&client_id=post", 400, "invalid_request", ""},
		{"none", "", grant, 401, "invalid_client", challenge},
		{"only client_id", "", grant + "&client_id=dev", 401, "invalid_client", challenge},
	} {
		r := do(t, post(t, s.TokenURL, tt.authorization, tt.body))
		code, _ := r.json(t)["error"].(string)
		if r.status != tt.status || code != tt.code || r.header.Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s: %d %q %q, want %d %q %q", tt.name, r.status, code, r.header.Get("WWW-Authenticate"),
				tt.status, tt.code, tt.challenge)
		}
	}

	twice := post(t, s.TokenURL, basic("dev", secret), grant)
	twice.Header.Add("Authorization", basic("dev", secret))
	if r := do(t, twice); r.status != 400 || r.json(t)["error"] != "invalid_request" {
		t.Errorf("two Authorization headers: %d %s", r.status, r.body)
	}
}
