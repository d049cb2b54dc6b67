package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"github.com/google/go-cmp/cmp"
)

// quick is InProcess, but makes passphrases cheap to try. Opening is the same.
type quick struct{ InProcess }

func (q quick) Wrap(ctx context.Context, text []byte, p Protection, ask Ask) ([]byte, error) {
	if p.Kind != Passphrase {
		return q.InProcess.Wrap(ctx, text, p, ask)
	}
	answer, err := ask(ctx, Prompt{Kind: AskNewSecret, Message: "new passphrase for the identity"})
	if err != nil {
		return nil, err
	}
	return stretched(text, string(answer.Secret))
}

// stretched wraps with the least work that there is.
func stretched(text []byte, passphrase string) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(1)
	return seal(text, []age.Recipient{recipient})
}

func TestPassphraseAnswers(t *testing.T) {
	sealed, err := stretched([]byte("text"), "right")
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("nobody is there")
	for _, test := range []struct {
		name    string
		answers []string
		prompts []Prompt
		text    string
		err     error
	}{
		{"right", []string{"right"}, []Prompt{askPass}, "text", nil},
		{"at last", []string{"wrong", "", "right"}, []Prompt{askPass, again, again}, "text", nil},
		{"never", []string{"wrong", "", "right "}, []Prompt{askPass, again, again}, "", ErrRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			answers := secrets(test.answers...)
			given := append([]Answer{}, answers...)
			who := person(t, answers...)
			text, err := InProcess{}.Unwrap(t.Context(), sealed, Protection{Kind: Passphrase}, who.ask)
			if string(text) != test.text || err != test.err {
				t.Errorf("Unwrap = %q, %v", text, err)
			}
			who.wantPrompts(test.prompts...)
			for _, answer := range given {
				if strings.Trim(string(answer.Secret), "\x00") != "" {
					t.Error("an answer was not wiped")
				}
			}
		})
	}
	nobody := func(context.Context, Prompt) (Answer, error) { return Answer{}, gone }
	if _, err := (InProcess{}).Unwrap(t.Context(), sealed, Protection{Kind: Passphrase}, nobody); err != gone {
		t.Errorf("error = %v, want that of the one who asks", err)
	}
	if _, err := (InProcess{}).Wrap(t.Context(), nil, Protection{Kind: Passphrase}, nobody); err != gone {
		t.Errorf("error = %v, want that of the one who asks", err)
	}
	who := person(t, secrets("")...)
	if _, err := (InProcess{}).Wrap(t.Context(), nil, Protection{Kind: Passphrase}, who.ask); errorText(err) != "the passphrase is empty, which protects nothing" {
		t.Errorf("an empty passphrase: %v", err)
	}
	for _, p := range []Protection{{}, {Kind: InKeyring}} {
		_, wrapErr := InProcess{}.Wrap(t.Context(), nil, p, who.ask)
		_, unwrapErr := InProcess{}.Unwrap(t.Context(), nil, p, who.ask)
		if want := fmt.Sprintf("protection of kind %d wraps nothing", p.Kind); errorText(wrapErr) != want || errorText(unwrapErr) != want {
			t.Errorf("%v, %v, want %s", wrapErr, unwrapErr, want)
		}
	}
}

// What would take more than 256 MiB is refused with nothing taken, and nobody
// asked.
func TestWorkFactorBomb(t *testing.T) {
	sealed, err := stretched([]byte("text"), "right")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.age")
	for _, factor := range []string{"19", "22", "30", "63", "99999999999999999999", "1" + strings.Repeat("0", 1000)} {
		line, rest, _ := bytes.Cut(sealed, []byte(" 1\n"))
		mustWrite(t, path, string(line)+" "+factor+"\n"+string(rest))
		f := mustFind(t, dir)
		who := person(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := f.Open(t.Context(), Means{Wrapper: InProcess{}, Ask: who.ask})
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("2^%.20s: %d bytes were taken", factor, took)
		}
		want := fmt.Sprintf("opening identity file %q: its passphrase is to be stretched by scrypt with N = 2^%.20s, and more than 2^18 is refused: it would take all memory", path, factor)
		if errorText(err) != want {
			t.Errorf("error = %v\nwant %s", err, want)
		}
		who.wantPrompts()
	}
}

// What age itself made of an identity file is opened.
func TestPassphraseOfDebianAge(t *testing.T) {
	dir := t.TempDir()
	id, f := mustMake(t, dir, Protection{}, Means{})
	cmd := exec.Command("script", "-qec", "age -p -a -o identity.age identity.txt", "/dev/null")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader("correct horse\ncorrect horse\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
	mustChmod(t, filepath.Join(dir, "identity.age"), 0o600)
	who := person(t, secrets("correct horse")...)
	wantOpens(t, mustFind(t, dir), Means{Wrapper: InProcess{}, Ask: who.ask}, id)
}

func TestProtectWithSSH(t *testing.T) {
	for _, test := range []struct {
		name       string
		args       []string
		passphrase string
	}{
		{"ed25519", []string{"-t", "ed25519", "-N", ""}, ""},
		{"ed25519 with passphrase", []string{"-t", "ed25519", "-a", "1", "-N", "secret"}, "secret"},
		{"rsa", []string{"-t", "rsa", "-b", "2048", "-N", ""}, ""},
		{"rsa with passphrase", []string{"-t", "rsa", "-b", "2048", "-a", "1", "-N", "secret"}, "secret"},
		{"rsa as PEM", []string{"-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""}, ""},
		{"rsa as PEM with passphrase", []string{"-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret"}, "secret"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			key := sshKeygen(t, test.args...)
			private, public := string(mustRead(t, key)), strings.TrimSpace(string(mustRead(t, key+".pub")))
			bare := strings.TrimSuffix(public, " me@here")
			fingerprint := strings.Fields(string(run(t, nil, "ssh-keygen", "-l", "-f", key+".pub")))[1]
			askKey := Prompt{Kind: AskSSHKey, Message: "private key of " + fingerprint, PublicKey: bare}
			askKeyPass := Prompt{Kind: AskSecret, Message: "passphrase of the SSH key " + fingerprint}

			dir := t.TempDir()
			id, f := mustMake(t, dir, Protection{}, Means{})
			answers, prompts := secrets(private), []Prompt{askKey}
			if test.passphrase != "" {
				answers, prompts = secrets(private, test.passphrase), append(prompts, askKeyPass)
			}
			who := person(t, answers...)
			made, err := f.Protect(t.Context(), id, Protection{Kind: SSH, PublicKey: public}, Means{Wrapper: InProcess{}, Ask: who.ask})
			if err != nil {
				t.Fatal(err)
			}
			who.wantPrompts(prompts...)
			wantFiles(t, dir, "identity.age", "identity.ssh")
			f = mustFind(t, dir)
			for _, f := range []*IdentityFile{f, made} {
				if f.Protection.Kind != SSH || !strings.HasPrefix(f.Protection.PublicKey, bare) {
					t.Errorf("protection = %+v", f.Protection)
				}
			}

			if test.passphrase == "" {
				if got := run(t, nil, "age", "-d", "-i", key, f.Path); !bytes.Equal(got, id.text()) {
					t.Errorf("age -d -i gives %d bytes that are not the identity's text", len(got))
				}
				wantOpens(t, f, Means{Wrapper: InProcess{}, Ask: person(t, secrets(private)...).ask}, id)
				return
			}
			passAgain := askKeyPass
			passAgain.Again = true
			who = person(t, secrets(private, "wrong", "", test.passphrase)...)
			wantOpens(t, f, Means{Wrapper: InProcess{}, Ask: who.ask}, id)
			who.wantPrompts(askKey, askKeyPass, passAgain, passAgain)

			who = person(t, secrets(private, "wrong", "", "wrong")...)
			_, err = f.Open(t.Context(), Means{Wrapper: InProcess{}, Ask: who.ask})
			want := fmt.Sprintf("opening identity file %q: it does not open the identity: it is not the passphrase of the SSH key", f.Path)
			if !errors.Is(err, ErrRefused) || err.Error() != want {
				t.Errorf("error = %v\nwant %s", err, want)
			}
		})
	}
}

func TestWrongSSHKeys(t *testing.T) {
	wanted := sshKeygen(t, "-t", "ed25519", "-N", "")
	public := strings.TrimSpace(string(mustRead(t, wanted+".pub")))
	private := string(mustRead(t, wanted))
	sealed, err := InProcess{}.Wrap(t.Context(), []byte("text"), Protection{Kind: SSH, PublicKey: public}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := sshProtection(public)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := func(key string) string { return strings.Fields(string(run(t, nil, "ssh-keygen", "-l", "-f", key)))[1] }
	other := sshKeygen(t, "-t", "ed25519", "-N", "")
	locked := sshKeygen(t, "-t", "ed25519", "-a", "1", "-N", "secret")
	rsa := sshKeygen(t, "-t", "rsa", "-b", "2048", "-N", "")
	ecdsa := sshKeygen(t, "-t", "ecdsa", "-N", "")
	another := func(key, kind string) string {
		return fmt.Sprintf("the SSH key is %s (%s), and %s (ssh-ed25519) was wanted", fingerprint(key), kind, fingerprint(wanted))
	}
	for _, test := range []struct{ name, private, want string }{
		{"another", string(mustRead(t, other)), another(other, "ssh-ed25519")},
		{"another with passphrase", string(mustRead(t, locked)), another(locked, "ssh-ed25519")},
		{"rsa", string(mustRead(t, rsa)), another(rsa, "ssh-rsa")},
		{"ecdsa", string(mustRead(t, ecdsa)), another(ecdsa, "ecdsa-sha2-nistp256")},
		{"public", public, "that is no SSH private key"},
		{"empty", "", "that is no SSH private key"},
		{"cut", private[:len(private)/2], "that is no SSH private key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			who := person(t, secrets(test.private, test.private, test.private)...)
			_, err := InProcess{}.Unwrap(t.Context(), sealed, p, who.ask)
			if want := "it does not open the identity: " + test.want; !errors.Is(err, ErrRefused) || err.Error() != want {
				t.Errorf("error = %v\nwant %s", err, want)
			}
			if len(who.prompts) != 3 || who.prompts[0].Again || !who.prompts[1].Again || !who.prompts[2].Again {
				t.Errorf("prompts = %+v", who.prompts)
			}
		})
	}
	who := person(t, secrets(string(mustRead(t, rsa)), private)...)
	if text, err := (InProcess{}).Unwrap(t.Context(), sealed, p, who.ask); err != nil || string(text) != "text" {
		t.Errorf("the second key: %q, %v", text, err)
	}

	// The right key of another file.
	p, err = sshProtection(string(mustRead(t, other+".pub")))
	if err != nil {
		t.Fatal(err)
	}
	who = person(t, secrets(string(mustRead(t, other)))...)
	want := fmt.Sprintf("it is wrapped to another SSH key than %s", fingerprint(other))
	if _, err := (InProcess{}).Unwrap(t.Context(), sealed, p, who.ask); errorText(err) != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestSSHPublicKeysRefused(t *testing.T) {
	read := func(args ...string) string {
		return strings.TrimSpace(string(mustRead(t, sshKeygen(t, args...)+".pub")))
	}
	good := read("-t", "ed25519", "-N", "")
	fields := strings.Fields(good)
	ecdsa := read("-t", "ecdsa", "-N", "")
	kinds := "that is no SSH public key of a kind that age can encrypt to: it begins with ssh-ed25519 or ssh-rsa, without options"
	for _, test := range []struct{ line, want string }{
		{"", "that is no SSH public key, which looks like: ssh-ed25519 AAAA… comment"},
		{"ssh-ed25519", "that is no SSH public key, which looks like: ssh-ed25519 AAAA… comment"},
		{good + "\n" + good, "the SSH public key is more than one line"},
		{"# comment\n" + good, "the SSH public key is more than one line"},
		{`command="true" ` + good, kinds},
		{"restrict " + good, kinds},
		{"rubbish and more", kinds},
		{"-----BEGIN OPENSSH PRIVATE KEY-----", kinds},
		{"ssh-ed25519 AAAA", "the SSH public key is damaged: no ssh-ed25519 key follows the type"},
		{"ssh-rsa " + fields[1], "the SSH public key is damaged: no ssh-rsa key follows the type"},
		{"ssh-ed25519 " + strings.Fields(ecdsa)[1], "the SSH public key is damaged: no ssh-ed25519 key follows the type"},
		{ecdsa, "the SSH key is ECDSA, which age cannot encrypt to; use ssh-ed25519 or ssh-rsa"},
		{"sk-ssh-ed25519@openssh.com AAAA", "the SSH key is a security token's, which signs and cannot decrypt; use ssh-ed25519 or ssh-rsa, or an age plugin for the token"},
		{"ssh-ed25519-cert-v01@openssh.com AAAA", "that is an SSH certificate; give the public key itself"},
		{"ssh-dss AAAA", "the SSH key is DSA, which age cannot encrypt to; use ssh-ed25519 or ssh-rsa"},
		{read("-t", "rsa", "-b", "1024", "-N", ""), "the SSH public key is RSA of 1024 bits, and less than 2048 is too weak"},
	} {
		dir := t.TempDir()
		_, _, err := MakeIdentity(t.Context(), dir, false, Protection{Kind: SSH, PublicKey: test.line}, Means{Wrapper: InProcess{}, Ask: person(t).ask})
		if errorText(err) != test.want || !errors.As(err, new(*ProtectionError)) {
			t.Errorf("%q: error = %v\nwant a *ProtectionError: %s", test.line, err, test.want)
		}
		_, err = InProcess{}.Wrap(t.Context(), nil, Protection{Kind: SSH, PublicKey: test.line}, nil)
		if errorText(err) != test.want {
			t.Errorf("%q: Wrap: error = %v\nwant %s", test.line, err, test.want)
		}
		wantFiles(t, dir)
	}
	p, err := sshProtection("  " + good + "\n")
	if err != nil || p.PublicKey != fields[0]+" "+fields[1] {
		t.Errorf("sshProtection = %+v, %v", p, err)
	}
}

// testPlugin builds ./testplugin and puts it in PATH.
func testPlugin(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	run(t, nil, "go", "build", "-o", filepath.Join(bin, "age-plugin-test"), "./testplugin")
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	return bin
}

func TestProtectWithPlugin(t *testing.T) {
	bin := testPlugin(t)
	test := InProcess{Plugins: []string{"other", "test"}}
	says := func(kind PromptKind, text string) Prompt {
		return Prompt{Kind: kind, Message: "age-plugin-test: " + text}
	}
	pin, serial := says(AskSecret, "PIN of the token"), says(AskText, "serial number of the token")
	message := says(AskMessage, "touch the \x1b[31mtoken")
	confirm := says(AskConfirm, "give the key?")
	confirm.Yes, confirm.No = "give", "keep"
	yes, no := Answer{Yes: true}, Answer{}

	for _, words := range []string{"", "plain", "wrap-message wrap-pin message pin serial confirm"} {
		t.Run("words="+words, func(t *testing.T) {
			p := Protection{Kind: Plugin, Plugin: "test"}
			if words != "" {
				p.PluginIdentity = plugin.EncodeIdentity("test", []byte(words))
			}
			var wrap, unwrap []Answer
			var wrapPrompts, unwrapPrompts []Prompt
			if len(words) > 10 {
				wrap, wrapPrompts = secrets("1234"), []Prompt{message, pin}
				unwrap, unwrapPrompts = append(secrets("1234"), Answer{Text: "42"}, yes), []Prompt{message, pin, serial, confirm}
			}
			dir := t.TempDir()
			id, f := mustMake(t, dir, Protection{}, Means{})
			who := person(t, append(wrap, unwrap...)...)
			made, err := f.Protect(t.Context(), id, p, Means{Wrapper: test, Ask: who.ask})
			if err != nil {
				t.Fatal(err)
			}
			who.wantPrompts(append(wrapPrompts, unwrapPrompts...)...)
			wantFiles(t, dir, "identity.age", "identity.plugin")
			f = mustFind(t, dir)
			if diff := cmp.Diff(made, f); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(p, f.Protection); diff != "" {
				t.Error(diff)
			}
			if len(words) > 10 {
				unwrap = append(secrets("1234"), Answer{Text: "42"}, yes)
			}
			who = person(t, unwrap...)
			wantOpens(t, f, Means{Wrapper: test, Ask: who.ask}, id)
			who.wantPrompts(unwrapPrompts...)

			if len(words) > 10 {
				return
			}
			if got := run(t, nil, "age", "-d", "-i", filepath.Join(dir, "identity.plugin"), f.Path); !bytes.Equal(got, id.text()) {
				t.Errorf("age -d -i identity.plugin gives %d bytes that are not the identity's text", len(got))
			}
			if words == "" {
				if got := run(t, nil, "age", "-d", "-j", "test", f.Path); !bytes.Equal(got, id.text()) {
					t.Errorf("age -d -j test gives %d bytes that are not the identity's text", len(got))
				}
			}
		})
	}

	sealed := func(words string) ([]byte, Protection) {
		p := Protection{Kind: Plugin, Plugin: "test", PluginIdentity: plugin.EncodeIdentity("test", []byte(words))}
		sealed, err := test.Wrap(t.Context(), []byte("text"), p, person(t).ask)
		if err != nil {
			t.Fatal(err)
		}
		return sealed, p
	}
	for _, test := range []struct {
		words   string
		answers []Answer
		want    string
		refused bool
	}{
		{"pin", secrets("4321"), `it does not open the identity: age-plugin-test failed: "wrong PIN"`, true},
		{"confirm", []Answer{no}, `it does not open the identity: age-plugin-test failed: "the person said no"`, true},
		{"escape", nil, `it does not open the identity: age-plugin-test failed: "\x1b]0;title\ano\nsecond line"`, true},
		{"die", nil, "age-plugin-test ended without an answer", false},
	} {
		t.Run(test.words, func(t *testing.T) {
			sealed, p := sealed(test.words)
			_, err := InProcess{Plugins: []string{"test"}}.Unwrap(t.Context(), sealed, p, person(t, test.answers...).ask)
			if errorText(err) != test.want || errors.Is(err, ErrRefused) != test.refused {
				t.Errorf("error = %v\nwant %s", err, test.want)
			}
		})
	}

	t.Run("wrapping", func(t *testing.T) {
		for words, want := range map[string]string{
			"wrap-escape": `age-plugin-test failed: "\x1b]0;title\ano\nsecond line"`,
			"wrap-die":    "age-plugin-test ended without an answer",
		} {
			p := Protection{Kind: Plugin, Plugin: "test", PluginIdentity: plugin.EncodeIdentity("test", []byte(words))}
			if _, err := test.Wrap(t.Context(), nil, p, person(t).ask); errorText(err) != want {
				t.Errorf("%s: error = %v, want %s", words, err, want)
			}
		}
	})

	t.Run("nobody answers", func(t *testing.T) {
		sealed, p := sealed("pin")
		gone := errors.New("nobody is there")
		_, err := test.Unwrap(t.Context(), sealed, p, func(context.Context, Prompt) (Answer, error) { return Answer{}, gone })
		if err != gone {
			t.Errorf("error = %v, want that of the one who asks", err)
		}
	})

	t.Run("another identity", func(t *testing.T) {
		sealed, p := sealed("plain")
		p.PluginIdentity = ""
		want := "it does not open the identity: age-plugin-test has no key for it"
		if _, err := test.Unwrap(t.Context(), sealed, p, person(t).ask); errorText(err) != want || !errors.Is(err, ErrRefused) {
			t.Errorf("error = %v, want %s", err, want)
		}
	})

	t.Run("may not be run", func(t *testing.T) {
		ran := filepath.Join(bin, "ran")
		if err := os.WriteFile(filepath.Join(bin, "age-plugin-spy"), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		spy := Protection{Kind: Plugin, Plugin: "spy"}
		want := PluginError{Name: "spy"}
		if want.Error() != `the age plugin "spy" may not be run; add to the configuration: TOKEND_PLUGINS=spy` {
			t.Error(want.Error())
		}
		sealed, _ := sealed("plain")
		_, wrapErr := test.Wrap(t.Context(), nil, spy, nil)
		_, unwrapErr := test.Unwrap(t.Context(), sealed, spy, nil)
		for _, err := range []error{wrapErr, unwrapErr} {
			if refused := new(PluginError); !errors.As(err, &refused) || *refused != want {
				t.Errorf("error = %v, want %v", err, &want)
			}
		}
		if _, err := os.Stat(ran); err == nil {
			t.Error("it was run")
		}
		// It is run where it may be, so that would have been seen.
		_, err := InProcess{Plugins: []string{"spy"}}.Wrap(t.Context(), nil, spy, nil)
		if errorText(err) != "age-plugin-spy ended without an answer" {
			t.Errorf("error = %v", err)
		}
		if _, err := os.Stat(ran); err != nil {
			t.Error("it was not run where it may be")
		}
	})

	t.Run("missing", func(t *testing.T) {
		_, err := test.Wrap(t.Context(), nil, Protection{Kind: Plugin, Plugin: "other"}, nil)
		want := `the age plugin "other" may be run, but there is no program age-plugin-other in the daemon's PATH`
		if missing := new(PluginError); !errors.As(err, &missing) || !missing.Allowed || err.Error() != want {
			t.Errorf("error = %v, want %s", err, want)
		}
	})

	t.Run("names", func(t *testing.T) {
		for _, test := range []struct {
			p    Protection
			want string
		}{
			{Protection{Plugin: ""}, `"" is no name of an age plugin, which is such as: yubikey`},
			{Protection{Plugin: "../test"}, `"../test" is no name of an age plugin, which is such as: yubikey`},
			{Protection{Plugin: "te st"}, `"te st" is no name of an age plugin, which is such as: yubikey`},
			{Protection{Plugin: "TEST"}, `the identity is of the plugin "test", not of "TEST"`},
			{Protection{Plugin: "test", PluginIdentity: "AGE-PLUGIN-X"}, "that is no plugin's identity, which looks like: AGE-PLUGIN-YUBIKEY-1…"},
			{Protection{Plugin: "test", PluginIdentity: plugin.EncodeIdentity("other", nil)}, `the identity is of the plugin "other", not of "test"`},
		} {
			test.p.Kind = Plugin
			_, _, err := MakeIdentity(t.Context(), t.TempDir(), false, test.p, Means{Wrapper: InProcess{Plugins: []string{"", "../test", "te st", "TEST", "test"}}})
			if errorText(err) != test.want {
				t.Errorf("%+v: error = %v, want %s", test.p, err, test.want)
			}
		}
	})
}

// A private key in no known cipher is an answer of no use.
func TestDamagedSSHKey(t *testing.T) {
	key := sshKeygen(t, "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret")
	block, _ := pem.Decode(mustRead(t, key))
	block.Headers["DEK-Info"] = "ROT13," + strings.Repeat("00", 16)
	p, err := sshProtection(string(mustRead(t, key+".pub")))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := InProcess{}.Wrap(t.Context(), []byte("text"), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	who := person(t, secrets(string(pem.EncodeToMemory(block)), "secret")...)
	want := "the SSH private key is damaged, or encrypted in a way that is not known here"
	if _, err := (InProcess{}).Unwrap(t.Context(), sealed, p, who.ask); errorText(err) != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

// An SSH key whose passphrase takes minutes to try is refused before anybody is asked
// for that.
func TestRoundsOfBcrypt(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", "secret", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	// PROTOCOL.key: a salt of 16 bytes and the rounds, in what is 24 bytes long.
	at := bytes.Index(block.Bytes, []byte("\x00\x00\x00\x06bcrypt\x00\x00\x00\x18\x00\x00\x00\x10"))
	if at < 0 {
		t.Fatal("ssh-keygen writes another format")
	}
	rounds := block.Bytes[at+34:][:4]
	if binary.BigEndian.Uint32(rounds) != 1 {
		t.Fatalf("the rounds are not at %d", at)
	}
	protection := Protection{Kind: SSH, PublicKey: string(public)}
	sealed, err := InProcess{}.Wrap(t.Context(), []byte("text"), protection, nil)
	if err != nil {
		t.Fatal(err)
	}
	nobody := errors.New("nobody is here")
	for n, want := range map[uint32]string{
		256: nobody.Error(),
		257: "it does not open the identity: the passphrase of the SSH key is stretched by 257 rounds of bcrypt, and more than 256 is refused; make it fewer: ssh-keygen -p -a 64 -f FILE",
	} {
		binary.BigEndian.PutUint32(rounds, n)
		_, err := InProcess{}.Unwrap(t.Context(), sealed, protection, func(_ context.Context, p Prompt) (Answer, error) {
			if p.Kind == AskSSHKey {
				return Answer{Secret: pem.EncodeToMemory(block)}, nil
			}
			return Answer{}, nobody
		})
		if err == nil || err.Error() != want || errors.Is(err, ErrRefused) != (n > 256) {
			t.Errorf("%d rounds: %v", n, err)
		}
	}
}
