package main

import "strings"

// assignment exports a variable in the language of a shell, on a line of its
// own. The value reaches it as it is, whatever bytes but NUL it has.
func assignment(shell, name, value string) string {
	if shell == "fish" {
		return "set -gx " + name + " " + fishQuote(value) + "\n"
	}
	return "export " + name + "=" + shellQuote(value) + "\n"
}

// unassignment takes back an assignment, and does nothing where there was none.
func unassignment(shell, name string) string {
	if shell == "fish" {
		return "set -eg " + name + "\n"
	}
	return "unset -v " + name + "\n"
}

// fishQuote quotes for fish, whose single quotes know a backslash.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
