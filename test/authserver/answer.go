package authserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// An Answer says how one request is answered. The zero value is the truth: a
// token for who may have one, else the error that is due.
//
// In JSON the names are in snake case and durations are strings, as "1.5s".
type Answer struct {
	// Endpoint is whose requests it answers: "token", also if empty,
	// "authorize", "par", "device_authorization", "device", "introspect",
	// "revoke", "register", "v1/register", "jwks", "resource", or
	// "metadata" and "resource_metadata" wherever those are served.
	Endpoint string `json:"endpoint,omitempty"`

	// Delay comes before everything else.
	Delay time.Duration `json:"-"`
	// Hang waits for Server.Release, or for the client to give up.
	Hang bool `json:"hang,omitempty"`
	// Fault breaks the connection: ResetBefore, ResetInBody or
	// CloseAfterHeaders.
	Fault string `json:"fault,omitempty"`

	// Late lets the request take effect before all of this, and before
	// Status or Error: what it spends is spent, whatever the client gets to
	// know of it.
	Late bool `json:"late,omitempty"`

	// Status, if not 0, makes the response Status, Header and Body, whoever
	// asks. A body that is JSON has that content type by default.
	Status int         `json:"status,omitempty"`
	Header http.Header `json:"header,omitempty"`
	Body   string      `json:"body,omitempty"`
	// Error makes it this error, in the form that the endpoint has for
	// errors, whoever asks; at the authorization endpoint whoever may be
	// redirected.
	Error string `json:"error,omitempty"`
	// EchoSecret makes it invalid_client, with the client's secret and its
	// whole Authorization header in the description.
	EchoSecret bool `json:"echo_secret,omitempty"`

	// SameToken gives the client the token that it got last, with what is
	// left of its lifetime, as long as that lives.
	SameToken bool `json:"same_token,omitempty"`
	// Set adds or replaces members of a successful response, with any JSON:
	// json.Number for a number that Go has no type for, nil for null. The
	// token is issued with a scope that is set; nothing else changes it.
	// Of an authorization response, of an error too, it sets parameters:
	// strings, or arrays of them for what is there more than once.
	Set map[string]any `json:"set,omitempty"`
	// Drop removes members of a successful response, or parameters.
	Drop []string `json:"drop,omitempty"`
	// Twice repeats parameters of an authorization response.
	Twice []string `json:"twice,omitempty"`

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
	switch a.Endpoint {
	case "", "token", "authorize", "par", "device_authorization", "device", "introspect", "revoke", "register",
		"v1/register", "jwks", "resource", "metadata", "resource_metadata":
	default:
		return fmt.Errorf("endpoint %q: there is none of that name", a.Endpoint)
	}
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
	changes := a.SameToken || a.Set != nil || a.Drop != nil || a.Twice != nil
	if a.Error != "" && a.Endpoint == "authorize" {
		changes = false
	}
	kinds := 0
	for _, is := range []bool{a.Status != 0, a.Error != "", a.EchoSecret, changes} {
		if is {
			kinds++
		}
	}
	if kinds > 1 {
		return errors.New("status, error, echo_secret and changes of a successful response exclude each other")
	}
	if a.Twice != nil && a.Endpoint != "authorize" {
		return errors.New("only parameters of an authorization response can be there twice")
	}
	if a.Endpoint == "authorize" {
		for name, v := range a.Set {
			if _, err := parameter(v); err != nil {
				return fmt.Errorf("parameter %s: %w", name, err)
			}
		}
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

// endpoint is the one that it answers for.
func (a Answer) endpoint() string {
	if a.Endpoint == "" {
		return "token"
	}
	return a.Endpoint
}

// change does to a response what Set, Drop and Twice say.
func (a Answer) change(resp response) response {
	switch {
	case a.Set == nil && a.Drop == nil && a.Twice == nil:
		return resp
	case resp.status == http.StatusFound:
		return a.changeRedirect(resp)
	case resp.status >= 300:
		return resp
	}
	d := json.NewDecoder(bytes.NewReader(resp.body))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil {
		return resp // not a response with members
	}
	maps.Copy(members, a.Set)
	for _, name := range a.Drop {
		delete(members, name)
	}
	changed := jsonResponse(resp.status, members)
	copyHeader(changed.header, resp.header)
	return changed
}

func (a Answer) changeRedirect(resp response) response {
	u, err := url.Parse(resp.header.Get("Location"))
	if err != nil {
		panic(err) // it has been put together from a URL
	}
	q := u.Query()
	for name, v := range a.Set {
		q[name], _ = parameter(v) // check has tried
	}
	for _, name := range a.Drop {
		q.Del(name)
	}
	for _, name := range a.Twice {
		q[name] = append(q[name], q[name]...)
	}
	u.RawQuery = q.Encode()
	resp.header.Set("Location", u.String())
	return resp
}

// parameter returns the values that a member of Set is for a query.
func parameter(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case []string:
		return v, nil
	case []any:
		var values []string
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, errors.New("want strings")
			}
			values = append(values, s)
		}
		return values, nil
	}
	return nil, errors.New("want a string or an array of strings")
}

func (a Answer) literal() response {
	r := response{a.Status, http.Header{}, []byte(a.Body)}
	if json.Valid(r.body) {
		r.header.Set("Content-Type", "application/json")
	}
	copyHeader(r.header, a.Header)
	return r
}
