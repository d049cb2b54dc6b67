// Package daemon serves the API of proto/tokend/v1 over a socket: it decides
// who may call what, opens the stores, and turns what goes wrong into the
// reasons of the contract. The life of tokens is package broker's.
package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tokend/broker"
	"tokend/internal/harden"
	"tokend/internal/settings"
	"tokend/internal/socket"
	"tokend/internal/worker"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

const (
	maxMessage  = 64 << 10
	maxStreams  = 256
	prefaceTime = 2 * time.Second
	idleTime    = 5 * time.Minute
	// callTime bounds calls that come without a deadline of their own.
	callTime = time.Minute
	stopTime = 10 * time.Second
	// streamTime bounds calls with a person in them, coffee break included.
	streamTime = 10 * time.Minute
	// stacks is how many goroutines wait for calls, beforehand.
	stacks = 64
	// answerTime is kept of a caller's deadline for the answer's way back.
	answerTime = 500 * time.Millisecond
	// relookTime leaves those who were ended by a lock the time to let go of what they
	// hold.
	relookTime = 20 * time.Millisecond
	// checkEvery is how often the daemon looks whether it can still be found,
	// and whether it is idle.
	checkEvery = 5 * time.Second
)

// dirHeader is the request metadata with which a client says which store it
// means. Clients that do not care leave it out.
const dirHeader = "tokend-dir"

// profileStore is where texts are kept.
type profileStore interface {
	store.Store
	// CheckPut says whether Put could write, with its errors, as far as that can be
	// known before there is anything to write.
	CheckPut(ctx context.Context, name string, replaces store.Version) error
	Unlock(*store.Identity)
	Lock()
}

// openState is which identity there is, and whether it is open.
type openState struct {
	file     *store.IdentityFile // nil: there is none yet
	fileSum  [sha256.Size]byte   // of its bytes
	identity *store.Identity     // nil where file is not: locked
}

// Daemon is one user's credential daemon.
type Daemon struct {
	settings    *settings.Settings
	version     string
	protections func() []harden.Protection
	log         *slog.Logger
	started     time.Time
	listener    *socket.Listener
	server      *grpc.Server
	health      *health.Server
	stopping    context.Context // ended by beginStop
	beginStop   context.CancelFunc
	trust       *trust
	events      *events
	watched     *semaphore.Weighted // tokens

	worker    worker.Process
	unlocking crowd
	deriving  *semaphore.Weighted // keys from what they answer: one at a time
	wrapping  *semaphore.Weighted // see wrap

	relook  chan struct{} // has one when it may be time to lock sooner than Serve thinks
	heed    sync.Once
	heeding sync.WaitGroup // ended by stopping

	streaming map[string]bool // by full method

	wipe  atomic.Bool  // it has been locked since Serve's last look
	calls atomic.Int64 // taken since the start
	used  atomic.Int64 // BootTime of the last call that needs a key
	// For Serve alone: calls at its last look, and calls and fetches when memory was
	// last given back.
	seen, given int64
	wipes       int // how often that is to be done again

	// mu guards the fields that follow.
	mu       sync.RWMutex
	profiles profileStore   // nil: problem says why
	sessions *store.Age     // likewise
	broker   *broker.Broker // likewise
	problem  error
	openState
	further error // what of TOKEND_IDENTITIES cannot be used, and why, or nil
	lock    lockState
	moved   string // kind of store that Migrate has moved the profiles to; "": none
	warned  bool   // who asked to stop was told what would be lost
	// endForgetting ends forgetItems; nil where none has begun.
	endForgetting context.CancelFunc
	// era lasts until opened says something else, which is told when.
	era    context.Context
	endEra context.CancelFunc
	told   string
}

// New opens the stores and the identity as far as they can be opened. A store
// that cannot is each call's error, not New's. Serve stops what New starts.
func New(s *settings.Settings, version string, protections func() []harden.Protection, log *slog.Logger) *Daemon {
	d := &Daemon{
		settings:    s,
		version:     version,
		protections: protections,
		log:         log,
		started:     time.Now(),
		health:      health.NewServer(),
		trust:       newTrust(s.TrustFile(), s.Get(settings.Trust) == "all"),
		events:      newEvents(),
		streaming:   make(map[string]bool),
		watched:     semaphore.NewWeighted(maxWatched),
		worker:      worker.Process{Plugins: s.Plugins()},
		deriving:    semaphore.NewWeighted(1),
		wrapping:    semaphore.NewWeighted(1),
		relook:      make(chan struct{}, 1),
	}
	d.stopping, d.beginStop = context.WithCancel(context.Background())
	d.era, d.endEra = context.WithCancel(context.Background())
	d.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(8<<10),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(prefaceTime),
		// Requests are small, and memory that is freed is overwritten: eight times as
		// much of it is grpc's own idea.
		grpc.ReadBufferSize(4<<10),
		// Stacks that have grown for a call stay for the next ones. Whoever watches, or
		// waits for a provider, keeps one; where all are kept, calls get new ones.
		grpc.NumStreamWorkers(stacks),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime}),
		grpc.InTapHandle(d.tapped),
		grpc.ForceServerCodecV2(wire{encoding.GetCodecV2("proto")}),
		grpc.ChainUnaryInterceptor(d.unary),
		grpc.ChainStreamInterceptor(d.stream),
	)
	tokendv1grpc.RegisterTokenServiceServer(d.server, &tokens{d: d})
	tokendv1grpc.RegisterProfileServiceServer(d.server, &profiles{d: d})
	tokendv1grpc.RegisterDaemonServiceServer(d.server, &admin{d: d})
	healthpb.RegisterHealthServer(d.server, d.health)
	for service, info := range d.server.GetServiceInfo() {
		for _, m := range info.Methods {
			if m.IsServerStream || m.IsClientStream {
				d.streaming["/"+service+"/"+m.Name] = true
			}
		}
	}
	d.used.Store(int64(BootTime()))
	harden.Secretly(func() { _ = d.open(context.Background()) }) // what is wrong, each call says
	return d
}

// Serve answers calls on l until ctx ends, Stop is called, or the socket is
// lost. It then lets calls under way end, for at most 10 s.
func (d *Daemon) Serve(ctx context.Context, l *socket.Listener) error {
	d.listener = l
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(l) }()

	tick := time.NewTimer(0)
	defer tick.Stop()
	err := func() error {
		soon := false // once only: who asks for it all the time does not put it off for ever
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-d.stopping.Done():
				return nil
			case err := <-served:
				served <- nil // for below
				return err
			case <-d.relook:
				if !soon {
					soon = true
					tick.Reset(relookTime)
				}
			case <-tick.C:
				soon = false
				tick.Reset(min(checkEvery, d.lockIfDue()))
				d.heedLogind()
				d.giveBack()
				if l.Lost() {
					return fmt.Errorf("socket %s was removed or replaced by somebody else", l.Addr())
				}
			}
		}
	}()
	d.log.Info("stopping")
	d.beginStop()
	d.health.Shutdown()
	force := time.AfterFunc(stopTime, d.server.Stop)
	d.server.GracefulStop()
	force.Stop()
	d.heeding.Wait()
	err = errors.Join(err, <-served)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.broker != nil {
		d.broker.Close() //nolint:contextcheck // what it writes for the last time waits for no caller
	}
	return err
}

// unsaved names the profiles whose sessions a stop would lose. The caller holds
// mu.
func (d *Daemon) unsaved() []string {
	if d.broker == nil {
		return nil
	}
	return d.broker.Unsaved()
}

// giveBack returns memory that calls and renewals have left as garbage, with what
// secrets are in it, once no call has come for a while, or at once after a lock.
func (d *Daemon) giveBack() {
	d.mu.RLock()
	b := d.broker
	d.mu.RUnlock()
	calls := d.calls.Load()
	done := calls
	if b != nil {
		done += b.Fetches()
	}
	idle, locked := calls == d.seen, d.wipe.Swap(false)
	if d.seen = calls; done != d.given || locked {
		d.given, d.wipes = done, 2 // what was still held at the first is not at the second
	}
	if d.wipes > 0 && (idle || locked) {
		d.wipes--
		harden.Wipe()
		unmapProgram()
	}
}

// openStores opens the stores if they are not. The caller holds mu.
func (d *Daemon) openStores() error {
	if d.broker != nil {
		return nil
	}
	profiles, err := d.openProfiles(d.settings.Get(settings.Store))
	if err != nil {
		return err
	}
	sessions, err := store.OpenAge(d.settings.SessionsDir(), nil)
	if err != nil {
		return err
	}
	d.profiles, d.sessions = profiles, sessions
	d.broker = broker.New(broker.Config{
		Profiles:  profiles,
		Sessions:  sessions,
		Trusted:   d.trust.text,
		Resolve:   resolve,
		Now:       BootTime,
		BootID:    bootID(),
		RateLimit: d.settings.RateLimit(),
		Event:     d.events.add,
		Log:       d.log,
	})
	return nil
}

func (d *Daemon) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	from := peerOf(ctx)
	if err := begin(ctx, from); err != nil {
		return nil, err
	}
	d.calls.Add(1)
	if err := d.checkDir(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	left := callTime
	if deadline, ok := ctx.Deadline(); ok {
		// The caller is to hear why before he gives up.
		left = time.Until(deadline)
		left -= min(left/10, answerTime)
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	resp, err := d.inEra(ctx, info.FullMethod, func(ctx context.Context) (resp any, err error) {
		if !computes(info.FullMethod) {
			return handle(ctx, req)
		}
		harden.Secretly(func() { resp, err = handle(ctx, req) })
		return resp, err
	})
	m, ok := resp.(proto.Message)
	switch {
	case err != nil || !ok:
		return nil, err
	case proto.Size(m) > maxMessage:
		return nil, tooLarge()
	}
	return answer{m, from}, nil
}

func (d *Daemon) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := begin(s.Context(), peerOf(s.Context())); err != nil {
		return err
	}
	if err := d.checkDir(s.Context(), info.FullMethod); err != nil {
		return err
	}
	var cancel context.CancelFunc
	ctx := s.Context()
	switch info.FullMethod {
	case healthpb.Health_Watch_FullMethodName, tokendv1grpc.TokenService_WatchToken_FullMethodName, tokendv1grpc.DaemonService_WatchEvents_FullMethodName:
		ctx, cancel = context.WithCancel(ctx)
	default:
		ctx, cancel = context.WithTimeout(ctx, streamTime)
	}
	defer cancel()
	defer context.AfterFunc(d.stopping, cancel)()
	_, err := d.inEra(ctx, info.FullMethod, func(ctx context.Context) (_ any, err error) {
		if !computes(info.FullMethod) {
			return nil, handle(srv, &endingStream{s, ctx, d})
		}
		harden.Secretly(func() { err = handle(srv, &endingStream{s, ctx, d}) })
		return nil, err
	})
	if status.Code(err) == codes.Canceled && d.stopping.Err() != nil {
		return d.ended(ctx) // a person is told why nobody listens any more
	}
	return err
}

// computes says whether a call reads texts, keys or sessions by itself, of which its
// stack is then to be cleared: what ends up on one, such as the primes of a key that
// is checked, the collector does not overwrite.
func computes(method string) bool {
	switch method {
	case tokendv1grpc.TokenService_GetToken_FullMethodName, tokendv1grpc.TokenService_WatchToken_FullMethodName, // fetches do
		tokendv1grpc.ProfileService_ListProfiles_FullMethodName,
		tokendv1grpc.DaemonService_GetStatus_FullMethodName, tokendv1grpc.DaemonService_WatchEvents_FullMethodName:
		return false
	}
	return strings.HasPrefix(method, "/tokend.v1.")
}

// endingStream is a stream that ends when the daemon does: watchers would keep it
// waiting.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
	d   *Daemon
}

func (s *endingStream) Context() context.Context { return s.ctx }

// RecvMsg ends with the daemon, too: what it waits for is a person's to say, who
// may never.
func (s *endingStream) RecvMsg(m any) error {
	got := make(chan error, 1)
	go func() { got <- s.ServerStream.RecvMsg(m) }() // returns when the handler has, at the latest
	select {
	case err := <-got:
		return err
	case <-s.ctx.Done():
		return s.d.ended(s.ctx)
	}
}

// ended is why a stream has, whose context this is.
func (d *Daemon) ended(ctx context.Context) error {
	if d.stopping.Err() != nil {
		return status.Error(codes.Unavailable, "tokend is stopping")
	}
	return status.FromContextError(ctx.Err()).Err()
}

// checkDir keeps a client that means another store from being served from
// this one. What it needs to find that out, and to end this daemon, works.
func (d *Daemon) checkDir(ctx context.Context, method string) error {
	switch method {
	case tokendv1grpc.DaemonService_GetStatus_FullMethodName, tokendv1grpc.DaemonService_Stop_FullMethodName:
		return nil
	}
	dir := d.settings.Get(settings.Dir)
	for _, want := range metadata.ValueFromIncomingContext(ctx, dirHeader) {
		if want == dir {
			continue
		}
		a, errA := filepath.EvalSymlinks(want)
		b, errB := filepath.EvalSymlinks(dir)
		if errA != nil || errB != nil || a != b {
			return failure(tokendv1.Reason_REASON_SETTINGS_INVALID,
				fmt.Sprintf("the tokend that listens here serves TOKEND_DIR %s, not %s; give each its own TOKEND_SOCKET", dir, want))
		}
	}
	return nil
}
