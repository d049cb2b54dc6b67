// Package settings decides where things lie on this machine and what is
// switched on. It is the one reader of the TOKEND_… variables and of the
// configuration file; both the daemon and its clients use it, so it links
// little.
package settings

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tokend/internal/envfile"
)

// Names of the settings. Each may be given by flag, in the environment, or in
// the configuration file, and the first of these that has it wins.
const (
	Socket    = "TOKEND_SOCKET"     // path of the daemon's socket
	Dir       = "TOKEND_DIR"        // folder of the store
	Store     = "TOKEND_STORE"      // backend of the profiles: "age" or "keyring"
	Trust     = "TOKEND_TRUST"      // "file": texts must be trusted one by one; "all": none needs to be
	RateLimit = "TOKEND_RATE_LIMIT" // requests a second to one origin

	AutoLock   = "TOKEND_AUTO_LOCK"  // idle time after which the daemon locks, or "off"
	LockOn     = "TOKEND_LOCK_ON"    // what locks it: "suspend" and "screen", space-separated, "off", or "auto"
	Plugins    = "TOKEND_PLUGINS"    // age plugins that may be run, space-separated
	Identities = "TOKEND_IDENTITIES" // files of further identities, for reading only; as in PATH

	Profile = "TOKEND_PROFILE" // tokenctl: stands in for PROFILE
	SSHKey  = "TOKEND_SSH_KEY" // tokenctl: private key that opens the identity
	Askpass = "TOKEND_ASKPASS" // tokenctl: program that asks where there is no terminal
	Floor   = "TOKEND_FLOOR"   // tokenctl doctor: protections that must be active
)

// names is in the order in which they are shown.
var names = []string{Dir, Socket, Store, Trust, RateLimit, AutoLock, LockOn, Plugins, Identities, Profile, SSHKey, Askpass, Floor}

// maxRate is more than any server that people share takes from one machine.
const maxRate = 1000

// minAutoLock is short enough to test with, and longer than a script takes from
// one token to the next.
const minAutoLock = time.Second

// maxSocket is what fits into sockaddr_un on every supported system, with its
// terminating NUL (104 bytes on macOS, 108 on Linux).
const maxSocket = 103

// maxConfig is more than anybody writes by hand.
const maxConfig = 64 << 10

// Value is a setting in force.
type Value struct {
	Name, Value string
	// Source is "flag", "environment", "default", the name of the variable
	// that a default is built from, or the path of the configuration file.
	Source string
}

// Settings is everything in force.
type Settings struct {
	flags  map[string]string
	values map[string]Value
	rate   int

	autoLock   time.Duration
	lockOn     Locks
	plugins    []string
	identities []string

	// ConfigFile is read if it exists.
	ConfigFile string
	// StateDir holds what the daemon learns and logs: sessions, trust, log.
	StateDir string
}

// Locks is what locks the daemon without being asked by a person.
type Locks struct {
	Suspend, Screen bool
	Auto            bool // both, where the identity is protected on disk
}

// Error is a setting that cannot be used, with where it came from.
type Error struct {
	Name, Source, Message string
}

func (e *Error) Error() string {
	s := e.Message
	if e.Name != "" {
		s = e.Name + ": " + s
	}
	if e.Source != "" {
		s += " (" + e.Source + ")"
	}
	return s
}

// Load reads the settings. flags holds those given on the command line.
// Every error is an [*Error].
func Load(flags map[string]string) (*Settings, error) {
	s := &Settings{flags: flags, values: make(map[string]Value, len(names))}
	home := os.Getenv("HOME")
	config, err := xdg("XDG_CONFIG_HOME", home, ".config")
	if err != nil {
		return nil, err
	}
	data, err := xdg("XDG_DATA_HOME", home, ".local/share")
	if err != nil {
		return nil, err
	}
	state, err := xdg("XDG_STATE_HOME", home, ".local/state")
	if err != nil {
		return nil, err
	}
	s.ConfigFile = filepath.Join(config, "tokend", "config")
	file, err := readConfig(s.ConfigFile)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if v := flags[name]; v != "" {
			s.values[name] = Value{name, v, "flag"}
		} else if v := os.Getenv(name); v != "" {
			s.values[name] = Value{name, v, "environment"}
		} else if v := file[name]; v != "" {
			s.values[name] = Value{name, v, s.ConfigFile}
		}
	}

	s.setDefault(Dir, filepath.Join(data, "tokend"), "default")
	s.StateDir = filepath.Join(state, "tokend")
	if err := s.absolute(Dir, home); err != nil {
		return nil, err
	}
	if s.Get(Dir) != filepath.Join(data, "tokend") {
		s.StateDir = filepath.Join(s.Get(Dir), "state")
	}
	if _, ok := s.values[Socket]; !ok {
		path, source := defaultSocket(filepath.Join(state, "tokend", "run"))
		s.setDefault(Socket, path, source)
	}
	if err := s.absolute(Socket, home); err != nil {
		return nil, err
	}
	if v := s.values[Socket]; len(v.Value) > maxSocket {
		return nil, &Error{Socket, v.Source, strconv.Quote(v.Value) + " is longer than " + strconv.Itoa(maxSocket) + " bytes, which is all that a socket's name may have"}
	}
	s.setDefault(Store, "age", "default")
	if v := s.values[Store]; v.Value != "age" && v.Value != "keyring" {
		return nil, &Error{Store, v.Source, "unknown store " + strconv.Quote(v.Value) + "; there are age and keyring"}
	}
	s.setDefault(Trust, "file", "default")
	if v := s.values[Trust]; v.Value != "file" && v.Value != "all" {
		return nil, &Error{Trust, v.Source, strconv.Quote(v.Value) + " is neither file nor all"}
	}
	s.setDefault(RateLimit, "20", "default")
	v := s.values[RateLimit]
	if s.rate, err = strconv.Atoi(v.Value); err != nil || s.rate < 1 || s.rate > maxRate {
		return nil, &Error{RateLimit, v.Source, strconv.Quote(v.Value) + " is not a whole number from 1 to " + strconv.Itoa(maxRate) + ", of requests a second to one server"}
	}
	if err := s.loadLocking(); err != nil {
		return nil, err
	}
	for _, name := range []string{SSHKey, Askpass} {
		if s.Get(name) == "" {
			continue
		}
		if err := s.absolute(name, home); err != nil {
			return nil, err
		}
	}
	return s, s.loadIdentities(home)
}

// loadLocking reads what locks the daemon.
func (s *Settings) loadLocking() error {
	s.setDefault(AutoLock, "off", "default")
	if v := s.values[AutoLock]; v.Value != "off" {
		d, err := time.ParseDuration(v.Value)
		if err != nil || d < minAutoLock {
			return &Error{AutoLock, v.Source, strconv.Quote(v.Value) + ` is neither "off" nor a time of at least ` + minAutoLock.String() + ", such as 30m"}
		}
		s.autoLock = d
	}
	s.setDefault(LockOn, "auto", "default")
	v := s.values[LockOn]
	for _, word := range strings.Fields(v.Value) {
		switch word {
		case "suspend":
			s.lockOn.Suspend = true
		case "screen":
			s.lockOn.Screen = true
		case "auto":
			s.lockOn.Auto = true
		case "off":
		default:
			return &Error{LockOn, v.Source, strconv.Quote(word) + " is none of suspend, screen, auto, off"}
		}
	}
	if n := len(strings.Fields(v.Value)); n == 0 || n > 1 && (s.lockOn.Auto || strings.Contains(v.Value, "off")) {
		return &Error{LockOn, v.Source, strconv.Quote(v.Value) + ": suspend, screen, both of them, auto, or off"}
	}
	v = s.values[Plugins]
	s.plugins = strings.Fields(v.Value)
	for _, name := range s.plugins {
		if !isPluginName(name) {
			return &Error{Plugins, v.Source, strconv.Quote(name) + " is no plugin's name, such as yubikey"}
		}
	}
	return nil
}

// isPluginName accepts what age makes a program's name of, and nothing that
// would make it a path.
func isPluginName(name string) bool {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return name != "" && name[0] != '-'
}

// loadIdentities reads the list of files of further identities.
func (s *Settings) loadIdentities(home string) error {
	v := s.values[Identities]
	for _, path := range filepath.SplitList(v.Value) {
		path = inHome(path, home)
		if !filepath.IsAbs(path) {
			return &Error{Identities, v.Source, strconv.Quote(path) + " is not an absolute path"}
		}
		s.identities = append(s.identities, filepath.Clean(path))
	}
	return nil
}

// Again reads the settings anew, with the same flags.
func (s *Settings) Again() (*Settings, error) { return Load(s.flags) }

// Get returns the value of a setting, or "" where it has none.
func (s *Settings) Get(name string) string { return s.values[name].Value }

// All returns the settings that have a value, in a fixed order.
func (s *Settings) All() []Value {
	var all []Value
	for _, name := range names {
		if v, ok := s.values[name]; ok {
			all = append(all, v)
		}
	}
	return all
}

// Source says where a setting came from.
func (s *Settings) Source(name string) string { return s.values[name].Source }

// RateLimit is how many requests a second one origin is sent at most.
func (s *Settings) RateLimit() int { return s.rate }

// AutoLock is the idle time after which the daemon locks; 0 means never.
func (s *Settings) AutoLock() time.Duration { return s.autoLock }

// LockOn is what locks the daemon without being asked.
func (s *Settings) LockOn() Locks { return s.lockOn }

// Plugins are the names of the age plugins that may be run.
func (s *Settings) Plugins() []string { return s.plugins }

// Identities are the files of further identities.
func (s *Settings) Identities() []string { return s.identities }

// ProfilesDir holds the profiles, one file each.
func (s *Settings) ProfilesDir() string { return filepath.Join(s.Get(Dir), "profiles") }

// KeyringDir holds the index of the keyring's items.
func (s *Settings) KeyringDir() string { return filepath.Join(s.Get(Dir), "keyring") }

// LockFile is locked by the one daemon of this store, and names its socket.
func (s *Settings) LockFile() string { return filepath.Join(s.Get(Dir), "lock") }

// SessionsDir holds what the daemon has learnt and must not lose.
func (s *Settings) SessionsDir() string { return filepath.Join(s.StateDir, "sessions") }

// TrustFile lists the texts that the user has trusted.
func (s *Settings) TrustFile() string { return filepath.Join(s.StateDir, "trusted") }

// LogFile is where a daemon that was started by a client writes its log.
func (s *Settings) LogFile() string { return filepath.Join(s.StateDir, "tokend.log") }

func (s *Settings) setDefault(name, value, source string) {
	if _, ok := s.values[name]; !ok {
		s.values[name] = Value{name, value, source}
	}
}

func (s *Settings) absolute(name, home string) error {
	v := s.values[name]
	v.Value = inHome(v.Value, home)
	if !filepath.IsAbs(v.Value) {
		return &Error{name, v.Source, strconv.Quote(v.Value) + " must be an absolute path"}
	}
	v.Value = filepath.Clean(v.Value)
	s.values[name] = v
	return nil
}

// inHome puts home in the place of a leading ~.
func inHome(path, home string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok && home != "" {
		return filepath.Join(home, rest)
	}
	return path
}

// xdg applies the XDG Base Directory rule that a relative path is ignored.
func xdg(name, home, fallback string) (string, error) {
	if v := os.Getenv(name); filepath.IsAbs(v) {
		return v, nil
	}
	if !filepath.IsAbs(home) {
		return "", &Error{Name: "HOME", Message: "not set to an absolute path, and neither is " + name}
	}
	return filepath.Join(home, fallback), nil
}

// defaultSocket skips a runtime folder that is not this user's, such as the
// one that su and sudo leave in the environment.
func defaultSocket(fallback string) (path, source string) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && ours(dir) {
		return filepath.Join(dir, "tokend", "tokend.sock"), "XDG_RUNTIME_DIR"
	}
	if dir := "/run/user/" + strconv.Itoa(os.Geteuid()); ours(dir) {
		return filepath.Join(dir, "tokend", "tokend.sock"), "default"
	}
	return filepath.Join(fallback, "tokend.sock"), "default"
}

func ours(dir string) bool {
	fi, err := os.Lstat(dir)
	if err != nil || !fi.IsDir() {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func readConfig(path string) (map[string]string, error) {
	// O_NONBLOCK: a FIFO must not hang.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Source: path, Message: "reading the configuration: " + err.Error()}
	}
	defer f.Close()
	// Who may write here says where secrets go.
	if fi, err := f.Stat(); err != nil {
		return nil, &Error{Source: path, Message: "reading the configuration: " + err.Error()}
	} else if !fi.Mode().IsRegular() {
		return nil, &Error{Source: path, Message: "the configuration is not a regular file; move it away"}
	} else if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return nil, &Error{Source: path, Message: "the configuration belongs to somebody else"}
	} else if fi.Mode().Perm()&0o022 != 0 {
		return nil, &Error{Source: path, Message: "the configuration can be changed by others; run: chmod go-w '" + path + "'"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, &Error{Source: path, Message: "reading the configuration: " + err.Error()}
	}
	if len(text) > maxConfig {
		return nil, &Error{Source: path, Message: "the configuration is longer than 64 KiB"}
	}
	vars, err := envfile.Parse(text)
	if err != nil {
		return nil, &Error{Source: path, Message: err.Error()}
	}
	file := make(map[string]string, len(vars))
	for _, v := range vars {
		if !slices.Contains(names, v.Name) {
			return nil, &Error{v.Name, path, "line " + strconv.Itoa(v.Line) + ": unknown setting; known are " + strings.Join(names, ", ")}
		}
		file[v.Name] = v.Value
	}
	return file, nil
}
