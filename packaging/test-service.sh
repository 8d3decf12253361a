#!/bin/sh
# Has a real systemd run the daemon as a user's service: installed, watched, started again, removed.
#
#   sh packaging/with-systemd.sh packaging/test-service.sh PROGRAM URL < TOKEN
#
# PROGRAM is a debug build of coditect-sync with fail points, URL and TOKEN lead to a server.
set -eu

program=$1 url=$2
# As whom the service runs; the number need not belong to anybody.
uid=64999

say() { printf '%s\n' "$*"; }
fail() {
    printf 'failed: %s\n' "$*" >&2
    as_user systemctl --user status --no-pager coditect-sync.service >&2 || true
    tail -n 30 /run/systemd.log >&2
    exit 1
}

for cgroup in $CGROUPS; do chown -R $uid:$uid "$cgroup"; done
# A path that no unit holds without some care.
odd='/run/my programs 100% $x'
mkdir "$odd"
cp "$program" "$odd/coditect-sync"
cd /
mkdir -m 700 /run/home /run/user /run/fail
chown $uid:$uid /run/home /run/user /run/fail

as_user() {
    setpriv --reuid $uid --regid $uid --clear-groups env -i PATH="$PATH" HOME=/run/home XDG_RUNTIME_DIR=/run/user "$@"
}
sync() { as_user "$odd/coditect-sync" "$@"; }
shown() { as_user systemctl --user show coditect-sync.service --property="$1" --value; }

# until_is PROPERTY VALUE: waits until systemd shows it.
until_is() {
    tries=0
    until [ "$(shown "$1")" = "$2" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "waited for $1 to be $2"
        sleep 0.1
    done
}
# until_replaced PID: waits until the service is up in another process than this.
until_replaced() {
    tries=0
    until [ "$(shown MainPID)" != "$1" ] && [ "$(shown MainPID)" != 0 ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "process $1 was not replaced"
        sleep 0.1
    done
}
expect() { # CODE COMMAND...
    expected=$1
    shift
    code=0
    "$@" >/run/said 2>&1 || code=$?
    [ "$code" -eq "$expected" ] || { cat /run/said >&2; fail "exit code $code instead of $expected: $*"; }
}
says() { grep -q -- "$1" /run/said || { cat /run/said >&2; fail "it does not say: $1"; }; }

say "without a manager: the unit is written, and it says what to do"
expect 1 sync service install
says "no systemd manager of this user runs here"
expect 3 sync service status
expect 0 sync service uninstall
says "removed"

as_user /lib/systemd/systemd --user --log-target=console >/run/systemd.log 2>&1 </dev/null &
tries=0
until as_user systemctl --user show --property=Version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { tail /run/systemd.log >&2; exit 77; }
    sleep 0.1
done

expect 1 sync service status
says "not installed"

say "install: it is up when the command returns, and says how things stand"
expect 0 sync service install
says "it was started"
until_is ActiveState active
until_is StatusText "needs login"
[ "$(shown UnitFileState)" = enabled ] || fail "it is not enabled"
pid=$(shown MainPID)
expect 0 sync service status
says "process $pid"
says "(this one)"

say "install again: nothing changes"
expect 0 sync service install
says "undisturbed"
[ "$(shown MainPID)" = "$pid" ] || fail "it was started again"

say "it syncs, hardened as it is"
sync login --server "$url" --token-stdin --insecure-storage --json >/run/said 2>&1 || { cat /run/said >&2; fail "login"; }
until_is StatusText "in sync"
printf '{"type":"user","uuid":"%s","sessionId":"%s","timestamp":"2026-01-01T00:00:00.000Z","message":{"role":"user","content":"Hello"}}\n' \
    "11111111-1111-4111-8111-111111111111" "22222222-2222-4222-8222-222222222222" >/run/22222222-2222-4222-8222-222222222222.jsonl
chmod 644 /run/22222222-2222-4222-8222-222222222222.jsonl
expect 0 sync ingest /run/22222222-2222-4222-8222-222222222222.jsonl
expect 0 sync sync --wait
expect 0 sync verify

say "a loop that hangs: the watchdog starts the daemon again"
dropin=/run/home/.config/systemd/user/coditect-sync.service.d
mkdir -p "$dropin"
printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\nRestartSec=0\nEnvironment=CODITECT_FAIL_POINTS=/run/fail\n' >"$dropin/test.conf"
chown -R $uid:$uid "$dropin"
as_user systemctl --user daemon-reload
as_user systemctl --user restart coditect-sync.service
until_is StatusText "in sync"
pid=$(shown MainPID)
touch /run/fail/loop
until_replaced "$pid"
rm /run/fail/loop
until_is StatusText "in sync"
[ "$(shown NRestarts)" -eq 1 ] || fail "$(shown NRestarts) restarts instead of 1"

say "SIGSTOP: the same"
pid=$(shown MainPID)
kill -STOP "$pid"
until_replaced "$pid"
until_is StatusText "in sync"
expect 0 sync sync --wait
expect 0 sync verify

say "install with another home: the unit is replaced and the daemon started again"
pid=$(shown MainPID)
expect 0 sync --home '/run/home/it is 100% $mine' service install
says "replaced"
until_replaced "$pid"
until_is StatusText "needs login"
[ -S '/run/home/it is 100% $mine/sync.sock' ] || fail "it serves another home"

say "uninstall: the data stays"
expect 0 sync service uninstall
says "context.db"
[ -z "$(shown FragmentPath)" ] || fail "the unit is still there"
[ "$(shown ActiveState)" = inactive ] || fail "it still runs"
[ -f /run/home/.local/share/coditect/context.db ] || fail "the data went"
expect 0 sync service uninstall
says "no service is installed"

say "a unit that a package brought is shown, and stopped but not removed"
packaged=/run/home/.local/share/systemd/user/coditect-sync.service
as_user mkdir -p "${packaged%/*}"
printf '[Service]\nType=notify\nExecStart="%s" run\n[Install]\nWantedBy=default.target\n' \
    "/run/my programs 100%% \$x/coditect-sync" >"$packaged"
chmod 644 "$packaged"
as_user systemctl --user daemon-reload
as_user systemctl --user enable --now coditect-sync.service 2>/dev/null
expect 0 sync service status
says "$packaged"
says "(this one)"
expect 0 sync service uninstall
says "belongs to a package"
[ "$(shown ActiveState)" = inactive ] || fail "it still runs"
[ -f "$packaged" ] || fail "the package's file went"
