package store

import (
	"fmt"
	"strings"
)

const (
	maxElements   = 8
	maxElementLen = 64
)

// NameError says why a name cannot be a secret's.
type NameError struct {
	Name    string
	Problem string
}

func (e *NameError) Error() string { return fmt.Sprintf("name %q %s", e.Name, e.Problem) }

// CollisionError says that Existing, a stored name or a folder of names,
// differs from Name, or from the start of it, in nothing but case. On some
// file systems the two would be one.
type CollisionError struct {
	Name     string
	Existing string
}

func (e *CollisionError) Error() string {
	return fmt.Sprintf("name %q differs from the existing %q in nothing but case", e.Name, e.Existing)
}

// CheckName returns nil where name can be a secret's, otherwise a *NameError.
// A name is a slash path of at most 8 elements, each 1 to 64 characters of
// [A-Za-z0-9._-]; an element starts with a letter or digit and does not end in
// .env or .age in any case.
func CheckName(name string) error {
	_, err := splitName(name)
	return err
}

func splitName(name string) ([]string, error) {
	if name == "" {
		return nil, &NameError{name, "is empty"}
	}
	if n := strings.Count(name, "/") + 1; n > maxElements {
		return nil, &NameError{name, fmt.Sprintf("has %d elements, %d are allowed", n, maxElements)}
	}
	elements := strings.Split(name, "/")
	for _, element := range elements {
		if problem := elementProblem(element); problem != "" {
			return nil, &NameError{name, problem}
		}
	}
	return elements, nil
}

func elementProblem(element string) string {
	if element == "" {
		return "has an empty element"
	}
	if len(element) > maxElementLen {
		return fmt.Sprintf("has an element of %d characters, %d are allowed", len(element), maxElementLen)
	}
	for i, r := range element {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		case i == 0:
			return fmt.Sprintf("has an element that starts with %q, not with a letter or digit", r)
		case r == '.', r == '_', r == '-':
		default:
			return fmt.Sprintf("contains %q; allowed are A-Z a-z 0-9 . _ -", r)
		}
	}
	if end := element[max(0, len(element)-4):]; strings.EqualFold(end, ".env") || strings.EqualFold(end, ".age") {
		return fmt.Sprintf("has an element that ends in %q, which is how its file is named", end)
	}
	return ""
}
