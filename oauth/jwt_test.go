package oauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func jwtOf(header, claims string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestJWTClaims(t *testing.T) {
	const rs256 = `{"alg":"RS256"}`
	got, ok := JWTClaims(jwtOf(rs256, `{"sub":"é","exp":1800000000,"big":123456789012345678901234567890,"aud":["a","b"],"x":{"y":null},"none":[]}`))
	want := map[string]any{"sub": "é", "exp": json.Number("1800000000"), "big": json.Number("123456789012345678901234567890"), "aud": []any{"a", "b"}, "x": map[string]any{"y": nil}, "none": []any{}}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Error(diff)
	}
	if got, ok := JWTClaims(jwtOf(rs256, `{}`)); len(got) != 0 || !ok {
		t.Errorf("no claims: %v, %v", got, ok)
	}
	good := jwtOf(rs256, `{}`)
	for name, token := range map[string]string{
		"empty":             "",
		"opaque":            "2YotnFZFEjr1zCsicMWpAA",
		"opaque with dots":  "ya29.a0AfB_by.C7",
		"two parts":         strings.TrimSuffix(good, ".c2ln"),
		"no signature":      strings.TrimSuffix(good, "c2ln"),
		"five parts":        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..a.b.c",
		"alg none":          jwtOf(`{"alg":"none"}`, `{}`),
		"alg NoNe":          jwtOf(`{"alg":"NoNe"}`, `{}`),
		"no alg":            jwtOf(`{"typ":"JWT"}`, `{}`),
		"alg a number":      jwtOf(`{"alg":1}`, `{}`),
		"header no JSON":    jwtOf("alg", `{}`),
		"claims no object":  jwtOf(rs256, `["a"]`),
		"claims cut off":    jwtOf(rs256, `{"a":`),
		"claims twice":      jwtOf(rs256, `{"a":1,"a":2}`),
		"claims not UTF-8":  jwtOf(rs256, "{\"a\":\"\xff\"}"),
		"claims too deep":   jwtOf(rs256, `{"x":`+strings.Repeat("[", 16)+strings.Repeat("]", 16)+`}`),
		"padding":           strings.Replace(good, ".", "=.", 1),
		"standard alphabet": "eyJhbGciOiJSUzI1NiJ9." + base64.RawStdEncoding.EncodeToString([]byte(`{"a":"???>>>"}`)) + ".c2ln",
		"line break":        good[:4] + "\n" + good[4:],
		"too large":         jwtOf(rs256, `{"a":"`+strings.Repeat("x", 64<<10)+`"}`),
	} {
		if got, ok := JWTClaims(token); ok || got != nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// What comes out is what encoding/json reads in the middle part.
func FuzzJWTClaims(f *testing.F) {
	f.Add(jwtOf(`{"alg":"RS256"}`, `{"exp":1.5e3,"aud":["a"],"x":{"y":null}}`))
	f.Add(jwtOf(`{"alg":"none"}`, `{}`))
	f.Add(jwtOf(`{"alg":"RS256"}`, `{"x":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}`))
	f.Add("..")
	f.Add("a.b.c.d.e")
	f.Fuzz(func(t *testing.T, token string) {
		claims, ok := JWTClaims(token)
		if !ok {
			if claims != nil {
				t.Fatal("claims of what is no JWT")
			}
			return
		}
		data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, claims); diff != "" {
			t.Fatal(diff)
		}
	})
}
