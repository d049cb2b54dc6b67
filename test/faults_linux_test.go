package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokend/test/authserver"
)

// unsaved are the profiles whose sessions the daemon has in memory only.
func (r *rotating) unsaved(t *testing.T) []string {
	t.Helper()
	var s struct {
		Unsaved []string `json:"unsaved_sessions"`
	}
	if err := json.Unmarshal([]byte(r.must(t, "", "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s.Unsaved
}

// refreshes is how often a refresh token was sent.
func (r *rotating) refreshes() int {
	n := 0
	for _, q := range r.server.Requests() {
		if q.Form.Get("grant_type") == "refresh_token" {
			n++
		}
	}
	return n
}

// renewal is a get that has been sent to the server, which has spent the
// refresh token and not answered yet.
type renewal struct {
	r   *rotating
	got chan result
}

func (r *rotating) beginRenewal(t *testing.T, profile string) *renewal {
	t.Helper()
	r.server.Client(profile).Then(authserver.Answer{Late: true, Hang: true})
	sent := r.refreshes()
	b := &renewal{r, make(chan result, 1)}
	go func() { b.got <- r.tokenctl(t, "", "get", profile) }()
	waitFor(t, "the server to spend the refresh token", func() bool {
		return r.refreshes() == sent+1 && !r.server.Accepts(r.record(t, profile).RefreshToken)
	})
	return b
}

func (b *renewal) end() result {
	b.r.server.Release()
	return <-b.got
}

// What a fault may lead to.
const (
	notSent   = "not sent"
	inMemory  = "served"
	unchanged = "refused"
)

// legend says what is checked of each.
const legend = `
- *not sent*: exit status 75 and a line with the system's reason, the refresh token has
  not been sent, the record is byte for byte what it was, and without the fault the next
  get has a token.
- *served*: exit status 0, the new token, and a warning that its session is in memory
  only; the next get says the same; ` + "`status`" + ` names the profile; ` + "`daemon stop`" + ` refuses
  with 75; the record is byte for byte what it was; without the fault it is written by
  itself within a minute; after a kill -9 then, the next get has a token. One request.
- *refused*: exit status 75 and a line with the system's reason, all files are byte for
  byte what they were, the old text's token is served, and without the fault the same
  command succeeds.
`

var errnos = []struct {
	name  string
	errno syscall.Errno
}{{"EIO", syscall.EIO}, {"ENOSPC", syscall.ENOSPC}, {"EROFS", syscall.EROFS}, {"EMFILE", syscall.EMFILE}}

// faulty has calls of the daemon fail while f runs, at least one of them.
func (r *rotating) faulty(t *testing.T, args []string, f func()) {
	t.Helper()
	log := r.trace(t, func() {
		f()
		if len(r.daemons(t)) == 0 {
			t.Fatal("the daemon has ended")
		}
	}, args...)
	if !strings.Contains(log, "INJECTED") {
		t.Errorf("no call failed:\n%s", unhex(log))
	}
}

const who = "strict" // the profile and the client of these tests

func failsWith(got result, errno syscall.Errno) bool {
	return got.code == 75 && got.out == "" && strings.Contains(got.err, errno.Error()) && strings.Count(got.err, "\n") == 1
}

// markFails: the record cannot be written before the refresh token is sent.
func markFails(t *testing.T, r *rotating, errno syscall.Errno, fault func(func())) string {
	t.Helper()
	r.cold(t)
	before, sent := r.record(t, who), r.refreshes()
	var got result
	fault(func() { got = r.tokenctl(t, "", "get", who) })
	if !failsWith(got, errno) || r.refreshes() != sent || r.record(t, who) != before || len(r.unsaved(t)) != 0 {
		return fmt.Sprintf("get: %v; %d sent; record as it was: %v; unsaved: %q", got, r.refreshes()-sent, r.record(t, who) == before, r.unsaved(t))
	}
	// What failed may be remembered for a second.
	waitFor(t, "a token", func() bool { return r.tokenctl(t, "", "get", who).code == 0 })
	if r.refreshes() != sent+1 || !r.server.Accepts(r.record(t, who).RefreshToken) {
		return fmt.Sprintf("afterwards: %d sent, record is good: %v", r.refreshes()-sent, r.server.Accepts(r.record(t, who).RefreshToken))
	}
	return notSent
}

const memoryWarning = "tokenctl: " + who + ": warning: its session could not be written and is in memory only\n"

// resultFails: the record cannot be written after the exchange.
func resultFails(t *testing.T, r *rotating, fault func(func())) string {
	t.Helper()
	r.cold(t)
	sent := r.refreshes()
	renewal := r.beginRenewal(t, who)
	marked := r.record(t, who)
	var got, again, stopped result
	var unsaved []string
	var during record
	fault(func() {
		got = renewal.end()
		again = r.tokenctl(t, "", "get", who)
		unsaved = r.unsaved(t)
		stopped = r.tokenctl(t, "", "daemon", "stop")
		during = r.record(t, who)
	})
	if got.code != 0 || got.out == "" || got.err != memoryWarning || again != got || during != marked ||
		len(unsaved) != 1 || unsaved[0] != who || stopped.code != 75 || !strings.Contains(stopped.err, "is in memory only, and would be lost: "+who) {
		return fmt.Sprintf("get: %v; again: %v; record as it was: %v; unsaved: %q; stop: %v", got, again, during == marked, unsaved, stopped)
	}
	waitFor(t, "the session to be saved", func() bool { return len(r.unsaved(t)) == 0 })
	if now := r.record(t, who); r.refreshes() != sent+1 || !r.server.Accepts(now.RefreshToken) {
		return fmt.Sprintf("afterwards: %d sent, record is good: %v", r.refreshes()-sent, r.server.Accepts(now.RefreshToken))
	}
	if got = r.tokenctl(t, "", "get", who); got != (result{again.out, "", 0}) {
		return fmt.Sprintf("afterwards: %v", got)
	}
	r.cold(t)
	if got = r.tokenctl(t, "", "get", who); got.code != 0 || got.err != "" {
		return fmt.Sprintf("after a kill: %v", got)
	}
	return inMemory
}

// textFails: a profile cannot be written.
func textFails(t *testing.T, r *rotating, errno syscall.Errno, fault func(func())) string {
	t.Helper()
	before, token := files(t, r.profilesDir), r.get(t, who)
	r.edits++
	text := r.text(who) + fmt.Sprintf("# %d\n", r.edits)
	var got result
	fault(func() { got = r.tokenctl(t, text, "edit", who) })
	after := files(t, r.profilesDir)
	if !failsWith(got, errno) || strings.Join(after, "") != strings.Join(before, "") || r.get(t, who) != token {
		return fmt.Sprintf("edit: %v; files before and after: %q, %q", got, names(before), names(after))
	}
	r.must(t, text, "edit", who)
	return unchanged
}

// faultCalls are the calls by which a file is replaced, in order; inject is what
// strace knows them by.
var faultCalls = []struct{ name, of, inject string }{
	{"openat", newFile, "openat"},
	{"write", newFile, "write"},
	{"fsync", newFile, "fsync"},
	{"linkat", oldFile, "linkat"},
	{"renameat", newFile, "rename,renameat,renameat2"},
	{"fsync", folder, "fsync"},
}

const (
	newFile = "the new file"
	oldFile = "the old file"
	folder  = "the folder"
)

// faultPlaces are the writes that tokens depend on, and what a fault of any of
// their calls leads to.
var faultPlaces = []struct{ name, want string }{
	{"the mark, before the refresh token is sent", notSent},
	{"the record, after the exchange", inMemory},
	{"a profile", unchanged},
}

// fail has a write fail, and says what came of it: what is wanted of its place,
// or what was seen instead.
func (r *rotating) fail(t *testing.T, place int, errno syscall.Errno, fault func(func())) string {
	t.Helper()
	switch place {
	case 0:
		return markFails(t, r, errno, fault)
	case 1:
		return resultFails(t, r, fault)
	}
	return textFails(t, r, errno, fault)
}

// Each call that a write is made of fails in each way, at each of the writes
// that tokens depend on.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	const workers = 2
	type cell struct{ place, call, errno int }
	cells := make(chan cell, len(faultPlaces)*len(faultCalls)*len(errnos))
	for p := range faultPlaces {
		for c, call := range faultCalls {
			for e, errno := range errnos {
				if errno.errno != syscall.EMFILE || call.name == "openat" {
					cells <- cell{p, c, e}
				}
			}
		}
	}
	close(cells)
	var mu sync.Mutex
	got := make(map[cell]string)
	t.Run("workers", func(t *testing.T) {
		for i := range workers {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				r := newRotating(t, strict)
				for c := range cells {
					call, errno := faultCalls[c.call], errnos[c.errno]
					dir := r.sessionsDir
					if faultPlaces[c.place].want == unchanged {
						dir = r.profilesDir
					}
					temp, old := "."+who+".env.age.tmp", "."+who+".env.age.old"
					on := map[string][]string{
						newFile: {"-P", filepath.Join(dir, temp), "-P", temp},
						oldFile: {"-P", old},
						folder:  {"-P", dir},
					}
					args := append([]string{"-e", "trace=" + call.inject, "-e", "inject=" + call.inject + ":error=" + errno.name}, on[call.of]...)
					is := r.fail(t, c.place, errno.errno, func(f func()) { r.faulty(t, args, f) })
					if want := faultPlaces[c.place].want; is != want {
						t.Errorf("%s of %s, %s, of %s: %s; want %s", call.name, call.of, errno.name, faultPlaces[c.place].name, is, want)
					}
					mu.Lock()
					got[c] = is
					mu.Unlock()
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	var table strings.Builder
	table.WriteString("| what is written | call that fails | EIO | ENOSPC | EROFS | EMFILE |\n|---|---|---|---|---|---|\n")
	for p, place := range faultPlaces {
		for c, call := range faultCalls {
			fmt.Fprintf(&table, "| %s | %s of %s |", place.name, call.name, call.of)
			for e := range errnos {
				is, ok := got[cell{p, c, e}]
				if !ok {
					is = "–"
				}
				fmt.Fprintf(&table, " %s |", is)
			}
			table.WriteString("\n")
		}
	}
	t.Logf("%d cells, as expected", len(got))
	wantDocumented(t, "disk faults", table.String()+legend)
}

// tmpfs mounts a small file system on a folder, with what is in the folder.
func (r *rotating) tmpfs(t *testing.T, dir string) {
	t.Helper()
	there := files(t, dir)
	if out, err := asRoot("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=64k,mode=700,uid=%d,gid=%d", os.Geteuid(), os.Getegid()), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mounting: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := asRoot("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting: %v: %s", err, out)
		}
	})
	for _, file := range there {
		name, content, _ := strings.Cut(file, "\n")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The same with disks that are really full, or read-only.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	r := newRotating(t, strict)
	full := func(dir string) func(func()) {
		return func(f func()) {
			filler, err := os.Create(filepath.Join(dir, "filler"))
			if err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, err = filler.Write(make([]byte, 4096))
			}
			filler.Close()
			f()
			if err := os.Remove(filler.Name()); err != nil {
				t.Fatal(err)
			}
		}
	}
	readOnly := func(dir string) func(func()) {
		remount := func(how string) {
			if out, err := asRoot("mount", "-o", "remount,"+how, dir).CombinedOutput(); err != nil {
				t.Fatalf("remounting: %v: %s", err, out)
			}
		}
		return func(f func()) {
			remount("ro")
			f()
			remount("rw")
		}
	}
	r.tmpfs(t, r.sessionsDir)
	r.tmpfs(t, r.profilesDir)
	table := "| what is written | no space left | read-only |\n|---|---|---|\n"
	for p, place := range faultPlaces {
		table += "| " + place.name + " |"
		dir := r.sessionsDir
		if place.want == unchanged {
			dir = r.profilesDir
		}
		for _, disk := range []struct {
			name  string
			fault func(func())
			errno syscall.Errno
		}{{"full", full(dir), syscall.ENOSPC}, {"read-only", readOnly(dir), syscall.EROFS}} {
			is := r.fail(t, p, disk.errno, disk.fault)
			if is != place.want {
				t.Errorf("%s, %s: %s; want %s", place.name, disk.name, is, place.want)
			}
			table += " " + is + " |"
		}
		table += "\n"
	}
	if !t.Failed() {
		wantDocumented(t, "full disks", table)
	}

	// Who stops the daemon all the same is not kept from it, and is told to log in.
	r.cold(t)
	renewal := r.beginRenewal(t, who)
	readOnly(r.sessionsDir)(func() {
		if got := renewal.end(); got.err != memoryWarning {
			t.Errorf("get: %v", got)
		}
		r.wantFailure(t, 75, "would be lost: "+who, "daemon", "stop")
		r.stop(t)
	})
	if got := r.tokenctl(t, "", "get", who); got != (result{"", fmt.Sprintf(loginLine, who), 4}) {
		t.Errorf("afterwards: %v", got)
	}
}

// What fails beside the writes: a living token is served whatever does, and a
// daemon without descriptors waits for some.
func TestFaultsBesideWrites(t *testing.T) {
	t.Parallel()
	r := newRotating(t, strict)
	pid := r.cold(t)
	token := r.get(t, who)
	sent := r.refreshes()

	var got result
	r.faulty(t, []string{"-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "-P", r.sessionsDir}, func() {
		// A get that comes within 2 s of the last gets what that brought.
		waitFor(t, "a renewal to fail", func() bool {
			got = r.tokenctl(t, "", "get", "--force", "--best-effort", who)
			return got.err != ""
		})
	})
	if got.code != 0 || got.out != token+"\n" || !strings.Contains(got.err, syscall.EIO.Error()) || r.refreshes() != sent {
		t.Errorf("with a mark that cannot be written: %v, %d sent", got, r.refreshes()-sent)
	}

	// Of a file that is as it was nothing is opened.
	if err := os.Chtimes(filepath.Join(r.profilesDir, who+".env.age"), time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.faulty(t, []string{"-e", "trace=openat", "-e", "inject=openat:error=EMFILE", "-P", r.profilesDir}, func() { got = r.tokenctl(t, "", "get", who) })
	if got.code != 0 || got.out != token+"\n" || !strings.Contains(got.err, syscall.EMFILE.Error()) {
		t.Errorf("without descriptors for the profile: %v", got)
	}
	waitFor(t, "a token without a warning", func() bool {
		got := r.tokenctl(t, "", "get", who)
		return got.code == 0 && got.err == ""
	})

	log := r.trace(t, func() {
		got = finish(t, r.command("timeout", "2", filepath.Join(r.bin, "tokenctl"), "get", who))
	}, "-e", "trace=accept4", "-e", "inject=accept4:error=EMFILE")
	if got.code != 124 || got.out != "" {
		t.Errorf("get: %v, want it to wait", got)
	}
	if n := strings.Count(log, "INJECTED"); n < 3 || n > 50 {
		t.Errorf("the daemon tried %d times in 2 s to take a connection", n)
	}
	r.get(t, who)
	if now := r.status(t).PID; now != pid {
		t.Errorf("the daemon was %d and is %d", pid, now)
	}
	if t.Failed() {
		return
	}
	wantDocumented(t, "other faults", `| what fails | error | what is seen of it |
|---|---|---|
| fsync of the mark's folder, while a token lives | EIO | the living token, exit status 0, and a warning that says why it is not renewed; the refresh token has not been sent |
| openat of the profiles' folder, while a token lives | EMFILE | the living token, exit status 0, and a warning that says why |
| accept4 of a caller's connection | EMFILE | the caller waits; the daemon lives, tries again less than 25 times a second, and answers once there are descriptors |
`)
}
