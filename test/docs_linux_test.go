package test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokend/test/authserver"
)

// readme returns the indented lines, dedented, of the README between two of its
// lines.
func readme(t *testing.T, from, to string) string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(b), "\n"+from+"\n")
	part, _, ends := strings.Cut(rest, "\n"+to+"\n")
	if !begins || !ends {
		t.Fatalf("README.md has no part from %q to %q", from, to)
	}
	var commands strings.Builder
	for line := range strings.Lines(part) {
		if line, ok := strings.CutPrefix(line, "    "); ok {
			commands.WriteString(line)
		}
	}
	return commands.String()
}

// goEnvironment makes a home without caches of its own use those that are there.
func goEnvironment(t *testing.T) []string {
	t.Helper()
	env := []string{"GOFLAGS=" + os.Getenv("GOFLAGS"), "GOTOOLCHAIN=" + os.Getenv("GOTOOLCHAIN")}
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+strings.TrimSpace(string(out)))
	}
	return env
}

func TestReadmeTour(t *testing.T) {
	c := authserver.Client{ID: "netapi-automation", Secret: "your-client-secret", Scope: "api.read api.write"}
	native := authserver.Client{ID: "my-native-app", Auth: authserver.AuthNone, RedirectURIs: []string{"http://127.0.0.1/callback"}}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c, native}})
	h := newHome(t)
	browser := filepath.Join(h.dir, "browser")
	if err := os.WriteFile(browser, []byte("#!/bin/sh\nexec curl -sL -o /dev/null \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The README's own make installs what the tour runs.
	h.bin = filepath.Join(h.dir, ".local", "bin")
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	tour := readme(t, "## Five minutes with a real provider", "## Where to go next") +
		readme(t, "access tokens from it:", "## Two commands")
	for example, real := range map[string]string{
		"https://auth.example.com/oauth2/token":    s.TokenURL,
		"https://api.example.com/v1/resources":     s.ResourceURL,
		"https://login.example.com":                s.Issuer,
		"tokenctl add dev/network < network.env\n": "tokenctl add dev/network < network.env\n",
		"tokenctl events\n":                        "tokenctl events --recent -n 1\n", // which ends
	} {
		if !strings.Contains(tour, example) {
			t.Fatalf("the tour has no %s:\n%s", example, tour)
		}
		tour = strings.ReplaceAll(tour, example, real)
	}
	script := filepath.Join(h.dir, "tour")
	text := "set -e\nmake() { command make -s -C '" + repository + "' \"$@\"; }\n" + tour
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// As it is typed: on a terminal, where edit opens the editor.
	cmd := exec.Command("script", "-qec", "bash tour", "/dev/null")
	cmd.Dir = h.dir
	cmd.Env = append([]string{
		"HOME=" + h.dir,
		"PATH=" + h.bin + string(os.PathListSeparator) + os.Getenv("PATH"),
		"XDG_RUNTIME_DIR=" + filepath.Join(h.root, "run"),
		"EDITOR=true",
		"BROWSER=" + browser,
		"TERM=dumb",
	}, goEnvironment(t)...)
	h.env = cmd.Env
	r := finish(t, cmd)
	if r.code != 0 {
		t.Fatalf("the tour ends with %d:\n%s%s", r.code, r.out, r.err)
	}
	if n := strings.Count(r.out, `"client_id":"netapi-automation"`); n != 3 {
		t.Errorf("the resource was reached %d times, want 3:\n%s", n, r.out)
	}
	if n := s.Count("/token"); n != 2 {
		t.Errorf("%d token requests, want one, and one for the login", n)
	}
	for _, want := range []string{"Public key age1", "CLIENT_SECRET=********", "nothing changed", "running, pid", "dev/me: logged in; ", "\ndev/network: token good until ", " token made "} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the tour does not show %q:\n%s", want, r.out)
		}
	}
	if _, err := os.Stat(filepath.Join(h.dir, "network.env")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the plain file is left: %v", err)
	}
}

func TestMakeInstall(t *testing.T) {
	prefix := t.TempDir()
	if r := finish(t, exec.Command("make", "-C", "..", "install", "PREFIX="+prefix)); r.code != 0 {
		t.Fatal(r)
	}
	for _, name := range []string{"tokend", "tokenctl"} {
		info, err := os.Stat(filepath.Join(prefix, "bin", name))
		if err != nil || info.Mode().Perm() != 0o111 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if r := finish(t, exec.Command(filepath.Join(prefix, "bin", "tokend"), "--version")); r.code != 0 || !strings.HasPrefix(r.out, "tokend ") {
		t.Error(r)
	}
}

// demo is `make demo` in a process group, a home and a temporary folder of its
// own.
type demo struct {
	cmd       *exec.Cmd
	out       *bufio.Reader
	home, tmp string
	before    []string
}

func startDemo(t *testing.T) *demo {
	t.Helper()
	// As long as macOS has them, since a socket's path must be short.
	root, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	d := &demo{home: t.TempDir(), tmp: filepath.Join(root, strings.Repeat("x", max(1, 48-len(root))))}
	if err := os.Mkdir(d.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.home, ".profile"), []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.before = list(t, d.home)
	d.cmd = exec.Command("make", "-C", "..", "demo")
	d.cmd.Env = append([]string{"HOME=" + d.home, "TMPDIR=" + d.tmp, "PATH=" + os.Getenv("PATH")}, goEnvironment(t)...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	d.cmd.Stdout, d.cmd.Stderr = w, w
	d.out = bufio.NewReader(r)
	err = d.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range d.processes(t) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return d
}

// list returns what is in a folder, with sizes and times of change.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		all = append(all, fmt.Sprint(strings.TrimPrefix(path, dir), " ", info.Mode(), " ", info.Size(), " ", info.ModTime()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// processes returns those that came from the demo: its folder is in their
// command line, or in their environment where that can be read.
func (d *demo) processes(t *testing.T) []int {
	t.Helper()
	var pids []int
	for _, pid := range processes(t, func([]string) bool { return true }) {
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
			if err == nil && strings.Contains(string(b), d.tmp) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// runs reports whether the demo runs a program just now.
func (d *demo) runs(t *testing.T, name string) bool {
	t.Helper()
	named := processes(t, func(argv []string) bool { return filepath.Base(argv[0]) == name })
	return slices.ContainsFunc(d.processes(t), func(pid int) bool { return slices.Contains(named, pid) })
}

// wantNothing checks that all is as it was before.
func (d *demo) wantNothing(t *testing.T) {
	t.Helper()
	if after := list(t, d.home); !slices.Equal(after, d.before) {
		t.Errorf("the home before and after: %q, %q", d.before, after)
	}
	left, err := os.ReadDir(d.tmp)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left in the temporary folder: %v", left)
	}
	if pids := d.processes(t); len(pids) > 0 {
		t.Errorf("left running: %v", pids)
	}
}

func TestDemo(t *testing.T) {
	d := startDemo(t)
	var said strings.Builder
	if _, err := d.out.WriteTo(&said); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("%v:\n%s", err, &said)
	}
	for _, want := range []string{`"client_id":"demo"`, "\n401\n", "age-encryption.org/v1\n", "has seen: 1\n", "That was all."} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the demo does not show %q:\n%s", want, &said)
		}
	}
	d.wantNothing(t)
}

// Ctrl-C goes to the whole process group, at whatever moment.
func TestInterruptedDemo(t *testing.T) {
	for _, test := range []struct {
		name, line string
		running    string // wait until this program runs, too
	}{
		{"at once", "Building", ""},
		{"while it builds", "Building", "go"},
		{"while the server starts", "Starting", ""},
		{"while the daemon starts", "$ tokenctl init", ""},
		{"before the profile", "2. Keep", ""},
		{"with a token", "4. Call", ""},
		{"in the loop", "$ i=0", ""},
		{"at the end", "6. See", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := startDemo(t)
			var said strings.Builder
			for {
				line, err := d.out.ReadString('\n')
				said.WriteString(line)
				if err != nil {
					t.Fatalf("the demo ended before %q: %v\n%s", test.line, err, &said)
				}
				if strings.HasPrefix(line, test.line) {
					break
				}
			}
			if test.running != "" {
				waitFor(t, test.running, func() bool { return d.runs(t, test.running) })
			}
			if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, _ = d.out.WriteTo(&said)
			if err := d.cmd.Wait(); err == nil {
				t.Errorf("the demo went on to its end:\n%s", &said)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it took %v to end", took)
			}
			d.wantNothing(t)
		})
	}
}
