package authserver

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestControl(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	control := func(body string) reply { return do(t, post(t, s.URL+"/_control", "", body)) }
	for _, body := range []string{
		`{"client":"dev","then":[{"status":503,"header":{"Retry-After":["7"]},"body":"down"}]}`,
		`{"client":"dev","then":[{"set":{"expires_in":1e400},"drop":["token_type"],"delay":"1ms","trickle":"1ms"}]}`,
		`{"always":{"status":429}}`,
	} {
		if r := control(body); r.status != 204 {
			t.Fatalf("%s: %d %s", body, r.status, r.body)
		}
	}
	if r := do(t, tokenRequest(t, s)); r.status != 503 || r.body != "down" || r.header.Get("Retry-After") != "7" {
		t.Errorf("%d %q", r.status, r.body)
	}
	if r := do(t, tokenRequest(t, s)); !strings.Contains(r.body, `"expires_in":1e400`) || strings.Contains(r.body, "token_type") {
		t.Error(r.body)
	}
	if r := do(t, tokenRequest(t, s)); r.status != 429 {
		t.Error(r.status)
	}

	control(`{"client":"dev","then":[{"hang":true}],"always":{}}`)
	replies := make(chan reply)
	req := tokenRequest(t, s)
	go func() {
		r, _ := try(req)
		replies <- r
	}()
	if err := s.Await(t.Context(), "/token", 4); err != nil {
		t.Fatal(err)
	}
	control(`{"release":true}`)
	if r := <-replies; r.status != 200 {
		t.Error(r.status)
	}
}

func TestAnswerJSON(t *testing.T) {
	want := Answer{
		Delay: 1500 * time.Millisecond, Hang: true, SameToken: true,
		Set:  map[string]any{"expires_in": json.Number("10")},
		Drop: []string{"scope"}, Pad: 3, Trickle: 1500 * time.Millisecond,
	}
	var got Answer
	err := json.Unmarshal([]byte(`{"delay":"1.5s","hang":true,"same_token":true,"set":{"expires_in":10},
		"drop":["scope"],"pad":3,"trickle":"1.5s"}`), &got)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestControlRefusals(t *testing.T) {
	s := Start(t, Config{})
	for _, body := range []string{
		``,
		`[]`,
		`{"clients":"dev"}`,
		`{"then":[{"fault":"earthquake"}]}`,
		`{"then":[{"sleep":"1s"}]}`,
		`{"then":[{"delay":1}]}`,
		`{"then":[{"delay":"soon"}]}`,
		`{"always":{"trickle":"-1s"}}`,
	} {
		if r := do(t, post(t, s.URL+"/_control", "", body)); r.status != 400 {
			t.Errorf("%s: %d", body, r.status)
		}
	}
	for _, path := range []string{"/_control", "/_log", "/_count", "/_ledger", "/_certificate", "/_nothing"} {
		req := post(t, s.URL+path, "", "{}")
		req.Method = "PUT"
		if r := do(t, req); r.status != 405 {
			t.Errorf("PUT %s: %d", path, r.status)
		}
	}
	w := httptest.NewRecorder()
	req := httptest.NewRequest("GET", "/_log", nil)
	req.RemoteAddr = "192.0.2.1:1234"
	s.serve(w, req)
	if w.Code != 403 {
		t.Errorf("from another machine: %d", w.Code)
	}
}

func TestLog(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	before := time.Now()
	token := accessToken(t, post(t, s.TokenURL+"?code=hidden", basic("dev", secret),
		"grant_type=client_credentials&scope=read&assertion="+secret))
	do(t, get(t, s.ResourceURL, "Bearer "+token))
	do(t, post(t, s.TokenURL, "", "grant_type=client_credentials&client_id=post&client_secret="+secret))

	all := s.Requests()
	if got := all[0].Form.Get("assertion"); got != secret {
		t.Errorf("in process: %q", got)
	}
	if at := all[0].Time; at.Before(before) || at.After(time.Now()) {
		t.Error(at)
	}
	log := do(t, get(t, s.URL+"/_log", "")).body
	for _, hidden := range []string{secret, basic("dev", secret)[6:], token, "hidden"} {
		if strings.Contains(log, hidden) {
			t.Errorf("the log shows %q", hidden)
		}
	}
	var got []map[string]any
	if err := json.Unmarshal([]byte(log), &got); err != nil {
		t.Fatal(err)
	}
	for _, r := range got {
		if _, err := time.Parse(time.RFC3339, r["time"].(string)); err != nil {
			t.Error(err)
		}
		delete(r, "time")
	}
	host := []any{strings.TrimPrefix(s.URL, "http://")}
	common := map[string]any{
		"Accept-Encoding": []any{"gzip"}, "Connection": []any{"close"}, "Host": host, "User-Agent": []any{"Go-http-client/1.1"},
	}
	header := func(more map[string]any) map[string]any {
		for name, v := range common {
			more[name] = v
		}
		return more
	}
	form := []any{"application/x-www-form-urlencoded"}
	want := []map[string]any{
		{
			"proto": "HTTP/1.1", "method": "POST", "path": "/token", "client": "dev", "status": 200.0,
			"query":  map[string]any{"code": []any{digest("hidden")}},
			"header": header(map[string]any{"Content-Type": form, "Content-Length": []any{"57"}, "Authorization": []any{"Basic " + digest(basic("dev", secret)[6:])}}),
			"form":   map[string]any{"grant_type": []any{"client_credentials"}, "scope": []any{"read"}, "assertion": []any{digest(secret)}},
		},
		{
			"proto": "HTTP/1.1", "method": "GET", "path": "/resource", "client": "", "status": 200.0,
			"query": map[string]any{}, "form": map[string]any{},
			"header": header(map[string]any{"Authorization": []any{"Bearer " + digest(token)}}),
		},
		{
			"proto": "HTTP/1.1", "method": "POST", "path": "/token", "client": "post", "status": 400.0,
			"query":  map[string]any{},
			"header": header(map[string]any{"Content-Type": form, "Content-Length": []any{"65"}}),
			"form": map[string]any{
				"grant_type": []any{"client_credentials"}, "client_id": []any{"post"}, "client_secret": []any{digest(secret)},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want := "sha256:1ec1c26b"; digest(secret) != want {
		t.Errorf("digest %s, want %s", digest(secret), want)
	}

	for query, want := range map[string]string{
		"":                          `{"/resource":{"":1},"/token":{"dev":1,"post":1}}`,
		"?path=/token":              "2\n",
		"?path=/token&client=dev":   "1\n",
		"?path=/token&client=other": "0\n",
	} {
		if r := do(t, get(t, s.URL+"/_count"+query, "")); r.body != want {
			t.Errorf("count%s: %s", query, r.body)
		}
	}
	req := get(t, s.URL+"/_log", "")
	req.Method = "DELETE"
	if r := do(t, req); r.status != 204 || len(s.Requests()) != 0 || s.Count("/token") != 0 {
		t.Errorf("%d, then %d requests", r.status, len(s.Requests()))
	}
}
