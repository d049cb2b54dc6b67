package store

import (
	"errors"
	"fmt"
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
		return checkBusAddress(address)
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		return errors.New("there is no session bus, which the keyring is reached by: DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set in the daemon's environment")
	}
	socket := filepath.Join(dir, "bus")
	var st unix.Stat_t
	if err := unix.Lstat(socket, &st); err != nil {
		return fmt.Errorf("there is no session bus, which the keyring is reached by: DBUS_SESSION_BUS_ADDRESS is not set in the daemon's environment, and %q: %w", socket, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%q is not a socket of yours", socket)
	}
	return os.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+dbus.EscapeBusAddressValue(socket))
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

var errLockedKeyring = errors.New("the keyring is locked, and its prompt was dismissed or could not be shown")
