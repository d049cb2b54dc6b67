// Package logind tells when the machine is about to sleep and when this user's
// screen is locked, as org.freedesktop.login1 says it on the system bus. Where
// there is none, it tells nothing.
package logind

import "os"

// Event is something that a daemon with secrets in memory wants to know of.
type Event int

// The events.
const (
	Suspend      Event = iota + 1 // the machine sleeps as soon as it has been handled
	Woken                         // it was, or would have been, asleep
	ScreenLocked                  // of one of this user's sessions
)

// Address is where the system bus is: DBUS_SYSTEM_BUS_ADDRESS, else where it
// always is.
func Address() string {
	if address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address != "" {
		return address
	}
	return "unix:path=/run/dbus/system_bus_socket"
}
