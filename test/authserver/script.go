package authserver

import "slices"

// A Script is what requests of one client, or of any, are answered. A
// request takes the first that there is for its endpoint of: the next answer
// of its client's list, the next of the list for any client, its client's
// standing answer, the standing answer for any client. A client is who the
// request says it is, rightly or not; requests to the resource, for metadata,
// keys and registration are nobody's.
type Script struct {
	server *Server
	// server.mu guards the fields that follow.
	list     []Answer
	standing map[string]Answer // by endpoint
}

// Client returns the script of a client, which need not be registered.
func (s *Server) Client(id string) *Script {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.scripts[id]
	if !ok {
		c = &Script{server: s}
		s.scripts[id] = c
	}
	return c
}

// AnyClient returns the script for requests that no client's own script
// answers.
func (s *Server) AnyClient() *Script { return &s.any }

// Then appends to the list of answers, of which each answers one request. It
// panics if an answer makes no sense.
func (c *Script) Then(answers ...Answer) {
	for _, a := range answers {
		if err := a.check(); err != nil {
			panic("authserver: " + err.Error())
		}
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.list = append(c.list, answers...)
}

// Always sets the standing answer of an endpoint, which answers every request
// that comes when the lists have none for it. It panics if the answer makes no
// sense.
func (c *Script) Always(a Answer) {
	if err := a.check(); err != nil {
		panic("authserver: " + err.Error())
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.standing == nil {
		c.standing = make(map[string]Answer)
	}
	c.standing[a.endpoint()] = a
}

func (s *Server) nextAnswer(endpoint, client string) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.scripts[client]
	if own == nil {
		own = &Script{}
	}
	for _, c := range []*Script{own, &s.any} {
		i := slices.IndexFunc(c.list, func(a Answer) bool { return a.endpoint() == endpoint })
		if i >= 0 {
			a := c.list[i]
			c.list = slices.Delete(c.list, i, i+1)
			return a
		}
	}
	for _, c := range []*Script{own, &s.any} {
		if a, ok := c.standing[endpoint]; ok {
			return a
		}
	}
	return Answer{}
}
