# Programs in the background, for install.sh and uninstall.sh: as services of the user where a service manager runs,
# else detached from the terminal, with a file that holds the process. Sourced by them, not run.

# Prints which manager of user services can be asked: systemd, launchd or none.
service_manager() {
    if [ "$(uname -s)" = Darwin ]; then
        echo launchd
    elif command -v systemctl >/dev/null 2>&1 && systemctl --user show-environment >/dev/null 2>&1; then
        echo systemd
    else
        echo none
    fi
}

# stop_services MANAGER: the services of this installation, for the two scripts that define run_sync and is_ours. Fails if
# there are some and their manager cannot be asked.
stop_services() {
    units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    agents=$HOME/Library/LaunchAgents
    has_server=no has_sync=no
    for unit in "$units/coditect-server.service" "$agents/ai.coditect.server.plist"; do
        if [ -f "$unit" ] && is_ours "$unit"; then has_server=yes; fi
    done
    if run_sync service status --json 2>/dev/null | tr -d ' \n' | grep -q '"is_this_program":true'; then has_sync=yes; fi
    # Without a manager this still removes the file.
    if [ "$has_sync" = yes ]; then run_sync service uninstall >/dev/null 2>&1 || true; fi
    [ "$has_server" = yes ] || [ "$has_sync" = yes ] || return 0
    case $1 in
        systemd) [ "$has_server" = no ] || systemctl --user disable --now --quiet coditect-server.service 2>/dev/null || true ;;
        launchd) [ "$has_server" = no ] || launchctl bootout "gui/$(id -u)/ai.coditect.server" 2>/dev/null || true ;;
        *)
            [ "$has_server" = no ] || rm -f "$units/default.target.wants/coditect-server.service"
            return 1 ;;
    esac
}

# lives PID: one that has ended but was not collected by its parent has no program any more (Linux) or is called Z.
lives() {
    if [ -e /proc/self/exe ]; then readlink "/proc/$1/exe" >/dev/null 2>&1; return; fi
    case $(ps -p "$1" -o stat= 2>/dev/null) in '' | Z*) return 1 ;; *) return 0 ;; esac
}

# runs_from PID PROGRAM: whether that process is that program, of which the file may have been replaced meanwhile. What
# stands among its arguments does not count: an editor may have the program's log open.
runs_from() {
    program=$2
    if folder_of=$(cd "$(dirname "$2")" 2>/dev/null && pwd -P); then program=$folder_of/${2##*/}; fi
    if [ -e /proc/self/exe ]; then
        case $(readlink "/proc/$1/exe" 2>/dev/null) in "$program" | "$program (deleted)") return 0 ;; *) return 1 ;; esac
    fi
    lives "$1" || return 1
    case $(ps -p "$1" -o args= 2>/dev/null) in "$2" | "$2 "* | "$program" | "$program "*) return 0 ;; *) return 1 ;; esac
}

# is_running PIDFILE PROGRAM: whether the process that the file names lives, and is that program: numbers are given out
# again.
is_running() { [ -s "$1" ] && runs_from "$(cat "$1")" "$2"; }

# start_detached PIDFILE LOG PROGRAM ARGUMENT…
start_detached() {
    pidfile=$1 log=$2
    shift 2
    rm -f "$pidfile"
    # Its own session, so that closing the terminal ends nothing. The file is written by the process itself, which then
    # becomes the program.
    if command -v setsid >/dev/null 2>&1; then detach="setsid"; else detach="nohup"; fi
    # shellcheck disable=SC2016 # the inner shell is the one to put in the values
    $detach sh -c 'umask 077; echo $$ >"$0"; log=$1; shift; exec "$@" >>"$log" 2>&1 </dev/null' \
        "$pidfile" "$log" "$@" </dev/null >/dev/null 2>&1 &
}

# stop_detached PIDFILE PROGRAM: asks, and after ten seconds insists. The server stops its PostgreSQL meanwhile. The program
# of another installation goes on, and keeps its file.
stop_detached() {
    if is_running "$1" "$2"; then
        pid=$(cat "$1")
        kill "$pid"
        tries=0
        while is_running "$1" "$2"; do
            tries=$((tries + 1))
            [ "$tries" -ne 100 ] || kill -9 "$pid" 2>/dev/null || true
            sleep 0.1
        done
        rm -f "$1"
    elif has_ended "$1"; then
        rm -f "$1"
    fi
}

# has_ended PIDFILE: it was started, and is gone again. A shell that is about to become the program is not.
has_ended() { [ -s "$1" ] && ! lives "$(cat "$1")"; }

# Nothing of this shell's environment may lead the programs elsewhere.
forget_environment() {
    for name in $(env | sed -n 's/^\(CODITECT_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
}

# wait_for WHAT TRIES COMMAND…: ten tries a second. WHAT is for whoever reads.
wait_for() {
    tries=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}
