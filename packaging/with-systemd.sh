#!/bin/sh
# Runs a script as the first process of namespaces of its own, with control groups of its own, in which it can start
# systemd. No service of this machine is touched, and at the end everything that ran in there is dead.
#
#   sh packaging/with-systemd.sh SCRIPT [ARGUMENTS]
#
# The script finds its control groups in $CGROUPS. Exit code 77: it takes root and the package systemd, which are not here.
set -eu
[ "$(id -u)" -eq 0 ] && [ -x /lib/systemd/systemd ] || exit 77
command -v unshare >/dev/null && command -v setpriv >/dev/null || exit 77
CGROUPS=
for root in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    # Only trees of control groups: the last may be a plain folder of them.
    # The same name in each, since systemd takes the one for the other.
    [ -e "$root/cgroup.procs" ] && mkdir "$root/coditect-test.$$" 2>/dev/null || continue
    CGROUPS="$CGROUPS $root/coditect-test.$$"
done
[ -n "$CGROUPS" ] || exit 77
export CGROUPS
code=0
unshare --mount --pid --fork --kill-child --mount-proc sh -c '
    for cgroup in $CGROUPS; do echo $$ >"$cgroup/cgroup.procs"; done
    # Only this process and its children see what lies here from now on. The folder tells systemd that it may run.
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/systemd/system
    exec sh "$@"' inside "$@" || code=$?
# The kernel needs a moment to notice that nobody is in there any more.
for cgroup in $CGROUPS; do
    tries=0
    until find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || [ "$tries" -eq 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
done
exit $code
