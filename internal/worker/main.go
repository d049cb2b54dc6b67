package worker

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"tokend/internal/harden"
	"tokend/store"
)

// argument, alone on its command line, makes this executable a worker.
const argument = "--worker"

// Main does a worker's work and ends the process, if this is one that a Process
// started. Otherwise it returns. It comes before all that reads flags, input or
// secrets.
func Main() {
	if len(os.Args) == 2 && os.Args[1] == argument {
		os.Exit(work())
	}
}

// work does the one job. A worker serves who holds the other ends of its pipes
// and nobody else: it listens nowhere, and gives its caller nothing that the
// caller could not do himself.
func work() int {
	if !pipes() {
		return 2
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		<-ended
		die()
	}()
	if err := harden.CloseInherited(); err != nil {
		return tell(nil, err)
	}
	if err := harden.Process(); err != nil {
		return tell(nil, err)
	}
	m, secret, err := receive(os.Stdin)
	if err != nil || m.Job == nil {
		return 2
	}
	answers := make(chan store.Answer)
	refusals := make(chan struct{})
	go func() {
		for {
			m, secret, err := receive(os.Stdin)
			switch {
			case err != nil || m.Answer == nil:
				die() // whoever wanted this is gone
			case m.Answer.Refused:
				refusals <- struct{}{}
			default:
				answers <- store.Answer{Secret: secret, Text: m.Answer.Text, Yes: m.Answer.Yes}
			}
		}
	}()
	ask := func(_ context.Context, p store.Prompt) (store.Answer, error) {
		if err := send(os.Stdout, message{Prompt: &p}, nil); err != nil {
			return store.Answer{}, err
		}
		select {
		case a := <-answers:
			return a, nil
		case <-refusals:
			return store.Answer{}, errors.New("there is nobody who answers")
		}
	}
	return tell(do(*m.Job, secret, ask))
}

// die ends this process and what plugins it has started.
func die() {
	_ = syscall.Kill(0, syscall.SIGKILL) // the group is this process's own
	os.Exit(2)
}

// pipes says whether this process was started as a Process does it: as the leader of
// its group, so that die hits nobody else, and with pipes to talk through.
func pipes() bool {
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
			return false
		}
	}
	return syscall.Getpgrp() == os.Getpid()
}

func tell(secret []byte, err error) int {
	if send(os.Stdout, message{Outcome: outcomeOf(err)}, secret) != nil {
		return 1
	}
	return 0
}

func do(j job, secret []byte, ask store.Ask) ([]byte, error) {
	ctx := context.Background() // the caller's ends this process
	switch j.Do {
	case wrap:
		return store.InProcess{Plugins: j.Plugins}.Wrap(ctx, secret, j.Protection, ask)
	case unwrap:
		return store.InProcess{Plugins: j.Plugins}.Unwrap(ctx, secret, j.Protection, ask)
	case getItem:
		return store.SecretService{}.Get(ctx, j.Account)
	case setItem:
		return nil, store.SecretService{}.Set(ctx, j.Account, secret)
	case deleteItem:
		return nil, store.SecretService{}.Delete(ctx, j.Account)
	}
	return nil, errNonsense
}
