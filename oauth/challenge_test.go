package oauth

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenges(t *testing.T) {
	type params = map[string]string
	one := func(scheme string, p params) []Challenge { return []Challenge{{scheme, p}} }
	for _, row := range []struct {
		value string
		want  []Challenge
	}{
		{"", nil},
		{" , ,, ", nil},
		{"Bearer", one("bearer", params{})},
		{`Bearer realm="example"`, one("bearer", params{"realm": "example"})},
		{`bEaReR ERROR=invalid_token , Error_Description = "The \"access\" token\\ expired,\x"`,
			one("bearer", params{"error": "invalid_token", "error_description": `The "access" token\ expired,x`})},
		{"Bearer scope=\"a\tb é\"", one("bearer", params{"scope": "a\tb é"})},
		{`Bearer resource_metadata="https://r.example/.well-known/oauth-protected-resource"`,
			one("bearer", params{"resource_metadata": "https://r.example/.well-known/oauth-protected-resource"})},
		{`Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple"`, // RFC 9110 section 11.6.1
			[]Challenge{{"newauth", params{"realm": "apps", "type": "1", "title": `Login to "apps"`}}, {"basic", params{"realm": "simple"}}}},
		{`Negotiate, NTLM TlRMTVNTUAAB==, DPoP algs="ES256 PS256"`,
			[]Challenge{{"negotiate", params{}}, {"ntlm", params{}}, {"dpop", params{"algs": "ES256 PS256"}}}},
		{"Bearer , Basic", []Challenge{{"bearer", params{}}, {"basic", params{}}}},
		{`Bearer realm="",,scope=x,`, one("bearer", params{"realm": "", "scope": "x"})},
		// What comes after something odd is not read.
		{`Bearer error="invalid_token" error_description="no comma", Basic realm="x"`, one("bearer", params{})},
		{`Bearer a=1, b="no end, Basic realm="x`, one("bearer", params{"a": "1"})},
		{`Bearer a=1, b="no end`, one("bearer", params{"a": "1"})},
		{`Bearer a=1, b="\`, one("bearer", params{"a": "1"})},
		{"Bearer a=1, b=\"\x1b[2J\"", one("bearer", params{"a": "1"})},
		{"Bearer a=1, b=\"\\\x00\"", one("bearer", params{"a": "1"})},
		{"Bearer a=1, b=", one("bearer", params{"a": "1"})},
		{"Bearer a=1, =2", one("bearer", params{"a": "1"})},
		{`Bearer a=1, A=2, b=3`, one("bearer", params{"a": "1"})},
		{`Bearer a=1, A=1, Basic realm="x"`, one("bearer", params{"a": "1"})},
		{"Bearer abc def=1", one("bearer", params{})},
		{"Bearer a b", one("bearer", params{})},
		{"Bearer ?", one("bearer", params{})},
		{"Basic, Bearer\trealm=x", one("basic", params{})},
		{"realm=x", nil},
		{`"Bearer"`, nil},
		{"Bär realm=x", nil},
	} {
		if diff := cmp.Diff(row.want, ParseChallenges([]string{row.value})); diff != "" {
			t.Errorf("%q: %s", row.value, diff)
		}
	}
	// One field that is odd does not spoil the next.
	got := ParseChallenges([]string{"?", `Bearer a="`, `Basic realm="x"`})
	if diff := cmp.Diff([]Challenge{{"bearer", params{}}, {"basic", params{"realm": "x"}}}, got); diff != "" {
		t.Error(diff)
	}
}

// What was read, written down again, reads the same; and no control character
// comes out.
func FuzzParseChallenges(f *testing.F) {
	for _, v := range []string{
		`Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple"`,
		`Bearer error="invalid_token", error_description="\\\"", scope=""`, "NTLM abc==, Bearer", "Bearer a =\t1 , ,", `Bearer a="`, "a b c=d",
	} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := ParseChallenges([]string{value})
		var again []string
		for _, c := range got {
			if c.Scheme == "" || c.Scheme != lower(c.Scheme) || c.Params == nil {
				t.Fatalf("%q: %+v", value, got)
			}
			var params []string
			for name, v := range c.Params {
				if name == "" || name != lower(name) || strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }) {
					t.Fatalf("%q: %+v", value, got)
				}
				params = append(params, name+`="`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v)+`"`)
			}
			again = append(again, strings.TrimSpace(c.Scheme+" "+strings.Join(params, ", ")))
		}
		if diff := cmp.Diff(got, ParseChallenges([]string{strings.Join(again, ", ")})); diff != "" {
			t.Fatalf("%q, again %q: %s", value, again, diff)
		}
	})
}
