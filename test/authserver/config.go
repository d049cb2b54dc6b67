package authserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Config says what a server is like. The zero value is a server without
// clients, on a free port.
//
// In JSON the names are in snake case and durations are strings, as "90s".
type Config struct {
	// Addr is the address to listen on, "127.0.0.1:0" if empty.
	Addr string `json:"addr"`
	// Path is appended to the issuer, as "/tenant" for example.
	Path string `json:"path"`
	// TLS makes the server speak https, with a certificate signed by a CA
	// made for it (Server.CA).
	TLS bool `json:"tls"`
	// MTLS, with TLS, adds a second listener that asks for a client
	// certificate, and the mtls_endpoint_aliases there (RFC 8705 5).
	MTLS bool `json:"mtls"`
	// Alg is what JWT access tokens are signed with: "EdDSA", also if empty,
	// or "RS256".
	Alg string `json:"alg"`
	// Lifetime is that of access tokens, in whole seconds; an hour if zero.
	Lifetime time.Duration `json:"-"`
	Clients  []Client      `json:"clients"`

	// ResponseIss is the iss of authorization responses (RFC 9207): the
	// issuer if empty, none if it is NoIss, else what it says.
	ResponseIss string `json:"response_iss"`
	// RequirePAR refuses authorization requests that were not pushed
	// (RFC 9126 5).
	RequirePAR bool `json:"require_par"`
	// DeviceInterval is how far apart polls for a device code have to be
	// (RFC 8628 3.2), in whole seconds; 5 s if zero.
	DeviceInterval time.Duration `json:"-"`
	// DeviceLifetime is that of device codes, in whole seconds; 10 min if
	// zero.
	DeviceLifetime time.Duration `json:"-"`
	// DPoPNonce demands the server's nonce in every DPoP proof (RFC 9449 8
	// and 9).
	DPoPNonce bool `json:"dpop_nonce"`
	// Registration lets clients register (RFC 7591): anyone, or if
	// RegistrationToken is not empty, who has that.
	Registration      bool   `json:"registration"`
	RegistrationToken string `json:"registration_token"`
	// Users are those with whose name and password a client is made at
	// /v1/register; without any there is no such endpoint.
	Users map[string]string `json:"users"`
	// ClientIDMetadata makes an https or loopback URL a client ID, of the
	// client that the document there describes.
	ClientIDMetadata bool `json:"client_id_metadata"`
	// Issuers are those whose JWTs are grants (RFC 7523 2.1).
	Issuers []AssertionIssuer `json:"issuers"`

	// ResourceScope is what the resource needs, beside what a query asks for.
	ResourceScope string `json:"resource_scope"`

	// Metadata and ResourceMetadata are members of the documents of RFC 8414
	// and RFC 9728 to add or replace; nil removes one. They change nothing
	// else, and so can be lies.
	Metadata         map[string]any `json:"metadata"`
	ResourceMetadata map[string]any `json:"resource_metadata"`
}

// NoIss is the Config.ResponseIss of a server that sends none.
const NoIss = "none"

// An AssertionIssuer signs assertions with any of its keys.
type AssertionIssuer struct {
	Issuer string             `json:"issuer"`
	JWKS   jose.JSONWebKeySet `json:"jwks"`
}

// UnmarshalJSON refuses members that it does not know, and leaves alone what
// the JSON does not mention.
func (c *Config) UnmarshalJSON(data []byte) error {
	type fields Config
	in := struct {
		*fields
		Lifetime       string `json:"lifetime"`
		DeviceInterval string `json:"device_interval"`
		DeviceLifetime string `json:"device_lifetime"`
	}{fields: (*fields)(c)}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return err
	}
	for to, text := range map[*time.Duration]string{
		&c.Lifetime: in.Lifetime, &c.DeviceInterval: in.DeviceInterval, &c.DeviceLifetime: in.DeviceLifetime,
	} {
		if text == "" {
			continue
		}
		var err error
		if *to, err = time.ParseDuration(text); err != nil {
			return err
		}
	}
	return nil
}

// check fills in what is not set.
func (c *Config) check() error {
	if c.Path != "" && (!strings.HasPrefix(c.Path, "/") || strings.HasSuffix(c.Path, "/")) {
		return fmt.Errorf("issuer path %q: want a leading slash and none at the end", c.Path)
	}
	if c.MTLS && !c.TLS {
		return fmt.Errorf("client certificates need TLS")
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	for _, d := range []struct {
		name   string
		value  *time.Duration
		orElse time.Duration
	}{
		{"lifetime", &c.Lifetime, time.Hour},
		{"device interval", &c.DeviceInterval, 5 * time.Second},
		{"device lifetime", &c.DeviceLifetime, 10 * time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.orElse
		}
		if *d.value < time.Second || *d.value%time.Second != 0 {
			return fmt.Errorf("%s %v: want whole seconds", d.name, *d.value)
		}
	}
	for _, i := range c.Issuers {
		if i.Issuer == "" {
			return fmt.Errorf("an assertion issuer without name")
		}
		if err := checkKeys(i.JWKS); err != nil {
			return fmt.Errorf("assertion issuer %q: %w", i.Issuer, err)
		}
	}
	for name, members := range map[string]map[string]any{"metadata": c.Metadata, "resource metadata": c.ResourceMetadata} {
		if _, err := json.Marshal(members); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// checkKeys refuses a set without keys, or with one that is not public.
func checkKeys(set jose.JSONWebKeySet) error {
	if len(set.Keys) == 0 {
		return fmt.Errorf("no keys")
	}
	for _, k := range set.Keys {
		if !k.Valid() || !k.IsPublic() {
			return fmt.Errorf("key %q: want a public key", k.KeyID)
		}
	}
	return nil
}
