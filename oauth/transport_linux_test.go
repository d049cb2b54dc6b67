package oauth

import "testing"

// Where the system's roots are a file, TestMain has put a CA of ours there.
func TestSystemRootsAreTrustedWithoutACA(t *testing.T) {
	s, c := secure(t, systemCA.server(t, "127.0.0.1", tomorrow()), "")
	if _, err := c.Token(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if len(s.seen()) != 1 {
		t.Error("nothing was sent")
	}
}
