package daemon

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/broker"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

const (
	keptEvents       = 512
	maxEventWatchers = 64
)

var eventKinds = map[broker.EventKind]tokendv1.WatchEventsResponse_Kind{
	broker.TokenMade:      tokendv1.WatchEventsResponse_KIND_TOKEN_MADE,
	broker.TokenRenewed:   tokendv1.WatchEventsResponse_KIND_TOKEN_RENEWED,
	broker.TokenFailed:    tokendv1.WatchEventsResponse_KIND_TOKEN_FAILED,
	broker.TokenReported:  tokendv1.WatchEventsResponse_KIND_TOKEN_REPORTED,
	broker.SessionBegun:   tokendv1.WatchEventsResponse_KIND_SESSION_BEGUN,
	broker.SessionEnded:   tokendv1.WatchEventsResponse_KIND_SESSION_ENDED,
	broker.SessionUnsaved: tokendv1.WatchEventsResponse_KIND_SESSION_UNSAVED,
	broker.SessionSaved:   tokendv1.WatchEventsResponse_KIND_SESSION_SAVED,
	broker.ProfileReset:   tokendv1.WatchEventsResponse_KIND_PROFILE_RESET,
	broker.Woken:          tokendv1.WatchEventsResponse_KIND_WOKEN,
}

// events keeps the last things that have happened, for all who watch: each of
// them has a place in it, and misses what is dropped before it has got there.
type events struct {
	// mu guards the fields that follow, and the watchers'.
	mu       sync.Mutex
	kept     []*tokendv1.WatchEventsResponse // the oldest first
	dropped  int                             // how many were before these
	watchers map[*eventWatcher]struct{}
}

type eventWatcher struct {
	profile string // "": all
	next    int    // the number of the first event that it has not seen
	missed  int
	wake    chan struct{} // has one when there may be more
}

func newEvents() *events {
	return &events{watchers: make(map[*eventWatcher]struct{})}
}

// add tells all watchers what has happened. It never waits.
func (e *events) add(b broker.Event) {
	event := &tokendv1.WatchEventsResponse{
		Kind:        eventKinds[b.Kind],
		Time:        timestamppb.New(b.Time),
		Profile:     b.Profile,
		Message:     cut(b.Message, maxLine),
		Fingerprint: b.Fingerprint,
	}
	if b.Err != nil {
		p := problem(b.Profile, profileError(b.Profile, b.Err))
		event.Reason = p.GetReason()
		if event.Message == "" {
			event.Message = p.GetMessage()
		}
	}
	if !b.Ends.IsZero() {
		event.ExpiresAt = timestamppb.New(b.Ends)
	}
	e.keep(event)
}

// tell tells all watchers of something about the daemon itself.
func (e *events) tell(kind tokendv1.WatchEventsResponse_Kind, message string) {
	e.keep(&tokendv1.WatchEventsResponse{Kind: kind, Time: timestamppb.Now(), Message: message})
}

func (e *events) keep(event *tokendv1.WatchEventsResponse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.kept) == keptEvents {
		for w := range e.watchers {
			if w.next == e.dropped {
				w.next++
				if w.wants(e.kept[0]) {
					w.missed++
				}
			}
		}
		copy(e.kept, e.kept[1:])
		e.kept = e.kept[:keptEvents-1]
		e.dropped++
	}
	e.kept = append(e.kept, event)
	for w := range e.watchers {
		offer(w.wake, struct{}{})
	}
}

func (w *eventWatcher) wants(event *tokendv1.WatchEventsResponse) bool {
	return w.profile == "" || w.profile == event.GetProfile()
}

// join begins to watch, with what is kept if recent; nil: too many do.
func (e *events) join(profile string, recent bool) *eventWatcher {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.watchers) == maxEventWatchers {
		return nil
	}
	w := &eventWatcher{profile: profile, next: e.dropped, wake: make(chan struct{}, 1)}
	if !recent {
		w.next += len(e.kept)
	}
	e.watchers[w] = struct{}{}
	return w
}

func (e *events) leave(w *eventWatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.watchers, w)
}

// take gives the next event that w wants, how many it has missed before that, or
// nil.
func (e *events) take(w *eventWatcher) *tokendv1.WatchEventsResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.missed > 0 {
		missed := &tokendv1.WatchEventsResponse{
			Kind: tokendv1.WatchEventsResponse_KIND_MISSED, Time: timestamppb.Now(), Profile: w.profile, Missed: int32(w.missed)}
		w.missed = 0
		return missed
	}
	for w.next < e.dropped+len(e.kept) {
		event := e.kept[w.next-e.dropped]
		w.next++
		if w.wants(event) {
			return event
		}
	}
	return nil
}

func (s *admin) WatchEvents(req *tokendv1.WatchEventsRequest, stream tokendv1grpc.DaemonService_WatchEventsServer) error {
	if req.GetProfile() != "" {
		if err := store.CheckName(req.GetProfile()); err != nil {
			return invalidName("profile", err)
		}
	}
	d, ctx := s.d, stream.Context()
	w := d.events.join(req.GetProfile(), req.GetRecent())
	if w == nil {
		return failure(tokendv1.Reason_REASON_THROTTLED, fmt.Sprintf("no more than %d can watch events at a time", maxEventWatchers))
	}
	defer d.events.leave(w)
	// Who waits for it misses nothing from then on.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if event := d.events.take(w); event != nil {
			if err := stream.Send(event); err != nil {
				return err
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	}
	return d.ended(ctx)
}
