package api_test

import (
	"fmt"
	"strings"
	"testing"

	"tokend/client/api"
)

func TestSecretsDoNotPrint(t *testing.T) {
	const canary = "CANARY-secret"
	vars := &api.Variables{Variables: []api.Variable{{Name: "CLIENT_SECRET", Value: canary}}}
	for _, v := range []any{
		api.GetTokenResponse{AccessToken: canary},
		&api.GetTokenResponse{AccessToken: canary},
		api.PutProfileRequest{Text: []byte(canary)},
		&api.PutProfileRequest{Variables: vars},
		api.RevealProfileResponse{Text: []byte(canary)},
		vars, *vars, vars.Variables[0],
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, canary) || strings.Contains(s, fmt.Sprintf("%x", canary)) {
				t.Errorf("%T prints its secret with %s: %s", v, verb, s)
			}
		}
	}
}
