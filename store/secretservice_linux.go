package store

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"github.com/zalando/go-keyring"
	"golang.org/x/sys/unix"
)

// checkKeyring makes sure that there is a session bus to talk to, at a socket:
// without one go-keyring would run dbus-launch, from wherever PATH has it.
func checkKeyring() error {
	address := os.Getenv("DBUS_SESSION_BUS_ADDRESS")
	if address != "" {
		if err := checkBusAddress(address); err != nil {
			return err
		}
		return chooseBus(address)
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		return &KeyringError{NoBus, errors.New("there is no session bus, which the keyring is reached by: DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set in the daemon's environment")}
	}
	socket := filepath.Join(dir, "bus")
	var st unix.Stat_t
	if err := unix.Lstat(socket, &st); err != nil {
		return &KeyringError{NoBus, fmt.Errorf("there is no session bus, which the keyring is reached by: DBUS_SESSION_BUS_ADDRESS is not set in the daemon's environment, and %q: %w", socket, err)}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%q is not a socket of yours", socket)
	}
	return chooseBus("unix:path=" + dbus.EscapeBusAddressValue(socket))
}

// checkBusAddress takes addresses of Unix sockets only: others would start a
// program, or send secrets in clear over a network.
func checkBusAddress(addresses string) error {
	for address := range strings.SplitSeq(addresses, ";") {
		pairs, ok := strings.CutPrefix(address, "unix:")
		if !ok || !slices.ContainsFunc(strings.Split(pairs, ","), isSocket) {
			return fmt.Errorf("the session bus has the address %q (DBUS_SESSION_BUS_ADDRESS); only unix:path=… and unix:abstract=… are taken", address)
		}
	}
	return nil
}

func isSocket(pair string) bool {
	return strings.HasPrefix(pair, "path=/") || strings.HasPrefix(pair, "abstract=")
}

// chooseBus leaves go-keyring the first bus that answers, and refuses one of another
// user's. In /tmp and in the abstract namespace anybody may take the name of a bus
// that has ended, also a moment after nobody answered there, and the daemon outlives
// the session that told it the name.
func chooseBus(addresses string) error {
	var failed error
	for address := range strings.SplitSeq(addresses, ";") {
		conn, err := net.Dial("unix", socketName(address))
		if err != nil {
			failed = err
			continue
		}
		uid, err := peerUID(conn.(*net.UnixConn))
		_ = conn.Close()
		if err != nil {
			return fmt.Errorf("looking whose session bus %q is: %w", address, err)
		}
		if uid != os.Geteuid() && uid != 0 {
			return fmt.Errorf("the session bus %q (DBUS_SESSION_BUS_ADDRESS) is of user %d, not yours", address, uid)
		}
		return os.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
	}
	return fmt.Errorf("reaching the keyring: %w", failed)
}

// socketName is the socket of an address that checkBusAddress has taken, as package
// net calls it.
func socketName(address string) string {
	for pair := range strings.SplitSeq(strings.TrimPrefix(address, "unix:"), ",") {
		key, value, _ := strings.Cut(pair, "=")
		name, err := dbus.UnescapeBusAddressValue(value)
		switch {
		case err != nil:
			continue
		case key == "path":
			return name
		case key == "abstract":
			return "@" + name
		}
	}
	return ""
}

// peerUID is the user who listens at the other end.
func peerUID(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}

// keyringError makes of go-keyring's errors, most of which have no type, what a
// person can act on.
func keyringError(err error) error {
	var said dbus.Error
	switch {
	case errors.Is(err, keyring.ErrNotFound):
		return ErrNotExist
	case strings.HasPrefix(err.Error(), notUnlocked+" '/org/freedesktop/secrets/aliases/default'"):
		return errors.New("the keyring has no login collection, and its default one is missing or locked")
	case strings.HasPrefix(err.Error(), notUnlocked):
		return errLockedKeyring
	case !errors.As(err, &said):
		return fmt.Errorf("reaching the keyring: %w", err)
	}
	switch said.Name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return errors.New("there is no keyring on the session bus: nothing there is called org.freedesktop.secrets")
	case "org.freedesktop.Secret.Error.IsLocked":
		return errLockedKeyring
	}
	return fmt.Errorf("the keyring says %q", said.Error())
}

// notUnlocked begins go-keyring's error for a collection that stayed locked.
const notUnlocked = "failed to unlock correct collection"

var errLockedKeyring = &KeyringError{KeyringLocked, errors.New("the keyring is locked, and its prompt was dismissed or could not be shown")}
