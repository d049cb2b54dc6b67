package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/daemon"
	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/test/authserver"
)

const passphrase = "correct horse"

func byPassphrase() *tokendv1.IdentityProtection {
	return &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_Passphrase_{Passphrase: &tokendv1.IdentityProtection_Passphrase{}}}
}

// bySSH is quicker to open than what a passphrase protects, and it is not that which
// most tests are about.
func bySSH(t *testing.T) (*tokendv1.IdentityProtection, string) {
	t.Helper()
	public, private := daemon.NewSSHKey(t)
	return &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_Ssh_{
		Ssh: &tokendv1.IdentityProtection_Ssh{PublicKey: public}}}, private
}

func byNothing() *tokendv1.IdentityProtection {
	return &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_None_{None: &tokendv1.IdentityProtection_None{}}}
}

func (w *world) lock(t *testing.T) *tokendv1.LockResponse {
	t.Helper()
	resp, err := w.daemon.Lock(t.Context(), &tokendv1.LockRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// unlock answers with each of the secrets in turn, and returns what was asked.
func (w *world) unlock(t *testing.T, start *tokendv1.UnlockRequest_Start, secrets ...string) (*tokendv1.UnlockResponse_Unlocked, []*tokendv1.Prompt, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.daemon.Unlock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tokendv1.UnlockRequest{Message: &tokendv1.UnlockRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	var asked []*tokendv1.Prompt
	for {
		resp, err := stream.Recv()
		if err != nil {
			return nil, asked, err
		}
		if done := resp.GetUnlocked(); done != nil {
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last event: %v", err)
			}
			return done, asked, nil
		}
		asked = append(asked, resp.GetPrompt())
		if len(secrets) == 0 {
			return nil, asked, errors.New("nobody knows more secrets")
		}
		answer := &tokendv1.PromptAnswer{Secret: []byte(secrets[0])}
		secrets = secrets[1:]
		if err := stream.Send(&tokendv1.UnlockRequest{Message: &tokendv1.UnlockRequest_Answer{Answer: answer}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) mustUnlock(t *testing.T, secrets ...string) {
	t.Helper()
	if _, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{}, secrets...); err != nil {
		t.Fatal(err)
	}
}

// protect wraps the identity anew; secret is the answer to whatever is asked.
func (w *world) protect(t *testing.T, by *tokendv1.IdentityProtection, secret string) *tokendv1.ProtectResponse_Protected {
	t.Helper()
	stream, err := w.daemon.Protect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start := &tokendv1.ProtectRequest_Start{Protection: by}
	if err := stream.Send(&tokendv1.ProtectRequest{Message: &tokendv1.ProtectRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetProtected() != nil {
			return resp.GetProtected()
		}
		if resp.GetPrompt() == nil {
			t.Fatalf("told %v", resp)
		}
		answer := &tokendv1.PromptAnswer{Secret: []byte(secret)}
		if err := stream.Send(&tokendv1.ProtectRequest{Message: &tokendv1.ProtectRequest_Answer{Answer: answer}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) wantLocked(t *testing.T, why string) {
	t.Helper()
	_, err := w.get(t.Context(), "a")
	wantReason(t, err, codes.FailedPrecondition, "LOCKED", "locked")
	st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.GetState() != tokendv1.GetStatusResponse_STATE_LOCKED || !strings.Contains(st.GetLockReason(), why) ||
		time.Since(st.GetLockedSince().AsTime()) > time.Minute || st.GetCachedTokens() != 0 || st.GetRecipient() != "" {
		t.Errorf("status %v, reason %q, want %q", st.GetState(), st.GetLockReason(), why)
	}
	w.wantHealth(t, healthpb.HealthCheckResponse_NOT_SERVING)
}

// A bare identity: locking keeps nobody from it, and unlocking asks nothing.
func TestLockBare(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	first := w.mustGet(t, "a")
	if resp := w.lock(t); resp.GetWasLocked() || !resp.GetUnprotected() {
		t.Errorf("lock answers %v", resp)
	}
	w.wantLocked(t, "asked to by")
	if resp := w.lock(t); !resp.GetWasLocked() {
		t.Errorf("lock answers %v", resp)
	}
	ctx := t.Context()
	for what, call := range map[string]func() error{
		"reveal": func() error {
			_, err := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: "a"})
			return err
		},
		"show": func() error { _, err := w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "a"}); return err },
		"put":  func() error { _, err := w.profiles.PutProfile(ctx, putText("b", w.text(), "")); return err },
		"import": func() error {
			_, err := w.profiles.ImportProfile(ctx, &tokendv1.ImportProfileRequest{Name: "b", Content: []byte(w.text())})
			return err
		},
		"export": func() error {
			_, err := w.profiles.ExportProfile(ctx, &tokendv1.ExportProfileRequest{Name: "a"})
			return err
		},
		"delete": func() error {
			_, err := w.profiles.DeleteProfile(ctx, &tokendv1.DeleteProfileRequest{Name: "a"})
			return err
		},
		"move": func() error {
			_, err := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "a", NewName: "b"})
			return err
		},
		"logout":     func() error { _, err := w.profiles.Logout(ctx, &tokendv1.LogoutRequest{Profile: "a"}); return err },
		"recipients": func() error { _, err := w.profiles.GetRecipients(ctx, &tokendv1.GetRecipientsRequest{}); return err },
		"login":      func() error { _, err := w.login(t, profileStart("a"), &person{server: w.server}); return err },
		"explain": func() error {
			_, err := w.tokens.ExplainToken(ctx, &tokendv1.ExplainTokenRequest{Profile: "a"})
			return err
		},
		"reset": func() error {
			_, err := w.tokens.ResetProfile(ctx, &tokendv1.ResetProfileRequest{Profile: "a"})
			return err
		},
		"revoke": func() error {
			_, err := w.tokens.RevokeTokens(ctx, &tokendv1.RevokeTokensRequest{All: true})
			return err
		},
		"inspect": func() error {
			_, err := w.tokens.IntrospectToken(ctx, &tokendv1.IntrospectTokenRequest{Profile: "a"})
			return err
		},
		"rekey": func() error {
			stream, err := w.profiles.RekeyProfiles(ctx, &tokendv1.RekeyProfilesRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"migrate": func() error {
			stream, err := w.daemon.Migrate(ctx, &tokendv1.MigrateRequest{To: "keyring"})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		if got := reasonOf(t, call()); got.Reason != "LOCKED" {
			t.Errorf("%s: %v, want LOCKED", what, got)
		}
	}
	list, err := w.profiles.ListProfiles(ctx, &tokendv1.ListProfilesRequest{})
	if err != nil || len(list.GetProfiles()) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	w.reload(t)
	w.wantLocked(t, "asked to by")

	done, asked, err := w.unlock(t, &tokendv1.UnlockRequest_Start{})
	if err != nil || len(asked) != 0 || done.GetWasUnlocked() || done.GetLocksAt() != nil {
		t.Fatalf("%v, asked %v, %v", done, asked, err)
	}
	w.wantHealth(t, healthpb.HealthCheckResponse_SERVING)
	if again := w.mustGet(t, "a"); again.GetAccessToken() == first.GetAccessToken() {
		t.Error("a token outlived the lock")
	}
	if done, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{}); err != nil || !done.GetWasUnlocked() {
		t.Errorf("%v, %v", done, err)
	}
	w.wantLogged(t, "msg=locked")
	w.wantLogged(t, "msg=unlocked")
}

func TestLockPassphrase(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	bare := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")
	recipient := func() string {
		st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetIdentityProtection() + " " + st.GetRecipient()
	}
	before := recipient()
	made := w.protect(t, byPassphrase(), passphrase)
	if want := filepath.Join(filepath.Dir(bare), "identity.age"); made.GetIdentityFile() != want || !strings.Contains(made.GetWarning(), "backups") {
		t.Errorf("protect answers %v, want %s", made, want)
	}
	if _, err := os.Stat(bare); !os.IsNotExist(err) {
		t.Errorf("the bare file is still there: %v", err)
	}
	if now := recipient(); now != strings.Replace(before, "none", "passphrase", 1) {
		t.Errorf("%q before, %q now", before, now)
	}
	w.mustGet(t, "a")
	if resp := w.lock(t); resp.GetUnprotected() {
		t.Errorf("lock answers %v", resp)
	}
	w.stop(t)
	w = startWorld(t, w.home)
	w.wantLocked(t, "has not been unlocked yet")
	if _, asked, err := w.unlock(t, &tokendv1.UnlockRequest_Start{}, "also wrong", passphrase); err != nil || len(asked) != 2 || !asked[1].GetAgain() {
		t.Fatalf("asked %v, %v", asked, err)
	}
	if _, err := w.profiles.GetProfile(t.Context(), &tokendv1.GetProfileRequest{Name: "a"}); err != nil {
		t.Error(err)
	}
	for _, secret := range []string{passphrase, "also wrong"} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("a passphrase is in the log")
		}
	}
}

// Who is asked and never answers keeps nobody from unlocking, however many they are.
func TestUnlockOthersMeanwhile(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	by, key := bySSH(t)
	w.protect(t, by, key)
	w.lock(t)
	var streams []tokendv1grpc.DaemonService_UnlockClient
	for range 8 {
		stream, err := w.daemon.Unlock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&tokendv1.UnlockRequest{Message: &tokendv1.UnlockRequest_Start_{Start: &tokendv1.UnlockRequest_Start{}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	w.mustUnlock(t, key)
	_, err := streams[0].Recv()
	wantReason(t, err, codes.Unavailable, "THROTTLED", "this one has waited longest")
	w.mustGet(t, "a")
}

// Who only reaches the socket while it is open cannot shut its owner out.
func TestProtectAsks(t *testing.T) {
	w := newInitialized(t)
	by, key := bySSH(t)
	w.protect(t, by, key)
	stream, err := w.daemon.Protect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, others := bySSH(t)
	start := &tokendv1.ProtectRequest_Start{Protection: byNothing()}
	if err := stream.Send(&tokendv1.ProtectRequest{Message: &tokendv1.ProtectRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			wantReason(t, err, codes.PermissionDenied, "DENIED", "it does not open the identity")
			break
		}
		if ask := resp.GetPrompt().GetAsk(); ask != tokendv1.Prompt_ASK_SSH_KEY {
			t.Fatalf("told %v", resp)
		}
		answer := &tokendv1.PromptAnswer{Secret: []byte(others)}
		if err := stream.Send(&tokendv1.ProtectRequest{Message: &tokendv1.ProtectRequest_Answer{Answer: answer}}); err != nil {
			t.Fatal(err)
		}
	}
	w.lock(t)
	// Nor make it stay open for longer than he wants.
	if _, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{LockAfter: durationpb.New(time.Hour)}, key); err != nil {
		t.Fatal(err)
	}
	done, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{LockAfter: durationpb.New(100 * time.Hour)})
	if left := time.Until(done.GetLocksAt().AsTime()); err != nil || left > time.Hour {
		t.Errorf("%v, %v", done, err)
	}
}

func TestUnlockRefused(t *testing.T) {
	w := newInitialized(t)
	by, key := bySSH(t)
	_, others := bySSH(t)
	w.protect(t, by, key)
	w.lock(t)
	_, asked, err := w.unlock(t, &tokendv1.UnlockRequest_Start{}, others, "", "no key")
	wantReason(t, err, codes.PermissionDenied, "DENIED", "it does not open the identity")
	var again []bool
	for _, p := range asked {
		again = append(again, p.GetAgain())
		if p.GetAsk() != tokendv1.Prompt_ASK_SSH_KEY {
			t.Errorf("asked for %v", p)
		}
	}
	if !slices.Equal(again, []bool{false, true, true}) {
		t.Errorf("asked %v", asked)
	}
	w.wantLocked(t, "asked to by")
}

// What somebody has put in the place of the identity is refused, and nothing hangs.
func TestIdentityIsNoFile(t *testing.T) {
	w := newInitialized(t)
	file := filepath.Join(w.settings.Get(settings.Dir), "identity.txt")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := fmt.Sprintf("%q is not a regular file", file)
	_, err := w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", refused)
	_, _, err = w.unlock(t, &tokendv1.UnlockRequest_Start{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", refused)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", file); err != nil {
		t.Fatal(err)
	}
	_, err = w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE", fmt.Sprintf("%q is a symbolic link, which is not followed", file))
}

// While one call that changes the identity waits for a person, the others say so.
func TestReloadMeanwhile(t *testing.T) {
	w := newInitialized(t)
	stream, err := w.daemon.Protect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start := &tokendv1.ProtectRequest_Start{Protection: byPassphrase()}
	if err := stream.Send(&tokendv1.ProtectRequest{Message: &tokendv1.ProtectRequest_Start_{Start: start}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = w.daemon.Reload(t.Context(), &tokendv1.ReloadRequest{})
	wantReason(t, err, codes.Unavailable, "THROTTLED", "another init, protect or migrate goes on")
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("it was protected by what nobody typed")
	}
	w.reload(t)
}

// Whoever waits for a slow provider hears of it at once; a rotation is saved all
// the same, and given to nobody.
func TestLockInTheMiddle(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", w.text())
	w.put(t, "b", loginText(server))
	w.put(t, "c", loginText(server))
	w.mustLogin(t, "b", server)
	w.server.AnyClient().Then(authserver.Answer{Hang: true})
	server.AnyClient().Then(authserver.Answer{Hang: true, Late: true})

	ctx := t.Context()
	ended := make(chan error)
	for _, name := range []string{"a", "b"} {
		go func() {
			_, err := w.tokens.GetToken(ctx, &tokendv1.GetTokenRequest{Profile: name, Force: true})
			ended <- err
		}()
	}
	login := w.begin(t, ctx, profileStart("c"))
	if _, err := login.Recv(); err != nil {
		t.Fatal(err)
	}
	watching := w.watch(t, ctx, "a")
	waitFor(t, func() bool { return w.server.Count("/token") == 1 && server.Count("/token") == 2 })

	record := func() []byte {
		b, err := os.ReadFile(filepath.Join(w.settings.SessionsDir(), "b.env.age"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := record()
	start := time.Now()
	w.lock(t)
	for range 2 {
		if got := reasonOf(t, <-ended); got.Reason != "LOCKED" {
			t.Errorf("a get ends with %v", got)
		}
	}
	for {
		resp, err := login.Recv()
		if err != nil {
			if got := reasonOf(t, err); got.Reason != "LOCKED" {
				t.Errorf("the login ends with %v", got)
			}
			break
		}
		t.Logf("the login says %v", resp)
	}
	for next(t, watching).GetProblem().GetReason() != tokendv1.Reason_REASON_LOCKED {
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("they heard of it after %v", took)
	}
	w.server.Release()
	server.Release()
	// The new refresh token is in the record, though nothing could be read since.
	waitFor(t, func() bool { return !bytes.Equal(record(), before) })
	w.mustUnlock(t)
	got := next(t, watching)
	for got.GetProblem().GetReason() == tokendv1.Reason_REASON_LOCKED { // said before
		got = next(t, watching)
	}
	if got.GetToken().GetAccessToken() == "" {
		t.Errorf("who watches was told %v", got)
	}
	if _, err := w.tokens.GetToken(ctx, &tokendv1.GetTokenRequest{Profile: "b", Force: true}); err != nil {
		t.Errorf("the rotation was lost: %v", err)
	}
	if l := server.Ledger(""); l.SpentTwice > 0 {
		t.Errorf("%d refresh tokens were used twice", l.SpentTwice)
	}
}

// waitFor waits for what nothing announces.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}

func TestLockTimes(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	w.lock(t)
	for _, bad := range []time.Duration{0, -time.Second, 10 * 365 * 24 * time.Hour} {
		_, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{LockAfter: durationpb.New(bad)})
		if got := reasonOf(t, err); got.Reason != "REQUEST_INVALID" {
			t.Errorf("%v: %v", bad, got)
		}
	}
	done, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{LockAfter: durationpb.New(time.Hour)})
	if left := time.Until(done.GetLocksAt().AsTime()); err != nil || left < 59*time.Minute || left > time.Hour {
		t.Fatalf("%v, %v", done, err)
	}
	w.mustGet(t, "a")
	// To read the identity's file again puts nothing off.
	at := func() time.Time {
		st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetLocksAt().AsTime()
	}
	before := at()
	w.reload(t)
	if now := at(); now.Sub(before).Abs() > time.Second {
		t.Errorf("it was to lock at %v, and after reload at %v", before, now)
	}
	// Another time takes its place, also when it is open.
	if _, _, err := w.unlock(t, &tokendv1.UnlockRequest_Start{LockAfter: durationpb.New(100 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	// Who is refused is told why, also in the moment before a timer fires.
	for {
		if _, err := w.get(t.Context(), "a"); err != nil {
			break
		}
	}
	w.wantLocked(t, "the time that it was unlocked for has passed")
}

// The time is not put off by who makes the daemon look at it all the time.
func TestLockTimeUnderFire(t *testing.T) {
	w := newInitialized(t)
	w.put(t, "a", w.text())
	due := time.Now().Add(time.Second)
	sooner := func() {
		if left := time.Until(due); left > 0 {
			due = due.Add(-time.Millisecond / 10)
			_, _, _ = w.unlock(t, &tokendv1.UnlockRequest_Start{LockAfter: durationpb.New(left)})
		}
	}
	sooner()
	watching := w.watch(t, t.Context(), "a")
	told := make(chan struct{})
	go func() {
		defer close(told)
		for {
			if r, err := watching.Recv(); err != nil || r.GetProblem().GetReason() == tokendv1.Reason_REASON_LOCKED {
				return
			}
		}
	}()
	for late := due.Add(10 * time.Second); ; {
		select {
		case <-told:
			return
		default:
		}
		if time.Now().After(late) {
			t.Fatal("it does not lock")
		}
		sooner()
		_, _ = w.get(t.Context(), "a")
	}
}

func TestAutoLock(t *testing.T) {
	home := newHome(t)
	t.Setenv(settings.AutoLock, "1s")
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	w.put(t, "a", w.text())
	watching := w.watch(t, t.Context(), "a") // is nobody's use
	for range 6 {
		w.mustGet(t, "a")
		time.Sleep(300 * time.Millisecond) // twice what it takes to lock, in all
	}
	waitFor(t, func() bool {
		st, err := w.daemon.GetStatus(t.Context(), &tokendv1.GetStatusRequest{}) // nor is this
		return err == nil && st.GetState() == tokendv1.GetStatusResponse_STATE_LOCKED
	})
	w.wantLocked(t, "nobody used it for 1s")
	for next(t, watching).GetProblem().GetReason() != tokendv1.Reason_REASON_LOCKED {
	}
}

// An identity that was due to be locked in a suspend is not kept open by who calls
// first after it.
func TestAutoLockIsNotPutOff(t *testing.T) {
	home := newHome(t)
	t.Setenv(settings.AutoLock, "1s")
	w := startWorld(t, home)
	if _, err := w.init(t, &tokendv1.InitRequest_Start{}); err != nil {
		t.Fatal(err)
	}
	w.put(t, "a", w.text())
	w.mustGet(t, "a")
	waitFor(t, func() bool {
		_, err := w.profiles.ListProfiles(t.Context(), &tokendv1.ListProfilesRequest{PageSize: -1})
		return reasonOf(t, err).Reason == "REQUEST_INVALID"
	})
	time.Sleep(1100 * time.Millisecond)
	_, err := w.get(t.Context(), "a")
	wantReason(t, err, codes.FailedPrecondition, "LOCKED", "locked")
}

// A record of the daemon's own is given to nobody by being copied to where texts lie:
// not as a text, not in another's encryption, not into the keyring.
func TestSessionIsNoProfile(t *testing.T) {
	w := newInitialized(t)
	server := people(t, authserver.Config{})
	w.put(t, "a", loginText(server))
	w.mustLogin(t, "a", server)
	record, err := os.ReadFile(filepath.Join(w.settings.SessionsDir(), "a.env.age"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.settings.ProfilesDir(), "x.env.age"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, reveal := w.profiles.RevealProfile(ctx, &tokendv1.RevealProfileRequest{Name: "x"})
	_, show := w.profiles.GetProfile(ctx, &tokendv1.GetProfileRequest{Name: "x"})
	_, move := w.profiles.MoveProfile(ctx, &tokendv1.MoveProfileRequest{Name: "x", NewName: "y"})
	_, get := w.get(ctx, "x")
	for what, err := range map[string]error{"reveal": reveal, "show": show, "move": move, "get": get} {
		if err == nil || !strings.Contains(err.Error(), "it is a record of tokend's own") {
			t.Errorf("%s: %v", what, err)
		}
	}
	rekey, err := w.profiles.RekeyProfiles(ctx, &tokendv1.RekeyProfilesRequest{Prefix: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := rekey.Recv(); err != nil || !strings.Contains(resp.GetProblem(), "it is a record of tokend's own") {
		t.Errorf("rekey: %v, %v", resp, err)
	}
	if _, err := w.profiles.ImportProfile(ctx, &tokendv1.ImportProfileRequest{Name: "z", Content: record}); reasonOf(t, err).Reason != "PROFILE_INVALID" {
		t.Errorf("import: %v", err)
	}
	if got := w.mustGet(t, "a"); got.GetAccessToken() == "" {
		t.Error("the session itself is of no use any more")
	}
}
