package test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tokend/test/authserver"
)

// trace attaches strace to the home's daemon, as it runs, while change is made,
// and returns the log.
func (h *home) trace(t *testing.T, change func(), args ...string) string {
	t.Helper()
	log, pid := filepath.Join(h.root, "trace"), h.status(t).PID
	argv := append([]string{"strace", "-f", "-y", "-xx", "-s", "65536", "-o", log, "-p", strconv.Itoa(pid)}, args...)
	cmd := asRoot(argv...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	line := ""
	for !strings.Contains(line, "attached") {
		if line, err = said.ReadString('\n'); err != nil {
			t.Fatalf("strace: %q, %v", line, err)
		}
	}
	change()
	// Interrupted, it detaches and dies of the signal.
	by := tracer(t, pid)
	if by == "0" {
		t.Fatal("the daemon has ended, or is not traced any more")
	}
	if out, err := asRoot("kill", "-INT", by).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, _ = said.WriteTo(io.Discard)
	_ = cmd.Wait()
	out, err := asRoot("cat", log).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// tracer returns the process that traces another, "0" if none.
func tracer(t *testing.T, pid int) string {
	t.Helper()
	_, rest, _ := strings.Cut(proc(t, pid, "status"), "TracerPid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// call is one of the daemon's system calls, with the lines of the log at which
// it began and ended.
type call struct {
	name       string
	args       string // as strace prints them, file names readable
	began, end int
	ok         bool
}

var (
	callLine    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumedLine = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	hexBytes    = regexp.MustCompile(`(\\x[0-9a-f]{2})+`)
	socketWrite = regexp.MustCompile(`^\d+<(socket:\[\d+\])>, (?s)"(.*)", \d+$`)
)

// unhex undoes -xx, which keeps strace's own characters apart from what it
// quotes.
func unhex(s string) string {
	return hexBytes.ReplaceAllStringFunc(s, func(m string) string {
		b, err := hex.DecodeString(strings.ReplaceAll(m, `\x`, ""))
		if err != nil {
			panic(err) // the expression matches nothing else
		}
		return string(b)
	})
}

func calls(log string) []call {
	var all []call
	open := make(map[string]int) // by thread: its call that has not returned
	for i, line := range strings.Split(log, "\n") {
		if m := callLine.FindStringSubmatch(line); m != nil {
			c := call{name: m[2], began: i, end: i}
			if args, unfinished := strings.CutSuffix(m[3], " <unfinished ...>"); unfinished {
				c.args = unhex(args)
				open[m[1]] = len(all)
			} else {
				args, result := cutLast(m[3], " = ")
				c.args, c.ok = unhex(strings.TrimSuffix(strings.TrimSpace(args), ")")), !strings.HasPrefix(result, "-1")
			}
			all = append(all, c)
		} else if m := resumedLine.FindStringSubmatch(line); m != nil {
			if j, ok := open[m[1]]; ok {
				args, result := cutLast(m[3], " = ")
				all[j].args += unhex(strings.TrimSuffix(strings.TrimSpace(args), ")"))
				all[j].end, all[j].ok = i, !strings.HasPrefix(result, "-1")
				delete(open, m[1])
			}
		}
	}
	return all
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+len(sep):]
}

// answers returns, for each connection in order, the first call that sent an
// HTTP/2 HEADERS frame on it: settings and the like are no answer yet.
func answers(all []call) []call {
	var first []call
	seen := make(map[string]bool)
	for _, c := range all {
		m := socketWrite.FindStringSubmatch(c.args)
		if c.name != "write" && c.name != "sendmsg" || m == nil || seen[m[1]] {
			continue
		}
		for frames := m[2]; len(frames) >= 9; {
			size := int(frames[0])<<16 | int(frames[1])<<8 | int(frames[2])
			if frames[3] == 1 {
				seen[m[1]] = true
				first = append(first, c)
				break
			}
			frames = frames[min(9+size, len(frames)):]
		}
	}
	return first
}

const changes = "trace=write,writev,sendmsg,pwrite64,fsync,fdatasync,rename,renameat,renameat2"

// A write is answered once it is on the disk: the shipped daemon, as it runs.
func TestAnswerComesAfterTheDisk(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := newHome(t)
	h.must(t, "", "init")
	text := profileOf(s, c)
	for _, change := range []struct {
		command []string
		calls   int
	}{
		{[]string{"add", "dev/network"}, 1},
		{[]string{"edit", "dev/network"}, 2}, // asks for the version first
	} {
		log := h.trace(t, func() { h.must(t, text, change.command...) }, "-e", changes)
		all := calls(log)
		dir := filepath.Join(h.status(t).ProfilesDir, "dev")
		temp, file := ".network.env.age.tmp", "network.env.age"
		replied := answers(all)
		if len(replied) != change.calls {
			t.Fatalf("%q: %d answers, want %d:\n%s", change.command, len(replied), change.calls, unhex(log))
		}
		order := []call{
			only(t, all, "write", "<"+dir+"/"+temp+">"),
			only(t, all, "fsync", "<"+dir+"/"+temp+">"),
			only(t, all, "renameat", `<`+dir+`>, "`+temp+`", `, `, "`+file+`"`),
			only(t, all, "fsync", "<"+dir+">"),
			replied[len(replied)-1],
		}
		for i, c := range order {
			if !c.ok || i > 0 && c.began <= order[i-1].end {
				t.Errorf("%q: step %d, %s, is not after the one before it:\n%s", change.command, i, c.name, unhex(log))
			}
		}
		text += "# changed\n"
	}
}

// only returns the one call of that name whose arguments hold all of these.
func only(t *testing.T, all []call, name string, args ...string) call {
	t.Helper()
	var found []call
	for _, c := range all {
		if strings.HasPrefix(name, "rename") == strings.HasPrefix(c.name, "rename") && (c.name == name || strings.HasPrefix(name, "rename")) &&
			!slices.ContainsFunc(args, func(arg string) bool { return !strings.Contains(c.args, arg) }) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d times %s of %q, want 1; there are %+v", len(found), name, args, all)
	}
	return found[0]
}

// Whatever step of a write the disk refuses: an error, and all is as it was.
func TestDiskErrors(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "dev/network", c)
	dir := filepath.Join(h.status(t).ProfilesDir, "dev")
	temp := []string{"-P", filepath.Join(dir, ".network.env.age.tmp"), "-P", ".network.env.age.tmp"}
	before := files(t, dir)
	token := h.get(t, "dev/network")
	for i, fault := range []struct {
		calls string
		on    []string
	}{
		{"write", temp},
		{"fsync", temp},
		{"rename,renameat,renameat2", temp},
		{"fsync", []string{"-P", dir}},
	} {
		t.Run(fmt.Sprintf("%s of %s", fault.calls, filepath.Base(fault.on[1])), func(t *testing.T) {
			var r result
			args := append([]string{"-e", "trace=" + fault.calls, "-e", "inject=" + fault.calls + ":error=EIO"}, fault.on...)
			log := h.trace(t, func() { r = h.tokenctl(t, profileOf(s, c)+"# changed\n", "edit", "dev/network") }, args...)
			if !strings.Contains(log, "INJECTED") {
				t.Fatalf("no error was injected:\n%s", unhex(log))
			}
			if r.code != 75 || r.out != "" || !strings.Contains(r.err, "input/output error") || strings.Count(r.err, "\n") != 1 {
				t.Errorf("edit: %v, want status 75 and a line that says why", r)
			}
			if after := files(t, dir); !slices.Equal(after, before) {
				t.Errorf("files before and after differ: %q, %q", names(before), names(after))
			}
			if got := h.get(t, "dev/network"); got != token {
				t.Error("the old text's token is served no more")
			}
			if got := h.get(t, "dev/network", "--scope", "of."+strconv.Itoa(i)); got == "" {
				t.Error("the old text makes no tokens")
			}
		})
	}
	// The same daemon writes again when the disk does.
	h.must(t, profileOf(s, c)+"# changed\n", "edit", "dev/network")
	if after := files(t, dir); slices.Equal(after, before) {
		t.Error("nothing was written")
	}
	h.kill(t, h.status(t).PID, syscall.SIGKILL)
	if h.get(t, "dev/network") == "" {
		t.Error("an empty token")
	}
}

// files returns names and contents of what is in a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Name()+"\n"+string(b))
	}
	return all
}

func names(files []string) []string {
	var all []string
	for _, f := range files {
		name, _, _ := strings.Cut(f, "\n")
		all = append(all, name)
	}
	return all
}
