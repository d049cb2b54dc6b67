package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	"tokend/internal/harden"
	"tokend/internal/logind"
	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// maxUnlocking is how many people can be asked at a time: each has a process.
const maxUnlocking = 8

// startPatience is how long the keyring may take to give the identity at the start,
// where it may be only starting, too.
const startPatience = 3 * time.Second

// keyringPatience is how long a person has for a prompt of the keyring's own.
const keyringPatience = time.Minute

// personTime is how long a call that asks may take, which is more than a person does.
// Nobody else's calls wait for longer than that because somebody does not answer.
const personTime = 10 * time.Minute

var errUnanswered = fmt.Errorf("no answer within %v", personTime)

// untilUnanswered ends a call that asks after personTime.
func untilUnanswered(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, personTime, errUnanswered)
}

// maxLockAfter bounds what a time may be asked for.
const maxLockAfter = 366 * 24 * time.Hour

// lockState is why there is no key, or until when there is one. The Daemon's mu
// guards it.
type lockState struct {
	since  time.Time // zero: not locked
	reason string
	at     time.Duration // BootTime at which it locks, whatever happens; 0: never
}

// house is what calls work with once the stores are open.
type house struct {
	profiles profileStore
	broker   *broker.Broker
	d        *Daemon
}

// opened returns the stores if there is an identity to use them with.
func (d *Daemon) opened() (house, error) {
	h, _, err := d.openedNow()
	return h, err
}

// openedNow is opened, with a context that ends when it says something else.
func (d *Daemon) openedNow() (house, context.Context, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	switch {
	case d.problem != nil:
		return house{}, d.era, storeError(d.problem)
	case d.file == nil:
		return house{}, d.era, failure(tokendv1.Reason_REASON_NOT_INITIALIZED, "no identity yet")
	case d.identity == nil:
		return house{}, d.era, locked()
	case d.isDue(): // timers stand still in a suspend, so Serve may be late
		offer(d.relook, struct{}{})
		return house{}, d.era, locked()
	case d.moved != "":
		return house{}, d.era, d.errMoved(d.moved)
	}
	return house{d.profiles, d.broker, d}, d.era, nil
}

// listable returns the stores for a call that needs names only, where opened has
// failed with err: names in an age store are no secret of the identity's.
func (d *Daemon) listable(err error) (house, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if _, isAge := d.profiles.(*store.Age); isAge && d.problem == nil && d.file != nil && d.moved == "" {
		return house{d.profiles, d.broker, d}, nil
	}
	return house{}, err
}

// open opens the stores if they are not, and the identity that there is now as far
// as that needs nobody.
func (d *Daemon) open(ctx context.Context) error {
	release, err := d.wrap(ctx)
	if err != nil {
		return err
	}
	defer func() { release() }()
	d.lockIfDue()
	d.mu.Lock()
	d.problem = d.openStores()
	problem, was := d.problem, d.openState
	d.mu.Unlock()
	var now identityNow
	if problem == nil {
		now, problem = d.look(ctx, was) // without mu: the keyring may take its time
	}
	d.mu.Lock()
	if problem == nil {
		d.settle(was, now)
	} else {
		d.problem = problem
		d.log.Error("the store cannot be opened", "err", problem)
	}
	d.tell()
	d.mu.Unlock()
	if problem != nil {
		return storeError(problem)
	}
	if now.file == nil || now.mute {
		return nil
	}
	switch err := now.file.ForgetItems(ctx, later{}); {
	case errors.Is(err, errLater):
		done := release
		release = func() {}
		d.forgetItems(now.file, done) //nolint:contextcheck // it ends with the daemon, not with the call
	case err != nil:
		d.log.Warn(itemStays, "err", err)
	}
	return nil
}

const itemStays = "an item that an earlier tokend left in the keyring stays there"

// later is a keyring that is not asked yet, to find out whether it is to be.
type later struct{ store.Items }

var errLater = errors.New("the keyring is to be asked")

func (later) Delete(context.Context, string) error { return errLater }

// forgetItems deletes what an earlier tokend has left in the keyring, which may hang,
// and then releases wrapping. Nobody waits for it: who wants wrapping ends it.
func (d *Daemon) forgetItems(file *store.IdentityFile, release func()) {
	ctx, cancel := context.WithCancel(d.stopping)
	d.mu.Lock()
	d.endForgetting = cancel
	d.mu.Unlock()
	d.heeding.Go(func() {
		defer release()
		defer cancel()
		if err := file.ForgetItems(ctx, d.worker); err != nil && ctx.Err() == nil {
			d.log.Warn(itemStays, "err", err)
		}
	})
}

// wrapTime is how long a call waits for another that changes the identity or the
// stores: that may be waiting for a person.
const wrapTime = 3 * time.Second

// wrap lets one call at a time change the identity's file or the kind of store.
func (d *Daemon) wrap(ctx context.Context) (release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, wrapTime)
	defer cancel()
	d.mu.RLock()
	endForgetting := d.endForgetting
	d.mu.RUnlock()
	if endForgetting != nil {
		endForgetting()
	}
	if d.wrapping.Acquire(waiting, 1) == nil {
		return func() { d.wrapping.Release(1) }, nil
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return nil, failure(tokendv1.Reason_REASON_THROTTLED, "another init, protect or migrate goes on, and may be waiting for a person's answer")
}

// identityNow is what look has found.
type identityNow struct {
	file *store.IdentityFile // nil: there is none
	sum  [sha256.Size]byte   // of its bytes
	id   *store.Identity     // nil: it stays as it is, unless why says otherwise
	why  string              // it is to be locked, or ""
	mute bool                // the keyring, which has it, did not give it
}

// look looks which identity there is, and opens it where that needs nobody and is
// of use: was is how things stood before. The caller holds wrapping.
func (d *Daemon) look(ctx context.Context, was openState) (now identityNow, err error) {
	now.file, err = store.FindIdentity(d.settings.Get(settings.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return identityNow{}, nil
	}
	if err != nil {
		return now, err
	}
	if now.sum, err = now.file.Sum(); err != nil {
		return now, err
	}
	known, kind := was.file != nil, now.file.Protection.Kind
	switch {
	case known && was.identity == nil:
		return now, nil // it was locked, and stays so
	case known && was.fileSum == now.sum && kind != store.Bare:
		return now, nil
	case kind != store.Bare && kind != store.InKeyring:
		now.why = "it has not been unlocked yet"
		return now, nil
	}
	keyring := d.worker
	if !known {
		keyring.Patience = startPatience
	}
	now.id, err = now.file.Open(ctx, store.Means{Wrapper: d.worker, Items: keyring, Ask: nobody})
	if err != nil && kind == store.InKeyring {
		d.log.Warn("the identity stays locked", "err", err)
		now.why, now.mute = "the keyring did not give the identity: "+err.Error(), true
		return now, nil
	}
	return now, err
}

// settle makes what look has found what is. The caller holds mu.
func (d *Daemon) settle(was openState, now identityNow) {
	meanwhile := was.identity != nil && d.identity == nil // it was locked
	known := d.file != nil
	d.file, d.fileSum = now.file, now.sum
	switch {
	case now.file == nil && known:
		d.forget("the identity is gone")
		d.lock = lockState{} // there is nothing that could be unlocked
	case now.why != "":
		d.forget(now.why)
	case now.id != nil && !meanwhile:
		same := d.identity != nil && d.identity.Recipient() == now.id.Recipient()
		if d.identity != nil && !same {
			d.forget("the identity is another one")
		}
		at, used := d.lock.at, d.used.Load()
		d.unlock(now.id)
		if same { // that it was read again is no use of it, and keeps it open no longer
			d.lock.at = at
			d.used.Store(used)
		}
	}
}

func nobody(context.Context, store.Prompt) (store.Answer, error) {
	return store.Answer{}, errors.New("there is nobody to ask")
}

// unlock opens the stores with id. The caller holds mu.
func (d *Daemon) unlock(id *store.Identity) {
	wasLocked := !d.lock.since.IsZero()
	d.lock = lockState{}
	reader, err := id.WithFiles(d.settings.Identities())
	if d.further = err; err != nil {
		d.log.Error("some of others' files cannot be read", "err", err)
	}
	d.identity = reader
	d.profiles.Unlock(reader)
	d.sessions.Unlock(id)
	d.trust.setKey(id.Derive("tokend trust file v1"))
	d.used.Store(int64(BootTime()))
	d.broker.Resume()
	if wasLocked {
		d.events.tell(tokendv1.WatchEventsResponse_KIND_UNLOCKED, "")
	}
}

// forget is what locking is: from the next moment on there is no key, no text and
// no token here. Sessions that are being written still are, which needs none of
// them. The caller holds mu.
func (d *Daemon) forget(why string) {
	if d.identity != nil {
		d.log.Info("locked", "because", why)
		d.events.tell(tokendv1.WatchEventsResponse_KIND_LOCKED, why)
	}
	d.identity = nil
	d.lock = lockState{since: time.Now(), reason: why}
	d.broker.Drop()
	d.profiles.Lock()
	d.sessions.Lock()
	d.trust.setKey(nil)
}

// lockNow locks, unless it is locked already, which it then says.
func (d *Daemon) lockNow(why string) (was bool) {
	d.mu.Lock()
	was = d.identity == nil
	if was {
		d.lock.since = time.Now() // for who is just being unlocked, see unlocked
	} else {
		d.forget(why)
		d.tell()
	}
	d.mu.Unlock()
	if !was {
		d.forgotten()
	}
	return was
}

// forgotten wipes what forget has let go of, once mu is not held any more.
func (d *Daemon) forgotten() {
	harden.Wipe()
	d.wipe.Store(true) // watchers let go of what they hold a moment later
	offer(d.relook, struct{}{})
}

// tell tells watchers, of health and of tokens, whether tokens can be had. The
// caller holds mu.
func (d *Daemon) tell() {
	serving := healthpb.HealthCheckResponse_NOT_SERVING
	state := fmt.Sprint("problem ", d.problem)
	switch {
	case d.problem != nil:
	case d.moved != "":
		state = "moved"
	case d.identity != nil:
		serving = healthpb.HealthCheckResponse_SERVING
		state = "open with " + d.identity.Recipient()
	case d.file != nil:
		state = "locked"
	}
	d.health.SetServingStatus(tokendv1grpc.TokenService_ServiceDesc.ServiceName, serving)
	if state != d.told {
		d.told = state
		d.endEra()
		d.era, d.endEra = context.WithCancel(context.Background())
	}
}

// needsKey says whether a call does, so that locking ends it.
func needsKey(method string) bool {
	switch method {
	case tokendv1grpc.TokenService_WatchToken_FullMethodName: // it tells of it instead
		return false
	case tokendv1grpc.DaemonService_Protect_FullMethodName: // Migrate, which ends an era itself, heeds that itself
		return true
	}
	return strings.HasPrefix(method, "/tokend.v1.TokenService/") || strings.HasPrefix(method, "/tokend.v1.ProfileService/")
}

// saysWhatWasDone says whether a call's answer is that something has changed, which is
// true also when all has been locked since. What others answer is for nobody then.
func saysWhatWasDone(method string) bool {
	switch method {
	case tokendv1grpc.ProfileService_PutProfile_FullMethodName, tokendv1grpc.ProfileService_DeleteProfile_FullMethodName,
		tokendv1grpc.ProfileService_MoveProfile_FullMethodName, tokendv1grpc.ProfileService_ImportProfile_FullMethodName,
		tokendv1grpc.ProfileService_RekeyProfiles_FullMethodName, tokendv1grpc.ProfileService_Login_FullMethodName,
		tokendv1grpc.ProfileService_Register_FullMethodName, tokendv1grpc.ProfileService_Logout_FullMethodName,
		tokendv1grpc.TokenService_RevokeTokens_FullMethodName, tokendv1grpc.TokenService_ReportToken_FullMethodName,
		tokendv1grpc.TokenService_ResetProfile_FullMethodName, tokendv1grpc.DaemonService_Protect_FullMethodName:
		return true
	}
	return false
}

// inEra runs a call so that locking ends it.
func (d *Daemon) inEra(ctx context.Context, method string, call func(context.Context) (any, error)) (any, error) {
	if !needsKey(method) {
		return call(ctx)
	}
	era := d.enter()
	inside := ctx
	if method != tokendv1grpc.TokenService_GetToken_FullMethodName { // which broker ends, and which is to be quick
		var end func()
		inside, end = within(ctx, era)
		defer end()
	}
	resp, err := call(inside)
	if era.Err() != nil && (err != nil || !saysWhatWasDone(method)) {
		if _, now := d.opened(); now != nil && method != tokendv1grpc.ProfileService_ListProfiles_FullMethodName {
			return nil, now
		}
		if inside.Err() != nil && ctx.Err() == nil {
			return nil, status.Error(codes.Aborted, "the identity changed in the middle; try again")
		}
	}
	return resp, err
}

// within is ctx for as long as era lasts, too.
func within(ctx, era context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(era, cancel)
	return ctx, func() { stop(); cancel() }
}

// enter notes that a call needs a key, unless that is due to be locked, and returns
// the era that the call is in.
func (d *Daemon) enter() context.Context {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.settings.AutoLock() != 0 && !d.isDue() {
		d.used.Store(int64(BootTime()))
	}
	return d.era
}

// isDue says whether it is time to lock. The caller holds mu.
func (d *Daemon) isDue() bool {
	in, ever := d.lockIn()
	return ever && in <= 0
}

// lockIn is the time until it locks by itself, if ever. Each call asks, so the clock
// is read only where it matters. The caller holds mu.
func (d *Daemon) lockIn() (in time.Duration, ever bool) {
	idle := d.settings.AutoLock()
	if d.identity == nil || idle == 0 && d.lock.at == 0 {
		return 0, false
	}
	now := BootTime()
	in = d.lock.at - now
	if used := time.Duration(d.used.Load()) + idle - now; idle != 0 && (d.lock.at == 0 || used < in) {
		in = used
	}
	return in, true
}

// lockIfDue locks if it is time, and says when to look again at the latest.
func (d *Daemon) lockIfDue() time.Duration {
	d.mu.Lock()
	in, ever := d.lockIn()
	due := ever && in <= 0
	if due {
		d.forget(d.whyDue())
		d.tell()
	}
	d.mu.Unlock()
	switch {
	case due:
		d.forgotten()
	case ever:
		return in
	}
	return checkEvery
}

// whyDue is the reason for locking where isDue says so. The caller holds mu.
func (d *Daemon) whyDue() string {
	if d.lock.at != 0 && d.lock.at <= BootTime() {
		return "the time that it was unlocked for has passed"
	}
	return "nobody used it for " + d.settings.AutoLock().String()
}

// locksOn says what is to lock now besides a person, and the time.
func (d *Daemon) locksOn() settings.Locks {
	on := d.settings.LockOn()
	if !on.Auto {
		return on
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	protected := d.file != nil && d.file.Protection.Kind != store.Bare
	return settings.Locks{Suspend: protected, Screen: protected}
}

// heedLogind begins to heed it once there is a reason to.
func (d *Daemon) heedLogind() {
	if on := d.locksOn(); !on.Suspend && !on.Screen {
		return
	}
	d.heed.Do(func() {
		d.heeding.Go(func() {
			logind.Watch(d.stopping, logind.Address(), d.log, func(e logind.Event) {
				on := d.locksOn()
				switch {
				case e == logind.Suspend && on.Suspend:
					d.lockNow("the machine was about to sleep")
				case e == logind.ScreenLocked && on.Screen:
					d.lockNow("the screen was locked")
				}
			})
		})
	})
}

func (s *admin) Lock(ctx context.Context, _ *tokendv1.LockRequest) (*tokendv1.LockResponse, error) {
	d := s.d
	d.mu.RLock()
	file, problem := d.file, d.problem
	d.mu.RUnlock()
	switch {
	case file == nil && problem != nil:
		return nil, storeError(problem)
	case file == nil:
		return nil, failure(tokendv1.Reason_REASON_NOT_INITIALIZED, "no identity yet")
	}
	resp := &tokendv1.LockResponse{Unprotected: file.Protection.Kind == store.Bare}
	d.lockIfDue()
	resp.WasLocked = d.lockNow("asked to by " + caller(ctx))
	d.mu.RLock()
	defer d.mu.RUnlock()
	resp.UnsavedSessions = d.unsaved()
	return resp, nil
}

func (s *admin) Unlock(stream tokendv1grpc.DaemonService_UnlockServer) error {
	d, ctx := s.d, stream.Context()
	req, err := stream.Recv()
	start := req.GetStart()
	if err != nil || start == nil {
		return invalid("message", "start is required")
	}
	after := time.Duration(0)
	if start.GetLockAfter() != nil {
		if after = start.GetLockAfter().AsDuration(); after <= 0 || after > maxLockAfter {
			return invalid("lock_after", "must be more than 0 and at most "+maxLockAfter.String())
		}
	}
	d.lockIfDue()
	d.mu.RLock()
	was, problem, open, since := d.openState, d.problem, d.identity != nil, d.lock.since
	d.mu.RUnlock()
	switch {
	case problem != nil:
		return storeError(problem)
	case was.file == nil:
		return failure(tokendv1.Reason_REASON_NOT_INITIALIZED, "no identity yet")
	}
	file := was.file
	var id *store.Identity
	if !open {
		ctx, leave := d.unlocking.join(ctx, maxUnlocking, errPushedOut)
		defer leave()
		ctx, cancel := untilUnanswered(ctx)
		defer cancel()
		p := &asking{d: d, light: file.Protection.Kind == store.Plugin, recv: answers(stream.Recv), send: func(p *tokendv1.Prompt) error {
			return stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Prompt{Prompt: p}})
		}}
		id, err = file.Open(ctx, d.means(p))
		p.done()
		if err != nil {
			d.log.Warn("not unlocked", "err", err, "by", caller(ctx))
			if context.Cause(ctx) == errPushedOut {
				err = failure(tokendv1.Reason_REASON_THROTTLED, errPushedOut.Error())
			}
			return identityError(err)
		}
	}
	resp, err := d.unlocked(was.fileSum, since, id, after)
	if err != nil {
		return err
	}
	d.log.Info("unlocked", "by", caller(ctx))
	return stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Unlocked_{Unlocked: resp}})
}

// A crowd are the calls that wait for a person, of which there may be only so many.
// The zero value is ready.
type crowd struct {
	// mu guards all, the one that has waited longest first.
	mu  sync.Mutex
	all []*waiter
}

type waiter struct {
	pid    int
	cancel context.CancelCauseFunc
}

var errPushedOut = fmt.Errorf("more than %d are unlocking at a time, and this one has waited longest", maxUnlocking)

// join adds ctx's call, and ends another with why where there are more than most: of
// the process that has the most, the one that has waited longest. So no process keeps
// another out by asking and never answering; many processes can.
func (c *crowd) join(ctx context.Context, most int, why error) (_ context.Context, leave func()) {
	pid := peerOf(ctx).PID
	ctx, cancel := context.WithCancelCause(ctx)
	mine := &waiter{pid, cancel}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, mine)
	if len(c.all) > most {
		count := make(map[int]int)
		for _, other := range c.all {
			count[other.pid]++
		}
		out := 0
		for i, other := range c.all {
			if count[other.pid] > count[c.all[out].pid] {
				out = i
			}
		}
		c.all[out].cancel(why)
		c.all = slices.Delete(c.all, out, out+1)
	}
	return ctx, func() {
		cancel(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = slices.DeleteFunc(c.all, func(other *waiter) bool { return other == mine })
	}
}

// unlocked notes that the file with that sum was opened, which has been locked since
// then, and is to be locked after a time, if any. A nil id: it was open.
func (d *Daemon) unlocked(sum [sha256.Size]byte, since time.Time, id *store.Identity, after time.Duration) (*tokendv1.UnlockResponse_Unlocked, error) {
	d.lockIfDue()
	d.mu.Lock()
	defer d.mu.Unlock()
	resp := &tokendv1.UnlockResponse_Unlocked{WasUnlocked: d.identity != nil}
	if d.identity == nil {
		if id == nil || d.file == nil || d.fileSum != sum || !d.lock.since.Equal(since) {
			return nil, failure(tokendv1.Reason_REASON_LOCKED, "it was locked again, or the identity changed, in the middle; try again")
		}
		d.unlock(id)
		d.tell()
	}
	// Who has answered nothing can only have it locked sooner.
	if at := BootTime() + after; after != 0 && (id != nil || d.lock.at == 0 || at < d.lock.at) {
		d.lock.at = at
		offer(d.relook, struct{}{})
	}
	if d.lock.at != 0 {
		resp.LocksAt = timestamppb.New(time.Now().Add(d.lock.at - BootTime()))
	}
	return resp, nil
}

func (s *admin) Init(stream tokendv1grpc.DaemonService_InitServer) error {
	d, ctx := s.d, stream.Context()
	req, err := stream.Recv()
	start := req.GetStart()
	if err != nil || start == nil {
		return invalid("message", "start is required")
	}
	protection, err := protectionOf(start.GetProtection())
	if err != nil {
		return err
	}
	release, err := d.wrap(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := untilUnanswered(ctx)
	defer cancel()
	d.mu.RLock()
	problem := d.problem
	d.mu.RUnlock()
	if problem != nil {
		return storeError(problem)
	}
	p := &asking{d: d, recv: answers(stream.Recv), send: func(p *tokendv1.Prompt) error {
		return stream.Send(&tokendv1.InitResponse{Event: &tokendv1.InitResponse_Prompt{Prompt: p}})
	}}
	id, file, err := store.MakeIdentity(ctx, d.settings.Get(settings.Dir), start.GetPostQuantum(), protection, d.means(p))
	p.done()
	if errors.Is(err, fs.ErrExist) {
		there, err := store.FindIdentity(d.settings.Get(settings.Dir))
		if err != nil {
			return storeError(err)
		}
		return failure(tokendv1.Reason_REASON_ALREADY_EXISTS, "there is an identity already, which stays as it is: "+there.Path)
	}
	if err != nil {
		return identityError(err)
	}
	d.keep(file, id)
	d.log.Info("identity made", "recipient", id.Recipient(), "by", caller(ctx))
	return stream.Send(&tokendv1.InitResponse{Event: &tokendv1.InitResponse_Created_{Created: &tokendv1.InitResponse_Created{
		Recipient:    id.Recipient(),
		IdentityFile: file.Path,
		ProfilesDir:  d.profilesDir(),
	}}})
}

func (s *admin) Protect(stream tokendv1grpc.DaemonService_ProtectServer) error {
	d, ctx := s.d, stream.Context()
	req, err := stream.Recv()
	start := req.GetStart()
	if err != nil || start == nil {
		return invalid("message", "start is required")
	}
	if start.GetProtection() == nil {
		return invalid("protection", "is required")
	}
	protection, err := protectionOf(start.GetProtection())
	if err != nil {
		return err
	}
	release, err := d.wrap(ctx)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := untilUnanswered(ctx)
	defer cancel()
	if _, err := d.opened(); err != nil {
		return err
	}
	d.mu.RLock()
	file, id := d.file, d.identity
	d.mu.RUnlock()
	if id == nil {
		return locked()
	}
	p := &asking{d: d, recv: answers(stream.Recv), send: func(p *tokendv1.Prompt) error {
		return stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Prompt{Prompt: p}})
	}}
	if file.Protection.Kind != store.Bare {
		// As passwd(1) does: who reaches the socket while it is open must not be able
		// to shut its owner out.
		p.light = file.Protection.Kind == store.Plugin
		known, err := file.Open(ctx, d.means(p))
		p.done()
		if err != nil {
			return identityError(err)
		}
		if known.Recipient() != id.Recipient() {
			return failure(tokendv1.Reason_REASON_STORE_UNAVAILABLE, "the identity in "+file.Path+" is another than the one in use; run: tokenctl reload")
		}
	}
	p.light = protection.Kind == store.Plugin
	now, err := file.Protect(ctx, id, protection, d.means(p))
	p.done()
	if now == nil {
		return identityError(err)
	}
	done := &tokendv1.ProtectResponse_Protected{IdentityFile: now.Path}
	switch {
	case err != nil:
		done.Warning = "what held the identity before is still there: " + cut(err.Error(), maxLine)
	case file.Protection.Kind == store.Bare && protection.Kind != store.Bare:
		done.Warning = "the bare file is deleted, but backups and unused blocks of the disk may still hold it"
	}
	d.keep(now, nil)
	d.log.Info("identity protected", "by", protectionNames[protection.Kind], "for", caller(ctx))
	return stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Protected_{Protected: done}})
}

// keep notes that the identity's file is a new one, and where id is not nil, that
// its identity is, too, and open.
func (d *Daemon) keep(file *store.IdentityFile, id *store.Identity) {
	sum, err := file.Sum()
	if err != nil {
		d.log.Warn("reading the new identity's file", "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.file, d.fileSum = file, sum
	if id != nil {
		d.unlock(id)
		d.tell()
	}
}

var protectionNames = map[store.ProtectionKind]string{
	store.Bare: "none", store.Passphrase: "passphrase", store.SSH: "ssh", store.Plugin: "plugin", store.InKeyring: "keyring",
}

// protectionOf reads what a caller wants an identity to be protected by.
func protectionOf(p *tokendv1.IdentityProtection) (store.Protection, error) {
	switch kind := p.GetKind().(type) {
	case nil, *tokendv1.IdentityProtection_None_:
		return store.Protection{}, nil
	case *tokendv1.IdentityProtection_Passphrase_:
		return store.Protection{Kind: store.Passphrase}, nil
	case *tokendv1.IdentityProtection_Ssh_:
		if kind.Ssh.GetPublicKey() == "" {
			return store.Protection{}, invalid("ssh.public_key", "is required")
		}
		return store.Protection{Kind: store.SSH, PublicKey: kind.Ssh.GetPublicKey()}, nil
	case *tokendv1.IdentityProtection_Plugin_:
		if kind.Plugin.GetName() == "" {
			return store.Protection{}, invalid("plugin.name", "is required")
		}
		return store.Protection{Kind: store.Plugin, Plugin: kind.Plugin.GetName(), PluginIdentity: kind.Plugin.GetIdentity()}, nil
	case *tokendv1.IdentityProtection_Keyring_:
		return store.Protection{Kind: store.InKeyring}, nil
	}
	return store.Protection{}, invalid("protection", "unknown kind")
}

// identityError turns what went wrong with an identity into the call's error.
func identityError(err error) error {
	var plugin *store.PluginError
	switch {
	case errors.Is(err, store.ErrRefused):
		// What it was that was refused is clear to who has just answered.
		refused := store.ErrRefused.Error()
		if _, why, ok := strings.Cut(err.Error(), refused); ok {
			refused += why
		}
		return failure(tokendv1.Reason_REASON_DENIED, line(refused))
	case errors.Is(err, errUnanswered):
		return failure(tokendv1.Reason_REASON_DENIED, errUnanswered.Error())
	case errors.As(err, new(*store.ProtectionError)):
		return failure(tokendv1.Reason_REASON_REQUEST_INVALID, line(err.Error()))
	case errors.As(err, &plugin):
		cause := ""
		if plugin.Allowed {
			cause = "no_plugin"
		}
		return failure(tokendv1.Reason_REASON_SETTINGS_INVALID, err.Error(), "cause", cause)
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return err // the stream's own
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return storeError(err)
}

// means is what it takes to open or write an identity, with p to ask.
func (d *Daemon) means(p *asking) store.Means {
	patient := d.worker
	patient.Patience = keyringPatience
	return store.Means{Wrapper: d.worker, Items: patient, Ask: p.ask}
}

// asking puts a worker's prompts to the person at the other end of a stream, and
// sees to it that one key is derived at a time, however many answer.
type asking struct {
	d       *Daemon
	light   bool // what is answered is no work for this machine
	send    func(*tokendv1.Prompt) error
	recv    func() (*tokendv1.PromptAnswer, error)
	derives bool // deriving is ours
}

var asks = map[store.PromptKind]tokendv1.Prompt_Ask{
	store.AskSecret:    tokendv1.Prompt_ASK_SECRET,
	store.AskNewSecret: tokendv1.Prompt_ASK_NEW_SECRET,
	store.AskText:      tokendv1.Prompt_ASK_TEXT,
	store.AskConfirm:   tokendv1.Prompt_ASK_CONFIRM,
	store.AskMessage:   tokendv1.Prompt_ASK_MESSAGE,
	store.AskSSHKey:    tokendv1.Prompt_ASK_SSH_KEY,
}

func (p *asking) ask(ctx context.Context, q store.Prompt) (store.Answer, error) {
	p.done() // what was derived from the answer before opened nothing
	err := p.send(&tokendv1.Prompt{
		Ask: asks[q.Kind], Message: line(q.Message), Yes: line(q.Yes), No: line(q.No), PublicKey: q.PublicKey, Again: q.Again})
	if err != nil || q.Kind == store.AskMessage {
		return store.Answer{}, err
	}
	answer, err := p.hear(ctx)
	if err != nil {
		return store.Answer{}, err
	}
	if answer == nil {
		return store.Answer{}, invalid("message", "an answer is required")
	}
	if !p.light {
		if err := p.d.deriving.Acquire(ctx, 1); err != nil {
			return store.Answer{}, err
		}
		p.derives = true
	}
	return store.Answer{Secret: answer.GetSecret(), Text: answer.GetText(), Yes: answer.GetYes()}, nil
}

// answers makes what a stream receives the answers in it.
func answers[R interface {
	GetAnswer() *tokendv1.PromptAnswer
}](recv func() (R, error)) func() (*tokendv1.PromptAnswer, error) {
	return func() (*tokendv1.PromptAnswer, error) {
		req, err := recv()
		return req.GetAnswer(), err
	}
}

// hear waits for an answer, or for ctx.
func (p *asking) hear(ctx context.Context) (*tokendv1.PromptAnswer, error) {
	type said struct {
		answer *tokendv1.PromptAnswer
		err    error
	}
	heard := make(chan said, 1)
	go func() { // ends with the call, at the latest
		answer, err := p.recv()
		heard <- said{answer, err}
	}()
	select {
	case s := <-heard:
		return s.answer, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// line makes what a plugin says one line that can be printed.
func line(s string) string {
	return cut(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s), maxLine)
}

// done lets somebody else derive.
func (p *asking) done() {
	if p.derives {
		p.derives = false
		p.d.deriving.Release(1)
	}
}
