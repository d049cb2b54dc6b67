package api_test

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokend/client/api"
	"tokend/client/internal/pbwire"
	_ "tokend/proto/tokend/v1/tokendv1grpc" // the descriptors
)

// structs are all of the package.
var structs = []any{
	api.CreateDPoPProofRequest{}, api.CreateDPoPProofResponse{},
	api.DeleteProfileRequest{}, api.DeleteProfileResponse{},
	api.ExplainTokenRequest{}, api.ExplainTokenResponse{},
	api.Finding{},
	api.GetProfileRequest{}, api.GetProfileResponse{},
	api.GetRecipientsRequest{}, api.GetRecipientsResponse{},
	api.GetStatusRequest{}, api.GetStatusResponse{},
	api.GetTokenRequest{}, api.GetTokenResponse{},
	api.InitRequest{}, api.InitRequestStart{},
	api.InitResponse{}, api.InitResponseCreated{},
	api.IntrospectTokenRequest{}, api.IntrospectTokenResponse{},
	api.ListProfilesRequest{}, api.ListProfilesResponse{}, api.ListProfilesResponseProfileEntry{},
	api.LoginRequest{}, api.LoginRequestStart{}, api.LoginRequestConfirmation{}, api.LoginRequestRedirection{},
	api.LoginRequestInitialAccessToken{},
	api.LoginResponse{}, api.LoginResponseServerFound{}, api.LoginResponseInitialAccessTokenNeeded{}, api.LoginResponseOpenURL{},
	api.LoginResponseShowCode{}, api.LoginResponseNotice{}, api.LoginResponseDone{},
	api.LogoutRequest{}, api.LogoutResponse{},
	api.Mistake{},
	api.MoveProfileRequest{}, api.MoveProfileResponse{},
	api.Problem{},
	api.ProfileStatus{},
	api.Protection{},
	api.PutProfileRequest{}, api.PutProfileResponse{},
	api.RegisterRequest{}, api.RegisterRequestStart{}, api.RegisterRequestUser{},
	api.RegisterResponse{}, api.RegisterResponseUserNeeded{}, api.RegisterResponseDone{},
	api.ReloadRequest{}, api.ReloadResponse{},
	api.ReportTokenRequest{}, api.ReportTokenResponse{},
	api.ResetProfileRequest{}, api.ResetProfileResponse{},
	api.RevealProfileRequest{}, api.RevealProfileResponse{},
	api.RevokeTokensRequest{}, api.RevokeTokensResponse{}, api.RevokeTokensResponseRevocation{},
	api.Setting{},
	api.StopRequest{}, api.StopResponse{},
	api.Trust{},
	api.Variable{}, api.Variables{},
	api.ExportProfileRequest{}, api.ExportProfileResponse{}, api.IdentityProtection{}, api.IdentityProtectionKeyring{}, api.IdentityProtectionNone{}, api.IdentityProtectionPassphrase{}, api.IdentityProtectionPlugin{}, api.IdentityProtectionSsh{}, api.ImportProfileRequest{}, api.ImportProfileResponse{}, api.LockRequest{}, api.LockResponse{}, api.MigrateRequest{}, api.MigrateResponse{},
	api.MigrateResponseCopied{}, api.MigrateResponseMigrated{}, api.Prompt{}, api.PromptAnswer{}, api.ProtectRequest{}, api.ProtectRequestStart{}, api.ProtectResponse{}, api.ProtectResponseProtected{}, api.RekeyProfilesRequest{}, api.RekeyProfilesResponse{}, api.UnlockRequest{}, api.UnlockRequestStart{}, api.UnlockResponse{}, api.UnlockResponseUnlocked{},
	api.WatchEventsRequest{}, api.WatchEventsResponse{},
	api.WatchTokenRequest{}, api.WatchTokenResponse{}, api.WatchedToken{},
}

var methods = []string{
	api.MethodInit, api.MethodGetStatus, api.MethodReload, api.MethodStop,
	api.MethodWatchEvents, api.MethodRekeyProfiles, api.MethodImportProfile, api.MethodExportProfile, api.MethodUnlock, api.MethodProtect, api.MethodMigrate, api.MethodLock,
	api.MethodListProfiles, api.MethodGetProfile, api.MethodPutProfile, api.MethodDeleteProfile,
	api.MethodMoveProfile, api.MethodRevealProfile, api.MethodGetRecipients,
	api.MethodLogin, api.MethodRegister, api.MethodLogout,
	api.MethodGetToken, api.MethodIntrospectToken, api.MethodRevokeTokens, api.MethodCreateDPoPProof,
	api.MethodReportToken, api.MethodWatchToken, api.MethodExplainToken, api.MethodResetProfile,
}

var files = func() (all []protoreflect.FileDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("tokend.v1", func(f protoreflect.FileDescriptor) bool {
		all = append(all, f)
		return true
	})
	return all
}()

// messages calls f for each message of the API with the type of its struct.
func messages(t *testing.T, f func(m protoreflect.MessageDescriptor, s reflect.Type)) {
	types := make(map[string]reflect.Type)
	for _, s := range structs {
		types[reflect.TypeOf(s).Name()] = reflect.TypeOf(s)
	}
	var walk func(protoreflect.MessageDescriptors)
	walk = func(all protoreflect.MessageDescriptors) {
		for i := range all.Len() {
			m := all.Get(i)
			name := structName(m)
			if s, ok := types[name]; ok {
				f(m, s)
			} else {
				t.Errorf("%s has no struct %s", m.FullName(), name)
			}
			delete(types, name)
			walk(m.Messages())
		}
	}
	for _, f := range files {
		walk(f.Messages())
	}
	for name := range types {
		t.Errorf("%s is of no message", name)
	}
}

func structName(m protoreflect.MessageDescriptor) string {
	return strings.ReplaceAll(strings.TrimPrefix(string(m.FullName()), "tokend.v1."), ".", "")
}

// Each field is there with its number and type, and no other is.
func TestFields(t *testing.T) {
	messages(t, func(m protoreflect.MessageDescriptor, s reflect.Type) {
		want := make(map[string]string)
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			tag := strconv.Itoa(int(f.Number()))
			if o := f.ContainingOneof(); o != nil {
				tag += "," + string(o.Name())
			}
			want[tag] = strings.ReplaceAll(string(f.Name()), "_", "") + " " + typeName(f)
		}
		got := make(map[string]string)
		for f := range s.Fields() {
			got[f.Tag.Get("pb")] = strings.ToLower(f.Name) + " " + f.Type.String()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", s.Name(), diff)
		}
	})
}

func typeName(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	switch f.Kind() {
	case protoreflect.BytesKind:
		return "[]uint8"
	case protoreflect.EnumKind:
		name = "api." + string(f.Enum().Name())
	case protoreflect.MessageKind:
		switch f.Message().FullName() {
		case "google.protobuf.Duration":
			name = "time.Duration"
		case "google.protobuf.Timestamp":
			name = "time.Time"
		default:
			name = "api." + structName(f.Message())
		}
	}
	switch {
	case f.IsList():
		return "[]" + name
	case f.ContainingOneof() != nil:
		return "*" + name
	}
	return name
}

func TestMethods(t *testing.T) {
	var want []string
	for _, f := range files {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				want = append(want, "/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
			}
		}
	}
	slices.Sort(want)
	slices.Sort(methods)
	if diff := cmp.Diff(want, methods); diff != "" {
		t.Error(diff)
	}
}

// names are those of an enum's values without prefix.
func names(t *testing.T, enum, prefix string) map[int32]string {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(enum))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[int32]string)
	values := d.(protoreflect.EnumDescriptor).Values()
	for i := range values.Len() {
		all[int32(values.Get(i).Number())] = strings.TrimPrefix(string(values.Get(i).Name()), prefix)
	}
	return all
}

func TestEnums(t *testing.T) {
	reasons := names(t, "tokend.v1.Reason", "REASON_")
	states := names(t, "tokend.v1.GetStatusResponse.State", "STATE_")
	forms := names(t, "tokend.v1.RevealProfileRequest.Form", "FORM_")
	methods := names(t, "tokend.v1.LoginRequest.Method", "METHOD_")
	sources := names(t, "tokend.v1.IntrospectTokenResponse.Source", "SOURCE_")
	outcomes := names(t, "tokend.v1.ReportTokenResponse.Outcome", "OUTCOME_")
	levels := names(t, "tokend.v1.Finding.Level", "LEVEL_")
	kinds := names(t, "tokend.v1.WatchEventsResponse.Kind", "KIND_")
	for n := int32(-1); n < 100; n++ {
		for _, v := range []struct{ got, want string }{
			{api.Reason(n).String(), reasons[n]}, {api.State(n).String(), states[n]}, {api.Form(n).String(), forms[n]},
			{api.Method(n).String(), methods[n]}, {api.Source(n).String(), sources[n]},
			{api.Outcome(n).String(), outcomes[n]}, {api.Level(n).String(), levels[n]}, {api.Kind(n).String(), kinds[n]},
		} {
			if v.want == "" {
				v.want = strconv.Itoa(int(n))
			}
			if v.got != v.want {
				t.Errorf("%d is %s, want %s", n, v.got, v.want)
			}
		}
		if name := reasons[n]; name != "" && api.ReasonOf(name) != api.Reason(n) {
			t.Errorf("%s is %d", name, api.ReasonOf(name))
		}
	}
	if got := api.ReasonOf("NO_SUCH_REASON"); got != api.ReasonUnspecified {
		t.Errorf("an unknown reason is %d", got)
	}
}

// The structs say what the protobuf runtime says.
func TestAgainstRuntime(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	messages(t, func(d protoreflect.MessageDescriptor, s reflect.Type) {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			t.Fatal(err)
		}
		set := make(map[protoreflect.Name]bool)
		for range 300 {
			m := kind.New()
			fill(r, m)
			m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
				set[f.Name()] = true
				return true
			})
			b, err := proto.Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			v, again := reflect.New(s).Interface(), reflect.New(s).Interface()
			if err := pbwire.Unmarshal(b, v); err != nil {
				t.Fatalf("%v: %v", m, err)
			}
			if b, err = pbwire.Marshal(v); err != nil {
				t.Fatalf("%v: %v", m, err)
			}
			back := kind.New().Interface()
			if err := proto.Unmarshal(b, back); err != nil {
				t.Fatalf("%v: %v", m, err)
			}
			if !proto.Equal(m.Interface(), back) {
				t.Fatalf("%v has become %v", m, back)
			}
			if b, err = proto.Marshal(back); err != nil {
				t.Fatal(err)
			}
			if err := pbwire.Unmarshal(b, again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(v, again); diff != "" {
				t.Fatal(diff)
			}
		}
		if len(set) != d.Fields().Len() {
			t.Errorf("%s: only %v were ever set", d.FullName(), set)
		}
	})
}

// fill sets some fields. It leaves out what a struct cannot say: a message that
// is set, empty, and no alternative of a oneof. Of a oneof the last one set
// stands, so that the order is any.
func fill(r *rand.Rand, m protoreflect.Message) {
	for _, i := range r.Perm(m.Descriptor().Fields().Len()) {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case r.IntN(4) == 0:
		case f.IsList():
			list := m.Mutable(f).List()
			for range r.IntN(3) {
				list.Append(random(r, f, list.NewElement()))
			}
		default:
			v := random(r, f, m.NewField(f))
			if f.Message() == nil || f.ContainingOneof() != nil || f.Message().FullName() == "google.protobuf.Timestamp" || proto.Size(v.Message().Interface()) > 0 {
				m.Set(f, v)
			}
		}
	}
}

// random returns a value for f, whose zero value is given.
func random(r *rand.Rand, f protoreflect.FieldDescriptor, zero protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(r.Uint64()) >> r.IntN(32))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(r.Uint64()) >> r.IntN(64))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(r.IntN(30) - 3))
	case protoreflect.StringKind:
		var b []byte
		for range r.IntN(200) {
			b = utf8.AppendRune(b, rune(r.IntN(utf8.MaxRune>>r.IntN(20)+1)))
		}
		return protoreflect.ValueOfString(string(b))
	case protoreflect.BytesKind:
		b := make([]byte, r.IntN(200))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return protoreflect.ValueOfBytes(b)
	}
	switch m := zero.Message().Interface().(type) {
	case *durationpb.Duration:
		d := durationpb.New(time.Duration(r.Int64() >> r.IntN(64)))
		if r.IntN(2) == 0 {
			d.Seconds, d.Nanos = -d.Seconds, -d.Nanos
		}
		m.Seconds, m.Nanos = d.Seconds, d.Nanos
	case *timestamppb.Timestamp:
		m.Seconds, m.Nanos = r.Int64N(1<<37)>>r.IntN(38)-r.Int64N(2)*(1<<35), int32(r.IntN(1e9)>>r.IntN(31))
	default:
		fill(r, zero.Message())
	}
	return zero
}
