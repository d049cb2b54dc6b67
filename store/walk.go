package store

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// walk is the way from the store's folder to a secret's: as many of the
// folders as there are, open, the store's own first.
type walk struct {
	elements  []string // of the name
	forbidden uint32   // as in Age
	folders   [maxElements]folder
	n         int
}

// walk opens the folders on the way to a name, as far as they exist. It
// refuses links and folders that others can change. The store's own folder
// must exist: a store that has gone away is not an empty one.
func (a *Age) walk(elements []string) (*walk, error) {
	root, err := openFolder(a.dir)
	if err != nil {
		return nil, err
	}
	w := &walk{elements: elements, forbidden: a.forbidden, n: 1}
	w.folders[0] = root
	for !w.complete() {
		err := w.step()
		if errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *walk) step() error {
	f, err := w.last().open(w.elements[w.n-1])
	if err != nil {
		return err
	}
	if err := f.check(); err != nil {
		f.close()
		return err
	}
	w.folders[w.n] = f
	w.n++
	return nil
}

func (w *walk) close() {
	for _, f := range w.folders[:w.n] {
		f.close()
	}
}

// complete says whether the secret's folder exists.
func (w *walk) complete() bool { return w.n == len(w.elements) }

// last returns the innermost folder there is.
func (w *walk) last() folder { return w.folders[w.n-1] }

// file returns the name's last element.
func (w *walk) file() string { return w.elements[len(w.elements)-1] }

// expect returns the file that holds the given version, "" where the version
// is "" and there is none, or ErrConflict. It reads the file anew.
func (w *walk) expect(version Version) (file string, err error) {
	if w.complete() {
		if file, _, err = w.last().find(w.file()); err != nil {
			return "", err
		}
	}
	var now Version
	if file != "" {
		sealed, _, err := w.last().read(file, w.forbidden)
		if err != nil {
			return "", err
		}
		now = versionOf(sealed)
	}
	if now != version {
		return "", ErrConflict
	}
	return file, nil
}

// checkCase returns a *CollisionError where another spelling of the name, or
// of a folder on the way, exists.
func (w *walk) checkCase() error {
	for i, f := range w.folders[:w.n] {
		names, err := f.names()
		if err != nil {
			return err
		}
		want, isFile := w.elements[i], i == len(w.elements)-1
		for _, existing := range names {
			if !isFile {
				if strings.EqualFold(existing, want) && existing != want {
					if st, err := f.stat(existing); err != nil && err != unix.ENOENT {
						return err
					} else if st.Mode&unix.S_IFMT == unix.S_IFDIR {
						return w.collision(i, existing)
					}
				}
				continue
			}
			for _, suffix := range suffixes {
				if strings.EqualFold(existing, want+suffix) && existing != want+suffix {
					if element, ok := secretFile(existing); ok {
						existing = element
					}
					return w.collision(i, existing)
				}
			}
		}
	}
	return nil
}

func (w *walk) collision(i int, existing string) error {
	return &CollisionError{path.Join(w.elements...), path.Join(path.Join(w.elements[:i]...), existing)}
}

// makeFolders creates and opens the folders that are missing, durably.
func (w *walk) makeFolders() error {
	for !w.complete() {
		parent, name := w.last(), w.elements[w.n-1]
		if err := parent.mkdir(name); err != nil {
			return err
		}
		if err := w.step(); err != nil {
			_ = parent.rmdir(name)
			return err
		}
		if err := parent.sync(); err != nil {
			return err
		}
	}
	return nil
}

// removeFolders removes the folders on the way from the given depth on,
// innermost first, up to one that is not empty.
func (w *walk) removeFolders(depth int) {
	for i := w.n - 1; i >= depth; i-- {
		if w.folders[i-1].rmdir(w.elements[i-1]) != nil {
			return
		}
	}
}
