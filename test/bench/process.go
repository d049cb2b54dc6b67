package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// process measures a warm `tokenctl get` as a whole process against the least
// that Go can do, Debian's oidc-token, and asking the provider each time.
func (b *bench) process() error {
	h, err := b.newHome("process")
	if err != nil {
		return err
	}
	if err := h.startDaemon(); err != nil {
		return err
	}
	defer h.stopDaemon()
	if _, err := h.warm(); err != nil {
		return err
	}
	yardstick, err := b.build("yardstick")
	if err != nil {
		return err
	}
	empty, err := b.build("empty")
	if err != nil {
		return err
	}
	socket := filepath.Join(h.dir, "yardstick")
	stop, err := serveToken(socket)
	if err != nil {
		return err
	}
	defer stop()
	const get, dialAndPrint, oidcToken, curlJQ = "tokenctl get", "Go, dial and print", "oidc-token", "curl | jq each time"
	commands := []command{
		{get, []string{b.tokenctl, "get", warmProfile}},
		{dialAndPrint, []string{yardstick, socket}},
	}
	missing := make(map[string]string)
	if stop, err := b.startAgent(b.agentSocket()); err == nil {
		defer stop()
		commands = append(commands, command{oidcToken, []string{"oidc-token", agentAccount}})
	} else {
		missing[oidcToken] = err.Error()
	}
	if installed("curl") && installed("jq") {
		commands = append(commands, command{curlJQ, []string{"sh", "-c", "curl -s -u " + small + ":" + clientSecret +
			" -d grant_type=client_credentials " + b.provider.TokenURL + " | jq -er .access_token"}})
	} else {
		missing[curlJQ] = "curl or jq is not installed"
	}
	env := append(h.environment(), "OIDC_SOCK="+b.agentSocket())
	for _, c := range commands {
		if err := printsToken(c, env); err != nil {
			return err
		}
	}
	commands = append(commands, command{"Go, empty main", []string{empty}})

	l, err := b.newLauncher(env, commands...)
	if err != nil {
		return err
	}
	defer l.close()
	if _, err := l.runAll(5); err != nil {
		return err
	}
	medians, err := l.runAll(b.rounds(300, 60))
	if err != nil {
		return err
	}
	costs := make(map[string]cost)
	for i, c := range commands {
		costs[c.name] = medians[i]
	}
	t := table{Title: "One token, as a whole process (medians)", Columns: []string{"ms", "CPU ms", "resident MB", "file MB", "to dial and print"}}
	for _, c := range commands {
		var file float64
		if path, err := exec.LookPath(c.argv[0]); err == nil && c.name != curlJQ {
			if fi, err := os.Stat(path); err == nil {
				file = float64(fi.Size()) / 1e6
			}
		}
		m := costs[c.name]
		t.Rows = append(t.Rows, row{c.name, []float64{m.ms, m.cpuMS, m.residentMB, file, m.ms / costs[dialAndPrint].ms}})
	}
	b.report.Tables = append(b.report.Tables, t)

	ours := costs[get]
	against := func(name string, atLeast, aim float64) goal {
		g := goal{Figure: "tokenctl get warm, to " + name, Bound: "<=", AtLeast: atLeast, Aim: aim, Missing: missing[name]}
		if g.Missing == "" {
			g.Measured = ours.ms / costs[name].ms
			g.Absolute = fmt.Sprintf("%.2f ms, %.2f ms", ours.ms, costs[name].ms)
		}
		return g
	}
	b.report.Goals = append(b.report.Goals,
		against(dialAndPrint, 1.9, 1.6),
		against(oidcToken, 2.2, 1.8),
		against(curlJQ, 1./7, 1./10),
		goal{
			Figure:   "tokenctl get, resident, to " + dialAndPrint,
			Measured: ours.residentMB / costs[dialAndPrint].residentMB,
			Bound:    "<=", AtLeast: 2.3, Aim: 1.9,
			Absolute: fmt.Sprintf("%.1f MB, %.1f MB", ours.residentMB, costs[dialAndPrint].residentMB),
		})
	return nil
}

// serveToken answers the yardstick.
func serveToken(socket string) (stop func(), err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	token := strings.Repeat("t", tokenSize[small])
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Read(make([]byte, 100)); err == nil {
					io.WriteString(c, token)
				}
			}()
		}
	}()
	return func() { l.Close() }, nil
}

// printsToken makes sure that what is measured does what it is measured for.
func printsToken(c command, env []string) error {
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("running %s: %w", c.name, err)
	}
	if got := len(strings.TrimSpace(string(out))); got != tokenSize[small] {
		return fmt.Errorf("%s printed %d bytes, not a token of %d", c.name, got, tokenSize[small])
	}
	return nil
}

func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
