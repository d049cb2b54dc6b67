// Package login is what a person has a part in: the authorization code by a
// browser, the device code, and finding the authorization server of an API. It
// ends in a token, or in the variables of a profile; it stores nothing.
package login

import (
	"context"
	"errors"
	"time"

	"tokend/oauth"
	"tokend/profile"
)

// loginTime is how long a login waits for its person.
const loginTime = 10 * time.Minute

var (
	// ErrDenied says that the person, or the server on their behalf, said no.
	ErrDenied = errors.New("the login was denied")
	// ErrExpired says that the login was not finished in time.
	ErrExpired = errors.New("the login was not finished in time")
	// ErrNotConfirmed says that the person does not trust the server found.
	ErrNotConfirmed = errors.New("the server was not confirmed")
)

// A Person is whom a login talks to.
type Person struct {
	// Tell shows an event. It is called by one goroutine at a time, and its
	// error ends the login.
	Tell func(Event) error
	// Confirm shows what would be trusted and asks whether it is to be; nil
	// confirms nothing.
	Confirm func(context.Context, ServerFound) (bool, error)
	// InitialAccessToken asks for the token that a registration endpoint wants
	// (RFC 7591 section 3); nil has none.
	InitialAccessToken func(ctx context.Context, endpoint string) (oauth.Secret, error)
	// Redirects are the redirect URLs that the person pasted, where the browser
	// cannot reach this machine; nil: none will come. What comes after a login
	// has ended is not read.
	Redirects <-chan string
}

// An Event is a [ServerFound], [OpenURL], [ShowCode] or [Notice]. All text in
// it can be printed.
type Event interface{ event() }

// ServerFound is the authorization server that an API has led to, and what
// would be done there.
type ServerFound struct {
	Resource              string // as the API names itself (RFC 9728), or its URL
	Issuer                string // the origin, where the server does not say who it is
	AuthorizationEndpoint string // or that of the device grant
	TokenEndpoint         string // where the code and the client's secret would be sent
	RegistrationEndpoint  string // "" where no client would be registered
	Registers             bool   // a client would be registered
	Profile               string // the name that the profile will have
	Scopes                []string
}

// OpenURL is the address to open in a browser.
type OpenURL struct {
	URL, RedirectURL string
	Expires          time.Time
}

// ShowCode is the code to type in at URL (RFC 8628 section 3.3). CompleteURL
// holds the code already; "" where the server gives none.
type ShowCode struct {
	UserCode, URL, CompleteURL string
	Expires                    time.Time
}

// Notice is one line to show; the login goes on.
type Notice struct{ Message string }

func (ServerFound) event() {}
func (OpenURL) event()     {}
func (ShowCode) event()    {}
func (Notice) event()      {}

// missing is the error where neither profile nor server says what a flow needs.
func missing(variable, what string) error {
	return &profile.Mistakes{List: []profile.Mistake{{Variable: variable, Message: what}}}
}
