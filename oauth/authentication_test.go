package oauth

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bodies gives the forms that s was sent.
func bodies(t *testing.T, s *server) []url.Values {
	t.Helper()
	var forms []url.Values
	for _, request := range s.seen() {
		_, body, _ := strings.Cut(request, "\r\n\r\n")
		form, err := url.ParseQuery(body)
		if err != nil {
			t.Fatal(err)
		}
		forms = append(forms, form)
	}
	return forms
}

func TestClientAssertions(t *testing.T) {
	const secret = "hunter2-correct-horse-battery-st"
	key, err := ParseKey(NewSecret(rfc8037), "key-1", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name   string
		client Client
		public any
		header map[string]any
	}{
		{"private_key_jwt", Client{Key: key, Auth: PrivateKeyJWT}, key.private.Public(), map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": "key-1"}},
		{"chosen for a key", Client{Key: key}, key.private.Public(), map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": "key-1"}},
		{"client_secret_jwt", Client{Secret: NewSecret(secret), Auth: ClientSecretJWT}, []byte(secret), map[string]any{"alg": "HS256", "typ": "JWT"}},
	} {
		for _, audience := range []string{"", "https://as.example"} {
			s, base := answering(t, ok(goodAnswer))
			c := row.client
			c.ID, c.TokenURL, c.AssertionAudience = "app:é", base.TokenURL, audience
			before := time.Now().Unix()
			seen := make(map[any]bool)
			for range 2 {
				if _, err := c.Token(t.Context(), request); err != nil {
					t.Fatal(err)
				}
			}
			for i, form := range bodies(t, s) {
				header, claims := verified(t, form.Get("client_assertion"), row.public)
				if diff := cmp.Diff(row.header, header); diff != "" {
					t.Errorf("%s: %s", row.name, diff)
				}
				iat, _ := claims["iat"].(float64)
				if int64(iat) < before || int64(iat) > time.Now().Unix() || claims["exp"] != iat+60 {
					t.Errorf("%s: iat %v, exp %v", row.name, claims["iat"], claims["exp"])
				}
				jti, _ := claims["jti"].(string)
				if len(jti) < 22 || seen[jti] {
					t.Errorf("%s: jti %q", row.name, jti)
				}
				seen[jti] = true
				for _, name := range []string{"iat", "exp", "jti"} {
					delete(claims, name)
				}
				want := map[string]any{"iss": "app:é", "sub": "app:é", "aud": base.TokenURL}
				if audience != "" {
					want["aud"] = audience
				}
				if diff := cmp.Diff(want, claims); diff != "" {
					t.Errorf("%s: %s", row.name, diff)
				}
				assertion := form.Get("client_assertion")
				if got, want := s.seen()[i], wire(s.addr, "", "grant_type=client_credentials&client_id=app%3A%C3%A9"+
					"&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion="+assertion); got != want {
					t.Errorf("%s: got %q, want %q", row.name, got, want)
				}
			}
		}
	}
}

// The credentials of every grant, and what is none, come back in a description.
func TestEchoedParametersAreWithheld(t *testing.T) {
	for name, shown := range map[string]bool{
		"code": false, "code_verifier": false, "refresh_token": false, "device_code": false,
		"assertion": false, "subject_token": false, "actor_token": false,
		"redirect_uri": true, "subject_token_type": true, "actor_token_type": true, "requested_token_type": true,
	} {
		const value = "urn:hunter2-correct-horse"
		_, c := answering(t, status("400 Bad Request", `{"error":"invalid_request","error_description":"no `+value+`"}`))
		c.Secret = Secret{}
		_, err := c.Token(t.Context(), Request{Grant: "g", Params: url.Values{name: {value}}})
		want := withheld
		if shown {
			want = "no " + value
		}
		var e *Error
		if !errors.As(err, &e) || e.Description != want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestEchoedAssertionIsWithheld(t *testing.T) {
	key, err := NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nil, func(request string) string {
		_, assertion, _ := strings.Cut(request, "client_assertion=")
		signature := assertion[strings.LastIndex(assertion, "."):]
		return status("401 Unauthorized", fmt.Sprintf(`{"error":"invalid_client","error_description":"%s"}`, signature))
	})
	c := &Client{ID: "app", Key: key, TokenURL: "http://" + s.addr + "/token"}
	_, err = c.Token(t.Context(), request)
	var e *Error
	if !errors.As(err, &e) || e.Code != "invalid_client" || e.Description != withheld {
		t.Errorf("got %v", err)
	}
}
