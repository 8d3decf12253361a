#!/bin/sh
# Takes away what install.sh installed: services, programs, man pages, completions. Keeps all data, and says where it is.
#
#   sh packaging/uninstall.sh [--prefix DIR]
#
#   --prefix DIR  the one that install.sh was given [default: ~/.local]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"
. "$root/packaging/background.sh"

prefix=$HOME/.local
while [ $# -gt 0 ]; do
    case $1 in
        --prefix)
            [ $# -ge 2 ] || { printf '%s needs a value; see --help\n' "$1" >&2; exit 2; }
            prefix=$2
            shift ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) printf 'unknown option %s; see --help\n' "$1" >&2; exit 2 ;;
    esac
    shift
done
notes=$prefix/share/coditect-install
[ -f "$notes/installed" ] || { say "Nothing is installed in $prefix."; exit 0; }
unset CODITECT_HOME CODITECT_CONTEXT_DB CODITECT_DATA_DIR CODITECT_DATABASE_URL CODITECT_OWNER_DATABASE_URL CODITECT_LISTEN

chosen() { sed -n "s/^$1=//p" "$notes/chosen"; }
home=$(chosen home) server_data=$(chosen server_data) manager=$(chosen manager)
server=$prefix/bin/coditect-server sync=$prefix/bin/coditect-sync
run_sync() { if [ -n "$home" ]; then "$sync" --home "$home" "$@"; else "$sync" "$@"; fi; }

paths=
if [ -x "$sync" ]; then paths=$(run_sync paths --json 2>/dev/null || true); fi
path_of() { printf '%s' "$paths" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

case $manager in
    systemd)
        run_sync service uninstall >/dev/null 2>&1 || true
        systemctl --user disable --now --quiet coditect-server.service 2>/dev/null || true ;;
    launchd)
        run_sync service uninstall >/dev/null 2>&1 || true
        launchctl bootout "gui/$(id -u)/ai.coditect.server" 2>/dev/null || true ;;
    *)
        # The daemon first: so it can still say goodbye.
        account=$(path_of account)
        if [ -n "$account" ]; then stop_detached "$(dirname "$account")/sync.pid" "$sync"; fi
        stop_detached "$server_data/server.pid" "$server" ;;
esac
say "stopped: both programs"

while read -r file; do
    rm -f "$file"
    # Folders that are empty now go too.
    folder=$(dirname "$file")
    while [ "$folder" != "$prefix" ] && [ "$folder" != / ] && rmdir "$folder" 2>/dev/null; do folder=$(dirname "$folder"); done
done <"$notes/installed"
rm -f "$notes/installed" "$notes/chosen"
rmdir "$notes" 2>/dev/null || true
[ "$manager" != systemd ] || systemctl --user daemon-reload 2>/dev/null || true
say "removed: programs, man pages and completions in $prefix"

say "Kept, all of your data:"
for name in context_db state_db config account credentials; do
    file=$(path_of "$name")
    if [ -n "$file" ] && [ -e "$file" ]; then say "  $file"; fi
done
if [ -n "$server_data" ] && [ -d "$server_data" ]; then say "  $server_data (the server's)"; fi
say "Remove these by hand if nobody needs them any more."
