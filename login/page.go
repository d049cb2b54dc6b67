package login

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"tokend/broker"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string

	escapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")
	// pagePolicy allows nothing but that style.
	pagePolicy = func() string {
		sum := sha256.Sum256([]byte(pageCSS))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	}()
)

// A page is what the browser shows. Nothing in it comes from a request.
type page struct {
	Done    bool
	Title   string
	Profile string // "" on pages for strangers
	Text    string
	Command string // to run in the terminal; "" for none
}

var (
	nothingHere = page{
		Title: "Nothing here",
		Text:  "This address waits for the end of a login, and for nothing else.",
	}
	notThisLogin = page{
		Title: "Not the login that is waiting",
		Text:  "This link is old, or was made by somebody else, and nothing was done with it. Go back to your terminal and open the address shown there.",
	}
)

// finalPage is where the login ends. What the server said is for the terminal.
func finalPage(p *broker.Prepared, err error) page {
	if err == nil {
		return page{
			Done:    true,
			Title:   "You are logged in",
			Profile: p.Name,
			Text:    "You can close this tab. In your terminal:",
			Command: "tokenctl get " + p.Name,
		}
	}
	end := page{Title: "Login failed", Profile: p.Name, Text: "Your terminal says why, and you can close this tab."}
	switch {
	case errors.Is(err, ErrDenied):
		end.Title = "Access was not granted"
		end.Text = "The answer was no, so nothing has changed, and you can close this tab."
	case errors.Is(err, ErrExpired):
		end.Title = "This took too long"
		end.Text = "A login waits ten minutes. You can close this tab."
	}
	if p.Version == "" {
		end.Text += " To try again, go back to your terminal." // there is no profile of that name yet
	} else {
		end.Text += " To try again, run:"
		end.Command = "tokenctl login " + p.Name
	}
	return end
}

// header sets what keeps an answer out of caches, frames and referrers.
func header(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
}

func (p page) write(w http.ResponseWriter, status int) {
	whole := p.html()
	header(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(whole))
}

// escape is html.EscapeString without that package's table of 2,000 names.
func escape(s string) string { return escapes.Replace(s) }

// html writes the page by hand: html/template finds methods by their names, so
// that the linker has to keep all there are, which makes the daemon a third
// larger.
func (p page) html() string {
	class, label, mark := "not", "Not done", "M24 14v12.5M24 33.4v.1"
	if p.Done {
		class, label, mark = "done", "Done", "M15 24.8l6.2 6.2L33.4 18.2"
	}
	var profile, command string
	if p.Profile != "" {
		profile = `<p class="profile">` + escape(p.Profile) + "</p>\n"
	}
	if p.Command != "" {
		command = "<pre><code>" + escape(p.Command) + "</code></pre>\n"
	}
	return strings.NewReplacer(
		"STYLE", pageCSS,
		"CLASS", class, "LABEL", label, "MARK", mark,
		"TITLE", escape(p.Title),
		"PROFILE", profile,
		"TEXT", escape(p.Text),
		"COMMAND", command,
	).Replace(pageHTML)
}
