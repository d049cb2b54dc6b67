// Command bench measures tokend against what else there is, and prints how the
// figures stand to the goals. It works in a temporary folder, with servers of
// its own, and needs bin/tokend and bin/tokenctl: `make bench` builds them.
//
// Ratios are of medians over rounds; what is compared runs in the same rounds,
// each in a new order. Absolute figures say something about this machine only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"tokend/test/authserver"
)

// measurements are in the order in which they run.
var measurements = []struct {
	name    string
	measure func(*bench) error
}{
	{"process", (*bench).process},
	{"throughput", (*bench).throughput},
	{"crowd", (*bench).crowd},
	{"memory", (*bench).memory},
	{"start", (*bench).start},
	{"hang", (*bench).hang},
}

// bench is one run.
type bench struct {
	ctx      context.Context
	quick    bool
	dir      string // everything is below it
	self     string // this program
	tokend   string
	tokenctl string
	provider *authserver.Server
	report   report
}

func main() {
	// This program is also the processes that it starts to call and to be
	// called; they end with their stdin.
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case workerArg:
			exit(work(os.Stdin, os.Stdout))
		case bareArg:
			exit(serveBare(os.Stdin, os.Stdout))
		}
	}
	quick := flag.Bool("quick", false, "fewer rounds")
	asJSON := flag.Bool("json", false, "print JSON")
	only := flag.String("only", "", "measure only `NAME`: "+names())
	flag.Parse()
	exit(run(*quick, *asJSON, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func names() string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return strings.Join(all, ", ")
}

// run prints what could be measured even if something could not.
func run(quick, asJSON bool, only string) error {
	// SIGPIPE too: it would end this program before what it has started.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	dir, err := os.MkdirTemp("", "tb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: ctx, quick: quick, dir: dir, report: report{Machine: machine()}}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.tokend, err = program("bin/tokend"); err != nil {
		return err
	}
	if b.tokenctl, err = program("bin/tokenctl"); err != nil {
		return err
	}
	if b.provider, err = startProvider(); err != nil {
		return err
	}
	defer b.provider.Close()

	var failed []error
	known := false
	for _, m := range measurements {
		if only != "" && only != m.name {
			continue
		}
		known = true
		fmt.Fprintf(os.Stderr, "measuring %s\n", m.name)
		b.provider.Forget()
		if err := m.measure(b); err != nil {
			failed = append(failed, fmt.Errorf("measuring %s: %w", m.name, err))
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	if !known {
		return fmt.Errorf("no measurement is called %q; there are %s", only, names())
	}
	write := b.report.print
	if asJSON {
		write = b.report.printJSON
	}
	return errors.Join(append(failed, write(os.Stdout))...)
}

func program(path string) (string, error) {
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w; run make build, and this in the same folder", err)
	}
	return filepath.Abs(path)
}

// machine tells how much the absolute figures are worth.
func machine() string {
	s := fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		s += ", load " + strings.Fields(string(load))[0] + " at the start"
	}
	return s
}

// rounds is how often a measurement is made.
func (b *bench) rounds(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// Clients of the provider; their access tokens differ in size.
const (
	small = "small" // 900 bytes
	large = "large" // 1,500 bytes
)

var tokenSize = map[string]int{small: 900, large: 1500}

// lifetime is that of all access tokens: longer than a run.
const lifetime = 24 * time.Hour

const clientSecret = "correct-horse-battery-staple"

func startProvider() (*authserver.Server, error) {
	var cfg authserver.Config
	cfg.Lifetime = lifetime
	for id := range tokenSize {
		cfg.Clients = append(cfg.Clients, authserver.Client{ID: id, Secret: clientSecret, Opaque: true})
	}
	s, err := authserver.Listen(cfg)
	if err != nil {
		return nil, err
	}
	for id := range tokenSize {
		s.Client(id).Always(tokenFor(id))
	}
	return s, nil
}

// tokenFor is how the provider answers a client.
func tokenFor(id string) authserver.Answer {
	return authserver.Answer{Set: map[string]any{"access_token": strings.Repeat("t", tokenSize[id])}}
}

func (b *bench) profile(id string) []byte {
	return fmt.Appendf(nil, "OAUTH2_TOKEN_URL=%s\nCLIENT_ID=%s\nCLIENT_SECRET=%s\n", b.provider.TokenURL, id, clientSecret)
}

// environment is that of every process of a run: nothing of the user's own
// folders and settings.
func (b *bench) environment(more ...string) []string {
	return append([]string{"HOME=" + b.dir, "PATH=" + os.Getenv("PATH")}, more...)
}

// build builds a program of this folder as tokenctl is built.
func (b *bench) build(name string) (string, error) {
	path := filepath.Join(b.dir, name)
	cmd := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, "./test/bench/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}
