package oauth

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// A Secret is a credential that prints as "[redacted]" wherever it is printed:
// by every fmt verb, as JSON, as text and in a slog record. It is comparable;
// the zero Secret is no secret at all.
//
// It guards against accidents of printing and nothing else: the bytes lie in
// memory as any string does, and fmt reaches them where a Secret is in an
// unexported field of a struct that is printed.
type Secret struct{ v string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{v: s} }

// Reveal gives the secret itself.
func (s Secret) Reveal() string { return s.v }

// IsZero says that there is no secret.
func (s Secret) IsZero() bool { return s.v == "" }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }

// Format ignores verb and flags: %x would print the bytes otherwise.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }
