#!/bin/sh
# Installs into a scratch home as a user would, and proves that it works: a growing transcript arrives in `sessions`, in
# PostgreSQL and on a second home; a second run changes nothing; uninstall.sh leaves nothing but the data.
#
#   sh packaging/install-test.sh
#
# Nothing outside a temporary folder is touched. Programs already built are used if CODITECT_BIN names their folder.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"
. "$root/packaging/background.sh"

need_postgres
psql=$(postgres_programs)
psql=${psql:+$psql/}psql
if [ -n "${CODITECT_BIN:-}" ]; then
    bin=$CODITECT_BIN
else
    need_rust
    (cd "$root" && cargo build --release --locked --bins)
    bin=${CARGO_TARGET_DIR:-$root/target}/release
fi
unset CODITECT_BIN

# Not $TMPDIR: the path of a unix socket has 107 characters at most. For root PostgreSQL runs as another user, who has to
# pass through.
scratch=$(mktemp -d /tmp/coditect-install.XXXXXX)
chmod 711 "$scratch"
home=$scratch/home
mkdir -m 711 "$home"
mkdir -m 700 "$scratch/run"
prefix=$home/.local second_pid=$scratch/second.pid
finish() {
    code=$?
    trap - EXIT
    trap : INT TERM HUP
    stop_detached "$second_pid" "$prefix/bin/coditect-sync"
    stop_detached "$home/.local/share/coditect/sync.pid" "$prefix/bin/coditect-sync"
    stop_detached "$scratch/server/server.pid" "$prefix/bin/coditect-server"
    if [ "$code" -ne 0 ]; then
        for log in "$scratch"/*.log "$scratch"/server/*.log "$home"/.local/share/coditect/*.log; do
            [ -s "$log" ] || continue
            printf -- '--- end of %s\n' "$log" >&2
            tail -n 20 "$log" >&2
        done
    fi
    rm -rf "$scratch"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What this machine's user has is not seen by anything below.
export HOME="$home" XDG_CONFIG_HOME="$home/.config" XDG_DATA_HOME="$home/.local/share" XDG_STATE_HOME="$home/.local/state"
export XDG_CACHE_HOME="$home/.cache" XDG_RUNTIME_DIR="$scratch/run"
unset DBUS_SESSION_BUS_ADDRESS
forget_environment

port=$((20000 + $$ % 20000))
install() {
    sh "$root/packaging/install.sh" --local --no-service --programs "$bin" --server-data "$scratch/server" \
        --listen "127.0.0.1:$port" "$@" </dev/null
}
sync() { "$prefix/bin/coditect-sync" "$@"; }

say "== what is refused, before anything is changed"
code=0
install --listen "0.0.0.0:$port" >"$scratch/refused.log" 2>&1 || code=$?
[ "$code" -eq 2 ] || { cat "$scratch/refused.log"; fail "a local server would be open to the network (exit code $code)"; }
mkdir -p "$prefix/bin"
echo "somebody else's" >"$prefix/bin/coditect-server"
if install >"$scratch/refused.log" 2>&1; then fail "it replaces a program that it did not install"; fi
grep -q 'move it away' "$scratch/refused.log" || { cat "$scratch/refused.log"; fail "it does not say what to do"; }
grep -q "somebody else's" "$prefix/bin/coditect-server" || fail "it replaced a program that it did not install"
rm "$prefix/bin/coditect-server"
cat "$scratch/refused.log"

say ""
say "== a first installation"
install >"$scratch/first.log" 2>&1 || { cat "$scratch/first.log"; fail "the installation failed"; }
cat "$scratch/first.log"
grep -q '^safe: ' "$scratch/first.log" || fail "it does not end with the status"

say ""
say "== a growing transcript"
session=5f0c6f57-2d3c-4c8b-9a3d-6c1a6b0f9e01
transcript=$home/.claude/projects/-home-ada-code-shop/$session.jsonl
line() {
    printf '{"type":"user","uuid":"%s","sessionId":"%s","timestamp":"2026-11-24T08:00:00.000Z","cwd":"/home/ada/code/shop","message":{"role":"user","content":"%s"}}\n' \
        "11111111-1111-4111-8111-00000000000$1" "$session" "$2"
}
mkdir -p "$(dirname "$transcript")"
line 1 "the first line" >>"$transcript"
has() { # LINES COMMAND…: whether the session is listed with so many messages
    lines=$1
    shift
    "$@" sessions --json | tr -d ' \n' | grep -q "\"session_id\":\"$session\"[^}]*\"messages\":${lines}[,}]"
}
wait_for "the first line" 600 has 1 sync || { sync sessions --json; fail "the first line is not in \`sessions\`"; }
# Half a line, and its end.
# shellcheck disable=SC2129 # opened anew for each piece, as by Claude Code
line 2 "the second line" | head -c 100 >>"$transcript"
line 2 "the second line" | tail -c +101 >>"$transcript"
line 3 "the third line" >>"$transcript"
wait_for "the third line" 600 has 3 sync || { sync sessions --json; fail "the third line is not in \`sessions\`"; }
say "in \`sessions\`: three lines"

account=$(sync paths --json | sed -n 's/.*"account":"\([^"]*\)".*/\1/p')
field() { tr -d ' \n' <"$account" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
# Row level security binds the owner too: without tenant and user he sees nothing.
in_cloud() {
    [ "$(PGOPTIONS="-c app.tenant_id=$(field tenant_id) -c app.user_id=$(field user_id)" "$psql" -qtAX \
        "$("$prefix/bin/coditect-server" --data-dir "$scratch/server" database-url)" \
        -c "SELECT count(*) FROM context_messages WHERE session_id = '$session'")" = 3 ]
}
wait_for "PostgreSQL" 600 in_cloud || fail "the three lines are not in PostgreSQL"
say "in PostgreSQL: three lines"

email=$(field user)
"$prefix/bin/coditect-server" --data-dir "$scratch/server" token issue --user "$email" --ttl 1h 2>/dev/null |
    sync --home "$scratch/second" login --server "http://127.0.0.1:$port" --token-stdin --insecure-storage --yes >/dev/null
start_detached "$second_pid" "$scratch/second.log" "$prefix/bin/coditect-sync" --home "$scratch/second" run
wait_for "the second home" 600 has 3 sync --home "$scratch/second" ||
    { sync --home "$scratch/second" sessions --json; sync --home "$scratch/second" status; fail "the three lines are not on the second home"; }
say "on a second home: three lines"

say ""
say "== a second run changes nothing"
# Of what is written by us and not by what runs: programs, notes, settings, login; and which processes run.
state() {
    find "$prefix/bin" "$prefix/share" "$home/.config" -type f ! -name '*.db*' ! -name '*.log' ! -name '*.lock' -exec cksum {} + | sort
    find "$prefix/bin" "$prefix/share/coditect-install/installed" "$home/.config" "$account" -newer "$scratch/mark"
    cat "$scratch/server/server.pid" "$(dirname "$account")/sync.pid"
}
touch "$scratch/mark"
state >"$scratch/before"
install >"$scratch/again.log" 2>&1 || { cat "$scratch/again.log"; fail "the second run failed"; }
state >"$scratch/after"
cmp "$scratch/before" "$scratch/after" || { diff "$scratch/before" "$scratch/after"; cat "$scratch/again.log"; fail "the second run changed something"; }
if grep -E '^(installed|started|made|logged in)' "$scratch/again.log"; then fail "the second run says that it did something"; fi
grep '^already\|already,' "$scratch/again.log"

say ""
say "== an upgrade starts again what changed, and nothing else"
mkdir "$scratch/newer"
cp "$bin/coditect-server" "$bin/coditect-sync" "$scratch/newer"
# upgrade LOG COMMAND…: notes which processes ran before.
upgrade() {
    log=$scratch/$1.log
    shift
    server_before=$(cat "$scratch/server/server.pid") sync_before=$(cat "$(dirname "$account")/sync.pid")
    "$@" >"$log" 2>&1 </dev/null || { cat "$log"; fail "the upgrade failed"; }
    is_running "$scratch/server/server.pid" "$prefix/bin/coditect-server" || { cat "$log"; fail "no server runs"; }
    is_running "$(dirname "$account")/sync.pid" "$prefix/bin/coditect-sync" || { cat "$log"; fail "no daemon runs"; }
}
server_is_same() { [ "$(cat "$scratch/server/server.pid")" = "$server_before" ]; }
sync_is_same() { [ "$(cat "$(dirname "$account")/sync.pid")" = "$sync_before" ]; }
# A byte after its end changes a program's file and not what it does.
printf x >>"$scratch/newer/coditect-sync"
upgrade newer-sync install --programs "$scratch/newer"
server_is_same || fail "the server was started again without need"
if sync_is_same; then fail "the daemon still runs the program of before"; fi
printf x | tee -a "$scratch/newer/coditect-sync" >>"$scratch/newer/coditect-server"
upgrade newer-both sh "$root/packaging/install.sh" --programs "$scratch/newer"
if server_is_same; then fail "without --local the server still runs the program of before"; fi
if sync_is_same; then fail "without --local the daemon still runs the program of before"; fi
grep '^started' "$scratch/newer-both.log"
upgrade newer-same sh "$root/packaging/install.sh" --programs "$scratch/newer"
server_is_same || fail "the server was started again without need"
sync_is_same || fail "the daemon was started again without need"

say ""
say "== only what was asked for is remembered"
sh "$root/packaging/install.sh" --prefix "$scratch/other" --programs "$bin" >"$scratch/other.log" 2>&1 </dev/null ||
    { cat "$scratch/other.log"; fail "the installation failed"; }
grep -qx 'no_service=' "$scratch/other/share/coditect-install/chosen" ||
    fail "that no service manager was there at first is remembered as a wish"
sh "$root/packaging/uninstall.sh" --prefix "$scratch/./other/" >"$scratch/other.log" 2>&1 || { cat "$scratch/other.log"; fail "uninstalling failed"; }
[ -z "$(find "$scratch/other" ! -type d)" ] || fail "something of it was left behind"
is_running "$scratch/server/server.pid" "$prefix/bin/coditect-server" || fail "it stopped another installation's server"
is_running "$(dirname "$account")/sync.pid" "$prefix/bin/coditect-sync" || fail "it stopped another installation's daemon"

say ""
say "== a login that has ended is made anew"
sync logout >/dev/null
install >"$scratch/renewed.log" 2>&1 || { cat "$scratch/renewed.log"; fail "the run failed"; }
grep '^logged in as' "$scratch/renewed.log" || fail "it was not made anew"
grep -q '"sign_in_device": *"' "$account" || fail "the login does not renew itself"

say ""
say "== uninstall"
cp "$scratch/server/server.pid" "$(dirname "$account")/sync.pid" "$scratch"
context_db=$(sync paths --json | sed -n 's/.*"context_db":"\([^"]*\)".*/\1/p')
stop_detached "$second_pid" "$prefix/bin/coditect-sync"
# However the prefix is written.
sh "$root/packaging/uninstall.sh" --prefix "$prefix/" >"$scratch/uninstall.log" 2>&1 || { cat "$scratch/uninstall.log"; fail "uninstalling failed"; }
cat "$scratch/uninstall.log"
if is_running "$scratch/server.pid" "$prefix/bin/coditect-server"; then fail "the server still runs"; fi
if is_running "$scratch/sync.pid" "$prefix/bin/coditect-sync"; then fail "the daemon still runs"; fi
left=$(find "$prefix" -type f ! -path "$(dirname "$account")/*" -o -type f -name 'coditect-s*')
[ -z "$left" ] || { printf '%s\n' "$left"; fail "these were left behind"; }
for kept in "$context_db" "$account" "$home/.config/coditect/config.toml" "$scratch/server"; do
    [ -e "$kept" ] || fail "$kept is gone"
    grep -qF "$kept" "$scratch/uninstall.log" || fail "it does not say where $kept is"
done
sh "$root/packaging/uninstall.sh" | grep -q '^Nothing is installed' || fail "a second time it finds something"
say ""
say "Installed, followed, synced, installed again without a change, and uninstalled with all data kept."
