package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokend/internal/settings"
)

// clean leaves nothing in the environment but HOME, and returns that.
func clean(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
		settings.Dir, settings.Socket, settings.Store, settings.Trust, settings.RateLimit, settings.Profile} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", home)
	return home
}

func configure(t *testing.T, home, text string) (file string) {
	t.Helper()
	file = filepath.Join(home, ".config", "tokend", "config")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func load(t *testing.T, flags map[string]string) *settings.Settings {
	t.Helper()
	s, err := settings.Load(flags)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	home := clean(t)
	runtime := filepath.Join(home, "run")
	if err := os.Mkdir(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	s := load(t, nil)
	dir, state := filepath.Join(home, ".local/share/tokend"), filepath.Join(home, ".local/state/tokend")
	want := []settings.Value{
		{Name: "TOKEND_DIR", Value: dir, Source: "default"},
		{Name: "TOKEND_SOCKET", Value: runtime + "/tokend/tokend.sock", Source: "XDG_RUNTIME_DIR"},
		{Name: "TOKEND_STORE", Value: "age", Source: "default"},
		{Name: "TOKEND_TRUST", Value: "file", Source: "default"},
		{Name: "TOKEND_RATE_LIMIT", Value: "20", Source: "default"},
		{Name: "TOKEND_AUTO_LOCK", Value: "off", Source: "default"},
		{Name: "TOKEND_LOCK_ON", Value: "auto", Source: "default"},
	}
	if diff := cmp.Diff(want, s.All()); diff != "" {
		t.Error(diff)
	}
	got := []string{s.ConfigFile, s.StateDir, s.ProfilesDir(), s.KeyringDir(), s.LockFile(), s.SessionsDir(), s.TrustFile(), s.LogFile()}
	paths := []string{home + "/.config/tokend/config", state, dir + "/profiles", dir + "/keyring", dir + "/lock", state + "/sessions", state + "/trusted", state + "/tokend.log"}
	if diff := cmp.Diff(paths, got); diff != "" {
		t.Error(diff)
	}
	if s.Get(settings.Profile) != "" || s.Source(settings.Profile) != "" {
		t.Error("a profile by default")
	}
}

func TestXDG(t *testing.T) {
	home := clean(t)
	t.Setenv("XDG_CONFIG_HOME", home+"/c")
	t.Setenv("XDG_DATA_HOME", home+"/d/")
	t.Setenv("XDG_STATE_HOME", home+"/s")
	s := load(t, nil)
	got := []string{s.ConfigFile, s.Get(settings.Dir), s.StateDir}
	if diff := cmp.Diff([]string{home + "/c/tokend/config", home + "/d/tokend", home + "/s/tokend"}, got); diff != "" {
		t.Error(diff)
	}
	// A relative one is ignored (XDG Base Directory Specification).
	t.Setenv("XDG_CONFIG_HOME", "c")
	t.Setenv("XDG_DATA_HOME", "./d")
	t.Setenv("XDG_STATE_HOME", "../s")
	s = load(t, nil)
	got = []string{s.ConfigFile, s.Get(settings.Dir), s.StateDir}
	if diff := cmp.Diff([]string{home + "/.config/tokend/config", home + "/.local/share/tokend", home + "/.local/state/tokend"}, got); diff != "" {
		t.Error(diff)
	}
	// HOME is not needed where all three are given.
	t.Setenv("HOME", "")
	t.Setenv("XDG_CONFIG_HOME", home+"/c")
	t.Setenv("XDG_DATA_HOME", home+"/d")
	t.Setenv("XDG_STATE_HOME", home+"/s")
	load(t, nil)
}

func TestPrecedence(t *testing.T) {
	home := clean(t)
	get := func(flags map[string]string) settings.Value {
		t.Helper()
		s := load(t, flags)
		return settings.Value{Name: settings.Dir, Value: s.Get(settings.Dir), Source: s.Source(settings.Dir)}
	}
	want := func(value, source string, got settings.Value) {
		t.Helper()
		if diff := cmp.Diff(settings.Value{Name: settings.Dir, Value: value, Source: source}, got); diff != "" {
			t.Error(diff)
		}
	}
	file := configure(t, home, "# comment\nexport TOKEND_DIR=/first\nTOKEND_DIR='/file'\nTOKEND_PROFILE=dev/network\n")
	want("/file", file, get(nil))
	t.Setenv(settings.Dir, "/env")
	want("/env", "environment", get(nil))
	want("/env", "environment", get(map[string]string{settings.Dir: ""}))
	want("/flag", "flag", get(map[string]string{settings.Dir: "/flag"}))
	t.Setenv(settings.Dir, "")
	want("/file", file, get(nil))
	if s := load(t, nil); s.Get(settings.Profile) != "dev/network" || s.Source(settings.Profile) != file {
		t.Errorf("profile %q from %q", s.Get(settings.Profile), s.Source(settings.Profile))
	}
	again := load(t, map[string]string{settings.Socket: "/flag/s"})
	configure(t, home, "TOKEND_SOCKET=/file/s\n")
	s, err := again.Again()
	if err != nil || s.Get(settings.Socket) != "/flag/s" || s.Get(settings.Dir) != home+"/.local/share/tokend" {
		t.Errorf("again: %v, %v", s.All(), err)
	}
}

func TestOtherDirKeepsItsStateInside(t *testing.T) {
	home := clean(t)
	for dir, state := range map[string]string{
		"/srv/store":                           "/srv/store/state",
		"/srv/./store/":                        "/srv/store/state",
		"~/store":                              home + "/store/state",
		home + "/.local/share/../share/tokend": home + "/.local/state/tokend",
	} {
		t.Setenv(settings.Dir, dir)
		if s := load(t, nil); s.StateDir != state {
			t.Errorf("%s: state in %s, want %s", dir, s.StateDir, state)
		}
	}
}

func TestSocket(t *testing.T) {
	home := clean(t)
	me := strconv.Itoa(os.Geteuid())
	fallback := home + "/.local/state/tokend/run/tokend.sock"
	if fi, err := os.Lstat("/run/user/" + me); err == nil && fi.IsDir() && int(fi.Sys().(*syscall.Stat_t).Uid) == os.Geteuid() {
		fallback = "/run/user/" + me + "/tokend/tokend.sock"
	}
	link := home + "/link"
	if err := os.Symlink(home, link); err != nil {
		t.Fatal(err)
	}
	file := home + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, runtime := range []string{"", "relative", home + "/missing", link, file} {
		t.Setenv("XDG_RUNTIME_DIR", runtime)
		if s := load(t, nil); s.Get(settings.Socket) != fallback || s.Source(settings.Socket) != "default" {
			t.Errorf("XDG_RUNTIME_DIR=%q: socket %s from %s", runtime, s.Get(settings.Socket), s.Source(settings.Socket))
		}
	}
	longest := "/" + strings.Repeat("x", 102)
	t.Setenv(settings.Socket, longest)
	if s := load(t, nil); s.Get(settings.Socket) != longest {
		t.Error("the longest path is refused")
	}
	t.Setenv(settings.Socket, "~/s")
	if s := load(t, nil); s.Get(settings.Socket) != home+"/s" || s.Source(settings.Socket) != "environment" {
		t.Errorf("socket %s from %s", s.Get(settings.Socket), s.Source(settings.Socket))
	}
}

func TestRateLimit(t *testing.T) {
	home := clean(t)
	if got := load(t, nil).RateLimit(); got != 20 {
		t.Errorf("%d requests a second by default", got)
	}
	configure(t, home, "TOKEND_RATE_LIMIT=1\n")
	if got := load(t, nil).RateLimit(); got != 1 {
		t.Errorf("%d, not the configuration's", got)
	}
	t.Setenv(settings.RateLimit, "1000")
	if got := load(t, nil).RateLimit(); got != 1000 {
		t.Errorf("%d, not the environment's", got)
	}
	for _, value := range []string{"0", "-1", "1001", "many", "1.5", "20/s", "99999999999999999999"} {
		t.Setenv(settings.RateLimit, value)
		_, err := settings.Load(nil)
		want := `TOKEND_RATE_LIMIT: "` + value + `" is not a whole number from 1 to 1000, of requests a second to one server (environment)`
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for name, test := range map[string]struct {
		env, config string
		want        settings.Error
		text        string
	}{
		"relative dir": {
			env: "TOKEND_DIR=store", want: settings.Error{Name: "TOKEND_DIR", Source: "environment", Message: `"store" must be an absolute path`},
			text: `TOKEND_DIR: "store" must be an absolute path (environment)`,
		},
		"relative socket": {
			config: "TOKEND_SOCKET=./s\n", want: settings.Error{Name: "TOKEND_SOCKET", Source: "CONFIG", Message: `"./s" must be an absolute path`},
			text: `TOKEND_SOCKET: "./s" must be an absolute path (CONFIG)`,
		},
		"long socket": {
			env: "TOKEND_SOCKET=/" + strings.Repeat("x", 103),
			want: settings.Error{Name: "TOKEND_SOCKET", Source: "environment",
				Message: `"/` + strings.Repeat("x", 103) + `" is longer than 103 bytes, which is all that a socket's name may have`},
			text: `TOKEND_SOCKET: "/` + strings.Repeat("x", 103) + `" is longer than 103 bytes, which is all that a socket's name may have (environment)`,
		},
		"another's home": {
			env: "TOKEND_DIR=~root/x", want: settings.Error{Name: "TOKEND_DIR", Source: "environment", Message: `"~root/x" must be an absolute path`},
			text: `TOKEND_DIR: "~root/x" must be an absolute path (environment)`,
		},
		"store": {
			env: "TOKEND_STORE=vault", want: settings.Error{Name: "TOKEND_STORE", Source: "environment", Message: `unknown store "vault"; there are age and keyring`},
			text: `TOKEND_STORE: unknown store "vault"; there are age and keyring (environment)`,
		},
		"trust": {
			config: "TOKEND_TRUST=ALL\n", want: settings.Error{Name: "TOKEND_TRUST", Source: "CONFIG", Message: `"ALL" is neither file nor all`},
			text: `TOKEND_TRUST: "ALL" is neither file nor all (CONFIG)`,
		},
		"unknown": {
			config: "\nTOKEND_TRUTS=all\n",
			want: settings.Error{Name: "TOKEND_TRUTS", Source: "CONFIG",
				Message: "line 2: unknown setting; known are TOKEND_DIR, TOKEND_SOCKET, TOKEND_STORE, TOKEND_TRUST, TOKEND_RATE_LIMIT, TOKEND_AUTO_LOCK, TOKEND_LOCK_ON, TOKEND_PLUGINS, TOKEND_IDENTITIES, TOKEND_PROFILE, TOKEND_SSH_KEY, TOKEND_ASKPASS, TOKEND_FLOOR"},
			text: "TOKEND_TRUTS: line 2: unknown setting; known are TOKEND_DIR, TOKEND_SOCKET, TOKEND_STORE, TOKEND_TRUST, TOKEND_RATE_LIMIT, TOKEND_AUTO_LOCK, TOKEND_LOCK_ON, TOKEND_PLUGINS, TOKEND_IDENTITIES, TOKEND_PROFILE, TOKEND_SSH_KEY, TOKEND_ASKPASS, TOKEND_FLOOR (CONFIG)",
		},
		"no home": {
			env: "HOME=", want: settings.Error{Name: "HOME", Message: "not set to an absolute path, and neither is XDG_CONFIG_HOME"},
			text: "HOME: not set to an absolute path, and neither is XDG_CONFIG_HOME",
		},
		"relative home": {
			env: "HOME=here", want: settings.Error{Name: "HOME", Message: "not set to an absolute path, and neither is XDG_CONFIG_HOME"},
			text: "HOME: not set to an absolute path, and neither is XDG_CONFIG_HOME",
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := clean(t)
			file := configure(t, home, test.config)
			if name, value, ok := strings.Cut(test.env, "="); ok {
				t.Setenv(name, value)
			}
			s, err := settings.Load(nil)
			var got *settings.Error
			if !errors.As(err, &got) || s != nil {
				t.Fatalf("got %v, %v", s, err)
			}
			test.want.Source = strings.ReplaceAll(test.want.Source, "CONFIG", file)
			if diff := cmp.Diff(&test.want, got); diff != "" {
				t.Error(diff)
			}
			if want := strings.ReplaceAll(test.text, "(CONFIG)", "("+file+")"); got.Error() != want {
				t.Errorf("text is %q, want %q", got, want)
			}
		})
	}
}

func TestConfigThatCannotBeRead(t *testing.T) {
	home := clean(t)
	for _, text := range []string{"TOKEND_DIR='open\n", "no assignment\n"} {
		file := configure(t, home, text)
		_, err := settings.Load(nil)
		var got *settings.Error
		if !errors.As(err, &got) || got.Source != file || got.Message == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
	// Not as much of it as is read: what stands at its end may lock, or refuse.
	long := strings.Repeat("#\n", 32<<10) + "TOKEND_AUTO_LOCK=30m\n"
	file := configure(t, home, long)
	_, err := settings.Load(nil)
	if want := "the configuration is longer than 64 KiB (" + file + ")"; err == nil || err.Error() != want {
		t.Errorf("a long one: %v, want %s", err, want)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	var got *settings.Error
	if _, err := settings.Load(nil); !errors.As(err, &got) || got.Source != file {
		t.Errorf("a folder: %v", err)
	}
}

// A pipe would have everybody wait for who writes to it.
func TestConfigIsNoPipe(t *testing.T) {
	home := clean(t)
	file := configure(t, home, "")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan error, 1)
	go func() {
		_, err := settings.Load(nil)
		loaded <- err
	}()
	select {
	case err := <-loaded:
		if want := "the configuration is not a regular file; move it away (" + file + ")"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits")
	}
}
