package oauth

import "testing"

func TestCheckResource(t *testing.T) {
	for resource, good := range map[string]bool{
		"https://r.example/mcp?x=1": true,
		"urn:example:api":           true,
		"https://r.example/#x":      false,
		"https://r.example/ x":      false,
		"/mcp":                      false,
		"r.example":                 false,
		"":                          false,
		"https://r.example/%":       false,
	} {
		if err := CheckResource(resource); (err == nil) != good {
			t.Errorf("%q: %v", resource, err)
		}
	}
}
