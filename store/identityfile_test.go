package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age/plugin"
	"github.com/google/go-cmp/cmp"
)

// asked is a person who gives the answers in turn, and what he was asked.
type asked struct {
	t       *testing.T
	answers []Answer
	prompts []Prompt
}

func (a *asked) ask(_ context.Context, p Prompt) (Answer, error) {
	a.prompts = append(a.prompts, p)
	if p.Kind == AskMessage {
		return Answer{}, nil
	}
	if len(a.answers) == 0 {
		a.t.Errorf("asked once too often: %+v", p)
		return Answer{}, errors.New("nobody is there")
	}
	answer := a.answers[0]
	a.answers = a.answers[1:]
	return answer, nil
}

// wantPrompts checks that everything was asked that there is an answer to, and how.
func (a *asked) wantPrompts(want ...Prompt) {
	a.t.Helper()
	if diff := cmp.Diff(want, a.prompts); diff != "" {
		a.t.Errorf("prompts (-want +got):\n%s", diff)
	}
	if len(a.answers) > 0 {
		a.t.Errorf("%d answers were not asked for", len(a.answers))
	}
}

func secrets(texts ...string) []Answer {
	var answers []Answer
	for _, text := range texts {
		answers = append(answers, Answer{Secret: []byte(text)})
	}
	return answers
}

func person(t *testing.T, answers ...Answer) *asked { return &asked{t: t, answers: answers} }

var (
	askNew  = Prompt{Kind: AskNewSecret, Message: "new passphrase for the identity"}
	askPass = Prompt{Kind: AskSecret, Message: "passphrase of the identity"}
	again   = Prompt{Kind: AskSecret, Message: "passphrase of the identity", Again: true}
)

// memory is a keyring.
type memory struct {
	items map[string]string
	fails error // of every call, once set
	calls []string
}

func (m *memory) Get(_ context.Context, account string) ([]byte, error) {
	m.calls = append(m.calls, "get")
	if m.fails != nil {
		return nil, m.fails
	}
	text, ok := m.items[account]
	if !ok {
		return nil, ErrNotExist
	}
	return []byte(text), nil
}

func (m *memory) Set(_ context.Context, account string, secret []byte) error {
	m.calls = append(m.calls, "set")
	if m.fails != nil {
		return m.fails
	}
	if m.items == nil {
		m.items = map[string]string{}
	}
	m.items[account] = string(secret)
	return nil
}

func (m *memory) Delete(_ context.Context, account string) error {
	m.calls = append(m.calls, "delete")
	if m.fails != nil {
		return m.fails
	}
	delete(m.items, account)
	return nil
}

func mustFind(t *testing.T, dir string) *IdentityFile {
	t.Helper()
	f, err := FindIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func wantOpens(t *testing.T, f *IdentityFile, m Means, id *Identity) {
	t.Helper()
	opened, err := f.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if opened.key.String() != id.key.String() {
		t.Error("it opened another identity")
	}
}

func mustMake(t *testing.T, dir string, p Protection, m Means) (*Identity, *IdentityFile) {
	t.Helper()
	id, f, err := MakeIdentity(t.Context(), dir, false, p, m)
	if err != nil {
		t.Fatal(err)
	}
	return id, f
}

func TestMakeIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := FindIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FindIdentity of an empty folder = %v, want fs.ErrNotExist", err)
	}
	id, f := mustMake(t, dir, Protection{}, Means{})
	path := filepath.Join(dir, "identity.txt")
	if diff := cmp.Diff(&IdentityFile{Path: path}, f); diff != "" {
		t.Error(diff)
	}
	text := mustRead(t, path)
	if !bytes.HasPrefix(text, []byte("# created: ")) || !bytes.HasSuffix(text, id.text()) {
		t.Errorf("it holds %d bytes that are not the identity's text", len(text))
	}
	wantFiles(t, dir, "identity.txt")
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if diff := cmp.Diff(f, mustFind(t, dir)); diff != "" {
		t.Error(diff)
	}
	wantOpens(t, f, Means{}, id)

	for _, p := range []Protection{{}, {Kind: Passphrase}, {Kind: InKeyring}} {
		if _, _, err := MakeIdentity(t.Context(), dir, false, p, Means{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("making a second one: %v, want fs.ErrExist", err)
		}
	}
	if string(mustRead(t, path)) != string(text) {
		t.Error("the identity was changed")
	}

	for file, content := range map[string]string{"identity.age": "age-encryption.org/v1\n", "identity.keyring": ""} {
		mustWrite(t, filepath.Join(dir, file), content)
	}
	want := fmt.Sprintf("folder %q holds several identities: identity.txt, identity.age, identity.keyring; "+
		"keep the one that opens your secrets and move the others away", dir)
	if _, err := FindIdentity(dir); errorText(err) != want {
		t.Errorf("FindIdentity = %v, want %s", err, want)
	}
	if _, _, err := MakeIdentity(t.Context(), dir, false, Protection{}, Means{}); errorText(err) != want {
		t.Errorf("MakeIdentity = %v, want %s", err, want)
	}
}

func TestMakeIdentityPostQuantum(t *testing.T) {
	id, f, err := MakeIdentity(t.Context(), t.TempDir(), true, Protection{}, Means{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(id.Recipient(), "age1pq1") {
		t.Errorf("recipient = %s", id.Recipient())
	}
	wantOpens(t, f, Means{}, id)

	// What wraps it need not be post-quantum.
	keys := t.TempDir()
	m := Means{Wrapper: InProcess{}, Ask: answering(keys)}
	if f, err = f.Protect(t.Context(), id, Protection{Kind: SSH, PublicKey: keyIn(t, keys, "one")}, m); err != nil {
		t.Fatal(err)
	}
	wantOpens(t, f, m, id)
}

// What is accepted takes its 256 MiB, so that TestWorkFactorBomb would have seen
// a bomb.
func TestDebianAgeOpensPassphrase(t *testing.T) {
	dir := t.TempDir()
	text := []byte("# a comment\nand a line\n")
	who := person(t, secrets("correct horse")...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sealed, err := InProcess{}.Wrap(t.Context(), text, Protection{Kind: Passphrase}, who.ask)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took < 256<<20 {
		t.Errorf("%d bytes were taken, want 256 MiB", took)
	}
	who.wantPrompts(askNew)
	if !bytes.Contains(sealed, []byte(" 18\n")) {
		t.Error("the work factor is not 18")
	}
	mustWrite(t, filepath.Join(dir, "identity.age"), string(sealed))
	cmd := exec.Command("script", "-qec", "age -d -o identity.txt identity.age", "/dev/null")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader("correct horse\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := mustRead(t, filepath.Join(dir, "identity.txt")); !bytes.Equal(got, text) {
		t.Errorf("age -d gives %q", got)
	}
}

// TestProtect goes from every way to keep an identity to every other.
func TestProtect(t *testing.T) {
	testPlugin(t)
	keys := t.TempDir()
	one, two := keyIn(t, keys, "one"), keyIn(t, keys, "two")
	for from, first := range map[string]Protection{
		"bare": {}, "passphrase": {Kind: Passphrase}, "keyring": {Kind: InKeyring},
		"ssh": {Kind: SSH, PublicKey: one}, "plugin": {Kind: Plugin, Plugin: "test"},
	} {
		for to, second := range map[string]Protection{
			"bare": {}, "passphrase": {Kind: Passphrase}, "keyring": {Kind: InKeyring},
			"ssh": {Kind: SSH, PublicKey: two}, "plugin": {Kind: Plugin, Plugin: "test", PluginIdentity: plugin.EncodeIdentity("test", []byte("plain"))},
		} {
			t.Run(from+" to "+to, func(t *testing.T) {
				dir := t.TempDir()
				items := &memory{}
				m := Means{Wrapper: quick{InProcess{[]string{"test"}}}, Items: items, Ask: answering(keys)}
				id, f := mustMake(t, dir, first, m)
				f, err := f.Protect(t.Context(), id, second, m)
				if err != nil {
					t.Fatal(err)
				}
				files, n := []string{"identity.txt"}, 0
				switch second.Kind {
				case Passphrase:
					files = []string{"identity.age"}
				case SSH:
					files = []string{"identity.age", "identity.ssh"}
				case Plugin:
					files = []string{"identity.age", "identity.plugin"}
				case InKeyring:
					files, n = []string{"identity.keyring"}, 1
				}
				wantFiles(t, dir, files...)
				if len(items.items) != n {
					t.Errorf("%d items in the keyring, want %d", len(items.items), n)
				}
				if diff := cmp.Diff(f, mustFind(t, dir)); diff != "" {
					t.Error(diff)
				}
				wantOpens(t, f, m, id)
				if second.Kind == InKeyring && f.Recipient != id.Recipient() {
					t.Errorf("recipient = %q", f.Recipient)
				}
				if second.Kind == SSH && strings.Contains(string(mustRead(t, filepath.Join(dir, "identity.ssh"))), strings.Fields(one)[1]) {
					t.Error("identity.ssh holds the old key")
				}
			})
		}
	}
}

// keyIn makes an SSH key pair in dir and returns the public key.
func keyIn(t *testing.T, dir, name string) string {
	t.Helper()
	run(t, nil, "ssh-keygen", "-q", "-f", filepath.Join(dir, name), "-C", "", "-t", "ed25519", "-N", "")
	return strings.TrimSpace(string(mustRead(t, filepath.Join(dir, name+".pub"))))
}

// answering is a person with one passphrase, and the SSH keys in a folder.
func answering(keys string) Ask {
	return func(_ context.Context, p Prompt) (Answer, error) {
		if p.Kind != AskSSHKey {
			return Answer{Secret: []byte("passphrase")}, nil
		}
		names, err := filepath.Glob(filepath.Join(keys, "*.pub"))
		if err != nil {
			return Answer{}, err
		}
		for _, name := range names {
			public, err := os.ReadFile(name)
			if err != nil {
				return Answer{}, err
			}
			if strings.HasPrefix(string(public), p.PublicKey) {
				private, err := os.ReadFile(strings.TrimSuffix(name, ".pub"))
				return Answer{Secret: private}, err
			}
		}
		return Answer{}, fmt.Errorf("no key %s", p.PublicKey)
	}
}

// forgetful is a Wrapper that wraps something else.
type forgetful struct{ quick }

func (f forgetful) Wrap(ctx context.Context, _ []byte, p Protection, ask Ask) ([]byte, error) {
	return f.quick.Wrap(ctx, []byte("something else"), p, ask)
}

// denying is a keyring that stores, and then gives back something else.
type denying struct{ memory }

func (d *denying) Get(ctx context.Context, account string) ([]byte, error) {
	text, err := d.memory.Get(ctx, account)
	return append(text, '.'), err
}

// What cannot be opened again does not take the place of what can.
func TestProtectFails(t *testing.T) {
	keys := t.TempDir()
	lost := keyIn(t, t.TempDir(), "lost")
	broken := errors.New("the keyring is gone")
	for _, test := range []struct {
		name string
		p    Protection
		m    Means
		want string
	}{
		{"wrapped wrong", Protection{Kind: Passphrase}, Means{Wrapper: forgetful{}},
			"opening the wrapped identity for a test: it is another"},
		{"SSH key that nobody has", Protection{Kind: SSH, PublicKey: lost}, Means{Wrapper: quick{}},
			"opening the wrapped identity for a test: no key " + lost},
		{"plugin that may not run", Protection{Kind: Plugin, Plugin: "test"}, Means{Wrapper: quick{}},
			`wrapping the identity: the age plugin "test" may not be run; add to the configuration: TOKEND_PLUGINS=test`},
		{"no keyring", Protection{Kind: InKeyring}, Means{Items: &memory{fails: broken}}, "the keyring is gone"},
		{"lying keyring", Protection{Kind: InKeyring}, Means{Items: &denying{}}, "reading the identity back from the keyring: it is another"},
		{"nothing known", Protection{Kind: 99}, Means{}, "unknown kind of protection 99"},
	} {
		for _, from := range []Protection{{}, {Kind: Passphrase}} {
			t.Run(fmt.Sprintf("%s/from=%d", test.name, from.Kind), func(t *testing.T) {
				dir := t.TempDir()
				open := Means{Wrapper: quick{}, Ask: answering(keys)}
				id, f := mustMake(t, dir, from, open)
				before := tree(t, dir)
				test.m.Ask = answering(keys)
				made, err := f.Protect(t.Context(), id, test.p, test.m)
				if made != nil || err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Protect = %+v, %v, want %s", made, err, test.want)
				}
				if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
				wantOpens(t, mustFind(t, dir), open, id)
				if d, ok := test.m.Items.(*denying); ok && len(d.items) > 0 {
					t.Error("the item was left in the keyring")
				}
			})
		}
	}
}

// A keyring that does not answer when the identity leaves it: done as asked, the
// item still there is told of, and it goes when the keyring is back.
func TestProtectLeavesAnItem(t *testing.T) {
	dir := t.TempDir()
	items := &memory{}
	m := Means{Wrapper: quick{}, Items: items, Ask: answering("")}
	id, f := mustMake(t, dir, Protection{Kind: InKeyring}, m)
	items.fails = errors.New("the keyring is gone")
	f, err := f.Protect(t.Context(), id, Protection{Kind: Passphrase}, m)
	want := fmt.Sprintf("the identity is in %q now, but what it was kept in before is not gone: "+
		"deleting the identity that was in the keyring: the keyring is gone", filepath.Join(dir, "identity.age"))
	if f == nil || errorText(err) != want {
		t.Fatalf("Protect = %+v, %v, want %s", f, err, want)
	}
	wantFiles(t, dir, ".identity.keyring.old", "identity.age")
	f = mustFind(t, dir)
	wantOpens(t, f, m, id)
	wantFiles(t, dir, ".identity.keyring.old", "identity.age")

	// Away once more, and back to where nothing may be left.
	if f, err = f.Protect(t.Context(), id, Protection{}, m); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, ".identity.keyring.old", "identity.txt")
	if _, err := f.Protect(t.Context(), id, Protection{Kind: InKeyring}, m); errorText(err) != "deleting the identity that was in the keyring: the keyring is gone" {
		t.Errorf("error = %v", err)
	}
	items.fails = nil
	found := mustFind(t, dir)
	wantOpens(t, found, m, id)
	if err := found.ForgetItems(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "identity.txt")
	if len(items.items) > 0 {
		t.Error("the item is still there")
	}
}

func TestOpenFromKeyring(t *testing.T) {
	dir := t.TempDir()
	items := &memory{}
	m := Means{Items: items}
	id, f := mustMake(t, dir, Protection{Kind: InKeyring}, m)
	other, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	_, account, err := parseKeyringFile(mustRead(t, f.Path))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(items.items[account], string(id.text())) {
		t.Error("the item does not hold the identity's text")
	}
	if strings.Contains(string(mustRead(t, f.Path)), "SECRET") {
		t.Error("the file holds the key")
	}
	for _, test := range []struct{ item, want string }{
		{string(other.text()), fmt.Sprintf("the keyring holds another identity than %q says", f.Path)},
		{"rubbish", fmt.Sprintf("identity file %q: line 1 is not an AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1… key", f.Path)},
		{"", fmt.Sprintf("identity file %q: no identity in it", f.Path)},
	} {
		items.items[account] = test.item
		if _, err := f.Open(t.Context(), m); errorText(err) != test.want {
			t.Errorf("error = %v, want %s", err, test.want)
		}
	}
	delete(items.items, account)
	if _, err := f.Open(t.Context(), m); !errors.Is(err, ErrNotExist) || err.Error() != "the identity is gone from the keyring; bring back a copy of it (does not exist)" {
		t.Errorf("no item: %v", err)
	}
}

func TestFindIdentityRefuses(t *testing.T) {
	sealed, err := stretched([]byte("text"), "x")
	if err != nil {
		t.Fatal(err)
	}
	id, err := generateIdentity(false)
	if err != nil {
		t.Fatal(err)
	}
	native := sealedFor(t, id, "text")
	keys := t.TempDir()
	public := keyIn(t, keys, "one")
	forSSH, err := InProcess{}.Wrap(t.Context(), []byte("text"), Protection{Kind: SSH, PublicKey: public}, nil)
	if err != nil {
		t.Fatal(err)
	}
	account := "identity/" + strings.Repeat("A", 26)
	badLine := func(n int) string {
		return fmt.Sprintf(`"DIR/identity.keyring": line %d is not what tokend writes: recipient age1…, account identity/…`, n)
	}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"damaged", map[string]string{"identity.age": "rubbish"}, `identity file "DIR/identity.age": failed to read header`},
		{"empty", map[string]string{"identity.age": ""}, `identity file "DIR/identity.age": failed to read header`},
		{"cut", map[string]string{"identity.age": string(sealed[:60])}, `identity file "DIR/identity.age": failed to read header`},
		{"which SSH key", map[string]string{"identity.age": string(forSSH)},
			`"DIR/identity.age" is wrapped to an SSH key, and "DIR/identity.ssh", which is to hold its public key, does not say which`},
		{"two SSH keys", map[string]string{"identity.age": string(forSSH), "identity.ssh": public + "\n" + public + "\n"},
			`"DIR/identity.age" is wrapped to an SSH key, and "DIR/identity.ssh", which is to hold its public key, does not say which`},
		{"not a key", map[string]string{"identity.age": string(forSSH), "identity.ssh": "ecdsa-sha2-nistp256 AAAA\n"},
			`"DIR/identity.ssh": the SSH key is ECDSA`},
		{"native", map[string]string{"identity.age": native},
			`"DIR/identity.age" is wrapped neither with a passphrase nor to an SSH key, and "DIR/identity.plugin" does not say to what plugin's identity`},
		{"not a plugin", map[string]string{"identity.age": native, "identity.plugin": string(id.text())},
			`"DIR/identity.plugin": that is no plugin's identity, which looks like: AGE-PLUGIN-YUBIKEY-1…`},
		{"keyring empty", map[string]string{"identity.keyring": "# nothing\n"}, `"DIR/identity.keyring": it lacks the line of the recipient or of the account`},
		{"keyring without account", map[string]string{"identity.keyring": "recipient " + id.Recipient() + "\n"}, `"DIR/identity.keyring": it lacks the line`},
		{"keyring twice", map[string]string{"identity.keyring": "account " + account + "\naccount " + account + "\n"}, badLine(2)},
		{"somebody else's item", map[string]string{"identity.keyring": "account login\n"}, badLine(1)},
		{"no recipient", map[string]string{"identity.keyring": "\nrecipient " + public + "\n"}, badLine(2)},
		{"several aside", map[string]string{".identity.txt.old": "", ".identity.age.old": ""},
			`folder "DIR" holds several old identities: .identity.txt.old, .identity.age.old; rename the one that opens your secrets`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range test.files {
				mustWrite(t, filepath.Join(dir, file), text)
			}
			f, err := FindIdentity(dir)
			if want := strings.ReplaceAll(test.want, "DIR", dir); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("FindIdentity = %+v, %v\nwant %s", f, err, want)
			}
			if err != nil && strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}

	t.Run("loose", func(t *testing.T) {
		for _, file := range []string{"identity.age", "identity.keyring"} {
			dir := t.TempDir()
			mustWrite(t, filepath.Join(dir, file), "x")
			mustChmod(t, filepath.Join(dir, file), 0o644)
			want := fmt.Sprintf("%q is open to others (mode 0644); run: chmod 600 '%s'", filepath.Join(dir, file), filepath.Join(dir, file))
			if _, err := FindIdentity(dir); errorText(err) != want {
				t.Errorf("error = %v, want %s", err, want)
			}
		}
	})

	t.Run("made by hand", func(t *testing.T) {
		dir := t.TempDir()
		mustWrite(t, filepath.Join(dir, "identity.age"), string(forSSH))
		mustWrite(t, filepath.Join(dir, "identity.ssh"), "# mine\n"+public+" me@here\n")
		want := Protection{Kind: SSH, PublicKey: strings.Join(strings.Fields(public)[:2], " ")}
		if diff := cmp.Diff(want, mustFind(t, dir).Protection); diff != "" {
			t.Error(diff)
		}
	})
}

// While one SSH key takes the place of another, identity.ssh tells which is
// meant; so does identity.plugin beside a file that could be either's.
func TestCompanionTells(t *testing.T) {
	keys := t.TempDir()
	one, two := keyIn(t, keys, "one"), keyIn(t, keys, "two")
	dir := t.TempDir()
	_, f := mustMake(t, dir, Protection{Kind: SSH, PublicKey: one}, Means{Wrapper: quick{}, Ask: answering(keys)})
	sealed := mustRead(t, f.Path)
	d, err := openFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.addCompanion("identity.ssh", two, []byte("what comes next")); err != nil {
		t.Fatal(err)
	}
	if got := mustFind(t, dir).Protection.PublicKey; got != one {
		t.Errorf("key = %s, want %s", got, one)
	}
	if err := d.addCompanion("identity.plugin", plugin.EncodeIdentity("test", nil), []byte("what was before")); err != nil {
		t.Fatal(err)
	}
	if got := mustFind(t, dir).Protection.Kind; got != SSH {
		t.Errorf("kind = %d, want SSH", got)
	}
	if err := d.addCompanion("identity.plugin", plugin.EncodeIdentity("test", nil), sealed); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(dir, "identity.ssh"), one+"\n")
	if diff := cmp.Diff(Protection{Kind: Plugin, Plugin: "test"}, mustFind(t, dir).Protection); diff != "" {
		t.Error(diff)
	}
}

func FuzzIdentityFiles(f *testing.F) {
	id, err := generateIdentity(false)
	if err != nil {
		f.Fatal(err)
	}
	account := "identity/" + strings.Repeat("A", 26)
	f.Add(id.text())
	f.Add([]byte("recipient " + id.Recipient() + "\naccount " + account + "\n"))
	f.Add([]byte(companionMark + "00\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGNyOGVzHGrU+YLaFUGFxVBZKPMHzmEZTS3DDXDRPLXO\n"))
	f.Add([]byte(companionMark + "00\nAGE-PLUGIN-TEST-10Q32NLXM\n"))
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\n"))
	f.Add([]byte("age-encryption.org/v1\n-> scrypt x 18\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if id, err := parseIdentity(text); err == nil {
			if again, err := parseIdentity(id.text()); err != nil || again.key.String() != id.key.String() {
				t.Errorf("it does not come back: %v", err)
			}
		} else if strings.Contains(err.Error(), "AGE-SECRET-KEY-1") && !strings.Contains(err.Error(), "AGE-SECRET-KEY-1…") {
			t.Errorf("the error quotes the line: %v", err)
		}
		if recipient, account, err := parseKeyringFile(text); err == nil {
			if !isNativeRecipient(recipient) || !isIdentityAccount(account) {
				t.Errorf("recipient %q, account %q", recipient, account)
			}
		}
		for _, line := range parseCompanion(text) {
			if p, err := sshProtection(line.text); err == nil {
				if again, err := sshProtection(p.PublicKey); err != nil || again != p {
					t.Errorf("%q: %+v, %v, want %+v", line.text, again, err, p)
				}
			}
			if p, err := pluginProtection(line.text); err == nil {
				if _, err := p.pluginLine(); err != nil {
					t.Errorf("%q: %+v, %v", line.text, p, err)
				}
			}
		}
		_, _ = parseKeys(text)
		_, _ = stanzasOf(text)
	})
}
