package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"tokend/oauth"
	"tokend/profile"
	"tokend/store"
)

// A Prepared is a profile made ready to speak to its authorization server:
// values resolved, endpoints discovered, authentication settled.
type Prepared struct {
	Name    string
	Version store.Version // of the text; "" for one that stands in no store yet
	Profile *profile.Profile
	Client  oauth.Client // complete but for TokenURL, where the server has no token endpoint
	// Endpoints are the profile's over the metadata's, and those for mutual TLS
	// (RFC 8705 section 5) where the client shows a certificate.
	Endpoints oauth.Endpoints
	Metadata  *oauth.Metadata // nil: nothing was discovered
	Issuer    string          // "" if not known

	broker  *Broker
	at      time.Duration // when it was prepared
	cause   string        // causeOf the text and its values
	subject string        // fingerprint of the token that is to be exchanged, or ""
	known   session       // what the session had to say when it was prepared
	sent    time.Duration // when Token last sent a request
}

// Format prints which profile it is, and nothing of what it knows.
func (r *Prepared) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "profile "+r.Name) }

// Discard revokes a token that a login brought and that cannot be kept.
func (r *Prepared) Discard(ctx context.Context, t *oauth.Token) {
	if r.Endpoints.Revocation == "" {
		return
	}
	token, hint := t.RefreshToken, "refresh_token"
	if token.IsZero() {
		token, hint = t.AccessToken, "access_token"
	}
	if err := r.Client.Revoke(ctx, r.Endpoints.Revocation, token, hint); err != nil {
		r.broker.Log.Warn("a token that could not be kept is not revoked", "profile", r.Name, "err", err)
	}
}

// Token asks for a token with r, as [oauth.Client.Token] does, for a login.
func (r *Prepared) Token(ctx context.Context, request oauth.Request) (*oauth.Token, error) {
	g, err := r.broker.ask(ctx, r, request)
	r.sent = g.sent
	return g.Token, err
}

// Prepare reads a profile's trusted text and makes it ready for more than
// fetching a token: all that the server says about itself is discovered.
// Errors: [ErrUntrusted], [*profile.Mistakes], [*DiscoveryError], those of the
// store, and the context's.
func (b *Broker) Prepare(ctx context.Context, name string) (*Prepared, error) {
	k, err := b.textNow(ctx, name)
	if err != nil {
		return nil, err
	}
	text, err := b.read(ctx, k)
	if err != nil {
		return nil, err
	}
	return b.prepare(ctx, k, text, true)
}

// PrepareText is Prepare for a text that is not stored yet and that the daemon
// has written itself, so that nobody has to trust it.
func (b *Broker) PrepareText(ctx context.Context, name string, data []byte) (*Prepared, error) {
	text, err := profile.Parse(data)
	if err != nil {
		return nil, err
	}
	return b.prepare(ctx, textKey{profile: name}, text, true)
}

// valuesError is that a file could not be read, or a command failed: unlike
// other mistakes in a text it may pass.
type valuesError struct{ error }

func (e *valuesError) Unwrap() error { return e.error }

// prepare resolves and discovers. Not whole: only what a token needs.
func (b *Broker) prepare(ctx context.Context, k textKey, text *profile.Text, whole bool) (*Prepared, error) {
	values, err := b.Resolve(ctx, text.External())
	if err != nil {
		return nil, &valuesError{err}
	}
	return b.prepareWith(ctx, k, text, values, whole)
}

// prepareWith is prepare with the values resolved already.
func (b *Broker) prepareWith(ctx context.Context, k textKey, text *profile.Text, values map[string]string, whole bool) (*Prepared, error) {
	p, err := text.Profile(values)
	if err != nil {
		return nil, err
	}
	if !whole && p.Kept() {
		// That nobody is logged in is known without the server.
		s, err := b.peek(ctx, k.profile)
		if err != nil {
			return nil, err
		}
		if s.RefreshToken == "" && s.Access == nil && s.Ended == "" && p.RefreshToken.IsZero() {
			return nil, &LoginError{Why: nobody}
		}
	}
	ready := &Prepared{Name: k.profile, Version: k.version, Profile: p, Client: p.Client, Endpoints: p.Endpoints, Issuer: p.Issuer, broker: b, at: b.Now()}
	if p.Issuer != "" && p.GitHub == nil && (whole || needsDiscovery(p)) {
		m, err := b.discover(ctx, discoveryKey{p.Issuer, p.Client.Transport})
		if err != nil {
			return nil, &DiscoveryError{err}
		}
		ready.settle(m)
	}
	client := &ready.Client
	if client.TokenURL = ready.Endpoints.Token; client.TokenURL == "" && p.GitHub == nil {
		return nil, &DiscoveryError{&oauth.Error{Op: "reading the metadata of " + p.Issuer, Kind: oauth.Malformed,
			Err: errors.New("they name no token endpoint; set OAUTH2_TOKEN_URL")}}
	}
	client.AssertionAudience = ready.audience()
	if err := b.settleClient(ctx, ready); err != nil {
		return nil, err
	}
	return ready, nil
}

// isOld says that the machine has slept since r was prepared: nothing is to be
// spent before all is looked at again.
func (r *Prepared) isOld() bool { return r.broker.Now()-r.at > flightTime }

// endpoint is where tokens are asked for.
func (r *Prepared) endpoint() string {
	if r.Profile.GitHub != nil {
		return r.Profile.GitHub.API
	}
	return r.Client.TokenURL
}

// needsDiscovery says whether a token can only be asked for once the server's
// metadata are known.
func needsDiscovery(p *profile.Profile) bool {
	byCertificate := p.Client.Transport.Certificate != ""
	return p.Endpoints.Token == "" || p.Client.Auth == "" && !p.Client.Secret.IsZero() && p.Client.Key == nil && !byCertificate
}

// settle fills in what the metadata say and the profile does not.
func (r *Prepared) settle(m *oauth.Metadata) {
	r.Metadata = m
	r.Client.Auth = r.Client.ChooseAuth(m.TokenAuthMethods)
	from := m.Endpoints
	if r.Client.Transport.Certificate != "" {
		from = over(m.MTLS, from)
	}
	r.Endpoints = over(r.Endpoints, from)
}

// allEndpoints are all that is known of the server's.
func (r *Prepared) allEndpoints() []string {
	known := []oauth.Endpoints{r.Endpoints}
	if r.Metadata != nil {
		known = append(known, r.Metadata.Endpoints, r.Metadata.MTLS)
	}
	var list []string
	for _, e := range known {
		list = append(list, e.Token, e.PushedAuthorization, e.Authorization, e.DeviceAuthorization, e.Introspection, e.Revocation, e.Registration)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" })
}

// over returns the endpoints of a, and those of b where a has none.
func over(a, b oauth.Endpoints) oauth.Endpoints {
	first := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return oauth.Endpoints{
		Token:               first(a.Token, b.Token),
		PushedAuthorization: first(a.PushedAuthorization, b.PushedAuthorization),
		Authorization:       first(a.Authorization, b.Authorization),
		DeviceAuthorization: first(a.DeviceAuthorization, b.DeviceAuthorization),
		Introspection:       first(a.Introspection, b.Introspection),
		Revocation:          first(a.Revocation, b.Revocation),
		Registration:        first(a.Registration, b.Registration),
	}
}

// audience is the aud of assertions: the issuer where it is known, because one
// that is good for a token endpoint of the server's choice can be made to be
// good for somebody else's.
func (r *Prepared) audience() string {
	switch want := r.Profile.AssertionAudience; {
	case want == "token_endpoint", (want == "issuer" || want == "") && r.Issuer == "":
		return r.Endpoints.Token
	case want == "issuer", want == "":
		return r.Issuer
	default:
		return want
	}
}

// settleClient takes from the session what belongs to the client: which of two
// secrets is in force, and the key that proves possession.
func (b *Broker) settleClient(ctx context.Context, r *Prepared) error {
	p := r.Profile
	if p.DPoP == profile.Off && p.NextSecret.IsZero() {
		return nil
	}
	s, err := b.peek(ctx, r.Name)
	if errors.Is(err, errDamaged) {
		s, err = &session{}, nil // who needs it says so
	}
	if err != nil {
		return err
	}
	r.known = *s
	if s.hasNextSecret(p) {
		r.Client.Secret = p.NextSecret
	}
	if p.DPoP == profile.On || p.DPoP == profile.Auto && s.DPoPKey != "" {
		r.Client.DPoP, err = b.prover(r, s.DPoPKey)
	}
	return err
}

// prover gives the profile's DPoP key, which is kept with its session because
// tokens are bound to it. jwk is the key as the session has it, or "".
func (b *Broker) prover(r *Prepared, jwk string) (*oauth.DPoP, error) {
	b.mu.Lock()
	d := b.provers[r.Name]
	b.mu.Unlock()
	if d != nil && (jwk == "" || d.Key().JWK().Reveal() == jwk) {
		return d, nil
	}
	var key *oauth.Key
	var err error
	if jwk != "" {
		key, err = oauth.ParseKey(oauth.NewSecret(jwk), "", "")
	} else {
		alg := "ES256"
		if m := r.Metadata; m != nil && len(m.DPoPAlgs) > 0 && !slices.Contains(m.DPoPAlgs, alg) && slices.Contains(m.DPoPAlgs, "EdDSA") {
			alg = "EdDSA"
		}
		key, err = oauth.NewKey(alg)
	}
	if err != nil {
		return nil, err
	}
	d = oauth.NewDPoP(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := b.provers[r.Name]; now != nil && jwk == "" {
		return now, nil // somebody else's, made meanwhile
	}
	b.provers[r.Name] = d
	return d, nil
}

// peek reads a session to look at.
func (b *Broker) peek(ctx context.Context, name string) (*session, error) {
	release, err := b.turns.take(ctx, name)
	if err != nil {
		return nil, err
	}
	defer release()
	h, err := b.sessionOf(ctx, name)
	if err != nil {
		return nil, err
	}
	return &h.session, nil
}
