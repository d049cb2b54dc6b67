package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// evaluators run the text in a file as the help of env says, and then print the
// environment.
var evaluators = map[string][]string{
	"bash": {"bash", "--norc", "--noprofile", "-c", `eval "$(cat "$1")" && exec /usr/bin/env -0`, "bash"},
	"zsh":  {"zsh", "-f", "-c", `eval "$(cat "$1")" && exec /usr/bin/env -0`, "zsh"},
	"dash": {"dash", "-c", `eval "$(cat "$1")" && exec /usr/bin/env -0`, "dash"},
	"sh":   {"sh", "-c", `eval "$(cat "$1")" && exec /usr/bin/env -0`, "sh"},
	"fish": {"fish", "--no-config", "-c", `cat $argv[1] | source; and exec /usr/bin/env -0`},
}

// evaluate lets a shell evaluate text in an empty folder, and returns its
// environment.
func evaluate(t *testing.T, shell, text string, environ ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := evaluators[shell]
	cmd := exec.Command(argv[0], append(argv[1:], file)...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, environ...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v: %s", shell, err, stderr.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatalf("%s ran a value: %v, %v", shell, left, err)
	}
	vars := make(map[string]string)
	for kv := range strings.SplitSeq(string(out), "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok {
			vars[name] = value
		}
	}
	return vars
}

// roundTrip holds every shell to giving values back as they are, and to
// forgetting them.
func roundTrip(t *testing.T, values []string, environ ...string) {
	t.Helper()
	for _, shell := range shells {
		var set, unset strings.Builder
		for i, v := range values {
			name := fmt.Sprintf("V%d", i)
			set.WriteString(assignment(shell, name, v))
			unset.WriteString(unassignment(shell, name))
		}
		got := evaluate(t, shell, set.String(), environ...)
		for i, want := range values {
			if v, ok := got[fmt.Sprintf("V%d", i)]; !ok || v != want {
				t.Errorf("%s made %q of %q", shell, v, want)
			}
		}
		// What was set before, and what never was.
		unset.WriteString(unassignment(shell, "NEVER_SET"))
		if shell == "fish" {
			unset.WriteString("true\n") // set -e of what is not there is a failure, which nobody sees
		}
		for name := range evaluate(t, shell, set.String()+unset.String(), environ...) {
			if strings.HasPrefix(name, "V") && name != "VENDOR" {
				t.Errorf("%s keeps %s", shell, name)
			}
		}
	}
}

func TestQuote(t *testing.T) {
	values := []string{
		"", " ", "~", "~/x", "~root", "=ls", "=", "a=b", "!", "!!", "wow!$", "!touch ran", "-n", "--", "-e", "*", "?", "[a]", "{a,b}", "#c", "a #c",
		"'", "''", "'''", `\`, `\\`, `\'`, `'\`, `'\''`, `\n`, `\x41`, `"`, `"'"`, "`touch ran`", "$(touch ran)", "${HOME}", "$HOME", "$'a'",
		"'; touch ran; '", "'\ntouch ran\n'", "\ntouch ran\n", "\\'; touch ran #", "a; touch ran", "a && touch ran", "a | touch ran", "(touch ran)", "<(touch ran)", "%self", "^a^b",
		"a\nb", "\n", "a\n\n", "\r\n", "\r", "\t", "\x1b[31m", "\xff\xfe", "\xc3(", "\xed\xa0\x80", "é", "日本", "\u202e", "\ufdd0", "\uf600", "\uf6ff", "\uffff", "\U0010ffff",
		"a[$(touch ran)]", strings.Repeat("x'\\ \n", 20000),
	}
	var all []byte
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
		values = append(values, string([]byte{byte(b)}), string([]byte{'a', byte(b), 'b'}), string([]byte{byte(b), '\'', byte(b), '\\'}))
	}
	values = append(values, string(all))
	roundTrip(t, values)
	roundTrip(t, values, "LC_ALL=C.UTF-8")
}

// FuzzQuote takes many values at a time, with NUL between them, because
// starting the shells is what takes time.
func FuzzQuote(f *testing.F) {
	f.Add([]byte("a\x00'b\x00\\"), true)
	f.Add([]byte("$(touch ran)\x00'; touch ran; '\x00\xf0\x9f"), false)
	f.Fuzz(func(t *testing.T, text []byte, utf8 bool) {
		if len(text) > 64<<10 {
			return
		}
		environ := []string{"LC_ALL=C"}
		if utf8 {
			environ[0] += ".UTF-8"
		}
		roundTrip(t, strings.Split(string(text), "\x00"), environ...)
	})
}

// What a shell does with a variable of its own is not to set it, or to run it:
// each that a shell knows is either refused or nothing special.
func TestShellsOwnNames(t *testing.T) {
	list := map[string]string{
		"bash": "compgen -v",
		"dash": "set | sed 's/=.*//'",
		"sh":   "set | sed 's/=.*//'",
		"zsh":  "zmodload zsh/parameter zsh/zle zsh/system zsh/langinfo zsh/terminfo zsh/termcap zsh/watch 2>/dev/null; print -l ${(k)parameters}",
		"fish": "set -n",
	}
	const value = "a[$(touch ran)]"
	// Those that are not there before somebody sets them.
	const documented = " auto_resume BASH_COMPAT BASH_ENV BASH_XTRACEFD CHILD_MAX COMP_WORDBREAKS COPROC EMACS ENV EXECIGNORE FCEDIT FIGNORE FUNCNEST GLOBIGNORE " +
		"GLOBSORT HISTCONTROL HISTFILE HISTIGNORE HISTTIMEFORMAT HOSTFILE IGNOREEOF INPUTRC INSIDE_EMACS MAIL MAILCHECK MAILPATH MAPFILE " +
		"POSIXLY_CORRECT PROMPT_COMMAND PROMPT_DIRTRIM PS0 PS4 READLINE_LINE REPLY TIMEFORMAT TMOUT TMPDIR EPOCHSECONDS SRANDOM BASHPID BASH_ARGV0 " +
		"CORRECT_IGNORE NULLCMD READNULLCMD STTY RPROMPT2 ZDOTDIR ZLE_LINE_ABORTED fish_greeting fish_color_command CMD_DURATION FISH_VERSION SHLVL PWD "
	for _, shell := range shells {
		argv := append(evaluators[shell][:len(evaluators[shell]):len(evaluators[shell])], "")
		for i, arg := range argv {
			if arg == "-c" {
				argv = append(argv[:i+1:i+1], list[shell])
			}
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", shell, err)
		}
		names := strings.Fields(string(out) + documented)
		if !strings.Contains("\n"+string(out), "\nPATH\n") {
			t.Fatalf("%s knows no PATH: %v", shell, names)
		}
		var text strings.Builder
		var may []string
		for _, name := range names {
			if name[0] == '_' || 'A' <= name[0] && name[0] <= 'Z' || 'a' <= name[0] && name[0] <= 'z' {
				if whyRefused(name, shell) == "" {
					may = append(may, name)
					text.WriteString(assignment(shell, name, value))
				}
			}
		}
		got := evaluate(t, shell, text.String())
		for _, name := range may {
			if got[name] != value {
				t.Errorf("%s has %s for itself, and makes %q of it", shell, name, got[name])
			}
		}
		t.Logf("%s: %d names, of which %v may be set", shell, len(names), may)
	}
}

// What makes a program load, run or believe something else is refused; what commonly
// stands beside credentials is not.
func TestRefusedNames(t *testing.T) {
	for name := range strings.FieldsSeq("LD_PRELOAD GIO_EXTRA_MODULES SSH_SK_PROVIDER SSH_SK_HELPER SSH_PKCS11_HELPER RSYNC_CONNECT_PROG GTK_MODULES GTK_PATH " +
		"QT_PLUGIN_PATH QML2_IMPORT_PATH GST_PLUGIN_PATH_1_0 VK_LAYER_PATH LIBGL_DRIVERS_PATH VIMINIT EXINIT EMACSLOADPATH AWKLIBPATH AWKPATH SASL_PATH " +
		"PKCS11_MODULE_PATH GCC_EXEC_PREFIX COMPILER_PATH CONFIG_SHELL CARGO_BUILD_RUSTC CGO_CFLAGS CC CXX PKG_CONFIG_PATH MAVEN_OPTS GRADLE_OPTS " +
		"ELECTRON_RUN_AS_NODE ANSIBLE_CONFIG TF_CLI_ARGS TF_CLI_CONFIG_FILE GNUPGHOME KRB5_CONFIG AWS_CONFIG_FILE KUBECONFIG DOCKER_CONFIG PIP_INDEX_URL UV_INDEX_URL WGETRC PSQLRC") {
		if whyRefused(name, "") == "" {
			t.Errorf("%s may be set", name)
		}
	}
	for name := range strings.FieldsSeq("CLIENT_ID CLIENT_SECRET OAUTH2_TOKEN_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION HTTPS_PROXY DATABASE_URL PGPASSWORD TF_VAR_token GITHUB_TOKEN VAULT_ADDR CARGO_REGISTRY_TOKEN UV_PUBLISH_TOKEN PKCS11_PIN MAVEN_PASSWORD") {
		if why := whyRefused(name, ""); why != "" {
			t.Errorf("%s %s", name, why)
		}
	}
}
