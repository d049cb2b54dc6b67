package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"time"
)

// command is one that the launcher runs.
type command struct {
	name string
	argv []string
}

// cost is what one run of a command took.
type cost struct{ ms, cpuMS, residentMB float64 }

// launcher runs commands as ./launcher describes.
type launcher struct {
	commands []command
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	stdout   *bufio.Reader
}

func (b *bench) newLauncher(env []string, commands ...command) (*launcher, error) {
	path, err := b.build("launcher")
	if err != nil {
		return nil, err
	}
	var args []string
	for i, c := range commands {
		if i > 0 {
			args = append(args, "--")
		}
		argv := slices.Clone(c.argv)
		if argv[0], err = exec.LookPath(argv[0]); err != nil {
			return nil, err
		}
		args = append(args, argv...)
	}
	l := &launcher{commands: commands, cmd: exec.CommandContext(b.ctx, path, args...)}
	l.cmd.Env = env
	l.cmd.Stderr = os.Stderr
	stdin, err := l.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.stdin, l.stdout = stdin, bufio.NewReader(stdout)
	// It is to see its command end: one that starts a daemon must not go on
	// alone.
	l.cmd.Cancel = stdin.Close
	l.cmd.WaitDelay = 15 * time.Second
	return l, l.cmd.Start()
}

func (l *launcher) close() {
	l.stdin.Close()
	l.cmd.Wait()
}

// run runs the nth command.
func (l *launcher) run(n int) (cost, error) {
	if _, err := l.stdin.Write([]byte{byte(n)}); err != nil {
		return cost{}, err
	}
	line, err := l.stdout.ReadString('\n')
	if err != nil {
		return cost{}, fmt.Errorf("running %s: %w", l.commands[n].name, err)
	}
	var wall, cpu, resident, exit int64
	if _, err := fmt.Sscan(line, &wall, &cpu, &resident, &exit); err != nil {
		return cost{}, err
	}
	if exit != 0 {
		return cost{}, fmt.Errorf("%s ended with exit status %d", l.commands[n].name, exit)
	}
	return cost{float64(wall) / 1e6, float64(cpu) / 1e6, float64(resident) / 1e6}, nil
}

// runAll runs all commands, each round in another order, and returns the
// medians.
func (l *launcher) runAll(rounds int) ([]cost, error) {
	all := make([][]cost, len(l.commands))
	for range rounds {
		for _, n := range rand.Perm(len(l.commands)) {
			c, err := l.run(n)
			if err != nil {
				return nil, err
			}
			all[n] = append(all[n], c)
		}
	}
	medians := make([]cost, len(all))
	for n, costs := range all {
		medians[n] = medianCost(costs)
	}
	return medians, nil
}

func medianCost(costs []cost) cost {
	of := func(f func(cost) float64) float64 {
		var v []float64
		for _, c := range costs {
			v = append(v, f(c))
		}
		return median(v)
	}
	return cost{
		ms:         of(func(c cost) float64 { return c.ms }),
		cpuMS:      of(func(c cost) float64 { return c.cpuMS }),
		residentMB: of(func(c cost) float64 { return c.residentMB }),
	}
}
