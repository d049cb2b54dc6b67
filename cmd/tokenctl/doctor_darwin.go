package main

import (
	"path/filepath"

	"tokend/client/api"
	"tokend/internal/harden"
)

// defaultFloor holds on every macOS, with the binaries as `make` builds them.
var defaultFloor = []string{harden.PrivateFiles, harden.NoCores, harden.NoDebugger, harden.NoTracer, harden.Environ, harden.WipeHeap}

// machineChecks are about what is around the daemon.
func machineChecks(s *api.GetStatusResponse, lockOn string) []check {
	lock := check{ID: checkLockOn, Result: good, Detail: "suspend and screen lock do not lock it: " + lockOn}
	if lockOn != "off" && lockOn != "auto" {
		lock = check{ID: checkLockOn, Result: bad, Detail: "TOKEND_LOCK_ON=" + lockOn + " does nothing on macOS", Fix: "set TOKEND_AUTO_LOCK, such as 30m"}
	}
	return []check{
		lock,
		{ID: checkSwap, Result: good, Detail: "macOS encrypts it"},
		{ID: checkDisk, Result: unknown, Detail: "whether " + filepath.Dir(s.ProfilesDir) + " lies on an encrypted disk cannot be seen", Fix: "see: fdesetup status"},
		{ID: checkPtrace, Result: unknown, Detail: "what may debug your programs is System Integrity Protection's to say", Fix: "see: csrutil status"},
		{ID: checkClock, Result: unknown, Detail: "see: tokenctl explain --live PROFILE"},
	}
}
