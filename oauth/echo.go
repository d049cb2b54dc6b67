package oauth

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

const (
	maxText  = 256 // bytes of a server's text that are shown
	withheld = "(withheld: it repeats what was sent in confidence)"

	echoRun = 16 // this many bytes of a secret in a row give it away
	echoMin = 4  // shorter than this it would be found in every text
)

// echo finds the secrets that a request carried in what the server says. It
// knows them as they are and as encodings of themselves, whatever the case.
type echo struct {
	whole []string            // forms shorter than echoRun
	runs  map[string]struct{} // every echoRun bytes in a row of the longer ones
}

// Repeats gives what says whether a text has one of secrets in it, or a good part of
// one, in whatever form. To make it takes longer than to ask it.
func Repeats(secrets []Secret) func(text string) bool { return echoOf(secrets).in }

func newEcho(secrets ...string) *echo {
	e := &echo{runs: make(map[string]struct{})}
	e.know(secrets...)
	return e
}

func echoOf(secrets []Secret) *echo {
	e := newEcho()
	for _, s := range secrets {
		e.know(s.Reveal())
	}
	return e
}

func (e *echo) know(secrets ...string) {
	for _, s := range secrets {
		for _, plain := range slices.Compact([]string{s, url.QueryEscape(s)}) {
			e.add(plain)
			e.add(url.PathEscape(plain))
			e.add(hex.EncodeToString([]byte(plain)))
			// Base64 of something longer shows a secret in one of three ways,
			// depending on where in a group of three bytes it begins.
			for shift := range 3 {
				coded := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00\x00"[:shift] + plain))
				first, last := (8*shift+5)/6, 8*(shift+len(plain))/6
				coded = coded[min(first, last):last]
				e.add(coded)
				e.add(strings.NewReplacer("+", "-", "/", "_").Replace(coded))
			}
		}
	}
}

func (e *echo) add(form string) {
	form = lower(form)
	switch {
	case len(form) >= echoRun:
		for i := 0; i+echoRun <= len(form); i++ {
			e.runs[form[i:i+echoRun]] = struct{}{}
		}
	case len(form) >= echoMin:
		e.whole = append(e.whole, form)
	}
}

func (e *echo) in(text string) bool {
	return e.inForm(text) || e.inForm(percentDecoded(text))
}

func (e *echo) inForm(text string) bool {
	text = lower(text)
	for i := 0; i+echoRun <= len(text); i++ {
		if _, ok := e.runs[text[i:i+echoRun]]; ok {
			return true
		}
	}
	for _, w := range e.whole {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// clean makes text of a server fit to print: at most maxText bytes, every byte
// outside the characters of error_description (RFC 6749 appendix A.8) as \xNN,
// and nothing of it if it repeats a secret.
func (e *echo) clean(text string) string {
	if e.in(text) {
		return withheld
	}
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		shown := string(rune(c))
		if c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			shown = fmt.Sprintf(`\x%02x`, c)
		}
		if b.Len()+len(shown) > maxText {
			break
		}
		b.WriteString(shown)
	}
	// The escapes are text of their own, and could spell one.
	if e.in(b.String()) {
		return withheld
	}
	return b.String()
}

// lower maps ASCII letters only: strings.ToLower would change bytes that are no
// valid UTF-8, differently in a text than in a secret cut out of it.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// percentDecoded undoes form encoding wherever text has it, and leaves the rest.
func percentDecoded(text string) string {
	if !strings.ContainsAny(text, "%+") {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '+':
			b.WriteByte(' ')
		case text[i] == '%' && i+2 < len(text):
			if c, err := hex.DecodeString(text[i+1 : i+3]); err == nil {
				b.WriteByte(c[0])
				i += 2
				continue
			}
			b.WriteByte('%')
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String()
}
