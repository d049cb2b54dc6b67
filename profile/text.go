package profile

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"tokend/internal/envfile"
)

// MaxText is the size of the largest text, in bytes.
const MaxText = 48 << 10

// A Text is a profile's text that the grammar accepts. What its variables mean
// may still be wrong; Profile says so.
type Text struct {
	Vars []envfile.Var // in the text's order, repeats included
}

// Parse reads a text. The error is a *Mistakes.
func Parse(text []byte) (*Text, error) {
	if len(text) > MaxText {
		return nil, &Mistakes{List: []Mistake{{Message: fmt.Sprintf("the text has %d bytes; at most %d are allowed (48 KiB)", len(text), MaxText)}}}
	}
	vars, err := envfile.Parse(text)
	var e *envfile.Error
	if errors.As(err, &e) {
		return nil, &Mistakes{List: []Mistake{{e.Line, e.Variable, e.Message}}}
	}
	return &Text{vars}, err
}

// Format writes a text that Parse reads back as the same names and values.
func Format(vars []envfile.Var) []byte { return envfile.Format(vars) }

// inForce returns the last assignment to each name, as a shell would keep it.
func (t *Text) inForce() []envfile.Var {
	last := map[string]int{}
	for i, v := range t.Vars {
		last[v.Name] = i
	}
	var vars []envfile.Var
	for i, v := range t.Vars {
		if last[v.Name] == i {
			vars = append(vars, v)
		}
	}
	return vars
}

// An External is a variable whose value stands elsewhere: NAME_FILE or
// NAME_COMMAND. One of File and Command is set.
type External struct {
	Variable string   // NAME; of its several names the first in Variables
	Line     int      // of NAME_FILE or NAME_COMMAND
	File     string   // absolute, or beginning with "~/"
	Command  []string // the argv of a program that prints the value; no shell
}

// External returns the variables in force whose values stand elsewhere. It
// leaves out the ones that Profile refuses by themselves; whether the text as a
// whole is right, Profile(nil) must have said before any of them is read.
func (t *Text) External() []External {
	var list []External
	for _, v := range t.inForce() {
		if row, suffix := lookupExternal(v.Name); row != nil && v.Value != "" {
			if e, mistake := external(row, suffix, v); mistake == "" {
				list = append(list, e)
			}
		}
	}
	return list
}

// external reads the value of NAME_FILE or NAME_COMMAND.
func external(row *Variable, suffix string, v envfile.Var) (e External, mistake string) {
	e = External{Variable: row.Name, Line: v.Line}
	if mistake := control(v.Value, false); mistake != "" {
		return e, mistake
	}
	if suffix == fileSuffix && v.Expansion == "~/" && strings.HasPrefix(v.Value, "~/") {
		v.Expansion = "" // the reader of the file knows the home
	}
	if v.Expansion != "" {
		return e, unexpanded(row, suffix, v.Expansion)
	}
	if suffix == commandSuffix {
		argv, err := envfile.Split(v.Value)
		if err != nil {
			return e, err.Error()
		}
		e.Command = argv
		return e, ""
	}
	if !strings.HasPrefix(v.Value, "/") && !strings.HasPrefix(v.Value, "~/") {
		return e, "not an absolute path; write /… or ~/…"
	}
	e.File = v.Value
	return e, ""
}

// control says which control character is wrong in a value.
func control(value string, lines bool) string {
	i := strings.IndexFunc(value, func(r rune) bool {
		return r < ' ' && (r != '\n' || !lines) || r == 0x7f
	})
	if i < 0 {
		return ""
	}
	what := "a control character"
	switch value[i] {
	case '\n':
		what = "a newline"
	case '\r':
		what = "a carriage return"
	case '\t':
		what = "a tab"
	}
	if i == len(value)-1 || strings.HasSuffix(value[i:], "\r\n") && i == len(value)-2 {
		return "ends in " + what + "; remove it"
	}
	return "has " + what + " in it; remove it"
}

// unexpanded says what to do instead of an expansion. It shows which kind it
// is and no more: it may be part of a secret.
func unexpanded(row *Variable, suffix, expansion string) string {
	what, verb, instead := "", "expanded", "write what it stands for"
	switch expansion {
	case "$(", "`":
		what, verb = "`$(…)`", "run"
		if expansion == "`" {
			what = "a command in backquotes"
		}
		switch {
		case suffix == commandSuffix:
			instead = "name one program that prints the value"
		case strings.HasPrefix(row.Name, extraPrefix):
			instead = "write what it prints"
		default:
			instead = "use " + row.Name + commandSuffix + "=…"
		}
	case "${":
		what = "`${…}`"
	case "$[":
		what = "`$[…]`"
	case "{":
		what = "`{…}`"
	default: // $NAME, ~USER/
		what = "`" + expansion[:1] + "…`"
	}
	return what + " is not " + verb + " here: " + instead + ", or single quotes where the characters are meant as they stand"
}

const masked = "********"

// Masked is the text for showing to a person: an assignment a line, in order,
// comments left out. Values of secrets, of OAUTH2_EXTRA_… and of variables that
// are not ours are masked; so are user names and passwords in URLs. What would
// be read or run elsewhere is shown. Characters that do not print are shown
// escaped, so that no value looks like a line of its own.
func (t *Text) Masked() []byte {
	var b []byte
	for _, v := range t.Vars {
		if shown := show(v); shown == masked {
			b = append(b, v.Name+"="+masked+"\n"...)
		} else {
			b = append(b, envfile.Format([]envfile.Var{{Name: v.Name, Value: shown}})...)
		}
	}
	return b
}

func show(v envfile.Var) string {
	if v.Value == "" {
		return ""
	}
	if row, suffix := lookupExternal(v.Name); row != nil {
		// A value that cannot be read or run may be a misplaced secret.
		if _, mistake := external(row, suffix, v); mistake != "" {
			return masked
		}
		return printable(v.Value)
	}
	row := lookup(v.Name)
	switch {
	case row == nil || row.Secret:
		return masked
	case row.Lines:
		return showCertificates(v.Value)
	}
	words := strings.Split(v.Value, " ")
	for i, w := range words {
		words[i] = printable(withoutUserinfo(w))
	}
	return strings.Join(words, " ")
}

// showCertificates drops all that stands round the certificates: it could be a
// key, or look like assignments.
func showCertificates(text string) string {
	var b strings.Builder
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			b.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
	if b.Len() == 0 {
		return masked
	}
	return b.String()
}

// expression compiles a regular expression when it is first used: a start of the
// daemon needs none.
func expression(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// userinfo in a URL that url.Parse takes ends at the last "@" of the authority.
var userinfo = expression(`//[^/?#]*@`)

func withoutUserinfo(word string) string {
	if !strings.Contains(word, "@") || !strings.Contains(word, "//") {
		return word
	}
	if u, err := url.Parse(word); err != nil {
		return masked
	} else if u.User == nil {
		return word
	}
	loc := userinfo().FindStringIndex(word)
	return word[:loc[0]] + "//" + masked + word[loc[1]-1:]
}

func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case !unicode.IsPrint(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteRune(r)
		}
		s = s[n:]
	}
	return b.String()
}
