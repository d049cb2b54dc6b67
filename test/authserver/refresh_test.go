package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// counts are those of a ledger: issued, spent, spent twice, valid.
func counts(s *Server, client string) [4]int {
	l := s.Ledger(client)
	return [4]int{l.Issued, l.Spent, l.SpentTwice, l.Valid}
}

func wantCounts(t *testing.T, s *Server, when string, want [4]int) {
	t.Helper()
	if got := counts(s, "app"); got != want {
		t.Errorf("%s: issued, spent, spent twice, valid: %v, want %v", when, got, want)
	}
}

func appWith(change func(*Client)) Client {
	c := app
	change(&c)
	return c
}

func TestRefreshRotates(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	first := login(t, s, "app")
	wantCounts(t, s, "login", [4]int{1, 0, 0, 1})
	second := wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
	if second.Refresh == "" || second.Refresh == first.Refresh || second.Access == first.Access {
		t.Fatalf("%+v", second)
	}
	wantCounts(t, s, "refresh", [4]int{2, 1, 0, 1})
	if !isLive(t, s, first.Access) || !isLive(t, s, second.Access) {
		t.Error("a token is not good")
	}
	// RFC 9700 4.14.2: reuse ends the family.
	wantError(t, "reuse", sendForm(t, s, "/token", "", refreshing("app", first.Refresh)), 400, "invalid_grant")
	wantCounts(t, s, "reuse", [4]int{2, 1, 1, 0})
	wantError(t, "the family", sendForm(t, s, "/token", "", refreshing("app", second.Refresh)), 400, "invalid_grant")
	if isLive(t, s, first.Access) || isLive(t, s, second.Access) {
		t.Error("access tokens of the family live on")
	}
}

func TestRefreshGraceUses(t *testing.T) {
	s := Start(t, Config{Clients: []Client{appWith(func(c *Client) { c.GraceUses = 2 })}})
	first := login(t, s, "app")
	for range 3 {
		wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
	}
	wantCounts(t, s, "in grace", [4]int{4, 1, 1, 3})
	wantError(t, "after grace", sendForm(t, s, "/token", "", refreshing("app", first.Refresh)), 400, "invalid_grant")
	wantCounts(t, s, "after grace", [4]int{4, 1, 1, 0})
	if line := s.Ledger("app").Tokens[0]; line.Used != 3 || line.Again != 3 {
		t.Errorf("%+v", line)
	}
}

func TestRefreshGraceSeconds(t *testing.T) {
	s := Start(t, Config{Clients: []Client{appWith(func(c *Client) { c.GraceSeconds = 10 })}})
	synctest.Test(t, func(t *testing.T) {
		first := login(t, s, "app")
		time.Sleep(time.Minute) // grace begins with the first use
		for range 2 {
			wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
			time.Sleep(9 * time.Second)
		}
		wantError(t, "after grace", sendForm(t, s, "/token", "", refreshing("app", first.Refresh)), 400, "invalid_grant")
		wantCounts(t, s, "after grace", [4]int{3, 1, 1, 0})
	})
}

func TestRefreshWithoutRotation(t *testing.T) {
	for policy, again := range map[string]bool{RefreshSame: true, RefreshSilent: false} {
		s := Start(t, Config{Clients: []Client{appWith(func(c *Client) { c.Refresh = policy })}})
		first := login(t, s, "app")
		for range 3 {
			got := wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
			if (got.Refresh == first.Refresh) != again || !again && got.Refresh != "" {
				t.Errorf("%s: %q", policy, got.Refresh)
			}
		}
		wantCounts(t, s, policy, [4]int{1, 0, 0, 1})
	}
}

func TestNoRefreshTokens(t *testing.T) {
	for _, c := range []Client{
		appWith(func(c *Client) { c.Refresh = RefreshNone }),
		appWith(func(c *Client) { c.Grants = []string{"authorization_code"} }),
	} {
		s := Start(t, Config{Clients: []Client{c}})
		if got := login(t, s, "app"); got.Refresh != "" {
			t.Errorf("%+v", got)
		}
		wantCounts(t, s, "login", [4]int{})
	}
}

func TestRefreshWithClientCredentials(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev, {ID: "always", Secret: secret, RefreshAlways: true, Scope: "read write"}}})
	if got := wantTokens(t, do(t, tokenRequest(t, s))); got.Refresh != "" {
		t.Errorf("%+v", got)
	}
	got := wantTokens(t, do(t, post(t, s.TokenURL, basic("always", secret), "grant_type=client_credentials")))
	if got.Refresh == "" {
		t.Fatalf("%+v", got)
	}
	form := "grant_type=refresh_token&refresh_token=" + got.Refresh
	wantError(t, "no authentication", do(t, post(t, s.TokenURL, "", form+"&client_id=always")), 401, "invalid_client")
	wantError(t, "another client", do(t, post(t, s.TokenURL, basic("dev", secret), form)), 400, "invalid_grant")
	wantTokens(t, do(t, post(t, s.TokenURL, basic("always", secret), form)))
}

// What is wrong with a request does not spend its token.
func TestRefreshNarrows(t *testing.T) {
	s := Start(t, Config{Clients: []Client{appWith(func(c *Client) { c.Scope = "read write admin" })}})
	form := with(authorizationOf("app"), map[string]string{"scope": "read write", "resource": s.ResourceURL})
	first := wantTokens(t, sendForm(t, s, "/token", "", redemption("app", consent(t, s, form).Get("code"))))
	for _, tt := range []struct{ name, value, code string }{
		{"scope", "read admin", "invalid_scope"},
		{"scope", "read  write", "invalid_scope"},
		{"resource", "https://else.example/", "invalid_target"},
		{"client_id", "nobody", "invalid_client"},
		{"refresh_token", "", "invalid_grant"},
		{"refresh_token", "guess", "invalid_grant"},
	} {
		status := 400
		if tt.name == "client_id" {
			status = 401
		}
		wantError(t, tt.name+" "+tt.value, sendForm(t, s, "/token", "", with(refreshing("app", first.Refresh), map[string]string{tt.name: tt.value})), status, tt.code)
	}
	wantCounts(t, s, "refusals", [4]int{1, 0, 0, 1})
	narrow := wantTokens(t, sendForm(t, s, "/token", "", with(refreshing("app", first.Refresh), map[string]string{"scope": "read"})))
	if narrow.Scope != "read" {
		t.Errorf("%+v", narrow)
	}
	// RFC 6749 6: narrowing is of the access token, not of what may be had.
	wide := wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", narrow.Refresh)))
	if wide.Scope != "read write" {
		t.Errorf("%+v", wide)
	}
}

// A client that never hears has spent its token all the same.
func TestLate(t *testing.T) {
	for _, a := range []Answer{
		{Late: true, Fault: ResetBefore},
		{Late: true, Status: 503},
		{Late: true, Error: "temporarily_unavailable"},
		{Fault: CloseAfterHeaders},
	} {
		s := Start(t, Config{Clients: []Client{app}})
		first := login(t, s, "app")
		s.Client("app").Then(a)
		r, err := try(post(t, s.TokenURL, "", refreshing("app", first.Refresh).Encode()))
		if err == nil && r.status == 200 {
			t.Errorf("%+v: %s", a, r.body)
		}
		wantCounts(t, s, "late", [4]int{2, 1, 0, 1})
	}
	for _, a := range []Answer{{Fault: ResetBefore}, {Status: 503}, {Error: "temporarily_unavailable"}} {
		s := Start(t, Config{Clients: []Client{app}})
		first := login(t, s, "app")
		s.Client("app").Then(a)
		try(post(t, s.TokenURL, "", refreshing("app", first.Refresh).Encode()))
		wantCounts(t, s, "not late", [4]int{1, 0, 0, 1})
	}
}

func TestLateHang(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	first := login(t, s, "app")
	s.Client("app").Always(Answer{Late: true, Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	req := post(t, s.TokenURL, "", refreshing("app", first.Refresh).Encode()).WithContext(ctx)
	go func() {
		_, err := try(req)
		errs <- err
	}()
	if err := s.Await(t.Context(), "/token", 2); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.Close() // the request has been served to its end
	wantCounts(t, s, "given up", [4]int{2, 1, 0, 1})
}

func TestScriptedError(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	first := login(t, s, "app")
	s.Client("app").Then(Answer{Error: "invalid_grant"})
	wantError(t, "scripted", sendForm(t, s, "/token", "", refreshing("app", first.Refresh)), 400, "invalid_grant")
	s.AnyClient().Then(Answer{Endpoint: "resource", Error: "insufficient_scope"})
	r := send(s, get(t, s.ResourceURL, "Bearer "+first.Access))
	if r.status != 403 || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), `Bearer error="insufficient_scope"`) {
		t.Errorf("%d %v", r.status, r.header)
	}
}

func TestLedger(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app, {ID: "other", Secret: secret, RefreshAlways: true}}})
	first := login(t, s, "app")
	second := wantTokens(t, sendForm(t, s, "/token", "", refreshing("app", first.Refresh)))
	wantTokens(t, sendForm(t, s, "/token", basic("other", secret), map[string][]string{"grant_type": {"client_credentials"}}))
	want := Ledger{Issued: 2, Spent: 1, Valid: 1, Accepted: 1, Families: 1, Tokens: []RefreshToken{
		{Token: first.Refresh, Client: "app", Subject: Subject, Used: 1, Spent: true},
		{Token: second.Refresh, Client: "app", Subject: Subject, Valid: true, Accepted: true},
	}}
	got := s.Ledger("app")
	for i := range got.Tokens {
		if time.Since(got.Tokens[i].Issued) > time.Minute {
			t.Error(got.Tokens[i].Issued)
		}
		got.Tokens[i].Issued = time.Time{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	r := do(t, get(t, s.URL+"/_ledger?client=app", ""))
	var shown Ledger
	if err := json.Unmarshal([]byte(r.body), &shown); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.body, first.Refresh) || shown.Tokens[0].Token != digest(first.Refresh) || shown.Spent != 1 {
		t.Error(r.body)
	}
	for query, want := range map[string]string{
		"?client=app&count=issued": "2\n", "?client=app&count=spent": "1\n", "?count=spent_twice": "0\n",
		"?count=valid": "2\n", "?client=nobody&count=issued": "0\n", "?count=lost": "no such count\n",
	} {
		if r := do(t, get(t, s.URL+"/_ledger"+query, "")); r.body != want {
			t.Errorf("%s: %q", query, r.body)
		}
	}
}
