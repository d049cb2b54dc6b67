package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxDocument is the most that a client metadata document may have.
const maxDocument = 64 << 10

// fetchClient returns the client that the document at the URL describes, by
// draft-ietf-oauth-client-id-metadata-document.
func fetchClient(ctx context.Context, id string) (Client, error) {
	u, err := url.Parse(id)
	if err != nil {
		return Client{}, errors.New("client_id is no URL")
	}
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return Client{}, errors.New("client_id: want https, or a loopback address")
	case u.Path == "" || u.User != nil || strings.Contains(id, "#") || strings.Contains(u.Path+"/", "/./") || strings.Contains(u.Path+"/", "/../"):
		return Client{}, errors.New("client_id: want a URL with a path, and without user, fragment and dot segments")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, id, nil)
	if err != nil {
		return Client{}, err
	}
	fetcher := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := fetcher.Do(req)
	if err != nil {
		return Client{}, fmt.Errorf("fetching the client's metadata: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil || resp.StatusCode != http.StatusOK || len(body) > maxDocument {
		return Client{}, fmt.Errorf("fetching the client's metadata: status %d, %d bytes", resp.StatusCode, len(body))
	}
	d := metadataDocument{AuthMethod: AuthNone, Grants: []string{"authorization_code", "refresh_token"}}
	var members map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(body, &d), json.Unmarshal(body, &members)); err != nil {
		return Client{}, fmt.Errorf("the client's metadata: %w", err)
	}
	switch {
	case d.ClientID != id:
		return Client{}, errors.New("the client's metadata has another client_id")
	case members["client_secret"] != nil || d.AuthMethod != AuthNone && d.AuthMethod != AuthPrivateKeyJWT:
		return Client{}, errors.New("a client ID that is a URL has no secret")
	case len(d.RedirectURIs) == 0:
		return Client{}, errors.New("the client's metadata has no redirect_uris")
	}
	c := d.client(id)
	return c, c.check()
}
