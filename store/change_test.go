package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
)

// makeChange is the process that TestMain describes: it makes the change to
// the secret dev/network, whatever its version.
func makeChange(change string) error {
	runtime.LockOSThread() // strace counts calls by thread
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
	case "create identity":
		_, err = CreateIdentity(filepath.Join(a.dir, "identity.txt"), false)
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
