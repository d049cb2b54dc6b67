package oauth

import (
	"net/http"
	"strings"
	"time"
)

// retryAfter reads a Retry-After header (RFC 9110 section 10.2.3), seconds or a
// date, as a time between one second and one hour; zero where there is none or
// it is neither. A date counts from the answer's own, so that the clocks of the
// two machines need not agree.
func retryAfter(h http.Header) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var wait time.Duration
	if strings.Trim(v, "0123456789") == "" {
		wait = time.Hour
		if v = strings.TrimLeft(v, "0"); len(v) <= 4 {
			wait = 0
			for _, c := range v {
				wait = 10*wait + time.Duration(c-'0')*time.Second
			}
		}
	} else {
		at, err := http.ParseTime(v)
		if err != nil {
			return 0
		}
		from := answerDate(h)
		if from.IsZero() {
			from = time.Now()
		}
		wait = at.Sub(from)
	}
	return min(max(wait, time.Second), time.Hour)
}

// answerDate gives the Date header, or zero.
func answerDate(h http.Header) time.Time {
	t, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return t
}
