package broker_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokend/broker"
	"tokend/test/authserver"
)

// A front stands between brokers in a bubble and the authorization server, which
// is outside. It leaves out Date, which is not of the bubble's time, and notes when
// requests come by the bubble's: that stands still while one is under way.
type front struct {
	url   string // without a path
	clock *atomic.Int64

	mu     sync.Mutex
	at     []time.Duration
	answer http.HandlerFunc // nil: the server's
}

func newFront(t *testing.T, server *authserver.Server, clock *atomic.Int64) *front {
	t.Helper()
	behind, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{clock: clock}
	way := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(behind) },
		ModifyResponse: func(r *http.Response) error { r.Header.Del("Date"); return nil },
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		Transport:      way,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.at = append(f.at, time.Duration(f.clock.Load()))
		answer := f.answer
		f.mu.Unlock()
		w.Header()["Date"] = nil
		if answer == nil {
			answer = proxy.ServeHTTP
		}
		answer(w, r)
	}))
	t.Cleanup(func() { s.Close(); way.CloseIdleConnections() })
	f.url = s.URL
	return f
}

// always makes answer the answer to all requests; nil: the server's.
func (f *front) always(answer http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// times gives when requests came since it was last called.
func (f *front) times() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.at
	f.at = nil
	return at
}

// says is an answer of that status, with header lines and a JSON body.
func says(status int, body map[string]any, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for pair := range slices.Chunk(header, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		w.WriteHeader(status)
		if body != nil {
			_ = json.NewEncoder(w).Encode(body)
		}
	}
}

// refuses is an OAuth error (RFC 6749 section 5.2).
func refuses(code string) http.HandlerFunc {
	status := http.StatusBadRequest
	if code == "invalid_client" {
		status = http.StatusUnauthorized
	}
	return says(status, map[string]any{"error": code})
}

// granted counts the tokens of grants, of which no two are the same.
var granted atomic.Int64

// grants is a new token at each request.
func grants(life time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		says(http.StatusOK, map[string]any{"access_token": fmt.Sprint("token-", granted.Add(1)), "token_type": "Bearer", "expires_in": int(life.Seconds())})(w, r)
	}
}

// A bubble is a house in a synctest bubble: timers and the broker's clock are the
// bubble's, and its profiles speak to the front.
type bubble struct {
	*house
	front   *front
	other   *front // another origin
	began   time.Time
	slept   atomic.Int64 // in suspend
	bootID  string
	changes func(*broker.Config) // to what each broker is made with; nil: none

	eventsMu sync.Mutex
	events   []broker.Event
}

// inBubble runs a test in a bubble.
func inBubble(t *testing.T, c authserver.Config, run func(*testing.T, *bubble)) {
	t.Helper()
	h := newHouse(t, c)
	b := &bubble{house: h, front: newFront(t, h.server, &h.now), other: newFront(t, h.server, &h.now), bootID: "this boot"}
	outside := h.Broker
	synctest.Test(t, func(t *testing.T) {
		b.began = time.Now()
		b.Broker = broker.New(b.config())
		defer func() { b.Close(); h.Broker = outside }()
		run(t, b)
	})
}

func (b *bubble) config() broker.Config {
	c := b.house.config()
	c.Now = func() time.Duration {
		now := time.Hour + time.Since(b.began) + time.Duration(b.slept.Load())
		b.now.Store(int64(now))
		return now
	}
	c.BootID = b.bootID
	c.RateLimit = 20
	c.Event = func(e broker.Event) {
		b.eventsMu.Lock()
		defer b.eventsMu.Unlock()
		b.events = append(b.events, e)
	}
	if b.changes != nil {
		b.changes(&c)
	}
	return c
}

// restart is the house's, in the bubble.
func (b *bubble) restart() {
	b.Close()
	b.Broker = broker.New(b.config())
}

// suspend is the machine asleep: only the clock that counts that goes on.
func (b *bubble) suspend(d time.Duration) { b.slept.Add(int64(d)) }

// clock is the broker's.
func (b *bubble) clock() time.Duration {
	return time.Hour + time.Since(b.began) + time.Duration(b.slept.Load())
}

// text is a profile that speaks to the front.
func (b *bubble) text(lines ...string) string {
	return b.textOf(b.front, lines...)
}

func (b *bubble) textOf(f *front, lines ...string) string {
	text := "OAUTH2_TOKEN_URL=" + f.url + "/token\nCLIENT_ID=client\nCLIENT_SECRET=" + secret + "\n"
	for _, line := range lines {
		text += line + "\n"
	}
	return text
}

// interactive is the house's, with the front's token endpoint.
func (b *bubble) interactive() string {
	return b.house.interactive("OAUTH2_TOKEN_URL=" + b.front.url + "/token")
}

// happened gives the events since it was last called.
func (b *bubble) happened() []broker.Event {
	b.eventsMu.Lock()
	defer b.eventsMu.Unlock()
	events := b.events
	b.events = nil
	return events
}

// wantTimes checks when requests came since the last look, relative to from and in
// whole seconds.
func (b *bubble) wantTimes(t *testing.T, from time.Duration, want ...int) {
	t.Helper()
	var got []int
	for _, at := range b.front.times() {
		got = append(got, int((at - from).Seconds()))
	}
	if !slices.Equal(got, want) {
		t.Errorf("requests after %d s, want %d", got, want)
	}
}

// atOnce gets a token and checks that it took no time.
func (b *bubble) atOnce(t *testing.T, r broker.Request) broker.Token {
	t.Helper()
	before := time.Now()
	token := b.get(t, r)
	if took := time.Since(before); took != 0 {
		t.Errorf("%+v took %v", r, took)
	}
	return token
}

// scoped is a request for a scope.
func scoped(scope string) broker.Request {
	return broker.Request{Profile: "dev/network", Scopes: []string{scope}}
}

// distinct counts different values.
func distinct[T comparable](list []T) int {
	set := make(map[T]bool)
	for _, v := range list {
		set[v] = true
	}
	return len(slices.Collect(maps.Keys(set)))
}
