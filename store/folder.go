package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFileSize bounds every file read or written, and so every plaintext: age
// does not compress.
const maxFileSize = 1 << 20

// Mode bits that a file must not have.
const (
	ownerOnly   = 0o077 // secrets
	othersWrite = 0o022 // folders, and files that are no secret
)

// folder is an open folder. Everything below the store's own folder is reached
// from one of these by a single path element, and never through a symbolic
// link.
type folder struct {
	fd   int
	path string // for messages
}

// openFolder opens a folder by its path, in which symbolic links are followed.
func openFolder(path string) (folder, error) {
	f, err := openFolderAt(unix.AT_FDCWD, path, path, 0)
	if err != nil {
		return folder{}, err
	}
	if err := f.check(); err != nil {
		f.close()
		return folder{}, err
	}
	return f, nil
}

// CheckFolder refuses a folder that somebody else than this user or root owns or
// can change. Symbolic links in the path are followed.
func CheckFolder(path string) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	f.close()
	return nil
}

func openFolderAt(dir int, name, path string, flags int) (folder, error) {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|flags, 0)
	if err != nil {
		return folder{}, fmt.Errorf("opening folder %q: %w", path, err)
	}
	return folder{fd, path}, nil
}

// open opens the folder called name in f, without check.
func (f folder) open(name string) (folder, error) {
	path := f.join(name)
	sub, err := openFolderAt(f.fd, name, path, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return folder{}, fmt.Errorf("%q is not a folder; symbolic links are not followed", path)
	}
	return sub, err
}

// check refuses a folder in which somebody else can put things.
func (f folder) check() error {
	var st unix.Stat_t
	if err := uninterrupted(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return fmt.Errorf("reading the mode of folder %q: %w", f.path, err)
	}
	return checkFolder(f.path, &st)
}

func checkFolder(path string, st *unix.Stat_t) error {
	mode := uint32(st.Mode)
	switch {
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("folder %q belongs to user %d", path, st.Uid)
	case mode&othersWrite != 0:
		return fmt.Errorf("folder %q can be changed by others (mode %04o); run: chmod go-w %s", path, mode&0o7777, shellQuote(path))
	}
	return nil
}

func (f folder) close() { _ = unix.Close(f.fd) }

func (f folder) join(name string) string { return filepath.Join(f.path, name) }

// stat returns unix.ENOENT as it is.
func (f folder) stat(file string) (st unix.Stat_t, err error) {
	err = uninterrupted(func() error { return unix.Fstatat(f.fd, file, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil && err != unix.ENOENT {
		err = fmt.Errorf("reading the mode of %q: %w", f.join(file), err)
	}
	return st, err
}

// entries lists the folder.
func (f folder) entries() ([]os.DirEntry, error) {
	d, err := f.again()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.ReadDir(-1)
}

// names lists no more than the names of what is in the folder.
func (f folder) names() ([]string, error) {
	d, err := f.again()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// again opens the folder for listing, which leaves the position of f.fd alone.
func (f folder) again() (*os.File, error) {
	again, err := openFolderAt(f.fd, ".", f.path, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(again.fd), f.path), nil
}

// read returns a file's bytes, and its state as it was before they were read.
// It refuses a file with any of the mode bits in forbidden, and whatever is
// not a regular file of this user with one link. A missing file is an
// fs.ErrNotExist.
func (f folder) read(file string, forbidden uint32) ([]byte, unix.Stat_t, error) {
	path := f.join(file)
	// Looking first spares opening a device, which can have effects.
	st, err := f.stat(file)
	if err == unix.ENOENT {
		return nil, st, fmt.Errorf("opening %q: %w", path, err)
	}
	if err == nil {
		err = checkFile(path, &st, forbidden)
	}
	if err != nil {
		return nil, st, err
	}
	// O_NONBLOCK: what has become a FIFO since must not hang.
	fd, err := openat(f.fd, file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, st, fmt.Errorf("opening %q: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := uninterrupted(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, st, fmt.Errorf("reading the mode of %q: %w", path, err)
	}
	if err := checkFile(path, &st, forbidden); err != nil {
		return nil, st, err
	}
	data := make([]byte, 0, st.Size+1)
	for {
		n, err := readFd(fd, data[len(data):cap(data)])
		if err != nil {
			return nil, st, fmt.Errorf("reading %q: %w", path, err)
		}
		if n == 0 {
			return data, st, nil
		}
		data = data[:len(data)+n]
		if len(data) == cap(data) {
			return nil, st, fmt.Errorf("%q grew while it was read", path)
		}
	}
}

func checkFile(path string, st *unix.Stat_t, forbidden uint32) error {
	mode := uint32(st.Mode)
	switch {
	case mode&unix.S_IFMT == unix.S_IFLNK:
		return fmt.Errorf("%q is a symbolic link, which is not followed", path)
	case mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%q is not a regular file", path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%q belongs to user %d", path, st.Uid)
	case mode&forbidden != 0 && forbidden == ownerOnly:
		return fmt.Errorf("%q is open to others (mode %04o); run: chmod 600 %s", path, mode&0o7777, shellQuote(path))
	case mode&forbidden != 0:
		return fmt.Errorf("%q can be changed by others (mode %04o); run: chmod go-w %s", path, mode&0o7777, shellQuote(path))
	case st.Nlink != 1:
		return fmt.Errorf("%q has %d hard links, one is allowed", path, st.Nlink)
	case st.Size > maxFileSize:
		return fmt.Errorf("%q is larger than %d bytes", path, maxFileSize)
	}
	return nil
}

// create writes a new file, mode 0600, and syncs it, but not the folder. After
// an error there is no such file, unless it was there before (fs.ErrExist).
func (f folder) create(file string, data []byte) (err error) {
	path := f.join(file)
	fd, err := openat(f.fd, file, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("creating %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.unlink(file)
		}
	}()
	for len(data) > 0 && err == nil {
		var n int
		n, err = writeFd(fd, data)
		data = data[max(n, 0):]
	}
	if err == nil {
		err = syncFd(fd)
	}
	// Close reports what some network file systems find out no sooner.
	if closeErr := unix.Close(fd); err == nil && closeErr != unix.EINTR {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

// sync makes the entries of the folder durable.
func (f folder) sync() error {
	if err := syncFd(f.fd); err != nil {
		return fmt.Errorf("syncing folder %q: %w", f.path, err)
	}
	return nil
}

// unlink removes a file; one that is not there is no error.
func (f folder) unlink(file string) error {
	err := uninterrupted(func() error { return unix.Unlinkat(f.fd, file, 0) })
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing %q: %w", f.join(file), err)
	}
	return nil
}

func (f folder) rename(from, to string) error {
	err := uninterrupted(func() error { return unix.Renameat(f.fd, from, f.fd, to) })
	if err != nil {
		return fmt.Errorf("renaming %q to %q: %w", f.join(from), to, err)
	}
	return nil
}

func (f folder) link(from, to string) error {
	err := uninterrupted(func() error { return unix.Linkat(f.fd, from, f.fd, to, 0) })
	if err != nil {
		return fmt.Errorf("linking %q to %q: %w", f.join(from), to, err)
	}
	return nil
}

func (f folder) mkdir(name string) error {
	err := uninterrupted(func() error { return unix.Mkdirat(f.fd, name, 0o700) })
	if err != nil {
		return fmt.Errorf("creating folder %q: %w", f.join(name), err)
	}
	return nil
}

func (f folder) rmdir(name string) error {
	return uninterrupted(func() error { return unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR) })
}

// makeFolders makes a folder and those above it, 0700 each, durably.
func makeFolders(path string) error {
	err := os.Mkdir(path, 0o700)
	parent := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := makeFolders(parent); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := openFolderAt(unix.AT_FDCWD, parent, parent, 0)
	if err != nil {
		return err
	}
	defer f.close()
	return f.sync()
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = uninterrupted(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

func readFd(fd int, b []byte) (n int, err error) {
	err = uninterrupted(func() error {
		n, err = unix.Read(fd, b)
		return err
	})
	return n, err
}

func writeFd(fd int, b []byte) (n int, err error) {
	err = uninterrupted(func() error {
		n, err = unix.Write(fd, b)
		return err
	})
	if err == nil && n == 0 {
		err = io.ErrShortWrite
	}
	return n, err
}

// uninterrupted repeats a system call that a signal interrupted, as package os
// does for its own.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
