package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
	"tokend/store"
)

// warmProfile is in every store, for a client with small tokens.
const warmProfile = "dev/network"

// home is a store with a socket, and perhaps a daemon.
type home struct {
	dir, socket string
	bench       *bench
	cmd         *exec.Cmd
	log         *bytes.Buffer
}

// newHome makes a store with an identity, the profile dev/network and others.
func (b *bench) newHome(name string, profiles ...string) (*home, error) {
	h := &home{dir: filepath.Join(b.dir, name), bench: b}
	h.socket = filepath.Join(h.dir, "run", "sock")
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		return nil, err
	}
	if _, _, err := store.MakeIdentity(context.Background(), h.dir, false, store.Protection{}, store.Means{}); err != nil {
		return nil, err
	}
	s, err := h.openStore()
	if err != nil {
		return nil, err
	}
	return h, h.put(s, small, append(profiles, warmProfile)...)
}

func (h *home) openStore() (*store.Age, error) {
	identity, err := store.LoadIdentity(filepath.Join(h.dir, "identity.txt"))
	if err != nil {
		return nil, err
	}
	s, err := store.OpenAge(filepath.Join(h.dir, "profiles"), func(string, []byte) bool { return true })
	if err != nil {
		return nil, err
	}
	s.Unlock(identity)
	return s, nil
}

// put writes profiles of one client.
func (h *home) put(s store.Store, id string, profiles ...string) error {
	for _, p := range profiles {
		if _, err := s.Put(h.bench.ctx, p, h.bench.profile(id), ""); err != nil {
			return err
		}
	}
	return nil
}

// environment is that of the daemon and of its clients. All profiles have one
// provider, which may be asked as often as the daemon asks any.
func (h *home) environment() []string {
	return h.bench.environment("TOKEND_DIR="+h.dir, "TOKEND_SOCKET="+h.socket, "TOKEND_TRUST=all", "TOKEND_RATE_LIMIT=1000")
}

// startDaemon returns when the daemon listens; stopDaemon ends it.
func (h *home) startDaemon() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	h.log = &bytes.Buffer{}
	h.cmd = exec.CommandContext(h.bench.ctx, h.bench.tokend, "--ready-fd", "3")
	h.cmd.Env = h.environment()
	h.cmd.Stderr = h.log
	h.cmd.ExtraFiles = []*os.File{w}
	endGently(h.cmd)
	err = h.cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	line, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(line), "ready ") {
		h.stopDaemon()
		return fmt.Errorf("starting tokend: %s%s", line, h.log)
	}
	return nil
}

func (h *home) stopDaemon() {
	h.cmd.Process.Signal(syscall.SIGTERM)
	h.cmd.Wait()
}

// endGently makes a command end by SIGTERM when its context does.
func endGently(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
}

// warm fetches the warm profile's token, which the daemon then has.
func (h *home) warm() (*tokendv1.GetTokenResponse, error) {
	c, err := dialGRPC(h.socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return getToken(h.bench.ctx, c, warmProfile)
}

func dialGRPC(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func getToken(ctx context.Context, c *grpc.ClientConn, profile string) (*tokendv1.GetTokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return tokendv1grpc.NewTokenServiceClient(c).GetToken(ctx, &tokendv1.GetTokenRequest{Profile: profile})
}

// resident returns the daemon's resident memory in bytes.
func (h *home) resident() (float64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", h.cmd.Process.Pid)
}
