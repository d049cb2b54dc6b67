package client

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/client/api"
	"tokend/client/internal/grpcwire"
)

// What the details say is for nothing if they are not the daemon's, or not
// whole; that the call has failed, and how, is not.
func TestDetailsThatAreNotOurs(t *testing.T) {
	const info = "type.googleapis.com/google.rpc.ErrorInfo"
	detail := func(url, value string) string {
		content := "\x0a" + string(rune(len(url))) + url + "\x12" + string(rune(len(value))) + value
		return "\x1a" + string(rune(len(content))) + content
	}
	const ours = "\x0a\x06LOCKED\x12\x06tokend"
	var got *Error
	if err := fromWire(&grpcwire.Status{Details: []byte(detail(info, ours))}); !errors.As(err, &got) || got.Reason != api.ReasonLocked {
		t.Fatalf("the daemon's own: %v", got)
	}
	for name, details := range map[string]string{
		"none":             "",
		"malformed":        "\x1a\x05\x0a",
		"another's domain": detail(info, "\x0a\x06LOCKED\x12\x05other"),
		"no domain":        detail(info, "\x0a\x06LOCKED"),
		"malformed info":   detail(info, ours+"\x1a"),
		"another type":     detail("type.googleapis.com/google.rpc.Help", ours),
		"malformed delay":  detail("type.googleapis.com/google.rpc.RetryInfo", "\x0a\x02\x08"),
	} {
		err := fromWire(&grpcwire.Status{Code: 5, Message: "m", Details: []byte(details)})
		if !errors.As(err, &got) {
			t.Fatalf("%s: error is %v", name, err)
		}
		if diff := cmp.Diff(&Error{Code: 5, Message: "m"}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
