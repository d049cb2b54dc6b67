package main

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
)

func takeModes(t *unix.Termios, modes uint32) { t.Lflag &^= uint64(modes) }
