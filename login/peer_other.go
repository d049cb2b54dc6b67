//go:build !linux

package login

import "net/http"

// ofThisUser is true: no other system than Linux says whose a connection is.
func ofThisUser(*http.Request) bool { return true }
