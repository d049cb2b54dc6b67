package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

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

func (s *admin) Init(stream tokendv1grpc.DaemonService_InitServer) error {
	req, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return invalid("message", "start is required")
	}
	if err != nil {
		return err
	}
	start := req.GetStart()
	if start == nil {
		return invalid("message", "start is required")
	}
	d := s.d
	path := d.settings.IdentityFile()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.problem != nil {
		return storeError(d.problem)
	}
	id, err := store.CreateIdentity(path, start.GetPostQuantum())
	if errors.Is(err, fs.ErrExist) {
		return failure(tokendv1.Reason_REASON_ALREADY_EXISTS, "there is an identity already, which stays as it is: "+path)
	}
	if err != nil {
		return storeError(err)
	}
	d.unlock(id)
	d.tell()
	d.log.Info("identity made", "recipient", id.Recipient(), "by", caller(stream.Context()))
	return stream.Send(&tokendv1.InitResponse{Event: &tokendv1.InitResponse_Created_{Created: &tokendv1.InitResponse_Created{
		Recipient:    id.Recipient(),
		IdentityFile: path,
		ProfilesDir:  d.settings.ProfilesDir(),
	}}})
}

func (s *admin) GetStatus(ctx context.Context, _ *tokendv1.GetStatusRequest) (*tokendv1.GetStatusResponse, error) {
	d := s.d
	resp := &tokendv1.GetStatusResponse{
		State:        tokendv1.GetStatusResponse_STATE_UNLOCKED,
		Pid:          int64(os.Getpid()),
		Version:      d.version,
		StartedAt:    timestamppb.New(d.started),
		Socket:       d.listener.Addr().String(),
		Store:        d.settings.Get(settings.Store),
		ProfilesDir:  d.settings.ProfilesDir(),
		SessionsDir:  d.settings.SessionsDir(),
		TrustFile:    d.settings.TrustFile(),
		IdentityFile: d.settings.IdentityFile(),
		Connections:  int32(d.listener.Open()),
		Goroutines:   int32(runtime.NumGoroutine()),
	}
	for _, v := range d.settings.All() {
		resp.Settings = append(resp.Settings, &tokendv1.Setting{Name: v.Name, Value: v.Value, Source: v.Source})
	}
	for _, p := range d.protections {
		resp.Protections = append(resp.Protections, &tokendv1.Protection{Name: p.Name, Active: p.Active, Detail: p.Detail})
	}
	d.mu.RLock()
	b, profiles, sessions, identity, problem := d.broker, d.profiles, d.sessions, d.identity, d.problem
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
	case identity == nil:
		resp.State = tokendv1.GetStatusResponse_STATE_NOT_INITIALIZED
	default:
		resp.Recipient = identity.Recipient()
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
	if err != nil {
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
	d.open()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.problem != nil {
		return nil, storeError(d.problem)
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
