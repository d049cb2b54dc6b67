package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/client"
	tokendv1 "tokend/proto/tokend/v1"
)

const (
	askSecretKind  = tokendv1.Prompt_ASK_SECRET
	askNewKind     = tokendv1.Prompt_ASK_NEW_SECRET
	askTextKind    = tokendv1.Prompt_ASK_TEXT
	askConfirmKind = tokendv1.Prompt_ASK_CONFIRM
	askMessageKind = tokendv1.Prompt_ASK_MESSAGE
	askSSHKind     = tokendv1.Prompt_ASK_SSH_KEY
)

// unlocks is an Unlock that asks, and then ends in done. What it is told comes
// into said.
func unlocks(said *[]*tokendv1.UnlockRequest, done *tokendv1.UnlockResponse_Unlocked, prompts ...*tokendv1.Prompt) func(unlockStream) error {
	return func(stream unlockStream) error {
		*said = nil
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		*said = append(*said, r)
		for _, p := range prompts {
			if err := stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Prompt{Prompt: p}}); err != nil {
				return err
			}
			if p.Ask == askMessageKind {
				continue
			}
			if r, err = stream.Recv(); err != nil {
				return err
			}
			*said = append(*said, r)
		}
		return stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Unlocked_{Unlocked: done}})
	}
}

func startsUnlock(d time.Duration) *tokendv1.UnlockRequest {
	start := &tokendv1.UnlockRequest_Start{}
	if d > 0 {
		start.LockAfter = durationpb.New(d)
	}
	return &tokendv1.UnlockRequest{Message: &tokendv1.UnlockRequest_Start_{Start: start}}
}

func answers(a *tokendv1.PromptAnswer) *tokendv1.UnlockRequest {
	return &tokendv1.UnlockRequest{Message: &tokendv1.UnlockRequest_Answer{Answer: a}}
}

func secret(s string) *tokendv1.UnlockRequest {
	return answers(&tokendv1.PromptAnswer{Secret: []byte(s)})
}

// wantTold compares what the daemon was told.
func wantTold[M proto.Message](t *testing.T, got []M, want ...M) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("the daemon was told (-want +got)\n%s", diff)
	}
}

// line is what is typed when a question ends in that way.
type typing struct{ after, text string }

// onTerminal runs tokenctl on a terminal, which must be as before when it has
// ended.
func onTerminal(t *testing.T, s *script, env []string, exit int, dialog []typing, args ...string) string {
	t.Helper()
	p := newTerminal(t, 80, 24)
	before := p.modes(t)
	cmd := p.start(t, s, env, args...)
	seen := ""
	for _, line := range dialog {
		p.until(t, line.after)
		seen += p.out.String()
		p.out.Reset()
		p.types(t, line.text)
	}
	_ = cmd.Wait()
	if after := p.modes(t); after != before {
		t.Errorf("the terminal's modes are %o, were %o", after, before)
	}
	return strings.ReplaceAll(seen, "\r\n", "\n") + p.ends(t, s, cmd, exit)
}

func TestUnlockAsksOnTheTerminal(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	passphrase := &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase of the identity"}
	again := &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase of the identity", Again: true}
	s := serve(t, &script{unlock: unlocks(&said, &tokendv1.UnlockResponse_Unlocked{LocksAt: later()}, passphrase, again)})
	got := onTerminal(t, s, nil, 0, []typing{{"identity: ", "wrong\n"}, {"identity: ", " right \n"}}, "unlock", "--for", "90m")
	if want := "Passphrase of the identity: \nThat was wrong. Passphrase of the identity: \nunlocked; it locks at 2033-05-18 03:33:20\n"; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
	wantTold(t, said, startsUnlock(90*time.Minute), secret("wrong"), secret(" right "))

	// What a plugin asks: a PIN, a line, a choice; what it shows.
	s.unlock = unlocks(&said, &tokendv1.UnlockResponse_Unlocked{},
		&tokendv1.Prompt{Ask: askMessageKind, Message: "touch it\x1b[2J"},
		&tokendv1.Prompt{Ask: askTextKind, Message: "Which slot?"},
		&tokendv1.Prompt{Ask: askConfirmKind, Message: "Insert the key", Yes: "done", No: "cancel"},
		&tokendv1.Prompt{Ask: askConfirmKind, Message: "Insert the key", Yes: "done"},
		&tokendv1.Prompt{Ask: askSecretKind, Message: "PIN:"})
	got = onTerminal(t, s, nil, 0, []typing{{"slot? ", "one\n"}, {"cancel]? ", "maybe\n"}, {"cancel]? ", "n\n"}, {"done]? ", "\n"}, {"PIN: ", "1234\n"}}, "unlock")
	if want := `tokenctl: touch it\x1b[2J
Which slot? one
Insert the key [y: done, n: cancel]? maybe
Insert the key [y: done, n: cancel]? n
Insert the key [Enter: done]? 
PIN: 
unlocked
`; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
	wantTold(t, said, startsUnlock(0), answers(&tokendv1.PromptAnswer{Text: "one"}), answers(&tokendv1.PromptAnswer{}), answers(&tokendv1.PromptAnswer{Yes: true}), secret("1234"))
}

// serveUnanswered serves a daemon that asks for a passphrase, and says when the call in
// which it did has ended.
func serveUnanswered(t *testing.T) (*script, <-chan bool) {
	t.Helper()
	gone := make(chan bool, 1)
	s := serve(t, &script{unlock: func(stream unlockStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Prompt{Prompt: &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase"}}}); err != nil {
			return err
		}
		_, err := stream.Recv()
		gone <- true
		return err
	}})
	return s, gone
}

// A person who does not answer ends the call, and the terminal is as it was.
func TestUnlockIsEnded(t *testing.T) {
	s, gone := serveUnanswered(t)
	for _, test := range []struct {
		types string
		exit  int
		says  string
	}{
		{"half\x03", exitStopped, "interrupted"},
		{"half\x1c", exitStopped, "interrupted"}, // SIGQUIT
		{"\x04", exitDenied, "not answered: nothing was changed"},
	} {
		got := onTerminal(t, s, nil, test.exit, []typing{{"Passphrase: ", test.types}}, "unlock")
		<-gone
		if want := "Passphrase: \ntokenctl: " + test.says + "\n"; got != want {
			t.Errorf("%q: it said\n%q, want\n%q", test.types, got, want)
		}
	}
	for _, signal := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP} {
		p := newTerminal(t, 80, 24)
		before := p.modes(t)
		cmd := p.start(t, s, nil, "unlock")
		p.until(t, "Passphrase: ")
		if now := p.modes(t); now&unix.ECHO != 0 {
			t.Error("it would echo")
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		<-gone
		_ = cmd.Wait()
		if after := p.modes(t); after != before {
			t.Errorf("%v: the terminal's modes are %o, were %o", signal, after, before)
		}
		p.ends(t, s, cmd, exitStopped)
	}
	// The terminal's window is closed.
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "unlock")
	p.until(t, "Passphrase: ")
	p.theirs.Close()
	p.ours.Close()
	<-gone
	_ = cmd.Wait()
	s.call()()
	// The daemon ends the call while a person is being asked.
	s.unlock = func(stream unlockStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Prompt{Prompt: &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase"}}}); err != nil {
			return err
		}
		return refusal("STORE_UNAVAILABLE", "the identity is gone")
	}
	if got, want := onTerminal(t, s, nil, exitNotNow, nil, "unlock"), "Passphrase: \ntokenctl: the identity is gone; then run: tokenctl reload\n"; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
}

// Nobody is there.
func TestUnlockIsNotAnswered(t *testing.T) {
	passphrase := &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase of the identity"}
	s := serve(t, &script{unlock: func(stream unlockStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Prompt{Prompt: passphrase}}); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}})
	soon := []string{"TOKENCTL_TEST_PERSON_TIME=300ms"}
	if got, want := onTerminal(t, s, soon, exitDenied, nil, "unlock"), "Passphrase of the identity: \ntokenctl: nobody answered the question within 300ms: nothing was changed\n"; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
	s.call()()
	s.unlock = func(stream unlockStream) error {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	want(t, s.runWith(t, soon, "", "unlock"), outcome{Stderr: "tokenctl: tokend did not answer in time; see: tokenctl status\n", Exit: 3})
}

// What stands for a file on a terminal is typed unseen, too.
func TestPassphraseIsTypedForAFile(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	passphrase := &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase of the identity"}
	s := serve(t, &script{unlock: unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, passphrase)})
	for _, test := range []struct {
		types string
		exit  int
		says  string
	}{
		{"open sesame\n", 0, "Passphrase: \nunlocked\n"},
		{"\n", 2, "Passphrase: \ntokenctl: standard input is empty\n"},
		{"\x04", 2, "Passphrase: \ntokenctl: standard input is empty\n"},
		{"half\x03", exitStopped, "Passphrase: \ntokenctl: interrupted\n"},
	} {
		said = nil
		got := onTerminal(t, s, nil, test.exit, []typing{{"Passphrase: ", test.types}}, "unlock", "--passphrase-file", "-")
		if got != test.says {
			t.Errorf("%q: it said\n%q, want\n%q", test.types, got, test.says)
		}
		if test.exit == 0 {
			wantTold(t, said, startsUnlock(0), secret("open sesame"))
		} else {
			wantTold(t, said)
		}
	}
}

// A shell gives the terminal its echo back while tokenctl is stopped.
func TestUnlockIsStopped(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	s := serve(t, &script{unlock: unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase"})})
	p := newTerminal(t, 80, 24)
	before, err := unix.IoctlGetTermios(int(p.theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.start(t, s, nil, "unlock")
	p.until(t, "Passphrase: ")
	p.out.Reset()
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var state syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &state, syscall.WUNTRACED, nil); err != nil || !state.Stopped() {
		t.Fatal(err, state)
	}
	if err := unix.IoctlSetTermios(int(p.theirs.Fd()), unix.TCSETS, before); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.until(t, "Passphrase: ")
	if p.modes(t)&unix.ECHO != 0 {
		t.Error("it echoes")
	}
	p.types(t, "open sesame\n")
	p.until(t, "unlocked")
	if after := p.modes(t); after != before.Lflag {
		t.Errorf("the terminal's modes are %o, were %o", after, before.Lflag)
	}
	if got, want := p.ends(t, s, cmd, 0), "Passphrase: \nunlocked\n"; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
	wantTold(t, said, startsUnlock(0), secret("open sesame"))
}

// What was typed of a secret is not left for the shell where the call ends.
func TestUnlockLeavesNothingTyped(t *testing.T) {
	typed := make(chan bool)
	s := serve(t, &script{unlock: func(stream unlockStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&tokendv1.UnlockResponse{Event: &tokendv1.UnlockResponse_Prompt{Prompt: &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase"}}}); err != nil {
			return err
		}
		<-typed
		return refusal("STORE_UNAVAILABLE", "the identity is gone")
	}})
	p := newTerminal(t, 80, 24)
	cmd := p.start(t, s, nil, "unlock")
	p.until(t, "Passphrase: ")
	p.types(t, "open ses")
	typed <- true
	_ = cmd.Wait()
	p.types(t, "!\n")
	b := make([]byte, 100)
	if n, err := p.theirs.Read(b); string(b[:n]) != "!\n" {
		t.Errorf("the shell reads %q, %v", b[:n], err)
	}
	p.ends(t, s, cmd, exitNotNow)
}

// askpass is a program that notes how it was asked, and answers.
func (s *script) askpass(t *testing.T, answer string) (program, asked string) {
	t.Helper()
	asked = filepath.Join(s.dir, "asked")
	_ = os.Remove(asked)
	return s.write(t, "askpass", "#!/bin/sh\necho \"$# $1 [$SSH_ASKPASS_PROMPT]\" >> "+asked+"\n"+answer+"\n"), asked
}

func TestUnlockAsksByAskpass(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	prompts := []*tokendv1.Prompt{
		{Ask: askSecretKind, Message: "passphrase of the identity\n\x1b"},
		{Ask: askConfirmKind, Message: "sure?", Yes: "yes", No: "no"},
		{Ask: askTextKind, Message: "slot"},
	}
	s := serve(t, &script{unlock: unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, prompts...)})
	program, asked := s.askpass(t, "echo 'opén sesame'; echo more")
	for _, env := range [][]string{
		{"TOKEND_ASKPASS=" + program, "SSH_ASKPASS=/bin/false", "DISPLAY=:0", "SSH_ASKPASS_PROMPT=none"},
		{"SSH_ASKPASS=" + program, "DISPLAY=:0"},
		{"SSH_ASKPASS=" + program, "WAYLAND_DISPLAY=wayland-0"},
		{"SSH_ASKPASS=" + program, "SSH_ASKPASS_REQUIRE=force"},
	} {
		want(t, s.runWith(t, env, "", "unlock"), outcome{Stdout: "unlocked\n"})
		wantTold(t, said, startsUnlock(0), secret("opén sesame"), answers(&tokendv1.PromptAnswer{Yes: true}), answers(&tokendv1.PromptAnswer{Text: "opén sesame"}))
		b, err := os.ReadFile(asked)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(b), "1 Passphrase of the identity \\x1b: []\n1 Sure? [confirm]\n1 Slot: []\n"; got != want {
			t.Errorf("%v: asked\n%s, want\n%s", env, got, want)
		}
		_ = os.Remove(asked)
	}
	// Nothing that asks.
	noOne := outcome{Stderr: "tokenctl: there is no terminal to ask on, and no program that asks; run it on a terminal, or set TOKEND_ASKPASS to an askpass program\n", Exit: 2}
	for _, env := range [][]string{
		nil,
		{"SSH_ASKPASS=" + program},
		{"SSH_ASKPASS=" + program, "DISPLAY=:0", "SSH_ASKPASS_REQUIRE=never"},
	} {
		want(t, s.runWith(t, env, "typed\n", "unlock"), noOne)
	}
	if _, err := os.Stat(asked); err == nil {
		t.Error("the program was run")
	}
	// On a terminal that asks, unless it is to be the program.
	s.unlock = unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, prompts[0])
	if got := onTerminal(t, s, []string{"SSH_ASKPASS=" + program, "DISPLAY=:0", "SSH_ASKPASS_REQUIRE=prefer"}, 0, nil, "unlock"); got != "unlocked\n" {
		t.Errorf("it said %q", got)
	}
	onTerminal(t, s, []string{"TOKEND_ASKPASS=" + program, "SSH_ASKPASS=" + program, "DISPLAY=:0"}, 0, []typing{{": ", "typed\n"}}, "unlock")
	wantTold(t, said, startsUnlock(0), secret("typed"))

	// A no, and a program that cannot be run.
	program, _ = s.askpass(t, "exit 1")
	want(t, s.runWith(t, []string{"TOKEND_ASKPASS=" + program}, "", "unlock"), outcome{Stderr: "tokenctl: not answered: nothing was changed\n", Exit: 7})
	s.unlock = unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, prompts[1])
	want(t, s.runWith(t, []string{"TOKEND_ASKPASS=" + program}, "", "unlock"), outcome{Stdout: "unlocked\n"})
	wantTold(t, said, startsUnlock(0), answers(&tokendv1.PromptAnswer{}))
	want(t, s.runWith(t, []string{"TOKEND_ASKPASS=/nonexistent/askpass"}, "", "unlock"), outcome{
		Stderr: "tokenctl: running the askpass program /nonexistent/askpass: fork/exec /nonexistent/askpass: no such file or directory; check TOKEND_ASKPASS or SSH_ASKPASS\n", Exit: 1})
}

// The program that asks ends with tokenctl.
func TestAskpassIsEnded(t *testing.T) {
	s, gone := serveUnanswered(t)
	up, ended := s.fifo(t, "up"), filepath.Join(s.dir, "ended")
	program := s.write(t, "askpass", "#!/bin/sh\ntrap 'echo yes > "+ended+"; exit 1' TERM\necho up > "+up+"\nwhile :; do sleep 0.05; done\n")
	cmd := s.command(t, []string{"TOKEND_ASKPASS=" + program}, "unlock")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(up); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-gone
	_ = cmd.Wait()
	if b, err := os.ReadFile(ended); cmd.ProcessState.ExitCode() != exitStopped || string(b) != "yes\n" {
		t.Errorf("exit status %d, and the program %q %v", cmd.ProcessState.ExitCode(), b, err)
	}
	s.call()()
}

func TestPassphraseFile(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	passphrase := &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase of the identity"}
	again := &tokendv1.Prompt{Ask: askSecretKind, Message: "passphrase of the identity", Again: true}
	s := serve(t, &script{unlock: unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, passphrase)})
	file := s.write(t, "passphrase", " open sesame \r\n")
	want(t, s.run(t, "", "unlock", "--passphrase-file", file), outcome{Stdout: "unlocked\n"})
	wantTold(t, said, startsUnlock(0), secret(" open sesame "))
	want(t, s.run(t, "typed", "unlock", "--passphrase-file", "-"), outcome{Stdout: "unlocked\n"})
	wantTold(t, said, startsUnlock(0), secret("typed"))
	s.unlock = unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, passphrase, again)
	want(t, s.run(t, "", "unlock", "--passphrase-file", file), outcome{Stderr: "tokenctl: " + file + ": the passphrase in it is wrong\n", Exit: 7})
	empty := s.write(t, "empty", "\n")
	want(t, s.run(t, "", "unlock", "--passphrase-file", empty), outcome{Stderr: "tokenctl: " + empty + " is empty\n", Exit: 2})
	want(t, s.run(t, "", "unlock", "--passphrase-file", s.dir+"/none"), outcome{Stderr: "tokenctl: open " + s.dir + "/none: no such file or directory\n", Exit: 2})
}

func TestNewPassphraseIsTypedTwice(t *testing.T) {
	var told []*tokendv1.PromptAnswer
	s := serve(t, &script{protect: func(stream protectStream) error {
		told = nil
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if r.GetStart().GetProtection().GetPassphrase() == nil {
			return refusal("REQUEST_INVALID", "not a passphrase")
		}
		if err := stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Prompt{Prompt: &tokendv1.Prompt{Ask: askNewKind, Message: "new passphrase"}}}); err != nil {
			return err
		}
		if r, err = stream.Recv(); err != nil {
			return err
		}
		told = append(told, r.GetAnswer())
		return stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Protected_{Protected: &tokendv1.ProtectResponse_Protected{IdentityFile: "/d/identity.age", Warning: "mind the backups"}}})
	}})
	const asks, once = "New passphrase: ", "The same once more: "
	const done = "tokenctl: mind the backups\n/d/identity.age: protected by a passphrase\n"
	got := onTerminal(t, s, nil, 0, []typing{{asks, "\n"}, {asks, "one\n"}, {once, "two\n"}, {asks, "three\n"}, {once, "three\n"}}, "protect", "--passphrase")
	if want := asks + "\nIt must not be empty. " + asks + "\n" + once + "\nThey differ. " + asks + "\n" + once + "\n" + done; got != want {
		t.Errorf("it said\n%q, want\n%q", got, want)
	}
	wantTold(t, told, &tokendv1.PromptAnswer{Secret: []byte("three")})

	// A program that never says the same twice is not asked for ever.
	n := filepath.Join(s.dir, "n")
	program := s.write(t, "askpass", "#!/bin/sh\necho x >> "+n+"; wc -l < "+n+"\n")
	want(t, s.runWith(t, []string{"TOKEND_ASKPASS=" + program}, "", "protect", "--passphrase"),
		outcome{Stderr: "tokenctl: no new secret was typed twice the same: nothing was changed\n", Exit: 7})
	want(t, s.run(t, "typed\n", "protect", "--passphrase-file", "-"), outcome{Stdout: "/d/identity.age: protected by a passphrase\n", Stderr: "tokenctl: mind the backups\n"})
	wantTold(t, told, &tokendv1.PromptAnswer{Secret: []byte("typed")})
}

// keygen makes an SSH key pair and returns the private key's file and the public
// one without its comment.
func keygen(t *testing.T, file string, args ...string) (private []byte, public string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	private, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return private, strings.Join(strings.Fields(string(b))[:2], " ")
}

func TestSSHKeys(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	s := serve(t, &script{})
	rsa, rsaPublic := keygen(t, s.dir+"/.ssh/id_rsa", "-t", "rsa", "-b", "2048", "-N", "")
	other, otherPublic := keygen(t, s.dir+"/other", "-t", "ed25519", "-N", "locked")
	pem, pemPublic := keygen(t, s.dir+"/pem", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "")
	_, missingPublic := keygen(t, s.dir+"/missing", "-t", "ed25519", "-N", "")
	keygen(t, s.dir+"/.ssh/id_ed25519", "-t", "ed25519", "-N", "")
	for _, name := range []string{"/.ssh/id_rsa.pub", "/other.pub"} { // the private key's file says it, too
		if err := os.Remove(s.dir + name); err != nil {
			t.Fatal(err)
		}
	}
	wrong := func(public string) string {
		out, err := exec.Command("ssh-keygen", "-lf", s.write(t, "public", public+"\n")).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))[1]
	}
	const hint = "; name the file of its private key: TOKEND_SSH_KEY=FILE\n"
	for _, test := range []struct {
		name, public, file string
		again              bool
		given              []byte
		says               string
	}{
		{"the default", rsaPublic, "", false, rsa, ""},
		{"encrypted", otherPublic + " me@example.com", "/other", false, other, ""},
		{"an older format", pemPublic, "/pem", false, pem, ""},
		{"an older format that is another", rsaPublic, "/pem", false, nil, s.dir + "/pem is another SSH key than the one that protects the identity, " + wrong(rsaPublic) + hint},
		{"another than named", rsaPublic, "/other", false, nil, s.dir + "/other is another SSH key than the one that protects the identity, " + wrong(rsaPublic) + hint},
		{"no default", missingPublic, "", false, nil, "neither ~/.ssh/id_ed25519 nor ~/.ssh/id_rsa is the SSH key that protects the identity, " + wrong(missingPublic) + hint},
		{"not there", rsaPublic, "/none", false, nil, "reading the SSH key: open " + s.dir + "/none: no such file or directory" + hint},
	} {
		s.unlock = unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, &tokendv1.Prompt{Ask: askSSHKind, Message: "private key", PublicKey: test.public, Again: test.again})
		var env []string
		if test.file != "" {
			env = []string{"TOKEND_SSH_KEY=" + s.dir + test.file}
		}
		if test.given == nil {
			want(t, s.runWith(t, env, "", "unlock"), outcome{Stderr: "tokenctl: " + test.says, Exit: 78})
			wantTold(t, said, startsUnlock(0))
			continue
		}
		want(t, s.runWith(t, env, "", "unlock"), outcome{Stdout: "unlocked\n"})
		wantTold(t, said, startsUnlock(0), secret(string(test.given)))
	}
	s.unlock = unlocks(&said, &tokendv1.UnlockResponse_Unlocked{}, &tokendv1.Prompt{Ask: askSSHKind, PublicKey: rsaPublic, Again: true})
	want(t, s.run(t, "", "unlock"), outcome{Stderr: "tokenctl: the SSH key does not open the identity" + hint, Exit: 7})
	wantTold(t, said, startsUnlock(0))

	// What --ssh takes, and that the key that it names is given where it is asked for.
	var start *tokendv1.IdentityProtection
	var given []byte
	s.protect = func(stream protectStream) error {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		start = r.GetStart().GetProtection()
		if err := stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Prompt{Prompt: &tokendv1.Prompt{Ask: askSSHKind, PublicKey: start.GetSsh().GetPublicKey()}}}); err != nil {
			return err
		}
		if r, err = stream.Recv(); err != nil {
			return err
		}
		given = r.GetAnswer().GetSecret()
		return stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Protected_{Protected: &tokendv1.ProtectResponse_Protected{IdentityFile: "/d/identity.age"}}})
	}
	for file, wanted := range map[string]string{"/other": otherPublic, "/pem": pemPublic, "/pem.pub": pemPublic} {
		want(t, s.run(t, "", "protect", "--ssh", s.dir+file), outcome{
			Stdout: "/d/identity.age: protected by an SSH key\n",
			Stderr: "tokenctl: to unlock, set TOKEND_SSH_KEY=" + strings.TrimSuffix(s.dir+file, ".pub") + ", such as in " + s.dir + "/.config/tokend/config\n",
		})
		key, err := os.ReadFile(strings.TrimSuffix(s.dir+file, ".pub"))
		if err != nil {
			t.Fatal(err)
		}
		if start.GetSsh().GetPublicKey() != wanted || string(given) != string(key) {
			t.Errorf("%s: protected by %v, given %d bytes", file, start, len(given))
		}
	}
	if err := os.Remove(s.dir + "/pem.pub"); err != nil {
		t.Fatal(err)
	}
	pemFile := s.dir + "/pem"
	want(t, s.run(t, "", "protect", "--ssh", pemFile), outcome{
		Stderr: fmt.Sprintf("tokenctl: %s: its public half is neither in it nor in %[1]s.pub; run: ssh-keygen -y -f %[1]s > %[1]s.pub\n", pemFile), Exit: 2})
}

func TestProtectFlags(t *testing.T) {
	s := serve(t, &script{})
	var told *tokendv1.IdentityProtection
	s.protect = func(stream protectStream) error {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		told = r.GetStart().GetProtection()
		return stream.Send(&tokendv1.ProtectResponse{Event: &tokendv1.ProtectResponse_Protected_{Protected: &tokendv1.ProtectResponse_Protected{IdentityFile: "/d/x"}}})
	}
	identity := s.write(t, "yubikey.txt", "# serial 1\n#    Recipient: age1yubikey1qqq\nAGE-PLUGIN-YUBIKEY-1QQQ\n")
	for _, test := range []struct {
		args []string
		told *tokendv1.IdentityProtection
		says string
	}{
		{[]string{"--none"}, &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_None_{None: &tokendv1.IdentityProtection_None{}}}, "nothing but its mode"},
		{[]string{"--keyring"}, &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_Keyring_{Keyring: &tokendv1.IdentityProtection_Keyring{}}}, "the keyring"},
		{[]string{"--plugin", "tpm"}, &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_Plugin_{Plugin: &tokendv1.IdentityProtection_Plugin{Name: "tpm"}}}, "an age plugin"},
		{[]string{"--plugin", "yubikey", "--plugin-identity", identity}, &tokendv1.IdentityProtection{Kind: &tokendv1.IdentityProtection_Plugin_{Plugin: &tokendv1.IdentityProtection_Plugin{Name: "yubikey", Identity: "AGE-PLUGIN-YUBIKEY-1QQQ"}}}, "an age plugin"},
	} {
		want(t, s.run(t, "", append([]string{"protect"}, test.args...)...), outcome{Stdout: "/d/x: protected by " + test.says + "\n"})
		if !proto.Equal(told, test.told) {
			t.Errorf("%v: told %v", test.args, told)
		}
	}
	want(t, s.run(t, "", "protect", "--none", "-o", "json"), outcome{Stdout: "{\n  \"identity_file\": \"/d/x\",\n  \"identity_protection\": \"none\"\n}\n"})
	two := s.write(t, "two.txt", "AGE-PLUGIN-A-1QQQ\nAGE-PLUGIN-B-1QQQ\n")
	const help = "; see: tokenctl protect --help\n"
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "what is to protect it: --passphrase, --ssh KEY, --plugin NAME, --keyring or --none" + help},
		{[]string{"--none", "--keyring"}, "one thing only protects the identity" + help},
		{[]string{"--plugin-identity", identity}, "--plugin-identity needs --plugin" + help},
		{[]string{"--plugin", "a", "--plugin-identity", two}, two + ": there must be one line in it that begins with AGE-PLUGIN-, not 2\n"},
		{[]string{"--ssh", s.dir + "/none"}, "reading the SSH key: open " + s.dir + "/none: no such file or directory\n"},
		{[]string{"--ssh", two}, two + ": its public half is neither in it nor in " + two + ".pub; run: ssh-keygen -y -f " + two + " > " + two + ".pub\n"},
		{[]string{"x"}, "unexpected argument \"x\"" + help},
	} {
		want(t, s.run(t, "", append([]string{"protect"}, test.args...)...), outcome{Stderr: "tokenctl: " + test.says, Exit: 2})
	}
	s.protect = func(protectStream) error { return refusal("SETTINGS_INVALID", "the plugin may not be run") }
	want(t, s.run(t, "", "protect", "--plugin", "tpm"), outcome{Stderr: "tokenctl: the plugin may not be run; then run: tokenctl daemon restart\n", Exit: 78})
	s.protect = func(protectStream) error {
		return refusal("SETTINGS_INVALID", "there is none", "cause", "no_plugin")
	}
	want(t, s.run(t, "", "protect", "--plugin", "tpm"), outcome{Stderr: "tokenctl: there is none; put it, or a link to it, into one of " + client.DaemonPath + "\n", Exit: 78})
	s.protect = func(protectStream) error {
		return refusal("STORE_UNAVAILABLE", "no", "cause", "keyring_locked")
	}
	want(t, s.run(t, "", "protect", "--keyring"), outcome{Stderr: "tokenctl: no; open it in the desktop's own program, then run: tokenctl protect\n", Exit: 75})
	s.protect = func(protectStream) error { return refusal("LOCKED", "locked") }
	want(t, s.run(t, "", "protect", "--none"), outcome{Stderr: "tokenctl: locked; run: tokenctl unlock\n", Exit: 5})
}

func TestLock(t *testing.T) {
	answer := &tokendv1.LockResponse{}
	s := serve(t, &script{lock: func() (*tokendv1.LockResponse, error) { return answer, nil }})
	want(t, s.run(t, "", "lock"), outcome{Stdout: "locked\n"})
	answer = &tokendv1.LockResponse{WasLocked: true, Unprotected: true, UnsavedSessions: []string{"dev/network"}}
	want(t, s.run(t, "", "lock"), outcome{Stdout: "locked already\n", Stderr: "tokenctl: nothing protects the identity on disk: whoever can read its file needs no unlock; run: tokenctl protect --passphrase\n" +
		"tokenctl: dev/network: its session could not be written yet, and stays in memory until it is\n"})
	want(t, s.run(t, "", "lock", "-o", "json"), outcome{Stdout: `{
  "running": true,
  "was_locked": true,
  "unprotected": true,
  "unsaved_sessions": [
    "dev/network"
  ]
}
`})
	s.stop()
	want(t, s.run(t, "", "lock"), outcome{Stderr: "tokenctl: tokend is not running, so it holds nothing\n"})
	want(t, s.run(t, "", "lock", "-o", "json"), outcome{Stdout: "{\n  \"running\": false,\n  \"was_locked\": false,\n  \"unprotected\": false,\n  \"unsaved_sessions\": []\n}\n"})
}

func TestUnlockWithoutAWord(t *testing.T) {
	var said []*tokendv1.UnlockRequest
	done := &tokendv1.UnlockResponse_Unlocked{}
	s := serve(t, &script{unlock: unlocks(&said, done), status: &tokendv1.GetStatusResponse{IdentityProtection: "none"}})
	want(t, s.run(t, "", "unlock"), outcome{Stdout: "unlocked\n", Stderr: "tokenctl: nothing was asked, because nothing protects the identity on disk; run: tokenctl protect --passphrase\n"})
	want(t, s.run(t, "", "unlock", "-o", "json"), outcome{Stdout: "{\n  \"was_unlocked\": false,\n  \"asked\": false\n}\n"})
	done.WasUnlocked, done.LocksAt = true, later()
	want(t, s.run(t, "", "unlock", "--for", "8h"), outcome{Stdout: "unlocked already; it locks at 2033-05-18 03:33:20\n"})
	wantTold(t, said, startsUnlock(8*time.Hour))
	want(t, s.run(t, "", "unlock", "-o", "json"), outcome{Stdout: "{\n  \"was_unlocked\": true,\n  \"asked\": false,\n  \"locks_at\": \"2033-05-18T03:33:20Z\",\n  \"locks_at_unix\": 2000000000\n}\n"})
	want(t, s.run(t, "", "unlock", "--for", "0s"), outcome{Stderr: "tokenctl: --for needs a time, such as 8h; see: tokenctl unlock --help\n", Exit: 2})
	s.unlock = func(unlockStream) error { return refusal("DENIED", "it does not open the identity") }
	want(t, s.run(t, "", "unlock"), outcome{Stderr: "tokenctl: it does not open the identity; to try again: tokenctl unlock\n", Exit: 7})
	s.unlock = func(unlockStream) error { return refusal("THROTTLED", "8 others are unlocking already") }
	want(t, s.run(t, "", "unlock"), outcome{Stderr: "tokenctl: 8 others are unlocking already; try again later\n", Exit: 75})
	s.unlock = func(unlockStream) error { return io.EOF }
	if got := s.run(t, "", "unlock"); got.Exit != 1 {
		t.Errorf("%+v", got)
	}
}

func TestStatusShowsTheLock(t *testing.T) {
	s := serve(t, &script{status: &tokendv1.GetStatusResponse{
		State: tokendv1.GetStatusResponse_STATE_LOCKED, ProfilesDir: "/d/profiles", IdentityFile: "/d/identity.age", IdentityProtection: "passphrase",
		LockedSince: later(), LockReason: "the screen was locked", ConfigFile: "/c/config",
	}})
	wantParts := func(got outcome, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(got.Stdout, part) {
				t.Errorf("no %q in\n%s", part, got.Stdout)
			}
		}
	}
	wantParts(s.run(t, "", "status"),
		"\nstate          locked since 2033-05-18 03:33:20 (the screen was locked); run: tokenctl unlock\n",
		"\nidentity       /d/identity.age, protected by a passphrase\n",
		"\nconfiguration  /c/config\n")
	wantParts(s.run(t, "", "status", "-o", "json"), `"state": "locked"`, `"identity_protection": "passphrase"`, `"locked_since": "2033-05-18T03:33:20Z"`,
		`"locked_since_unix": 2000000000`, `"lock_reason": "the screen was locked"`, `"config_file": "/c/config"`)
	s.status.State, s.status.LocksAt, s.status.LockedSince, s.status.LockReason = tokendv1.GetStatusResponse_STATE_UNLOCKED, later(), nil, ""
	wantParts(s.run(t, "", "status"), "\nstate          unlocked\n               it locks at 2033-05-18 03:33:20\n")
	wantParts(s.run(t, "", "status", "-o", "json"), `"state": "unlocked"`, `"locks_at": "2033-05-18T03:33:20Z"`, `"locks_at_unix": 2000000000`)
}
