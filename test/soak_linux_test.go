package test

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The short form of `make soak`: what is to hold for tokens of a minute holds for
// some that are renewed every few seconds.
func TestSoak(t *testing.T) {
	t.Parallel()
	soak := filepath.Join(t.TempDir(), "soak")
	if out, err := exec.Command("go", "build", "-o", soak, "./soak").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), soak, "-for", "45s", "-life", "8s", "-tokend", filepath.Join(binDir, "tokend"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
