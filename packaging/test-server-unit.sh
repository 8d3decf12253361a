#!/bin/sh
# Has a real systemd, as the first process of a system that has nothing else, run the server by its hardened unit, with
# a private PostgreSQL cluster in a state directory that is gone afterwards.
#
#   sh packaging/with-systemd.sh packaging/test-server-unit.sh PROGRAM
#
# PROGRAM is coditect-server.
set -eu

unit=coditect-server.service
here=$(cd "$(dirname "$0")" && pwd)

drive() {
    say() { printf '%s\n' "$*"; }
    fail() {
        printf 'failed: %s\n' "$*" >&2
        systemctl --no-pager status $unit >&2 || true
        tail -n 30 /run/server.log >&2
        exit 1
    }
    shown() { systemctl show $unit --property="$1" --value; }
    # until_is PROPERTY PATTERN: waits until systemd shows it.
    until_is() {
        tries=0
        while :; do
            # shellcheck disable=SC2254
            case $(shown "$1" 2>/dev/null || true) in $2) return ;; esac
            tries=$((tries + 1))
            [ "$tries" -lt 600 ] || fail "waited for $1 to be $2"
            sleep 0.1
        done
    }
    until_is ActiveState active
    until_is StatusText 'listening on *'
    say "ready: $(shown StatusText)"
    pid=$(shown MainPID)
    [ "$(stat -c %U "/proc/$pid")" = coditect ] || fail "it runs as $(stat -c %U "/proc/$pid")"
    for expected in 'NoNewPrivs:	1' 'Seccomp:	2' 'CapBnd:	0000000000000000'; do
        grep -q "^$expected$" "/proc/$pid/status" || fail "the process has not: $expected"
    done
    grep -q ' / ro' "/proc/$pid/mountinfo" || fail "the file system can be written"
    [ "$(readlink "/proc/$pid/ns/user")" != "$(readlink /proc/1/ns/user)" ] || fail "it is not among users of its own"
    say "hardened: no capabilities, system calls filtered, read-only file system, users of its own"

    # What an administrator types.
    as_operator="setpriv --reuid coditect --regid coditect --clear-groups"
    $as_operator "$program" --data-dir /var/lib/coditect tenant create acme >/run/said 2>&1 ||
        { cat /run/said >&2; fail "an administration command"; }
    say "administered while it runs"

    before=$(shown WatchdogTimestampMonotonic)
    tries=0
    until [ "$(shown WatchdogTimestampMonotonic)" -gt "$before" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "no sign of life"
        sleep 0.1
    done
    kill -STOP "$pid"
    tries=0
    until [ "$(shown MainPID)" != "$pid" ] && [ "$(shown ActiveState)" = active ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "it was not started again"
        sleep 0.1
    done
    say "frozen, it was started again by the watchdog"

    systemctl stop $unit
    [ "$(shown Result)" = success ] || fail "the stop ended with $(shown Result)"
    [ ! -e /var/lib/coditect/pg/data/postmaster.pid ] || fail "PostgreSQL was not stopped in good order"
    say "stopped in good order, PostgreSQL too"
}

if [ "${1:-}" = drive ]; then
    program=$2
    code=0
    (drive) || code=$?
    # Ends systemd, the first process in here, and with it all others.
    exec systemctl --force exit $code
fi

cd /
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
cp "$1" /run/coditect-server
sed 's|/usr/bin/coditect-server|/run/coditect-server|' "$here/systemd/$unit" >/etc/systemd/system/$unit
# Nothing else of this machine is started.
mkdir /etc/systemd/system/$unit.d
cat >/etc/systemd/system/$unit.d/test.conf <<END
[Unit]
DefaultDependencies=no
After=
Wants=
[Service]
Environment=CODITECT_LISTEN=127.0.0.1:0
StandardError=append:/run/server.log
WatchdogSec=4
TimeoutAbortSec=2
RestartSec=0
END
printf '[Unit]\nDefaultDependencies=no\nWants=%s\n' $unit >/etc/systemd/system/coditect-test.target
# The user that coditect-server.sysusers makes, for this test alone.
for file in passwd group; do
    cp /etc/$file /run/$file
    sed -i '/^coditect:/d' /run/$file
done
echo 'coditect:x:64998:64998::/var/lib/coditect:/usr/sbin/nologin' >>/run/passwd
echo 'coditect:x:64998:' >>/run/group
for file in passwd group; do mount --bind /run/$file /etc/$file; done

# Beside systemd, which this script turns into.
setsid sh "$here/${0##*/}" drive /run/coditect-server </dev/null &
export container=coditect-test
exec /lib/systemd/systemd --system --log-target=console --log-level=warning --unit=coditect-test.target </dev/null 2>/run/systemd.log
