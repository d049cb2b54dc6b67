package envfile

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDsecFile(t *testing.T) {
	text, err := os.ReadFile("testdata/dsec.env")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []Var{
		{Name: "OAUTH2_TOKEN_URL", Value: "https://auth.example.com/oauth2/token", Line: 1},
		{Name: "CLIENT_ID", Value: "netapi-automation", Line: 2},
		{Name: "CLIENT_SECRET", Value: "your-client-secret", Line: 3},
		{Name: "OAUTH2_SCOPE", Value: "api.read api.write", Line: 4},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What bash agrees on is in bash_test.go; these are the words that it would
// run, and the lines that assignments are found on.
func TestParse(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []Var
	}{
		{"", nil},
		{"\n# nothing\n \t\n", nil},
		{"S=a b", []Var{{Name: "S", Value: "a b", Line: 1}}},
		{"S=a  \tb  \n", []Var{{Name: "S", Value: "a  \tb", Line: 1}}},
		{"S=a b#c d # e'f\nT=1", []Var{{Name: "S", Value: "a b#c d", Line: 1}, {Name: "T", Value: "1", Line: 2}}},
		{"S=https://x/?a=1 https://y/?b=2", []Var{{Name: "S", Value: "https://x/?a=1 https://y/?b=2", Line: 1}}},
		{"S=a ~/b", []Var{{Name: "S", Value: "a ~/b", Line: 1, Expansion: "~/"}}},
		{"A=1; S=a b", []Var{{Name: "A", Value: "1", Line: 1}, {Name: "S", Value: "a b", Line: 1}}},
		{"A=1\nA=2", []Var{{Name: "A", Value: "1", Line: 1}, {Name: "A", Value: "2", Line: 2}}},
		{"A='1\n2' B=3 \\\n C=4\nD=5", []Var{
			{Name: "A", Value: "1\n2", Line: 1},
			{Name: "B", Value: "3", Line: 2},
			{Name: "C", Value: "4", Line: 3},
			{Name: "D", Value: "5", Line: 4},
		}},
	} {
		got, err := Parse([]byte(tt.text))
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%q:\n%s", tt.text, d)
		}
	}
}

func TestParseLeavesExpansions(t *testing.T) {
	for _, tt := range []struct{ source, value, expansion string }{
		{`$HOME`, `$HOME`, "$HOME"},
		{`a$HOME.b$X`, `a$HOME.b$X`, "$HOME"},
		{`"a $HOME"`, `a $HOME`, "$HOME"},
		{`$1x`, `$1x`, "$1"},
		{`$$`, `$$`, "$$"},
		{`"$@"`, `$@`, "$@"},
		{`${X:-"a b}"}c`, `${X:-"a b}"}c`, "${"},
		{`$(cat "a )" (b) 'c)' \))d`, `$(cat "a )" (b) 'c)' \))d`, "$("},
		{`"$(echo "$(echo ")")")"`, `$(echo "$(echo ")")")`, "$("},
		{"$((1+(2)))", "$((1+(2)))", "$("},
		{`$[1+2]`, `$[1+2]`, "$["},
		{"`a b \\` c`d", "`a b \\` c`d", "`"},
		{"\"x`a \"b\"`\"", "x`a \"b\"`", "`"},
		{"$(`echo )`)", "$(`echo )`)", "$("},
		{"$HO\\\nME", "$HOME", "$HOME"},
		{"$\\\nHOME", "$HOME", "$HOME"},
		{`~/x`, `~/x`, "~/"},
		{`~`, `~`, "~"},
		{`~bob/x`, `~bob/x`, "~bob/"},
		{`~bob:x`, `~bob:x`, "~bob"},
		{`/a:~/b`, `/a:~/b`, "~/"},
		{"~\\\n/x", "~/x", "~/"},
		// What bash keeps too.
		{`\$HOME`, `$HOME`, ""},
		{`'$HOME'`, `$HOME`, ""},
		{`"\$HOME \` + "`" + `"`, "$HOME `", ""},
		{`a$`, `a$`, ""},
		{`$/a`, `$/a`, ""},
		{`"$ a$"`, `$ a$`, ""},
		{`"$'x'"`, `$'x'`, ""},
		{`a~/b`, `a~/b`, ""},
		{`"~/b"`, `~/b`, ""},
		{`~"/"b`, `~/b`, ""},
		{`\~/b`, `~/b`, ""},
		{`{a,b}`, `{a,b}`, ""},
		{`*`, `*`, ""},
	} {
		got, err := Parse([]byte("A=" + tt.source + "\nB=1"))
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		if len(got) != 2 || got[0].Value != tt.value || got[0].Expansion != tt.expansion || got[1].Value != "1" {
			t.Errorf("%s: got %+v, want %q expanded %q", tt.source, got, tt.value, tt.expansion)
		}
	}
	for source, expansion := range map[string]string{
		`{a,b}`:         "{",
		`{1..3}`:        "{",
		`{"x":1,"y":2}`: "{",
		`{a}`:           "",
		`{a,b`:          "",
		`'{a,b}'`:       "",
		`a,b}`:          "",
	} {
		got, err := Parse([]byte("export A=" + source))
		if err != nil || got[0].Expansion != expansion {
			t.Errorf("export %s: got %+v, %v, want expansion %q", source, got, err, expansion)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const (
		noAssignment = "not an assignment; write NAME=value (nothing is run here, and a value of several lines stands in quotes)"
		noName       = "not a name in front of '='; a name is letters, digits and '_', and begins with no digit"
		words        = "words behind the value that are not assignments; put a value with spaces in single quotes"
		space        = "a space after '='; write the value directly behind it, in single quotes if it has spaces"
		windows      = `Windows line endings; remove them: tr -d '\r' <FILE >NEWFILE`
		noVariable   = "export without a variable; write export NAME=value"
	)
	for _, tt := range []struct {
		text string
		want Error
	}{
		{"\xef\xbb\xbfA=1\n", Error{1, "", "a byte order mark; save the file as UTF-8 without BOM"}},
		{"A=1\nB=\x00\n", Error{2, "", "a NUL byte; an env file is plain text"}},
		{"A=1\nB=2\r\n", Error{2, "", windows}},
		{"A='1\r\n2'\n", Error{1, "", windows}},
		{"A=1\nB=2\r", Error{2, "", windows}},

		{"\nA='x\ny", Error{2, "A", "the single quote that opens here is never closed"}},
		{"A='\n\n' B=\"x\ny", Error{3, "B", "the double quote that opens here is never closed"}},
		{"A=\"x\\", Error{1, "A", "the double quote that opens here is never closed"}},
		{"A=$(x\n", Error{1, "A", "the $( that opens here is never closed, nor would it be run; put the value in single quotes"}},
		{"A=${x", Error{1, "A", "the ${ that opens here is never closed, nor would it be run; put the value in single quotes"}},
		{"A=\"\n`x", Error{2, "A", "the ` that opens here is never closed, nor would it be run; put the value in single quotes"}},
		{"A=$(\"x", Error{1, "A", "the double quote that opens here is never closed"}},
		{"A=b\\", Error{1, "A", "a backslash at the very end; remove it, or put the value in single quotes"}},
		{"A=$'b'", Error{1, "A", "$'…' is not read here; use '…'"}},
		{`A=x$"b"`, Error{1, "A", `$"…" is not read here; use "…"`}},
		{"A=" + strings.Repeat(`"$(`, 200), Error{1, "A", "too deeply nested"}},

		{"A=b&c", Error{1, "A", "unquoted '&'; put the value in single quotes"}},
		{"A=b | c", Error{1, "A", "unquoted '|'; put the value in single quotes"}},
		{"A=b<c", Error{1, "A", "unquoted '<'; put the value in single quotes"}},
		{"A=b>c", Error{1, "A", "unquoted '>'; put the value in single quotes"}},
		{"A=(b c)", Error{1, "A", "unquoted '('; put the value in single quotes"}},
		{"export A=b)", Error{1, "A", "unquoted ')'; put the value in single quotes"}},
		{"A=b;c", Error{1, "A", "unquoted ';'; put the value in single quotes"}},
		{"A=1 B=b; c d", Error{1, "B", "unquoted ';'; put the value in single quotes"}},
		{"A=b;;", Error{1, "A", "unexpected ';'; write NAME=value"}},
		{"A=b\n;", Error{2, "", "unexpected ';'; write NAME=value"}},

		{"A= b", Error{1, "A", space}},
		{"A= 'b'", Error{1, "A", space}},
		{"A =b", Error{1, "A", "a space before '='; write NAME=value"}},
		{"A= \nB =", Error{2, "B", "a space before '='; write NAME=value"}},
		{"A+=b", Error{1, "A", "'+=' is not read here; write NAME=value with the whole value"}},
		{"A+=", Error{1, "", "'+=' is not read here; write NAME=value with the whole value"}},
		{"A[0]=b", Error{1, "", "no arrays; write NAME=value"}},

		{"A='b' c", Error{1, "A", words}},
		{`A=b\ c d`, Error{1, "A", words}},
		{"A=b \\\nc", Error{2, "A", words}},
		{"A=b $c", Error{1, "A", words}},
		{"A=$b c", Error{1, "A", words}},
		{"A=b 'c'", Error{1, "A", words}},
		{"A=b c; D=e", Error{1, "A", words}},
		{"A=b c D=e", Error{1, "A", words}},
		{"A=b c D+=e", Error{1, "A", words}},
		{"A=b c D[0]=e", Error{1, "A", words}},
		{"A=b MY-VAR=c", Error{1, "A", words}},
		{"A=b export B=c", Error{1, "A", words}},
		{"A=b B=c d", Error{1, "B", words}},
		{"export A=b c", Error{1, "A", words}},
		{"A=b; export B=c -n", Error{1, "B", words}},

		{"export", Error{1, "", noVariable}},
		{"export # x", Error{1, "", noVariable}},
		{"export A", Error{1, "", noAssignment}},
		{"export -p", Error{1, "", noAssignment}},
		{"export 'A=b'", Error{1, "", noAssignment}},
		{"unset A", Error{1, "", noAssignment}},
		{"declare A=b", Error{1, "", noAssignment}},
		{"A=1\n. ./other", Error{2, "", noAssignment}},
		{"(A=1)", Error{1, "", noAssignment}},
		{"'A'=1", Error{1, "", noAssignment}},
		{"1A=b", Error{1, "", noName}},
		{"MY-VAR=b", Error{1, "", noName}},
		{"MY.VAR=b c", Error{1, "", noName}},
		{"Ä=b", Error{1, "", noAssignment}},
		{"=b", Error{1, "", noName}},

		// A key that somebody forgot to quote is not repeated.
		{"K=-----BEGIN KEY-----\nMIIEv/AIBADAN\n", Error{2, "", noAssignment}},
		{"K=-----BEGIN KEY-----\nMIIEvAIBADAN+==\n", Error{2, "", "'+=' is not read here; write NAME=value with the whole value"}},
	} {
		vars, err := Parse([]byte(tt.text))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: got %+v, %v, want an *Error", tt.text, vars, err)
			continue
		}
		if d := cmp.Diff(tt.want, *e); d != "" {
			t.Errorf("%q:\n%s", tt.text, d)
		}
		if vars != nil {
			t.Errorf("%q: got %+v beside the error", tt.text, vars)
		}
	}
}

func TestErrorText(t *testing.T) {
	for text, want := range map[string]string{
		"\n\nCLIENT_SECRET=a;b": "line 3: CLIENT_SECRET: unquoted ';'; put the value in single quotes",
		"export":                "line 1: export without a variable; write export NAME=value",
	} {
		if _, err := Parse([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestFormat(t *testing.T) {
	vars := []Var{
		{Name: "A", Value: ""},
		{Name: "URL", Value: "https://a.example:8443/x,y@z%20+-="},
		{Name: "B", Value: "api.read api.write"},
		{Name: "C", Value: "it's"},
		{Name: "D", Value: "$HOME `x` ~/ \\ \"", Expansion: "$HOME"},
		{Name: "E", Value: "one\r\ntwo\r"},
		{Name: "F", Value: "~/x"},
	}
	const want = `A=
URL=https://a.example:8443/x,y@z%20+-=
B='api.read api.write'
C='it'\''s'
D='$HOME ` + "`x`" + ` ~/ \ "'
E='one` + "\r''\n" + `two` + "\r" + `'
F='~/x'
`
	if d := cmp.Diff(want, string(Format(vars))); d != "" {
		t.Error(d)
	}
	for _, bad := range []Var{{Name: ""}, {Name: "A=1\nB"}, {Name: "1A"}, {Name: "A", Value: "\x00"}} {
		if got, err := Parse(Format([]Var{bad})); err == nil {
			t.Errorf("Format(%+v) is read back as %+v", bad, got)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
	}{
		{"pass show dev/network", []string{"pass", "show", "dev/network"}},
		{"  a\t'b c'\"d $e\"f\\ g \n h ", []string{"a", "b cd $ef g", "h"}},
		{"a ''", []string{"a", ""}},
		{"echo $HOME ~/x $(b c) {d,e} *", []string{"echo", "$HOME", "~/x", "$(b c)", "{d,e}", "*"}},
		{"a b#c A=d", []string{"a", "b#c", "A=d"}},
		{"sh -c 'a | b; c'", []string{"sh", "-c", "a | b; c"}},
	} {
		got, err := Split(tt.line)
		if err != nil {
			t.Errorf("%q: %v", tt.line, err)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%q:\n%s", tt.line, d)
		}
	}
	for line, want := range map[string]string{
		"":        "no program to run",
		" \t\n":   "no program to run",
		"'' a":    "no program to run",
		"a 'b":    "the single quote that opens here is never closed",
		`a "b`:    "the double quote that opens here is never closed",
		`a \`:     "a backslash at the very end; remove it, or put the value in single quotes",
		"a | b":   "unquoted '|'; no shell runs this: quote it, or run sh -c '…'",
		"a;b":     "unquoted ';'; no shell runs this: quote it, or run sh -c '…'",
		"a 2>b":   "unquoted '>'; no shell runs this: quote it, or run sh -c '…'",
		"a #b":    "unquoted '#'; no shell runs this: quote it, or run sh -c '…'",
		"a $'b'":  "$'…' is not read here; use '…'",
		"a $(b c": "the $( that opens here is never closed, nor would it be run; put the value in single quotes",
	} {
		if got, err := Split(line); err == nil || err.Error() != want {
			t.Errorf("%q: got %q, %v, want %s", line, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range corpus {
		f.Add([]byte(s))
	}
	f.Add([]byte("export A={a,b} B=$(x \"`y`\") C=~/d"))
	f.Fuzz(func(t *testing.T, text []byte) {
		vars, err := Parse(text)
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Line < 1 || e.Message == "" || vars != nil {
				t.Fatalf("%#v, %+v", err, vars)
			}
			return
		}
		for _, v := range vars {
			if !ValidName(v.Name) || v.Line < 1 || strings.Contains(v.Value, "\x00") {
				t.Fatalf("%+v", v)
			}
		}
		checkRoundTrip(t, vars)
	})
}

func FuzzFormat(f *testing.F) {
	f.Add("A", "x\r\n'y' $z ~ \\", "B", "")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string) {
		vars := []Var{{Name: n1, Value: v1}, {Name: n2, Value: v2}}
		if ValidName(n1) && ValidName(n2) && !strings.Contains(v1+v2, "\x00") {
			checkRoundTrip(t, vars)
		} else if got, err := Parse(Format(vars)); err == nil {
			t.Fatalf("%+v is read back as %+v", vars, got)
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add("pass show 'a b' \"$c\" \\d")
	f.Fuzz(func(t *testing.T, line string) {
		argv, err := Split(line)
		if (err == nil) != (len(argv) > 0) {
			t.Fatalf("%q, %v", argv, err)
		}
	})
}

// checkRoundTrip checks names and values; lines are new, and what Format
// writes has nothing left to expand.
func checkRoundTrip(t *testing.T, vars []Var) {
	t.Helper()
	text := Format(vars)
	got, err := Parse(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if len(got) != len(vars) {
		t.Fatalf("%q: got %+v, want %+v", text, got, vars)
	}
	for i := range got {
		if got[i].Name != vars[i].Name || got[i].Value != vars[i].Value || got[i].Expansion != "" {
			t.Fatalf("%q: got %+v, want %+v", text, got[i], vars[i])
		}
	}
}
