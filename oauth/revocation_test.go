package oauth

import (
	"errors"
	"testing"
	"time"
)

func TestRevoke(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
		ok(`{}`),
		ok(`{"error":""}`),
	} {
		s, c := answering(t, answer)
		if err := c.Revoke(t.Context(), "http://"+s.addr, NewSecret("RT"), ""); err != nil {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func TestRevokeErrors(t *testing.T) {
	s, c := answering(t, status("400 Bad Request", `{"error":"unsupported_token_type"}`))
	err := c.Revoke(t.Context(), "http://"+s.addr, NewSecret("RT"), "")
	var e *Error
	if !errors.As(err, &e) || e.Code != "unsupported_token_type" || e.Kind != Refused {
		t.Errorf("got %v", err)
	}
	s, c = answering(t, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 120\r\n\r\n")
	err = c.Revoke(t.Context(), "http://"+s.addr, NewSecret("RT"), "")
	if !errors.As(err, &e) || e.RetryAfter != 2*time.Minute || e.Kind != Temporary {
		t.Errorf("got %v", err)
	}
}
