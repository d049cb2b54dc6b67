package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// One key of each kind, made once.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := make(map[string]crypto.Signer)
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		keys[name] = key
	}
	for name, bits := range map[string]int{"RSA": 2048, "RSA-1024": 1024} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		keys[name] = key
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	keys["Ed25519"] = key
	return keys
})

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(key any) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pemText("PRIVATE KEY", der)
}

func pkcs1(key crypto.Signer) string {
	return pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey)))
}

func sec1(key crypto.Signer) string {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		panic(err)
	}
	return pemText("EC PRIVATE KEY", der)
}

// jwk writes a JWK by hand.
func jwk(key crypto.Signer, further map[string]any) string {
	b64 := base64.RawURLEncoding.EncodeToString
	members := make(map[string]any)
	switch key := key.(type) {
	case *rsa.PrivateKey:
		members["kty"], members["n"], members["e"], members["d"] = "RSA", b64(key.N.Bytes()), "AQAB", b64(key.D.Bytes())
		members["p"], members["q"] = b64(key.Primes[0].Bytes()), b64(key.Primes[1].Bytes())
	case *ecdsa.PrivateKey:
		point, _ := key.PublicKey.Bytes()
		d, _ := key.Bytes()
		half := (len(point) - 1) / 2
		members["kty"], members["crv"], members["d"] = "EC", key.Curve.Params().Name, b64(d)
		members["x"], members["y"] = b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PrivateKey:
		members["kty"], members["crv"], members["x"], members["d"] = "OKP", "Ed25519", b64(key[32:]), b64(key[:32])
	}
	for name, v := range further {
		if members[name] = v; v == nil {
			delete(members, name)
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// verified takes a compact JWS apart and verifies it with Go's crypto alone;
// key is the public one, or the bytes of a shared one.
func verified(t *testing.T, token string, key any) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no compact JWS", token)
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			t.Fatal(err)
		}
	}
	for i, into := range []*map[string]any{&header, &claims} {
		if err := json.Unmarshal(decoded[i], into); err != nil {
			t.Fatal(err)
		}
	}
	signed, signature := []byte(parts[0]+"."+parts[1]), decoded[2]
	alg, _ := header["alg"].(string)
	var hash crypto.Hash
	var sum []byte
	switch {
	case strings.HasSuffix(alg, "256"):
		s := sha256.Sum256(signed)
		hash, sum = crypto.SHA256, s[:]
	case strings.HasSuffix(alg, "384"):
		s := sha512.Sum384(signed)
		hash, sum = crypto.SHA384, s[:]
	case strings.HasSuffix(alg, "512"):
		s := sha512.Sum512(signed)
		hash, sum = crypto.SHA512, s[:]
	}
	good := false
	switch alg[:2] {
	case "RS":
		good = rsa.VerifyPKCS1v15(key.(*rsa.PublicKey), hash, sum, signature) == nil
	case "PS":
		good = rsa.VerifyPSS(key.(*rsa.PublicKey), hash, sum, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case "ES":
		half := (key.(*ecdsa.PublicKey).Curve.Params().BitSize + 7) / 8
		good = len(signature) == 2*half &&
			ecdsa.Verify(key.(*ecdsa.PublicKey), sum, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]))
	case "Ed":
		good = ed25519.Verify(key.(ed25519.PublicKey), signed, signature)
	case "HS":
		mac := hmac.New(sha256.New, key.([]byte))
		mac.Write(signed)
		good = alg == "HS256" && hmac.Equal(mac.Sum(nil), signature)
	}
	if !good {
		t.Fatalf("the signature of %q does not verify", token)
	}
	return header, claims
}

func TestKeysSignWhatGoVerifies(t *testing.T) {
	keys := testKeys()
	texts := make(map[string][]string)
	for _, kind := range []string{"RSA", "P-256", "P-384", "P-521", "Ed25519"} {
		texts[kind] = []string{pkcs8(keys[kind]), jwk(keys[kind], nil)}
	}
	texts["RSA"] = append(texts["RSA"], pkcs1(keys["RSA"]), "Bag Attributes\n  friendlyName: x\n"+strings.ReplaceAll(pkcs8(keys["RSA"]), "\n", "\r\n"),
		"\n  "+jwk(keys["RSA"], nil)+"\n")
	for _, kind := range []string{"P-256", "P-384", "P-521"} {
		texts[kind] = append(texts[kind], sec1(keys[kind]), pemText("EC PARAMETERS", []byte{6, 0})+sec1(keys[kind]))
	}
	for _, row := range []struct{ kind, alg, want string }{
		{"RSA", "", "RS256"},
		{"RSA", "RS256", "RS256"},
		{"RSA", "RS384", "RS384"},
		{"RSA", "RS512", "RS512"},
		{"RSA", "PS256", "PS256"},
		{"RSA", "PS384", "PS384"},
		{"RSA", "PS512", "PS512"},
		{"P-256", "", "ES256"},
		{"P-256", "ES256", "ES256"},
		{"P-384", "", "ES384"},
		{"P-384", "ES384", "ES384"},
		{"P-521", "", "ES512"},
		{"P-521", "ES512", "ES512"},
		{"Ed25519", "", "EdDSA"},
		{"Ed25519", "EdDSA", "EdDSA"},
	} {
		for _, text := range texts[row.kind] {
			for _, id := range []string{"", "key/1"} {
				k, err := ParseKey(NewSecret(text), id, row.alg)
				if err != nil {
					t.Fatalf("%s %s: %v", row.kind, row.alg, err)
				}
				token, err := k.Sign("", map[string]any{"iss": "a<b>&c", "n": 1})
				if err != nil {
					t.Fatal(err)
				}
				header, claims := verified(t, token, keys[row.kind].Public())
				want := map[string]any{"alg": row.want, "typ": "JWT"}
				if id != "" {
					want["kid"] = id
				}
				if diff := cmp.Diff(want, header); diff != "" || k.Algorithm() != row.want || k.ID() != id {
					t.Errorf("%s %s, %s, %q: %s", row.kind, row.alg, k.Algorithm(), k.ID(), diff)
				}
				if diff := cmp.Diff(map[string]any{"iss": "a<b>&c", "n": 1.0}, claims); diff != "" {
					t.Error(diff)
				}
			}
		}
	}
}

func TestJWKNamesItsIDAndAlgorithm(t *testing.T) {
	text := NewSecret(jwk(testKeys()["RSA"], map[string]any{"kid": "own", "alg": "PS384", "use": "sig"}))
	for _, row := range []struct{ id, alg, wantID, wantAlg string }{
		{"", "", "own", "PS384"},
		{"given", "", "given", "PS384"},
		{"", "RS512", "own", "RS512"},
	} {
		k, err := ParseKey(text, row.id, row.alg)
		if err != nil || k.ID() != row.wantID || k.Algorithm() != row.wantAlg {
			t.Errorf("%+v: %v, %v", row, k, err)
		}
	}
}

// The key of RFC 8037 appendix A.
const rfc8037 = `{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`

func TestPublicHalfAndThumbprint(t *testing.T) {
	k, err := ParseKey(NewSecret(rfc8037), "id-1", "")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "id-1", "alg": "EdDSA", "use": "sig"}
	if diff := cmp.Diff(want, k.Public()); diff != "" {
		t.Error(diff)
	}
	if got := k.Thumbprint(); got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("got %s", got)
	}
	for kind, key := range testKeys() {
		if kind == "P-224" || kind == "RSA-1024" {
			continue
		}
		k, err := ParseKey(NewSecret(pkcs8(key)), "", "")
		if err != nil {
			t.Fatal(err)
		}
		for name := range k.Public() {
			if strings.Contains(" d p q dp dq qi oth k kid ", " "+name+" ") {
				t.Errorf("the public half of a %s key has %s", kind, name)
			}
		}
	}
}

func TestKeyIsReadBackFromItsJWK(t *testing.T) {
	made := make(map[string]*Key)
	for _, alg := range []string{"ES256", "EdDSA"} {
		k, err := NewKey(alg)
		if err != nil {
			t.Fatal(err)
		}
		made[alg] = k
	}
	var err error
	if made["PS256"], err = ParseKey(NewSecret(pkcs1(testKeys()["RSA"])), "id", "PS256"); err != nil {
		t.Fatal(err)
	}
	for alg, k := range made {
		again, err := ParseKey(k.JWK(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if again.Algorithm() != alg || again.ID() != k.ID() || again.Thumbprint() != k.Thumbprint() || again.JWK() != k.JWK() {
			t.Errorf("%s is read back as %s %q", alg, again.Algorithm(), again.ID())
		}
		token, err := again.Sign("x", nil)
		if err != nil {
			t.Fatal(err)
		}
		verified(t, token, k.private.Public())
	}
	if _, err := NewKey("RS256"); err == nil || err.Error() != "keys are made for ES256 and EdDSA only" {
		t.Errorf("got %v", err)
	}
	if a, b := made["ES256"].Thumbprint(), made["EdDSA"].Thumbprint(); a == b {
		t.Error("two keys are one")
	}
}

func TestSigningWhatIsNoJSON(t *testing.T) {
	k, err := NewKey("EdDSA")
	if err != nil {
		t.Fatal(err)
	}
	if token, err := k.Sign("", map[string]any{"c": make(chan int)}); err == nil || token != "" {
		t.Errorf("got %q, %v", token, err)
	}
}

const (
	openssl     = "run: openssl pkey -in KEY -out NEWKEY"
	makeRSA     = "make another and register that: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out NEWKEY"
	otherType   = "the key is none of RSA, EC (P-256, P-384, P-521) and Ed25519"
	damagedPEM  = "the key in the PEM text is damaged, or none of RSA, EC (P-256, P-384, P-521) and Ed25519"
	damagedJWK  = "the JWK is damaged, or its key is none of RSA up to 4096 bits, EC (P-256, P-384, P-521) and Ed25519"
	damagedText = "the PEM text is damaged: its lines are not BEGIN, base64, END"
	noAlgorithm = "the algorithm is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"
)

type keyRefusal struct{ name, text, alg, want string }

func keyRefusals() []keyRefusal {
	keys := testKeys()
	rsaKey, p256, ed := keys["RSA"], keys["P-256"], keys["Ed25519"]
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	dsa, err := asn1.Marshal(struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}{0, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}}, []byte{2, 1, 5}})
	if err != nil {
		panic(err)
	}
	public, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		panic(err)
	}
	legacy := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("sealed"),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,A35385D71277E9646242FF7421A7FC64"}}))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	otherD, err := other.Bytes()
	if err != nil {
		panic(err)
	}
	whole := pkcs8(rsaKey)
	lines := strings.SplitAfter(whole, "\n")
	return []keyRefusal{
		{"nothing", "", "", "the key is empty"},
		{"white space", " \n", "", "the key is empty"},
		{"a word", "hunter2-correct-horse", "", "the key is neither PEM nor a JWK"},
		{"base64 alone", strings.Join(lines[1:len(lines)-2], ""), "", "the key is neither PEM nor a JWK"},
		{"encrypted PKCS#8", pemText("ENCRYPTED PRIVATE KEY", []byte("sealed")), "", "the key is encrypted; " + openssl},
		{"encrypted, Proc-Type", legacy, "", "the key is encrypted; " + openssl},
		{"OpenSSH RSA", pemText("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00\x00\x00\x00\x07ssh-rsa")), "", "the key is in OpenSSH's own format; run: cp KEY NEWKEY && ssh-keygen -p -m PKCS8 -N '' -f NEWKEY"},
		{"OpenSSH Ed25519", pemText("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00\x00\x00\x00\x0bssh-ed25519")), "", "the key is in OpenSSH's own format; make another and register that: openssl genpkey -algorithm ed25519 -out NEWKEY"},
		{"public key", pemText("PUBLIC KEY", public), "", "this is a public key; give the private one"},
		{"public PKCS#1 key", pemText("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(rsaKey.Public().(*rsa.PublicKey))), "", "this is a public key; give the private one"},
		{"certificate", systemCA.pem, "", "this is a certificate; give the private key that belongs to it"},
		{"certificate request", pemText("CERTIFICATE REQUEST", []byte("x")), "", "this is a certificate; give the private key that belongs to it"},
		{"PGP", pemText("PGP PRIVATE KEY BLOCK", []byte("x")), "", "the PEM block is no private key in PKCS#1, PKCS#8 or SEC1"},
		{"EC parameters alone", pemText("EC PARAMETERS", []byte{6, 0}), "", "the PEM block is no private key in PKCS#1, PKCS#8 or SEC1"},
		{"key and certificate", whole + systemCA.pem, "", "there are 2 PEM blocks where one private key is wanted; " + openssl},
		{"two keys", whole + sec1(p256), "", "there are 2 PEM blocks where one private key is wanted; " + openssl},
		{"1024 bits", pkcs1(keys["RSA-1024"]), "", "the RSA key has 1024 bits, fewer than 2048 (RFC 7518 section 3.3); " + makeRSA},
		{"1024 bits, JWK", jwk(keys["RSA-1024"], nil), "", "the RSA key has 1024 bits, fewer than 2048 (RFC 7518 section 3.3); " + makeRSA},
		{"DSA PKCS#8", pemText("PRIVATE KEY", dsa), "", "the key is a DSA key, which signs no JWT; " + makeRSA},
		{"DSA", pemText("DSA PRIVATE KEY", []byte{0x30, 0}), "", "the key is a DSA key, which signs no JWT; " + makeRSA},
		{"X25519", pkcs8(x25519), "", otherType},
		{"P-224", sec1(keys["P-224"]), "", otherType},
		{"cut off", whole[:len(whole)/2], "", damagedText},
		{"no base64", strings.Replace(whole, lines[3], "hunter2?correct!horse\n", 1), "", damagedText},
		{"first of two damaged", strings.Replace(whole, lines[3], "?\n", 1) + sec1(p256), "", damagedText},
		{`\n for line breaks`, strings.ReplaceAll(whole, "\n", `\n`), "", `the PEM text has \n where its lines end; write line breaks there`},
		{"a line is missing", strings.Replace(whole, lines[3], "", 1), "", damagedPEM},
		{"other DER", pemText("PRIVATE KEY", []byte{0x30, 3, 2, 1, 0}), "", damagedPEM},
		{"no such algorithm", whole, "hunter2", noAlgorithm},
		{"HS256", whole, "HS256", noAlgorithm},
		{"none", whole, "none", noAlgorithm},
		{"algorithm in lower case", whole, "rs256", noAlgorithm},
		{"no such algorithm, JWK", jwk(rsaKey, map[string]any{"alg": "hunter2"}), "", noAlgorithm},
		{"RSA and ES256", whole, "ES256", "ES256 does not go with an RSA key, only RS256, RS384, RS512, PS256, PS384, PS512"},
		{"P-256 and ES384", pkcs8(p256), "ES384", "ES384 does not go with an EC key on P-256, only ES256"},
		{"P-384 and RS256", pkcs8(keys["P-384"]), "RS256", "RS256 does not go with an EC key on P-384, only ES384"},
		{"P-521 and EdDSA", jwk(keys["P-521"], map[string]any{"alg": "EdDSA"}), "", "EdDSA does not go with an EC key on P-521, only ES512"},
		{"Ed25519 and PS512", jwk(ed, nil), "PS512", "PS512 does not go with an Ed25519 key, only EdDSA"},
		{"symmetric JWK", `{"kty":"oct","k":"aHVudGVyMi1jb3JyZWN0LWhvcnNl"}`, "", "the JWK is symmetric; a secret that is shared with the server is no private key, and is used by client_secret_jwt"},
		{"public JWK", jwk(p256, map[string]any{"d": nil}), "", "the JWK is a public key; give the private one"},
		{"JWK set", `{"keys":[` + jwk(p256, nil) + `]}`, "", "this is a JWK set; give one of the keys in it"},
		{"JSON, no JWK", `{"type":"service_account","private_key":"hunter2"}`, "", "this is JSON, but no JWK: it has no kty"},
		{"JWK for encryption", jwk(rsaKey, map[string]any{"use": "enc"}), "", "the JWK is not for signatures (its use is not sig)"},
		{"JWK of another type", `{"kty":"hunter2","d":"aGk"}`, "", otherType},
		{"JWK on another curve of OKP", `{"kty":"OKP","crv":"X25519","d":"aGk","x":"aGk"}`, "", otherType},
		{"JWK on another curve", `{"kty":"EC","crv":"hunter2","d":"aGk","x":"aGk","y":"aGk"}`, "", damagedJWK},
		{"JWK with bad base64", jwk(rsaKey, map[string]any{"p": "?hunter2?"}), "", damagedJWK},
		{"JWK that lacks p", jwk(rsaKey, map[string]any{"p": nil}), "", damagedJWK},
		{"JWK with a number for kid", jwk(rsaKey, map[string]any{"kid": 7}), "", damagedJWK},
		{"JWK with d of another", jwk(p256, map[string]any{"d": base64.RawURLEncoding.EncodeToString(otherD)}), "", "the key is damaged: its private half does not fit its public half"},
		{"cut off JWK", jwk(rsaKey, nil)[:99], "", "the JWK is damaged: it is not one JSON object that has each name once"},
		{"a name twice", `{"kty":"RSA","kty":"oct"}`, "", "the JWK is damaged: it is not one JSON object that has each name once"},
	}
}

func TestKeyRefusals(t *testing.T) {
	for _, row := range keyRefusals() {
		k, err := ParseKey(NewSecret(row.text), "", row.alg)
		if k != nil || err == nil || err.Error() != row.want {
			t.Errorf("%s: got %v, %v, want %s", row.name, k, err, row.want)
		}
	}
}

func TestKeyPrintsAsRedacted(t *testing.T) {
	k, err := ParseKey(NewSecret(rfc8037), "hunter2", "")
	if err != nil {
		t.Fatal(err)
	}
	c := Client{Key: k, DPoP: NewDPoP(k)}
	seed := k.private.(ed25519.PrivateKey)[:32]
	leaks := []string{"nWGxne", "hunter2", fmt.Sprintf("%x", seed[:8]), fmt.Sprintf("%X", seed[:8]), fmt.Sprint(seed[:8])[1:20]}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T%v", "%10.3s"} {
		for _, v := range []any{k, []*Key{k}, map[string]*Key{"k": k}, c, &c, c.DPoP} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
	}
	for _, v := range []any{k, c, c.DPoP} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		printed.Write(data)
		slog.New(slog.NewTextHandler(&printed, nil)).Info("m", "k", v)
		slog.New(slog.NewJSONHandler(&printed, nil)).Info("m", "k", v)
	}
	for _, leak := range leaks {
		if strings.Contains(printed.String(), leak) {
			t.Errorf("%s was printed", leak)
		}
	}
	if got := fmt.Sprintf("%v %#v %x", k, k, k); got != "[redacted] [redacted] [redacted]" || k.String() != redacted || k.GoString() != redacted {
		t.Errorf("got %s", got)
	}
	if text, err := k.MarshalText(); err != nil || string(text) != redacted {
		t.Errorf("got %s, %v", text, err)
	}
	if got := fmt.Sprintf("%v %+v", Client{}, &Client{}); strings.Contains(got, "PANIC") {
		t.Errorf("a client without a key prints %s", got)
	}
}

var digits = regexp.MustCompile(`[0-9]+ (bits|PEM)`)

// Whatever the text, a key comes out that signs, or one of the refusals above,
// which are the same for every text.
func FuzzParseKey(f *testing.F) {
	refusals := make(map[string]bool)
	for _, row := range keyRefusals() {
		f.Add(row.text, row.alg)
		refusals[digits.ReplaceAllString(row.want, "N $1")] = true
	}
	for _, key := range testKeys() {
		f.Add(pkcs8(key), "")
		f.Add(jwk(key, nil), "")
	}
	f.Fuzz(func(t *testing.T, text, alg string) {
		k, err := ParseKey(NewSecret(text), "", alg)
		if err != nil {
			mismatch := strings.Contains(err.Error(), " does not go with ")
			if k != nil || !mismatch && !refusals[digits.ReplaceAllString(err.Error(), "N $1")] {
				t.Fatalf("%v, %v", k, err)
			}
			return
		}
		token, err := k.Sign("", nil)
		if err != nil {
			t.Fatal(err)
		}
		verified(t, token, k.private.Public())
		if _, err := ParseKey(k.JWK(), "", ""); err != nil {
			t.Fatal(err)
		}
	})
}
