package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tokend/client"
	"tokend/client/api"
)

func importCommand(a *app) *cobra.Command {
	var as string
	var dryRun, replace bool
	c := &cobra.Command{
		Use:   "import FOLDER|FILE...",
		Short: "Make profiles from what other programs keep credentials in",
		Long: `Make profiles from env files: NAME.env, and NAME.env.age or NAME.age as dsec and
passage keep them, which the daemon opens with the identities that it has.

A file below FOLDER is named by its way from there, FOLDER/d000/dev/network.env.age
as d000/dev/network, and a file called .env by its folder; --as goes before these
names. A FILE is named by itself, or one alone by --as, if that does not end in a
slash.

A file that cannot be imported is named, and the others are. What stands there
already, byte for byte, stays as it is: after an interruption, run it again. The
profiles are trusted by being imported; the files stay where they are. With --dry-run
they are opened and checked just so, and nothing is written.`,
		Example: `  tokenctl import ~/.passage/store --dry-run
  tokenctl import ~/dsec --as old
  tokenctl import network.env --as dev/network
  tokenctl import google key.json`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			t := &tree{app: a, as: as, alone: len(args) == 1}
			for _, arg := range args {
				if err := t.find(arg); err != nil {
					return err
				}
			}
			return t.importAll(ctx, dryRun, replace)
		},
	}
	c.Flags().StringVar(&as, "as", "", "what the names begin with, or the name of the one file")
	c.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "only say what would be imported")
	c.Flags().BoolVar(&replace, "replace", false, "replace profiles that are there")
	a.outputFlag(c, "text", "json")
	c.AddCommand(importGoogleCommand(a), importOIDCAgentCommand(a), importOAuth2cCommand(a))
	return c
}

// tree is the files to import.
type tree struct {
	app    *app
	as     string // of --as
	alone  bool   // it is the only argument
	files  []envFile
	failed int
	done   []imported
}

// imported is what came of a file, or with --dry-run would.
type imported struct {
	File    string `json:"file"`
	Profile string `json:"profile,omitempty"`
	Result  string `json:"result"` // new, replaced, unchanged, left_out, refused
	Message string `json:"message,omitempty"`
	// VariablesOnly: there is no token to get.
	VariablesOnly bool `json:"variables_only,omitempty"`
}

// envFile is a file, and the name of the profile that it makes.
type envFile struct {
	path, name string
	plain      bool
}

func (t *tree) refuse(file, format string, args ...any) {
	t.failed++
	t.note(imported{File: file, Result: "refused", Message: fmt.Sprintf(format, args...)})
}

func (t *tree) leaveOut(file, why string) {
	t.note(imported{File: file, Result: "left_out", Message: "left out" + why})
}

// note tells a person of a file at once; JSON has it at the end.
func (t *tree) note(o imported) {
	t.done = append(t.done, o)
	if t.app.output != "json" {
		note("%s: %s", o.File, o.Message)
	}
}

// find adds an argument's files.
func (t *tree) find(arg string) error {
	info, err := os.Stat(arg)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		name, ok := profileName(filepath.Base(arg))
		if !ok {
			return &problem{Exit: exitUsage, Message: arg + " is not called NAME.env, NAME.env.age or NAME.age", Fix: "see: tokenctl import --help"}
		}
		if abs, err := filepath.Abs(arg); name == "" && err == nil {
			name = filepath.Base(filepath.Dir(abs))
		}
		if t.alone && t.as != "" && !strings.HasSuffix(t.as, "/") {
			t.add(arg, t.as)
		} else {
			t.add(arg, path.Join(t.as, name))
		}
		return nil
	}
	root, err := filepath.Abs(arg)
	if err != nil {
		return err
	}
	return filepath.WalkDir(arg+"/", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			t.refuse(file, "%v", errors.Unwrap(err))
			return nil
		}
		below, err := filepath.Rel(arg, file)
		if err != nil {
			return err
		}
		if below == "." {
			return nil
		}
		name, isOurs := profileName(filepath.Base(file))
		hidden := strings.HasPrefix(e.Name(), ".")
		switch {
		case e.Type()&fs.ModeSymlink != 0 && (isOurs || !hidden):
			t.refuse(file, "is a symbolic link, which is not followed")
		case e.IsDir() && hidden:
			return fs.SkipDir
		case e.IsDir():
		case isOurs && name == "":
			if name = filepath.ToSlash(filepath.Dir(below)); name == "." && t.as == "" {
				name = filepath.Base(root)
			}
			t.add(file, path.Join(t.as, name))
		case isOurs:
			t.add(file, path.Join(t.as, filepath.ToSlash(filepath.Dir(below)), name))
		case strings.HasSuffix(e.Name(), ".gpg") || strings.HasSuffix(e.Name(), ".asc"):
			t.refuse(file, "is encrypted with GnuPG, which is not opened here; decrypt it, or encrypt it with age")
		case e.Name() == ".age-recipients":
			t.leaveOut(file, "; what is imported is encrypted to the recipients of this store")
		case strings.HasPrefix(e.Name(), ".env") || !hidden:
			t.leaveOut(file, ", it is not called NAME.env, NAME.env.age or NAME.age")
		}
		return nil
	})
}

// profileName is what a file's name leaves for a profile's; empty for a file that
// is called by its ending alone.
func profileName(file string) (name string, ok bool) {
	name, isAge := strings.CutSuffix(file, ".age")
	name, isEnv := strings.CutSuffix(name, ".env")
	return name, isEnv || isAge && name != ""
}

func (t *tree) add(file, name string) {
	if why := wrongName(name); why != "" {
		t.refuse(file, "would be %q, which is no profile's name: %s", name, why)
		return
	}
	t.files = append(t.files, envFile{file, name, !strings.HasSuffix(file, ".age")})
}

// wrongName is store.CheckName, in short: the daemon has the last word, but it is
// asked late.
func wrongName(name string) string {
	elements := strings.Split(name, "/")
	if len(elements) > 8 {
		return "it has more than 8 elements"
	}
	for _, e := range elements {
		switch {
		case e == "" || len(e) > 64:
			return "an element has 1 to 64 characters"
		case strings.Trim(e, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.ContainsRune("._-", rune(e[0])):
			return "an element is letters, digits, \".\", \"_\" and \"-\", and begins with a letter or digit"
		case strings.EqualFold(path.Ext(e), ".env") || strings.EqualFold(path.Ext(e), ".age"):
			return "an element does not end as its file does"
		}
	}
	return ""
}

// importAll imports what was found.
func (t *tree) importAll(ctx context.Context, dryRun, replace bool) error {
	slices.SortStableFunc(t.files, func(a, b envFile) int { return cmp.Compare(a.name, b.name) })
	t.refuseTwins()
	there, err := t.app.list(ctx, "")
	if err != nil {
		return err
	}
	versions := make(map[string]string)
	for _, p := range there {
		versions[p.Name] = p.Version
	}
	p := progress{total: len(t.files)}
	defer p.clear()
	made, unchanged, plain := 0, 0, false
	before := make(folders)
	for _, f := range t.files {
		version, exists := versions[f.name]
		if !replace {
			version = ""
		}
		content, err := readImport(f.path)
		if err != nil {
			p.clear()
			t.refuse(f.path, "%v", err)
			continue
		}
		p.step()
		if other := before.other(f.name); dryRun && other != "" { // else the daemon says so
			clear(content)
			p.clear()
			t.refuse(f.path, "%s: name %q differs from %q, which another file makes, in nothing but case", f.name, f.name, other)
			continue
		}
		resp := &api.ImportProfileResponse{}
		err = t.app.client.Call(ctx, api.MethodImportProfile, &api.ImportProfileRequest{Name: f.name, Content: content, Replaces: version, DryRun: dryRun}, resp)
		clear(content)
		if err == nil && !dryRun {
			err = addTrust(resp.Trust)
		}
		if err != nil {
			p.clear()
			if stop := t.cannot(f, err); stop != nil {
				return stop
			}
			continue
		}
		before.add(f.name)
		o := imported{File: f.path, Profile: f.name, Result: "new", VariablesOnly: resp.VariablesOnly}
		switch {
		case resp.Unchanged:
			o.Result = "unchanged"
			unchanged++
		case exists:
			o.Result = "replaced"
			fallthrough
		default:
			made++
			plain = plain || f.plain
			if resp.VariablesOnly {
				o.Message = variablesOnly
			} else if !dryRun {
				o.Message = t.runs(ctx, f.name)
			}
		}
		t.done = append(t.done, o)
		if t.app.output == "json" {
			continue
		}
		p.clear()
		if dryRun {
			only := ""
			if o.VariablesOnly {
				only = "  variables only"
			}
			err = say("%s\n", oneLine(f.name+"  "+o.Result+"  "+f.path+only))
		} else if !resp.Unchanged {
			err = say("%s\n", oneLine(f.name))
		}
		if err != nil {
			return err
		}
		if o.Message != "" && !dryRun {
			note("%s: %s", f.name, o.Message)
		}
	}
	p.clear()
	if len(t.files) == 0 && t.failed == 0 {
		return &problem{Exit: exitFailed, Message: "there is nothing to import: no file is called NAME.env, NAME.env.age or NAME.age"}
	}
	if t.app.output == "json" {
		err := sayJSON(struct {
			DryRun bool       `json:"dry_run"`
			Files  []imported `json:"files"`
		}{dryRun, t.done})
		if err == nil && t.failed > 0 {
			err = &answered{exitFailed}
		}
		return err
	}
	if !dryRun && made+unchanged > 0 {
		said := fmt.Sprintf("%s imported, %d unchanged; the files stay where they are", counted(int32(made), "profile"), unchanged)
		if plain {
			said += "; delete the plain ones: their secrets are in the clear"
		}
		note("%s", said)
	}
	if t.failed > 0 {
		return &problem{Exit: exitFailed, Message: counted(int32(t.failed), "file") + " cannot be imported, as said above"}
	}
	return nil
}

// runs names what a profile will run, and which files it will read and send: who wrote
// the text may be somebody else than who has just trusted it.
func (t *tree) runs(ctx context.Context, name string) string {
	p := &api.GetProfileResponse{}
	if t.app.client.Call(ctx, api.MethodGetProfile, &api.GetProfileRequest{Name: name}, p) != nil {
		return "" // it is imported all the same
	}
	var programs, files []string
	for line := range strings.Lines(p.MaskedText) {
		variable, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case value == "********": // not tokend's
		case strings.HasSuffix(variable, "_COMMAND"):
			programs = append(programs, variable)
		case strings.HasSuffix(variable, "_FILE"):
			files = append(files, variable)
		}
	}
	var does []string
	if programs != nil {
		does = append(does, "runs a program for its tokens, "+strings.Join(programs, ", "))
	}
	if files != nil {
		does = append(does, "reads a file for its tokens, "+strings.Join(files, ", "))
	}
	if does == nil {
		return ""
	}
	return strings.Join(append(does, "look at it: tokenctl show "+name), "; ")
}

// cannot says why one file was not imported, or returns an error that is about all
// of them.
func (t *tree) cannot(f envFile, err error) error {
	var call *client.Error
	if !errors.As(err, &call) {
		return err
	}
	p := diagnoseCall(call)
	switch call.Reason {
	case api.ReasonAlreadyExists:
		p.Fix = "to replace it, add --replace"
		if call.Metadata["suggestion"] != "" {
			p.Fix = ""
		}
	case api.ReasonProfileInvalid, api.ReasonVersionChanged, api.ReasonRequestInvalid:
		if call.Metadata["folder"] == "" {
			p.Fix = ""
		}
	case api.ReasonUntrusted:
	default:
		return err
	}
	t.refuse(f.path, "%s", p.line())
	return nil
}

// refuseTwins leaves out files that make one name, or names that are equal but for
// case.
func (t *tree) refuseTwins() {
	by := make(map[string][]envFile)
	for _, f := range t.files {
		key := strings.ToLower(f.name)
		by[key] = append(by[key], f)
	}
	t.files = slices.DeleteFunc(t.files, func(f envFile) bool {
		same := by[strings.ToLower(f.name)]
		for _, other := range same {
			if other.path != f.path {
				t.refuse(f.path, "makes the profile %s, and so does %s, as %s", f.name, other.path, other.name)
				return true
			}
		}
		return false
	})
}

// folders are those that names are in, by what they are where case does not count.
type folders map[string]string

func (f folders) add(name string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		f[strings.ToLower(dir)] = dir
	}
}

// other is the folder that the store would refuse a name for, which is that of the
// name but for case; empty: it would not.
func (f folders) other(name string) (other string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if as, ok := f[strings.ToLower(dir)]; ok && as != dir {
			other = as
		}
	}
	return other
}

// maxImport is more than an age file of the longest text has, and less than a call
// may carry.
const maxImport = 60 << 10

// readImport reads a file that is nobody's trap: a link, a pipe or a device.
func readImport(file string) ([]byte, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("is a symbolic link, which is not followed")
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxImport+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxImport:
		return nil, fmt.Errorf("is larger than %d KiB, so it holds more than a profile can", maxImport>>10)
	case len(content) == 0:
		return nil, errors.New("is empty")
	}
	return content, nil
}

func (a *app) putImported(ctx context.Context, put *api.PutProfileRequest) error {
	err := a.put(ctx, put)
	var call *client.Error
	if errors.As(err, &call) || errors.As(err, new(*problem)) {
		p := diagnose(err)
		if p.Reason == api.ReasonAlreadyExists.String() {
			p.Fix = "choose another name: --as NAME"
		}
		return &p
	}
	if err != nil {
		return err
	}
	return say("%s\n", oneLine(put.Name))
}

// nameFrom makes one element of a profile's name from s; "" if there is nothing
// in s for one.
func nameFrom(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, s)
	s = strings.TrimLeft(s, "._-")
	s = s[:min(len(s), 64)]
	for path.Ext(s) == ".env" || path.Ext(s) == ".age" {
		s = strings.TrimSuffix(s, path.Ext(s))
	}
	return s
}
