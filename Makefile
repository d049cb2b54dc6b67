# Everything here works on a fresh clone. What a target needs and the machine
# lacks, `make deps` installs: as root or by sudo with the system's packages, the rest
# into node_modules. `make tools` builds into .tools what checks and generates code.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PREFIX  ?= $(HOME)/.local
TOOLS   := $(CURDIR)/.tools
BUF     := tools/node_modules/.bin/buf

# Not PIE: it costs a quarter of the start-up. grpcnotrace keeps x/net/trace
# and its templates out of the daemon, nethttpomithttp2 the half of net/http
# that it does not use. runtimesecret and clobberfree make the runtime overwrite
# what it frees: see internal/harden.
GOBUILD := CGO_ENABLED=0 GOEXPERIMENT=runtimesecret go build -trimpath -buildvcs=false -tags grpcnotrace,nethttpomithttp2 \
	-ldflags '-s -w -X main.version=$(VERSION) -X runtime.godebugDefault=clobberfree=1'

.PHONY: build install demo test checks unit timed compiled e2e fuzz fuzz-short lint proto landed bench soak deps tools clean

BIN ?= bin
build:
	$(GOBUILD) -o '$(BIN)/' ./cmd/tokend ./cmd/tokenctl

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin'
# Who may not read a program's file may not look into its memory, from its first
# instruction on: see internal/harden.
	install -m 111 '$(BIN)/tokend' '$(BIN)/tokenctl' '$(DESTDIR)$(PREFIX)/bin/'

demo:
	@sh test/demo.sh

# The checks take all the processor, the end-to-end tests mostly wait: side by side,
# but for those that measure how long somebody waits.
test: deps
	$(MAKE) -j2 -O timed compiled
	$(MAKE) -j2 -O checks e2e

# What checks needs compiled, of which a new machine has nothing: at the lowest
# priority, beside tests that mostly wait and measure how long.
compiled: deps
	nice -n 19 $(MAKE) tools
	nice -n 19 go list $(RACE) -test -export ./... >/dev/null

checks:
	$(MAKE) lint
	$(MAKE) unit
	$(MAKE) fuzz-short

# scrypt has no goroutines, and takes ten times as long with the race detector.
RACE := -race -gcflags=golang.org/x/crypto/scrypt=-race=false
unit:
	go test $(RACE) -timeout 20m $$(go list ./... | grep -v '^tokend/test$$')

# The real binaries, as a user runs them. Four at a time: most of these wait.
e2e: build
	go test -parallel 4 -timeout 20m -skip '$(TIMED)' ./test

TIMED := ^(TestSocketAbuse.*|TestProviderFaults|TestKeyringFails|TestIdentityInTheKeyring|TestSoak|TestWrongPassphrasesSlowNobody)$$
timed: build
	go test -timeout 10m -run '$(TIMED)' ./test

# A minute for each fuzz target; for hours: make fuzz FUZZTIME=1h. It stops at the
# first failure. Seeds and committed corpora run in `make unit`, too.
FUZZTIME ?= 60s
fuzz:
	@sh test/fuzz.sh $(FUZZTIME)

# The same number of inputs of each target on every machine.
fuzz-short:
	@sh test/fuzz.sh 100x new

lint: deps tools
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'gofmt these:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	GOOS=darwin GOARCH=arm64 go vet ./...
	GOOS=linux GOARCH=arm64 go vet ./...
	$(TOOLS)/golangci-lint run --allow-parallel-runners
	$(BUF) lint
	$(BUF) format --diff --exit-code
	$(BUF) breaking --against proto/landed.binpb
	shellcheck test/*.sh test/conformance/*.sh .ci/run
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	PATH=$(TOOLS):$$PATH $(BUF) generate -o "$$tmp" && \
	for f in $$(cd "$$tmp" && find proto client -name '*.go'); do \
		cmp "$$tmp/$$f" "$$f" || { echo "generated code is not that of proto/: run make proto"; exit 1; }; done

proto: deps tools
	PATH=$(TOOLS):$$PATH $(BUF) format -w
	PATH=$(TOOLS):$$PATH $(BUF) generate

# The contract that `make lint` holds a change against. Renewed with a landing.
landed: deps
	$(BUF) build --exclude-source-info -o proto/landed.binpb

bench: build
	go run ./test/bench

# What `make test` does for a minute, for as long as it takes: a kill -9 at every
# system call of a rotation, then KILLS of them at random, then twenty profiles of
# failing providers for as long as SOAK says.
SOAK  ?= 10m
KILLS ?= 3000
soak: build deps
	TOKEND_EVERY_CALL=1 go test -timeout 30m -count 1 -run 'TestKillAtEachCall' -v ./test
	SOAK_KILLS=$(KILLS) go test -timeout 60m -count 1 -run 'TestKillSoak' -v ./test
	go run ./test/soak -for $(SOAK)

deps:
	@sh test/deps.sh

tools:
	@sh test/tools.sh '$(TOOLS)'

clean:
	rm -rf bin .tools
