#!/bin/sh
# Installs coditect-sync and coditect-server for this user.
#
#   sh packaging/install.sh [--local] [OPTION…]
#
#   --local            also a server of your own on this machine: PostgreSQL, tenant, user, login, both programs in the
#                      background, and Claude Code's transcripts followed; ends with the status
#   --prefix DIR       where programs, man pages and completions go [default: ~/.local]
#   --home DIR         folder of everything of this workstation [default: the platform's folders]
#   --server-data DIR  folder of the server's data [default: the platform's; /var/lib/coditect for root]
#   --listen ADDR      where the local server listens, on this machine only [default: 127.0.0.1:8377]
#   --programs DIR     install the programs in DIR instead of building them
#   --no-service       run in the background without systemd or launchd
#   --yes              do not ask before PostgreSQL is installed for the whole machine, where it is missing
#
# Run again it changes only what is not as it should be. uninstall.sh takes all away but your data.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"
. "$root/packaging/background.sh"

is_local=no yes=no no_service='' programs=${CODITECT_BIN:-}
prefix='' home='' server_data='' listen=''
while [ $# -gt 0 ]; do
    case $1 in
        --local) is_local=yes ;;
        --yes) yes=yes ;;
        --no-service) no_service=yes ;;
        --prefix | --home | --server-data | --listen | --programs)
            [ $# -ge 2 ] || { printf '%s needs a value; see --help\n' "$1" >&2; exit 2; }
            case $1 in
                --prefix) prefix=$2 ;;
                --home) home=$2 ;;
                --server-data) server_data=$2 ;;
                --listen) listen=$2 ;;
                --programs) programs=$2 ;;
            esac
            shift ;;
        -h | --help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) printf 'unknown option %s; see --help\n' "$1" >&2; exit 2 ;;
    esac
    shift
done
[ -n "${HOME:-}" ] || fail "HOME is not set: whose programs are these to be?"

# Made if it is missing, and told by its whole path.
whole() { mkdir -p "$1"; (cd "$1" && pwd); }

prefix=$(whole "${prefix:-$HOME/.local}")
# Not share/coditect, which holds the data of most people.
notes=$prefix/share/coditect-install
# What was chosen at the first time holds until something else is chosen.
chosen() { [ ! -f "$notes/chosen" ] || sed -n "s/^$1=//p" "$notes/chosen"; }
[ -z "$home" ] || home=$(whole "$home")
[ -n "$home" ] || home=$(chosen home)
[ -n "$server_data" ] || server_data=$(chosen server_data)
[ -n "$listen" ] || listen=$(chosen listen)
[ -n "$no_service" ] || no_service=$(chosen no_service)
listen=${listen:-127.0.0.1:8377}
# Asked each time: a first run over SSH may find no manager where a later one does.
if [ "$no_service" = yes ]; then manager=none; else manager=$(service_manager); fi
if [ -z "$server_data" ]; then
    if [ "$(id -u)" -eq 0 ]; then server_data=/var/lib/coditect
    elif [ "$(uname -s)" = Darwin ]; then server_data=$HOME/Library/Application\ Support/coditect/server
    else server_data=${XDG_DATA_HOME:-$HOME/.local/share}/coditect/server
    fi
fi

case $prefix$home$server_data in
    *"
"*) printf 'a folder with a line break in its name cannot be used\n' >&2; exit 2 ;;
esac
# This server speaks no TLS: what it takes and gives must not leave the machine.
if [ "$is_local" = yes ] &&
    ! printf '%s\n' "$listen" | grep -Eqx '(127(\.[0-9]{1,3}){3}|\[::1\]):[0-9]{1,5}'; then
    printf '%s is not of this machine: --local takes 127.0.0.1:PORT or [::1]:PORT, since such a server has no TLS\n' \
        "$listen" >&2
    exit 2
fi
forget_environment

say "Installing coditect-sync and coditect-server into $prefix."
if [ "$is_local" = yes ]; then
    say "And a server for you alone, on $listen with its data in $server_data. What is read stays on this machine."
fi

# --- Programs, man pages, completions

if [ -z "$programs" ]; then
    need_rust
    say "Building both programs. The first time this takes some five to ten minutes."
    (cd "$root" && cargo build --release --locked --bins)
    programs=${CARGO_TARGET_DIR:-$root/target}/release
fi
for program in coditect-server coditect-sync; do
    [ -x "$programs/$program" ] || fail "$programs/$program is missing"
done

mkdir -p "$notes"
[ -f "$notes/installed" ] || : >"$notes/installed"

is_ours() { grep -qxF -e "$1" "$notes/installed"; }
# put FILE MODE DESTINATION: in one step, so that nobody meets half a file and a program that runs goes on undisturbed.
# Fails if it is there already. A file that came from elsewhere is not ours to replace, nor to remove one day.
put() {
    if cmp -s "$1" "$3"; then return 1; fi
    if ! is_ours "$3"; then
        if [ -e "$3" ] || [ -L "$3" ]; then
            fail "$3 is there already and was not installed into $prefix by this script: move it away, then run this again"
        fi
        printf '%s\n' "$3" >>"$notes/installed"
    fi
    mkdir -p "$(dirname "$3")"
    cp "$1" "$3.new.$$"
    chmod "$2" "$3.new.$$"
    mv -f "$3.new.$$" "$3"
}

changed=
for program in coditect-server coditect-sync; do
    if put "$programs/$program" 755 "$prefix/bin/$program"; then
        changed="$changed $program"
        say "installed: $prefix/bin/$program"
    else
        say "already there: $prefix/bin/$program"
    fi
done
server=$prefix/bin/coditect-server sync=$prefix/bin/coditect-sync

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

pages=0 share=$prefix/share
completion() { # PROGRAM SHELL DESTINATION
    "$prefix/bin/$1" completions "$2" >"$scratch/completion"
    if put "$scratch/completion" 644 "$3"; then pages=$((pages + 1)); fi
}
mkdir "$scratch/man"
for program in coditect-server coditect-sync; do
    completion "$program" bash "$share/bash-completion/completions/$program"
    completion "$program" zsh "$share/zsh/site-functions/_$program"
    completion "$program" fish "$share/fish/vendor_completions.d/$program.fish"
    "$prefix/bin/$program" man --dir "$scratch/man" >/dev/null
done
for page in "$scratch"/man/*.1; do
    if put "$page" 644 "$share/man/man1/${page##*/}"; then pages=$((pages + 1)); fi
done
if [ "$pages" -gt 0 ]; then
    say "installed: man pages and completions for bash, zsh and fish, in $share"
else
    say "already there: man pages and completions, in $share"
fi
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) say "note: $prefix/bin is not in your PATH; add this to your shell's profile: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac

run_sync() { if [ -n "$home" ]; then "$sync" --home "$home" "$@"; else "$sync" "$@"; fi; }

printf 'home=%s\nserver_data=%s\nlisten=%s\nno_service=%s\n' "$home" "$server_data" "$listen" "$no_service" >"$scratch/chosen"
put "$scratch/chosen" 600 "$notes/chosen" || true

# --- What runs already goes on with the new program

was_changed() { case "$changed " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
# is_outdated PROGRAM PID: also one that an earlier run replaced, and was then ended.
is_outdated() {
    was_changed "$1" || case $(readlink "/proc/$2/exe" 2>/dev/null) in *" (deleted)") true ;; *) false ;; esac
}
paths=$(run_sync paths --json)
path_of() { printf '%s' "$paths" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
account=$(path_of account)
sync_folder=$(dirname "$account")
sync_pid=$sync_folder/sync.pid server_pid=$server_data/server.pid

# renew_service PROGRAM: a service that does not run is left alone, and so is one of another installation.
renew_service() {
    case $manager in
        systemd)
            pid=$(systemctl --user show --property=MainPID --value "$1.service" 2>/dev/null) || return 0
            if runs_from "${pid:-0}" "$prefix/bin/$1" && is_outdated "$1" "$pid"; then
                # Not waited for: while context.db cannot be opened the daemon goes on starting.
                systemctl --user try-restart --no-block "$1.service"
                say "started again: the service $1"
            fi ;;
        launchd)
            agent=gui/$(id -u)/ai.coditect.${1#coditect-}
            pid=$(launchctl print "$agent" 2>/dev/null | sed -n 's/^[[:space:]]*pid = \([0-9]*\)$/\1/p')
            if [ -n "$pid" ] && was_changed "$1" && runs_from "$pid" "$prefix/bin/$1"; then
                launchctl kickstart -k "$agent"
                say "started again: the agent ${agent##*/}"
            fi ;;
    esac
}

listens() { grep -qxF "listening on http://$listen" "$server_data/server.out" 2>/dev/null; }
start_server_detached() {
    : >"$server_data/server.out"
    # shellcheck disable=SC2016 # the inner shell is the one to put in the values
    start_detached "$server_pid" "$server_data/server.log" \
        sh -c 'exec "$0" --data-dir "$1" serve --listen "$2" >"$1/server.out"' "$server" "$server_data" "$listen"
    # A first start makes the PostgreSQL cluster.
    listens_or_ended() { listens || has_ended "$server_pid"; }
    wait_for "the server" 1200 listens_or_ended || true
    if ! listens; then
        tail -n 20 "$server_data/server.log" >&2
        fail "the server did not start, see above; its log is $server_data/server.log"
    fi
    say "started: the server, on http://$listen (process $(cat "$server_pid"), log in $server_data/server.log)"
}
start_sync_detached() {
    if [ -n "$home" ]; then set -- --home "$home" run; else set -- run; fi
    start_detached "$sync_pid" "$sync_folder/sync.log" "$sync" "$@"
    wait_for "the daemon" 300 run_sync status ||
        { tail -n 20 "$sync_folder/sync.log" >&2; fail "the daemon did not start"; }
    say "started: the daemon (process $(cat "$sync_pid"), log in $sync_folder/sync.log)"
}
is_outdated_detached() { is_running "$2" "$prefix/bin/$1" && is_outdated "$1" "$(cat "$2")"; }

if [ "$is_local" = no ]; then
    if is_outdated_detached coditect-server "$server_pid"; then
        stop_detached "$server_pid" "$server"
        start_server_detached
    fi
    renew_service coditect-server
    if is_outdated_detached coditect-sync "$sync_pid"; then
        stop_detached "$sync_pid" "$sync"
        start_sync_detached
    fi
    renew_service coditect-sync
    say ""
    say "Next: log in to a server with \`coditect-sync login --server URL\`, then \`coditect-sync service install\`."
    say "Or, for a server of your own on this machine: sh packaging/install.sh --local"
    exit 0
fi

# --- A server of one's own

# A package for the whole machine is the one thing that is asked about, where somebody can answer.
if [ "$yes" = no ] && [ -t 0 ] && [ -z "$(postgres_programs)" ] && ! command -v initdb >/dev/null 2>&1; then
    printf 'PostgreSQL is missing and will be installed for the whole machine. Go on? [Y/n] '
    read -r answer
    case $answer in '' | y | Y | yes) ;; *) fail "Then there is no server of your own. The programs are installed." ;; esac
fi
need_postgres
mkdir -p "$server_data"
server_data=$(cd "$server_data" && pwd)
url=http://$listen
run_server() { "$server" --data-dir "$server_data" "$@"; }

# As systemd reads it back for one word. In an argument a dollar would begin a variable; in the program it stands for
# itself.
unit_program() { printf '"%s"' "$(printf '%s' "$1" | sed -e 's/[\\"]/\\&/g' -e 's/%/%%/g')"; }
unit_word() { unit_program "$1" | sed 's/\$/$$/g'; }
# As a property list takes it.
xml_text() { printf '%s' "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g'; }

answers() { run_sync doctor --json 2>/dev/null | grep -q "$1"; }

start_server() {
    # From one way to the other: nothing may run twice.
    if [ "$manager" != none ]; then
        stop_detached "$sync_pid" "$sync"
        stop_detached "$server_pid" "$server"
    elif [ "$no_service" = yes ]; then
        stop_services "$(service_manager)" ||
            say "note: the manager of this user's services could not be asked; those of before may still run"
    fi
    case $manager in
        systemd)
            units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
            line="ExecStart=$(unit_program "$server") --data-dir $(unit_word "$server_data") serve --listen $listen"
            # Not with -v, which reads backslashes its own way.
            line=$line awk '/^ExecStart=/ { print ENVIRON["line"]; next } { print }' \
                "$root/packaging/systemd/user/coditect-server.service" >"$scratch/unit"
            if put "$scratch/unit" 644 "$units/coditect-server.service"; then
                systemctl --user daemon-reload
                systemctl --user enable --quiet coditect-server.service
                systemctl --user restart coditect-server.service
                say "installed and started: the service coditect-server"
            elif ! systemctl --user --quiet is-active coditect-server.service ||
                is_outdated coditect-server "$(systemctl --user show --property=MainPID --value coditect-server.service)"; then
                # It may have been taken from the manager by --no-service meanwhile.
                systemctl --user enable --quiet coditect-server.service
                systemctl --user restart coditect-server.service
                say "started again: the service coditect-server"
            else
                say "already running: the service coditect-server"
            fi ;;
        launchd)
            agent=$HOME/Library/LaunchAgents/ai.coditect.server.plist
            mkdir -p "$server_data/log"
            arguments="<string>--data-dir</string><string>$(xml_text "$server_data")</string>"
            arguments="$arguments<string>serve</string><string>--listen</string><string>$listen</string>"
            program=$(xml_text "$server") log=$(xml_text "$server_data/log/server.log") arguments=$arguments awk '
                function fill(mark, text,  at) {
                    at = index($0, mark)
                    if (at) $0 = substr($0, 1, at - 1) text substr($0, at + length(mark))
                }
                /@PROGRAM@/ { fill("@PROGRAM@", ENVIRON["program"]); print; next }
                /@LOG@/ { fill("@LOG@", ENVIRON["log"]); print; next }
                { fill("<string>serve</string>", ENVIRON["arguments"]); print }' \
                "$root/packaging/launchd/user/ai.coditect.server.plist" >"$scratch/unit"
            if put "$scratch/unit" 644 "$agent" || was_changed coditect-server; then
                launchctl bootout "gui/$(id -u)/ai.coditect.server" 2>/dev/null || true
                launchctl bootstrap "gui/$(id -u)" "$agent"
                say "installed and started: the agent ai.coditect.server"
            else
                say "already running: the agent ai.coditect.server"
            fi ;;
        *)
            # One that listens elsewhere was started with other options.
            if ! listens || is_outdated_detached coditect-server "$server_pid"; then stop_detached "$server_pid" "$server"; fi
            if is_running "$server_pid" "$server"; then
                say "already running: the server, on $url (process $(cat "$server_pid"))"
            else
                start_server_detached
            fi ;;
    esac
}

# A workstation that is on another server, or somebody else on this one, is left as it is.
if [ -f "$account" ] && ! grep -qF -e "\"$url\"" -e "\"$url/\"" "$account"; then
    fail "this workstation is logged in to another server (see \`coditect-sync status\`): use --home DIR for a second one"
fi

start_server
# A login with a token that is none is refused by a server that answers (4), and by nobody else (3).
takes_requests() {
    code=0
    printf 'none' | "$sync" --home "$scratch/nobody" login --server "$url" --token-stdin >/dev/null 2>&1 || code=$?
    [ "$code" -ne 3 ]
}
# A service manager may call it started before it is.
if [ "$manager" != none ]; then
    wait_for "the server" 600 takes_requests || fail "the server does not answer at $url"
fi

# The user of this machine is the user of its server.
who=$(id -un)
email=$(printf '%s' "$who" | tr -c 'A-Za-z0-9._+-' '-')@localhost
tenant=local

# A token of a minute, which nobody is handed, tells whether there is such a user.
is_user() { run_server token issue --user "$email" --tenant "$tenant" --ttl 1m >/dev/null 2>&1; }

if is_user; then
    say "already there: the tenant $tenant with the user $email"
else
    run_server tenant create "$tenant" >/dev/null 2>"$scratch/said" || grep -q 'exists already' "$scratch/said" ||
        { cat "$scratch/said" >&2; fail "the tenant could not be made"; }
    run_server user create "$email" --tenant "$tenant" --role owner >/dev/null 2>"$scratch/said" ||
        { cat "$scratch/said" >&2; fail "the user could not be made"; }
    say "made: the tenant $tenant with the user $email"
fi

# This workstation asks for a login and whoever has the server approves it, which is the same person here. Such a login
# renews itself.
code_of_login() { sed -n 's/.*"user_code":"\([A-Z-]*\)".*/\1/p' "$scratch/code"; }
asks_or_ended() { [ -n "$(code_of_login)" ] || ! lives "$login"; }
log_in() {
    run_sync login --server "$url" --yes --json "$@" >"$scratch/code" 2>"$scratch/said" </dev/null &
    login=$!
    wait_for "the code" 300 asks_or_ended || true
    code=$(code_of_login)
    if [ -n "$code" ] && ! run_server device approve "$code" --user "$email" --tenant "$tenant" >>"$scratch/said" 2>&1; then
        kill "$login" 2>/dev/null || true
    fi
    wait "$login"
}
renews_itself() { grep -q '"sign_in_device": *"' "$account" 2>/dev/null; }
if renews_itself && answers '"check":"token","level":"ok"'; then
    say "already logged in as $email"
elif log_in; then
    say "logged in as $email; the tokens are in the keyring"
elif grep -q "no keyring can be used here" "$scratch/said" && log_in --insecure-storage; then
    say "logged in as $email; there is no keyring, so the tokens are in $(path_of credentials), which only you can read"
else
    cat "$scratch/said" >&2
    fail "the login failed"
fi

run_sync config set ingest.claude_projects true | sed 's/^/settings: /'

case $manager in
    none)
        if is_outdated_detached coditect-sync "$sync_pid"; then stop_detached "$sync_pid" "$sync"; fi
        if is_running "$sync_pid" "$sync"; then
            say "already running: the daemon (process $(cat "$sync_pid"))"
        else
            start_sync_detached
        fi
        say "note: no service manager runs here, so that nothing starts them again after a restart of the machine;"
        say "      sh packaging/install.sh --local does" ;;
    *)
        renew_service coditect-sync
        run_sync service install ;;
esac
wait_for "the daemon" 300 run_sync status || fail "the daemon does not answer"

say ""
run_sync sync --wait --timeout 30s >/dev/null 2>&1 || true
run_sync status
