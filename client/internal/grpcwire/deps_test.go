package grpcwire_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What a command links decides how quickly it starts, more than what it does. hpack brings fmt; nothing else may come.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"golang.org/x/net/http2/hpack", "tokend/client/internal/grpcwire"}
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	out, err = exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, heavy := range []string{"net/http", "net/url", "crypto", "crypto/tls", "encoding/json", "flag", "log", "log/slog", "os/exec", "regexp", "text/template"} {
		if slices.Contains(deps, heavy) {
			t.Errorf("%s is linked", heavy)
		}
	}
}
