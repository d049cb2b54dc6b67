package profile

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"tokend/internal/envfile"
	"tokend/oauth"
)

// A given is a variable of ours that the text gives.
type given struct {
	envfile.Var
	row     *Variable
	suffix  string // of Name: "", "_FILE" or "_COMMAND"
	unknown bool   // its value stands elsewhere, or is a mistake already
	filled  bool   // by the preset, whose name and line it has
}

// A reader reads the variables that a text gives, and keeps what is wrong.
type reader struct {
	values   map[string]string
	given    map[string]given // by the name of their row
	extras   []envfile.Var    // the further form parameters
	open     bool             // which preset it is is not known: it may give what is missing
	mistakes []Mistake
}

func (r *reader) add(line int, variable, message string) {
	r.mistakes = append(r.mistakes, Mistake{line, variable, message})
}

// wrong is a mistake in the value of a variable that is given.
func (r *reader) wrong(name, message string) {
	g := r.given[name]
	r.add(g.Line, g.Name, message)
	g.unknown = true
	r.given[name] = g
}

func (r *reader) has(name string) bool {
	_, ok := r.given[name]
	return ok
}

// known reports whether the variable is given and its value can be looked at.
func (r *reader) known(name string) bool {
	g, ok := r.given[name]
	return ok && !g.unknown
}

// written reports whether the text itself gives the variable.
func (r *reader) written(name string) bool { return r.has(name) && !r.given[name].filled }

// value is "" if the variable is not given or its value is not known.
func (r *reader) value(name string) string {
	if g := r.given[name]; !g.unknown {
		return g.Value
	}
	return ""
}

// give takes v for a variable of ours. An empty one is as good as none.
func (r *reader) give(row *Variable, suffix string, v envfile.Var) {
	if v.Value == "" {
		return
	}
	other, ok := r.given[row.Name]
	switch {
	case !ok:
		r.given[row.Name] = given{Var: v, row: row, suffix: suffix}
	case other.suffix != suffix:
		r.add(v.Line, v.Name, fmt.Sprintf("stands beside %s in line %d; keep one of the two", other.Name, other.Line))
	case other.Value != v.Value:
		r.add(v.Line, v.Name, fmt.Sprintf("differs from %s in line %d; keep one of the two", other.Name, other.Line))
	}
}

// extra takes v for a further form parameter.
func (r *reader) extra(request *oauth.Request, row *Variable, v envfile.Var) {
	if v.Value == "" {
		return
	}
	parameter := v.Name[len(extraPrefix):]
	_, suffix := cutSuffix(parameter)
	own, ours := ownParameters[strings.ToLower(parameter)]
	mistake := control(v.Value, false)
	switch {
	case parameter == "":
		mistake = "names no parameter; write OAUTH2_EXTRA_NAME=value"
	case suffix != "":
		mistake = "a form parameter is given by its value only: all that stands behind OAUTH2_EXTRA_ is its name, " + suffix + " too"
	case ours:
		mistake = "this parameter is sent anyway; " + own
	case v.Expansion != "":
		mistake = unexpanded(row, "", v.Expansion)
	}
	if mistake != "" {
		r.add(v.Line, v.Name, mistake)
		return
	}
	if request.Extra == nil {
		request.Extra = url.Values{}
	}
	request.Extra.Set(parameter, v.Value)
	r.extras = append(r.extras, v)
}

// ownParameters are the form parameters that we send ourselves, and what they
// come from.
var ownParameters = map[string]string{
	"grant_type":            "use OAUTH2_GRANT",
	"client_id":             "use CLIENT_ID",
	"client_secret":         "use CLIENT_SECRET",
	"client_assertion":      "use PRIVATE_KEY",
	"client_assertion_type": "use PRIVATE_KEY",
	"scope":                 "use OAUTH2_SCOPE",
	"audience":              "use OAUTH2_AUDIENCE",
	"resource":              "use OAUTH2_RESOURCE",
	"assertion":             "use OAUTH2_SUBJECT_TOKEN with OAUTH2_GRANT=jwt_bearer",
	"subject_token":         "use OAUTH2_SUBJECT_TOKEN",
	"subject_token_type":    "use OAUTH2_SUBJECT_TOKEN_TYPE",
	"requested_token_type":  "use OAUTH2_REQUESTED_TOKEN_TYPE",
	"refresh_token":         "use OAUTH2_REFRESH_TOKEN",
	"redirect_uri":          "use OAUTH2_REDIRECT_URL",
	"request_uri":           "use OAUTH2_PAR",
	"code":                  byLogin,
	"code_verifier":         byLogin,
	"code_challenge":        byLogin,
	"code_challenge_method": byLogin,
	"device_code":           byLogin,
	"nonce":                 byLogin,
	"response_type":         byLogin,
	"state":                 byLogin,
}

const byLogin = "each login makes its own"

// resolve puts the values that stand elsewhere into their places, and checks
// what all values have in common.
func (r *reader) resolve() {
	for i := range Variables {
		row := &Variables[i]
		g, ok := r.given[row.Name]
		if !ok {
			continue
		}
		var mistake string
		switch {
		case g.suffix == "" && g.Expansion != "":
			mistake = unexpanded(g.row, "", g.Expansion)
		case g.suffix == "":
			mistake = control(g.Value, row.Lines)
		default:
			if _, mistake = external(g.row, g.suffix, g.Var); mistake != "" {
				break
			}
			if r.values == nil {
				g.unknown = true
				break
			}
			g.Value = r.values[row.Name]
			if mistake = control(g.Value, row.Lines); mistake != "" {
				mistake = "its value " + mistake
			} else if g.Value == "" {
				mistake = "its value is empty"
			}
		}
		r.given[row.Name] = g
		if mistake != "" {
			r.wrong(row.Name, mistake)
		}
	}
}

func (r *reader) url(name string) string {
	if !r.known(name) {
		return ""
	}
	if _, err := oauth.CheckURL(r.value(name)); err != nil {
		r.wrong(name, err.Error())
	}
	return r.value(name)
}

// issuer is a URL without query too (RFC 8414 section 2).
func (r *reader) issuer() string {
	issuer := r.url("OAUTH2_ISSUER")
	if strings.Contains(issuer, "?") {
		r.wrong("OAUTH2_ISSUER", "has a query; an issuer is a URL without (RFC 8414 section 2)")
	}
	return issuer
}

// list is the entries of a space-separated value, nil if there are none.
func (r *reader) list(name string) []string {
	var entries []string
	for s := range strings.SplitSeq(r.value(name), " ") {
		if s != "" {
			entries = append(entries, s)
		}
	}
	return entries
}

// wrongEntry is a mistake in entry i of n.
func (r *reader) wrongEntry(name string, i, n int, message string) {
	if n > 1 {
		message = fmt.Sprintf("entry %d: %s", i+1, message)
	}
	r.wrong(name, message)
}

func (r *reader) scopes() []string {
	scopes := r.list("OAUTH2_SCOPE")
	for i, s := range scopes {
		if err := oauth.CheckScope(s); err != nil {
			r.wrongEntry("OAUTH2_SCOPE", i, len(scopes), err.Error())
		}
	}
	return scopes
}

func (r *reader) resources() []string {
	resources := r.list("OAUTH2_RESOURCE")
	for i, s := range resources {
		if err := oauth.CheckResource(s); err != nil {
			r.wrongEntry("OAUTH2_RESOURCE", i, len(resources), err.Error())
		}
	}
	return resources
}

func (r *reader) origins() []string {
	const name = "API_URL"
	var origins []string
	entries := r.list(name)
	for i, s := range entries {
		u, err := oauth.CheckURL(s)
		if err != nil {
			r.wrongEntry(name, i, len(entries), err.Error())
			continue
		}
		o := origin(u)
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery {
			r.wrongEntry(name, i, len(entries), "is more than an origin; write "+o)
			continue
		}
		if !slices.Contains(origins, o) {
			origins = append(origins, o)
		}
	}
	return origins
}

// origin writes the origin of u (RFC 6454 section 6.2).
func origin(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port, _ := strconv.Atoi(u.Port())
	if port == 0 || u.Scheme == "https" && port == 443 || u.Scheme == "http" && port == 80 {
		return u.Scheme + "://" + host
	}
	return u.Scheme + "://" + host + ":" + strconv.Itoa(port)
}

func (r *reader) onOff(name string) Switch {
	switch r.value(name) {
	case "on":
		return On
	case "off":
		return Off
	case "", "auto":
	default:
		r.wrong(name, "neither on, off nor auto")
	}
	return Auto
}

// renewAt is a share that leaves time both to use a token and to renew it.
func (r *reader) renewAt() float64 {
	share, err := strconv.ParseFloat(r.value("OAUTH2_RENEW_AT"), 64)
	if err != nil || !(share >= 0.5 && share <= 0.99) {
		r.wrong("OAUTH2_RENEW_AT", "not a share between 0.5 and 0.99; write 0.85")
	}
	return share
}

// setting says how to give the variable name.
func setting(name string) string {
	return "set " + name + ", " + name + fileSuffix + " or " + name + commandSuffix
}
