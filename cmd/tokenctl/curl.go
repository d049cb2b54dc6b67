package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tokend/client"
	"tokend/client/api"
)

func curlCommand(a *app) *cobra.Command {
	var anyHost bool
	c := &cobra.Command{
		Use:   "curl PROFILE [--any-host] -- CURL-ARG...",
		Short: "Run curl with a profile's access token",
		Long: `Run curl with an access token of PROFILE in the Authorization field. The token
goes to curl by a file in memory: it stands on no command line, and standard input
is yours.

It is sent to the origins in the profile's API_URL only. Where there is none, it
asks on a terminal each time and refuses elsewhere; --any-host sends it wherever
the URLs say. Never in the clear: to http:// and with --insecure only on this
machine. With -L, curl itself takes it away where another host follows.

URLs are written in full, with https://. Options that read others, send the token
elsewhere or show it (-K, --location-trusted, -v and their like) are refused, and so
are those that are not known; ~/.curlrc is not read. With a DPoP token one request
is made, with a proof; an API that wants a nonce for it needs "tokenctl proof".

Exit statuses: those of curl. Where curl was not run, those of "tokenctl get", in
a line that begins with "tokenctl:"; 126 and 127 where there is no curl.`,
		Example: `  tokenctl curl dev/network -- https://api.example.com/v1/resources
  tokenctl curl dev/network -- -sS --json @- https://api.example.com/v1/resources < new.json
  tokenctl curl dev/network --any-host -- -fL -o out https://files.example.com/out`,
		ValidArgsFunction: a.completeCommand,
		RunE: func(c *cobra.Command, args []string) error {
			profile, args, err := profileAndRest(c, args)
			if err != nil || c.Flags().Changed("help") {
				return err
			}
			if strings.Contains(profile, "://") {
				return usageError(c, "PROFILE missing before the URL")
			}
			if profile, err = a.profileOr(c, profile); err != nil {
				return err
			}
			line, err := readCurlLine(args)
			if err != nil {
				return usageError(c, err.Error())
			}
			path, err := lookUp("curl")
			if err != nil {
				return err
			}
			t, err := a.token(c.Context(), client.TokenRequest{Profile: profile}, 0)
			if err != nil {
				return err
			}
			if t.Type == "N_A" {
				return &problem{Exit: exitFailed, Profile: profile, Message: "this is no access token (token_type N_A, RFC 8693 section 2.2.1) and goes into no header"}
			}
			if t.Warning != "" {
				note("%s: warning: %s", profile, t.Warning)
			}
			if !anyHost {
				if err := a.mayGo(c, profile, line, t.APIOrigins); err != nil {
					return err
				}
			}
			config := curlHeader("Authorization", t.Header())
			if strings.EqualFold(t.Type, "DPoP") {
				proof, err := a.curlProof(c, profile, line, t)
				if err != nil {
					return err
				}
				config += curlHeader("DPoP", proof)
			}
			argv := []string{"curl", "-q"}
			for i, operation := range line.operations {
				file, err := secretFile(config)
				if err != nil {
					return err
				}
				if i > 0 {
					argv = append(argv, "--next")
				}
				argv = append(append(argv, "--config", file), operation...)
			}
			return replaceProcess(path, argv, curlEnvironment(os.Environ(), line.unprotected != ""))
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // curl's flags are not ours
	f.BoolVar(&anyHost, "any-host", false, "send the token wherever the URLs say")
	return c
}

// curlHeader is a header field in the language of curl's configuration.
func curlHeader(name, value string) string {
	return "header = \"" + name + ": " + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + "\"\n"
}

// curlEnvironment drops what would make curl keep the keys of its connections,
// and for one that is unprotected the proxies.
func curlEnvironment(environ []string, unprotected bool) []string {
	return slices.DeleteFunc(environ, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "SSLKEYLOGFILE" || unprotected && slices.Contains([]string{"http_proxy", "https_proxy", "all_proxy"}, strings.ToLower(name))
	})
}

// mayGo refuses what would take the token to an origin that the profile does
// not name, or that nobody says yes to where it names none.
func (a *app) mayGo(c *cobra.Command, profile string, line *curlLine, origins []string) error {
	var allowed []string
	for _, o := range origins {
		if u, err := readCurlURL(o); err == nil {
			allowed = append(allowed, u.origin)
		}
	}
	for _, u := range line.urls {
		if slices.Contains(allowed, u.origin) {
			continue
		}
		refused := &problem{
			Reason: reasonName(api.ReasonDenied), Exit: exitDenied, Profile: profile, Variable: "API_URL",
			Message: "its token may not go to " + u.origin + ", which is not in its API_URL", Fix: "if it should, name it there: tokenctl edit " + profile + ", or add --any-host",
		}
		if len(origins) > 0 {
			return refused
		}
		refused.Message = "its token may not go to " + u.origin + ": the profile has no API_URL"
		if !isTerminal(os.Stdin) {
			return refused
		}
		yes, err := confirm(c.Context(), "Send "+profile+"'s token to "+u.origin+"?")
		if err != nil {
			return err
		}
		if !yes {
			return refused
		}
		allowed = append(allowed, u.origin)
	}
	return nil
}

// curlProof makes the proof for a command line that makes one request which we
// know beforehand (RFC 9449).
func (a *app) curlProof(c *cobra.Command, profile string, line *curlLine, t *client.Token) (string, error) {
	refused := &problem{Exit: exitUsage, Profile: profile, Message: "its tokens are of DPoP, where each request has its own proof", Fix: "give one URL, and see: tokenctl proof --help"}
	if len(line.urls) != 1 || len(line.operations) != 1 || line.globs() {
		return "", refused
	}
	for _, several := range []string{"location", "follow", "retry", "upload-file"} {
		if _, ok := line.given[several]; ok {
			refused.Message += ", and --" + several + " makes requests of which we do not know"
			return "", refused
		}
	}
	req := &api.CreateDPoPProofRequest{Profile: profile, AccessToken: t.AccessToken, Method: line.method(), Url: line.urls[0].text}
	resp := &api.CreateDPoPProofResponse{}
	err := a.client.Call(c.Context(), api.MethodCreateDPoPProof, req, resp)
	return resp.Proof, err
}

// curlLine is a command line of curl's, taken apart as curl does.
type curlLine struct {
	operations [][]string // the arguments between each --next, without these
	urls       []curlURL
	given      map[string]string // options by their long names, with the last value
	// unprotected says what sends the token unprotected, if anything does.
	unprotected string
}

// readCurlLine takes the arguments apart. What it does not know it refuses: it
// could not tell the values of options from URLs.
func readCurlLine(args []string) (*curlLine, error) {
	line := &curlLine{operations: [][]string{nil}, given: make(map[string]string)}
	redirected := ""
	for i := 0; i < len(args); {
		from := i
		arg := args[i]
		i++
		last := len(line.operations) - 1
		if !strings.HasPrefix(arg, "-") {
			if err := line.addURL(arg); err != nil {
				return nil, err
			}
			line.operations[last] = append(line.operations[last], arg)
			continue
		}
		if arg == "--" {
			for _, u := range args[i:] {
				if err := line.addURL(u); err != nil {
					return nil, err
				}
			}
			line.operations[last] = append(line.operations[last], args[from:]...)
			break
		}
		names, value, attached, err := curlOptions(arg)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if why, ok := curlRefused[name]; ok {
				return nil, fmt.Errorf("curl's --%s is refused: %s", name, why)
			}
			if has(curlElsewhere, name) {
				redirected = name
			}
			line.given[name] = ""
		}
		option := names[len(names)-1]
		if curlTakesValue(option) && !attached {
			if i == len(args) {
				return nil, fmt.Errorf("curl's --%s lacks its value", option)
			}
			value = args[i]
			i++
		}
		line.given[option] = value
		switch option {
		case "next":
			if len(names) > 1 {
				return nil, fmt.Errorf("write curl's --next by itself")
			}
			line.operations = append(line.operations, nil)
			continue
		case "url":
			if err := line.addURL(value); err != nil {
				return nil, err
			}
		case "header":
			if err := checkCurlHeader(value); err != nil {
				return nil, err
			}
		}
		line.operations[last] = append(line.operations[last], args[from:i]...)
	}
	if len(line.urls) == 0 {
		return nil, fmt.Errorf("URL missing")
	}
	_, insecure := line.given["insecure"]
	for _, u := range line.urls {
		switch {
		case strings.HasPrefix(u.origin, "http:"):
			line.unprotected = "http:// sends the token in the clear"
		case insecure:
			line.unprotected = "with --insecure anybody can pose as the server"
		default:
			continue
		}
		if !u.loopback {
			return nil, fmt.Errorf("%s, and %s is not this machine", line.unprotected, u.origin)
		}
	}
	if line.unprotected == "" {
		return line, nil
	}
	if redirected != "" {
		return nil, fmt.Errorf("%s, and --%s could take it off this machine", line.unprotected, redirected)
	}
	return line, nil
}

func (l *curlLine) addURL(text string) error {
	u, err := readCurlURL(text)
	l.urls = append(l.urls, u)
	return err
}

// globs reports whether the line may stand for several requests.
func (l *curlLine) globs() bool {
	_, off := l.given["globoff"]
	return !off && strings.ContainsAny(l.urls[0].text[len(l.urls[0].origin):], "[]{}")
}

// method is what curl will use.
func (l *curlLine) method() string {
	given := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { _, ok := l.given[n]; return ok })
	}
	switch {
	case given("request"):
		return l.given["request"]
	case given("head"):
		return "HEAD"
	case given("data", "data-ascii", "data-binary", "data-raw", "data-urlencode", "json", "form", "form-string") && !given("get"):
		return "POST"
	}
	return "GET"
}

// checkCurlHeader refuses the fields that are ours, and the one that takes a
// request to another server behind the same address.
func checkCurlHeader(field string) error {
	name, _, _ := strings.Cut(strings.Replace(field, ";", ":", 1), ":")
	switch name = strings.ToLower(strings.TrimSpace(name)); {
	case strings.HasPrefix(field, "@"):
		return fmt.Errorf("curl's --header is refused with a file: give each field by itself")
	case strings.ContainsAny(field, "\r\n"):
		return fmt.Errorf("curl's --header is refused with a line break")
	case name == "host":
		return fmt.Errorf("curl's --header is refused with Host: it takes the token to another server than the URL says")
	case name == "authorization" || name == "dpop":
		return fmt.Errorf("curl's --header is refused with %s: that field is tokenctl's", name)
	}
	return nil
}

// curlURL is a URL as far as it says where a request goes.
type curlURL struct {
	text     string
	origin   string // scheme, host and port other than the scheme's own, in lower case
	loopback bool
}

// readCurlURL takes no URL of which curl and we could think differently: it has
// a scheme, a host of plain characters (curl's [1-3] and {a,b} are none), and
// perhaps a port.
func readCurlURL(text string) (curlURL, error) {
	u := curlURL{text: text}
	scheme, rest, ok := strings.Cut(text, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "https" && scheme != "http" {
		return u, fmt.Errorf("%s is no URL; write it in full, with https://", curlShown(text))
	}
	host := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host = rest[:i]
	}
	if strings.Contains(host, "@") {
		return u, fmt.Errorf("a user name before the host; the token is the credential")
	}
	host, port, err := splitPort(strings.ToLower(host))
	if err != nil {
		return u, fmt.Errorf("%s: %w", curlShown(text), err)
	}
	if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		port = ""
	}
	u.origin = scheme + "://" + host
	if port != "" {
		u.origin += ":" + port
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	u.loopback = host == "localhost" || err == nil && ip.IsLoopback()
	return u, nil
}

func splitPort(host string) (string, string, error) {
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		n, err := strconv.ParseUint(host[i+1:], 10, 16)
		if err != nil || n == 0 {
			return "", "", fmt.Errorf("no port")
		}
		name, port = host[:i], strconv.FormatUint(n, 10)
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		if !closed || err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", "", fmt.Errorf("no IPv6 address")
		}
		return "[" + ip.String() + "]", port, nil
	}
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_'
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return "", "", fmt.Errorf("the host is no plain name (an international one is written in its xn-- form)")
	}
	return name, port, nil
}

// curlShown is as much of an argument as says which it is: the rest could be a
// secret.
func curlShown(arg string) string {
	if i := strings.IndexAny(arg, "?#@"); i >= 0 {
		arg = arg[:i] + "…"
	}
	if len(arg) > 60 {
		arg = arg[:60] + "…"
	}
	return "\"" + arg + "\""
}
