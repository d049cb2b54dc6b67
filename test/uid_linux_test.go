package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

// stranger is a user who is neither root nor whoever runs the tests.
const stranger = 12345

func init() { programs["intruder"] = intruder }

// intrusion is what an intruder got out of a daemon.
type intrusion struct {
	UID   int
	Bytes int    // that came over a bare connection
	Ended bool   // the daemon closed that
	Token string // by GetToken, with grpc-go, which checks nothing
	Error string
}

// intruder talks to INTRUDER_SOCKET without any of the checks that our own
// client makes.
func intruder() error {
	path := os.Getenv("INTRUDER_SOCKET")
	got := intrusion{UID: os.Geteuid()}
	c, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("the test did not open the socket up: %w", err)
	}
	defer c.Close()
	// An HTTP/2 server would answer to these; one that reads nothing makes
	// writing them fail.
	_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	got.Bytes = len(b)
	got.Ended = !errors.Is(err, os.ErrDeadlineExceeded)

	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := tokendv1grpc.NewTokenServiceClient(conn).GetToken(ctx, &tokendv1.GetTokenRequest{Profile: "p"})
	if err != nil {
		got.Error = err.Error()
	}
	got.Token = resp.GetAccessToken()
	return json.NewEncoder(os.Stdout).Encode(got)
}

// intrude lets user uid try to get at a daemon. There is no skipping this: who
// cannot become another user cannot run these tests.
func intrude(t *testing.T, uid int, socket string) intrusion {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-intruder-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "intruder")
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := finish(t, as(uid, []string{"TOKEND_TEST_AS=intruder", "INTRUDER_SOCKET=" + socket}, program))
	var got intrusion
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || got.UID != uid {
		t.Fatalf("the intruder is to be user %d: %v (as root, or with sudo that asks nothing?)", uid, r)
	}
	return got
}

// openUp makes the socket, and all folders above it that are the test's, as
// loose as can be.
func (h *home) openUp(t *testing.T, socket string) {
	t.Helper()
	argv := []string{"chmod", "0777"}
	for dir := filepath.Dir(socket); strings.HasPrefix(dir, h.root); dir = filepath.Dir(dir) {
		argv = append(argv, dir)
	}
	for _, argv := range [][]string{argv, {"chmod", "0666", socket}} {
		if out, err := asRoot(argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// close undoes openUp as far as the home's own client asks for.
func (h *home) close(t *testing.T, socket string) {
	t.Helper()
	for _, argv := range [][]string{{"chmod", "0700", filepath.Dir(socket)}, {"chmod", "0600", socket}} {
		if out, err := asRoot(argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func wantRefused(t *testing.T, got intrusion) {
	t.Helper()
	if got.Bytes != 0 || !got.Ended || got.Token != "" || got.Error == "" {
		t.Errorf("user %d got in: %d bytes, connection ended: %v, a token: %v", got.UID, got.Bytes, got.Ended, got.Token != "")
	}
}

// A second user is kept out by the daemon alone, even where the socket and all
// folders above it let him in.
func TestSecondUserIsRefused(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "p", c)
	token := h.get(t, "p")
	socket := h.status(t).Socket
	h.openUp(t, socket)
	wantRefused(t, intrude(t, stranger, socket))

	// Neither does his tokenctl get anything.
	for _, dir := range []string{h.bin, h.root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	his := as(stranger, []string{"HOME=/nonexistent", "TOKEND_SOCKET=" + socket, "TOKEND_DIR=" + filepath.Join(h.dir, ".local/share/tokend")},
		filepath.Join(h.bin, "tokenctl"), "get", "p")
	his.Dir = "/"
	if r := finish(t, his); r.code == 0 || r.out != "" || strings.Contains(r.err, token) {
		t.Errorf("tokenctl of another user: %v", r)
	}

	h.close(t, socket)
	if got := h.get(t, "p"); got != token {
		t.Error("the daemon's own user gets another token afterwards")
	}
}

// Root is a second user, too.
func TestRootIsRefused(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := makeHome(t, stranger)
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	if h.get(t, "p") == "" {
		t.Error("an empty token")
	}
	socket := h.status(t).Socket
	wantRefused(t, intrude(t, 0, socket))
	h.openUp(t, socket)
	wantRefused(t, intrude(t, 0, socket))
	h.close(t, socket)
}

// The attack of TestSecondUserIsRefused works on a daemon without the one line
// that it is about: that test can fail.
func TestSecondUserGetsInWithoutTheCheck(t *testing.T) {
	const check = "return p.UID == os.Geteuid()"
	source, err := filepath.Abs("../internal/socket/listen.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), check); n != 1 {
		t.Fatalf("%s has %d times %q, want 1", source, n, check)
	}
	dir := t.TempDir()
	weak := filepath.Join(dir, "listen.go")
	if err := os.WriteFile(weak, []byte(strings.Replace(string(text), check, "return true", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: weak}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", file, "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-o", dir+"/", "tokend/cmd/tokend")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	if err := os.Rename(filepath.Join(dir, "tokend"), filepath.Join(h.bin, "tokend")); err != nil {
		t.Fatal(err)
	}
	h.must(t, "", "init")
	h.must(t, profileOf(s, c), "add", "p")
	token := h.get(t, "p")
	socket := h.status(t).Socket
	h.openUp(t, socket)
	if got := intrude(t, stranger, socket); got.Bytes == 0 || got.Token != token {
		t.Errorf("the attack does not work where nothing is in its way: %+v", got)
	}
	h.close(t, socket)
}
