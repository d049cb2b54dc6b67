#!/bin/sh
# fuzz.sh TIME [new] - runs each fuzz target of the module for TIME, such as 60s, 1h
# or 1000x, and stops at the first that fails. It goes on from what earlier runs have
# found, in the build cache; "new" begins with the seeds and the committed corpora
# alone, as a machine that never ran it does.
set -eu
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM
cache=$(go env GOCACHE)/fuzz
if [ "${2-}" = new ]; then cache=$tmp/cache; fi

# The files that go itself would build, so that no target of another system is tried.
# shellcheck disable=SC2016 # the dollars are the template's
go list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}
{{end}}' ./... | while read -r package dir file; do
	[ -n "$file" ] || continue
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir/$file" | while read -r target; do
		echo "$package $dir $target"
	done
done >"$tmp/targets"
if ! [ -s "$tmp/targets" ]; then
	echo 'fuzz.sh: no fuzz target was found' >&2
	exit 1
fi

built=
count=0
while read -r package dir target; do
	if [ "$package" != "$built" ]; then
		go test -c -fuzz . -o "$tmp/binary" "$package"
		built=$package
	fi
	# Minimising what is only interesting would take all of a short run.
	if ! (cd "$dir" && "$tmp/binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$1" \
		-test.fuzzminimizetime 100x -test.fuzzcachedir "$cache/$package" -test.timeout 0) >"$tmp/log" 2>&1 </dev/null; then
		cat "$tmp/log"
		echo "fuzz.sh: $target of $package failed; its input, if there is one, is in $dir/testdata/fuzz/$target:"
		echo "fuzz.sh: fix what it shows, and commit it; to see it again: go test -run $target $package"
		exit 1
	fi
	sed -n 's/^fuzz: elapsed: \([^,]*\), execs: \([0-9]*\).*/\2 \1/p' "$tmp/log" | tail -n 1 | {
		read -r executions time || executions=0 time=0s
		printf '%9s executions in %-6s %s %s\n' "$executions" "$time" "$package" "$target"
	} | tee -a "$tmp/report"
	count=$((count + 1))
done <"$tmp/targets"
awk -v targets="$count" '{ n += $1 } END { printf "%d targets, %d executions, no failure\n", targets, n }' "$tmp/report"
