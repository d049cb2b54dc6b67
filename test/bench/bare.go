package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tokendv1 "tokend/proto/tokend/v1"
	"tokend/proto/tokend/v1/tokendv1grpc"
)

// bareArg makes this program a bare server.
const bareArg = "-bare"

// bareSocket is in the working folder of a bare server.
const bareSocket = "sock"

// bare is the least that a grpc-go server can do: it answers from a map.
type bare struct {
	tokendv1grpc.UnimplementedTokenServiceServer
	answers map[string]*tokendv1.GetTokenResponse
}

func (s *bare) GetToken(_ context.Context, r *tokendv1.GetTokenRequest) (*tokendv1.GetTokenResponse, error) {
	if a, ok := s.answers[r.GetProfile()]; ok {
		return a, nil
	}
	return nil, status.Error(codes.NotFound, "no such profile")
}

// serveBare is a process that gives the answer in the file named "answer" to
// who asks for the warm profile. It prints a line when it listens, and ends
// with its stdin.
func serveBare(stdin io.Reader, stdout io.Writer) error {
	b, err := os.ReadFile("answer")
	if err != nil {
		return err
	}
	answer := &tokendv1.GetTokenResponse{}
	if err := proto.Unmarshal(b, answer); err != nil {
		return err
	}
	l, err := net.Listen("unix", bareSocket)
	if err != nil {
		return err
	}
	// Package client calls nothing that others could.
	if err := os.Chmod(bareSocket, 0o600); err != nil {
		return err
	}
	server := grpc.NewServer()
	tokendv1grpc.RegisterTokenServiceServer(server, &bare{answers: map[string]*tokendv1.GetTokenResponse{warmProfile: answer}})
	go func() {
		io.Copy(io.Discard, stdin)
		server.Stop()
	}()
	fmt.Fprintln(stdout, "ready")
	return server.Serve(l)
}

// startBare starts a bare server that gives the same answer as a daemon, and
// returns its socket.
func (b *bench) startBare(answer *tokendv1.GetTokenResponse) (socket string, stop func(), err error) {
	dir := filepath.Join(b.dir, "bare")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, err
	}
	bytes, err := proto.Marshal(answer)
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "answer"), bytes, 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(b.ctx, b.self, bareArg)
	cmd.Dir = dir
	cmd.Env = b.environment()
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		stdin.Close()
		cmd.Wait()
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		stop()
		return "", nil, fmt.Errorf("starting the bare server: %w", err)
	}
	return filepath.Join(dir, bareSocket), stop, nil
}
