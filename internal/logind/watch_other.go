//go:build !linux

package logind

import (
	"context"
	"log/slog"
)

// Watch returns when ctx ends: there is no logind here.
func Watch(ctx context.Context, _ string, _ *slog.Logger, _ func(Event)) { <-ctx.Done() }
