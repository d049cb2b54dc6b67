package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tokend/client/api"
	"tokend/internal/harden"
)

// defaultFloor holds on every Linux, with the binaries as `make` builds them.
var defaultFloor = []string{harden.PrivateFiles, harden.NoCores, harden.NoDebugger, harden.NoTracer, harden.Environ, harden.WipeHeap}

// machineChecks are about what is around the daemon.
func machineChecks(s *api.GetStatusResponse, lockOn string) []check {
	return []check{lockOnCheck(s, lockOn), swapCheck(), diskCheck(filepath.Dir(s.ProfilesDir)), ptraceCheck(), clockCheck()}
}

// systemBus is where logind is asked.
const systemBus = "/run/dbus/system_bus_socket"

func lockOnCheck(s *api.GetStatusResponse, value string) check {
	isProtected := s.IdentityProtection != "" && s.IdentityProtection != "none"
	if value == "off" || value == "auto" && !isProtected {
		return check{ID: checkLockOn, Result: good, Detail: "suspend and screen lock do not lock it: " + value}
	}
	if _, err := os.Stat(systemBus); err != nil {
		return check{ID: checkLockOn, Result: bad, Detail: "there is no system bus, so nobody tells of suspend and screen lock", Fix: "set TOKEND_AUTO_LOCK, such as 30m"}
	}
	return check{ID: checkLockOn, Result: unknown, Detail: "it is to lock on suspend and screen lock (" + value + "); whether logind tells the daemon of them cannot be seen from here", Fix: "try: loginctl lock-session, then: tokenctl status"}
}

func swapCheck() check {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return check{ID: checkSwap, Result: unknown, Detail: err.Error()}
	}
	var plain []string
	used := false
	for line := range strings.Lines(string(text)) {
		file, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(file, "/") {
			continue // the heading
		}
		used = true
		if !strings.HasPrefix(file, "/dev/zram") && !isEncrypted(file) {
			plain = append(plain, file)
		}
	}
	switch {
	case !used:
		return check{ID: checkSwap, Result: good, Detail: "there is none"}
	case plain == nil:
		return check{ID: checkSwap, Result: good, Detail: "encrypted, or in memory"}
	}
	return check{ID: checkSwap, Result: bad, Detail: "not encrypted, as far as can be seen: " + strings.Join(plain, ", ") + "; what is in memory may come to lie there",
		Fix: "encrypt it, or use zram"}
}

func diskCheck(dir string) check {
	if isEncrypted(dir) {
		return check{ID: checkDisk, Result: good, Detail: dir + " lies on an encrypted disk"}
	}
	return check{ID: checkDisk, Result: unknown, Detail: "whether " + dir + " lies on an encrypted disk cannot be seen"}
}

// isEncrypted says whether a block device, or the one that a file lies on, is
// known to be dm-crypt's.
func isEncrypted(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return false
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	return isCrypt(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev)), 0)
}

// isCrypt looks at a device and at those that it is made of.
func isCrypt(dev string, depth int) bool {
	if uuid, err := os.ReadFile(filepath.Join(dev, "dm/uuid")); err == nil && strings.HasPrefix(string(uuid), "CRYPT-") {
		return true
	}
	below, err := os.ReadDir(filepath.Join(dev, "slaves"))
	if err != nil || len(below) == 0 || depth > 8 {
		return false
	}
	for _, d := range below {
		if !isCrypt(filepath.Join(dev, "slaves", d.Name()), depth+1) {
			return false
		}
	}
	return true
}

func ptraceCheck() check {
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err == nil && strings.TrimSpace(string(scope)) != "0" {
		return check{ID: checkPtrace, Result: good, Detail: "programs cannot read each other's memory: kernel.yama.ptrace_scope is " + strings.TrimSpace(string(scope))}
	}
	return check{ID: checkPtrace, Result: bad, Detail: "your programs can read each other's memory (not tokend's), and so the tokens that they have got",
		Fix: "set kernel.yama.ptrace_scope=1, where the kernel has it"}
}

func clockCheck() check {
	state, err := unix.Adjtimex(&unix.Timex{})
	switch {
	case err != nil:
		return check{ID: checkClock, Result: unknown, Detail: err.Error()}
	case state == unix.TIME_ERROR:
		return check{ID: checkClock, Result: bad, Detail: "not synchronised, says the kernel: servers may refuse what tokend signs",
			Fix: "run: timedatectl set-ntp true; see: tokenctl explain --live PROFILE"}
	}
	return check{ID: checkClock, Result: good, Detail: "synchronised, says the kernel"}
}
