package main

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
)

func takeModes(t *unix.Termios, modes uint32) { t.Lflag &^= modes }
