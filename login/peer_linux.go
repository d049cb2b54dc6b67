package login

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// ofThisUser says whether a request on loopback comes from a process of this
// user, or root's. Where the kernel does not say, it does: a browser outside of a
// virtual machine has no socket in here.
func ofThisUser(r *http.Request) bool {
	there, err := netip.ParseAddrPort(r.RemoteAddr)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if err != nil || !ok {
		return true
	}
	var tables []io.Reader
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		defer f.Close()
		tables = append(tables, f)
	}
	return sentBy(os.Geteuid(), unmap(there), unmap(local.AddrPort()), io.MultiReader(tables...))
}

// A socket whose process has closed it has no user any more, and is root's in the
// tables (proc(5)).
const established = "01"

// sentBy looks the connection from there to here up in the tables of the kernel.
func sentBy(uid int, there, here netip.AddrPort, tables io.Reader) bool {
	listed, open := false, false
	for lines := bufio.NewScanner(tables); lines.Scan(); {
		row := strings.Fields(lines.Text())
		if len(row) < 10 {
			continue
		}
		local, remote, state := parseAddress(row[1]), parseAddress(row[2]), row[3]
		switch {
		case local == there && remote == here && state == established:
			owner, err := strconv.Atoi(row[7])
			return err != nil || owner == uid || owner == 0
		case local == here:
			listed = true // the socket that listens, at least
			open = open || remote == there && state == established
		}
	}
	// A table that lists our sockets and not this connection, or no longer as an
	// open one: who sent the request has hung up, lest we look who it was.
	return open || !listed
}

// parseAddress reads an address as it stands in the tables: 32-bit words in the
// machine's byte order, a colon, the port. What is no address is the zero AddrPort.
func parseAddress(s string) netip.AddrPort {
	text, portText, _ := strings.Cut(s, ":")
	words, err := hex.DecodeString(text)
	port, portErr := strconv.ParseUint(portText, 16, 16)
	if err != nil || portErr != nil || len(words)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	ip, _ := netip.AddrFromSlice(words)
	return unmap(netip.AddrPortFrom(ip, uint16(port)))
}

// unmap makes an address of IPv4 out of one that an IPv6 socket has for it.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
