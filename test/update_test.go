package test

import (
	"flag"
	"os"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the tables that tests measure into docs/reliability.md")

var documenting sync.Mutex

// wantDocumented compares a table with the one that docs/reliability.md has
// between <!-- name --> and <!-- /name -->, or with -update writes it there.
func wantDocumented(t *testing.T, name, table string) {
	t.Helper()
	const file = "../docs/reliability.md"
	documenting.Lock()
	defer documenting.Unlock()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	before, rest, ok := strings.Cut(string(data), begin)
	documented, after, ended := strings.Cut(rest, end)
	switch {
	case !ok || !ended:
		t.Fatalf("%s has no place for %q", file, name)
	case *update:
		if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	case documented != table:
		t.Errorf("%s says of %s\n%s\nbut it is\n%s\nfor what has changed on purpose: go test ./test -run '^%s$' -update", file, name, documented, table, t.Name())
	}
}
