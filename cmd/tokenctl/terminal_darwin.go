package main

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
	setFlushed = unix.TIOCSETAF // discards what was typed
)

func takeModes(t *unix.Termios, modes uint32) { t.Lflag &^= uint64(modes) }
