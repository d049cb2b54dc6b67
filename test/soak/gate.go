package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// A gate stands before a server, so that this can be out of reach for a while and
// be the same afterwards. It counts the connections, of which the daemon makes
// one for each request.
type gate struct {
	address string // its own
	to      string // the server's

	// mu guards the fields that follow.
	mu       sync.Mutex
	listener net.Listener // nil: nobody listens
	passed   []span       // what was under way, and when
	running  sync.WaitGroup
}

// A span is a stretch of time.
type span struct{ From, Until time.Time }

// overlaps reports whether two stretches have a moment in common.
func (s span) overlaps(o span) bool { return s.From.Before(o.Until) && o.From.Before(s.Until) }

func openGate(to string) (*gate, error) {
	g := &gate{address: "127.0.0.1:0", to: to}
	err := g.open()
	return g, err
}

// open listens, where it has listened before.
func (g *gate) open() error {
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listener, g.address = l, l.Addr().String()
	g.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.running.Go(func() { g.pass(c) })
		}
	})
	return nil
}

// shut refuses who comes from now on. Those that are in are let finish.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
}

func (g *gate) pass(c net.Conn) {
	defer c.Close()
	g.mu.Lock()
	n := len(g.passed)
	g.passed = append(g.passed, span{From: time.Now()})
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.passed[n].Until = time.Now()
	}()
	s, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		s.(*net.TCPConn).CloseWrite()
		s.Close() // whoever asked is gone
	}()
	if _, err := io.Copy(c, s); err != nil {
		c.(*net.TCPConn).SetLinger(0) // a reset is passed on as one
	}
}

// spans returns what has passed so far.
func (g *gate) spans() []span {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]span, len(g.passed))
	for i, s := range g.passed {
		if s.Until.IsZero() {
			s.Until = time.Now()
		}
		all[i] = s
	}
	return all
}
