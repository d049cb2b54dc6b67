#!/bin/sh
# deps.sh - what `make test` needs and this machine lacks: the system's packages as
# root or by sudo, the rest into node_modules folders.
# What it may not install it names, with the line to run, and fails.
set -eu
cd "$(dirname "$0")/.."

missing=
need() { # need COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need curl curl
need git git
need age age
need strace strace
need script bsdutils
need ssh-keygen openssh-client
need oidc-gen oidc-agent-cli
need setpriv util-linux
need perl perl-base
need flock util-linux
need shellcheck shellcheck
need expect expect
need openssl openssl
need jq jq
need node nodejs
need npm npm
need chromium chromium
need tmux tmux
need zsh zsh
need fish fish
need dash dash
need dbus-daemon dbus-daemon
need dbus-monitor dbus-bin
need gnome-keyring-daemon gnome-keyring
# Debian's, which is the system Python's whatever else is in PATH.
if [ -x /usr/bin/python3 ]; then
	/usr/bin/python3 -c 'import grpc' 2>/dev/null || missing="$missing python3-grpcio"
	/usr/bin/python3 -c 'import grpc_tools' 2>/dev/null || missing="$missing python3-grpc-tools"
	/usr/bin/python3 -c 'import requests' 2>/dev/null || missing="$missing python3-requests"
else
	missing="$missing python3 python3-grpcio python3-grpc-tools python3-requests"
fi
if [ -n "$missing" ]; then
	as=
	if [ "$(id -u)" != 0 ]; then
		if ! sudo -n true 2>/dev/null; then
			echo "make test needs packages that you have to install: sudo apt-get install$missing" >&2
			exit 1
		fi
		as=sudo
	fi
	echo "installing:$missing"
	$as apt-get update -q >/dev/null
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive $as apt-get install -q -y --no-install-recommends $missing >/dev/null
fi

for dir in tools test/world test/conformance examples/editor; do
	if [ ! -e "$dir/node_modules/.package-lock.json" ] || [ -n "$(find "$dir/package-lock.json" -newer "$dir/node_modules/.package-lock.json")" ]; then
		echo "installing $dir/node_modules"
		(cd "$dir" && npm ci --silent --no-audit --no-fund)
		touch "$dir/node_modules/.package-lock.json"
	fi
done
