package test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tokend/test/authserver"
)

// In a shell that a person types at, with its history and its line editor, values
// arrive as they are, and go again.
func TestEnvInteractive(t *testing.T) {
	h := newHome(t)
	h.must(t, "", "init")
	const value = "!! !1 !echo it's $(touch ran) `touch ran` \\ ~ \"\t*\nsecond # line"
	h.must(t, "OAUTH2_TOKEN_URL=https://auth.example.com/token\nCLIENT_ID=a\nCLIENT_SECRET=b\nVALUE='"+strings.ReplaceAll(value, "'", `'\''`)+"'\n", "add", "dev/network")
	for shell, start := range map[string]string{
		"bash": "bash --norc --noprofile -i",
		"zsh":  "zsh -f -i",
		"fish": `fish --no-config -C {function fish_prompt; echo -n "READY> "; end}`,
	} {
		t.Run(shell, func(t *testing.T) {
			dir := t.TempDir()
			take, back := `eval \"\$(tokenctl env dev/network)\"`, `eval \"\$(tokenctl env dev/network --unset)\"`
			if shell == "fish" {
				take, back = "tokenctl env dev/network | source", "tokenctl env dev/network --unset | source"
			}
			script := "set timeout 20\nproc line {text} {\n\texpect -ex {READY> } {} timeout { exit 3 } eof { exit 4 }\n\tsend -- \"$text\\r\"\n}\n" +
				"spawn " + start + "\n" +
				"line \"" + take + "\"\nline {printf %s \"$VALUE\" >taken}\nline \"" + back + "\"\nline {env >after; echo done >done}\nline exit\nexpect eof\n"
			file := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := h.command("expect", file)
			cmd.Dir = dir
			cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "SHELL=/bin/"+shell, "PS1=READY> ", "TERM=dumb")
			r := finish(t, cmd)
			got, err := os.ReadFile(filepath.Join(dir, "taken"))
			if err != nil || string(got) != value {
				t.Fatalf("%s took %q, %v: %v", shell, got, err, r)
			}
			after, err := os.ReadFile(filepath.Join(dir, "after"))
			if err != nil || !strings.Contains(string(after), "HOME=") || strings.Contains(string(after), "VALUE=") || strings.Contains(string(after), "CLIENT_") {
				t.Errorf("%s has afterwards %q, %v", shell, after, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Errorf("%s ran a value", shell)
			}
		})
	}
}

// The command takes tokenctl's place: its process, its signals, its end.
func TestExecIsTheCommand(t *testing.T) {
	c := authserver.Client{ID: "dev", Secret: "correct-horse"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "dev/network", c)
	for _, test := range []struct {
		signal syscall.Signal
		trap   bool
	}{{syscall.SIGINT, true}, {syscall.SIGTERM, true}, {syscall.SIGHUP, true}, {syscall.SIGUSR1, true}, {syscall.SIGWINCH, true}, {syscall.SIGTERM, false}, {syscall.SIGKILL, false}} {
		program := "echo $$; while read line; do :; done"
		if test.trap {
			program = fmt.Sprintf("trap 'exit 7' %d; ", test.signal) + program
		}
		cmd := h.command(filepath.Join(h.bin, "tokenctl"), "exec", "-e", "TOKEN:dev/network", "dev/network", "--", "sh", "-c", program)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil || strings.TrimSpace(line) != fmt.Sprint(cmd.Process.Pid) {
			t.Errorf("the shell is process %q, %v, and tokenctl was %d", line, err, cmd.Process.Pid)
		}
		if err := cmd.Process.Signal(test.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		_ = stdin.Close()
		ended := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if test.trap && ended.ExitStatus() != 7 || !test.trap && (!ended.Signaled() || ended.Signal() != test.signal) {
			t.Errorf("%v, trapped %t: %v", test.signal, test.trap, cmd.ProcessState)
		}
	}
}
