package profile

import (
	"fmt"
	"strings"
)

// A Mistake is one thing that is wrong in a text. It never holds any part of
// a secret's value.
type Mistake struct {
	Line     int    // from 1; 0 if it is about no line, as when a variable is missing
	Variable string // as the text has it; "" if it is about none
	Message  string // what is wrong and what would be right
}

// Mistakes is everything that is wrong in a text, in the order of its lines;
// what is about no line comes last.
type Mistakes struct {
	List []Mistake
	// VariablesOnly: all that is wrong is that none of the variables is ours. There
	// is no token to get, but the text is one to keep.
	VariablesOnly bool
}

// Error is one line: "line 3: CLIENT_SECRET: …; line 5: …".
func (m *Mistakes) Error() string {
	var b strings.Builder
	for i, one := range m.List {
		if i > 0 {
			b.WriteString("; ")
		}
		if one.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", one.Line)
		}
		if one.Variable != "" {
			b.WriteString(one.Variable + ": ")
		}
		b.WriteString(one.Message)
	}
	return b.String()
}
