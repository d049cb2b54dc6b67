package authserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Request is one that the server got, to whatever path. It has the secrets
// in it that the client sent; its JSON form has digests in their place.
type Request struct {
	Time   time.Time   `json:"time"` // when its body had been read
	Proto  string      `json:"proto"`
	Method string      `json:"method"`
	Path   string      `json:"path"`
	Query  url.Values  `json:"query"`
	Header http.Header `json:"header"` // with Host
	Form   url.Values  `json:"form"`
	// Client is who the request says it comes from.
	Client string `json:"client"`
	// Status is that of the answer; 0 if there is none, or none yet.
	Status int `json:"status"`
}

// open are the parameters whose values are no secrets.
var open = map[string]bool{
	"actor_token_type": true, "audience": true, "client_assertion_type": true, "client_id": true,
	"code_challenge_method": true, "grant_type": true, "redirect_uri": true, "requested_token_type": true,
	"resource": true, "response_type": true, "scope": true, "subject_token_type": true, "token_type_hint": true,
}

// MarshalJSON replaces values that are or may be secret by
// "sha256:" and the first 8 hex digits of their SHA-256; in an Authorization
// header after the scheme.
func (r Request) MarshalJSON() ([]byte, error) {
	type fields Request
	out := fields(r)
	out.Query = redact(r.Query)
	out.Form = redact(r.Form)
	out.Header = maps.Clone(r.Header)
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Dpop"} {
		values := slices.Clone(out.Header[name])
		for i, v := range values {
			scheme, secret, ok := strings.Cut(v, " ")
			if !ok {
				scheme, secret = "", v
			}
			values[i] = strings.TrimSpace(scheme + " " + digest(secret))
		}
		if values != nil {
			out.Header[name] = values
		}
	}
	return json.Marshal(out)
}

func redact(in url.Values) url.Values {
	out := make(url.Values)
	for name, values := range in {
		for _, v := range values {
			if !open[name] {
				v = digest(v)
			}
			out.Add(name, v)
		}
	}
	return out
}

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:4])
}

// Requests returns what the server got, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, len(s.log))
	for i, r := range s.log {
		all[i] = *r
	}
	return all
}

// Count returns how many requests there were to a path.
func (s *Server) Count(path string) int {
	n := 0
	for _, r := range s.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
}

// CountOf returns how many requests of a client there were to a path.
func (s *Server) CountOf(path, client string) int {
	n := 0
	for _, r := range s.Requests() {
		if r.Path == path && r.Client == client {
			n++
		}
	}
	return n
}

// Await returns when there were at least n requests to a path, answered or
// not, or with ctx's error.
func (s *Server) Await(ctx context.Context, path string, n int) error {
	for {
		s.mu.Lock()
		arrived := s.arrived
		s.mu.Unlock()
		if s.Count(path) >= n {
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Forget empties the log, and so the counts.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// maxForm is far above any form of a client that is in its right mind.
const maxForm = 1 << 20

// An exchange is a request with its place in the log, and the way to answer.
type exchange struct {
	http.ResponseWriter
	server   *Server
	request  *Request        // server.mu guards it
	release  <-chan struct{} // closed by the first Release after the request was logged
	client   string
	formErr  error
	hijacked bool
}

func (s *Server) record(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{ResponseWriter: w, server: s}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	x.formErr = r.ParseForm()
	got, _ := s.credentials(r)
	x.client = got.id
	if r.URL.Path == s.cfg.Path+"/authorize" && x.client == "" {
		x.client = r.URL.Query().Get("client_id")
	}
	header := r.Header.Clone()
	header.Set("Host", r.Host)
	x.request = &Request{
		Time:   time.Now(),
		Proto:  r.Proto,
		Method: r.Method,
		Path:   r.URL.Path,
		Query:  r.URL.Query(),
		Header: header,
		Form:   r.PostForm,
		Client: x.client,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x.release = s.release
	s.log = append(s.log, x.request)
	close(s.arrived)
	s.arrived = make(chan struct{})
	return x
}

// WriteHeader logs the status before the client can see it.
func (x *exchange) WriteHeader(status int) {
	x.setStatus(status)
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) setStatus(status int) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	x.request.Status = status
}

func (x *exchange) hijack() net.Conn {
	conn, _, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		panic(err) // every connection here is HTTP/1.1 over TCP
	}
	x.hijacked = true
	return conn
}
