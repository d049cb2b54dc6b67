package broker

import (
	"net/http"
	"testing"
	"time"

	"tokend/oauth"
)

// However it is spelt, it is the server that wants to be left alone.
func TestSpellingOfAnOrigin(t *testing.T) {
	t.Parallel()
	for said, same := range map[string][]string{
		"https://as.example/token":      {"https://AS.Example/other", "HTTPS://as.example/token", "https://as.example:443/token"},
		"http://AS.example:80/token":    {"http://as.example/token"},
		"https://as.example:8443/token": {"https://As.example:8443/"},
		"https://[2001:DB8::1]/token":   {"https://[2001:db8::1]:443/token"},
	} {
		b := New(Config{Now: func() time.Duration { return time.Hour }, RateLimit: 1})
		defer b.Close()
		_ = b.heard(said, &oauth.Error{Kind: oauth.Temporary, Status: http.StatusTooManyRequests, RetryAfter: time.Minute})
		for _, endpoint := range same {
			if left, _ := b.closed(endpoint); left != time.Minute {
				t.Errorf("%s is left alone for %v after what %s has said", endpoint, left, said)
			}
		}
		for _, endpoint := range []string{"https://as.example:444/token", "http://as.example:443/token", "https://as.example.org/token"} {
			if left, _ := b.closed(endpoint); left != 0 {
				t.Errorf("%s is left alone for %v after what %s has said", endpoint, left, said)
			}
		}
	}
}
