package authserver

import (
	"crypto"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// proofFor makes proofs with a key; a change of nil removes a claim.
func proofFor(t *testing.T, alg jose.SignatureAlgorithm, key crypto.Signer, method, to string, change map[string]any) string {
	t.Helper()
	now := time.Now()
	claims := map[string]any{"jti": fmt.Sprint(now.UnixNano()), "htm": method, "htu": to, "iat": now.Unix()}
	return signJWT(t, alg, key, map[jose.HeaderKey]any{"typ": "dpop+jwt", "jwk": jose.JSONWebKey{Key: key.Public()}}, changed(claims, change))
}

func athOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return b64.EncodeToString(sum[:])
}

func withProof(req *http.Request, proofs ...string) *http.Request {
	for _, p := range proofs {
		req.Header.Add("DPoP", p)
	}
	return req
}

func TestDPoP(t *testing.T) {
	for _, alg := range signatureAlgorithms {
		key := keyFor(t, alg)
		for _, opaque := range []bool{true, false} {
			c := dev
			c.Opaque = opaque
			s := Start(t, Config{Clients: []Client{c}})
			got := wantTokens(t, send(s, withProof(tokenRequest(t, s), proofFor(t, alg, key, "POST", s.TokenURL, nil))))
			if got.Type != "DPoP" {
				t.Errorf("%s: %+v", alg, got)
			}
			jwk := jose.JSONWebKey{Key: key.Public()}
			thumbprint, err := jwk.Thumbprint(crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			m := send(s, withProof(get(t, s.ResourceURL+"?x=1", "DPoP "+got.Access),
				proofFor(t, alg, key, "GET", s.ResourceURL, map[string]any{"ath": athOf(got.Access)}))).json(t)
			if want := fmt.Sprint(map[string]any{"jkt": b64.EncodeToString(thumbprint)}); fmt.Sprint(m["cnf"]) != want {
				t.Errorf("%s: %v, want cnf %s", alg, m, want)
			}
			m = sendForm(t, s, "/introspect", basic("dev", secret), url.Values{"token": {got.Access}}).json(t)
			if m["token_type"] != "DPoP" || m["cnf"] == nil {
				t.Errorf("%s: introspection: %v", alg, m)
			}
		}
	}
}

func TestProofRefusals(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev, {ID: "bound", Secret: secret, RequireDPoP: true}}})
	key := keyFor(t, jose.ES256)
	now := time.Now()
	jwk := jose.JSONWebKey{Key: key.Public()}
	claims := map[string]any{"jti": "j", "htm": "POST", "htu": s.TokenURL, "iat": now.Unix()}
	header := func(typ string, jwk any) map[jose.HeaderKey]any {
		return map[jose.HeaderKey]any{"typ": jose.ContentType(typ), "jwk": jwk}
	}
	proofs := map[string]string{
		"another typ":   signJWT(t, jose.ES256, key, header("JWT", jwk), claims),
		"no jwk":        signJWT(t, jose.ES256, key, map[jose.HeaderKey]any{"typ": "dpop+jwt"}, claims),
		"a private jwk": signJWT(t, jose.ES256, key, header("dpop+jwt", jose.JSONWebKey{Key: key}), claims),
		"another jwk":   signJWT(t, jose.ES256, key, header("dpop+jwt", jose.JSONWebKey{Key: keyFor(t, jose.ES256).Public()}), claims),
		"HMAC":          signJWT(t, jose.HS256, make([]byte, 32), header("dpop+jwt", jose.JSONWebKey{Key: make([]byte, 32)}), claims),
		"no JWT":        "x",
	}
	for _, change := range []map[string]any{
		{"htm": "GET"}, {"htm": nil}, {"htu": s.Issuer + "/resource"}, {"htu": s.TokenURL + "?x=1"}, {"htu": nil},
		{"iat": nil}, {"iat": from(now, -2*time.Minute)}, {"iat": from(now, time.Minute)}, {"jti": nil}, {"jti": 1},
	} {
		proofs[fmt.Sprint(change)] = proofFor(t, jose.ES256, key, "POST", s.TokenURL, change)
	}
	for name, proof := range proofs {
		wantError(t, name, send(s, withProof(tokenRequest(t, s), proof)), 400, "invalid_dpop_proof")
	}
	good := proofFor(t, jose.ES256, key, "POST", s.TokenURL, nil)
	wantError(t, "two proofs", send(s, withProof(tokenRequest(t, s), good, good)), 400, "invalid_dpop_proof")
	wantTokens(t, send(s, withProof(tokenRequest(t, s), good)))
	wantError(t, "replay", send(s, withProof(tokenRequest(t, s), good)), 400, "invalid_dpop_proof")

	bound := post(t, s.TokenURL, basic("bound", secret), "grant_type=client_credentials")
	wantError(t, "none, but due", send(s, bound), 400, "invalid_dpop_proof")
	if got := wantTokens(t, send(s, tokenRequest(t, s))); got.Type != "Bearer" {
		t.Errorf("none: %+v", got)
	}
}

func TestResourceWantsProof(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}})
	key, foreign := keyFor(t, jose.ES256), keyFor(t, jose.ES256)
	token := wantTokens(t, send(s, withProof(tokenRequest(t, s), proofFor(t, jose.ES256, key, "POST", s.TokenURL, nil)))).Access
	bearer := accessToken(t, tokenRequest(t, s))
	proof := func(key crypto.Signer, change map[string]any) string {
		return proofFor(t, jose.ES256, key, "GET", s.ResourceURL, changed(map[string]any{"ath": athOf(token)}, change))
	}
	const tail = ` algs="RS256 PS256 ES256 EdDSA"`
	metadata := `resource_metadata="` + s.URL + `/.well-known/oauth-protected-resource/resource"`
	for _, tt := range []struct {
		name, authorization, proof, challenge string
	}{
		{"Bearer", "Bearer " + token, "", `DPoP error="invalid_token", error_description="the token is for the scheme DPoP", ` + metadata + "," + tail},
		{"DPoP for a bearer token", "DPoP " + bearer, proof(key, map[string]any{"ath": athOf(bearer)}), `Bearer error="invalid_token", error_description="the token is for the scheme Bearer", ` + metadata},
		{"no proof", "DPoP " + token, "", `DPoP error="invalid_token", error_description="no proof with the token's key", ` + metadata + "," + tail},
		{"another key", "DPoP " + token, proof(foreign, nil), `DPoP error="invalid_token", error_description="no proof with the token's key", ` + metadata + "," + tail},
		{"another token", "DPoP " + token, proof(key, map[string]any{"ath": athOf(bearer)}), `DPoP error="invalid_dpop_proof", error_description="ath is not the token's", ` + metadata + "," + tail},
		{"no ath", "DPoP " + token, proof(key, map[string]any{"ath": nil}), `DPoP error="invalid_dpop_proof", error_description="ath is not the token's", ` + metadata + "," + tail},
	} {
		req := get(t, s.ResourceURL, tt.authorization)
		if tt.proof != "" {
			withProof(req, tt.proof)
		}
		if r := send(s, req); r.status != 401 || r.header.Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s: %d\n%s\n%s", tt.name, r.status, r.header.Get("WWW-Authenticate"), tt.challenge)
		}
	}
	if r := send(s, withProof(get(t, s.ResourceURL, "dpop "+token), proof(key, nil))); r.status != 200 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestNonce(t *testing.T) {
	s := Start(t, Config{Clients: []Client{dev}, DPoPNonce: true})
	key := keyFor(t, jose.ES256)
	ask := func(nonce any) reply {
		return send(s, withProof(tokenRequest(t, s), proofFor(t, jose.ES256, key, "POST", s.TokenURL, map[string]any{"nonce": nonce})))
	}
	r := ask(nil)
	wantError(t, "no nonce", r, 400, "use_dpop_nonce")
	nonce := r.header.Get("DPoP-Nonce")
	wantError(t, "another nonce", ask("guess"), 400, "use_dpop_nonce")
	r = ask(nonce)
	token := wantTokens(t, r).Access
	if r.header.Get("DPoP-Nonce") != nonce {
		t.Errorf("on success: %v", r.header)
	}
	if r := do(t, post(t, s.URL+"/_control", "", `{"rotate_nonce":true}`)); r.status != 204 {
		t.Fatal(r.status)
	}
	r = ask(nonce)
	wantError(t, "the last nonce", r, 400, "use_dpop_nonce")
	wantTokens(t, ask(r.header.Get("DPoP-Nonce")))

	// The resource has its own.
	ask2 := func(nonce any) reply {
		return send(s, withProof(get(t, s.ResourceURL, "DPoP "+token),
			proofFor(t, jose.ES256, key, "GET", s.ResourceURL, map[string]any{"nonce": nonce, "ath": athOf(token)})))
	}
	first := ask2(r.header.Get("DPoP-Nonce"))
	wantError(t, "the authorization server's nonce", first, 401, "use_dpop_nonce")
	if r := ask2(first.header.Get("DPoP-Nonce")); r.status != 200 {
		t.Errorf("%d %s", r.status, r.body)
	}
	// Who sends no proof needs no nonce.
	wantTokens(t, send(s, tokenRequest(t, s)))
}

func TestRefreshIsBoundToTheKey(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app, {ID: "dev", Secret: secret, RefreshAlways: true}}})
	key, foreign := keyFor(t, jose.ES256), keyFor(t, jose.ES256)
	proof := func(key crypto.Signer) string { return proofFor(t, jose.ES256, key, "POST", s.TokenURL, nil) }
	request := func(form url.Values, authorization string) *http.Request {
		return post(t, s.TokenURL, authorization, form.Encode())
	}
	code := consent(t, s, authorizationOf("app")).Get("code")
	first := wantTokens(t, send(s, withProof(request(redemption("app", code), ""), proof(key))))
	again := refreshing("app", first.Refresh)
	wantError(t, "another key", send(s, withProof(request(again, ""), proof(foreign))), 400, "invalid_grant")
	wantError(t, "no proof", send(s, request(again, "")), 400, "invalid_grant")
	if got := wantTokens(t, send(s, withProof(request(again, ""), proof(key)))); got.Type != "DPoP" {
		t.Errorf("%+v", got)
	}
	// RFC 9449 5: a client that proves itself may change its key.
	machine := wantTokens(t, send(s, withProof(request(url.Values{"grant_type": {"client_credentials"}}, basic("dev", secret)), proof(key))))
	wantTokens(t, send(s, withProof(request(refreshing("dev", machine.Refresh), basic("dev", secret)), proof(foreign))))
}

func TestCodeIsBoundToTheKey(t *testing.T) {
	s := Start(t, Config{Clients: []Client{app}})
	key, foreign := keyFor(t, jose.ES256), keyFor(t, jose.ES256)
	jwk := jose.JSONWebKey{Key: key.Public()}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	jkt := b64.EncodeToString(thumbprint)
	form := with(authorizationOf("app"), map[string]string{"dpop_jkt": jkt})
	redeem := func(code string, key crypto.Signer) reply {
		return send(s, withProof(post(t, s.TokenURL, "", redemption("app", code).Encode()), proofFor(t, jose.ES256, key, "POST", s.TokenURL, nil)))
	}
	code := consent(t, s, form).Get("code")
	wantError(t, "another key", redeem(code, foreign), 400, "invalid_grant")
	wantTokens(t, redeem(code, key))

	// A proof with the pushed request says the same.
	push := func(form url.Values, key crypto.Signer) reply {
		return send(s, withProof(post(t, s.Issuer+"/par", "", form.Encode()), proofFor(t, jose.ES256, key, "POST", s.Issuer+"/par", nil)))
	}
	wantError(t, "dpop_jkt of another key", push(form, foreign), 400, "invalid_dpop_proof")
	uri, _ := push(authorizationOf("app"), key).json(t)["request_uri"].(string)
	code = consent(t, s, url.Values{"client_id": {"app"}, "request_uri": {uri}}).Get("code")
	wantError(t, "another key than pushed", redeem(code, foreign), 400, "invalid_grant")
	wantTokens(t, redeem(code, key))
}
