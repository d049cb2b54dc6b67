package login

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
)

func openListener(t *testing.T) *listener {
	t.Helper()
	l, err := listen("")
	if err != nil {
		t.Fatal(err)
	}
	l.state = "the state"
	t.Cleanup(func() { l.close(t.Context()) })
	return l
}

// However often the callback comes, the first code counts, and every browser
// that waits is sent to the end.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openListener(t)
		request := func(ctx context.Context, target string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
			r.Host = l.host
			go l.ServeHTTP(w, r)
			synctest.Wait()
			return w
		}
		ctx, reload := context.WithCancel(t.Context())
		request(ctx, "/callback?state=the+state&code=one")
		reload()
		synctest.Wait()
		if l.held != 0 {
			t.Error("a request that was given up is waited for")
		}
		again := request(t.Context(), "/callback?state=the+state&code=one")
		other := request(t.Context(), "/callback?state=the+state&code=two")
		if l.callback.Code.Reveal() != "one" || l.held != 2 {
			t.Errorf("code %q, %d browsers wait", l.callback.Code.Reveal(), l.held)
		}
		finished := make(chan time.Duration)
		began := time.Now()
		go func() {
			l.finish(finalPage(&broker.Prepared{Name: "dev/network"}, nil))
			finished <- time.Since(began)
		}()
		synctest.Wait()
		for _, w := range []*httptest.ResponseRecorder{again, other} {
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "http://"+l.host+"/callback/done" {
				t.Errorf("%d, Location %q", w.Code, w.Header().Get("Location"))
			}
		}
		for range 2 { // the second is a reload of the end
			if w := request(t.Context(), "/callback/done"); w.Code != http.StatusOK {
				t.Errorf("the end: %d", w.Code)
			}
		}
		if took := <-finished; took != 0 {
			t.Errorf("the page was delivered, and waited for another %v", took)
		}
	})
}

// Who is sent to the end and does not come holds up the login no longer than that.
func TestNobodyComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openListener(t)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/callback?state=the+state&code=one", nil)
		r.Host = l.host
		go l.ServeHTTP(httptest.NewRecorder(), r)
		<-l.accepted // it is counted by then
		began := time.Now()
		l.finish(finalPage(&broker.Prepared{Name: "dev/network"}, nil))
		if took := time.Since(began); took != lingerTime {
			t.Errorf("waited %v", took)
		}
	})
}

// No other name, and no other machine, leads to the listener; and nobody else
// gets what "localhost" leads to.
func TestListen(t *testing.T) {
	for url, want := range map[string]string{
		"https://127.0.0.1:8123/callback": "the redirect URL is not an http URL of loopback",
		"http://10.0.0.1:8123/callback":   "the redirect URL is not an http URL of loopback",
		"http://app.example/callback":     "the redirect URL is not an http URL of loopback",
		"callback":                        "the redirect URL is not an http URL of loopback",
	} {
		if l, err := listen(url); l != nil || err == nil || err.Error() != want {
			t.Errorf("%s: %v", url, err)
		}
	}

	l, err := listen("")
	if err != nil {
		t.Fatal(err)
	}
	l.close(t.Context())
	_, port, _ := net.SplitHostPort(l.host)
	want := []string{"127.0.0.1:" + port}
	six, err := net.Listen("tcp", "[::1]:"+port)
	hasSix := err == nil
	if hasSix {
		want = append(want, "[::1]:"+port)
		if l, err := listen("http://localhost:" + port + "/back"); err == nil || !strings.HasSuffix(err.Error(), "listen tcp [::1]:"+port+": bind: address already in use") {
			t.Errorf("somebody else has [::1]: %v, %v", l, err)
		}
		six.Close()
	}
	l, err = listen("http://LocalHost:" + port + "/back")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close(t.Context())
	var got []string
	for _, socket := range l.sockets {
		got = append(got, socket.Addr().String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFinalPage(t *testing.T) {
	for name, tt := range map[string]struct {
		version store.Version
		err     error
		want    page
	}{
		"expired": {"1", ErrExpired, page{
			Title: "This took too long", Profile: "dev/network",
			Text: "A login waits ten minutes. You can close this tab. To try again, run:", Command: "tokenctl login dev/network",
		}},
		"not stored yet": {"", ErrDenied, page{
			Title: "Access was not granted", Profile: "dev/network",
			Text: "The answer was no, so nothing has changed, and you can close this tab. To try again, go back to your terminal.",
		}},
	} {
		if diff := cmp.Diff(tt.want, finalPage(&broker.Prepared{Name: "dev/network", Version: tt.version}, tt.err)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestBrowserExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openListener(t)
		began := time.Now()
		var told OpenURL
		nothingToPaste := make(chan string)
		close(nothingToPaste)
		_, err := authorize(t.Context(), &broker.Prepared{Profile: &profile.Profile{}}, oauth.Authorization{}, l, Person{
			Tell:      func(e Event) error { told = e.(OpenURL); return nil },
			Redirects: nothingToPaste,
		})
		if !errors.Is(err, ErrExpired) || time.Since(began) != loginTime || !told.Expires.Equal(began.Add(loginTime)) {
			t.Errorf("%v after %v; the person was told %v", err, time.Since(began), told.Expires)
		}
	})
}

func TestPoll(t *testing.T) {
	answered := func(code string) error { return &oauth.Error{Kind: oauth.Refused, Code: code} }
	down := &oauth.Error{Kind: oauth.Temporary}
	later := &oauth.Error{Kind: oauth.Temporary, RetryAfter: 90 * time.Second}
	broken := &oauth.Error{Kind: oauth.Malformed}
	pending, slower := answered("authorization_pending"), answered("slow_down")
	seconds := func(list ...int) []time.Duration {
		var all []time.Duration
		for _, n := range list {
			all = append(all, time.Duration(n)*time.Second)
		}
		return all
	}
	for name, tt := range map[string]struct {
		answers []error // the last one again and again
		asked   []time.Duration
		want    error
		after   time.Duration
	}{
		"at once":      {[]error{nil}, seconds(5), nil, 5 * time.Second},
		"pending":      {[]error{pending, pending, nil}, seconds(5, 10, 15), nil, 15 * time.Second},
		"slow down":    {[]error{slower, pending, slower, pending, nil}, seconds(5, 15, 25, 40, 55), nil, 55 * time.Second},
		"server down":  {[]error{down, down, down, down, down, pending, nil}, seconds(5, 15, 35, 75, 135, 195, 200), nil, 200 * time.Second},
		"retry after":  {[]error{later, nil}, seconds(5, 95), nil, 95 * time.Second},
		"down forever": {[]error{down}, seconds(5, 15, 35, 75, 135, 195, 255), ErrExpired, 300 * time.Second},
		"denied":       {[]error{pending, answered("access_denied")}, seconds(5, 10), ErrDenied, 10 * time.Second},
		"expired":      {[]error{answered("expired_token")}, seconds(5), ErrExpired, 5 * time.Second},
		"broken":       {[]error{broken}, seconds(5), broken, 5 * time.Second},
		"slower than it lives": {
			[]error{slower}, seconds(5, 15, 30, 50, 75, 105, 140, 180, 225, 275), ErrExpired, 300 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var asked []time.Duration
				token := new(oauth.Token)
				d := &oauth.Device{Life: 5 * time.Minute, Interval: 5 * time.Second}
				got, err := poll(t.Context(), d, func() (*oauth.Token, error) {
					asked = append(asked, time.Since(began))
					err := tt.answers[min(len(asked), len(tt.answers))-1]
					if err != nil {
						return nil, err
					}
					return token, nil
				})
				if !errors.Is(err, tt.want) || (err == nil) != (got == token) || time.Since(began) != tt.after {
					t.Errorf("%v, %v after %v", got, err, time.Since(began))
				}
				if diff := cmp.Diff(tt.asked, asked); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// What was asked before the end of the code is waited for.
func TestPollLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := new(oauth.Token)
		got, err := poll(t.Context(), &oauth.Device{Life: 6 * time.Second, Interval: 5 * time.Second}, func() (*oauth.Token, error) {
			time.Sleep(20 * time.Second)
			return token, nil
		})
		if got != token || err != nil {
			t.Error(got, err)
		}
	})
}

func TestPollCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, asking := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			_, err := poll(ctx, &oauth.Device{Life: time.Minute, Interval: 5 * time.Second}, func() (*oauth.Token, error) {
				if asking {
					<-ctx.Done()
				}
				return nil, &oauth.Error{Kind: oauth.Temporary}
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
	})
}
