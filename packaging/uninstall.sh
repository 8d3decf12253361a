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
# As install.sh knows it, however it is written here.
prefix=$(cd "$prefix" 2>/dev/null && pwd || printf '%s' "$prefix")
notes=$prefix/share/coditect-install
[ -f "$notes/installed" ] || { say "Nothing is installed in $prefix."; exit 0; }
forget_environment

chosen() { sed -n "s/^$1=//p" "$notes/chosen"; }
home=$(chosen home) server_data=$(chosen server_data)
server=$prefix/bin/coditect-server sync=$prefix/bin/coditect-sync
is_ours() { grep -qxF -e "$1" "$notes/installed"; }
run_sync() { if [ -n "$home" ]; then "$sync" --home "$home" "$@"; else "$sync" "$@"; fi; }

paths=
if [ -x "$sync" ]; then paths=$(run_sync paths --json 2>/dev/null || true); fi
path_of() { printf '%s' "$paths" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# The daemon first: so it can still say goodbye.
account=$(path_of account)
if [ -n "$account" ]; then stop_detached "$(dirname "$account")/sync.pid" "$sync"; fi
stop_detached "$server_data/server.pid" "$server"
manager=$(service_manager)
if ! stop_services "$manager"; then
    say "not stopped: the manager of this user's services could not be asked; they may still run"
elif [ -z "$account" ]; then
    # Settings that cannot be read hide it.
    say "not stopped: where the daemon's files are could not be found out; it may still run"
else
    say "stopped: both programs"
fi

real() { cd "$1" 2>/dev/null && pwd -P; }
real_prefix=$(real "$prefix") real_home=$(real "$HOME" || true)
# Whether a folder may go if it is empty: never the prefix, the home, or what they lie in.
may_go() {
    there=$(real "$1") || return 1
    case $real_prefix/ in "${there%/}"/*) return 1 ;; esac
    case $real_home/ in "${there%/}"/*) return 1 ;; esac
}

while read -r file; do
    rm -f "$file"
    # Folders that are empty now go too.
    folder=$(dirname "$file")
    while may_go "$folder" && rmdir "$folder" 2>/dev/null; do folder=$(dirname "$folder"); done
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
