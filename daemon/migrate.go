package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"tokend/internal/settings"
	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// openProfiles opens the profiles' store of a kind, "age" or "keyring", locked.
func (d *Daemon) openProfiles(kind string) (profileStore, error) {
	if kind == "keyring" {
		return store.OpenKeyring(d.settings.KeyringDir(), d.worker)
	}
	return store.OpenAge(d.settings.ProfilesDir(), d.trust.recipients)
}

// profilesDir is where what the store in use keeps of profiles lies.
func (d *Daemon) profilesDir() string {
	if d.settings.Get(settings.Store) == "keyring" {
		return d.settings.KeyringDir()
	}
	return d.settings.ProfilesDir()
}

// elsewhere says so if the store of the other kind has profiles, for where this one
// has none: a setting may have been forgotten after Migrate.
func (d *Daemon) elsewhere(ctx context.Context) string {
	other, dir := "age", d.settings.ProfilesDir()
	if d.settings.Get(settings.Store) == "age" {
		other, dir = "keyring", d.settings.KeyringDir()
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) == 0 {
		return "" // and nothing is made there
	}
	id, err := d.key()
	if err != nil {
		return ""
	}
	s, err := d.openProfiles(other)
	if err != nil {
		return ""
	}
	s.Unlock(id)
	defer s.Lock()
	if entries, err := s.List(ctx); err != nil || len(entries) == 0 {
		return ""
	}
	return fmt.Sprintf("there are no profiles in the %s store, but some in the %s store; set %s=%s, such as in %s, and run: tokenctl daemon restart",
		d.settings.Get(settings.Store), other, settings.Store, other, d.settings.ConfigFile)
}

// key is the open identity, or store.ErrLocked.
func (d *Daemon) key() (*store.Identity, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.identity == nil {
		return nil, store.ErrLocked
	}
	return d.identity, nil
}

// errMoved is the error of calls once all profiles are in the other store.
func (d *Daemon) errMoved(kind string) error {
	return failure(tokendv1.Reason_REASON_SETTINGS_INVALID, fmt.Sprintf("the profiles were moved to the other store; set %s=%s, such as in %s, and run: tokenctl daemon restart",
		settings.Store, kind, d.settings.ConfigFile))
}

// Migrate moves all profiles to the store of the other kind. From when all are
// there, and before the first is deleted here, no call works with the profiles any
// more until the next start: what would be written here would stay here.
func (s *admin) Migrate(req *tokendv1.MigrateRequest, stream tokendv1grpc.DaemonService_MigrateServer) error {
	d, kind := s.d, req.GetTo()
	if kind != "age" && kind != "keyring" {
		return invalid("to", `must be "age" or "keyring"`)
	}
	if d.settings.Get(settings.Store) == kind {
		return failure(tokendv1.Reason_REASON_REQUEST_INVALID, "the profiles are in that store already ("+settings.Store+"="+kind+")")
	}
	release, err := d.wrap(stream.Context())
	if err != nil {
		return err
	}
	defer release()
	_, era, _ := d.openedNow()
	from, id, err := d.source()
	if err != nil {
		return err
	}
	to, err := d.openProfiles(kind)
	if err != nil {
		return storeError(err)
	}
	to.Unlock(id)
	defer to.Lock()
	if _, err := to.List(stream.Context()); err != nil { // also where there is nothing to copy
		return storeError(fmt.Errorf("the other store: %w", err))
	}

	d.log.Info("migrating", "to", kind, "by", caller(stream.Context()))
	m := migration{from: from, to: to, copies: make(map[string]migrated)}
	err = d.during(stream.Context(), era, func(ctx context.Context) error {
		return m.copyAll(ctx, func(name string, done, total int) error {
			return stream.Send(&tokendv1.MigrateResponse{Event: &tokendv1.MigrateResponse_Copied_{
				Copied: &tokendv1.MigrateResponse_Copied{Profile: name, Done: int32(done), Total: int32(total)},
			}})
		})
	})
	if err != nil {
		return err
	}
	var moved []store.Entry
	err = d.during(stream.Context(), d.setMoved(kind), func(ctx context.Context) error {
		err := m.deleteAll(ctx)
		if err == nil {
			if moved, err = to.List(ctx); err != nil {
				err = storeError(err)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	d.log.Info("migrated", "to", kind, "profiles", len(moved))
	return stream.Send(&tokendv1.MigrateResponse{Event: &tokendv1.MigrateResponse_Migrated_{Migrated: &tokendv1.MigrateResponse_Migrated{
		Profiles:   int32(len(moved)),
		Setting:    settings.Store + "=" + kind,
		ConfigFile: d.settings.ConfigFile,
	}}})
}

// source is the store in use and the identity, also where a Migrate before has
// set moved.
func (d *Daemon) source() (profileStore, *store.Identity, error) {
	d.mu.RLock()
	moved, from := d.moved, d.profiles
	d.mu.RUnlock()
	if moved == "" {
		h, err := d.opened()
		if err != nil {
			return nil, nil, err
		}
		from = h.profiles
	}
	id, err := d.key()
	if err != nil {
		return nil, nil, locked()
	}
	return from, id, nil
}

// setMoved ends all other calls that use profiles, and returns the era that begins
// with that.
func (d *Daemon) setMoved(kind string) (era context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved = kind
	d.broker.Drop()
	d.tell()
	return d.era
}

// during runs what a lock is to end.
func (d *Daemon) during(ctx, era context.Context, run func(context.Context) error) error {
	inside, end := within(ctx, era)
	defer end()
	err := run(inside)
	if err != nil && era.Err() != nil {
		if _, now := d.key(); now != nil {
			return locked()
		}
	}
	return err
}

// migration is one run of Migrate.
type migration struct {
	from, to profileStore
	copies   map[string]migrated // what is known to be the same in both
}

// migrated is a profile's version in the one store and in the other.
type migrated struct{ from, to store.Version }

func (m *migration) copyAll(ctx context.Context, copied func(name string, done, total int) error) error {
	entries, err := m.from.List(ctx)
	if err != nil {
		return storeError(err)
	}
	for i, e := range entries {
		if err := m.copy(ctx, e.Name); err != nil {
			return err
		}
		if err := copied(e.Name, i+1, len(entries)); err != nil {
			return err
		}
	}
	return nil
}

// copy makes the text under name in the other store the one that is in this, and
// reads it back. It replaces nothing that it has not put there itself.
func (m *migration) copy(ctx context.Context, name string) error {
	data, version, err := m.from.Get(ctx, name)
	if errors.Is(err, store.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return profileError(name, err)
	}
	defer clear(data)
	there, at, err := m.to.Get(ctx, name)
	defer func() { clear(there) }()
	switch {
	case errors.Is(err, store.ErrNotExist):
		at = ""
	case err != nil:
		return profileError(name, fmt.Errorf("in the other store: %w", err))
	case bytes.Equal(there, data):
		m.copies[name] = migrated{version, at}
		return nil
	case m.copies[name].to != at:
		return failure(tokendv1.Reason_REASON_ALREADY_EXISTS, "another text stands under that name in the other store; delete one of the two", "profile", name)
	}
	if at, err = m.to.Put(ctx, name, data, at); err != nil {
		return profileError(name, fmt.Errorf("in the other store: %w", err))
	}
	there, now, err := m.to.Get(ctx, name)
	if err == nil && (now != at || !bytes.Equal(there, data)) {
		err = errors.New("it is not what was written")
	}
	if err != nil {
		return profileError(name, fmt.Errorf("reading it back from the other store: %w", err))
	}
	m.copies[name] = migrated{version, at}
	return nil
}

// maxRounds is how often somebody may write here while all is deleted.
const maxRounds = 10

// deleteAll empties this store. What was written here since it was copied is
// copied again; what was deleted here since, is deleted there.
func (m *migration) deleteAll(ctx context.Context) error {
	for range maxRounds {
		entries, err := m.from.List(ctx)
		if err != nil {
			return storeError(err)
		}
		if err := m.deleteGone(ctx, entries); err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			err := store.ErrConflict
			if c, ok := m.copies[e.Name]; ok {
				if err = m.from.Delete(ctx, e.Name, c.from); err == nil {
					delete(m.copies, e.Name)
				}
			}
			switch {
			case errors.Is(err, store.ErrConflict):
				if err := m.copy(ctx, e.Name); err != nil {
					return err
				}
			case err != nil && !errors.Is(err, store.ErrNotExist):
				return profileError(e.Name, fmt.Errorf("all profiles are copied; deleting this one here: %w", err))
			}
		}
	}
	return failure(tokendv1.Reason_REASON_VERSION_CHANGED, "all profiles are copied, but somebody goes on writing new ones here; ask again")
}

// deleteGone deletes the copies of profiles that are not among the entries any
// more, and that it was not who deleted.
func (m *migration) deleteGone(ctx context.Context, entries []store.Entry) error {
	here := make(map[string]bool)
	for _, e := range entries {
		here[e.Name] = true
	}
	for name, c := range m.copies {
		if here[name] {
			continue
		}
		if err := m.to.Delete(ctx, name, c.to); err != nil && !errors.Is(err, store.ErrNotExist) {
			return profileError(name, fmt.Errorf("in the other store: %w", err))
		}
		delete(m.copies, name)
	}
	return nil
}
