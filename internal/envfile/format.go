package envfile

import "strings"

// Format writes one assignment a line, which Parse and a shell read back as
// the same names and values. A name that is no name and a value with a NUL,
// which no environment can hold, give a text that Parse refuses.
func Format(vars []Var) []byte {
	var b strings.Builder
	for _, v := range vars {
		if ValidName(v.Name) {
			b.WriteString(v.Name)
		} else {
			quote(&b, v.Name)
		}
		b.WriteByte('=')
		if bare(v.Value) {
			b.WriteString(v.Value)
		} else {
			quote(&b, v.Value)
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// bare reports whether s means itself to every shell.
func bare(s string) bool {
	for i := range len(s) {
		if !nameByte(s[i], false) && strings.IndexByte("%+,-./:=@", s[i]) < 0 {
			return false
		}
	}
	return true
}

// quote writes s in single quotes. CR and LF are kept apart, because Parse
// takes the two together for a Windows line ending.
func quote(b *strings.Builder, s string) {
	b.WriteByte('\'')
	_, _ = strings.NewReplacer("'", `'\''`, "\r\n", "\r''\n").WriteString(b, s)
	b.WriteByte('\'')
}
