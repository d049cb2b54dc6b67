package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// change has the test binary make a change to dev/network in its own process,
// under strace with the given arguments, and returns what it printed and what
// strace saw.
func (f *faultStore) change(t *testing.T, change string, straceArgs ...string) (printed, trace string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "trace")
	args := append([]string{"-f", "-y", "-qq", "-o", log}, straceArgs...)
	cmd := exec.Command("strace", append(args, binary)...)
	// A binary with the race detector takes a second to end, unless told not to.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "STORE_TEST_CHANGE="+change, "STORE_TEST_DIR="+f.dir, "STORE_TEST_IDENTITY="+f.identity)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), string(mustRead(t, log))
}

// faultStore is a store of one secret, dev/network, or none.
type faultStore struct {
	dir, identity string
	id            *Identity
	file          string // what dev/network.env.age holds, "" if there is none
}

func newFaultStore(t *testing.T, exists bool) *faultStore {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &faultStore{dir: filepath.Join(dir, "store"), identity: filepath.Join(dir, "identity.txt")}
	f.id = writeIdentity(t, f.identity, false)
	a := f.open(t)
	if exists {
		mustPut(t, a, "dev/network", "old", "")
		f.file = string(mustRead(t, f.in("dev/network.env.age")))
	}
	return f
}

// matching has strace look only at calls that concern a path, by descriptor or
// by its last element: strace does not put the two together.
func (f *faultStore) matching(path string) []string {
	if path == "" {
		return []string{"-P", f.dir}
	}
	return []string{"-P", f.in(path), "-P", filepath.Base(path)}
}

func (f *faultStore) in(name string) string { return filepath.Join(f.dir, name) }

func (f *faultStore) open(t *testing.T) *Age {
	t.Helper()
	a, err := OpenAge(f.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock(f.id)
	return a
}

// wantOld checks that everything is as it was: the same bytes, one link,
// nothing beside them.
func (f *faultStore) wantOld(t *testing.T) {
	t.Helper()
	want := map[string]string{}
	if f.file != "" {
		want = map[string]string{"dev/": "", "dev/network.env.age": f.file}
	}
	if diff := cmp.Diff(want, tree(t, f.dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if f.file != "" {
		wantSecret(t, f.open(t), "dev/network", "old", versionOf([]byte(f.file)))
	} else {
		wantNothing(t, f.open(t), "dev/network")
	}
}

const (
	temp    = "dev/.network.env.age.tmp"
	old     = "dev/.network.env.age.old"
	target  = "dev/network.env.age"
	renames = "renameat,renameat2"
)

func TestSyscallFaults(t *testing.T) {
	type fault struct {
		syscalls, errno string
		path            string // that the call must concern
		when            string // which of these calls; all where empty
		says            string
	}
	put := []fault{
		{"openat", "ENOSPC", temp, "", "no space left on device"},
		{"openat", "EMFILE", temp, "", "too many open files"},
		{"write", "EIO", temp, "", "input/output error"},
		{"write", "ENOSPC", temp, "", "no space left on device"},
		{"write", "EDQUOT", temp, "", "disk quota exceeded"},
		{"fsync", "EIO", temp, "", "input/output error"},
		{"close", "EIO", temp, "", "input/output error"},
		{renames, "EIO", temp, "", "input/output error"},
		{renames, "EROFS", temp, "", "read-only file system"},
		{"fsync", "EIO", "dev", "", "input/output error"},
	}
	for _, test := range []struct {
		change string
		exists bool
		faults []fault
	}{
		{"put", true, slices.Concat(put, []fault{{"linkat", "EPERM", target, "", "operation not permitted"}})},
		{"put", false, slices.Concat(put, []fault{
			{"mkdirat", "ENOSPC", "dev", "", "no space left on device"},
			{"openat", "EMFILE", "dev", ":when=1", "too many open files"},
			{"openat", "EMFILE", "dev", ":when=2", "too many open files"},
			{"openat", "EMFILE", "dev", ":when=3", "too many open files"}, // it has just been made
			{"fsync", "EIO", "", "", "input/output error"},
		})},
		{"delete", true, []fault{
			{renames, "EIO", target, "", "input/output error"},
			{"fsync", "EIO", "dev", "", "input/output error"},
		}},
		{"get", true, []fault{
			{"openat", "EMFILE", "dev", "", "too many open files"},
			{"openat", "EMFILE", target, "", "too many open files"},
			{"read", "EIO", target, "", "input/output error"},
		}},
	} {
		for _, fault := range test.faults {
			name := fmt.Sprintf("%s/exists=%v/%s/%s/%s", test.change, test.exists, fault.path, fault.syscalls, fault.errno+fault.when)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := newFaultStore(t, test.exists)
				printed, trace := f.change(t, test.change, append(f.matching(fault.path),
					"-e", "trace="+fault.syscalls, "-e", "inject="+fault.syscalls+":error="+fault.errno+fault.when)...)
				if !strings.Contains(trace, "(INJECTED)") {
					t.Fatalf("nothing was injected: %s%s", printed, trace)
				}
				if !strings.HasPrefix(printed, "failed: ") || !strings.Contains(printed, fault.says) {
					t.Errorf("printed %q, want failed: … %s", printed, fault.says)
				}
				if strings.Contains(printed, "undoing") {
					t.Errorf("undoing failed: %s", printed)
				}
				f.wantOld(t)
			})
		}
	}
}

// Where the rename back fails as well, the error says so, and the next start
// clears up.
func TestUndoFails(t *testing.T) {
	f := newFaultStore(t, true)
	// The second rename is the one back; -P leaves it no others.
	printed, trace := f.change(t, "put", "-P", f.in("dev"), "-e", "trace=fsync,"+renames,
		"-e", "inject=fsync:error=EIO", "-e", "inject="+renames+":error=EROFS:when=2+")
	if n := strings.Count(trace, "(INJECTED)"); n != 2 {
		t.Fatalf("%d calls were injected, want 2: %s", n, trace)
	}
	if !strings.Contains(printed, "input/output error; undoing the change failed, too: ") ||
		!strings.Contains(printed, "read-only file system") {
		t.Errorf("printed %q", printed)
	}
	a := f.open(t)
	wantSecret(t, a, "dev/network", "new", mustStat(t, a, "dev/network"))
	wantFiles(t, f.dir, "dev/", target)
}

// Between its link and its rename, Put has two links to the file, which
// readers would refuse if they could see it.
func TestReadersSeeNoHalfDoneChange(t *testing.T) {
	f := newFaultStore(t, true)
	printed, trace := f.change(t, "put while others look", append(f.matching(temp),
		"-e", "trace="+renames, "-e", "inject="+renames+":delay_enter=200000")...)
	if !strings.Contains(trace, "(DELAYED)") {
		t.Fatalf("nothing was delayed: %s", trace)
	}
	if printed != "done\n" {
		t.Error(printed)
	}
	a := f.open(t)
	wantSecret(t, a, "dev/network", "new", mustStat(t, a, "dev/network"))
}

func TestOrderOfSyscalls(t *testing.T) {
	for _, test := range []struct {
		change string
		exists bool
		want   []string
	}{
		{"put", true, []string{"write " + temp, "fsync " + temp, "linkat dev", "renameat dev", "fsync dev", "unlinkat dev"}},
		{"put", false, []string{"mkdirat ", "fsync ", "write " + temp, "fsync " + temp, "renameat dev", "fsync dev", "unlinkat dev"}},
		{"delete", true, []string{"renameat dev", "fsync dev", "unlinkat dev", "unlinkat "}},
	} {
		t.Run(fmt.Sprintf("%s/exists=%v", test.change, test.exists), func(t *testing.T) {
			f := newFaultStore(t, test.exists)
			printed, trace := f.change(t, test.change, "-e", "trace=write,fsync,linkat,mkdirat,unlinkat,"+renames)
			if printed != "done\n" {
				t.Fatalf("printed %q", printed)
			}
			call := regexp.MustCompile(`^\d+ +(\w+?)2?\(\d+<` + regexp.QuoteMeta(f.dir) + `/?([^>]*)>`)
			var got []string
			for line := range strings.Lines(trace) {
				// The first thing is to clear away what might be left over.
				if m := call.FindStringSubmatch(line); m != nil && !strings.Contains(line, "ENOENT") {
					got = append(got, m[1]+" "+m[2])
				}
			}
			if !test.exists {
				// It does not look whether there is something to clear away.
				test.want = slices.DeleteFunc(test.want, func(s string) bool { return s == "unlinkat dev" })
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("calls (-want +got):\n%s\n%s", diff, trace)
			}
		})
	}
}

// Killed at any of its steps, a change has happened or not, and the next start
// leaves nothing beside it.
func TestKilled(t *testing.T) {
	for _, test := range []struct {
		change string
		exists bool
		after  string // the state of dev/network once the change is done
		kills  [][2]string
	}{
		{"put", true, "new", [][2]string{
			{"openat", temp}, {"write", temp}, {"fsync", temp}, {"close", temp}, {"linkat", target},
			{renames, temp}, {"fsync", "dev"}, {"unlinkat", old},
		}},
		{"put", false, "new", [][2]string{
			{"mkdirat", "dev"}, {"fsync", ""}, {"write", temp}, {"fsync", temp}, {renames, temp}, {"fsync", "dev"},
		}},
		{"delete", true, "", [][2]string{{renames, target}, {"fsync", "dev"}, {"unlinkat", temp}}},
	} {
		for _, kill := range test.kills {
			t.Run(fmt.Sprintf("%s/exists=%v/%s/%s", test.change, test.exists, kill[0], kill[1]), func(t *testing.T) {
				t.Parallel()
				f := newFaultStore(t, test.exists)
				when := ""
				if kill[0] == "unlinkat" && test.change == "put" {
					when = ":when=2" // the first clears away what might be left over
				}
				printed, _ := f.change(t, test.change, append(f.matching(kill[1]), "-e", "trace="+kill[0],
					"-e", "inject="+kill[0]+":signal=KILL"+when)...)
				if printed != "" {
					t.Fatalf("not killed: %s", printed)
				}
				a := f.open(t)
				for name := range tree(t, f.dir) {
					if name != "dev/" && name != target {
						t.Errorf("%s is left over", name)
					}
				}
				v := mustStat(t, a, "dev/network")
				if v == "" {
					if test.exists && test.after != "" {
						t.Error("the secret is lost")
					}
					return
				}
				data, _, err := a.Get(t.Context(), "dev/network")
				if err != nil {
					t.Fatal(err)
				}
				if got := string(data); got != test.after && (got != "old" || !test.exists) {
					t.Errorf("the secret is %q", got)
				}
			})
		}
	}
}
