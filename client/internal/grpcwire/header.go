package grpcwire

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
)

// requestBlock is the header block of a request (gRPC over HTTP2, "Requests"). An empty timeout is none.
func requestBlock(method string, md []Header, timeout string) ([]byte, error) {
	if !strings.HasPrefix(method, "/") || strings.Contains(method, " ") || !printable(method) {
		return nil, fmt.Errorf("calling %q: not a method's path", method)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0) // nothing comes a second time
	add := func(name, value string) { _ = enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	add(":method", "POST")
	add(":scheme", "http")
	add(":path", method)
	add(":authority", "localhost")
	if timeout != "" {
		add("grpc-timeout", timeout)
	}
	add("content-type", "application/grpc")
	add("te", "trailers")
	add("user-agent", "tokenctl")
	for _, h := range md {
		if !isMetadataName(h.Name) {
			return nil, fmt.Errorf("calling %q: %q cannot be the name of metadata", method, h.Name)
		}
		if !printable(h.Value) {
			return nil, fmt.Errorf("calling %q: the metadata %q is not printable ASCII", method, h.Name)
		}
		add(h.Name, h.Value)
	}
	if block.Len() > maxFrame {
		return nil, fmt.Errorf("calling %q: the metadata is too large", method)
	}
	return block.Bytes(), nil
}

func isMetadataName(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return name != "" && !strings.HasPrefix(name, "grpc-")
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// formatTimeout is d as a grpc-timeout: at most eight digits and a unit, rounded up, so that the server does not
// give up before we do.
func formatTimeout(d time.Duration) string {
	const most = 99_999_999
	d = max(d, 1)
	for _, u := range []struct {
		size time.Duration
		name string
	}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}} {
		if n := (d-1)/u.size + 1; n <= most {
			return strconv.FormatInt(int64(n), 10) + u.name
		}
	}
	return strconv.FormatInt(min(int64((d-1)/time.Second+1), most), 10) + "S"
}

// fields is what matters here of a response's headers or trailers. "" is a field that is not there.
type fields struct {
	status      string // :status
	contentType string
	grpcStatus  string
	grpcMessage string // percent-encoded
	details     string // grpc-status-details-bin, base64
	size        int    // as RFC 9113, 6.5.2 counts it
	regular     bool   // a field that is not a pseudo-header has come
	malformed   string // what is wrong with them, if anything
}

// add takes the next field. It cannot fail, so what is wrong is kept for later.
func (f *fields) add(h hpack.HeaderField) {
	if f.size += int(h.Size()); f.size > maxHeaderList {
		f.malformed = "headers of more than " + strconv.Itoa(maxHeaderList) + " bytes"
		return
	}
	var field *string
	switch h.Name {
	case ":status":
		field = &f.status
		if f.regular {
			f.malformed = ":status after other headers"
		}
	case "content-type":
		field = &f.contentType
	case "grpc-status":
		field = &f.grpcStatus
	case "grpc-message":
		field = &f.grpcMessage
	case "grpc-status-details-bin":
		field = &f.details
	}
	f.regular = f.regular || h.Name != ":status"
	switch {
	case field == nil && strings.HasPrefix(h.Name, ":"), h.Name == "", strings.ToLower(h.Name) != h.Name: // RFC 9113, 8.2, 8.3
		f.malformed = "the header " + strconv.Quote(h.Name)
	case field != nil && *field != "":
		f.malformed = "more than one " + h.Name
	case field != nil:
		*field = h.Value
	}
}

func (f *fields) isGRPC() bool {
	rest, ok := strings.CutPrefix(f.contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}
