package oauth

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIntrospect(t *testing.T) {
	// An id that is longer than what gives a secret away, and that Basic sends
	// in one with the secret.
	c := Client{ID: "6f9619ff-8b86-d011-b42d-00cf4fc964ff", Secret: NewSecret("hunter2-correct-horse"), Auth: ClientSecretBasic}
	token := NewSecret("AT-battery-staple-1234")
	s := newServer(t, nil, func(string) string {
		return ok(`{"active":true,"client_id":"6f9619ff-8b86-d011-b42d-00cf4fc964ff","username":"service-account-6f9619ff-8b86-d011-b42d-00cf4fc964ff",
			"exp":1419356238,"big":12345678901234567890,"scope":"a b","aud":["x","AT-battery-staple-1234"],"nested":{"you sent":"AT-BATTERY-staple-1234",
			"hunter2-correct-horse":1,"name":"José"},"basic":"6f9619ff-8b86-d011-b42d-00cf4fc964ff:hunter2-correct-horse",
			"header":"Basic NmY5NjE5ZmYtOGI4Ni1kMDExLWI0MmQtMDBjZjRmYzk2NGZmOmh1bnRlcjItY29ycmVjdC1ob3JzZQ=="}`)
	})
	got, err := c.Introspect(t.Context(), "http://"+s.addr+"/introspect", token, "access_token")
	if err != nil {
		t.Fatal(err)
	}
	want := &Introspection{Active: true, Claims: map[string]any{
		"active": true, "client_id": c.ID, "username": "service-account-" + c.ID,
		"exp": json.Number("1419356238"), "big": json.Number("12345678901234567890"), "scope": "a b",
		"aud": []any{"x", withheld}, "nested": map[string]any{"you sent": withheld, "name": "José"}, "basic": withheld, "header": withheld,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What is sent is withheld also where the client's id is a part of it.
func TestIntrospectByAClientNamedInTheToken(t *testing.T) {
	s := newServer(t, nil, func(string) string {
		return ok(`{"active":true,"client_id":"battery","jti":"AT-battery-staple-1234","x":"my-battery-secret-1"}`)
	})
	c := Client{ID: "battery", Secret: NewSecret("my-battery-secret-1")}
	got, err := c.Introspect(t.Context(), "http://"+s.addr, NewSecret("AT-battery-staple-1234"), "")
	want := &Introspection{Active: true, Claims: map[string]any{"active": true, "client_id": "battery", "jti": withheld, "x": withheld}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestTokenForms(t *testing.T) {
	for hint, body := range map[string]string{
		"":              "token=AT%2F1+x",
		"refresh_token": "token=AT%2F1+x&token_type_hint=refresh_token",
	} {
		s, c := answering(t, ok(`{"active":false}`))
		got, err := c.Introspect(t.Context(), "http://"+s.addr+"/i?x=1", NewSecret("AT/1 x"), hint)
		if diff := cmp.Diff(&Introspection{Claims: map[string]any{"active": false}}, got); diff != "" || err != nil {
			t.Error(diff, err)
		}
		if err := c.Revoke(t.Context(), "http://"+s.addr+"/i?x=1", NewSecret("AT/1 x"), hint); err != nil {
			t.Error(err)
		}
		want := wireOf("POST", "/i?x=1", s.addr, body, testBoth, testUser, testForm)
		if diff := cmp.Diff([]string{want, want}, s.seen()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestIntrospectionWithoutActive(t *testing.T) {
	for _, answer := range []string{`{}`, `{"active":"true"}`, `{"active":1}`, `{"active":null}`, `{"ACTIVE":true}`} {
		s, c := answering(t, ok(answer))
		got, err := c.Introspect(t.Context(), "http://"+s.addr, NewSecret("x"), "")
		var e *Error
		if want := "asking " + s.addr + " about a token: active is not true or false (HTTP 200)"; !errors.As(err, &e) || err.Error() != want || e.Kind != Malformed || got != nil {
			t.Errorf("%s: got %v, %v", answer, got, err)
		}
	}
}
