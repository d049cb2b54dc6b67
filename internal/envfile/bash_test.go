package envfile

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpus is what people write into env files, and the corners of bash's
// quoting. All of it parses and has nothing to expand.
var corpus = []string{
	"A=1",
	"A=1\nB=2\n\n# c\n  # d\n\tC=3  \n",
	"export A=1\nexport  B=2 C=3\nexport\tD=4 # e",
	"A=1 B=2;C=3; D=4;\nE=5 ; # f\nF=6;#g",
	"A=1; export A\nB=2\nexport B A C=3",
	"A=\nB= \nC=''\nD=\"\" E= F=1",
	"A=1\nA=2\nA=",
	"A=a'b'\"c\"d\\e",
	"A=a#b B='#c' C=''#d D=#e",
	"A='$x `y` \\ \"z\" #'",
	`A="\$x \` + "`" + `y\` + "`" + ` \\ \"z\" \n \' #"`,
	`A=\$x\ \"\'\\\;\#\~`,
	"A=\"one\\\ntwo\" B=o\\\nne C='one\\\ntwo' D=1 \\\n E=2",
	"A\\\nB=1\nex\\\nport C\\\n=\\\n2",
	"# c \\\nA=1",
	"\\\nA=1\\\n\\\n",
	"A=1\\\n",
	"A='\n\n' B=\"\n\" C=x",
	"A=$ B=$/ C=\"$ \" D=\"x$\" E=a$. F=$% G=$:",
	"A=a=b==c B==",
	"A=a~b B='~/x' C=\\~/x D=x:\\~ E=~\"/x\" F=a=~/x",
	"A={a,b} B=* C=[a-z] D=? E=!x F=^y G=@ H=%",
	"export A={a} B={a,b C=a,b} D='{a,b}' E={'a,b'} F=*",
	"A=é B='ü' C=\xff\xfe D=\x01\x7f\x1b E='\x01' F=\"\x7f\x02\"",
	"A=a\rb B='\r' C=\v\f",
	"if=1 export=2 function=3 time=4 _a=5",
	"PRIVATE_KEY=\"-----BEGIN KEY-----\nMIIEvAIB+/==\n-----END KEY-----\n\"\nB='-----BEGIN\nX=1\n'\n",
	"A=http://u:p@h/?q#f,%20+-_.",
	"A=\"it's\" B='say \"hi\"' C='it'\\''s'",
	"A=\"!x\" B=\"a\\!b\" C=!!",
	"A=a\\\tb B='\t'",
	"A=\\\\\nB=2",
	"\tA=1\t\tB=2\t;\tC=3\t#x",
}

// bashReads returns what bash makes of text. Names that bash itself exports
// are left out.
func bashReads(t *testing.T, text []byte) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("env", "-i", "bash", "--norc", "--noprofile", "-c", "set -a; . ./file; env -0")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("bash: %v\n%s\n%q", err, &stderr, text)
	}
	return environment(string(out))
}

func environment(out string) map[string]string {
	env := map[string]string{}
	for kv := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		switch k, v, _ := strings.Cut(kv, "="); k {
		case "", "_", "PWD", "OLDPWD", "SHLVL":
		default:
			env[k] = v
		}
	}
	return env
}

func lastOf(vars []Var) map[string]string {
	env := map[string]string{}
	for _, v := range vars {
		env[v.Name] = v.Value
	}
	return env
}

func TestBashReadsTheSame(t *testing.T) {
	for _, text := range corpus {
		vars, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for _, v := range vars {
			if v.Expansion != "" {
				t.Errorf("%q: %s has an expansion", text, v.Name)
			}
		}
		want := bashReads(t, []byte(text))
		if d := cmp.Diff(want, lastOf(vars)); d != "" {
			t.Errorf("%q: bash -, Parse +\n%s", text, d)
		}
		if d := cmp.Diff(want, bashReads(t, Format(vars))); d != "" {
			t.Errorf("%q: bash of the file -, of Format +\n%s", text, d)
		}
	}
}

// TestBashReadsRandomTexts puts random texts that Parse accepts before one bash.
func TestBashReadsRandomTexts(t *testing.T) {
	pieces := []string{
		"A=", "B=", "\nA=", "\nB=", " C=", ";D=", "; B=", "export ", "\nexport ", "\n",
		" ", "\t", "'", "'", "\"", "\"", "\\", "\\\n", "#", ";", "$", "$", "=",
		"~", "/", ":", "{", ",", "..", "}", "x", "yz", "0", "'x y'", "\"x y\"",
		"\\$", "\\\"", "\r", "\x01", "\x7f", "\xc3\xa9", "*", "!", "[", "]", "?", "-",
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var texts []string
	for len(texts) < 600 {
		var b strings.Builder
		for range 1 + rnd.IntN(14) {
			b.WriteString(pieces[rnd.IntN(len(pieces))])
		}
		text := b.String()
		vars, err := Parse([]byte(text))
		if err != nil || len(vars) == 0 || runsACommand(vars) {
			continue
		}
		// Every second text is one of Format's.
		if len(texts)%2 == 1 {
			text = string(Format(vars))
		} else if expands(vars) {
			continue
		}
		texts = append(texts, text)
	}
	checkAgainstBash(t, texts)
}

func expands(vars []Var) bool {
	for _, v := range vars {
		if v.Expansion != "" {
			return true
		}
	}
	return false
}

// runsACommand errs on the safe side: a value of plain words is one that bash
// would try to run. Most quoted blanks are lost with it; the corpus has those.
func runsACommand(vars []Var) bool {
	for _, v := range vars {
		if strings.ContainsAny(v.Value, blanks) && v.Value != "x y" {
			return true
		}
	}
	return false
}

func checkAgainstBash(t *testing.T, texts []string) {
	t.Helper()
	dir := t.TempDir()
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`PATH=/nowhere
for ((i = 0; i < %d; i++)); do
	(set -a; . "./$i" 2>"$i.err"; exec %s -0) >"$i.out"
done`, len(texts), env)
	cmd := exec.Command("bash", "--norc", "--noprofile", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("bash: %v\n%s", err, out)
	}
	for i, text := range texts {
		out, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i)+".out"))
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i)+".err"))
		if err != nil {
			t.Fatal(err)
		}
		vars, err := Parse([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		got := environment(string(out))
		delete(got, "PATH")
		if !maps.Equal(got, lastOf(vars)) || len(stderr) > 0 {
			t.Errorf("%q:\nbash  %q %s\nParse %q", text, got, stderr, lastOf(vars))
		}
	}
}
