package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// openable reports whether an address from a server may be handed to a program
// to be opened: https, or http on this machine, in printable ASCII, without what
// no URL has (RFC 3986 section 2) or a shell would act on in double quotes.
func openable(address string) bool {
	if strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'`$<>\\^{|}", r) }) {
		return false
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && local
}

// hostOf is the host of a URL, with its port.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// browsers returns the commands that may open address, the first one to be
// tried first, none where there is no display. BROWSER is a list separated by
// colons, as xdg-open takes it: each is a program with arguments, which are
// split at spaces, and %s stands for the address.
func browsers(address string) [][]string {
	if list := os.Getenv("BROWSER"); list != "" {
		var all [][]string
		for entry := range strings.SplitSeq(list, ":") {
			argv := strings.Fields(entry)
			if len(argv) == 0 {
				continue
			}
			if strings.Contains(entry, "%s") {
				for i := range argv {
					argv[i] = strings.ReplaceAll(argv[i], "%s", address)
				}
			} else {
				argv = append(argv, address)
			}
			all = append(all, argv)
		}
		return all
	}
	if runtime.GOOS == "darwin" {
		return [][]string{{"open", address}}
	}
	if os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" {
		return [][]string{{"xdg-open", address}}
	}
	return nil
}

// browse runs commands until one ends well, which may take as long as a browser
// is open. None gets standard input or output, or a signal that is for this
// process, and the one that runs goes on when this process ends.
func browse(commands [][]string) error {
	var errs []error
	for _, argv := range commands {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err := cmd.Run()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", argv[0], err))
	}
	return errors.Join(errs...)
}
