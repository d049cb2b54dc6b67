package world

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
)

// A Page is where a browser was left.
type Page struct {
	URL    string   `json:"url"`
	Title  string   `json:"title"`
	Text   string   `json:"text"`   // what a person reads
	Errors []string `json:"errors"` // of the console, on any page
}

// Browse has a real Chromium do what Approve does, and follow the redirect to
// the client. The flags are those of browser.mjs, as "--deny".
func Browse(ctx context.Context, url string, flags ...string) (Page, error) {
	dir, err := folder()
	if err != nil {
		return Page{}, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "node", append([]string{filepath.Join(dir, "browser.mjs"), url}, flags...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return Page{}, fmt.Errorf("browsing: %w\n%s", err, &stderr)
	}
	var page Page
	if err := json.Unmarshal(stdout.Bytes(), &page); err != nil {
		return Page{}, fmt.Errorf("reading what the browser saw: %w", err)
	}
	return page, nil
}
