package broker

import "time"

// An EventKind tells apart what has happened.
type EventKind int

const (
	TokenMade      EventKind = iota + 1 // for somebody who waited
	TokenRenewed                        // in the background
	TokenFailed                         // Err says why
	TokenReported                       // as refused by an API; Message says what came of it
	SessionBegun                        // somebody has logged in
	SessionEnded                        // Err says why; nil: somebody wanted it
	SessionUnsaved                      // it is in memory only; Err says why
	SessionSaved                        // it is not any more
	ProfileReset                        // its refusals were forgotten
	Woken                               // the machine was suspended
)

// An Event is something that has happened to a profile's token or session, for
// people and programs that look on. Nothing in it is secret.
type Event struct {
	Kind        EventKind
	Time        time.Time
	Profile     string // "" for what is about no one profile
	Message     string // one line, or ""
	Err         error
	Fingerprint string    // of the token that was made or reported
	Ends        time.Time // when the token that was made ends
}

// event tells of e as of now.
func (b *Broker) event(e Event) {
	if b.Event != nil {
		e.Time = time.Now()
		b.Event(e)
	}
}
