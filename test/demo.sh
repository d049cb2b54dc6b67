#!/bin/sh
# demo.sh - tokend from nothing to a protected resource, on this machine alone:
# a local authorization server, a profile, a token. It needs Go and curl, works
# in a folder of its own and leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."

command -v curl >/dev/null || { echo "make demo needs curl" >&2; exit 1; }
command -v go >/dev/null || { echo "make demo needs Go" >&2; exit 1; }

bold='' dim='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
	bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m')
fi

T=$(mktemp -d "${TMPDIR:-/tmp}/tokend-demo.XXXXXX")
# shellcheck disable=SC2317 # called by the traps
clean() {
	trap '' INT TERM HUP
	[ ! -x "$T/bin/tokenctl" ] || "$T/bin/tokenctl" daemon stop 2>/dev/null || true
	# $!, not a variable set behind it: a signal may come in between.
	if [ -n "${!-}" ]; then
		kill "$!" 2>/dev/null || true
		wait "$!" 2>/dev/null || true
	fi
	chmod -R u+w "$T" # Go's module cache is read-only
	rm -rf "$T"
}
trap clean EXIT
# A daemon that was just being started ends by itself when nobody waits for it.
trap 'trap "" INT TERM HUP; sleep 1; exit 130' INT TERM HUP

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
cmd() { # cmd LINE - shows a command line, then runs it
	printf '%s$ %s%s\n' "$dim" "$*" "$plain"
	eval "$*"
}

say "Building tokend and tokenctl (the first time takes a minute)"
mkdir "$T/bin" "$T/home" "$T/tmp"
# Where Go has no caches yet, it is to have none afterwards.
# Go counts its runs below its configuration folder, which has the user's go/env too.
export GOENV="${GOENV-${XDG_CONFIG_HOME:-$HOME/.config}/go/env}" XDG_CONFIG_HOME="$T/config" TMPDIR="$T/tmp"
[ -d "$(go env GOCACHE)" ] || export GOCACHE="$T/gocache"
[ -d "$(go env GOMODCACHE)" ] || export GOMODCACHE="$T/gomod"
make -s build BIN="$T/bin"
go build -trimpath -buildvcs=false -o "$T/bin/" ./test/authserver/cmd/authserver

# From here on everything lives in $T.
export HOME="$T/home" TMPDIR="$T/tmp" PATH="$T/bin:$PATH"
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_RUNTIME_DIR TOKEND_DIR TOKEND_SOCKET TOKEND_PROFILE TOKEND_TRUST TOKEND_STORE
mkdir -m 700 "$T/run"
export XDG_RUNTIME_DIR="$T/run"
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

say "Starting an authorization server and a protected resource, as your provider would run them"
authserver -client demo:correct-horse-battery-staple >"$T/server.json" &
tries=0
until grep -q ready "$T/server.json"; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] || { echo "the authorization server did not start" >&2; exit 1; }
	sleep 0.1
done
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$T/server.json"; }
RESOURCE=$(field resource)
echo "It listens at $(field issuer)"

say "1. Make this machine's identity: the key that profiles are encrypted to"
cmd tokenctl init

say "2. Keep a client's credentials as the profile dev/network"
cat >"$T/network.env" <<EOF
OAUTH2_TOKEN_URL=$(field token_url)
CLIENT_ID=demo
CLIENT_SECRET=correct-horse-battery-staple
OAUTH2_SCOPE=api.read api.write
EOF
cd "$T"
cmd 'cat network.env'
cmd 'tokenctl add dev/network < network.env'
cmd 'rm network.env'
echo "It is encrypted now. The file begins with:"
# shellcheck disable=SC2016 # evaluated by cmd
cmd 'head -c 21 "$HOME/.local/share/tokend/profiles/dev/network.env.age"; echo'

say "3. Call the resource without a token: it refuses"
cmd "curl -s -o /dev/null -w '%{http_code}\\n' $RESOURCE"

say "4. Call it with one"
cmd "curl -s -H \"Authorization: Bearer \$(tokenctl get dev/network)\" $RESOURCE"
echo

say "5. Ask a hundred times more: they all get the token that is cached"
# shellcheck disable=SC2016 # evaluated by cmd
cmd 'i=0; while [ $i -lt 100 ]; do tokenctl get dev/network >/dev/null; i=$((i+1)); done'
echo "Token requests that the authorization server has seen: $(curl -s "$(field issuer)/_count?path=/token")"

say "6. See what it is doing"
cmd tokenctl status

say "That was all. The daemon and the server are stopped now, and this folder is deleted: $T"
