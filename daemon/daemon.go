// Package daemon serves the API of proto/tokend/v1 over a socket: it decides
// who may call what, opens the stores, and turns what goes wrong into the
// reasons of the contract. The life of tokens is package broker's.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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
	// answerTime is kept of a caller's deadline for the answer's way back.
	answerTime = 200 * time.Millisecond
	// checkEvery is how often the daemon looks whether it can still be found,
	// and whether it is idle.
	checkEvery = 5 * time.Second
)

// dirHeader is the request metadata with which a client says which store it
// means. Clients that do not care leave it out.
const dirHeader = "tokend-dir"

// Daemon is one user's credential daemon.
type Daemon struct {
	settings    *settings.Settings
	version     string
	protections []harden.Protection
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

	calls atomic.Int64 // taken since the start
	// For Serve alone: calls at its last look, and whether memory has been given
	// back since it last changed.
	seen  int64
	given bool

	// mu guards the fields that follow.
	mu       sync.RWMutex
	profiles *store.Age      // nil: problem says why
	sessions *store.Age      // likewise
	broker   *broker.Broker  // likewise
	identity *store.Identity // nil: there is none yet, or problem says why
	problem  error
	warned   bool // who asked to stop was told what would be lost
	// era lasts until opened says something else, which is told when.
	era    context.Context
	endEra context.CancelFunc
	told   string
}

// New opens the stores and the identity as far as they can be opened. A store
// that cannot is each call's error, not New's.
func New(s *settings.Settings, version string, protections []harden.Protection, log *slog.Logger) *Daemon {
	d := &Daemon{
		settings:    s,
		version:     version,
		protections: protections,
		log:         log,
		started:     time.Now(),
		health:      health.NewServer(),
		trust:       newTrust(s.TrustFile(), s.Get(settings.Trust) == "all"),
		events:      newEvents(),
		watched:     semaphore.NewWeighted(maxWatched),
	}
	d.stopping, d.beginStop = context.WithCancel(context.Background())
	d.era, d.endEra = context.WithCancel(context.Background())
	d.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(8<<10),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(prefaceTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime}),
		grpc.ChainUnaryInterceptor(d.unary),
		grpc.ChainStreamInterceptor(d.stream),
	)
	tokendv1grpc.RegisterTokenServiceServer(d.server, &tokens{d: d})
	tokendv1grpc.RegisterProfileServiceServer(d.server, &profiles{d: d})
	tokendv1grpc.RegisterDaemonServiceServer(d.server, &admin{d: d})
	healthpb.RegisterHealthServer(d.server, d.health)
	d.open()
	return d
}

// Serve answers calls on l until ctx ends, Stop is called, or the socket is
// lost. It then lets calls under way end, for at most 10 s.
func (d *Daemon) Serve(ctx context.Context, l *socket.Listener) error {
	d.listener = l
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(l) }()

	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	err := func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-d.stopping.Done():
				return nil
			case err := <-served:
				served <- nil // for below
				return err
			case <-tick.C:
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

// giveBack returns memory that a burst of calls has left as garbage, with what
// secrets are in it, once no call has come for a while.
func (d *Daemon) giveBack() {
	if calls := d.calls.Load(); calls != d.seen {
		d.seen, d.given = calls, false
		return
	}
	if !d.given {
		debug.FreeOSMemory()
		d.given = true
	}
}

// open opens the stores if they are not, and the identity that there is now.
func (d *Daemon) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problem = d.openStores()
	if d.problem == nil {
		id, err := store.LoadIdentity(d.settings.IdentityFile())
		switch {
		case err == nil:
			if d.identity != nil && d.identity.Recipient() != id.Recipient() {
				d.broker.Drop()
			}
			d.unlock(id)
		case errors.Is(err, fs.ErrNotExist):
			d.identity = nil
			d.broker.Drop()
			d.profiles.Lock()
			d.sessions.Lock()
		default:
			d.problem = err
		}
	}
	if d.problem != nil {
		d.log.Error("the store cannot be opened", "err", d.problem)
	}
	d.tell()
}

// tell tells watchers, of health and of tokens, whether tokens can be had. The
// caller holds mu.
func (d *Daemon) tell() {
	serving := healthpb.HealthCheckResponse_NOT_SERVING
	state := fmt.Sprint("problem ", d.problem)
	if d.problem == nil && d.identity != nil {
		serving = healthpb.HealthCheckResponse_SERVING
		state = "open with " + d.identity.Recipient()
	}
	d.health.SetServingStatus(tokendv1grpc.TokenService_ServiceDesc.ServiceName, serving)
	if state != d.told {
		d.told = state
		d.endEra()
		d.era, d.endEra = context.WithCancel(context.Background())
	}
}

func (d *Daemon) openStores() error {
	if d.broker != nil {
		return nil
	}
	profiles, err := store.OpenAge(d.settings.ProfilesDir(), d.trust.recipients)
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

// unlock opens the stores with id. The caller holds mu.
func (d *Daemon) unlock(id *store.Identity) {
	d.identity = id
	d.profiles.Unlock(id)
	d.sessions.Unlock(id)
	d.trust.setKey(id.Derive("tokend trust file v1"))
	d.broker.Resume()
}

// house is what calls work with once the stores are open.
type house struct {
	profiles *store.Age
	broker   *broker.Broker
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
	case d.identity == nil:
		return house{}, d.era, failure(tokendv1.Reason_REASON_NOT_INITIALIZED, "no identity yet")
	}
	return house{d.profiles, d.broker}, d.era, nil
}

func (d *Daemon) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
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
	resp, err := handle(ctx, req)
	if m, ok := resp.(proto.Message); ok && err == nil && proto.Size(m) > maxMessage {
		return nil, tooLarge()
	}
	return resp, err
}

func (d *Daemon) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
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
	return handle(srv, &endingStream{s, ctx, d})
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
