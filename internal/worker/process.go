// Package worker does in a process of its own what may hang, what needs much
// memory, and what sees a passphrase or a private key: wrapping and unwrapping
// an identity, and the calls to the operating system's keyring. The process is
// this executable, started again; it does one thing and ends, and it ends when
// its caller's context does.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"tokend/store"
)

// Process is a store.Wrapper and store.Items, each of whose calls runs in a
// process of its own. An error of the context's is the context's cause.
type Process struct {
	// Plugins are the names of the age plugins that may be run.
	Plugins []string

	// Patience is how long the keyring may take, where a person is there to
	// answer the prompt that it may show, or where it may be starting. Less than
	// the 2 s that it has anyway changes nothing.
	Patience time.Duration
}

var (
	_ store.Wrapper = Process{}
	_ store.Items   = Process{}
)

// Wrap implements store.Wrapper.
func (p Process) Wrap(ctx context.Context, text []byte, how store.Protection, ask store.Ask) ([]byte, error) {
	return run(ctx, "encrypting the identity", job{Do: wrap, Protection: how, Plugins: p.Plugins}, text, ask)
}

// Unwrap implements store.Wrapper.
func (p Process) Unwrap(ctx context.Context, sealed []byte, how store.Protection, ask store.Ask) ([]byte, error) {
	return run(ctx, "decrypting the identity", job{Do: unwrap, Protection: how, Plugins: p.Plugins}, sealed, ask)
}

// Get implements store.Items.
func (p Process) Get(ctx context.Context, account string) ([]byte, error) {
	return p.keyring(ctx, "reading from the keyring", job{Do: getItem, Account: account}, nil)
}

// Set implements store.Items.
func (p Process) Set(ctx context.Context, account string, secret []byte) error {
	_, err := p.keyring(ctx, "writing to the keyring", job{Do: setItem, Account: account}, secret)
	return err
}

// Delete implements store.Items.
func (p Process) Delete(ctx context.Context, account string) error {
	_, err := p.keyring(ctx, "deleting from the keyring", job{Do: deleteItem, Account: account}, nil)
	return err
}

// keyringPatience leaves a second of the 3 s within which a caller is to know that
// the keyring does not answer, for machines that have much else to do.
const keyringPatience = 2 * time.Second

// keyringTurn is held while a child talks to the keyring: gnome-keyring writes
// all of its file anew for each item, and one that hangs is to be asked by one
// process, not by many.
var keyringTurn = make(chan struct{}, 1)

func (p Process) keyring(ctx context.Context, what string, j job, secret []byte) (_ []byte, err error) {
	defer func() {
		if err != nil && !errors.Is(err, store.ErrNotExist) && !errors.As(err, new(*store.KeyringError)) {
			err = &store.KeyringError{Cause: store.KeyringFailed, Err: err}
		}
	}()
	patience := max(p.Patience, keyringPatience)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case keyringTurn <- struct{}{}:
	case <-within.Done():
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return nil, fmt.Errorf("%s: it has been busy with another call for %v", what, patience)
	}
	defer func() { <-keyringTurn }()
	data, err := run(within, what, j, secret, nil)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		// Not a DeadlineExceeded: no deadline of the caller's has passed.
		return nil, fmt.Errorf("%s: no answer within %v; it may be waiting for somebody to unlock it, or hang", what, patience)
	}
	return data, err
}

// run starts a child, has it do j with a secret, and returns the secret that
// came of it. No process of the child's group is left when run returns.
func run(ctx context.Context, what string, j job, secret []byte, ask store.Ask) ([]byte, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := start()
	if err != nil {
		return nil, fmt.Errorf("%s: starting a worker: %w", what, err)
	}
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		c.kill()
	})
	data, talkErr := c.talk(ctx, j, secret, ask)
	if !stop() {
		<-killed
	}
	// Before the process is waited for, so that its number is still its own. What
	// a plugin started goes as well.
	c.kill()
	waitErr := c.cmd.Wait()
	switch {
	case talkErr == nil:
		return data, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case errors.Is(talkErr, errNonsense):
		return nil, fmt.Errorf("%s: the worker failed: %w", what, talkErr)
	case errors.Is(talkErr, io.EOF), errors.Is(talkErr, io.ErrUnexpectedEOF), errors.Is(talkErr, syscall.EPIPE):
		return nil, fmt.Errorf("%s: the worker failed: %w", what, cmp.Or(waitErr, talkErr))
	}
	return nil, fmt.Errorf("%s: %w", what, talkErr)
}

// child is a started worker.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
}

func start() (*child, error) {
	cmd := exec.Command(executable(), argument)
	cmd.Args[0] = filepath.Base(os.Args[0]) // what ps shows
	cmd.Env = environment(os.Environ())
	cmd.Dir = "/"
	// A session of its own, so that no plugin reads from the terminal that the
	// daemon may have been started at.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	dieWithParent(cmd.SysProcAttr)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{cmd, in, out}, nil
}

// kill ends all of the child's group, and what waits for the child.
func (c *child) kill() {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	c.in.Close()
	c.out.Close()
}

// talk gives the child its job and answers its prompts until the job is done.
func (c *child) talk(ctx context.Context, j job, secret []byte, ask store.Ask) ([]byte, error) {
	if err := send(c.in, message{Job: &j}, secret); err != nil {
		return nil, err
	}
	var unanswered error
	for {
		m, data, err := receive(c.out)
		switch {
		case err != nil:
			return nil, err
		case m.Outcome != nil:
			if err := m.Outcome.err(); err != nil {
				clear(data)
				if unanswered != nil {
					return nil, unanswered
				}
				return nil, err
			}
			return data, nil
		case m.Prompt == nil, ask == nil:
			return nil, errNonsense
		}
		said, err := ask(ctx, *m.Prompt)
		if err != nil {
			unanswered = err
		}
		err = send(c.in, message{Answer: &answer{said.Text, said.Yes, err != nil}}, said.Secret)
		clear(said.Secret)
		if err != nil {
			return nil, err
		}
	}
}

// kept are the variables that the keyring and plugins need, besides LC_… and
// XDG_…. All else may hold secrets, or make libraries log.
var kept = map[string]bool{
	"HOME": true, "PATH": true, "USER": true, "LOGNAME": true, "TMPDIR": true, "LANG": true,
	"DBUS_SESSION_BUS_ADDRESS": true, "DISPLAY": true, "WAYLAND_DISPLAY": true, "XAUTHORITY": true,
}

func environment(all []string) []string {
	var env []string
	for _, variable := range all {
		name, _, _ := strings.Cut(variable, "=")
		if kept[name] || strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "XDG_") {
			env = append(env, variable)
		}
	}
	return env
}
