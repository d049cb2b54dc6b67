package login

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"tokend/oauth"
)

const (
	maxRequest     = 16 << 10
	headerTime     = 5 * time.Second
	maxConnections = 256 // at once, of one listener
	maxRefused     = 8   // callbacks that the person is told of; a web page can send any number
	lingerTime     = 2 * time.Second
)

// A listener waits on loopback for the callback of one login (RFC 8252 section
// 7.3). Anybody on this machine, and any page in the person's browser, can send
// it requests: what is not the callback that it waits for changes nothing.
type listener struct {
	redirectURL       string
	host, path, final string // what a request must say; final: where the page of the end is
	state, issuer     string
	sent              []oauth.Secret // what the server has, and must not show
	issParameter      bool
	sockets           []net.Listener
	server            *http.Server
	running           sync.WaitGroup // Serve and its connections
	refused           chan error     // callbacks that were not taken
	accepted          chan struct{}  // closed once callback is set
	finished          chan struct{}  // closed once end is set
	shown             chan struct{}  // closed once end has been sent to somebody

	mu         sync.Mutex // guards the fields that follow
	callback   oauth.Callback
	isAccepted bool
	end        page
	held       int // browsers that wait for the end
	told       int
	isShown    bool
}

// listen opens the listener for redirectURL; "" is /callback on a port of the
// system's choice. "localhost" is both of its addresses.
func listen(redirectURL string) (*listener, error) {
	l := &listener{
		redirectURL: redirectURL,
		refused:     make(chan error, maxRefused),
		accepted:    make(chan struct{}),
		finished:    make(chan struct{}),
		shown:       make(chan struct{}),
	}
	if redirectURL == "" {
		socket, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listening for the browser: %w", err)
		}
		l.sockets = []net.Listener{socket}
		l.redirectURL = "http://" + socket.Addr().String() + "/callback"
	}
	u, err := oauth.CheckURL(l.redirectURL)
	if err != nil || u.Scheme != "http" {
		return nil, errors.New("the redirect URL is not an http URL of loopback")
	}
	l.host, l.path = strings.TrimSuffix(u.Host, ":80"), u.EscapedPath()
	if l.path == "" {
		l.path = "/"
	}
	l.final = strings.TrimSuffix(l.path, "/") + "/done"
	if l.sockets == nil {
		if err := l.open(u); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *listener) open(u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = "80"
	}
	addresses := []string{u.Hostname()}
	if strings.EqualFold(u.Hostname(), "localhost") {
		addresses = []string{"127.0.0.1", "::1"}
	}
	for i, address := range addresses {
		if ip, err := netip.ParseAddr(address); err != nil || !ip.IsLoopback() {
			return errors.New("the redirect URL is not of loopback")
		}
		socket, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if i > 0 && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)) {
			continue // a machine without IPv6
		}
		if err != nil {
			// Also where it is the second address: whoever listens there would
			// get the code.
			for _, socket := range l.sockets {
				_ = socket.Close()
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				return missing("OAUTH2_REDIRECT_URL", "end the program that listens there, or choose another port: "+err.Error())
			}
			return fmt.Errorf("listening for the browser: %w", err)
		}
		l.sockets = append(l.sockets, socket)
	}
	return nil
}

// serve begins to answer; state and issuer are set.
func (l *listener) serve() {
	l.server = &http.Server{
		Handler:           l,
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    maxRequest - 4096, // net/http adds as much
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				l.running.Add(1) // by Serve, which is counted itself
			case http.StateClosed:
				l.running.Done()
			}
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	l.server.SetKeepAlivesEnabled(false)
	for _, socket := range l.sockets {
		l.running.Go(func() { _ = l.server.Serve(netutil.LimitListener(socket, maxConnections)) })
	}
}

// close ends all that listens and serves, whether ctx has ended or not.
func (l *listener) close(ctx context.Context) {
	if l.server != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lingerTime/4)
		defer cancel()
		_ = l.server.Shutdown(ctx) // pages on their way
		_ = l.server.Close()
	}
	for _, socket := range l.sockets {
		_ = socket.Close()
	}
	l.running.Wait()
}

// finish sends the browsers that wait to the page that the login ends on. It
// returns when one of them has it, or soon after if none comes for it.
func (l *listener) finish(end page) {
	l.mu.Lock()
	l.end = end
	waiting := l.held > 0
	l.mu.Unlock()
	close(l.finished)
	if !waiting {
		return
	}
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	select {
	case <-l.shown:
	case <-timer.C:
	}
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Nobody waits for the body to come, nor does net/http after the answer.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	switch {
	case !strings.EqualFold(strings.TrimSuffix(r.Host, ":80"), l.host):
		// Another name that leads here: DNS rebinding.
		nothingHere.write(w, http.StatusMisdirectedRequest)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		nothingHere.write(w, http.StatusMethodNotAllowed)
	case r.ContentLength != 0:
		nothingHere.write(w, http.StatusBadRequest)
	case r.URL.EscapedPath() == l.path:
		l.serveCallback(w, r)
	case r.URL.EscapedPath() == l.final:
		l.serveEnd(w)
	default:
		nothingHere.write(w, http.StatusNotFound)
	}
}

func (l *listener) serveCallback(w http.ResponseWriter, r *http.Request) {
	if err := l.accept(r.URL.RawQuery, r); err != nil {
		l.refuse(err)
		notThisLogin.write(w, http.StatusBadRequest)
		return
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held--
	}()
	select {
	case <-l.finished:
		// The code leaves the address bar and the history.
		header(w)
		w.Header().Set("Location", "http://"+l.host+l.final)
		w.WriteHeader(http.StatusSeeOther)
	case <-r.Context().Done():
	}
}

func (l *listener) serveEnd(w http.ResponseWriter) {
	select {
	case <-l.finished:
	default:
		nothingHere.write(w, http.StatusNotFound)
		return
	}
	l.end.write(w, http.StatusOK)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isShown {
		l.isShown = true
		close(l.shown)
	}
}

// refuse has the person told of a callback that was not taken.
func (l *listener) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told < maxRefused {
		l.told++
		l.refused <- err
	}
}

// paste takes a redirect URL as if the browser had come with it.
func (l *listener) paste(text string) error {
	text = strings.TrimSpace(text)
	if len(text) > maxRequest {
		return errors.New("it is too long")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || !strings.EqualFold(strings.TrimSuffix(u.Host, ":80"), l.host) || u.User != nil || u.EscapedPath() != l.path {
		return fmt.Errorf("it does not begin with %s", l.redirectURL)
	}
	return l.accept(u.RawQuery, nil)
}

// accept takes the query of a callback if it is the one waited for. The first
// one counts: whoever else knows the state waits for the same end. r is the
// browser's request, nil if there is none; that it waits is counted before the
// login can go on.
func (l *listener) accept(rawQuery string, r *http.Request) error {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return errors.New("its query cannot be read")
	}
	cb, err := oauth.ParseCallback(query, l.sent...)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(cb.State), []byte(l.state)) == 0 {
		return errors.New("its state is not that of this login")
	}
	if err := cb.Check(l.issuer, l.issParameter, l.sent...); err != nil {
		return err
	}
	if r != nil && !ofThisUser(r) {
		return errors.New("another user of this machine sent it, or who sent it did not wait")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r != nil {
		l.held++
	}
	if !l.isAccepted {
		l.isAccepted = true
		l.callback = cb
		close(l.accepted)
	}
	return nil
}
