package authserver

import (
	"crypto/rand"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// pushedLifetime is that of a request_uri.
const pushedLifetime = time.Minute

// pushed is an authorization request that came before (RFC 9126).
type pushed struct {
	client  string
	form    url.Values
	expires time.Time
}

// pushAuthorization is the endpoint of RFC 9126 2.
func (s *Server) pushAuthorization(x *exchange, r *http.Request, _ Answer) response {
	if resp := refuseForm(x, r); resp != nil {
		return *resp
	}
	c, f := s.authenticate(r)
	if f != nil {
		return f.response()
	}
	jkt, f := s.checkProof(r, "")
	if f != nil {
		return f.response()
	}
	form := maps.Clone(r.PostForm) // the log has the other
	// RFC 9449 10.1: a proof says dpop_jkt too.
	if asked := form.Get("dpop_jkt"); jkt != "" && asked == "" {
		form.Set("dpop_jkt", jkt)
	} else if jkt != "" && asked != jkt {
		f = &failure{code: "invalid_dpop_proof", description: "dpop_jkt is not that of the proof's key"}
		return f.response()
	}
	if form.Has("request_uri") {
		f = &failure{code: "invalid_request", description: "a pushed request has no request_uri"}
		return f.response()
	}
	if f = c.checkRedirect(form); f != nil {
		return f.response()
	}
	if _, f = s.checkAuthorization(c, form); f != nil {
		return f.response()
	}
	uri := "urn:ietf:params:oauth:request_uri:" + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushed[uri] = pushed{c.ID, form, time.Now().Add(pushedLifetime)}
	return jsonResponse(http.StatusCreated, map[string]any{
		"request_uri": uri, "expires_in": int64(pushedLifetime / time.Second),
	})
}

// takePushed returns the parameters that the client pushed, once.
func (s *Server) takePushed(c Client, uri []string) (url.Values, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(uri) != 1 {
		return nil, false
	}
	p, ok := s.pushed[uri[0]]
	if !ok || p.client != c.ID || !time.Now().Before(p.expires) {
		return nil, false
	}
	delete(s.pushed, uri[0])
	return p.form, true
}
