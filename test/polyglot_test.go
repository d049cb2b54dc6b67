package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tokend/test/authserver"
)

// Debian's, which has grpcio whatever other Python is in PATH.
const python = "/usr/bin/python3"

// Python has no google.rpc of its own; this is what there is to it here.
const rpcProto = `syntax = "proto3";
package google.rpc;
import "google/protobuf/any.proto";
message Status {
  int32 code = 1;
  string message = 2;
  repeated google.protobuf.Any details = 3;
}
message ErrorInfo {
  string reason = 1;
  string domain = 2;
  map<string, string> metadata = 3;
}
`

// polyglotClient prints the token of the profile p, and what it learns from
// four failures, as JSON.
const polyglotClient = `
import json, sys
import grpc
import rpc_pb2
from tokend.v1 import token_pb2, token_service_pb2_grpc, profile_pb2, profile_service_pb2_grpc

def failure(call, request):
    try:
        call(request, timeout=10)
    except grpc.RpcError as e:
        status = rpc_pb2.Status()
        status.ParseFromString(dict(e.trailing_metadata())["grpc-status-details-bin"])
        info = rpc_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert status.message == e.details()
        return {"code": e.code().name, "reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}

with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    tokens = token_service_pb2_grpc.TokenServiceStub(channel)
    profiles = profile_service_pb2_grpc.ProfileServiceStub(channel)
    token = tokens.GetToken(token_pb2.GetTokenRequest(profile="p"), timeout=10)
    print(json.dumps({
        "token": token.access_token,
        "type": token.token_type,
        "lifetime": token.lifetime.seconds,
        "failures": [
            failure(tokens.GetToken, token_pb2.GetTokenRequest(profile="pp")),
            failure(tokens.GetToken, token_pb2.GetTokenRequest(profile="../p")),
            failure(profiles.PutProfile, profile_pb2.PutProfileRequest(name="new", text=b"OAUTH2_TOKEN_URI=x\n")),
            failure(tokens.GetToken, token_pb2.GetTokenRequest(profile="refused")),
        ],
    }))
`

// The contract is enough for another language: stubs are made from proto/ and
// nothing else of ours is used.
func TestPython(t *testing.T) {
	c := authserver.Client{ID: "c", Secret: "s3cret"}
	s := authserver.Start(t, authserver.Config{Clients: []authserver.Client{c}})
	h := withProfile(t, s, "p", c)
	h.must(t, profileOf(s, authserver.Client{ID: "c", Secret: "another"}), "add", "refused")

	dir := t.TempDir()
	for name, text := range map[string]string{"rpc.proto": rpcProto, "client.py": polyglotClient} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	protos, err := filepath.Glob("../proto/tokend/v1/*.proto")
	if err != nil || len(protos) == 0 {
		t.Fatal(protos, err)
	}
	args := []string{"-m", "grpc_tools.protoc", "-I", "../proto", "-I", dir, "--python_out=" + dir, "--grpc_python_out=" + dir, filepath.Join(dir, "rpc.proto")}
	if r := finish(t, exec.Command(python, append(args, protos...)...)); r.code != 0 {
		t.Fatalf("making stubs: %v", r)
	}
	r := finish(t, exec.Command(python, filepath.Join(dir, "client.py"), h.status(t).Socket))
	if r.code != 0 {
		t.Fatal(r)
	}
	type failure struct {
		Code, Reason, Domain string
		Metadata             map[string]string
	}
	type answer struct {
		Token, Type string
		Lifetime    int
		Failures    []failure
	}
	var got answer
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	want := answer{
		Token:    h.get(t, "p"),
		Type:     "Bearer",
		Lifetime: 3600,
		Failures: []failure{
			{"NOT_FOUND", "PROFILE_NOT_FOUND", "tokend", map[string]string{"profile": "pp", "suggestion": "p"}},
			{"INVALID_ARGUMENT", "REQUEST_INVALID", "tokend", map[string]string{}},
			{"FAILED_PRECONDITION", "PROFILE_INVALID", "tokend", map[string]string{"profile": "new", "line": "1", "variable": "OAUTH2_TOKEN_URI"}},
			{"PERMISSION_DENIED", "CLIENT_REFUSED", "tokend", map[string]string{"profile": "refused", "oauth_error": "invalid_client", "http_status": "401"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
