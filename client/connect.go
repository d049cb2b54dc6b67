package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tokend/client/api"
	"tokend/client/internal/grpcwire"
	"tokend/internal/settings"
	"tokend/internal/socket"
)

// connect finds the daemon: on its socket, else on the one that the store's
// lock names, else, with Autostart, by starting it.
func (c *Client) connect(ctx context.Context) (net.Conn, []grpcwire.Header, error) {
	s, err := c.Settings()
	if err != nil {
		return nil, nil, err
	}
	header := []grpcwire.Header{{Name: "tokend-dir", Value: s.Get(settings.Dir)}}
	for {
		path := s.Get(settings.Socket)
		conn, err := socket.Dial(ctx, path)
		if errors.Is(err, socket.ErrNotRunning) {
			if other := socket.Holder(s.LockFile()); other != "" && other != path {
				conn, err = socket.Dial(ctx, other)
			}
		}
		if errors.Is(err, socket.ErrNotRunning) {
			if !c.Autostart {
				return nil, nil, fmt.Errorf("%w at %s", ErrNotRunning, path)
			}
			if path, err = c.start(ctx, s); err != nil {
				return nil, nil, err
			}
			conn, err = socket.Dial(ctx, path)
		}
		switch {
		case err == nil:
			return conn, header, nil
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded): // the connection's timer may be the earlier one
			return nil, nil, fmt.Errorf("%w: connecting to %s: %w", ErrNotRunning, path, err)
		case !errors.Is(err, socket.ErrNotRunning):
			return nil, nil, &UnreachableError{err}
		}
		// The daemon that was just there has ended: look again.
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w: connecting to %s: %w", ErrNotRunning, path, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// passed are the variables that a daemon started from here gets, besides those
// that begin with XDG_ and TOKEND_: it outlives the shell it was started from,
// so nothing else of that shell's may stick to it.
var passed = []string{
	"HOME", "USER", "LOGNAME", "DBUS_SESSION_BUS_ADDRESS",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
}

// DaemonPath is the PATH of a daemon that was started by Autostart.
const DaemonPath = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

func environment() []string {
	env := []string{"PATH=" + DaemonPath}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "TOKEND_") || slices.Contains(passed, name) {
			env = append(env, kv)
		}
	}
	return env
}

// start starts a daemon in a session of its own and waits until one listens:
// that one, or another that was quicker. It returns its socket.
func (c *Client) start(ctx context.Context, s *settings.Settings) (string, error) {
	exe, err := FindTokend()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	args := []string{exe, "--ready-fd", "3", "--log-file", s.LogFile()}
	if c.Dir != "" {
		args = append(args, "--dir", s.Get(settings.Dir))
	}
	if c.Socket != "" {
		args = append(args, "--socket", s.Get(settings.Socket))
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	p, err := os.StartProcess(exe, args, &os.ProcAttr{
		Dir:   "/",
		Env:   environment(),
		Files: []*os.File{null, null, null, w},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return "", fmt.Errorf("%w: starting %s: %w", ErrNotRunning, exe, err)
	}
	// It is this process's child for as long as both live, and to be reaped.
	go func() { _, _ = p.Wait() }()

	if deadline, ok := ctx.Deadline(); ok {
		_ = r.SetReadDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })()
	b, err := io.ReadAll(io.LimitReader(r, 8<<10))
	what, rest, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	switch {
	case what == "ready" && rest != "":
		return rest, nil
	case what == "error":
		reason, message, _ := strings.Cut(rest, " ")
		if r := api.ReasonOf(reason); r != api.ReasonUnspecified {
			return "", &Error{Reason: r, Message: message}
		}
		return "", fmt.Errorf("%w: it could not start: %s", ErrNotRunning, message)
	case err != nil:
		return "", fmt.Errorf("%w: waiting for %s: %w", ErrNotRunning, exe, err)
	}
	return "", fmt.Errorf("%w: %s ended without a word; its log is %s", ErrNotRunning, exe, s.LogFile())
}

// FindTokend returns the path of the daemon that Autostart would start. It
// looks beside this program, then in PATH, whose relative entries do not count:
// they mean another program in each folder.
func FindTokend() (string, error) {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		path := filepath.Join(dir, "tokend")
		if fi, err := os.Stat(path); filepath.IsAbs(path) && err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", errors.New("there is no tokend beside this program or in PATH")
}
