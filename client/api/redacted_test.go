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
		api.LoginRequest{Start: &api.LoginRequestStart{ClientSecret: canary}},
		&api.LoginRequestStart{ClientSecret: canary},
		&api.LoginRequest{Redirection: &api.LoginRequestRedirection{Url: canary}},
		api.LoginRequestRedirection{Url: canary},
		&api.LoginRequest{InitialAccessToken: &api.LoginRequestInitialAccessToken{Token: canary}},
		api.LoginRequestInitialAccessToken{Token: canary},
		&api.LoginResponse{OpenUrl: &api.LoginResponseOpenURL{Url: canary}},
		api.LoginResponseOpenURL{Url: canary},
		&api.LoginResponse{ShowCode: &api.LoginResponseShowCode{UserCode: canary}},
		api.LoginResponseShowCode{UserCode: canary, VerificationUrlComplete: canary},
		&api.RegisterRequest{User: &api.RegisterRequestUser{Password: canary}},
		api.RegisterRequestUser{Password: canary},
		&api.CreateDPoPProofRequest{AccessToken: canary},
		api.CreateDPoPProofRequest{AccessToken: canary},
		&api.ReportTokenRequest{AccessToken: canary},
		api.ReportTokenRequest{AccessToken: canary},
		&api.WatchTokenResponse{Token: &api.GetTokenResponse{AccessToken: canary}},
		&api.CreateDPoPProofResponse{Proof: canary},
		api.CreateDPoPProofResponse{Proof: canary},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, canary) || strings.Contains(s, fmt.Sprintf("%x", canary)) {
				t.Errorf("%T prints its secret with %s: %s", v, verb, s)
			}
		}
	}
}
