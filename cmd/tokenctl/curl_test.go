package main

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The curl that is there has the options that we know, and each takes a value
// or none as we think: what it took for a URL and we did not would get a token.
func TestCurlOptions(t *testing.T) {
	out, err := exec.Command("curl", "--help", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^ (?:-(.), |    )--(\S+)( [<\[])?`).FindAllStringSubmatch(string(out), -1)
	if len(lines) < 200 {
		t.Fatalf("curl tells of %d options", len(lines))
	}
	for _, l := range lines {
		letter, name, value := l[1], l[2], l[3] != ""
		if has(curlFlags, name) == value || has(curlValues, name) != value {
			t.Errorf("--%s: takes a value is %t here", name, value)
		}
		if letter != "" && curlLetter(letter[0]) != name {
			t.Errorf("-%s is --%s, not --%s", letter, name, curlLetter(letter[0]))
		}
		names, _, _, err := curlOptions("--" + name)
		if err != nil || len(names) != 1 || names[0] != name {
			t.Errorf("--%s: %v, %v", name, names, err)
		}
	}
	for name := range curlRefused {
		if !has(curlFlags+curlValues, name) {
			t.Errorf("--%s is refused, and no option", name)
		}
	}
	for name := range strings.FieldsSeq(curlElsewhere) {
		if !has(curlValues, name) {
			t.Errorf("--%s is no option", name)
		}
	}
}

func TestCurlLine(t *testing.T) {
	for _, tt := range []struct {
		args    string // words; \n for a line break
		origins string
	}{
		{"https://api.example/v1", "https://api.example"},
		{"HTTPS://API.Example:443", "https://api.example"},
		{"https://api.example:0443?a=b", "https://api.example"},
		{"https://api.example:8443#f", "https://api.example:8443"},
		{"http://127.0.0.1:80/", "http://127.0.0.1"},
		{"http://[::1]:8080/", "http://[::1]:8080"},
		{"https://[0:0::1]/", "https://[::1]"},
		{"-k https://localhost:8443/", "https://localhost:8443"},
		{"https://a.example/[1-3]/{x,y}", "https://a.example"},
		{"https://a.example/ https://b.example/", "https://a.example https://b.example"},
		{"--url https://a.example/ -- https://b.example/", "https://a.example https://b.example"},
		{"http://localhost https://a.example", "http://localhost https://a.example"},
		{"-sSfLo https://out.example https://a.example", "https://a.example"},
		{"-ohttps://out.example https://a.example", "https://a.example"},
		{"-d @- -X PUT -H X:1 https://a.example", "https://a.example"},
		{"-e https://r.example --referer https://r.example -x http://proxy:3128 https://a.example", "https://a.example"},
		{"https://a.example --next -sd x https://b.example -: https://c.example", "https://a.example https://b.example https://c.example"},
		{"--no-progress-meter --progress-meter --no-location --resolve a.example:443:127.0.0.1 https://a.example", "https://a.example"},
	} {
		line, err := readCurlLine(curlWords(tt.args))
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		var origins []string
		for _, u := range line.urls {
			origins = append(origins, u.origin)
		}
		if got := strings.Join(origins, " "); got != tt.origins {
			t.Errorf("%s goes to %s, want %s", tt.args, got, tt.origins)
		}
		// Nothing but each --next is taken away.
		all := slices.DeleteFunc(curlWords(tt.args), func(w string) bool { return w == "--next" || w == "-:" })
		if got := slices.Concat(line.operations...); !slices.Equal(got, all) {
			t.Errorf("%s became %q", tt.args, got)
		}
	}
}

func curlWords(s string) []string {
	words := strings.Fields(s)
	for i, w := range words {
		words[i] = strings.NewReplacer(`\n`, "\n", `\s`, " ").Replace(w)
	}
	return words
}

func TestCurlLineRefused(t *testing.T) {
	const a = " https://a.example"
	for args, want := range map[string]string{
		"":                               "URL missing",
		"-s":                             "URL missing",
		"--":                             "URL missing",
		"api.example/v1":                 `"api.example/v1" is no URL; write it in full, with https://`,
		"ftp://a.example":                `"ftp://a.example" is no URL; write it in full, with https://`,
		"https:/a.example":               `"https:/a.example" is no URL; write it in full, with https://`,
		"\\shttps://a.example":           `" https://a.example" is no URL; write it in full, with https://`,
		"{https,http}://a.example":       `"{https,http}://a.example" is no URL; write it in full, with https://`,
		"--url @list":                    `"…" is no URL; write it in full, with https://`,
		"https:///a.example":             `"https:///a.example": the host is no plain name (an international one is written in its xn-- form)`,
		"https://":                       `"https://": the host is no plain name (an international one is written in its xn-- form)`,
		"https://a{b,c}.example":         `"https://a{b,c}.example": the host is no plain name (an international one is written in its xn-- form)`,
		"https://a[1-3].example":         `"https://a[1-3].example": the host is no plain name (an international one is written in its xn-- form)`,
		"https://[1-3].example":          `"https://[1-3].example": no IPv6 address`,
		"https://[a,b]":                  `"https://[a,b]": no IPv6 address`,
		"https://[fe80::1%25eth0]":       `"https://[fe80::1%25eth0]": no IPv6 address`,
		"https://a.example\\\\b.example": `"https://a.example\\b.example": the host is no plain name (an international one is written in its xn-- form)`,
		"https://a.example\\n.b.example": "\"https://a.example\n.b.example\": the host is no plain name (an international one is written in its xn-- form)",
		"https://%61.example":            `"https://%61.example": the host is no plain name (an international one is written in its xn-- form)`,
		"https://ä.example":              `"https://ä.example": the host is no plain name (an international one is written in its xn-- form)`,
		"https://a.example:[1-3]":        `"https://a.example:[1-3]": the host is no plain name (an international one is written in its xn-- form)`,
		"https://a.example:0":            `"https://a.example:0": no port`,
		"https://a.example:65536":        `"https://a.example:65536": no port`,
		"https://a.example:":             `"https://a.example:": no port`,
		"https://me:secret@a.example":    "a user name before the host; the token is the credential",
		"http://a.example":               "http:// sends the token in the clear, and http://a.example is not this machine",
		"http://127.1":                   "http:// sends the token in the clear, and http://127.1 is not this machine",
		"-k" + a:                         "with --insecure anybody can pose as the server, and https://a.example is not this machine",
		"-sk" + a:                        "with --insecure anybody can pose as the server, and https://a.example is not this machine",
		"-x http://p:1 http://localhost": "http:// sends the token in the clear, and --proxy could take it off this machine",
		"--resolve localhost:80:192.0.2.1 http://localhost": "http:// sends the token in the clear, and --resolve could take it off this machine",
		"--connect-to ::b:80 -k https://localhost":          "with --insecure anybody can pose as the server, and --connect-to could take it off this machine",
		"--unix-socket /x http://localhost":                 "http:// sends the token in the clear, and --unix-socket could take it off this machine",
		"--location-trusted" + a:                            "curl's --location-trusted is refused: it sends the token to other hosts",
		"-K file" + a:                                       "curl's --config is refused: it reads options that we do not see",
		"-Kfile" + a:                                        "curl's --config is refused: it reads options that we do not see",
		"-sK file" + a:                                      "curl's --config is refused: it reads options that we do not see",
		"-v" + a:                                            "curl's --verbose is refused: it shows the token; -i and -D show the answer's header fields",
		"-sv" + a:                                           "curl's --verbose is refused: it shows the token; -i and -D show the answer's header fields",
		"--trace - " + a:                                    "curl's --trace is refused: it shows the token; -i and -D show the answer's header fields",
		"--trace-ascii - " + a:                              "curl's --trace-ascii is refused: it shows the token; -i and -D show the answer's header fields",
		"--libcurl f" + a:                                   "curl's --libcurl is refused: it shows the token",
		"-u me:secret" + a:                                  "curl's --user is refused: it sets the Authorization field, which is tokenctl's",
		"--oauth2-bearer x" + a:                             "curl's --oauth2-bearer is refused: it sets the Authorization field, which is tokenctl's",
		"-n" + a:                                            "curl's --netrc is refused: it sets the Authorization field, which is tokenctl's",
		"--request-target http://b.example" + a:             "curl's --request-target is refused: it takes the token to another server than the URL says",
		"-H Host:b" + a:                                     "curl's --header is refused with Host: it takes the token to another server than the URL says",
		"-Hhost;" + a:                                       "curl's --header is refused with Host: it takes the token to another server than the URL says",
		"-H AUTHORIZATION\\s:x" + a:                         "curl's --header is refused with authorization: that field is tokenctl's",
		"--header DPoP:x" + a:                               "curl's --header is refused with dpop: that field is tokenctl's",
		"-H @file" + a:                                      "curl's --header is refused with a file: give each field by itself",
		"-H X:\\nHost:b" + a:                                "curl's --header is refused with a line break",
		"-h":                                                "curl's --help is refused: run curl itself for that",
		"--version":                                         "curl's --version is refused: run curl itself for that",
		"--location-tr" + a:                                 `"--location-tr" is no option of curl's that tokenctl knows; write options in full, and values as the next argument`,
		"--url=https://b.example" + a:                       `"--url=https://b.example" is no option of curl's that tokenctl knows; write options in full, and values as the next argument`,
		"--variable a=b" + a:                                `"--variable" is no option of curl's that tokenctl knows; write options in full, and values as the next argument`,
		"--expand-url {{a}}" + a:                            `"--expand-url" is no option of curl's that tokenctl knows; write options in full, and values as the next argument`,
		"--no-next" + a:                                     `"--no-next" is no option of curl's that tokenctl knows; write options in full, and values as the next argument`,
		"-" + a:                                             `"-" is no option of curl's that tokenctl knows`,
		"-sé" + a:                                           `"-sé" is no option of curl's that tokenctl knows`,
		"-s:" + a:                                           "write curl's --next by itself",
		"https://a.example -d":                              "curl's --data lacks its value",
		"https://a.example -sX":                             "curl's --request lacks its value",
	} {
		_, err := readCurlLine(curlWords(args))
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}
}

// The proof of a DPoP token is for the method that curl uses.
func TestCurlMethod(t *testing.T) {
	for args, want := range map[string]string{
		"": "GET", "-I": "HEAD", "-d x": "POST", "--json {}": "POST", "-F a=b": "POST", "-G -d x": "GET", "-X PATCH -d x": "PATCH", "--data-urlencode a -s": "POST", "-IX GET": "GET",
	} {
		line, err := readCurlLine(curlWords(args + " https://a.example"))
		if err != nil {
			t.Fatal(err)
		}
		if got := line.method(); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
