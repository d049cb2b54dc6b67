package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"tokend/internal/settings"
)

// Whatever is in the configuration file, the settings are such as the rest of the
// program relies on, or the error says in one line what is wrong and where.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"TOKEND_AUTO_LOCK=30m\nTOKEND_LOCK_ON='suspend screen'\n", "TOKEND_PLUGINS='yubikey ../x'\n", "TOKEND_PLUGINS='yubikey se'\nTOKEND_IDENTITIES=~/a:/b/../c\n",
		"TOKEND_SOCKET=~/s\nTOKEND_STORE=keyring\nTOKEND_TRUST=all\nTOKEND_RATE_LIMIT=1\n", "TOKEND_DIR=relative\n", "TOKEND_RATE_LIMIT=1e3\n", "TOKEND_NO_SUCH=\x1b[2J\n", "TOKEND_ASKPASS=$HOME/x\n",
		"TOKEND_SOCKET='/\x1b[2J\n'\n", "A='", "TOKEND_AUTO_LOCK=-1h\n", "TOKEND_LOCK_ON='off auto'\n", "TOKEND_IDENTITIES=::\n", "TOKEND_SSH_KEY=id\n", "TOKEND_FLOOR=x\n",
	} {
		f.Add([]byte(text))
	}
	home := f.TempDir()
	f.Setenv("HOME", home)
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"} {
		f.Setenv(name, "")
	}
	for _, v := range os.Environ() {
		if name := regexp.MustCompile(`^TOKEND_[A-Z_]+`).FindString(v); name != "" {
			f.Setenv(name, "")
		}
	}
	file := filepath.Join(home, ".config", "tokend", "config")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		f.Fatal(err)
	}
	plugin := regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := settings.Load(nil)
		if err != nil {
			var e *settings.Error
			if !errors.As(err, &e) || e.Message == "" || e.Source != file {
				t.Fatalf("%#v", err)
			}
			return
		}
		if d := s.AutoLock(); d < 0 || d > 0 && d < time.Second {
			t.Fatalf("locks after %v", d)
		}
		if n := s.RateLimit(); n < 1 {
			t.Fatalf("%d requests a second", n)
		}
		if l := s.LockOn(); l.Auto && (l.Suspend || l.Screen) {
			t.Fatalf("%+v", l)
		}
		for _, name := range s.Plugins() {
			if !plugin.MatchString(name) {
				t.Fatalf("plugin %q", name)
			}
		}
		paths := append(slices.Clone(s.Identities()), s.Get(settings.Dir), s.Get(settings.Socket), s.TrustFile(), s.LockFile(), s.KeyringDir())
		for _, name := range []string{settings.SSHKey, settings.Askpass} {
			if v := s.Get(name); v != "" {
				paths = append(paths, v)
			}
		}
		for _, path := range paths {
			if !filepath.IsAbs(path) || filepath.Clean(path) != path {
				t.Fatalf("path %q", path)
			}
		}
		for _, v := range s.All() {
			if v.Source == "" || v.Value == "" {
				t.Fatalf("%+v", v)
			}
		}
	})
}
