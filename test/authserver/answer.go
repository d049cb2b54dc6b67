package authserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// An Answer says how one token request is answered. The zero value is the
// truth: a token for who may have one, else the error that is due.
//
// In JSON the names are in snake case and durations are strings, as "1.5s".
type Answer struct {
	// Delay comes before everything else.
	Delay time.Duration `json:"-"`
	// Hang waits for Server.Release, or for the client to give up.
	Hang bool `json:"hang,omitempty"`
	// Fault breaks the connection: ResetBefore, ResetInBody or
	// CloseAfterHeaders.
	Fault string `json:"fault,omitempty"`

	// Status, if not 0, makes the response Status, Header and Body, whoever
	// asks. A body that is JSON has that content type by default.
	Status int         `json:"status,omitempty"`
	Header http.Header `json:"header,omitempty"`
	Body   string      `json:"body,omitempty"`
	// EchoSecret makes it invalid_client, with the client's secret and its
	// whole Authorization header in the description.
	EchoSecret bool `json:"echo_secret,omitempty"`

	// SameToken gives the client the token that it got last, with what is
	// left of its lifetime, as long as that lives.
	SameToken bool `json:"same_token,omitempty"`
	// Set adds or replaces members of a successful response, with any JSON:
	// json.Number for a number that Go has no type for, nil for null. The
	// token is issued with a scope that is set; nothing else changes it.
	Set map[string]any `json:"set,omitempty"`
	// Drop removes members of a successful response.
	Drop []string `json:"drop,omitempty"`

	// Pad sends this many spaces before the body: JSON with more than anyone
	// wants to read.
	Pad int64 `json:"pad,omitempty"`
	// Trickle sends the body one byte at a time, with this pause before each.
	Trickle time.Duration `json:"-"`
}

// What Answer.Fault may be.
const (
	ResetBefore       = "reset-before"        // TCP reset once the request was read
	ResetInBody       = "reset-in-body"       // TCP reset after half of the body
	CloseAfterHeaders = "close-after-headers" // a proper close where the body should come
)

func (a Answer) check() error {
	switch a.Fault {
	case "", ResetBefore, ResetInBody, CloseAfterHeaders:
	default:
		return fmt.Errorf("fault %q: want %s, %s or %s", a.Fault, ResetBefore, ResetInBody, CloseAfterHeaders)
	}
	if a.Status != 0 && (a.Status < 200 || a.Status > 599) {
		return fmt.Errorf("status %d: want 200 to 599", a.Status)
	}
	if a.Status == 0 && (a.Header != nil || a.Body != "") {
		return errors.New("header or body without status")
	}
	changes := a.SameToken || a.Set != nil || a.Drop != nil
	if a.Status != 0 && a.EchoSecret || a.Status != 0 && changes || a.EchoSecret && changes {
		return errors.New("status, echo_secret and changes of a successful response exclude each other")
	}
	if a.Fault != "" && (a.Pad != 0 || a.Trickle != 0) {
		return errors.New("a fault excludes pad and trickle")
	}
	if a.Delay < 0 || a.Trickle < 0 || a.Pad < 0 {
		return errors.New("delay, trickle and pad must not be negative")
	}
	if _, err := json.Marshal(a.Set); err != nil {
		return fmt.Errorf("members to set: %w", err)
	}
	return nil
}

// UnmarshalJSON refuses members that it does not know.
func (a *Answer) UnmarshalJSON(data []byte) error {
	type fields Answer
	in := struct {
		*fields
		Delay   string `json:"delay"`
		Trickle string `json:"trickle"`
	}{fields: (*fields)(a)}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	d.UseNumber() // a number in Set is sent as it was written
	if err := d.Decode(&in); err != nil {
		return err
	}
	var err error
	if in.Delay != "" {
		if a.Delay, err = time.ParseDuration(in.Delay); err != nil {
			return err
		}
	}
	if in.Trickle != "" {
		if a.Trickle, err = time.ParseDuration(in.Trickle); err != nil {
			return err
		}
	}
	return a.check()
}

func (a Answer) literal() response {
	r := response{a.Status, http.Header{}, []byte(a.Body)}
	if json.Valid(r.body) {
		r.header.Set("Content-Type", "application/json")
	}
	copyHeader(r.header, a.Header)
	return r
}
