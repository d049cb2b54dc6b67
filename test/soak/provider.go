package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"tokend/test/authserver"
)

// A provider is an authorization server with a few profiles, and the gate that
// they reach it by. Its resource is reached without.
type provider struct {
	name     string
	calm     bool // it never fails
	faults   []fault
	life     time.Duration
	server   *authserver.Server
	gate     *gate
	profiles []string
	texts    map[string]string // by profile

	// mu guards the fields that follow.
	mu       sync.Mutex
	troubles []span
	suffered map[string]int // by the fault's name
}

// A fault is what a provider does for a while instead of answering well.
type fault struct {
	name   string
	answer authserver.Answer
	shut   bool // nobody listens
	// loses says that it may take effect although its answer does not arrive.
	loses bool
	// lasts is how long a request goes on that has met it.
	lasts time.Duration
}

// ordinary is how a provider answers that is well.
var ordinary = authserver.Answer{Delay: 30 * time.Millisecond}

var faults = []fault{
	{name: "restart", shut: true},
	{name: "hangs", answer: authserver.Answer{Hang: true}},
	{name: "slow", answer: authserver.Answer{Delay: 1500 * time.Millisecond}, lasts: 1500 * time.Millisecond},
	{name: "slower", answer: authserver.Answer{Delay: 4 * time.Second}, lasts: 4 * time.Second},
	{name: "trickles", answer: authserver.Answer{Trickle: 2 * time.Millisecond}, lasts: 4 * time.Second},
	{name: "500", answer: authserver.Answer{Status: 500}},
	{name: "502 page", answer: authserver.Answer{Status: 502, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<h1>Bad Gateway</h1>"}},
	{name: "503 Retry-After", answer: authserver.Answer{Status: 503, Header: http.Header{"Retry-After": {"2"}}}, lasts: 2 * time.Second},
	{name: "429 Retry-After", answer: authserver.Answer{Status: 429, Header: http.Header{"Retry-After": {"2"}}}, lasts: 2 * time.Second},
	{name: "429", answer: authserver.Answer{Status: 429}},
	{name: "unavailable", answer: authserver.Answer{Status: 200, Body: `{"error":"temporarily_unavailable"}`}},
	{name: "portal", answer: authserver.Answer{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<title>Welcome</title>"}},
	{name: "truncated", answer: authserver.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"access_token":"ey`}},
	{name: "reset before", answer: authserver.Answer{Fault: authserver.ResetBefore}},
	{name: "reset amid", answer: authserver.Answer{Fault: authserver.ResetInBody}, loses: true},
	{name: "too large", answer: authserver.Answer{Pad: 4 << 20}, loses: true},
	{name: "same token", answer: authserver.Answer{SameToken: true}, loses: true},
}

const (
	perProvider = 5
	secret      = "correct-horse-battery-staple-of-soak"
	redirectURI = "http://127.0.0.1/callback"
)

// startProviders starts four that fail and one that does not.
func startProviders(life time.Duration) (all []*provider, err error) {
	for _, kind := range []struct {
		name    string
		client  authserver.Client
		renewAt string
		refresh bool
		lossy   bool // it suffers faults that lose answers, too
	}{
		{"credentials", authserver.Client{}, "0.85", false, true},
		{"opaque", authserver.Client{Opaque: true}, "0.5", false, true},
		{"rotating", authserver.Client{RedirectURIs: []string{redirectURI}}, "0.6", true, false},
		{"graceful", authserver.Client{RedirectURIs: []string{redirectURI}, GraceSeconds: 3600}, "0.85", true, true},
		{"calm", authserver.Client{}, "0.85", false, false},
	} {
		p := &provider{name: kind.name, calm: kind.name == "calm", life: life, texts: make(map[string]string), suffered: make(map[string]int)}
		cfg := authserver.Config{Lifetime: life}
		n := perProvider
		if p.calm {
			n = 1
		}
		for i := range n {
			c := kind.client
			c.ID, c.Secret = fmt.Sprintf("%s-%d", kind.name, i), secret
			cfg.Clients = append(cfg.Clients, c)
		}
		if p.server, err = authserver.Listen(cfg); err != nil {
			return all, err
		}
		if p.gate, err = openGate(strings.TrimPrefix(p.server.URL, "http://")); err != nil {
			return all, err
		}
		all = append(all, p)
		p.server.AnyClient().Always(ordinary)
		for _, f := range faults {
			if kind.lossy || !f.loses {
				p.faults = append(p.faults, f)
			}
		}
		for i, c := range cfg.Clients {
			profile := fmt.Sprintf("%s/%d", kind.name, i)
			text := fmt.Sprintf("OAUTH2_TOKEN_URL=http://%s/token\nCLIENT_ID=%s\nCLIENT_SECRET=%s\nOAUTH2_RENEW_AT=%s\n", p.gate.address, c.ID, c.Secret, kind.renewAt)
			if kind.refresh {
				token, err := p.logIn(c)
				if err != nil {
					return all, fmt.Errorf("%s: %w", profile, err)
				}
				text += "OAUTH2_GRANT=refresh_token\nOAUTH2_REFRESH_TOKEN=" + token + "\n"
			}
			p.profiles = append(p.profiles, profile)
			p.texts[profile] = text
		}
	}
	return all, nil
}

// logIn returns a refresh token (RFC 6749 4.1), as a user's elsewhere would be.
func (p *provider) logIn(c authserver.Client) (string, error) {
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(p.server.Issuer + "/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {c.ID}, "redirect_uri": {redirectURI}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		return "", err
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "redirect_uri": {redirectURI}, "code_verifier": {verifier}}
	req, err := http.NewRequest(http.MethodPost, p.server.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))
	if resp, err = browser.Do(req); err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.RefreshToken == "" {
		return "", fmt.Errorf("no refresh token, HTTP %d: %w", resp.StatusCode, err)
	}
	return answer.RefreshToken, nil
}

// fail lets the provider fail and recover until ctx ends.
func (p *provider) fail(ctx context.Context) {
	for ctx.Err() == nil {
		f := p.faults[rand.IntN(len(p.faults))]
		d := between(p.life/40, p.life/8)
		if rand.IntN(4) == 0 {
			d = between(p.life/8, p.life/2) // tokens die in that
		}
		p.suffer(ctx, f, d)
		calm := between(p.life/40, p.life/8)
		// Every other time everybody gets over it, and after much of it always.
		if last := p.last(); rand.IntN(2) == 0 || last.Until.Sub(last.From) > p.life {
			calm = time.Until(last.Until) + p.life/10
		}
		p.server.Forget()
		pause(ctx, calm)
	}
}

func between(least, most time.Duration) time.Duration { return least + rand.N(most-least) }

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// suffer lets the provider have a fault for a while. Whoever has failed in that
// time is back after one and a half times as long as it has failed, at the most:
// waits double from one second, and have up to half of themselves added.
func (p *provider) suffer(ctx context.Context, f fault, d time.Duration) {
	begin := time.Now()
	if last := p.last(); begin.Before(last.Until) {
		begin = last.From // not everybody is over the last one
	}
	const forEver = 24 * time.Hour
	p.note(f.name, span{begin, begin.Add(forEver)})
	if f.shut {
		p.gate.shut()
	} else {
		p.server.AnyClient().Always(f.answer)
	}
	pause(ctx, d)
	p.server.AnyClient().Always(ordinary)
	p.server.Release()
	if f.shut {
		if err := p.gate.open(); err != nil {
			panic(err) // its port was its own a moment ago
		}
	}
	end := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := end.Add(f.lasts).Sub(begin)
	p.troubles[len(p.troubles)-1].Until = begin.Add(failed + failed*3/2 + 2*time.Second)
}

func (p *provider) note(name string, s span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suffered[name]++
	p.troubles = append(p.troubles, s)
}

// last is the last trouble, or none.
func (p *provider) last() span {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.troubles) == 0 {
		return span{}
	}
	return p.troubles[len(p.troubles)-1]
}

// seen is what judge has to know of it.
func (p *provider) seen() *provided {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &provided{calm: p.calm, troubles: p.troubles, suffered: p.suffered, passed: p.gate.spans()}
}

func (p *provider) close() {
	p.gate.shut()
	p.server.Close()
	p.gate.running.Wait()
}
