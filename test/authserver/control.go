package authserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// control is what can be posted to /_control.
type control struct {
	// Client is whose script it is; any client's if empty.
	Client string `json:"client"`
	// Then is appended to the list of answers.
	Then []Answer `json:"then"`
	// Always, if there, becomes the standing answer.
	Always *Answer `json:"always"`
	// Approve and Deny are a user code, or "*", for ApproveDevice and
	// DenyDevice.
	Approve string `json:"approve"`
	Deny    string `json:"deny"`
	// RotateNonce makes new nonces for DPoP proofs.
	RotateNonce bool `json:"rotate_nonce"`
	// Release lets go what hangs, after everything else.
	Release bool `json:"release"`
}

// serveControl serves what the package's comment says about the paths that
// begin with /_.
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
		writeJSON(w, s.Requests())
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
			writeJSON(w, counts)
		}
	case "GET /_ledger":
		s.serveLedger(w, r.URL.Query())
	case "POST /_certificate":
		cert, key, err := s.ClientCertificate(r.URL.Query().Get("cn"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		writeJSON(w, map[string]string{"certificate": string(cert), "key": string(key)})
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
	if c.Approve != "" {
		if err := s.ApproveDevice(c.Approve); err != nil {
			return err
		}
	}
	if c.Deny != "" {
		if err := s.DenyDevice(c.Deny); err != nil {
			return err
		}
	}
	if c.RotateNonce {
		s.RotateNonce()
	}
	if c.Release {
		s.Release()
	}
	return nil
}

func (s *Server) serveLedger(w http.ResponseWriter, q url.Values) {
	l := s.Ledger(q.Get("client"))
	switch count := q.Get("count"); count {
	case "":
		writeJSON(w, l)
	case "issued":
		fmt.Fprintln(w, l.Issued)
	case "spent":
		fmt.Fprintln(w, l.Spent)
	case "spent_twice":
		fmt.Fprintln(w, l.SpentTwice)
	case "valid":
		fmt.Fprintln(w, l.Valid)
	default:
		http.Error(w, "no such count", http.StatusBadRequest)
	}
}
