package main

import (
	"os/exec"
	"strings"
	"testing"

	tokendv1 "tokend/proto/tokend/v1"
)

// Half a token is none: nothing is run with it.
func TestTokenThatDoesNotFit(t *testing.T) {
	s := serve(t, &script{get: func(*tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
		return &tokendv1.GetTokenResponse{AccessToken: strings.Repeat("t", 1000), TokenType: "Bearer", ExpiresAt: later()}, nil
	}})
	for limit, says := range map[string]string{
		"1000": "read 1000\n",
		"999":  "tokenctl: writing a file in memory: short write\n",
	} {
		of := s.command(t, nil, "exec", "-e", "TOKEN:p", "--fd", "--", "sh", "-c", `echo "read $(wc -c <"$TOKEN")"`)
		cmd := exec.Command("prlimit", append([]string{"--fsize=" + limit, of.Path}, of.Args[1:]...)...)
		cmd.Env, cmd.Dir = of.Env, of.Dir
		out, err := cmd.CombinedOutput()
		if string(out) != says || (err == nil) != (limit == "1000") {
			t.Errorf("up to %s bytes: %v, and it said %q, want %q", limit, err, out, says)
		}
	}
}
