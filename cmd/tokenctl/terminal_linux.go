package main

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
	setFlushed = unix.TCSETSF // discards what was typed
)

func takeModes(t *unix.Termios, modes uint32) { t.Lflag &^= modes }
