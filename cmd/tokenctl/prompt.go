package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"tokend/client"
	"tokend/client/api"
	"tokend/internal/settings"
)

// personTime is more than a person takes to answer. Tests have less.
var personTime = 10 * time.Minute

// maxSilence is how long nothing may be seen to happen: more than a key derivation
// takes.
const maxSilence = 5 * time.Second

// tries is how often a new secret is asked for that is empty or not twice the
// same.
const tries = 3

// person answers what the daemon asks: on the terminal, or by an askpass program.
type person struct {
	settings *settings.Settings
	terminal bool
	askpass  string // program, where not on the terminal

	file, newFile passphraseFile // the answers to the first secret asked for, and to the first new one
	protecting    bool           // there may be an old passphrase and a new one

	sshFile   string // --ssh
	sshPublic string // the public key of that, as bareKey has it

	asked bool // at least once
}

// passphraseFile is a file that answers for the person, once.
type passphraseFile struct {
	name   string // "" for none
	secret []byte
	used   bool
}

// newPerson finds out how a person can be asked, as ssh(1) does with SSH_ASKPASS.
func (a *app) newPerson(ctx context.Context, file, newFile string) (*person, error) {
	s, err := a.client.Settings()
	if err != nil {
		return nil, err
	}
	p := &person{settings: s, terminal: isTerminal(os.Stdin) && isTerminal(os.Stderr), askpass: s.Get(settings.Askpass)}
	if require := os.Getenv("SSH_ASKPASS_REQUIRE"); p.askpass == "" && require != "never" {
		display := os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
		if display || require == "force" {
			p.askpass = os.Getenv("SSH_ASKPASS")
		}
		if p.askpass != "" && (require == "force" || require == "prefer") {
			p.terminal = false
		}
	}
	if p.file, err = passphraseIn(ctx, file, "Passphrase:"); err != nil {
		return nil, err
	}
	if p.newFile, err = passphraseIn(ctx, newFile, "New passphrase:"); err == nil && bytes.ContainsFunc(p.newFile.secret, unicode.IsControl) {
		err = &problem{Exit: exitUsage, Message: p.newFile.name + " has more than one line, or another character that nobody can type", Fix: "nothing was changed"}
	}
	return p, err
}

// passphraseIn returns what is in a file, or for "-" in standard input, without
// the newline at its end. On a terminal that is a line, which is asked for.
func passphraseIn(ctx context.Context, file, question string) (none passphraseFile, err error) {
	if file == "" {
		return none, nil
	}
	f := os.Stdin
	if file == "-" {
		file = "standard input"
	} else {
		if f, err = os.Open(file); err != nil {
			return none, &problem{Exit: exitUsage, Message: err.Error()}
		}
		defer f.Close()
	}
	var b []byte
	if f == os.Stdin && isTerminal(f) {
		ctx, stop := interruptible(ctx)
		defer stop()
		var typed string
		typed, err = askSecret(ctx, question)
		if errors.Is(err, io.EOF) {
			err = nil // "is empty"
		}
		b = []byte(typed)
	} else {
		b, err = io.ReadAll(io.LimitReader(f, maxSecret+1))
	}
	if errors.Is(err, context.Canceled) {
		return none, err
	}
	if err != nil {
		return none, &problem{Exit: exitUsage, Message: err.Error()}
	}
	if len(b) > maxSecret {
		return none, &problem{Exit: exitUsage, Message: file + " is longer than 16 KiB"}
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return none, &problem{Exit: exitUsage, Message: file + " is empty"}
	}
	return passphraseFile{name: file, secret: b}, nil
}

// errDeclinedToAnswer is a person's no, or the end of the input.
var errDeclinedToAnswer = &problem{Exit: exitDenied, Message: "not answered: nothing was changed"}

// converse makes a call that may ask. recv receives one message and returns the
// Prompt in it; nil ends the call well. answer makes a message of an answer.
func (a *app) converse(ctx context.Context, p *person, method string, start any, recv func(*client.Stream) (*api.Prompt, error), answer func(*api.PromptAnswer) any) (err error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, personTime)
	defer cancel()
	unanswered := false // a question that a person was asked
	defer func() {
		// The connection may notice the deadline before ctx does.
		late := errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded)
		switch {
		case err == nil:
		case unanswered && late:
			err = &problem{Exit: exitDenied, Message: fmt.Sprintf("nobody answered the question within %v: nothing was changed", personTime)}
		case ctx.Err() != nil:
			err = ctx.Err() // whatever failed because of it
		}
	}()
	s, err := a.client.Open(ctx, method)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := s.Send(start); err != nil {
		return whyEnded(s, err)
	}

	// A call that ends while a person is being asked ends that, too.
	asking, ended := context.WithCancel(ctx)
	defer ended()
	type received struct {
		prompt *api.Prompt
		err    error
	}
	events := make(chan received)
	go func() {
		for {
			var r received
			if r.prompt, r.err = recv(s); r.err != nil {
				ended()
			}
			select {
			case events <- r:
			case <-ctx.Done():
				return
			}
			if r.err != nil || r.prompt == nil {
				return
			}
		}
	}()
	silence := time.NewTimer(maxSilence)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silence.C:
			if isTerminal(os.Stderr) {
				note("still waiting: a key may want a touch, or the keyring asks in a window of its own")
			}
		case r := <-events:
			if errors.Is(r.err, io.EOF) {
				r.err = errors.New("tokend ended the call without saying what came of it")
			}
			if r.err != nil || r.prompt == nil {
				return r.err
			}
			said, err := p.answer(asking, r.prompt)
			unanswered = err != nil
			if err != nil && asking.Err() != nil {
				continue // the end of the call, or of ctx, comes next
			}
			if err != nil {
				return err
			}
			if said != nil {
				_ = s.Send(answer(said)) // if this fails, recv says why
			}
			silence.Reset(maxSilence)
		}
	}
}

// answer asks what the prompt says. A prompt that only shows something has no
// answer.
func (p *person) answer(ctx context.Context, prompt *api.Prompt) (*api.PromptAnswer, error) {
	question := sentence(prompt.Message)
	if prompt.Again {
		question = "That was wrong. " + question
	}
	switch prompt.Ask {
	case api.AskMessage:
		note("%s", prompt.Message)
		return nil, nil //nolint:nilnil // there is nothing to answer
	case api.AskSshKey:
		p.asked = true
		key, err := p.sshKey(prompt)
		return &api.PromptAnswer{Secret: key}, err
	case api.AskSecret, api.AskNewSecret:
		p.asked = true
		file := &p.file
		if prompt.Ask == api.AskNewSecret {
			file = &p.newFile
		}
		if file.name != "" && !file.used {
			file.used = true
			return &api.PromptAnswer{Secret: file.secret}, nil
		}
		if file.name != "" && prompt.Again {
			return nil, &problem{Exit: exitDenied, Message: file.name + ": the passphrase in it is wrong"}
		}
		if p.protecting && prompt.Message == "passphrase of the identity" {
			question = strings.Replace(question, "Passphrase", "Present passphrase", 1)
		}
		if prompt.Ask == api.AskNewSecret {
			secret, err := p.newSecret(ctx, question)
			return &api.PromptAnswer{Secret: []byte(secret)}, err
		}
		secret, err := p.ask(ctx, question, true)
		return &api.PromptAnswer{Secret: []byte(secret)}, err
	case api.AskText:
		p.asked = true
		text, err := p.ask(ctx, question, false)
		return &api.PromptAnswer{Text: text}, err
	case api.AskConfirm:
		p.asked = true
		yes, err := p.confirm(ctx, prompt)
		return &api.PromptAnswer{Yes: yes}, err
	}
	return nil, errors.New("tokend asks something that this tokenctl does not know; update tokenctl")
}

// sentence begins with a capital letter, unless that is a program's name.
func sentence(s string) string {
	if s == "" || strings.HasPrefix(s, "age-plugin-") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// ask puts a question that is answered with a line, which is not seen where it is
// secret.
func (p *person) ask(ctx context.Context, question string, secret bool) (string, error) {
	if !strings.HasSuffix(question, ":") && !strings.HasSuffix(question, "?") {
		question += ":"
	}
	if !p.terminal {
		return p.runAskpass(ctx, question)
	}
	by := ask
	if secret {
		by = askSecret
	}
	answer, err := by(ctx, question)
	if errors.Is(err, io.EOF) {
		err = errDeclinedToAnswer
	}
	return answer, err
}

// newSecret asks twice.
func (p *person) newSecret(ctx context.Context, question string) (string, error) {
	again := question
	for range tries {
		secret, err := p.ask(ctx, again, true)
		if err != nil {
			return "", err
		}
		if secret == "" {
			again = "It must not be empty. " + question
			continue
		}
		twice, err := p.ask(ctx, "The same once more", true)
		if err != nil {
			return "", err
		}
		if secret == twice {
			return secret, nil
		}
		again = "They differ. " + question
	}
	return "", &problem{Exit: exitDenied, Message: "no new secret was typed twice the same: nothing was changed"}
}

// confirm asks for one of two things, or where there is but one, waits for that.
func (p *person) confirm(ctx context.Context, prompt *api.Prompt) (bool, error) {
	only := prompt.No == ""
	if !p.terminal {
		_, err := p.runAskpass(ctx, sentence(prompt.Message), "SSH_ASKPASS_PROMPT=confirm")
		if errors.Is(err, errDeclinedToAnswer) && !only {
			return false, nil
		}
		return err == nil, err
	}
	question := strings.TrimSuffix(sentence(prompt.Message), "?")
	if only {
		question = fmt.Sprintf("%s [Enter: %s]", question, prompt.Yes)
	} else {
		question = fmt.Sprintf("%s [y: %s, n: %s]", question, prompt.Yes, prompt.No)
	}
	for {
		answer, err := ask(ctx, question+"?")
		if errors.Is(err, io.EOF) {
			err = errDeclinedToAnswer
		}
		if err != nil {
			return false, err
		}
		switch answer = strings.ToLower(strings.TrimSpace(answer)); {
		case only, answer == "y", answer == "yes":
			return true, nil
		case answer == "n", answer == "no":
			return false, nil
		}
	}
}

// runAskpass lets the program ask: the question is its argument, and the line that
// it prints the answer. One that fails is a no.
func (p *person) runAskpass(ctx context.Context, question string, env ...string) (string, error) {
	if p.askpass == "" {
		return "", &problem{
			Exit: exitUsage, Message: "there is no terminal to ask on, and no program that asks",
			Fix: "run it on a terminal, or set TOKEND_ASKPASS to an askpass program",
		}
	}
	cmd := exec.CommandContext(ctx, p.askpass, oneLine(question))
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SSH_ASKPASS_PROMPT=") }), env...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.As(err, &exit) && exit.Exited():
		return "", errDeclinedToAnswer
	case err != nil:
		return "", &problem{Exit: exitFailed, Message: "running the askpass program " + p.askpass + ": " + err.Error(), Fix: "check TOKEND_ASKPASS or SSH_ASKPASS"}
	case len(out) > maxSecret:
		return "", &problem{Exit: exitFailed, Message: "the askpass program " + p.askpass + " printed more than 16 KiB"}
	}
	answer, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSuffix(answer, "\r"), nil
}
