package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// makeChange is the process that TestMain describes: it makes the change to
// the secret dev/network, whatever its version.
func makeChange(change string) error {
	runtime.LockOSThread() // strace counts calls by thread
	if to, ok := strings.CutPrefix(change, "protect "); ok {
		return protectAnew(os.Getenv("STORE_TEST_DIR"), to)
	}
	id, err := LoadIdentity(os.Getenv("STORE_TEST_IDENTITY"))
	if err != nil {
		return err
	}
	a, err := OpenAge(os.Getenv("STORE_TEST_DIR"), nil)
	if err != nil {
		return err
	}
	a.Unlock(id)
	ctx := context.Background()
	v, err := a.Stat(ctx, "dev/network")
	if err != nil {
		return err
	}
	switch change {
	case "put while others look":
		err = putWhileOthersLook(ctx, a, v)
	case "put":
		_, err = a.Put(ctx, "dev/network", []byte("new"), v)
	case "delete":
		err = a.Delete(ctx, "dev/network", v)
	case "get":
		_, _, err = a.Get(ctx, "dev/network")
	default:
		err = fmt.Errorf("unknown change %q", change)
	}
	return err
}

// protectAnew makes an identity in dir, or protects the one that is there, in a
// way that keptAs knows. SSH keys and what a keyring holds are beside dir.
func protectAnew(dir, to string) error {
	ctx := context.Background()
	p, m, err := keptAs(dir, to)
	if err != nil {
		return err
	}
	f, err := FindIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		_, _, err = MakeIdentity(ctx, dir, false, p, m)
		return err
	}
	if err != nil {
		return err
	}
	id, err := f.Open(ctx, m)
	if err != nil {
		return err
	}
	_, err = f.Protect(ctx, id, p, m)
	return err
}

func keptAs(dir, to string) (Protection, Means, error) {
	above := filepath.Dir(dir)
	m := Means{Wrapper: quick{}, Items: folderItems(filepath.Join(above, "items")), Ask: answering(filepath.Join(above, "keys"))}
	switch to {
	case "bare":
		return Protection{}, m, nil
	case "passphrase":
		return Protection{Kind: Passphrase}, m, nil
	case "keyring":
		return Protection{Kind: InKeyring}, m, nil
	}
	public, err := os.ReadFile(filepath.Join(above, "keys", to+".pub"))
	return Protection{Kind: SSH, PublicKey: string(public)}, m, err
}

// folderItems is a keyring that outlives the process.
type folderItems string

func (f folderItems) file(account string) string {
	return filepath.Join(string(f), filepath.Base(account))
}

func (f folderItems) Get(_ context.Context, account string) ([]byte, error) {
	text, err := os.ReadFile(f.file(account))
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotExist
	}
	return text, err
}

func (f folderItems) Set(_ context.Context, account string, secret []byte) error {
	return os.WriteFile(f.file(account), secret, 0o600)
}

func (f folderItems) Delete(_ context.Context, account string) error {
	err := os.Remove(f.file(account))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

func putWhileOthersLook(ctx context.Context, a *Age, v Version) error {
	looks := []func() error{
		func() error { _, err := a.Stat(ctx, "dev/network"); return err },
		func() error { _, _, err := a.Get(ctx, "dev/network"); return err },
		func() error {
			list, err := a.List(ctx)
			if err == nil && (len(list) != 1 || list[0].Version == "") {
				err = fmt.Errorf("List = %v", list)
			}
			return err
		},
	}
	stop := make(chan struct{})
	errs := make([]error, len(looks))
	var lookers sync.WaitGroup
	for i, look := range looks {
		lookers.Go(func() {
			for errs[i] == nil {
				select {
				case <-stop:
					return
				default:
					errs[i] = look()
				}
			}
		})
	}
	_, err := a.Put(ctx, "dev/network", []byte("new"), v)
	close(stop)
	lookers.Wait()
	return errors.Join(append(errs, err)...)
}
