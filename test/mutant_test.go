package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Every binary of these tests is built with the flags of the Makefile.
func build(dir string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace,nethttpomithttp2",
		"-ldflags", "-s -w -X main.version=v0-test -X runtime.godebugDefault=clobberfree=1", "-o", dir}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=runtimesecret")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	return nil
}

// edit takes a piece out of a file of the source, named from the root of the
// module, and puts another in.
type edit struct {
	file, old, new string
}

var mutants = struct {
	sync.Mutex
	built map[string]func() (string, error)
}{built: make(map[string]func() (string, error))}

// mutant builds tokend and tokenctl with one defence taken out, and returns the
// folder that they are in: an attack that they fend off has to succeed on such
// a build, or it shows nothing. What edits take out must be in the source
// exactly once. A name is built once for all tests.
func mutant(t *testing.T, name string, edits ...edit) (dir string) {
	t.Helper()
	mutants.Lock()
	once, ok := mutants.built[name]
	if !ok {
		once = sync.OnceValues(func() (string, error) { return buildMutant(name, edits) })
		mutants.built[name] = once
	}
	mutants.Unlock()
	dir, err := once()
	if err != nil {
		t.Fatalf("mutant %q: %v", name, err)
	}
	return dir
}

func buildMutant(name string, edits []edit) (string, error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(binDir, "mutants", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	changed := make(map[string]string)
	for _, e := range edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		text, ok := changed[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s has %d times, not once:\n%s", e.file, n, e.old)
		}
		changed[path] = strings.Replace(text, e.old, e.new, 1)
	}
	overlay := struct{ Replace map[string]string }{make(map[string]string)}
	for path, text := range changed {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay.Replace)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = file
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return "", err
	}
	return dir, build(dir, "-overlay", file, "tokend/cmd/tokend", "tokend/cmd/tokenctl")
}

// mutated is a home like newHome's whose binaries are a mutant's.
func mutated(t *testing.T, uid int, dir string) *home {
	t.Helper()
	h := makeHome(t, uid)
	h.relink(t, dir)
	return h
}

// relink replaces the home's binaries by those of a folder.
func (h *home) relink(t *testing.T, from string) {
	t.Helper()
	for _, name := range []string{"tokend", "tokenctl"} {
		if err := os.Remove(filepath.Join(h.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.link(t, from)
}
