package oauth

import "context"

// An Introspection is what a server says about a token (RFC 7662 section 2.2).
// It is for showing: nothing in it makes a token live longer.
type Introspection struct {
	Active bool
	// Claims is the whole answer, numbers as [json.Number]. A text in it that
	// repeats the token or the client's credential is withheld; nothing else is
	// cleaned.
	Claims map[string]any
}

// Introspect asks endpoint about token (RFC 7662 section 2.1). hint is the
// token_type_hint, or empty. Every error is an [*Error].
func (c *Client) Introspect(ctx context.Context, endpoint string, token Secret, hint string) (*Introspection, error) {
	p, e := c.post(ctx, outgoing{
		endpoint: endpoint, doing: "asking %s about a token",
		form: tokenForm(token, hint), secrets: []string{token.Reveal()},
	})
	if e != nil {
		return nil, e
	}
	members, e := p.object()
	if e != nil {
		return nil, e
	}
	active, ok := members["active"].(bool)
	if !ok {
		return nil, p.errorf(p.op, Malformed, "active is not true or false")
	}
	claims := withhold(members, p.sent.in)
	return &Introspection{Active: active, Claims: claims.(map[string]any)}, nil
}

// tokenForm is the form of RFC 7662 section 2.1 and RFC 7009 section 2.1.
func tokenForm(token Secret, hint string) (f form) {
	f.set("token", token.Reveal())
	if hint != "" {
		f.set("token_type_hint", hint)
	}
	return f
}

// withhold gives v without the texts that are secret; a name that is one goes
// with its value.
func withhold(v any, secret func(string) bool) any {
	switch v := v.(type) {
	case string:
		if secret(v) {
			return withheld
		}
	case []any:
		for i := range v {
			v[i] = withhold(v[i], secret)
		}
	case map[string]any:
		for name := range v {
			if secret(name) {
				delete(v, name)
				continue
			}
			v[name] = withhold(v[name], secret)
		}
	}
	return v
}
