package client

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"tokend/client/api"
	"tokend/client/internal/grpcwire"
	"tokend/client/internal/pbwire"
)

// Error is a call's failure as the daemon gave it.
type Error struct {
	// Reason is what to decide by; [api.ReasonUnspecified] where there is none.
	Reason api.Reason
	// Code is the gRPC status code.
	Code uint32
	// Message is one line for people.
	Message string
	// Metadata is described with [api.Reason].
	Metadata map[string]string
	// RetryAfter is how long the same answer will be given; 0: not said.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// rpcStatus is google.rpc.Status, but for what grpcwire.Status has already.
type rpcStatus struct {
	Details []struct { // google.protobuf.Any
		TypeURL string `pb:"1"`
		Value   []byte `pb:"2"`
	} `pb:"3"`
}

// errorInfo is google.rpc.ErrorInfo.
type errorInfo struct {
	Reason   string `pb:"1"`
	Domain   string `pb:"2"`
	Metadata []struct {
		Key   string `pb:"1"`
		Value string `pb:"2"`
	} `pb:"3"`
}

// retryInfo is google.rpc.RetryInfo.
type retryInfo struct {
	RetryDelay time.Duration `pb:"1"`
}

// fromWire is the way back of daemon/errors.go. Details that cannot be read
// are as none: what has failed is known without them.
func fromWire(err error) error {
	var s *grpcwire.Status
	switch {
	case errors.As(err, &s):
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w any more: %w", ErrNotRunning, err)
	default:
		return err
	}
	e := &Error{Code: s.Code, Message: s.Message}
	var status rpcStatus
	if pbwire.Unmarshal(s.Details, &status) != nil {
		return e
	}
	for _, d := range status.Details {
		switch d.TypeURL {
		case "type.googleapis.com/google.rpc.ErrorInfo":
			var info errorInfo
			if pbwire.Unmarshal(d.Value, &info) != nil || info.Domain != "tokend" {
				continue
			}
			e.Reason = api.ReasonOf(info.Reason)
			e.Metadata = make(map[string]string)
			for _, m := range info.Metadata {
				e.Metadata[m.Key] = m.Value
			}
		case "type.googleapis.com/google.rpc.RetryInfo":
			var retry retryInfo
			if pbwire.Unmarshal(d.Value, &retry) == nil {
				e.RetryAfter = retry.RetryDelay
			}
		}
	}
	return e
}
