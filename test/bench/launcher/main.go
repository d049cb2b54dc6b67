// Command launcher runs commands and measures them as whole processes. It is a
// program of its own because it is small: Linux counts the memory of the
// process that forked into the child's largest resident size.
//
//	launcher PATH [ARGUMENT...] [-- PATH [ARGUMENT...]]...
//
// For each byte N on stdin it runs the Nth command and prints a line: wall
// time and CPU time in nanoseconds, largest resident size in bytes, exit
// status. It ends with its stdin.
package main

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

func main() {
	var commands [][]string
	var command []string
	for _, arg := range os.Args[1:] {
		if arg == "--" {
			commands = append(commands, command)
			command = nil
			continue
		}
		command = append(command, arg)
	}
	commands = append(commands, command)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		os.Exit(1)
	}
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{null.Fd(), null.Fd(), 2}}

	var n [1]byte
	for range 50 {
		if _, err := os.Stdin.Read(n[:]); err != nil {
			return
		}
		argv := commands[n[0]]
		var status syscall.WaitStatus
		var usage syscall.Rusage
		start := time.Now()
		pid, err := syscall.ForkExec(argv[0], argv, attr)
		for err == nil {
			if _, err = syscall.Wait4(pid, &status, 0, &usage); err == nil {
				break
			}
			if err == syscall.EINTR {
				err = nil
			}
		}
		wall := time.Since(start)
		exit := status.ExitStatus()
		if err != nil {
			exit = -1
		}
		resident := int64(usage.Maxrss)
		if runtime.GOOS == "linux" {
			resident *= 1024
		}
		line := strconv.FormatInt(wall.Nanoseconds(), 10) + " " +
			strconv.FormatInt(usage.Utime.Nano()+usage.Stime.Nano(), 10) + " " +
			strconv.FormatInt(resident, 10) + " " + strconv.Itoa(exit) + "\n"
		if _, err := os.Stdout.WriteString(line); err != nil {
			return
		}
	}
	// Begin anew, before what these runs have left in memory counts.
	if syscall.Exec(os.Args[0], os.Args, attr.Env) != nil {
		os.Exit(1)
	}
}
