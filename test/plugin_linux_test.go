package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age/plugin"
)

// pluginHome is a home with a folder of age plugins that its daemon has in PATH,
// with age-plugin-test in it.
type pluginHome struct {
	*home
	plugins string
	daemon  *tokend
}

func newPluginHome(t *testing.T, allowed string) *pluginHome {
	t.Helper()
	h := &pluginHome{home: newHome(t)}
	h.plugins = filepath.Join(h.root, "plugins")
	h.setenv("PATH", h.plugins+":"+h.bin+":"+os.Getenv("PATH"))
	if out, err := exec.Command("go", "build", "-o", filepath.Join(h.plugins, "age-plugin-test"), "tokend/store/testplugin").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.allow(t, allowed)
	return h
}

// allow starts a daemon that may run these plugins.
func (h *pluginHome) allow(t *testing.T, names string) {
	t.Helper()
	if h.daemon != nil {
		h.must(t, "", "daemon", "stop")
		h.daemon.wait(t)
	}
	write(t, filepath.Join(h.dir, ".config/tokend/config"), "TOKEND_PLUGINS="+names+"\n")
	h.daemon = h.tokend(t)
	if !strings.HasPrefix(h.daemon.ready, "ready ") {
		t.Fatalf("tokend: %q, %s", h.daemon.ready, h.daemon.stderr)
	}
}

// identity is a file with an identity of age-plugin-test, which does the steps
// before it gives a key.
func (h *pluginHome) identity(t *testing.T, steps string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "identity")
	write(t, file, "# of age-plugin-test\n"+plugin.EncodeIdentity("test", []byte(steps))+"\n")
	return file
}

// plant makes a program that leaves a file when it is run, and then hangs.
func (h *pluginHome) plant(t *testing.T, name string) (ran string) {
	t.Helper()
	ran = filepath.Join(h.root, "ran-"+name)
	file := filepath.Join(h.plugins, name)
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	write(t, file, "#!/bin/sh\ntrap '' HUP INT TERM\ntouch '"+ran+"'\nexec sleep 3600\n")
	if err := os.Chmod(file, 0o700); err != nil {
		t.Fatal(err)
	}
	return ran
}

// running are the processes that have been started as one of the plugins, and the
// workers that did.
func (h *pluginHome) running(t *testing.T) []int {
	t.Helper()
	all := processes(t, func(argv []string) bool {
		return argv[0] == "sleep" || strings.Contains(strings.Join(argv, " "), "age-plugin-")
	})
	all = slices.DeleteFunc(all, func(pid int) bool {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err != nil || !strings.Contains(string(environ), h.plugins)
	})
	return append(all, h.workers(t)...)
}

func (h *pluginHome) wantNoneRunning(t *testing.T) {
	t.Helper()
	waitFor(t, "the plugin's end", func() bool { return len(h.running(t)) == 0 })
}

// terminal is what a person does at one: each second word is typed when the one
// before it is seen.
func (h *pluginHome) terminal(t *testing.T, talk []string, argv ...string) result {
	t.Helper()
	script := []string{"set timeout 30", "spawn -noecho " + strings.Join(argv, " ")}
	for i := 0; i < len(talk); i += 2 {
		script = append(script, fmt.Sprintf("expect -ex {%s} {} timeout { exit 98 } eof { exit 99 }", talk[i]), fmt.Sprintf("send {%s}; send \"\\r\"", talk[i+1]))
	}
	script = append(script, "expect eof {} timeout { exit 97 }", "exit [lindex [wait] 3]")
	file := filepath.Join(t.TempDir(), "script")
	write(t, file, strings.Join(script, "\n")+"\n")
	return finish(t, h.command("expect", file))
}

// hangs runs a command at a terminal whose plugin hangs, until it is ended by what
// expect then does.
func (h *pluginHome) hangs(t *testing.T, end string, argv ...string) result {
	t.Helper()
	return h.hangsOnce(t, end, func() bool { return len(h.running(t)) >= 2 }, argv...)
}

// hangsOnce is hangs, with what says that the plugin has begun to.
func (h *pluginHome) hangsOnce(t *testing.T, end string, begun func() bool, argv ...string) result {
	t.Helper()
	seen, file := filepath.Join(t.TempDir(), "seen"), filepath.Join(t.TempDir(), "script")
	write(t, file, "set timeout 30\nspawn -noecho "+strings.Join(argv, " ")+"\nwhile {![file exists {"+seen+"}]} { after 10 }\n"+end+"\n")
	ended := make(chan result, 1)
	cmd := h.command("expect", file)
	go func() { ended <- finish(t, cmd) }()
	waitFor(t, "the plugin", begun)
	write(t, seen, "")
	r := <-ended
	h.wantNoneRunning(t)
	return r
}

const (
	interrupted    = "send \"\\003\"\nexpect eof {} timeout { exit 97 }\nexit [lindex [wait] 3]"
	terminalClosed = "close\nwait"
)

// A plugin asks at the terminal what it wants to know. One that hangs ends with the
// command, however that ends.
func TestPlugin(t *testing.T) {
	t.Parallel()
	h := newPluginHome(t, "test")
	hang := h.identity(t, "hang")
	if r := h.hangs(t, interrupted, "tokenctl", "init", "--plugin", "test", "--plugin-identity", hang); r.code != 130 {
		t.Errorf("init: %v", r)
	}
	h.wantFailure(t, 78, "no identity yet", "list")

	right := []string{
		"age-plugin-test: PIN of the token: ", "1234",
		"age-plugin-test: serial number of the token: ", "42",
		"age-plugin-test: give the key [y: give, n: keep]? ", "y",
	}
	steps := h.identity(t, "message pin serial confirm")
	made := h.terminal(t, right, "tokenctl", "init", "--plugin", "test", "--plugin-identity", steps)
	if made.code != 0 || !strings.Contains(made.out, "touch the") || strings.Contains(made.out, "\x1b[31m") || strings.Contains(made.out, "1234") {
		t.Fatalf("init: %v", made)
	}
	h.must(t, "OAUTH2_TOKEN_URL=https://auth.example.com/token\nCLIENT_ID=a\nCLIENT_SECRET=b\n", "add", "dev/network")
	h.must(t, "", "lock")
	h.wantFailure(t, 5, "locked", "show", "dev/network")
	no := slices.Clone(right)
	no[5] = "n"
	if r := h.terminal(t, no, "tokenctl", "unlock"); r.code != 7 || !strings.Contains(r.out, "the person said no") {
		t.Errorf("keeping the key: %v", r)
	}
	wrong := slices.Clone(right)[:2]
	wrong[1] = "4321"
	if r := h.terminal(t, wrong, "tokenctl", "unlock"); r.code != 7 || !strings.Contains(r.out, "wrong PIN") || strings.Contains(r.out, "4321") {
		t.Errorf("a wrong PIN: %v", r)
	}
	h.wantFailure(t, 5, "locked", "show", "dev/network")
	if r := h.terminal(t, right, "tokenctl", "unlock"); r.code != 0 {
		t.Errorf("unlock: %v", r)
	}
	h.must(t, "", "show", "dev/network")
	h.wantNoneRunning(t)

	h.must(t, "", "lock")
	ran := h.plant(t, "age-plugin-test")
	for _, end := range []string{terminalClosed, interrupted} {
		h.hangs(t, end, "tokenctl", "unlock")
		if _, err := os.Stat(ran); err != nil {
			t.Error(err)
		}
		h.wantFailure(t, 5, "locked", "show", "dev/network")
	}
}

// Only what the configuration names is run, whatever is in PATH and whatever the
// identity's files say.
func TestPluginNotAllowed(t *testing.T) {
	t.Parallel()
	h := newPluginHome(t, "test")
	planted := h.plant(t, "age-plugin-planted")
	wantNotRun := func(ran string) {
		t.Helper()
		if _, err := os.Stat(ran); !os.IsNotExist(err) {
			t.Errorf("%s: it was run: %v", ran, err)
		}
	}
	const says = `the age plugin "planted" may not be run; add to the configuration: TOKEND_PLUGINS=planted`
	h.wantFailure(t, 78, says, "init", "--plugin", "planted")
	h.must(t, "", "init", "--plugin", "test")
	h.wantFailure(t, 78, says, "protect", "--plugin", "planted")
	wantNotRun(planted)
	h.allow(t, "test planted")
	h.must(t, "", "unlock")
	h.hangsOnce(t, interrupted, func() bool { // allowed, it is run
		_, err := os.Stat(planted)
		return err == nil
	}, "tokenctl", "protect", "--plugin", "planted")

	test := h.plant(t, "age-plugin-test")
	h.allow(t, "planted")
	h.wantFailure(t, 78, "add to the configuration: TOKEND_PLUGINS=test", "unlock")
	wantNotRun(test)
	h.allow(t, "test")
	h.hangs(t, interrupted, "tokenctl", "unlock")
	if _, err := os.Stat(test); err != nil {
		t.Errorf("allowed, it was not run: %v", err)
	}
}
