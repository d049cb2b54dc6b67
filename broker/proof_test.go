package broker_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/broker"
	"tokend/oauth"
	"tokend/test/authserver"
)

// bound is a house whose client needs a proof with each token request.
func bound(t *testing.T, change func(*authserver.Config)) *house {
	t.Helper()
	c := client(func(c *authserver.Client) { c.RequireDPoP = true })
	if change != nil {
		change(&c)
	}
	return newHouse(t, c)
}

// use shows a token to the server's resource, with a proof.
func (h *house) use(t *testing.T, token broker.Token, proof string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.server.ResourceURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", token.Type+" "+token.Access.Reveal())
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// proofs counts token requests, and how many of them had a proof.
func (h *house) proofs() (requests, proofs int) {
	for _, r := range h.server.Requests() {
		if r.Path == "/token" {
			requests++
			proofs += len(r.Header["Dpop"])
		}
	}
	return requests, proofs
}

func TestDPoP(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		dpop             string
		requests, proofs int
	}{
		{"on", 1, 1},
		{"auto", 2, 1},
	} {
		t.Run(test.dpop, func(t *testing.T) {
			h := bound(t, nil)
			h.put(t, "dev/network", h.interactive("OAUTH2_DPOP="+test.dpop))
			h.login(t, "dev/network")
			if requests, proofs := h.proofs(); requests != test.requests || proofs != test.proofs {
				t.Errorf("%d requests, %d with a proof", requests, proofs)
			}
			token := h.get(t, plain)
			if token.Type != "DPoP" {
				t.Errorf("got %v", token)
			}
			// The key survives: the refresh token may be bound to it.
			for range 2 {
				h.restart()
				h.server.Forget()
				token = h.get(t, plain)
				if requests, proofs := h.proofs(); requests != 1 || proofs != 1 {
					t.Errorf("after a restart %d requests, %d with a proof", requests, proofs)
				}
				proof, err := h.Proof(t.Context(), "dev/network", token.Access, "GET", h.server.ResourceURL, "")
				if err != nil {
					t.Fatal(err)
				}
				if status := h.use(t, token, proof); status != http.StatusOK {
					t.Errorf("the resource says %d", status)
				}
			}
			if status := h.use(t, token, ""); status != http.StatusUnauthorized {
				t.Errorf("without a proof the resource says %d", status)
			}
		})
	}
}

func TestDPoPOff(t *testing.T) {
	t.Parallel()
	h := bound(t, nil)
	h.put(t, "dev/network", h.text("OAUTH2_DPOP=off"))
	h.wantRefused(t, plain, 400, time.Minute)
	if requests, proofs := h.proofs(); requests != 1 || proofs != 0 {
		t.Errorf("%d requests, %d with a proof", requests, proofs)
	}
}

// A public client's refresh token is bound to its key (RFC 9449 section 5).
func TestDPoPKeyOfAPublicClient(t *testing.T) {
	t.Parallel()
	h := newHouse(t, authserver.Config{Clients: []authserver.Client{{ID: "client", Secret: secret}}})
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=on"))
	h.login(t, "dev/network")
	key := h.record(t, "dev/network")["dpop_key"]
	if s, _ := key.(string); !strings.Contains(s, `"d":`) {
		t.Errorf("no private key in the record")
	}
	h.move(t, "dev/network", "dev/other")
	if r := h.record(t, "dev/other"); r["dpop_key"] != key {
		t.Error("the key was not moved along")
	}
	if _, err := h.Revoke(t.Context(), "dev/other"); err != nil {
		t.Fatal(err)
	}
	h.put(t, "dev/other", h.interactive("OAUTH2_DPOP=on"))
	h.login(t, "dev/other")
	if r := h.record(t, "dev/other"); r["dpop_key"] == key {
		t.Error("the key is the same after a logout")
	}
}

// Where the server was found to want proofs, it is not asked without again.
func TestDPoPAutoIsRemembered(t *testing.T) {
	t.Parallel()
	h := bound(t, nil)
	h.put(t, "dev/network", h.text())
	h.get(t, plain)
	h.fresh()
	h.get(t, plain)
	h.get(t, broker.Request{Profile: "dev/network", Scopes: []string{"read"}})
	if requests, proofs := h.proofs(); requests != 4 || proofs != 3 {
		t.Errorf("%d requests, %d with a proof", requests, proofs)
	}
}

// A new secret and a proof that is wanted, in one fetch.
func TestDPoPAutoWithTheNextSecret(t *testing.T) {
	t.Parallel()
	h := bound(t, nil)
	h.put(t, "dev/network", strings.ReplaceAll(h.text("CLIENT_SECRET_NEXT="+secret), "CLIENT_SECRET="+secret, "CLIENT_SECRET=old-secret"))
	if got := h.get(t, plain); got.Type != "DPoP" {
		t.Errorf("got %v", got)
	}
}

func TestDPoPNonce(t *testing.T) {
	t.Parallel()
	h := bound(t, func(c *authserver.Config) { c.DPoPNonce = true })
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=on"))
	h.login(t, "dev/network")
	for range 2 {
		h.fresh()
		h.server.RotateNonce()
		h.get(t, plain)
	}
	if l := h.server.Ledger("client"); l.SpentTwice != 0 || l.Spent != 2 {
		t.Errorf("%+v", l)
	}
	if proof, err := h.Proof(t.Context(), "dev/network", h.get(t, plain).Access, "POST", "https://api.example/a?b", "the-nonce"); err != nil {
		t.Error(err)
	} else if claims, _ := oauth.JWTClaims(proof); claims["nonce"] != "the-nonce" || claims["htm"] != "POST" || claims["htu"] != "https://api.example/a" {
		t.Errorf("the proof has %v", claims)
	}
}

func TestProofIsRefused(t *testing.T) {
	t.Parallel()
	h := bound(t, nil)
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=on", "API_URL=https://api.example"))
	h.put(t, "other", h.interactive("OAUTH2_DPOP=on"))
	h.login(t, "dev/network")
	h.login(t, "other")
	token := h.get(t, plain)
	other := h.get(t, broker.Request{Profile: "other"})
	const good = "https://api.example/x"
	prove := func(access oauth.Secret, target string) error {
		_, err := h.Proof(t.Context(), "dev/network", access, "GET", target, "")
		return err
	}
	if err := prove(token.Access, good); err != nil {
		t.Fatal(err)
	}
	for name, access := range map[string]oauth.Secret{
		"another profile's": other.Access, "nobody's": oauth.NewSecret("x"), "none": {},
	} {
		if err := prove(access, good); !errors.Is(err, broker.ErrNotOurs) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	for _, target := range []string{
		"https://api.example:8443/x", "https://api.example.evil/x", "http://127.0.0.1/x", "https://evil.example/https://api.example/",
		"https://api.example@evil.example/", "api.example/x", "http://api.example/x", "",
	} {
		err := prove(token.Access, target)
		var place *broker.PlaceError
		if !errors.As(err, &place) {
			t.Errorf("%s: error is %v", target, err)
		}
	}
	for _, target := range []string{"https://API.example/x", "https://api.example:443/x", "https://api.example"} {
		if err := prove(token.Access, target); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	h.fresh()
	if err := prove(token.Access, good); !errors.Is(err, broker.ErrNotOurs) {
		t.Errorf("a token that has ended: error is %v", err)
	}
	if _, err := h.Revoke(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Proof(t.Context(), "other", other.Access, "GET", good, ""); !errors.Is(err, broker.ErrNotOurs) {
		t.Errorf("a token that was revoked: error is %v", err)
	}
}

func TestProofOfABearerToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.text())
	token := h.get(t, plain)
	if _, err := h.Proof(t.Context(), "dev/network", token.Access, "GET", "https://api.example/", ""); !errors.Is(err, broker.ErrNotOurs) {
		t.Errorf("error is %v", err)
	}
}

// A proof for an endpoint of the authorization server could be shown beside a
// stolen refresh token, however a lenient server lets the place be written.
func TestProofAtEndpoints(t *testing.T) {
	t.Parallel()
	h := bound(t, func(c *authserver.Config) {
		c.Metadata = map[string]any{"mtls_endpoint_aliases": map[string]any{"token_endpoint": "https://mtls.example/as/token"}}
	})
	// Of two endpoints the text's is in force, the other one still is the server's.
	h.put(t, "dev/network", h.interactive("OAUTH2_DPOP=on", "OAUTH2_REVOCATION_URL=https://as.example/as/revoke"))
	h.login(t, "dev/network")
	token := h.get(t, plain)
	port := h.server.URL[strings.LastIndex(h.server.URL, ":"):]
	for _, target := range []string{
		h.server.TokenURL, h.server.TokenURL + "/", h.server.TokenURL + "?a=b", h.server.TokenURL + "#a", h.server.TokenURL + "//",
		h.server.URL + "//token", h.server.URL + "/./token", h.server.URL + "/a/../token", h.server.URL + "/TOKEN", h.server.URL + "/%74oken",
		h.server.URL + "/a/%2e%2e/token", h.server.URL + "/token;a=b", h.server.URL + "/token;", h.server.URL + "/;a/token",
		"HTTP://127.0.0.1" + port + "/token",
		h.server.URL + "/authorize", h.server.URL + "/par", h.server.URL + "/device_authorization", h.server.URL + "/introspect",
		h.server.URL + "/revoke", "https://as.example/as/revoke", "https://as.example:443/as/revoke", "https://AS.example/as/revoke",
		"https://as.example./as/revoke", "https://as.example/as%2Frevoke", "https://mtls.example/as/token",
	} {
		_, err := h.Proof(t.Context(), "dev/network", token.Access, "POST", target, "")
		var place *broker.PlaceError
		if !errors.As(err, &place) {
			t.Errorf("%s: error is %v", target, err)
		}
	}
	for _, target := range []string{h.server.ResourceURL, h.server.URL + "/token/more", "https://as.example/", "https://as.example:8443/as/revoke"} {
		if _, err := h.Proof(t.Context(), "dev/network", token.Access, "POST", target, ""); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestIntrospect(t *testing.T) {
	t.Parallel()
	jwts := func(change func(*authserver.Client)) authserver.Config {
		return client(func(c *authserver.Client) {
			c.Opaque = false
			if change != nil {
				change(c)
			}
		})
	}
	refuse := authserver.Answer{Endpoint: "introspect", Error: "invalid_client"}
	for _, test := range []struct {
		name   string
		config authserver.Config
		lines  []string
		answer *authserver.Answer
		source broker.Source
		failed string
	}{
		{"by the server", client(nil), nil, nil, broker.SourceIntrospection, ""},
		{"by the server, though it is a JWT", jwts(nil), nil, nil, broker.SourceIntrospection, ""},
		{"the text names the endpoint", jwts(nil), []string{"OAUTH2_INTROSPECTION_URL=ISSUER/introspect"}, nil, broker.SourceIntrospection, ""},
		{"the server refuses", jwts(nil), nil, &refuse, broker.SourceJWT, ""},
		{"the server refuses, and the text insists", jwts(nil), []string{"OAUTH2_INTROSPECTION_URL=ISSUER/introspect"}, &refuse, 0, "invalid_client"},
		{"the server refuses, and it is opaque", client(nil), nil, &refuse, 0, "invalid_client"},
		{"the server fails", jwts(nil), nil, &authserver.Answer{Endpoint: "introspect", Status: 503}, 0, "HTTP 503"},
		{"no endpoint, a JWT", without(jwts(nil), "introspection_endpoint"), nil, nil, broker.SourceJWT, ""},
		{"no endpoint, opaque", without(client(nil), "introspection_endpoint"), nil, nil, broker.SourceNone, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, test.config)
			h.put(t, "dev/network", strings.ReplaceAll(h.interactive(test.lines...), "ISSUER/", h.server.Issuer+"/"))
			h.login(t, "dev/network")
			if test.answer != nil {
				h.server.AnyClient().Always(*test.answer)
			}
			got, err := h.Introspect(t.Context(), plain)
			if test.failed != "" {
				var answer *oauth.Error
				var refused *broker.RefusedError
				if !errors.As(err, &refused) || !errors.As(err, &answer) || !strings.Contains(err.Error(), test.failed) {
					t.Fatalf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Source != test.source || got.Active != (test.source != broker.SourceNone) || got.Token.Access != h.get(t, plain).Access {
				t.Errorf("got %+v", got)
			}
			if client := got.Claims["client_id"]; (client == "client") != (test.source != broker.SourceNone) {
				t.Errorf("the claims are %v", got.Claims)
			}
		})
	}
}

func without(c authserver.Config, endpoint string) authserver.Config {
	c.Metadata = map[string]any{endpoint: nil}
	return c
}

// What a JWT says of its end is believed as far as that.
func TestIntrospectJWTThatEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, without(client(nil), "introspection_endpoint"))
	key, err := oauth.NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	h.put(t, "dev/network", h.interactive())
	for _, test := range []struct {
		claims map[string]any
		active bool
	}{
		{map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, false},
		{map[string]any{"exp": time.Now().Add(time.Minute).Unix()}, true},
		{map[string]any{"sub": "x"}, true},
	} {
		jwt, err := key.Sign("", test.claims)
		if err != nil {
			t.Fatal(err)
		}
		h.server.AnyClient().Then(authserver.Answer{Set: map[string]any{"access_token": jwt}})
		h.login(t, "dev/network")
		got, err := h.Introspect(t.Context(), plain)
		if err != nil || got.Source != broker.SourceJWT || got.Active != test.active {
			t.Errorf("%v: %+v, %v", test.claims, got, err)
		}
	}
}

// It is about a token, and ends none.
func TestIntrospectInactive(t *testing.T) {
	t.Parallel()
	h := newHouse(t, client(nil))
	h.put(t, "dev/network", h.interactive())
	first := h.login(t, "dev/network")
	h.server.AnyClient().Always(authserver.Answer{Endpoint: "introspect", Status: 200, Body: `{"active":false,"exp":1}`})
	got, err := h.Introspect(t.Context(), plain)
	if err != nil || got.Active || got.Source != broker.SourceIntrospection {
		t.Errorf("got %+v, %v", got, err)
	}
	if diff := cmp.Diff(map[string]any{"active": false, "exp": json.Number("1")}, got.Claims); diff != "" {
		t.Error(diff)
	}
	if again := h.get(t, plain); again.Access != first.AccessToken || again.Degraded {
		t.Errorf("got %v", again)
	}
	requests := h.server.Requests()
	i := slices.IndexFunc(requests, func(r authserver.Request) bool { return r.Path == "/introspect" })
	if r := requests[i]; r.Form.Get("token") != first.AccessToken.Reveal() || r.Form.Get("token_type_hint") != "access_token" || r.Header.Get("Authorization") == "" {
		t.Errorf("asked with %+v", r)
	}
}
