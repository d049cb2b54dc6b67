package grpcwire

import (
	"encoding/base64"
	"io"
	"strconv"
	"strings"
)

// Status codes that are decided here (doc/statuscodes.md in github.com/grpc/grpc).
const (
	cancelled         = 1
	unknown           = 2
	deadlineExceeded  = 4
	permissionDenied  = 7
	resourceExhausted = 8
	unimplemented     = 12
	internal          = 13
	unavailable       = 14
	unauthenticated   = 16
)

var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// Status is what a call ended with when it did not end with OK.
type Status struct {
	Code    uint32 // 1 to 16; a code that gRPC does not define is 2, UNKNOWN
	Message string // the server's words: valid UTF-8, but not cleaned for a terminal
	Details []byte // grpc-status-details-bin, decoded: a serialised google.rpc.Status; nil if none
}

func (s *Status) Error() string {
	if s.Code >= uint32(len(codeNames)) {
		return "status " + strconv.FormatUint(uint64(s.Code), 10) + ": " + s.Message
	}
	return codeNames[s.Code] + ": " + s.Message
}

func tooLarge(length, limit int) *Status {
	return &Status{Code: resourceExhausted, Message: "a message of " + strconv.Itoa(length) + " bytes, the limit is " + strconv.Itoa(limit)}
}

// outcome is how a call ended that has these trailers: io.EOF for OK, else a *Status.
func (f *fields) outcome() error {
	if f.grpcStatus == "" {
		return f.httpStatus()
	}
	code, err := strconv.ParseUint(f.grpcStatus, 10, 32)
	if err != nil || code >= uint64(len(codeNames)) {
		code = unknown
	}
	if code == 0 {
		return io.EOF
	}
	s := &Status{Code: uint32(code), Message: decodeMessage(f.grpcMessage)}
	if f.details != "" {
		// Senders may leave the padding out, receivers take both.
		s.Details, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(f.details, "="))
		if err != nil {
			return malformed("grpc-status-details-bin that is not base64")
		}
	}
	return s
}

// httpStatus is the Status of a response without a grpc-status (doc/http-grpc-status-mapping.md).
func (f *fields) httpStatus() *Status {
	s := &Status{Code: unknown, Message: "no grpc-status from the server, HTTP status " + f.status}
	switch f.status {
	case "400":
		s.Code = internal
	case "401":
		s.Code = unauthenticated
	case "403":
		s.Code = permissionDenied
	case "404":
		s.Code = unimplemented
	case "429", "502", "503", "504":
		s.Code = unavailable
	}
	return s
}

// decodeMessage undoes the percent-encoding of grpc-message. What is not an escape stays as it is: a message must not
// be lost because it is badly encoded.
func decodeMessage(m string) string {
	var b strings.Builder
	for i := 0; i < len(m); i++ {
		if m[i] == '%' && i+2 < len(m) {
			if c, err := strconv.ParseUint(m[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(m[i])
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

const codeNoError = 0

// errorNames are the error codes of RST_STREAM and GOAWAY (RFC 9113, 7).
var errorNames = [...]string{
	codeNoError: "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
	"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR",
	"ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func errorName(code uint32) string {
	if code < uint32(len(errorNames)) {
		return errorNames[code]
	}
	return "error " + strconv.FormatUint(uint64(code), 10)
}

// resetStatus is the Status of a call that ended with RST_STREAM (gRPC over HTTP2, "Errors").
func resetStatus(code uint32) *Status {
	s := &Status{Code: unknown, Message: "the server reset the call: " + errorName(code)}
	switch errorName(code) {
	case "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "FRAME_SIZE_ERROR",
		"COMPRESSION_ERROR", "CONNECT_ERROR":
		s.Code = internal
	case "REFUSED_STREAM":
		s.Code = unavailable
	case "CANCEL":
		s.Code = cancelled
	case "ENHANCE_YOUR_CALM":
		s.Code = resourceExhausted
	case "INADEQUATE_SECURITY":
		s.Code = permissionDenied
	}
	return s
}
