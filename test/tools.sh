#!/bin/sh
# tools.sh TOOLS - builds what checks and generates code into TOOLS. On a machine that
# has built nothing yet, that takes minutes, so the tests do not wait for it.
set -eu
tools=$1

mkdir -p "$tools"
tool() { # tool NAME MODULE@VERSION
	stamp="$tools/.$1-${2##*@}"
	if [ ! -e "$stamp" ]; then
		echo "building $2"
		GOBIN="$tools" go install "$2"
		touch "$stamp"
	fi
}
tool protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
tool protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
