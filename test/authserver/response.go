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

// refuseForm returns the response to what is no proper form, and nil to what
// is one.
func refuseForm(x *exchange, r *http.Request) *response {
	if r.Method != http.MethodPost {
		resp := notAllowed("POST")
		return &resp
	}
	if x.formErr != nil {
		f := &failure{code: "invalid_request", description: x.formErr.Error()}
		resp := f.response()
		return &resp
	}
	if hasDuplicate(r.PostForm) {
		f := &failure{code: "invalid_request", description: "a parameter is there twice"}
		resp := f.response()
		return &resp
	}
	return nil
}

// hasDuplicate reports what RFC 6749 3.1 and 3.2 forbid; RFC 8707 2 and
// RFC 8693 2.1 except two parameters.
func hasDuplicate(form map[string][]string) bool {
	for name, values := range form {
		if len(values) > 1 && name != "resource" && name != "audience" {
			return true
		}
	}
	return false
}

func notAllowed(allow string) response {
	return response{http.StatusMethodNotAllowed, http.Header{"Allow": {allow}}, nil}
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
		panic(err) // Answer.check and Config.check have tried what comes from outside
	}
	return response{status, http.Header{
		"Content-Type":  {"application/json"},
		"Cache-Control": {"no-store"},
		"Pragma":        {"no-cache"},
	}, body}
}

func htmlResponse(status int, text string) response {
	return response{status, http.Header{
		"Content-Type":  {"text/html; charset=utf-8"},
		"Cache-Control": {"no-store"},
	}, []byte("<!doctype html><title>authserver</title><p>" + text + "</p>\n")}
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[http.CanonicalHeaderKey(name)] = values
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	r := jsonResponse(http.StatusOK, v)
	copyHeader(w.Header(), r.header)
	w.WriteHeader(r.status)
	w.Write(r.body)
}
