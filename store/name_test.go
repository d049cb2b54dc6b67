package store

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, name := range []string{
		"a", "0", "dev/network", "Dev/Network", "d000/dev/network", "a.b", "a_b-c.", "a..b",
		"env", "age", "dev/env", "a.env.x", "a.environment", "1/2/3/4/5/6/7/8", long, long + "/" + long,
	} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                  `name "" is empty`,
		"/":                 `name "/" has an empty element`,
		"/a":                `name "/a" has an empty element`,
		"a/":                `name "a/" has an empty element`,
		"a//b":              `name "a//b" has an empty element`,
		".":                 `name "." has an element that starts with '.', not with a letter or digit`,
		"a/../b":            `name "a/../b" has an element that starts with '.', not with a letter or digit`,
		"a/.git":            `name "a/.git" has an element that starts with '.', not with a letter or digit`,
		"-a":                `name "-a" has an element that starts with '-', not with a letter or digit`,
		"_a":                `name "_a" has an element that starts with '_', not with a letter or digit`,
		"a b":               `name "a b" contains ' '; allowed are A-Z a-z 0-9 . _ -`,
		`a\b`:               `name "a\\b" contains '\\'; allowed are A-Z a-z 0-9 . _ -`,
		"a\x00":             `name "a\x00" contains '\x00'; allowed are A-Z a-z 0-9 . _ -`,
		"a\n":               `name "a\n" contains '\n'; allowed are A-Z a-z 0-9 . _ -`,
		"a~":                `name "a~" contains '~'; allowed are A-Z a-z 0-9 . _ -`,
		"né":                `name "né" contains 'é'; allowed are A-Z a-z 0-9 . _ -`,
		"\u212Aelvin":       "name \"\u212Aelvin\" has an element that starts with '\u212A', not with a letter or digit",
		"a.env":             `name "a.env" has an element that ends in ".env", which is how its file is named`,
		"a.AgE":             `name "a.AgE" has an element that ends in ".AgE", which is how its file is named`,
		"a.env/b":           `name "a.env/b" has an element that ends in ".env", which is how its file is named`,
		"1/2/3/4/5/6/7/8/9": `name "1/2/3/4/5/6/7/8/9" has 9 elements, 8 are allowed`,
		"a/" + long + "x":   `name "a/` + long + `x" has an element of 65 characters, 64 are allowed`,
	} {
		err := CheckName(name)
		if err == nil {
			t.Errorf("CheckName(%q) = nil", name)
		} else if err.Error() != want {
			t.Errorf("CheckName(%q)\n got %s\nwant %s", name, err, want)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"", "dev/network", "a/../b", "a.env", "A.AGE/b", "a\x00", "é", "1/2/3/4/5/6/7/8/9"} {
		f.Add(name)
	}
	element := `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`
	whole := regexp.MustCompile(`\A` + element + `(/` + element + `){0,7}\z`)
	suffix := regexp.MustCompile(`(?i)\.(env|age)(/|\z)`)
	f.Fuzz(func(t *testing.T, name string) {
		want := whole.MatchString(name) && !suffix.MatchString(name)
		if got := CheckName(name) == nil; got != want {
			t.Errorf("CheckName(%q) accepts: %v, want %v", name, got, want)
		}
		if want && (!filepath.IsLocal(name) || filepath.Clean(name) != name) {
			t.Errorf("%q is not a clean local path", name)
		}
	})
}
