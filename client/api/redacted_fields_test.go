package api_test

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// telling are the names of fields that may well hold a secret, as may all bytes.
var telling = regexp.MustCompile(`Secret|Text|Token|Content|Pass|Code|Key|Proof|Value|Answer|Assertion|Verifier|Url|Identity$`)

// harmless are those that do not.
var harmless = map[string]string{
	"ExportProfileResponse.Sealed":           "an age file",
	"Finding.Text":                           "what explain says to a person",
	"GetProfileResponse.MaskedText":          "for people to see",
	"GetRecipientsResponse.Text":             "public keys",
	"IdentityProtectionPlugin.Identity":      "says which hardware; it lies in clear beside what it opens",
	"IdentityProtectionSsh.PublicKey":        "public",
	"IntrospectTokenResponse.TokenType":      "such as Bearer",
	"ListProfilesRequest.PageToken":          "the name of a profile",
	"ListProfilesResponse.NextPageToken":     "the name of a profile",
	"LoginResponseServerFound.TokenEndpoint": "an address of a server",
	"Prompt.PublicKey":                       "public",
	"RegisterRequestStart.TokenUrl":          "an address of a server",
	"RegisterRequestStart.Url":               "an address of a server",
	"RegisterResponseUserNeeded.TokenUrl":    "an address of a server",
	"RegisterResponseUserNeeded.Url":         "an address of a server",
	"Setting.Value":                          "settings have no secrets",
}

// What may hold a secret prints without it: a new field has to say so here if it is
// harmless, or its message needs a Format.
func TestWhatMayBeSecretDoesNotPrint(t *testing.T) {
	formatter := reflect.TypeFor[fmt.Formatter]()
	seen, redacted := make(map[string]bool), 0
	messages(t, func(_ protoreflect.MessageDescriptor, s reflect.Type) {
		for i := range s.NumField() {
			f := s.Field(i)
			bytes := f.Type == reflect.TypeFor[[]byte]()
			text := f.Type.Kind() == reflect.String || f.Type == reflect.TypeFor[[]string]() || f.Type == reflect.TypeFor[*string]()
			if !bytes && (!text || !telling.MatchString(f.Name)) {
				continue
			}
			if s.Implements(formatter) {
				redacted++
				continue
			}
			name := s.Name() + "." + f.Name
			seen[name] = true
			if harmless[name] == "" {
				t.Errorf("%s may be a secret, and %s prints it: give that a Format, or say here why it is harmless", name, s.Name())
			}
		}
	})
	for _, name := range slices.Sorted(maps.Keys(harmless)) {
		if !seen[name] {
			t.Errorf("there is no %s that prints", name)
		}
	}
	if redacted < 10 {
		t.Errorf("only %d fields are kept from printing", redacted)
	}
}
