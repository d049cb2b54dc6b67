package oauth

import (
	"encoding/base64"
	"strings"
)

const maxJWT = 64 << 10 // bytes

// JWTClaims gives the claims of a signed JWT, numbers as json.Number, to be
// shown and for nothing else: the signature is not verified. Not ok is what is
// none, as most access tokens need not be, what is signed by nobody (alg none)
// and what is larger than 64 KiB.
func JWTClaims(token string) (claims map[string]any, ok bool) {
	if len(token) > maxJWT {
		return nil, false
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] == "" {
		return nil, false
	}
	header, ok := jwtPart(parts[0])
	if alg, _ := header["alg"].(string); !ok || alg == "" || strings.EqualFold(alg, "none") {
		return nil, false
	}
	return jwtPart(parts[1])
}

func jwtPart(part string) (map[string]any, bool) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil || strings.ContainsAny(part, "\r\n") { // which base64 ignores
		return nil, false
	}
	members, err := decodeObject(data)
	if err != nil {
		return nil, false
	}
	return members, true
}
