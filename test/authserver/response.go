package authserver

import (
	"encoding/json"
	"net/http"
)

// A failure is an error response by RFC 6749 5.2.
type failure struct {
	code, description string
	challenge         bool // 401 with WWW-Authenticate: Basic, instead of 400
}

func (f *failure) response() response {
	r := jsonResponse(http.StatusBadRequest, map[string]any{"error": f.code, "error_description": f.description})
	if f.challenge {
		r.status = http.StatusUnauthorized
		r.header.Set("WWW-Authenticate", `Basic realm="authserver"`)
	}
	return r
}

// A response is what is about to be sent.
type response struct {
	status int
	header http.Header
	body   []byte
}

func jsonResponse(status int, v any) response {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // Answer.check has tried what comes from outside
	}
	return response{status, http.Header{
		"Content-Type":  {"application/json"},
		"Cache-Control": {"no-store"},
		"Pragma":        {"no-cache"},
	}, body}
}

func (r response) write(w http.ResponseWriter) {
	copyHeader(w.Header(), r.header)
	w.WriteHeader(r.status)
	w.Write(r.body)
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[http.CanonicalHeaderKey(name)] = values
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	jsonResponse(status, v).write(w)
}
