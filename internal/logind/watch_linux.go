package logind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	// firstWait and lastWait are how long a bus that is not there is left alone;
	// the time doubles from the one to the other.
	firstWait = 250 * time.Millisecond
	lastWait  = time.Minute

	// callTime bounds what is asked of the bus and of logind.
	callTime = 3 * time.Second
)

// Names on the bus, as in org.freedesktop.login1(5).
const (
	service    = "org.freedesktop.login1"
	manager    = "org.freedesktop.login1.Manager"
	session    = "org.freedesktop.login1.Session"
	root       = dbus.ObjectPath("/org/freedesktop/login1")
	sessions   = root + "/session"
	bus        = "org.freedesktop.DBus"
	properties = "org.freedesktop.DBus.Properties"
)

// Watch calls on with each event, one at a time, until ctx ends. The machine does
// not sleep before on has returned from a Suspend, as far as logind waits: 5 s,
// unless it is configured otherwise. A bus or a logind that goes away is looked
// for again. Only the sockets that address names are connected to: it may be no
// other kind of address, such as those that start programs.
func Watch(ctx context.Context, address string, log *slog.Logger, on func(Event)) {
	w := &watcher{address: address, log: log, on: on, locked: make(map[dbus.ObjectPath]bool)}
	wait := firstWait
	for {
		reached, err := w.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		w.tell(false, err)
		if reached {
			wait = firstWait
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// watcher is one run of Watch.
type watcher struct {
	address string
	log     *slog.Logger
	on      func(Event)

	// told says that it was logged whether logind is there, and there what was
	// said.
	told, there bool

	// locked is LockedHint of this user's sessions, as it was last seen. It
	// outlives a connection, so that what is missed between two is not lost.
	locked map[dbus.ObjectPath]bool

	// These are of one connection.
	conn      *dbus.Conn
	owner     string                   // unique name of logind, or "" while there is none
	mine      map[dbus.ObjectPath]bool // whether a session is this user's
	inhibitor *os.File                 // keeps the machine from sleeping while it is open
}

// tell logs when logind comes and goes, once each.
func (w *watcher) tell(there bool, err error) {
	if w.told && w.there == there {
		return
	}
	w.told, w.there = true, there
	if there {
		w.log.Info("logind tells of suspend and screen locks")
		return
	}
	w.log.Info("no logind tells of suspend or screen locks", "error", err)
}

// watch is one connection to the bus. It reports whether there was one.
func (w *watcher) watch(ctx context.Context) (reached bool, err error) {
	stream, err := dial(ctx, w.address)
	if err != nil {
		return false, err
	}
	// This connection takes no file descriptors: whoever can send it a signal
	// could fill the process with them.
	in := newFrames(stream)
	w.conn, err = dbus.NewConn(in, dbus.WithContext(ctx), dbus.WithIncomingInterceptor(in.seen), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		_ = stream.Close()
		return false, err
	}
	defer func() { _ = w.conn.Close() }()
	defer w.gone()
	if err := greet(w.conn, stream); err != nil {
		return false, err
	}
	signals := make(chan *dbus.Signal, 16)
	w.conn.Signal(signals)
	for _, rule := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(bus), dbus.WithMatchInterface(bus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForSleep")},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(manager), dbus.WithMatchMember("SessionRemoved")},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(session), dbus.WithMatchMember("Lock")},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchPathNamespace(sessions), dbus.WithMatchArg(0, session)},
	} {
		if err := w.addMatch(ctx, rule); err != nil {
			return false, err
		}
	}
	var owner string
	err = call(ctx, w.conn.BusObject(), bus+".GetNameOwner", []any{service}, &owner)
	var nobody dbus.Error
	if errors.As(err, &nobody) && nobody.Name == bus+".Error.NameHasNoOwner" {
		w.tell(false, errors.New(service+" is not on the bus"))
	} else if err != nil {
		return false, err
	} else {
		in.logind.CompareAndSwap(nil, &owner) // unless it was told of a later one
		w.came(ctx, owner)
	}
	for s := range signals {
		w.handle(ctx, s)
	}
	return true, errors.New("the bus has closed the connection")
}

func (w *watcher) addMatch(ctx context.Context, rule []dbus.MatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return w.conn.AddMatchSignalContext(ctx, rule...)
}

// came is called when there is a logind, and when there is another.
func (w *watcher) came(ctx context.Context, owner string) {
	w.owner, w.mine = owner, make(map[dbus.ObjectPath]bool)
	w.tell(true, nil)
	w.inhibit(ctx)
	w.look(ctx)
}

func (w *watcher) gone() {
	w.owner = ""
	w.release()
}

// look finds out which sessions were locked while nobody was there to tell.
func (w *watcher) look(ctx context.Context) {
	var all []struct {
		ID         string
		UID        uint32
		User, Seat string
		Path       dbus.ObjectPath
	}
	if err := call(ctx, w.object(root), manager+".ListSessions", nil, &all); err != nil {
		w.log.Debug("listing sessions", "error", err)
		return
	}
	now := make(map[dbus.ObjectPath]bool)
	missed := false
	for _, s := range all {
		w.mine[s.Path] = int(s.UID) == os.Geteuid()
		if !w.mine[s.Path] {
			continue
		}
		var locked bool
		if err := w.property(ctx, s.Path, "LockedHint", &locked); err != nil {
			continue // it has ended
		}
		before, known := w.locked[s.Path]
		missed = missed || known && locked && !before
		now[s.Path] = locked
	}
	w.locked = now
	if missed {
		w.on(ScreenLocked)
	}
}

// newOwner is who has logind's name from now on, "" for nobody, where a signal is
// the bus telling of that.
func newOwner(sender, signal string, body []any) (owner string, ok bool) {
	if sender != bus || signal != bus+".NameOwnerChanged" {
		return "", false
	}
	var name, before string
	err := dbus.Store(body, &name, &before, &owner)
	return owner, err == nil && name == service
}

func (w *watcher) handle(ctx context.Context, s *dbus.Signal) {
	if after, ok := newOwner(s.Sender, s.Name, s.Body); ok {
		if after == w.owner {
			return
		}
		w.gone()
		if after == "" {
			w.tell(false, errors.New(service+" has left the bus"))
			return
		}
		w.came(ctx, after)
		return
	}
	// Anybody else's have not come as far as this (frames).
	if w.owner == "" || s.Sender != w.owner {
		return
	}
	switch s.Name {
	case manager + ".PrepareForSleep":
		var begins bool
		if dbus.Store(s.Body, &begins) != nil {
			return
		}
		if begins {
			w.on(Suspend)
			w.release()
			return
		}
		w.on(Woken)
		w.inhibit(ctx)
	case manager + ".SessionRemoved":
		var id string
		var path dbus.ObjectPath
		if dbus.Store(s.Body, &id, &path) == nil {
			delete(w.mine, path)
			delete(w.locked, path)
		}
	case session + ".Lock":
		if w.isMine(ctx, s.Path) {
			w.on(ScreenLocked)
		}
	case properties + ".PropertiesChanged":
		var of string
		var changed map[string]dbus.Variant
		var others []string
		if dbus.Store(s.Body, &of, &changed, &others) != nil || of != session {
			return
		}
		locked, ok := changed["LockedHint"].Value().(bool)
		if !ok || !w.isMine(ctx, s.Path) {
			return
		}
		if w.locked[s.Path] = locked; locked {
			w.on(ScreenLocked)
		}
	}
}

// isMine asks whose session it is, once.
func (w *watcher) isMine(ctx context.Context, path dbus.ObjectPath) bool {
	if mine, ok := w.mine[path]; ok {
		return mine
	}
	var user struct {
		UID  uint32
		Path dbus.ObjectPath
	}
	if err := w.property(ctx, path, "User", &user); err != nil {
		w.log.Debug("asking whose session it is", "session", path, "error", err)
		return false
	}
	w.mine[path] = int(user.UID) == os.Geteuid()
	return w.mine[path]
}

// inhibit makes the machine wait for the handling of a Suspend. It does so on a
// short connection of its own, because that is given a file descriptor.
func (w *watcher) inhibit(ctx context.Context) {
	w.release()
	inhibitor, err := takeInhibitor(ctx, w.address, w.owner)
	if err != nil {
		w.log.Warn("the machine may fall asleep before everything is locked", "error", err)
		return
	}
	w.inhibitor = inhibitor
}

func (w *watcher) release() {
	if w.inhibitor != nil {
		_ = w.inhibitor.Close()
		w.inhibitor = nil
	}
}

func (w *watcher) object(path dbus.ObjectPath) dbus.BusObject { return w.conn.Object(service, path) }

// property reads one of a session's into value.
func (w *watcher) property(ctx context.Context, path dbus.ObjectPath, name string, value any) error {
	var v dbus.Variant
	if err := call(ctx, w.object(path), properties+".Get", []any{session, name}, &v); err != nil {
		return err
	}
	return dbus.Store([]any{v.Value()}, value)
}

// call stores the one result of a call that starts no service.
func call(ctx context.Context, o dbus.BusObject, method string, args []any, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := o.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...).Store(result); err != nil {
		return fmt.Errorf("calling %s: %w", method, err)
	}
	return nil
}

// dial connects to the first socket of a D-Bus address that can be.
func dial(ctx context.Context, address string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := errors.New("no address of a bus")
	for one := range strings.SplitSeq(address, ";") {
		var name string
		if name, err = socketName(one); err != nil {
			continue
		}
		var conn net.Conn
		if conn, err = new(net.Dialer).DialContext(ctx, "unix", name); err == nil {
			return conn.(*net.UnixConn), nil
		}
	}
	return nil, err
}

// socketName is the socket of a "unix:path=" or "unix:abstract=" address, as
// package net calls it.
func socketName(address string) (string, error) {
	list, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return "", fmt.Errorf("%q is no socket's address", address)
	}
	for pair := range strings.SplitSeq(list, ",") {
		key, value, _ := strings.Cut(pair, "=")
		name, err := dbus.UnescapeBusAddressValue(value)
		switch {
		case err != nil || name == "":
			continue
		case key == "path" && name[0] == '/':
			return name, nil
		case key == "abstract":
			return "@" + name, nil
		}
	}
	return "", fmt.Errorf("%q names no socket", address)
}

// greet logs in, in bounded time, as whom the kernel says this is.
func greet(conn *dbus.Conn, stream net.Conn) error {
	_ = stream.SetDeadline(time.Now().Add(callTime))
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return fmt.Errorf("logging in to the bus: %w", err)
	}
	if err := conn.Hello(); err != nil {
		return fmt.Errorf("logging in to the bus: %w", err)
	}
	return stream.SetDeadline(time.Time{})
}
