package profile

import "strings"

// Nearest returns the one of names that is likely meant by name, "" if none is.
func Nearest(name string, names []string) string {
	nearest, best := "", farthest+1
	for _, n := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(n)); d < best {
			nearest, best = n, d
		}
	}
	return nearest
}
