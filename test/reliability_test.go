package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands that docs/reliability.md names run something: the tests themselves
// run with all others.
func TestReliabilityCommands(t *testing.T) {
	page, err := os.ReadFile("../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	commands := regexp.MustCompile("go test \\./([\\w/]+)(?: -run '?([^`' ]+)'?)?").FindAllStringSubmatch(string(page), -1)
	if len(commands) < 15 {
		t.Fatalf("the page has %d commands", len(commands))
	}
	for _, c := range commands {
		files, err := filepath.Glob("../" + c[1] + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Errorf("%s: there are no tests in %s", c[0], c[1])
			continue
		}
		var names []string
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
				names = append(names, m[1])
			}
		}
		// A bar is escaped where it stands in a table.
		for _, one := range strings.Split(strings.ReplaceAll(c[2], `\|`, "|"), "|") {
			pattern, err := regexp.Compile(one)
			if err != nil || !pattern.MatchString(strings.Join(names, "\n")) {
				t.Errorf("%s: no test is called %q", c[0], one)
			}
		}
	}
}
