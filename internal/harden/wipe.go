package harden

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"
)

// Go's collector leaves what it frees as it was, until something else is put
// there. Two things change that, both of them set where this program is built
// (GOBUILD in the Makefile), since neither can be switched on later:
//
//   - clobberfree=1, a setting of the runtime's that GODEBUG would give, makes it
//     overwrite every object that it frees. That reaches what libraries keep in
//     goroutines of their own: net/http, crypto/tls, grpc-go.
//   - The experiment runtime/secret clears stack and registers when a function
//     called through [Secretly] returns.
//
// What is still referred to is nobody's to overwrite. [Wipe] is for the moment
// after the last reference was dropped.

// Wipe overwrites, now, what is not referred to any more, and gives its memory
// back to the system. What lies in a sync.Pool is let go of, too: the pools of
// crypto/tls, net/http and grpc-go have held whole messages. It takes some
// milliseconds.
func Wipe() {
	// A pool empties in two collections; the third overwrites what was in it.
	runtime.GC()
	runtime.GC()
	debug.FreeOSMemory()
	overwriteSignalStacks()
}

func wipeHeap() Protection {
	if wiped() {
		return Protection{WipeHeap, "freed memory", true, "overwritten when the collector frees it (clobberfree)"}
	}
	return Protection{WipeHeap, "freed memory", false, "stays as it was until it is used again: not built with clobberfree=1"}
}

func wipeStacks() Protection {
	p := Protection{ID: WipeStacks, Name: "stacks", Detail: "not cleared: not built with GOEXPERIMENT=runtimesecret, or not for this system"}
	Secretly(func() { p.Active = secretly() })
	if p.Active {
		p.Detail = "cleared with the registers after work with secrets (runtime/secret)"
	}
	return p
}

// wiped finds out whether freed memory is overwritten: it frees some, and looks.
var wiped = sync.OnceValue(func() bool {
	const size, count = 96, 64
	mark := bytes.Repeat([]byte{0xa5}, size)
	// Every other one is kept, so that their pages stay in use.
	kept := make([]*[size]byte, 0, count)
	var freed []uintptr
	for i := range 2 * count {
		p := new([size]byte)
		copy(p[:], mark)
		if i%2 == 0 {
			kept = append(kept, p)
		} else {
			freed = append(freed, uintptr(unsafe.Pointer(p))) //nolint:gosec // a number, not followed by Go
		}
	}
	runtime.GC()
	runtime.GC() // the first may have ended before all was swept
	r, w, err := os.Pipe()
	if err != nil {
		return false
	}
	defer r.Close()
	defer w.Close()
	left, seen := 0, make([]byte, size)
	for _, at := range freed {
		// By number, as a pointer to it would be the collector's business again.
		if n, _, errno := syscall.Syscall(syscall.SYS_WRITE, w.Fd(), at, size); errno != 0 || n != size {
			return false
		}
		if _, err := r.Read(seen); err != nil {
			return false
		}
		if bytes.Contains(seen, mark[:size/2]) {
			left++
		}
	}
	runtime.KeepAlive(kept)
	return left == 0
})
