package daemon

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/store"
)

// silent is the daemon's end of a call whose caller starts it and says no more.
type silent[Req, Resp any] struct {
	grpc.ServerStream
	ctx     context.Context
	start   *Req
	prompts int
}

func (s *silent[Req, Resp]) Context() context.Context { return s.ctx }

func (s *silent[Req, Resp]) Send(*Resp) error {
	s.prompts++
	return nil
}

func (s *silent[Req, Resp]) Recv() (*Req, error) {
	if start := s.start; start != nil {
		s.start = nil
		return start, nil
	}
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

// newSilent is a call of Req in a test.
func newSilent[Req, Resp any](t *testing.T, start *Req) *silent[Req, Resp] {
	return &silent[Req, Resp]{ctx: t.Context(), start: start}
}

// wantUnanswered wants a call to end because nobody has answered what it asked.
func wantUnanswered(t *testing.T, began time.Time, prompts int, err error) {
	t.Helper()
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "no answer within 10m0s" || prompts != 1 {
		t.Errorf("asked %d times, and then: %v", prompts, err)
	}
	if took := time.Since(began); took != personTime {
		t.Errorf("it took %v", took)
	}
}

// newQuiet is a daemon in a home of its own, with what there is to be in its folder.
func newQuiet(t *testing.T, make func(dir string)) *Daemon {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", settings.Dir, settings.Store, settings.Trust} {
		t.Setenv(name, "")
	}
	s, err := settings.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.Get(settings.Dir), s.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	make(s.Get(settings.Dir))
	d := New(s, "test", nil, slog.New(slog.DiscardHandler))
	t.Cleanup(d.server.Stop)
	return d
}

// NewSSHKey makes an SSH key, as ssh-keygen writes it.
func NewSSHKey(t *testing.T) (public, private string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key)), string(pem.EncodeToMemory(block))
}

// Who does not answer holds up nobody for longer than a person takes.
func TestNobodyAnswers(t *testing.T) {
	byPassphrase := &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_Passphrase_{Passphrase: &tokendv1.IdentityProtection_Passphrase{}}}
	identity := func(p store.Protection, m store.Means) func(string) {
		return func(dir string) {
			if _, _, err := store.MakeIdentity(t.Context(), dir, false, p, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantFree := func(t *testing.T, d *Daemon) {
		t.Helper()
		if !d.wrapping.TryAcquire(1) || !d.deriving.TryAcquire(1) || len(d.unlocking.all) != 0 {
			t.Error("others have to wait")
		}
	}
	t.Run("init", func(t *testing.T) {
		d := newQuiet(t, func(string) {})
		synctest.Test(t, func(t *testing.T) {
			call := newSilent[tokendv1.InitRequest, tokendv1.InitResponse](t, &tokendv1.InitRequest{
				Message: &tokendv1.InitRequest_Start_{Start: &tokendv1.InitRequest_Start{Protection: byPassphrase}}})
			began := time.Now()
			err := (&admin{d: d}).Init(call)
			wantUnanswered(t, began, call.prompts, err)
			wantFree(t, d)
		})
	})
	t.Run("protect", func(t *testing.T) {
		d := newQuiet(t, identity(store.Protection{}, store.Means{}))
		synctest.Test(t, func(t *testing.T) {
			call := newSilent[tokendv1.ProtectRequest, tokendv1.ProtectResponse](t, &tokendv1.ProtectRequest{
				Message: &tokendv1.ProtectRequest_Start_{Start: &tokendv1.ProtectRequest_Start{Protection: byPassphrase}}})
			began := time.Now()
			err := (&admin{d: d}).Protect(call)
			wantUnanswered(t, began, call.prompts, err)
			wantFree(t, d)
		})
	})
	t.Run("unlock", func(t *testing.T) {
		public, private := NewSSHKey(t)
		d := newQuiet(t, identity(store.Protection{Kind: store.SSH, PublicKey: public},
			store.Means{Wrapper: store.InProcess{}, Ask: func(context.Context, store.Prompt) (store.Answer, error) {
				return store.Answer{Secret: []byte(private)}, nil
			}}))
		synctest.Test(t, func(t *testing.T) {
			call := newSilent[tokendv1.UnlockRequest, tokendv1.UnlockResponse](t, &tokendv1.UnlockRequest{
				Message: &tokendv1.UnlockRequest_Start_{Start: &tokendv1.UnlockRequest_Start{}}})
			began := time.Now()
			err := (&admin{d: d}).Unlock(call)
			wantUnanswered(t, began, call.prompts, err)
			wantFree(t, d)
		})
	})
}
