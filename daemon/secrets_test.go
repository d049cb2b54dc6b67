package daemon_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
	"tokend/test/authserver"
)

// A wiretap keeps all that the daemon answers.
type wiretap struct {
	mu      sync.Mutex
	methods map[string]bool
	said    []said
}

type said struct{ method, text string }

func (x *wiretap) keep(method string, answer any, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	method = method[strings.LastIndex(method, "/")+1:]
	x.methods[method] = true
	text := fmt.Sprint(err)
	if m, ok := answer.(proto.Message); ok && err == nil {
		text += prototext.MarshalOptions{EmitUnknown: true}.Format(m)
		text += string(must(proto.Marshal(m))) // as it is, unquoted
	}
	if s, ok := status.FromError(err); ok {
		text += prototext.Format(s.Proto())
	}
	x.said = append(x.said, said{method, text})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (x *wiretap) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, opts...)
	x.keep(method, reply, err)
	return err
}

func (x *wiretap) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	return &tappedStream{s, x, method}, err
}

type tappedStream struct {
	grpc.ClientStream
	tap    *wiretap
	method string
}

func (s *tappedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if !errors.Is(err, io.EOF) {
		s.tap.keep(s.method, m, err)
	}
	return err
}

// tap listens to a world's calls.
func (w *world) tap(t *testing.T) *wiretap {
	t.Helper()
	x := &wiretap{methods: make(map[string]bool)}
	conn, err := grpc.NewClient("unix:"+w.settings.Get(settings.Socket), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(x.unary), grpc.WithStreamInterceptor(x.stream))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.tokens = tokendv1grpc.NewTokenServiceClient(conn)
	w.profiles = tokendv1grpc.NewProfileServiceClient(conn)
	w.daemon = tokendv1grpc.NewDaemonServiceClient(conn)
	return x
}

// No answer but those whose purpose it is holds a secret, and no log line.
func TestNoSecretLeaves(t *testing.T) {
	w := newInitialized(t)
	tap := w.tap(t)
	ctx := t.Context()
	server := people(t, authserver.Config{
		Registration: true, RegistrationToken: "CANARY-initial", DPoPNonce: true, Users: map[string]string{"alice": password},
	})
	identity, err := os.ReadFile(filepath.Join(w.settings.Get(settings.Dir), "identity.txt"))
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(identity, []byte("AGE-SECRET-KEY-"))
	canaries := map[string]string{
		strings.TrimSpace(string(identity[i:])): "the identity",
		"CANARY":                                "what begins so",
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString(must(x509.MarshalPKCS8PrivateKey(private)))
	canaries[encoded] = "the private key"
	texts := map[string]string{
		"a": w.text("# CANARY-comment", "OTHER=CANARY-other", "OAUTH2_EXTRA_hint=CANARY-extra"),
		"b": w.text("OAUTH2_PROXY=http://user:CANARY-proxy@127.0.0.1:1", "OTHER='CANARY-other'"),
		"c": w.text("OAUTH2_CLIENT_AUTH=CANARY-mistake"),
		"d": "CLIENT_SECRET='CANARY-mistake\nOTHER=CANARY-other",
		"e": w.text("OAUTH2_DEFAULT_LIFETIME=CANARY-mistake", "API_URL=CANARY-mistake", "OAUTH2_GRANT=CANARY-mistake"),
		"f": loginText(server, "OAUTH2_DPOP=on"),
		"g": deviceText(server),
		"h": "OAUTH2_ISSUER=" + server.Issuer + "\nOAUTH2_GRANT=refresh_token\nOAUTH2_REFRESH_TOKEN=CANARY-refresh\nCLIENT_ID=web\nCLIENT_SECRET=" + secret,
		"i": "OAUTH2_ISSUER=" + server.Issuer + "\nCLIENT_ID=web\nPRIVATE_KEY='-----BEGIN PRIVATE KEY-----\n" + encoded + "\n-----END PRIVATE KEY-----'",
		"j": loginText(server, "OAUTH2_PAR=on", "CLIENT_SECRET_NEXT=CANARY-next"),
	}
	w.server.AnyClient().Then(authserver.Answer{EchoSecret: true})
	for _, endpoint := range []string{"", "par", "device_authorization", "introspect", "revoke"} {
		server.AnyClient().Then(authserver.Answer{Endpoint: endpoint, EchoSecret: true})
	}
	server.AnyClient().Then(authserver.Answer{Endpoint: "register", Status: 401}, authserver.Answer{Endpoint: "register", Status: 400, Body: `{"error":"invalid_client_metadata","error_description":"not with CANARY-initial"}`})
	server.AnyClient().Always(authserver.Answer{Endpoint: "register", Set: map[string]any{"registration_access_token": "CANARY-registration"}})
	server.AnyClient().Then(authserver.Answer{Endpoint: "v1/register", Status: 400, Body: fmt.Sprintf(`{"error":"invalid_request","error_description":%q}`, password)})

	for _, name := range slices.Sorted(maps.Keys(texts)) {
		put, err := w.profiles.PutProfile(ctx, putText(name, texts[name], ""))
		if err == nil {
			w.trust(t, put.GetTrust().GetLine())
		}
		for range 2 {
			_, _ = w.login(t, profileStart(name), &person{server: server})
			_, _ = w.tokens.GetToken(ctx, &tokendv1.GetTokenRequest{Profile: name})
			_, _ = w.tokens.IntrospectToken(ctx, &tokendv1.IntrospectTokenRequest{Profile: name})
		}
		if token, err := w.get(ctx, name); err == nil {
			for _, at := range []string{server.ResourceURL, server.TokenURL, "https://" + token.GetAccessToken() + "/"} {
				_, _ = w.tokens.CreateDPoPProof(ctx, &tokendv1.CreateDPoPProofRequest{Profile: name, AccessToken: token.GetAccessToken(), Method: "GET", Url: at})
			}
		}
		_, _ = w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: name})
		_, _ = w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: name, Form: 99})
		if moved, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: name, NewName: "moved/" + name}); err == nil {
			w.trust(t, moved.GetTrust().GetLine())
			_, _ = w.get(ctx, "moved/"+name)
		}
	}
	start := urlStart(server.ResourceURL)
	start.Name = "url"
	for range 2 {
		_, _ = w.login(t, start, &person{server: server, token: "CANARY-initial"})
	}
	start.Name, start.ClientId, start.ClientSecret = "client", "web", secret
	_, _ = w.login(t, start, &person{server: server})
	var page string
	pasted := &person{server: server, notice: func() { browse(t, ctx, page) }, open: func(e *tokendv1.LoginResponse_OpenURL) *tokendv1.LoginRequest {
		page = e.GetUrl()
		to := must(url.Parse(redirect(t, e.GetUrl())))
		q := to.Query()
		canaries[q.Get("code")] = "a code"
		q.Del("state")
		return redirection(to.Scheme + "://" + to.Host + to.Path + "?" + q.Encode())
	}}
	_, _ = w.login(t, profileStart("moved/f"), pasted)
	register := &tokendv1.RegisterRequest_Start{Url: server.URL + "/v1/register", TokenUrl: server.TokenURL, Name: "registered"}
	for range 2 {
		_, _, _ = w.register(t, register, password)
	}
	sessions := w.records(t)
	names := slices.Sorted(maps.Keys(texts))
	for _, name := range slices.Clone(names) {
		names = append(names, "moved/"+name)
	}
	watch := w.watch(t, ctx, names...)
	for seen := map[int32]bool{}; len(seen) < len(names); {
		seen[next(t, watch).GetIndex()] = true
	}
	for _, name := range names {
		_, _ = w.tokens.ExplainToken(ctx, &tokendv1.ExplainTokenRequest{Profile: name, Live: strings.HasSuffix(name, "f")})
		if token, err := w.get(ctx, name); err == nil {
			_, _ = w.tokens.ReportToken(ctx, &tokendv1.ReportTokenRequest{Profile: name, AccessToken: token.GetAccessToken(),
				WwwAuthenticate: []string{`Bearer error="invalid_token", error_description="not ` + token.GetAccessToken() + `"`}})
		}
		_, _ = w.get(ctx, name)
		_, _ = w.tokens.ExplainToken(ctx, &tokendv1.ExplainTokenRequest{Profile: name})
		_, _ = w.tokens.ResetProfile(ctx, &tokendv1.ResetProfileRequest{Profile: name})
	}
	server.AnyClient().Then(authserver.Answer{Endpoint: "revoke", Status: 503})
	for name := range texts {
		_, _ = w.profiles.Logout(ctx, &tokendv1.LogoutRequest{Profile: "moved/" + name})
	}
	_, _ = w.tokens.RevokeTokens(ctx, &tokendv1.RevokeTokensRequest{All: true})
	_, _ = w.profiles.ListProfiles(ctx, &tokendv1.ListProfilesRequest{})
	_, _ = w.profiles.GetRecipients(ctx, &tokendv1.GetRecipientsRequest{})
	_, _ = w.init(t, &tokendv1.InitRequest_Start{})
	_, _ = w.daemon.Reload(ctx, &tokendv1.ReloadRequest{})
	for _, content := range []string{texts["a"], texts["d"], "age-encryption.org/v1\n-> X25519 a\n\n--- b\n"} {
		_, _ = w.profiles.ImportProfile(ctx, &tokendv1.ImportProfileRequest{Name: "imported", Content: []byte(content)})
	}
	_, _ = w.profiles.ExportProfile(ctx, &tokendv1.ExportProfileRequest{Name: "imported"})
	if rekey, err := w.profiles.RekeyProfiles(ctx, &tokendv1.RekeyProfilesRequest{}); err == nil {
		for err == nil {
			_, err = rekey.Recv()
		}
	}
	for _, to := range []string{"age", "CANARY-store"} {
		if migrate, err := w.daemon.Migrate(ctx, &tokendv1.MigrateRequest{To: to}); err == nil {
			_, _ = migrate.Recv()
		}
	}
	by, key := bySSH(t)
	canaries[strings.Split(key, "\n")[1]] = "an SSH key"
	w.protect(t, by, key)
	w.lock(t)
	_, _, _ = w.unlock(t, &tokendv1.UnlockRequest_Start{}, "CANARY-key", key)
	w.protect(t, byNothing(), key)
	_, _ = w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "moved/a"})
	_, _ = w.daemon.GetStatus(ctx, &tokendv1.GetStatusRequest{})
	events, err := w.daemon.WatchEvents(ctx, &tokendv1.WatchEventsRequest{Recent: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Recv(); err != nil {
		t.Error(err)
	}
	_, _ = w.daemon.Stop(ctx, &tokendv1.StopRequest{})
	for err == nil {
		_, err = events.Recv()
	}
	for err = nil; err == nil; {
		_, err = watch.Recv()
	}

	// What the server gave, and what it was given.
	for _, r := range server.Ledger("").Tokens {
		canaries[r.Token] = "a refresh token"
	}
	for _, r := range server.Requests() {
		for name, what := range map[string]string{
			"code": "a code", "code_verifier": "a verifier", "device_code": "a device code", "refresh_token": "a refresh token",
			"client_secret": "a client secret", "client_assertion": "a client assertion",
		} {
			canaries[r.Form.Get(name)] = what
		}
		if r.Path == "/introspect" {
			canaries[r.Form.Get("token")] = "a token"
		}
		if _, credential, _ := strings.Cut(r.Header.Get("Authorization"), " "); credential != "" {
			canaries[credential] = "an Authorization"
		}
	}
	for _, text := range sessions {
		for _, v := range privateParts.FindAllStringSubmatch(text, -1) {
			canaries[v[1]] = "a DPoP key"
		}
	}
	for _, name := range []string{"url", "registered"} {
		for line := range strings.Lines(w.openProfile(t, name)) {
			if secret, ok := strings.CutPrefix(strings.TrimSpace(line), "CLIENT_SECRET="); ok {
				canaries[secret] = "a registered secret"
			}
		}
	}
	delete(canaries, "")
	kinds := make(map[string]int)
	for _, what := range canaries {
		kinds[what]++
	}
	for _, want := range []string{"a code", "a verifier", "a device code", "a refresh token", "a client assertion", "a token", "an Authorization", "a DPoP key", "a registered secret"} {
		if kinds[want] == 0 {
			t.Errorf("there was no canary that is %s: %v", want, kinds)
		}
	}

	for c, what := range canaries {
		for _, s := range tap.said {
			if strings.Contains(s.text, c) && !((s.method == "GetToken" || s.method == "WatchToken") && what == "a token") {
				t.Errorf("%s says %s: %q is in %q", s.method, what, c, s.text)
			}
		}
		if strings.Contains(w.log.String(), c) {
			t.Errorf("the log has %s: %q", what, c)
		}
	}
	for _, file := range []protoreflect.FileDescriptor{
		tokendv1grpc.File_tokend_v1_token_service_proto,
		tokendv1grpc.File_tokend_v1_profile_service_proto,
		tokendv1grpc.File_tokend_v1_daemon_service_proto,
	} {
		for i := range file.Services().Len() {
			for methods, i := file.Services().Get(i).Methods(), 0; i < methods.Len(); i++ {
				if name := string(methods.Get(i).Name()); !tap.methods[name] {
					t.Errorf("%s was not looked at", name)
				}
			}
		}
	}
}

// privateParts finds the private half of a JWK in a record.
var privateParts = regexp.MustCompile(`\\"d\\":\\"([^"\\]+)`)

// records are the sessions' texts.
func (w *world) records(t *testing.T) []string {
	t.Helper()
	s := w.openStore(t, w.settings.SessionsDir())
	entries, err := s.List(t.Context())
	if err != nil || len(entries) == 0 {
		t.Fatalf("sessions %v, %v", entries, err)
	}
	var texts []string
	for _, e := range entries {
		text, _, err := s.Get(t.Context(), e.Name)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

// openProfile reads a profile beside the daemon.
func (w *world) openProfile(t *testing.T, name string) string {
	t.Helper()
	text, _, err := w.openStore(t, w.settings.ProfilesDir()).Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (w *world) openStore(t *testing.T, dir string) *store.Age {
	t.Helper()
	id, err := store.LoadIdentity(filepath.Join(w.settings.Get(settings.Dir), "identity.txt"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenAge(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Unlock(id)
	return s
}
