//go:build !linux

package test

import "testing"

// wantNoDaemon believes status where there is no /proc.
func (h *home) wantNoDaemon(t *testing.T) {
	t.Helper()
	if r := h.tokenctl(t, "", "status"); r.code != 3 {
		t.Errorf("a daemon is left: %v", r)
	}
}
