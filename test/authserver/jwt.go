package authserver

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

var b64 = base64.RawURLEncoding

// signingKey signs JWT access tokens (RFC 9068), verifies its own, and signs ID
// tokens.
type signingKey struct {
	alg     string
	id      string
	private crypto.Signer // *rsa.PrivateKey for RS256, ed25519.PrivateKey for EdDSA
}

func newSigningKey(alg string) (signingKey, error) {
	k := signingKey{alg: alg}
	switch alg {
	case "", "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return signingKey{}, err
		}
		k.alg, k.private = "EdDSA", private
	case "RS256":
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return signingKey{}, err
		}
		k.private = private
	default:
		return signingKey{}, fmt.Errorf("signing with %q: want EdDSA or RS256", alg)
	}
	id := make([]byte, 8)
	rand.Read(id)
	k.id = hex.EncodeToString(id)
	return k, nil
}

// jwk is the public key by RFC 7517.
func (k signingKey) jwk() map[string]string {
	m := map[string]string{"kid": k.id, "use": "sig", "alg": k.alg}
	switch public := k.private.Public().(type) {
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64.EncodeToString(public)
	case *rsa.PublicKey:
		m["kty"] = "RSA"
		m["n"] = b64.EncodeToString(public.N.Bytes())
		m["e"] = b64.EncodeToString(big.NewInt(int64(public.E)).Bytes())
	}
	return m
}

// accessTokenHeader is the typ of RFC 9068 2.1.
const accessTokenHeader = "at+jwt"

type jwtHeader struct {
	Alg  string `json:"alg"`
	Type string `json:"typ"`
	Key  string `json:"kid"`
}

func (k signingKey) sign(typ string, claims any) string {
	header, err := json.Marshal(jwtHeader{k.alg, typ, k.id})
	if err != nil {
		panic(err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed := b64.EncodeToString(header) + "." + b64.EncodeToString(body)
	message, hash := []byte(signed), crypto.Hash(0)
	if k.alg == "RS256" {
		digest := sha256.Sum256(message)
		message, hash = digest[:], crypto.SHA256
	}
	signature, err := k.private.Sign(rand.Reader, message, hash)
	if err != nil {
		panic(err)
	}
	return signed + "." + b64.EncodeToString(signature)
}

// verify returns the claims of a JWT that this key signed. It looks at no
// claim.
func (k signingKey) verify(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errors.New("not a token of this server")
	}
	var header jwtHeader
	if err := decodePart(parts[0], &header); err != nil {
		return claims{}, err
	}
	// The algorithm is the key's, whatever the token says (RFC 8725 3.1).
	if header != (jwtHeader{k.alg, accessTokenHeader, k.id}) {
		return claims{}, errors.New("not signed as this server signs")
	}
	signature, err := b64.Strict().DecodeString(parts[2])
	if err != nil {
		return claims{}, err
	}
	message := []byte(parts[0] + "." + parts[1])
	ok := false
	switch public := k.private.Public().(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(public, message, signature)
	case *rsa.PublicKey:
		digest := sha256.Sum256(message)
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	if !ok {
		return claims{}, errors.New("wrong signature")
	}
	var c claims
	if err := decodePart(parts[1], &c); err != nil {
		return claims{}, err
	}
	return c, nil
}

func decodePart(part string, v any) error {
	data, err := b64.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
