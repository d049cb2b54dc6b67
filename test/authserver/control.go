package authserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
)

// control is what can be posted to /_control.
type control struct {
	// Client is whose script it is; any client's if empty.
	Client string `json:"client"`
	// Then is appended to the list of answers.
	Then []Answer `json:"then"`
	// Always, if there, becomes the standing answer.
	Always *Answer `json:"always"`
	// Release lets go what hangs, after the script was changed.
	Release bool `json:"release"`
}

// serveControl lets other processes on this machine do what tests in Go do by
// methods:
//
//	POST   /_control                     a control
//	GET    /_log                         Requests, without secrets
//	DELETE /_log                         Forget
//	GET    /_count                       {path: {client: count}}
//	GET    /_count?path=PATH[&client=ID] a number
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request) {
	if host, _, _ := net.SplitHostPort(r.RemoteAddr); !net.ParseIP(host).IsLoopback() {
		http.Error(w, "for this machine only", http.StatusForbidden)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /_control":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := s.control(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "GET /_log":
		writeJSON(w, http.StatusOK, s.Requests())
	case "DELETE /_log":
		s.Forget()
		w.WriteHeader(http.StatusNoContent)
	case "GET /_count":
		q := r.URL.Query()
		switch {
		case q.Has("client"):
			fmt.Fprintln(w, s.CountOf(q.Get("path"), q.Get("client")))
		case q.Has("path"):
			fmt.Fprintln(w, s.Count(q.Get("path")))
		default:
			counts := make(map[string]map[string]int)
			for _, r := range s.Requests() {
				if counts[r.Path] == nil {
					counts[r.Path] = make(map[string]int)
				}
				counts[r.Path][r.Client]++
			}
			writeJSON(w, http.StatusOK, counts)
		}
	default:
		http.Error(w, "no such control", http.StatusMethodNotAllowed)
	}
}

func (s *Server) control(body []byte) error {
	var c control
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return err
	}
	script := s.AnyClient()
	if c.Client != "" {
		script = s.Client(c.Client)
	}
	script.Then(c.Then...)
	if c.Always != nil {
		script.Always(*c.Always)
	}
	if c.Release {
		s.Release()
	}
	return nil
}
