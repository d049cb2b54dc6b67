package login

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// Rows as the kernel writes them (proc(5)), of a machine with a little-endian
// processor, as are all that tests run on.
const (
	header4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	listens = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 816 1 00000000cb20a79c 100 0 0 10 0\n"
	ours    = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 817 1 000000005239c8ac 20 4 30 10 -1\n"
	leaving = "   1: 0100007F:1F90 0100007F:C350 08 00000000:00000000 00:00000000 00000000  1000        0 817 1 000000005239c8ac 20 4 30 10 -1\n"
	another = "   2: 0100007F:1F90 0100007F:C351 01 00000000:00000000 00:00000000 00000000  1000        0 818 1 000000005239c8ac 20 4 30 10 -1\n"
	mine    = "   3: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 819 1 000000005239c8ac 20 4 30 10 -1\n"
	roots   = "   3: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 819 1 000000005239c8ac 20 4 30 10 -1\n"
	other   = "   3: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 819 1 000000005239c8ac 20 4 30 10 -1\n"
	closed  = "   3: 0100007F:C350 0100007F:1F90 05 00000000:00000000 03:00000AF0 00000000     0        0 0 3 000000005239c8ac\n"
	header6 = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	mine6   = "   0: 00000000000000000000000001000000:C350 00000000000000000000000001000000:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 820 1 00000000 20 4 30 10 -1\n"
	other6  = "   0: 00000000000000000000000001000000:C350 00000000000000000000000001000000:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 820 1 00000000 20 4 30 10 -1\n"
	mapped  = "   0: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 820 1 00000000 20 4 30 10 -1\n"
)

func TestSentBy(t *testing.T) {
	four := [2]string{"127.0.0.1:50000", "127.0.0.1:8080"}
	six := [2]string{"[::1]:50000", "[::1]:8080"}
	for name, tt := range map[string]struct {
		at    [2]string // from, to
		table string
		want  bool
	}{
		"this user":                    {four, header4 + listens + ours + another + mine, true},
		"root":                         {four, header4 + listens + ours + roots, true},
		"another user":                 {four, header4 + listens + ours + other, false},
		"this user, IPv6":              {six, header4 + listens + header6 + mine6, true},
		"another user, IPv6":           {six, header4 + listens + header6 + other6, false},
		"another user, IPv4 by IPv6":   {four, header4 + listens + ours + header6 + mapped, false},
		"outside of this machine":      {four, header4 + listens + ours + another, true},
		"hung up":                      {four, header4 + listens + leaving + closed, false},
		"hung up and gone":             {four, header4 + listens + another, false},
		"our own sockets are not told": {four, header4, true},
		"no tables":                    {four, "", true},
		"no rows":                      {four, "x\n\n0: a b c d e f g h i j\n   0: 0100007F 0100:1F90 0A x x x 1001 0 0 0\n", true},
	} {
		if got := sentBy(1000, netip.MustParseAddrPort(tt.at[0]), netip.MustParseAddrPort(tt.at[1]), strings.NewReader(tt.table)); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A real connection, as the kernel tells of it. Root makes it another user's;
// for anybody else the other user is the one who looks.
func TestSentByOfTheKernel(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a machine without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := dial(t, l.Addr().String())
		owner := os.Geteuid()
		if owner == 0 {
			owner = 12345
			chown(t, c, owner)
		}
		for uid, want := range map[int]bool{owner: true, owner + 1: false} {
			var tables []io.Reader
			for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				tables = append(tables, f)
			}
			there, here := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
			if got := sentBy(uid, there, here, io.MultiReader(tables...)); got != want {
				t.Errorf("%s: a connection of user %d to one of user %d: %v", address, owner, uid, got)
			}
		}
	}
}

// Who knows the state, and is somebody else or does not wait to be looked at,
// changes nothing.
func TestCallbackOfAStranger(t *testing.T) {
	l := openListener(t)
	strangers := map[string]func(*net.TCPConn){
		"hangs up": func(c *net.TCPConn) {
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		},
	}
	if os.Geteuid() == 0 {
		strangers["another user"] = func(c *net.TCPConn) { chown(t, c, 12345) }
	}
	send := func(code string) *net.TCPConn {
		c := dial(t, l.host)
		if _, err := io.WriteString(c, "GET /callback?state=the+state&code="+code+" HTTP/1.1\r\nHost: "+l.host+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	conns := make(map[string]*net.TCPConn)
	for name, does := range strangers {
		conns[name] = send("theirs")
		does(conns[name])
	}
	l.serve() // not before they have done so
	for name, c := range conns {
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		res.Body.Close()
		if err := <-l.refused; res.StatusCode != http.StatusBadRequest || err.Error() != "another user of this machine sent it, or who sent it did not wait" {
			t.Errorf("%s: %s, %v", name, res.Status, err)
		}
	}
	send("ours")
	<-l.accepted
	if got := l.callback.Code.Reveal(); got != "ours" {
		t.Errorf("the code is %q", got)
	}
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// chown gives a socket to another user, which root may.
func chown(t *testing.T, c *net.TCPConn, uid int) {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Chown(uid, -1); err != nil {
		t.Fatal(err)
	}
}
