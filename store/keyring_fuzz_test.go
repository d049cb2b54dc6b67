package store

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// Whatever is in the index and whatever the keyring has in an item, what Get
// returns has the hash that the index says, an error quotes nothing of either
// secret, and a name that is put is there and can be deleted again.
func FuzzKeyring(f *testing.F) {
	const id = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	// The item's account is made of the name, and HASH stands for the hash of what it has.
	for _, index := range []string{
		`{"id":"` + id + `","items":{"dev/x":{"version":"V","hash":"HASH"}},"marked":true}`,
		`{"id":"` + id + `","items":{"dev/x":{"version":"V","hash":""}},"pending":["` + id + `/dev/x/V","other/account"]}`,
		`{"id":"` + id + `","items":{"DEV/x":{"version":"V"},"../x":{"version":""},"dev":{"version":"V"}}}`, `{"id":"","items":{}}`, `{"id":"x","items":null}`, `{"id":"x","items":{"dev/x":null}}`, `[]`, ``, `{"id":1}`,
	} {
		f.Add([]byte(index), []byte("CANARY"))
	}
	owner, err := generateIdentity(false)
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	file, err := OpenAge(dir, nil)
	if err != nil {
		f.Fatal(err)
	}
	file.Unlock(owner)
	f.Fuzz(func(t *testing.T, index, item []byte) {
		if len(index) > 4<<10 || len(item) > 4<<10 {
			return
		}
		ctx := t.Context()
		index = bytes.ReplaceAll(index, []byte("HASH"), []byte(base64.StdEncoding.EncodeToString(itemHash(item))))
		before, err := file.Stat(ctx, indexName)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Put(ctx, indexName, index, before); err != nil {
			t.Fatal(err)
		}
		items := newItems()
		items.items[id+"/dev/x/V"] = bytes.Clone(item)
		k, err := OpenKeyring(dir, items)
		if err != nil {
			t.Fatal(err)
		}
		k.Unlock(owner)
		quiet := func(err error) {
			if err != nil && len(item) >= 6 && !bytes.Contains(index, item) && strings.Contains(err.Error(), string(item)) {
				t.Fatalf("said %v", err)
			}
		}
		data, version, err := k.Get(ctx, "dev/x")
		quiet(err)
		if err == nil && (!bytes.Equal(data, item) || version == "" && !bytes.Contains(index, []byte("version"))) {
			t.Fatalf("Get = %q, %q", data, version)
		}
		if err != nil && data != nil {
			t.Fatalf("%q beside %v", data, err)
		}
		if _, err := k.List(ctx); err != nil {
			quiet(err)
			return // no index
		}
		version, err = k.Put(ctx, "new/name", []byte("value"), "")
		quiet(err)
		var collision *CollisionError
		if err != nil {
			if !errors.As(err, &collision) && !errors.Is(err, ErrConflict) && !bytes.Contains(index, []byte("new")) {
				t.Fatalf("%s: %v", index, err)
			}
			return
		}
		if data, got, err := k.Get(ctx, "new/name"); err != nil || string(data) != "value" || got != version {
			t.Fatalf("%s: %q, %q, %v", index, data, got, err)
		}
		if err := k.Delete(ctx, "new/name", version); err != nil {
			t.Fatalf("%s: %v", index, err)
		}
		for account, left := range items.items {
			if strings.Contains(account, "/new/name/") {
				t.Fatalf("%s: %q is left with %q", index, account, left)
			}
		}
	})
}
