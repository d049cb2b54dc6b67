package oauth

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	userAgent    = "tokend"
	maxBody      = 1 << 20
	exchangeTime = 30 * time.Second // from the first packet to the last
)

var errTooSlow = errors.New("no complete answer within 30 s")

func withExchangeTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, exchangeTime, errTooSlow)
}

// An answer is a complete one, or beside an error what came of it.
type answer struct {
	status int
	header http.Header
	body   []byte // at most maxBody+1 bytes
}

// exchange sends one request, a GET if body is empty and a POST else, and reads
// the answer. Redirects are not followed: the one they lead to would get the
// client's credentials.
func exchange(ctx context.Context, r *route, op string, u *url.URL, header http.Header, body string, sent *echo) (answer, *Error) {
	req := &http.Request{Method: http.MethodGet, URL: u, Header: header}
	if body != "" {
		req.Method = http.MethodPost
		req.Body = io.NopCloser(strings.NewReader(body))
		req.ContentLength = int64(len(body))
		if header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	header.Set("Accept", "application/json")
	header.Set("Accept-Encoding", "identity")
	header.Set("User-Agent", userAgent)
	res, err := r.http.RoundTrip(req.WithContext(r.trace(ctx)))
	if err != nil {
		return answer{}, r.failure(ctx, op, err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if a.status/100 == 1 || a.status/100 == 3 {
		return a, a.redirect(op, u, sent)
	}
	if a.body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1)); err != nil {
		return a, r.failure(ctx, op, err)
	}
	return a, nil
}

func (a answer) redirect(op string, from *url.URL, sent *echo) *Error {
	e := a.errorf(op, Malformed, "the answer is no answer to a request of OAuth")
	if a.status/100 == 3 {
		e.Err = errors.New("the endpoint redirects, which is not followed")
		if to, err := from.Parse(a.header.Get("Location")); err == nil && to.Host != from.Host {
			e.Err = errors.New("the endpoint redirects to host " + sent.clean(to.Host) + ", which is not followed")
		}
	}
	return e
}

// errorf makes an Error of a complete answer. An empty text: the status says all.
func (a answer) errorf(op string, kind Kind, text string) *Error {
	e := &Error{Op: op, Kind: kind, Sent: true, Reached: true, Status: a.status, RetryAfter: retryAfter(a.header)}
	if text != "" {
		e.Err = errors.New(text)
	}
	return e
}

// problem says why an answer with a status of success is no JSON to be read, or
// nil. parsed is what [decodeObject] found wrong.
func (a answer) problem(op string, parsed error) *Error {
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	switch coding := a.header.Get("Content-Encoding"); {
	case media == "text/html" || media == "application/xhtml+xml":
		return a.errorf(op, Temporary, "the answer is a web page; is there a captive portal between?")
	case coding != "" && coding != "identity":
		return a.errorf(op, Malformed, "the answer is compressed, which was not asked for")
	case len(a.body) > maxBody:
		return a.errorf(op, Malformed, "the answer is larger than 1 MiB")
	case parsed != nil:
		return a.errorf(op, Malformed, parsed.Error())
	}
	return nil
}

// failing gives the Kind of a status that is not success.
func (a answer) failing() Kind {
	if a.status >= 500 || a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout {
		return Temporary
	}
	return Refused
}
