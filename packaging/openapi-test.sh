#!/bin/sh
# Holds the running server against its own /openapi.json: schemathesis makes requests that fit and requests that do not,
# and every answer must be one that the document knows.
#
#   sh packaging/openapi-test.sh
#
# Needs Python with venv and pip, and installs schemathesis into a temporary folder. Where that cannot be had it says
# so and passes: the document is also held against the router by the end-to-end tests. Takes under two minutes.
# Programs already built are used if CODITECT_BIN names their folder.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"

# The version that this was written with; a newer one may check more, and must not fail a build by surprise.
version=4.32.5
seconds=30

work= server_pid=
finish() {
    code=$?
    trap - EXIT INT TERM HUP
    if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; fi
    if [ -n "$work" ]; then
        if [ "$code" -ne 0 ] && [ -s "$work/server.log" ]; then tail -n 20 "$work/server.log" >&2; fi
        rm -rf "$work"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# Not $TMPDIR: the path of a unix socket has 107 characters at most.
work=$(mktemp -d /tmp/coditect-openapi-XXXXXX)
# PostgreSQL does not run as root, and the user that it runs as then must pass.
chmod 711 "$work"

if ! python3 -m venv "$work/venv" >/dev/null 2>&1 ||
    ! "$work/venv/bin/pip" install -q --disable-pip-version-check "schemathesis==$version" >"$work/pip.log" 2>&1; then
    say "Skipped: schemathesis $version cannot be installed here (it needs python3 with venv and pip, and PyPI)."
    exit 0
fi

bin=${CODITECT_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug}
[ -x "$bin/coditect-server" ] || fail "build first: cargo build -p coditect-server"
export CODITECT_DATA_DIR="$work/data"
unset CODITECT_DATABASE_URL CODITECT_OWNER_DATABASE_URL CODITECT_LISTEN

"$bin/coditect-server" serve --listen 127.0.0.1:0 >"$work/ready" 2>"$work/server.log" &
server_pid=$!
tries=0
until grep -qs listening "$work/ready"; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] && kill -0 "$server_pid" 2>/dev/null || fail "the server did not start"
    sleep 0.1
done
url=$(sed -n 's/^listening on //p' "$work/ready")

"$bin/coditect-server" tenant create acme >/dev/null
"$bin/coditect-server" user create owner@acme.test --tenant acme --role owner >/dev/null
"$bin/coditect-server" token issue --user owner@acme.test --ttl 1h >"$work/token"
# A file, so that the token is in no process list; schemathesis reads it from there.
cat >"$work/schemathesis.toml" <<EOF
headers = { Authorization = "Bearer $(cat "$work/token")" }
[generation]
# The same requests in every run.
deterministic = true
[checks]
# Rules that a schema cannot say: printable names, a user or a team, whole numbers that are not spelt 1.0.
positive_data_acceptance.enabled = false
[[operations]]
# Takes a parameter that is empty as one that is left out.
include-path = "/api/v1/context/pull"
checks.negative_data_rejection.enabled = false
EOF
chmod 600 "$work/schemathesis.toml"

cd "$work"
# The event stream has no end to wait for; the end-to-end tests read it.
"$work/venv/bin/schemathesis" --config-file "$work/schemathesis.toml" run "$url/openapi.json" \
    --exclude-path /api/v1/context/events --max-time "$seconds" --warnings off --no-color

! grep -q panicked "$work/server.log" || fail "the server panicked"
say "The server answers as its document says."
