package oauth

import "strings"

// A Challenge is one of a WWW-Authenticate field (RFC 9110 section 11.6.1), as
// RFC 6750 section 3 and RFC 9728 section 5.1 use it. Its values are a server's
// words: not cleaned.
type Challenge struct {
	Scheme string            // in lower case
	Params map[string]string // names in lower case, values without their quotes
}

// ParseChallenges reads the values of WWW-Authenticate fields, each of which may
// have several challenges. It reads a field until something in it is not of the
// grammar, a parameter that its challenge has already being such a thing, and
// gives what it read before that. A token68 in place of parameters is left out.
func ParseChallenges(values []string) []Challenge {
	var list []Challenge
	for _, v := range values {
		p := challengeParser{rest: v}
		p.field()
		list = append(list, p.read...)
	}
	return list
}

type challengeParser struct {
	rest string
	read []Challenge
}

func (p *challengeParser) field() {
	for {
		p.skip(" \t,")
		scheme := p.take(isTokenByte)
		if scheme == "" {
			return
		}
		end := p.atEnd()
		if !end && p.rest[0] != ' ' {
			return
		}
		c := Challenge{Scheme: lower(scheme), Params: make(map[string]string)}
		p.read = append(p.read, c)
		p.skip(" ")
		if !end && !p.token68() && !p.params(c.Params) {
			return
		}
	}
}

// atEnd says whether an element of the list ends here; spaces before its comma
// are consumed only then.
func (p *challengeParser) atEnd() bool {
	rest := strings.TrimLeft(p.rest, " \t")
	if rest == "" || rest[0] == ',' {
		p.rest = rest
		return true
	}
	return false
}

// token68 consumes one, if that is what stands here.
func (p *challengeParser) token68() bool {
	before := p.rest
	if p.take(isToken68Byte) != "" {
		p.skip("=")
		if p.atEnd() {
			return true
		}
	}
	p.rest = before
	return false
}

// params reads parameters until another challenge begins; false: the field goes
// on with what is not of the grammar.
func (p *challengeParser) params(into map[string]string) bool {
	for first := true; ; first = false {
		p.skip(" \t,")
		before := p.rest
		name := lower(p.take(isTokenByte))
		if name == "" {
			return p.rest == ""
		}
		p.skip(" \t")
		if !strings.HasPrefix(p.rest, "=") {
			p.rest = before
			return !first // name is a scheme
		}
		p.rest = p.rest[1:]
		p.skip(" \t")
		value, ok := p.value()
		if _, twice := into[name]; !ok || twice || !p.atEnd() {
			return false
		}
		into[name] = value
	}
}

// value reads a token or a quoted-string (RFC 9110 section 5.6.4).
func (p *challengeParser) value() (string, bool) {
	if !strings.HasPrefix(p.rest, `"`) {
		v := p.take(isTokenByte)
		return v, v != ""
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		c := p.rest[i]
		switch {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case c == '\\':
			if i++; i == len(p.rest) || isControl(p.rest[i]) {
				return "", false
			}
			b.WriteByte(p.rest[i])
		case isControl(c):
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

func (p *challengeParser) skip(cutset string) { p.rest = strings.TrimLeft(p.rest, cutset) }

func (p *challengeParser) take(of func(byte) bool) string {
	n := 0
	for n < len(p.rest) && of(p.rest[n]) {
		n++
	}
	taken := p.rest[:n]
	p.rest = p.rest[n:]
	return taken
}

func isControl(c byte) bool { return c < 0x20 && c != '\t' || c == 0x7f }

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isTokenByte(c byte) bool {
	return isAlphanumeric(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func isToken68Byte(c byte) bool { return isAlphanumeric(c) || strings.IndexByte("-._~+/", c) >= 0 }
