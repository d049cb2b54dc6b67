package authserver

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
)

// signUp makes a client for a user's name and password, as some services did
// before RFC 7591. The client authenticates with client_key and client_secret
// by Basic, and gets refresh tokens with client_credentials; client_id is a name
// that nothing asks for.
func (s *Server) signUp(_ *exchange, r *http.Request, _ Answer) response {
	if r.Method != http.MethodPost {
		return notAllowed("POST")
	}
	refuse := func(status int, code string) response { return jsonResponse(status, map[string]string{"error": code}) }
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/json" {
		return refuse(http.StatusBadRequest, "invalid_request")
	}
	var user struct{ Username, Password string }
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&user); err != nil || user.Username == "" || user.Password == "" {
		return refuse(http.StatusBadRequest, "invalid_request")
	}
	if s.cfg.Users[user.Username] != user.Password {
		return refuse(http.StatusUnauthorized, "invalid_credentials")
	}
	c := Client{ID: rand.Text(), Secret: rand.Text(), RefreshAlways: true}
	if err := c.check(); err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.ID] = c
	return jsonResponse(http.StatusCreated, map[string]string{
		"client_id": rand.Text(), "client_key": c.ID, "client_secret": c.Secret,
	})
}
