package client

import (
	"errors"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokend/client/api"
	"tokend/client/internal/grpcwire"
)

// What is read of an error's details is what the protobuf runtime reads, and what
// cannot be read takes nothing from the error.
func FuzzDetails(f *testing.F) {
	detail := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			f.Fatal(err)
		}
		return a
	}
	for _, s := range []*spb.Status{
		{},
		{Code: 14, Message: "m", Details: []*anypb.Any{
			detail(&errdetails.RetryInfo{RetryDelay: durationpb.New(90_000_000_000)}),
			detail(&errdetails.ErrorInfo{Reason: "THROTTLED", Domain: "tokend", Metadata: map[string]string{"profile": "a/b", "": ""}}),
		}},
		{Details: []*anypb.Any{detail(&errdetails.ErrorInfo{Reason: "LOCKED", Domain: "example.com"}), {TypeUrl: "type.googleapis.com/google.rpc.ErrorInfo", Value: []byte{0xff}}}},
	} {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, details []byte) {
		var e *Error
		if !errors.As(fromWire(&grpcwire.Status{Code: 7, Message: "m", Details: details}), &e) || e.Code != 7 || e.Message != "m" {
			t.Fatalf("%+v", e)
		}
		if e.Reason < api.ReasonUnspecified {
			t.Fatalf("reason %d", e.Reason)
		}
		var s spb.Status
		if proto.Unmarshal(details, &s) != nil {
			if e.Reason != api.ReasonUnspecified || e.Metadata != nil || e.RetryAfter != 0 {
				t.Fatalf("%x: %+v of what is no Status", details, e)
			}
			return
		}
		known := false
		for _, d := range s.GetDetails() {
			var info errdetails.ErrorInfo
			known = known || d.GetTypeUrl() == "type.googleapis.com/google.rpc.ErrorInfo" && proto.Unmarshal(d.GetValue(), &info) == nil && info.GetDomain() == domain
		}
		if !known && (e.Reason != api.ReasonUnspecified || e.Metadata != nil) {
			t.Fatalf("%x: %+v of no ErrorInfo of ours", details, e)
		}
	})
}

const domain = "tokend"
