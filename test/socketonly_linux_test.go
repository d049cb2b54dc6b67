package test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

// knownSecret is in a file that a trusted profile names, and in its session.
const knownSecret = "CANARY-known-5e0b77c1"

// socketOnly is somebody who reaches the socket and nothing else, and what he
// would have if the daemon did as he says.
type socketOnly struct {
	conn   *grpc.ClientConn
	server *httptest.Server
	canary string // a file that nobody has a reason to open
	marker string // made by a program that nobody has a reason to run
	known  string // the file of a secret that a trusted profile uses
	watch  int    // inotify's, on canary

	mu  sync.Mutex
	got bytes.Buffer // what reached his server
}

func newSocketOnly(t *testing.T, bin string) *socketOnly {
	t.Helper()
	c := authserver.Client{ID: "c", Secret: knownSecret}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	h.relink(t, bin)
	a := &socketOnly{canary: filepath.Join(h.dir, "canary"), marker: filepath.Join(h.dir, "marker"), known: filepath.Join(h.dir, "secret")}
	for path, text := range map[string]string{a.canary: "CANARY-file-2266", a.known: knownSecret} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"age-plugin-evil", "evil"} {
		if err := os.WriteFile(filepath.Join(h.bin, program), []byte("#!/bin/sh\ntouch "+a.marker+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d := h.tokend(t)
	if !strings.HasPrefix(d.ready, "ready ") {
		t.Fatalf("%q: %s", d.ready, d.stderr)
	}
	h.must(t, "", "init")
	h.must(t, fmt.Sprintf("OAUTH2_TOKEN_URL=%s\nCLIENT_ID=c\nCLIENT_SECRET_FILE=%s\n", s.TokenURL, a.known), "add", "known")
	h.get(t, "known")

	// His server plays along with everything, and keeps what it gets.
	inner := &hostile{path: "/none"}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true)
		a.mu.Lock()
		a.got.Write(dump)
		a.mu.Unlock()
		inner.ServeHTTP(w, r)
	}))
	inner.Server = a.server
	t.Cleanup(a.server.Close)

	var err error
	if a.conn, err = grpc.NewClient("unix:"+h.status(t).Socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.conn.Close() })
	if a.watch, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(a.watch) })
	if _, err := unix.InotifyAddWatch(a.watch, a.canary, unix.IN_OPEN|unix.IN_ACCESS); err != nil {
		t.Fatal(err)
	}
	return a
}

// opened reports whether anybody has opened the canary.
func (a *socketOnly) opened() bool {
	n, err := unix.Read(a.watch, make([]byte, 4096))
	return err == nil && n > 0
}

func (a *socketOnly) ran() bool {
	_, err := os.Stat(a.marker)
	return !errors.Is(err, fs.ErrNotExist)
}

func (a *socketOnly) loot() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got.String()
}

// text is a profile whose secret is got as a line says, and sent to his server.
func (a *socketOnly) text(secret string) []byte {
	return fmt.Appendf(nil, "OAUTH2_TOKEN_URL=%[1]s/token\nOAUTH2_REVOCATION_URL=%[1]s/revoke\nOAUTH2_INTROSPECTION_URL=%[1]s/introspect\nCLIENT_ID=c\n%[2]s\n", a.server.URL, secret)
}

// baits are what he writes into every string.
func (a *socketOnly) baits() []string {
	return []string{a.canary, "file://" + a.canary, "touch " + a.marker, "$(touch " + a.marker + ")", a.server.URL, a.server.URL + "/api",
		"../../../../" + a.canary, "evil", "../../evil", "AGE-PLUGIN-EVIL-1QQQQQQQQQQQQ", string(a.text("CLIENT_SECRET_FILE=" + a.canary))}
}

// fill sets everything in a message: strings and bytes to bait, except that names
// of profiles are name; of alternatives the one of that number, and enums and
// numbers to that number.
func fill(m protoreflect.Message, bait, name string, number int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if of := f.ContainingOneof(); of != nil && of.Fields().Get(number%of.Fields().Len()) != f {
			continue
		}
		var v protoreflect.Value
		switch f.Kind() {
		case protoreflect.StringKind:
			v = protoreflect.ValueOfString(bait)
			if n := string(f.Name()); (n == "profile" || n == "name" || n == "from") && f.Message() == nil {
				v = protoreflect.ValueOfString(name)
			}
			if f.Name() == "page_token" || f.Name() == "version" || f.Name() == "replaces" {
				continue
			}
		case protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes([]byte(bait))
		case protoreflect.BoolKind:
			v = protoreflect.ValueOfBool(number%2 == 0)
		case protoreflect.EnumKind:
			v = protoreflect.ValueOfEnum(f.Enum().Values().Get(number % f.Enum().Values().Len()).Number())
		case protoreflect.Int32Kind:
			v = protoreflect.ValueOfInt32(int32(number))
		case protoreflect.Int64Kind:
			v = protoreflect.ValueOfInt64(int64(number))
		case protoreflect.MessageKind:
			if f.IsList() {
				list := m.Mutable(f).List()
				fill(list.AppendMutable().Message(), bait, name, number)
				continue
			}
			fill(m.Mutable(f).Message(), bait, name, number)
			continue
		default:
			panic(f.FullName())
		}
		if f.IsList() {
			m.Mutable(f).List().Append(v)
			continue
		}
		m.Set(f, v)
	}
}

// methods are all of the API, except Stop, which does what it says.
func methods(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("tokend.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				if m := s.Methods().Get(j); m.Name() != "Stop" {
					all = append(all, m)
				}
			}
		}
		return true
	})
	return all
}

// call makes one call, with further messages of every kind where it takes more
// than one.
func (a *socketOnly) call(ctx context.Context, m protoreflect.MethodDescriptor, bait, name string, number int) {
	ctx, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
	defer cancel()
	s, err := a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()))
	if err != nil {
		return
	}
	// A confirmation, a secret, whatever is asked for next.
	for i := range 5 {
		req := dynamicpb.NewMessage(m.Input())
		fill(req, bait, name, number+i)
		if i == 0 && m.IsStreamingClient() {
			start := dynamicpb.NewMessage(m.Input())
			first := m.Input().Oneofs().Get(0).Fields().Get(0)
			fill(start.Mutable(first).Message(), bait, name, number)
			req = start
		}
		if s.SendMsg(req) != nil {
			return
		}
		if !m.IsStreamingClient() {
			_ = s.CloseSend()
		}
		if s.RecvMsg(dynamicpb.NewMessage(m.Output())) != nil || !m.IsStreamingClient() {
			return
		}
	}
}

// attack makes every call with every bait, and then uses the profiles that he has
// put himself.
func (a *socketOnly) attack(t *testing.T) (calls int) {
	t.Helper()
	ctx := t.Context()
	put := tokendv1grpc.NewProfileServiceClient(a.conn)
	for name, secret := range map[string]string{"mine": "CLIENT_SECRET_COMMAND='touch " + a.marker + "'", "moved": "CLIENT_SECRET_FILE=" + a.canary, "gone": "CLIENT_SECRET_FILE=" + a.known} {
		if _, err := put.PutProfile(ctx, &tokendv1.PutProfileRequest{Name: name, Content: &tokendv1.PutProfileRequest_Text{Text: a.text(secret)}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := put.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "moved", NewName: "was/moved"}); err != nil {
		t.Fatal(err)
	}
	known, err := put.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "known"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := put.PutProfile(ctx, &tokendv1.PutProfileRequest{Name: "known", Content: &tokendv1.PutProfileRequest_Text{Text: a.text("CLIENT_SECRET_FILE=" + a.known)}, Replaces: known.GetVersion()}); err != nil {
		t.Fatal(err)
	}
	// First what he is after, plainly: the other calls get in each other's way.
	for _, name := range []string{"mine", "was/moved", "gone", "known"} {
		_, _ = tokendv1grpc.NewTokenServiceClient(a.conn).GetToken(ctx, &tokendv1.GetTokenRequest{Profile: name})
	}
	// The calls that lock or delete come when all others have been made.
	last := map[protoreflect.Name]bool{"Lock": true, "Unlock": true, "Protect": true, "DeleteProfile": true, "Migrate": true, "Logout": true}
	for _, late := range []bool{false, true} {
		var callers errgroup.Group
		callers.SetLimit(16)
		for _, m := range methods(t) {
			if last[m.Name()] != late {
				continue
			}
			for _, bait := range a.baits() {
				for number := range 3 {
					name := []string{"known", "mine", "was/moved", bait}[(number+len(bait))%4]
					if number == 0 {
						name = []string{"known", "mine", "was/moved", "gone"}[calls%4]
					}
					calls++
					callers.Go(func() error {
						a.call(ctx, m, bait, name, number)
						return nil
					})
				}
			}
		}
		_ = callers.Wait()
	}
	return calls
}

// Who reaches the socket, as a forwarded one, and nothing else, makes the daemon
// read no file, run no program, and send no secret to a server of his own.
func TestSocketOnly(t *testing.T) {
	t.Parallel()
	a := newSocketOnly(t, binDir)
	calls := a.attack(t)
	if a.opened() {
		t.Error("a file was opened because he said so")
	}
	if a.ran() {
		t.Error("a program was run because he said so")
	}
	loot := a.loot()
	if strings.Contains(loot, knownSecret) || strings.Contains(loot, basic(knownSecret)) || strings.Contains(loot, "CANARY-file") || strings.Contains(loot, basic("CANARY-file-2266")) {
		t.Errorf("his server got a secret:\n%s", loot)
	}
	t.Logf("%d methods, %d calls: no file read, no program run, 0 secrets sent (%d bytes without any)", len(methods(t)), calls, len(loot))
}

// basic is what a secret of client c looks like in a request.
func basic(secret string) string { return base64.StdEncoding.EncodeToString([]byte("c:" + secret)) }

// The same, where every text counts as trusted.
func TestSocketOnlyWithoutTrust(t *testing.T) {
	t.Parallel()
	a := newSocketOnly(t, mutant(t, "trusting", edit{"daemon/trust.go", "return hmac.Equal(t.lines[name], hash), nil", "return true, nil"}))
	a.attack(t)
	if loot := a.loot(); !a.opened() || !a.ran() || !strings.Contains(loot, basic(knownSecret)) || !strings.Contains(loot, basic("CANARY-file-2266")) {
		t.Errorf("even where nothing is in the way: file opened %v, program run %v, his server got\n%.2000s", a.opened(), a.ran(), loot)
	}
}
