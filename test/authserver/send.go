package authserver

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// answer answers a request: what the script says, else the truth.
func (s *Server) answer(x *exchange, r *http.Request, endpoint string, truth truth) {
	a := s.nextAnswer(endpoint, x.client)
	var resp response
	if a.Late {
		resp = truth(x, r, a)
	}
	s.wait(x, r, a)
	if a.Fault == ResetBefore {
		reset(x.hijack())
		return
	}
	switch {
	case a.EchoSecret:
		got, _ := s.credentials(r)
		f := &failure{
			code:        "invalid_client",
			description: "secret " + got.secret + " is wrong, Authorization was " + r.Header.Get("Authorization"),
			challenge:   got.auth != AuthPost,
		}
		resp = f.response()
	case a.Status != 0:
		resp = a.literal()
	case a.Error != "" && endpoint == "resource":
		resp = s.challenge("Bearer", challengeStatus(a.Error), a.Error, "as scripted", "")
	case a.Error != "" && endpoint != "authorize":
		f := &failure{code: a.Error, description: "as scripted"}
		resp = f.response()
	case !a.Late:
		resp = truth(x, r, a)
	}
	resp = a.change(resp)
	if nonce := s.nonceOf(endpoint); nonce != "" {
		resp.header.Set("DPoP-Nonce", nonce)
	}
	s.send(x, r, a, resp)
}

// wait does what comes before a response. Like sleep, it ends the handler and
// the connection if there is nobody left to answer.
func (s *Server) wait(x *exchange, r *http.Request, a Answer) {
	s.sleep(r, a.Delay)
	if !a.Hang {
		return
	}
	select {
	case <-x.release:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-s.closing:
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) sleep(r *http.Request, d time.Duration) {
	if d == 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-s.closing:
		panic(http.ErrAbortHandler)
	}
}

// send sends the response, with what the answer does to it on its way.
func (s *Server) send(x *exchange, r *http.Request, a Answer, resp response) {
	if a.Fault != "" {
		s.sendBroken(x, a, resp)
		return
	}
	copyHeader(x.Header(), resp.header)
	x.WriteHeader(resp.status)
	for spaces := bytes.Repeat([]byte{' '}, 32<<10); a.Pad > 0; a.Pad -= int64(len(spaces)) {
		if _, err := x.Write(spaces[:min(a.Pad, int64(len(spaces)))]); err != nil {
			return
		}
	}
	if a.Trickle == 0 {
		x.Write(resp.body)
		return
	}
	flush := http.NewResponseController(x.ResponseWriter)
	for i := range resp.body {
		if flush.Flush() != nil {
			return
		}
		s.sleep(r, a.Trickle)
		x.Write(resp.body[i : i+1])
	}
}

// sendBroken promises the whole body and ends the connection before that.
func (s *Server) sendBroken(x *exchange, a Answer, resp response) {
	conn := x.hijack()
	x.setStatus(resp.status)
	resp.header.Set("Content-Length", strconv.Itoa(len(resp.body)))
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", resp.status, http.StatusText(resp.status))
	resp.header.Write(&b)
	b.WriteString("\r\n")
	if a.Fault == ResetInBody {
		b.Write(resp.body[:len(resp.body)/2])
	}
	io.Copy(conn, &b)
	if a.Fault == ResetInBody {
		reset(conn)
		return
	}
	conn.Close()
}

// reset makes the other end see a TCP reset, not an end of file.
func reset(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}
