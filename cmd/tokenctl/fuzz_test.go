package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"rsc.io/qr"

	"tokend/client/api"
	"tokend/internal/envfile"
	"tokend/profile"
	"tokend/store"
)

// obeyed says whether a terminal would do more than show s.
func obeyed(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && !strconv.IsPrint(r) })
}

// Whatever a server, a file or a profile says is shown, and nothing of it obeyed,
// on one line where one is wanted; JSON stays the same JSON.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"plain", "\x1b]0;title\x07\x1b[2J", "a\nb\r\n", "\u202egnp.exe", "\u009b2J", "\xff\xfe", "é ü 日本", "\u2028", "\U000e0041", "a\tb\x00c\x7f", "\ufeff", "\u00a0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := oneLine(s)
		if obeyed(line) || strings.Contains(line, "\n") || !utf8.ValidString(line) {
			t.Fatalf("%q became %q", s, line)
		}
		if text := printable(s); obeyed(text) || strings.Count(text, "\n") != strings.Count(s, "\n") || !obeyed(s) && utf8.ValidString(s) && text != s {
			t.Fatalf("%q became %q", s, text)
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		text := printableJSON(b.String())
		var got, want string
		if obeyed(text) || json.Unmarshal([]byte(text), &got) != nil || json.Unmarshal(b.Bytes(), &want) != nil || got != want {
			t.Fatalf("%q became %s", s, text)
		}
	})
}

// Claims that a server sends are shown, whatever is in them.
func FuzzInspection(f *testing.F) {
	for _, text := range []string{
		`{"sub":"a\u001b[2J","exp":1800000000,"iat":1e300,"nbf":-1,"auth_time":274877906943,"aud":["a"],"\u001b":null}`, `{"exp":"1"}`, `{}`, `[]`, `{"a":` + strings.Repeat("[", 100), "{\"\u202e\":\"\\ud800\"}",
	} {
		f.Add([]byte(text), "DPoP")
	}
	f.Fuzz(func(t *testing.T, text []byte, kind string) {
		claims := make(map[string]json.RawMessage)
		if json.Unmarshal(text, &claims) != nil {
			return
		}
		for _, source := range []api.Source{api.SourceNone, api.SourceJwt, api.SourceIntrospection} {
			r := &api.IntrospectTokenResponse{Claims: string(text), TokenType: kind, Fingerprint: kind, Source: source, ExpiresAt: time.Unix(1_800_000_000, 0)}
			if shown := inspectionText(r, claims); obeyed(shown) {
				t.Fatalf("%q is shown as %q", text, shown)
			}
			if _, err := json.Marshal(inspectionJSON("a", r)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An address that a server names is opened where no program's argument, nor a
// shell's double quotes, make more of it; and its QR code is drawn or left out.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		"https://as.example/device?user_code=AB-CD", "http://127.0.0.1:1/", "http://[::1]/", "http://localhost.evil.example/", "https://as.example/$(id)", "-https://a", "https://u@a", "javascript:1", "https://a\u202e",
		"HTTPS://A", "https:///x", "http://127.1/", "file:///etc/passwd", "https://a/%0a%00",
	} {
		f.Add(s)
	}
	f.Setenv("BROWSER", "a %s:b  -c")
	f.Fuzz(func(t *testing.T, s string) {
		if openable(s) {
			if strings.ContainsAny(s, " \"'`$<>\\^{|}\n") || obeyed(s) || !strings.HasPrefix(strings.ToLower(s), "http") || hostOf(s) == "" {
				t.Fatalf("%q is opened", s)
			}
			for _, argv := range browsers(s) {
				if argv[len(argv)-1] != s {
					t.Fatalf("%q", argv)
				}
			}
		}
		if len(s) > 512 {
			return
		}
		code, err := qr.Encode(s, qr.L)
		if err != nil {
			return
		}
		lines := strings.Split(strings.TrimSuffix(halfBlocks(code), "\n"), "\n")
		if len(lines) != (code.Size+2*quiet+1)/2 {
			t.Fatalf("%q has %d lines", s, len(lines))
		}
	})
}

// A file of another program makes a profile whose name is one, whose text can be
// written and read, and that says nothing of the file's secrets where it cannot.
func FuzzForeignFiles(f *testing.F) {
	for _, text := range []string{
		`{"type":"service_account","project_id":"p","private_key_id":"k","private_key":"CANARY-key","client_email":"me@p.iam.gserviceaccount.com","token_uri":"https://evil.example/t"}`,
		`{"installed":{"client_id":"i","client_secret":"CANARY-key","project_id":"../x.env.age"}}`, `{"web":{}}`, `{"type":"authorized_user"}`, `{"type":"\u001b[2J"}`,
		`{"client_id":"i","client_secret":"CANARY-key","openid_discovery_endpoint":"https://as.example/.well-known/openid-configuration","x":1}`,
		`{"name":"a b\n","issuer_url":"https://as.example/","client_id":"i","client_secret":"CANARY-key","refresh_token":"CANARY-key","scope":"max","redirect_uris":["http://localhost:8080","edu.kit.data.oidc-agent:/redirect"],"cert_path":"/x","username":"u","password":"CANARY-key","daeSetByUser":1,"device_authorization_endpoint":"https://as.example/d"}`,
		`{"name":[],"issuer":"https://a","client_id":1}`, `{"client_id":"i` + "\\u0000" + `","openid_discovery_endpoint":"::"}`, `null`,
	} {
		f.Add([]byte(text))
	}
	file := f.TempDir() + "/file.json"
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		check := func(put *api.PutProfileRequest, err error) {
			if err != nil {
				if strings.Contains(err.Error(), "CANARY") || put != nil {
					t.Fatalf("%v, %v", put, err)
				}
				return
			}
			if err := store.CheckName(put.Name); err != nil {
				t.Fatal(err)
			}
			var vars []envfile.Var
			for _, v := range put.Variables.Variables {
				if !envfile.ValidName(v.Name) || v.Value == "" {
					t.Fatalf("%+v", v)
				}
				if strings.Contains(v.Value, "\x00") {
					return // the daemon says so
				}
				vars = append(vars, envfile.Var{Name: v.Name, Value: v.Value})
			}
			parsed, err := envfile.Parse(profile.Format(vars))
			if err != nil || len(parsed) != len(vars) {
				t.Fatalf("%v: %v", parsed, err)
			}
			for i, v := range parsed {
				if v.Name != vars[i].Name || v.Value != vars[i].Value || v.Expansion != "" {
					t.Fatalf("%+v became %+v", vars[i], v)
				}
			}
		}
		put, err := fromGoogle(file, "", "a b")
		check(put, err)
		put, _, err = fromOAuth2c(file, "", "", "a b", text)
		check(put, err)
		put, _, err = fromOIDCAgent(file, "", text)
		check(put, err)
	})
}
