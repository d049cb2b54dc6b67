package world

import (
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Approve does what a person does with an authorization URL of either issuer:
// user logs in, with any password, and consents. It returns the URL that the
// browser is sent back to, without following it. An error says that the server
// sent it nowhere, and why.
func (p *Provider) Approve(ctx context.Context, authorizationURL, user string) (redirect string, err error) {
	return p.walk(ctx, authorizationURL, user, true)
}

// Deny is Approve for one who logs in and then refuses to consent.
func (p *Provider) Deny(ctx context.Context, authorizationURL string) (redirect string, err error) {
	return p.walk(ctx, authorizationURL, "mallory", false)
}

// ApproveDevice does what a person does with the URL that a device shows
// (RFC 8628 3.3.1): user says that the code is right, logs in and consents.
func (p *Provider) ApproveDevice(ctx context.Context, verificationURIComplete, user string) error {
	_, err := p.walk(ctx, verificationURIComplete, user, true)
	return err
}

// DenyDevice is ApproveDevice for one who does not know the code.
func (p *Provider) DenyDevice(ctx context.Context, verificationURIComplete string) error {
	_, err := p.walk(ctx, verificationURIComplete, "mallory", false)
	return err
}

var (
	formTag   = regexp.MustCompile(`<form [^>]*action="([^"]*)"`)
	hiddenTag = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
	abortLink = regexp.MustCompile(`<a href="([^"]*)">\[ Cancel ]`)
	titleTag  = regexp.MustCompile(`<title>([^<]*)`)
	errorTag  = regexp.MustCompile(`<pre><strong>error[^<]*</strong>: ([^<]*)</pre>|<p class="red">([^<]*)`)
)

// walk goes from page to page until one that says it is over, or a redirect
// away from the issuer.
func (p *Provider) walk(ctx context.Context, start, user string, approve bool) (redirect string, err error) {
	at, err := url.Parse(start)
	if err != nil {
		return "", err
	}
	home := at.Host
	client, err := p.client()
	if err != nil {
		return "", err
	}
	var form url.Values // nil to GET
	for range 20 {
		page, to, err := visit(ctx, client, at, form)
		if err != nil {
			return "", err
		}
		if to != nil {
			if to.Host != home {
				return to.String(), nil
			}
			at, form = to, nil
			continue
		}
		title, action := first(titleTag, page), first(formTag, page)
		if title == "Sign-in Success" || !approve && strings.Contains(page, "The Sign-in request was interrupted") {
			return "", nil
		}
		if said := errorTag.FindAllStringSubmatch(page, -1); said != nil {
			var text []string
			for _, m := range said {
				text = append(text, html.UnescapeString(m[1]+m[2]))
			}
			return "", fmt.Errorf("the server says %q", text)
		}
		form = url.Values{}
		for _, m := range hiddenTag.FindAllStringSubmatch(page, -1) {
			form.Set(m[1], html.UnescapeString(m[2]))
		}
		switch {
		case form.Get("prompt") == "login":
			form.Set("login", user)
			form.Set("password", "any")
		case form.Get("prompt") == "consent" && !approve:
			action, form = first(abortLink, page), nil
		case form.Has("confirm") && !approve:
			form.Set("abort", "yes")
		case form.Has("confirm"), form.Get("prompt") == "consent", form.Get("user_code") != "":
		default:
			return "", fmt.Errorf("a page called %q, which nobody knows what to do with, at %s", title, at.Path)
		}
		if at, err = at.Parse(action); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("no end of pages, the last at %s", at.Path)
}

func first(tag *regexp.Regexp, page string) string {
	if m := tag.FindStringSubmatch(page); m != nil {
		return html.UnescapeString(m[1])
	}
	return ""
}

// visit returns a page, or where it redirects to.
func visit(ctx context.Context, client *http.Client, at *url.URL, form url.Values) (page string, to *url.URL, err error) {
	method, body := http.MethodGet, ""
	if form != nil {
		method, body = http.MethodPost, form.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	req.Header.Set("Accept", "text/html")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		to, err := resp.Location()
		return "", to, err
	}
	data, err := io.ReadAll(resp.Body)
	return string(data), nil, err
}
