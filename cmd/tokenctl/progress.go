package main

import (
	"fmt"
	"os"
	"strings"
)

// progress says on a terminal how far something with many parts has come, on one
// line that is gone at the end.
type progress struct {
	done, total int
	shown       int // length of the line
}

// few is what is over before anybody wonders.
const few = 10

func (p *progress) step() {
	p.done++
	if p.total <= few || !isTerminal(os.Stderr) {
		return
	}
	line := fmt.Sprintf("\r%d of %d ", p.done, p.total)
	p.shown = len(line)
	fmt.Fprint(os.Stderr, line)
}

// clear makes room for another line.
func (p *progress) clear() {
	if p.shown > 0 {
		fmt.Fprint(os.Stderr, "\r"+strings.Repeat(" ", p.shown)+"\r")
		p.shown = 0
	}
}
