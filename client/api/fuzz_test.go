package api_test

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/client/internal/pbwire"
)

// Whatever bytes come as a message of the API, what is read of them is what the
// protobuf runtime reads.
func FuzzMessages(f *testing.F) {
	var kinds []protoreflect.MessageType
	types := make(map[string]reflect.Type)
	for _, s := range structs {
		types[reflect.TypeOf(s).Name()] = reflect.TypeOf(s)
	}
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		if _, ok := types[structName(m.Descriptor())]; ok && m.Descriptor().ParentFile().Package() == "tokend.v1" {
			kinds = append(kinds, m)
		}
		return true
	})
	if len(kinds) != len(structs) {
		f.Fatalf("%d messages, %d structs", len(kinds), len(structs))
	}
	for _, m := range kinds {
		name := structName(m.Descriptor())
		f.Add(name, []byte{})
		f.Add(name, []byte("\x0a\x01a\x12\x02b\xc3\x18\x01\x22\x04\x08\x01\x10\x02"))
		f.Add(name, []byte("\x08\x80\x80\x80\x80\x10\x12\x00\x1a\x03\x0a\x01x\x2a\x01c\x30\x05\x3a\x06\x0a\x01k\x12\x01v"))
	}
	full := make(map[string]protoreflect.MessageType)
	for _, m := range kinds {
		full[structName(m.Descriptor())] = m
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		kind, ok := full[name]
		if !ok {
			return
		}
		s, again := reflect.New(types[name]).Interface(), reflect.New(types[name]).Interface()
		m := kind.New()
		refused := proto.Unmarshal(b, m.Interface())
		if pbwire.Unmarshal(b, s) == nil {
			if refused != nil {
				t.Fatalf("%x: the runtime refuses it: %v", b, refused)
			}
			once, err := pbwire.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := pbwire.Unmarshal(once, again); err != nil {
				t.Fatalf("%x: %v", once, err)
			}
			if diff := cmp.Diff(s, again); diff != "" {
				t.Fatalf("%x: %s", b, diff)
			}
		}
		if refused != nil {
			return
		}
		// Written by the runtime nothing is there twice.
		canonical, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
		if err != nil || !plain(m) {
			return
		}
		if err := pbwire.Unmarshal(canonical, s); err != nil {
			return // a field of the same number and another wire type is unknown to the runtime
		}
		written, err := pbwire.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got := kind.New()
		if err := proto.Unmarshal(written, got.Interface()); err != nil {
			t.Fatalf("%x: the runtime refuses %x: %v", b, written, err)
		}
		prune(m)
		prune(got)
		if !proto.Equal(m.Interface(), got.Interface()) {
			t.Fatalf("%x: %v, the runtime has %v", b, got, m)
		}
	})
}

// plain says whether each time and duration in m is one that a struct can hold as
// it is.
func plain(m protoreflect.Message) bool {
	ok := true
	switch t := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return t.IsValid() && !t.AsTime().IsZero()
	case *durationpb.Duration:
		return t.IsValid() && proto.Equal(durationpb.New(t.AsDuration()), &durationpb.Duration{Seconds: t.Seconds, Nanos: t.Nanos})
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsList() {
			ok = ok && plain(v.Message())
		} else if f.Message() != nil {
			for i := range v.List().Len() {
				ok = ok && plain(v.List().Get(i).Message())
			}
		}
		return ok
	})
	return ok
}

// prune takes away what the structs do not know: unknown fields, and whether a
// message that says nothing is there.
func prune(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && f.IsList() {
			for i := range v.List().Len() {
				prune(v.List().Get(i).Message())
			}
		} else if f.Message() != nil {
			prune(v.Message())
			if _, time := v.Message().Interface().(*timestamppb.Timestamp); !time && f.ContainingOneof() == nil && proto.Size(v.Message().Interface()) == 0 {
				m.Clear(f)
			}
		}
		return true
	})
}
