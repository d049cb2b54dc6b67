package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tokend/test/authserver"
)

// home is a user's, for one test. Its binaries are links of its own, so that
// its daemons can be told from all others by their path.
type home struct {
	root string   // holds everything else; removed at the end
	dir  string   // HOME
	bin  string   // tokend and tokenctl
	env  []string // all of the environment
	uid  int      // who runs them; -1: whoever runs the test
}

// newHome makes a home whose daemon, if there is one at the end of the test, is
// stopped. Sockets have short paths only, which t.TempDir does not give.
func newHome(t *testing.T) *home {
	t.Helper()
	return makeHome(t, -1)
}

func makeHome(t *testing.T, uid int) *home {
	t.Helper()
	root, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{root: root, dir: filepath.Join(root, "home"), bin: filepath.Join(root, "bin"), uid: uid}
	t.Cleanup(func() {
		if out, err := asRoot("rm", "-rf", root).CombinedOutput(); err != nil {
			t.Errorf("removing %s: %v: %s", root, err, out)
		}
	})
	h.env = []string{
		"HOME=" + h.dir,
		"PATH=" + h.bin + string(os.PathListSeparator) + os.Getenv("PATH"),
		"XDG_RUNTIME_DIR=" + filepath.Join(root, "run"),
	}
	for _, dir := range []string{h.dir, h.bin, filepath.Join(root, "run")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.link(t, binDir)
	if uid >= 0 {
		if out, err := asRoot("chown", "-R", strconv.Itoa(uid), root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	t.Cleanup(func() { h.stop(t) })
	return h
}

// link takes the binaries from a folder.
func (h *home) link(t *testing.T, from string) {
	t.Helper()
	for _, name := range []string{"tokend", "tokenctl"} {
		if err := os.Link(filepath.Join(from, name), filepath.Join(h.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// asRoot is a command run by root.
func asRoot(argv ...string) *exec.Cmd {
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	return exec.Command(argv[0], argv[1:]...)
}

// as is a command run by another user, with this environment and no other.
func as(uid int, env []string, argv ...string) *exec.Cmd {
	id := strconv.Itoa(uid)
	return asRoot(append(append([]string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "env", "-i"}, env...), argv...)...)
}

// command is a command run by the home's user in the home's environment, and
// in its folder.
func (h *home) command(argv ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if h.uid >= 0 {
		cmd = as(h.uid, h.env, argv...)
	} else {
		cmd = exec.Command(argv[0], argv[1:]...)
		cmd.Env = h.env
	}
	cmd.Dir = "/"
	return cmd
}

// result is what became of a command.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d, stdout %q, stderr %q", r.code, r.out, r.err)
}

// finish runs a command to its end, which is to come within a minute.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	// What a daemon would inherit must not be waited for.
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return result{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// tokenctl runs tokenctl with text on its standard input.
func (h *home) tokenctl(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := h.command(append([]string{filepath.Join(h.bin, "tokenctl")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, cmd)
}

// must runs tokenctl, which has to succeed, and returns what it printed.
func (h *home) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := h.tokenctl(t, stdin, args...)
	if r.code != 0 {
		t.Fatalf("tokenctl %q: %v", args, r)
	}
	return r.out
}

// get returns the token that tokenctl prints.
func (h *home) get(t *testing.T, args ...string) string {
	t.Helper()
	return strings.TrimSuffix(h.must(t, "", append([]string{"get"}, args...)...), "\n")
}

// wantFailure runs tokenctl, which has to fail with a status, a line that
// holds all of says, and nothing on standard output.
func (h *home) wantFailure(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	r := h.tokenctl(t, "", args...)
	if r.code != code || r.out != "" || !strings.Contains(r.err, says) || strings.Count(r.err, "\n") != 1 {
		t.Errorf("tokenctl %q: %v, want status %d and a line with %q", args, r, code, says)
	}
}

// status is what tests want to know of `tokenctl status -o json`.
type status struct {
	Running      bool   `json:"running"`
	State        string `json:"state"`
	PID          int    `json:"pid"`
	Socket       string `json:"socket"`
	ProfilesDir  string `json:"profiles_dir"`
	IdentityFile string `json:"identity_file"`
	Recipient    string `json:"recipient"`
	LogFile      string `json:"log_file"`
	Protections  []struct {
		Name   string `json:"name"`
		Active bool   `json:"active"`
		Detail string `json:"detail"`
	} `json:"protections"`
}

func (h *home) status(t *testing.T) status {
	t.Helper()
	var s status
	if err := json.Unmarshal([]byte(h.must(t, "", "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// stop ends the home's daemon; none may be left.
func (h *home) stop(t *testing.T) {
	t.Helper()
	if r := h.tokenctl(t, "", "daemon", "stop"); r.code != 0 {
		t.Errorf("stopping: %v", r)
	}
	h.wantNoDaemon(t)
}

// waitFor polls what another process brings about.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// profileOf is a profile's text for a client of a server.
func profileOf(s *authserver.Server, c authserver.Client) string {
	return fmt.Sprintf("OAUTH2_TOKEN_URL=%s\nCLIENT_ID='%s'\nCLIENT_SECRET='%s'\n", s.TokenURL, c.ID, c.Secret)
}

// withProfile is a home with a profile for a client of a server.
func withProfile(t *testing.T, s *authserver.Server, name string, c authserver.Client) *home {
	t.Helper()
	h := newHome(t)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", name)
	return h
}
