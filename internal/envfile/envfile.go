// Package envfile reads and writes env files: NAME=value assignments in the
// quoting of bash. For a text without expansions Parse gives what
//
//	env -i bash --norc --noprofile -c 'set -a; . ./file; env -0'
//
// gives. It expands nothing, runs nothing and refuses whatever is not an
// assignment. It does not know what the variables mean.
//
// There is one thing that it reads and bash does not: in
//
//	OAUTH2_SCOPE=api.read api.write
//
// bash would run api.write; here the value is "api.read api.write".
package envfile

import "fmt"

// A Var is one assignment.
type Var struct {
	Name  string
	Value string
	Line  int // where the name stands, from 1

	// Expansion is the first thing in the source that a shell would have
	// expanded and that stands literally in Value: "$HOME", "${", "$(", "$[",
	// "`", "~/", "~user/"; after export also "{", a brace expansion. It is ""
	// if there is none. It may be a part of the value, so it is as secret as
	// that.
	Expansion string
}

// An Error is a text that is not an env file. It never holds any part of a
// value.
type Error struct {
	Line     int    // from 1; of a quote that is never closed, where it opens
	Variable string // "" if the mistake belongs to none
	Message  string // what is wrong and what would be right
}

func (e *Error) Error() string {
	if e.Variable == "" {
		return fmt.Sprintf("line %d: %s", e.Line, e.Message)
	}
	return fmt.Sprintf("line %d: %s: %s", e.Line, e.Variable, e.Message)
}

// ValidName reports whether a shell takes name for a variable's:
// [A-Za-z_][A-Za-z0-9_]*.
func ValidName(name string) bool {
	for i := range len(name) {
		if !nameByte(name[i], i == 0) {
			return false
		}
	}
	return name != ""
}

func nameByte(c byte, first bool) bool {
	return c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || !first && '0' <= c && c <= '9'
}
