package store

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Hidden names beside a secret's file X, while it is being changed. A crash
// can leave them; sweep knows what each means.
const (
	tempSuffix = ".tmp" // .X.tmp: not yet X, or no longer; never of value
	oldSuffix  = ".old" // .X.old: X as it was; of value only where X is gone
)

func hidden(file, suffix string) string { return "." + file + suffix }

// replace puts data under the name file, durably: temporary file, fsync,
// rename, fsync of the folder. exists says whether there is a file of that
// name; unchanged is called just before the change, and its error prevents it.
// After an error the old bytes, or nothing, are under the name.
func (f folder) replace(file string, data []byte, exists bool, unchanged func() error) (err error) {
	temp, old := hidden(file, tempSuffix), hidden(file, oldSuffix)
	if err := f.unlinkAll(temp, old); err != nil {
		return err
	}
	if err := f.create(temp, data); err != nil {
		return err
	}
	if err := unchanged(); err != nil {
		_ = f.unlink(temp)
		return err
	}
	if exists {
		if err := f.link(file, old); err != nil {
			_ = f.unlink(temp)
			return err
		}
	}
	if err := f.rename(temp, file); err != nil {
		// Both names are one file here, which rename would leave at two links.
		_ = f.unlinkAll(old, temp)
		return err
	}
	if err := f.sync(); err != nil {
		undo := func() error { return f.unlink(file) }
		if exists {
			undo = func() error { return f.rename(old, file) }
		}
		if undoErr := undo(); undoErr != nil {
			return fmt.Errorf("%w; undoing the change failed, too: %w", err, undoErr)
		}
		return err
	}
	_ = f.unlink(old) // left behind, it is swept
	return nil
}

// remove takes a file away, durably. After an error it is still there.
func (f folder) remove(file string) error {
	temp, old := hidden(file, tempSuffix), hidden(file, oldSuffix)
	// An .X.old that stayed would bring X back.
	if err := f.unlinkAll(temp, old); err != nil {
		return err
	}
	if err := f.rename(file, temp); err != nil {
		return err
	}
	if err := f.sync(); err != nil {
		if undoErr := f.rename(temp, file); undoErr != nil {
			return fmt.Errorf("%w; undoing the change failed, too: %w", err, undoErr)
		}
		return err
	}
	_ = f.unlink(temp) // left behind, it is swept
	return nil
}

func (f folder) unlinkAll(files ...string) error {
	for _, file := range files {
		if err := f.unlink(file); err != nil {
			return err
		}
	}
	return nil
}

// sweep clears away what a crash in replace or remove left in f and below.
// What it cannot clear is harmless: nothing reads it, and replace and remove
// clear the names they use themselves.
func (f folder) sweep(depth int) {
	entries, err := f.entries()
	if err != nil {
		return
	}
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && depth < maxElements && elementProblem(name) == "" {
			if sub, err := f.open(name); err == nil {
				if sub.check() == nil {
					sub.sweep(depth + 1)
				}
				sub.close()
			}
		} else if _, ok := hiding(name, tempSuffix); ok {
			_ = f.unlink(name)
		} else if file, ok := hiding(name, oldSuffix); ok {
			if _, err := f.stat(file); err == unix.ENOENT {
				_ = f.rename(name, file)
				_ = f.sync()
			} else if err == nil {
				_ = f.unlink(name)
			}
		}
	}
}

// hiding returns the file that a hidden name stands beside.
func hiding(name, suffix string) (file string, ok bool) {
	file, isTemp := strings.CutSuffix(name, suffix)
	file, isHidden := strings.CutPrefix(file, ".")
	_, isSecret := secretFile(file)
	return file, isTemp && isHidden && isSecret
}
