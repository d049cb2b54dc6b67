package httpauth_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokend/client"
	"tokend/client/httpauth"
	"tokend/test/authserver"
)

// throttling is an API that answers as it was told, then 200, and a profile for it.
// The daemon is outside of the test's bubble.
func throttling(t *testing.T, run func(t *testing.T, tr *httpauth.Transport, says func(status int, header ...string), times *[]time.Duration)) {
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: "secret"}}})
	newProfile(t, s, "API_URL='https://api.example https://b.example'")
	profile := profileOf(t)
	tokenOf(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var times []time.Duration
		var next []func(r *http.Request) *http.Response
		tr := &httpauth.Transport{
			Request: client.TokenRequest{Profile: profile},
			Base: apiFunc(func(r *http.Request) (*http.Response, error) {
				times = append(times, time.Since(began))
				if len(next) == 0 {
					return answer(r, 200), nil
				}
				f := next[0]
				next = next[1:]
				return f(r), nil
			}),
		}
		run(t, tr, func(status int, header ...string) {
			next = append(next, func(r *http.Request) *http.Response { return answer(r, status, header...) })
		}, &times)
	})
}

// wantTimes checks when requests were sent: what has waited goes a tenth of its
// wait later, a second at most.
func wantTimes(t *testing.T, times *[]time.Duration, want ...time.Duration) {
	t.Helper()
	if len(*times) != len(want) {
		t.Fatalf("sent at %v, want %v", *times, want)
	}
	for i := range want {
		if late := (*times)[i] - want[i]; late < 0 || late > min(want[i]/10, time.Second) {
			t.Errorf("sent at %v, want %v", *times, want)
		}
	}
}

const apiExample = "https://api.example/"

func TestThrottledForShort(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		method string
		body   func() io.Reader
		status int
		header func() []string
		at     []time.Duration // when it is sent
		last   int             // the caller's answer
	}{
		"429, seconds":          {"GET", nil, 429, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0, 20 * time.Second}, 200},
		"429, at the limit":     {"GET", nil, 429, func() []string { return []string{"Retry-After", "30"} }, []time.Duration{0, 30 * time.Second}, 200},
		"429, beyond the limit": {"GET", nil, 429, func() []string { return []string{"Retry-After", "31"} }, []time.Duration{0}, 429},
		"429, date":             {"GET", nil, 429, func() []string { return []string{"Retry-After", date(20 * time.Second)} }, []time.Duration{0, 20 * time.Second}, 200},
		"429, date of theirs": {"GET", nil, 429, func() []string {
			return []string{"Retry-After", date(time.Hour + 20*time.Second), "Date", date(time.Hour)}
		}, []time.Duration{0, 20 * time.Second}, 200},
		"429, past date":         {"GET", nil, 429, func() []string { return []string{"Retry-After", date(-time.Hour)} }, []time.Duration{0, time.Second}, 200},
		"429, zero":              {"GET", nil, 429, func() []string { return []string{"Retry-After", "0"} }, []time.Duration{0, time.Second}, 200},
		"429, without":           {"GET", nil, 429, func() []string { return nil }, []time.Duration{0}, 429},
		"429, nonsense":          {"GET", nil, 429, func() []string { return []string{"Retry-After", "-5"} }, []time.Duration{0}, 429},
		"429, body":              {"POST", func() io.Reader { return strings.NewReader("x") }, 429, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0, 20 * time.Second}, 200},
		"429, body read once":    {"POST", func() io.Reader { return newBody("x") }, 429, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0}, 429},
		"503, GET":               {"GET", nil, 503, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0, 20 * time.Second}, 200},
		"503, no method":         {"", nil, 503, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0, 20 * time.Second}, 200},
		"503, PUT":               {"PUT", func() io.Reader { return strings.NewReader("x") }, 503, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0, 20 * time.Second}, 200},
		"503, not idempotent":    {"POST", func() io.Reader { return strings.NewReader("x") }, 503, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0}, 503},
		"503, without":           {"GET", nil, 503, func() []string { return nil }, []time.Duration{0}, 503},
		"another with the field": {"GET", nil, 301, func() []string { return []string{"Retry-After", "20"} }, []time.Duration{0}, 301},
	} {
		t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(name), func(t *testing.T) {
			throttling(t, func(t *testing.T, tr *httpauth.Transport, says func(int, ...string), times *[]time.Duration) {
				says(c.status, c.header()...)
				var b io.Reader
				if c.body != nil {
					b = c.body()
				}
				req := newRequest(t, c.method, apiExample, b)
				req.Method = c.method
				resp, err := tr.RoundTrip(req)
				wantAnswer(t, resp, err, c.last)
				wantTimes(t, times, c.at...)
			})
		})
	}
}

func TestThrottledAgain(t *testing.T) {
	throttling(t, func(t *testing.T, tr *httpauth.Transport, says func(int, ...string), times *[]time.Duration) {
		for range 10 {
			says(429, "Retry-After", "5")
		}
		resp, err := tr.RoundTrip(newRequest(t, "GET", apiExample, nil))
		wantAnswer(t, resp, err, 429)
		wantTimes(t, times, 0, 5*time.Second)
	})
}

func TestThrottledBeyondTheDeadline(t *testing.T) {
	throttling(t, func(t *testing.T, tr *httpauth.Transport, says func(int, ...string), times *[]time.Duration) {
		says(429, "Retry-After", "20")
		ctx, cancel := context.WithTimeout(t.Context(), 19*time.Second)
		defer cancel()
		resp, err := tr.RoundTrip(newRequest(t, "GET", apiExample, nil).WithContext(ctx))
		wantAnswer(t, resp, err, 429)
		var throttled *httpauth.ThrottledError
		if _, err := tr.RoundTrip(newRequest(t, "GET", apiExample, nil).WithContext(ctx)); !errors.As(err, &throttled) {
			t.Errorf("error is %v", err)
		}
		wantTimes(t, times, 0)
		if ctx.Err() != nil {
			t.Error("it was waited for")
		}
	})
}

// Long ones are remembered for the origin, and nothing is sent until then.
func TestThrottledForLong(t *testing.T) {
	for _, c := range []struct {
		retryAfter string
		closed     time.Duration
	}{
		{"100", 100 * time.Second},
		{"3600", time.Hour},
		{"3601", time.Hour},
		{"99999999999999999999999999", time.Hour},
		{"9223372036854775807", time.Hour},
		{"in two hours", time.Hour},
	} {
		t.Run(strings.ReplaceAll(c.retryAfter, " ", "-"), func(t *testing.T) {
			throttling(t, func(t *testing.T, tr *httpauth.Transport, says func(int, ...string), times *[]time.Duration) {
				if c.retryAfter == "in two hours" {
					c.retryAfter = time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat)
				}
				says(503, "Retry-After", c.retryAfter)
				until := time.Now().Add(c.closed)
				resp, err := tr.RoundTrip(newRequest(t, "POST", apiExample, nil))
				wantAnswer(t, resp, err, 503)

				time.Sleep(c.closed - 31*time.Second)
				b := newBody("body")
				var throttled *httpauth.ThrottledError
				_, err = tr.RoundTrip(newRequest(t, "POST", apiExample, b))
				if !errors.As(err, &throttled) || throttled.Origin != "https://api.example" || !throttled.Until.Equal(until) {
					t.Errorf("error is %v", err)
				}
				if want := `"https://api.example" has asked for no requests until ` + until.Format(time.TimeOnly); err.Error() != want {
					t.Errorf("error is %v, want %s", err, want)
				}
				if b.closed.Load() != 1 {
					t.Error("the body was not closed")
				}
				wantTimes(t, times, 0)

				// Another origin is another server.
				resp, err = tr.RoundTrip(newRequest(t, "GET", "https://b.example/", nil))
				wantAnswer(t, resp, err, 200)

				// Once it is not for long any more, it is waited for.
				time.Sleep(time.Second)
				resp, err = tr.RoundTrip(newRequest(t, "GET", apiExample, nil))
				wantAnswer(t, resp, err, 200)
				wantTimes(t, times, 0, c.closed-31*time.Second, c.closed)
			})
		})
	}
}

// What is asked for later does not shorten what was asked for before.
func TestThrottledTwice(t *testing.T) {
	throttling(t, func(t *testing.T, tr *httpauth.Transport, says func(int, ...string), times *[]time.Duration) {
		says(503, "Retry-After", "100")
		base := tr.Base
		tr.Base = apiFunc(func(r *http.Request) (*http.Response, error) {
			tr.Base = base
			resp, err := tr.RoundTrip(newRequest(t, "POST", apiExample, nil))
			wantAnswer(t, resp, err, 503)
			return answer(r, 503, "Retry-After", "40"), nil
		})
		resp, err := tr.RoundTrip(newRequest(t, "POST", apiExample, nil))
		wantAnswer(t, resp, err, 503)
		time.Sleep(45 * time.Second)
		var throttled *httpauth.ThrottledError
		if _, err := tr.RoundTrip(newRequest(t, "GET", apiExample, nil)); !errors.As(err, &throttled) || time.Until(throttled.Until) != 55*time.Second {
			t.Errorf("error is %v", err)
		}
	})
}

func TestWaitEndsWithTheContext(t *testing.T) {
	throttling(t, func(t *testing.T, tr *httpauth.Transport, says func(int, ...string), times *[]time.Duration) {
		says(429, "Retry-After", "20")
		resp, err := tr.RoundTrip(newRequest(t, "POST", apiExample, newBody("x")))
		wantAnswer(t, resp, err, 429)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		b := newBody("x")
		began := time.Now()
		if _, err := tr.RoundTrip(newRequest(t, "POST", apiExample, b).WithContext(ctx)); !errors.Is(err, context.Canceled) || b.closed.Load() != 1 || time.Since(began) != time.Second {
			t.Errorf("error is %v, closed %d times, after %v", err, b.closed.Load(), time.Since(began))
		}
		wantTimes(t, times, 0)
	})
}
