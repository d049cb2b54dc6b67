package test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age/plugin"
	"golang.org/x/sys/unix"

	"tokend/test/authserver"
	"tokend/test/keyring"
)

// docBlocks returns what stands indented or fenced in a document, dedented.
func docBlocks(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	inside, fenced := false, false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "```") {
			fenced, inside = !fenced, false
			continue
		}
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case !fenced && !indented:
			inside = false
		case inside:
			blocks[len(blocks)-1] += code
		default:
			blocks, inside = append(blocks, code), true
		}
	}
	return blocks
}

// guide runs a document's commands, each as it stands there, on a terminal.
type guide struct {
	t      *testing.T
	h      *home
	file   string
	steps  map[string]docStep // for some of its lines
	ran    map[string]bool
	asked  []answerTo
	config string
}

// docStep is what there is about a line besides to run it.
type docStep struct {
	before func()
	as     string           // what is run in its place
	shell  string           // instead of bash
	after  func(out string) // out is all that was seen
}

// answerTo is what a person types.
type answerTo struct{ question, answer string }

// run runs all of it, in order. Settings go into the configuration, for which the
// daemon is started anew and unlocked.
func (g *guide) run() {
	g.t.Helper()
	g.ran = make(map[string]bool)
	for _, block := range docBlocks(g.t, g.file) {
		restart := false
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			step := g.steps[line]
			g.ran[line] = true
			if step.before != nil {
				step.before()
			}
			command := step.as
			if command == "" {
				command, _, _ = strings.Cut(line, "    ") // what it is for stands behind
			}
			var out string
			if docSetting.MatchString(command) {
				g.set(command)
				restart = restart || !strings.HasPrefix(command, "TOKEND_ASKPASS=")
			} else {
				if step.shell == "" {
					step.shell = "bash"
				}
				out = g.must(step.shell, command)
			}
			if step.after != nil {
				step.after(out)
			}
		}
		if restart {
			g.must("bash", "tokenctl daemon restart && tokenctl unlock")
		}
	}
	for line := range g.steps {
		if !g.ran[line] {
			g.t.Errorf("%s has no line %q", g.file, line)
		}
	}
}

var docSetting = regexp.MustCompile(`^TOKEND_[A-Z_]+=[^;&|]*$`)

// set adds a line to the configuration.
func (g *guide) set(line string) {
	g.config += line + "\n"
	write(g.t, filepath.Join(g.h.dir, ".config", "tokend", "config"), g.config)
}

// move goes on in another home, whose configuration is empty, and returns the one
// before.
func (g *guide) move(to *home) *home {
	from := g.h
	g.h, g.config = to, ""
	return from
}

// must runs a command, which has to succeed, and returns all that was seen.
func (g *guide) must(shell, command string) string {
	g.t.Helper()
	out, code := g.typed(shell, command)
	if code != 0 {
		g.t.Fatalf("%s: %s\nends with %d:\n%s", g.file, command, code, out)
	}
	return out
}

// typed runs a command on a terminal, with somebody who answers.
func (g *guide) typed(shell, command string) (seen string, code int) {
	g.t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer ours.Close()
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		g.t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		g.t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer theirs.Close()
	cmd := g.h.command(shell, "-c", command)
	cmd.Dir = g.h.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	theirs.Close()
	timer := time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	unanswered := 0
	// Nobody has it open any more (EIO): Linux says so also where somebody has just
	// written and closed it while it looked, and then only the next read tells.
	ends := 0
	for buf := make([]byte, 4096); ends < 2; {
		n, err := ours.Read(buf)
		seen += string(buf[:n])
		for _, a := range g.asked {
			if strings.HasSuffix(seen[unanswered:], a.question) {
				unanswered = len(seen)
				if _, err := ours.WriteString(a.answer + "\n"); err != nil {
					g.t.Fatal(err)
				}
				break
			}
		}
		if err != nil {
			ends++
		} else {
			ends = 0
		}
	}
	_ = cmd.Wait()
	return strings.ReplaceAll(seen, "\r\n", "\n"), cmd.ProcessState.ExitCode()
}

// output runs a program in the home.
func (g *guide) output(argv ...string) string {
	g.t.Helper()
	cmd := g.h.command(argv...)
	cmd.Dir = g.h.dir
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("%q: %v", argv, err)
	}
	return string(out)
}

// newAgeKey writes a native identity, and returns its public key.
func (g *guide) newAgeKey(file string) string {
	g.t.Helper()
	path := filepath.Join(g.h.dir, file)
	write(g.t, path, g.output("age-keygen"))
	return g.output("age-keygen", "-y", path)
}

// sealFor is an age file for a public key.
func (g *guide) sealFor(file, recipient, text string) {
	g.t.Helper()
	write(g.t, filepath.Join(g.h.dir, file), "")
	cmd := g.h.command("age", "-r", strings.TrimSpace(recipient))
	cmd.Stdin = strings.NewReader(text)
	sealed, err := cmd.Output()
	if err != nil {
		g.t.Fatal(err)
	}
	write(g.t, filepath.Join(g.h.dir, file), string(sealed))
}

func shows(t *testing.T, wants ...string) func(string) {
	return func(out string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("it does not show %q:\n%s", want, out)
			}
		}
	}
}

func TestStoresDocument(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "netapi-automation", Secret: "your-client-secret", Scope: "api.read api.write"}
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	session := keyring.Start(t)
	text := profileOf(server, c)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "age-plugin-test"), "../store/testplugin")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	begin := func() *home {
		h := newHome(t)
		h.env = append(h.env, "DBUS_SESSION_BUS_ADDRESS="+session.Address, "TERM=dumb",
			"GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x@example.com", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x@example.com")
		write(t, filepath.Join(h.dir, "network.env"), text)
		return h
	}
	g := &guide{t: t, h: begin(), file: "../docs/stores.md", asked: []answerTo{
		{"New passphrase for the identity: ", "open sesame"},
		{"The same once more: ", "open sesame"},
		{"Passphrase of the identity: ", "open sesame"},
		{"Present passphrase of the identity: ", "open sesame"},
		{"Enter passphrase: ", "open sesame"}, // age's own
		{"PIN of the token: ", "1234"},
		{"[y/N] ", "y"},
	}}
	protection := func(want string) func(string) {
		return func(string) {
			t.Helper()
			if got := g.must("bash", "tokenctl status -o json | jq -r .identity_protection"); got != want+"\n" {
				t.Errorf("the identity is protected by %q, want %q", got, want)
			}
			g.h.get(t, "dev/network")
		}
	}
	add := func(string) { g.h.must(t, text, "add", "dev/network") }
	profiles := func(h *home, name string) string { return filepath.Join(h.dir, ".local/share/tokend/profiles", name) }
	locks := func() {
		g.h.must(t, "", "lock")
		g.h.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", "dev/network")
	}
	var daemon *exec.Cmd
	var before, ssh, passphrase *home // each passphrase that is tried takes a second or more
	var newcomer string

	g.h.must(t, "", "init")
	add("")
	g.steps = map[string]docStep{
		"tokenctl status": {after: shows(t, "unlocked", "TOKEND_LOCK_ON", "protected by nothing but its mode")},
		"age -d -i ~/.local/share/tokend/identity.txt ~/.local/share/tokend/profiles/dev/network.env.age": {after: shows(t, c.Secret)},

		"mkdir -p ~/.local/share/tokend/profiles/team": {before: func() {
			write(t, filepath.Join(g.h.dir, "colleagues.txt"), g.newAgeKey("colleague"))
		}},
		"tokenctl trust team/": {after: shows(t, "age1", "[y/N] ")},
		`git -C ~/.local/share/tokend/profiles commit -m "the team's network"`: {after: shows(t, "team/.age-recipients", "team/network.env.age")},
		"tokenctl rekey --dry-run": {before: func() {
			newcomer = g.newAgeKey("newcomer")
			file := profiles(g.h, "team/.age-recipients")
			lines, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, file, string(lines)+newcomer)
			g.must("bash", "tokenctl trust team/")
		}, after: func(out string) { shows(t, strings.TrimSpace(newcomer))(out) }},
		"tokenctl rekey team": {after: func(string) {
			for _, name := range []string{"colleague", "newcomer"} {
				if got, ok := opens(t, filepath.Join(g.h.dir, name), profiles(g.h, "team/network.env.age")); !ok || got != text {
					t.Errorf("%s reads %q", name, got)
				}
			}
		}},

		"tokenctl migrate keyring": {after: func(out string) {
			shows(t, "TOKEND_STORE=keyring")(out)
			g.h.wantFailure(t, 78, "the profiles were moved to the other store; set TOKEND_STORE=keyring", "get", "dev/network")
		}},
		"tokenctl daemon restart": {after: func(string) {
			if n := itemsOf(t, session, "team/network"); n != 1 {
				t.Errorf("%d items", n)
			}
			g.h.get(t, "--force", "dev/network")
		}},
		"tokenctl migrate age": {after: func(out string) {
			shows(t, "TOKEND_STORE=age")(out)
			g.config = ""
			g.set("TOKEND_STORE=age")
			g.must("bash", "tokenctl daemon restart")
			g.h.get(t, "--force", "dev/network")
		}},

		"tokenctl init":                             {before: func() { g.move(begin()) }, after: add},
		"tokenctl protect --passphrase":             {after: protection("passphrase")},
		"tokenctl init --passphrase":                {before: func() { ssh = g.move(begin()) }, after: add},
		"age -d ~/.local/share/tokend/identity.age": {after: shows(t, "AGE-SECRET-KEY-1")},
		"tokenctl protect --ssh ~/.ssh/id_ed25519": {before: func() {
			passphrase = g.move(ssh)
			g.must("bash", "mkdir -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
		}, after: func(out string) {
			shows(t, "Present passphrase of the identity: ")(out)
			protection("ssh")(out)
			locks()
			g.must("bash", "tokenctl unlock")
		}},
		"TOKEND_PLUGINS=yubikey": {as: "TOKEND_PLUGINS=test"},
		"tokenctl protect --plugin yubikey --plugin-identity ~/yubikey.txt": {before: func() {
			write(t, filepath.Join(g.h.dir, "yubikey.txt"), "# made by the plugin\n"+plugin.EncodeIdentity("test", []byte("pin"))+"\n")
			// A daemon that was started by tokenctl does not see this PATH, and says so.
			out, code := g.typed("bash", "tokenctl protect --plugin test --plugin-identity ~/yubikey.txt")
			if code != 78 || !strings.Contains(out, "in the daemon's PATH") {
				t.Errorf("it ends with %d: %s", code, out)
			}
			g.h.must(t, "", "daemon", "stop")
			g.h.setenv("PATH", bin+":"+g.h.bin+":"+os.Getenv("PATH"))
			daemon = g.h.command(filepath.Join(g.h.bin, "tokenctl"), "daemon", "run")
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the daemon", func() bool { return g.h.tokenctl(t, "", "status").code == 0 })
			g.must("bash", "tokenctl unlock")
		}, as: "tokenctl protect --plugin test --plugin-identity ~/yubikey.txt", after: func(out string) {
			protection("plugin")(out)
			locks()
			shows(t, "PIN of the token: ")(g.must("bash", "tokenctl unlock"))
			shows(t, "plugins")(g.must("bash", "tokenctl doctor"))
		}},
		"tokenctl protect --keyring": {after: func(out string) {
			protection("keyring")(out)
			g.h.must(t, "", "daemon", "stop")
			if err := daemon.Wait(); err != nil {
				t.Error(err)
			}
			g.h.get(t, "dev/network") // nothing is asked
		}},
		"tokenctl protect --none": {after: protection("none")},
		"tokenctl init --pq": {before: func() { before = g.move(begin()) }, after: func(out string) {
			shows(t, "Public key age1pq1")(out)
			add("")
			protection("none")("")
			g.move(before)
			g.set("TOKEND_PLUGINS=test")
		}},
		"TOKEND_IDENTITIES=~/.passage/identities:~/keys/old.txt": {before: func() {
			g.must("bash", "mkdir -m 700 ~/.passage ~/keys")
			g.sealFor(".passage/store/web.age", g.newAgeKey(".passage/identities"), text)
			g.newAgeKey("keys/old.txt")
		}},
		"tokenctl export --to ~/backup/tokend": {after: shows(t, "1 of 1 profile written")},
		"install -d -m 700 ~/.local/share/tokend": {before: func() {
			old := g.move(begin())
			g.must("bash", "cp -r '"+old.dir+"/backup' '"+old.dir+"/backup-key' ~/")
			before = old
		}},
		"tokenctl import ~/backup/tokend": {after: func(out string) {
			shows(t, "1 profile imported")(out)
			protection("none")("")
			if a, b := g.h.status(t).Recipient, before.status(t).Recipient; a != b {
				t.Errorf("the identity is %s, was %s", a, b)
			}
			g.move(before)
			g.set("TOKEND_IDENTITIES=~/.passage/identities:~/keys/old.txt")
		}},

		"tokenctl lock": {before: func() {
			g.must("bash", "tokenctl protect --ssh ~/.ssh/id_ed25519")
			g.h.get(t, "dev/network")
		}, after: func(string) {
			g.h.wantFailure(t, 5, "locked; run: tokenctl unlock", "get", "dev/network")
			g.h.wantFailure(t, 5, "locked; run: tokenctl unlock", "show", "dev/network")
			if got := g.h.tokenctl(t, "", "exec", "-e", "A:dev/network", "--", "true").code; got != 111 {
				t.Errorf("exec ends with %d", got)
			}
			if got := g.h.must(t, "", "list"); got != "dev/network\n" {
				t.Errorf("listed %q", got)
			}
			g.h.must(t, "", "reload")
			g.h.must(t, "", "events", "--recent", "-n", "1")
		}},
		"tokenctl unlock":          {after: func(string) { g.h.get(t, "dev/network") }},
		"tokenctl unlock --for 8h": {after: shows(t, "it locks at ")},
		"TOKEND_ASKPASS=/usr/bin/ssh-askpass": {before: func() {
			got := g.must("bash", "tokenctl status")
			shows(t, "TOKEND_AUTO_LOCK   30m", "TOKEND_LOCK_ON     suspend screen")(got)
			old := g.move(passphrase)
			g.must("bash", "cp -r '"+old.dir+"/.passage' '"+old.dir+"/keys' ~/")
			g.set("TOKEND_IDENTITIES=~/.passage/identities:~/keys/old.txt")
			g.must("bash", "tokenctl daemon restart")
			program := filepath.Join(g.h.dir, "askpass")
			write(t, program, "#!/bin/sh\necho open sesame\n")
			if err := os.Chmod(program, 0o700); err != nil {
				t.Fatal(err)
			}
		}, as: "TOKEND_ASKPASS=~/askpass", after: func(string) {
			locks()
			g.h.must(t, "", "unlock")
			g.h.get(t, "dev/network")
		}},
		`tokenctl unlock --passphrase-file "$CREDENTIALS_DIRECTORY/tokend"`: {before: func() {
			locks()
			shows(t, "locked: no report today")(g.must("bash", docLockedJob))
			g.h.setenv("CREDENTIALS_DIRECTORY", g.h.root)
			write(t, filepath.Join(g.h.root, "tokend"), "open sesame\n")
		}, after: func(string) { g.h.get(t, "dev/network") }},
		"tokenctl import ~/dsec --dry-run": {before: func() {
			g.sealFor("dsec/d000/dev/network.env.age", g.h.status(t).Recipient, text)
			write(t, filepath.Join(g.h.dir, "dsec/plain.env"), text)
		}, after: func(out string) {
			shows(t, "d000/dev/network")(out)
			if got := g.h.must(t, "", "list"); got != "dev/network\n" {
				t.Errorf("listed %q", got)
			}
		}},
		"tokenctl import ~/dsec":                        {after: func(string) { g.h.get(t, "d000/dev/network") }},
		"tokenctl import ~/.passage/store --as passage": {after: func(string) { g.h.get(t, "passage/web") }},
		"tokenctl import network.env --as prod/network": {after: func(string) { g.h.get(t, "prod/network") }},
		"oidc-gen -p myaccount | tokenctl import oidc-agent - --as dev/myaccount": {
			before: func() {
				account, err := json.Marshal(map[string]any{"name": "myaccount", "issuer_url": server.Issuer, "client_id": c.ID,
					"client_secret": c.Secret, "refresh_token": "r", "scope": "openid", "redirect_uris": []string{"http://localhost:4242"}})
				if err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(g.h.dir, "account.json"), string(account))
			},
			as: "cat account.json | tokenctl import oidc-agent - --as dev/myaccount", // oidc-gen itself: TestImportFromOIDCAgent
		},
		`tokenctl import oauth2c client.json --as dev/oauth2c --scope "api.read api.write"`: {before: func() {
			write(t, filepath.Join(g.h.dir, "client.json"), fmt.Sprintf(`{"client_id":%q,"client_secret":%q,"openid_discovery_endpoint":%q}`,
				c.ID, c.Secret, server.Issuer+"/.well-known/openid-configuration"))
		}, after: func(string) { g.h.get(t, "dev/oauth2c") }},
		"tokenctl import google key.json --as dev/google --scope https://www.googleapis.com/auth/cloud-platform": {before: func() {
			write(t, filepath.Join(g.h.dir, "key.json"), serviceAccount(t))
		}, after: func(string) { shows(t, "OAUTH2_PROVIDER=google")(g.h.must(t, "", "show", "dev/google")) }},
		"tokenctl export dev --to ~/out": {after: func(string) {
			if _, err := os.Stat(filepath.Join(g.h.dir, "out/dev/network.env.age")); err != nil {
				t.Error(err)
			}
		}},
		"tokenctl export dev --to ~/plain --plain": {after: func(out string) {
			shows(t, "[y/N] ")(out)
			if got, err := os.ReadFile(filepath.Join(g.h.dir, "plain/dev/network.env")); err != nil || string(got) != text {
				t.Errorf("%q, %v", got, err)
			}
		}},
	}
	g.run()
}

const docLockedJob = `t=$(tokenctl get dev/network) || { test $? -eq 5 && echo "locked: no report today" >&2; }`

// serviceAccount is a key's file as Google gives it.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "demo", "private_key_id": "0123456789abcdef",
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": "robot@demo.iam.gserviceaccount.com", "client_id": "1",
		"token_uri": "https://oauth2.googleapis.com/token", "universe_domain": "googleapis.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestShellDocument(t *testing.T) {
	t.Parallel()
	c := authserver.Client{ID: "netapi-automation", Secret: "your-client-secret", Scope: "api.read api.write"}
	server := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, server, "dev/network", c)
	h.must(t, profileOf(server, c)+"API_URL="+server.URL+"\n", "add", "--replace", "dev/network")
	h.env = append(h.env, "TERM=dumb")
	for name, text := range map[string]string{
		"deploy.sh": "#!/bin/sh\necho deployed with $CLIENT_SECRET\n",
		"report.py": "#!/bin/sh\necho reported with $ACCESS_TOKEN\n",
		"transfer":  "#!/bin/sh\necho transferred with $(cat $BEARER_TOKEN_FILE)\n",
		"new.json":  "{}\n",
	} {
		write(t, filepath.Join(h.dir, name), text)
		if err := os.Chmod(filepath.Join(h.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g := &guide{t: t, h: h, file: "../docs/shell.md"}
	api := func(line string) string {
		return strings.ReplaceAll(line, "https://api.example.com/v1/resources", server.ResourceURL)
	}
	const get = "tokenctl curl dev/network -- https://api.example.com/v1/resources"
	const post = "tokenctl curl dev/network -- -sS --json @- https://api.example.com/v1/resources < new.json"
	const set = `eval "$(tokenctl env dev/network)"`
	const unset = `eval "$(tokenctl env dev/network --unset)"`
	const fish = "tokenctl env dev/network | source"
	const checked = `v=$(tokenctl env dev/network) && eval "$v" || exit`
	g.steps = map[string]docStep{
		get:  {as: api(get), after: shows(t, `"client_id":"netapi-automation"`)},
		post: {as: api(post)},
		"tokenctl exec dev/network -- ./deploy.sh":                          {after: shows(t, "deployed with your-client-secret")},
		"tokenctl exec -e ACCESS_TOKEN:dev/network -- ./report.py":          {after: shows(t, "reported with ey")},
		"tokenctl exec dev/network -e ACCESS_TOKEN -- env":                  {after: shows(t, "CLIENT_ID=netapi-automation", "ACCESS_TOKEN=ey")},
		"tokenctl exec -e BEARER_TOKEN_FILE:dev/network --fd -- ./transfer": {after: shows(t, "transferred with ey")},
		set + "              bash, zsh, dash and any of POSIX":              {as: set + "; echo $CLIENT_SECRET", after: shows(t, c.Secret)},
		fish + "               fish":                                        {as: "set -x SHELL fish; " + fish + "; echo $CLIENT_SECRET", shell: "fish", after: shows(t, c.Secret)},
		unset:                                                               {as: set + "; " + unset + "; echo unset=$CLIENT_SECRET.", after: shows(t, "unset=.")},
		checked:                                                             {as: checked + "; echo $CLIENT_SECRET", after: shows(t, c.Secret)},
	}
	g.run()
	for _, r := range server.Requests() {
		if strings.HasSuffix(server.ResourceURL, r.Path) && r.Header.Get("Authorization") == "" {
			t.Errorf("%s %s without a token", r.Method, r.Path)
		}
	}
}

// What the document quotes is what the programs say.
func TestStoresDocumentQuotes(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources bytes.Buffer
	for _, dir := range []string{"broker", "client", "cmd", "daemon", "internal", "store"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			sources.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	source := strings.ReplaceAll(sources.String(), "age-plugin-%s in the daemon", "in the daemon")
	_, errorsTable, found := strings.Cut(string(document), "## What errors mean\n")
	if !found {
		t.Fatal("there is no table of errors")
	}
	quoted := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(errorsTable, -1)
	if len(quoted) < 20 {
		t.Fatalf("%d errors in the table", len(quoted))
	}
	for _, q := range quoted {
		for part := range strings.SplitSeq(q[1], "; run: ") {
			if !strings.Contains(source, part) {
				t.Errorf("nothing says %q", part)
			}
		}
	}
	names := regexp.MustCompile(`TOKEND_[A-Z_]+`).FindAllString(string(document), -1)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !strings.Contains(source, `"`+name+`"`) {
			t.Errorf("there is no setting %s", name)
		}
	}
}
