package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const minRSA = 2048 // bits (RFC 7518 section 3.3)

// A Key is a private key that signs JWTs. It prints as "[redacted]", as a
// [Secret] does.
type Key struct {
	private crypto.Signer // *rsa.PrivateKey, *ecdsa.PrivateKey or ed25519.PrivateKey
	id      string
	alg     jose.SignatureAlgorithm
	x5t     string // of the client's certificate; "": none
}

func (*Key) String() string               { return redacted }
func (*Key) GoString() string             { return redacted }
func (*Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (*Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (*Key) LogValue() slog.Value         { return slog.StringValue(redacted) }

// Format ignores verb and flags.
func (*Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// ParseKey reads a private key: PEM of PKCS#1, PKCS#8 or SEC1, or a JWK (RFC
// 7517). id is its kid and alg its algorithm (RFC 7518 section 3.1); empty, they
// are the JWK's, and alg the one that the key's type suggests. The error is one
// line that repeats nothing of text, and says what to run where that helps.
func ParseKey(text Secret, id, alg string) (*Key, error) {
	k := &Key{id: id, alg: jose.SignatureAlgorithm(alg)}
	var err error
	switch trimmed := strings.TrimSpace(text.Reveal()); {
	case trimmed == "":
		err = errors.New("the key is empty")
	case trimmed[0] == '{':
		err = k.readJWK(trimmed)
	case !strings.Contains(trimmed, begin):
		err = errors.New("the key is neither PEM nor a JWK")
	default:
		k.private, err = parsePEM(trimmed)
	}
	if err != nil {
		return nil, err
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	return k, nil
}

// NewKey makes a key for alg: ES256 or EdDSA.
func NewKey(alg string) (*Key, error) {
	k := &Key{alg: jose.SignatureAlgorithm(alg)}
	var err error
	switch k.alg {
	case jose.ES256:
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, errors.New("keys are made for ES256 and EdDSA only")
	}
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return k, nil
}

// readJWK fills in k what is not given yet.
func (k *Key) readJWK(text string) error {
	members, err := decodeObject([]byte(text))
	if err != nil {
		return errors.New("the JWK is damaged: it is not one JSON object that has each name once")
	}
	switch _, private := members["d"]; {
	case members["keys"] != nil:
		return errors.New("this is a JWK set; give one of the keys in it")
	case members["kty"] == nil:
		return errors.New("this is JSON, but no JWK: it has no kty")
	case members["kty"] == "oct":
		return errors.New("the JWK is symmetric; a secret that is shared with the server is no private key, and is used by client_secret_jwt")
	case !private:
		return errors.New("the JWK is a public key; give the private one")
	case members["use"] != nil && members["use"] != "sig":
		return errors.New("the JWK is not for signatures (its use is not sig)")
	}
	var j jose.JSONWebKey
	if err := j.UnmarshalJSON([]byte(text)); err != nil {
		if errors.Is(err, jose.ErrUnsupportedKeyType) {
			return errOtherType
		}
		return errors.New("the JWK is damaged, or its key is none of RSA up to 4096 bits, EC (P-256, P-384, P-521) and Ed25519")
	}
	private, ok := j.Key.(crypto.Signer)
	if !ok {
		return errOtherType
	}
	if r, ok := private.(*rsa.PrivateKey); ok {
		r.Precompute()
	}
	k.private = private
	if k.id == "" {
		k.id = j.KeyID
	}
	if k.alg == "" {
		k.alg = jose.SignatureAlgorithm(j.Algorithm)
	}
	return nil
}

var errOtherType = errors.New("the key is none of RSA, EC (P-256, P-384, P-521) and Ed25519")

const (
	begin = "-----BEGIN "
	pkey  = "run: openssl pkey -in KEY -out NEWKEY"
)

// parsePEM reads the one private key in text.
func parsePEM(text string) (crypto.Signer, error) {
	var blocks []*pem.Block
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	// pem.Decode skips what it cannot read.
	switch begun := strings.Count(text, begin); {
	case begun == 0:
		return nil, errors.New("there is no PEM text")
	case begun != len(blocks) && strings.Contains(text, `\n`):
		return nil, errors.New(`the PEM text has \n where its lines end; write line breaks there`)
	case begun != len(blocks):
		return nil, errors.New("the PEM text is damaged: its lines are not BEGIN, base64, END")
	}
	// What openssl ecparam -genkey writes before the key says nothing new.
	if blocks[0].Type == "EC PARAMETERS" && len(blocks) > 1 {
		blocks = blocks[1:]
	}
	if len(blocks) > 1 {
		return nil, fmt.Errorf("there are %d PEM blocks where one private key is wanted; %s", len(blocks), pkey)
	}
	block := blocks[0]
	switch kind := block.Type; {
	case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"), kind == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the key is encrypted; " + pkey)
	case kind == "OPENSSH PRIVATE KEY" && bytes.Contains(block.Bytes, []byte("ssh-ed25519")):
		// Many versions of ssh-keygen write Ed25519 in no other format.
		return nil, errors.New("the key is in OpenSSH's own format; make another and register that: openssl genpkey -algorithm ed25519 -out NEWKEY")
	case kind == "OPENSSH PRIVATE KEY":
		return nil, errors.New("the key is in OpenSSH's own format; run: cp KEY NEWKEY && ssh-keygen -p -m PKCS8 -N '' -f NEWKEY")
	case kind == "DSA PRIVATE KEY":
		return nil, errDSA
	case strings.HasSuffix(kind, "PUBLIC KEY"):
		return nil, errors.New("this is a public key; give the private one")
	case strings.Contains(kind, "CERTIFICATE"):
		return nil, errors.New("this is a certificate; give the private key that belongs to it")
	case kind != "PRIVATE KEY" && kind != "RSA PRIVATE KEY" && kind != "EC PRIVATE KEY":
		return nil, errors.New("the PEM block is no private key in PKCS#1, PKCS#8 or SEC1")
	}
	if private, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return private, nil
	}
	if private, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return private, nil
	}
	if private, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if private, ok := private.(crypto.Signer); ok {
			return private, nil
		}
		return nil, errOtherType // X25519
	}
	var pkcs8 struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.RawValue
	}
	if _, err := asn1.Unmarshal(block.Bytes, &pkcs8); err == nil && pkcs8.Algorithm.Algorithm.Equal(oidDSA) {
		return nil, errDSA
	}
	return nil, errors.New("the key in the PEM text is damaged, or none of RSA, EC (P-256, P-384, P-521) and Ed25519")
}

var (
	oidDSA = asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}
	errDSA = errors.New("the key is a DSA key, which signs no JWT; make another and register that: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out NEWKEY")
)

// check fits key and algorithm to each other, chooses one where none is given,
// and tries it.
func (k *Key) check() error {
	var kind string
	var fit []jose.SignatureAlgorithm
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < minRSA {
			return fmt.Errorf("the RSA key has %d bits, fewer than %d (RFC 7518 section 3.3); make another and register that: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out NEWKEY", bits, minRSA)
		}
		kind, fit = "an RSA key", []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PrivateKey:
		switch private.Curve {
		case elliptic.P256():
			kind, fit = "an EC key on P-256", []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			kind, fit = "an EC key on P-384", []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			kind, fit = "an EC key on P-521", []jose.SignatureAlgorithm{jose.ES512}
		default:
			return errOtherType
		}
	case ed25519.PrivateKey:
		kind, fit = "an Ed25519 key", []jose.SignatureAlgorithm{jose.EdDSA}
	default:
		return errOtherType
	}
	if k.alg == "" {
		k.alg = fit[0]
	}
	if err := CheckAlgorithm(string(k.alg)); err != nil {
		return err
	}
	if !slices.Contains(fit, k.alg) {
		return fmt.Errorf("%s does not go with %s, only %s", k.alg, kind, list(fit))
	}
	// A JWK names both halves, which need not be of one key.
	token, err := k.Sign("", nil)
	if err == nil {
		var signed *jose.JSONWebSignature
		if signed, err = jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{k.alg}); err == nil {
			_, err = signed.Verify(k.private.Public())
		}
	}
	if err != nil {
		return errors.New("the key is damaged: its private half does not fit its public half")
	}
	return nil
}

// algorithms are those of RFC 7518 section 3.1 that have private keys, and that
// of RFC 8037.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// CheckAlgorithm says what is wrong with an alg for a private key.
func CheckAlgorithm(alg string) error {
	if !slices.Contains(algorithms, jose.SignatureAlgorithm(alg)) {
		return fmt.Errorf("the algorithm is none of %s", list(algorithms))
	}
	return nil
}

func list(algs []jose.SignatureAlgorithm) string {
	var b strings.Builder
	for i, alg := range algs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(alg))
	}
	return b.String()
}

// ID is the kid that JWTs signed with k carry; empty: none.
func (k *Key) ID() string { return k.id }

// ForCertificate is k for servers that find the client's certificate by its
// thumbprint, base64url of its SHA-256: JWTs carry it as x5t#S256 (RFC 7515
// section 4.1.8).
func (k *Key) ForCertificate(thumbprint string) *Key {
	certified := *k
	certified.x5t = thumbprint
	return &certified
}

// Algorithm is the alg that k signs with (RFC 7518 section 3.1).
func (k *Key) Algorithm() string { return string(k.alg) }

// Sign makes a JWT of claims, as a compact JWS (RFC 7515 section 3.1). An empty
// typ is "JWT".
func (k *Key) Sign(typ string, claims map[string]any) (string, error) {
	var more map[jose.HeaderKey]any
	if k.x5t != "" {
		more = map[jose.HeaderKey]any{"x5t#S256": k.x5t}
	}
	return signJWT(jose.SigningKey{Algorithm: k.alg, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}, typ, claims, more)
}

// signJWT is Sign for any key, with more in the header.
func signJWT(key jose.SigningKey, typ string, claims map[string]any, more map[jose.HeaderKey]any) (string, error) {
	if typ == "" {
		typ = "JWT"
	}
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	for name, v := range more {
		options = options.WithHeader(name, v)
	}
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return "", fmt.Errorf("signing a JWT: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("signing a JWT: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing a JWT: %w", err)
	}
	return signed.CompactSerialize()
}

// Public is the JWK of the public half, for a server to verify with.
func (k *Key) Public() map[string]any {
	text, err := jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}.MarshalJSON()
	members := make(map[string]any)
	if err != nil || json.Unmarshal(text, &members) != nil {
		panic("oauth: a key that has signed has no JWK")
	}
	return members
}

// Thumbprint is the SHA-256 of the public half as RFC 7638 has it, in base64url:
// what DPoP calls jkt (RFC 9449 section 6).
func (k *Key) Thumbprint() string {
	sum, err := (&jose.JSONWebKey{Key: k.private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		panic("oauth: a key that has signed has no thumbprint")
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// JWK is the whole key as a JWK, kid and alg included; [ParseKey] reads it back.
func (k *Key) JWK() Secret {
	text, err := jose.JSONWebKey{Key: k.private, KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}.MarshalJSON()
	if err != nil {
		panic("oauth: a key that has signed has no JWK")
	}
	return NewSecret(string(text))
}
