#!/bin/sh
# client.sh URL - the client that the conformance suite judges: what has to do
# with authorization is tokenctl's, the calls of the MCP server are curl's. It
# is for a home of its own, and fails unless all went as the scenario wants.
set -eu
umask 077
url=$1
here=$(cd "$(dirname "$0")" && pwd)
export BROWSER="$here/browser.sh"
cd "$HOME"
exec </dev/null

# The suite waits for whoever has its pipes.
trap 'tokenctl daemon stop' EXIT

die() {
	echo "client.sh: $*" >&2
	exit 1
}

context() { # context NAME - what the suite gave under a name
	printf '%s' "$MCP_CONFORMANCE_CONTEXT" | jq -er --arg name "$1" '.[$name]'
}

call() { # call METHOD [PARAMS] - sets status and challenge
	if token=$(tokenctl get mcp 2>get.err); then
		printf 'Authorization: Bearer %s\n' "$token" >header
	else
		: >header # the first call of a client that has no profile yet
	fi
	params=${2-}
	[ -n "$params" ] || params='{}'
	status=$(printf '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}' "$1" "$params" |
		curl --silent --show-error --max-time 10 --dump-header answer --output body --write-out '%{http_code}' \
			--header @header --header 'Content-Type: application/json' \
			--header 'Accept: application/json, text/event-stream' --data-binary @- "$url")
	challenge=$(tr -d '\r' <answer | sed -n 's/^WWW-Authenticate: //p')
}

want() { # want STATUS METHOD [PARAMS] - call, which must be answered so
	expected=$1
	shift
	call "$@"
	[ "$status" = "$expected" ] || die "$1 was answered with $status, not $expected: $(cat body get.err)"
}

parameter() { # parameter NAME - of the challenge
	printf '%s' "$challenge" | sed -n "s/.*[ ,]$1=\"\([^\"]*\)\".*/\1/p"
}

use() { # what clients do once they have a token
	tokenctl get mcp >/dev/null
	want 200 initialize '{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"tokenctl","version":"1"}}'
	want 200 tools/list
}

login() { # login [OPTION]... - to the server's URL, as the profile mcp
	tokenctl login "$url" --as mcp --yes "$@"
}

more() { # login again, for the scopes of the challenge too
	[ "$(parameter error)" = insufficient_scope ] || die "not a challenge for more scope: $challenge"
	scopes=$(parameter scope)
	set --
	for scope in $scopes; do
		set -- "$@" --scope "$scope"
	done
	tokenctl login mcp --yes "$@"
}

issuer() { # of the authorization server that the MCP server names
	call tools/list
	curl --silent --show-error --fail --max-time 10 "$(parameter resource_metadata)" | jq -er '.authorization_servers[0]'
}

tokenctl init

case $MCP_CONFORMANCE_SCENARIO in
auth/basic-cimd)
	# The document's address is the suite's, and nothing answers there.
	login --client-id https://conformance-test.local/client-metadata.json
	use
	;;
auth/pre-registration)
	context client_secret >secret
	login --client-id "$(context client_id)" --client-secret-file secret
	use
	;;
auth/scope-step-up)
	want 401 tools/list
	login --www-authenticate "$challenge"
	want 200 tools/list
	want 403 tools/call '{"name":"test-tool","arguments":{}}'
	more
	want 200 tools/call '{"name":"test-tool","arguments":{}}'
	;;
auth/scope-retry-limit)
	want 401 tools/list
	login --www-authenticate "$challenge"
	want 403 tools/list
	more
	# It gave no more than before, so there is no third time.
	want 403 tools/list
	;;
auth/resource-mismatch)
	if login 2>login.err; then
		die 'it logged in for another resource'
	fi
	cat login.err >&2
	grep -q 'evil\.example\.com' login.err || die 'the refusal does not name the other resource'
	;;
auth/client-credentials-basic)
	issuer=$(issuer)
	cat >mcp.env <<-EOF
		OAUTH2_ISSUER=$issuer
		OAUTH2_CLIENT_AUTH=client_secret_basic
		CLIENT_ID=$(context client_id)
		CLIENT_SECRET=$(context client_secret)
		OAUTH2_RESOURCE=$url
	EOF
	tokenctl add mcp --file mcp.env
	use
	;;
auth/client-credentials-jwt)
	issuer=$(issuer)
	cat >mcp.env <<-EOF
		OAUTH2_ISSUER=$issuer
		OAUTH2_CLIENT_AUTH=private_key_jwt
		CLIENT_ID=$(context client_id)
		PRIVATE_KEY='$(context private_key_pem)'
		PRIVATE_KEY_ALG=$(context signing_algorithm)
		OAUTH2_RESOURCE=$url
	EOF
	tokenctl add mcp --file mcp.env
	use
	;;
auth/cross-app-access-complete-flow)
	issuer=$(issuer)
	# The identity provider's token says who the user is; from it comes an
	# assertion for the authorization server, from that the access token.
	cat >idp.env <<-EOF
		OAUTH2_ISSUER=$(context idp_issuer)
		OAUTH2_GRANT=token_exchange
		OAUTH2_CLIENT_AUTH=none
		CLIENT_ID=$(context idp_client_id)
		OAUTH2_SUBJECT_TOKEN=$(context idp_id_token)
		OAUTH2_SUBJECT_TOKEN_TYPE=urn:ietf:params:oauth:token-type:id_token
		OAUTH2_REQUESTED_TOKEN_TYPE=urn:ietf:params:oauth:token-type:id-jag
		OAUTH2_AUDIENCE=$issuer
		OAUTH2_RESOURCE=$url
	EOF
	cat >mcp.env <<-EOF
		OAUTH2_ISSUER=$issuer
		OAUTH2_GRANT=jwt_bearer
		OAUTH2_CLIENT_AUTH=client_secret_basic
		CLIENT_ID=$(context client_id)
		CLIENT_SECRET=$(context client_secret)
		OAUTH2_SUBJECT_TOKEN_PROFILE=idp
	EOF
	tokenctl add idp --file idp.env
	tokenctl add mcp --file mcp.env
	use
	;;
*)
	login
	use
	;;
esac
