#!/bin/sh
# Two workstations and a server on this machine: a transcript goes into one and arrives on the other.
#
#   sh packaging/demo.sh [--check] [--keep] [TRANSCRIPTS]
#
# TRANSCRIPTS is a folder of Claude Code transcripts such as ~/.claude/projects; without it the project's own sample.
#   --check  prove that nothing is missing or doubled, and end; the exit code tells
#   --keep   leave the temporary folder behind
#
# Everything lives in one temporary folder, which goes at the end together with all processes. Programs already built
# are used if CODITECT_BIN names their folder.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"

check=no keep=no transcripts=
for argument; do
    case $argument in
        --check) check=yes ;;
        --keep) keep=yes ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) printf 'unknown option %s; see --help\n' "$argument" >&2; exit 2 ;;
        *) transcripts=$argument ;;
    esac
done
[ -n "$transcripts" ] || transcripts=$root/packaging/sample
[ -d "$transcripts" ] || { printf '%s is no folder\n' "$transcripts" >&2; exit 2; }
transcripts=$(cd "$transcripts" && pwd)

demo= server_pid= a_pid= b_pid=

# Stops a process of ours: asks, and after ten seconds insists.
stop() {
    [ -n "$1" ] && kill "$1" 2>/dev/null || return 0
    tries=0
    while kill -0 "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -ne 100 ] || kill -9 "$1" 2>/dev/null || true
        sleep 0.1
    done
}

finish() {
    code=$?
    trap - EXIT
    # Not ignored, which the programs started from here would inherit.
    trap : INT TERM HUP
    # Workstations first: so each of them can still say goodbye.
    stop "$a_pid"; stop "$b_pid"; stop "$server_pid"
    if [ -n "$demo" ]; then
        if [ "$code" -ne 0 ]; then
            for log in "$demo"/*.log; do
                [ -s "$log" ] || continue
                printf -- '--- end of %s\n' "$log" >&2
                tail -n 20 "$log" >&2
            done
        fi
        if [ "$keep" = yes ]; then say "Kept: $demo"; else rm -rf "$demo"; fi
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

need_postgres
psql=$(postgres_programs)
psql=${psql:+$psql/}psql
if [ -n "${CODITECT_BIN:-}" ]; then
    bin=$CODITECT_BIN
else
    need_rust
    say "Building both programs. The first time this takes some five to ten minutes."
    (cd "$root" && cargo build --release --locked --bins)
    bin=${CARGO_TARGET_DIR:-$root/target}/release
fi
for program in coditect-server coditect-sync; do
    [ -x "$bin/$program" ] || fail "$bin/$program is missing"
done

# Nothing of this shell's environment may lead the programs elsewhere.
unset CODITECT_HOME CODITECT_CONTEXT_DB CODITECT_DATA_DIR CODITECT_DATABASE_URL CODITECT_OWNER_DATABASE_URL CODITECT_LISTEN

# Not $TMPDIR: the path of a unix socket has 107 characters at most. Others may pass through the folder, since for root
# PostgreSQL runs as another user; what is inside is closed to them.
demo=$(mktemp -d /tmp/coditect-demo.XXXXXX)
chmod 711 "$demo"
mkdir -m 700 "$demo/a" "$demo/b"

server() { "$bin/coditect-server" --data-dir "$demo/server" "$@"; }
a() { "$bin/coditect-sync" --home "$demo/a" "$@"; }
b() { "$bin/coditect-sync" --home "$demo/b" "$@"; }

# field SECTION NAME: a number or text out of the JSON on standard input, from the object SECTION (or the top: '').
field() {
    flat=$(tr -d '\n' | sed 's/": */":/g; s/, *"/,"/g; s/{ */{/g')
    [ -z "$1" ] || flat=$(printf '%s' "$flat" | sed -n "s/.*\"$1\":{\([^{}]*\).*/\1/p")
    printf '%s' "$flat" | sed -n "s/.*\"$2\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# Milliseconds since 1970. `date` of macOS knows no nanoseconds, but it has perl.
now_ms() {
    nanoseconds=$(date +%s%N 2>/dev/null || true)
    case $nanoseconds in
        '' | *[!0-9]*) perl -MTime::HiRes=time -e 'printf "%d\n", time * 1000' ;;
        *) printf '%s\n' "$((nanoseconds / 1000000))" ;;
    esac
}

say "Starting a server with a PostgreSQL cluster of its own in $demo"
mkfifo "$demo/ready"
# Not by the function: then the process to stop would be a shell around the program.
"$bin/coditect-server" --data-dir "$demo/server" serve --listen 127.0.0.1:0 >"$demo/ready" 2>"$demo/server.log" &
server_pid=$!
# Held open, so that the server never writes into nothing.
exec 3<"$demo/ready"
read -r line <&3 || fail "the server did not start"
url=${line#listening on }
tenant=$(server tenant create acme --json | field '' tenant_id)
user=$(server user create demo@acme.test --tenant acme --role member --json | field '' user_id)

start_workstation() { # NAME
    server token issue --user demo@acme.test --ttl 24h |
        "$1" login --server "$url" --token-stdin --insecure-storage --yes >/dev/null
    "$bin/coditect-sync" --home "$demo/$1" run >"$demo/$1.log" 2>&1 &
}
say "Starting workstations A and B, logged in as demo@acme.test (the token lies in the folder and goes with it)"
start_workstation a; a_pid=$!
start_workstation b; b_pid=$!
for name in a b; do
    tries=0
    until "$name" status --json >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "workstation $name does not answer"
        sleep 0.1
    done
done

say ""
say "A reads the transcripts in $transcripts"
a ingest "$transcripts"
begun=$(now_ms)
a sync --wait --timeout 300s >/dev/null
b sync --wait --timeout 300s >/dev/null
done_ms=$(($(now_ms) - begun))

# One more message, and how long it takes from the end of A's command until B has it.
arrived_before=$(b status --json | field pull rows_total)
mkdir "$demo/one"
printf '{"type":"user","uuid":"%s","sessionId":"%s","timestamp":"2026-01-01T00:00:00.000Z","message":{"role":"user","content":"Hello from workstation A"}}\n' \
    "11111111-1111-4111-8111-111111111111" "22222222-2222-4222-8222-222222222222" >"$demo/one/22222222-2222-4222-8222-222222222222.jsonl"
a ingest "$demo/one" >/dev/null
begun=$(now_ms)
tries=0
until [ "$(b status --json | field pull rows_total)" != "$arrived_before" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 2000 ] || fail "the message did not arrive on B"
    sleep 0.01
done
latency_ms=$(($(now_ms) - begun))
a sync --wait --timeout 60s >/dev/null
b sync --wait --timeout 60s >/dev/null

a verify --json >"$demo/a.verify" || { cat "$demo/a.verify"; fail "A differs from the cloud"; }
b verify --json >"$demo/b.verify" || { cat "$demo/b.verify"; fail "B differs from the cloud"; }

# verified NAME TABLE FIELD: what `verify` said of a table.
verified() { sed -n "s/.*{\"table\":\"$2\",\([^}]*\)}.*/\1/p" "$demo/$1.verify" | field '' "$3"; }
messages=$(verified b messages here)
tasks=$(verified b tasks here)
links=$(verified b task_messages here)
[ "$messages" -gt 1 ] || fail "the transcripts hold no message"

say ""
say "B has $messages messages, $tasks tasks and $links links, $done_ms ms after A had begun to send them."
say "One more message took $latency_ms ms from the end of A's command to B's file."
say "Digests of all rows:"
for table in messages tasks task_messages; do
    printf '  %-14s %s on A, %s on B, %s in the cloud\n' "$table" \
        "$(verified a $table digest_here)" "$(verified b $table digest_here)" "$(verified b $table digest_cloud)"
done
cmp -s "$demo/a.verify" "$demo/b.verify" || fail "A and B differ"
say "Equal on A, on B and in the cloud."

# Row level security binds the owner too: without tenant and user he sees nothing.
as_user="-c app.tenant_id=$tenant -c app.user_id=$user"
if [ "$check" = no ]; then
    say ""
    say "Go on by hand, in another terminal:"
    say "  $bin/coditect-sync --home $demo/b status --watch"
    say "  $bin/coditect-sync --home $demo/a ingest ~/.claude/projects"
    say "  PGOPTIONS='$as_user' $psql \"\$($bin/coditect-server --data-dir $demo/server database-url)\""
    say "Enter ends the demo and removes everything."
    read -r _ || true
    exit 0
fi

# From here on: the proof. Any step that does not hold ends with a code other than 0.

holds() { # WHAT GOT EXPECTED
    [ "$2" = "$3" ] || fail "$1: $2, but $3 were expected"
    say "  $1: $2"
}

if command -v sqlite3 >/dev/null 2>&1; then
    say ""
    say "Column by column, as sqlite3 reads them, B holds what A holds:"
    rows_of() {
        case $2 in
            messages) what="hash, session_id, role, content, source_type, source_file, checkpoint, timestamp, extracted_at,
                content_length, has_code, has_markdown, agent_context FROM messages ORDER BY hash" ;;
            tasks) what="* FROM task_tracking ORDER BY id" ;;
            links) what="l.task_id, m.hash, l.sequence FROM task_messages l LEFT JOIN messages m ON m.id = l.message_id
                ORDER BY l.task_id, m.hash" ;;
        esac
        sqlite3 "$demo/$1/context.db" "SELECT $what" | cksum
    }
    for table in messages tasks links; do
        holds "$table, checksum and bytes" "$(rows_of b $table)" "$(rows_of a $table)"
    done
fi

say ""
say "Each row stands once in PostgreSQL:"
owner_url=$(server database-url)
in_cloud() { PGOPTIONS=$as_user "$psql" -X -q -A -t -v ON_ERROR_STOP=1 -c "$1" "$owner_url"; }
origin="session_id, origin_hash, origin_occurrence"
holds "messages in the cloud" "$(in_cloud "SELECT count(*) FROM context_messages")" "$messages"
holds "tasks in the cloud" "$(in_cloud "SELECT count(*) FROM context_task_tracking")" "$tasks"
holds "links in the cloud" "$(in_cloud "SELECT count(*) FROM context_task_messages")" "$links"
holds "different messages in the cloud" "$(in_cloud "SELECT count(*) FROM (SELECT DISTINCT $origin FROM context_messages) AS m")" "$messages"
holds "different tasks in the cloud" "$(in_cloud "SELECT count(DISTINCT id) FROM context_task_tracking")" "$tasks"

say "A second ingest on A, and one on B, send nothing:"
head_before=$(in_cloud "SELECT max(head) FROM context_heads")
for name in a b; do
    sent_before=$("$name" status --json | field push rows_total)
    "$name" ingest "$transcripts" >/dev/null
    "$name" ingest "$demo/one" >/dev/null
    "$name" sync --wait --timeout 300s >/dev/null
    holds "rows sent by $name" "$("$name" status --json | field push rows_total)" "$sent_before"
    holds "rows waiting on $name" "$("$name" status --json | field outbox pending)" 0
    "$name" verify --json >"$demo/$name.again" || fail "$name differs from the cloud"
    cmp -s "$demo/$name.again" "$demo/$name.verify" || fail "verify on $name has another answer than before"
done
holds "head" "$(in_cloud "SELECT max(head) FROM context_heads")" "$head_before"
say "All of it holds."
