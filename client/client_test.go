package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"tokend/client"
	"tokend/client/api"
	"tokend/daemon"
	"tokend/internal/settings"
	"tokend/internal/socket"
	"tokend/test/authserver"
)

var (
	home   string // of all tests, with the daemon's store
	path   string // of the daemon's socket
	server *authserver.Server
	apiURL string // of an API that takes the tokens of dev/network
)

// TestMain runs a daemon for all tests and examples.
func TestMain(m *testing.M) {
	code, err := run(m)
	if err == nil {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		err = goleak.Find()
	}
	if err != nil {
		slog.Error("testing", "err", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	var err error
	if home, err = os.MkdirTemp("", "tokend"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(home)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", settings.Dir, settings.Store} {
		os.Unsetenv(name)
	}
	path = filepath.Join(home, "run", "s")
	os.Setenv("HOME", home)
	os.Setenv(settings.Socket, path)
	os.Setenv(settings.Trust, "all")
	server, err = authserver.Listen(authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
	if err != nil {
		return 0, err
	}
	defer server.Close()
	apiURL = server.ResourceURL

	s, err := settings.Load(nil)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(s.Get(settings.Dir), 0o700); err != nil {
		return 0, err
	}
	l, err := socket.Listen(path)
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- daemon.New(s, "v-test", nil, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	defer func() {
		stop()
		<-served
	}()
	if err := prepare(ctx); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func prepare(ctx context.Context) error {
	var c client.Client
	stream, err := c.Open(ctx, api.MethodInit)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := stream.Send(&api.InitRequest{Start: &api.InitRequestStart{}}); err != nil {
		return err
	}
	if err := stream.Recv(&api.InitResponse{}); err != nil {
		return err
	}
	if err := stream.Recv(&api.InitResponse{}); err != io.EOF {
		return fmt.Errorf("after the last event: %w", err)
	}
	text := "OAUTH2_TOKEN_URL=" + server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=secret\nOAUTH2_SCOPE='read write'\nAPI_URL=" + server.URL + "\n"
	return c.Call(ctx, api.MethodPutProfile, &api.PutProfileRequest{Name: "dev/network", Text: []byte(text)}, &api.PutProfileResponse{})
}

var dev = client.TokenRequest{Profile: "dev/network"}

func TestToken(t *testing.T) {
	var c client.Client
	got, err := c.Token(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(got.ExpiresAt); left > got.ExpiresIn || left < got.ExpiresIn-10*time.Second || got.ExpiresIn > time.Hour || got.ExpiresIn < 59*time.Minute {
		t.Errorf("expires in %v, at %v", got.ExpiresIn, got.ExpiresAt)
	}
	want := client.Token{
		AccessToken: got.AccessToken, Fingerprint: got.Fingerprint, ExpiresAt: got.ExpiresAt, ExpiresIn: got.ExpiresIn,
		Type: "Bearer", Lifetime: time.Hour, Scopes: []string{"read", "write"}, APIOrigins: []string{server.URL},
	}
	if diff := cmp.Diff(want, *got); diff != "" || got.AccessToken == "" || len(got.Fingerprint) != 32 {
		t.Error(diff)
	}
	if got.Header() != "Bearer "+got.AccessToken {
		t.Error("the header is another")
	}
}

func TestTokenPrintsRedacted(t *testing.T) {
	const canary = "CANARY-token"
	token := client.Token{AccessToken: canary, Type: "Bearer", Fingerprint: "0011"}
	const want = "Bearer token [redacted], fingerprint 0011"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{token, &token} {
			if got := fmt.Sprintf(verb, v); got != want {
				t.Errorf("%s of %T gives %q", verb, v, got)
			}
		}
		if got := fmt.Sprintf(verb, []any{token, struct{ T client.Token }{token}}); strings.Contains(got, canary) {
			t.Errorf("%s gives %q", verb, got)
		}
	}
	var b bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("got", "token", token, "pointer", &token, slog.Group("g", "all", []client.Token{token}))
	}
	j, err := json.Marshal(map[string]any{"token": token, "pointer": &token})
	if err != nil {
		t.Fatal(err)
	}
	if text := b.String() + string(j); strings.Contains(text, canary) || strings.Count(text, want) < 6 {
		t.Errorf("logged %s", text)
	}
}

func TestErrors(t *testing.T) {
	var c client.Client
	_, err := c.Token(t.Context(), client.TokenRequest{Profile: "dev/netwrok"})
	var got *client.Error
	if !errors.As(err, &got) {
		t.Fatalf("error is %v", err)
	}
	want := &client.Error{
		Reason: api.ReasonProfileNotFound, Code: 5, Message: "no such profile",
		Metadata: map[string]string{"profile": "dev/netwrok", "suggestion": "dev/network"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err.Error() != "no such profile" {
		t.Errorf("%v: %s", err, diff)
	}
	// What is no reason of ours has a code all the same.
	err = c.Call(t.Context(), "/tokend.v1.TokenService/NoSuchCall", &api.GetTokenRequest{}, &api.GetTokenResponse{})
	if !errors.As(err, &got) || got.Code != 12 || got.Reason != 0 || got.Metadata != nil {
		t.Errorf("an unknown call: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Token(ctx, dev); !errors.Is(err, context.Canceled) {
		t.Errorf("under an ended context: %v", err)
	}
}

func TestOtherDir(t *testing.T) {
	c := client.Client{Dir: filepath.Join(home, "other")}
	_, err := c.Token(t.Context(), dev)
	var got *client.Error
	if !errors.As(err, &got) || got.Reason != api.ReasonSettingsInvalid {
		t.Errorf("error is %v", err)
	}
}

func TestSettingsInvalid(t *testing.T) {
	c := client.Client{Socket: "not/absolute"}
	_, err := c.Token(t.Context(), dev)
	var got *client.Error
	if !errors.As(err, &got) || got.Reason != api.ReasonSettingsInvalid || !strings.Contains(got.Message, "TOKEND_SOCKET") {
		t.Errorf("error is %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	c := client.Client{Socket: filepath.Join(home, "none", "s")}
	if _, err := c.Token(t.Context(), dev); !errors.Is(err, client.ErrNotRunning) || err.Error() != "tokend is not running at "+c.Socket {
		t.Errorf("error is %v", err)
	}
	if _, err := c.Open(t.Context(), api.MethodInit); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("error is %v", err)
	}
}

// A socket that others can reach is not talked to.
func TestSocketOfOthers(t *testing.T) {
	dir := filepath.Join(home, "open")
	l, err := socket.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := client.Client{Socket: filepath.Join(dir, "s"), Autostart: true}
	var unreachable *client.UnreachableError
	if _, err := c.Token(t.Context(), dev); !errors.As(err, &unreachable) || errors.Is(err, client.ErrNotRunning) || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("error is %v", err)
	}
}

// The lock names the daemon's socket to those whose settings say another.
func TestSocketFromTheLock(t *testing.T) {
	s, err := settings.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	lock, _, err := socket.Acquire(t.Context(), s.LockFile())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if err := lock.Publish(path); err != nil {
		t.Fatal(err)
	}
	c := client.Client{Socket: filepath.Join(home, "cron", "s")}
	if _, err := c.Token(t.Context(), dev); err != nil {
		t.Error(err)
	}
}

// listenAs serves connections by f, one after the other, and counts them.
func listenAs(t *testing.T, name string, f func(n int64, c net.Conn)) (socketPath string, count *atomic.Int64) {
	t.Helper()
	socketPath = filepath.Join(home, name, "s")
	l, err := socket.Listen(socketPath)
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(count.Add(1), c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return socketPath, count
}

func TestConnectionClosedBeforeAnyByteIsTriedAgain(t *testing.T) {
	s, count := listenAs(t, "flaky", func(n int64, c net.Conn) {
		if n <= 3 {
			return
		}
		d, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		go io.Copy(c, d)
		io.Copy(d, c)
	})
	c := client.Client{Socket: s}
	if _, err := c.Token(t.Context(), dev); err != nil {
		t.Error(err)
	}
	if n := count.Load(); n != 4 {
		t.Errorf("%d connections, want 4", n)
	}
}

func TestConnectionThatIsAlwaysClosed(t *testing.T) {
	s, count := listenAs(t, "deaf", func(int64, net.Conn) {})
	c := client.Client{Socket: s}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Token(ctx, dev); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if n := count.Load(); n < 2 || n > 300 {
		t.Errorf("%d connections", n)
	}
}

// Once the daemon has said anything, the call may have had its effect.
func TestConnectionThatBreaksIsNotTriedAgain(t *testing.T) {
	s, count := listenAs(t, "broken", func(_ int64, c net.Conn) {
		c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // SETTINGS
		io.ReadFull(c, make([]byte, 24))
	})
	c := client.Client{Socket: s}
	var failed *client.Error
	_, err := c.Token(t.Context(), dev)
	if !errors.Is(err, client.ErrNotRunning) || errors.As(err, &failed) || !strings.HasPrefix(err.Error(), "tokend is not running any more: reading the answer: ") {
		t.Errorf("error is %v", err)
	}
	if n := count.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// However many ask, the daemon's limit of connections is not met.
func TestManyCalls(t *testing.T) {
	var c client.Client
	first, err := c.Token(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			if got, err := c.Token(t.Context(), dev); err != nil || got.AccessToken != first.AccessToken {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	all.Wait()
}

func TestStreamErrors(t *testing.T) {
	var c client.Client
	stream, err := c.Open(t.Context(), api.MethodInit)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := stream.Send(&api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	var failed *client.Error
	if err := stream.Recv(&api.InitResponse{}); !errors.As(err, &failed) || failed.Reason != api.ReasonRequestInvalid {
		t.Errorf("error is %v", err)
	}
}

// program puts a tokend into PATH that is a shell script.
func program(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tokend"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return dir
}

func TestFindTokend(t *testing.T) {
	dir := program(t, "")
	if got, err := client.FindTokend(); err != nil || got != filepath.Join(dir, "tokend") {
		t.Errorf("found %q, %v", got, err)
	}
	// What stands in the folder one happens to be in is not it.
	t.Chdir(dir)
	for _, relative := range []string{".", "", "./", "../" + filepath.Base(dir)} {
		t.Setenv("PATH", relative)
		if got, err := client.FindTokend(); err == nil {
			t.Errorf("PATH=%q: found %q", relative, got)
		}
	}
	t.Setenv("PATH", dir)
	if err := os.Chmod("tokend", 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := client.FindTokend(); err == nil {
		t.Errorf("found %q, which is no program", got)
	}
	c := client.Client{Socket: filepath.Join(home, "none", "s"), Autostart: true}
	if _, err := c.Token(t.Context(), dev); !errors.Is(err, client.ErrNotRunning) || !strings.Contains(err.Error(), "there is no tokend beside this program or in PATH") {
		t.Errorf("error is %v", err)
	}
}

func TestAutostart(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	program(t, `{ pwd; echo "$@"; env | sort | cut -d= -f1; ls /proc/self/fd 2>/dev/null; } >'`+out+`'; echo "ready `+path+`" >&3`)
	t.Setenv("LD_PRELOAD", "")
	t.Setenv("CLIENT_SECRET", "CANARY")
	t.Setenv("https_proxy", "http://proxy.example")
	wanted := filepath.Join(home, "none", "s")
	c := client.Client{Socket: wanted, Autostart: true}
	if _, err := c.Token(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	cwd, rest, _ := strings.Cut(string(b), "\n")
	args, rest, _ := strings.Cut(rest, "\n")
	if cwd != "/" || args != "--ready-fd 3 --log-file "+home+"/.local/state/tokend/tokend.log --socket "+wanted {
		t.Errorf("started in %s with %s", cwd, args)
	}
	for _, name := range []string{"HOME", "PATH", "TOKEND_SOCKET", "TOKEND_TRUST", "https_proxy"} {
		if !strings.Contains(rest, "\n"+name+"\n") && !strings.HasPrefix(rest, name+"\n") {
			t.Errorf("%s was not passed on", name)
		}
	}
	for _, name := range []string{"CLIENT_SECRET", "LD_PRELOAD"} {
		if strings.Contains(rest, name) {
			t.Errorf("%s was passed on", name)
		}
	}
}

func TestAutostartThatFails(t *testing.T) {
	c := client.Client{Socket: filepath.Join(home, "none", "s"), Autostart: true}
	for script, want := range map[string]string{
		`echo "error - the disk is full" >&3; exit 1`: "tokend is not running: it could not start: the disk is full",
		"exit 1": "ended without a word; its log is " + home + "/.local/state/tokend/tokend.log",
	} {
		program(t, script)
		if _, err := c.Token(t.Context(), dev); !errors.Is(err, client.ErrNotRunning) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: error is %v", script, err)
		}
	}
	program(t, `echo "error SETTINGS_INVALID TOKEND_X: no such setting" >&3; exit 78`)
	var failed *client.Error
	_, err := c.Token(t.Context(), dev)
	if !errors.As(err, &failed) {
		t.Fatalf("error is %v", err)
	}
	if diff := cmp.Diff(&client.Error{Reason: api.ReasonSettingsInvalid, Message: "TOKEND_X: no such setting"}, failed); diff != "" {
		t.Error(diff)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	program(t, "read line <'"+fifo+"'")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Token(ctx, dev); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("one that says nothing: %v", err)
	}
	if err := os.WriteFile(fifo, []byte("end\n"), 0); err != nil {
		t.Fatal(err)
	}
}
