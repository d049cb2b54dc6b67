package envfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

const (
	blanks = " \t"
	// metacharacters end a word in bash.
	metacharacters = "&|;<>()"
	// active is what makes a word more than the characters it shows.
	active = metacharacters + "\\'\"`$"

	// maxNesting bounds the recursion into "$( "$( … )" )".
	maxNesting = 100
)

// Parse returns every assignment of text in its order, repeated names
// included: that the last one wins is the caller's to apply. The error is an
// *Error.
func Parse(text []byte) ([]Var, error) {
	lineOf := func(i int) int { return 1 + bytes.Count(text[:i], []byte("\n")) }
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		return nil, &Error{Line: 1, Message: "a byte order mark; save the file as UTF-8 without BOM"}
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, &Error{Line: lineOf(i), Message: "a NUL byte; an env file is plain text"}
	}
	i := bytes.Index(text, []byte("\r\n"))
	if i < 0 && bytes.HasSuffix(text, []byte("\r")) {
		i = len(text) - 1
	}
	if i >= 0 {
		return nil, &Error{Line: lineOf(i), Message: `Windows line endings; remove them: tr -d '\r' <FILE >NEWFILE`}
	}

	p := &parser{text: string(text), line: 1}
	before := "" // the variable whose line went on with a ';'
	for {
		p.skipBlanks()
		switch c, ok := p.peek(); {
		case !ok:
			return p.vars, nil
		case c == '\n':
			p.next()
			before = ""
		case c == '#':
			p.skipComment()
		default:
			var err *Error
			if before, err = p.command(before); err != nil {
				return nil, err
			}
		}
	}
}

// Split splits a command line into its words by the same quoting as Parse.
// It expands nothing. It refuses what only a shell could carry out (pipes,
// redirections, several commands), an unterminated quote and a line without a
// program.
func Split(s string) ([]string, error) {
	p := &parser{text: s, line: 1}
	var argv []string
	for {
		p.skipBlanks()
		c, ok := p.peek()
		switch {
		case !ok:
			if len(argv) == 0 || argv[0] == "" {
				return nil, errors.New("no program to run")
			}
			return argv, nil
		case c == '\n':
			p.next()
			continue
		case c == '#' || strings.IndexByte(metacharacters, c) >= 0:
			return nil, fmt.Errorf("unquoted %q; no shell runs this: quote it, or run sh -c '…'", c)
		}
		w, err := p.word("", false)
		if err != nil {
			return nil, errors.New(err.Message)
		}
		argv = append(argv, w.value.String())
	}
}

type parser struct {
	text    string
	pos     int
	line    int
	nesting int
	vars    []Var
}

// peek returns the next byte as the shell sees it outside single quotes and
// comments, where a backslash before a newline joins two lines.
func (p *parser) peek() (byte, bool) {
	for strings.HasPrefix(p.text[p.pos:], "\\\n") {
		p.pos += 2
		p.line++
	}
	if p.pos == len(p.text) {
		return 0, false
	}
	return p.text[p.pos], true
}

// next consumes one byte. There must be one.
func (p *parser) next() byte {
	c := p.text[p.pos]
	p.pos++
	if c == '\n' {
		p.line++
	}
	return c
}

func (p *parser) skipBlanks() {
	for {
		if c, ok := p.peek(); !ok || strings.IndexByte(blanks, c) < 0 {
			return
		}
		p.pos++
	}
}

// skipComment goes to the end of the line. A backslash there continues
// nothing.
func (p *parser) skipComment() {
	if n := strings.IndexByte(p.text[p.pos:], '\n'); n >= 0 {
		p.pos += n
		return
	}
	p.pos = len(p.text)
}

// name consumes the longest name here, which may be empty.
func (p *parser) name() string {
	var b strings.Builder
	for {
		c, ok := p.peek()
		if !ok || !nameByte(c, b.Len() == 0) {
			return b.String()
		}
		b.WriteByte(c)
		p.pos++
	}
}

// atWordEnd reports whether a word ends here.
func (p *parser) atWordEnd() bool {
	c, ok := p.peek()
	return !ok || c == '\n' || strings.IndexByte(blanks+metacharacters, c) >= 0
}

// command reads assignments up to and with the end of the line or a ';'. It
// returns the last variable set where it ended at a ';'. before is what it
// returned for the command in front of this one in the line.
func (p *parser) command(before string) (string, *Error) {
	export := false
	first := len(p.vars)
	start := 0 // of the last value in text
	for words := 0; ; words++ {
		p.skipBlanks()
		c, ok := p.peek()
		if !ok || c == '\n' || c == '#' || c == ';' {
			if export && words == 1 {
				return "", &Error{Line: p.line, Message: "export without a variable; write export NAME=value"}
			}
			if ok && c == ';' {
				if words == 0 {
					return "", &Error{p.line, before, "unexpected ';'; write NAME=value"}
				}
				p.next()
				if len(p.vars) > first {
					return p.vars[len(p.vars)-1].Name, nil
				}
			}
			return "", nil
		}

		line, at := p.line, p.pos
		name := p.name()
		if c, ok := p.peek(); ok && c == '=' && name != "" {
			p.next()
			p.peek() // past line continuations
			start = p.pos
			w, err := p.word(name, export)
			if err != nil {
				return "", err
			}
			p.vars = append(p.vars, Var{Name: name, Value: w.value.String(), Line: line, Expansion: w.expansion})
			continue
		}
		if words == 0 && name == "export" && p.atWordEnd() {
			export = true
			continue
		}
		// "export NAME" after "NAME=value" changes nothing: all are exported.
		if export && p.assigned(name) && p.atWordEnd() {
			continue
		}
		set := p.vars[first:]
		if len(set) == 1 && !export && set[0].Value != "" {
			if p.plainWords(start, at) {
				return "", nil
			}
		}
		return "", p.notAnAssignment(line, at, name, before, set)
	}
}

func (p *parser) assigned(name string) bool {
	for _, v := range p.vars {
		if v.Name == name {
			return true
		}
	}
	return false
}

// plainWords is the one reading that bash does not have: if the line from
// start, where the value of the last variable begins, is nothing but plain
// words, they are that value. rest is where the second word begins.
func (p *parser) plainWords(start, rest int) bool {
	end := rest
	for i := rest; i < len(p.text) && p.text[i] != '\n'; i++ {
		blank := strings.IndexByte(blanks, p.text[i]) >= 0
		if p.text[i] == '#' && end < i {
			break
		}
		if !blank {
			end = i + 1
		}
	}
	value := p.text[start:end]
	if strings.ContainsAny(value, active) {
		return false
	}
	v := &p.vars[len(p.vars)-1]
	for _, w := range strings.FieldsFunc(p.text[rest:end], isBlank) {
		if w == "export" || looksAssigned(w) {
			return false
		}
		if v.Expansion == "" {
			v.Expansion = tilde(w)
		}
	}
	v.Value = value
	p.pos = end
	return true
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' }

// looksAssigned reports whether w is an assignment, or what somebody may have
// meant for one: A=, A+=, A[0]=, MY-VAR=, my.var=.
func looksAssigned(w string) bool {
	i := strings.IndexByte(w, '=')
	if i < 0 {
		return false
	}
	for _, c := range []byte(w[:i]) {
		if !nameByte(c, false) && strings.IndexByte("-.+[]", c) < 0 {
			return false
		}
	}
	return true
}

// notAnAssignment explains the word at offset at, of which the parser has
// consumed name. set are the variables that the same command has set. It
// repeats nothing of the word but a name in front of an '=': the word may be
// part of a secret that should have been quoted.
func (p *parser) notAnAssignment(line, at int, name, before string, set []Var) *Error {
	rest := p.text[p.pos:]
	if len(set) > 0 {
		last := set[len(set)-1]
		if c, _ := p.peek(); p.pos == at && strings.IndexByte(metacharacters, c) >= 0 {
			return &Error{line, last.Name, fmt.Sprintf("unquoted %q; put the value in single quotes", c)}
		}
		if last.Value == "" {
			return &Error{line, last.Name, "a space after '='; write the value directly behind it, in single quotes if it has spaces"}
		}
		return &Error{line, last.Name, "words behind the value that are not assignments; put a value with spaces in single quotes"}
	}
	switch {
	case before != "":
		return &Error{line, before, "unquoted ';'; put the value in single quotes"}
	case name != "" && strings.HasPrefix(rest, "+="):
		if after, _, _ := strings.Cut(rest[2:], "\n"); strings.Trim(after, "="+blanks) == "" {
			name = "" // the end of a base64 text looks the same
		}
		return &Error{line, name, "'+=' is not read here; write NAME=value with the whole value"}
	case name != "" && strings.HasPrefix(rest, "["):
		return &Error{line, "", "no arrays; write NAME=value"}
	case name != "" && strings.HasPrefix(strings.TrimLeft(rest, blanks), "="):
		return &Error{line, name, "a space before '='; write NAME=value"}
	}
	word, _, _ := strings.Cut(p.text[at:], "\n")
	if strings.IndexByte(word, '=') >= 0 && looksAssigned(strings.TrimSpace(word)) {
		return &Error{line, "", "not a name in front of '='; a name is letters, digits and '_', and begins with no digit"}
	}
	return &Error{line, "", "not an assignment; write NAME=value (nothing is run here, and a value of several lines stands in quotes)"}
}

type word struct {
	value     strings.Builder
	expansion string
}

func (w *word) expanded(what string) {
	if w.expansion == "" {
		w.expansion = what
	}
}

// word reads up to an unquoted blank, newline or metacharacter, or the end.
// variable is the one whose value it is, "" for none: only in an assignment
// does bash expand a "~" behind "=" and ":", and only behind export "{a,b}".
func (p *parser) word(variable string, export bool) (*word, *Error) {
	w := new(word)
	tildeHere := variable != ""
	brace, list := false, false
	for {
		if p.atWordEnd() {
			return w, nil
		}
		c, _ := p.peek()
		tilded := tildeHere
		tildeHere = c == ':' && variable != ""
		var err *Error
		switch c {
		case '\'':
			err = p.singleQuoted(w, variable)
		case '"':
			err = p.doubleQuoted(w, variable)
		case '$':
			err = p.dollar(w, variable, false)
		case '`':
			err = p.backquoted(w, variable)
		case '\\':
			p.next()
			if p.pos == len(p.text) {
				err = &Error{p.line, variable, "a backslash at the very end; remove it, or put the value in single quotes"}
				break
			}
			w.value.WriteByte(p.next())
		default:
			switch c {
			case '~':
				if tilded {
					w.expanded(tilde(p.text[p.pos:]))
				}
			case '{':
				brace = true
			case ',':
				list = list || brace
			case '.':
				list = list || brace && p.text[p.pos-1] == '.'
			case '}':
				if export && list {
					w.expanded("{")
				}
			}
			w.value.WriteByte(p.next())
		}
		if err != nil {
			return nil, err
		}
	}
}

// tilde returns the tilde prefix that s begins with, and its slash; "" if
// there is none, or if some of it is quoted, which stops the shell too.
func tilde(s string) string {
	if !strings.HasPrefix(s, "~") {
		return ""
	}
	s = strings.ReplaceAll(s, "\\\n", "")
	end := strings.IndexAny(s, "/:\n"+blanks+metacharacters)
	if end < 0 {
		end = len(s)
	}
	if strings.ContainsAny(s[:end], active) {
		return ""
	}
	if end < len(s) && s[end] == '/' {
		end++
	}
	return s[:end]
}

func (p *parser) singleQuoted(w *word, variable string) *Error {
	line := p.line
	p.next()
	n := strings.IndexByte(p.text[p.pos:], '\'')
	if n < 0 {
		return &Error{line, variable, "the single quote that opens here is never closed"}
	}
	for range n {
		w.value.WriteByte(p.next())
	}
	p.next()
	return nil
}

func (p *parser) doubleQuoted(w *word, variable string) *Error {
	line := p.line
	p.next()
	for {
		c, ok := p.peek()
		if !ok {
			return &Error{line, variable, "the double quote that opens here is never closed"}
		}
		var err *Error
		switch c {
		case '"':
			p.next()
			return nil
		case '$':
			err = p.dollar(w, variable, true)
		case '`':
			err = p.backquoted(w, variable)
		case '\\':
			// Between double quotes a backslash quotes these four only;
			// peek has dealt with the newline.
			p.next()
			if p.pos < len(p.text) && strings.IndexByte("$`\"\\", p.text[p.pos]) >= 0 {
				w.value.WriteByte(p.next())
			} else {
				w.value.WriteByte('\\')
			}
		default:
			w.value.WriteByte(p.next())
		}
		if err != nil {
			return err
		}
	}
}

func (p *parser) dollar(w *word, variable string, quoted bool) *Error {
	line := p.line
	p.next()
	w.value.WriteByte('$')
	c, ok := p.peek()
	switch {
	case !ok:
	case nameByte(c, true):
		name := p.name()
		w.value.WriteString(name)
		w.expanded("$" + name)
	case '0' <= c && c <= '9' || strings.IndexByte("*@#?-$!", c) >= 0:
		w.value.WriteByte(p.next())
		w.expanded("$" + string(c))
	case c == '(' || c == '{' || c == '[':
		w.expanded("$" + string(c))
		return p.balanced(w, variable, line, "$"+string(c))
	case c == '\'' && !quoted:
		return &Error{line, variable, "$'…' is not read here; use '…'"}
	case c == '"' && !quoted:
		return &Error{line, variable, `$"…" is not read here; use "…"`}
	}
	return nil
}

// balanced copies an expansion, which begins at its bracket, as it stands.
func (p *parser) balanced(w *word, variable string, line int, opening string) *Error {
	if p.nesting++; p.nesting > maxNesting {
		return &Error{line, variable, "too deeply nested"}
	}
	defer func() { p.nesting-- }()
	opens := p.text[p.pos]
	closes := map[byte]byte{'(': ')', '{': '}', '[': ']'}[opens]
	for depth := 0; p.pos < len(p.text); {
		from := p.pos
		switch c := p.text[p.pos]; {
		case c == '\\':
			p.next()
			if p.pos < len(p.text) {
				p.next()
			}
		case c == '\'' || c == '"' || c == '`':
			var inner word
			var err *Error
			switch c {
			case '\'':
				err = p.singleQuoted(&inner, variable)
			case '"':
				err = p.doubleQuoted(&inner, variable)
			default:
				err = p.backquoted(&inner, variable)
			}
			if err != nil {
				return err
			}
		default:
			p.next()
			if c == opens {
				depth++
			} else if c == closes {
				depth--
			}
		}
		w.value.WriteString(p.text[from:p.pos])
		if depth == 0 {
			return nil
		}
	}
	return &Error{line, variable, fmt.Sprintf("the %s that opens here is never closed, nor would it be run; put the value in single quotes", opening)}
}

func (p *parser) backquoted(w *word, variable string) *Error {
	line, from := p.line, p.pos
	w.expanded("`")
	p.next()
	for p.pos < len(p.text) {
		switch p.next() {
		case '\\':
			if p.pos < len(p.text) {
				p.next()
			}
		case '`':
			w.value.WriteString(p.text[from:p.pos])
			return nil
		}
	}
	return &Error{line, variable, "the ` that opens here is never closed, nor would it be run; put the value in single quotes"}
}
