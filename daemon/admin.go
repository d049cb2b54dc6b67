package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// standingBytes is what GetStatus has room for of how profiles stand.
const standingBytes = 32 << 10

type admin struct {
	tokendv1grpc.UnimplementedDaemonServiceServer
	d *Daemon
}

func (s *admin) GetStatus(ctx context.Context, _ *tokendv1.GetStatusRequest) (*tokendv1.GetStatusResponse, error) {
	d := s.d
	d.lockIfDue() // calls for tokens heed it already, whether or not a timer has fired
	resp := &tokendv1.GetStatusResponse{
		State:        tokendv1.GetStatusResponse_STATE_UNLOCKED,
		Pid:          int64(os.Getpid()),
		Version:      d.version,
		StartedAt:    timestamppb.New(d.started),
		Socket:       d.listener.Addr().String(),
		Store:        d.settings.Get(settings.Store),
		ProfilesDir:  d.profilesDir(),
		SessionsDir:  d.settings.SessionsDir(),
		TrustFile:    d.settings.TrustFile(),
		IdentityFile: filepath.Join(d.settings.Get(settings.Dir), "identity.txt"),
		ConfigFile:   d.settings.ConfigFile,
		Connections:  int32(d.listener.Open()),
		Goroutines:   int32(runtime.NumGoroutine()),
	}
	for _, v := range d.settings.All() {
		resp.Settings = append(resp.Settings, &tokendv1.Setting{Name: v.Name, Value: v.Value, Source: v.Source})
	}
	if d.protections != nil {
		for _, p := range d.protections() {
			resp.Protections = append(resp.Protections, &tokendv1.Protection{Id: p.ID, Name: p.Name, Active: p.Active, Detail: p.Detail})
		}
	}
	d.mu.RLock()
	b, profiles, sessions, identity, problem, file, lock, moved, further := d.broker, d.profiles, d.sessions, d.identity, d.problem, d.file, d.lock, d.moved, d.further
	locksIn, locks := d.lockIn()
	d.mu.RUnlock()
	if b != nil {
		resp.CachedTokens = int32(b.Cached())
		resp.Profiles = count(ctx, profiles, resp)
		resp.Sessions = count(ctx, sessions, resp)
		resp.UnsavedSessions = b.Unsaved()
		resp.QueuedRevocations = int32(b.QueuedRevocations())
		if orphans, err := b.Orphans(ctx); err == nil {
			resp.OrphanedSessions = orphans
		}
	}
	switch {
	case problem != nil:
		resp.State = tokendv1.GetStatusResponse_STATE_STORE_UNAVAILABLE
		resp.Problem = problem.Error()
	case file == nil:
		resp.State = tokendv1.GetStatusResponse_STATE_NOT_INITIALIZED
	case identity == nil:
		resp.State = tokendv1.GetStatusResponse_STATE_LOCKED
		resp.LockedSince, resp.LockReason = timestamppb.New(lock.since), lock.reason
	default:
		resp.Recipient = identity.Recipient()
		if locks {
			resp.LocksAt = timestamppb.New(time.Now().Add(locksIn))
		}
	}
	if identity != nil && further != nil {
		resp.Problem = settings.Identities + ": " + further.Error()
	}
	if identity != nil && resp.Profiles == 0 && moved == "" {
		if elsewhere := d.elsewhere(ctx); elsewhere != "" {
			resp.Problem = elsewhere
		}
	}
	if moved != "" {
		resp.Problem = status.Convert(d.errMoved(moved)).Message()
	}
	if file != nil {
		resp.IdentityFile = file.Path
		resp.IdentityProtection = protectionNames[file.Protection.Kind]
	}
	if b != nil {
		addStandings(resp, b.Standings())
	}
	return resp, nil
}

// addStandings adds how profiles stand, those with a problem first, as far as
// there is room.
func addStandings(resp *tokendv1.GetStatusResponse, standings []broker.Standing) {
	slices.SortStableFunc(standings, func(a, b broker.Standing) int {
		switch {
		case a.Err != nil && b.Err == nil:
			return -1
		case a.Err == nil && b.Err != nil:
			return 1
		}
		return 0
	})
	room := min(standingBytes, pageBytes-proto.Size(resp))
	now := time.Now()
	for i, s := range standings {
		p := &tokendv1.ProfileStatus{Profile: s.Profile}
		if s.Token != nil {
			p.ExpiresAt = timestamppb.New(now.Add(s.Token.Remaining))
		}
		if s.Renews > 0 {
			p.RenewsAt = timestamppb.New(now.Add(s.Renews))
		}
		if s.Retry > 0 {
			p.NextTry = timestamppb.New(now.Add(s.Retry))
		}
		if s.Err != nil {
			why := problem(s.Profile, profileError(s.Profile, s.Err))
			p.Reason, p.Message = why.GetReason(), why.GetMessage()
		}
		if room -= proto.Size(p) + 4; room < 0 { // with its tag and length
			resp.ProfileStatusesOmitted = int32(len(standings) - i)
			return
		}
		resp.ProfileStatuses = append(resp.ProfileStatuses, p)
	}
}

func count(ctx context.Context, s store.Store, resp *tokendv1.GetStatusResponse) int32 {
	entries, err := s.List(ctx)
	if err != nil && !errors.Is(err, store.ErrLocked) {
		resp.Problem = err.Error()
	}
	return int32(len(entries))
}

func (s *admin) Reload(ctx context.Context, _ *tokendv1.ReloadRequest) (*tokendv1.ReloadResponse, error) {
	d := s.d
	now, err := d.settings.Again()
	if err != nil {
		return nil, failure(tokendv1.Reason_REASON_SETTINGS_INVALID, err.Error())
	}
	resp := &tokendv1.ReloadResponse{}
	for _, v := range now.All() {
		if d.settings.Source(v.Name) != "flag" && d.settings.Get(v.Name) != v.Value {
			resp.NeedsRestart = append(resp.NeedsRestart, v.Name)
		}
	}
	d.log.Info("reloading", "by", caller(ctx))
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *admin) Stop(ctx context.Context, _ *tokendv1.StopRequest) (*tokendv1.StopResponse, error) {
	d := s.d
	d.mu.Lock()
	names := d.unsaved()
	warned := d.warned
	if d.warned = len(names) > 0; d.warned && !warned {
		d.mu.Unlock()
		return nil, failure(tokendv1.Reason_REASON_STORE_UNAVAILABLE,
			"what the last renewal brought is in memory only, and would be lost: "+strings.Join(names, ", ")+"; mend the store, or ask again to stop all the same")
	}
	d.mu.Unlock()
	s.d.log.Info("asked to stop", "by", caller(ctx))
	s.d.beginStop()
	return &tokendv1.StopResponse{Pid: int64(os.Getpid())}, nil
}
