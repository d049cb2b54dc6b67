package oauth

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// CheckURL parses raw as an endpoint: an absolute https URL, or an http URL to
// loopback (127.0.0.0/8, ::1, localhost), with neither userinfo nor fragment
// (RFC 6749 sections 3.1 and 3.2). The error says what is wrong, and prints no
// more of raw than its scheme and host.
func CheckURL(raw string) (*url.URL, error) {
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= 0x20 || r > 0x7e }) {
		return nil, errors.New("has a space or another character that no URL has")
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Parse quotes what it stumbles over, which may be a password.
		return nil, errors.New("not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("not an absolute https URL")
	case u.User != nil:
		return nil, errors.New("has a user name or password before the host; credentials do not belong in a URL")
	case strings.Contains(raw, "#"):
		return nil, errors.New("has a fragment (#)")
	}
	if err := checkHost(u); err != nil {
		return nil, err
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("is plain http to %q; only loopback may be plain, all else must be https", u.Hostname())
	}
	return u, nil
}

// checkHost admits hosts that print as they are.
func checkHost(u *url.URL) error {
	host := u.Hostname()
	if host == "" {
		return errors.New("has no host")
	}
	if len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:", r))
	}) {
		return errors.New("has a host that is no host name (an international name is written in its xn-- form)")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return errors.New("has a port that is not between 1 and 65535")
		}
	}
	return nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
