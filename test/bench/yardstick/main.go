// Command yardstick is the least that a Go program can do to get a token from
// a Unix socket: it dials, writes a short request, reads the answer to its end
// and prints it.
package main

import (
	"io"
	"net"
	"os"
)

func main() {
	c, err := net.Dial("unix", os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	if _, err := c.Write([]byte("dev/network\n")); err != nil {
		os.Exit(1)
	}
	token, err := io.ReadAll(c)
	if err != nil || len(token) == 0 {
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(token); err != nil {
		os.Exit(1)
	}
}
