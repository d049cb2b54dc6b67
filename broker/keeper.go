package broker

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"tokend/internal/harden"
	"tokend/oauth"
	"tokend/store"
)

// revocationLife is how long a server that cannot be reached is told that a
// token is revoked: no token worth that lives longer unused.
const revocationLife = 30 * 24 * time.Hour

// revocation is a token whose server is still to be told (RFC 7009).
type revocation struct {
	URL      string    `json:"url,omitempty"` // "" where only the profile says
	TokenURL string    `json:"token_url"`     // of the server that it is of
	ClientID string    `json:"client_id"`
	Token    string    `json:"token"`
	Hint     string    `json:"hint"`  // token_type_hint
	Since    time.Time `json:"since"` // in UTC and whole seconds
}

// A keeper does again what could not be done, less and less often, until all is
// done.
type keeper struct {
	last    time.Duration      // the longest wait between two rounds
	round   func(*Broker)      // tries everything once
	left    func(*Broker) bool // something is still to be done; the caller holds mu
	running bool               // guarded by the Broker's mu
}

func newSaver() *keeper {
	return &keeper{last: time.Minute, round: (*Broker).saveAll, left: func(b *Broker) bool { return len(b.unsaved) > 0 }}
}

// A teller asks less often: each of its rounds may run a profile's commands.
func newTeller() *keeper {
	return &keeper{last: time.Hour, round: (*Broker).tellAll, left: func(b *Broker) bool { return len(b.queued) > 0 }}
}

// keepLater starts k unless it runs.
func (b *Broker) keepLater(k *keeper) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k.running || b.ctx.Err() != nil {
		return
	}
	k.running = true
	b.keepers.Go(func() {
		for wait := time.Second; ; wait = min(2*wait, k.last) {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-b.ctx.Done():
				timer.Stop()
				return
			}
			harden.Secretly(func() { k.round(b) })
			b.mu.Lock()
			k.running = k.left(b)
			running := k.running
			b.mu.Unlock()
			if !running {
				return
			}
		}
	})
}

func (b *Broker) saveAll() {
	for _, name := range b.Unsaved() {
		b.try(b.ctx, name, b.saveAgain)
	}
}

func (b *Broker) tellAll() {
	b.mu.Lock()
	queued := slices.Collect(maps.Keys(b.queued))
	b.mu.Unlock()
	each(queued, func(_ int, name string) { b.try(b.ctx, name, b.tellAgain) })
}

func (b *Broker) try(ctx context.Context, name string, what func(context.Context, string) error) {
	ctx, cancel := context.WithTimeout(ctx, flightTime)
	defer cancel()
	if err := what(ctx, name); err != nil && ctx.Err() != context.Canceled {
		b.Log.Warn("trying again later", "profile", name, "err", err)
	}
}

func (b *Broker) saveAgain(ctx context.Context, name string) error {
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	b.mu.Lock()
	unsaved := b.unsaved[name]
	b.mu.Unlock()
	if unsaved == nil {
		return nil
	}
	h := *unsaved
	// A record may have come or gone while it could not be written.
	if h.version, err = b.Sessions.Stat(ctx, name); err != nil {
		return err
	}
	return b.save(ctx, &h)
}

func (b *Broker) tellAgain(ctx context.Context, name string) error {
	s, err := b.peek(ctx, name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	list := slices.Concat(s.Revocations, b.telling[name])
	b.mu.Unlock()
	if len(list) == 0 {
		b.setQueued(name, 0)
		return nil
	}
	return b.tell(ctx, name, list).unreached
}

var errNoEndpoint = errors.New("the server has no revocation endpoint")

// telling is what came of telling servers of revocations.
type telling struct {
	revoked   int
	left      int    // that are still to be told
	problem   string // why a token lives on that no server will be told of again, or ""
	unreached error  // why those are, or nil
}

// tell tells servers of a profile's revocations, and takes those out of its
// session, and of memory, that it is done with. It waits for servers without the profile's
// turn, so that nobody else waits for them.
func (b *Broker) tell(ctx context.Context, name string, list []revocation) telling {
	var t telling
	var done []revocation
	list = slices.Clone(list)
	for i := len(list) - 1; i >= 0; i-- {
		if r := list[i]; time.Since(r.Since) > revocationLife {
			done, list = append(done, r), slices.Delete(list, i, i+1)
			t.problem = "the server could not be told for too long"
		}
	}
	p, err := b.Prepare(ctx, name)
	if err != nil && !isOurs(err) {
		// A confidential client may well be one again when this has passed.
		t.left, t.unreached, list = len(list), err, nil
	}
	for _, r := range list {
		// Without a profile, or with one that has become another client's, the
		// token itself is all that there is to show: enough for public clients.
		client, url := oauth.Client{ID: r.ClientID, Auth: oauth.AuthNone}, r.URL
		if p != nil && p.Client.ID == r.ClientID && p.Client.TokenURL == r.TokenURL {
			if url == "" {
				url = p.Endpoints.Revocation
			}
			client.Transport = p.Client.Transport
			if url == p.Endpoints.Revocation {
				client = p.Client
			}
		}
		err := errNoEndpoint
		if url != "" {
			err = b.admit(ctx, name, url)
		}
		if err == nil {
			err = client.Revoke(ctx, url, oauth.NewSecret(r.Token), r.Hint)
		}
		var answer *oauth.Error
		switch {
		case err == nil:
			t.revoked++
			b.Log.Info("token revoked", "profile", name, "kind", r.Hint)
		case err == errNoEndpoint, errors.As(err, &answer) && answer.Kind != oauth.Temporary:
			t.problem = err.Error()
			b.Log.Warn("a token is not revoked", "profile", name, "err", err)
		default:
			t.left++
			t.unreached = err
			continue
		}
		done = append(done, r)
	}
	if len(done) == 0 {
		return t
	}
	// What was told is noted even if nobody waits for it any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	if err := b.untell(ctx, name, done); err != nil {
		b.Log.Warn("a revocation will be told again", "profile", name, "err", err)
	}
	return t
}

// untell takes revocations out of a session.
func (b *Broker) untell(ctx context.Context, name string, done []revocation) error {
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	h, err := b.sessionOf(ctx, name)
	if err != nil {
		return err
	}
	isDone := func(r revocation) bool { return slices.Contains(done, r) }
	b.mu.Lock()
	if left := slices.DeleteFunc(slices.Clone(b.telling[name]), isDone); len(left) > 0 {
		b.telling[name] = left
	} else {
		delete(b.telling, name)
	}
	b.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(h.Revocations), isDone)
	if len(left) == len(h.Revocations) {
		b.setQueued(name, len(left))
		return nil
	}
	h.Revocations = left
	return b.keep(ctx, h)
}

// setQueued notes how many revocations are still to be told, n of them in the
// session.
func (b *Broker) setQueued(name string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n += len(b.telling[name])
	if n == 0 {
		delete(b.queued, name)
	} else {
		b.queued[name] = n
	}
}

// Resume takes up what an earlier daemon could not finish. It returns at once;
// the sessions must be readable.
func (b *Broker) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.resumed || b.ctx.Err() != nil {
		return
	}
	b.resumed = true
	b.keepers.Go(func() { harden.Secretly(b.resume) })
}

func (b *Broker) resume() {
	entries, err := b.Sessions.List(b.ctx)
	if err != nil {
		return // each session's own use says so
	}
	found := false
	for _, e := range entries {
		s, err := b.peek(b.ctx, e.Name)
		if err != nil || len(s.Revocations) == 0 {
			continue
		}
		b.setQueued(e.Name, len(s.Revocations))
		found = true
	}
	if found {
		b.keepLater(b.teller)
	}
}

// QueuedRevocations returns how many tokens a server is still to be told of.
func (b *Broker) QueuedRevocations() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, q := range b.queued {
		n += q
	}
	return n
}

// Orphans returns the names under which there is a session to log out of, and
// no profile.
func (b *Broker) Orphans(ctx context.Context) ([]string, error) {
	sessions, err := b.Sessions.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range sessions {
		version, err := b.Profiles.Stat(ctx, e.Name)
		if err != nil || version != "" {
			continue
		}
		// Without a turn: who asks for the status waits for nobody.
		data, _, err := b.Sessions.Get(ctx, e.Name)
		var s session
		if errors.Is(err, store.ErrLocked) || err == nil && json.Unmarshal(data, &s) == nil && (s.RefreshToken != "" || s.Access != nil) {
			names = append(names, e.Name)
		}
	}
	return names, nil
}
