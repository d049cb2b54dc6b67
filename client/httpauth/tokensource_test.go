package httpauth_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tokend/client"
	"tokend/client/api"
	"tokend/client/httpauth"
	"tokend/daemon"
	"tokend/internal/settings"
	"tokend/internal/socket"
	"tokend/test/authserver"
)

// server is the authorization server behind the profile dev/network, and
// apiURL is an API that takes its tokens.
var (
	server *authserver.Server
	apiURL string
)

// TestMain runs a daemon for all tests and examples, in a home of its own.
func TestMain(m *testing.M) {
	code, err := run(m)
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		slog.Error("testing", "err", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	home, err := os.MkdirTemp("", "tokend")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(home)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", settings.Dir, settings.Store} {
		os.Unsetenv(name)
	}
	os.Setenv("HOME", home)
	os.Setenv(settings.Socket, filepath.Join(home, "run", "s"))
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
	l, err := socket.Listen(s.Get(settings.Socket))
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- daemon.New(s, "test", nil, slog.New(&reports)).Serve(ctx, l) }()
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
	c := &client.Client{}
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
	if err := put(ctx, "dev/api", "API_URL="+server.URL, ""); err != nil {
		return err
	}
	return put(ctx, "dev/network", "OAUTH2_SCOPE=read", "")
}

func put(ctx context.Context, name, line, replaces string) error {
	text := "OAUTH2_TOKEN_URL=" + server.TokenURL + "\nCLIENT_ID=client\nCLIENT_SECRET=secret\n" + line + "\n"
	return (&client.Client{}).Call(ctx, api.MethodPutProfile, &api.PutProfileRequest{
		Name: name, Text: []byte(text), Replaces: replaces,
	}, &api.PutProfileResponse{})
}

func TestTokenSource(t *testing.T) {
	c := &client.Client{}
	source := httpauth.TokenSource(t.Context(), c, client.TokenRequest{Profile: "dev/network", MinValid: time.Minute})
	first, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	n := server.Count("/token")
	if left := time.Until(first.Expiry); first.TokenType != "Bearer" || !first.Valid() || left > time.Hour || left < 58*time.Minute {
		t.Errorf("%s token, valid: %t, for %v", first.TokenType, first.Valid(), left)
	}
	again, err := source.Token()
	if err != nil || again.AccessToken != first.AccessToken || server.Count("/token") != n {
		t.Errorf("the daemon's cache is not used: %v", err)
	}

	// An edit is seen by the next call, long before the token expires.
	version := &api.GetProfileResponse{}
	if err := c.Call(t.Context(), api.MethodGetProfile, &api.GetProfileRequest{Name: "dev/network"}, version); err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), "dev/network", "OAUTH2_SCOPE=write", version.Version); err != nil {
		t.Fatal(err)
	}
	edited, err := source.Token()
	if err != nil || edited.AccessToken == first.AccessToken {
		t.Errorf("the old text's token: %v", err)
	}
}

func TestTokenSourceErrors(t *testing.T) {
	c := &client.Client{}
	var call *client.Error
	if token, err := httpauth.TokenSource(t.Context(), c, client.TokenRequest{Profile: "missing"}).Token(); token != nil || !errors.As(err, &call) || call.Reason != api.ReasonProfileNotFound {
		t.Errorf("got %v, %v", token, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := httpauth.TokenSource(ctx, c, client.TokenRequest{Profile: "dev/network"}).Token(); !errors.Is(err, context.Canceled) {
		t.Errorf("under an ended context: %v", err)
	}
}
