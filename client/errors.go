package client

import (
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"tokend/client/internal/grpcwire"
	tokendv1 "tokend/proto/tokend/v1"
)

// Error is a call's failure as the daemon gave it.
type Error struct {
	// Reason is what to decide by; REASON_UNSPECIFIED where there is none.
	Reason tokendv1.Reason
	// Code is the gRPC status code.
	Code uint32
	// Message is one line for people.
	Message string
	// Metadata is described with [tokendv1.Reason].
	Metadata map[string]string
	// RetryAfter is how long the same answer will be given; 0: not said.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// fromWire is the way back of daemon/errors.go.
func fromWire(err error) error {
	var s *grpcwire.Status
	if !errors.As(err, &s) {
		return err
	}
	e := &Error{Code: s.Code, Message: s.Message}
	// google.rpc.Status: code = 1, message = 2, details = 3.
	fields(s.Details, func(n protowire.Number, b []byte, _ uint64) {
		if n == 3 {
			e.detail(b)
		}
	})
	return e
}

// detail takes one google.protobuf.Any: type_url = 1, value = 2.
func (e *Error) detail(anyMessage []byte) {
	var url string
	var value []byte
	fields(anyMessage, func(n protowire.Number, b []byte, _ uint64) {
		switch n {
		case 1:
			url = string(b)
		case 2:
			value = b
		}
	})
	switch url {
	case "type.googleapis.com/google.rpc.ErrorInfo": // reason = 1, domain = 2, metadata = 3
		var reason, domain string
		meta := make(map[string]string)
		fields(value, func(n protowire.Number, b []byte, _ uint64) {
			switch n {
			case 1:
				reason = string(b)
			case 2:
				domain = string(b)
			case 3:
				var k, v string
				fields(b, func(n protowire.Number, b []byte, _ uint64) {
					switch n {
					case 1:
						k = string(b)
					case 2:
						v = string(b)
					}
				})
				meta[k] = v
			}
		})
		if domain == "tokend" {
			e.Reason = tokendv1.Reason(tokendv1.Reason_value["REASON_"+reason])
			e.Metadata = meta
		}
	case "type.googleapis.com/google.rpc.RetryInfo": // retry_delay = 1: seconds = 1, nanos = 2
		fields(value, func(_ protowire.Number, b []byte, _ uint64) {
			fields(b, func(n protowire.Number, _ []byte, v uint64) {
				switch n {
				case 1:
					e.RetryAfter += time.Duration(v) * time.Second
				case 2:
					e.RetryAfter += time.Duration(v)
				}
			})
		})
	}
}

// fields calls f for each field of a message that is a varint or bytes, and
// stops at what it cannot read.
func fields(b []byte, f func(n protowire.Number, bytes []byte, varint uint64)) {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return
		}
		b = b[size:]
		switch kind {
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if size < 0 {
				return
			}
			f(n, v, 0)
			b = b[size:]
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			if size < 0 {
				return
			}
			f(n, nil, v)
			b = b[size:]
		default:
			size := protowire.ConsumeFieldValue(n, kind, b)
			if size < 0 {
				return
			}
			b = b[size:]
		}
	}
}
