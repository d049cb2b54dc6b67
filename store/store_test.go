package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// In a process of its own, the test binary does the one change that the
// environment asks for, so that a test can run it under strace.
func TestMain(m *testing.M) {
	unix.Umask(0o022) // tests make files with modes that they mean
	if change := os.Getenv("STORE_TEST_CHANGE"); change != "" {
		if err := makeChange(change); err != nil {
			fmt.Printf("failed: %v\n", err)
			os.Exit(1)
		}
		fmt.Println("done")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testStore checks what the contract of Store promises. s must be empty and
// unlocked; it is left empty.
func testStore(t *testing.T, s Store) {
	ctx := t.Context()

	t.Run("NameRefused", func(t *testing.T) {
		for _, name := range []string{"", "../x", "a/../b", "/a", "a/", ".a", "a.age", "a\x00b"} {
			var bad *NameError
			if _, err := s.Stat(ctx, name); !errors.As(err, &bad) {
				t.Errorf("Stat(%q) error = %v, want a NameError", name, err)
			}
			if _, _, err := s.Get(ctx, name); !errors.As(err, &bad) {
				t.Errorf("Get(%q) error = %v, want a NameError", name, err)
			}
			if _, err := s.Put(ctx, name, []byte("x"), ""); !errors.As(err, &bad) {
				t.Errorf("Put(%q) error = %v, want a NameError", name, err)
			}
			if err := s.Delete(ctx, name, ""); !errors.As(err, &bad) {
				t.Errorf("Delete(%q) error = %v, want a NameError", name, err)
			}
		}
		wantNames(t, s)
	})

	t.Run("Nothing", func(t *testing.T) {
		wantNothing(t, s, "dev/none")
		if _, err := s.Put(ctx, "dev/none", []byte("x"), "1"); !errors.Is(err, ErrConflict) {
			t.Errorf("Put in place of a version that is not there: %v, want ErrConflict", err)
		}
		for _, v := range []Version{"", "1"} {
			if err := s.Delete(ctx, "dev/none", v); !errors.Is(err, ErrNotExist) {
				t.Errorf("Delete of version %q: %v, want ErrNotExist", v, err)
			}
		}
		wantNothing(t, s, "dev/none")
	})

	t.Run("Life", func(t *testing.T) {
		const name = "dev/life"
		v1 := mustPut(t, s, name, "one", "")
		wantSecret(t, s, name, "one", v1)
		for _, v := range []Version{"", "1"} {
			if _, err := s.Put(ctx, name, []byte("lost"), v); !errors.Is(err, ErrConflict) {
				t.Errorf("Put in place of %q: %v, want ErrConflict", v, err)
			}
			if err := s.Delete(ctx, name, v); !errors.Is(err, ErrConflict) {
				t.Errorf("Delete of %q: %v, want ErrConflict", v, err)
			}
		}
		wantSecret(t, s, name, "one", v1)
		v2 := mustPut(t, s, name, "two", v1)
		if v2 == v1 {
			t.Errorf("the version stayed %q", v1)
		}
		wantSecret(t, s, name, "two", v2)
		if _, err := s.Put(ctx, name, []byte("lost"), v1); !errors.Is(err, ErrConflict) {
			t.Errorf("Put in place of the version before: %v, want ErrConflict", err)
		}
		wantSecret(t, s, name, "two", v2)
		wantNames(t, s, name)
		mustDelete(t, s, name)
		wantNothing(t, s, name)
		wantNames(t, s)
	})

	t.Run("Bytes", func(t *testing.T) {
		every := make([]byte, 256)
		for i := range every {
			every[i] = byte(i)
		}
		for _, data := range []string{"", "\n", string(every), strings.Repeat("k=v\r\n", 48<<10/5)} {
			v := mustPut(t, s, "bytes", data, "")
			wantSecret(t, s, "bytes", data, v)
			mustDelete(t, s, "bytes")
		}
	})

	t.Run("GetIsACopy", func(t *testing.T) {
		in := []byte("copy")
		v, err := s.Put(ctx, "copy", in, "")
		if err != nil {
			t.Fatal(err)
		}
		in[0] = 'X'
		out, _, err := s.Get(ctx, "copy")
		if err != nil {
			t.Fatal(err)
		}
		out[1] = 'X'
		wantSecret(t, s, "copy", "copy", v)
		mustDelete(t, s, "copy")
	})

	t.Run("ListIsSorted", func(t *testing.T) {
		deep := "a/b/c/d/e/f/g/" + strings.Repeat("h", 64)
		names := []string{"z", "dev/network", "dev", "dev-2/x", deep, "Z9", "dev.d/x", "dev/a.b_c-d"}
		want := make([]Entry, len(names))
		for i, name := range names {
			want[i] = Entry{name, mustPut(t, s, name, name, "")}
		}
		slices.SortFunc(want, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
		for range 2 { // the second time from whatever is cached
			got, err := s.List(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
		}
		for _, name := range names {
			mustDelete(t, s, name)
		}
		wantNames(t, s)
	})

	t.Run("Collision", func(t *testing.T) {
		v := mustPut(t, s, "case/Name", "x", "")
		for name, existing := range map[string]string{
			"case/name": "case/Name",
			"Case/Name": "case",
			"CASE/new":  "case",
		} {
			_, err := s.Put(ctx, name, []byte("y"), "")
			var collision *CollisionError
			if !errors.As(err, &collision) {
				t.Errorf("Put(%q) error = %v, want a CollisionError", name, err)
			} else if want := (CollisionError{name, existing}); *collision != want {
				t.Errorf("Put(%q) error = %+v, want %+v", name, *collision, want)
			}
		}
		wantSecret(t, s, "case/Name", "x", v)
		wantNames(t, s, "case/Name")
		mustDelete(t, s, "case/Name")
		v = mustPut(t, s, "case/name", "y", "")
		wantSecret(t, s, "case/name", "y", v)
		mustDelete(t, s, "case/name")
	})

	t.Run("ContextEnded", func(t *testing.T) {
		v := mustPut(t, s, "ctx", "x", "")
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_, statErr := s.Stat(ended, "ctx")
		_, _, getErr := s.Get(ended, "ctx")
		_, putErr := s.Put(ended, "ctx", []byte("y"), v)
		deleteErr := s.Delete(ended, "ctx", v)
		_, listErr := s.List(ended)
		for i, err := range []error{statErr, getErr, putErr, deleteErr, listErr} {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("call %d: error = %v, want context.Canceled", i, err)
			}
		}
		wantSecret(t, s, "ctx", "x", v)
		mustDelete(t, s, "ctx")
	})

	t.Run("OneCreates", func(t *testing.T) {
		var wg sync.WaitGroup
		versions := make([]Version, 8)
		for i := range versions {
			wg.Go(func() {
				v, err := s.Put(ctx, "race/create", []byte(strconv.Itoa(i)), "")
				if err != nil && !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
				versions[i] = v
			})
		}
		wg.Wait()
		winner := slices.IndexFunc(versions, func(v Version) bool { return v != "" })
		if winner < 0 {
			t.Fatal("nobody created it")
		}
		if slices.ContainsFunc(versions[winner+1:], func(v Version) bool { return v != "" }) {
			t.Errorf("more than one created it: %q", versions)
		}
		wantSecret(t, s, "race/create", strconv.Itoa(winner), versions[winner])
		mustDelete(t, s, "race/create")
	})

	t.Run("NoUpdateIsLost", func(t *testing.T) {
		const workers, each = 6, 8
		mustPut(t, s, "race/count", "0", "")
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for done := 0; done < each; {
					data, v, err := s.Get(ctx, "race/count")
					if err != nil {
						t.Error(err)
						return
					}
					n, _ := strconv.Atoi(string(data))
					_, err = s.Put(ctx, "race/count", []byte(strconv.Itoa(n+1)), v)
					switch {
					case err == nil:
						done++
					case !errors.Is(err, ErrConflict):
						t.Error(err)
						return
					}
				}
			})
		}
		// Readers must never see anything but a whole, current secret.
		stop := make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if v, err := s.Stat(ctx, "race/count"); err != nil || v == "" {
					t.Errorf("Stat during writes = %q, %v", v, err)
				}
				list, err := s.List(ctx)
				if err != nil || len(list) != 1 || list[0].Version == "" {
					t.Errorf("List during writes = %v, %v", list, err)
				}
			}
		})
		wg.Wait()
		close(stop)
		readers.Wait()
		data, _, err := s.Get(ctx, "race/count")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(data), strconv.Itoa(workers*each); got != want {
			t.Errorf("count = %s, want %s", got, want)
		}
		mustDelete(t, s, "race/count")
	})

	t.Run("OneDeletes", func(t *testing.T) {
		v := mustPut(t, s, "race/delete", "x", "")
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { errs[i] = s.Delete(ctx, "race/delete", v) })
		}
		wg.Wait()
		deleted := 0
		for _, err := range errs {
			if err == nil {
				deleted++
			} else if !errors.Is(err, ErrNotExist) {
				t.Errorf("Delete: %v, want ErrNotExist", err)
			}
		}
		if deleted != 1 {
			t.Errorf("%d deleted it, want 1", deleted)
		}
	})

	wantNames(t, s)
}

func mustPut(t *testing.T, s Store, name, data string, replaces Version) Version {
	t.Helper()
	v, err := s.Put(t.Context(), name, []byte(data), replaces)
	if err != nil {
		t.Fatal(err)
	}
	if v == "" {
		t.Fatalf("Put(%q) returned no version", name)
	}
	return v
}

func mustStat(t *testing.T, s Store, name string) Version {
	t.Helper()
	v, err := s.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustDelete(t *testing.T, s Store, name string) {
	t.Helper()
	if err := s.Delete(t.Context(), name, mustStat(t, s, name)); err != nil {
		t.Fatal(err)
	}
}

func wantSecret(t *testing.T, s Store, name, data string, version Version) {
	t.Helper()
	got, v, err := s.Get(t.Context(), name)
	if err != nil {
		t.Errorf("Get(%q): %v", name, err)
		return
	}
	if string(got) != data || v != version {
		t.Errorf("Get(%q) = %q, %q, want %q, %q", name, got, v, data, version)
	}
	if v := mustStat(t, s, name); v != version {
		t.Errorf("Stat(%q) = %q, want %q", name, v, version)
	}
}

func wantNothing(t *testing.T, s Store, name string) {
	t.Helper()
	if v, err := s.Stat(t.Context(), name); v != "" || err != nil {
		t.Errorf("Stat(%q) = %q, %v, want nothing", name, v, err)
	}
	if data, v, err := s.Get(t.Context(), name); !errors.Is(err, ErrNotExist) || data != nil || v != "" {
		t.Errorf("Get(%q) = %q, %q, %v, want ErrNotExist", name, data, v, err)
	}
}

func wantNames(t *testing.T, s Store, want ...string) {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil {
		t.Errorf("List: %v", err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
