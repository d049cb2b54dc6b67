package test

import (
	"os/exec"
	"strings"
	"testing"
)

// What starts with every call, or is embedded in other programs, stays small,
// and opens no store.
func TestClientLinksLittle(t *testing.T) {
	for _, pkg := range []string{"tokend/cmd/tokenctl", "tokend/client"} {
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		deps := strings.Fields(string(out))
		for _, dep := range deps {
			for _, heavy := range []string{
				"google.golang.org/grpc", "google.golang.org/protobuf", "net/http", "crypto/tls", "filippo.io/age",
				"tokend/broker", "tokend/daemon", "tokend/oauth", "tokend/profile", "tokend/store",
			} {
				if dep == heavy || strings.HasPrefix(dep, heavy+"/") {
					t.Errorf("%s links %s", pkg, dep)
				}
			}
		}
		// The list is one: it has what must be there.
		if all := "\n" + strings.Join(deps, "\n") + "\n"; !strings.Contains(all, "\n"+pkg+"\n") || !strings.Contains(all, "\ntokend/client/api\n") {
			t.Errorf("what %s links: %v", pkg, deps)
		}
	}
}
