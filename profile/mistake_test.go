package profile

import (
	"errors"
	"testing"
)

// A text is one of other programs' only if nothing in it is, or means to be, ours.
func TestVariablesOnly(t *testing.T) {
	for text, want := range map[string]bool{
		"DB_PASSWORD=x\n":                     true,
		"export A=1\nA=2\nCLIENTID=x\n":       true,
		"":                                    false,
		"# nothing\n":                         false,
		"A=1\nAPI_URL=https://api.example\n":  false,
		"A=1\nOAUTH2_ISSUER=\n":               false,
		"A=1\nOAUTH2_ISUER=https://a.b\n":     false,
		"A=1\nTOKEND_TRUST=all\n":             false,
		"A=1\nOAUTH2_EXTRA_x=y\n":             false,
		"A=1\nCLIENT_SECRET_FILE=/dev/null\n": false,
	} {
		parsed, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var mistakes *Mistakes
		if _, err := parsed.Profile(nil); !errors.As(err, &mistakes) || mistakes.VariablesOnly != want {
			t.Errorf("%q: %v, want variables only %t", text, err, want)
		}
	}
}
