#!/bin/sh
# fuzz.sh TIME - runs each fuzz target of the module for TIME.
set -eu
cd "$(dirname "$0")/.."
grep -r --include='*_test.go' '^func Fuzz' . | sed 's/^\(.*\)\/[^/]*:func \(Fuzz[A-Za-z0-9_]*\)(.*/\1 \2/' |
	while read -r folder target; do
		echo "== $folder $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$folder"
	done
