package broker

import (
	"context"
	"maps"
	"time"

	"tokend/oauth"
)

const (
	metadataLife = time.Hour
	maxMetadata  = 1024
)

// discoveryKey is an issuer and the way to it: the same issuer behind another
// proxy or CA may be another server.
type discoveryKey struct {
	issuer    string
	transport oauth.Transport
}

type discovered struct {
	metadata *oauth.Metadata
	at       time.Duration
}

// known returns the metadata of an issuer that were read less than an hour ago, and
// how long ago, or nil.
func (b *Broker) known(k discoveryKey) (*oauth.Metadata, time.Duration) {
	b.mu.Lock()
	d := b.metadata[k]
	b.mu.Unlock()
	if d == nil {
		return nil, 0
	}
	if age := b.Now() - d.at; age < metadataLife {
		return d.metadata, age
	}
	return nil, 0
}

// discover returns an issuer's metadata, asking for it at most once an hour.
func (b *Broker) discover(ctx context.Context, k discoveryKey) (*oauth.Metadata, error) {
	if m, _ := b.known(k); m != nil {
		return m, nil
	}
	return b.discovery.do(ctx, b.ctx, k, func(ctx context.Context) (*oauth.Metadata, error) {
		if err := b.admit(ctx, "", k.issuer); err != nil {
			return nil, err
		}
		m, err := oauth.Discover(ctx, k.issuer, k.transport)
		if err := b.heard(k.issuer, err); err != nil {
			return nil, err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.metadata) >= maxMetadata {
			now := b.Now()
			maps.DeleteFunc(b.metadata, func(_ discoveryKey, d *discovered) bool { return now-d.at >= metadataLife })
			if len(b.metadata) >= maxMetadata {
				clear(b.metadata)
			}
		}
		b.metadata[k] = &discovered{m, b.Now()}
		return m, nil
	})
}
