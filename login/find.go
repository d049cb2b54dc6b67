package login

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"tokend/internal/envfile"
	"tokend/oauth"
)

// A Target is an API to log in to.
type Target struct {
	URL, Name    string   // Name is the profile's
	Scopes       []string // to ask for; nil: what the API wants
	ClientID     string   // "": a client is registered; an https URL: a client ID metadata document
	ClientSecret oauth.Secret
	Challenge    string // the WWW-Authenticate that the API answered with; "": it is asked
	Transport    oauth.Transport
	RedirectURL  string // "": of our choice
	Device       bool   // by device code
}

// Find goes from an API's URL to the variables of a profile: the API names its
// authorization server (RFC 9728), the person confirms it, and a client is
// registered there (RFC 7591) unless t names one. Nothing is registered, and no
// page opened, without the confirmation. Errors: [ErrNotConfirmed], an
// *oauth.Error, the context's, those of who, and others that are one line.
func Find(ctx context.Context, t Target, who Person) ([]envfile.Var, error) {
	api, err := oauth.CheckURL(t.URL)
	if err != nil {
		return nil, fmt.Errorf("the API's URL %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, loginTime, ErrExpired)
	defer cancel()
	s, err := findServer(ctx, t, api, who)
	if err != nil {
		return nil, err
	}
	grant, page, err := s.grant(t)
	if err != nil {
		return nil, err
	}
	if err := s.checkClient(t); err != nil {
		return nil, err
	}
	scopes := s.chooseScopes(t)
	var registration string
	if t.ClientID == "" {
		registration = s.metadata.Endpoints.Registration
	}
	if who.Confirm == nil {
		return nil, ErrNotConfirmed
	}
	switch ok, err := who.Confirm(ctx, ServerFound{
		Resource:              cmp.Or(s.resource, t.URL),
		Issuer:                s.metadata.Issuer,
		AuthorizationEndpoint: page,
		TokenEndpoint:         s.metadata.Endpoints.Token,
		RegistrationEndpoint:  registration,
		Registers:             t.ClientID == "",
		Profile:               t.Name,
		Scopes:                scopes,
	}); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrNotConfirmed
	}
	vars := s.vars(ctx, t)
	set := func(name, value string) {
		if value != "" {
			vars = append(vars, envfile.Var{Name: name, Value: value})
		}
	}
	r := &oauth.Registration{ID: t.ClientID, Secret: t.ClientSecret}
	redirect := t.RedirectURL
	if t.ClientID != "" {
		r.Auth = (&oauth.Client{ID: r.ID, Secret: r.Secret}).ChooseAuth(s.metadata.TokenAuthMethods)
	} else if r, redirect, err = s.register(ctx, t, who); err != nil {
		return nil, err
	}
	set("OAUTH2_GRANT", grant)
	set("CLIENT_ID", r.ID)
	if r.Auth != oauth.AuthNone {
		set("CLIENT_SECRET", r.Secret.Reveal())
		if !r.SecretExpires.IsZero() {
			set("CLIENT_SECRET_EXPIRES_AT", r.SecretExpires.UTC().Format(time.RFC3339))
		}
	}
	set("OAUTH2_CLIENT_AUTH", string(r.Auth))
	if !t.Device {
		set("OAUTH2_REDIRECT_URL", redirect)
	}
	set("OAUTH2_SCOPE", strings.Join(scopes, " "))
	set("OAUTH2_RESOURCE", s.resource)
	set("TLS_CA", t.Transport.CA)
	set("API_URL", api.Scheme+"://"+strings.ToLower(api.Host))
	return vars, nil
}

// A server is an authorization server, and what an API wants of it.
type server struct {
	metadata *oauth.Metadata
	legacy   bool     // the API's own origin, which nothing names as its issuer
	resource string   // as the API names itself; "" where it has no metadata
	scopes   []string // that the API wants
}

// findServer walks from the API's answer to its server's metadata, the way that
// the Model Context Protocol prescribes.
func findServer(ctx context.Context, t Target, api *url.URL, who Person) (*server, error) {
	var challenges []oauth.Challenge
	wantsToken := t.Challenge != ""
	if wantsToken {
		challenges = oauth.ParseChallenges([]string{t.Challenge})
	} else {
		status, asked, err := oauth.ProbeResource(ctx, t.URL, t.Transport)
		if err != nil {
			return nil, err
		}
		challenges, wantsToken = asked, status == http.StatusUnauthorized
	}
	var hinted string
	s := new(server)
	for _, c := range challenges {
		hinted = cmp.Or(hinted, c.Params["resource_metadata"])
		// RFC 6750 section 3, RFC 9449 section 7.1.
		if len(s.scopes) == 0 && (c.Scheme == "bearer" || c.Scheme == "dpop") {
			s.scopes = validScopes(strings.Fields(c.Params["scope"]))
		}
	}
	if u, err := oauth.CheckURL(hinted); err == nil && !strings.EqualFold(u.Host, api.Host) {
		if err := who.Tell(Notice{api.Host + " has its metadata elsewhere: they are read from " + u.Host}); err != nil {
			return nil, err
		}
	}
	m, err := oauth.FetchResourceMetadata(ctx, t.URL, hinted, t.Transport)
	if hinted == "" && errors.Is(err, oauth.ErrNoResourceMetadata) {
		s.legacy = true
		s.metadata, err = originMetadata(ctx, t, api, wantsToken, who)
		return s, err
	}
	if err != nil {
		return nil, err
	}
	if len(m.AuthorizationServers) == 0 {
		return nil, fmt.Errorf("%s names no authorization server in its metadata", api.Host)
	}
	s.resource = m.Resource
	if len(s.scopes) == 0 {
		s.scopes = validScopes(m.Scopes)
	}
	s.metadata, err = oauth.DiscoverAt(ctx, m.AuthorizationServers[0], t.Transport)
	return s, err
}

// originMetadata takes the API's own origin for its authorization server, as
// the Model Context Protocol had it in its version of 2025-03-26: what the
// metadata there say, or else endpoints at fixed paths.
func originMetadata(ctx context.Context, t Target, api *url.URL, wantsToken bool, who Person) (*oauth.Metadata, error) {
	origin := api.Scheme + "://" + api.Host
	m, err := oauth.DiscoverOrigin(ctx, origin, t.Transport)
	var failed *oauth.Error
	switch {
	case err == nil:
	case !errors.As(err, &failed) || failed.Kind != oauth.Refused:
		return nil, err
	case !wantsToken:
		return nil, fmt.Errorf("%s names no authorization server, and asks for no token", api.Host)
	default:
		m = &oauth.Metadata{Issuer: origin, Endpoints: oauth.Endpoints{
			Authorization: origin + "/authorize",
			Token:         origin + "/token",
			Registration:  origin + "/register",
		}}
	}
	return m, who.Tell(Notice{api.Host + " names no authorization server (RFC 9728); it would have to be one itself, at " + m.Endpoints.Token})
}

// maxScopes is what a person can be shown of scopes, in bytes.
const maxScopes = 2048

// validScopes gives the scopes if all of them are, and otherwise none: they are
// a server's words.
func validScopes(scopes []string) []string {
	if len(strings.Join(scopes, " ")) > maxScopes || slices.ContainsFunc(scopes, func(s string) bool { return oauth.CheckScope(s) != nil }) {
		return nil
	}
	return scopes
}

// grant gives what OAUTH2_GRANT is to be, and the endpoint that the login begins at.
func (s *server) grant(t Target) (name, endpoint string, err error) {
	e := s.metadata.Endpoints
	switch {
	case e.Token == "":
		return "", "", fmt.Errorf("%s names no token endpoint", s.metadata.Issuer)
	case t.Device && e.DeviceAuthorization == "":
		return "", "", fmt.Errorf("%s has no device authorization endpoint; log in without --device", s.metadata.Issuer)
	case t.Device:
		return "device_code", e.DeviceAuthorization, nil
	case e.Authorization == "" && e.DeviceAuthorization != "":
		return "", "", fmt.Errorf("%s has no authorization endpoint; log in with --device", s.metadata.Issuer)
	case e.Authorization == "":
		return "", "", fmt.Errorf("%s has no authorization endpoint", s.metadata.Issuer)
	}
	return "authorization_code", e.Authorization, s.metadata.CheckPKCE()
}

// checkClient says why there can be no client at this server.
func (s *server) checkClient(t Target) error {
	m := s.metadata
	switch {
	case t.ClientID == "" && m.Endpoints.Registration == "":
		return fmt.Errorf("%s registers no client by itself; register one there, and give its ID with --client-id", m.Issuer)
	case t.ClientID == "" && registrable(m) == "":
		return fmt.Errorf("%s registers only clients that authenticate in a way that has to be agreed on (%s); register one there, and give its ID with --client-id",
			m.Issuer, strings.Join(m.TokenAuthMethods, ", "))
	case strings.HasPrefix(t.ClientID, "https://") && !m.ClientIDMetadata:
		return fmt.Errorf("%s takes no URL for a client ID (client_id_metadata_document_supported); give an ID that was registered there with --client-id, or none", m.Issuer)
	case strings.HasPrefix(t.ClientID, "https://"):
		if u, err := oauth.CheckURL(t.ClientID); err != nil {
			return fmt.Errorf("the client ID %w", err)
		} else if strings.Trim(u.Path, "/") == "" {
			return errors.New("the client ID is a URL without a path, where no client ID metadata document can be")
		}
	}
	return nil
}

// registrable gives how a client that we register is to authenticate; "" if the
// server has no such way. A client without a secret has none to lose.
func registrable(m *oauth.Metadata) oauth.AuthMethod {
	if m.TokenAuthMethods == nil {
		return oauth.ClientSecretBasic // RFC 8414 section 2
	}
	for _, method := range []oauth.AuthMethod{oauth.AuthNone, oauth.ClientSecretBasic, oauth.ClientSecretPost} {
		if slices.Contains(m.TokenAuthMethods, string(method)) {
			return method
		}
	}
	return ""
}

func (s *server) refreshes() bool {
	return s.metadata.Grants == nil || slices.Contains(s.metadata.Grants, oauth.GrantRefreshToken)
}

// chooseScopes gives what to ask for. Where that is not for the person to say,
// offline_access goes along if the server has it: it gives the refresh token
// (OpenID Connect Core section 11). Alone it would stand in for the scopes that
// the server gives by default.
func (s *server) chooseScopes(t Target) []string {
	if len(t.Scopes) > 0 {
		return t.Scopes
	}
	const offline = "offline_access"
	scopes := slices.Clone(s.scopes)
	if len(scopes) > 0 && !slices.Contains(scopes, offline) && slices.Contains(s.metadata.Scopes, offline) && s.refreshes() {
		scopes = append(scopes, offline)
	}
	return scopes
}

// register registers a client, with the redirect URL that it gives. It names no
// scopes: servers hold clients to those, and later logins may need more.
func (s *server) register(ctx context.Context, t Target, who Person) (*oauth.Registration, string, error) {
	m := oauth.ClientMetadata{
		Name:            "tokend",
		Grants:          []string{oauth.GrantDeviceCode},
		Responses:       []string{},
		Auth:            registrable(s.metadata),
		ApplicationType: "native",
	}
	redirect := t.RedirectURL
	if !t.Device {
		if redirect == "" {
			// A port that is free now, and that later logins will use too: not
			// every server lets it vary as RFC 8252 section 7.3 has it.
			l, err := listen("")
			if err != nil {
				return nil, "", err
			}
			l.close(ctx)
			redirect = l.redirectURL
		}
		m.RedirectURIs = []string{redirect}
		m.Grants = []string{oauth.GrantAuthorizationCode}
		m.Responses = []string{"code"}
	}
	if s.refreshes() {
		m.Grants = append(m.Grants, oauth.GrantRefreshToken)
	}
	endpoint := s.metadata.Endpoints.Registration
	r, err := oauth.Register(ctx, endpoint, m, oauth.Secret{}, t.Transport)
	var refused *oauth.Error
	if errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden) && who.InitialAccessToken != nil {
		initial, asked := who.InitialAccessToken(ctx, endpoint)
		switch {
		case asked != nil:
			return nil, "", asked
		case initial.IsZero():
			return nil, "", err
		}
		r, err = oauth.Register(ctx, endpoint, m, initial, t.Transport)
	}
	if err != nil {
		return nil, "", err
	}
	switch {
	case !t.Device && !slices.Contains(r.RedirectURIs, redirect):
		return nil, "", fmt.Errorf("%s registered a client without the redirect URL %s", s.metadata.Issuer, redirect)
	case !slices.Contains([]oauth.AuthMethod{oauth.AuthNone, oauth.ClientSecretBasic, oauth.ClientSecretPost, oauth.ClientSecretJWT}, r.Auth):
		return nil, "", fmt.Errorf("%s registered a client that authenticates by %s, which was not asked for", s.metadata.Issuer, r.Auth)
	}
	return r, redirect, nil
}

// vars gives the variables that name the server: the issuer, if its metadata
// will be found where a profile looks for them, and over it the endpoints that the
// person has confirmed, as the metadata there may be others.
func (s *server) vars(ctx context.Context, t Target) []envfile.Var {
	m := s.metadata
	named := !s.legacy
	if u, err := url.Parse(m.Issuer); named && (err != nil || strings.Trim(u.Path, "/") != "") {
		_, err := oauth.Discover(ctx, m.Issuer, t.Transport)
		named = err == nil
	}
	var vars []envfile.Var
	if named {
		vars = append(vars, envfile.Var{Name: "OAUTH2_ISSUER", Value: m.Issuer})
	}
	for _, v := range []envfile.Var{
		{Name: "OAUTH2_TOKEN_URL", Value: m.Endpoints.Token},
		{Name: "OAUTH2_AUTH_URL", Value: m.Endpoints.Authorization},
		{Name: "OAUTH2_DEVICE_URL", Value: m.Endpoints.DeviceAuthorization},
		{Name: "OAUTH2_INTROSPECTION_URL", Value: m.Endpoints.Introspection},
		{Name: "OAUTH2_REVOCATION_URL", Value: m.Endpoints.Revocation},
		{Name: "OAUTH2_REGISTRATION_URL", Value: m.Endpoints.Registration},
	} {
		if v.Value != "" {
			vars = append(vars, v)
		}
	}
	return vars
}
